"""Statements against independent computations from the rows, with planted and with reversed effects."""

from __future__ import annotations

import math

import jax
import numpy as np
import oracles
import pytest
from sample_studies import large_study, sample_study, small_study
from scipy import stats

from jaxconvex.statistics.correlation import domain_correlation
from jaxconvex.study.claims.layers import holm
from jaxconvex.study.results import Study
from jaxconvex.study.statements import (
    missing_parts,
    paragraphs,
    pooled,
    read_statements,
    statements,
    write_statements,
)


def of(made, claim, domain):
    found = [one for one in made if (one.claim, one.domain) == (claim, domain)]
    assert len(found) == 1, (claim, domain, [one.claim for one in made])
    return found[0]


@pytest.fixture(scope="module")
def studies():
    return [
        small_study(),
        sample_study(name="images", layers=5, seeds=3, classes=12, seed=3, link=0.5),
        sample_study(name="text", layers=4, seeds=2, classes=20, seed=4, link=0.3),
        large_study(),
    ]


@pytest.fixture(scope="module")
def made(studies):
    return statements(studies)


def test_planted_effects_are_found(made):
    for domain in ("all", "speech", "images", "text"):
        assert of(made, "above the null", domain).holds is True
        for kind in ("graph", "euclidean"):
            assert of(made, f"raised by fine-tuning: {kind}", domain).holds is True
            assert of(made, f"most in late layers: {kind}", domain).holds is True
        assert of(made, "robust to re-parametrization", domain).holds is True
        assert of(made, "stands under other settings", domain).holds is True
    assert of(made, "predicts recall: graph", "all").holds is True
    assert of(made, "predicts recall: graph, within domains", "all").holds is True


def test_reversed_effects_are_said():
    study = small_study(above=-0.3, rise=-0.2, late=-0.2, link=-0.95, shift=0.1, loss=0.2)
    made = statements([study])
    wanted = {
        "above the null": "here it is not",
        "raised by fine-tuning: graph": "here it falls",
        "most in late layers: euclidean": "larger in early ones",
        "predicts recall: graph": "here it is negative",
        "robust to re-parametrization: isometry": "Not robust",
        "stands under other settings: cosine": "falls",
        "pruning": "point is lost",
    }
    for claim, words in wanted.items():
        one = of(made, claim, "speech")
        assert one.holds is False and words in one.text, one
    assert of(made, "robust to re-parametrization", "speech").holds is False


def test_null_numbers(studies, made):
    study = studies[1]
    rows = [row for row in study.scores if (row.kind, row.labeling, row.level) == ("graph", "predicted", "macro")]
    weakest = min(rows, key=lambda row: row.score - row.null_mean)
    one = of(made, "above the null", "images")
    assert one[2:5] == pytest.approx([v - weakest.null_mean for v in (weakest.score, weakest.lower, weakest.upper)])
    above = sum(row.score > row.null_upper for row in rows)
    assert f"in {above} of {len(rows)} layers" in one.text and len(rows) == 5 * 4


def test_null_names_those_not_above():
    study = small_study()
    spot = next(i for i, row in enumerate(study.scores) if (row.level, row.layer_index) == ("macro", 1))
    rows = list(study.scores)
    rows[spot] = rows[spot]._replace(null_upper=0.99, p_value=0.4)
    one = of(statements([study._replace(scores=tuple(rows))]), "above the null", "speech")
    assert "in 8 of 9 layers" in one.text and "Not above: block 2 pretrained." in one.text
    assert "Not significant: block 2 pretrained (p = 0.4)." in one.text and one.holds is None


def test_too_few_permutations_are_said():
    study = sample_study(layers=17, seeds=1, seed=5)
    rows = tuple(row._replace(p_value=1 / 201) for row in study.scores)
    study = study._replace(scores=rows, settings=study.settings | {"permutations": 200})
    one = of(statements([study]), "above the null", "speech")
    assert one.holds is True and "p is below 0.05 in 0 of 34" in one.text and "too few" in one.text


def test_holm_by_definition():
    p = np.random.default_rng(0).uniform(0, 0.2, 9)
    order = np.argsort(p)
    expected = np.empty(9)
    for rank, place in enumerate(order):
        expected[place] = min(1, max((9 - other) * p[order[other]] for other in range(rank + 1)))
    assert holm(p) == pytest.approx(expected)


