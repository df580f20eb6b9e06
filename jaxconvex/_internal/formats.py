"""How results are written: strict JSON without loss, tidy CSV, tables for people; every file whole or not at all."""

from __future__ import annotations

import csv
import errno
import hashlib
import importlib
import io
import json
import math
import os
import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

__all__ = [
    "Table",
    "FEW_CLASSES",
    "correlation_text",
    "csv_text",
    "interval_text",
    "json_of_tables",
    "json_text",
    "name_text",
    "number_text",
    "percent_text",
    "plain",
]
__all__ += ["has_checksum", "read_json", "read_tables", "require", "unescaped", "write_file"]


FEW_CLASSES = 5  # with fewer, no correlation over classes is told: of two it is always 1 or -1


def require(module: str, extra: str = "report") -> Any:
    """The imported module. Raises ModuleNotFoundError that names the extra to install if it is not there."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        what = f'{module} is needed here and is not installed; run: pip install "jaxconvex[{extra}]"'
        raise ModuleNotFoundError(what, name=error.name) from error


def write_file(path: str | os.PathLike[str], content: str | bytes) -> Path:
    """The path, after the content has been written to it: a reader sees the old file or the new one, never a part.

    It is on the disk then, and lasts though the machine should stop.

    Text is written as UTF-8. Raises OSError (FileNotFoundError, PermissionError, ...) that names the path and says why
    it cannot be written.
    """
    target = Path(path)
    final = Path(os.path.realpath(target))
    data = content.encode("utf-8", errors="backslashreplace") if isinstance(content, str) else content
    name = final.name.encode(errors="replace")[:200].decode(errors="ignore")  # names are bounded in bytes
    temporary = final.with_name(f".{name}.{uuid.uuid4().hex}.part")
    try:
        if final.exists() and not final.is_file():
            raise OSError(0, "it is there already and is not a file")
        try:
            temporary.write_bytes(data)
            _to_disk(temporary, os.O_RDWR)
            os.replace(temporary, final)
            _folder_to_disk(final.parent)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
        what = f"cannot write {target}: {reason}. Give a path in a folder that exists and can be written."
        raise type(error)(what) from error
    return target


def _to_disk(path: Path, mode: int) -> None:
    descriptor = os.open(path, mode)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _folder_to_disk(path: Path) -> None:
    """Flush a folder to disk, so that a file's new name lasts, on systems that can."""
    try:
        _to_disk(path, os.O_RDONLY)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EBADF, errno.EINVAL, errno.ENOTSUP):
            raise


def plain(value: Any) -> Any:
    """The value as JSON's own types: arrays become lists, tuples lists, paths strings, NaN and infinities their names.

    What it returns comes back from JSON unchanged. Raises ValueError for anything else, naming its type.

    >>> plain({"k": (5, 10), "radius": float("inf")})
    {'k': [5, 10], 'radius': 'inf'}
    """
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    if isinstance(value, (str, os.PathLike)):
        return str(os.fspath(value))
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    raise ValueError(
        f"settings and provenance must be plain data (numbers, strings, lists, dicts); got {type(value)!r}."
    )


# JSON: one NamedTuple class says, by its annotations, what a row of a file holds ------------------------------------


def _encode(value: Any, hint: Any) -> Any:
    if hint is float:
        number = float(value)
        return None if math.isnan(number) else number if math.isfinite(number) else str(number)
    if hint == tuple[float, ...]:
        return [_encode(entry, float) for entry in value]
    encoded = plain(value)
    if isinstance(encoded, hint):
        return encoded
    raise ValueError(f"a row must hold {getattr(hint, '__name__', hint)} here; got {encoded!r}.")


def _decode(value: Any, hint: Any) -> Any:
    if hint is float:
        if value is None:
            return math.nan
        if (isinstance(value, (int, float)) and not isinstance(value, bool)) or value in ("inf", "-inf"):
            return float(value)
    elif hint == tuple[float, ...]:
        if isinstance(value, list):
            return tuple(_decode(entry, float) for entry in value)
    elif isinstance(value, hint) and not (isinstance(value, bool) and hint in (int, int | None)):
        return value
    raise ValueError(f"expected {getattr(hint, '__name__', hint)}, got {value!r}")


def json_text(name: str, version: int, rows: Sequence[Any], **entries: Any) -> str:
    """Strict JSON: format and version, the entries, the rows (NamedTuples), one a line, a checksum; NaN becomes null."""
    return json_of_tables(name, version, {"rows": rows}, **entries)


