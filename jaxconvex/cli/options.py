"""What the commands share: how options are declared, what is checked before the work, what is said after it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from jaxconvex._internal.formats import Table, require
from jaxconvex._internal.messages import in_yellow, is_terminal, say

if TYPE_CHECKING:  # help and completion come without JAX
    from jaxconvex.evaluation.sentences import Findings

__all__ = ["SETTINGS", "option", "require_extras", "say_found", "say_where", "seed_in_range"]

SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


def option(name: str, metavar: str | None, text: str, **more: Any) -> Any:
    """Declare an option; where its value is one of a few words, "union|mutual", the shell completes them."""
    if metavar and "|" in metavar and metavar.islower():
        more["autocompletion"] = lambda: metavar.split("|")
    return typer.Option(*name.split(), metavar=metavar, help=text, show_default=False, **more)


def seed_in_range(value: int) -> int:
    """The seed of an option, if it lies in 0..2**32 - 1; typer reports any other as a wrong value."""
    if not 0 <= value < 2**32:
        raise typer.BadParameter(f"it must lie in 0..{2**32 - 1}; got {value}.")
    return value


def require_extras() -> None:
    """Raise ModuleNotFoundError before the work, not after it."""
    for module in ("jinja2", "matplotlib", "rich"):
        require(module)


def say_found(found: Findings, tables: Iterable[Table], *, fold: bool = True) -> None:
    """Print what was found, what would mislead, and the tables, without the notes that were then said already.

    Tables are as wide as they need or, if `fold`, as the terminal of a person who watches.
    """
    for text in found.sentences:
        say(text)
    for text in found.warnings:
        say(in_yellow(f"Warning: {text}", sys.stdout))
    width = shutil.get_terminal_size().columns if fold and is_terminal(sys.stdout) else None
    said = (*found.sentences, *found.warnings)
    for table in tables:
        new = [note for note in table.notes if not any(text.endswith(note.removeprefix("Warning: ")) for text in said)]
        say("\n" + table._replace(notes=tuple(new)).to_text(width))


def say_where(paths: Iterable[Path], folder: Path) -> None:
    """Print the names of the files written to the folder; a figure's .svg goes without saying beside its .png."""
    names = [str(path.relative_to(folder)) for path in paths if path.suffix != ".svg"]
    say(f"\nWritten to {folder}: {', '.join(names)} (figures also as .svg)")
