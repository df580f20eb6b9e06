"""The figures show the report's numbers, whatever its size, and are written as valid PNG and SVG."""

from __future__ import annotations

import math
from itertools import pairwise
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from matplotlib.collections import LineCollection, QuadMesh
from matplotlib.figure import Figure
from matplotlib.image import imread
from sample_reports import sample_report

from jaxconvex.evaluation.comparison import compare_reports
from jaxconvex.evaluation.report import Report, class_means, select
from jaxconvex.reporting import figures
from jaxconvex.reporting.plots import plot_classes, plot_differences, plot_profile, plot_recall, save_figure
from jaxconvex.statistics.correlation import pearson


def lines(panel, label):
    return [line for line in panel.lines if line.get_label() == label]


def texts(figure):
    return [text.get_text() for text in figure.findobj(matplotlib.text.Text)]


def changed(report, **values):
    return report._replace(rows=tuple(row._replace(**values) for row in report.rows))


def test_profile_draws_every_report_with_its_band_and_the_null():
    reports = {"pretrained": sample_report(), "fine-tuned": sample_report(shift=0.1, seed=1)}
    figure = plot_profile(reports)
    (panel,) = figure.axes
    for line, report in zip(lines(panel, "score"), reports.values(), strict=True):
        scores = [row.score for row in select(report, level="macro")]
        assert line.get_xdata().tolist() == [0, 1, 2] and line.get_ydata().tolist() == scores
    assert all(line.get_ydata().tolist() == [0.25] * 3 for line in lines(panel, "null"))
    bands = [
        np.concatenate([path.vertices for path in band.get_paths()]) for band in panel.collections if band.get_paths()
    ]
    report = reports["fine-tuned"]
    ends = [[getattr(row, end) for row in select(report, level="macro")] for end in ("lower", "upper")]
    assert any(np.isin(ends[0], band[:, 1]).all() and np.isin(ends[1], band[:, 1]).all() for band in bands)
    assert {"pretrained", "fine-tuned", "permuted labels", "Graph convexity"} <= set(texts(figure))
    micro = plot_profile(reports["pretrained"], level="micro")
    scores = [row.score for row in select(reports["pretrained"], level="micro")]
    assert lines(micro.axes[0], "score")[0].get_ydata().tolist() == scores


def test_profile_gives_a_panel_to_each_kind_or_draws_into_axes():
    report = sample_report(kinds=("graph", "euclidean"), labelings=("digit", "speaker"), ks=(5, 10))
    assert len(plot_profile(report, labeling="digit", k=10).axes) == 2
    own = Figure()
    panel = own.subplots()
    assert plot_profile(report, kind="graph", labeling="speaker", k=5, ax=panel, title="mine") is own
    scores = [row.score for row in select(report, kind="graph", labeling="speaker", k=5, level="macro")]
    assert lines(panel, "score")[0].get_ydata().tolist() == scores and panel.get_title(loc="left") == "mine"
    with pytest.raises(ValueError, match="2 kinds"):
        plot_profile(report, labeling="digit", k=10, ax=panel)
    with pytest.raises(ValueError, match="choose one with labeling="):
        plot_profile(report, k=10)
    with pytest.raises(ValueError, match="nothing to draw"):
        plot_profile(Report((), {}, {}))


def test_profile_draws_no_interval_where_few_pairs_fail():
    report = sample_report(null=False)
    near_one = [row._replace(inside=1.0) if row.layer == "layer 1" else row for row in report.rows]
    figure = plot_profile(report._replace(rows=tuple(near_one)))
    (panel,) = figure.axes
    hollow = lines(panel, "layers, hollow")
    assert [line.get_xdata().tolist() for line in hollow] == [[1]] and hollow[0].get_markerfacecolor() == "white"
    # The two layers beside it are left alone, so that each has a bar in place of a band.
    bars = [bar for bar in panel.collections if isinstance(bar, LineCollection)]
    assert [segment[0][0] for bar in bars for segment in bar.get_segments()] == [0, 2]
    assert any("fewer than 10 failing pairs" in text for text in texts(figure))


def test_profile_joins_layers_that_only_some_reports_have():
    short, long = sample_report(layers=["a", "b"]), sample_report(layers=["a", "b", "head"])
    (panel,) = plot_profile({"short": short, "long": long}).axes
    assert [line.get_xdata().tolist() for line in lines(panel, "score")] == [[0, 1], [0, 1, 2]]
    assert [text.get_text() for text in panel.get_xticklabels()] == ["a", "b", "head"]


