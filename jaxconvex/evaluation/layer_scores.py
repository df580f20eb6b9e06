"""One layer: from its features, or its activations and the rest of the network, to the rows of a report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray

from jaxconvex._internal.checks import as_points, local_values, one_of
from jaxconvex._internal.devices import outside_meshes
from jaxconvex._internal.streams import in_background
from jaxconvex.evaluation.labelings import AnyLabeling, Labeling, Memberships, exclusive, sizes, taken
from jaxconvex.evaluation.report import Row
from jaxconvex.evaluation.score_rows import Without, score_rows
from jaxconvex.evaluation.settings import Settings
from jaxconvex.neighbors.knn import KNNGraph, knn_graph
from jaxconvex.paths.graph import PackedGraph
from jaxconvex.paths.layout import pack
from jaxconvex.scores.aggregates import ConvexityScore, EuclideanScore
from jaxconvex.scores.concepts import concept_convexity
from jaxconvex.scores.euclidean import euclidean_segments, summarise_segments
from jaxconvex.scores.packed import check_packing, compile_ahead, packed_scores, places_in_class
from jaxconvex.statistics.concept_errors import concept_null
from jaxconvex.statistics.left_out import leave_group_out_graphs, spare_neighbors
from jaxconvex.statistics.measures import hubness, occurrences, random_label_score
from jaxconvex.statistics.permutation import permutation_null

__all__ = ["Sampled", "Seen", "Shared", "columns_of", "graph_rows", "pooled", "rows_of_equal_classes", "segment_rows"]


class Sampled(NamedTuple):
    """How the points were sampled: the part of each, which the jackknife leaves out whole, and its unit or group."""

    parts: Int[np.ndarray, " n"]
    units: Int[np.ndarray, " n"]


class Shared(NamedTuple):
    """What all layers of an evaluation share: the classes of the points, how these were sampled, and what is asked."""

    labelings: Mapping[str, AnyLabeling]
    sampled: Sampled
    settings: Settings
    key: PRNGKeyArray


class Seen(NamedTuple):
    """One graph that is scored: of which points, by which labelings."""

    points: Any  # [n d]
    labelings: Mapping[str, AnyLabeling]
    k: int
    nearest: KNNGraph
    packed: PackedGraph
    parts: Int[np.ndarray, " n"]  # of the jackknife
    taken: Int[np.ndarray, " n"] | None = None  # which of the points of the layer these are; None for all


def pooled(array: np.ndarray, pool: str | Callable[[Array], Array] | None) -> np.ndarray:
    """One vector a point: the first token ("cls"), the mean of all ("mean"), or what a function makes of them.

    >>> pooled(np.arange(12.0).reshape(2, 3, 2), "cls").tolist()
    [[0.0, 1.0], [6.0, 7.0]]
    """
    if callable(pool):
        made = np.asarray(pool(jnp.asarray(array)))
        if made.shape[:1] != array.shape[:1]:
            raise ValueError(f"pool must give one vector a point, ({len(array)}, d); it gives shape {made.shape}.")
        return made
    if array.ndim == 2 or pool is None:
        return array
    one_of(pool, ("cls", "mean"), "pool")
    tokens = array.reshape(len(array), -1, array.shape[-1])
    return tokens[:, 0] if pool == "cls" else tokens.mean(axis=1, dtype=np.result_type(array.dtype, np.float32))


@outside_meshes()
def graph_rows(
    features: np.ndarray, shared: Shared, name: str, see: Callable[[Seen], object] = lambda seen: None
) -> list[Row]:
    """The graph convexity of one layer, a vector a point, for each k and labeling; rows name no layer.

    `see` is called with each graph that is scored.
    """
    labelings, sampled, settings, _ = shared
    points = as_points(features, name)
    search: dict[str, Any] = {"mesh": settings.mesh, "memory": settings.memory}
    widest = max(settings.k)
    width = spare_neighbors(widest, len(points)) if settings.jackknife else min(widest + 1, len(points) - 1)
    with in_background(_compile_ahead, points, shared):
        knn = knn_graph(features, k=width, metric=settings.metric, **search)
    angles = None
    if settings.cosine and np.all(np.any(np.asarray(points) != 0, axis=1)):  # 0 has no direction
        angles = knn_graph(features, k=widest, metric="cosine", **search)
    rows: list[Row] = []
    for k in settings.k:
        beside = _scores(shared, _packed(settings, _nearest(angles, k))) if angles else {}
        nearest = _nearest(knn, k)
        packed = _packed(settings, nearest)
        see(Seen(points, labelings, k, nearest, packed, sampled.parts))
        without: dict[str, Without] = {labeling: ([], []) for labeling in labelings}
        for number, left_out in enumerate(_left_out(sampled, settings)):  # one group, or two
            for kept, graph in leave_group_out_graphs(knn, features, left_out, k=k, metric=settings.metric):
                for labeling, score in _scores(shared, _packed(settings, graph), kept).items():
                    without[labeling][number].append(score)
        hubs = {"hubness": hubness(nearest), "tied": _tied(knn, k), "hub": int(occurrences(nearest).max())}
        for labeling, score in _scores(shared, packed).items():
            rows += score_rows(
                score,
                without[labeling],
                labelings,
                {"kind": "graph", "labeling": labeling, "k": k, **hubs},
                units=sampled.units,
                cosine=beside.get(labeling),
                confidence=settings.confidence,
                **_random_labels(shared, packed, labelings[labeling]),
            )
    return rows


def _compile_ahead(points: Any, shared: Shared) -> None:
    """Compile the search of the layer's graphs, where points have one class each."""
    shape, settings = (len(points), max(shared.settings.k)), shared.settings
    sizes = [len(each.classes) for each in exclusive(shared.labelings).values()]
    drawn = settings.max_sources is not None or settings.tolerance is not None
    if sizes:
        parts = (shape, np.dtype(np.int32)), (shape, np.dtype(points.dtype))
        compile_ahead(KNNGraph, parts, len(sizes), max(sizes), drawn)


