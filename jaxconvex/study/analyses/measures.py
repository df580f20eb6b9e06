"""Simpler measures of every layer, for all points and for the single classes, as rows of a study."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxconvex.evaluation.labelings import Labeling, encode, recall
from jaxconvex.neighbors.knn import knn_graph
from jaxconvex.statistics.labelled import linear_probe, nearest_neighbour_vote, neural_collapse, silhouette
from jaxconvex.statistics.measures import hubness
from jaxconvex.study.results import MeasureRow

__all__ = ["Progress", "simple_measures"]

MEASURES = ("linear probe accuracy", "k-NN accuracy", "silhouette", "neural collapse NC1", "hubness")


Progress = Callable[[int, int], object]  # called after a layer: its number from 1, their number


def simple_measures(
    train: Mapping[str, Float[np.ndarray, "n d"]],
    train_labels: Any,
    test: Mapping[str, Float[np.ndarray, "m d"]],
    test_labels: Any,
    *,
    network: str,
    seed: int | None,
    k: int = 10,
    progress: Progress | None = None,
) -> list[MeasureRow]:
    """Five simpler measures of every layer: a row for each of `MEASURES`, and for the first three one for each class.

    Args:
        train, test: features by layer, one row a point, in order of depth, of the same layers; read one at a time.
        train_labels, test_labels: the true classes, integers or strings; -1 and its points are left out.
        network, seed: what the rows say.
        k: the neighbours that vote, and those of the graph whose hubness is told.
        progress: called after each layer.

    The probe and the voters are of the training points, and their accuracy is that on the test points; for a class it
    is the recall. Silhouette (for a class: the mean of its points), neural collapse and hubness are of the test points,
    as convexity is. Nothing is drawn at random.

    Raises:
        ValueError: labels or layers that do not fit, k not below the number of points.

    Cost: for each layer an L-BFGS of at most 500 steps of n d C operations, and m (n + m) d operations.

    >>> x = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32) + 9 * np.eye(3)[np.arange(40) % 2]
    >>> labels = np.array(["a", "b"])[np.arange(40) % 2]
    >>> rows = simple_measures({"1": x}, labels, {"1": x}, labels, network="pretrained", seed=None)
    >>> [(row.measure, row.label, row.value) for row in rows][:2]
    [('linear probe accuracy', None, 1.0), ('linear probe accuracy', 'a', 1.0)]
    """
    if list(train) != list(test):
        raise ValueError(f"train and test must have the same layers; got {list(train)} and {list(test)}.")
    known = [
        encode(labels, name=name) for labels, name in ((train_labels, "train_labels"), (test_labels, "test_labels"))
    ]
    if len({type(name) for labeling in known for name in labeling.classes}) > 1:
        raise ValueError(
            "train_labels and test_labels must name classes alike; got strings in one, numbers in the other."
        )
    classes = tuple(sorted({name for labeling in known for name in labeling.classes}))
    for_training, truth = (encode(labels, classes=classes) for labels in (train_labels, test_labels))
    trained, tested = for_training.codes >= 0, truth.codes >= 0
    codes, truth = for_training.codes[trained], truth._replace(codes=truth.codes[tested])
    rows: list[MeasureRow] = []
    for index, name in enumerate(test):
        x, points = (_rows(layers[name], name, kept) for layers, kept in ((train, trained), (test, tested)))
        results: dict[str, dict[int | str | None, float]] = {
            "linear probe accuracy": _accuracies(truth, linear_probe(x, codes, points, len(classes))),
            "k-NN accuracy": _accuracies(truth, nearest_neighbour_vote(x, codes, points, len(classes), k=k)),
            "silhouette": _means(truth, silhouette(points, truth.codes)),
            "neural collapse NC1": {None: neural_collapse(points, truth.codes)},
            "hubness": {None: hubness(knn_graph(jnp.asarray(points), k=k))},
        }
        for measure, values in results.items():
            rows += [MeasureRow(measure, network, seed, name, index, label, value) for label, value in values.items()]
        if progress is not None:
            progress(index + 1, len(test))
    return rows


def _rows(layer: Any, name: str, kept: np.ndarray) -> Float[np.ndarray, "n d"]:
    values = np.asarray(layer)
    if len(values) != len(kept):
        raise ValueError(f"layer {name!r} must have a row for each of {len(kept)} labels; got {len(values)} rows.")
    return values[kept]


def _accuracies(truth: Labeling, predicted: np.ndarray) -> dict[int | str | None, float]:
    """The accuracy of all points, and the recall of each class that has some."""
    recalls = recall(truth, truth._replace(codes=predicted))
    accuracies: dict[int | str | None, float] = {None: float(np.mean(truth.codes == predicted))}
    return accuracies | {
        c: float(value) for c, value in zip(truth.classes, recalls, strict=True) if not np.isnan(value)
    }


def _means(truth: Labeling, values: np.ndarray) -> dict[int | str | None, float]:
    """The mean of all points, and that of each class that has some."""
    wide = values.astype(np.float64)
    means: dict[int | str | None, float] = {None: float(wide.mean())}
    for code in np.unique(truth.codes):
        means[truth.classes[code]] = float(wide[truth.codes == code].mean())
    return means
