"""Every format read back as written; the order of layers; an error for everything that can be wrong with a file."""

from __future__ import annotations

import json
import os
import pickle
import struct
import time
import zipfile

import ml_dtypes
import numpy as np
import pytest

from jaxconvex.cli.files import Representations, natural_order, read_representations
from jaxconvex.layers import extract

N = 12
LABELS = np.arange(N) % 3
NAMES = np.array(["ant", "bee", "cat"])[LABELS]


def points(*shape: int, dtype: type | np.dtype = np.float32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(N, *shape)).astype(dtype)


@pytest.fixture
def saved(tmp_path):
    """Writes an npz of the arrays given and returns its path."""

    def save(**arrays):
        path = tmp_path / "points.npz"
        np.savez(path, **arrays)
        return path

    return save


def refused(path, *parts: str, **options) -> str:
    """The message of the ValueError or OSError that reading raises, after checking that it holds the parts."""
    with pytest.raises((ValueError, OSError)) as caught:
        read_representations(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    for part in (*parts, str(path)):
        assert part in message, message
    return message


# Formats ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("labels", [LABELS, LABELS.astype(np.uint8), NAMES, NAMES.astype("S3")])
def test_npz_gives_every_array_beside_the_labels(saved, labels):
    first, second = points(4), points(2, dtype=np.float16)
    data = read_representations(saved(b=first, labels=labels, a=second))
    assert isinstance(data, Representations)
    assert list(data.layers) == ["b", "a"]
    np.testing.assert_array_equal(data.layers["b"], first)
    np.testing.assert_array_equal(data.layers["a"], second)
    expected = NAMES if labels.dtype.kind == "S" else labels
    np.testing.assert_array_equal(data.labels["labels"], expected)
    assert data.predictions is None and data.left_out == ()


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16, np.int8, np.int64, ">f4"])
@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".npy"])
def test_types_of_numbers(tmp_path, dtype, suffix):
    values = points(4, dtype=np.dtype(dtype)) if dtype is not np.int8 else (10 * points(4)).astype(np.int8)
    path, labels = tmp_path / f"points{suffix}", tmp_path / "labels.npy"
    np.save(labels, LABELS)
    if suffix == ".npz":
        np.savez(path, layer=values)
    elif suffix == ".npy":
        np.save(path, values)
    else:
        safetensors = pytest.importorskip("safetensors.numpy")
        safetensors.save_file({"layer": values.astype(values.dtype.newbyteorder("="))}, path)
    found = read_representations(path, labels=[labels]).layers["layer"]
    assert found.dtype == values.dtype.newbyteorder("=") and found.dtype.isnative
    np.testing.assert_array_equal(found.astype(np.float64), values.astype(np.float64))


