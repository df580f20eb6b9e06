"""The pages of studies: of one domain, and of several together; each one HTML file with its figures and tables."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxconvex._internal.formats import Table, csv_text, interval_text, number_text, percent_text, write_file
from jaxconvex.reporting.figures import Figure, save_figure
from jaxconvex.reporting.page import Captioned, Section, write_page
from jaxconvex.study.failures import alarm
from jaxconvex.study.reporting.figures import study_figures
from jaxconvex.study.reporting.summary import SummaryRow, headline, hubs, summary_row, summary_rows, summary_table
from jaxconvex.study.results import Study
from jaxconvex.study.statements import (
    Statement,
    missing_parts,
    paragraphs,
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
    "Does convexity predict recall?": ("recall", "correlations"),
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

    The page says what was studied and how, what the numbers say, and shows figures and tables; it needs nothing beside it.
    """
    claims = statements([study])
    drawn = study_figures([study], claims)
    title = f"Convexity in {study.domain.get('title', study.name)}"
    sections = [
        Section("What the numbers say", [*paragraphs(claims), *missing_parts([study])]),
        *_figure_sections(drawn, _domain_tables(study)),
        Section("Statements", [_statement_table(claims)]),
        Section("How it was done", [METHOD, _settings([study]), *_provenance([study])]),
    ]
    return _write(folder, title, _lead(study), sections, drawn, alarm(study))


def write_joint_page(studies: Sequence[Study], folder: str | os.PathLike[str]) -> list[Path]:
    """The paths of report.html, statements.json, statements.csv, summary.csv and the figures, after writing them.

    Args:
        studies: one or more, each of another domain; those that share their data with another are shown and not pooled.
        folder: made where it is not there.

    Raises ValueError for no studies, or two of one name.
    """
    claims = statements(studies)
    kept, left = pooled(studies)
    drawn = study_figures(studies, claims)
    said = [*paragraphs(claims), *_left_out(kept, left), *missing_parts(studies)]
    sections = [
        Section("What the numbers say", said),
        Section("Domains", [summary_table(studies), _described(studies)]),
        *_figure_sections(drawn, {}),
        Section("Statements", [_statement_table(claims)]),
        Section("How it was done", [METHOD, *map(_notes, studies), _settings(studies), *_provenance(studies)]),
    ]
    number = len(studies)
    lead = (
        f"{number} domain{'s' * (number > 1)}: {', '.join(study.name for study in studies)}. In each a pretrained network "
        "is measured in every layer, fine-tuned, and measured again. Classes are those that each network predicts, unless "
        "said otherwise. Numbers in brackets are 95 percent intervals, differences are in percentage points."
    )
    failed = "\n\n".join(filter(None, map(alarm, studies)))
    lead += "\n\n" + " ".join(filter(None, [*map(headline, studies), *map(hubs, studies)]))
    paths = _write(folder, "Convexity before and after fine-tuning", lead, sections, drawn, failed)
    summary = write_file(Path(folder) / "summary.csv", csv_text(SummaryRow._fields, summary_rows(studies)))
    return [paths[0], *write_statements(claims, folder), summary, *paths[1:]]


def _write(
    folder: Any, title: str, lead: str, sections: Sequence[Section], drawn: dict[str, Figure], failed: str
) -> list[Path]:
    root = Path(folder)
    (root / "figures").mkdir(parents=True, exist_ok=True)
    paths = [write_page(root / PAGE, title=title, lead=lead, sections=sections, alarm=failed)]
    for name, figure in drawn.items():
        paths += save_figure(figure, root / "figures" / name)
    return paths


def _figure_sections(drawn: dict[str, Figure], tables: dict[str, list[Any]]) -> list[Section]:
    sections = []
    for title, names in SECTIONS.items():
        items: list[Any] = [Captioned(drawn[name], CAPTIONS[name]) for name in names if name in drawn]
        items += tables.get(title, [])
        if items:
            sections.append(Section(title, items))
    return sections


# Words ---------------------------------------------------------------------------------------------------------------


def _lead(study: Study) -> str:
    domain, row = study.domain, summary_row(study)
    sizes = ", ".join(f"{count:,} for {part}" for part, count in domain.get("parts", {}).items())
    seeds = f" ({row.seeds} times, with different seeds)" if row.seeds > 1 else ""
    spread = f" (standard deviation over seeds {percent_text(row.accuracy_spread)})" if row.seeds > 1 else ""
    text = (
        f"{_sentence(domain.get('source', ''))} Network: {_sentence(domain.get('encoder', ''))} Points: {sizes}; "
        f"{row.classes} classes, {row.layers} layers. The network is measured with a softmax probe on its last layer, "
        f"fine-tuned{seeds} and measured again on the test part. It gets {percent_text(row.accuracy_pretrained)} percent "
        f"of them right before and {percent_text(row.accuracy)} percent after{spread}. Numbers in brackets are 95 percent "
        "intervals, differences are in percentage points."
    )
    return "\n\n".join(filter(None, [headline(study), hubs(study), text, " ".join(study.notes)]))


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


def _settings(studies: Sequence[Study]) -> Any:
    names = list(dict.fromkeys(name for study in studies for name in study.settings))
    lines = tuple((name, *(_shown(study.settings.get(name)) for study in studies)) for name in names)
    return Table("Settings", ("setting", *(study.name for study in studies)), lines, (), 1 + len(studies))


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {entry}" for name, entry in value.items()) or "–"
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else "–" if value is None else str(value)


def _provenance(studies: Sequence[Study]) -> list[str]:
    return [
        f"{study.name}: " + "; ".join(f"{name} {_shown(value)}" for name, value in study.provenance.items()) + "."
        for study in studies
        if study.provenance
    ]


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
        "Scores by predicted labels, mean of the classes, percent",
        ("kind", "network", "seed", "layer", "score", "interval", "null", "p", "cosine", "hubness"),
        tuple(
            (row.kind, row.network, _shown(row.seed), row.layer, percent_text(row.score),
             interval_text(row.lower, row.upper), percent_text(row.null_mean), _p(row.p_value), percent_text(row.cosine),
             number_text(row.hubness, 2))
            for row in scores
        ),
        (), 4,
    )  # fmt: skip
    changes = Table(
        "Change by fine-tuning, mean over seeds, points",
        ("kind", "labels", "layer", "change", "interval", "spread of seeds"),
        tuple(
            (row.kind, row.labeling, row.layer, percent_text(row.difference), interval_text(row.lower, row.upper),
             percent_text(row.spread))
            for row in study.changes if row.seed is None
        ),
        (), 3,
    )  # fmt: skip
    classes = Table(
        "Classes, percent",
        ("class", "points", "graph", "euclidean", "graph, true labels", "euclidean, true labels", "recall before",
         "recall after", "spread of seeds"),
        tuple((str(row.label), str(row.num_points), *(percent_text(value) for value in row[2:])) for row in study.classes),
    )  # fmt: skip
    pruning = [row._asdict() for row in study.pruning]
    return {
        "Layers": [layers] * bool(scores),
        "What fine-tuning changes": [changes] * bool(study.changes),
        "Does convexity predict recall?": [classes] * bool(study.classes),
        "Pruning": [pruning] * bool(pruning),
    }


def _p(value: float) -> str:
    return f"{value:.2g}" if math.isfinite(value) else "–"
