"""How far a study is: units of several kinds of work, and an estimate from the rates measured so far."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

__all__ = ["Plan", "Work", "clock_text"]


class Work(NamedTuple):
    """A step: its kind, of which all units take about as long; how many units; what one takes, beside others'."""

    kind: str
    units: int
    weight: float


class Plan:
    """The steps of a study by name, and the time that their units took.

    A kind of which a unit was measured takes that long; of others the weight tells how long, in terms of those measured.

    >>> now = iter([0.0, 2.0, 4.0, 4.0])
    >>> plan = Plan({"tuning": Work("epoch", 4, 1.0), "scores": Work("layer", 6, 0.5)}, clock=lambda: next(now))
    >>> plan.done("tuning"), plan.done("tuning")
    (None, None)
    >>> plan.remaining()  # two epochs of 2 s, six layers of half an epoch
    10.0
    """

    def __init__(
        self,
        steps: Mapping[str, Work],
        moved: Callable[[str], object] = lambda text: None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`moved` is called after each unit and each step, with what was done."""
        self.steps, self.moved, self.clock = dict(steps), moved, clock
        self.left = {name: work.units for name, work in steps.items()}
        self.seconds: dict[str, list[float]] = {}
        self.began = self.before = clock()

    def done(self, step: str, text: str = "") -> None:
        """Record that a unit of the step is done; it took the time since the last record."""
        now = self.clock()
        self.seconds.setdefault(self.steps[step].kind, []).append(now - self.before)
        self.before = now
        self.left[step] = max(self.left[step] - 1, 0)
        self.moved(text or step)

    def of(self, step: str) -> Callable[..., Any]:
        """A function to call after each unit of the step, with any arguments."""
        return lambda *_: self.done(step)

    def finish(self, step: str) -> None:
        """Record that the step is over, though it may have stopped early or been found from an earlier run."""
        self.left[step] = 0
        self.before = self.clock()
        self.moved(step)

    def remaining(self) -> float | None:
        """The seconds that are left, about; None before anything was measured."""
        measured = {kind: sum(values) / len(values) for kind, values in self.seconds.items()}
        weights = {work.kind: work.weight for work in self.steps.values()}
        whole = sum(weights[kind] * len(values) for kind, values in self.seconds.items())
        if not whole:
            return None
        scale = sum(map(sum, self.seconds.values())) / whole
        return sum(
            number * measured.get(self.steps[name].kind, scale * self.steps[name].weight)
            for name, number in self.left.items()
        )

    def share(self) -> float:
        """The share of the whole time that has passed, about."""
        left = self.remaining()
        spent = self.before - self.began
        return 0.0 if left is None else spent / (spent + left) if spent + left > 0 else 1.0


def clock_text(seconds: float) -> str:
    """Hours, minutes and seconds.

    >>> clock_text(75), clock_text(3675)
    ('1:15', '1:01:15')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
