"""Batches of a model's inputs: cut from whole arrays, checked against the first, padded to one size."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sized
from typing import Any, NamedTuple

import jax
import ml_dtypes
import numpy as np
from jaxtyping import Int

from jaxconvex._internal.checks import positive_integer, shared_length
from jaxconvex._internal.kept import array_hash

__all__ = ["Batches", "as_batches", "as_tree", "batch_hash", "checked_batch", "chosen_batches", "padded", "take"]


class Batches(NamedTuple):
    """The first batch, all of them in order, and their number and that of the points, where these are known."""

    first: Any
    stream: Iterator[Any]
    number: int | None
    points: int | None


def as_batches(inputs: Any, batch_size: int | None) -> Batches:
    """Batches of whole inputs (an array, a tuple or a dict of arrays) where a size is given, otherwise those passed.

    >>> [batch.shape for batch in as_batches(np.zeros((5, 2)), 2).stream]
    [(2, 2), (2, 2), (1, 2)]
    """
    if isinstance(inputs, Batches):
        return inputs
    inputs = as_tree(inputs)
    if batch_size is not None:
        size = positive_integer(batch_size, "batch_size")
        n = shared_length(inputs, "the inputs")
        return chosen_batches(inputs, np.arange(n), size)
    if hasattr(inputs, "shape") or isinstance(inputs, Mapping) or hasattr(inputs, "_fields"):
        raise ValueError(
            f"batches must be an iterable of batches; got one {type(inputs).__name__}. To have whole inputs cut in "
            "batches, pass batch_size=; to pass one batch, put it in a list."
        )
    if not isinstance(inputs, Iterable):
        raise ValueError(f"batches must be an iterable of batches, or arrays with batch_size=; got {inputs!r}.")
    stream = map(as_tree, inputs)
    first = next(stream, None)
    if first is None:
        raise ValueError(
            "batches must hold at least one batch; got none. A generator can be read only once: make it anew."
        )
    number = len(inputs) if isinstance(inputs, Sized) else None
    return Batches(first, itertools.chain([first], stream), number, None)


def chosen_batches(inputs: Any, rows: Int[np.ndarray, " n"], batch_size: int) -> Batches:
    """Batches of these points of whole inputs, or of what a function makes of row numbers; made one by one.

    >>> list(chosen_batches(lambda rows: 10 * rows, np.array([0, 3, 4]), 2).stream)
    [array([ 0, 30]), array([40])]
    """

    def cut(start: int) -> Any:
        chosen = rows[start : start + batch_size]
        if not callable(inputs):
            whole = len(chosen) == chosen[-1] - chosen[0] + 1  # a slice copies nothing
            return take(inputs, slice(chosen[0], chosen[-1] + 1) if whole else chosen)
        batch = as_tree(inputs(chosen))
        if shared_length(batch, "a batch") != len(chosen):
            raise ValueError(
                f"the function of row numbers must give one point a row; for {len(chosen)} rows it gave "
                f"{shared_length(batch, 'a batch')} points."
            )
        return batch

    starts = range(0, len(rows), batch_size)
    return Batches(cut(0), map(cut, starts), len(starts), len(rows))


def as_tree(batch: Any) -> Any:
    """The batch; a mapping that JAX does not know, as the processors and tokenizers of transformers give it, as a dict.

    Raises ValueError where the lists in such a mapping have several lengths.
    """
    if not isinstance(batch, Mapping) or not jax.tree_util.all_leaves([batch]):
        return batch
    try:
        return {name: value if hasattr(value, "shape") else np.asarray(value) for name, value in batch.items()}
    except ValueError as error:
        raise ValueError(
            "a batch must hold arrays, one row a point; got lists of several lengths. Have the tokenizer fill them up: "
            "padding=True, return_tensors='np'."
        ) from error


def take(inputs: Any, rows: Any) -> Any:
    """These rows of every array."""
    return jax.tree.map(lambda leaf: (leaf if hasattr(leaf, "shape") else np.asarray(leaf))[rows], inputs)


def checked_batch(batch: Any, number: int, first: Any) -> Any:
    """The batch as arrays, if it is built as the first one. Raises ValueError otherwise, saying how it differs."""
    name = f"batch {number}"
    shared_length(batch, name)
    structure: Any = jax.tree.structure(batch)
    if structure != jax.tree.structure(first):
        raise ValueError(
            f"all batches must be built alike; {name} is {_described(batch)}, the first is {_described(first)}."
        )
    batch = jax.tree.map(_as_array, batch)
    for leaf, like in zip(jax.tree.leaves(batch), jax.tree.leaves(first), strict=True):
        if leaf.ndim != np.ndim(like):
            raise ValueError(
                f"all batches must be built alike; {name} has shapes {_described(batch)}, the first {_described(first)}."
            )
        if leaf.dtype.kind not in "biufcV" or (leaf.dtype.kind == "V" and leaf.dtype not in _NARROW):
            raise ValueError(f"{name} must hold numbers; got an array of type {leaf.dtype}.")
    return batch


# Types that NumPy does not know by itself: bfloat16, and what is narrower yet.
_NARROW = {np.dtype(kind) for kind in (ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2)}


def _as_array(leaf: Any) -> Any:
    return leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)


def _described(batch: Any) -> str:
    """The batch with each array's shape in its place."""
    shapes = jax.tree.map(np.shape, batch)
    return str(shapes)


def padded(batch: Any, size: int) -> Any:
    """The batch with its last point repeated until there are `size`: no other shape has to be compiled.

    >>> padded(np.array([3, 5]), 4)
    array([3, 5, 5, 5])
    """
    n = np.shape(jax.tree.leaves(batch)[0])[0]
    return batch if n == size else take(batch, np.minimum(np.arange(size), n - 1))


def batch_hash(batch: Any) -> str:
    """What tells this batch from others: a hash of all its arrays."""
    hashes = "".join(array_hash(leaf) for leaf in jax.tree.leaves(batch))
    return array_hash(np.frombuffer(hashes.encode(), np.uint8))[:32]
