"""The surrogate of graph convexity: what walks visit, its limit, its gradients, and whatever a batch may be."""

from __future__ import annotations

from functools import partial

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from loss_cases import GRID, exact_scores_of_moved_points

from jaxconvex import graph_convexity, graph_convexity_loss, knn_graph
from jaxconvex.losses import walks
from jaxconvex.losses.batch_graph import batch_graph

TEMPERATURES = [1e-3, 0.01, 0.03, 0.1, 0.3, 1.0, 10.0, 1e3]


@partial(jax.jit, static_argnames="k")
def compiled(x, labels, temperature, where, k):
    """((loss, number of pairs), gradient): one compilation serves most tests, for compiling takes nearly all the time."""
    options = {"k": k, "temperature": temperature, "where": where, "return_num_pairs": True}
    return jax.value_and_grad(lambda x: graph_convexity_loss(x, labels, **options), has_aux=True)(x)


def measure(x, labels, temperature=0.1, where=None, k=3):
    where = np.ones(len(x), bool) if where is None else where
    return compiled(jnp.asarray(x), jnp.asarray(labels), float(temperature), where, k=k)


def value(*arguments, **options):
    return measure(*arguments, **options)[0][0]


def slope_of(*arguments, **options):
    return np.asarray(measure(*arguments, **options)[1])


def batch(seed, n=14, d=3, classes=3):
    """Points, labels with background, probabilities, and a mask."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(-1, classes, n).astype(np.int32)
    shares = rng.dirichlet([0.3] * classes, n) * rng.choice([1, 0.7, 0], (n, 1), p=[0.7, 0.2, 0.1])
    return rng.normal(size=(n, d)).astype(np.float32), labels, shares.astype(np.float32), rng.random(n) < 0.8


def wide(*arrays):
    """Arrays in float64; inside jax.enable_x64."""
    return [jnp.asarray(np.asarray(a, np.float64)) for a in arrays]


@pytest.mark.parametrize("temperature", [0.3, 1.0, 10.0])
def test_the_oracles_agree(temperature):
    """The linear systems of the absorbing chain against a list of all walks."""
    for n, k, least, atol in ((5, 1, 1e-9, 2e-5), (5, 2, 1e-7, 2e-3), (4, 3, 1e-7, 2e-3)):
        costs = oracles.walk_costs(oracles.knn_adjacency(batch(n + k, n)[0], k), temperature)
        listed, solved = oracles.enumerated_walk_visits(costs, least), oracles.walk_visits(costs)
        off = ~np.eye(n, dtype=bool)
        np.testing.assert_allclose(solved[off], listed[off], rtol=0, atol=atol)


@pytest.mark.long(after=1)
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_is_the_oracles_number(temperature):
    atol = 2e-5 if temperature < 0.01 else 3e-6  # lengths in temperatures are rounded to float32
    for seed in range(3):
        x, labels, shares, where = batch(seed)
        for membership in (labels, shares):
            for mask in (None, where):
                want = oracles.graph_loss(x, membership, 3, temperature, mask)
                np.testing.assert_allclose(measure(x, membership, temperature, mask)[0], want, rtol=1e-6, atol=atol)
                with jax.enable_x64(True):
                    got = measure(*wide(x), labels if membership is labels else wide(shares)[0], temperature, mask)[0]
                    assert got[0].dtype == jnp.float64
                    np.testing.assert_allclose(got, want, rtol=0, atol=1e-12)


@pytest.mark.long
@pytest.mark.parametrize(("n", "k", "d"), [(2, 1, 3), (5, 1, 2), (9, 8, 2), (31, 6, 7)])
def test_other_shapes(n, k, d):
    x, labels, _, where = batch(n, n, d)
    labels = labels if n > 2 else np.zeros(2, np.int32)
    for temperature in (1e-3, 0.1, 2):
        for mask in (None, where):
            want = oracles.graph_loss(x, labels, k, temperature, mask)
            got, slope = measure(x, labels, temperature, mask, k=k)
            np.testing.assert_allclose(got, want, rtol=1e-6, atol=2e-5 if temperature < 0.01 else 3e-6)
            assert np.isfinite(slope).all()


@pytest.mark.long
@pytest.mark.parametrize("seed", range(4))
def test_long_walks_in_float32(seed):
    """Weights of walks down to the smallest numbers: what counts of them must not underflow."""
    rng = np.random.default_rng(seed)
    x = (rng.normal(size=(25, 3)) * np.exp(rng.normal(size=(25, 1)))).astype(np.float32)
    labels = rng.integers(0, 3, 25).astype(np.int32)
    for temperature in (0.04, 0.06, 0.08, 0.1, 0.12, 0.15, 0.2):
        want, _ = oracles.graph_loss(x, labels, 2, temperature)
        np.testing.assert_allclose(value(x, labels, temperature, k=2), want, rtol=0, atol=3e-6)


@partial(jax.jit, static_argnames="branch")
def through(branch, x, labels, temperature):
    """The sum over pairs of visits outside over visits, by one of the two ways, and its gradient."""

    def score(x):
        n = len(x)
        wanted = (labels[:, None] == labels) & (labels >= 0) & ~jnp.eye(n, dtype=bool)
        log_w = walks.log_weights(batch_graph(x, jnp.ones(n, bool), 4), temperature)
        outside = (labels[:, None] != labels)[None].astype(x.dtype)
        some, total = getattr(walks, branch)(walks._all_walks(walks._weights(log_w)), log_w, outside, wanted)
        return jnp.sum(some[0] / jnp.maximum(total, 1)) / jnp.sum(wanted)

    return jax.value_and_grad(score)(x)


@pytest.mark.long
def test_both_ways_agree():
    """Products and exponentials, where both can be had: values and gradients, beside the oracle's."""
    for seed, temperature in enumerate((0.2, 0.5, 2.0)):
        x, labels, _, _ = batch(seed)
        direction = np.random.default_rng(seed).normal(size=x.shape)

        def loss(x, labels=labels, temperature=temperature):
            return oracles.graph_loss(x, labels, 4, temperature)[0]

        want, want_slope = loss(x), oracles.slope(loss, x, direction)
        assert abs(want_slope) > 1e-3
        for x64, atol, rtol in ((False, 2e-6, 1e-3), (True, 1e-12, 1e-6)):
            with jax.enable_x64(x64):
                points = jnp.asarray(x, jnp.float64 if x64 else jnp.float32)
                ways = [through(way, points, labels, temperature) for way in ("_by_products", "_by_exponentials")]
                for got, slope in ways:
                    np.testing.assert_allclose(got, want, rtol=0, atol=atol)
                    np.testing.assert_allclose(np.sum(np.asarray(slope) * direction), want_slope, rtol=rtol)
                np.testing.assert_allclose(ways[0][1], ways[1][1], rtol=0, atol=10 * atol)


