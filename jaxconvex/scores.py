"""Graph convexity of classes; Euclidean convexity stands in `segments`."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Int, PRNGKeyArray

from jaxconvex.aggregates import ConvexityScore, PairSums, deficit_of, sum_pairs, summarise
from jaxconvex.blocks import blocks_of_classes, blocks_of_pairs, schedule
from jaxconvex.checks import as_labels, is_concrete, positive_integer
from jaxconvex.engines import columns_of_blocks, sum_blocks
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
    key: PRNGKeyArray | None = None,
) -> ConvexityScore:
    """Graph convexity of each class: the mean, over its pairs, of the share of the path between them that is inside.

    A pair scores 1 if it is adjacent, 0 if there is no path, and otherwise the share of the points strictly inside their
    shortest path that belong to the class. Of equally short paths the one with the fewest points outside counts.

    Args:
        graph: a nearest-neighbour graph (symmetrised by union), a graph, or a packed graph.
        labels: the class of each point, 0 to num_classes - 1; -1 is background, which shapes the graph but has no class.
        num_classes: number of classes, static.
        max_pairs: score only this many pairs of a class, drawn with the key (the paper: 5,000). By default all pairs.
        key: a JAX random key, for max_pairs.

    On concrete arrays the graph is packed (pack it yourself to score several labelings) and solved by a fast engine.
    Under jit and vmap a slower form of static size runs, with the same result. The gradient is zero: the score is
    piecewise constant. An edge of length nan makes every score nan.

    Raises:
        ValueError: labels that are no integers, or lie outside -1..num_classes - 1 (under jit: nan); lengths that differ.

    Cost: about n^2 edges hops / 64 vector operations for all pairs; memory of some blocks of 64 sources.

    >>> from jaxconvex import knn_graph
    >>> x = jnp.array([[0.0], [1.0], [2.1], [3.3]])
    >>> score = graph_convexity(knn_graph(x, k=1), jnp.array([0, 1, 0, 0]), num_classes=2)
    >>> score.per_class.tolist(), score.num_pairs.tolist()
    ([0.5, nan], [3, 0])

    Source: Tětková et al., "On convex decision regions in deep network representations", 2025, Definition 3.
    """
    if max_pairs is not None:
        positive_integer(max_pairs, "max_pairs")
    if is_concrete(graph, labels, key):
        with jax.ensure_compile_time_eval():  # all may be constants inside jit
            packed = graph if isinstance(graph, PackedGraph) else pack(graph)
            codes = np.asarray(as_labels(labels, packed.position.shape[0], num_classes))
            score = packed_graph_convexity(packed, codes, num_classes=num_classes, max_pairs=max_pairs, key=key)
            dtype = packed.edges.lengths.dtype
            return ConvexityScore(*(jnp.asarray(f, dtype if f.dtype.kind == "f" else jnp.int32) for f in score))
    edges = as_graph(graph)
    checked = as_labels(labels, edges.degrees.shape[0], num_classes)
    pairs = None
    if max_pairs is not None:
        pairs = same_class_pairs(checked, num_classes=num_classes, max_pairs=max_pairs, key=key)
    score = _static_graph_convexity(edges, checked, num_classes, pairs)
    broken = jnp.any((checked < -1) | (checked >= num_classes))
    return score._replace(per_class=jnp.where(broken, jnp.nan, score.per_class))


def packed_graph_convexity(
    packed: PackedGraph,
    labels: np.ndarray,
    *,
    num_classes: int,
    max_pairs: int | None = None,
    key: PRNGKeyArray | None = None,
) -> ConvexityScore:
    """`graph_convexity` of a packed graph on the host, aggregated in float64: arrays of NumPy."""
    sizes = np.bincount(labels[labels >= 0], minlength=num_classes)
    drawn = np.zeros(num_classes, bool) if max_pairs is None else sizes * (sizes - 1) // 2 > max_pairs
    plan = schedule(packed, labels)
    if drawn.any():
        pairs = jax.tree.map(
            np.asarray, same_class_pairs(jnp.asarray(labels), num_classes=num_classes, max_pairs=max_pairs, key=key)
        )
        blocks = blocks_of_pairs(pairs.first[pairs.valid], pairs.second[pairs.valid], plan)
    else:
        blocks = blocks_of_classes([labels], plan)
    sums = sum_blocks(packed, [labels], blocks)[0]
    score = summarise(sums, labels, num_classes, ordered=True, complete=~drawn, xp=np)
    if np.isnan(packed.quantum):
        score = jax.tree.map(lambda f: np.full_like(f, np.nan) if f.dtype.kind == "f" else f, score)
    return score


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
    for block, counts in columns_of_blocks(packed, codes, blocks_of_classes([codes], schedule(packed, codes))):
        t, s = np.nonzero(block.wanted[0])
        values = 1 - np.asarray(deficit_of(counts))[t, s]
        targets, sources = block.targets[t], block.sources[s]
        for c in np.unique(codes[sources]):
            own = codes[sources] == c
            i, j = place[targets[own]], place[sources[own]]
            scores[c][i, j] = scores[c][j, i] = np.nan if np.isnan(packed.quantum) else values[own]
    return tuple(zip(members, scores, strict=True))


def _static_graph_convexity(edges: Graph, labels: Array, num_classes: int, pairs: Pairs | None) -> ConvexityScore:
    """Graph convexity of static size, a block of sources at a time."""
    n = labels.shape[0]
    size = min(sources_per_block(n), n)
    nodes = jnp.arange(n, dtype=jnp.int32)
    starts = jnp.arange(0, n, size, dtype=jnp.int32)
    targets = jnp.broadcast_to(nodes[:, None], (n, size))

    def some(start: Array) -> PairSums:
        sources = jnp.minimum(start + jnp.arange(size, dtype=jnp.int32), n - 1)
        counts = edge_path_counts(edges, labels, sources, targets)
        wanted = (labels[:, None] == labels[sources]) & (labels[sources] >= 0) & (nodes[:, None] != sources)
        if pairs is not None:
            column = jnp.where(pairs.valid & (pairs.first >= start), pairs.first - start, size)
            wanted &= jnp.zeros((n, size), bool).at[pairs.second, column].set(True, mode="drop")
        return sum_pairs(counts, wanted, edges.lengths.dtype)

    sums = jax.tree.map(lambda s: s.reshape(-1)[:n], lax.map(some, starts))
    limit = n * n if pairs is None else pairs.valid.shape[1]
    sizes = jnp.bincount(labels + 1, length=num_classes + 1)[1:]
    complete = (sizes * (sizes - 1.0)) / 2 <= limit
    score = summarise(sums, labels, num_classes, ordered=pairs is None, complete=complete, xp=jnp)
    broken = jnp.any(jnp.isnan(edges.lengths))
    return ConvexityScore(*(jnp.where(broken, jnp.nan, f) if f.dtype.kind == "f" else f for f in score))
