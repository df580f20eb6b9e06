"""Measures of points without labels: how many dimensions they fill, and how alike two layers or networks are."""

from __future__ import annotations

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, Int
from scipy.special import gammaincinv

from jaxconvex._internal.checks import as_points
from jaxconvex.neighbors.knn import KNNGraph
from jaxconvex.neighbors.lists import checked_neighbors
from jaxconvex.statistics.intervals import Interval

__all__ = ["cka", "intrinsic_dimension", "mutual_knn"]


def intrinsic_dimension(knn: KNNGraph, *, confidence: float = 0.95) -> Interval:
    """The number of dimensions that the points fill near each point: TwoNN, d = (m - 1) / sum_i log(r_i2 / r_i1).

    r_i1 and r_i2 are the distances of the m points to their two nearest neighbours. If density is even at that distance,
    y_i = log(r_i2 / r_i1) is exponential with rate d, so that d is estimated without bias. The interval is the exact one of
    as many independent ratios as have the variance of these: that of sum y is v = sum (y_i - mean)(y_j - mean) over all i, j
    whose {point, two neighbours} meet, and at least that of m independent ratios. Taking all m for independent, as the
    sources do, covers 85 to 90 percent instead of 95: two points are often nearest neighbours of each other.

    The interval says nothing of bias: at the border of a cube in 8 dimensions, 1,000 points give 7.0. Noise raises the
    dimension at small distances: compare that of a random half of the points.

    Args:
        knn: neighbours of each point, at least two, by a metric in which balls grow as r^d: Euclidean.
        confidence: between 0 and 1.

    Points with a copy (r_i1 = 0) or with fewer than two neighbours are left out. nan with the worth of two independent
    ratios or fewer, and where all ratios are 1.

    Cost: a product of sparse matrices of three entries a row.

    Raises:
        ValueError: fewer than two neighbours a point, a confidence outside (0, 1).

    >>> from jaxconvex.neighbors import knn_graph
    >>> x = np.random.default_rng(0).random((500, 2))
    >>> dimension = intrinsic_dimension(knn_graph(np.pad(x, ((0, 0), (0, 5))), k=2))  # a square in seven dimensions
    >>> bool(dimension.lower < 2 < dimension.upper)
    True

    Source: Facco, d'Errico, Rodriguez and Laio, Scientific Reports 7:12140, 2017; the estimate by maximum likelihood and
        its interval: Denti, Doimo, Laio and Mira, Scientific Reports 12:20005, 2022.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1; got {confidence}.")
    knn = checked_neighbors(knn)
    distances = np.asarray(knn.distances, np.float64)
    if distances.shape[1] < 2:
        raise ValueError("the intrinsic dimension needs two neighbours a point; got one: knn_graph(x, k=2).")
    order = np.argsort(distances, axis=1, kind="stable")[:, :2]
    nearest = np.take_along_axis(distances, order, axis=1)
    used = np.flatnonzero((nearest[:, 0] > 0) & np.isfinite(nearest[:, 1]))
    ratios = np.log(nearest[used, 1] / nearest[used, 0])
    m, total = len(used), float(ratios.sum())
    if total > 0:
        neighbours = np.take_along_axis(np.asarray(knn.indices), order, axis=1)[used]
        independent = total**2 / max(_variance_of_sum(ratios, np.c_[used, neighbours]), total**2 / m)
    if total == 0 or independent <= 2:
        return Interval(*np.full((4,), np.nan))
    estimate = (m - 1) / total
    ends = gammaincinv(independent, [(1 - confidence) / 2, (1 + confidence) / 2]) * m / independent / total
    return Interval(*np.array([estimate, estimate / np.sqrt(independent - 2), *ends]))


def _variance_of_sum(values: Float[np.ndarray, " m"], points: Int[np.ndarray, "m p"]) -> float:
    """The variance of the sum of values, of which those depend on each other that were made from a point in common."""
    from scipy.sparse import csr_array  # here, since its import takes half as long as jax's

    m, p = points.shape
    made_from = csr_array((np.ones(m * p), (np.repeat(np.arange(m), p), points.ravel())))
    dependent = made_from @ made_from.T
    centred = values - values.mean()
    return float(centred @ ((dependent > 0) @ centred))


def cka(x: Float[ArrayLike, "n d"], y: Float[ArrayLike, "n e"]) -> float:
    """Linear centred kernel alignment of two layers of the same points: `|X'Y|^2 / (|X'X| |Y'Y|)`, columns centred.

    1 for layers that differ by a rotation and a scale, 0 for features that are not correlated. It is biased upwards where
    there are few points and many features: of n random points in d dimensions it is about d / (n + d), not 0.

    Args:
        x, y: features, one row a point, the same points in the same order.

    Computed in float64 on the host. nan if all points of a layer are equal.

    Raises:
        ValueError: different numbers of points, values that are not finite.

    Cost: n d e operations, or n^2 (d + e) where there are fewer points than features.

    >>> x = np.array([[0.0, 1.0], [2.0, 0.0], [1.0, 5.0]])
    >>> round(cka(x, 3 * x[:, ::-1] + 1), 6), round(cka(x, [[0.0], [1.0], [0.0]]), 3)
    (1.0, 0.528)

    Source: Kornblith, Norouzi, Lee and Hinton, Similarity of neural network representations revisited, ICML 2019.
    """
    both = [np.asarray(as_points(part, name), np.float64) for part, name in ((x, "x"), (y, "y"))]
    n = len(both[0])
    if len(both[1]) != n:
        raise ValueError(f"x and y must hold the same points; got {n} and {len(both[1])}.")
    a, b = (part - part.mean(axis=0) for part in both)
    if n < max(a.shape[1], b.shape[1]):
        k, m = a @ a.T, b @ b.T
        shared, own = np.sum(k * m), np.linalg.norm(k) * np.linalg.norm(m)
    else:
        shared, own = np.linalg.norm(a.T @ b) ** 2, np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b)
    return float(shared / own) if own > 0 else float("nan")


def mutual_knn(first: KNNGraph, second: KNNGraph) -> Float[np.ndarray, " n"]:
    """The share of each point's neighbours in one graph that are its neighbours in the other. The mean is mutual k-NN.

    About k / (n - 1) for layers that have nothing in common. nan for points without neighbours.

    Args:
        first, second: neighbours of the same points, as many in one as in the other.

    Raises:
        ValueError: graphs of different shapes.

    >>> one, other = np.array([[1, 2], [0, 2], [1, 0], [2, 1]]), np.array([[1, 3], [0, 2], [3, 0], [0, 1]])
    >>> mutual_knn(KNNGraph(one, np.ones((4, 2))), KNNGraph(other, np.ones((4, 2)))).tolist()
    [0.5, 1.0, 0.5, 0.5]

    Source: Huh, Cheung, Wang and Isola, The platonic representation hypothesis, ICML 2024.
    """
    one, other = (np.asarray(checked_neighbors(graph).indices) for graph in (first, second))
    if one.shape != other.shape:
        raise ValueError(
            f"both graphs must have the same points and as many neighbours; got {one.shape}, {other.shape}."
        )
    shared = np.zeros(len(one))
    for column in one.T:
        shared += ((column[:, None] == other) & (column >= 0)[:, None]).any(axis=1)
    number = (one >= 0).sum(axis=1)
    return shared / np.where(number > 0, number, np.nan)
