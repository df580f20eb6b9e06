"""Nearest neighbours against a full sort by (distance, index): ties, offsets, outliers, near-duplicates, bad input."""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis import given
from hypothesis import strategies as st
from processes import on_devices
from scipy.spatial import cKDTree

from jaxconvex.neighbors import KNNGraph, distances, epsilon_graph, knn_graph, search
from jaxconvex.neighbors import products as candidates

pytestmark = pytest.mark.check_shapes
METRICS = ("euclidean", "cosine", "manhattan")


def assert_neighbors(x, graph, k, metric="euclidean", rtol=1e-5):
    """The indices of the full sort where float64 tells distances apart, and right distances everywhere."""
    indices, got = np.asarray(graph.indices), np.asarray(graph.distances)
    chex.assert_shape([indices, got], (len(x), k))
    assert graph.indices.dtype == jnp.int32
    all_distances = oracles.pairwise(x, metric=metric)
    want_indices, want = oracles.neighbors(x, k, metric)
    chosen = np.take_along_axis(all_distances, indices, axis=1)
    assert (np.diff(got, axis=1) >= 0).all(), "nearest first"
    assert (indices != np.arange(len(x))[:, None]).all(), "never the point itself"
    assert all(len(set(row)) == k for row in indices.tolist()), "no neighbour twice"
    np.testing.assert_allclose(got, chosen, rtol=rtol, atol=1e-30 if metric != "cosine" else 1e-6, err_msg="distances")
    # An order that float32 cannot tell apart is no error; the distances at every rank are the oracle's all the same.
    np.testing.assert_allclose(
        chosen, want, rtol=1e-6, atol=1e-30 if metric != "cosine" else 1e-6, err_msg="neighbours"
    )
    return (indices == want_indices).mean()


@pytest.mark.long(after=1)
@pytest.mark.parametrize("metric", ("euclidean", "manhattan"))
@pytest.mark.parametrize(("n", "d", "k"), [(2, 1, 1), (3, 2, 2), (20, 1, 5), (40, 3, 10), (40, 16, 39)])
def test_exact_order_where_float32_has_no_doubt(n, d, k, metric):
    """Includes many equal distances: coordinates are multiples of 1/64, so the order by (distance, index) is exact."""
    for seed, spread in itertools.product(range(10), (2, 8, 128)):
        x = oracles.exact_points(np.random.default_rng(seed), n, d, spread)
        graph = knn_graph(jnp.asarray(x), k=k, metric=metric)
        indices, lengths = oracles.neighbors(x, k, metric)
        np.testing.assert_array_equal(graph.indices, indices, err_msg=f"seed {seed}, spread {spread}")
        np.testing.assert_allclose(graph.distances, lengths, rtol=1e-6)


@pytest.mark.long(after=2)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("n", "d", "k"), [(30, 2, 3), (60, 200, 15)])
def test_random_points(n, d, k, metric):
    for seed in range(10):
        x = np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)
        assert assert_neighbors(x, knn_graph(jnp.asarray(x), k=k, metric=metric), k, metric) > 0.99


@pytest.mark.long(after=1)
@pytest.mark.parametrize("side", (2, 3))
def test_ties_on_a_grid_go_to_the_lowest_index(side):
    x = np.array(list(itertools.product(range(side + 2), repeat=side)), np.float32)
    for k in (1, 6):
        for order in range(3):
            rows = np.random.default_rng(order).permutation(len(x))
            for offset in (0, 300):
                graph = knn_graph(jnp.asarray(x[rows] + offset), k=k)
                np.testing.assert_array_equal(graph.indices, oracles.neighbors(x[rows], k)[0])


@pytest.mark.long
def test_more_ties_than_candidates():
    """A centre with 200 equally near points: none may be lost to the rounding of a matrix product."""
    d = 100
    star = np.concatenate([np.zeros((1, d)), np.eye(d), -np.eye(d)]).astype(np.float32)
    for offset in (0.0, 0.3, 300.0):
        graph = knn_graph(jnp.asarray(star + np.float32(offset)), k=10)
        exact = oracles.neighbors(star + np.float32(offset), 10)[0]
        np.testing.assert_array_equal(graph.indices[0], exact[0])
    np.testing.assert_array_equal(knn_graph(jnp.asarray(star), k=10).indices, oracles.neighbors(star, 10)[0])


