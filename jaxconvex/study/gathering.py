"""From the reports of a study's networks to its rows: scores, paired changes, and classes with their recall."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import stdtrit

from jaxconvex.report import Report, class_means, select
from jaxconvex.statistics import paired_difference
from jaxconvex.study.results import ChangeRow, ClassRow, NetworkRow, ScoreRow

__all__ = ["PREDICTED", "changes", "classes", "scores"]

PREDICTED = "predicted"


def scores(network: NetworkRow, report: Report) -> list[ScoreRow]:
    return [
        ScoreRow(
            network=network.network,
            seed=network.seed,
            kind=row.kind,
            labeling=row.labeling,
            layer=row.layer,
            layer_index=row.layer_index,
            level=row.level,
            score=row.score,
            se=row.se_jackknife,
            lower=row.lower,
            upper=row.upper,
            null_mean=row.null_mean,
            null_lower=row.null_lower,
            null_upper=row.null_upper,
            p_value=row.p_value,
            num_points=row.num_points,
            num_pairs=row.num_pairs,
        )
        for row in report.rows
        if row.level != "class"
    ]


def changes(before: Report, after: Sequence[Report]) -> list[ChangeRow]:
    """Paired differences of the macro scores, a row a seed and one for their mean."""
    made = []
    for rows in zip(*(select(report, level="macro") for report in (before, *after)), strict=True):
        first, others = rows[0], rows[1:]
        place = (first.kind, first.labeling, first.layer, first.layer_index)
        assert all((row.kind, row.labeling, row.layer, row.layer_index) == place for row in others)
        replicates = [np.array(row.replicates) for row in others]
        scores = [row.score for row in others]
        for seed, (score, without) in enumerate(zip(scores, replicates, strict=True)):
            found = _paired(first, score, without)
            made.append(ChangeRow(*place, seed, first.score, score, *found[:2], math.nan, *found[2:]))
        difference, se, _, _ = _paired(first, float(np.mean(scores)), np.mean(replicates, axis=0))
        spread = float(np.std(scores, ddof=1)) if len(scores) > 1 else math.nan
        total = math.sqrt(se**2 + (spread**2 / len(scores) if len(scores) > 1 else 0))
        half = float(stdtrit(len(first.replicates) - 1, 0.975)) * total
        ends = difference - half, difference + half
        made.append(ChangeRow(*place, None, first.score, float(np.mean(scores)), difference, total, spread, *ends))
    return made


def _paired(first: Any, score: float, without: np.ndarray) -> tuple[float, float, float, float]:
    found = paired_difference(np.array(first.score), np.array(score), np.array(first.replicates), without)
    return tuple(float(value) for value in found)  # type: ignore[return-value]


def classes(before: Report, after: Sequence[Report], main: str) -> list[ClassRow]:
    def of(report: Report, kind: str, labeling: str, field: str = "score") -> dict[Any, float]:
        kinds = {row.kind for row in report.rows if row.labeling == labeling}
        return class_means(report, kind=kind, labeling=labeling, field=field) if kind in kinds else {}

    recalls = [of(report, "graph", PREDICTED, "recall") for report in after]
    points = {row.label: row.num_points for row in select(before, kind="graph", labeling=main, level="class")}
    pre = of(before, "graph", PREDICTED, "recall")
    found = [of(before, kind, labeling) for labeling in (PREDICTED, main) for kind in ("graph", "euclidean")]
    made = []
    for label, number in points.items():
        values = np.array([recall.get(label, math.nan) for recall in recalls])
        graph, euclidean, graph_true, euclidean_true = (score.get(label, math.nan) for score in found)
        made.append(
            ClassRow(
                label,
                number,
                graph=graph,
                euclidean=euclidean,
                graph_true=graph_true,
                euclidean_true=euclidean_true,
                recall_pretrained=pre.get(label, math.nan),
                recall=float(values.mean()),
                recall_spread=float(values.std(ddof=1)) if len(values) > 1 else math.nan,
            )
        )
    return made
