"""A folder of activations: an index and shards, each whole or not there, so that a run goes on where it was stopped."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxconvex._internal import kept
from jaxconvex._internal.formats import has_checksum, json_of_tables, plain, read_tables, write_file

__all__ = ["INDEX", "Before", "Shard", "begin", "differences", "finish", "open_index", "read_array"]
__all__ += ["shard_path", "write_shard"]

INDEX, FORMAT, VERSION = "index.json", "jaxconvex activations", 2

Batch = tuple[int, str]  # its number of points, and a hash of what went in


class Shard(NamedTuple):
    """A file with the activations of some batches in a row: the number of the first, and each one's size and hash."""

    path: Path
    first: int
    sizes: tuple[int, ...]
    hashes: tuple[str, ...]

    @property
    def batches(self) -> dict[int, Batch]:
        """Each batch by its number."""
        return dict(enumerate(zip(self.sizes, self.hashes, strict=True), self.first))


class Before(NamedTuple):
    """What a folder holds of a run: what tells its files from others', the shards that are whole, and the batches known.

    Of a finished run all batches are known, also those of shards that are lost.
    """

    run: str
    shards: tuple[Shard, ...]
    batches: dict[int, Batch]
    finished: bool


def write_shard(
    folder: Path, run: str, first: int, arrays: Mapping[str, np.ndarray], batches: Sequence[Batch]
) -> Shard:
    """The shard of the batches (size and hash of each) that begin with number `first`, after it has been written."""
    sizes, hashes = (tuple(part) for part in zip(*batches, strict=True))
    path = shard_path(folder, first)
    record = {"run": run, "first": first, "sizes": sizes, "hashes": hashes}
    with _advice():
        kept.write_arrays(path, arrays, record, "report")
    return Shard(path, first, sizes, hashes)


def shard_path(folder: Path, first: int) -> Path:
    """Where the shard is that begins with the batch of this number."""
    return folder / f"shard-{first:08d}.safetensors"


def read_array(shards: Sequence[tuple[Path, int]], name: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """One array out of all shards (path and number of points), of which nothing else is read."""
    array = np.empty(shape, dtype)
    start = 0
    for path, points in shards:
        try:
            array[start : start + points] = kept.read_arrays(path, [name])[1][name]
        except (FileNotFoundError, ValueError) as error:
            what = f"{path} is not there." if isinstance(error, FileNotFoundError) else error
            raise ValueError(f"{what} Call extract with the same arguments again: it makes what is missing.") from error
        start += points
    return array


def begin(folder: Path, settings: Mapping[str, Any]) -> Before:
    """What a locked folder holds already of the run with these settings; nothing, where it is new.

    What is not whole is removed, after a line that says so. Raises ValueError for a folder of another run.
    """
    kept.sweep(folder)
    settings = plain(settings)
    path = folder / INDEX
    raw = path.read_bytes() if path.exists() else b""
    ours = not raw.strip() or FORMAT.encode() in raw or bool(_shard_files(folder))
    index = None if ours and kept.found(path, has_checksum) is None else open_index(folder)
    if index is None:
        run = _run(settings)
        shards = _own_shards(folder, run)
        _write_index(folder, run, settings, [], finished=False)
        return Before(run, shards, _batches(shards), False)
    before = dict(index["settings"])
    if index["jax"] != jax.__version__:  # which may write the same program otherwise
        before["program"] = settings["program"]
    different = differences(before, settings)
    if different:
        raise ValueError(
            f"{folder} holds activations of another run: {'; '.join(different)}. Give another folder, or remove this one "
            "to begin again."
        )
    found = []
    for file in _shard_files(folder):
        one = kept.found(file, _read_shard)
        if one is None:
            file.unlink()  # what is made again may get another name
            continue
        shard, run = one
        if run != index["run"]:
            raise ValueError(f"{file} is of another run than the {INDEX} beside it: take it out of this folder.")
        found.append(shard)
    batches = _batches([Shard(folder, *shard) for shard in index["shards"]]) | _batches(found)
    return Before(index["run"], tuple(found), batches, index["finished"])


def _batches(shards: Sequence[Shard]) -> dict[int, Batch]:
    return {number: batch for shard in shards for number, batch in shard.batches.items()}


def _run(settings: Mapping[str, Any]) -> str:
    """What tells the shards of these settings from others': not how many batches are to come, which may not be known."""
    told = {name: value for name, value in settings.items() if name not in ("points", "batches")}
    if told["program"] is None:  # no two calls are known to be alike
        told["program"] = uuid.uuid4().hex
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def _shard_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if re.fullmatch(r"shard-\d{8,}\.safetensors", path.name))