@pytest.mark.long
def test_binary_features():
    x = np.random.default_rng(0).integers(0, 2, (300, 12)).astype(np.float32)
    for metric in ("euclidean", "manhattan"):
        np.testing.assert_array_equal(
            knn_graph(jnp.asarray(x), k=10, metric=metric).indices, oracles.neighbors(x, 10, metric)[0]
        )


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("value", (0.0, 0.1, -300.3))
@pytest.mark.long(after=2)
def test_all_points_equal(value, metric):
    if metric == "cosine" and value == 0:
        pytest.skip("the zero vector has no direction")
    x = jnp.full((50, 7), value, jnp.float32)
    graph = knn_graph(x, k=3, metric=metric)
    want = [[j for j in range(4) if j != i][:3] for i in range(50)]
    np.testing.assert_array_equal(graph.indices, want)
    np.testing.assert_array_equal(graph.distances, np.zeros((50, 3)))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.long(after=1)
def test_duplicates_are_neighbours_at_distance_zero(metric):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 6)).astype(np.float32)
    x = np.concatenate([x, x, x])[rng.permutation(90)]
    graph = knn_graph(jnp.asarray(x), k=4, metric=metric)
    same = (x[:, None] == x[np.asarray(graph.indices)]).all(-1)
    np.testing.assert_array_equal(same.sum(1), np.full(90, 2))
    np.testing.assert_array_equal(np.asarray(graph.distances)[same], 0.0)
    assert (np.asarray(graph.distances)[~same] > 0).all()
    indices = np.asarray(graph.indices)
    assert (indices[:, 0] < indices[:, 1]).all()


@pytest.mark.long(after=1)
@pytest.mark.parametrize("n", (60, 700))
@pytest.mark.parametrize("d", (3, 64))
def test_an_offset_costs_no_digit(n, d):
    """Uncentred float32 products leave 67% of the rows right at an offset of 300 a dimension."""
    x = (np.random.default_rng(1).normal(size=(n, d)) + 300).astype(np.float32)
    assert assert_neighbors(x, knn_graph(jnp.asarray(x), k=10), 10) > 0.99


@pytest.mark.parametrize("n", (60, 1100))
@pytest.mark.long
def test_one_point_ten_million_spreads_away(n):
    """It drags the mean along, so that centring by the mean would leave an offset of 1e7/n."""
    x = np.random.default_rng(2).normal(size=(n, 5)).astype(np.float32)
    x[7] = 1e7 * x[7] / np.linalg.norm(x[7])
    graph = knn_graph(jnp.asarray(x), k=10)
    others = np.delete(np.arange(n), 7)
    assert (np.asarray(graph.indices)[others] != 7).all()
    assert assert_neighbors(x, graph, 10) > 0.98  # float32 cannot tell the point's own distances apart


@pytest.mark.parametrize("gap", (1e2, 1e4, 1e6))
def test_tight_clusters_far_apart(gap):
    """Classes collapsed to their means: every norm is large against the distances that count."""
    rng = np.random.default_rng(3)
    centres = gap * rng.normal(size=(5, 8))
    x = (centres[rng.integers(0, 5, 400)] + rng.normal(size=(400, 8))).astype(np.float32)
    assert_neighbors(x, knn_graph(jnp.asarray(x), k=10), 10)


@pytest.mark.parametrize("noise", (1e-3, 1e-5))
def test_near_duplicates(noise):
    rng = np.random.default_rng(4)
    x = rng.normal(size=(40, 32))
    x = np.concatenate([x + noise * rng.normal(size=x.shape) for _ in range(5)]).astype(np.float32)
    assert_neighbors(x, knn_graph(jnp.asarray(x), k=6), 6)


@pytest.mark.long
@pytest.mark.parametrize(("n", "d", "k"), [(1100, 60, 15)])
def test_many_blocks(n, d, k):
    x = np.random.default_rng(5).normal(size=(n, d)).astype(np.float32)
    assert assert_neighbors(x, knn_graph(jnp.asarray(x), k=k), k) > 0.99


