"""Studies made up for the tests of statements, figures and pages; the effects in them are those asked for."""

from __future__ import annotations

import math

import numpy as np

from jaxconvex.study.results import (
    ChangeRow,
    ClassRow,
    MeasureRow,
    NetworkRow,
    PruningRow,
    ScoreRow,
    Study,
    VariantRow,
)

REPARAMETRIZATIONS = ("isometry", "scaling", "standardization", "affine", "pca 50", "float16")
SENSITIVITIES = ("k = 5", "k = 10", "k = 20", "k = 40", "cosine", "mutual", "half the points")
MEASURES = ("linear probe accuracy", "k-NN accuracy", "silhouette", "neural collapse NC1", "hubness")


def small_study(**changes) -> Study:
    """Three layers, two seeds, ten classes."""
    return sample_study(**({"name": "speech", "layers": 3, "seeds": 2, "classes": 10, "seed": 1} | changes))


def large_study(**changes) -> Study:
    """Seventeen layers, three seeds, 77 classes."""
    return sample_study(**({"name": "text-77", "layers": 17, "seeds": 3, "classes": 77, "seed": 2} | changes))


def sample_study(
    *,
    name="speech",
    layers=3,
    seeds=2,
    classes=10,
    seed=0,
    above=0.3,
    rise=0.05,
    late=0.1,
    link=0.8,
    shift=0.01,
    loss=0.01,
    variants=True,
    measures=True,
    pruning=True,
    labelings=("digit",),
) -> Study:
    """A study with planted effects, everything else drawn from `seed`.

    Args:
        above: by how much convexity lies above the null; may be negative.
        rise: by how much fine-tuning changes it in every layer; late: and by how much more in the last than the first.
        link: the correlation of the convexity of a class with its recall, in [-1, 1].
        shift: by how much every other way of measuring moves the score.
        loss: of accuracy by pruning.
        variants, measures, pruning: whether the study has these parts.
    """
    draws = np.random.default_rng(seed)
    names = [f"block {place + 1}" for place in range(layers)]
    depth = np.linspace(0, 1, layers)
    base = 0.2 + above + 0.15 * depth + draws.normal(0, 0.005, layers)
    gain = rise + late * (depth - 0.5)
    finer = {number: base + gain + draws.normal(0, 0.004, layers) for number in range(seeds)}
    profiles = {("pretrained", None): base} | {("fine-tuned", number): line for number, line in finer.items()}
    accuracy = {"pretrained": 0.71, "fine-tuned": 0.88}
    networks = tuple(
        NetworkRow(
            network, number, accuracy[network] + float(draws.normal(0, 0.004)), 0.5, 12, 9, 40.0 + draws.random()
        )
        for network, number in profiles
    )
    scores, changes = [], []
    for kind, offset in (("graph", 0.0), ("euclidean", 0.12)):
        for labeling in ("predicted", *labelings):
            for (network, number), line in profiles.items():
                for place, score in enumerate(line + offset - 0.02 * (labeling != "predicted")):
                    null = (0.2, 0.19, 0.21, 0.002) if kind == "graph" else (math.nan,) * 4
                    if kind == "graph" and above <= 0:
                        null = (*null[:3], 0.9)
                    for level in ("macro", "micro"):
                        scores.append(
                            ScoreRow(
                                network, number, kind, labeling, names[place], place, level, float(score), 0.01,
                                float(score) - 0.022, float(score) + 0.022, *null, 400, 9000,
                            )
                        )  # fmt: skip
            changes += _changes(kind, labeling, names, base + offset, finer, offset)
    found = np.clip(base.mean() + draws.normal(0, 0.08, classes), 0, 1)
    noise = draws.normal(0, 0.08, classes)
    recall = np.clip(0.8 + link * (found - found.mean()) + math.sqrt(1 - link**2) * noise, 0, 1)
    rows = tuple(
        ClassRow(
            f"class {place}", int(draws.integers(15, 60)), float(found[place]), float(found[place]) + 0.1,
            float(found[place]) - 0.03, float(found[place]) + 0.08, float(recall[place]) - 0.15, float(recall[place]), 0.02,
        )
        for place in range(classes)
    )  # fmt: skip
    domain = {
        "name": name, "modality": "sound", "source": f"{400 + classes} made-up points.", "encoder": "A made-up network.",
        "layers": names, "labelings": list(labelings), "classes": [row.label for row in rows], "pool": "mean",
        "parts": {"train": 800, "validation": 200, "test": 400},
    }  # fmt: skip
    settings = {"protocol": "default", "k": 10, "seeds": list(range(seeds)), "permutations": 499}
    return Study(
        domain, settings, ("Clips were cut to one second.",), {"versions": {"jax": "0.10.2"}, "device": "cpu"},
        networks, tuple(scores), tuple(changes), rows,
        _variants(draws, names, profiles, shift) if variants else (),
        _measures(draws, names, profiles, rows) if measures else (),
        _pruning(draws, names, seeds, loss) if pruning else (),
    )  # fmt: skip


