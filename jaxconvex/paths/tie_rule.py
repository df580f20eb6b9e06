"""Which of equally short paths counts, and what equally short means: the one place of the rule.

Of the shortest paths between two points the one with the fewest points outside the class of the source counts; of these the
one with the fewest hops. So Definition 3 of the paper has it ("there exists a shortest path inside"), and the order of the
points does not matter. Equal means equal but for rounding.

A state of a point is a cost, in which a point outside weighs more than all hops, and an excess: by how much the path exceeds
the distance. A point takes the least cost, and of that the least excess, of the ways over its neighbours that exceed its own
distance by no more than rounding. The excess is carried along, so that on long paths no small ones add up. A way costs more
than what it goes on from, so what nothing changes any more is the same in whatever order points are taken.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from jaxconvex._internal.loops import while_loop
from jaxconvex.paths.graph import PackedGraph
from jaxconvex.paths.search import (
    UNREACHED,
    Rows,
    chosen_rows,
    fold_groups,
    fold_rows,
    from_sources,
    infinity,
    put_rows,
    rows_of,
)

__all__ = ["A_HOP", "OUTSIDE", "Columns", "PathCounts", "counts_of_cost", "least_cost", "rounding_slack"]

EQUAL, A_HOP = 16, 2  # quanta by which rounding may part equal lengths, and what each hop of a path adds to them
OUTSIDE = 2**16  # what a point outside costs, where a hop costs 1


class PathCounts(NamedTuple):
    """What the shortest path of each pair holds between its ends; interior is -1 where there is no path."""

    interior: Int[Array, "*l s t"]
    outside: Int[Array, "*l s t"]


class Columns(NamedTuple):
    """Some columns of an array, read where they are needed."""

    values: Array
    columns: Int[Array, " s"]

    def of(self, rows: Array) -> Array:
        return self.values.at[rows[..., None], self.columns].get(mode="promise_in_bounds")


def rounding_slack(distance: Array, dtype: Any, hops: Array | int = 0) -> Array:
    """By how much a path may exceed the distance and still be as short, given the type the lengths came in.

    An edge in float32 is off by up to an eps (2^-23): squares, their sum and the root are rounded. Two paths of equal
    length then differ by up to 2 eps. Whole quanta add what rounding to them takes; floating-point sums round again.
    """
    if jnp.issubdtype(distance.dtype, jnp.integer):
        return EQUAL + A_HOP * hops + (distance >> 22 if dtype == jnp.float32 else jnp.zeros_like(distance))
    return 8 * float(jnp.finfo(dtype).eps) * jnp.where(jnp.isfinite(distance), distance, 0)


def counts_of_cost(cost: Int[Array, "*l t s"], reached: Bool[Array, "t s"]) -> PathCounts:
    """What lies inside the paths, from the cost at their ends."""
    hops = cost % OUTSIDE
    return PathCounts(jnp.where(reached, jnp.maximum(hops - 1, 0), -1), jnp.where(reached, cost // OUTSIDE, 0))


def least_cost(
    packed: PackedGraph,
    labels: Int[Array, " rows"],
    sources: Int[Array, " s"],
    distance: Columns,
    ends: Bool[Array, "rows s"],
) -> Int[Array, "rows s"]:
    """The cost of the path that counts from each source to the ends and to what lies before them.

    Sweeps over the rows that lie on shortest paths to the ends, mostly few, until nothing changes.
    """
    own = rows_of(labels, sources)
    start = from_sources(len(labels), sources, jnp.int32)
    rows = _rows_of_paths(packed, distance, ends)
    dtype = packed.quantum.dtype
    far = infinity(distance.values.dtype)

    def sweep(state: Any) -> Any:
        cost, excess, _ = state

        def relax(some: Array, live: Array, state: Any) -> Any:  # in place, since the order of the rows does not matter
            cost, excess, changed = state
            mine = distance.of(some)

            def step(state: tuple[Array, ...], neighbors: Array, edges: Array) -> tuple[Array, ...]:
                *best, old_cost, old_excess = state
                foreign = (rows_of(labels, neighbors)[..., None] != own).astype(jnp.int32)
                offer = rows_of(cost, neighbors) + (1 + OUTSIDE * foreign)
                longer = rows_of(excess, neighbors) + (distance.of(neighbors) + edges[..., None] - mine[:, None])
                allowed = longer <= rounding_slack(mine[:, None], dtype, offer % OUTSIDE)
                least = jnp.min(jnp.where(allowed, offer, UNREACHED), axis=1)
                shortest = jnp.min(jnp.where(allowed & (offer == least[:, None]), longer, far), axis=1)
                better = (least < best[0]) | ((least == best[0]) & (shortest < best[1]))
                new = jnp.where(better, least, best[0]), jnp.where(better, shortest, best[1])
                return *new, jnp.minimum(old_cost, UNREACHED), jnp.minimum(old_excess, far)

            # What was before goes through the loop, unchanged. XLA would read it after the rows are put, from copies of all.
            old = rows_of(cost, some), rows_of(excess, some)
            new = fold_groups(packed, some, live, (rows_of(start, some), jnp.zeros_like(old[1]), *old), step)
            changed |= jnp.any(live[:, None] & ((new[0] != new[2]) | (new[1] != new[3])))
            return put_rows(cost, some, live, new[0]), put_rows(excess, some, live, new[1]), changed

        return fold_rows(rows, relax, (cost, excess, jnp.array(False)))

    begin = start, jnp.zeros(start.shape, distance.values.dtype), jnp.array(True)
    return while_loop(lambda state: state[2], sweep, begin)[0]


def _rows_of_paths(packed: PackedGraph, distance: Columns, ends: Bool[Array, "rows s"]) -> Rows:
    """The rows on the shortest paths from each source to its ends, together."""

    def back(state: tuple[Array, Array]) -> tuple[Array, Array]:
        found, new = state

        def one(some: Array, live: Array, before: Array) -> Array:
            mine = distance.of(some)
            slack = rounding_slack(mine, packed.quantum.dtype, 2 * packed.depth)
            own = rows_of(new, some) & live[:, None] & (mine < infinity(mine.dtype))
            reach = jnp.where(own, mine + slack, -1)

            def step(before: Array, neighbors: Array, edges: Array) -> Array:
                short = distance.of(neighbors) + edges[..., None] <= reach[:, None]
                return before.at[neighbors].max(short)

            return fold_groups(packed, some, live, before, step)

        before = fold_rows(chosen_rows(jnp.any(new, axis=1)), one, jnp.zeros_like(found))
        return found | before, before & ~found

    found, _ = while_loop(lambda state: jnp.any(state[1]), back, (ends, ends))
    return chosen_rows(jnp.any(found, axis=1))
