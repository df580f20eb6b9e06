"""Labelled texts, from csv files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from jaxconvex.reading import errors_of, text_of
from jaxconvex.study.datasets.dataset import Dataset, folder_of, refuse
from jaxconvex.tables import rows_of

__all__ = ["read_texts"]

COLUMNS = ("category", "label")
LAYOUTS = (
    "train.csv and, if there is one, test.csv, with a column text and a column category or label",
    "a single csv file with these columns; its path, or that of its folder",
)


def read_texts(path: str | Path) -> Dataset:
    """Returns the texts of a csv file, or of train.csv and test.csv in a folder.

    A file begins with a line of column names (UTF-8, commas), among them "text", and "category" or "label", after which
    the labeling is called. Where a folder has train.csv and test.csv, they are the parts.

    Raises:
        ValueError: no such files; a column is missing or there twice; a row is longer or shorter than the names, or its
            text or label empty, by line.

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
    texts: list[str] = []
    labels: list[str] = []
    parts: list[str] = []
    columns = set()
    for part, file in files.items():
        column, rows = _rows(file)
        columns.add(column)
        texts += [text for text, _ in rows]
        labels += [label for _, label in rows]
        parts += [part] * len(rows)
    if len(columns) > 1:
        raise ValueError(f"the files in {path} must name their labels alike; got {', '.join(sorted(columns))}.")
    source = f"{len(texts)} texts of {len(set(labels))} classes from {' and '.join(f.name for f in files.values())}."
    divided = len(files) == 2
    return Dataset(texts, {columns.pop(): np.array(labels)}, None, np.array(parts) if divided else None, {}, source)


def _rows(path: Path) -> tuple[str, list[tuple[str, str]]]:
    """The name of the column of labels, and the text and label of each row."""
    with errors_of(path):
        (_, names), *rows = rows_of(text_of(path), ",", path)
    column = next((name for name in COLUMNS if name in names), None)
    if names.count("text") != 1 or column is None or names.count(column) != 1:
        raise ValueError(
            f"{path} must begin with the names of its columns, text and {' or '.join(COLUMNS)} once among them; got "
            f"{', '.join(names)}."
        )
    pairs = [(line, row[names.index("text")], row[names.index(column)]) for line, row in rows]
    for line, text, label in pairs:
        if not text.strip() or not label.strip():
            raise ValueError(f"{path} has no text or no {column} at line {line}. Remove that row.")
    return column, [(text, label) for _, text, label in pairs]
