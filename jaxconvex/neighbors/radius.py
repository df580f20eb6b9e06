"""The neighbors of every point within a radius."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxconvex._internal.checks import (
    as_points,
    is_concrete,
    positive_integer,
)
from jaxconvex.neighbors.distances import Metric
from jaxconvex.neighbors.knn import knn_graph
from jaxconvex.neighbors.search import KNNGraph

__all__ = ["epsilon_graph"]


def epsilon_graph(
    x: Float[Array, "n d"], *, radius: float | Array, max_degree: int | None = None, metric: Metric = "euclidean"
) -> KNNGraph:
    """The neighbours of every point within a radius: `KNNGraph`, padded with index -1 and distance inf.

    Args:
        x: points, one a row.
        radius: largest distance of neighbours, in units of the metric; above 0.
        max_degree: columns of the result, 1 to n - 1. By default the largest number of neighbours there is; under jit
            that is not known, so name it there. If a point has more neighbours than that, all distances are nan.
        metric: as for `knn_graph`.

    Raises:
        ValueError: as `knn_graph`; radius not above 0; max_degree missing under jit.

    Cost: that of `knn_graph` with k = max_degree + 1; where it is not named, with k = 32, then 128, 512, ...

    >>> epsilon_graph(jnp.array([[0.], [1.], [3.]]), radius=1.5).indices.tolist()
    [[1], [0], [-1]]
    """
    n = as_points(x).shape[0]
    if is_concrete(radius) and not np.all(np.asarray(radius) > 0):
        raise ValueError(f"radius must be above 0, in units of the metric; got {radius}.")
    positive_integer(n - 1, "the number of points less one")
    if max_degree is None:
        if not is_concrete(x, radius):
            raise ValueError("max_degree must be named under jit: how many neighbours the radius holds is not known.")
        searched = min(32, n - 1)
        found = knn_graph(x, k=searched, metric=metric)
        while searched < n - 1 and bool(jnp.any(found.distances[:, -1] <= radius)):
            searched = min(4 * searched, n - 1)
            found = knn_graph(x, k=searched, metric=metric)
        max_degree = max(1, int(jnp.max(jnp.sum(found.distances <= radius, axis=1))))
    else:
        positive_integer(max_degree, "max_degree", most=n - 1, why=f" for {n} points")
        found = knn_graph(x, k=min(max_degree + 1, n - 1), metric=metric)
    return _within(found, radius, max_degree)


@partial(jax.jit, static_argnames="max_degree")
def _within(found: KNNGraph, radius: Any, max_degree: int) -> KNNGraph:
    inside = found.distances <= radius
    crowded = jnp.any(inside[:, max_degree:]) | jnp.any(jnp.isnan(found.distances))
    indices = jnp.where(inside, found.indices, -1)[:, :max_degree]
    distances = jnp.where(inside, found.distances, jnp.inf)[:, :max_degree]
    return KNNGraph(indices, jnp.where(crowded, jnp.nan, distances))
