"""What could mislead is said first: failed fine-tuning, changes of labels, hubs, copies, two classes, unequal classes."""

from __future__ import annotations

import csv
import math
import re

import jax
import numpy as np
import pytest
from sample_studies import small_study
from toy_domains import write_toy_encoders

pytest.importorskip("typer")
pytest.importorskip("matplotlib")

from jaxconvex._internal.messages import in_red
from jaxconvex.evaluation.evaluation import evaluate
from jaxconvex.evaluation.report import Row
from jaxconvex.evaluation.rows import FEW_APART
from jaxconvex.evaluation.table import interval_words
from jaxconvex.study.claims.recall import no_correlation
from jaxconvex.study.datasets import Dataset
from jaxconvex.study.domains import domain
from jaxconvex.study.experiment import run_study
from jaxconvex.study.failures import alarm, failed_seeds, reasons, share_of_last
from jaxconvex.study.gathering import changes
from jaxconvex.study.reporting.pages import write_domain_page
from jaxconvex.study.reporting.summary import headline, hubs, summary_row, summary_table
from jaxconvex.study.results import LABELS_ONLY, LAYERS_ONLY, NetworkRow
from jaxconvex.study.splits import split
from jaxconvex.study.statements import statements

START = NetworkRow("pretrained", None, 0.9, 0.4, 0, 0, 1.0)
GOOD = NetworkRow("fine-tuned", 0, 0.95, 0.3, 6, 3, 1.0)


def replace_network(study, seed, **fields):
    rows = [row._replace(**fields) if row.seed == seed else row for row in study.networks]
    return study._replace(networks=tuple(rows))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, ""),
        ({"best_epoch": -1, "validation_loss": 0.4}, "no epoch had a smaller validation loss"),
        ({"validation_loss": 0.5}, "the validation loss rose from 0.4 to 0.5"),
        ({"accuracy": 0.85}, "accuracy fell from 90.0 to 85.0 percent"),
        ({"vanished": 1}, "1 of 3 classes is predicted for no point any more"),
        ({"still_falling": 0.2}, "its 6 epochs were over while the validation loss still fell (20 percent"),
        ({"still_falling": 0.01}, ""),
    ],
)
def test_what_speaks_against_a_fine_tuning(fields, words):
    said = ", ".join(reasons(GOOD._replace(**fields), START, 3))
    assert words in said and bool(said) == bool(words)


def test_the_share_of_the_last_epoch_by_hand():
    assert share_of_last(1.0, [0.5, 0.4], 2) == pytest.approx(0.1 / 0.6)
    assert share_of_last(1.0, [0.4], 1) == 1
    assert all(math.isnan(share_of_last(1.0, *rest)) for rest in (([0.5, 0.4], 3), ([0.4, 0.5], 2), ([1.2, 1.1], 2)))


@pytest.mark.long
def test_the_alarm_stands_first_and_names_the_seed(tmp_path):
    study = replace_network(small_study(), 1, accuracy=0.4, vanished=9)
    assert list(failed_seeds(study)) == [1]
    text = alarm(study)
    assert "in 1 of 2 runs of speech (seed 1: accuracy fell" in text and "9 of 10 classes are predicted" in text
    page = write_domain_page(study, tmp_path)[0].read_text()
    assert page.index('<p class="alarm" role="alert">Fine-tuning failed') < page.index('<p class="lead">')
    first = statements([study])[0]
    assert (first.claim, first.text) == ("failed fine-tuning", text)
    assert (
        alarm(small_study()) == "" and 'role="alert"' not in write_domain_page(small_study(), tmp_path)[0].read_text()
    )


@pytest.mark.long
def test_of_failed_runs_no_mean_is_made():
    """Two seeds by hand: with one failed the mean is the other's; with both there is none."""
    key, points = jax.random.key(0), np.random.default_rng(0).normal(size=(3, 60, 4))
    labels = np.arange(60) % 2
    before, *after = [
        evaluate({"a": x + 2 * labels[:, None] * shift}, labels, predictions=labels, k=5, key=key, progress=False)
        for x, shift in zip(points, (0, 1, 2), strict=True)
    ]
    for sound, wanted in (((True, True), None), ((False, True), 1), ((False, False), None)):
        rows = [row for row in changes(before, after, sound) if row.labeling == "predicted"]
        mean = [row for row in rows if row.seed is None]
        assert [row.seed for row in rows if row.seed is not None] == [0, 1] and len(mean) == any(sound)
        if wanted is not None:
            assert mean[0].difference == pytest.approx(rows[wanted].difference) and math.isnan(mean[0].spread)


