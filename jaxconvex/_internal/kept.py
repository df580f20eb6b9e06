"""Files that outlive a run: each written whole and with a checksum, used again only if it is as it was; a folder's lock.

JSON has its checksum from `formats.json_of_tables`, arrays from `write_arrays`. What a file holds is made again where the
file is absent or not whole; one that cannot be read (no permission, no memory) is an error and stays as it is.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import hashlib
import json
import os
import socket
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from tqdm import tqdm

from jaxconvex._internal.formats import has_checksum, require, write_file
from jaxconvex._internal.messages import say

__all__ = ["LOCK", "array_hash", "found", "lock", "read_arrays", "sealed", "sweep", "tell", "write_arrays"]

LOCK = ".jaxconvex.lock"

T = TypeVar("T")


def tell(text: str) -> None:
    """Print a message to stderr, in one line, above a progress bar."""
    with tqdm.external_write_mode(file=sys.stderr):
        say(" ".join(text.split()), stream="stderr")


def found(path: Path, read: Callable[[Path], T]) -> T | None:
    """What `read(path)` returns; None where there is no such file or, after a line on stderr, where it is not whole.

    `read` raises ValueError, naming the file, if it is not whole. OSError and MemoryError are raised: they prove nothing.

    >>> found(Path("nowhere.json"), sealed) is None
    True
    """
    try:
        return read(path)
    except FileNotFoundError:
        return None
    except ValueError as error:
        tell(f"{error} It is made again.")
        return None


def sealed(path: Path) -> Path:
    """The path, if its JSON holds a checksum that agrees with the rest. Raises ValueError otherwise."""
    if not has_checksum(path):
        raise ValueError(f"{path} holds no checksum.")
    return path


# Arrays ---------------------------------------------------------------------------------------------------------------


def array_hash(array: Any, *more: bytes) -> str:
    """SHA-256 of type, shape and content, and of further bytes."""
    if isinstance(array, jax.Array) and jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key):
        array = jax.random.key_data(array)
    array = np.asarray(array)
    digest = hashlib.sha256(f"{array.dtype} {array.shape}".encode())
    content: Any = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    for part in (content, *more):
        digest.update(part)
    return digest.hexdigest()


def write_arrays(path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray], record: Any, extra: str) -> Path:
    """The path, after the arrays and a record (plain data) are written to it as safetensors, each with its checksum.

    `extra` is that of jaxconvex which brings safetensors.
    """
    plain = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    text = json.dumps([record, {name: array_hash(array) for name, array in plain.items()}])
    # One entry alone, since safetensors writes several in any order.
    metadata = {"kept": f"{hashlib.sha256(text.encode()).hexdigest()} {text}"}
    return write_file(path, require("safetensors.numpy", extra).save(plain, metadata))


def read_arrays(
    path: str | os.PathLike[str], names: Iterable[str] | None = None, extra: str = "report"
) -> tuple[Any, dict[str, np.ndarray]]:
    """The record and the arrays of these names, by default all, that `write_arrays` wrote; nothing else is read.

    Raises ValueError if any of it is not as it was written; OSError if the file cannot be read.
    """
    safetensors = require("safetensors", extra)
    with open(path, "rb"):  # raises the true reason, where safetensors may only say that there is no such file
        pass
    try:
        with safetensors.safe_open(path, "numpy") as file:
            digest, _, text = (file.metadata() or {}).get("kept", "").partition(" ")
            if hashlib.sha256(text.encode()).hexdigest() != digest:
                raise ValueError(f"{path} has no record whose checksum agrees.")
            record, hashes = json.loads(text)
            arrays = {name: file.get_tensor(name) for name in (hashes if names is None else names)}
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is not whole ({error}).") from error
    for name, array in arrays.items():
        if array_hash(array) != hashes.get(name):
            raise ValueError(f"the checksum of {name!r} in {path} does not agree.")
    return record, arrays


# Folders --------------------------------------------------------------------------------------------------------------


def sweep(folder: Path) -> None:
    """Remove what a killed process has left half written in a folder that is locked."""
    for path in folder.glob(".*.part"):
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Keep all others out of a folder, which must exist, for the length of the context.

    The system holds the lock and frees it when the process ends in whatever way; on a network file system that shares
    locks, also of processes on other hosts. Where there are none, a line says so; where the folder cannot be written,
    there is nothing to keep.

    Raises BlockingIOError, naming process, host and time, where another process, or another call in this one, works.
    """
    path = folder / LOCK
    descriptor = _locked(path)
    try:
        yield
    finally:
        if descriptor is not None:
            if sys.platform != "win32":  # there a file that is open cannot be removed; it is taken over the next time
                path.unlink(missing_ok=True)
            os.close(descriptor)


def _locked(path: Path) -> int | None:
    """The file, open and locked; None where that cannot be done."""
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
                return None
            raise
        try:
            _take(descriptor)
        except (BlockingIOError, PermissionError):
            holder = os.pread(descriptor, 200, 0).decode(errors="replace") if sys.platform != "win32" else ""
            os.close(descriptor)
            who = f"another process ({holder})" if holder else "another process"
            what = f"{who} works here: {path.parent}. Wait until it has ended, or name another folder."
            raise BlockingIOError(what) from None
        except OSError as error:
            tell(f"{path.parent} is on a file system without locks ({error}): see that no other process writes there.")
        if _is_there(descriptor, path):
            os.ftruncate(descriptor, 0)
            now = datetime.datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
            os.write(descriptor, f"pid {os.getpid()} on {socket.gethostname()} since {now}".encode())
            return descriptor
        os.close(descriptor)  # the last owner removed the file before the lock was ours


def _is_there(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


if sys.platform == "win32":
    import msvcrt

    def _take(descriptor: int) -> None:
        os.lseek(descriptor, 2**30, os.SEEK_SET)  # a byte beyond all that is written
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        os.lseek(descriptor, 0, os.SEEK_SET)

else:
    import fcntl

    def _take(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
