"""From files to results: what the commands do, once their options are known."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from jaxconvex.comparison import Comparison, compare_reports
from jaxconvex.files import Representations, read_representations
from jaxconvex.report import Report, distinct, read_report

__all__ = ["Interrupted", "Options", "compare", "interruptible", "keep_compiled_code", "output_folder", "score"]
__all__ += ["write_comparison", "write_scores"]

T = TypeVar("T")

RESULT = "scores.json"


class Options(NamedTuple):
    """What is scored and how: the options of `read_representations` and of `evaluate`."""

    labels: tuple[str, ...] = ()
    predictions: str | None = None
    layers: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    axis: int | None = None
    pool: str | None = None
    background: str | None = None
    k: tuple[int, ...] = (10,)
    metric: str = "euclidean"
    graph: str = "union"
    duplicates: str = "link"
    max_pairs: int | None = None
    max_points: int | None = None
    jackknife: bool | None = None
    permutations: int = 0
    protocol: str | None = None
    seed: int = 0


class Interrupted(Exception):
    """The user's interrupt, with what is kept of the work."""


def score(path: Path, options: Options, cache: Path) -> Report:
    """The report of the representations in a file. Finished layers are kept in the folder `cache` and reused."""
    return _evaluate(_read(path, options), options, cache)


def compare(a: Path, b: Path, options: Options, cache: Path) -> tuple[Comparison, dict[str, Report]]:
    """The comparison b - a and the two reports by name; each of the two is a file, a result or the folder of one.

    Raises ValueError if they are not of the same points: their first labels must agree.
    """
    names = _names(a, b)
    results = [_result(path) for path in (a, b)]
    data = [None if result else _read(path, options) for path, result in zip((a, b), results, strict=True)]
    if data[0] is not None and data[1] is not None:
        _check_same_points(data[0], data[1], (a, b))
    # A paired interval is what a comparison is for, whatever the number of points.
    paired = options._replace(jackknife=True)
    reports = {
        name: read_report(result) if result else _evaluate(those, paired, cache)
        for name, result, those in zip(names, results, data, strict=True)
    }
    return compare_reports(*reports.values(), names=names), reports


def _read(path: Path, options: Options) -> Representations:
    """The data of a file, after telling on stderr what was found in it."""
    data = read_representations(
        path,
        labels=options.labels,
        predictions=options.predictions,
        layers=options.layers,
        skip=options.skip,
        axis=options.axis,
        pool=options.pool,
    )
    print(f"{path}: {_summary(data)}", file=sys.stderr, flush=True)
    return data


def _summary(data: Representations) -> str:
    names, widths = list(data.layers), sorted({layer.shape[-1] for layer in data.layers.values()})
    layers = "1 layer" if len(names) == 1 else f"{len(names)} layers ({names[0]} to {names[-1]})"
    features = f"{widths[0]} features" if len(widths) == 1 else f"{widths[0]} to {widths[-1]} features"
    classes = ", ".join(f"{name!r} ({len(np.unique(values))} classes)" for name, values in data.labels.items())
    predicted = "" if data.predictions is None else ", predicted labels"
    left_out = f"; left out: {', '.join(data.left_out)}" if data.left_out else ""
    points = len(next(iter(data.labels.values())))
    return f"{points} points, {layers}, {features}, labels {classes}{predicted}{left_out}"


def _evaluate(data: Representations, options: Options, cache: Path) -> Report:
    def work() -> Report:
        import jax

        from jaxconvex.evaluation import evaluate

        return evaluate(
            data.layers,
            data.labels,
            k=options.k[0] if len(options.k) == 1 else options.k,
            metric=options.metric,
            graph=options.graph,
            duplicates=options.duplicates,
            predictions=data.predictions,
            pool=options.pool,
            max_pairs=options.max_pairs,
            max_points=options.max_points,
            jackknife=options.jackknife,
            permutations=options.permutations,
            key=jax.random.key(options.seed),
            background=_background(options.background, data),
            protocol=options.protocol,
            cache=cache,
            progress=True,
        )

    try:
        return interruptible(work)
    except KeyboardInterrupt:
        raise Interrupted(
            f"Interrupted. Finished layers are kept in {cache}; the same command goes on from there."
        ) from None


def _background(value: str | None, data: Representations) -> int | str | None:
    """The background label, as a number if the labels are numbers."""
    numbers = all(labels.dtype.kind in "iu" for labels in data.labels.values())
    return int(value) if value is not None and numbers and re.fullmatch(r"[+-]?\d+", value) else value


