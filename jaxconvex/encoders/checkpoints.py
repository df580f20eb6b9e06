"""Checkpoints: folders with config.json and weights in safetensors, on this machine or on the Hugging Face hub."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Weights", "find_checkpoint", "open_weights", "read_config", "write_checkpoint"]

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.mdl", "*.msgpack", "*.h5")
PATTERNS = ["*.json", "*.safetensors", "*.txt"]  # what is fetched from the hub


class Weights(NamedTuple):
    """Where each tensor of a checkpoint lies, and its shape, by the name in the file."""

    files: Mapping[str, Path]
    shapes: Mapping[str, tuple[int, ...]]

    def read(self) -> Iterator[tuple[str, np.ndarray]]:
        """Every tensor by name, one after another, so that a file is never held whole."""
        from safetensors import safe_open

        for name, path in self.files.items():
            with safe_open(
                path, framework="numpy"
            ) as opened:  # anew, since what was read of a mapped file stays in memory
                tensor = opened.get_tensor(name)
            yield name, tensor


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


def read_config(folder: Path) -> dict[str, Any] | None:
    """The checkpoint's config.json; None where there is none."""
    path = folder / "config.json"
    if not path.exists():
        return None
    try:
        config = json.loads(path.read_text())
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not JSON: {error}. Was it written to the end?") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} must hold an object; it holds {type(config).__name__}.")
    return config


def open_weights(folder: Path) -> Weights:
    """The tensors of a checkpoint, from one safetensors file or from shards with an index. Nothing is ever unpickled."""
    try:
        from safetensors import SafetensorError, safe_open
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "to load checkpoints install safetensors: pip install 'jaxconvex[encoders]'"
        ) from error

    if (folder / INDEX).exists() and not (folder / WEIGHTS).exists():
        wanted = json.loads((folder / INDEX).read_text())["weight_map"]
        shards = sorted(set(wanted.values()))
        absent = [shard for shard in shards if not (folder / shard).exists()]
        if absent:
            raise ValueError(
                f"{folder / INDEX} names {len(shards)} shards; {', '.join(absent)} is missing. Fetch it again."
            )
    else:
        found = sorted(folder.glob("*.safetensors"))
        shards = [WEIGHTS] if (folder / WEIGHTS).exists() else [path.name for path in found]
        if len(shards) != 1:
            _refuse(folder, shards)
    files: dict[str, Path] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for shard in shards:
        try:
            with safe_open(folder / shard, framework="numpy") as opened:
                for name in opened.keys():  # noqa: SIM118
                    files[name] = folder / shard
                    shapes[name] = tuple(opened.get_slice(name).get_shape())
        except SafetensorError as error:
            raise ValueError(f"{folder / shard} is no whole safetensors file: {error}. Fetch it again.") from error
    return Weights(files, shapes)


def _refuse(folder: Path, found: list[str]) -> None:
    if found:
        raise ValueError(f"{folder} must hold {WEIGHTS}, or shards with {INDEX}; it holds {', '.join(found)}.")
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


def write_checkpoint(folder: Path, tensors: Mapping[str, np.ndarray], config: Mapping[str, Any]) -> None:
    """Writes config.json and model.safetensors, each whole or not at all."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f".{WEIGHTS}.unfinished"
    save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, unfinished, {"format": "pt"})
    unfinished.replace(folder / WEIGHTS)
    unfinished = folder / ".config.json.unfinished"
    unfinished.write_text(json.dumps(dict(config), indent=2, sort_keys=True) + "\n")
    unfinished.replace(folder / "config.json")
