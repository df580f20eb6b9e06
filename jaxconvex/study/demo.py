"""The demonstration: digits, a small transformer before and after fine-tuning, the convexity of all its layers."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from jaxconvex.encoders.encoder import Encoder
from jaxconvex.encoders.loading import initialise
from jaxconvex.evaluation.comparison import Comparison, compare_reports
from jaxconvex.evaluation.evaluation import evaluate
from jaxconvex.evaluation.report import Report, class_means, only
from jaxconvex.evaluation.sentences import findings
from jaxconvex.layers.model_sources import pooled_features
from jaxconvex.reporting import plots
from jaxconvex.reporting.figures import Figure, save_figure
from jaxconvex.reporting.page import Captioned, Section, write_page
from jaxconvex.reporting.result_pages import WHY, errors_and_settings, why_items
from jaxconvex.statistics.correlation import Correlation, pearson, spearman
from jaxconvex.study import training
from jaxconvex.study.claims.recall import no_correlation
from jaxconvex.study.networks import PENALTY, layers_of
from jaxconvex.study.pretraining import masked_patches
from jaxconvex.study.splits import stratified_split
from jaxconvex.study.training import fine_tune, probe

__all__ = ["Demonstration", "run_demo"]

NETWORK = {  # 16 patches and a class token
    "model_type": "vit",
    "image_size": 8,
    "patch_size": 2,
    "num_channels": 1,
    "hidden_size": 48,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "intermediate_size": 96,
}
SEGMENTS = 40  # a class and layer, for the Euclidean score: each is ten forward passes
PERMUTATIONS = 200


class Demonstration(NamedTuple):
    """What the demonstration found, and where it was written."""

    pretrained: Report
    finetuned: Report
    comparison: Comparison
    accuracy: dict[str, float]
    pearson: Correlation
    spearman: Correlation
    page: Path
    seconds: float
    no_correlation: str = ""  # why there is none to tell

    def __str__(self) -> str:
        return _summary(self)


def run_demo(out: str | Path, *, seed: int = 0, progress: bool = True) -> Demonstration:
    """The paper's experiment in small, on scikit-learn's 1,797 digits, with files in the folder `out`.

    As text the result is a summary, and says where the files are.

    A transformer is pretrained on masked patches without labels, a softmax probe is trained on its last layer, then the
    whole is fine-tuned. Every layer of both networks is scored on held-out digits, by the classes that each network
    predicts: graph convexity of the class token, Euclidean convexity of all tokens through the rest of the network.

    Args:
        out: a folder; it is made where it is missing.
        seed: of the split, the initial weights, the training and all draws.
        progress: steps and bars on stderr.

    Cost: about a minute on two cores.
    """
    from sklearn.datasets import load_digits

    folder = Path(out)
    began = time.perf_counter()
    say = partial(print, file=sys.stderr, flush=True) if progress else lambda *_: None
    data = load_digits()
    images, digits = (data.images / 16).astype(np.float32)[..., None], data.target.astype(np.int32)
    keys = jax.random.split(jax.random.key(seed), 5)
    train, validation, test = stratified_split(digits, keys[0])
    images = (images - images[train].mean()) / images[train].std()

    say(f"Pretraining on {len(train)} digits without labels, probe, fine-tuning ...")
    model = initialise(NETWORK, rngs=nnx.Rngs(keys[1]))
    completing = masked_patches(model, images[train], keys[2], num_epochs=20, learning_rate=3e-3).model
    pretrained = probe(completing, images[train], digits[train], num_classes=10, take="first", penalty=PENALTY)
    finetuned = fine_tune(
        pretrained, images[train], digits[train], images[validation], digits[validation], keys[3]
    ).model
    say(f"  {time.perf_counter() - began:.0f} s. Scoring {len(test)} held-out digits ...")

    models = {"pretrained": pretrained, "fine-tuned": finetuned}
    reports = {
        name: _score(model, images[test], digits[test], folder / name, keys[4], progress)
        for name, model in models.items()
    }
    before, after = reports["pretrained"], reports["fine-tuned"]
    comparison = compare_reports(before, after, names=("pretrained", "fine-tuned"))
    accuracy = {name: training.accuracy(model, images[test], digits[test]) for name, model in models.items()}
    convexity = class_means(before, kind="graph", labeling="predicted")
    recall = class_means(after, kind="graph", labeling="predicted", field="recall")
    names = sorted(convexity)
    pairs = np.array([convexity[c] for c in names]), np.array([recall[c] for c in names])
    demo = Demonstration(
        before,
        after,
        comparison,
        accuracy,
        pearson(*pairs),
        spearman(*pairs),
        folder / "report.html",
        time.perf_counter() - began,
        no_correlation(*pairs),
    )

    figures = _figures(reports, comparison, convexity, recall, demo.no_correlation)
    for name, figure in figures.items():
        save_figure(figure, folder / name)
    comparison.to_json(folder / "comparison.json")
    comparison.to_csv(folder / "comparison.csv")
    _write_page(demo, figures)
    return demo


def _score(
    model: Encoder, images: np.ndarray, digits: np.ndarray, folder: Path, key: jax.Array, progress: bool
) -> Report:
    """The report of one network; it and the pooled activations are written to the folder."""
    source = layers_of(model, images, pool="cls")
    report = evaluate(
        source,
        {"digit": digits},
        predictions="model",
        max_segments=SEGMENTS,
        permutations=PERMUTATIONS,
        key=key,
        progress=progress,
    )
    folder.mkdir(parents=True, exist_ok=True)
    report.to_json(folder / "scores.json")
    report.to_csv(folder / "scores.csv")
    pooled = pooled_features(source, np.arange(len(images)), progress=False)
    predicted = np.asarray(pooled.outputs).argmax(axis=1)
    arrays: dict[str, Any] = {**pooled, "labels": digits, "predicted": predicted}
    np.savez_compressed(folder.parent / f"{folder.name}.npz", **arrays)
    return report


def _figures(
    reports: Mapping[str, Report], comparison: Comparison, convexity: Mapping, recall: Mapping, why: str
) -> dict[str, Figure]:
    return {
        "profile": plots.plot_profile(reports, labeling="predicted"),
        "differences": plots.plot_differences(comparison, kind="graph", labeling="predicted"),
        "classes-pretrained": plots.plot_classes(reports["pretrained"], kind="graph", labeling="predicted"),
        "classes-fine-tuned": plots.plot_classes(reports["fine-tuned"], kind="graph", labeling="predicted"),
        "recall": plots.plot_recall(convexity, recall, note=f"no r: {why}" if why else ""),
    }


def _write_page(demo: Demonstration, figures: Mapping[str, Figure]) -> None:
    write_page(
        demo.page,
        title="Convexity of digits in a small transformer",
        lead="\n\n".join(_found(demo)),
        warnings="\n\n".join(_warnings(demo)),
        figure=Captioned(figures["profile"], "Convexity of every layer, mean of the classes that each network predicts. "
                         "The band is the interval, grey the permutation null: the same graph with random labels."),
        sections=_sections(demo, figures),
    )  # fmt: skip


def _found(demo: Demonstration) -> list[str]:
    percent = {name: f"{100 * value:.1f}" for name, value in demo.accuracy.items()}
    number = demo.pretrained.settings["num_points_scored"]
    return [
        f"Of {number} held-out digits a probe on the pretrained network gets {percent['pretrained']} percent right, the "
        f"fine-tuned network {percent['fine-tuned']} percent. Brackets hold 95 percent intervals.",
        _change(demo, "graph"),
        _change(demo, "euclidean"),
        _correlation(demo),
    ]


def _warnings(demo: Demonstration) -> list[str]:
    """What would mislead in either network or in their comparison, each but once."""
    reports = {"pretrained": demo.pretrained, "fine-tuned": demo.finetuned}
    return list(findings(demo.comparison, labeling="predicted", reports=reports).warnings)


def _change(demo: Demonstration, kind: str) -> str:
    rows = only(demo.comparison, kind=kind, labeling="predicted", level="macro")
    largest = max(rows, key=lambda row: row.difference)
    clear = sum(row.lower > 0 for row in rows)
    name = "Graph" if kind == "graph" else "Euclidean"
    return (
        f"{name} convexity rises most in {largest.layer}: by {100 * largest.difference:.1f} points "
        f"[{100 * largest.lower:.1f}, {100 * largest.upper:.1f}]; the interval is above 0 in {clear} of {len(rows)} layers. "
        f"Mean over layers: {_mean_change(demo, kind, 'predicted')} points by the predicted labels, which differ before "
        f"and after, {_mean_change(demo, kind, 'digit')} by the true ones."
    )


def _mean_change(demo: Demonstration, kind: str, labeling: str) -> str:
    rows = only(demo.comparison, kind=kind, labeling=labeling, level="macro")
    return f"{100 * float(np.mean([row.difference for row in rows])):+.1f}"


def _correlation(demo: Demonstration) -> str:
    if demo.no_correlation:
        return f"There is no correlation of pretrained convexity and recall to tell: {demo.no_correlation}."
    r, rank = demo.pearson, demo.spearman
    return (
        f"Pretrained convexity against recall after fine-tuning, over {r.num_points} classes: Pearson r = "
        f"{r.coefficient:.2f} [{r.lower:.2f}, {r.upper:.2f}], Spearman {rank.coefficient:.2f} "
        f"[{rank.lower:.2f}, {rank.upper:.2f}]. Ten classes of one small data set decide nothing; the paper pools many."
    )


def _sections(demo: Demonstration, figures: Mapping[str, Figure]) -> list[Section]:
    how = (
        "A small transformer is pretrained without labels on scikit-learn's 1,797 digits (it fills in masked patches), a "
        "softmax probe is trained on its last layer, then the whole is fine-tuned. Classes are as each predicts them."
    )
    return [
        Section("Layers", [Captioned(demo.pretrained, "Pretrained"), Captioned(demo.finetuned, "Fine-tuned")]),
        Section("What fine-tuning changes", [figures["differences"], demo.comparison]),
        Section(
            "Classes",
            [
                Captioned(
                    figures["classes-pretrained"], "Pretrained: the score of every class in every layer, percent."
                ),
                Captioned(figures["classes-fine-tuned"], "Fine-tuned."),
                Captioned(figures["recall"], "Does convexity predict recall? A point is a class."),
                *demo.comparison.tables(classes=True),
            ],
        ),
        Section("Why, fine-tuned", [WHY, *why_items(demo.finetuned, "digit", demo.finetuned.settings["k"][0])]),
        Section(
            "Errors and settings",
            [how, *errors_and_settings({"pretrained": demo.pretrained, "fine-tuned": demo.finetuned})],
        ),
    ]


def _summary(demo: Demonstration) -> str:
    folder = demo.page.parent
    return "\n".join(
        [
            "",
            *_found(demo),
            *_warnings(demo),
            "",
            _profile(demo),
            "",
            f"Done in {demo.seconds:.0f} s. Read {demo.page}; tables and figures are beside it.",
            "",
            "Next, with your own data: save an .npz of arrays (points, features), one a layer, and an array `labels`; then",
            "  jaxconvex score your.npz",
            "The digits are such files, to try it out:",
            f"  jaxconvex score {folder / 'fine-tuned.npz'} --predictions predicted",
            f"  jaxconvex compare {folder / 'pretrained.npz'} {folder / 'fine-tuned.npz'} --predictions predicted",
        ]
    )


def _profile(demo: Demonstration) -> str:
    """The scores of all layers of both networks as a small table of text."""
    lines = [f"{'convexity, percent':20}{'graph':^30}{'euclidean':^22}{'null':>7}"]
    lines.append(f"{'layer':20}{'pretrained':>15}{'fine-tuned':>15}{'pretrained':>11}{'fine-tuned':>11}{'graph':>7}")
    both = demo.pretrained, demo.finetuned
    graph = [only(report, kind="graph", labeling="predicted", level="macro") for report in both]
    segments = [only(report, kind="euclidean", labeling="predicted", level="macro") for report in both]
    for i, first in enumerate(graph[0]):
        cells = [f"{100 * rows[i].score:.1f} +-{100 * rows[i].se_jackknife:4.1f}" for rows in graph]
        plain = [f"{100 * rows[i].score:.1f}" for rows in segments]
        null = f"{100 * first.null_mean:.1f}"
        lines.append(f"{first.layer:20}{cells[0]:>15}{cells[1]:>15}{plain[0]:>11}{plain[1]:>11}{null:>7}")
    return "\n".join(lines)
