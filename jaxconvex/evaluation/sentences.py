"""What a report or a comparison found, in a few plain sentences with their numbers, and what would mislead."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from jaxconvex._internal.formats import name_text, percent_text
from jaxconvex.evaluation.comparison import Comparison, Difference, difference_between, difference_text, size_warnings
from jaxconvex.evaluation.report import Report
from jaxconvex.evaluation.rows import Row, distinct, select
from jaxconvex.evaluation.table import interval_words, limits
from jaxconvex.evaluation.why import losses_of, losses_words

__all__ = ["Findings", "findings"]


class Findings(NamedTuple):
    """At most five sentences on what was found, and one for everything that would mislead."""

    sentences: tuple[str, ...]
    warnings: tuple[str, ...]


def findings(
    result: Report | Comparison, *, labeling: str | None = None, reports: Mapping[str, Report] | None = None
) -> Findings:
    """What a report or a comparison found in its macro scores, or micro where there are no others.

    Of several labelings and k the first of each is told, and said which. Intervals are those of the rows; a change from
    layer to layer has the paired one. What has no interval is told without one, and a warning says why.

    Args:
        result: a Report or a Comparison.
        labeling: of which it tells; None takes the first.
        reports: the two reports of a comparison by their names, whose warnings are said too.

    >>> rows = [Row("graph", f"layer {i}", i, "digit", 10, "macro", None, score=s) for i, s in enumerate((0.5, 0.75))]
    >>> said = findings(Report(tuple(rows), {}, {})).sentences
    >>> said[1]
    'Graph convexity, mean of the classes, is highest in layer 1, 75.0 percent, and lowest in layer 0, 50.0 percent.'
    """
    if not result.rows:
        return Findings(("There is nothing to tell: no layer was scored.",), ())
    labeling = labeling or result.rows[0].labeling
    rows = [row for row in select(result, labeling=labeling) if row.k in (_first_k(result), None)]
    if isinstance(result, Report):
        return _of_report(result, labeling, rows)
    found, beside = _of_comparison(result, labeling, rows), (reports or {}).items()
    warnings = [f"{name}: {text}" for name, own in beside for text in findings(own, labeling=labeling).warnings]
    return found._replace(warnings=(*found.warnings, *warnings))


def _first_k(result: Report | Comparison) -> int | None:
    return next((row.k for row in result.rows if row.k is not None), None)


def _named(labeling: str, result: Report | Comparison) -> str:
    k, others = _first_k(result), len(distinct(result.rows, "labeling")) - 1
    text = f"labels {name_text(labeling)!r}" + (f", k = {k}" if k is not None else "")
    more = len([k for k in distinct(result.rows, "k") if k is not None]) - 1
    named = ((others, "labeling" if others == 1 else "labelings"), (more, "k"))
    beside = [f"{number} other {what}" for number, what in named if number > 0]
    return text + (f" ({' and '.join(beside)} below)" if beside else "")


def _aggregates(rows: Iterable[Any]) -> dict[str, list[Any]]:
    """The rows of each kind that are over all classes: macro, or micro where there are no others; those with a score."""
    rows, found = list(rows), {}
    for kind in distinct(rows, "kind"):
        levels = [[row for row in rows if (row.kind, row.level) == (kind, level)] for level in ("macro", "micro")]
        found[kind] = next(filter(None, levels), [])
    return found


# Reports --------------------------------------------------------------------------------------------------------------


def _of_report(report: Report, labeling: str, rows: Sequence[Row]) -> Findings:
    aggregates, classes = _aggregates(rows), [row for row in rows if row.level == "class"]
    points = report.settings.get("num_points_scored")
    points = points if isinstance(points, int) else 0
    size = f"{points:,} points in " if points else ""
    layers = len(distinct(rows, "layer"))
    said = [
        f"{size}{_counted(len(distinct(classes, 'label')), 'class', 'classes')}, {_counted(layers, 'layer', 'layers')}; "
        f"{_named(labeling, report)}. 100 percent is convex; brackets hold "
        f"{100 * report.settings.get('confidence', 0.95):g} percent intervals."
    ]
    for place, (kind, those) in enumerate(aggregates.items()):
        known = [row for row in those if not math.isnan(row.score)]
        if not known:
            continue
        said.append(_peak(kind, known))
        if place == 0:
            said += [
                *_change(known, report.settings.get("confidence", 0.95)),
                *_extremes(max(known, key=_score), classes, report),
            ]
    return Findings(tuple(said[:5]), tuple(_report_warnings(report, labeling, aggregates, classes)))


def _score(row: Row) -> float:
    return row.score


def _counted(number: int, one: str, several: str) -> str:
    return f"{number} {one if number == 1 else several}"


def _percent(row: Row) -> str:
    return f"{percent_text(row.score)} percent {interval_words(row)}".strip()


def _peak(kind: str, rows: Sequence[Row]) -> str:
    """Where the score is highest and lowest, and whether it lies above the permuted labels."""
    best, worst = max(rows, key=_score), min(rows, key=_score)
    mean = ", mean of the classes," if best.level == "macro" else ", mean of the pairs,"
    text = f"{kind.capitalize()} convexity{mean} is "
    if len(rows) == 1:
        text += f"{_percent(best)} in {name_text(best.layer)}"
    else:
        lowest = f"and lowest in {name_text(worst.layer)}, {_percent(worst)}"
        text += f"highest in {name_text(best.layer)}, {_percent(best)}, {lowest}"
    nulls = [row for row in rows if not math.isnan(row.null_upper)]
    if nulls:
        above = sum(row.score > row.null_upper for row in nulls)
        layers = f"{_counted(len(nulls), 'layer', 'layers')} {'lies' if above == 1 else 'lie'}"
        text += (
            f"; permuted labels get {percent_text(best.null_mean)} there, and {above} of {layers} above their interval"
        )
    return f"{text}."


def _change(rows: Sequence[Row], confidence: float) -> list[str]:
    """The paired change from the first layer to the last."""
    if len(rows) < 2:
        return []
    first, last = rows[0], rows[-1]
    change, _, lower, upper = difference_between(first, last, confidence)
    interval = "" if math.isnan(lower) else f" [{100 * lower:+.1f}, {100 * upper:+.1f}]"
    verdict = (
        "" if not interval else " (a rise)" if lower > 0 else " (a fall)" if upper < 0 else " (no change is shown)"
    )
    where = f"From {name_text(first.layer)}, the first layer, to {name_text(last.layer)}, the last, it changes by"
    return [f"{where} {100 * change:+.1f} points{interval}{verdict}."]


def _extremes(best: Row, classes: Sequence[Row], report: Report) -> list[str]:
    """The least and the most convex class of the layer where the mean is highest, and what the least loses to others."""
    those = [row for row in classes if (row.kind, row.layer) == (best.kind, best.layer) and not math.isnan(row.score)]
    if len(those) < 2:
        return []
    least, most = min(those, key=_score), max(those, key=_score)
    least_text, most_text = (f"{name_text(row.label)!r}, {_percent(row)}" for row in (least, most))
    if best.k is not None:  # of the Euclidean score it is not told
        lost = losses_words(losses_of(report, best.labeling, best.k, best.layer).get((best.layer, least.label), ()))
        least_text += f" (points lost: {lost})" if lost else ""
    return [f"In {name_text(best.layer)} the least convex class is {least_text}, the most convex {most_text}."]


def _report_warnings(
    report: Report, labeling: str, aggregates: dict[str, list[Row]], classes: Sequence[Row]
) -> Iterable[str]:
    for kind, those in aggregates.items():
        for text in limits(report, those):
            yield f"{kind.capitalize()} convexity: {text}."
    few = [row for row in classes if interval_words(row).startswith("(too few")]
    if few:
        names = list(dict.fromkeys(name_text(row.label) for row in few))
        shown = ", ".join(map(repr, names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        number = len(distinct(classes, "label"))
        yield f"In some layer {len(names)} of {number} classes have too few points or pairs to tell an interval: {shown}."


# Comparisons ----------------------------------------------------------------------------------------------------------


def _of_comparison(comparison: Comparison, labeling: str, rows: Sequence[Difference]) -> Findings:
    first, second = map(name_text, comparison.names)
    confidence = f"{100 * comparison.settings.get('confidence', 0.95):g} percent"
    layers = _counted(len(distinct(rows, "layer")), "layer", "layers")
    said = [
        f"{second} minus {first} on the same points: {layers}; {_named(labeling, comparison)}. Differences are in "
        f"percentage points; brackets hold paired {confidence} intervals."
    ]
    warnings: list[str] = []
    for place, (kind, those) in enumerate(_aggregates(rows).items()):
        known = [row for row in those if not math.isnan(row.difference)]
        if not known:
            continue
        said += _differences(kind, known)
        if place == 0:
            said += _class_differences(max(known, key=_size), rows)
        sizes = size_warnings([row for row in rows if row.kind == kind])
        warnings += [f"{kind.capitalize()} convexity: {text.removeprefix('Warning: ')}" for text in sizes]
        few = [name_text(row.layer) for row in known if row.few_failing]
        if few:
            where = ", ".join(few) if len(few) <= 5 else f"{len(few)} of {len(known)} layers"
            warnings.append(
                f"{kind.capitalize()} convexity: nearly all pairs of both score 1 in {where}: no interval there."
            )
    return Findings(tuple(said[:5]), tuple(warnings))


def _size(row: Difference) -> float:
    return abs(row.difference)


def _differences(kind: str, rows: Sequence[Difference]) -> list[str]:
    above, below = sum(row.lower > 0 for row in rows), sum(row.upper < 0 for row in rows)
    largest = max(rows, key=_size)
    mean = "mean of the classes" if largest.level == "macro" else "mean of the pairs"
    scores = f"{percent_text(largest.score_a)} to {percent_text(largest.score_b)} percent"
    return [
        f"{kind.capitalize()} convexity, {mean}: the interval of the difference is above 0 in {above} of "
        f"{_counted(len(rows), 'layer', 'layers')}, below 0 in {below}. The largest is {difference_text(largest)} in "
        f"{name_text(largest.layer)} ({scores})."
    ]


def _class_differences(largest: Difference, rows: Sequence[Difference]) -> list[str]:
    """The classes of one layer that gain and lose most."""
    where = (largest.kind, largest.layer, "class")
    those = [row for row in rows if (row.kind, row.layer, row.level) == where and not math.isnan(row.difference)]
    if len(those) < 2:
        return []
    order = sorted(those, key=lambda row: row.difference)
    low, high = (f"{difference_text(row)} ({name_text(row.label)!r})" for row in (order[0], order[-1]))
    return [f"Of the classes there the highest difference is {high}, the lowest {low}."]
