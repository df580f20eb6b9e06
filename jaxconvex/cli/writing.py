"""What the commands write: results and their figures, into a folder that is known to take them."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxconvex._internal.formats import name_text
from jaxconvex._internal.kept import lock, sweep
from jaxconvex.evaluation.comparison import Comparison
from jaxconvex.evaluation.report import Report

__all__ = ["CACHE", "RESULT", "free_folder", "output_folder", "write_comparison", "write_scores"]

RESULT, COMPARISON, PAGE, CACHE = "scores.json", "comparison.json", "report.html", ".cache"
WRITTEN = (".json", ".csv", ".png", ".svg", ".html")


def free_folder(kind: str, files: Sequence[Path], names: Sequence[str] = ()) -> Path:
    """A folder named after the files, or after `names` for them, which holds no results but theirs.

    It has a longer name or a number where results of other files have the short one: of e.csv where e.npz was before.
    """
    files = [Path(os.path.abspath(file)) for file in files]
    short, whole = "-".join(names or [file.stem for file in files]), "-".join(file.name for file in files)
    for name in (short, whole, *(f"{short}-{number}" for number in range(2, 1000))):
        folder = Path(f"{name}-{kind}")
        held = [_files_of(folder / result) for result in (RESULT, COMPARISON) if (folder / result).exists()]
        if all(each == _recorded(files, folder) for each in held):
            return folder
    raise ValueError(f"{short}-{kind} and 1,000 like it hold results of other files. Name a folder with --out.")


def _files_of(result: Path) -> Any:
    """The files that a result says it was made from; None if it says nothing, or is no result."""
    try:
        return json.loads(result.read_text(encoding="utf-8"))["provenance"].get("files")
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


def _recorded(files: Sequence[Path], folder: Path) -> list[str]:
    """The files as seen from the folder, so that both may be moved together."""
    folder = Path(os.path.abspath(folder))
    return [
        Path(os.path.relpath(file, folder) if Path(file).anchor == folder.anchor else file).as_posix()
        for file in map(os.path.abspath, files)
    ]


@contextlib.contextmanager
def output_folder(path: Path) -> Iterator[Path]:
    """The folder, made if need be, seen to be writable and locked; removed again if nothing comes to be in it.

    It may be a link to a folder, and what is in it may be links to files, which are written through.

    Raises OSError that names it and says why nothing can be written there; also where another process works there, and for
    what is in the way: a folder or a link that leads to no file, where a file would be.
    """
    created = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        _try_to_write(path)
        with lock(path):
            sweep(path / CACHE)
            yield path
    finally:
        with contextlib.suppress(OSError):  # not empty
            for folder in (path / CACHE, *created):
                if folder.is_dir():
                    folder.rmdir()


def _try_to_write(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(f"cannot write to the folder {path}: {reason}. Choose another with --out.") from error
    for entry in path.iterdir():
        # A link to a file is written through. What is in the way is told before the work, not after it.
        if (entry.suffix in WRITTEN and not entry.is_file()) or (entry.name == CACHE and not entry.is_dir()):
            what = "a link that leads to no file" if entry.is_symlink() else "no file"
            raise OSError(
                f"cannot write to {entry}: it is there and is {what}. Remove it, or choose another with --out."
            )


def write_scores(report: Report, folder: Path, files: Sequence[Path]) -> list[Path]:
    """The paths of scores.json, scores.csv, report.html and the figures of the report on these files, after writing them."""
    folder.mkdir(exist_ok=True)
    report = report._replace(provenance=report.provenance | {"files": _recorded(files, folder)})
    paths = [report.to_json(folder / RESULT), report.to_csv(folder / "scores.csv")]
    return paths + _write_page(report, folder, f"Convexity in {name_text(files[0].name)}")


def write_comparison(
    comparison: Comparison, reports: dict[str, Report], folder: Path, files: Sequence[Path]
) -> list[Path]:
    """The paths of comparison.json, comparison.csv, report.html and the figures, after writing them."""
    comparison = comparison._replace(provenance=comparison.provenance | {"files": _recorded(files, folder)})
    paths = [comparison.to_json(folder / COMPARISON), comparison.to_csv(folder / "comparison.csv")]
    first, second = map(name_text, comparison.names)
    return paths + _write_page(comparison, folder, f"Convexity, {second} beside {first}", reports)


def _write_page(
    result: Report | Comparison, folder: Path, title: str, reports: dict[str, Report] | None = None
) -> list[Path]:
    from jaxconvex.reporting.figures import save_figure
    from jaxconvex.reporting.result_pages import draw_result, write_result_page

    drawn = draw_result(result, reports)
    page = write_result_page(folder / PAGE, result, drawn, title=title, reports=reports)
    return [page, *(path for name, figure in drawn.items() for path in save_figure(figure, folder / name))]