def _changes(kind, labeling, names, before, finer, offset) -> list[ChangeRow]:
    made = []
    differences = np.stack([line + offset - before for line in finer.values()])
    spread = differences.std(axis=0, ddof=1) if len(finer) > 1 else np.full(len(names), math.nan)
    for place, layer in enumerate(names):
        for number, values in zip(finer, differences, strict=True):
            made.append(_change(kind, labeling, layer, place, number, before[place], values[place], 0.008, math.nan))
        error = math.hypot(0.008, np.nan_to_num(spread[place]) / math.sqrt(len(finer)))
        mean = differences[:, place].mean()
        made.append(_change(kind, labeling, layer, place, None, before[place], mean, error, float(spread[place])))
    return made


def _change(kind, labeling, layer, place, number, before, difference, error, spread) -> ChangeRow:
    ends = (float(difference - 2.26 * error), float(difference + 2.26 * error))
    values = (float(before), float(before + difference), float(difference), float(error), spread)
    return ChangeRow(kind, labeling, layer, place, number, *values, *ends)


def _variants(draws, names, profiles, shift) -> tuple[VariantRow, ...]:
    rows = []
    for question, variants in (("reparametrization", REPARAMETRIZATIONS), ("sensitivity", SENSITIVITIES)):
        for variant in ("none", *variants):
            for (network, number), line in profiles.items():
                for place, score in enumerate(line):
                    moved = 0.0 if variant == "none" else shift + draws.normal(0, 0.001)
                    rows.append(
                        VariantRow(
                            question,
                            variant,
                            network,
                            number,
                            "predicted",
                            names[place],
                            place,
                            float(score + moved),
                            400,
                        )
                    )
    return tuple(rows)


def _measures(draws, names, profiles, classes) -> tuple[MeasureRow, ...]:
    rows = []
    for measure in MEASURES:
        for (network, number), line in profiles.items():
            for place, score in enumerate(line):
                value = float(score + draws.normal(0, 0.02))
                rows.append(MeasureRow(measure, network, number, names[place], place, None, value))
                if measure in MEASURES[:3]:
                    for row in classes:
                        drawn = row.graph + draws.normal(0, 0.05)
                        rows.append(MeasureRow(measure, network, number, names[place], place, row.label, float(drawn)))
    return tuple(rows)


def _pruning(draws, names, seeds, loss) -> tuple[PruningRow, ...]:
    kept = max(1, 2 * len(names) // 3)
    rows = []
    for rule, blocks, drop in (("whole", len(names), 0.0), ("most convex", kept, loss)):
        for number in range(seeds):
            rows.append(
                PruningRow(
                    rule, names[blocks - 1], blocks - 1, blocks, number, float(0.88 - drop + draws.normal(0, 0.003)),
                    1.5 * blocks, 0.4 * blocks, 100_000 * blocks,
                )
            )  # fmt: skip
    return tuple(rows)
