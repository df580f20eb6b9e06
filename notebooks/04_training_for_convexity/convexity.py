"""Part A of the evidence: can convexity be trained? Weights chosen on validation rows, then trained anew and tested."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

from cells import Cell, read_results, run_cells

__all__ = ["CHOOSE_SEEDS", "TEST_SEEDS", "TOLERANCE", "Options", "choose", "choose_weights", "measure", "test"]

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


def choose(options: Options) -> None:
    """Runs every weight of every grid on validation rows and writes the chosen ones to chosen.json."""
    from objectives import GRIDS  # JAX is for the other processes; this one starts and writes

    cells = [
        Cell("choose", name, method, float(weight), seed)
        for name in options.data_sets
        for method in options.methods
        for weight in GRIDS[method]
        for seed in CHOOSE_SEEDS
    ]
    _read_once(options, with_test=False)
    run_cells(cells, _work(options), options.out / "choose.jsonl", options.processes)
    chosen = choose_weights(read_results(options.out / "choose.jsonl"))
    (options.out / "chosen.json").write_text(json.dumps(chosen, indent=2) + "\n", encoding="utf-8")


def test(options: Options) -> None:
    """Trains with the chosen weights on the seeds of the test, and scores on test rows.

    Raises:
        ValueError: no weights were chosen, or none for one of the methods.
    """
    path = options.out / "chosen.json"
    chosen = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    pairs = [(name, method) for name in options.data_sets for method in options.methods]
    missing = [f"{method} on {name}" for name, method in pairs if method not in chosen.get(name, {})]
    if missing:
        raise ValueError(
            f"test rows are read only after the weights are chosen, and {path} has none for {', '.join(missing)}. "
            "Run `choose` with the same --out first."
        )
    cells = [Cell("test", name, method, chosen[name][method], seed) for name, method in pairs for seed in TEST_SEEDS]
    _read_once(options, with_test=True)
    run_cells(cells, _work(options), options.out / "test.jsonl", options.processes)


def choose_weights(rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """The weight of each method on each data set, by one rule for all, from the rows of `choose`.

    Of the weights whose mean accuracy is at least that of "nothing" less 0.005, the one with the largest mean over seeds
    and hidden layers of the graph convexity of the true classes; the most accurate if none is. Ties go to the smaller.
    """
    means: dict[tuple[str, str, float], list[tuple[float, float]]] = {}
    for row in rows:
        layers = [value for name, value in row.items() if name.startswith("graph/true/")]
        score = row["accuracy"], sum(layers) / len(layers)
        means.setdefault((row["data_set"], row["method"], row["weight"]), []).append(score)
    mean = {
        name: tuple(sum(column) / len(scores) for column in zip(*scores, strict=True)) for name, scores in means.items()
    }
    chosen: dict[str, dict[str, float]] = {}
    for name, method, _ in mean:
        weights = {w: mean[n, m, w] for n, m, w in sorted(mean) if (n, m) == (name, method)}
        least = next(mean[key][0] for key in mean if key[:2] == (name, "nothing")) - TOLERANCE
        good = {w: score[1] for w, score in weights.items() if score[0] >= least - 1e-9}
        ranked = good or {w: score[0] for w, score in weights.items()}
        chosen.setdefault(name, {})[method] = max(ranked, key=ranked.__getitem__)
    return chosen


def measure(cell: Cell, *, data: Path, models: Path, folder: Path) -> dict[str, float]:
    """The scores of one training run, on validation rows for "choose" and on test rows for "test"."""
    import jax
    from objectives import OBJECTIVES
    from scoring import score
    from training import RECIPES, train

    material = _material(cell.data_set, data, models, folder, cell.experiment == "test")
    params, seconds = train(
        OBJECTIVES[cell.method],
        material.train,
        num_classes=material.num_classes,
        weight=cell.weight,
        seed=cell.seed,
        recipe=RECIPES[cell.data_set],
    )
    points = material.test if cell.experiment == "test" else material.validation
    key = jax.random.key(cell.seed)  # of the noise and the pairs: the same for every method
    scores = score(params, points, material.validation, num_classes=material.num_classes, key=key)
    return {**scores, "seconds_per_step": seconds}


def _work(options: Options) -> Any:
    return partial(measure, data=options.data, models=options.models, folder=options.cache)


@cache
def _material(name: str, data: Path, models: Path, folder: Path, with_test: bool) -> Any:
    from data import read

    return read(name, data, models, folder, with_test=with_test)


def _read_once(options: Options, *, with_test: bool) -> None:
    """Fills the cache of files here, so that the processes do not all compute it."""
    for name in options.data_sets:
        _material(name, options.data, options.models, options.cache, with_test)
    _material.cache_clear()
