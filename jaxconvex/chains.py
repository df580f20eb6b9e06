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
# What a point outside costs in the lexicographic pass, where a hop costs 1 and all excess together less than 1.
FOREIGN, LEAST_EXCESS = 2.0**20, 0.25
CROSSED, TIES, HOPS = 20, 40, 2**20 - 1  # the bits of hops, points outside and ties in one integer


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

    interior, outside = np.zeros((2, *targets.shape), np.int32)
    distances, parents = csgraph.dijkstra(matrix, directed=True, indices=sources, return_predecessors=True)
    degrees = np.diff(matrix.indptr)
    for j, source in enumerate(sources):
        distance, parent, foreign = distances[j], parents[j], labels != labels[source]
        arrival, allowed = np.take(distance, matrix.indices), tolerance * distance
        gap = np.repeat(distance, degrees)
        gap += matrix.data
        with np.errstate(invalid="ignore"):  # nan where nothing is reached: no edge of a shortest path
            gap -= arrival
        arrival *= tolerance
        tight = np.flatnonzero(gap <= arrival)
        ties = 0
        if len(tight) >= np.count_nonzero(np.isfinite(distance)):  # more than the edges of one tree
            ties = np.bincount(matrix.indices[tight], minlength=len(labels)) > 1
        counts = _counts(parent, foreign, ties)[targets[:, j]]
        if np.any(counts >> TIES):
            parent = _lexicographic_parents(matrix, tight, gap[tight], foreign, allowed, source, targets[:, j])
            counts = _counts(parent, foreign, 0)[targets[:, j]]
        reached = np.isfinite(distance[targets[:, j]])
        interior[:, j] = np.where(reached, np.maximum((counts & HOPS) - 1, 0), -1)
        outside[:, j] = np.where(reached, (counts >> CROSSED) & HOPS, 0)
    return PathCounts(interior, outside)


def _counts(parent: np.ndarray, foreign: np.ndarray, ties: Any) -> np.ndarray:
    """For the way from the root to each point: hops, points outside before it and points with ties, in one integer."""
    outside = np.where(parent >= 0, foreign[np.maximum(parent, 0)], 0).astype(np.int64)
    return _climb(parent, 1 + (outside << CROSSED) + (np.int64(1) << TIES) * ties)


def _lexicographic_parents(
    matrix: Any,
    tight: np.ndarray,
    gap: np.ndarray,
    foreign: np.ndarray,
    allowed: np.ndarray,
    source: int,
    targets: np.ndarray,
) -> np.ndarray:
    """Parents on the paths with the fewest points outside, then the fewest hops, then the least excess.

    Args:
        tight, gap: the edges of shortest paths, by their place in the matrix, and by how much each exceeds the distance.
        targets: the points whose paths must keep what they exceed the distance by, in all, within what is allowed.
    """
    from scipy.sparse import csgraph, csr_matrix

    n = len(foreign)
    starts, ends = np.repeat(np.arange(n), np.diff(matrix.indptr))[tight], matrix.indices[tight]
    finite = np.isfinite(allowed)
    least = LEAST_EXCESS / max(float(allowed[finite].max(initial=0)), np.finfo(float).tiny)
    price = 1 + FOREIGN * foreign[starts] + least * np.maximum(gap, 0)
    some = csr_matrix((price, ends, np.searchsorted(tight, matrix.indptr)), shape=(n, n))
    _, parent = csgraph.dijkstra(some, directed=True, indices=source, return_predecessors=True)
    chosen = parent[ends] == starts
    step = np.zeros(n)
    step[ends[chosen]] = gap[chosen]
    beyond = np.where(finite, _climb(parent, step) > allowed, False)
    if np.any(_climb(parent, beyond.astype(int))[targets]):  # many small excesses, each within the rounding of its path
        return _cheapest_within(starts, ends, gap, foreign, allowed, source)
    return parent


def _climb(parent: np.ndarray, step: np.ndarray) -> np.ndarray:
    """The sum of `step` over the way from each point to its root, by doubling the steps taken at once."""
    ancestor = np.where(parent >= 0, parent, np.arange(len(parent)))
    total = np.where(parent >= 0, step, 0)
    while True:
        beyond = ancestor[ancestor]
        if np.array_equal(ancestor, beyond):
            return total
        total, ancestor = total + total[ancestor], beyond


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
