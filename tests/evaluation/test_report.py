"""The report as data: written and read without loss, selected from, printed."""

from __future__ import annotations

import csv
import json
import math
import os
import subprocess
import sys
from typing import get_type_hints

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sample_reports import sample_report

from jaxconvex._internal import formats
from jaxconvex.evaluation.report import (
    Report,
    Row,
    class_means,
    distinct,
    failing_pairs,
    only,
    read_report,
    row_key,
    select,
)

FLOATS = st.floats(allow_nan=True, allow_infinity=True)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
BY_HINT = {
    float: FLOATS,
    int: st.integers(0, 10**12),
    str: st.text(max_size=8),
    int | None: st.none() | st.integers(1, 100),
    int | str | None: st.none() | st.integers(-5, 10**20) | st.text(max_size=8),
    tuple[float, ...]: st.lists(FLOATS, max_size=4).map(tuple),
}
ROWS = st.builds(Row, **{field: BY_HINT[hint] for field, hint in get_type_hints(Row).items()})


def strict(text):
    def refuse(token):
        raise AssertionError(f"{token} in strict JSON")

    return json.loads(text, parse_constant=refuse)


@given(st.lists(ROWS, max_size=4).map(tuple), st.dictionaries(st.text(max_size=4), PLAIN, max_size=3))
def test_json_gives_back_every_field(tmp_path_factory, rows, settings):
    path = tmp_path_factory.getbasetemp() / "any.json"
    report = Report(rows, settings, {"versions": settings})
    assert report.to_json(path) == path
    strict(path.read_text(encoding="utf-8"))
    # repr tells NaN from all else, 1 from 1.0 and from "1", and a tuple from a list.
    assert repr(read_report(path)) == repr(report)


def test_json_is_strict_and_names_itself(tmp_path):
    report = sample_report(kinds=("graph", "euclidean"), classes=(7, "7", "naïve ✓", "a\nb"))
    data = strict(report.to_json(tmp_path / "scores.json").read_text())
    assert (data["format"], data["version"]) == ("jaxconvex report", 1)
    assert data["rows"][0]["hubness"] is None and data["rows"][0]["label"] is None
    assert [row["label"] for row in data["rows"] if row["level"] == "class"][:4] == [7, "7", "naïve ✓", "a\nb"]


def test_numpy_values_are_written_as_plain_numbers(tmp_path):
    row = (
        sample_report()
        .rows[0]
        ._replace(score=np.float32(0.5), label=np.int64(3), num_pairs=np.int32(4), replicates=tuple(np.arange(3.0)))
    )
    settings = {
        "k": (5, np.int64(10)),
        "radius": np.inf,
        "hash": np.str_("ab"),
        "weights": np.ones(2),
        "path": os.curdir,
    }
    read = read_report(Report((row,), settings, {}).to_json(tmp_path / "a.json"))
    assert read.rows[0].score == 0.5 and read.rows[0].label == 3 and read.rows[0].replicates == (0.0, 1.0, 2.0)
    assert read.settings == {"k": [5, 10], "radius": "inf", "hash": "ab", "weights": [1.0, 1.0], "path": "."}
    assert {type(value) for value in (read.rows[0].label, read.rows[0].num_pairs)} == {int}


def test_what_is_not_plain_is_refused_and_leaves_no_file(tmp_path):
    with pytest.raises(ValueError, match="plain data"):
        Report((), {"metric": object()}, {}).to_json(tmp_path / "a.json")
    with pytest.raises(ValueError, match=r"0\.5"):
        Report((sample_report().rows[0]._replace(label=0.5),), {}, {}).to_json(tmp_path / "a.json")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "not a whole jaxconvex report"),
        ('{"format": "jaxconvex report", "vers', "cut short"),
        ("[1, 2]", r"another kind \(list\)"),
        ('{"a": 1}', r"another kind \(dict\)"),
        ('{"format": "something else", "version": 1}', "'something else'"),
        ('{"format": "jaxconvex report", "version": 99, "rows": []}', "version 99"),
        ('{"format": "jaxconvex report", "version": 1}', "list of rows; got NoneType"),
        ('{"format": "jaxconvex report", "version": 1, "rows": []}', "settings and provenance"),
        ('{"format": "jaxconvex report", "version": 1, "rows": [{"score": 1}]}', "row 0 must have the fields"),
        ('{"format": "jaxconvex report", "version": 1, "rows": [NaN]}', "NaN is not strict JSON"),
        (b"\x89PNG\r\n\xff", "not a whole jaxconvex report"),
        ("[" * 200_000, "not a whole jaxconvex report"),
    ],
)
def test_a_file_that_is_no_report_is_named(tmp_path, content, says):
    path = tmp_path / "scores.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=says) as caught:
        read_report(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(("field", "value"), [("score", "high"), ("score", True), ("layer", 3), ("replicates", 1.0)])
def test_a_field_of_the_wrong_type_is_named(tmp_path, field, value):
    path = sample_report().to_json(tmp_path / "scores.json")
    data = json.loads(path.read_text())
    data["rows"][1][field] = value
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError, match=f"row 1, {field}: expected"):
        read_report(path)


