"""A folder of activations: an index and shards, each whole or not there, so that a run goes on where it was stopped."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxconvex.formats import require, write_file

__all__ = [
    "INDEX",
    "Shard",
    "differences",
    "find_shards",
    "finish",
    "open_index",
    "read_array",
    "resume",
    "write_shard",
]

INDEX, FORMAT, VERSION = "index.json", "jaxconvex activations", 1


class Shard(NamedTuple):
    """A file with the activations of some batches in a row: the number of the first, and each one's size and hash."""

    path: Path
    first: int
    sizes: tuple[int, ...]
    hashes: tuple[str, ...]


def write_shard(
    folder: Path, first: int, arrays: Mapping[str, np.ndarray], batches: Sequence[tuple[int, str]]
) -> Shard:
    """The shard of the batches (size and hash of each) that begin with number `first`, after it has been written."""
    sizes, hashes = (tuple(part) for part in zip(*batches, strict=True))
    record = {"first": first, "sizes": sizes, "hashes": hashes}
    content = require("safetensors.numpy").save(
        {name: np.ascontiguousarray(array) for name, array in arrays.items()}, {"batches": json.dumps(record)}
    )
    return Shard(_write(folder / f"shard-{first:08d}.safetensors", content), first, sizes, hashes)


def find_shards(folder: Path) -> list[Shard]:
    """The shards that are whole, in order. Files that are not, half written or cut short, are removed."""
    found: list[Shard] = []
    for path in sorted(folder.glob("shard-*.safetensors")):
        shard = _read_shard(path)
        if shard is None:
            path.unlink()
        else:
            found.append(shard)
    for path in folder.glob(".*.part"):
        path.unlink(missing_ok=True)
    return found


def _read_shard(path: Path) -> Shard | None:
    """None for a file that is not whole."""
    try:
        with require("safetensors").safe_open(path, "numpy") as file:
            record = json.loads(file.metadata()["batches"])
    except ModuleNotFoundError:
        raise
    except Exception:  # of several kinds, some of them safetensors' own
        return None
    return Shard(path, record["first"], tuple(record["sizes"]), tuple(record["hashes"]))


def read_array(shards: Sequence[tuple[Path, int]], name: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """One array out of all shards (path and number of points), of which nothing else is read."""
    array = np.empty(shape, dtype)
    start = 0
    for path, points in shards:
        try:
            with require("safetensors").safe_open(path, "numpy") as file:
                array[start : start + points] = file.get_tensor(name)
        except ModuleNotFoundError:
            raise
        except Exception as error:
            raise ValueError(
                f"{path} cannot be read ({error}): it is missing or not whole. Call extract with the same "
                "arguments again: it makes what is missing."
            ) from error
        start += points
    return array


def resume(folder: Path, settings: Mapping[str, Any]) -> tuple[list[Shard], bool]:
    """The shards that are there already, and whether they are all; a new folder is begun.

    Raises ValueError for a folder that was made with other settings.
    """
    index = open_index(folder)
    if index is None:
        _write_index(folder, settings, [], finished=False)
        return [], False
    before = dict(index["settings"])
    if index["jax"] != jax.__version__:  # which may write the same program otherwise
        before["program"] = settings["program"]
    different = differences(before, settings)
    if different:
        raise ValueError(
            f"{folder} holds activations of another run: {'; '.join(different)}. Give another folder, or remove this one "
            "to begin again."
        )
    found = find_shards(folder)
    return found, index["finished"] and [shard.path.name for shard in found] == [name for name, _ in index["shards"]]


def finish(folder: Path, settings: Mapping[str, Any]) -> None:
    """Writes into the index that the shards are all there."""
    _write_index(
        folder, settings, [[shard.path.name, sum(shard.sizes)] for shard in find_shards(folder)], finished=True
    )


def _write_index(folder: Path, settings: Mapping[str, Any], files: Sequence[Any], *, finished: bool) -> None:
    index = {"format": FORMAT, "version": VERSION, "finished": finished, "jax": jax.__version__}
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise type(error)(f"cannot make the folder {folder}: {error.strerror}. Give another.") from error
    _write(folder / INDEX, json.dumps({**index, "settings": settings, "shards": files}, indent=1) + "\n")


def open_index(folder: Path) -> dict[str, Any] | None:
    """The index of the folder; None where there is none. Raises ValueError for a file that is no such index."""
    path = folder / INDEX
    if not path.exists():
        if any(folder.glob("shard-*.safetensors")):
            raise ValueError(f"{folder} holds shards but no {INDEX} that says what they are. Give another folder.")
        return None
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        index = None
    if not isinstance(index, dict) or (index.get("format"), index.get("version")) != (FORMAT, VERSION):
        raise ValueError(f"{path} is no index of activations of version {VERSION}. Give another folder.")
    return index


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
        if before != now:
            hidden = name in ("weights", "program", "first batch")
            found.append(
                f"{name} differ{'s' * (name != 'weights')}" if hidden else f"{name} was {before!r} and is {now!r}"
            )
    return found


def _write(path: Path, content: str | bytes) -> Path:
    try:
        return write_file(path, content)
    except OSError as error:
        what = f"{error} What was finished before is kept: make room, and the same call goes on from there."
        raise type(error)(what) from error
