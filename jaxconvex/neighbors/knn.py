"""Exact k-nearest neighbours on one device or many, never n x n in memory."""

from __future__ import annotations

import contextlib
import warnings
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
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
from jaxconvex._internal.devices import in_mesh, outside_meshes
from jaxconvex._internal.functions import frozen
from jaxconvex._internal.streams import at_once, streams
from jaxconvex.neighbors.distances import Metric, directions, metric_function, sizes, span, squared_euclidean
from jaxconvex.neighbors.narrowing import in_float64, is_wide, narrowing_shows, near_origin
from jaxconvex.neighbors.products import SPARE, TOGETHER, nearest_by_products, scratch_bytes

__all__ = ["KNNGraph", "epsilon_graph", "knn_graph", "neighbors_of_first"]

BLOCK_BYTES = 64 * 2**20  # distances of a block of queries to all points, where the metric is no matrix product
BUSY = 4096  # with fewer points than that a second core is not worth its start
SHARED = 2**29  # bytes of points up to which every core has its own centred copy
TOO_FAR = (
    "must have distances that {type} holds; {count} have neighbours farther away than that ({which}). If a value stands "
    "for missing ones, leave these rows out; otherwise divide x by a constant."
)
TOO_NEAR = (
    "must have distances that {type} holds to rounding; {count} are or differ from neighbours by less than {least:.0e} in "
    "some column ({which}). Multiply x by a constant."
)
SMALL = 2**16  # with fewer points than that compiling takes longer than padding them to a size that others have


class KNNGraph(NamedTuple):
    """Each point's neighbours, nearest first, never itself, ties to the lowest index.

    So where neighbours tie, as on a lattice or among copies, which of them are linked depends on the order of the rows.
    Absent neighbours (an epsilon graph has them) are padded with index -1 and distance inf.
    """

    indices: Int[Array, "n k"]
    distances: Float[Array, "n k"]


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
    points = _replicated(x, mesh) if mesh is not None else as_points(x)
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
        zero = np.flatnonzero(~local_values(_nonzero_rows(points)))
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
            found = _knn_on_mesh(points, k, metric, _line(mesh))
        elif on_cores:
            found = _knn_on_cores(points, k, metric)
        else:
            found = (_knn_by_steps if n < SMALL else _knn_at_once)(points, k, metric)
    if is_concrete(found) and isinstance(metric, str):
        raise_for_rows(np.any(np.isnan(local_values(found.distances)), axis=1), "x", TOO_FAR, type=points.dtype)
        if metric != "cosine":
            _check_least(found, points)
        if is_wide(given):
            return _unless_narrowing_shows(found, given, points, k=k, metric=metric, mesh=mesh, memory=memory)
    return found


def _check_least(found: KNNGraph, points: Float[Array, "n d"]) -> None:
    """Raises ValueError where a distance is so short that numbers below the normal ones, which are lost, show in it."""
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


def epsilon_graph(
    x: Float[Array, "n d"], *, radius: float | Array, max_degree: int | None = None, metric: Metric = "euclidean"
) -> KNNGraph:
    """The neighbours of every point within a radius: `KNNGraph`, padded with index -1 and distance inf.

    Args:
        x: points, one a row.
        radius: largest distance of neighbours, in units of the metric; above 0.
        max_degree: columns of the result, 1 to n - 1. By default the largest number of neighbours there is; under jit
            that is not known, so name it there. If a point has more neighbours than that, all distances are nan.
        metric: as for `knn_graph`.

    Raises:
        ValueError: as `knn_graph`; radius not above 0; max_degree missing under jit.

    Cost: that of `knn_graph` with k = max_degree + 1; where it is not named, with k = 32, then 128, 512, ...

    >>> epsilon_graph(jnp.array([[0.], [1.], [3.]]), radius=1.5).indices.tolist()
    [[1], [0], [-1]]
    """
    n = as_points(x).shape[0]
    if is_concrete(radius) and not np.all(np.asarray(radius) > 0):
        raise ValueError(f"radius must be above 0, in units of the metric; got {radius}.")
    positive_integer(n - 1, "the number of points less one")
    if max_degree is None:
        if not is_concrete(x, radius):
            raise ValueError("max_degree must be named under jit: how many neighbours the radius holds is not known.")
        searched = min(32, n - 1)
        found = knn_graph(x, k=searched, metric=metric)
        while searched < n - 1 and bool(jnp.any(found.distances[:, -1] <= radius)):
            searched = min(4 * searched, n - 1)
            found = knn_graph(x, k=searched, metric=metric)
        max_degree = max(1, int(jnp.max(jnp.sum(found.distances <= radius, axis=1))))
    else:
        positive_integer(max_degree, "max_degree", most=n - 1, why=f" for {n} points")
        found = knn_graph(x, k=min(max_degree + 1, n - 1), metric=metric)
    return _within(found, radius, max_degree)


