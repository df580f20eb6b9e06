"""The undirected graph of nearest neighbours, as a list of edges, and its packed layout for fast paths."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from jaxconvex.checks import as_array, as_indices, as_lengths, is_concrete, one_of
from jaxconvex.neighbor_lists import checked_neighbors
from jaxconvex.neighbors import KNNGraph

__all__ = ["Graph", "PackedGraph", "as_graph", "layout_of", "pack", "undirected"]

UNREACHED = 2**30 - 1  # infinity of fixed-point lengths: two of them still add up without wrapping
FINE = 2**16  # quanta the median edge needs; with fewer the lengths stay floating-point
WIDTH = 4  # neighbours read at a time
CHUNK = 128  # rows handled together by a processor's core; their number is a multiple of it
LANDMARKS = 16
CELL = 2048  # rows of a cell
WRONG = (
    "lengths of edges must not be negative",
    "senders and receivers must be indices of points, 0 to len(degrees) - 1, and absent edges have length inf",
    "every edge must be listed from both of its ends",
)
SMALL = 2**15  # nodes up to which compiling costs more than room for edges that are not there


class Graph(NamedTuple):
    """An undirected graph of static size: every edge is listed from both ends; absent ones have length inf.

    What joins a point to itself is no edge. Of parallel edges the least length counts.
    """

    senders: Int[Array, " e"]
    receivers: Int[Array, " e"]
    lengths: Float[Array, " e"]
    degrees: Int[Array, " n"]


class PackedGraph(NamedTuple):
    """A graph laid out for shortest paths from many sources at once; made by `pack`, and a pytree like any other.

    Nodes are ordered by degree, a row each. Row i owns `count[i]` groups of `neighbors` and `lengths`, from group
    `first[i]` on, each `WIDTH` neighbours wide; the last group of all holds none. Lengths are int32 multiples of
    `quantum` (a power of two; the shortest is 1), or floating-point where an outlier would make that coarse.
    """

    neighbors: Int[Array, "groups width"]
    lengths: Array  # [groups width] int32, or floating-point
    owner: Int[Array, " groups"]  # the row of each group; beyond the last row where the group pads
    first: Int[Array, " rows"]
    count: Int[Array, " rows"]  # type: ignore[assignment]  # hides tuple.count
    order: Int[Array, " rows"]  # the node of each row; rows that pad repeat the last node
    position: Int[Array, " n"]  # the row of each node
    component: Int[Array, " rows"]  # connected component of each row; -1 where the row pads
    landmarks: Float[Any, "n m"]  # relative distances to some nodes: what lies outside, and what side by side
    step: Array  # the median length
    quantum: Float[Array, ""]
    depth: Int[Array, ""]  # hops from one root of each component, the deepest: long chains need another engine
    edges: Graph  # the graph it was made from


def undirected(knn: KNNGraph, *, mode: str = "union", duplicates: str = "link") -> Graph:
    """The undirected graph of a nearest-neighbour graph: each edge once from either end, absent ones at length inf.

    Args:
        knn: neighbours, padded with index -1 where absent; also those that `neighbors_graph` takes.
        mode: "union": i and j are linked if either lists the other (the paper's choice); "mutual": if both do.
        duplicates: "link" keeps edges of length 0 between equal points; "drop" removes them, as nnconvexity does.

    Where two points list each other at different lengths, the lesser counts in the union, the greater where both must.
    Works under jit and vmap.

    Raises:
        ValueError: as `neighbors_graph` (under jit lengths of nan), but a length of nan stays, and reaches the result.

    Cost: n k^2.

    >>> from jaxconvex import knn_graph
    >>> undirected(knn_graph(jnp.array([[0.], [1.], [3.]]), k=1)).degrees.tolist()
    [1, 2, 1]
    """
    one_of(mode, ("union", "mutual"), "mode")
    one_of(duplicates, ("link", "drop"), "duplicates")
    return _undirected(checked_neighbors(knn), mode, duplicates)


@partial(jax.jit, static_argnames=("mode", "duplicates"))
def _undirected(knn: KNNGraph, mode: str, duplicates: str) -> Graph:
    n, k = knn.indices.shape
    own = jnp.broadcast_to(jnp.arange(n, dtype=jnp.int32)[:, None], (n, k))
    listed = knn.indices >= 0
    other = jnp.where(listed, knn.indices, own)

    def look_back(j: Array, returned: Array) -> Array:
        match = (knn.indices[other, j] == own) & listed
        return jnp.where(match, knn.distances[other, j], returned)

    returned = lax.fori_loop(0, k, look_back, jnp.full((n, k), -1, knn.distances.dtype))
    mutual = listed & ~(returned == -1)  # nan counts as listed, so that it reaches the result
    both = jnp.maximum if mode == "mutual" else jnp.minimum
    length = jnp.where(mutual, both(knn.distances, returned), knn.distances)
    there = listed & (mutual if mode == "mutual" else True)
    if duplicates == "drop":
        there &= length != 0
    forward = jnp.where(there, length, jnp.inf)
    backward = jnp.where(there & ~mutual, length, jnp.inf)
    senders = jnp.concatenate([other.ravel(), own.ravel()])
    receivers = jnp.concatenate([own.ravel(), other.ravel()])
    lengths = jnp.concatenate([forward.ravel(), backward.ravel()])
    degrees = jnp.zeros(n, jnp.int32).at[receivers].add((lengths < jnp.inf).astype(jnp.int32))
    return Graph(senders, receivers, lengths, degrees)


def as_graph(graph: KNNGraph | Graph | PackedGraph) -> Graph:
    """The graph as a list of edges: neighbours are symmetrised by union, a packed graph gives what it was made from.

    A list of edges is put in order, each edge once from either end. Raises ValueError, under jit gives nan lengths, for
    negative lengths, ends that are no points and edges listed from one end alone.

    >>> from jaxconvex import knn_graph
    >>> as_graph(knn_graph(jnp.array([[0.], [1.], [3.]]), k=1)).lengths.shape
    (6,)
    """
    if isinstance(graph, KNNGraph):
        return undirected(graph)
    if isinstance(graph, PackedGraph):
        return graph.edges
    if isinstance(graph, Graph):
        return _checked_edges(graph)
    raise ValueError(f"graph must be a KNNGraph, Graph or PackedGraph; got {type(graph).__name__}. See knn_graph().")


def _checked_edges(graph: Graph) -> Graph:
    names = "senders", "receivers"
    ends = [as_array(part, name) for part, name in zip(graph, names, strict=False)]
    given, degrees = as_array(graph.lengths, "lengths"), as_array(graph.degrees, "degrees")
    if degrees.ndim != 1:
        raise ValueError(f"degrees must have one entry a point, shape (n,); got shape {degrees.shape}.")
    n = len(degrees)
    if given.ndim != 1 or {part.shape for part in ends} != {given.shape}:
        raise ValueError(
            "senders, receivers and lengths must have one entry for either end of each edge, shape (e,); got "
            f"{ends[0].shape}, {ends[1].shape} and {given.shape}."
        )
    senders, receivers = (as_indices(part, name, n) for part, name in zip(ends, names, strict=True))
    lengths = as_lengths(given, "lengths")
    edges, wrong = _in_order(senders, receivers, lengths, n)
    if is_concrete(edges, senders, receivers, lengths):
        for entry, what in zip(np.asarray(wrong), WRONG, strict=True):
            if entry >= 0:
                edge = f"from {ends[0][entry]} to {ends[1][entry]} of length {given[entry]}"
                raise ValueError(f"{what}; got an edge {edge} (entry {entry}).")
    return edges


@partial(jax.jit, static_argnames="n")
def _in_order(senders: Array, receivers: Array, lengths: Array, n: int) -> tuple[Graph, Int[Array, " w"]]:
    """Each edge once from either end at its least length; and an entry for each kind of WRONG, -1 where there is none."""
    e = len(lengths)
    entries = jnp.arange(e, dtype=jnp.int32)
    low, high = jnp.minimum(senders, receivers), jnp.maximum(senders, receivers)
    there = (lengths != jnp.inf) & (low != high)
    outside = there & ((low < 0) | (high >= n))
    low, high = (jnp.where(there & ~outside, end, n) for end in (low, high))
    low, high, ordered, given = lax.sort((low, high, jnp.abs(lengths), entries), num_keys=3)
    begins = (low != jnp.roll(low, 1)) | (high != jnp.roll(high, 1)) | (entries == 0)
    place = entries - lax.cummax(jnp.where(begins, entries, 0))  # among the entries that join the same two points
    lone = begins & (jnp.roll(begins, -1) | (entries == e - 1)) & (low < n)
    bad = there & (lengths < 0), outside, jnp.zeros(e, bool).at[given].set(lone)
    wrong = jnp.stack([jnp.max(jnp.where(each, entries, -1), initial=-1) for each in bad])
    broken = jnp.any(wrong >= 0) | jnp.any(there & jnp.isnan(lengths))
    kept = (low < n) & (place < 2)
    least = jnp.where(place == 1, jnp.roll(ordered, 1), ordered)
    senders, receivers = jnp.where(place == 1, high, low), jnp.where(place == 1, low, high)
    degrees = jnp.zeros(n, jnp.int32).at[receivers].add(kept.astype(jnp.int32), mode="drop")
    senders, receivers = (jnp.where(kept, end, 0) for end in (senders, receivers))
    lengths = jnp.where(broken, jnp.nan, jnp.where(kept, least, jnp.inf))
    return Graph(senders, receivers, lengths, degrees), wrong


def pack(graph: KNNGraph | Graph, *, mode: str = "union", duplicates: str = "link") -> PackedGraph:
    """The graph in the layout of the fast path engine: a step on the host, since the layout depends on the data.

    Args:
        graph: a KNNGraph or a Graph, with concrete values.
        mode, duplicates: how a KNNGraph becomes undirected, see `undirected`.

    Lengths become whole numbers of one quantum, a power of two, chosen so that no shortest path is longer than 2^30
    quanta: twice the largest distance from one root of each component bounds them all. Sums are then exact and the same
    in any order. If the median edge has fewer than 2^16 quanta, which takes a far outlier, lengths stay floating-point.

    Raises:
        ValueError: under jit, vmap or grad, where values are not known: pack before, or pass the Graph.

    Cost: a sort of the edges and some shortest-path trees, on the host.

    >>> from jaxconvex import knn_graph
    >>> pack(knn_graph(jnp.array([[0.], [1.], [3.]]), k=1)).position.shape
    (3,)
    """
    if not is_concrete(graph):
        raise ValueError(
            "pack() lays a graph out by its values, so it must run outside jit and vmap: pass a Graph there."
        )
    from scipy import sparse

    # What several processes hold together is copied to each of them, which all lay it out alike.
    graph = jax.tree.map(lambda part: part if _addressable(part) else jnp.asarray(np.asarray(part)), graph)
    edges = undirected(graph, mode=mode, duplicates=duplicates) if isinstance(graph, KNNGraph) else as_graph(graph)
    n = len(edges.degrees)
    lengths = np.asarray(edges.lengths)
    keep = ~np.isposinf(lengths)
    poisoned = bool(np.isnan(lengths).any())
    weights = np.where(np.isnan(lengths), 1, lengths)[keep].astype(np.float64)
    # scipy.sparse drops explicit zeros in some operations, so edges of length 0 travel as the smallest positive number.
    ends = np.asarray(edges.receivers)[keep], np.asarray(edges.senders)[keep]
    matrix = sparse.coo_matrix((np.maximum(weights, np.finfo(np.float64).tiny), ends), shape=(n, n)).tocsr()
    component, eccentricity, depth, landmarks = _survey(matrix)
    quantum = power_of_two_quantum(np.float64(eccentricity))
    positive = weights[weights > 0]  # many equal points make no graph coarse
    fine = positive.size == 0 or np.median(positive) >= FINE * quantum
    if fine:
        values = np.maximum(1, np.rint(matrix.data / quantum)).clip(max=UNREACHED).astype(np.int32)
        absent: float = UNREACHED
    else:
        values = matrix.data.astype(lengths.dtype)
        absent = np.inf

    degree = np.diff(matrix.indptr)
    groups = -(-degree // WIDTH)
    order = np.lexsort((groups, _cells(matrix)))
    rows = -(-bucket(n) // CHUNK) * CHUNK
    position = np.empty(n, np.int32)
    position[order] = np.arange(n)
    count = np.concatenate([groups[order], np.zeros(rows - n, groups.dtype)])
    first = np.cumsum(count) - count
    total = int(count.sum())
    # Room for as many edges as there can be: graphs of so many nodes and neighbours share a compilation.
    room = (len(lengths) + 3 * n) // WIDTH + 1 if n < SMALL else total + 1
    size = bucket(max(room, CHUNK))
    owner = np.concatenate([np.repeat(np.arange(rows), count), np.full(size - total, rows)])
    neighbors = np.repeat(np.minimum(owner, rows - 1)[:, None], WIDTH, axis=1)
    packed = np.full((size, WIDTH), absent, values.dtype)
    row = np.repeat(np.arange(n), degree[order])
    entry = np.arange(len(row)) - np.repeat(np.cumsum(degree[order]) - degree[order], degree[order])
    source = np.repeat(matrix.indptr[order], degree[order]) + entry
    group = first[row] + entry // WIDTH
    neighbors[group, entry % WIDTH] = position[matrix.indices[source]]
    packed[group, entry % WIDTH] = values[source]

    def padded(values: np.ndarray, filler: Any) -> Array:
        return jnp.asarray(np.concatenate([values, np.full(rows - n, filler)]).astype(np.int32))

    return PackedGraph(
        neighbors=jnp.asarray(neighbors.astype(np.int32)),
        lengths=jnp.asarray(packed),
        owner=jnp.asarray(owner.astype(np.int32)),
        first=jnp.asarray(first.astype(np.int32)),
        count=jnp.asarray(count.astype(np.int32)),
        order=padded(order, order[-1]),
        position=jnp.asarray(position),
        component=padded(component[order], -1),
        landmarks=landmarks,
        step=jnp.asarray(np.median(values).astype(values.dtype) if len(values) else values.dtype.type(1)),
        quantum=jnp.float32(np.nan if poisoned else quantum),
        depth=jnp.int32(depth),
        edges=edges,
    )


def layout_of(packed: PackedGraph) -> PackedGraph:
    """The packed graph without what the searches for paths do not read, so that similar graphs share a compilation."""
    edges = Graph(*(part[:0] for part in packed.edges))
    return packed._replace(edges=edges, position=packed.position[:0], landmarks=packed.landmarks[:0])


def _addressable(array: Any) -> bool:
    return getattr(array, "is_fully_addressable", True)


def power_of_two_quantum(eccentricity: Any) -> Any:
    """The quantum of lengths for graphs whose roots see no node farther than this, so that every path fits 2^30 quanta.

    A power of two, so that it hardly depends on the root, and scaling the data by two changes nothing.
    """
    numpy = np if isinstance(eccentricity, np.floating) else jnp
    _, exponent = numpy.frexp(2.002 * eccentricity / UNREACHED)  # the surplus leaves room for rounding
    one = numpy.ones_like(eccentricity)
    return numpy.where(eccentricity > 0, numpy.ldexp(one, exponent), one)


def bucket(size: int, steps: int = 8) -> int:
    """The size rounded up to one of some steps an octave, a power of two, so that similar sizes share a compilation."""
    step = max(1, 2 ** (max(size - 1, 1).bit_length() - 1) // steps)
    return -(-size // step) * step


def _cells(matrix: Any) -> Int[np.ndarray, " n"]:
    """The cell of each node in a partition of a large graph by the nearest of some nodes, so that neighbours' rows lie
    near each other in memory; one cell for a graph whose distances fit a processor's caches."""
    n = matrix.shape[0]
    if n < CELL * 8:
        return np.zeros(n, np.int64)
    from scipy.sparse import csgraph

    seeds = np.random.default_rng(1).choice(n, n // CELL, replace=False)
    return csgraph.dijkstra(matrix, directed=True, indices=seeds, min_only=True, return_predecessors=True)[2]


def _survey(matrix: Any) -> tuple[np.ndarray, float, int, np.ndarray]:
    """Components, the largest distance and number of hops from a root, and the distances to some landmarks, in its units."""
    from scipy.sparse import csgraph

    n = matrix.shape[0]
    _, component = csgraph.connected_components(matrix, directed=False)
    roots = np.unique(component, return_index=True)[1]
    near, parent, _ = csgraph.dijkstra(matrix, directed=True, indices=roots, min_only=True, return_predecessors=True)
    chosen = np.random.default_rng(0).choice(n, min(n, LANDMARKS), replace=False)
    away = csgraph.dijkstra(matrix, directed=True, indices=chosen).T
    hops = np.zeros(n, np.int64)
    ancestor = np.where(parent < 0, np.arange(n), parent)
    hops[parent >= 0] = 1
    while True:  # pointer doubling: hops to the ancestor, and on from there
        further = hops + hops[ancestor]
        if np.array_equal(further, hops):
            break
        hops, ancestor = further, ancestor[ancestor]
    farthest = float(near.max(initial=0))
    return (
        component,
        farthest,
        int(hops.max(initial=0)),
        np.where(np.isfinite(away), away / max(farthest, np.finfo(float).tiny), 2).astype(np.float32),
    )
