"""What the tests of several losses share: batches on a grid, and points that gradients move."""

from __future__ import annotations

from collections.abc import Callable

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Int

from jaxconvex import graph_convexity, knn_graph

# 14 points on a grid of 27 places, so that many coincide and many distances are equal.
GRID = {
    "points": st.lists(st.tuples(*3 * [st.integers(-1, 1)]), min_size=14, max_size=14),
    "labels": st.lists(st.integers(-1, 2), min_size=14, max_size=14),
    "where": st.lists(st.booleans(), min_size=14, max_size=14),
}


def exact_scores_of_moved_points(loss: Callable[[Array, Int[np.ndarray, " n"]], Array]) -> tuple[float, float]:
    """Graph convexity (k=4) of three mixed classes before and after 60 steps of Adam on the points themselves."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 40).astype(np.int32)
    x = jnp.asarray(rng.normal(size=(40, 2)) + 0.7 * labels[:, None], jnp.float32)
    optimiser = optax.adam(0.03)

    def exact(x: Array) -> float:
        return float(graph_convexity(knn_graph(x, k=4), labels, num_classes=3).micro)

    @jax.jit
    def step(x: Array, state: optax.OptState) -> tuple[Array, optax.OptState]:
        updates, state = optimiser.update(jax.grad(lambda x: loss(x, labels))(x), state)
        return optax.apply_updates(x, updates), state

    before, state = exact(x), optimiser.init(x)
    for _ in range(60):
        x, state = step(x, state)
    return before, exact(x)
