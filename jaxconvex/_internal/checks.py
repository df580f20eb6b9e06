"""What the public functions check of their input, once, with messages that say what to do."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxconvex._internal.devices import whole

__all__ = ["as_array", "as_indices", "as_labels", "as_lengths", "as_points", "clipped_integers", "is_concrete"]
__all__ += ["known_values", "lesser", "local_values", "one_of", "point_type", "positive_integer", "raise_for_rows"]
__all__ += ["shared_length"]


def is_concrete(*values: Any) -> bool:
    """Whether all arrays hold values now, that is, none of them is being traced by jit, vmap or grad."""
    return not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(values))


def known_values() -> contextlib.AbstractContextManager:
    """A context in which what is known is computed at once: inside jit constants stay known, and outside nothing changes."""
    tracing = isinstance(jnp.zeros(()), jax.core.Tracer)
    return jax.ensure_compile_time_eval() if tracing else contextlib.nullcontext()


def one_of(value: Any, choices: Sequence[str], name: str) -> str:
    """The value, if it is one of the choices. Raises ValueError otherwise."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}; got {value!r}.")
    return value


def positive_integer(value: Any, name: str, *, most: int | None = None, why: str = "") -> int:
    """The value as an int, if it is a whole number from 1 to `most`. Raises ValueError otherwise."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise ValueError(f"{name} must be a whole number known before tracing; got {value!r}.")
    try:
        within = value >= 1 and (most is None or value <= most)
    except jax.errors.InconclusiveDimensionOperation as error:
        raise ValueError(
            f"{name}={value} must be at most {most}, and that is not known of a symbolic size: promise it, as by "
            f'jax.export.symbolic_shape(..., constraints=["{most} >= {value}"]).'
        ) from error
    if not within:
        limit = "at least 1" if most is None else f"between 1 and {most}"
        raise ValueError(f"{name} must be {limit}{why}; got {value}.")
    return int(value)


def lesser(size: int, other: int, unknown: Any) -> Any:
    """The lesser of two sizes, or `unknown` where it is open which that is: a batch may have a symbolic size."""
    try:
        return min(size, other)
    except jax.errors.InconclusiveDimensionOperation:
        return unknown


def shared_length(x: Any, name: str = "x") -> int:
    """The length of the first axis, which all arrays share. Raises ValueError for anything else in the pytree."""
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(x)]
    if () in shapes or len({shape[0] for shape in shapes}) != 1:
        what = f"shapes {shapes}" if shapes else "no array"
        raise ValueError(
            f"{name} must be an array, or a tuple or a dict of arrays that share their first axis, one entry a point; got "
            f"{what}. Bind what is no array to the function (functools.partial, or kwargs= of from_nnx and from_linen)."
        )
    if shapes[0][0] == 0:
        raise ValueError(f"{name} must hold at least one point; got shapes {shapes}.")
    return shapes[0][0]


def local_values(array: Array) -> np.ndarray:
    """The values as NumPy's, also where each of several processes holds them all."""
    return np.asarray(array.addressable_data(0) if array.is_fully_replicated else array)


def raise_for_rows(bad: Bool[np.ndarray, " n"], name: str, message: str, **more: Any) -> None:
    """Raise ValueError if any row is bad: the name, then the message with how many are ({count}) and which ({which})."""
    rows = np.flatnonzero(bad)
    if rows.size:
        which = f"rows {', '.join(map(str, rows[:5]))}{', ...' if rows.size > 5 else ''}"
        raise ValueError(f"{name} {message.format(count=f'{rows.size} of {len(bad)} rows', which=which, **more)}")


def as_array(value: Any, name: str) -> Any:
    """The value as an array of NumPy or JAX, of whatever type. Raises ValueError for what would lose something by that."""
    if isinstance(value, jax.Array):
        if jnp.issubdtype(value.dtype, jax.dtypes.extended):
            raise ValueError(f"{name} must hold real numbers; got an array of type {value.dtype}.")
        return whole(value)
    if isinstance(value, np.ma.MaskedArray):
        raise ValueError(
            f"{name} is a masked array, whose mask would be lost: leave the masked rows out, or fill them (.filled())."
        )
    if hasattr(value, "toarray") or hasattr(value, "todense"):
        raise ValueError(f"{name} is a sparse matrix; pass it dense, {name}.toarray(), or fewer of its columns.")
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ValueError(f"{name} must be an array of numbers; got a {type(value).__name__}: {error}") from error
    if array.dtype.kind == "O":
        raise ValueError(
            f"{name} must hold numbers; got an array of type object. Convert it, for example by .astype(int) or "
            ".astype(float)."
        )
    return array


