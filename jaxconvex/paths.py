"""Shortest paths from many sources at once, and how many of the points inside them lie outside a class.

Of equally short paths the one with the fewest points outside the class counts, then the one with the fewest hops. So
Definition 3 of the paper has it ("there exists a shortest path inside"), and the order of the points does not matter.
Equal means equal but for rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxconvex.checks import as_array, as_labels, clipped_integers, is_concrete
from jaxconvex.graphs import FINE, UNREACHED, Graph, PackedGraph, as_graph, power_of_two_quantum
from jaxconvex.neighbors import KNNGraph

__all__ = ["PathCounts", "edge_path_counts", "fixed_point", "shortest_path_counts", "shortest_path_lengths"]

EQUAL, A_HOP = 16, 2  # quanta by which rounding may part equal lengths, and what each hop of a path adds to them
LABELS = 2**30  # labels lie below
OUTSIDE = 2**16  # what a point outside costs in the lexicographic pass, where a hop costs 1

Relax = Callable[[Array], tuple[Array, Array]]


class PathCounts(NamedTuple):
    """What the shortest path of each pair holds between its ends; interior is -1 where there is no path."""

    interior: Int[Array, "s t"]
    outside: Int[Array, "s t"]


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

    Pure and of static size: it runs under jit and vmap, one block of sources at a time. A source as its own target has
    an empty path: interior 0. nan lengths, and under jit what is no point or no label, give interior -1.

    Cost: sources x edges x hops. `graph_convexity` on concrete arrays uses a faster engine for the same numbers.

    >>> from jaxconvex import knn_graph
    >>> chain = knn_graph(jnp.array([[0.], [1.], [2.1], [3.3]]), k=1)
    >>> counts = shortest_path_counts(chain, jnp.array([0, 1, 0, 0]), jnp.array([0]), jnp.array([1, 2, 3]))
    >>> counts.interior.tolist(), counts.outside.tolist()
    ([[0, 1, 2]], [[0, 1, 1]])
    """
    edges = as_graph(graph)
    n = edges.degrees.shape[0]
    labels = as_labels(labels, n, LABELS)
    return _path_counts(edges, labels, _as_nodes(sources, "sources", n), _as_nodes(targets, "targets", n))


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


@jax.jit
def _path_counts(edges: Graph, labels: Array, sources: Array, targets: Array) -> PathCounts:
    n = edges.degrees.shape[0]
    known = ((sources >= 0) & (sources < n))[:, None] & (targets >= 0) & (targets < n)
    known &= jnp.all((labels >= -1) & (labels < LABELS))
    block = min(sources_per_block(n), max(sources.shape[0], 1))
    padded = jnp.pad(sources, (0, -len(sources) % block)).reshape(-1, block)
    columns = jnp.broadcast_to(targets[:, None], (len(targets), block))
    counts = lax.map(lambda some: edge_path_counts(edges, labels, some, columns), padded)
    interior, outside = (jnp.moveaxis(c, 1, 2).reshape(-1, len(targets))[: len(sources)] for c in counts)
    return PathCounts(jnp.where(known, interior, -1), jnp.where(known, outside, 0))


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
    edges = as_graph(graph)
    return _path_lengths(edges, _as_nodes(sources, "sources", len(edges.degrees)))


@jax.jit
def _path_lengths(edges: Graph, sources: Array) -> Array:
    lengths, quantum = fixed_point(edges)
    dtype = edges.lengths.dtype
    fixed = settle(_edge_relax(edges, lengths), from_sources(edges.degrees.shape[0], sources, jnp.int32), _no_limit)
    floating = settle(
        _edge_relax(edges, edges.lengths), from_sources(edges.degrees.shape[0], sources, dtype), _no_limit
    )
    exact = jnp.where(fixed < UNREACHED, fixed.astype(dtype) * quantum.astype(dtype), jnp.inf)
    broken = jnp.any(jnp.isnan(edges.lengths)) | (sources < 0) | (sources >= len(edges.degrees))
    return jnp.where(broken, jnp.nan, jnp.where(quantum > 0, exact, floating)).T