@partial(jax.jit, static_argnames="max_degree")
def _within(found: KNNGraph, radius: Any, max_degree: int) -> KNNGraph:
    inside = found.distances <= radius
    crowded = jnp.any(inside[:, max_degree:]) | jnp.any(jnp.isnan(found.distances))
    indices = jnp.where(inside, found.indices, -1)[:, :max_degree]
    distances = jnp.where(inside, found.distances, jnp.inf)[:, :max_degree]
    return KNNGraph(indices, jnp.where(crowded, jnp.nan, distances))


def padded_size(n: int) -> int:
    """The number of rows to search in where there are n points: one of eight an octave, unless there are many."""
    step = 64 if n >= SMALL else max(64, 2 ** ((n + SPARE).bit_length() - 4))
    return -(-(n + SPARE) // step) * step


@partial(jax.jit, static_argnames="size")
def _padded(x: Float[Array, "n d"], size: int) -> Float[Array, "size d"]:
    # The last row again and again, since zero vectors would have no direction.
    return jnp.pad(x, ((0, size - x.shape[0]), (0, 0)), mode="edge")


@partial(jax.jit, static_argnames="n")
def _first_rows(graph: KNNGraph, n: int) -> KNNGraph:
    return jax.tree.map(lambda part: part[:n], graph)


@partial(jax.jit, static_argnames=("k", "metric"))
@in_mesh
def _knn(x: Float[Array, "n d"], count: int | Array, k: int, metric: Any) -> KNNGraph:
    """The graph of the first `count` rows; the others are padding, and so is what is found for them."""
    return _neighbors_of_rows(x, jnp.int32(0), jnp.int32(count), x.shape[0], k, metric)


def _knn_on_cores(x: Float[Array, "n d"], k: int, metric: Any) -> KNNGraph:
    """Pad, search and cut on the host: the cores share the queries, since XLA selects on one of them alone."""
    n = len(x)
    parts = streams() if n >= BUSY else 1
    size = -(-padded_size(n) // (parts * TOGETHER)) * TOGETHER
    padded = np.pad(np.asarray(x), ((0, size * parts - n), (0, 0)), mode="edge")
    search = _search(padded.shape, padded.dtype, size, k, metric)

    def share(first: int) -> KNNGraph:
        return jax.tree.map(np.asarray, search(padded, np.int32(first), np.int32(n)))

    shares = at_once(share, range(0, size * parts, size))
    return jax.tree.map(lambda *found: jnp.asarray(np.concatenate(found)[:n]), *shares)


@cache
def _search(shape: tuple[int, int], dtype: Any, size: int, k: int, metric: Any) -> Any:
    """`_neighbors_of_rows`, compiled: once, though several threads are about to call it."""
    search = jax.jit(_neighbors_of_rows, static_argnames=("size", "k", "metric"))
    number = jax.ShapeDtypeStruct((), jnp.int32)
    return search.lower(jax.ShapeDtypeStruct(shape, dtype), number, number, size=size, k=k, metric=metric).compile()


def _knn_by_steps(x: Float[Array, "n d"], k: int, metric: Any) -> KNNGraph:
    """Pad, search, cut: three compilations, of which the long one is shared by similar numbers of points."""
    n = x.shape[0]
    return _first_rows(_knn(_padded(x, padded_size(n)), n, k, metric), n)


_knn_at_once = jax.jit(_knn_by_steps, static_argnames=("k", "metric"))  # saves the memory of the padded copy


def neighbors_of_first(x: Float[Array, "n d"], count: Int[Array, ""], *, k: int, metric: Metric) -> KNNGraph:
    """The graph of the first `count` rows, under jit; what is told of the others, or beyond count - 1, means nothing."""
    n = x.shape[0]
    if metric in ("euclidean", "manhattan"):
        x = near_origin(x)[0]
    elif callable(metric):
        metric = frozen(metric, *2 * [jax.ShapeDtypeStruct(x.shape[1:], x.dtype)])
    return _first_rows(_knn(_padded(as_points(x), padded_size(n)), count, k, metric), n)


@partial(jax.jit, static_argnames=("k", "metric", "mesh"))
def _knn_on_mesh(x: Float[Array, "n d"], k: int, metric: Any, mesh: Mesh) -> KNNGraph:
    n = x.shape[0]
    size = -(-(n + SPARE) // (mesh.size * TOGETHER)) * TOGETHER
    x = _padded(x, size * mesh.size)

    def share(x: Float[Array, "n d"]) -> KNNGraph:
        first = lax.axis_index("queries").astype(jnp.int32) * size
        return _neighbors_of_rows(x, first, jnp.int32(n), size, k, metric)

    # No device's number of steps depends on another's, which the check of varying values does not know.
    shares = jax.shard_map(
        share, mesh=mesh, in_specs=PartitionSpec(), out_specs=PartitionSpec("queries"), check_vma=False
    )(x)
    everywhere = NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(lambda part: lax.with_sharding_constraint(part[:n], everywhere), shares)


def _line(mesh: Mesh) -> Mesh:
    return Mesh(mesh.devices.ravel(), ("queries",))


def _replicated(x: Any, mesh: Mesh) -> Float[Array, "n d"]:
    """The points, checked, on every device of the mesh."""
    everywhere = NamedSharding(_line(mesh), PartitionSpec())
    if not is_concrete(x):
        return as_points(x)
    if not isinstance(x, jax.Array) or x.is_fully_addressable:
        return jax.device_put(as_points(x), everywhere)
    points = jax.device_put(x, everywhere).astype(jax.eval_shape(as_points, x).dtype)
    # Every process has all of a replicated array, though JAX may not read it as one.
    as_points(points.addressable_data(0))
    return points


@jax.jit
def _nonzero_rows(x: Float[Array, "n d"]) -> Array:
    return jnp.any(x != 0, axis=1)


def _neighbors_of_rows(
    x: Float[Array, "n d"], first: Int[Array, ""], count: Int[Array, ""], size: int, k: int, metric: Any
) -> KNNGraph:
    """The neighbours of `size` rows from the first, among the first `count` rows."""
    finite = jnp.all(jnp.isfinite(x))
    points = jnp.where(jnp.isfinite(x), x, 0)
    if metric == "cosine":
        points, function = _directions(points), metric_function("euclidean")
    else:
        function = metric_function(metric)
    fixed = lax.stop_gradient(points)
    fixed = jnp.where(jnp.isfinite(fixed), fixed, 0)
    scale, wide = span(fixed)
    if not isinstance(metric, str):
        scale = jnp.ones((), x.dtype)  # a metric of one's own may depend on it
    points, fixed = points / scale, fixed / scale
    if metric in ("euclidean", "cosine"):
        indices, known = nearest_by_products(fixed, first, count, wide, size=size, k=k)
    else:
        indices, known = _nearest_by_differences(fixed, first, count, size, k, function)
    known, indices = lax.sort((known, indices), num_keys=2)
    distances = _with_gradient(function, points, first, indices, known) * scale
    held = finite & (distances < jnp.inf) if isinstance(metric, str) else finite  # inf would mean that there is none
    return KNNGraph(indices, jnp.where(held, distances, jnp.nan))


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _with_gradient(function: Any, x: Array, first: Array, indices: Array, known: Array) -> Float[Array, "size k"]:
    """The known distances of rows from the first to the points at `indices`, with the gradient they have in x."""
    return known


@_with_gradient.defjvp
def _tangent(function: Any, primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    x, first, indices, known = primals

    def column(j: Int[Array, " size"]) -> Float[Array, " size"]:
        def distances(x: Array) -> Array:
            return jax.vmap(function)(lax.dynamic_slice_in_dim(x, first, len(j)), x[j])

        return jax.jvp(distances, (x,), tangents[:1])[1]

    return known, lax.map(column, indices.T).T


def _directions(x: Float[Array, "n d"]) -> Float[Array, "n d"]:
    # Some rows at a time, so that equal rows have equal directions: see `candidates._keys`.
    return lax.map(directions, x.reshape(-1, TOGETHER, x.shape[1])).reshape(x.shape)


def _nearest_by_differences(
    x: Float[Array, "n d"], first: Array, count: Array, size: int, k: int, function: Any
) -> tuple[Int[Array, "size k"], Float[Array, "size k"]]:
    """Neighbours and distances by the metric itself, for metrics that are no matrix product."""
    n, d = x.shape
    points = jnp.arange(n)
    together = min(TOGETHER, 2 ** max(0, (BLOCK_BYTES // (n * d * x.dtype.itemsize)).bit_length() - 1))

    def block(rows: Int[Array, " some"]) -> tuple[Array, Array]:
        distances = jax.vmap(lambda a: jax.vmap(lambda b: function(a, b))(x))(x[rows])
        own = (points == rows[:, None]) | (points >= count)
        negative, indices = lax.top_k(-jnp.where(own, jnp.inf, distances), k)
        return indices, -negative

    indices, distances = lax.map(block, (first + jnp.arange(size)).reshape(-1, together))
    return indices.reshape(size, k), distances.reshape(size, k)