def test_no_matrix_of_all_distances_in_memory():
    points = jax.ShapeDtypeStruct((30_000, 16), jnp.float32)
    compiled = jax.jit(lambda x: knn_graph(x, k=10)).lower(points).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 30_000**2 * 4 / 10


@pytest.mark.long
def test_eager_is_jit_is_a_tree_at_forty_thousand_points():
    """jax 0.10.x on CPU gets a vmapped 3 x 3 product wrong above 32,768 rows (jax issue 39103)."""
    x = np.random.default_rng(6).normal(size=(40_000, 3)).astype(np.float32)
    eager = knn_graph(jnp.asarray(x), k=3)
    compiled = jax.jit(lambda x: knn_graph(x, k=3))(x)
    want, indices = cKDTree(x.astype(np.float64)).query(x.astype(np.float64), k=4)
    for graph in (eager, compiled):
        np.testing.assert_allclose(graph.distances, want[:, 1:], rtol=1e-4, atol=1e-7)
        assert (np.asarray(graph.indices) == indices[:, 1:]).mean() > 0.9999


def test_float64_tells_apart_what_float32_cannot():
    with jax.enable_x64(True):
        rng = np.random.default_rng(7)
        x = 1 + 1e-9 * rng.normal(size=(50, 4))
        graph = knn_graph(jnp.asarray(x), k=5)
        assert graph.distances.dtype == jnp.float64
        np.testing.assert_array_equal(graph.indices, oracles.neighbors(x, 5)[0])
        np.testing.assert_allclose(graph.distances, oracles.neighbors(x, 5)[1], rtol=1e-12)


@pytest.mark.check_shapes(False)
@pytest.mark.parametrize("dtype", ["uint8", "int8", "int32", "float16", "bfloat16", "float64"])
@pytest.mark.long(after=2)
def test_other_types_are_computed_in_float32(dtype):
    x = np.random.default_rng(8).integers(0, 120, (40, 5)).astype(jnp.dtype(dtype))
    graph = knn_graph(x, k=6)
    assert graph.distances.dtype == jnp.float32
    np.testing.assert_array_equal(graph.indices, oracles.neighbors(x.astype(np.float64), 6)[0])
    np.testing.assert_allclose(graph.distances, oracles.neighbors(x.astype(np.float64), 6)[1], rtol=1e-6)
    chex.assert_trees_all_equal(graph, knn_graph(jnp.asarray(x), k=6))


def test_large_and_small_units():
    """Squares of these would overflow or vanish in float32."""
    x = np.random.default_rng(9).normal(size=(40, 4)).astype(np.float32)
    for exponent in (-80, -20, 20, 80):
        scaled = knn_graph(jnp.asarray(x * np.float32(2.0) ** exponent), k=5)
        plain = knn_graph(jnp.asarray(x), k=5)
        np.testing.assert_array_equal(scaled.indices, plain.indices)
        np.testing.assert_array_equal(scaled.distances, plain.distances * np.float32(2.0) ** exponent)


def test_isometry_and_order_of_rows():
    rng = np.random.default_rng(10)
    x = rng.normal(size=(60, 5))
    rotation = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    plain = knn_graph(jnp.asarray(x, jnp.float32), k=8)
    moved = knn_graph(jnp.asarray(x @ rotation + 2, jnp.float32), k=8)
    np.testing.assert_allclose(moved.distances, plain.distances, rtol=1e-5)
    assert (np.asarray(moved.indices) == np.asarray(plain.indices)).mean() > 0.99
    order = rng.permutation(60)
    shuffled = knn_graph(jnp.asarray(x[order], jnp.float32), k=8)
    np.testing.assert_array_equal(order[np.asarray(shuffled.indices)], np.asarray(plain.indices)[order])


def test_cosine_ignores_lengths():
    rng = np.random.default_rng(11)
    x = rng.normal(size=(50, 6)).astype(np.float32)
    stretched = x * 2.0 ** rng.integers(-10, 10, (50, 1)).astype(np.float32)
    plain, other = (knn_graph(jnp.asarray(a), k=5, metric="cosine") for a in (x, stretched))
    np.testing.assert_array_equal(plain.indices, other.indices)
    np.testing.assert_allclose(plain.distances, other.distances, rtol=1e-5)


