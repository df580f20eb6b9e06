"""Euclidean convexity of classes: what the rest of a network says of the points between two points."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_batching import sequential_vmap
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.tree_util import Partial
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from jaxconvex._internal import loops
from jaxconvex._internal.checks import as_labels, as_points, is_concrete, positive_integer, shared_length
from jaxconvex._internal.devices import in_mesh, outside_meshes, whole
from jaxconvex._internal.functions import as_program
from jaxconvex.paths.layout import bucket
from jaxconvex.paths.pairs import same_class_pairs, segment_points
from jaxconvex.scores.aggregates import EuclideanScore, PairSums, summarise

__all__ = ["Segments", "euclidean_convexity", "euclidean_segments", "summarise_segments"]

# Points between pairs, run through the network at once: on a CPU more are no faster, elsewhere it takes four times as many.
SEGMENT_BYTES, MOST_POINTS = 16 * 2**20, 4096


class Work(NamedTuple):
    """What the shares of segments are computed from: pairs by batch, device and place; all batches if `steps` is None."""

    predict: Partial
    x: PyTree[Float[Array, "n ..."]]
    labels: Int[Array, " n"]
    first: Int[Array, "batches devices together"]
    second: Int[Array, "batches devices together"]
    steps: Int[Array, ""] | None


class Segments(NamedTuple):
    """Pairs of points and the share of each segment that lies inside the class; `keep` tells pairs from padding."""

    first: Int[Array, " p"]
    second: Int[Array, " p"]
    keep: Bool[Array, " p"]
    shares: Float[Array, " p"]
    complete: Bool[Array, " c"]  # whether these are all pairs of the class
    classes: Int[Array, "p m"] | None = None  # assigned to the points inside, if that was asked for


def euclidean_convexity(
    predict_fn: Callable[[Any], Array],
    x: PyTree[Float[Array, "n ..."]],
    labels: Int[Array, " n"],
    *,
    num_classes: int,
    num_points: int = 10,
    max_pairs: int | None = 5000,
    key: PRNGKeyArray | None = None,
    batch_size: int | None = None,
    mesh: Mesh | None = None,
) -> EuclideanScore:
    """Euclidean convexity of each class: the mean, over its pairs, of the share of the segment between them that is inside.

    The score of a pair is the share of m equally spaced points inside its segment that the rest of the network assigns
    to the class.

    Args:
        predict_fn: the rest of the network, batched: (b, ...) -> (b, c) logits; class i is column i: any function, an
            nnx.Module, a method. It is traced at every call and so takes the weights that it holds now; nothing is compiled
            for other weights of the same shapes. It must not change what it holds, as a module in training mode does.
        x: activations of the layer, whole (every token), one a point: an array, or a pytree of arrays, every one of which
            is interpolated. So `(h, mask)` takes sentences of several lengths: pass the mask as numbers 1 and 0, and let
            predict_fn take the tokens where it is above 0. Between two sentences these are the tokens valid in either.
            bfloat16 and float16 stay as they are, and the points between are of that type too; all else is float32.
        labels: the class of each point, 0 to num_classes - 1; -1 is background.
        num_classes: number of classes, static.
        num_points: m, the points inside each segment.
        max_pairs: most pairs of a class; None for all. A class with more is sampled with the key, without repeats.
        key: a JAX random key, needed where pairs are drawn.
        batch_size: points run through predict_fn at once on a device, rounded up to whole pairs. By default as many as 16 MB
            of activations hold on a CPU, 64 MB elsewhere; at most 4,096.
        mesh: devices that share the pairs, all axes of the mesh together; x and the weights are copied to each. The share
            of a pair is the one that a single device finds, where the network treats the points of a batch alike.

    Works under jit and vmap, where every class takes room for as many pairs as max_pairs allows. A logit of nan makes the
    score of its class nan.

    Raises:
        ValueError: as `graph_convexity`; logits of a wrong shape; a key missing; a predict_fn in training mode.

    Cost: one trace of predict_fn, and pairs times num_points through it; memory of one batch of points, whatever the number
    of pairs.

    >>> x = jnp.array([[0.0], [1.0], [3.0], [4.0]])
    >>> middle = lambda h: jnp.concatenate([jnp.abs(h - 2) - 0.5, 0 * h], axis=1)  # class 0 is all but the middle
    >>> score = euclidean_convexity(middle, x, jnp.array([0, 0, 0, 0]), num_classes=2, num_points=3)
    >>> round(float(score.per_class[0]), 3), score.num_pairs.tolist()
    (0.778, [6, 0])

    Source: Tětková et al., "On convex decision regions in deep network representations", 2025, Definition 1.
    """
    checked = as_labels(labels, shared_length(x), num_classes)
    options: Any = {"max_pairs": max_pairs, "key": key, "batch_size": batch_size, "mesh": mesh}
    segments = euclidean_segments(predict_fn, x, checked, num_classes=num_classes, num_points=num_points, **options)
    return summarise_segments(segments, checked, num_classes)


def euclidean_segments(
    predict_fn: Callable[[Any], Array],
    x: PyTree[Float[Array, "n ..."]],
    labels: Int[Array, " n"],
    *,
    num_classes: int,
    num_points: int = 10,
    max_pairs: int | None = 5000,
    key: PRNGKeyArray | None = None,
    batch_size: int | None = None,
    mesh: Mesh | None = None,
    assigned: bool = False,
) -> Segments:
    """The pairs behind `euclidean_convexity` and the score of each: `Segments`. Arguments as there.

    `assigned`: whether to keep the classes of the points inside, too.
    """
    checked = as_labels(labels, shared_length(x), num_classes)
    points = jax.tree.map_with_path(_activations, x)
    positive_integer(num_points, "num_points")
    pairs = same_class_pairs(checked, num_classes=num_classes, max_pairs=max_pairs, key=key)
    item = sum(leaf.size // leaf.shape[0] * leaf.dtype.itemsize for leaf in jax.tree.leaves(points))
    if batch_size is None:
        most = SEGMENT_BYTES * (1 if jax.default_backend() == "cpu" else 4)
        batch_size = min(MOST_POINTS, max(1, most // item))
    together = -(-positive_integer(batch_size, "batch_size") // num_points)
    step = together * (1 if mesh is None else mesh.size)
    if mesh is not None:
        mesh = Mesh(mesh.devices.ravel(), ("pairs",))  # one axis, whose type is Auto whatever the types of theirs
    batch = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((together * num_points, *leaf.shape[1:]), leaf.dtype), points
    )
    with contextlib.nullcontext() if mesh is None else outside_meshes():
        predict = as_program(partial(_logits, predict_fn, num_classes), batch)
    sizes: Any
    first: Any
    second: Any
    keep: Any
    steps: Any
    if is_concrete(points, checked, pairs, predict):  # leave the padding out
        sizes = np.bincount(np.asarray(checked) + 1, minlength=num_classes + 1)[1:]
        first, second, valid = (np.asarray(p).ravel() for p in pairs)
        first, second = first[valid], second[valid]
        steps = -(-max(len(first), 1) // step)
        missing = bucket(steps) * step - len(first)
        keep = np.arange(len(first) + missing) < len(first)
        first, second = (np.pad(p, (0, missing)) for p in (first, second))
        if mesh is not None:
            everywhere = NamedSharding(mesh, PartitionSpec())
            predict, points, checked = jax.device_put((predict, points, np.asarray(checked)), everywhere)
    else:
        sizes = jnp.bincount(checked + 1, length=num_classes + 1)[1:]
        steps = None
        first, second, keep = (jnp.pad(p.ravel(), (0, -p.size % step)) for p in pairs)
    shape = (-1, step // together, together)
    work = Work(predict, points, checked, first.reshape(shape), second.reshape(shape), steps)
    if mesh is not None and steps is not None:
        with outside_meshes():  # from all devices of the mesh to the default one
            found = _segment_shares(work, num_points, mesh, assigned)
            shares, classes = jax.tree.map(np.asarray, found)
    else:
        shares, classes = _segment_shares(work, num_points, mesh, assigned)
    complete = sizes.astype(float) * (sizes - 1).astype(float) / 2 <= pairs.valid.shape[1]
    if assigned:
        classes = jnp.asarray(classes.reshape(-1, num_points))
    pairs_and_shares = Segments(*map(jnp.asarray, (first.ravel(), second.ravel(), keep, shares.ravel(), complete)))
    return pairs_and_shares._replace(classes=classes)


def _activations(path: Any, leaf: Any) -> Array:
    """An array of x as `as_points` gives it, but narrow floats keep their type: they are not copied to twice the memory."""
    name = f"x{jax.tree_util.keystr(path)}"
    return as_points(leaf, name, rank=None, narrow=True)


Shares = tuple[Float[Array, "batches devices together"], Int[Array, "batches devices together m"] | None]


@partial(jax.jit, static_argnames=("num_points", "mesh", "assigned"))
def _segment_shares(work: Work, num_points: int, mesh: Mesh | None, assigned: bool) -> Shares:
    """The shares of pairs, a batch at a time on every device; and the classes of the points inside, if asked for."""
    # Under vmap one after the other, so that the memory stays that of one. A score is constant, but for jumps.
    shares: Any = sequential_vmap(in_mesh(partial(_device_shares, num_points=num_points, assigned=assigned)))
    predict, x = lax.stop_gradient((work.predict, work.x))
    work = work._replace(predict=predict, x=x)
    if mesh is None:
        return shares(work)

    def gathered(work: Work) -> Any:
        return jax.tree.map(lambda part: lax.all_gather(part, "pairs", axis=1, tiled=True), shares(work))

    everywhere, parted = PartitionSpec(), PartitionSpec(None, "pairs")
    specs = Work(everywhere, everywhere, everywhere, parted, parted, everywhere)  # type: ignore[arg-type]
    # What predict_fn computes is not known to be the same on all devices or not, so that is not checked.
    return jax.shard_map(gathered, mesh=mesh, in_specs=(specs,), out_specs=everywhere, check_vma=False)(work)


def _device_shares(work: Work, num_points: int, assigned: bool) -> Shares:
    """`_segment_shares` on one device."""
    predict, x, labels, first, second, steps = work
    together = first.shape[-1]
    between = jax.vmap(partial(segment_points, num_points=num_points))
    leaves = jax.tree.leaves(x)
    dtype = jnp.result_type(jnp.float32, *(leaf.dtype for leaf in leaves))
    # Points between finite points are finite.
    finite = jnp.stack([jnp.all(jnp.isfinite(leaf), axis=tuple(range(1, leaf.ndim))) for leaf in leaves]).all(axis=0)

    def some(batch: Array | int, state: tuple[Array, Array | None]) -> tuple[Array, Array | None]:
        shares, classes = state
        i, j = first[batch, 0], second[batch, 0]

        def inside(leaf: Array) -> Array:
            return between(leaf[i], leaf[j]).reshape(-1, *leaf.shape[1:]).astype(leaf.dtype)

        logits = whole(predict(jax.tree.map(inside, x)))
        logits = logits.astype(jnp.promote_types(dtype, logits.dtype)).reshape(together, num_points, -1)
        # As argmax, which takes the first of equal logits, but in reductions that vectorise.
        column, own = jnp.arange(logits.shape[-1]), labels[i][:, None, None]
        mine = jnp.take_along_axis(logits, own, axis=-1)
        right = jnp.all((mine > logits) | ((mine == logits) & (own <= column)), axis=-1)
        broken = jnp.any(jnp.isnan(logits), axis=(1, 2)) | ~(finite[i] & finite[j])
        found = jnp.where(broken, jnp.nan, jnp.mean(right.astype(dtype), axis=1))
        if classes is not None:
            classes = lax.dynamic_update_index_in_dim(classes, jnp.argmax(logits, axis=-1)[None], batch, 0)
        return lax.dynamic_update_index_in_dim(shares, found[None], batch, 0), classes

    batches = len(first) if steps is None else steps
    classes = jnp.zeros((*first.shape, num_points), int) if assigned else None
    return loops.fori_loop(0, batches, some, (jnp.zeros(first.shape, dtype), classes))


def _logits(predict_fn: Callable[[Any], Array], num_classes: int, points: Any) -> Array:
    """What predict_fn gives, if it is logits. Raises ValueError otherwise."""
    logits: Any = predict_fn(points)
    shape: Any = getattr(logits, "shape", ())
    num_points = jax.tree.leaves(points)[0].shape[0]
    if len(shape) == 2 and shape[0] == num_points and shape[1] >= num_classes:
        return jnp.asarray(logits)
    raise ValueError(
        f"predict_fn must map (b, ...) to logits (b, c) with c at least num_classes={num_classes}; for a batch of "
        f"{num_points} points it gives {shape or type(logits).__name__}."
    )


def summarise_segments(segments: Segments, labels: Int[Array, " n"], num_classes: int) -> EuclideanScore:
    """The scores of classes from the shares of their segments; nan where a label lies outside the classes."""
    with jax.debug_nans(False):  # a class without pairs has the score nan
        return _summarise(segments, labels, num_classes)


@partial(jax.jit, static_argnames=("num_classes",))
def _summarise(segments: Segments, labels: Int[Array, " n"], num_classes: int) -> EuclideanScore:
    first, second, keep, shares, complete, _ = segments
    n = labels.shape[0]
    deficit = jnp.where(keep, 1 - shares, 0)

    def at_both(values: Array) -> Array:
        return jnp.zeros(n, values.dtype).at[first].add(values).at[second].add(values)

    none = jnp.zeros(n, jnp.int32)
    whole = jnp.where(keep, deficit == 0, False).astype(jnp.int32)
    sums = PairSums(at_both(deficit), at_both(deficit**2), none, none, at_both(whole), at_both(keep.astype(jnp.int32)))
    score = summarise(sums, labels, num_classes, ordered=True, complete=complete, xp=jnp)
    broken = jnp.any((labels < -1) | (labels >= num_classes))
    score = score._replace(per_class=jnp.where(broken, jnp.nan, score.per_class))
    return EuclideanScore(*(getattr(score, field) for field in EuclideanScore._fields))
