"""What the numbers of one or several studies say of each claim, in plain sentences with intervals."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import ndtri, stdtrit

from jaxconvex.formats import csv_text, json_text, read_json, write_file
from jaxconvex.statistics import Correlation, pearson, spearman
from jaxconvex.study.results import ChangeRow, ScoreRow, Study, VariantRow
from jaxconvex.study.robustness import summary

__all__ = [
    "Statement", "holm", "missing_parts", "paragraphs", "pooled", "read_statements", "recall_pairs", "statements",
    "within_domains", "write_statements",
]  # fmt: skip

KINDS = ("graph", "euclidean")
PAPER = {"graph": "0.22 +- 0.06", "euclidean": "0.24 +- 0.06"}  # pooled Pearson r, with its standard error
LEVEL = 0.05
TOLERATED_LOSS = 0.01  # of accuracy, by pruning
FORMAT, VERSION = "jaxconvex statements", 1


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


def statements(studies: Sequence[Study]) -> tuple[Statement, ...]:
    """The statements on all seven claims: over the domains together (two or more), then on each domain.

    A part that no study has gives no statement; `missing_parts` names it. Over the domains together each domain counts
    the same, and a domain that is another cut of one that is there ("text-77" beside "text") is left out: `pooled`.

    The seven: above the permutation null; raised by fine-tuning, and more in late layers; predicts recall, pooled and
    within domain; robust to re-parametrization; stands under other settings; beside simpler measures; pruning.

    Raises ValueError for no studies, or two of one name.

    Source of the claims: Tětková et al., On convex decision regions in deep network representations, 2025.
    """
    kept, _ = pooled(studies)
    builders = (_above_null, _raised, _late, _predicts_recall, _robust, _sensitive, _pruned)
    together = [made for build in builders for made in build(kept, "all")] if len(kept) > 1 else []
    return (*together, *(made for study in studies for build in builders for made in build([study], study.name)))


def pooled(studies: Sequence[Study]) -> tuple[list[Study], list[Study]]:
    """The studies that are pooled, and those left out, since they share their data with one that is pooled.

    One is left out whose name is another's, a hyphen and more: "text-77" beside "text", "images-vit" beside "images".

    Raises ValueError for no studies, or two of one name.
    """
    names = [study.name for study in studies]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"expected one or more studies, each of another domain; got {names}. Give each domain once.")
    left = [any(name.startswith(f"{other}-") for other in names) for name in names]
    parts = [[study for study, out in zip(studies, left, strict=True) if out is wanted] for wanted in (False, True)]
    return parts[0], parts[1]


def missing_parts(studies: Sequence[Study]) -> list[str]:
    """Sentences that say which parts of which study were not run; empty if all were."""
    said = []
    for study in studies:
        questions = {row.question for row in study.variants}
        parts = {
            "the scores of layers": study.scores,
            "the change by fine-tuning": study.changes,
            "the recall of classes": study.classes,
            "re-parametrization": "reparametrization" in questions,
            "sensitivity": "sensitivity" in questions,
            "simpler measures": study.measures,
            "pruning": study.pruning,
        }
        lacking = [name for name, there in parts.items() if not there]
        if lacking:
            said.append(f"In {study.name} these parts were not run: {', '.join(lacking)}.")
    return said


def paragraphs(made: Sequence[Statement]) -> list[str]:
    """A paragraph for each claim: of the domains together if there are several, else of the one."""
    chosen = [one for one in made if one.domain == "all"] or list(made)
    groups = list(dict.fromkeys(one.claim.split(":")[0] for one in chosen))
    return [" ".join(one.text for one in chosen if one.claim.split(":")[0] == group) for group in groups]


def write_statements(made: Sequence[Statement], folder: str | os.PathLike[str]) -> list[Path]:
    """The paths of statements.json and statements.csv, after writing them."""
    place = Path(folder)
    return [
        write_file(place / "statements.json", json_text(FORMAT, VERSION, made)),
        write_file(place / "statements.csv", csv_text(Statement._fields, made)),
    ]


def read_statements(path: str | os.PathLike[str]) -> tuple[Statement, ...]:
    """The statements of a file that `write_statements` wrote. Raises ValueError for any other file."""
    return read_json(path, FORMAT, VERSION, Statement)[0]


# 1. Above the permutation null ---------------------------------------------------------------------------------------


def holm(p_values: Sequence[float]) -> Float[np.ndarray, " n"]:
    """Holm's corrected p-values: the chance of any false alarm among them stays below the level.

    Sorted, p_(i) is multiplied by n - i (i from 0), made non-decreasing and cut at 1.

    >>> holm([0.01, 0.04, 0.03]).round(3).tolist()
    [0.03, 0.06, 0.06]

    Source: Holm, Scandinavian Journal of Statistics 6:65, 1979.
    """
    p = np.asarray(p_values, np.float64)
    order = np.argsort(p, kind="stable")
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p)))), 1)
    return corrected


def _above_null(studies: Sequence[Study], domain: str) -> list[Statement]:
    found: list[tuple[Study, ScoreRow, float]] = []
    for study in studies:
        rows = [row for row in _macro(study, "graph") if math.isfinite(row.score) and math.isfinite(row.null_upper)]
        for network in dict.fromkeys((row.network, row.seed) for row in rows):
            mine = [row for row in rows if (row.network, row.seed) == network]
            found += zip([study] * len(mine), mine, holm([row.p_value for row in mine]).tolist(), strict=True)
    if not found:
        return []
    above = [row.score > row.null_upper for _, row, _ in found]
    clear = [p < LEVEL for _, _, p in found]
    study, weakest, _ = min(found, key=lambda one: one[1].score - one[1].null_mean)
    estimate, lower, upper = (value - weakest.null_mean for value in (weakest.score, weakest.lower, weakest.upper))
    holds = None
    if all(above) and all(clear) and all(row.lower > row.null_upper for _, row, _ in found):
        holds = True
    elif any(row.upper < row.null_mean for _, row, _ in found):
        holds = False
    named = [_spot(other, row, domain) for (other, row, _), fine in zip(found, above, strict=True) if not fine]
    failing = [
        f"{_spot(other, row, domain)} (p = {p:.2g})"
        for (other, row, p), fine in zip(found, clear, strict=True)
        if not fine
    ]
    text = (
        f"{_where(studies, domain)} graph convexity is above the upper end of the permutation null in {sum(above)} of "
        f"{len(found)} layers (each network counted by itself). The closest, {_spot(study, weakest, domain)}, is "
        f"{_points(estimate)} points from the null's mean {_ends(lower, upper)}. With Holm's correction over the layers "
        f"of a network, p is below {LEVEL} in {sum(clear)} of {len(found)} (largest {max(p for *_, p in found):.2g})."
    )
    text += f" Not above: {_list(named)}." if named else ""
    text += f" Not significant: {_list(failing)}." if failing else ""
    text += " The paper found convexity above chance everywhere; here it is not." if holds is False else ""
    return [Statement("above the null", text, estimate, lower, upper, holds, domain)]


# 2. Fine-tuning ------------------------------------------------------------------------------------------------------


def _raised(studies: Sequence[Study], domain: str) -> list[Statement]:
    made = []
    for kind in KINDS:
        parts = [rows for study in studies if (rows := _changes(study, kind))]
        if not parts:
            continue
        # The errors of layers are taken as wholly correlated: the widest that the mean can have.
        found = [(_mean(row.difference for row in rows), _mean(map(_half, rows))) for rows in parts]
        estimate, lower, upper = _over_domains(found)
        rows = [row for part in parts for row in part]
        text = (
            f"{_where(studies, domain)} fine-tuning changes {kind} convexity by {_points(estimate)} points on average over "
            f"layers {_ends(lower, upper)}; by layer the interval is above 0 in {sum(row.lower > 0 for row in rows)} of "
            f"{len(rows)}, below 0 in {sum(row.upper < 0 for row in rows)}."
        )
        holds = _sign(lower, upper)
        if domain == "all":
            text += f" {_by_domain(found)}"
        text += _contrast(holds, "The paper found that fine-tuning raises it; here it falls.")
        made.append(Statement(f"raised by fine-tuning: {kind}", text, estimate, lower, upper, holds, domain))
    return made


def _late(studies: Sequence[Study], domain: str) -> list[Statement]:
    made = []
    for kind in KINDS:
        found = []
        for study in studies:
            rows = sorted(_changes(study, kind), key=lambda row: row.layer_index)
            half = len(rows) // 2
            if half:
                early, late = rows[:half], rows[-half:]
                difference = _mean(row.difference for row in late) - _mean(row.difference for row in early)
                # Wholly correlated errors within a half, independent ones between the halves.
                found.append((difference, math.hypot(_mean(map(_half, late)), _mean(map(_half, early)))))
        if not found:
            continue
        estimate, lower, upper = _over_domains(found)
        holds = _sign(lower, upper)
        text = (
            f"{_where(studies, domain)} the later half of the layers changes in {kind} convexity by "
            f"{_points(estimate)} points more than the earlier half {_ends(lower, upper)}."
        )
        if domain == "all":
            text += f" {_by_domain(found)}"
        text += _contrast(holds, "The paper found the rise mostly in late layers; here it is larger in early ones.")
        made.append(Statement(f"most in late layers: {kind}", text, estimate, lower, upper, holds, domain))
    return made


# 3. Recall -----------------------------------------------------------------------------------------------------------


def recall_pairs(study: Study, kind: str) -> tuple[Float[np.ndarray, " c"], Float[np.ndarray, " c"]]:
    """Convexity of the pretrained network (mean over layers) and recall after fine-tuning, of each class; may be NaN."""
    values = np.array([(getattr(row, kind), row.recall) for row in study.classes], np.float64).reshape(-1, 2)
    return values[:, 0], values[:, 1]


def within_domains(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> Correlation:
    """Pearson's r within domains: both variables less their domain's mean, d - 1 degrees of freedom fewer.

    Fisher's interval is tanh(artanh r -+ z / sqrt(n - d - 2)) for n classes of d domains; NaN where n - d <= 2. Classes
    with a NaN are left out.

    >>> x = np.array([0.1, 0.2, 0.3])
    >>> within_domains([(x, x), (x + 0.5, x)]).coefficient
    1.0
    """
    centred, domains = [np.empty((0, 2))], 0
    for convexity, recall in pairs:
        both = np.stack([convexity, recall], axis=-1)
        both = both[np.isfinite(both).all(axis=-1)]
        if len(both):
            centred.append(both - both.mean(axis=0))
            domains += 1
    values = np.concatenate(centred)
    r, n = float(pearson(*values.T).coefficient), len(values)
    room = n - domains - 2
    if not math.isfinite(r) or room <= 0:
        return Correlation(r, math.nan, math.nan, n)
    with np.errstate(divide="ignore"):
        ends = np.tanh(np.arctanh(r) + np.array([-1, 1]) * ndtri(0.975) / math.sqrt(room))
    return Correlation(r, float(ends[0]), float(ends[1]), n)


def _predicts_recall(studies: Sequence[Study], domain: str) -> list[Statement]:
    made = []
    for kind in KINDS:
        pairs = [recall_pairs(study, kind) for study in studies if study.classes]
        if not pairs:
            continue
        x, y = (np.concatenate(values) for values in zip(*pairs, strict=True))
        found, rank = pearson(x, y), spearman(x, y)
        lost = len(x) - found.num_points
        text = (
            f"{_where(studies, domain)} the {kind} convexity of a class before fine-tuning and its recall after it have "
            f"Pearson r = {_r(found)}, Spearman {_r(rank)}, over {found.num_points} classes"
            f"{f' ({lost} more have no value and are not in it)' if lost else ''}."
        )
        holds = _sign(found.lower, found.upper)
        if not math.isfinite(found.coefficient):
            text += " There is no correlation where one of the two is constant or fewer than two classes have both."
        elif domain == "all":
            text += f" The paper found r = {PAPER[kind]} over all its domains; here {_paper(found, kind)}."
        else:
            text += _contrast(holds, f"The paper found r = {PAPER[kind]} over all its domains; here it is negative.")
        made.append(Statement(f"predicts recall: {kind}", text, *found[:3], holds, domain))
        if len(pairs) > 1:
            inner = within_domains(pairs)
            holds = _sign(inner.lower, inner.upper)
            text = f"Within domains (both less their domain's mean) {kind} convexity and recall have r = {_r(inner)}."
            text += _contrast(holds, "Pooling hides this: within domains the relation is the other way round.")
            made.append(Statement(f"predicts recall: {kind}, within domains", text, *inner[:3], holds, domain))
    return made


def _paper(found: Correlation, kind: str) -> str:
    value = float(PAPER[kind].split()[0])
    if math.isnan(found.lower):
        return "there are too few classes for an interval"
    side = "above" if found.lower > value else "below"
    return "the interval holds that value" if found.lower <= value <= found.upper else f"the interval lies {side} it"


# 4 and 5. Other ways of measuring ------------------------------------------------------------------------------------


def _robust(studies: Sequence[Study], domain: str) -> list[Statement]:
    asked = [(study, rows) for study in studies if (rows := _asked(study, "reparametrization"))]
    made = []
    for variant in dict.fromkeys(row.variant for _, rows in asked for row in rows if row.variant != "none"):
        moved, ranks, widths = [], [], []
        for study, rows in asked:
            differences = _moved(rows, variant)
            if len(differences):
                moved.append(differences)
                widths.append(_mean(map(_half, _macro(study, "graph"))))
                ranks += [one.rank_correlation for one in summary(rows) if one.variant == variant]
        if not moved:
            continue
        every = np.concatenate(moved)
        estimate, width = _mean(part.mean() for part in moved), _mean(widths)
        inside = [np.abs(part).max() <= own for part, own in zip(moved, widths, strict=True)]
        holds = True if all(inside) else False if abs(estimate) > width else None
        lower, upper, largest = float(every.min()), float(every.max()), np.abs(every).max()
        text = (
            f"{_begin(variant)}: {_points(estimate)} points on average, {100 * largest:.1f} at most "
            f"(from {_points(lower)} to {_points(upper)}); rank correlation of the profiles {_mean(ranks):.2f}."
        )
        text = text.replace("nan", "not defined") + _contrast(holds, "Not robust to it.", "Undecided.")
        made.append(Statement(f"robust to re-parametrization: {variant}", text, estimate, lower, upper, holds, domain))
    if not made:
        return []
    worst = max(made, key=lambda one: max(-one.lower, one.upper))
    width = _mean(_half(row) for study, _ in asked for row in _macro(study, "graph"))
    text = (
        f"{_where([study for study, _ in asked], domain)} graph convexity moves by at most half its interval "
        f"({100 * width:.1f} points, mean of the layers) in {sum(one.holds is True for one in made)} of {len(made)} "
        f"re-parametrizations, on average by more than that in {sum(one.holds is False for one in made)}."
    )
    whole = worst._replace(claim="robust to re-parametrization", text=text, holds=_all(one.holds for one in made))
    return [whole, *made]


def _asked(study: Study, question: str) -> list[VariantRow]:
    """The rows of one question, by predicted labels, that have a score."""
    rows = [row for row in study.variants if (row.question, row.labeling) == (question, "predicted")]
    return [row for row in rows if math.isfinite(row.score)]


def _moved(rows: Sequence[VariantRow], variant: str) -> Float[np.ndarray, " m"]:
    """The variant's scores less those of the study's own way, of the same layers, networks and seeds."""
    own = {(row.network, row.seed, row.layer_index): row.score for row in rows if row.variant == "none"}
    mine = {(row.network, row.seed, row.layer_index): row.score for row in rows if row.variant == variant}
    return np.array([mine[key] - own[key] for key in mine if key in own])


def _sensitive(studies: Sequence[Study], domain: str) -> list[Statement]:
    asked = [(study, rows) for study in studies if (rows := _asked(study, "sensitivity"))]
    found: dict[str, list[tuple[float, float, int, int]]] = {}
    for study, rows in asked:
        # The other settings have no replicates: their error is taken from the study's own.
        half = _mean(map(_half, _changes(study, "graph")))
        for one in summary(rows):
            if one.raised is not None:
                found.setdefault(one.variant, []).append((one.mean_change, half, one.raised, one.num_layers))
    for study in studies:
        truth = _changes(study, "graph", next(iter(study.domain["labelings"]), ""))
        if truth:
            raised = sum(row.difference > 0 for row in truth)
            mean = (_mean(row.difference for row in truth), _mean(map(_half, truth)))
            found.setdefault("true labels", []).append((*mean, raised, len(truth)))
    made = []
    for variant, parts in found.items():
        estimate, lower, upper = _over_domains([part[:2] for part in parts])
        holds = _sign(lower, upper)
        way = "As the study measures" if variant == "none" else _begin(variant)
        text = (
            f"{way}: {_points(estimate)} points {_ends(lower, upper)}, raised in {sum(part[2] for part in parts)} of "
            f"{sum(part[3] for part in parts)} layers."
        )
        text += _contrast(holds, "Measured so, it falls.", "Undecided.")
        made.append(Statement(f"stands under other settings: {variant}", text, estimate, lower, upper, holds, domain))
    if not made:
        return []
    weakest = min(made, key=lambda one: one.lower if math.isfinite(one.lower) else math.inf)
    text = (
        f"{_where(studies, domain)} fine-tuning clearly raises graph convexity, mean over layers, under "
        f"{sum(one.holds is True for one in made)} of {len(made)} settings, clearly lowers it under "
        f"{sum(one.holds is False for one in made)}. Intervals of settings other than the study's own and true labels "
        "are as wide as the study's own."
    )
    whole = weakest._replace(claim="stands under other settings", text=text, holds=_all(one.holds for one in made))
    return [whole, *made]


# 7. Pruning ----------------------------------------------------------------------------------------------------------


def _pruned(studies: Sequence[Study], domain: str) -> list[Statement]:
    found, saved = [], []
    for study in studies:
        rows = {rule: {row.seed: row for row in study.pruning if row.rule == rule} for rule in ("most convex", "whole")}
        cut, whole = rows["most convex"], rows["whole"]
        both = [seed for seed in cut if seed in whole]
        if both:
            lost = np.array([cut[seed].accuracy - whole[seed].accuracy for seed in both])
            spread = lost.std(ddof=1) if len(lost) > 1 else math.nan
            half = float(stdtrit(max(len(lost) - 1, 1), 0.975)) * spread / math.sqrt(len(lost))
            found.append((float(lost.mean()), half))
            fields = ("blocks", "training_seconds", "inference_seconds", "parameters")
            saved.append([1 - _ratio(cut.values(), whole.values(), field) for field in fields])
    if not found:
        return []
    estimate, lower, upper = _over_domains(found)
    holds = True if lower > -TOLERATED_LOSS else False if upper < -TOLERATED_LOSS else None
    names = ("of the blocks", "of the time of training", "of the time of inference", "of the parameters")
    values = zip(np.mean(saved, axis=0), names, strict=True)
    shares = ", ".join(f"{100 * value:.0f} percent {name}" for value, name in values if math.isfinite(value))
    text = (
        f"{_where(studies, domain)} the network cut after its most convex layer and fine-tuned differs in accuracy from the "
        f"whole by {_points(estimate)} points {_ends(lower, upper)} (the interval is over seeds). It saves {shares}."
    )
    text += _contrast(holds, f"So more than {100 * TOLERATED_LOSS:.0f} point is lost.")
    return [Statement("pruning", text, estimate, lower, upper, holds, domain)]


def _ratio(cut: Iterable, whole: Iterable, field: str) -> float:
    return _mean(getattr(row, field) for row in cut) / (_mean(getattr(row, field) for row in whole) or math.nan)


# Rows, means, words --------------------------------------------------------------------------------------------------


def _macro(study: Study, kind: str) -> list[ScoreRow]:
    wanted = (kind, "predicted", "macro")
    return [row for row in study.scores if (row.kind, row.labeling, row.level) == wanted]


def _changes(study: Study, kind: str, labeling: str = "predicted") -> list[ChangeRow]:
    """The change of the mean over the seeds, of the layers that have one."""
    wanted = (kind, labeling, None)
    rows = [row for row in study.changes if (row.kind, row.labeling, row.seed) == wanted]
    return [row for row in rows if math.isfinite(row.difference)]


def _half(row: ScoreRow | ChangeRow) -> float:
    return (row.upper - row.lower) / 2


def _mean(values: Iterable[float]) -> float:
    """The mean of those that are not NaN."""
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan


def _all(verdicts: Iterable[bool | None]) -> bool | None:
    known = list(verdicts)
    return False if False in known else None if None in known else True


def _over_domains(found: Sequence[tuple[float, float]]) -> tuple[float, float, float]:
    """The mean of (estimate, half width) over domains with its interval: errors independent, these domains only."""
    estimates, halves = np.array(found, np.float64).T
    half = float(np.sqrt(np.sum(halves**2))) / len(halves)
    return float(estimates.mean()), float(estimates.mean()) - half, float(estimates.mean()) + half


def _by_domain(found: Sequence[tuple[float, float]]) -> str:
    above = sum(value - half > 0 for value, half in found)
    below = sum(value + half < 0 for value, half in found)
    return f"By domain the interval is above 0 in {above} of {len(found)}, below 0 in {below}."


def _sign(lower: float, upper: float) -> bool | None:
    return True if lower > 0 else False if upper < 0 else None


def _contrast(holds: bool | None, against: str, undecided: str = "This is undecided.") -> str:
    return f" {against}" if holds is False else f" {undecided}" if holds is None else ""


def _where(studies: Sequence[Study], domain: str) -> str:
    return f"Over {len(studies)} domains" if domain == "all" else f"In {domain}"


def _begin(name: str) -> str:
    """The name as a sentence begins: a capital, but not for a symbol, as the k of "k = 5" is."""
    return name if name[1:2] in ("", " ") else name[0].upper() + name[1:]


def _spot(study: Study, row: ScoreRow, domain: str) -> str:
    network = row.network if row.seed is None else f"{row.network}, seed {row.seed}"
    return f"{f'{study.name}, ' if domain == 'all' else ''}{row.layer} {network}"


def _list(names: Sequence[str], most: int = 8) -> str:
    more = f"; and {len(names) - most} more" if len(names) > most else ""
    return "; ".join(names[:most]) + more


def _points(value: float) -> str:
    return "no value" if math.isnan(value) else "0.0" if f"{100 * value:.1f}" == "-0.0" else f"{100 * value:+.1f}"


def _ends(lower: float, upper: float) -> str:
    known = math.isfinite(lower) and math.isfinite(upper)
    return f"[{_points(lower)}, {_points(upper)}]" if known else "(no interval)"


def _r(found: Correlation) -> str:
    ends = f"[{found.lower:.2f}, {found.upper:.2f}]" if math.isfinite(found.lower) else "(no interval)"
    return f"{found.coefficient:.2f} {ends}" if math.isfinite(found.coefficient) else "not defined"
