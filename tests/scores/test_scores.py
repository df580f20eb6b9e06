"""Graph and Euclidean convexity against the oracles, field by field; invariances; all forms of a graph; bad input."""

from __future__ import annotations

import itertools
import re

import chex
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis import strategies
from sklearn.datasets import make_blobs, make_moons

from jaxconvex.neighbors import epsilon_graph, knn_graph
from jaxconvex.paths.graph import undirected
from jaxconvex.paths.layout import pack
from jaxconvex.paths.pairs import same_class_pairs
from jaxconvex.scores.graph import ConvexityScore, euclidean_convexity, graph_convexity, graph_pair_scores

pytestmark = pytest.mark.check_shapes
FLOATS = ("per_class", "sem_paper", "se_pairs", "adjacent", "disconnected", "inside", "nonadjacent")


def as_jax(x, labels):
    return jnp.asarray(x, jnp.float32), jnp.asarray(labels, jnp.int32)


def score_of(x, labels, num_classes=3, k=4, **options):
    x, labels = as_jax(x, labels)
    return graph_convexity(undirected(knn_graph(x, k=k), **options), labels, num_classes=num_classes)


def take(tree, i):
    return jax.tree.map(lambda a: a[i], tree)


def assert_same(got, want, atol=1e-6):
    for name in type(want)._fields:
        np.testing.assert_allclose(getattr(got, name), getattr(want, name), rtol=0, atol=atol, err_msg=name)


# The parity and sanity cases of DESIGN


def test_parity_case():
    x, labels = make_blobs(120, centers=3, n_features=5, cluster_std=6, random_state=0)
    score = score_of(x, labels, k=10)
    assert np.round(100 * np.asarray(score.per_class), 2).tolist() == pytest.approx([76.54, 72.95, 69.72], abs=1e-4)
    assert float(score.micro) * 100 == pytest.approx(73.07, abs=0.005)
    oracles.assert_score(score, oracles.knn_convexity(x.astype(np.float32), labels, 3))
    assert oracles.nnconvexity(x, labels) == (73.07, {0: 76.54, 1: 72.95, 2: 69.72})


@pytest.mark.long
def test_moons():
    for seed in range(2):
        whole = score_of(*make_moons(100, noise=0.05, random_state=seed), k=10, num_classes=2)
        np.testing.assert_array_equal(whole.per_class, [1, 1])
    x, labels = make_moons(200, noise=0.05, random_state=1)
    broken = score_of(x, labels, k=3, num_classes=2)
    assert float(broken.micro) * 100 == pytest.approx(29.99, abs=0.005)
    assert float(broken.disconnected.mean()) == pytest.approx(0.70, abs=0.005)
    oracles.assert_score(broken, oracles.knn_convexity(x.astype(np.float32), labels, 2, k=3))


@pytest.mark.long
@pytest.mark.parametrize("repeated", (0, 15))
def test_parity_with_nnconvexity(repeated):
    """Duplicates dropped, percentages, labels 0..C-1, all pairs. Copies keep their label: ties then do not matter."""
    for seed in range(6):
        x, labels = make_blobs(60, centers=3, n_features=4, cluster_std=5, random_state=seed)
        x[-repeated or 60 :], labels[-repeated or 60 :] = x[:repeated], labels[:repeated]
        x = x.astype(np.float32)
        micro, per_class = oracles.nnconvexity(x, labels, k=5)
        score = score_of(x, labels, k=5, duplicates="drop")
        assert [100 * float(s) for s in score.per_class] == pytest.approx([per_class[c] for c in range(3)], abs=0.00501)
        assert 100 * float(score.micro) == pytest.approx(micro, abs=0.00501)
        if repeated:
            assert np.abs(np.asarray(score_of(x, labels, k=5).per_class - score.per_class)).max() > 1e-3


# Every field against the oracle


@pytest.mark.long(after=1)
@pytest.mark.parametrize(("mode", "duplicates"), list(itertools.product(("union", "mutual"), ("link", "drop"))))
def test_random_cases(mode, duplicates):
    """Grids full of ties and duplicates, and points at random; background, classes of no, one and two points."""
    skipped = 0
    for seed in range(25):
        rng = np.random.default_rng(seed)
        kind = seed % 3
        x = rng.normal(size=(40, 3)) if kind == 0 else rng.integers(0, (6, 30)[kind - 1], (40, 2 + kind))
        x = np.pad(x, ((0, 0), (0, 5 - x.shape[1]))).astype(np.float32)
        labels = oracles.awkward_labels(rng, 40, 6) if seed % 2 else rng.integers(-1, 6, 40)
        adjacency = oracles.knn_adjacency(x, 4, "euclidean", mode, duplicates)
        if not oracles.clear(adjacency, labels):
            skipped += 1
            continue
        score = score_of(x, labels, num_classes=6, mode=mode, duplicates=duplicates)
        oracles.assert_score(score, oracles.graph_convexity(adjacency, labels, 6))
    assert skipped <= 2


