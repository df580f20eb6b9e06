"""The simpler measures beside scikit-learn's and NumPy's, and correlations beside regressions."""

from __future__ import annotations

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxconvex import knn_graph
from jaxconvex.statistics import labelled
from jaxconvex.statistics.measures import hubness
from jaxconvex.study.analyses import adding, measures
from jaxconvex.study.results import MeasureRow


def blobs(seed, n=90, d=7, classes=4, spread=1.0):
    random = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(classes), np.arange(classes), random.integers(classes, size=n - 2 * classes)])
    centres = random.normal(size=(classes, d)) + 5  # off the origin
    return (centres[labels] + spread * random.normal(size=(n, d))).astype(np.float32), labels


# Probe and vote


def test_linear_probe_agrees_with_logistic_regression():
    linear_model = pytest.importorskip("sklearn.linear_model")
    train, labels = blobs(0, n=200, spread=1.5)
    test, _ = blobs(1, n=150, spread=3)
    mean, scale = train.mean(axis=0), train.std(axis=0)
    fitted = linear_model.LogisticRegression(C=1 / (1e-3 * len(train)), max_iter=2000, tol=1e-8)
    fitted.fit((train - mean) / scale, labels)
    scores = np.sort(fitted.decision_function((test - mean) / scale), axis=1)
    clear = scores[:, -1] - scores[:, -2] > 0.05
    found = labelled.linear_probe(train, labels, test, 4)
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(found[clear], fitted.predict((test - mean) / scale)[clear])
    assert len(np.unique(found)) == 4


def vote_by_hand(train, labels, test, k):
    found = []
    for point in test.astype(float):
        order = np.argsort(np.linalg.norm(train.astype(float) - point, axis=1), kind="stable")[:k]
        votes = Counter(labels[order].tolist())
        found.append(next(c for c in labels[order] if votes[c] == max(votes.values())))
    return np.array(found)


@pytest.mark.parametrize("k", [1, 2, 10])
def test_vote_is_the_definition(k):
    train, labels = blobs(2, spread=2)
    test, _ = blobs(3, n=70, spread=2)
    np.testing.assert_array_equal(
        labelled.nearest_neighbour_vote(train, labels, test, 4, k=k), vote_by_hand(train, labels, test, k)
    )


def test_equally_near_points_vote_in_their_order_and_the_nearest_breaks_ties():
    train, test = np.array([[1.0], [-1.0], [2.0], [-2.0], [9.0]]), np.zeros((1, 1))
    labels = np.array([2, 0, 0, 2, 1])
    assert labelled.nearest_neighbour_vote(train, labels, test, 3, k=1).tolist() == [2]
    assert labelled.nearest_neighbour_vote(train, labels, test, 3, k=4).tolist() == [2]  # two votes each
    assert labelled.nearest_neighbour_vote(train, labels, test, 3, k=3).tolist() == [0]


# Silhouette and neural collapse


@pytest.mark.parametrize("spread", [1.0, 1e-3])
def test_silhouette_is_that_of_scikit_learn(spread):
    metrics = pytest.importorskip("sklearn.metrics")
    x, labels = blobs(4, spread=spread)
    x, labels = (
        np.concatenate([x, x[:1] + 3]),
        np.append(labels, 7),
    )  # a class of one point; classes 5 and 6 are missing
    expected = metrics.silhouette_samples(x.astype(np.float64), labels)
    np.testing.assert_allclose(labelled.silhouette(x, labels), expected, atol=1e-5)
    assert expected[-1] == 0


def test_silhouette_of_equal_points_is_0():
    assert labelled.silhouette(np.ones((4, 2)), np.array([0, 0, 1, 1])).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(("d", "classes"), [(7, 4), (3, 6), (1, 2), (40, 10)])
def test_neural_collapse_is_the_authors_formula_for_classes_of_one_size(d, classes):
    random = np.random.default_rng(d)
    labels = np.repeat(np.arange(classes), 8)
    x = random.normal(size=(len(labels), d)) + random.normal(size=(classes, d))[labels] + 3
    means = np.array([x[labels == c].mean(axis=0) for c in range(classes)])
    within = np.mean([np.outer(v, v) for v in x - means[labels]], axis=0)
    between = np.mean([np.outer(v, v) for v in means - x.mean(axis=0)], axis=0)
    expected = np.trace(within @ np.linalg.pinv(between, rcond=1e-10)) / classes
    assert labelled.neural_collapse(x.astype(np.float32), labels) == pytest.approx(expected, rel=1e-4)


