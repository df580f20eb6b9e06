"""Training without labels, on a frozen network, and of the whole network: pure functions of explicit keys.

A model goes in and a new model comes out; the one that went in is unchanged. `pretrain` and `probe` are for
`VisionTransformer`; `fine_tune`, `predict` and `accuracy` take any Flax NNX model that maps a batch to logits.
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

Callback = Callable[[int, float], None]


class Pretrained(NamedTuple):
    """A model trained without labels, and the mean loss of every epoch."""

    model: Any
    losses: np.ndarray


class FineTuned(NamedTuple):
    """The model of the best epoch, the mean training loss and the validation loss of every epoch, and that epoch."""

    model: Any
    losses: np.ndarray
    validation_losses: np.ndarray
    best_epoch: int


def stratified_split(
    labels: Int[Array, " n"], key: Array, *, fractions: tuple[float, ...] = (0.6, 0.1, 0.3)
) -> tuple[np.ndarray, ...]:
    """Returns the indices of the points of every part, in ascending order; each part has its share of every class.

    Args:
        labels: the class of every point.
        key: decides which points of a class go where.
        fractions: the share of each part; they add up to 1.

    Raises:
        ValueError: if the fractions are negative or do not add up to 1.

    Example:
        >>> labels = np.repeat([0, 1], 50)
        >>> [len(part) for part in stratified_split(labels, jax.random.key(0))]
        [60, 10, 30]
    """
    if min(fractions) < 0 or not np.isclose(sum(fractions), 1):
        raise ValueError(f"fractions must be shares that add up to 1, got {fractions}; e.g. (0.6, 0.1, 0.3).")
    labels = np.asarray(labels)
    order = np.asarray(jax.random.permutation(key, len(labels)))
    order = order[np.argsort(labels[order], kind="stable")]
    _, starts, counts = np.unique(labels[order], return_index=True, return_counts=True)
    rank = (np.arange(len(order)) - np.repeat(starts, counts) + 0.5) / np.repeat(counts, counts)
    part = np.searchsorted(np.cumsum(fractions)[:-1], rank)
    return tuple(np.sort(order[part == i]) for i in range(len(fractions)))


@lru_cache
def _adamw(learning_rate: float, num_steps: int) -> optax.GradientTransformation:
    # Cached, since a jitted epoch is compiled once for each optimizer object.
    schedule = optax.warmup_cosine_decay_schedule(0.0, learning_rate, num_steps // 10, num_steps)
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=0.05))


@partial(jax.jit, static_argnames=("graph", "loss", "optimizer", "batch_size"))
def _epoch(params, state, rest, data, key, *, graph, loss, optimizer, batch_size):
    num_points = len(data[0])
    num_batches = num_points // batch_size
    order_key, loss_key = jax.random.split(key)
    order = jax.random.permutation(order_key, num_points)[: num_batches * batch_size]

    def step(carry, batch):
        params, state = carry
        rows, key = batch
        value, gradient = jax.value_and_grad(
            lambda params: loss(nnx.merge(graph, params, rest), *(array[rows] for array in data), key)
        )(params)
        updates, state = optimizer.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), value

    batches = order.reshape(num_batches, batch_size), jax.random.split(loss_key, num_batches)
    (params, state), losses = jax.lax.scan(step, (params, state), batches)
    return params, state, losses.mean()


def _epochs(model, loss, data, key, *, num_epochs, batch_size, learning_rate) -> Iterator[tuple[Any, float]]:
    """Yields after every epoch the model and the epoch's mean loss."""
    batch_size = min(batch_size, len(data[0]))
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    optimizer = _adamw(learning_rate, num_epochs * (len(data[0]) // batch_size))
    state = optimizer.init(params)
    for epoch_key in jax.random.split(key, num_epochs):
        params, state, mean = _epoch(
            params, state, rest, data, epoch_key, graph=graph, loss=loss, optimizer=optimizer, batch_size=batch_size
        )
        yield nnx.merge(graph, params, rest), float(mean)


def masked_patch_loss(networks, images: Float[Array, "b s s c"], key: Array) -> Float[Array, ""]:
    """Returns the mean squared error of all patches, predicted from the class token of half-masked images."""
    model, decoder = networks
    patches = model.patches(images)
    masked = jax.random.uniform(key, patches.shape[:2]).argsort(axis=1) < patches.shape[1] // 2
    h = model.embed(images, masked)
    for i in range(model.depth):
        h = model.block(i, h)
    predicted = decoder(model.norm(h[:, 0])).reshape(patches.shape)
    return jnp.mean((predicted - patches) ** 2)


def cross_entropy_loss(model, inputs: Array, labels: Int[Array, " b"], key: Array | None = None) -> Float[Array, ""]:
    """Returns the mean cross-entropy of the labels; the key has no use, as nothing here is random."""
    return optax.softmax_cross_entropy_with_integer_labels(model(inputs), labels).mean()

def pretrain(model, images, key, *, num_epochs=30, batch_size=32, learning_rate=3e-3, callback=None):
    decoder_key, key = jax.random.split(key)
    width = model.norm.num_features
    q = model.patch_embedding.in_features
    decoder = nnx.Linear(width, model.num_patches*q, rngs=nnx.Rngs(decoder_key))
    losses = []
    for networks, loss in _epochs((model, decoder), masked_patch_loss, (images,), key, num_epochs=num_epochs, batch_size=batch_size, learning_rate=learning_rate):
        losses.append(loss)
        if callback: callback(len(losses), loss)
    return Pretrained(networks[0], np.array(losses))

@jax.jit
def softmax_regression(features, labels, W, penalty, tolerance=1e-4, max_steps=500):
    def objective(weights):
        kernel, bias = weights
        loss = optax.softmax_cross_entropy_with_integer_labels(features @ kernel + bias, labels)
        return loss.mean() + penalty / 2 * jnp.sum(kernel**2)

    optimizer = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(objective)

    def step(carry):
        weights, state, i = carry
        value, gradient = value_and_grad(weights, state=state)
        updates, state = optimizer.update(gradient, state, weights, value=value, grad=gradient, value_fn=objective)
        return optax.apply_updates(weights, updates), state, i + 1

    def unfinished(carry):
        _, state, i = carry
        return (i == 0) | ((i < max_steps) & (optax.tree.norm(optax.tree.get(state, "grad")) > tolerance))

    return jax.lax.while_loop(unfinished, step, (W, optimizer.init(W), 0))

def probe(model, images, labels, *, penalty=1e-3):
    graph, params = nnx.split(model)
    model = nnx.merge(graph, params)
    f = _features(params, images, graph)
    mu, sd = f.mean(0), f.std(0) + 1e-6
    C = model.classifier.out_features
    W, s, i = softmax_regression((f - mu) / sd, labels, (jnp.zeros((f.shape[1], C)), jnp.zeros(C)), penalty)
    model.classifier.kernel[...] = W[0] / sd[:, None]
    model.classifier.bias[...] = W[1] - mu / sd @ W[0]
    return model
@partial(jax.jit, static_argnames="graph")
def _features(p, x, graph):
    m = nnx.merge(graph, p)
    return m.norm(list(m.hidden_states(x).values())[-1][:, 0])
@partial(jax.jit, static_argnames="graph")
def _pred(p, x, graph):
    return nnx.merge(graph, p)(x)
def predict(model,x):
    g,p=nnx.split(model); return np.asarray(_pred(p,x,g).argmax(1))
def accuracy(m,x,y): return (predict(m,x)==y).mean()
@partial(jax.jit, static_argnames="graph")
def _val(p, x, y, graph):
    l= nnx.merge(graph, p)(x)
    return optax.softmax_cross_entropy_with_integer_labels(l, y).mean(), (l.argmax(1)==y).mean()
def fine_tune(model,x,y,xv,yv,key,*,num_epochs=30,batch_size=32,learning_rate=1e-3,callback=None):
    res=[]
    for m,l in _epochs(model,cross_entropy_loss,(x,y),key,num_epochs=num_epochs,batch_size=batch_size,learning_rate=learning_rate):
        g,p=nnx.split(m); v,a=_val(p,xv,yv,g)
        res.append((l,float(v),float(a),m))
    return res
