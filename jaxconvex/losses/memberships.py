"""Which class unlabelled points belong to: the one whose labelled points are joined by walks through them."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxconvex._internal import loops
from jaxconvex._internal.checks import as_labels, is_concrete, positive_integer
from jaxconvex.losses.arguments import Batch, as_batch, positive
from jaxconvex.losses.batch_graph import batch_graph, degrees, in_mean_edges
from jaxconvex.losses.walks import COLDEST, NONE

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
    temperature: float | Array = 3.0,
    hop: float | Array = 0.1,
    nearness: float | Array = 0.5,
    where: Bool[Array, " n"] | None = None,
    num_labelled: int | None = None,
    leave_one_out: bool = False,
    return_visits: bool = False,
) -> Array | tuple[Array, Array]:
    """Each point's share in each class, [n, c], from the walks between labelled points that pass through it.

    A convex class holds the shortest paths between its points. So a point belongs to a class as far as it lies on
    them, or on walks not much longer. A walk through the k-nearest-neighbour graph of all points, of length L and of h
    hops, weighs exp(-L / (temperature * mean edge) - hop * h) / sqrt(degrees of where each hop starts and ends). N[u, v]
    is the weight of all walks from u to v. Those from s that stop at t visit v so many times in the mean:
    N[v, s] N[v, t] / N[s, t] - N[v, t]^2 / N[t, t]. visits[v, c] is the mean of that over the ordered pairs of labelled
    points of c, each pair weighted by (N[s, t] / N[t, t])^nearness; a point pairs with itself too, by its walks that come
    back, N[v, s]^2 / N[s, s]. The share is visits[v, c] / sum over classes of visits[v, :].

    Args:
        x: points, one a row, labelled and unlabelled ones; any float type, computed in float32 at least.
        labels: integers from 0 for the labelled points, -1 for all others.
        num_classes: number of classes, static.
        k: neighbours of a point, static, 1 to n - 1.
        temperature: in units of the mean length of an edge, above 0. At 0.1 only the shortest paths remain; with few
            labels they are too thin, and a point near them counts for nothing.
        hop: the cost of a hop beside its length, above 0. With 1 and nearness 0, the visits of pairs s, t are those of
            `graph_convexity_loss`.
        nearness: 0: all pairs count alike, also those of two far clusters of a class with others between them. 1: visits
            add up to about the square of label propagation, in which pairs play no part. Between them lies what is
            better than either.
        where: points that count; all others are left out of the graph, and their rows are zeros.
        num_labelled: under jit with traced labels, at least as many as there are labelled points, static; n if None.
            Elsewhere they are counted.
        leave_one_out: give labelled points the shares that they had if they were unlabelled. How often these are right
            tells how far this graph is to be trusted. With few labels the mean confidence of the unlabelled points' shares,
            1 - entropy / log(c), is the better sign.
        return_visits: return (shares, visits [n, c]) instead. Rows of labelled points are zeros unless they are left out.

    Rows of labelled points are one-hot. Rows of points that no walk passes are zeros: those in a part of the graph
    without labelled points, and those so far from all paths that their visits are no number of the type. Pairs that no
    walk links do not count. The shares do not depend on the scale of x, and no gradient passes. A point that counts and
    is not finite makes all shares nan.

    Raises:
        ValueError: shapes that differ; labels that are no integers or out of range; k not below the number of points;
            temperature or hop not above 0, or nearness below it; num_labelled below the number of labelled points, where
            that is known.

    Cost: n^2 d for the graph; for each of m labelled points some 30 to 60 sums over n k edges, more for a hop near 0; and
    n m^2 exponentials. Memory n^2 + 64 n k. About 0.2 s for 1,500 points, 50 of them labelled, on one core.

    >>> x = jnp.array([[0.0], [1.0], [2.1], [5.0], [6.0], [7.1]])
    >>> path_memberships(x, jnp.array([0, -1, 0, 1, -1, 1]), num_classes=2, k=2)[jnp.array([1, 4])].round(3).tolist()
    [[1.0, 0.0], [0.0, 1.0]]

    Source: walks as in Saerens et al., "Randomized Shortest-Path Problems: Two Related Models", 2009.
    """
    known = is_concrete(labels)
    count = int(np.sum(np.asarray(labels) >= 0)) if known else 0  # before they are an array of a trace
    labels = as_labels(labels, len(x), num_classes)
    if num_labelled is None:
        num_labelled = max(count, 1) if known else len(x)
    positive_integer(num_labelled, "num_labelled", most=len(x))
    if count > num_labelled:
        raise ValueError(f"there are {count} labelled points, but num_labelled is {num_labelled}; raise it.")
    batch = as_batch(x, labels, where, None, k=k, soft=False)
    if is_concrete(nearness) and not nearness >= 0:
        raise ValueError(f"nearness must be 0 or above; got {nearness}.")
    given = positive(temperature, "temperature"), positive(hop, "hop"), nearness
    costs = [jnp.asarray(cost, batch.x.dtype) for cost in given]
    shares, visits = _memberships(*lax.stop_gradient((batch, costs)), num_classes, k, num_labelled, leave_one_out)
    return (shares, visits) if return_visits else shares


@partial(jax.jit, static_argnums=(2, 3, 4, 5))
def _memberships(
    batch: Batch, costs: list[Array], num_classes: int, k: int, m: int, leave_one_out: bool
) -> tuple[Array, Array]:
    temperature, hop, nearness = costs
    labels = jnp.where(batch.valid, batch.labels, -1)
    labelled = jnp.argsort(labels < 0, stable=True)[:m]  # some without a label may stand at the end
    log_n = _log_walks(batch_graph(batch.x, batch.valid, k), temperature, hop, labelled, k)
    visits = _visits(log_n, nearness, labelled, labels[labelled], num_classes)
    asked = batch.valid if leave_one_out else labels < 0
    visits = jnp.where(asked[:, None], visits, 0)
    total = jnp.sum(visits, axis=1, keepdims=True)
    shares = jnp.where(total > 0, visits / jnp.where(total > 0, total, 1), 0)
    shares = jnp.where(asked[:, None], shares, jax.nn.one_hot(labels, num_classes, dtype=shares.dtype))
    broken = batch.broken | jnp.any(jnp.isnan(jnp.stack(costs)))
    return jnp.where(broken, jnp.nan, shares), jnp.where(broken, jnp.nan, visits)


def _log_walks(
    lengths: Float[Array, "n n"], temperature: Array, hop: Array, targets: Int[Array, " m"], k: int
) -> Float[Array, "n m"]:
    """The logarithms of these columns of N.

    A column is divided by the weights of the best walks to its target, so that its numbers are near 1 however far the
    target is.
    """
    n, m = len(lengths), len(targets)
    edge = jnp.isfinite(lengths)
    degree = degrees(edge, lengths.dtype)
    rows, columns = jnp.nonzero(edge, size=2 * n * k, fill_value=n - 1)  # the diagonal is no edge
    there = edge[rows, columns]
    cost = in_mean_edges(lengths)[rows, columns] / jnp.maximum(temperature, COLDEST) + hop
    log_s = jnp.where(there, -cost - 0.5 * jnp.log(degree[rows] * degree[columns]), NONE)[:, None]

    def block(targets: Int[Array, " b"]) -> Float[Array, "n b"]:
        start = jnp.arange(n)[:, None] == targets

        def longer(state: tuple[Array, Array]) -> tuple[Array, Array]:
            best, _ = state
            new = jax.ops.segment_max(log_s + best[columns], rows, n, indices_are_sorted=True)
            return jnp.maximum(best, new), jnp.any(new > best)

        first = jnp.where(start, 0, NONE).astype(lengths.dtype)
        best, _ = loops.while_loop(lambda state: state[1], longer, (first, jnp.array(True)))
        reached = best > NONE / 2
        s = jnp.where(reached[rows], jnp.exp(log_s + (best[columns] - best[rows])), 0)

        def sweep(state: tuple[Array, Array]) -> tuple[Array, Array]:
            z, _ = state
            new = start.astype(s.dtype) + jax.ops.segment_sum(s * z[columns], rows, n, indices_are_sorted=True)
            return new, jnp.any(jnp.abs(new - z) > TOLERANCE * new)

        z, _ = loops.while_loop(lambda state: state[1], sweep, (start.astype(s.dtype), jnp.array(True)))
        return jnp.where(reached, best + jnp.log(jnp.where(reached, z, 1)), NONE)

    width = min(BLOCK, m)
    padded = jnp.pad(targets, (0, -m % width), mode="edge").reshape(-1, width)
    return jnp.moveaxis(lax.map(block, padded), 0, 1).reshape(n, -1)[:, :m]


def _visits(
    log_n: Float[Array, "n m"],
    nearness: Array,
    labelled: Int[Array, " m"],
    classes: Int[Array, " m"],
    num_classes: int,
) -> Float[Array, "n c"]:
    """The visits of the walks of each class, mean over its pairs, those of which a point is one end left out for it."""
    n, m = log_n.shape
    between = log_n[labelled]
    wanted = (classes[:, None] == classes) & (classes >= 0) & (between > NONE / 2)
    own = jnp.diagonal(between)
    weights = jnp.where(wanted, jnp.exp(nearness * (between - own)), 0)  # own is near 0
    is_end = jnp.arange(n)[:, None] == labelled

    def add(s: Array, sums: tuple[Array, Array]) -> tuple[Array, Array]:
        visits, total = sums
        itself = jnp.arange(m) == s
        through = jnp.exp(jnp.where(wanted[s], log_n[:, s, None] + log_n - jnp.where(wanted[s], between[s], 0), NONE))
        again = jnp.exp(jnp.where(wanted[s] & ~itself, 2 * log_n - own, NONE))  # of walks that had been at t before
        rounding = ROUNDINGS * jnp.finfo(log_n.dtype).eps * (1000 + jnp.abs(between[s]))
        of_pairs = jnp.where(through - again > jnp.minimum(rounding, 1) * through, through - again, 0)
        weight = jnp.where(is_end | is_end[:, s, None], 0, weights[s])
        c = classes[s]  # class -1 adds zeros
        return visits.at[:, c].add(jnp.sum(weight * of_pairs, axis=1)), total.at[:, c].add(jnp.sum(weight, axis=1))

    zeros = jnp.zeros((n, num_classes), log_n.dtype)
    visits, total = loops.fori_loop(0, m, add, (zeros, zeros))
    return visits / jnp.where(total > 0, total, 1)
