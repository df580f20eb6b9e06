"""From the scores of one layer to the rows of a report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from jaxconvex.evaluation.labelings import AnyLabeling, exclusive, members, recall
from jaxconvex.evaluation.rows import FEWEST_UNITS, Row, too_few
from jaxconvex.scores.aggregates import ConvexityScore, Score
from jaxconvex.statistics.intervals import Interval
from jaxconvex.statistics.permutation import Null, NullScore, null_of_macro
from jaxconvex.statistics.resampling import JackknifeScore, jackknifed, stacked

__all__ = ["Without", "score_rows"]

# The scores without each group of points, and without each two groups; both empty without a jackknife.
Without = tuple[list[Score], list[Score]]

SHARES = ("adjacent", "disconnected", "inside")
ERRORS = ("sem_paper", "se_pairs", "se_sources")


def score_rows(
    score: Score,
    without: Without,
    labelings: Mapping[str, AnyLabeling],
    common: Mapping[str, Any],
    *,
    units: Int[np.ndarray, " n"],
    null: NullScore | None = None,
    cosine: ConvexityScore | None = None,
    expected: Float[np.ndarray, " c"] | None = None,
    confidence: float = 0.95,
) -> list[Row]:
    """A row for each class, then the rows "micro" and "macro"; layer and index are left to the caller.

    Args:
        score: of the classes of labelings[common["labeling"]].
        without: the replicates of the jackknife.
        labelings: the main one first; with one named "predicted" both get recalls.
        common: the fields that all rows share: kind, labeling, k, and hubness for graphs.
        units: of which sampled unit each point is; a number of its own where points were sampled one by one.
        null: the permutation null.
        cosine: the same score by the neighbours of the cosine metric.
        expected: where there is none, the expected scores of classes under random labels, for its mean.
        confidence: of the intervals.

    Shares of an aggregate are shares of all pairs. Its closed-form errors combine those of the classes as if the classes
    were independent. With a jackknife "macro" is over the classes that keep two points in every replicate; a class of
    fewer than 6 units has no interval, and none that would tell nothing is given.
    """
    labeling = labelings[common["labeling"]]
    recalls, accuracy = _recalls(labelings, common["labeling"])
    number = len(labeling.classes)

    def units_of(classes: np.ndarray) -> int:
        return len(np.unique(units[members(labeling, classes)]))

    num_units = np.array([units_of(np.arange(number) == c) for c in range(number)])
    singly, joint = (stacked(part, score) for part in without)
    kept, found = jackknifed(score, singly, joint, units_of, num_points=num_units, confidence=confidence)
    apart = np.concatenate([np.atleast_2d(_field(each, "disconnected")) for each in (score, singly, joint)])
    per_class = {
        **{field: _field(score, field) for field in (*SHARES, *ERRORS, "nonadjacent")},
        **_interval(found.per_class, num_units),
        **_null(null.per_class if null else None, expected, number),
        "recall": recalls,
        "cut_off": np.fmax.reduce(apart) if without[0] else np.full(number, np.nan),
    }
    per_class["cosine"] = np.full(number, np.nan) if cosine is None else np.asarray(cosine.per_class)
    rows = [
        _row(
            common,
            {field: values[c] for field, values in per_class.items()},
            level="class",
            label=name,
            num_points=int(score.num_points[c]),
            num_units=int(num_units[c]),
            num_pairs=int(score.num_pairs[c]),
            num_sources=int(_field(score, "num_sources", 0)[c]),
            **_replicates(found, "per_class", c),
        )
        for c, name in enumerate(labeling.classes)
    ]
    scored = score.num_pairs > 0
    of_kept = null_of_macro(null, kept, found.macro.estimate, confidence) if null else None
    expected = np.full(number, np.nan) if expected is None else expected
    means = _mean(expected, score.num_pairs), _mean(expected, kept)
    hits = accuracy, _mean(recalls, kept & ~np.isnan(recalls))
    angles = np.nan if cosine is None else cosine.micro, _mean(per_class["cosine"], kept)
    nulls = null.micro if null else None, of_kept
    for level, classes, of_level, mean, hit, angle in zip(
        ("micro", "macro"), (scored, kept), nulls, means, hits, angles, strict=True
    ):
        whole = units_of(classes)
        fields = _interval(getattr(found, level), whole) | _null(of_level, mean) | {"recall": hit, "cosine": angle}
        fields["cut_off"] = np.max(per_class["cut_off"][classes], initial=0) if without[0] else np.nan
        sizes = {"num_units": whole, "num_points": int(members(labeling, classes).sum())}
        rows.append(_aggregate(score, classes, common, fields, level, **sizes, **_replicates(found, level)))
    return rows


def _aggregate(
    score: Score,
    classes: np.ndarray,
    common: Mapping[str, Any],
    fields: dict[str, Any],
    level: str,
    **more: Any,
) -> Row:
    """The row of these classes together."""
    pairs = np.where(classes, score.num_pairs, 0).astype(float)
    apart = pairs * (1 - np.nan_to_num(_field(score, "adjacent")))
    weights, of_apart = pairs / max(pairs.sum(), 1), apart
    if level == "macro":
        weights, of_apart = classes / max(classes.sum(), 1), apart > 0
    means = {field: _mean(_field(score, field), weights) for field in SHARES}
    means["nonadjacent"] = _mean(_field(score, "nonadjacent"), of_apart)
    means |= {field: np.sqrt(np.sum(np.where(classes, _field(score, field) * weights, 0) ** 2)) for field in ERRORS}
    return _row(
        common,
        means | fields,
        level=level,
        label=None,
        num_pairs=int(pairs.sum()),
        num_sources=int(_field(score, "num_sources", 0)[classes].sum()),
        **more,
    )


def _field(score: Score, name: str, absent: float = np.nan) -> np.ndarray:
    """A field of the score, or what stands for one that scores of its kind do not have."""
    return np.asarray(getattr(score, name, np.full(score.per_class.shape, absent)))


def _row(common: Mapping[str, Any], values: Mapping[str, Any], **more: Any) -> Row:
    numbers: dict[str, Any] = {field: float(value) for field, value in values.items()}
    row = Row(**common, **numbers, layer="", layer_index=0, **more)
    return row._replace(lower=float("nan"), upper=float("nan")) if too_few(row) else row


def _interval(interval: Interval, num_units: Any) -> dict[str, Any]:
    few = np.asarray(num_units) < FEWEST_UNITS
    values = interval.estimate, *(np.where(few, np.nan, value) for value in interval[1:])
    return dict(zip(("score", "se_jackknife", "lower", "upper"), values, strict=True))


def _replicates(found: JackknifeScore, level: str, *places: int) -> dict[str, tuple[float, ...]]:
    parts = (getattr(part, level)[:, *places] for part in (found.replicates, found.joint))
    return {name: tuple(map(float, values)) for name, values in zip(("replicates", "joint"), parts, strict=True)}


def _null(null: Null | None, expected: Any, *shape: int) -> dict[str, Any]:
    values = (
        null[:4] if null else (np.full(shape, np.nan) if expected is None else expected, *np.full((3, *shape), np.nan))
    )
    return dict(zip(("null_mean", "null_lower", "null_upper", "p_value"), values, strict=True))


def _recalls(labelings: Mapping[str, AnyLabeling], name: str) -> tuple[np.ndarray, float]:
    """Recall of each class and accuracy, for the main labeling and its predictions; nan for others."""
    main = next(iter(labelings))
    truth, predicted = (exclusive(labelings).get(each) for each in (main, "predicted"))
    if main == "predicted" or truth is None or predicted is None or name not in (main, "predicted"):
        return np.full(len(labelings[name].classes), np.nan), np.nan
    known = truth.codes >= 0
    return recall(truth, predicted), float(np.mean(truth.codes[known] == predicted.codes[known]))


def _mean(values: np.ndarray, weights: np.ndarray) -> float:
    """The mean by weights over the values that are defined; nan if there is none."""
    weights = np.where(np.isnan(values), 0, weights)
    return float(np.sum(np.nan_to_num(values) * weights) / weights.sum()) if weights.sum() > 0 else np.nan
