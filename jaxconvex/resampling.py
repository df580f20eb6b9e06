"""What resamples the points: groups, leave-a-group-out graphs, the jackknife of graph convexity, the bootstrap.

These functions run on the host; their statistics are NumPy's float64.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Int, PRNGKeyArray

from jaxconvex.checks import as_labels, as_points, positive_integer
from jaxconvex.distances import Metric
from jaxconvex.neighbor_lists import neighbors_graph
from jaxconvex.neighbors import KNNGraph, knn_graph
from jaxconvex.paths.graph import undirected
from jaxconvex.scores import ConvexityScore, graph_convexity
from jaxconvex.statistics import Interval, score_interval, upper_level

__all__ = [
    "BootstrapScore",
    "JackknifeScore",
    "Replicates",
    "bootstrap",
    "graph_jackknife",
    "jackknife_groups",
    "leave_group_out_graphs",
    "spare_neighbors",
]


class Replicates(NamedTuple):
    """The scores of the points without each group in turn; the first axis is the group."""

    per_class: Float[np.ndarray, "g c"]
    micro: Float[np.ndarray, " g"]
    macro: Float[np.ndarray, " g"]


class JackknifeScore(NamedTuple):
    """Intervals of the scores by the jackknife, and the replicates they come from (for paired comparisons)."""

    per_class: Interval
    micro: Interval
    macro: Interval
    replicates: Replicates
    joint: Replicates | None  # without two groups at a time


class BootstrapScore(NamedTuple):
    """Intervals of the scores by the bootstrap."""

    per_class: Interval
    micro: Interval
    macro: Interval


def jackknife_groups(
    labels: Int[ArrayLike, "*labelings n"], key: PRNGKeyArray, *, num_groups: int = 10
) -> Int[np.ndarray, " n"]:
    """The group, 0 to num_groups - 1, of each point: random, and stratified by class, background included.

    Shuffled points are dealt out class by class, each class going on where the one before it stopped. So the sizes of
    the groups differ by at most 1, within every class and in all.

    Args:
        labels: the class of each point; or several labelings, one a row, which stratify together: exactly by the first,
            and by each further one within the classes of those before it.
        key: a JAX random key. The same labels and key give the same groups, which paired comparisons need.
        num_groups: number of groups, at least 2. With fewer points than that every point is a group of its own.

    Raises:
        ValueError: num_groups below 2.

    >>> groups = jackknife_groups(np.repeat([0, 1], 10), jax.random.key(0), num_groups=5)
    >>> np.bincount(groups[:10]).tolist(), np.bincount(groups[10:]).tolist()
    ([2, 2, 2, 2, 2], [2, 2, 2, 2, 2])
    """
    if positive_integer(num_groups, "num_groups") < 2:
        raise ValueError("num_groups must be at least 2, so that points are left when a group is taken out; got 1.")
    strata = np.atleast_2d(np.asarray(labels))
    n = strata.shape[1]
    order = np.lexsort((np.asarray(jax.random.permutation(key, n)), *strata[::-1]))
    groups = np.empty(n, np.int32)
    groups[order] = np.arange(n) % num_groups
    return groups


def spare_neighbors(k: int, num_points: int) -> int:
    """How many neighbours to search so that nearly all points keep k of them when a fifth of all points is left out.

    >>> spare_neighbors(10, 1000), spare_neighbors(10, 20)
    (28, 19)
    """
    return min(2 * k + 8, num_points - 1)


def leave_group_out_graphs(
    knn: KNNGraph, x: Float[ArrayLike, "n d"], groups: Int[ArrayLike, " n"], *, k: int, metric: Metric = "euclidean"
) -> Iterator[tuple[Bool[np.ndarray, " n"], KNNGraph]]:
    """For each group in turn: which points are left, and the graph of their k nearest neighbours among themselves.

    The neighbours are exactly those that `knn_graph` finds on the points left. All points keep their rows and numbers,
    so that every graph has one shape and nothing is compiled again: the points left out are isolated, padded with index
    -1 and distance inf. Give them label -1, and the scores are those of the points left.

    Args:
        knn: neighbours of all points, more than k of them, as `knn_graph(x, k=spare_neighbors(k, n))` gives: what is
            left of each list is the new list. Where fewer than k are left, that group's graph is searched afresh.
        x: the points.
        groups: the group of each point, any integers, two groups or more. `groups // 2` leaves out two at a time.
        k: neighbours of the new graph; rows are padded where only k points or fewer are left.
        metric: that of knn.

    Lists are nearest first, so a smaller k needs no pass of its own: cut the columns.

    Raises:
        ValueError: groups of another length, or a single group.

    Cost: one pass over knn for each group.

    >>> x = jnp.array([[0.], [1.], [3.], [7.]])
    >>> for kept, graph in leave_group_out_graphs(knn_graph(x, k=3), x, np.array([0, 0, 1, 1]), k=1):
    ...     print(np.flatnonzero(kept).tolist(), graph.indices.ravel().tolist())
    [2, 3] [-1, -1, 3, 2]
    [0, 1] [1, 0, -1, -1]
    """
    group, (indices, distances) = np.asarray(groups), map(np.asarray, neighbors_graph(*knn))
    positive_integer(k, "k")
    names, shape = np.unique(group), (len(indices), k)
    if group.shape != (len(indices),) or len(names) < 2:
        raise ValueError(
            f"groups must hold one integer for each of {len(indices)} points and name two groups or more; "
            f"got shape {group.shape} and {len(names)} group(s)."
        )
    for name in names:
        kept = group != name
        width = min(k, int(kept.sum()) - 1)
        listed = kept[:, None] & kept[indices] & (indices >= 0)
        if listed[kept].sum(axis=1).min() >= width:
            column = np.argsort(~listed, axis=1, kind="stable")[:, :k]
            listed, neighbors, lengths = (np.take_along_axis(a, column, axis=1) for a in (listed, indices, distances))
            neighbors, lengths = np.where(listed, neighbors, -1), np.where(listed, lengths, np.inf)
        else:
            members, fresh = np.flatnonzero(kept), knn_graph(np.asarray(x)[kept], k=width, metric=metric)
            neighbors, lengths = np.full(shape, -1, np.int32), np.full(shape, np.inf, distances.dtype)
            neighbors[kept, :width], lengths[kept, :width] = members[fresh.indices], fresh.distances
        yield kept, KNNGraph(jnp.asarray(neighbors), jnp.asarray(lengths))


def graph_jackknife(
    x: Float[ArrayLike, "n d"],
    labels: Int[ArrayLike, " n"],
    *,
    num_classes: int,
    key: PRNGKeyArray | None = None,
    groups: Int[ArrayLike, " n"] | None = None,
    num_groups: int = 10,
    k: int = 10,
    metric: Metric = "euclidean",
    mode: str = "union",
    duplicates: str = "link",
    confidence: float = 0.95,
) -> JackknifeScore:
    """Graph convexity with the error of sampling the points: graph and paths are rebuilt without each group of points.

    Args:
        x, labels, num_classes: as for `knn_graph` and `graph_convexity`.
        key: a JAX random key, for the groups.
        groups: the group of each point, any integers, instead of key: for paired comparisons, or points in clusters.
        num_groups: see `jackknife_groups`.
        k, metric, mode, duplicates: as for `knn_graph` and `undirected`.
        confidence: of the intervals, which are those of `score_interval`.

    A class with fewer than two points left in some replicate has no error (nan); micro and macro leave it out there.

    Raises:
        ValueError: as `knn_graph` and `graph_convexity`; neither key nor groups.

    Cost: one neighbour search and, with ten groups, the path searches of 1 + 10 x 0.9^2 + 5 x 0.8^2 = 12 graphs.

    >>> x = jax.random.normal(jax.random.key(0), (60, 2))
    >>> labels = jnp.repeat(jnp.arange(2), 30)
    >>> found = graph_jackknife(x, labels, num_classes=2, key=jax.random.key(1), k=5)
    >>> found.replicates.per_class.shape, bool(found.macro.lower < found.macro.estimate < found.macro.upper)
    ((10, 2), True)
    """
    upper_level(confidence)  # before the work
    n = len(as_points(x))
    classes = np.asarray(as_labels(labels, n, num_classes))
    positive_integer(k, "k", most=n - 1, why=f" for {n} points (a point is no neighbour of itself)")
    if groups is None:
        if key is None:
            raise ValueError("the jackknife draws its groups at random: pass key=jax.random.key(0), or groups.")
        groups = jackknife_groups(classes, key, num_groups=num_groups)
    group = np.unique(np.asarray(groups), return_inverse=True)[1]
    knn = knn_graph(x, k=spare_neighbors(k, n), metric=metric)

    def score(kept: ArrayLike, graph: KNNGraph) -> ConvexityScore:
        edges = undirected(graph, mode=mode, duplicates=duplicates)
        return graph_convexity(edges, jnp.where(kept, classes, -1), num_classes=num_classes)

    def replicate(groups: np.ndarray) -> Replicates:
        scores = [score(*left) for left in leave_group_out_graphs(knn, x, groups, k=k, metric=metric)]
        return Replicates(*(np.array([getattr(s, name) for s in scores], np.float64) for name in Replicates._fields))

    full = score(True, KNNGraph(knn.indices[:, :k], knn.distances[:, :k]))
    replicates = replicate(group)
    joint = replicate(group // 2) if len(replicates.micro) >= 4 else None
    sizes = np.asarray(full.num_points)
    scored = np.sum(sizes * (np.asarray(full.num_pairs) > 0))

    def interval(name: str, num_points: np.ndarray) -> Interval:
        pairs = None if joint is None else getattr(joint, name)
        return score_interval(
            getattr(full, name), getattr(replicates, name), num_points, joint=pairs, confidence=confidence
        )

    return JackknifeScore(
        interval("per_class", sizes), interval("micro", scored), interval("macro", scored), replicates, joint
    )


def bootstrap(
    pair_scores: Sequence[tuple[Int[np.ndarray, " m"], Float[np.ndarray, "m m"]]],
    key: PRNGKeyArray,
    *,
    num_samples: int = 1000,
    confidence: float = 0.95,
) -> BootstrapScore:
    """Bootstrap intervals of the scores for the graph held fixed: sum_ij w_i w_j s_ij / sum_{i != j} w_i w_j.

    w counts how often each point of a class is drawn, in as many draws as the class has points. Points are reweighted,
    never duplicated, for duplicates would change the graph. The interval holds the middle of the samples (percentiles).

    Args:
        pair_scores: for each class its members and the matrix of their pair scores, as `graph_pair_scores` gives.
        key: a JAX random key.
        num_samples: number of samples.
        confidence: between 0 and 1.

    That the graph depends on the points too is not covered: see `graph_jackknife`. Classes of fewer than three points
    have no error (nan); samples that draw one point of a class alone leave that class out.

    Cost: num_samples m^2 operations a class, in one matrix product.

    >>> scores = np.array([[np.nan, 1, 0.5], [1, np.nan, 0], [0.5, 0, np.nan]])
    >>> bootstrap([(np.arange(3), scores)], jax.random.key(0)).per_class.estimate.tolist()
    [0.5]
    """
    positive_integer(num_samples, "num_samples")
    level = upper_level(confidence)
    num_classes = len(pair_scores)
    sums, pairs = np.zeros((2, num_samples + 1, num_classes))  # the first row is for the points as they are
    for c, (members, scores) in enumerate(pair_scores):
        m = len(members)
        if m < 2:
            continue
        draws = np.asarray(jax.random.randint(jax.random.fold_in(key, c), (num_samples, m), 0, m))
        cells = draws + m * np.arange(num_samples)[:, None]
        drawn = np.bincount(cells.ravel(), minlength=num_samples * m).reshape(num_samples, m)
        counts = np.concatenate([np.ones((1, m)), drawn])
        scores = np.where(np.eye(m, dtype=bool), 0, np.asarray(scores, np.float64))
        sums[:, c] = np.sum((counts @ scores) * counts, axis=1)
        pairs[:, c] = m**2 - np.sum(np.square(counts), axis=1)
    few = np.array([len(members) < 3 for members, _ in pair_scores])

    def interval(values: np.ndarray, undefined: ArrayLike) -> Interval:
        samples = np.where(undefined, 0, values[1:])
        spread = np.nanstd(samples, axis=0), *np.nanquantile(samples, [1 - level, level], axis=0)
        return Interval(values[0], *(np.where(undefined, np.nan, value) for value in spread))

    per_class, micro, macro = _aggregates(sums, pairs)
    return BootstrapScore(interval(per_class, few), interval(micro, few.all()), interval(macro, few.all()))


def _aggregates(sums: Float[np.ndarray, "... c"], pairs: Float[np.ndarray, "... c"]) -> tuple[np.ndarray, ...]:
    """Scores per class, micro and macro, from the sums of pair scores and the numbers of pairs; nan without pairs."""
    with np.errstate(divide="ignore", invalid="ignore"):
        per_class = np.where(pairs > 0, sums / pairs, np.nan)
        micro = sums.sum(axis=-1) / pairs.sum(axis=-1)
        macro = np.nansum(per_class, axis=-1) / np.sum(pairs > 0, axis=-1)
    return per_class, micro, macro
