"""What lies inside the paths of a class, against the definitions; the identities with the score; all forms of a graph."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from jaxconvex import (
    Graph,
    KNNGraph,
    epsilon_graph,
    euclidean_convexity,
    euclidean_intrusions,
    graph_convexity,
    graph_intrusions,
    knn_graph,
    pack,
    undirected,
)
from jaxconvex.paths.chains import is_long

pytestmark = pytest.mark.check_shapes

CLASSES = 5


def assert_identities(found, graph, labels, atol=1e-6):
    """1 - score = disconnected + by_class, and the load of the points of each class is its column."""
    score = graph_convexity(graph, labels, num_classes=CLASSES)
    assert np.isfinite(score.per_class).any()
    lost = found.disconnected + found.by_class.sum(axis=1)
    np.testing.assert_allclose(1 - score.per_class, lost, rtol=0, atol=atol)
    np.testing.assert_allclose(score.disconnected, found.disconnected, rtol=0, atol=atol)
    columns = [np.sum(found.of_points, where=labels == c) for c in (*range(CLASSES), -1)]
    np.testing.assert_allclose(np.nansum(found.by_class, axis=0), columns, rtol=0, atol=atol)


def assert_same(found, want, atol=1e-6):
    for name in want._fields:
        np.testing.assert_allclose(getattr(found, name), getattr(want, name), rtol=0, atol=atol, err_msg=name)


def case(kind, seed):
    """Points and labels: at random, on grids with ties, with duplicates, far apart; tiny classes and background."""
    rng = np.random.default_rng(seed)
    labels = oracles.awkward_labels(rng, 49, CLASSES) if seed % 2 else rng.integers(-1, CLASSES - 1, 49)
    x = rng.normal(size=(49, 2))
    if kind == "grid":
        x = np.stack(np.meshgrid(np.arange(7), np.arange(7)), axis=-1).reshape(49, 2)[rng.permutation(49)]
    elif kind == "duplicates":
        x[25:] = x[:24]
    elif kind == "islands":
        x[20:] += 50 * (rng.integers(0, 3, (29, 1)) - 1)
    return jnp.asarray(x, jnp.float32), jnp.asarray(labels, jnp.int32)


@pytest.mark.parametrize("kind", ["random", "grid", "duplicates", "islands"])
def test_parity(kind):
    for seed in range(4):
        x, labels = case(kind, seed)
        graph = undirected(knn_graph(x, k=4))
        adjacency = oracles.knn_adjacency(np.asarray(x), 4)
        found = graph_intrusions(graph, labels, num_classes=CLASSES)
        assert_same(found, oracles.graph_intrusions(adjacency, labels, CLASSES))
        assert_identities(found, graph, labels)


@pytest.mark.long
def test_all_forms_of_a_graph_eager_jit_and_vmap():
    cases = [case(kind, 2) for kind in ("random", "grid", "islands")]
    knns = [knn_graph(x, k=4) for x, _ in cases]
    want = [graph_intrusions(knn, labels, num_classes=CLASSES) for knn, (_, labels) in zip(knns, cases, strict=True)]
    call = jax.jit(lambda graph, labels: graph_intrusions(graph, labels, num_classes=CLASSES))
    for graph in (knns[1], undirected(knns[1]), pack(knns[1])):
        assert_same(call(graph, cases[1][1]), want[1])
        assert_same(graph_intrusions(graph, cases[1][1], num_classes=CLASSES), want[1], atol=0)
    together = jax.tree.map(lambda *parts: jnp.stack(parts), *knns)
    found = jax.vmap(call)(together, jnp.stack([labels for _, labels in cases]))
    for i, one in enumerate(want):
        assert_same(jax.tree.map(lambda part, i=i: part[i], found), one)


@pytest.mark.parametrize("kind", ["random", "grid"])
@pytest.mark.long(after=1)
def test_the_order_of_rows_changes_at_most_the_split(kind):
    x, labels = case(kind, 2)
    turn = np.random.default_rng(0).permutation(len(labels))
    graphs = (  # which of neighbours that tie are taken depends on the order of rows; within a radius all are
        (lambda y: epsilon_graph(y, radius=1.1)) if kind == "grid" else (lambda y: knn_graph(y, k=4))
    )
    found, turned = (graph_intrusions(graphs(x[r]), labels[r], num_classes=CLASSES) for r in (slice(None), turn))
    np.testing.assert_allclose(turned.by_class.sum(axis=1), found.by_class.sum(axis=1), atol=1e-6)
    np.testing.assert_allclose(turned.point_scores, found.point_scores[turn], atol=1e-6)
    split = np.nanmax(np.abs(turned.by_class - found.by_class))
    assert split > 1e-3 if kind == "grid" else split < 1e-6


def test_a_long_chain():
    """Paths that the score finds by Dijkstra's algorithm: 0 1 0 1 0 ... along a line, and a gap."""
    n = 49
    x = np.cumsum(np.where(np.arange(n) == 40, 40, 1 + np.random.default_rng(0).random(n)))[:, None]
    labels = jnp.asarray(np.arange(n) % 2, jnp.int32)
    beside = np.arange(n)[:, None] + [-1, 1, 0, 0]
    known = (
        (beside >= 0) & (beside < n) & ([True, True, False, False]) & (np.minimum(beside, np.arange(n)[:, None]) != 39)
    )
    beside = np.where(known, beside, -1)
    lengths = np.where(known, np.abs(x[beside, 0] - x), np.inf)
    graph = KNNGraph(jnp.asarray(beside, jnp.int32), jnp.asarray(lengths, jnp.float32))
    assert is_long(pack(graph))
    found = graph_intrusions(graph, labels, num_classes=CLASSES)
    assert_identities(found, graph, labels)
    assert_same(found, oracles.graph_intrusions(oracles.undirected(beside, lengths), labels, CLASSES))


