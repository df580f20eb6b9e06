"""Steps of a long run: each is made once, kept in a folder under a name that tells what it depends on, and found again."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jaxconvex._internal.formats import json_of_tables, json_text, plain, read_json, read_tables, write_file
from jaxconvex._internal.kept import found, sealed, sweep

__all__ = ["identity_hash", "kept", "kept_rows"]

FILES, ROWS, FORMAT, VERSION = "step.json", "rows.json", "jaxconvex rows", 3


def kept(folder: Path, name: str, identity: Any, make: Callable[[Path], object]) -> Path:
    """The folder with a step's results, after `make(folder)` has written them there unless they are there already.

    Args:
        folder: of all steps.
        name: of the step, to read.
        identity: plain data; all that the results depend on. With another identity the step is made anew.
        make: writes the results to the folder that it is given. What it left there when it was stopped is there again
            when it is called the next time, so that it may go on from there.

    The folder gets its name when all is written, with a list of its files and their checksums. A step whose files are not
    those of the list is made again from what is there, after a line that says so.

    >>> import tempfile
    >>> steps, calls = Path(tempfile.mkdtemp()), []
    >>> for k in (5, 5, 10):
    ...     place = kept(steps, "score", {"k": k}, lambda folder: calls.append((folder / "score").write_text("1")))
    >>> len(calls), (place / "score").read_text()
    (2, '1')
    """
    step = folder / f"{name}-{identity_hash(identity)}"
    if found(step / FILES, _check) is None:
        part = step.with_name(step.name + ".part")
        if step.exists():
            shutil.rmtree(part, ignore_errors=True)
            os.replace(step, part)
        part.mkdir(parents=True, exist_ok=True)
        make(part)
        _list_files(part, step.name)
        os.replace(part, step)
    return step


def _list_files(step: Path, name: str) -> None:
    (step / FILES).unlink(missing_ok=True)
    for folder in (step, *(path for path in step.rglob("*") if path.is_dir())):
        sweep(folder)
    files = {str(path.relative_to(step)): _file_hash(path) for path in sorted(step.rglob("*")) if path.is_file()}
    write_file(step / FILES, json_of_tables("jaxconvex step", VERSION, {}, step=name, files=files))


def _check(path: Path) -> bool:
    """True. Raises ValueError, naming it, for a file that is not as the list says."""
    _, entries = read_tables(sealed(path), "jaxconvex step", VERSION, {})
    if entries["step"] != path.parent.name:
        raise ValueError(f"{path} is of the step {entries['step']}.")
    for name, digest in entries["files"].items():
        file = path.parent / name
        if not file.is_file() or _file_hash(file) != digest:
            raise ValueError(f"{file} is not as it was written.")
    return True


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def identity_hash(identity: Any) -> str:
    """Twelve characters that tell one identity from another."""
    return hashlib.sha256(json.dumps(plain(identity), sort_keys=True).encode()).hexdigest()[:12]


def kept_rows(folder: Path, name: str, identity: Any, row_type: Any, make: Callable[[], Sequence[Any]]) -> list[Any]:
    """The rows (NamedTuples of `row_type`) that `make()` returned, now or in an earlier call: see `kept`."""

    def write(step: Path) -> None:
        write_file(step / ROWS, json_text(FORMAT, VERSION, list(make())))

    return list(read_json(kept(folder, name, identity, write) / ROWS, FORMAT, VERSION, row_type)[0])
