"""What variants of a measurement share: the score of a layer, and what a variant changes in a profile."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, PRNGKeyArray

from jaxconvex._internal.checks import as_points, positive_integer
from jaxconvex.evaluation.labelings import Labeling
from jaxconvex.neighbors.knn import KNNGraph
from jaxconvex.paths.layout import pack
from jaxconvex.scores.packed import packed_scores
from jaxconvex.statistics.correlation import spearman
from jaxconvex.study.results import VariantRow

__all__ = ["Points", "Progress", "Summary", "macro_scores", "summary", "variant_rows"]

Points = Float[np.ndarray, "n d"]


Progress = Callable[[int, int], object]  # called after a layer: its number from 1, their number


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
    summaries = []
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
        summaries.append(
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
    return summaries


def variant_rows(
    question: str,
    layers: Mapping[str, Any],
    labelings: Mapping[str, Labeling],
    measured: Callable[[Points, int], Iterable[tuple[str, Mapping[str, float], int]]],
    *,
    network: str,
    seed: int | None,
    k: int,
    progress: Progress | None,
) -> list[VariantRow]:
    """The rows of a question, layer by layer.

    `measured` gives, of a layer's features and its number, each variant with its score by labeling and its points. `network`
    and `seed` are what the rows say; `progress` is called after each layer.
    """
    rows: list[VariantRow] = []
    for index, name in enumerate(layers):
        for variant, scores, size in measured(_features(layers[name], name, labelings, k), index):
            common = (question, variant, network, seed)
            rows += [VariantRow(*common, labeling, name, index, score, size) for labeling, score in scores.items()]
        if progress is not None:
            progress(index + 1, len(layers))
    return rows


def _features(x: Any, name: str, labelings: Mapping[str, Labeling], k: int) -> Points:
    """The features of a layer in float32. Raises ValueError where they do not fit the labels, or k the points."""
    points = np.asarray(as_points(x, f"layer {name!r}"), np.float32)
    n = len(next(iter(labelings.values())).codes)
    if len(points) != n:
        raise ValueError(f"layer {name!r} must have a row for each of {n} labels; got {len(points)} rows.")
    positive_integer(k, "k", most=n - 1, why=f" for {n} points (a point is no neighbour of itself)")
    return points


def macro_scores(
    graph: KNNGraph, labelings: Mapping[str, Labeling], key: PRNGKeyArray, *, mode: str = "union"
) -> dict[str, float]:
    """The macro score of each labeling; all share the paths."""
    codes = [labeling.codes for labeling in labelings.values()]
    scores = packed_scores(
        pack(graph, mode=mode), codes, [len(labeling.classes) for labeling in labelings.values()], key=key
    )
    return {name: float(score.macro) for name, score in zip(labelings, scores, strict=True)}


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
