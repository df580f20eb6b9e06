"""evaluate(): layers in, report out. The loop on the host over layers, neighbours, labelings and replicates."""

from __future__ import annotations

import datetime
import hashlib
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, PRNGKeyArray
from tqdm import tqdm

from jaxconvex._internal.checks import as_points, one_of, positive_integer
from jaxconvex._internal.formats import plain
from jaxconvex._internal.functions import as_program
from jaxconvex._internal.kept import found as kept_whole
from jaxconvex._internal.kept import sealed, tell
from jaxconvex.evaluation.labelings import check_background, encode_all, label_array, named_labels, stratified_sample
from jaxconvex.evaluation.layer_scores import (
    Sampled,
    Settings,
    columns_of,
    graph_rows,
    pooled,
    rows_of_equal_classes,
    segment_rows,
)
from jaxconvex.evaluation.layer_sources import check_columns, check_source, open_source, predicted_labels
from jaxconvex.evaluation.report import FEWEST_UNITS, Report, Row, read_report
from jaxconvex.layers.calls import array_hash, program_hash
from jaxconvex.layers.model_sources import ModelSource
from jaxconvex.neighbors.distances import Metric
from jaxconvex.scores.packed import check_sampling, sources_by_default
from jaxconvex.statistics.resampling import jackknife_groups

__all__ = ["PROTOCOLS", "evaluate"]

JACKKNIFED = 10_000  # points up to which the jackknife is made without being asked for
PARTS = 10  # that the jackknife leaves out in turn

