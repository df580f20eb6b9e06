"""Comparison: the paired differences between two reports on the same points, layer by layer and class by class."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxconvex._internal import formats
from jaxconvex._internal.formats import Table, name_text, percent_text
from jaxconvex.evaluation.report import (
    FEW_FAILING,
    FEWEST_UNITS,
    Report,
    Row,
    check_settings,
    distinct,
    failing_pairs,
    row_key,
    select,
)
from jaxconvex.statistics.comparison import paired_difference

__all__ = ["Comparison", "Difference", "compare_reports", "difference_between", "difference_text", "read_comparison"]
__all__ += ["size_warnings"]

FORMAT, VERSION = "jaxconvex comparison", 1
SAME_NULL = 0.01  # difference of the scores under permuted labels that is none
NEAR_ONE = (
    0.97  # scores above which the paired interval covers in 98.7% of samples, not in 95%: tests/benchmarks/coverage.py
)


class Difference(NamedTuple):
    """The difference b - a of one score, with the paired jackknife interval; fractions, NaN where not defined."""

    kind: str
    layer: str
    layer_index: int
    labeling: str
    k: int | None
    level: str  # "class", "micro" or "macro"
    label: int | str | None
    score_a: float
    score_b: float
    difference: float
    se: float
    lower: float
    upper: float
    num_pairs_a: int
    num_pairs_b: int
    failing_a: int | None  # pairs that leave the class; None where not known
    failing_b: int | None
    num_points_a: int = 0
    num_points_b: int = 0
    null_a: float = math.nan  # the mean score under permuted labels
    null_b: float = math.nan

    @property
    def beyond_null(self) -> float:
        """The difference less that of the scores which permuted labels get: these depend on the sizes of classes."""
        return self.difference - (self.null_b - self.null_a)

    @property
    def few_failing(self) -> bool:
        """Whether nearly all pairs of both score 1, so that the counts say more than the interval."""
        counts = (self.failing_a, self.failing_b)
        return all(count is not None and count < FEW_FAILING for count in counts)


class Comparison(NamedTuple):
    """The differences, the settings (the two names, the confidence) and what both reports say of themselves."""

    rows: tuple[Difference, ...]
    settings: dict[str, Any]
    provenance: dict[str, Any]

    @property
    def names(self) -> tuple[str, str]:
        """The names of the two reports."""
        first, second = self.settings["names"]
        return first, second

    def to_json(self, path: str | os.PathLike[str]) -> Path:
        """The path, after writing everything to it as strict JSON (NaN: null), which `read_comparison` reads back."""
        entries = {"settings": self.settings, "provenance": self.provenance}
        return formats.write_file(path, formats.json_text(FORMAT, VERSION, self.rows, **entries))

    def to_csv(self, path: str | os.PathLike[str]) -> Path:
        """The path, after writing one line a difference to it. Raises OSError for a path that cannot be written."""
        return formats.write_file(path, formats.csv_text(Difference._fields, self.rows))

    def to_dataframe(self) -> Any:
        """A `pandas.DataFrame`, one line a difference. Needs pandas."""
        frame = formats.require("pandas").DataFrame(list(self.rows), columns=list(Difference._fields))
        return frame.astype({"k": "Int64", "label": object, "failing_a": "Int64", "failing_b": "Int64"})

    def tables(self, *, classes: bool = False) -> list[Table]:
        """One table for each kind, labeling and k: a line a layer and level, or, with `classes`, a layer and class.

        In percent. Where fewer than 10 pairs fail in both, the two counts stand beside the interval.
        """
        keys = list(dict.fromkeys((row.kind, row.labeling, row.k) for row in self.rows))
        return [_table(self, *key, classes=classes) for key in keys]

    def table(self, *, classes: bool = False, width: int | None = None) -> str:
        """The tables as text to print, with `classes` those of the classes after those of the layers. Needs rich."""
        tables = self.tables() + (self.tables(classes=True) if classes else [])
        return "\n\n".join(table.to_text(width) for table in tables)


def read_comparison(path: str | os.PathLike[str]) -> Comparison:
    """The comparison that `Comparison.to_json` wrote, equal to it field by field; errors as `read_report`'s."""
    rows, entries = formats.read_json(path, FORMAT, VERSION, Difference)
    settings, provenance = entries.get("settings"), entries.get("provenance")
    names = settings.get("names") if isinstance(settings, dict) else None
    if not isinstance(provenance, dict) or not isinstance(names, list) or list(map(type, names)) != [str, str]:
        raise ValueError(f"{path} must hold settings with two names, and provenance; got {settings!r}.")
    check_settings(path, entries["settings"])
    formats.has_checksum(path)
    return Comparison(rows, entries["settings"], provenance)