@pytest.mark.parametrize("number", [1, 2, 40])
@pytest.mark.parametrize(
    "name", ["{}", "layer {}", "encoder/layers/{}/output", "{} a rather long name of a layer $x_1$"]
)
@pytest.mark.long(after=3)
def test_layer_names_never_overlap(number, name):
    layers = [name.format(i) for i in range(number)]
    figure = plot_profile({"a long name": sample_report(layers=layers), "b": sample_report(layers=layers, seed=1)})
    figure.draw_without_rendering()
    shown = [text for text in figure.axes[0].get_xticklabels() if text.get_text()]
    assert shown
    boxes = [text.get_window_extent() for text in shown]
    if any(text.get_rotation() for text in shown):
        starts = [box.x1 for box in boxes]
        assert all(b - a > 9 / 72 * figure.dpi for a, b in pairwise(starts))
    else:
        assert all(a.x1 < b.x0 for a, b in pairwise(boxes))


@pytest.mark.parametrize(
    ("layers", "names", "common"),
    [
        (["block_1.mlp", "block_10.mlp"], ["1", "10"], "block_….mlp"),
        (["layer 1", "layer 2"], ["1", "2"], "layer"),
        (["layer10", "layer11"], ["layer10", "layer11"], ""),
        (["input", "inner"], ["input", "inner"], ""),
        (["conv_in", "conv_out"], ["in", "out"], "conv"),
        (["a"], ["a"], ""),
        (["same", "same"], ["same", "same"], ""),
    ],
)
def test_what_layer_names_share_is_said_once(layers, names, common):
    assert figures._apart(layers) == (names, common)


def test_classes_are_cells_in_their_order():
    report = sample_report(layers=4, classes=(3, "three", "<$&>"))
    figure = plot_classes(report)
    (mesh,) = [child for child in figure.axes[0].collections if isinstance(child, QuadMesh)]
    cells = np.ma.getdata(mesh.get_array()).reshape(3, 4)
    for row in select(report, level="class"):
        assert cells[[3, "three", "<$&>"].index(row.label), row.layer_index] == row.score
    assert f"{100 * cells[0, 0]:.0f}" in texts(figure)
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["3", "three", r"<\$&>"]
    ordered = plot_classes(report, sort=True)
    (mesh,) = [child for child in ordered.axes[0].collections if isinstance(child, QuadMesh)]
    means = np.ma.getdata(mesh.get_array()).reshape(3, 4).mean(axis=1)
    assert (np.diff(means) <= 0).all()


def test_classes_without_pairs_are_left_blank():
    report = sample_report()
    holes = [row._replace(score=math.nan) if row.label == "one" else row for row in report.rows]
    figure = plot_classes(report._replace(rows=tuple(holes)), sort=True)
    (mesh,) = [child for child in figure.axes[0].collections if isinstance(child, QuadMesh)]
    assert np.ma.getmaskarray(mesh.get_array()).reshape(2, 3).tolist() == [[False] * 3, [True] * 3]
    assert texts(figure).count("–") == 3
    assert plot_classes(changed(report, score=math.nan)).axes


@pytest.mark.parametrize(("layers", "classes"), [(1, 1), (40, 3), (2, 100), (40, 100), (2, 1000)])
@pytest.mark.long(after=2)
def test_classes_and_profile_take_any_size(layers, classes):
    report = sample_report(layers=layers, classes=tuple(range(classes)))
    figure = plot_classes(report)
    figure.draw_without_rendering()
    assert max(figure.get_size_inches()) <= 14
    names = [text.get_window_extent() for text in figure.axes[0].get_yticklabels()]
    assert all(above.y0 > below.y0 + 4 for above, below in pairwise(names))


