"""Rows of finished layers, kept in a folder under a name that tells what they depend on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxconvex._internal.checks import as_points
from jaxconvex._internal.formats import plain
from jaxconvex._internal.functions import as_program, program_hash
from jaxconvex._internal.kept import found as kept_whole
from jaxconvex._internal.kept import sealed, tell
from jaxconvex.evaluation.report import Report, read_report

__all__ = ["keep_rows", "kept_rows", "metric_hash", "place_of_rows", "setting_name"]


def setting_name(function: Any) -> Any:
    """A setting as a report holds it: of a function its name."""
    if not callable(function):
        return function
    return getattr(function, "__name__", None) or setting_name(getattr(function, "func", type(function)))


def metric_hash(metric: Any, points: np.ndarray, name: str) -> str | None:
    """What tells a metric from others: its name or, of a function, what it computes now on vectors of this length."""
    if not callable(metric):
        return metric
    point = as_points(points, name)[0]
    try:
        return program_hash(as_program(metric, point, point))
    except jax.errors.JAXTypeError as error:
        raise ValueError(
            f"metric must be a function of two vectors that JAX can trace: {setting_name(metric)} takes their values out of "
            "JAX. Write it with jax.numpy, without conditions on values."
        ) from error


def place_of_rows(
    cache: str | Path | None, identities: tuple[str | None, ...], common: Sequence[Any], what: str
) -> Path | None:
    """Where the rows are kept that depend on all this; None where nothing tells a part of it."""
    if cache is None:
        return None
    if None in identities:
        tell(f"Scores by {what} are not kept: it calls back into Python, and nothing tells what is computed there.")
        return None
    text = json.dumps(plain([*identities, *common]))
    return Path(cache) / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"


def kept_rows(path: Path | None) -> Report | None:
    """The rows kept at the path; None where there is no path, no file, or one that is not whole."""
    return None if path is None else kept_whole(path, _read)


def _read(path: Path) -> Report:
    report = read_report(sealed(path))
    if report.provenance.get("entry") != path.stem:
        raise ValueError(f"{path} holds the rows of {report.provenance.get('entry')}.")
    return report


def keep_rows(path: Path | None, report: Report) -> Report:
    """The report of a layer, after writing it to the path, for `kept_rows` to find.

    Nothing is written without a path, or in any process but the first.
    """
    if path is not None and jax.process_index() == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        report._replace(provenance={"entry": path.stem}).to_json(path)
    return report