def compare_reports(
    a: Report, b: Report, *, names: Sequence[str] = ("a", "b"), confidence: float | None = None
) -> Comparison:
    """The paired differences b - a of every score that the two reports have in common.

    d = b - a, se(d)^2 = (g-1)/g sum_i (d_i - mean d)^2 over the g leave-a-group-out differences d_i, corrected by those
    without two groups, and the interval d +- t se(d), t with g - 1 degrees of freedom; near 0 and 1 another: see
    `paired_difference`. Both reports left out the same points, so what the two scores share of the sampling error cancels.

    Args:
        a, b: reports of the same points, in the same jackknife groups, with the same layers, labelings and k.
        names: what to call them in tables and figures.
        confidence: of the intervals, in (0, 1); None takes that of report a, 0.95 if it has none.

    Returns a Comparison with a row for every class, micro and macro score. A class that only one report has, and a
    score without replicates, has NaN where something is missing. The estimand is the difference at this number of
    points and these sizes of classes: where predicted classes differ in size, tables say so and show what is left of the
    difference beyond that of the nulls; `evaluate(class_size=...)` scores both on classes of one size.

    Raises ValueError if layers, labelings, kinds or k do not match, or if the groups are absent or are not the same.

    Source: delete-a-group jackknife, Kott 2001, "The delete-a-group jackknife", Journal of Official Statistics 17.
    """
    if len(names) != 2:
        raise ValueError(f"names must be two, one for each report; got {names!r}.")
    first, second = map(str, names)
    settled = a.settings.get("confidence", 0.95) if confidence is None else confidence
    for report, name in ((a, first), (b, second)):
        _check_rows(report, name)
    _check_layers(a, b, (first, second))
    _check_groups(a, b, (first, second))
    rows_a, rows_b = ({row_key(row): row for row in report.rows} for report in (a, b))
    keys = list(dict.fromkeys((*rows_a, *rows_b)))
    pairs = [(rows_a.get(key), rows_b.get(key)) for key in keys]
    failing = failing_pairs(a.rows), failing_pairs(b.rows)
    intervals = _intervals(pairs, settled)
    order = {layer: position for position, layer in enumerate(distinct(sorted(a.rows, key=_index), "layer"))}
    rows = tuple(
        Difference(
            *(key[0], key[1], order[key[1]], *key[2:]),
            *(math.nan if row is None else row.score for row in pair),
            *interval,
            *(0 if row is None else row.num_pairs for row in pair),
            *(counts.get(key) for counts in failing),
            *(0 if row is None else row.num_points for row in pair),
            *(math.nan if row is None else row.null_mean for row in pair),
        )
        for key, pair, interval in zip(keys, pairs, intervals, strict=True)
    )
    sizes = [report.settings.get("class_size") for report in (a, b)]
    if sizes[0] != sizes[1]:
        raise ValueError(f"both reports must be scored with one class_size; got {sizes[0]} and {sizes[1]}.")
    settings = {"names": [first, second], "confidence": settled, "class_size": sizes[0]}
    return Comparison(rows, settings, {"a": a.provenance, "b": b.provenance})


def _index(row: Row) -> int:
    return row.layer_index


