"""Tables, of which several columns make up a layer: csv and parquet."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from jaxconvex._internal.formats import require, unescaped
from jaxconvex._internal.messages import listed
from jaxconvex._internal.reading import FileError, Source, text_labels, text_of

__all__ = ["open_csv", "open_parquet", "rows_of"]

SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
START = 2**20  # characters that tell the separator


def open_csv(path: Path) -> Source:
    """The columns of a csv file by the names in its first line, separated by commas, semicolons, tabs or bars.

    Numbers are read where they are asked for as features; labels are read as the text that stands there.
    """
    text, pandas = text_of(path), require("pandas")
    separator = _separator(text)
    rows = rows_of(text, separator, path)
    _, header = next(rows)
    count = sum(1 for _ in rows)
    places = {name: place for place, name in enumerate(header) if name and not name.startswith("Unnamed: ")}
    _check_distinct([name for name in header if name], path)

    def columns(**options: Any) -> Any:
        frame = pandas.read_csv(
            io.StringIO(text, newline=""),
            sep=separator,
            header=0,
            names=range(len(header)),
            index_col=False,
            skip_blank_lines=len(header) > 1,
            low_memory=False,
            **options,
        )
        if len(frame) != count:
            raise ValueError(f"{count} rows were found in it, and {len(frame)} when it was read again")
        return frame

    frame = columns(dtype_backend="numpy_nullable")

    def read_labels(name: str) -> np.ndarray:
        place = places[name]
        cells = columns(usecols=[place], dtype=str, keep_default_na=False)[place].tolist()
        return text_labels(unescaped(cells))

    return Source(
        path,
        tuple(places),
        lambda name: _without_missing(frame[places[name]]),
        table=True,
        read_labels=read_labels,
        notes=("columns without a name are left out",) if len(places) < len(header) else (),
    )


def _separator(text: str) -> str:
    """Of the separators in the header the one that gives rows of one length, and then the most columns."""

    start = text[:START]

    def fit(separator: str) -> tuple[bool, int]:
        rows = list(islice(_split(start, separator, strict=False), 20))
        whole = rows[:-1] if len(start) < len(text) and len(rows) > 1 else rows  # the last one may be cut
        lengths = [len(row) for _, row in whole if row]
        return lengths[:1] > [1] and len(set(lengths)) == 1, lengths[0] if lengths else 0

    return max(SEPARATORS, key=fit)


def rows_of(text: str, separator: str, path: Path) -> Iterator[tuple[int, list[str]]]:
    """Each row of csv, the names first, and the line on which it begins; blank lines between several columns are none.

    Raises ValueError for a row that is not as long as the names, by its line, and for no names.
    """
    width = line = 0
    try:
        for line, row in _split(text, separator, strict=True):
            if not width and not any(row):
                break
            width = width or len(row)
            if not row and width > 1:
                continue
            if len(row or [""]) != width:
                raise FileError(
                    f"{path}, line {line}, has {len(row)} fields, where the header has {width}. Give each line a field for "
                    f"each name, with a {SEPARATORS[separator]} between two and none at the end; text that holds one stands "
                    "in quotes."
                )
            yield line, row or [""]
    except csv.Error as error:
        raise ValueError(f"below line {line}: {error}") from error
    if not width:
        raise ValueError("its first line must hold the names of the columns")


def _split(text: str, separator: str, *, strict: bool) -> Iterator[tuple[int, list[str]]]:
    # With newline="" a line ends at line feeds and carriage returns only.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=strict)
    line = 1
    for row in reader:
        yield line, row
        line = reader.line_num + 1


def _check_distinct(names: list[str], path: Path) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise FileError(
            f"{path} has several columns called {listed(twice)}. Rename them, so that each has a name of its own."
        )


def _without_missing(column: Any) -> np.ndarray:
    numeric = column.dtype.kind in "biuf"
    if not column.isna().any():
        return column.to_numpy(dtype=column.dtype.numpy_dtype if numeric else str)
    return column.to_numpy(dtype=float, na_value=np.nan) if numeric else column.to_numpy(dtype=object, na_value=None)


def open_parquet(path: Path) -> Source:
    """The columns of a parquet file; a column of lists or tensors of one shape is an array of more axes."""
    table = require("pyarrow.parquet", "parquet").ParquetFile(path).read()
    _check_distinct(table.column_names, path)
    named = [name for name in table.column_names if not name.startswith("__index_level_")]

    def read(name: str) -> np.ndarray:
        parts = [_from_arrow(chunk, name, path) for chunk in table[name].chunks]
        return np.concatenate(parts) if parts else np.zeros(0)

    def read_labels(name: str) -> np.ndarray:
        """Lists of integers or text are the labels of points that may have several; flags, all as many, are a table."""
        if not _holds_lists(table[name].type):
            return read(name)
        lists = [own or [] for own in table[name].to_pylist()]
        labels = [label for own in lists for label in own]
        flags = len({len(own) for own in lists}) == 1 and len(lists[0]) > 1 and all(label in (0, 1) for label in labels)
        if flags or any(isinstance(label, (float, list)) for label in labels):
            return read(name)
        found = np.empty(len(lists), object)
        found[:] = [tuple(own) for own in lists]
        return found

    return Source(path, tuple(named), read, table=True, read_labels=read_labels)


def _from_arrow(column: Any, name: str, path: Path) -> np.ndarray:
    """A column as an array; lists, all of one length, become further axes."""
    arrow = require("pyarrow", "parquet")
    kinds = arrow.types
    if isinstance(column.type, arrow.FixedShapeTensorType) and not column.null_count:
        return column.to_numpy_ndarray()
    if isinstance(column.type, arrow.BaseExtensionType):
        column = column.storage
    if kinds.is_dictionary(column.type):
        column = column.dictionary_decode()
    if kinds.is_decimal(column.type):
        column = column.cast(arrow.float64())
    if not _holds_lists(column.type):
        return column.to_numpy(zero_copy_only=False)
    lengths = require("pyarrow.compute", "parquet").list_value_length(column).unique().to_pylist()
    if len(lengths) != 1 or lengths[0] is None:
        found = ", ".join("missing" if length is None else str(length) for length in lengths[:5])
        raise FileError(f"{name!r} in {path} must hold lists of one length; got lengths {found or 'of nothing'}.")
    inner = _from_arrow(column.flatten(), name, path)
    return inner.reshape(len(column), lengths[0], *inner.shape[1:])


def _holds_lists(kind: Any) -> bool:
    kinds = require("pyarrow", "parquet").types
    return bool(kinds.is_list(kind) or kinds.is_large_list(kind) or kinds.is_fixed_size_list(kind))