def test_a_metric_of_ones_own():
    x = np.random.default_rng(12).normal(size=(40, 3)).astype(np.float32)
    graph = knn_graph(jnp.asarray(x), k=4, metric=lambda a, b: jnp.max(jnp.abs(a - b)))
    chebyshev = np.abs(x[:, None] - x[None]).max(-1) + np.where(np.eye(40), np.inf, 0)
    np.testing.assert_array_equal(graph.indices, np.argsort(chebyshev, axis=1, kind="stable")[:, :4])


@pytest.mark.long(after=1)
@pytest.mark.parametrize("metric", METRICS)
def test_jit_vmap_and_eager_agree(metric):
    layers = jnp.asarray(np.random.default_rng(13).normal(size=(3, 30, 4)), jnp.float32)

    def function(x):
        return knn_graph(x, k=4, metric=metric)

    eager = [function(x) for x in layers]
    for found in (jax.jit(jax.vmap(function))(layers), jax.lax.map(function, layers)):
        for i in range(3):
            np.testing.assert_array_equal(found.indices[i], eager[i].indices)
            np.testing.assert_allclose(found.distances[i], eager[i].distances, rtol=1e-5)


def test_constants_inside_jit():
    x = jnp.asarray(np.random.default_rng(13).normal(size=(30, 4)), jnp.float32)
    got = jax.jit(lambda scale: scale * knn_graph(x, k=4).distances)(2.0)
    np.testing.assert_allclose(got, 2 * knn_graph(x, k=4).distances, rtol=1e-6)


@pytest.mark.long
@pytest.mark.parametrize("metric", METRICS)
def test_gradients_of_distances(metric):
    """Finite between duplicates, and elsewhere those of the distances to the same neighbours."""
    x = np.random.default_rng(14).normal(size=(20, 3)).astype(np.float32)
    x[1] = x[0]
    x = jnp.asarray(x)
    indices = knn_graph(x, k=4, metric=metric).indices

    def plain(x):
        function = getattr(distances, metric)
        return jnp.sum(jax.vmap(lambda a, row: jax.vmap(lambda b: function(a, b) ** 2)(x[row]))(x, indices))

    got = jax.grad(lambda x: jnp.sum(knn_graph(x, k=4, metric=metric).distances ** 2))(x)
    chex.assert_tree_all_finite(got)
    assert (np.abs(got) > 0).any()
    np.testing.assert_allclose(got, jax.grad(plain)(x), rtol=1e-4, atol=1e-5)
    chex.assert_tree_all_finite(jax.grad(lambda x: knn_graph(x, k=4, metric=metric).distances.sum())(x))


# Epsilon graph


def lists(graph):
    rows = zip(graph.indices.tolist(), graph.distances.tolist(), strict=True)
    return [[(j, d) for j, d in zip(*row, strict=True) if j >= 0] for row in rows]


@pytest.mark.long(after=1)
@pytest.mark.parametrize("metric", METRICS)
def test_epsilon_graph_is_the_oracle(metric):
    for seed, radius in itertools.product(range(2), (0.3, 1.0)):
        x = np.random.default_rng(seed).normal(size=(30, 3)).astype(np.float32)
        graph = epsilon_graph(jnp.asarray(x), radius=radius, metric=metric)
        adjacency = oracles.epsilon_adjacency(x, radius, metric)
        indices, lengths = np.asarray(graph.indices), np.asarray(graph.distances)
        assert graph.indices.shape[1] == max(1, np.isfinite(adjacency).sum(1).max())
        np.testing.assert_array_equal(indices < 0, np.isinf(lengths))
        for i, row in enumerate(lists(graph)):
            assert sorted(j for j, _ in row) == np.flatnonzero(np.isfinite(adjacency[i])).tolist()
            np.testing.assert_allclose(
                [d for _, d in row], sorted(adjacency[i][np.isfinite(adjacency[i])]), rtol=1e-5, atol=1e-6
            )
        assert (np.diff(np.where(indices < 0, np.finfo(np.float32).max, lengths), axis=1) >= 0).all()


