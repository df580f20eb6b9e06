"""The sums of the pairs of each point in each of its concepts, over the blocks of a search.

From a source the paths to all rows are a tree. How many of a row's ancestors are in a concept is a sum along its branch,
taken for many concepts at once, and for all rows together by doubling the steps along parents. So the paths are walked once
for all concepts of a source, a byte for each row and concept, and each source sums up its own pairs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, UInt8, UInt32

from jaxconvex._internal.loops import cond, fori_loop, while_loop
from jaxconvex.paths.graph import PackedGraph
from jaxconvex.paths.order import Asked, Order, block_of
from jaxconvex.paths.search import (
    CHUNK,
    WIDE_CHUNK,
    Rows,
    chosen_rows,
    fold_rows,
    hops_to_root,
    in_lengths,
    infinity,
    rows_of,
)
from jaxconvex.paths.tie_rule import Columns, counts_of_cost, least_cost, rows_of_paths
from jaxconvex.paths.walk import NARROW, searched
from jaxconvex.scores.aggregates import FINE_BITS, SQUARE, UNIT, carried, fields_of, parts_of, parts_of_pairs
from jaxconvex.scores.path_sums import FIELDS, carried_fields

__all__ = ["Members", "sum_concepts", "words_of"]

UNROLLED = 8  # parts of a chunk of rows that are summed in registers
LIMB = 15  # of the bits of a part, of which there are 30
SUMMED = 2**13  # rows times concepts of a chunk on a processor's core
STRETCH = 16  # chunks from which sums do not overflow


class Members(NamedTuple):
    """Which points are in which concepts: the concepts of each source, and the rows of each concept."""

    begins: Int[Any, " ranks"]  # where the concepts of the source of each rank begin, and where the last ones end
    concepts: Int[Any, " places"]
    rows: UInt32[Any, "concepts words"]  # a bit for each row; the last concept is empty


class Trees(NamedTuple):
    """The shortest paths from the sources of a block, each a tree of all rows."""

    sources: Int[Array, " s"]
    distance: Array  # [rows s]
    parents: Int[Array, "s rows"]  # of a source and of a row with a tie itself, of what is not reached the source
    hops: Int[Array, "s rows"]
    reached: Bool[Array, "s rows"]
    tied: Bool[Array, "s rows"]  # reached, but with a tie on the way


Fields = Int[Array, "w fields"]


def sum_concepts(
    packed: PackedGraph,
    order: Order,
    asked: Asked,
    members: Members,
    begin: Array | int,
    end: Array | int,
    *,
    lanes: int,
    width: int,
    room: int,
    whole: bool | None = None,
) -> Int[Array, "room fields"]:
    """Sums over the partners of each source in each of its concepts, fields as of `fields_of`, from some of the blocks.

    The places are those of `members.concepts` from the first of these blocks on.
    """

    every = jnp.arange(lanes, dtype=jnp.int32)

    def search(packed: PackedGraph) -> Array:
        def block_sums(index: Array, totals: Array) -> Array:
            block, pairs = block_of(order, asked, index, lanes, 1)
            trees = _trees(packed, asked, block, pairs)

            def fold(own: Rows, sums_of: Callable[[Array, Array], Fields], totals: Array) -> Array:
                """The totals with sums_of(lane, rows of some concepts) for some lanes and all concepts of their sources."""

                def lane_sums(turn: Array, totals: Array) -> Array:
                    lane = own.listed[turn]
                    rank = index * lanes + lane
                    first, last = members.begins[rank], members.begins[rank + 1]

                    def some_sums(turn: Array, totals: Array) -> Array:
                        places = first + turn * width + jnp.arange(width)
                        there = places < last
                        concepts = members.concepts[jnp.minimum(places, last - 1)]
                        rows = rows_of(members.rows, jnp.where(there, concepts, len(members.rows) - 1))
                        places = jnp.where(there, places - members.begins[begin * lanes], room)
                        return totals.at[places].add(sums_of(lane, rows), mode="drop")

                    return fori_loop(0, -(-(last - first) // width), some_sums, totals)

                return fori_loop(0, own.number, lane_sums, totals)

            live = Rows(every, jnp.minimum(lanes, order.number - index * lanes))
            totals = cond(
                jnp.max(trees.hops) > 255,
                partial(fold, live, partial(_sums_of_source, trees, jnp.int32)),
                partial(fold, live, partial(_sums_of_source, trees, jnp.uint8)),
                totals,
            )
            tied = chosen_rows(jnp.any(trees.tied, axis=1) & (every < live.number))
            return fold(tied, partial(_sums_of_ties, packed, trees), totals)

        return fori_loop(begin, end, block_sums, jnp.zeros((room, FIELDS), jnp.int32))

    return in_lengths(packed, search, whole)


def _trees(packed: PackedGraph, asked: Asked, block: Any, pairs: Any) -> Trees:
    distance, _, links = searched(packed, asked.labels[:0], block, pairs)
    total, far = len(distance), infinity(distance.dtype)
    sources = block.sources
    reached = (packed.component[:, None] == packed.component[sources]) & (distance < far)
    own = jnp.arange(total, dtype=jnp.int32)[:, None]
    if links is None:  # edges may have length 0, along which parents would go in circles
        parents = jnp.where(reached, own, sources)
    else:
        wanted = reached & (asked.labels[0] >= 0)[:, None]
        near = reached & (distance <= jnp.max(jnp.where(wanted, distance, 0), axis=0))  # links are made up to there
        parents = jnp.where(near & (own != sources), jnp.where((links & 1) > 0, own, links >> 1), sources)
    roots, hops = hops_to_root(parents.T)
    tied = reached.T & (roots != sources[:, None])
    return Trees(sources, distance, parents.T, hops, reached.T, tied)


def _sums_of_source(trees: Trees, dtype: Any, lane: Array, concepts: UInt32[Array, "w words"]) -> Fields:
    """The sums over the partners of one source in some of its concepts, but for those with a tie on the way.

    `dtype` holds the hops of all paths.
    """
    source = trees.sources[lane]
    others = jnp.arange(trees.parents.shape[1]) != source
    walked, apart, hops = trees.reached[lane] & ~trees.tied[lane] & others, ~trees.reached[lane], trees.hops[lane]
    interior = jnp.maximum(hops - 1, 0)
    partners = _without(concepts, source)
    table = _table(partners).astype(dtype)
    inside = _inside(table, trees.parents[lane], jnp.max(interior))
    points = jnp.where(apart, 1, interior).astype(dtype)[:, None]  # no path: all of it is outside
    outside = jnp.where((table > 0) & (apart | walked)[:, None], points - inside, 0)
    *fields, away = _sum_rows(outside, jnp.where(apart, UNIT, parts_of(interior)))
    adjacent, disconnected, number = (_common(partners, rows) for rows in (walked & (hops == 1), apart, walked | apart))
    return jnp.stack([*fields, adjacent, disconnected, number - away, number], axis=-1)


def _without(concepts: UInt32[Array, "w words"], row: Array) -> UInt32[Array, "w words"]:
    """The concepts without one of their rows."""
    bit = jnp.uint32(1) << (row & 31).astype(jnp.uint32)
    return concepts & ~jnp.where(jnp.arange(concepts.shape[1]) == row >> 5, bit, jnp.uint32(0))


def _table(concepts: UInt32[Array, "w words"]) -> UInt8[Array, "rows w"]:
    """Whether rows are in concepts, a byte each, from a bit each."""
    width, barrier = len(concepts), jax.lax.optimization_barrier  # what is read often is written before
    words = barrier(concepts.T)[:, None]
    shifts = 8 * jnp.arange(4, dtype=jnp.uint32)[:, None]
    octets = barrier(((words >> shifts) & 255).astype(jnp.uint8).reshape(-1, 1, width))
    bits = (1 << jnp.arange(8)).astype(jnp.uint8)[:, None]
    return ((octets & bits) > 0).astype(jnp.uint8).reshape(-1, width)


def words_of(rows: Bool[Array, "*concepts rows"]) -> UInt32[Array, "*concepts words"]:
    """A bit for each row."""
    octets = jnp.packbits(rows, axis=-1, bitorder="little")
    return jax.lax.bitcast_convert_type(octets.reshape(*octets.shape[:-1], -1, 4), jnp.uint32)


def _common(concepts: UInt32[Array, "w words"], rows: Bool[Array, " rows"]) -> Int[Array, " w"]:
    """How many of the rows are in each concept."""
    return jnp.sum(jax.lax.population_count(concepts & words_of(rows)).astype(jnp.int32), axis=1)


def _inside(table: Array, parents: Int[Array, " rows"], most: Array) -> Array:
    """How many rows strictly between each row and its root are in each concept: at most `most` rows.

    True where the root is in none of the concepts, as the source is here; of rows with a tie on the way nothing is asked.
    """

    def double(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        inside, ancestor, walked = state
        return inside + rows_of(inside, ancestor), rows_of(ancestor, ancestor), 2 * walked

    start = rows_of(table, parents), parents, jnp.int32(1)
    return while_loop(lambda state: state[2] < most, double, start)[0]


def _sum_rows(outside: Array, parts: Int[Array, " rows"]) -> tuple[Array, ...]:
    """Coarse and fine deficit, coarse and fine square of it, and how many are not 0: sums [w] over all rows.

    Args:
        outside: the points outside on the path to each row, by each concept [rows w].
        parts: what one of them is of the path, in units of 1 / UNIT.

    Products with either half of the bits of a part, and sums of 8, are exact in float32 up to 64 points. Arrays are
    written before they are read, since XLA would compute them again for each sum.
    """
    total, width = outside.shape
    chunk = math.gcd(total, max(UNROLLED, SUMMED // width) if jax.default_backend() == "cpu" else WIDE_CHUNK)
    size = chunk // UNROLLED
    limbs = [part.astype(jnp.float32)[:, None] for part in (parts >> LIMB, parts & (2**LIMB - 1), parts / UNIT)]
    outside, *limbs = jax.lax.optimization_barrier([outside, *limbs])
    zero = jnp.zeros((size, width), jnp.int32)

    def some(index: Array, totals: Any) -> Any:
        cut = partial(jax.lax.dynamic_slice_in_dim, start_index=index * chunk, slice_size=chunk)
        parts = [jnp.split(cut(each), UNROLLED) for each in (outside, *limbs)]
        coarse = fine = square = zero.astype(jnp.float32)
        away = zero.astype(outside.dtype)
        for points, high, low, share in zip(*parts, strict=True):
            away += (points > 0).astype(away.dtype)
            points = points.astype(jnp.float32)
            coarse, fine, square = coarse + points * high, fine + points * low, square + (points * share) ** 2
        return tuple(
            total + part.astype(total.dtype) for total, part in zip(totals, (coarse, fine, square, away), strict=True)
        )

    def stretch(index: Array, totals: Any) -> Any:
        last = jnp.minimum((index + 1) * STRETCH, total // chunk)
        coarse, fine, square, away = fori_loop(
            index * STRETCH, last, some, (zero, zero, zero.astype(jnp.float32), zero)
        )
        spare, units = FINE_BITS - LIMB, square * (SQUARE / 2**FINE_BITS)
        whole = units.astype(jnp.int32)
        deficit = carried(totals[0] + (coarse >> spare), totals[1] + ((coarse & (2**spare - 1)) << LIMB) + fine)
        squared = carried(
            totals[2] + whole, totals[3] + ((units - whole.astype(units.dtype)) * 2**FINE_BITS).astype(jnp.int32)
        )
        return *deficit, *squared, totals[4] + away

    found = fori_loop(0, -(-total // (chunk * STRETCH)), stretch, (zero,) * 5)
    coarse, fine, coarse_square, fine_square, away = (jnp.sum(part, axis=0, dtype=jnp.int32) for part in found)
    return *carried(coarse, fine), *carried(coarse_square, fine_square), away


def _sums_of_ties(packed: PackedGraph, trees: Trees, lane: Array, concepts: UInt32[Array, "w words"]) -> Fields:
    """The sums over the partners of one source that have a tie on the way, NARROW concepts at a time."""
    width, tied = len(concepts), trees.tied[lane]
    ends, waiting = chosen_rows(tied), _common(concepts, tied) > 0
    listed = jnp.nonzero(waiting, size=width + NARROW, fill_value=width)[0]
    rows = rows_of_paths(packed, Columns(trees.distance, lane[None]), tied[:, None])
    sources, distance = jnp.full(NARROW, trees.sources[lane]), Columns(trees.distance, jnp.full(NARROW, lane))

    def several(state: tuple[Array, Fields]) -> tuple[Array, Fields]:
        begin, sums = state
        some = jax.lax.dynamic_slice(listed, (begin,), (NARROW,))
        own = (_table(rows_of(concepts, jnp.minimum(some, width - 1))) > 0) & (some < width)
        found = least_cost(packed, lambda rows: ~rows_of(own, rows), sources, distance, rows)

        def add(some: Array, live: Array, sums: Fields) -> Fields:
            pairs = rows_of(own, some) & live[:, None]
            parts = parts_of_pairs(counts_of_cost(rows_of(found.cost, some), pairs), pairs)
            few = jnp.sum(parts.reshape(len(parts), -1, CHUNK, NARROW), axis=2, dtype=jnp.int32)
            return carried_fields(sums + jnp.sum(jnp.stack(fields_of(few), axis=-1), axis=0, dtype=jnp.int32))

        more = fold_rows(ends, add, jnp.zeros((NARROW, FIELDS), jnp.int32))
        return begin + NARROW, sums.at[some].add(more, mode="drop")

    start, number = jnp.zeros((width, FIELDS), jnp.int32), jnp.sum(waiting)
    return while_loop(lambda state: state[0] < number, several, (jnp.int32(0), start))[1]
