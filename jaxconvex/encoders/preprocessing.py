"""From pictures, texts, sounds and movements to what an encoder takes, as a checkpoint's own files say."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from functools import partial, update_wrapper
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Inputs", "preprocessor"]

IMAGES = ("vit", "beit", "data2vec-vision", "dinov2", "efficientnet-lite0")
TEXTS = ("bert", "roberta", "data2vec-text", "distilbert", "luke", "squeezebert")
WAVEFORMS = ("wav2vec2", "hubert", "data2vec-audio", "wavlm")


class Inputs(NamedTuple):
    """What an encoder takes: `encoder.hidden_states(*inputs)`."""

    inputs: (
        np.ndarray
    )  # images (b, height, width, 3), ids (b, t), samples (b, t), log-mel (b, t, mel), windows (b, t, 3)
    mask: np.ndarray | None  # bool (b, t), True where valid; None where every position is


def preprocessor(folder: Path | str | None, model_type: str, config: dict[str, Any]) -> Callable[..., Inputs] | None:
    """The function from raw items to an encoder's `Inputs`, `preprocess(items, **options)`, or None if nothing tells it.

    Args:
        folder: a checkpoint's folder. Read are preprocessor_config.json or processor_config.json (images, audio), and
            tokenizer.json, or vocab.txt, or vocab.json and merges.txt, with tokenizer_config.json (text).
        model_type: the family, as config.json's "model_type" says, or "efficientnet-lite0" or "resnet1d".
        config: the checkpoint's config.json.

    Where a file lacks, the family's documented defaults hold; a tokenizer has none, so that a text model without its files
    gives None, as does an unknown family. The options are those of `images.preprocess_images`, `text.preprocess_texts`,
    `audio.preprocess_waveforms`, `audio.preprocess_log_mel` and `signals.preprocess_signals`.

    Raises:
        ValueError: a file has a setting that would change the result and that is not supported here.
        ImportError: a library is missing; the message names the extra to install.

    >>> preprocess = preprocessor(None, "data2vec-audio", {})
    >>> samples, mask = preprocess([np.ones(700), np.ones(900)])
    >>> samples.shape, mask.sum(axis=1).tolist()
    ((2, 900), [700, 900])
    """
    folder = None if folder is None else Path(folder)
    function: Callable[..., Inputs]
    settings: Any
    if model_type in IMAGES:
        from jaxconvex.encoders.images import image_settings, preprocess_images

        function, settings = preprocess_images, image_settings(read(folder, "image_processor"), model_type, config)
    elif model_type in TEXTS:
        from jaxconvex.encoders.text import preprocess_texts, text_settings

        function, settings = preprocess_texts, text_settings(folder, model_type, config)
    elif model_type in WAVEFORMS:
        from jaxconvex.encoders.audio import preprocess_waveforms, waveform_settings

        settings = waveform_settings(read(folder, "feature_extractor"), model_type, config)
        function = preprocess_waveforms
    elif model_type == "whisper":
        from jaxconvex.encoders.audio import log_mel_settings, preprocess_log_mel

        function, settings = preprocess_log_mel, log_mel_settings(read(folder, "feature_extractor"), config)
    elif model_type == "resnet1d":
        from jaxconvex.encoders.signals import preprocess_signals, signal_settings

        function, settings = preprocess_signals, signal_settings(config)
    else:
        return None
    if settings is None:
        return None
    return update_wrapper(partial(function, settings=settings), function)


def read(folder: Path | None, key: str) -> dict[str, Any]:
    """The settings of an image processor or feature extractor, empty if no file has them; `key` is their name if nested."""
    nested = read_json(folder, "processor_config.json").get(key)
    return nested or read_json(folder, "preprocessor_config.json")


def read_json(folder: Path | None, name: str) -> dict[str, Any]:
    """The object in a JSON file, empty if there is no such file."""
    if folder is None or not (folder / name).is_file():
        return {}
    try:
        found = json.loads((folder / name).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{folder / name} is not valid JSON ({error}). Download the file again.") from error
    if not isinstance(found, dict):
        raise ValueError(f"{folder / name} must hold a JSON object; got {type(found).__name__}.")
    return found


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