@pytest.mark.long(after=1)
@pytest.mark.parametrize("metric", ("cosine", "manhattan"))
def test_other_metrics(metric):
    for seed in range(8):
        rng = np.random.default_rng(seed)
        x, labels = rng.normal(size=(40, 5)).astype(np.float32), rng.integers(-1, 3, 40)
        adjacency = oracles.knn_adjacency(x, 4, metric)
        assert oracles.clear(adjacency, labels)
        points, classes = as_jax(x, labels)
        score = graph_convexity(knn_graph(points, k=4, metric=metric), classes, num_classes=3)
        oracles.assert_score(score, oracles.graph_convexity(adjacency, labels, 3))


@pytest.mark.long
def test_epsilon_graph():
    for seed in range(8):
        rng = np.random.default_rng(seed)
        x, labels = rng.normal(size=(40, 2)).astype(np.float32), rng.integers(-1, 3, 40)
        adjacency = oracles.epsilon_adjacency(x, 0.5)
        assert oracles.clear(adjacency, labels)
        points, classes = as_jax(x, labels)
        score = graph_convexity(epsilon_graph(points, radius=0.5, max_degree=25), classes, num_classes=3)
        oracles.assert_score(score, oracles.graph_convexity(adjacency, labels, 3))


@pytest.mark.long
@pytest.mark.parametrize(("n", "classes", "k"), [(400, 3, 6), (700, 2, 8)])
def test_several_blocks_of_sources_and_slices_of_rows(n, classes, k):
    rng = np.random.default_rng(n)
    x, labels = make_blobs(n, centers=classes, n_features=4, cluster_std=5, random_state=1)
    x, labels = x.astype(np.float32), np.where(rng.random(n) < 0.1, -1, labels)
    adjacency = oracles.knn_adjacency(x, k)
    paths = oracles.shortest_paths(adjacency, labels, np.flatnonzero(labels >= 0))
    want = oracles.graph_convexity(adjacency, labels, classes, paths=paths)
    scores = oracles.pair_scores(adjacency, paths)
    points, known = as_jax(x, labels)
    knn = knn_graph(points, k=k)
    for graph in (knn, undirected(knn), pack(knn)):
        oracles.assert_score(graph_convexity(graph, known, num_classes=classes), want)
    for members, found in graph_pair_scores(knn, known, num_classes=classes):
        np.testing.assert_allclose(found, scores[np.ix_(members, members)], atol=1e-6)


@pytest.mark.long
def test_a_hub_beside_many_small_rows():
    rng = np.random.default_rng(0)
    x = np.concatenate([np.zeros((1, 60)), 2 * np.eye(60), rng.normal(size=(239, 60)) * 0.01 + 10]).astype(np.float32)
    labels = rng.integers(0, 3, 300)
    adjacency = oracles.knn_adjacency(x, 2)
    assert np.isfinite(adjacency[0]).sum() >= 59
    if oracles.clear(adjacency, labels):
        oracles.assert_score(score_of(x, labels, k=2), oracles.graph_convexity(adjacency, labels, 3))


def test_pair_scores():
    x, labels = np.random.default_rng(0).integers(0, 7, (40, 2)), np.random.default_rng(1).integers(-1, 4, 40)
    adjacency = oracles.knn_adjacency(x, 4)
    want = oracles.pair_scores(adjacency, oracles.exact_shortest_paths(adjacency, x, labels))
    points, known = as_jax(x, labels)
    found = graph_pair_scores(knn_graph(points, k=4), known, num_classes=5)
    assert len(found) == 5
    for c, (members, scores) in enumerate(found):
        np.testing.assert_array_equal(members, np.flatnonzero(labels == c))
        np.testing.assert_allclose(scores, want[np.ix_(members, members)], atol=1e-6)
        assert np.isnan(np.diag(scores)).all()
    score = graph_convexity(knn_graph(points, k=4), known, num_classes=5)
    np.testing.assert_allclose(score.per_class[:4], [np.nanmean(scores) for _, scores in found[:4]], atol=1e-6)


@pytest.mark.long
def test_se_pairs_is_the_jackknife_over_points_of_a_fixed_graph():
    """An independent form: leave each point out of the mean over pairs, (n-1)/n sum (U_i - mean U)^2."""
    rng = np.random.default_rng(3)
    x, labels = as_jax(rng.normal(size=(40, 3)), rng.integers(0, 2, 40))
    score = graph_convexity(knn_graph(x, k=3), labels, num_classes=2)
    for c, (_, scores) in enumerate(graph_pair_scores(knn_graph(x, k=3), labels, num_classes=2)):
        n = len(scores)
        left_out = [np.nanmean(np.delete(np.delete(scores, i, 0), i, 1)) for i in range(n)]
        assert float(score.se_pairs[c]) == pytest.approx(
            np.sqrt((n - 1) / n * np.sum((left_out - np.mean(left_out)) ** 2)), rel=1e-4
        )


@pytest.mark.long
def test_random_labels_score_what_the_formula_says():
    """E = p_adj + (1 - p_adj - p_disc)(n_c - 2)/(n - 2), over 400 permutations by vmap."""
    rng = np.random.default_rng(4)
    x, labels = rng.normal(size=(60, 2)).astype(np.float32), np.repeat([0, 1, 2], [10, 20, 30])
    want = oracles.random_label_score(oracles.knn_adjacency(x, 3), labels, 3)
    permuted = jnp.asarray(np.stack([rng.permutation(labels) for _ in range(400)]), jnp.int32)
    graph = undirected(knn_graph(jnp.asarray(x), k=3))
    score = jax.jit(jax.vmap(lambda some: graph_convexity(graph, some, num_classes=3)))(permuted)
    mean, spread = np.mean(score.per_class, axis=0), np.std(score.per_class, axis=0, ddof=1) / 20
    assert (np.abs(mean - want) < 4 * spread).all()
    for i in (0, 399):
        oracles.assert_score(take(score, i), oracles.permuted_scores(oracles.knn_adjacency(x, 3), [permuted[i]], 3)[0])


