"""What the commands write: results and their figures, into a folder that is known to take them."""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxconvex.comparison import Comparison
from jaxconvex.kept import lock, sweep
from jaxconvex.report import Report, distinct

__all__ = ["CACHE", "RESULT", "output_folder", "write_comparison", "write_scores"]

RESULT, CACHE = "scores.json", ".cache"


@contextlib.contextmanager
def output_folder(path: Path) -> Iterator[Path]:
    """The folder, made if need be, seen to be writable and locked; removed again if nothing comes to be in it.

    Raises OSError that names it and says why nothing can be written there, as that another process works there.
    """
    made = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        _try_to_write(path)
        with lock(path):
            sweep(path / CACHE)
            yield path
    finally:
        with contextlib.suppress(OSError):  # not empty
            for folder in (path / CACHE, *made):
                if folder.is_dir():
                    folder.rmdir()


def _try_to_write(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(f"cannot write to the folder {path}: {reason}. Choose another with --out.") from error


def write_scores(report: Report, folder: Path) -> list[Path]:
    """The paths of scores.json, scores.csv and the figures of the report, after writing them."""
    from jaxconvex.plots import plot_classes, plot_profile, save_figure

    folder.mkdir(exist_ok=True)
    paths = [report.to_json(folder / RESULT), report.to_csv(folder / "scores.csv")]
    for suffix, chosen in _figures(report):
        paths += save_figure(plot_profile(report, **chosen), folder / f"profile{suffix}")
        paths += save_figure(plot_classes(report, **chosen), folder / f"classes{suffix}")
    return paths


def write_comparison(comparison: Comparison, reports: dict[str, Report], folder: Path) -> list[Path]:
    """The paths of comparison.json, comparison.csv and the figures, after writing them."""
    from jaxconvex.plots import plot_differences, plot_profile, save_figure

    paths = [comparison.to_json(folder / "comparison.json"), comparison.to_csv(folder / "comparison.csv")]
    for suffix, chosen in _figures(comparison):
        paths += save_figure(plot_differences(comparison, classes=True, **chosen), folder / f"comparison{suffix}")
        paths += save_figure(plot_profile(reports, **chosen), folder / f"profile{suffix}")
    return paths


def _figures(report: Report | Comparison) -> list[tuple[str, dict[str, Any]]]:
    """What tells the files of the figures apart, and what to draw in them: one for each labeling and k."""
    labelings = distinct(report.rows, "labeling")
    numbers = [k for k in distinct(report.rows, "k") if k is not None] or [None]
    return [
        (
            (f"-{re.sub(r'[^A-Za-z0-9_.]+', '-', labeling)}" if len(labelings) > 1 else "")
            + (f"-k{k}" if len(numbers) > 1 else ""),
            {"labeling": labeling, "k": k},
        )
        for labeling in labelings
        for k in numbers
    ]
