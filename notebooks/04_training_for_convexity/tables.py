"""The tables: means, paired differences from "nothing" with t intervals over seeds, and the criteria of success."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from cells import Cell, read_results
from scipy.stats import ttest_rel

from jaxconvex.statistics.comparison import paired_difference
from jaxconvex.study.claims.layers import holm

__all__ = [
    "Criteria",
    "Difference",
    "against",
    "differences",
    "means",
    "success",
    "tables",
    "with_room",
    "write",
]

BASELINE = "nothing"
ROOM = 0.92  # a layer whose baseline is below has room
OURS = (  # with few labels
    "paths",
    "paths_if_trusted",
    "paths_and_contrastive",
    "paths_and_graph",
    "paths_mixed",
    "paths_mixed_if_confident",
)
SCORES = ("graph/true", "graph/predicted", "euclidean/true", "euclidean/predicted")


class Difference(NamedTuple):
    """A method less the baseline on one data set in one metric, over the seeds that both have."""

    data_set: str
    method: str
    weight: float
    metric: str
    baseline: float
    mean: float
    difference: float
    lower: float
    upper: float
    seeds: int


class Criteria(NamedTuple):
    """What counts as success, fixed in advance; fractions, not points."""

    convexity: float = 0.05  # mean difference in layers with room, at least
    convexity_lower: float = 0.03  # and the lower end of its interval above this
    accuracy_lower: float = -0.01  # and the lower end of accuracy's above this
    data_sets: int = 3  # on at least so many


Row = Mapping[str, Any]


def differences(rows: Iterable[Row], *, baseline: str = BASELINE, confidence: float = 0.95) -> list[Difference]:
    """Mean paired difference from the baseline, and its t interval, for each data set, method and metric.

    Seeds where either is not finite are left out of that metric. With fewer than two seeds the interval is nan.
    """
    series = _series(rows)
    base = {(name, metric): values for (name, method, _, metric), values in series.items() if method == baseline}
    found = []
    for (name, method, weight, metric), values in series.items():
        other = base.get((name, metric), {})
        seeds = sorted(seed for seed in values.keys() & other.keys() if np.isfinite(values[seed] + other[seed]))
        if method != baseline and seeds:
            ours, theirs = (np.array([of[seed] for seed in seeds]) for of in (values, other))
            ends = _t_interval(theirs, ours, confidence)
            found.append(
                Difference(name, method, weight, metric, float(theirs.mean()), float(ours.mean()), *ends, len(seeds))
            )
    return found


def with_room(rows: Iterable[Row], *, baseline: str = BASELINE, room: float = ROOM) -> list[dict[str, Any]]:
    """The rows, each with the mean of a score over the hidden layers, and over those that have room.

    "graph/true/mean" and so on are means over all hidden layers; "graph/true/room" and "graph/predicted/room" are over the
    layers where the baseline's mean over seeds of that score is below `room`, nan for a data set none of whose layers is.
    """
    rows = [dict(row) for row in rows]
    below: dict[tuple[str, str], list[str]] = {}
    for (name, method, _, metric), values in _series(rows).items():
        if (
            method == baseline
            and metric[-1].isdigit()
            and metric.startswith(SCORES)
            and np.nanmean([*values.values()]) < room
        ):
            below.setdefault((name, metric.rsplit("/", 1)[0]), []).append(metric)
    for row in rows:
        for score in SCORES:
            layers = [metric for metric in row if metric.startswith(score + "/") and metric[-1].isdigit()]
            with_room = below.get((row["data_set"], score), [])
            row |= {f"{score}/mean": _mean(row[m] for m in layers), f"{score}/room": _mean(row[m] for m in with_room)}
    return rows


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return float(np.mean(values)) if values else float("nan")


def means(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Mean and standard deviation over seeds, for each data set, method, weight and metric."""
    table = []
    for (name, method, weight, metric), values in _series(rows).items():
        finite = np.array([value for value in values.values() if np.isfinite(value)])
        table.append(
            {
                "data_set": name,
                "method": method,
                "weight": weight,
                "metric": metric,
                "mean": float(finite.mean()) if len(finite) else float("nan"),
                "sd": float(finite.std(ddof=1)) if len(finite) > 1 else float("nan"),
                "seeds": len(finite),
            }
        )
    return table


