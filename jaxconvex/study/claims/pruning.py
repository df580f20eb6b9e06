"""The claim on pruning: cut after its most convex layer, a network keeps its accuracy and saves time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from scipy.special import stdtrit

from jaxconvex.study.claims.words import Statement, contrast, ends, mean, over_domains, points, where
from jaxconvex.study.results import Study

__all__ = ["pruned"]

TOLERATED_LOSS = 0.01  # of accuracy


def pruned(studies: Sequence[Study], domain: str) -> list[Statement]:
    """The accuracy of the network cut after its most convex layer less the whole's, mean over seeds, and what is saved.

    Seeds with which the fine-tuning of either failed are left out.

    The interval is Student's over seeds; it holds where less than 1 point is lost.
    """
    losses, saved = [], []
    for study in studies:
        rows = [row for row in study.pruning if not row.failed]
        whole = {row.seed: row for row in rows if row.rule == "whole"}
        cut = {row.seed: row for row in rows if row.rule.startswith("most convex")}
        both = [seed for seed in cut if seed in whole]
        if both:
            lost = np.array([cut[seed].accuracy - whole[seed].accuracy for seed in both])
            spread = lost.std(ddof=1) if len(lost) > 1 else math.nan
            half = float(stdtrit(max(len(lost) - 1, 1), 0.975)) * spread / math.sqrt(len(lost))
            losses.append((float(lost.mean()), half))
            fields = ("blocks", "training_seconds", "inference_seconds", "parameters")
            saved.append([1 - _ratio(cut.values(), whole.values(), field) for field in fields])
    if not losses:
        return []
    estimate, lower, upper = over_domains(losses)
    holds = True if lower > -TOLERATED_LOSS else False if upper < -TOLERATED_LOSS else None
    names = ("of the blocks", "of the time of training", "of the time of inference", "of the parameters")
    shares = [(value, name) for value, name in zip(np.mean(saved, axis=0), names, strict=True) if math.isfinite(value)]
    last = any(row.rule == "most convex but the last" for study in studies for row in study.pruning)
    but = " (the last left out where nothing would be cut)" if last else ""
    text = (
        f"{where(len(losses), domain)} the network cut after its most convex layer{but} and fine-tuned differs in "
        f"accuracy from the whole by {points(estimate)} points {ends(lower, upper)}; an interval is over seeds. It saves "
        f"{_shares(shares)}."
    )
    wasted = [(-value, name) for value, name in shares if value < 0]
    text += f" It takes more: {_shares(wasted)}." if wasted else ""
    text += contrast(holds, f"So more than {100 * TOLERATED_LOSS:.0f} point is lost.")
    return [Statement("pruning", text, estimate, lower, upper, holds, domain)]


def _shares(shares: Sequence[tuple[float, str]]) -> str:
    return ", ".join(f"{100 * value:.0f} percent {name}" for value, name in shares if value >= 0) or "nothing"


def _ratio(cut: Iterable, whole: Iterable, field: str) -> float:
    return mean(getattr(row, field) for row in cut) / (mean(getattr(row, field) for row in whole) or math.nan)
