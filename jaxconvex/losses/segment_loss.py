"""A differentiable surrogate of Euclidean convexity."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from jaxconvex._internal.checks import as_array, is_concrete, one_of, positive_integer, shared_length
from jaxconvex._internal.devices import split_as, whole
from jaxconvex.losses.arguments import as_integer_labels, as_where, old_spelling, positive, with_aux

__all__ = ["SegmentLossAux", "euclidean_convexity_loss"]


class SegmentLossAux(NamedTuple):
    """What `euclidean_convexity_loss` tells beside its value."""

    num_pairs: Array  # points with a partner, on all devices
    losses: Array  # (n,), of the pair of each point of this device; 0 without a partner


def euclidean_convexity_loss(
    predict_fn: Callable[[Any], Array],
    x: PyTree[Float[Array, "n ..."]],
    labels: Int[Array, " n"],
    *,
    key: PRNGKeyArray,
    num_points: int = 1,
    points: Literal["random", "equal"] = "random",
    kind: Literal["cross_entropy", "probability"] = "cross_entropy",
    temperature: float | Array = 1.0,
    where: Bool[Array, " n"] | None = None,
    axis_name: str | None = None,
    has_aux: bool = False,
    reduce: bool = True,
    return_num_pairs: bool = False,
) -> Any:
    """The mean loss of the class at points between two activations of it, through the rest of the network.

    Every point of the batch is paired with a random other one of its class. At points t x + (1 - t) y of their
    segment the rest of the network gives logits; the loss is the cross-entropy -log p of the class there, or 1 - p,
    with p from softmax(logits / temperature). With kind="probability" it stands for `euclidean_convexity(...)`: with
    equally spaced points the expectation of 1 - loss goes, as the temperature goes to 0, to the mean of that score over
    classes, each weighted by its number of points. The cross-entropy is larger than 1 - p and has a gradient where the
    network is wrong and sure.

    Args:
        predict_fn: the rest of the network: (b, ...) -> (b, c) logits, such as `run_from` at a layer. It may close
            over parameters; gradients pass through it and through x.
        x: activations of the layer, whole (every token), one a point: an array, or a pytree of arrays, all
            interpolated.
        labels: the class of each point, a column of the logits; -1 is background.
        key: a JAX random key for the partners, and for t.
        num_points: points on each segment, static.
        points: "random", t uniform in (0, 1), or "equal", t = i / (num_points + 1).
        kind: "cross_entropy" or "probability".
        temperature: of the softmax, above 0; it may be traced, and then makes the loss nan where it is not.
        where: points that count.
        axis_name: draw partners from the whole batch that lies along this axis of a shard_map or pmap; each device
            returns the mean over all devices' pairs.
        has_aux: return (loss, aux), as jax.value_and_grad(..., has_aux=True) wants it: aux.num_pairs is the number of
            points with a partner, aux.losses (n,) holds the loss of each pair, 0 for a point without partner. The old
            spellings return_num_pairs=True and reduce=False, which returns these losses, go with the next release.

    A class with one point contributes nothing; a batch without pairs has loss 0. In the place of what contributes nothing
    predict_fn sees a point that does, so that no gradient is nan where its own is finite. A point that counts and is not
    finite makes the loss nan. Second derivatives are those of predict_fn.

    Raises:
        ValueError: lengths that differ; labels that are no integers, or have no column in the logits (under jit: nan);
            logits that are not (b, c); a temperature not above 0.

    Cost: n * num_points more points through the rest of the network.

    >>> x = jnp.array([[0.0], [1.0], [3.0], [4.0]])
    >>> middle = lambda h: jnp.concatenate([jnp.abs(h - 2) - 0.5, 0 * h], axis=1)  # class 0 is all but the middle
    >>> loss = euclidean_convexity_loss(middle, x, jnp.array([0, 0, 0, 0]), key=jax.random.key(0), num_points=100,
    ...                                 points="equal", kind="probability", temperature=1e-3)
    >>> bool(0 < loss < 0.5)
    True

    Source: Tětková et al., "On convex decision regions in deep network representations", 2025, Definition 1.
    """
    one_of(points, ("random", "equal"), "points")
    one_of(kind, ("cross_entropy", "probability"), "kind")
    positive_integer(num_points, "num_points")
    temperature = positive(temperature, "temperature")
    n = shared_length(x)
    given = x
    x = jax.tree.map(_as_whole, x)
    highest = int(np.asarray(labels).max()) if is_concrete(labels) else 0
    labels = as_integer_labels(labels, n)
    counts = as_where(where, n)
    valid = (labels >= 0) & counts
    key_of_partners, key_of_points = jax.random.split(key)

    everyone, number = (x, labels, counts), jnp.arange(n)
    if axis_name is not None:
        device = lax.axis_index(axis_name)
        everyone, number = lax.all_gather(everyone, axis_name, tiled=True), number + n * device
        key_of_partners, key_of_points = (jax.random.fold_in(k, device) for k in (key_of_partners, key_of_points))
    all_x, all_labels, all_counts = everyone
    all_valid = (all_labels >= 0) & all_counts
    same = (labels[:, None] == all_labels) & valid[:, None] & all_valid
    same &= number[:, None] != jnp.arange(all_labels.shape[0])
    paired = jnp.any(same, axis=1)
    partner = jnp.argmax(jnp.where(same, jax.random.uniform(key_of_partners, same.shape), -1), axis=1)
    finite = [jnp.isfinite(leaf).all(axis=tuple(range(1, leaf.ndim))) for leaf in jax.tree.leaves(all_x)]
    ranks = 1 + all_counts.astype(jnp.int32) + all_valid.astype(jnp.int32)
    stand_in = jnp.argmax(jnp.where(jnp.stack(finite).all(axis=0), ranks, 0), keepdims=True)

    shares = (jnp.arange(1, num_points + 1) / (num_points + 1))[:, None]
    if points == "random":
        shares = jax.random.uniform(key_of_points, (num_points, n))

    def between(leaf: Array, everywhere: Array, given: Any) -> Array:
        found = _between(leaf, everywhere[partner], everywhere[stand_in], shares=shares, kept=paired)
        return split_as(found, given)

    logits = whole(predict_fn(jax.tree.map(between, x, all_x, given)))
    if logits.ndim != 2 or logits.shape[0] != num_points * n:
        raise ValueError(
            f"predict_fn must give logits (points, classes), here ({num_points * n}, classes); got shape {logits.shape}."
        )
    if highest >= logits.shape[1]:
        raise ValueError(
            f"class {highest} has no column in the logits, which have {logits.shape[1]}; a label is the column of its class."
        )
    losses = _class_losses(logits, jnp.tile(labels, num_points), kind, temperature)
    losses = jnp.where(paired, jnp.mean(losses.reshape(num_points, n), axis=0), 0)
    count = jnp.sum(paired)
    if not reduce:
        old_spelling("reduce=False", "has_aux=True, which returns (loss, aux) with aux.losses")
        return (losses, count) if return_num_pairs else losses
    total = jnp.sum(losses)
    if axis_name is not None:
        total, count = lax.psum((total, count), axis_name)
    loss = total / jnp.maximum(count, 1).astype(total.dtype)
    return with_aux(loss, SegmentLossAux(count, losses), has_aux, return_num_pairs)


def _as_whole(leaf: Any) -> Array:
    return jnp.asarray(as_array(leaf, "x"))  # NumPy's arrays cannot be indexed by what is being traced


def _between(
    first: Array, second: Array, instead: Array, *, shares: Float[Array, "p _"], kept: Bool[Array, " n"]
) -> Array:
    """The points of all segments at each of p shares in turn; one that stands in for those of pairs that are not kept."""
    with jax.numpy_dtype_promotion("standard"):
        floating = jnp.issubdtype(first.dtype, jnp.floating)
        dtype = jnp.promote_types(first.dtype, jnp.bfloat16) if floating else jnp.float32
    ones = [1] * (first.ndim - 1)
    t = shares.reshape(*shares.shape, *ones).astype(dtype)
    first, second = (jnp.where(kept.reshape(-1, *ones), a, instead).astype(dtype) for a in (first, second))
    return (t * first + (1 - t) * second).reshape(-1, *first.shape[1:])


def _class_losses(logits: Array, labels: Array, kind: str, temperature: float | Array) -> Array:
    scaled = logits.astype(jnp.promote_types(logits.dtype, jnp.float32)) / temperature
    column = jnp.clip(labels, 0, logits.shape[1] - 1)[:, None]
    log_p = jnp.take_along_axis(jax.nn.log_softmax(scaled), column, axis=1)[:, 0]
    log_p = jnp.where(labels < logits.shape[1], log_p, jnp.nan)  # a class that has no logit
    return -log_p if kind == "cross_entropy" else -jnp.expm1(log_p)