@pytest.mark.long
def test_the_change_of_the_labels_and_that_of_the_layers_are_its_parts():
    """Layers that stay the same, labels that change: all of the change is the labels'."""
    x, truth = np.random.default_rng(0).normal(size=(60, 2)), np.arange(60) % 2
    better = (x[:, 0] > 0).astype(int)
    share = {"k": 5, "key": jax.random.key(0), "progress": False}
    before = evaluate({"a": x}, {"digit": truth, "predicted by fine-tuned-0": better}, predictions=truth, **share)
    after = evaluate({"a": x}, {"digit": truth}, predictions=better, **share)
    of = {row.labeling: row for row in changes(before, [after], [True]) if row.seed is None}
    assert list(of) == ["digit", "predicted", LABELS_ONLY, LAYERS_ONLY]
    assert of["predicted"].difference == pytest.approx(of[LABELS_ONLY].difference) and of["predicted"].difference > 0.2
    assert of[LAYERS_ONLY].difference == 0 == of["digit"].difference
    assert of[LAYERS_ONLY].before == pytest.approx(after.rows[-1].score)


def test_the_first_lines_tell_predicted_from_true_labels():
    study = small_study()
    rows = [row for row in study.changes if row.labeling == "predicted" and row.kind == "graph"]
    parts = [
        row._replace(labeling=name, difference=share * row.difference, lower=row.lower - 1, upper=row.upper)
        for name, share in ((LABELS_ONLY, 0.75), (LAYERS_ONLY, 0.25))
        for row in rows
    ]
    study = study._replace(changes=(*study.changes, *parts))
    mean = np.mean([row.difference for row in rows if row.seed is None])
    assert f"of which +{75 * mean:.1f} " in headline(study) and "; by true labels by " in headline(study)
    shown = summary_table([study]).to_text()
    assert headline(study).split("points")[0] in " ".join(shown.split()) and " true " in shown
    of = {one.claim: one for one in statements([study])}
    one = of["raised by fine-tuning: graph, layers only"]
    assert one.holds is None and "So a rise of the layers themselves is not shown." in one.text
    assert of["raised by fine-tuning: euclidean, true labels"].holds is True


# Hubs -----------------------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_hub_is_counted_and_warned_of():
    """Points on a sphere, and one at its centre, the neighbour of all; seen from the origin they have directions."""
    draws = np.random.default_rng(0)
    sphere = draws.normal(size=(80, 30))
    x = np.concatenate([sphere / np.linalg.norm(sphere, axis=1, keepdims=True), np.full((1, 30), 1e-3)])
    report = evaluate(x, np.arange(81) % 2, k=5, jackknife=False, progress=False)
    (row,) = [row for row in report.rows if row.level == "macro"]
    assert row.hub == 80 and row.hubness > 3
    direct = evaluate(x, np.arange(81) % 2, k=5, metric="cosine", jackknife=False, progress=False)
    of_angles = {(other.level, other.label): other.score for other in direct.rows}
    for one in report.rows:
        assert one.cosine == pytest.approx(of_angles[one.level, one.label])
    assert all(math.isnan(one.cosine) for one in direct.rows)
    table = report.table()
    assert "(above 3), so that a few points decide the paths; one" in " ".join(table.split())
    assert "is a neighbour of 80 others" in " ".join(table.split()) and "macro cosine" in table


@pytest.mark.long
def test_a_point_without_direction_has_no_cosine_score():
    x = np.random.default_rng(0).normal(size=(40, 3))
    x[7] = 0
    assert all(math.isnan(row.cosine) for row in evaluate(x, np.arange(40) % 2, k=5, progress=False).rows)


@pytest.mark.long
def test_the_study_warns_of_hubs(tmp_path):
    study = small_study()
    assert hubs(study) == ""
    place = next(i for i, row in enumerate(study.scores) if (row.level, row.layer_index) == ("macro", 2))
    rows = list(study.scores)
    rows[place] = rows[place]._replace(hubness=6.2, hub=292, score=0.446, cosine=0.681)
    study = study._replace(scores=tuple(rows))
    for words in (
        "in block 3 pretrained it is 6.2",
        "a neighbour of 292 others",
        "scores 44.6, by the cosine metric 68.1",
    ):
        assert words in hubs(study) and words in write_domain_page(study, tmp_path)[0].read_text()


# Intervals and correlations -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "[40.0, 60.0]"),
        ({"num_units": 5, "lower": math.nan, "upper": math.nan}, "(too few: 5 groups)"),
        ({"lower": 0.01, "upper": 1.0}, "(too few: 40 points)"),
        ({"adjacent": 1 - 0.9 * FEW_APART / 780}, "(too few: 9 pairs apart)"),
        ({"replicates": (), "lower": math.nan, "upper": math.nan}, ""),
    ],
)
def test_intervals_that_tell_nothing_are_not_printed(fields, words):
    row = Row("graph", "a", 0, "digit", 10, "class", "x", 0.5, 0.05, 0.4, 0.6, num_points=40, num_pairs=780)
    assert interval_words(row._replace(**({"num_units": 40, "replicates": (0.5,) * 10} | fields))) == words


