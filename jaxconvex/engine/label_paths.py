"""What the shortest paths from some points lose under many labelings at once.

Labels do not change the paths but for ties, so each source has one tree. Points are taken level by level, parents before
children, and a row of bytes, one a labeling, holds how many points outside the class lie on the way to each.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxconvex.engine.frontier import (
    ONE,
    SEVERAL,
    chosen_rows,
    distances_from,
    fold_rows,
    parents_of,
    put_rows,
    rows_of,
)
from jaxconvex.graphs import PackedGraph, bucket
from jaxconvex.paths import OUTSIDE, infinity, rounding_slack

__all__ = ["NOBODY", "path_losses"]

NOBODY = -2  # a label that no point has
GROUP = 16  # points of one source and level, whose counts are added up together
GROUPS = 32  # groups in one step
BYTE = 126  # the most points on a path that are counted in bytes


class Trees(NamedTuple):
    """The last point but one of the shortest paths from each source to each row: -1 if there is none, or several."""

    distance: Array  # [s rows]
    reach: Array  # [s rows] what a path may be long, with rounding, to count as a shortest
    parent: Int[Array, "s rows"]
    tied: Bool[Array, "s rows"]


class Ways(NamedTuple):
    """How each item is reached. An item is a source and a row, in one number; those in `tied` have several parents."""

    parent: Int[np.ndarray, " items"]  # an item; -1: not reached
    level: Int[np.ndarray, " items"]  # above those of all parents
    tied: Int[np.ndarray, " t"]
    parents: Int[np.ndarray, "t w"]  # items; -1: none
    even: Bool[np.ndarray, " s"]  # sources from which the level is the number of hops, on whichever path


class Steps(NamedTuple):
    """The items in the order in which they are counted: so many at a time, in groups of one source and level."""

    rows: Int[Any, " places"]
    parents: Int[Any, " places"]  # the place of each parent, from 1 on: at 0 is the source
    owners: Int[Any, " groups"]
    weights: Float[Any, " groups"]  # 1 / the points inside the paths of a group
    further: Int[Any, "f places"]  # the parents of the items of each step that are reached by several
    first: Int[Any, " steps"]  # where those of each step begin
    width: Int[Any, " steps"]  # how many an item of the step has at most
    number: Int[Any, ""]


def path_losses(
    packed: PackedGraph, sources: Int[np.ndarray, " s"], labels: Sequence[Int[Array, "n p"]]
) -> Float[np.ndarray, "s q"]:
    """Sum of 1 - score over all points of the source's label that it reaches, for each source and labeling.

    Args:
        packed: the graph, mostly as `layout_of` gives it.
        sources: rows.
        labels: labelings of the rows, some at a time; NOBODY in a last row beyond them.

    Of equally short paths, edge by edge, the one with the fewest points outside counts, then the one with fewest hops.
    Cost: sources x rows x labelings bytes, read and written some times; memory the same for one chunk of labelings.

    >>> import jaxconvex
    >>> chain = jaxconvex.pack(jaxconvex.knn_graph(jnp.array([[0.], [1.], [2.1], [3.3]]), k=1))
    >>> labels = np.full((len(chain.order) + 1, 1), NOBODY)
    >>> labels[np.asarray(chain.position), 0] = [0, 1, 0, 0]
    >>> path_losses(chain, np.asarray(chain.position)[:1], [jnp.asarray(labels)])
    array([[1.5]])
    """
    ways = _ways(packed, jax.tree.map(np.asarray, _trees(packed, sources)))
    found = np.zeros((len(sources), len(labels), labels[0].shape[1]))
    for even in (True, False):
        if np.any(some := ways.even == even):
            steps = _steps(ways, some, int(packed.depth))
            for i, chunk in enumerate(labels):
                found[some, i] += np.asarray(_losses(chunk, sources, steps, even=even))[some]
    return found.reshape(len(sources), -1)


@jax.jit
def _trees(packed: PackedGraph, sources: Int[Array, " s"]) -> Trees:
    rows, s = packed.order.shape[0], sources.shape[0]
    nowhere = jnp.full(s, infinity(packed.lengths.dtype))
    distance, _ = distances_from(packed, sources, lambda _: nowhere, most=rows)
    slack = rounding_slack(distance, packed.edges.lengths.dtype, 2 * packed.depth)
    reached = (distance < infinity(distance.dtype)) & (jnp.arange(rows)[:, None] != sources)
    reach = jnp.where(reached, distance + slack, -1)

    def one(some: Array, live: Array, found: Array) -> Array:
        return put_rows(found, some, live, parents_of(packed, some, live, distance, rows_of(reach, some)))

    found = fold_rows(chosen_rows(packed.count > 0), one, jnp.zeros((rows, s), jnp.int32)).T
    tied = found == SEVERAL
    return Trees(distance.T, reach.T, jnp.where(tied | (found == 0), -1, found - ONE), tied)


def _ways(packed: PackedGraph, trees: Trees) -> Ways:
    s, rows = trees.parent.shape
    offset = rows * np.arange(s, dtype=np.int32)[:, None]
    parent = np.where(trees.parent >= 0, trees.parent + offset, -1).ravel()
    tied = np.flatnonzero(trees.tied)
    distance = trees.distance.ravel()
    parents = _tied_parents(packed, trees, tied)
    far = np.where(parents >= 0, distance[parents], np.inf)
    parent[tied] = np.take_along_axis(parents, far.argmin(axis=1)[:, None], axis=1)[:, 0]
    level, even = np.zeros(len(parent), np.int32), np.zeros(s, bool)
    if distance.dtype.kind == "i":  # then a point's nearest parent is nearer than the point
        level = _hops(parent)
        parents = _without_detours(parent, level, tied, parents)
        uneven = tied[np.any((parents >= 0) & (level[parents] != level[tied][:, None] - 1), axis=1)]
        even = level.reshape(s, rows).max(axis=1) <= BYTE
        even[uneven // rows] = False
    if not even.all():
        nearer = (far < distance[tied][:, None]) | ((far == distance[tied][:, None]) & (parents < tied[:, None]))
        longest = _longest(parent, tied, np.where(nearer, parents, -1), 4 * int(packed.depth) + 16)
        level = np.where(np.repeat(even, rows), level, longest)
    return Ways(parent, level, tied, parents, even)


def _longest(
    parent: Int[np.ndarray, " items"], tied: Int[np.ndarray, " t"], parents: Int[np.ndarray, "t w"], most: int
) -> Int[np.ndarray, " items"]:
    """The most hops by which each item is reached, or `most`: an order in which few sweeps are needed."""
    single = np.flatnonzero(parent >= 0)
    level = (parent >= 0).astype(np.int32)
    for _ in range(most):
        further = level.copy()
        further[single] = level[parent[single]] + 1
        further[tied] = 1 + np.max(np.where(parents >= 0, level[parents], 0), axis=1, initial=0)
        if np.array_equal(further, level):
            break
        level = further
    return level


def _tied_parents(packed: PackedGraph, trees: Trees, tied: Int[np.ndarray, " t"]) -> Int[np.ndarray, "t w"]:
    """All parents of the tied items."""
    rows = trees.parent.shape[1]
    source, row = np.divmod(tied, rows)
    count = np.asarray(packed.count)[row]
    item = np.repeat(np.arange(len(tied)), count)
    group = np.arange(len(item)) + np.repeat(np.asarray(packed.first)[row] - (np.cumsum(count) - count), count)
    before, length = np.asarray(packed.neighbors)[group], np.asarray(packed.lengths)[group]
    tight = trees.distance[source[item, None], before] + length <= trees.reach[source[item], row[item]][:, None]
    place, lane = np.nonzero(tight)
    child = item[place]
    slot = np.arange(len(child)) - np.searchsorted(child, child)
    parents = np.full((len(tied), int(slot.max(initial=1)) + 1), -1)
    parents[child, slot] = source[child] * rows + before[place, lane]
    return parents


def _hops(parent: Int[np.ndarray, " items"]) -> Int[np.ndarray, " items"]:
    hops, ancestor = (
        (parent >= 0).astype(np.int32),
        np.where(parent >= 0, parent, np.arange(len(parent), dtype=np.int32)),
    )
    while True:  # pointer doubling: hops to the ancestor, and on from there
        further = hops + hops[ancestor]
        if np.array_equal(further, hops):
            return hops
        hops, ancestor = further, ancestor[ancestor]


def _without_detours(
    parent: Int[np.ndarray, " items"],
    hops: Int[np.ndarray, " items"],
    tied: Int[np.ndarray, " t"],
    parents: Int[np.ndarray, "t w"],
) -> Int[np.ndarray, "t w"]:
    """The parents without those whose own parents are all parents too: past them is no worse, and a hop less.

    So equal points, a rounding apart, do not lie on each other's paths.
    """
    item, slot = np.nonzero((parents >= 0) & (hops[parents] != hops[tied][:, None] - 1) & (parent[parents] >= 0))
    if not len(item):
        return parents
    over = parents[item, slot]
    number = np.full(len(parent), -1)
    number[tied] = np.arange(len(tied))
    alone = np.concatenate([parent[over, None], np.full((len(over), parents.shape[1] - 1), -1)], axis=1)
    beyond = np.where(number[over, None] >= 0, parents[number[over]], alone)
    own = parents[item]
    detour = np.ones(len(item), bool)
    for column in beyond.T:
        detour &= (column < 0) | (column == tied[item]) | np.any(own == column[:, None], axis=1)
    kept = parents.copy()
    kept[item[detour], slot[detour]] = -1
    return kept


def _steps(ways: Ways, some: Bool[np.ndarray, " s"], depth: int) -> Steps:
    """The steps for some of the sources."""
    s, rows, together = len(some), len(ways.parent) // len(some), GROUP * GROUPS
    items = np.flatnonzero((ways.parent >= 0) & np.repeat(some, rows))
    items = items[np.argsort(ways.level[items].astype(np.min_scalar_type(len(ways.level))), kind="stable")]
    level, source = ways.level[items], items // rows
    levels = int(level.max(initial=0)) + 1
    key = level * s + source
    size = np.bincount(key, minlength=levels * s)
    groups = np.zeros((levels, s + 1), np.int64)
    groups[:, :s] = -(-size.reshape(levels, s) // GROUP)
    groups[:, s] = -groups.sum(axis=1) % GROUPS  # a level begins with a step of its own
    first = (np.cumsum(groups) - groups.ravel()).reshape(groups.shape)
    total = int(groups.sum()) * GROUP
    place = first[:, :s].ravel()[key] * GROUP + np.arange(len(items)) - (np.cumsum(size) - size)[key]

    wide = s if 4 * np.count_nonzero(some) > s else -(-s // 4)
    usual = wide * rows + min(depth, BYTE) * (wide + GROUPS) * GROUP  # mostly enough: blocks share a compilation
    places = -(-bucket(max(total, usual)) // together) * together
    at = np.zeros(s * rows, np.int32)  # 0: a source
    at[items] = place + 1
    listed, parents = np.full(places, rows, np.int32), np.zeros(places, np.int32)
    listed[place], parents[place] = items % rows, at[ways.parent[items]]
    owners, weights = np.zeros(places // GROUP, np.int32), np.zeros(places // GROUP, np.float32)
    owners[place // GROUP], weights[place // GROUP] = source, 1 / np.maximum(level - 1, 1)

    chosen = some[ways.tied // rows]
    place = at[ways.tied[chosen]] - 1
    step = place // together
    width = np.zeros(places // together, np.int32)
    several = np.sort(ways.parents[chosen], axis=1)[:, ::-1]  # those that there are come first
    np.maximum.at(width, step, np.count_nonzero(several >= 0, axis=1))
    begin = np.cumsum(width) - width
    further = np.zeros((1 << max(5, int(width.sum() - 1).bit_length()), together), np.int32)
    for i in np.flatnonzero(width):
        further[begin[i] : begin[i] + width[i]] = parents[i * together : (i + 1) * together]
    item, slot = np.nonzero(several >= 0)
    further[(begin[step])[item] + slot, place[item] % together] = at[several[item, slot]]
    number = np.int32(total // together)
    return Steps(listed, parents, owners, weights, further, begin.astype(np.int32), width, number)


@partial(jax.jit, static_argnames=("even",))
def _losses(labels: Int[Array, "n p"], sources: Int[Array, " s"], steps: Steps, *, even: bool) -> Float[Array, "s p"]:
    """The losses by the cost of the best way to each place: points outside, in bytes; or these and hops, if uneven."""
    s, p = len(sources), labels.shape[1]
    places, together = len(steps.rows), GROUP * GROUPS
    own = rows_of(labels, sources)
    far = 0 if even else infinity(jnp.int32)

    def step(i: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        cost, losses = state

        def part(values: Array, size: int) -> Array:
            return lax.dynamic_slice(values, (i * size,), (size,))

        def another(j: Array, best: Array) -> Array:
            return jnp.minimum(best, rows_of(cost, rows_of(steps.further, steps.first[i] + j)))

        owner = part(steps.owners, GROUPS)
        foreign = rows_of(labels, part(steps.rows, together)).reshape(GROUPS, GROUP, p) != rows_of(own, owner)[:, None]
        best = lax.fori_loop(0, steps.width[i], another, rows_of(cost, part(steps.parents, together)))
        best = best.reshape(foreign.shape)
        if even:
            new = best + foreign
            lost = _sum(jnp.where(foreign, 0, new).astype(jnp.int16)) * part(steps.weights, GROUPS)[:, None]
        else:
            new = jnp.minimum(best, far) + jnp.where(foreign, 1 + OUTSIDE, 1)
            lost = _sum(jnp.where(foreign, 0, new // OUTSIDE / jnp.maximum(new % OUTSIDE - 1, 1)))
        cost = lax.dynamic_update_slice(cost, new.reshape(together, p), (1 + i * together, 0))
        return cost, losses.at[owner].add(lost)

    def sweep(cost: Array) -> tuple[Array, Array]:
        return lax.fori_loop(0, steps.number, step, (cost, jnp.zeros((s, p), jnp.float32)))

    start = jnp.full((places + 1, p), far, jnp.int8 if even else jnp.int32).at[0].set(0)
    if even:
        return sweep(start)[1]

    def again(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        new, losses = sweep(state[0])
        return new, losses, jnp.any(new != state[0])

    return lax.while_loop(lambda state: state[2], again, (*sweep(start), jnp.array(True)))[1]


def _sum(values: Array) -> Array:
    """The sum over the points of each group, in float32; by halves, since these are vectorised."""
    while values.shape[1] > 1:
        half = values.shape[1] // 2
        values = values[:, :half] + values[:, half:]
    return values[:, 0].astype(jnp.float32)
