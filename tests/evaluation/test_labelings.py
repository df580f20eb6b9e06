"""Labels of any kind become codes and names."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from jaxconvex.evaluation.labelings import (
    check_background,
    encode,
    encode_all,
    encode_lists,
    recall,
    strata,
    stratified_sample,
)


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (np.array([3, 1, 3]), (1, 3)),
        (["b", "a", "b"], ("a", "b")),
        (np.array(["b", "a"], dtype=object), ("a", "b")),
        (np.array([b"b", b"a"]), ("a", "b")),
        (np.array([True, False]), (0, 1)),
    ],
)
def test_classes_and_codes(labels, classes):
    found = encode(labels)
    assert found.classes == classes
    assert [found.classes[c] for c in found.codes] == [
        v.decode() if isinstance(v, bytes) else v for v in np.asarray(labels).tolist()
    ]


def test_background():
    assert encode(np.array([-1, 2, 5])).codes.tolist() == [-1, 0, 1]
    assert encode(np.array([0, 2, 5]), background=0).codes.tolist() == [-1, 0, 1]
    assert encode(["none", "a"], background="none").codes.tolist() == [-1, 0]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([0.0, 1.0]), "integers or strings"),
        (np.array([None, "a"], dtype=object), "mixed or missing"),
        (np.array([[0, 1]]), "one label a point"),
    ],
)
def test_errors(labels, message):
    with pytest.raises(ValueError, match=message):
        encode(labels)


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (np.array([2**64 - 1, 2**63, 5, 2**63], np.uint64), (5, 2**63, 2**64 - 1)),
        ([10**30, -(10**30), 10**30], (-(10**30), 10**30)),
        (["7", "007", "7 "], ("007", "7", "7 ")),
        (["a\u2028", "a", "a\x85"], ("a", "a\x85", "a\u2028")),
        (np.array(["b", "a"], np.dtypes.StringDType()), ("a", "b")),
        (np.array(["b", "a"], np.dtypes.StringDType(na_object=None)), ("a", "b")),
        ([np.str_("b"), "a"], ("a", "b")),
        ([np.int8(3), 1], (1, 3)),
        ([np.True_, False], (False, True)),
        (jax.numpy.array([4, 2]), (2, 4)),
        (np.ma.masked_array([4, 2], mask=False), (2, 4)),
    ],
)
def test_no_two_labels_become_one(labels, classes):
    found = encode(labels)
    assert found.classes == classes and [type(c) for c in found.classes] == [type(c) for c in classes]
    assert [found.classes[c] for c in found.codes] == list(np.asarray(labels, dtype=object))


def test_labels_of_pandas_and_arrow():
    pandas, pyarrow = pytest.importorskip("pandas"), pytest.importorskip("pyarrow")
    for labels in (
        pandas.Series(["b", "a", "b"]),
        pandas.Categorical(["b", "a", "b"], categories=["b", "a", "c"]),
        pandas.array(["b", "a", "b"], dtype="string"),
        pyarrow.array(["b", "a", "b"]).dictionary_encode(),
        pyarrow.chunked_array([["b"], ["a", "b"]]),
        pyarrow.array([b"b", b"a", b"b"]),
    ):
        assert encode(labels).classes == ("a", "b") and encode(labels).codes.tolist() == [1, 0, 1]
    assert encode(pandas.array([3, 1], dtype="Int64")).classes == (1, 3)
    for labels in (
        [pandas.NA, "a", "a"],
        [pandas.NaT, "a", "a"],
        pandas.Categorical([None, "a", "a"]),
        pandas.array([None, 1, 1], dtype="Int64"),
        pandas.array([None, True, False], dtype="boolean"),
        pyarrow.array([None, "a", "a"]),
        pyarrow.array([None, 1, 1]),
    ):
        with pytest.raises(ValueError, match=r"1 of 3 are missing \(rows 0\)"):
            encode(labels)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([float("nan"), "a", "a"], "1 of 3 are missing"),
        ([None, "a", "a"], "1 of 3 are missing"),
        (np.array([np.nan, 1, 1]), "1 of 3 are missing"),
        (np.array([np.nan, "a", "a"], np.dtypes.StringDType(na_object=np.nan)), "1 of 3 are missing"),
        (np.ma.masked_array([1, 2, 3], mask=[1, 0, 0]), "1 of 3 are missing"),
        (np.ma.masked_array(["a", "b", "c"], mask=[1, 0, 0]), "1 of 3 are missing"),
        ([1, "1"], "mixed values: int and str"),
        ([True, 1], "mixed values: bool and int"),
        ([1, 1.0], "mixed values: float and int"),
        ([b"a", "a"], "mixed values: bytes and str"),
        ([1.0, 2.0], "type float"),
        (np.array([1.0, 2.0], np.float16), r"float16: for whole numbers save labels.astype\(int\)"),
        ([b"\xe9"], "UTF-8; row 0"),
        ([np.str_("a\0"), "a"], "NUL"),
        (np.array(["2020-01-01"], "datetime64[D]"), "datetime64"),
        ([[1], [1, 2]], "type list"),
        ([object()], "type object"),
    ],
)
def test_what_cannot_be_a_label_is_refused(labels, message):
    with pytest.raises(ValueError, match=message):
        encode(labels)


@pytest.mark.parametrize(
    ("labels", "background", "codes"),
    [
        ([True, False, True], True, [-1, 0, -1]),
        ([True, False, True], "True", [-1, 0, -1]),
        ([7, 1, -1], 7, [-1, 0, -1]),
        ([7, 1, 7], np.int64(7), [-1, 0, -1]),
        ([7, 1, 7], "7", [-1, 0, -1]),
        (["None", "a", "None"], "None", [-1, 0, -1]),
        (["7", "a", "7"], np.str_("7"), [-1, 0, -1]),
        ([3, 1, 3], -1, [1, 0, 1]),
        ([1, 0, 1], True, None),
        ([True, False, True], 1, None),
        (["7", "a", "7"], 7, None),
        (["007", "a", "a"], "7", None),
        ([7, 1, 7], 7.0, None),
        ([7, 1, 7], "07", None),
        (["none", "a", "a"], "None", None),
        (["nan", "a", "a"], float("nan"), None),
    ],
)
def test_background_is_exactly_one_label(labels, background, codes):
    if codes is None:
        with pytest.raises(ValueError, match="background must be one of the labels"):
            encode(labels, background=background)
    else:
        assert encode(labels, background=background).codes.tolist() == codes


def test_one_background_serves_several_labelings():
    labelings = {"words": ["none", "a"], "numbers": [0, 1]}
    check_background(labelings, "none")
    check_background(labelings, 0)
    with pytest.raises(ValueError, match="'a', 'none', 0, 1"):
        check_background(labelings, "nothing")


def test_names_are_apart():
    with pytest.raises(ValueError, match="labelings must have names of their own; got 1 and '1'"):
        encode_all({1: [0, 0], "1": [0, 0]}, None, background=None, classes=None)
    with pytest.raises(ValueError, match="classes must have names of their own"):
        encode(["a", "b"], classes=["a", "b", "a"])
    with pytest.raises(ValueError, match="not among the classes"):
        encode([True, False], classes=[0, 1])
    with pytest.raises(ValueError, match="got bool and int"):
        encode_all([True, True], [1, 1], background=None, classes=None)


def test_predictions_share_the_classes_of_the_first_labeling():
    found = encode_all({"digit": [0, 0, 1, 2], "other": list("aabb")}, [0, 0, 1, 1], background=None, classes=None)
    assert list(found) == ["digit", "other", "predicted"]
    assert found["predicted"].classes == found["digit"].classes == (0, 1, 2)
    assert recall(found["digit"], found["predicted"]).tolist() == [1, 1, 0]
    with pytest.raises(ValueError, match="name classes alike"):
        encode_all([0, 0, 1], ["a", "a", "b"], background=None, classes=None)
    with pytest.raises(ValueError, match="no class with two points"):
        encode_all([0, 1, 2], None, background=None, classes=None)
    with pytest.raises(ValueError, match="same points"):
        encode_all({"a": [0, 0], "b": [0, 0, 1]}, None, background=None, classes=None)


def test_stratified_sample_keeps_shares():
    codes = np.repeat([0, 1, 2], [600, 300, 100])
    chosen = stratified_sample(codes, 100, jax.random.key(0))
    assert len(np.unique(chosen)) == 100 and np.all(np.diff(chosen) > 0)
    assert np.abs(np.bincount(codes[chosen]) - [60, 30, 10]).max() <= 1
    assert not np.array_equal(chosen, stratified_sample(codes, 100, jax.random.key(1)))


# Points of several labels ---------------------------------------------------------------------------------------------

TABLE = np.array([[True, True, False], [False, False, False], [False, True, True]])


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        ([["sea", "sky"], [], ("sky", "tree")], ("sea", "sky", "tree")),
        ([{3, 7}, [], np.array([7, 9, 9])], (3, 7, 9)),
        (np.array([("b", "c"), (), ("c", "d")], dtype=object), ("b", "c", "d")),
        (TABLE, (0, 1, 2)),
        (TABLE.astype(np.float32), (0, 1, 2)),
    ],
)
def test_several_labels_a_point(labels, classes):
    found = encode_lists(labels)
    assert found.classes == classes
    np.testing.assert_array_equal(found.table, TABLE)


def test_a_frame_names_its_columns_and_background_is_none():
    pandas = pytest.importorskip("pandas")
    found = encode_lists(pandas.DataFrame(TABLE.astype(int), columns=["sea", "sky", "tree"]), background="sky")
    assert found.classes == ("sea", "tree")
    np.testing.assert_array_equal(found.table, TABLE[:, [0, 2]])
    assert encode_lists([["none"], ["a", "none"], ["a"]], background="none").table.ravel().tolist() == [
        False,
        True,
        True,
    ]
    check_background({"tags": [["none"], ["a"]]}, "none")
    with pytest.raises(ValueError, match="background must be one of"):
        check_background({"tags": [["none"], ["a"]]}, "b")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([["a"], None, ["b"]], "row 1 holds None"),
        ([["a"], "b"], "row 1 holds b"),
        ([["a"], ["b", None]], "row 1 holds"),
        ([["a"], [1]], "mixed values"),
        ([[0.5], [1.0]], "float"),
        (2 * TABLE.astype(int), "a column of true and false"),
        (TABLE[None], "a column of true and false"),
        (TABLE[:, :1], "one column"),
        ([["1"], ["1", "1.0"], [1]], "mixed values"),
    ],
)
def test_errors_of_several_labels(labels, message):
    with pytest.raises(ValueError, match=message):
        encode_lists(labels, name="tags")


def test_strata_are_the_sets_of_concepts():
    labels = [["a", "b"], ["a"], [], ["b", "a"], ["a"]]
    codes = strata(encode_lists(labels)).tolist()
    assert codes[0] == codes[3] and codes[1] == codes[4] and len(set(codes)) == 3
    with pytest.raises(ValueError, match="no class with two points"):
        encode_all({"tags": [["a"], ["b"], []]}, None, background=None, classes=None)
    for options in ({"predictions": ["a"] * 5, "classes": None}, {"predictions": None, "classes": ["a", "b"]}):
        with pytest.raises(ValueError, match="one class each"):
            encode_all({"tags": labels}, background=None, **options)
