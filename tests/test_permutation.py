"""The permutation null against re-scoring from scratch, and against its mean in closed form."""

from __future__ import annotations

import jax
import numpy as np
import pytest

import jaxconvex as jc

KEY = jax.random.key(0)


def _cloud(seed: int, n: int = 60, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 3)).astype(np.float32), rng.integers(0, classes, n)


@pytest.mark.parametrize("ties", [False, True])
def test_null_is_that_of_scoring_permuted_labels(ties):
    x, labels = _cloud(0)
    if ties:  # integer points: duplicates and many equally short paths
        x = np.random.default_rng(1).integers(0, 3, size=(60, 2)).astype(np.float32)
    packed = jc.pack(jc.knn_graph(x, k=4))
    null = jc.permutation_null(packed, labels, num_classes=3, key=KEY, num_permutations=400)
    rng = np.random.default_rng(2)
    scores = [jc.graph_convexity(packed, rng.permutation(labels), num_classes=3) for _ in range(400)]
    micro = np.array([float(s.micro) for s in scores])
    per_class = np.array([np.asarray(s.per_class) for s in scores])
    error = np.sqrt(2 / 400)
    assert abs(null.micro.mean - micro.mean()) < 4 * error * micro.std()
    assert np.all(np.abs(null.per_class.mean - per_class.mean(0)) < 4 * error * per_class.std(0))
    assert 0.85 < null.micro.samples.std() / micro.std() < 1.15
    assert null.num_sources == 60


def test_one_permutation_is_exactly_a_score():
    """With all sources, each sample must be the score of some relabeling: check sums over pairs pair by pair."""
    x, labels = _cloud(3, n=40)
    packed = jc.pack(jc.knn_graph(x, k=3))
    # Two classes of which one has two points: a permutation is then told by the pair alone.
    labels = np.zeros(40, int)
    labels[[5, 17]] = 1
    null = jc.permutation_null(packed, labels, num_classes=2, key=KEY, num_permutations=300)
    possible = set()
    for i in range(40):
        for j in range(i):
            one = np.zeros(40, int)
            one[[i, j]] = 1
            counts = jc.shortest_path_counts(packed, one, np.array([i]), np.array([j]))
            inner, out = int(counts.interior[0, 0]), int(counts.outside[0, 0])
            possible.add(0.0 if inner < 0 else round(1 - out / max(inner, 1), 5))
    assert {round(float(v), 5) for v in null.per_class.samples[1]} <= possible


def test_closed_form_of_the_mean():
    x, labels = _cloud(4, n=120, classes=4)
    knn = jc.knn_graph(x, k=5)
    null = jc.permutation_null(knn, labels, num_classes=4, key=KEY, num_permutations=1000)
    expected = jc.random_label_score(knn, labels, num_classes=4)
    error = null.per_class.samples.std(axis=1) / np.sqrt(1000)
    assert np.all(np.abs(null.per_class.mean - expected) < 4 * error)


def test_p_values():
    x, _ = _cloud(5)
    separated = np.repeat([0, 1, 2], 20)
    x += 9 * np.eye(3, dtype=np.float32)[separated]
    knn = jc.knn_graph(x, k=5)
    clear = jc.permutation_null(knn, separated, num_classes=3, key=KEY, num_permutations=99)
    assert clear.micro.p_value == clear.macro.p_value == 0.01
    rng = np.random.default_rng(0)
    p_values = [
        float(
            jc.permutation_null(
                knn, rng.permutation(separated), num_classes=3, key=jax.random.key(i), num_permutations=99
            ).micro.p_value
        )
        for i in range(40)
    ]
    assert 0.3 < np.mean(p_values) < 0.7  # uniform where the labels are random


def test_sampled_sources_estimate_the_same_null():
    x, labels = _cloud(6, n=200)
    packed = jc.pack(jc.knn_graph(x, k=5))
    whole = jc.permutation_null(packed, labels, num_classes=3, key=KEY, num_permutations=300)
    some = jc.permutation_null(packed, labels, num_classes=3, key=KEY, num_permutations=300, max_sources=64)
    assert some.num_sources == 64
    assert abs(whole.micro.mean - some.micro.mean) < 0.02
    assert some.micro.samples.std() > whole.micro.samples.std()


def test_background_stays_and_shapes_the_graph():
    x, labels = _cloud(7)
    labels[::3] = -1
    null = jc.permutation_null(jc.knn_graph(x, k=4), labels, num_classes=3, key=KEY, num_permutations=200)
    assert null.num_sources == 40
    packed = jc.pack(jc.knn_graph(x, k=4))
    rng, scores = np.random.default_rng(0), []
    for _ in range(200):
        shuffled = labels.copy()
        shuffled[labels >= 0] = rng.permutation(labels[labels >= 0])
        scores.append(float(jc.graph_convexity(packed, shuffled, num_classes=3).micro))
    assert abs(null.micro.mean - np.mean(scores)) < 4 * np.sqrt(2 / 200) * np.std(scores)


def test_degenerate_classes_and_bad_arguments():
    x, labels = _cloud(8)
    null = jc.permutation_null(jc.knn_graph(x, k=4), labels, num_classes=5, key=KEY, num_permutations=20)
    assert np.isnan(null.per_class.mean[3:]).all() and np.isnan(null.per_class.p_value[3:]).all()
    assert np.isfinite(null.macro.mean)
    with pytest.raises(ValueError, match="num_permutations"):
        jc.permutation_null(jc.knn_graph(x, k=4), labels, num_classes=3, key=KEY, num_permutations=0)
    again = jc.permutation_null(jc.knn_graph(x, k=4), labels, num_classes=5, key=KEY, num_permutations=20)
    np.testing.assert_array_equal(null.micro.samples, again.micro.samples)
