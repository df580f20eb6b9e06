"""The order in which points are searched from, and the blocks that search together: computed where the graph is."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from jaxconvex._internal.devices import in_mesh
from jaxconvex._internal.loops import fori_loop
from jaxconvex.paths.graph import PackedGraph, without_places
from jaxconvex.paths.pairs import Pairs
from jaxconvex.paths.search import chosen_rows, rows_of
from jaxconvex.paths.walk import WALKED, Block, Some

__all__ = ["Asked", "Order", "block_of", "labels_of_rows", "mirrored", "most_lanes", "plan"]
__all__ += ["plan_of_arrays", "room_for"]

SOME = 16  # points of a class from which the others' distances are estimated
SHELLS = 16  # of a large class, from the outermost inwards


class Order(NamedTuple):
    """The rows to search from, in the order in which they are best searched."""

    rows: Int[Array, " rows"]
    rank: Int[Array, " rows"]  # the place of each row
    number: Int[Array, ""]  # of them: those behind are not searched from


class Asked(NamedTuple):
    """Which pairs are asked for: those of one label, by labeling; or drawn ones.

    Of pairs of one label either those from each `source` to all others, or each pair from the end that comes first, so that
    the search from the inner ones need not reach the outer ones. Pairs within a block are solved from both ends.
    """

    labels: Int[Array, "l rows"]
    sources: Bool[Array, "l rows"] | None  # None: all pairs
    drawn: Int[Array, "2 p"] | None  # of each drawn pair the rank of one end, in order, and the row of the other


def most_lanes(num_points: int, drawn: bool = False) -> int:
    """How many sources a block has: their distances to all points should stay in a processor's caches.

    Drawn sources lie far from each other, so that a block reads more of them. An accelerator has no such caches to speak
    of: there, as many as keep it busy.
    """
    if jax.default_backend() == "cpu":
        steps = (16_384, 32_768, 65_536) if drawn else (16_384, 131_072, 262_144)
        most = 128 >> int(np.searchsorted(steps, num_points))
    else:
        most = 512 if num_points <= 131_072 else 128
    return min(most, max(16, 1 << max(num_points - 1, 0).bit_length()))


def labels_of_rows(packed: PackedGraph, labels: Int[Array, "*l n"]) -> Int[Array, "*l rows"]:
    """The labels of the rows of a packed graph; -1 where they pad."""
    return jnp.where(packed.component >= 0, labels[..., packed.order], -1)


@partial(jax.jit, static_argnames=("num_classes", "lanes"))
@in_mesh
def plan(
    packed: PackedGraph,
    labels: Int[Array, "l n"],
    sources: Bool[Array, "l n"] | None = None,
    pairs: Pairs | None = None,
    *,
    num_classes: int,
    lanes: int,
) -> tuple[Order, Asked]:
    """What is asked for, and the order of the search: all pairs of one label, those of some sources, or drawn pairs."""
    total = len(packed.first)
    rows = labels_of_rows(packed, labels)
    if sources is not None:
        sources = (packed.component >= 0) & (rows >= 0) & sources[:, packed.order]
    chosen = jnp.any(rows >= 0 if sources is None else sources, axis=0)
    if pairs is None:
        return _order_of_sources(packed, rows[0], chosen, num_classes, lanes), Asked(rows, sources, None)
    first, second = (packed.position[end.ravel()] for end in (pairs.first, pairs.second))
    first = jnp.where(pairs.valid.ravel(), first, total)
    chosen = jnp.zeros(total, bool).at[first].set(True, mode="drop")
    order = _order_of_sources(packed, rows[0], chosen, num_classes, lanes)
    ranks = jnp.where(first < total, order.rank[jnp.minimum(first, total - 1)], total)
    by_rank = jnp.argsort(ranks)
    return order, Asked(rows, None, jnp.stack([ranks[by_rank], second[by_rank]]))


def plan_of_arrays(
    packed: PackedGraph,
    labels: Int[np.ndarray, "l n"],
    sources: Bool[np.ndarray, "l n"] | None = None,
    pairs: Pairs | None = None,
    *,
    num_classes: int,
    lanes: int,
) -> tuple[Order, Asked]:
    """`plan` for concrete arrays, compiled for rounded sizes, which graphs of other numbers of points and classes share."""
    room = ((0, 0), (0, len(packed.order) - labels.shape[1]))
    padded = (None if each is None else np.pad(each, room) for each in (labels, sources))
    packed = without_places(packed) if pairs is None else packed
    return plan(packed, *padded, pairs, num_classes=room_for(num_classes), lanes=lanes)


def room_for(num_classes: int) -> int:
    """The number of classes for which the search is compiled: those that no point has change nothing.

    >>> room_for(3), room_for(20)
    (16, 32)
    """
    return max(16, 1 << (num_classes - 1).bit_length())


def _order_of_sources(
    packed: PackedGraph, labels: Int[Array, " rows"], chosen: Bool[Array, " rows"], num_classes: int, lanes: int
) -> Order:
    """The chosen rows class by class, near classes side by side, those without a label last.

    Within a class the outermost come first, in shells, and within a shell those near each other are side by side: near
    sources have nearly the same paths, so that their rows settle together. What is far and what is near is told by lower
    bounds of the distances, from those to the landmarks.
    """
    total, away = len(chosen), packed.landmarks
    numbers = jnp.arange(total, dtype=jnp.int32)
    own = jnp.where(chosen, jnp.where(labels >= 0, labels, num_classes), num_classes + 1)
    sizes = jnp.bincount(own, length=num_classes + 2)
    begins = jnp.cumsum(sizes) - sizes
    by_class = jnp.argsort(own, stable=True)
    size, begin = sizes[own], begins[own]

    def bound(i: Array, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        farness, least, nearest = state
        pivot = by_class[begin + i * (size - 1) // (SOME - 1)]
        apart = jnp.max(jnp.abs(away - away[pivot]), axis=1)
        return farness + apart, jnp.minimum(least, apart), jnp.where(apart < least, i, nearest)

    start = jnp.zeros(total), jnp.full(total, jnp.inf), jnp.zeros(total, jnp.int32)
    farness, least, nearest = fori_loop(0, SOME, bound, start)
    inward = jnp.lexsort((-farness, own))
    place = jnp.zeros(total, jnp.int32).at[inward].set(numbers, unique_indices=True) - begin
    shell = place * jnp.clip(-(-size // lanes), 1, SHELLS) // jnp.maximum(size, 1)
    centre = (
        jnp.zeros((num_classes + 2, away.shape[1])).at[own].add(away) / jnp.maximum(sizes, 1).astype(float)[:, None]
    )
    last = jnp.arange(num_classes + 2) - num_classes  # 0 and 1 for those behind all classes
    beside = jnp.lexsort((jnp.min(centre, axis=1), jnp.argmin(centre, axis=1), jnp.maximum(last, -1)))
    turn = jnp.zeros(num_classes + 2, jnp.int32).at[beside].set(jnp.arange(num_classes + 2, dtype=jnp.int32))
    rows = jnp.lexsort((least, nearest, shell, turn[own])).astype(jnp.int32)
    rank = jnp.zeros(total, jnp.int32).at[rows].set(numbers, unique_indices=True)
    return Order(rows, rank, jnp.sum(chosen, dtype=jnp.int32))


def block_of(order: Order, asked: Asked, index: Array, lanes: int, num_classes: int) -> tuple[Block, Any]:
    """A block, and the function that tells which of its pairs are asked for: from `Some` of them to [l t s]."""
    total, begin = len(order.rows), index * lanes
    lane = begin + jnp.arange(lanes, dtype=jnp.int32)
    live = lane < order.number
    sources = rows_of(order.rows, jnp.where(live, lane, begin))
    if asked.drawn is not None:
        chosen = _drawn(order, asked.drawn, begin, lanes)
        beside = jnp.any(chosen, axis=1)
    else:
        known = live if asked.sources is None else live & asked.sources[:, sources]
        own = jnp.where(known, asked.labels[:, sources], -1)
        present = jnp.zeros((len(own), num_classes + 1), bool)  # the last for those without a label
        present = present.at[jnp.arange(len(own))[:, None], own].set(True).at[:, num_classes].set(False)
        beside = jnp.any(jnp.take_along_axis(present, asked.labels, axis=1), axis=0)
        if asked.sources is None:
            beside &= order.rank >= begin
    listed = chosen_rows(beside)
    targets = jnp.pad(listed.listed, (0, -total % WALKED))

    def pairs(some: Some) -> Bool[Array, "l t s"]:
        there = (some.start + jnp.arange(len(some.targets)) < listed.number)[:, None] & (some.columns < lanes)
        column = jnp.minimum(some.columns, lanes - 1)
        if asked.drawn is not None:
            return (rows_of(chosen, some.targets)[:, column] & there)[None]
        there &= some.targets[:, None] != sources[column]
        mine = own[:, column]
        return (asked.labels[:, some.targets][:, :, None] == mine[:, None]) & (mine >= 0)[:, None] & there

    return Block(sources, targets, listed.number), pairs


def mirrored(order: Order, asked: Asked, index: Array, lanes: int, targets: Int[Array, " t"]) -> Bool[Array, " t"]:
    """For which targets of a block a pair counts too: no other block has them as its source."""
    if asked.drawn is not None:
        return jnp.ones(targets.shape, bool)
    return (order.rank[targets] >= (index + 1) * lanes) & (asked.sources is None)


def _drawn(order: Order, pairs: Int[Array, "2 p"], begin: Array, lanes: int) -> Bool[Array, "rows s"]:
    """The drawn pairs whose first end is a source of the block."""
    ranks, second = pairs
    start, stop = jnp.searchsorted(ranks, jnp.stack([begin, begin + lanes]))
    some = min(1024, len(ranks))

    def mark(i: Array, chosen: Array) -> Array:
        at = start + i * some + jnp.arange(some)
        at = jnp.where(at < stop, at, len(ranks))
        column = jnp.where(at < stop, ranks.at[at].get(mode="clip") - begin, lanes)
        return chosen.at[second.at[at].get(mode="clip"), column].set(True, mode="drop")

    return fori_loop(0, -(-(stop - start) // some), mark, jnp.zeros((len(order.rank), lanes), bool))