def test_change_numbers(studies, made):
    means, halves, contrasts = [], [], []
    for study in studies[:3]:
        rows = [row for row in study.changes if (row.kind, row.labeling, row.seed) == ("euclidean", "predicted", None)]
        d = np.array([row.difference for row in rows])
        h = np.array([row.upper - row.lower for row in rows]) / 2
        means.append(d.mean())
        halves.append(h.mean())
        half = len(d) // 2
        contrasts.append(d[-half:].mean() - d[:half].mean())
        one = of(made, "raised by fine-tuning: euclidean", study.name)
        assert one[2:5] == pytest.approx([d.mean(), d.mean() - h.mean(), d.mean() + h.mean()])
        assert f"above 0 in {sum(row.lower > 0 for row in rows)} of {len(rows)}" in one.text
        late = of(made, "most in late layers: euclidean", study.name)
        assert late.estimate == pytest.approx(contrasts[-1])
        assert late.upper - late.estimate == pytest.approx(np.hypot(h[-half:].mean(), h[:half].mean()))
    one = of(made, "raised by fine-tuning: euclidean", "all")
    assert one.estimate == pytest.approx(np.mean(means))
    assert one.upper - one.lower == pytest.approx(2 * np.sqrt(np.sum(np.square(halves))) / 3)
    assert of(made, "most in late layers: euclidean", "all").estimate == pytest.approx(np.mean(contrasts))


def test_correlations(studies, made):
    for kind in ("graph", "euclidean"):
        pairs = [np.array([(getattr(r, kind), r.recall) for r in study.classes]) for study in studies[:3]]
        for study, both in zip(studies, pairs, strict=False):
            assert of(made, f"predicts recall: {kind}", study.name).estimate == pytest.approx(
                stats.pearsonr(*both.T)[0]
            )
        whole = np.concatenate(pairs)
        one = of(made, f"predicts recall: {kind}", "all")
        found = stats.pearsonr(*whole.T)
        assert one.estimate == pytest.approx(found[0])
        again = oracles.drawn_correlation(pairs, 4000, seed=1)
        assert one[3:5] == pytest.approx(again, abs=0.02)  # both are drawn
        assert "other classes of these domains" in one.text
        assert f"Spearman {stats.spearmanr(*whole.T)[0]:.2f}" in one.text and "over 42 classes" in one.text
        centred = np.concatenate([both - both.mean(axis=0) for both in pairs])
        inner = of(made, f"predicts recall: {kind}, within domains", "all")
        r = stats.pearsonr(*centred.T)[0]
        assert inner.estimate == pytest.approx(r)
        assert inner[3:5] == pytest.approx(oracles.drawn_correlation(pairs, 4000, seed=1, within=True), abs=0.02)


def test_within_domains_is_the_regression_with_domain_means():
    """The partial correlation given the domains: that of the residuals of both on dummy variables."""
    draws = np.random.default_rng(1)
    pairs = [(draws.normal(size=n), draws.normal(size=n)) for n in (4, 7, 9)]
    domain = np.repeat(np.arange(3), [4, 7, 9])
    dummies = np.eye(3)[domain]
    x, y = (np.concatenate(values) for values in zip(*pairs, strict=True))
    residuals = [v - dummies @ np.linalg.lstsq(dummies, v, rcond=None)[0] for v in (x, y)]
    found = domain_correlation(pairs, jax.random.key(0), within=True)
    assert found.coefficient == pytest.approx(np.corrcoef(*residuals)[0, 1])


def test_a_domain_is_not_counted_twice(studies, made):
    again = sample_study(name="text-77", layers=4, classes=30, seed=9, link=-0.9)
    beside = statements([*studies[:3], again])
    alone = statements(studies[:3])
    assert [one for one in beside if one.domain == "all"] == [one for one in alone if one.domain == "all"]
    assert of(beside, "predicts recall: graph", "text-77").holds is False
    kept, left = pooled([*studies[:3], again])
    assert [study.name for study in kept] == ["speech", "images", "text"] and [s.name for s in left] == ["text-77"]
    assert [study.name for study in pooled([again])[0]] == ["text-77"]
    assert of(made, "predicts recall: graph", "text-77")  # beside text it is still told by itself


