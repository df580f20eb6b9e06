"""Reports made up for the tests of what is written, drawn and compared; their numbers mean nothing."""

from __future__ import annotations

import math

import numpy as np

from jaxconvex.evaluation.intrusion_rows import IntrusionRow
from jaxconvex.evaluation.report import Report, Row


def sample_report(
    *, layers=3, classes=("zero", "one"), kinds=("graph",), labelings=("digit",), ks=(10,), shift=0.0, seed=0, null=True
) -> Report:
    """A report with rising scores; `layers` is a number or names, scores come from `seed` and `shift`."""
    names = [f"layer {i}" for i in range(layers)] if isinstance(layers, int) else layers
    draws = np.random.default_rng(seed)
    rows = []
    for kind in kinds:
        for labeling in labelings:
            for k in ks if kind == "graph" else (None,):
                for index, name in enumerate(names):
                    scores = np.clip(0.5 + 0.3 * index / len(names) + shift + draws.normal(0, 0.03, len(classes)), 0, 1)
                    parts = [
                        _row(draws, kind, name, index, labeling, k, "class", label, score, null)
                        for label, score in zip(classes, scores, strict=True)
                    ]
                    for level in ("micro", "macro"):
                        rows.append(_row(draws, kind, name, index, labeling, k, level, None, scores.mean(), null))
                    rows += parts
    settings = {"k": list(ks), "confidence": 0.95, "metric": "euclidean"}
    return Report(tuple(rows), settings, {"groups": "5e1f", "versions": {"jax": "0.10.2"}})


def _row(draws, kind, name, index, labeling, k, level, label, score, null) -> Row:
    replicates = tuple(float(value) for value in score + draws.normal(0, 0.004, 10))
    row = Row(
        kind, name, index, labeling, k, level, label, float(score), 0.01, float(score) - 0.02, float(score) + 0.02
    )
    row = row._replace(num_points=40, num_pairs=780, inside=float(score) / 2, replicates=replicates)
    if kind == "graph":
        row = row._replace(adjacent=0.125, disconnected=0.0, nonadjacent=float(score) - 0.05)
    if null:
        row = row._replace(null_mean=0.25, null_lower=0.23, null_upper=0.27, p_value=0.001)
    return row._replace(recall=float(score) - 0.1 if level == "class" else math.nan)


def report_of_losses(losses, layers=("a", "b", "c")):
    """A report in which cat loses so much to each intruder in each layer, they nothing; a last layer is not told of."""
    rows, lost, others = [], [], [name for name in losses if _kind(name)[0] == "class"]
    for index, layer in enumerate((*layers, "long")):
        taken = {name: of[index] for name, of in losses.items() if index < len(layers)}
        score = 1 - math.fsum(taken.values()) if taken else 0.1
        common = ("graph", layer, index, "animal", 4)
        rows += [Row(*common, "class", "cat", score), *(Row(*common, "class", name, 1.0) for name in others)]
        rows.append(Row(*common, "macro", None, (score + 1) / 2))
        where = (layer, index, "animal", 4, "cat")
        lost += [
            IntrusionRow(*where, *key, share) for key, share in zip(map(_kind, taken), taken.values(), strict=True)
        ]
    return Report(tuple(rows), {}, {}, tuple(lost))


def _kind(name):
    return (name, None) if name in ("background", "no path", "rest") else ("class", name)
