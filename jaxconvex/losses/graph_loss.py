"""A differentiable surrogate of graph convexity."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Num

from jaxconvex.losses.arguments import Batch, LossAux, as_batch, pairs_of, positive, with_aux
from jaxconvex.losses.batch_graph import batch_graph
from jaxconvex.losses.walks import expected_visits, log_weights

__all__ = ["graph_convexity_loss"]


def graph_convexity_loss(
    x: Float[Array, "n d"],
    labels: Num[Array, "n ..."],
    *,
    k: int = 10,
    temperature: float | Array = 0.1,
    where: Bool[Array, " n"] | None = None,
    axis_name: str | None = None,
    num_classes: int | None = None,
    has_aux: bool = False,
    return_num_pairs: bool = False,
) -> Any:
    """The loss 1 - soft graph convexity of a batch, in [0, 1]: what of the walks inside a class lies outside it.

    In place of the shortest path between two points s and t of a class stand all walks from s to t through the
    k-nearest-neighbour graph of the batch, those of length L with probability proportional to exp(-L / (temperature *
    mean edge)), less for every hop. A pair scores 1 - (expected visits outside) / max(expected visits, 1), counted
    strictly between s and t, and 0 if no walk leads from s to t. The loss is 1 minus the mean over all pairs. It
    stands for `graph_convexity(...).micro`: as the temperature goes to 0, 1 - loss goes to that score, where no two
    paths are equally long (of those it takes a mean, the score the best). At a temperature of 0.03 the two differ by
    less than 0.015 on batches of 60 points of seven kinds, by up to 0.043 on pure noise in 200 dimensions.

    Args:
        x: activations, one point a row, pooled; any float type, computed in float32 at least.
        labels: the class of each point, integers from 0; -1 is background, which shapes the graph and belongs to no
            class. Or probabilities [n, c], c classes: pair and class count by p[s, c] p[t, c], a visit is outside by
            1 - p[v, c], and gradients reach the probabilities too. A row of zeros is background, one that adds up to
            less than 1 is background as for the rest.
        k: neighbours of a point, static, 1 to n - 1.
        temperature: in units of the mean length of an edge, above 0; it may be traced, so it can follow a schedule.
            0.03 to 0.3 are sensible; what is below 1e-4 counts as 1e-4. Below 0.05, or in batches above 500 points, sums
            of exponentials take over from matrix products: about 20 times the time on a CPU.
        where: points that count; all others are left out of the graph too, as if they were not in the batch.
        axis_name: gather the batch over this axis of a shard_map or pmap first. Every device then returns the same
            loss of the whole batch. As for any other loss, mean the gradients over devices; or, in a shard_map that
            checks what varies (its default), the loss, by lax.pmean inside grad.
        num_classes: static; with it a label that is no class, such as 255 for none, is an error (under jit the loss is
            nan), and not a class of its own.
        has_aux: return (loss, aux), as jax.value_and_grad(..., has_aux=True) wants it; aux.num_pairs is the number of
            unordered pairs, a sum of weights for probabilities. return_num_pairs, the old spelling, goes with the next
            release.

    A class with one point contributes nothing; a batch without pairs has loss 0. Points that coincide are linked by
    an edge of length 0, and gradients there are 0. The edges are chosen without gradient; their lengths carry it. The
    loss does not depend on the scale of x, over the whole range of the type; distances below 1e-37 of the largest count
    as 0 (in float32). An activation that is not finite, in a point
    that counts, makes the loss nan; so do, under jit, a temperature that is not above 0, and rows of probabilities that are
    negative or add up to more than 1. Second derivatives are finite.

    Raises:
        ValueError: shapes that differ; labels that are neither integers nor probabilities, or lie outside -1..2^31 - 1,
            or outside num_classes;
            a temperature not above 0; k not below the number of points.

    Cost: about 20 products of n x n matrices, plus one for each class if labels are probabilities.

    >>> x = jnp.array([[0.0], [1.0], [2.1], [3.3]])
    >>> loss = graph_convexity_loss(x, jnp.array([0, 1, 0, 0]), k=1, temperature=0.05)
    >>> round(float(loss), 3)  # one of three pairs is adjacent, the others pass the point of class 1
    0.5

    Source: Tětková et al., "On convex decision regions in deep network representations", 2025, Definition 3; walks as
    in Saerens et al., "Randomized Shortest-Path Problems: Two Related Models", 2009.
    """
    batch = as_batch(x, labels, where, axis_name, k=k, soft=True, num_classes=num_classes)
    loss, pairs = _loss(batch, positive(temperature, "temperature"), k)
    return with_aux(loss, LossAux(pairs), has_aux, return_num_pairs)


@partial(jax.jit, static_argnames="k")
def _loss(batch: Batch, temperature: float | Array, k: int) -> tuple[Array, Array]:
    """The loss and the number of pairs."""
    log_w = log_weights(batch_graph(batch.x, batch.valid, k), temperature)
    if batch.labels.ndim == 1:
        wanted = pairs_of(batch.labels, batch.valid)
        outside = (batch.labels[:, None] != batch.labels)[None].astype(log_w.dtype)
        weights = wanted[None].astype(log_w.dtype)
    else:
        shares = jnp.where(batch.valid[:, None], batch.labels, 0).T
        weights = (
            shares[:, :, None] * shares[:, None, :] * (~jnp.eye(batch.x.shape[0], dtype=bool)).astype(shares.dtype)
        )
        wanted = jnp.any(weights > 0, axis=0)
        outside = 1 - shares[:, None, :]
    visits = expected_visits(log_w, outside, wanted)
    scores = jnp.where(visits.linked, 1 - visits.outside / jnp.maximum(visits.total, 1), 0)
    pairs = jnp.sum(weights)
    loss = jnp.sum(weights * (1 - scores)) / jnp.where(pairs > 0, pairs, 1)
    return jnp.where(batch.broken | jnp.isnan(temperature), jnp.nan, loss), pairs / 2