def test_neural_collapse_does_not_depend_on_sizes_coordinates_or_gaps():
    x, labels = blobs(5)
    found = labelled.neural_collapse(x, labels)
    doubled = labels == 2  # a class with every point twice
    twice = labelled.neural_collapse(np.concatenate([x, x[doubled]]), np.append(labels, labels[doubled]))
    mixing = np.random.default_rng(0).normal(size=(7, 7)) + 3 * np.eye(7)
    rotation, _ = np.linalg.qr(mixing)
    assert twice == pytest.approx(found, rel=1e-5)
    assert labelled.neural_collapse(5 * x @ rotation.astype(np.float32) + 2, 3 * labels) == pytest.approx(
        found, rel=1e-4
    )
    assert labelled.neural_collapse(x, np.random.default_rng(0).permutation(labels)) > 2 * found


def test_neural_collapse_of_points_and_of_equal_means():
    x = np.array([[0.0, 0.0], [0.0, 0.0], [1.0, 2.0], [1.0, 2.0]])
    assert labelled.neural_collapse(x, np.array([0, 0, 1, 1])) == 0
    assert labelled.neural_collapse(x, np.array([0, 1, 0, 1])) == np.inf


# All of them


def layers(seed=0):
    train, train_labels = blobs(seed, n=80)
    test, test_labels = blobs(seed, n=60)
    return {"1": train, "2": np.tanh(train)}, train_labels, {"1": test, "2": np.tanh(test)}, test_labels


@pytest.mark.long
def test_rows_of_all_layers_hold_each_measure():
    train, train_labels, test, test_labels = layers()
    names = np.array(["ant", "bee", "cat", "dog"])
    told = []
    rows = measures.simple_measures(
        train,
        names[train_labels],
        test,
        names[test_labels],
        network="fine-tuned",
        seed=3,
        k=5,
        progress=lambda *now: told.append(now),
    )
    assert told == [(1, 2), (2, 2)]
    assert {(row.network, row.seed) for row in rows} == {("fine-tuned", 3)}
    found = {(row.measure, row.layer, row.layer_index, row.label): row.value for row in rows}
    assert len(found) == len(rows) == 2 * (3 * 5 + 2)
    for index, layer in enumerate(("1", "2")):
        probed = labelled.linear_probe(train[layer], train_labels, test[layer], 4)
        voted = vote_by_hand(train[layer], train_labels, test[layer], 5)
        widths = labelled.silhouette(test[layer], test_labels)
        expected = {
            "linear probe accuracy": probed == test_labels,
            "k-NN accuracy": voted == test_labels,
            "silhouette": widths,
        }
        for measure, values in expected.items():
            assert found[measure, layer, index, None] == pytest.approx(values.mean(), abs=1e-6)
            for c, name in enumerate(names):
                assert found[measure, layer, index, name] == pytest.approx(values[test_labels == c].mean(), abs=1e-6)
        collapse = labelled.neural_collapse(test[layer], test_labels)
        assert found["neural collapse NC1", layer, index, None] == collapse
        assert found["hubness", layer, index, None] == hubness(knn_graph(jnp.asarray(test[layer]), k=5))


def test_two_calls_give_the_same_rows_and_background_is_left_out():
    train, train_labels, test, test_labels = layers(1)
    about = {"network": "pretrained", "seed": None}
    rows = measures.simple_measures(train, train_labels, test, test_labels, **about)
    assert measures.simple_measures(train, train_labels, test, test_labels, **about) == rows
    more = [{name: np.concatenate([x, 100 + x[:3]]) for name, x in part.items()} for part in (train, test)]
    labels = [np.append(one, [-1] * 3) for one in (train_labels, test_labels)]
    assert measures.simple_measures(more[0], labels[0], more[1], labels[1], **about) == rows


def test_a_class_without_test_points_has_no_row():
    train, train_labels, test, test_labels = layers()
    kept = test_labels != 2
    test = {name: x[kept] for name, x in test.items()}
    rows = measures.simple_measures(train, train_labels, test, test_labels[kept], network="pretrained", seed=None)
    assert {row.label for row in rows} == {None, 0, 1, 3}
    assert all(np.isfinite(row.value) for row in rows)


# Correlations


def residual_correlation(x, y, z):
    lines = np.column_stack([np.ones_like(z), z])
    x, y = (values - lines @ np.linalg.lstsq(lines, values, rcond=None)[0] for values in (x, y))
    return np.corrcoef(x, y)[0, 1]


@pytest.mark.parametrize("seed", range(4))
def test_partial_correlation_is_that_of_what_regressions_leave(seed):
    random = np.random.default_rng(seed)
    z = random.normal(size=12)
    x, y = z + random.normal(size=12), 2 - z + random.normal(size=12)
    expected = residual_correlation(x, y, z)
    assert adding.partial_correlation(x, y, z) == pytest.approx(expected, abs=1e-10)
    x, y, z = (np.append(values, more) for values, more in ((x, 7), (y, np.nan), (z, 1)))
    assert adding.partial_correlation(x, y, z) == pytest.approx(expected, abs=1e-10)


