"""Does a conclusion depend on how the features are written down, or on the settings? Graph convexity, measured anew."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray
from scipy.linalg import eigh

from jaxconvex.checks import as_points, positive_integer
from jaxconvex.engine.packed_scores import packed_scores
from jaxconvex.graphs import pack
from jaxconvex.labelings import Labeling, encode_all, stratified_sample
from jaxconvex.neighbors import KNNGraph, knn_graph
from jaxconvex.statistics import spearman
from jaxconvex.study.results import VariantRow

__all__ = [
    "NEIGHBOURS", "REPARAMETRIZATIONS", "SAMPLES", "Summary",
    "left_out", "reparametrizations", "sensitivity", "summary",
]  # fmt: skip

Points = Float[np.ndarray, "n d"]
Progress = Callable[[int, int], object]  # called after a layer: its number from 1, their number

NEIGHBOURS = (5, 10, 20, 40)
SAMPLES = {"half the points": 2, "a quarter of the points": 4}
LARGEST_HALF = float(np.finfo(np.float16).max)


class Summary(NamedTuple):
    """What a variant changes in one network: its layers beside those of "none", seeds together.

    Differences are the variant's score minus that of "none", of the same layer and seed. Layers without a score in
    either are left out.
    """

    question: str  # "reparametrization" or "sensitivity"
    variant: str
    labeling: str
    network: str
    num_layers: int
    mean_difference: float  # the mean of their absolute values
    largest_difference: float  # the largest absolute value
    rank_correlation: float  # Spearman, of the two profiles over the layers, mean over seeds; nan for a flat profile
    raised: int | None  # fine-tuned: layers whose mean over seeds is above the pretrained score, both by this variant
    mean_change: float  # fine-tuned minus pretrained, mean over layers; nan without the other network


def _same(x: Points, key: PRNGKeyArray) -> Points:
    return x


def _isometry(x: Points, key: PRNGKeyArray) -> Points:
    random = _generator(key)
    return _float32(_centred(x) @ _rotation(random, x.shape[1]) + x.std() * random.normal(size=x.shape[1]))


def _scaled(x: Points, key: PRNGKeyArray, *, factor: float) -> Points:
    return _float32(factor * x.astype(np.float64))


def _standardised(x: Points, key: PRNGKeyArray) -> Points:
    # Constancy is asked of the values themselves: their mean is rounded, so their deviation need not be 0.
    deviation = np.where(np.ptp(x, axis=0) > 0, x.std(axis=0, dtype=np.float64), np.inf)
    return _float32(_centred(x) / deviation)


def _affine(x: Points, key: PRNGKeyArray, *, condition: float) -> Points:
    # A rotation of the result would change no distance, so U diag(s) stands for U diag(s) V.
    stretch = condition ** np.linspace(0, 1, x.shape[1])
    return _float32(_centred(x) @ _rotation(_generator(key), x.shape[1]) * stretch)


def _principal(x: Points, key: PRNGKeyArray, *, components: int) -> Points:
    centred = _centred(x)
    n, d = centred.shape
    kept = min(components, d, n - 1)
    small = centred.T @ centred if d <= n else centred @ centred.T
    values, vectors = eigh(small, subset_by_index=[len(small) - kept, len(small) - 1])
    return _float32(centred @ vectors if d <= n else vectors * np.sqrt(np.maximum(values, 0)))


def _half_precision(x: Points, key: PRNGKeyArray) -> Points:
    # A power of two changes no digit.
    beyond = np.ceil(np.log2(max(float(np.abs(x).max()) / LARGEST_HALF, 1)))
    return (x / 2.0**beyond).astype(np.float16).astype(np.float32)


REPARAMETRIZATIONS: Mapping[str, Callable[[Points, PRNGKeyArray], Points]] = MappingProxyType(
    {
        "none": _same,
        "isometry": _isometry,  # a random rotation or reflection, and a shift of about one standard deviation
        "scaling": partial(_scaled, factor=7.3),
        "standardization": _standardised,  # each feature mean 0 and deviation 1; constant features 0
        "affine": partial(_affine, condition=10),  # stretches of 1 to 10, evenly spaced logarithms, random directions
        "affine 100": partial(_affine, condition=100),
        "pca 50": partial(_principal, components=50),  # or as many as there are
        "float16": _half_precision,  # and back; divided by a power of two first, should it overflow
    }
)


def reparametrizations(
    layers: Mapping[str, Float[np.ndarray, "n d"]],
    labelings: Mapping[str, Any],
    *,
    network: str,
    seed: int | None,
    key: PRNGKeyArray,
    k: int = 10,
    progress: Progress | None = None,
) -> list[VariantRow]:
    """The macro graph convexity of every layer, written down in each of the ways of `REPARAMETRIZATIONS`.

    Args:
        layers: features by name, one row a point, in order of depth; read one layer at a time.
        labelings: labels by name ("predicted", and the data's own), integers or strings.
        network, seed: what the rows say.
        key: of the random maps; every layer and variant has its own. The same key gives the same rows.
        k: neighbours of the graph, 1 to n - 1.
        progress: called after each layer.

    Isometries and scaling keep the graph and its paths (but for near ties, which rounding may turn); other maps
    need not. Maps are computed in float64, and their values are float32.

    Raises:
        ValueError: k not below the number of points; labels that do not fit; no finite features.

    Cost: eight searches for neighbours and paths a layer, and a QR decomposition for each random map, d^3.

    >>> x = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    >>> about = {"network": "pretrained", "seed": None, "key": jax.random.key(0), "k": 5}
    >>> rows = reparametrizations({"layer 1": x}, {"digit": np.arange(30) % 2}, **about)
    >>> [row.variant for row in rows][:3], rows[0].score == rows[2].score
    (['none', 'isometry', 'scaling'], True)
    """
    encoded = encode_all(labelings, None, background=None, classes=None)
    rows: list[VariantRow] = []
    for index, name in enumerate(layers):
        x = _as_features(layers[name], name, encoded, k)
        layer_key = jax.random.fold_in(key, index)
        for number, (variant, change) in enumerate(REPARAMETRIZATIONS.items()):
            changed = change(x, jax.random.fold_in(layer_key, number))
            scores = _scores(knn_graph(jnp.asarray(changed), k=k), encoded, key)
            common = ("reparametrization", variant, network, seed)
            rows += [VariantRow(*common, one, name, index, score, len(x)) for one, score in scores.items()]
        if progress is not None:
            progress(index + 1, len(layers))
    return rows


def sensitivity(
    layers: Mapping[str, Float[np.ndarray, "n d"]],
    labelings: Mapping[str, Any],
    *,
    network: str,
    seed: int | None,
    key: PRNGKeyArray,
    k: int = 10,
    progress: Progress | None = None,
) -> list[VariantRow]:
    """The macro graph convexity of every layer with other settings.

    The variants: "none" (k neighbours, euclidean, union, all points); "k = 5" to "k = 40"; "cosine"; "mutual"; "half the
    points" and "a quarter of the points", drawn so that each class keeps its share, the others being no part of the
    graph.

    Args: as for `reparametrizations`. The key draws the points: the same ones for all layers, and for all networks
        that are given the same key, since classes are those of the first labeling that is not "predicted".

    What n points are too few for is left out: see `left_out`. The cosine score is nan where a point is 0 and so has no
    direction.

    Raises:
        ValueError: as `reparametrizations`.

    Cost: four searches for neighbours and eight for paths a layer.

    >>> x = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    >>> about = {"network": "pretrained", "seed": None, "key": jax.random.key(0), "k": 5}
    >>> rows = sensitivity({"layer 1": x}, {"digit": np.arange(30) % 2}, **about)
    >>> [row.variant for row in rows]
    ['none', 'k = 5', 'k = 10', 'k = 20', 'cosine', 'mutual', 'half the points', 'a quarter of the points']
    """
    encoded = encode_all(labelings, None, background=None, classes=None)
    main = next((one for name, one in encoded.items() if name != "predicted"), next(iter(encoded.values())))
    n = len(main.codes)
    missing = left_out(n, k=k)
    widths = {f"k = {width}": width for width in NEIGHBOURS if f"k = {width}" not in missing}
    room = max(k, *widths.values()) if widths else k
    samples = {
        name: stratified_sample(main.codes, n // share, key) for name, share in SAMPLES.items() if name not in missing
    }
    rows: list[VariantRow] = []
    for index, name in enumerate(layers):
        x = _as_features(layers[name], name, encoded, k)
        nearest = knn_graph(jnp.asarray(x), k=room)
        of_width = {width: _scores(_first(nearest, width, room), encoded, key) for width in {k, *widths.values()}}
        found = {"none": of_width[k]} | {variant: of_width[width] for variant, width in widths.items()}
        if np.all(np.any(x != 0, axis=1)):
            found["cosine"] = _scores(_first(knn_graph(jnp.asarray(x), k=k, metric="cosine"), k, room), encoded, key)
        else:
            found["cosine"] = dict.fromkeys(encoded, float("nan"))
        found["mutual"] = _scores(_first(nearest, k, room), encoded, key, mode="mutual")
        for variant, chosen in samples.items():
            found[variant] = _scores(knn_graph(jnp.asarray(x[chosen]), k=k), _of_points(encoded, chosen), key)
        sizes = {variant: len(chosen) for variant, chosen in samples.items()}
        for variant, scores in found.items():
            common = ("sensitivity", variant, network, seed)
            size = sizes.get(variant, n)
            rows += [VariantRow(*common, one, name, index, score, size) for one, score in scores.items()]
        if progress is not None:
            progress(index + 1, len(layers))
    return rows


def left_out(n: int, *, k: int = 10) -> list[str]:
    """The variants of `sensitivity` that n points are too few for: each needs more points than neighbours.

    >>> left_out(30)
    ['k = 40', 'a quarter of the points']
    """
    wide = [f"k = {width}" for width in NEIGHBOURS if width >= n]
    return wide + [name for name, share in SAMPLES.items() if k >= n // share]


def summary(rows: Sequence[VariantRow]) -> list[Summary]:
    """What each variant changes: a `Summary` for each question, variant, labeling and network, in order of the rows.

    Args:
        rows: of `reparametrizations`, `sensitivity` or both, of one network or several ("pretrained" is what the others
            are compared with), of any seeds. Variants without the rows of "none" are compared with nothing: nan.

    >>> def row(variant, index, score):
    ...     return VariantRow("sensitivity", variant, "pretrained", None, "digit", f"layer {index}", index, score, 50)
    >>> rows = [row("none", 0, 0.5), row("none", 1, 0.75), row("k = 5", 0, 0.25), row("k = 5", 1, 1.0)]
    >>> found = summary(rows)[1]
    >>> found.variant, found.mean_difference, found.largest_difference, found.rank_correlation
    ('k = 5', 0.25, 0.25, 1.0)
    """
    profiles: dict[tuple[str, str, str, str], dict[int | None, dict[int, float]]] = {}
    for row in rows:
        seeds = profiles.setdefault((row.question, row.variant, row.labeling, row.network), {})
        seeds.setdefault(row.seed, {})[row.layer_index] = row.score
    found = []
    for (question, variant, labeling, network), seeds in profiles.items():
        usual = profiles.get((question, "none", labeling, network), {})
        pairs = [_beside(profile, usual.get(seed, {})) for seed, profile in seeds.items()]
        differences = np.concatenate([np.abs(pair[0] - pair[1]) for pair in pairs])
        correlations = [spearman(*pair).coefficient for pair in pairs]
        raised, change = None, float("nan")
        before = profiles.get((question, variant, labeling, "pretrained"), {})
        if network != "pretrained" and before:
            after, start = _beside(_mean_profile(seeds), _mean_profile(before))
            raised, change = int(np.sum(after > start)), _mean(after - start)
        found.append(
            Summary(
                question,
                variant,
                labeling,
                network,
                num_layers=max(pair.shape[1] for pair in pairs),
                mean_difference=_mean(differences),
                largest_difference=float(differences.max(initial=0)) if differences.size else float("nan"),
                rank_correlation=_mean(np.array(correlations)),
                raised=raised,
                mean_change=change,
            )
        )
    return found


def _as_features(x: Any, name: str, labelings: Mapping[str, Labeling], k: int) -> Points:
    points = np.asarray(as_points(x, f"layer {name!r}"), np.float32)
    n = len(next(iter(labelings.values())).codes)
    if len(points) != n:
        raise ValueError(f"layer {name!r} must have a row for each of {n} labels; got {len(points)} rows.")
    positive_integer(k, "k", most=n - 1, why=f" for {n} points (a point is no neighbour of itself)")
    return points


def _scores(
    graph: KNNGraph, labelings: Mapping[str, Labeling], key: PRNGKeyArray, *, mode: str = "union"
) -> dict[str, float]:
    """The macro score of each labeling; all share the paths."""
    codes = [one.codes for one in labelings.values()]
    found = packed_scores(pack(graph, mode=mode), codes, [len(one.classes) for one in labelings.values()], key=key)
    return {name: float(score.macro) for name, score in zip(labelings, found, strict=True)}


def _first(graph: KNNGraph, k: int, room: int) -> KNNGraph:
    """The first k neighbours, and absent ones: graphs of many k then share a compilation, which takes longer than they."""
    padding = ((0, 0), (0, room - k))
    indices, distances = (np.asarray(part)[:, :k] for part in graph)
    return KNNGraph(
        jnp.asarray(np.pad(indices, padding, constant_values=-1)),
        jnp.asarray(np.pad(distances, padding, constant_values=np.inf)),
    )


def _of_points(labelings: Mapping[str, Labeling], chosen: Int[np.ndarray, " m"]) -> dict[str, Labeling]:
    return {name: one._replace(codes=one.codes[chosen]) for name, one in labelings.items()}


def _generator(key: PRNGKeyArray | Array) -> np.random.Generator:
    return np.random.default_rng(np.asarray(jax.random.key_data(key)))


def _rotation(random: np.random.Generator, d: int) -> Float[np.ndarray, "d d"]:
    """Uniform over rotations and reflections: the signs of R's diagonal make QR's answer unique (Mezzadri 2007)."""
    q, r = np.linalg.qr(random.normal(size=(d, d)))
    return q * np.sign(np.diag(r))


def _centred(x: Points) -> Points:
    return x - x.mean(axis=0, dtype=np.float64)


def _float32(x: Points) -> Points:
    return x.astype(np.float32)


def _beside(profile: Mapping[int, float], other: Mapping[int, float]) -> Float[np.ndarray, "2 l"]:
    """Both profiles at the layers where both have a score."""
    pairs = np.array([(profile[i], other[i]) for i in profile if i in other], np.float64).reshape(-1, 2)
    return pairs[~np.isnan(pairs).any(axis=1)].T


def _mean_profile(seeds: Mapping[int | None, Mapping[int, float]]) -> dict[int, float]:
    layers = dict.fromkeys(index for profile in seeds.values() for index in profile)
    return {
        index: float(np.mean([profile[index] for profile in seeds.values() if index in profile])) for index in layers
    }


def _mean(values: Float[np.ndarray, " m"]) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")
