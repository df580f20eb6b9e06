"""Lists of neighbours, from whatever library: checked, and in the order of a `KNNGraph`."""

from __future__ import annotations

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool

from jaxconvex._internal import loops
from jaxconvex._internal.checks import as_array, as_indices, as_lengths, is_concrete, local_values, raise_for_rows
from jaxconvex.neighbors.knn import KNNGraph

__all__ = ["checked_neighbors", "neighbors_graph"]

LOOKED_AT = 2**24  # ways over third points, to see whether lengths are distances
NEGATIVE = (
    "must not be negative; {count} hold negative lengths ({which}). Similarities grow where points come nearer: turn them "
    "into distances first, cosines for example by sqrt(2 - 2 cos)."
)
MISSING = "must be numbers; {count} hold nan ({which}). An absent neighbour has index -1 or distance inf."
OUTSIDE = (
    "must be indices of rows, 0 to {last}; {count} hold others at a finite distance ({which}). An absent neighbour has "
    "index -1 or distance inf."
)


def neighbors_graph(indices: Any, distances: Any) -> KNNGraph:
    """The neighbours that another library found (umap, pynndescent, faiss, scikit-learn), checked: `KNNGraph`.

    Args:
        indices: (n, k), row i the neighbours of point i among the same n points, in any order; any type of integers.
        distances: (n, k), their distances: lengths that obey the triangle inequality. So take the root of the squared
            distances of faiss, and turn similarities into distances. Where an edge is longer than the way over a third
            point a warning says so: then that way, and not the edge, is the shortest path between its ends.

    A point in its own list is left out, and so is what has index -1 or distance inf: that is how libraries mark an absent
    neighbour. Of a neighbour listed twice the least distance counts. What is left stands nearest first, ties to the lowest
    index; the rest of each row is padded with index -1 and distance inf.

    Works under jit and vmap, where shapes stay as they are. Lists that are wrong give nan distances there.

    Raises:
        ValueError: indices that are no integers, shapes that differ; negative or nan distances, distances beyond the range
            of their type, and indices outside 0..n-1 at a finite distance, with the rows.

    Cost: n k^2 comparisons; on concrete lists up to 2^24 more, to see whether the lengths are distances.

    >>> graph = neighbors_graph([[0, 2, 1], [0, 0, 3], [0, 2, -1]], [[0., 3., 1.], [1., 1., np.inf], [3., 0., 0.]])
    >>> graph.indices.tolist(), graph.distances.tolist()
    ([[1, 2, -1], [0, -1, -1], [0, -1, -1]], [[1.0, 3.0, inf], [1.0, inf, inf], [3.0, inf, inf]])
    """
    knn = checked_neighbors(KNNGraph(indices, distances))
    if is_concrete(knn):
        rows = np.any(np.isnan(local_values(knn.distances)), axis=1)
        raise_for_rows(rows, "distances", MISSING)
        _tell_detours(local_values(knn.indices), local_values(knn.distances))
    return _sorted(knn)


def _tell_detours(indices: np.ndarray, distances: np.ndarray) -> None:
    """A warning where edges of some rows are longer than the way over another neighbour: such lengths are no distances."""
    n, k = indices.shape
    rows = np.unique(np.linspace(0, n - 1, min(n, max(16, LOOKED_AT // k**3))).astype(int))
    longer = np.zeros((len(rows), k), bool)
    for over in range(k):
        middle = indices[rows, over]
        match = (indices[rows][:, :, None] == indices[middle][:, None, :]) & (middle >= 0)[:, None, None]
        beyond = np.min(np.where(match, distances[middle][:, None, :], np.inf), axis=2)
        longer |= distances[rows] > (distances[rows, over][:, None] + beyond) * (1 + 1e-5)
    listed = np.count_nonzero(np.isfinite(distances[rows]))
    if longer.any():
        warnings.warn(
            f"{100 * np.count_nonzero(longer) / listed:.2g}% of the edges looked at are longer than the way over a third "
            "point, so these are no distances, perhaps squared ones or 1 - cos: take np.sqrt(distances), or "
            "np.sqrt(2 * distances).",
            stacklevel=3,
        )


def checked_neighbors(knn: KNNGraph) -> KNNGraph:
    """The lists with what is no neighbour at index -1 and distance inf, each neighbour once; all nan where they are wrong.

    Raises ValueError for what `neighbors_graph` names, but for nan: a length of nan stays, and reaches the result.
    """
    indices, given = as_array(knn.indices, "indices"), as_array(knn.distances, "distances")
    if indices.ndim != 2 or indices.shape != given.shape or 0 in indices.shape:
        raise ValueError(
            "indices and distances must both have one row a point and one column a neighbour, (n, k); got shapes "
            f"{indices.shape} and {given.shape}."
        )
    n = len(indices)
    indices = as_indices(indices, "indices", n)
    distances = as_lengths(given, "distances", absent=indices == -1)
    found, negative, outside = _checked(indices, distances)
    if is_concrete(found, indices, distances):
        raise_for_rows(local_values(negative), "distances", NEGATIVE)
        raise_for_rows(local_values(outside), "indices", OUTSIDE, last=n - 1)
    return found


@jax.jit
def _checked(indices: Array, distances: Array) -> tuple[KNNGraph, Bool[Array, " n"], Bool[Array, " n"]]:
    """The lists, and whether each row holds a negative length, and an index that is none."""
    n, k = indices.shape
    own = jnp.arange(n, dtype=jnp.int32)[:, None]
    there = (indices != -1) & (distances != jnp.inf) & (indices != own)
    negative = there & (distances < 0)
    outside = there & ((indices < 0) | (indices >= n))
    columns = jnp.arange(k)

    def strike(j: Array, there: Array) -> Array:
        other = distances[:, j, None]
        sooner = (other < distances) | ((other == distances) & (j < columns))
        return there & ~((indices[:, j, None] == indices) & sooner)

    there = loops.fori_loop(0, k, strike, there)
    broken = jnp.any(negative | outside)
    listed = jnp.where(there, jnp.clip(indices, 0, n - 1), -1)
    lengths = jnp.where(broken, jnp.nan, jnp.where(there, jnp.abs(distances), jnp.inf))
    return KNNGraph(listed, lengths), jnp.any(negative, axis=1), jnp.any(outside, axis=1)


@jax.jit
def _sorted(knn: KNNGraph) -> KNNGraph:
    distances, indices = lax.sort((knn.distances, knn.indices), num_keys=2)
    return KNNGraph(indices, distances)