def _packed(settings: Settings, knn: KNNGraph) -> PackedGraph:
    check_packing(knn, settings.memory)
    return pack(knn, mode=settings.graph, duplicates=settings.duplicates)


def _scores(shared: Shared, packed: PackedGraph, kept: np.ndarray | bool = True) -> dict[str, ConvexityScore]:
    """The scores of all labelings, which share the paths but for concepts that overlap; of the points that are kept."""
    labelings, _, settings, key = shared
    one_class, found = exclusive(labelings), dict[str, ConvexityScore]()
    if one_class:
        scores = packed_scores(
            packed,
            [np.where(kept, labeling.codes, -1) for labeling in one_class.values()],
            [len(labeling.classes) for labeling in one_class.values()],
            max_pairs=settings.max_pairs,
            max_sources=settings.max_sources,
            tolerance=settings.tolerance,
            key=key,
            devices=None if settings.mesh is None else list(settings.mesh.devices.flat),
            memory=settings.memory,
        )
        found |= zip(one_class, scores, strict=True)
    for name, one in labelings.items():
        if isinstance(one, Memberships):
            score = concept_convexity(packed, one.table & np.reshape(kept, (-1, 1)))
            found[name] = jax.tree.map(np.asarray, score)
    return {name: found[name] for name in labelings}


def _random_labels(shared: Shared, packed: PackedGraph, labeling: AnyLabeling) -> dict[str, Any]:
    """What random labels give: the permutation null if it was asked for, otherwise the closed form of its mean."""
    number, settings = len(labeling.classes), shared.settings
    if settings.permutations:
        options: dict[str, Any] = {"num_permutations": settings.permutations, "confidence": settings.confidence}
        options["key"] = shared.key
        if isinstance(labeling, Memberships):
            return {"null": concept_null(packed, labeling.table, **options)}
        return {"null": permutation_null(packed, jnp.asarray(labeling.codes), num_classes=number, **options)}
    if isinstance(labeling, Labeling) and (labeling.codes >= 0).all():  # else it would take another search of paths
        return {"expected": random_label_score(packed, labeling.codes, num_classes=number)}
    return {}


def _see_some(see: Callable[[Seen], object], taken: Int[np.ndarray, " n"], seen: Seen) -> None:
    see(seen._replace(taken=taken))


