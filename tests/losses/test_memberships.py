"""Shares in classes from the walks between labelled points, against dense float64 walks from the definition."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from jaxconvex.losses import path_memberships

CLASSES = 3


def sample(seed, n=60, d=2, labelled=12):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)).astype(np.float32)
    labels = np.full(n, -1)
    labels[rng.choice(n, labelled, replace=False)] = rng.integers(0, CLASSES, labelled)
    return x, labels


def oracle(x, labels, k, temperature, hop=0.1, nearness=0.5, num_classes=CLASSES):
    """Walks that stop on reaching t, by the inverse of a matrix without t's row; pairs one by one."""
    lengths = oracles.undirected(*oracles.neighbors(x, k))
    edge = np.isfinite(lengths)
    mean = lengths[edge].mean()
    w = np.where(edge, np.exp(-np.where(edge, lengths, 0) / (temperature * (mean or 1)) - hop), 0)
    degree = np.maximum(edge.sum(1), 1)
    w /= degree[:, None]
    n = len(x)
    free = np.linalg.inv(np.eye(n) - w)
    visits, total = np.zeros((n, num_classes)), np.zeros(num_classes)
    for t in np.flatnonzero(labels >= 0):
        absorbed = w.copy()
        absorbed[t] = 0
        z = np.linalg.inv(np.eye(n) - absorbed)
        for s in np.flatnonzero(labels == labels[t]):
            if free[s, t] > 0:
                of_pair = z[s] * z[:, t] / z[s, t] if s != t else free[s] * free[:, s] / free[s, s]
                scale = np.sqrt(degree[s] / degree[t]) * free[s, t] / free[t, t]
                visits[:, labels[t]] += scale**nearness * of_pair
                total[labels[t]] += scale**nearness
    visits /= np.where(total > 0, total, 1)
    visits[labels >= 0] = 0
    sums = visits.sum(1, keepdims=True)
    shares = np.divide(visits, sums, out=np.zeros_like(visits), where=sums > 0)
    shares[labels >= 0] = np.eye(num_classes)[labels[labels >= 0]]
    return shares, visits


@pytest.mark.parametrize(("hop", "nearness"), [(0.1, 0.5), (1.0, 0.0), (0.3, 1.0)])
@pytest.mark.parametrize("temperature", [0.1, 0.3, 3.0])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.long(after=6)
def test_shares_are_those_of_all_walks(seed, temperature, hop, nearness):
    x, labels = sample(seed)
    shares, visits = path_memberships(
        x,
        labels,
        num_classes=CLASSES,
        k=5,
        temperature=temperature,
        hop=hop,
        nearness=nearness,
        return_visits=True,
    )
    want, want_visits = oracle(x, labels, 5, temperature, hop, nearness)
    np.testing.assert_allclose(visits, want_visits, rtol=1e-3, atol=1e-15)
    clear = want_visits.max(1) > 1e-12
    assert clear.sum() > 15
    np.testing.assert_allclose(np.asarray(shares)[clear], want[clear], rtol=1e-3, atol=1e-5)


@pytest.mark.long
def test_leaving_one_out_is_unlabelling_it():
    x, labels = sample(8)
    options = {"num_classes": CLASSES, "k": 5}
    left_out = path_memberships(x, labels, leave_one_out=True, **options)
    for v in range(60):
        without = np.where(np.arange(60) == v, -1, labels)
        np.testing.assert_allclose(left_out[v], path_memberships(x, without, **options)[v], rtol=1e-3, atol=1e-5)


@pytest.mark.long
def test_long_chains_do_not_underflow():
    x = np.arange(300.0)[:, None] * [1.0, 0.0]
    labels = np.full(300, -1)
    labels[[50, 250]] = 0
    shares, visits = path_memberships(
        x, labels, num_classes=2, k=2, temperature=0.05, hop=1, nearness=0, return_visits=True
    )
    visits = visits * 2  # half of the pairs are of a point with itself
    np.testing.assert_allclose(shares[51:250, 0], 1)
    np.testing.assert_allclose(visits[60:240, 0], 1, rtol=3e-3)
    assert (visits[260:] == 0).all() and (shares[260:] == 0).all()  # too far off to be seen


@pytest.mark.long
def test_points_lie_where_the_paths_of_their_class_do():
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(2), 100)
    x = rng.normal(size=(200, 2)) * [2.0, 0.3] + 4 * np.stack([0 * y, y], 1)
    labels = np.where(np.arange(200) % 100 < 5, y, -1)
    shares = np.asarray(path_memberships(x, labels, num_classes=2, k=6))
    passed = shares.sum(1) > 0
    assert passed.mean() > 0.9
    assert (shares.argmax(1) == y)[passed].mean() > 0.95


