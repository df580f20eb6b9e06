"""Distances against float64 differences; their properties as metrics; gradients at zero distance; bad input."""

from __future__ import annotations

import chex
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis import strategies

from jaxconvex.neighbors import distances

pytestmark = pytest.mark.check_shapes
METRICS = {name: getattr(distances, name) for name in oracles.METRICS}
TRIANGULAR = ("euclidean", "cosine", "manhattan")
seeds = strategies.integers(0, 2**32 - 1)


def points(seed, n=7, d=5, scale=1.0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(n, d)) * scale, jnp.float32)


@pytest.mark.long(after=2)
@pytest.mark.parametrize("metric", METRICS)
@hypothesis.given(seeds, strategies.sampled_from([(1, 1, 1), (7, 4, 5), (3, 9, 40)]))
def test_pairwise_is_the_oracle(metric, seed, shape):
    n, m, d = shape
    x, y = points(seed, n, d), points(seed + 1, m, d)
    got = distances.pairwise(x, y, metric=metric)
    chex.assert_shape(got, (n, m))
    np.testing.assert_allclose(got, oracles.pairwise(x, y, metric), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        distances.pairwise(x, metric=metric), oracles.pairwise(x, metric=metric), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("metric", METRICS)
def test_pairwise_in_float64(metric):
    with jax.enable_x64(True):
        x = jnp.asarray(np.random.default_rng(0).normal(size=(9, 6)))
        got = distances.pairwise(x, metric=metric)
        assert got.dtype == jnp.float64
        np.testing.assert_allclose(got, oracles.pairwise(x, metric=metric), rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("metric", METRICS)
def test_a_name_a_function_and_a_pair_agree(metric):
    x = points(3)
    by_name = distances.pairwise(x, metric=metric)
    np.testing.assert_array_equal(by_name, distances.pairwise(x, metric=METRICS[metric]))
    single = METRICS[metric](x[0], x[1])
    chex.assert_shape(single, ())
    np.testing.assert_allclose(single, by_name[0, 1], rtol=1e-6)


def test_a_metric_of_ones_own_is_lifted():
    x = points(4)
    got = distances.pairwise(x, metric=lambda a, b: jnp.max(jnp.abs(a - b)))
    want = np.abs(np.asarray(x)[:, None] - np.asarray(x)[None]).max(-1)
    np.testing.assert_allclose(got, want, rtol=1e-6)


@pytest.mark.parametrize("metric", TRIANGULAR)
@hypothesis.given(seeds, strategies.sampled_from([1e-3, 1.0, 1e3]))
def test_metric_axioms(metric, seed, scale):
    got = np.asarray(distances.pairwise(points(seed, scale=scale), metric=metric), np.float64)
    largest = got.max()
    assert (np.diag(got) <= 1e-6 * largest).all()
    assert (got >= 0).all()
    np.testing.assert_allclose(got, got.T, rtol=1e-6)
    assert (got[:, :, None] <= got[:, None, :] + got.T[None, :, :] + 1e-6 * largest).all()  # d(i,k) <= d(i,j) + d(j,k)


def test_squared_distances_break_the_triangle_inequality():
    got = np.asarray(distances.pairwise(jnp.array([[0.0], [1.0], [2.0]]), metric="squared_euclidean"))
    assert got[0, 2] > got[0, 1] + got[1, 2]


@hypothesis.given(seeds, strategies.floats(1e-3, 1e3), strategies.floats(1e-3, 1e3))
def test_cosine_is_the_chord_between_directions(seed, a, b):
    x, y = points(seed, n=2)
    cos = np.dot(np.float64(x), np.float64(y)) / np.linalg.norm(np.float64(x)) / np.linalg.norm(np.float64(y))
    np.testing.assert_allclose(distances.cosine(a * x, b * y), np.sqrt(2 - 2 * cos), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(distances.cosine(x, -a * x), 2, rtol=1e-6)


def test_cosine_of_long_vectors_does_not_overflow():
    x = jnp.array([1e30, 0.0]), jnp.array([1e30, 1e30])
    np.testing.assert_allclose(distances.cosine(*x), np.sqrt(2 - np.sqrt(2)), rtol=1e-5)


def test_cosine_of_a_zero_vector_is_nan():
    assert jnp.isnan(distances.cosine(jnp.zeros(3), jnp.ones(3)))


@pytest.mark.parametrize("metric", ("euclidean", "squared_euclidean", "manhattan"))
@pytest.mark.parametrize("offset", (0, 300, 1e5))
def test_near_duplicates_keep_their_digits(metric, offset):
    """The expanded form |x|^2 + |y|^2 - 2 x.y is off by up to 360% here."""
    rng = np.random.default_rng(0)
    base = rng.normal(size=(10, 64)) + offset
    x = np.concatenate([base, base + 1e-2 * rng.normal(size=base.shape)]).astype(np.float32)
    got = np.asarray(distances.pairwise(jnp.asarray(x), metric=metric))
    want = oracles.pairwise(x, metric=metric)
    apart = ~np.eye(20, dtype=bool)
    np.testing.assert_allclose(got[apart], want[apart], rtol=1e-5)


def test_one_point_far_away():
    x = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
    x[5] *= 1e7
    np.testing.assert_allclose(distances.pairwise(jnp.asarray(x)), oracles.pairwise(x), rtol=1e-5)


@pytest.mark.check_shapes(False)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "int64", "bool", "float16", "bfloat16", "float64"])
def test_other_types_are_computed_in_float32(metric, dtype):
    rng = np.random.default_rng(1)
    x = np.maximum(rng.integers(0, 120, (6, 4)), 1).astype(jnp.dtype(dtype))
    got = distances.pairwise(x, metric=metric)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, oracles.pairwise(x.astype(np.float64), metric=metric), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(got, distances.pairwise(jnp.asarray(x.astype(np.float32)), metric=metric))


@pytest.mark.check_shapes(False)
def test_lists_are_taken():
    np.testing.assert_array_equal(distances.pairwise([[0, 0], [3, 4]]), [[0, 5], [5, 0]])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.long(after=1)
def test_gradient_is_finite_between_equal_points(metric):
    x = points(0)[0]
    chex.assert_tree_all_finite(jax.grad(METRICS[metric], argnums=(0, 1))(x, x))
    repeated = jnp.stack([x, x, 2 * x, -x])
    chex.assert_tree_all_finite(jax.grad(lambda x: distances.pairwise(x, metric=metric).sum())(repeated))


@pytest.mark.parametrize("metric", ("euclidean", "squared_euclidean", "manhattan"))
def test_gradient_is_zero_at_zero_distance(metric):
    for x in (jnp.zeros(3), jnp.ones(3)):
        np.testing.assert_array_equal(jax.grad(METRICS[metric])(x, x), np.zeros(3))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.long(after=2)
def test_gradient_is_the_difference_quotient(metric):
    with jax.enable_x64(True):
        x, y = (jnp.asarray(row) for row in np.random.default_rng(5).normal(size=(2, 4)))
        step = 1e-6 * np.eye(4)
        quotient = [(METRICS[metric](x + e, y) - METRICS[metric](x - e, y)) / 2e-6 for e in step]
        np.testing.assert_allclose(jax.grad(METRICS[metric])(x, y), quotient, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("metric", METRICS)
def test_jit_vmap_and_eager_agree(metric):
    layers = jnp.stack([points(seed) for seed in range(3)])

    def function(x):
        return distances.pairwise(x, metric=metric)

    eager = jnp.stack([function(x) for x in layers])
    chex.assert_trees_all_close(jnp.stack([jax.jit(function)(x) for x in layers]), eager, rtol=1e-5, atol=1e-7)
    chex.assert_trees_all_close(jax.vmap(function)(layers), eager, rtol=1e-5, atol=1e-7)


def test_constants_inside_jit():
    x, y = points(0), points(1)
    got = jax.jit(lambda y: distances.pairwise(x, y))(y)
    np.testing.assert_allclose(got, oracles.pairwise(x, y), rtol=1e-5)


def test_isometry_scale_and_order_of_rows():
    rng = np.random.default_rng(2)
    x = points(2, n=8, d=4)
    rotation = jnp.asarray(np.linalg.qr(rng.normal(size=(4, 4)))[0], jnp.float32)
    want = distances.pairwise(x)
    np.testing.assert_allclose(distances.pairwise(x @ rotation + 3), want, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(distances.pairwise(x * 2**10), want * 2**10)
    order = rng.permutation(8)
    np.testing.assert_array_equal(distances.pairwise(x[order]), want[order][:, order])


def test_eager_is_jit_at_forty_thousand_points():
    """jax 0.10.x on CPU gets a vmapped 3 x 3 matrix-vector product wrong above 32,768 rows (jax issue 39103)."""
    rng = np.random.default_rng(0)
    x, mixing = rng.normal(size=(40_000, 3)).astype(np.float32), rng.normal(size=(3, 3)).astype(np.float32)

    def mahalanobis(a, b):
        return jnp.sqrt(jnp.sum(jnp.square(mixing @ (a - b))))

    mixed = oracles.pairwise(x @ mixing.T, x[:4] @ mixing.T)
    for metric, want in (("euclidean", oracles.pairwise(x, x[:4])), (mahalanobis, mixed)):
        eager = distances.pairwise(jnp.asarray(x), jnp.asarray(x[:4]), metric=metric)
        compiled = jax.jit(lambda x: distances.pairwise(x, x[:4], metric=metric))(x)  # noqa: B023
        np.testing.assert_allclose(eager, want, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(compiled, want, rtol=1e-4, atol=1e-5)


@pytest.mark.check_shapes(False)
@pytest.mark.parametrize(
    ("x", "y", "metric", "words"),
    [
        (np.zeros(3), None, "euclidean", ["x", "(3,)"]),
        (np.zeros((2, 3, 4)), None, "euclidean", ["x", "(2, 3, 4)"]),
        (np.zeros((2, 3)), np.zeros(3), "euclidean", ["y", "(3,)"]),
        (np.zeros((2, 3)), np.zeros((2, 4)), "euclidean", ["3", "4"]),
        (np.zeros((2, 3)), None, "euklid", ["metric", "euklid", "euclidean", "cosine", "manhattan"]),
        (np.array([[0.0, 1], [np.nan, 1], [2, np.inf]]), None, "euclidean", ["x", "2 of 3", "1, 2"]),
        (np.zeros((2, 3)), np.array([[0.0, 0, -np.inf]]), "euclidean", ["y", "1 of 1", "0"]),
        (np.zeros((0, 3)), None, "euclidean", ["x", "(0, 3)"]),
        (np.zeros((3, 0)), None, "euclidean", ["x", "(3, 0)"]),
        (np.array([["a", "b"]]), None, "euclidean", ["x", "<U1"]),
        (np.array([[1j, 2]]), None, "euclidean", ["x", "complex"]),
        (np.array([[None, 2]], dtype=object), None, "euclidean", ["x", "object"]),
    ],
)
def test_bad_input_is_named(x, y, metric, words):
    with pytest.raises(ValueError) as error:
        distances.pairwise(x, y, metric=metric)
    for word in words:
        assert word in str(error.value)


def test_nan_under_jit_shows_in_the_result():
    x = points(0).at[2, 1].set(jnp.nan)
    for metric in METRICS:
        got = np.asarray(jax.jit(lambda x: distances.pairwise(x, metric=metric))(x))  # noqa: B023
        assert np.isnan(got[2]).all() and np.isnan(got[:, 2]).all()
