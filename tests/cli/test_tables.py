"""Tables: rows, separators and encodings of csv; which columns are features; labels as the text that stands there."""

from __future__ import annotations

import numpy as np
import pytest

from jaxconvex._internal.formats import csv_text, unescaped
from jaxconvex.cli.features import layers_of_columns, reasons
from jaxconvex.cli.files import read_representations
from jaxconvex.evaluation.report import Row

pytest.importorskip("pandas")

N = 12
DRAWS = np.random.default_rng(0)
X = DRAWS.normal(size=(N, 2))
KINDS = [f"{'ab'[i % 2]}" for i in range(N)]


def lines(*columns, names="x,y,label") -> str:
    return "\n".join([names, *(",".join(map(str, row)) for row in zip(*columns, strict=True))]) + "\n"


@pytest.fixture
def read(tmp_path):
    """Reads a csv file of this content."""

    def call(content: str | bytes, **options):
        path = tmp_path / "a.csv"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return read_representations(path, **options)

    return call


@pytest.fixture
def refused(read):
    """The message of the error that reading raises, after checking that it is one line with the parts."""

    def call(content, *parts, **options):
        with pytest.raises(ValueError) as caught:
            read(content, **options)
        message = str(caught.value)
        assert "\n" not in message and all(part in message for part in ("a.csv", *parts)), message
        return message

    return call


PLAIN = lines(*X.T.tolist(), KINDS)


# Rows and separators ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        PLAIN.replace(",", ";"),
        PLAIN.replace(",", "\t"),
        PLAIN.replace(",", "|"),
        PLAIN.replace("\n", "\r\n"),
        PLAIN.replace("\n", "\r"),
        PLAIN + "\n\n",
        PLAIN.encode("utf-8-sig"),
        PLAIN.encode("utf-16"),
    ],
)
def test_separators_line_ends_and_encodings(read, content):
    data = read(content)
    np.testing.assert_array_equal(data.layers["layer"], X)
    assert data.labels["label"].tolist() == KINDS


def test_rows_of_another_length_are_told_by_their_line(refused):
    quoted = lines(["1.5"], ["2"], ['"two\nlines"'])
    refused(quoted + "1,2\n", "line 4, has 2 fields", "the header has 3")
    refused(quoted + "1,2,a,\n", "line 4, has 4 fields")
    refused(PLAIN.replace("\n", ",\n").replace("label,", "label"), "line 2, has 4 fields")
    refused("x,y,label\n" + "\n".join(f"{i},{row}" for i, row in enumerate(PLAIN.splitlines()[1:])), "line 2, has 4")
    refused(PLAIN + '1,2,"a\n', "unexpected end of data")


def test_names_of_columns(read, refused):
    refused(lines(*X.T.tolist(), KINDS, names="x,x,label"), "several columns called 'x'")
    refused("\n\n", "first line must hold the names")
    data = read(lines(range(N), *X.T.tolist(), KINDS, names=",x,y,label"))
    np.testing.assert_array_equal(data.layers["layer"], X)
    assert "columns without a name are left out" in data.notes


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (PLAIN.replace("a\n", "é\n").encode("latin-1"), "line 2 is not text in UTF-8 (byte 0xe9)"),
        (PLAIN.encode("utf-16-le"), "NUL"),
        (PLAIN + "1,2,a\0\n", "NUL"),
    ],
)
def test_other_encodings_are_refused(refused, content, part):
    refused(content, part)


@pytest.mark.parametrize("cell", ["1,5", "1.234.567", "1_000", "12 %", "1'000", "-", "0x1f"])
def test_numbers_in_other_writing_are_refused_by_column(refused, cell):
    refused(lines([f'"{cell}"', *X[1:, 0]], X[:, 1], KINDS), "'x'", repr(cell), "--skip x")


def test_numbers_beyond_64_bits_are_refused(refused):
    refused(lines([10**25 + i for i in range(N)], X[:, 1], KINDS), "'x'", "numbers as text")


