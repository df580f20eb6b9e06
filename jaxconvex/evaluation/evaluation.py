"""evaluate(): layers in, report out. The loop on the host over layers, neighbours, labelings and replicates."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Int, PRNGKeyArray
from tqdm import tqdm

from jaxconvex._internal.checks import positive_integer
from jaxconvex._internal.kept import array_hash
from jaxconvex.evaluation.beside import Beside, beside_scores, for_next, identity_of, tell
from jaxconvex.evaluation.kept_rows import keep_rows, kept_rows, metric_hash, place_of_rows, setting_name
from jaxconvex.evaluation.label_values import label_array
from jaxconvex.evaluation.labelings import (
    AnyLabeling,
    Memberships,
    check_background,
    encode_all,
    named_labels,
    strata,
    stratified_sample,
    taken,
)
from jaxconvex.evaluation.layer_scores import (
    Sampled,
    Shared,
    columns_of,
    graph_rows,
    pooled,
    rows_of_equal_classes,
    segment_rows,
)
from jaxconvex.evaluation.layer_sources import LayerSource, check_columns, check_source, open_source, predicted_labels
from jaxconvex.evaluation.report import BESIDE, Report, Row
from jaxconvex.evaluation.settings import (
    Settings,
    checked_settings,
    made_by,
    recorded_settings,
    settled,
    version_of,
)
from jaxconvex.evaluation.tree import parents_of
from jaxconvex.layers.activations import Activations
from jaxconvex.layers.model_sources import ModelSource
from jaxconvex.neighbors.distances import Metric
from jaxconvex.scores.packed import EXACT
from jaxconvex.statistics.resampling import jackknife_groups

__all__ = ["evaluate"]

PARTS = 10  # that the jackknife leaves out in turn


def evaluate(
    representations: Any,
    labels: Any,
    *,
    k: int | Sequence[int] = 10,
    metric: Metric = "euclidean",
    graph: str = "union",
    duplicates: str = "link",
    predictions: Any = None,
    groups: Any = None,
    heads: Mapping[str, Callable[[Array], Array]] | None = None,
    classes: Sequence[int | str] | None = None,
    pool: str | Callable[[Array], Array] | None = None,
    max_pairs: int | None = None,
    max_sources: int | None = None,
    tolerance: float | None = None,
    max_segments: int = 5000,
    num_points: int = 10,
    max_points: int | None = None,
    class_size: int | None = None,
    jackknife: bool | None = None,
    permutations: int = 0,
    confidence: float = 0.95,
    key: PRNGKeyArray | None = None,
    background: int | str | None = None,
    protocol: str | None = None,
    cache: str | Path | None = None,
    mesh: Mesh | None = None,
    memory: float | None = None,
    why: bool | None = None,
    names: Any = None,
    measures: str | Sequence[str] = (),
    parents: str | Sequence[str] = (),
    progress: bool | Callable[[str], object] = True,
) -> Report:
    """The convexity of every layer as a `Report`: a row for each layer, labeling, k and class, and for the aggregates.

    Args:
        representations: an array (n, d), or a mapping layer -> array, in order of depth, of which one at a time is read.
            With `pool` also whole activations (n, tokens, d): the graph takes pooled features, the Euclidean score the
            whole activation. Or a `model_source`: a model and its inputs, run for some layers at a time.
        labels: integers, strings or booleans, one a point; or a mapping name -> labels, scored on the same graphs. Or, where
            a point may have several labels or none, a list of them for each point, or a table of true and false, a column
            for each (of a DataFrame with its names): concepts that overlap, scored as by `concept_convexity`, over all
            pairs; nothing is told of why.
        k: neighbours; several are scored from one search.
        metric, graph, duplicates: see `knn_graph` and `undirected`, whose `mode` is `graph` here. Beside the Euclidean score
            up to 10,000 points also have that of the cosine metric (the field `cosine`, without intervals), since a few hubs
            may decide either.
        predictions: predicted labels, of the classes of the first labeling; adds the labeling "predicted", and the
            recall of each class. "model" takes the class with the largest of the logits that came with the layers.
        groups: integers or strings, one a point, the same for points that were sampled together: a speaker, a text, a
            video. The jackknife then leaves out whole groups, dealt into ten parts, and intervals are for new groups. By
            default, where `extract` has made points of tokens, the text of each is its group. With fewer than 6 groups
            there are no intervals; tables say so. The permutation null knows no groups.
        heads: for some layers the rest of the network, (b, ...) -> (b, c) logits; adds the Euclidean score there.
        classes: the classes in the order of the logits. Needed with heads where labels are strings; integers are
            columns.
        pool: "cls" (the first token), "mean" (of the tokens), or a function of the activations.
        max_pairs: pairs of a class drawn for the graph score; by default all pairs.
        max_sources, tolerance: draw points of a class and score their pairs with all others, so many, or until every
            interval is that narrow; see `graph_convexity`. Above 100,000 points 64 by default.
        max_segments, num_points: most segments of a class for the Euclidean score, and points inside each.
        max_points: score a sample of so many points, stratified by the first labeling.
        class_size: score the graph convexity of each labeling on a random sample of so many points of each class. Scores
            depend on the number of points and on the sizes of classes; so this is the way to compare networks whose
            predicted classes differ in size. Classes of fewer points have no score.
        jackknife: whether to rebuild the graph without each of 10 groups of points, for intervals and paired
            comparisons; by default up to 10,000 points, and not with a protocol.
        permutations: random labelings for the permutation null; 0 for none.
        confidence: of all intervals.
        key: a JAX random key; key(0) by default. What the jackknife leaves out depends on it, on the first labeling and on
            the groups, and on nothing else.
        background: the label of points that belong to no class, of its own type, or as text what is written like it; for
            integers -1 means that too.
        protocol: "paper" for the choices of Tětková et al.: k = 10, union, duplicates dropped, 5,000 pairs a class.
        cache: a folder where finished layers are kept, and found again by a call with the same data, networks and
            settings; functions are the same if they compute the same now. What is not as it was written is made again.
            What calls back to Python is not kept; a line says so. Several calls may share a folder.
        mesh: devices that share the searches for neighbours and paths. Every process of a cluster makes the same call and
            gets the whole report; the first alone writes the cache.
        memory: bytes that either search may take beyond the layer, on each device: see `knn_graph`, `graph_convexity`.
        why: whether to tell what the scores are lost to, for about the cost of scoring each layer once more without the
            jackknife: what each class loses to which others (`Report.intrusions`), and of each layer the twenty points that
            others lose most to, the twenty worst outliers and the twenty largest pieces torn off (`Report.points`). It is
            about all pairs. By default up to 20,000 points where all pairs are scored, but for graphs of very long paths
            and not with a protocol.
        names: what the points are called: ids, texts, names of files; integers or strings, one a point.
        measures: other measures of each layer, by the names of their functions, in `Report.measures` and tables: silhouette,
            knn_accuracy, label_overlap, linear_probe (of five folds, groups whole), neural_collapse, intrinsic_dimension;
            cka and mutual_knn, with the layer before.
        parents: names of labelings that are levels above the first one, from fine to coarse: each class lies in one class of
            the next. Tables then show the tree of classes.
        progress: a bar on stderr; or a function that is called with a layer's name after each score of it.

    Raises:
        ValueError: data that do not fit or cannot be scored, with what to do; settings that contradict the protocol.

    Cost: per layer a neighbour search, and path searches: for each k and labeling one, and ten on nine tenths with the
    jackknife.

    >>> x = jax.random.normal(jax.random.key(0), (40, 3)) + 9 * np.repeat(np.eye(3)[:2], 20, axis=0)
    >>> report = evaluate({"layer 1": x}, ["a"] * 20 + ["b"] * 20, k=5, progress=False)
    >>> [(row.level, row.label, row.score) for row in report.rows][:2]
    [('class', 'a', 1.0), ('class', 'b', 1.0)]
    """
    settings = checked_settings(**{name: value for name, value in locals().items() if name in Settings._fields})
    shown = progress is True
    data = _opened(representations, (labels, predictions, groups, names), heads or {}, settings, shown)
    kept = _kept(cache, data, representations.pool if isinstance(representations, ModelSource) else pool)
    total = len(data.source.names) + len(data.source.with_heads)
    with tqdm(total=total, desc="layers", unit="layer", disable=not shown, leave=False) as bar:
        done = partial(_advance, bar, progress if callable(progress) else None)
        scored, hashes = _graph_scores(data, kept, bar.set_postfix_str, done)
        segment_scores = _segment_scores(data, kept, bar.set_postfix_str, done)
    tables = {
        field: tuple(
            row._replace(layer=str(name), layer_index=index)
            for index, name in enumerate(data.source.names)
            for row in (*getattr(scored[name], field), *(segment_scores.get(name, ()) if field == "rows" else ()))
        )
        for field in ("rows", *BESIDE)
    }
    provenance = made_by("jax", "jaxlib", "numpy", "scipy", "jaxconvex")
    provenance["sha256"] = {"layers": hashes, "labels": kept.hashes}
    provenance["groups"] = array_hash(data.shared.sampled.parts) if data.shared.settings.jackknife else None
    return Report(settings=kept.recorded, provenance=provenance, **tables)


class _Data(NamedTuple):
    """What is scored, and how."""

    source: LayerSource
    shared: Shared
    num_groups: int | None  # that the points were sampled in; None where they were sampled one by one
    beside: Beside


class _Kept(NamedTuple):
    """Where finished rows are kept, what all of them depend on, and what the report records."""

    folder: str | Path | None
    common: list[Any]
    recorded: dict[str, Any]
    hashes: dict[str, str]  # of the labelings


def _opened(
    representations: Any, given: tuple[Any, Any, Any, Any], heads: Mapping[str, Any], settings: Settings, shown: bool
) -> _Data:
    """The data, checked, and the points of them that are scored. A model runs here once."""
    labels, predictions, groups, names = given
    sample_key, group_key, score_key = jax.random.split(settings.key, 3)
    from_model = isinstance(predictions, str) and predictions == "model"
    told = None if from_model else predictions
    named, encode = named_labels(labels), partial(encode_all, background=settings.background, classes=settings.classes)
    check_background(named | ({} if told is None else {"predictions": told}), settings.background)
    labelings = encode(labels, told)
    main = strata(next(iter(labelings.values())))
    if groups is None and isinstance(representations, Activations):
        groups = representations.groups
    check_source(representations, len(main), settings.pool, heads)
    chosen = _chosen(main, settings, sample_key)
    _check_memberships(labelings, settings, len(chosen), from_model or bool(heads))
    source = open_source(representations, chosen, heads=heads, mesh=settings.mesh, progress=shown)
    labelings = {name: taken(one, chosen) for name, one in labelings.items()}
    if from_model:
        told, main_name = predicted_labels(source.outputs, settings.classes), next(iter(named))
        both = {name: named[name] for name in (main_name, "predicted") if name in named}  # which refuses a second one
        labelings |= encode({name: np.asarray(values)[chosen] for name, values in both.items()}, told)
    _check_heads(source, labelings, settings.classes)
    sampled, num_groups = _sampled(strata(next(iter(labelings.values()))), groups, chosen, len(main), group_key)
    settings = settled(settings, len(chosen), num_groups)
    beside = beside_scores(names, settings, chosen, len(main))
    return _Data(source, Shared(labelings, sampled, settings, score_key), num_groups, beside)


def _kept(folder: str | Path | None, data: _Data, pool: Any) -> _Kept:
    source, (labelings, sampled, settings, _) = data.source, data.shared
    recorded = recorded_settings(settings, data.num_groups)
    drawn = str(jax.random.key_impl(settings.key)), bool(jax.config.values["jax_enable_x64"])
    hashes = {name: array_hash(one[0], json.dumps(one.classes).encode()) for name, one in labelings.items()}
    # The order of the labelings counts: the first one is the truth. What functions and background do is hashed elsewhere.
    common = [*hashes.items(), *map(array_hash, sampled), recorded | {"metric": None}, *drawn, version_of("jaxconvex")]
    recorded |= {"metric": setting_name(settings.metric), "pool": setting_name(pool)}
    recorded |= {"num_points_scored": len(sampled.units), "background": settings.background}
    recorded |= {"left_out": dict(source.left_out)} if source.left_out else {}
    recorded |= {"why": data.beside.why, "measures": list(data.beside.measures)}
    overlapping = [name for name, one in labelings.items() if isinstance(one, Memberships)]
    recorded |= {"overlapping": overlapping} if overlapping else {}
    levels = parents_of(labelings, (settings.parents,) if isinstance(settings.parents, str) else settings.parents)
    recorded |= {"parents": levels} if levels else {}
    return _Kept(folder, common, recorded, hashes)


def _advance(bar: Any, told: Callable[[str], object] | None, name: Any) -> None:
    bar.update()
    if told is not None:
        told(str(name))


def _graph_scores(
    data: _Data, kept: _Kept, begin: Callable[[str], object], done: Callable[[Any], None]
) -> tuple[dict[Any, Report], dict[str, str]]:
    """The rows of graph convexity of each layer, what is told beside them, and a hash of its features."""
    scored: dict[Any, Report] = {}
    hashes: dict[str, str] = {}
    before = None  # the points of the layer before
    settings = data.shared.settings
    score = graph_rows if settings.class_size is None else rows_of_equal_classes
    for name in data.source.names:
        begin(str(name))
        features = data.source.features(name)
        hashes[str(name)] = array_hash(features)
        points, which = pooled(features, settings.pool), f"layer {name!r}"
        hashed = hashes[str(name)] if points is features else array_hash(points)
        told = hashed, metric_hash(settings.metric, points, which), *identity_of(data.beside, before)
        place = place_of_rows(kept.folder, told, kept.common, f"the metric of {which}")
        found = kept_rows(place)
        if found is None:
            beside: dict[str, list[Any]] = {}
            rows = score(points, data.shared, which, partial(tell, data.beside, before, beside))
            tables: dict[str, Any] = {field: tuple(values) for field, values in beside.items()}
            found = keep_rows(place, Report(tuple(rows), kept.recorded, {}, **tables))
        scored[name], before = found, for_next(data.beside, points)
        done(name)
    return scored, hashes


def _segment_scores(
    data: _Data, kept: _Kept, begin: Callable[[str], object], done: Callable[[Any], None]
) -> dict[Any, Sequence[Row]]:
    """The rows of Euclidean convexity of each layer that has the rest of the network."""
    source, classes = data.source, data.shared.settings.classes
    places: dict[Any, Path | None] = dict.fromkeys(source.with_heads)
    if kept.folder is not None:
        identities = source.identities(source.with_heads)
        shared = [None if classes is None else list(classes), *kept.common]
        for name in source.with_heads:
            what = f"the network from layer {name!r}"
            places[name] = place_of_rows(kept.folder, (identities[name],), shared, what)
    rows: dict[Any, Sequence[Row]] = {}
    rows |= {name: found.rows for name, place in places.items() if (found := kept_rows(place)) is not None}
    for name in rows:
        done(name)
    for name, whole, head in source.wholes([name for name in places if name not in rows]):
        begin(f"{name}, Euclidean")
        rows[name] = segment_rows(head, whole, data.shared)
        del whole  # before other layers are read
        keep_rows(places[name], Report(tuple(rows[name]), kept.recorded, {}))
        done(name)
    return rows


def _chosen(main: np.ndarray, settings: Settings, key: PRNGKeyArray) -> Int[np.ndarray, " chosen"]:
    """The rows that are scored: all, or a sample stratified by the first labeling."""
    n, max_points = len(main), settings.max_points
    scored = n if max_points is None else min(n, positive_integer(max_points, "max_points"))
    for each in settings.k:
        positive_integer(each, "k", most=scored - 1, why=f" for {scored} points (a point is no neighbour of itself)")
    return np.arange(n) if max_points is None else stratified_sample(main, max_points, key)


def _check_memberships(labelings: Mapping[str, AnyLabeling], settings: Settings, points: int, of_logits: bool) -> None:
    """Raise ValueError for what cannot be asked where a point may have several labels."""
    overlapping = [name for name, one in labelings.items() if isinstance(one, Memberships)]
    if not overlapping:
        return
    drawn = settings.max_pairs, settings.max_sources, settings.tolerance, settings.class_size
    if any(each is not None for each in drawn) or points > EXACT:
        raise ValueError(
            f"in {overlapping[0]!r} a point may have several labels: that is scored by all pairs of up to {EXACT} points. "
            "Leave max_pairs, max_sources, tolerance, class_size and the protocol out; take fewer points by max_points."
        )
    if of_logits and overlapping[0] == next(iter(labelings)):
        raise ValueError(
            f"heads and predictions='model' are of points of one class each; in {overlapping[0]!r} a point may have "
            "several. Put labels of one class a point first."
        )


def _check_heads(
    source: LayerSource, labelings: Mapping[str, AnyLabeling], classes: Sequence[int | str] | None
) -> None:
    """Raise ValueError if a class of the labelings that the heads are scored by has no column among the logits."""
    if source.with_heads and isinstance(next(iter(labelings.values())), Memberships):
        raise ValueError(
            "the Euclidean score is of points of one class each, and the first labels have several for some point: put "
            "others first, or leave the rest of the network out (rest=False)."
        )
    for name in {next(iter(labelings)), "predicted"} & set(labelings) if source.with_heads else ():
        check_columns(columns_of(labelings[name].classes, classes), source.outputs)


def _sampled(
    main: np.ndarray, groups: Any, chosen: np.ndarray, n: int, key: PRNGKeyArray
) -> tuple[Sampled, int | None]:
    """What the jackknife leaves out of the chosen points, and how many groups they are of."""
    if groups is None:
        return Sampled(jackknife_groups(main, key, num_groups=PARTS), np.arange(len(chosen))), None
    values = label_array(groups, "groups")
    if len(values) != n:
        raise ValueError(f"groups must hold one integer or string a point, {n}; got {len(values)}.")
    names, units = np.unique(values[chosen], return_inverse=True)
    parts = jackknife_groups(main, key, num_groups=PARTS, units=units) if len(names) > 1 else np.zeros_like(units)
    return Sampled(parts, units), len(names)
