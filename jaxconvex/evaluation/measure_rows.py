"""Measures beside convexity, as rows and tables of a report."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from jaxconvex._internal.formats import Table, name_text, number_text, percent_text
from jaxconvex.evaluation.rows import distinct

__all__ = ["MEASURES", "MeasureRow", "measure_tables"]


class Kind(NamedTuple):
    """How a measure is shown: its column, unit and what stands in the note."""

    column: str
    unit: str
    note: str


MEASURES = {
    "silhouette": Kind("silhouette", "", "silhouette: Euclidean, -1 to 1"),
    "knn_accuracy": Kind("kNN accuracy", "%", "kNN accuracy: the vote of the k neighbours, no point voting for itself"),
    "label_overlap": Kind("label overlap", "%", "label overlap: the share of neighbours of the same class"),
    "linear_probe": Kind("linear probe", "%", "linear probe: accuracy on a fifth left out in turn, groups whole"),
    "neural_collapse": Kind(
        "NC1", "", "NC1: scatter within classes over that between them, 0 where classes are points"
    ),
    "intrinsic_dimension": Kind("dimension", "", "dimension: TwoNN, with its interval"),
    "cka": Kind("CKA", "", "CKA, mutual kNN: likeness to the layer before"),
    "mutual_knn": Kind("mutual kNN", "%", "CKA, mutual kNN: likeness to the layer before"),
}


class MeasureRow(NamedTuple):
    """One measure of a layer, of all its points or of those of one class (the mean over them)."""

    layer: str
    layer_index: int
    labeling: str | None  # None for measures that know no labels
    k: int | None  # None for measures that are not of the neighbours that were scored
    measure: str  # the name of the public function
    level: str  # "all" or "class"
    label: int | str | None  # the class; None for all
    value: float
    lower: float = math.nan  # of the interval, where there is one
    upper: float = math.nan


def measure_tables(report: Any) -> list[Table]:
    """For each labeling a table with a line a layer: the graph convexity, and the measures beside it.

    >>> from jaxconvex.evaluation.report import Report
    >>> row = MeasureRow("layer 1", 0, "digit", 10, "knn_accuracy", "all", None, 0.975)
    >>> measure_tables(Report((), {}, {}, measures=(row,)))[0].rows
    (('layer 1', '97.5'),)
    """
    rows = [row for row in report.measures if row.level == "all"]
    labelings = [name for name in distinct(rows, "labeling") if name is not None] or [None][: len(rows)]
    return [_of_labeling(report, rows, labeling) for labeling in labelings]


def _of_labeling(report: Any, rows: list[MeasureRow], labeling: str | None) -> Table:
    own = [row for row in rows if row.labeling in (labeling, None)]
    several = len({row.k for row in own if row.k is not None}) > 1
    cells: dict[str, dict[str, str]] = {}
    units: dict[str, str] = {}
    macro = [
        row for row in report.rows if (row.kind, row.level) == ("graph", "macro") and labeling in (row.labeling, None)
    ]
    macro = [row for row in macro if row.k == macro[0].k and row.labeling == macro[0].labeling]
    for row in macro:
        cells.setdefault("convexity", {})[row.layer] = percent_text(row.score)
        units["convexity"] = "%"
    for row in own:
        kind = MEASURES[row.measure]
        column = f"{kind.column}, k = {row.k}" if several and row.k is not None else kind.column
        units[column] = kind.unit
        cells.setdefault(column, {})[row.layer] = _value(row, kind.unit)
    layers = distinct(sorted(own, key=lambda row: row.layer_index), "layer")
    body = tuple((name_text(layer), *(of.get(layer, "–") for of in cells.values())) for layer in layers)
    notes = dict.fromkeys(MEASURES[row.measure].note for row in own)
    about = f", labels {name_text(labeling)!r}" if labeling is not None else ""
    at = f"convexity: macro graph score, k = {macro[0].k}" if macro else ""
    note = "; ".join([*filter(None, [at]), *notes, "only the dimension has an interval"])
    return Table(
        f"Measures beside convexity{about}", ("layer", *cells), body, (f"{note[0].upper()}{note[1:]}.",), 1,
        ("", *(units[column] for column in cells)),
    )  # fmt: skip


def _value(row: MeasureRow, unit: str) -> str:
    if unit == "%":
        return percent_text(row.value)
    interval = "" if math.isnan(row.lower) else f" [{number_text(row.lower)}, {number_text(row.upper)}]"
    return number_text(row.value) + interval
