"""What the losses check of their arguments, and the batch gathered over devices."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Num

from jaxconvex._internal.checks import as_array, is_concrete, positive_integer

__all__ = ["Batch", "LossAux", "as_batch", "as_integer_labels", "as_where", "old_spelling", "pairs_of", "positive"]
__all__ += ["with_aux"]

ROUNDING = 0.01  # by which probabilities may add up to more than 1: those of bfloat16 do


class LossAux(NamedTuple):
    """What `graph_convexity_loss` and `detour_loss` tell beside their value."""

    num_pairs: Array  # unordered; a sum of weights for probabilities


def with_aux(loss: Any, aux: Any, has_aux: bool, return_num_pairs: bool) -> Any:
    """What a loss returns: its value; (value, aux), as jax.value_and_grad has it; or (value, number), the old spelling."""
    if return_num_pairs:
        old_spelling(
            "return_num_pairs=True", "has_aux=True, which returns (loss, aux) with aux.num_pairs", stacklevel=4
        )
        return loss, aux.num_pairs
    return (loss, aux) if has_aux else loss


def old_spelling(old: str, new: str, stacklevel: int = 3) -> None:
    """Warn of a keyword that goes with the next release."""
    warnings.warn(
        f"{old} is {new}, now; the old spelling goes with the next release.", DeprecationWarning, stacklevel=stacklevel
    )


class Batch(NamedTuple):
    """Points, labels and which of them count, from all devices."""

    x: Float[Array, "n d"]
    labels: Num[Array, "n ..."]
    valid: Bool[Array, " n"]
    broken: Bool[Array, ""]  # whether a point that counts is not finite


def as_batch(
    x: Any, labels: Any, where: Any, axis_name: str | None, *, k: int, soft: bool, num_classes: int | None = None
) -> Batch:
    """The checked batch; points that do not count are zeros, so that what they held reaches neither value nor gradient."""
    points = jnp.asarray(as_array(x, "x"))
    if points.ndim != 2:
        raise ValueError(f"x must have one row a point, (n, d); got shape {points.shape}. Pool or reshape it first.")
    points = points.astype(jnp.promote_types(points.dtype, jnp.float32))
    n = points.shape[0]
    labels = as_array(labels, "labels")
    if soft and labels.ndim == 2 and jnp.issubdtype(labels.dtype, jnp.floating):
        if labels.shape[0] != n:
            raise ValueError(f"probabilities must have one row a point, ({n}, classes); got shape {labels.shape}.")
        if is_concrete(labels, where):
            counts = np.asarray(labels, np.float64)[slice(None) if where is None else np.asarray(where)]
            if not np.all(_are_shares(counts)):
                raise ValueError(
                    "probabilities must lie in [0, 1], a row adding up to 1, or to less; take jax.nn.softmax of logits."
                )
        labels = jnp.asarray(labels, points.dtype)
    else:
        labels = as_integer_labels(labels, n, f", or probabilities ({n}, classes)" if soft else "")
    valid = as_where(where, n)
    if num_classes is not None:
        _check_classes(labels, where, positive_integer(num_classes, "num_classes"))
    if axis_name is not None:
        points, labels, valid = (lax.all_gather(a, axis_name, tiled=True) for a in (points, labels, valid))
    positive_integer(k, "k", most=points.shape[0] - 1, why=f" for a batch of {points.shape[0]} points")
    broken = jnp.any(~jnp.isfinite(points) & valid[:, None])
    if labels.ndim == 2:
        broken |= jnp.any(~_are_shares(labels) & valid)
    elif num_classes is not None:
        broken |= jnp.any(((labels < -1) | (labels >= num_classes)) & valid)
    points = jnp.where(valid[:, None] & jnp.isfinite(points), points, 0)
    return Batch(points, labels, valid, broken)


def _check_classes(labels: Array, where: Any, num_classes: int) -> None:
    """Raise ValueError for labels of points that count and are of no class, as far as that is known."""
    if labels.ndim == 2:
        if labels.shape[1] != num_classes:
            raise ValueError(f"probabilities must have num_classes={num_classes} columns; got shape {labels.shape}.")
    elif is_concrete(labels, where):
        counts = np.asarray(labels)[slice(None) if where is None else np.asarray(where)]
        highest = int(counts.max(initial=-1))
        if highest >= num_classes:
            raise ValueError(
                f"labels must lie in 0..{num_classes - 1} (num_classes={num_classes}), or be -1 for background; got "
                f"{highest}. Leave points that have no label out with where=."
            )


def as_integer_labels(labels: Any, n: int, also: str = "") -> Int[Array, " n"]:
    """The labels as integers of JAX, background among them. Raises ValueError for all but n integers that it can hold."""
    labels = as_array(labels, "labels")
    if labels.shape != (n,) or labels.dtype.kind not in "iu":
        raise ValueError(
            f"labels must be integers, one a point: ({n},){also}; got {labels.dtype} of shape {labels.shape}."
        )
    if is_concrete(labels) and n:
        low, high = int(np.asarray(labels).min()), int(np.asarray(labels).max())
        if low < -1 or high >= 2**31:
            raise ValueError(
                f"labels must lie in 0..{2**31 - 1}, or be -1 for background; got values from {low} to {high}. Number the "
                "classes: np.unique(labels, return_inverse=True)[1]."
            )
    labels = jnp.asarray(labels)
    return (
        labels.astype(jnp.int32) if labels.dtype.itemsize < 4 else labels
    )  # as a column it is compared with any number


def _are_shares(labels: Any) -> Any:
    """Whether each row holds probabilities, or zeros."""
    return (labels >= -ROUNDING).all(axis=1) & (labels.sum(axis=1) <= 1 + ROUNDING)


def as_where(where: Any, n: int) -> Bool[Array, " n"]:
    """Which points count: all, if it is None. Raises ValueError for all but n booleans."""
    counts = jnp.ones(n, bool) if where is None else jnp.asarray(as_array(where, "where"))
    if counts.shape != (n,) or counts.dtype != bool:
        raise ValueError(f"where must be a boolean a point, shape ({n},); got {counts.dtype} of shape {counts.shape}.")
    return counts


def positive(value: Any, name: str) -> Any:
    """The number, if it is above 0. Raises ValueError otherwise; where it is being traced it is nan then."""
    if np.shape(value) or not (isinstance(value, jax.Array) or np.asarray(value).dtype.kind in "iuf"):
        raise ValueError(f"{name} must be one number above 0; got {value!r}.")
    if not is_concrete(value):
        return jnp.where(value > 0, value, jnp.nan)
    if not value > 0:
        raise ValueError(f"{name} must be above 0; got {value}.")
    return value


def pairs_of(labels: Int[Array, " n"], valid: Bool[Array, " n"]) -> Bool[Array, "n n"]:
    """Which ordered pairs of distinct valid points share a class."""
    member = valid & (labels >= 0)
    return (labels[:, None] == labels) & member[:, None] & member & ~jnp.eye(labels.shape[0], dtype=bool)
