"""The fast engine for shortest paths: the packed graph, blocks of sources, parents and walks.

Rows of near-equal degree are swept together, with the sources in the minor axis, so that every read fetches whole cache
lines. Sweeps stop at the farthest target. It counts the same as `paths.edge_path_counts`, pair by pair.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Int

from jaxconvex.graphs import UNREACHED, PackedGraph
from jaxconvex.paths import (
    OUTSIDE,
    PathCounts,
    cheapest,
    counts_of_cost,
    from_sources,
    infinity,
    rounding_slack,
    settle,
)

__all__ = ["over_neighbors", "packed_path_counts", "packed_relax", "rows_of", "slices_of"]

NARROW = 16  # sources with ties, solved together
WALKED = 128  # targets walked together


@jax.jit
def packed_path_counts(
    packed: PackedGraph, labels: Int[Array, " rows"], sources: Int[Array, " s"], targets: Int[Array, "t s"]
) -> PathCounts:
    """`PathCounts` [t s] of one block of sources, each with its own targets, named by their rows in the packed graph.

    Distances first, by sweeps bounded by the farthest target; then each row's parent; then a walk from every target to
    its source. Only sources with a tie on a walked path take the lexicographic pass.
    """
    column = jnp.arange(sources.shape[0])
    far = infinity(packed.lengths.dtype)
    within = packed.component[targets] == packed.component[sources][None, :]

    def limit(distance: Array) -> Array:
        farthest = jnp.max(jnp.where(within, distance[targets, column], 0), axis=0)
        return farthest + rounding_slack(farthest, packed.edges.lengths.dtype, 2 * packed.depth) + 1

    distance = settle(
        partial(packed_relax, packed), from_sources(labels.shape[0], sources, packed.lengths.dtype), limit
    )
    reached = (distance[targets, column] < far) & within
    if jnp.issubdtype(distance.dtype, jnp.integer):
        parent = _packed_parents(packed, distance)
        counts, tied = _walk(parent, labels, sources, targets, reached)
    else:  # edges may have length 0, along which parents would go in circles
        counts = PathCounts(jnp.zeros(targets.shape, jnp.int32), jnp.zeros(targets.shape, jnp.int32))
        tied = jnp.ones(sources.shape, bool)
    return _resolve_ties(packed, labels, sources, targets, distance, limit(distance), reached, counts, tied)


def over_neighbors(packed: PackedGraph, index: Array, initial: Any, step: Callable, *, unroll: bool = True) -> Any:
    """Fold the neighbours of one slice of rows, a few at a time."""

    def group(g: Array, accumulated: Any) -> Any:
        neighbors, lengths = packed.neighbors[g], packed.lengths[g]

        def neighbor(j: int | Array, accumulated: Any) -> Any:
            return step(accumulated, neighbors[:, j], lengths[:, j][:, None])

        return lax.fori_loop(0, neighbors.shape[1], neighbor, accumulated, unroll=unroll)

    return lax.fori_loop(packed.starts[index], packed.starts[index + 1], group, initial)


def slices_of(packed: PackedGraph, values: Array) -> tuple[Array, Array]:
    """The slices by number, and the values of their rows."""
    size = packed.neighbors.shape[1]
    slices = values.shape[0] // size
    return jnp.arange(slices), values.reshape(slices, size, *values.shape[1:])


def rows_of(values: Array, rows: Array) -> Array:
    return values.at[rows].get(mode="promise_in_bounds")


def packed_relax(packed: PackedGraph, distance: Array) -> tuple[Array, Array]:
    far = infinity(distance.dtype)

    def one(item: tuple[Array, Array]) -> tuple[Array, Array]:
        index, old = item
        new = over_neighbors(packed, index, old, lambda a, u, w: jnp.minimum(a, rows_of(distance, u) + w))
        return new, jnp.min(jnp.where(new < old, new, far), axis=0)

    new, least = lax.map(one, slices_of(packed, distance))
    return new.reshape(distance.shape), jnp.min(least, axis=0)


def _packed_parents(packed: PackedGraph, distance: Array) -> Int[Array, "rows s"]:
    """Each row's predecessor on its shortest path, as 2 * row + 1 if another path is as short.

    The predecessor's path is shortest to the quantum, so that parents never go in circles, as equal points would.
    """
    none = jnp.int32(2**30)

    def one(item: tuple[Array, Array]) -> Array:
        index, own = item
        slack = rounding_slack(own, packed.edges.lengths.dtype, 2 * packed.depth)  # paths may have twice a root's hops
        reach = jnp.where(own < UNREACHED, own + slack, -1)

        def step(found: Array, u: Array, w: Array) -> Array:
            length = rows_of(distance, u) + w
            exact = length == own
            tie = (length <= reach) & (~exact | (found < none))
            parent = jnp.minimum(found | 1, jnp.where(exact, 2 * u[:, None] + 1, none + 1))
            return parent - 1 + ((found & 1) | tie)

        return over_neighbors(packed, index, jnp.full(own.shape, none), step)

    return lax.map(one, slices_of(packed, distance)).reshape(distance.shape)


def _walk(
    parent: Array, labels: Array, sources: Array, targets: Array, reached: Array
) -> tuple[PathCounts, Bool[Array, " s"]]:
    """Walk from every target to its source, counting; and the sources on one of whose walks a tie lay."""
    t, s = targets.shape
    column = jnp.arange(s)
    flat = parent.reshape(-1)
    own = labels[sources]

    def chunk(some: Array) -> tuple[Array, Array, Array]:
        def step(state: Any) -> Any:
            at, hops, outside, tied, _ = state
            active = at != sources
            link = rows_of(flat, jnp.where(active, at * s + column, 0))
            after = jnp.where(active, link >> 1, at)
            foreign = active & (after != sources) & (rows_of(labels, after) != own)
            tied |= active & ((link & 1) > 0)
            return after, hops + active, outside + foreign, tied, jnp.any(after != sources)

        at = jnp.where(reached[some], targets[some], sources)
        zero = jnp.zeros(at.shape, jnp.int32)
        state = at, zero, zero, jnp.zeros(at.shape, bool), jnp.any(at != sources)
        _, hops, outside, tied, _ = lax.while_loop(lambda state: state[-1], step, state)
        return hops, outside, jnp.any(tied, axis=0)

    rows = min(WALKED, t)
    whole = jnp.minimum(jnp.arange(-(-t // rows) * rows), t - 1).reshape(-1, rows)
    hops, outside, tied = lax.map(chunk, whole)
    hops, outside = hops.reshape(-1, s)[:t], outside.reshape(-1, s)[:t]
    interior = jnp.where(reached, jnp.maximum(hops - 1, 0), -1)
    return PathCounts(interior, outside), jnp.any(tied, axis=0)


def _resolve_ties(
    packed: PackedGraph,
    labels: Array,
    sources: Array,
    targets: Array,
    distance: Array,
    limit: Array,
    reached: Array,
    counts: PathCounts,
    tied: Bool[Array, " s"],
) -> PathCounts:
    """The lexicographic pass (fewest outside, then fewest hops) for the tied sources, some at a time."""
    s = sources.shape[0]
    narrow = min(NARROW, s)
    waiting = jnp.concatenate([jnp.nonzero(tied, size=s, fill_value=s)[0], jnp.full(narrow, s)])

    def some(state: tuple[Array, PathCounts]) -> tuple[Array, PathCounts]:
        first, counts = state
        columns = lax.dynamic_slice(waiting, (first,), (narrow,))
        index = jnp.minimum(columns, s - 1)
        near, own, bound = distance[:, index], labels[sources[index]], limit[index]

        def relax(state: tuple[Array, Array]) -> tuple[Array, Array]:
            cost, excess = state

            def one(item: tuple[Array, tuple[Array, Array, Array]]) -> tuple[Array, Array]:
                slice_index, (own_distance, old_cost, old_excess) = item
                live = own_distance < bound

                def step(best: tuple[Array, Array], u: Array, w: Array) -> tuple[Array, Array]:
                    foreign = (rows_of(labels, u)[:, None] != own).astype(jnp.int32)
                    offer = rows_of(cost, u) + (1 + OUTSIDE * foreign)
                    length = rows_of(near, u) + w
                    longer = rows_of(excess, u) + (length - own_distance)
                    better = (offer < best[0]) | ((offer == best[0]) & (longer < best[1]))
                    allowed = rounding_slack(own_distance, packed.edges.lengths.dtype, offer % OUTSIDE)
                    better &= live & (longer <= allowed)
                    return jnp.where(better, offer, best[0]), jnp.where(better, longer, best[1])

                return over_neighbors(packed, slice_index, (old_cost, old_excess), step, unroll=False)

            slices = slices_of(packed, near)[0]
            new = lax.map(one, (slices, tuple(slices_of(packed, v)[1] for v in (near, cost, excess))))
            return new[0].reshape(cost.shape), new[1].reshape(cost.shape)

        start = from_sources(labels.shape[0], sources[index], jnp.int32), jnp.zeros_like(near)
        cost = cheapest(relax, start)[0]
        found = counts_of_cost(cost[targets[:, index], jnp.arange(narrow)], reached[:, index])

        return first + narrow, PathCounts(
            counts.interior.at[:, columns].set(found.interior, mode="drop"),
            counts.outside.at[:, columns].set(found.outside, mode="drop"),
        )

    total = jnp.sum(tied)
    return lax.while_loop(lambda state: state[0] < total, some, (jnp.int32(0), counts))[1]
