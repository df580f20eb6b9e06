"""Graph convexity of a packed graph on the host: all pairs, drawn pairs, or drawn sources; one labeling or several."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import islice
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int, PRNGKeyArray

from jaxconvex.aggregates import UNIT, ConvexityScore, PairSums, of_drawn_sources, summarise
from jaxconvex.checks import positive_integer
from jaxconvex.engine.blocks import blocks_of_classes, blocks_of_pairs, blocks_of_sources, schedule
from jaxconvex.engine.engines import sum_blocks
from jaxconvex.graphs import Graph, PackedGraph, pack
from jaxconvex.pairs import same_class_pairs

__all__ = ["check_sampling", "compile_ahead", "packed_graph_convexity", "packed_scores", "sources_by_default"]

EXACT = 100_000  # points up to which all pairs are scored without being asked for
FEW = 64  # sources of a class that are drawn beyond, and the least from which an error is estimated
NORMAL = 1.96


def packed_graph_convexity(
    packed: PackedGraph, labels: Int[np.ndarray, " n"], *, num_classes: int, **options: Any
) -> ConvexityScore:
    """`graph_convexity` of a packed graph, aggregated in float64: arrays of NumPy. Options as for `packed_scores`."""
    return packed_scores(packed, [labels], [num_classes], **options)[0]


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
    """The scores of several labelings of one graph, from one search of its paths. Arguments as for `graph_convexity`."""
    points = max(int(np.sum(labels >= 0)) for labels in labelings)
    if max_pairs is None and tolerance is None:
        max_sources = sources_by_default(points, max_sources)
    if max_pairs is not None:
        found = [
            _from_pairs(packed, labels, classes, max_pairs, key, devices, memory)
            for labels, classes in zip(labelings, num_classes, strict=True)
        ]
    elif max_sources is not None or tolerance is not None:
        found = _from_sources(packed, labelings, num_classes, max_sources, tolerance, key, devices, memory)
    else:
        plan = schedule(packed, labelings, memory=memory)
        sums = sum_blocks(packed, labelings, blocks_of_classes(labelings, plan), devices)
        found = [
            summarise(each, labels, classes, ordered=True, complete=np.ones(classes, bool), xp=np, unit=UNIT)
            for each, labels, classes in zip(sums, labelings, num_classes, strict=True)
        ]
    if np.isnan(packed.quantum):
        found = [jax.tree.map(lambda f: np.full_like(f, np.nan) if f.dtype.kind == "f" else f, each) for each in found]
    return found


def compile_ahead(num_points: int, k: int, labelings: Sequence[Int[np.ndarray, " n"]], dtype: Any) -> None:
    """Compile the path engine for graphs of k neighbours before there is one: it depends on their shape alone."""
    nowhere = np.zeros(2 * num_points * k, np.int32)
    no_edges = Graph(
        *map(jnp.asarray, (nowhere, nowhere, np.full(len(nowhere), np.inf, dtype), np.zeros(num_points, np.int32)))
    )
    packed = pack(no_edges)
    sum_blocks(packed, labelings, islice(blocks_of_classes(labelings, schedule(packed, labelings)), 1))


def check_sampling(max_pairs: int | None, max_sources: int | None, tolerance: float | None) -> None:
    """Raises ValueError for numbers that cannot be, and for two ways of sampling at once."""
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
    packed: PackedGraph,
    labels: np.ndarray,
    num_classes: int,
    max_pairs: int,
    key: Any,
    devices: Any,
    memory: float | None,
) -> ConvexityScore:
    sizes = np.bincount(labels[labels >= 0], minlength=num_classes)
    drawn = sizes * (sizes - 1) // 2 > max_pairs
    plan = schedule(packed, [labels], memory=memory)
    if drawn.any():
        pairs = same_class_pairs(jnp.asarray(labels), num_classes=num_classes, max_pairs=max_pairs, key=key)
        first, second, valid = map(np.asarray, pairs)
        blocks = blocks_of_pairs(first[valid], second[valid], plan)
    else:
        blocks = blocks_of_classes([labels], plan)
    sums = sum_blocks(packed, [labels], blocks, devices)[0]
    return summarise(sums, labels, num_classes, ordered=True, complete=~drawn, xp=np, unit=UNIT)


def _from_sources(
    packed: PackedGraph,
    labelings: Sequence[np.ndarray],
    num_classes: Sequence[int],
    max_sources: int | None,
    tolerance: float | None,
    key: Any,
    devices: Any,
    memory: float | None,
) -> list[ConvexityScore]:
    """Sources drawn in a random order that does not depend on their number, so that more of them go on from fewer."""
    n = len(labelings[0])
    key = jax.random.key(0) if key is None else key  # sources by default
    shuffled = [np.asarray(jax.random.permutation(jax.random.fold_in(key, i), n)) for i in range(len(labelings))]
    queues = []
    for labels, order, classes in zip(labelings, shuffled, num_classes, strict=True):
        own = labels[order]
        by_class = np.split(
            order[np.argsort(own, kind="stable")], np.cumsum(np.bincount(own + 1, minlength=classes + 1))[:-1]
        )
        queues.append(by_class[1:])
    most = n if max_sources is None else max_sources
    quota = [np.full(classes, most if tolerance is None else min(FEW, most)) for classes in num_classes]
    done = [np.zeros(classes, np.int64) for classes in num_classes]
    totals = [PairSums(*np.zeros((len(PairSums._fields), n))) for _ in labelings]
    while True:
        drawn = [
            np.concatenate([queue[c][done[i][c] : quota[i][c]] for c in range(num_classes[i])] or [np.zeros(0, int)])
            for i, queue in enumerate(queues)
        ]
        points = np.unique(np.concatenate(drawn))
        plan = schedule(packed, labelings, points, memory=memory)
        more = sum_blocks(packed, labelings, blocks_of_sources(labelings, drawn, plan), devices)
        totals = [
            PairSums(*(a + b for a, b in zip(old, new, strict=True))) for old, new in zip(totals, more, strict=True)
        ]
        done = [np.minimum(quota[i], [len(q) for q in queue]) for i, queue in enumerate(queues)]
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
    """How many sources each class needs for an interval no wider than twice the tolerance."""
    size = np.maximum(score.num_points, 1)
    left = np.where(done < size, 1 - done / size, 1)
    spread = np.where(done < size, score.se_sources / np.sqrt(left), 0) * np.sqrt(done)  # of the means of the points
    wanted = (NORMAL * np.nan_to_num(spread) / tolerance) ** 2
    wanted = np.ceil(wanted / (1 + wanted / size))  # few points left make the sample better than its size
    short = NORMAL * np.nan_to_num(score.se_sources) > tolerance
    return np.where(short, np.clip(np.maximum(wanted, done + 16), done, most), done).astype(np.int64)
