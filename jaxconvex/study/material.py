"""From a domain's data to what its network takes: the parts, prepared, with their labels."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Int

from jaxconvex import encoders
from jaxconvex._internal.kept import array_hash
from jaxconvex.encoders.checkpoints import read_config
from jaxconvex.encoders.encoder import Encoder
from jaxconvex.encoders.loading import WHOLES
from jaxconvex.encoders.preprocessing import preprocessor
from jaxconvex.evaluation.report import FEWEST_UNITS
from jaxconvex.study.datasets import Dataset, read_dataset, take
from jaxconvex.study.domains import Domain
from jaxconvex.study.lengths import fitted
from jaxconvex.study.splits import split

__all__ = ["Material", "Part", "prepare"]


class Part(NamedTuple):
    """Some points: what the encoder takes, the class of each by number, and all labelings."""

    inputs: tuple[np.ndarray, ...]  # with the mask where there is one
    classes: Int[np.ndarray, " n"]
    labelings: dict[str, np.ndarray]
    groups: np.ndarray | None = None  # the speaker, volunteer, text, ... that each is of


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
    options: dict[str, Any]  # of preprocessing
    notes: tuple[str, ...]  # what was not read, left out, cut or scaled, copies and groups, in sentences
    shown: Dataset | None = None  # the test part as it was read, to look at


def prepare(domain: Domain, key: jax.Array) -> Material:
    """The data of the domain, read, split and preprocessed, and the encoder to begin with.

    Raises ValueError where data or encoder are missing or do not fit, with what to do.
    """
    if domain.data is None:
        raise ValueError(f"the study of {domain.name!r} needs its data: name the folder with --data.")
    split_key, encoder_key = jax.random.split(key)
    encoder, preprocess = _encoder(domain, encoder_key)
    dataset = read_dataset(domain.modality, domain.data)
    main = next(iter(dataset.labelings))
    notes = [*dataset.notes]
    number = len(np.unique(dataset.labelings[main]))
    chosen_classes = domain.classes
    if isinstance(chosen_classes, int) and chosen_classes > number:
        notes.append(f"The data have {number} classes, fewer than the {chosen_classes} asked for; all are taken.")
        chosen_classes = None
    choice: dict[str, Any] = {
        "fractions": domain.fractions,
        "classes": chosen_classes,
        "balanced": domain.balanced,
        "fewest": domain.fewest,
    }
    parts = split(dataset, split_key, most=(domain.train, domain.validation, domain.test), **choice)
    taken = [take(dataset, rows) for rows in parts[:3]]
    options, cut = fitted(dict(domain.options), preprocess, encoder.config, taken[0], taken)
    notes += [*parts.notes, *cut]
    groups = taken[2].groups
    if groups is not None and (held := len(np.unique(groups))) < FEWEST_UNITS:
        notes.append(
            f"The test part has {held} groups; with fewer than {FEWEST_UNITS} no interval can be told, and none is shown."
        )
    classes, codes = np.unique(dataset.labelings[main][np.concatenate(parts[:3])], return_inverse=True)
    places = np.cumsum([len(rows) for rows in parts[:3]])[:-1]
    prepared = []
    for chosen, numbers in zip(taken, np.split(codes.astype(np.int32), places), strict=True):
        prepared.append(Part(_inputs(domain, preprocess, options, chosen), numbers, chosen.labelings, chosen.groups))
    unlabelled = None
    if domain.pretraining is not None:
        whole = split(dataset, split_key, **choice)  # the same parts before they are thinned
        rows = whole.train
        if len(rows) > domain.unlabelled:
            rows = np.sort(np.asarray(jax.random.permutation(encoder_key, rows))[: domain.unlabelled])
        unlabelled = _inputs(domain, preprocess, options, take(dataset, rows))
    arrays = [array for part in prepared for array in (*part.inputs, part.classes)] + list(unlabelled or ())
    names = tuple(str(name) for name in classes)
    said: list[Any] = [
        names,
        *({name: values.tolist() for name, values in part.labelings.items()} for part in prepared),
    ]
    said += [None if part.groups is None else part.groups.tolist() for part in prepared]
    hashes = [*map(array_hash, arrays), hashlib.sha256(json.dumps(said).encode()).hexdigest()]
    identity = "-".join(digest[:12] for digest in hashes)
    train, validation, test = prepared
    shared = (encoder, dataset.source, parts.left_out, identity, options, tuple(notes), taken[2])
    return Material(train, validation, test, unlabelled, names, *shared)


def _encoder(domain: Domain, key: jax.Array) -> tuple[Encoder, Callable[..., Any]]:
    from flax import nnx

    if domain.encoder is not None:
        encoder, preprocess = encoders.load(domain.encoder, _family(domain))
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


def _family(domain: Domain) -> str | None:
    """The domain's family where the checkpoint's files do not tell it: without config.json, or of a network of two parts."""
    folder = Path(domain.encoder or "")
    if not folder.is_dir():
        return None
    config = read_config(folder)
    told = config is not None and domain.family not in WHOLES.get(config.get("model_type", ""), ())
    return None if told else domain.family


def _inputs(
    domain: Domain, preprocess: Callable[..., Any], options: dict[str, Any], dataset: Dataset
) -> tuple[np.ndarray, ...]:
    result = preprocess(dataset.inputs, **dataset.options, **options)
    if len(result.inputs) != len(dataset.inputs):
        raise ValueError(
            f"preprocessing made {len(result.inputs)} inputs of {len(dataset.inputs)} points of {domain.name!r}; they must "
            "be as many. Cut recordings into windows of the encoder's length before."
        )
    return tuple(array for array in result if array is not None)
