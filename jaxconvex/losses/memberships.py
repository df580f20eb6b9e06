"""Which class unlabelled points belong to: the one whose labelled points are joined by walks through them."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxconvex.checks import as_labels, is_concrete, positive_integer
from jaxconvex.losses.arguments import Batch, as_batch, positive
from jaxconvex.losses.batch_graph import batch_graph, mean_edge
from jaxconvex.losses.walks import HOP, NONE

__all__ = ["path_memberships"]

BLOCK = 64  # targets at a time: memory is edges x this
TOLERANCE = 1e-6  # relative change at which walks are long enough
ROUNDINGS = 8  # by which a logarithm may be wrong


def path_memberships(
    x: Float[Array, "n d"],
    labels: Int[Array, " n"],
    *,
    num_classes: int,
    k: int = 10,
    temperature: float | Array = 0.1,
    where: Bool[Array, " n"] | None = None,
    num_labelled: int | None = None,
    return_visits: bool = False,
) -> Array | tuple[Array, Array]:
    """Each point's share in each class, [n, c], from the walks between labelled points that pass through it.

    A convex class holds the shortest paths between its points. So a point belongs to a class as far as it lies on
    them: visits[v, c] is the expected number of visits to v of the walks from s to t of `graph_convexity_loss`, those
    of length L with probability proportional to exp(-L / (temperature * mean edge)), meaned over the ordered pairs of
    labelled points s, t of c. The share is visits[v, c] / sum over classes of visits[v, :]. With S the weights of the
    edges, exp(-length / (temperature * mean edge) - 1) / sqrt(degree * degree), and N = (I - S)^-1, the visits of a
    pair are N[v, s] N[v, t] / N[s, t] - N[v, t]^2 / N[t, t].

    Args:
        x: points, one a row, labelled and unlabelled ones; any float type, computed in float32 at least.
        labels: integers from 0 for the labelled points, -1 for all others.
        num_classes: number of classes, static.
        k: neighbours of a point in the graph of all points, static, 1 to n - 1.
        temperature: in units of the mean length of an edge, above 0. 0.1 to 0.5 are sensible; with a higher one, walks
            stray from the shortest paths.
        where: points that count; all others are left out of the graph, and their rows are zeros.
        num_labelled: under jit with traced labels, at least as many as there are labelled points, static; n if None.
            Elsewhere they are counted.
        return_visits: return (shares, visits [n, c]) instead. Their sum tells how much a share is to be trusted: it is
            small for points far from all paths. Rows of labelled points are zeros.

    Rows of labelled points are one-hot. Rows of points that no walk passes are zeros: those in a part of the graph
    without two labelled points of one class, and those so far from all paths that their visits are no number of the
    type. A class with one labelled point has no walks, so nothing belongs to it. Pairs that no walk links do not count.
    The shares do not depend on the scale of x, and no gradient passes. A point that counts and is not finite makes all
    shares nan.

    Raises:
        ValueError: shapes that differ; labels that are no integers or out of range; k not below the number of points;
            num_labelled below the number of labelled points, where that is known.

    Cost: n^2 d for the graph, about 40 sums over n k edges for each of m labelled points, and n m^2 exponentials; memory
    n^2 + 64 n k.

    >>> x = jnp.array([[0.0], [1.0], [2.1], [5.0], [6.0], [7.1]])
    >>> path_memberships(x, jnp.array([0, -1, 0, 1, -1, 1]), num_classes=2, k=2)[jnp.array([1, 4])].round(3).tolist()
    [[1.0, 0.0], [0.0, 1.0]]

    Source: walks as in Saerens et al., "Randomized Shortest-Path Problems: Two Related Models", 2009.
    """
    known = is_concrete(labels)
    labels = as_labels(labels, len(x), num_classes)
    count = int(np.sum(np.asarray(labels) >= 0)) if known else 0
    if num_labelled is None:
        num_labelled = max(count, 1) if known else len(x)
    positive_integer(num_labelled, "num_labelled", most=len(x))
    if count > num_labelled:
        raise ValueError(f"there are {count} labelled points, but num_labelled is {num_labelled}; raise it.")
    batch = as_batch(x, labels, where, None, k=k, soft=False)
    temperature = jnp.asarray(positive(temperature, "temperature"), batch.x.dtype)
    shares, visits = _memberships(*lax.stop_gradient((batch, temperature)), num_classes, k, num_labelled)
    return (shares, visits) if return_visits else shares


@partial(jax.jit, static_argnums=(2, 3, 4))
def _memberships(batch: Batch, temperature: Array, num_classes: int, k: int, m: int) -> tuple[Array, Array]:
    labels = jnp.where(batch.valid, batch.labels, -1)
    labelled = jnp.argsort(labels < 0, stable=True)[:m]  # some without a label may stand at the end
    log_n = _log_walks(batch_graph(batch.x, batch.valid, k), temperature, labelled, k)
    unlabelled = (labels < 0)[:, None]
    visits = jnp.where(unlabelled, _visits(log_n, labelled, labels[labelled], num_classes), 0)
    total = jnp.sum(visits, axis=1, keepdims=True)
    shares = jnp.where(total > 0, visits / jnp.where(total > 0, total, 1), 0)
    shares = jnp.where(unlabelled, shares, jax.nn.one_hot(labels, num_classes, dtype=shares.dtype))
    return jnp.where(batch.broken, jnp.nan, shares), jnp.where(batch.broken, jnp.nan, visits)


def _log_walks(
    lengths: Float[Array, "n n"], temperature: Array, targets: Int[Array, " m"], k: int
) -> Float[Array, "n m"]:
    """The logarithms of these columns of N.

    A column is divided by the weights of the best walks to its target, so that its numbers are near 1 however far the
    target is.
    """
    n, m = len(lengths), len(targets)
    edge = jnp.isfinite(lengths)
    degree = jnp.maximum(jnp.sum(edge, axis=1), 1).astype(lengths.dtype)
    rows, columns = jnp.nonzero(edge, size=2 * n * k, fill_value=n - 1)  # the diagonal is no edge
    there = edge[rows, columns]
    scale = temperature * mean_edge(lengths)
    cost = jnp.where(there, lengths[rows, columns], 0) / jnp.where(scale > 0, scale, 1)
    log_s = jnp.where(there, -cost - HOP - 0.5 * jnp.log(degree[rows] * degree[columns]), NONE)[:, None]

    def block(targets: Int[Array, " b"]) -> Float[Array, "n b"]:
        start = jnp.arange(n)[:, None] == targets

        def longer(state: tuple[Array, Array]) -> tuple[Array, Array]:
            best, _ = state
            new = jax.ops.segment_max(log_s + best[columns], rows, n, indices_are_sorted=True)
            return jnp.maximum(best, new), jnp.any(new > best)

        first = jnp.where(start, 0, NONE).astype(lengths.dtype)
        best, _ = lax.while_loop(lambda state: state[1], longer, (first, jnp.array(True)))
        reached = best > NONE / 2
        s = jnp.where(reached[rows], jnp.exp(log_s + (best[columns] - best[rows])), 0)

        def sweep(state: tuple[Array, Array]) -> tuple[Array, Array]:
            z, _ = state
            new = start + jax.ops.segment_sum(s * z[columns], rows, n, indices_are_sorted=True)
            return new, jnp.any(jnp.abs(new - z) > TOLERANCE * new)

        z, _ = lax.while_loop(lambda state: state[1], sweep, (start.astype(s.dtype), jnp.array(True)))
        return jnp.where(reached, best + jnp.log(jnp.where(reached, z, 1)), NONE)

    width = min(BLOCK, m)
    padded = jnp.pad(targets, (0, -m % width), mode="edge").reshape(-1, width)
    return jnp.moveaxis(lax.map(block, padded), 0, 1).reshape(n, -1)[:, :m]


def _visits(
    log_n: Float[Array, "n m"], labelled: Int[Array, " m"], classes: Int[Array, " m"], num_classes: int
) -> Float[Array, "n c"]:
    """The visits of the walks of each class, mean over its pairs; wrong in the rows of labelled points."""
    between = log_n[labelled]
    same = (classes[:, None] == classes) & (classes >= 0) & ~jnp.eye(len(classes), dtype=bool)
    wanted = same & (between > NONE / 2)
    own = jnp.diagonal(between)

    def add(s: Array, visits: Array) -> Array:
        through = jnp.exp(jnp.where(wanted[s], log_n[:, s, None] + log_n - jnp.where(wanted[s], between[s], 0), NONE))
        again = jnp.exp(jnp.where(wanted[s], 2 * log_n - own, NONE))  # of walks that had been at t before
        rounding = ROUNDINGS * jnp.finfo(log_n.dtype).eps * (1000 + jnp.abs(between[s]))
        of_pairs = jnp.where(through - again > jnp.minimum(rounding, 1) * through, through - again, 0)
        return visits.at[:, classes[s]].add(jnp.sum(of_pairs, axis=1))  # class -1 adds zeros

    visits = lax.fori_loop(0, len(classes), add, jnp.zeros((len(log_n), num_classes), log_n.dtype))
    pairs = jnp.zeros(num_classes, log_n.dtype).at[classes].add(jnp.sum(wanted, axis=1))
    return visits / jnp.maximum(pairs, 1)
