"""The values of labels as arrays and lists: nothing becomes another label on the way, and none is lost."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["is_background", "is_overlapping", "label_array", "lists_of", "plain", "values_of"]

LISTS = (list, tuple, set, frozenset, np.ndarray)  # what may hold the labels of one point


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
    entries = [plain(value) for value in values]
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


def plain(value: Any) -> Any:
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


def is_overlapping(labels: Any) -> bool:
    """Whether a point may have several labels: a table of true and false, or for some point a list.

    >>> is_overlapping([["sea"], ["sea", "sky"]]), is_overlapping(["sea", "sky"]), is_overlapping(np.eye(2))
    (True, False, True)
    """
    if hasattr(labels, "shape") and np.ndim(labels) > 1:
        return True
    entries = labels if isinstance(labels, (list, tuple)) else getattr(labels, "tolist", list)()
    return any(isinstance(entry, LISTS) for entry in entries)


def lists_of(labels: Any, name: str = "labels") -> list[list[Any]]:
    """The labels of each point. Raises ValueError for points that have no list, and for labels in one that are missing."""
    for row, entry in enumerate(labels):
        if not isinstance(entry, LISTS) or any(_is_missing(value) for value in entry):
            raise ValueError(
                f"{name} must hold a list of labels for every point, empty for none, since it holds one for some; row {row} "
                f"holds {entry!s:.40}."
            )
    return [list(entry) for entry in labels]


def values_of(labels: Any, name: str = "labels") -> list[int | str]:
    """All labels that there are, each once; of a table the names of its columns."""
    if not is_overlapping(labels):
        return np.unique(label_array(labels, name)).tolist()
    if hasattr(labels, "shape") and np.ndim(labels) > 1:
        return [plain(column) for column in getattr(labels, "columns", range(np.shape(labels)[1]))]
    return np.unique(label_array([entry for entries in lists_of(labels, name) for entry in entries], name)).tolist()


def is_background(label: int | str, background: Any) -> bool:
    """Whether the label means no class: -1, or the background, as text also what is written like it."""
    background = plain(background)
    if type(label) is int and label == -1:
        return True
    if isinstance(background, str):
        return str(label) == background
    return type(label) is type(background) and label == background
