"""The bootstrap: points drawn again and again for the graph held fixed; classes drawn again within their domains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, Int, PRNGKeyArray
from scipy.special import stdtrit

from jaxconvex.aggregates import ROUNDING
from jaxconvex.checks import positive_integer
from jaxconvex.statistics import (
    FEWEST_CLASSES,
    Correlation,
    Interval,
    average_ranks,
    complete_pairs,
    pearson,
    spearman,
    upper_level,
)

__all__ = ["BootstrapScore", "bootstrap", "domain_correlation"]


LARGEST = 0.999  # correlation of which artanh is taken


class BootstrapScore(NamedTuple):
    """Intervals of the scores by the bootstrap, and in each class the number of pairs that do not score 1."""

    per_class: Interval
    micro: Interval
    macro: Interval
    failing: Int[np.ndarray, " c"]


def bootstrap(
    pair_scores: Sequence[tuple[Int[np.ndarray, " m"], Float[np.ndarray, "m m"]]],
    key: PRNGKeyArray,
    *,
    num_samples: int = 1000,
    confidence: float = 0.95,
) -> BootstrapScore:
    """Bootstrap intervals of the scores for the graph held fixed: sum_ij w_i w_j s_ij / sum_{i != j} w_i w_j.

    w counts how often each point of a class is drawn, in as many draws as the class has points. Points are reweighted,
    never duplicated, for duplicates would change the graph. The interval holds the middle of the samples (percentiles).

    Args:
        pair_scores: for each class its members and the matrix of their pair scores, as `graph_pair_scores` gives.
        key: a JAX random key.
        num_samples: number of samples.
        confidence: between 0 and 1.

    That the graph depends on the points too is not covered: see `graph_jackknife`. Classes of fewer than three points
    have no error (nan); samples that draw one point of a class alone leave that class out. Where all samples are alike
    (all pairs score 1, say) there is no error to tell: nan, and `failing` says more.

    Cost: num_samples m^2 operations a class, in one matrix product.

    >>> scores = np.array([[np.nan, 1, 0.5], [1, np.nan, 0], [0.5, 0, np.nan]])
    >>> bootstrap([(np.arange(3), scores)], jax.random.key(0)).per_class.estimate.tolist()
    [0.5]
    """
    positive_integer(num_samples, "num_samples")
    level = upper_level(confidence)
    num_classes = len(pair_scores)
    sums, pairs = np.zeros((2, num_samples + 1, num_classes))  # the first row is for the points as they are
    for c, (members, scores) in enumerate(pair_scores):
        m = len(members)
        if m < 2:
            continue
        draws = np.asarray(jax.random.randint(jax.random.fold_in(key, c), (num_samples, m), 0, m))
        cells = draws + m * np.arange(num_samples)[:, None]
        drawn = np.bincount(cells.ravel(), minlength=num_samples * m).reshape(num_samples, m)
        counts = np.concatenate([np.ones((1, m)), drawn])
        scores = np.where(np.eye(m, dtype=bool), 0, np.asarray(scores, np.float64))
        sums[:, c] = np.sum((counts @ scores) * counts, axis=1)
        pairs[:, c] = m**2 - np.sum(np.square(counts), axis=1)
    few = np.array([len(members) < 3 for members, _ in pair_scores])
    failing = np.array([np.sum(np.triu(np.asarray(scores) < 1, 1)) for _, scores in pair_scores], int)

    def interval(values: np.ndarray, undefined: ArrayLike) -> Interval:
        samples = np.where(undefined, 0, values[1:])
        undefined = undefined | (np.nanmax(samples, axis=0) - np.nanmin(samples, axis=0) <= ROUNDING)
        spread = np.nanstd(samples, axis=0), *np.nanquantile(samples, [1 - level, level], axis=0)
        return Interval(values[0], *(np.where(undefined, np.nan, value) for value in spread))

    per_class, micro, macro = _aggregates(sums, pairs)
    return BootstrapScore(interval(per_class, few), interval(micro, few.all()), interval(macro, few.all()), failing)


def _aggregates(sums: Float[np.ndarray, "... c"], pairs: Float[np.ndarray, "... c"]) -> tuple[np.ndarray, ...]:
    """Scores per class, micro and macro, from the sums of pair scores and the numbers of pairs; nan without pairs."""
    with np.errstate(divide="ignore", invalid="ignore"):
        per_class = np.where(pairs > 0, sums / pairs, np.nan)
        micro = sums.sum(axis=-1) / pairs.sum(axis=-1)
        macro = np.nansum(per_class, axis=-1) / np.sum(pairs > 0, axis=-1)
    return per_class, micro, macro


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
    kept = [pair for pair in (complete_pairs(*domain) for domain in domains) if len(pair[0])]
    plain = spearman if ranks else pearson
    if len(kept) < 2:
        x, y = kept[0] if kept else (np.zeros(0), np.zeros(0))
        return plain(x, y, confidence=confidence)

    def coefficient(parts: Sequence[np.ndarray]) -> np.ndarray:
        """From each domain's values [2 ... c]; nan where x or y is constant."""
        if within:
            parts = [part - part.mean(axis=-1, keepdims=True) for part in parts]
        both = np.concatenate(parts, axis=-1)
        both = np.apply_along_axis(average_ranks, -1, both) if ranks else both
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
