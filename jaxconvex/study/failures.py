"""Fine-tuning that failed: a result about training, of which nothing is said about convexity."""

from __future__ import annotations

import math
from collections.abc import Sequence

from jaxconvex._internal.formats import percent_text
from jaxconvex.study.results import NetworkRow, Study

__all__ = ["STILL_FALLING", "alarm", "failed_seeds", "reasons", "share_of_last", "sound"]

STILL_FALLING = 0.05  # of its whole fall, by which the validation loss may fall in the last epoch that was allowed


def reasons(row: NetworkRow, start: NetworkRow, num_classes: int) -> list[str]:
    """What speaks against a fine-tuning, in words; empty where nothing does.

    It failed where no epoch has a smaller validation loss than the network it began with, where its accuracy on the test
    part is smaller, where it predicts a class for no point that the start predicts for some, or where its epochs were
    over while the validation loss still fell: by more than `STILL_FALLING` of its whole fall in the last one.

    >>> start = NetworkRow("pretrained", None, 0.9, 0.4, 0, 0, 1.0)
    >>> reasons(NetworkRow("fine-tuned", 0, 0.8, 0.3, 6, 3, 1.0, vanished=2), start, 10)
    ['accuracy fell from 90.0 to 80.0 percent', '2 of 10 classes are predicted for no point any more']
    """
    said = []
    if row.best_epoch < 0:
        said.append("no epoch had a smaller validation loss than the start, which was kept")
    elif row.validation_loss > start.validation_loss:
        said.append(f"the validation loss rose from {start.validation_loss:.3g} to {row.validation_loss:.3g}")
    if row.accuracy < start.accuracy:
        fall = f"{percent_text(start.accuracy)} to {percent_text(row.accuracy)}"
        said.append(f"accuracy fell from {fall} percent")
    if row.vanished:
        said.append(
            f"{row.vanished} of {num_classes} classes {'is' if row.vanished == 1 else 'are'} predicted for no point any more"
        )
    if row.still_falling > STILL_FALLING:
        said.append(
            f"its {row.epochs} epochs were over while the validation loss still fell ({percent_text(row.still_falling, 0)} "
            "percent of its fall was in the last)"
        )
    return said


def sound(networks: Sequence[NetworkRow], num_classes: int) -> list[bool]:
    """Whether nothing speaks against each of the fine-tuned networks, in their order."""
    start = next((row for row in networks if row.network == "pretrained"), None)
    return [start is None or not reasons(row, start, num_classes) for row in networks if row.network != "pretrained"]


def failed_seeds(study: Study) -> dict[int | None, list[str]]:
    """The seeds of the fine-tunings that failed, with the reasons."""
    start = next((row for row in study.networks if row.network == "pretrained"), None)
    if start is None:
        return {}
    number = len(study.domain.get("classes", ()))
    by_seed = {row.seed: reasons(row, start, number) for row in study.networks if row is not start}
    return {seed: said for seed, said in by_seed.items() if said}


def alarm(study: Study) -> str:
    """One line that says which fine-tunings failed, why, and what is therefore not said; empty where none did."""
    failed = failed_seeds(study)
    if not failed:
        return ""
    number = sum(row.network != "pretrained" for row in study.networks)
    of_seeds = "; ".join(f"seed {seed}: {', '.join(said)}" for seed, said in failed.items())
    left = "them" if len(failed) > 1 else "it"
    return (
        f"Fine-tuning failed or was cut short in {len(failed)} of {number} runs of {study.name} ({of_seeds}). That is a "
        f"result about training: what fine-tuning raises, what predicts recall and what pruning costs is not said of {left}."
    )


def share_of_last(start: float, losses: Sequence[float], budget: int) -> float:
    """The share of the whole fall of the validation loss that came in the last epoch allowed; nan if training ended before.

    >>> share_of_last(1.0, [0.625, 0.5], 2)
    0.25
    """
    if len(losses) < budget or min(losses) < losses[-1] or not losses[-1] < start < math.inf:
        return math.nan
    before = [start, *losses][-2]
    return (before - losses[-1]) / (start - losses[-1])
