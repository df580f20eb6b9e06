"""Randomized shortest paths: what the walks between two points of a graph visit, in closed form.

A walk from s that stops on reaching t is as probable as the product, over its edges u -> v, of
W[u, v] = exp(-length / temperature - HOP) / degree(u). As the temperature goes to 0, only the shortest path remains.
With Z = (I - W)^-1 the expected visits to v are Z[s, v] Z[v, t] / Z[s, t] - Z[t, v] Z[v, t] / Z[t, t].

Source: Saerens, Achbany, Fouss and Yen, "Randomized Shortest-Path Problems: Two Related Models", 2009.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from jaxconvex._internal import loops
from jaxconvex._internal.checks import lesser
from jaxconvex.losses.batch_graph import degrees, in_mean_edges
from jaxconvex.paths.search import components

__all__ = ["Visits", "expected_visits", "log_weights"]

HOP = 1.0  # what a hop costs beside its length, in temperatures: so walks stay short at any temperature
NONE = -1e30  # the logarithm of nothing; infinity would make gradients nan
COLDEST = 1e-4  # the lowest temperature: only the shortest paths remain, and at lower ones rounding blurs them again
LIFT = 0.45  # weights of walks are kept times the largest float to this power, to use its range on both sides
ROWS = 8  # rows of exponentials at a time
EXACT = lax.Precision.HIGHEST


class Visits(NamedTuple):
    """Expected visits strictly between s and t, for every pair; 0 where the pair is not wanted or not linked."""

    outside: Float[Array, "m n n"]  # those that count as outside, for each of m ways to tell inside from outside
    total: Float[Array, "n n"]
    linked: Bool[Array, "n n"]  # whether any walk leads from s to t


def log_weights(lengths: Float[Array, "n n"], temperature: float | Array) -> Float[Array, "n n"]:
    """log W of a graph's lengths (inf: no edge), for a temperature in units of the mean edge."""
    edge = jnp.isfinite(lengths)
    # Two divisions, since the product of mean and temperature may underflow.
    cost = in_mean_edges(lengths) / jnp.maximum(temperature, COLDEST)
    return jnp.where(edge, -cost - HOP - jnp.log(degrees(edge, lengths.dtype))[:, None], NONE)


def expected_visits(
    log_w: Float[Array, "n n"], outside: Float[Array, "m rows n"], wanted: Bool[Array, "n n"]
) -> Visits:
    """What the walks between the wanted pairs visit.

    Args:
        log_w: the logarithms of the weights.
        outside: outside[i, s, v] tells how far v counts as outside, 0 to 1, for the walks that start at s.
        wanted: the pairs whose visits are asked for.

    Where the weights of all wanted pairs are numbers of the type, by some matrix products. Otherwise, at low
    temperatures or in long graphs, by about ten times n^3 exponentials, gradient included.
    """
    edge, n = log_w > NONE / 2, log_w.shape[0]
    name = components(lambda name: jnp.minimum(name, jnp.min(jnp.where(edge, name, n), axis=1)), n)
    linked = name[:, None] == name
    wanted = wanted & linked
    # Above it, the parts of a walk are numbers with half the lift, and so are reciprocals, summed over all points.
    smallest = 1000 * log_w.shape[0] * jnp.finfo(log_w.dtype).tiny * _lift(log_w.dtype) ** 0.5
    walks = _all_walks(_weights(log_w))
    fits = jnp.all((lax.stop_gradient(walks) > smallest) | ~wanted)
    some, total = loops.cond(fits, _by_products, _by_exponentials, walks, log_w, outside, wanted)
    return Visits(some, total, linked)


def _weights(log_w: Array) -> Array:
    return jnp.where(log_w > NONE / 2, jnp.exp(log_w), 0)  # gradients of edges that are not there may be infinite


def _lift(dtype: jnp.dtype) -> float:
    return float(jnp.finfo(dtype).max) ** LIFT


def _by_products(z: Array, log_w: Array, outside: Array, wanted: Array) -> tuple[Array, Array]:
    lift = _lift(z.dtype)  # which z has
    # exp(-log) is 1 / z whose gradient has no square of z, which would underflow.
    inverse = jnp.exp(-jnp.log(jnp.where(wanted & (z > 0), z, 1))) / lift
    own = jnp.diagonal(z) / lift

    def visits(share: Array) -> Array:
        through = jnp.matmul(z * share, z, precision=EXACT)
        return through * inverse - (jnp.diagonal(through, axis1=-2, axis2=-1) / lift / lift)[..., None, :] / own

    at_start = own[:, None] - (z / lift) * (z.T / lift) / own
    return _interior(visits(outside), visits(jnp.ones_like(z)), at_start, outside, wanted)


