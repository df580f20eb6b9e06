"""Measures of labelled points beside convexity: probes and votes, silhouette, neural collapse, labels of neighbours."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from jaxconvex._internal.checks import as_labels, as_points, positive_integer
from jaxconvex.neighbors.knn import KNNGraph
from jaxconvex.neighbors.lists import checked_neighbors
from jaxconvex.statistics.regression import softmax_regression

__all__ = ["knn_accuracy", "label_overlap", "linear_probe", "nearest_neighbour_vote", "neural_collapse", "silhouette"]

TOGETHER = 64  # rows whose distances to all points are held at once
ABSENT = -2


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


def knn_accuracy(knn: KNNGraph, labels: Int[ArrayLike, " n"]) -> Float[np.ndarray, " n"]:
    """1 for each point whose neighbours vote for its class, 0 for others; nan for background. The mean is the accuracy.

    No point votes for itself, so this is the accuracy with one point left out. Of classes with equally many votes that of
    the nearest neighbour among theirs is taken. Background has no vote; a point without voters gets 0.

    Args:
        knn: the neighbours of each point.
        labels: the class of each, 0 and up; -1 is background.

    >>> knn_accuracy(KNNGraph(np.array([[1, 2], [0, 2], [1, 0]]), np.ones((3, 2))), jnp.array([0, 0, 1]))
    array([1., 1., 0.])
    """
    voters, own = _labels_of_neighbours(knn, labels)
    votes = ((voters[:, :, None] == voters[:, None, :]) & (voters >= 0)[:, :, None]).sum(axis=2)
    first = np.argmax(votes, axis=1)  # the nearest of those with most votes
    right = (np.take_along_axis(voters, first[:, None], axis=1)[:, 0] == own) & (votes.max(axis=1) > 0)
    return np.where(own >= 0, right.astype(float), np.nan)


def label_overlap(knn: KNNGraph, labels: Int[ArrayLike, " n"]) -> Float[np.ndarray, " n"]:
    """The share of each point's neighbours that have its label; nan for background and for points without neighbours.

    Neighbours that are background have another label.

    Args:
        knn: the neighbours of each point.
        labels: the class of each, 0 and up; -1 is background.

    >>> label_overlap(KNNGraph(np.array([[1, 2], [0, 2], [1, 0]]), np.ones((3, 2))), jnp.array([0, 0, 1])).tolist()
    [0.5, 0.5, 0.0]

    Source: Doimo, Glielmo, Ansuini and Laio, Hierarchical nucleation in deep neural networks, NeurIPS 2020.
    """
    found, own = _labels_of_neighbours(knn, labels)
    number = (found > ABSENT).sum(axis=1)
    return np.where(own >= 0, (found == own[:, None]).sum(axis=1) / np.where(number > 0, number, np.nan), np.nan)


def _labels_of_neighbours(knn: KNNGraph, labels: Any) -> tuple[Int[np.ndarray, "n k"], Int[np.ndarray, " n"]]:
    """The labels of each point's neighbours, ABSENT where there is none, and of the point itself."""
    indices = np.asarray(checked_neighbors(knn).indices)
    own = np.asarray(as_labels(labels, len(indices), int(np.max(labels, initial=0)) + 1))
    return np.where(indices >= 0, own[indices], ABSENT), own


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
