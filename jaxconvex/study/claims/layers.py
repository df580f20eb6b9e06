"""Claims on layers: convexity lies above the permutation null, fine-tuning raises it, and most in late layers."""

from __future__ import annotations

import math
from collections.abc import Sequence

from jaxconvex.statistics.comparison import holm
from jaxconvex.study.claims.words import (
    Statement,
    by_domain,
    change_rows,
    changed,
    contrast,
    ends,
    macro_rows,
    named,
    over_domains,
    points,
    shortened,
    sign,
    spot,
    true_labels,
    where,
)
from jaxconvex.study.failures import alarm, failed_seeds
from jaxconvex.study.results import LABELS_ONLY, LAYERS_ONLY, ScoreRow, Study

__all__ = ["above_null", "labels_not_trained_for", "most_in_late_layers", "raised", "withheld"]

KINDS = ("graph", "euclidean")
LEVEL = 0.05


def above_null(studies: Sequence[Study], domain: str) -> list[Statement]:
    """Whether graph convexity is above the null in every layer; the layer closest to the null gives the estimate.

    Networks whose fine-tuning failed are left out.

    It holds where every layer's interval lies above the null's upper end, and does not where a layer's interval lies below
    the null's mean. The p-values are said beside it: with few permutations none can be small after the correction.
    """
    layers: list[tuple[Study, ScoreRow, float]] = []
    for study in studies:
        failed = failed_seeds(study)
        rows = [row for row in macro_rows(study, "graph") if math.isfinite(row.score) and math.isfinite(row.null_upper)]
        rows = [row for row in rows if row.network == "pretrained" or row.seed not in failed]
        for network in dict.fromkeys((row.network, row.seed) for row in rows):
            mine = [row for row in rows if (row.network, row.seed) == network]
            layers += zip([study] * len(mine), mine, holm([row.p_value for row in mine]).tolist(), strict=True)
    if not layers:
        return []
    above = [row.score > row.null_upper for _, row, _ in layers]
    clear = [p < LEVEL for _, _, p in layers]
    study, weakest, _ = min(layers, key=lambda entry: entry[1].score - entry[1].null_mean)
    estimate, lower, upper = (value - weakest.null_mean for value in (weakest.score, weakest.lower, weakest.upper))
    holds = None
    if all(row.lower > row.null_upper for _, row, _ in layers):
        holds = True
    elif any(row.upper < row.null_mean for _, row, _ in layers):
        holds = False
    listed = [spot(other, row, domain) for (other, row, _), fine in zip(layers, above, strict=True) if not fine]
    failing = [
        f"{spot(other, row, domain)} (p = {p:.2g})"
        for (other, row, p), fine in zip(layers, clear, strict=True)
        if not fine
    ]
    number = len({other.name for other, _, _ in layers})
    text = (
        f"{where(number, domain)} graph convexity is above the upper end of the permutation null in {sum(above)} of "
        f"{len(layers)} layers (each network counted by itself). The closest, {spot(study, weakest, domain)}, is "
        f"{points(estimate)} points from the null's mean {ends(lower, upper)}. With Holm's correction over the layers "
        f"of a network, p is below {LEVEL} in {sum(clear)} of {len(layers)} (largest {max(p for *_, p in layers):.2g})."
    )
    text += f" Not above: {shortened(listed)}." if listed else ""
    unclear = [(other, row) for (other, row, _), fine in zip(layers, clear, strict=True) if not fine]
    if unclear and all(_smallest(other, row) for other, row in unclear):
        text += " The permutations are too few for a smaller p: of the others none reached the layer's score."
    elif failing:
        text += f" Not significant: {shortened(failing)}."
    text += " The paper found convexity above chance everywhere; here it is not." if holds is False else ""
    return [Statement("above the null", text, estimate, lower, upper, holds, domain)]


def _smallest(study: Study, row: ScoreRow) -> bool:
    """Whether p is the smallest that so many permutations allow, 1 / (permutations + 1)."""
    number = study.settings.get("permutations")
    return isinstance(number, int) and row.p_value * (number + 1) < 1.5


def withheld(studies: Sequence[Study], domain: str) -> list[Statement]:
    """What is not said, since fine-tuning failed: of one domain with the reasons, of several by name."""
    failed = [study for study in studies if failed_seeds(study)]
    if not failed:
        return []
    text = alarm(failed[0])
    if domain == "all":
        names = ", ".join(f"{study.name} ({len(failed_seeds(study))} of {_runs(study)} runs)" for study in failed)
        text = (
            f"Fine-tuning failed or was cut short in {names}; of these runs it is not said what fine-tuning raises, what "
            "predicts recall and what pruning costs."
        )
    return [Statement("failed fine-tuning", text, math.nan, math.nan, math.nan, None, domain)]


def _runs(study: Study) -> int:
    return sum(row.network != "pretrained" for row in study.networks)


