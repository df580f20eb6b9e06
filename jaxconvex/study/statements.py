"""What the numbers of one or several studies say of each claim, in plain sentences with intervals."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from jaxconvex._internal.formats import csv_text, has_checksum, json_text, read_json, write_file
from jaxconvex.study.claims.layers import above_null, labels_not_trained_for, most_in_late_layers, raised, withheld
from jaxconvex.study.claims.pruning import pruned
from jaxconvex.study.claims.recall import beside_simpler_measures, predicts_recall
from jaxconvex.study.claims.settings import robust, stands
from jaxconvex.study.claims.words import Statement
from jaxconvex.study.results import Study

__all__ = [
    "Statement", "by_group", "missing_parts", "paragraphs", "pooled", "read_statements", "statements", "write_statements",
]  # fmt: skip

FORMAT, VERSION = "jaxconvex statements", 1
CLAIMS = (
    withheld, above_null, raised, most_in_late_layers, labels_not_trained_for, predicts_recall, robust, stands,
    beside_simpler_measures, pruned,
)  # fmt: skip


def statements(studies: Sequence[Study]) -> tuple[Statement, ...]:
    """The statements on all seven claims: over the domains together (two or more), then on each domain.

    A part that no study has gives no statement; `missing_parts` names it. Of a fine-tuning that failed only that is said.
    Over the domains together each domain counts the same, and a domain that is another cut of one that is there
    ("text-77" beside "text") is left out: `pooled`.

    The seven: above the permutation null; raised by fine-tuning, and more in late layers; predicts recall, pooled and
    within domain; robust to re-parametrization; stands under other settings; beside simpler measures; pruning.

    Raises ValueError for no studies, or two of one name.

    Source of the claims: Tětková et al., On convex decision regions in deep network representations, 2025.
    """
    kept, _ = pooled(studies)
    together = [statement for claim in CLAIMS for statement in claim(kept, "all")] if len(kept) > 1 else []
    return (
        *together,
        *(statement for study in studies for claim in CLAIMS for statement in claim([study], study.name)),
    )


def pooled(studies: Sequence[Study]) -> tuple[list[Study], list[Study]]:
    """The studies that are pooled, and those left out, since they share their data with one that is pooled.

    One is left out whose name is another's, a hyphen and more: "text-77" beside "text", "images-vit" beside "images".

    Raises ValueError for no studies, or two of one name.
    """
    names = [study.name for study in studies]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"expected one or more studies, each of another domain; got {names}. Give each domain once.")
    left = [any(name.startswith(f"{other}-") for other in names) for name in names]
    parts = [[study for study, out in zip(studies, left, strict=True) if out is side] for side in (False, True)]
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


def paragraphs(statements: Sequence[Statement]) -> list[str]:
    """A paragraph for each claim: of the domains together if there are several, else of the one."""
    return [" ".join(statement.text for statement in those) for those in by_group(statements).values()]


def by_group(statements: Sequence[Statement]) -> dict[str, list[Statement]]:
    """The statements by claim, without its detail: of the domains together if there are several, else of the one."""
    groups: dict[str, list[Statement]] = {}
    for statement in [each for each in statements if each.domain == "all"] or statements:
        groups.setdefault(statement.claim.split(":")[0], []).append(statement)
    return groups


def write_statements(statements: Sequence[Statement], folder: str | os.PathLike[str]) -> list[Path]:
    """The paths of statements.json and statements.csv, after writing them."""
    root = Path(folder)
    return [
        write_file(root / "statements.json", json_text(FORMAT, VERSION, statements)),
        write_file(root / "statements.csv", csv_text(Statement._fields, statements)),
    ]


def read_statements(path: str | os.PathLike[str]) -> tuple[Statement, ...]:
    """The statements of a file that `write_statements` wrote. Raises ValueError for any other file."""
    rows, _ = read_json(path, FORMAT, VERSION, Statement)
    has_checksum(path)
    return rows
