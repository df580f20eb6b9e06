"""The networks of a study: pretrained with a softmax probe, then fine-tuned once a seed. Each is trained once and kept."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from jaxconvex._internal.formats import write_file
from jaxconvex._internal.functions import weights_hash
from jaxconvex.encoders.encoder import Encoder
from jaxconvex.layers.model_sources import ModelSource, model_source
from jaxconvex.study.domains import Domain
from jaxconvex.study.failures import share_of_last
from jaxconvex.study.material import Material
from jaxconvex.study.pretraining import masked_patches, movement_tasks
from jaxconvex.study.results import NetworkRow
from jaxconvex.study.steps import kept
from jaxconvex.study.training import fine_tune, load_state, logits, probe, save_state, with_classifier

__all__ = ["PENALTY", "Network", "fine_tuned", "layers_of", "pretrained", "probed"]

TAKES: dict[str, Literal["mean", "first"]] = {"mean": "mean", "cls": "first"}
# Of the probe's squared norm. With 0.001 the probe fits its training part nearly without error; there the gradient is noise,
# which Adam makes as large as any, so that the first epochs spoil the network.
PENALTY = 0.03
TRAINING = ("epochs", "patience", "batch_size", "learning_rate")  # what a fine-tuning depends on beside its start
STATE, FACTS, CHECKPOINT = "state.safetensors", "training.json", "checkpoint.safetensors"

Progress = Callable[[str], object]  # told what was done, once an epoch


class Network(NamedTuple):
    """A network of the study, what is known of its training, a hash of its weights, and what it says of the test part."""

    encoder: Encoder
    row: NetworkRow
    identity: str
    epoch_seconds: float  # the fastest epoch of its fine-tuning
    predicted: Int[np.ndarray, " n"]  # the class of each test point, by number


def layers_of(encoder: Encoder, inputs: Any, *, pool: str, folder: Path | None = None) -> ModelSource:
    """The layers of a network at these points, for `evaluate`; with "cls" without the embedding.

    There the first token is the same for all points.
    """
    layers = [f"blocks/{i}" for i in range(len(encoder.blocks))] if pool == "cls" else None
    return model_source(encoder, inputs, layers=layers, pool=pool, batch_size=64, folder=folder)


def pretrained(domain: Domain, material: Material, work: Path, key: jax.Array, progress: Progress) -> Network:
    """The pretrained network, a checkpoint's or pretrained here without labels, with a softmax probe on its last layer."""
    encoder = material.encoder
    if domain.pretraining is not None:
        train: Any = {"masked patches": masked_patches, "movement tasks": movement_tasks}[domain.pretraining]
        settings = {
            "num_epochs": domain.pretraining_epochs,
            "batch_size": domain.batch_size,
            "learning_rate": domain.pretraining_rate,
        }
        if material.unlabelled is None:
            raise ValueError(
                f"{domain.name} is pretrained here by {domain.pretraining}, which needs inputs without labels; its "
                "material has none. Make it with `material.prepare`, or name a checkpoint."
            )
        inputs = material.unlabelled[0]

        def make(folder: Path) -> None:
            began = time.perf_counter()
            trained = train(
                material.encoder,
                inputs,
                key,
                checkpoint=folder / CHECKPOINT,
                progress=lambda *_: progress("pretraining"),
                **settings,
            )
            save_state(trained.model, folder / STATE)
            facts = {"losses": np.asarray(trained.losses).tolist(), "seconds": time.perf_counter() - began}
            _finish(folder, facts)

        identity = [domain.pretraining, settings, material.identity, weights_hash(encoder), _data(key)]
        encoder = load_state(encoder, kept(work, "pretraining", identity, make) / STATE)
    return probed(domain, material, encoder, work)


