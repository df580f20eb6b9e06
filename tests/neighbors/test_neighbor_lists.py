"""Neighbour lists and edges from elsewhere: sentinels, repeats, themselves, any order; against dense matrices of edges."""

from __future__ import annotations

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import skew

from jaxconvex import (
    Graph,
    KNNGraph,
    graph_convexity,
    hubness,
    knn_graph,
    neighbors_graph,
    pack,
    shortest_path_counts,
    shortest_path_lengths,
    undirected,
)
from jaxconvex._internal.checks import as_labels
from jaxconvex.statistics.left_out import leave_group_out_graphs

N, K = 14, 4
labels_under_jit = jax.jit(as_labels, static_argnums=(1, 2))
undirected_under_jit = jax.jit(undirected, static_argnames="mode")
INDEX_TYPES = (np.int64, np.int32, np.uint32, np.uint64, np.int16)


def lists(rng, n=N, k=K, symmetric=False):
    """Neighbours as approximate searches give them, and the dense matrix of what they mean."""
    x = np.round(rng.normal(size=(n, 2)), int(rng.integers(0, 4)))
    all_distances = oracles.pairwise(x).astype(np.float32)
    indices = np.stack([rng.choice(n, k, replace=bool(rng.integers(2))) for _ in range(n)])
    distances = np.take_along_axis(all_distances, indices, axis=1)
    if not symmetric and rng.integers(2):
        distances = (distances * rng.uniform(0.5, 1, distances.shape)).astype(np.float32)
    absent = rng.random(indices.shape) < rng.choice([0, 0.3])
    mark = rng.integers(3)
    indices[absent] = (-1, n, -1)[mark]
    distances[absent] = (np.inf, np.inf, np.finfo(np.float32).max)[mark]
    dense = np.full((n, n), np.inf)
    for i, j in zip(*np.nonzero(~absent), strict=True):
        if indices[i, j] != i:
            dense[i, indices[i, j]] = min(dense[i, indices[i, j]], distances[i, j])
    return indices, distances, dense


def given_in(rng, indices, distances):
    """The same lists in a type of another library; unsigned ones cannot mark by -1."""
    dtype = rng.choice(INDEX_TYPES)
    if np.dtype(dtype).kind == "u":
        distances = np.where(indices < 0, np.inf, distances)
    return indices.astype(dtype), distances.astype(rng.choice([np.float32, np.float64]))


def dense_of(graph):
    return oracles.dense(graph.senders, graph.receivers, graph.lengths, len(graph.degrees))


@given(st.integers(0, 2**32 - 1))
@pytest.mark.long
def test_lists_mean_the_same_to_every_function(seed):
    rng = np.random.default_rng(seed)
    indices, distances, directed = lists(rng)
    knn = KNNGraph(*given_in(rng, indices, distances))
    clean = neighbors_graph(*knn)
    assert clean.indices.dtype == jnp.int32 and clean.distances.dtype == jnp.float32
    for i in range(N):
        want = sorted((length, j) for j, length in enumerate(directed[i]) if length < np.inf)
        there = np.asarray(clean.indices[i]) >= 0
        got = list(zip(clean.distances[i][there].tolist(), clean.indices[i][there].tolist(), strict=True))
        assert got == want and np.isposinf(clean.distances[i][~there]).all() and there[: len(want)].all()
    for mode, both in (("union", np.minimum), ("mutual", np.maximum)):
        for found in (undirected(knn, mode=mode), undirected_under_jit(clean, mode=mode)):
            np.testing.assert_array_equal(dense_of(found), both(directed, directed.T))
            np.testing.assert_array_equal(found.degrees, np.isfinite(both(directed, directed.T)).sum(1))


def edges_of(rng, adjacency, size):
    """The edges in any order, some of them again and longer, with loops and absent ones up to the size."""
    low, high = np.nonzero(np.triu(adjacency < np.inf))
    again = rng.integers(0, max(len(low), 1), len(low))
    low, high = np.concatenate([low, low[again]]), np.concatenate([high, high[again]])
    lengths = adjacency[low, high] + np.repeat([0, 0.5], len(again))
    padding = np.full(size - 2 * len(low), N - 1)
    order = rng.permutation(size)
    senders, receivers = np.concatenate([low, high, padding]), np.concatenate([high, low, padding])
    lengths = np.concatenate([lengths, lengths, np.where(padding % 2, 1, np.inf)])
    return Graph(senders[order], receivers[order], lengths[order].astype(np.float32), np.zeros(N, int))