def json_of_tables(name: str, version: int, tables: Mapping[str, Sequence[Any]], **entries: Any) -> str:
    """The same with several tables by name, the rows of each being of one NamedTuple class."""
    parts = [f' "format": {json.dumps(name)}', f' "version": {version}']
    parts += [f" {json.dumps(key)}: {json.dumps(plain(value))}" for key, value in entries.items()]
    for table, rows in tables.items():
        lines, hints = [], get_type_hints(type(rows[0])) if rows else {}
        for row in rows:
            encoded = {field: _encode(value, hints[field]) for field, value in zip(row._fields, row, strict=True)}
            lines.append("  " + json.dumps(encoded, allow_nan=False))
        parts.append(f" {json.dumps(table)}: [\n" + ",\n".join(lines) + "\n ]")
    digest = _checksum(json.loads("{" + ",".join(parts) + "}"))
    return "{\n" + ",\n".join([*parts, f' "sha256": "{digest}"']) + "\n}\n"


def _checksum(data: dict[str, Any]) -> str:
    """SHA-256 of all entries but its own, however they are spaced."""
    return hashlib.sha256(json.dumps({key: data[key] for key in data if key != "sha256"}).encode()).hexdigest()


def has_checksum(path: str | os.PathLike[str]) -> bool:
    """Whether a JSON file has a checksum. Raises ValueError if it does not agree with the rest, or the file is no JSON.

    It is the entry `sha256` at the top: of the text that Python's json.dumps gives for all other entries.
    """
    try:
        data = json.loads(Path(path).read_bytes().decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not whole: {error}.") from error
    if not isinstance(data, dict) or "sha256" not in data:
        return False
    if data["sha256"] != _checksum(data):
        raise ValueError(
            f"{path} is not as it was written: its checksum does not agree (take the entry sha256 out if you changed the "
            "file on purpose)."
        )
    return True


def read_json(path: str | os.PathLike[str], name: str, version: int, row_type: Any) -> tuple[tuple[Any, ...], dict]:
    """The rows and the other entries of a file that `json_text` made.

    Raises ValueError, naming the file and what came, for a file that is not JSON, was cut short, is not of this format
    and version, or holds a row that is not of `row_type`; OSError for one that cannot be read.
    """
    tables, entries = read_tables(path, name, version, {"rows": row_type})
    return tables["rows"], entries


def read_tables(
    path: str | os.PathLike[str], name: str, version: int, types: Mapping[str, Any], optional: Sequence[str] = ()
) -> tuple[dict[str, tuple[Any, ...]], dict]:
    """The tables by name and the other entries of a file that `json_of_tables` made; errors as `read_json`'s.

    Optional tables that are not there are empty.
    """

    def refuse(token: str) -> None:
        raise ValueError(f"{token} is not strict JSON")

    try:
        data = json.loads(Path(path).read_bytes().decode("utf-8"), parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        what = f"{path} is not a whole {name}: {error}. It may have been cut short or be of another kind"
        raise ValueError(f"{what}; write it again with to_json.") from error
    found = data.get("format") if isinstance(data, dict) else None
    if found != name:
        what = f"format {found!r}" if found is not None else f"JSON of another kind ({type(data).__name__})"
        raise ValueError(f"{path} must be a {name}, as written by to_json; got {what}.")
    if data.get("version") != version:
        what = f"{path} must be a {name} of version {version}; got version {data.get('version')!r}"
        raise ValueError(f"{what}. Read it with the jaxconvex that wrote it, or score again.")
    entries = {key: value for key, value in data.items() if key not in ("format", "version", "sha256")}
    tables = {}
    for table, row_type in types.items():
        rows = entries.pop(table, [] if table in optional else None)
        if not isinstance(rows, list):
            raise ValueError(f"{path} must hold a list of {table}; got {type(rows).__name__}.")
        hints = get_type_hints(row_type)
        tables[table] = tuple(_decode_row(path, place, row, row_type, hints) for place, row in enumerate(rows))
    return tables, entries


def _decode_row(path: str | os.PathLike[str], place: int, row: Any, row_type: Any, hints: dict[str, Any]) -> Any:
    needed = set(hints) - set(row_type._field_defaults)  # what an older version did not write has its default
    if not isinstance(row, dict) or not needed <= set(row) <= set(hints):
        got = ", ".join(sorted(row)) if isinstance(row, dict) else repr(row)
        raise ValueError(f"{path}: row {place} must have the fields {', '.join(hints)}; got {got}.")
    values = {}
    for field in row:
        try:
            values[field] = _decode(row[field], hints[field])
        except (ValueError, OverflowError) as error:
            raise ValueError(f"{path}: row {place}, {field}: {error}.") from error
    return row_type(**values)


# CSV: spreadsheets run a cell as a formula that begins so; an apostrophe before it keeps it text ------------------------

_STARTS = r"(?![-+]?[0-9.]+$)[=+\-@\t\r]"  # a number is no formula
_FORMULA, _ESCAPED = f"'*{_STARTS}", f"'+{_STARTS}"


def csv_text(fields: Sequence[str], rows: Iterable[Any]) -> str:
    """A header and one line a row (NamedTuples); NaN and None are empty, floats are written in full.

    Text that a spreadsheet would run as a formula gets an apostrophe before it, which `unescaped` takes away.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(fields)
    for row in rows:
        writer.writerow([_cell(getattr(row, field)) for field in fields])
    return stream.getvalue()


def _cell(value: Any) -> Any:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return f"'{value}" if isinstance(value, str) and re.match(_FORMULA, value) else value


def unescaped(cells: Sequence[str]) -> Sequence[str]:
    """The cells of a column as they were before `csv_text` wrote them.

    A column in which a formula stands bare is none of its own, and stays as it is.

    >>> unescaped(["'=1+1", "''@", "it's"]), unescaped(["'=1+1", "=1+1"])
    (['=1+1', "'@", "it's"], ["'=1+1", '=1+1'])
    """
    if any(re.match(_FORMULA, cell) and not cell.startswith("'") for cell in cells):
        return cells
    return [cell[1:] if re.match(_ESCAPED, cell) else cell for cell in cells]


# Tables for people --------------------------------------------------------------------------------------------------


def number_text(value: float, digits: int = 3) -> str:
    """The number with so many significant digits, or a dash if it is NaN."""
    return "–" if math.isnan(value) else f"{value:.{digits}g}"


def percent_text(fraction: float, digits: int = 1) -> str:
    """The fraction in percent, without the sign %, or a dash if it is NaN."""
    return "–" if math.isnan(fraction) else f"{100 * fraction:.{digits}f}"


def interval_text(lower: float, upper: float) -> str:
    """The interval in percent, in brackets; nothing if either end is NaN."""
    return "" if math.isnan(lower) or math.isnan(upper) else f"[{percent_text(lower)}, {percent_text(upper)}]"


def correlation_text(coefficient: float, lower: float, upper: float) -> str:
    """A correlation and its interval, "no interval" where that is not defined.

    >>> correlation_text(0.5, 0.1, 0.8), correlation_text(0.5, math.nan, math.nan), correlation_text(*[math.nan] * 3)
    ('0.50 [0.10, 0.80]', '0.50 (no interval)', 'not defined')
    """
    if not math.isfinite(coefficient):
        return "not defined"
    known = math.isfinite(lower) and math.isfinite(upper)
    return f"{coefficient:.2f} " + (f"[{lower:.2f}, {upper:.2f}]" if known else "(no interval)")


def name_text(name: Any) -> str:
    """The name of a class or layer on one line, characters that cannot be shown escaped."""
    text = str(name)
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


class Table(NamedTuple):
    """A title, column names, rows of strings and notes; all but the first `num_names` columns are aligned right.

    Units, of the first columns or all, stand below their names on a page.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    num_names: int = 1
    units: tuple[str, ...] = ()

    def to_rich(self) -> Any:
        """The same as a `rich.table.Table`, which fits itself to the terminal when printed by a rich Console."""
        box, table, text = require("rich.box"), require("rich.table"), require("rich.text")
        notes = text.Text("\n".join(self.notes))
        made = table.Table(title=text.Text(self.title), caption=notes, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        made.title_justify = made.caption_justify = "left"
        for place, column in enumerate(self.columns):
            made.add_column(text.Text(column), justify="left" if place < self.num_names else "right")
        for row in self.rows:
            made.add_row(*map(text.Text, row))
        return made

    def to_text(self, width: int | None = None) -> str:
        """The same as plain text, as wide as it needs, or folded to `width` characters."""
        console, stream = require("rich.console"), io.StringIO()
        wide = (
            4
            + 2 * len(self.columns)
            + sum(max(map(len, column)) for column in zip(self.columns, *self.rows, strict=True))
        )
        made = self.to_rich()
        console.Console(
            file=stream, force_jupyter=False, width=width or max(wide, 60), color_system=None, legacy_windows=False
        ).print(made)
        return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()).strip("\n")
