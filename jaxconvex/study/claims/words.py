"""A statement, and the rows, means and words that statements are made of."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from jaxconvex._internal import formats
from jaxconvex.statistics.correlation import Correlation
from jaxconvex.study.results import PREDICTED, ChangeRow, ScoreRow, Study

__all__ = [
    "Statement", "begin", "by_domain", "coefficient_text", "change_rows", "changed", "contrast", "correlation_text", "ends",
    "half_width", "macro_rows", "mean", "named", "over_domains", "points", "shortened", "sign",
    "spot", "true_labels", "verdict_of_all", "where",
]  # fmt: skip


class Statement(NamedTuple):
    """A claim, what the numbers say of it, and the number that decides.

    `holds` is True where the interval lies clearly on the claim's side, False where clearly on the other, else None.
    """

    claim: str  # "group" or "group: detail"
    text: str
    estimate: float  # a fraction or a correlation; NaN where there is none
    lower: float
    upper: float
    holds: bool | None
    domain: str = "all"  # or the name of one domain


def macro_rows(study: Study, kind: str, labeling: str = PREDICTED) -> list[ScoreRow]:
    """The macro scores of one kind by one labeling, of all layers, networks and seeds."""
    key = (kind, labeling, "macro")
    return [row for row in study.scores if (row.kind, row.labeling, row.level) == key]


def change_rows(study: Study, kind: str, labeling: str = PREDICTED) -> list[ChangeRow]:
    """The change of the mean over the seeds, of the layers that have one."""
    key = (kind, labeling, None)
    rows = [row for row in study.changes if (row.kind, row.labeling, row.seed) == key]
    return [row for row in rows if math.isfinite(row.difference)]


def half_width(row: ScoreRow | ChangeRow) -> float:
    """Half the width of the row's interval; NaN where it has none."""
    return (row.upper - row.lower) / 2


def changed(rows: Sequence[ChangeRow]) -> tuple[float, float]:
    """The mean of the changes, and that of half their widths: the errors of layers are taken as wholly correlated."""
    return mean(row.difference for row in rows), mean(map(half_width, rows))


def mean(values: Iterable[float]) -> float:
    """The mean of those that are not NaN."""
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan


def verdict_of_all(verdicts: Iterable[bool | None]) -> bool | None:
    """The verdict on all together: False if one is, else None if one is undecided, else True, as for none at all."""
    known = list(verdicts)
    return False if False in known else None if None in known else True


def over_domains(changes: Sequence[tuple[float, float]]) -> tuple[float, float, float]:
    """The mean of (estimate, half width) over domains with its interval: errors independent, these domains only."""
    estimates, halves = np.array(changes, np.float64).T
    half = float(np.sqrt(np.sum(halves**2))) / len(halves)
    return float(estimates.mean()), float(estimates.mean()) - half, float(estimates.mean()) + half


def by_domain(names: Sequence[str], changes: Sequence[tuple[float, float]]) -> str:
    """A sentence that counts the domains whose interval, (estimate, half width), lies above 0, and below."""
    above = sum(value - half > 0 for value, half in changes)
    below = [name for name, (value, half) in zip(names, changes, strict=True) if value + half < 0]
    named = f" ({', '.join(below)})" if below else ""
    return f"By domain the interval is above 0 in {above} of {len(changes)}, below 0 in {len(below)}{named}."


def sign(lower: float, upper: float) -> bool | None:
    """True for an interval above 0, False for one below, None for one that holds 0 or has an end that is NaN."""
    return True if lower > 0 else False if upper < 0 else None


def contrast(holds: bool | None, against: str, undecided: str = "This is undecided.") -> str:
    """What follows a statement that does not hold, or is undecided; empty where it holds."""
    return f" {against}" if holds is False else f" {undecided}" if holds is None else ""


def named(kind: str) -> str:
    """The kind of convexity as prose writes it."""
    return "Euclidean" if kind == "euclidean" else kind


def true_labels(study: Study) -> str:
    """The labeling of the data that the network is fine-tuned for."""
    return str(next(iter(study.domain["labelings"]), ""))


def where(number: int, domain: str) -> str:
    """The domains that a sentence is about, as its beginning."""
    return f"Over {number} domain{'s' * (number > 1)}" if domain == "all" else f"In {domain}"


def begin(name: str) -> str:
    """The name as a sentence begins: a capital, but not for a symbol, as the k of "k = 5" is."""
    return name if name[1:4] in ("", " = ") else name[0].upper() + name[1:]


def spot(study: Study, row: ScoreRow, domain: str) -> str:
    """The layer and network of a row, with its seed if it has one; over all domains the study's name comes first."""
    network = row.network if row.seed is None else f"{row.network}, seed {row.seed}"
    return f"{f'{study.name}, ' if domain == 'all' else ''}{row.layer} {network}"


def shortened(names: Sequence[str], most: int = 8) -> str:
    """The names, separated by semicolons; beyond `most` of them only how many there are."""
    more = f"; and {len(names) - most} more" if len(names) > most else ""
    return "; ".join(names[:most]) + more


def points(value: float) -> str:
    """A fraction in percentage points, with its sign; "no value" for NaN."""
    text = f"{100 * value:+.1f}"
    return "no value" if math.isnan(value) else "0.0" if text in ("-0.0", "+0.0") else text


def ends(lower: float, upper: float) -> str:
    """The interval in percentage points; "(no interval)" where an end is not finite."""
    known = math.isfinite(lower) and math.isfinite(upper)
    return f"[{points(lower)}, {points(upper)}]" if known else "(no interval)"


def coefficient_text(value: float) -> str:
    """A correlation with two decimals; "not defined" where it is not finite."""
    return f"{value:.2f}" if math.isfinite(value) else "not defined"


def correlation_text(correlation: Correlation) -> str:
    """The correlation with its interval, as reports write it."""
    return formats.correlation_text(*correlation[:3])
