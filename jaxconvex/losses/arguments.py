"""What the losses check of their arguments, and the batch gathered over devices."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Num

from jaxconvex.checks import positive_integer

__all__ = ["Batch", "as_batch", "as_integer_labels", "as_where", "pairs_of", "positive"]


class Batch(NamedTuple):
    """Points, labels and which of them count, from all devices."""

    x: Float[Array, "n d"]
    labels: Num[Array, "n ..."]
    valid: Bool[Array, " n"]
    broken: Bool[Array, ""]  # whether a point that counts is not finite


def as_batch(x: Any, labels: Any, where: Any, axis_name: str | None, *, k: int, soft: bool) -> Batch:
    """The checked batch; points that do not count are zeros, so that what they held reaches neither value nor gradient."""
    points = jnp.asarray(x)
    if points.ndim != 2:
        raise ValueError(f"x must have one row a point, (n, d); got shape {points.shape}. Pool or reshape it first.")
    points = points.astype(jnp.promote_types(points.dtype, jnp.float32))
    n = len(points)
    labels = labels if isinstance(labels, jax.Array) else np.asarray(labels)
    if soft and labels.ndim == 2 and jnp.issubdtype(labels.dtype, jnp.floating):
        if len(labels) != n:
            raise ValueError(f"probabilities must have one row a point, ({n}, classes); got shape {labels.shape}.")
        labels = jnp.asarray(labels, points.dtype)
    else:
        labels = as_integer_labels(labels, n, f", or probabilities ({n}, classes)" if soft else "")
    valid = as_where(where, n)
    if axis_name is not None:
        points, labels, valid = (lax.all_gather(a, axis_name, tiled=True) for a in (points, labels, valid))
    positive_integer(k, "k", most=len(points) - 1, why=f" for a batch of {len(points)} points")
    broken = jnp.any(~jnp.isfinite(points) & valid[:, None])
    points = jnp.where(valid[:, None] & jnp.isfinite(points), points, 0)
    return Batch(points, labels, valid, broken)


def as_integer_labels(labels: Any, n: int, also: str = "") -> Int[Array, " n"]:
    """The labels as int32, background among them. Raises ValueError for all but n integers."""
    labels = labels if isinstance(labels, jax.Array) else np.asarray(labels)
    if labels.shape != (n,) or labels.dtype.kind not in "iu":
        raise ValueError(
            f"labels must be integers, one a point: ({n},){also}; got {labels.dtype} of shape {labels.shape}."
        )
    return jnp.asarray(labels).astype(jnp.int32)


def as_where(where: Any, n: int) -> Bool[Array, " n"]:
    """Which points count: all, if it is None. Raises ValueError for all but n booleans."""
    counts = jnp.ones(n, bool) if where is None else jnp.asarray(where)
    if counts.shape != (n,) or counts.dtype != bool:
        raise ValueError(f"where must be a boolean a point, shape ({n},); got {counts.dtype} of shape {counts.shape}.")
    return counts


def positive(value: Any, name: str) -> Any:
    """The value, unless it is a number known to be not above 0. Raises ValueError then."""
    if isinstance(value, (int, float)) and not value > 0:
        raise ValueError(f"{name} must be above 0; got {value}.")
    return value


def pairs_of(labels: Int[Array, " n"], valid: Bool[Array, " n"]) -> Bool[Array, "n n"]:
    """Which ordered pairs of distinct valid points share a class."""
    member = valid & (labels >= 0)
    return (labels[:, None] == labels) & member[:, None] & member & ~jnp.eye(len(labels), dtype=bool)
