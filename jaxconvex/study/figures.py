"""Figures of studies, of one domain or several: profiles, changes, recall, robustness, simpler measures, pruning."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from jaxconvex import figures, plots
from jaxconvex.figures import COLOURS, FAINT, INK, MUTED, Axes, Figure
from jaxconvex.study.claims.recall import recall_pairs
from jaxconvex.study.claims.settings import asked_rows
from jaxconvex.study.claims.words import change_rows, true_labels
from jaxconvex.study.results import ScoreRow, Study
from jaxconvex.study.statements import Statement, pooled

__all__ = [
    "plot_changes", "plot_correlations", "plot_measures", "plot_profiles", "plot_pruning", "plot_recall",
    "plot_robustness", "plot_sensitivity", "study_figures",
]  # fmt: skip

KINDS = ("graph", "euclidean")
NETWORKS = {"pretrained": COLOURS[0], "fine-tuned": COLOURS[1]}
KIND_COLOURS = {"graph": COLOURS[2], "euclidean": COLOURS[3]}
GREY = "#8c8c8c"


def study_figures(studies: Sequence[Study], made: Sequence[Statement] = ()) -> dict[str, Figure]:
    """The figures that the studies have rows for, by name: a panel a domain.

    Args:
        studies: one or more.
        made: their statements, of which the correlations with recall are drawn; none, none drawn.
    """
    one = len(studies) == 1
    builders: dict[str, Callable[[], Figure | None]] = {
        "profiles": lambda: plot_profiles(studies) if one else None,
        "profiles-graph": lambda: None if one else plot_profiles(studies, ["graph"]),
        "profiles-euclidean": lambda: None if one else plot_profiles(studies, ["euclidean"]),
        "changes": lambda: plot_changes(studies),
        "recall": lambda: plot_recall(studies),
        "correlations": lambda: None if one else plot_correlations(made),
        "robustness": lambda: plot_robustness(studies),
        "sensitivity": lambda: plot_sensitivity(studies),
        "measures": lambda: plot_measures(studies),
        "pruning": lambda: plot_pruning(studies),
    }
    drawn = {name: build() for name, build in builders.items()}
    return {name: figure for name, figure in drawn.items() if figure is not None}


@contextlib.contextmanager
def _grid(number: int, *, columns: int = 3, width: float = 3.3, height: float = 2.7, **shared: Any) -> Iterator[Any]:
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


def _legend(figure: Figure, panel: Axes, most: int = 5) -> None:
    """A legend of what has a name, above all panels."""
    handles, names = panel.get_legend_handles_labels()
    chosen = {name: handle for handle, name in zip(handles, names, strict=True)}
    figure.legend(
        chosen.values(), chosen, loc="outside upper left", ncols=min(most, len(chosen)), frameon=False, fontsize=8.5
    )


# Profiles and changes ------------------------------------------------------------------------------------------------


def plot_profiles(studies: Sequence[Study], kinds: Sequence[str] = KINDS) -> Figure | None:
    """Convexity over layers before and after fine-tuning, by predicted labels, macro: a panel a domain and kind.

    Bands are the intervals; of the fine-tuned networks the mean over seeds is drawn, with its seeds as thin lines and the
    mean of their intervals. Grey is the permutation null of the pretrained network.
    """
    shown = [(study, kind) for study in studies for kind in kinds if any(row.kind == kind for row in study.scores)]
    if not shown:
        return None
    wide = max(figures.width_for(len(study.domain["layers"])) for study, _ in shown) if len(shown) <= 2 else 3.3
    with _grid(len(shown), width=min(wide, 4.9)) as (figure, axes):
        for panel, (study, kind) in zip(axes, shown, strict=True):
            for network, colour in NETWORKS.items():
                _draw_profile(panel, _macro(study, kind, network), network, colour)
            panel.set_title(f"{kind.capitalize()} convexity" if len(studies) == 1 else study.name)
            if panel.get_subplotspec().is_first_col():
                panel.set_ylabel(f"{kind} convexity" if len(studies) > 1 else "macro score")
            figures.percent_axis(panel.yaxis)
        _legend(figure, axes[0])
        for panel, (study, _) in zip(axes, shown, strict=True):
            figures.finish_layers(panel, study.domain["layers"])
    return figure


def _draw_profile(panel: Axes, rows: Sequence[ScoreRow], network: str, colour: str) -> None:
    if not rows:
        return
    places = np.array(sorted({row.layer_index for row in rows}))
    seeds = list(dict.fromkeys(row.seed for row in rows))
    fields = ("score", "lower", "upper", "null_mean", "null_lower", "null_upper")
    values = np.full((len(seeds), len(fields), len(places)), np.nan)
    for row in rows:
        place = int(np.searchsorted(places, row.layer_index))
        values[seeds.index(row.seed), :, place] = [getattr(row, field) for field in fields]
    score, lower, upper, null, null_lower, null_upper = _mean_over_seeds(values)
    if network == "pretrained" and np.isfinite(null).any():
        figures.band(panel, places, null_lower, null_upper, GREY, alpha=0.3)
        panel.plot(places, null, color=GREY, linewidth=1, linestyle=(0, (4, 2)), label="permuted labels")
    figures.band(panel, places, lower, upper, colour, alpha=0.2)
    if len(seeds) > 1:
        panel.plot(places, values[:, 0].T, color=colour, linewidth=0.6, alpha=0.6)
    size = 4.5 if len(places) <= 8 else 3
    label = f"{network}, mean over seeds" if len(seeds) > 1 else network
    panel.plot(places, score, "o-", color=colour, linewidth=1.7, markersize=size, label=label)


def _mean_over_seeds(values: np.ndarray) -> np.ndarray:
    known = np.isfinite(values)
    total = np.where(known, values, 0).sum(axis=0)
    return np.where(known.any(axis=0), total / np.maximum(known.sum(axis=0), 1), np.nan)


def _macro(study: Study, kind: str, network: str) -> list[ScoreRow]:
    wanted = (kind, network, "predicted", "macro")
    return [row for row in study.scores if (row.kind, row.network, row.labeling, row.level) == wanted]


def plot_changes(studies: Sequence[Study]) -> Figure | None:
    """Fine-tuned minus pretrained in every layer with its interval, mean over seeds: a panel a domain."""
    shown = [study for study in studies if any(row.labeling == "predicted" for row in study.changes)]
    if not shown:
        return None
    with _panels_of(shown) as (figure, axes):
        for panel, study in zip(axes, shown, strict=True):
            panel.axhline(0, color=MUTED, linewidth=1)
            for shift, (kind, colour) in zip((-0.1, 0.1), KIND_COLOURS.items(), strict=True):
                wanted = (kind, "predicted", None)
                rows = [row for row in study.changes if (row.kind, row.labeling, row.seed) == wanted]
                if rows:
                    places = np.array([row.layer_index for row in rows]) + shift
                    value, lower, upper = np.array([(row.difference, row.lower, row.upper) for row in rows]).T
                    panel.vlines(places, lower, upper, color=colour, linewidth=1.6, alpha=0.7)
                    panel.plot(places, value, "o", color=colour, markersize=4, label=kind)
            panel.set_title(study.name)
            if panel.get_subplotspec().is_first_col():
                panel.set_ylabel("change by fine-tuning\n(percentage points)")
            figures.percent_axis(panel.yaxis, signed=True)
        _legend(figure, axes[0])
        for panel, study in zip(axes, shown, strict=True):
            figures.finish_layers(panel, study.domain["layers"])
    return figure


def _panels_of(studies: Sequence[Study], **sizes: Any) -> Any:
    if len(studies) == 1:
        sizes = {"width": max(4.2, figures.width_for(len(studies[0].domain["layers"]))), "height": 3.2} | sizes
    return _grid(len(studies), **sizes)


# Recall --------------------------------------------------------------------------------------------------------------


def plot_recall(studies: Sequence[Study]) -> Figure | None:
    """Convexity before fine-tuning against recall after it: a point a class, coloured by domain, those that are pooled."""
    shown = [study for study in pooled(studies)[0] if study.classes]
    if not shown:
        return None
    with _grid(len(KINDS), width=4.4, height=4.1) as (figure, axes):
        for panel, kind in zip(axes, KINDS, strict=True):
            pairs = [recall_pairs(study, kind) for study in shown]
            convexity, recall = (np.concatenate(values) for values in zip(*pairs, strict=True))
            groups = [study.name for study in shown for _ in study.classes]
            title = f"{kind.capitalize()} convexity"
            plots.plot_recall(
                list(convexity),
                list(recall),
                groups=groups if len(shown) > 1 else None,
                title=title,
                ax=panel,
            )
            panel.title.set_fontsize(9)
        for panel in axes[:-1]:
            if panel.get_legend() is not None:
                panel.get_legend().remove()
        if len(shown) == 1:  # names last: now the panels have their sizes
            for panel, kind in zip(axes, KINDS, strict=True):
                convexity, recall = recall_pairs(shown[0], kind)
                known = np.isfinite(convexity) & np.isfinite(recall)
                names = [str(row.label) for row, there in zip(shown[0].classes, known, strict=True) if there]
                figures.label_points(panel, convexity[known], recall[known], names)
    return figure


def plot_correlations(made: Sequence[Statement]) -> Figure | None:
    """Pearson's r of convexity and recall with its interval, of each domain, pooled, and within domains."""
    group = "predicts recall: "
    chosen = [one for one in made if one.claim.startswith(group) and math.isfinite(one.estimate)]
    if not chosen:
        return None
    names: dict[str, list[Statement]] = {}
    for one in sorted(chosen, key=lambda one: one.domain == "all"):
        within = one.claim.endswith("within domains")
        name = one.domain if one.domain != "all" else "within domains" if within else "pooled"
        names.setdefault(name, []).append(one)
    with _grid(1, width=6.4, height=0.34 * len(names) + 1.2) as (figure, axes):
        panel = axes[0]
        panel.axvline(0, color=MUTED, linewidth=1)
        for place, those in enumerate(names.values()):
            for one in those:
                kind = one.claim.removeprefix(group).split(",")[0]
                y = place + (-0.13 if kind == "graph" else 0.13)
                panel.hlines(y, one.lower, one.upper, color=KIND_COLOURS[kind], linewidth=1.8)
                panel.plot(one.estimate, y, "o", color=KIND_COLOURS[kind], markersize=5, label=kind)
        _rows(panel, list(names))
        panel.set_xlabel("Pearson r of convexity before and recall after fine-tuning")
        _legend(figure, panel)
    return figure


