"""What the shortest paths from some points lose under many labelings at once: pure, and of static size.

Labels do not change the paths but for ties, so each source has one tree, and all labelings share it. Its rows are taken
level by level, parents before children; a vector of labelings holds how many points outside the class lie on the way to
a row. Distances, ties, and what a path may exceed the distance by are those of the score, and so are the whole numbers
that are added up.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Int

from jaxconvex._internal.loops import cond, fori_loop, while_loop
from jaxconvex.paths.graph import PackedGraph
from jaxconvex.paths.search import (
    WIDTH,
    chosen_rows,
    distances_from,
    fold_groups,
    fold_rows,
    from_sources,
    hops_to_root,
    in_lengths,
    infinity,
    put_rows,
    rows_of,
)
from jaxconvex.paths.tie_rule import A_HOP, OUTSIDE, rounding_slack
from jaxconvex.scores.aggregates import FINE_BITS, UNIT, Whole, carried, parts_of

__all__ = ["losses_along", "path_losses"]

TOGETHER = 64  # rows taken at once
LANES = 512  # labelings taken at once: their bytes for all rows stay in a processor's cache
SHALLOW = 63  # hops up to which the points outside on TOGETHER paths add up to less than 2^12
HOP, CROSSED, FEW = 2**12, 2**20, 256  # excess below HOP, hops and points outside below FEW, in one number
BITS = 32
APART, PADDING = 2**25, 2**25 + 1  # levels of rows without a path from the source, and of rows that are no points


class Trees(NamedTuple):
    """How each row is reached from each source; what is told of the source itself has no meaning."""

    parent: Int[Array, "s rows"]  # on one shortest path
    slots: Array  # [s rows] where there are several: bit j stands for the neighbours numbered j, j + BITS, ...
    level: Int[Array, "s rows"]  # above those of all parents, unless `back`
    distance: Array  # [s rows]
    slack: Array  # [s rows] by how much a path of no hops may exceed the distance
    uneven: Bool[Array, " s"]  # from where ways to a row differ in hops, or small excesses may add up to too much
    back: Bool[Array, " s"]  # from where some parents are not on a lower level


class Order(NamedTuple):
    """The rows of one tree in the order in which they are counted; the source comes first."""

    rows: Int[Array, " places"]
    parents: Int[Array, " places"]  # the place of each row's parent
    levels: Int[Array, " places"]
    place: Int[Array, " rows"]


def path_losses(
    packed: PackedGraph, sources: Int[Array, " s"], labels: Int[Array, "rows p"], whole: bool | None = None
) -> Whole:
    """Sum of 1 - score over all other points of the source's label, for each source and labeling, [s p].

    Args:
        packed: the graph.
        sources: rows. Near ones are searched together at less cost.
        labels: labelings of the rows.
        whole: whether lengths are searched in whole quanta, see `in_lengths`.

    Of equally short paths the one with the fewest points outside counts, then the one with fewest hops: by the rule of
    `paths.tie_rule`. A point without a path adds 1.

    Cost: sources x rows x labelings bytes, read and written a few times; eight times that from sources where equally
    short paths differ in hops.

    >>> import jaxconvex
    >>> from jaxconvex.scores.aggregates import UNIT, fraction_of
    >>> chain = jaxconvex.pack(jaxconvex.knn_graph(jnp.array([[0.], [1.], [2.1], [3.3]]), k=1))
    >>> labels = jnp.zeros((len(chain.order), 1), jnp.int32).at[chain.position, 0].set(jnp.array([0, 1, 0, 0]))
    >>> fraction_of(path_losses(chain, chain.position[:1], labels), float).round(5).tolist()
    [[1.5]]
    """

    def search(packed: PackedGraph) -> Whole:
        distance = distances_from(packed, from_sources(len(packed.first), sources, packed.lengths.dtype))
        return losses_along(packed, distance, rounding_slack(distance, packed.quantum.dtype), sources, labels)

    return in_lengths(packed, search, whole)


def losses_along(
    packed: PackedGraph, distance: Array, slack: Array, sources: Int[Array, " s"], labels: Int[Array, "rows p"]
) -> Whole:
    """`path_losses` given the distances [rows s], and by how much a path of no hops may exceed each of them."""
    rows, p = labels.shape
    trees = _trees(packed, distance, slack, sources)
    lanes = min(LANES, -(-p // BITS) * BITS)
    chunks = jnp.pad(labels, ((0, 0), (0, -p % lanes)), mode="edge").reshape(rows, -1, lanes).swapaxes(0, 1)
    points = jnp.sum(packed.component >= 0, dtype=jnp.int32)
    orders = jax.vmap(_order)(trees)

    def one(labels: Array, tree: Trees, order: Order, source: Array) -> Whole:
        given = packed, labels, tree, order, source, points

        def in_general() -> Whole:
            if not jnp.issubdtype(distance.dtype, jnp.integer):
                return _losses(*given, narrow=False)[0]
            losses, enough = _losses(*given, narrow=True)
            return cond(enough & (packed.depth < FEW), lambda: losses, lambda: _losses(*given, narrow=False)[0])

        return cond(tree.uneven, in_general, lambda: _losses_even(*given))

    each = lax.map(lambda labels: lax.map(lambda some: one(labels, *some), (trees, orders, sources)), chunks)
    return Whole(*(part.swapaxes(0, 1).reshape(len(sources), -1)[:, :p] for part in each))


def _trees(packed: PackedGraph, distance: Array, slack: Array, sources: Int[Array, " s"]) -> Trees:
    numbers = jnp.arange(distance.shape[0], dtype=jnp.int32)
    a_hop = A_HOP if jnp.issubdtype(distance.dtype, jnp.integer) else 0
    reached = (distance < infinity(distance.dtype)) & (numbers[:, None] != sources)
    reach = jnp.where(
        reached, distance + slack + (a_hop * 2 * packed.depth).astype(slack.dtype), -1
    )  # paths may have twice a root's hops
    parent, slots = _parents(packed, distance, reach, sources)
    root, hops = hops_to_root(parent.T)
    hops = jnp.where(root == sources[:, None], hops, 0).T  # 0 where parents go in circles
    level, uneven, back = _levels(packed, distance, slack, reach, hops, jnp.any(slots > 0))
    uneven |= jnp.max(level, axis=0) > SHALLOW
    level = jnp.where(
        reached, jnp.maximum(level, 1), APART
    )  # 0 is the source's alone, also where parents go in circles
    level = jnp.where(numbers[:, None] == sources, 0, jnp.where(packed.component[:, None] < 0, PADDING, level))
    return Trees(parent.T, slots.T, level.T, distance.T, slack.T, uneven, back)


def _parents(packed: PackedGraph, distance: Array, reach: Array, sources: Array) -> tuple[Array, Array]:
    """The nearest parent of each row [rows s], and the slots of all where there are several."""

    def link(some: Array, live: Array, found: Any) -> Any:
        most = rows_of(reach, some)

        def step(state: Any, neighbors: Array, lengths: Array) -> Any:
            least, parent, count, slots, number = state
            for u, w in zip(neighbors.T, lengths.T, strict=True):
                arrival = rows_of(distance, u) + w[:, None]
                short = arrival <= most
                parent = jnp.where(short & (arrival < least), u[:, None], parent)
                least, count = jnp.minimum(least, arrival), count + short.astype(jnp.int32)
                slots, number = slots | (short.astype(jnp.uint32) << number), (number + 1) % BITS
            return least, parent, count, slots, number

        nothing = jnp.zeros(most.shape, jnp.int32)
        far = jnp.full(most.shape, infinity(distance.dtype), distance.dtype)
        start = far, nothing + sources, nothing, nothing.astype(jnp.uint32), jnp.uint32(0)
        _, parent, count, slots, _ = fold_groups(packed, some, live, start, step)
        slots = jnp.where(count > 1, slots, 0)
        return tuple(put_rows(old, some, live, new) for old, new in zip(found, (parent, slots), strict=True))

    start = jnp.broadcast_to(sources, distance.shape), jnp.zeros(distance.shape, jnp.uint32)
    return fold_rows(chosen_rows(packed.count > 0), link, start)


def _levels(
    packed: PackedGraph, distance: Array, slack: Array, reach: Array, hops: Array, several: Array
) -> tuple[Array, Array, Array]:
    """The level of each row [rows s], from the hops to it; and for each source whether it is `uneven`, and goes `back`.

    Levels grow until each is above those of all nearer parents, and so do the most that ways may exceed the distance by.
    """
    a_hop = A_HOP if jnp.issubdtype(distance.dtype, jnp.integer) else 0
    everyone = chosen_rows(packed.count > 0)
    nothing = jnp.zeros(distance.shape[1], bool)

    def sweep(state: Any) -> Any:
        old = state[:2]

        def relax(some: Array, live: Array, state: Any) -> Any:
            level, excess, uneven, back = state
            most, mine, before = rows_of(reach, some), rows_of(distance, some), rows_of(level, some)

            def step(state: Any, neighbors: Array, lengths: Array) -> Any:
                level, excess, uneven, back = state
                for u, w in zip(neighbors.T, lengths.T, strict=True):
                    other = rows_of(distance, u)
                    gap, above = other + w[:, None] - mine, rows_of(old[0], u) + 1
                    short = other + w[:, None] <= most
                    nearer = (other < mine) | ((other == mine) & (u < some)[:, None])
                    level = jnp.where(short & nearer, jnp.maximum(level, above), level)
                    excess = jnp.where(short & nearer, jnp.maximum(excess, rows_of(old[1], u) + gap), excess)
                    uneven |= short & ((above != before) | ~nearer)
                    back |= short & (above > before)
                return level, excess, uneven, back

            start = before, rows_of(excess, some), *jnp.zeros((2, *most.shape), bool)
            new = fold_groups(packed, some, live, start, step)
            beyond = (
                live[:, None] & (new[1] > rows_of(slack, some) + (a_hop * new[0]).astype(slack.dtype)) & (most >= 0)
            )
            uneven |= jnp.any(live[:, None] & new[2] | beyond, axis=0)
            back |= jnp.any(live[:, None] & new[3], axis=0)
            return put_rows(level, some, live, new[0]), put_rows(excess, some, live, new[1]), uneven, back

        new = fold_rows(everyone, relax, (*old, nothing, nothing))
        return *new, jnp.any(new[0] != old[0]) | jnp.any(new[1] != old[1])

    start = hops, jnp.zeros_like(distance), nothing, nothing, several
    level, _, uneven, back, _ = while_loop(lambda state: state[-1], sweep, start)
    return level, uneven, back


def _order(tree: Trees) -> Order:
    rows = tree.level.shape[0]
    # Rows of as many parents stand side by side.
    key = tree.level * BITS + jnp.minimum(lax.population_count(tree.slots).astype(jnp.int32), BITS - 1)
    listed = jnp.argsort(key, stable=False).astype(jnp.int32)
    place = jnp.zeros(rows, jnp.int32).at[listed].set(jnp.arange(rows, dtype=jnp.int32), unique_indices=True)
    parents, levels = rows_of(place, rows_of(tree.parent, listed)), rows_of(tree.level, listed)
    more = (0, TOGETHER)  # the last step may reach beyond the end
    return Order(jnp.pad(listed, more), jnp.pad(parents, more), jnp.pad(levels, more, constant_values=PADDING), place)


def _losses_even(packed: PackedGraph, labels: Array, tree: Trees, order: Order, source: Array, points: Array) -> Whole:
    """The losses [p] where all ways to a row have as many hops as its level, and none exceeds what rounding allows."""
    p, own, places = labels.shape[1], labels[source], len(order.rows)
    one, far = places, places + 1  # places that hold constants: to choose a place costs less than to choose a row

    def step(state: tuple[Array, Array, Whole]) -> tuple[Array, Array, Whole]:
        start, cost, losses = state
        rows, parents, levels = (_some(part, start) for part in order[:3])
        live, apart = levels == levels[0], levels[0] == APART

        def consider(parents: Array, gap: Array, short: Array, best: Array) -> Array:
            return jnp.minimum(best, rows_of(cost, _made(jnp.where(short, parents, far))))

        known = rows_of(cost, _made(jnp.where(live, jnp.where(apart, one, parents), 0)))
        best = _over_ties(packed, tree, order, rows, live, consider, known)
        foreign = rows_of(labels, rows) != own
        total = _sum(jnp.where(foreign, 0, best).astype(jnp.int16)).astype(jnp.uint32)
        unit = jnp.where(apart, UNIT, parts_of(levels[0] - 1)).astype(jnp.uint32)
        coarse, fine = total * (unit >> FINE_BITS), total * (unit & (2**FINE_BITS - 1))
        cost = lax.dynamic_update_slice(cost, best + foreign.astype(best.dtype), (start, jnp.zeros_like(start)))
        return start + jnp.sum(live, dtype=jnp.int32), cost, carried(losses.coarse + coarse, losses.fine + fine)

    cost = jnp.zeros((places + 2, p), jnp.int8).at[one].set(1).at[far].set(127)
    start = jnp.int32(1), cost, Whole(*jnp.zeros((2, p), jnp.uint32))
    return while_loop(lambda state: state[0] < points, step, start)[2]


def _losses(
    packed: PackedGraph, labels: Array, tree: Trees, order: Order, source: Array, points: Array, *, narrow: bool
) -> tuple[Whole, Bool[Array, ""]]:
    """The losses [p] in the general case, and whether no path was too long to be told by so few bits.

    The rows are gone through until nothing changes any more. `narrow`: lengths are whole, and points outside, hops and
    excess stand in one number, from the highest bits to the lowest, so that the least of them is the best.
    """
    p, own = labels.shape[1], labels[source]
    far, crossed, hop = infinity(jnp.int32), CROSSED if narrow else OUTSIDE, HOP if narrow else 1
    high, low = crossed.bit_length() - 1, hop.bit_length() - 1
    unreached = far // 2 + 1  # all from here on: a way over what is not reached
    a_hop = A_HOP if jnp.issubdtype(tree.slack.dtype, jnp.integer) else 0
    units = parts_of(jnp.arange(len(labels), dtype=jnp.int32))

    def hops_of(cost: Array) -> Array:
        return cost >> low & (crossed // hop - 1)

    def step(state: Any) -> Any:
        start, cost, excess, losses, changed = state
        rows, parents, levels = (_some(part, start) for part in order[:3])
        live, apart = levels == levels[0], levels[0] == APART
        allowed = _made(rows_of(tree.slack, rows))[:, None]

        def consider(parents: Array, gap: Array, short: Array, best: tuple[Array, Array]) -> tuple[Array, Array]:
            parents, gap, more = _made((parents, jnp.where(short, gap, 0), jnp.where(short, hop, unreached)))
            offer = rows_of(cost, parents) + more[:, None]
            if narrow:
                offer = offer + gap[:, None]
                within = (offer & (hop - 1)) <= allowed + a_hop * hops_of(offer)
                return jnp.where(within, jnp.minimum(best[0], offer), best[0]), best[1]
            longer = rows_of(excess, parents) + gap[:, None]
            within = (offer < unreached) & (longer <= allowed + (a_hop * hops_of(offer)).astype(allowed.dtype))
            better = within & ((offer < best[0]) | ((offer == best[0]) & (longer < best[1])))
            return jnp.where(better, offer, best[0]), jnp.where(better, longer, best[1])

        nothing = jnp.full((TOGETHER, p), far, jnp.int32), jnp.zeros((TOGETHER, excess.shape[1]), excess.dtype)
        known = consider(parents, jnp.zeros(TOGETHER, excess.dtype), live, nothing)
        best, most = _over_ties(packed, tree, order, rows, live, consider, known)
        best = jnp.where(best < unreached, best, far)
        foreign = rows_of(labels, rows) != own
        lost = (best >> high) * rows_of(units, jnp.clip(hops_of(best) - 1, 0, len(units) - 1))
        lost = _made(jnp.where(foreign, 0, jnp.where(apart, UNIT, lost))) * live[:, None].astype(jnp.int32)
        coarse = losses.coarse + jnp.sum(lost >> FINE_BITS, axis=0).astype(jnp.uint32)
        fine = losses.fine + jnp.sum(lost & (2**FINE_BITS - 1), axis=0).astype(jnp.uint32)
        kept = jnp.where(best < far, best + crossed * foreign.astype(jnp.int32), far)
        old = _some(cost, start), _some(excess, start)
        kept, most = _made((kept, most))
        kept, most = jnp.where(live[:, None], kept, old[0]), jnp.where(live[:, None], most, old[1])
        changed |= jnp.any(kept != old[0], axis=0)
        if not narrow:
            changed |= jnp.any(most != old[1], axis=0)
        at = start, jnp.zeros_like(start)
        cost, excess = lax.dynamic_update_slice(cost, kept, at), lax.dynamic_update_slice(excess, most, at)
        return start + jnp.sum(live, dtype=jnp.int32), cost, excess, carried(coarse, fine), changed

    def again(state: Any) -> Any:
        start = jnp.int32(1), *state[:2], Whole(*jnp.zeros((2, p), jnp.uint32)), jnp.zeros(p, bool)
        *new, changed = while_loop(lambda state: state[0] < points, step, start)[1:]
        return *new, changed & tree.back

    cost = jnp.full((len(order.rows), p), far, jnp.int32).at[0].set(0)
    excess = jnp.zeros((len(cost), 0 if narrow else p), tree.slack.dtype)
    start = cost, excess, Whole(*jnp.zeros((2, p), jnp.uint32)), jnp.ones(p, bool)
    cost, _, losses, _ = while_loop(lambda state: jnp.any(state[3]), again, start)
    longest = crossed // hop - 1
    return losses, ~jnp.any((hops_of(cost) == longest) & (cost < unreached))


def _over_ties(
    packed: PackedGraph, tree: Trees, order: Order, rows: Array, live: Array, consider: Any, best: Any
) -> Any:
    """consider(places of parents, gaps, which are parents, best) over the parents of the rows that have several."""
    first, count = rows_of(packed.first, rows), rows_of(packed.count, rows)
    mine, slack = rows_of(tree.distance, rows), rows_of(tree.slack, rows)
    a_hop = A_HOP if jnp.issubdtype(mine.dtype, jnp.integer) else 0
    nothing = packed.neighbors.shape[0] - 1  # the last group holds no edge
    slots = jnp.where(live, rows_of(tree.slots, rows), 0)
    rounds = -(-jnp.max(jnp.where(slots > 0, count, 0)) * WIDTH // BITS)

    def one(state: tuple[Array, Any]) -> tuple[Array, Any]:
        slots, best = state
        lowest = lax.population_count((slots & -slots) - 1).astype(jnp.int32)

        def another(i: Array, best: Any) -> Any:
            group, lane = jnp.divmod(lowest + i * BITS, WIDTH)
            group = jnp.where((slots > 0) & (group < count), first + group, nothing)
            neighbor, length = (part.at[group, lane].get(mode="clip") for part in (packed.neighbors, packed.lengths))
            gap = rows_of(tree.distance, neighbor) + length - mine
            return consider(
                rows_of(order.place, neighbor), gap, gap <= slack + (a_hop * 2 * packed.depth).astype(slack.dtype), best
            )

        return slots & (slots - 1), fori_loop(0, rounds, another, best)

    return while_loop(lambda state: jnp.any(state[0] > 0), one, (slots, best))[1]


def _some(values: Array, start: Array) -> Array:
    return lax.dynamic_slice_in_dim(values, start, TOGETHER)


def _made(values: Any) -> Any:
    """The values, computed once and for themselves: indices, and what else a loop over labelings would compute again."""
    return lax.optimization_barrier(values)


def _sum(values: Array) -> Array:
    """The sum over the rows; by halves, since these are vectorised."""
    while len(values) > 1:
        values = values[: len(values) // 2] + values[len(values) // 2 :]
    return values[0]
