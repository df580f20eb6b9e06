"""The permutation null: the scores that random labels would get on the same graph."""

from __future__ import annotations

from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import sequential_vmap
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from jaxconvex._internal.checks import as_labels, is_concrete, known_values, positive_integer
from jaxconvex._internal.devices import in_mesh, outside_meshes
from jaxconvex._internal.loops import scan
from jaxconvex._internal.streams import on_devices
from jaxconvex.neighbors.knn import KNNGraph
from jaxconvex.paths.chains import chain_tolerance, edge_matrix, is_long
from jaxconvex.paths.graph import Graph, PackedGraph, without_places
from jaxconvex.paths.layout import pack
from jaxconvex.paths.order import most_lanes, plan_of_arrays
from jaxconvex.scores.aggregates import FINE_BITS, UNIT, ConvexityScore, fraction_of, macro_mean, micro_mean
from jaxconvex.scores.packed import packed_scores, static_score
from jaxconvex.statistics.trees import losses_along, path_losses

__all__ = ["Null", "NullScore", "null_of_macro", "null_score", "permutation_null"]

WORK = 2e10  # sources times points times permutations, beyond which sources are sampled: some seconds on two cores
BLOCK = 16  # sources searched together, and handed to a core at once
NOBODY = -2  # a label that no point has


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
        key: a JAX random key. The permutations it gives are the same on every device.
        num_permutations: number of permutations; the smallest p-value is 1 / (1 + this).
        max_sources: score the pairs of so many random points with all their partners, instead of all pairs. By default
            all points while points^2 x permutations is below 2e10 (4,472 points, 1,000 permutations); above, as many as
            that allows, at least 64. Sampling widens the null a little, so that p-values err on the large side.
        confidence: of the interval, which holds that share of the permuted scores.

    The paths are searched once. Labels only decide between equally short paths, and what a path holds, so each further
    permutation costs a byte for each point of one shortest-path tree a source. The p-value is (1 + #{permuted >=
    observed}) / (1 + permutations): small where the score is larger than random labels give.

    Under jit and vmap the same permutations are scored, with results in JAX's own floating-point type where concrete
    arrays give float64; long chains by lengths in whole quanta, as everywhere under jit. num_sources is an array there.

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
    codes = as_labels(labels, n, num_classes)
    if max_sources is None:
        max_sources = max(64, int(WORK / (max(n, 1) * num_permutations)))
    count = min(positive_integer(max_sources, "max_sources"), n)
    if not is_concrete(packed, codes, key):
        return _static_form(num_classes, num_permutations, count, confidence)(packed, codes, key)
    with outside_meshes(), known_values():  # all may be constants inside jit
        found = _host_losses(packed, codes, key, num_classes, num_permutations, count)
        return null_score(*found, num_classes=num_classes, confidence=confidence, xp=np)


def null_of_macro(null: NullScore, kept: Bool[np.ndarray, " c"], macro: Any, confidence: float) -> Null:
    """The null of the mean over some of the classes, of which `macro` was observed."""
    samples = null.per_class.samples[kept]
    return _summarise(macro_mean(samples.T, ~np.isnan(samples.T)), np.asarray(macro), confidence, np)


@cache
def _static_form(num_classes: int, number: int, count: int, confidence: float) -> Any:
    @jax.jit
    @in_mesh
    @sequential_vmap  # so that a batch takes the memory of one
    def score(packed: PackedGraph, codes: Array, key: PRNGKeyArray) -> NullScore:
        found = _static_losses(packed, codes, key, num_classes, number, count)
        return null_score(*found, num_classes=num_classes, confidence=confidence, xp=jnp)

    return score


