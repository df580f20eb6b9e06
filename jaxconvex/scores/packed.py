"""Graph convexity of a packed graph: all pairs, drawn pairs, or drawn sources; one labeling or several.

The static form runs under jit. Concrete arrays are scored on the host around the same search, in float64.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import sequential_vmap
from jaxtyping import Array, Int, PRNGKeyArray

from jaxconvex._internal.checks import positive_integer
from jaxconvex._internal.devices import in_mesh
from jaxconvex._internal.streams import streams
from jaxconvex.neighbors.knn import KNNGraph
from jaxconvex.paths.chains import is_long
from jaxconvex.paths.graph import Graph, PackedGraph, as_graph
from jaxconvex.paths.layout import SMALL, pack
from jaxconvex.paths.order import most_lanes, plan, plan_of_arrays
from jaxconvex.paths.pairs import Pairs, same_class_pairs
from jaxconvex.scores.aggregates import FEW, UNIT, ConvexityScore, PairSums, of_drawn_sources, summarise
from jaxconvex.scores.path_sums import fractions_of_sums, sum_blocks, sums_over_blocks

__all__ = [
    "EXACT",
    "check_packing",
    "check_sampling",
    "compile_ahead",
    "kind_of",
    "lanes_within",
    "packed_scores",
    "places_in_class",
    "sources_by_default",
]
__all__ += ["static_score"]

EXACT = 100_000  # points up to which all pairs are scored without being asked for
NORMAL = 1.96
PACKING = 132  # bytes that packing takes, at most, for an edge and direction of a graph: measured, twice what is kept


def packed_scores(
    packed: PackedGraph,
    labelings: Sequence[Int[np.ndarray, " n"]],
    num_classes: Sequence[int],
    *,
    max_pairs: int | None = None,
    max_sources: int | None = None,
    tolerance: float | None = None,
    key: PRNGKeyArray | None = None,
    devices: Sequence[Any] | None = None,
    memory: float | None = None,
) -> list[ConvexityScore]:
    """The scores of several labelings of one graph, from one search of its paths: arrays of NumPy, in float64.

    Arguments as for `graph_convexity`.
    """
    points = max(int(np.sum(labels >= 0)) for labels in labelings)
    if max_pairs is None and tolerance is None:
        max_sources = sources_by_default(points, max_sources)
    sampled = max_sources is not None or tolerance is not None
    drawn = None if not sampled else (max_sources or points) * sum(num_classes)
    lanes = lanes_within(packed, len(labelings), memory, drawn)
    options: Any = {"num_classes": max(num_classes), "lanes": lanes}

    def search(labelings: Sequence[np.ndarray], sources: Any = None, pairs: Pairs | None = None) -> list[PairSums]:
        order, asked = plan_of_arrays(packed, np.stack(labelings).astype(np.int32), sources, pairs, **options)
        return sums_over_blocks(packed, order, asked, devices=devices, **options)

    if sampled:
        found = _from_sources(search, labelings, num_classes, max_sources, tolerance, key)
    elif max_pairs is not None:
        found = [
            _from_pairs(search, labels, classes, max_pairs, key)
            for labels, classes in zip(labelings, num_classes, strict=True)
        ]
    else:
        found = [
            summarise(each, labels, classes, ordered=True, complete=np.ones(classes, bool), xp=np, unit=UNIT)
            for each, labels, classes in zip(search(labelings), labelings, num_classes, strict=True)
        ]
    if np.isnan(packed.quantum):
        found = [jax.tree.map(lambda f: np.full_like(f, np.nan) if f.dtype.kind == "f" else f, each) for each in found]
    return found


def static_score(
    graph: KNNGraph | Graph | PackedGraph,
    labels: Int[Array, " n"],
    *,
    num_classes: int,
    max_pairs: int | None,
    max_sources: int | None,
    key: PRNGKeyArray | None,
) -> ConvexityScore:
    """The score of one labeling, of static size: under jit, and under vmap one graph after the other."""
    graph = jax.tree.map(jax.lax.stop_gradient, graph)
    return _static_form(num_classes, max_pairs, max_sources)(graph, labels, key)


@cache
def _static_form(num_classes: int, max_pairs: int | None, max_sources: int | None) -> Any:
    @jax.jit
    @in_mesh
    @sequential_vmap
    def score(graph: KNNGraph | Graph | PackedGraph, labels: Array, key: Any) -> ConvexityScore:
        packed, n = graph if isinstance(graph, PackedGraph) else pack(graph), len(labels)
        sizes = jnp.bincount(labels + 1, length=num_classes + 1)[1:]
        sources = pairs = None
        if max_sources is not None:
            sources = (places_in_class(labels, jax.random.fold_in(key, 0), num_classes) < max_sources)[None]
        if max_pairs is not None:
            pairs = same_class_pairs(labels, num_classes=num_classes, max_pairs=max_pairs, key=key)
        lanes = most_lanes(n, drawn=max_sources is not None)
        order, asked = plan(packed, labels[None], sources, pairs, num_classes=num_classes, lanes=lanes)
        blocks = -(-order.number // lanes)
        sums, _ = sum_blocks(packed, order, asked, 0, blocks, num_classes=num_classes, lanes=lanes)
        own = jax.tree.map(lambda total: total[0, packed.position], sums)
        fractions = fractions_of_sums(own, packed.quantum.dtype)
        if max_sources is not None:
            found = of_drawn_sources(fractions, labels, jnp.minimum(sizes, max_sources), num_classes, xp=jnp)
        else:
            limit = n * n if pairs is None else pairs.valid.shape[1]
            complete = sizes.astype(float) * (sizes - 1).astype(float) / 2 <= limit
            found = summarise(fractions, labels, num_classes, ordered=True, complete=complete, xp=jnp)
        broken = jnp.isnan(packed.quantum)
        return ConvexityScore(*(jnp.where(broken, jnp.nan, f) if f.dtype.kind == "f" else f for f in found))

    return score


def places_in_class(labels: Int[Array, " n"], key: PRNGKeyArray, num_classes: int) -> Int[Array, " n"]:
    """The place of each point among those of its class, in a random order that does not depend on how many are drawn."""
    n = len(labels)
    shuffled = jax.random.permutation(key, n)
    turn = shuffled[jnp.argsort(labels[shuffled], stable=True)]
    sizes = jnp.bincount(labels + 1, length=num_classes + 1)
    begins = jnp.cumsum(sizes) - sizes
    return jnp.zeros(n, jnp.int32).at[turn].set((jnp.arange(n) - begins[labels[turn] + 1]).astype(jnp.int32))


@cache
def compile_ahead(kind: type, parts: tuple[Any, ...], labelings: int, num_classes: int, sampled: bool) -> None:
    """Compile the search for graphs of a kind before there is one: it depends on the shapes and types of parts alone.

    The first time it takes as long as all other compiling together, so it should go on beside that.
    """
    packed = _zeros_like(jax.eval_shape(pack, kind(*(jax.ShapeDtypeStruct(*part) for part in parts))))
    n = len(packed.position)
    if n >= SMALL:  # the layout depends on values there
        return
    labels = np.zeros((labelings, n), np.int32)
    options: Any = {"num_classes": num_classes, "lanes": most_lanes(n, sampled)}
    sources = np.zeros((labelings, n), bool) if sampled else None
    order, asked = _zeros_like(jax.eval_shape(partial(plan, **options), packed, labels, sources))
    sums_over_blocks(packed._replace(quantum=np.ones_like(packed.quantum)), order, asked, ahead=True, **options)


def kind_of(graph: KNNGraph | Graph) -> tuple[type, tuple[Any, ...]]:
    """What `compile_ahead` wants to know of a graph."""
    return type(graph), tuple((part.shape, np.dtype(part.dtype)) for part in graph)


def _zeros_like(shapes: Any) -> Any:
    return jax.tree.map(lambda part: np.zeros(part.shape, part.dtype), shapes)  # of JAX's, each shape is compiled


def check_packing(graph: KNNGraph | Graph, memory: float | None) -> None:
    """Raise ValueError if packing the graph would take more bytes than `memory`."""
    if memory is None:
        return
    edges = 2 * np.size(graph.indices) if isinstance(graph, KNNGraph) else np.size(as_graph(graph).lengths)
    needed = PACKING * edges
    if needed > memory:
        raise ValueError(
            f"laying out a graph of up to {edges} edges takes up to {needed / 1e9:.2f} GB; memory={memory:g} allows "
            f"{memory / 1e9:.2f} GB. Allow more, or take fewer points or neighbours; or pack the graph before."
        )


def lanes_within(packed: PackedGraph, labelings: int, memory: float | None, drawn: int | None = None) -> int:
    """How many sources a block may have so that all blocks at work together take no more bytes than `memory`.

    `drawn`: of how many sources, at most, if they are drawn.

    Raises:
        ValueError: not even the smallest blocks fit.
    """
    points = len(packed.position)
    most = most_lanes(points, drawn is not None)
    if memory is None:
        return most
    rows, (edge_bytes, lane_bytes) = packed.first.size, (0, 2 * 4 + 2)  # distances and links, marks of the targets
    if is_long(packed):  # two copies of the edges; distances, costs and excess of 8 bytes, order, counts
        edge_bytes, lane_bytes = 2 * 12, 40 + 12 * labelings
    # Sums, and what the sources of a tie take.
    fixed = 4 * (8 * labelings + 3 * 16 * (1 + labelings)) * rows + edge_bytes * packed.lengths.size
    held = sum(part.nbytes for part in jax.tree.leaves(packed))

    def needed(lanes: int) -> int:
        blocks = min(streams(), -(-min(points, drawn or points) // lanes))
        return held + (fixed + lanes * lane_bytes * rows) * blocks

    for lanes in (most, most // 2, most // 4, 16):
        if needed(lanes) <= memory:
            return lanes
    least = needed(16)
    raise ValueError(
        f"the paths need at least {least / 1e9:.2f} GB: the graph takes {held / 1e9:.2f} GB and "
        f"blocks of 16 sources the rest; memory={memory:g} allows {memory / 1e9:.2f} GB. Allow more, or take fewer points."
    )


def check_sampling(max_pairs: int | None, max_sources: int | None, tolerance: float | None) -> None:
    """Raise ValueError for numbers that cannot be, and for two ways of sampling at once."""
    for value, name in ((max_pairs, "max_pairs"), (max_sources, "max_sources")):
        if value is not None:
            positive_integer(value, name)
    if tolerance is not None and not 0 < tolerance < 1:
        raise ValueError(f"tolerance must lie between 0 and 1, as scores do; got {tolerance}.")
    if max_pairs is not None and (max_sources is not None or tolerance is not None):
        raise ValueError("max_pairs draws pairs, max_sources and tolerance draw sources: name one way of sampling.")


def sources_by_default(points: int, max_sources: int | None) -> int | None:
    """The sources to draw of each class: what was asked for, or few where there are many points, with a warning."""
    if max_sources is not None or points <= EXACT:
        return max_sources
    warnings.warn(
        f"{points} points: scored from {FEW} random points of each class and all their partners; se_sources tells the "
        f"error of that. Choose max_sources or tolerance, or max_sources={points} for all pairs.",
        stacklevel=3,
    )
    return FEW


def _from_pairs(
    search: Any, labels: np.ndarray, num_classes: int, max_pairs: int, key: PRNGKeyArray | None
) -> ConvexityScore:
    sizes = np.bincount(labels[labels >= 0], minlength=num_classes)
    drawn = sizes * (sizes - 1) // 2 > max_pairs
    pairs = None
    if drawn.any():
        pairs = same_class_pairs(jnp.asarray(labels), num_classes=num_classes, max_pairs=max_pairs, key=key)
    sums = search([labels], pairs=pairs)[0]
    return summarise(sums, labels, num_classes, ordered=True, complete=~drawn, xp=np, unit=UNIT)


def _from_sources(
    search: Any,
    labelings: Sequence[np.ndarray],
    num_classes: Sequence[int],
    max_sources: int | None,
    tolerance: float | None,
    key: PRNGKeyArray | None,
) -> list[ConvexityScore]:
    """Sources drawn in a random order that does not depend on their number, so that more of them go on from fewer."""
    n = len(labelings[0])
    key = jax.random.key(0) if key is None else key  # sources by default
    places = [
        np.asarray(places_in_class(jnp.asarray(labels), jax.random.fold_in(key, i), classes))
        for i, (labels, classes) in enumerate(zip(labelings, num_classes, strict=True))
    ]
    sizes = [
        np.bincount(labels[labels >= 0], minlength=classes)
        for labels, classes in zip(labelings, num_classes, strict=True)
    ]
    most = n if max_sources is None else max_sources
    quota = [np.full(classes, most if tolerance is None else min(FEW, most)) for classes in num_classes]
    done = [np.zeros(classes, np.int64) for classes in num_classes]
    totals = [PairSums(*np.zeros((len(PairSums._fields), n))) for _ in labelings]
    while True:
        drawn = np.stack(
            [
                (labels >= 0) & (place >= before[labels]) & (place < after[labels])
                for labels, place, before, after in zip(labelings, places, done, quota, strict=True)
            ]
        )
        more = search(labelings, sources=drawn)
        totals = [
            PairSums(*(a + b for a, b in zip(old, new, strict=True))) for old, new in zip(totals, more, strict=True)
        ]
        done = [np.minimum(enough, size) for enough, size in zip(quota, sizes, strict=True)]
        scores = [
            of_drawn_sources(sums, labels, count, classes, xp=np, unit=UNIT)
            for sums, labels, count, classes in zip(totals, labelings, done, num_classes, strict=True)
        ]
        if tolerance is None:
            return scores
        for i, score in enumerate(scores):
            quota[i] = _enough(score, done[i], tolerance, most)
        if all(np.array_equal(np.minimum(quota[i], score.num_points), done[i]) for i, score in enumerate(scores)):
            return scores


def _enough(score: ConvexityScore, done: np.ndarray, tolerance: float, most: int) -> np.ndarray:
    """How many sources each class needs, approximately, for an interval no wider than twice the tolerance.

    At most twice as many as before, since the least spread that errors assume falls with their number.
    """
    size = np.maximum(score.num_points, 1)
    left = np.where(done < size, 1 - done / size, 1)
    spread = np.where(done < size, score.se_sources / np.sqrt(left), 0) * np.sqrt(done)  # of the means of the points
    wanted = (NORMAL * np.nan_to_num(spread) / tolerance) ** 2
    wanted = np.ceil(wanted / (1 + wanted / size))  # few points left make the sample better than its size
    short = NORMAL * np.nan_to_num(score.se_sources) > tolerance
    wanted = np.clip(wanted, done + 16, np.maximum(2 * done, done + 16))
    return np.where(short, np.minimum(wanted, most), done).astype(np.int64)
