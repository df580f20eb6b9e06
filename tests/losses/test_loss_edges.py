"""Losses at the edges: what contributes nothing, scales of the whole type, arguments that are no numbers above 0."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxconvex.losses import (
    balanced_batch,
    detour_loss,
    euclidean_convexity_loss,
    graph_convexity_loss,
    path_memberships,
    with_unit_gradient,
)
from jaxconvex.losses.batch_graph import batch_graph

RNG = np.random.default_rng(0)
X = RNG.normal(size=(12, 3)).astype(np.float32)
LABELS = np.arange(12) % 3
WEIGHTS = jnp.asarray(RNG.normal(size=(3, 3)), jnp.float32)


@jax.jit
def of_directions(weights, x, labels, where):
    """A classifier that zeros have no gradient in."""

    def loss(weights, x):
        def predict(h):
            return (h / jnp.linalg.norm(h, axis=1, keepdims=True)) @ weights

        return euclidean_convexity_loss(predict, x, labels, key=jax.random.key(0), where=where)

    return jax.value_and_grad(loss, (0, 1))(weights, x)


@pytest.mark.parametrize(
    ("labels", "where", "held"),
    [
        (np.where(LABELS == 1, np.arange(12), 0), np.ones(12, bool), 1.0),  # singletons
        (np.full(12, -1), np.ones(12, bool), 1.0),
        (LABELS, np.zeros(12, bool), 1.0),
        (LABELS, np.arange(12) < 9, 0.0),  # as the empty places of a memory are
        (LABELS, np.arange(12) < 9, np.nan),
        (np.where(np.arange(12) < 9, LABELS, -1), np.ones(12, bool), np.inf),  # background that is not finite
    ],
)
def test_what_contributes_nothing_makes_no_gradient_nan(labels, where, held):
    x = X.copy()
    x[9:] *= held
    value, gradients = of_directions(WEIGHTS, x, np.minimum(labels, 2) if labels.max() > 2 else labels, where)
    stacked = jax.vmap(of_directions, (None, 0, None, None))(WEIGHTS, np.stack([x, x]), labels, where)
    for found in (value, *gradients, *jax.tree.leaves(stacked)):
        assert np.isfinite(found).all()
    assert not np.any(gradients[1][~where | (labels < 0)])


@pytest.mark.long
@pytest.mark.parametrize("loss", [graph_convexity_loss, detour_loss])
def test_scale_has_no_part_over_the_range_of_the_type(loss):
    measure = jax.jit(jax.value_and_grad(lambda x: loss(x, LABELS, k=4)))
    value, gradient = measure(X)
    for scale in (1e-30, 1e-20, 1e20, 1e30):
        scaled = (X * np.float64(scale)).astype(np.float32)
        found, slope = measure(scaled)
        np.testing.assert_allclose(found, value, atol=1e-5)
        np.testing.assert_allclose(np.float64(slope) * scale, gradient, atol=1e-4)
    away = X.copy()
    away[11] = 1e20  # squares of all other distances vanish beside it
    found, slope = measure(away)
    assert np.isfinite(slope).all() and 0 <= found <= 1


@pytest.mark.parametrize(("wide", "apart", "away"), [(1.0, 1.0, 0.0), (1e-3, 1.0, 0.0), (1e-18, 0.0, 1.0)])
def test_neighbours_are_exact_in_far_clusters_and_beside_an_outlier(wide, apart, away):
    """Where products, rounded, tell nothing."""
    clusters = wide * np.concatenate([X, X + 1]) + apart * np.repeat([[0.0], [1.0]], 12, axis=0)
    x = np.concatenate([clusters, [[away] * 3]]).astype(np.float32)
    lengths = np.linalg.norm(x[:, None].astype(np.float64) - x, axis=-1) + np.diag([np.inf] * 25)
    found = np.asarray(jax.jit(partial(batch_graph, k=3))(x, np.ones(25, bool)))
    near = lengths <= np.sort(lengths, axis=1)[:, 2:3]
    np.testing.assert_array_equal(np.isfinite(found)[:24, :24], (near | near.T)[:24, :24])


@pytest.mark.long
def test_labels_mean_what_they_say():
    loss = partial(graph_convexity_loss, X, k=4)
    wanted = loss(LABELS)
    for kind in (np.int8, np.uint8, np.uint32, np.int64):
        np.testing.assert_array_equal(loss(LABELS.astype(kind)), wanted)
    np.testing.assert_array_equal(loss(LABELS + 2**31 - 3), wanted)
    for wrong in (LABELS + 2**32 * (LABELS > 0), LABELS - 100):
        for given in (loss, partial(detour_loss, X, k=4), of_classes):
            with pytest.raises(ValueError, match=r"labels must lie in 0\.\..* or be -1 for background"):
                given(wrong)
    with pytest.raises(ValueError, match="class 3 has no column in the logits, which have 3"):
        of_classes(LABELS + 1)


def of_classes(labels, **options):
    return euclidean_convexity_loss(lambda h: h @ WEIGHTS, X, labels, key=jax.random.key(0), **options)


NUMBERS = {
    "graph": lambda value: graph_convexity_loss(X, LABELS, k=4, temperature=value),
    "euclidean": lambda value: of_classes(LABELS, temperature=value),
    "memberships": lambda value: path_memberships(X, LABELS, num_classes=3, k=4, temperature=value),
    "hop": lambda value: path_memberships(X, LABELS - 1, num_classes=3, k=4, hop=value),
}


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.long(after=1)
def test_numbers_of_every_kind_are_checked(name):
    for wrong in (-1, 0.0, np.float32(-1), np.array(-1.0), jnp.float32(0), float("nan"), [1.0], "0.1", None, True):
        with pytest.raises(ValueError, match=r"must be.* above 0; got"):
            NUMBERS[name](wrong)
    if name != "memberships":  # all labelled: shares are one-hot whatever the temperature
        traced = jax.jit(NUMBERS[name])
        assert np.isnan(traced(-1.0)).any() and not np.isnan(traced(1.0)).any()


def test_the_coldest_temperature_is_that_of_the_shortest_paths():
    loss = jax.jit(lambda temperature: graph_convexity_loss(X, LABELS, k=4, temperature=temperature))
    np.testing.assert_allclose(loss(1e-30), loss(1e-4), atol=1e-4)


@pytest.mark.long
def test_probabilities_are_checked():
    shares = np.eye(3, dtype=np.float32)[LABELS]
    for wrong in (2 * shares, -shares, shares * np.nan):
        with pytest.raises(ValueError, match=r"probabilities must lie in \[0, 1\]"):
            graph_convexity_loss(X, wrong, k=4)
    where = np.arange(12) > 0
    odd = np.where(where[:, None], shares, np.nan)
    loss = jax.jit(lambda shares, where: graph_convexity_loss(X, shares, k=4, where=where))
    np.testing.assert_allclose(loss(odd, where), graph_convexity_loss(X, odd, k=4, where=where), rtol=1e-6)
    assert np.isnan(loss(odd, ~where | where)) and np.isnan(loss(2 * shares, where))


@pytest.mark.parametrize("x", [np.full((8, 4), 0.1), 0.3 + 1e-8 * RNG.normal(size=(8, 4)), np.zeros((8, 4))])
def test_collapsed_activations_are_not_pushed(x):
    gradient = jax.grad(lambda x: with_unit_gradient(jnp.sum)(x))(jnp.asarray(x, jnp.float32))
    assert not np.any(gradient)


def test_the_push_has_its_length_over_the_range_of_the_type():
    for scale in (1e-30, 1.0, 1e30):
        x = jnp.asarray(scale * X)
        gradient = jax.grad(lambda x, scale=scale: with_unit_gradient(lambda h: 1e-3 * jnp.sum(h / scale))(x))(x)
        spread = np.sqrt(np.sum((X - X.mean(0)).astype(np.float64) ** 2))
        np.testing.assert_allclose(np.linalg.norm(np.float64(gradient) * scale), 1 / spread, rtol=1e-4)


def test_a_batch_needs_a_class():
    draw = partial(balanced_batch, jax.random.key(0), num_classes=2, classes=2, points=2)
    with pytest.raises(ValueError, match="at least one class to draw from"):
        draw(np.full(5, -1))
    assert jax.jit(draw)(np.full(5, -1)).shape == (4,)
