"""Pairs against itertools.combinations; draws that are distinct, valid, unbiased, reproducible; points of segments."""

from __future__ import annotations

import itertools
import math

import chex
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis import strategies

from jaxconvex.paths.pairs import Pairs, same_class_pairs, segment_points

pytestmark = pytest.mark.check_shapes


def sets(pairs):
    """For each class the list of its valid unordered pairs."""
    rows = zip(*(np.asarray(p).tolist() for p in pairs), strict=True)
    return [[tuple(sorted((i, j))) for i, j, ok in zip(*row, strict=True) if ok] for row in rows]


def all_pairs(labels, num_classes):
    return [
        list(itertools.combinations(np.flatnonzero(np.asarray(labels) == c).tolist(), 2)) for c in range(num_classes)
    ]


@hypothesis.given(strategies.lists(strategies.integers(-1, 4), min_size=12, max_size=12))
@pytest.mark.long
def test_all_pairs_of_every_class_once(labels):
    labels = jnp.array(labels, jnp.int32)
    pairs = same_class_pairs(labels, num_classes=6)
    got = sets(pairs)
    assert [sorted(row) for row in got] == all_pairs(labels, 6)
    largest = int(np.bincount(np.asarray(labels) + 1, minlength=2)[1:].max())
    chex.assert_shape(pairs, (6, max(1, largest * (largest - 1) // 2)))


@pytest.mark.parametrize("size", (1, 2, 3, 4, 5, 64, 65))
@pytest.mark.long(after=3)
def test_all_pairs_of_classes_of_any_size(size):
    got = sets(same_class_pairs(jnp.zeros(size, jnp.int32), num_classes=1))[0]
    assert len(got) == math.comb(size, 2)
    assert sorted(got) == list(itertools.combinations(range(size), 2))


def test_background_pairs_with_nothing():
    pairs = same_class_pairs(jnp.full(8, -1, jnp.int32), num_classes=2)
    assert not pairs.valid.any()
    assert sets(same_class_pairs(jnp.array([-1, 0, -1, 0], jnp.int32), num_classes=1)) == [[(1, 3)]]


def test_a_large_max_pairs_means_all():
    labels = jnp.asarray(np.random.default_rng(0).integers(-1, 3, 20), jnp.int32)
    for most in (190, 10**6):
        got = sets(same_class_pairs(labels, num_classes=3, max_pairs=most))
        assert [sorted(row) for row in got] == all_pairs(labels, 3)


@hypothesis.given(strategies.integers(0, 2**31 - 1), strategies.sampled_from([1, 7, 30]))
def test_drawn_pairs_are_distinct_and_valid(seed, most):
    rng = np.random.default_rng(seed)
    labels = np.where(rng.random(40) < 0.6, 0, rng.integers(-1, 4, 40)).astype(np.int32)
    pairs = same_class_pairs(jnp.asarray(labels), num_classes=4, max_pairs=most, key=jax.random.key(seed))
    chex.assert_shape(pairs, (4, most))
    for got, possible in zip(sets(pairs), all_pairs(labels, 4), strict=True):
        assert len(got) == min(most, len(possible))
        assert len(set(got)) == len(got)
        assert set(got) <= set(possible)


def test_draws_are_reproducible_and_differ_between_keys_and_classes():
    labels = jnp.asarray(np.repeat([0, 1], 50), jnp.int32)

    def draw(seed):
        return same_class_pairs(labels, num_classes=2, max_pairs=40, key=jax.random.key(seed))

    chex.assert_trees_all_equal(draw(0), draw(0))
    first, second = sets(draw(0))
    assert set(first) != set(sets(draw(1))[0])
    assert set(first) != {(i - 50, j - 50) for i, j in second}


@pytest.mark.parametrize(("size", "most"), [(9, 5), (12, 20), (23, 40)])
@pytest.mark.long(after=1)
def test_draws_are_unbiased(size, most):
    """Over 3,000 keys every pair comes equally often, and so does every pair of pairs (chi-square, 5 sigma)."""
    labels = jnp.zeros(size, jnp.int32)
    keys = jax.random.split(jax.random.key(5), 3000)
    drawn = jax.jit(jax.vmap(lambda key: same_class_pairs(labels, num_classes=1, max_pairs=most, key=key)))(keys)
    low, high = np.minimum(drawn.first, drawn.second)[:, 0], np.maximum(drawn.first, drawn.second)[:, 0]
    total = math.comb(size, 2)
    number = (low * size + high).reshape(3000, most)
    _, number = np.unique(number, return_inverse=True)
    chosen = np.zeros((3000, total))
    np.put_along_axis(chosen, number.reshape(3000, most), 1, axis=1)
    assert (chosen.sum(1) == most).all()
    share = most / total
    count = chosen.sum(0)
    # sum (observed - expected)^2 / (variance of one), with total - 1 degrees of freedom: draws are without repeats
    chi_square = ((count - 3000 * share) ** 2).sum() / (3000 * share * (1 - share)) * (total - 1) / total
    assert abs(chi_square - (total - 1)) < 5 * math.sqrt(2 * (total - 1))
    together = chosen.T @ chosen / 3000
    expected = share * (most - 1) / (total - 1)
    off = together[~np.eye(total, dtype=bool)]
    assert abs(off - expected).max() < 6.5 * math.sqrt(expected * (1 - expected) / 3000)


def test_the_mean_over_drawn_pairs_is_unbiased():
    rng = np.random.default_rng(0)
    value = rng.random((30, 30)) + np.arange(30)[:, None] * np.arange(30)[None] / 400
    value = value + value.T
    labels = jnp.zeros(30, jnp.int32)
    keys = jax.random.split(jax.random.key(1), 400)
    drawn = jax.vmap(lambda key: same_class_pairs(labels, num_classes=1, max_pairs=25, key=key))(keys)
    means = value[np.asarray(drawn.first)[:, 0], np.asarray(drawn.second)[:, 0]].mean(1)
    truth = value[np.triu_indices(30, 1)].mean()
    assert abs(means.mean() - truth) < 4.5 * means.std(ddof=1) / 20


def test_a_class_of_two_hundred_thousand_pairs():
    got = sets(same_class_pairs(jnp.zeros(700, jnp.int32), num_classes=1, max_pairs=5000, key=jax.random.key(0)))[0]
    assert len(set(got)) == 5000
    assert all(0 <= i < j < 700 for i, j in got)
    gaps = np.array([j - i for i, j in got])
    expected = (700 + 1) / 3  # mean of j - i over all pairs
    assert abs(gaps.mean() - expected) < 5 * gaps.std() / math.sqrt(5000)


def test_pairs_of_the_largest_class_fit_in_32_bits():
    size = 92_000
    labels = jnp.zeros(size, jnp.int32)
    pairs = same_class_pairs(labels, num_classes=1, max_pairs=2000, key=jax.random.key(3))
    got = sets(pairs)[0]
    assert len(set(got)) == 2000
    assert all(0 <= i < j < size for i, j in got)
    assert abs(np.mean([i + j for i, j in got]) / size - 1) < 0.05
    assert max(j - i for i, j in got) > 0.9 * size


def test_jit_and_vmap_over_labelings():
    labelings = jnp.asarray(np.random.default_rng(0).integers(-1, 3, (4, 15)), jnp.int32)
    compiled = jax.jit(lambda labels: same_class_pairs(labels, num_classes=3))
    batched = jax.vmap(lambda labels: same_class_pairs(labels, num_classes=3))(labelings)
    for i, labels in enumerate(labelings):
        want = all_pairs(labels, 3)
        assert [sorted(row) for row in sets(compiled(labels))] == want
        assert [sorted(row) for row in sets(jax.tree.map(lambda a: a[i], batched))] == want  # noqa: B023


def test_a_draw_is_the_same_under_jit():
    labels = jnp.asarray(np.random.default_rng(0).integers(-1, 2, 60), jnp.int32)

    def draw(labels, key):
        return same_class_pairs(labels, num_classes=3, max_pairs=20, key=key)

    key = jax.random.key(8)
    eager, compiled = draw(labels, key), jax.jit(draw)(labels, key)
    assert sets(eager) == sets(compiled)
    assert isinstance(eager, Pairs)


@pytest.mark.check_shapes(False)
@pytest.mark.parametrize(
    ("labels", "options", "words"),
    [
        (np.zeros(10, int), {"num_classes": 1, "max_pairs": 5}, ["key", "45", "5"]),
        (np.zeros(10, int), {"num_classes": 1, "max_pairs": 0}, ["max_pairs", "0"]),
        (np.zeros(10, int), {"num_classes": 0}, ["num_classes", "0"]),
        (np.zeros(10), {"num_classes": 1}, ["labels", "integers", "float64"]),
        (np.array(["a", "b"]), {"num_classes": 2}, ["labels", "integers"]),
        (np.array([0, 3]), {"num_classes": 3}, ["labels", "num_classes", "3", "4"]),
        (np.array([0, -2]), {"num_classes": 3}, ["labels", "-2"]),
        (np.zeros((2, 3), int), {"num_classes": 1}, ["labels", "(2, 3)"]),
    ],
)
def test_bad_input_is_named(labels, options, words):
    with pytest.raises(ValueError) as error:
        same_class_pairs(labels, **options)
    for word in words:
        assert word in str(error.value)


# Segments


@pytest.mark.parametrize("shape", [(3,), (4, 5), ()])
@pytest.mark.parametrize("num_points", (1, 3, 10))
def test_segment_is_the_oracle(shape, num_points):
    x, y = np.random.default_rng(0).normal(size=(2, *shape))
    got = segment_points(jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32), num_points=num_points)
    chex.assert_shape(got, (num_points, *shape))
    np.testing.assert_allclose(got, oracles.segment(x, y, num_points), rtol=1e-5, atol=1e-6)


def test_segment_leaves_the_ends_out_and_is_the_same_backwards():
    x, y = jnp.array([0.0, 1.0]), jnp.array([11.0, 1.0])
    points = segment_points(x, y)
    np.testing.assert_allclose(np.sort(points[:, 0]), np.arange(1, 11), rtol=1e-6)
    np.testing.assert_allclose(segment_points(y, x), points[::-1], rtol=1e-6)


def test_segment_between_equal_points_stays_there():
    x = jnp.asarray(np.random.default_rng(0).normal(size=7), jnp.float32)
    np.testing.assert_allclose(segment_points(x, x), np.broadcast_to(x, (10, 7)), rtol=2e-7)


def test_segment_under_jit_vmap_and_in_float64():
    x, y = jnp.asarray(np.random.default_rng(0).normal(size=(2, 6, 3)), jnp.float32)
    batched = jax.jit(jax.vmap(segment_points))(x, y)
    chex.assert_trees_all_close(
        batched, jnp.stack([segment_points(a, b) for a, b in zip(x, y, strict=True)]), rtol=1e-5, atol=1e-6
    )
    with jax.enable_x64(True):
        assert segment_points(jnp.zeros(2, jnp.float64), jnp.ones(2, jnp.float64)).dtype == jnp.float64


@pytest.mark.check_shapes(False)
def test_segment_of_integers_and_halves_is_float32():
    for dtype in ("int32", "uint8", "float16", "bfloat16"):
        got = segment_points(np.array([0, 11]).astype(jnp.dtype(dtype)), np.array([11, 0]).astype(jnp.dtype(dtype)))
        assert got.dtype == jnp.float32
        np.testing.assert_allclose(got.sum(1), np.full(10, 11), rtol=1e-6)


@pytest.mark.check_shapes(False)
def test_segment_errors():
    with pytest.raises(ValueError, match=r"num_points.*0"):
        segment_points(np.zeros(2), np.ones(2), num_points=0)
    with pytest.raises(ValueError, match=r"shape.*\(2,\).*\(3,\)"):
        segment_points(np.zeros(2), np.ones(3))