def test_safetensors_layers_come_in_natural_order(tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    arrays = {f"layer_{i}": points(2, seed=i) for i in (10, 2, 1)}
    safetensors.save_file(arrays | {"labels": LABELS}, tmp_path / "a.safetensors")
    data = read_representations(tmp_path / "a.safetensors")
    assert list(data.layers) == ["layer_1", "layer_2", "layer_10"]
    for name, layer in data.layers.items():
        np.testing.assert_array_equal(layer, arrays[name])


@pytest.mark.parametrize("content", ["npy", "csv", "txt", "txt of text", "npz"])
def test_npy_with_a_file_of_labels(tmp_path, content):
    path, expected = tmp_path / "points.npy", NAMES if content == "txt of text" else LABELS
    np.save(path, points(4))
    labels = tmp_path / f"classes.{content.split()[0]}"
    if content == "npy":
        np.save(labels, LABELS)
    elif content == "npz":
        np.savez(labels, LABELS)
    elif content == "csv":
        labels.write_text("kind\n" + "\n".join(map(str, LABELS)))
    else:
        labels.write_text("\n".join(map(str, expected)) + "\n")
    data = read_representations(path, labels=[str(labels)], predictions=labels)
    assert list(data.layers) == ["layer"] and list(data.labels) == ["classes"]
    np.testing.assert_array_equal(data.labels["classes"], expected)
    np.testing.assert_array_equal(data.predictions, expected)


def test_csv_numeric_columns_are_one_layer(tmp_path):
    pandas = pytest.importorskip("pandas")
    values = points(3, dtype=np.float64)
    frame = pandas.DataFrame(values, columns=["x", "y", "z"]).assign(label=NAMES, note="free text", id=range(N))
    frame.to_csv(tmp_path / "a.csv")  # with an index, which is no feature
    data = read_representations(tmp_path / "a.csv", skip=["id"])
    np.testing.assert_array_equal(data.layers["layer"], values)
    np.testing.assert_array_equal(data.labels["label"], NAMES)
    assert data.left_out == ("note",)


def test_csv_numbered_columns_are_layers(tmp_path):
    pandas = pytest.importorskip("pandas")
    columns = {f"block {b}/{i}": points(seed=100 * b + i) for b in (10, 2) for i in range(12)}
    frame = pandas.DataFrame(dict(reversed(columns.items())) | {"id": range(N), "label": LABELS})
    frame.to_csv(tmp_path / "a.csv", index=False)
    data = read_representations(tmp_path / "a.csv")
    assert list(data.layers) == ["block 2", "block 10"] and data.left_out == ("id",)
    expected = np.stack([columns[f"block 10/{i}"] for i in range(12)], axis=1)
    np.testing.assert_allclose(data.layers["block 10"], expected, rtol=1e-6)


def test_parquet_lists_are_layers(tmp_path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    flat, tokens = points(4), points(5, 3)
    table = pyarrow.table(
        {
            "block 10": flat.tolist(),
            "block 2": pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(flat.ravel().astype(np.float16)), 4),
            "tokens": tokens.tolist(),
            "id": list(range(N)),
            "kind": pyarrow.array(NAMES.tolist()).dictionary_encode(),
        }
    )
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=5)
    data = read_representations(tmp_path / "a.parquet", labels=["kind"], pool="mean")
    assert list(data.layers) == ["block 2", "block 10", "tokens"] and data.left_out == ("id",)
    np.testing.assert_array_equal(data.layers["block 10"], flat)
    np.testing.assert_array_equal(data.layers["block 2"], flat.astype(np.float16))
    np.testing.assert_array_equal(data.layers["tokens"], tokens)
    np.testing.assert_array_equal(data.labels["kind"], NAMES)


def test_parquet_numeric_columns_are_one_layer(tmp_path):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    values = points(3, dtype=np.float64)
    frame = pandas.DataFrame(values, columns=["x", "y", "z"], index=range(5, 5 + N)).assign(label=LABELS)
    frame.to_parquet(tmp_path / "a.parquet")
    data = read_representations(tmp_path / "a.parquet")
    np.testing.assert_array_equal(data.layers["layer"], values)
    refused(tmp_path / "a.parquet", "'label'", labels=["lable"])


# Labels, predictions, choice of layers ------------------------------------------------------------------------------


def test_several_labelings_and_predictions(saved):
    path = saved(a=points(2), fine=LABELS, coarse=NAMES, guess=LABELS[::-1], flags=LABELS > 0)
    data = read_representations(path, labels=["coarse", "fine", "flags"], predictions="guess")
    assert list(data.layers) == ["a"] and list(data.labels) == ["coarse", "fine", "flags"]
    np.testing.assert_array_equal(data.predictions, LABELS[::-1])
    assert set(data.labels["flags"]) == {"True", "False"}


def test_the_name_of_the_labels_is_found(saved):
    assert list(read_representations(saved(y=points(2), label=LABELS)).labels) == ["label"]
    assert list(read_representations(saved(a=points(2), target=LABELS)).labels) == ["target"]


