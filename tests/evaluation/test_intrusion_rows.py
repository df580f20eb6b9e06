"""Why scores are not 1, in reports: the rows, the words, the files, and the identity with the scores."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sample_reports import report_of_losses

from jaxconvex import evaluate, read_report
from jaxconvex.evaluation.intrusion_rows import rows_of_intrusions
from jaxconvex.evaluation.sentences import findings
from jaxconvex.evaluation.why import courses, untold_layers, why_tables
from jaxconvex.scores.intrusions import Intrusions

WHERE = {"layer": "a", "layer_index": 1, "labeling": "animal", "k": 4}


def test_rows_by_hand():
    by_class = np.array([[0, 0.1, 0.0004, 0.2], [0, 0, 0, 0], [np.nan] * 4])
    of_points, scores = np.array([0, 0.25, 0, 0.05, 0, 0, 0]), np.array([0.5, np.nan, 1, 0.25, 1, 1, 1])
    # Points 0, 4 and 6 of the cats are one piece, 2 and 5 another; the dog stands alone.
    pieces = np.array([2, 1, 0]), np.array([0, -1, 1, 0, 0, 1, 0]), np.array([3, 0, 2, 1, 3, 2, 3])
    found = Intrusions(by_class, of_points, scores, np.array([0.3, 0, np.nan]), *pieces)
    codes, rows = np.array([0, -1, 0, 1, 0, 0, 0]), np.array([10, 12, 13, 14, 15, 16, 17])
    names = np.array([f"n{i}" for i in range(20)])
    lost, points = rows_of_intrusions(found, codes, ("cat", "dog", 7), rows, names, WHERE)
    assert [(row.label, row.what, row.intruder, round(row.lost, 6)) for row in lost] == [
        ("cat", "class", "dog", 0.1),
        ("cat", "rest", None, 0.0004),
        ("cat", "background", None, 0.2),
        ("cat", "no path", None, 0.3),
    ]
    assert [(row.what, row.point, row.name, row.label, row.value) for row in points] == [
        ("intruder", 12, "n12", None, 0.25),
        ("intruder", 14, "n14", "dog", 0.05),
        ("outlier", 14, "n14", "dog", 0.25),
        ("outlier", 10, "n10", "cat", 0.5),
        ("piece", 13, "n13", "cat", 0.4),
    ]


def test_tables_and_sentences_by_hand():
    report = report_of_losses(
        {"cow": [0.3, 0.02, 0.004], "dog": [0, 0.12, 0.2], "fox": [0, 0.03, 0.002], "eel": [0, 0.01, 0.001],
         "no path": [0.4, 0.25, 0.5]}
    )  # fmt: skip
    classes, *_ = why_tables(report, "animal", 4, short=True)
    assert classes.title.startswith("What classes lose in b") and "not told of long" in classes.notes[0]
    assert classes.rows[0] == ("cat", "12.0 to dog, 3.0 to fox, 2.0 to cow", "57.0", "43.0", "25.0")
    assert classes.rows[2] == ("dog", "–", "100.0", "0.0", "0.0")
    assert untold_layers(report, "animal", 4) == ["long"]
    of_all, over_layers = why_tables(report, "animal", 4)
    assert [row[0] for row in of_all.rows] == [name for name in ("a", "b", "c", "long") for _ in range(5)]
    assert over_layers.rows == (
        ("cat", "cow", "a", "a", "c", "30.0", "0.4"),
        ("cat", "dog", "b", "c", "not resolved", "20.0", "20.0"),
        ("cat", "fox", "b", "b", "c", "3.0", "0.2"),
        ("cat", "eel", "b", "b", "c", "1.0", "0.1"),
    )
    assert courses(report_of_losses({"cow": [0.3]}, ["a"]), "animal", 4)[1] == []  # one layer has no course
    said = findings(report).sentences[-1]
    assert "'cat', 57.0 percent (points lost: 12.0 to dog, 3.0 to fox, 2.0 to cow)" in said


@pytest.fixture(scope="module")
def made():
    rng = np.random.default_rng(0)
    layers = {name: rng.normal(size=(49, 2)).astype(np.float32) for name in ("a", "b")}
    labels = np.array(["cat", "dog", "fox", "none"])[rng.integers(0, 4, 49)]
    options = {"k": 4, "background": "none", "jackknife": False, "progress": False}
    options["names"] = [f"item {i}" for i in range(49)]
    return evaluate(layers, labels, **options), layers, labels, options


def test_a_report_says_what_its_scores_are_lost_to(made, tmp_path):
    found, _, labels, _ = made
    for row in found.rows:
        if row.level == "class":
            lost = math.fsum(e.lost for e in found.intrusions if (e.layer, e.label) == (row.layer, row.label))
            assert lost == pytest.approx(1 - row.score, abs=1e-6)
    assert {row.intruder for row in found.intrusions} == {"cat", "dog", "fox", None}
    for row in found.points:
        assert row.name == f"item {row.point}"
        assert (row.label or "none") == labels[row.point]
    assert {(row.layer, row.what) for row in found.points} == {
        (x, y) for x in "ab" for y in ("intruder", "outlier", "piece")
    }
    again = read_report(found.to_json(tmp_path / "report.json"))
    assert (again.intrusions, again.points) == (found.intrusions, found.points)
    for table in ("rows", "intrusions", "points"):
        assert len(found.to_dataframe(table)) == len(getattr(found, table)) > 0
    with pytest.raises(ValueError, match="must be one of 'rows'"):
        found.to_dataframe("why")


@pytest.mark.long
def test_it_is_of_the_points_that_were_scored(made):
    _, layers, labels, options = made
    found = evaluate({"a": layers["a"]}, labels, class_size=8, **options)
    for row in found.rows:
        if row.level == "class":
            lost = math.fsum(each.lost for each in found.intrusions if each.label == row.label)
            assert lost == pytest.approx(1 - row.score, abs=1e-6)
    assert all(row.name == f"item {row.point}" and row.label == labels[row.point] for row in found.points)


@pytest.mark.long
def test_it_is_kept_and_can_be_left_out(made, tmp_path, monkeypatch):
    found, layers, labels, options = made
    kept = evaluate(layers, labels, cache=tmp_path, **options)
    monkeypatch.setattr("jaxconvex.evaluation.beside.graph_intrusions", None)  # whoever calls it now fails
    again = evaluate(layers, labels, cache=tmp_path, **options)
    assert (again.intrusions, again.points) == (kept.intrusions, kept.points) == (found.intrusions, found.points)
    assert evaluate(layers, labels, why=False, **options).intrusions == ()
    assert evaluate(layers, labels, max_sources=10, **options).points == ()
    with pytest.raises(ValueError, match="one name a point"):
        evaluate(layers, labels, **options | {"names": ["a"]})