# Small, degenerate and extreme


@pytest.mark.long
@pytest.mark.parametrize(
    ("labels", "per_class", "pairs"),
    [([0, 0], [1, np.nan], [1, 0]), ([1, 1], [np.nan, 1], [0, 1]), ([0, -1], None, None)],
)
def test_two_points(labels, per_class, pairs):
    if per_class is None:
        oracles.assert_score(
            score_of([[0.0], [1.0]], labels, 2, k=1), oracles.knn_convexity([[0.0], [1.0]], labels, 2, k=1)
        )
        return
    score = score_of([[0.0], [1.0]], labels, 2, k=1)
    np.testing.assert_array_equal(score.per_class, per_class)
    np.testing.assert_array_equal(score.num_pairs, pairs)
    assert np.isnan(score.sem_paper).all() and np.isnan(score.se_pairs).all()
    assert float(score.micro) == float(score.macro) == 1


@hypothesis.given(
    strategies.lists(strategies.integers(0, 3), min_size=3, max_size=3),
    strategies.lists(strategies.integers(-1, 1), min_size=3, max_size=3),
)
@pytest.mark.long
def test_three_points(x, labels):
    x = np.array(x, np.float32)[:, None]
    adjacency = oracles.knn_adjacency(x, 1)
    oracles.assert_score(score_of(x, labels, 2, k=1), oracles.graph_convexity(adjacency, labels, 2))


@pytest.mark.long
def test_one_class_only():
    x = np.random.default_rng(0).normal(size=(40, 3))
    score = score_of(x, np.zeros(40), num_classes=1)
    oracles.assert_score(score, oracles.knn_convexity(x.astype(np.float32), np.zeros(40), 1, k=4))
    np.testing.assert_allclose(score.per_class + score.disconnected, [1])


def test_no_pairs_at_all_is_nan():
    score = score_of(np.arange(40.0)[:, None], np.where(np.arange(40) < 3, np.arange(40), -1))
    assert np.isnan(score.per_class).all() and np.isnan(score.micro) and np.isnan(score.macro)
    assert score.num_pairs.tolist() == [0, 0, 0] and score.num_points.tolist() == [1, 1, 1]


@pytest.mark.long(after=1)
@pytest.mark.parametrize("x", [np.zeros((40, 3)), np.full((40, 3), 300.1), np.repeat(np.eye(20, 3), 2, axis=0)])
def test_constant_data_and_all_points_repeated(x):
    labels = np.random.default_rng(0).integers(-1, 3, 40)
    adjacency = oracles.knn_adjacency(x.astype(np.float32), 4)
    oracles.assert_score(score_of(x, labels), oracles.graph_convexity(adjacency, labels, 3))


@pytest.mark.long
@pytest.mark.parametrize("far", (1e5, 1e7))
def test_one_point_far_away(far):
    """The others score what they score beside a point not so far."""
    for seed in range(4):
        rng = np.random.default_rng(seed)
        x, labels = rng.normal(size=(300, 3)).astype(np.float32), rng.integers(0, 3, 300)
        labels[7] = -1
        x[7] = far
        knn = knn_graph(jnp.asarray(x), k=6)
        adjacency = oracles.undirected(np.asarray(knn.indices), np.asarray(knn.distances, np.float64))
        want = oracles.graph_convexity(adjacency, labels, 3)
        np.testing.assert_array_equal(
            np.delete(np.isfinite(adjacency), 7, 0), np.delete(np.isfinite(adjacency.T), 7, 1).T
        )
        score = graph_convexity(knn, jnp.asarray(labels, jnp.int32), num_classes=3)
        np.testing.assert_allclose(score.per_class, want.per_class, atol=1e-4)  # a near-tie of 1e-6 in 15,000 pairs
        oracles.assert_score(score, want, atol=1e-4)


def test_disconnected_clusters_score_zero_between():
    x = np.concatenate([np.random.default_rng(i).normal(size=(10, 2)) + 1e3 * i for i in range(4)])
    score = score_of(x, np.repeat([0, 0, 1, 1], 10), num_classes=2)
    np.testing.assert_allclose(score.disconnected, [100 / 190] * 2, rtol=1e-6)
    np.testing.assert_allclose(score.per_class, [90 / 190] * 2, rtol=1e-6)
    np.testing.assert_allclose(score.inside, score.per_class)


@pytest.mark.long(after=1)
@pytest.mark.check_shapes(False)
@pytest.mark.parametrize("dtype", ["uint8", "int32", "float16", "bfloat16", "float64"])
def test_other_types(dtype):
    rng = np.random.default_rng(5)
    x, labels = rng.integers(0, 50, (40, 5)).astype(jnp.dtype(dtype)), rng.integers(-1, 3, 40)
    want = oracles.knn_convexity(x.astype(np.float64), labels, 3, k=4)
    for kind in ("int8", "int64"):
        score = graph_convexity(knn_graph(x, k=4), labels.astype(kind), num_classes=3)
        assert score.per_class.dtype == jnp.float32
        oracles.assert_score(score, want)


