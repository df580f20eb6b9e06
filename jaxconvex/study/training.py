"""Training: without labels, on top of a frozen network, and of the whole network.

Pure functions: a model goes in, a new model comes out, and the one that went in is unchanged. `pretrain` and `probe`
take a `VisionTransformer`; `softmax_regression` takes any features; `fine_tune`, `predict` and `accuracy` take any
Flax NNX model that maps a batch of inputs to logits. Two runs with the same keys give the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxconvex.checks import as_labels, positive_integer
from jaxconvex.study.transformer import VisionTransformer

__all__ = [
    "FineTuned", "LinearHead", "Pretrained",
    "accuracy", "fine_tune", "predict", "pretrain", "probe", "softmax_regression", "stratified_split",
]  # fmt: skip

Progress = Callable[[int, int, float], object]  # called after an epoch: its number from 1, their number, its loss


class Pretrained(NamedTuple):
    """A model trained without labels, and the mean loss of each epoch."""

    model: VisionTransformer
    losses: np.ndarray


class FineTuned(NamedTuple):
    """The model of the epoch with the least validation loss, that epoch counted from 0, and the losses of each epoch."""

    model: Any
    best_epoch: int
    losses: np.ndarray
    validation_losses: np.ndarray


class LinearHead(NamedTuple):
    """The linear map of d features to c logits, `features @ kernel + bias`."""

    kernel: Float[Array, "d c"]
    bias: Float[Array, " c"]


def stratified_split(
    labels: Int[Array, " n"], key: Array, *, fractions: tuple[float, ...] = (0.6, 0.1, 0.3)
) -> tuple[np.ndarray, ...]:
    """Returns the indices of the points of each part, ascending; every part has its share of every class.

    Args:
        labels: the class of each point, integers or strings.
        key: decides which points of a class go to which part.
        fractions: the shares of the parts, none negative, 1 in all. A class of few points may leave a part without.

    Raises:
        ValueError: if a share is negative or the shares do not add up to 1.

    Example:
        >>> [len(part) for part in stratified_split(np.repeat([0, 1], 50), jax.random.key(0))]
        [60, 10, 30]
    """
    if min(fractions) < 0 or not np.isclose(sum(fractions), 1):
        raise ValueError(f"fractions must be shares that add up to 1; got {fractions}. Try (0.6, 0.1, 0.3).")
    classes = np.asarray(labels)
    order = np.asarray(jax.random.permutation(key, len(classes)))
    order = order[np.argsort(classes[order], kind="stable")]
    _, starts, counts = np.unique(classes[order], return_index=True, return_counts=True)
    rank_in_class = (np.arange(len(order)) - np.repeat(starts, counts) + 0.5) / np.repeat(counts, counts)
    part = np.searchsorted(np.cumsum(fractions)[:-1], rank_in_class)
    return tuple(np.sort(order[part == i]) for i in range(len(fractions)))


def pretrain(
    model: VisionTransformer,
    images: Float[Array, "n s s c"],
    key: Array,
    *,
    num_epochs: int = 20,
    batch_size: int = 32,
    learning_rate: float = 3e-3,
    progress: Progress | None = None,
) -> Pretrained:
    """Returns the model after training without labels: images with half their patches masked are to be completed.

    The loss is the mean squared error of all pixels, predicted by a linear decoder from the normalised class token
    alone: what describes the whole image then gathers in the token that the head reads. The decoder is not kept.

    Args:
        model: the network to start from; the classifier of its head takes no part.
        images: pixel values, best of mean 0 and deviation 1 or so; no labels.
        key: initialises the decoder, draws the masks and shuffles the images.
        num_epochs: the number of passes over the images.
        batch_size: the number of images a step; an epoch leaves out the remainder of the shuffled images.
        learning_rate: the peak of a schedule that warms up for a tenth of the steps, then falls along a cosine to 0.
        progress: called after each epoch.

    Source: after He et al. 2022 (arXiv 2111.06377), masked patches being replaced as in Xie et al. 2022
        (arXiv 2111.09886).
    """
    decoder_key, key = jax.random.split(key)
    num_values = model.num_patches * model.patch_embedding.in_features
    decoder = nnx.Linear(model.norm.num_features, num_values, rngs=nnx.Rngs(decoder_key))
    trained, losses = model, []
    for (trained, _), loss in _epochs(  # noqa: B007  (used after the loop)
        (model, decoder), _masked_patch_loss, (images,), key, num_epochs, batch_size, learning_rate
    ):
        losses.append(loss)
        if progress is not None:
            progress(len(losses), num_epochs, loss)
    return Pretrained(trained, np.array(losses))


def probe(
    model: VisionTransformer, images: Float[Array, "n s s c"], labels: Int[Array, " n"], *, penalty: float = 1e-3
) -> VisionTransformer:
    """Returns the model with the classifier of its head fitted by `softmax_regression`, all else frozen.

    Args:
        model: the network whose normalised class token is the features.
        images: the training images.
        labels: the class of each image, from 0 to the number of the model's logits - 1.
        penalty: the weight of the squared norm, above 0.

    Raises:
        ValueError: if a label is no such integer, or their number is not that of the images.
    """
    num_classes = model.classifier.out_features
    labels = _as_classes(labels, images, num_classes, "labels")
    kernel, bias = softmax_regression(
        _in_batches(_features, model, images), labels, num_classes=num_classes, penalty=penalty
    )
    probed = nnx.clone(model)
    nnx.update(probed.classifier, {"kernel": kernel, "bias": bias})
    return probed


@partial(jax.jit, static_argnames="num_classes")
def softmax_regression(
    features: Float[Array, "n d"], labels: Int[Array, " n"], *, num_classes: int, penalty: float = 1e-3
) -> LinearHead:
    """Returns the linear map W, b that minimises mean cross-entropy + penalty/2 |W|^2 over standardised features.

    The objective is convex and minimised by L-BFGS from zero, so no seed enters; the map returned takes the features
    as they came. A feature that never varies gets the weight 0.

    Args:
        features: one row a point.
        labels: the class of each point, from 0 to num_classes - 1; a class without points gets a very small bias.
        num_classes: the number of logits, static.
        penalty: the weight of the squared norm, above 0.

    Example:
        >>> head = softmax_regression(jnp.array([[0.0], [1.0], [2.0], [3.0]]), jnp.array([0, 0, 1, 1]), num_classes=2)
        >>> jnp.argmax(jnp.array([[-1.0], [4.0]]) @ head.kernel + head.bias, axis=1).tolist()
        [0, 1]
    """
    mean, scale = features.mean(axis=0), jnp.maximum(features.std(axis=0), 1e-6)
    standardised = (features - mean) / scale

    def objective(head: LinearHead) -> Float[Array, ""]:
        logits = standardised @ head.kernel + head.bias
        return _cross_entropy(logits, labels) + penalty / 2 * jnp.sum(head.kernel**2)

    optimizer = optax.lbfgs()
    value_and_gradient = optax.value_and_grad_from_state(objective)

    def step(carry):
        head, state, i = carry
        value, gradient = value_and_gradient(head, state=state)
        updates, state = optimizer.update(gradient, state, head, value=value, grad=gradient, value_fn=objective)
        return optax.apply_updates(head, updates), state, i + 1

    def unfinished(carry):
        _, state, i = carry
        return (i == 0) | ((i < 500) & (optax.tree.norm(optax.tree.get(state, "grad")) > 1e-4))

    zero = LinearHead(jnp.zeros((features.shape[1], num_classes)), jnp.zeros(num_classes))
    head, _, _ = jax.lax.while_loop(unfinished, step, (zero, optimizer.init(zero), 0))
    kernel = head.kernel / scale[:, None]
    return LinearHead(kernel, head.bias - mean @ kernel)


def fine_tune(
    model: nnx.Module,
    inputs: Float[Array, "n ..."],
    labels: Int[Array, " n"],
    validation_inputs: Float[Array, "m ..."],
    validation_labels: Int[Array, " m"],
    key: Array,
    *,
    num_epochs: int = 8,
    patience: int = 4,
    batch_size: int = 32,
    learning_rate: float = 1e-3,
    progress: Progress | None = None,
) -> FineTuned:
    """Returns the model after training all its parameters on the mean cross-entropy, stopped early.

    Training stops when the validation loss has not fallen for `patience` epochs; the epoch where it was least counts.
    Only parameters (`nnx.Param`) are trained: other state, such as a batch norm's statistics, stays as it is.

    Args:
        model: maps a batch of inputs to logits; best begun from a `probe`, whose head suits its features.
        inputs, labels: the training part; labels from 0 to the number of logits - 1.
        validation_inputs, validation_labels: the points that decide when to stop, at least one.
        key: shuffles the training part.
        num_epochs, batch_size, learning_rate: as for `pretrain`; `num_epochs` is the most.
        patience: the number of epochs without a new least validation loss before training stops.
        progress: called after each epoch, with the validation loss.

    Raises:
        ValueError: if a label is no such integer, or their number is not that of the inputs.
    """
    positive_integer(patience, "patience")
    num_classes = jax.eval_shape(model, jnp.asarray(inputs)).shape[-1]
    labels = _as_classes(labels, inputs, num_classes, "labels")
    validation_labels = _as_classes(validation_labels, validation_inputs, num_classes, "validation_labels")
    best, best_epoch, losses, validation_losses = model, 0, [], []
    for trained, loss in _epochs(
        model, _classification_loss, (inputs, labels), key, num_epochs, batch_size, learning_rate
    ):
        losses.append(loss)
        logits = _in_batches(_logits, trained, validation_inputs)
        validation_losses.append(float(_cross_entropy(logits, validation_labels)))
        best_epoch = int(np.argmin(validation_losses))
        if best_epoch == len(losses) - 1:
            best = trained
        if progress is not None:
            progress(len(losses), num_epochs, validation_losses[-1])
        if len(losses) - 1 - best_epoch >= patience:
            break
    return FineTuned(best, best_epoch, np.array(losses), np.array(validation_losses))


def predict(model: nnx.Module, inputs: Float[Array, "n ..."], *, batch_size: int = 512) -> np.ndarray:
    """Returns the class of the largest logit of each input (the first of equals), computed `batch_size` at a time."""
    return _in_batches(_logits, model, inputs, batch_size).argmax(axis=1)


def accuracy(model: nnx.Module, inputs: Float[Array, "n ..."], labels: Int[Array, " n"]) -> float:
    """Returns the share of inputs whose predicted class is their label, from 0 to 1."""
    return float(np.mean(predict(model, inputs) == np.asarray(labels)))


def _features(model, images):
    return model.pool(model.last_state(0, model.embed(images)))


def _logits(model, inputs):
    return model(inputs)


def _cross_entropy(logits, labels):
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def _classification_loss(model, inputs, labels, key):
    return _cross_entropy(model(inputs), labels)


def _masked_patch_loss(networks, images, key):
    model, decoder = networks
    patches = model.patches(images)
    masked = jax.random.uniform(key, patches.shape[:2]).argsort(axis=1) < patches.shape[1] // 2
    completed = decoder(model.pool(model.last_state(0, model.embed(images, masked))))
    return jnp.mean((completed.reshape(patches.shape) - patches) ** 2)


def _as_classes(labels, inputs, num_classes, name) -> Int[Array, " n"]:
    labels = as_labels(labels, len(inputs), num_classes, name)
    if np.any(labels < 0):
        raise ValueError(f"{name} must give every input a class; got -1, the background. Leave those points out.")
    return labels


@partial(jax.jit, static_argnames=("function", "graph"))
def _apply(state, inputs, *, function, graph):
    return function(nnx.merge(graph, state), inputs)


def _in_batches(function, model, inputs, batch_size=512) -> np.ndarray:
    graph, state = nnx.split(model)
    size = min(batch_size, positive_integer(len(inputs), "the number of inputs"))
    # The last batch is filled up with the last input, so that all have one shape and compile once.
    rows = np.minimum(np.arange(-(-len(inputs) // size) * size), len(inputs) - 1).reshape(-1, size)
    outputs = [np.asarray(_apply(state, inputs[batch], function=function, graph=graph)) for batch in rows]
    return np.concatenate(outputs)[: len(inputs)]


@lru_cache
def _optimizer(learning_rate: float, num_steps: int) -> optax.GradientTransformation:
    # Cached, so that equal settings are one object and `_epoch` is compiled once for all seeds.
    schedule = optax.warmup_cosine_decay_schedule(0.0, learning_rate, num_steps // 10, num_steps)
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=0.05))


@partial(jax.jit, static_argnames=("graph", "loss", "optimizer", "batch_size"))
def _epoch(parameters, state, others, data, key, *, graph, loss, optimizer, batch_size):
    num_batches = len(data[0]) // batch_size
    order_key, loss_key = jax.random.split(key)
    order = jax.random.permutation(order_key, len(data[0]))[: num_batches * batch_size]

    def step(carry, batch):
        parameters, state = carry
        rows, key = batch

        def batch_loss(parameters):
            return loss(nnx.merge(graph, parameters, others), *(array[rows] for array in data), key)

        value, gradient = jax.value_and_grad(batch_loss)(parameters)
        updates, state = optimizer.update(gradient, state, parameters)
        return (optax.apply_updates(parameters, updates), state), value

    batches = (order.reshape(num_batches, batch_size), jax.random.split(loss_key, num_batches))
    (parameters, state), losses = jax.lax.scan(step, (parameters, state), batches)
    return parameters, state, losses.mean()


def _epochs(networks, loss, data, key, num_epochs, batch_size, learning_rate) -> Iterator[tuple[Any, float]]:
    """Yields after each epoch the networks, and the mean of `loss(networks, *batch, key)` over its batches."""
    data = tuple(jnp.asarray(array) for array in data)
    num_points = positive_integer(len(data[0]), "the number of inputs")
    batch_size = min(positive_integer(batch_size, "batch_size"), num_points)
    num_steps = positive_integer(num_epochs, "num_epochs") * (num_points // batch_size)
    graph, parameters, others = nnx.split(networks, nnx.Param, ...)  # type: ignore[misc]
    optimizer = _optimizer(learning_rate, num_steps)
    static = {"graph": graph, "loss": loss, "optimizer": optimizer, "batch_size": batch_size}
    state = optimizer.init(parameters)
    for epoch_key in jax.random.split(key, num_epochs):
        parameters, state, mean_loss = _epoch(parameters, state, others, data, epoch_key, **static)
        yield nnx.merge(graph, parameters, others), float(mean_loss)
