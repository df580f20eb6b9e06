"""Figures of a Report: the profile over layers, classes as a heat map, convexity against recall, differences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxconvex._internal.formats import FEW_CLASSES, correlation_text, name_text, percent_text
from jaxconvex.evaluation.comparison import Comparison, difference_text
from jaxconvex.evaluation.report import FEW_FAILING, Report, distinct, failing_pairs, only, row_key, select
from jaxconvex.evaluation.table import interval_words
from jaxconvex.reporting import figures
from jaxconvex.reporting.figures import COLOURS, FAINT, INK, MUTED, Axes, Figure, save_figure
from jaxconvex.statistics.correlation import Correlation, domain_correlation

__all__ = ["plot_classes", "plot_differences", "plot_profile", "plot_recall", "save_figure"]


def plot_profile(
    report: Report | Mapping[str, Report],
    *,
    kind: str | None = None,
    labeling: str | None = None,
    k: int | None = None,
    level: str = "macro",
    title: str | None = None,
    ax: Axes | None = None,
) -> Figure:
    """The figure of convexity over layers: a line a report with the jackknife interval as a band, the null in grey.

    Hollow marks stand where fewer than 10 pairs fail, for which no interval covers, so that none is drawn.

    Args:
        report: one report, or a mapping name -> report (pretrained and fine-tuned, say) drawn in the same axes.
        kind: "graph" or "euclidean"; None gives a panel to each kind there is.
        labeling, k: which, where there are several.
        level: "macro" or "micro".
        title: above the panel; None says kind and labels.
        ax: axes to draw one kind into; None makes a figure.

    Raises ValueError where nothing, or more than one labeling or k, fits what is given.
    """
    reports = {"": report} if isinstance(report, Report) else dict(report)
    kinds = [kind] if kind else list(dict.fromkeys(row.kind for drawn in reports.values() for row in drawn.rows))
    layers = list(dict.fromkeys(row.layer for drawn in reports.values() for row in select(drawn)))
    with figures.panels(len(kinds), ax, width=figures.width_for(len(layers)), height=3.3) as (figure, axes):
        ends: list[list[tuple[float, float, str, str]]] = [[] for _ in kinds]
        for index, (panel, shown) in enumerate(zip(axes, kinds, strict=True)):
            for (name, drawn), colour in zip(reports.items(), figures.colours(len(reports)), strict=True):
                if shown in distinct(drawn.rows, "kind"):
                    which = {"kind": shown, "labeling": labeling, "k": k, "level": level}
                    end = _draw_profile(panel, drawn, layers, colour, name, **which)
                    ends[index].append((*end, name, colour))
            labels = distinct([row for drawn in reports.values() for row in drawn.rows], "labeling")
            about = f", labels {name_text(labeling or labels[0])!r}" if len(labels) > 1 else ""
            panel.set_title(title if title is not None else f"{shown.capitalize()} convexity{about}")
            panel.set_ylabel(f"{level} score")
            figures.percent_axis(panel.yaxis)
        for panel in axes:
            figures.finish_layers(panel, layers, reserve=figures.width_of_ends(list(reports)))
        for panel, those in zip(axes, ends, strict=True):
            figures.label_ends(panel, those)
        if ax is None:
            figures.note_hollow(figure, f"fewer than {FEW_FAILING} failing pairs: no interval")
    return figure


def _draw_profile(
    panel: Axes, report: Report, layers: list[str], colour: str, name: str, **chosen: Any
) -> tuple[float, float]:
    rows = only(report, **chosen)
    counts = failing_pairs(select(report, kind=chosen["kind"]))
    few = np.array([counts.get(row_key(row), FEW_FAILING) < FEW_FAILING for row in rows])
    x = np.array([layers.index(row.layer) for row in rows])
    score, lower, upper, null, null_lower, null_upper = (
        np.array([getattr(row, field) for row in rows])
        for field in ("score", "lower", "upper", "null_mean", "null_lower", "null_upper")
    )
    if np.isfinite(null).any():
        figures.band(panel, x, null_lower, null_upper, "#8c8c8c", alpha=0.25)
        panel.plot(x, null, color="#8c8c8c", linewidth=1, linestyle=(0, (4, 2)), label="null")
        if len(x) == 1:
            panel.plot(x, null, "_", color="#8c8c8c", markersize=10)
        if not any(text.get_gid() == "null" for text in panel.texts):
            last = np.flatnonzero(np.isfinite(null))[-1]
            above = max(null[last], null_upper[last]) if np.isfinite(null_upper[last]) else null[last]
            panel.annotate(
                "permuted labels", (x[last], above), (0, 3), textcoords="offset points", gid="null",
                ha="right" if len(rows) > 1 else "center", va="bottom", fontsize=8, color=MUTED,
            )  # fmt: skip
    figures.band(panel, x, np.where(few, np.nan, lower), np.where(few, np.nan, upper), colour, alpha=0.2)
    size = 5 if len(layers) <= 20 else 3.5
    panel.plot(x, score, color=colour, linewidth=1.8, solid_capstyle="round", label="score")
    said = [f"{name_text(row.layer)}: {percent_text(row.score)}% {interval_words(row)}" for row in rows]
    figures.marks(panel, x, score, few, colour=colour, size=size, label="layers", series=name, said=said)
    finite = np.flatnonzero(np.isfinite(score))
    return (x[finite[-1]], score[finite[-1]]) if finite.size else (math.nan, math.nan)


def plot_classes(
    report: Report,
    *,
    kind: str | None = None,
    labeling: str | None = None,
    k: int | None = None,
    sort: bool = False,
    title: str | None = None,
    ax: Axes | None = None,
) -> Figure:
    """The figure of the score of every class (down) in every layer (across), numbers in the cells where they fit.

    Args as in `plot_profile`; `sort` puts the most convex class, by its mean over layers, on top. Classes without pairs
    are grey. Raises ValueError as `plot_profile`.
    """
    kinds = [kind] if kind else distinct(select(report, level="class"), "kind")
    rows = {shown: only(report, kind=shown, labeling=labeling, k=k, level="class") for shown in kinds}
    layers = distinct(select(report), "layer")
    labels = list(dict.fromkeys(row.label for shown in kinds for row in rows[shown]))
    cells = {}
    for shown in kinds:
        cells[shown] = np.full((len(labels), len(layers)), np.nan)
        for row in rows[shown]:
            cells[shown][labels.index(row.label), layers.index(row.layer)] = row.score
    order = np.arange(len(labels))
    if sort:
        known = [np.mean(line[np.isfinite(line)]) if np.isfinite(line).any() else -1 for line in cells[kinds[0]]]
        order = np.argsort(-np.array(known), kind="stable")
    numbers = len(labels) <= 25 and len(layers) <= 16
    height = float(np.clip((0.26 if numbers else 0.12) * len(labels) + 0.9, 1.6, 13))
    finite = np.concatenate([scores[np.isfinite(scores)] for scores in cells.values()])
    low = math.floor(10 * min(finite, default=0)) / 10 if finite.size and finite.min() < 1 else 0.0
    width = figures.width_for(len(layers)) if not numbers else float(np.clip(0.42 * len(layers) + 1.6, 3.0, 9))
    with figures.panels(len(kinds), ax, width=width, height=height) as (figure, axes):
        for panel, shown in zip(axes, kinds, strict=True):
            values = np.ma.masked_invalid(cells[shown][order])
            panel.set_facecolor("#d9d9d9")
            edges = [np.arange(size + 1) - 0.5 for size in (len(layers), len(labels))]
            mesh = panel.pcolormesh(*edges, values, cmap="viridis", vmin=low, vmax=1)
            mesh.set(edgecolor="white" if numbers else "face", linewidth=1 if numbers else 0.1)
            panel.set_ylim(len(labels) - 0.5, -0.5)
            for side in panel.spines.values():
                side.set_visible(False)
            panel.tick_params(length=0)
            if numbers:
                for (down, across), value in np.ndenumerate(values.filled(np.nan)):
                    ink = "white" if value < low + 0.55 * (1 - low) else INK
                    shown_text = "–" if math.isnan(value) else f"{100 * value:.0f}"
                    panel.text(across, down, shown_text, ha="center", va="center", fontsize=7.5, color=ink)
            panel.set_title(title if title is not None else f"{shown.capitalize()} convexity")
            spec = panel.get_subplotspec()
            if ax is not None or spec is None or spec.is_first_col():
                figures.name_classes(panel, [labels[index] for index in order])
            else:
                panel.set_yticks([])
        bar = figure.colorbar(mesh, ax=axes, pad=0.02, fraction=0.05, aspect=max(8, 5 * height))
        bar.outline.set_visible(False)
        bar.ax.tick_params(length=0, labelsize=8)
        figures.percent_axis(bar.ax.yaxis)
        for panel in axes:
            figures.finish_layers(panel, layers, edge=0.5, grid=False)
    return figure


def plot_recall(
    convexity: Mapping[Any, float] | Sequence[float],
    recall: Mapping[Any, float] | Sequence[float],
    *,
    labels: Sequence[Any] | None = None,
    groups: Sequence[str] | None = None,
    confidence: float = 0.95,
    title: str | None = None,
    note: str = "",
    ax: Axes | None = None,
) -> Figure:
    """The figure of recall after fine-tuning (up) against convexity before (across), a point a class, and their r.

    Args:
        convexity, recall: fractions, in the same order; or mappings class -> fraction (`report.class_means`), of which
            the classes in both are taken.
        labels: a name for each point; None takes the mappings' keys, if they are mappings.
        groups: the group (domain, say) of each point, told apart by colour.
        confidence: of the intervals of Pearson's r and Spearman's above the figure, those of `domain_correlation`: of
            several groups, for other classes of the same groups.
        title: stands before the correlations.
        note: why there is no correlation to tell, shown in its place. Of fewer than five classes none is shown.
        ax: axes to draw into; None makes a figure.

    Points with NaN are left out. Raises ValueError for lengths that differ.
    """
    if isinstance(convexity, Mapping) and isinstance(recall, Mapping):
        both = [label for label in convexity if label in recall]
        labels = both if labels is None else labels
        convexity, recall = [convexity[label] for label in both], [recall[label] for label in both]
    x, y = np.asarray(convexity, dtype=float), np.asarray(recall, dtype=float)
    names = [""] * len(x) if labels is None else [name_text(label) for label in labels]
    members = np.array([""] * len(x) if groups is None else [str(group) for group in groups])
    if not len(x) == len(y) == len(names) == len(members):
        sizes = f"{len(x)}, {len(y)}, {len(names)} and {len(members)}"
        raise ValueError(f"convexity, recall, labels and groups must have one entry a class; got {sizes}.")
    kept = np.isfinite(x) & np.isfinite(y)
    about = f"no r: {kept.sum()} classes are too few" if kept.sum() < FEW_CLASSES else note
    if not about:
        domains = [(x[kept & (members == group)], y[kept & (members == group)]) for group in dict.fromkeys(members)]
        first, second = (
            _correlation_text(name, domain_correlation(domains, jax.random.key(0), ranks=ranks, confidence=confidence))
            for name, ranks in (("Pearson r", False), ("Spearman", True))
        )
        about = f"{first}, {kept.sum()} classes\n{second}; {100 * confidence:g}% intervals"
    with figures.panels(1, ax, width=4.4, height=4.0) as (figure, axes):
        panel = axes[0]
        group_names = list(dict.fromkeys(members))
        for group, colour in zip(group_names, figures.colours(len(group_names)), strict=True):
            mine = kept & (members == group)
            (points,) = panel.plot(
                x[mine], y[mine], "o", color=colour, markersize=6, alpha=0.85, markeredgecolor="white", label=group
            )
            said = [f"{names[i]}: convexity {100 * x[i]:.1f}%, recall {100 * y[i]:.1f}%" for i in np.flatnonzero(mine)]
            figures.tell(points, group, said)
        panel.set_title(f"{title}\n{about}" if title else about)
        panel.set_xlabel("convexity, pretrained")
        panel.set_ylabel("recall, fine-tuned")
        panel.grid(color=FAINT, linewidth=0.8)
        for axis in (panel.xaxis, panel.yaxis):
            figures.percent_axis(axis)
        panel.margins(0.08)
        if len(group_names) > 1:
            panel.legend(frameon=False, handletextpad=0.2, loc="upper left", bbox_to_anchor=(1, 1), borderaxespad=0)
        figures.label_points(panel, x[kept], y[kept], [name for name, keep in zip(names, kept, strict=True) if keep])
    return figure


def _correlation_text(name: str, correlation: Correlation) -> str:
    return f"{name} = {correlation_text(*map(float, correlation[:3]))}".replace("-", "−")


def plot_differences(
    comparison: Comparison,
    *,
    kind: str | None = None,
    labeling: str | None = None,
    k: int | None = None,
    level: str = "macro",
    classes: bool = False,
    title: str | None = None,
    ax: Axes | None = None,
) -> Figure:
    """The figure of the paired difference b - a in every layer with its interval, and a line at zero.

    Args as in `plot_profile`; `classes` puts the differences of the single classes behind it as small grey dashes.
    Hollow marks stand where fewer than 10 pairs fail in both, for which no interval is drawn.
    """
    kinds = [kind] if kind else distinct(select(comparison, level=level), "kind")
    layers = distinct(select(comparison), "layer")
    first, second = map(name_text, comparison.names)
    with figures.panels(len(kinds), ax, width=figures.width_for(len(layers)), height=3.3) as (figure, axes):
        for panel, shown in zip(axes, kinds, strict=True):
            rows = only(comparison, kind=shown, labeling=labeling, k=k, level=level)
            x = np.array([layers.index(row.layer) for row in rows])
            value, lower, upper = (
                np.array([getattr(row, f) for row in rows]) for f in ("difference", "lower", "upper")
            )
            few = np.array([row.few_failing for row in rows])
            panel.axhline(0, color=MUTED, linewidth=1, gid="zero")
            if classes:
                single = [row for row in comparison.rows if row.level == "class" and row.kind == shown]
                single = [row for row in single if (row.labeling, row.k) == (rows[0].labeling, rows[0].k)]
                spots = [layers.index(row.layer) for row in single]
                (dashes,) = panel.plot(
                    spots, [row.difference for row in single], "_", color="#9a9a9a", markersize=7, label="classes"
                )
                said = [f"{name_text(row.layer)}, {name_text(row.label)}: {difference_text(row)}" for row in single]
                figures.tell(dashes, "", said)
            size = 6 if len(layers) <= 20 else 4
            drawn = ~few & np.isfinite(lower)
            panel.vlines(x[drawn], lower[drawn], upper[drawn], color=COLOURS[0], linewidth=1.8, label="interval")
            said = [f"{name_text(row.layer)}: {difference_text(row)}" for row in rows]
            figures.marks(panel, x, value, few, colour=COLOURS[0], size=size, label="difference", series="", said=said)
            panel.set_title(title if title is not None else f"{shown.capitalize()} convexity, {second} minus {first}")
            panel.set_ylabel(f"difference of the {level} score\n(percentage points)")
            figures.percent_axis(panel.yaxis, signed=True)
        for panel in axes:
            figures.finish_layers(panel, layers)
        if ax is None:
            figures.note_hollow(figure, f"fewer than {FEW_FAILING} failing pairs in both: no interval")
    return figure
