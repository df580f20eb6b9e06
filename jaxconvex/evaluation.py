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

from jaxconvex.checks import one_of, positive_integer
from jaxconvex.distances import Metric
from jaxconvex.labelings import encode_all, stratified_sample
from jaxconvex.layer_scores import Settings, layer_rows
from jaxconvex.packed_scores import check_sampling, sources_by_default
from jaxconvex.report import Report, Row, read_report
from jaxconvex.resampling import jackknife_groups

__all__ = ["PROTOCOLS", "evaluate"]

JACKKNIFED = 10_000  # points up to which the jackknife is made without being asked for
GROUPS = 10

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
    heads: Mapping[str, Callable[[Array], Array]] | None = None,
    classes: Sequence[int | str] | None = None,
    pool: str | Callable[[Array], Array] | None = None,
    max_pairs: int | None = None,
    max_sources: int | None = None,
    tolerance: float | None = None,
    max_segments: int = 5000,
    num_points: int = 10,
    max_points: int | None = None,
    jackknife: bool | None = None,
    permutations: int = 0,
    confidence: float = 0.95,
    key: PRNGKeyArray | None = None,
    background: int | str | None = None,
    protocol: str | None = None,
    cache: str | Path | None = None,
    mesh: Mesh | None = None,
    memory: float | None = None,
    progress: bool = True,
) -> Report:
    """The convexity of every layer as a `Report`: a row for each layer, labeling, k and class, and for the aggregates.

    Args:
        representations: an array (n, d), or a mapping layer -> array, in order of depth. With `pool` also whole
            activations (n, tokens, d): the graph takes pooled features, the Euclidean score the whole activation.
        labels: integers or strings, one a point; or a mapping name -> labels, scored on the same graphs.
        k: neighbours; several are scored from one search.
        metric, graph, duplicates: see `knn_graph` and `undirected`.
        predictions: predicted labels, of the classes of the first labeling; adds the labeling "predicted", and the
            recall of each class.
        heads: for some layers the rest of the network, (b, ...) -> (b, c) logits; adds the Euclidean score there.
        classes: the classes in the order of the logits. Needed with heads where labels are strings; integers are
            columns.
        pool: "cls" (the first token), "mean" (of the tokens), or a function of the activations.
        max_pairs: pairs of a class drawn for the graph score; by default all pairs.
        max_sources, tolerance: draw points of a class and score their pairs with all others, so many, or until every
            interval is that narrow; see `graph_convexity`. Above 100,000 points 64 by default.
        max_segments, num_points: most segments of a class for the Euclidean score, and points inside each.
        max_points: score a sample of so many points, stratified by the first labeling.
        jackknife: whether to rebuild the graph without each of 10 groups of points, for intervals and paired
            comparisons; by default up to 10,000 points, and not with a protocol.
        permutations: random labelings for the permutation null; 0 for none.
        confidence: of all intervals.
        key: a JAX random key; key(0) by default. Groups depend on it, on the first labeling and on nothing else.
        background: the label of points that belong to no class; for integers -1 means that too.
        protocol: "paper" for the choices of Tětková et al.: k = 10, union, duplicates dropped, 5,000 pairs a class.
        cache: a folder where finished layers are kept, and found again by a call with the same data and settings.
        mesh: devices that share the searches for neighbours and paths. Every process of a cluster makes the same call and
            gets the whole report; the first alone writes the cache.
        memory: bytes that either search may take beyond the layer, on each device: see `knn_graph`, `graph_convexity`.
        progress: a bar on stderr.

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
    )
    labelings = encode_all(labels, predictions, background=background, classes=classes)
    layers = dict(representations) if isinstance(representations, Mapping) else {"representation": representations}
    n = len(next(iter(labelings.values())).codes)
    _check_layers(layers, n, max_points, settings, pool, heads or {})
    key = jax.random.key(0) if key is None else key
    sample_key, group_key, score_key = jax.random.split(key, 3)
    main = next(iter(labelings.values())).codes
    chosen = np.arange(n)
    if max_points is not None:
        chosen = stratified_sample(main, max_points, sample_key)
        labelings = {name: one._replace(codes=one.codes[chosen]) for name, one in labelings.items()}
        main = main[chosen]
    if settings.jackknife is None:
        settings = settings._replace(jackknife=protocol is None and len(chosen) <= JACKKNIFED)
    if settings.max_pairs is None and settings.tolerance is None:
        settings = settings._replace(max_sources=sources_by_default(len(chosen), settings.max_sources))
    groups = jackknife_groups(main, group_key, num_groups=GROUPS)

    recorded = {**settings._asdict(), "metric": getattr(metric, "__name__", metric), "k": list(settings.k)}
    recorded |= {"protocol": protocol, "max_points": max_points, "key": np.asarray(jax.random.key_data(key)).tolist()}
    recorded |= {"pool": getattr(pool, "__name__", pool), "num_points_scored": len(chosen), "background": background}
    label_hashes = {name: _hash(one.codes, json.dumps(one.classes).encode()) for name, one in labelings.items()}
    hashes = {}
    rows: list[Row] = []
    with tqdm(total=len(layers), desc="layers", unit="layer", disable=not progress, leave=False) as bar:
        for index, (name, array) in enumerate(layers.items()):
            bar.set_postfix_str(str(name))
            array = np.asarray(array)[chosen]
            hashes[str(name)] = _hash(array)
            head = (heads or {}).get(name)
            kept = None
            if cache is not None and head is None:  # what a head computes cannot be told from its name
                identity = json.dumps(
                    [hashes[str(name)], label_hashes, recorded, _version()], sort_keys=True, default=str
                )
                kept = Path(cache) / f"{hashlib.sha256(identity.encode()).hexdigest()[:32]}.json"
            if kept is not None and kept.exists():
                found = read_report(kept).rows
            else:
                found = layer_rows(
                    array,
                    labelings,
                    groups,
                    settings,
                    pool=pool,
                    head=head,
                    classes=classes,
                    key=score_key,
                    mesh=mesh,
                    memory=memory,
                    name=f"layer {name!r}",
                )
                if kept is not None and jax.process_index() == 0:
                    kept.parent.mkdir(parents=True, exist_ok=True)
                    Report(found, recorded, {}).to_json(kept)
            rows += [row._replace(layer=str(name), layer_index=index) for row in found]
            bar.update()
    provenance = {
        "versions": {name: metadata.version(name) for name in ("jax", "jaxlib", "numpy", "scipy")}
        | {"jaxconvex": _version(), "python": platform.python_version()},
        "device": f"{jax.devices()[0].device_kind} ({jax.default_backend()})",
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "sha256": {"layers": hashes, "labels": label_hashes},
        "groups": _hash(groups) if settings.jackknife else None,
    }
    return Report(tuple(rows), recorded, provenance)


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


def _hash(array: np.ndarray, *more: bytes) -> str:
    digest = hashlib.sha256(f"{array.dtype} {array.shape}".encode())
    for part in (np.ascontiguousarray(array).tobytes(), *more):
        digest.update(part)
    return digest.hexdigest()


def _version() -> str:
    import jaxconvex

    return jaxconvex.__version__


def _check_layers(layers: dict, n: int, max_points: int | None, settings: Settings, pool: Any, heads: Mapping) -> None:
    if not layers:
        raise ValueError("representations must hold at least one layer; got an empty mapping.")
    unknown = [name for name in heads if name not in layers]
    if unknown:
        raise ValueError(f"heads names {unknown[0]!r}, which is no layer; the layers are {list(layers)}.")
    for name, array in layers.items():
        shape = np.shape(array)
        if len(shape) < 1 or shape[0] != n:
            raise ValueError(f"layer {name!r} must have one row for each of {n} labels; got shape {shape}.")
        if len(shape) != 2 and pool is None:
            raise ValueError(
                f"layer {name!r} must have shape (n, d); got {shape}. Name how to pool the tokens, pool='mean' or 'cls'."
            )
    n = n if max_points is None else min(n, positive_integer(max_points, "max_points"))
    for each in settings.k:
        positive_integer(each, "k", most=n - 1, why=f" for {n} points (a point is no neighbour of itself)")