def test_layers_are_chosen_left_out_and_ordered(saved):
    path = saved(label=LABELS, ids=np.arange(N), head=points(2), **{f"block{i}": points(2) for i in (10, 9, 1)})
    assert list(read_representations(path, skip=["ids"]).layers) == ["head", "block1", "block9", "block10"]
    chosen = read_representations(path, skip=["i*"], layers=["block*", "head"])
    assert list(chosen.layers) == ["block1", "block9", "block10", "head"]
    refused(path, "'bloc1'", "'block1'", skip=["ids"], layers=["bloc1"])
    refused(path, "'id'", "'ids'", skip=["id"])


def test_objects_that_are_left_out_do_no_harm(saved):
    path = saved(a=points(2), label=LABELS, notes=np.array([{}, None], dtype=object))
    assert list(read_representations(path, skip=["notes"]).layers) == ["a"]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["layer 10", "layer 2"], ["layer 2", "layer 10"]),
        (["embedding", "block 10", "block 2", "head"], ["embedding", "block 2", "block 10", "head"]),
        (["att_1", "mlp_1", "att_0", "mlp_0"], ["att_0", "mlp_0", "att_1", "mlp_1"]),
        (["b1.conv2", "b1.conv10", "b0.conv3"], ["b0.conv3", "b1.conv2", "b1.conv10"]),
        (["b", "a"], ["b", "a"]),
        ([], []),
    ],
)
def test_natural_order(names, expected):
    assert natural_order(names) == expected


def test_axis_splits_layers(saved):
    hidden = points(11, 4)
    data = read_representations(saved(hidden=hidden, last=points(2), label=LABELS), axis=1)
    assert list(data.layers) == [*(f"hidden {i}" for i in range(11)), "last"]
    np.testing.assert_array_equal(data.layers["hidden 10"], hidden[:, 10])
    only = read_representations(saved(hidden=hidden, label=LABELS), axis=-2, layers=["hidden 3"])
    np.testing.assert_array_equal(only.layers["hidden 3"], hidden[:, 3])
    first = read_representations(saved(hidden=np.moveaxis(hidden, 1, 0), label=LABELS), axis=0)
    np.testing.assert_array_equal(first.layers["hidden 3"], hidden[:, 3])


def test_parts_of_an_array_must_not_be_called_like_another(saved):
    refused(saved(**{"h": points(2, 3), "h 1": points(3), "label": LABELS}), "'h 1'", "part of 'h'", axis=1)


def test_axis_and_pool_take_four_axes(saved):
    hidden = points(3, 5, 4)
    data = read_representations(saved(hidden=hidden, label=LABELS), axis=1, pool="mean")
    assert {name: layer.shape for name, layer in data.layers.items()} == {f"hidden {i}": (N, 5, 4) for i in range(3)}


# Bad input ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".csv", ".parquet", ".safetensors"])
def test_empty_files(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    path.touch()
    refused(path, "empty")


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".parquet", ".safetensors"])
@pytest.mark.parametrize("kept", [1, 40, -9])
def test_truncated_files(tmp_path, suffix, kept):
    path = tmp_path / f"a{suffix}"
    if suffix == ".npz":
        np.savez(path, a=points(4), label=LABELS)
    elif suffix == ".npy":
        np.save(path, points(4))
    elif suffix == ".safetensors":
        pytest.importorskip("safetensors.numpy").save_file({"a": points(4)}, path)
    else:
        pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pyarrow.table({"a": points().tolist()}), path)
    path.write_bytes(path.read_bytes()[:kept])
    refused(path, "not a whole", "cut short")


def test_damaged_array_in_an_npz(saved):
    path = saved(a=points(40), label=LABELS)
    content = bytearray(path.read_bytes())
    content[400] ^= 255
    path.write_bytes(content)
    refused(path, "not a whole .npz file", "CRC")