PROTOCOLS: dict[str, dict[str, Any]] = {
    "paper": {
        "k": (10,),
        "metric": "euclidean",
        "graph": "union",
        "duplicates": "drop",
        "max_pairs": 5000,
        "max_segments": 5000,
        "num_points": 10,
    },
}


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
    progress: bool | Callable[[str], object] = True,
) -> Report:
    """The convexity of every layer as a `Report`: a row for each layer, labeling, k and class, and for the aggregates.

    Args:
        representations: an array (n, d), or a mapping layer -> array, in order of depth, of which one at a time is read.
            With `pool` also whole activations (n, tokens, d): the graph takes pooled features, the Euclidean score the
            whole activation. Or a `model_source`: a model and its inputs, run for some layers at a time.
        labels: integers, strings or booleans, one a point; or a mapping name -> labels, scored on the same graphs.
        k: neighbours; several are scored from one search.
        metric, graph, duplicates: see `knn_graph` and `undirected`. Beside the Euclidean score up to 10,000 points also have
            that of the cosine metric (the field `cosine`, without intervals), since a few hubs may decide either.
        predictions: predicted labels, of the classes of the first labeling; adds the labeling "predicted", and the
            recall of each class. "model" takes the class with the largest of the logits that came with the layers.
        groups: integers or strings, one a point, the same for points that were sampled together: a speaker, a text, a
            video. The jackknife then leaves out whole groups, dealt into ten parts, and intervals are for new groups.
            With fewer than 6 groups there are no intervals; tables say so. The permutation null knows no groups.
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
    settings = _settings(
        protocol,
        k=tuple(k) if isinstance(k, Sequence) else (k,),
        metric=metric,
        graph=graph,
        duplicates=duplicates,
        max_pairs=max_pairs,
        max_sources=max_sources,
        tolerance=tolerance,
        max_segments=max_segments,
        num_points=num_points,
        jackknife=jackknife,
        permutations=permutations,
        confidence=confidence,
        class_size=None if class_size is None else positive_integer(class_size, "class_size"),
    )
    from_model = isinstance(predictions, str) and predictions == "model"
    both = {} if predictions is None or from_model else {"predictions": predictions}
    check_background(named_labels(labels) | both, background)
    labelings = encode_all(labels, None if from_model else predictions, background=background, classes=classes)
    main = next(iter(labelings.values())).codes
    n = len(main)
    check_source(representations, n, pool, heads or {})
    scored = n if max_points is None else min(n, positive_integer(max_points, "max_points"))
    for each in settings.k:
        positive_integer(each, "k", most=scored - 1, why=f" for {scored} points (a point is no neighbour of itself)")
    key = jax.random.key(0) if key is None else key
    sample_key, group_key, score_key = jax.random.split(key, 3)
    chosen = np.arange(n) if max_points is None else stratified_sample(main, max_points, sample_key)
    told = progress if callable(progress) else lambda name: None
    shown = progress is True
    source = open_source(representations, chosen, heads=heads or {}, mesh=mesh, progress=shown)
    if from_model:
        of_chosen = {name: np.asarray(values)[chosen] for name, values in named_labels(labels).items()}
        predicted = predicted_labels(source.outputs, classes)
        labelings = encode_all(of_chosen, predicted, background=background, classes=classes)
    else:
        labelings = {name: one._replace(codes=one.codes[chosen]) for name, one in labelings.items()}
    main = next(iter(labelings.values())).codes
    if source.with_heads:
        for name in {next(iter(labelings)), "predicted"} & set(labelings):
            check_columns(columns_of(labelings[name].classes, classes), source.outputs)
    if settings.jackknife is None:
        settings = settings._replace(jackknife=protocol is None and len(chosen) <= JACKKNIFED)
    sampled, num_groups = _sampled(main, groups, chosen, n, group_key)
    if num_groups is not None and num_groups < FEWEST_UNITS:
        settings = settings._replace(jackknife=False)
    settings = settings._replace(cosine=protocol is None and metric == "euclidean" and len(chosen) <= JACKKNIFED)
    if settings.max_pairs is None and settings.tolerance is None:
        settings = settings._replace(max_sources=sources_by_default(len(chosen), settings.max_sources))

    recorded = {**settings._asdict(), "k": list(settings.k), "protocol": protocol, "max_points": max_points}
    recorded["groups"] = num_groups
    recorded["key"] = np.asarray(jax.random.key_data(key)).tolist()
    drawn = str(jax.random.key_impl(key)), bool(jax.config.values["jax_enable_x64"])
    label_hashes = {name: array_hash(one.codes, json.dumps(one.classes).encode()) for name, one in labelings.items()}
    # The order of the labelings counts: the first one is the truth. What functions and background do is hashed elsewhere.
    sampled_hashes = [array_hash(values) for values in sampled]
    common = [*label_hashes.items(), *sampled_hashes, recorded | {"metric": None}, *drawn, _version()]
    used = representations.pool if isinstance(representations, ModelSource) else pool
    recorded |= {"metric": _named(metric), "pool": _named(used)}
    recorded |= {"num_points_scored": len(chosen), "background": background}
    hashes: dict[str, str] = {}
    rows: dict[str, list[Row]] = {name: [] for name in source.names}
    work = len(source.names) + len(source.with_heads)
    with tqdm(total=work, desc="layers", unit="layer", disable=not shown, leave=False) as bar:
        for name in source.names:
            bar.set_postfix_str(str(name))
            features = source.features(name)
            hashes[str(name)] = array_hash(features)
            points = pooled(features, pool)
            hashed = hashes[str(name)] if points is features else array_hash(points)
            which = f"layer {name!r}"
            place = _place(cache, (hashed, _metric_hash(metric, points, which)), common, f"the metric of {which}")
            found = _kept(place)
            if found is None:
                rows_of = graph_rows if class_size is None else rows_of_equal_classes
                found = rows_of(
                    points, labelings, sampled, settings, key=score_key, mesh=mesh, memory=memory, name=which
                )
                _keep(place, found, recorded)
            rows[name] += found
            bar.update()
            told(str(name))
        places: dict[str, Path | None] = dict.fromkeys(source.with_heads)
        if cache is not None:
            identities = source.identities(source.with_heads)
            shared = [None if classes is None else list(classes), *common]
            places = {
                name: _place(cache, (identities[name],), shared, f"the network from layer {name!r}")
                for name in source.with_heads
            }
        before = {name: _kept(place) for name, place in places.items()}
        bar.update(sum(found is not None for found in before.values()))
        for name, whole, head in source.wholes([name for name, found in before.items() if found is None]):
            bar.set_postfix_str(f"{name}, Euclidean")
            found = segment_rows(head, whole, labelings, sampled, settings, classes=classes, key=score_key, mesh=mesh)
            del whole  # before other layers are read
            before[name] = found
            _keep(places[name], found, recorded)
            bar.update()
            told(str(name))
        for name, found in before.items():
            rows[name] += found or ()
    of_layers = [
        row._replace(layer=str(name), layer_index=index)
        for index, (name, found) in enumerate(rows.items())
        for row in found
    ]
    provenance = {
        "versions": {name: metadata.version(name) for name in ("jax", "jaxlib", "numpy", "scipy")}
        | {"jaxconvex": _version(), "python": platform.python_version()},
        "device": f"{jax.devices()[0].device_kind} ({jax.default_backend()})",
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "sha256": {"layers": hashes, "labels": label_hashes},
        "groups": sampled_hashes[0] if settings.jackknife else None,
    }
    return Report(tuple(of_layers), recorded, provenance)


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


def _settings(protocol: str | None, **given: Any) -> Settings:
    if protocol is not None:
        fixed = PROTOCOLS[one_of(protocol, tuple(PROTOCOLS), "protocol")]
        usual = {"k": (10,), "metric": "euclidean", "graph": "union", "duplicates": "link"}
        for name, value in fixed.items():
            if given[name] not in (usual.get(name), None, value):
                raise ValueError(
                    f"protocol={protocol!r} fixes {name}={value!r}; got {given[name]!r}. Leave {name} or the protocol out."
                )
        given |= fixed
    check_sampling(given["max_pairs"], given["max_sources"], given["tolerance"])
    for each in given["k"]:
        positive_integer(each, "k")
    one_of(given["graph"], ("union", "mutual"), "graph")
    one_of(given["duplicates"], ("link", "drop"), "duplicates")
    if given["permutations"] != 0:
        positive_integer(given["permutations"], "permutations")
    return Settings(**given)


def _named(function: Any) -> Any:
    """A setting as a report holds it: of a function its name."""
    if not callable(function):
        return function
    return getattr(function, "__name__", None) or _named(getattr(function, "func", type(function)))


def _metric_hash(metric: Any, points: np.ndarray, name: str) -> str | None:
    """What tells a metric from others: its name or, of a function, what it computes now on vectors of this length."""
    if not callable(metric):
        return metric
    point = as_points(points, name)[0]
    try:
        return program_hash(as_program(metric, point, point))
    except jax.errors.JAXTypeError as error:
        raise ValueError(
            f"metric must be a function of two vectors that JAX can trace: {_named(metric)} takes their values out of JAX. "
            "Write it with jax.numpy, without conditions on values."
        ) from error


def _place(cache: str | Path | None, told: tuple[str | None, ...], common: Sequence[Any], what: str) -> Path | None:
    """Where the rows are kept that depend on all this; None where nothing tells a part of it."""
    if cache is None:
        return None
    if None in told:
        tell(f"Scores by {what} are not kept: it calls back into Python, and nothing tells what is computed there.")
        return None
    text = json.dumps(plain([*told, *common]))
    return Path(cache) / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"


def _kept(place: Path | None) -> Sequence[Row] | None:
    return None if place is None else kept_whole(place, _read)


def _read(place: Path) -> Sequence[Row]:
    report = read_report(sealed(place))
    if report.provenance.get("entry") != place.stem:
        raise ValueError(f"{place} holds the rows of {report.provenance.get('entry')}.")
    return report.rows


def _keep(place: Path | None, rows: Sequence[Row], recorded: dict[str, Any]) -> None:
    if place is not None and jax.process_index() == 0:
        place.parent.mkdir(parents=True, exist_ok=True)
        Report(tuple(rows), recorded, {"entry": place.stem}).to_json(place)


def _version() -> str:
    import jaxconvex

    return jaxconvex.__version__