def interruptible(work: Callable[[], T]) -> T:
    """What `work` returns or raises. It runs in a thread of its own, since compiled code heeds no interrupt."""
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    while thread.is_alive():
        # Without a limit, waiting could not be interrupted on Windows.
        thread.join(0.2)
    if errors:
        raise errors[0]
    return results[0]


def keep_compiled_code() -> None:
    """Has JAX keep what it compiles in the user's cache folder, unless the user has named another folder."""
    import jax

    if jax.config.jax_compilation_cache_dir is None:
        with contextlib.suppress(RuntimeError):  # a user without a home
            home = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA") or Path.home() / ".cache"
            jax.config.update("jax_compilation_cache_dir", str(Path(home) / "jaxconvex"))
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


# Comparing ------------------------------------------------------------------------------------------------------------


def _result(path: Path) -> Path | None:
    """The path of the report, if the path is one or a folder of one."""
    if path.is_dir():
        if (path / RESULT).is_file():
            return path / RESULT
        raise ValueError(f"{path} must be a file, or a folder with the {RESULT} of a run; it has none.")
    return path if path.suffix.lower() == ".json" else None


def _names(a: Path, b: Path) -> tuple[str, str]:
    """Short names for two paths, apart from each other."""

    def parts(path: Path) -> list[str]:
        path = path.resolve()
        own = [path.parent.name] if path.name == RESULT else [path.stem if path.is_file() else path.name, path.parent.name]
        return [name.removesuffix("-convexity") for name in own]

    for first, second in zip(parts(a), parts(b), strict=False):
        if first != second:
            return first, second
    return "A", "B"


def _check_same_points(a: Representations, b: Representations, paths: Sequence[Path]) -> None:
    (name, first), (_, second) = (next(iter(data.labels.items())) for data in (a, b))
    where = f"{paths[0]} and {paths[1]}"
    if len(first) != len(second):
        raise ValueError(f"A and B must hold the same points; {where} hold {len(first)} and {len(second)}.")
    differing = int(np.sum(first != second))
    if differing:
        raise ValueError(
            f"A and B must hold the same points in the same order, so that their labels {name!r} agree; in {where} "
            f"{differing} of {len(first)} differ. Name the true labels with --labels, those of a model with --predictions."
        )


# Writing --------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def output_folder(path: Path) -> Iterator[Path]:
    """The folder, made if need be and seen to be writable; removed again if nothing comes to be in it.

    Raises OSError that names it and says why nothing can be written there.
    """
    made = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(f"cannot write to the folder {path}: {reason}. Choose another with --out.") from error
    try:
        yield path
    finally:
        with contextlib.suppress(OSError):  # not empty
            for folder in (path / ".cache", *made):
                if folder.is_dir():
                    folder.rmdir()


def write_scores(report: Report, folder: Path) -> list[Path]:
    """The paths of scores.json, scores.csv and the figures of the report, after writing them."""
    from jaxconvex.plots import plot_classes, plot_profile, save_figure

    paths = [report.to_json(folder / RESULT), report.to_csv(folder / "scores.csv")]
    for suffix, chosen in _figures(report):
        paths += save_figure(plot_profile(report, **chosen), folder / f"profile{suffix}")
        paths += save_figure(plot_classes(report, **chosen), folder / f"classes{suffix}")
    return paths


def write_comparison(comparison: Comparison, reports: dict[str, Report], folder: Path) -> list[Path]:
    """The paths of comparison.json, comparison.csv and the figures, after writing them."""
    from jaxconvex.plots import plot_differences, plot_profile, save_figure

    paths = [comparison.to_json(folder / "comparison.json"), comparison.to_csv(folder / "comparison.csv")]
    for suffix, chosen in _figures(comparison):
        paths += save_figure(plot_differences(comparison, classes=True, **chosen), folder / f"comparison{suffix}")
        paths += save_figure(plot_profile(reports, **chosen), folder / f"profile{suffix}")
    return paths


def _figures(report: Report | Comparison) -> list[tuple[str, dict[str, Any]]]:
    """What tells the files of the figures apart, and what to draw in them: one for each labeling and k."""
    labelings = distinct(report.rows, "labeling")
    numbers = [k for k in distinct(report.rows, "k") if k is not None] or [None]
    return [
        (
            (f"-{re.sub(r'[^A-Za-z0-9_.]+', '-', labeling)}" if len(labelings) > 1 else "")
            + (f"-k{k}" if len(numbers) > 1 else ""),
            {"labeling": labeling, "k": k},
        )
        for labeling in labelings
        for k in numbers
    ]
