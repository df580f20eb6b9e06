"""Figures as inline SVG: places in percent and words by hand, colours that follow the reader, nothing that is not XML."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest
from sample_reports import sample_report

pytest.importorskip("matplotlib")

from matplotlib.figure import Figure

from jaxconvex.evaluation.comparison import compare_reports, difference_text
from jaxconvex.evaluation.report import select
from jaxconvex.reporting import figures
from jaxconvex.reporting.inline import inline_figure
from jaxconvex.reporting.plots import plot_classes, plot_differences, plot_profile, plot_recall


def drawn(figure):
    """The figure's elements, its numbers and its HTML: read as XML, which is stricter than HTML."""
    made = inline_figure(figure, "f")
    return ElementTree.fromstring(made.html), made.numbers, made.html


def found(tree, tag, name):
    return [each for each in tree.iter(tag) if name in (each.get("class") or "").split()]


def test_places_are_percentages_of_the_panel():
    figure = Figure()
    panel = figure.subplots()
    panel.plot([0, 1, 2, 4], [0, 3, math.nan, 6], "o-", color=figures.COLOURS[0], label="a <b>")
    panel.vlines([2], [1.5], [4.5], color="#123456")
    panel.set(xlim=(0, 4), ylim=(0, 6), title="Title")
    tree, numbers, _ = drawn(figure)
    assert [(mark.get("cx"), mark.get("cy")) for mark in found(tree, "circle", "mark")] == [
        ("0%", "100%"),
        ("25%", "50%"),
        ("100%", "0%"),
    ]
    (line,) = found(tree, "path", "line")  # parted where a value is missing
    assert line.get("d") == "M0 100 L25 50 M100 0" and line.get("stroke") == "var(--colour-0)"
    (bar,) = [each for each in tree.iter("line") if each.get("stroke") == "#123456"]
    assert [bar.get(end) for end in ("x1", "y1", "x2", "y2")] == ["50%", "75%", "50%", "25%"]
    assert numbers.rows == (("a <b>", "0", "0"), ("a <b>", "1", "3"), ("a <b>", "4", "6"))
    (svg,) = [each for each in tree.iter("svg") if each.get("role") == "img"]
    assert svg.get("aria-label") == "Title. a <b> from 0 0 to 4 6"


def test_a_profile_says_layer_score_and_interval():
    report = sample_report(layers=["embed", "a rather long name of a layer: the last <&>"])
    tree, numbers, html = drawn(plot_profile({"x": report}))
    said = [each.text for each in tree.iter("title")]
    rows = select(report, level="macro")
    assert said == [
        f"x: {row.layer}: {100 * row.score:.1f}% [{100 * row.lower:.1f}, {100 * row.upper:.1f}]" for row in rows
    ]
    assert numbers.columns == ("series", "at", "value") and [row[1] for row in numbers.rows] == [
        row.layer for row in rows
    ]
    assert "permuted labels" in html and "var(--muted)" in html


def test_classes_are_cells_that_say_their_score():
    report = sample_report(layers=2, classes=(3, "three"), kinds=("graph", "euclidean"))
    holes = [row._replace(score=math.nan) if (row.label, row.layer) == (3, "layer 0") else row for row in report.rows]
    tree, numbers, _ = drawn(plot_classes(report._replace(rows=tuple(holes))))
    cells = found(tree, "rect", "cell")
    assert len(cells) == 8 and len(numbers.rows) == 8
    rows = {(row.label, row.layer): row.score for row in select(report, kind="graph", level="class")}
    assert [cell.find("title").text for cell in cells[:4]] == [
        "3, layer 0: no pairs",
        f"3, layer 1: {100 * rows[3, 'layer 1']:.1f}%",
        f"three, layer 0: {100 * rows['three', 'layer 0']:.1f}%",
        f"three, layer 1: {100 * rows['three', 'layer 1']:.1f}%",
    ]
    assert cells[0].get("fill") == "var(--line)" and re.fullmatch("#[0-9a-f]{6}", cells[1].get("fill"))
    assert [(cell.get("x"), cell.get("y"), cell.get("width")) for cell in cells[:3]] == [
        ("0%", "0%", "50%"),
        ("50%", "0%", "50%"),
        ("0%", "50%", "50%"),
    ]
    # The second panel has no names of its own in matplotlib; on a narrow page it stands below, and needs them.
    assert [text.text for text in tree.iter("text")].count("three") == 2


def test_cells_without_numbers_have_a_scale():
    assert 'class="scale"' in drawn(plot_classes(sample_report(classes=tuple(range(30)))))[2]
    assert 'class="scale"' not in drawn(plot_classes(sample_report()))[2]


def test_differences_and_recall_name_what_they_show():
    comparison = compare_reports(sample_report(), sample_report(shift=0.1, seed=1), names=("a", "b"))
    tree, _, _ = drawn(plot_differences(comparison, classes=True))
    said = {each.text for each in tree.iter("title")}
    for row in comparison.rows:
        if row.level != "micro":
            where = row.layer if row.level == "macro" else f"{row.layer}, {row.label}"
            assert f"{where}: {difference_text(row)}" in said
    x = {name: 0.5 + 0.04 * number for number, name in enumerate("abcdefgh")}
    tree, numbers, _ = drawn(plot_recall(x, {name: value**2 for name, value in x.items()}))
    assert numbers.rows[0] == ("a", "convexity 50.0%, recall 25.0%") and len(numbers.rows) == 8


def test_a_hollow_mark_has_the_ground_inside():
    report = sample_report()
    near = tuple(row._replace(inside=1.0) for row in report.rows)
    tree, _, html = drawn(plot_profile(report._replace(rows=near)))
    marks = found(tree, "circle", "mark")
    assert {(mark.get("fill"), mark.get("stroke")) for mark in marks} == {("var(--ground)", "var(--colour-0)")}
    assert "fewer than 10 failing pairs" in html


@pytest.mark.parametrize("number", [1, 2, 40])
def test_names_of_layers_give_way_where_the_panel_is_narrow(number):
    _, _, html = drawn(plot_profile(sample_report(layers=[f"layer {place}" for place in range(number)])))
    widths = [float(width) for width in re.findall(r"@container \(max-width: (\d+)px\) { #f-0 .rank", html)]
    assert widths == sorted(widths, reverse=True) and (len(widths) >= 2) == (number > 2)
