"""Scores of drawn sources, of several labelings at once, and what they cost in certainty."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxconvex import graph_convexity, graph_pair_scores, knn_graph, pack
from jaxconvex.paths.graph import as_graph
from jaxconvex.scores import packed as packed_scores
from jaxconvex.scores.packed import packed_scores as score_labelings

pytestmark = pytest.mark.check_shapes


def packed_graph_convexity(packed, labels, *, num_classes, **options):
    return score_labelings(packed, [labels], [num_classes], **options)[0]


def example(n=260, classes=4, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 3)).astype(np.float32)
    x[-20:] = x[:20]
    labels = np.where(rng.random(n) < 0.1, -1, (x[:, 0] * 2 + rng.normal(size=n)).argsort().argsort() * classes // n)
    return pack(knn_graph(jnp.asarray(x), k=6)), labels.astype(np.int32)


GRAPH, LABELS = example()
PAIRS = graph_pair_scores(GRAPH, jnp.asarray(LABELS), num_classes=4)


def drawn(key, **options):
    return packed_graph_convexity(GRAPH, LABELS, num_classes=5, key=jax.random.key(key), **options)


@pytest.mark.long
def test_drawing_all_sources_is_scoring_all_pairs():
    whole, all_drawn = packed_graph_convexity(GRAPH, LABELS, num_classes=5), drawn(0, max_sources=len(LABELS))
    for name in whole._fields:
        if name != "sem_paper":  # the pairs are counted from both ends there
            np.testing.assert_allclose(getattr(all_drawn, name), getattr(whole, name), rtol=1e-6, err_msg=name)
    np.testing.assert_allclose(all_drawn.sem_paper, whole.sem_paper, rtol=1e-3)


@pytest.mark.long
def test_drawn_sources_against_the_matrix_of_pair_scores():
    """The draw must be a set of rows: their mean, and the error from their spread, are what the matrix gives."""
    score = drawn(3, max_sources=1)
    for c, (members, pairs) in enumerate(PAIRS):
        rows = np.nanmean(pairs, axis=1)
        assert np.abs(rows - score.per_class[c]).min() < 1e-6
        assert score.num_sources[c] == 1 and score.num_pairs[c] == len(members) * (len(members) - 1) // 2
    assert np.isnan(score.per_class[4]) and score.num_sources[4] == score.num_pairs[4] == 0
    assert np.isnan(score.se_sources).all() and np.isnan(score.se_pairs).all()


@pytest.mark.long
def test_the_interval_of_drawn_sources_covers_the_score_of_all_pairs():
    whole = packed_graph_convexity(GRAPH, LABELS, num_classes=5)
    scores = [drawn(key, max_sources=20) for key in range(150)]
    away = np.array([(s.per_class - whole.per_class)[:4] for s in scores])
    errors = np.array([s.se_sources[:4] for s in scores])
    np.testing.assert_allclose(errors.mean(axis=0), away.std(axis=0), rtol=0.2)
    covered = np.mean(np.abs(away) <= 2.09 * errors)  # t with 19 degrees of freedom
    assert 0.91 < covered < 0.98, covered


def test_tolerance_draws_until_every_interval_is_narrow():
    score = drawn(1, tolerance=0.02)
    assert (1.96 * score.se_sources[:4] <= 0.02).all()
    assert (score.num_sources[:4] >= np.minimum(64, score.num_points[:4])).all()
    strict = drawn(1, tolerance=1e-4)
    assert (strict.num_sources == strict.num_points).all()
    bounded = drawn(1, tolerance=1e-4, max_sources=30)
    assert (bounded.num_sources[:4] == 30).all()


@pytest.mark.long
def test_more_sources_go_on_from_fewer():
    """So that a tolerance gives what the same number of sources gives."""
    by_tolerance = drawn(5, tolerance=0.015)
    for c in range(4):
        alone = drawn(5, max_sources=int(by_tolerance.num_sources[c]))
        np.testing.assert_allclose(by_tolerance.per_class[c], alone.per_class[c], rtol=1e-6)


@pytest.mark.long
@pytest.mark.parametrize("options", [{}, {"max_sources": 25}, {"max_pairs": 300}])
def test_several_labelings_share_the_paths(options):
    rng = np.random.default_rng(2)
    other = np.where(rng.random(len(LABELS)) < 0.2, rng.integers(0, 3, len(LABELS)), LABELS % 3).astype(np.int32)
    key = jax.random.key(7)
    together = score_labelings(GRAPH, [LABELS, other], [4, 3], key=key, **options)
    for i, (labels, classes) in enumerate(((LABELS, 4), (other, 3))):
        if i and "max_sources" in options:
            continue  # each labeling draws its own sources
        alone = packed_graph_convexity(GRAPH, labels, num_classes=classes, key=key, **options)
        for name in alone._fields:
            np.testing.assert_allclose(
                getattr(together[i], name), getattr(alone, name), rtol=1e-5, atol=1e-6, err_msg=name
            )


def test_many_points_are_sampled_and_that_is_said(monkeypatch):
    monkeypatch.setattr(packed_scores, "EXACT", 100)
    with pytest.warns(UserWarning, match="max_sources"):
        score = packed_graph_convexity(GRAPH, LABELS, num_classes=4)
    assert (score.num_sources == np.minimum(64, score.num_points)).all()
    np.testing.assert_array_equal(score.per_class, drawn(0, max_sources=64).per_class[:4])


def test_without_labelled_points_nothing_is_defined():
    nobody = np.full(len(LABELS), -1, np.int32)
    for options in ({}, {"max_sources": 5}, {"max_pairs": 5}, {"tolerance": 0.1}):
        score = packed_graph_convexity(GRAPH, nobody, num_classes=3, key=jax.random.key(0), **options)
        assert np.isnan(score.per_class).all() and np.isnan(score.micro) and not score.num_pairs.any()


def test_memory_is_bounded_and_blocks_are_cut_to_fit():
    whole = packed_graph_convexity(GRAPH, LABELS, num_classes=4)
    needed = sum(part.nbytes for part in jax.tree.leaves(GRAPH))
    small = packed_graph_convexity(GRAPH, LABELS, num_classes=4, memory=needed + 1.5e6)
    np.testing.assert_allclose(small.per_class, whole.per_class, rtol=1e-6)
    with pytest.raises(ValueError, match=r"need at least .* GB"):
        packed_graph_convexity(GRAPH, LABELS, num_classes=4, memory=1e5)
    with pytest.raises(ValueError, match="GB"):
        knn_graph(jnp.zeros((100, 3)), k=3, memory=1e5)


@pytest.mark.long
def test_under_jit_the_same_sources_are_drawn():
    graph, labels = as_graph(GRAPH), jnp.asarray(LABELS)
    options = {"num_classes": 4, "max_sources": 9}
    one = graph_convexity(graph, labels, key=jax.random.key(4), **options)
    other = jax.jit(lambda g, y, k: graph_convexity(g, y, key=k, **options))(graph, labels, jax.random.key(4))
    for name in one._fields:
        np.testing.assert_allclose(getattr(other, name), getattr(one, name), rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"max_sources": 0}, "max_sources"),
        ({"tolerance": 0.0}, "tolerance"),
        ({"tolerance": 1.5}, "tolerance"),
        ({"max_sources": 5}, "key"),
        ({"max_sources": 5, "max_pairs": 5, "key": jax.random.key(0)}, "one way"),
    ],
)
def test_bad_sampling_is_refused(options, words):
    with pytest.raises(ValueError, match=words):
        graph_convexity(GRAPH, jnp.asarray(LABELS), num_classes=4, **options)
