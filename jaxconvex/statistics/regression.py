"""Softmax regression: the linear probe of frozen features."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxconvex._internal.loops import while_loop

__all__ = ["LinearHead", "softmax_regression"]


class LinearHead(NamedTuple):
    """The linear map of d features to c logits, `features @ kernel + bias`."""

    kernel: Float[Array, "d c"]
    bias: Float[Array, " c"]


@partial(jax.jit, static_argnames="num_classes")
def softmax_regression(
    features: Float[Array, "n d"], labels: Int[Array, " n"], *, num_classes: int, penalty: float = 1e-3
) -> LinearHead:
    """The linear map W, b that minimises mean cross-entropy + penalty/2 |W|^2 over standardised features.

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
    import optax  # here, since its import takes long

    mean, scale = features.mean(axis=0), jnp.maximum(features.std(axis=0), 1e-6)
    standardised = (features - mean) / scale

    def objective(head: LinearHead) -> Float[Array, ""]:
        logits = standardised @ head.kernel + head.bias
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean() + penalty / 2 * jnp.sum(head.kernel**2)

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
    head, _, _ = while_loop(unfinished, step, (zero, optimizer.init(zero), 0))
    kernel = head.kernel / scale[:, None]
    return LinearHead(kernel, head.bias - mean @ kernel)
