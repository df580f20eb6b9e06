"""A page to read: titles, text, figures and tables in one HTML file that needs nothing beside it."""

from __future__ import annotations

import base64
import math
import os
from collections.abc import Mapping, Sequence
from importlib import resources
from numbers import Number
from pathlib import Path
from typing import Any, NamedTuple

from jaxconvex._internal.formats import Table, name_text, number_text, require, write_file
from jaxconvex.evaluation.comparison import Comparison
from jaxconvex.evaluation.report import Report
from jaxconvex.reporting.figures import Figure, figure_bytes

__all__ = ["Captioned", "Section", "write_page"]

IMAGE_TYPES = {".svg": "image/svg+xml", ".png": "image/png"}


class Section(NamedTuple):
    """A heading and what stands below it, in order.

    An item is text (blank lines part paragraphs), a matplotlib Figure, a path to a .png or .svg file, a Table, a Report
    or Comparison (its tables), a pandas DataFrame, a list of NamedTuples or mappings (a table), or one of these
    `Captioned`.
    """

    title: str
    items: Sequence[Any] = ()


class Captioned(NamedTuple):
    """A figure or table with a caption."""

    item: Any
    caption: str


def write_page(
    path: str | os.PathLike[str],
    *,
    title: str,
    sections: Sequence[Section | tuple[str, Sequence[Any]]],
    lead: str = "",
    alarm: str = "",
) -> Path:
    """The path, after writing the sections to it as one HTML file with everything in it: no scripts, nothing to load.

    Figures are embedded as SVG; all text is escaped; the page follows the reader's light or dark setting.

    Args:
        path: of the .html file.
        title: of the page.
        sections: in order; a pair (title, items) will do for a Section.
        lead: text below the title.
        alarm: text in red above it, of what the reader must know first.

    Raises ValueError for an item of an unknown kind, OSError for a path that cannot be written; needs jinja2.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> sections = [("Scores", ["All pairs.", [{"layer": "a", "score": 0.5}]])]
    >>> made = write_page(f"{folder}/report.html", title="Digits", sections=sections)
    >>> "<td>a</td>" in made.read_text()
    True
    """
    shown = []
    for section in sections:
        heading, items = section
        shown.append({"title": name_text(heading), "blocks": [block for item in items for block in _blocks(item)]})
    text = resources.files("jaxconvex.reporting").joinpath("templates/page.html").read_text(encoding="utf-8")
    template = require("jinja2").Environment(autoescape=True, keep_trailing_newline=True).from_string(text)
    return write_file(
        path, template.render(title=name_text(title), alarm=_paragraphs(alarm), lead=_paragraphs(lead), sections=shown)
    )


def _paragraphs(text: str) -> list[str]:
    return [part.strip() for part in text.split("\n\n") if part.strip()]


def _blocks(item: Any, caption: str = "") -> list[dict[str, Any]]:
    if isinstance(item, Captioned):
        return _blocks(item.item, item.caption)
    if isinstance(item, str):
        return [{"kind": "text", "paragraphs": _paragraphs(item)}]
    if isinstance(item, Figure):
        # CSS pixels are 1/96 inch: the figure keeps the size that it was designed for.
        return [_image(figure_bytes(item, "svg"), ".svg", caption, width=round(96 * item.get_size_inches()[0]))]
    if isinstance(item, os.PathLike):
        suffix = Path(item).suffix.lower()
        if suffix not in IMAGE_TYPES:
            raise ValueError(f"a figure file must be {' or '.join(IMAGE_TYPES)}; got {os.fspath(item)}.")
        return [_image(Path(item).read_bytes(), suffix, caption)]
    tables = item.tables() if isinstance(item, (Report, Comparison)) else [_table(item)]
    if caption:
        several = len(tables) > 1
        tables = [table._replace(title=f"{caption}: {table.title}" if several else caption) for table in tables]
    return [{"kind": "table", "table": table} for table in tables]


def _image(content: bytes, suffix: str, caption: str, width: int | None = None) -> dict[str, Any]:
    source = f"data:{IMAGE_TYPES[suffix]};base64,{base64.b64encode(content).decode('ascii')}"
    return {"kind": "figure", "source": source, "caption": caption, "width": width}


def _table(item: Any) -> Table:
    if isinstance(item, Table):
        return item
    if hasattr(item, "itertuples") and hasattr(item, "columns"):
        columns, rows = list(item.columns), [list(row) for row in item.itertuples(index=False, name=None)]
    elif isinstance(item, (list, tuple)) and item and all(isinstance(row, Mapping) for row in item):
        columns = list(dict.fromkeys(column for row in item for column in row))
        rows = [[row.get(column) for column in columns] for row in item]
    elif isinstance(item, (list, tuple)) and item and all(hasattr(row, "_fields") for row in item):
        columns, rows = list(item[0]._fields), [list(row) for row in item]
    else:
        kinds = "text, a Figure, a path to an image, a Table, Report, Comparison or DataFrame, or a list of rows"
        raise ValueError(f"an item of a section must be {kinds}; got {type(item).__name__} {item!r:.80}")
    # Columns of names come first in a Table, so that it can align the rest, the numbers, to the right.
    numeric = [all(_is_number(row[index]) for row in rows) for index in range(len(columns))]
    order = sorted(range(len(columns)), key=lambda index: numeric[index])
    body = tuple(tuple(_cell(row[index]) for index in order) for row in rows)
    return Table("", tuple(name_text(columns[index]) for index in order), body, (), numeric.count(False))


def _is_number(value: Any) -> bool:
    return value is None or _is_missing(value) or (isinstance(value, Number) and not isinstance(value, bool))


def _is_missing(value: Any) -> bool:
    # pandas.NA, told by the name of its type, since pandas need not be installed.
    return type(value).__name__ == "NAType"


def _cell(value: Any) -> str:
    if value is None or _is_missing(value):
        return "–"
    if isinstance(value, float):
        return number_text(value, 4) if not math.isinf(value) else str(value)
    return name_text(value)
