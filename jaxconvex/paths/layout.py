"""The packed layout of a graph, made by one program of static size: eagerly, under jit, and under vmap as a map."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_batching import sequential_vmap
from jaxtyping import Array, Float, Int

from jaxconvex._internal.checks import is_concrete
from jaxconvex._internal.devices import in_mesh, outside_meshes
from jaxconvex.neighbors.knn import KNNGraph
from jaxconvex.paths.graph import Graph, PackedGraph, as_graph, undirected
from jaxconvex.paths.search import (
    CHUNK,
    UNREACHED,
    WIDTH,
    components,
    distances_from,
    from_sources,
    hops_to_root,
    rows_of,
)

__all__ = ["SMALL", "bucket", "components_of", "pack"]

FINE = 2**16  # quanta the median edge needs; with fewer the lengths stay floating-point
LANDMARKS = 15  # with the roots, a search of 16 lanes
SMALL = 2**15  # nodes up to which compiling again costs more than room for edges that are not there
SAMPLE = 4_096  # edges from which the median is told


class Edges(NamedTuple):
    """The edges that there are, in order of their receiver, and after them those that there are not."""

    senders: Int[Array, " e"]
    receivers: Int[Array, " e"]  # the number of nodes where there is none
    lengths: Float[Array, " e"]
    degrees: Int[Array, " n"]


def pack(graph: KNNGraph | Graph, *, mode: str = "union", duplicates: str = "link") -> PackedGraph:
    """The graph in the layout of the searches for shortest paths.

    Args:
        graph: a KNNGraph or a Graph.
        mode, duplicates: how a KNNGraph becomes undirected, see `undirected`; `evaluate` calls the mode `graph`.

    Searches count lengths in whole numbers of one quantum, a power of two, chosen so that no shortest path is longer than
    2^30 quanta: twice the largest distance from one root of each component bounds them all. Sums are then exact and the
    same in any order. If half of the edges have fewer than 2^16 quanta, which takes a far outlier, lengths stay
    floating-point.

    Pure and of static size: it runs under jit, and under vmap one graph after the other.

    Cost: a sort of the edges, and a search from 16 nodes.

    >>> from jaxconvex import knn_graph
    >>> pack(knn_graph(jnp.array([[0.], [1.], [3.]]), k=1)).position.shape
    (3,)
    """

    def laid_out(graph: KNNGraph | Graph) -> PackedGraph:
        listed = isinstance(graph, KNNGraph)
        edges = undirected(graph, mode=mode, duplicates=duplicates) if listed else as_graph(graph)  # type: ignore[arg-type]
        return _packed(edges._replace(lengths=lax.stop_gradient(edges.lengths)))

    if not is_concrete(graph):
        return laid_out(graph)
    # What several processes hold together is copied to each of them, which all lay it out alike.
    graph = jax.tree.map(lambda part: part if _addressable(part) else jnp.asarray(np.asarray(part)), graph)
    with outside_meshes():
        packed = laid_out(graph)
        if len(packed.position) < SMALL:
            return packed
        groups = bucket(int(jnp.sum(packed.count)) + 1)  # the room that is needed, and the last group without an edge
        return packed._replace(**{name: getattr(packed, name)[:groups] for name in ("neighbors", "lengths", "owner")})


@jax.jit
@in_mesh
@sequential_vmap
def _packed(edges: Graph) -> PackedGraph:
    there = (edges.lengths != jnp.inf) & (edges.senders != edges.receivers)
    broken = jnp.any(jnp.isnan(edges.lengths))
    listed = _by_receiver(edges._replace(lengths=jnp.where(jnp.isnan(edges.lengths), 1, edges.lengths)), there)
    packed = _laid_out(listed)
    packed = packed._replace(component=components_of(packed), step=_median_of_some(listed))
    away, packed = _surveyed(packed)
    return packed._replace(landmarks=away, quantum=jnp.where(broken, jnp.nan, packed.quantum))


def _by_receiver(edges: Graph, there: Array) -> Edges:
    n = len(edges.degrees)
    receivers = jnp.where(there, edges.receivers, n)
    order = _stable_order(receivers, n + 1)
    lengths = jnp.where(there, edges.lengths, jnp.inf)
    degrees = jnp.zeros(n, jnp.int32).at[receivers].add(1, mode="drop")
    return Edges(edges.senders[order], receivers[order], lengths[order], degrees)


def _stable_order(keys: Int[Array, " e"], bound: int) -> Int[Array, " e"]:
    """The stable order of integers below a bound: digit by digit, each with its place in one number.

    XLA's CPU sorts single numbers some eight times faster than pairs of them.
    """
    places = max(len(keys) - 1, 1).bit_length()
    digits = min(32 - places, bound.bit_length())
    order, own = jnp.arange(len(keys), dtype=jnp.uint32), keys.astype(jnp.uint32)
    for low in range(0, bound.bit_length(), digits):
        digit = (own[order] >> low) & ((1 << digits) - 1)
        found = jnp.sort((digit << places) | jnp.arange(len(keys), dtype=jnp.uint32))
        order = order[found & ((1 << places) - 1)]
    return order.astype(jnp.int32)


def _laid_out(edges: Edges) -> PackedGraph:
    """The layout, rows in order of their number of groups; what needs a search is left out.

    Rows of as many groups are done together. To put rows of one part of the graph side by side instead, so that caches
    hold what is read, was slower up to 200,000 points.
    """
    n, e = len(edges.degrees), len(edges.senders)
    rows = -(-bucket(n) // CHUNK) * CHUNK
    size = max((e + 3 * n) // WIDTH + 1, CHUNK)  # room for as many groups as there can be
    size = bucket(size, 8 if size > 8 * CHUNK else 1)  # room costs little in a small graph, compiling as much as ever
    groups = -(-edges.degrees // WIDTH)
    order = jnp.argsort(groups, stable=True).astype(jnp.int32)
    numbers = jnp.arange(n, dtype=jnp.int32)
    position = jnp.zeros(n, jnp.int32).at[order].set(numbers, unique_indices=True)
    count = jnp.pad(groups[order], (0, rows - n))
    first = jnp.cumsum(count) - count
    owner = jnp.repeat(jnp.arange(rows, dtype=jnp.int32), count, total_repeat_length=size)
    owner = jnp.where(jnp.arange(size) < jnp.sum(count), owner, rows)
    node = jnp.minimum(edges.receivers, n - 1)
    entry = jnp.arange(e) - (jnp.cumsum(edges.degrees) - edges.degrees)[node]
    group = jnp.where(edges.receivers < n, first[position[node]] + entry // WIDTH, size)
    place = group * WIDTH + entry % WIDTH
    itself = jnp.repeat(jnp.minimum(owner, rows - 1), WIDTH)
    neighbors = itself.at[place].set(position[edges.senders], mode="drop", unique_indices=True)
    lengths = jnp.full(size * WIDTH, jnp.inf, edges.lengths.dtype)
    lengths = lengths.at[place].set(edges.lengths, mode="drop", unique_indices=True)
    nothing = jnp.zeros((), edges.lengths.dtype)
    return PackedGraph(
        neighbors=neighbors.reshape(size, WIDTH),
        lengths=lengths.reshape(size, WIDTH),
        owner=owner,
        first=first,
        count=count,
        order=jnp.pad(order, (0, rows - n), mode="edge"),
        position=position,
        component=jnp.zeros(rows, jnp.int32),
        landmarks=jnp.zeros((rows, LANDMARKS), jnp.float32),
        quantum=nothing,
        step=nothing,
        depth=jnp.int32(0),
    )


def components_of(packed: PackedGraph, labels: Int[Array, " rows"] | None = None) -> Int[Array, " rows"]:
    """The first row of each row's connected component; -1 where the row pads. With labels only edges within one count."""
    rows = len(packed.first)
    joined: Any = True
    if labels is not None:
        joined = rows_of(labels, packed.neighbors) == rows_of(labels, jnp.minimum(packed.owner, rows - 1))[:, None]

    def least(name: Array) -> Array:
        beside = jnp.where(joined, rows_of(name, packed.neighbors), rows)
        return name.at[packed.owner].min(jnp.min(beside, axis=1), mode="drop")

    return jnp.where(jnp.arange(rows) < len(packed.position), components(least, rows), -1)


