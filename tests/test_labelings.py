"""Labels of any kind become codes and names."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from jaxconvex.labelings import encode, encode_all, recall, stratified_sample


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