@pytest.mark.long
def test_parts_of_the_graph_without_labels_have_no_shares():
    x = np.concatenate([np.arange(5.0), 100 + np.arange(5.0)])[:, None]
    labels = np.array([0, -1, 1, -1, 1, -1, -1, -1, -1, -1])
    shares, visits = path_memberships(x, labels, num_classes=3, k=1, temperature=0.3, return_visits=True)
    np.testing.assert_array_equal(shares[labels >= 0], np.eye(3)[labels[labels >= 0]])
    assert shares[3, 1] > 0.9 and (visits[:, 2] == 0).all()
    np.testing.assert_array_equal(shares[5:], 0)


@pytest.mark.long
def test_no_labels_and_one_label():
    x = sample(0)[0]
    options = {"num_classes": CLASSES, "return_visits": True}
    shares, visits = path_memberships(x, np.full(60, -1), **options)
    assert (shares == 0).all() and (visits == 0).all()
    shares, _ = path_memberships(x, np.where(np.arange(60) == 7, 2, -1), **options)
    np.testing.assert_allclose(shares, np.tile([0, 0, 1], (60, 1)), rtol=1e-6)


@pytest.mark.long
def test_under_jit_with_traced_labels():
    x, labels = sample(1)
    want = path_memberships(x, labels, num_classes=CLASSES, k=5)
    for bound in (None, 20):
        jitted = jax.jit(
            lambda x, labels, bound=bound: path_memberships(x, labels, num_classes=CLASSES, k=5, num_labelled=bound)
        )
        np.testing.assert_allclose(jitted(x, labels), want, atol=1e-6)


@pytest.mark.long
def test_points_that_do_not_count_are_as_if_they_were_not_there():
    x, labels = sample(2)
    where = np.arange(60) % 4 != 0
    shares = path_memberships(np.where(where[:, None], x, np.nan), labels, num_classes=CLASSES, k=5, where=where)
    np.testing.assert_allclose(
        shares[where], path_memberships(x[where], labels[where], num_classes=CLASSES, k=5), atol=1e-5
    )
    assert (shares[~where] == 0).all()


@pytest.mark.long
def test_invariances():
    x, labels = sample(3, d=3)
    options = {"num_classes": CLASSES, "k": 5}
    want = path_memberships(x, labels, **options)
    rng = np.random.default_rng(0)
    order = rng.permutation(60)
    np.testing.assert_allclose(path_memberships(x[order], labels[order], **options), want[order], atol=1e-5)
    turned = 7 * x @ np.linalg.qr(rng.normal(size=(3, 3)))[0].astype(np.float32) + 1
    np.testing.assert_allclose(path_memberships(turned, labels, **options), want, atol=1e-3)
    classes = np.where(labels >= 0, (labels + 1) % CLASSES, -1)
    np.testing.assert_allclose(path_memberships(x, classes, **options), jnp.roll(want, 1, axis=1), atol=1e-6)


@pytest.mark.parametrize("temperature", [1e-4, 0.1, 1e4])
def test_finite_for_duplicates_and_extreme_temperatures(temperature):
    x, labels = sample(4)
    x[::3] = x[0]
    for points in (x, np.zeros_like(x), jnp.asarray(x, jnp.bfloat16)):
        shares = path_memberships(points, labels, num_classes=CLASSES, k=5, temperature=temperature)
        assert np.isfinite(shares).all()
        total = np.asarray(shares.sum(1))
        np.testing.assert_allclose(total[total > 0], 1, rtol=1e-5)


def test_nan_is_not_hidden():
    x, labels = sample(5)
    x[3] = np.nan
    assert np.isnan(path_memberships(x, labels, num_classes=CLASSES, k=5)).all()


def test_no_gradient_passes():
    x, labels = sample(6)
    gradient = jax.grad(lambda x: jnp.sum(path_memberships(x, labels, num_classes=CLASSES, k=5) ** 2))(jnp.asarray(x))
    assert (gradient == 0).all()


def test_errors_teach():
    x, labels = sample(7)
    for arguments, words in (
        ((x, labels.astype(float)), "integers"),
        ((x, labels[:-1]), "one entry a point"),
        ((x, labels + 1), "num_classes"),
        ((x[0], labels), "shape"),
    ):
        with pytest.raises(ValueError, match=words):
            path_memberships(*arguments, num_classes=CLASSES)
    for options, words in (({"k": 60}, "k"), ({"temperature": 0}, "above 0"), ({"num_labelled": 3}, "raise it")):
        with pytest.raises(ValueError, match=words):
            path_memberships(x, labels, num_classes=CLASSES, **options)
