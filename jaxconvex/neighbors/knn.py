"""Exact k-nearest neighbours on one device or many, never n x n in memory."""

from __future__ import annotations

import contextlib
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from jaxconvex._internal.checks import (
    as_array,
    as_lengths,
    as_points,
    is_concrete,
    local_values,
    positive_integer,
    raise_for_rows,
)
from jaxconvex._internal.devices import outside_meshes
from jaxconvex._internal.functions import frozen
from jaxconvex.neighbors.distances import Metric, metric_function, sizes, squared_euclidean
from jaxconvex.neighbors.narrowing import in_float64, is_wide, narrowing_shows, near_origin
from jaxconvex.neighbors.products import SPARE, scratch_bytes
from jaxconvex.neighbors.search import (
    SHARED,
    SMALL,
    KNNGraph,
    first_rows,
    knn_at_once,
    knn_by_steps,
    knn_of_first,
    knn_on_cores,
    knn_on_mesh,
    line,
    nonzero_rows,
    padded,
    padded_size,
    replicated,
)

__all__ = ["KNNGraph", "knn_graph", "neighbors_of_first"]

TOO_FAR = (
    "must have distances that {type} holds; {count} have neighbours farther away than that ({which}). If a value stands "
    "for missing ones, leave these rows out; otherwise divide x by a constant."
)
TOO_NEAR = (
    "must have distances that {type} holds to rounding; {count} are or differ from neighbours by less than {least:.0e} in "
    "some column ({which}). Multiply x by a constant."
)


def knn_graph(
    x: Float[ArrayLike, "n d"],
    *,
    k: int = 10,
    metric: Metric = "euclidean",
    mesh: Mesh | None = None,
    memory: float | None = None,
) -> KNNGraph:
    """The k nearest neighbours of every point and their distances, exact: `KNNGraph(indices, distances)`.

    Args:
        x: points, one a row, computed in float32; float64 stays where x64 is on. Where that rounds the distance of near
            points by a hundredth or more (float64 and integers far from the origin, near-duplicates), concrete input is
            searched again in float64. Traced integers are taken less the first row of them.
        k: number of neighbours, 1 to n - 1.
        metric: "euclidean", "cosine" (the chord, see `distances.cosine`), "manhattan", or a symmetric metric on two
            vectors that JAX can trace. Squared distances are refused: they break the triangle inequality.
        mesh: the devices to share the work: each holds all points and searches for its share of them. The result, the
            same to the last bit, is on all of them. x may then be an array that no single process can address whole.
        memory: bytes that arrays may take beyond x, on each device; the search does not begin if they would take more. What
            JAX takes to compile is no part of it.

    Euclidean and cosine neighbours come from matrix products of centred data. A product is rounded, so it only proposes
    candidates; those are ranked by distances from differences, and a bound on the rounding shows for each row that no
    other point can be nearer. Rows without that proof are searched by differences. So offsets, outliers and
    near-duplicates cost time, not correctness.

    Equal points are neighbours at distance 0. Distances carry gradients with respect to x (finite at 0). They are right to
    rounding over the whole range of the type, whatever else stands in x. What is below its smallest normal number (1e-38 in
    float32) counts as 0 on a CPU; where that shows in a distance, concrete input is refused. NaN or infinity: an error on
    concrete input; under jit all distances are nan, and so is a distance too long for the type.

    Raises:
        ValueError: k < 1 or k >= n, wrong rank, squared distances, non-finite input, zero vectors for the cosine,
            distances too long for the type, too little memory.

    Cost: n^2 d operations; beyond the data memory for two copies of them, some 40 (k + 6) bytes a point, and a tile of
    the product (32 MB on a CPU, 1 GB elsewhere). On concrete input similar numbers of points share one compilation.

    >>> graph = knn_graph(jnp.array([[0.], [1.], [3.], [7.]]), k=2)
    >>> graph.indices.tolist()
    [[1, 2], [0, 2], [1, 0], [2, 1]]
    """
    if metric in ("squared_euclidean", squared_euclidean):
        raise ValueError(
            "metric='squared_euclidean' gives no edge lengths: squared distances break the triangle inequality, so a path "
            "through many points would be shorter than the straight edge. Use 'euclidean'; the neighbours are the same."
        )
    metric_function(metric)
    given = x
    if metric in ("euclidean", "manhattan"):
        x = near_origin(x)[0]
    elif metric == "cosine" and is_wide(x):
        x = _of_one_magnitude(as_array(x, "x"))
    points = replicated(x, mesh) if mesh is not None else as_points(x)
    n = points.shape[0]
    positive_integer(k, "k", most=n - 1, why=f" for {n} points (a point is no neighbour of itself)")
    bytes_of_x = points.size * points.dtype.itemsize
    beside = 48 * (k + SPARE) * n + scratch_bytes()
    needed = 3 * bytes_of_x + beside
    if memory is not None and needed > memory:
        raise ValueError(
            f"{n} points in {points.shape[1]} dimensions need up to {needed / 1e9:.2f} GB to find {k} neighbours; memory="
            f"{memory:g} allows {memory / 1e9:.2f} GB. Allow more, or take fewer points or dimensions."
        )
    if metric == "cosine" and is_concrete(points):
        zero = np.flatnonzero(~local_values(nonzero_rows(points)))
        if zero.size:
            raise ValueError(
                f"metric='cosine' needs a direction for every point; {zero.size} rows of x are zero vectors "
                f"(first: row {zero[0]}). Remove them or use another metric."
            )
    room = SHARED if memory is None else min(SHARED, (memory - beside) / 5)
    on_cores = jax.default_backend() == "cpu" and is_concrete(points) and bytes_of_x <= room
    with outside_meshes() if mesh is not None or on_cores else contextlib.nullcontext():
        if callable(metric):
            metric = frozen(metric, *2 * [jax.ShapeDtypeStruct(points.shape[1:], points.dtype)])
        if mesh is not None:
            found = knn_on_mesh(points, k, metric, line(mesh))
        elif on_cores:
            found = knn_on_cores(points, k, metric)
        else:
            found = (knn_by_steps if n < SMALL else knn_at_once)(points, k, metric)
    if is_concrete(found) and isinstance(metric, str):
        raise_for_rows(np.any(np.isnan(local_values(found.distances)), axis=1), "x", TOO_FAR, type=points.dtype)
        if metric != "cosine":
            _check_least(found, points)
        if is_wide(given):
            return _unless_narrowing_shows(found, given, points, k=k, metric=metric, mesh=mesh, memory=memory)
    return found


