"""The permutation null: the scores that random labels would get on the same graph."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jaxconvex.blocks import on_devices
from jaxconvex.checks import as_labels, positive_integer
from jaxconvex.frontier import chosen_rows, distances_from, fold_neighbors, fold_rows, put_rows, rows_of
from jaxconvex.graphs import Graph, PackedGraph, pack
from jaxconvex.neighbors import KNNGraph
from jaxconvex.paths import OUTSIDE, cheapest, infinity, rounding_slack
from jaxconvex.packed_scores import packed_graph_convexity

__all__ = ["Null", "NullScore", "permutation_null"]

WORK = 4e9  # sources times points times permutations, beyond which sources are sampled: some seconds on two cores
TOGETHER = 256  # permutations solved together
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
        key: a JAX random key.
        num_permutations: number of permutations; the smallest p-value is 1 / (1 + this).
        max_sources: score the pairs of so many random points with all their partners, instead of all pairs. By default
            all points while points^2 x permutations is below 4e9 (2,000 points, 1,000 permutations); above, as many as
            that allows, at least 64. Sampling widens the null a little, so that p-values err on the large side.
        confidence: of the interval, which holds that share of the permuted scores.

    The paths are searched once. Labels only decide between equally short paths, and what a path holds, so each further
    permutation costs a pass over one shortest-path tree a source. The p-value is (1 + #{permuted >= observed}) / (1 +
    permutations): small where the score is larger than random labels give.

    Raises:
        ValueError: as `graph_convexity`; num_permutations or max_sources below 1.

    Cost: sources x points x permutations x hops; memory 8 bytes x points x 256 a core.

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
    shuffle_key, source_key = jax.random.split(key)
    sources = np.asarray(packed.position)[np.asarray(jax.random.permutation(source_key, labelled))[:count]]

    padded = -(-num_permutations // TOGETHER) * TOGETHER if num_permutations > TOGETHER else num_permutations
    values = jnp.asarray(codes[labelled])
    shuffled = jax.vmap(lambda k: jax.random.permutation(k, values))(jax.random.split(shuffle_key, padded))
    permuted = np.full((n, padded), -1, np.int32)
    permuted[labelled] = np.asarray(shuffled).T
    permuted = permuted[np.asarray(packed.order)[:n]]
    chunks = jnp.asarray(permuted.reshape(n, -1, min(TOGETHER, padded)).swapaxes(0, 1))

    def solve(some: np.ndarray, device: Any) -> tuple[np.ndarray, np.ndarray]:
        parents, most = _tight_parents(packed, some, 1)
        if int(most) > 1:  # ties
            parents, _ = _tight_parents(packed, some, 1 << (int(most) - 1).bit_length())
        deficit, partners = _permuted_deficits(parents, some, chunks)
        return np.asarray(deficit, np.float64), np.asarray(partners)

    blocks = [np.resize(sources[i : i + BLOCK], BLOCK) for i in range(0, count, BLOCK)]
    lost, pairs = np.zeros((2, num_classes, padded))
    column = np.arange(padded)
    for start, (deficit, partners) in zip(range(0, count, BLOCK), on_devices(solve, blocks), strict=True):
        for i, source in enumerate(sources[start : start + BLOCK]):
            lost[permuted[source], column] += deficit[i]
            pairs[permuted[source], column] += partners[i]
    lost, pairs = lost[:, :num_permutations], pairs[:, :num_permutations]

    observed = packed_graph_convexity(packed, codes, num_classes=num_classes)
    defined = (observed.num_pairs > 0)[:, None] & ~np.isnan(packed.quantum)
    per_class = np.where(defined & (pairs > 0), 1 - lost / np.maximum(pairs, 1), np.nan)
    micro = np.where(
        np.isnan(packed.quantum), np.nan, 1 - lost.sum(0) / np.where(pairs.sum(0) > 0, pairs.sum(0), np.nan)
    )
    seen = np.isfinite(per_class)
    macro = np.where(seen, per_class, 0).sum(0) / np.where(seen.any(0), seen.sum(0), np.nan)
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
    reached = np.sum(safe >= observed[..., None] - 1e-6, axis=-1)
    p_value = (1 + reached) / (1 + np.sum(~np.isnan(safe), axis=-1))
    mean, lower, upper, p_value = (
        np.where(defined, value, np.nan) for value in (np.nanmean(safe, axis=-1), lower, upper, p_value)
    )
    return Null(mean, lower, upper, p_value, samples)


@partial(jax.jit, static_argnames=("width",))
def _tight_parents(packed: PackedGraph, sources: Int[Array, " s"], width: int) -> tuple[Array, Array]:
    """The last points but one of each row's shortest paths, [s n width] (-1: none), and the most that a row has."""
    n = packed.position.shape[0]
    rows, s = packed.order.shape[0], sources.shape[0]
    nowhere = jnp.full(s, infinity(packed.lengths.dtype))
    distance, _ = distances_from(packed, sources, lambda _: nowhere, most=rows)

    def one(some: Array, live: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        own = rows_of(distance, some)
        reached = own < infinity(own.dtype)
        reach = jnp.where(reached, own + rounding_slack(own, packed.edges.lengths.dtype), -1)

        def step(state: tuple[Array, Array], u: Array, w: Array) -> tuple[Array, Array]:
            parents, count = state
            tight = rows_of(distance, u) + w <= reach
            slot = (count[..., None] == jnp.arange(width)) & tight[..., None]
            return jnp.where(slot, u[:, None, None], parents), count + tight

        empty = jnp.full((*own.shape, width), -1, jnp.int32), jnp.zeros(own.shape, jnp.int32)
        parents, count = fold_neighbors(packed, some, live, empty, step)
        return put_rows(state[0], some, live, parents), jnp.maximum(state[1], jnp.max(count))

    nobody = jnp.full((rows, s, width), -1, jnp.int32)
    parents, most = fold_rows(chosen_rows(packed.count > 0), one, (nobody, jnp.int32(0)))
    return parents[:n].swapaxes(0, 1), most


@jax.jit
def _permuted_deficits(
    parents: Int[Array, "s n w"], sources: Int[Array, " s"], permuted: Int[Array, "chunks n p"]
) -> tuple[Float[Array, "s q"], Int[Array, "s q"]]:
    """Sum of 1 - score over the partners of each source, and their number, for every permutation."""
    n, width = parents.shape[1:]

    def one(item: tuple[Array, Array]) -> tuple[Array, Array]:
        before, source = item

        def chunk(labels: Array) -> tuple[Array, Array]:
            same = labels == labels[source]
            price = jnp.where(same, 1, 1 + OUTSIDE)

            def relax(cost: Array) -> Array:
                left = cost + price  # the cost of going on from each point
                for j in range(width):
                    offer = rows_of(left, jnp.maximum(before[:, j], 0))
                    cost = jnp.minimum(cost, jnp.where(before[:, j : j + 1] >= 0, offer, cost))
                return cost

            start = jnp.full(labels.shape, infinity(jnp.int32)).at[source].set(0)
            cost = cheapest(relax, start)
            hops, outside = cost % OUTSIDE, cost // OUTSIDE
            lost = jnp.where(cost < infinity(jnp.int32), outside / jnp.maximum(hops - 1, 1), 1)
            mine = same & (jnp.arange(n) != source)[:, None]
            return jnp.sum(jnp.where(mine, lost, 0), axis=0), jnp.sum(mine, axis=0)

        deficit, partners = lax.map(chunk, permuted)
        return deficit.reshape(-1), partners.reshape(-1)

    return lax.map(one, (parents, sources))
