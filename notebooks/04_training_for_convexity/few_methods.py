"""Ways to learn from few labelled and many unlabelled points, each a function of a task, a setting and a seed.

All train the same small network for the same number of steps, on batches of labelled points and as many unlabelled ones.
Those that read a graph give the unlabelled points soft targets first; a target counts by its confidence, 1 - its entropy
/ log(number of classes), which is also the weight of Iscen et al., Label propagation for deep semi-supervised learning,
2019.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import objectives
from networks import hidden, logits
from objectives import Context, cross_entropy, mean_over_layers
from sklearn.semi_supervised import LabelSpreading
from training import Recipe, train

from jaxconvex.losses import graph_convexity_loss, path_memberships

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int

__all__ = ["METHODS", "SETTINGS", "Outcome", "Task"]

STEPS = 300
ROUNDS = 2  # of targets from the graph of a network trained before
CLASSES = 16  # of a batch, at most


class Task(NamedTuple):
    """Points of which the first are labelled."""

    x: Float[np.ndarray, "n d"]
    y: Int[np.ndarray, " l"]  # of the first l
    num_classes: int

    @property
    def labels(self) -> Int[np.ndarray, " n"]:
        return np.concatenate([self.y, np.full(len(self.x) - len(self.y), -1)]).astype(np.int32)


class Outcome(NamedTuple):
    """The trained network, and the soft targets of the unlabelled points where there were any."""

    params: Any
    targets: Float[np.ndarray, "u c"] | None = None


Method = Callable[[Task, Any, int], Outcome]
Targets = Callable[[Any, Task], "Float[np.ndarray, 'u c']"]  # of a representation of all points of the task


# Without targets ------------------------------------------------------------------------------------------------------


def _labelled_only(objective: Any, task: Task, weight: float, seed: int) -> Outcome:
    return Outcome(_train(objective, task, weight, seed))


def _entropy(params: Any, x: Array, y: Array, key: Any, weight: Array, context: Context) -> Array:
    """Cross entropy + weight * the mean entropy of the unlabelled points' predictions.

    Source: Grandvalet and Bengio, Semi-supervised learning by entropy minimization, 2004.
    """
    log_p = jax.nn.log_softmax(logits(params, context.unlabelled))
    entropy = -jnp.mean(jnp.sum(jnp.exp(log_p) * log_p, axis=1))
    return cross_entropy(logits(params, x), y) + context.progress * weight * entropy


def _pseudo_labels(params: Any, x: Array, y: Array, key: Any, threshold: Array, context: Context) -> Array:
    """Cross entropy + that of unlabelled points with their likeliest class, where its probability is above the threshold.

    Source: Lee, Pseudo-label, 2013; the threshold as in Sohn et al., FixMatch, 2020, here without augmentation.
    """
    log_p = jnp.max(jax.nn.log_softmax(logits(params, context.unlabelled)), axis=1)
    term = -jnp.mean(jnp.where(log_p > jnp.log(threshold), log_p, 0))
    return cross_entropy(logits(params, x), y) + context.progress * term


def _graph_convexity(params: Any, x: Array, y: Array, key: Any, weight: Array, context: Context) -> Array:
    """Cross entropy + weight * the loss of the hidden layers' graphs of labelled and unlabelled points together.

    An unlabelled point belongs to the classes with the probabilities that the network gives it.
    """
    both = jnp.concatenate([x, context.unlabelled])
    known = jax.nn.one_hot(y, context.num_classes)
    shares = jnp.concatenate([known, jax.nn.softmax(logits(params, context.unlabelled))])

    def term(h: Array) -> Array:
        return graph_convexity_loss(h, shares, k=5, temperature=0.2)

    outputs, value = mean_over_layers(params, both, term)
    return cross_entropy(outputs[: len(x)], y) + context.progress * weight * value


def _with_unlabelled(objective: Any, task: Task, weight: float, seed: int) -> Outcome:
    return Outcome(_train(objective, task, weight, seed, task.x[len(task.y) :]))


# With targets from a graph --------------------------------------------------------------------------------------------


def propagated(x: Any, task: Task, *, k: int, alpha: float) -> Float[np.ndarray, "u c"]:
    """Label spreading on the k-nearest-neighbour graph.

    Source: Zhou et al., Learning with local and global consistency, 2003.
    """
    spreading = LabelSpreading(kernel="knn", n_neighbors=k, alpha=alpha, max_iter=100)
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = spreading.fit(np.asarray(x), task.labels).label_distributions_
    return np.nan_to_num(spread[len(task.y) :]).astype(np.float32)


def on_paths(x: Any, task: Task, *, k: int, temperature: float) -> Float[np.ndarray, "u c"]:
    """Ours: the shares of the walks between labelled points."""
    shares = path_memberships(x, task.labels, num_classes=task.num_classes, k=k, temperature=temperature)
    return np.asarray(shares)[len(task.y) :]


def _from_inputs(targets: Targets, task: Task, setting: dict[str, float], seed: int) -> Outcome:
    found = targets(task.x, task, **setting)
    return Outcome(_train_on(found, task, seed), found)


def _from_layers(targets: Targets, task: Task, setting: dict[str, float], seed: int) -> Outcome:
    """Targets from the graph of the last hidden layer: first of a network that saw labels only, then of its successor."""
    params, found = _train(objectives.nothing, task, 0.0, seed), None
    for _ in range(ROUNDS):
        found = targets(_last_layer(params, task.x), task, **setting)
        params = _train_on(found, task, seed)
    return Outcome(params, found)


@jax.jit
def _last_layer(params: Any, x: Array) -> Array:
    return hidden(params, x)[-1]


def _train_on(targets: Float[np.ndarray, "u c"], task: Task, seed: int) -> Any:
    rows = np.concatenate([task.x[len(task.y) :], confident(targets)], axis=1)
    return _train(_soft_targets, task, 1.0, seed, rows)


def confident(targets: Float[np.ndarray, "u c"]) -> Float[np.ndarray, "u c"]:
    """The targets times their confidence."""
    log_p = np.log(np.maximum(targets, 1e-12))
    weight = 1 + (targets * log_p).sum(axis=1, keepdims=True) / np.log(targets.shape[1])
    return (targets * np.clip(weight, 0, 1)).astype(np.float32)  # rows of zeros stay


def _soft_targets(params: Any, x: Array, y: Array, key: Any, weight: Array, context: Context) -> Array:
    """Cross entropy + weight * that of the unlabelled points, whose rows hold their targets behind their features."""
    features, targets = jnp.split(context.unlabelled, [x.shape[1]], axis=1)
    term = -jnp.sum(targets * jax.nn.log_softmax(logits(params, features))) / jnp.maximum(jnp.sum(targets), 1)
    return cross_entropy(logits(params, x), y) + weight * term


# Training -------------------------------------------------------------------------------------------------------------


class _Labelled(NamedTuple):
    x: Any
    y: Any


def _train(objective: Any, task: Task, weight: float, seed: int, unlabelled: Any = None) -> Any:
    per_class = len(task.y) // task.num_classes
    classes = min(task.num_classes, CLASSES)
    points = max(per_class, 48 // classes)  # a class with fewer repeats them
    return train(
        objective,
        _Labelled(task.x[: len(task.y)], task.y),
        num_classes=task.num_classes,
        weight=weight,
        seed=seed,
        steps=STEPS,
        recipe=Recipe(None, classes, points),
        unlabelled=unlabelled,
    )[0]


# Four settings a method, the same budget for all; "nothing" has none to choose.
SPREADING = tuple({"k": k, "alpha": alpha} for k, alpha in ((5, 0.5), (10, 0.5), (10, 0.9), (20, 0.8)))
PATHS = tuple({"k": k, "temperature": t} for k, t in ((5, 0.3), (10, 0.1), (10, 0.5), (20, 2.0)))
METHODS: dict[str, Method] = {
    **{name: partial(_labelled_only, objective) for name, objective in objectives.OBJECTIVES.items()},
    "entropy": partial(_with_unlabelled, _entropy),
    "pseudo_labels": partial(_with_unlabelled, _pseudo_labels),
    "graph_convexity": partial(_with_unlabelled, _graph_convexity),
    "propagation": partial(_from_inputs, propagated),
    "propagation_in_layers": partial(_from_layers, propagated),
    "paths": partial(_from_inputs, on_paths),
    "paths_in_layers": partial(_from_layers, on_paths),
}
SETTINGS: dict[str, tuple[Any, ...]] = {
    **objectives.GRIDS,
    "entropy": (0.03, 0.1, 0.3, 1.0),
    "pseudo_labels": (0.5, 0.7, 0.9, 0.95),
    "graph_convexity": (0.3, 1.0, 3.0, 10.0),
    "propagation": SPREADING,
    "propagation_in_layers": SPREADING,
    "paths": PATHS,
    "paths_in_layers": PATHS,
}
