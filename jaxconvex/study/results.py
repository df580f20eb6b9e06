"""What a study found, as data: one file, study.json, that holds a table of rows for each question."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any, NamedTuple

from jaxconvex._internal.formats import csv_text, has_checksum, json_of_tables, read_tables, write_file

__all__ = [
    "LABELS_ONLY", "LAYERS_ONLY", "PREDICTED", "TABLES", "ChangeRow", "ClassRow", "MeasureRow", "NetworkRow", "PruningRow",
    "ScoreRow", "Study", "VariantRow", "network_name", "read_study", "write_study",
]  # fmt: skip

FORMAT, VERSION = "jaxconvex study", 1
FILE, TIMES = "study.json", "times.json"
PREDICTED = "predicted"  # the labeling by what a network says
LABELS_ONLY, LAYERS_ONLY = "predicted (labels only)", "predicted (layers only)"  # the two parts of its change


class NetworkRow(NamedTuple):
    """One trained network: how well it tells the classes of the test part, and what its training took."""

    network: str  # "pretrained" (with a softmax probe) or "fine-tuned"
    seed: int | None  # of the fine-tuning; None for the pretrained network
    accuracy: float  # on the test part, a fraction
    validation_loss: float
    epochs: int  # trained; the best of them is kept
    best_epoch: int  # counted from 0; -1 where none was better than the network it began with
    seconds: float  # of training, on the machine of the study
    vanished: int = 0  # classes that the network it began with predicts and this one predicts for no test point
    still_falling: float = (
        math.nan
    )  # share of the fall of the validation loss in the last epoch allowed; NaN: ended before


def network_name(row: NetworkRow) -> str:
    """The name of the network in folders and figures: "pretrained", "fine-tuned-0"."""
    return row.network if row.seed is None else f"{row.network}-{row.seed}"


class ScoreRow(NamedTuple):
    """The convexity of one layer of one network: the mean over classes (macro) or over pairs (micro)."""

    network: str
    seed: int | None
    kind: str  # "graph" or "euclidean"
    labeling: str  # "predicted", one of the data's own, or of the pretrained network "predicted by fine-tuned-0"
    layer: str
    layer_index: int
    level: str  # "macro" or "micro"
    score: float
    se: float  # jackknife: the test points are a sample
    lower: float
    upper: float
    null_mean: float  # of the permutation null, graph only
    null_lower: float
    null_upper: float
    p_value: float
    num_points: int
    num_pairs: int
    hubness: float = math.nan  # graph only, as in a report: skewness of how often points are neighbours
    hub: int = 0  # points that have the most frequent neighbour among theirs
    cosine: float = math.nan  # the same score by the neighbours of the cosine metric


class ChangeRow(NamedTuple):
    """Fine-tuned minus pretrained, macro: of one seed, or (seed None) of the mean over the seeds that did not fail.

    The change by "predicted" labels, which differ before and after, is the sum of two: "predicted (labels only)", the
    pretrained layers by the fine-tuned network's labels less the same layers by the pretrained network's; and "predicted
    (layers only)", the fine-tuned layers less the pretrained ones, both by the fine-tuned network's labels.

    The interval of one seed is the paired jackknife's. That of the mean has se^2 + spread^2 / seeds as its variance, so
    that it holds the sampling of test points and of training runs.
    """

    kind: str
    labeling: str
    layer: str
    layer_index: int
    seed: int | None
    before: float
    after: float
    difference: float
    se: float
    spread: float  # standard deviation over the seeds; NaN for a single seed
    lower: float
    upper: float


class ClassRow(NamedTuple):
    """One class of the main labeling: convexity before fine-tuning (mean over layers), recall before and after."""

    label: int | str | None
    num_points: int  # of the class in the test part
    graph: float  # predicted labels, pretrained network
    euclidean: float
    graph_true: float  # the same by true labels
    euclidean_true: float
    recall_pretrained: float
    recall: float  # fine-tuned, mean over the seeds that did not fail
    recall_spread: float  # standard deviation over seeds


class VariantRow(NamedTuple):
    """Graph convexity of a layer, measured in another way: re-parametrized, or with other settings."""

    question: str  # "reparametrization" or "sensitivity"
    variant: str  # "none" is the study's own way
    network: str
    seed: int | None
    labeling: str
    layer: str
    layer_index: int
    score: float  # macro
    num_points: int


class MeasureRow(NamedTuple):
    """A simpler measure of a layer, for all (label None) or for one class."""

    measure: str
    network: str
    seed: int | None
    layer: str
    layer_index: int
    label: int | str | None
    value: float


class PruningRow(NamedTuple):
    """A network cut after a layer and fine-tuned: what is lost, and what is saved."""

    rule: str  # "most convex", "whole", or another rule
    layer: str  # the last that is kept
    layer_index: int
    blocks: int  # that are kept
    seed: int
    accuracy: float
    training_seconds: float  # an epoch
    inference_seconds: float  # 1,000 points
    parameters: int
    failed: str = ""  # what speaks against the fine-tuning, in words


TABLES: dict[str, Any] = {
    "networks": NetworkRow,
    "scores": ScoreRow,
    "changes": ChangeRow,
    "classes": ClassRow,
    "variants": VariantRow,
    "measures": MeasureRow,
    "pruning": PruningRow,
}


ENTRIES: dict[str, type] = {"domain": dict, "settings": dict, "notes": list, "provenance": dict}


class Study(NamedTuple):
    """A domain's results.

    `domain` says what was studied: name, modality, source and encoder (a sentence each), layers, labelings (the first is
    the one trained for), classes, pool, and parts, the number of points of "train", "validation" and "test". `settings`
    say how; `notes` what was made smaller or left out, in sentences; `provenance` versions, device, dates, hashes.
    """

    domain: dict[str, Any]
    settings: dict[str, Any]
    notes: tuple[str, ...]
    provenance: dict[str, Any]
    networks: tuple[NetworkRow, ...] = ()
    scores: tuple[ScoreRow, ...] = ()
    changes: tuple[ChangeRow, ...] = ()
    classes: tuple[ClassRow, ...] = ()
    variants: tuple[VariantRow, ...] = ()
    measures: tuple[MeasureRow, ...] = ()
    pruning: tuple[PruningRow, ...] = ()

    @property
    def name(self) -> str:
        """The name of the domain."""
        return self.domain["name"]


def write_study(study: Study, folder: str | os.PathLike[str]) -> list[Path]:
    """The paths of the files, after writing them; each is whole or untouched.

    study.json is the same whenever the study is run again; what differs, seconds and dates, is in times.json beside it.
    Every table is a CSV file too.
    """
    root = Path(folder)
    tables = {name: getattr(study, name) for name in TABLES}
    times = {
        f"{name}.{field}": [getattr(row, field) for row in rows]
        for name, rows in tables.items()
        for field in _timed(TABLES[name])
    }
    lasting = {
        name: [row._replace(**dict.fromkeys(_timed(TABLES[name]), math.nan)) for row in rows]
        for name, rows in tables.items()
    }
    entries = {name: getattr(study, name) for name in ENTRIES}
    entries["provenance"], dates = _parted(study.provenance)
    paths = [
        write_file(root / FILE, json_of_tables(FORMAT, VERSION, lasting, **entries)),
        write_file(root / TIMES, json_of_tables("jaxconvex times", VERSION, {}, seconds=times, dates=dates)),
    ]
    for name, kind in TABLES.items():
        if tables[name]:
            paths.append(write_file(root / f"{name}.csv", csv_text(kind._fields, tables[name])))
    return paths


def read_study(path: str | os.PathLike[str]) -> Study:
    """The study that `write_study` wrote, equal to it field by field; a folder stands for its study.json.

    Without times.json the seconds are NaN. Raises ValueError, naming the file and what came, for a file that is no study
    or was cut short; OSError for one that cannot be read.
    """
    file = Path(path)
    file = file / FILE if file.is_dir() else file
    tables, entries = read_tables(file, FORMAT, VERSION, TABLES)
    has_checksum(file)
    for name, kind in ENTRIES.items():
        if not isinstance(entries.get(name), kind):
            raise ValueError(f"{file} must hold {name!r}; got {entries.get(name)!r}. Run the study again.")
    known: dict[str, Any] = {name: entries[name] for name in ENTRIES} | {"notes": tuple(entries["notes"])}
    beside = file.with_name(TIMES)
    if file.name == FILE and beside.exists():
        _, times = read_tables(beside, "jaxconvex times", VERSION, {})
        known["provenance"] |= times["dates"]
        for column, values in times["seconds"].items():
            name, field = column.split(".")
            if len(values) == len(tables[name]):
                rows = zip(tables[name], values, strict=True)
                tables[name] = tuple(row._replace(**{field: float(value)}) for row, value in rows)
    return Study(**(known | tables))


def _timed(kind: Any) -> list[str]:
    return [field for field in kind._fields if field.endswith("seconds")]


def _parted(provenance: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What lasts, and what another run would write otherwise."""
    dates = {name: value for name, value in provenance.items() if name in ("created", "seconds")}
    return {name: value for name, value in provenance.items() if name not in dates}, dates
