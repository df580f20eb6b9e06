"""The experiment of one domain: train, measure every layer before and after fine-tuning, and gather what was found."""

from __future__ import annotations

import datetime
import io
import platform
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from jaxconvex.activations.extraction import Activations, read_activations
from jaxconvex.activations.model_sources import model_source, pooled_features
from jaxconvex.evaluation import evaluate
from jaxconvex.formats import write_file
from jaxconvex.kept import lock
from jaxconvex.messages import say
from jaxconvex.report import FEWEST_UNITS, Report, read_report, select
from jaxconvex.study.analyses.measures import simple_measures
from jaxconvex.study.analyses.robustness import reparametrizations
from jaxconvex.study.analyses.sensitivity import sensitivity
from jaxconvex.study.domains import Domain
from jaxconvex.study.failures import sound
from jaxconvex.study.gathering import changes, classes, labels_of, scores
from jaxconvex.study.material import Material, Part, prepare
from jaxconvex.study.networks import Network, fine_tuned, network_name, pretrained
from jaxconvex.study.pruning import pruned
from jaxconvex.study.results import PREDICTED, MeasureRow, Study, VariantRow, write_study
from jaxconvex.study.steps import kept, kept_rows

__all__ = ["WORK", "run_study"]

WORK = "work"
SEGMENTS_OF_PAPER = 5000


def run_study(domain: Domain, out: str | Path, *, seed: int = 0, progress: bool = True) -> Study:
    """What a domain's networks show: convexity of all layers before and after fine-tuning, and what it tells.

    The data are split so that no speaker, volunteer or image of origin is in two parts. A softmax probe is fitted on the
    last layer of the pretrained network; then the whole is fine-tuned, once a seed. Every layer of every network is scored
    on the test part, by the classes that the network predicts and by the labels of the data: graph convexity of pooled
    features, Euclidean convexity of whole activations through the rest of the network.

    Args:
        domain: data, network and sizes; see `study.domains`.
        out: the folder of the results, study.json and the reports of the networks; `work` in it keeps all steps. A call
            that was stopped goes on there and ends with the same numbers.
        seed: of the split, the pretraining, the pairs drawn, the jackknife's groups and the permutations. Fine-tuning s
            is shuffled with the seed s.
        progress: a bar on stderr.

    Raises:
        ValueError: data or encoder are missing or do not fit, with what to do. BlockingIOError: another process works on
            this study, with its number and host.

    Source: Tětková et al., "On convex decision regions in deep network representations", Nature Communications 2025.
    """
    began = time.perf_counter()
    folder, work = Path(out), Path(out) / WORK
    keys = jax.random.split(jax.random.key(seed), 4)
    say = _say if progress else _say_nothing
    say(f"{domain.title}: reading {domain.data} ...")
    material = prepare(domain, keys[0])
    say(f"  {material.source} {_sizes(material)}")
    for note in material.notes:
        say(f"  {note}")
    total = _work(domain, material)
    work.mkdir(parents=True, exist_ok=True)
    with lock(work), tqdm(total=total, desc=domain.name, disable=not progress, bar_format=BAR, leave=False) as bar:

        def done(what: str, units: float = 1) -> None:
            bar.set_description_str(f"{domain.name}, done: {what}", refresh=False)
            bar.update(min(units, bar.total - bar.n))

        before = pretrained(domain, material, work, keys[1], done)
        after = [fine_tuned(domain, material, before, s, work, done) for s in range(domain.seeds)]
        networks = [before, *after]
        fine = sound([network.row for network in networks], len(material.classes))
        names = np.array(material.classes)
        # Pretrained layers by the labels of the fine-tuned networks: how much of the change is one of labels.
        relabelled = {labels_of(network.row.seed or 0): names[network.predicted] for network in after}
        scored = []
        for network in networks:
            labels = material.test.labelings | (relabelled if network is before else {})
            scored.append(_score(domain, material, network, labels, folder, keys[2]))
            done(f"scores, {network_name(network.row)}", SCORING)
        reports = [report for report, _ in scored]
        variants: list[VariantRow] = []
        measures: list[MeasureRow] = []
        # Other ways of measuring: of the pretrained network and the first fine-tuned one that did not fail.
        compared = [0, *(1 + seed for seed, good in enumerate(fine) if good)][:2]
        for network, (_, features) in ((networks[number], scored[number]) for number in compared):
            if domain.variants:
                variants += _variants(domain, material, network, features, work, keys[3])
            measures += _measures(domain, material, network, features, work)
            done(f"variants, {network_name(network.row)}", SCORING)
        cut = pruned(domain, material, networks, reports[0], work, done) if domain.pruning else []
    study = Study(
        domain=_described(domain, material, reports[0]),
        settings=_settings(domain, material, seed),
        notes=_notes(domain, material),
        provenance=_provenance(began, material),
        networks=tuple(network.row for network in networks),
        scores=tuple(
            row for network, report in zip(networks, reports, strict=True) for row in scores(network.row, report)
        ),
        changes=tuple(changes(reports[0], reports[1:], fine)),
        classes=tuple(classes(reports[0], reports[1:], next(iter(material.test.labelings)), fine)),
        variants=tuple(variants),
        measures=tuple(measures),
        pruning=tuple(cut),
    )
    write_study(study, folder)
    return study