@pytest.mark.long
def test_an_outlier_so_far_that_lengths_stay_floating_point():
    x, labels = case("random", 2)
    graph = knn_graph(x.at[0].set(1e7), k=4)
    assert pack(graph).quantum == 0
    assert_identities(graph_intrusions(graph, labels, num_classes=CLASSES), graph, labels)


@pytest.mark.long
def test_float64():
    with jax.enable_x64(True):
        x, labels = case("random", 2)
        graph = knn_graph(jnp.asarray(x, jnp.float64), k=4)
        found = graph_intrusions(graph, labels, num_classes=CLASSES)
        assert found.by_class.dtype == np.float64
        assert_identities(found, graph, labels, atol=1e-9)
        want = oracles.graph_intrusions(oracles.knn_adjacency(np.asarray(x, np.float64), 4), labels, CLASSES)
        assert_same(found, want, atol=1e-9)


@pytest.mark.long
def test_more_points_than_a_block_has_sources():
    rng = np.random.default_rng(5)
    x, labels = jnp.asarray(rng.normal(size=(400, 3)), jnp.float32), jnp.asarray(rng.integers(-1, 3, 400), jnp.int32)
    graph = knn_graph(x, k=5)
    found = graph_intrusions(graph, labels, num_classes=CLASSES)
    assert_identities(found, graph, labels)
    assert np.isnan(found.by_class[3:]).all()


@pytest.mark.check_shapes(False)
@pytest.mark.long
def test_what_cannot_be_told_is_nan():
    x, labels = case("random", 2)
    knn = knn_graph(x, k=4)
    call = jax.jit(lambda graph, labels: graph_intrusions(graph, labels, num_classes=CLASSES))
    broken = call(knn, labels.at[0].set(CLASSES))
    assert np.isnan(broken.by_class).all()
    assert np.isnan(broken.of_points).all()
    edges = undirected(knn)
    nan = Graph(edges.senders, edges.receivers, edges.lengths.at[0].set(jnp.nan), edges.degrees)
    assert np.isnan(graph_intrusions(pack(nan), labels, num_classes=CLASSES).point_scores).all()
    with pytest.raises(ValueError, match="labels"):
        graph_intrusions(knn, labels.at[0].set(CLASSES), num_classes=CLASSES)
    with pytest.raises(ValueError, match="KNNGraph"):
        graph_intrusions(3, labels, num_classes=CLASSES)


# Segments


def test_segments_against_every_point_between():
    """Three classes along a line and a fourth that no point has; class 4 has one point."""
    x = jnp.asarray([[0.0], [1.0], [4.0], [5.0], [9.0], [2.0], [3.0]])
    labels = jnp.asarray([0, 0, 0, 1, 1, 4, -1], jnp.int32)
    edges = np.array([1.5, 3.5, 4.5, 7.5])
    order = np.array([0, 5, 0, 1, 6])  # of the regions; columns 5 and 6 are no class of a point

    def predict(h):
        return jax.nn.one_hot(jnp.asarray(order)[jnp.searchsorted(edges, h[:, 0])], 7)

    found = euclidean_intrusions(predict, x, labels, num_classes=CLASSES, num_points=3)
    along, scores = np.full((CLASSES, CLASSES + 1, 3), np.nan), [[] for _ in x]
    for c, pairs in ((0, [(0, 1), (0, 2), (1, 2)]), (1, [(3, 4)])):
        along[c] = 0
        for i, j in pairs:
            for ends in ((i, j), (j, i)):
                between = [float(x[ends[0], 0] + (x[ends[1], 0] - x[ends[0], 0]) * t) for t in (1 / 4, 1 / 2, 3 / 4)]
                regions = order[np.searchsorted(edges, between)]
                for m, region in enumerate(regions):
                    along[c, min(region, CLASSES), m] += 1 / 2 / len(pairs)
                scores[ends[0]].append(np.mean(regions == c))
    np.testing.assert_allclose(found.along, along, atol=1e-6)
    by_class = along.mean(axis=2)
    by_class[range(CLASSES), range(CLASSES)] *= 0
    np.testing.assert_allclose(found.by_class, by_class, atol=1e-6)
    np.testing.assert_allclose(found.point_scores, [np.mean(each) if each else np.nan for each in scores], atol=1e-6)
    score = euclidean_convexity(predict, x, labels, num_classes=CLASSES, num_points=3)
    np.testing.assert_allclose(1 - score.per_class, found.by_class.sum(axis=1), atol=1e-6)


@pytest.mark.long
def test_segments_eager_jit_and_vmap_and_a_logit_of_nan():
    rng = np.random.default_rng(0)
    w, x = (
        jnp.asarray(rng.normal(size=(2, CLASSES)), jnp.float32),
        jnp.asarray(rng.normal(size=(2, 12, 2)), jnp.float32),
    )
    labels = jnp.asarray(rng.integers(-1, 2, (2, 12)), jnp.int32)

    def call(w, x, labels):
        return euclidean_intrusions(lambda h: jnp.sin(3 * h) @ w, x, labels, num_classes=CLASSES, num_points=4)

    want = [call(w, *one) for one in zip(x, labels, strict=True)]
    assert float(want[0].by_class[:2].min()) >= 0
    assert float(want[0].by_class[0].sum()) > 0.1
    together = jax.jit(jax.vmap(call, in_axes=(None, 0, 0)))(w, x, labels)
    for i, one in enumerate(want):
        assert_same(jax.tree.map(lambda part, i=i: part[i], together), one)
    broken = euclidean_intrusions(lambda h: jnp.full((len(h), CLASSES), jnp.nan), x[0], labels[0], num_classes=CLASSES)
    assert np.isnan(broken.by_class).all()
