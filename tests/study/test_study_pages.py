"""The pages of studies: whole, with nothing to load, and with every figure for any number of layers and domains."""

from __future__ import annotations

import csv
import math
import re
from itertools import pairwise

import numpy as np
import pytest
from sample_studies import large_study, sample_study, small_study

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

from jaxconvex.study.reporting.figures import plot_changes, plot_profiles, plot_pruning, plot_recall, study_figures
from jaxconvex.study.reporting.pages import summary_rows, summary_table, write_domain_page, write_joint_page
from jaxconvex.study.results import Study
from jaxconvex.study.statements import read_statements, statements

ALL = {"changes", "recall", "robustness", "sensitivity", "measures", "pruning"}


def check_page(path, titles):
    text = path.read_text()
    assert text.count("<script>") == 1 and not re.search(r'(src|href)="(https?:|//)', text)
    assert "nan" not in re.sub(r"base64,[A-Za-z0-9+/=]*", "", text).lower().split()
    for title in titles:
        assert title in text, title
    return text


@pytest.mark.long
def test_page_of_one_domain(tmp_path):
    study = large_study(layers=6)
    paths = write_domain_page(study, tmp_path)
    text = check_page(paths[0], ["Convexity in text-77", "A made-up network.", *study.notes, "3 times"])
    names = {path.stem for path in paths if path.suffix == ".svg"}
    assert names == ALL | {"profiles"} and len(paths) == 1 + 2 * len(names)
    assert text.count("<figure>") == len(names)
    assert all(path.stat().st_size > 500 for path in paths)
    assert "class 76" in text and text.count("95 percent") == 1


@pytest.mark.long
def test_page_of_several_domains(tmp_path):
    bare = small_study(name="medical", variants=False, measures=False, pruning=False)
    studies = [small_study(), sample_study(name="speech-other", seed=5), bare]
    paths = write_joint_page(studies, tmp_path / "joint")
    text = check_page(paths[0], ["speech-other (speech)", "In medical these parts were not run: re-parametrization"])
    names = {path.stem for path in paths if path.suffix == ".svg"}
    assert names == ALL | {"profiles-graph", "profiles-euclidean", "correlations"}
    assert text.count("<figure>") == len(names)
    made = read_statements(tmp_path / "joint" / "statements.json")
    assert [one.text for one in made] == [one.text for one in statements(studies)]
    with open(tmp_path / "joint" / "summary.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["domain"] for line in lines] == ["speech", "speech-other", "medical"]
    assert float(lines[0]["accuracy"]) == pytest.approx(summary_rows(studies)[0].accuracy)


def test_summary_numbers():
    study = small_study()
    row = summary_rows([study])[0]
    tuned = [one.accuracy for one in study.networks if one.network == "fine-tuned"]
    assert row.accuracy == pytest.approx(np.mean(tuned)) and row.accuracy_spread == pytest.approx(np.std(tuned, ddof=1))
    last = [
        one.score
        for one in study.scores
        if (one.network, one.kind, one.labeling, one.level, one.layer_index)
        == ("fine-tuned", "euclidean", "predicted", "macro", 2)
    ]
    assert row.euclidean_last == pytest.approx(np.mean(last)) and len(last) == 2
    x, y = np.array([(one.graph, one.recall) for one in study.classes]).T
    assert row.r_graph == pytest.approx(np.corrcoef(x, y)[0, 1])
    shown = summary_table([study, large_study(layers=2)]).to_text()
    assert "speech" in shown and "text-77" in shown and f"{100 * row.accuracy:.1f} ± " in shown


def test_a_study_with_nothing_in_it_has_a_page(tmp_path):
    empty = Study(small_study().domain, {}, (), {})
    paths = write_domain_page(empty, tmp_path)
    assert len(paths) == 1
    check_page(paths[0], ["these parts were not run"])
    assert study_figures([empty]) == {} and "–" in summary_table([empty]).to_text()


@pytest.mark.long
def test_nan_rows_and_a_single_class_are_drawn(tmp_path):
    study = small_study(classes=1, layers=1, seeds=1)
    blind = study._replace(
        scores=tuple(row._replace(lower=math.nan, upper=math.nan, null_mean=math.nan) for row in study.scores),
        classes=tuple(row._replace(recall=math.nan) for row in study.classes),
        measures=tuple(row._replace(value=math.inf) for row in study.measures),
    )
    check_page(write_joint_page([blind], tmp_path)[0], ["speech"])


def lines_named(panel, start):
    return [line for line in panel.lines if str(line.get_label()).startswith(start)]


def test_profiles_show_the_numbers():
    study = small_study()
    figure = plot_profiles([study])
    graph = figure.axes[0]
    rows = [row for row in study.scores if (row.kind, row.labeling, row.level) == ("graph", "predicted", "macro")]
    before = [row.score for row in rows if row.network == "pretrained"]
    after = np.mean([[r.score for r in rows if r.seed == seed] for seed in (0, 1)], axis=0)
    assert lines_named(graph, "pretrained")[0].get_ydata() == pytest.approx(before)
    assert lines_named(graph, "fine-tuned")[0].get_ydata() == pytest.approx(after)
    assert lines_named(graph, "permuted")[0].get_ydata() == pytest.approx([0.2] * 3)
    assert not lines_named(figure.axes[1], "permuted")


def test_other_figures_show_the_numbers():
    studies = [small_study(), sample_study(name="text", layers=4, classes=5, seed=3)]
    panel = plot_changes(studies).axes[1]
    wanted = [r.difference for r in studies[1].changes if (r.kind, r.labeling, r.seed) == ("graph", "predicted", None)]
    assert lines_named(panel, "graph")[0].get_ydata() == pytest.approx(wanted)
    recall = plot_recall(studies).axes[0]
    assert lines_named(recall, "text")[0].get_ydata() == pytest.approx([row.recall for row in studies[1].classes])
    names = [label.get_text() for label in plot_pruning(studies).axes[0].get_yticklabels()]
    assert names[:2] == ["speech: whole, 3 blocks", "speech: most convex, 2 blocks"] and len(names) == 4


@pytest.mark.long
@pytest.mark.parametrize("layers", [2, 17])
def test_labels_never_overlap(layers):
    studies = [sample_study(name=f"domain {place}", layers=layers, seeds=2, seed=place) for place in range(4)]
    for figure in study_figures(studies, statements(studies)).values():
        figure.draw_without_rendering()
        for panel in figure.axes:
            for labels, low, high in (
                (panel.get_xticklabels(), "x0", "x1"),
                (panel.get_yticklabels(), "y0", "y1"),
            ):
                boxes = sorted(
                    (label.get_window_extent() for label in labels if label.get_text() and label.get_visible()),
                    key=lambda box: getattr(box, low),
                )
                rotated = any(label.get_rotation() for label in labels)
                for one, other in pairwise(boxes):
                    assert rotated or getattr(one, high) <= getattr(other, low) + 1