def test_no_correlation_of_two_classes_nor_at_the_ceiling():
    draws = np.random.default_rng(0)
    assert no_correlation(draws.random(2), draws.random(2)) == "too few classes: 2"
    assert no_correlation(draws.random(9), np.r_[0.5, np.full(8, 0.99)]) == "recall is at its ceiling"
    assert no_correlation(draws.random(9), draws.random(9)) == ""
    study = small_study()
    for classes, words in (
        (study.classes[:2], "2 classes have both, and 5 are the fewest"),
        (tuple(row._replace(recall=0.99 + 0.001 * i) for i, row in enumerate(study.classes)), "at its ceiling"),
    ):
        changed = study._replace(classes=classes)
        (one,) = [one for one in statements([changed]) if one.claim == "predicts recall: graph"]
        assert words in one.text and math.isnan(one.estimate) and one.holds is None
        assert math.isnan(summary_row(changed).r_graph) and "1.00" not in summary_table([changed]).to_text()


def test_red_only_where_a_person_watches(monkeypatch):
    class Terminal:
        def isatty(self):
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert in_red("a", Terminal()) == "\x1b[31ma\x1b[0m" and in_red("a", None) == "a"
    monkeypatch.setenv("NO_COLOR", "1")
    assert in_red("a", Terminal()) == "a"


# Copies ---------------------------------------------------------------------------------------------------------------


def texts(inputs, labels, groups=None, parts=None):
    arrays = [None if values is None else np.asarray(values) for values in (groups, parts)]
    return Dataset(list(inputs), {"label": np.asarray(labels)}, *arrays, {}, "Texts.")


@pytest.mark.parametrize("how", ["dealt", "groups", "authors"])
def test_copies_stay_in_one_part(how):
    inputs = [f"text {i % 90}" for i in range(120)]  # 30 are there twice
    groups = np.arange(120) // 4 if how == "groups" else None
    fixed = np.where(np.arange(120) % 3 == 0, "test", "train") if how == "authors" else None
    parts = split(texts(inputs, np.arange(120) % 2, groups, fixed), jax.random.key(0), fewest=5)
    held = [{inputs[row] for row in rows} for rows in parts[:3]]
    assert not (held[0] & held[1] or held[0] & held[2] or held[1] & held[2])
    kept = sum(len(rows) for rows in parts[:3])
    assert f"30 of 120 points are copies of {30} others" in parts.notes[0]
    assert kept == 120 if how != "groups" else f"so {120 - kept} were left out" in parts.notes[0]
    assert (how == "groups") == parts.notes[1].startswith("Groups: ")


# The whole ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def opinions(tmp_path_factory):
    """Texts of two classes, one three times as large, by 40 authors, two of them there twice; and a tiny network."""
    folder, draws = tmp_path_factory.mktemp("opinions"), np.random.default_rng(0)
    words = {
        "good": ["where", "when", "how", "is", "my", "new", "card", "does", "the"],
        "bad": ["lost", "stolen", "missing", "block", "help", "please", "i"],
    }
    rows = [("text", "label", "group")]
    for i in range(240):
        label = "bad" if i % 4 == 0 else "good"
        rows.append((" ".join(draws.choice(words[label], draws.integers(4, 20))), label, f"author {i // 6}"))
    rows += [(rows[1][0], rows[1][1], "author 39"), (rows[2][0], rows[2][1], "author 38")]
    with (folder / "opinions.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return domain(
        "text", data=str(folder / "opinions.csv"), encoder=str(write_toy_encoders(folder / "encoders")["bert"]), seeds=1,
        epochs=3, patience=3, k=5, fewest=5, segments=4, permutations=20, pruning=False, variants=False,
    )  # fmt: skip


@pytest.mark.long
def test_a_study_of_two_unequal_classes_with_copies(opinions, tmp_path):
    study = run_study(opinions, tmp_path, progress=False)
    notes = " ".join(study.notes)
    for words in ("fewer than the 20 asked for", "2 of 242 points are copies of 2 others", "none is in two parts"):
        assert words in notes, words
    assert re.search(r"Texts are cut at 16 tokens, the most that the encoder takes: \d+ of \d+ \(", notes)
    sizes = sorted(row.num_points for row in study.classes)
    assert len(sizes) == 2 and sizes[1] > 2 * sizes[0]
    shown = summary_table([study]).to_text()
    assert "too few classes: 2" in shown or alarm(study)
    assert not re.search(r"-?1\.00|nan", shown)


@pytest.mark.long
def test_a_collapsed_fine_tuning_is_a_result_about_training(opinions, tmp_path):
    study = run_study(opinions._replace(learning_rate=30.0), tmp_path, progress=False)
    start, tuned = study.networks
    assert tuned.best_epoch == -1 and (tuned.accuracy, tuned.vanished) == (start.accuracy, 0)  # the start was kept
    page = write_domain_page(study, tmp_path)[0].read_text()
    first = page[page.index("</h1>") : page.index('<p class="lead">')]
    assert "Fine-tuning failed or was cut short in 1 of 1 runs of text (seed 0: no epoch had a smaller" in first
    claims = {one.claim.split(":")[0] for one in statements([study])}
    assert "failed fine-tuning" in claims
    assert not claims & {"raised by fine-tuning", "predicts recall", "pruning", "stands under other settings"}
    assert headline(study) == "" and [row.seed for row in study.changes if row.labeling == "predicted"][:1] == [0]