def _own_shards(folder: Path, run: str) -> tuple[Shard, ...]:
    """Those of a folder that has lost its index. Raises ValueError if they are not all whole and of this run."""
    found = []
    for path in _shard_files(folder):
        try:
            shard, of = _read_shard(path)
        except ValueError:
            of = None
        if of != run:
            raise ValueError(
                f"{folder} holds shards but no whole {INDEX} that says what they are, and {path.name} is not of this run. "
                "Give another folder, or remove this one to begin again."
            )
        found.append(shard)
    return tuple(found)


def _read_shard(path: Path) -> tuple[Shard, str]:
    """The shard and its run, every array of it checked."""
    record, _ = kept.read_arrays(path)
    if path != shard_path(path.parent, record["first"]):
        raise ValueError(f"{path} holds the batches from {record['first']} on.")
    return Shard(path, record["first"], tuple(record["sizes"]), tuple(record["hashes"])), record["run"]


def finish(folder: Path, before: Before, settings: Mapping[str, Any], written: Sequence[Shard]) -> None:
    """Record in the index that all batches are there. Raises ValueError if some batch is in no shard, or in two."""
    if before.finished and not written:
        return
    shards = sorted([*before.shards, *written], key=lambda shard: shard.first)
    expected = 0
    for shard in shards:
        if shard.first != expected or not shard.path.is_file():
            raise ValueError(
                f"{folder} is not finished: the shard of batch {min(shard.first, expected)} is not there, or its batches "
                "are in another too. Something else writes there; call extract again when it has ended."
            )
        expected += len(shard.sizes)
    _write_index(folder, before.run, plain(settings), shards, finished=True)


def _write_index(
    folder: Path, run: str, settings: Mapping[str, Any], shards: Sequence[Shard], *, finished: bool
) -> None:
    entries = {"finished": finished, "jax": jax.__version__, "run": run, "settings": settings}
    files = [[shard.first, shard.sizes, shard.hashes] for shard in shards]
    with _advice():
        write_file(folder / INDEX, json_of_tables(FORMAT, VERSION, {}, **entries, shards=files))


def open_index(folder: Path) -> dict[str, Any] | None:
    """The index of the folder; None where there is none. Raises ValueError for a file that is none, or not whole."""
    path = folder / INDEX
    try:
        kept.sealed(path)
        return read_tables(path, FORMAT, VERSION, {})[1]
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(
            f"{path} is no index of activations of version {VERSION}, or not whole. ({error}) Give another folder, or call "
            "extract as when it was made."
        ) from error


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs between the settings of two runs, in words. Hashes are only said to differ; None is not known.

    >>> differences({"pool": "cls", "weights": "09a"}, {"pool": "mean", "weights": "1b2"})
    ["pool was 'cls' and is 'mean'", 'weights differ']
    """
    found = []
    for name, now in new.items():
        before = old.get(name)
        if name in ("points", "batches") and None in (before, now):
            continue
        if name == "program" and now is None:
            found.append("the program calls back into Python, and nothing tells whether it is the same")
        elif before != now:
            hidden = name in ("weights", "program", "first batch")
            found.append(
                f"{name} differ{'s' * (name != 'weights')}" if hidden else f"{name} was {before!r} and is {now!r}"
            )
    return found


@contextlib.contextmanager
def _advice() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        what = f"{error} What was finished before is kept: make room, and the same call goes on from there."
        raise type(error)(what) from error
