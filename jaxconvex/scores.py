"""Graph convexity of classes; Euclidean convexity stands in `segments`."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array, Int, PRNGKeyArray

from jaxconvex.aggregates import (
    ConvexityScore,
    PairSums,
    deficit_of,
    fraction_of,
    of_drawn_sources,
    sum_pairs,
    summarise,
)
from jaxconvex.checks import as_labels, is_concrete
from jaxconvex.engine.blocks import blocks_of_classes, check_packing, schedule
from jaxconvex.engine.engines import columns_of_blocks
from jaxconvex.engine.packed_scores import check_sampling, packed_graph_convexity
from jaxconvex.graphs import Graph, PackedGraph, as_graph, pack
from jaxconvex.neighbors import KNNGraph
from jaxconvex.pairs import Pairs, same_class_pairs
from jaxconvex.paths import edge_path_counts, sources_per_block
from jaxconvex.segments import euclidean_convexity

__all__ = ["ConvexityScore", "euclidean_convexity", "graph_convexity", "graph_pair_scores"]


def graph_convexity(
    graph: KNNGraph | Graph | PackedGraph,
    labels: Int[Array, " n"],
    *,
    num_classes: int,
    max_pairs: int | None = None,
    max_sources: int | None = None,
    tolerance: float | None = None,
    key: PRNGKeyArray | None = None,
    mesh: Mesh | None = None,
    memory: float | None = None,
) -> ConvexityScore:
    """Graph convexity of each class: the mean, over its pairs, of the share of the path between them that is inside.

    A pair scores 1 if it is adjacent, 0 if there is no path, and otherwise the share of the points strictly inside their
    shortest path that belong to the class. Of equally short paths the one with the fewest points outside counts. Where
    lengths are no distances and an edge is longer than another way between its ends, that way is the shortest path.

    Args:
        graph: a nearest-neighbour graph (symmetrised by union), a graph, or a packed graph.
        labels: the class of each point, 0 to num_classes - 1; -1 is background, which shapes the graph but has no class.
        num_classes: number of classes, static.
        max_pairs: score only this many pairs of a class, drawn with the key (the paper: 5,000). By default all pairs.
        max_sources: score only the pairs of so many random points of a class with all others. The cost is in sources, not in
            pairs, so this tells more for the same time; `se_sources` is its error. Above 100,000 points 64 by default.
        tolerance: draw sources until the 95% interval of every class is at most this wide to either side.
        key: a JAX random key, for max_pairs, max_sources and tolerance.
        mesh: devices over which the blocks of sources are spread; the graph is copied to each. The result is the same
            to the last bit. Every process of a cluster makes the same call and gets the whole result.
        memory: bytes that arrays may take beyond the graph given: its packed form, the work of packing, and the blocks at
            work, on each device, which are cut to fit. What JAX takes to compile, in the first call of a process, is no
            part of it.

    On concrete arrays the graph is packed (pack it yourself to score several labelings) and solved by a fast engine.
    Under jit and vmap a slower form of static size runs, with the same result. The gradient is zero: the score is
    piecewise constant. An edge of length nan makes every score nan.

    Raises:
        ValueError: labels that are no integers, or lie outside -1..num_classes - 1 (under jit: nan); lengths that differ;
            max_pairs together with max_sources or tolerance; a key missing; a graph that does not fit the memory; under jit,
            a tolerance, a mesh or a memory.

    Cost: for all pairs about 4 n passes over the edges, in vectors of sources; memory of some blocks of 128 sources.

    >>> from jaxconvex import knn_graph
    >>> x = jnp.array([[0.0], [1.0], [2.1], [3.3]])
    >>> score = graph_convexity(knn_graph(x, k=1), jnp.array([0, 1, 0, 0]), num_classes=2)
    >>> score.per_class.tolist(), score.num_pairs.tolist()
    ([0.5, nan], [3, 0])

    Source: Tětková et al., "On convex decision regions in deep network representations", 2025, Definition 3.
    """
    check_sampling(max_pairs, max_sources, tolerance)
    if (max_sources is not None or tolerance is not None) and key is None:
        raise ValueError("sources are drawn at random: pass key=jax.random.key(0).")
    if is_concrete(graph, labels, key):
        with jax.ensure_compile_time_eval():  # all may be constants inside jit
            if not isinstance(graph, PackedGraph):
                check_packing(graph, memory)
            packed = graph if isinstance(graph, PackedGraph) else pack(graph)
            codes = np.asarray(as_labels(labels, packed.position.shape[0], num_classes))
            score = packed_graph_convexity(
                packed,
                codes,
                num_classes=num_classes,
                max_pairs=max_pairs,
                max_sources=max_sources,
                tolerance=tolerance,
                key=key,
                devices=None if mesh is None else list(mesh.devices.flat),
                memory=memory,
            )
            dtype = packed.edges.lengths.dtype
            return ConvexityScore(*(jnp.asarray(f, dtype if f.dtype.kind == "f" else jnp.int32) for f in score))
    if tolerance is not None or mesh is not None or memory is not None:
        raise ValueError(
            "tolerance, mesh and memory need concrete arrays: how many sources are enough depends on values, and blocks are "
            "dealt out on the host. Under jit pass max_sources, and shard with jax.jit's own means."
        )
    edges = as_graph(graph)
    checked = as_labels(labels, edges.degrees.shape[0], num_classes)
    pairs = None
    if max_pairs is not None:
        pairs = same_class_pairs(checked, num_classes=num_classes, max_pairs=max_pairs, key=key)
    score = _static_graph_convexity(edges, checked, num_classes, pairs, max_sources, key)
    broken = jnp.any((checked < -1) | (checked >= num_classes))
    return score._replace(per_class=jnp.where(broken, jnp.nan, score.per_class))


def graph_pair_scores(
    graph: KNNGraph | Graph | PackedGraph, labels: Int[Array, " n"], *, num_classes: int
) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """For each class its points and the score of every pair of them: (members [m], scores [m m]), nan on the diagonal.

    On the host, in NumPy; it needs 8 bytes for every pair. Arguments as for `graph_convexity`.

    >>> from jaxconvex import knn_graph
    >>> x = jnp.array([[0.0], [1.0], [2.1], [3.3]])
    >>> members, scores = graph_pair_scores(knn_graph(x, k=1), jnp.array([0, 1, 0, 0]), num_classes=1 + 1)[0]
    >>> members.tolist(), scores[0].tolist()
    ([0, 2, 3], [nan, 0.0, 0.5])
    """
    packed = graph if isinstance(graph, PackedGraph) else pack(graph)
    n = packed.position.shape[0]
    codes = np.asarray(as_labels(labels, n, num_classes))
    members = [np.flatnonzero(codes == c) for c in range(num_classes)]
    scores = [np.full((len(points), len(points)), np.nan) for points in members]
    place = np.zeros(n, np.int64)  # of each point within its class
    for points in members:
        place[points] = np.arange(len(points))
    for block, counts in columns_of_blocks(packed, codes, blocks_of_classes([codes], schedule(packed, [codes]))):
        t, s = np.nonzero(block.wanted[0])
        values = 1 - np.asarray(deficit_of(counts))[t, s]
        targets, sources = block.targets[t], block.sources[s]
        for c in np.unique(codes[sources]):
            own = codes[sources] == c
            i, j = place[targets[own]], place[sources[own]]
            scores[c][i, j] = scores[c][j, i] = np.nan if np.isnan(packed.quantum) else values[own]
    return tuple(zip(members, scores, strict=True))


def _static_graph_convexity(
    edges: Graph, labels: Array, num_classes: int, pairs: Pairs | None, max_sources: int | None, key: Any
) -> ConvexityScore:
    """Graph convexity of static size, a block of sources at a time."""
    n = labels.shape[0]
    nodes = jnp.arange(n, dtype=jnp.int32)
    sizes = jnp.bincount(labels + 1, length=num_classes + 1)[1:]
    sources = nodes if max_sources is None else _drawn_sources(labels, sizes, num_classes, max_sources, key)
    size = min(sources_per_block(n), len(sources))
    blocks = jnp.pad(sources, (0, -len(sources) % size), constant_values=n).reshape(-1, size)
    targets = jnp.broadcast_to(nodes[:, None], (n, size))

    def some(block: Array) -> PairSums:
        sources = jnp.minimum(block, n - 1)
        counts = edge_path_counts(edges, labels, sources, targets)
        wanted = (
            (labels[:, None] == labels[sources]) & (labels[sources] >= 0) & (nodes[:, None] != sources) & (block < n)
        )
        if pairs is not None:
            column = jnp.where(pairs.valid & (pairs.first >= block[0]), pairs.first - block[0], size)
            drawn = jnp.zeros((n, size), bool).at[pairs.second, column].set(True, mode="drop")
            column = jnp.where(pairs.valid & (pairs.second >= block[0]), pairs.second - block[0], size)
            wanted &= drawn.at[pairs.first, column].set(True, mode="drop")
        return sum_pairs(counts, wanted, edges.lengths.dtype)

    found = lax.map(some, blocks)
    sums = jax.tree.map(lambda s: jnp.zeros(n, s.dtype).at[blocks.ravel()].set(s.ravel(), mode="drop"), found)
    sums = sums._replace(deficit=fraction_of(sums.deficit, edges.lengths.dtype))
    if max_sources is None:
        limit = n * n if pairs is None else pairs.valid.shape[1]
        complete = (sizes * (sizes - 1.0)) / 2 <= limit
        score = summarise(sums, labels, num_classes, ordered=True, complete=complete, xp=jnp)
    else:
        score = of_drawn_sources(sums, labels, jnp.minimum(sizes, max_sources), num_classes, xp=jnp)
    broken = jnp.any(jnp.isnan(edges.lengths))
    return ConvexityScore(*(jnp.where(broken, jnp.nan, f) if f.dtype.kind == "f" else f for f in score))


def _drawn_sources(labels: Array, sizes: Array, num_classes: int, max_sources: int, key: Any) -> Int[Array, " s"]:
    """So many random points of each class; the number of points where a class has fewer."""
    n = labels.shape[0]
    shuffled = jax.random.permutation(jax.random.fold_in(key, 0), n)
    by_class = shuffled[jnp.argsort(labels[shuffled], stable=True)]
    first = n - jnp.sum(sizes) + jnp.cumsum(sizes) - sizes  # background stands first
    entry = jnp.arange(min(max_sources, n))
    there = entry < sizes[:, None]
    return jnp.where(there, by_class[jnp.minimum(first[:, None] + entry, n - 1)], n).astype(jnp.int32).ravel()
