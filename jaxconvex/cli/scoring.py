"""From files to results: what the commands do, once their options are known."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from jaxconvex._internal.messages import is_terminal, say
from jaxconvex.cli.files import Representations, read_representations
from jaxconvex.cli.options import Options
from jaxconvex.cli.writing import RESULT
from jaxconvex.evaluation.comparison import Comparison, compare_reports
from jaxconvex.evaluation.label_values import is_overlapping, values_of
from jaxconvex.evaluation.report import Report, read_report

__all__ = ["Interrupted", "compare", "demonstrate", "interruptible", "keep_compiled_code", "read"]
__all__ += ["read_sides", "score"]

T = TypeVar("T")

# The options that `read_representations` takes, and those that `evaluate` takes as they are.
READ = ("labels", "separator", "parents", "predictions", "groups", "names", "layers", "skip", "axis", "pool")
OTHERWISE = {*READ, "k", "measures", "memory", "holm", "seed"} - {"pool"}
SCORED = tuple(name for name in Options._fields if name not in OTHERWISE)


class Interrupted(Exception):
    """The user's interrupt, with what is kept of the work."""


def read(path: Path, options: Options) -> Representations:
    """The data of a file, after telling on stderr what was found in it."""
    given = {name: value for name in READ if (value := getattr(options, name)) is not None}
    data = read_representations(path, **given)
    say(f"{path}: {_summary(data)}", stream="stderr")
    for note in data.notes:
        say(f"  {note}", stream="stderr")
    return data


def _summary(data: Representations) -> str:
    names, widths = list(data.layers), sorted({layer.shape[-1] for layer in data.layers.values()})
    layers = "1 layer" if len(names) == 1 else f"{len(names)} layers ({names[0]} to {names[-1]})"
    features = f"{widths[0]} features" if len(widths) == 1 else f"{widths[0]} to {widths[-1]} features"
    classes = ", ".join(f"{name!r} ({_classes(values)})" for name, values in data.labels.items())
    predicted = "" if data.predictions is None else ", predicted labels"
    predicted += "" if data.groups is None else f", {len(np.unique(data.groups))} groups"
    points = len(next(iter(data.labels.values())))
    return f"{points} points, {layers}, {features}, labels {classes}{predicted}"


def _classes(labels: np.ndarray) -> str:
    if is_overlapping(labels):
        return f"{len(values_of(labels))} classes, several a point"
    none = int(np.sum(labels == -1)) if labels.dtype.kind != "U" else 0
    return f"{len(np.unique(labels)) - bool(none)} classes" + (f" and {none} points of background, -1" if none else "")


def score(data: Representations, options: Options, cache: Path) -> Report:
    """The report of the data. Finished layers are kept in the folder `cache` and reused; an interrupt stops at once."""

    def work() -> Report:
        import jax

        from jaxconvex.evaluation.evaluation import evaluate

        # Importing the plotting code takes as long as some of the work: do it meanwhile, in the background.
        threading.Thread(target=import_module, args=("jaxconvex.reporting.plots",), daemon=True).start()
        report = evaluate(
            data.layers,
            data.labels,
            predictions=data.predictions,
            groups=data.groups,
            names=data.names,
            k=options.k or 10,
            measures=tuple(name.strip() for name in options.measures.split(",") if name.strip()),
            memory=None if options.memory is None else options.memory * 1e9,
            parents=data.parents,
            key=jax.random.key(options.seed),
            cache=cache,
            progress=is_terminal(sys.stderr),
            **{name: getattr(options, name) for name in SCORED},
        )
        return report.adjusted() if options.holm else report

    return interruptible(work, partial(_kept_in, cache))


def _kept_in(cache: Path) -> str:
    if any(cache.glob("*.json")):
        return f"Interrupted. Finished layers are kept in {cache}; the same command goes on from there."
    return "Interrupted before a layer was finished."


def interruptible(work: Callable[[], T], told: Callable[[], str]) -> T:
    """What `work` returns or raises. It runs in a thread of its own, since compiled code heeds no interrupt.

    Raises Interrupted, with what is then told, where the user interrupts it.
    """
    keep_compiled_code()
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            # Without a limit, waiting could not be interrupted on Windows.
            thread.join(0.2)
        if errors:
            raise errors[0]
    except KeyboardInterrupt:
        raise Interrupted(told()) from None
    return results[0]