def _rows(panel: Axes, names: Sequence[str]) -> None:
    """Names down the y axis, the first on top, with a faint line through each."""
    panel.set_ylim(len(names) - 0.5, -0.5)
    figures.name_classes(panel, names)
    panel.tick_params(axis="y", length=0)
    panel.grid(axis="y", color=FAINT, linewidth=0.8)


# Other ways of measuring ---------------------------------------------------------------------------------------------


def plot_robustness(studies: Sequence[Study]) -> Figure | None:
    """Each re-parametrization's score less the study's own, a point a layer and network: a panel a domain.

    Grey is half the interval of a score, on average.
    """
    found = {study.name: _differences(study) for study in studies}
    shown = [study for study in studies if found[study.name]]
    if not shown:
        return None
    names = list(dict.fromkeys(variant for study in shown for variant, _, _ in found[study.name]))
    with _grid(len(shown), height=0.24 * len(names) + 1.1, width=3.3 if len(shown) > 1 else 5.5, sharey=True) as grid:
        figure, axes = grid
        for panel, study in zip(axes, shown, strict=True):
            halves = [(row.upper - row.lower) / 2 for network in NETWORKS for row in _macro(study, "graph", network)]
            if np.isfinite(halves).any():
                half = float(np.nanmean(halves))
                panel.axvspan(-half, half, color=GREY, alpha=0.18, linewidth=0, label="half an interval")
            panel.axvline(0, color=MUTED, linewidth=1)
            for shift, (network, colour) in zip((-0.14, 0.14), NETWORKS.items(), strict=True):
                mine = [
                    (value, names.index(variant)) for variant, which, value in found[study.name] if which == network
                ]
                if mine:
                    x, y = np.array(mine).T
                    panel.plot(x, y + shift, "o", color=colour, markersize=3.2, alpha=0.7, label=network)
            panel.set_title(study.name)
            figures.percent_axis(panel.xaxis, signed=True)
            panel.xaxis.set_major_locator(figures.MaxNLocator(5, steps=[1, 2, 5, 10]))
            panel.set_xlabel("difference (points)")
        _legend(figure, axes[0])
        _rows(axes[0], names)
        for panel in axes[1:]:
            panel.grid(axis="y", color=FAINT, linewidth=0.8)
            panel.tick_params(axis="y", length=0)
    return figure