BAR = "{desc} {percentage:3.0f}%|{bar}| {elapsed}, about {remaining} left"
SCORING = 3.0  # units of the bar: epochs of fine-tuning


def _work(domain: Domain, material: Material) -> float:
    """The work in units of an epoch of fine-tuning, roughly."""
    epochs = domain.seeds * domain.epochs + (domain.pretraining_epochs if domain.pretraining else 0)
    return epochs * (2 if domain.pruning else 1) + SCORING * (3 + domain.seeds)


# Measuring ------------------------------------------------------------------------------------------------------------


def _source(domain: Domain, part: Part, network: Network, folder: Path | None) -> Any:
    layers = None
    if domain.pool == "cls":  # at the embedding the first token is the same for all points
        layers = [f"blocks/{i}" for i in range(len(network.encoder.blocks))]
    return model_source(network.encoder, part.inputs, layers=layers, pool=domain.pool, batch_size=64, folder=folder)


def _score(
    domain: Domain,
    material: Material,
    network: Network,
    labels: dict[str, np.ndarray],
    folder: Path,
    key: jax.Array,
) -> tuple[Report, Activations]:
    """The report of a network by these labels and its own, and its pooled features and logits of the test part."""
    name = network_name(network.row)
    settings: dict[str, Any] = {"permutations": domain.permutations, "jackknife": True, "protocol": domain.protocol}
    if domain.protocol is None:
        settings |= {"k": domain.k, "max_segments": domain.segments, "metric": domain.metric}
    identity = [
        network.identity,
        material.identity,
        domain.pool,
        settings,
        {labeling: values.tolist() for labeling, values in labels.items() if labeling not in material.test.labelings},
        np.asarray(jax.random.key_data(key)).tolist(),
    ]

    def make(place: Path) -> None:
        report = evaluate(
            _source(domain, material.test, network, place / "features"),
            labels,
            predictions="model",
            groups=material.test.groups,
            classes=material.classes,
            key=key,
            cache=place / "layers",
            progress=False,
            **settings,
        )
        report.to_json(place / "scores.json")

    place = kept(folder / WORK, f"scores-{name}", identity, make)
    report, features = read_report(place / "scores.json"), read_activations(place / "features")
    (folder / name).mkdir(parents=True, exist_ok=True)
    report.to_json(folder / name / "scores.json")
    report.to_csv(folder / name / "scores.csv")
    content = io.BytesIO()
    predicted: Any = {PREDICTED: _predicted(material, features)}
    np.savez_compressed(content, **predicted, **labels)  # type: ignore
    write_file(folder / name / "labels.npz", content.getvalue())
    return report, features


def _predicted(material: Material, features: Activations) -> np.ndarray:
    return np.array(material.classes)[np.asarray(features.outputs).argmax(axis=1)]


def _variants(
    domain: Domain, material: Material, network: Network, features: Activations, work: Path, key: jax.Array
) -> list[VariantRow]:
    main = next(iter(material.test.labelings))
    labelings = {PREDICTED: _predicted(material, features), main: material.test.labelings[main]}
    which: dict[str, Any] = {"network": network.row.network, "seed": network.row.seed, "key": key, "k": domain.k}
    which["metric"] = domain.metric

    def make() -> list[VariantRow]:
        layers = {name: np.asarray(layer) for name, layer in features.items()}
        return [*reparametrizations(layers, labelings, **which), *sensitivity(layers, labelings, **which)]

    identity = [
        network.identity,
        material.identity,
        domain.pool,
        domain.k,
        domain.metric,
        np.asarray(jax.random.key_data(key)).tolist(),
    ]
    return kept_rows(work, f"variants-{network_name(network.row)}", identity, VariantRow, make)


