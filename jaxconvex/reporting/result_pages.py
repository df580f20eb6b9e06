"""The figures and the page of a Report or a Comparison: what was found, the profile, layers, classes, errors, settings."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from jaxconvex._internal.formats import Table, name_text, percent_text
from jaxconvex.evaluation.comparison import Comparison
from jaxconvex.evaluation.report import Report, distinct
from jaxconvex.evaluation.rows import failing_pairs, row_key
from jaxconvex.evaluation.sentences import findings
from jaxconvex.evaluation.why import courses, told_layer, why_tables
from jaxconvex.reporting.figures import Figure
from jaxconvex.reporting.page import Captioned, Section, facts, write_page
from jaxconvex.reporting.plots import plot_classes, plot_differences, plot_profile
from jaxconvex.reporting.why_figures import intruders_caption, plot_intruders, plot_losses

__all__ = ["WHY", "draw_result", "errors_and_settings", "why_items", "write_result_page"]

PROFILE = "Convexity of every layer, mean of the classes. Bands are intervals; grey are permuted labels."
CLASSES = "The score of every class in every layer, percent."
DIFFERENCES = "The difference in every layer with its paired interval; grey dashes are the single classes."
WHY = (
    "A class loses points of its score where the shortest paths between its points run through points of others, and where "
    "there is no path. Each pair counts the same, and each point inside its path. An intruder may lie inside the region of "
    "a class, or between its parts; a point that takes much may be mislabelled, or a hub."
)
LOSSES = "The largest losses of a class to another over the layers, in percentage points of its score."
INTERVALS = (
    "Intervals are of the delete-a-group jackknife with rebuilt graphs: where the expected score of another sample of as "
    "many points lies. Scores depend on k, on the number of points and on the sizes of classes. Hashes of the input and all "
    "digits are in the JSON."
)


def draw_result(result: Report | Comparison, reports: Mapping[str, Report] | None = None) -> dict[str, Figure]:
    """The figures by the name of their file: for each labeling and k the profile, and the classes or the differences.

    Args:
        result: a Report or a Comparison.
        reports: the two reports of a comparison by their names.

    >>> from jaxconvex.evaluation.report import Row
    >>> rows = [Row("graph", "1", 0, "digit", 10, *of) for of in (("macro", None, 0.5), ("class", 7, 0.5))]
    >>> list(draw_result(Report(tuple(rows), {}, {})))
    ['profile', 'classes']
    """
    drawn = {}
    for (labeling, k), suffix in _suffixes(result).items():
        drawn[f"profile{suffix}"] = plot_profile(reports or result, labeling=labeling, k=k)  # type: ignore[arg-type]
        if isinstance(result, Report):
            drawn[f"classes{suffix}"] = plot_classes(result, labeling=labeling, k=k)
            drawn |= _draw_why(result, labeling, k, suffix)
        else:
            drawn[f"comparison{suffix}"] = plot_differences(result, classes=True, labeling=labeling, k=k)
    return drawn


def _suffixes(result: Report | Comparison) -> dict[tuple[str, int | None], str]:
    """For each labeling and k what tells its figures from others, in the names of their files."""
    labelings = file_names(distinct(result.rows, "labeling"))
    numbers = [k for k in distinct(result.rows, "k") if k is not None] or [None]
    return {
        (labeling, k): (f"-{name}" if len(labelings) > 1 else "") + (f"-k{k}" if len(numbers) > 1 else "")
        for labeling, name in labelings.items()
        for k in numbers
    }


def write_result_page(
    path: str | os.PathLike[str],
    result: Report | Comparison,
    drawn: Mapping[str, Figure],
    *,
    title: str,
    reports: Mapping[str, Report] | None = None,
) -> Path:
    """The path, after writing the page of a Report or a Comparison to it (`write_page`).

    Args:
        path: of the .html file.
        result: a Report or a Comparison.
        drawn: what `draw_result` gave for it.
        title: of the page.
        reports: the two reports of a comparison by their names.
    """
    said = findings(result, reports=reports)
    first, *others = [Captioned(figure, _caption(name, PROFILE)) for name, figure in _named(drawn, "profile")]
    if isinstance(result, Report):
        classes = [Captioned(figure, _caption(name, CLASSES)) for name, figure in _named(drawn, "classes")]
        sections = [Section("Layers", [*others, result]), Section("Classes", [*classes, *result.tables(classes=True)])]
        looked = {(row.labeling, row.k): None for row in result.intrusions}
        why = [item for key in looked for item in why_items(result, *key, drawn, _suffixes(result)[key])]
        sections += [Section("Why", [WHY, *why])] if why else []
    else:
        differences = [Captioned(figure, _caption(name, DIFFERENCES)) for name, figure in _named(drawn, "comparison")]
        layers = [Captioned(report, name) for name, report in (reports or {}).items()]
        sections = [
            Section("Differences", [*differences, result]),
            Section("Classes", result.tables(classes=True)),
            Section("Layers", [*others, *layers]),
        ]
    sections.append(
        Section("Errors and settings", errors_and_settings({"value": result} if reports is None else reports))
    )
    lead, warnings = ("\n\n".join(parts) for parts in said)
    return write_page(path, title=title, lead=lead, warnings=warnings, figure=first, sections=sections)


def _draw_why(report: Report, labeling: str, k: int | None, suffix: str) -> dict[str, Figure]:
    """The figures of what classes lose, where there is anything to draw."""
    drawn = {}
    if k is not None and told_layer(report, labeling, k) is not None:
        drawn[f"intruders{suffix}"] = plot_intruders(report, labeling=labeling, k=k)
        if courses(report, labeling, k)[1]:
            drawn[f"losses{suffix}"] = plot_losses(report, labeling=labeling, k=k)
    return drawn


def why_items(
    report: Report, labeling: str, k: int, drawn: Mapping[str, Figure] | None = None, suffix: str = ""
) -> list[Any]:
    """The items of a section on why scores are not 1: figures and tables; none where nothing was looked for, or lost.

    Args:
        report: a Report.
        labeling, k: of which labels, in which graph.
        drawn: figures by name; None draws them.
        suffix: ends the names of theirs.

    >>> why_items(Report((), {}, {}), "digit", 10)
    []
    """
    drawn = _draw_why(report, labeling, k, suffix) if drawn is None else drawn
    figures = [(f"{name}{suffix}", text) for name, text in (("intruders", intruders_caption(report, labeling)),
                                                            ("losses", LOSSES)) if f"{name}{suffix}" in drawn]  # fmt: skip
    return [*(Captioned(drawn[name], _caption(name, text)) for name, text in figures), *why_tables(report, labeling, k)]


def _named(drawn: Mapping[str, Figure], start: str) -> list[tuple[str, Figure]]:
    return [(name, figure) for name, figure in drawn.items() if name.startswith(start)]


def _caption(name: str, text: str) -> str:
    """The caption, with what tells a figure from others of its kind: "profile-genus-k5" is of "genus-k5"."""
    _, _, rest = name.partition("-")
    return f"{rest}: {text}" if rest else text


def errors_and_settings(reports: Mapping[str, Any]) -> list[Any]:
    """The items of a section on how sure the scores are and how they were made: text, errors, settings, provenance.

    >>> errors_and_settings({"value": Report((), {"k": 10}, {"device": "cpu"})})[1].rows
    (('k', '10'),)
    """
    errors = [table for name, report in reports.items() for table in _errors(name, report)]
    settings = {
        name: {key: value for key, value in each.settings.items() if key != "parents"}  # the tree shows them
        for name, each in reports.items()
    }
    made = facts("Provenance", {name: each.provenance for name, each in reports.items()})
    return [INTERVALS, *errors, facts("Settings", settings), made]


def _errors(name: str, report: Any) -> Sequence[Table]:
    """The standard errors of a report's aggregates; columns of which nothing is known are left out."""
    rows = [row for row in report.rows if row.level != "class"] if isinstance(report, Report) else []
    failing = failing_pairs(rows)
    fields = {
        "jackknife": "se_jackknife",
        "pairs drawn": "se_pairs",
        "sources drawn": "se_sources",
        "the paper's": "sem_paper",
    }
    known = {shown: field for shown, field in fields.items() if any(getattr(row, field) > 0 for row in rows)}
    body = tuple(
        (row.kind, name_text(row.labeling), "–" if row.k is None else str(row.k), name_text(row.layer), row.level,
         *(percent_text(getattr(row, field), 2) for field in known.values()),
         f"{failing[row_key(row)]:,}" if row_key(row) in failing else "–")
        for row in rows
    )  # fmt: skip
    columns = ("kind", "labels", "k", "layer", "level", *known, "failing pairs")
    title = "Standard errors" if name == "value" else f"Standard errors, {name_text(name)}"
    return [Table(title, columns, body, (), 5, ("",) * 5 + ("points",) * len(known) + ("",))] if known else []


def file_names(names: Sequence[str]) -> dict[str, str]:
    """For each name one that files may have anywhere: other characters become hyphens, and those alike get a number.

    >>> file_names(["genus", "a/b", "a:b", "../A.b", "属"])
    {'genus': 'genus', 'a/b': 'a-b', 'a:b': 'a-b-2', '../A.b': 'A.b', '属': 'labels'}
    """
    unique: dict[str, str] = {}
    for name in names:
        stem = re.sub(r"[^A-Za-z0-9_.]+", "-", name).strip("-.")[:100] or "labels"
        taken = {other.casefold() for other in unique.values()}
        numbered = (stem if number == 1 else f"{stem}-{number}" for number in count(1))
        unique[name] = next(each for each in numbered if each.casefold() not in taken)
    return unique
