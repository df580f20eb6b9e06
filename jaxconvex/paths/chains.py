"""The engine for long chains, on the host: Dijkstra's algorithm, whose cost does not grow with the hops of a path.

A curve or a swiss roll has paths of hundreds of hops, and sweeps over all rows are needed as often as a path has hops.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Int

from jaxconvex.paths.graph import PackedGraph, as_graph
from jaxconvex.paths.tie_rule import PathCounts

__all__ = ["LONG", "chain_path_counts", "chain_tolerance", "climb", "edge_matrix", "is_long"]

LONG = 32  # hops from a root: beyond, paths may take more than 50 sweeps
# What a point outside costs in the lexicographic pass, where a hop costs 1 and all excess together less than 1.
FOREIGN, LEAST_EXCESS = 2**20, 0.25
CROSSED, TIES, HOPS = 20, 40, 2**20 - 1  # hops, points outside (as in the price) and ties in one integer
TOGETHER = 32  # sources whose points are settled in step


def edge_matrix(packed: PackedGraph) -> Any:
    """The edges as a sparse matrix in float64, row = where an edge starts; length 0 as the smallest positive number."""
    from scipy.sparse import coo_matrix  # here, since its import takes half as long as jax's

    n, edges = packed.position.shape[0], as_graph(packed)
    lengths = np.asarray(edges.lengths)
    there = np.isfinite(lengths)
    ends = np.asarray(edges.senders)[there], np.asarray(edges.receivers)[there]
    return coo_matrix((np.maximum(lengths[there].astype(float), np.finfo(float).tiny), ends), shape=(n, n)).tocsr()


def is_long(packed: PackedGraph) -> bool:
    """Whether this engine searches the graph, rather than sweeps: for a score and for its null."""
    return int(packed.depth) > LONG


def chain_tolerance(packed: PackedGraph) -> float:
    """By how much, relative to its length, a path may exceed the distance and still be as short: see `rounding_slack`."""
    return 2 * float(jnp.finfo(packed.quantum.dtype).eps) + 1e-12


def chain_path_counts(
    matrix: Any,
    labels: Int[np.ndarray, " n"],
    sources: Int[np.ndarray, " s"],
    targets: Int[np.ndarray, "t s"],
    tolerance: float,
) -> PathCounts:
    """`PathCounts` [t s] of some sources, each with its own targets, by the same tie rule as the other engines.

    A path may exceed the distance by the relative `tolerance`. Where a point on a path to a target is reached by several
    equally short paths, a second search over the edges of shortest paths finds the one with the fewest points outside,
    then the fewest hops; and where small excesses add up on it, points are settled in order of distance, with what their
    paths exceed.

    Cost: one or two runs of scipy's dijkstra a source, which hold Python's lock, and some passes over the edges; memory
    of the distances [s n], and of 32 n (edges of shortest paths into a point) 12 bytes where excesses add up.
    """
    from scipy.sparse import csgraph

    interior, outside = np.zeros((2, *targets.shape), np.int32)
    distances, parents = csgraph.dijkstra(matrix, directed=True, indices=sources, return_predecessors=True)
    degrees = np.diff(matrix.indptr)
    starts = np.repeat(np.arange(len(labels), dtype=np.int32), degrees)
    waiting: list[int] = []
    for j, source in enumerate(sources):
        distance, parent, foreign = distances[j], parents[j], labels != labels[source]
        arrival, allowed = np.take(distance, matrix.indices), tolerance * distance
        gap = np.repeat(distance, degrees)
        gap += matrix.data
        with np.errstate(invalid="ignore"):  # nan where nothing is reached: no edge of a shortest path
            gap -= arrival
        arrival *= tolerance
        tight = np.flatnonzero(gap <= arrival)
        ties: Any = 0
        if len(tight) >= np.count_nonzero(np.isfinite(distance)):  # more than the edges of one tree
            ties = np.bincount(matrix.indices[tight], minlength=len(labels)) > 1
        counts = _counts(parent, foreign, ties)[targets[:, j]]
        if np.any(counts >> TIES):
            found = None
            if not waiting:  # where one source needs more, others do
                found = _lexicographic_counts(
                    matrix, (starts[tight], tight), gap[tight], foreign, allowed, source, targets[:, j]
                )
            if found is None:
                waiting.append(j)
                continue
            counts = found[targets[:, j]]
        interior[:, j], outside[:, j] = _split(counts, distance[targets[:, j]])
    for some in (waiting[i : i + TOGETHER] for i in range(0, len(waiting), TOGETHER)):
        counts = _counts_within(matrix, labels, sources[some], distances[some], tolerance)
        for j, one in zip(some, counts, strict=True):
            interior[:, j], outside[:, j] = _split(one[targets[:, j]], distances[j, targets[:, j]])
    return PathCounts(interior, outside)


def _split(counts: np.ndarray, distance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points inside and points outside, from hops and points outside in one integer."""
    reached = np.isfinite(distance)
    interior = np.where(reached, np.maximum((counts & HOPS) - 1, 0), -1)
    return interior, np.where(reached, (counts >> CROSSED) & HOPS, 0)


def _counts(parent: np.ndarray, foreign: np.ndarray, ties: Any) -> np.ndarray:
    """For the way from the root to each point: hops, points outside before it and points with ties, in one integer."""
    outside = np.where(parent >= 0, foreign[np.maximum(parent, 0)], 0).astype(np.int64)
    return climb(parent, 1 + (outside << CROSSED) + (np.int64(1) << TIES) * ties)


