"""The engine for long chains, on the host: Dijkstra's algorithm, whose cost does not grow with the hops of a path.

A curve or a swiss roll has paths of hundreds of hops, and sweeps over all rows are needed as often as a path has hops.
"""

from __future__ import annotations

import heapq
from typing import Any

import numpy as np
from jaxtyping import Int

from jaxconvex.graphs import PackedGraph
from jaxconvex.paths import PathCounts

__all__ = ["LONG", "chain_path_counts", "edge_matrix"]

LONG = 32  # hops from a root: beyond, paths may take more than 50 sweeps
FOREIGN = 2.0**26  # what a point outside costs in the lexicographic pass, where a hop costs 1


def edge_matrix(packed: PackedGraph) -> Any:
    """The edges as a sparse matrix in float64, row = where an edge starts; length 0 as the smallest positive number."""
    from scipy.sparse import coo_matrix  # here, since its import takes half as long as jax's

    n = packed.position.shape[0]
    lengths = np.asarray(packed.edges.lengths)
    there = np.isfinite(lengths)
    ends = np.asarray(packed.edges.senders)[there], np.asarray(packed.edges.receivers)[there]
    return coo_matrix((np.maximum(lengths[there].astype(float), np.finfo(float).tiny), ends), shape=(n, n)).tocsr()


def chain_path_counts(
    matrix: Any,
    labels: Int[np.ndarray, " n"],
    sources: Int[np.ndarray, " s"],
    targets: Int[np.ndarray, "t s"],
    tolerance: float,
) -> PathCounts:
    """`PathCounts` [t s] of some sources, each with its own targets, by the same tie rule as the other engines.

    A path may exceed the distance by the relative `tolerance`. Where a point is reached by several equally short paths, a
    second search over the edges of shortest paths finds the one with the fewest points outside, then the fewest hops.
    """
    from scipy.sparse import csgraph

    starts = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    ends = matrix.indices
    interior, outside = np.zeros((2, *targets.shape), np.int32)
    distances, parents = csgraph.dijkstra(matrix, directed=True, indices=sources, return_predecessors=True)
    for j, source in enumerate(sources):
        distance, parent, foreign = distances[j], parents[j], labels != labels[source]
        reached = np.isfinite(distance)
        known = np.where(reached, distance, 0)
        gap = known[starts] + matrix.data - known[ends]
        allowed = tolerance * known
        tight = reached[starts] & (gap <= allowed[ends])
        if np.bincount(ends[tight], minlength=len(labels)).max(initial=0) > 1:
            some, price = matrix.copy(), 1 + FOREIGN * foreign[starts]
            some.data = np.where(tight, price, np.inf)  # inf: no edge
            _, parent = csgraph.dijkstra(some, directed=True, indices=source, return_predecessors=True)
            chosen = tight & (parent[ends] == starts)
            step = np.zeros(len(labels))
            step[ends[chosen]] = gap[chosen]
            if np.any(_climb(parent, step) > allowed):  # many small excesses, each within the rounding of its path
                parent = _cheapest_within(starts[tight], ends[tight], gap[tight], foreign, allowed, source)
        hops = _climb(parent, np.ones(len(labels), np.int64))
        crossed = _climb(parent, np.where(parent >= 0, foreign[np.maximum(parent, 0)], False).astype(np.int64))
        interior[:, j] = np.where(reached, np.maximum(hops - 1, 0), -1)[targets[:, j]]
        outside[:, j] = np.where(reached, crossed, 0)[targets[:, j]]
    return PathCounts(interior, outside)


def _climb(parent: np.ndarray, step: np.ndarray) -> np.ndarray:
    """The sum of `step` over the way from each point to its root, by doubling the steps taken at once."""
    ancestor = np.where(parent >= 0, parent, np.arange(len(parent)))
    total = np.where(parent >= 0, step, 0)
    while not np.array_equal(ancestor, ancestor[ancestor]):
        total, ancestor = total + total[ancestor], ancestor[ancestor]
    return total


def _cheapest_within(
    starts: np.ndarray, ends: np.ndarray, gap: np.ndarray, foreign: np.ndarray, allowed: np.ndarray, source: int
) -> np.ndarray:
    """Parents on the paths with the fewest points outside, then the fewest hops, whose excess in all is allowed."""
    following: list[list[tuple[int, float]]] = [[] for _ in foreign]
    for u, v, excess in zip(starts.tolist(), ends.tolist(), gap.tolist(), strict=True):
        following[u].append((v, excess))
    parent = np.full(len(foreign), -1)
    best = {source: (0, 0, 0.0)}
    queue = [(0, 0, 0.0, source)]
    while queue:
        crossed, hops, excess, u = heapq.heappop(queue)
        if (crossed, hops, excess) > best[u]:
            continue
        for v, more in following[u]:
            state = crossed + int(foreign[u]), hops + 1, excess + more
            if state[2] <= allowed[v] and (v not in best or state < best[v]):
                best[v], parent[v] = state, u
                heapq.heappush(queue, (*state, v))
    return parent
