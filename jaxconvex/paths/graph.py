"""The undirected graph of nearest neighbours: as a list of edges, and packed for searches; `layout` packs it."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from jaxconvex._internal.checks import as_array, as_indices, as_lengths, is_concrete, one_of
from jaxconvex._internal.loops import fori_loop
from jaxconvex.neighbors.knn import KNNGraph
from jaxconvex.neighbors.lists import checked_neighbors

__all__ = ["Graph", "PackedGraph", "as_graph", "undirected", "without_places"]

WRONG = (
    "lengths of edges must not be negative",
    "senders and receivers must be indices of points, 0 to len(degrees) - 1, and absent edges have length inf",
    "every edge must be listed from both of its ends",
)


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

    Nodes are ordered by degree, a row each, and rows that hold no node pad. Row i owns `count[i]` groups of `neighbors`
    and `lengths`, from group `first[i]` on, each some neighbours wide; the last group of all holds none.
    """

    neighbors: Int[Array, "groups width"]  # rows; the row itself where there is no edge
    lengths: Float[Array, "groups width"]  # inf where there is no edge
    owner: Int[Array, " groups"]  # the row of each group; beyond the last row where the group pads
    first: Int[Array, " rows"]
    count: Int[Array, " rows"]  # type: ignore[assignment]  # hides tuple.count
    order: Int[Array, " rows"]  # the node of each row; rows that pad repeat the last node
    position: Int[Array, " n"]  # the row of each node
    component: Int[Array, " rows"]  # the first row of the connected component; -1 where the row pads
    landmarks: Float[Array, "rows m"]  # relative distances to some nodes: what lies outside, and what side by side
    quantum: Float[Array, ""]  # of whole lengths, a power of two; 0 where an outlier would make it coarse; nan: broken
    step: Float[Array, ""]  # about the median length
    depth: Int[Array, ""]  # hops from one root of each component, the deepest


def undirected(knn: KNNGraph, *, mode: str = "union", duplicates: str = "link") -> Graph:
    """The undirected graph of a nearest-neighbour graph: each edge once from either end, absent ones at length inf.

    Args:
        knn: neighbours, padded with index -1 where absent; also those that `neighbors_graph` takes.
        mode: "union": i and j are linked if either lists the other (the paper's choice); "mutual": if both do.
            `evaluate` and the command call this option `graph`.
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

    returned = fori_loop(0, k, look_back, jnp.full((n, k), -1, knn.distances.dtype))
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


def without_places(packed: PackedGraph) -> PackedGraph:
    """The graph without the row of each node: what takes it is compiled for rounded sizes, which many graphs share.

    >>> from jaxconvex import knn_graph, pack
    >>> len(without_places(pack(knn_graph(jnp.array([[0.], [1.], [3.]]), k=1))).position)
    0
    """
    nowhere: Any = np.zeros(0, np.int32)  # of JAX's, it would be traced inside jit
    return packed._replace(position=nowhere)


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
        return _edges_of(graph)
    if isinstance(graph, Graph):
        return _checked_edges(graph)
    raise ValueError(f"graph must be a KNNGraph, Graph or PackedGraph; got {type(graph).__name__}. See knn_graph().")


def _edges_of(packed: PackedGraph) -> Graph:
    ends = packed.order[packed.neighbors], packed.order[jnp.minimum(packed.owner, len(packed.order) - 1)]
    there = packed.lengths < jnp.inf
    senders, receivers = (jnp.where(there, end, 0).ravel() for end in (ends[0], ends[1][:, None]))
    degrees = jnp.zeros(len(packed.position), jnp.int32).at[receivers].add(there.ravel().astype(jnp.int32))
    lengths = jnp.where(jnp.isnan(packed.quantum), jnp.nan, packed.lengths)
    return Graph(senders, receivers, lengths.ravel(), degrees)


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
