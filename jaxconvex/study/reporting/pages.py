"""The pages of studies: of one domain, and of several together; each one HTML file with its figures and tables."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxconvex._internal.formats import Table, csv_text, interval_text, number_text, percent_text, write_file
from jaxconvex.reporting.figures import save_figure
from jaxconvex.reporting.page import Captioned, Section, facts, write_page
from jaxconvex.study.claims.layers import withheld
from jaxconvex.study.failures import alarm
from jaxconvex.study.reporting.figures import study_figures
from jaxconvex.study.reporting.summary import SummaryRow, study_findings, summary_row, summary_rows, summary_table
from jaxconvex.study.reporting.why import why_sections
from jaxconvex.study.results import Study
from jaxconvex.study.statements import (
    Statement,
    by_group,
    missing_parts,
    pooled,
    statements,
    write_statements,
)

__all__ = ["summary_rows", "summary_table", "write_domain_page", "write_joint_page"]

PAGE = "report.html"
BY_SEED = "Thin lines are seeds of fine-tuning, the thick line their mean; bands are intervals, of seeds their mean"
NULLS = (
    "Dash-dotted is the cosine metric. "
    "Dashed is each network's permutation null: its graph with its labels permuted. Dotted are pretrained layers by the "
    "fine-tuned networks' labels: as far as they lie above the pretrained profile, the change is one of the labels. Red "
    "lines are fine-tunings that failed."
)
CAPTIONS = {
    "profiles": f"Convexity of every layer, mean of the classes: those that the network predicts, which differ before and "
    f"after, and those of the data, which do not. {BY_SEED}. {NULLS}",
    "profiles-graph": f"Graph convexity of every layer, mean of the classes that the network predicts (left) and of those "
    f"of the data (right). {BY_SEED}. {NULLS}",
    "profiles-euclidean": f"Euclidean convexity of every layer, mean of the classes that the network predicts (left) and of "
    f"those of the data (right). {BY_SEED}.",
    "changes": "Fine-tuned (mean over seeds) minus pretrained. The intervals hold the sampling of test points and of seeds.",
    "recall": "A point is a class: its convexity before fine-tuning (mean over layers) and its recall after it (mean over "
    "seeds).",
    "correlations": "Pearson's r over classes with its interval. Pooled: the classes of all pooled domains; within domains: "
    "each variable less its domain's mean.",
    "robustness": "Graph convexity of re-parametrized features less that of the features themselves; a point is a layer of "
    "a network. Grey: half the interval of a score, mean of the layers.",
    "sensitivity": "What fine-tuning changes in graph convexity when it is measured in other ways; a point is a layer, the "
    "darker the later, the bar their mean.",
    "measures": "Simpler measures over the layers of the pretrained network, each line scaled to its own range.",
    "pruning": "The accuracy of networks cut after a layer and fine-tuned, and of the whole; a point is a seed, the bar "
    "their mean.",
}
SECTIONS = {
    "Layers": ("profiles", "profiles-graph", "profiles-euclidean"),
    "What fine-tuning changes": ("changes",),
    "Classes: does convexity predict recall?": ("recall", "correlations"),
    "Other ways of measuring": ("robustness", "sensitivity"),
    "Beside simpler measures": ("measures",),
    "Pruning": ("pruning",),
}
METHOD = (
    "Intervals of scores and of differences of one seed are jackknife intervals with rebuilt graphs; those of a mean over "
    "seeds hold the spread of seeds too. The interval of a mean over layers takes the errors of layers as wholly "
    "correlated; that of the later minus the earlier half takes them so within each half, and the halves as independent. "
    "Over domains, each domain counts the same and errors are independent: the interval is for these domains, not for "
    "others. Correlations have Fisher's interval."
)
VERDICTS = {True: "yes", False: "no", None: "undecided"}


def write_domain_page(study: Study, folder: str | os.PathLike[str]) -> list[Path]:
    """The paths of report.html and of its figures (PNG and SVG, in `figures`), after writing them.

    The page says what the numbers say and shows figures and tables, then how it was done; it needs nothing beside it.
    """
    claims = statements([study])
    said = [*_told(claims), *missing_parts([study])]
    done = [_described_one(study), METHOD, *_facts([study])]
    title = f"Convexity in {study.domain.get('title', study.name)}"
    why = why_sections(study, folder)
    return _write(
        folder, title, [study], claims, _domain_tables(study), [Section("What the numbers say", said)], done, why
    )


def write_joint_page(studies: Sequence[Study], folder: str | os.PathLike[str]) -> list[Path]:
    """The paths of report.html, statements.json, statements.csv, summary.csv and the figures, after writing them.

    Args:
        studies: one or more, each of another domain; those that share their data with another are shown and not pooled.
        folder: made where it is not there.

    Raises ValueError for no studies, or two of one name.
    """
    claims = statements(studies)
    said = [*_told(claims), *_left_out(*pooled(studies)), *missing_parts(studies)]
    sections = [
        Section("What the numbers say", said),
        Section("Domains", [*filter(None, map(alarm, studies)), summary_table(studies), _described(studies)]),
    ]
    done = [METHOD, *map(_notes, studies), *_facts(studies)]
    paths = _write(folder, "Convexity before and after fine-tuning", studies, claims, {}, sections, done)
    summary = write_file(Path(folder) / "summary.csv", csv_text(SummaryRow._fields, summary_rows(studies)))
    return [paths[0], *write_statements(claims, folder), summary, *paths[1:]]


def _write(
    folder: Any,
    title: str,
    studies: Sequence[Study],
    claims: Sequence[Statement],
    tables: dict[str, list[Any]],
    start: Sequence[Section],
    done: Sequence[Any],
    why: Sequence[Section] = (),
) -> list[Path]:
    """Write the page: its start, the sections of the figures, every statement, how it was done; and the figures as files."""
    root = Path(folder)
    (root / "figures").mkdir(parents=True, exist_ok=True)
    drawn = study_figures(studies, claims)
    first = next((name for name in drawn if name.startswith("profiles")), None)
    shown = {name: Captioned(figure, CAPTIONS[name]) for name, figure in drawn.items()}
    lead = shown.pop(first) if first else None
    sections = [*start, *_figure_sections(shown, tables), *why]
    sections += [Section("Statements", [_statement_table(claims)]), Section("Errors and settings", done)]
    said, warnings = ("\n\n".join(parts) for parts in study_findings(studies, claims))
    failed = withheld(studies, "all" if len(studies) > 1 else studies[0].name)
    page = write_page(
        root / PAGE,
        title=title,
        lead=said,
        warnings=warnings,
        figure=lead,
        sections=sections,
        alarm=failed[0].text if failed else "",
    )
    return [page, *(path for name, figure in drawn.items() for path in save_figure(figure, root / "figures" / name))]


def _figure_sections(drawn: dict[str, Captioned], tables: dict[str, list[Any]]) -> list[Section]:
    sections = []
    for title, names in SECTIONS.items():
        items: list[Any] = [drawn[name] for name in names if name in drawn]
        items += tables.get(title, [])
        if items:
            sections.append(Section(title, items))
    return sections


# Words ---------------------------------------------------------------------------------------------------------------


def _described_one(study: Study) -> str:
    domain, row = study.domain, summary_row(study)
    sizes = ", ".join(f"{count:,} for {part}" for part, count in domain.get("parts", {}).items())
    seeds = f" ({row.seeds} times, with different seeds)" if row.seeds > 1 else ""
    spread = (
        f" Accuracy after it has a standard deviation over seeds of {percent_text(row.accuracy_spread)} percent."
        if row.seeds > 1
        else ""
    )
    return (
        f"{_sentence(domain.get('source', ''))} Network: {_sentence(domain.get('encoder', ''))} Points: {sizes}; "
        f"{row.classes} classes, {row.layers} layers. The network is measured with a softmax probe on its last layer, "
        f"fine-tuned{seeds} and measured again on the test part.{spread}"
    )


def _told(claims: Sequence[Statement]) -> list[Any]:
    """A paragraph for each claim, where many statements say its details, a table of those."""
    items: list[Any] = []
    for group, those in by_group(claims).items():
        whole = those if len(those) < 4 else [one for one in those if ":" not in one.claim]
        rows = tuple((one.claim.split(": ", 1)[1], one.text) for one in those if one not in whole)
        items += [" ".join(one.text for one in whole)] if whole else []
        items += [Table("", (group, "what the numbers say"), rows, (), 2)] if rows else []
    return items


def _sentence(text: Any) -> str:
    stripped = str(text).strip()
    return stripped if not stripped or stripped.endswith((".", "!", "?")) else f"{stripped}."


def _notes(study: Study) -> str:
    return f"{study.name}: {' '.join(study.notes) or 'no notes.'}"


def _left_out(kept: Sequence[Study], left: Sequence[Study]) -> list[str]:
    if not left:
        return []
    names = [study.name for study in kept]
    said = [f"{study.name} ({max((n for n in names if study.name.startswith(f'{n}-')), key=len)})" for study in left]
    return [f"Shown but not pooled, since the data of another domain (in brackets) are in it: {', '.join(said)}."]


# Tables --------------------------------------------------------------------------------------------------------------


def _described(studies: Sequence[Study]) -> list[dict[str, Any]]:
    fields = ("modality", "source", "encoder", "pool")
    return [
        {"domain": study.name}
        | {field: str(study.domain.get(field, "–")) for field in fields}
        | {"labelings": ", ".join(map(str, study.domain["labelings"])), "layers": len(study.domain["layers"])}
        | {f"{part} points": count for part, count in study.domain.get("parts", {}).items()}
        for study in studies
    ]


def _facts(studies: Sequence[Study]) -> list[Table]:
    fields = ("settings", "provenance")
    return [facts(field.capitalize(), {study.name: getattr(study, field) for study in studies}) for field in fields]


def _statement_table(statements: Sequence[Statement]) -> Table:
    lines = tuple(
        (statement.claim, statement.domain, VERDICTS[statement.holds], *(_number(value) for value in statement[2:5]))
        for statement in statements
    )
    note = "Fractions or correlations. Holds: the interval is clearly on the claim's side (yes), the other (no), or neither."
    return Table("Every statement", ("claim", "domain", "holds", "estimate", "lower", "upper"), lines, (note,), 3)


def _number(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "–"


def _domain_tables(study: Study) -> dict[str, list[Any]]:
    """Section -> the tables that one domain's page has there."""
    scores = [row for row in study.scores if (row.labeling, row.level) == ("predicted", "macro")]
    layers = Table(
        "Scores by predicted labels, mean of the classes",
        ("kind", "network", "seed", "layer", "score", "interval", "null", "p", "cosine", "hubness"),
        tuple(
            (row.kind, row.network, "–" if row.seed is None else str(row.seed), row.layer, percent_text(row.score),
             interval_text(row.lower, row.upper), percent_text(row.null_mean), _p(row.p_value), percent_text(row.cosine),
             number_text(row.hubness, 2))
            for row in scores
        ),
        (), 4, ("",) * 4 + ("%", "%", "%", "", "%", ""),
    )  # fmt: skip
    changes = Table(
        "Change by fine-tuning, mean over seeds",
        ("kind", "labels", "layer", "change", "interval", "spread of seeds"),
        tuple(
            (row.kind, row.labeling, row.layer, percent_text(row.difference), interval_text(row.lower, row.upper),
             percent_text(row.spread))
            for row in study.changes if row.seed is None
        ),
        (), 3, ("",) * 3 + ("points",) * 3,
    )  # fmt: skip
    classes = Table(
        "Classes",
        ("class", "points", "graph", "euclidean", "graph, true labels", "euclidean, true labels", "recall before",
         "recall after", "spread of seeds"),
        tuple((str(row.label), str(row.num_points), *(percent_text(value) for value in row[2:])) for row in study.classes),
        (), 1, ("", "") + ("%",) * 7,
    )  # fmt: skip
    pruning = [row._asdict() for row in study.pruning]
    return {
        "Layers": [layers] * bool(scores),
        "What fine-tuning changes": [changes] * bool(study.changes),
        "Classes: does convexity predict recall?": [classes] * bool(study.classes),
        "Pruning": [pruning] * bool(pruning),
    }


def _p(value: float) -> str:
    return f"{value:.2g}" if math.isfinite(value) else "–"
