"""Claims on ways of measuring: robust to re-parametrization, and conclusions that stand under other settings."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from jaxconvex.study.analyses.variants import summary
from jaxconvex.study.claims.words import (
    Statement,
    begin,
    change_rows,
    changed,
    coefficient_text,
    contrast,
    ends,
    half_width,
    macro_rows,
    mean,
    over_domains,
    points,
    sign,
    true_labels,
    verdict_of_all,
    where,
)
from jaxconvex.study.results import Study, VariantRow

__all__ = ["asked_rows", "moved", "robust", "stands"]


def robust(studies: Sequence[Study], domain: str) -> list[Statement]:
    """Whether each re-parametrization moves scores by at most half an interval, and by how much; all of them first."""
    asked = [(study, rows) for study in studies if (rows := asked_rows(study, "reparametrization"))]
    statements = []
    for variant in dict.fromkeys(row.variant for _, rows in asked for row in rows if row.variant != "none"):
        parts, ranks, widths = [], [], []
        for study, rows in asked:
            differences = np.array([difference for name, _, difference in moved(rows) if name == variant])
            if len(differences):
                parts.append(differences)
                widths.append(mean(map(half_width, macro_rows(study, "graph"))))
                ranks += [effect.rank_correlation for effect in summary(rows) if effect.variant == variant]
        if not parts:
            continue
        every = np.concatenate(parts)
        estimate, width = mean(part.mean() for part in parts), mean(widths)
        inside = [np.abs(part).max() <= own for part, own in zip(parts, widths, strict=True)]
        holds = True if all(inside) else False if abs(estimate) > width else None
        lower, upper, largest = float(every.min()), float(every.max()), np.abs(every).max()
        text = (
            f"{begin(variant)}: {points(estimate)} points on average, {100 * largest:.1f} at most "
            f"(from {points(lower)} to {points(upper)}); rank correlation of the profiles {coefficient_text(mean(ranks))}."
        )
        text += contrast(holds, "Not robust to it.", "Undecided.")
        statements.append(
            Statement(f"robust to re-parametrization: {variant}", text, estimate, lower, upper, holds, domain)
        )
    if not statements:
        return []
    verdicts = [statement.holds for statement in statements]
    worst = max(statements, key=lambda statement: max(-statement.lower, statement.upper))
    width = mean(half_width(row) for study, _ in asked for row in macro_rows(study, "graph"))
    text = (
        f"{where(len(asked), domain)} graph convexity moves by at most half its interval "
        f"({100 * width:.1f} points, mean of the layers) in {verdicts.count(True)} of {len(statements)} "
        f"re-parametrizations, on average by more than that in {verdicts.count(False)}."
    )
    whole = worst._replace(claim="robust to re-parametrization", text=text, holds=verdict_of_all(verdicts))
    return [whole, *statements]


def asked_rows(study: Study, question: str) -> list[VariantRow]:
    """The rows of one question, by predicted labels, that have a score; the study's own k only as "none"."""
    same = f"k = {study.settings.get('k', 10)}"
    rows = [row for row in study.variants if (row.question, row.labeling) == (question, "predicted")]
    return [row for row in rows if math.isfinite(row.score) and row.variant != same]


def moved(rows: Sequence[VariantRow]) -> list[tuple[str, str, float]]:
    """Variant, network, and its score less that of the study's own way, of the same layer and seed; in order of the rows."""
    own = {_place(row): row.score for row in rows if row.variant == "none"}
    return [
        (row.variant, row.network, row.score - own[_place(row)])
        for row in rows
        if row.variant != "none" and _place(row) in own
    ]


def _place(row: VariantRow) -> tuple[str, int | None, int]:
    return row.network, row.seed, row.layer_index


def stands(studies: Sequence[Study], domain: str) -> list[Statement]:
    """Whether fine-tuning raises graph convexity under each other setting too, true labels among them; all first."""
    asked = [(study, rows) for study in studies if (rows := asked_rows(study, "sensitivity"))]
    by_setting: dict[str, list[tuple[float, float, int, int]]] = {}
    for study, rows in asked:
        # The other settings have no replicates: their error is taken from the study's own.
        _, half = changed(change_rows(study, "graph"))
        for effect in summary(rows):
            if effect.raised is not None:
                counts = (effect.raised, effect.num_layers)
                by_setting.setdefault(effect.variant, []).append((effect.mean_change, half, *counts))
    for study in studies:
        truth = change_rows(study, "graph", true_labels(study))
        if truth:
            higher = sum(row.difference > 0 for row in truth)
            by_setting.setdefault("true labels", []).append((*changed(truth), higher, len(truth)))
    statements = []
    for variant, parts in by_setting.items():
        estimate, lower, upper = over_domains([part[:2] for part in parts])
        holds = sign(lower, upper)
        way = "As the study measures" if variant == "none" else begin(variant)
        text = (
            f"{way}: {points(estimate)} points {ends(lower, upper)}, raised in {sum(part[2] for part in parts)} of "
            f"{sum(part[3] for part in parts)} layers."
        )
        text += contrast(holds, "Measured so, it falls.", "Undecided.")
        statements.append(
            Statement(f"stands under other settings: {variant}", text, estimate, lower, upper, holds, domain)
        )
    if not statements:
        return []
    verdicts = [statement.holds for statement in statements]
    weakest = min(statements, key=lambda statement: statement.lower if math.isfinite(statement.lower) else math.inf)
    number = max(map(len, by_setting.values()))
    text = (
        f"{where(number, domain)} fine-tuning clearly raises graph convexity, mean over layers, under "
        f"{verdicts.count(True)} of {len(statements)} settings, clearly lowers it under "
        f"{verdicts.count(False)}. Intervals of settings other than the study's own and true labels "
        "are as wide as the study's own."
    )
    whole = weakest._replace(claim="stands under other settings", text=text, holds=verdict_of_all(verdicts))
    return [whole, *statements]
