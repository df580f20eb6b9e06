"""The surrogate of Euclidean convexity: the losses of segments, partners, its limit and its gradients."""

from __future__ import annotations

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest

from jaxconvex import euclidean_convexity, euclidean_convexity_loss

KEY = jax.random.key(0)
D, CLASSES = 3, 4


@cache
def network(seed, d=D, classes=CLASSES):
    """A predict_fn on NumPy or JAX arrays, of a bent surface."""
    rng = np.random.default_rng(seed)
    w, v = rng.normal(size=(d, 16)), rng.normal(size=(16, classes))

    def predict(x):
        library = np if isinstance(x, np.ndarray) else jnp
        return library.tanh(x @ w.astype(x.dtype)) @ v.astype(x.dtype)

    return predict


def pairs_of_two(seed):
    """Every class has two points, one, or none: each partner is certain."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation([0, 0, 1, 1, 2, -1, -1, 3, 3])
    return rng.normal(size=(len(labels), D)).astype(np.float32), labels.astype(np.int32)


STATIC = ("predict_fn", "points", "kind", "num_points", "reduce", "return_num_pairs")
compiled = jax.jit(euclidean_convexity_loss, static_argnames=STATIC)


def loss_of(predict, x, labels, key=KEY, **options):
    return compiled(predict, x, labels, key=key, **options)


@pytest.mark.long(after=1)
@pytest.mark.parametrize("kind", ["cross_entropy", "probability"])
@pytest.mark.parametrize("num_points", [1, 4])
def test_is_the_oracles_number(kind, num_points):
    for seed, temperature in enumerate((0.1, 1.0, 3.0)):
        (x, labels), predict = pairs_of_two(seed), network(0)
        losses = oracles.segment_losses(predict, x, labels, num_points, kind, temperature)
        want, paired = np.nan_to_num(np.nansum(losses, axis=1)), ~np.isnan(losses).all(axis=1)
        options = {"points": "equal", "kind": kind, "num_points": num_points, "temperature": temperature}
        for x64, tolerance in ((False, 1e-5), (True, 1e-12)):
            with jax.enable_x64(x64):
                points = jnp.asarray(x, jnp.float64 if x64 else jnp.float32)
                got = loss_of(predict, points, labels, reduce=False, **options)
                np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)
                mean, count = loss_of(predict, points, labels, return_num_pairs=True, **options)
                assert mean.dtype == points.dtype and count == paired.sum() == 6
                np.testing.assert_allclose(mean, want[paired].mean(), rtol=tolerance)


def larger_batch():
    rng = np.random.default_rng(1)
    labels = rng.permutation([0] * 6 + [1] * 4 + [2] + [-1] * 3).astype(np.int32)
    return rng.normal(size=(len(labels), D)).astype(np.float32), labels


def test_partners_are_others_of_the_class_all_equally_likely():
    x, labels = larger_batch()
    predict, keys = network(1), jax.random.split(KEY, 4000)
    options = {"points": "equal", "kind": "probability", "num_points": 2, "reduce": False}
    got = np.asarray(jax.jit(jax.vmap(lambda key: loss_of(predict, x, labels, key, **options)))(keys))
    want = oracles.segment_losses(predict, x, labels, 2, "probability", 1.0)
    for i, label in enumerate(labels):
        partners = np.flatnonzero((labels == label) & (np.arange(len(x)) != i)) if label >= 0 else []
        if not len(partners):
            assert np.all(got[:, i] == 0)
            continue
        nearest = np.abs(got[:, i, None] - want[i, partners])
        assert nearest.min(axis=1).max() < 1e-5
        counts, mean = np.bincount(nearest.argmin(axis=1), minlength=len(partners)), len(keys) / len(partners)
        assert np.all(np.abs(counts - mean) < 5 * np.sqrt(mean))


def test_random_points_are_uniform():
    """With logits (h, 0) and temperature 1, the cross-entropy of a segment from 0 to 1 tells t; its mean is known."""
    x, labels = np.array([[0.0], [1.0]]), np.array([0, 0])
    losses = loss_of(
        lambda h: jnp.concatenate([jnp.log(h), jnp.log1p(-h)], axis=1), x, labels, num_points=20000, kind="probability"
    )
    assert abs(float(losses) - 0.5) < 5 / np.sqrt(12 * 20000)
    second = loss_of(
        lambda h: jnp.concatenate([2 * jnp.log(h), jnp.log1p(-(h**2))], axis=1),
        x,
        labels,
        num_points=20000,
        kind="probability",
    )
    assert abs(float(second) - 2 / 3) < 5 * 0.3 / np.sqrt(20000)


@pytest.mark.long
def test_goes_to_the_exact_score():
    for seed in range(4):
        (x, labels), predict = pairs_of_two(seed), network(seed)
        exact = float(euclidean_convexity(predict, x, labels, num_classes=CLASSES, num_points=10).micro)
        loss = loss_of(predict, x, labels, points="equal", kind="probability", num_points=10, temperature=1e-4)
        np.testing.assert_allclose(1 - loss, exact, rtol=0, atol=2e-3)
    x, labels = larger_batch()  # and over many draws, each class with the weight of its points
    score = euclidean_convexity(predict, x, labels, num_classes=CLASSES, num_points=10)
    options = {"points": "equal", "kind": "probability", "num_points": 10, "temperature": 1e-4}
    losses = jax.jit(jax.vmap(lambda key: loss_of(predict, x, labels, key, **options)))(jax.random.split(KEY, 2000))
    want = (6 * score.per_class[0] + 4 * score.per_class[1]) / 10
    assert 0.05 < want < 0.95
    np.testing.assert_allclose(1 - np.mean(losses), want, atol=5 * np.std(losses) / np.sqrt(2000) + 1e-3)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["cross_entropy", "probability"])
def test_gradients_are_the_slopes_of_the_oracle(kind):
    (x, labels), predict = pairs_of_two(3), network(3)
    direction = np.random.default_rng(0).normal(size=x.shape)
    want = oracles.slope(lambda x: np.nanmean(oracles.segment_losses(predict, x, labels, 3, kind, 0.7)), x, direction)
    assert abs(want) > 1e-3
    loss = jax.jit(partial(loss_of, predict, labels=labels, points="equal", kind=kind, num_points=3, temperature=0.7))
    for x64, rtol in ((False, 1e-4), (True, 1e-7)):
        with jax.enable_x64(x64):
            got = jax.grad(lambda x: loss(x))(jnp.asarray(x, jnp.float64 if x64 else jnp.float32))
            np.testing.assert_allclose(np.sum(np.asarray(got) * direction), want, rtol=rtol)
    hessian = np.reshape(jax.hessian(lambda x: loss(x))(jnp.asarray(x)), (x.size, x.size))
    assert np.isfinite(hessian).all() and np.abs(hessian).max() > 1e-3
    np.testing.assert_allclose(hessian, hessian.T, atol=1e-5)


def test_gradients_reach_the_network():
    (x, labels), w = pairs_of_two(0), jnp.asarray(np.random.default_rng(0).normal(size=(D, CLASSES)), jnp.float32)
    slope = jax.grad(lambda w: loss_of(lambda h: h @ w, x, labels))(w)
    assert np.abs(slope).max() > 1e-2


@pytest.mark.long
def test_eager_jit_and_vmap_are_one():
    predict, labels, keys = network(2), larger_batch()[1], jax.random.split(KEY, 3)
    xs = np.random.default_rng(0).normal(size=(3, len(labels), D)).astype(np.float32)
    loss = jax.value_and_grad(lambda x, key: euclidean_convexity_loss(predict, x, labels, key=key, num_points=2))
    many, one = jax.jit(jax.vmap(loss))(xs, keys), jax.jit(loss)
    for i in range(3):
        for a, b in zip(many, one(xs[i], keys[i]), strict=True):
            np.testing.assert_allclose(a[i], b, rtol=0, atol=1e-6)
    eager = euclidean_convexity_loss(predict, xs[0], labels, key=keys[0], num_points=2)
    np.testing.assert_allclose(eager, many[0][0], rtol=0, atol=1e-6)
    assert float(eager) != float(one(xs[0], keys[1])[0])


def test_whole_activations_and_pytrees():
    """Tokens and several arrays are interpolated alike, each with the t of its pair."""
    x, labels = pairs_of_two(1)
    tokens = np.random.default_rng(1).normal(size=(len(x), 5, D)).astype(np.float32)
    predict = network(1)
    seen = {}

    def rest(h):
        seen.update(jax.tree.map(lambda a: (a.shape, a.dtype), h))
        return predict(h["a"]) + predict(h["b"].mean(1))

    got = loss_of(rest, {"a": x, "b": tokens}, labels, num_points=3)
    assert seen["b"] == ((3 * len(x), 5, D), jnp.float32)
    same = loss_of(lambda h: predict(h[:, :D]) + predict(h[:, D:]), np.c_[x, tokens.mean(1)], labels, num_points=3)
    np.testing.assert_allclose(got, same, rtol=1e-5)


@pytest.mark.long
def test_types():
    (x, labels), predict = pairs_of_two(2), network(2)
    want = float(loss_of(predict, x, labels))
    for dtype, atol in (("bfloat16", 0.1), ("float16", 0.01)):
        narrow = jnp.asarray(x).astype(dtype)
        loss, slope = jax.value_and_grad(lambda x: loss_of(predict, x, labels))(narrow)
        assert loss.dtype == jnp.float32 and slope.dtype == narrow.dtype
        assert abs(float(loss) - want) < atol
        assert np.isfinite(np.asarray(slope, np.float32)).all() and np.abs(slope).max() > 0


def test_invariances():
    """Order of the points, and any affine map that the network undoes."""
    (x, labels), predict = pairs_of_two(3), network(3)
    rng = np.random.default_rng(0)
    order, matrix = rng.permutation(len(x)), rng.normal(size=(D, D))
    with jax.enable_x64(True):
        x = x.astype(np.float64)
        loss = partial(loss_of, points="equal", num_points=3)
        want = loss(predict, x, labels)
        np.testing.assert_allclose(loss(predict, x[order], labels[order]), want, rtol=1e-12)
        undo = np.linalg.inv(matrix)
        np.testing.assert_allclose(loss(lambda h: predict((h - 5) @ undo), x @ matrix + 5, labels), want, rtol=1e-9)


@partial(jax.jit, static_argnames="kind")
def with_slope(kind, x, labels, temperature, where):
    options = {"key": KEY, "kind": kind, "temperature": temperature, "where": where}
    return jax.value_and_grad(lambda x: euclidean_convexity_loss(network(0, classes=14), x, labels, **options))(x)


@pytest.mark.long(after=4)
@pytest.mark.parametrize("kind", ["cross_entropy", "probability"])
@pytest.mark.parametrize("name", oracles.awkward_batches())
def test_awkward_batches(name, kind):
    x, labels, where = oracles.awkward_batches()[name]
    predict = network(0, classes=len(x))
    for temperature in (1e-8, 1e-3, 1e3, 1e8):
        loss, slope = with_slope(kind, x, labels, temperature, where)
        assert np.isfinite(loss) and np.isfinite(slope).all()
        assert loss >= 0 and (kind == "cross_entropy" or loss <= 1 + 1e-6)
    counts = np.bincount(labels[where & (labels >= 0)])
    _, pairs = loss_of(predict, x, labels, where=where, return_num_pairs=True)
    assert pairs == counts[counts > 1].sum()
    assert pairs or loss == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_not_finite(bad):
    x, labels = larger_batch()
    predict, where = network(0), np.ones(len(x), bool)
    out = int(np.flatnonzero(labels == 0)[0])
    where[out] = False
    broken = x.copy()
    broken[out] = bad
    loss = jax.value_and_grad(lambda x, where: loss_of(lambda h: predict(h * 2), x, labels, where=where))
    for a, b in zip(loss(broken, where), loss(x, where), strict=True):
        np.testing.assert_array_equal(a, b)
    assert np.isnan(loss(np.where(labels[:, None] == 0, np.float32(np.nan), x), np.ones(len(x), bool))[0])


def test_a_class_without_a_logit_is_nan():
    x, labels = pairs_of_two(0)
    assert np.isnan(loss_of(network(0, classes=3), x, labels))


ERRORS = {
    "points must be one of 'random', 'equal'; got 'some'": {"points": "some"},
    "kind must be one of 'cross_entropy', 'probability'": {"kind": "hinge"},
    "num_points must be at least 1": {"num_points": 0},
    "temperature must be above 0; got 0": {"temperature": 0},
    "share their first axis": {"x": {"a": np.zeros((4, 2)), "b": np.zeros((3, 2))}},
    r"got shapes \[\(\)\]": {"x": np.float32(1)},
    r"labels must be integers, one a point: \(4,\); got float": {"labels": np.zeros(4, np.float32)},
    r"got int32 of shape \(3,\)": {"labels": np.zeros(3, np.int32)},
    "predict_fn must give logits": {"predict_fn": lambda h: h[:, 0]},
    r"here \(4, classes\); got shape \(1, 2\)": {"predict_fn": lambda h: h[:1]},
    r"where must be a boolean a point, shape \(4,\); got bool of shape \(3,\)": {"where": np.ones(3, bool)},
    "where must be a boolean a point": {"where": np.ones(4, np.float32)},
}


@pytest.mark.parametrize("message", ERRORS)
def test_errors(message):
    arguments = {"predict_fn": lambda h: h, "x": np.zeros((4, 2), np.float32), "labels": np.zeros(4, np.int32)}
    with pytest.raises(ValueError, match=message):
        euclidean_convexity_loss(**{**arguments, **ERRORS[message]}, key=KEY)


@pytest.mark.long
def test_some_steps_raise_the_exact_score_of_other_points():
    """A tiny network whose hidden layer has classes in several pieces; held-out points."""
    rng = np.random.default_rng(0)

    def spiral(n):
        labels = rng.integers(0, 2, n)
        angle = rng.uniform(0.5, 2.6, n) * np.pi
        radius = angle / 4
        x = np.c_[radius * np.cos(angle + np.pi * labels), radius * np.sin(angle + np.pi * labels)]
        return jnp.asarray(x + 0.03 * rng.normal(size=(n, 2)), jnp.float32), jnp.asarray(labels, jnp.int32)

    (x, labels), (others, their_labels) = spiral(200), spiral(80)
    sizes = [(2, 32), (32, 32), (32, 2)]
    start = [jnp.asarray(rng.normal(size=s) / np.sqrt(s[0]) * 1.5, jnp.float32) for s in sizes]
    start = [(w, jnp.zeros(w.shape[1])) for w in start]

    def hidden(parameters, x):
        return jnp.tanh(x @ parameters[0][0] + parameters[0][1])

    def rest(parameters, h):
        return jnp.tanh(h @ parameters[1][0] + parameters[1][1]) @ parameters[2][0] + parameters[2][1]

    optimiser = optax.adam(0.01)

    @partial(jax.jit, static_argnames="steps")
    def train(weight, steps=300):
        def step(carry, key):
            def loss(parameters):
                h = hidden(parameters, x)
                fit = optax.softmax_cross_entropy_with_integer_labels(rest(parameters, h), labels).mean()
                return fit + weight * loss_of(partial(rest, parameters), h, labels, key)

            parameters, state = carry
            updates, state = optimiser.update(jax.grad(loss)(parameters), state)
            return (optax.apply_updates(parameters, updates), state), None

        return jax.lax.scan(step, (start, optimiser.init(start)), jax.random.split(KEY, steps))[0][0]

    exact = []
    for weight in (0.0, 1.0):
        parameters = train(weight)
        h = hidden(parameters, others)
        exact.append(float(euclidean_convexity(partial(rest, parameters), h, their_labels, num_classes=2).micro))
        assert np.mean(np.argmax(rest(parameters, h), 1) == their_labels) > 0.8
    assert exact[0] < 0.985
    assert 1 - exact[1] < (1 - exact[0]) / 3
