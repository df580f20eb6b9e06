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

from jaxconvex.paths.graph import PackedGraph
from jaxconvex.paths.tie_rule import PathCounts

__all__ = ["LONG", "chain_path_counts", "chain_tolerance", "edge_matrix", "is_long"]

LONG = 32  # hops from a root: beyond, paths may take more than 50 sweeps
CROSSED = 32  # points outside above that bit, hops below it, in one integer


def edge_matrix(packed: PackedGraph) -> Any:
    """The edges between rows as a sparse matrix in float64; length 0 as the smallest positive number."""
    from scipy.sparse import csr_matrix  # here, since its import takes half as long as jax's

    neighbors, lengths, owner = (np.asarray(part) for part in (packed.neighbors, packed.lengths, packed.owner))
    rows, there = len(packed.first), np.isfinite(lengths)
    ends = np.concatenate([[0], np.cumsum(np.bincount(owner, there.sum(axis=1), minlength=rows)[:rows])])
    lengths = np.maximum(lengths[there].astype(float), np.finfo(float).tiny)
    return csr_matrix((lengths, neighbors[there], ends.astype(np.int32)), shape=(rows, rows))


def is_long(packed: PackedGraph) -> bool:
    """Whether this engine searches the graph, rather than sweeps: for a score and for its null."""
    return int(packed.depth) > LONG


def chain_tolerance(packed: PackedGraph) -> float:
    """By how much, relative to its length, a path may exceed the distance and still be as short: see `rounding_slack`."""
    return 2 * float(jnp.finfo(packed.quantum.dtype).eps) + 1e-12


def chain_path_counts(
    matrix: Any,
    labels: Int[np.ndarray, " rows"],
    sources: Int[np.ndarray, " s"],
    targets: Int[np.ndarray, " t"],
    tolerance: float,
) -> PathCounts:
    """`PathCounts` [t s] from some rows to others, by the same tie rule as the other engines.

    A path may exceed the distance by the relative `tolerance`. The rule is that of `tie_rule`, for one source after
    another: points are settled in order of distance, so that mostly all that leads to a point is known when its turn comes.

    Cost: a run of scipy's dijkstra a source, which holds Python's lock, and one pass over the edges, which does not; memory
    of 40 bytes a source and point.
    """
    from scipy.sparse import csgraph

    # Points that are near each other get numbers near each other: for the cache, and since nearly sorted is soon sorted.
    by_rank = np.argsort(csgraph.dijkstra(matrix, directed=True, indices=sources[0]), kind="stable")
    number = np.empty(len(labels), np.int64)
    number[by_rank] = np.arange(len(labels))
    matrix, goals = matrix[by_rank][:, by_rank], np.broadcast_to(number[targets], (len(sources), len(targets)))
    distances = csgraph.dijkstra(matrix, directed=True, indices=number[sources])
    order = np.argsort(distances, axis=1, kind="stable").astype(np.int32)
    length = np.take_along_axis(distances, goals, axis=1)
    reached = np.isfinite(length)
    farthest = np.max(length, axis=1, where=reached, initial=0, keepdims=True)
    settled = np.count_nonzero(distances <= farthest, axis=1)
    room = -len(matrix.data) % (4 * len(labels))  # so that graphs of as many points share a compilation
    edges = matrix.indptr, np.pad(matrix.indices, (0, room)), np.pad(matrix.data, (0, room))
    short = _short_edges(matrix, tolerance * float(np.max(farthest)))
    with jax.enable_x64(True), jax.default_device(_host()):
        costs = np.asarray(_in_order(edges, short, labels[by_rank], order, distances, settled, tolerance))
    cost = np.take_along_axis(costs, goals, axis=1)
    interior = np.where(reached, np.maximum((cost & (2**CROSSED - 1)) - 1, 0), -1)
    outside = np.where(reached, cost >> CROSSED, 0)
    parts: Any = interior.T, outside.T
    return PathCounts(*(part.astype(np.int32) for part in parts))


def _host() -> Any:
    """The processor, where loops over single numbers are fast; None, JAX's own choice, if JAX was told to leave it out."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return None


def _short_edges(matrix: Any, most: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The edges up to that length: where they start, where they end, and their lengths; padded to a power of two."""
    few = np.flatnonzero(matrix.data <= most)
    end = np.searchsorted(matrix.indptr, few, side="right") - 1
    room = 0, (1 << len(few).bit_length()) - len(few)
    lengths = np.pad(matrix.data[few], room, constant_values=np.inf)
    return np.pad(matrix.indices[few], room), np.pad(end, room), lengths


@jax.jit
def _in_order(
    edges: tuple[Array, Array, Array],
    short: tuple[Array, Array, Array],
    labels: Array,
    order: Array,
    distances: Array,
    settled: Array,
    tolerance: Array,
) -> Array:
    """Hops and points outside, in one integer, on the best paths to all points [s n] whose excess is allowed throughout.

    The first `settled` points of each `order` are gone through, the first being the source. Only `short` edges can lead
    back in it: where one of them offers less than what was found, again, until nothing changes any more. These are loops
    over single numbers, since of those XLA makes one kernel on a CPU.
    """
    pointers, starts, lengths = edges
    none = jnp.int64(2**62)

    def one(source: tuple[Array, ...]) -> Array:
        order, distance, settled = source
        step = 1 + ((labels != labels[order[0]]).astype(none.dtype) << CROSSED)

        def settle(rank: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
            cost, excess = state
            point = _at(order, rank)
            here = _at(distance, point)
            allowed = tolerance * here

            def edge(place: Array, best: tuple[Array, Array]) -> tuple[Array, Array]:
                least, more = best
                start = _at(starts, place)
                longer = _at(excess, start) + (_at(distance, start) + _at(lengths, place) - here)
                offer = jnp.where(longer <= allowed, _at(cost, start), none)
                more = jnp.where(offer < least, longer, jnp.where(offer > least, more, jnp.minimum(longer, more)))
                return jnp.minimum(offer, least), more

            ends = _at(pointers, point), _at(pointers, point + 1)
            least, more = lax.fori_loop(*ends, edge, (none, jnp.inf))
            least += _at(step, point)  # what it costs to go on from here
            put = lax.dynamic_update_index_in_dim
            return put(cost, least, point, 0), put(excess, more, point, 0)

        def offers_less(cost: Array, excess: Array) -> Array:
            start, end, lengths = short
            longer = excess[start] + (distance[start] + lengths - distance[end])
            ahead, here = cost[start] + step[end], cost[end]
            less = (ahead < here) | ((ahead == here) & (longer < excess[end]))
            return jnp.any(less & (longer <= tolerance * distance[end]))

        def once(state: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
            old, passes = state[:2], state[3]
            new = lax.fori_loop(1, settled, settle, old)
            changed = jnp.any(new[0] != old[0]) | jnp.any(new[1] != old[1])
            return *new, changed & ((passes > 0) | offers_less(*new)), passes + 1

        first = jnp.arange(len(order)) == order[0]
        start = jnp.where(first, 1, none), jnp.where(first, 0, jnp.inf), jnp.array(True), jnp.int32(0)
        return lax.while_loop(lambda state: state[2], once, start)[0] - step

    return lax.map(one, (order, distances, settled))


def _at(values: Array, place: Array) -> Array:
    return lax.dynamic_index_in_dim(values, place, keepdims=False)
