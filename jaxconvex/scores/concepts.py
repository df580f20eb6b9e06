"""Graph convexity of concepts that may overlap: one search of the paths for all, one count for each concept of a pair."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from jaxconvex._internal.checks import as_array, is_concrete
from jaxconvex._internal.devices import outside_meshes
from jaxconvex._internal.loops import fori_loop, while_loop
from jaxconvex._internal.streams import on_devices, streams
from jaxconvex.neighbors.knn import KNNGraph
from jaxconvex.paths.graph import Graph, PackedGraph
from jaxconvex.paths.layout import bucket, pack
from jaxconvex.paths.order import Asked, Order, block_of, most_lanes, plan
from jaxconvex.paths.search import in_lengths, infinity, rows_of
from jaxconvex.paths.tie_rule import Columns, PathCounts, counts_of_cost, least_cost
from jaxconvex.paths.walk import NARROW, searched
from jaxconvex.scores.aggregates import UNIT, ConvexityScore, fields_of, parts_of_pairs, summarise
from jaxconvex.scores.path_sums import FIELDS, carried_fields, compiled, sums_of_whole, whole_fields

__all__ = ["concept_convexity"]

PIECE = 64  # members of a concept that are looked at together
TOGETHER = 512  # such pieces


class Members(NamedTuple):
    """The members of all concepts in pieces, by rank: of each piece the rows, those beyond the last being none."""

    rows: Int[Any, "pieces p"]  # -1 where a piece is not full
    concept: Int[Any, " pieces"]
    bits: Any  # [m rows/8] whether a row is in a concept


class Found(NamedTuple):
    """What the search from a block of sources found."""

    sources: Int[Any, " s"]
    distance: Any  # [rows s]
    links: Any  # [rows s], None where lengths are not whole


def concept_convexity(
    graph: KNNGraph | Graph | PackedGraph, memberships: Bool[Any, "n m"] | Sequence[Any]
) -> ConvexityScore:
    """Graph convexity of concepts that may overlap: the fields of `ConvexityScore`, an entry for each concept.

    A pair of points that share a concept scores the share of the points inside their shortest path that are in it, for each
    concept that they share; otherwise all is as in `graph_convexity`. Of equally short paths the one with the fewest points
    outside the concept counts, so that the same pair may have other paths in other concepts. Where concepts do not overlap
    the scores are those of `graph_convexity`, pair by pair. `micro` is the mean over all pairs of all concepts.

    Args:
        graph: a nearest-neighbour graph (symmetrised by union), a graph, or a packed graph.
        memberships: (n, m), true or 1 where a point is in a concept; or for each concept the indices of its points. Points
            in none are background.

    Raises:
        ValueError: memberships that are neither, of the wrong length, or indices of no points; arrays under jit, since how
            much there is to do depends on them.

    Cost: one search from every point to all others, and for each pair of each concept a walk along its path; memory of a
    byte for eight points and concepts, and of about 100 for each point in a concept, on each core. Where ties lie on the
    way, a pass for each source and concept that meets one.

    >>> from jaxconvex import knn_graph
    >>> x = jnp.array([[0.0], [1.0], [2.1], [3.3]])
    >>> score = concept_convexity(knn_graph(x, k=1), [[0, 2, 3], [0, 1, 2, 3]])
    >>> score.per_class.tolist(), score.num_pairs.tolist()
    ([0.5, 1.0], [3, 6])
    """
    if not is_concrete(graph, memberships):
        raise ValueError("concept_convexity needs concrete arrays: call it outside jit, or graph_convexity for labels.")
    with outside_meshes():
        packed = graph if isinstance(graph, PackedGraph) else pack(graph)
        lists = _lists(memberships, len(packed.position))
        known = np.full(len(packed.position), -1, np.int32)
        known[np.concatenate([*lists, np.zeros(0, int)]).astype(int)] = 0
        lanes = most_lanes(len(known))
        order, asked = plan(packed, known[None], num_classes=1, lanes=lanes)
        members = _members(packed, order, lists)
        totals = np.zeros((FIELDS - 2, *members.rows.shape), np.int64)
        for some in _totals(packed, order, asked, members, lanes):
            totals += some
        there = members.rows >= 0
        concepts = np.broadcast_to(members.concept[:, None], there.shape)[there]
        sums = sums_of_whole(totals[:, there])
        every = np.ones(len(lists), bool)
        score = summarise(sums, concepts, len(lists), ordered=True, complete=every, xp=np, unit=UNIT)
        dtype, broken = packed.quantum.dtype, np.isnan(packed.quantum)
        with jax.debug_nans(False):
            fields = (np.where(broken, np.nan, f).astype(dtype) if f.dtype.kind == "f" else f for f in score)
            return ConvexityScore(*(jnp.asarray(f, None if f.dtype.kind == "f" else jnp.int32) for f in fields))


def _lists(memberships: Any, n: int) -> list[np.ndarray]:
    """The points of each concept."""
    what = (
        f"memberships must be (n, m) of true and false, n = {n} points, or for each concept the indices of its points"
    )
    if hasattr(memberships, "shape"):
        table = np.asarray(as_array(memberships, "memberships"))
        if table.shape[:1] != (n,) or table.ndim != 2 or not np.isin(table, (0, 1)).all():
            raise ValueError(
                f"{what}; got shape {table.shape} of type {table.dtype}, with other values than 0 and 1 or not."
            )
        return [np.flatnonzero(column) for column in table.T]
    lists = [np.unique(np.asarray(one)) if len(one) else np.zeros(0, int) for one in memberships]
    for number, one in enumerate(lists):
        if one.ndim != 1 or one.dtype.kind not in "iu" or (one.size and not 0 <= one[0] <= one[-1] < n):
            raise ValueError(f"{what}, 0 to {n - 1}; got {memberships[number]} (concept {number}).")
    return lists


def _members(packed: PackedGraph, order: Order, lists: list[np.ndarray]) -> Members:
    rank, position = np.asarray(order.rank), np.asarray(packed.position)
    total = len(rank)
    rows, concept = [np.full((1, PIECE), -1)], [np.zeros(1, int)]  # the first piece is empty: for padding
    bits = np.zeros((max(len(lists), 1), -(-total // 8)), np.uint8)
    for number, points in enumerate(lists):
        own = position[points]
        own = own[np.argsort(rank[own])]
        rows.append(np.pad(own, (0, -len(own) % PIECE), constant_values=-1).reshape(-1, PIECE))
        concept.append(np.full(len(rows[-1]), number))
        bits[number] = np.packbits(np.isin(np.arange(total), own), bitorder="little")
    return Members(np.concatenate(rows).astype(np.int32), np.concatenate(concept).astype(np.int32), bits)


def _totals(packed: PackedGraph, order: Order, asked: Asked, members: Members, lanes: int) -> Any:
    """For shares of the blocks the sums over the partners of each member of each concept [fields pieces p]."""
    blocks, whole = -(-int(order.number) // lanes), bool(packed.quantum > 0)
    share = max(1, -(-blocks // streams()))
    number = np.asarray(order.number)
    rank = np.asarray(order.rank)
    last = np.max(np.where(members.rows >= 0, rank[members.rows], -1), axis=1)
    by_row = _concepts_of_rows(members, len(rank))
    on_device = jax.tree.map(jnp.asarray, members)
    search = compiled(_search, "lanes", "whole")
    count, passes = compiled(_count), compiled(_cost_of_ties, "whole")

    def solve(begin: int, device: Any) -> np.ndarray:
        totals = jnp.zeros((*members.rows.shape, FIELDS), jnp.int32)
        ties = np.zeros((FIELDS - 2, *members.rows.shape), np.int64)
        for index in range(begin, min(begin + share, blocks)):
            found = search(packed, order, asked, np.int32(index), lanes=lanes, whole=whole)
            live = np.asarray(found.sources)[: int(number) - index * lanes]
            lane, piece = _work(live, by_row, members.concept, last >= index * lanes)
            own_piece, own_slot = _own_entries(live[lane], members.concept[piece], by_row)
            room = bucket(-(-max(len(lane), 1) // TOGETHER)) * TOGETHER - len(lane)
            jobs = [np.pad(part, (0, room)).astype(np.int32) for part in (lane, piece, own_piece, own_slot)]
            beyond = np.int32((index + 1) * lanes)
            totals, tied = count(packed, order.rank, found, on_device, totals, *jobs, beyond, np.int32(len(lane)))
            tied = np.asarray(tied)[: len(lane)]
            if tied.any():
                cost = partial(passes, packed, found, on_device.bits, whole=whole)
                _add_ties(ties, cost, members, (rank, int(beyond)), jobs, tied)
        return ties + whole_fields(list(np.moveaxis(np.asarray(totals), -1, 0)))

    yield from on_devices(solve, range(0, blocks, share))


def _concepts_of_rows(members: Members, total: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Places of members sorted by (row, concept): where each row begins, the concepts, and the places in the pieces."""
    flat = members.rows.ravel()
    place = np.flatnonzero(flat >= 0)
    concept = np.repeat(members.concept, PIECE)[place]
    by_row = np.lexsort((concept, flat[place]))
    place = place[by_row]
    return np.searchsorted(flat[place], np.arange(total + 1)), concept[by_row], place


