"""Why scores are not 1, as rows of a report: what each class loses to others, and the points to look at first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

__all__ = ["IntrusionRow", "PointRow", "rows_of_intrusions"]

TOLD = 20  # points of either kind
MOST, NOTABLE, LEAST = (
    10,
    0.01,
    0.0005,
)  # intruders of a class: so many are told, and all that take as much; none with less


class IntrusionRow(NamedTuple):
    """What one class loses in a layer, and to what. Over the rows of a class in a layer, 1 - score is the sum of `lost`.

    Intruders that take little stand together, as "rest".
    """

    layer: str
    layer_index: int
    labeling: str
    k: int
    label: int | str
    what: str  # "class", "background", "no path" for pairs that no path joins, or "rest": all other classes together
    intruder: int | str | None  # the class; None where it is none
    lost: float  # a fraction in [0, 1]: the share of the way between points of the class that lies in the intruder


class PointRow(NamedTuple):
    """A point to look at: one that many paths of other classes run through, an outlier of its own class, or the first point
    of a piece, which no edges between points of the class join to its largest piece."""

    layer: str
    layer_index: int
    labeling: str
    k: int
    what: str  # "intruder", "outlier" or "piece"
    point: int  # the row in the data
    name: str | None
    label: int | str | None  # None for background
    # Of an intruder what other classes lose to it, in all; of an outlier its mean score with its partners; of a piece its
    # share of the points of the class.
    value: float


def rows_of_intrusions(
    found: Any, codes: np.ndarray, classes: Sequence[int | str], rows: np.ndarray, names: Any, where: Mapping[str, Any]
) -> tuple[list[IntrusionRow], list[PointRow]]:
    """The rows of one graph and labeling: of each class, and of each kind of points, the largest first.

    Args:
        found: its `Intrusions`.
        codes: the class of each point, -1 for background.
        classes: the names of the classes.
        rows: of each point the row in the data.
        names: what points are called, by row in the data; or None.
        where: layer, layer_index, labeling and k.
    """
    by_class, apart = (np.nan_to_num(np.asarray(part, np.float64)) for part in (found.by_class, found.disconnected))
    lost: list[IntrusionRow] = []
    for own, label in enumerate(classes):
        to = by_class[own, :-1]
        largest = np.argsort(-to, kind="stable")[: max(MOST, int(np.sum(to >= NOTABLE)))]
        told = largest[to[largest] >= LEAST]
        entries: list[tuple[str, Any, float]] = [("class", classes[other], to[other]) for other in told]
        entries += [
            ("rest", None, np.delete(to, told).sum()),
            ("background", None, by_class[own, -1]),
            ("no path", None, apart[own]),
        ]
        lost += [IntrusionRow(**where, label=label, what=what, intruder=intruder, lost=float(share))
                 for what, intruder, share in entries if share > 0]  # fmt: skip
    load, scores, shares = (
        np.asarray(part, np.float64) for part in (found.of_points, found.point_scores, _pieces(found, codes))
    )
    own_classes = [*classes, None]
    points = [
        PointRow(**where, what=what, point=int(rows[i]), name=None if names is None else str(names[rows[i]]),
                 label=own_classes[codes[i]], value=float(values[i]))
        for what, values, rank, known in (("intruder", load, -load, load > 0), ("outlier", scores, scores, scores < 1),
                                          ("piece", shares, -shares, shares > 0))
        for i in sorted(np.flatnonzero(known).tolist(), key=rank.__getitem__)[:TOLD]
    ]  # fmt: skip
    return lost, points


def _pieces(found: Any, codes: np.ndarray) -> np.ndarray:
    """At the first point of each piece its share of the class; 0 elsewhere, of the largest pieces, and of single points."""
    piece, size = np.asarray(found.piece_of), np.asarray(found.piece_sizes)
    first = np.zeros(len(codes), bool)
    first[np.unique(np.stack([codes, piece]), axis=1, return_index=True)[1]] = True
    of_class = np.bincount(codes + 1)[codes + 1]
    return np.where(first & (piece > 0) & (size > 1), size / of_class, 0)