def _differences(study: Study) -> list[tuple[str, str, float]]:
    rows = [row for row in study.variants if (row.question, row.labeling) == ("reparametrization", "predicted")]
    own = {(row.network, row.seed, row.layer_index): row.score for row in rows if row.variant == "none"}
    differences = [
        (row.variant, row.network, row.score - own.get((row.network, row.seed, row.layer_index), math.nan))
        for row in rows
        if row.variant != "none"
    ]
    return [one for one in differences if math.isfinite(one[2])]


def plot_sensitivity(studies: Sequence[Study]) -> Figure | None:
    """The change by fine-tuning under each setting: a point a layer, dark for late ones, the mean as a bar."""
    found = {study.name: _changes_by_setting(study) for study in studies}
    shown = [study for study in studies if found[study.name]]
    if not shown:
        return None
    names = list(dict.fromkeys(name for study in shown for name in found[study.name]))
    with _grid(len(shown), height=0.24 * len(names) + 1.1, width=3.3 if len(shown) > 1 else 5.5, sharey=True) as grid:
        _, axes = grid
        for panel, study in zip(axes, shown, strict=True):
            panel.axvline(0, color=MUTED, linewidth=1)
            for name, values in found[study.name].items():
                y = names.index(name)
                depth = np.linspace(0.15, 1, len(values))
                panel.scatter(
                    values, np.full(len(values), y), c=depth, cmap="Blues", vmin=0, vmax=1, s=14, linewidths=0
                )
                panel.plot([values.mean()] * 2, [y - 0.3, y + 0.3], color=COLOURS[1], linewidth=2)
            panel.set_title(study.name)
            figures.percent_axis(panel.xaxis, signed=True)
            panel.xaxis.set_major_locator(figures.MaxNLocator(5, steps=[1, 2, 5, 10]))
            panel.set_xlabel("change by fine-tuning (points)")
        _rows(axes[0], ["as the study" if name == "none" else name for name in names])
        for panel in axes[1:]:
            panel.grid(axis="y", color=FAINT, linewidth=0.8)
            panel.tick_params(axis="y", length=0)
    return grid[0]


