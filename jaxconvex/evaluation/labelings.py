"""Labels of any kind, as the integers that the core takes and the names that the report shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax import random
from jaxtyping import Int, PRNGKeyArray

from jaxconvex._internal.messages import listed, names_apart

__all__ = [
    "Labeling",
    "check_background",
    "encode",
    "encode_all",
    "label_array",
    "named_labels",
    "recall",
    "stratified_sample",
]


class Labeling(NamedTuple):
    """The class of each point, 0 to len(classes) - 1 or -1 for background, and the names of the classes in order."""

    codes: Int[np.ndarray, " n"]
    classes: tuple[int | str, ...]


def encode(
    labels: Any, *, name: str = "labels", background: Any = None, classes: Sequence[int | str] | None = None
) -> Labeling:
    """The labels as a `Labeling`, classes sorted: numbers by value, strings by alphabet.

    Args:
        labels: integers, booleans or strings, one a point; see `label_array`.
        name: what messages call them.
        background: the label that means no class: of the same type as the labels, or as text what is written like it.
            For integers -1 means that too.
        classes: the classes in an order of one's own; labels that are none of them are an error.

    Raises ValueError for labels that are missing, of mixed or other types, and for a background that matches none.

    >>> encode(np.array(["cat", "dog", "none", "cat"]), background="none")
    Labeling(codes=array([ 0,  1, -1,  0]), classes=('cat', 'dog'))
    """
    check_background({name: labels}, background)
    return _encode(labels, name, background, classes)


def _encode(labels: Any, name: str, background: Any, classes: Sequence[int | str] | None) -> Labeling:
    values, places = np.unique(label_array(labels, name), return_inverse=True)
    names, none = values.tolist(), [_is_background(value, background) for value in values.tolist()]
    kept = [value for value, left_out in zip(names, none, strict=True) if not left_out]
    order = tuple(kept) if classes is None else tuple(map(_plain, classes))
    names_apart(order, "classes")
    column = {(type(value), value): i for i, value in enumerate(order)}  # 1 and True are not the same
    strange = [value for value in kept if (type(value), value) not in column]
    if strange:
        raise ValueError(f"{name} holds {strange[0]!r}, which is not among the classes {list(order[:10])}.")
    codes = [-1 if left_out else column[type(v), v] for v, left_out in zip(names, none, strict=True)]
    return Labeling(np.array(codes, int)[places], order)


def _is_background(label: int | str, background: Any) -> bool:
    background = _plain(background)
    if type(label) is int and label == -1:
        return True
    if isinstance(background, str):
        return str(label) == background
    return type(label) is type(background) and label == background


def check_background(labelings: Mapping[str, Any], background: Any) -> None:
    """Raise ValueError for a background that is a label of none of the labelings, listing the labels."""
    if background is None or str(background) == "-1":
        return
    labels = [label for name, values in labelings.items() for label in np.unique(label_array(values, name)).tolist()]
    if not any(_is_background(label, background) for label in labels if type(label) is not int or label != -1):
        raise ValueError(f"background must be one of the labels, {listed(labels)}; got {background!r}, which is none.")


def label_array(labels: Any, name: str = "labels") -> np.ndarray:
    """The labels as an array of integers, booleans or text, one a point; no two become one, and none is lost.

    Bytes must be UTF-8. Integers of any size stay integers, and text stays text, whatever it says ("007" is not "7").

    Raises ValueError, naming rows, for labels that are missing (None, NaN, NA, NaT, masked) or of several types, and
    for those that are no labels: decimal numbers, dates, objects.

    >>> label_array([2**64 - 1, 7]).tolist(), label_array([b"cat", b"dog"]).tolist()
    ([18446744073709551615, 7], ['cat', 'dog'])
    """
    labels = labels.tolist() if isinstance(labels, np.ma.MaskedArray) else labels  # None where it is masked
    # NumPy would write the numbers of a mixed list as text, and True as 1.
    values = np.array(labels, dtype=object) if isinstance(labels, (list, tuple)) else np.asarray(labels)
    if values.dtype.kind in "TS":
        values = values.astype(object)
    if values.dtype.kind == "f":
        _check_present(np.isnan(values), name)
    if values.ndim != 1:
        raise ValueError(f"{name} must hold one label a point, shape (n,); got shape {values.shape}.")
    if values.dtype.kind == "O":
        values = _of_objects(values, name)
    if values.dtype.kind not in "biuUO":
        hint = ": for whole numbers save labels.astype(int), for measured values bins of them"
        hint = hint if values.dtype.kind == "f" else ""
        raise ValueError(f"{name} must be integers or strings; got an array of type {values.dtype}{hint}.")
    return values.astype(np.int64) if values.dtype.kind in "iu" and values.dtype != np.uint64 else values


def _of_objects(values: np.ndarray, name: str) -> np.ndarray:
    """Python's objects of one type, as an array: text, booleans, or integers of any size."""
    entries = [_plain(value) for value in values]
    _check_present(np.array([_is_missing(value) for value in entries], bool), name)
    kinds = {
        next((kind for kind in (bool, int, str, bytes) if isinstance(value, kind)), type(value)) for value in entries
    }
    if len(kinds) > 1:
        types = " and ".join(sorted(kind.__name__ for kind in kinds))
        raise ValueError(
            f"{name} must be integers or strings, all of one type; got mixed values: {types}. Convert them."
        )
    kind = kinds.pop() if kinds else str
    if kind is bytes:
        entries = [_decoded(value, row, name) for row, value in enumerate(entries)]
    elif kind is int:
        small = all(-(2**63) <= value < 2**63 for value in entries)
        return np.array(entries, dtype=np.int64 if small else object)
    elif kind not in (bool, str):
        raise ValueError(f"{name} must be integers or strings; got values of type {kind.__name__}. Convert them.")
    if any(isinstance(value, str) and value.endswith("\0") for value in entries):
        raise ValueError(f"{name} must not end in the character NUL, which arrays of NumPy drop. Remove it.")
    return np.array(entries, dtype=bool if kind is bool else str)


