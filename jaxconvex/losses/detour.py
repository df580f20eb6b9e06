"""How much longer the shortest path within a class is than the shortest path."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxconvex._internal import loops
from jaxconvex.losses.arguments import Batch, LossAux, as_batch, pairs_of, with_aux
from jaxconvex.losses.batch_graph import batch_graph, shifted

__all__ = ["detour_loss"]


def detour_loss(
    x: Float[Array, "n d"],
    labels: Int[Array, " n"],
    *,
    k: int = 10,
    where: Bool[Array, " n"] | None = None,
    axis_name: str | None = None,
    num_classes: int | None = None,
    has_aux: bool = False,
    return_num_pairs: bool = False,
) -> Any:
    """The mean over same-class pairs of 1 - (shortest path) / (shortest path inside the class): in [0, 1].

    It is 0 exactly where every pair has a shortest path inside its class, so where `graph_convexity(...).micro` is 1.
    A pair that no path inside its class joins counts 1. The gradient is that of the two lengths, along their present
    paths.

    Args: as for `graph_convexity_loss`; labels are integers. The number of pairs includes those without a path inside.

    Raises:
        ValueError: as `graph_convexity_loss`.

    Cost: n steps of n^2 operations (Floyd and Warshall), twice.

    >>> x = jnp.array([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [1.0, 1.0]])
    >>> loss = detour_loss(x, jnp.array([0, 1, 0, 0]), k=2)  # 2 through class 1, 2.83 around
    >>> round(float(loss), 3)
    0.098

    Source: the condition of Tětková et al., "On convex decision regions in deep network representations", 2025,
    Definition 3.
    """
    loss, pairs = _loss(as_batch(x, labels, where, axis_name, k=k, soft=False, num_classes=num_classes), k)
    return with_aux(loss, LossAux(pairs), has_aux, return_num_pairs)


@partial(jax.jit, static_argnames="k")
def _loss(batch: Batch, k: int) -> tuple[Array, Array]:
    """The loss and the number of pairs."""
    lengths = batch_graph(batch.x, batch.valid, k)
    wanted = pairs_of(batch.labels, batch.valid)
    shortest = _shortest(lengths)
    within = _shortest(jnp.where(wanted, lengths, jnp.inf))
    joined = wanted & jnp.isfinite(within)
    apart = joined & (within > 0)
    shortest, within = (jnp.where(apart, lengths, 1) for lengths in (shortest, within))
    exponent = -jnp.frexp(lax.stop_gradient(within))[1]  # of lengths near 1 the quotient's gradient does not overflow
    ratio = shifted(shortest, exponent) / shifted(within, exponent)
    losses = jnp.where(joined, 1 - ratio, 1)
    pairs = jnp.sum(wanted)
    loss = jnp.sum(jnp.where(wanted, losses, 0)) / jnp.maximum(pairs, 1).astype(losses.dtype)
    return jnp.where(batch.broken, jnp.nan, loss), pairs // 2


@jax.custom_jvp
def _shortest(lengths: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """The lengths of all shortest paths; inf where there is none."""
    return _paths(lengths)[0]


def _paths(lengths: Float[Array, "n n"]) -> tuple[Float[Array, "n n"], Int[Array, "n n"]]:
    """Lengths of shortest paths, and the first stop on the way from i to j (Floyd and Warshall)."""
    n = len(lengths)
    own = jnp.eye(n, dtype=bool)

    def through(v: Array, found: tuple[Array, Array]) -> tuple[Array, Array]:
        best, stop = found
        other = best[:, v, None] + best[v]
        nearer = other < best
        return jnp.where(nearer, other, best), jnp.where(nearer, stop[:, v, None], stop)

    direct = jnp.broadcast_to(jnp.arange(n, dtype=jnp.int32), (n, n))
    return loops.fori_loop(0, n, through, (jnp.where(own, 0, lengths), direct))


@_shortest.defjvp
def _shortest_tangent(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (lengths,), (tangent,) = primals, tangents
    shortest, stop = _paths(lengths)
    return shortest, _along(stop, jnp.isfinite(shortest), tangent)


def _along(stop: Int[Array, "n n"], there: Bool[Array, "n n"], values: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """The sum of the edges' values along each path that is there, by adding up 1, 2, 4, ... edges at a time."""
    n = len(stop)
    ends = jnp.arange(n, dtype=jnp.int32)
    stop = jnp.where(there, stop, ends)  # of no path none is taken
    sums = jnp.where(there & (ends != ends[:, None]), jnp.take_along_axis(values, stop, axis=1), 0)
    for _ in range(max(1, (n - 1).bit_length())):
        sums = sums + jnp.where(stop == ends, 0, jnp.take_along_axis(sums, stop, axis=0))
        stop = jnp.take_along_axis(stop, stop, axis=0)
    return sums