def _ranges(begins: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """begins[0], begins[0] + 1, ..., as many as counts[0]; then those of the second; ..."""
    ends = np.cumsum(counts)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(begins - (ends - counts), counts)


def _work(live: np.ndarray, by_row: Any, concept: np.ndarray, ahead: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each source the pieces of its concepts that are still ahead: numbers of lanes and of pieces."""
    starts, concepts, _ = by_row
    own = concepts[_ranges(starts[live], starts[live + 1] - starts[live])]
    lane = np.repeat(np.arange(len(live)), starts[live + 1] - starts[live])
    ends = (
        np.searchsorted(concept[1:], np.arange(concept.max(initial=0) + 1), side="right") + 1
    )  # without the empty piece
    counts = np.bincount(concept[ahead], minlength=len(ends))  # members are sorted by rank: those ahead are the last
    return np.repeat(lane, counts[own]), _ranges(ends[own] - counts[own], counts[own])


def _own_entries(rows: np.ndarray, concept: np.ndarray, by_row: Any) -> tuple[np.ndarray, np.ndarray]:
    """Piece and slot of each row as a member of a concept."""
    starts, concepts, places = by_row
    most = int(concepts.max(initial=0)) + 1
    keys = np.repeat(np.arange(len(starts) - 1), np.diff(starts)) * most + concepts
    place = places[np.searchsorted(keys, rows * most + concept)]
    return place // PIECE, place % PIECE


def _search(packed: PackedGraph, order: Order, asked: Asked, index: Array, *, lanes: int, whole: bool) -> Found:
    block, pairs = block_of(order, asked, index, lanes, 1)

    def search(packed: PackedGraph) -> Found:
        distance, _, links = searched(packed, asked.labels[:0], block, pairs)
        return Found(block.sources, distance, links)

    return in_lengths(packed, search, whole)


def _in_concept(bits: Array, concept: Array, rows: Array) -> Int[Array, ...]:
    return (bits[concept, rows >> 3].astype(jnp.int32) >> (rows & 7)) & 1


def _count(
    packed: PackedGraph,
    rank: Array,
    found: Found,
    members: Members,
    totals: Int[Array, "pieces p fields"],
    lane: Array,
    piece: Array,
    own_piece: Array,
    own_slot: Array,
    beyond: Array,
    number: Array,
) -> tuple[Array, Bool[Array, "w p"]]:
    """The totals with the pairs of each source and piece; and which of them have a tie on the way and are left out."""
    lanes, far = len(found.sources), infinity(found.distance.dtype)

    def some(turn: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        totals, tied = state
        jobs = turn * TOGETHER + jnp.arange(TOGETHER)
        column, here = rows_of(lane, jobs)[:, None], rows_of(piece, jobs)
        source, concept = rows_of(found.sources, column), rows_of(members.concept, here)[:, None]
        targets = rows_of(members.rows, here)
        begin = beyond - lanes
        pairs = (targets >= 0) & (targets != source) & (rank[targets] >= begin) & (jobs < number)[:, None]
        targets = jnp.maximum(targets, 0)
        reached = packed.component[targets] == packed.component[source]
        reached &= found.distance[targets, column] < far
        counts, open_ = _walk(found, column, source, targets, pairs & reached, members.bits, concept)
        counts = PathCounts(jnp.where(reached, counts.interior, -1), counts.outside)
        parts = parts_of_pairs(PathCounts(*(part[None] for part in counts)), (pairs & ~open_)[None])[:, 0]
        mirrored = rank[targets] >= beyond
        at_targets = jnp.stack(fields_of(jnp.where(mirrored, parts, 0)), axis=-1)
        at_source = jnp.stack(fields_of(jnp.sum(parts, axis=-1, dtype=jnp.int32)), axis=-1)
        totals = totals.at[here].add(at_targets)
        totals = totals.at[rows_of(own_piece, jobs), rows_of(own_slot, jobs)].add(at_source)
        return totals, jax.lax.dynamic_update_slice_in_dim(tied, open_, turn * TOGETHER, 0)

    start = totals, jnp.zeros((len(lane), PIECE), bool)
    totals, tied = fori_loop(0, -(-number // TOGETHER), some, start)
    return carried_fields(totals), tied


def _walk(
    found: Found, column: Array, source: Array, targets: Array, pairs: Array, bits: Array, concept: Array
) -> tuple[PathCounts, Bool[Array, "w p"]]:
    """From every target to its source: the points inside, those outside the concept, and whether a tie lay there."""
    zero = jnp.zeros(targets.shape, jnp.int32)
    if found.links is None:
        return PathCounts(zero, zero), pairs
    flat = found.links.reshape(-1)

    def step(state: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        at, hops, outside, tied = state
        link = jnp.where(at != source, rows_of(flat, at * len(found.sources) + column), source << 1)
        before = jnp.where((link & 1) > 0, source, link >> 1)
        strange = (before != source) & (_in_concept(bits, concept, before) == 0)
        return before, hops + (at != source), outside + strange, tied | (link & 1)

    begin = jnp.where(pairs, targets, source), zero, zero, zero
    _, hops, outside, tied = while_loop(lambda state: jnp.any(state[0] != source), step, begin)
    return PathCounts(jnp.maximum(hops - 1, 0), outside), tied > 0


def _cost_of_ties(
    packed: PackedGraph, found: Found, bits: Array, lane: Array, concept: Array, ends: Array, *, whole: bool
) -> Array:
    """The cost [rows s] of the paths from some sources to their ends, each by a concept of its own."""
    sources = found.sources[lane]

    def outside(rows: Array) -> Array:
        return _in_concept(bits, concept, rows[..., None]) == 0

    def solved(packed: PackedGraph) -> Array:
        return least_cost(packed, outside, sources, Columns(found.distance, lane), ends).cost

    return in_lengths(packed, solved, whole)


def _add_ties(
    totals: np.ndarray,
    cost: Any,
    members: Members,
    ranks: tuple[np.ndarray, int],
    jobs: list[np.ndarray],
    tied: np.ndarray,
) -> None:
    """Add the pairs that have a tie on the way, some sources and concepts at a time."""
    (rank, beyond), (lane, piece, own_piece, own_slot) = ranks, jobs
    job, slot = np.nonzero(tied)
    both = np.stack([lane[job], members.concept[piece[job]]])
    kinds, kind = np.unique(both, axis=1, return_inverse=True)
    kind = kind.ravel()
    by_kind = np.argsort(kind, kind="stable")
    bounds = np.searchsorted(kind[by_kind], np.arange(0, kinds.shape[1] + NARROW, NARROW))
    for turn, (begin, end) in enumerate(pairwise(bounds)):
        mine = by_kind[begin:end]
        some = kinds[:, turn * NARROW : (turn + 1) * NARROW]
        column, some = kind[mine] - turn * NARROW, np.pad(some, ((0, 0), (0, NARROW - some.shape[1])))
        target = members.rows[piece[job[mine]], slot[mine]]
        ends = np.zeros((len(rank), NARROW), bool)
        ends[target, column] = True
        costs = np.asarray(cost(some[0].astype(np.int32), some[1].astype(np.int32), ends))[target, column]
        counts = counts_of_cost(jnp.asarray(costs)[None, None], jnp.ones((1, len(mine)), bool))
        parts = np.asarray(parts_of_pairs(counts, jnp.ones((1, 1, len(mine)), bool)))[:, 0, 0]
        whole = whole_fields(list(fields_of(parts)))
        places: Any = (slice(None), own_piece[job[mine]], own_slot[job[mine]])
        np.add.at(totals, places, whole)
        far = rank[target] >= beyond
        places = (slice(None), piece[job[mine]][far], slot[mine][far])
        np.add.at(totals, places, whole[:, far])
