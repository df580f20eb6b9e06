"""Steps of a long run: each is made once, kept in a folder under a name that tells what it depends on, and found again."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jaxconvex.formats import json_text, plain, read_json, write_file

__all__ = ["identity_hash", "kept", "kept_rows"]

ROWS, FORMAT, VERSION = "rows.json", "jaxconvex step", 1


def kept(folder: Path, name: str, identity: Any, make: Callable[[Path], object]) -> Path:
    """The folder with a step's results, after `make(folder)` has written them there unless they are there already.

    Args:
        folder: of all steps.
        name: of the step, to read.
        identity: plain data; all that the results depend on. With another identity the step is made anew.
        make: writes the results to the folder that it is given. What it left there when it was stopped is there again
            when it is called the next time, so that it may go on from there.

    The folder gets its name when all is written: what has that name is whole.

    >>> import tempfile
    >>> steps, calls = Path(tempfile.mkdtemp()), []
    >>> for k in (5, 5, 10):
    ...     place = kept(steps, "score", {"k": k}, lambda folder: calls.append((folder / "score").write_text("1")))
    >>> len(calls), (place / "score").read_text()
    (2, '1')
    """
    place = folder / f"{name}-{identity_hash(identity)}"
    if not place.is_dir():
        part = place.with_name(place.name + ".part")
        part.mkdir(parents=True, exist_ok=True)
        make(part)
        if place.exists():  # another process was faster
            shutil.rmtree(part)
        else:
            os.replace(part, place)
    return place


def identity_hash(identity: Any) -> str:
    """Twelve characters that tell one identity from another."""
    return hashlib.sha256(json.dumps(plain(identity), sort_keys=True).encode()).hexdigest()[:12]


def kept_rows(folder: Path, name: str, identity: Any, row_type: Any, make: Callable[[], Sequence[Any]]) -> list[Any]:
    """The rows (NamedTuples of `row_type`) that `make()` returned, now or in an earlier call: see `kept`."""

    def write(place: Path) -> None:
        write_file(place / ROWS, json_text(FORMAT, VERSION, list(make())))

    return list(read_json(kept(folder, name, identity, write) / ROWS, FORMAT, VERSION, row_type)[0])
