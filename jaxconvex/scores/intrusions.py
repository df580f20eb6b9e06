"""Why the region of a class is not convex: which classes and which points lie inside its paths, and where it is torn."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import sequential_vmap
from jaxtyping import Array, Float, Int, PyTree

from jaxconvex._internal.checks import as_labels, is_concrete, known_values, positive_integer, shared_length
from jaxconvex._internal.devices import in_mesh, outside_meshes
from jaxconvex.neighbors.knn import KNNGraph
from jaxconvex.paths.graph import Graph, PackedGraph, as_graph
from jaxconvex.paths.layout import components_of, pack
from jaxconvex.paths.order import labels_of_rows, most_lanes, plan
from jaxconvex.paths.search import rows_of
from jaxconvex.scores.aggregates import UNIT, PairSums, by_class, or_nan
from jaxconvex.scores.euclidean import euclidean_segments
from jaxconvex.scores.loads import Loads, fraction_of_load
from jaxconvex.scores.path_sums import compiled, fractions_of_sums, loads_over_blocks, sum_blocks

__all__ = ["Intrusions", "SegmentIntrusions", "euclidean_intrusions", "graph_intrusions"]


class Intrusions(NamedTuple):
    """What the score of each class is lost to. With score the graph convexity of class a,
    1 - score[a] = disconnected[a] + the sum over b of by_class[a, b].
    """

    by_class: Float[Any, "c b"]  # the share of the way between points of class a that lies in class b; last: background
    of_points: Float[Any, " n"]  # what other classes lose to each point; over the points of b: the column of b, summed
    point_scores: Float[Any, " n"]  # the mean score of each point with its partners; nan without partners
    disconnected: Float[Any, " c"]  # share of pairs without a path
    num_pieces: Int[Any, " c"]  # into which the class falls if only edges between its own points count
    piece_of: Int[Any, " n"]  # the piece of each point, 0 for the largest of its class; -1 for background
    piece_sizes: Int[Any, " n"]  # points in that piece


class SegmentIntrusions(NamedTuple):
    """What the Euclidean score of each class is lost to: 1 - score[a] = the sum over b of by_class[a, b].

    The last class stands for all columns of the logits beyond num_classes.
    """

    by_class: Float[
        Any, "c b"
    ]  # the share of the segments of class a that the network assigns to class b; 0 for a itself
    point_scores: Float[Any, " n"]  # the mean score of each point with its partners; nan without partners
    along: Float[Any, "c b m"]  # the share of pairs that are in b at t = i / (m + 1), a itself too; both directions


def graph_intrusions(
    graph: KNNGraph | Graph | PackedGraph, labels: Int[Array, " n"], *, num_classes: int
) -> Intrusions:
    """Which classes and which points lie inside the shortest paths between the points of each class: `Intrusions`.

    by_class[a, b] is the mean, over the pairs of class a, of the share of the points inside their path that belong to class
    b; of_points is, for each point, the sum over pairs of other classes whose path it lies inside, of 1 / (points inside) /
    (pairs of that class).

    Args:
        graph: a nearest-neighbour graph (symmetrised by union), a graph, or a packed graph.
        labels: the class of each point, 0 to num_classes - 1; -1 is background.
        num_classes: number of classes, static.

    Paths are those of `graph_convexity`, over all pairs. Where its rule leaves several equal, the one through the lowest
    rows counts: the least sum of (row + 1)^(3/4) over the points inside. Only the split among intruders depends on that,
    never the score. Of equally large pieces that with the lowest row comes first.

    Runs under jit, and under vmap one graph after the other. Sums are float64 on concrete arrays, and of the type of the
    lengths under jit. A class of fewer than two points has rows of nan. An edge of length nan makes everything nan.

    Raises:
        ValueError: labels that are no integers, or lie outside -1..num_classes - 1 (under jit: nan); lengths that differ.

    Cost: that of `graph_convexity` for all pairs and a second walk along the paths; more on graphs of very long paths,
    which are searched here as under jit.

    >>> from jaxconvex import knn_graph
    >>> x = jnp.array([[0.0], [1.0], [2.1], [3.3]])
    >>> found = graph_intrusions(knn_graph(x, k=1), jnp.array([0, 1, 0, 0]), num_classes=2)
    >>> found.by_class[0].tolist(), found.of_points.tolist(), found.num_pieces.tolist()
    ([0.0, 0.5, 0.0], [0.0, 0.5, 0.0, 0.0], [2, 1])
    """
    positive_integer(num_classes, "num_classes")
    if is_concrete(graph, labels):
        with outside_meshes(), known_values():
            packed = graph if isinstance(graph, PackedGraph) else pack(graph)
            n = len(packed.position)
            codes = np.asarray(as_labels(labels, n, num_classes))
            options: Any = {"num_classes": num_classes, "lanes": most_lanes(n)}
            order, asked = plan(packed, codes[None].astype(np.int32), **options)
            sums, loads = loads_over_blocks(packed, order, asked, **options)
            pieces = tuple(map(np.asarray, compiled(_pieces, "num_classes")(packed, codes, num_classes=num_classes)))
            found = _summarised(sums, loads, pieces, codes, num_classes, xp=np, unit=UNIT)
            dtype, broken = packed.quantum.dtype, bool(np.isnan(packed.quantum))
            with jax.debug_nans(False):
                return Intrusions(*(jnp.asarray(part) for part in _typed(found, broken, dtype, np)))
    points = {KNNGraph: "indices", Graph: "degrees", PackedGraph: "position"}.get(type(graph))
    n = len(getattr(graph, points)) if points else len(as_graph(graph).degrees)  # which refuses what is no graph
    graph = jax.tree.map(jax.lax.stop_gradient, graph)
    return _static_form(num_classes)(graph, as_labels(labels, n, num_classes))


@cache
def _static_form(num_classes: int) -> Any:
    @jax.jit
    @in_mesh
    @sequential_vmap
    def intrusions(graph: KNNGraph | Graph | PackedGraph, labels: Array) -> Intrusions:
        packed = graph if isinstance(graph, PackedGraph) else pack(graph)
        options: Any = {"num_classes": num_classes, "lanes": most_lanes(len(labels))}
        order, asked = plan(packed, labels[None], **options)
        blocks = -(-order.number // options["lanes"])
        summed: tuple[PairSums, Any] = sum_blocks(packed, order, asked, 0, blocks, intruders=True, **options)
        sums, loads = summed
        own = fractions_of_sums(jax.tree.map(lambda total: total[0, packed.position], sums), packed.quantum.dtype)
        of_rows, of_classes = (fraction_of_load(part, packed.quantum.dtype) for part in loads)
        pieces = _pieces(packed, labels, num_classes=num_classes)
        loads = Loads(of_rows[packed.position], of_classes)
        found = _summarised(own, loads, pieces, labels, num_classes, xp=jnp, unit=1)
        broken = jnp.isnan(packed.quantum) | jnp.any((labels < -1) | (labels >= num_classes))
        return _typed(found, broken, packed.quantum.dtype, jnp)

    return intrusions


def _summarised(
    sums: PairSums, loads: Loads, pieces: Any, labels: Any, num_classes: int, *, xp: Any, unit: int
) -> Intrusions:
    real = sums.deficit.dtype
    pairs = by_class(xp, sums.partners, labels, num_classes)
    apart = by_class(xp, sums.disconnected, labels, num_classes).astype(real)
    return Intrusions(
        xp.where((pairs > 0)[:, None], loads.by_class, xp.nan),
        loads.of_rows,
        1 - sums.deficit / unit / or_nan(xp, sums.partners, real),
        apart / or_nan(xp, pairs, real),
        *pieces,
    )


def _typed(found: Intrusions, broken: Any, dtype: Any, xp: Any) -> Intrusions:
    return Intrusions(
        *(xp.where(broken, xp.nan, part).astype(dtype) if part.dtype.kind == "f" else part for part in found)
    )


def _pieces(packed: PackedGraph, labels: Int[Array, " n"], *, num_classes: int) -> tuple[Array, Array, Array]:
    """How many pieces each class falls into, and of each point the number of its piece and its size."""
    n = len(labels)
    roots = components_of(packed, labels_of_rows(packed, labels))
    lowest = jnp.full(len(roots), n, jnp.int32).at[rows_of(roots, packed.position)].min(jnp.arange(n, dtype=jnp.int32))
    first = lowest[roots[packed.position]]  # the lowest point of each point's piece
    sizes = jnp.zeros(n, jnp.int32).at[first].add(1)
    own = jnp.where(labels < 0, num_classes, labels)
    begins = first == jnp.arange(n)
    order = jnp.lexsort((jnp.arange(n), -sizes, ~begins, own))  # the pieces of a class, largest first
    number = jnp.zeros(num_classes + 1, jnp.int32).at[own].add(begins.astype(jnp.int32))[:num_classes]
    points = jnp.bincount(own, length=num_classes + 1)
    place = jnp.zeros(n, jnp.int32).at[order].set(jnp.arange(n, dtype=jnp.int32))
    place -= (jnp.cumsum(points) - points)[own].astype(jnp.int32)
    known = labels >= 0
    return number, jnp.where(known, place[first], -1), jnp.where(known, sizes[first], 0)


def euclidean_intrusions(
    predict_fn: Callable[[Any], Array],
    x: PyTree[Float[Array, "n ..."]],
    labels: Int[Array, " n"],
    *,
    num_classes: int,
    **options: Any,
) -> SegmentIntrusions:
    """Which classes the rest of a network assigns to the points between the points of each class: `SegmentIntrusions`.

    Args:
        predict_fn, x, labels, num_classes: as for `euclidean_convexity`.
        options: num_points, max_pairs, key, batch_size and mesh, as there; the same pairs are drawn with the same key.

    Runs under jit and vmap. A class without pairs has rows of nan, and so has one with a logit of nan.

    Raises:
        ValueError: as `euclidean_convexity`.

    Cost: that of `euclidean_convexity`, and a number for each point inside a segment.

    >>> x = jnp.array([[0.0], [1.0], [3.0], [4.0]])
    >>> middle = lambda h: jnp.concatenate([jnp.abs(h - 2) - 0.5, 0 * h], axis=1)  # class 0 is all but the middle
    >>> found = euclidean_intrusions(middle, x, jnp.array([0, 0, 0, 0]), num_classes=2, num_points=3)
    >>> [[round(float(share), 3) for share in part] for part in (found.by_class[0], found.along[0, 1])]
    [[0.0, 0.222, 0.0], [0.167, 0.333, 0.167]]
    """
    checked = as_labels(labels, shared_length(x), num_classes)
    segments = euclidean_segments(predict_fn, x, checked, num_classes=num_classes, assigned=True, **options)
    with jax.debug_nans(False):
        return _of_segments(segments, checked, num_classes)


@partial(jax.jit, static_argnames="num_classes")
def _of_segments(segments: Any, labels: Int[Array, " n"], num_classes: int) -> SegmentIntrusions:
    first, second, keep, shares, _, classes = segments
    own, weight = labels[first], jnp.where(keep, jnp.where(jnp.isnan(shares), jnp.nan, 1), 0).astype(shares.dtype)
    pairs = jnp.zeros(num_classes, shares.dtype).at[own].add(keep)
    place = own[:, None], jnp.minimum(classes, num_classes), jnp.arange(classes.shape[1])
    along = jnp.zeros((num_classes, num_classes + 1, classes.shape[1]), shares.dtype).at[place].add(weight[:, None])
    broken = jnp.isnan(jnp.zeros(num_classes).at[own].add(weight)) | jnp.any((labels < -1) | (labels >= num_classes))
    along = (along + along[..., ::-1]) / (2 * jnp.where((pairs > 0) & ~broken, pairs, jnp.nan))[:, None, None]
    others = jnp.arange(num_classes)[:, None] != jnp.arange(num_classes + 1)
    by_class = jnp.where(others, along.mean(axis=2), 0 * along[:, :1, 0])

    def at_both(values: Array) -> Array:
        return jnp.zeros(len(labels), shares.dtype).at[first].add(values).at[second].add(values)

    partners = at_both(keep.astype(shares.dtype))
    scores = at_both(jnp.where(keep, shares, 0)) / jnp.where(partners > 0, partners, jnp.nan)
    return SegmentIntrusions(by_class, scores, along)
