"""Levels of labels: which class lies in which, what is refused, and the tree with what is lost within and beyond."""

from __future__ import annotations

import numpy as np
import pytest

from jaxconvex import evaluate, read_report
from jaxconvex.evaluation.intrusion_rows import IntrusionRow
from jaxconvex.evaluation.labelings import encode
from jaxconvex.evaluation.report import Report, Row
from jaxconvex.evaluation.tree import parents_of, tree_tables

FINE = np.repeat(["cat", "lynx", "dog", "fox", "stone"], 8)
COARSE = np.repeat(["felid", "canid", "none"], [16, 16, 8])


def test_the_tree_by_hand():
    scores = {"fine": {"cat": 0.6, "lynx": 0.9, "dog": 0.8, "fox": 0.7}, "coarse": {"felid": 0.95, "canid": 0.5},
              "top": {"animal": 1.0}}  # fmt: skip
    rows = [Row("graph", "a", 0, name, 10, "class", label, score, num_points=8) for name, own in scores.items()
            for label, score in own.items()]  # fmt: skip
    rows += [row._replace(layer="b", layer_index=1, score=0.1) for row in rows]
    rows += [Row("graph", layer, i, "fine", 10, "macro", None, 0.75 - 0.65 * i) for i, layer in enumerate("ab")]
    lost = [IntrusionRow("a", 0, "fine", 10, "cat", *of) for of in (
        ("class", "lynx", 0.1), ("class", "dog", 0.2), ("background", None, 0.03), ("rest", None, 0.02),
        ("no path", None, 0.05))]  # fmt: skip
    of = [("fine", "coarse", [["cat", "felid"], ["lynx", "felid"], ["dog", "canid"], ["fox", "canid"]]),
          ("coarse", "top", [["felid", "animal"], ["canid", "animal"]])]  # fmt: skip
    levels = [dict(zip(("labeling", "parents", "of"), level, strict=True)) for level in of]
    (table,) = tree_tables(Report(tuple(rows), {"parents": levels}, {}, tuple(lost)))
    assert table.columns == ("class", "points", "a", "b", "within", "beyond")
    shown = [(cells[0].replace("\u2003", "-"), cells[2], *cells[4:]) for cells in table.rows]
    assert shown == [
        ("animal", "100.0", "–", "0.0"),
        ("--canid", "50.0", "0.0", "50.0"),
        ("----fox", "70.0", "0.0", "30.0"),
        ("----dog", "80.0", "0.0", "20.0"),
        ("--felid", "95.0", "0.0", "5.0"),
        ("----cat", "60.0", "10.0", "25.0"),
        ("----lynx", "90.0", "0.0", "10.0"),
    ]
    assert tree_tables(Report(tuple(rows), {}, {})) == []


@pytest.mark.long
def test_evaluate_takes_levels(tmp_path):
    x = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
    options = {"k": 4, "background": "none", "jackknife": False, "why": False, "progress": False}
    report = evaluate({"a": x}, {"fine": FINE, "coarse": COARSE}, parents="coarse", **options)
    again = read_report(report.to_json(tmp_path / "report.json"))
    names = [row[0].strip() for row in again.tables()[-1].rows]
    assert sorted(names) == ["canid", "cat", "dog", "felid", "fox", "lynx"]  # a stone has no parent
    assert names.index("cat") > names.index("felid") and "in 'coarse'" in again.table()
    with pytest.raises(ValueError, match="there is 'coarse'; got 'genus'"):
        evaluate({"a": x}, {"fine": FINE, "coarse": COARSE}, parents=["genus"], **options)


def test_what_is_refused():
    fine, coarse = encode(FINE), encode(COARSE, background="none")
    with pytest.raises(ValueError, match="parents must name"):
        parents_of({"fine": fine, "coarse": coarse}, ["fine"])
    with pytest.raises(ValueError, match="'canid' lies in 'dog' and 'fox'"):
        parents_of({"coarse": coarse, "fine": fine}, ["fine"])
