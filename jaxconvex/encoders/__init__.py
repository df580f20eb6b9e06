"""Pretrained encoders in Flax NNX that load Hugging Face checkpoints: text, images, speech, human activity.

>>> from jaxconvex import encoders
>>> encoder, preprocess = encoders.load("facebook/data2vec-vision-base")  # doctest: +SKIP
>>> states = encoder.hidden_states(*preprocess(images))  # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxconvex.encoders.decoders import next_token_head
    from jaxconvex.encoders.encoder import Encoder
    from jaxconvex.encoders.loading import families, initialise, load, save

__all__ = ["Encoder", "families", "initialise", "load", "next_token_head", "save"]

_HOMES = {"Encoder": "encoder", "next_token_head": "decoders"}
_HOMES |= dict.fromkeys(("families", "initialise", "load", "save"), "loading")


def __getattr__(name: str) -> Any:
    """The public name, after importing its module."""
    if name not in _HOMES:
        raise AttributeError(f"module 'jaxconvex.encoders' has no attribute {name!r}")
    return getattr(importlib.import_module(f"jaxconvex.encoders.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
