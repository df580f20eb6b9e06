"""Distances over the whole range of their type, and of input with more digits than that: against NumPy's longer types."""

from __future__ import annotations

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxconvex import evaluate, graph_convexity, knn_graph, pairwise
from jaxconvex.neighbors import distances, epsilon_graph

pytestmark = pytest.mark.usefixtures("unexplained")

N, D, K = 40, 3, 5
METRICS = ("euclidean", "cosine", "manhattan")
under_jit = jax.jit(knn_graph, static_argnames=("k", "metric"))


def exact(x, metric="euclidean"):
    """[n n] distances in the longest type there is, inf on the diagonal."""
    x = np.asarray(x).astype(np.longdouble)
    if metric == "cosine":
        x = x / np.sqrt(np.sum(x**2, axis=1, keepdims=True))
    difference = np.abs(x[:, None] - x[None])
    found = difference.sum(-1) if metric == "manhattan" else np.sqrt((difference**2).sum(-1))
    np.fill_diagonal(found, np.inf)
    return found


def assert_nearest(graph, x, metric="euclidean", rtol=2e-6):
    indices, want = np.asarray(graph.indices), exact(x, metric)
    nearest = np.sort(want, axis=1)[:, : indices.shape[1]]
    atol = 5e-7 if metric == "cosine" else 0  # directions of length 1 are rounded
    np.testing.assert_allclose(np.take_along_axis(want, indices, axis=1), nearest, rtol=rtol, atol=atol)
    np.testing.assert_allclose(np.asarray(graph.distances, np.longdouble), nearest, rtol=rtol, atol=atol)
    assert (np.diff(np.asarray(graph.distances), axis=1) >= 0).all()