def _plain(value: Any) -> Any:
    """The value in Python's own type, if it is text, or a number or bytes of NumPy or JAX."""
    if isinstance(value, str):
        return str.__str__(value)  # all of it: NumPy's item() drops a NUL at the end
    known = getattr(getattr(value, "dtype", None), "kind", "") in ("b", "i", "u", "f", "S")
    return value.item() if known and np.ndim(value) == 0 else value


def _is_missing(value: Any) -> bool:
    """Whether the value is None, NaN, or what pandas or NumPy write for a value that is not there; text is always there."""
    return not isinstance(value, (str, bytes)) and str(value).lower() in ("none", "nan", "<na>", "nat", "--")


def _check_present(missing: np.ndarray, name: str) -> None:
    if missing.any():
        where = np.flatnonzero(missing)
        rows = ", ".join(map(str, where[:5])) + (", ..." if len(where) > 5 else "")
        raise ValueError(
            f"{name} must be there for every point, none mixed or missing; {len(where)} of {missing.size} are missing "
            f"(rows {rows}). Fill them in, or remove these rows."
        )


def _decoded(value: bytes, row: int, name: str) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{name} must be text in UTF-8; row {row} holds {value[:40]!r}. Decode them, for example with "
            "numpy.char.decode(labels, 'latin-1')."
        ) from error


def named_labels(labels: Any) -> dict[str, Any]:
    """The labelings by name; a single one is called "labels"."""
    return dict(labels) if isinstance(labels, Mapping) else {"labels": labels}


def encode_all(
    labels: Any, predictions: Any, *, background: Any, classes: Sequence[int | str] | None
) -> dict[str, Labeling]:
    """The labelings by name, the first of them the main one, and "predicted" where there are predictions of it.

    Raises ValueError for lengths that differ, and where no labeling has a class with two points.
    """
    named = named_labels(labels)
    if not named:
        raise ValueError("labels must hold at least one labeling; got an empty mapping.")
    names_apart(named, "labelings")
    main = next(iter(named))
    if predictions is not None:
        if "predicted" in named:
            raise ValueError("a labeling is named 'predicted' already: rename it, or leave predictions out.")
        if classes is None:
            both = [_encode(v, n, background, None) for v, n in ((named[main], main), (predictions, "predictions"))]
            kinds = {type(c).__name__ for labeling in both for c in labeling.classes}
            if len(kinds) > 1:
                raise ValueError(
                    f"predictions and {main!r} must name classes alike; got {' and '.join(sorted(kinds))}."
                )
            classes = sorted({c for labeling in both for c in labeling.classes})
        named["predicted"] = predictions
    ours = (main, "predicted")
    labelings = {
        name: _encode(values, name, background, classes if name in ours else None) for name, values in named.items()
    }
    lengths = {name: len(labeling.codes) for name, labeling in labelings.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"labelings must be of the same points; got lengths {lengths}.")
    for name, labeling in labelings.items():
        if not np.any(np.bincount(labeling.codes + 1, minlength=2)[1:] > 1):
            raise ValueError(f"{name} has no class with two points, so there is no pair to score.")
    return labelings


def recall(truth: Labeling, predicted: Labeling) -> np.ndarray:
    """For each class the share of its points that are predicted to be in it; nan for a class without points.

    >>> recall(encode(np.array([0, 0, 1])), encode(np.array([0, 1, 1]))).tolist()
    [0.5, 1.0]
    """
    right = (truth.codes == predicted.codes) & (truth.codes >= 0)
    count = np.bincount(truth.codes + 1, minlength=len(truth.classes) + 1)[1:]
    hits = np.bincount(truth.codes[right], minlength=len(truth.classes))
    return hits / np.where(count > 0, count, np.nan)


def stratified_sample(codes: Int[np.ndarray, " n"], size: int, key: PRNGKeyArray) -> Int[np.ndarray, " m"]:
    """Indices of `size` points, in order, drawn so that every class keeps its share up to rounding.

    >>> stratified_sample(np.array([0, 0, 0, 0, 1, 1]), 3, random.key(0)).size
    3
    """
    n = len(codes)
    if size >= n:
        return np.arange(n)
    order = np.lexsort((np.asarray(random.permutation(key, n)), codes))
    # Evenly spaced in the points sorted by class: a class gets its share, give or take one.
    return np.sort(order[np.floor((np.arange(size) + 0.5) * n / size).astype(int)])
