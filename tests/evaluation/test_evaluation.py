"""evaluate(): its rows against the functions they come from, its settings, its cache."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxconvex as jc
from jaxconvex.evaluation.comparison import compare_reports
from jaxconvex.evaluation.report import select

pytestmark = pytest.mark.usefixtures("unexplained")

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


@pytest.mark.long
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


@pytest.mark.long
def test_pooling():
    tokens = RNG.normal(size=(90, 3, 6)).astype(np.float32)
    for pool, features in (("cls", tokens[:, 0]), ("mean", tokens.mean(1)), (lambda t: t[:, 2], tokens[:, 2])):
        pooled = jc.evaluate(tokens, CODES, pool=pool, k=4, jackknife=False, progress=False)
        direct = jc.evaluate(features, CODES, k=4, jackknife=False, progress=False)
        assert pooled.rows == direct.rows or str(pooled.rows) == str(direct.rows)


def test_finished_layers_are_kept(tmp_path, monkeypatch):
    first = jc.evaluate(LAYERS, CODES, k=4, key=KEY, cache=tmp_path, progress=False)
    assert len(list(tmp_path.iterdir())) == 3
    monkeypatch.setattr("jaxconvex.evaluation.evaluation.graph_rows", None)  # whoever calls it now fails
    again = jc.evaluate(LAYERS, CODES, k=4, key=KEY, cache=tmp_path, progress=False)
    assert str(again.rows) == str(first.rows)
    with pytest.raises(TypeError):
        jc.evaluate(LAYERS, CODES, k=5, key=KEY, cache=tmp_path, progress=False)
    with pytest.raises(TypeError):
        jc.evaluate(LAYERS, CODES[::-1], k=4, key=KEY, cache=tmp_path, progress=False)


@pytest.mark.long
def test_paper_protocol():
    found = jc.evaluate(LAYERS["layer 1"], CODES, protocol="paper", progress=False)
    assert found.settings["duplicates"] == "drop" and found.settings["max_pairs"] == 5000
    assert found.rows[0].replicates == ()
    with pytest.raises(ValueError, match="fixes k="):
        jc.evaluate(LAYERS["layer 1"], CODES, protocol="paper", k=5, progress=False)


@pytest.mark.long
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


@pytest.mark.long
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


@pytest.mark.long
def test_whole_groups_are_left_out():
    """Twelve groups of eight points, close together: intervals of new groups are wider than those of new points."""
    rng = np.random.default_rng(0)
    groups = np.repeat([f"speaker {i}" for i in range(12)], 8)
    labels = np.repeat(np.arange(12) % 2, 8)
    x = np.repeat(rng.normal(size=(12, 4)), 8, axis=0) + 0.4 * rng.normal(size=(96, 4))
    by_group, by_point = (jc.evaluate(x, labels, groups=each, k=4, progress=False) for each in (groups, None))
    (whole,), (alone,) = (select(report, level="micro") for report in (by_group, by_point))
    assert whole.score == alone.score and (whole.num_units, alone.num_units) == (12, 96)
    assert whole.se_jackknife > alone.se_jackknife
    units = np.unique(groups, return_inverse=True)[1]
    parts = jc.jackknife_groups(labels, jax.random.split(jax.random.key(0), 3)[1], units=units)
    for kept, got in ((parts != 3, whole.replicates[3]), (parts // 2 != 1, whole.joint[1])):
        score = jc.graph_convexity(jc.knn_graph(x[kept], k=4), labels[kept], num_classes=2)
        assert got == pytest.approx(float(score.micro), abs=1e-6)
    assert "jackknife of whole groups" in " ".join(by_group.table().split())
    of_one = (np.arange(96) // 8 == 0).astype(int)
    rows = select(jc.evaluate(x, of_one, groups=groups, k=4, progress=False), level="class")
    assert np.isnan(rows[1].lower) and rows[1].num_units == 1 and np.isfinite(rows[0].lower)


def test_few_groups_have_no_interval_and_a_reason():
    with pytest.raises(ValueError, match="groups must hold one integer or string a point, 90; got 89"):
        jc.evaluate(LAYERS["layer 1"], CODES, groups=CODES[:-1], k=4, progress=False)
    found = jc.evaluate(LAYERS["layer 1"], CODES, groups=CODES, k=4, progress=False)
    assert all(np.isnan(row.lower) and row.replicates == () for row in found.rows)
    assert "no intervals, since the points are of 3 groups and 6 are needed" in " ".join(found.table().split())
    with pytest.raises(ValueError, match="needs 6 groups of points to leave out; those of 'a' are of 3"):
        compare_reports(found, found)


@pytest.mark.long
def test_what_intervals_cannot_tell_is_said():
    """A class of three points, of which macro is not made, and one in two far pieces."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [40, 40, 3])
    x = rng.normal(size=(83, 3))
    x[:20] += 50
    report = jc.evaluate(x, labels, k=4, progress=False)
    apart, whole, tiny = select(report, level="class")
    (macro,) = select(report, level="macro")
    assert macro.score == pytest.approx((apart.score + whole.score) / 2) and macro.num_points == 80
    assert macro.replicates[2] == pytest.approx((apart.replicates[2] + whole.replicates[2]) / 2)
    assert np.isnan(tiny.lower) and apart.cut_off > 0.5 and whole.cut_off == 0
    text, classes = (" ".join(report.tables(classes=each)[0].to_text().split()) for each in (False, True))
    assert "macro leaves out classes that lose their pairs when points are left out: 2 (3 points)" in text
    assert "] ?" in classes and "(too few: 3 points)" in classes and "a class is in pieces" in classes