def test_truncated_csv(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("x,y,label\n1,2,a\n3,4,b\n5,")
    refused(path, "line 4, has 2 fields", "the header has 3")


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".parquet", ".safetensors", ".csv"])
def test_files_of_another_kind(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(bytes(range(256)) * 40)
    refused(path, "not a whole")


def test_npy_called_npz_and_the_reverse(tmp_path):
    np.save(tmp_path / "a.npy", points(2))
    (tmp_path / "a.npy").rename(tmp_path / "b.npz")
    refused(tmp_path / "b.npz", "as an .npy file does")
    np.savez(tmp_path / "a.npz", points(2))
    (tmp_path / "a.npz").rename(tmp_path / "b.npy")
    refused(tmp_path / "b.npy", "as an .npz file does")


def test_unknown_endings_and_paths(tmp_path):
    refused(tmp_path / "a.pt", ".npz, .npy, .safetensors, .parquet, .csv", "'.pt'")
    refused(tmp_path / "a", "'no ending'")
    refused(tmp_path / "absent.npz", "does not exist")
    folder = tmp_path / "folder.npz"
    folder.mkdir()
    refused(folder, "folder")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the super-user may read all files")
def test_unreadable_files(saved):
    path = saved(a=points(2), label=LABELS)
    path.chmod(0)
    refused(path, "permission denied")


def test_permission_errors_are_told(saved, monkeypatch):
    def deny(*args, **options):
        raise PermissionError(13, "Permission denied")

    path = saved(a=points(2), label=LABELS)
    monkeypatch.setattr("pathlib.Path.open", deny)
    refused(path, "permission denied")


def test_missing_names_list_those_there_nearest_first(saved):
    path = saved(embedding=points(2), labels_fine=LABELS, zebra=points(2), lab=LABELS)
    message = refused(path, "'label_fine'", labels=["label_fine"])
    assert message.index("'labels_fine'") < message.index("'embedding'")
    refused(path, "must be named", "'embedding', 'labels_fine', 'zebra'")
    refused(path, "'guess'", labels=["lab"], predictions="guess")
    refused(path, "'absent.npy'", labels=["absent.npy"])


def test_long_lists_of_names_are_cut(saved):
    assert "and 28 more" in refused(saved(**{f"a{i}": points(1) for i in range(40)}))


def test_python_objects_are_never_unpickled(tmp_path, saved):
    class Dangerous:
        def __reduce__(self):
            return (pytest.fail, ("unpickled",))

    objects = np.array([Dangerous()], dtype=object)
    np.save(tmp_path / "a.npy", objects)
    refused(tmp_path / "a.npy", "Python objects", "never read")
    refused(saved(a=objects, label=LABELS), "'a'", "Python objects")
    refused(saved(a=points(2), label=objects), "'label'", "Python objects")
    (tmp_path / "b.npy").write_bytes(pickle.dumps(Dangerous()))
    refused(tmp_path / "b.npy", "pickles are never read")


def npy(shape: str, content: bytes, descr: str = "<f8", version: int = 1) -> bytes:
    """An .npy file of this content, whatever its header claims."""
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H", len(header)) + header.encode() + content


@pytest.mark.parametrize(
    ("shape", "options", "part"),
    [
        ("(1000000000000000, 3)", {}, "24000000000000000 bytes, and 288 follow"),
        ("(99999999999999999999999, 3)", {}, "and 288 follow"),
        ("(1000000000000000,)", {"descr": "<U0"}, "of <U0"),
        ("(-12, -3)", {}, ""),
        ("(12, 2)", {}, "192 bytes, and 288 follow"),
        ("(12, 3)", {"descr": "nonsense"}, "descr"),
        ("(12, 3)", {"version": 3}, "version"),
        ("((12, 3),)", {}, "shape"),
    ],
)
def test_headers_that_claim_what_is_not_there(tmp_path, shape, options, part):
    content = npy(shape, points(3, dtype=np.float64).tobytes(), **options)
    np.save(tmp_path / "labels.npy", LABELS)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("h.npy", content)
    (tmp_path / "a.npy").write_bytes(content)
    start = time.perf_counter()
    for path in (tmp_path / "a.npz", tmp_path / "a.npy"):
        refused(path, "not a whole", part, labels=[str(tmp_path / "labels.npy")])
    assert time.perf_counter() - start < 2


def test_an_archive_that_unpacks_to_gigabytes_is_not_unpacked(tmp_path):
    path, size = tmp_path / "a.npz", 2**31 - 1
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("label.npy", npy(f"({N},)", LABELS.astype("<i8").tobytes(), "<i8"))
        archive.writestr("h.npy", bytes(10**6))
    content = bytearray(path.read_bytes())
    struct.pack_into("<I", content, content.rindex(b"PK\1\2") + 24, size)  # the size that the archive claims
    path.write_bytes(content)
    refused(path, "'h'", "unpacks to 2 GB")


def test_archives_with_two_arrays_of_one_name_or_a_sparse_matrix(tmp_path, saved):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("h.npy", b"")
        archive.writestr("h", b"")
    refused(tmp_path / "a.npz", "several arrays of one name")
    from scipy import sparse

    sparse.save_npz(tmp_path / "b.npz", sparse.csr_matrix(np.eye(4)))
    refused(tmp_path / "b.npz", "sparse matrix", "toarray()")


def test_single_values_and_ids_are_left_out(saved):
    data = read_representations(saved(h=points(3), label=LABELS, epoch=3, ids=np.arange(N)[:, None]))
    assert list(data.layers) == ["h"] and set(data.left_out) == {"epoch", "ids"}
    assert "'epoch' (a single value)" in data.notes[0]
    refused(saved(h=points(3), label=LABELS, epoch=3), "'epoch'", "shape (n, d)", layers=["epoch"])


def test_types_that_are_not_read_do_no_harm_where_they_are_not_asked_for(tmp_path, saved):
    bad = {"wide": points(3).astype(np.longdouble), "objects": np.array([{}] * N, dtype=object)}
    path = saved(h=points(3), label=LABELS, **bad)
    assert list(read_representations(path, layers=["h"]).layers) == ["h"]
    assert list(read_representations(path, layers=["h"], skip=["wide", "obj*"]).layers) == ["h"]
    if np.dtype(np.longdouble).itemsize > 8:
        refused(path, "'wide'", "Save it as float64", layers=["wide"])
    parts = saved(h=points(2, 3), label=LABELS, **bad)
    assert list(read_representations(parts, axis=1, layers=["h 1"]).layers) == ["h 1"]


def test_safetensors_are_read_one_by_one(tmp_path):
    pytest.importorskip("safetensors")
    values = points(3)
    arrays = {"h": ("F32", values), "label": ("I64", LABELS), "scale": ("F8_E4M3", np.zeros(4, np.uint8))}
    header, content = {}, b""
    for name, (kind, array) in arrays.items():
        start, content = len(content), content + array.tobytes()
        header[name] = {"dtype": kind, "shape": array.shape, "data_offsets": [start, len(content)]}
    text = json.dumps(header).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + content)
    np.testing.assert_array_equal(read_representations(path, layers=["h"]).layers["h"], values)
    np.testing.assert_array_equal(read_representations(path, skip=["scale"]).layers["h"], values)
    refused(path, "'scale'", "F8_E4M3", "--skip scale")