def _check_least(found: KNNGraph, points: Float[Array, "n d"]) -> None:
    """Raise ValueError where a distance is so short that numbers below the normal ones, which are lost, show in it."""
    kind = np.finfo(points.dtype)
    lengths, values = local_values(found.distances), local_values(points)
    i, column = np.nonzero(lengths < kind.tiny / kind.eps)
    j, lossy, some = (
        local_values(found.indices)[i, column],
        np.zeros(len(points), bool),
        max(1, 2**22 // points.shape[1]),
    )
    # Differences are taken of points that are scaled up as far as the largest of them allows.
    least = kind.tiny * max(np.max(np.abs(values), initial=0) / float(kind.max) * 2.0**18, kind.eps)
    for start in range(0, len(i), some):
        rows, others = i[start : start + some], j[start : start + some]
        lost = np.abs(values[rows] - values[others]) < least
        short = lengths[rows, column[start : start + some]] < kind.tiny
        apart = (values[rows] != values[others]) & (lost | short[:, None])
        for part in (values[rows], values[others]):
            apart |= (np.abs(part) < kind.tiny) & (part != 0)
        lossy[rows] |= np.any(apart, axis=1)
    raise_for_rows(lossy, "x", TOO_NEAR, type=points.dtype, least=kind.tiny)


def _unless_narrowing_shows(found: KNNGraph, x: Any, points: Array, **options: Any) -> KNNGraph:
    """What was found, or what is found in float64 where distances were changed by narrowing the points."""
    indices, distances = local_values(found.indices), local_values(found.distances)
    i, length = np.indices(indices.shape)[0], local_values(sizes(points, options["metric"]))
    if not narrowing_shows(x, x, i, indices, distances, length[i] + length[indices]):
        return found
    with jax.enable_x64(True):
        again = knn_graph(jnp.asarray(in_float64(x, x)), **options)
        indices, distances = local_values(again.indices), local_values(again.distances)
    if narrowing_shows(x, x, i, indices, distances, 0):
        warnings.warn("rows of x differ by less than float64 tells apart, so that their distance is 0.", stacklevel=3)
    return KNNGraph(jnp.asarray(indices, jnp.int32), as_lengths(distances, "distances of x").astype(points.dtype))


def _of_one_magnitude(x: Any) -> Any:
    """Rows times a power of two each, which changes no direction, so that no narrower type loses one."""
    x = np.asarray(x)
    return np.ldexp(x, -np.frexp(np.max(np.abs(x), axis=-1, keepdims=True, initial=0))[1]) if x.dtype.kind == "f" else x


def neighbors_of_first(x: Float[Array, "n d"], count: Int[Array, ""], *, k: int, metric: Metric) -> KNNGraph:
    """The graph of the first `count` rows, under jit; what is told of the others, or beyond count - 1, means nothing."""
    n = x.shape[0]
    if metric in ("euclidean", "manhattan"):
        x = near_origin(x)[0]
    elif callable(metric):
        metric = frozen(metric, *2 * [jax.ShapeDtypeStruct(x.shape[1:], x.dtype)])
    return first_rows(knn_of_first(padded(as_points(x), padded_size(n)), count, k, metric), n)
