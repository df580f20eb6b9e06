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
from data import Points
from few_targets import Task, confident, on_paths, propagated, propagated_here
from networks import hidden, logits, rest
from objectives import Context, cross_entropy
from training import Recipe, train

from jaxconvex.losses import graph_convexity_loss, path_memberships, with_unit_gradient

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int

__all__ = ["METHODS", "SETTINGS", "Outcome"]

STEPS = 300
ROUNDS = 2  # of targets from the graph of a network trained before
CLASSES = 16  # of a batch, at most
CONFIDENT = 0.47  # halfway between the means of text, the least confident where the graph helps, and of blood


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
    """Cross entropy + weight * the loss of the last hidden layer's graph of labelled and unlabelled points together.

    An unlabelled point belongs to the class that the network gives more than half of the probability, else to none: the
    probabilities themselves, a product of matrices a class, would take more than the time of a run.
    """
    both = jnp.concatenate([x, context.unlabelled])
    layers = hidden(params, both)
    outputs = rest(params, len(layers) - 1, layers[-1])
    likeliest = jnp.where(jnp.max(jax.nn.softmax(outputs), axis=1) > 0.5, jnp.argmax(outputs, axis=1), -1)
    labels = jnp.concatenate([y, likeliest[len(x) :]])
    term = graph_convexity_loss(layers[-1], labels, k=5, temperature=0.3)
    return cross_entropy(outputs[: len(x)], y) + context.progress * weight * term


def _with_unlabelled(objective: Any, task: Task, weight: float, seed: int) -> Outcome:
    return Outcome(_train(objective, task, weight, seed, task.x[len(task.y) :]))


# With targets from a graph --------------------------------------------------------------------------------------------


def _from_inputs(targets: Targets, task: Task, setting: dict[str, float], seed: int) -> Outcome:
    found = targets(task.x, task, **setting)
    return Outcome(_train_on(found, task, seed), found)


def _beside(objective: Any, targets: Targets, task: Task, setting: dict[str, float], seed: int) -> Outcome:
    """Targets from the graph of the inputs, and an objective that has another term beside them, by `weight`."""
    setting = dict(setting)
    weight = setting.pop("weight")
    found = targets(task.x, task, **setting)
    return Outcome(_train_on(found, task, seed, objective, weight), found)


def _from_layers(targets: Targets, task: Task, setting: dict[str, float], seed: int) -> Outcome:
    """Targets from the graph of the last hidden layer: first of a network that saw labels only, then of its successor."""
    params, found = _train(objectives.nothing, task, 0.0, seed), None
    for _ in range(ROUNDS):
        found = targets(_last_layer(params, task.x), task, **setting)
        params = _train_on(found, task, seed)
    return Outcome(params, found)


def _if_trusted(task: Task, setting: dict[str, float], seed: int) -> Outcome:
    """Ours, but labels only where the graph is wrong about left-out labelled points significantly more often than the
    network: where the points that the network alone is right about exceed those of the graph alone by two standard errors.
    """
    options = {"num_classes": task.num_classes, **setting}
    shares = path_memberships(task.x, task.labels, leave_one_out=True, **options)
    of_graph = np.argmax(shares[: len(task.y)], axis=1) == task.y
    of_network = _left_out_right(task, seed)
    lost, won = np.sum(of_network & ~of_graph), np.sum(of_graph & ~of_network)
    if lost - won > 2 * np.sqrt(lost + won):
        return Outcome(_train(objectives.nothing, task, 0.0, seed))
    return _from_inputs(on_paths, task, setting, seed)


def _mixed_if_confident(task: Task, setting: tuple[dict[str, Any], Any], seed: int) -> Outcome:
    """`paths_mixed` where the targets of one and the same graph are confident, in the mean; else `mixup_and_contrastive`."""
    with_graph, without = setting
    if np.mean(confident(on_paths(task.x, task, **PATHS[2])).sum(axis=1)) < CONFIDENT:
        return _labelled_only(_mixup_and_contrastive, task, without, seed)
    return _beside(_mixed_targets_and_contrastive, on_paths, task, with_graph, seed)