def sources_per_block(n: int) -> int:
    """How many sources share one block, so that their distances to all points stay in the cache of a processor."""
    return 64 if n <= 16_384 else 32 if n <= 32_768 else 16


def edge_path_counts(
    edges: Graph, labels: Int[Array, " n"], sources: Int[Array, " s"], targets: Int[Array, "t s"]
) -> PathCounts:
    """`PathCounts` [t s] of one block of sources, each with its own targets, from the list of edges: jit and vmap."""
    edges = edges._replace(lengths=lax.stop_gradient(edges.lengths))
    n = edges.degrees.shape[0]
    column = jnp.arange(sources.shape[0])
    lengths, quantum = fixed_point(edges)

    def solve(lengths: Array) -> PathCounts:
        distance = settle(_edge_relax(edges, lengths), from_sources(n, sources, lengths.dtype), _no_limit)
        far = infinity(lengths.dtype)
        usable = (distance[edges.senders] < far) & (lengths[:, None] < far)
        gap = jnp.where(usable, distance[edges.senders] + lengths[:, None] - distance[edges.receivers], far)
        step = 1 + OUTSIDE * (labels[edges.senders][:, None] != labels[sources][None, :]).astype(jnp.int32)

        def relax(state: tuple[Array, Array]) -> tuple[Array, Array]:
            cost, excess = state
            longer = jnp.where(usable, excess[edges.senders] + gap, far)
            offer = cost[edges.senders] + step
            allowed = rounding_slack(distance[edges.receivers], edges.lengths.dtype, offer % OUTSIDE)
            offer = jnp.where(longer <= allowed, offer, UNREACHED)
            least = jnp.full_like(cost, UNREACHED).at[edges.receivers].min(offer)
            longer = jnp.where(offer == least[edges.receivers], longer, far)
            shortest = jnp.full_like(excess, far).at[edges.receivers].min(longer)
            return jnp.minimum(least, start), jnp.where(start == 0, 0, shortest)

        start = from_sources(n, sources, jnp.int32)
        cost = cheapest(relax, (start, jnp.zeros_like(distance)))[0][targets, column]
        return counts_of_cost(cost, distance[targets, column] < far)

    counts = lax.cond(quantum > 0, lambda: solve(lengths), lambda: solve(edges.lengths))
    broken = jnp.any(jnp.isnan(edges.lengths))
    return PathCounts(jnp.where(broken, -1, counts.interior), jnp.where(broken, 0, counts.outside))


