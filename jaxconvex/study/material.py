"""From a domain's data to what its network takes: the parts, prepared, with their labels."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Int

from jaxconvex import encoders
from jaxconvex.activations.calls import array_hash
from jaxconvex.encoders.encoder import Encoder
from jaxconvex.encoders.preprocessing import preprocessor
from jaxconvex.study.datasets import Dataset, read_dataset, take
from jaxconvex.study.domains import Domain
from jaxconvex.study.splits import split

__all__ = ["Material", "Part", "prepare"]


class Part(NamedTuple):
    """Some points: what the encoder takes, the class of each by number, and all labelings."""

    inputs: tuple[np.ndarray, ...]  # with the mask where there is one
    classes: Int[np.ndarray, " n"]
    labelings: dict[str, np.ndarray]


class Material(NamedTuple):
    """All that the steps of a study share."""

    train: Part
    validation: Part
    test: Part
    unlabelled: tuple[np.ndarray, ...] | None  # all inputs of the training part, for pretraining
    classes: tuple[str, ...]  # in the order of the logits
    encoder: Encoder  # a checkpoint's, or with random weights
    source: str
    left_out: tuple[str, ...]
    identity: str  # hashes of inputs and labels


def prepare(domain: Domain, key: jax.Array) -> Material:
    """The data of the domain, read, split and preprocessed, and the encoder to begin with.

    Raises ValueError where data or encoder are missing or do not fit, with what to do.
    """
    if domain.data is None:
        raise ValueError(f"the study of {domain.name!r} needs its data: name the folder with --data.")
    split_key, encoder_key = jax.random.split(key)
    encoder, preprocess = _encoder(domain, encoder_key)
    dataset = read_dataset(domain.modality, domain.data)
    choice: dict[str, Any] = {
        "fractions": domain.fractions,
        "classes": domain.classes,
        "balanced": domain.balanced,
        "fewest": domain.fewest,
    }
    parts = split(dataset, split_key, most=(domain.train, domain.validation, domain.test), **choice)
    main = next(iter(dataset.labelings))
    classes, codes = np.unique(dataset.labelings[main][np.concatenate(parts[:3])], return_inverse=True)
    places = np.cumsum([len(rows) for rows in parts[:3]])[:-1]
    made = []
    for rows, numbers in zip(parts[:3], np.split(codes.astype(np.int32), places), strict=True):
        chosen = take(dataset, rows)
        made.append(Part(_inputs(domain, preprocess, chosen), numbers, chosen.labelings))
    unlabelled = None
    if domain.pretraining is not None:
        whole = split(dataset, split_key, **choice)  # the same parts before they are thinned
        rows = whole.train
        if len(rows) > domain.unlabelled:
            rows = np.sort(np.asarray(jax.random.permutation(encoder_key, rows))[: domain.unlabelled])
        unlabelled = _inputs(domain, preprocess, take(dataset, rows))
    arrays = [array for part in made for array in (*part.inputs, part.classes)] + list(unlabelled or ())
    names = tuple(str(name) for name in classes)
    said = [names, *({name: values.tolist() for name, values in part.labelings.items()} for part in made)]
    hashes = [*map(array_hash, arrays), hashlib.sha256(json.dumps(said).encode()).hexdigest()]
    identity = "-".join(digest[:12] for digest in hashes)
    train, validation, test = made
    return Material(train, validation, test, unlabelled, names, encoder, dataset.source, parts.left_out, identity)


def _encoder(domain: Domain, key: jax.Array) -> tuple[Encoder, Callable[..., Any]]:
    from flax import nnx

    if domain.encoder is not None:
        family = domain.family if _lacks_config(domain.encoder) else None
        encoder, preprocess = encoders.load(domain.encoder, family)
    elif domain.pretraining is not None and domain.configuration is not None:
        encoder = encoders.initialise(domain.configuration, rngs=nnx.Rngs(key))
        preprocess = preprocessor(None, domain.configuration["model_type"], encoder.config)
    else:
        raise ValueError(f"the study of {domain.name!r} needs a pretrained network: name its folder with --encoder.")
    if preprocess is None:
        raise ValueError(
            f"nothing tells how to prepare inputs for {domain.encoder or domain.configuration}; add the files of its "
            "preprocessing (preprocessor_config.json or tokenizer.json) to the folder."
        )
    return encoder, preprocess


def _options(domain: Domain, preprocess: Callable[..., Any]) -> dict[str, Any]:
    """The domain's options; "seconds" of a recording in the terms of the encoder's family."""
    options = dict(domain.options)
    seconds = options.pop("seconds", None)
    if seconds is None:
        return options
    log_mel = getattr(preprocess, "__name__", "") == "preprocess_log_mel"
    return options | (
        {"frames": round(100 * seconds), "mask": True} if log_mel else {"length": round(16_000 * seconds)}
    )


def _lacks_config(path: str) -> bool:
    from pathlib import Path

    return Path(path).is_dir() and not (Path(path) / "config.json").is_file()


def _inputs(domain: Domain, preprocess: Callable[..., Any], dataset: Dataset) -> tuple[np.ndarray, ...]:
    made = preprocess(dataset.inputs, **dataset.options, **_options(domain, preprocess))
    if len(made.inputs) != len(dataset.inputs):
        raise ValueError(
            f"preprocessing made {len(made.inputs)} inputs of {len(dataset.inputs)} points of {domain.name!r}; they must "
            "be as many. Cut recordings into windows of the encoder's length before."
        )
    return tuple(array for array in made if array is not None)
