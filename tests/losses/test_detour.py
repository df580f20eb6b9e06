"""The detour loss: parity with Dijkstra on the graph and within the class, gradients, and whatever a batch may be."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from loss_cases import GRID, exact_scores_of_moved_points

from jaxconvex import detour_loss, graph_convexity, knn_graph


@partial(jax.jit, static_argnames="k")
def compiled(x, labels, where, k):
    """((loss, number of pairs), gradient)."""
    loss = partial(detour_loss, k=k, where=where, return_num_pairs=True)
    return jax.value_and_grad(lambda x: loss(x, labels), has_aux=True)(x)


def measure(x, labels, where=None, k=3):
    where = np.ones(len(x), bool) if where is None else where
    return compiled(jnp.asarray(x), jnp.asarray(labels, jnp.int32), where, k=k)


def batch(seed, n=14, d=3, classes=3):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)).astype(np.float32), rng.integers(-1, classes, n), rng.random(n) < 0.8


@pytest.mark.long(after=2)
@pytest.mark.parametrize(("n", "k", "d"), [(14, 3, 3), (2, 1, 3), (9, 8, 2), (40, 6, 7), (33, 2, 2)])
def test_is_the_oracles_number(n, k, d):
    for seed in range(5):
        x, labels, where = batch(seed, n, d, 2 if n < 40 else 4)
        for mask in (None, where):
            want = oracles.detour(x, labels, k, mask)
            np.testing.assert_allclose(measure(x, labels, mask, k)[0], want, rtol=0, atol=5e-7)
            if n == 14:
                with jax.enable_x64(True):
                    got = measure(x.astype(np.float64), labels, mask, k)[0]
                    assert got[0].dtype == jnp.float64
                    np.testing.assert_allclose(got, want, rtol=0, atol=1e-14)


@pytest.mark.long
def test_is_zero_where_the_exact_score_is_one():
    ones = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(14, 3)).astype(np.float32)
        labels = (x[:, 0] > rng.choice([-9, -1.2, 0])).astype(np.int32)
        exact = float(graph_convexity(knn_graph(x, k=3), labels, num_classes=2).micro)
        loss = float(measure(x, labels)[0][0])
        assert (exact == 1) == (loss < 1e-6)
        ones += exact == 1
    assert 3 < ones < 37


@pytest.mark.long
def test_by_hand():
    x = np.array([[0, 0], [1, 0], [2, 0], [1, 1], [9, 9], [9, 8]], np.float32)
    loss, pairs = measure(x, [0, 1, 0, 0, 2, 2], k=2)[0]
    inside = 2 * np.sqrt(2)
    np.testing.assert_allclose(loss, (1 - 2 / inside) / 4, rtol=1e-6)
    assert pairs == 4
    apart = np.array([[0.0], [1.0], [2.1], [9.0]], np.float32)
    assert measure(apart, [0, 1, 0, -1], k=1)[0][0] == 1  # no path inside


def test_gradients_are_the_slopes_of_the_oracle():
    for seed in (3, 5):
        x, labels, where = batch(seed, classes=1)
        direction = np.random.default_rng(100 + seed).normal(size=x.shape)
        want = oracles.slope(lambda x, y=labels, w=where: oracles.detour(x, y, 3, w)[0], x, direction)
        assert abs(want) > 1e-3
        with jax.enable_x64(True):
            got = measure(x.astype(np.float64), labels, where)[1]
            np.testing.assert_allclose(np.sum(np.asarray(got) * direction), want, rtol=1e-6)
        np.testing.assert_allclose(measure(x, labels, where)[1], got, rtol=0, atol=1e-6)


@pytest.mark.long
def test_second_derivatives():
    x, labels, where = batch(5, classes=1)
    direction, step = np.random.default_rng(0).normal(size=x.shape), 1e-6
    gradient = jax.grad(lambda x: detour_loss(x, labels, k=3, where=where))
    with jax.enable_x64(True):
        got = jax.jit(lambda x, v: jax.jvp(gradient, (x,), (v,))[1])(x.astype(np.float64), direction)
        ends = [np.asarray(measure(x + sign * step * direction, labels, where)[1]) for sign in (1, -1)]
    want = (ends[0] - ends[1]) / (2 * step)
    assert np.abs(want).max() > 1e-3
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-6 * np.abs(want).max() + 1e-8)
    around = np.array(
        [[0, 0], [1, 0.1], [2, 0], [1, 1]], np.float32
    )  # the second point is on the way, not of the class
    square = np.reshape(jax.jit(jax.hessian(lambda x: detour_loss(x, [0, 1, 0, 0], k=2)))(around), (8, 8))
    assert np.isfinite(square).all() and np.abs(square).max() > 1e-3
    np.testing.assert_allclose(square, square.T, rtol=0, atol=1e-5)


def test_eager_jit_and_vmap_are_one():
    xs, labels, wheres = (np.stack(a) for a in zip(*map(batch, range(3)), strict=True))
    many = jax.jit(jax.vmap(jax.value_and_grad(lambda x, y, w: detour_loss(x, y, k=3, where=w))))(xs, labels, wheres)
    for i in range(3):
        (loss, _), slope = measure(xs[i], labels[i], wheres[i])
        np.testing.assert_allclose(many[0][i], loss, rtol=0, atol=1e-6)
        np.testing.assert_allclose(many[1][i], slope, rtol=0, atol=1e-6)
    np.testing.assert_allclose(detour_loss(xs[2], labels[2], k=3, where=wheres[2]), loss, rtol=0, atol=1e-6)


def test_bfloat16_is_computed_in_float32():
    x, labels, where = batch(5, classes=1)
    narrow = jnp.asarray(x).astype(jnp.bfloat16)
    (loss, _), slope = measure(narrow, labels, where)
    (want, _), want_slope = measure(narrow.astype(jnp.float32), labels, where)
    assert loss.dtype == jnp.float32 and slope.dtype == jnp.bfloat16
    np.testing.assert_allclose(loss, want, rtol=1e-6)
    assert np.abs(want_slope).max() > 1e-3
    np.testing.assert_allclose(np.asarray(slope, np.float32), want_slope, rtol=0.01, atol=1e-6)


@pytest.mark.long
def test_invariances():
    x, labels, where = batch(5, classes=1)
    rng = np.random.default_rng(0)
    order, rotation = rng.permutation(len(x)), np.linalg.qr(rng.normal(size=(3, 3)))[0]
    with jax.enable_x64(True):
        x = x.astype(np.float64)
        want = measure(x, labels, where)[0]
        assert 0.01 < want[0] < 0.99
        for points, classes, mask in (
            (x[order], labels[order], where[order]),
            (x @ rotation + 5, labels, where),
            (x * 1e-3, labels, where),
            (x, np.where(labels < 0, -1, 7 - labels), where),
        ):
            np.testing.assert_allclose(measure(points, classes, mask)[0], want, rtol=0, atol=1e-12)


@pytest.mark.long(after=3)
@pytest.mark.parametrize("name", oracles.awkward_batches())
def test_awkward_batches(name):
    x, labels, where = oracles.awkward_batches()[name]
    (loss, pairs), slope = measure(x, labels, where)
    assert np.isfinite(slope).all()
    assert -1e-6 <= loss <= 1 + 1e-6
    assert pairs == sum(m * (m - 1) // 2 for m in np.bincount(labels[where & (labels >= 0)]))
    assert pairs or loss == 0
    if name not in ("an outlier", "an enormous outlier", "duplicates"):  # whose neighbours float32 does not tell apart
        np.testing.assert_allclose(loss, oracles.detour(x, labels, 3, where)[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_not_finite(bad):
    x, labels, where = batch(5)
    out = int(np.flatnonzero(~where)[0])
    broken = x.copy()
    broken[out] = bad
    got, want = (jax.tree.leaves(measure(a, labels, where)) for a in (broken, x))
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b)
    assert np.abs(want[-1]).max() > 0 and np.all(np.asarray(got[-1])[out] == 0)
    assert np.isnan(measure(broken, labels)[0][0])


def test_errors():
    x = np.zeros((4, 2), np.float32)
    for message, labels, options in (
        ("labels must be integers, one a point", np.zeros((4, 2), np.float32), {}),  # no probabilities here
        (r"one a point: \(4,\); got int64 of shape \(3,\)", np.zeros(3, int), {}),
        ("k must be between 1 and 3 for a batch of 4 points; got 4", np.zeros(4, int), {"k": 4}),
        ("where must be a boolean a point", np.zeros(4, int), {"where": np.ones(3, bool)}),
    ):
        with pytest.raises(ValueError, match=message):
            detour_loss(x, labels, **{"k": 2, **options})
    with pytest.raises(ValueError, match="one row a point"):
        detour_loss(x[0], np.zeros(4, int), k=2)


@pytest.mark.long
def test_some_steps_raise_the_exact_score():
    before, after = exact_scores_of_moved_points(partial(detour_loss, k=4))
    assert before < 0.8
    assert after > before + 0.1


@settings(settings.get_profile("fewer"))
@given(**GRID)
def test_ties_and_duplicates(points, labels, where):
    (loss, pairs), slope = measure(np.array(points, np.float32), np.array(labels), np.array(where))
    assert -1e-6 <= loss <= 1 + 1e-6
    assert pairs or loss == 0
    assert np.isfinite(slope).all()