def raised(studies: Sequence[Study], domain: str) -> list[Statement]:
    """By how much fine-tuning changes convexity, the mean over layers; by predicted labels, in its parts, and by true ones.

    Predicted labels are others before and after. So their change is told in two parts: that of the labels alone (the
    pretrained layers by the fine-tuned network's labels) and that of the layers alone (by the same labels).

    Its interval is as wide as the layers' own on average, that is, their errors are taken as wholly correlated; the
    layers' own hold the sampling of test points and of seeds. Those of domains are independent.
    """
    statements = []
    for kind in KINDS:
        parts = {study.name: rows for study in studies if (rows := change_rows(study, kind))}
        if not parts:
            continue
        changes = list(map(changed, parts.values()))
        estimate, lower, upper = over_domains(changes)
        rows = [row for part in parts.values() for row in part]
        higher, lowered = sum(row.lower > 0 for row in rows), sum(row.upper < 0 for row in rows)
        text = (
            f"{where(len(parts), domain)} fine-tuning changes {named(kind)} convexity by {points(estimate)} points on "
            f"average over layers {ends(lower, upper)}; by layer the interval is above 0 in {higher} of {len(rows)}, "
            f"below 0 in {lowered}."
        )
        holds = sign(lower, upper)
        if domain == "all":
            text += f" {by_domain(list(parts), changes)}"
        text += contrast(holds, "The paper found that fine-tuning raises it; here it falls.")
        claim = f"raised by fine-tuning: {kind}"
        statements.append(Statement(claim, text, estimate, lower, upper, holds, domain))
        statements += _parts(studies, domain, kind, claim, holds)
    return statements


def _parts(studies: Sequence[Study], domain: str, kind: str, claim: str, whole: bool | None) -> list[Statement]:
    """What of the change is one of the labels, what of the layers, and the change by labels that stay the same."""
    words = {
        "labels only": "The change of the labels alone, with the layers of before, makes {} points {}",
        "layers only": "and that of the layers, with the labels of after, {} points {}.",
        "true labels": "By true labels {} convexity changes by {} points {}.",
    }
    statements = []
    for part, text in words.items():
        of_part = {"labels only": LABELS_ONLY, "layers only": LAYERS_ONLY}
        rows = [change_rows(study, kind, of_part.get(part) or true_labels(study)) for study in studies]
        changes = [changed(own) for own in rows if own]
        if not changes:
            continue
        estimate, lower, upper = over_domains(changes)
        holds = sign(lower, upper)
        shown = (points(estimate), ends(lower, upper))
        said = text.format(*(shown if part != "true labels" else (named(kind), *shown)))
        if part != "labels only" and whole is True and holds is not True:
            said += " So a rise of the layers themselves is not shown."
        statements.append(Statement(f"{claim}, {part}", said, estimate, lower, upper, holds, domain))
    return statements


def labels_not_trained_for(studies: Sequence[Study], domain: str) -> list[Statement]:
    """By how much fine-tuning changes the convexity of the data's other labels, of one domain; the paper claims nothing."""
    statements = []
    for study in studies if domain != "all" else ():
        for labeling in list(study.domain["labelings"])[1:]:
            for kind in KINDS:
                rows = change_rows(study, kind, labeling)
                if rows:
                    estimate, lower, upper = over_domains([changed(rows)])
                    text = (
                        f"In {domain}, fine-tuned for {true_labels(study)}, the {named(kind)} convexity of {labeling} "
                        f"changes by {points(estimate)} points on average over layers {ends(lower, upper)}."
                    )
                    claim = f"labels not trained for: {labeling}, {kind}"
                    statements.append(Statement(claim, text, estimate, lower, upper, sign(lower, upper), domain))
    return statements


def most_in_late_layers(studies: Sequence[Study], domain: str) -> list[Statement]:
    """The change of the later half of the layers less that of the earlier half; a middle layer is in neither.

    Errors are taken as wholly correlated within a half and as independent between the halves.
    """
    statements = []
    for kind in KINDS:
        changes = {}
        for study in studies:
            rows = sorted(change_rows(study, kind), key=lambda row: row.layer_index)
            half = len(rows) // 2
            if half:
                (early, early_half), (late, late_half) = changed(rows[:half]), changed(rows[-half:])
                changes[study.name] = late - early, math.hypot(late_half, early_half)
        if not changes:
            continue
        differences = list(changes.values())
        estimate, lower, upper = over_domains(differences)
        holds = sign(lower, upper)
        text = (
            f"{where(len(differences), domain)} the later half of the layers changes in {named(kind)} convexity by "
            f"{points(estimate)} points more than the earlier half {ends(lower, upper)}."
        )
        if domain == "all":
            text += f" {by_domain(list(changes), differences)}"
        text += contrast(holds, "The paper found the rise mostly in late layers; here it is larger in early ones.")
        statements.append(Statement(f"most in late layers: {kind}", text, estimate, lower, upper, holds, domain))
    return statements