def _left_out_right(task: Task, seed: int) -> Bool[np.ndarray, " l"]:
    """Whether the network that learns from labels only is right, with one point of each class left out at a time."""
    labelled = task.x[: len(task.y)]
    place = np.arange(len(task.y)) % (len(task.y) // task.num_classes)  # classes stand one after the other
    right = np.zeros(len(task.y), bool)
    for left_out in (place == fold for fold in np.unique(place)):
        part = Task(labelled[~left_out], task.y[~left_out], task.num_classes)
        params = _train(objectives.nothing, part, 0.0, seed)
        right[left_out] = np.argmax(logits(params, labelled[left_out]), axis=1) == task.y[left_out]
    return right


@jax.jit
def _last_layer(params: Any, x: Array) -> Array:
    return hidden(params, x)[-1]


def _train_on(
    targets: Float[np.ndarray, "u c"], task: Task, seed: int, objective: Any = None, weight: float = 1.0
) -> Any:
    rows = np.concatenate([task.x[len(task.y) :], confident(targets)], axis=1)
    return _train(objective or _soft_targets, task, weight, seed, rows)


def _soft_targets(params: Any, x: Array, y: Array, key: Any, weight: Array, context: Context) -> Array:
    """Cross entropy + weight * that of the unlabelled points, whose rows hold their targets behind their features."""
    features, targets = jnp.split(context.unlabelled, [x.shape[1]], axis=1)
    term = -jnp.sum(targets * jax.nn.log_softmax(logits(params, features))) / jnp.maximum(jnp.sum(targets), 1)
    return cross_entropy(logits(params, x), y) + weight * term


def _soft_targets_and_contrastive(params: Any, x: Array, y: Array, key: Any, weight: Array, context: Context) -> Array:
    """`_soft_targets` by 1, and the supervised contrastive loss of the labelled points by the weight."""
    _, term = objectives.mean_over_layers(params, x, lambda h: objectives.supervised_contrastive_term(h, y))
    return _soft_targets(params, x, y, key, jnp.ones(()), context) + weight * term


def _mixup_and_contrastive(params: Any, x: Array, y: Array, key: Any, weight: Array, context: Context) -> Array:
    """Manifold Mixup with shares from Beta(alpha, alpha), and the supervised contrastive loss by its own weight."""
    alpha, contrastive = weight
    _, term = objectives.mean_over_layers(params, x, lambda h: objectives.supervised_contrastive_term(h, y))
    return objectives.mixed_cross_entropy(params, x, y, key, alpha) + contrastive * term


def _mixed_targets_and_contrastive(params: Any, x: Array, y: Array, key: Any, weight: Array, context: Context) -> Array:
    """Manifold Mixup of labelled and unlabelled points together, and the contrastive loss of all that have a class.

    A labelled point is mixed with its class and an unlabelled one with its confident target; all labelled points weigh as
    much as all unlabelled ones. For the contrastive loss an unlabelled point has the class of its target, as below.
    """
    alpha, contrastive = weight
    features, targets = jnp.split(context.unlabelled, [x.shape[1]], axis=1)
    of_labelled = jax.nn.one_hot(y, context.num_classes) / len(y)
    of_both = jnp.concatenate([of_labelled, targets / jnp.maximum(jnp.sum(targets), 1)])
    both = jnp.concatenate([x, features])
    outputs, share, order = objectives.mixed_logits(params, both, key, alpha)
    mixed = -jnp.sum((share * of_both + (1 - share) * of_both[order]) * jax.nn.log_softmax(outputs))
    labels = jnp.concatenate([y, _confident_classes(targets)])
    _, term = objectives.mean_over_layers(params, both, lambda h: objectives.supervised_contrastive_term(h, labels))
    return mixed + contrastive * term


def _confident_classes(targets: Float[Array, "u c"]) -> Int[Array, " u"]:
    """The class that has more than half of a point's confident target; if none has, a number below 0 of the point's own."""
    none = -1 - jnp.arange(len(targets))
    return jnp.where(jnp.max(targets, axis=1) > 0.5, jnp.argmax(targets, axis=1), none)


def _soft_targets_and_graph(params: Any, x: Array, y: Array, key: Any, weight: Array, context: Context) -> Array:
    """`_soft_targets` by 1, and the graph convexity loss of the last two layers by the weight, with a unit gradient.

    An unlabelled point has the class of its target, as above.
    """
    features, targets = jnp.split(context.unlabelled, [x.shape[1]], axis=1)
    labels = jnp.concatenate([y, _confident_classes(targets)])
    layers = hidden(params, jnp.concatenate([x, features]))[1:]
    terms = [with_unit_gradient(lambda h: graph_convexity_loss(h, labels), h) for h in layers]
    return _soft_targets(params, x, y, key, jnp.ones(()), context) + weight * jnp.mean(jnp.stack(terms))


# Training -------------------------------------------------------------------------------------------------------------


def _train(objective: Any, task: Task, weight: float, seed: int, unlabelled: Any = None) -> Any:
    per_class = len(task.y) // task.num_classes
    classes = min(task.num_classes, CLASSES)
    points = max(per_class, 48 // classes)  # a class with fewer repeats them
    return train(
        objective,
        Points(task.x[: len(task.y)], task.y),
        num_classes=task.num_classes,
        weight=weight,
        seed=seed,
        steps=STEPS,
        recipe=Recipe(None, classes, points),
        unlabelled=unlabelled,
    )[0]


# Four settings a method, the same budget for all; "nothing" has none to choose.
SPREADING = tuple({"k": k, "alpha": alpha} for k, alpha in ((5, 0.5), (10, 0.5), (10, 0.9), (20, 0.8)))
CLOSED_FORM = tuple({"k": k, "alpha": alpha} for k, alpha in ((5, 0.9), (10, 0.6), (10, 0.8), (10, 0.95)))
PATHS = (
    {"k": 5, "temperature": 3.0, "hop": 0.1, "nearness": 0.3},
    {"k": 10, "temperature": 10.0, "hop": 0.1, "nearness": 0.3},
    {"k": 10, "temperature": 10.0, "hop": 0.1, "nearness": 0.6},
    {"k": 10, "temperature": 0.5, "hop": 0.1, "nearness": 0.5},
)
# Two of each, beside two weights of the contrastive loss.
SPREADING_AND = tuple({**s, "weight": w} for s in CLOSED_FORM[:2] for w in (0.3, 1.0))
PATHS_AND = tuple({**s, "weight": w} for s in PATHS[2:] for w in (0.3, 1.0))
MIXED = ((4.0, 1.0), (4.0, 3.0))  # alpha, weight
MIXUP_AND = ((1.0, 1.0), (1.0, 3.0), *MIXED)
PATHS_MIXED = tuple({**s, "weight": w} for s in PATHS[2:] for w in MIXED)
METHODS: dict[str, Method] = {
    **{name: partial(_labelled_only, objective) for name, objective in objectives.OBJECTIVES.items()},
    "entropy": partial(_with_unlabelled, _entropy),
    "pseudo_labels": partial(_with_unlabelled, _pseudo_labels),
    "graph_convexity": partial(_with_unlabelled, _graph_convexity),
    "propagation": partial(_from_inputs, propagated),
    "propagation_here": partial(_from_inputs, propagated_here),
    "propagation_in_layers": partial(_from_layers, propagated_here),
    "paths": partial(_from_inputs, on_paths),
    "paths_if_trusted": _if_trusted,
    "paths_in_layers": partial(_from_layers, on_paths),
    "propagation_and_contrastive": partial(_beside, _soft_targets_and_contrastive, propagated_here),
    "paths_and_contrastive": partial(_beside, _soft_targets_and_contrastive, on_paths),
    "paths_and_graph": partial(_beside, _soft_targets_and_graph, on_paths),
    "mixup_and_contrastive": partial(_labelled_only, _mixup_and_contrastive),
    "propagation_mixed": partial(_beside, _mixed_targets_and_contrastive, propagated_here),
    "paths_mixed": partial(_beside, _mixed_targets_and_contrastive, on_paths),
    "paths_mixed_if_confident": _mixed_if_confident,
}
SETTINGS: dict[str, tuple[Any, ...]] = {
    **objectives.GRIDS,
    "entropy": (0.03, 0.1, 0.3, 1.0),
    "pseudo_labels": (0.5, 0.7, 0.9, 0.95),
    "graph_convexity": (0.3, 1.0, 3.0, 10.0),
    "propagation": SPREADING,
    "propagation_here": CLOSED_FORM,
    "propagation_in_layers": CLOSED_FORM,
    "paths": PATHS,
    "paths_if_trusted": PATHS,
    "paths_in_layers": PATHS,
    "propagation_and_contrastive": SPREADING_AND,
    "paths_and_contrastive": PATHS_AND,
    "paths_and_graph": PATHS_AND,
    "mixup_and_contrastive": MIXUP_AND,
    "propagation_mixed": tuple({**s, "weight": w} for s in CLOSED_FORM[:2] for w in MIXED),
    "paths_mixed": PATHS_MIXED,
    "paths_mixed_if_confident": tuple(zip(PATHS_MIXED, MIXUP_AND, strict=True)),
}