@pytest.mark.long
def test_float64():
    with jax.enable_x64(True):
        rng = np.random.default_rng(6)
        x, labels = jnp.asarray(rng.normal(size=(40, 5))), jnp.asarray(rng.integers(-1, 3, 40), jnp.int32)
        eager = graph_convexity(knn_graph(x, k=4), labels, num_classes=3)
        compiled = jax.jit(lambda x: graph_convexity(knn_graph(x, k=4), labels, num_classes=3))(x)
        want = oracles.knn_convexity(x, labels, 3, k=4)
        for score in (eager, compiled):
            assert score.per_class.dtype == score.sem_paper.dtype == jnp.float64
            # Squares add up in whole numbers of 2^-30.
            oracles.assert_score(score._replace(sem_paper=want.sem_paper), want, atol=1e-12)
            np.testing.assert_allclose(score.sem_paper, want.sem_paper, atol=1e-8)


def test_an_offset_changes_nothing():
    rng = np.random.default_rng(7)
    x = (rng.integers(-999, 999, (40, 3)) / 64).astype(np.float32)
    labels = rng.integers(-1, 3, 40)
    assert_same(score_of(x + np.float32(300), labels), score_of(x, labels))


# Invariances


def test_isometry_scale_order_of_rows_and_names_of_labels():
    rng = np.random.default_rng(8)
    x, labels = rng.normal(size=(40, 3)), rng.integers(-1, 3, 40)
    assert oracles.clear(oracles.knn_adjacency(x, 4), labels)
    want = score_of(x, labels)
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    assert_same(score_of(x @ rotation + 5, labels), want)
    for scale in (1e-12, 1e-3, 7.0, 1e12):
        assert_same(score_of(x * scale, labels), want)
    order = rng.permutation(40)
    assert_same(score_of(x[order], labels[order]), want)
    renamed = np.array([2, 0, 1, -1])[labels]
    assert_same(score_of(x, renamed), ConvexityScore(*(f[jnp.array([1, 2, 0])] for f in want)))


@pytest.mark.long
def test_order_of_rows_does_not_matter_with_ties_and_duplicates():
    """Within an epsilon graph, whose neighbours no tie decides."""
    rng = np.random.default_rng(9)
    x, labels = as_jax(rng.integers(0, 5, (40, 2)), rng.integers(-1, 3, 40))
    want = graph_convexity(epsilon_graph(x, radius=1.5, max_degree=39), labels, num_classes=3)
    for _ in range(4):
        order = rng.permutation(40)
        assert_same(
            graph_convexity(epsilon_graph(x[order], radius=1.5, max_degree=39), labels[order], num_classes=3), want
        )


@pytest.mark.long
def test_an_affine_map_may_change_the_score():
    rng = np.random.default_rng(10)
    x, labels = rng.normal(size=(40, 3)), rng.integers(0, 3, 40)
    assert (
        np.abs(np.asarray(score_of(x * [100, 1, 0.01], labels).per_class - score_of(x, labels).per_class)).max() > 0.01
    )


# Every form of a graph, jit, vmap, gradients


@pytest.mark.long
def test_all_forms_agree_to_the_last_pair():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        x = rng.integers(0, 6, (40, 3)) if seed % 2 else rng.normal(size=(40, 3))
        x, labels = as_jax(x, oracles.awkward_labels(rng, 40, 5))
        knn = knn_graph(x, k=4)
        want = graph_convexity(knn, labels, num_classes=5)
        for graph in (knn, undirected(knn), pack(knn), pack(undirected(knn))):
            assert_same(graph_convexity(graph, labels, num_classes=5), want)
            assert_same(COMPILED(graph, labels), want)
        pairs = graph_pair_scores(knn, labels, num_classes=5)
        for graph in (undirected(knn), pack(knn)):
            chex.assert_trees_all_equal(graph_pair_scores(graph, labels, num_classes=5), pairs)


COMPILED = jax.jit(lambda graph, labels: graph_convexity(graph, labels, num_classes=5))


@pytest.mark.long
def test_vmap_over_layers_and_over_labelings():
    rng = np.random.default_rng(11)
    layers = jnp.asarray(rng.normal(size=(3, 40, 3)), jnp.float32)
    labelings = jnp.asarray(rng.integers(-1, 3, (4, 40)), jnp.int32)

    def function(x, labels):
        return graph_convexity(undirected(knn_graph(x, k=4)), labels, num_classes=3)

    over_both = jax.jit(jax.vmap(jax.vmap(function, (None, 0)), (0, None)))(layers, labelings)
    over_labels = jax.vmap(lambda labels: graph_convexity(knn_graph(layers[0], k=4), labels, num_classes=3))(labelings)
    chex.assert_shape(over_both.per_class, (3, 4, 3))
    chex.assert_shape([over_both.micro, over_both.macro], (3, 4))
    for i, j in itertools.product(range(3), range(4)):
        want = function(layers[i], labelings[j])
        assert_same(take(take(over_both, i), j), want)
        np.testing.assert_allclose(over_both.micro[i, j], want.micro, atol=1e-6)
        np.testing.assert_allclose(over_both.macro[i, j], want.macro, atol=1e-6)
        if i == 0:
            assert_same(take(over_labels, j), want)