def _check_rows(report: Report, name: str) -> None:
    """Raise ValueError for two rows of one score, and for numbers that no score has."""
    places: dict[tuple[Any, ...], int] = {}
    for number, row in enumerate(report.rows):
        first = places.setdefault(row_key(row), number)
        if first != number:
            raise ValueError(f"rows {first} and {number} of {name!r} are of one score, {row_key(row)}. Remove one.")
        wrong = {field: value for field in ("score", "inside") if abs((value := getattr(row, field)) - 0.5) > 0.51}
        wrong |= {field: value for field in ("num_pairs",) if not 0 <= (value := getattr(row, field)) < 2**63}
        if wrong:
            raise ValueError(f"row {number} of {name!r} holds {wrong}, which no score has. Score it again.")


def _check_layers(a: Report, b: Report, names: tuple[str, str]) -> None:
    scored = [{(row.kind, row.layer, row.labeling, row.k) for row in report.rows} for report in (a, b)]
    for mine, other, name in ((scored[0], scored[1], names[0]), (scored[1], scored[0], names[1])):
        alone = sorted(mine - other, key=str)
        if alone:
            kind, layer, labeling, k = alone[0]
            what = f"kind {kind!r}, layer {layer!r}, labeling {labeling!r}, k {k}"
            raise ValueError(
                f"the two reports must have the same kinds, layers, labelings and k; only {name!r} has {what} "
                f"({len(alone)} in all). Score both with the same settings and layer names."
            )


def _check_groups(a: Report, b: Report, names: tuple[str, str]) -> None:
    groups = [report.provenance.get("groups") for report in (a, b)]
    for report, recorded, name in zip((a, b), groups, names, strict=True):
        few = report.settings.get("groups")
        if few is not None and few < FEWEST_UNITS:
            raise ValueError(
                f"a paired comparison needs {FEWEST_UNITS} groups of points to leave out; those of {name!r} are of {few}. "
                "Sample more groups: more points of the same ones do not tell how others would differ."
            )
        if not recorded:
            raise ValueError(
                f"a paired comparison needs the jackknife of both reports; {name!r} has none (no groups in its "
                "provenance). Score it again with jackknife=True."
            )
    if groups[0] != groups[1]:
        raise ValueError(
            "a paired comparison needs both reports to leave out the same groups of points; those of "
            f"{names[0]!r} and {names[1]!r} differ. Score both on the same points in the same order, with the same key."
        )


def _intervals(pairs: Sequence[tuple[Row | None, Row | None]], confidence: float) -> list[tuple[float, ...]]:
    """Difference, standard error, lower and upper end for every pair of rows."""
    sides = [[pair[side] or Row("", "", 0, "", None, "", None) for pair in pairs] for side in (0, 1)]
    scores = [np.array([row.score for row in rows]) for rows in sides]
    units = [np.array([row.num_units or row.num_points for row in rows]) for rows in sides]
    replicates = _columns(sides, "replicates")
    joint = _columns(sides, "joint")
    paired = paired_difference(
        *scores,
        *replicates,
        joint=(joint[0], joint[1]) if len(joint[0]) >= len(replicates[0]) // 2 and len(replicates[0]) >= 4 else None,
        num_points=(units[0], units[1]),
        confidence=confidence,
    )
    few = np.minimum(*units) < FEWEST_UNITS
    shown = paired._replace(
        **{field: np.where(few, np.nan, getattr(paired, field)) for field in ("se", "lower", "upper")}
    )
    return [tuple(map(float, values)) for values in zip(*(np.asarray(field) for field in shown), strict=True)]


def difference_between(a: Row, b: Row, confidence: float = 0.95) -> tuple[float, float, float, float]:
    """The difference b - a of two scores on the same points, with its standard error and paired interval.

    >>> rows = [Row("graph", "1", 0, "digit", 10, "macro", None, score) for score in (0.5, 0.75)]
    >>> difference_between(*rows)
    (0.25, nan, nan, nan)
    """
    difference, error, lower, upper = _intervals([(a, b)], confidence)[0]
    return difference, error, lower, upper


def _columns(sides: Sequence[Sequence[Row]], field: str) -> list[np.ndarray]:
    """The replicates of both sides, a column a row of the report; nan where there are none."""
    lengths = {len(getattr(row, field)) for rows in sides for row in rows} - {0}
    if len(lengths) > 1:
        raise ValueError(f"the scores must all have one number of replicates; got {sorted(lengths)}. Score both again.")
    nothing = (math.nan,) * max(lengths, default=2 if field == "replicates" else 0)
    return [
        np.array([getattr(row, field) or nothing for row in rows]).reshape(len(rows), len(nothing)).T for rows in sides
    ]


