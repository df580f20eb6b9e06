"""Distances from a block of sources in a packed graph: sweeps over the rows that can still change.

A sweep relaxes only the rows next to a change that may reach a target, in place. They are compacted into chunks, whose
reads fetch whole cache lines: the sources lie in the minor axis.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Int

from jaxconvex._internal.loops import cond, fori_loop, while_loop
from jaxconvex.paths.graph import PackedGraph

__all__ = ["AHEAD", "CHUNK", "ONE", "SEVERAL", "UNREACHED", "WIDTH", "Rows", "chosen_rows", "components"]
__all__ += ["distances_from", "fold_groups", "fold_neighbors", "fold_rows", "from_sources", "hops_to_root"]
__all__ += ["in_lengths", "infinity", "parents_of", "put_rows", "rows_of", "whole_lengths"]

UNREACHED = 2**30 - 1  # infinity of whole lengths: two of them still add up without wrapping
WIDTH = 4  # neighbours read at a time
CHUNK = 128  # rows handled together by a processor's core; their number is a multiple of it
WIDE_CHUNK = 4096  # rows of a chunk where launching a kernel costs more than reading beyond the caches
AHEAD = 4  # median edges that one sweep looks ahead of the least change
ONE, SEVERAL = 2**26, 2**27  # ONE is more than there are rows
DOUBLINGS = 26  # of steps along parents: enough for as many rows


class Rows(NamedTuple):
    """Some rows of the packed graph, listed one after the other."""

    listed: Int[Array, " rows"]
    number: Int[Array, ""]


def infinity(dtype: Any) -> float | int:
    """The distance of what is not reached, in whole quanta or floating-point."""
    return UNREACHED if jnp.issubdtype(dtype, jnp.integer) else jnp.inf


def whole_lengths(packed: PackedGraph) -> PackedGraph:
    """The graph with its lengths in whole quanta, at least 1: sums are exact, and the same in any order."""
    whole = jnp.rint(jnp.where(packed.lengths < jnp.inf, packed.lengths, 0) / packed.quantum).astype(jnp.int32)
    lengths = jnp.where(packed.lengths < jnp.inf, jnp.clip(whole, 1, UNREACHED), UNREACHED)
    step = jnp.clip(packed.step / packed.quantum, 1, UNREACHED // AHEAD).astype(jnp.int32)
    return packed._replace(lengths=lengths, step=step)


def in_lengths(packed: PackedGraph, search: Callable[[PackedGraph], Any], whole: bool | None) -> Any:
    """search(packed) with its lengths whole, or floating-point where an outlier would make those coarse; None: not known."""
    if whole is None:
        return cond(packed.quantum > 0, lambda packed: search(whole_lengths(packed)), search, packed)
    return search(whole_lengths(packed) if whole else packed)


def from_sources(total: int, sources: Int[Array, " s"], dtype: Any) -> Array:
    """Distances [rows s] before the first sweep: 0 at the source, infinite elsewhere."""
    return jnp.full((total, sources.shape[0]), infinity(dtype), dtype).at[sources, jnp.arange(sources.shape[0])].set(0)


def rows_of(values: Array, rows: Array) -> Array:
    """The values of some rows, all of them there: without the check, a gather is a copy."""
    return values.at[rows].get(mode="promise_in_bounds")


def chosen_rows(chosen: Bool[Array, " rows"]) -> Rows:
    """The chosen rows, listed in their order."""
    total = chosen.shape[0]
    ahead = jnp.cumsum(chosen.astype(jnp.int32))
    place = jnp.where(chosen, ahead - 1, total)
    numbers = jnp.arange(total, dtype=jnp.int32)
    listed = jnp.zeros(total, jnp.int32).at[place].set(numbers, mode="drop", unique_indices=True)
    return Rows(listed, ahead[-1])


def fold_neighbors(packed: PackedGraph, rows: Array, live: Array, initial: Any, step: Callable) -> Any:
    """step(accumulated, neighbours, lengths) over the neighbours of some rows, one neighbour of every row at a time."""

    def several(accumulated: Any, neighbors: Array, lengths: Array) -> Any:
        for j in range(WIDTH):  # fused to one loop over the lanes
            accumulated = step(accumulated, neighbors[:, j], lengths[:, j : j + 1])
        return accumulated

    return fold_groups(packed, rows, live, initial, several)


def fold_groups(packed: PackedGraph, rows: Array, live: Array, initial: Any, step: Callable) -> Any:
    """step(accumulated, neighbours [r w], lengths [r w]) over the neighbours of some rows, WIDTH of every row at a time."""
    nothing = packed.neighbors.shape[0] - 1  # the last group holds no edge
    first, count = rows_of(packed.first, rows), jnp.where(live, rows_of(packed.count, rows), 0)

    def group(g: Array, accumulated: Any) -> Any:
        index = jnp.where(g < count, first + g, nothing)
        return step(accumulated, rows_of(packed.neighbors, index), rows_of(packed.lengths, index))

    return fori_loop(0, jnp.max(count), group, initial)


def fold_rows(rows: Rows, step: Callable[[Array, Array, Any], Any], initial: Any, few: int = CHUNK) -> Any:
    """step(rows, live, accumulated) over the chunks of the listed rows; a processor's core takes `few` together."""
    total = rows.listed.shape[0]
    chunk = few if jax.default_backend() == "cpu" else math.gcd(total, WIDE_CHUNK)

    def one(index: Array, accumulated: Any) -> Any:
        start = index * chunk
        some = lax.dynamic_slice(rows.listed, (start,), (chunk,))
        return step(some, start + jnp.arange(chunk) < rows.number, accumulated)

    return fori_loop(0, -(-rows.number // chunk), one, initial)


def put_rows(values: Array, rows: Array, live: Array, new: Array) -> Array:
    """The values with those of some rows replaced, in place inside a loop."""
    return values.at[jnp.where(live, rows, len(values))].set(new, mode="drop", unique_indices=True)


def parents_of(packed: PackedGraph, rows: Array, live: Array, distance: Array, reach: Array) -> Int[Array, "r s"]:
    """ONE + u where u alone precedes a row on its shortest paths, SEVERAL where more rows do, 0 where none does.

    Rows precede by an edge if distance and length together are within reach. One of them leaves its number in the sum;
    of two or more, what is left says only that.
    """

    def step(found: Array, neighbors: Array, lengths: Array) -> Array:
        for u, w in zip(neighbors.T, lengths.T, strict=True):
            found = found + jnp.where(rows_of(distance, u) + w[:, None] <= reach, ONE + u[:, None], 0)
        return jnp.minimum(found, SEVERAL)

    return fold_groups(packed, rows, live, jnp.zeros(reach.shape, jnp.int32), step)


def distances_from(packed: PackedGraph, start: Array, limit: Callable[[Array], Array] | None = None) -> Array:
    """Distances [rows s] from where those of `start` are 0, right up to a limit.

    Args:
        packed: the graph.
        start: 0 at the sources, infinity elsewhere: one source a lane, or several, of which the nearest counts.
        limit: from distances to the largest of them that matter, one a lane: what lies beyond is not settled.

    A row waits with the least of its changes that it has not passed on; rows far ahead of the least wait longer, since
    they may change again. Whole lengths give the same distances in any order.
    """
    total = packed.first.shape[0]
    dtype = packed.lengths.dtype
    far = infinity(dtype)

    def sweep(state: Any) -> Any:
        distance, waiting, bound, _ = state
        active = (waiting < jnp.max(bound)) & (waiting <= jnp.min(waiting) + AHEAD * packed.step)
        waiting = jnp.where(active, far, waiting)
        beside = jnp.max(rows_of(active.astype(jnp.int32), packed.neighbors), axis=1) > 0
        rows = chosen_rows(jnp.zeros(total, bool).at[packed.owner].max(beside, mode="drop"))

        def relax(some: Array, live: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
            distance, waiting = state
            old = rows_of(distance, some)
            new = fold_neighbors(packed, some, live, old, lambda a, u, w: jnp.minimum(a, rows_of(distance, u) + w))
            change = _least(jnp.where((new < old) & (new < bound), new, far))
            waits = jnp.minimum(rows_of(waiting, some), change)
            return put_rows(distance, some, live, new), put_rows(waiting, some, live, waits)

        distance, waiting = fold_rows(rows, relax, (distance, waiting))
        bound = bound if limit is None else limit(distance)
        return distance, waiting, bound, jnp.any(waiting < jnp.max(bound))

    begin = start, _least(start), jnp.full_like(start[0], far), jnp.array(True)
    return while_loop(lambda state: state[3], sweep, begin)[0]


def _least(values: Array) -> Array:
    # By halves, since XLA's reduction of the minor axis is not vectorised on CPU.
    while values.shape[1] % 2 == 0 and values.shape[1] > 4:
        half = values.shape[1] // 2
        values = jnp.minimum(values[:, :half], values[:, half:])
    return jnp.min(values, axis=1)


def components(least: Callable[[Array], Array], total: int) -> Int[Array, " rows"]:
    """The connected component of each row, named by its first row.

    `least` gives, from a number for each row, the least of its own and those of its neighbours.

    >>> in_line = lambda name: jnp.minimum(name, jnp.array([name[1], name[0], name[3], name[2]]))
    >>> components(in_line, 4).tolist()
    [0, 0, 2, 2]
    """

    def spread(state: tuple[Array, Array]) -> tuple[Array, Array]:
        name, _ = state
        lowest = least(name)
        lowest = lowest[lowest]  # names point at earlier rows of the component, so this only hastens
        return lowest, jnp.any(lowest != name)

    return while_loop(lambda state: state[1], spread, (jnp.arange(total, dtype=jnp.int32), jnp.array(True)))[0]


def hops_to_root(parent: Int[Array, "*trees rows"]) -> tuple[Int[Array, "*trees rows"], Int[Array, "*trees rows"]]:
    """The root that parents lead to from each row, and the hops there, by doubling the steps taken at once.

    A root is its own parent. Where parents go in circles, what is told means nothing.

    >>> root, hops = hops_to_root(jnp.array([0, 0, 1, 2]))
    >>> root.tolist(), hops.tolist()
    ([0, 0, 0, 0], [0, 1, 2, 3])
    """

    def double(state: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        ancestor, hops, _, count = state
        beyond, more = (jnp.take_along_axis(part, ancestor, axis=-1, mode="clip") for part in (ancestor, hops))
        return beyond, hops + more, jnp.any(beyond != ancestor), count + 1

    away = (parent != jnp.arange(parent.shape[-1], dtype=jnp.int32)).astype(jnp.int32)
    start = parent, away, jnp.array(True), jnp.int32(0)
    return while_loop(lambda state: state[2] & (state[3] < DOUBLINGS), double, start)[:2]
