"""A gradient of standard length: `with_unit_gradient`; and what the losses return and check alike."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxconvex.losses import detour_loss, euclidean_convexity_loss, graph_convexity_loss, with_unit_gradient

LABELS = jnp.arange(24) % 3


def points(seed=0, scale=1.0, dtype=jnp.float32):
    return jnp.asarray(scale * np.random.default_rng(seed).normal(size=(24, 5)), dtype)


def loss(h):
    return graph_convexity_loss(h, LABELS, k=4)


@jax.jit
def gradient_of(x):
    return jax.grad(lambda h: with_unit_gradient(loss)(h))(x)


def standard_length(x):
    x = np.asarray(x, np.float64)
    return 1 / (np.sqrt(((x - x.mean(0)) ** 2).sum(1).mean()) * np.sqrt(len(x)))


@pytest.mark.long
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("factor", [1e-4, 1.0, 1e4])
def test_the_value_is_kept_and_the_gradient_has_the_standard_length(scale, factor):
    x = points(scale=scale)
    value, gradient = jax.jit(jax.value_and_grad(lambda x: with_unit_gradient(lambda h: factor * loss(h))(x)))(x)
    np.testing.assert_allclose(value, factor * loss(x), rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(np.asarray(gradient, np.float64)), standard_length(x), rtol=1e-5)
    direction = np.asarray(jax.jit(jax.grad(loss))(x), np.float64)
    cosine = np.sum(gradient * direction) / np.linalg.norm(gradient) / np.linalg.norm(direction)
    assert cosine > 1 - 1e-5


@pytest.mark.long
def test_a_weight_scales_the_gradient():
    x = points()
    thrice = jax.jit(jax.grad(lambda x: 3 * with_unit_gradient(loss)(x)))(x)
    np.testing.assert_allclose(thrice, 3 * gradient_of(x), rtol=1e-6)


@pytest.mark.long
def test_gradients_pass_on_to_what_made_the_points():
    x = points()
    w = jnp.eye(5) + 0.1
    of_weights = jax.jit(jax.grad(lambda w: with_unit_gradient(loss)(x @ w)))(w)
    np.testing.assert_allclose(of_weights, x.T @ gradient_of(x @ w), rtol=1e-4)


@pytest.mark.long
def test_no_gradient_stays_none():
    x = points()
    value, gradient = jax.value_and_grad(lambda x: with_unit_gradient(lambda h: 0 * jnp.sum(h) + 2)(x))(x)
    assert value == 2 and not gradient.any()
    same = jnp.ones((24, 5))  # no spread either
    value, gradient = jax.value_and_grad(lambda x: with_unit_gradient(jnp.sum)(x))(same)
    assert value == 120 and not gradient.any()
    alone = jnp.arange(24)  # no two points of a class
    gradient = jax.grad(lambda x: with_unit_gradient(lambda h: graph_convexity_loss(h, alone, k=4))(x))(x)
    assert not gradient.any()


@pytest.mark.long
def test_nan_is_not_hidden():
    x = points().at[3, 2].set(jnp.nan)
    value, gradient = jax.jit(jax.value_and_grad(lambda x: with_unit_gradient(loss)(x)))(x)
    assert jnp.isnan(value) and jnp.isnan(gradient).any()


@pytest.mark.long
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_narrow_types(dtype):
    x = points(dtype=dtype)
    gradient = jax.grad(lambda x: with_unit_gradient(loss)(x).astype(jnp.float32))(x)
    assert gradient.dtype == dtype
    np.testing.assert_allclose(np.linalg.norm(np.asarray(gradient, np.float64)), standard_length(x), rtol=0.02)


@pytest.mark.long
def test_vmap_is_a_loop():
    x = jnp.stack([points(i, scale=10.0**i) for i in range(3)])
    together = jax.jit(jax.vmap(gradient_of))(x)
    np.testing.assert_allclose(together, jnp.stack([gradient_of(h) for h in x]), rtol=1e-3, atol=1e-7)


@pytest.mark.long
def test_whole_activations():
    x = jnp.asarray(np.random.default_rng(1).normal(size=(24, 3, 5)), jnp.float32)
    gradient = jax.grad(lambda x: with_unit_gradient(lambda h: loss(h.mean(1)))(x))(x)
    flat = np.asarray(x).reshape(24, -1)
    np.testing.assert_allclose(np.linalg.norm(np.asarray(gradient, np.float64)), standard_length(flat), rtol=1e-5)


def weighed(h, p, *, power=2):
    return jnp.sum(p * h**power), p.shape


def test_further_arguments_and_closures_keep_their_gradients():
    x, p = points(), jnp.abs(points(1))
    scaled = with_unit_gradient(weighed, has_aux=True)
    (value, shape), (of_points, of_others) = jax.value_and_grad(partial(scaled, power=2), (0, 1), has_aux=True)(x, p)
    np.testing.assert_allclose(np.linalg.norm(of_points), standard_length(x), rtol=1e-5)
    np.testing.assert_allclose(of_others, x**2, rtol=1e-5)
    np.testing.assert_allclose(value, jnp.sum(p * x**2), rtol=1e-5)
    assert shape == p.shape
    of_closure = jax.grad(lambda p: with_unit_gradient(lambda h: weighed(h, p)[0])(x))(p)
    np.testing.assert_allclose(of_closure, x**2, rtol=1e-5)


def test_the_old_spelling_warns():
    x, p = points(), jnp.abs(points(1))
    old = jax.grad(lambda x, p: with_unit_gradient(lambda h: weighed(h, p)[0], x), (0, 1))
    with pytest.warns(DeprecationWarning, match=r"with_unit_gradient\(loss_fn\)\(x\), now") as found:
        of_points, of_closure = old(x, p)
    assert found[0].filename == __file__
    np.testing.assert_allclose(np.linalg.norm(of_points), standard_length(x), rtol=1e-5)
    assert not of_closure.any()


LINE = jnp.array([[0.0], [1.0], [2.1], [3.3]])
SEGMENTS = {"key": jax.random.key(0), "points": "equal", "kind": "probability"}


@pytest.mark.parametrize("loss_fn", [graph_convexity_loss, detour_loss])
def test_one_convention_of_what_is_told_beside(loss_fn):
    y = jnp.array([0, 1, 0, 0])
    loss, aux = loss_fn(LINE, y, k=1, has_aux=True)
    assert aux.num_pairs == 3 and loss == loss_fn(LINE, y, k=1)
    with pytest.warns(DeprecationWarning, match="aux.num_pairs") as found:
        assert loss_fn(LINE, y, k=1, return_num_pairs=True) == (loss, 3)
    assert found[0].filename == __file__


def test_losses_of_the_segments():
    y = jnp.array([0, 1, 0, 0])
    segments = partial(euclidean_convexity_loss, lambda h: jnp.concatenate([h, 0 * h], axis=1), LINE, y, **SEGMENTS)
    loss, aux = segments(has_aux=True)
    assert aux.num_pairs == 3 and aux.losses[1] == 0
    np.testing.assert_allclose(loss, aux.losses.sum() / 3, rtol=1e-6)
    with pytest.warns(DeprecationWarning, match="aux.losses"):
        np.testing.assert_array_equal(segments(reduce=False), aux.losses)


@pytest.mark.parametrize("loss_fn", [graph_convexity_loss, detour_loss])
def test_labels_that_are_no_class(loss_fn):
    y, counts = jnp.array([0, 255, 0, 0]), jnp.array([True, False, True, True])
    with pytest.raises(ValueError, match=r"0\.\.1 \(num_classes=2\).*got 255.*where="):
        loss_fn(LINE, y, k=1, num_classes=2)
    checked = jax.jit(partial(loss_fn, k=1, num_classes=2))
    assert jnp.isnan(checked(LINE, y))
    assert loss_fn(LINE, y, k=1, num_classes=2, where=counts) == loss_fn(LINE, y, k=1, where=counts)


def test_probabilities_of_other_classes():
    with pytest.raises(ValueError, match=r"num_classes=2 columns; got shape \(4, 3\)"):
        graph_convexity_loss(LINE, jnp.ones((4, 3)) / 3, k=1, num_classes=2)