def _by_exponentials(z: Array, log_w: Array, outside: Array, wanted: Array) -> tuple[Array, Array]:
    log_z = _log_all_walks(log_w)
    own = jnp.diagonal(log_z)
    m, n = outside.shape[0], log_z.shape[0]
    shares = jnp.concatenate([jnp.broadcast_to(outside, (m, n, n)), jnp.ones((1, n, n), log_z.dtype)])

    @jax.checkpoint
    def row(s: Array) -> Array:
        known = wanted[s] | (jnp.arange(n) == s)
        end = jnp.where(known, log_z[s], 0)
        through = log_z[s][:, None] + log_z - end
        through = jnp.minimum(through, own[:, None])  # a bound that rounding may break at the lowest temperatures
        through = jnp.exp(jnp.where(known, through, NONE))
        return jnp.matmul(shares[:, s], through, precision=EXACT)

    through = jnp.moveaxis(lax.map(row, jnp.arange(n), batch_size=lesser(ROWS, n, None)), 0, 1)
    visits = through - jnp.diagonal(through, axis1=-2, axis2=-1)[..., None, :]
    at_start = jnp.exp(own)[:, None] - jnp.exp(jnp.where(wanted, log_z + log_z.T - own, NONE))
    return _interior(visits[:m], visits[m], at_start, outside, wanted)


def _interior(some: Array, total: Array, at_start: Array, outside: Array, wanted: Array) -> tuple[Array, Array]:
    """The visits less those to the start itself, which lies inside as far as `outside` says."""
    start_share = jnp.diagonal(jnp.broadcast_to(outside, some.shape), axis1=-2, axis2=-1)[..., None]
    return jnp.where(wanted, some - start_share * at_start, 0), jnp.where(wanted, total - at_start, 0)


@jax.custom_jvp
def _all_walks(w: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """Lifted weights of all walks, lift * (I + W + W^2 + ...), by doubling their length while there are any."""
    lift = _lift(w.dtype)
    half = lift**0.5

    def double(state: tuple[Array, Array]) -> tuple[Array, Array]:
        walks, power = state  # both lifted
        shorter = power / half  # each factor keeps half the lift: a part of a walk that counts must not underflow
        longer = jnp.matmul(shorter, walks / half, precision=EXACT)
        return walks + longer, jnp.matmul(shorter, power / half, precision=EXACT)

    start = lift * jnp.eye(w.shape[0], dtype=w.dtype), lift * w
    return loops.while_loop(lambda state: jnp.any(state[1] > 0), double, start)[0]


@_all_walks.defjvp
def _all_walks_tangent(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    z = _all_walks(*primals)
    half = z / _lift(z.dtype) ** 0.5
    return z, jnp.matmul(half, jnp.matmul(tangents[0], half, precision=EXACT), precision=EXACT)


@jax.custom_jvp
def _log_all_walks(log_w: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """log Z, by admitting one point after the other as a stop on the way (Kleene): only sums of positive numbers."""
    n = log_w.shape[0]

    def admit(v: Array, log_z: Array) -> Array:
        loops = -jnp.log1p(-jnp.exp(log_z[v, v]))
        return jnp.logaddexp(log_z, jnp.maximum(log_z[:, v, None] + loops + log_z[v], NONE))

    walks = loops.fori_loop(0, n, admit, log_w)
    return jnp.maximum(jnp.where(jnp.eye(n, dtype=bool), jnp.logaddexp(walks, 0), walks), NONE)


@_log_all_walks.defjvp
def _log_all_walks_tangent(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (log_w,), (tangent,) = primals, tangents
    log_z = _log_all_walks(log_w)
    linked = log_z > NONE / 2

    @jax.checkpoint
    def row(s: Array) -> Array:
        both = linked[s][:, None] & linked[s]
        level = jnp.where(linked[s], log_z[s], 0)[:, None]
        steps = jnp.minimum(level + log_w - level.T, 0)  # both bounds hold but for rounding
        rest = jnp.minimum(level + log_z - level.T, jnp.diagonal(log_z)[:, None])
        steps = jnp.exp(jnp.where(both & (log_w > NONE / 2), steps, NONE))
        rest = jnp.exp(jnp.where(both, rest, NONE))
        return jnp.matmul(jnp.sum(steps * tangent, axis=0), rest, precision=EXACT)

    return log_z, lax.map(row, jnp.arange(log_w.shape[0]), batch_size=lesser(ROWS, log_w.shape[0], None))