def _table(comparison: Comparison, kind: str, labeling: str, k: int | None, *, classes: bool) -> Table:
    rows = [row for row in select(comparison, kind=kind, labeling=labeling) if row.k == k]
    shown = [row for row in rows if (row.level == "class") == classes]
    first, second = map(name_text, comparison.names)
    confidence = f"{100 * comparison.settings.get('confidence', 0.95):g}%"
    lines = tuple(
        (
            name_text(row.layer),
            name_text(row.label if classes else row.level),
            percent_text(row.score_a),
            percent_text(row.score_b),
            _signed(row.difference),
            _beside(row),
            _signed(row.beyond_null),
        )
        for row in shown
    )
    title = f"{kind.capitalize()} convexity, {second} minus {first}, labels {name_text(labeling)!r}"
    title += f", k = {k}" if k is not None else ""
    notes = f"In percent; in brackets the {confidence} interval of the paired jackknife"
    if comparison.settings.get("class_size"):
        notes += f"; each labeling scored on {comparison.settings['class_size']} points of each class"
    if any(row.few_failing for row in shown):
        notes += f"; below {FEW_FAILING} failing pairs in both, their counts beside it"
    if any(min(row.score_a, row.score_b) > NEAR_ONE and not math.isnan(row.lower) for row in shown):
        notes += f"; where both scores are above {100 * NEAR_ONE:.0f}, intervals are wider than need be"
    columns = ["layer", "class" if classes else "level", first, second, "difference", f"{confidence} interval"]
    if any(not math.isnan(row.beyond_null) for row in shown):
        columns.append("beyond null")
        notes += (
            "; beyond null: the difference less that of the mean scores under permuted labels, its interval as wide"
        )
    units = ("", "", "%", "%", *["points"] * 3)
    body = tuple(line[: len(columns)] for line in lines)
    return Table(title, tuple(columns), body, (*size_warnings(rows), notes + "."), 2, units[: len(columns)])


def size_warnings(rows: Sequence[Difference]) -> tuple[str, ...]:
    """That classes of one kind, labeling and k differ in size, if permuted labels would score otherwise for it."""
    differing = [
        row
        for row in rows
        if row.level == "class" and row.num_points_a != row.num_points_b
        if math.isnan(row.null_a) or math.isnan(row.null_b) or abs(row.null_b - row.null_a) > SAME_NULL
    ]
    if not differing or rows[0].kind != "graph":
        return ()
    worst = max(differing, key=lambda row: abs(row.num_points_b - row.num_points_a))
    least = min(min(row.num_points_a, row.num_points_b) for row in rows if row.level == "class")
    return (
        f"Warning: the classes of the two differ in size, {name_text(worst.label)!r} in {name_text(worst.layer)} has "
        f"{worst.num_points_a} and {worst.num_points_b} points. Scores depend on sizes, so that the differences are no "
        f"comparison of the two alone: score both with the same class size (--class-size {max(least, 2)} or more).",
    )


def difference_text(row: Difference) -> str:
    """The difference in percentage points with its interval, or, where few pairs fail, with their counts.

    >>> row = Difference("graph", "1", 0, "digit", 10, "macro", None, 0.5, 0.75, 0.25, 0.01, 0.2, 0.3, 9, 9, None, None)
    >>> difference_text(row)
    '+25.0 [+20.0, +30.0]'
    """
    return f"{_signed(row.difference)} {_beside(row)}".strip()


def _signed(fraction: float) -> str:
    return "–" if math.isnan(fraction) else f"{100 * fraction:+.1f}"


def _beside(row: Difference) -> str:
    interval = "" if math.isnan(row.lower) else f"[{_signed(row.lower)}, {_signed(row.upper)}]"
    return f"{interval} {row.failing_a} -> {row.failing_b} pairs fail".lstrip() if row.few_failing else interval
