"""Input of more digits than are computed with: whether that shows in a distance, and the same input in float64."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from jaxconvex._internal.checks import as_array, is_concrete, point_type

__all__ = ["in_float64", "is_wide", "narrowing_shows", "near_origin"]

SHOWS = (
    64  # eps of two vectors' lengths: a distance as short as that may be off by a hundredth, since entries are rounded
)
COMPARED = 2**22  # entries compared at a time


def is_wide(*arrays: Any) -> bool:
    """Whether any array holds numbers that the type of its points cannot tell apart; never while one is traced."""
    given = [np.dtype(as_array(x, "x").dtype) for x in arrays] if is_concrete(arrays) else []
    return any(d.kind in "iuf" and d.itemsize > point_type(d).itemsize - (d.kind != "f") for d in given)


def near_origin(*arrays: Any) -> tuple[Any, ...]:
    """Numbers of more digits than are computed with less the first row of the first array, then narrowed.

    Whatever is narrow already stays as it is. So do floating-point numbers while they are traced: they have no more digits.
    """
    found = [as_array(x, "x") for x in arrays]
    if len({x.shape[1:] for x in found}) > 1 or found[0].ndim != 2:
        return arrays  # `as_points` says what is wrong
    dtype = point_type(found[0].dtype)
    if is_wide(*arrays):
        wide = [in_float64(x, found[0]) for x in found]
        origin = np.where(np.abs(wide[0][:1]) < np.finfo(dtype).max / 4, wide[0][:1], 0)
        with np.errstate(over="ignore", under="ignore"):
            return tuple((x - origin).astype(dtype) for x in wide)
    integers = all(x.dtype.kind in "iu" and x.dtype.itemsize >= 4 for x in found) and len({x.dtype for x in found}) == 1
    if is_concrete(arrays) or not integers:
        return arrays
    return tuple(_less_origin(jnp.asarray(x), jnp.asarray(found[0])[:1], dtype) for x in found)


def narrowing_shows(
    first: Any, second: Any, i: Int[np.ndarray, "*s"], j: Int[np.ndarray, "*s"], lengths: Any, sizes: Any
) -> bool:
    """Whether any rows i of the first and j of the second array differ, but so little that rounding shows in the distance.

    Args:
        first, second: the arrays as they were given.
        i, j: rows of the first and of the second.
        lengths: their distances as they were computed.
        sizes: the lengths of the two vectors, added, in the same metric.
    """
    lengths = np.asarray(lengths)
    near = lengths <= SHOWS * np.finfo(lengths.dtype).eps * sizes
    first, second = (np.asarray(as_array(x, "x")) for x in (first, second))
    i, j, some = i[near], j[near], max(1, COMPARED // first.shape[1])
    return any(bool(np.any(first[i[s : s + some]] != second[j[s : s + some]])) for s in range(0, len(i), some))


def in_float64(x: Any, like: Any) -> Float[np.ndarray, "n d"]:
    """The points in NumPy's float64; numbers of more digits less the first row of `like`, which is of their type."""
    x, like = (np.asarray(as_array(part, "x")) for part in (x, like))
    if x.dtype != like.dtype or x.dtype.itemsize <= 4 or x.dtype == np.float64:
        return x.astype(np.float64)
    return (x - like[:1]).astype(np.float64) if x.dtype.kind == "f" else _less_origin(x, like[:1], np.float64)


def _less_origin(x: Any, origin: Any, dtype: Any) -> Any:
    """Integers less a row of them, rounded once: in halves, whose differences do not overflow."""
    half, signed = 4 * x.dtype.itemsize, np.dtype(f"i{x.dtype.itemsize}")
    high = (x >> half).astype(signed) - (origin >> half).astype(signed)
    low = (x & ((1 << half) - 1)).astype(signed) - (origin & ((1 << half) - 1)).astype(signed)
    exact = np.float32 if half == 16 else np.float64  # for halves
    return (high.astype(exact) * 2.0**half + low.astype(exact)).astype(dtype)
