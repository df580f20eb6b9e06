"""Shortest paths between any points: their lengths, and how many of the points inside them lie outside a class."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_batching import sequential_vmap
from jaxtyping import Array, Bool, Float, Int

from jaxconvex._internal.checks import as_array, as_labels, clipped_integers, is_concrete
from jaxconvex._internal.devices import in_mesh
from jaxconvex.neighbors.knn import KNNGraph
from jaxconvex.paths.graph import Graph, PackedGraph
from jaxconvex.paths.layout import pack
from jaxconvex.paths.order import labels_of_rows, most_lanes
from jaxconvex.paths.search import distances_from, from_sources, in_lengths, infinity
from jaxconvex.paths.tie_rule import PathCounts
from jaxconvex.paths.walk import WALKED, Block, Some, fold_pairs

__all__ = ["PathCounts", "shortest_path_counts", "shortest_path_lengths"]

LABELS = 2**30  # labels lie below


def shortest_path_counts(
    graph: KNNGraph | Graph | PackedGraph,
    labels: Int[Array, " n"],
    sources: Int[Array, " s"],
    targets: Int[Array, " t"],
) -> PathCounts:
    """Points inside the shortest path from each source to each target, and those whose label is not the source's.

    Args:
        graph: a nearest-neighbour graph (symmetrised by union), a graph, or a packed graph.
        labels: integers, -1 to 2^30 - 1.
        sources, targets: indices of points.

    Pure and of static size: it runs under jit, and under vmap one graph after the other. A source as its own target has
    an empty path: interior 0. nan lengths, and under jit what is no point or no label, give interior -1.

    Cost: of the searches from all sources, some at a time.

    >>> from jaxconvex import knn_graph
    >>> chain = knn_graph(jnp.array([[0.], [1.], [2.1], [3.3]]), k=1)
    >>> counts = shortest_path_counts(chain, jnp.array([0, 1, 0, 0]), jnp.array([0]), jnp.array([1, 2, 3]))
    >>> counts.interior.tolist(), counts.outside.tolist()
    ([[0, 1, 2]], [[0, 1, 1]])
    """
    packed = graph if isinstance(graph, PackedGraph) else pack(graph)
    n = len(packed.position)
    labels = as_labels(labels, n, LABELS)
    return _counts(packed, labels, _as_nodes(sources, "sources", n), _as_nodes(targets, "targets", n))


def shortest_path_lengths(graph: KNNGraph | Graph | PackedGraph, sources: Int[Array, " s"]) -> Float[Array, "s n"]:
    """Lengths of the shortest paths from each source to every point; inf where there is none.

    Args:
        graph: as for `shortest_path_counts`.
        sources: indices of points.

    Lengths are sums of fixed-point edges, right to about 2^-29 of the longest of them. nan if an edge is nan, and under
    jit from a source that is no point.

    >>> from jaxconvex import knn_graph
    >>> chain = knn_graph(jnp.array([[0.], [1.], [2.5]]), k=1)
    >>> shortest_path_lengths(chain, jnp.array([0])).tolist()
    [[0.0, 1.0, 2.5]]
    """
    packed = graph if isinstance(graph, PackedGraph) else pack(graph)
    return _lengths(packed, _as_nodes(sources, "sources", len(packed.position)))


def _as_nodes(nodes: Any, name: str, n: int) -> Int[Array, " s"]:
    """Indices of points as int32, what is none as -1 or n. Raises ValueError where that is known."""
    nodes = as_array(nodes, name)
    if nodes.ndim != 1 or (nodes.size and nodes.dtype.kind not in "iu"):
        raise ValueError(f"{name} must be a list of indices of points; got shape {nodes.shape} of type {nodes.dtype}.")
    found = clipped_integers(nodes, -1, n)
    if is_concrete(found):
        bad = np.flatnonzero((np.asarray(found) < 0) | (np.asarray(found) >= n))
        if bad.size:
            raise ValueError(
                f"{name} must be indices of {n} points, 0 to {n - 1}; got {nodes[bad[0]]} (entry {bad[0]})."
            )
    return found


def _known(nodes: Int[Array, " s"], n: int) -> Bool[Array, " s"]:
    return (nodes >= 0) & (nodes < n)


@jax.jit
@in_mesh
@sequential_vmap
def _counts(packed: PackedGraph, labels: Array, sources: Array, targets: Array) -> PathCounts:
    n, s, t = len(packed.position), len(sources), len(targets)
    lanes = min(most_lanes(n), max(s, 1))
    rows = labels_of_rows(packed, labels)[None]
    ends = [packed.position[jnp.clip(nodes, 0, max(n - 1, 0))] for nodes in (sources, targets)]
    padded = jnp.pad(ends[1], (0, -t % WALKED))

    def search(packed: PackedGraph) -> tuple[Array, Array]:
        def some(sources: Array) -> tuple[Array, Array]:
            block = Block(sources, padded, jnp.int32(t))

            def asked(some: Some) -> Array:
                there = (some.start + jnp.arange(len(some.targets)) < t)[:, None] & (some.columns < lanes)
                return (there & (some.targets[:, None] != sources[jnp.minimum(some.columns, lanes - 1)]))[None]

            def put(found: Any, some: Some, counts: PathCounts, pairs: Array) -> Any:
                place = (some.start + jnp.arange(len(some.targets)))[:, None], some.columns
                return tuple(
                    old.at[place].max(jnp.where(pairs[0], count[0], -1), mode="drop")
                    for old, count in zip(found, counts, strict=True)
                )

            found = fold_pairs(packed, rows, block, asked, put, tuple(jnp.full((2, len(padded), lanes), -1, jnp.int32)))
            interior, outside = (each[:t].T for each in found)
            return interior, jnp.maximum(outside, 0)

        blocks = jnp.pad(ends[0], (0, -s % lanes), mode="edge" if s else "constant").reshape(-1, lanes)
        interior, outside = (each.reshape(-1, t)[:s] for each in lax.map(some, blocks))
        return interior, outside

    interior, outside = in_lengths(packed, search, None)
    interior = jnp.where(ends[0][:, None] == ends[1], 0, interior)
    known = _known(sources, n)[:, None] & _known(targets, n) & ~jnp.isnan(packed.quantum)
    known &= jnp.all((labels >= -1) & (labels < LABELS))
    return PathCounts(jnp.where(known, interior, -1), jnp.where(known, outside, 0))


@jax.jit
@in_mesh
@sequential_vmap
def _lengths(packed: PackedGraph, sources: Array) -> Array:
    n, s = len(packed.position), len(sources)
    lanes = min(most_lanes(n), max(s, 1))
    dtype = packed.quantum.dtype

    unit = jnp.where(packed.quantum > 0, packed.quantum, 1)

    def search(packed: PackedGraph) -> Array:
        def some(nodes: Array) -> Array:
            rows = packed.position[jnp.clip(nodes, 0, max(n - 1, 0))]
            distance = distances_from(packed, from_sources(len(packed.first), rows, packed.lengths.dtype))
            distance = distance[packed.position].T
            return jnp.where(distance < infinity(distance.dtype), distance.astype(dtype) * unit, jnp.inf)

        blocks = jnp.pad(sources, (0, -s % lanes)).reshape(-1, lanes)
        return lax.map(some, blocks).reshape(-1, n)[:s]

    found = in_lengths(packed, search, None)
    return jnp.where((jnp.isnan(packed.quantum) | ~_known(sources, n))[:, None], jnp.nan, found)