def _host_losses(
    packed: PackedGraph, codes: Array, key: PRNGKeyArray, num_classes: int, number: int, count: int
) -> tuple[Any, ...]:
    """The observed score, the losses [c p] in float64, pairs [c p] and sources; blocks of these on all cores."""
    labels, position = np.asarray(codes), np.asarray(packed.position)
    permuted, drawn = _draw(codes, key, num_classes, number, count)
    sources = np.asarray(drawn)[: np.count_nonzero(labels >= 0)]
    if len(sources):  # near ones side by side: their paths are searched together
        order, _ = plan_of_arrays(packed, labels[None], num_classes=num_classes, lanes=most_lanes(len(labels)))
        listed = np.asarray(packed.order)[np.asarray(order.rows)[: int(order.number)]]
        sources = listed[np.isin(listed, sources)]
    by_row = _by_row(packed, permuted)
    if is_long(packed):
        find = _chain_losses(packed)
    else:
        find = partial(_path_losses, without_places(packed), whole=bool(packed.quantum > 0))

    def solve(some: np.ndarray, device: Any) -> np.ndarray:
        coarse, fine = (np.asarray(part).astype(np.int64) for part in find(position[some], by_row))
        return (coarse << FINE_BITS) + fine

    permuted = np.asarray(permuted)
    lost = np.zeros((num_classes, number), np.int64)
    starts = range(0, len(sources), BLOCK)
    blocks = (np.resize(sources[i : i + BLOCK], BLOCK) for i in starts)
    for start, losses in zip(starts, on_devices(solve, blocks), strict=True):
        some = permuted[sources[start : start + BLOCK]]
        lost += _by_class(some, losses[: len(some)], num_classes, np).astype(np.int64)
    size = np.bincount(labels[labels >= 0], minlength=num_classes)[:, None]
    pairs = _by_class(permuted[sources], np.ones((len(sources), number)), num_classes, np) * (size - 1)
    return packed_scores(packed, [labels], [num_classes])[0], lost / UNIT, pairs, len(sources), packed


def _static_losses(
    packed: PackedGraph, codes: Array, key: PRNGKeyArray, num_classes: int, number: int, count: int
) -> tuple[Any, ...]:
    """The same of static size, a block of sources at a time."""
    permuted, sources = _draw(codes, key, num_classes, number, count)
    by_row, labelled = _by_row(packed, permuted), jnp.sum(codes >= 0)
    blocks = jnp.pad(sources, (0, -count % BLOCK)).reshape(-1, BLOCK)
    drawn = (jnp.arange(blocks.size) < jnp.minimum(labelled, count)).reshape(blocks.shape)

    def add(sums: Array, block: tuple[Array, Array]) -> tuple[Array, None]:
        some, there = block
        losses = fraction_of(path_losses(packed, packed.position[some], by_row), float_type)
        own = jnp.where(there[:, None], permuted[some], -1)
        both = (_by_class(own, values, num_classes, jnp) for values in (losses, jnp.ones_like(losses)))
        return sums + jnp.stack([*both]), None

    float_type = jax.dtypes.canonicalize_dtype(float)
    (lost, drawn_of), _ = scan(add, jnp.zeros((2, num_classes, number), float_type), (blocks, drawn))
    size = jnp.bincount(jnp.where(codes < 0, num_classes, codes), length=num_classes + 1)[:num_classes, None]
    observed = static_score(packed, codes, num_classes=num_classes, max_pairs=None, max_sources=None, key=None)
    lost = jnp.where(jnp.any((codes < -1) | (codes >= num_classes)), jnp.nan, lost)
    return observed, lost, drawn_of * (size - 1).astype(float_type), jnp.minimum(labelled, count), packed


def null_score(
    observed: ConvexityScore,
    lost: Any,
    pairs: Any,
    count: Any,
    packed: PackedGraph,
    *,
    num_classes: int,
    confidence: float,
    xp: Any,
) -> NullScore:
    """The null of an observed score, of what permuted labels lose in how many ordered pairs [c p]."""
    defined = (observed.num_pairs > 0)[:, None] & ~xp.isnan(xp.asarray(packed.quantum))
    per_class = xp.where(defined & (pairs > 0), 1 - lost / xp.maximum(pairs, 1), xp.nan)
    scored = xp.where(xp.isnan(per_class), 0, pairs)
    micro, macro = (mean(per_class.T, scored.T / 2) for mean in (micro_mean, macro_mean))
    summarise = partial(_summarise, confidence=confidence, xp=xp)
    return NullScore(
        summarise(per_class, observed.per_class),
        summarise(micro, xp.asarray(observed.micro)),
        summarise(macro, xp.asarray(observed.macro)),
        count,
    )


def _summarise(samples: Any, observed: Any, confidence: float, xp: Any) -> Null:
    tail = (1 - confidence) / 2
    defined = ~xp.isnan(samples).all(axis=-1)
    safe = xp.where(defined[..., None], samples, 0)
    lower, upper = xp.nanquantile(safe, xp.asarray([tail, 1 - tail]), axis=-1)
    # A rounding error is no difference between a permuted score and the observed one.
    rounding = max(1e-12, 16 * float(jnp.finfo(samples.dtype).eps))
    reached = xp.sum(safe >= observed[..., None] - rounding, axis=-1)
    p_value = (1 + reached) / (1 + xp.sum(~xp.isnan(safe), axis=-1))
    mean, lower, upper, p_value = (
        xp.where(defined, value, xp.nan) for value in (xp.nanmean(safe, axis=-1), lower, upper, p_value)
    )
    return Null(mean, lower, upper, p_value, samples)