def test_recall_is_drawn_against_convexity_with_its_correlation():
    report = sample_report(classes=tuple(range(12)))
    x, y = class_means(report), class_means(report, field="recall")
    y = {label: value + 0.02 * (-1) ** label for label, value in y.items()}
    figure = plot_recall(x, y | {"elsewhere": 0.5}, title="Digits")
    (panel,) = figure.axes
    assert panel.lines[0].get_xdata().tolist() == list(x.values())
    assert panel.lines[0].get_ydata().tolist() == list(y.values())
    found = pearson(np.array(list(x.values())), np.array(list(y.values())), confidence=0.95)
    title = panel.get_title(loc="left")
    expected = f"Pearson r = {found.coefficient:.2f} [{found.lower:.2f}, {found.upper:.2f}], 12 classes"
    assert expected.replace("-", "−") in title and title.startswith("Digits") and "Spearman" in title
    assert {str(label) for label in x} <= set(texts(figure))


def test_recall_takes_groups_and_leaves_nan_out():
    x, y = np.linspace(0.5, 0.9, 60), np.linspace(0.4, 0.95, 60)
    y[3] = math.nan
    figure = plot_recall(x, y, labels=[f"class {i}" for i in range(60)], groups=["speech", "text"] * 30)
    (panel,) = figure.axes
    assert {line.get_label(): len(line.get_xdata()) for line in panel.lines} == {"speech": 30, "text": 29}
    assert "59 classes" in panel.get_title(loc="left") and panel.get_legend() is not None
    with pytest.raises(ValueError, match="60, 59, 60 and 60"):
        plot_recall(x, y[1:])
    assert plot_recall([0.5, 0.6], [0.5, 0.7]).axes and plot_recall([], []).axes


def test_names_beside_points_never_overlap():
    draws = np.random.default_rng(0)
    x, y = draws.uniform(0, 1, (2, 25))
    figure = plot_recall(x, y, labels=[f"class {i}" for i in range(25)])
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert len(boxes) > 10
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_differences_are_drawn_with_their_intervals():
    found = compare_reports(sample_report(), sample_report(shift=0.1, seed=1), names=("pretrained", "fine-tuned"))
    figure = plot_differences(found, classes=True)
    (panel,) = figure.axes
    rows = select(found, level="macro")
    assert lines(panel, "difference")[0].get_ydata().tolist() == [row.difference for row in rows]
    (bars,) = [bar for bar in panel.collections if isinstance(bar, LineCollection)]
    drawn = [(segment[0][1], segment[1][1]) for segment in bars.get_segments()]
    assert drawn == [(row.lower, row.upper) for row in rows]
    assert [line.get_ydata() for line in panel.lines if line.get_gid() == "zero"] == [[0, 0]]
    assert len(lines(panel, "classes")[0].get_xdata()) == 6
    assert "Graph convexity, fine-tuned minus pretrained" in texts(figure)


def test_differences_without_an_interval_are_hollow():
    few = changed(sample_report(), inside=1.0)
    (panel,) = plot_differences(compare_reports(few, few)).axes
    assert lines(panel, "difference, hollow")[0].get_xdata().tolist() == [0, 1, 2]
    bare = compare_reports(changed(sample_report(), replicates=()), sample_report())
    assert not [segment for bar in plot_differences(bare).axes[0].collections for segment in bar.get_segments()]


def test_files_are_valid_and_the_same_each_time(tmp_path):
    before = dict(matplotlib.rcParams)
    figure = plot_profile(sample_report(layers=["naïve <&>", "b"]))
    png, svg = save_figure(figure, tmp_path / "profile.of.layers")
    assert (png.name, svg.name) == ("profile.of.layers.png", "profile.of.layers.svg")
    image = imread(png)
    assert image.ndim == 3 and image.shape[1] > 300 and image.std() > 0.01
    assert ElementTree.parse(svg).getroot().tag.endswith("svg")
    first = svg.read_bytes()
    save_figure(plot_profile(sample_report(layers=["naïve <&>", "b"])), tmp_path / "profile.of.layers")
    assert svg.read_bytes() == first and dict(matplotlib.rcParams) == before
    with pytest.raises(FileNotFoundError, match="cannot write"):
        save_figure(figure, tmp_path / "nowhere" / "profile")


def test_labels_at_the_ends_of_lines_keep_apart():
    report = sample_report()
    figure = plot_profile({f"model {i}": report for i in range(9)})
    figure.draw_without_rendering()
    boxes = sorted(
        (text.get_window_extent() for text in figure.axes[0].texts if text.get_text().startswith("model")),
        key=lambda b: b.y0,
    )
    assert len(boxes) == 9 and all(b.y0 - a.y0 > 9 / 72 * figure.dpi for a, b in pairwise(boxes))
