"""From pictures, texts, sounds and movements to what an encoder takes, as a checkpoint's own files say."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, update_wrapper
from pathlib import Path
from typing import Any

from jaxconvex.encoders.preprocessing.byte_pairs import DECODERS
from jaxconvex.encoders.preprocessing.inputs import Inputs, read

__all__ = ["Inputs", "preprocessor"]

IMAGES = (
    *("vit", "beit", "data2vec-vision", "dinov2", "dinov3_vit", "efficientnet-lite0"),
    *("clip_vision_model", "siglip_vision_model"),
)
TEXTS = (
    *("bert", "roberta", "data2vec-text", "distilbert", "luke", "squeezebert", "modernbert"),
    *("clip_text_model", "siglip_text_model"),
)
WAVEFORMS = ("wav2vec2", "hubert", "data2vec-audio", "wavlm")


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

    >>> import numpy as np
    >>> preprocess = preprocessor(None, "data2vec-audio", {})
    >>> samples, mask = preprocess([np.ones(700), np.ones(900)])
    >>> samples.shape, mask.sum(axis=1).tolist()
    ((2, 900), [700, 900])
    """
    folder = None if folder is None else Path(folder)
    function: Callable[..., Inputs]
    settings: Any
    if model_type in IMAGES:
        from jaxconvex.encoders.preprocessing.images import image_settings, preprocess_images

        function, settings = preprocess_images, image_settings(read(folder, "image_processor"), model_type, config)
    elif model_type in (*TEXTS, *DECODERS):
        from jaxconvex.encoders.preprocessing.text import preprocess_texts, text_settings

        function, settings = preprocess_texts, text_settings(folder, model_type, config)
    elif model_type in WAVEFORMS:
        from jaxconvex.encoders.preprocessing.audio import preprocess_waveforms, waveform_settings

        settings = waveform_settings(read(folder, "feature_extractor"), model_type, config)
        function = preprocess_waveforms
    elif model_type == "whisper":
        from jaxconvex.encoders.preprocessing.audio import log_mel_settings, preprocess_log_mel

        function, settings = preprocess_log_mel, log_mel_settings(read(folder, "feature_extractor"), config)
    elif model_type == "resnet1d":
        from jaxconvex.encoders.preprocessing.signals import preprocess_signals, signal_settings

        function, settings = preprocess_signals, signal_settings(config)
    else:
        return None
    if settings is None:
        return None
    return update_wrapper(partial(function, settings=settings), function)
