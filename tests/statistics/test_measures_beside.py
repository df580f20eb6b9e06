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


@pytest.mark.long
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


@pytest.mark.long
def test_mutual_neighbours_by_hand_and_by_chance():
    one = listed([[1, 2], [0, 2], [1, 0], [-1, -1]])
    np.testing.assert_array_equal(mutual_knn(one, listed([[2, 3], [2, 0], [3, -1], [0, 1]])), [0.5, 1, 0, np.nan])
    graphs = [knn_graph(points(seed, n=200)[0], k=10) for seed in (1, 2)]
    assert mutual_knn(graphs[0], graphs[0]).tolist() == [1] * 200
    assert mutual_knn(*graphs).mean() == pytest.approx(10 / 199, abs=0.02)


def test_intrinsic_dimension_is_covered_and_of_the_points_not_the_space():
    cKDTree, rng = pytest.importorskip("scipy.spatial").cKDTree, np.random.default_rng(0)
    found = []
    for _ in range(200):
        points = rng.random((100, 3))  # on a torus, which has no border
        distances, indices = cKDTree(points, boxsize=1).query(points, k=3)
        found.append(intrinsic_dimension(KNNGraph(indices[:, 1:], distances[:, 1:])))
    estimates = np.array([dimension.estimate for dimension in found])
    assert np.mean(estimates) == pytest.approx(3, abs=0.1)
    assert np.mean([dimension.se for dimension in found]) == pytest.approx(np.std(estimates), rel=0.15)
    assert 0.89 <= np.mean([dimension.lower <= 3 <= dimension.upper for dimension in found]) <= 0.98
    frame = np.linalg.qr(rng.normal(size=(20, 2)))[0]
    plane = intrinsic_dimension(knn_graph((rng.random((150, 2)) @ frame.T).astype(np.float32), k=2))
    assert plane.lower < 2 < plane.upper


def test_the_interval_of_the_dimension_from_its_formula():
    special, rng = pytest.importorskip("scipy.special"), np.random.default_rng(1)
    x = rng.normal(size=(40, 3)).astype(np.float32)
    distances = np.sqrt(((x[:, None] - x[None]) ** 2).sum(2)) + np.diag(np.full(40, np.inf))
    near = np.argsort(distances, axis=1)[:, :2]
    y = np.log(distances[np.arange(40), near[:, 1]] / distances[np.arange(40), near[:, 0]])
    families = [{i, *near[i]} for i in range(40)]
    v = sum((y[i] - y.mean()) * (y[j] - y.mean()) for i in range(40) for j in range(40) if families[i] & families[j])
    worth = y.sum() ** 2 / max(v, y.sum() ** 2 / 40)
    found = intrinsic_dimension(knn_graph(x, k=4), confidence=0.9)
    assert found.estimate == pytest.approx(39 / y.sum(), rel=1e-4)
    assert found.se == pytest.approx(39 / y.sum() / np.sqrt(worth - 2), rel=1e-4)
    ends = special.gammaincinv(worth, [0.05, 0.95]) / worth * 40 / y.sum()
    np.testing.assert_allclose([found.lower, found.upper], ends, rtol=1e-4)


@pytest.mark.long
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


@pytest.mark.long
def test_cka_of_equal_points_and_of_other_points():
    x = points(0)[0]
    assert np.isnan(cka(x, np.ones((80, 2))))
    with pytest.raises(ValueError, match="same points; got 80 and 79"):
        cka(x, x[1:])
    with pytest.raises(ValueError, match="as many neighbours"):
        mutual_knn(knn_graph(x, k=2), knn_graph(x, k=3))