def _changes_by_setting(study: Study) -> dict[str, np.ndarray]:
    """Setting -> fine-tuned (mean over seeds) minus pretrained of each layer, in order of depth."""
    scores: dict[str, dict[str, dict[int, list[float]]]] = {}
    for row in asked_rows(study, "sensitivity"):
        networks = scores.setdefault(row.variant, {network: {} for network in NETWORKS})
        networks[row.network].setdefault(row.layer_index, []).append(row.score)
    found = {}
    for variant, networks in scores.items():
        before, after = networks["pretrained"], networks["fine-tuned"]
        values = [np.mean(after[place]) - np.mean(before[place]) for place in sorted(before) if place in after]
        if values:
            found[variant] = np.array(values)
    truth = sorted(change_rows(study, "graph", true_labels(study)), key=lambda row: row.layer_index)
    if found and truth:
        found["true labels"] = np.array([row.difference for row in truth])
    return found


def plot_measures(studies: Sequence[Study]) -> Figure | None:
    """Simpler measures over the layers of the pretrained network beside convexity, each scaled to its own range.

    A line of panels a domain, a panel a measure; convexity is grey.
    """
    found = {study.name: _measures(study) for study in studies}
    shown = [study for study in studies if found[study.name]]
    if not shown:
        return None
    names = list(dict.fromkeys(name for study in shown for name in found[study.name]))
    beside = len(names) if len(shown) > 1 else min(len(names), 5)
    number = len(shown) * len(names) if len(shown) > 1 else len(names)
    with _grid(number, columns=beside, width=max(1.45, min(9.6 / beside, 2.4)), height=1.55) as (figure, axes):
        for place, panel in enumerate(axes):
            study, name = shown[place // len(names)], names[place % len(names)]
            convexity = {row.layer_index: row.score for row in _macro(study, "graph", "pretrained")}
            panel.plot(*_scaled(convexity), color=GREY, linewidth=2.4, alpha=0.7, label="graph convexity")
            panel.plot(*_scaled(found[study.name].get(name, {})), "o-", color=COLOURS[0], markersize=2.5, linewidth=1.2,
                       label="the measure")  # fmt: skip
            if place < len(names):
                panel.set_title(name, fontsize=8.5)
            if len(shown) > 1 and place % len(names) == 0:
                panel.set_ylabel(study.name)
            panel.set_yticks([])
            panel.set_xticks([])
            panel.set_ylim(-0.1, 1.1)
        for panel in axes[-beside:]:
            panel.set_xlabel("layer, first to last", fontsize=7.5, color=MUTED)
        _legend(figure, axes[0])
    return figure


def _measures(study: Study) -> dict[str, dict[int, float]]:
    found: dict[str, dict[int, float]] = {}
    for row in study.measures:
        if row.network == "pretrained" and row.label is None and math.isfinite(row.value):
            found.setdefault(row.measure, {})[row.layer_index] = row.value
    return found


def _scaled(profile: dict[int, float]) -> tuple[np.ndarray, np.ndarray]:
    places = np.array(sorted(profile))
    values = np.array([profile[place] for place in places], float)
    span = np.nanmax(values) - np.nanmin(values) if np.isfinite(values).any() else 0.0
    return places, (values - np.nanmin(values)) / span if span > 0 else np.full(len(places), 0.5)


# Pruning -------------------------------------------------------------------------------------------------------------


def plot_pruning(studies: Sequence[Study]) -> Figure | None:
    """The accuracy of networks cut after a layer and of the whole: a point a seed, the mean as a bar."""
    lines = [(study, rule) for study in studies for rule in dict.fromkeys(row.rule for row in study.pruning)]
    if not lines:
        return None
    with _grid(1, width=6.8, height=0.3 * len(lines) + 1.0) as (figure, axes):
        panel, names = axes[0], []
        rules = list(dict.fromkeys(rule for _, rule in lines))
        for place, (study, rule) in enumerate(lines):
            rows = [row for row in study.pruning if row.rule == rule]
            values = np.array([row.accuracy for row in rows])
            colour = _colour_of(rule, rules)
            panel.plot(values, np.full(len(values), place), "o", color=colour, markersize=4.5, alpha=0.6)
            panel.plot([np.nanmean(values)] * 2, [place - 0.32, place + 0.32], color=colour, linewidth=2.2)
            blocks = "/".join(str(count) for count in sorted({row.blocks for row in rows}))
            start = f"{study.name}: " if len(studies) > 1 else ""
            names.append(f"{start}{rule}, {blocks} blocks")
        panel.set_ylim(len(names) - 0.5, -0.5)
        panel.set_yticks(range(len(names)), names)
        panel.tick_params(axis="y", length=0)
        panel.grid(axis="x", color=FAINT, linewidth=0.8)
        figures.percent_axis(panel.xaxis)
        panel.set_xlabel("accuracy on the test part", color=INK)
    return figure


def _colour_of(rule: str, rules: Iterable[str]) -> str:
    known = {"whole": GREY, "most convex": COLOURS[0], "most convex but the last": COLOURS[0]}
    others = [name for name in rules if name not in known]
    return known.get(rule) or COLOURS[1 + others.index(rule) % (len(COLOURS) - 1)]