def test_classes_without_value_are_counted():
    study = small_study()
    rows = list(study.classes)
    rows[0] = rows[0]._replace(graph=math.nan)
    rows[4] = rows[4]._replace(recall=math.nan)
    one = of(statements([study._replace(classes=tuple(rows))]), "predicts recall: graph", "speech")
    kept = np.array([(row.graph, row.recall) for place, row in enumerate(rows) if place not in (0, 4)])
    assert one.estimate == pytest.approx(stats.pearsonr(*kept.T)[0])
    assert "over 8 classes (2 more have no value" in one.text


def test_a_single_class_and_constant_recall_decide_nothing():
    study = small_study()
    for classes in (study.classes[:1], tuple(row._replace(recall=1.0) for row in study.classes)):
        one = of(statements([study._replace(classes=classes)]), "predicts recall: graph", "speech")
        assert math.isnan(one.estimate) and one.holds is None and "no correlation" in one.text
        assert "nan" not in one.text


def test_nan_everywhere_still_gives_sentences():
    study = small_study()

    def blind(rows, *fields):
        return tuple(row._replace(**dict.fromkeys(fields, math.nan)) for row in rows)

    study = study._replace(
        scores=blind(study.scores, "se", "lower", "upper", "p_value"),
        changes=blind(study.changes, "se", "spread", "lower", "upper"),
        variants=blind(study.variants, "score"),
        measures=blind(study.measures, "value"),
        pruning=blind(study.pruning, "training_seconds", "inference_seconds"),
    )
    made = statements([study])
    assert made and not any("nan" in one.text.lower().split() for one in made)
    assert of(made, "raised by fine-tuning: graph", "speech").holds is None


def test_robustness_numbers(studies, made):
    study = studies[0]
    score = {(r.variant, r.network, r.seed, r.layer): r.score for r in study.variants if r.question != "sensitivity"}
    moved = np.array([value - score["none", *key[1:]] for key, value in score.items() if key[0] == "affine"])
    one = of(made, "robust to re-parametrization: affine", "speech")
    assert one[2:5] == pytest.approx([moved.mean(), moved.min(), moved.max()])
    assert f"{100 * np.abs(moved).max():.1f} at most" in one.text


def test_sensitivity_numbers(studies, made):
    study = studies[1]
    rows = [row for row in study.variants if (row.question, row.variant) == ("sensitivity", "k = 20")]
    change = [
        np.mean([r.score for r in rows if r.layer_index == i and r.network == "fine-tuned"])
        - next(r.score for r in rows if r.layer_index == i and r.network == "pretrained")
        for i in range(5)
    ]
    one = of(made, "stands under other settings: k = 20", "images")
    own = of(made, "raised by fine-tuning: graph", "images")
    assert one.estimate == pytest.approx(np.mean(change))
    assert one.upper - one.lower == pytest.approx(own.upper - own.lower)
    assert f"raised in {sum(np.array(change) > 0)} of 5 layers" in one.text
    truth = [r.difference for r in study.changes if (r.kind, r.labeling, r.seed) == ("graph", "digit", None)]
    assert of(made, "stands under other settings: true labels", "images").estimate == pytest.approx(np.mean(truth))


def test_the_studys_own_k_is_told_once(made):
    claims = [one.claim for one in made]
    assert "stands under other settings: none" in claims and "stands under other settings: k = 10" not in claims


def test_labels_not_trained_for():
    study = small_study(labelings=("digit", "speaker"))
    one = of(statements([study]), "labels not trained for: speaker, euclidean", "speech")
    rows = [r for r in study.changes if (r.kind, r.labeling, r.seed) == ("euclidean", "speaker", None)]
    assert one.estimate == pytest.approx(np.mean([r.difference for r in rows]))
    assert one.lower == pytest.approx(one.estimate - np.mean([r.upper - r.lower for r in rows]) / 2)
    other = small_study(name="sounds", labelings=("digit", "speaker"))
    assert not [one for one in statements([study, other]) if one.domain == "all" and "not trained" in one.claim]


