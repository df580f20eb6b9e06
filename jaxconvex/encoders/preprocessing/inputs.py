"""What all preprocessing shares: what comes out, reading a checkpoint's settings, and errors for items that do not fit."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxconvex.encoders.checkpoints import read_json

__all__ = ["Inputs", "as_array", "as_items", "check_like", "missing", "read", "refuse_others", "whole"]


class Inputs(NamedTuple):
    """What an encoder takes: `encoder.hidden_states(*inputs)`."""

    # images (b, height, width, 3), ids (b, t), samples (b, t), log-mel (b, t, mel), windows (b, t, 3)
    inputs: np.ndarray
    mask: np.ndarray | None  # bool (b, t), True where valid; None where every position is


def read(folder: Path | None, key: str) -> dict[str, Any]:
    """The settings of an image processor or feature extractor, empty if no file has them; `key` is their name if nested."""
    if folder is None:
        return {}
    nested = (read_json(folder / "processor_config.json") or {}).get(key)
    if nested is not None and not isinstance(nested, dict):
        raise ValueError(f"{key} in {folder / 'processor_config.json'} must be an object; got {type(nested).__name__}.")
    return nested or read_json(folder / "preprocessor_config.json") or {}


def refuse_others(settings: dict[str, Any], known: Iterable[str], what: str) -> None:
    """Raise ValueError if a file has settings that are not known here and not switched off."""
    others = {key: value for key, value in settings.items() if key not in known and value not in (None, False)}
    if others:
        raise ValueError(
            f"the {what} of this checkpoint has settings that are not supported and may change its result: "
            f"{', '.join(f'{key}={value!r}' for key, value in others.items())}. Prepare the inputs with the "
            "checkpoint's own library, or remove these settings from its file if they do not matter."
        )


def as_items(items: Any, noun: str) -> list[Any]:
    """The items of a batch as a list. Raises ValueError for a single item, for what is no sequence, and for none at all."""
    if isinstance(items, (str, bytes, dict, Path)) or not isinstance(items, Iterable):
        raise ValueError(
            f"items must be a list with one {noun} each; got {type(items).__name__}. Put a single one in a list."
        )
    batch = list(items)
    if not batch:
        raise ValueError(f"items must hold at least one {noun}; got none.")
    return batch


def as_array(item: Any, i: int) -> np.ndarray:
    """An item as an array. Raises ValueError for what is none, and for a masked array: its mask would be lost."""
    if isinstance(item, np.ma.MaskedArray):
        raise ValueError(f"item {i} is a masked array; fill it or cut it first, and pass its .data.")
    try:
        return np.asarray(item)
    except (RuntimeError, TypeError, ValueError) as error:  # tensors with a gradient or on a device, ragged lists
        raise ValueError(f"item {i} cannot be made an array: {error}") from error


def check_like(said: dict[str, Any], usual: dict[str, Any], what: str) -> None:
    """Raise ValueError if a setting of a file is no bool or number where its usual value is a bool or a float."""
    for key, value in said.items():
        like = usual.get(key)
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        if not (isinstance(value, bool) if isinstance(like, bool) else number or not isinstance(like, float)):
            raise ValueError(f"the {what} of this checkpoint must have {key} like {like!r}; got {value!r:.80}.")


def whole(value: Any, name: str, least: int = 1) -> int:
    """The value as an int. Raises ValueError if it is no whole number or too small."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}; got {value!r}.")
    return int(value)


def missing(library: str) -> ImportError:
    """The error to raise where a library of the extra is missing."""
    return ImportError(f'this needs the library {library}: pip install "jaxconvex[encoders]"')
