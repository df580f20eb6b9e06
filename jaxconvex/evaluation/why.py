"""Why scores are not 1, in words and tables: what classes lose in a layer, where over the layers, and points to look at."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from jaxconvex._internal.formats import Table, name_text, percent_text
from jaxconvex.evaluation.intrusion_rows import NOTABLE, TOLD, IntrusionRow
from jaxconvex.evaluation.rows import distinct, select

__all__ = [
    "Course",
    "courses",
    "intruder_words",
    "losses_of",
    "losses_words",
    "told_layer",
    "untold_layers",
    "why_tables",
]

LARGEST = 3  # intruders of a class that words name
COURSES = 12  # intrusions whose course over the layers is told
PRINTED, FOREMOST = 20, 5  # classes, and points of either kind, that a terminal shows


class Course(NamedTuple):
    """How much a class loses to one intruder in every layer that was looked at, in the order of depth."""

    label: int | str
    intruder: str
    lost: tuple[float, ...]


def told_layer(report: Any, labeling: str, k: int) -> str | None:
    """The layer in which it is told what classes lose: of those looked at the one of the highest mean; None for none.

    >>> from jaxconvex.evaluation.report import Report, Row
    >>> rows = [Row("graph", f"layer {i}", i, "digit", 10, "macro", None, score=s) for i, s in enumerate((0.5, 0.75))]
    >>> told_layer(Report(tuple(rows), {}, {}, (IntrusionRow("layer 0", 0, "digit", 10, 7, "class", 1, 0.5),)), "digit", 10)
    'layer 0'
    """
    looked = {row.layer for row in report.intrusions if (row.labeling, row.k) == (labeling, k)}
    means = [
        row for row in report.rows if (row.kind, row.labeling, row.k, row.level) == ("graph", labeling, k, "macro")
    ]
    known = [row for row in means if row.layer in looked and not math.isnan(row.score)]
    return max(known, key=lambda row: row.score).layer if known else None


def untold_layers(report: Any, labeling: str, k: int) -> list[str]:
    """The layers whose classes lose something of which nothing is told: their paths are too long to look at them all."""
    told = {row.layer for row in report.intrusions if (row.labeling, row.k) == (labeling, k)}
    rows = [row for row in report.rows if (row.kind, row.labeling, row.k, row.level) == ("graph", labeling, k, "class")]
    return [layer for layer in distinct(rows, "layer") if layer not in told
            and any(row.score < 1 for row in rows if row.layer == layer)]  # fmt: skip


def losses_of(
    report: Any, labeling: str, k: int, layer: str | None = None
) -> dict[tuple[str, Any], list[IntrusionRow]]:
    """What each class loses, the largest first, by layer and class; of one layer, or of all."""
    found: dict[tuple[str, Any], list[IntrusionRow]] = {}
    for row in report.intrusions:
        if (row.labeling, row.k) == (labeling, k) and layer in (None, row.layer):
            found.setdefault((row.layer, row.label), []).append(row)
    return {key: sorted(rows, key=lambda row: -row.lost) for key, rows in found.items()}


def intruder_words(row: IntrusionRow) -> str:
    """Who takes what a class loses, by name.

    >>> intruder_words(IntrusionRow("layer 1", 0, "animal", 10, "cat", "rest", None, 0.01))
    'all others'
    """
    return name_text(row.intruder) if row.what == "class" else "all others" if row.what == "rest" else row.what


def losses_words(rows: Iterable[IntrusionRow]) -> str:
    """The three largest losses of a class to others, in percentage points of its score, and what has no path.

    >>> rows = [IntrusionRow("layer 1", 0, "animal", 10, "cat", *of) for of in
    ...         (("class", "dog", 0.12), ("class", "fox", 0.03), ("no path", None, 0.2))]
    >>> losses_words(rows)
    '12.0 to dog, 3.0 to fox'
    """
    taken = [row for row in rows if row.what in ("class", "background")][:LARGEST]
    return ", ".join(f"{percent_text(row.lost)} to {intruder_words(row)}" for row in taken)


def why_tables(report: Any, labeling: str, k: int, *, short: bool = False) -> list[Table]:
    """What classes lose, where over the layers, the points that others lose most to, the worst outliers, and pieces.

    Args:
        report: a Report.
        labeling, k: of which labels, and in which graph.
        short: tell only of the layer of the highest mean, and in it of the 20 classes that lose most and of 5 points of
            either kind: for a terminal.

    Empty where nothing was looked for, or nothing is lost.
    """
    layer = told_layer(report, labeling, k)
    if layer is None:
        return []
    tables = [_of_classes(report, labeling, k, layer if short else None)]
    if not short:
        tables += _over_layers(report, labeling, k)
    points = [row for row in report.points if (row.layer, row.labeling, row.k) == (layer, labeling, k)]
    return tables + [
        table
        for what in ("intruder", "outlier", "piece")
        if (table := _of_points(points, what, layer, FOREMOST if short else TOLD))
    ]


def _of_classes(report: Any, labeling: str, k: int, layer: str | None) -> Table:
    rows = [row for row in select(report, kind="graph", labeling=labeling, level="class") if row.k == k]
    shown = [row for row in rows if layer in (None, row.layer) and not math.isnan(row.score)]
    shown.sort(key=lambda row: (row.layer_index, row.score))
    losses = losses_of(report, labeling, k, layer)
    notes = [
        "In percentage points of the score: what paths between points of the class lose to points of others, and what pairs "
        "without a path lose. The score is what is left of 100"
    ]
    if layer is not None and len(shown) > PRINTED:
        notes.append(f"the {PRINTED} of {len(shown)} classes that lose most; the others are in the files")
        shown = shown[:PRINTED]
    untold = untold_layers(report, labeling, k)
    if untold:
        notes.append(
            f"not told of {', '.join(map(name_text, untold))}, whose paths are very long (why=True tells of them)"
        )
    body = []
    for row in shown:
        lost = losses.get((row.layer, row.label), ())
        apart = sum(each.lost for each in lost if each.what == "no path")
        cells = [name_text(row.label), losses_words(lost) or "–", percent_text(row.score), percent_text(1 - row.score)]
        body.append((*([] if layer else [name_text(row.layer)]), *cells, percent_text(apart)))
    names = ("class", "points lost") if layer else ("layer", "class", "points lost")
    title = f"What classes lose{f' in {name_text(layer)}' if layer else ''}, labels {name_text(labeling)!r}, k = {k}"
    units = ("",) * len(names) + ("%", "points", "points")
    return Table(title, (*names, "score", "lost", "no path"), tuple(body), (f"{'; '.join(notes)}.",), len(names), units)


# Over the layers ------------------------------------------------------------------------------------------------------


def courses(report: Any, labeling: str, k: int, most: int = COURSES) -> tuple[list[str], list[Course]]:
    """The layers that were looked at, and the courses of the intrusions that are the largest in some layer.

    What is told of no layer, since it is small there, is 0. Intrusions below one point everywhere are left out, and all
    where only one layer was looked at.
    """
    rows = [row for row in report.intrusions if (row.labeling, row.k) == (labeling, k)]
    layers = distinct(sorted(rows, key=lambda row: row.layer_index), "layer")
    lost: dict[tuple[Any, str, str], dict[str, float]] = {}
    for row in rows:
        if row.what in ("class", "background"):
            lost.setdefault((row.label, row.what, intruder_words(row)), {})[row.layer] = row.lost
    largest = sorted(lost.items(), key=lambda item: -max(item[1].values()))[: most if len(layers) > 1 else 0]
    return layers, [
        Course(label, intruder, tuple(of.get(layer, 0.0) for layer in layers))
        for (label, _, intruder), of in largest
        if max(of.values()) >= NOTABLE
    ]


def _over_layers(report: Any, labeling: str, k: int) -> list[Table]:
    layers, found = courses(report, labeling, k)
    body = []
    for label, intruder, lost in found:
        there = [place for place, share in enumerate(lost) if share >= NOTABLE]
        largest = max(there, key=lost.__getitem__)
        after = layers[there[-1] + 1] if there[-1] + 1 < len(layers) else None
        where = (layers[there[0]], layers[largest], after)
        cells = [
            name_text(label),
            intruder,
            *("not resolved" if layer is None else name_text(layer) for layer in where),
        ]
        body.append((*cells, percent_text(lost[largest]), percent_text(lost[-1])))
    columns = ("class", "loses to", "appears in", "largest in", "resolved in", "at most", "in the last layer")
    notes = (
        f"The {len(body)} intrusions that take most in some layer. One appears in the first layer where it takes a point or "
        "more, and is resolved in the layer from which on it takes less.",
    )
    title = "Where intrusions appear, and where they are resolved"
    return [Table(title, columns, tuple(body), notes, 5, ("",) * 5 + ("points", "points"))] if body else []


# Points ---------------------------------------------------------------------------------------------------------------


def _of_points(points: Sequence[Any], what: str, layer: str, most: int) -> Table | None:
    rows = [row for row in points if row.what == what][:most]
    if not rows:
        return None
    named = any(row.name is not None for row in rows)
    body = tuple(
        (*([name_text(row.name)] if named else []), "background" if row.label is None else name_text(row.label),
         str(row.point), percent_text(row.value, 2 if what == "intruder" else 1))
        for row in rows
    )  # fmt: skip
    value, title, unit, note = {
        "piece": ("size", "Pieces torn off their classes", "% of class", "A piece hangs together, but no edges between "
                  "points of its class join it to the largest one; its first point stands for it. Single points have none."),
        "intruder": ("taken", "Points that other classes lose most to", "points",
                     "What all other classes together lose to the point, in percentage points of their scores."),
        "outlier": ("score", "The worst outliers of their classes", "%", "The mean score of the point with all others of "
                    "its class."),
    }[what]  # fmt: skip
    names = ("name", "class") if named else ("class",)
    more = f"The {len(rows)} foremost; row 0 is the first of the data. "
    title = f"{title} in {name_text(layer)}"
    return Table(title, (*names, "row", value), body, (more + note,), len(names), ("",) * (len(names) + 1) + (unit,))
