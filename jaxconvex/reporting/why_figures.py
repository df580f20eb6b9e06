"""Figures of why scores are not 1: what each class loses to which other, and the largest such losses over the layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from jaxconvex._internal.formats import name_text, percent_text
from jaxconvex.evaluation.report import Report, distinct
from jaxconvex.evaluation.why import courses, intruder_words, losses_of, told_layer
from jaxconvex.reporting import figures
from jaxconvex.reporting.figures import COLOURS, Axes, Figure

__all__ = ["intruders_caption", "plot_intruders", "plot_losses"]

MOST = 30  # classes of a heat map
LINES = 6  # intrusions drawn over the layers
WITH_NUMBERS = 20  # classes up to which numbers stand in the cells
BESIDE = ("background", "no path")  # what is no class


def plot_intruders(
    report: Report,
    *,
    labeling: str | None = None,
    k: int | None = None,
    layer: str | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Figure:
    """The figure of what each class (down) loses to each other (across), in points of its score.

    Classes that lose to each other stand together, so that groups are seen as blocks. Of more than 30 classes those are
    shown that lose or take most.

    Args:
        report: one that was made with `why`.
        labeling, k: which; None takes the first.
        layer: which; None takes that of the highest mean.
        title: above the panel; None says the layer.
        ax: axes to draw into; None makes a figure.

    Raises ValueError where the report does not tell what is lost.
    """
    labeling, k, layer = _which(report, labeling, k, layer)
    names, columns, values = _matrix(report, labeling, k, layer)
    beside = figures.width_of_ends(columns) / 72
    width, height = 0.3 * len(columns) + beside + 0.8, 0.3 * len(names) + 0.7 * beside + 0.8
    with figures.panels(1, ax, width=width, height=height) as (figure, axes):
        panel = axes[0]
        colour = figures.mpl.colors.to_rgb(COLOURS[1])
        shades = figures.mpl.colors.LinearSegmentedColormap.from_list("lost", [(*colour, 0.03), (*colour, 0.75)])
        edges = [np.arange(size + 1) - 0.5 for size in (len(columns), len(names))]
        top = float(np.nanmax(values, initial=0.01))
        cells: dict[str, Any] = {"cmap": shades.with_extremes(bad=figures.FAINT), "vmin": 0, "vmax": top}
        mesh: Any = panel.pcolormesh(*edges, np.ma.masked_invalid(values), **cells)
        mesh.set(edgecolor="white", linewidth=0.5)
        mesh.unit = " points"
        losing = [f"{name_text(label)} to {other}" for label in names for other in columns]
        figures.tell(
            mesh, "", [f"{pair}: {_points(value)}" for pair, value in zip(losing, values.ravel(), strict=True)]
        )
        panel.set_ylim(len(names) - 0.5, -0.5)
        for side in panel.spines.values():
            side.set_visible(False)
        panel.tick_params(length=0)
        if len(names) <= WITH_NUMBERS:
            for (down, across), value in np.ndenumerate(values):
                if value >= 0.005:
                    panel.text(
                        across, down, f"{100 * value:.0f}", ha="center", va="center", fontsize=7.5, color="#000000"
                    )
        elif ax is None:
            bar = figure.colorbar(mesh, ax=axes, pad=0.02, fraction=0.05)
            figures.percent_axis(bar.ax.yaxis, unit="")
        panel.set_title(title if title is not None else f"Points lost in {name_text(layer)}")
        panel.set_ylabel("class that loses")
        figures.name_classes(panel, names)
        figures.finish_layers(panel, columns, edge=0.5, grid=False)
        if not panel.get_xlabel():
            panel.set_xlabel("to")
    return figure


def intruders_caption(report: Report, labeling: str) -> str:
    """What stands below the figure: how to read it, and which classes it leaves out."""
    total = len(_classes(report, labeling))
    text = (
        "What each class (down) loses to each other (across), in percentage points of its score. Classes that lose to each "
        "other stand together."
    )
    if min(total, MOST) <= WITH_NUMBERS:
        return f"{text} Cells without a number are below half a point."
    return text if total <= MOST else f"{text} Of {total} classes the {MOST} that lose or take most are shown."


def plot_losses(
    report: Report,
    *,
    labeling: str | None = None,
    k: int | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Figure:
    """The figure of the six largest losses of a class to another over the layers, in points of the score of the class.

    Args as in `plot_intruders`. Raises ValueError where the report does not tell what is lost in several layers, or
    nothing loses a point.
    """
    labeling, k, _ = _which(report, labeling, k, None)
    layers, found = courses(report, labeling, k, LINES)
    with figures.panels(1 if found else 0, ax, width=figures.width_for(len(layers)), height=3.0) as (figure, (panel,)):
        for (label, intruder, lost), colour in zip(found, figures.colours(len(found)), strict=True):
            name = f"{name_text(label)} to {intruder}"
            style = {"color": colour, "linewidth": 1.6, "markersize": 5 if len(layers) <= 20 else 3.5}
            (line,) = panel.plot(range(len(layers)), lost, "o-", label=figures.shorten(name, 40), **style)
            said = [f"{name_text(layer)}: {_points(share)}" for layer, share in zip(layers, lost, strict=True)]
            figures.tell(line, name, said)
        panel.set_ylim(bottom=0)
        panel.set_title(title if title is not None else "The largest losses over the layers")
        panel.set_ylabel("points lost")
        if ax is None:
            figure.legend(frameon=False, loc="outside lower left", ncols=2)
        figures.percent_axis(panel.yaxis, unit="")
        figures.finish_layers(panel, layers)
    return figure


def _points(share: float) -> str:
    return "itself" if np.isnan(share) else f"{percent_text(share)} points"


def _which(report: Report, labeling: str | None, k: int | None, layer: str | None) -> tuple[str, int, str]:
    """The labeling, k and layer, the first ones where none is named."""
    rows = [row for row in report.intrusions if labeling in (None, row.labeling) and k in (None, row.k)]
    rows = [row for row in rows if layer in (None, row.layer)]
    if not rows:
        raise ValueError(
            "there is nothing to draw: the report does not tell what these scores are lost to, or nothing is lost. "
            "evaluate(..., why=True) tells it."
        )
    labeling, k = rows[0].labeling, rows[0].k
    return labeling, k, layer or told_layer(report, labeling, k) or rows[0].layer


def _matrix(report: Report, labeling: str, k: int, layer: str) -> tuple[list[Any], list[str], np.ndarray]:
    """The classes shown in order, the columns, and what each class loses to each; nan for itself."""
    lost = losses_of(report, labeling, k, layer)
    labels = _classes(report, labeling)
    place = {label: number for number, label in enumerate(labels)}
    values = np.zeros((len(labels), len(labels) + len(BESIDE)))
    for (_, label), rows in lost.items():
        for row in rows:
            if row.what != "rest":
                column = place[row.intruder] if row.what == "class" else len(labels) + BESIDE.index(intruder_words(row))
                values[place[label], column] = row.lost
    between = values[:, : len(labels)]
    weight = between.sum(axis=0) + values.sum(axis=1)
    shown = np.sort(np.argsort(-weight, kind="stable")[:MOST])
    shown = shown[in_blocks(between[np.ix_(shown, shown)])]
    beside = [column for column, name in enumerate(BESIDE) if values[shown, len(labels) + column].any()]
    values = values[np.ix_(shown, [*shown, *(len(labels) + column for column in beside)])]
    np.fill_diagonal(values, np.nan)
    names = [labels[number] for number in shown]
    return names, [*map(name_text, names), *(BESIDE[column] for column in beside)], values


def _classes(report: Report, labeling: str) -> list[Any]:
    rows = [row for row in report.rows if (row.kind, row.labeling, row.level) == ("graph", labeling, "class")]
    return distinct(rows, "label")


def in_blocks(between: np.ndarray) -> Sequence[int]:
    """An order in which classes that lose to each other stand together: the leaves of the tree of average linkage.

    >>> [int(place) for place in in_blocks(np.array([[0, 0, 0.2, 0], [0, 0, 0, 0.1], [0.1, 0, 0, 0], [0, 0.1, 0, 0]]))]
    [0, 2, 3, 1]
    """
    if len(between) < 3:
        return range(len(between))
    near = between + between.T
    apart = near.max() - near
    np.fill_diagonal(apart, 0)
    return leaves_list(linkage(squareform(apart, checks=False), "average", optimal_ordering=True))