# Features -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "reason"),
    [
        (np.random.default_rng(1).permutation(N) + 1000, "each once"),
        (np.random.default_rng(1).permutation(N) * 10.0, "each once"),
        (1.6e9 + np.arange(N) / 2, "sorted"),
        (-np.arange(N) / 3, "sorted"),
        (np.arange(N) % 3, "whole numbers among decimals"),
        (np.arange(N) % 2 > 0, "whole numbers among decimals"),
        (np.full(N, 2.5), "constant"),
        (np.full(N, np.nan), "empty"),
        (1e6 * np.random.default_rng(1).normal(size=N), "spread over"),
        (1e-6 * np.random.default_rng(1).normal(size=N), "spread over"),
        (np.array(["free", "text"] * 6), "text"),
        (np.arange(N).astype("datetime64[D]"), "type datetime64[D]"),
    ],
)
def test_doubtful_columns_are_left_out_with_a_reason(column, reason):
    columns = {"odd": column, "x": X[:, 0], "y": X[:, 1]}
    members, left_out, grouped = layers_of_columns(columns, [], "a.csv")
    assert members == {"layer": ["x", "y"]} and not grouped
    assert reason in left_out["odd"] and list(left_out) == ["odd"]
    if column.dtype.kind in "biuf":
        assert layers_of_columns(columns, ["*"], "a.csv")[0] == {"layer": ["odd", "x", "y"]}
        assert layers_of_columns(columns, ["odd", "x"], "a.csv")[1] == {"y": "not asked for"}


def test_columns_that_only_may_be_features_are_not_chosen_among():
    far = {"x": X[:, 0], "y": 1e6 * X[:, 1]}
    with pytest.raises(ValueError, match=r"surely features.*'x'.*'y'.*--layer"):
        layers_of_columns(far, [], "a.csv")
    with pytest.raises(ValueError, match="'row' \\(whole numbers, each once"):
        layers_of_columns({"row": np.arange(N)}, [], "a.csv")
    with pytest.raises(ValueError, match=r"'note' in a\.csv must hold numbers"):
        layers_of_columns(far | {"note": np.array(KINDS)}, ["note"], "a.csv")


def test_whole_numbers_alone_are_features_but_ids_are_not():
    counts = np.random.default_rng(0).integers(0, 9, (N, 3))
    columns = {"id": np.arange(N) + 5, **{f"n{i}": counts[:, i] for i in range(3)}}
    members, left_out, _ = layers_of_columns(columns, [], "a.csv")
    assert members == {"layer": ["n0", "n1", "n2"]} and list(left_out) == ["id"]


def test_values_that_are_missing_are_left_for_evaluate_to_refuse(read):
    data = read(PLAIN + "NA,2,a\ninf,3,a\n")
    assert data.layers["layer"].shape == (N + 2, 2) and np.isnan(data.layers["layer"][N, 0])


def test_what_was_decided_is_told(read):
    data = read(lines(range(N), *X.T.tolist(), ["free"] * N, KINDS, names="id,x,y,note,label"))
    assert data.notes[0].startswith("features are 'x', 'y'; --layer NAME")
    assert data.notes[1] == "left out are 'note' (text); 'id' (whole numbers, each once: an id?)"
    assert set(data.left_out) == {"id", "note"}
    assert reasons({}) == ""


def test_lists_and_numbered_columns_of_one_name(tmp_path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = {"h": X.tolist(), "h/0": X[:, 0], "h/1": X[:, 1], "label": KINDS}
    parquet.write_table(pyarrow.table(table), tmp_path / "a.parquet")
    data = read_representations(tmp_path / "a.parquet")
    np.testing.assert_array_equal(data.layers["h"], X)
    assert set(data.left_out) == {"h/0", "h/1"}


# Labels -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["NA", "None", "null", "nan"], ["NA", "None", "null", "nan"]),
        (["007", "7", "07", "7"], ["007", "7", "07", "7"]),
        (["+7", "7", "-0", "0"], ["+7", "7", "-0", "0"]),
        (["7", "-7", "0", "7"], [7, -7, 0, 7]),
        (["1", str(2**63), "1", "2"], ["1", str(2**63), "1", "2"]),
        (["٣", "3", "3", "3"], ["٣", "3", "3", "3"]),
        (["True", "true", "TRUE", "1"], ["True", "true", "TRUE", "1"]),
        (["a", " a", "a ", "A"], ["a", " a", "a ", "A"]),
        (["a\u2028b", "a\x85b", "a\x0bb", "a\x1cb"], ["a\u2028b", "a\x85b", "a\x0bb", "a\x1cb"]),
    ],
)
def test_labels_are_the_text_that_stands_there(read, tmp_path, cells, expected):
    data = read(lines(X[:4, 0], X[:4, 1], cells), layers=["*"])
    assert data.labels["label"].tolist() == expected
    np.savez(tmp_path / "h.npz", h=X[:4])
    (tmp_path / "l.txt").write_bytes("\r\n".join(cells).encode("utf-8-sig"))
    data = read_representations(tmp_path / "h.npz", labels=[str(tmp_path / "l.txt")])
    assert data.labels["l"].tolist() == expected


