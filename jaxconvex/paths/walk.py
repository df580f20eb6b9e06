"""What lies inside the shortest paths from a block of sources to the rows they ask for.

Distances first; then each row's predecessor; then a walk from every target to its source. Where equally short paths lie on
the way, the tie rule decides.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Int

from jaxconvex._internal.loops import fori_loop, while_loop
from jaxconvex.paths.graph import PackedGraph
from jaxconvex.paths.search import (
    ONE,
    SEVERAL,
    Rows,
    chosen_rows,
    distances_from,
    fold_rows,
    from_sources,
    infinity,
    parents_of,
    put_rows,
    rows_of,
)
from jaxconvex.paths.tie_rule import (
    Columns,
    Costs,
    PathCounts,
    counts_of_cost,
    least_cost,
    lowest_parents,
    outside_of,
    rounding_slack,
    rows_of_paths,
)

__all__ = ["WALKED", "Block", "Some", "Trail", "fold_pairs", "searched"]

WALKED = 128  # targets walked together
NARROW = 16


class Block(NamedTuple):
    """Sources that are searched together, and the rows to which any of them asks for a path."""

    sources: Int[Array, " s"]  # rows. Sources near each other, and far from no target, cost least.
    targets: Int[Array, " t"]  # rows, as many as WALKED divides
    number: Int[Array, ""]  # of targets that are no padding


class Some(NamedTuple):
    """Some targets of a block, and some of its sources; what is beyond the last stands for none."""

    start: Int[Array, ""]  # of the targets
    targets: Int[Array, " t"]
    columns: Int[Array, " s"]


Asked = Callable[[Some], Bool[Array, "l t s"]]
Trail = Callable[[Callable[[Any, Array, Array], Any], Any], Any]


def fold_pairs(
    packed: PackedGraph,
    labels: Int[Array, "l rows"],
    block: Block,
    asked: Asked,
    step: Callable[..., Any],
    initial: Any,
    *,
    trails: bool = False,
) -> Any:
    """step(accumulated, some, counts [l t s], pairs [l t s]) until each pair that is asked for has been there once.

    Args:
        packed: the graph, with its lengths in whole quanta, or floating-point.
        labels: one or more labelings of the rows: they share the paths, but not what lies outside.
        block: the sources and targets.
        asked: which pairs are asked for under each labeling. Outside is what has another label than the source.
        step: told which pairs are counted now; the counts of others mean nothing.
        initial: what accumulates.
        trails: for a single labeling, whether step also gets a trail: trail(visit, state) goes along the paths of the
            pairs, a point of each at a time, and is visit(state, rows [t s], outside [t s]), where outside tells the points
            that lie outside the class.

    Sweeps are bounded by the farthest target that is asked for. Only sources with a tie on a walked path take the
    lexicographic pass.
    """
    far = infinity(packed.lengths.dtype)
    every = jnp.arange(len(block.sources), dtype=jnp.int32)
    distance, connected, links = searched(packed, labels, block, asked)
    own = labels[:, block.sources]

    def walked(some: Some, state: tuple[Any, Array]) -> tuple[Any, Array]:
        accumulated, tied = state
        reached = _read(connected, some) & (rows_of(distance, some.targets) < far)
        if links is None:  # edges may have length 0, along which predecessors would go in circles
            interior, outside, open_ = (nothing := jnp.zeros(reached.shape, jnp.int32)), nothing, reached
        else:
            interior, outside, open_ = _walk(links, block.sources, some.targets, reached, len(labels))
            foreign = labels[:, some.targets][:, :, None] != own[:, None]
            outside -= foreign.astype(jnp.int32)  # a target is not inside its path
        counts = PathCounts(jnp.where(reached, interior, -1), jnp.where(reached, outside, 0))
        pairs = asked(some)
        counts = PathCounts(*(jnp.broadcast_to(count, pairs.shape) for count in counts))
        pairs &= ~open_
        trail = []
        if trails:
            trail = [_no_trail if links is None else _trail(links, block.sources, some.targets, pairs[0] & reached)]
        return step(accumulated, some, counts, pairs, *trail), _written(tied, some, open_)

    accumulated, tied = _fold_targets(block, every, walked, (initial, jnp.zeros_like(connected)))
    return _fold_ties(packed, labels, block, asked, step, accumulated, Columns(distance, every), tied, trails)


def searched(
    packed: PackedGraph, labels: Int[Array, "l rows"], block: Block, asked: Asked
) -> tuple[Array, Bool[Array, "t s"], Int[Array, "rows s"] | None]:
    """The distances [rows s] from a block's sources, up to the farthest target asked for; which targets have a path; and the
    links of the rows, see `_links`: None where lengths are not whole."""
    far, dtype = infinity(packed.lengths.dtype), packed.quantum.dtype
    every = jnp.arange(len(block.sources), dtype=jnp.int32)
    connected = _marked(block, every, lambda some: _connected(packed, block, some) & jnp.any(asked(some), axis=0))

    def limit(distance: Array) -> Array:
        def more(some: Some, farthest: Array) -> Array:
            near = jnp.where(_read(connected, some), rows_of(distance, some.targets), 0)
            return jnp.maximum(farthest, jnp.max(near, axis=0))

        farthest = _fold_targets(block, every, more, jnp.zeros(every.shape, distance.dtype))
        slack = rounding_slack(farthest, dtype, 2 * packed.depth) + 1
        return jnp.where(farthest < far, farthest + slack, far)

    distance = distances_from(packed, from_sources(len(packed.first), block.sources, packed.lengths.dtype), limit)
    whole = jnp.issubdtype(distance.dtype, jnp.integer)
    links = _links(packed, labels, block.sources, distance, limit(distance)) if whole else None
    return distance, connected, links


def _fold_ties(
    packed: PackedGraph,
    labels: Int[Array, "l rows"],
    block: Block,
    asked: Asked,
    step: Callable,
    accumulated: Any,
    distance: Columns,
    tied: Bool[Array, "t s"],
    trails: bool,
) -> Any:
    """The same for the tied pairs, some sources at a time."""
    s = len(block.sources)
    narrow = min(NARROW, s)
    waiting = jnp.any(tied, axis=0)
    listed = jnp.concatenate([jnp.nonzero(waiting, size=s, fill_value=s)[0], jnp.full(narrow, s)]).astype(jnp.int32)

    def several(state: tuple[Array, Any]) -> tuple[Array, Any]:
        begin, accumulated = state
        columns = lax.dynamic_slice(listed, (begin,), (narrow,))
        index = jnp.minimum(columns, s - 1)
        own = tied[:, index] & (columns < s)
        ends = jnp.zeros((len(packed.first), narrow), bool).at[block.targets].max(own)
        sources = block.sources[index]
        some_distances = Columns(distance.values, index)
        rows = rows_of_paths(packed, some_distances, ends)

        def solved(one: Array) -> Costs:
            return least_cost(packed, outside_of(one, sources), sources, some_distances, rows)

        found = lax.map(solved, labels)
        costs, parents = found.cost, jnp.zeros((0, 0), jnp.int32)
        if trails:
            (single,) = labels
            first = jax.tree.map(lambda part: part[0], found)
            parents = lowest_parents(packed, outside_of(single, sources), sources, some_distances, first)
            parents = (parents << 2) | ((single[:, None] != single[sources]).astype(jnp.int32) << 1)

        def counted(some: Some, accumulated: Any) -> Any:
            own_pairs = lax.dynamic_slice_in_dim(own, some.start, len(some.targets))
            counts, pairs = counts_of_cost(costs[:, some.targets], own_pairs), asked(some) & own_pairs
            trail = [_trail(parents, sources, some.targets, pairs[0])] if trails else []
            return step(accumulated, some, counts, pairs, *trail)

        return begin + narrow, _fold_targets(block, columns, counted, accumulated)

    total = jnp.sum(waiting)
    return while_loop(lambda state: state[0] < total, several, (jnp.int32(0), accumulated))[1]


def _connected(packed: PackedGraph, block: Block, some: Some) -> Bool[Array, "t s"]:
    return rows_of(packed.component, some.targets)[:, None] == rows_of(packed.component, block.sources)


def _fold_targets(block: Block, columns: Array, step: Callable[[Some, Any], Any], initial: Any) -> Any:
    """step(some, accumulated) over the targets, some at a time."""

    def one(index: Array, accumulated: Any) -> Any:
        start = index * WALKED
        return step(Some(start, lax.dynamic_slice(block.targets, (start,), (WALKED,)), columns), accumulated)

    return fori_loop(0, -(-block.number // WALKED), one, initial)


def _marked(block: Block, columns: Array, mark: Callable[[Some], Bool[Array, "t s"]]) -> Bool[Array, "t s"]:
    empty = jnp.zeros((len(block.targets), len(columns)), bool)
    return _fold_targets(block, columns, lambda some, marks: _written(marks, some, mark(some)), empty)


def _read(marks: Array, some: Some) -> Array:
    return lax.dynamic_slice_in_dim(marks, some.start, len(some.targets))


def _written(marks: Array, some: Some, new: Array) -> Array:
    return lax.dynamic_update_slice_in_dim(marks, new, some.start, 0)


def _links(packed: PackedGraph, labels: Array, sources: Array, distance: Array, bound: Array) -> Int[Array, "rows s"]:
    """Each row's predecessor on its shortest path, or a bit that tells that another path is as short; and a bit for each
    labeling that tells whether the row lies outside the class of the source: (row, outside..., tie).
    """
    labelings = len(labels)
    own = rows_of(labels.T, sources)
    near: Rows = chosen_rows(jnp.any(distance <= bound, axis=1) & (packed.count > 0))

    def some(rows: Array, live: Array, links: Array) -> Array:
        mine = rows_of(distance, rows)
        slack = rounding_slack(mine, packed.quantum.dtype, 2 * packed.depth)  # paths may have twice a root's hops
        reach = jnp.where(mine < infinity(mine.dtype), mine + slack, -1)
        found = parents_of(packed, rows, live, distance, reach)
        tied = found == SEVERAL
        link = (jnp.where(tied, 0, found - ONE) << (labelings + 1)) | tied.astype(jnp.int32)
        for i in range(labelings):
            foreign = rows_of(labels[i], rows)[:, None] != own[:, i]
            link |= foreign.astype(jnp.int32) << (i + 1)
        return put_rows(links, rows, live, link)

    return fold_rows(near, some, jnp.zeros(distance.shape, jnp.int32))


def _walk(
    links: Array, sources: Array, targets: Array, reached: Bool[Array, "t s"], labelings: int
) -> tuple[Int[Array, "t s"], Int[Array, "l t s"], Bool[Array, "t s"]]:
    """Walk from every target to its source: the points inside, those outside the class with the target, and whether a tie
    lay there."""
    s = len(sources)
    column = jnp.arange(s)
    flat = links.reshape(-1)

    def step(state: Any) -> Any:
        at, hops, outside, tied, _ = state
        active = at != sources
        link = jnp.where(active, rows_of(flat, at * s + column), 0)
        at = jnp.where(active & ((link & 1) == 0), link >> (labelings + 1), sources)  # a tie ends the walk
        outside = tuple(o + ((link >> (i + 1)) & 1) for i, o in enumerate(outside))
        return at, hops + active.astype(jnp.int32), outside, tied | (link & 1), jnp.any(at != sources)

    at = jnp.where(reached, targets[:, None], sources)
    zero = jnp.zeros(at.shape, jnp.int32)
    begin = at, zero, (zero,) * labelings, zero, jnp.any(at != sources)
    _, hops, outside, tied, _ = while_loop(lambda state: state[-1], step, begin)
    return jnp.maximum(hops - 1, 0), jnp.stack(outside), tied > 0


def _trail(links: Array, sources: Array, targets: Array, pairs: Bool[Array, "t s"]) -> Trail:
    """What `fold_pairs` tells of the points on these paths, which meet no tie: from the links of one labeling."""
    s = len(sources)
    column, flat = jnp.arange(s), links.reshape(-1)

    def trail(visit: Callable[[Any, Array, Array], Any], initial: Any) -> Any:
        def step(state: tuple[Array, Any]) -> tuple[Array, Any]:
            at, accumulated = state
            link = jnp.where(at != sources, rows_of(flat, at * s + column), sources << 2)
            return link >> 2, visit(accumulated, at, (link & 2) > 0)

        first = jnp.where(pairs, targets[:, None], sources)
        return while_loop(lambda state: jnp.any(state[0] != sources), step, (first, initial))[1]

    return trail


def _no_trail(visit: Callable[[Any, Array, Array], Any], initial: Any) -> Any:
    return initial
