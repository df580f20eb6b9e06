"""A study in one line: accuracy, convexity of the first and last layer before and after fine-tuning, r with recall."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxconvex._internal.formats import Table, percent_text
from jaxconvex.evaluation.sentences import Findings
from jaxconvex.evaluation.table import HUBS
from jaxconvex.statistics.correlation import pearson
from jaxconvex.study.claims.recall import no_correlation, recall_pairs
from jaxconvex.study.claims.words import (
    change_rows,
    correlation_text,
    ends,
    macro_rows,
    mean,
    points,
    spot,
    true_labels,
)
from jaxconvex.study.failures import failed_seeds
from jaxconvex.study.results import LABELS_ONLY, LAYERS_ONLY, PREDICTED, ChangeRow, Study
from jaxconvex.study.statements import Statement

__all__ = ["SummaryRow", "headline", "hubs", "study_findings", "summary_row", "summary_rows", "summary_table"]

# The statements that stand first, each by its first sentence; of a single domain its headline tells what is raised.
FIRST = (
    "above the null",
    "raised by fine-tuning: graph",
    "raised by fine-tuning: graph, true labels",
    "predicts recall: graph",
)

KINDS = ("graph", "euclidean")


class SummaryRow(NamedTuple):
    """A domain in one line: fractions; spreads are standard deviations over seeds; NaN for what was not run."""

    domain: str
    test_points: int
    classes: int
    layers: int
    seeds: int
    failed: int  # fine-tunings that failed: they count in the accuracy only
    accuracy_pretrained: float
    accuracy: float
    accuracy_spread: float
    graph_first_pretrained: float
    graph_first: float
    graph_last_pretrained: float
    graph_last: float
    euclidean_first_pretrained: float
    euclidean_first: float
    euclidean_last_pretrained: float
    euclidean_last: float
    r_graph: float
    r_graph_lower: float
    r_graph_upper: float
    r_euclidean: float
    r_euclidean_lower: float
    r_euclidean_upper: float
    graph_first_pretrained_true: float  # by the labels that the network is trained for
    graph_first_true: float
    graph_last_pretrained_true: float
    graph_last_true: float
    euclidean_first_pretrained_true: float
    euclidean_first_true: float
    euclidean_last_pretrained_true: float
    euclidean_last_true: float


def summary_rows(studies: Sequence[Study]) -> tuple[SummaryRow, ...]:
    """A line a domain: accuracy, convexity of the first and last layer before and after fine-tuning, r with recall."""
    return tuple(summary_row(study) for study in studies)


def summary_table(studies: Sequence[Study]) -> Table:
    """The same as a table for people, in percent: `to_text` and `to_rich` show it on a terminal.

    A domain has a line by predicted labels, and one by true labels.
    """
    columns = ("domain", "labels", "classes", "right before", "after", "graph first", "graph last", "Eucl. first",
               "Eucl. last", "r graph", "r Eucl.")  # fmt: skip
    lines = []
    for study, row in zip(studies, summary_rows(studies), strict=True):
        spread = f" ± {percent_text(row.accuracy_spread)}" if math.isfinite(row.accuracy_spread) else ""
        start = [row.domain, "predicted", str(row.classes), percent_text(row.accuracy_pretrained)]
        start.append(f"{percent_text(row.accuracy)}{spread}")
        r = [_recall_text(study, kind) for kind in KINDS]
        lines.append((*start, *_changes(row, ""), *r))
        lines.append((row.domain, "true", "", "", "", *_changes(row, "_true"), "", ""))
    notes = [
        "Percent, before → after fine-tuning (mean over seeds, ± their standard deviation): test points told right, and "
        "convexity of the first and the last layer, by the labels that each network predicts, which change, and by those of "
        "the data, which do not. r: convexity before and recall after, over classes.",
        *filter(None, map(headline, studies)),
        *filter(None, map(hubs, studies)),
    ]
    return Table("Before and after fine-tuning", columns, tuple(lines), tuple(notes), 2)


def study_findings(studies: Sequence[Study], statements: Sequence[Statement]) -> Findings:
    """What the studies found, in at most five sentences, and what would mislead: hubs, and what was cut or left out."""
    several = len(studies) > 1
    chosen = {one.claim: one.text for one in statements if one.domain == "all" or not several}
    told = {
        claim: text if len(text) <= 160 else text.split(". ")[0].rstrip(".") + "." for claim, text in chosen.items()
    }
    rows = summary_rows(studies)
    if several:
        said = [f"{len(studies)} domains: {', '.join(row.domain for row in rows)}."]
        said[0] += " In each a pretrained network is measured in every layer, fine-tuned, and measured again."
    else:
        row, seeds = rows[0], f", mean of {rows[0].seeds} runs" if rows[0].seeds > 1 else ""
        said = [
            f"The network gets {percent_text(row.accuracy_pretrained)} percent of {row.test_points:,} test points right "
            f"before fine-tuning and {percent_text(row.accuracy)} percent after it{seeds}."
            if math.isfinite(row.accuracy)
            else "No fine-tuned network was measured."
        ]
        told["raised by fine-tuning: graph"] = headline(studies[0])
        told.pop("raised by fine-tuning: graph, true labels", None)
    said[0] += " Numbers in brackets are 95 percent intervals, differences are in percentage points."
    said += filter(None, (told.get(claim) for claim in FIRST))
    notes = [f"{study.name}: {' '.join(study.notes)}" for study in studies if study.notes]
    told_of = "Notes on the data and the training: what was thinned, cut or left out. "
    return Findings(tuple(said), (*filter(None, map(hubs, studies)), *([told_of + " ".join(notes)] if notes else [])))


def _changes(row: SummaryRow, end: str) -> list[str]:
    places = ("graph_first", "graph_last", "euclidean_first", "euclidean_last")
    pairs = [(getattr(row, f"{field}_pretrained{end}"), getattr(row, f"{field}{end}")) for field in places]
    return [f"{percent_text(before)} → {percent_text(after)}" for before, after in pairs]


def _recall_text(study: Study, kind: str) -> str:
    pairs = recall_pairs(study, kind)
    if not np.isfinite(pairs[1]).any():  # no fine-tuning is left that did not fail
        return "–"
    return no_correlation(*pairs) or correlation_text(pearson(*pairs))


def headline(study: Study) -> str:
    """What a referee asks first: how much of the change of graph convexity is one of the labels, how much of the layers.

    Empty where no fine-tuning is left that did not fail.
    """
    changes = {}
    for labeling in (PREDICTED, LABELS_ONLY, LAYERS_ONLY, true_labels(study)):
        rows = change_rows(study, "graph", labeling)
        changes[labeling] = f"{points(mean(r.difference for r in rows))} {_mean_ends(rows)}" if rows else ""
    whole, labels, layers, truth = changes.values()
    if not whole:
        return ""
    text = f"{study.name}: fine-tuning changes graph convexity, mean over layers, by {whole} points by predicted labels"
    if labels and layers:
        text += f", of which {labels} are the change of the labels and {layers} that of the layers"
    return text + (f"; by true labels by {truth}." if truth else ".")


def hubs(study: Study) -> str:
    """Which layers have hubs, and what the cosine metric says of the worst; empty where none has."""
    rows = [row for row in macro_rows(study, "graph") if row.hubness > HUBS]
    if not rows:
        return ""
    worst = max(rows, key=lambda row: row.hubness)
    text = (
        f"{study.name}: hubness is above {HUBS:g} in {len(rows)} of {len(macro_rows(study, 'graph'))} layers (each network "
        f"by itself); in {spot(study, worst, study.name)} it is {worst.hubness:.1f}, and one point is a neighbour of "
        f"{worst.hub} others, so that a few points decide the paths."
    )
    if math.isfinite(worst.cosine):
        text += f" That layer scores {percent_text(worst.score)}, by the cosine metric {percent_text(worst.cosine)}."
    return text


def _mean_ends(rows: Sequence[ChangeRow]) -> str:
    return ends(mean(row.lower for row in rows), mean(row.upper for row in rows))


def summary_row(study: Study) -> SummaryRow:
    """The line of one domain; classes without convexity or recall, and fine-tunings that failed, are left out of r."""
    accuracy: dict[str, list[float]] = {"pretrained": [], "fine-tuned": []}
    for network in study.networks:
        accuracy[network.network].append(network.accuracy)
    scores = {}
    for labeling in (PREDICTED, true_labels(study)):
        scores[labeling] = [value for kind in KINDS for value in _first_and_last(study, kind, labeling)]
    seeds = len(accuracy["fine-tuned"])
    correlations = []
    for kind in KINDS:
        pairs = recall_pairs(study, kind)
        correlations.append((math.nan,) * 3 if no_correlation(*pairs) else pearson(*pairs)[:3])
    return SummaryRow(
        study.name,
        int(study.domain.get("parts", {}).get("test", 0)),
        len(study.domain.get("classes", study.classes)),
        len(study.domain["layers"]),
        seeds,
        len(failed_seeds(study)),
        mean(accuracy["pretrained"]),
        mean(accuracy["fine-tuned"]),
        float(np.std(accuracy["fine-tuned"], ddof=1)) if seeds > 1 else math.nan,
        *scores[PREDICTED],
        *(float(value) for correlation in correlations for value in correlation),
        *scores[true_labels(study)],
    )


def _first_and_last(study: Study, kind: str, labeling: str) -> list[float]:
    """The score of the first layer before and after, and of the last, by one labeling; failed fine-tunings do not count."""
    failed = failed_seeds(study)
    rows = [row for row in macro_rows(study, kind, labeling) if row.network == "pretrained" or row.seed not in failed]
    ends = [find((row.layer_index for row in rows), default=0) for find in (min, max)]
    return [
        mean([row.score for row in rows if (row.network, row.layer_index) == (network, end)])
        for end in ends
        for network in ("pretrained", "fine-tuned")
    ]
