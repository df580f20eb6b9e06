"""Random files: what is read is what was written, nothing is lost without a word, and what is wrong is one line.

JAXCONVEX_DRAWS=5000 draws more files.
"""

from __future__ import annotations

import csv
import io
import os
import re

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from jaxconvex.cli.files import read_representations

parquet = pytest.importorskip("pyarrow.parquet")
safetensors = pytest.importorskip("safetensors.numpy")
pytest.importorskip("pandas")

DRAWS = settings(
    max_examples=int(os.environ.get("JAXCONVEX_DRAWS", 30)),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
PLAIN = [
    "a",
    "b",
    "A",
    "a ",
    " a",
    "7",
    "007",
    "+7",
    "-7",
    "7.0",
    "1e3",
    "NA",
    "nan",
    "None",
    "True",
    "é",
    "e\u0301",
    "٣",
]
STRANGE = ["x\u2028y", "x\x85y", "x\x0by", "x\ny", "x\r\ny", "x,y", "x;y", 'x"y', "'=1", "=1", "@", "3"]
WORDS = st.sampled_from(PLAIN + STRANGE)
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=5)
NUMBERS = st.sampled_from(["0", "1", "2.5", "-3", "1e-3", "1e300", "0.1", "12345678901", "NA", "", "inf", "7."])
FLOATS = st.floats(allow_nan=False, allow_infinity=False).map(repr)
OTHERS = st.sampled_from(["note", "1,5", "2020-01-02", "1.234,5", "12%", "true", "-", "0x1f", "1_000"])
SEPARATORS = st.sampled_from([",", ";", "\t", "|"])
ENCODINGS = st.sampled_from(["utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "latin-1"])
MISSING = ("", "NA")


def read(path, **options):
    """The representations, or the message of the error, which is one line of an error for users."""
    try:
        return read_representations(path, **options)
    except (ValueError, OSError) as error:
        assert str(error).strip() and "\n" not in str(error), error
        return str(error)


def partition(values) -> list[list[int]]:
    """Which rows share a label, with nothing of NumPy in it."""
    places: dict = {}
    for row, value in enumerate(values):
        places.setdefault((type(value), value), []).append(row)
    return list(places.values())


@st.composite
def tables(draw):
    rows = draw(st.integers(1, 9))
    kinds = draw(st.lists(st.sampled_from([NUMBERS, FLOATS, FLOATS, OTHERS]), min_size=1, max_size=4))
    columns = [draw(st.lists(kind, min_size=rows, max_size=rows)) for kind in kinds]
    labels = draw(st.sampled_from([WORDS, WORDS, TEXT, st.integers(-3, 3).map(str), st.integers(-3, 10**20).map(str)]))
    return columns, draw(st.lists(labels, min_size=rows, max_size=rows)), OTHERS not in kinds


@DRAWS
@given(
    tables(),
    SEPARATORS,
    ENCODINGS,
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([*[""] * 7, "short", "long", "twice"]),
)
def test_csv(tmp_path, table, separator, encoding, ending, quoted, everything, fault):
    columns, labels, numeric = table
    names = [f"x{i}" for i in range(len(columns))]
    rows = [list(row) for row in zip(*columns, labels, strict=True)]
    if fault == "short":
        rows[-1].pop(0)
    if fault == "long":
        rows[-1].append("1")
    header = [*(["x0"] * len(names) if fault == "twice" else names), "label"]
    stream = io.StringIO(newline="")
    # The writer would leave bare the line ends that are not its own.
    quoting = csv.QUOTE_ALL if quoted or re.search(r"[\r\n]", "".join(labels)) else csv.QUOTE_MINIMAL
    csv.writer(stream, delimiter=separator, lineterminator=ending, quoting=quoting).writerows([header, *rows])
    path = tmp_path / "a.csv"
    path.write_bytes(stream.getvalue().encode(encoding, errors="replace"))
    data = read(path, layers=["*"] if everything else [])
    event("refused" if isinstance(data, str) else "read")
    right = not fault and encoding in ("utf-8", "utf-8-sig", "utf-16") and numeric and all(map(str.strip, labels))
    if isinstance(data, str):
        assert not (right and everything) or "type float64" in data  # labels such as 7.0
        return
    assert not fault or (fault == "twice" and len(names) == 1)
    written = [label.encode(encoding, errors="replace").decode(encoding) for label in labels]
    bare = any(re.match(r"[=@]", label) for label in written)
    written = [label if bare or not re.match(r"'+[=@]", label) else label[1:] for label in written]
    assert partition(data.labels["label"].tolist()) == partition(written)
    assert [str(label) for label in data.labels["label"].tolist()] == written
    told = " ".join(data.notes)
    taken = next(note for note in data.notes if note.startswith("features are"))
    used = [name for name in names if repr(name) in taken]
    assert all(repr(name) in told for name in names)
    expected = [
        [np.nan if cell in MISSING else float(cell) if cell != "true" else 1.0 for cell in columns[names.index(name)]]
        for name in used
    ]
    np.testing.assert_allclose(data.layers["layer"].astype(float), np.transpose(expected), rtol=1e-15)


TYPES = st.sampled_from(
    ["f2", "f4", "f8", "i1", "i4", "i8", "u1", "u8", "?", ">f4", ">i8", "g", "c8", "M8[s]", "U3", "S3", "O", "V2"]
)


@st.composite
def arrays(draw, rows):
    kind, seed = draw(TYPES), draw(st.integers(0, 99))
    shape = draw(
        st.sampled_from([(rows, 3), (rows, 3), (rows, 3), (rows, 1), (rows,), (), (rows, 2, 2), (rows + 1, 3)])
    )
    values = np.random.default_rng(seed).normal(size=shape) * 50
    if kind == "V2":
        return values.astype(ml_dtypes.bfloat16)
    return values.astype(np.int64).astype(kind) if kind in ("u1", "u8", "M8[s]") else values.astype(kind)


@st.composite
def label_arrays(draw, rows):
    choose = draw(
        st.sampled_from(
            [
                st.integers(-(2**63), 2**63 - 1),
                st.integers(0, 2**64 - 1),
                st.booleans(),
                st.text(max_size=3),
                st.binary(max_size=3),
                st.floats(),
                st.sampled_from([0.0, 1.0]),
                st.sampled_from(["a", "b", None]),
                st.sampled_from([1, "1", True, 1.0]),
            ]
        )
    )
    return draw(st.lists(choose, min_size=rows, max_size=rows))


@DRAWS
@given(st.data(), st.integers(1, 7), st.sampled_from([".npz", ".safetensors", ".parquet", ".npy"]))
def test_arrays(tmp_path, data, rows, suffix):
    written = {f"h{i}": data.draw(arrays(rows)) for i in range(data.draw(st.integers(1, 2)))}
    labels = data.draw(label_arrays(rows))
    path, options = tmp_path / f"a{suffix}", {}
    try:
        if suffix == ".npz":
            np.savez(path, **written, label=np.array(labels))
        elif suffix == ".npy":
            written = {"layer": written["h0"]}
            np.save(path, written["layer"])
            np.savez(tmp_path / "labels.npz", label=np.array(labels))
            options = {"labels": [str(tmp_path / "labels.npz")]}
        elif suffix == ".safetensors":
            native = {name: array.astype(array.dtype.newbyteorder("=")) for name, array in written.items()}
            safetensors.save_file(native | {"label": np.array(labels)}, path)
        else:
            import pyarrow

            columns = {name: array.tolist() for name, array in written.items() if array.ndim}
            parquet.write_table(pyarrow.table(columns | {"label": labels}), path)
    except Exception as error:  # what the writers themselves refuse
        assert type(error).__module__.partition(".")[0] != "jaxconvex"
        return
    found = read(path, **options)
    if isinstance(found, str):
        return
    values = next(iter(found.labels.values())).tolist()
    if suffix == ".parquet":  # the others hold what NumPy made of a list
        truth = [
            label.decode() if isinstance(label, bytes) else str(label) if label is True or label is False else label
            for label in labels
        ]
        assert values == truth
    else:
        assert partition(map(str, values)) == partition(
            label.decode() if isinstance(label, bytes) else str(label) for label in np.array(labels).tolist()
        )
    told = " ".join(found.notes)
    for name, array in written.items():
        if name not in found.layers:
            assert repr(name) in told or (array.ndim == 0 and suffix == ".parquet")
        elif array.ndim == 2:
            np.testing.assert_array_equal(found.layers[name].astype(float), array.astype(float))
            assert suffix == ".parquet" or found.layers[name].dtype.itemsize == array.dtype.itemsize


def whole(suffix: str) -> bytes:
    """A file of the kind, small and right."""
    values, labels = np.arange(36.0).reshape(12, 3) % 7, np.arange(12) % 2
    stream = io.BytesIO()
    if suffix == ".npz":
        np.savez_compressed(stream, h=values, label=labels)
    elif suffix == ".npy":
        np.save(stream, values)
    elif suffix == ".safetensors":
        return safetensors.save({"h": values, "label": labels})
    elif suffix == ".parquet":
        import pyarrow

        parquet.write_table(pyarrow.table({"h": values.tolist(), "label": labels}), stream)
    else:
        lines = ["x,y,z,label", *(",".join(map(str, [*row, label])) for row, label in zip(values, labels, strict=True))]
        return "\n".join(lines).encode()
    return stream.getvalue()


@DRAWS
@given(
    st.sampled_from([".npz", ".npy", ".safetensors", ".parquet", ".csv"]),
    st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), max_size=4),
    st.none() | st.floats(0, 1),
)
def test_damaged_files(tmp_path, suffix, changes, kept):
    content = bytearray(whole(suffix))
    for place, value in changes:
        content[int(place * len(content))] = value
    if kept is not None:
        content = content[: int(kept * len(content))]
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    np.save(tmp_path / "labels.npy", np.arange(12) % 2)
    found = read(path, labels=[str(tmp_path / "labels.npy")] if suffix == ".npy" else ["label"])
    if not isinstance(found, str):
        assert {len(array) for array in found.layers.values()} == {len(found.labels[name]) for name in found.labels}
