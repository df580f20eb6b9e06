"""Nearest-neighbour graphs of the points that are left when some are left out: on the host, and under jit."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from jaxconvex._internal.checks import positive_integer
from jaxconvex._internal.loops import cond
from jaxconvex.neighbors.distances import Metric
from jaxconvex.neighbors.knn import KNNGraph, knn_graph, neighbors_of_first
from jaxconvex.neighbors.lists import neighbors_graph

__all__ = ["graph_without", "leave_group_out_graphs", "spare_neighbors"]


def spare_neighbors(k: int, num_points: int) -> int:
    """How many neighbours to search so that nearly all points keep k of them when a fifth of all points is left out.

    >>> spare_neighbors(10, 1000), spare_neighbors(10, 20)
    (28, 19)
    """
    return min(2 * k + 8, num_points - 1)


def leave_group_out_graphs(
    knn: KNNGraph, x: Float[ArrayLike, "n d"], groups: Int[ArrayLike, " n"], *, k: int, metric: Metric = "euclidean"
) -> Iterator[tuple[Bool[np.ndarray, " n"], KNNGraph]]:
    """For each group in turn: which points are left, and the graph of their k nearest neighbours among themselves.

    The neighbours are exactly those that `knn_graph` finds on the points left. All points keep their rows and numbers,
    so that every graph has one shape and nothing is compiled again: the points left out are isolated, padded with index
    -1 and distance inf. Give them label -1, and the scores are those of the points left.

    Args:
        knn: neighbours of all points, more than k of them, as `knn_graph(x, k=spare_neighbors(k, n))` gives: what is
            left of each list is the new list. Where fewer than k are left, that group's graph is searched afresh.
        x: the points.
        groups: the group of each point, any integers, two groups or more. `groups // 2` leaves out two at a time.
        k: neighbours of the new graph; rows are padded where only k points or fewer are left.
        metric: that of knn.

    Lists are nearest first, so a smaller k needs no pass of its own: cut the columns.

    Raises:
        ValueError: groups of another length, or a single group.

    Cost: one pass over knn for each group.

    >>> x = jnp.array([[0.], [1.], [3.], [7.]])
    >>> for kept, graph in leave_group_out_graphs(knn_graph(x, k=3), x, np.array([0, 0, 1, 1]), k=1):
    ...     print(np.flatnonzero(kept).tolist(), graph.indices.ravel().tolist())
    [2, 3] [-1, -1, 3, 2]
    [0, 1] [1, 0, -1, -1]
    """
    group, knn = np.asarray(groups), neighbors_graph(*knn)
    positive_integer(k, "k")
    names, shape = np.unique(group), (len(knn.indices), k)
    if group.shape != shape[:1] or len(names) < 2:
        raise ValueError(
            f"groups must hold one integer for each of {shape[0]} points and name two groups or more; "
            f"got shape {group.shape} and {len(names)} group(s)."
        )
    for name in names:
        kept = group != name
        graph, short = _left_over(knn, kept, k)
        if short:
            members, width = np.flatnonzero(kept), min(k, int(kept.sum()) - 1)
            fresh = knn_graph(np.asarray(x)[kept], k=width, metric=metric)
            neighbors, lengths = np.full(shape, -1, np.int32), np.full(shape, np.inf, knn.distances.dtype)
            neighbors[kept, :width], lengths[kept, :width] = members[fresh.indices], fresh.distances
            graph = KNNGraph(jnp.asarray(neighbors), jnp.asarray(lengths))
        yield kept, graph


@partial(jax.jit, static_argnames="k")
def _left_over(knn: KNNGraph, kept: Bool[Array, " n"], k: int) -> tuple[KNNGraph, Bool[Array, ""]]:
    """Of each list the first k points that are kept, and whether some list holds too few of them."""
    rows = jnp.arange(len(knn.indices))[:, None]
    listed = kept[:, None] & kept[knn.indices] & (knn.indices >= 0)
    number = jnp.cumsum(listed, axis=1)
    column = jnp.where(listed, number - 1, k)  # k and beyond: dropped

    def cut(values: Array, absent: float) -> Array:
        return jnp.full((len(values), k), absent, values.dtype).at[rows, column].set(values, mode="drop")

    short = jnp.any(kept & (number[:, -1] < jnp.minimum(k, jnp.sum(kept) - 1)))
    return KNNGraph(cut(knn.indices, -1), cut(knn.distances, jnp.inf)), short


def graph_without(knn: KNNGraph, x: Float[Array, "n d"], kept: Bool[Array, " n"], k: int, metric: Metric) -> KNNGraph:
    """The graph of the k nearest neighbours of the points that are kept, among themselves: for jit.

    >>> x, kept = jnp.array([[0.0], [1.0], [3.0], [7.0]]), jnp.array([True, False, True, True])
    >>> graph_without(knn_graph(x, k=3), x, kept, 1, "euclidean").indices.ravel().tolist()
    [2, -1, 0, 2]
    """

    def searched(_: KNNGraph) -> KNNGraph:
        order, count = jnp.argsort(~kept, stable=True).astype(jnp.int32), jnp.sum(kept, dtype=jnp.int32)
        found = neighbors_of_first(x[order], count, k=k, metric=metric)
        there = (jnp.arange(k) < count - 1) & (jnp.arange(len(x)) < count)[:, None]
        indices, lengths = jnp.where(there, order[found.indices], -1), jnp.where(there, found.distances, jnp.inf)
        return KNNGraph(*(jnp.zeros_like(part).at[order].set(part) for part in (indices, lengths)))

    graph, short = _left_over(knn, kept, k)
    return cond(short, searched, lambda left: left, graph)