@pytest.mark.long
def test_constants_inside_jit():
    rng = np.random.default_rng(12)
    x, labels = as_jax(rng.normal(size=(40, 3)), rng.integers(-1, 3, 40))
    knn = knn_graph(x, k=4)
    want = graph_convexity(knn, labels, num_classes=3).per_class
    for graph in (knn, pack(knn)):
        got = jax.jit(lambda scale: scale * graph_convexity(graph, labels, num_classes=3).per_class)(2.0)  # noqa: B023
        np.testing.assert_allclose(got, 2 * want, atol=1e-6)
    got = jax.jit(lambda labels: graph_convexity(knn, labels, num_classes=3).per_class)(labels)
    np.testing.assert_allclose(got, want, atol=1e-6)


@pytest.mark.long
def test_gradient_is_zero():
    rng = np.random.default_rng(13)
    x, labels = as_jax(rng.normal(size=(40, 3)), rng.integers(0, 3, 40))
    x = x.at[1].set(x[0])

    def micro(x):
        return graph_convexity(undirected(knn_graph(x, k=4)), labels, num_classes=3).micro

    for gradient in (jax.grad(micro)(x), jax.jit(jax.grad(micro))(x)):
        np.testing.assert_array_equal(gradient, np.zeros((40, 3)))


def test_fields_and_ranges():
    rng = np.random.default_rng(14)
    for seed in range(5):
        score = score_of(rng.normal(size=(40, 3)), rng.integers(-1, 3, 40))
        assert score._fields == (
            "per_class",
            "num_pairs",
            "num_points",
            "sem_paper",
            "se_pairs",
            "adjacent",
            "disconnected",
            "inside",
            "nonadjacent",
            "num_sources",
            "se_sources",
        ), seed
        for name in FLOATS:
            value = np.asarray(getattr(score, name))
            assert value.shape == (3,) and ((value >= 0) & (value <= 1)).all(), name
        assert (score.inside >= score.adjacent).all()
        assert (score.inside <= score.per_class + 1e-6).all()
        np.testing.assert_allclose(
            score.per_class, score.adjacent + (1 - score.adjacent) * score.nonadjacent, atol=1e-6
        )


# A sample of the pairs


@pytest.mark.long
def test_drawn_pairs_are_the_mean_over_those_pairs():
    rng = np.random.default_rng(15)
    x, labels = as_jax(rng.normal(size=(40, 3)), np.where(rng.random(40) < 0.7, 0, rng.integers(-1, 3, 40)))
    key = jax.random.key(3)
    adjacency = oracles.knn_adjacency(x, 4)
    paths = oracles.shortest_paths(adjacency, labels)
    pairs = same_class_pairs(labels, num_classes=3, max_pairs=50, key=key)
    chosen = [
        [(int(i), int(j)) for i, j, ok in zip(*(np.asarray(p)[c] for p in pairs), strict=True) if ok] for c in range(3)
    ]
    want = oracles.summary(
        oracles.pair_scores(adjacency, paths), np.asarray(labels), 3, chosen, adjacency=adjacency, paths=paths
    )
    eager = graph_convexity(knn_graph(x, k=4), labels, num_classes=3, max_pairs=50, key=key)
    compiled = jax.jit(lambda labels: graph_convexity(knn_graph(x, k=4), labels, num_classes=3, max_pairs=50, key=key))(
        labels
    )
    for score in (eager, compiled):
        assert score.num_pairs.tolist() == [len(c) for c in chosen] and max(score.num_pairs) == 50
        for name in (
            "per_class",
            "num_points",
            "sem_paper",
            "adjacent",
            "disconnected",
            "inside",
            "nonadjacent",
            "micro",
            "macro",
        ):
            np.testing.assert_allclose(getattr(score, name), getattr(want, name), atol=1e-6, err_msg=name)
    assert_same(eager, compiled)


@pytest.mark.long
def test_drawn_pairs_are_unbiased_and_reproducible():
    rng = np.random.default_rng(16)
    x, labels = as_jax(rng.normal(size=(40, 3)), np.zeros(40))
    labels = labels.at[::3].set(1)
    packed = pack(knn_graph(x, k=3))
    truth = graph_convexity(packed, labels, num_classes=2)

    def draw(seed):
        return graph_convexity(packed, labels, num_classes=2, max_pairs=30, key=jax.random.key(seed))

    assert_same(draw(0), draw(0), atol=0)
    scores = np.stack([draw(seed).per_class for seed in range(60)])
    assert scores.std(0).min() > 0.001
    assert (np.abs(scores.mean(0) - truth.per_class) < 4.5 * scores.std(0, ddof=1) / np.sqrt(60)).all()


def test_max_pairs_above_all_pairs_changes_nothing():
    rng = np.random.default_rng(17)
    x, labels = as_jax(rng.normal(size=(40, 3)), rng.integers(-1, 3, 40))
    knn = knn_graph(x, k=4)
    assert_same(graph_convexity(knn, labels, num_classes=3, max_pairs=780), graph_convexity(knn, labels, num_classes=3))


# Euclidean convexity


