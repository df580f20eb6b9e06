"""One score as plain data, and how to find it among the rows of a report or of a comparison."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

__all__ = [
    "FEWEST_UNITS",
    "FEW_APART",
    "FEW_FAILING",
    "Row",
    "class_means",
    "distinct",
    "failing_pairs",
    "only",
    "pairs_apart",
    "row_key",
    "select",
    "too_few",
]

# Below this many failing pairs no interval covers at its nominal level, so the count is shown in its place.
FEW_FAILING = 10


# With fewer units (points, or groups of points sampled together) than this the jackknife has nothing to go by.
FEWEST_UNITS = 6

# Below this many pairs that are no neighbours, and beyond this width, an interval tells nothing.
FEW_APART, WIDEST = 10, 0.9


class Row(NamedTuple):
    """One score: of a class, or of all (level "micro": the mean over pairs; "macro": the mean over classes).

    Scores, errors and shares are fractions in [0, 1]; NaN stands for what is not defined or was not asked for.
    """

    kind: str  # "graph" or "euclidean"
    layer: str
    layer_index: int
    labeling: str
    k: int | None  # None for the Euclidean score
    level: str  # "class", "micro" or "macro"
    label: int | str | None  # the class as the user named it; None for micro and macro
    score: float = math.nan
    se_jackknife: float = math.nan
    lower: float = math.nan  # of the jackknife interval
    upper: float = math.nan
    sem_paper: float = math.nan
    se_pairs: float = math.nan
    se_sources: float = math.nan  # of drawing the sources: 0 where all pairs are scored
    num_points: int = 0
    num_units: int = 0  # that were sampled: the groups, or the points where there are none
    num_pairs: int = 0
    num_sources: int = 0
    adjacent: float = math.nan
    disconnected: float = math.nan
    cut_off: float = math.nan  # the largest share of pairs without a path, also with some of the points left out
    inside: float = math.nan
    nonadjacent: float = math.nan
    null_mean: float = math.nan
    null_lower: float = math.nan
    null_upper: float = math.nan
    p_value: float = math.nan
    recall: float = math.nan
    hubness: float = math.nan  # skewness of how often points are neighbours; above 3 a few points decide the paths
    hub: int = 0  # points that have the most frequent neighbour among theirs
    cosine: float = math.nan  # the same score by the neighbours of the cosine metric, where the metric is Euclidean
    tied: int = 0  # points beyond whose k-th neighbour others are exactly as near, so that the order of rows decides
    replicates: tuple[float, ...] = ()  # the score with one group of points left out, group by group
    joint: tuple[float, ...] = ()  # the same with two groups left out


def pairs_apart(row: Row) -> int:
    """The number of pairs that are no neighbours; of all pairs where that is not known, as of segments."""
    return row.num_pairs if math.isnan(row.adjacent) else round((1 - row.adjacent) * row.num_pairs)


def too_few(row: Row) -> bool:
    """Whether an interval tells nothing: of fewer than `FEW_APART` pairs that are no neighbours, or wider than `WIDEST`.

    >>> too_few(Row("graph", "1", 0, "digit", 10, "class", 7, 0.5, lower=0.01, upper=0.99, num_pairs=21))
    True
    """
    return pairs_apart(row) < FEW_APART or row.upper - row.lower > WIDEST


def row_key(row: Any) -> tuple[Any, ...]:
    """What tells a row from all others of its report: kind, layer, labeling, k, level, label."""
    return (row.kind, row.layer, row.labeling, row.k, row.level, row.label)


def distinct(rows: Iterable[Any], field: str) -> list[Any]:
    """The values of the field, each once, in the order of the rows."""
    return list(dict.fromkeys(getattr(row, field) for row in rows))


def select(
    report: Any,
    *,
    kind: str | None = None,
    labeling: str | None = None,
    k: int | None = None,
    level: str | None = None,
    layer: str | None = None,
) -> list[Any]:
    """The rows (of a Report or a Comparison) that have the values given, in the order of the layers.

    None takes all. Raises ValueError for a value that no row has, naming those that there are.
    """
    rows = list(report.rows)
    criteria = {"kind": kind, "labeling": labeling, "k": k, "level": level, "layer": layer}
    for field, value in criteria.items():
        if value is not None:
            present = distinct(rows, field)
            if value not in present:
                raise ValueError(f"{field} must be one of {', '.join(map(repr, present))} here; got {value!r}.")
            rows = [row for row in rows if getattr(row, field) == value]
    return sorted(rows, key=lambda row: row.layer_index)


def only(
    report: Any, *, kind: str | None = None, labeling: str | None = None, k: int | None = None, level: str | None = None
) -> list[Any]:
    """The rows as by `select`, of one kind, one labeling and one k: what is left out must have one value in the report.

    `k` concerns the graph score only. Raises ValueError where there are several, naming them.
    """
    rows = select(report, kind=kind, labeling=labeling, level=level)
    for field in ("kind", "labeling"):
        _check_one(distinct(rows, field), field)
    if k is not None and rows and rows[0].k is not None:
        rows = select(report, kind=rows[0].kind, labeling=rows[0].labeling, k=k, level=level)
    _check_one(distinct(rows, "k"), "k")
    return rows


def _check_one(values: Sequence[Any], field: str) -> None:
    if len(values) > 1:
        raise ValueError(
            f"the report has several values of {field} ({', '.join(map(repr, values))}): choose one with {field}=."
        )


def class_means(
    report: Any, *, kind: str | None = None, labeling: str | None = None, k: int | None = None, field: str = "score"
) -> dict[int | str, float]:
    """The mean over layers of a field of every class's rows, by class: the convexity to set against recall.

    Layers where it is NaN are left out; NaN where all are. With `field="recall"` it gives the recall itself.
    Raises ValueError where the report has several kinds, labelings or k and none is named.

    >>> from jaxconvex.evaluation.report import Report
    >>> rows = tuple(Row("graph", f"layer {i}", i, "digit", 10, "class", 7, score=s) for i, s in enumerate((0.5, 1.0)))
    >>> class_means(Report(rows, {}, {}))
    {7: 0.75}
    """
    values: dict[int | str, list[float]] = {}
    for row in only(report, kind=kind, labeling=labeling, k=k, level="class"):
        values.setdefault(row.label, []).append(getattr(row, field))
    finite = {label: [value for value in of_layers if not math.isnan(value)] for label, of_layers in values.items()}
    return {label: math.fsum(kept) / len(kept) if kept else math.nan for label, kept in finite.items()}


def failing_pairs(rows: Iterable[Row]) -> dict[tuple[Any, ...], int]:
    """The number of pairs whose path or segment leaves the class, by `row_key`, where it is known.

    It is (1 - inside) num_pairs; the macro score's pairs are those of the micro score.
    """
    rows = list(rows)
    known = [row for row in rows if row.num_pairs and not math.isnan(row.inside)]
    counts = {row_key(row): round((1 - row.inside) * row.num_pairs) for row in known}
    micro = {row_key(row._replace(level="macro")): counts[row_key(row)] for row in known if row.level == "micro"}
    return counts | {row_key(row): micro[row_key(row)] for row in rows if row_key(row) in micro}
