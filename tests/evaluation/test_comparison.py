"""The paired differences between two reports."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest
from sample_reports import sample_report

from jaxconvex.evaluation.comparison import compare_reports, read_comparison
from jaxconvex.evaluation.report import row_key, select


def test_differences_and_intervals_are_those_of_the_paired_jackknife():
    a, b = sample_report(kinds=("graph", "euclidean")), sample_report(kinds=("graph", "euclidean"), shift=0.1, seed=1)
    found = compare_reports(a, b, names=("pretrained", "fine-tuned"))
    assert len(found.rows) == len(a.rows) and found.names == ("pretrained", "fine-tuned")
    rows_a, rows_b = ({row_key(row): row for row in report.rows} for report in (a, b))
    for row in found.rows:
        one, two = rows_a[row_key(row)], rows_b[row_key(row)]
        values = np.subtract(two.replicates, one.replicates)
        se = math.sqrt(0.9 * np.sum((values - values.mean()) ** 2))
        # 2.262157 is the 97.5% point of Student's t with 9 degrees of freedom.
        expected = (
            two.score - one.score,
            se,
            two.score - one.score - 2.262157 * se,
            two.score - one.score + 2.262157 * se,
        )
        assert (row.difference, row.se, row.lower, row.upper) == pytest.approx(expected, rel=1e-4, abs=1e-6)
        assert (row.score_a, row.score_b, row.num_pairs_a) == (one.score, two.score, 780)
        assert row.failing_a == round((1 - one.inside) * 780) and not row.few_failing
    wider = compare_reports(a, b, confidence=0.99)
    assert all(w.upper > n.upper for w, n in zip(wider.rows, found.rows, strict=True))
    assert [row.layer for row in select(found, kind="graph", level="macro")] == ["layer 0", "layer 1", "layer 2"]


def test_swapping_the_reports_turns_the_signs():
    a, b = sample_report(), sample_report(shift=0.1, seed=1)
    for row, back in zip(compare_reports(a, b).rows, compare_reports(b, a).rows, strict=True):
        assert (row.difference, row.lower) == pytest.approx((-back.difference, -back.upper))


def test_what_is_missing_on_one_side_is_nan():
    a, b = sample_report(classes=("zero", "one")), sample_report(classes=("zero", "two"))
    bare = b._replace(rows=tuple(row._replace(replicates=()) if row.level == "micro" else row for row in b.rows))
    found = {(row.layer_index, row.level, row.label): row for row in compare_reports(a, bare).rows}
    for label in ("one", "two"):
        row = found[0, "class", label]
        assert math.isnan(row.difference) and math.isnan(row.se) and 0 in (row.num_pairs_a, row.num_pairs_b)
    assert math.isfinite(found[0, "micro", None].difference) and math.isnan(found[0, "micro", None].se)
    assert math.isfinite(found[0, "macro", None].se) and math.isfinite(found[0, "class", "zero"].se)


def test_reports_without_rows_have_no_differences():
    empty = sample_report()._replace(rows=())
    found = compare_reports(empty, empty)
    assert found.rows == () and found.tables() == [] and found.to_dataframe().empty


def test_reports_that_do_not_match_are_refused():
    a = sample_report()
    with pytest.raises(ValueError, match=r"only 'b' has kind 'graph', layer 'layer 3'.*\(1 in all\)"):
        compare_reports(a, sample_report(layers=4))
    with pytest.raises(ValueError, match=r"only 'old' has .* k 10"):
        compare_reports(a, sample_report(ks=(5,)), names=("old", "new"))
    with pytest.raises(ValueError, match="same groups of points"):
        compare_reports(a, a._replace(provenance={"groups": "other"}))
    with pytest.raises(ValueError, match=r"'b' has none .*jackknife=True"):
        compare_reports(a, a._replace(provenance={}))
    with pytest.raises(ValueError, match=r"one number of replicates; got \[5, 10\]"):
        compare_reports(a, a._replace(rows=tuple(row._replace(replicates=row.replicates[:5]) for row in a.rows)))
    with pytest.raises(ValueError, match="names must be two"):
        compare_reports(a, a, names=("a",))


def test_files_and_table(tmp_path):
    a, b = sample_report(), sample_report(shift=0.1, seed=1)
    near_one = b._replace(rows=tuple(row._replace(inside=0.999) if row.layer == "layer 2" else row for row in b.rows))
    found = compare_reports(near_one, near_one, names=("first", "second"))
    path = found.to_json(tmp_path / "comparison.json")
    json.loads(path.read_text(), parse_constant=pytest.fail)
    assert repr(read_comparison(path)) == repr(found)
    assert len(found.to_csv(tmp_path / "comparison.csv").read_text().splitlines()) == 1 + len(found.rows)
    frame = found.to_dataframe()
    assert len(frame) == len(found.rows) and frame["difference"].abs().max() == 0
    text = found.table(classes=True)
    assert "second minus first" in text and "+0.0" in text and "1 -> 1 pairs fail" in text and "zero" in text
    with pytest.raises(ValueError, match="must be a jaxconvex comparison"):
        read_comparison(a.to_json(tmp_path / "report.json"))
    data = json.loads(path.read_text())
    path.write_text(json.dumps(data | {"settings": {}}))
    with pytest.raises(ValueError, match="two names"):
        read_comparison(path)


def test_reports_that_no_run_writes_are_refused():
    a = sample_report()
    for row, part in (
        (a.rows[1], "rows 0 and 1 of 'b' are of one score"),
        (a.rows[0]._replace(score=7.5), "row 0 of 'b' holds {'score': 7.5}"),
        (a.rows[0]._replace(inside=math.inf), "'inside': inf"),
        (a.rows[0]._replace(num_pairs=10**400), "'num_pairs'"),
    ):
        with pytest.raises(ValueError, match=re.escape(part)):
            compare_reports(a, a._replace(rows=(row, *a.rows[1:])))


@pytest.mark.parametrize("names", [5, True, ["a"], ["a", 1], "ab", None])
def test_names_of_a_comparison_are_two_texts(tmp_path, names):
    path = tmp_path / "a.json"
    found = compare_reports(sample_report(), sample_report())
    found._replace(settings=found.settings | {"names": names}).to_json(path)
    with pytest.raises(ValueError, match=r"a\.json must hold settings with two names"):
        read_comparison(path)