def test_every_cut_of_a_file_is_noticed(tmp_path):
    content = sample_report(layers=1).to_json(tmp_path / "whole.json").read_bytes().rstrip()
    for end in range(0, len(content), 97):
        (tmp_path / "part.json").write_bytes(content[:end])
        with pytest.raises(ValueError, match=r"part\.json"):
            read_report(tmp_path / "part.json")


def test_files_are_replaced_whole_and_unwritable_paths_named(tmp_path):
    path = sample_report().to_csv(tmp_path / "scores.csv")
    before = path.read_text()
    with pytest.raises(ValueError, match="plain"):
        Report((), {"a": object()}, {}).to_json(path)
    assert path.read_text() == before and [child.name for child in tmp_path.iterdir()] == ["scores.csv"]
    with pytest.raises(FileNotFoundError, match=r"cannot write .*nowhere.*exists and can be written"):
        sample_report().to_json(tmp_path / "nowhere" / "scores.json")
    with pytest.raises(OSError, match=r"cannot write .*scores\.csv"):
        sample_report().to_json(path / "below.json")
    with pytest.raises(OSError, match="not a file"):
        sample_report().to_csv(tmp_path)
    link = tmp_path / "link.csv"
    link.symlink_to(path)
    sample_report(seed=1).to_csv(link)
    assert link.is_symlink() and path.read_text() != before


