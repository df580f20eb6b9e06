"""How long the inputs of an encoder are: as the data say, or as an option does; and what is cut or scaled for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxconvex.study.datasets import Dataset

__all__ = ["QUANTILE", "fitted"]

QUANTILE = 0.95  # of the lengths of the training part: what is longer is cut
RATE, FRAMES = 16_000, 100  # samples and frames a second that speech encoders take
TOKENS = 8  # token counts are rounded up to a multiple of it


def fitted(
    options: dict[str, Any],
    preprocess: Callable[..., Any],
    config: dict[str, Any],
    train: Dataset,
    parts: Sequence[Dataset],
) -> tuple[dict[str, Any], list[str]]:
    """The options of preprocessing with the length that inputs get, and sentences on what is cut, filled up or scaled.

    Args:
        options: of the domain: "seconds" of recordings, "max_length" tokens of texts, "size" of pictures. Without one,
            recordings and texts are as long as the `QUANTILE` of the training part, or as the encoder takes at most.
        preprocess: of the encoder; config: the encoder's.
        train: the points that decide; parts: all that are prepared.
    """
    kind = getattr(preprocess, "__name__", "")
    every = [item for part in parts for item in part.inputs]
    if kind in ("preprocess_waveforms", "preprocess_log_mel"):
        return _of_recordings(options, preprocess, kind, train, every)
    if kind == "preprocess_texts":
        return _of_texts(options, preprocess, train, every)
    if kind == "preprocess_images":
        return _of_pictures(options, preprocess, config, every)
    return dict(options), []


def _of_recordings(
    options: dict[str, Any], preprocess: Any, kind: str, train: Dataset, every: Sequence[Any]
) -> tuple[dict[str, Any], list[str]]:
    rate = train.options.get("rate", RATE)
    lengths = np.array([len(clip) for clip in every]) / rate
    own = np.array([len(clip) for clip in train.inputs]) / rate
    left = {name: value for name, value in options.items() if name != "seconds"}
    log_mel = kind == "preprocess_log_mel"
    most = preprocess.keywords["settings"].frames / FRAMES if log_mel else math.inf
    seconds, why = _chosen(options.get("seconds"), math.ceil(100 * float(np.quantile(own, QUANTILE))) / 100, most)
    said = f"Recordings are cut or filled up to {seconds:g} s{why}: {_lost(lengths, seconds, 'sound')}"
    length_options = {"frames": round(FRAMES * seconds), "mask": True} if log_mel else {"length": round(RATE * seconds)}
    return left | length_options, [said]


def _of_texts(
    options: dict[str, Any], preprocess: Any, train: Dataset, every: Sequence[str]
) -> tuple[dict[str, Any], list[str]]:
    settings = preprocess.keywords["settings"]

    def counts(texts: Sequence[Any] | np.ndarray) -> np.ndarray:
        return np.array(
            [len(encoding.ids) for encoding in settings.tokenizer.encode_batch([str(text) for text in texts])]
        )

    most = settings.most or math.inf
    usual = TOKENS * math.ceil(float(np.quantile(counts(train.inputs), QUANTILE)) / TOKENS)
    asked = [options[name] for name in ("length", "max_length") if name in options]
    tokens, why = _chosen(min(asked, default=None), usual, most)
    said = f"Texts are cut at {tokens:g} tokens{why}: {_lost(counts(every), tokens, 'their tokens')}"
    return {"length": int(tokens), "max_length": int(tokens)} | dict(options), [said]


def _of_pictures(
    options: dict[str, Any], preprocess: Any, config: dict[str, Any], every: Sequence[Any]
) -> tuple[dict[str, Any], list[str]]:
    chosen = dict(options)
    if config.get("model_type") != "efficientnet-lite0":  # a transformer's positions are for one size
        chosen.pop("size", None)
    shape = preprocess(every[:1], **chosen).inputs.shape[1:3]
    sizes = np.array([np.shape(picture)[:2] for picture in every])
    scaled = int(np.sum(np.any(sizes != shape, axis=1)))
    if not scaled:
        return chosen, []
    low, high = (find(sizes, axis=0) for find in (np.min, np.max))
    spread = f"{low[0]}x{low[1]}" + (f" to {high[0]}x{high[1]}" if np.any(low != high) else "")
    to = f"{shape[0]}x{shape[1]}"
    return chosen, [f"{scaled:,} of {len(every):,} pictures were scaled or cropped to {to} pixels (from {spread})."]


def _chosen(asked: float | None, usual: float, most: float) -> tuple[float, str]:
    """The length, and in words where it is from."""
    if asked is not None:
        return asked, ""
    if usual > most:
        return most, ", the most that the encoder takes"
    return usual, f", the {100 * QUANTILE:.0f} percent quantile of the training part"


def _lost(lengths: Float[np.ndarray, " n"], kept: float, what: str) -> str:
    longer = int(np.sum(lengths > kept))
    if not longer:
        return "none is longer."
    share = float(np.sum(np.maximum(lengths - kept, 0)) / np.sum(lengths))
    part = f"{longer:,} of {len(lengths):,} ({100 * longer / len(lengths):.1f} percent)"
    return f"{part} are longer and were cut, {100 * share:.1f} percent of all {what}."