def _surveyed(packed: PackedGraph) -> tuple[Float[Array, "rows m"], PackedGraph]:
    """Relative distances to the landmarks, and the graph with its quantum and its depth."""
    n, (rows,) = len(packed.position), packed.first.shape
    chosen = np.resize(np.random.default_rng(0).permutation(n), LANDMARKS)
    roots = packed.component == jnp.arange(rows)
    start = from_sources(rows, packed.position[chosen], packed.lengths.dtype)
    start = jnp.concatenate([start, jnp.where(roots, 0, jnp.inf).astype(start.dtype)[:, None]], axis=1)
    distance = distances_from(packed, start)
    near = jnp.where(packed.component >= 0, distance[:, -1], 0)
    farthest = jnp.max(near)
    away = distance[:, :-1] / jnp.maximum(farthest, jnp.finfo(distance.dtype).tiny)
    away = jnp.where(distance[:, :-1] < jnp.inf, away, 2).astype(jnp.float32)
    quantum = _power_of_two_quantum(farthest)
    positive = (packed.lengths < jnp.inf) & (packed.lengths > 0)  # many equal points make no graph coarse
    coarse = positive & (packed.lengths < FINE * quantum)
    fine = 2 * jnp.sum(coarse) <= jnp.sum(positive)
    return away, packed._replace(quantum=jnp.where(fine, quantum, 0), depth=_hops(packed, near))