def test_words_that_may_say_missing_are_told(read):
    data = read(lines(X[:4, 0], X[:4, 1], ["NA", "DE", "NA", "nan"]), layers=["*"])
    assert any("'NA' is a class of 2 points" in note and "--background 'NA'" in note for note in data.notes)
    assert any("'nan' is a class of 1 points" in note for note in data.notes)
    data = read(lines(X[:4, 0], X[:4, 1], ["a", "a ", "b", "A"]), layers=["*"])
    assert any("'a', 'a ' differ in spaces alone" in note for note in data.notes)


@pytest.mark.parametrize("cells", [["7.0", "1.0", "7.0", "1"], ["0.5", ".25", "1e-3", "2."]])
def test_decimal_numbers_are_no_labels(refused, cells):
    refused(lines(X[:4, 0], X[:4, 1], cells), "'label'", "float64")


def test_a_blank_line_is_a_missing_label(read, tmp_path):
    np.savez(tmp_path / "h.npz", h=X[:3])
    for name, content in (("l.csv", "kind\na\n\nb\n"), ("m.csv", 'kind\na\n" "\nb\n'), ("l.txt", "a\n \nb\n")):
        (tmp_path / name).write_text(content)
        with pytest.raises(ValueError, match=r"1 of 3 are missing \(rows 1\)"):
            read_representations(tmp_path / "h.npz", labels=[str(tmp_path / name)])


# Formulas -----------------------------------------------------------------------------------------------------------

FORMULAS = ["=1+1", "+cmd", "-x", "@SUM(A1)", "'=1", "''@", "\t=1", "it's", "-1", "+2.5", "'plain", ""]


def test_formulas_are_escaped_and_read_back(read, tmp_path):
    rows = [Row("graph", text, 0, "kind", 4, "class", text, score=-0.5) for text in FORMULAS]
    text = csv_text(("layer", "label", "score"), rows)
    cells = [line.split(",")[1] for line in text.splitlines()[1:]]
    assert cells[:7] == ["'=1+1", "'+cmd", "'-x", "'@SUM(A1)", "''=1", "'''@", "'\t=1"]
    assert cells[7:] == FORMULAS[7:]  # text and numbers that no spreadsheet runs
    assert unescaped(cells) == FORMULAS
    assert text.splitlines()[1].endswith(",-0.5")
    data = read(text.replace(",\n", ",none\n").replace(",,", ",none,"), labels=["label"], layers=["score"])
    assert data.labels["label"].tolist() == [*FORMULAS[:-1], "none"]


def test_a_column_with_bare_formulas_is_left_as_it_is():
    assert unescaped(["=1", "'=1"]) == ["=1", "'=1"]


# Several labels a point -----------------------------------------------------------------------------------------------

TAGS = [["sea", "sky"], [], ["sea"], ["sky"]] * 3
FLAGS = {tag: [int(tag in own) for own in TAGS] for tag in ("sea", "sky")}


def test_labels_parted_by_a_separator(read, refused):
    content = lines(*X.T.tolist(), [" ; ".join(own) for own in TAGS])
    data = read(content, separator=";")
    assert [list(own) for own in data.labels["label"]] == TAGS
    assert list(data.layers) == ["layer"] and data.layers["layer"].shape == (N, 2)
    assert any("a point may have several" in note for note in data.notes)
    refused(PLAIN, "hold the separator '/'", separator="/")
    refused(content, "3 of 12 are missing")


def test_columns_that_wildcards_name(read, refused):
    content = lines(*X.T.tolist(), FLAGS["sea"], FLAGS["sky"], names="x,y,is_sea,is_sky")
    data = read(content, labels=["is_*"])
    assert [list(own) for own in data.labels["is"]] == TAGS
    assert data.layers["layer"].shape == (N, 2)
    assert [list(own) for own in read(content, labels=["is_s??"]).labels["is_s"]] == [
        [f"is_{tag}" for tag in own] for own in TAGS
    ]
    refused(content, "must hold 1 and 0", "'x'", labels=["*"])
    refused(content, "no 'was_*'", labels=["was_*"])
    assert read(content, labels=["is_sea"]).labels["is_sea"].tolist() == FLAGS["sea"]


def test_tables_and_lists_in_other_files(tmp_path):
    table = np.array([FLAGS["sea"], FLAGS["sky"]]).T
    np.savez(tmp_path / "a.npz", layer=X, label=table)
    np.testing.assert_array_equal(read_representations(tmp_path / "a.npz").labels["label"], table)
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    frame = pandas.DataFrame({"layer": list(X), "tags": TAGS, "flags": table.tolist()})
    frame.to_parquet(tmp_path / "a.parquet")
    data = read_representations(tmp_path / "a.parquet", labels=["tags", "flags"])
    assert [list(own) for own in data.labels["tags"]] == TAGS
    np.testing.assert_array_equal(data.labels["flags"], table)
    assert list(data.layers) == ["layer"]
