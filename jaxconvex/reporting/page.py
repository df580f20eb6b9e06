"""A page to read: what was found, a figure, and sections that fold, in one HTML file that needs nothing beside it."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from numbers import Number
from pathlib import Path
from typing import Any, NamedTuple

from jaxconvex._internal.formats import Table, name_text, number_text, require, write_file
from jaxconvex.evaluation.comparison import Comparison
from jaxconvex.evaluation.report import Report
from jaxconvex.reporting.figures import Figure
from jaxconvex.reporting.inline import inline_figure

__all__ = ["Captioned", "Gallery", "Section", "facts", "write_page"]

IMAGE_TYPES = {".svg": "image/svg+xml", ".png": "image/png"}
ITEM_TYPES = IMAGE_TYPES | {".wav": "audio/wav", ".txt": "text/plain"}
HASH = re.compile(r"[0-9a-f]{12,}(-[0-9a-f]{12,})*")


class Section(NamedTuple):
    """A heading and what stands below it, in order.

    An item is text (blank lines part paragraphs), a matplotlib Figure, a path to a .png or .svg file, a Table, a Report
    or Comparison (its tables), a pandas DataFrame, a list of NamedTuples or mappings (a table), one of these
    `Captioned`, or a `Gallery`.
    """

    title: str
    items: Sequence[Any] = ()


class Captioned(NamedTuple):
    """A figure or table with a caption."""

    item: Any
    caption: str


class Gallery(NamedTuple):
    """Small things side by side: paths to .png, .svg, .wav or .txt files, each `Captioned`, and what they are."""

    title: str
    items: Sequence[Captioned]


def write_page(
    path: str | os.PathLike[str],
    *,
    title: str,
    sections: Sequence[Section | tuple[str, Sequence[Any]]],
    lead: str = "",
    alarm: str = "",
    warnings: str = "",
    figure: Figure | Captioned | None = None,
) -> Path:
    """The path, after writing a page to it as one HTML file with everything in it: nothing to load.

    Below the title, alarm, lead, warnings and the figure the sections fold, the first one open; on paper all are. Matplotlib
    figures become inline SVG as wide as the page, which says the value under the pointer; where a section has no table,
    their numbers follow them as one. A table is sorted by a click on a column's name. All text is escaped; the page follows
    the reader's light or dark setting, and can be read without its script.

    Args:
        path: of the .html file.
        title: of the page.
        sections: in order; a pair (title, items) will do for a Section.
        lead: text below the title: what was found. A blank line parts paragraphs.
        alarm: text in red above it, of what the reader must know first.
        warnings: text in colour below it, of what would mislead.
        figure: below them, before the sections.

    Raises ValueError for an item of an unknown kind, OSError for a path that cannot be written; needs jinja2.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> sections = [("Scores", ["All pairs.", [{"layer": "a", "score": 0.5}]])]
    >>> made = write_page(f"{folder}/report.html", title="Digits", sections=sections)
    >>> "<td>a</td>" in made.read_text()
    True
    """
    shown: list[dict[str, Any]] = []
    for heading, items in [("", [] if figure is None else [figure]), *sections]:
        blocks = [block for item in items for block in _blocks(item)]
        drawn = [block for block in blocks if block["kind"] == "figure" and "figure" in block]
        tabled = not heading or any(block["kind"] == "table" for block in blocks)
        for number, block in enumerate(drawn):
            inline = inline_figure(block["figure"], f"figure-{len(shown)}-{number}")
            block |= {"html": inline.html, "numbers": None if tabled or not inline.numbers.rows else inline.numbers}
        shown.append({"title": name_text(heading), "blocks": blocks})
    text = resources.files("jaxconvex.reporting").joinpath("templates/page.html").read_text(encoding="utf-8")
    template = require("jinja2").Environment(autoescape=True, keep_trailing_newline=True).from_string(text)
    said = {"alarm": _paragraphs(alarm), "lead": _paragraphs(lead), "warnings": _paragraphs(warnings)}
    return write_file(
        path, template.render(title=name_text(title), first=shown[0]["blocks"], sections=shown[1:], **said)
    )


def facts(title: str, entries: Mapping[str, Mapping[str, Any]]) -> Table:
    """A table of settings or of provenance: a line an entry, a column a name; numbers rounded, hashes left to the JSON.

    >>> facts("Settings", {"a": {"k": [5, 10], "versions": {"jax": "0.10"}, "sha": "0123456789abcdef"}, "b": {"k": 5}}).rows
    (('k', '5, 10', '5'), ('versions', 'jax 0.10', '–'))
    """
    names = list(dict.fromkeys(name for own in entries.values() for name in own))
    lines = [
        (name_text(name).replace("_", " "), *(_fact(own.get(name)) or "–" for own in entries.values()))
        for name in names
    ]
    known = tuple(line for line in lines if set(line[1:]) != {"–"})
    return Table(title, ("name", *map(name_text, entries)), known, (), 1 + len(entries))


def _fact(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name_text(name)} {said}" for name, entry in value.items() if (said := _fact(entry)))
    if isinstance(value, (list, tuple)):
        return ", ".join(filter(None, map(_fact, value)))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None or (isinstance(value, str) and HASH.fullmatch(value)) else _cell(value)


def _paragraphs(text: str) -> list[str]:
    return [part.strip() for part in text.split("\n\n") if part.strip()]


def _blocks(item: Any, caption: str = "") -> list[dict[str, Any]]:
    if isinstance(item, Captioned):
        return _blocks(item.item, item.caption)
    if isinstance(item, str):
        return [{"kind": "text", "paragraphs": _paragraphs(item)}]
    if isinstance(item, Figure):
        return [{"kind": "figure", "figure": item, "caption": caption}]
    if isinstance(item, Gallery):
        shown = [_embedded(one.item, ITEM_TYPES) | {"caption": name_text(one.caption)} for one in item.items]
        return [{"kind": "gallery", "title": item.title, "items": shown}]
    if isinstance(item, os.PathLike):
        return [{"kind": "figure", "caption": caption} | _embedded(item, IMAGE_TYPES)]
    tables = item.tables() if isinstance(item, (Report, Comparison)) else [_table(item)]
    if caption:
        several = len(tables) > 1
        tables = [table._replace(title=f"{caption}: {table.title}" if several else caption) for table in tables]
    return [{"kind": "table", "table": table} for table in tables]


def _embedded(path: Any, types: Mapping[str, str]) -> dict[str, str]:
    """What a file holds: text, or sound or a picture as the page can hold them."""
    suffix = Path(path).suffix.lower()
    if suffix not in types:
        raise ValueError(f"a file in a page must be {' or '.join(types)}; got {os.fspath(path)}.")
    content = Path(path).read_bytes()
    if types[suffix] == "text/plain":
        return {"text": content.decode("utf-8")}
    source = f"data:{types[suffix]};base64,{base64.b64encode(content).decode('ascii')}"
    return {"sound" if types[suffix].startswith("audio") else "source": source}


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
        return number_text(value, 4)
    return name_text(value)
