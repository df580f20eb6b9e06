"""The undirected graph against a dense matrix of edges; the packed layout; components, hubs, duplicates, nan."""

from __future__ import annotations

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from jaxconvex.neighbors import KNNGraph, epsilon_graph, knn_graph
from jaxconvex.paths.graph import Graph, PackedGraph, as_graph, undirected
from jaxconvex.paths.layout import pack

pytestmark = pytest.mark.check_shapes
OPTIONS = list(itertools.product(("union", "mutual"), ("link", "drop")))


def cases(count, n=30, d=3):
    """Points of which some are repeated, as float32."""
    for seed in range(count):
        rng = np.random.default_rng(seed)
        x = oracles.exact_points(rng, n, d, spread=int(rng.choice([3, 128])))
        x[: rng.integers(0, n // 2)] = x[-1]
        yield jnp.asarray(x[rng.permutation(n)])


def dense(graph):
    n = len(graph.degrees)
    adjacency = oracles.dense(graph.senders, graph.receivers, graph.lengths, n)
    np.testing.assert_array_equal(graph.degrees, np.isfinite(adjacency).sum(1))
    return adjacency


@pytest.mark.long(after=2)
@pytest.mark.parametrize(("mode", "duplicates"), OPTIONS)
def test_undirected_is_the_oracle(mode, duplicates):
    k = 4
    for x in cases(25):
        knn = knn_graph(x, k=k)
        graph = undirected(knn, mode=mode, duplicates=duplicates)
        chex.assert_shape([graph.senders, graph.receivers, graph.lengths], (2 * 30 * k,))
        want = oracles.undirected(np.asarray(knn.indices), np.asarray(knn.distances), mode, duplicates)
        np.testing.assert_array_equal(dense(graph), want)
        np.testing.assert_allclose(dense(graph), oracles.knn_adjacency(x, k, "euclidean", mode, duplicates), rtol=1e-6)


def test_modes_differ_as_they_should():
    x = jnp.array([[0.0], [1.0], [2.5], [2.5], [9.0]])
    union, mutual = (undirected(knn_graph(x, k=1), mode=mode) for mode in ("union", "mutual"))
    assert union.degrees.tolist() == [1, 1, 2, 1, 1]
    assert mutual.degrees.tolist() == [1, 1, 1, 1, 0]
    assert undirected(knn_graph(x, k=1), duplicates="drop").degrees.tolist() == [1, 1, 1, 0, 1]


def test_no_node_is_its_own_neighbour():
    for x in cases(5):
        graph = undirected(knn_graph(x, k=4))
        there = np.asarray(graph.lengths) < np.inf
        assert (np.asarray(graph.senders) != np.asarray(graph.receivers))[there].all()


def test_epsilon_graph_becomes_its_own_adjacency():
    for seed in range(5):
        x = np.random.default_rng(seed).normal(size=(30, 2)).astype(np.float32)
        graph = undirected(epsilon_graph(jnp.asarray(x), radius=0.7, max_degree=29))
        want = oracles.epsilon_adjacency(x, 0.7)
        got = dense(graph)
        np.testing.assert_array_equal(np.isinf(got), np.isinf(want))
        np.testing.assert_allclose(got, want, rtol=1e-5)


def test_a_graph_without_edges():
    graph = undirected(epsilon_graph(jnp.arange(6.0)[:, None], radius=0.5))
    assert np.isposinf(graph.lengths).all()
    assert graph.degrees.tolist() == [0] * 6
    assert isinstance(pack(graph), PackedGraph)


def test_a_hub_is_linked_to_all():
    """The directions of the axes and the origin: everybody's nearest neighbour is the origin."""
    x = jnp.concatenate([jnp.zeros((1, 40)), 2 * jnp.eye(40)])
    degrees = undirected(knn_graph(x, k=1)).degrees
    assert degrees.tolist() == [40] + [1] * 40


def test_equal_lengths_at_both_ends():
    """dense() compares the two directions bit by bit, for metrics whose rounding is not symmetric."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(60, 50)) + 10, jnp.float32)
    for metric in ("euclidean", "manhattan"):
        assert np.isfinite(dense(undirected(knn_graph(x, k=5, metric=metric)))).any()


@pytest.mark.long(after=1)
@pytest.mark.parametrize(("mode", "duplicates"), OPTIONS)
def test_jit_vmap_and_eager_agree(mode, duplicates):
    layers = jnp.stack(list(cases(4)))

    def function(x):
        return undirected(knn_graph(x, k=3), mode=mode, duplicates=duplicates)

    batched = jax.jit(jax.vmap(function))(layers)
    for i, x in enumerate(layers):
        np.testing.assert_array_equal(dense(jax.tree.map(lambda a: a[i], batched)), dense(function(x)))  # noqa: B023


def test_as_graph_takes_all_three():
    knn = knn_graph(next(cases(1)), k=3)
    want = dense(undirected(knn))
    for graph in (knn, undirected(knn), pack(knn), pack(undirected(knn))):
        assert isinstance(as_graph(graph), Graph)
        np.testing.assert_array_equal(dense(as_graph(graph)), want)


def test_packed_graph_is_a_pytree():
    packed = pack(knn_graph(next(cases(1)), k=3))
    chex.assert_trees_all_equal(jax.jit(lambda p: p)(packed), packed)


@pytest.mark.long
def test_packing_is_the_same_eagerly_under_jit_and_under_vmap():
    layers = jnp.stack(list(cases(3, n=40)))
    alone = [pack(knn_graph(x, k=4)) for x in layers]
    batched = jax.jit(jax.vmap(lambda x: pack(knn_graph(x, k=4))))(layers)
    for i, x in enumerate(layers):
        chex.assert_trees_all_equal(jax.jit(lambda x: pack(knn_graph(x, k=4)))(x), alone[i])
        chex.assert_trees_all_equal(jax.tree.map(lambda part: part[i], batched), alone[i])  # noqa: B023


@pytest.mark.long(after=1)
@pytest.mark.parametrize("n", (200, 20_000))
def test_the_layout_holds_every_edge_and_knows_its_parts(n):
    """Two clouds and a lone pair: components, one row of neighbours a node, the order by degree in each cell."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 2)).astype(np.float32)
    x[n // 2 :] += 1e3
    x[:2] = [[5e5, 0], [5e5, 1]]
    knn = KNNGraph(*(part.at[:2, 1:].set(fill) for part, fill in zip(knn_graph(x, k=3), (-1, jnp.inf), strict=True)))
    packed = pack(knn)
    graph, back = undirected(knn), as_graph(packed)
    for side in (graph, back):
        assert int(np.isfinite(side.lengths).sum()) == int(graph.degrees.sum())

    def listed(graph):
        there = np.isfinite(graph.lengths)
        return sorted(zip(*(np.asarray(part)[there].tolist() for part in graph[:3]), strict=True))

    assert listed(graph) == listed(back)
    np.testing.assert_array_equal(np.asarray(packed.order)[np.asarray(packed.position)], np.arange(n))
    edges = coo_matrix((np.ones(len(graph.senders)), (graph.senders, graph.receivers)), shape=(n, n))
    edges.data[~np.isfinite(graph.lengths)] = 0
    edges.eliminate_zeros()
    number, parts = connected_components(edges, directed=False)
    component = np.asarray(packed.component)[np.asarray(packed.position)]
    assert len(np.unique(component)) == number
    assert len(np.unique(np.stack([component, parts]), axis=1).T) == number


@pytest.mark.long
def test_gradient_of_lengths_is_finite():
    x = jnp.concatenate([jnp.ones((3, 2)), jnp.arange(10.0).reshape(5, 2)])

    def total(x):
        lengths = undirected(knn_graph(x, k=3)).lengths
        return jnp.sum(jnp.where(jnp.isfinite(lengths), lengths, 0))

    gradient = jax.grad(total)(x)
    chex.assert_tree_all_finite(gradient)
    assert (gradient != 0).any()


@pytest.mark.check_shapes(False)
def test_bad_input_is_named():
    knn = knn_graph(np.arange(5.0)[:, None], k=2)
    with pytest.raises(ValueError, match=r"mode.*union.*mutual.*'both'"):
        undirected(knn, mode="both")
    with pytest.raises(ValueError, match=r"duplicates.*link.*drop.*'keep'"):
        undirected(knn, duplicates="keep")
    with pytest.raises(ValueError, match=r"KNNGraph.*ndarray"):
        as_graph(np.zeros((3, 3)))
    assert isinstance(knn, KNNGraph)
