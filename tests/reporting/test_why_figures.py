"""What classes lose, as figures: every cell and mark says its loss, classes stand in blocks, few of many are shown."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from sample_reports import report_of_losses

pytest.importorskip("matplotlib")

from jaxconvex.evaluation.intrusion_rows import IntrusionRow
from jaxconvex.evaluation.report import Report, Row
from jaxconvex.reporting.inline import inline_figure
from jaxconvex.reporting.result_pages import draw_result, write_result_page
from jaxconvex.reporting.why_figures import in_blocks, intruders_caption, plot_intruders, plot_losses

LOSSES = {"dog": [0, 0.12, 0.2], "background": [0.3, 0.02, 0.004], "no path": [0.4, 0.25, 0.5]}


def test_cells_and_marks_say_what_is_lost():
    report = report_of_losses(LOSSES)
    figure = plot_intruders(report)
    assert [panel.get_title(loc="left") for panel in figure.axes] == ["Points lost in b"]
    rows = dict(inline_figure(figure, "f").numbers.rows)
    assert rows == {
        "cat to cat": "itself", "cat to dog": "12.0 points", "cat to background": "2.0 points",
        "cat to no path": "25.0 points", "dog to cat": "0.0 points", "dog to dog": "itself",
        "dog to background": "0.0 points", "dog to no path": "0.0 points",
    }  # fmt: skip
    assert {text.get_text() for text in figure.axes[0].texts} == {"12", "2", "25"}
    told = inline_figure(plot_losses(report), "f").numbers.rows
    assert told[:4] == (("cat to background", "a", "30.0 points"), ("cat to background", "b", "2.0 points"),
                        ("cat to background", "c", "0.4 points"), ("cat to dog", "a", "0.0 points"))  # fmt: skip
    with pytest.raises(ValueError, match="why=True"):
        plot_intruders(report._replace(intrusions=()))


def test_classes_that_lose_to_each_other_stand_together():
    rng = np.random.default_rng(0)
    block = rng.permutation(np.repeat(np.arange(3), 4))
    between = np.where(block[:, None] == block, 0.2, 0.01) * (1 - np.eye(12))
    order = [block[place] for place in in_blocks(between)]
    assert len([1 for _ in itertools.groupby(order)]) == 3
    assert list(in_blocks(np.zeros((2, 2)))) == [0, 1] and sorted(in_blocks(np.zeros((5, 5)))) == [0, 1, 2, 3, 4]


def test_of_many_classes_the_strongest_are_shown():
    rows = [Row("graph", "a", 0, "x", 3, "class", label, 0.5) for label in range(40)]
    rows.append(Row("graph", "a", 0, "x", 3, "macro", None, 0.5))
    lost = [IntrusionRow("a", 0, "x", 3, label, "class", (label + 1) % 40, label / 100) for label in range(40)]
    lost.append(IntrusionRow("a", 0, "x", 3, 20, "no path", None, 0.1))
    report = Report(tuple(rows), {}, {}, tuple(lost))
    assert "Of 40 classes the 30" in intruders_caption(report, "x")
    shown = {at.split(" to ")[0] for at, _ in inline_figure(plot_intruders(report), "f").numbers.rows}
    assert shown == {"0", *map(str, range(11, 40))}  # class 0 takes most


def test_a_page_has_a_section_on_it(tmp_path):
    report = report_of_losses(LOSSES)
    drawn = draw_result(report)
    assert list(drawn) == ["profile", "classes", "intruders", "losses"]
    text = write_result_page(tmp_path / "a.html", report, drawn, title="t").read_text()
    for words in ("<h2>Why</h2>", "12.0 to dog, 2.0 to background", "Where intrusions appear", "stand together"):
        assert words in text
    bare = report._replace(intrusions=())
    assert "<h2>Why" not in write_result_page(tmp_path / "a.html", bare, draw_result(bare), title="t").read_text()
