"""The engine for long chains, on the host: Dijkstra's algorithm, whose cost does not grow with the hops of a path.

A curve or a swiss roll has paths of hundreds of hops, and sweeps over all rows are needed as often as a path has hops.
"""

from __future__ import annotations

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

    An edge may exceed the distance it bridges by the relative `tolerance` of its length, so that the excess of a path stays
    within the same share of the whole. Where a point is reached by several equally short paths, a second
    search over the edges of shortest paths finds the one with the fewest points outside, then the fewest hops.
    """
    from scipy.sparse import csgraph, csr_matrix

    starts = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    ends = matrix.indices
    interior, outside = np.zeros((2, *targets.shape), np.int32)
    distances, parents = csgraph.dijkstra(matrix, directed=True, indices=sources, return_predecessors=True)
    for j, source in enumerate(sources):
        distance, foreign = distances[j], labels != labels[source]
        known = np.isfinite(distance[starts])
        gap = np.where(known, distance[starts], 0) + matrix.data - np.where(known, distance[ends], 0)
        tight = known & (gap <= tolerance * matrix.data + 1e-12 * distance[ends])
        if np.bincount(ends[tight], minlength=len(labels)).max(initial=0) > 1:
            prices = 1 + FOREIGN * foreign[starts[tight]]
            graph = csr_matrix((prices, (starts[tight], ends[tight])), shape=matrix.shape)
            cost = csgraph.dijkstra(graph, directed=True, indices=source)
            cost = np.where(np.isfinite(cost), cost, 0)
            hops, crossed = cost % FOREIGN, cost // FOREIGN
        else:
            hops, crossed = _climb(parents[j], foreign)
        reached = np.isfinite(distance)
        interior[:, j] = np.where(reached, np.maximum(hops - 1, 0), -1)[targets[:, j]]
        outside[:, j] = np.where(reached, crossed, 0)[targets[:, j]]
    return PathCounts(interior, outside)


def _climb(parent: np.ndarray, foreign: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Hops from the source to each point, and the points outside between them, by doubling the steps taken at once."""
    linked = parent >= 0
    ancestor = np.where(linked, parent, np.arange(len(parent)))
    hops = linked.astype(np.int64)
    crossed = np.where(linked, foreign[ancestor], 0)
    while not np.array_equal(ancestor, ancestor[ancestor]) or np.any(hops[ancestor]):
        hops, crossed = hops + hops[ancestor], crossed + crossed[ancestor]
        ancestor = ancestor[ancestor]
    return hops, crossed
