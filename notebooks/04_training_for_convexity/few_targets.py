"""Soft targets of unlabelled points from a graph: label propagation's, and those of the paths between labelled points."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from sklearn.neighbors import kneighbors_graph
from sklearn.semi_supervised import LabelSpreading

from jaxconvex.losses import path_memberships

if TYPE_CHECKING:
    from jaxtyping import Float, Int

__all__ = ["Task", "confident", "on_paths", "propagated", "propagated_here"]


class Task(NamedTuple):
    """Points of which the first are labelled."""

    x: Float[np.ndarray, "n d"]
    y: Int[np.ndarray, " l"]  # of the first l
    num_classes: int

    @property
    def labels(self) -> Int[np.ndarray, " n"]:
        return np.concatenate([self.y, np.full(len(self.x) - len(self.y), -1)]).astype(np.int32)


def propagated(x: Any, task: Task, *, k: int, alpha: float) -> Float[np.ndarray, "u c"]:
    """Label spreading on the k-nearest-neighbour graph.

    Source: Zhou et al., Learning with local and global consistency, 2003.
    """
    spreading = LabelSpreading(kernel="knn", n_neighbors=k, alpha=alpha, max_iter=100)
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = spreading.fit(np.asarray(x), task.labels).label_distributions_
    return np.nan_to_num(spread[len(task.y) :]).astype(np.float32)


def propagated_here(x: Any, task: Task, *, k: int, alpha: float) -> Float[np.ndarray, "u c"]:
    """The same in closed form, (I - alpha S)^-1 Y, on the graph that ours reads: linked if either lists the other."""
    edge = kneighbors_graph(np.asarray(x), k).toarray() > 0
    edge |= edge.T
    degree = edge.sum(axis=1)
    s = edge / np.sqrt(degree[:, None] * degree)
    known = np.eye(task.num_classes)[task.y]
    walks = np.linalg.solve(np.eye(len(s)) - alpha * s, np.eye(len(s), len(known)))[len(known) :] @ known
    return (walks / np.maximum(walks.sum(axis=1, keepdims=True), 1e-30)).astype(np.float32)


def on_paths(x: Any, task: Task, **setting: float) -> Float[np.ndarray, "u c"]:
    """Ours: the shares of the walks between labelled points."""
    shares = path_memberships(x, task.labels, num_classes=task.num_classes, **setting)
    return np.asarray(shares)[len(task.y) :]


def confident(targets: Float[np.ndarray, "u c"]) -> Float[np.ndarray, "u c"]:
    """The targets times their confidence."""
    log_p = np.log(np.maximum(targets, 1e-12))
    weight = 1 + (targets * log_p).sum(axis=1, keepdims=True) / np.log(targets.shape[1])
    return (targets * np.clip(weight, 0, 1)).astype(np.float32)  # rows of zeros stay