def fixed_point(edges: Graph) -> tuple[Int[Array, " e"], Float[Array, ""]]:
    """Lengths in whole quanta, and the quantum, 0 where an outlier would make it coarse: as `pack` does, but under jit."""
    n = edges.degrees.shape[0]
    there = edges.lengths < jnp.inf
    nodes = jnp.arange(n, dtype=jnp.int32)

    def spread(state: tuple[Array, Array]) -> tuple[Array, Array]:
        root, _ = state
        offer = jnp.where(there, root[edges.senders], n)
        lowest = jnp.minimum(root, jnp.full_like(root, n).at[edges.receivers].min(offer))
        lowest = lowest[lowest]
        return lowest, jnp.any(lowest != root)

    root, _ = lax.while_loop(lambda state: state[1], spread, (nodes, jnp.array(True)))
    start = jnp.where(root == nodes, 0, jnp.inf).astype(edges.lengths.dtype)[:, None]
    eccentricity = jnp.max(settle(_edge_relax(edges, edges.lengths), start, _no_limit))
    quantum = power_of_two_quantum(eccentricity)
    positive = there & (edges.lengths > 0)  # many equal points make no graph coarse
    ordered = jnp.sort(jnp.where(positive, edges.lengths, jnp.inf))
    count = jnp.sum(positive)
    median = 0.5 * (ordered[jnp.maximum(count - 1, 0) // 2] + ordered[count // 2])
    fine = (count == 0) | (median >= FINE * quantum)
    whole = jnp.maximum(1, jnp.rint(jnp.where(there, edges.lengths, 0) / quantum)).astype(jnp.int32)
    return jnp.where(there, whole, UNREACHED), jnp.where(fine, quantum, 0)


def _edge_relax(edges: Graph, lengths: Array) -> Relax:
    def relax(distance: Array) -> tuple[Array, Array]:
        far = infinity(distance.dtype)
        offer = distance[edges.senders] + lengths[:, None]
        new = jnp.minimum(distance, jnp.full_like(distance, far).at[edges.receivers].min(offer))
        return new, jnp.min(jnp.where(new < distance, new, far), axis=0)

    return relax


def from_sources(n: int, sources: Array, dtype: Any) -> Array:
    """Distances [n s] before the first sweep: 0 at the source, infinite elsewhere."""
    return jnp.full((n, sources.shape[0]), infinity(dtype), dtype).at[sources, jnp.arange(sources.shape[0])].set(0)


def infinity(dtype: Any) -> float | int:
    """The distance of what is not reached, in whole quanta or floating-point."""
    return UNREACHED if jnp.issubdtype(dtype, jnp.integer) else jnp.inf


def rounding_slack(distance: Array, dtype: Any, hops: Array | int = 0) -> Array:
    """By how much a path may exceed the distance and still be as short, given the type the lengths came in.

    An edge in float32 is off by up to an eps (2^-23): squares, their sum and the root are rounded. Two paths of equal
    length then differ by up to 2 eps. Whole quanta add what rounding to them takes; floating-point sums round again.
    """
    if jnp.issubdtype(distance.dtype, jnp.integer):
        return EQUAL + A_HOP * hops + (distance >> 22 if dtype == jnp.float32 else jnp.zeros_like(distance))
    return 8 * float(jnp.finfo(dtype).eps) * jnp.where(jnp.isfinite(distance), distance, 0)


def _no_limit(distance: Array) -> float | int:
    return infinity(distance.dtype)


def settle(relax: Relax, distance: Array, limit: Callable[[Array], Array | float | int]) -> Array:
    """Sweeps until no distance below the limit changes any more.

    A change at or above the limit cannot reach a target. A path has at most n - 1 edges, which bounds the sweeps.
    """

    def sweep(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        new, least = relax(state[0])
        return new, jnp.any(least < limit(new)), state[2] + 1

    state = distance, jnp.array(True), jnp.int32(0)
    return lax.while_loop(lambda s: s[1] & (s[2] <= distance.shape[0]), sweep, state)[0]


def cheapest(relax: Callable[[Any], Any], start: Any) -> Any:
    """Sweeps of the lexicographic pass until nothing changes.

    Its state is the cost of the best path to each point, and by how much that path exceeds the distance: a point takes
    the least cost, then the least excess, of the ways over its neighbours that exceed its own distance by no more than
    rounding. The excess is carried along, so that on long paths no small ones add up. A way costs more than what it
    goes on from, so what nothing changes any more is the same in whatever order the points were taken.
    """

    def sweep(state: tuple[Any, Array]) -> tuple[Any, Array]:
        new = relax(state[0])
        changed = jax.tree.map(lambda a, b: jnp.any(a != b), new, state[0])
        return new, jnp.any(jnp.stack(jax.tree.leaves(changed)))

    return lax.while_loop(lambda s: s[1], sweep, (start, jnp.array(True)))[0]


def counts_of_cost(cost: Int[Array, "t s"], reached: Bool[Array, "t s"]) -> PathCounts:
    """What lies inside the paths, from the cost that the lexicographic pass leaves at their ends."""
    hops = cost % OUTSIDE
    return PathCounts(jnp.where(reached, jnp.maximum(hops - 1, 0), -1), jnp.where(reached, cost // OUTSIDE, 0))
