"""Exact k-nearest neighbours, in blocks of queries, never n x n in memory."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxconvex.checks import as_points, is_concrete, positive_integer
from jaxconvex.distances import Metric, metric_function, squared_euclidean

__all__ = ["KNNGraph", "epsilon_graph", "knn_graph"]

SPARE = 6  # candidates kept beyond k: their scores are rounded, so they are ranked again by exact differences
BLOCK_BYTES = 64 * 2**20  # scores of one block of queries against all points
RESCUED = 32  # rows searched by differences at a time, where rounding leaves their candidates in doubt


class KNNGraph(NamedTuple):
    """Each point's neighbours, nearest first, never itself, ties to the lowest index.

    Absent neighbours (an epsilon graph has them) are padded with index -1 and distance inf.
    """

    indices: Int[Array, "n k"]
    distances: Float[Array, "n k"]


def knn_graph(x: Float[Array, "n d"], *, k: int = 10, metric: Metric = "euclidean") -> KNNGraph:
    """The k nearest neighbours of every point and their distances, exact: `KNNGraph(indices, distances)`.

    Args:
        x: points, one a row. Integers and half precision are computed in float32; float64 stays where x64 is on.
        k: number of neighbours, 1 to n - 1.
        metric: "euclidean", "cosine" (the chord, see `distances.cosine`), "manhattan", or a symmetric metric on two
            vectors that JAX can trace. Squared distances are refused: they break the triangle inequality.

    Euclidean and cosine neighbours come from matrix products of centred data. A product is rounded, so it only proposes
    candidates; those are ranked by distances from differences, and a bound on the rounding shows for each row that no
    other point can be nearer. Rows without that proof are searched by differences. So offsets, outliers and
    near-duplicates cost time, not correctness.

    Equal points are neighbours at distance 0. Distances carry gradients with respect to x (finite at 0).
    NaN or infinity: an error on concrete input; under jit all distances are nan.

    Raises:
        ValueError: k < 1 or k >= n, wrong rank, squared distances, non-finite input, zero vectors for the cosine.

    Cost: n^2 d operations; memory of one block of queries against all points (64 MB) beyond the data.

    >>> graph = knn_graph(jnp.array([[0.], [1.], [3.], [7.]]), k=2)
    >>> graph.indices.tolist()
    [[1, 2], [0, 2], [1, 0], [2, 1]]
    """
    if metric in ("squared_euclidean", squared_euclidean):
        raise ValueError(
            "metric='squared_euclidean' gives no edge lengths: squared distances break the triangle inequality, so a path "
            "through many points would be shorter than the straight edge. Use 'euclidean'; the neighbours are the same."
        )
    metric_function(metric)
    points = as_points(x)
    n = points.shape[0]
    positive_integer(k, "k", most=n - 1, why=f" for {n} points (a point is no neighbour of itself)")
    if metric == "cosine" and is_concrete(points):
        zero = np.flatnonzero(~np.asarray(jnp.any(points != 0, axis=1)))
        if zero.size:
            raise ValueError(
                f"metric='cosine' needs a direction for every point; {zero.size} rows of x are zero vectors "
                f"(first: row {zero[0]}). Remove them or use another metric."
            )
    return _knn(points, k, metric)


def epsilon_graph(
    x: Float[Array, "n d"], *, radius: float | Array, max_degree: int | None = None, metric: Metric = "euclidean"
) -> KNNGraph:
    """The neighbours of every point within a radius: `KNNGraph`, padded with index -1 and distance inf.

    Args:
        x: points, one a row.
        radius: largest distance of neighbours, in units of the metric; above 0.
        max_degree: columns of the result, 1 to n - 1. By default the largest number of neighbours there is; under jit
            that is not known, so name it there. If a point has more neighbours than that, all distances are nan.
        metric: as for `knn_graph`.

    Raises:
        ValueError: as `knn_graph`; radius not above 0; max_degree missing under jit.

    Cost: that of `knn_graph` with k = max_degree + 1; where it is not named, with k = 32, then 128, 512, ...

    >>> epsilon_graph(jnp.array([[0.], [1.], [3.]]), radius=1.5).indices.tolist()
    [[1], [0], [-1]]
    """
    n = as_points(x).shape[0]
    if isinstance(radius, (int, float)) and not radius > 0:
        raise ValueError(f"radius must be above 0, in units of the metric; got {radius}.")
    positive_integer(n - 1, "the number of points less one")
    if max_degree is None:
        if not is_concrete(x, radius):
            raise ValueError("max_degree must be named under jit: how many neighbours the radius holds is not known.")
        searched = min(32, n - 1)
        found = knn_graph(x, k=searched, metric=metric)
        while searched < n - 1 and bool(jnp.any(found.distances[:, -1] <= radius)):
            searched = min(4 * searched, n - 1)
            found = knn_graph(x, k=searched, metric=metric)
        max_degree = max(1, int(jnp.max(jnp.sum(found.distances <= radius, axis=1))))
    else:
        positive_integer(max_degree, "max_degree", most=n - 1, why=f" for {n} points")
        found = knn_graph(x, k=min(max_degree + 1, n - 1), metric=metric)
    inside = found.distances <= radius
    crowded = jnp.any(inside[:, max_degree:]) | jnp.any(jnp.isnan(found.distances))
    indices = jnp.where(inside, found.indices, -1)[:, :max_degree]
    distances = jnp.where(inside, found.distances, jnp.inf)[:, :max_degree]
    return KNNGraph(indices, jnp.where(crowded, jnp.nan, distances))


@partial(jax.jit, static_argnames=("k", "metric"))
def _knn(x: Float[Array, "n d"], k: int, metric: Any) -> KNNGraph:
    finite = jnp.all(jnp.isfinite(x))
    safe = jnp.where(jnp.isfinite(x), x, 0)
    # A power of two changes no digit, and keeps squares from overflowing.
    _, exponent = jnp.frexp(jnp.max(jnp.abs(lax.stop_gradient(safe))))
    scale = jnp.ldexp(jnp.ones((), x.dtype), jnp.where(metric in ("euclidean", "cosine"), exponent, 0))
    scaled = safe / scale
    if metric == "cosine":
        scaled, scale = _directions(scaled), jnp.ones((), x.dtype)
    function = metric_function("euclidean" if metric == "cosine" else metric)
    search = _search_products if metric in ("euclidean", "cosine") else partial(_search_differences, function=function)
    indices = search(lax.stop_gradient(scaled), k=k)

    def column(j: Int[Array, " n"]) -> Float[Array, " n"]:
        return jax.vmap(function)(scaled, scaled[j])

    distances = lax.map(column, indices.T).T * scale
    distances, indices = lax.sort((distances, indices), num_keys=2)
    return KNNGraph(indices, jnp.where(finite, distances, jnp.nan))


def _directions(x: Float[Array, "n d"]) -> Float[Array, "n d"]:
    x = x / jnp.max(jnp.abs(x), axis=1, keepdims=True)
    return x / jnp.sqrt(jnp.sum(jnp.square(x), axis=1, keepdims=True))


def _search_products(x: Float[Array, "n d"], k: int) -> Int[Array, "n k"]:
    """Neighbours by matrix products, with a proof for each row or a search by differences."""
    n, d = x.shape
    x = jnp.where(jnp.isfinite(x), x, 0)
    kept = min(k + SPARE, n - 1)
    size = _block_size(n, x.dtype.itemsize)
    # A median of some rows: unlike the mean, a few far outliers do not move it, and rounding grows with the norms.
    centred = x - jnp.median(x[:: max(1, n // 256)], axis=0)
    half = 0.5 * jnp.sum(jnp.square(centred), axis=1)
    norm = jnp.sqrt(2 * half)
    # Sums of d products, in any order, are off by at most about d/2 eps |x||y|.
    slack = (0.5 * d + 8) * jnp.finfo(x.dtype).eps
    lowered, steepness = half * (1 - slack), slack * norm
    transposed = centred.T

    def block(rows: Int[Array, " b"]) -> tuple[Int[Array, "b k"], Bool[Array, " b"]]:
        queries = centred[rows]
        products = jnp.dot(queries, transposed, precision=lax.Precision.HIGHEST)
        # |y|^2/2 - x.y ranks as the distance does; less the rounding error it is a lower bound.
        bound = lowered - products - norm[rows][:, None] * steepness
        bound = jnp.where(jnp.arange(n) == rows[:, None], jnp.inf, bound)
        last, candidates = _smallest(bound, kept)
        nearest, farthest = _rank_by_differences(x, rows, candidates, k)
        worst = 0.5 * farthest * (1 + slack) - half[rows] * (1 - slack)
        return nearest, (worst < last) | (kept == n - 1)

    blocks = -(-n // size)
    rows = jnp.minimum(jnp.arange(blocks * size), n - 1).reshape(blocks, size)
    nearest, proven = lax.map(block, rows)
    return _rescue(x, nearest.reshape(-1, k)[:n], ~proven.reshape(-1)[:n], kept)


def _rescue(x: Array, nearest: Int[Array, "n k"], doubtful: Bool[Array, " n"], kept: int) -> Int[Array, "n k"]:
    """Search the doubtful rows by differences, some at a time; none costs nothing."""
    n, k = nearest.shape
    count = jnp.sum(doubtful)
    waiting = jnp.nonzero(doubtful, size=n + RESCUED, fill_value=n)[0]
    features = x.T

    def rescue(state: tuple[Array, Array]) -> tuple[Array, Array]:
        start, nearest = state
        rows = lax.dynamic_slice(waiting, (start,), (RESCUED,))
        queries = features[:, jnp.minimum(rows, n - 1)]

        def add(i: Array, total: Array) -> Array:
            return total + jnp.square(queries[i][:, None] - features[i][None, :])

        squared = lax.fori_loop(0, x.shape[1], add, jnp.zeros((RESCUED, n), x.dtype))
        squared = jnp.where(jnp.arange(n) == rows[:, None], jnp.inf, squared)
        _, candidates = _smallest(squared, kept)
        found, _ = _rank_by_differences(x, jnp.minimum(rows, n - 1), candidates, k)
        return start + RESCUED, nearest.at[rows].set(found, mode="drop")

    return lax.while_loop(lambda state: state[0] < count, rescue, (jnp.int32(0), nearest))[1]


def _rank_by_differences(
    x: Array, rows: Int[Array, " b"], candidates: Int[Array, "b m"], k: int
) -> tuple[Int[Array, "b k"], Float[Array, " b"]]:
    """The nearest k of the candidates, and the squared distance of the last of them."""
    candidates = jnp.sort(candidates, axis=1)  # so that ties go to the lowest index
    squared = lax.map(lambda j: jnp.sum(jnp.square(x[rows] - x[j]), axis=1), candidates.T).T
    negative, order = lax.top_k(-squared, k)
    return jnp.take_along_axis(candidates, order, axis=1), -negative[:, -1]


def _smallest(values: Float[Array, "b n"], m: int) -> tuple[Float[Array, " b"], Int[Array, "b m"]]:
    """The m-th smallest value of each row, and the indices of the m smallest, ties to the lowest index.

    The m smallest lie in the m groups of smallest minima, so that only those are sorted: on CPU ten times faster than
    `top_k` of the row.
    """
    b, n = values.shape
    group = 2 ** round(math.log2(max(n / m, 1)) / 2)  # n / group + m * group values are sorted: least at sqrt(n / m)
    if group < 2:
        negative, indices = lax.top_k(-values, m)
        return -negative[:, -1], indices
    values = jnp.pad(values, ((0, 0), (0, -n % group)), constant_values=jnp.inf)
    _, groups = lax.top_k(-values.reshape(b, -1, group).min(axis=2), m)
    members = (jnp.sort(groups, axis=1)[:, :, None] * group + jnp.arange(group, dtype=groups.dtype)).reshape(b, -1)
    negative, order = lax.top_k(-jnp.take_along_axis(values, members, axis=1), m)
    return -negative[:, -1], jnp.take_along_axis(members, order, axis=1)


def _search_differences(x: Float[Array, "n d"], k: int, function: Any) -> Int[Array, "n k"]:
    """Neighbours by the metric itself, for metrics that are no matrix product."""
    n, d = x.shape

    def row(i: Array) -> Int[Array, " k"]:
        distances = jax.vmap(lambda y: function(x[i], y))(x)
        return lax.top_k(-jnp.where(jnp.arange(n) == i, jnp.inf, distances), k)[1]

    return lax.map(row, jnp.arange(n), batch_size=min(n, max(1, BLOCK_BYTES // (n * d * x.dtype.itemsize))))


def _block_size(n: int, itemsize: int) -> int:
    return int(min(n, max(8, min(512, BLOCK_BYTES // (n * itemsize)))))