def test_partial_correlation_where_it_is_not_defined():
    z = np.arange(6.0)
    other = np.array([1.0, 5, 2, 4, 4, 3])
    assert np.isnan(adding.partial_correlation(2 * z + 1, other, z))
    assert np.isnan(adding.partial_correlation(other, np.ones(6), z))
    assert adding.partial_correlation(other, 3 - other, z) == pytest.approx(-1)


def test_what_convexity_adds():
    random = np.random.default_rng(6)
    classes = [f"class {i}" for i in range(9)]
    convexity, recall = (dict(zip(classes, random.random(9), strict=True)) for _ in range(2))
    values = random.random((2, 3, 9))  # measure, layer, class
    rows = [
        MeasureRow(measure, "pretrained", None, f"layer {i}", i, c, values[m, i, j])
        for m, measure in enumerate(("silhouette", "k-NN accuracy"))
        for i in range(3)
        for j, c in enumerate(classes)
    ]
    rows += [MeasureRow("hubness", "pretrained", None, "layer 0", 0, None, 1.5)]
    rows += [row._replace(network="fine-tuned", value=-row.value) for row in rows]
    del recall["class 4"]
    kept = np.arange(9) != 4
    found = adding.what_convexity_adds(convexity, recall, rows)
    assert [one.measure for one in found] == ["silhouette", "k-NN accuracy"]
    x, y = np.array(list(convexity.values()))[kept], np.array(list(recall.values()))
    for one, value in zip(found, values.mean(axis=1)[:, kept], strict=True):
        table = np.corrcoef([x, y, value])
        partial = residual_correlation(x, y, value)
        ends = np.tanh(np.arctanh(partial) + 1.959964 * np.array([-1, 1]) / np.sqrt(8 - 3 - 1))
        expected = [table[2, 1], table[0, 1], table[0, 2], partial, *ends, 8]
        np.testing.assert_allclose(one[1:], expected, atol=1e-6)


def test_fisher_interval_of_a_partial_correlation_covers():
    random = np.random.default_rng(7)
    hits = []
    for _ in range(400):
        z = random.normal(size=10)
        x = z + random.normal(size=10)
        y = z + 0.5 * (x - z) + random.normal(size=10)  # partial correlation 0.5 / sqrt(1.25)
        parts = [dict(enumerate(values)) for values in (x, y)]
        rows = [MeasureRow("silhouette", "pretrained", None, "1", 0, c, value) for c, value in enumerate(z)]
        (found,) = adding.what_convexity_adds(*parts, rows)
        hits.append(found.lower < 0.5 / np.sqrt(1.25) < found.upper)
    assert 0.92 < np.mean(hits) < 0.98


def test_four_classes_have_no_interval_and_none_no_correlation():
    parts = [dict(enumerate(values)) for values in ([1, 2, 3, 5], [1, 3, 2, 5])]
    rows = [MeasureRow("silhouette", "pretrained", None, "1", 0, c, value) for c, value in enumerate([2, 1, 3, 1])]
    (found,) = adding.what_convexity_adds(*parts, rows)
    assert np.isfinite(found.partial) and np.isnan([found.lower, found.upper]).all() and found.num_classes == 4
    (found,) = adding.what_convexity_adds({}, {}, rows)
    assert np.isnan([found.partial, found.convexity_with_recall]).all() and found.num_classes == 0


# Messages


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, y: labelled.silhouette(x, y * 0), "at least two classes"),
        (lambda x, y: labelled.neural_collapse(x, y - 1), "all 0 or above"),
        (lambda x, y: labelled.nearest_neighbour_vote(x, y, x, 4, k=91), "90 training points"),
        (lambda x, y: labelled.linear_probe(x, y - 1, x, 4), "Leave those points out"),
        (lambda x, y: labelled.linear_probe(x, y, x[:, :2], 4), "the same features; got 7 and 2"),
        (lambda x, y: adding.partial_correlation([1, 2], [1], [1, 2]), "one length"),
        (lambda x, y: simple({"1": x}, y, {"2": x}, y), "the same layers"),
        (lambda x, y: simple({"1": x[1:]}, y, {"1": x}, y), "a row for each of 90 labels; got 89"),
        (lambda x, y: simple({"1": x}, y, {"1": x}, y.astype(str)), "strings in one"),
    ],
)
def test_messages(call, message):
    with pytest.raises(ValueError, match=message):
        call(*blobs(0))


def simple(*parts):
    return measures.simple_measures(*parts, network="pretrained", seed=None)


def test_memory_holds_no_cube_of_points_and_features():
    n, d = 1000, 200
    shapes = jax.ShapeDtypeStruct((n, d), np.float32), jax.ShapeDtypeStruct((n,), np.int32)
    compiled = labelled._silhouette.lower(*shapes, num_classes=10).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 10 * n * d
