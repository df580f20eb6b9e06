"""Graph convexity of classes; Euclidean convexity stands in `segments`."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Int, PRNGKeyArray

from jaxconvex._internal.checks import as_labels, is_concrete, known_values, positive_integer
from jaxconvex._internal.devices import outside_meshes
from jaxconvex._internal.streams import in_background
from jaxconvex.neighbors.knn import KNNGraph
from jaxconvex.paths.graph import Graph, PackedGraph, as_graph
from jaxconvex.paths.layout import pack
from jaxconvex.paths.order import most_lanes, plan_of_arrays
from jaxconvex.scores.aggregates import ConvexityScore, deficit_of
from jaxconvex.scores.euclidean import euclidean_convexity
from jaxconvex.scores.packed import (
    check_packing,
    check_sampling,
    compile_ahead,
    kind_of,
    packed_scores,
    static_score,
)
from jaxconvex.scores.path_sums import counts_of_blocks

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
        tolerance: draw sources until the 95% interval of each class, approximately, is at most this wide to either side.
        key: a JAX random key, for max_pairs, max_sources and tolerance.
        mesh: devices over which the blocks of sources are spread; the graph is copied to each. The result is the same
            to the last bit. Every process of a cluster makes the same call and gets the whole result.
        memory: bytes that arrays may take beyond the graph given: its packed form, the work of packing, and the blocks at
            work, on each device, which are cut to fit. What JAX takes to compile, in the first call of a process, is no
            part of it.

    The graph is packed (pack it yourself to score several labelings) and searched a block of sources at a time. On concrete
    arrays blocks are shared out over cores and devices, and graphs of very long paths are searched on the host; under jit
    one program does all, and under vmap one graph after the other. The paths are the same, and sums of pairs are whole
    numbers; what is computed from these is float64 on concrete arrays and of the type of the lengths under jit. The
    gradient is zero: the score is piecewise constant. An edge of length nan makes every score nan.

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
    positive_integer(num_classes, "num_classes")
    if (max_sources is not None or tolerance is not None) and key is None:
        raise ValueError("sources are drawn at random: pass key=jax.random.key(0).")
    if is_concrete(graph, labels, key):
        with outside_meshes(), known_values():  # all may be constants inside jit
            if not isinstance(graph, PackedGraph):
                check_packing(graph, memory)
            packed = graph if isinstance(graph, PackedGraph) else _packed(graph, num_classes, max_sources, tolerance)
            codes = np.asarray(as_labels(labels, packed.position.shape[0], num_classes))
            (score,) = packed_scores(
                packed,
                [codes],
                [num_classes],
                max_pairs=max_pairs,
                max_sources=max_sources,
                tolerance=tolerance,
                key=key,
                devices=None if mesh is None else list(mesh.devices.flat),
                memory=memory,
            )
            dtype = packed.quantum.dtype
            with jax.debug_nans(False):  # the nan of an empty class is none to be found
                return ConvexityScore(*(jnp.asarray(f, dtype if f.dtype.kind == "f" else jnp.int32) for f in score))
    if tolerance is not None or mesh is not None or memory is not None:
        raise ValueError(
            "tolerance, mesh and memory need concrete arrays: how many sources are enough depends on values, and blocks are "
            "dealt out on the host. Under jit pass max_sources, and shard with jax.jit's own means."
        )
    points = {KNNGraph: "indices", Graph: "degrees", PackedGraph: "position"}.get(type(graph))
    n = len(getattr(graph, points)) if points else len(as_graph(graph).degrees)  # which refuses what is no graph
    checked = as_labels(labels, n, num_classes)
    score = static_score(graph, checked, num_classes=num_classes, max_pairs=max_pairs, max_sources=max_sources, key=key)
    broken = jnp.any((checked < -1) | (checked >= num_classes))
    return score._replace(per_class=jnp.where(broken, jnp.nan, score.per_class))


def _packed(graph: KNNGraph | Graph, num_classes: int, max_sources: int | None, tolerance: float | None) -> PackedGraph:
    """The packed graph; the first time the search is compiled beside the packing."""
    if not isinstance(graph, (KNNGraph, Graph)):
        return pack(graph)  # which refuses it
    sampled = max_sources is not None or tolerance is not None
    with in_background(compile_ahead, *kind_of(graph), 1, num_classes, sampled):
        return pack(graph)


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
    node, options = np.asarray(packed.order), dict[str, Any](num_classes=num_classes, lanes=most_lanes(n))
    order, asked = plan_of_arrays(packed, codes[None], **options)
    for block, counts, pairs in counts_of_blocks(packed, order, asked, **options):
        t, s = np.nonzero(pairs)
        values = 1 - np.asarray(deficit_of(counts))[t, s]
        targets, sources = node[t], node[block[s]]
        for c in np.unique(codes[sources]):
            own = codes[sources] == c
            i, j = place[targets[own]], place[sources[own]]
            scores[c][i, j] = scores[c][j, i] = np.nan if np.isnan(packed.quantum) else values[own]
    return tuple(zip(members, scores, strict=True))
