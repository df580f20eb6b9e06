"""A loss whose gradient has a standard length, so that a weight of 1 means the same everywhere."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxconvex._internal.devices import whole
from jaxconvex.losses.arguments import old_spelling
from jaxconvex.losses.batch_graph import shifted

__all__ = ["with_unit_gradient"]

ROUNDINGS = 2  # of an activation, in which the whole spread of collapsed ones lies


def _norm(values: Array) -> Float[Array, ""]:
    """The root of the sum of squares, which may leave the range of the type before the root is taken."""
    largest = jnp.max(jnp.abs(values))
    unit = jnp.where(largest == 0, 1, largest)
    return unit * jnp.sqrt(jnp.sum(jnp.square(values / unit)))


def with_unit_gradient(loss_fn: Callable[..., Any], *points: Array, has_aux: bool = False) -> Any:
    """The loss with its gradient in the first argument, activations x, brought to the length 1 / (spread * sqrt(n)).

    The spread is the root mean square distance of the points from their mean. That is the gradient of a mean loss in
    which every point's own loss changes by 1 when the point moves by the spread, as that of a cross-entropy at work
    does. So a weight near 1 presses about as hard as the task, whatever the layer's width and scale, the batch and
    the loss; and it presses on while loss_fn is small, where a loss in [0, 1] would have long lost hold.

    Args:
        loss_fn: from activations, an array of one a point, and what it takes beside them, to a scalar: such as
            graph_convexity_loss, called as the loss itself then is: `with_unit_gradient(graph_convexity_loss)(h, labels)`.
            Further arguments, such as probabilities for labels, and what it closes over keep their own gradients.
        points: the old spelling, until the next release: with_unit_gradient(loss_fn, x) is the value, and what loss_fn
            closes over gets no gradient.
        has_aux: whether loss_fn returns (loss, what it tells beside), as jax.value_and_grad has it; then so does the loss.

    Where the gradient is 0 it stays 0: a batch without pairs, or one that is perfectly convex. It is 0, too, where the
    points have collapsed into one but for rounding, so that there is no spread to measure by. It is not the gradient of
    the value, and the second derivative is 0. An x that is not finite gives nan.

    Cost: that of the value and the gradient of loss_fn.

    >>> x = jnp.array([[0.0], [2.0], [4.0], [6.0]])
    >>> gradient = jax.grad(with_unit_gradient(lambda h: 1e-5 * jnp.sum(h)))(x)
    >>> round(float(jnp.linalg.norm(gradient)), 4), round(float(1 / (jnp.std(x) * 2)), 4)
    (0.2236, 0.2236)
    """
    if points:
        old_spelling("with_unit_gradient(loss_fn, x)", "with_unit_gradient(loss_fn)(x)")
        value, push = _parts(loss_fn, False, *points)
        return lax.stop_gradient(value) + push

    @functools.wraps(loss_fn)
    def scaled(x: Float[Array, "n ..."], *more: Any, **named: Any) -> Any:
        found, push = _parts(loss_fn, has_aux, x, *more, **named)
        return (found[0] + push, found[1]) if has_aux else found + push

    return scaled


def _parts(loss_fn: Callable[..., Any], has_aux: bool, x: Array, *more: Any, **named: Any) -> tuple[Any, Array]:
    """What the loss returns, without a gradient in x, and a 0 that has the gradient of standard length."""
    fixed = lax.stop_gradient(x)
    found, gradient = jax.value_and_grad(loss_fn, has_aux=has_aux)(fixed, *more, **named)
    value = found[0] if has_aux else found
    gradient = gradient.astype(jnp.promote_types(x.dtype, jnp.float32))
    gradient, wide = whole(gradient), whole(fixed).astype(gradient.dtype)
    half = wide / 2  # lest the differences overflow
    away = half - half[0]  # exact where all are equal, as the difference to their mean is not
    spread = 2 * _norm(away - jnp.mean(away, axis=0))  # times the root of n
    collapsed = spread <= ROUNDINGS * jnp.finfo(x.dtype).eps * _norm(wide)
    direction = shifted(gradient, -jnp.frexp(jnp.max(jnp.abs(gradient)))[1])
    length = _norm(direction)
    none = ((length == 0) & jnp.isfinite(spread)) | collapsed
    push = lax.stop_gradient(jnp.where(none, 0, direction / jnp.where(none, 1, length * spread)))
    # The sum is 0, and its gradient is the push.
    return found, jnp.sum((x - fixed).astype(push.dtype) * push).astype(value.dtype)