def test_columns_of_parquet_of_every_type(tmp_path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path, values = tmp_path / "a.parquet", points(6)
    kind = pyarrow.fixed_shape_tensor(pyarrow.float32(), [2, 3])
    flat = pyarrow.array(values.tolist(), pyarrow.list_(pyarrow.float32(), 6))
    tensor = pyarrow.ExtensionArray.from_storage(kind, flat)
    labels = {
        "binary": pyarrow.array([name.encode() for name in NAMES]),
        "large": pyarrow.array(NAMES.tolist(), pyarrow.large_string()),
        "wide": pyarrow.array([label + 2**63 for label in LABELS.tolist()], pyarrow.uint64()),
        "flags": pyarrow.array((LABELS > 0).tolist()),
    }
    parquet.write_table(pyarrow.table({"h": tensor, **labels}), path)
    data = read_representations(path, labels=list(labels), pool="mean")
    np.testing.assert_array_equal(data.layers["h"], values.reshape(N, 2, 3))
    assert data.labels["binary"].tolist() == data.labels["large"].tolist() == NAMES.tolist()
    assert data.labels["wide"].tolist() == [label + 2**63 for label in LABELS.tolist()] and set(
        data.labels["flags"]
    ) == {"True", "False"}
    parquet.write_table(pyarrow.table({"h": flat, "label": [b"\xe9"] * N}), path)
    refused(path, "'label'", "UTF-8", "row 0")
    parquet.write_table(pyarrow.Table.from_arrays([flat, flat], names=["h", "h"]), path)
    refused(path, "several columns called 'h'")
    parquet.write_table(pyarrow.table({"h": flat, "label": [*LABELS[1:].tolist(), None]}), path)
    refused(path, "'label'", "1 of 12 are missing (rows 11)")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="a system without named pipes")
