"""Part A of the evidence: can convexity be trained? Weights chosen on validation rows, then trained anew and tested."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import cache, partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

from cells import Cell, read_results, run_cells

if TYPE_CHECKING:
    from data import Material

__all__ = [
    "CHOOSE_SEEDS",
    "TEST_SEEDS",
    "TOLERANCE",
    "Options",
    "choose",
    "choose_weights",
    "chosen_before",
    "material",
    "measure",
    "read_once",
    "score_run",
    "test",
]

CHOOSE_SEEDS = (1000, 1001, 1002)
TEST_SEEDS = tuple(range(20))
TOLERANCE = 0.005  # of validation accuracy that a weight may cost


class Options(NamedTuple):
    """Where things are, and what is to be run."""

    data: Path
    models: Path
    out: Path
    processes: int
    data_sets: tuple[str, ...]
    methods: tuple[str, ...]

    @property
    def cache(self) -> Path:
        return self.out / "cache"

    @property
    def folders(self) -> dict[str, Path]:
        """What a worker reads its data from, beside the cell."""
        return {"data": self.data, "models": self.models, "folder": self.cache}


def choose(options: Options) -> None:
    """Runs every weight of every grid on validation rows and writes the chosen ones to chosen.json."""
    from objectives import GRIDS  # JAX is for the other processes; this one starts and writes

    def cells(name: str, method: str) -> list[Cell]:
        return [Cell("choose", name, method, float(w), seed) for w in GRIDS[method] for seed in CHOOSE_SEEDS]

    path = options.out / "choose.jsonl"
    pairs = [(name, method) for name in options.data_sets for method in options.methods]
    read_once(options, with_test=False)
    run_cells(
        [cell for pair in pairs for cell in cells(*pair)], partial(measure, **options.folders), path, options.processes
    )
    # What was run before counts too, but only whole grids, so that no weight is chosen for want of another.
    rows = {Cell(*(row[field] for field in Cell._fields)): row for row in read_results(path)}
    known = [(name, method) for name in dict.fromkeys(c.data_set for c in rows) for method in GRIDS]
    whole = [cells(*pair) for pair in known if rows.keys() >= set(cells(*pair))]
    chosen = choose_weights([rows[cell] for grid in whole for cell in grid])
    (options.out / "chosen.json").write_text(json.dumps(chosen, indent=2) + "\n", encoding="utf-8")


def test(options: Options) -> None:
    """Trains with the chosen weights on the seeds of the test, and scores on test rows.

    Raises:
        ValueError: no weights were chosen, or none for one of the methods.
    """
    pairs = [(name, method) for name in options.data_sets for method in options.methods]
    chosen = chosen_before(options.out / "chosen.json", pairs)
    cells = [Cell("test", name, method, chosen[name][method], seed) for name, method in pairs for seed in TEST_SEEDS]
    read_once(options, with_test=True)
    run_cells(cells, partial(measure, **options.folders), options.out / "test.jsonl", options.processes)


def chosen_before(path: Path, pairs: Iterable[tuple[str, str]]) -> dict[str, dict[str, float]]:
    """What a stage before this one chose for each of these data sets and methods.

    Raises:
        ValueError: nothing was chosen, or nothing for one of them.
    """
    chosen = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    missing = [f"{method} on {name}" for name, method in pairs if method not in chosen.get(name, {})]
    if missing:
        raise ValueError(
            f"test rows are read only after the settings are chosen, and {path} has none for {', '.join(missing)}. "
            "Run `choose` first, with the same --out."
        )
    return chosen


def choose_weights(rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """The weight of each method on each data set, by one rule for all, from the rows of `choose`.

    Of the weights whose mean accuracy is at least that of "nothing" less 0.005, the one with the largest mean over seeds
    and hidden layers of the graph convexity of the true classes; the most accurate if none is. Ties go to the smaller.
    """
    scores: dict[tuple[str, str], dict[float, list[tuple[float, float]]]] = {}
    for row in rows:
        convexity = fmean(value for name, value in row.items() if name.startswith("graph/true/"))
        weights = scores.setdefault((row["data_set"], row["method"]), {})
        weights.setdefault(row["weight"], []).append((row["accuracy"], convexity))
    chosen: dict[str, dict[str, float]] = {}
    for (name, method), weights in scores.items():
        if (name, "nothing") not in scores:
            raise ValueError(f"{method} on {name} has nothing to be compared with: run the method `nothing` too.")
        baseline = fmean(accuracy for seeds in scores[name, "nothing"].values() for accuracy, _ in seeds)
        accuracy, convexity = ({w: fmean(s[i] for s in weights[w]) for w in sorted(weights)} for i in (0, 1))
        good = [w for w in accuracy if accuracy[w] >= baseline - TOLERANCE - 1e-9]
        best = max(good, key=convexity.__getitem__) if good else max(accuracy, key=accuracy.__getitem__)
        chosen.setdefault(name, {})[method] = best
    return chosen


def measure(cell: Cell, *, data: Path, models: Path, folder: Path) -> dict[str, float]:
    """The scores of one training run, on validation rows for "choose" and on test rows for "test"."""
    from objectives import OBJECTIVES

    return score_run(cell, OBJECTIVES[cell.method], cell.weight, data=data, models=models, folder=folder)


def score_run(cell: Cell, objective: Any, weight: float, *, data: Path, models: Path, folder: Path) -> dict[str, float]:
    """The scores of a network trained by an objective on a cell's data and seed; on test rows for "test" alone."""
    import jax
    from scoring import score
    from training import RECIPES, train

    data_set = material(cell.data_set, data, models, folder, cell.experiment == "test")
    params, seconds = train(
        objective,
        data_set.train,
        num_classes=data_set.num_classes,
        weight=weight,
        seed=cell.seed,
        recipe=RECIPES[cell.data_set],
    )
    points = data_set.test if cell.experiment == "test" else data_set.validation
    key = jax.random.key(cell.seed)  # of the noise and the pairs: the same for every method
    scores = score(params, points, data_set.validation, num_classes=data_set.num_classes, key=key)
    return {**scores, "seconds_per_step": seconds}


@cache
def material(name: str, data: Path, models: Path, folder: Path, with_test: bool) -> Material:
    """A data set, read from the cache of files once a process."""
    from data import read

    return read(name, data, models, folder, with_test=with_test)


def read_once(options: Options, names: Iterable[str] | None = None, *, with_test: bool) -> None:
    """Fills the cache of files here, so that the processes do not all compute it; of all data sets by default."""
    for name in options.data_sets if names is None else names:
        material(name, options.data, options.models, options.cache, with_test)
    material.cache_clear()