def _lexicographic_counts(
    matrix: Any,
    edges: tuple[np.ndarray, np.ndarray],
    gap: np.ndarray,
    foreign: np.ndarray,
    allowed: np.ndarray,
    source: int,
    targets: np.ndarray,
) -> np.ndarray | None:
    """Hops and points outside, in one integer, on paths with the fewest points outside, then hops, then least excess.

    None if small excesses add up to more than the rounding of the path to a target.

    Args:
        edges: those of shortest paths: where they start, and their places in the matrix.
        gap: by how much the distance at their start, and they, exceed the distance at their end.
        targets: the points whose paths must keep what they exceed the distance by, in all, within what is allowed.
    """
    from scipy.sparse import csgraph, csr_matrix

    starts, tight = edges
    n, ends = len(foreign), matrix.indices[tight]
    largest = float(np.max(allowed, where=np.isfinite(allowed), initial=np.finfo(float).tiny))
    price = (1 + FOREIGN * foreign)[starts] + LEAST_EXCESS / largest * np.maximum(gap, 0)
    some = csr_matrix((price, ends, np.searchsorted(tight, matrix.indptr)), shape=(n, n))
    cost, parent = csgraph.dijkstra(some, directed=True, indices=source, return_predecessors=True)
    chosen = parent[ends] == starts
    step = np.zeros(n)
    step[ends[chosen]] = gap[chosen]
    beyond = climb(parent, step) > allowed
    if np.any(beyond) and np.any(climb(parent, beyond.astype(int))[targets]):
        return None
    return np.where(np.isfinite(cost), cost, 0).astype(np.int64)


def climb(parent: np.ndarray, step: np.ndarray) -> np.ndarray:
    """The sum of `step` over the way from each point to its root, by doubling the steps taken at once."""
    ancestor = np.where(parent >= 0, parent, np.arange(len(parent)))
    total = np.where(parent >= 0, step, 0)
    while True:
        beyond = ancestor[ancestor]
        if np.array_equal(ancestor, beyond):
            return total
        total, ancestor = total + total[ancestor], beyond


def _counts_within(
    matrix: Any,
    labels: np.ndarray,
    sources: np.ndarray,
    distances: np.ndarray,
    tolerance: float,
) -> np.ndarray:
    """Hops and points outside, in one integer, on the best path whose excess is allowed at each of its points, [s n].

    The rule is that of `paths.cheapest`. Points are taken in order of distance, so that mostly all that leads to a point
    is known when its turn comes; all sources in step.
    """
    s, n = len(sources), len(labels)
    rows = np.repeat(np.arange(n), np.diff(matrix.indptr))
    order = np.argsort(distances, axis=1, kind="stable")
    parts, back = [], False
    for source, distance, by_rank in zip(sources, distances, order, strict=True):
        foreign, rank = labels != labels[source], np.empty(n, np.int64)
        rank[by_rank] = np.arange(n)
        with np.errstate(invalid="ignore"):
            gap = np.take(distance, matrix.indices) + matrix.data - np.take(distance, rows)  # as long the other way
            tight = np.flatnonzero(gap <= tolerance * np.take(distance, rows))
        ends, before = rows[tight], matrix.indices[tight]
        back |= bool(np.any(rank[before] > rank[ends]))
        slot = np.arange(len(tight)) - np.searchsorted(tight, matrix.indptr)[ends]  # its number among those of its end
        parts.append((rank[ends], slot, 2 * before + foreign[before], gap[tight]))
    width = 1 << int(max(slot.max(initial=0) for _, slot, *_ in parts)).bit_length()
    before, gap = np.full((n, TOGETHER, width), -1, np.int32), np.zeros((n, TOGETHER, width))
    place, allowed = np.zeros((n, TOGETHER), np.int32), np.zeros((n, TOGETHER))
    for j, (rank, slot, link, excess) in enumerate(parts):
        before[rank, j, slot], gap[rank, j, slot] = link, excess
        place[:, j], allowed[:, j] = order[j], tolerance * distances[j, order[j]]
    place[:, s:] = np.arange(n)[:, None]
    with jax.enable_x64(True):
        return np.asarray(_in_order(place, before, gap, allowed, back))[:, :s].T


@jax.jit
def _in_order(place: Array, before: Array, gap: Array, allowed: Array, back: Array) -> Array:
    """The counts [n s] of `_counts_within`, from what leads to each point (2 point + outside; -1: nothing), by rank.

    The first point of each order is the source. Where edges lead `back` in the order, it is gone through until nothing
    changes any more.
    """
    n, s = place.shape
    column, none = jnp.arange(s), jnp.int64(2**62)

    def step(state: tuple[Array, Array], item: tuple[Array, ...]) -> tuple[tuple[Array, Array], None]:
        cost, excess = state
        point, links, more, most, source = item
        at = jnp.maximum(links >> 1, 0), column[:, None]
        offer = cost.at[at].get(mode="promise_in_bounds") + 1 + ((links & 1).astype(none.dtype) << CROSSED)
        longer = excess.at[at].get(mode="promise_in_bounds") + more
        offer = jnp.where((links >= 0) & (longer <= most[:, None]), jnp.minimum(offer, none), none)
        best = jnp.where(source, 0, jnp.min(offer, axis=1))
        least = jnp.where(source, 0, jnp.min(jnp.where(offer == best[:, None], longer, jnp.inf), axis=1))
        cost = cost.at[point, column].set(best, mode="promise_in_bounds")
        return (cost, excess.at[point, column].set(least, mode="promise_in_bounds")), None

    def once(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        cost, excess, _ = state
        items = (place, before, gap, allowed, jnp.arange(n) == 0)
        new, _ = lax.scan(step, (cost, excess), items)
        return *new, back & (jnp.any(new[0] != cost) | jnp.any(new[1] != excess))

    start = jnp.full((n, s), none), jnp.zeros((n, s), gap.dtype), jnp.array(True)
    return lax.while_loop(lambda state: state[2], once, start)[0]
