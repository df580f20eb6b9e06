"""From the scores of one layer to the rows of a report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxconvex.labelings import Labeling, recall
from jaxconvex.permutation import Null, NullScore
from jaxconvex.report import Row
from jaxconvex.scores import ConvexityScore
from jaxconvex.statistics import Interval, score_interval

__all__ = ["Replicates", "score_rows"]

# The scores without each group of points, and without each two groups; both empty without a jackknife.
Replicates = tuple[list[ConvexityScore], list[ConvexityScore]]

SHARES = ("adjacent", "disconnected", "inside")
ERRORS = ("sem_paper", "se_pairs", "se_sources")


def score_rows(
    score: ConvexityScore,
    without: Replicates,
    labelings: Mapping[str, Labeling],
    common: Mapping[str, Any],
    *,
    null: NullScore | None = None,
    confidence: float = 0.95,
) -> list[Row]:
    """A row for each class, then the rows "micro" and "macro"; layer and index are left to the caller.

    Args:
        score: of the classes of labelings[common["labeling"]].
        without: the replicates of the jackknife.
        labelings: the main one first; with one named "predicted" both get recalls.
        common: the fields that all rows share: kind, labeling, k, and hubness for graphs.
        null: the permutation null.
        confidence: of the intervals.

    Shares of an aggregate are shares of all pairs. Its closed-form errors combine those of the classes as if the classes
    were independent.
    """
    names = labelings[common["labeling"]].classes
    recalls, accuracy = _recalls(labelings, common["labeling"])
    pairs = score.num_pairs.astype(float)
    scored = pairs > 0
    points = int(score.num_points[scored].sum())

    per_class = {
        **{field: getattr(score, field) for field in (*SHARES, *ERRORS, "nonadjacent")},
        **_interval(score.per_class, without, "per_class", score.num_points, confidence),
        **_null(null.per_class if null else None, len(names)),
        "recall": recalls,
    }
    rows = [
        _row(
            common,
            {field: values[c] for field, values in per_class.items()},
            level="class",
            label=name,
            num_points=int(score.num_points[c]),
            num_pairs=int(score.num_pairs[c]),
            num_sources=int(score.num_sources[c]),
            replicates=tuple(float(r.per_class[c]) for r in without[0]),
        )
        for c, name in enumerate(names)
    ]
    of_pairs = pairs / max(pairs.sum(), 1)
    apart = pairs * (1 - np.nan_to_num(score.adjacent))
    for level, weights, of_apart, part, hit in (
        ("micro", of_pairs, apart, null.micro if null else None, accuracy),
        (
            "macro",
            scored / max(scored.sum(), 1),
            apart > 0,
            null.macro if null else None,
            _mean(recalls, ~np.isnan(recalls)),
        ),
    ):
        values = {
            **{field: _mean(getattr(score, field), of_pairs) for field in SHARES},
            **{field: np.sqrt(np.sum(np.where(scored, getattr(score, field) * weights, 0) ** 2)) for field in ERRORS},
            "nonadjacent": _mean(score.nonadjacent, of_apart),
            **_interval(getattr(score, level), without, level, points, confidence),
            **_null(part),
            "recall": hit,
        }
        rows.append(
            _row(
                common,
                values,
                level=level,
                label=None,
                num_points=points,
                num_pairs=int(pairs.sum()),
                num_sources=int(score.num_sources[scored].sum()),
                replicates=tuple(float(getattr(r, level)) for r in without[0]),
            )
        )
    return rows


def _row(common: Mapping[str, Any], values: Mapping[str, Any], **more: Any) -> Row:
    numbers: dict[str, Any] = {field: float(value) for field, value in values.items()}
    return Row(**common, **numbers, layer="", layer_index=0, **more)


def _interval(score: Any, without: Replicates, name: str, num_points: Any, confidence: float) -> dict[str, Any]:
    interval = Interval(np.asarray(score), *(np.full(np.shape(score), np.nan) for _ in range(3)))
    one, two = (np.array([getattr(r, name) for r in replicates]) for replicates in without)
    if len(one) > 1:
        joint = two if len(one) >= 4 else None
        interval = score_interval(score, one, num_points, joint=joint, confidence=confidence)
    return dict(zip(("score", "se_jackknife", "lower", "upper"), interval, strict=True))


def _null(null: Null | None, *shape: int) -> dict[str, Any]:
    values = null[:4] if null else np.full((4, *shape), np.nan)
    return dict(zip(("null_mean", "null_lower", "null_upper", "p_value"), values, strict=True))


def _recalls(labelings: Mapping[str, Labeling], name: str) -> tuple[np.ndarray, float]:
    """Recall of each class and accuracy, for the main labeling and its predictions; nan for others."""
    main = next(iter(labelings))
    if "predicted" not in labelings or name not in (main, "predicted"):
        return np.full(len(labelings[name].classes), np.nan), np.nan
    truth, predicted = labelings[main], labelings["predicted"]
    known = truth.codes >= 0
    return recall(truth, predicted), float(np.mean(truth.codes[known] == predicted.codes[known]))


def _mean(values: np.ndarray, weights: np.ndarray) -> float:
    """The mean by weights over the values that are defined; nan if there is none."""
    weights = np.where(np.isnan(values), 0, weights)
    return float(np.sum(np.nan_to_num(values) * weights) / weights.sum()) if weights.sum() > 0 else np.nan
