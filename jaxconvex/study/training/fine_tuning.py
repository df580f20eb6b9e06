"""Fine-tuning of a whole network on labels, and what the network then says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int

from jaxconvex._internal.checks import positive_integer
from jaxconvex.study.training.batches import as_classes, as_inputs, evaluating, features
from jaxconvex.study.training.epochs import Progress, Trained, train

__all__ = ["accuracy", "cross_entropy", "fine_tune", "logits", "predict"]


def fine_tune(
    model: nnx.Module,
    inputs: Any,
    labels: Int[Array, " n"],
    validation_inputs: Any,
    validation_labels: Int[Array, " m"],
    key: Array,
    *,
    num_epochs: int = 8,
    patience: int = 4,
    batch_size: int = 32,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.05,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
) -> Trained:
    """The model after training all its parameters on the mean cross-entropy, stopped early.

    Training stops when the validation loss has not fallen for `patience` epochs; the epoch where it was least counts, or
    the model that went in, if none is better.
    Only parameters (`nnx.Param`) are trained. In `eval` mode a batch norm's statistics stay as they are, in `train` mode
    they follow the batches; the validation loss is that of `eval` mode.

    Args:
        model: `model(*inputs)` gives logits; best begun from a `probe`, whose head suits its features.
        inputs, labels: the training part: an array, or a tuple of arrays or None such as `Inputs(inputs, mask)`; labels
            from 0 to the number of logits - 1.
        validation_inputs, validation_labels: the points that decide when to stop, at least one.
        key: shuffles the training part.
        num_epochs: the most passes over the training part.
        patience: the number of epochs without a new least validation loss before training stops.
        batch_size, learning_rate, weight_decay, checkpoint: as for `train`.
        progress: called after each epoch, with the validation loss.

    Raises:
        ValueError: if a label is no such integer, or their number is not that of the inputs.
    """
    positive_integer(patience, "patience")
    inputs, validation_inputs = as_inputs(inputs), as_inputs(validation_inputs)
    first = jax.tree.map(lambda array: array[:1], inputs)
    num_classes = jax.eval_shape(evaluating(model), *jax.tree.map(jnp.asarray, first)).shape[-1]
    labels = as_classes(labels, inputs, num_classes, "labels")
    validation_labels = as_classes(validation_labels, validation_inputs, num_classes, "validation_labels")

    return train(
        model,
        _classification_loss,
        (inputs, labels),
        key,
        num_epochs=num_epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        validate=Partial(_validation_loss, validation_inputs, validation_labels),
        patience=patience,
        checkpoint=checkpoint,
        progress=progress,
    )


def logits(model: nnx.Module, inputs: Any, *, batch_size: int = 256) -> np.ndarray:
    """The logits (n, c) of all inputs, the model in `eval` mode, computed `batch_size` at a time."""
    return features(_call, model, inputs, batch_size=batch_size)


def predict(model: nnx.Module, inputs: Any, *, batch_size: int = 256) -> np.ndarray:
    """The class of the largest logit of each input (the first of equals), computed `batch_size` at a time."""
    return logits(model, inputs, batch_size=batch_size).argmax(axis=1)


def accuracy(model: nnx.Module, inputs: Any, labels: Int[Array, " n"], *, batch_size: int = 256) -> float:
    """The share of inputs whose predicted class is their label, from 0 to 1."""
    return float(np.mean(predict(model, inputs, batch_size=batch_size) == np.asarray(labels)))


def cross_entropy(logits: Float[Array, "n c"], labels: Int[Array, " n"]) -> Float[Array, ""]:
    """The mean of -log softmax at the labels, in nats."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def _call(model, *inputs):
    return model(*inputs)


def _validation_loss(inputs, labels, model):
    return float(cross_entropy(jnp.asarray(logits(model, inputs)), labels))


def _classification_loss(model, inputs, labels, key):
    return cross_entropy(model(*inputs), labels)
