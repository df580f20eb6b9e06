"""The printed tables of a report: scores with their intervals, and notes on what would mislead."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxconvex._internal import formats
from jaxconvex._internal.formats import Table, interval_text, name_text, percent_text
from jaxconvex._internal.messages import listed
from jaxconvex.evaluation.rows import (
    FEW_APART,
    FEW_FAILING,
    FEWEST_UNITS,
    WIDEST,
    Row,
    failing_pairs,
    pairs_apart,
    row_key,
    select,
    too_few,
)

__all__ = ["HUBS", "hub_words", "interval_words", "left_out_words", "limits", "report_table"]

HUBS = 3.0  # hubness above which tables warn
UNITS = dict.fromkeys(("micro", "macro", "score", "recall", "cosine", "adjacent", "no path", "null"), "%")
LEVEL = 0.05  # of which the notes on p-values speak


def interval_words(row: Row) -> str:
    """The interval in brackets; or "too few", and of what, where there is none, or one that tells next to nothing.

    There is none where some replicates lack the class, where it has too few units, and where it would tell nothing
    (`too_few`).

    >>> interval_words(Row("graph", "1", 0, "digit", 10, "class", "seven", 0.5, 0.2, 0.01, 0.99, num_points=7, num_pairs=21))
    '(too few: 7 points)'
    """
    if math.isnan(row.lower) and (not row.replicates or math.isnan(row.score)):
        return ""
    units = row.num_units or row.num_points
    if units >= FEWEST_UNITS and pairs_apart(row) < FEW_APART:
        return f"(too few: {pairs_apart(row)} pairs apart)"
    if math.isnan(row.lower) or too_few(row):
        return f"(too few: {units} {'points' if units == row.num_points else 'groups'})"
    return interval_text(row.lower, row.upper)


def hub_words(row: Row) -> str:
    """A sentence on a layer with hubs; empty below a hubness of `HUBS`."""
    if not row.hubness > HUBS:
        return ""
    text = f"{name_text(row.layer)}: hubness {row.hubness:.1f} (above {HUBS:g}), so that a few points decide the paths; one "
    text += f"is a neighbour of {row.hub} others"
    return text + (f"; by the cosine metric {percent_text(row.cosine)}" if not math.isnan(row.cosine) else "")


def left_out_words(left_out: Mapping[str, str]) -> str:
    """Which layers have no Euclidean score, and why, in a sentence; each reason once.

    >>> left_out_words({"a": "it has no logits", "b": "it has no logits"})
    "no Euclidean score of 'a', 'b': it has no logits"
    """
    layers: dict[str, list[str]] = {}
    for layer, reason in left_out.items():
        layers.setdefault(reason.rstrip("."), []).append(layer)
    return "; ".join(f"no Euclidean score of {listed(names, most=5)}: {reason}" for reason, names in layers.items())


def report_table(report: Any, kind: str, labeling: str, k: int | None, *, classes: bool) -> Table:
    """A line a layer, or with `classes` a line a layer and class; columns of which nothing is known are left out."""
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
        unseen = {} if micro else failing  # both have the same pairs
        columns["macro"] = [_score_text(macro.get(row.layer), unseen) for row in shown]
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
    units = tuple(UNITS.get(name.removeprefix(of), "") for name in columns)
    return Table(
        title, tuple(columns), body, _notes(report, shown, failing, columns, classes), 2 if classes else 1, units
    )


def _score_text(row: Row | None, failing: dict[tuple[Any, ...], int]) -> str:
    if row is None:
        return "–"
    count = failing.get(row_key(row), FEW_FAILING)
    parts = [percent_text(row.score), interval_words(row)]
    if row.cut_off > 0 and interval_words(row).startswith("["):
        parts.append("?")
    if count < FEW_FAILING:
        parts.append(f"({count} of {row.num_pairs} fail)")
    return " ".join(part for part in parts if part)


def _notes(report: Any, shown: Sequence[Row], failing: dict, columns: Iterable[str], classes: bool) -> tuple[str, ...]:
    parts = ["Scores and shares in percent"]
    if any(not math.isnan(row.lower) for row in shown):
        what = "interval of the jackknife of whole groups" if report.settings.get("groups") else "jackknife interval"
        parts.append(f"in brackets the {100 * report.settings.get('confidence', 0.95):g}% {what}")
    if {row.labeling for row in shown} & set(report.settings.get("overlapping", ())):
        parts.append("a point may have several of these labels or none, so that classes share points")
    if any(failing.get(row_key(row), FEW_FAILING) < FEW_FAILING for row in shown):
        parts.append(f"below {FEW_FAILING} failing pairs their count beside it")
    if report.settings.get("class_size"):
        parts.append(f"each labeling scored on {report.settings['class_size']} points of each class")
    if any(interval_words(row).startswith("(") for row in shown):
        what = "groups" if report.settings.get("groups") else "points"
        parts.append(
            f"too few: fewer than {FEWEST_UNITS} {what}, or fewer than two points without some of them, fewer than "
            f"{FEW_APART} pairs that are no neighbours, or ends more than {100 * WIDEST:.0f} points apart"
        )
    if any(column.endswith("null") for column in columns):
        parts.append("null: the mean " + ("" if classes else f"{shown[0].level} ") + "score under permuted labels")
    parts += _of_p_values(report, shown) if {"p", "macro p", "micro p"} & set(columns) else []
    drawn = [
        row for row in shown if row.level != "class" and row.kind == "graph" and 0 < row.num_sources < row.num_points
    ]
    if drawn:
        parts.append(
            f"scored from {drawn[0].num_sources} of {drawn[0].num_points} points, drawn (se_sources: the error of that, "
            "approximately: too small where few of them reach a rare part of a class)"
        )
    return ("; ".join(parts) + ".", *(f"{text}." for text in limits(report, shown)))


def limits(report: Any, rows: Sequence[Row]) -> list[str]:
    """What would mislead in the rows of one table: intervals that do not hold, classes left out, hubs, ties."""
    groups, parts = report.settings.get("groups"), []
    if groups is not None and groups < FEWEST_UNITS:
        parts.append(f"no intervals, since the points are of {groups} groups and {FEWEST_UNITS} are needed")
    if rows and rows[0].kind == "graph" and report.settings.get("left_out"):
        parts.append(left_out_words(report.settings["left_out"]))
    cut = max((row for row in rows if row.cut_off > 0), key=lambda row: row.cut_off, default=None)
    if cut is not None:
        parts.append(
            "do not rely on intervals marked ?: a class is in pieces or hangs together by a few points, and up to "
            f"{percent_text(cut.cut_off)}% of its pairs have no path, or none when some points are left out ({cut.layer})"
        )
    of_all = [row for row in rows if row.level != "class"]
    left = {row.label: row.num_points for row in report.rows if of_all and _left_of_macro(row, of_all[0])}
    if left:
        names = ", ".join(f"{name_text(label)} ({points} points)" for label, points in list(left.items())[:5])
        more = f" and {len(left) - 5} more" if len(left) > 5 else ""
        parts.append(f"macro leaves out classes that lose their pairs when points are left out: {names}{more}")
    parts += [text for row in of_all if (text := hub_words(row))]
    for tied in sorted((row for row in rows if row.tied), key=lambda row: -row.tied)[:1]:
        parts.append(
            f"{tied.layer}: beyond the k={tied.k} neighbours of {tied.tied} points others are exactly as near as the last; "
            "those of the lowest rows are taken, so the score depends on the order of the rows"
        )
    return parts


def _left_of_macro(row: Row, aggregate: Row) -> bool:
    """Whether the row is of a class in the table of the aggregate that has a score, but not in every replicate."""
    same = row.level == "class" and (row.kind, row.labeling, row.k) == (aggregate.kind, aggregate.labeling, aggregate.k)
    return same and not math.isnan(row.score) and any(map(math.isnan, (*row.replicates, *row.joint)))


def _of_p_values(report: Any, shown: Sequence[Row]) -> list[str]:
    """Notes on p-values: how many there are, how small they can be, that they know no groups."""
    number, drawn = sum(not math.isnan(row.p_value) for row in shown), report.settings.get("permutations") or 0
    parts = []
    if report.settings.get("p_values") == "holm":
        parts.append(f"p: adjusted by Holm for all {number} of the table")
    elif number > 1:
        chance = 100 * (1 - (1 - LEVEL) ** number)
        parts.append(
            f"p: of each alone; of {number} true nulls some p is below {LEVEL} in up to {chance:.0f}% of cases; --holm, or "
            "Report.adjusted, adjusts for that"
        )
    if drawn and number / (1 + drawn) > LEVEL:
        needed = math.ceil(number / LEVEL) - 1
        parts.append(f"{drawn} permutations leave no adjusted p below {LEVEL}: that takes {needed}")
    if report.settings.get("groups"):
        parts.append("p takes the points for independent, though they are of groups: it may be far too small")
    return parts
