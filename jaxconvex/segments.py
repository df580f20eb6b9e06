"""Euclidean convexity of classes: what the rest of a network says of the points between two points."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from jaxconvex.aggregates import ConvexityScore, PairSums, summarise
from jaxconvex.checks import as_labels, as_points, is_concrete, positive_integer
from jaxconvex.graphs import bucket
from jaxconvex.pairs import same_class_pairs, segment_points

__all__ = ["Segments", "euclidean_convexity", "euclidean_segments", "summarise_segments"]

SEGMENT_BYTES = 64 * 2**20  # points between pairs, run through the network at once


class Segments(NamedTuple):
    """Pairs of points and the share of each segment that lies inside the class; `keep` tells pairs from padding."""

    first: Int[Array, " p"]
    second: Int[Array, " p"]
    keep: Bool[Array, " p"]
    shares: Float[Array, " p"]
    complete: Bool[Array, " c"]  # whether these are all pairs of the class


def euclidean_convexity(
    predict_fn: Callable[[Array], Array],
    x: Float[Array, "n ..."],
    labels: Int[Array, " n"],
    *,
    num_classes: int,
    num_points: int = 10,
    max_pairs: int | None = 5000,
    key: PRNGKeyArray | None = None,
    batch_size: int | None = None,
) -> ConvexityScore:
    """Euclidean convexity of each class: the mean, over its pairs, of the share of the segment between them that is inside.

    The score of a pair is the share of m equally spaced points inside its segment that the rest of the network assigns
    to the class.

    Args:
        predict_fn: the rest of the network, batched: (b, ...) -> (b, c) logits; class i is column i.
        x: activations of the layer, whole (every token), one a point.
        labels: the class of each point, 0 to num_classes - 1; -1 is background.
        num_classes: number of classes, static.
        num_points: m, the points inside each segment.
        max_pairs: most pairs of a class; None for all. A class with more is sampled with the key, without repeats.
        key: a JAX random key, needed where pairs are drawn.
        batch_size: points run through predict_fn at once, rounded up to whole pairs. By default what fits 64 MB of x.

    Works under jit and vmap, where every class takes room for as many pairs as max_pairs allows. A logit of nan makes the
    score of its class nan. `adjacent`, `disconnected` and `nonadjacent` are nan: a segment has no edges.

    Raises:
        ValueError: as `graph_convexity`; logits of a wrong shape; a key missing.

    Cost: pairs times num_points through predict_fn.

    >>> x = jnp.array([[0.0], [1.0], [3.0], [4.0]])
    >>> middle = lambda h: jnp.concatenate([jnp.abs(h - 2) - 0.5, 0 * h], axis=1)  # class 0 is all but the middle
    >>> score = euclidean_convexity(middle, x, jnp.array([0, 0, 0, 0]), num_classes=2, num_points=3)
    >>> round(float(score.per_class[0]), 3), score.num_pairs.tolist()
    (0.778, [6, 0])

    Source: Tětková et al., "On convex decision regions in deep network representations", 2025, Definition 1.
    """
    checked = as_labels(labels, len(x), num_classes)
    segments = euclidean_segments(
        predict_fn,
        x,
        checked,
        num_classes=num_classes,
        num_points=num_points,
        max_pairs=max_pairs,
        key=key,
        batch_size=batch_size,
    )
    score = summarise_segments(segments, checked, num_classes)
    broken = jnp.any((checked < -1) | (checked >= num_classes))
    return score._replace(per_class=jnp.where(broken, jnp.nan, score.per_class))


def euclidean_segments(
    predict_fn: Callable[[Array], Array],
    x: Float[Array, "n ..."],
    labels: Int[Array, " n"],
    *,
    num_classes: int,
    num_points: int = 10,
    max_pairs: int | None = 5000,
    key: PRNGKeyArray | None = None,
    batch_size: int | None = None,
) -> Segments:
    """The pairs behind `euclidean_convexity` and the score of each: `Segments`. Arguments as there."""
    points = as_points(x, rank=None)
    checked = as_labels(labels, points.shape[0], num_classes)
    positive_integer(num_points, "num_points")
    sizes = jnp.bincount(checked + 1, length=num_classes + 1)[1:]
    pairs = same_class_pairs(checked, num_classes=num_classes, max_pairs=max_pairs, key=key)
    complete = (sizes * (sizes - 1.0)) / 2 <= pairs.valid.shape[1]
    item = points.size // points.shape[0] * points.dtype.itemsize
    if batch_size is None:
        batch_size = min(4096, max(1, SEGMENT_BYTES // item))
    together = -(-positive_integer(batch_size, "batch_size") // num_points)
    logits = jax.eval_shape(predict_fn, jax.ShapeDtypeStruct((together * num_points, *points.shape[1:]), points.dtype))
    shape: Any = getattr(logits, "shape", ())
    if len(shape) != 2 or shape[0] != together * num_points or shape[1] < num_classes:
        raise ValueError(
            f"predict_fn must map (b, ...) to logits (b, c) with c at least num_classes={num_classes}; for a batch of "
            f"{together * num_points} points it gives {shape or type(logits).__name__}."
        )
    if is_concrete(points, checked, pairs):  # leave the padding out
        valid = np.flatnonzero(np.asarray(pairs.valid).ravel())
        total = bucket(-(-max(len(valid), 1) // together)) * together
        chosen = np.concatenate([valid, np.zeros(total - len(valid), valid.dtype)])
        first, second = (jnp.asarray(np.asarray(p).ravel()[chosen]) for p in (pairs.first, pairs.second))
        keep = jnp.arange(total) < len(valid)
    else:
        total = -(-pairs.valid.size // together) * together
        first, second, keep = (
            jnp.pad(p.ravel(), (0, total - p.size)) for p in (pairs.first, pairs.second, pairs.valid)
        )
    shares = _segment_shares(predict_fn, points, checked, first, second, num_points, together)
    return Segments(first, second, keep, shares, complete)


@partial(jax.jit, static_argnames=("predict_fn", "num_points", "together"))
def _segment_shares(
    predict_fn: Any, x: Array, labels: Array, first: Array, second: Array, num_points: int, together: int
) -> Float[Array, " p"]:
    between = jax.vmap(partial(segment_points, num_points=num_points))

    def some(rows: tuple[Array, Array]) -> Array:
        i, j = rows
        segments = between(x[i], x[j])
        logits = predict_fn(segments.reshape(-1, *x.shape[1:])).astype(x.dtype)
        right = jnp.argmax(logits, axis=-1).reshape(together, num_points) == labels[i][:, None]
        broken = jnp.any(jnp.isnan(logits).reshape(together, -1), axis=-1)
        broken |= ~jnp.all(jnp.isfinite(segments).reshape(together, -1), axis=-1)
        return jnp.where(broken, jnp.nan, jnp.mean(right.astype(x.dtype), axis=1))

    shares = lax.map(some, (first.reshape(-1, together), second.reshape(-1, together)))
    return shares.reshape(-1)


@partial(jax.jit, static_argnames=("num_classes",))
def summarise_segments(segments: Segments, labels: Int[Array, " n"], num_classes: int) -> ConvexityScore:
    """The scores of classes from the shares of their segments."""
    first, second, keep, shares, complete = segments
    n = labels.shape[0]
    deficit = jnp.where(keep, 1 - shares, 0)

    def at_both(values: Array) -> Array:
        return jnp.zeros(n, values.dtype).at[first].add(values).at[second].add(values)

    none = jnp.zeros(n, jnp.int32)
    whole = jnp.where(keep, deficit == 0, False).astype(jnp.int32)
    sums = PairSums(at_both(deficit), at_both(deficit**2), none, none, at_both(whole), at_both(keep.astype(jnp.int32)))
    score = summarise(sums, labels, num_classes, ordered=True, complete=complete, xp=jnp)
    undefined = jnp.full_like(score.per_class, jnp.nan)
    return score._replace(adjacent=undefined, disconnected=undefined, nonadjacent=undefined)
