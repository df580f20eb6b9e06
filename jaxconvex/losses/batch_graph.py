"""The nearest-neighbour graph of a batch as a matrix of lengths, differentiable in the points."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxconvex._internal import loops
from jaxconvex._internal.checks import lesser
from jaxconvex.neighbors.distances import euclidean

__all__ = ["ABSENT", "batch_graph", "degrees", "in_mean_edges", "shifted"]

ABSENT = jnp.inf  # the length of an edge that is not there
FARTHEST = 100  # powers of two from the spread of the points to the largest entry, lest that overflows
SPARE = 6  # candidates beyond k, since products rank with rounding errors


def batch_graph(x: Float[Array, "n d"], valid: Bool[Array, " n"], k: int) -> Float[Array, "n n"]:
    """The lengths of the union k-nearest-neighbour graph, inf where there is no edge, up to a common factor.

    Which edges there are is chosen without gradient; their lengths are differences with a gradient, 0 between equal
    points. Points that are not valid have no edges. Where there are fewer than k + 1 valid points, all are linked.
    """
    n = x.shape[0]
    x = _scaled(x, valid)
    neighbors = _nearest(lax.stop_gradient(x), valid, k)
    lengths = jax.vmap(lambda a, row: jax.vmap(lambda j: _length(a - x[j]))(row))(x, neighbors)
    there = valid[:, None] & valid[neighbors] & (neighbors != jnp.arange(n)[:, None])
    rows = jnp.arange(n)[:, None]
    directed = jnp.full((n, n), ABSENT, x.dtype).at[rows, neighbors].set(jnp.where(there, lengths, ABSENT))
    return jnp.where(jnp.isinf(directed), directed.T, directed)


def in_mean_edges(lengths: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """The lengths divided by their mean over the edges; 0 where there is no edge, or where all have length 0."""
    edge = jnp.isfinite(lengths)
    known = jnp.where(edge, lengths, 0)
    mean = jnp.sum(known) / jnp.maximum(jnp.sum(edge), 1).astype(known.dtype)
    return known / jnp.where(mean > 0, mean, 1)


def degrees(edge: Bool[Array, "n n"], dtype: Any) -> Float[Array, " n"]:
    """How many edges each point has, but 1 at least."""
    return jnp.maximum(jnp.sum(edge, axis=1), 1).astype(dtype)


def _scaled(x: Float[Array, "n d"], valid: Bool[Array, " n"]) -> Float[Array, "n d"]:
    """The points times a power of two that brings the farthest ones about 1 apart: no digit changes, nothing overflows."""
    fixed = jnp.where(valid[:, None], lax.stop_gradient(x), 0) / 2
    away = jnp.where(valid[:, None], fixed - fixed[jnp.argmax(valid)], 0)
    spread, largest = (jnp.frexp(jnp.max(jnp.abs(values)))[1] for values in (away, fixed))
    return shifted(x, -jnp.maximum(spread, largest - FARTHEST))


def _length(difference: Float[Array, " d"]) -> Float[Array, ""]:
    """The Euclidean norm, also where squares would vanish; its gradient at 0 is 0."""
    largest = jnp.max(jnp.abs(lax.stop_gradient(difference)))
    unit = jnp.where(largest > 0, largest, 1)
    return unit * euclidean(difference / unit, jnp.zeros_like(difference))


def shifted(values: Array, exponent: Int[Array, ...]) -> Array:
    """The values times a power of two: in two steps, since the factor itself may leave the range.

    A division would do, but of several the compiler makes one, by a product that may leave the range.
    """
    half, one = exponent // 2, jnp.ones((), values.dtype)
    return values * jnp.ldexp(one, half) * jnp.ldexp(one, exponent - half)


def _nearest(x: Float[Array, "n d"], valid: Bool[Array, " n"], k: int) -> Int[Array, "n k"]:
    """The k nearest valid points of each, itself left out, ties to the first.

    Ranked by products first, the best again by differences; and all by differences if rounding may have hidden a neighbour.
    """
    n, d = x.shape
    count = jnp.maximum(jnp.sum(valid), 1)
    mean = jnp.sum(jnp.where(valid[:, None], x, 0), axis=0) / count.astype(x.dtype)
    # A point near the mean: a far outlier moves the mean away from all others, and rounding grows with the distance.
    centred = x - x[jnp.argmin(jnp.where(valid, jnp.sum(jnp.square(x - mean), axis=1), jnp.inf))]
    centred = jnp.where(valid[:, None], centred, 0)
    half = 0.5 * jnp.sum(jnp.square(centred), axis=1)
    scores = half - jnp.matmul(centred, centred.T, precision=lax.Precision.HIGHEST)
    excluded = ~valid | jnp.eye(n, dtype=bool)
    candidates = lax.top_k(-jnp.where(excluded, jnp.inf, scores), lesser(k + SPARE, n, k))[1]
    exact = jax.vmap(lambda a, row: jax.vmap(_length)(a - x[row]))(x, candidates)
    exact = jnp.where(jnp.take_along_axis(excluded, candidates, axis=1), jnp.inf, exact)
    exact, order = lax.sort((exact, candidates.astype(jnp.int32)), num_keys=2)
    both = half[:, None] + half
    others = excluded.at[jnp.arange(n)[:, None], candidates].set(True)
    least = jnp.min(
        jnp.where(others, jnp.inf, half[:, None] + scores - (d + 8) * jnp.finfo(x.dtype).eps * both), axis=1
    )
    proven = jnp.all((0.5 * jnp.square(exact[:, k - 1]) < least) | ~valid)

    def by_differences() -> Int[Array, "n k"]:
        def of_row(i: Array) -> Int[Array, " k"]:
            lengths = jnp.where(excluded[i], jnp.inf, jax.vmap(_length)(x[i] - x))
            return lax.top_k(-lengths, k)[1].astype(jnp.int32)

        return lax.map(of_row, jnp.arange(n))

    return loops.cond(proven, lambda: order[:, :k], by_differences)
