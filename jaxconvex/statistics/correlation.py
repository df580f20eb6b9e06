"""Correlations with their intervals: over pairs drawn one by one, and over classes drawn within their domains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, PRNGKeyArray
from scipy.special import ndtri, stdtrit

from jaxconvex._internal.checks import positive_integer
from jaxconvex.scores.aggregates import ROUNDING
from jaxconvex.statistics.intervals import upper_level

__all__ = ["Correlation", "domain_correlation", "pearson", "spearman"]

FEWEST_CLASSES = 7  # pairs of which a correlation has an interval
LARGEST = 0.999  # correlation of which artanh is taken


class Correlation(NamedTuple):
    """A correlation coefficient in [-1, 1], its confidence interval and the number of pairs it was computed from."""

    coefficient: float
    lower: float
    upper: float
    num_points: int


def pearson(x: Float[ArrayLike, " n"], y: Float[ArrayLike, " n"], *, confidence: float = 0.95) -> Correlation:
    """Pearson's correlation r with Fisher's interval: tanh(artanh r -+ z / sqrt(n - 3)).

    Args:
        x, y: n values each; pairs with a nan are left out.
        confidence: between 0 and 1.

    The interval is for pairs drawn independently from a bivariate normal distribution: of classes, for other classes drawn
    as these were. Classes of several domains are not; see `domain_correlation`. It is nan below seven pairs. A constant
    x or y gives nan throughout.

    Raises:
        ValueError: shapes that differ, more than one axis, confidence outside (0, 1).

    >>> round(pearson([1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 6, 5]).coefficient, 4)
    0.9429

    Source: Fisher, Biometrika 10:507, 1915.
    """
    x, y = _complete_pairs(x, y)
    return _fisher_interval(_correlation(x, y), len(x), 1, confidence)


def spearman(x: Float[ArrayLike, " n"], y: Float[ArrayLike, " n"], *, confidence: float = 0.95) -> Correlation:
    """Spearman's rank correlation r, ties at their average rank: tanh(artanh r -+ z sqrt(1.06 / (n - 3))).

    Args and degenerate cases as for `pearson`. Ranks that agree throughout do not tell that they always do: at `|r| = 1` one
    end is that of the next smaller r, two neighbours exchanged.

    >>> spearman([1, 2, 3, 4, 5, 6], [1, 4, 9, 16, 25, 36]).coefficient
    1.0

    Source of the factor 1.06: Fieller, Hartley and Pearson, Biometrika 44:470, 1957.
    """
    x, y = _complete_pairs(x, y)
    n = len(x)
    found = _fisher_interval(_correlation(_average_ranks(x), _average_ranks(y)), n, 1.06, confidence)
    if abs(found.coefficient) != 1 or n < FEWEST_CLASSES:
        return found
    next_lower = _fisher_interval(1 - 12 / (n * (n**2 - 1)), n, 1.06, confidence).lower
    if found.coefficient > 0:
        return found._replace(lower=next_lower)
    return found._replace(upper=-next_lower)


def domain_correlation(
    domains: Sequence[tuple[Float[ArrayLike, " c"], Float[ArrayLike, " c"]]],
    key: PRNGKeyArray,
    *,
    ranks: bool = False,
    within: bool = False,
    num_samples: int = 2000,
    confidence: float = 0.95,
) -> Correlation:
    """The correlation of x and y over the classes of several domains, for other classes of the *same* domains.

    Classes of a domain are alike in much, so they are no independent points. Classes are drawn again within each domain,
    one fewer than it has (Rao and Wu), and r is taken of all together: tanh(artanh r -+ t sd), sd being that of the
    samples' artanh, t with n - d - 1 degrees of freedom for n classes of d domains. What other domains would give, no
    few domains can tell.

    Args:
        domains: x and y of the classes of each domain; classes with a nan are left out.
        key: a JAX random key.
        ranks: Spearman's r instead of Pearson's.
        within: of x and y less their domain's mean.
        num_samples: number of samples.
        confidence: between 0 and 1.

    One domain gets the interval of `pearson` or `spearman`. It is nan below seven classes, or three in a domain on average.

    >>> x = np.arange(8.0)
    >>> found = domain_correlation([(x, x % 3), (x + 9, x % 4)], jax.random.key(0))
    >>> found.num_points, bool(found.lower < found.coefficient < found.upper)
    (16, True)

    Source: Rao and Wu, Journal of the American Statistical Association 83:231, 1988.
    """
    level = upper_level(confidence)
    kept = [pair for pair in (_complete_pairs(*domain) for domain in domains) if len(pair[0])]
    plain = spearman if ranks else pearson
    if len(kept) < 2:
        x, y = kept[0] if kept else (np.zeros(0), np.zeros(0))
        return plain(x, y, confidence=confidence)

    def coefficient(parts: Sequence[np.ndarray]) -> np.ndarray:
        """From each domain's values [2 ... c]; nan where x or y is constant."""
        if within:
            parts = [part - part.mean(axis=-1, keepdims=True) for part in parts]
        both = np.concatenate(parts, axis=-1)
        both = np.apply_along_axis(_average_ranks, -1, both) if ranks else both
        both = both - both.mean(axis=-1, keepdims=True)
        size = np.sqrt(np.prod(np.sum(both**2, axis=-1), axis=0))
        return np.sum(both[0] * both[1], axis=-1) / np.where(size > ROUNDING**2, size, np.nan)

    values = [np.stack(pair) for pair in kept]
    n = sum(part.shape[-1] for part in values)
    r, room = float(coefficient(values).clip(-1, 1)), n - len(values) - 1
    if not np.isfinite(r) or n < max(FEWEST_CLASSES, 3 * len(values)):
        return Correlation(r, np.nan, np.nan, n)
    samples = []
    for d, part in enumerate(values):
        c = part.shape[-1]
        shape = (positive_integer(num_samples, "num_samples"), max(c - 1, 1))
        samples.append(part[:, np.asarray(jax.random.randint(jax.random.fold_in(key, d), shape, 0, c))])
    spread = np.nanstd(np.arctanh(coefficient(samples).clip(-LARGEST, LARGEST)))
    centre = np.arctanh(np.clip(r, -LARGEST, LARGEST))
    lower, upper = np.tanh(centre + np.array([-1, 1]) * stdtrit(room, level) * spread)
    return Correlation(r, float(min(lower, r)), float(max(upper, r)), n)


