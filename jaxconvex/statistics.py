"""Statistics of scores: jackknife intervals, paired differences, the peak layer, baselines, hubness.

On JAX or NumPy arrays they compute in NumPy's float64 and return NumPy arrays; `jackknife` and `score_interval` run under
jit too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Int
from scipy.special import stdtrit

from jaxconvex.checks import as_labels, is_concrete
from jaxconvex.neighbor_lists import checked_neighbors
from jaxconvex.neighbors import KNNGraph
from jaxconvex.paths.graph import Graph, PackedGraph, as_graph
from jaxconvex.scores import graph_convexity

__all__ = [
    "Interval",
    "Peak",
    "holm",
    "hubness",
    "jackknife",
    "paired_difference",
    "peak_layer",
    "random_label_score",
    "score_interval",
]

WIDEST = 2.5  # logits to either side
HIGHEST_ORDER = 10  # of the interactions between points that the jackknife's correction allows for


class Interval(NamedTuple):
    """An estimate, its standard error and a confidence interval; arrays of one shape, nan where not defined."""

    estimate: Float[Any, " ..."]
    se: Float[Any, " ..."]
    lower: Float[Any, " ..."]
    upper: Float[Any, " ..."]


class Peak(NamedTuple):
    """The layer with the largest estimate, the first and last candidate, and which layers are candidates."""

    layer: int
    lower: int
    upper: int
    candidates: Bool[np.ndarray, " l"]


def jackknife(
    estimate: Float[Any, " ..."],
    replicates: Float[Any, "g ..."],
    *,
    joint: Float[Any, "h ..."] | None = None,
    confidence: float = 0.95,
) -> Interval:
    """Delete-a-group jackknife: the interval estimate -+ t se, with se^2 = (g - 1)/g sum_i (r_i - mean r)^2.

    t is the quantile of Student's distribution with g - 1 degrees of freedom.

    Args:
        estimate: from all points, of any shape.
        replicates: the same from the points without group i, one group a row.
        joint: the same without groups 2i and 2i + 1 (that is, without each group of `groups // 2`). Optional; with them
            the error is corrected for what the jackknife counts too often.
        confidence: between 0 and 1.

    The correction: what j points add to the variance only jointly, the jackknife counts j times (Efron and Stein), and
    so se is 1.1 to 1.6 times too large on graphs of a few dozen points a class. The second differences
    q = estimate - a (r_i + r_k) + (2 a - 1) r_ik, a = 1 - 1/g, hold nothing else, so a multiple of their mean square is
    taken off: the largest that takes too much off no joint effect of up to 10 points, and at most half of se^2.

    The interval is symmetric; `score_interval` is the one for scores, which end at 0 and 1. A nan among the replicates
    (a class with too few points left) makes error and interval nan; a nan in `joint` leaves the error uncorrected.

    Raises:
        ValueError: fewer than two groups, shapes that do not fit, confidence outside (0, 1).

    >>> values = np.arange(10.0)
    >>> without = (values.sum() - values) / 9  # the mean without each value: its error is sd / sqrt(n)
    >>> bool(np.isclose(jackknife(values.mean(), without).se, values.std(ddof=1) / np.sqrt(10)))
    True

    Source: Kott, Journal of Official Statistics 17:521, 2001; Efron and Stein, Annals of Statistics 9:586, 1981.
    """
    xp, (estimate, replicates) = _as_floats(estimate, replicates)
    g = len(replicates) if replicates.ndim else 0
    if g < 2 or replicates.shape[1:] != estimate.shape:
        raise ValueError(
            "replicates must have one row a group, at least two, each of the estimate's shape; "
            f"got shape {replicates.shape} for an estimate of shape {estimate.shape}."
        )
    variance = (g - 1) / g * xp.sum(xp.square(replicates - replicates.mean(axis=0)), axis=0)
    if joint is not None:
        variance = xp.maximum(variance - _interaction(estimate, replicates, joint), variance / 2)
    se = xp.sqrt(variance)
    margin = stdtrit(g - 1, upper_level(confidence)) * se
    return Interval(estimate, se, estimate - margin, estimate + margin)


def score_interval(
    estimate: Float[Any, " ..."],
    replicates: Float[Any, "g ..."],
    num_points: Int[Any, " ..."],
    *,
    joint: Float[Any, "h ..."] | None = None,
    confidence: float = 0.95,
) -> Interval:
    """Jackknife interval of a score s in [0, 1], symmetric in its logit: log(s / (1 - s)) -+ t se / (s (1 - s)).

    Args:
        estimate, replicates, joint, confidence: as for `jackknife`, whose se this keeps.
        num_points: the number of points behind each score: of the class, or of all classes together; where points were
            sampled in groups, the number of groups.

    Near 1 scores are skewed, and a symmetric interval covers too rarely; but the logit's is far too wide where replicates
    fall far below a score near 1. So where its margin exceeds 2.5 logits, the interval is the union of the symmetric one,
    cut at 0 and 1, and of Wilson's for a share of num_points points. A score of exactly 0 or 1 has no logit: it gets
    Wilson's alone, [n / (n + t^2), 1] at 1. The estimand is the expected score of samples of this size.

    Measured on Gaussian classes of 20 to 100 points with expected scores of 0.3 to 0.998 (tests/benchmarks/coverage.py):
    with ten groups and `joint`, nominal 95% intervals cover in about 93% to 98% of samples; without `joint` in 95% to 99%.
    They do not cover where a class hangs together by a few points, so that its pairs have a path in some samples alone.

    >>> replicates = np.array([[0.88, 1.0], [0.9, 1.0], [0.92, 1.0]])
    >>> interval = score_interval(np.array([0.9, 1.0]), replicates, np.array([50, 50]))
    >>> interval.lower.round(2).tolist(), interval.upper.round(2).tolist()
    ([0.75, 0.73], [0.96, 1.0])

    Source of the third: Wilson, Journal of the American Statistical Association 22:209, 1927.
    """
    score, se, *symmetric = jackknife(estimate, replicates, joint=joint, confidence=confidence)
    xp, (points,) = _as_floats(num_points, like=score)
    t = float(stdtrit(np.shape(replicates)[0] - 1, upper_level(confidence)))
    between = (score > 0) & (score < 1)
    inner = xp.where(between, score, 0.5)
    centre, margin = xp.log(inner / (1 - inner)), t * se / (inner * (1 - inner))
    lower, upper = _logistic(centre - margin, xp), _logistic(centre + margin, xp)
    wilson = _wilson(score, points, t, xp)
    union = xp.minimum(symmetric[0], wilson[0]).clip(0), xp.maximum(symmetric[1], wilson[1]).clip(None, 1)
    lower, upper = (
        xp.where(between, xp.where(margin > WIDEST, wide, logit), end)
        for logit, wide, end in zip((lower, upper), union, wilson, strict=True)
    )
    return Interval(score, se, xp.where(xp.isfinite(se), lower, xp.nan), xp.where(xp.isfinite(se), upper, xp.nan))


def _wilson(share: Any, points: Any, t: float, xp: Any) -> tuple[Any, Any]:
    points = xp.where(points > 0, points, xp.nan)
    centre, square = share + t**2 / (2 * points), share * (1 - share) / points + (t / points / 2) ** 2
    margin, whole = t * xp.sqrt(square.clip(0)), 1 + t**2 / points
    ends = ((centre - margin) / whole).clip(0), ((centre + margin) / whole).clip(None, 1)
    return xp.where(share <= 0, 0, ends[0]), xp.where(share >= 1, 1, ends[1])  # in spite of rounding


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
    interval is made of their two `score_interval`s: with l = b - lower_b and u = upper_a - a, the lower end is
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


def random_label_score(
    graph: KNNGraph | Graph | PackedGraph, labels: Int[ArrayLike, " n"], *, num_classes: int
) -> Float[np.ndarray, " c"]:
    """Expected graph convexity of each class under random labels: p + (s - p) (n_c - 2) / (m - 2).

    The labels of the m labelled points are permuted; background points (-1) stay where they are, as in `permutation_null`.
    Over all pairs of labelled points, p is the share that is adjacent, and s their score as one class. A labelled
    point inside a path is of the class with probability (n_c - 2) / (m - 2), its ends being two of the class; a background
    point never is.

    Args:
        graph: as for `graph_convexity`.
        labels, num_classes: only the sizes of the classes count, and where the background is.

    Exact where no two paths between the same points are equally long (with such ties the score is higher: the path with
    the fewest points outside counts). nan for classes of fewer than two points.

    Cost: connected components of the graph; with background, the paths of one class. For the spread, not only the mean,
    see `permutation_null`.

    >>> import jax.numpy as jnp
    >>> from jaxconvex import knn_graph
    >>> chain = knn_graph(jnp.array([[0.], [1.], [2.1], [3.3]]), k=1)
    >>> random_label_score(chain, jnp.array([0, 0, 0, 1]), num_classes=2)
    array([0.75,  nan])
    """
    edges = as_graph(graph)
    n = len(edges.degrees)
    codes = np.asarray(as_labels(labels, n, num_classes))
    sizes = np.bincount(codes + 1, minlength=num_classes + 1)[1:]
    if (codes < 0).any():
        one = graph_convexity(graph, np.minimum(codes, 0), num_classes=1)
        adjacent, together = (float(np.nan_to_num(part[0])) for part in (one.adjacent, one.per_class))
    else:
        adjacent, together = _shares_of_pairs(edges)
    inside = (sizes - 2) / max(int(sizes.sum()) - 2, 1)
    return np.where(sizes >= 2, adjacent + (together - adjacent) * inside, np.nan)


def _shares_of_pairs(edges: Graph) -> tuple[float, float]:
    """The shares of all pairs of points that are adjacent, and that have a path."""
    from scipy.sparse import coo_matrix, csgraph  # here, since its import takes long

    n = len(edges.degrees)
    there = ~np.isposinf(np.asarray(edges.lengths))
    ends = np.asarray(edges.senders)[there], np.asarray(edges.receivers)[there]
    links = coo_matrix((np.ones(there.sum()), ends), shape=(n, n)).tocsr()
    together = np.bincount(csgraph.connected_components(links, directed=False)[1])
    pairs = max(n * (n - 1.0), 1.0)
    return links.nnz / pairs, float(np.sum(together * (together - 1.0)) / pairs)


def hubness(knn: KNNGraph) -> float:
    """Skewness of the k-occurrence, how often each point is among another's neighbours: m_3 / m_2^(3/2) of the counts.

    Near 0 without hubs; in spaces of many dimensions a few points are neighbours of very many and it is well above 1.
    nan if all points occur equally often.

    >>> float(round(hubness(KNNGraph(np.array([[1], [0], [0], [0]]), np.ones((4, 1)))), 4))
    0.8165

    Source: Radovanović, Nanopoulos and Ivanović, Journal of Machine Learning Research 11:2487, 2010.
    """
    counts = occurrences(knn)
    deviation = counts - counts.mean()
    spread = np.mean(deviation**2)
    return float(np.mean(deviation**3) / spread**1.5) if np.ptp(counts) else float("nan")


def occurrences(knn: KNNGraph) -> Int[np.ndarray, " n"]:
    """How many points have each point among their neighbours.

    >>> occurrences(KNNGraph(np.array([[1], [0], [0], [0]]), np.ones((4, 1)))).tolist()
    [3, 1, 0, 0]
    """
    indices = np.asarray(checked_neighbors(knn).indices)
    return np.bincount(indices[indices >= 0], minlength=len(indices))


def upper_level(confidence: float) -> float:
    """The level of the upper end of a two-sided interval."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, as 0.95 does; got {confidence}.")
    return (1 + confidence) / 2


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