def probed(domain: Domain, material: Material, encoder: Encoder, work: Path, *, name: str = "probe") -> Network:
    """The network with a linear classifier fitted on the last layer of the training part, all else as it was."""
    take, number = TAKES[domain.pool], len(material.classes)

    def make(folder: Path) -> None:
        began = time.perf_counter()
        classes = jnp.asarray(material.train.classes)
        model = probe(encoder, material.train.inputs, classes, num_classes=number, take=take, penalty=PENALTY)
        save_state(model, folder / STATE)
        facts = _accuracies(model, material) | {"epochs": 0, "best_epoch": 0}
        _finish(folder, facts | {"seconds": time.perf_counter() - began})

    step = kept(work, name, [material.identity, weights_hash(encoder), take, PENALTY], make)
    return _read(with_classifier(encoder, number, take=take), step, "pretrained", None)


def fine_tuned(
    domain: Domain,
    material: Material,
    start: Network,
    seed: int,
    work: Path,
    progress: Progress,
    *,
    name: str = "fine-tuning",
) -> Network:
    """The whole network trained from the probed one, stopped early by the validation part; the seed shuffles."""

    def make(folder: Path) -> None:
        times = [time.perf_counter()]

        def after_epoch(*_: object) -> None:
            times.append(time.perf_counter())
            progress(f"fine-tuning, seed {seed}")

        trained = fine_tune(
            start.encoder,
            material.train.inputs,
            jnp.asarray(material.train.classes),
            material.validation.inputs,
            jnp.asarray(material.validation.classes),
            jax.random.key(seed),
            num_epochs=domain.epochs,
            patience=domain.patience,
            batch_size=domain.batch_size,
            learning_rate=domain.learning_rate,
            checkpoint=folder / CHECKPOINT,
            progress=after_epoch,
        )
        save_state(trained.model, folder / STATE)
        facts = {
            "epochs": len(trained.losses),
            "best_epoch": int(trained.best_epoch),
            "losses": np.asarray(trained.losses).tolist(),
            "validation_losses": np.asarray(trained.validation_losses).tolist(),
            "still_falling": share_of_last(trained.start_loss, trained.validation_losses.tolist(), domain.epochs),
        }
        seconds = {"seconds": times[-1] - times[0], "epoch_seconds": np.diff(times).tolist()}  # the first compiles
        facts |= _accuracies(trained.model, material)
        facts["vanished"] = len(set(start.predicted.tolist()) - set(facts["predicted"]))
        _finish(folder, facts | seconds)

    settings = {field: getattr(domain, field) for field in TRAINING}
    step = kept(work, f"{name}-{seed}", [settings, seed, start.identity, material.identity], make)
    return _read(start.encoder, step, "fine-tuned", seed)


def _accuracies(encoder: Encoder, material: Material) -> dict[str, Any]:
    said = logits(encoder, material.test.inputs).argmax(axis=1)
    of_validation = logits(encoder, material.validation.inputs).astype(np.float64)
    shifted = of_validation - of_validation.max(axis=1, keepdims=True)
    likely = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    loss = -likely[np.arange(len(likely)), material.validation.classes].mean()
    accuracy = float(np.mean(said == material.test.classes))
    return {"accuracy": accuracy, "validation_loss": float(loss), "predicted": said.tolist()}


def _finish(folder: Path, facts: dict[str, Any]) -> None:
    (folder / CHECKPOINT).unlink(missing_ok=True)
    write_file(folder / FACTS, json.dumps(facts, indent=1))  # of which the step keeps the checksum


def _read(template: Encoder, step: Path, name: str, seed: int | None) -> Network:
    encoder = load_state(template, step / STATE)
    facts = json.loads((step / FACTS).read_text(encoding="utf-8"))
    fields = {field: facts[field] for field in NetworkRow._fields if field in facts}
    fastest = min(facts.get("epoch_seconds", []), default=math.nan)
    predicted = np.array(facts["predicted"], np.int32)
    return Network(encoder, NetworkRow(name, seed, **fields), weights_hash(encoder), fastest, predicted)


def _data(key: jax.Array) -> list[int]:
    return np.asarray(jax.random.key_data(key)).tolist()
