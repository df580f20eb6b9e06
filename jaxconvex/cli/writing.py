"""What the commands write: results and their figures, into a folder that is known to take them."""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from jaxconvex._internal.kept import lock, sweep
from jaxconvex.evaluation.comparison import Comparison
from jaxconvex.evaluation.report import Report, distinct

__all__ = ["CACHE", "RESULT", "file_names", "free_folder", "output_folder", "write_comparison", "write_scores"]

RESULT, COMPARISON, CACHE = "scores.json", "comparison.json", ".cache"
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
    """The paths of scores.json, scores.csv and the figures of the report on these files, after writing them."""
    from jaxconvex.reporting.plots import plot_classes, plot_profile, save_figure

    folder.mkdir(exist_ok=True)
    report = report._replace(provenance=report.provenance | {"files": _recorded(files, folder)})
    paths = [report.to_json(folder / RESULT), report.to_csv(folder / "scores.csv")]
    for suffix, chosen in _figures(report):
        paths += save_figure(plot_profile(report, **chosen), folder / f"profile{suffix}")
        paths += save_figure(plot_classes(report, **chosen), folder / f"classes{suffix}")
    return paths


def write_comparison(
    comparison: Comparison, reports: dict[str, Report], folder: Path, files: Sequence[Path]
) -> list[Path]:
    """The paths of comparison.json, comparison.csv and the figures, after writing them."""
    from jaxconvex.reporting.plots import plot_differences, plot_profile, save_figure

    comparison = comparison._replace(provenance=comparison.provenance | {"files": _recorded(files, folder)})
    paths = [comparison.to_json(folder / COMPARISON), comparison.to_csv(folder / "comparison.csv")]
    for suffix, chosen in _figures(comparison):
        paths += save_figure(plot_differences(comparison, classes=True, **chosen), folder / f"comparison{suffix}")
        paths += save_figure(plot_profile(reports, **chosen), folder / f"profile{suffix}")
    return paths


def _figures(report: Report | Comparison) -> list[tuple[str, dict[str, Any]]]:
    """What tells the files of the figures apart, and what to draw in them: one for each labeling and k."""
    labelings = file_names(distinct(report.rows, "labeling"))
    numbers = [k for k in distinct(report.rows, "k") if k is not None] or [None]
    return [
        (
            (f"-{name}" if len(labelings) > 1 else "") + (f"-k{k}" if len(numbers) > 1 else ""),
            {"labeling": labeling, "k": k},
        )
        for labeling, name in labelings.items()
        for k in numbers
    ]


def file_names(names: Sequence[str]) -> dict[str, str]:
    """For each name one that files may have anywhere: other characters become hyphens, and those alike get a number.

    >>> file_names(["genus", "a/b", "a:b", "../A.b", "属"])
    {'genus': 'genus', 'a/b': 'a-b', 'a:b': 'a-b-2', '../A.b': 'A.b', '属': 'labels'}
    """
    unique: dict[str, str] = {}
    for name in names:
        stem = re.sub(r"[^A-Za-z0-9_.]+", "-", name).strip("-.")[:100] or "labels"
        taken = {other.casefold() for other in unique.values()}
        numbered = (stem if number == 1 else f"{stem}-{number}" for number in count(1))
        unique[name] = next(each for each in numbered if each.casefold() not in taken)
    return unique
