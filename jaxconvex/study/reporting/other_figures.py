"""Figures of a study's other parts: re-parametrizations, other settings, simpler measures, pruning."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from jaxconvex.reporting import figures
from jaxconvex.reporting.figures import COLOURS, FAINT, INK, MUTED, Figure
from jaxconvex.study.claims.settings import asked_rows, moved
from jaxconvex.study.claims.words import change_rows, half_width, true_labels
from jaxconvex.study.reporting.panels import GREY, NETWORKS, grid, legend, name_rows, network_rows
from jaxconvex.study.results import Study

__all__ = ["plot_measures", "plot_pruning", "plot_robustness", "plot_sensitivity"]


def plot_robustness(studies: Sequence[Study]) -> Figure | None:
    """Each re-parametrization's score less the study's own, a point a layer and network: a panel a domain.

    Grey is half the interval of a score, on average.
    """
    differences = {study.name: moved(asked_rows(study, "reparametrization")) for study in studies}
    shown = [study for study in studies if differences[study.name]]
    if not shown:
        return None
    names = list(dict.fromkeys(variant for study in shown for variant, _, _ in differences[study.name]))
    with _panels_of_variants(shown, names, "difference (points)") as (figure, axes):
        for panel, study in zip(axes, shown, strict=True):
            halves = [half_width(row) for network in NETWORKS for row in network_rows(study, "graph", network)]
            if np.isfinite(halves).any():
                half = float(np.nanmean(halves))
                panel.axvspan(-half, half, color=GREY, alpha=0.18, linewidth=0, label="half an interval")
            for shift, (network, colour) in zip((-0.14, 0.14), NETWORKS.items(), strict=True):
                mine = [
                    (value, names.index(name)) for name, which, value in differences[study.name] if which == network
                ]
                if mine:
                    x, y = np.array(mine).T
                    panel.plot(x, y + shift, "o", color=colour, markersize=3.2, alpha=0.7, label=network)
        legend(figure, axes[0])
    return figure


def plot_sensitivity(studies: Sequence[Study]) -> Figure | None:
    """The change by fine-tuning under each setting: a point a layer, dark for late ones, the mean as a bar."""
    changes = {study.name: _changes_by_setting(study) for study in studies}
    shown = [study for study in studies if changes[study.name]]
    if not shown:
        return None
    names = list(dict.fromkeys(name for study in shown for name in changes[study.name]))
    written = ["as the study" if name == "none" else name for name in names]
    with _panels_of_variants(shown, written, "change by fine-tuning (points)") as (figure, axes):
        for panel, study in zip(axes, shown, strict=True):
            for name, values in changes[study.name].items():
                y, depth = names.index(name), np.linspace(0.15, 1, len(values))
                panel.scatter(
                    values, np.full(len(values), y), c=depth, cmap="Blues", vmin=0, vmax=1, s=14, linewidths=0
                )
                panel.plot([values.mean()] * 2, [y - 0.3, y + 0.3], color=COLOURS[1], linewidth=2)
    return figure


@contextlib.contextmanager
def _panels_of_variants(studies: Sequence[Study], names: Sequence[str], label: str) -> Iterator[Any]:
    """A panel a study of differences in points, zero marked, with a line for each name."""
    sizes: dict[str, Any] = {"height": 0.24 * len(names) + 1.1, "width": 3.3 if len(studies) > 1 else 5.5}
    with grid(len(studies), **sizes, sharey=True) as (figure, axes):
        for panel, study in zip(axes, studies, strict=True):
            panel.axvline(0, color=MUTED, linewidth=1)
            panel.set_title(study.name)
        yield figure, axes
        name_rows(axes[0], names)
        for panel in axes:
            figures.percent_axis(panel.xaxis, signed=True)
            panel.xaxis.set_major_locator(figures.MaxNLocator(5, steps=[1, 2, 5, 10]))
            panel.set_xlabel(label)
        for panel in axes[1:]:
            panel.grid(axis="y", color=FAINT, linewidth=0.8)
            panel.tick_params(axis="y", length=0)


def _changes_by_setting(study: Study) -> dict[str, np.ndarray]:
    """Setting -> fine-tuned (mean over seeds) minus pretrained of each layer, in order of depth."""
    scores: dict[str, dict[str, dict[int, list[float]]]] = {}
    for row in asked_rows(study, "sensitivity"):
        networks = scores.setdefault(row.variant, {network: {} for network in NETWORKS})
        networks[row.network].setdefault(row.layer_index, []).append(row.score)
    changes = {}
    for variant, networks in scores.items():
        before, after = networks["pretrained"], networks["fine-tuned"]
        values = [np.mean(after[index]) - np.mean(before[index]) for index in sorted(before) if index in after]
        if values:
            changes[variant] = np.array(values)
    truth = sorted(change_rows(study, "graph", true_labels(study)), key=lambda row: row.layer_index)
    if changes and truth:
        changes["true labels"] = np.array([row.difference for row in truth])
    return changes


def plot_measures(studies: Sequence[Study]) -> Figure | None:
    """Simpler measures over the layers of the pretrained network beside convexity, each scaled to its own range.

    A line of panels a domain, a panel a measure; convexity is grey.
    """
    profiles = {study.name: _measures(study) for study in studies}
    shown = [study for study in studies if profiles[study.name]]
    if not shown:
        return None
    names = list(dict.fromkeys(name for study in shown for name in profiles[study.name]))
    beside = len(names) if len(shown) > 1 else min(len(names), 5)
    number = len(shown) * len(names) if len(shown) > 1 else len(names)
    with grid(number, columns=beside, width=max(1.45, min(9.6 / beside, 2.4)), height=1.55) as (figure, axes):
        for index, panel in enumerate(axes):
            study, name = shown[index // len(names)], names[index % len(names)]
            convexity = {row.layer_index: row.score for row in network_rows(study, "graph", "pretrained")}
            panel.plot(*_scaled(convexity), color=GREY, linewidth=2.4, alpha=0.7, label="graph convexity")
            panel.plot(*_scaled(profiles[study.name].get(name, {})), "o-", color=COLOURS[0], markersize=2.5, linewidth=1.2,
                       label="the measure")  # fmt: skip
            if index < len(names):
                panel.set_title(name, fontsize=8.5)
            if len(shown) > 1 and index % len(names) == 0:
                panel.set_ylabel(study.name)
            panel.set_yticks([])
            panel.set_xticks([])
            figures.name_places(panel, study.domain["layers"])
            panel.set_ylim(-0.1, 1.1)
        for panel in axes[-beside:]:
            panel.set_xlabel("layer, first to last", fontsize=7.5, color=MUTED)
        legend(figure, axes[0])
    return figure


def _measures(study: Study) -> dict[str, dict[int, float]]:
    profiles: dict[str, dict[int, float]] = {}
    for row in study.measures:
        if row.network == "pretrained" and row.label is None and math.isfinite(row.value):
            profiles.setdefault(row.measure, {})[row.layer_index] = row.value
    return profiles


def _scaled(profile: dict[int, float]) -> tuple[np.ndarray, np.ndarray]:
    places = np.array(sorted(profile))
    values = np.array([profile[index] for index in places], float)
    span = np.nanmax(values) - np.nanmin(values) if np.isfinite(values).any() else 0.0
    return places, (values - np.nanmin(values)) / span if span > 0 else np.full(len(places), 0.5)


# Pruning -------------------------------------------------------------------------------------------------------------


def plot_pruning(studies: Sequence[Study]) -> Figure | None:
    """The accuracy of networks cut after a layer and of the whole: a point a seed, the mean as a bar."""
    lines = [(study, rule) for study in studies for rule in dict.fromkeys(row.rule for row in study.pruning)]
    if not lines:
        return None
    with grid(1, width=6.8, height=0.3 * len(lines) + 1.0) as (figure, axes):
        panel, names = axes[0], []
        rules = list(dict.fromkeys(rule for _, rule in lines))
        for y, (study, rule) in enumerate(lines):
            rows = [row for row in study.pruning if row.rule == rule]
            values = np.array([row.accuracy for row in rows])
            colour = _colour_of(rule, rules)
            panel.plot(values, np.full(len(values), y), "o", color=colour, markersize=4.5, alpha=0.6)
            panel.plot([np.nanmean(values)] * 2, [y - 0.32, y + 0.32], color=colour, linewidth=2.2)
            blocks = "/".join(str(count) for count in sorted({row.blocks for row in rows}))
            start = f"{study.name}: " if len(studies) > 1 else ""
            names.append(f"{start}{rule}, {blocks} blocks")
        panel.set_ylim(len(names) - 0.5, -0.5)
        panel.set_yticks(range(len(names)), names)
        figures.name_places(panel, names, "y")
        panel.tick_params(axis="y", length=0)
        panel.grid(axis="x", color=FAINT, linewidth=0.8)
        figures.percent_axis(panel.xaxis)
        panel.set_xlabel("accuracy on the test part", color=INK)
    return figure


def _colour_of(rule: str, rules: Iterable[str]) -> str:
    known = {"whole": GREY, "most convex": COLOURS[0], "most convex but the last": COLOURS[0]}
    others = [name for name in rules if name not in known]
    return known.get(rule) or COLOURS[1 + others.index(rule) % (len(COLOURS) - 1)]
