"""What a trained network is worth: accuracy, exact convexity of its hidden layers, calibration, robustness to noise.

All of it runs outside jit on concrete arrays, with the package's exact scores. Shapes are the same for every network of a
data set, so nothing is compiled again after the first call.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from networks import HIDDEN_LAYERS, hidden, logits, rest

from jaxconvex import euclidean_convexity, graph_convexity, knn_graph, pack

if TYPE_CHECKING:
    from data import Points
    from jaxtyping import Array, Float, Int, PRNGKeyArray
    from networks import Parameters

__all__ = ["calibration_error", "convexity", "fitted_temperature", "score"]

NEIGHBORS = 10
GRAPH_POINTS = 1540  # 20 a class of the 77 of text; of the other data sets 1,540 of 10,000 or all
PAIRS = 200  # of a class, for the Euclidean score
NOISE = (0.5, 1.0)  # standard deviations of the inputs
BINS = 15


def score(
    params: Parameters, points: Points, validation: Points, *, num_classes: int, key: PRNGKeyArray
) -> dict[str, float]:
    """Returns all that is measured of a network, by name.

    Args:
        params: of the network.
        points: what it is measured on.
        validation: what the temperature is fitted on, beside that nothing.
        num_classes: number of classes.
        key: for the pairs of the Euclidean score, and for the noise.

    accuracy: the share of points whose largest logit is their class.
    graph/LABELS/LAYER, euclidean/LABELS/LAYER: macro convexity of a hidden layer, with LABELS true or predicted.
    ece, ece_scaled: the expected calibration error in 15 bins, as it is and with the temperature fitted.
    nll, nll_scaled: the mean negative log likelihood, likewise.
    temperature: the one fitted.
    accuracy/noise/S: the accuracy with Gaussian noise of standard deviation S on the standardised inputs.
    """
    pair_key, noise_key = jax.random.split(key)
    y = jnp.asarray(points.y)
    outputs = _logits(params, points.x)
    temperature = fitted_temperature(_logits(params, validation.x), jnp.asarray(validation.y))
    found = {"accuracy": _accuracy(outputs, y), "temperature": temperature}
    for suffix, scale in (("", 1.0), ("_scaled", temperature)):
        found[f"ece{suffix}"] = calibration_error(outputs / scale, y)
        found[f"nll{suffix}"] = _negative_log_likelihood(outputs, y, scale)
    for deviation in NOISE:
        found[f"accuracy/noise/{deviation}"] = _accuracy(_noisy_logits(params, points.x, deviation, noise_key), y)
    rows = stratified(points.y, GRAPH_POINTS)
    return {name: float(value) for name, value in found.items()} | convexity(
        params, points.x[rows], points.y[rows], num_classes=num_classes, key=pair_key
    )


def convexity(
    params: Parameters, x: Float[np.ndarray, "n d"], y: Int[np.ndarray, " n"], *, num_classes: int, key: PRNGKeyArray
) -> dict[str, float]:
    """Returns graph and Euclidean convexity of every hidden layer, of the true and of the predicted classes."""
    layers, outputs = _layers(params, x)
    labelings = {"true": y, "predicted": np.asarray(outputs).argmax(axis=1).astype(np.int32)}
    found = {}
    for layer, h in enumerate(layers):
        graph = pack(knn_graph(h, k=NEIGHBORS))
        onward = Partial(_rest[layer], params)
        for name, labels in labelings.items():
            scores = {
                "graph": graph_convexity(graph, labels, num_classes=num_classes),
                "euclidean": euclidean_convexity(
                    onward, h, labels, num_classes=num_classes, max_pairs=PAIRS, key=key, batch_size=2000
                ),
            }
            found |= {f"{kind}/{name}/{layer}": float(of.macro) for kind, of in scores.items()}
    return found


def stratified(y: Int[np.ndarray, " n"], most: int) -> Int[np.ndarray, " m"]:
    """Returns the rows of the first points of every class, as many of each as there may be, ascending.

    >>> stratified(np.array([0, 0, 0, 1, 1]), 4).tolist()
    [0, 1, 3, 4]
    """
    _, codes, counts = np.unique(y, return_inverse=True, return_counts=True)
    order = np.argsort(codes, kind="stable")
    rank = np.empty(len(y), int)
    rank[order] = np.arange(len(y)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.sort(np.lexsort((np.arange(len(y)), rank))[:most])


# Calibration ----------------------------------------------------------------------------------------------------------


@jax.jit
def calibration_error(logits: Float[Array, "n c"], y: Int[Array, " n"]) -> Float[Array, ""]:
    """Returns the expected calibration error: the mean, over points, of |accuracy - confidence| of their bin.

    Source: Guo, Pleiss, Sun and Weinberger, On calibration of modern neural networks, 2017.

    >>> round(float(calibration_error(jnp.array([[0.0, 9.0], [9.0, 0.0]]), jnp.array([1, 1]))), 2)
    0.5
    """
    confidence = jnp.max(jax.nn.softmax(logits), axis=1)
    correct = jnp.argmax(logits, axis=1) == y
    inside = jax.nn.one_hot(jnp.clip(jnp.ceil(confidence * BINS) - 1, 0, BINS - 1).astype(int), BINS)
    return jnp.sum(jnp.abs((correct - confidence) @ inside)) / len(y)


@jax.jit
def fitted_temperature(logits: Float[Array, "n c"], y: Int[Array, " n"]) -> Float[Array, ""]:
    """Returns the number, from 0.05 to 20, by which the logits are divided to be most likely; by golden section.

    >>> 0.9 < float(fitted_temperature(jnp.array([[1.0986, 0.0]] * 4), jnp.array([0, 0, 0, 1]))) < 1.1
    True
    """
    golden = (5**0.5 - 1) / 2

    def narrow(_, ends):
        low, high = ends
        left, right = high - golden * (high - low), low + golden * (high - low)
        worse = _negative_log_likelihood(logits, y, jnp.exp(left)) > _negative_log_likelihood(logits, y, jnp.exp(right))
        return jnp.where(worse, left, low), jnp.where(worse, high, right)

    low, high = jax.lax.fori_loop(0, 40, narrow, (jnp.log(0.05), jnp.log(20.0)))
    return jnp.exp((low + high) / 2)


@jax.jit
def _negative_log_likelihood(logits: Float[Array, "n c"], y: Int[Array, " n"], temperature: float | Array) -> Array:
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits / temperature), y[:, None], axis=1))


# The network, compiled once a shape -----------------------------------------------------------------------------------


_logits = jax.jit(logits)


def _onward(layer: int, params: Parameters, h: Float[Array, "n width"]) -> Array:
    return rest(params, layer, h)


_rest = tuple(partial(_onward, layer) for layer in range(HIDDEN_LAYERS))


@jax.jit
def _layers(params: Parameters, x: Float[Array, "n d"]) -> tuple[tuple[Array, ...], Array]:
    layers = hidden(params, x)
    return layers, rest(params, HIDDEN_LAYERS - 1, layers[-1])


@jax.jit
def _noisy_logits(params: Parameters, x: Float[Array, "n d"], deviation: float, key: PRNGKeyArray) -> Array:
    return logits(params, x + deviation * jax.random.normal(key, x.shape))


@jax.jit
def _accuracy(logits: Float[Array, "n c"], y: Int[Array, " n"]) -> Float[Array, ""]:
    return jnp.mean(jnp.argmax(logits, axis=1) == y)
