"""Distances between two vectors, and their lift to all pairs of two sets of points."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float

from jaxconvex._internal import loops
from jaxconvex._internal.checks import as_lengths, as_points, one_of
from jaxconvex._internal.functions import Program, frozen
from jaxconvex.neighbors.narrowing import in_float64, is_wide, narrowing_shows, near_origin

__all__ = [
    "METRICS",
    "Metric",
    "cosine",
    "directions",
    "euclidean",
    "manhattan",
    "metric_function",
    "norms",
    "pairwise",
]
__all__ += ["power_of_two", "sizes", "span", "squared_euclidean"]

Vector = Float[Array, " d"]
Metric = str | Callable[[Array, Array], Array]


def squared_euclidean(x: Vector, y: Vector) -> Float[Array, ""]:
    """Squared Euclidean distance: sum_i (x_i - y_i)^2. Not a metric, so it is refused as the length of an edge.

    >>> float(squared_euclidean(jnp.array([0., 0.]), jnp.array([3., 4.])))
    25.0
    """
    return jnp.sum(jnp.square(x - y))


def euclidean(x: Vector, y: Vector) -> Float[Array, ""]:
    """Euclidean distance: sqrt(sum_i (x_i - y_i)^2), from differences. Its gradient at x = y is 0.

    Right to rounding over the range of the type: no square overflows or vanishes. Numbers below the smallest normal one
    (1e-38 in float32) count as 0 on a CPU.

    >>> float(euclidean(jnp.array([0., 0.]), jnp.array([3., 4.])))
    5.0
    """
    return norms(x - y)


def cosine(x: Vector, y: Vector) -> Float[Array, ""]:
    """Distance of the directions: sqrt(2 - 2 cos(x, y)), in [0, 2]: the chord between x/|x| and y/|y|.

    It ranks neighbours as 1 - cos does, and obeys the triangle inequality, without which an edge of a graph need not be
    the shortest path between its ends. It is nan where x or y is the zero vector.

    >>> round(float(cosine(jnp.array([2., 0.]), jnp.array([0., 5.]))), 4)
    1.4142
    """
    return euclidean(directions(x), directions(y))


def manhattan(x: Vector, y: Vector) -> Float[Array, ""]:
    """Manhattan distance: sum_i |x_i - y_i|. Its gradient where x_i = y_i is 0.

    >>> float(manhattan(jnp.array([0., 0.]), jnp.array([3., 4.])))
    7.0
    """
    return jnp.sum(jnp.where(x == y, 0, jnp.abs(x - y)))  # so that the gradient at 0 is 0, not 1


METRICS: dict[str, Callable[[Array, Array], Array]] = {
    "euclidean": euclidean,
    "squared_euclidean": squared_euclidean,
    "cosine": cosine,
    "manhattan": manhattan,
}


def metric_function(metric: Metric) -> Callable[[Array, Array], Array]:
    """The function on two vectors behind a metric's name; a function is returned as it is.

    >>> metric_function("manhattan") is manhattan
    True
    """
    return metric if callable(metric) else METRICS[one_of(metric, tuple(METRICS), "metric")]


def pairwise(
    x: Float[Array, "n d"], y: Float[Array, "m d"] | None = None, *, metric: Metric = "euclidean"
) -> Float[Array, "n m"]:
    """All distances D[i, j] = metric(x[i], y[j]), with y = x by default.

    Args:
        x, y: points, one a row, computed in float32; float64 stays where x64 is on, and is used for concrete input where
            float32 would show. Traced integers are taken less the first row of x.
        metric: "euclidean", "squared_euclidean", "cosine", "manhattan", or a function of two vectors that JAX can trace.

    Differences are taken coordinate by coordinate, never through `|x|^2 + |y|^2 - 2 x.y`, whose rounding can exceed the
    distance of near neighbours by far. Gradients are finite, also between equal points.

    Raises:
        ValueError: for a rank other than 2, different numbers of features, NaN or infinity in concrete input.

    Cost: n m d operations, n m memory. For neighbours of many points use `knn_graph`, which never holds this matrix.

    >>> pairwise(jnp.array([[0.], [1.], [3.]])).tolist()
    [[0.0, 1.0, 3.0], [1.0, 0.0, 2.0], [3.0, 2.0, 0.0]]
    """
    metric = next((name for name, function in METRICS.items() if function is metric), metric)
    given = (x, x) if y is None else (x, y)
    moved = near_origin(*given) if metric in ("euclidean", "squared_euclidean", "manhattan") else given
    x, y = as_points(moved[0]), as_points(moved[1], "y" if y is not None else "x")
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"x and y must have the same number of features; got {x.shape[1]} and {y.shape[1]}.")
    metric_function(metric)
    found = (
        _scaled_pairs(x, y, metric) if metric in ("euclidean", "cosine", "manhattan") else _by_function(metric, x, y)
    )
    if isinstance(metric, str) and is_wide(*given):
        lengths = jnp.sqrt(found) if metric == "squared_euclidean" else found
        rows = np.indices(found.shape)
        added = np.asarray(sizes(x, metric)[:, None] + sizes(y, metric))
        if narrowing_shows(given[0], given[1], rows[0], rows[1], lengths, added):
            wide: Any = [in_float64(part, given[0]) for part in given]
            with jax.enable_x64(True):
                again = np.asarray(pairwise(*wide, metric=metric))
            return as_lengths(again, "distances of x").astype(x.dtype)
    return found


def _by_function(metric: Metric, x: Array, y: Array) -> Float[Array, "n m"]:
    function = metric_function(metric)
    if callable(metric):
        function = frozen(metric, *2 * [jax.ShapeDtypeStruct(x.shape[1:], x.dtype)])
        if not isinstance(function, Program):  # it holds what is being traced
            return _lifted(function, x, y)
    return _lifted_once(function, x, y)


def _lifted(function: Callable[[Array, Array], Array], x: Array, y: Array) -> Float[Array, "n m"]:
    return jax.vmap(lambda a: jax.vmap(lambda b: function(a, b))(y))(x)


_lifted_once = jax.jit(_lifted, static_argnums=0)


@partial(jax.jit, static_argnames="metric")
def _scaled_pairs(x: Array, y: Array, metric: str) -> Float[Array, "n m"]:
    """The same in a unit of their own; pairs one by one in units of their own only where that is needed."""
    if metric == "cosine":
        x, y = directions(x), directions(y)
    scale, wide = span(x, y)
    x, y = x / scale, y / scale
    if metric == "manhattan":
        return _lifted(manhattan, x, y) * scale
    plain = partial(_lifted, lambda a, b: _safe_sqrt(squared_euclidean(a, b)))
    return loops.cond(wide, partial(_lifted, euclidean), plain, x, y) * scale


def sizes(points: Float[Array, "n d"], metric: str) -> Float[Array, " n"]:
    """The lengths of the vectors whose differences the metric measures."""
    if metric == "cosine":
        return jnp.ones(len(points), points.dtype)
    return jnp.sum(jnp.abs(points), axis=1) if metric == "manhattan" else norms(points)


def span(*points: Float[Array, "_ d"]) -> tuple[Float[Array, ""], Bool[Array, ""]]:
    """What to divide the points by, a power of two, and whether magnitudes are so far apart that squares could vanish.

    Numbers that are not equal differ by at least eps times the lesser one. So where the least magnitude is not too small
    no square of a difference leaves the range once the largest magnitude is about 1. Otherwise the differences must not:
    the largest magnitude is moved to where a distance does not overflow.
    """
    kind = jnp.finfo(points[0].dtype)
    magnitudes = [jnp.abs(lax.stop_gradient(x)) for x in points]
    largest = jnp.stack([jnp.max(m) for m in magnitudes])
    smallest = jnp.stack([jnp.min(jnp.where(m > 0, m, jnp.inf)) for m in magnitudes])
    ends = jnp.stack([jnp.max(largest), jnp.min(smallest)])
    _, (most, least) = jnp.frexp(jnp.where(jnp.isfinite(ends), ends, 1))
    wide = most - least > -kind.minexp // 2 - kind.nmant
    top = kind.maxexp - 3 - math.ceil(math.log2(points[0].shape[1]))
    lowest = kind.minexp // 2
    exponent = jnp.where(wide, jnp.maximum(most - top, lowest), jnp.maximum(most - 1, kind.minexp))
    return jnp.ldexp(jnp.ones((), kind.dtype), exponent), wide


def power_of_two(values: Float[Array, " ..."], axis: int | None = None) -> Float[Array, " ..."]:
    """The power of two at or next below the largest magnitude, constant to gradients; 1 where that is 0 or not finite.

    Dividing by it changes no digit.
    """
    largest = jnp.max(jnp.abs(lax.stop_gradient(values)), axis=axis, keepdims=axis is not None)
    _, exponent = jnp.frexp(largest)
    usable = (largest > 0) & (largest < jnp.inf)
    return jnp.ldexp(jnp.ones_like(largest), jnp.where(usable, exponent - 1, 0))


def norms(values: Float[Array, "*rows d"]) -> Float[Array, "*rows"]:
    """Euclidean lengths along the last axis, over the whole range of the type; the gradient at 0 is 0."""
    scale = power_of_two(values, axis=-1)
    return _safe_sqrt(jnp.sum(jnp.square(values / scale), axis=-1)) * scale[..., 0]


def directions(values: Float[Array, "*rows d"]) -> Float[Array, "*rows d"]:
    """The vectors along the last axis at length 1; nan where they are 0."""
    scaled = values / power_of_two(values, axis=-1)
    squared = jnp.sum(jnp.square(scaled), axis=-1, keepdims=True)
    return scaled / jnp.sqrt(jnp.where(squared > 0, squared, jnp.nan))


def _safe_sqrt(value: Array) -> Array:
    # The inner `where` keeps the infinite derivative of sqrt at 0 out of the gradient.
    positive = value > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, value, 1)), jnp.where(value == 0, 0, jnp.nan))