def test_what_is_no_file_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.npz")
    refused(tmp_path / "pipe.npz", "must be a file")
    (tmp_path / "loop.npz").symlink_to("loop.npz")
    refused(tmp_path / "loop.npz")


@pytest.mark.parametrize(
    ("shape", "options", "parts"),
    [
        ((), {}, ("(12,)", "--labels a", "--skip a")),
        ((3, 4), {}, ("(12, 3, 4)", "--axis 1", "--pool mean")),
        ((3, 4, 2), {}, ("(12, 3, 4, 2)", "--axis 1 and --pool mean")),
        ((3, 4, 2), {"axis": 1}, ("'a 0'", "(12, 4, 2)", "--pool")),
        ((3, 4, 2), {"pool": "mean"}, ("(12, 3, 4, 2)", "--axis 1")),
        ((2, 2, 2, 2), {}, ("Reshape",)),
        ((0,), {}, ("at least one point and one feature",)),
        ((4,), {"axis": 1}, ("--axis splits", "(12, 4)")),
        ((4, 3), {"axis": 3}, ("--axis must be", "got 3")),
    ],
)
def test_wrong_ranks_are_told_what_to_do(saved, shape, options, parts):
    refused(saved(a=points(*shape), label=LABELS), "'a", *parts, **options)


def test_layers_must_hold_numbers(saved):
    refused(saved(a=points(2), label=LABELS, names=NAMES), "'names'", "--labels names", "--skip names")
    refused(saved(a=points(2).astype(complex), label=LABELS), "complex128")
    refused(saved(label=LABELS), "must hold a layer")


def test_lengths_must_agree(saved, tmp_path):
    refused(saved(a=points(2), label=LABELS[:-1]), "'a' has 12", "'label' 11")
    refused(saved(a=points(2), b=points(2)[:5], label=LABELS), "'a' has 12", "layer 'b' 5")
    refused(saved(a=points(2), label=LABELS, p=LABELS[:3]), "'predictions' 3", predictions="p")
    labels = tmp_path / "labels.csv"
    labels.write_text("\n".join(map(str, LABELS)))
    refused(saved(a=points(2)), "'labels' 11", "header", labels=[labels])