@pytest.mark.long
def test_epsilon_graph_takes_the_radius_itself():
    x = jnp.asarray(list(itertools.product(range(4), repeat=2)), jnp.float32)
    graph = epsilon_graph(x, radius=1.0)
    assert graph.indices.shape == (16, 4)
    assert int((graph.indices >= 0).sum()) == 48  # 24 edges, from either end


def test_epsilon_graph_without_edges_or_with_all():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(12, 2)), jnp.float32)
    none = epsilon_graph(x, radius=1e-6)
    assert (np.asarray(none.indices) == -1).all() and np.isposinf(none.distances).all()
    whole = epsilon_graph(x, radius=1e6)
    np.testing.assert_array_equal(whole.indices, knn_graph(x, k=11).indices)


@pytest.mark.check_shapes(False)
@pytest.mark.long
def test_epsilon_graph_under_jit():
    x = jnp.asarray(np.random.default_rng(1).normal(size=(25, 3)), jnp.float32)
    eager = epsilon_graph(x, radius=1.2, max_degree=24)
    compiled = jax.jit(lambda x, radius: epsilon_graph(x, radius=radius, max_degree=24))(x, 1.2)
    np.testing.assert_array_equal(eager.indices, compiled.indices)
    assert lists(eager) == lists(epsilon_graph(x, radius=1.2))


def test_epsilon_graph_with_too_few_columns_gives_no_wrong_number():
    x = jnp.asarray(np.random.default_rng(1).normal(size=(25, 3)), jnp.float32)
    assert np.isnan(jax.jit(lambda x: epsilon_graph(x, radius=5.0, max_degree=2))(x).distances).any()


@pytest.mark.check_shapes(False)
@pytest.mark.parametrize("radius", (0, -1.0, float("nan")))
def test_epsilon_graph_refuses_a_radius(radius):
    with pytest.raises(ValueError, match="radius"):
        epsilon_graph(np.zeros((3, 2)), radius=radius)


# Bad input


@pytest.mark.check_shapes(False)
@pytest.mark.parametrize(
    ("x", "options", "words"),
    [
        (np.zeros((5, 2)), {"k": 0}, ["k", "0", "between 1 and 4"]),
        (np.zeros((5, 2)), {"k": -3}, ["k", "-3"]),
        (np.zeros((5, 2)), {"k": 5}, ["k", "5", "4"]),
        (np.zeros((5, 2)), {}, ["k", "10", "4"]),
        (np.zeros((5, 2)), {"k": 2.5}, ["k", "2.5"]),
        (np.zeros((5, 2)), {"k": True}, ["k", "True"]),
        (np.zeros((1, 2)), {"k": 1}, ["k", "1"]),
        (np.zeros(5), {"k": 1}, ["x", "(5,)"]),
        (np.zeros((5, 2, 2)), {"k": 1}, ["x", "(5, 2, 2)"]),
        (np.zeros((0, 2)), {"k": 1}, ["x", "(0, 2)"]),
        (np.array([["a"], ["b"]]), {"k": 1}, ["x", "<U1"]),
        (np.zeros((5, 2)), {"k": 1, "metric": "l2"}, ["metric", "l2", "euclidean"]),
        (np.zeros((5, 2)), {"k": 1, "metric": "squared_euclidean"}, ["squared", "euclidean"]),
        (np.zeros((5, 2)), {"k": 1, "metric": distances.squared_euclidean}, ["squared", "euclidean"]),
        (np.eye(5)[:, :2], {"k": 1, "metric": "cosine"}, ["cosine", "zero", "2"]),
        (np.array([[1e300], [1.0], [0.0]]), {"k": 1}, ["x", "1 of 3", "rows 0", "float32"]),
        (np.where(np.eye(5), np.nan, 1), {"k": 1}, ["x", "5 of 5", "0, 1, 2"]),
        (np.where(np.arange(10).reshape(5, 2) == 6, np.inf, 1), {"k": 1}, ["x", "1 of 5", "rows 3"]),
    ],
)
def test_bad_input_is_named(x, options, words):
    with pytest.raises(ValueError) as error:
        knn_graph(x, **options)
    for word in words:
        assert word in str(error.value)
    with pytest.raises(ValueError):
        epsilon_graph(x, radius=1.0, max_degree=options.get("k", 10), metric=options.get("metric", "euclidean"))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("value", (np.nan, np.inf))
