"""What the documentation takes from the code: a Sphinx extension."""

from __future__ import annotations

import contextlib
import inspect
import io
import os
import re
import shutil
from pathlib import Path

import import_graph

import jaxconvex
from jaxconvex.cli.main import main

HERE = Path(__file__).parent
HELP = ["", "score", "compare", "demo", "study", "study speech", "study all", "study report"]


def anchor(title: str) -> str:
    """Return the anchor of a heading as Jupyter makes it, which is what links inside the notebooks name."""
    return title.replace(" ", "-")


def write_generated(app: object = None, config: object = None) -> None:
    """Write what the pages take from elsewhere: the notebooks, the drawing of the imports, the help of each command."""
    notebooks = HERE.parent / "notebooks"
    for path in [*notebooks.glob("*.ipynb"), *notebooks.glob("*/README.md")]:
        copy = HERE / "notebooks" / path.relative_to(notebooks)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, copy)  # with its time, so that what did not change is not built again
    folder = HERE / "_generated"
    folder.mkdir(exist_ok=True)
    (folder / "imports.svg").write_text(import_graph.drawing(Path(jaxconvex.__file__).parent), encoding="utf-8")
    os.environ["COLUMNS"] = "100"  # the same lines on every terminal
    for command in HELP:
        with contextlib.redirect_stdout(io.StringIO()) as said:
            main([*command.split(), "--help"])
        (folder / f"help{'_' * bool(command)}{command.replace(' ', '_')}.txt").write_text(
            said.getvalue(), encoding="utf-8"
        )


def skip_field(app: object, what: str, name: str, member: object, skip: bool, options: object) -> bool | None:
    """Leave out the fields of a NamedTuple: the signature shows them, and they have no docstrings of their own."""
    return True if type(member).__name__ == "_tuplegetter" else None


def add_fields(app: object, what: str, name: str, value: type, options: object, lines: list[str]) -> None:
    """Add the comments that stand beside the fields of a NamedTuple to its docstring, as its attributes."""
    if what != "class" or not hasattr(value, "_fields"):
        return
    found = {}
    for line in inspect.getsource(value).splitlines():
        field = re.match(r"    (\w+): .*?  # (?!type: ignore)(.+)", line)
        if field and field[1] in value._fields:
            found[field[1]] = field[2]
    if found:
        lines += ["", "Attributes:", *(f"    {field}: {comment}" for field, comment in found.items())]


def setup(app: object) -> None:
    """Connect the functions above to Sphinx."""
    app.connect("config-inited", write_generated)  # type: ignore[attr-defined]
    app.connect("autodoc-skip-member", skip_field)  # type: ignore[attr-defined]
    app.connect("autodoc-process-docstring", add_fields, priority=400)  # type: ignore[attr-defined]  # before napoleon
