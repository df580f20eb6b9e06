"""evaluate(): its rows against the functions they come from, its settings, its cache."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxconvex as jc
from jaxconvex.report import select

KEY = jax.random.key(3)
RNG = np.random.default_rng(0)
LABELS = np.repeat(["ant", "bee", "cow"], 30)
CODES = np.repeat([0, 1, 2], 30)
LAYERS = {f"layer {i}": RNG.normal(size=(90, 6)) + i * np.eye(3, 6)[CODES] for i in (2, 1, 3)}
PREDICTED = np.where(np.arange(90) % 10 == 0, "bee", LABELS)


@pytest.fixture(scope="module")
def report():
    return jc.evaluate(
        LAYERS,
        {"insect": LABELS, "parity": np.arange(90) % 2},
        predictions=PREDICTED,
        k=(4, 8),
        permutations=50,
        key=KEY,
        progress=False,
    )


def test_one_row_for_each_layer_labeling_k_and_class(report):
    assert len(report.rows) == 3 * 2 * ((3 + 2) + (2 + 2) + (3 + 2))
    assert [row.layer for row in select(report, k=4, labeling="insect", level="micro")] == list(LAYERS)
    assert {row.label for row in select(report, labeling="parity", level="class")} == {0, 1}


@pytest.mark.parametrize("k", [4, 8])
def test_scores_are_those_of_the_functions(report, k):
    for name, x in LAYERS.items():
        score = jc.graph_convexity(jc.knn_graph(x, k=k), CODES, num_classes=3)
        rows = select(report, k=k, labeling="insect", level="class", layer=name)
        for field in ("sem_paper", "se_pairs", "adjacent", "disconnected", "inside", "nonadjacent"):
            np.testing.assert_allclose([getattr(r, field) for r in rows], getattr(score, field), atol=1e-6)
        np.testing.assert_allclose([r.score for r in rows], score.per_class, atol=1e-6)
        assert [r.num_pairs for r in rows] == [435] * 3
        (micro,) = select(report, k=k, labeling="insect", level="micro", layer=name)
        (macro,) = select(report, k=k, labeling="insect", level="macro", layer=name)
        assert micro.score == pytest.approx(float(score.micro), abs=1e-6)
        assert macro.score == pytest.approx(float(score.macro), abs=1e-6)
        assert micro.num_pairs == 3 * 435
        assert micro.adjacent == pytest.approx(float(np.mean(score.adjacent)), abs=1e-6)


def test_replicates_are_scores_without_a_group(report):
    groups = jc.jackknife_groups(CODES, jax.random.split(KEY, 3)[1])
    (row,) = select(report, k=4, labeling="insect", level="micro", layer="layer 1")
    for group in (0, 7):
        kept = groups != group
        score = jc.graph_convexity(jc.knn_graph(LAYERS["layer 1"][kept], k=4), CODES[kept], num_classes=3)
        assert row.replicates[group] == pytest.approx(float(score.micro), abs=1e-6)
    assert row.lower < row.score < row.upper


def test_recall_and_null(report):
    rows = select(report, k=4, labeling="predicted", level="class", layer="layer 1")
    hits = [np.mean(PREDICTED[c == LABELS] == c) for c in ("ant", "bee", "cow")]
    np.testing.assert_allclose([r.recall for r in rows], hits)
    assert all(np.isnan(r.recall) for r in select(report, labeling="parity"))
    (strong,) = select(report, k=8, labeling="insect", level="macro", layer="layer 3")
    assert strong.p_value == pytest.approx(1 / 51) and strong.null_upper < strong.score
    (none,) = select(report, k=8, labeling="parity", level="macro", layer="layer 3")
    assert none.null_lower < none.score < none.null_upper + 0.05


def test_heads_add_the_euclidean_score():
    weights = jnp.asarray(RNG.normal(size=(6, 3)), jnp.float32)
    head = jax.jit(lambda h: h @ weights)
    x = LAYERS["layer 1"].astype(np.float32)
    predicted = np.array(["ant", "bee", "cow"])[np.asarray(head(x)).argmax(1)]
    found = jc.evaluate(
        {"a": x}, LABELS, predictions=predicted, heads={"a": head}, classes=["ant", "bee", "cow"], k=4, progress=False
    )
    rows = select(found, kind="euclidean", labeling="predicted", level="class")
    assert [r.score for r in rows] == [1, 1, 1]  # a linear head, its own predictions
    codes = np.asarray(CODES)
    score = jc.euclidean_convexity(head, x, codes, num_classes=3)
    rows = select(found, kind="euclidean", labeling="labels", level="class")
    np.testing.assert_allclose([r.score for r in rows], score.per_class, atol=1e-6)
    assert all(r.k is None and np.isnan(r.adjacent) and r.se_jackknife > 0 for r in rows)
    with pytest.raises(ValueError, match="order of the logits"):
        jc.evaluate({"a": x}, LABELS, heads={"a": head}, k=4, progress=False)


def test_pooling():
    tokens = RNG.normal(size=(90, 3, 6)).astype(np.float32)
    for pool, features in (("cls", tokens[:, 0]), ("mean", tokens.mean(1)), (lambda t: t[:, 2], tokens[:, 2])):
        pooled = jc.evaluate(tokens, CODES, pool=pool, k=4, jackknife=False, progress=False)
        direct = jc.evaluate(features, CODES, k=4, jackknife=False, progress=False)
        assert pooled.rows == direct.rows or str(pooled.rows) == str(direct.rows)


def test_finished_layers_are_kept(tmp_path, monkeypatch):
    first = jc.evaluate(LAYERS, CODES, k=4, key=KEY, cache=tmp_path, progress=False)
    assert len(list(tmp_path.iterdir())) == 3
    monkeypatch.setattr("jaxconvex.evaluation.graph_rows", None)  # whoever calls it now fails
    again = jc.evaluate(LAYERS, CODES, k=4, key=KEY, cache=tmp_path, progress=False)
    assert str(again.rows) == str(first.rows)
    with pytest.raises(TypeError):
        jc.evaluate(LAYERS, CODES, k=5, key=KEY, cache=tmp_path, progress=False)
    with pytest.raises(TypeError):
        jc.evaluate(LAYERS, CODES[::-1], k=4, key=KEY, cache=tmp_path, progress=False)


def test_paper_protocol():
    found = jc.evaluate(LAYERS["layer 1"], CODES, protocol="paper", progress=False)
    assert found.settings["duplicates"] == "drop" and found.settings["max_pairs"] == 5000
    assert found.rows[0].replicates == ()
    with pytest.raises(ValueError, match="fixes k="):
        jc.evaluate(LAYERS["layer 1"], CODES, protocol="paper", k=5, progress=False)


def test_max_points_are_stratified_and_recorded():
    found = jc.evaluate(LAYERS["layer 1"], CODES, max_points=45, k=4, jackknife=False, progress=False)
    assert [row.num_points for row in select(found, level="class")] == [15, 15, 15]
    assert found.settings["num_points_scored"] == 45


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": CODES[:-1]}, "one row for each of 89 labels"),
        ({"labels": np.arange(90)}, "no class with two points"),
        ({"labels": CODES.astype(float)}, "integers or strings"),
        ({"k": 90}, "between 1 and 89"),
        ({"k": 0}, "between 1|at least 1"),
        ({"graph": "both"}, "'union', 'mutual'"),
        ({"metric": "squared_euclidean"}, "triangle inequality"),
        ({"representations": {}}, "at least one layer"),
        ({"representations": np.zeros((90, 2, 2))}, "pool"),
        ({"representations": np.full((90, 2), np.nan)}, "finite"),
        ({"heads": {"nowhere": None}}, "no layer"),
    ],
)
def test_bad_input(change, message):
    arguments = {"representations": LAYERS["layer 1"], "labels": CODES, "k": 4, "progress": False} | change
    representations, labels = arguments.pop("representations"), arguments.pop("labels")
    with pytest.raises(ValueError, match=message):
        jc.evaluate(representations, labels, **arguments)


def test_neighbours_that_tie_are_counted_and_told():
    """On a line of whole numbers with k = 1 all points but the two ends have two neighbours as near."""
    labels = np.repeat(["a", "b"], 10)
    line = np.arange(20, dtype=np.float32)[:, None]
    report = jc.evaluate({"line": line, "curve": line**2}, labels, k=1, jackknife=False, progress=False)
    tied = {row.layer: row.tied for row in report.rows}
    assert tied == {"line": 18, "curve": 0}
    assert "line: beyond the k=1 neighbours of 18 points" in " ".join(report.table(width=400).split())
    lattice = np.stack(np.meshgrid(np.arange(5.0), np.arange(5.0)), -1).reshape(-1, 2)
    for k, count in ((3, 9), (24, 0)):
        report = jc.evaluate({"a": lattice}, np.arange(25) % 2, k=k, jackknife=False, progress=False)
        assert {row.tied for row in report.rows} == {count}
