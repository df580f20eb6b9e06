"""What a score of overlapping concepts is worth: its permutation null, and its error by the jackknife."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Int, PRNGKeyArray

from jaxconvex._internal.checks import as_points, is_concrete, positive_integer
from jaxconvex._internal.devices import outside_meshes
from jaxconvex.neighbors.distances import Metric
from jaxconvex.neighbors.knn import KNNGraph
from jaxconvex.paths.graph import Graph, PackedGraph
from jaxconvex.paths.layout import pack
from jaxconvex.scores.aggregates import ConvexityScore
from jaxconvex.scores.concepts import concept_convexity
from jaxconvex.statistics.intervals import upper_level
from jaxconvex.statistics.permutation import NullScore, null_score
from jaxconvex.statistics.resampling import JackknifeScore, jackknife_groups, jackknife_score, replicates_of

__all__ = ["concept_jackknife", "concept_null", "permuted_memberships"]

TOGETHER = 2_000_000  # memberships, of all permutations that are scored in one search


def concept_null(
    graph: KNNGraph | Graph | PackedGraph,
    memberships: Bool[ArrayLike, "n m"],
    *,
    key: PRNGKeyArray,
    num_permutations: int = 100,
    confidence: float = 0.95,
) -> NullScore:
    """Graph convexity of overlapping concepts at random places: `NullScore`, an entry for each concept.

    Each permutation deals the rows of the table to other points: so concepts keep their sizes and overlaps. Points in no
    concept stay so. Where concepts do not overlap that is the null of `permutation_null`.

    Args:
        graph: as for `concept_convexity`.
        memberships: (n, m), true or 1 where a point is in a concept.
        key: a JAX random key.
        num_permutations: number of permutations; the smallest p-value is 1 / (1 + this).
        confidence: of the interval, which holds that share of the permuted scores.

    Raises:
        ValueError: as `concept_convexity`; memberships that are no table; num_permutations below 1.

    Cost: that of `concept_convexity` for num_permutations times as many concepts, of which so many are scored in one search
    that they have two million members together.

    >>> from jaxconvex import knn_graph
    >>> x = np.arange(12.0)[:, None]
    >>> inside = np.stack([np.arange(12) < 6, np.arange(12) % 2 == 0], axis=1)
    >>> null = concept_null(knn_graph(x, k=2), inside, key=jax.random.key(0), num_permutations=19)
    >>> bool(null.per_class.p_value[0] == 0.05), bool(null.per_class.p_value[1] > 0.5)
    (True, True)
    """
    positive_integer(num_permutations, "num_permutations")
    table = _table(memberships, graph)
    packed = graph if isinstance(graph, PackedGraph) else pack(graph)
    observed = _host(concept_convexity(packed, table))
    number = table.shape[1]
    each = max(1, TOGETHER // max(int(table.sum()), 1))
    scores = np.full((number, num_permutations), np.nan)
    for begin in range(0, num_permutations, each):
        some = [permuted_memberships(table, i, key) for i in range(begin, min(begin + each, num_permutations))]
        found = np.asarray(concept_convexity(packed, np.concatenate(some, axis=1)).per_class, np.float64)
        scores[:, begin : begin + each] = found.reshape(-1, number).T
    pairs = 2.0 * np.asarray(observed.num_pairs)[:, None] * np.ones(num_permutations)
    lost = np.where(pairs > 0, (1 - scores) * pairs, 0)
    options: dict[str, Any] = {"num_classes": number, "confidence": confidence, "xp": np}
    return null_score(observed, lost, pairs, int(table.any(axis=1).sum()), packed, **options)


def permuted_memberships(
    memberships: Bool[np.ndarray, "n m"], number: int, key: PRNGKeyArray
) -> Bool[np.ndarray, "n m"]:
    """The table of the permutation of this number: its rows dealt to other points, but for those that are in no concept.

    >>> permuted_memberships(np.array([[True], [False], [True]]), 0, jax.random.key(0)).ravel().tolist()
    [True, False, True]
    """
    known = np.flatnonzero(memberships.any(axis=1))
    with outside_meshes():
        order = np.asarray(jax.random.permutation(jax.random.fold_in(key, number), len(known)))
    dealt = np.zeros_like(memberships)
    dealt[known] = memberships[known[order]]
    return dealt


def concept_jackknife(
    x: Float[ArrayLike, "n d"],
    memberships: Bool[ArrayLike, "n m"],
    *,
    key: PRNGKeyArray | None = None,
    groups: Int[ArrayLike, " n"] | None = None,
    num_groups: int = 10,
    k: int = 10,
    metric: Metric = "euclidean",
    mode: str = "union",
    duplicates: str = "link",
    confidence: float = 0.95,
) -> JackknifeScore:
    """Graph convexity of overlapping concepts with the error of sampling the points, as by `graph_jackknife`.

    Args:
        x: as for `knn_graph`.
        memberships: (n, m), true or 1 where a point is in a concept.
        key: a JAX random key, for groups that are stratified by the concepts, the first ones foremost.
        groups: the group of each point instead of key: see `graph_jackknife`.
        num_groups, k, metric, mode, duplicates, confidence: as for `graph_jackknife`.

    A concept with fewer than two points left in some replicate has no error (nan).

    Raises:
        ValueError: as `knn_graph` and `concept_convexity`; memberships that are no table; neither key nor groups.

    Cost: one neighbour search and, with ten groups, `concept_convexity` 16 times on fewer and fewer points.

    >>> x = jax.random.normal(jax.random.key(0), (60, 2))
    >>> inside = np.stack([np.arange(60) < 30, np.asarray(x[:, 0] > 0)], axis=1)
    >>> found = concept_jackknife(x, inside, key=jax.random.key(1), k=5)
    >>> found.per_class.estimate.shape, bool(found.micro.lower < found.micro.estimate < found.micro.upper)
    ((2,), True)
    """
    upper_level(confidence)  # before the work
    points, table = as_points(x), _table(memberships, x)
    if len(table) != len(points):
        raise ValueError(f"memberships must have a row a point, {len(points)}; got {len(table)}.")
    positive_integer(k, "k", most=len(points) - 1, why=f" for {len(points)} points (a point is no neighbour of itself)")
    if groups is None:
        if key is None:
            raise ValueError("the jackknife draws its groups at random: pass key=jax.random.key(0), or groups.")
        groups = jackknife_groups(table.T.astype(np.int32), key, num_groups=num_groups)

    def score(kept: Any, edges: Graph) -> ConvexityScore:
        return _host(concept_convexity(edges, table & np.reshape(kept, (-1, 1))))

    options: dict[str, Any] = {"k": k, "metric": metric, "mode": mode, "duplicates": duplicates}
    return jackknife_score(*replicates_of(score, x, np.asarray(groups), **options), confidence=confidence)


def _table(memberships: Any, beside: Any) -> Bool[np.ndarray, "n m"]:
    if not is_concrete(memberships, beside):
        raise ValueError("concepts need concrete arrays: call this outside jit, or permutation_null for labels.")
    table = np.asarray(memberships)
    if table.ndim != 2 or not np.isin(table, (0, 1)).all():
        raise ValueError(
            f"memberships must be a table (n, m) of true and false, or 1 and 0; got shape {table.shape} of type "
            f"{table.dtype}."
        )
    return table.astype(bool)


_host = partial(jax.tree.map, np.asarray)
