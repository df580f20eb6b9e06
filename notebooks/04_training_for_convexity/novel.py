"""Part C of the evidence: new classes from few examples, and whether convexity carries the gain.

Gaerdenfors' argument: regions are convex where every point belongs to its nearest prototype, so that a space of convex
concepts should let a few examples, by their mean, stand for a concept never seen. A network is trained on some classes
(base); in its hidden layers points of the others (novel) are given to the nearest mean of five examples of each class.

Whether convexity is the reason is asked in mediation.py.

Source of the argument: Gaerdenfors, Conceptual Spaces, 2000. Of prototypes of few examples: Snell, Swersky and Zemel,
Prototypical networks for few-shot learning, 2017.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from cells import Cell, read_results, run_cells
from convexity import CHOOSE_SEEDS, TEST_SEEDS, Options, chosen_before, material, read_once
from data import Points
from mediation import mediation_table
from networks import HIDDEN_LAYERS, hidden, logits
from objectives import OBJECTIVES
from scoring import GRAPH_POINTS, NEIGHBORS, stratified
from tables import differences, write
from training import RECIPES, Recipe, train

from jaxconvex import graph_convexity, knn_graph, pack

if TYPE_CHECKING:
    from jaxtyping import Float, Int

__all__ = ["BASE_CLASSES", "final", "measure", "novel", "validate"]

BASE_CLASSES = {"fashion": 6, "speech": 6, "digits": 6, "text": 47}  # the others are novel
EXAMPLES = 5  # labelled points of each novel class
EPISODES = 20  # draws of them


def novel(options: Options) -> None:
    """Runs the final stage and writes OUT/tables/novel_differences.csv and novel_mediation.csv."""
    final(options)
    rows = read_results(options.out / "novel.jsonl")
    folder = options.out / "tables"
    write(folder / "novel_differences.csv", [found._asdict() for found in differences(rows)])
    write(folder / "novel_mediation.csv", mediation_table(rows))


def final(options: Options) -> list[dict[str, Any]]:
    """The results on test rows, 20 seeds, with the weights that part A chose on validation rows; none is chosen here.

    Raises:
        ValueError: no weights were chosen, or none for one of the methods.
    """
    names = _with_novel_classes(options.data_sets)
    chosen = chosen_before(options.out / "chosen.json", [(name, m) for name in names for m in options.methods])
    return _run(options, "novel", names, chosen, TEST_SEEDS)


def validate(
    options: Options, weights: Mapping[str, Mapping[str, float]], seeds: Sequence[int] = CHOOSE_SEEDS
) -> list[dict[str, Any]]:
    """The results on validation rows with weights given by hand, weights[data set][method]; for work on this part."""
    return _run(options, "novel_validation", _with_novel_classes(options.data_sets), weights, seeds)


def measure(cell: Cell, *, data: Path, models: Path, folder: Path) -> dict[str, float]:
    """The scores of one training run on base classes: on test rows for "novel", otherwise on validation rows.

    accuracy: of the network, among the base classes, on their rows.
    novel/LAYER: of the nearest prototype, among the novel classes, on their rows; LAYER is input, 0, 1, 2 or the mean
        of the three hidden ones.
    graph/base/LAYER, graph/novel/LAYER: mean over these classes of the exact graph convexity. Points of all classes are
        in the graph, so that a class is convex among all others.
    """
    with_test = cell.experiment == "novel"
    data_set = material(cell.data_set, data, models, folder, with_test)
    base = draw_base_classes(data_set.num_classes, BASE_CLASSES[cell.data_set], seed=cell.seed)
    params, seconds = train(
        OBJECTIVES[cell.method],
        base_points(data_set.train, base, seed=cell.seed),
        num_classes=len(base),
        weight=cell.weight,
        seed=cell.seed,
        recipe=_recipe(RECIPES[cell.data_set], len(base)),
    )
    points = data_set.test if with_test else data_set.validation
    layers, outputs = (jax.tree.map(np.asarray, function(params, points.x)) for function in (_hidden, _logits))
    is_base = np.isin(points.y, base)
    found = {"accuracy": np.mean(base[outputs[is_base].argmax(axis=1)] == points.y[is_base])}

    y = points.y[~is_base]
    examples = draw_examples(y, EXAMPLES, EPISODES, seed=cell.seed)
    spaces = {"input": points.x} | {str(layer): h for layer, h in enumerate(layers)}
    found |= {f"novel/{name}": prototype_accuracy(h[~is_base], y, examples) for name, h in spaces.items()}

    rows = stratified(points.y, GRAPH_POINTS)
    is_novel_class = ~np.isin(np.arange(data_set.num_classes), base)
    for layer, h in enumerate(layers):
        graph = pack(knn_graph(h[rows], k=NEIGHBORS))
        of_class = np.asarray(graph_convexity(graph, points.y[rows], num_classes=data_set.num_classes).per_class)
        found[f"graph/base/{layer}"] = np.nanmean(of_class[~is_novel_class])
        found[f"graph/novel/{layer}"] = np.nanmean(of_class[is_novel_class])
    for name in ("novel", "graph/base", "graph/novel"):
        found[f"{name}/mean"] = np.mean([found[f"{name}/{layer}"] for layer in range(HIDDEN_LAYERS)])
    return {name: float(value) for name, value in found.items()} | {"seconds_per_step": seconds}


# Base and novel classes -----------------------------------------------------------------------------------------------


def draw_base_classes(num_classes: int, count: int, *, seed: int) -> Int[np.ndarray, " count"]:
    """The classes to train on, ascending; drawn by the seed alone, so that all methods of a seed have the same task."""
    return np.sort(np.random.default_rng([seed, 3]).permutation(num_classes)[:count])


def base_points(pool: Points, base: Int[np.ndarray, " count"], *, seed: int) -> Points:
    """The pool's points of the base classes, relabelled 0 to count - 1 in their order.

    Where classes differ in size, some points are left out at random: there are as many as in the smallest draw of classes,
    whichever is drawn, so that no seed compiles anew.
    """
    size = np.sort(np.bincount(pool.y))[: len(base)].sum()
    rows = np.random.default_rng([seed, 4]).permutation(np.flatnonzero(np.isin(pool.y, base)))[:size]
    return Points(pool.x[rows], np.searchsorted(base, pool.y[rows]).astype(np.int32))


def draw_examples(
    y: Int[np.ndarray, " n"], count: int, episodes: int, *, seed: int
) -> Int[np.ndarray, "episodes classes count"]:
    """Rows of `count` different points of each class, classes ascending; the same for all methods and layers of a seed."""
    random = np.random.default_rng([seed, 5])
    of_class = [np.flatnonzero(y == label) for label in np.unique(y)]
    smallest = min(map(len, of_class))
    if smallest <= count:
        raise ValueError(f"{count} examples of each class leave none to tell apart: a class has {smallest} points.")
    return np.array([[random.permutation(rows)[:count] for rows in of_class] for _ in range(episodes)])


def prototype_accuracy(
    h: Float[np.ndarray, "n d"], y: Int[np.ndarray, " n"], examples: Int[np.ndarray, "episodes classes count"]
) -> float:
    """The share of points, the examples left out, whose nearest prototype is their class's; mean over the episodes.

    A prototype is the mean of a class's examples. Of prototypes equally near the first counts.

    >>> h = np.array([[0.0], [1.0], [0.2], [5.0], [6.0], [2.0]])
    >>> prototype_accuracy(h, np.array([0, 0, 0, 1, 1, 1]), np.array([[[0, 1], [3, 4]]]))
    0.5
    """
    h = h - h.mean(axis=0)  # for the differences of squares below
    prototypes = h[examples].mean(axis=2)
    distances = np.sum(prototypes**2, axis=-1)[:, None] - 2 * np.einsum("nd,ecd->enc", h, prototypes, optimize=True)
    correct = np.unique(y)[distances.argmin(axis=-1)] == y
    asked = np.ones((len(examples), len(y)), bool)
    np.put_along_axis(asked, examples.reshape(len(examples), -1), False, axis=1)
    return float(np.mean(correct[asked]))


# Running --------------------------------------------------------------------------------------------------------------


_hidden, _logits = jax.jit(hidden), jax.jit(logits)


def _run(
    options: Options, stage: str, names: Sequence[str], weights: Mapping[str, Mapping[str, float]], seeds: Sequence[int]
) -> list[dict[str, Any]]:
    read_once(options, names, with_test=stage == "novel")
    cells = [
        Cell(stage, name, method, float(weights[name][method]), seed)
        for name in names
        for method in options.methods
        for seed in seeds
    ]
    return run_cells(cells, partial(measure, **options.folders), options.out / f"{stage}.jsonl", options.processes)


def _with_novel_classes(names: Sequence[str]) -> tuple[str, ...]:
    for name in names:
        if name not in BASE_CLASSES:
            print(
                f"{name} is left out: with 3 classes, 2 of them base, one novel class has none to be told apart from.",
                file=sys.stderr,
            )
    return tuple(name for name in names if name in BASE_CLASSES)


def _recipe(recipe: Recipe, num_classes: int) -> Recipe:
    """A batch of about the same size, with no more classes than there are."""
    classes = min(recipe.classes, num_classes)
    return recipe._replace(classes=classes, points=recipe.classes * recipe.points // classes)
