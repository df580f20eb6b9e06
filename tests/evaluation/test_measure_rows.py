"""Measures beside convexity in reports: the numbers of the public functions, each in its row; tables; the cache."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import numpy as np
import pytest

import jaxconvex as jc
from jaxconvex import evaluate, read_report
from jaxconvex.evaluation.labelings import Labeling
from jaxconvex.evaluation.layer_scores import Seen
from jaxconvex.evaluation.measure_rows import MEASURES
from jaxconvex.evaluation.measuring import measured
from jaxconvex.statistics import (
    cka,
    intrinsic_dimension,
    knn_accuracy,
    label_overlap,
    mutual_knn,
    neural_collapse,
    silhouette,
)

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
LABELS = RNG.permutation(np.repeat(["ant", "bee", "none"], [17, 16, 16]))
CODES = np.unique(LABELS, return_inverse=True)[1] - 3 * (LABELS == "none")
LAYERS = {name: RNG.normal(size=(49, 2)).astype(np.float32) + np.eye(3, 2)[CODES] for name in "ab"}
OPTIONS = {"k": (4, 3), "background": "none", "jackknife": False, "why": False, "progress": False}


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return evaluate(
        LAYERS, {"insect": LABELS}, measures=list(MEASURES), cache=tmp_path_factory.mktemp("kept"), **OPTIONS
    )


def value_of(report, measure, k=None, label=None, layer="b"):
    (row,) = [
        row for row in report.measures if (row.measure, row.k, row.label, row.layer) == (measure, k, label, layer)
    ]
    return row.value


@pytest.mark.long
def test_values_are_those_of_the_functions(report):
    x, known = LAYERS["b"], CODES >= 0
    for k in (4, 3):
        knn = jc.knn_graph(x, k=k)
        for function in (knn_accuracy, label_overlap):
            values = function(knn, CODES)
            assert value_of(report, function.__name__, k) == pytest.approx(values[known].mean())
            assert value_of(report, function.__name__, k, "bee") == pytest.approx(values[CODES == 1].mean())
        shared = mutual_knn(knn, jc.knn_graph(LAYERS["a"], k=k)).mean()
        assert value_of(report, "mutual_knn", k) == pytest.approx(shared)
    assert value_of(report, "cka") == pytest.approx(cka(x, LAYERS["a"]))
    assert value_of(report, "neural_collapse") == pytest.approx(neural_collapse(x[known], CODES[known]))
    own = silhouette(x[known], CODES[known])
    assert value_of(report, "silhouette") == pytest.approx(own.mean(), abs=1e-6)
    assert value_of(report, "silhouette", label="ant") == pytest.approx(own[CODES[known] == 0].mean(), abs=1e-6)
    (row,) = [row for row in report.measures if (row.measure, row.layer) == ("intrinsic_dimension", "b")]
    dimension = intrinsic_dimension(jc.knn_graph(x, k=4))
    assert (row.value, row.lower, row.upper) == pytest.approx((dimension.estimate, dimension.lower, dimension.upper))
    assert 0.6 < value_of(report, "linear_probe") <= 1
    assert not [row for row in report.measures if row.measure in ("cka", "mutual_knn") and row.layer == "a"]


def test_a_probe_is_judged_on_whole_groups_it_has_not_seen(monkeypatch):
    groups, codes, asked = np.arange(60) // 3, np.arange(60) % 2, []

    def probe(train, train_labels, test, num_classes):
        assert num_classes == 2 and (train_labels == codes[train[:, 0]]).all()
        asked.append((set(groups[train[:, 0]]), test[:, 0]))
        return np.zeros(len(test), int)

    monkeypatch.setattr("jaxconvex.evaluation.measuring.linear_probe", probe)
    labelings = {"parity": Labeling(codes, ("even", "odd"))}
    seen = Seen(np.arange(60)[:, None], labelings, 4, None, None, jc.jackknife_groups(codes, KEY, units=groups))
    rows = measured(["linear_probe"], seen, SimpleNamespace(k=(4,)), None)
    assert [(row.label, row.value) for row in rows] == [(None, 0.5), ("even", 1.0), ("odd", 0.0)]
    assert len(asked) == 5 and sorted(np.concatenate([test for _, test in asked])) == list(range(60))
    assert not any(train & set(groups[test]) for train, test in asked)


def test_tables_files_and_cache(report, tmp_path, monkeypatch):
    again = read_report(report.to_json(tmp_path / "report.json"))
    np.testing.assert_equal(again.measures, report.measures)
    assert len(report.to_dataframe("measures")) == len(report.measures)
    *_, table = report.tables()
    assert table.columns[:3] == ("layer", "convexity", "silhouette") and "kNN accuracy, k = 3" in table.columns
    assert [row[0] for row in table.rows] == ["a", "b"] and table.rows[0][table.columns.index("CKA")] == "–"
    assert "[" in table.rows[1][table.columns.index("dimension")] and len(report.tables(classes=True)) == 2
    assert "Measures beside convexity, labels 'insect'" in report.table()
    options = OPTIONS | {"measures": ["cka", "label_overlap"], "cache": tmp_path / "kept"}
    first = evaluate(LAYERS, LABELS, **options)
    monkeypatch.setattr("jaxconvex.evaluation.beside.measured", None)  # whoever calls it now fails
    np.testing.assert_equal(evaluate(LAYERS, LABELS, **options).measures, first.measures)
    with pytest.raises(TypeError):  # another first layer, another likeness of the second
        evaluate(LAYERS | {"a": LAYERS["a"] + 1}, LABELS, **options)
    with pytest.raises(ValueError, match="must be one of 'silhouette'"):
        evaluate(LAYERS, LABELS, **OPTIONS | {"measures": "accuracy"})
    with pytest.raises(ValueError, match="Euclidean"):
        evaluate(LAYERS, LABELS, metric="cosine", **OPTIONS | {"measures": "intrinsic_dimension"})