def network(seed, features=4, classes=3, hidden=8):
    rng = np.random.default_rng(seed)
    first, second = rng.normal(size=(features, hidden)), rng.normal(size=(hidden, classes))

    def predict(h):
        flat = h.reshape(h.shape[0], -1)
        tanh, dot = (np.tanh, np.dot) if isinstance(h, np.ndarray) else (jnp.tanh, jnp.dot)
        return dot(tanh(dot(flat, first.astype(h.dtype))), second.astype(h.dtype))

    return predict


@pytest.mark.parametrize("num_points", (1, 10))
@pytest.mark.long(after=1)
def test_euclidean_is_the_oracle(num_points):
    for seed in range(5):
        rng = np.random.default_rng(seed)
        x, labels = rng.normal(size=(30, 4)).astype(np.float32), oracles.awkward_labels(rng, 30, 5)
        predict = network(seed, classes=5)
        score = euclidean_convexity(predict, *as_jax(x, labels), num_classes=5, num_points=num_points, max_pairs=None)
        oracles.assert_score(score, oracles.euclidean_convexity(predict, x, labels, 5, num_points), atol=2e-6)


def test_euclidean_takes_whole_activations():
    """Tokens and features: the segment runs through the whole of them."""
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(20, 2, 2)).astype(np.float32), rng.integers(0, 3, 20)
    score = euclidean_convexity(network(1), *as_jax(x, labels), num_classes=3)
    oracles.assert_score(score, oracles.euclidean_convexity(network(1), x, labels, 3), atol=2e-6)


@pytest.mark.long
def test_euclidean_does_not_depend_on_the_batch():
    rng = np.random.default_rng(1)
    x, labels = as_jax(rng.normal(size=(20, 4)), rng.integers(-1, 3, 20))
    want = euclidean_convexity(network(2), x, labels, num_classes=3)
    for batch_size in (1, 7, 10, 64, 10**6):
        assert_same(euclidean_convexity(network(2), x, labels, num_classes=3, batch_size=batch_size), want)


def linear(weights, bias=0.0):
    weights, bias = jnp.asarray(weights, jnp.float32), jnp.asarray(bias, jnp.float32)
    return lambda h: jnp.dot(h, weights, precision="highest") + bias


@pytest.mark.long
def test_euclidean_is_one_on_predicted_labels_of_a_linear_head():
    for seed in range(5):
        rng = np.random.default_rng(seed)
        x, weights, bias = rng.normal(size=(40, 6)), rng.normal(size=(6, 4)), rng.normal(size=4)
        labels = (x @ weights + bias).argmax(1)
        score = euclidean_convexity(linear(weights, bias), *as_jax(x, labels), num_classes=4)
        assert set(np.asarray(score.per_class)[np.asarray(score.num_pairs) > 0]) == {1.0}


def test_euclidean_is_invariant_under_affine_maps_with_the_head_transformed():
    with jax.enable_x64(True):
        rng = np.random.default_rng(2)
        x, labels = rng.normal(size=(40, 4)), jnp.asarray(rng.integers(-1, 3, 40), jnp.int32)
        mixing, shift = rng.normal(size=(4, 4)), rng.normal(size=4)
        predict = network(3)
        back = jnp.asarray(np.linalg.inv(mixing))
        plain = euclidean_convexity(predict, jnp.asarray(x), labels, num_classes=3)
        moved = euclidean_convexity(
            lambda h: predict((h - shift) @ back), jnp.asarray(x @ mixing + shift), labels, num_classes=3
        )
        assert plain.per_class.dtype == jnp.float64
        assert_same(moved, plain, atol=1e-12)
        assert (plain.per_class < 1).all()


def test_euclidean_invariant_under_order_of_rows_and_names_of_labels():
    rng = np.random.default_rng(3)
    x, labels = as_jax(rng.normal(size=(30, 4)), rng.integers(-1, 3, 30))
    predict = network(4)
    want = euclidean_convexity(predict, x, labels, num_classes=3)
    order = rng.permutation(30)
    assert_same(euclidean_convexity(predict, x[order], labels[order], num_classes=3), want)
    renamed = jnp.array([2, 0, 1, -1])[labels]
    got = euclidean_convexity(lambda h: predict(h)[:, jnp.array([1, 2, 0])], x, renamed, num_classes=3)
    assert_same(got, type(want)(*(f[jnp.array([1, 2, 0])] for f in want)))


@pytest.mark.long
def test_euclidean_jit_vmap_and_eager_agree():
    rng = np.random.default_rng(4)
    layers = jnp.asarray(rng.normal(size=(3, 30, 4)), jnp.float32)
    labels = jnp.asarray(rng.integers(-1, 3, 30), jnp.int32)
    predict, key = network(5), jax.random.key(0)

    def function(x, labels, key):
        return euclidean_convexity(predict, x, labels, num_classes=3, max_pairs=500, key=key)

    batched = jax.jit(jax.vmap(function, (0, None, None)))(layers, labels, key)
    for i, x in enumerate(layers):
        want = function(x, labels, key)
        oracles.assert_score(want, oracles.euclidean_convexity(predict, x, labels, 3), atol=2e-6)
        assert_same(jax.jit(function)(x, labels, key), want)
        assert_same(take(batched, i), want)