def far_apart(seed, dtype=np.float32):
    """Points whose rows, columns or clusters differ by as many powers of two as the type holds, some of them equal."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(N, D)).astype(dtype)
    top = 50 if dtype == np.float32 else 400
    for _ in range(rng.integers(1, 4)):
        power = dtype(2.0) ** dtype(rng.integers(-2 * top, 2 * top))
        kind = rng.integers(5)
        rows = rng.choice(N, rng.integers(1, N), replace=False)
        if kind == 0:
            x[rows] *= power if -2.3 * top < np.log2(np.max(np.abs(x[rows])) * power) < 2.3 * top else 1
        elif kind == 1:
            x[rows[0]] = power  # a value that stands for a missing one
        elif kind == 2:
            x[:, rng.integers(D)] = power  # a constant column
        elif kind == 3:
            x[rows] = x[rows[0]]
        else:
            x[rows] = np.where(rng.random((len(rows), D)) < 0.5, 0, x[rows])
    x[np.all(x == 0, axis=1)] = 1
    return x


@pytest.mark.long
@settings(settings.get_profile("fewer"))
@given(st.integers(0, 2**32 - 1))
def test_magnitudes_far_apart(seed):
    x = jnp.asarray(far_apart(seed))
    for metric in METRICS:
        graph = knn_graph(x, k=K, metric=metric)
        assert_nearest(graph, x, metric)
        traced = under_jit(x, k=K, metric=metric)
        np.testing.assert_array_equal(traced.indices, graph.indices)
        np.testing.assert_allclose(traced.distances, graph.distances, rtol=2e-6)


@pytest.mark.long
def test_magnitudes_far_apart_in_float64():
    with jax.enable_x64(True):
        for seed in range(6):
            x = jnp.asarray(far_apart(seed, np.float64))
            assert_nearest(knn_graph(x, k=K), x, rtol=1e-14)


@pytest.mark.long
def test_magnitudes_far_apart_under_vmap():
    layers = jnp.asarray(np.stack([far_apart(seed) for seed in range(4)] + [np.ones((N, D), np.float32)]))
    found = jax.jit(jax.vmap(lambda x: knn_graph(x, k=K)))(layers)
    for i, x in enumerate(layers):
        assert_nearest(jax.tree.map(lambda part: part[i], found), x)  # noqa: B023


@pytest.mark.long
@pytest.mark.parametrize("magnitude", (1e-30, 1e-37, 1e18, 1e30, 1e37))
def test_units(magnitude):
    x = (np.random.default_rng(1).normal(size=(N, D)) * magnitude).astype(np.float32)
    x[np.abs(x) < np.finfo(np.float32).tiny] = 0  # as they count
    for metric in METRICS:
        assert_nearest(knn_graph(jnp.asarray(x), k=K, metric=metric), x, metric)
    if magnitude > 1e-37:
        want = np.where(np.eye(N, dtype=bool), 0, exact(x))
        np.testing.assert_allclose(pairwise(jnp.asarray(x)), want.astype(float), rtol=2e-6)
    slope = jax.grad(lambda x: jnp.sum(knn_graph(x, k=K).distances / magnitude))(jnp.asarray(x))
    assert np.isfinite(slope).all() and np.any(slope != 0)


@pytest.mark.parametrize("name", METRICS)
def test_single_vectors_and_their_gradients(name):
    metric = getattr(distances, name)
    x, y = np.random.default_rng(2).normal(size=(2, D)).astype(np.float32)
    want = float(metric(x, y))
    for scale in (np.float32(2.0) ** np.array([-100, -60, 60, 120], np.float32)).tolist():
        a, b = jnp.asarray(x * np.float32(scale)), jnp.asarray(y * np.float32(scale))
        unit = 1 if name == "cosine" else scale
        np.testing.assert_allclose(metric(a, b) / unit, want, rtol=1e-6)
        slope = jax.grad(lambda a, b=b: metric(a, b))(a)
        np.testing.assert_allclose(
            slope * (scale / unit), jax.grad(metric)(jnp.asarray(x), jnp.asarray(y)), rtol=1e-4, atol=1e-6
        )


@pytest.mark.long
def test_a_distance_too_long_for_the_type():
    x = np.random.default_rng(3).normal(size=(N, D)).astype(np.float32)
    x[7] = np.finfo(np.float32).max
    with pytest.raises(ValueError, match=r"float32 holds; 1 of 40 rows.*rows 7"):
        knn_graph(jnp.asarray(x), k=K)
    found = under_jit(jnp.asarray(x), k=K)
    assert np.isnan(found.distances[7]).all()
    others = np.arange(N) != 7
    np.testing.assert_allclose(found.distances[others], np.sort(exact(x), axis=1)[others, :K].astype(float), rtol=2e-6)
    assert np.isnan(graph_convexity(found, np.zeros(N, int), num_classes=1).per_class).all()


@pytest.mark.long
def test_scores_with_a_missing_value_are_the_oracles():
    rng = np.random.default_rng(4)
    x = rng.normal(size=(N, D)).astype(np.float32)
    labels = (x[:, 0] > 0).astype(int)
    x[7], labels[7] = 1e20, -1
    for graph in (knn_graph(jnp.asarray(x), k=K), under_jit(jnp.asarray(x), k=K)):
        got = graph_convexity(graph, labels, num_classes=2).per_class
        np.testing.assert_allclose(got, oracles.knn_convexity(x, labels, 2, K).per_class, atol=1e-6)


base = np.random.default_rng(5).normal(size=(N, D))
numbers = (base * 1000).astype(np.int64)
WIDE = {
    "offset": base + 1e9,
    "a column of times": base + np.array([1.7e9, 0, 0]),
    "clusters": np.where(np.arange(N)[:, None] < N // 2, base, base + 1e12),
    "near-duplicates": np.concatenate([base[: N // 2], base[: N // 2] + 1e-9 * base[N // 2 :]]),
    "a missing value": np.where(np.arange(N)[:, None] == 0, 1e20, base + 1e6),
    "longdouble": base.astype(np.longdouble) + 2.0**55,
    "int64": numbers + 2**40,
    "int64 at its end": numbers + (2**63 - 10_000),
    "uint64": numbers.astype(np.uint64) + np.uint64(2**63),
    "int32": numbers.astype(np.int32) + 2**30,
    "equal rows": np.repeat(base[: N // 4], 4, axis=0) + 1e9,
}


@pytest.mark.long
@pytest.mark.parametrize("case", WIDE)
@pytest.mark.parametrize("metric", ("euclidean", "manhattan"))
def test_more_digits_than_the_type_holds(case, metric):
    x = WIDE[case]
    graph = knn_graph(x, k=K, metric=metric)
    assert graph.distances.dtype == jnp.float32
    assert graph.indices.dtype == jnp.int32
    assert_nearest(graph, x, metric, rtol=1e-2)
    want = np.where(np.eye(N, dtype=bool), 0, exact(x, metric)).astype(float)
    np.testing.assert_allclose(pairwise(x, metric=metric), want, rtol=1e-2)
    np.testing.assert_allclose(pairwise(x, x[:3], metric=metric), want[:, :3], rtol=1e-2)


@pytest.mark.parametrize("case", ("offset", "clusters", "near-duplicates"))
@pytest.mark.long
def test_directions_that_differ_by_less_than_float32_tells(case):
    assert_nearest(knn_graph(WIDE[case] + 1, k=K, metric="cosine"), WIDE[case] + 1, "cosine")
    assert_nearest(knn_graph(base * 1e-60, k=K, metric="cosine"), base, "cosine")


@pytest.mark.parametrize("dtype", (np.int32, np.uint32))
@pytest.mark.long(after=1)
def test_traced_integers(dtype):
    x = (numbers + np.iinfo(dtype).max - 10_000).astype(dtype)
    assert_nearest(under_jit(x, k=K), x)
    np.testing.assert_allclose(
        jax.jit(pairwise)(x), np.where(np.eye(N, dtype=bool), 0, exact(x)).astype(float), rtol=2e-6
    )


@pytest.mark.long
def test_what_no_type_tells_apart_is_told():
    x = np.array([[0], [1], [2**62], [2**62 + 1]])
    with pytest.warns(UserWarning, match="less than float64"):
        knn_graph(x, k=1)
    with pytest.raises(ValueError, match="range of float32"):
        knn_graph(base * 1e-60, k=K)


@pytest.mark.long
def test_every_entry_takes_wide_numbers():
    labels = (base[:, 0] > 0).astype(int)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        far, near = (evaluate(x, labels, k=K, progress=False).rows for x in (base + 1e9, base + 1e9 - 1e9))
    assert [row.score for row in far] == [row.score for row in near]
    assert [row.replicates for row in far] == [row.replicates for row in near]
    found = epsilon_graph(base + 1e9, radius=1.0)
    np.testing.assert_array_equal(np.sum(found.indices >= 0, axis=1), np.sum(exact(base + 1e9) <= 1, axis=1))


@pytest.mark.parametrize(
    "x",
    [
        base.astype(object),
        np.ma.masked_array(base, base > 1),
        base * 1j,
        [[1, 2], [3]],
        [["a", "b"], ["c", "d"]],
        base.astype("datetime64[s]"),
        jax.random.split(jax.random.key(0), (3, 2)),
        None,
    ],
)
def test_what_is_no_array_of_numbers_is_a_value_error(x):
    labels = np.zeros(N, int)
    functions = (
        lambda: knn_graph(x, k=1),
        lambda: epsilon_graph(x, radius=1.0),
        lambda: pairwise(x),
        lambda: evaluate(x, labels, k=1, progress=False),
    )
    for function in functions:
        with pytest.raises(ValueError):
            function()


def test_sparse_matrices_are_a_value_error_and_tables_are_taken():
    sparse, pandas = pytest.importorskip("scipy.sparse"), pytest.importorskip("pandas")
    for function in (lambda x: knn_graph(x, k=1), pairwise, lambda x: evaluate(x, np.zeros(N, int), progress=False)):
        with pytest.raises(ValueError, match=r"toarray\(\)"):
            function(sparse.csr_matrix(base))
    np.testing.assert_array_equal(knn_graph(pandas.DataFrame(base), k=K).indices, knn_graph(base, k=K).indices)


@pytest.mark.parametrize("metric", ["euclidean", "manhattan"])
@pytest.mark.long
def test_what_is_lost_below_the_normal_numbers_is_refused_where_it_shows(metric):
    x = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    want = knn_graph(x, k=3, metric=metric)
    small = knn_graph(x * np.float32(2.0**-110), k=3, metric=metric)
    np.testing.assert_array_equal(small.indices, want.indices)
    np.testing.assert_allclose(np.asarray(small.distances, np.float64) * 2.0**110, want.distances, rtol=1e-6)
    with pytest.raises(ValueError, match=r"of 60 rows .* less than 1e-38 in some column .* Multiply"):
        knn_graph(x * np.float32(2.0**-124), k=3, metric=metric)
    lost = x.copy()
    lost[0, 0] = 1e-40  # beside distances of about 1 it does not show
    knn_graph(lost, k=3, metric=metric)
