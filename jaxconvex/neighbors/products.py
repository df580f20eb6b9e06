"""Nearest neighbours by matrix products: a tile of the product at a time, and a proof for each row."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxconvex._internal import loops
from jaxconvex.neighbors.distances import norms, power_of_two

__all__ = ["SPARE", "TOGETHER", "nearest_by_products", "scratch_bytes"]

SPARE = 6  # candidates kept beyond k: their scores are rounded, so they are ranked again by exact differences
TILE = 2**23  # entries of a tile of the product on a CPU: 32 MB in float32, what its cache may hold
QUERIES = 256, 512  # rows of a tile on a CPU, where points have fewer than 256 features, and where they have more
DEVICE_TILE, DEVICE_QUERIES = 2**28, 4096  # elsewhere: 1 GB in float32
GROUP = 8  # entries of a row that share a minimum
PASSES = 64  # up to so many smallest entries are found one by one on a CPU: cheaper there than a partial sort
FAR, NEAR = 2.0**50, 2.0**40  # lengths beyond which a row is in no product, and has no proof from products
TOGETHER = 32  # rows whose distances are computed at a time, from differences


class Plan(NamedTuple):
    """How a product of queries and points is cut in tiles, and what selects from them."""

    queries: int  # rows of a tile
    blocks: int  # tiles along the queries
    points: int  # columns of a tile
    tiles: int  # tiles along the points
    kept: int  # smallest entries that are wanted of a row
    passes: bool  # select by passes of minima, rather than by `top_k`


def plan(size: int, n: int, d: int, k: int, itemsize: int) -> Plan:
    """The one place that chooses tiles: for queries of some number against n points in d dimensions."""
    cpu = jax.default_backend() == "cpu"
    kept = k + SPARE
    # More rows share what it costs to read the points; fewer leave more of a tile in the cache.
    most = QUERIES[d >= 256] if cpu else DEVICE_QUERIES
    entries = (TILE if cpu else DEVICE_TILE) * 4 // itemsize
    blocks = -(-size // most)
    queries = -(-size // (blocks * TOGETHER)) * TOGETHER
    tiles = max(1, -(-n * queries // entries))
    unit = GROUP**2  # so that two levels of groups need no padding
    points = -(-n // (tiles * unit)) * unit
    return Plan(queries, blocks, points, tiles, kept, cpu and kept <= PASSES)


def scratch_bytes() -> int:
    """The bytes of a tile, and of what is made of it."""
    return 4 * 4 * (TILE if jax.default_backend() == "cpu" else DEVICE_TILE)


class Found(NamedTuple):
    """What is known of some rows: their neighbours, and whether rounding leaves them in doubt."""

    indices: Int[Array, "rows k"]
    keys: Float[Array, "rows k"]  # what ranks them: squared distances, or distances where magnitudes are far apart
    doubtful: Bool[Array, " rows"]


def nearest_by_products(
    x: Float[Array, "n d"], first: Int[Array, ""], count: Int[Array, ""], wide: Bool[Array, ""], *, size: int, k: int
) -> tuple[Int[Array, "size k"], Float[Array, "size k"]]:
    """The k nearest of the first `count` points to `size` rows from the first, and their distances.

    No row is its own neighbour. Rows that are no points get any indices. There are at least k + SPARE rows. `wide` tells
    that magnitudes are so far apart that squares of differences may leave the range of the type.

    A tile of the product gives lower bounds of the distances, of which the best are kept. They are ranked by
    differences; a row where another point's bound is not above the k-th of them is searched by differences alone. So
    the result is that of sorting all distances, as rounded, by (distance, index).
    """
    n, d = x.shape
    cut = plan(size, n, d, k, x.dtype.itemsize)
    bounded = _bounded(x, count, wide, cut)
    blocks = jnp.clip(-((first - count) // cut.queries), 0, cut.blocks)  # those that hold points

    def rows_of(block: Int[Array, ""]) -> Int[Array, " b"]:
        return jnp.minimum(first + block * cut.queries + jnp.arange(cut.queries, dtype=jnp.int32), n - 1)

    bounds, candidates = _candidates(bounded, count, blocks, rows_of, cut)
    slack, vanishing = _rounding(x)

    def rank(b: Int[Array, ""], done: Found) -> Found:
        at = b * cut.queries
        rows = rows_of(b)
        bound = lax.dynamic_slice_in_dim(bounds, at, cut.queries)
        candidate = lax.dynamic_slice_in_dim(candidates, at, cut.queries)
        indices, keys = _rank_by_differences(x, rows, candidate, bound < jnp.inf, wide, cut._replace(kept=k))
        squared = jnp.where(wide, jnp.square(keys[:, -1] / bounded.unit), keys[:, -1])
        # Above the k-th distance as it was rounded, and above that of any other point as it would be.
        worst = 0.5 * squared * (1 + 2 * slack) - bounded.half[rows] * (1 - slack) + 4 * vanishing
        proven = (worst < bound[:, -1]) & (bounded.squares[rows] < NEAR**2)
        new = Found(indices, keys, ~proven & (rows < count))
        return jax.tree.map(lambda part, new: lax.dynamic_update_slice_in_dim(part, new, at, 0), done, new)

    number = cut.blocks * cut.queries
    nothing = Found(jnp.zeros((number, k), jnp.int32), jnp.zeros((number, k), x.dtype), jnp.zeros(number, bool))
    found = loops.fori_loop(0, blocks, rank, nothing)
    found = _rescue(x, first, count, wide, found, cut)
    return found.indices[:size], jnp.where(wide, found.keys, jnp.sqrt(found.keys))[:size]


class Bounded(NamedTuple):
    """Centred points, and what makes a lower bound of |y|^2/2 - x.y from a rounded product: offset - product - |x| slope."""

    centred: Float[Array, "padded d"]
    offsets: Float[Array, " padded"]
    slopes: Float[Array, " padded"]
    lengths: Float[Array, " n"]
    half: Float[Array, " n"]  # half the squared lengths, 0 for points too far for products
    squares: Float[Array, " n"]
    unit: Float[Array, ""]  # by which the points were divided


def _rounding(x: Float[Array, "n d"]) -> tuple[float, float]:
    """By what share, and by how much beside, a sum of d products in any order is off at most."""
    d, kind = x.shape[1], jnp.finfo(x.dtype)
    return (0.5 * d + 8) * float(kind.eps), d * float(kind.tiny)


def _bounded(x: Float[Array, "n d"], count: Array, wide: Array, cut: Plan) -> Bounded:
    n = x.shape[0]
    # A median of some rows: unlike the mean, a few far outliers do not move it, and rounding grows with the norms.
    sample = jnp.minimum((jnp.arange(256.0) * (count / 256)).astype(jnp.int32), count - 1)
    centred = x - jnp.sort(x[sample], axis=0)[128]
    unit = jnp.where(wide, _middle_unit(centred[sample]), 1)
    centred = centred / unit
    squares = jnp.sum(jnp.square(centred), axis=1)
    far = ~(squares < FAR**2)  # no products with these, so that nothing overflows
    centred = jnp.where(far[:, None], 0, centred)
    half = 0.5 * jnp.where(far, 0, squares)
    slack, vanishing = _rounding(x)
    lengths = jnp.sqrt(2 * half) + 2 * vanishing**0.5
    room = cut.tiles * cut.points - n
    lowered = jnp.where(jnp.arange(n) < count, jnp.where(far, 0.25 * FAR**2, half * (1 - slack)), jnp.inf)
    return Bounded(
        jnp.pad(centred, ((0, room), (0, 0))),
        jnp.pad(lowered, (0, room), constant_values=jnp.inf),
        jnp.pad(slack * lengths, (0, room)),
        lengths,
        half,
        squares,
        unit,
    )


def _candidates(
    bounded: Bounded, count: Array, blocks: Array, rows_of: Callable[[Array], Array], cut: Plan
) -> tuple[Float[Array, "rows kept"], Int[Array, "rows kept"]]:
    """The points with the least lower bounds of each row, tile by tile of the product: (bounds, points)."""
    Best = tuple[Float[Array, "rows m"], Int[Array, "rows m"]]

    def tile(t: Int[Array, ""], best: Best) -> Best:
        start = t * cut.points
        points = lax.dynamic_slice_in_dim(bounded.centred, start, cut.points)
        offset = lax.dynamic_slice_in_dim(bounded.offsets, start, cut.points)
        slope = lax.dynamic_slice_in_dim(bounded.slopes, start, cut.points)
        names = start + jnp.arange(cut.points, dtype=jnp.int32)

        def block(b: Int[Array, ""], best: Best) -> Best:
            rows = rows_of(b)
            of_rows = bounded.centred[rows]
            products = lax.dot_general(of_rows, points, (((1,), (1,)), ((), ())), precision=lax.Precision.HIGHEST)
            # |y|^2/2 - x.y ranks as the distance does; less the rounding error it is a lower bound.
            length = bounded.lengths[rows][:, None]

            def bounds(products: Array, offset: Array, slope: Array, names: Array) -> Array:
                return jnp.where(names == rows[:, None], jnp.inf, offset - products - length * slope)

            values, members = _least_of_groups(bounds, (products, offset, slope, names), cut)
            at = b * cut.queries
            known = [lax.dynamic_slice_in_dim(part, at, cut.queries) for part in best]
            found = _smallest(
                jnp.concatenate([known[0], values], axis=1), jnp.concatenate([known[1], start + members], axis=1), cut
            )
            return jax.tree.map(lambda part, new: lax.dynamic_update_slice_in_dim(part, new, at, 0), best, found)

        return loops.fori_loop(0, blocks, block, best)

    shape = (cut.blocks * cut.queries, cut.kept)
    best = jnp.full(shape, jnp.inf, bounded.centred.dtype), jnp.zeros(shape, jnp.int32)
    return loops.fori_loop(0, -(-count // cut.points), tile, best)


def _middle_unit(centred: Float[Array, "some d"]) -> Float[Array, ""]:
    """The magnitude of a middle row of some, of those that are not 0: a power of two."""
    largest = jnp.sort(jnp.max(jnp.abs(centred), axis=1))
    return power_of_two(largest[len(largest) - 1 - jnp.sum(largest > 0) // 2])


def _rescue(x: Array, first: Array, count: Array, wide: Array, found: Found, cut: Plan) -> Found:
    """Search the doubtful rows by differences, some at a time; none costs nothing."""
    n = x.shape[0]
    k = found.indices.shape[1]
    names = jnp.arange(-(-n // cut.kept) * cut.kept, dtype=jnp.int32)
    points = jnp.broadcast_to(names.reshape(-1, 1, cut.kept), (len(names) // cut.kept, TOGETHER, cut.kept))

    def rescue(found: Found) -> Found:
        _, chosen = lax.top_k(found.doubtful.astype(jnp.float32), TOGETHER)  # the first of the doubtful rows
        rows = jnp.minimum(first + chosen, n - 1)
        keys = lax.map(lambda points: _keys(x, rows, jnp.minimum(points, n - 1), wide), points)
        keys = jnp.moveaxis(keys, 0, 1).reshape(TOGETHER, -1)
        keys = jnp.where((names == rows[:, None]) | (names >= count), jnp.inf, keys)
        negative, indices = lax.top_k(-keys, k)
        new = Found(indices, -negative, jnp.zeros(TOGETHER, bool))
        return jax.tree.map(lambda part, new: part.at[chosen].set(new), found, new)

    return loops.while_loop(lambda found: jnp.any(found.doubtful), rescue, found)


def _rank_by_differences(
    x: Array, rows: Int[Array, " b"], candidates: Int[Array, "b m"], there: Bool[Array, "b m"], wide: Array, cut: Plan
) -> tuple[Int[Array, "b k"], Float[Array, "b k"]]:
    """The nearest k of the candidates that are there, ties to the lowest index, and what ranks them."""

    parts = rows.reshape(-1, TOGETHER), candidates.reshape(-1, TOGETHER, candidates.shape[1])
    keys = lax.map(lambda part: _keys(x, part[0], part[1], wide), parts).reshape(candidates.shape)
    keys = jnp.where(there, keys, jnp.inf)
    if not cut.passes:
        candidates, keys = lax.sort((candidates, keys), num_keys=1)  # `top_k` keeps the first of equal ones
    values, nearest = _smallest(keys, candidates, cut)
    return nearest, values


def _keys(x: Array, rows: Int[Array, " some"], points: Int[Array, "some m"], wide: Array) -> Float[Array, "some m"]:
    """Squared distances of some rows to points of each; or distances, each scaled by itself, where squares may vanish.

    How a compiler orders a sum depends on the shape around it. One shape for all makes a distance the same to the last
    bit, wherever it is computed.
    """

    def squared(x: Array, y: Array) -> Array:
        return jnp.sum(jnp.square(x - y), axis=2)

    return loops.cond(wide, lambda x, y: norms(x - y), squared, x[rows][:, None], x[points])


def _least_of_groups(
    bounds: Callable[..., Array], entries: tuple[Array, ...], cut: Plan
) -> tuple[Float[Array, "b c"], Int[Array, "b c"]]:
    """Some of the bounds of each row and their positions, among them its smallest: see `_members_of_best_groups`.

    Bounds are made of an array of products and of vectors. They are made twice, once for the minima and once for the
    few that are wanted, since writing them all takes longer.
    """
    products, vectors = entries[0], entries[1:]
    n = products.shape[1]
    if n <= 2 * GROUP * cut.kept:
        return _members_of_best_groups(bounds(*entries), cut)
    size = n // GROUP
    parts = (slice(start, start + size) for start in range(0, n, size))
    minima = reduce(jnp.minimum, (bounds(products[:, part], *(v[part] for v in vectors)) for part in parts))
    _, groups = _smallest(*_members_of_best_groups(minima, cut), cut)
    members = groups[:, None, :] + size * jnp.arange(GROUP, dtype=jnp.int32)[:, None]
    members = members.reshape(len(products), -1)
    chosen = jnp.take_along_axis(products, members, axis=1)
    return bounds(chosen, *(v[members] for v in vectors)), members


def _members_of_best_groups(values: Float[Array, "b n"], cut: Plan) -> tuple[Float[Array, "b c"], Int[Array, "b c"]]:
    """Some entries of each row and their positions, among them its smallest.

    The m smallest lie in the m groups of smallest minima. Entry i belongs to group i modulo the number of groups: minima
    of whole vectors are fast, those of neighbouring entries are not.
    """
    b, n = values.shape
    if n <= 2 * GROUP * cut.kept:
        return values, jnp.broadcast_to(jnp.arange(n, dtype=jnp.int32), (b, n))
    values = jnp.pad(values, ((0, 0), (0, -n % GROUP)), constant_values=jnp.inf)
    minima = jnp.min(values.reshape(b, GROUP, -1), axis=1)
    _, groups = _smallest(*_members_of_best_groups(minima, cut), cut)
    members = groups[:, None, :] + minima.shape[1] * jnp.arange(GROUP, dtype=jnp.int32)[:, None]
    members = members.reshape(b, -1)
    return jnp.take_along_axis(values, members, axis=1), members


def _smallest(
    values: Float[Array, "b c"], names: Int[Array, "b c"], cut: Plan
) -> tuple[Float[Array, "b m"], Int[Array, "b m"]]:
    """The smallest entries of each row and their names, in order; by passes, ties go to the lowest name.

    Where a row has too few finite entries the rest are infinite, and their names mean nothing.
    """
    if not cut.passes:
        negative, order = lax.top_k(-values, cut.kept)
        return -negative, jnp.take_along_axis(names, order, axis=1)

    def least(values: Array, _: None) -> tuple[Array, tuple[Array, Array]]:
        value = jnp.min(values, axis=1)
        name = jnp.min(jnp.where(values == value[:, None], names, jnp.iinfo(jnp.int32).max), axis=1)
        # A name that came twice, since infinite entries before it had any name, is struck out twice.
        return jnp.where(names == name[:, None], jnp.inf, values), (value, name)

    found, order = loops.scan(least, values, None, length=cut.kept)[1]
    return found.T, order.T