@pytest.mark.parametrize(
    ("labels", "part"),
    [
        (LABELS + 0.5, "float64: for whole numbers save labels.astype(int)"),
        (LABELS.astype(np.float32), "labels.astype(int)"),
        (np.where(LABELS == 1, np.nan, 0), "4 of 12 are missing (rows 1, 4, 7, 10)"),
        (np.eye(3)[LABELS] * 2, "got shape (12, 3)"),
        (LABELS.astype(complex), "complex128"),
        (LABELS.astype("datetime64[D]"), "datetime64"),
    ],
)
def test_labels_must_be_integers_or_text(saved, labels, part):
    refused(saved(a=points(2), label=labels), "'label'", part)


def test_missing_labels_in_tables(tmp_path):
    pytest.importorskip("pandas")
    path = tmp_path / "a.csv"
    path.write_text("x,kind,number\n1,a,1\n2,,\n3,b,2\n")
    for labels in ("kind", "number"):
        refused(path, f"'{labels}'", "1 of 3 are missing (rows 1)", labels=[labels])


def test_files_of_labels_that_do_not_fit(tmp_path, saved):
    path = saved(a=points(2))
    several = tmp_path / "several.csv"
    several.write_text("p,q\n1,2\n")
    labels = tmp_path / "labels.txt"
    for content, part in (("", "empty"), ("a\n\nb\n", "1 of 3 are missing")):
        labels.write_text(content)
        with pytest.raises(ValueError, match=part):
            read_representations(path, labels=[labels])
    with pytest.raises(ValueError, match="one array or column of labels"):
        read_representations(path, labels=[several])
    (tmp_path / "other").mkdir()
    labels.write_text("\n".join(NAMES))
    (tmp_path / "other/labels.txt").write_text("\n".join(NAMES))
    with pytest.raises(ValueError, match="named once"):
        read_representations(path, labels=[labels, tmp_path / "other/labels.txt"])


def test_ragged_lists_in_parquet(tmp_path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    for ragged, part in (([[1.0], [1.0, 2.0]], "lengths 1, 2"), ([[1.0], None], "lengths 1, missing")):
        parquet.write_table(pyarrow.table({"a": ragged, "label": [0, 1]}), tmp_path / "a.parquet")
        refused(tmp_path / "a.parquet", "'a'", part)


def test_columns_that_are_not_asked_for_do_no_harm(tmp_path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    tokens = [["a"] * (1 + row % 3) for row in range(N)]
    parts = {f"g/{i}": points(seed=i) for i in range(2)}
    parquet.write_table(pyarrow.table({"h": points(3).tolist(), "tokens": tokens, "label": LABELS, **parts}), path)
    refused(path, "'tokens'", "lengths 1, 2, 3")
    assert list(read_representations(path, layers=["h"]).layers) == ["h"]
    np.testing.assert_array_equal(read_representations(path, layers=["g"]).layers["g"][:, 1], parts["g/1"])
    refused(path, "'tokens'", layers=["h", "absent"])
    refused(path, "no 'absent'", "'h'", layers=["h", "absent"], skip=["tokens"])


def test_a_reader_that_is_not_installed_is_named(tmp_path, monkeypatch):
    import importlib

    real = importlib.import_module

    def missing(name, *args):
        if name.startswith(("pyarrow", "pandas")):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *args)

    monkeypatch.setattr(importlib, "import_module", missing)
    for suffix, extra in ((".parquet", "parquet"), (".csv", "report")):
        path = tmp_path / f"a{suffix}"
        path.write_text("x,label\n1,2\n")
        with pytest.raises(ModuleNotFoundError, match=rf'pip install "jaxconvex\[{extra}\]"'):
            read_representations(path)


def test_a_folder_of_activations(tmp_path):
    x = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    extract(lambda x: {"one": x, "two": 2 * x}, x, batch_size=7, folder=tmp_path / "activations", progress=False)
    np.save(tmp_path / "labels.npy", np.arange(30) % 3)
    found = read_representations(tmp_path / "activations", labels=[str(tmp_path / "labels.npy")])
    assert list(found.layers) == ["one", "two"]
    np.testing.assert_array_equal(found.layers["two"], 2 * x)
    refused(tmp_path, "got another folder")
