"""Levels of labels: classes that lie in larger classes, as the tree with the scores of every level."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from jaxconvex._internal.formats import Table, name_text, percent_text
from jaxconvex.evaluation.rows import distinct
from jaxconvex.evaluation.table import interval_words
from jaxconvex.evaluation.why import losses_of

__all__ = ["parents_of", "tree_tables"]

INDENT = "\u2003"  # which a page does not drop


def parents_of(labelings: Mapping[str, Any], levels: Sequence[str]) -> list[dict[str, Any]]:
    """For each level and the next one above it in which class of that each class lies, as settings hold it.

    Args:
        labelings: each a `Labeling`; the first one is the lowest level.
        levels: the names of those above it, from fine to coarse.

    Raises ValueError for a name that is no labeling, and for a class that lies in several.

    >>> from jaxconvex.evaluation.labelings import encode
    >>> fine, coarse = encode(["cat", "cat", "dog"]), encode(["felid", "felid", "canid"])
    >>> parents_of({"fine": fine, "coarse": coarse}, ["coarse"])
    [{'labeling': 'fine', 'parents': 'coarse', 'of': [['cat', 'felid'], ['dog', 'canid']]}]
    """
    chain = [next(iter(labelings)), *levels]
    found = []
    for child, parent in pairwise(chain):
        if parent not in labelings or chain.count(parent) > 1:
            others = ", ".join(map(repr, list(labelings)[1:])) or "none"
            raise ValueError(
                f"parents must name labelings beside {chain[0]!r}, each once: there is {others}; got {parent!r}."
            )
        (codes, classes), (above, names) = labelings[child], labelings[parent]
        if codes.ndim > 1 or above.ndim > 1:
            raise ValueError(
                f"levels are of points of one class each; in {child!r} or {parent!r} a point may have several. Leave "
                "parents out: all are scored on their own."
            )
        of = []
        for code, label in enumerate(classes):
            held = np.unique(above[codes == code])
            if len(held) > 1:
                shown = " and ".join("background" if i < 0 else repr(names[i]) for i in held[:2])
                raise ValueError(
                    f"each class of {child!r} must lie in one class of {parent!r}; {label!r} lies in {shown}. Correct the "
                    "labels, or leave parents out: both are scored on their own."
                )
            if len(held) and held[0] >= 0:
                of.append([label, names[held[0]]])
        found.append({"labeling": child, "parents": parent, "of": of})
    return found


def tree_tables(report: Any) -> list[Table]:
    """For each k the tree of classes, the least convex first, with the scores of every level; none without levels."""
    levels = report.settings.get("parents") or []
    numbers = distinct((row for row in report.rows if row.kind == "graph"), "k") if levels else []
    return [_tree(report, levels, k) for k in numbers]


def _tree(report: Any, levels: Sequence[Mapping[str, Any]], k: int) -> Table:
    chain = [levels[-1]["parents"], *(level["labeling"] for level in reversed(levels))]  # from the root down
    rows = {
        (row.labeling, row.layer, row.label): row
        for row in report.rows
        if (row.kind, row.k, row.level) == ("graph", k, "class") and row.labeling in chain
    }
    means = [
        row for row in report.rows if (row.kind, row.k, row.level, row.labeling) == ("graph", k, "macro", chain[-1])
    ]
    best = max((row for row in means if not math.isnan(row.score)), key=lambda row: row.score, default=means[0]).layer
    layers = list(dict.fromkeys((means[0].layer, best, means[-1].layer)))
    children: dict[tuple[str, Any], list[Any]] = {}
    for level in levels:
        for child, parent in level["of"]:
            children.setdefault((level["parents"], parent), []).append(child)
    lost = {name: losses_of(report, name, k, best) for name in chain}
    body: list[tuple[str, ...]] = []

    def add(depth: int, labels: Sequence[Any], siblings: Sequence[Any]) -> None:
        name = chain[depth]
        known = [label for label in labels if (name, best, label) in rows]
        for label in sorted(known, key=lambda label: _rank(rows[name, best, label].score)):
            own = rows[name, best, label]
            scores = [_score(rows.get((name, layer, label))) for layer in layers]
            body.append(
                (INDENT * 2 * depth + name_text(label), str(own.num_points), *scores,
                 *_split(own, lost[name].get((best, label), ()), siblings if depth else ()))
            )  # fmt: skip
            if depth + 1 < len(chain):
                below = children.get((name, label), [])
                add(depth + 1, below, below)

    add(0, [label for name, layer, label in rows if (name, layer) == (chain[0], best)], ())
    told = bool(report.intrusions)
    columns = ("class", "points", *map(name_text, layers), *(("within", "beyond") if told else ()))
    cells = tuple(row if told else row[: len(columns)] for row in body)
    note = "Scores in percent, of the first layer, that of the highest mean and the last"
    if told:
        note += (
            f"; of what is lost in {name_text(best)}, in points: within, to classes of the same parent; beyond, to others, "
            "to background and to all that take too little to be told singly"
        )
    of = " in ".join(repr(name_text(name)) for name in reversed(chain))
    units = ("", "", *["%"] * len(layers), *(["points"] * 2 if told else []))
    return Table(f"Levels: labels {of}, k = {k}", columns, cells, (f"{note}.",), 1, units)


def _rank(score: float) -> float:
    return math.inf if math.isnan(score) else score


def _score(row: Any) -> str:
    return "–" if row is None else f"{percent_text(row.score)} {interval_words(row)}".strip()


def _split(row: Any, lost: Sequence[Any], siblings: Sequence[Any]) -> tuple[str, str]:
    """What the class loses to its siblings, and to all others; without a path is neither."""
    within = sum(each.lost for each in lost if each.what == "class" and each.intruder in siblings)
    apart = sum(each.lost for each in lost if each.what == "no path")
    return percent_text(within) if siblings else "–", percent_text(max(0.0, 1 - row.score - within - apart))
