"""Checkpoints: folders with config.json and weights in safetensors, on this machine or on the Hugging Face hub."""

from __future__ import annotations

import json
import math
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import EllipsisType
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Stored", "Weights", "find_checkpoint", "open_weights", "read_config", "read_json", "write_checkpoint"]

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.mdl", "*.msgpack", "*.h5")
PIECE = 2**24  # values of a tensor that are read at once
PATTERNS = ["*.json", "*.safetensors", "*.txt"]  # what is fetched from the hub


class Stored(NamedTuple):
    """A tensor in a file."""

    path: Path
    name: str
    shape: tuple[int, ...]
    type: str  # in safetensors' words: F32, BF16, I8, ...

    def read(self, rows: slice | None = None) -> np.ndarray:
        """Its values, or some rows. The file is opened anew, since what was read of a mapped file stays in memory."""
        from safetensors import safe_open

        with safe_open(self.path, framework="numpy") as opened:
            return opened.get_tensor(self.name) if rows is None else opened.get_slice(self.name)[rows]

    def pieces(self) -> Iterator[tuple[slice | EllipsisType, np.ndarray]]:
        """Its values a few rows at a time, with their places: a large tensor never stands in memory twice."""
        rows = max(1, PIECE // max(1, math.prod(self.shape[1:])))
        if not self.shape or self.shape[0] <= rows:
            yield ..., self.read()
            return
        for first in range(0, self.shape[0], rows):
            place = slice(first, min(first + rows, self.shape[0]))
            yield place, self.read(place)


Weights = Mapping[str, Stored]  # by the name in the file


def find_checkpoint(path_or_id: str | Path, revision: str | None = None) -> Path:
    """The folder of a checkpoint: the one named, or one that huggingface_hub fetches, or has fetched before.

    Raises ValueError if there is neither such a folder nor a way to the hub.
    """
    folder = Path(path_or_id).expanduser()
    if folder.is_dir():
        return folder
    name = str(path_or_id)
    if folder.exists():
        raise ValueError(f"{name} is a file; name the folder that holds it, with its config.json.")
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or name.startswith((".", "/")):
        raise ValueError(f"there is no folder {name}, and it is no name of a checkpoint on the hub ('owner/name').")
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"there is no folder {name}; to fetch it from the hub, install its client: pip install 'jaxconvex[encoders]'"
        ) from error
    # Only the weights and texts: a repository may also hold the same weights for other frameworks.
    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=PATTERNS))
    except LocalEntryNotFoundError as error:
        raise ValueError(
            f"there is no folder {name}, and the hub cannot be reached, nor was {name} fetched before. Check the spelling "
            "and the connection; or fetch it on a machine with a connection (hf download "
            f"{name}), copy the folder, and load that."
        ) from error
    except Exception as error:  # not found, gated, refused: huggingface_hub says which
        reason = str(error).strip().splitlines()
        raise ValueError(f"{name} cannot be fetched from the hub: {' '.join(reason[:3])}") from error
    if not any(folder.glob("*.safetensors")):
        raise ValueError(
            f"{name} has no weights in safetensors on the hub, perhaps only a pickle, which is never read. Look among the "
            "pull requests on its page for one that adds model.safetensors, and name it: revision='refs/pr/1'. Or fetch all "
            f"of it (hf download {name} --local-dir {name.split('/')[-1]}) and load that folder: the message then has the "
            "command that converts it."
        )
    return folder


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file, in UTF-8 with a byte-order mark or without; None where there is no such file."""
    if not path.is_file():
        return None
    try:
        entries = json.loads(path.read_bytes().decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON, or not valid JSON ({error}). Fetch the file again.") from error
    if not isinstance(entries, dict):
        raise ValueError(f"{path} must hold a JSON object; got {type(entries).__name__}.")
    return entries


def read_config(folder: Path) -> dict[str, Any] | None:
    """The checkpoint's config.json; None where there is none."""
    if (folder / "adapter_config.json").is_file():
        raise ValueError(
            f"{folder} holds an adapter (adapter_config.json), whose weights are added to those of another checkpoint. "
            "Merge them with peft, merge_and_unload() and save_pretrained(), and load that folder."
        )
    return read_json(folder / "config.json")