@pytest.mark.long
def test_classes_of_one_size_make_random_predictions_comparable():
    """Random predictions of sizes 50, 50, 50 and of 15, 25, 110: their scores differ by their sizes alone."""
    rng = np.random.default_rng(0)
    x, truth = rng.normal(size=(150, 4)), np.repeat([0, 1, 2], 50)
    even, uneven = rng.permutation(truth), rng.permutation(np.repeat([0, 1, 2], [15, 25, 110]))
    options = {"k": 5, "progress": False}
    a, b = (jc.evaluate(x, truth, predictions=p, **options) for p in (even, uneven))
    found = compare_reports(a, b)
    (micro,) = select(found, labeling="predicted", level="micro")
    assert micro.lower > 0.05 and abs(micro.beyond_null) < 0.1  # "significant", and nothing beyond the null
    notes = found.tables()[1].notes
    assert notes[0].startswith("Warning: the classes of the two differ in size, '2' in representation has 50 and 110")
    assert not any("Warning" in note for note in found.tables()[0].notes)  # the true labels
    a, b = (jc.evaluate(x, truth, predictions=p, class_size=15, **options) for p in (even, uneven))
    rows = select(b, labeling="predicted", level="class")
    assert [row.num_points for row in rows] == [15, 15, 15]
    found = compare_reports(a, b)
    (micro,) = select(found, labeling="predicted", level="micro")
    assert micro.lower < 0 < micro.upper and not any("Warning" in note for note in found.tables()[1].notes)
    with pytest.raises(ValueError, match="one class_size; got 15 and None"):
        compare_reports(a, jc.evaluate(x, truth, predictions=uneven, **options))
    with pytest.raises(ValueError, match="class_size=1 leaves 3 points"):
        jc.evaluate(x, truth, class_size=1, **options)


def test_p_values_tell_their_number_and_are_adjusted_on_request(report):
    text = " ".join(report.tables(classes=True)[0].to_text().split())
    assert "of 9 true nulls some p is below 0.05 in up to 37% of cases" in text  # 1 - 0.95^9
    assert "50 permutations leave no adjusted p below 0.05: that takes 179" in text  # 9 / 0.05 - 1
    adjusted = report.adjusted()
    rows = [select(r, labeling="insect", k=4, level="class") for r in (report, adjusted)]
    np.testing.assert_allclose([row.p_value for row in rows[1]], jc.holm([row.p_value for row in rows[0]]))
    assert "adjusted by Holm for all 9" in " ".join(adjusted.tables(classes=True)[0].to_text().split())
