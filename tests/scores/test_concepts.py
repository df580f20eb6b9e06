"""Concepts that overlap, against the definitions and against labels where they do not."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from jaxconvex import concept_convexity, graph_convexity, knn_graph, pack
from jaxconvex.scores.aggregates import ConvexityScore

N = 49


def points(kind, rng):
    x = rng.normal(size=(N, 2))
    if kind == "grid":
        x = np.stack(np.meshgrid(np.arange(7), np.arange(7)), axis=-1).reshape(N, 2)[rng.permutation(N)]
    elif kind == "duplicates":
        x[25:] = x[:24]
    elif kind == "islands":
        x[20:] += 50 * (rng.integers(0, 3, (29, 1)) - 1)
    elif kind == "outlier":
        x[0] = 1e7
    return jnp.asarray(x, jnp.float32)


def memberships(rng, m=5):
    """Concepts of half the points and of few, all, none, one and two."""
    table = rng.random((N, m)) < np.linspace(0.1, 0.7, m)
    special = np.zeros((N, 4), bool)
    special[:, 0], special[3, 2], special[[5, 9], 3] = True, True, True
    return np.concatenate([table, special], axis=1)


@pytest.mark.long(after=1)
@pytest.mark.parametrize("kind", ["random", "grid", "duplicates", "islands", "outlier"])
def test_parity(kind):
    rng = np.random.default_rng(3)
    x, table = points(kind, rng), memberships(rng)
    if kind == "outlier":  # so far away, float32 does not tell its paths apart
        table[0] = False
    score = concept_convexity(knn_graph(x, k=4), table)
    oracles.assert_score(score, oracles.concept_convexity(oracles.knn_adjacency(np.asarray(x), 4), table))


@pytest.mark.parametrize("kind", ["random", "grid"])
@pytest.mark.long(after=1)
def test_concepts_that_do_not_overlap_are_labels(kind):
    rng = np.random.default_rng(4)
    labels, packed = jnp.asarray(rng.integers(-1, 5, N), jnp.int32), pack(knn_graph(points(kind, rng), k=4))
    want = graph_convexity(packed, labels, num_classes=5)
    for given in (np.asarray(labels)[:, None] == np.arange(5), [np.flatnonzero(labels == c) for c in range(5)]):
        found = concept_convexity(packed, given)
        for name in ConvexityScore._fields:
            np.testing.assert_allclose(getattr(found, name), getattr(want, name), rtol=0, atol=1e-6, err_msg=name)


@pytest.mark.long
def test_more_points_than_a_block_has_sources_and_a_piece_members():
    rng = np.random.default_rng(5)
    x, table = rng.normal(size=(400, 3)).astype(np.float32), rng.random((400, 12)) < 0.4
    score = concept_convexity(knn_graph(jnp.asarray(x), k=5), table)
    oracles.assert_score(score, oracles.concept_convexity(oracles.knn_adjacency(x, 5), table))


@pytest.mark.long(after=1)
@pytest.mark.parametrize("kind", ["random", "grid", "islands"])
def test_under_jit_and_vmap_as_outside(kind):
    rng = np.random.default_rng(6)
    tables = jnp.asarray(np.stack([memberships(rng) for _ in range(2)]))
    graph = knn_graph(points(kind, rng), k=4)
    inside = jax.jit(concept_convexity)(graph, tables[0])
    mapped = jax.vmap(concept_convexity, in_axes=(None, 0))(graph, tables)
    for i, found in enumerate((inside, *(jax.tree.map(lambda part, i=i: part[i], mapped) for i in range(2)))):
        want = concept_convexity(graph, tables[max(i - 1, 0)])
        for name in ConvexityScore._fields:
            tolerance = 3e-4 if "se" in name else 2e-6  # errors of no spread are differences of float32
            given = getattr(found, name), getattr(want, name)
            np.testing.assert_allclose(*given, rtol=0, atol=tolerance, err_msg=name)


@pytest.mark.long
def test_paths_of_more_points_than_a_byte_counts():
    rng = np.random.default_rng(7)
    x = np.cumsum(rng.uniform(0.5, 1.5, 300))[:, None].astype(np.float32)
    table = rng.random((300, 3)) < 0.5
    score = concept_convexity(knn_graph(jnp.asarray(x), k=2), table)
    oracles.assert_score(score, oracles.concept_convexity(oracles.knn_adjacency(x, 2), table))


@pytest.mark.long
def test_points_in_more_concepts_than_are_looked_at_together():
    rng = np.random.default_rng(8)
    x, table = points("grid", rng), rng.random((N, 170)) < 0.9
    score = concept_convexity(knn_graph(x, k=4), table)
    oracles.assert_score(score, oracles.concept_convexity(oracles.knn_adjacency(np.asarray(x), 4), table))


def test_what_is_refused():
    graph, table = knn_graph(points("random", np.random.default_rng(0)), k=4), np.zeros((N, 2), int)
    for wrong in (table[:-1], table + 2, table[:, 0], [[0, N]], [[-1]], [[0.5]]):
        with pytest.raises(ValueError, match="memberships must be"):
            concept_convexity(graph, wrong)
    for wrong in (table[:-1], table[:, 0], table * 0.5):
        with pytest.raises(ValueError, match="memberships must be"):
            jax.jit(lambda t: concept_convexity(graph, t))(wrong)
    assert np.isnan(concept_convexity(graph, table).per_class).all()


@pytest.mark.long(after=1)
def test_a_table_of_other_values_is_nan_under_jit():
    rng = np.random.default_rng(0)
    graph, table = knn_graph(points("random", rng), k=4), memberships(rng).astype(np.int32)
    score = jax.jit(concept_convexity)
    assert not np.isnan(score(graph, table).per_class[0])
    assert np.isnan(score(graph, table * 2).per_class).all()
