"""Report: the scores of layers as plain data, with what is needed to read, repeat and compare them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxconvex._internal import formats
from jaxconvex._internal.formats import Table
from jaxconvex.evaluation.intrusion_rows import IntrusionRow, PointRow
from jaxconvex.evaluation.measure_rows import MeasureRow, measure_tables
from jaxconvex.evaluation.rows import (
    FEW_FAILING,
    FEWEST_UNITS,
    Row,
    class_means,
    distinct,
    failing_pairs,
    only,
    row_key,
    select,
)
from jaxconvex.evaluation.table import report_table
from jaxconvex.evaluation.tree import tree_tables

__all__ = [
    "FEWEST_UNITS",
    "FEW_FAILING",
    "Report",
    "Row",
    "class_means",
    "distinct",
    "failing_pairs",
    "only",
    "read_report",
]
__all__ += ["check_settings", "row_key", "select"]

FORMAT, VERSION = "jaxconvex report", 1
BESIDE = {"intrusions": IntrusionRow, "points": PointRow, "measures": MeasureRow}  # what may be told beside the scores
TABLES: dict[str, Any] = {"rows": Row, **BESIDE}


class Report(NamedTuple):
    """The rows, the settings that made them and their provenance (versions, device, date, hashes of the input).

    And, where it was looked for, why scores are not 1: what each class loses to which others, and the points to look at
    first; and other measures that were asked for.

    >>> row = Row("graph", "layer 1", 0, "digit", 10, "class", "seven", score=0.875, num_points=4, num_pairs=6)
    >>> report = Report((row,), {"k": [10]}, {})
    >>> report.rows[0].score
    0.875
    """

    rows: tuple[Row, ...]
    settings: dict[str, Any]
    provenance: dict[str, Any]
    intrusions: tuple[IntrusionRow, ...] = ()
    points: tuple[PointRow, ...] = ()
    measures: tuple[MeasureRow, ...] = ()

    def to_json(self, path: str | os.PathLike[str]) -> Path:
        """The path, after writing everything to it as strict JSON that `read_report` reads back without loss.

        NaN is written as null. Settings and provenance may hold numbers, strings, lists and dicts; arrays and tuples in
        them become lists. Raises OSError for a path that cannot be written; the file is whole or untouched.
        """
        entries = {"settings": self.settings, "provenance": self.provenance}
        tables = {name: getattr(self, name) for name in BESIDE if getattr(self, name)}
        return formats.write_file(
            path, formats.json_of_tables(FORMAT, VERSION, {"rows": self.rows, **tables}, **entries)
        )

    def to_csv(self, path: str | os.PathLike[str]) -> Path:
        """The path, after writing one line a row to it; all fields but the replicates, which only JSON holds.

        NaN and None are empty. Raises OSError for a path that cannot be written; the file is whole or untouched.
        """
        return formats.write_file(path, formats.csv_text(_printed(Row), self.rows))

    def to_dataframe(self, table: str = "rows") -> Any:
        """A `pandas.DataFrame`, one line a row; all fields but the replicates. Needs pandas.

        Args:
            table: "rows" for the scores; or "intrusions", "points" or "measures".
        """
        pandas = formats.require("pandas")
        if table not in TABLES:
            raise ValueError(f"table must be one of {', '.join(map(repr, TABLES))}; got {table!r}.")
        rows = getattr(self, table)
        columns: dict[str, Any] = {field: [getattr(row, field) for row in rows] for field in _printed(TABLES[table])}
        frame = pandas.DataFrame(columns)
        for field in {"label", "intruder"} & set(columns):
            frame[field] = pandas.Series(columns[field], dtype=object)  # integers stay integers
        return frame.astype({"k": "Int64"})

    def adjusted(self) -> Report:
        """The report with p-values adjusted by Holm: of all classes and layers together, and of each aggregate's layers.

        Each kind, labeling and k is a family of its own, as in the tables.
        """
        from jaxconvex.statistics.comparison import holm  # here, since a report is read without JAX

        families: dict[tuple[Any, ...], list[int]] = {}
        for number, row in enumerate(self.rows):
            families.setdefault((row.kind, row.labeling, row.k, row.level), []).append(number)
        rows = list(self.rows)
        for places in families.values():
            for number, p in zip(places, holm(np.array([rows[number].p_value for number in places])), strict=True):
                rows[number] = rows[number]._replace(p_value=float(p))
        return self._replace(rows=tuple(rows), settings=self.settings | {"p_values": "holm"})

    def tables(self, *, classes: bool = False) -> list[Table]:
        """One table for each kind, labeling and k: a line a layer or, with `classes`, a line a layer and class.

        After those of the layers come, where there are any, the tree of classes and the measures beside convexity.

        Scores are in percent. Where fewer than 10 pairs fail, their count stands beside the interval.
        """
        keys = list(dict.fromkeys((row.kind, row.labeling, row.k) for row in self.rows))
        tables = [report_table(self, *key, classes=classes) for key in keys]
        return tables if classes else [*tables, *tree_tables(self), *measure_tables(self)]

    def table(self, *, classes: bool = False, width: int | None = None) -> str:
        """The tables as text to print, with `classes` those of the classes after those of the layers. Needs rich."""
        tables = self.tables() + (self.tables(classes=True) if classes else [])
        return "\n\n".join(table.to_text(width) for table in tables)


def _printed(kind: Any) -> tuple[str, ...]:
    return tuple(field for field in kind._fields if field not in ("replicates", "joint"))


def read_report(path: str | os.PathLike[str]) -> Report:
    """The report that `Report.to_json` wrote, equal to it field by field.

    Raises ValueError, naming the file and what came, for a file that is no report, was cut short, has another version or
    is not as it was written, by its checksum; OSError for one that cannot be read.
    """
    tables, entries = formats.read_tables(path, FORMAT, VERSION, TABLES, optional=tuple(BESIDE))
    if not all(isinstance(entries.get(name), dict) for name in ("settings", "provenance")):
        raise ValueError(
            f"{path} must hold settings and provenance beside the rows; got {', '.join(entries) or 'neither'}."
        )
    check_settings(path, entries["settings"])
    formats.has_checksum(path)
    return Report(settings=entries["settings"], provenance=entries["provenance"], **tables)


def check_settings(path: str | os.PathLike[str], settings: dict[str, Any]) -> None:
    """Raise ValueError, naming the file, for settings of a report or a comparison that no table could show."""
    confidence = settings.get("confidence", 0.95)
    if isinstance(confidence, bool) or not isinstance(confidence, (int, float)) or not 0 < confidence < 1:
        raise ValueError(f"{path}: the confidence must be a number between 0 and 1; got {confidence!r}.")