def success(found: Sequence[Difference], criteria: Criteria = Criteria()) -> list[dict[str, Any]]:
    """For each method, by true and by predicted classes, on which data sets it meets the criteria, and whether on enough.

    Args:
        found: of rows that went through `with_room`.
    """
    by_name = {(d.method, d.data_set, d.metric): d for d in found}
    table = []
    for score in SCORES[:2]:
        for method in dict.fromkeys(d.method for d in found):
            met = [
                name
                for name in dict.fromkeys(d.data_set for d in found)
                if _meets(
                    by_name.get((method, name, f"{score}/room")), by_name.get((method, name, "accuracy")), criteria
                )
            ]
            answer = "yes" if len(met) >= criteria.data_sets else "no"
            table.append(
                {"score": score, "method": method, "data_sets_met": " ".join(met), "count": len(met), "success": answer}
            )
    return table


def against(rows: Iterable[Row], method: str, *, metric: str = "accuracy") -> list[dict[str, Any]]:
    """The method less every other one on each data set, paired by seed, with p values of t tests corrected by Holm's rule.

    The correction is over the other methods of a data set. `better` and `worse` say what stands at 5 percent.
    """
    series = {key: values for key, values in _series(rows).items() if key[3] == metric}
    found = []
    for name in dict.fromkeys(key[0] for key in series):
        of = {m: values for (n, m, _, _), values in series.items() if n == name}
        if method not in of:
            continue
        table = []
        for other, values in of.items():
            seeds = sorted(values.keys() & of[method].keys())
            if other != method and len(seeds) > 1:
                ours, theirs = (np.array([v[seed] for seed in seeds]) for v in (of[method], values))
                ends = _t_interval(theirs, ours, 0.95)
                p = float(ttest_rel(ours, theirs).pvalue) if np.ptp(ours - theirs) else float(not np.any(ours - theirs))
                table.append({"data_set": name, "method": method, "other": other, "difference": ends[0]})
                table[-1] |= {"lower": ends[1], "upper": ends[2], "p": p, "seeds": len(seeds)}
        for row, corrected in zip(table, holm([row["p"] for row in table]).tolist(), strict=True):
            row["p_holm"] = corrected
            row["better"], row["worse"] = (corrected < 0.05 and sign * row["difference"] > 0 for sign in (1, -1))
        found += table
    return found


def tables(options: Any) -> None:
    """Writes the CSV files of the experiments that were run to OUT/tables."""
    folder = Path(options.out) / "tables"
    for path in sorted(Path(options.out).glob("*.jsonl")):
        write(folder / f"{path.stem}_means.csv", means(read_results(path)))
    rows = read_results(Path(options.out) / "test.jsonl")
    if rows:
        found = differences(with_room(rows))
        write(folder / "test_differences.csv", [d._asdict() for d in found])
        write(folder / "success.csv", success(found))
    for stage in ("few", "few_second"):
        rows = read_results(Path(options.out) / f"{stage}.jsonl")
        if rows:
            write(folder / f"{stage}_against.csv", [row for ours in OURS for row in against(rows, ours)])


def write(path: Path, rows: Sequence[Row]) -> None:
    """Writes rows of one kind as a CSV file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else [])
        writer.writeheader()
        writer.writerows(rows)


def _series(rows: Iterable[Row]) -> dict[tuple[str, str, float, str], dict[int, float]]:
    """The values by seed of each data set, method, weight and metric."""
    series: dict[tuple[str, str, float, str], dict[int, float]] = {}
    for row in rows:
        for metric in row.keys() - set(Cell._fields):
            name = row["data_set"], row["method"], row["weight"], metric
            series.setdefault(name, {})[row["seed"]] = row[metric]
    return dict(sorted(series.items()))


def _t_interval(a: np.ndarray, b: np.ndarray, confidence: float) -> tuple[float, float, float]:
    """The mean of b - a and its interval: the jackknife of a mean, a seed left out at a time, is the t interval."""
    if len(a) < 2:
        return float(np.mean(b - a)), float("nan"), float("nan")
    without_a, without_b = ((v.sum() - v) / (len(v) - 1) for v in (a, b))
    interval = paired_difference(a.mean(), b.mean(), without_a, without_b, confidence=confidence)
    return float(interval.estimate), float(interval.lower), float(interval.upper)


def _meets(convexity: Difference | None, accuracy: Difference | None, criteria: Criteria) -> bool:
    return (
        convexity is not None
        and accuracy is not None
        and convexity.difference >= criteria.convexity
        and convexity.lower > criteria.convexity_lower
        and accuracy.lower > criteria.accuracy_lower
    )
