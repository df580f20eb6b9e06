"""What is told of each layer beside its scores: what they are lost to, which points to look at, other measures."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from jaxconvex._internal.kept import array_hash
from jaxconvex.evaluation.intrusion_rows import rows_of_intrusions
from jaxconvex.evaluation.label_values import label_array
from jaxconvex.evaluation.labelings import exclusive
from jaxconvex.evaluation.layer_scores import Seen
from jaxconvex.evaluation.measuring import BETWEEN, asked_measures, measured
from jaxconvex.evaluation.settings import Settings
from jaxconvex.paths.chains import is_long
from jaxconvex.scores.intrusions import graph_intrusions

__all__ = ["Beside", "beside_scores", "for_next", "identity_of", "tell"]

LOOKED_AT = 20_000  # points up to which it is told, without being asked for, what scores are lost to


class Beside(NamedTuple):
    """What is told, and of which points."""

    why: bool
    asked: bool  # whether it was asked for, and so is told of graphs of very long paths too
    rows: Int[np.ndarray, " chosen"]  # in the data, of the points scored
    names: np.ndarray | None  # of all points of the data
    measures: tuple[str, ...]
    settings: Settings


def beside_scores(names: Any, settings: Settings, chosen: np.ndarray, n: int) -> Beside:
    """What is told beside the scores of the chosen among n points; arguments as for `evaluate`.

    By default it is told why scores are not 1 where all pairs are scored, and where that does not take long. Raises
    ValueError for names that are not one a point, and measures that are none.
    """
    sampled = settings.max_pairs, settings.max_sources, settings.tolerance
    usual = len(chosen) <= LOOKED_AT and settings.protocol is None and all(each is None for each in sampled)
    called = None if names is None else label_array(names, "names").astype(str)
    if called is not None and len(called) != n:
        raise ValueError(f"names must hold one name a point, {n}; got {len(called)}.")
    asked, why = asked_measures(settings.measures, settings), settings.why
    return Beside(usual if why is None else why, why is True, chosen, called, asked, settings)


def identity_of(beside: Beside, before: Any) -> list[str]:
    """What a finished layer depends on through this; `before` are the points of the layer before."""
    names = "" if beside.names is None else array_hash(beside.names)
    why = [f"why {beside.asked}", array_hash(beside.rows), names] if beside.why else []
    return [*why, *beside.measures, *([] if before is None else [array_hash(before)])]


def for_next(beside: Beside, points: np.ndarray) -> np.ndarray | None:
    """The points of a layer, where a measure of the next one asks for them; else None, and their memory is free."""
    return points if set(BETWEEN) & set(beside.measures) else None


def tell(beside: Beside, before: Any, told: dict[str, list[Any]], seen: Seen) -> None:
    """Add the rows of one graph of a layer to `told`, by their field of the report; rows name no layer.

    Nothing is told of concepts that overlap.
    """
    if beside.measures:
        same = before if before is None or seen.taken is None else before[seen.taken]
        told.setdefault("measures", []).extend(measured(beside.measures, seen, beside.settings, same))
    if not beside.why or (is_long(seen.packed) and not beside.asked):
        return
    for name, (codes, classes) in exclusive(seen.labelings).items():
        found = graph_intrusions(seen.packed, jnp.asarray(codes, jnp.int32), num_classes=len(classes))
        where = {"layer": "", "layer_index": 0, "labeling": name, "k": seen.k}
        rows = beside.rows if seen.taken is None else beside.rows[seen.taken]
        lost, points = rows_of_intrusions(found, codes, classes, rows, beside.names, where)
        told.setdefault("intrusions", []).extend(lost)
        told.setdefault("points", []).extend(points)
