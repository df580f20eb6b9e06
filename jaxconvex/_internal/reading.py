"""What the readers of all formats share: a Source, text and what it says, and errors in words for a file's owner."""

from __future__ import annotations

import codecs
import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

__all__ = ["FileError", "Source", "errors_of", "text_labels", "text_of"]


class Source(NamedTuple):
    """The names in a file, in its order, and what reads the array behind a name."""

    path: Path
    names: tuple[str, ...]
    read: Callable[[str], np.ndarray]
    table: bool = False  # whether the names are columns, of which several make up a layer
    read_labels: Callable[[str], np.ndarray] | None = None  # where labels are read otherwise than numbers
    notes: tuple[str, ...] = ()  # what the owner should know


class FileError(ValueError):
    """What is wrong with a file, in words for its owner."""


@contextlib.contextmanager
def errors_of(path: Path, name: str = "") -> Iterator[None]:
    """Turn what the readers of the formats raise into errors that name the file and say what to do."""
    where = f"{name!r} in {path}" if name else str(path)
    try:
        yield
    except (FileError, ModuleNotFoundError, MemoryError):
        raise
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} does not exist. Check the path.") from error
    except PermissionError as error:
        raise PermissionError(f"{path} cannot be read: permission denied.") from error
    except OSError as error:
        raise OSError(f"{path} cannot be read: {_first_line(error)}") from error
    except Exception as error:  # the readers raise whatever a damaged file leads them to
        if "Object arrays" in str(error):
            raise FileError(
                f"{where} holds Python objects, which are never read, since that could run any code: save it as numbers "
                "or text (array.astype(float), array.astype(str))."
            ) from error
        what = f"{where} is not a whole {path.suffix.lower()} file: {_first_line(error)}"
        raise FileError(f"{what} It may have been cut short, or be of another kind; write it again.") from error


def _first_line(error: Exception) -> str:
    """The first line of a message, with a full stop at its end."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".: ") + "."


def text_of(path: Path) -> str:
    """The text of a file in UTF-8, or in UTF-16 with its mark. Raises ValueError for what is no such text."""
    content = path.read_bytes()
    marked = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if marked else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ValueError(
            f"line {line} is not text in UTF-8 (byte {content[error.start]:#x}); save it as UTF-8"
        ) from error
    if "\0" in text:
        raise ValueError("it holds the character NUL, as no text in UTF-8 does")
    return text


def text_labels(cells: Sequence[str]) -> np.ndarray:
    """The labels that text holds: integers if all of it is, decimal numbers likewise, else text, None where it is empty.

    An integer is what Python would write for it, in 64 bits: with "007" or "+7" among them all labels are text.

    >>> text_labels(["7", "-12"]).tolist(), text_labels(["7", "007"]).tolist(), text_labels(["a", " "]).tolist()
    ([7, -12], ['7', '007'], ['a', None])
    """
    present = [cell for cell in cells if cell.strip()]
    if len(present) == len(cells) and all(re.fullmatch(r"0|-?[1-9][0-9]{0,18}", cell) for cell in cells):
        numbers = [int(cell) for cell in cells]
        if all(-(2**63) <= number < 2**63 for number in numbers):
            return np.array(numbers, np.int64)
    decimal = any("." in cell for cell in present)
    if decimal and all(
        re.fullmatch(r" *[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)? *", cell) for cell in present
    ):
        return np.array([float(cell) if cell.strip() else np.nan for cell in cells])
    return np.array([cell if cell.strip() else None for cell in cells], dtype=object)
