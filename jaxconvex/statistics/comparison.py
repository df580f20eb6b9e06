"""Comparisons of scores: paired differences, the peak layer, p-values adjusted for their number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Int

from jaxconvex.statistics.intervals import Interval, jackknife, score_interval, upper_level

__all__ = ["Peak", "holm", "paired_difference", "peak_layer"]


class Peak(NamedTuple):
    """The layer with the largest estimate, the first and last candidate, and which layers are candidates."""

    layer: int
    lower: int
    upper: int
    candidates: Bool[np.ndarray, " l"]


def paired_difference(
    estimate_a: Float[ArrayLike, " ..."],
    estimate_b: Float[ArrayLike, " ..."],
    replicates_a: Float[ArrayLike, "g ..."],
    replicates_b: Float[ArrayLike, "g ..."],
    *,
    joint: tuple[Float[ArrayLike, "h ..."], Float[ArrayLike, "h ..."]] | None = None,
    num_points: tuple[Int[ArrayLike, " ..."], Int[ArrayLike, " ..."]] | None = None,
    confidence: float = 0.95,
) -> Interval:
    """The difference b - a of two scores on the same points, with the jackknife interval of the differences.

    Args:
        estimate_a, estimate_b: two layers, or two models, of any shape.
        replicates_a, replicates_b: their values without each group, with the *same* groups in the same order.
        joint: the same of both without two groups at a time, for the correction of `jackknife`.
        num_points: of both, as for `score_interval`; says that a and b are scores in [0, 1].
        confidence: between 0 and 1.

    What the two share, the difficult points above all, cancels, so this is far narrower than two separate intervals
    suggest when the scores go up and down together.

    Near 0 and 1 differences are skewed. With num_points, where the symmetric interval of a or of b leaves [0, 1], the
    interval is made of the `score_interval` of each: with l = b - lower_b and u = upper_a - a, the lower end is
    d - sqrt(l^2 - 2 r l u + u^2), r being the correlation of the replicates; the upper end likewise.

    Measured (tests/benchmarks/coverage.py): with joint and num_points, nominal 95% intervals cover in 93% to 98% of
    samples in the middle, and in 95% to 100% near 1; the symmetric one alone in as few as 86% there.

    Raises:
        ValueError: shapes that differ or do not fit, confidence outside (0, 1).

    >>> a, b = np.array([0.50, 0.52, 0.54]), np.array([0.60, 0.61, 0.65])
    >>> difference = paired_difference(0.52, 0.62, a, b)
    >>> round(float(difference.estimate), 3), round(float(difference.se), 4)
    (0.1, 0.0115)

    Source of the combination: Zou and Donner, Statistics in Medicine 27:1693, 2008.
    """
    shapes = [np.shape(value) for value in (estimate_a, estimate_b, replicates_a, replicates_b)]
    if shapes[0] != shapes[1] or shapes[2] != shapes[3]:
        raise ValueError(
            f"a and b must have one shape, and replicates of the same groups; got {shapes[0]} and {shapes[1]} "
            f"with replicates {shapes[2]} and {shapes[3]}. Score both on the same points with the same groups."
        )
    estimates, replicates = (
        [np.asarray(value, np.float64) for value in pair]
        for pair in ((estimate_a, estimate_b), (replicates_a, replicates_b))
    )
    joints = None if joint is None else [np.asarray(value, np.float64) for value in joint]
    between = None if joints is None else joints[1] - joints[0]
    found = jackknife(estimates[1] - estimates[0], replicates[1] - replicates[0], joint=between, confidence=confidence)
    if num_points is None:
        return found
    sides = list(zip(estimates, replicates, joints or (None, None), num_points, strict=True))
    plain = [jackknife(e, r, joint=j, confidence=confidence) for e, r, j, _ in sides]
    a, b = (score_interval(e, r, n, joint=j, confidence=confidence) for e, r, j, n in sides)
    skewed = np.any([(one.lower <= 0) | (one.upper >= 1) for one in plain], axis=0)
    # Scores that are one and the same in all replicates differ by nothing, unless it is that they have reached the end.
    inner = (estimates[0] > 0) & (estimates[0] < 1)
    skewed &= ~(inner & (found.estimate == 0) & (found.se == 0))
    r = _replicate_correlation(*replicates)
    with np.errstate(invalid="ignore"):
        lower = found.estimate - _combined(b.estimate - b.lower, a.upper - a.estimate, r)
        upper = found.estimate + _combined(b.upper - b.estimate, a.estimate - a.lower, r)
    return Interval(found[0], found[1], np.where(skewed, lower, found.lower), np.where(skewed, upper, found.upper))


def _replicate_correlation(a: Float[np.ndarray, "g ..."], b: Float[np.ndarray, "g ..."]) -> Float[np.ndarray, " ..."]:
    """The correlation of replicates, 0 where either is constant."""
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    size = np.sqrt(np.sum(a**2, axis=0) * np.sum(b**2, axis=0))
    return np.sum(a * b, axis=0) / np.where(size > 0, size, np.inf)


def _combined(x: np.ndarray, y: np.ndarray, r: np.ndarray) -> np.ndarray:
    return np.sqrt(np.maximum(x**2 - 2 * r * x * y + y**2, 0))


def peak_layer(
    estimates: Float[ArrayLike, " l"],
    replicates: Float[ArrayLike, "g l"],
    *,
    joint: Float[ArrayLike, "h l"] | None = None,
    num_points: Int[ArrayLike, " l"] | int | None = None,
    confidence: float = 0.95,
) -> Peak:
    """The layer with the largest score, and the layers that may be it: those not significantly below the largest.

    Args:
        estimates: the score of each layer, in order of depth.
        replicates: the scores without each group of points, the same groups for every layer.
        joint: the scores without two groups at a time; num_points: of each layer, or of all. As for `paired_difference`.
        confidence: the layer whose expected score is largest is a candidate with at least this probability.

    Layer i is no candidate if the paired difference to the largest, d_i = s_i - s_max, has an interval below 0, with
    g - 1 degrees of freedom at the one-sided level (1 - confidence) / (l - 1) (Bonferroni). `lower` and `upper` are the
    first and the last candidate; candidates need not be adjacent. A layer with a nan score is no candidate, one whose
    error is nan stays one. All nan: layer -1, no candidates.

    Raises:
        ValueError: shapes that do not fit, confidence outside (0, 1).

    >>> replicates = np.array([[0.50, 0.80, 0.79], [0.52, 0.81, 0.83], [0.48, 0.79, 0.78]])
    >>> peak_layer(np.array([0.5, 0.8, 0.8]), replicates, confidence=0.9)
    Peak(layer=1, lower=1, upper=2, candidates=array([False,  True,  True]))
    """
    estimates, replicates = np.asarray(estimates, np.float64), np.asarray(replicates, np.float64)
    if estimates.ndim != 1 or estimates.size == 0:
        raise ValueError(f"estimates must hold one score a layer, shape (l,); got shape {estimates.shape}.")
    upper_level(confidence)
    jackknife(estimates, replicates)  # for its errors
    scored = ~np.isnan(estimates)
    if not scored.any():
        return Peak(-1, -1, -1, scored)
    best = int(np.nanargmax(estimates))

    def against(values: Any) -> tuple[np.ndarray, np.ndarray]:
        """Of the largest, for each layer, and of the layers."""
        values = np.asarray(values, np.float64)
        return np.broadcast_to(values[..., best : best + 1], values.shape), values

    points = None if num_points is None else against(np.broadcast_to(num_points, estimates.shape))
    found = paired_difference(
        *against(estimates),
        *against(replicates),
        joint=None if joint is None else against(joint),
        num_points=points,
        confidence=max(1 - 2 * (1 - confidence) / max(1, scored.sum() - 1), 1e-9),
    )
    candidates = scored & ~(found.upper < 0)
    layers = np.flatnonzero(candidates)
    return Peak(best, int(layers[0]), int(layers[-1]), candidates)


def holm(p_values: Sequence[float] | Float[ArrayLike, " m"]) -> Float[np.ndarray, " m"]:
    """P-values adjusted for there being m of them: below a level, the chance of any false one is below that level.

    The i-th smallest becomes the largest of (m - j + 1) p_j for j up to i, and at most 1. nan stays nan and is not counted.
    The adjusted value of a permutation test is at least m / (1 + permutations), so that m / 0.05 - 1 permutations are the
    fewest by which any can be below 0.05.

    >>> holm([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.06, 0.06]

    Source: Holm, Scandinavian Journal of Statistics 6:65, 1979.
    """
    p_values = np.asarray(p_values, np.float64)
    order = np.argsort(p_values)  # nan last
    count = int(np.sum(~np.isnan(p_values)))
    factors = np.maximum(count - np.arange(len(order)), 1)
    adjusted = np.full(len(order), np.nan)
    adjusted[order] = np.minimum(np.maximum.accumulate(factors * p_values[order]), 1)
    return adjusted