@settings(settings.get_profile("fewer"))
@given(st.integers(0, 2**32 - 1))
def test_scores_of_lists_and_of_edges_are_the_oracles(seed):
    rng = np.random.default_rng(seed)
    indices, distances, directed = lists(rng, symmetric=True)
    labels = rng.integers(-1, 2, N)
    adjacency = np.minimum(directed, directed.T)
    want = oracles.graph_convexity(adjacency, labels, 2)
    for graph in (KNNGraph(*given_in(rng, indices, distances)), edges_of(rng, adjacency, 4 * N * K)):
        oracles.assert_score(graph_convexity(graph, labels, num_classes=2), want)
        lengths = shortest_path_lengths(graph, np.arange(N))
        np.testing.assert_allclose(lengths, oracles.path_lengths(adjacency), rtol=1e-5, atol=1e-5)


@pytest.mark.long
def test_under_jit_and_vmap_too():
    found = [lists(np.random.default_rng(seed), symmetric=True) for seed in range(12)]
    labels = np.random.default_rng(0).integers(0, 2, N)
    knn = KNNGraph(*(jnp.asarray(np.stack(part)) for part in list(zip(*found, strict=True))[:2]))

    def score(knn):
        return graph_convexity(neighbors_graph(*knn), jnp.asarray(labels), num_classes=2).per_class

    got = jax.jit(jax.vmap(score))(knn)
    for i, (indices, distances, directed) in enumerate(found):
        want = oracles.graph_convexity(np.minimum(directed, directed.T), labels, 2).per_class
        np.testing.assert_allclose(got[i], want, atol=1e-6)
        np.testing.assert_allclose(score(KNNGraph(indices, distances)), want, atol=1e-6)


def wrong(change):
    knn = knn_graph(jnp.asarray(np.random.default_rng(1).normal(size=(N, 2)), jnp.float32), k=3)
    indices, distances = np.asarray(knn.indices).copy(), np.asarray(knn.distances).copy()
    return KNNGraph(*change(indices, distances))


def put(array, value):
    array[7, 1] = value
    return array


WRONG = {
    "negative": (lambda i, d: (i, put(d, -0.5)), "negative.*rows 7"),
    "similarities": (lambda i, d: (i, -d), "negative.*14 of 14"),
    "beyond": (lambda i, d: (put(i, N), d), "0 to 13.*rows 7"),
    "far beyond": (lambda i, d: (put(i.astype(np.int64), 2**32 + 3), d), "0 to 13.*rows 7"),
    "below": (lambda i, d: (put(i, -2), d), "0 to 13.*rows 7"),
    "unsigned -1": (lambda i, d: (put(i.astype(np.uint64), 2**64 - 1), d), "0 to 13.*rows 7"),
}
NOT_TRACED = {
    "swapped": (lambda i, d: (d, i), "integers.*float32"),
    "another shape": (lambda i, d: (i[:, :2], d), r"\(14, 2\) and \(14, 3\)"),
    "one axis": (lambda i, d: (i[0], d[0]), r"\(3,\)"),
    "too long for the type": (lambda i, d: (i, put(d.astype(float), 1e60)), "range of float32.*1e"),
    "too short for the type": (lambda i, d: (i, put(d.astype(float), 1e-60)), "range of float32.*1e-60"),
    "masked": (lambda i, d: (i, np.ma.masked_array(d, d > 1)), "masked"),
    "objects": (lambda i, d: (i.astype(object), d), "object"),
    "complex": (lambda i, d: (i, d * 1j), "complex"),
}


@pytest.mark.parametrize("case", [*WRONG, *NOT_TRACED])
def test_wrong_lists_are_refused(case):
    change, words = (WRONG | NOT_TRACED)[case]
    for function in (lambda knn: neighbors_graph(*knn), undirected, pack, lambda knn: shortest_path_lengths(knn, [0])):
        with pytest.raises(ValueError, match=words):
            function(wrong(change))


@pytest.mark.long
def test_wrong_lists_are_nan_under_jit():
    for change, _ in WRONG.values():
        knn = wrong(change)
        if np.asarray(knn.indices).dtype.itemsize > 4:
            continue  # jit narrows its arguments by itself
        assert np.isnan(jax.jit(neighbors_graph)(*knn).distances).all()
        assert np.isnan(undirected_under_jit(knn, mode="union").lengths).any()
        score = jax.jit(lambda knn: graph_convexity(knn, jnp.zeros(N, jnp.int32), num_classes=1))(knn)
        assert np.isnan(score.per_class).all() and np.isnan(score.micro)
        assert np.isnan(jax.jit(lambda knn: shortest_path_lengths(knn, jnp.array([0])))(knn)).all()


