"""The permutation null: the scores that random labels would get on the same graph."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jaxconvex.aggregates import UNIT, macro_mean, micro_mean
from jaxconvex.checks import as_labels, positive_integer
from jaxconvex.engine.label_paths import NOBODY, layout_for_labels, path_losses
from jaxconvex.neighbors import KNNGraph
from jaxconvex.packed_scores import packed_scores
from jaxconvex.paths.graph import Graph, PackedGraph
from jaxconvex.paths.layout import pack
from jaxconvex.paths.order import plan
from jaxconvex.streams import on_devices

__all__ = ["Null", "NullScore", "permutation_null"]

WORK = 2e10  # sources times points times permutations, beyond which sources are sampled: some seconds on two cores
TOGETHER = 128  # permutations solved together
DEEP = 100  # hops from a root: beyond, LANES of them, to save memory
LANES = 32  # permutations are rounded up to a multiple of it: a processor's registers hold so many bytes
BLOCK = 16  # sources handed to a core at once


class Null(NamedTuple):
    """Mean, interval and one-sided p-value of a score under random labels; the last axis of `samples` is the permutation."""

    mean: Float[np.ndarray, " ..."]
    lower: Float[np.ndarray, " ..."]
    upper: Float[np.ndarray, " ..."]
    p_value: Float[np.ndarray, " ..."]
    samples: Float[np.ndarray, "... p"]


class NullScore(NamedTuple):
    """The permutation null of each class, and of the two aggregates, with the number of sources it was computed from."""

    per_class: Null
    micro: Null
    macro: Null
    num_sources: int


def permutation_null(
    graph: KNNGraph | Graph | PackedGraph,
    labels: Int[Array, " n"],
    *,
    num_classes: int,
    key: PRNGKeyArray,
    num_permutations: int = 1000,
    max_sources: int | None = None,
    confidence: float = 0.95,
) -> NullScore:
    """Graph convexity under random labels: the same graph, the labels of the points permuted.

    Args:
        graph, labels, num_classes: as for `graph_convexity`. Background points (-1) stay where they are.
        key: a JAX random key. Its data seed NumPy's generator, which permutes: the same on every device.
        num_permutations: number of permutations; the smallest p-value is 1 / (1 + this).
        max_sources: score the pairs of so many random points with all their partners, instead of all pairs. By default
            all points while points^2 x permutations is below 2e10 (4,472 points, 1,000 permutations); above, as many as
            that allows, at least 64. Sampling widens the null a little, so that p-values err on the large side.
        confidence: of the interval, which holds that share of the permuted scores.

    The paths are searched once. Labels only decide between equally short paths, and what a path holds, so each further
    permutation costs a byte for each point of one shortest-path tree a source. The p-value is (1 + #{permuted >=
    observed}) / (1 + permutations): small where the score is larger than random labels give.

    Raises:
        ValueError: as `graph_convexity`; num_permutations or max_sources below 1.

    Cost: sources x points x permutations bytes, read and written some times; memory 2 kB x points a core, four times that
    where equally short paths differ in their hops. 1,797 points, 1,000 permutations: about a second on two cores.

    >>> from jaxconvex import knn_graph
    >>> x = jax.random.normal(jax.random.key(0), (40, 2)) + 4 * jnp.repeat(jnp.eye(2), 20, axis=0)
    >>> null = permutation_null(knn_graph(x, k=3), np.repeat([0, 1], 20), num_classes=2, key=jax.random.key(1),
    ...                         num_permutations=99)
    >>> bool(null.micro.mean < 0.8), round(float(null.micro.p_value), 2)
    (True, 0.01)
    """
    positive_integer(num_permutations, "num_permutations")
    packed = graph if isinstance(graph, PackedGraph) else pack(graph)
    n = packed.position.shape[0]
    codes = np.asarray(as_labels(labels, n, num_classes))
    labelled = np.flatnonzero(codes >= 0)
    if max_sources is None:
        max_sources = max(64, int(WORK / (max(n, 1) * num_permutations)))
    count = min(positive_integer(max_sources, "max_sources"), len(labelled))
    sources = _draws(key, 1).permutation(labelled)[:count]
    if count:  # near ones side by side: their paths are searched together
        chosen = np.zeros((1, n), bool)
        chosen[0, sources] = True
        order, _ = plan(packed, codes[None], chosen, num_classes=num_classes, lanes=128)
        sources = np.asarray(packed.order)[np.asarray(order.rows)[:count]]

    most = LANES if int(packed.depth) > DEEP else TOGETHER
    together = min(most, -(-num_permutations // LANES) * LANES)
    padded = -(-num_permutations // together) * together
    permuted = permuted_labels(codes.astype(np.min_scalar_type(-max(num_classes, -NOBODY))), padded, key)
    rows = np.full((len(packed.order) + 1, padded), NOBODY, permuted.dtype)
    rows[np.asarray(packed.position)] = permuted
    chunks = [jnp.asarray(rows[:, i : i + together]) for i in range(0, padded, together)]
    layout, position = layout_for_labels(packed), np.asarray(packed.position)

    def solve(some: np.ndarray, device: Any) -> np.ndarray:
        return path_losses(layout, position[some], chunks)

    blocks = [np.resize(sources[i : i + BLOCK], BLOCK) for i in range(0, count, BLOCK)]
    size = _sizes(permuted[labelled], num_classes)
    drawn = _sizes(permuted[sources], num_classes)
    pairs = (drawn * (size - 1))[:, :num_permutations]
    apart = drawn * size  # pairs without a path
    for members in _components(packed):
        apart -= _sizes(permuted[np.intersect1d(members, sources)], num_classes) * _sizes(
            permuted[members], num_classes
        )
    lost = UNIT * apart.astype(np.int64)
    for start, losses in zip(range(0, count, BLOCK), on_devices(solve, blocks), strict=True):
        some = permuted[sources[start : start + BLOCK]]
        lost += _sizes(some, num_classes, losses[: len(some)]).astype(np.int64)
    lost = lost[:, :num_permutations]

    observed = packed_scores(packed, [codes], [num_classes])[0]
    defined = (observed.num_pairs > 0)[:, None] & ~np.isnan(packed.quantum)
    per_class = np.where(defined & (pairs > 0), 1 - lost / UNIT / np.maximum(pairs, 1), np.nan)
    scored = np.where(np.isnan(per_class), 0, pairs)
    micro, macro = (mean(per_class.T, scored.T / 2) for mean in (micro_mean, macro_mean))
    summarise = partial(_summarise, confidence=confidence)
    return NullScore(
        summarise(per_class, observed.per_class),
        summarise(micro, np.asarray(observed.micro)),
        summarise(macro, np.asarray(observed.macro)),
        count,
    )


def _summarise(samples: np.ndarray, observed: np.ndarray, confidence: float) -> Null:
    tail = (1 - confidence) / 2
    defined = ~np.isnan(samples).all(axis=-1)
    safe = np.where(defined[..., None], samples, 0)
    lower, upper = np.nanquantile(safe, [tail, 1 - tail], axis=-1)
    # A rounding error is no difference between a permuted score and the observed one.
    reached = np.sum(safe >= observed[..., None] - 1e-12, axis=-1)
    p_value = (1 + reached) / (1 + np.sum(~np.isnan(safe), axis=-1))
    mean, lower, upper, p_value = (
        np.where(defined, value, np.nan) for value in (np.nanmean(safe, axis=-1), lower, upper, p_value)
    )
    return Null(mean, lower, upper, p_value, samples)


def permuted_labels(codes: Int[np.ndarray, " n"], number: int, key: PRNGKeyArray) -> Int[np.ndarray, "n p"]:
    """The labels that the null scores, a column each; more of them go on from fewer.

    >>> permuted_labels(np.array([0, 0, 1, -1]), 2, jax.random.key(0))[3].tolist()
    [-1, -1]
    """
    permuted = np.repeat(codes[:, None], number, axis=1)
    labelled = codes >= 0
    permuted[labelled] = _draws(key, 0).permuted(np.tile(codes[labelled], (number, 1)), axis=1).T
    return permuted


def _draws(key: PRNGKeyArray, stream: int) -> np.random.Generator:
    return np.random.default_rng([*np.asarray(jax.random.key_data(key)).ravel(), stream])


def _sizes(
    labels: Int[np.ndarray, "m p"], num_classes: int, weights: Float[np.ndarray, "m p"] | None = None
) -> Float[np.ndarray, "c p"]:
    """The number of points of each class under each labeling, or the sum of their weights; background left out."""
    p = labels.shape[1]
    place = (labels.astype(np.int64) + 1) * p + np.arange(p)
    found = np.bincount(place.ravel(), None if weights is None else weights.ravel(), (num_classes + 1) * p)
    return found.reshape(-1, p)[1:].astype(np.float64)


def _components(packed: PackedGraph) -> list[Int[np.ndarray, " m"]]:
    """The points of each connected component."""
    component = np.asarray(packed.component)[np.asarray(packed.position)]
    order = np.argsort(component, kind="stable")
    return np.split(order, np.cumsum(np.bincount(component))[:-1]) if len(component) else []
