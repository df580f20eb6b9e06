"""One layer: from its activations to the rows of a report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from jaxconvex.checks import as_points, one_of
from jaxconvex.distances import Metric
from jaxconvex.graphs import PackedGraph, pack
from jaxconvex.labelings import Labeling, recall
from jaxconvex.neighbors import KNNGraph, knn_graph
from jaxconvex.permutation import Null, NullScore, permutation_null
from jaxconvex.report import Row
from jaxconvex.resampling import leave_group_out_graphs, spare_neighbors
from jaxconvex.scores import ConvexityScore, euclidean_segments, packed_graph_convexity, summarise_segments
from jaxconvex.statistics import Interval, hubness, score_interval

__all__ = ["Settings", "layer_rows", "pooled"]


class Settings(NamedTuple):
    """What the scores depend on beside the data."""

    k: tuple[int, ...]
    metric: Metric
    graph: str
    duplicates: str
    max_pairs: int | None
    num_points: int
    jackknife: bool
    permutations: int
    confidence: float


def layer_rows(
    array: np.ndarray,
    labelings: Mapping[str, Labeling],
    groups: np.ndarray,
    settings: Settings,
    *,
    pool: str | Callable[[Array], Array] | None,
    head: Callable[[Array], Array] | None,
    classes: Sequence[int | str] | None,
    key: PRNGKeyArray,
) -> tuple[Row, ...]:
    """The rows of one layer: graph convexity for each k and labeling, and Euclidean convexity where there is a head.

    Arguments as for `evaluate`, already checked; `groups` is the jackknife's group of each point. The rows name no layer.
    """
    rows = _graph_rows(as_points(pooled(array, pool), "representations"), labelings, groups, settings, key)
    if head is not None:
        rows += _segment_rows(head, array, labelings, groups, settings, classes, key)
    return tuple(rows)


def pooled(array: np.ndarray, pool: str | Callable[[Array], Array] | None) -> np.ndarray:
    """One vector a point: the first token ("cls"), the mean of all ("mean"), or what a function makes of them.

    >>> pooled(np.arange(12.0).reshape(2, 3, 2), "cls").tolist()
    [[0.0, 1.0], [6.0, 7.0]]
    """
    if callable(pool):
        return np.asarray(pool(array))
    if array.ndim == 2 or pool is None:
        return array
    one_of(pool, ("cls", "mean"), "pool")
    tokens = array.reshape(len(array), -1, array.shape[-1])
    return tokens[:, 0] if pool == "cls" else tokens.mean(axis=1, dtype=np.float32)


def _graph_rows(
    points: Array, labelings: Mapping[str, Labeling], groups: np.ndarray, settings: Settings, key: PRNGKeyArray
) -> list[Row]:
    rows: list[Row] = []
    widest = max(settings.k)
    width = spare_neighbors(widest, len(points)) if settings.jackknife else widest
    knn = knn_graph(points, k=width, metric=settings.metric)

    def packed_graph(knn: KNNGraph) -> PackedGraph:
        return pack(knn, mode=settings.graph, duplicates=settings.duplicates)

    def score(packed: PackedGraph, labeling: Labeling, kept: np.ndarray | bool = True) -> ConvexityScore:
        codes = np.where(kept, labeling.codes, -1)
        return packed_graph_convexity(
            packed, codes, num_classes=len(labeling.classes), max_pairs=settings.max_pairs, key=key
        )

    for k in settings.k:
        nearest = KNNGraph(knn.indices[:, :k], knn.distances[:, :k])
        packed = packed_graph(nearest)
        without: dict[str, list[ConvexityScore]] = {name: [] for name in labelings}
        if settings.jackknife:
            for kept, graph in leave_group_out_graphs(knn, points, groups, k=k, metric=settings.metric):
                replicate = packed_graph(graph)
                for name, labeling in labelings.items():
                    without[name].append(score(replicate, labeling, kept))
        for name, labeling in labelings.items():
            null = None
            if settings.permutations:
                null = permutation_null(
                    packed,
                    labeling.codes,
                    num_classes=len(labeling.classes),
                    key=key,
                    num_permutations=settings.permutations,
                    confidence=settings.confidence,
                )
            common = {"kind": "graph", "labeling": name, "k": k, "hubness": hubness(nearest)}
            found = score(packed, labeling)
            rows += _rows(found, without[name], labelings, labeling, settings, null, common)
    return rows


def _segment_rows(
    head: Callable[[Array], Array],
    array: np.ndarray,
    labelings: Mapping[str, Labeling],
    groups: np.ndarray,
    settings: Settings,
    classes: Sequence[int | str] | None,
    key: PRNGKeyArray,
) -> list[Row]:
    """Euclidean rows of the main labeling and its predictions. The network is fixed, so replicates only leave pairs out."""
    rows: list[Row] = []
    main = next(iter(labelings))
    for name in dict.fromkeys((main, "predicted")):
        if name not in labelings:
            continue
        labeling = labelings[name]
        columns = np.array(_columns(labeling.classes, classes))
        codes = np.where(labeling.codes < 0, -1, columns[labeling.codes])
        number = int(columns.max()) + 1
        segments = euclidean_segments(
            head,
            array,
            codes,
            num_classes=number,
            num_points=settings.num_points,
            max_pairs=settings.max_pairs or 5000,
            key=key,
        )

        def summary(keep: Array, segments: Any = segments, codes: Any = codes, number: int = number) -> ConvexityScore:
            return jax.tree.map(np.asarray, summarise_segments(segments._replace(keep=keep), codes, number))

        def of_classes(score: ConvexityScore, columns: np.ndarray = columns) -> ConvexityScore:
            return ConvexityScore(*(field[columns] for field in score))

        found = of_classes(summary(segments.keep))
        without = []
        if settings.jackknife:
            ends = groups[np.asarray(segments.first)], groups[np.asarray(segments.second)]
            for group in np.unique(groups):
                without.append(of_classes(summary(segments.keep & (ends[0] != group) & (ends[1] != group))))
        common = {"kind": "euclidean", "labeling": name, "k": None}
        rows += _rows(found, without, labelings, labeling, settings, None, common)
    return rows


def _columns(names: Sequence[int | str], classes: Sequence[int | str] | None) -> list[int]:
    """The column of the logits that stands for each class."""
    if classes is not None:
        return [list(classes).index(name) for name in names]
    if all(isinstance(name, int) and name >= 0 for name in names):
        return [int(name) for name in names]
    raise ValueError(
        f"with heads, classes must name the classes in the order of the logits, since labels are {list(names)[:3]}, ...; "
        "pass classes=[...]."
    )


def _rows(
    found: ConvexityScore,
    without: Sequence[ConvexityScore],
    labelings: Mapping[str, Labeling],
    labeling: Labeling,
    settings: Settings,
    null: NullScore | None,
    common: Mapping[str, Any],
) -> list[Row]:
    """A row for each class, then micro and macro."""
    pairs = found.num_pairs.astype(float)
    shares = pairs / max(pairs.sum(), 1)
    scored = pairs > 0
    points = found.num_points[scored].sum()
    recalls = _recalls(labelings, common["labeling"])
    rows = []
    names = ("score", "se_jackknife", "lower", "upper")

    def interval(value: Any, replicates: Sequence[Any], num_points: Any) -> Interval:
        if len(replicates) < 2:
            return Interval(np.asarray(value), *(np.full(np.shape(value), np.nan) for _ in range(3)))
        return score_interval(value, np.array(replicates), num_points, confidence=settings.confidence)

    def null_fields(part: Null | None, index: Any = ()) -> dict[str, float]:
        if part is None:
            return {}
        keys = ("null_mean", "null_lower", "null_upper", "p_value")
        return {key: float(value[index]) for key, value in zip(keys, part[:4], strict=True)}

    per_class = [r.per_class for r in without]
    intervals = interval(found.per_class, per_class, found.num_points)
    for c, name in enumerate(labeling.classes):
        fields = ("sem_paper", "se_pairs", "adjacent", "disconnected", "inside", "nonadjacent")
        rows.append(
            Row(
                **common,
                layer="",
                layer_index=0,
                level="class",
                label=name,
                **{key: float(part[c]) for key, part in zip(names, intervals, strict=True)},
                **{field: float(getattr(found, field)[c]) for field in fields},
                **null_fields(null.per_class if null else None, c),
                num_points=int(found.num_points[c]),
                num_pairs=int(found.num_pairs[c]),
                recall=float(recalls[0][c]),
                replicates=tuple(float(r[c]) for r in per_class),
            )
        )
    macro_weights = scored / max(scored.sum(), 1)
    for level, weights, part in (
        ("micro", shares, null.micro if null else None),
        ("macro", macro_weights, null.macro if null else None),
    ):
        replicates = [float(getattr(r, level)) for r in without]
        whole = interval(getattr(found, level), replicates, points)
        apart = shares * (1 - found.adjacent)
        means = {
            field: _weighted(getattr(found, field), shares if level == "micro" else weights)
            for field in ("adjacent", "disconnected", "inside")
        }
        means["inside"] = _weighted(found.inside, shares)  # so that the failing pairs can be counted from any row
        rows.append(
            Row(
                **common,
                layer="",
                layer_index=0,
                level=level,
                label=None,
                **{key: float(value) for key, value in zip(names, whole, strict=True)},
                **means,
                nonadjacent=_weighted(found.nonadjacent, apart if level == "micro" else weights, normalise=True),
                sem_paper=_combined(found.sem_paper, weights),
                se_pairs=_combined(found.se_pairs, weights),
                **null_fields(part),
                num_points=int(points),
                num_pairs=int(pairs.sum()),
                recall=float(recalls[1] if level == "micro" else _weighted(recalls[0], np.isfinite(recalls[0]), True)),
                replicates=tuple(replicates),
            )
        )
    return rows


def _recalls(labelings: Mapping[str, Labeling], name: str) -> tuple[np.ndarray, float]:
    """Recall of each class and accuracy, for the main labeling and its predictions; nan for others."""
    main = next(iter(labelings))
    undefined = np.full(len(labelings[name].classes), np.nan)
    if "predicted" not in labelings or name not in (main, "predicted"):
        return undefined, float("nan")
    truth, predicted = labelings[main], labelings["predicted"]
    known = truth.codes >= 0
    return recall(truth, predicted), float(np.mean(truth.codes[known] == predicted.codes[known]))


def _weighted(values: np.ndarray, weights: np.ndarray, normalise: bool = False) -> float:
    """The weighted mean over the classes that have both; nan if there is none."""
    weights = np.where(np.isnan(values), 0, weights).astype(float)
    if not weights.sum() > 0:
        return float("nan")
    return float(np.sum(np.where(weights > 0, values, 0) * weights) / (weights.sum() if normalise else 1))


def _combined(errors: np.ndarray, weights: np.ndarray) -> float:
    """The error of a weighted mean of classes, as if they were independent; nan if one is."""
    return float(np.sqrt(np.sum(np.where(weights > 0, errors * weights, 0) ** 2)))