@partial(jax.jit, static_argnums=(2, 3, 4))
def _draw(codes: Array, key: PRNGKeyArray, num_classes: int, number: int, count: int) -> tuple[Array, Array]:
    """The labels that the null scores, in few bytes, and random points, labelled ones first."""
    bits = jax.random.bits(jax.random.fold_in(key, 1), codes.shape, jnp.uint32)
    points = jnp.argsort(jnp.where(codes < 0, jnp.uint32(2**31), bits >> 1), stable=True)[:count]
    few = np.min_scalar_type(-max(num_classes, -NOBODY))
    return permuted_labels(codes.astype(few), number, key, num_classes), points.astype(jnp.int32)


@partial(jax.jit, static_argnums=(1, 3))
def permuted_labels(codes: Int[Array, " n"], number: int, key: PRNGKeyArray, num_classes: int) -> Int[Array, "n p"]:
    """The labels that the null scores, a column each; more of them go on from fewer.

    >>> permuted_labels(jnp.array([0, 0, 1, -1]), 2, jax.random.key(0), 2)[3].tolist()
    [-1, -1]
    """
    codes = jnp.asarray(codes)
    labelled, mask = codes >= 0, jnp.uint32(2 ** (num_classes - 1).bit_length() - 1)
    listed = jnp.argsort(~labelled, stable=True)  # background last

    def one(i: Array) -> Array:
        """The labels in a random order: a label is sorted as the low bits of a random number, the fastest sort by far.

        Where high bits are equal, the low ones decide, flipped at random so that no label is favoured.
        """
        own, flip = jax.random.split(jax.random.fold_in(jax.random.fold_in(key, 0), i))
        flipped = jax.random.bits(flip, (), jnp.uint32) & mask
        numbers = jax.random.bits(own, codes.shape, jnp.uint32) & ~mask | (codes.astype(jnp.uint32) & mask) ^ flipped
        ordered = jnp.sort(jnp.where(labelled, numbers, jnp.uint32(2**32 - 1)))
        return ((ordered & mask) ^ flipped).astype(codes.dtype)

    shuffled = jax.vmap(one)(jnp.arange(number)).T
    shuffled = jnp.where(labelled[listed][:, None], shuffled, codes[listed][:, None])
    return jnp.zeros_like(shuffled).at[listed].set(shuffled, unique_indices=True)


_path_losses = jax.jit(path_losses, static_argnames="whole")


def _chain_losses(packed: PackedGraph) -> Any:
    """`path_losses` of a long chain as the score has it: by Dijkstra's algorithm on the host, in float64."""
    from scipy.sparse import csgraph

    matrix, tolerance = edge_matrix(packed), chain_tolerance(packed)
    lengths = np.asarray(packed.lengths, np.float64)
    with jax.enable_x64(True):
        wide = packed._replace(lengths=jnp.asarray(np.maximum(lengths, np.finfo(float).tiny)))  # as in the matrix

    def find(sources: np.ndarray, labels: Array) -> Any:
        distance = csgraph.dijkstra(matrix, directed=True, indices=sources).T
        with jax.enable_x64(True):
            slack = np.where(np.isfinite(distance), tolerance * distance, 0)
            return _losses_along(wide, distance, slack, sources, labels)

    return find


_losses_along = jax.jit(losses_along)


@jax.jit
def _by_row(packed: PackedGraph, permuted: Array) -> Array:
    rows = jnp.full((packed.order.shape[0], permuted.shape[1]), NOBODY, permuted.dtype)
    return rows.at[packed.position].set(permuted)


def _by_class(labels: Int[Any, "m p"], values: Any, num_classes: int, xp: Any) -> Float[Any, "c p"]:
    """The sum of the values of each class under each labeling; background left out."""
    p = labels.shape[1]
    place = xp.where(labels < 0, num_classes, labels.astype(xp.int32)) * p + xp.arange(p)
    size = {"minlength" if xp is np else "length": (num_classes + 1) * p}
    return xp.bincount(place.ravel(), values.ravel(), **size).reshape(-1, p)[:-1]