@pytest.mark.long
def test_nan_lengths_are_refused_from_elsewhere_and_stay_in_a_graph():
    knn = wrong(lambda i, d: (i, put(d, np.nan)))
    with pytest.raises(ValueError, match=r"nan.*rows 7"):
        neighbors_graph(*knn)
    assert np.isnan(undirected(knn).lengths).any()
    assert np.isnan(graph_convexity(knn, np.zeros(N, int), num_classes=1).per_class).all()


@pytest.mark.long
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s, r, d: (s, r, np.where(np.arange(len(d)) == 3, -d, d)), "negative"),
        (lambda s, r, d: (np.where(np.arange(len(d)) == 3, N, s), r, d), "indices of points"),
        (lambda s, r, d: (s, r, np.where(np.arange(len(d)) == 3, np.inf, d)), "both of its ends"),
        (lambda s, r, d: (s[s < r], r[s < r], d[s < r]), "both of its ends"),
    ],
)
def test_wrong_edges_are_refused_and_nan_under_jit(change, words):
    found = undirected(wrong(lambda i, d: (i, d)))
    there = np.asarray(found.lengths) < np.inf
    graph = Graph(*change(*(np.asarray(part)[there] for part in found[:3])), np.asarray(found.degrees))
    for function in (pack, lambda graph: shortest_path_lengths(graph, [0])):
        with pytest.raises(ValueError, match=words):
            function(graph)
    labels = jnp.zeros(N, jnp.int32)
    with pytest.raises(ValueError, match=words):
        graph_convexity(graph, labels, num_classes=1)
    traced = jax.tree.map(jnp.asarray, graph)
    assert np.isnan(jax.jit(lambda g: graph_convexity(g, labels, num_classes=1).per_class)(traced)).all()


@pytest.mark.long
def test_points_that_are_none_are_refused_and_have_no_path_under_jit():
    knn = wrong(lambda i, d: (i, d))
    labels = jnp.zeros(N, jnp.int32)
    for nodes in ([N], [-1], [0.5], [[1]]):
        with pytest.raises(ValueError, match="sources must be"):
            shortest_path_counts(knn, labels, nodes, [1])
    counts = jax.jit(lambda s: shortest_path_counts(knn, labels, s, jnp.array([1])))(jnp.array([0, N, -1]))
    assert counts.interior[1:].tolist() == [[-1], [-1]]
    lengths = jax.jit(lambda s: shortest_path_lengths(knn, s))(jnp.array([0, N, -1]))
    assert np.isnan(lengths[1:]).all() and lengths[0, 0] == 0


@pytest.mark.long
def test_labels_are_never_wrapped():
    knn = wrong(lambda i, d: (i, d))
    labels = np.arange(N) % 2
    for strange in (labels + 2**32, (labels - 1).astype(np.uint32), labels.astype(bool), labels.astype(object)):
        with pytest.raises(ValueError, match="labels must"):
            graph_convexity(knn, strange, num_classes=2)
    traced = jax.jit(lambda labels: graph_convexity(knn, labels, num_classes=2).per_class)
    assert np.isnan(traced((labels - 1).astype(np.uint32))).all()
    assert labels_under_jit((labels - 2).astype(np.int8), N, 2).tolist() == (labels - 2).tolist()
    with jax.enable_x64(True):
        for shift in (2**32, -(2**32)):
            assert labels_under_jit(labels + shift, N, 2).tolist() == [2 if shift > 0 else -2] * N


def test_hubs_and_groups_left_out_are_those_of_the_clean_lists():
    for seed in range(6):
        indices, distances, directed = lists(np.random.default_rng(seed))
        knn, groups = KNNGraph(indices, distances), np.arange(N) % 2
        occurs = np.isfinite(directed).sum(0)
        np.testing.assert_allclose(hubness(knn), skew(occurs))
        for kept, graph in leave_group_out_graphs(knn, np.zeros((N, 2)), groups, k=1) if seed == 0 else ():
            assert np.all(np.asarray(graph.indices)[~kept] == -1)


def test_lengths_that_are_no_distances_are_told():
    """Three points in a row: the squared length of the long edge exceeds the sum of the short ones."""
    indices = [[1, 2], [0, 2], [1, 0]]
    with pytest.warns(UserWarning, match="33% of the edges .* longer than the way over a third point"):
        neighbors_graph(indices, [[1.0, 4.0], [1.0, 1.0], [1.0, 4.0]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        neighbors_graph(indices, [[1.0, 2.0], [1.0, 1.0], [1.0, 2.0]])  # as long as the way is no longer
