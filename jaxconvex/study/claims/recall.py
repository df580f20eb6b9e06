"""Claims on classes: convexity before fine-tuning predicts recall after it, and does so beside simpler measures."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Float
from scipy.special import ndtri

from jaxconvex._internal.formats import FEW_CLASSES
from jaxconvex.statistics.correlation import Correlation, domain_correlation, pearson
from jaxconvex.study.analyses.adding import Beside, what_convexity_adds
from jaxconvex.study.claims.words import (
    Statement,
    coefficient_text,
    contrast,
    correlation_text,
    macro_rows,
    mean,
    named,
    sign,
    where,
)
from jaxconvex.study.results import Study

__all__ = ["beside_simpler_measures", "no_correlation", "predicts_recall", "recall_pairs"]

KINDS = ("graph", "euclidean")
AT_CEILING = 0.98
PAPER = {"graph": "0.22 ± 0.06", "euclidean": "0.24 ± 0.06"}  # pooled Pearson r, with its standard error


def recall_pairs(study: Study, kind: str) -> tuple[Float[np.ndarray, " c"], Float[np.ndarray, " c"]]:
    """Convexity of the pretrained network (mean over layers) and recall after fine-tuning, of each class; may be NaN."""
    values = np.array([(getattr(row, kind), row.recall) for row in study.classes], np.float64).reshape(-1, 2)
    return values[:, 0], values[:, 1]


def no_correlation(convexity: np.ndarray, recall: np.ndarray) -> str:
    """Why there is no correlation to tell, in a few words; empty where there is one.

    There is none of fewer than `FEW_CLASSES` classes, nor where recall is at its ceiling: where half the classes or more
    have a recall of `AT_CEILING`, so that what is left is which class has one of its few errors; nor of constants.

    >>> no_correlation(np.array([0.2, 0.3]), np.array([0.9, 0.8])), no_correlation(np.arange(6.0), np.ones(6))
    ('too few classes: 2', 'recall is at its ceiling')
    """
    both = np.isfinite(convexity) & np.isfinite(recall)
    if np.sum(both) < FEW_CLASSES:
        return f"too few classes: {np.sum(both)}"
    if np.median(recall[both]) >= AT_CEILING:
        return "recall is at its ceiling"
    return "" if np.ptp(convexity[both]) and np.ptp(recall[both]) else "constant"


def predicts_recall(studies: Sequence[Study], domain: str) -> list[Statement]:
    """The correlation of convexity before fine-tuning and recall after it, over classes; of several domains within, too."""
    statements, key = [], jax.random.key(0)  # of the classes that are drawn again for an interval
    for kind in KINDS:
        pairs = [recall_pairs(study, kind) for study in studies if study.classes]
        pairs = [both for both in pairs if domain != "all" or np.isfinite(both[1]).any()]
        if not pairs or not any(np.isfinite(recall).any() for _, recall in pairs):
            continue
        x, y = (np.concatenate(values) for values in zip(*pairs, strict=True))
        why = no_correlation(x, y)
        if why:
            text = (
                f"{where(len(pairs), domain)} there is no correlation of the {named(kind)} convexity of a class before "
                f"fine-tuning with its recall after it to tell: {WHY[why.split(':')[0]].format(_with_both(x, y))}"
            )
            statements.append(Statement(f"predicts recall: {kind}", text, math.nan, math.nan, math.nan, None, domain))
            continue
        correlation, rank = domain_correlation(pairs, key), domain_correlation(pairs, key, ranks=True)
        lost = len(x) - correlation.num_points
        text = (
            f"{where(len(pairs), domain)} the {named(kind)} convexity of a class before fine-tuning and its recall after it "
            f"have Pearson r = {correlation_text(correlation)}, Spearman {correlation_text(rank)}, over "
            f"{correlation.num_points} classes"
            f"{f' ({lost} more have no value and are not in it)' if lost else ''}."
        )
        holds = sign(correlation.lower, correlation.upper)
        if len(pairs) > 1:
            text += " The intervals are for other classes of these domains."
        if domain == "all":
            text += f" The paper found r = {PAPER[kind]} over all its domains; here {_paper(correlation, kind)}."
        else:
            text += contrast(holds, f"The paper found r = {PAPER[kind]} over all its domains; here it is negative.")
        statements.append(Statement(f"predicts recall: {kind}", text, *correlation[:3], holds, domain))
        if len(pairs) > 1:
            inner = domain_correlation(pairs, key, within=True)
            holds = sign(inner.lower, inner.upper)
            text = f"Within domains (both less their domain's mean) {named(kind)} convexity and recall have "
            text += f"r = {correlation_text(inner)}."
            text += contrast(holds, "Pooling hides this: within domains the relation is the other way round.")
            statements.append(Statement(f"predicts recall: {kind}, within domains", text, *inner[:3], holds, domain))
    return statements


WHY = {
    "too few classes": f"{{}} classes have both, and {FEW_CLASSES} are the fewest.",
    "recall is at its ceiling": f"recall is at its ceiling, {100 * AT_CEILING:.0f} percent or more in half of {{}} classes.",
    "constant": "one of the two is constant over {} classes.",
}


def _with_both(x: np.ndarray, y: np.ndarray) -> int:
    return int(np.sum(np.isfinite(x) & np.isfinite(y)))


def _paper(correlation: Correlation, kind: str) -> str:
    value = float(PAPER[kind].split()[0])
    if math.isnan(correlation.lower):
        return "there are too few classes for an interval"
    side = "above" if correlation.lower > value else "below"
    return (
        "the interval holds that value"
        if correlation.lower <= value <= correlation.upper
        else f"the interval lies {side} it"
    )


def beside_simpler_measures(studies: Sequence[Study], domain: str) -> list[Statement]:
    """Whether convexity tells more of recall than a simpler measure does: their partial correlation, and r over the layers.

    Over domains partial correlations are averaged as Fisher's z, with weights n - 4 for n classes. A measure that is told
    of layers only gets r over the layers; that decides nothing.
    """
    with_rows = [study for study in studies if study.measures]
    over_layers: dict[str, list[Correlation]] = {}
    over_classes: dict[str, list[Beside]] = {}
    for study in with_rows:
        for measure, correlation in _over_layers(study).items():
            over_layers.setdefault(measure, []).append(correlation)
        convexity = {row.label: row.graph for row in study.classes if row.label is not None}
        recall = {row.label: row.recall for row in study.classes if row.label is not None}
        of_classes = [row for row in study.measures if row.label is not None]
        for beside in what_convexity_adds(convexity, recall, of_classes) if of_classes and convexity else ():
            over_classes.setdefault(beside.measure, []).append(beside)
    statements = []
    for measure, layers in over_layers.items():
        text = f"{where(len(layers), domain)} graph convexity and {measure} correlate over the layers of the "
        text += f"pretrained network with r = {_mean_correlation(layers)}"
        rows = over_classes.get(measure, [])
        if not rows:
            estimate, lower, upper = (
                layers[0][:3] if len(layers) == 1 else (mean(single[0] for single in layers), *[math.nan] * 2)
            )
            statements.append(
                Statement(f"beside simpler measures: {measure}", f"{text}.", estimate, lower, upper, None, domain)
            )
            continue
        estimate, lower, upper = _partial(rows)
        holds = sign(lower, upper)
        measured, convex = (
            mean(row.measure_with_recall for row in rows),
            mean(row.convexity_with_recall for row in rows),
        )
        text += (
            f"; over classes {measure} and recall have r = {coefficient_text(measured)}, "
            f"convexity and recall {coefficient_text(convex)}, and given {measure} convexity and recall "
            f"still have r = {correlation_text(Correlation(estimate, lower, upper, 0))}."
        )
        text += contrast(holds, f"So given {measure} a more convex class is recalled worse.")
        statements.append(Statement(f"beside simpler measures: {measure}", text, estimate, lower, upper, holds, domain))
    return statements


def _over_layers(study: Study) -> dict[str, Correlation]:
    convexity = {row.layer_index: row.score for row in macro_rows(study, "graph") if row.network == "pretrained"}
    pairs: dict[str, list[tuple[float, float]]] = {}
    for row in study.measures:
        if (
            row.network == "pretrained"
            and row.label is None
            and math.isfinite(row.value)
            and row.layer_index in convexity
        ):
            pairs.setdefault(row.measure, []).append((convexity[row.layer_index], row.value))
    return {measure: pearson(*np.array(values).T) for measure, values in pairs.items()}


def _mean_correlation(correlations: Sequence[Correlation]) -> str:
    if len(correlations) == 1:
        return correlation_text(correlations[0])
    known = [correlation.coefficient for correlation in correlations if math.isfinite(correlation.coefficient)]
    return f"{mean(known):.2f} (mean; {min(known):.2f} to {max(known):.2f})" if known else "not defined"


def _partial(rows: Sequence[Beside]) -> tuple[float, float, float]:
    """The partial correlation over domains with its interval."""
    if len(rows) == 1:
        return rows[0].partial, rows[0].lower, rows[0].upper
    known = [row for row in rows if math.isfinite(row.partial) and abs(row.partial) < 1 and row.num_classes > 4]
    if not known:
        return math.nan, math.nan, math.nan
    weights = np.array([row.num_classes - 4 for row in known])
    centre = np.average(np.arctanh([row.partial for row in known]), weights=weights)
    lower, estimate, upper = np.tanh(centre + np.array([-1, 0, 1]) * ndtri(0.975) / math.sqrt(weights.sum()))
    return float(estimate), float(lower), float(upper)