def demonstrate(folder: Path, seed: int) -> Any:
    """Run the demonstration, which writes to the folder; the result says what it found and where, also as text."""

    def work() -> Any:
        from jaxconvex.study.demo import run_demo

        return run_demo(folder, seed=seed, progress=is_terminal(sys.stderr))

    return interruptible(work, lambda: "Interrupted.")


def study_domain(domain: Any, folder: Path, seed: int) -> tuple[Any, list[Path]]:
    """The study of the domain and the paths of what was written to the folder. Finished steps are kept and reused."""

    def work() -> tuple[Any, list[Path]]:
        from jaxconvex.study.experiment import run_study
        from jaxconvex.study.reporting.pages import write_domain_page

        study = run_study(domain, folder, seed=seed)
        return study, [folder / "study.json", *write_domain_page(study, folder)]

    kept = f"Interrupted. Finished steps are kept in {folder}; the same command goes on."
    return interruptible(work, lambda: kept)


def keep_compiled_code() -> None:
    """Configure JAX's compilation cache: in the user's cache folder, unless the user has named another one."""
    import jax

    if jax.config.values["jax_compilation_cache_dir"] is None:
        with contextlib.suppress(RuntimeError):  # a user without a home
            home = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA") or Path.home() / ".cache"
            jax.config.update("jax_compilation_cache_dir", str(Path(home) / "jaxconvex"))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        # A run compiles dozens of small programs, which together take as long as the large ones.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def forget_compiled_code() -> None:
    """Release what JAX has compiled in this process: other networks need other programs.

    Each program takes mappings of memory, about 10,000 in the study of a domain, and Linux ends a process with more than
    65,530.
    """
    import jax

    jax.clear_caches()


# Comparing ------------------------------------------------------------------------------------------------------------


def read_sides(a: Path, b: Path, options: Options) -> dict[str, Representations | Report]:
    """What is compared, by name: the data of a file, or the report of a result.

    Raises ValueError if two files do not hold the same points: their first labels must agree.
    """
    results = [_result(path) for path in (a, b)]
    sides = [_paired(result) if result else read(path, options) for path, result in zip((a, b), results, strict=True)]
    if isinstance(sides[0], Representations) and isinstance(sides[1], Representations):
        _check_same_points(sides[0], sides[1], (a, b))
    return dict(zip(_names(a, b), sides, strict=True))


def compare(
    sides: dict[str, Representations | Report], options: Options, cache: Path
) -> tuple[Comparison, dict[str, Report]]:
    """The comparison of the second with the first, and the reports of both by name; data are scored first."""
    # A paired interval is what a comparison is for, whatever the number of points.
    options = options._replace(jackknife=True)
    reports = {
        name: score(side, options, cache) if isinstance(side, Representations) else side for name, side in sides.items()
    }
    return compare_reports(*reports.values(), names=tuple(reports)), reports


def _result(path: Path) -> Path | None:
    """The path of the report, if the path is one or a folder of one."""
    if path.is_dir():
        if (path / RESULT).is_file():
            return path / RESULT
        raise ValueError(f"{path} must be a file, or a folder with the {RESULT} of a run; it has none.")
    return path if path.suffix.lower() == ".json" else None


def _paired(path: Path) -> Report:
    report = read_report(path)
    if any(row.replicates for row in report.rows):
        return report
    raise ValueError(f"{path} was made without the jackknife, which a comparison needs; score again with --jackknife.")


def _names(a: Path, b: Path) -> tuple[str, str]:
    """Short names for two paths, apart from each other."""

    def parts(path: Path) -> list[str]:
        path = path.resolve()
        own = (
            [path.parent.name]
            if path.name == RESULT
            else [path.stem if path.is_file() else path.name, path.parent.name]
        )
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
    differing = sum(a != b for a, b in zip(first.tolist(), second.tolist(), strict=True))
    if differing:
        raise ValueError(
            f"A and B must hold the same points in the same order, so that their labels {name!r} agree; in {where} "
            f"{differing} of {len(first)} differ. Name the true labels with --labels, a model's with --predictions."
        )