def _measures(domain: Domain, material: Material, network: Network, test: Activations, work: Path) -> list[MeasureRow]:
    def make() -> list[MeasureRow]:
        rows = np.arange(len(material.train.classes))
        train = pooled_features(_source(domain, material.train, network, None), rows, progress=False)
        return simple_measures(
            {name: np.asarray(layer) for name, layer in train.items()},
            np.array(material.classes)[material.train.classes],
            {name: np.asarray(layer) for name, layer in test.items()},
            np.array(material.classes)[material.test.classes],
            network=network.row.network,
            seed=network.row.seed,
            k=domain.k,
        )

    identity = [network.identity, material.identity, domain.pool, domain.k]
    return kept_rows(work, f"measures-{network_name(network.row)}", identity, MeasureRow, make)


# Describing -----------------------------------------------------------------------------------------------------------


def _described(domain: Domain, material: Material, report: Report) -> dict[str, Any]:
    config = material.encoder.config
    what = domain.encoder or f"{config['model_type']}, pretrained here by {domain.pretraining}"
    return {
        "name": domain.name,
        "title": domain.title,
        "modality": domain.modality,
        "source": material.source,
        "encoder": f"{Path(what).name if domain.encoder else what} ({len(material.encoder.blocks)} blocks)",
        "layers": list(dict.fromkeys(row.layer for row in select(report))),
        "labelings": list(material.test.labelings),
        "classes": list(material.classes),
        "pool": domain.pool,
        "parts": {name: len(getattr(material, name).classes) for name in ("train", "validation", "test")},
    }


def _settings(domain: Domain, material: Material, seed: int) -> dict[str, Any]:
    left = ("name", "title", "modality", "data", "encoder", "classes", "configuration", "options")
    kept = {field: value for field, value in domain._asdict().items() if field not in left}
    return kept | {"options": material.options, "seed": seed}


def _notes(domain: Domain, material: Material) -> tuple[str, ...]:
    notes = [*material.notes]
    for name in ("train", "validation", "test"):
        most, number = getattr(domain, name), len(getattr(material, name).classes)
        if most is not None and number > 0.95 * most:
            notes.append(f"The {name} part was thinned to {number} points.")
    if material.left_out:
        shown = ", ".join(material.left_out[:6]) + (", ..." if len(material.left_out) > 6 else "")
        notes.append(f"{len(material.left_out)} classes were left out ({shown}).")
    if material.test.groups is not None and (number := len(np.unique(material.test.groups))) < FEWEST_UNITS:
        notes.append(
            f"The test part has {number} groups; with fewer than {FEWEST_UNITS} no interval can be told, and none is shown."
        )
    if domain.protocol is None:
        notes.append(
            f"The Euclidean score took {domain.segments} pairs of each class and layer (the paper: {SEGMENTS_OF_PAPER:,})."
        )
    notes.append(f"Fine-tuning took at most {domain.epochs} epochs.")
    return tuple(notes)


def _provenance(began: float, material: Material) -> dict[str, Any]:
    names = ("jaxconvex", "jax", "jaxlib", "flax", "optax", "numpy", "scipy")
    return {
        "versions": {name: _version(name) for name in names} | {"python": platform.python_version()},
        "device": f"{jax.devices()[0].device_kind} ({jax.default_backend()})",
        "inputs": material.identity,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seconds": time.perf_counter() - began,
    }


def _version(name: str) -> str:
    if name == "jaxconvex":
        import jaxconvex

        return jaxconvex.__version__
    return metadata.version(name)


def _sizes(material: Material) -> str:
    parts = {name: len(getattr(material, name).classes) for name in ("train", "validation", "test")}
    numbers = ", ".join(f"{number} to {verb}" for number, verb in zip(parts.values(), VERBS, strict=True))
    return f"{len(material.classes)} classes; {numbers}."


VERBS = ("train on", "validate on", "test on")


def _say(text: str) -> None:
    say(text, stream="stderr")


def _say_nothing(text: str) -> None:
    pass
