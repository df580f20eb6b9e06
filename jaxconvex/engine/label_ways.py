"""How each point is reached from some sources, whatever the labels: an order in which they may be counted.

Labels do not change the paths but for ties, so each source has one tree. Points are taken level by level, parents before
children. Distances, ties, and what a path may exceed the distance by are those of the score.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from jaxconvex.paths.chains import chain_tolerance, climb, edge_matrix, is_long
from jaxconvex.paths.graph import PackedGraph
from jaxconvex.paths.search import (
    ONE,
    SEVERAL,
    chosen_rows,
    distances_from,
    fold_rows,
    from_sources,
    infinity,
    parents_of,
    put_rows,
    rows_of,
    whole_lengths,
)
from jaxconvex.paths.tie_rule import A_HOP, rounding_slack

__all__ = ["BYTE", "Layout", "Ways", "layout_for_labels", "ways_from"]

BYTE = 126  # the most points on a path that are counted in bytes


class Layout(NamedTuple):
    """A packed graph, and the lengths by which the score searches it: its own, or wide ones for long chains."""

    packed: PackedGraph  # as `layout_of` gives it
    lengths: Any  # [groups width]
    matrix: Any  # of the edges between points, for long chains; None otherwise
    tolerance: float  # of long chains


class Trees(NamedTuple):
    """The last point but one of a shortest path from each source to each row: -1 if there is none, or not told which."""

    distance: Any  # [s rows]
    slack: Any  # [s rows] by how much a path of no hops may exceed that and still count as a shortest
    parent: Int[Any, "s rows"]
    tied: Bool[Any, "s rows"]  # where there are several


class Ways(NamedTuple):
    """How each item is reached. An item is a source and a row, in one number; those in `tied` have several parents."""

    parent: Int[np.ndarray, " items"]  # an item; -1: not reached
    level: Int[np.ndarray, " items"]  # above those of all parents
    tied: Int[np.ndarray, " t"]
    parents: Int[np.ndarray, "t w"]  # items; -1: none
    gap: Any  # [t w] by how much the way over a parent exceeds the distance
    slack: Any  # [items]
    even: Bool[np.ndarray, " s"]  # sources from which the level is the number of hops, and no path exceeds its slack


def layout_for_labels(packed: PackedGraph) -> Layout:
    """What `path_losses` reads of a graph."""
    reduced = whole_lengths(packed) if packed.quantum > 0 else packed
    if not is_long(packed):
        return Layout(reduced, np.asarray(reduced.lengths), None, 0.0)
    matrix = edge_matrix(packed)
    order, owner = np.asarray(packed.order), np.asarray(packed.owner)
    ends = order[np.minimum(owner, len(order) - 1)][:, None], order[np.asarray(packed.neighbors)]
    there = np.asarray(packed.lengths) < np.inf
    lengths = np.asarray(matrix[np.broadcast_to(ends[0], there.shape).ravel(), ends[1].ravel()]).reshape(there.shape)
    reduced = reduced._replace(position=packed.position)
    return Layout(reduced, np.where(there, lengths, np.inf), matrix, chain_tolerance(packed))


def ways_from(layout: Layout, sources: Int[np.ndarray, " s"]) -> Ways:
    """The ways from some rows to all others."""
    if layout.matrix is not None:
        return _ways(layout, _trees_of_chains(layout, sources))
    return _ways(layout, jax.tree.map(np.asarray, _trees(layout.packed, sources)))


@jax.jit
def _trees(packed: PackedGraph, sources: Int[Array, " s"]) -> Trees:
    rows, s = packed.order.shape[0], sources.shape[0]
    distance = distances_from(packed, from_sources(rows, sources, packed.lengths.dtype))
    dtype = packed.quantum.dtype
    reached = (distance < infinity(distance.dtype)) & (jnp.arange(rows)[:, None] != sources)
    reach = jnp.where(reached, distance + rounding_slack(distance, dtype, 2 * packed.depth), -1)

    def one(some: Array, live: Array, found: Array) -> Array:
        return put_rows(found, some, live, parents_of(packed, some, live, distance, rows_of(reach, some)))

    found = fold_rows(chosen_rows(packed.count > 0), one, jnp.zeros((rows, s), jnp.int32)).T
    tied = found == SEVERAL
    parent = jnp.where(tied | (found == 0), -1, found - ONE)
    return Trees(distance.T, rounding_slack(distance, dtype).T, parent, tied)


def _trees_of_chains(layout: Layout, sources: Int[np.ndarray, " s"]) -> Trees:
    """The same for long chains, by Dijkstra's algorithm, which tells one parent where there are several."""
    from scipy.sparse import csgraph

    order, position = np.asarray(layout.packed.order), np.asarray(layout.packed.position)
    distance, parent = csgraph.dijkstra(layout.matrix, directed=True, indices=order[sources], return_predecessors=True)
    there = np.asarray(layout.packed.component) >= 0
    distance, parent = np.where(there, distance[:, order], np.inf), np.where(there, parent[:, order], -1)
    parent = np.where(parent >= 0, position[np.maximum(parent, 0)], -1)
    neighbors, owner = np.asarray(layout.packed.neighbors), np.asarray(layout.packed.owner)
    rows, slack, tied = len(order), layout.tolerance * distance, np.zeros(distance.shape, bool)
    lane = owner < rows
    ends = np.broadcast_to(owner[lane, None], neighbors[lane].shape).ravel()
    before, length = neighbors[lane].ravel(), layout.lengths[lane].ravel()
    for s, source in enumerate(sources):
        with np.errstate(invalid="ignore"):
            gap = np.take(distance[s], before) + length - np.take(distance[s], ends)
            tight = (gap <= np.take(slack[s], ends)) & (ends != source)
        tied[s] = np.bincount(ends[tight], minlength=rows) > 1
    return Trees(distance, slack, parent, tied)


