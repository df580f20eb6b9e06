"""Report: the scores of layers as plain data, with what is needed to read, repeat and compare them."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxconvex import formats
from jaxconvex.formats import Table, interval_text, name_text, percent_text

__all__ = [
    "FEWEST_UNITS",
    "FEW_FAILING",
    "HUBS",
    "Report",
    "Row",
    "class_means",
    "distinct",
    "failing_pairs",
    "hub_words",
    "interval_words",
    "only",
    "read_report",
    "row_key",
]
__all__ += ["check_settings", "select"]

FORMAT, VERSION = "jaxconvex report", 1

# Below this many failing pairs no interval covers at its nominal level, so the count is shown in its place.
FEW_FAILING = 10


# With fewer units (points, or groups of points sampled together) than this the jackknife has nothing to go by.
FEWEST_UNITS = 6


FEW_APART = 10  # pairs that are no neighbours, below which a class has no interval
WIDEST = 0.9  # an interval that is wider tells nothing
HUBS = 3.0  # hubness above which tables warn


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


PRINTED = Row._fields[:-2]  # all but the replicates


class Report(NamedTuple):
    """The rows, the settings that made them and their provenance (versions, device, date, hashes of the input).

    >>> row = Row("graph", "layer 1", 0, "digit", 10, "class", "seven", score=0.875, num_points=4, num_pairs=6)
    >>> report = Report((row,), {"k": [10]}, {})
    >>> report.rows[0].score
    0.875
    """

    rows: tuple[Row, ...]
    settings: dict[str, Any]
    provenance: dict[str, Any]

    def to_json(self, path: str | os.PathLike[str]) -> Path:
        """The path, after writing everything to it as strict JSON that `read_report` reads back without loss.

        NaN is written as null. Settings and provenance may hold numbers, strings, lists and dicts; arrays and tuples in
        them become lists. Raises OSError for a path that cannot be written; the file is whole or untouched.
        """
        entries = {"settings": self.settings, "provenance": self.provenance}
        return formats.write_file(path, formats.json_text(FORMAT, VERSION, self.rows, **entries))

    def to_csv(self, path: str | os.PathLike[str]) -> Path:
        """The path, after writing one line a row to it; all fields but the replicates, which only JSON holds.

        NaN and None are empty. Raises OSError for a path that cannot be written; the file is whole or untouched.
        """
        return formats.write_file(path, formats.csv_text(PRINTED, self.rows))

    def to_dataframe(self) -> Any:
        """A `pandas.DataFrame`, one line a row; all fields but the replicates. Needs pandas."""
        pandas = formats.require("pandas")
        columns: dict[str, Any] = {field: [getattr(row, field) for row in self.rows] for field in PRINTED}
        frame = pandas.DataFrame(columns)
        frame["label"] = pandas.Series([row.label for row in self.rows], dtype=object)  # integers stay integers
        return frame.astype({"k": "Int64"})

    def tables(self, *, classes: bool = False) -> list[Table]:
        """One table for each kind, labeling and k: a line a layer or, with `classes`, a line a layer and class.

        Scores are in percent. Where fewer than 10 pairs fail, their count stands in place of the interval.
        """
        keys = list(dict.fromkeys((row.kind, row.labeling, row.k) for row in self.rows))
        return [_table(self, *key, classes=classes) for key in keys]

    def table(self, *, classes: bool = False, width: int | None = None) -> str:
        """The tables as text to print, with `classes` those of the classes after those of the layers. Needs rich."""
        tables = self.tables() + (self.tables(classes=True) if classes else [])
        return "\n\n".join(table.to_text(width) for table in tables)


def read_report(path: str | os.PathLike[str]) -> Report:
    """The report that `Report.to_json` wrote, equal to it field by field.

    Raises ValueError, naming the file and what came, for a file that is no report, was cut short, has another version or
    is not as it was written, by its checksum; OSError for one that cannot be read.
    """
    rows, entries = formats.read_json(path, FORMAT, VERSION, Row)
    if not all(isinstance(entries.get(name), dict) for name in ("settings", "provenance")):
        raise ValueError(
            f"{path} must hold settings and provenance beside the rows; got {', '.join(entries) or 'neither'}."
        )
    check_settings(path, entries["settings"])
    formats.has_checksum(path)
    return Report(rows, entries["settings"], entries["provenance"])


def check_settings(path: str | os.PathLike[str], settings: dict[str, Any]) -> None:
    """Raises ValueError, naming the file, for settings of a report or a comparison that no table could show."""
    confidence = settings.get("confidence", 0.95)
    if isinstance(confidence, bool) or not isinstance(confidence, (int, float)) or not 0 < confidence < 1:
        raise ValueError(f"{path}: the confidence must be a number between 0 and 1; got {confidence!r}.")


# Reading rows -------------------------------------------------------------------------------------------------------


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
    wanted = {"kind": kind, "labeling": labeling, "k": k, "level": level, "layer": layer}
    for field, value in wanted.items():
        if value is not None:
            found = distinct(rows, field)
            if value not in found:
                raise ValueError(f"{field} must be one of {', '.join(map(repr, found))} here; got {value!r}.")
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


def _check_one(found: Sequence[Any], field: str) -> None:
    if len(found) > 1:
        raise ValueError(
            f"the report has several values of {field} ({', '.join(map(repr, found))}): choose one with {field}=."
        )


def class_means(
    report: Any, *, kind: str | None = None, labeling: str | None = None, k: int | None = None, field: str = "score"
) -> dict[int | str, float]:
    """The mean over layers of a field of every class's rows, by class: the convexity to set against recall.

    Layers where it is NaN are left out; NaN where all are. With `field="recall"` it gives the recall itself.
    Raises ValueError where the report has several kinds, labelings or k and none is named.

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