@pytest.mark.long
def test_eager_is_jit_at_forty_thousand_points():
    """jax 0.10.x on CPU gets a vmapped 3 x 3 product wrong above 32,768 rows (jax issue 39103)."""
    rng = np.random.default_rng(9)
    x, head = jnp.asarray(rng.normal(size=(40_000, 3)), jnp.float32), rng.normal(size=(3, 3)).astype(np.float32)
    predict = linear(head.T)

    def function(x, labels):
        return euclidean_convexity(
            predict, x, labels, num_classes=3, max_pairs=4000, key=jax.random.key(0), batch_size=40_000
        )

    labels = jnp.argmax(predict(x), axis=1)
    assert np.array_equal(labels, (np.float64(x) @ np.float64(head).T).argmax(1))
    swapped = jnp.where(labels == 1, 2, labels)
    for some, exact in ((labels, True), (swapped, False)):
        eager, compiled = function(x, some), jax.jit(function)(x, some)
        assert_same(eager, compiled)
        assert (eager.per_class[~np.isnan(eager.per_class)] == 1).all() == exact


@pytest.mark.long
def test_euclidean_draws_pairs_with_a_key():
    rng = np.random.default_rng(5)
    x, labels = as_jax(rng.normal(size=(40, 4)), rng.integers(0, 2, 40))
    predict = network(6)
    truth = euclidean_convexity(predict, x, labels, num_classes=2)

    def draw(seed):
        return euclidean_convexity(predict, x, labels, num_classes=2, max_pairs=30, key=jax.random.key(seed))

    assert_same(draw(0), draw(0), atol=0)
    assert draw(0).num_pairs.tolist() == [30, 30]
    scores = np.stack([draw(seed).per_class for seed in range(60)])
    assert (np.abs(scores.mean(0) - truth.per_class) < 4.5 * scores.std(0, ddof=1) / np.sqrt(60)).all()
    pairs = same_class_pairs(labels, num_classes=2, max_pairs=30, key=jax.random.key(0))
    chosen = [list(zip(*(np.asarray(p)[c].tolist() for p in pairs[:2]), strict=True)) for c in range(2)]
    want = oracles.summary(oracles.euclidean_pair_scores(predict, x, labels), labels, 2, chosen)
    for name in ("per_class", "num_points", "sem_paper", "inside", "micro", "macro"):
        np.testing.assert_allclose(getattr(draw(0), name), getattr(want, name), atol=2e-6, err_msg=name)


def test_euclidean_small_classes_and_repeated_points():
    x = jnp.zeros((6, 4))
    labels = jnp.array([0, 0, 1, -1, 2, 2], jnp.int32)
    score = euclidean_convexity(lambda h: jnp.zeros((len(h), 4)).at[:, 2].set(1), x, labels, num_classes=4)
    np.testing.assert_array_equal(score.per_class, [0, np.nan, 1, np.nan])
    assert score.num_pairs.tolist() == [1, 0, 1, 0]
    assert score.num_points.tolist() == [2, 1, 2, 0]
    assert float(score.micro) == float(score.macro) == 0.5


def test_euclidean_nan_logits_give_no_number():
    x, labels = as_jax(np.random.default_rng(0).normal(size=(20, 4)), np.arange(20) % 2)
    score = euclidean_convexity(lambda h: jnp.where(h[:, :2] > 1e9, h[:, :2], jnp.nan), x, labels, num_classes=2)
    assert np.isnan(score.per_class).all() and np.isnan(score.micro)


def test_euclidean_gradient_is_zero():
    x, labels = as_jax(np.random.default_rng(0).normal(size=(20, 4)), np.arange(20) % 2)
    gradient = jax.grad(lambda x: euclidean_convexity(network(0), x, labels, num_classes=2).micro)(x)
    np.testing.assert_array_equal(gradient, np.zeros((20, 4)))


# Bad input


def nothing(h):
    return jnp.zeros((len(h), 3))


BAD_LABELS = [
    (np.zeros(19, int), {}, ["labels", "(19,)", "(20,)"]),
    (np.zeros(20), {}, ["labels", "integers", "float64"]),
    (np.array(["a"] * 20), {}, ["labels", "integers"]),
    (np.zeros((20, 1), int), {}, ["labels", "(20, 1)"]),
    (np.arange(20) % 4, {}, ["labels", "num_classes", "3", "4"]),
    (np.full(20, -2), {}, ["labels", "-2"]),
    (np.zeros(20, int), {"num_classes": 0}, ["num_classes", "0"]),
    (np.zeros(20, int), {"num_classes": 2.0}, ["num_classes", "2.0"]),
    (np.zeros(20, int), {"max_pairs": 0}, ["max_pairs", "0"]),
    (np.zeros(20, int), {"max_pairs": 5}, ["key", "190", "5"]),
]


@pytest.mark.check_shapes(False)
@pytest.mark.parametrize(("labels", "options", "words"), BAD_LABELS)
def test_bad_labels_are_named(labels, options, words):
    x = np.random.default_rng(0).normal(size=(20, 2))
    options = {"num_classes": 3, **options}
    for call in (
        lambda: graph_convexity(knn_graph(x, k=3), labels, **options),
        lambda: euclidean_convexity(nothing, x, labels, **options),
    ):
        with pytest.raises(ValueError) as error:
            call()
        for word in words:
            assert word in str(error.value)


