"""Arrays in a file of any format, each read when it is asked for."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO
from zipfile import ZipFile

import ml_dtypes
import numpy as np

from jaxconvex._internal.formats import require
from jaxconvex._internal.reading import FileError, Source, errors_of
from jaxconvex._internal.tables import open_csv, open_parquet

__all__ = ["FORMATS", "UNNAMED", "is_numeric", "open_source"]

UNNAMED = "layer"  # what the one layer of a file is called that does not name it

NUMPY, ZIP = b"\x93NUMPY", b"PK"

# Activations do not compress so well that a small file holds gigabytes of them.
UNPACKED, TIMES = 2**30, 200


def open_source(path: str | os.PathLike[str]) -> Source:
    """The source of an .npz, .npy, .safetensors, .parquet or .csv file, or of a folder that `extract` wrote.

    Text comes as NumPy's strings, bytes as they are, columns with missing text as objects, missing numbers as NaN.
    Nothing is ever unpickled. Raises ValueError, naming the file, if it is empty, cut short, of another kind or holds
    Python objects; OSError, saying why, if it cannot be read; ModuleNotFoundError, naming the extra to install.
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
        if path.exists() and not path.is_file():
            what = "another folder" if path.is_dir() else "neither"
            raise FileError(f"{path} must be a file, or a folder that extract wrote; it is {what}.")
        with path.open("rb") as stream:
            if not stream.read(1):
                raise FileError(f"{path} is empty (0 bytes). Was it written to the end?")
        source = opener(path)
    labels = None if source.read_labels is None else partial(_read, source, source.read_labels)
    return source._replace(read=partial(_read, source, source.read), read_labels=labels)


def is_numeric(array: np.ndarray) -> bool:
    """Whether the array holds real numbers that JAX knows, bfloat16 among them."""
    return (array.dtype.kind in "biuf" and array.dtype.itemsize <= 8) or array.dtype == ml_dtypes.bfloat16


def _read(source: Source, read: Callable[[str], np.ndarray], name: str) -> np.ndarray:
    with errors_of(source.path, name):
        array = read(name)
    if array.dtype.kind == "O" and all(isinstance(value, str) and not value.endswith("\0") for value in array.flat):
        return array.astype(str)
    if array.dtype.kind == "V" and array.dtype.itemsize == 2 and array.dtype.names is None:
        # NumPy's own files keep of bfloat16 only that it takes two bytes.
        return array.view(ml_dtypes.bfloat16)
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


# The formats ----------------------------------------------------------------------------------------------------------


def _open_activations(path: Path) -> Source:
    from jaxconvex.layers import read_activations

    activations = read_activations(path)
    return Source(path, tuple(activations), activations.__getitem__)


def _open_npz(path: Path) -> Source:
    with path.open("rb") as stream:
        if _start(stream) == NUMPY:
            raise ValueError("it holds one array, as an .npy file does.")
    archive = ZipFile(path)
    members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
    if len(members) < len(archive.infolist()):
        raise ValueError("it holds several arrays of one name")
    if {"format", "shape", "data"} <= set(members):
        raise FileError(
            f"{path} holds a sparse matrix of scipy. Save it dense: numpy.savez(path, layer=load_npz(path).toarray(), "
            "labels=labels)."
        )

    def read(name: str) -> np.ndarray:
        member = members[name]
        if member.file_size > max(UNPACKED, TIMES * member.compress_size):
            times = member.file_size // max(member.compress_size, 1)
            raise ValueError(f"it unpacks to {member.file_size / 1e9:.0f} GB, {times} times its size in the file")
        with archive.open(member) as stream:
            return _array(stream, member.file_size)

    return Source(path, tuple(members), read)


def _open_npy(path: Path) -> Source:
    with path.open("rb") as stream:
        if _start(stream) == ZIP:
            raise ValueError("it holds several arrays, as an .npz file does.")
        array = _array(stream, path.stat().st_size)
    return Source(path, (UNNAMED,), {UNNAMED: array}.__getitem__)


def _array(stream: IO[bytes], size: int) -> np.ndarray:
    """The array in a stream of this size. Its header must claim what follows it, or memory is taken for a lie."""
    if _start(stream) != NUMPY:
        raise ValueError("it does not begin as NumPy's files do")
    version = np.lib.format.read_magic(stream)
    headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in headers:
        raise ValueError(f"its header has version {version}, which no array of numbers or text needs")
    shape, _, dtype = headers[version](stream)
    claimed, held = math.prod(shape) * dtype.itemsize, size - stream.tell()
    if not dtype.hasobject and (claimed != held or (0 not in shape and not dtype.itemsize)):
        raise ValueError(f"its header claims an array {shape} of {dtype}, {claimed} bytes, and {held} follow")
    stream.seek(0)
    return np.lib.format.read_array(stream, allow_pickle=False)


def _start(stream: IO[bytes]) -> bytes:
    """How the stream begins, which is wound back. Raises ValueError for what is not NumPy's."""
    start = stream.read(6)
    stream.seek(0)
    for known in (NUMPY, ZIP):
        if start.startswith(known):
            return known
    raise ValueError("it does not begin as NumPy's files do (and pickles are never read).")


def _open_safetensors(path: Path) -> Source:
    safetensors = require("safetensors")
    with safetensors.safe_open(path, "numpy") as file:
        names = tuple(file.offset_keys() if hasattr(file, "offset_keys") else file.keys())

    def read(name: str) -> np.ndarray:
        with safetensors.safe_open(path, "numpy") as file:
            try:
                return file.get_tensor(name)
            except AttributeError as error:  # a type that NumPy does not have
                kind = file.get_slice(name).get_dtype()
                raise FileError(
                    f"{name!r} in {path} is of type {kind}, which is not read: save it as float32, or leave it out "
                    f"(--skip {name})."
                ) from error

    return Source(path, names, read)


FORMATS: dict[str, Callable[[Path], Source]] = {
    ".npz": _open_npz,
    ".npy": _open_npy,
    ".safetensors": _open_safetensors,
    ".parquet": open_parquet,
    ".csv": open_csv,
}
