"""What all preprocessing shares: what comes out, reading a checkpoint's settings, and errors for items that do not fit."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxconvex.encoders.checkpoints import read_json

__all__ = ["Inputs", "as_items", "missing", "read", "refuse_others", "whole"]


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
    """Raises ValueError if a file has settings that are not known here and not switched off."""
    others = {key: value for key, value in settings.items() if key not in known and value not in (None, False)}
    if others:
        raise ValueError(
            f"the {what} of this checkpoint has settings that are not supported and may change its result: "
            f"{', '.join(f'{key}={value!r}' for key, value in others.items())}. Prepare the inputs with the "
            "checkpoint's own library, or remove these settings from its file if they do not matter."
        )


def as_items(items: Any, one: str) -> list[Any]:
    """The items of a batch as a list. Raises ValueError for a single item, for what is no sequence, and for none at all."""
    if isinstance(items, (str, bytes, dict, Path)) or not isinstance(items, Iterable):
        raise ValueError(
            f"items must be a list with one {one} each; got {type(items).__name__}. Put a single one in a list."
        )
    found = list(items)
    if not found:
        raise ValueError(f"items must hold at least one {one}; got none.")
    return found


def whole(value: Any, name: str, least: int = 1) -> int:
    """The value as an int. Raises ValueError if it is no whole number or too small."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}; got {value!r}.")
    return int(value)


def missing(library: str) -> ImportError:
    """The error to raise where a library of the extra is missing."""
    return ImportError(f'this needs the library {library}: pip install "jaxconvex[encoders]"')
