"""Simpler measures of a layer: probes, silhouette, neural collapse, hubness, for all points and for the single classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from jaxconvex._internal.checks import as_labels, as_points, positive_integer
from jaxconvex.evaluation.labelings import Labeling, encode, recall
from jaxconvex.neighbors.knn import knn_graph
from jaxconvex.statistics.measures import hubness
from jaxconvex.study.results import MeasureRow
from jaxconvex.study.training import softmax_regression

__all__ = ["Progress", "linear_probe", "nearest_neighbour_vote", "silhouette", "neural_collapse", "simple_measures"]

MEASURES = ("linear probe accuracy", "k-NN accuracy", "silhouette", "neural collapse NC1", "hubness")


TOGETHER = 64  # rows whose distances to all points are held at once


Progress = Callable[[int, int], object]  # called after a layer: its number from 1, their number


def linear_probe(
    train: Float[ArrayLike, "n d"],
    train_labels: Int[ArrayLike, " n"],
    test: Float[ArrayLike, "m d"],
    num_classes: int,
) -> Int[np.ndarray, " m"]:
    """The class of each test point by `softmax_regression` on the training points: the column of the largest logit.

    Args:
        train, test: features, one row a point.
        train_labels: 0 to num_classes - 1.
        num_classes: the number of logits.

    >>> linear_probe(jnp.array([[0.0], [1.0], [2.0], [3.0]]), jnp.array([0, 0, 1, 1]), jnp.array([[-1.0], [4.0]]), 2)
    array([0, 1])
    """
    train, labels, test = _train_and_test(train, train_labels, test, num_classes)
    kernel, bias = softmax_regression(train, labels, num_classes=num_classes)
    return np.asarray(jnp.argmax(test @ kernel + bias, axis=1)).astype(int)


def nearest_neighbour_vote(
    train: Float[ArrayLike, "n d"],
    train_labels: Int[ArrayLike, " n"],
    test: Float[ArrayLike, "m d"],
    num_classes: int,
    *,
    k: int = 10,
) -> Int[np.ndarray, " m"]:
    """The class of each test point by the vote of its k nearest training points, in Euclidean distance.

    Of classes with equally many votes that of the nearest neighbour among theirs is taken; of equally near points the
    first comes first.

    Args:
        train, test: features, one row a point.
        train_labels: 0 to num_classes - 1.
        num_classes: the number of classes.
        k: voters, 1 to n.

    Raises:
        ValueError: labels that do not fit, k above n.

    Cost: n m d operations; memory for 64 rows of n distances.

    >>> train, labels = jnp.array([[0.0], [1.0], [2.0], [3.0]]), jnp.array([1, 0, 0, 1])
    >>> nearest_neighbour_vote(train, labels, jnp.array([[0.4], [1.4]]), 2, k=2)
    array([1, 0])

    Source: Cover and Hart, Nearest neighbor pattern classification, IEEE Transactions on Information Theory, 1967.
    """
    train, labels, test = _train_and_test(train, train_labels, test, num_classes)
    positive_integer(k, "k", most=len(train), why=f" for {len(train)} training points")
    return np.asarray(_vote(train, labels, test, num_classes, k)).astype(int)


def silhouette(x: Float[ArrayLike, "n d"], labels: Int[ArrayLike, " n"]) -> Float[np.ndarray, " n"]:
    """The silhouette of each point, (b - a) / max(a, b) in [-1, 1]: 1 deep inside its class, below 0 nearer to another.

    a is the point's mean Euclidean distance to the other points of its class, b the least of its mean distances to the
    points of another class.

    Args:
        x: points, one a row.
        labels: the class of each, 0 and up.

    The only point of its class gets 0, and so does a point with a = b = 0.

    Raises:
        ValueError: labels that do not fit, or fewer than two classes.

    Cost: n^2 d operations, by differences, so that classes that have nearly collapsed keep their digits; memory for 64
        rows of n distances.

    >>> silhouette(jnp.array([[0.0], [1.0], [4.0], [5.0]]), jnp.array([0, 0, 1, 1])).round(3)
    array([0.778, 0.714, 0.714, 0.778], dtype=float32)

    Source: Rousseeuw, Silhouettes: a graphical aid to the interpretation and validation of cluster analysis, Journal of
        Computational and Applied Mathematics, 1987.
    """
    points, codes, num_classes = _classes_of(x, labels, "the silhouette")
    return np.asarray(_silhouette(points, jnp.asarray(codes), num_classes))


def neural_collapse(x: Float[ArrayLike, "n d"], labels: Int[ArrayLike, " n"]) -> float:
    """NC1 = tr(S_W pinv(S_B)) / C: the scatter within classes, in units of that between them; 0 when classes are points.

    S_W is the mean over classes of the covariance of their points, S_B that of the C class means. Every class counts
    the same, which for classes of one size is the authors' formula.

    Args:
        x: points, one a row.
        labels: the class of each, 0 and up.

    Computed in float64 on the host, along the C - 1 directions between the means at most. Equal means of all classes
    give infinity.

    Raises:
        ValueError: labels that do not fit, or fewer than two classes.

    Cost: n d C operations.

    >>> neural_collapse(jnp.array([[0.0, 1.0], [2.0, 1.0], [6.0, 1.0], [8.0, 1.0]]), jnp.array([0, 0, 1, 1])).__round__(4)
    0.0556

    Source: Papyan, Han and Donoho, Prevalence of neural collapse during the terminal phase of deep learning training,
        PNAS 117, 2020.
    """
    points, codes, num_classes = _classes_of(x, labels, "neural collapse")
    values = np.asarray(points, np.float64)
    share = np.zeros((num_classes, len(values)))
    share[codes, np.arange(len(values))] = 1
    share /= share.sum(axis=1, keepdims=True)
    means = share @ values
    between = means - means.mean(axis=0)
    _, spread, directions = np.linalg.svd(between, full_matrices=False)
    # The means have one sum, so of as many directions as there are classes the last is rounding.
    kept = np.arange(len(spread)) < num_classes - 1
    kept &= spread > max(between.shape) * np.finfo(np.float64).eps * np.abs(values).max(initial=0)
    if not kept.any():
        return float("inf")
    within = share @ np.square((values - means[codes]) @ directions[kept].T)
    return float(np.sum(within.mean(axis=0) / (spread[kept] ** 2 / num_classes)) / num_classes)


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


@partial(jax.jit, static_argnames=("num_classes", "k"))
def _vote(train: Array, labels: Array, test: Array, num_classes: int, k: int) -> Int[Array, " m"]:
    def of_point(squared: Float[Array, " n"]) -> Int[Array, ""]:
        _, nearest = lax.top_k(-squared, k)  # of equals the first
        voters = labels[nearest]
        votes = jnp.bincount(voters, length=num_classes)[voters]
        return voters[jnp.argmax(votes)]  # the first, that is nearest, of those with most votes

    return lax.map(lambda point: of_point(_squared_distances(point, train)), test, batch_size=TOGETHER)


@partial(jax.jit, static_argnames="num_classes")
def _silhouette(x: Array, labels: Array, num_classes: int) -> Float[Array, " n"]:
    members = jax.nn.one_hot(labels, num_classes, dtype=x.dtype)
    sizes = members.sum(axis=0)

    def of_point(point_and_label: tuple[Array, Array]) -> Float[Array, ""]:
        point, label = point_and_label
        totals = jnp.matmul(jnp.sqrt(_squared_distances(point, x)), members, precision=lax.Precision.HIGHEST)
        own = jnp.arange(num_classes) == label
        a = totals[label] / jnp.maximum(sizes[label] - 1, 1)
        b = jnp.min(jnp.where(own, jnp.inf, totals / sizes))
        larger = jnp.maximum(a, b)
        return jnp.where((sizes[label] > 1) & (larger > 0), (b - a) / jnp.where(larger > 0, larger, 1), 0)

    return lax.map(of_point, (x, labels), batch_size=TOGETHER)


def _squared_distances(point: Float[Array, " d"], x: Float[Array, "n d"]) -> Float[Array, " n"]:
    return jnp.sum(jnp.square(x - point), axis=1)


def _train_and_test(train: Any, train_labels: Any, test: Any, num_classes: int) -> tuple[Array, Array, Array]:
    train, test = as_points(train, "train"), as_points(test, "test")
    labels = as_labels(train_labels, len(train), num_classes, "train_labels")
    if np.any(np.asarray(labels) < 0):
        raise ValueError("train_labels must give every point a class; got -1, the background. Leave those points out.")
    if train.shape[1] != test.shape[1]:
        raise ValueError(f"train and test must have the same features; got {train.shape[1]} and {test.shape[1]}.")
    return train, labels, test


def _classes_of(x: Any, labels: Any, what: str) -> tuple[Array, Int[np.ndarray, " n"], int]:
    """The points, their classes numbered without gaps, and the number of classes."""
    points = as_points(x)
    labels = np.asarray(as_labels(labels, len(points), int(np.max(labels, initial=0)) + 1))
    classes, codes = np.unique(labels, return_inverse=True)
    if len(classes) < 2 or classes[0] < 0:
        raise ValueError(f"{what} needs points of at least two classes, all 0 or above; got the classes {classes}.")
    return points, codes.astype(np.int32), len(classes)


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
