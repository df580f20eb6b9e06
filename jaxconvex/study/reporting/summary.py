"""A study in one line: accuracy, convexity of the first and last layer before and after fine-tuning, r with recall."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxconvex.formats import Table, percent_text
from jaxconvex.statistics import Correlation, pearson
from jaxconvex.study.claims.recall import recall_pairs
from jaxconvex.study.claims.words import correlation_text
from jaxconvex.study.results import Study

__all__ = ["SummaryRow", "summary_row", "summary_rows", "summary_table"]


class SummaryRow(NamedTuple):
    """A domain in one line: fractions; spreads are standard deviations over seeds; NaN for what was not run."""

    domain: str
    test_points: int
    classes: int
    layers: int
    seeds: int
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


def summary_rows(studies: Sequence[Study]) -> tuple[SummaryRow, ...]:
    """A line a domain: accuracy, convexity of the first and last layer before and after fine-tuning, r with recall."""
    return tuple(summary_row(study) for study in studies)


def summary_table(studies: Sequence[Study]) -> Table:
    """The same as a table for people, in percent: `to_text` and `to_rich` show it on a terminal."""
    columns = ("domain", "classes", "right before", "after", "graph first", "graph last", "Eucl. first", "Eucl. last",
               "r graph", "r Eucl.")  # fmt: skip
    lines = []
    for row in summary_rows(studies):
        spread = f" ± {percent_text(row.accuracy_spread)}" if math.isfinite(row.accuracy_spread) else ""
        cells = [row.domain, str(row.classes), percent_text(row.accuracy_pretrained)]
        cells.append(f"{percent_text(row.accuracy)}{spread}")
        for place in ("graph_first", "graph_last", "euclidean_first", "euclidean_last"):
            before, after = getattr(row, f"{place}_pretrained"), getattr(row, place)
            cells.append(f"{percent_text(before)} → {percent_text(after)}")
        for kind in ("graph", "euclidean"):
            r, lower, upper = (getattr(row, f"r_{kind}{end}") for end in ("", "_lower", "_upper"))
            cells.append(correlation_text(Correlation(r, lower, upper, row.classes)))
        lines.append(tuple(cells))
    notes = (
        "Percent, before → after fine-tuning (mean over seeds, ± their standard deviation): test points told right, and "
        "convexity of the first and the last layer. r: convexity before and recall after, over classes.",
    )
    return Table("Before and after fine-tuning", columns, tuple(lines), notes)


def summary_row(study: Study) -> SummaryRow:
    """The line of one domain; classes without convexity or recall are left out of r."""
    accuracy: dict[str, list[float]] = {"pretrained": [], "fine-tuned": []}
    for made in study.networks:
        accuracy[made.network].append(made.accuracy)
    scores = []
    for kind in ("graph", "euclidean"):
        rows = [row for row in study.scores if (row.kind, row.labeling, row.level) == (kind, "predicted", "macro")]
        ends = [min((row.layer_index for row in rows), default=0), max((row.layer_index for row in rows), default=0)]
        for end in ends:
            for network in accuracy:
                scores.append(_mean([row.score for row in rows if (row.network, row.layer_index) == (network, end)]))
    seeds = len(accuracy["fine-tuned"])
    correlations = [pearson(*recall_pairs(study, kind))[:3] for kind in ("graph", "euclidean")]
    return SummaryRow(
        study.name,
        int(study.domain.get("parts", {}).get("test", 0)),
        len(study.domain.get("classes", study.classes)),
        len(study.domain["layers"]),
        seeds,
        _mean(accuracy["pretrained"]),
        _mean(accuracy["fine-tuned"]),
        float(np.std(accuracy["fine-tuned"], ddof=1)) if seeds > 1 else math.nan,
        *scores,
        *(float(value) for found in correlations for value in found),
    )


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if math.isfinite(value)]
    return float(np.mean(known)) if known else math.nan
