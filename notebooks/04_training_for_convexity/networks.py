"""The small network of every run: three hidden layers of width 128 with the ReLU, as pure functions.

Parameters are a tuple of (weights, bias) pairs, one a layer; the last pair gives the logits.
Hidden layers are counted from zero: layer 0 is the first hidden layer, layer 2 the last.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

if TYPE_CHECKING:
    from jaxtyping import Array, Float, PRNGKeyArray

__all__ = ["HIDDEN_LAYERS", "WIDTH", "Parameters", "hidden", "init", "logits", "rest", "widths"]

HIDDEN_LAYERS = 3
WIDTH = 128

Parameters = tuple[tuple[jax.Array, jax.Array], ...]


def widths(features: int, num_classes: int) -> tuple[int, ...]:
    """The widths of the layers, from the input to the logits."""
    return (features, *(WIDTH,) * HIDDEN_LAYERS, num_classes)


def init(key: PRNGKeyArray, widths: tuple[int, ...]) -> Parameters:
    """Random parameters: weights normal with variance 2 / inputs, biases zero.

    Source: He, Zhang, Ren and Sun, Delving deep into rectifiers, 2015.
    """
    pairs = list(pairwise(widths))
    keys = jax.random.split(key, len(pairs))
    return tuple(
        (jax.random.normal(k, (inputs, outputs)) * jnp.sqrt(2.0 / inputs), jnp.zeros(outputs))
        for k, (inputs, outputs) in zip(keys, pairs, strict=True)
    )


def hidden(params: Parameters, x: Float[Array, "n d"]) -> tuple[Float[Array, "n width"], ...]:
    """The activations of the hidden layers after the ReLU, first layer first."""
    activations = []
    for weights, bias in params[:-1]:
        x = jax.nn.relu(x @ weights + bias)
        activations.append(x)
    return tuple(activations)


def rest(params: Parameters, layer: int, h: Float[Array, "n width"]) -> Float[Array, "n classes"]:
    """The logits, computed from the activations of hidden layer `layer` (after its ReLU).

    `layer` -1 means the input, so that `rest(params, -1, x)` is the whole network.
    """
    for weights, bias in params[layer + 1 : -1]:
        h = jax.nn.relu(h @ weights + bias)
    weights, bias = params[-1]
    return h @ weights + bias


def logits(params: Parameters, x: Float[Array, "n d"]) -> Float[Array, "n classes"]:
    """The logits of the network."""
    return rest(params, -1, x)
