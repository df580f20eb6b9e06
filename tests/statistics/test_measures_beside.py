"""Measures beside convexity: against scikit-learn, counts by hand and formulas; the others in study/test_measures."""

from __future__ import annotations

import numpy as np
import pytest

from jaxconvex.neighbors import KNNGraph, knn_graph
from jaxconvex.statistics import cka, intrinsic_dimension, knn_accuracy, label_overlap, mutual_knn


def points(seed, n=80, d=4, classes=3, spread=1.0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    return (rng.normal(size=(classes, d))[labels] + spread * rng.normal(size=(n, d))).astype(np.float32), labels


def listed(indices):
    indices = np.asarray(indices)
    return KNNGraph(indices, np.where(indices >= 0, np.arange(1.0, 1 + indices.shape[1]), np.inf))


@pytest.mark.parametrize("k", [1, 5])
def test_knn_accuracy_is_that_of_scikit_learn_with_one_point_left_out(k):
    neighbours = pytest.importorskip("sklearn.neighbors")
    x, labels = points(0)
    labels = labels % 2  # an odd number of voters for two classes has no draw
    right = [
        neighbours.KNeighborsClassifier(k).fit(np.delete(x, i, 0), np.delete(labels, i)).predict(x[i : i + 1])[0]
        for i in range(len(x))
    ]
    np.testing.assert_array_equal(knn_accuracy(knn_graph(x, k=k), labels), right == labels)


def test_votes_and_overlap_by_hand():
    knn = listed([[1, 2, 3], [0, 2, -1], [3, 4, 0], [2, -1, -1], [0, 1, 2], [-1, -1, -1]])
    labels = np.array([0, 0, 1, 1, -1, 0])
    # 0: votes 0, 1, 1. 1: a draw, 0 is nearer. 2: votes 1 and 0, 4 is background. 3: 1. 5: nobody.
    np.testing.assert_array_equal(knn_accuracy(knn, labels), [0, 1, 1, 1, np.nan, 0])
    np.testing.assert_allclose(label_overlap(knn, labels), [1 / 3, 1 / 2, 1 / 3, 1, np.nan, np.nan])


def test_mutual_neighbours_by_hand_and_by_chance():
    one = listed([[1, 2], [0, 2], [1, 0], [-1, -1]])
    np.testing.assert_array_equal(mutual_knn(one, listed([[2, 3], [2, 0], [3, -1], [0, 1]])), [0.5, 1, 0, np.nan])
    graphs = [knn_graph(points(seed, n=200)[0], k=10) for seed in (1, 2)]
    assert mutual_knn(graphs[0], graphs[0]).tolist() == [1] * 200
    assert mutual_knn(*graphs).mean() == pytest.approx(10 / 199, abs=0.02)


def test_intrinsic_dimension_is_covered_and_of_the_points_not_the_space():
    rng, covered, estimates = np.random.default_rng(0), 0, []
    frame = np.linalg.qr(rng.normal(size=(20, 3)))[0]
    for _ in range(20):
        found = intrinsic_dimension(knn_graph((rng.random((150, 3)) @ frame.T).astype(np.float32), k=2))
        covered += found.lower <= 3 <= found.upper
        estimates.append(found.estimate)
        assert found.se == pytest.approx((found.upper - found.lower) / 4, rel=0.1)
    assert np.mean(estimates) == pytest.approx(3, abs=0.15)
    assert covered >= 15


def test_intrinsic_dimension_is_the_exact_interval_of_exponential_ratios():
    scipy_stats = pytest.importorskip("scipy.stats")
    ratios = np.exp(np.random.default_rng(1).exponential(1 / 7, size=50))
    indices = (np.arange(50)[:, None] + [1, 2]) % 50
    found = intrinsic_dimension(KNNGraph(indices, np.stack([np.ones(50), ratios], axis=1)), confidence=0.9)
    total = np.log(ratios).sum()
    assert found.estimate == pytest.approx(49 / total, rel=1e-5)
    ends = scipy_stats.chi2.ppf([0.05, 0.95], 100) / (2 * total)
    np.testing.assert_allclose([found.lower, found.upper], ends, rtol=1e-5)


def test_what_has_no_dimension():
    x = np.repeat(np.random.default_rng(0).normal(size=(20, 3)), 2, axis=0).astype(np.float32)  # all have a copy
    assert np.isnan(intrinsic_dimension(knn_graph(x, k=2))).all()
    grid = np.stack(np.meshgrid(*[np.arange(5.0)] * 2), axis=-1).reshape(25, 2).astype(np.float32)
    assert np.isnan(intrinsic_dimension(knn_graph(grid, k=2))).all()  # all ratios are 1
    with pytest.raises(ValueError, match="two neighbours"):
        intrinsic_dimension(knn_graph(grid, k=1))
    with pytest.raises(ValueError, match="between 0 and 1"):
        intrinsic_dimension(knn_graph(grid, k=2), confidence=95)


@pytest.mark.parametrize(("d", "e"), [(4, 6), (100, 3)])
def test_cka_is_the_formula_with_centred_kernels(d, e):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, d)) + 3, rng.normal(size=(40, e))
    y[:, : min(d, e)] += x[:, : min(d, e)]
    centre = np.eye(40) - 1 / 40
    k, m = (centre @ part @ part.T @ centre for part in (x, y))
    expected = np.trace(k @ m) / np.sqrt(np.trace(k @ k) * np.trace(m @ m))
    assert cka(x, y) == pytest.approx(expected, rel=1e-5)
    turned = x @ np.linalg.qr(rng.normal(size=(d, d)))[0] * 7 + 1
    assert cka(turned, x) == pytest.approx(1, rel=1e-5)


def test_cka_of_equal_points_and_of_other_points():
    x = points(0)[0]
    assert np.isnan(cka(x, np.ones((80, 2))))
    with pytest.raises(ValueError, match="same points; got 80 and 79"):
        cka(x, x[1:])
    with pytest.raises(ValueError, match="as many neighbours"):
        mutual_knn(knn_graph(x, k=2), knn_graph(x, k=3))
