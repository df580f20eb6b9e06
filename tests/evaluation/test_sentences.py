"""What is said first: numbers, places and verdicts by hand; nothing that cannot be told."""

from __future__ import annotations

import math

import numpy as np
from sample_reports import sample_report

from jaxconvex.evaluation.comparison import compare_reports
from jaxconvex.evaluation.report import Report, Row
from jaxconvex.evaluation.sentences import findings


def row(layer, level, label, score, **more):
    values = {"lower": score - 0.1, "upper": score + 0.05, "num_points": 50, "num_pairs": 1225, "adjacent": 0.1}
    return Row("graph", f"layer {layer}", layer, "animal", 5, level, label, score=score, **values | more)


def hand_made(**more):
    """Two classes and three layers; the middle one is the most convex, and the only one above its null."""
    rows = []
    for layer, (cat, dog) in enumerate([(0.2, 0.4), (0.9, 0.7), (0.5, 0.5)]):
        null = {"null_mean": 0.5, "null_upper": 0.55}
        rows += [row(layer, "macro", None, (cat + dog) / 2, **null | more)]
        rows += [row(layer, "class", "cat", cat), row(layer, "class", "dog", dog)]
    return Report(tuple(rows), {"num_points_scored": 100, "confidence": 0.9}, {})


def test_a_report_by_hand():
    said = findings(hand_made())
    assert said.warnings == ()
    assert said.sentences == (
        "100 points in 2 classes, 3 layers; labels 'animal', k = 5. 100 percent is convex; brackets hold 90 "
        "percent intervals.",
        "Graph convexity, mean of the classes, is highest in layer 1, 80.0 percent [70.0, 85.0], and lowest in layer 0, "
        "30.0 percent [20.0, 35.0]; permuted labels get 50.0 there, and 1 of 3 layers lies above their interval.",
        "From layer 0, the first layer, to layer 2, the last, it changes by +20.0 points.",
        "In layer 1 the least convex class is 'dog', 70.0 percent [60.0, 75.0], the most convex 'cat', 90.0 percent "
        "[80.0, 95.0].",
    )


def test_the_change_over_layers_is_paired():
    """Replicates that move together: the difference is sure, though each score is not."""
    noise = np.random.default_rng(0).normal(0, 0.03, 10)
    report = hand_made()
    rows = [
        each._replace(replicates=tuple(each.score + noise)) if each.level == "macro" else each for each in report.rows
    ]
    assert "+20.0 points [+20.0, +20.0] (a rise)." in findings(report._replace(rows=tuple(rows))).sentences[2]
    apart = [
        each._replace(replicates=tuple(each.score + np.random.default_rng(each.layer_index).normal(0, 0.3, 10)))
        if each.level == "macro"
        else each
        for each in report.rows
    ]
    assert "(no change is shown)" in findings(report._replace(rows=tuple(apart))).sentences[2]


def test_what_would_mislead_is_said():
    report = hand_made(hubness=4.5, hub=60, cosine=0.7, tied=3)
    without = {"num_points": 4, "lower": math.nan, "upper": math.nan, "replicates": (0.1, 0.2)}
    few = [each._replace(**without) if each.label == "dog" else each for each in report.rows]
    warnings = " ".join(findings(report._replace(rows=tuple(few))).warnings)
    assert "layer 0: hubness 4.5 (above 3)" in warnings and "by the cosine metric 70.0" in warnings
    assert "beyond the k=5 neighbours of 3 points" in warnings
    assert "1 of 2 classes have too few points or pairs to tell an interval: 'dog'." in warnings


def test_nothing_is_told_of_what_is_not_there():
    assert "nothing to tell" in findings(Report((), {}, {})).sentences[0]
    blind = hand_made()._replace(rows=tuple(each._replace(score=math.nan) for each in hand_made().rows))
    assert len(findings(blind).sentences) == 1
    for report in (sample_report(layers=1, kinds=("graph", "euclidean"), labelings=("a", "b"), ks=(5, 10)), blind):
        said = findings(report)
        assert 1 <= len(said.sentences) <= 5 and not any(
            "nan" in text.split() for text in (*said.sentences, *said.warnings)
        )
    assert (
        "(1 other labeling and 1 other k below)"
        in findings(sample_report(labelings=("a", "b"), ks=(5, 10))).sentences[0]
    )


def test_a_comparison_by_hand():
    a, b = sample_report(), sample_report(shift=0.1, seed=1)
    comparison = compare_reports(a, b, names=("before", "after"))
    said = findings(
        comparison, reports={"before": a._replace(rows=tuple(r._replace(tied=2) for r in a.rows)), "after": b}
    )
    macro = [each for each in comparison.rows if each.level == "macro"]
    largest = max(macro, key=lambda each: abs(each.difference))
    above = sum(each.lower > 0 for each in macro)
    assert said.sentences[0].startswith("after minus before on the same points: 3 layers; labels 'digit', k = 10.")
    assert (
        f"is above 0 in {above} of 3 layers, below 0 in 0. The largest is {100 * largest.difference:+.1f} ["
        in said.sentences[1]
    )
    assert (
        f"in {largest.layer} ({100 * largest.score_a:.1f} to {100 * largest.score_b:.1f} percent)" in said.sentences[1]
    )
    assert said.warnings[0].startswith("before: Graph convexity: layer 0: beyond the k=10 neighbours of 2 points")
