"""Pretraining on windows of acceleration without labels: the network tells what was done to their time."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Bool, Float

from jaxconvex.encoders.encoder import Encoder
from jaxconvex.study.training import Progress, Trained, evaluating, train

__all__ = ["Changed", "change_time", "movement_tasks"]

SEGMENTS, SHORTEST = 4, 10  # the parts that change places, and the least samples of one
HIDDEN = 64  # of the head
KNOTS, SPREAD = 6, 0.5  # of a warp: the logarithm of its speed is linear between knots of this deviation
ORDERS = np.array(list(permutations(range(SEGMENTS)))[1:])  # all but the order that changes nothing


class Changed(NamedTuple):
    """A window, and whether it was reversed, permuted, warped."""

    window: Float[Array, "t 3"]
    tasks: Bool[Array, " 3"]


def movement_tasks(
    encoder: Encoder,
    windows: Float[Array, "n t 3"],
    key: Array,
    *,
    num_epochs: int = 20,
    batch_size: int = 32,
    learning_rate: float = 1e-3,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
) -> Trained:
    """The encoder after training without labels on three binary tasks: reversed? permuted? warped?

    Each change is made to each window with probability 1/2, anew at every step. A small head on the mean of the last state
    tells the three; the loss is the mean of their cross-entropies. The head is not kept. The statistics of batch norms are
    learnt. Windows are not turned in space: on some thousand windows the tasks were then not learnt at all.

    Args:
        encoder: a network of windows, such as the family "resnet1d".
        windows: acceleration in g, at least 80 samples; no labels.
        key: draws the head and the changes, and shuffles the windows.
        num_epochs: the number of passes over the windows.
        batch_size: the number of windows a step.
        learning_rate: the peak of the schedule of `train`.
        checkpoint, progress: as for `train`.

    Raises:
        ValueError: if the windows are too short.

    Source: Yuan et al. 2024, Self-supervised learning for human activity recognition using 700,000 person-days of wearable
        data (npj Digital Medicine 7).
    """
    if windows.ndim != 3 or windows.shape[1] < 2 * SEGMENTS * SHORTEST:
        raise ValueError(
            f"windows must have shape (n, time, 3) with at least {2 * SEGMENTS * SHORTEST} samples, so that their parts can "
            f"change places; got {windows.shape}."
        )
    head_key, key = jax.random.split(key)
    started = nnx.clone(encoder)
    started.train()
    width = jax.eval_shape(lambda x: _last(evaluating(encoder), x), jnp.asarray(windows[:1])).shape[-1]
    rngs = nnx.Rngs(head_key)
    head = nnx.Sequential(nnx.Linear(width, HIDDEN, rngs=rngs), jax.nn.relu, nnx.Linear(HIDDEN, 3, rngs=rngs))
    trained = train(
        (started, head),
        _movement_loss,
        (windows,),
        key,
        num_epochs=num_epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        checkpoint=checkpoint,
        progress=progress,
    )
    return trained._replace(model=evaluating(trained.model[0]))


def change_time(window: Float[Array, "t 3"], key: Array) -> Changed:
    """The window warped, permuted and reversed, each with probability 1/2, and which of them was done.

    Reversed: the last sample first. Permuted: four segments of random lengths change places. Warped: time runs faster
    here and slower there, the ends staying, and the samples are interpolated.

    Example:
        >>> changed = change_time(jnp.ones((100, 3)), jax.random.key(0))
        >>> changed.window.shape, changed.tasks.shape
        ((100, 3), (3,))
    """
    task_key, warp_key, permutation_key = jax.random.split(key, 3)
    tasks = jax.random.bernoulli(task_key, 0.5, (3,))
    is_reversed, is_permuted, is_warped = tasks
    samples = len(window)
    places = jnp.arange(samples)
    window = jnp.where(is_warped, _at(window, _warp(samples, warp_key)), window)
    order = jnp.where(is_permuted, _permutation(samples, permutation_key), places)
    order = jnp.where(is_reversed, order[::-1], order)
    return Changed(window[order], tasks)


def _warp(samples: int, key: Array) -> Float[Array, " t"]:
    """The place, from 0 to samples - 1, that each sample is taken from: growing, the ends fixed."""
    speed = SPREAD * jax.random.normal(key, (KNOTS,))
    pace = jnp.exp(jnp.interp(jnp.linspace(0, KNOTS - 1, samples - 1), jnp.arange(KNOTS), speed))
    position = jnp.concatenate([jnp.zeros(1), jnp.cumsum(pace)])
    return position * (samples - 1) / position[-1]


def _at(window: Float[Array, "t 3"], position: Float[Array, " s"]) -> Float[Array, "s 3"]:
    """The window between its samples, linearly."""
    left = jnp.clip(position.astype(jnp.int32), 0, len(window) - 2)
    share = (position - left)[:, None]
    return (1 - share) * window[left] + share * window[left + 1]


def _permutation(samples: int, key: Array) -> Array:
    """The sample that stands at each place after four segments have changed places."""
    cut_key, order_key = jax.random.split(key)
    free = samples - SEGMENTS * SHORTEST
    cuts = jnp.sort(jax.random.randint(cut_key, (SEGMENTS - 1,), 0, free + 1))
    lengths = jnp.diff(jnp.concatenate([jnp.zeros(1, int), cuts, jnp.full(1, free)])) + SHORTEST
    order = jax.random.choice(order_key, jnp.asarray(ORDERS))
    starts, ends = jnp.cumsum(lengths) - lengths, jnp.cumsum(lengths[order])
    position = jnp.arange(samples)
    segment = jnp.searchsorted(ends, position, side="right")
    return starts[order[segment]] + position - (ends - lengths[order])[segment]


def _last(encoder, windows):
    """The mean over time of the last state."""
    return list(encoder.hidden_states(windows).values())[-1].mean(axis=1)


def _movement_loss(networks, windows, key):
    encoder, head = networks
    changed, tasks = jax.vmap(change_time)(windows, jax.random.split(key, len(windows)))
    return optax.sigmoid_binary_cross_entropy(head(_last(encoder, changed)), tasks).mean()
