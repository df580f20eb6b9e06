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

from collections.abc import Callable
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

__all__ = ["A_HOP", "OUTSIDE", "Columns", "Costs", "PathCounts", "counts_of_cost", "least_cost", "lowest_parents"]
__all__ += ["Outside", "outside_of", "rounding_slack", "rows_of_paths"]

EQUAL, A_HOP = 16, 2  # quanta by which rounding may part equal lengths, and what each hop of a path adds to them
TOGETHER = 16  # rows that are relaxed together: few lie on the paths that are tied
OUTSIDE = 2**16  # what a point outside costs, where a hop costs 1
LOWNESS = (
    0.75  # of the number of a row: below 1, so that sums of different rows differ, where those of numbers often do not
)


Outside = Callable[[Array], Bool[Array, "... s"]]


class PathCounts(NamedTuple):
    """What the shortest path of each pair holds between its ends; interior is -1 where there is no path."""

    interior: Int[Array, "*l s t"]
    outside: Int[Array, "*l s t"]


class Costs(NamedTuple):
    """The cost of the path to each row that counts, its excess, and the rows for which they are known."""

    cost: Int[Array, "rows s"]
    excess: Array
    rows: Rows


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


def outside_of(labels: Int[Array, " rows"], sources: Int[Array, " s"]) -> Outside:
    """What tells whether rows have another label than the sources."""
    own = rows_of(labels, sources)
    return lambda rows: rows_of(labels, rows)[..., None] != own


def least_cost(
    packed: PackedGraph,
    outside: Outside,
    sources: Int[Array, " s"],
    distance: Columns,
    rows: Rows,
) -> Costs:
    """The cost of the path that counts from each source to some rows, which hold all that lies on shortest paths to them.

    `outside` tells which rows [...] lie outside the class of each source [... s]. Sweeps until nothing changes.
    """
    start = from_sources(len(packed.first), sources, jnp.int32)
    dtype = packed.quantum.dtype
    far = infinity(distance.values.dtype)

    def sweep(state: Any) -> Any:
        cost, excess, _ = state

        def relax(some: Array, live: Array, state: Any) -> Any:  # in place, since the order of the rows does not matter
            cost, excess, changed = state
            mine = distance.of(some)

            def step(state: tuple[Array, ...], neighbors: Array, edges: Array) -> tuple[Array, ...]:
                *best, old_cost, old_excess = state
                foreign = outside(neighbors).astype(jnp.int32)
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

        return fold_rows(rows, relax, (cost, excess, jnp.array(False)), few=TOGETHER)

    begin = start, jnp.zeros(start.shape, distance.values.dtype), jnp.array(True)
    cost, excess, _ = while_loop(lambda state: state[2], sweep, begin)
    return Costs(cost, excess, rows)


def lowest_parents(
    packed: PackedGraph, outside: Outside, sources: Int[Array, " s"], distance: Columns, found: Costs
) -> Int[Array, "rows s"]:
    """The row before each on the path that counts; of those that cost the same, on the one through the lowest rows.

    That is the path with the least sum, over the points inside, of the number of the point, counted from 1, to the power of
    3/4. The sum does not depend on the end from which it is taken.
    """
    lowness = ((packed.order + 1) / len(packed.order)).astype(jnp.float32) ** LOWNESS
    start = from_sources(len(packed.first), sources, jnp.float32)

    def sweep(state: Any) -> Any:
        least, parents, _ = state

        def choose(some: Array, live: Array, state: Any) -> Any:
            least, parents, changed = state
            mine, cost, old = distance.of(some), rows_of(found.cost, some), rows_of(least, some)

            def step(state: tuple[Array, Array], neighbors: Array, edges: Array) -> tuple[Array, Array]:
                best, parent = state
                for u, w in zip(neighbors.T, edges.T, strict=True):
                    foreign = outside(u).astype(jnp.int32)
                    longer = rows_of(found.excess, u) + (distance.of(u) + w[:, None] - mine)
                    equal = rows_of(found.cost, u) + (1 + OUTSIDE * foreign) == cost
                    equal &= longer <= rounding_slack(mine, packed.quantum.dtype, cost % OUTSIDE)
                    inside = jnp.where(u[:, None] == sources, 0, rows_of(lowness, u)[:, None])
                    offer = jnp.where(equal, rows_of(least, u) + inside, jnp.inf)
                    best, parent = jnp.minimum(offer, best), jnp.where(offer < best, u[:, None], parent)
                return best, parent

            new = fold_groups(packed, some, live, (rows_of(start, some), jnp.zeros(old.shape, jnp.int32)), step)
            changed |= jnp.any(live[:, None] & (new[0] != old))
            return put_rows(least, some, live, new[0]), put_rows(parents, some, live, new[1]), changed

        return fold_rows(found.rows, choose, (least, parents, jnp.array(False)), few=TOGETHER)

    begin = start, jnp.zeros(start.shape, jnp.int32), jnp.array(True)
    return while_loop(lambda state: state[2], sweep, begin)[1]


def rows_of_paths(packed: PackedGraph, distance: Columns, ends: Bool[Array, "rows s"]) -> Rows:
    """The rows on the shortest paths from each source to its ends, and the ends, together: mostly few."""

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

        before = fold_rows(chosen_rows(jnp.any(new, axis=1)), one, jnp.zeros_like(found), few=TOGETHER)
        return found | before, before & ~found

    found, _ = while_loop(lambda state: jnp.any(state[1]), back, (ends, ends))
    return chosen_rows(jnp.any(found, axis=1))