# The printed table --------------------------------------------------------------------------------------------------


def _table(report: Report, kind: str, labeling: str, k: int | None, *, classes: bool) -> Table:
    rows = [row for row in select(report, kind=kind, labeling=labeling) if row.k == k]
    failing = failing_pairs(rows)
    columns: dict[str, list[str]]
    if classes:
        shown = [row for row in rows if row.level == "class"]
        columns = {
            "layer": [name_text(row.layer) for row in shown],
            "class": [name_text(row.label) for row in shown],
            "score": [_score_text(row, failing) for row in shown],
            "points": [str(row.num_points) for row in shown],
            "recall": [percent_text(row.recall) for row in shown],
        }
    else:
        micro, macro = ({row.layer: row for row in rows if row.level == level} for level in ("micro", "macro"))
        shown = list((micro | macro).values())
        columns = {"layer": [name_text(row.layer) for row in shown]}
        columns["micro"] = [_score_text(micro.get(row.layer), failing) for row in shown]
        columns["macro"] = [_score_text(macro.get(row.layer), failing) for row in shown]
        columns["hubness"] = [formats.number_text(row.hubness, 2) for row in shown]
    of = "" if classes or not shown else f"{shown[0].level} "  # what stands in a row belongs to this aggregate
    columns[f"{of}cosine"] = [percent_text(row.cosine) for row in shown]
    columns["pairs"] = [str(row.num_pairs) for row in shown]
    columns["adjacent"] = [percent_text(row.adjacent) for row in shown]
    columns["no path"] = [percent_text(row.disconnected) for row in shown]
    columns[f"{of}null"] = [percent_text(row.null_mean) for row in shown]
    columns[f"{of}p"] = [formats.number_text(row.p_value) for row in shown]
    optional = ("recall", "hubness", "adjacent", "no path", f"{of}cosine", f"{of}null", f"{of}p")
    columns = {name: cells for name, cells in columns.items() if name not in optional or set(cells) - {"–"}}
    title = f"{kind.capitalize()} convexity, labels {name_text(labeling)!r}" + (f", k = {k}" if k is not None else "")
    body = tuple(zip(*columns.values(), strict=True))
    return Table(title, tuple(columns), body, _notes(report, shown, failing, columns, classes), 2 if classes else 1)


def _score_text(row: Row | None, failing: dict[tuple[Any, ...], int]) -> str:
    if row is None:
        return "–"
    count = failing.get(row_key(row), FEW_FAILING)
    beside = f"({count} of {row.num_pairs} fail)" if count < FEW_FAILING else interval_words(row)
    return f"{percent_text(row.score)} {beside}".rstrip()


def interval_words(row: Row) -> str:
    """The interval in brackets; or "too few", and of what, where it is not told or says next to nothing.

    It is not told below `FEWEST_UNITS` units or `FEW_APART` pairs that are no neighbours, nor if it is wider than `WIDEST`.

    >>> interval_words(Row("graph", "1", 0, "digit", 10, "class", "seven", 0.5, 0.2, 0.01, 0.99, num_points=7, num_pairs=21))
    '(too few: 7 points)'
    """
    if not row.replicates and math.isnan(row.lower):
        return ""
    units = row.num_units or row.num_points
    apart = row.num_pairs if math.isnan(row.adjacent) else round((1 - row.adjacent) * row.num_pairs)
    if units < FEWEST_UNITS or row.upper - row.lower > WIDEST:
        return f"(too few: {units} {'points' if units == row.num_points else 'groups'})"
    if apart < FEW_APART:
        return f"(too few: {apart} pairs apart)"
    return interval_text(row.lower, row.upper)


def hub_words(row: Row) -> str:
    """What is to be known of a layer with hubs, in a sentence; empty below a hubness of `HUBS`."""
    if not row.hubness > HUBS:
        return ""
    text = f"{name_text(row.layer)}: hubness {row.hubness:.1f} (above {HUBS:g}), so that a few points decide the paths; one "
    text += f"is a neighbour of {row.hub} others"
    return text + (f"; by the cosine metric {percent_text(row.cosine)}" if not math.isnan(row.cosine) else "")


def _notes(
    report: Report, shown: Sequence[Row], failing: dict, columns: Iterable[str], classes: bool
) -> tuple[str, ...]:
    parts = ["Scores and shares in percent"]
    if any(not math.isnan(row.lower) for row in shown):
        parts.append(f"in brackets the {100 * report.settings.get('confidence', 0.95):g}% jackknife interval")
    if any(failing.get(row_key(row), FEW_FAILING) < FEW_FAILING for row in shown):
        parts.append(f"below {FEW_FAILING} failing pairs their count in its place")
    if any("(too few" in cell for row in shown for cell in [interval_words(row)]):
        parts.append("too few: what there is does not tell an interval")
    if any(column.endswith("null") for column in columns):
        parts.append("null: the mean " + ("" if classes else f"{shown[0].level} ") + "score under permuted labels")
    parts += [text for row in shown if row.level != "class" and (text := hub_words(row))]
    for tied in sorted((row for row in shown if row.tied), key=lambda row: -row.tied)[:1]:
        parts.append(
            f"{tied.layer}: beyond the k={tied.k} neighbours of {tied.tied} points others are exactly as near as the last; "
            "those of the lowest rows are taken, so the score depends on the order of the rows"
        )
    drawn = [
        row for row in shown if row.level != "class" and row.kind == "graph" and 0 < row.num_sources < row.num_points
    ]
    if drawn:
        parts.append(
            f"scored from {drawn[0].num_sources} of {drawn[0].num_points} points, drawn (se_sources: the error of that)"
        )
    return ("; ".join(parts) + ".",)
