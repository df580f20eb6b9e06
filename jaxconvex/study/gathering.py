"""From the reports of a study's networks to its rows: scores, paired changes, and classes with their recall."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import stdtrit

from jaxconvex.evaluation.report import Report, Row, class_means, select
from jaxconvex.statistics.comparison import paired_difference
from jaxconvex.study.results import (
    LABELS_ONLY,
    LAYERS_ONLY,
    PREDICTED,
    ChangeRow,
    ClassRow,
    NetworkRow,
    ScoreRow,
)

__all__ = ["changes", "classes", "labels_of", "scores"]

AS_REPORTED = tuple(field for field in ScoreRow._fields if field in Row._fields)


def labels_of(seed: int) -> str:
    """The labeling of pretrained layers by what the network says that was fine-tuned with this seed."""
    return f"{PREDICTED} by fine-tuned-{seed}"


def scores(network: NetworkRow, report: Report) -> list[ScoreRow]:
    """The report's scores of one network, macro and micro, a row each; those of classes are left out."""
    return [
        ScoreRow(
            network=network.network,
            seed=network.seed,
            se=row.se_jackknife,
            **{field: getattr(row, field) for field in AS_REPORTED},
        )
        for row in report.rows
        if row.level != "class"
    ]


def changes(before: Report, after: Sequence[Report], sound: Sequence[bool]) -> list[ChangeRow]:
    """Paired differences of the macro scores, a row a seed and one for their mean over the seeds that did not fail.

    The change by predicted labels is also told in its two parts: see `ChangeRow`.
    """
    starts = select(before, level="macro")
    ends = [{_key(row): row for row in select(report, level="macro")} for report in after]
    others = {_key(row): row for row in starts}
    differences = []
    for first in starts:
        if first.labeling.startswith(f"{PREDICTED} by "):
            continue
        finer = [rows[_key(first)] for rows in ends]
        differences += _changes(first, first.labeling, [first] * len(finer), finer, sound)
        relabelled = [others.get((first.kind, labels_of(seed), first.layer)) for seed in range(len(finer))]
        if first.labeling == PREDICTED and all(row is not None for row in relabelled):
            differences += _changes(first, LABELS_ONLY, [first] * len(finer), relabelled, sound)
            differences += _changes(first, LAYERS_ONLY, relabelled, finer, sound)
    return differences


def _changes(
    first: Row, labeling: str, before: Sequence[Any], after: Sequence[Any], sound: Sequence[bool]
) -> list[ChangeRow]:
    key = (first.kind, labeling, first.layer, first.layer_index)
    differences = []
    for seed, pair in enumerate(zip(before, after, strict=True)):
        paired = _paired(*(_mean([row]) for row in pair))
        differences.append(ChangeRow(*key, seed, pair[0].score, pair[1].score, *paired[:2], math.nan, *paired[2:]))
    if not any(sound):
        return differences
    means = [_mean([row for row, fine in zip(rows, sound, strict=True) if fine]) for rows in (before, after)]
    difference, se, _, _ = _paired(*means)
    single = [row.difference for row, fine in zip(differences, sound, strict=True) if fine]
    spread = float(np.std(single, ddof=1)) if len(single) > 1 else math.nan
    total = math.sqrt(se**2 + (spread**2 / len(single) if len(single) > 1 else 0))
    half = float(stdtrit(max(len(first.replicates) - 1, 1), 0.975)) * total
    values = (means[0][0], means[1][0], difference, total, spread, difference - half, difference + half)
    return [*differences, ChangeRow(*key, None, *values)]


def _key(row: Row) -> tuple[Any, ...]:
    return row.kind, row.labeling, row.layer


def _mean(rows: Sequence[Row]) -> tuple[float, np.ndarray, np.ndarray, int]:
    """The mean score, those of the replicates without one and without two groups, and the units that were sampled."""
    alone, joint = (np.mean([getattr(row, field) for row in rows], axis=0) for field in ("replicates", "joint"))
    return float(np.mean([row.score for row in rows])), alone, joint, min(row.num_units for row in rows)


def _paired(before: tuple[Any, ...], after: tuple[Any, ...]) -> tuple[float, float, float, float]:
    """Difference, its standard error and interval; the latter NaN where there are no replicates, as of a few groups."""
    if not before[1].size:
        return after[0] - before[0], math.nan, math.nan, math.nan
    joint = (before[2], after[2]) if before[2].size else None
    difference = paired_difference(
        np.array(before[0]), np.array(after[0]), before[1], after[1], joint=joint, num_points=(before[3], after[3])
    )
    return tuple(float(value) for value in difference)  # type: ignore[return-value]


def classes(before: Report, after: Sequence[Report], main: str, sound: Sequence[bool]) -> list[ClassRow]:
    """A row a class of the main labeling; recalls after fine-tuning are of the seeds that did not fail, NaN if all did."""

    def of(report: Report, kind: str, labeling: str, field: str = "score") -> dict[Any, float]:
        kinds = {row.kind for row in report.rows if row.labeling == labeling}
        return class_means(report, kind=kind, labeling=labeling, field=field) if kind in kinds else {}

    recalls = [of(report, "graph", PREDICTED, "recall") for report, fine in zip(after, sound, strict=True) if fine]
    points = {row.label: row.num_points for row in select(before, kind="graph", labeling=main, level="class")}
    pre = of(before, "graph", PREDICTED, "recall")
    convexities = [of(before, kind, labeling) for labeling in (PREDICTED, main) for kind in ("graph", "euclidean")]
    rows = []
    for label, number in points.items():
        values = np.array([recall.get(label, math.nan) for recall in recalls])
        graph, euclidean, graph_true, euclidean_true = (score.get(label, math.nan) for score in convexities)
        rows.append(
            ClassRow(
                label,
                number,
                graph=graph,
                euclidean=euclidean,
                graph_true=graph_true,
                euclidean_true=euclidean_true,
                recall_pretrained=pre.get(label, math.nan),
                recall=float(values.mean()) if len(values) else math.nan,
                recall_spread=float(values.std(ddof=1)) if len(values) > 1 else math.nan,
            )
        )
    return rows
