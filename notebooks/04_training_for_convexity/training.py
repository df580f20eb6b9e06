"""Training of the small networks: one compiled loop of steps for all seeds and weights of a method on a data set."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import networks
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray
from objectives import Context, Objective

if TYPE_CHECKING:
    from data import Points

__all__ = ["RECIPES", "Recipe", "draw_subset", "draw_batches", "train"]

STEPS = 600
CHUNK = 100  # steps in one call of the compiled loop
OPTIMIZER = optax.adamw(1e-3, weight_decay=1e-2)


class Recipe(NamedTuple):
    """How a data set is trained on: points a class of the pool (None: all), classes a batch, and points of each."""

    per_class: int | None
    classes: int
    points: int


RECIPES = {
    "fashion": Recipe(100, 10, 10),
    "speech": Recipe(100, 10, 10),
    "digits": Recipe(None, 10, 10),
    "text": Recipe(None, 16, 8),
    "blood": Recipe(100, 3, 33),
}


def train(
    objective: Objective,
    points: Points,
    *,
    num_classes: int,
    weight: float,
    seed: int,
    steps: int = STEPS,
    recipe: Recipe = RECIPES["fashion"],
    unlabelled: Float[np.ndarray, "m d"] | None = None,
) -> tuple[Any, float]:
    """The trained parameters and the seconds a step took (the median over chunks of 100, which leaves out the compiling).

    Args:
        objective: one of OBJECTIVES; its function is what the compiled loop is kept for.
        points: x [n, d] and y [n], the pool; the subset, the batches and the initial weights depend on the seed alone,
            so that runs of one seed differ only by the objective.
        weight: the objective's; traced, as the seed is, so that another value compiles nothing.
        unlabelled: points without labels; as many as a batch has are drawn for each step into `context.unlabelled`.
    """
    points = draw_subset(points, recipe.per_class, seed=seed)
    rows = draw_batches(points.y, recipe, steps=steps, seed=seed)
    others = None
    if unlabelled is not None:
        others = np.random.default_rng([seed, 2]).integers(len(unlabelled), size=rows.shape, dtype=np.int32)
        unlabelled = jnp.asarray(unlabelled)
    of_weights, of_steps = jax.random.split(jax.random.key(seed))
    params = networks.init(of_weights, networks.widths(points.x.shape[1], num_classes))
    state = params, OPTIMIZER.init(params)
    x, y, weight = jnp.asarray(points.x), jnp.asarray(points.y), jnp.float32(weight)
    numbers = np.arange(steps, dtype=np.int32)
    seconds = []
    for start in range(0, steps, CHUNK):
        part = slice(start, start + CHUNK)
        batches = numbers[part], rows[part], None if others is None else others[part]
        arguments = state, batches, x, y, unlabelled, of_steps, weight, jnp.float32(steps)
        began = time.perf_counter()
        state = jax.block_until_ready(_steps(objective, num_classes, *arguments))
        seconds.append((time.perf_counter() - began) / len(batches[0]))
    return state[0], float(np.median(seconds))


def draw_subset(points: Points, per_class: int | None, *, seed: int) -> Points:
    """At most `per_class` points of each class, drawn by the seed; all of them if it is None."""
    if per_class is None:
        return points
    order = np.random.default_rng([seed, 0]).permutation(len(points.y))
    y = np.asarray(points.y)[order]
    rows = np.concatenate([order[y == label][:per_class] for label in np.unique(y)])
    return points._replace(x=points.x[rows], y=points.y[rows])


def draw_batches(y: Int[np.ndarray, " n"], recipe: Recipe, *, steps: int, seed: int) -> Int[np.ndarray, "steps b"]:
    """The rows of each step's batch: every class as often as any other, and in a class every point as often.

    Classes, and the points of a class, are gone through in a random order again and again. A class with fewer points
    than a batch takes of it repeats them.
    """
    y = np.asarray(y)
    labels = np.unique(y)
    if len(labels) < recipe.classes:
        raise ValueError(f"a batch holds {recipe.classes} classes, but the points have {len(labels)}; choose no more.")
    random = np.random.default_rng([seed, 1])
    classes = _cycled(random, labels, steps * recipe.classes, recipe.classes)
    rows = np.empty((len(classes), recipe.points), np.int32)
    for label in labels:
        turns = np.flatnonzero(classes == label)
        rows[turns] = _cycled(random, np.flatnonzero(y == label), rows[turns].size).reshape(-1, recipe.points)
    return rows.reshape(steps, -1)


def _cycled(random: np.random.Generator, values: np.ndarray, count: int, together: int = 1) -> np.ndarray:
    """`count` values, in passes over all of them; whole groups of `together`, so that none holds a value twice."""
    whole = len(values) // together * together
    passes = -(-count // whole)
    return np.concatenate([random.permutation(values)[:whole] for _ in range(passes)])[:count]


@partial(jax.jit, static_argnums=(0, 1))
def _steps(
    objective: Objective,
    num_classes: int,
    state: Any,
    batches: Any,
    x: Array,
    y: Array,
    unlabelled: Array | None,
    key: PRNGKeyArray,
    weight: Array,
    steps: Array,
) -> Any:
    def step(state: Any, batch: Any) -> tuple[Any, None]:
        (params, moments), (number, rows, others) = state, batch
        context = Context(num_classes, number / steps, None if others is None else unlabelled[others])
        gradient = jax.grad(objective)(params, x[rows], y[rows], jax.random.fold_in(key, number), weight, context)
        updates, moments = OPTIMIZER.update(gradient, moments, params)
        return (optax.apply_updates(params, updates), moments), None

    return lax.scan(step, state, batches)[0]
