"""The labels of a user's files: one for each point or, where they say so, several."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from jaxconvex._internal.messages import listed
from jaxconvex._internal.reading import FileError, Source, errors_of, text_labels, text_of
from jaxconvex.cli.sources import FORMATS, open_source
from jaxconvex.evaluation.label_values import is_overlapping, label_array, values_of
from jaxconvex.evaluation.labelings import encode_lists

__all__ = ["LABEL_NAMES", "columns_of", "labeling_of", "lists_of_labels", "read_labels", "split_labels", "words_of"]

LABEL_NAMES = ("labels", "label", "targets", "target", "y")  # what is looked for where no labels are named

# Text by which tables say that a value is missing; among labels it may as well be a class (Namibia, a surname).
NOT_THERE = {"NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NULL", "null", "None"}


def labeling_of(name: str, names: Sequence[str]) -> str:
    """What the labels behind a name are called: a name in the file stays, of a path the stem, of wildcards what is around.

    >>> labeling_of("genre_*", ["genre_action", "genre_comedy"]), labeling_of("data/species.txt", ["x"])
    ('genre', 'species')
    """
    if columns_of(name, names):
        return re.sub(r"[*?]", "", name).strip(" _/-.:") or name
    return name if name in names else Path(name).stem


def columns_of(name: str, names: Sequence[str]) -> list[str]:
    """The columns that a name with wildcards stands for, where it is no name itself and there are several.

    >>> columns_of("genre_*", ["genre_action", "genre_comedy", "year"])
    ['genre_action', 'genre_comedy']
    """
    found = [] if name in names or not re.search(r"[*?]", name) else [each for each in names if fnmatchcase(each, name)]
    return found if len(found) > 1 else []


def lists_of_labels(source: Source, names: Sequence[str], name: str, separator: str | None = None) -> np.ndarray:
    """The labels behind a name, where a point may have several: of integers or text, or a tuple of them for each point.

    Several they are in columns of true and false that wildcards name, in an array (n, m) of these, in a column of lists,
    and in text with a separator between two.
    """
    columns = columns_of(name, names)
    if columns:
        return _of_columns(source, columns, name)
    array, where = _array_of(source, names, name)
    if is_overlapping(array):
        encode_lists(array, name=where)  # which refuses what it cannot be
        return array
    if separator is not None:
        split = split_labels(array, separator)
        if split is not None:
            return split
    return _one_each(array, where)


def _of_columns(source: Source, columns: Sequence[str], name: str) -> np.ndarray:
    table = [source.read(column) for column in columns]
    for column, values in zip(columns, table, strict=True):
        if values.ndim != 1 or values.dtype.kind not in "biuf" or not np.isin(values, (0, 1)).all():
            raise ValueError(
                f"{column!r} in {source.path} must hold 1 and 0, or true and false, to tell which points have the label, as "
                f"{name!r} says; got other values, of type {values.dtype}."
            )
    before, _, after = name.partition("*")
    plain = name.count("*") == 1 and "?" not in name
    called = [column[len(before) : len(column) - len(after)] if plain else column for column in columns]
    inside = np.stack(table, axis=1) != 0
    return _tuples([[label for label, there in zip(called, row, strict=True) if there] for row in inside])


def split_labels(cells: np.ndarray, separator: str) -> np.ndarray | None:
    """The labels of each point, which a separator parts; nothing where no cell holds it. What is empty is no label.

    >>> split_labels(np.array(["sea; sky", None, "sea"], object), ";").tolist(), split_labels(np.array([1, 2]), ";")
    ([('sea', 'sky'), (), ('sea',)], None)
    """
    texts = ["" if cell is None else str(cell) for cell in cells]
    if cells.dtype.kind not in "OU" or not any(separator in text for text in texts):
        return None
    return _tuples([[part.strip() for part in text.split(separator) if part.strip()] for text in texts])


def _tuples(lists: Sequence[Sequence[Any]]) -> np.ndarray:
    found = np.empty(len(lists), object)
    found[:] = [tuple(each) for each in lists]
    return found


def read_labels(source: Source, names: Sequence[str], name: str) -> np.ndarray:
    """The labels behind a name in the source or in a file of their own, one for each point, as integers or text."""
    return _one_each(*_array_of(source, names, name))


def _one_each(array: np.ndarray, where: str) -> np.ndarray:
    labels = label_array(array, where)
    return labels.astype(str) if labels.dtype.kind == "b" else labels


def _array_of(source: Source, names: Sequence[str], name: str) -> tuple[np.ndarray, str]:
    """The array behind a name, and what messages call it."""
    if name in names:
        read = source.read if source.read_labels is None else source.read_labels
        return read(name), f"labels {name!r} in {source.path}"
    if Path(name).is_file() or (Path(name).suffix.lower() in (*FORMATS, ".txt") and os.sep in name):
        return _of_file(Path(name)), f"labels in {name}"
    raise ValueError(
        f"{source.path} has no {name!r}, and there is no such file of labels; it has {listed(names, name)}."
    )


def _of_file(path: Path) -> np.ndarray:
    if path.suffix.lower() == ".txt":
        with errors_of(path):
            # Not splitlines(), which breaks lines at ten different characters.
            lines = re.split(r"\r\n|\r|\n", text_of(path))
        if lines[-1] == "":
            lines.pop()
        if not lines:
            raise FileError(f"{path} is empty. It must hold one label a line.")
        return text_labels(lines)
    source = open_source(path)
    names = [name for name in LABEL_NAMES if name in source.names][:1] or source.names
    if len(names) != 1:
        raise ValueError(
            f"{path} must hold one array or column of labels, or one called {listed(LABEL_NAMES)}; "
            f"it has {listed(source.names)}."
        )
    return (source.read_labels or source.read)(names[0])


def words_of(labelings: dict[str, np.ndarray]) -> list[str]:
    """Notes on labels that may stand for a missing one, on those that look alike, and on points without any."""
    notes = []
    for name, values in labelings.items():
        alike: dict[str, list[str]] = {}
        several = is_overlapping(values)
        count = {label: int(np.sum([label in own for own in values] if several else values == label))
                 for label in values_of(values, name) if str(label) in NOT_THERE}  # fmt: skip
        for value in values_of(values, name):
            alike.setdefault(" ".join(str(value).split()), []).append(str(value))
        for classes in (spellings for spellings in alike.values() if len(spellings) > 1):
            notes.append(f"labels {name!r}: {listed(classes)} differ in spaces alone, and are classes of their own")
        for word, points in count.items():
            notes.append(
                f"labels {name!r}: {word!r} is a class of {points} points; if it says that the label is missing, "
                f"--background {word!r} takes these points out of the classes"
            )
        if several:
            notes.append(f"labels {name!r}: a point may have several; they are scored as concepts that overlap")
    return notes
