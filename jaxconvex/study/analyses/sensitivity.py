"""Does a conclusion depend on the settings? Graph convexity with other k, metrics, graphs and numbers of points."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, PRNGKeyArray

from jaxconvex.evaluation.labelings import Labeling, encode_all, stratified_sample
from jaxconvex.neighbors.knn import KNNGraph, knn_graph
from jaxconvex.study.analyses.variants import Points, Progress, macro_scores, variant_rows
from jaxconvex.study.results import VariantRow

__all__ = ["NEIGHBOURS", "SAMPLES", "left_out", "sensitivity"]

NEIGHBOURS = (5, 10, 20, 40)


SAMPLES = {"half the points": 2, "a quarter of the points": 4}


def sensitivity(
    layers: Mapping[str, Float[np.ndarray, "n d"]],
    labelings: Mapping[str, Any],
    *,
    network: str,
    seed: int | None,
    key: PRNGKeyArray,
    k: int = 10,
    metric: str = "euclidean",
    progress: Progress | None = None,
) -> list[VariantRow]:
    """The macro graph convexity of every layer with other settings.

    The variants: "none" (k neighbours by the metric, union, all points); "k = 5" to "k = 40"; "cosine" ("euclidean", where
    the metric is that); "mutual"; "half the
    points" and "a quarter of the points", drawn so that each class keeps its share, the others being no part of the
    graph.

    Args: as for `reparametrizations`. The key draws the points: the same ones for all layers, and for all networks
        that are given the same key, since classes are those of the first labeling that is not "predicted".

    What n points are too few for is left out: see `left_out`. The cosine score is nan where a point is 0 and so has no
    direction.

    Raises:
        ValueError: as `reparametrizations`.

    Cost: four searches for neighbours and eight for paths a layer.

    >>> import jax
    >>> x = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    >>> about = {"network": "pretrained", "seed": None, "key": jax.random.key(0), "k": 5}
    >>> rows = sensitivity({"layer 1": x}, {"digit": np.arange(30) % 2}, **about)
    >>> [row.variant for row in rows]
    ['none', 'k = 5', 'k = 10', 'k = 20', 'cosine', 'mutual', 'half the points', 'a quarter of the points']
    """
    encoded = encode_all(labelings, None, background=None, classes=None)
    main = next((labeling for name, labeling in encoded.items() if name != "predicted"), next(iter(encoded.values())))
    n = len(main.codes)
    missing = left_out(n, k=k)
    widths = {f"k = {width}": width for width in NEIGHBOURS if f"k = {width}" not in missing}
    room = max(k, *widths.values()) if widths else k
    samples = {
        name: stratified_sample(main.codes, n // share, key) for name, share in SAMPLES.items() if name not in missing
    }
    other = "cosine" if metric != "cosine" else "euclidean"

    def measured(x: Points, index: int) -> Iterator[tuple[str, dict[str, float], int]]:
        nearest = knn_graph(jnp.asarray(x), k=room, metric=metric)
        of_width = {width: macro_scores(_first(nearest, width, room), encoded, key) for width in {k, *widths.values()}}
        by_variant = {"none": of_width[k]} | {variant: of_width[width] for variant, width in widths.items()}
        if other == "cosine" and not np.all(np.any(x != 0, axis=1)):
            by_variant[other] = dict.fromkeys(encoded, float("nan"))
        else:
            graph = knn_graph(jnp.asarray(x), k=k, metric=other)
            by_variant[other] = macro_scores(_first(graph, k, room), encoded, key)
        by_variant["mutual"] = macro_scores(_first(nearest, k, room), encoded, key, mode="mutual")
        for variant, chosen in samples.items():
            graph = knn_graph(jnp.asarray(x[chosen]), k=k, metric=metric)
            by_variant[variant] = macro_scores(graph, _of_points(encoded, chosen), key)
        yield from ((variant, scores, len(samples.get(variant, x))) for variant, scores in by_variant.items())

    about: dict[str, Any] = {"network": network, "seed": seed, "k": k, "progress": progress}
    return variant_rows("sensitivity", layers, encoded, measured, **about)


def left_out(n: int, *, k: int = 10) -> list[str]:
    """The variants of `sensitivity` that n points are too few for: each needs more points than neighbours.

    >>> left_out(30)
    ['k = 40', 'a quarter of the points']
    """
    wide = [f"k = {width}" for width in NEIGHBOURS if width >= n]
    return wide + [name for name, share in SAMPLES.items() if k >= n // share]


def _first(graph: KNNGraph, k: int, room: int) -> KNNGraph:
    """The first k neighbours, and absent ones: graphs of many k then share a compilation, which takes longer than they."""
    padding = ((0, 0), (0, room - k))
    indices, distances = (np.asarray(part)[:, :k] for part in graph)
    return KNNGraph(
        jnp.asarray(np.pad(indices, padding, constant_values=-1)),
        jnp.asarray(np.pad(distances, padding, constant_values=np.inf)),
    )


def _of_points(labelings: Mapping[str, Labeling], chosen: Int[np.ndarray, " m"]) -> dict[str, Labeling]:
    return {name: labeling._replace(codes=labeling.codes[chosen]) for name, labeling in labelings.items()}