def _as_floats(*values: Any, like: Any = 0.0) -> tuple[Any, list[Any]]:
    """The module of arrays that computes with the values, and these as its floats: NumPy's float64 if they are known."""
    if is_concrete(*values, like):
        return np, [np.asarray(value, np.float64) for value in values]
    return jnp, [jnp.asarray(value, jnp.result_type(float)) for value in values]


def _logistic(value: Any, xp: Any) -> Any:
    return 0.5 * (1 + xp.tanh(value / 2))


def _interaction(estimate: Any, replicates: Any, joint: Any) -> Any:
    """What the jackknife counts too often: a multiple of the mean square of q, 0 where that is nan.

    Joint effects of j points have the covariance (o / (s t))^j between subsets that are shares s and t of the points
    and have a share o in common. So they enter the jackknife `counted` times, and the mean square of q `seen` times.
    """
    xp, (joint,) = _as_floats(joint, like=replicates)
    g = len(replicates)
    h = g // 2
    if g < 3 or joint.shape[1:] != estimate.shape or len(joint) < h:
        raise ValueError(
            f"joint must have a row for each of {h} pairs of groups (of at least three groups), each of the estimate's "
            f"shape {estimate.shape}; got shape {joint.shape}."
        )
    one, two, j = 1 - 1 / g, 1 - 2 / g, HIGHEST_ORDER
    overlap = (two / one**2) ** j
    counted = (g - 1) ** 2 / g * (one**-j - overlap)
    seen = 1 + 2 * one ** (2 - j) + two ** (2 - j) - 4 * one + 2 * two + 2 * one**2 * overlap - 4 * two * one ** (1 - j)
    # At j = 1 counted is 1 and seen is 0; the excess counted - 1 over seen falls with j.
    q = estimate - one * (replicates[0 : 2 * h : 2] + replicates[1 : 2 * h : 2]) + two * joint[:h]
    return xp.nan_to_num((counted - 1) / seen * xp.mean(xp.square(q), axis=0), nan=0.0)
