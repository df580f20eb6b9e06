"""A gradient of standard length: `with_unit_gradient`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxconvex.losses import graph_convexity_loss, with_unit_gradient

LABELS = jnp.arange(24) % 3


def points(seed=0, scale=1.0, dtype=jnp.float32):
    return jnp.asarray(scale * np.random.default_rng(seed).normal(size=(24, 5)), dtype)


def loss(h):
    return graph_convexity_loss(h, LABELS, k=4)


@jax.jit
def gradient_of(x):
    return jax.grad(lambda h: with_unit_gradient(loss, h))(x)


def standard_length(x):
    x = np.asarray(x, np.float64)
    return 1 / (np.sqrt(((x - x.mean(0)) ** 2).sum(1).mean()) * np.sqrt(len(x)))


@pytest.mark.long(after=2)
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("factor", [1e-4, 1.0, 1e4])
def test_the_value_is_kept_and_the_gradient_has_the_standard_length(scale, factor):
    x = points(scale=scale)
    value, gradient = jax.jit(jax.value_and_grad(lambda x: with_unit_gradient(lambda h: factor * loss(h), x)))(x)
    np.testing.assert_allclose(value, factor * loss(x), rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(np.asarray(gradient, np.float64)), standard_length(x), rtol=1e-5)
    direction = np.asarray(jax.jit(jax.grad(loss))(x), np.float64)
    cosine = np.sum(gradient * direction) / np.linalg.norm(gradient) / np.linalg.norm(direction)
    assert cosine > 1 - 1e-5


@pytest.mark.long
def test_a_weight_scales_the_gradient():
    x = points()
    thrice = jax.jit(jax.grad(lambda x: 3 * with_unit_gradient(loss, x)))(x)
    np.testing.assert_allclose(thrice, 3 * gradient_of(x), rtol=1e-6)


def test_gradients_pass_on_to_what_made_the_points():
    x = points()
    w = jnp.eye(5) + 0.1
    of_weights = jax.jit(jax.grad(lambda w: with_unit_gradient(loss, x @ w)))(w)
    np.testing.assert_allclose(of_weights, x.T @ gradient_of(x @ w), rtol=1e-4)


def test_no_gradient_stays_none():
    x = points()
    value, gradient = jax.value_and_grad(lambda x: with_unit_gradient(lambda h: 0 * jnp.sum(h) + 2, x))(x)
    assert value == 2 and not gradient.any()
    same = jnp.ones((24, 5))  # no spread either
    value, gradient = jax.value_and_grad(lambda x: with_unit_gradient(jnp.sum, x))(same)
    assert value == 120 and not gradient.any()
    alone = jnp.arange(24)  # no two points of a class
    gradient = jax.grad(lambda x: with_unit_gradient(lambda h: graph_convexity_loss(h, alone, k=4), x))(x)
    assert not gradient.any()


def test_nan_is_not_hidden():
    x = points().at[3, 2].set(jnp.nan)
    value, gradient = jax.jit(jax.value_and_grad(lambda x: with_unit_gradient(loss, x)))(x)
    assert jnp.isnan(value) and jnp.isnan(gradient).any()


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_narrow_types(dtype):
    x = points(dtype=dtype)
    gradient = jax.grad(lambda x: with_unit_gradient(loss, x).astype(jnp.float32))(x)
    assert gradient.dtype == dtype
    np.testing.assert_allclose(np.linalg.norm(np.asarray(gradient, np.float64)), standard_length(x), rtol=0.02)


@pytest.mark.long
def test_vmap_is_a_loop():
    x = jnp.stack([points(i, scale=10.0**i) for i in range(3)])
    together = jax.jit(jax.vmap(gradient_of))(x)
    np.testing.assert_allclose(together, jnp.stack([gradient_of(h) for h in x]), rtol=1e-3, atol=1e-7)


def test_whole_activations():
    x = jnp.asarray(np.random.default_rng(1).normal(size=(24, 3, 5)), jnp.float32)
    gradient = jax.grad(lambda x: with_unit_gradient(lambda h: loss(h.mean(1)), x))(x)
    flat = np.asarray(x).reshape(24, -1)
    np.testing.assert_allclose(np.linalg.norm(np.asarray(gradient, np.float64)), standard_length(flat), rtol=1e-5)