@pytest.mark.check_shapes(False)
def test_other_bad_input_is_named():
    x, labels = np.zeros((20, 2)), np.zeros(20, int)
    with pytest.raises(ValueError, match=r"graph.*KNNGraph.*ndarray"):
        graph_convexity(x, labels, num_classes=1)
    with pytest.raises(ValueError, match=r"KNNGraph.*ndarray"):
        graph_pair_scores(x, labels, num_classes=1)
    with pytest.raises(ValueError, match="labels"):
        graph_pair_scores(knn_graph(x, k=2), labels[1:], num_classes=1)
    with pytest.raises(ValueError, match=r"x must be finite.*1 of 20.*rows 3"):
        euclidean_convexity(nothing, np.where(np.arange(20)[:, None] == 3, np.nan, x), labels, num_classes=1)
    with pytest.raises(ValueError, match=r"num_points.*0"):
        euclidean_convexity(nothing, x, labels, num_classes=1, num_points=0)
    with pytest.raises(ValueError, match=r"batch_size.*0"):
        euclidean_convexity(nothing, x, labels, num_classes=1, batch_size=0)
    for predict in (lambda h: h[:, 0], lambda h: h[:5], lambda h: h[:, :1], lambda h: jnp.argmax(h, -1)):
        with pytest.raises(ValueError, match=r"predict_fn.*logits"):
            euclidean_convexity(predict, x, labels, num_classes=2)


@pytest.mark.long
@pytest.mark.parametrize("labels", ([0, 1, 2, 3], [0, -2, 1, 1]))
def test_labels_out_of_range_under_jit_give_no_number(labels):
    x, labels = as_jax(np.arange(4.0)[:, None], labels)
    graph = undirected(knn_graph(x, k=2))
    score = jax.jit(lambda labels: graph_convexity(graph, labels, num_classes=3))(labels)
    assert np.isnan(score.per_class).all()
    score = jax.jit(lambda labels: euclidean_convexity(nothing, x, labels, num_classes=3))(labels)
    assert np.isnan(score.per_class).all()


@pytest.mark.long
@pytest.mark.parametrize("value", (np.nan, np.inf))
def test_nan_under_jit_gives_no_number(value):
    rng = np.random.default_rng(0)
    x, labels = as_jax(rng.normal(size=(40, 3)), rng.integers(0, 3, 40))
    x = x.at[3, 1].set(value)

    def graph_score(x):
        return graph_convexity(undirected(knn_graph(x, k=4)), labels, num_classes=3)

    score = jax.jit(graph_score)(x)
    for name in (*FLOATS, "micro", "macro"):
        assert np.isnan(getattr(score, name)).all(), name
    batched = jax.vmap(graph_score)(jnp.stack([x, x.at[3, 1].set(0)]))
    assert np.isnan(batched.micro[0]) and np.isfinite(batched.micro[1])
    head = jnp.asarray(rng.normal(size=(3, 3)), jnp.float32)
    score = jax.jit(lambda x: euclidean_convexity(lambda h: h @ head, x, labels, num_classes=3))(x)
    assert np.isnan(score.per_class[labels[3]]) and np.isnan(score.micro) and np.isnan(score.macro)


@pytest.mark.long
def test_nan_lengths_of_a_packed_graph_give_no_number():
    x, labels = as_jax(np.random.default_rng(0).normal(size=(40, 3)), np.arange(40) % 3)
    graph = undirected(knn_graph(x, k=4))
    broken = graph._replace(lengths=graph.lengths.at[5].set(jnp.nan))
    for form in (broken, pack(broken)):
        assert np.isnan(graph_convexity(form, labels, num_classes=3).per_class).all()


def test_from_points_to_scores_is_one_program_for_accelerators_too():
    """It lowers for them, and nothing in it goes back to the host."""

    @jax.jit
    def score(x, labels):
        return graph_convexity(knn_graph(x, k=5), labels, num_classes=3).per_class

    shapes = jax.ShapeDtypeStruct((300, 16), jnp.float32), jax.ShapeDtypeStruct((300,), jnp.int32)
    for platform in ("cuda", "tpu"):
        text = jax.export.export(score, platforms=[platform])(*shapes).mlir_module()
        targets = set(re.findall(r"custom_call @(\w+)", text))
        assert not [target for target in targets if "callback" in target or "host" in target.lower()], targets


@pytest.mark.long
@pytest.mark.parametrize("options", [{}, {"max_pairs": 30}, {"max_sources": 7}])
def test_jit_vmap_and_eager_are_one(options):
    """Scores of a batch, every field: one program, shared out on concrete arrays, and mapped under vmap."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(3, 90, 3)), jnp.float32).at[1, :20].set(0)
    labels = jnp.asarray(rng.integers(-1, 3, (3, 90)), jnp.int32)
    key = jax.random.key(2) if options else None

    def score(x, labels):
        return graph_convexity(knn_graph(x, k=4), labels, num_classes=3, key=key, **options)

    eager = [score(*case) for case in zip(x, labels, strict=True)]
    batched, compiled = jax.vmap(score)(x, labels), jax.jit(score)
    for i, want in enumerate(eager):
        for got in (jax.tree.map(lambda field: field[i], batched), compiled(x[i], labels[i])):  # noqa: B023
            for name in want._fields:
                np.testing.assert_allclose(getattr(got, name), getattr(want, name), atol=1e-6, err_msg=name)