@pytest.mark.long
def test_one_hot_probabilities_are_labels():
    for seed in range(3):
        x, labels, _, where = batch(seed)
        shares = (labels[:, None] == np.arange(3)).astype(np.float32)
        for mask in (None, where):
            for got, want in zip(*(jax.tree.leaves(measure(x, m, 0.1, mask)) for m in (shares, labels)), strict=True):
                np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)


def clouds(seed, n=60):
    """Random data of several kinds."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    angle = rng.uniform(0, 3 * np.pi, n)
    centres = rng.normal(size=(3, 6))
    return {
        "blobs": (centres[labels] + rng.normal(size=(n, 6)), labels),
        "apart": (9 * centres[labels] + rng.normal(size=(n, 6)), labels),
        "noise": (rng.normal(size=(n, 2)), labels),
        "wide": (rng.normal(size=(n, 200)), labels),
        "heavy tails": (rng.standard_t(2, size=(n, 4)), labels),
        "a spiral": (
            np.c_[angle * np.cos(angle), angle * np.sin(angle)] + 0.1 * rng.normal(size=(n, 2)),
            angle // np.pi,
        ),
        "relu": (np.maximum(rng.normal(size=(n, 20)) + centres[labels] @ rng.normal(size=(6, 20)), 0), labels),
        "background": (rng.uniform(size=(n, 3)), labels - 1),
    }


@pytest.mark.long
@pytest.mark.parametrize("kind", clouds(0))
def test_goes_to_the_exact_score(kind):
    """Edges of noise in 200 dimensions are all of nearly one length: what tells them apart is a colder temperature."""
    for seed in range(3):
        x, labels = clouds(seed)[kind]
        x = np.pad(x, ((0, 0), (0, 200 - x.shape[1]))).astype(np.float32)  # one shape for all kinds
        labels = labels.astype(np.int32)
        exact = float(graph_convexity(knn_graph(x, k=6), labels, num_classes=3).micro)
        for temperature, most in ((0.03, 0.05 if kind == "wide" else 0.02), (0.01, 0.02), (0.001, 0.005)):
            assert abs(1 - float(value(x, labels, temperature, k=6)) - exact) < most


@pytest.mark.long(after=1)
@pytest.mark.parametrize("temperature", [0.1, 0.3, 1.0])
def test_gradients_are_the_slopes_of_the_oracle(temperature):
    x, labels, shares, where = batch(1)
    direction = np.random.default_rng(0).normal(size=x.shape)
    inner = direction * (shares > 0)  # the derivative by a probability of 0 has one side only
    with jax.enable_x64(True):
        points, soft = wide(x, shares)
        hard = slope_of(points, labels, temperature, where)
        slopes = [slope_of(points, soft, temperature, where), slope_of_shares(points, soft, temperature, where)]

    def oracle(x, membership):
        return oracles.graph_loss(x, membership, 3, temperature, where)[0]

    for got, along, function, at in (
        (hard, direction, lambda x: oracle(x, labels), x),
        (slopes[0], direction, lambda x: oracle(x, shares), x),
        (np.asarray(slopes[1]), inner, lambda p: oracle(x, p), shares),
    ):
        want = oracles.slope(function, at, along)
        assert abs(want) > 1e-5
        np.testing.assert_allclose(np.sum(got * along), want, rtol=1e-5)


@jax.jit
def slope_of_shares(x, shares, temperature, where):
    return jax.grad(lambda p: graph_convexity_loss(x, p, k=3, temperature=temperature, where=where))(shares)


@pytest.mark.long
def test_gradients_in_float32_are_those_in_float64():
    for seed, temperature in enumerate((0.1, 0.1, 0.3, 1.0, 10.0)):
        x, labels, _, where = batch(seed)
        single = slope_of(x, labels, temperature, where)
        with jax.enable_x64(True):
            double = slope_of(*wide(x), labels, temperature, where)
        np.testing.assert_allclose(single, double, rtol=0, atol=1e-4 * np.abs(double).max() + 3e-6)


@pytest.mark.long
def test_second_derivatives():
    """Forward over reverse against the slope of the gradient, and the whole Hessian: finite, symmetric."""
    x, labels, _, where = batch(2)
    direction, step = np.random.default_rng(0).normal(size=x.shape), 1e-6

    def gradient(x, temperature, where):
        return jax.grad(lambda x: graph_convexity_loss(x, labels[: len(x)], k=3, temperature=temperature, where=where))(
            x
        )

    with jax.enable_x64(True):
        points, along = wide(x, direction)
        got = jax.jit(lambda x, v: jax.jvp(lambda x: gradient(x, 0.3, where), (x,), (v,))[1])(points, along)
        ends = [slope_of(points + sign * step * along, labels, 0.3, where) for sign in (1, -1)]
    want = (ends[0] - ends[1]) / (2 * step)
    assert np.abs(want).max() > 1e-3
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())
    hessian = jax.jit(jax.jacfwd(lambda x, temperature: gradient(x, temperature, None)))
    for temperature in (0.001, 0.3):
        square = np.reshape(hessian(x[:6], temperature), (18, 18))
        assert np.isfinite(square).all()
        np.testing.assert_allclose(square, square.T, rtol=0, atol=1e-3 * np.abs(square).max() + 1e-5)
    assert np.abs(square).max() > 1e-3


@pytest.mark.long
def test_eager_jit_and_vmap_are_one():
    xs, labels, wheres = (np.stack(a) for a in zip(*[(b[0], b[1], b[3]) for b in map(batch, range(3))], strict=True))

    @jax.jit
    def of_sum(xs, temperature):
        def losses(xs):
            one = partial(graph_convexity_loss, k=3, temperature=temperature)
            many = jax.vmap(lambda x, y, w: one(x, y, where=w))(xs, labels, wheres)
            return jnp.sum(many), many

        return jax.grad(losses, has_aux=True)(xs)

    for temperature in (0.001, 0.3):  # by exponentials, by products
        slopes, losses = of_sum(xs, temperature)
        for i in range(3):
            (loss, _), slope = measure(xs[i], labels[i], temperature, wheres[i])
            np.testing.assert_allclose(losses[i], loss, rtol=0, atol=2e-6)
            np.testing.assert_allclose(slopes[i], slope, rtol=0, atol=1e-3 * np.abs(slope).max() + 1e-6)
    eager = graph_convexity_loss(xs[0], labels[0], k=3, temperature=0.3, where=wheres[0])
    np.testing.assert_allclose(eager, losses[0], rtol=0, atol=2e-6)


@pytest.mark.long
def test_bfloat16_is_computed_in_float32():
    x, labels, _, where = batch(1)
    narrow = jnp.asarray(x).astype(jnp.bfloat16)
    (loss, _), slope = measure(narrow, labels, 1.0, where)
    (want, _), want_slope = measure(narrow.astype(jnp.float32), labels, 1.0, where)
    assert loss.dtype == jnp.float32 and slope.dtype == jnp.bfloat16
    np.testing.assert_allclose(loss, want, rtol=1e-6)
    assert np.abs(want_slope).max() > 1e-5
    np.testing.assert_allclose(np.asarray(slope, np.float32), want_slope, rtol=0.01, atol=1e-8)


def test_invariances():
    """Order of the points, isometries, scale and names of the classes."""
    x, labels, shares, where = batch(4)
    rng = np.random.default_rng(0)
    order, rotation = rng.permutation(len(x)), np.linalg.qr(rng.normal(size=(3, 3)))[0]
    with jax.enable_x64(True):
        points, soft = wide(x, shares)
        for membership, renamed in ((labels, np.where(labels < 0, -1, 7 - labels)), (soft, soft[:, ::-1])):
            want = value(points, membership, 0.2, where)
            others = {
                "order": value(points[order], membership[order], 0.2, where[order]),
                "isometry": value(points @ rotation + 5, membership, 0.2, where),
                "scale": value(points * 1e-3, membership, 0.2, where),
                "names": value(points, renamed, 0.2, where),
            }
            for name, other in others.items():
                np.testing.assert_allclose(other, want, rtol=0, atol=1e-11, err_msg=name)


@pytest.mark.long(after=3)
@pytest.mark.parametrize("name", oracles.awkward_batches())
def test_awkward_batches(name):
    x, labels, where = oracles.awkward_batches()[name]
    shares = np.clip(labels[:, None] == np.arange(3), 0.01, 0.98).astype(np.float32)
    for temperature in (1e-8, 1e-3, 0.1, 1e3, 1e8):
        for membership in (labels, shares):
            (loss, pairs), slope = measure(x, membership, temperature, where)
            assert np.isfinite(slope).all(), temperature
            assert -1e-6 <= loss <= 1 + 1e-6
            assert pairs > 0 or loss == 0
            if membership is labels:
                assert pairs == sum(m * (m - 1) // 2 for m in np.bincount(labels[where & (labels >= 0)]))
    if name not in ("an outlier", "an enormous outlier", "duplicates"):  # whose neighbours float32 does not tell apart
        want, _ = oracles.graph_loss(x, labels, 3, 0.1, where)
        np.testing.assert_allclose(value(x, labels, 0.1, where), want, rtol=0, atol=3e-6)


def test_by_hand():
    x = np.array([[0.0], [1.0], [100.0], [101.5]], np.float32)
    assert value(x, np.array([0, 1, 0, 1]), k=1) == 1  # no pair is linked
    assert value(x, np.array([0, 0, 1, 1]), k=1) == 0  # every pair is an edge
    np.testing.assert_allclose(value(x, np.zeros(4, int), k=1), 4 / 6, rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_not_finite(bad):
    x, labels, shares, where = batch(5)
    out = int(np.flatnonzero(~where)[0])
    broken = x.copy()
    broken[out] = bad
    for membership in (labels, shares):
        for temperature in (0.001, 0.5):
            got, want = (jax.tree.leaves(measure(a, membership, temperature, where)) for a in (broken, x))
            for a, b in zip(got, want, strict=True):
                np.testing.assert_array_equal(a, b)
            assert np.all(np.asarray(got[-1])[out] == 0)
            assert np.isnan(value(broken, membership, temperature))
        assert np.abs(got[-1]).max() > 0


ERRORS = {
    "x must have one row a point": {"x": np.zeros((4, 2, 2))},
    "labels must be integers, one a point": {"labels": np.zeros(3, int)},
    "or probabilities": {"labels": np.zeros(4)},
    "probabilities must have one row a point": {"labels": np.zeros((3, 2), np.float32)},
    "where must be a boolean a point": {"where": np.ones(4)},
    r"got bool of shape \(3,\)": {"where": np.ones(3, bool)},
    "k must be between 1 and 3 for a batch of 4 points; got 4": {"k": 4},
    "k must be between 1 and 3": {"k": 0},
    "k must be a whole number": {"k": 2.0},
    "temperature must be above 0; got 0": {"temperature": 0},
    "temperature must be above 0; got -1": {"temperature": -1.0},
    "temperature must be above 0; got nan": {"temperature": float("nan")},
}


@pytest.mark.parametrize("message", ERRORS)
def test_errors(message):
    arguments = {"x": np.zeros((4, 2), np.float32), "labels": np.zeros(4, int), "k": 2, **ERRORS[message]}
    with pytest.raises(ValueError, match=message):
        graph_convexity_loss(arguments.pop("x"), arguments.pop("labels"), **arguments)


@pytest.mark.long
def test_some_steps_raise_the_exact_score():
    before, after = exact_scores_of_moved_points(partial(graph_convexity_loss, k=4, temperature=0.2))
    assert before < 0.8
    assert after > before + 0.15


@settings(settings.get_profile("fewer"))
@given(**GRID, exponent=st.floats(-6, 6))
def test_ties_and_duplicates(points, labels, where, exponent):
    """On a grid of 27 places: in [0, 1], finite, and a loss of labels that hold no pair is 0."""
    x, labels, where = np.array(points, np.float32), np.array(labels, np.int32), np.array(where)
    (loss, pairs), slope = measure(x, labels, 10.0**exponent, where)
    assert -1e-5 <= loss <= 1 + 1e-5
    assert pairs or loss == 0
    assert np.isfinite(slope).all()
