"""evaluate() where a point may have several labels: its rows against the functions they come from, and what is refused."""

from __future__ import annotations

import jax
import numpy as np
import pytest

import jaxconvex as jc
from jaxconvex.evaluation.comparison import compare_reports
from jaxconvex.evaluation.labelings import encode_lists, strata
from jaxconvex.evaluation.report import read_report, select
from jaxconvex.statistics import concept_jackknife, concept_null
from jaxconvex.statistics.resampling import jackknife_groups

pytest.importorskip("scipy")

KEY, N = jax.random.key(3), 60
RNG = np.random.default_rng(0)
X = {name: RNG.normal(size=(N, 4)).astype(np.float32) for name in ("layer 1", "layer 2")}
TABLE = np.stack([X["layer 1"][:, 0] > 0, X["layer 1"][:, 1] > 0.3, X["layer 1"].sum(axis=1) > 0], axis=1)
NAMES = ("sea", "sky", "tree")
LISTS = [[name for name, inside in zip(NAMES, row, strict=True) if inside] for row in TABLE]
CODES = (X["layer 1"][:, 2] > 0).astype(int)
OPTIONS = {"k": 4, "key": KEY, "progress": False}


@pytest.mark.long(after=1)
def test_rows_are_those_of_the_functions(tmp_path):
    report = jc.evaluate(X, {"tags": LISTS, "one": CODES}, permutations=20, **OPTIONS)
    for name, x in X.items():
        graph = jc.knn_graph(x, k=4)
        score, null = jc.concept_convexity(graph, TABLE), concept_null(
            graph, TABLE, key=jax.random.split(KEY, 3)[2], num_permutations=20
        )  # fmt: skip
        rows = {row.label or row.level: row for row in select(report, labeling="tags", layer=name)}
        for i, label in enumerate(NAMES):
            row = rows[label]
            wanted = score.per_class[i], score.inside[i], score.sem_paper[i], null.per_class.mean[i]
            np.testing.assert_allclose((row.score, row.inside, row.sem_paper, row.null_mean), wanted, atol=1e-6)
            assert (row.num_points, row.num_pairs) == (TABLE[:, i].sum(), int(score.num_pairs[i]))
        assert rows["micro"].score == pytest.approx(float(score.micro), abs=1e-6)
        assert rows["micro"].num_points == TABLE.any(axis=1).sum()  # each once
        alone = jc.evaluate({name: x}, CODES, **OPTIONS)
        assert [row.score for row in select(report, labeling="one", layer=name)] == [row.score for row in alone.rows]
    assert report.settings["overlapping"] == ["tags"]
    assert "several of these labels" in report.tables()[0].notes[0] and "several" not in report.tables()[1].notes[0]
    assert {row.labeling for row in report.intrusions} == {"one"}
    assert str(read_report(report.to_json(tmp_path / "a.json")).rows) == str(report.rows)


@pytest.mark.long(after=1)
def test_intervals_are_those_of_the_jackknife_and_tables_are_lists():
    x = X["layer 1"]
    report = jc.evaluate(x, LISTS, **OPTIONS)
    grouped = jc.evaluate(x, LISTS, groups=np.arange(N) % 12, **OPTIONS)
    assert all(not np.isnan(row.lower) for row in grouped.rows)
    parts = jackknife_groups(strata(encode_lists(LISTS)), jax.random.split(KEY, 3)[1], num_groups=10)
    wanted = concept_jackknife(x, TABLE, groups=parts, k=4)
    for i, label in enumerate(NAMES):
        (row,) = [row for row in report.rows if row.label == label]
        found = wanted.per_class
        np.testing.assert_allclose((row.lower, row.upper), (found.lower[i], found.upper[i]), atol=1e-5)
    assert [row.score for row in jc.evaluate(x, TABLE, **OPTIONS).rows] == [row.score for row in report.rows]


@pytest.mark.long(after=1)
def test_disjoint_concepts_are_classes():
    x, options = X["layer 1"], OPTIONS | {"jackknife": False, "why": False}
    classes, lists = jc.evaluate(x, CODES, **options), jc.evaluate(x, [[code] for code in CODES.tolist()], **options)
    for one, other in zip(classes.rows, lists.rows, strict=True):
        for field in ("score", "inside", "se_pairs", "num_pairs", "num_points", "adjacent"):
            np.testing.assert_allclose(getattr(one, field), getattr(other, field), atol=1e-6, err_msg=field)


@pytest.mark.long
def test_samples_caches_and_comparisons(tmp_path):
    options = OPTIONS | {"max_points": 50, "why": False}
    reports = [jc.evaluate({"a": x}, LISTS, cache=tmp_path, **options) for x in (*X.values(), X["layer 1"])]
    assert str(reports[0].rows) == str(reports[2].rows) and len(list(tmp_path.glob("*.json"))) == 2
    assert reports[0].settings["num_points_scored"] == 50
    assert {row.label for row in compare_reports(*reports[:2]).rows if row.level == "class"} == set(NAMES)


@pytest.mark.parametrize(
    "options",
    [
        {"max_pairs": 10},
        {"max_sources": 10},
        {"tolerance": 0.1},
        {"class_size": 10},
        {"protocol": "paper", "k": 10},
        {"predictions": CODES},
        {"heads": {"layer 1": lambda h: h}},
        {"classes": NAMES},
    ],
)
def test_what_is_refused(options):
    with pytest.raises(ValueError, match=r"one class each|all pairs"):
        jc.evaluate(X, LISTS, **OPTIONS | options)


def test_levels_are_refused():
    with pytest.raises(ValueError, match="levels are of points of one class each"):
        jc.evaluate(X, {"tags": LISTS, "one": CODES}, parents=["one"], **OPTIONS)
