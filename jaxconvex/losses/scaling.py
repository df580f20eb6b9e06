"""A loss whose gradient has a standard length, so that a weight of 1 means the same everywhere."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

__all__ = ["with_unit_gradient"]


def with_unit_gradient(loss_fn: Callable[[Array], Array], x: Float[Array, "n ..."]) -> Float[Array, ""]:
    """The value of loss_fn(x), with its gradient in x brought to the length 1 / (spread * sqrt(n)).

    The spread is the root mean square distance of the points from their mean. That is the gradient of a mean loss in
    which every point's own loss changes by 1 when the point moves by the spread, as that of a cross-entropy at work
    does. So a weight near 1 presses about as hard as the task, whatever the layer's width and scale, the batch and
    the loss; and it presses on while loss_fn is small, where a loss in [0, 1] would have long lost hold.

    Args:
        loss_fn: from activations to a scalar, such as `lambda h: graph_convexity_loss(h, labels)`. What it closes
            over gets no gradient.
        x: the activations, one a point.

    Where the gradient is 0 it stays 0: a batch without pairs, or one that is perfectly convex. It is not the gradient
    of the value, and the second derivative is 0. An x that is not finite gives nan.

    Cost: that of the value and the gradient of loss_fn.

    >>> x = jnp.array([[0.0], [2.0], [4.0], [6.0]])
    >>> gradient = jax.grad(lambda x: with_unit_gradient(lambda h: 1e-5 * jnp.sum(h), x))(x)
    >>> round(float(jnp.linalg.norm(gradient)), 4), round(float(1 / (jnp.std(x) * 2)), 4)
    (0.2236, 0.2236)
    """
    fixed = lax.stop_gradient(x)
    value, gradient = jax.value_and_grad(loss_fn)(fixed)
    gradient = gradient.astype(jnp.promote_types(x.dtype, jnp.float32))
    wide = fixed.astype(gradient.dtype)
    # Dividing by the largest entry first keeps the squares from underflowing.
    largest = jnp.max(jnp.abs(gradient))
    direction = gradient / jnp.where(largest == 0, 1, largest)
    length = jnp.sqrt(jnp.sum(jnp.square(direction)))
    spread = jnp.sqrt(jnp.sum(jnp.square(wide - jnp.mean(wide, axis=0))) / len(x))
    scale = length * spread * jnp.sqrt(jnp.asarray(len(x), gradient.dtype))
    push = lax.stop_gradient(jnp.where(scale == 0, 0, direction / jnp.where(scale == 0, 1, scale)))
    # The sum is 0, and its gradient is the push.
    return lax.stop_gradient(value) + jnp.sum((x - fixed).astype(push.dtype) * push).astype(value.dtype)
