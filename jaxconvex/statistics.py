"""Errors and comparisons of scores: jackknife, bootstrap, paired differences, the peak layer, correlations, hubness.

These are functions of the host: they take JAX or NumPy arrays, compute in NumPy's float64 and return NumPy arrays.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray
from scipy.special import expit, logit, ndtri, stdtrit

from jaxconvex.checks import as_labels, as_points, positive_integer
from jaxconvex.distances import Metric
from jaxconvex.graphs import Graph, PackedGraph, as_graph, undirected
from jaxconvex.neighbors import KNNGraph, knn_graph
from jaxconvex.scores import graph_convexity

__all__ = [
    "BootstrapScore",
    "Correlation",
    "Interval",
    "JackknifeScore",
    "Peak",
    "Replicates",
    "bootstrap",
    "graph_jackknife",
    "hubness",
    "jackknife",
    "jackknife_groups",
    "leave_group_out_graphs",
    "paired_difference",
    "peak_layer",
    "pearson",
    "random_label_score",
    "score_interval",
    "spare_neighbors",
    "spearman",
]


class Interval(NamedTuple):
    """An estimate, its standard error and a confidence interval; arrays of one shape, nan where not defined."""

    estimate: Float[np.ndarray, " ..."]
    se: Float[np.ndarray, " ..."]
    lower: Float[np.ndarray, " ..."]
    upper: Float[np.ndarray, " ..."]


class Replicates(NamedTuple):
    """The scores of the points without each group in turn; the first axis is the group."""

    per_class: Float[np.ndarray, "g c"]
    micro: Float[np.ndarray, " g"]
    macro: Float[np.ndarray, " g"]


class JackknifeScore(NamedTuple):
    """Intervals of the scores by the jackknife, and the replicates they come from (for paired comparisons)."""

    per_class: Interval
    micro: Interval
    macro: Interval
    replicates: Replicates


class BootstrapScore(NamedTuple):
    """Intervals of the scores by the bootstrap."""

    per_class: Interval
    micro: Interval
    macro: Interval


class Correlation(NamedTuple):
    """A correlation coefficient in [-1, 1], its confidence interval and the number of pairs it was computed from."""

    coefficient: float
    lower: float
    upper: float
    num_points: int


class Peak(NamedTuple):
    """The layer with the largest estimate, the first and last candidate, and which layers are candidates."""

    layer: int
    lower: int
    upper: int
    candidates: Bool[np.ndarray, " l"]


def jackknife_groups(
    labels: Int[Array, "*labelings n"], key: PRNGKeyArray, *, num_groups: int = 10
) -> Int[np.ndarray, " n"]:
    """The group, 0 to num_groups - 1, of each point: random, and stratified by class, background included.

    Shuffled points are dealt out class by class, each class going on where the one before it stopped. So the groups' sizes
    differ by at most 1, within every class and in all.

    Args:
        labels: the class of each point; or several labelings, one a row, which stratify together: exactly by the first,
            and by each further one within the classes of those before it.
        key: a JAX random key. The same labels and key give the same groups, which paired comparisons need.
        num_groups: number of groups, at least 2. With fewer points than that every point is a group of its own.

    Raises:
        ValueError: num_groups below 2.

    >>> groups = jackknife_groups(np.repeat([0, 1], 10), jax.random.key(0), num_groups=5)
    >>> np.bincount(groups[:10]).tolist(), np.bincount(groups[10:]).tolist()
    ([2, 2, 2, 2, 2], [2, 2, 2, 2, 2])
    """
    if positive_integer(num_groups, "num_groups") < 2:
        raise ValueError("num_groups must be at least 2, so that points are left when a group is taken out; got 1.")
    labels = np.atleast_2d(np.asarray(labels))
    n = labels.shape[1]
    order = np.lexsort((np.asarray(jax.random.permutation(key, n)), *labels[::-1]))
    groups = np.empty(n, np.int32)
    groups[order] = np.arange(n) % num_groups
    return groups


def jackknife(
    estimate: Float[Array, " ..."], replicates: Float[Array, "g ..."], *, confidence: float = 0.95
) -> Interval:
    """Delete-a-group jackknife: se^2 = (g - 1)/g sum_i (r_i - mean r)^2, and estimate -+ se t, t with g - 1 degrees of freedom.

    Args:
        estimate: from all points, of any shape.
        replicates: the same from the points without group i, one group a row.
        confidence: between 0 and 1.

    The interval is symmetric; `score_interval` is the one for scores, which end at 0 and 1. A nan among the replicates
    (a class with too few points left) makes the error and the interval nan.

    Raises:
        ValueError: fewer than two groups, shapes that do not fit, confidence outside (0, 1).

    >>> values = np.arange(10.0)
    >>> without = (values.sum() - values) / 9  # the mean without each value: its error is sd / sqrt(n)
    >>> bool(np.isclose(jackknife(values.mean(), without).se, values.std(ddof=1) / np.sqrt(10)))
    True

    Source: Kott, "The delete-a-group jackknife", Journal of Official Statistics 17:521, 2001.
    """
    estimate, replicates = np.asarray(estimate, np.float64), np.asarray(replicates, np.float64)
    if replicates.ndim < 1 or replicates.shape[1:] != estimate.shape or len(replicates) < 2:
        raise ValueError(
            "replicates must have one row a group, at least two, each of the estimate's shape; "
            f"got shapes {replicates.shape} for {estimate.shape}."
        )
    g = len(replicates)
    se = np.sqrt((g - 1) / g * np.sum(np.square(replicates - replicates.mean(axis=0)), axis=0))
    margin = stdtrit(g - 1, _upper_level(confidence)) * se
    return Interval(estimate, se, estimate - margin, estimate + margin)


def score_interval(
    estimate: Float[Array, " ..."],
    replicates: Float[Array, "g ..."],
    num_points: Int[Array, " ..."],
    *,
    confidence: float = 0.95,
) -> Interval:
    """Jackknife interval of a score in [0, 1], symmetric in logit s = log(s / (1 - s)): logit s -+ t se / (s (1 - s)).

    Args:
        estimate, replicates, confidence: as for `jackknife`.
        num_points: the number of points behind each score: of the class, or of all classes together.

    Scores near 1 have a skewed distribution, for which a symmetric interval is too short below. A score of exactly 0 or 1
    has no logit; it gets Wilson's interval for a share of num_points independent points, [n / (n + t^2), 1] at 1: there
    the number of failing pairs says more. The estimand is the expected score of samples of this size. `se` is on the
    scale of the score.

    >>> interval = score_interval(np.array([0.9, 1.0]), np.array([[0.88, 1.0], [0.9, 1.0], [0.92, 1.0]]), np.array([50, 50]))
    >>> interval.lower.round(3).tolist(), interval.upper.round(3).tolist()
    ([0.656, 0.73], [0.977, 1.0])

    Source for the boundary: Wilson, Journal of the American Statistical Association 22:209, 1927.
    """
    score, se, _, _ = jackknife(estimate, replicates, confidence=confidence)
    t = stdtrit(len(replicates) - 1, _upper_level(confidence))
    with np.errstate(divide="ignore", invalid="ignore"):
        centre, margin = logit(np.clip(score, 0, 1)), t * se / (score * (1 - score))
        share = np.square(t) / (np.asarray(num_points) + np.square(t))
    lower = np.select([score >= 1, score <= 0], [1 - share, 0 * share], expit(centre - margin))
    upper = np.select([score >= 1, score <= 0], [1 + 0 * share, share], expit(centre + margin))
    defined = np.isfinite(se)
    return Interval(score, se, np.where(defined, lower, np.nan), np.where(defined, upper, np.nan))
