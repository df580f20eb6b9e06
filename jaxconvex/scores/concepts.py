"""Graph convexity of concepts that may overlap: one search of the paths for all, one count for each concept of a pair."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import sequential_vmap
from jaxtyping import Array, Bool, Int

from jaxconvex._internal.checks import as_array, is_concrete, known_values
from jaxconvex._internal.devices import in_mesh, outside_meshes
from jaxconvex._internal.streams import on_devices, streams
from jaxconvex.neighbors.knn import KNNGraph
from jaxconvex.paths.graph import Graph, PackedGraph, as_graph, without_places
from jaxconvex.paths.layout import bucket, pack
from jaxconvex.paths.order import Asked, Order, most_lanes, plan
from jaxconvex.scores.aggregates import UNIT, ConvexityScore, summarise
from jaxconvex.scores.concept_sums import Members, sum_concepts, words_of
from jaxconvex.scores.path_sums import (
    FIELDS,
    compiled,
    fractions_of_sums,
    pair_sums,
    sums_of_whole,
    whole_fields,
)

__all__ = ["concept_convexity"]

NARROWEST, WIDEST = 16, 128  # concepts of a point that are looked at together
SHARES = 16  # portions of the blocks for each stream; the first is searched alone


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

    Runs under jit, and under vmap one graph after the other, given a table. Sums of pairs are whole numbers; what is
    computed from these is float64 on concrete arrays and of the type of the lengths under jit. An edge of length nan makes
    every score nan.

    Raises:
        ValueError: memberships that are neither, of the wrong length, with values other than 0 and 1 (under jit: nan), or
            indices of no points; lists of indices that are traced.

    Cost: one search from every point to all others, and for each point and 128 of its concepts some passes over a table of
    a byte for each point and concept. Memory of a byte for eight points and concepts and of 40 for each point in a concept;
    under jit of 40 for each point and concept. Where ties lie on the way, a pass for each point and 16 of its concepts.

    >>> from jaxconvex import knn_graph
    >>> x = jnp.array([[0.0], [1.0], [2.1], [3.3]])
    >>> score = concept_convexity(knn_graph(x, k=1), [[0, 2, 3], [0, 1, 2, 3]])
    >>> score.per_class.tolist(), score.num_pairs.tolist()
    ([0.5, 1.0], [3, 6])
    """
    if is_concrete(graph, memberships):
        with outside_meshes(), known_values():
            packed = graph if isinstance(graph, PackedGraph) else pack(graph)
            score = _concrete_score(packed, _lists(memberships, len(packed.position)))
            with jax.debug_nans(False):
                return ConvexityScore(*map(jnp.asarray, _typed(score, packed, False, np)))
    points = {KNNGraph: "indices", Graph: "degrees", PackedGraph: "position"}.get(type(graph))
    n = len(getattr(graph, points)) if points else len(as_graph(graph).degrees)  # which refuses what is no graph
    table = as_array(memberships, "memberships") if hasattr(memberships, "shape") else np.zeros(0)
    if table.ndim != 2 or len(table) != n or table.dtype.kind not in "biu":
        raise ValueError(f"under jit memberships must be a table ({n}, m) of true and false; got shape {table.shape}.")
    return _static_score(jax.tree.map(jax.lax.stop_gradient, graph), jnp.asarray(table))


