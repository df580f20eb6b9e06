"""Measures beside convexity, of one layer: public functions on the points and neighbours that are scored."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from jaxconvex._internal.checks import one_of
from jaxconvex.evaluation.labelings import Labeling, exclusive
from jaxconvex.evaluation.layer_scores import Seen
from jaxconvex.evaluation.measure_rows import MEASURES, MeasureRow
from jaxconvex.evaluation.settings import Settings
from jaxconvex.neighbors.knn import knn_graph
from jaxconvex.statistics.geometry import cka, intrinsic_dimension, mutual_knn
from jaxconvex.statistics.labelled import knn_accuracy, label_overlap, linear_probe, neural_collapse, silhouette

__all__ = ["BETWEEN", "asked_measures", "measured"]

OF_NEIGHBOURS = {"knn_accuracy": knn_accuracy, "label_overlap": label_overlap}
BETWEEN = ("cka", "mutual_knn")


def asked_measures(measures: str | Sequence[str], settings: Settings) -> tuple[str, ...]:
    """The measures by name, each once. Raises ValueError for others, and for a dimension by a metric it is not made for.

    >>> from jaxconvex.evaluation.evaluation import evaluate
    >>> report = evaluate({"a": np.eye(6)[:, :3]}, [0, 0, 0, 1, 1, 1], k=2, measures="label_overlap", progress=False)
    >>> [(row.level, row.label) for row in report.measures]
    [('all', None), ('class', 0), ('class', 1)]
    """
    asked = (measures,) if isinstance(measures, str) else tuple(dict.fromkeys(measures))
    for name in asked:
        one_of(name, tuple(MEASURES), "a measure")
    if "intrinsic_dimension" in asked and settings.metric != "euclidean":
        raise ValueError(
            "intrinsic_dimension needs Euclidean neighbours, whose balls grow as r^d: leave it out, or metric= out."
        )
    return asked


def measured(measures: Sequence[str], seen: Seen, settings: Settings, before: Any) -> list[MeasureRow]:
    """The rows of the measures of one graph; those that are not of its neighbours with the first k only.

    Args:
        measures: as `asked_measures` gives them.
        seen: the graph, its points and labels.
        settings: of which the metric and k.
        before: the points of the layer before, the same ones; None for the first layer.
    """
    rows: list[MeasureRow] = []
    labelings = exclusive(seen.labelings)
    first, alone = seen.k == settings.k[0], next(iter(labelings), None) if seen.taken is not None else None
    for name in measures:
        if name in OF_NEIGHBOURS:
            for labeling, own in labelings.items():
                rows += _of_points(OF_NEIGHBOURS[name](seen.nearest, own.codes), own, (labeling, seen.k, name))
        elif name == "mutual_knn" and before is not None:
            shared = mutual_knn(seen.nearest, knn_graph(before, k=seen.k, metric=settings.metric))
            rows.append(_row((alone, seen.k, name), float(np.nanmean(shared))))
        elif name == "cka" and first and before is not None:
            rows.append(_row((alone, None, name), cka(seen.points, before)))
        elif name == "intrinsic_dimension" and first:
            nearest = seen.nearest if seen.k > 1 else knn_graph(seen.points, k=2)
            found = intrinsic_dimension(nearest, confidence=settings.confidence)
            rows.append(_row((alone, None, name), *map(float, (found.estimate, found.lower, found.upper))))
        elif name not in BETWEEN and first:
            for labeling, own in labelings.items():
                rows += _of_layer(name, seen, own, (labeling, None, name))
    return rows


def _of_layer(name: str, seen: Seen, labeling: Labeling, where: tuple[str | None, int | None, str]) -> list[MeasureRow]:
    """The rows of a measure of all points of classes; none where there are fewer than two classes."""
    known = labeling.codes >= 0
    points, codes = np.asarray(seen.points)[known], labeling.codes[known]
    if len(np.unique(codes)) < 2:
        return []
    if name == "neural_collapse":
        return [_row(where, neural_collapse(points, codes))]
    values = np.full(len(known), np.nan)
    values[known] = silhouette(points, codes) if name == "silhouette" else _left_out(points, codes, seen.parts[known])
    return _of_points(values, labeling, where)


def _left_out(points: np.ndarray, codes: Int[np.ndarray, " n"], parts: Int[np.ndarray, " n"]) -> np.ndarray:
    """1 for each point that a probe on the other fifths tells right, 0 for others."""
    right, fifth = np.full(len(codes), np.nan), np.unique(parts // 2, return_inverse=True)[1]
    for number in range(fifth.max() + 1 if fifth.any() else 0):
        out = fifth == number
        told = linear_probe(points[~out], codes[~out], points[out], int(codes.max()) + 1)
        right[out] = told == codes[out]
    return right


def _of_points(values: np.ndarray, labeling: Labeling, where: tuple[str | None, int | None, str]) -> list[MeasureRow]:
    """The mean over all points that have a value, and over those of each class."""
    there = np.isfinite(values)

    def mean(kept: np.ndarray) -> float:
        return float(values[kept].mean()) if kept.any() else math.nan

    classes = [
        _row(where, mean(there & (labeling.codes == code)), level="class", label=label)
        for code, label in enumerate(labeling.classes)
    ]
    return [_row(where, mean(there & (labeling.codes >= 0))), *classes]


def _row(
    where: tuple[str | None, int | None, str],
    value: float,
    lower: float = math.nan,
    upper: float = math.nan,
    *,
    level: str = "all",
    label: int | str | None = None,
) -> MeasureRow:
    labeling, k, measure = where
    return MeasureRow("", 0, labeling, k, measure, level, label, value, lower, upper)
