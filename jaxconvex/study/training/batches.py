"""Inputs of one or several arrays, cut in batches; a function of a model over all of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Int

from jaxconvex._internal.checks import as_labels, positive_integer

__all__ = ["as_classes", "as_inputs", "evaluating", "features", "num_points", "take"]

Model = TypeVar("Model", bound=nnx.Module)


def as_inputs(inputs: Any) -> tuple[Any, ...]:
    """The inputs as a tuple of arrays of one length, or None: an array alone is the only one, `Inputs` is such a tuple.

    Raises:
        ValueError: if there is no array, or the arrays differ in length.
    """
    parts = tuple(inputs) if isinstance(inputs, tuple) else (inputs,)
    parts = tuple(part if part is None or isinstance(part, jax.Array) else np.asarray(part) for part in parts)
    lengths = {len(part) for part in parts if part is not None}
    if len(lengths) != 1:
        raise ValueError(
            f"the inputs must be arrays with one row a point, as many rows each; got {sorted(lengths) or 'no array'}."
        )
    return parts


def num_points(data: Any) -> int:
    """The number of rows of the arrays, at least 1."""
    return positive_integer(len(jax.tree.leaves(data)[0]), "the number of inputs")


def take(data: Any, rows: Any) -> Any:
    """These rows of every array."""
    return jax.tree.map(lambda array: array[rows], data)


def as_classes(labels: Any, inputs: tuple[Any, ...], num_classes: int, name: str) -> Int[Array, " n"]:
    """The labels, if every input has one from 0 to num_classes - 1. Raises ValueError otherwise."""
    labels = as_labels(labels, num_points(inputs), num_classes, name)
    if np.any(labels < 0):
        raise ValueError(f"{name} must give every input a class; got -1, the background. Leave those points out.")
    return labels


def evaluating(model: Model) -> Model:
    """The model in `eval` mode, sharing the weights: what it says of a point does not depend on the batch."""
    clone = nnx.merge(*nnx.split(model))
    clone.eval()
    return clone


def features(function: Callable[..., Array], model: nnx.Module, inputs: Any, *, batch_size: int = 256) -> np.ndarray:
    """`function(model, *inputs)` of all points, computed `batch_size` at a time, the model in `eval` mode.

    Args:
        function: compiled, so pass the same object for the same function; its result has a row for each point.
        model: any Flax NNX model; it is not changed.
        inputs: an array, or a tuple of arrays or None such as `Inputs(inputs, mask)`.
        batch_size: the points of a batch.

    Example:
        >>> model = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
        >>> features(lambda model, x: model(x), model, np.ones((5, 2)), batch_size=2).shape
        (5, 3)
    """
    inputs = as_inputs(inputs)
    count = num_points(inputs)
    graph, state = nnx.split(evaluating(model))
    size = min(positive_integer(batch_size, "batch_size"), count)
    # The last batch is filled up with the last input, so that all have one shape and compile once.
    rows = np.minimum(np.arange(-(-count // size) * size), count - 1).reshape(-1, size)
    outputs = [np.asarray(_apply(state, take(inputs, batch), function=function, graph=graph)) for batch in rows]
    return np.concatenate(outputs)[:count]


@partial(jax.jit, static_argnames=("function", "graph"))
def _apply(state, inputs, *, function, graph):
    return jnp.asarray(function(nnx.merge(graph, state), *inputs))
