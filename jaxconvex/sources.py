"""Source: the named arrays of a file of any format, each read when it is asked for."""

from __future__ import annotations

import contextlib
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import ml_dtypes
import numpy as np

from jaxconvex.formats import require

__all__ = ["FORMATS", "UNNAMED", "FileError", "Source", "errors_of", "is_numeric", "open_source"]

UNNAMED = "layer"  # what the one layer of a file is called that does not name it


class Source(NamedTuple):
    """The names in a file, in its order, and what reads the array behind a name."""

    path: Path
    names: tuple[str, ...]
    read: Callable[[str], np.ndarray]
    table: bool = False  # whether the names are columns, of which several make up a layer


def open_source(path: str | os.PathLike[str]) -> Source:
    """The source of an .npz, .npy, .safetensors, .parquet or .csv file, or of a folder that `extract` wrote.

    Text comes as NumPy's strings, columns with missing text as objects, missing numbers as NaN. Nothing is ever
    unpickled. Raises ValueError, naming the file, if it is empty, cut short, of another kind or holds Python objects;
    OSError, saying why, if it cannot be read; ModuleNotFoundError, naming the extra to install.
    """
    path = Path(path)
    if (path / "index.json").exists():
        return _open_activations(path)
    opener = FORMATS.get(path.suffix.lower())
    if opener is None:
        raise ValueError(
            f"{path} must be a file that ends in {', '.join(FORMATS)}, or a folder that extract wrote; got "
            f"{'another folder' if path.is_dir() else repr(path.suffix or 'no ending')}."
        )
    with errors_of(path):
        if path.is_dir():
            raise FileError(f"{path} must be a file, or a folder that extract wrote; it is another folder.")
        with path.open("rb") as stream:
            if not stream.read(1):
                raise FileError(f"{path} is empty (0 bytes). Was it written to the end?")
        source = opener(path)
    return source._replace(read=partial(_read, source))


def is_numeric(array: np.ndarray) -> bool:
    """Whether the array holds real numbers, bfloat16 among them."""
    return array.dtype.kind in "biuf" or array.dtype == ml_dtypes.bfloat16


class FileError(ValueError):
    """What is wrong with a file, in words for its owner."""


@contextlib.contextmanager
def errors_of(path: Path, name: str = "") -> Iterator[None]:
    """Turns what the readers of the formats raise into errors that name the file and say what to do."""
    try:
        yield
    except (FileError, ModuleNotFoundError, MemoryError):
        raise
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} does not exist. Check the path.") from error
    except PermissionError as error:
        raise PermissionError(f"{path} cannot be read: permission denied.") from error
    except OSError as error:
        raise OSError(f"{path} cannot be read: {_first_line(error)}") from error
    except Exception as error:
        if "Object arrays" in str(error):
            raise FileError(
                f"{f'{name!r} in ' if name else ''}{path} holds Python objects, which are never read, since that could "
                "run any code: save it as numbers or text (array.astype(float), array.astype(str))."
            ) from error
        kinds = (ValueError, EOFError, KeyError, TypeError, BadZipFile, zlib.error)
        if not isinstance(error, kinds) and type(error).__name__ != "SafetensorError":
            raise
        what = f"{path} is not a whole {path.suffix.lower()} file: {_first_line(error)}"
        raise FileError(f"{what} It may have been cut short, or be of another kind; write it again.") from error


def _first_line(error: Exception) -> str:
    """The first line of a message, with a full stop at its end."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".: ") + "."


def _read(source: Source, name: str) -> np.ndarray:
    with errors_of(source.path, name):
        array = source.read(name)
    if array.dtype.kind == "O" and all(isinstance(value, str) for value in array.flat):
        return array.astype(str)
    if array.dtype.kind == "S":
        return np.char.decode(array, "utf-8", errors="replace")
    if array.dtype.kind == "V" and array.dtype.itemsize == 2 and array.dtype.names is None:
        # NumPy's own files keep of bfloat16 only that it takes two bytes.
        return array.view(ml_dtypes.bfloat16)
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


# The formats ----------------------------------------------------------------------------------------------------------


def _open_activations(path: Path) -> Source:
    from jaxconvex.activations import read_activations

    activations = read_activations(path)
    return Source(path, tuple(activations), activations.__getitem__)


def _open_npz(path: Path) -> Source:
    archive = _load(path)
    if not isinstance(archive, Mapping):
        raise ValueError("it holds one array, as an .npy file does.")
    return Source(path, tuple(archive), archive.__getitem__)


def _open_npy(path: Path) -> Source:
    array = _load(path)
    if isinstance(array, Mapping):
        raise ValueError("it holds several arrays, as an .npz file does.")
    return Source(path, (UNNAMED,), {UNNAMED: array}.__getitem__)


def _load(path: Path) -> Any:
    with path.open("rb") as stream:
        start = stream.read(6)
    # What begins in no way that NumPy knows it takes for a pickle, and would say so.
    if not start.startswith((b"\x93NUMPY", b"PK")):
        raise ValueError("it does not begin as NumPy's files do (and pickles are never read).")
    return np.load(path, allow_pickle=False)


def _open_safetensors(path: Path) -> Source:
    arrays = require("safetensors.numpy").load_file(path)
    return Source(path, tuple(arrays), arrays.__getitem__)


def _open_csv(path: Path) -> Source:
    frame = require("pandas").read_csv(path, dtype_backend="numpy_nullable")
    # An index written without a name is no feature.
    named = [name for name in frame.columns if not name.startswith("Unnamed: ")]
    return Source(path, tuple(named), lambda name: _without_missing(frame[name]), table=True)


def _without_missing(column: Any) -> np.ndarray:
    numeric = column.dtype.kind in "biuf"
    if not column.isna().any():
        return column.to_numpy(dtype=column.dtype.numpy_dtype if numeric else str)
    return column.to_numpy(dtype=float, na_value=np.nan) if numeric else column.to_numpy(dtype=object, na_value=None)


def _open_parquet(path: Path) -> Source:
    table = require("pyarrow.parquet", "parquet").ParquetFile(path).read()
    named = [name for name in table.column_names if not name.startswith("__index_level_")]

    def read(name: str) -> np.ndarray:
        parts = [_from_arrow(chunk, name, path) for chunk in table[name].chunks]
        return np.concatenate(parts) if parts else np.zeros(0)

    return Source(path, tuple(named), read, table=True)


def _from_arrow(column: Any, name: str, path: Path) -> np.ndarray:
    """A column as an array; lists, all of one length, become further axes."""
    kinds = require("pyarrow", "parquet").types
    if kinds.is_dictionary(column.type):
        column = column.dictionary_decode()
    if not (kinds.is_list(column.type) or kinds.is_large_list(column.type) or kinds.is_fixed_size_list(column.type)):
        return column.to_numpy(zero_copy_only=False)
    lengths = require("pyarrow.compute", "parquet").list_value_length(column).unique().to_pylist()
    if len(lengths) != 1 or lengths[0] is None:
        found = ", ".join("missing" if length is None else str(length) for length in lengths[:5])
        raise FileError(f"{name!r} in {path} must hold lists of one length; got lengths {found or 'of nothing'}.")
    inner = _from_arrow(column.flatten(), name, path)
    return inner.reshape(len(column), lengths[0], *inner.shape[1:])


FORMATS: dict[str, Callable[[Path], Source]] = {
    ".npz": _open_npz,
    ".npy": _open_npy,
    ".safetensors": _open_safetensors,
    ".parquet": _open_parquet,
    ".csv": _open_csv,
}