def as_points(x: Any, name: str = "x", *, rank: int | None = 2, narrow: bool = False) -> Float[Array, "n ..."]:
    """The points as a floating-point array: float64 stays (where JAX's x64 is on), all else becomes float32.

    With `narrow`, bfloat16 and float16 stay too.

    Raises ValueError for a wrong rank, no points, a type that is not a number, and, where the values are concrete, NaN
    or infinity, naming the rows. Values being traced are not looked at: the functions then return nan.
    """
    x = as_array(x, name)
    if x.dtype.kind not in "biuf" and x.dtype != jnp.bfloat16:
        raise ValueError(f"{name} must hold real numbers; got an array of type {x.dtype}.")
    if rank is not None and x.ndim != rank:
        what = "one row a point, (n, d)" if rank == 2 else f"{rank} axes"
        raise ValueError(f"{name} must have {what}; got shape {x.shape}. Pool or reshape it first.")
    if x.ndim < 1 or 0 in x.shape:
        raise ValueError(f"{name} must hold at least one point and one feature; got shape {x.shape}.")
    if not (narrow and x.dtype in (jnp.bfloat16, jnp.float16)):
        with np.errstate(over="ignore", under="ignore"):
            x = x.astype(point_type(x.dtype))
    points = jnp.asarray(x)
    if is_concrete(x):
        with known_values():  # x may be a constant inside jit
            finite = np.asarray(_finite_rows(jnp.asarray(x, points.dtype)))
        message = "must be finite; {count} hold NaN or infinity in {type} ({which}). "
        message += "Remove these rows and their labels, or mend the values."
        raise_for_rows(~finite, name, message, type=points.dtype)
    return points


def point_type(given: Any) -> np.dtype:
    """The type that points of some type are computed in: float64 where that is given and on, otherwise float32."""
    wide = np.dtype(given).kind == "f" and np.dtype(given).itemsize >= 8
    return np.dtype(jax.dtypes.canonicalize_dtype(np.float64) if wide else np.float32)


@jax.jit
def _finite_rows(points: Float[Array, "n ..."]) -> Array:
    return jnp.all(jnp.isfinite(points), axis=tuple(range(1, points.ndim)))


def as_labels(labels: Any, num_points: int, num_classes: int, name: str = "labels") -> Int[Array, " n"]:
    """The labels as int32; those outside -1..num_classes - 1 are -2 or num_classes.

    Raises ValueError for floats, a wrong shape, and labels known to lie outside their range.
    """
    positive_integer(num_classes, "num_classes")
    labels = as_array(labels, name)
    if labels.dtype.kind not in "iu":
        raise ValueError(
            f"{name} must be integers (0 to num_classes - 1, and -1 for background); got type {labels.dtype}. "
            "Strings and other labels are taken by evaluate()."
        )
    if labels.shape != (num_points,):
        raise ValueError(f"{name} must have one entry a point, shape ({num_points},); got shape {labels.shape}.")
    if is_concrete(labels) and num_points:
        low, high = int(np.asarray(labels).min()), int(np.asarray(labels).max())
        if low < -1 or high >= num_classes:
            raise ValueError(
                f"{name} must lie in 0..{num_classes - 1} (num_classes={num_classes}), or be -1 for background; "
                f"got values from {low} to {high}. Pass num_classes={max(high + 1, 1)} or relabel."
            )
    return clipped_integers(labels, -2, num_classes)


def clipped_integers(values: Any, least: int, most: int) -> Int[Array, " ..."]:
    """Integers of any type as int32; what lies outside the range, which no narrowing shall bring back, at its ends."""
    # What is known stays known where it is a constant inside jit.
    with known_values() if is_concrete(values) else contextlib.nullcontext():
        if isinstance(values, jax.Array):
            return _clipped(values, least, most)
        return jnp.asarray(_clip(values, least, most, np))


def _clip(values: Any, least: int, most: int, xp: Any) -> Any:
    if values.dtype.itemsize < 4:
        values = values.astype(xp.int32)
    if values.dtype.kind == "i":
        values = xp.maximum(values, least)
    return xp.minimum(values, most).astype(xp.int32)


_clipped = jax.jit(partial(_clip, xp=jnp), static_argnums=(1, 2))


def as_indices(indices: Any, name: str, n: int) -> Array:
    """Indices as int32, what lies beyond -1..n-1 as -2 or n. Raises ValueError where they are no integers."""
    if indices.dtype.kind not in "iu":
        raise ValueError(f"{name} must be integers; got type {indices.dtype}. Some libraries give the distances first.")
    return clipped_integers(indices, -2, n)


def as_lengths(lengths: Any, name: str, absent: Any = False) -> Array:
    """Lengths in floating-point: float64 stays (where JAX's x64 is on), all else becomes float32.

    Raises ValueError where they are no real numbers, and where one that is not absent leaves the range of the type.
    """
    if lengths.dtype.kind not in "iuf" and lengths.dtype != jnp.bfloat16:
        raise ValueError(f"{name} must be real numbers; got type {lengths.dtype}.")
    dtype = np.dtype(jax.dtypes.canonicalize_dtype(np.float64) if lengths.dtype.itemsize >= 8 else np.float32)
    if isinstance(lengths, jax.Array) or lengths.dtype.itemsize <= 4:
        return jnp.asarray(lengths).astype(dtype)
    with np.errstate(over="ignore", under="ignore"):
        narrow = lengths.astype(dtype)
    lost = ((np.abs(narrow) < np.finfo(dtype).tiny) != (lengths == 0)) | (np.isinf(narrow) != np.isinf(lengths))
    lost &= ~np.asarray(absent)
    if lost.any():
        value = lengths[lost][0]
        raise ValueError(
            f"{name} must lie in the range of {dtype}; got {value!r}. Divide all by one number, or enable x64."
        )
    return jnp.asarray(narrow)