def _complete_pairs(x: ArrayLike, y: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.shape != y.shape or x.ndim != 1:
        raise ValueError(f"x and y must be two series of one length; got shapes {x.shape} and {y.shape}.")
    complete = ~(np.isnan(x) | np.isnan(y))
    return x[complete], y[complete]


def _average_ranks(values: np.ndarray) -> np.ndarray:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    # Constancy is asked of the values themselves: their mean is rounded, so deviations from it need not vanish.
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    x, y = (value / np.linalg.norm(value) for value in (_deviations(x), _deviations(y)))
    # x.y by differences, so that rounding cannot part a perfect correlation from 1 or carry any beyond.
    return float(1 - np.sum((x - y) ** 2) / 2 if x @ y > 0 else np.sum((x + y) ** 2) / 2 - 1)


def _deviations(values: np.ndarray) -> np.ndarray:
    scaled = values / np.max(np.abs(values))  # so that no square overflows
    return scaled - scaled.mean()


def _fisher_interval(coefficient: float, n: int, variance: float, confidence: float) -> Correlation:
    z = ndtri(upper_level(confidence))
    if n < FEWEST_CLASSES:
        return Correlation(coefficient, float("nan"), float("nan"), n)
    with np.errstate(divide="ignore"):
        centre, margin = np.arctanh(coefficient), z * np.sqrt(variance / (n - 3))
    return Correlation(coefficient, float(np.tanh(centre - margin)), float(np.tanh(centre + margin)), n)