def open_weights(folder: Path) -> Weights:
    """The tensors of a checkpoint, from one safetensors file or from shards with an index. Nothing is ever unpickled."""
    try:
        from safetensors import SafetensorError, safe_open
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "to load checkpoints install safetensors: pip install 'jaxconvex[encoders]'"
        ) from error

    weights: dict[str, Stored] = {}
    for shard in _shards(folder):
        try:
            with safe_open(folder / shard, framework="numpy") as opened:
                for name in opened.keys():  # noqa: SIM118
                    if name in weights:
                        raise ValueError(
                            f"{folder} has the tensor {name} in {weights[name].path.name} and in {shard}, and does not say "
                            "which one counts. Fetch the checkpoint again."
                        )
                    piece = opened.get_slice(name)
                    weights[name] = Stored(folder / shard, name, tuple(piece.get_shape()), piece.get_dtype())
        except SafetensorError as error:
            raise ValueError(f"{folder / shard} is no whole safetensors file: {error}. Fetch it again.") from error
    return weights


def _shards(folder: Path) -> list[str]:
    """The names of the files of weights: one, or those that the index names, which lie beside it."""
    if (folder / WEIGHTS).is_file():
        return [WEIGHTS]
    index = read_json(folder / INDEX)
    if index is None:
        files = [path.name for path in sorted(folder.glob("*.safetensors")) if path.is_file()]
        if len(files) != 1:
            _refuse(folder, files)
        return files
    where = index.get("weight_map")
    if not isinstance(where, dict) or not where or not all(isinstance(name, str) for name in where.values()):
        raise ValueError(f"{folder / INDEX} must map each tensor to its file, under weight_map. Fetch it again.")
    shards = sorted(set(where.values()))
    # The hub's cache is made of links, so links are followed; a name alone must not lead elsewhere.
    plain = re.compile(r"[^/\\:]{1,240}\.safetensors")
    outside = [name for name in shards if not plain.fullmatch(name) or not name.isprintable()]
    if outside:
        raise ValueError(
            f"{folder / INDEX} must name safetensors files that lie beside it; it names {outside[0]!r:.80}."
        )
    absent = [name for name in shards if not (folder / name).is_file()]
    if absent:
        raise ValueError(
            f"{folder / INDEX} names {len(shards)} shards; {', '.join(absent[:8])} is missing. Fetch it again."
        )
    return shards


def _refuse(folder: Path, files: list[str]) -> None:
    if files:
        raise ValueError(f"{folder} must hold {WEIGHTS}, or shards with {INDEX}; it holds {', '.join(files)}.")
    pickles = [path.name for pattern in PICKLES for path in sorted(folder.glob(pattern))]
    if not pickles:
        raise ValueError(f"{folder} holds no weights: {WEIGHTS}, or shards with {INDEX}, is expected.")
    raise ValueError(
        f"{folder} has its weights only in {pickles[0]}, a format that can run any code when it is read, so it is never "
        "read. On the hub, look for a branch or pull request with model.safetensors and name it as revision=; or, if you "
        "trust the file, convert it once where torch is installed:\n"
        '  python -c "import torch, safetensors.torch as s; '
        f"w = torch.load('{folder / pickles[0]}', map_location='cpu', weights_only=True); "
        "w = w.get('state_dict', w); "
        f"s.save_file({{k: v.clone().contiguous() for k, v in w.items()}}, '{folder / WEIGHTS}')\""
    )


def write_checkpoint(
    folder: Path, tensors: Mapping[str, np.ndarray], config: Mapping[str, Any], companions: Iterable[Path] = ()
) -> None:
    """Write config.json, model.safetensors and copies of other files; all of them, or on an error none."""
    from safetensors.numpy import save_file

    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; name a folder to save in.")
    there = folder.is_dir()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=folder if there else folder.parent) as unfinished:
        new = Path(unfinished) / "new"
        new.mkdir()
        save_file(
            {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, new / WEIGHTS, {"format": "pt"}
        )
        (new / "config.json").write_text(json.dumps(dict(config), indent=2, sort_keys=True) + "\n", encoding="utf-8")
        for path in companions:
            shutil.copyfile(path, new / path.name)
        if not there:
            new.rename(folder)
            return
        for path in sorted(new.iterdir()):  # a link in the folder is replaced, and what it leads to stays
            path.replace(folder / path.name)
