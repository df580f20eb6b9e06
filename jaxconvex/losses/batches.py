"""What a batch needs to hold pairs of one class: balanced drawing, a memory of past activations, a gather over devices."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jaxconvex._internal.checks import as_array, as_labels, is_concrete, positive_integer
from jaxconvex.losses.arguments import as_integer_labels

__all__ = ["Memory", "balanced_batch", "memory", "recall", "remember"]


class Memory(NamedTuple):
    """The latest points and labels that `remember` was given, oldest overwritten first; a pytree, to be carried along."""

    points: Float[Array, "m d"]
    labels: Int[Array, " m"]  # -1 is background
    filled: Int[Array, ""]  # how many points were ever written


def balanced_batch(
    key: PRNGKeyArray, labels: Int[Array, " n"], *, num_classes: int, classes: int, points: int
) -> Int[Array, " classes*points"]:
    """Indices of a batch of some points of each of some classes, all drawn at random: classes * points of them.

    Where there are many classes, a batch drawn from all points holds hardly two of one class; this one always does.

    Args:
        key: a JAX random key; another one for every batch.
        labels: the class of every point of the data, 0 to num_classes - 1; -1 is never drawn.
        num_classes: number of classes, static.
        classes: classes of a batch, drawn without repeats among those that have points, static.
        points: points of a class, drawn without repeats, static. A class with fewer gives all of them, and then again.

    Where fewer classes have points than asked for, they come again. Where no point has a class, under jit, it gives
    points of the background, from which the losses make no pairs.

    Raises:
        ValueError: as `graph_convexity` for labels, and if all of them are background; classes not between 1 and
            num_classes; points below 1.

    Cost: a sort of n numbers; no memory beside. It works under jit and vmap.

    >>> labels = jnp.array([0, 1, 2, 0, 1, 2, 0, 1, -1])
    >>> batch = balanced_batch(jax.random.key(0), labels, num_classes=3, classes=2, points=2)
    >>> sorted(jnp.bincount(labels[batch], length=3).tolist())
    [0, 2, 2]
    """
    labels = as_labels(labels, len(labels), num_classes)
    positive_integer(classes, "classes", most=num_classes, why=f" for num_classes={num_classes}")
    positive_integer(points, "points")
    if is_concrete(labels) and not np.any(np.asarray(labels) >= 0):
        raise ValueError("labels must hold at least one class to draw from; all are background (-1).")
    key_of_classes, key_of_points = jax.random.split(key)
    sizes = jnp.bincount(labels + 1, length=num_classes + 1)[1:]
    shuffled = jax.random.permutation(key_of_classes, num_classes)
    drawn = shuffled[jnp.argsort(sizes[shuffled] == 0, stable=True)]  # empty classes last
    drawn = drawn[jnp.arange(classes) % jnp.maximum(jnp.sum(sizes > 0), 1)]
    order = jax.random.permutation(key_of_points, len(labels))
    by_class = order[jnp.argsort(labels[order], stable=True)]  # background first
    first = len(labels) - jnp.sum(sizes) + jnp.cumsum(sizes) - sizes
    place = jnp.arange(points) % jnp.maximum(sizes[drawn], 1)[:, None]
    return by_class[jnp.minimum(first[drawn][:, None] + place, len(labels) - 1)].ravel()


def memory(size: int, features: int, *, dtype: Any = jnp.float32) -> Memory:
    """An empty memory of `size` points of so many features.

    >>> memory(4, 2).points.shape
    (4, 2)
    """
    positive_integer(size, "size")
    positive_integer(features, "features")
    return Memory(jnp.zeros((size, features), dtype), jnp.full(size, -1, jnp.int32), jnp.int32(0))


def remember(bank: Memory, x: Float[Array, "n d"], labels: Int[Array, " n"]) -> Memory:
    """The memory with the points of a batch written over its oldest ones. No gradient passes through it.

    Args:
        bank: a memory from `memory` or an earlier call.
        x: activations [n, d], no more than the memory holds.
        labels: their classes; -1 is background.

    >>> bank = remember(memory(3, 1), jnp.array([[1.], [2.]]), jnp.array([0, 1]))
    >>> bank.labels.tolist(), int(bank.filled)
    ([0, 1, -1], 2)
    """
    size, features = bank.points.shape
    if x.ndim != 2 or x.shape[1] != features or x.shape[0] > size:
        raise ValueError(f"the memory holds {size} points of {features} features; got activations of shape {x.shape}.")
    if labels.shape != (x.shape[0],):
        raise ValueError(f"labels must have one entry a point, shape ({x.shape[0]},); got shape {labels.shape}.")
    labels = as_integer_labels(labels, x.shape[0]).astype(jnp.int32)
    place = (bank.filled + jnp.arange(x.shape[0])) % size
    x = lax.stop_gradient(as_array(x, "x")).astype(bank.points.dtype)
    # Counted up to twice the size, which tells all there is to tell and never overflows.
    filled = bank.filled + x.shape[0]
    filled = jnp.where(filled >= 2 * size, filled - size, filled)
    return Memory(bank.points.at[place].set(x), bank.labels.at[place].set(labels), filled)


def recall(
    bank: Memory, x: Float[Array, "n d"], labels: Int[Array, " n"]
) -> tuple[Float[Array, "n+m d"], Int[Array, " n+m"], Array]:
    """A batch with all that is remembered behind it: points, labels, and `where`, which leaves empty places out.

    Pass the three to a loss; gradients reach the points of the batch only.

    >>> bank = remember(memory(3, 1), jnp.array([[1.], [2.]]), jnp.array([0, 1]))
    >>> x, labels, where = recall(bank, jnp.array([[5.]]), jnp.array([1]))
    >>> labels.tolist(), where.tolist()
    ([1, 0, 1, -1], [True, True, True, False])
    """
    there = jnp.arange(len(bank.labels)) < bank.filled
    points = lax.stop_gradient(bank.points).astype(x.dtype)
    return (
        jnp.concatenate([as_array(x, "x"), points]),
        jnp.concatenate([as_integer_labels(labels, x.shape[0]).astype(jnp.int32), bank.labels]),
        jnp.concatenate([jnp.ones(x.shape[0], bool), there]),
    )
