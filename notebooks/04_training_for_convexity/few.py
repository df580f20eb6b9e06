"""Part B of the evidence: few labels, many unlabelled points.

Five labelled points a class, up to 1,500 unlabelled ones of the same pool. A seed draws which, and the initial weights,
the same for every method. Settings are chosen by validation accuracy on seeds that the final stage does not use.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from cells import Cell, run_cells
from convexity import CHOOSE_SEEDS, TEST_SEEDS, Options, chosen_before, material, read_once

if TYPE_CHECKING:
    from data import Material
    from few_targets import Task
    from jaxtyping import Int

__all__ = ["UNLABELLED", "choose", "choose_settings", "draw", "few", "final", "measure"]

LABELLED = 5  # of each class
UNLABELLED = 1500  # at most
METHODS = (
    "nothing",
    "label_smoothing",
    "manifold_mixup",
    "supervised_contrastive",
    "within_class_variance",
    "entropy",
    "pseudo_labels",
    "propagation",
    "propagation_here",
    "propagation_in_layers",
    "paths",
    "paths_if_trusted",
    "paths_in_layers",
    "propagation_and_contrastive",
    "paths_and_contrastive",
    "paths_and_graph",
    "graph_convexity",
)
# Made after the first test, on validation rows. All methods are tested again, on other seeds.
SECOND_METHODS = (*METHODS, "mixup_and_contrastive", "propagation_mixed", "paths_mixed", "paths_mixed_if_confident")
SECOND_SEEDS = tuple(range(20, 40))


def few(options: Options) -> None:
    """All stages: settings on validation rows, 20 seeds on test rows, then the second round's methods and seeds."""
    choose(options)
    final(options, "few", METHODS, TEST_SEEDS)
    final(options, "few_second", SECOND_METHODS, SECOND_SEEDS)


def choose(options: Options) -> list[dict[str, Any]]:
    """Runs every setting of every method on validation rows and writes the most accurate ones to few_chosen.json."""
    from few_methods import SETTINGS

    cells = [
        Cell("few_choose", name, method, float(setting), seed)
        for method in SECOND_METHODS
        for name in options.data_sets
        for setting in range(len(SETTINGS[method]))
        for seed in CHOOSE_SEEDS
    ]
    rows = _run(cells, options, "few_choose", with_test=False)
    chosen = choose_settings(rows)
    (options.out / "few_chosen.json").write_text(json.dumps(chosen, indent=2) + "\n", encoding="utf-8")
    return rows


def final(options: Options, stage: str, methods: Sequence[str], seeds: Sequence[int]) -> list[dict[str, Any]]:
    """The chosen settings with the seeds of the test, on test rows.

    Raises:
        ValueError: no settings were chosen, or none for one of the methods.
    """
    pairs = [(name, method) for name in options.data_sets for method in methods]
    chosen = chosen_before(options.out / "few_chosen.json", pairs)
    cells = [Cell(stage, name, method, chosen[name][method], seed) for name, method in pairs for seed in seeds]
    return _run(cells, options, stage, with_test=True)


def choose_settings(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """The number of each method's setting with the largest mean accuracy on each data set; of equal ones the first."""
    found: dict[tuple[str, str, float], list[float]] = {}
    for row in rows:
        found.setdefault((row["data_set"], row["method"], row["weight"]), []).append(row["accuracy"])
    chosen: dict[str, dict[str, float]] = {}
    for name, method, _ in found:
        mean = {w: np.mean(found[n, m, w]) for n, m, w in sorted(found) if (n, m) == (name, method)}
        chosen.setdefault(name, {})[method] = max(mean, key=mean.__getitem__)
    return chosen


def measure(cell: Cell, *, data: Path, models: Path, folder: Path) -> Mapping[str, float]:
    """What a method is worth on validation rows for "few_choose" and on test rows for "few" and "few_second".

    accuracy: of the network; for "few" all that `scoring.score` measures. pool: of the network on the unlabelled points;
    targets: of the soft targets there, those without any counting as wrong. seconds: of the training, targets included.
    """
    import few_methods
    import jax
    from networks import logits
    from scoring import score

    tested = cell.experiment != "few_choose"
    data_set = material(cell.data_set, data, models, folder, tested)
    task, hidden_labels = draw(data_set, seed=cell.seed)
    began = time.perf_counter()
    method, setting = few_methods.METHODS[cell.method], few_methods.SETTINGS[cell.method][int(cell.weight)]
    params, targets = method(task, setting, cell.seed)
    found = {"seconds": time.perf_counter() - began}
    points = data_set.test if tested else data_set.validation
    if cell.experiment == "few":
        key = jax.random.key(cell.seed)
        found |= score(params, points, data_set.validation, num_classes=data_set.num_classes, key=key)
    else:
        found["accuracy"] = np.mean(np.argmax(logits(params, points.x), axis=1) == points.y)
    found["pool"] = np.mean(np.argmax(logits(params, task.x[len(task.y) :]), axis=1) == hidden_labels)
    if targets is not None:
        found["targets"] = np.mean((targets.argmax(axis=1) == hidden_labels) & (targets.max(axis=1) > 0))
    return found


def draw(data_set: Material, *, seed: int) -> tuple[Task, Int[np.ndarray, " u"]]:
    """A task from the train pool, and the labels that it hides."""
    from few_targets import Task

    pool, random = data_set.train, np.random.default_rng([seed, 7])
    order = random.permutation(len(pool.y))
    y = pool.y[order]
    labelled = np.concatenate([order[y == label][:LABELLED] for label in range(data_set.num_classes)])
    others = np.setdiff1d(order, labelled)
    rows = np.concatenate([labelled, random.permutation(others)[:UNLABELLED]])
    y = pool.y[rows]
    return Task(pool.x[rows], y[: len(labelled)], data_set.num_classes), y[len(labelled) :]


def _run(cells: list[Cell], options: Options, stage: str, *, with_test: bool) -> list[dict[str, Any]]:
    read_once(options, with_test=with_test)
    return run_cells(cells, partial(measure, **options.folders), options.out / f"{stage}.jsonl", options.processes)
