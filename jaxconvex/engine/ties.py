"""Which of equally short paths counts, in the packed graph: the one with the fewest points outside, then the fewest hops."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Int

from jaxconvex.engine.frontier import Rows, chosen_rows, fold_groups, fold_rows, put_rows, rows_of
from jaxconvex.graphs import UNREACHED, PackedGraph
from jaxconvex.paths import OUTSIDE, PathCounts, counts_of_cost, from_sources, infinity, rounding_slack

__all__ = ["resolve_ties"]

NARROW = 16  # sources with ties, solved together


def resolve_ties(
    packed: PackedGraph,
    labels: Int[Array, " rows"],
    sources: Int[Array, " s"],
    targets: Int[Array, " t"],
    distance: Array,
    tied: Bool[Array, "t s"],
    counts: PathCounts,
) -> PathCounts:
    """The counts [t s], those of the tied pairs replaced by what the lexicographic pass finds, some sources at a time.

    The pass goes over the rows that lie on a shortest path of a tied pair: mostly few.
    """
    s = sources.shape[0]
    narrow = min(NARROW, s)
    columns_tied = jnp.any(tied, axis=0)
    waiting = jnp.concatenate([jnp.nonzero(columns_tied, size=s, fill_value=s)[0], jnp.full(narrow, s)])

    def some(state: tuple[Array, PathCounts]) -> tuple[Array, PathCounts]:
        start, counts = state
        columns = lax.dynamic_slice(waiting, (start,), (narrow,))
        index = jnp.minimum(columns, s - 1)
        asked = tied[:, index] & (columns < s)
        ends = jnp.zeros(len(labels), bool).at[targets].max(jnp.any(asked, axis=1))
        cost = _least_cost(packed, labels, sources[index], _Lengths(distance, index), ends)
        found = counts_of_cost(rows_of(cost, targets), asked)
        return start + narrow, PathCounts(
            *(
                old.at[:, columns].set(jnp.where(asked, new, old[:, index]), mode="drop")
                for old, new in zip(counts, found, strict=True)
            )
        )

    total = jnp.sum(columns_tied)
    return lax.while_loop(lambda state: state[0] < total, some, (jnp.int32(0), counts))[1]


class _Lengths(NamedTuple):
    """Some columns of the distances, read where they are needed."""

    distance: Array
    columns: Int[Array, " s"]

    def of(self, rows: Array) -> Array:
        return self.distance.at[rows[..., None], self.columns].get(mode="promise_in_bounds")


def _least_cost(
    packed: PackedGraph, labels: Array, sources: Array, lengths: _Lengths, ends: Bool[Array, " rows"]
) -> Int[Array, "rows s"]:
    """The cost of the best path to the ends and to what lies before them: OUTSIDE for a point outside, 1 for a hop.

    The rule is that of `paths.cheapest`, over the rows that lie on shortest paths.
    """
    own = rows_of(labels, sources)
    start = from_sources(len(labels), sources, jnp.int32)
    rows = _rows_of_paths(packed, lengths, ends)
    dtype = packed.edges.lengths.dtype
    far = infinity(lengths.distance.dtype)

    def sweep(state: Any) -> Any:
        cost, excess, room, _ = state

        def relax(some: Array, live: Array, state: Any) -> Any:
            place, room, changed = state
            mine, old = lengths.of(some), (rows_of(cost, some), rows_of(excess, some))

            def step(best: tuple[Array, Array], neighbors: Array, edges: Array) -> tuple[Array, Array]:
                foreign = (rows_of(labels, neighbors)[..., None] != own).astype(jnp.int32)
                offer = rows_of(cost, neighbors) + (1 + OUTSIDE * foreign)
                longer = rows_of(excess, neighbors) + (lengths.of(neighbors) + edges[..., None] - mine[:, None])
                allowed = longer <= rounding_slack(mine[:, None], dtype, offer % OUTSIDE)
                least = jnp.min(jnp.where(allowed, offer, UNREACHED), axis=1)
                shortest = jnp.min(jnp.where(allowed & (offer == least[:, None]), longer, far), axis=1)
                better = (least < best[0]) | ((least == best[0]) & (shortest < best[1]))
                return jnp.where(better, least, best[0]), jnp.where(better, shortest, best[1])

            new = fold_groups(packed, some, live, (rows_of(start, some), jnp.zeros_like(old[1])), step)
            changed |= jnp.any(live[:, None] & ((new[0] != old[0]) | (new[1] != old[1])))
            room = tuple(lax.dynamic_update_slice_in_dim(r, v, place, 0) for r, v in zip(room, new, strict=True))
            return place + len(some), room, changed

        def write(some: Array, live: Array, state: Any) -> Any:
            place, *values = state
            parts = [lax.dynamic_slice_in_dim(r, place, len(some)) for r in room]
            return place + len(some), *(put_rows(v, some, live, p) for v, p in zip(values, parts, strict=True))

        _, room, changed = fold_rows(rows, relax, (jnp.int32(0), room, jnp.array(False)))
        _, cost, excess = fold_rows(rows, write, (jnp.int32(0), cost, excess))
        return cost, excess, room, changed

    excess = jnp.zeros(start.shape, lengths.distance.dtype)
    room = jnp.zeros_like(start), jnp.zeros_like(excess)
    return lax.while_loop(lambda state: state[-1], sweep, (start, excess, room, jnp.array(True)))[0]


def _rows_of_paths(packed: PackedGraph, lengths: _Lengths, ends: Bool[Array, " rows"]) -> Rows:
    """The rows on the shortest paths to some rows, from any of the sources."""

    def back(state: tuple[Array, Array]) -> tuple[Array, Array]:
        found, new = state

        def one(some: Array, live: Array, before: Array) -> Array:
            mine = lengths.of(some)
            slack = rounding_slack(mine, packed.edges.lengths.dtype, 2 * packed.depth)
            reach = jnp.where((mine < infinity(mine.dtype)) & live[:, None], mine + slack, -1)

            def step(before: Array, neighbors: Array, edges: Array) -> Array:
                short = lengths.of(neighbors) + edges[..., None] <= reach[:, None]
                return before.at[neighbors].max(jnp.any(short, axis=2))

            return fold_groups(packed, some, live, before, step)

        before = fold_rows(chosen_rows(new), one, jnp.zeros_like(found))
        return found | before, before & ~found

    found, _ = lax.while_loop(lambda state: jnp.any(state[1]), back, (ends, ends))
    return chosen_rows(found)
