"""What the documents hold: the blocks of code between fences."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jaxconvex

PACKAGE = Path(jaxconvex.__file__).parent
ROOT = Path(__file__).parents[1]


def blocks(path: Path, language: str = "python") -> list[str]:
    """Return the blocks of a language in a document, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def block(path: Path, language: str = "python", *, holding: str = "") -> str:
    """Return the one block of a language that holds a text."""
    (found,) = [text for text in blocks(path, language) if holding in text]
    return found


def run(path: Path, names: dict[str, Any]) -> dict[str, Any]:
    """Run the blocks of Python in a document one after the other, as a reader would; names are what the reader has."""
    for number, text in enumerate(blocks(path), start=1):
        exec(compile(text, f"{path.name}, block {number}", "exec"), names)
    return names
