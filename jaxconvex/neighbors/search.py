"""The search for the k nearest neighbors of some rows among others: in one program, on several cores, on many devices."""

from __future__ import annotations

from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from jaxconvex._internal.checks import (
    as_points,
    is_concrete,
)
from jaxconvex._internal.devices import in_mesh
from jaxconvex._internal.streams import at_once, streams
from jaxconvex.neighbors.distances import directions, metric_function, span
from jaxconvex.neighbors.products import SPARE, TOGETHER, nearest_by_products

__all__ = [
    "KNNGraph",
    "first_rows",
    "knn_at_once",
    "knn_by_steps",
    "knn_of_first",
    "knn_on_cores",
    "knn_on_mesh",
    "line",
    "nonzero_rows",
    "padded",
    "padded_size",
    "replicated",
]

BLOCK_BYTES = 64 * 2**20  # distances of a block of queries to all points, where the metric is no matrix product
BUSY = 4096  # with fewer points than that a second core is not worth its start
SHARED = 2**29  # bytes of points up to which every core has its own centred copy
SMALL = 2**16  # with fewer points than that compiling takes longer than padding them to a size that others have


class KNNGraph(NamedTuple):
    """Each point's neighbours, nearest first, never itself, ties to the lowest index.

    So where neighbours tie, as on a lattice or among copies, which of them are linked depends on the order of the rows.
    Absent neighbours (an epsilon graph has them) are padded with index -1 and distance inf.
    """

    indices: Int[Array, "n k"]
    distances: Float[Array, "n k"]


def padded_size(n: int) -> int:
    """The number of rows to search in where there are n points: one of eight an octave, unless there are many."""
    step = 64 if n >= SMALL else max(64, 2 ** ((n + SPARE).bit_length() - 4))
    return -(-(n + SPARE) // step) * step


@partial(jax.jit, static_argnames="size")
def padded(x: Float[Array, "n d"], size: int) -> Float[Array, "size d"]:
    """The points with copies of the last one behind them, so that there are `size` rows."""
    # The last row again and again, since zero vectors would have no direction.
    return jnp.pad(x, ((0, size - x.shape[0]), (0, 0)), mode="edge")


@partial(jax.jit, static_argnames="n")
def first_rows(graph: KNNGraph, n: int) -> KNNGraph:
    """The lists of the first n points."""
    return jax.tree.map(lambda part: part[:n], graph)


@partial(jax.jit, static_argnames=("k", "metric"))
@in_mesh
def knn_of_first(x: Float[Array, "n d"], count: int | Array, k: int, metric: Any) -> KNNGraph:
    """The graph of the first `count` rows; the others are padding, and so is what is found for them."""
    return _neighbors_of_rows(x, jnp.int32(0), jnp.int32(count), x.shape[0], k, metric)


def knn_on_cores(x: Float[Array, "n d"], k: int, metric: Any) -> KNNGraph:
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


def knn_by_steps(x: Float[Array, "n d"], k: int, metric: Any) -> KNNGraph:
    """Pad, search, cut: three compilations, of which the long one is shared by similar numbers of points."""
    n = x.shape[0]
    return first_rows(knn_of_first(padded(x, padded_size(n)), n, k, metric), n)


knn_at_once = jax.jit(knn_by_steps, static_argnames=("k", "metric"))  # saves the memory of the padded copy


@partial(jax.jit, static_argnames=("k", "metric", "mesh"))
def knn_on_mesh(x: Float[Array, "n d"], k: int, metric: Any, mesh: Mesh) -> KNNGraph:
    """The graph of the points, each device searching for a share of the queries; whole on every device."""
    n = x.shape[0]
    size = -(-(n + SPARE) // (mesh.size * TOGETHER)) * TOGETHER
    x = padded(x, size * mesh.size)

    def share(x: Float[Array, "n d"]) -> KNNGraph:
        first = lax.axis_index("queries").astype(jnp.int32) * size
        return _neighbors_of_rows(x, first, jnp.int32(n), size, k, metric)

    # No device's number of steps depends on another's, which the check of varying values does not know.
    shares = jax.shard_map(
        share, mesh=mesh, in_specs=PartitionSpec(), out_specs=PartitionSpec("queries"), check_vma=False
    )(x)
    everywhere = NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(lambda part: lax.with_sharding_constraint(part[:n], everywhere), shares)


def line(mesh: Mesh) -> Mesh:
    """The devices of the mesh in a single axis, "queries"."""
    return Mesh(mesh.devices.ravel(), ("queries",))


def replicated(x: Any, mesh: Mesh) -> Float[Array, "n d"]:
    """The points, checked, on every device of the mesh."""
    everywhere = NamedSharding(line(mesh), PartitionSpec())
    if not is_concrete(x):
        return as_points(x)
    if not isinstance(x, jax.Array) or x.is_fully_addressable:
        return jax.device_put(as_points(x), everywhere)
    points = jax.device_put(x, everywhere).astype(jax.eval_shape(as_points, x).dtype)
    # Every process has all of a replicated array, though JAX may not read it as one.
    as_points(points.addressable_data(0))
    return points


@jax.jit
def nonzero_rows(x: Float[Array, "n d"]) -> Array:
    """Whether each row has an entry other than zero, so that it has a direction."""
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