def rows_of_equal_classes(
    features: np.ndarray, shared: Shared, name: str, see: Callable[[Seen], object] = lambda seen: None
) -> list[Row]:
    """As `graph_rows`, each labeling on a sample of its own, the same number of points of each class.

    Points come in one random order, so that labelings which agree on most points are scored on most of the same.
    Background is left out, as are classes of fewer points: they have no score.
    """
    labelings, sampled, settings, key = shared
    rows: list[Row] = []
    for own, labeling in exclusive(labelings).items():
        number, size = len(labeling.classes), settings.class_size or 0
        places = np.asarray(places_in_class(jnp.asarray(labeling.codes), key, number))
        of_classes = sizes(labeling)
        kept = (labeling.codes >= 0) & (places < size) & (of_classes >= size)[labeling.codes]
        if kept.sum() <= max(settings.k):
            raise ValueError(
                f"class_size={size} leaves {kept.sum()} points of labeling {own!r}, whose classes have "
                f"{of_classes.tolist()} points; k={max(settings.k)} needs more. Take a smaller class_size or k."
            )
        parts = np.unique(sampled.parts[kept], return_inverse=True)[1]
        of_kept = shared._replace(labelings={own: taken(labeling, kept)}, sampled=Sampled(parts, sampled.units[kept]))
        rows += graph_rows(features[kept], of_kept, name, partial(_see_some, see, np.flatnonzero(kept)))
    return rows


def _left_out(sampled: Sampled, settings: Settings) -> tuple[np.ndarray, ...]:
    """The part of each point, and the pair of parts; nothing without a jackknife."""
    return (sampled.parts, sampled.parts // 2) if settings.jackknife else ()


def _nearest(knn: KNNGraph, k: int) -> KNNGraph:
    """The first k of each list; cut by NumPy, which compiles nothing."""
    return KNNGraph(*(jnp.asarray(local_values(part)[:, :k]) for part in knn))


def _tied(knn: KNNGraph, k: int) -> int:
    """Points beyond whose k-th neighbour others are exactly as near: the order of the rows then decides."""
    lengths = local_values(knn.distances)
    return int(np.sum(lengths[:, k - 1 : k] == lengths[:, k : k + 1]))


def segment_rows(head: Callable[[Any], Array], points: Any, shared: Shared) -> list[Row]:
    """The Euclidean convexity of one layer, for the main labeling and its predictions; `points` may be a pytree.

    The network is fixed: replicates only leave pairs out.
    """
    labelings, sampled, settings, key = shared
    points = jax.tree.map(jnp.asarray, points)
    rows: list[Row] = []
    main = next(iter(labelings))
    for name in dict.fromkeys((main, "predicted")):
        labeling = exclusive(labelings).get(name)
        if labeling is None:
            continue
        columns = np.array(columns_of(labeling.classes, settings.classes))
        codes = np.where(labeling.codes < 0, -1, columns[labeling.codes])
        number = int(columns.max()) + 1
        segments = euclidean_segments(
            head,
            points,
            jnp.asarray(codes),
            num_classes=number,
            num_points=settings.num_points,
            max_pairs=settings.max_segments,
            key=key,
            mesh=settings.mesh,
        )

        def summary(keep: Array, segments: Any = segments, codes: Any = codes, number: int = number) -> EuclideanScore:
            return jax.tree.map(np.asarray, summarise_segments(segments._replace(keep=keep), codes, number))

        def of_classes(score: EuclideanScore, columns: np.ndarray = columns) -> EuclideanScore:
            return EuclideanScore(*(field[columns] for field in score))

        found = of_classes(summary(segments.keep))
        without: Without = ([], [])
        for number, left_out in enumerate(_left_out(sampled, settings)):
            ends = left_out[np.asarray(segments.first)], left_out[np.asarray(segments.second)]
            for group in np.unique(left_out):
                without[number].append(of_classes(summary(segments.keep & (ends[0] != group) & (ends[1] != group))))
        common = {"kind": "euclidean", "labeling": name, "k": None}
        rows += score_rows(found, without, labelings, common, units=sampled.units, confidence=settings.confidence)
    return rows


def columns_of(names: Sequence[int | str], classes: Sequence[int | str] | None) -> list[int]:
    """The column of the logits that stands for each class."""
    if classes is not None:
        return [list(classes).index(name) for name in names]
    if all(isinstance(name, int) and name >= 0 for name in names):
        return [int(name) for name in names]
    raise ValueError(
        f"with heads, classes must name the classes in the order of the logits, since labels are {list(names)[:3]}, ...; "
        "pass classes=[...], or leave the heads out (rest=False for a model source)."
    )