@jax.jit
@in_mesh
@sequential_vmap
def _static_score(graph: KNNGraph | Graph | PackedGraph, table: Array) -> ConvexityScore:
    packed = graph if isinstance(graph, PackedGraph) else pack(graph)
    inside, (n, m) = table.astype(bool), table.shape
    lanes = most_lanes(n)
    order, asked = _plan(packed, jnp.any(inside, axis=1), lanes)
    by_rank = inside[packed.order[order.rows]] & (jnp.arange(len(order.rows)) < order.number)[:, None]
    _, concepts = jnp.nonzero(by_rank, size=n * m, fill_value=(0, m))
    begins = jnp.pad(jnp.cumsum(jnp.sum(by_rank, axis=1, dtype=jnp.int32)), (1, 0))
    rows = words_of(inside[packed.order].T & (packed.component >= 0))
    members = Members(begins, concepts.astype(jnp.int32), jnp.pad(rows, ((0, 1), (0, 0))))
    options: Any = {"lanes": lanes, "width": _width(m), "room": n * m}
    totals = sum_concepts(packed, order, asked, members, 0, -(-order.number // lanes), **options)
    sums = fractions_of_sums(pair_sums(totals.T), packed.quantum.dtype)
    labels = jnp.where(members.concepts < m, members.concepts, -1)
    score = summarise(sums, labels, m, ordered=True, complete=jnp.ones(m, bool), xp=jnp)
    return _typed(score, packed, jnp.any(table != inside.astype(table.dtype)), jnp)


def _typed(score: ConvexityScore, packed: PackedGraph, broken: Any, xp: Any) -> ConvexityScore:
    """The score in the type of the lengths; nan where they are, or the table is, no number."""
    dtype, broken = packed.quantum.dtype, xp.isnan(packed.quantum) | broken
    return ConvexityScore(
        *(xp.where(broken, xp.nan, f).astype(dtype) if f.dtype.kind == "f" else f.astype(xp.int32) for f in score)
    )


def _width(concepts: int) -> int:
    """How many concepts of a point to look at together, where points are in so many."""
    return min(WIDEST, max(NARROWEST, 1 << concepts.bit_length()))


def _plan(packed: PackedGraph, known: Any, lanes: int) -> tuple[Order, Asked]:
    """A search from the points in any concept to all of them."""
    labels = jnp.where(known, 0, -1)[None]
    return plan(packed, labels, jnp.asarray(known)[None], num_classes=1, lanes=lanes)


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


# On the host -----------------------------------------------------------------------------------------------------------


def _concrete_score(packed: PackedGraph, lists: list[np.ndarray]) -> ConvexityScore:
    m, sizes = len(lists), np.array([len(points) for points in lists], int)
    points, concepts = np.concatenate([*lists, np.zeros(0, int)]).astype(int), np.repeat(np.arange(m), sizes)
    known = np.zeros(len(packed.position), bool)
    known[points] = True
    lanes = most_lanes(len(known))
    order, asked = _plan(packed, known, lanes)
    rows, rank = np.asarray(packed.position), np.asarray(order.rank)
    ranks = rank[rows[points]]
    by_rank = np.argsort(ranks, kind="stable")
    begins = np.concatenate([[0], np.cumsum(np.bincount(ranks, minlength=len(rank)))]).astype(np.int32)
    words = np.zeros((bucket(m + 1), len(rank) // 32), np.uint32)
    for own, mine in zip(words, lists, strict=False):
        there = np.zeros(len(rank), bool)
        there[rows[mine]] = True
        own[:] = np.packbits(there, bitorder="little").view("<u4")
    concepts = concepts[by_rank]
    members = Members(begins, np.pad(concepts.astype(np.int32), (0, bucket(len(points)) - len(points))), words)
    sums = sums_of_whole(_totals(packed, order, asked, members, lanes)[:, : len(points)])
    return summarise(sums, concepts, m, ordered=True, complete=np.ones(m, bool), xp=np, unit=UNIT)


def _totals(
    packed: PackedGraph, order: Order, asked: Asked, members: Members, lanes: int
) -> Int[np.ndarray, "f places"]:
    """The sums over the partners of each source in each of its concepts, as whole numbers."""
    number = int(order.number)
    blocks = -(-number // lanes)
    share = max(1, -(-blocks // (SHARES * streams())))
    firsts = members.begins[np.minimum(np.arange(0, blocks + share, share) * lanes, number)]
    room = bucket(int(np.max(np.diff(firsts), initial=1)))
    options = {"lanes": lanes, "width": _width(int(firsts[-1]) // max(number, 1)), "room": room}
    kernel = compiled(sum_concepts, "lanes", "width", "room", "whole")
    bare, on_device = without_places(packed), jax.tree.map(jnp.asarray, members)

    def solve(begin: int, device: Any) -> tuple[int, np.ndarray]:
        end = min(begin + share, blocks)
        found = kernel(
            bare, order, asked, on_device, np.int32(begin), np.int32(end), **options, whole=bool(packed.quantum > 0)
        )
        return begin // share, whole_fields(list(np.asarray(found).T))

    totals = np.zeros((FIELDS - 2, len(members.concepts)), np.int64)
    for turn, some in on_devices(solve, range(0, blocks, share)):
        first, last = firsts[turn : turn + 2]
        totals[:, first:last] = some[:, : last - first]
    return totals
