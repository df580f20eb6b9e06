"""The experiment of one domain: train, measure every layer before and after fine-tuning, and gather what was found."""

from __future__ import annotations

import io
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from jaxconvex._internal.formats import write_file
from jaxconvex._internal.kept import lock
from jaxconvex._internal.messages import say
from jaxconvex.evaluation.evaluation import evaluate
from jaxconvex.evaluation.report import Report, read_report
from jaxconvex.layers.activations import Activations, read_activations
from jaxconvex.layers.model_sources import pooled_features
from jaxconvex.study.analyses.measures import simple_measures
from jaxconvex.study.analyses.robustness import reparametrizations
from jaxconvex.study.analyses.sensitivity import sensitivity
from jaxconvex.study.describing import described, notes, provenance, settings, sizes
from jaxconvex.study.domains import Domain
from jaxconvex.study.failures import sound
from jaxconvex.study.gathering import changes, classes, labels_of, scores
from jaxconvex.study.material import Material, prepare
from jaxconvex.study.networks import Network, fine_tuned, layers_of, pretrained
from jaxconvex.study.progress import Plan, Work, clock_text
from jaxconvex.study.pruning import pruned
from jaxconvex.study.results import PREDICTED, MeasureRow, Study, VariantRow, network_name, write_study
from jaxconvex.study.steps import kept, kept_rows
from jaxconvex.study.why import WHY, write_why

__all__ = ["WORK", "run_study"]

