"""Sections on why classes are not convex: what they lose in one layer, and the items to look at first."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxconvex._internal.formats import name_text, percent_text
from jaxconvex.evaluation.report import Report, read_report
from jaxconvex.reporting.page import Captioned, Gallery, Section
from jaxconvex.reporting.result_pages import WHY as EXPLAINED
from jaxconvex.reporting.result_pages import why_items
from jaxconvex.study.results import Study, network_name
from jaxconvex.study.why import WHY, foremost

__all__ = ["why_sections"]

KINDS = {
    "intruder": ("Points that other classes lose most to", "takes {} points"),
    "outlier": ("The worst outliers of their classes", "scores {} percent"),
}


def why_sections(study: Study, folder: str | os.PathLike[str]) -> list[Section]:
    """A section for each network of which the study tells why, in the order of the networks; none where it tells nothing."""
    sections = []
    for network in map(network_name, study.networks):
        path = Path(folder) / network / WHY / f"{WHY}.json"
        if path.is_file():
            report = read_report(path)
            row = report.rows[0]
            items = [*_galleries(report, path.parent), *why_items(report, row.labeling, row.k or 0)]
            about = f"By the labels of the data, in {name_text(row.layer)}, where their mean is highest. {EXPLAINED}"
            sections += [Section(f"Why, {network}", [about, *items])] if items else []
    return sections


def _galleries(report: Report, folder: Path) -> list[Gallery]:
    found = []
    for what, (title, words) in KINDS.items():
        shown = [
            Captioned(path, _caption(row, words)) for row in foremost(report, what) if (path := _item(row, folder))
        ]
        found += [Gallery(title, shown)] if shown else []
    return found


def _item(row: Any, folder: Path) -> Path | None:
    kinds: Sequence[str] = (".png", ".wav", ".txt")
    return next((path for kind in kinds if (path := folder / f"{row.point}{kind}").is_file()), None)


def _caption(row: Any, words: str) -> str:
    return f"{name_text(row.label)} {words.format(percent_text(row.value))} (row {row.point})"
