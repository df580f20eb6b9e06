"""The schedule of the fast engine: which sources are solved together, and towards which targets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from jaxconvex.graphs import Graph, PackedGraph, as_graph, bucket
from jaxconvex.neighbors import KNNGraph
from jaxconvex.streams import streams

__all__ = [
    "Block",
    "Schedule",
    "blocks_of_classes",
    "blocks_of_pairs",
    "blocks_of_sources",
    "check_packing",
    "schedule",
]

PACKING = 132  # bytes that packing takes, at most, for an edge and direction of a graph: measured, twice what is kept
SOME = 16  # points of a class from which the others' distances are estimated
SHELLS = 16  # of a large class, from the outermost inwards


class Block(NamedTuple):
    """Some sources and targets, both padded, and which of their pairs are wanted under each labeling."""

    sources: Int[np.ndarray, " s"]
    targets: Int[np.ndarray, " t"]
    wanted: Bool[np.ndarray, "l t s"]
    mirrored: Bool[np.ndarray, " t"]  # targets for which the pair counts too: no block has them as its source
    num_sources: int
    num_targets: int


class Schedule(NamedTuple):
    """The points to search from, a part for each block, in the order in which they are best solved."""

    parts: list[Int[np.ndarray, " m"]]
    lanes: int  # sources of a block, with those that pad

    @property
    def order(self) -> Int[np.ndarray, " m"]:
        return np.concatenate([*self.parts, np.zeros(0, np.int64)]).astype(np.int64)


def most_lanes(num_points: int, drawn: bool = False) -> int:
    """How many sources a block has at most: their distances to all points should stay in a processor's caches.

    Drawn sources lie far from each other, so that a block reads more of them. An accelerator has no such caches to speak
    of: there, as many as keep it busy.
    """
    if jax.default_backend() == "cpu":
        steps = (16_384, 32_768, 65_536) if drawn else (16_384, 131_072, 262_144)
        return 128 >> int(np.searchsorted(steps, num_points))
    return 512 if num_points <= 131_072 else 128


def check_packing(graph: KNNGraph | Graph, memory: float | None) -> None:
    """Raises ValueError if packing the graph would take more bytes than `memory`."""
    if memory is None:
        return
    edges = 2 * np.size(graph.indices) if isinstance(graph, KNNGraph) else np.size(as_graph(graph).lengths)
    needed = PACKING * edges
    if needed > memory:
        raise ValueError(
            f"laying out a graph of up to {edges} edges takes up to {needed / 1e9:.2f} GB; memory={memory:g} allows "
            f"{memory / 1e9:.2f} GB. Allow more, or take fewer points or neighbours; or pack the graph before."
        )


def lanes_within(
    packed: PackedGraph, labelings: Sequence[Int[np.ndarray, " n"]], memory: float | None, drawn: bool
) -> int:
    """How many sources a block may have so that all blocks at work together take no more bytes than `memory`.

    Raises:
        ValueError: not even the smallest blocks fit.
    """
    most = most_lanes(len(labelings[0]), drawn)
    if memory is None:
        return most
    largest = sum(int(np.bincount(labels + 1)[1:].max(initial=0)) for labels in labelings)
    # Distances and links; counts, marks and sums of the targets; twice what a source of a tie takes.
    a_lane = 4 * (2 * packed.first.size + 4 * largest * (1 + len(labelings))) * streams()
    fixed = 4 * 16 * 4 * packed.first.size * streams()
    held = sum(part.nbytes for part in jax.tree.leaves(packed))
    for lanes in (most, most // 2, most // 4, 16):
        if held + fixed + lanes * a_lane <= memory:
            return lanes
    raise ValueError(
        f"the paths need at least {(held + fixed + 16 * a_lane) / 1e9:.2f} GB: the graph takes {held / 1e9:.2f} GB and "
        f"blocks of 16 sources the rest; memory={memory:g} allows {memory / 1e9:.2f} GB. Allow more, or take fewer points."
    )


def schedule(
    packed: PackedGraph,
    labelings: Sequence[Int[np.ndarray, " n"]],
    points: Int[np.ndarray, " m"] | None = None,
    *,
    memory: float | None = None,
) -> Schedule:
    """The labelled points, or the given ones, class by class (of the first labeling), near classes side by side.

    Within a class the outermost come first, in shells, and within a shell those near each other are side by side. A pair is
    scored from the end that comes first, so that the search from the inner ones need not reach the outer ones; and near
    sources have nearly the same paths, so that their rows settle together. What is far and what is near is told by lower
    bounds of the distances, from those to the landmarks.
    """
    most = lanes_within(packed, labelings, memory, drawn=points is not None)
    points = np.flatnonzero(np.any(np.stack(labelings) >= 0, axis=0)) if points is None else points
    if not len(points):
        return Schedule([], most)
    own = np.unique(labelings[0][points], return_inverse=True)[1]
    members = np.split(points[np.argsort(own, kind="stable")], np.cumsum(np.bincount(own))[:-1])
    centres = np.stack([packed.landmarks[some].mean(axis=0) for some in members])
    members = [members[c] for c in np.lexsort((centres.min(axis=1), centres.argmin(axis=1)))]
    # A block costs its lanes and, whatever these are, about as much as 24 more.
    sizes = (most, most * 3 // 4, most // 2)
    cost = [sum(number * (lanes + 24) for _, number in _portions(members, lanes)) for lanes in sizes]
    lanes = sizes[int(np.argmin(cost))] if 1.15 * min(cost) < cost[0] else most  # mostly one size: it is compiled once
    lanes = min(lanes, max(16, 1 << (len(points) - 1).bit_length()))
    parts = []
    for some, number in _portions(members, lanes):
        inward = [_inward(packed.landmarks[of_class], min(number, SHELLS)) for of_class in some]
        whole = np.concatenate([of_class[order] for of_class, order in zip(some, inward, strict=True)])
        parts += np.array_split(whole, number)
    return Schedule(parts, lanes)


def _portions(members: Sequence[np.ndarray], lanes: int) -> Iterator[tuple[list[np.ndarray], int]]:
    """Small classes together while they fit one block; each larger one by itself, with the number of its blocks."""
    waiting: list[np.ndarray] = []
    total = 0
    for some in members:
        if waiting and total + len(some) > lanes:
            yield waiting, 1
            waiting, total = [], 0
        if len(some) > lanes:
            yield [some], -(-len(some) // lanes)
        else:
            waiting, total = [*waiting, some], total + len(some)
    if waiting:
        yield waiting, 1


def _inward(away: Float[np.ndarray, "m l"], shells: int) -> Int[np.ndarray, " m"]:
    """The order of some points from the outermost inwards, in shells, given their distances to landmarks."""
    m = len(away)
    some = np.linspace(0, m - 1, min(m, SOME)).astype(np.int64)
    bounds = np.stack([np.abs(away - away[i]).max(axis=1) for i in some], axis=1)
    shell = np.empty(m, np.int64)
    shell[np.argsort(-bounds.mean(axis=1), kind="stable")] = np.arange(m) * shells // m
    return np.lexsort((bounds.min(axis=1), bounds.argmin(axis=1), shell))


def blocks_of_classes(labelings: Sequence[Int[np.ndarray, " n"]], plan: Schedule) -> Iterator[Block]:
    """All pairs of all classes of each labeling, each pair from the end that comes first in the schedule.

    Pairs within a block are solved from both ends.
    """
    order = plan.order
    rank = np.full(len(labelings[0]), -1)
    rank[order] = np.arange(len(order))
    members = [_members(labels, order) for labels in labelings]
    width = _width(members, labelings, plan.parts)
    stop = 0
    for sources in plan.parts:
        start, stop = stop, stop + len(sources)
        found = [
            of_class[c][np.searchsorted(rank[of_class[c]], start) :]
            for labels, of_class in zip(labelings, members, strict=True)
            for c in np.unique(labels[sources])
            if c >= 0 and len(of_class[c]) > 1
        ]
        targets = found[0] if len(found) == 1 else np.unique(np.concatenate([*found, sources[:0]]))
        if len(targets) > 1:
            wanted = np.stack([_alike(labels, targets, sources) for labels in labelings])
            yield _padded(sources, targets, wanted, rank[targets] >= stop, plan.lanes, width)


def blocks_of_sources(
    labelings: Sequence[Int[np.ndarray, " n"]], drawn: Sequence[Int[np.ndarray, " m"]], plan: Schedule
) -> Iterator[Block]:
    """The pairs of the drawn sources of each labeling with all others of their class."""
    everyone = np.arange(len(labelings[0]))
    members = [_members(labels, everyone) for labels in labelings]
    asked = np.zeros((len(labelings), len(everyone)), bool)
    for chosen, sources in zip(asked, drawn, strict=True):
        chosen[sources] = True
    width = _width(members, labelings, plan.parts)
    for part in plan.parts:
        found = [
            of_class[c]
            for labels, of_class in zip(labelings, members, strict=True)
            for c in np.unique(labels[part])
            if c >= 0
        ]
        targets = np.unique(np.concatenate(found))
        wanted = np.stack(
            [_alike(labels, targets, part) & chosen[part] for labels, chosen in zip(labelings, asked, strict=True)]
        )
        if wanted.any():
            yield _padded(part, targets, wanted, np.zeros(len(targets), bool), plan.lanes, width)


def blocks_of_pairs(first: Int[np.ndarray, " p"], second: Int[np.ndarray, " p"], plan: Schedule) -> Iterator[Block]:
    """The given pairs, each from the end that comes first in the schedule, for a single labeling."""
    order = plan.order
    rank = np.zeros(order.max(initial=0) + 1, np.int64)
    rank[order] = np.arange(len(order))
    later = rank[first] > rank[second]
    first, second = np.where(later, second, first), np.where(later, first, second)
    by_source = np.argsort(rank[first], kind="stable")
    first, second = first[by_source], second[by_source]
    sources, begins = np.unique(rank[first], return_index=True)
    sources, begins = order[sources], np.append(begins, len(first))
    spans = [(start, min(start + plan.lanes, len(sources))) for start in range(0, len(sources), plan.lanes)]
    goals = [np.unique(second[begins[start] : begins[stop]]) for start, stop in spans]
    width = max((len(targets) for targets in goals), default=1)
    for (start, stop), targets in zip(spans, goals, strict=True):
        wanted = np.zeros((1, len(targets), stop - start), bool)
        column = np.repeat(np.arange(stop - start), np.diff(begins[start : stop + 1]))
        wanted[0, np.searchsorted(targets, second[begins[start] : begins[stop]]), column] = True
        yield _padded(sources[start:stop], targets, wanted, np.ones(len(targets), bool), plan.lanes, width)


def _members(labels: np.ndarray, order: np.ndarray) -> list[np.ndarray]:
    """The points of each class, in the order."""
    by_class = order[np.argsort(labels[order], kind="stable")]
    sizes = np.bincount(labels[order] + 1)
    return np.split(by_class, np.cumsum(sizes)[:-1])[1:]


def _alike(labels: np.ndarray, targets: np.ndarray, sources: np.ndarray) -> np.ndarray:
    own = labels[sources]
    return (labels[targets][:, None] == own) & (own >= 0) & (targets[:, None] != sources)


def _width(members: Sequence[list[np.ndarray]], labelings: Sequence[np.ndarray], parts: Sequence[np.ndarray]) -> int:
    """How many targets a block of these sources has at most."""

    def most(part: np.ndarray) -> int:
        return sum(
            len(of_class[c])
            for labels, of_class in zip(labelings, members, strict=True)
            for c in np.unique(labels[part])
            if c >= 0
        )

    return max((most(part) for part in parts), default=1)


def _padded(
    sources: np.ndarray, targets: np.ndarray, wanted: np.ndarray, mirrored: np.ndarray, size: int, width: int
) -> Block:
    s, t = len(sources), len(targets)
    width = bucket(max(width, 32), 2)  # few sizes, to share compilations
    return Block(
        sources=np.concatenate([sources, np.full(size - s, sources[0])]).astype(np.int32),
        targets=np.concatenate([targets, np.full(width - t, sources[0])]).astype(np.int32),
        wanted=np.pad(wanted, ((0, 0), (0, width - t), (0, size - s))),
        mirrored=np.pad(mirrored, (0, width - t)),
        num_sources=s,
        num_targets=t,
    )