def _ways(layout: Layout, trees: Trees) -> Ways:
    s, rows = trees.parent.shape
    offset = rows * np.arange(s, dtype=np.int32)[:, None]
    parent = np.where(trees.parent >= 0, trees.parent + offset, -1).ravel()
    tied = np.flatnonzero(trees.tied)
    distance, slack = trees.distance.ravel(), trees.slack.ravel()
    parents, gap = _tied_parents(layout, trees, tied)
    far = np.where(parents >= 0, distance[parents], np.inf)
    nearest = np.take_along_axis(parents, far.argmin(axis=1)[:, None], axis=1)[:, 0]
    parent[tied] = np.where(parent[tied] >= 0, parent[tied], nearest)
    level, even = np.zeros(len(parent), np.int32), np.zeros(s, bool)
    a_hop = A_HOP if distance.dtype.kind == "i" else 0
    if a_hop or layout.matrix is not None:  # then parents do not go in circles: whole lengths are not 0
        level = climb(parent, np.ones(len(parent), np.int32))
        direct = _without_detours(parent, level, tied, parents)
        uneven = np.any((direct >= 0) & (level[direct] != level[tied][:, None] - 1), axis=1)
        beyond = _excess(parent, level, tied, direct, gap) > slack[tied] + a_hop * level[tied]
        even = level.reshape(s, rows).max(axis=1) <= BYTE
        even[tied[uneven | beyond] // rows] = False
        parents = np.where(even[tied // rows][:, None], direct, parents)
    if not even.all():
        nearer = (far < distance[tied][:, None]) | ((far == distance[tied][:, None]) & (parents < tied[:, None]))
        longest = _longest(parent, tied, np.where(nearer, parents, -1), 4 * int(layout.packed.depth) + 16)
        level = np.where(np.repeat(even, rows), level, longest)
    return Ways(parent, level, tied, parents, gap, slack, even)


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


def _tied_parents(
    layout: Layout, trees: Trees, tied: Int[np.ndarray, " t"]
) -> tuple[Int[np.ndarray, "t w"], np.ndarray]:
    """All parents of the tied items, and by how much the way over each exceeds the distance of the item."""
    rows = trees.parent.shape[1]
    source, row = np.divmod(tied, rows)
    count = np.asarray(layout.packed.count)[row]
    item = np.repeat(np.arange(len(tied)), count)
    group = np.arange(len(item)) + np.repeat(np.asarray(layout.packed.first)[row] - (np.cumsum(count) - count), count)
    before, length = np.asarray(layout.packed.neighbors)[group], layout.lengths[group]
    hops = 2 * int(layout.packed.depth) if length.dtype.kind == "i" else 0  # paths may have twice a root's
    mine = (source[item, None], row[item, None])
    with np.errstate(invalid="ignore"):
        excess = trees.distance[source[item, None], before] + length - trees.distance[mine]
        place, lane = np.nonzero(excess <= trees.slack[mine] + A_HOP * hops)
    child = item[place]
    slot = np.arange(len(child)) - np.searchsorted(child, child)
    parents = np.full((len(tied), int(slot.max(initial=1)) + 1), -1)
    gap = np.zeros(parents.shape, excess.dtype)
    parents[child, slot] = source[child] * rows + before[place, lane]
    gap[child, slot] = excess[place, lane]
    return parents, gap


def _excess(
    parent: Int[np.ndarray, " items"],
    level: Int[np.ndarray, " items"],
    tied: Int[np.ndarray, " t"],
    parents: Int[np.ndarray, "t w"],
    gap: np.ndarray,
) -> np.ndarray:
    """By how much the longest of the ways to each tied item exceeds its distance; parents lie on lower levels."""
    ancestor = np.where(parent >= 0, parent, np.arange(len(parent)))  # up to the first tied item: others add nothing
    ancestor[tied] = tied
    while not np.array_equal(ancestor, beyond := ancestor[ancestor]):
        ancestor = beyond
    number = np.full(len(parent), len(tied))  # of each tied item; the last for a source
    number[tied] = np.arange(len(tied))
    before = number[ancestor[parents]]
    excess = np.zeros(len(tied) + 1, gap.dtype)
    order = np.argsort(level[tied], kind="stable")
    for some in np.split(order, np.flatnonzero(np.diff(level[tied][order])) + 1):
        excess[some] = np.max(np.where(parents[some] >= 0, excess[before[some]] + gap[some], 0), axis=1, initial=0)
    return excess[:-1]


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