def test_simpler_measures(studies, made):
    study = studies[2]
    values = {}
    for row in study.measures:
        if (row.measure, row.network) == ("silhouette", "pretrained") and row.label is not None:
            values.setdefault(row.label, []).append(row.value)
    x, y, z = np.array([(row.graph, row.recall, np.mean(values[row.label])) for row in study.classes]).T
    residuals = [v - np.polyval(np.polyfit(z, v, 1), z) for v in (x, y)]
    one = of(made, "beside simpler measures: silhouette", "text")
    assert one.estimate == pytest.approx(np.corrcoef(*residuals)[0, 1])
    alone = of(made, "beside simpler measures: hubness", "text")
    layers = [r.value for r in study.measures if (r.measure, r.network) == ("hubness", "pretrained")]
    scores = [
        r.score
        for r in study.scores
        if (r.kind, r.network, r.labeling, r.level) == ("graph", "pretrained", "predicted", "macro")
    ]
    assert alone.estimate == pytest.approx(np.corrcoef(layers, scores)[0, 1]) and alone.holds is None


def test_partial_correlations_over_domains(made):
    parts = [of(made, "beside simpler measures: silhouette", name).estimate for name in ("speech", "images", "text")]
    weights = np.array([10, 12, 20]) - 4
    z = np.sum(weights * np.arctanh(parts)) / weights.sum()
    ends = [z, z - 1.959964 / np.sqrt(weights.sum()), z + 1.959964 / np.sqrt(weights.sum())]
    assert of(made, "beside simpler measures: silhouette", "all")[2:5] == pytest.approx(np.tanh(ends), rel=1e-5)


def test_pruning_numbers(studies, made):
    study = studies[1]
    accuracy = {(row.rule, row.seed): row.accuracy for row in study.pruning}
    lost = [accuracy["most convex", seed] - accuracy["whole", seed] for seed in range(3)]
    low, high = stats.t.interval(0.95, 2, np.mean(lost), stats.sem(lost))
    assert of(made, "pruning", "images")[2:5] == pytest.approx([np.mean(lost), low, high])
    assert "40 percent of the time of training" in of(made, "pruning", "images").text


def test_pruning_of_one_seed_has_no_interval():
    one = of(statements([small_study(seeds=1)]), "pruning", "speech")
    assert one.holds is None and "(no interval)" in one.text


def test_pruning_says_what_takes_longer_and_which_layer():
    study = small_study()
    rows = tuple(
        row if row.rule == "whole" else row._replace(rule="most convex but the last", training_seconds=9.0)
        for row in study.pruning
    )
    text = of(statements([study._replace(pruning=rows)]), "pruning", "speech").text
    assert "the last left out" in text and "takes more: 100 percent of the time of training" in text
    assert "33 percent of the blocks" in text


def test_missing_parts_are_said():
    bare = small_study(variants=False, measures=False, pruning=False)
    assert missing_parts([small_study()]) == []
    said = missing_parts([bare])
    assert len(said) == 1 and "re-parametrization, sensitivity, simpler measures, pruning" in said[0]
    groups = {one.claim.split(":")[0] for one in statements([bare])}
    assert groups == {"above the null", "raised by fine-tuning", "most in late layers", "predicts recall",
                      "stands under other settings"}  # fmt: skip
    empty = Study(bare.domain, {}, (), {})
    assert statements([empty]) == () and "the scores of layers" in missing_parts([empty])[0]


def test_a_single_layer_has_no_later_half():
    made = statements([small_study(layers=1)])
    assert not [one for one in made if one.claim.startswith("most in late")]


def test_paragraphs_are_of_all_domains_or_of_the_one(made):
    joint = paragraphs(made)
    assert all("In speech" not in text for text in joint) and "Over 3 domains" in joint[0] and len(joint) == 8
    assert "In speech" in paragraphs(statements([small_study()]))[0]


def test_written_and_read_again(made, tmp_path):
    paths = write_statements(made, tmp_path)
    again = read_statements(paths[0])
    assert len(again) == len(made)
    for one, other in zip(made, again, strict=True):
        assert one[:2] == other[:2] and one[5:] == other[5:]
        np.testing.assert_equal(one[2:5], other[2:5])
    assert paths[1].read_text().count("\n") == len(made) + 1


def test_the_same_domain_twice_is_refused():
    with pytest.raises(ValueError, match="Give each domain once"):
        statements([small_study(), small_study()])
    with pytest.raises(ValueError, match="one or more studies"):
        statements([])
