"""Figures of studies, of one domain or several: profiles, changes, recall, robustness, simpler measures, pruning."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxconvex._internal.formats import interval_text, percent_text
from jaxconvex.reporting import figures, plots
from jaxconvex.reporting.figures import MUTED, Axes, Figure
from jaxconvex.study.claims.recall import no_correlation, recall_pairs
from jaxconvex.study.claims.words import change_rows, ends, macro_rows, points, true_labels
from jaxconvex.study.failures import failed_seeds
from jaxconvex.study.reporting.other_figures import plot_measures, plot_pruning, plot_robustness, plot_sensitivity
from jaxconvex.study.reporting.panels import (
    FAILED,
    KIND_COLOURS,
    NETWORKS,
    grid,
    legend,
    name_rows,
    network_rows,
    panels_of,
)
from jaxconvex.study.results import LABELS_ONLY, PREDICTED, ScoreRow, Study
from jaxconvex.study.statements import Statement, pooled

__all__ = [
    "plot_changes", "plot_correlations", "plot_measures", "plot_profiles", "plot_pruning", "plot_recall",
    "plot_robustness", "plot_sensitivity", "study_figures",
]  # fmt: skip

KINDS = ("graph", "euclidean")


def study_figures(studies: Sequence[Study], statements: Sequence[Statement] = ()) -> dict[str, Figure]:
    """The figures that the studies have rows for, by name: a panel a domain.

    Args:
        studies: one or more.
        made: their statements, of which the correlations with recall are drawn; none, none drawn.
    """
    single = len(studies) == 1
    builders: dict[str, Callable[[], Figure | None]] = {
        "profiles": lambda: plot_profiles(studies) if single else None,
        "profiles-graph": lambda: None if single else plot_profiles(studies, ["graph"]),
        "profiles-euclidean": lambda: None if single else plot_profiles(studies, ["euclidean"]),
        "changes": lambda: plot_changes(studies),
        "recall": lambda: plot_recall(studies),
        "correlations": lambda: None if single else plot_correlations(statements),
        "robustness": lambda: plot_robustness(studies),
        "sensitivity": lambda: plot_sensitivity(studies),
        "measures": lambda: plot_measures(studies),
        "pruning": lambda: plot_pruning(studies),
    }
    drawn = {name: build() for name, build in builders.items()}
    return {name: figure for name, figure in drawn.items() if figure is not None}


# Profiles and changes ------------------------------------------------------------------------------------------------


def plot_profiles(studies: Sequence[Study], kinds: Sequence[str] = KINDS) -> Figure | None:
    """Convexity over layers before and after fine-tuning, macro, by predicted and by true labels side by side.

    A line of panels for the predicted and one for the true labels of one study, with a panel a kind; a line a domain of
    several. Bands are the intervals; of the fine-tuned networks the mean over the seeds that did not fail is drawn, with
    its seeds as thin lines and the mean of their intervals; those that failed are thin and red. Dashed is the permutation
    null of each network, dash-dotted the score by the cosine metric, dotted the pretrained layers by the fine-tuned
    networks' labels.
    """
    single = len(studies) == 1
    cells = [(study, kind, labeling) for study in studies for kind in kinds for labeling in _two_labelings(study)]
    if single:
        cells.sort(
            key=lambda cell: cell[2] != PREDICTED
        )  # the kinds of the predicted labels, then those of the true ones
    shown = [cell for cell in cells if macro_rows(*cell)]
    if not shown:
        return None
    columns = len({kind for _, kind, _ in shown}) if single else len({cell[2] == PREDICTED for cell in shown})
    wide = max(figures.width_for(len(study.domain["layers"])) for study, _, _ in shown) if single else 3.3
    with grid(len(shown), width=min(wide, 4.9), columns=columns) as (figure, axes):
        for panel, (study, kind, labeling) in zip(axes, shown, strict=True):
            for network, colour in NETWORKS.items():
                _draw_profile(panel, study, network_rows(study, kind, network, labeling), network, colour)
            if labeling == PREDICTED:
                _draw_relabelled(panel, study, kind)
            name = "predicted labels" if labeling == PREDICTED else f"true labels ({labeling})"
            panel.set_title(f"{kind.capitalize()} convexity, {name}" if single else f"{study.name}, {name}", fontsize=9)
            if panel.get_subplotspec().is_first_col():
                panel.set_ylabel("macro score" if single else f"{kind} convexity")
            figures.percent_axis(panel.yaxis)
        _level(axes, [(study.name, kind) for study, kind, _ in shown])
        legend(figure, axes[0], most=3)
        for panel, (study, _, _) in zip(axes, shown, strict=True):
            figures.finish_layers(panel, study.domain["layers"])
    return figure


def _two_labelings(study: Study) -> list[str]:
    return list(dict.fromkeys([PREDICTED, *([true_labels(study)] if true_labels(study) else [])]))


def _level(axes: Sequence[Axes], keys: Sequence[Any]) -> None:
    """Give panels of one key the same limits, so that they can be compared."""
    for key in dict.fromkeys(keys):
        those = [panel for panel, own in zip(axes, keys, strict=True) if own == key]
        low, high = zip(*(panel.get_ylim() for panel in those), strict=True)
        for panel in those:
            panel.set_ylim(min(low), max(high))


def _draw_profile(panel: Axes, study: Study, rows: Sequence[ScoreRow], network: str, colour: str) -> None:
    failed = failed_seeds(study) if network != "pretrained" else {}
    for seed in dict.fromkeys(row.seed for row in rows if row.seed in failed):
        mine = sorted((row.layer_index, row.score) for row in rows if row.seed == seed)
        panel.plot(*zip(*mine, strict=True), color=FAILED, linewidth=1, label=f"{network}, failed")
    rows = [row for row in rows if row.seed not in failed]
    if not rows:
        return
    places, values = _table(rows)
    score, lower, upper, null, null_lower, null_upper, cosine = _mean_over_seeds(values)
    if np.isfinite(null).any():
        figures.band(panel, places, null_lower, null_upper, colour, alpha=0.12)
        panel.plot(places, null, color=colour, linewidth=1, linestyle=(0, (4, 2)), label=f"permuted labels, {network}")
    figures.band(panel, places, lower, upper, colour, alpha=0.2)
    if np.isfinite(cosine).any():
        panel.plot(
            places, cosine, color=colour, linewidth=1, linestyle="-.", alpha=0.8, label=f"cosine metric, {network}"
        )
    if len(values) > 1:
        panel.plot(places, values[:, 0].T, color=colour, linewidth=0.6, alpha=0.6)
    size = 4.5 if len(places) <= 8 else 3
    label = f"{network}, mean over seeds" if len(values) > 1 else network
    (line,) = panel.plot(places, score, "o-", color=colour, linewidth=1.7, markersize=size, label=label)
    layers = study.domain["layers"]
    said = zip(places, score, lower, upper, strict=True)
    figures.tell(line, label, [f"{layers[i]}: {percent_text(s)}% {interval_text(a, b)}" for i, s, a, b in said])


def _draw_relabelled(panel: Axes, study: Study, kind: str) -> None:
    """The pretrained layers by the labels of the fine-tuned networks, mean over the seeds that did not fail."""
    rows = [row for row in change_rows(study, kind, LABELS_ONLY) if math.isfinite(row.after)]
    if rows:
        places, after = [row.layer_index for row in rows], [row.after for row in rows]
        label = "pretrained layers, labels of after"
        panel.plot(places, after, color=NETWORKS["pretrained"], linewidth=1.4, linestyle=":", label=label)


def _table(rows: Sequence[ScoreRow]) -> tuple[np.ndarray, np.ndarray]:
    """The layers, and score, interval, null and cosine score of each seed (first axis) and layer (last)."""
    places = np.array(sorted({row.layer_index for row in rows}))
    seeds = list(dict.fromkeys(row.seed for row in rows))
    fields = ("score", "lower", "upper", "null_mean", "null_lower", "null_upper", "cosine")
    values = np.full((len(seeds), len(fields), len(places)), np.nan)
    for row in rows:
        index = int(np.searchsorted(places, row.layer_index))
        values[seeds.index(row.seed), :, index] = [getattr(row, field) for field in fields]
    return places, values


def _mean_over_seeds(values: np.ndarray) -> np.ndarray:
    known = np.isfinite(values)
    total = np.where(known, values, 0).sum(axis=0)
    return np.where(known.any(axis=0), total / np.maximum(known.sum(axis=0), 1), np.nan)


def plot_changes(studies: Sequence[Study]) -> Figure | None:
    """Fine-tuned minus pretrained in every layer with its interval, mean over seeds: a panel a domain."""
    shown = [study for study in studies if any(row.labeling == "predicted" for row in study.changes)]
    if not shown:
        return None
    with panels_of(shown) as (figure, axes):
        for panel, study in zip(axes, shown, strict=True):
            panel.axhline(0, color=MUTED, linewidth=1)
            for shift, (kind, colour) in zip((-0.1, 0.1), KIND_COLOURS.items(), strict=True):
                key = (kind, "predicted", None)
                rows = [row for row in study.changes if (row.kind, row.labeling, row.seed) == key]
                if rows:
                    places = np.array([row.layer_index for row in rows]) + shift
                    value, lower, upper = np.array([(row.difference, row.lower, row.upper) for row in rows]).T
                    panel.vlines(places, lower, upper, color=colour, linewidth=1.6, alpha=0.7)
                    (line,) = panel.plot(places, value, "o", color=colour, markersize=4, label=kind)
                    said = [f"{row.layer}: {points(row.difference)} {ends(row.lower, row.upper)}" for row in rows]
                    figures.tell(line, kind, said)
            panel.set_title(study.name)
            if panel.get_subplotspec().is_first_col():
                panel.set_ylabel("change by fine-tuning\n(percentage points)")
            figures.percent_axis(panel.yaxis, signed=True)
        legend(figure, axes[0])
        for panel, study in zip(axes, shown, strict=True):
            figures.finish_layers(panel, study.domain["layers"])
    return figure


# Recall --------------------------------------------------------------------------------------------------------------


def plot_recall(studies: Sequence[Study]) -> Figure | None:
    """Convexity before fine-tuning against recall after it: a point a class, coloured by domain, those that are pooled."""
    shown = [study for study in pooled(studies)[0] if study.classes]
    if not shown:
        return None
    with grid(len(KINDS), width=4.4, height=4.1) as (figure, axes):
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
                note=f"no r: {why}" if (why := no_correlation(convexity, recall)) else "",
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


def plot_correlations(statements: Sequence[Statement]) -> Figure | None:
    """Pearson's r of convexity and recall with its interval, of each domain, pooled, and within domains."""
    group = "predicts recall: "
    chosen = [
        statement for statement in statements if statement.claim.startswith(group) and math.isfinite(statement.estimate)
    ]
    if not chosen:
        return None
    names: dict[str, list[Statement]] = {}
    for statement in sorted(chosen, key=lambda statement: statement.domain == "all"):
        within = statement.claim.endswith("within domains")
        name = statement.domain if statement.domain != "all" else "within domains" if within else "pooled"
        names.setdefault(name, []).append(statement)
    with grid(1, width=6.4, height=0.34 * len(names) + 1.2) as (figure, axes):
        panel = axes[0]
        panel.axvline(0, color=MUTED, linewidth=1)
        for row, those in enumerate(names.values()):
            for statement in those:
                kind = statement.claim.removeprefix(group).split(",")[0]
                y = row + (-0.13 if kind == "graph" else 0.13)
                panel.hlines(y, statement.lower, statement.upper, color=KIND_COLOURS[kind], linewidth=1.8)
                panel.plot(statement.estimate, y, "o", color=KIND_COLOURS[kind], markersize=5, label=kind)
        name_rows(panel, list(names))
        panel.set_xlabel("Pearson r of convexity before and recall after fine-tuning")
        legend(figure, panel)
    return figure
