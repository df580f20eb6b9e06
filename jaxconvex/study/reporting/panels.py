"""Panels of the figures of studies: a grid with a panel a domain, one legend, names down the side."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

from jaxconvex.reporting import figures
from jaxconvex.reporting.figures import COLOURS, FAINT, Axes, Figure
from jaxconvex.study.claims.words import macro_rows
from jaxconvex.study.results import PREDICTED, ScoreRow, Study

__all__ = ["FAILED", "GREY", "KIND_COLOURS", "NETWORKS", "grid", "legend", "name_rows", "network_rows", "panels_of"]

NETWORKS = {"pretrained": COLOURS[0], "fine-tuned": COLOURS[1]}
KIND_COLOURS = {"graph": COLOURS[2], "euclidean": COLOURS[3]}
GREY = "#8c8c8c"
FAILED = "#b3261e"


@contextlib.contextmanager
def grid(number: int, *, columns: int = 3, width: float = 3.3, height: float = 2.7, **shared: Any) -> Iterator[Any]:
    """A figure with so many panels in rows of at most `columns`; the axes flat, those left over taken away."""
    columns = min(columns, number)
    lines = math.ceil(number / columns)
    with figures.mpl.rc_context(figures.STYLE):
        layout = figures.ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.1)
        figure = Figure(figsize=(columns * width, lines * height), layout=layout)
        axes = list(figure.subplots(lines, columns, squeeze=False, **shared).flat)
        for spare in axes[number:]:
            spare.remove()
        yield figure, axes[:number]


def legend(figure: Figure, panel: Axes, most: int = 5) -> None:
    """A legend of what has a name, above all panels."""
    handles, names = panel.get_legend_handles_labels()
    chosen = {name: handle for handle, name in zip(handles, names, strict=True)}
    figure.legend(
        chosen.values(), chosen, loc="outside upper left", ncols=min(most, len(chosen)), frameon=False, fontsize=8.5
    )


def panels_of(studies: Sequence[Study], **sizes: Any) -> Any:
    """A `grid` with a panel for each study; a single one is as wide as its layers need."""
    if len(studies) == 1:
        sizes = {"width": max(4.2, figures.width_for(len(studies[0].domain["layers"]))), "height": 3.2} | sizes
    return grid(len(studies), **sizes)


def name_rows(panel: Axes, names: Sequence[str]) -> None:
    """Write names down the y axis, the first on top, with a faint line through each."""
    panel.set_ylim(len(names) - 0.5, -0.5)
    figures.name_classes(panel, names)
    panel.tick_params(axis="y", length=0)
    panel.grid(axis="y", color=FAINT, linewidth=0.8)


def network_rows(study: Study, kind: str, network: str, labeling: str = PREDICTED) -> list[ScoreRow]:
    """The macro scores of one network, all its seeds; by predicted labels, if no others are named."""
    return [row for row in macro_rows(study, kind, labeling) if row.network == network]
