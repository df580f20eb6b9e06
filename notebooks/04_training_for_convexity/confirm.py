"""One confirmation a data set: whole networks, nothing frozen, with the graph convexity loss and without.

Fashion and digits are learned from pixels by a small convolutional network; speech, text and blood by the pretrained
encoders whose frozen first blocks part A reads, here trained from end to end, under a linear classifier that is zero at
first or, for speech and text, fitted to the frozen network. The loss and the score see some layers spread over the
depth, each point as the mean of its tokens or positions. Both methods of a seed share the points, the batches and the
initial weights; seeds of a pretrained network differ by the first two. Weight, k and temperature are the defaults.

Sizes are small, so that all of it takes some minutes on two cores; every result tells them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from cells import Cell, run_cells
from convexity import CHOOSE_SEEDS, Options
from data import Points, read_raw
from objectives import graph_term
from scoring import GRAPH_POINTS, NEIGHBORS, stratified
from tables import differences, means, write
from training import draw_batches, draw_subset
from whole_networks import SETTINGS

from jaxconvex import graph_convexity, knn_graph, pack
from jaxconvex.encoders import Encoder
from jaxconvex.layers.layer_reading import pooled_layer
from jaxconvex.study.datasets import Dataset, take
from jaxconvex.study.training import cross_entropy, features, probe, train

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int

__all__ = ["METHODS", "SEEDS", "confirm", "measure", "validate"]

SEEDS = (0, 1, 2)
METHODS = {"nothing": 0.0, "graph_convexity_default": 1.0}  # and their weights


def confirm(options: Options) -> None:
    """Trains and scores on test rows; writes OUT/tables/confirm.csv and confirm_differences.csv."""
    rows = _run(options, "confirm", SEEDS)
    folder = options.out / "tables"
    write(folder / "confirm.csv", means(rows))
    write(folder / "confirm_differences.csv", [found._asdict() for found in differences(rows)])


def validate(options: Options, seeds: Sequence[int] = CHOOSE_SEEDS) -> list[dict[str, Any]]:
    """The results on validation rows; for work on this part."""
    return _run(options, "confirm_validation", seeds)


def measure(cell: Cell, *, data: Path, models: Path) -> dict[str, float]:
    """The scores of one training run: on test rows for "confirm", otherwise on validation rows.

    accuracy: of the network, on all these rows.
    graph/true/LAYER, graph/predicted/LAYER: macro graph convexity of the layers, in order of depth, on at most
        GRAPH_POINTS of them.
    points/train, points/batch, points/scored, classes, steps: the sizes. seconds: of the training, with the compiling.
    """
    setting = SETTINGS[cell.data_set]
    part = "test" if cell.experiment == "confirm" else "validation"
    num_classes, (dataset, y) = _part(cell.data_set, data, "train")
    numbers = Points(np.arange(len(y)), y)  # of rows, in place of vectors
    points = draw_subset(numbers, setting.recipe.per_class, seed=cell.seed)
    network, inputs = setting.make(dataset, models, num_classes=num_classes, seed=cell.seed)
    if setting.probed:
        known = jax.tree.map(lambda array: array[points.x], inputs)
        network = probe(network, known, points.y, num_classes=num_classes, take="mean", batch_size=100)
    batches = points.x[draw_batches(points.y, setting.recipe, steps=setting.steps, seed=cell.seed)]

    began = time.perf_counter()
    network = train(
        network,
        _loss(setting.layers, cell.weight),
        (jax.tree.map(lambda array: array[batches], inputs), y[batches]),
        jax.random.key(cell.seed),
        num_epochs=1,
        batch_size=1,  # a row of the data is a balanced batch
        learning_rate=setting.learning_rate,
    ).networks
    seconds = time.perf_counter() - began

    _, (dataset, y) = _part(cell.data_set, data, part)
    _, inputs = setting.make(dataset, models, num_classes=num_classes, seed=cell.seed)
    *layers, outputs = _states(network, inputs, setting.layers)
    predicted = outputs.argmax(axis=1).astype(np.int32)
    rows = stratified(y, GRAPH_POINTS)
    found: dict[str, Any] = {"accuracy": np.mean(predicted == y)}
    for number, h in enumerate(layers):
        graph = pack(knn_graph(h[rows], k=NEIGHBORS))
        for name, labels in (("true", y[rows]), ("predicted", predicted[rows])):
            found[f"graph/{name}/{number}"] = graph_convexity(graph, labels, num_classes=num_classes).macro
    sizes = {"train": len(points.y), "batch": batches.shape[1], "scored": len(y)}
    found |= {f"points/{name}": size for name, size in sizes.items()}
    found |= {"classes": num_classes, "steps": setting.steps, "seconds": seconds}
    return {name: float(value) for name, value in found.items()}


# What is trained ------------------------------------------------------------------------------------------------------


def forward(
    network: Encoder, inputs: Array, mask: Array | None, layers: tuple[str, ...]
) -> tuple[list[Float[Array, "b d"]], Float[Array, "b c"]]:
    """The pooled states of these layers, and the logits."""
    states = network.hidden_states(inputs, mask)
    valid = network.sequence_mask(inputs, mask)
    logits = network.head(list(states.values())[-1], valid)
    return [pooled_layer(states[layer], "mean", valid, layer) for layer in layers], logits


@cache  # one function object for equal settings, so that it is compiled once for all seeds
def _loss(layers: tuple[str, ...], weight: float) -> Callable[..., Array]:
    """Mean cross entropy + weight * the mean over layers of the graph convexity loss with a unit gradient."""

    def loss(network: Encoder, inputs: Any, y: Int[Array, "1 b"], key: Array) -> Array:
        states, logits = forward(network, *jax.tree.map(lambda array: array[0], inputs), layers)
        value = cross_entropy(logits, y[0])
        if weight == 0:
            return value
        return value + weight * jnp.mean(jnp.stack([graph_term(h, y[0]) for h in states]))

    return loss


def _states(network: Encoder, inputs: Any, layers: tuple[str, ...]) -> list[np.ndarray]:
    """The pooled states and the logits of all points, a batch at a time."""
    one = jax.tree.map(lambda array: jnp.asarray(array[:1]), inputs)
    states, _ = jax.eval_shape(partial(forward, layers=layers), network, *one)
    ends = np.cumsum([h.shape[1] for h in states])
    return np.split(features(_joined(layers), network, inputs, batch_size=100), ends, axis=1)


@cache
def _joined(layers: tuple[str, ...]) -> Callable[..., Array]:
    def joined(network: Encoder, inputs: Array, mask: Array | None) -> Array:
        states, logits = forward(network, inputs, mask, layers)
        return jnp.concatenate([*states, logits], axis=1)

    return joined


# Running --------------------------------------------------------------------------------------------------------------


@cache
def _part(name: str, data: Path, part: str) -> tuple[int, tuple[Dataset, np.ndarray]]:
    """The number of classes, and the points of a part with their classes by number."""
    classes, raw = read_raw(name, data, (part,))
    dataset, y = raw[part]
    every = SETTINGS[name].every
    kept = np.flatnonzero(y % every == 0)
    return len(classes[::every]), (take(dataset, kept), y[kept] // every)


def _run(options: Options, experiment: str, seeds: Sequence[int]) -> list[dict[str, Any]]:
    cells = [
        Cell(experiment, name, method, METHODS[method], seed)
        for name in options.data_sets
        for method in METHODS
        if method in options.methods
        for seed in seeds
    ]
    work = partial(measure, data=options.data, models=options.models)
    return run_cells(cells, work, options.out / f"{experiment}.jsonl", options.processes)