@pytest.mark.long(after=2)
def test_nan_under_jit_shows_in_every_distance(metric, value):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(20, 3)), jnp.float32).at[3, 1].set(value)
    graph = jax.jit(lambda x: knn_graph(x, k=3, metric=metric))(x)
    assert np.isnan(graph.distances).all()
    assert isinstance(graph, KNNGraph)


# Tiles, and many devices


def rounded_order(x, k):
    """The neighbours of a full sort by (distance, index), where sums of squares are exact in float32."""
    x = np.asarray(x, np.float64)
    squared = np.square(x[:, None] - x[None]).sum(-1)
    np.fill_diagonal(squared, np.inf)
    return np.argsort(squared, axis=1, kind="stable")[:, :k]


@pytest.fixture
def small_tiles(monkeypatch):
    """Tiles of 64 points and 32 queries, so that few points need many."""
    monkeypatch.setattr(candidates, "TILE", 64 * 32)
    monkeypatch.setattr(candidates, "QUERIES", (32, 32))
    jax.clear_caches()
    yield
    jax.clear_caches()


@pytest.mark.long
@pytest.mark.parametrize(
    ("n", "k", "dtype"), [(58, 57, "float32"), (59, 10, "float64"), (123, 1, "float32"), (250, 70, "float32")]
)
def test_tiles_join_without_a_seam(small_tiles, n, k, dtype):
    """Sizes about the borders of tiles, with ties and duplicates; k where minima are passed, and where they are sorted."""
    with jax.enable_x64(dtype == "float64"):
        rng = np.random.default_rng(n)
        for spread in (1, 4):
            x = rng.integers(-spread, spread + 1, (n, 6)).astype(dtype)
            graph = knn_graph(jnp.asarray(x), k=k)
            assert graph.distances.dtype == dtype
            np.testing.assert_array_equal(graph.indices, rounded_order(x, k))


@pytest.mark.long
def test_tiles_under_jit_vmap_and_grad(small_tiles):
    layers = jnp.asarray(np.random.default_rng(0).normal(size=(2, 123, 6)), jnp.float32)
    batch = jax.jit(jax.vmap(lambda x: knn_graph(x, k=3)))(layers)
    for i in range(2):
        graph = knn_graph(layers[i], k=3)
        np.testing.assert_array_equal(batch.indices[i], graph.indices)
        chex.assert_trees_all_equal(graph, jax.jit(lambda x: knn_graph(x, k=3))(layers[i]))
    chex.assert_tree_all_finite(jax.grad(lambda x: knn_graph(x, k=3).distances.sum())(layers[0]))


@pytest.mark.long
@given(st.integers(2, 130), st.sampled_from([1, 4, 30]), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_any_number_of_points_and_neighbours(n, k, spread, seed):
    x = np.random.default_rng(seed).integers(-spread, spread + 1, (n, 3)).astype(np.float32)
    k = k if k < n else 1
    np.testing.assert_array_equal(knn_graph(jnp.asarray(x), k=k).indices, rounded_order(x, k))


def test_similar_sizes_share_a_compilation():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(205, 7)), jnp.float32)
    knn_graph(x[:200], k=5)
    before = search.knn_of_first._cache_size()
    for n in (201, 205):
        graph = knn_graph(x[:n], k=5)
        assert graph.indices.shape == (n, 5)
        np.testing.assert_array_equal(graph.indices, oracles.neighbors(x[:n], 5)[0])
    assert search.knn_of_first._cache_size() == before


@pytest.mark.long
def test_equal_pairs_of_points_have_equal_distances():
    """To the last bit, wherever in the array they stand."""
    rng = np.random.default_rng(1)
    for d in (3, 17, 64):
        pair = rng.normal(size=(2, d)).astype(np.float32)
        x = np.concatenate([pair, 100 * rng.normal(size=(40, d))])
        first = {
            np.asarray(knn_graph(jnp.asarray(np.roll(x, shift, 0), jnp.float32), k=1).distances)[shift, 0].item()
            for shift in (0, 1, 17, 39)
        }
        assert len(first) == 1