def test_csv_has_one_line_a_row(tmp_path):
    report = sample_report(kinds=("graph", "euclidean"), classes=("a,b", 'say "x"', "naïve"))
    with open(report.to_csv(tmp_path / "scores.csv"), newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(report.rows) and list(lines[0]) == list(Row._fields[:-2])
    for line, row in zip(lines, report.rows, strict=True):
        assert line["label"] == ("" if row.label is None else row.label)
        assert line["k"] == ("" if row.k is None else str(row.k))
        assert line["hubness"] == "" and float(line["score"]) == row.score


def test_dataframe_keeps_types(tmp_path):
    frame = sample_report(kinds=("graph", "euclidean"), classes=(1, "1")).to_dataframe()
    assert frame["score"].dtype == float and str(frame["k"].dtype) == "Int64"
    assert frame.loc[frame.level == "class", "label"].tolist()[:2] == [1, "1"]
    assert sorted(frame.groupby("kind").size()) == [12, 12]
    assert Report((), {}, {}).to_dataframe().shape == (0, len(Row._fields) - 2)


def test_select_gives_rows_in_the_order_of_layers():
    report = sample_report(kinds=("graph", "euclidean"), labelings=("digit", "speaker"), ks=(5, 10))
    shuffled = report._replace(rows=tuple(reversed(report.rows)))
    rows = select(shuffled, kind="graph", labeling="speaker", k=5, level="macro")
    assert [row.layer for row in rows] == ["layer 0", "layer 1", "layer 2"]
    assert len(select(report, layer="layer 1")) * 3 == len(report.rows)
    with pytest.raises(ValueError, match="labeling must be one of 'digit', 'speaker'"):
        select(report, labeling="speakers")
    with pytest.raises(ValueError, match=r"several values of k \(5, 10\)"):
        only(report, kind="graph", labeling="digit")
    assert {row.k for row in only(report, kind="euclidean", labeling="digit", k=10)} == {None}
    assert distinct(report.rows, "k") == [5, 10, None]


def test_class_means_are_over_layers_and_leave_nan_out():
    scores = {"a": [0.5, math.nan, 1.0], 2: [math.nan] * 3}
    rows = [
        Row("graph", str(i), i, "digit", 10, "class", label, score=score, recall=0.25)
        for label, of_layers in scores.items()
        for i, score in enumerate(of_layers)
    ]
    means = class_means(Report(tuple(rows), {}, {}))
    assert means["a"] == 0.75 and math.isnan(means[2]) and list(means) == ["a", 2]
    assert class_means(Report(tuple(rows), {}, {}), field="recall") == {"a": 0.25, 2: 0.25}
    with pytest.raises(ValueError, match="choose one with labeling="):
        class_means(sample_report(labelings=("digit", "speaker")))


def test_failing_pairs_of_macro_are_those_of_micro():
    row = Row("graph", "a", 0, "digit", 10, "micro", None, score=0.99, inside=0.997, num_pairs=1000)
    macro, unknown = row._replace(level="macro", inside=0.5), row._replace(level="class", label=1, inside=math.nan)
    assert failing_pairs([row, macro, unknown]) == {row_key(row): 3, row_key(macro): 3}


def test_table_shows_scores_intervals_and_counts_of_failing_pairs():
    report = sample_report(layers=["early [red]", "late"], classes=("[bold]x", "y"))
    near_one = [
        row._replace(score=0.9995, inside=0.9962, num_pairs=780) if row.layer == "late" else row for row in report.rows
    ]
    text = report._replace(rows=tuple(near_one)).table(classes=True)
    early = next(row for row in near_one if row.level == "macro")
    lines = [line for line in text.splitlines() if "early [red]" in line]
    assert len(lines) == 3 and "[bold]x" in lines[1]
    assert f"{100 * early.score:.1f} [{100 * early.lower:.1f}, {100 * early.upper:.1f}]" in lines[0]
    assert all(word in text for word in ("percent", "95% jackknife interval", "null", "12.5", "0.001", "recall"))
    assert sum("(3 of 780 fail)" in line for line in text.splitlines() if line.lstrip().startswith("late")) == 3
    assert "\x1b" not in text and max(map(len, text.splitlines())) < 120


def test_table_leaves_out_what_was_not_asked_for():
    report = sample_report(kinds=("euclidean",), null=False)
    bare = report._replace(rows=tuple(row._replace(lower=math.nan, upper=math.nan) for row in report.rows))
    text = bare.table()
    assert not any(word in text for word in ("null", "adjacent", "interval", "k =")) and "Euclidean" in text
    assert Report((), {}, {}).table() == ""
    alone = report._replace(rows=tuple(row for row in report.rows if row.level == "class"))
    assert "zero" in alone.table(classes=True)


def test_table_fits_a_width_and_rich_prints_it():
    report = sample_report()
    assert max(map(len, report.table(width=70).splitlines())) <= 70
    assert report.tables()[0].to_rich().row_count == 3


def test_numbers_and_names_for_people():
    assert formats.percent_text(math.nan) == "–" and formats.number_text(math.nan) == "–"
    assert formats.interval_text(math.nan, 0.5) == "" and formats.interval_text(0.25, 0.5) == "[25.0, 50.0]"
    assert formats.name_text("a\x1b[31m\nb") == r"a\x1b[31m\nb"
    with pytest.raises(ModuleNotFoundError, match=r'pip install "jaxconvex\[report\]"'):
        formats.require("no_such_module_anywhere")


def test_importing_a_report_imports_no_heavy_module():
    heavy = "{'pandas', 'rich', 'matplotlib', 'jinja2', 'flax'}"
    code = f"import sys, jaxconvex.evaluation.report; print({heavy} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


def test_a_table_of_drawn_sources_says_so():
    row = Row("graph", "a", 0, "y", 10, "micro", None, score=0.5, num_points=90, num_pairs=400, num_sources=30)
    assert "30 of 90 points" in Report((row,), {}, {}).table()
    assert "drawn" not in Report((row._replace(num_sources=90),), {}, {}).table()


@pytest.mark.parametrize("confidence", ["0.95", None, True, [], {}, 1, 0, 95, 10**400, "inf"])
def test_a_confidence_that_is_none_is_refused(tmp_path, confidence):
    path = Report((), {"confidence": confidence}, {}).to_json(tmp_path / "a.json")
    with pytest.raises(ValueError, match=r"a\.json: the confidence must be a number between 0 and 1"):
        read_report(path)