WORK = "work"


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
    say(f"  {material.source} {sizes(material)}")
    for note in material.notes:
        say(f"  {note}")
    work.mkdir(parents=True, exist_ok=True)
    with lock(work), tqdm(total=1.0, disable=not progress, bar_format=BAR, leave=False) as bar:
        plan = Plan(_work(domain, material), lambda text: _show(bar, plan, f"{domain.name}: {text}"))
        before = pretrained(domain, material, work, keys[1], plan.of("pretraining"))
        plan.finish("pretraining")
        after = []
        for s in range(domain.seeds):
            after.append(fine_tuned(domain, material, before, s, work, plan.of(f"fine-tuning, seed {s}")))
            plan.finish(f"fine-tuning, seed {s}")
        networks = [before, *after]
        fine = sound([network.row for network in networks], len(material.classes))
        names = np.array(material.classes)
        # Pretrained layers by the labels of the fine-tuned networks: how much of the change is one of labels.
        relabelled = {labels_of(network.row.seed or 0): names[network.predicted] for network in after}
        scored = []
        for network in networks:
            labels = material.test.labelings | (relabelled if network is before else {})
            step = f"scores, {network_name(network.row)}"
            scored.append(_score(domain, material, network, labels, folder, keys[2], plan.of(step)))
            plan.finish(step)
        reports = [report for report, _ in scored]
        variants: list[VariantRow] = []
        measures: list[MeasureRow] = []
        # Other ways of measuring: of the pretrained network and the first fine-tuned one that did not fail.
        compared = [0, *(1 + seed for seed, good in enumerate(fine) if good)][:2]
        for network, (report, features) in ((networks[number], scored[number]) for number in compared):
            if domain.variants:
                variants += _variants(domain, material, network, features, work, keys[3], plan.of("variants"))
            measures += _measures(domain, material, network, features, work, plan.of("measures"))
            _explain(domain, material, network, report, features, folder)
        plan.finish("variants")
        plan.finish("measures")
        cut = pruned(domain, material, networks, reports[0], work, plan.of("pruning")) if domain.pruning else []
        plan.finish("pruning")
    study = Study(
        domain=described(domain, material, reports[0]),
        settings=settings(domain, material, seed),
        notes=notes(domain, material),
        provenance=provenance(began, material),
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


BAR = "{desc} {percentage:3.0f}%|{bar}| {elapsed}{postfix}"


def _show(bar: Any, plan: Plan, text: str) -> None:
    left = plan.remaining()
    bar.n = max(bar.n, round(plan.share(), 4))
    bar.set_description_str(text, refresh=False)
    bar.set_postfix_str("" if left is None else f"about {clock_text(left)} left", refresh=True)


def _work(domain: Domain, material: Material) -> dict[str, Work]:
    """The steps and their units; the weights are about what a unit takes, in epochs of fine-tuning."""
    layers = len(material.encoder.blocks) + (domain.pool != "cls")
    networks = ["pretrained", *(f"fine-tuned-{s}" for s in range(domain.seeds))]
    return {
        "pretraining": Work("epoch of pretraining", domain.pretraining_epochs if domain.pretraining else 0, 1),
        **{f"fine-tuning, seed {s}": Work("epoch", domain.epochs, 1) for s in range(domain.seeds)},
        **{f"scores, {name}": Work("score", 2 * layers, 0.4) for name in networks},  # graph and Euclidean
        "variants": Work("variant", 4 * layers if domain.variants else 0, 0.4),  # two kinds of two networks
        "measures": Work("measure", 2 * layers, 0.2),
        "pruning": Work("epoch of pruning", domain.seeds * domain.epochs if domain.pruning else 0, 0.7),
    }


# Measuring ------------------------------------------------------------------------------------------------------------


def _score(
    domain: Domain,
    material: Material,
    network: Network,
    labels: dict[str, np.ndarray],
    folder: Path,
    key: jax.Array,
    done: Callable[..., Any],
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

    def make(step: Path) -> None:
        report = evaluate(
            layers_of(network.encoder, material.test.inputs, pool=domain.pool, folder=step / "features"),
            labels,
            predictions="model",
            groups=material.test.groups,
            classes=material.classes,
            key=key,
            cache=step / "layers",
            why=False,  # of the layer that pages show it is told later on
            progress=done,
            **settings,
        )
        report.to_json(step / "scores.json")

    step = kept(folder / WORK, f"scores-{name}", identity, make)
    report, features = read_report(step / "scores.json"), read_activations(step / "features")
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
    domain: Domain,
    material: Material,
    network: Network,
    features: Activations,
    work: Path,
    key: jax.Array,
    done: Callable[..., Any],
) -> list[VariantRow]:
    main = next(iter(material.test.labelings))
    labelings = {PREDICTED: _predicted(material, features), main: material.test.labelings[main]}
    which: dict[str, Any] = {"network": network.row.network, "seed": network.row.seed, "key": key, "k": domain.k}
    which["metric"] = domain.metric

    def make() -> list[VariantRow]:
        layers = {name: np.asarray(layer) for name, layer in features.items()}
        which["progress"] = done
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


def _measures(
    domain: Domain, material: Material, network: Network, test: Activations, work: Path, done: Callable[..., Any]
) -> list[MeasureRow]:
    def make() -> list[MeasureRow]:
        rows = np.arange(len(material.train.classes))
        source = layers_of(network.encoder, material.train.inputs, pool=domain.pool)
        train = pooled_features(source, rows, progress=False)
        return simple_measures(
            {name: np.asarray(layer) for name, layer in train.items()},
            np.array(material.classes)[material.train.classes],
            {name: np.asarray(layer) for name, layer in test.items()},
            np.array(material.classes)[material.test.classes],
            network=network.row.network,
            seed=network.row.seed,
            k=domain.k,
            progress=done,
        )

    identity = [network.identity, material.identity, domain.pool, domain.k]
    return kept_rows(work, f"measures-{network_name(network.row)}", identity, MeasureRow, make)


def _explain(
    domain: Domain, material: Material, network: Network, report: Report, features: Activations, folder: Path
) -> None:
    """Tell in the network's folder what the classes of the data lose, and show the items to look at."""
    name = network_name(network.row)
    identity = [network.identity, material.identity, domain.pool, report.settings["k"], domain.metric, domain.protocol]

    def make(step: Path) -> None:
        write_why(material, report, features, domain.metric, step)

    step = kept(folder / WORK, f"{WHY}-{name}", identity, make)
    shutil.copytree(step, folder / name / WHY, dirs_exist_ok=True, ignore=shutil.ignore_patterns("step.json"))


def _say(text: str) -> None:
    say(text, stream="stderr")


def _say_nothing(text: str) -> None:
    pass
