"""Measures of points without labels: how many dimensions they fill, and how alike two layers or networks are."""

from __future__ import annotations

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float
from scipy.special import gammaincinv

from jaxconvex._internal.checks import as_points
from jaxconvex.neighbors.knn import KNNGraph
from jaxconvex.neighbors.lists import checked_neighbors
from jaxconvex.statistics.intervals import Interval

__all__ = ["cka", "intrinsic_dimension", "mutual_knn"]

FEWEST = 3  # ratios: of fewer the variance of the estimate is infinite


def intrinsic_dimension(knn: KNNGraph, *, confidence: float = 0.95) -> Interval:
    """The number of dimensions that the points fill near each point: TwoNN, d = (m - 1) / sum_i log(r_i2 / r_i1).

    r_i1 and r_i2 are the distances of the m points to their two nearest neighbours. If density is even at that distance,
    log(r_i2 / r_i1) is exponential with rate d, so that d is estimated without bias; the interval is the exact one for m
    independent ratios. Those of neighbouring points are not quite independent, and noise raises the dimension at small
    distances: compare that of a random half of the points.

    Args:
        knn: neighbours of each point, at least two, by a metric in which balls grow as r^d: Euclidean.
        confidence: between 0 and 1.

    Points with a copy (r_i1 = 0) or with fewer than two neighbours are left out. nan with fewer than three points, and where
    all ratios are 1.

    Raises:
        ValueError: fewer than two neighbours a point, a confidence outside (0, 1).

    >>> found = intrinsic_dimension(KNNGraph(np.array([[1, 2], [0, 2], [1, 0]]), np.array([[1.0, 3], [1, 2], [2, 3]])))
    >>> float(found.estimate.round(3))
    0.91

    Source: Facco, d'Errico, Rodriguez and Laio, Scientific Reports 7:12140, 2017; the estimate by maximum likelihood and
        its interval: Denti, Doimo, Laio and Mira, Scientific Reports 12:20005, 2022.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1; got {confidence}.")
    distances = np.asarray(checked_neighbors(knn).distances, np.float64)
    if distances.shape[1] < 2:
        raise ValueError("the intrinsic dimension needs two neighbours a point; got one: knn_graph(x, k=2).")
    nearest = np.sort(distances, axis=1)[:, :2]
    nearest = nearest[(nearest[:, 0] > 0) & np.isfinite(nearest[:, 1])]
    m, total = len(nearest), float(np.sum(np.log(nearest[:, 1] / nearest[:, 0])))
    if m < FEWEST or total == 0:
        return Interval(*np.full((4,), np.nan))
    estimate = (m - 1) / total
    ends = gammaincinv(m, [(1 - confidence) / 2, (1 + confidence) / 2]) / total
    return Interval(*np.array([estimate, estimate / np.sqrt(m - 2), *ends]))


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