MESH = """
import jax, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jaxconvex import knn_graph

rng = np.random.default_rng(0)
meshes = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,)), jax.make_mesh((4, 2), ("a", "b"))


def same(one, other):
    for got, want in zip(one, other, strict=True):
        np.testing.assert_array_equal(got, want)
        assert got.is_fully_replicated and len(got.sharding.device_set) == 8


for n, d, k, metric in ((40, 5, 39, "euclidean"), (300, 20, 5, "cosine"), (70, 3, 2, "manhattan")):
    x = rng.normal(size=(n, d)).astype(np.float32)
    x[-5:] = x[:5]
    alone = knn_graph(x, k=k, metric=metric)
    for mesh in meshes:
        same(knn_graph(x, k=k, metric=metric, mesh=mesh), alone)

x = rng.normal(size=(64, 5)).astype(np.float32)
alone = knn_graph(x, k=4)
sharded = jax.device_put(x, NamedSharding(meshes[0], PartitionSpec("data")))
same(knn_graph(sharded, k=4, mesh=meshes[0]), alone)
same(jax.jit(lambda x: knn_graph(x, k=4, mesh=meshes[0]))(x), alone)
gradient = [jax.grad(lambda x: knn_graph(x, k=4, mesh=m).distances.sum())(jax.numpy.asarray(x)) for m in (None, meshes[1])]
np.testing.assert_allclose(*gradient, rtol=1e-4, atol=1e-5)
for bad, words in ((np.where(np.eye(64)[:, :5], np.nan, x), "5 of 64"), (x[0], "one row a point")):
    try:
        knn_graph(bad, k=4, mesh=meshes[0])
        raise SystemExit("bad input was taken")
    except ValueError as error:
        assert words in str(error), error
"""


def run_alone(program, *arguments, **environment):
    """Start a program of its own, since the number of devices is fixed once JAX has begun."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", **environment}
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


@pytest.mark.long
def test_eight_devices_give_what_one_gives():
    process = run_alone(MESH, **on_devices())
    output, _ = process.communicate(timeout=250)
    assert process.returncode == 0, output.decode()


PROCESSES = """
import sys, jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec

jax.distributed.initialize(f"127.0.0.1:{sys.argv[1]}", 2, int(sys.argv[2]))
from jaxconvex import knn_graph

x = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)
mesh = jax.make_mesh((2,), ("data",))
sharding = NamedSharding(mesh, PartitionSpec("data"))
whole = jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])
assert not whole.is_fully_addressable
alone = knn_graph(x, k=4)
for metric in ("euclidean", "cosine"):
    alone = knn_graph(x, k=4, metric=metric)
    for points in (whole, x):
        for got, want in zip(knn_graph(points, k=4, metric=metric, mesh=mesh), alone, strict=True):
            np.testing.assert_array_equal(got, want)
bad = jax.make_array_from_callback(x.shape, sharding, lambda index: np.where(x[index] == x[0, 0], np.nan, x[index]))
try:
    knn_graph(bad, k=4, mesh=mesh)
    raise SystemExit("nan was taken")
except ValueError as error:
    assert "finite" in str(error), error
"""


@pytest.mark.long
def test_two_processes_give_what_one_gives():
    """The points are an array that neither process can address whole."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    processes = [run_alone(PROCESSES, port, str(i)) for i in range(2)]
    outputs = [process.communicate(timeout=250)[0].decode() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(outputs)


@pytest.mark.parametrize("metric", METRICS)
def test_lowers_for_every_platform(metric):
    points = jax.ShapeDtypeStruct((300, 12), jnp.float32)
    exported = jax.export.export(
        jax.jit(lambda x: knn_graph(x, k=5, metric=metric)), platforms=["cpu", "cuda", "rocm", "tpu"]
    )(points)
    assert exported.platforms == ("cpu", "cuda", "rocm", "tpu")
