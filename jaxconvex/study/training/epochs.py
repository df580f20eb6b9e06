"""The loop of training: epochs of a loss, kept in a file after each, so that a run goes on where it was stopped."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.tree_util import Partial
from jaxtyping import Array

from jaxconvex._internal.checks import positive_integer
from jaxconvex._internal.functions import as_program, program_hash
from jaxconvex._internal.kept import array_hash
from jaxconvex.study.training.batches import num_points, take
from jaxconvex.study.training.states import read_tree, write_tree

__all__ = ["Progress", "Trained", "train"]

Progress = Callable[[int, int, float], object]  # called after an epoch: its number from 1, their number, its loss

ON_DEVICE = 2**30  # bytes of data that are kept on the device; of what is larger, each batch goes there


class Trained(NamedTuple):
    """The model of the best epoch (the last, where none is validated), that epoch from 0, and each epoch's losses.

    The model that went in takes part: `best_epoch` is -1 where no epoch has a smaller validation loss than it.
    """

    model: Any  # or a tuple of them, as they went in
    best_epoch: int
    losses: np.ndarray
    validation_losses: np.ndarray
    start_loss: float  # the validation loss of what went in; nan where nothing is validated


class State(NamedTuple):
    """All that is needed to go on after an epoch; the losses of epochs to come are nan."""

    done: np.ndarray  # the number of epochs
    parameters: Any
    others: Any
    optimizer: Any
    best: Any  # parameters and other state of the best epoch, at first of the start; None where nothing is validated
    losses: np.ndarray
    validation_losses: np.ndarray


def train(
    networks: Any,
    loss: Callable[..., Array],
    data: tuple[Any, ...],
    key: Array,
    *,
    num_epochs: int,
    batch_size: int,
    learning_rate: float,
    weight_decay: float = 0.05,
    validate: Callable[[Any], float] | None = None,
    patience: int | None = None,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
) -> Trained:
    """The networks after training all their parameters on the mean of `loss(networks, *batch, key)`.

    AdamW on clipped gradients. Only parameters (`nnx.Param`) are trained. State that the loss changes as it runs (running
    statistics of a batch norm in `train` mode, counts of random streams) is carried on from step to step.

    Args:
        networks: a Flax NNX model, or a tuple of them; what went in is unchanged.
        loss: a scalar of the networks, a batch of each part of the data, and a key.
        data: trees of arrays with one row a point, on the host or a device. More than a gigabyte stays on the host.
        key: shuffles the points and gives each step its key.
        num_epochs: the number of passes over the data, at most.
        batch_size: the points of a step; an epoch leaves out the remainder of the shuffled points.
        learning_rate: the peak of a schedule that warms up for a tenth of the steps, then falls along a cosine to 0.
        weight_decay: of AdamW, for all parameters.
        validate: a loss of the networks, by which the best of the start and all epochs is chosen; a
            `jax.tree_util.Partial` of the data that it takes, so that a checkpoint made with others is not used.
        patience: training stops when that loss has not fallen below the least so far, the start's among them, for so many
            epochs.
        checkpoint: a file for the state of the training, written after every epoch, before `progress` is called. The same
            call goes on from there and ends with the same bits. A file of another call or, after a line that says so,
            one that is not whole is not used, and written over. It is left in place.
        progress: called after each epoch.
    """
    count = num_points(data)
    batch_size = min(positive_integer(batch_size, "batch_size"), count)
    num_batches = count // batch_size
    num_epochs = positive_integer(num_epochs, "num_epochs")
    optimizer = _optimizer(learning_rate, weight_decay, num_epochs * num_batches)
    graph, parameters, others = nnx.split(networks, nnx.Param, ...)  # type: ignore[misc]
    ahead = np.full(num_epochs, np.nan)
    best = None if validate is None else (parameters, others)
    state = State(np.array(0), parameters, others, optimizer.init(parameters), best, ahead, ahead)
    batch_loss = as_program(_of_parts(loss, graph), parameters, others, take(data, np.arange(batch_size)), key)
    fingerprint = ""
    if checkpoint is not None:
        identity = program_hash(batch_loss) or uuid.uuid4().hex  # where nothing tells the loss, no file is of this call
        settings = (num_epochs, batch_size, learning_rate, weight_decay, patience, jax.__version__, identity)
        seen = validate.args if isinstance(validate, Partial) else ()
        fingerprint = _fingerprint(settings, (parameters, others, data, seen, key))
        state = read_tree(checkpoint, state, fingerprint=fingerprint) or state
    if sum(array.nbytes for array in jax.tree.leaves(data)) <= ON_DEVICE:
        data = jax.tree.map(jnp.asarray, data)
    epoch_keys = jax.random.split(key, num_epochs)
    done = int(state.done)
    start_loss = np.nan if validate is None else _finite(validate(networks))
    while done < num_epochs and not _waited(start_loss, state.validation_losses[:done], patience):
        carry = state.parameters, state.others, state.optimizer
        carry, mean_loss = _epoch(carry, data, epoch_keys[done], batch_size, batch_loss, optimizer)
        losses, validation_losses = state.losses.copy(), state.validation_losses.copy()
        losses[done] = mean_loss
        best = state.best
        if validate is not None:
            validation_losses[done] = _finite(validate(nnx.merge(graph, *carry[:2])))
            best = carry[:2] if _best(start_loss, validation_losses[: done + 1]) == done else best
        done += 1
        state = State(np.array(done), carry[0], carry[1], carry[2], best, losses, validation_losses)
        if checkpoint is not None:
            write_tree(checkpoint, state, fingerprint=fingerprint)
        if progress is not None:
            progress(done, num_epochs, float((losses if validate is None else validation_losses)[done - 1]))
    kept = (state.parameters, state.others) if state.best is None else state.best
    best_epoch = done - 1 if validate is None else _best(start_loss, state.validation_losses[:done])
    scored = state.validation_losses[: done if validate is not None else 0]
    return Trained(nnx.merge(graph, *kept), best_epoch, state.losses[:done], scored, start_loss)


def _finite(loss: float) -> float:
    return float(loss) if np.isfinite(loss) else np.inf


def _best(start: float, losses: np.ndarray) -> int:
    """The epoch of the least loss, the first of equals; -1 for the start."""
    return int(np.argmin([start, *losses])) - 1


def _waited(start: float, losses: np.ndarray, patience: int | None) -> bool:
    return patience is not None and len(losses) - 1 - _best(start, losses) >= patience


@lru_cache
def _optimizer(learning_rate: float, weight_decay: float, num_steps: int) -> optax.GradientTransformation:
    # Cached, so that equal settings are one object and `_step` is compiled once for all seeds.
    schedule = optax.warmup_cosine_decay_schedule(0.0, learning_rate, num_steps // 10, num_steps)
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=weight_decay))


def _epoch(carry, data, key, batch_size, loss, optimizer) -> tuple[Any, float]:
    """The parameters, other state and optimiser's state after an epoch, and the mean loss of its steps."""
    count = num_points(data)
    num_batches = count // batch_size
    order_key, loss_key = jax.random.split(key)
    order = np.asarray(jax.random.permutation(order_key, count))[: num_batches * batch_size]
    losses = []
    # Steps one by one: in a loop that is compiled, XLA for CPU takes twelve times as long for convolutions' gradients.
    for rows, step_key in zip(
        order.reshape(num_batches, batch_size), jax.random.split(loss_key, num_batches), strict=True
    ):
        carry, value = _step(carry, take(data, rows), step_key, loss, optimizer=optimizer)
        losses.append(value)
    return carry, float(jnp.stack(losses).mean())


def _of_parts(loss: Callable[..., Array], graph: Any) -> Callable[..., tuple[Array, Any]]:
    """The loss as a function of parameters, other state, batch and key; it gives the other state, too."""

    def batch_loss(parameters: Any, others: Any, batch: Any, key: Array) -> tuple[Array, Any]:
        networks = nnx.merge(graph, parameters, others, copy=True)  # so that the loss may change its state
        value = loss(networks, *batch, key)
        return value, nnx.split(networks, nnx.Param, ...)[2]  # type: ignore[misc]

    return batch_loss


@partial(jax.jit, static_argnames="optimizer")
def _step(carry, batch, key, loss, *, optimizer):
    parameters, others, state = carry
    (value, others), gradient = jax.value_and_grad(loss, has_aux=True)(parameters, others, batch, key)
    updates, state = optimizer.update(gradient, state, parameters)
    return (optax.apply_updates(parameters, updates), others, state), value


def _fingerprint(settings: tuple[Any, ...], tree: Any) -> str:
    """A hash of the settings, and of the paths, types, shapes and values of all arrays."""
    digest = hashlib.sha256(repr(settings).encode())
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        digest.update(repr((jax.tree_util.keystr(path), array_hash(leaf))).encode())
    return digest.hexdigest()
