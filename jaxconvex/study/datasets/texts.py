"""Labelled texts, from csv files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from jaxconvex._internal.reading import errors_of, text_of
from jaxconvex._internal.tables import rows_of
from jaxconvex.study.datasets.dataset import MOST_NAMED, Dataset, folder_of, ignored_told, refuse

__all__ = ["read_texts"]

COLUMNS = ("category", "label")
LAYOUTS = (
    "train.csv and, if there is one, test.csv, with a column text, a column category or label, and group or not",
    "a single csv file with these columns; its path, or that of its folder",
)


def read_texts(path: str | Path) -> Dataset:
    """The texts of a csv file, or of train.csv and test.csv in a folder.

    A file begins with a line of column names (UTF-8, commas), among them "text", and "category" or "label", after which
    the labeling is called; and, if there is one, "group": texts of one group (a document, an author) stay in one part.
    Where a folder has train.csv and test.csv, they are the parts.

    Raises:
        ValueError: no such files; a column is missing or there twice; a row is longer or shorter than the names; texts,
            labels or groups that are empty, by line.

    Source: Casanueva et al., Efficient Intent Detection with Dual Sentence Encoders, 2020 (banking77's layout).
    """
    path = Path(path)
    if path.is_file():
        files = {"": path}
    else:
        folder = folder_of(path)
        files = {part: folder / f"{part}.csv" for part in ("train", "test") if (folder / f"{part}.csv").is_file()}
        tables = sorted(folder.glob("*.csv"))
        if not files and len(tables) == 1:
            files = {"": tables[0]}
    if not files:
        refuse(path, LAYOUTS)
    beside = sorted(path.iterdir()) if path.is_dir() else []
    others = [other for other in beside if other.is_file() and other not in files.values()]
    texts: list[str] = []
    labels: list[str] = []
    groups: list[str] = []
    parts: list[str] = []
    columns = set()
    for part, file in files.items():
        column, rows = _rows(file)
        columns.add(column)
        texts += [row[0] for row in rows]
        labels += [row[1] for row in rows]
        groups += [row[2] for row in rows if len(row) == 3]
        parts += [part] * len(rows)
    if len(columns) > 1:
        raise ValueError(f"the files in {path} must name their labels alike; got {', '.join(sorted(columns))}.")
    if len(groups) not in (0, len(texts)):
        raise ValueError(f"the files in {path} must both have a column group, or neither.")
    source = f"{len(texts)} texts of {len(set(labels))} classes from {' and '.join(f.name for f in files.values())}."
    divided = len(files) == 2
    return Dataset(
        texts,
        {columns.pop(): np.array(labels)},
        np.array(groups) if groups else None,
        np.array(parts) if divided else None,
        {},
        source,
        ignored_told(others),
    )


def _rows(path: Path) -> tuple[str, list[tuple[str, ...]]]:
    """The name of the column of labels, and the text and label of each row, and its group where there is that column."""
    with errors_of(path):
        (_, names), *rows = rows_of(text_of(path), ",", path)
    column = next((name for name in COLUMNS if name in names), None)
    if names.count("text") != 1 or column is None or names.count(column) != 1:
        raise ValueError(
            f"{path} must begin with the names of its columns, text and {' or '.join(COLUMNS)} once among them; got "
            f"{', '.join(names)}."
        )
    taken = ["text", column, *(["group"] if "group" in names else [])]
    numbered = [(line, tuple(row[names.index(name)] for name in taken)) for line, row in rows]
    empty = [line for line, cells in numbered if not all(cell.strip() for cell in cells)]
    if empty:
        shown = f"{', '.join(map(str, empty[:MOST_NAMED]))}" + f" and {len(empty) - MOST_NAMED} more" * (
            len(empty) > MOST_NAMED
        )
        line, row_words = ("line", "that row") if len(empty) == 1 else ("lines", "those rows")
        raise ValueError(f"{path} has no text or no {' or no '.join(taken[1:])} at {line} {shown}. Remove {row_words}.")
    return column, [cells for _, cells in numbered]