def _hops(packed: PackedGraph, near: Float[Array, " rows"]) -> Int[Array, ""]:
    """The most hops from a root, given the distances; edges of length 0 are no hop."""
    rows = len(near)
    over = rows_of(near, packed.neighbors)
    offer = jnp.where(
        over < rows_of(near, jnp.minimum(packed.owner, rows - 1))[:, None], over + packed.lengths, jnp.inf
    )
    best = jnp.full(rows, jnp.inf, offer.dtype).at[packed.owner].min(jnp.min(offer, axis=1), mode="drop")
    chosen = (offer == rows_of(best, jnp.minimum(packed.owner, rows - 1))[:, None]) & (offer < jnp.inf)
    parent = jnp.max(jnp.where(chosen, packed.neighbors, -1), axis=1)
    parent = jnp.full(rows, -1, jnp.int32).at[packed.owner].max(parent, mode="drop")
    parent = jnp.where(parent >= 0, parent, jnp.arange(rows, dtype=jnp.int32))
    return jnp.max(hops_to_root(parent)[1])


def _power_of_two_quantum(eccentricity: Array) -> Array:
    """The quantum of lengths for graphs whose roots see no node farther than this, so that every path fits 2^30 quanta.

    A power of two, so that it hardly depends on the root, and scaling the data by two changes nothing.
    """
    _, exponent = jnp.frexp(2.002 * eccentricity / UNREACHED)  # the surplus leaves room for rounding
    one = jnp.ones_like(eccentricity)
    return jnp.where(eccentricity > 0, jnp.ldexp(one, exponent), one)


def _median_of_some(edges: Edges) -> Float[Array, ""]:
    """About the median length: of some edges."""
    number = jnp.sum(edges.degrees)
    some = jnp.linspace(0, jnp.maximum(number - 1, 0), min(SAMPLE, len(edges.lengths))).astype(jnp.int32)
    return jnp.where(number > 0, jnp.sort(edges.lengths[some])[len(some) // 2], 1)


def bucket(size: int, steps: int = 8) -> int:
    """The size rounded up to one of some steps an octave, a power of two, so that similar sizes share a compilation."""
    step = max(1, 2 ** (max(size - 1, 1).bit_length() - 1) // steps)
    return -(-size // step) * step


def _addressable(array: Any) -> bool:
    return getattr(array, "is_fully_addressable", True)
