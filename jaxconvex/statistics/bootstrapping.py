"""The bootstrap: points drawn again and again, for the graph held fixed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, Int, PRNGKeyArray

from jaxconvex._internal.checks import positive_integer
from jaxconvex.scores.aggregates import ROUNDING, macro_mean, micro_mean
from jaxconvex.statistics.intervals import Interval, upper_level

__all__ = ["BootstrapScore", "bootstrap"]


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

    per_class = np.where(pairs > 0, sums / np.maximum(pairs, 1), np.nan)
    micro, macro = micro_mean(per_class, pairs), macro_mean(per_class, pairs)
    return BootstrapScore(interval(per_class, few), interval(micro, few.all()), interval(macro, few.all()), failing)
