"""Pairs of points of one class, all or a sample, and the points between two points."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from jaxconvex._internal import loops
from jaxconvex._internal.checks import as_labels, is_concrete, positive_integer

__all__ = ["Pairs", "same_class_pairs", "segment_points"]

LARGEST_CLASS = 92_681  # its pairs can still be numbered in 32 bits
ROUNDS = 6


class Pairs(NamedTuple):
    """Unordered pairs of points, a row of them for each class; `valid` tells the pairs from the padding."""

    first: Int[Array, "c p"]
    second: Int[Array, "c p"]
    valid: Bool[Array, "c p"]


def same_class_pairs(
    labels: Int[Array, " n"], *, num_classes: int, max_pairs: int | None = None, key: PRNGKeyArray | None = None
) -> Pairs:
    """Pairs of distinct points with one label: every unordered pair once, or `max_pairs` of a class drawn without repeats.

    Args:
        labels: 0 to num_classes - 1; -1 is background and pairs with nothing.
        num_classes: number of classes.
        max_pairs: most pairs of a class. A class with no more pairs than that gives all of them. By default all, always.
        key: a JAX random key; needed if a class has more than max_pairs pairs.

    The result has one row of padded pairs for each class: as many as its largest class needs; under jit, where the labels
    are not known, as many as a single class of all points would. So name max_pairs there.

    Raises:
        ValueError: bad labels; a key missing where pairs must be drawn; a class of more than 92,681 points.

    >>> pairs = same_class_pairs(jnp.array([0, 1, 0, 0]), num_classes=2)
    >>> [(int(i), int(j)) for i, j, ok in zip(pairs.first[0], pairs.second[0], pairs.valid[0]) if ok]
    [(0, 2), (2, 3), (3, 0)]
    """
    n = len(labels)
    known = is_concrete(labels)
    labels = as_labels(labels, n, num_classes)
    if max_pairs is not None:
        positive_integer(max_pairs, "max_pairs")
    largest = int(np.bincount(np.asarray(labels) + 1, minlength=2)[1:].max()) if known and n else n
    if largest > LARGEST_CLASS:
        raise ValueError(
            f"pairs of classes of up to {LARGEST_CLASS} points can be numbered; got {'a class' if known else 'labels'} of "
            f"{largest} points. Draw a stratified sample of the points first."
        )
    most = largest * (largest - 1) // 2
    if max_pairs is not None and most > max_pairs and key is None:
        raise ValueError(
            f"a class can have {most} pairs, more than max_pairs={max_pairs}, so pairs must be drawn: pass "
            "key=jax.random.key(0), or max_pairs=None for all pairs."
        )
    count = max(1, most if max_pairs is None else min(max_pairs, most))
    if key is None:
        key = jax.random.key(0)  # never drawn from: all pairs are taken
    return _pairs(labels, key, num_classes, count)


def segment_points(x: Float[Array, " ..."], y: Float[Array, " ..."], *, num_points: int = 10) -> Float[Array, "m ..."]:
    """Equally spaced points inside the segment from y to x: t x + (1 - t) y for t = i / (m + 1), i = 1..m.

    Args:
        x, y: two arrays of one shape: vectors, or whole activations of a point (tokens and all).
        num_points: m, the number of interior points; the ends are left out.

    >>> segment_points(jnp.array([4.]), jnp.array([0.]), num_points=3).ravel().tolist()
    [1.0, 2.0, 3.0]
    """
    positive_integer(num_points, "num_points")
    if jnp.shape(x) != jnp.shape(y):
        raise ValueError(f"x and y must have one shape; got {jnp.shape(x)} and {jnp.shape(y)}.")
    dtype = jnp.promote_types(jnp.result_type(x, y), jnp.float32)
    x, y = jnp.asarray(x, dtype), jnp.asarray(y, dtype)
    share = (jnp.arange(1, num_points + 1, dtype=dtype) / (num_points + 1)).reshape(-1, *[1] * x.ndim)
    return share * x + (1 - share) * y


@partial(jax.jit, static_argnames=("num_classes", "count"))
def _pairs(labels: Array, key: PRNGKeyArray, num_classes: int, count: int) -> Pairs:
    order = jnp.argsort(labels, stable=True)  # background first
    sizes = jnp.bincount(labels + 1, length=num_classes + 1)
    starts = (jnp.cumsum(sizes) - sizes)[1:].astype(jnp.uint32)
    sizes = sizes[1:].astype(jnp.uint32)
    keys = jax.random.bits(key, (num_classes, ROUNDS), jnp.uint32)

    def of_class(size: Array, first: Array, round_keys: Array) -> Pairs:
        total = jnp.where(size > 1, jnp.where(size % 2 == 0, size // 2 * (size - 1), (size - 1) // 2 * size), 0)
        rank = jnp.arange(count, dtype=jnp.uint32)
        valid = rank < total
        drawn = total > count
        shuffled = _shuffled(jnp.where(drawn, rank, 0), jnp.where(drawn, total, 1), round_keys)
        rank = jnp.where(drawn, shuffled, rank)
        # Going round the class, every point meets the next, then the next but one, ...: each pair once.
        divisor = jnp.maximum(size, 1)
        i, step = rank % divisor, 1 + rank // divisor
        j = (i + step) % divisor
        i, j = (jnp.where(valid, order[first + p], 0).astype(jnp.int32) for p in (i, j))
        return Pairs(i, j, valid)

    return jax.vmap(of_class)(sizes, starts, keys)


def _shuffled(rank: Array, total: Array, round_keys: Array) -> Array:
    """A pseudorandom permutation of 0..total-1 at the given ranks, without forming it: a Feistel network.

    It permutes the next power of four; ranks that land outside go through it again until they are inside.
    """
    half = (33 - lax.clz(total)) // 2
    mask = (jnp.uint32(1) << half) - 1

    def network(value: Array) -> Array:
        left, right = value >> half, value & mask
        for r in range(ROUNDS):
            left, right = right, left ^ (_mix(right ^ round_keys[r]) & mask)
        return (left << half) | right

    return loops.while_loop(
        lambda value: jnp.any(value >= total),
        lambda value: jnp.where(value >= total, network(value), value),
        network(rank),
    )


def _mix(value: Array) -> Array:
    # The finaliser of MurmurHash3: every bit of the input reaches every bit of the output.
    value = (value ^ (value >> 16)) * jnp.uint32(0x85EBCA6B)
    value = (value ^ (value >> 13)) * jnp.uint32(0xC2B2AE35)
    return value ^ (value >> 16)
