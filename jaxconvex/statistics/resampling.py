"""Scores without some of the points: groups, leave-a-group-out graphs, the jackknife of graph convexity.

The jackknife runs under jit too; on concrete arrays statistics are NumPy's float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import sequential_vmap
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from jaxconvex._internal.checks import as_array, as_labels, as_points, is_concrete, known_values, positive_integer
from jaxconvex._internal.devices import in_mesh, outside_meshes
from jaxconvex._internal.functions import frozen
from jaxconvex._internal.loops import cond, scan
from jaxconvex.neighbors.distances import Metric
from jaxconvex.neighbors.knn import KNNGraph, knn_graph, neighbors_of_first
from jaxconvex.neighbors.lists import neighbors_graph
from jaxconvex.paths.graph import Graph, undirected
from jaxconvex.scores.graph import ConvexityScore, graph_convexity
from jaxconvex.statistics.intervals import Interval, score_interval, upper_level

__all__ = [
    "JackknifeScore",
    "Replicates",
    "graph_jackknife",
    "jackknife_groups",
    "jackknife_score",
    "leave_group_out_graphs",
    "macro_of_kept",
    "replicates_of",
    "spare_neighbors",
]


class Replicates(NamedTuple):
    """The scores of the points without each group in turn; the first axis is the group."""

    per_class: Float[Any, "g c"]
    micro: Float[Any, " g"]
    macro: Float[Any, " g"]


class JackknifeScore(NamedTuple):
    """Intervals of the scores by the jackknife, and the replicates they come from (for paired comparisons)."""

    per_class: Interval
    micro: Interval
    macro: Interval
    replicates: Replicates
    joint: Replicates | None  # without two groups at a time


def jackknife_groups(
    labels: Int[ArrayLike, "*labelings n"],
    key: PRNGKeyArray,
    *,
    num_groups: int = 10,
    units: Int[ArrayLike, " n"] | None = None,
) -> Int[Any, " n"]:
    """The group, 0 to num_groups - 1, of each point: random, and stratified by class, background included.

    Shuffled points are dealt out class by class, each class going on where the one before it stopped. So the sizes of
    the groups differ by at most 1, within every class and in all.

    Args:
        labels: the class of each point; or several labelings, one a row, which stratify together: exactly by the first,
            and by each further one within the classes of those before it.
        key: a JAX random key. The same labels and key give the same groups, which paired comparisons need.
        num_groups: number of groups, at least 2. With fewer points than that every point is a group of its own.
        units: integers, the same for points that were sampled together (frames of a video, sentences of a text). Units
            stay whole: the largest first, each goes to the group that has least of its classes. So groups are as even
            as whole units let them be. Known values, also under jit.

    Raises:
        ValueError: num_groups below 2; units of another length, or a single one.

    >>> groups = jackknife_groups(np.repeat([0, 1], 10), jax.random.key(0), num_groups=5)
    >>> np.bincount(groups[:10]).tolist(), np.bincount(groups[10:]).tolist()
    ([2, 2, 2, 2, 2], [2, 2, 2, 2, 2])
    """
    if positive_integer(num_groups, "num_groups") < 2:
        raise ValueError("num_groups must be at least 2, so that points are left when a group is taken out; got 1.")
    if units is not None:
        return _whole_units(np.atleast_2d(labels)[0], np.asarray(units), key, num_groups)
    concrete = is_concrete(labels, key)
    with outside_meshes() if concrete else nullcontext(), known_values():
        groups = _dealt(jnp.atleast_2d(jnp.asarray(labels)), key, num_groups)
    return np.asarray(groups) if concrete else groups


@partial(jax.jit, static_argnames="num_groups")
def _dealt(strata: Array, key: PRNGKeyArray, num_groups: int) -> Int[Array, " n"]:
    n = strata.shape[1]
    order = jnp.lexsort((jax.random.permutation(key, n), *strata[::-1]))
    return jnp.zeros(n, jnp.int32).at[order].set(jnp.arange(n, dtype=jnp.int32) % num_groups)


def _whole_units(labels: np.ndarray, units: np.ndarray, key: PRNGKeyArray, num_groups: int) -> Int[np.ndarray, " n"]:
    names, unit = np.unique(units, return_inverse=True)
    if units.shape != labels.shape or len(names) < 2:
        raise ValueError(
            f"units must hold one integer for each of {len(labels)} points and name two units or more; "
            f"got shape {units.shape} and {len(names)} unit(s)."
        )
    classes, code = np.unique(labels, return_inverse=True)
    counts = np.zeros((len(names), len(classes)))
    np.add.at(counts, (unit, code), 1)
    shares = counts / counts.sum(axis=0)
    dealt, sizes = np.zeros((2, min(num_groups, len(names)), len(classes)))
    group = np.zeros(len(names), np.int32)
    with outside_meshes():
        shuffled = np.asarray(jax.random.permutation(key, len(names)))
    for one in shuffled[np.argsort(-counts[shuffled].sum(axis=1), kind="stable")]:
        # The least growth of the squared shares of its classes; then the fewest points. An empty group grows least.
        group[one] = place = np.lexsort((sizes.sum(axis=1), (dealt @ shares[one]).round(12)))[0]
        dealt[place] += shares[one]
        sizes[place] += counts[one]
    return group[unit]


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
    group, knn = np.asarray(groups), neighbors_graph(*knn)
    positive_integer(k, "k")
    names, shape = np.unique(group), (len(knn.indices), k)
    if group.shape != shape[:1] or len(names) < 2:
        raise ValueError(
            f"groups must hold one integer for each of {shape[0]} points and name two groups or more; "
            f"got shape {group.shape} and {len(names)} group(s)."
        )
    for name in names:
        kept = group != name
        graph, short = _left_over(knn, kept, k)
        if short:
            members, width = np.flatnonzero(kept), min(k, int(kept.sum()) - 1)
            fresh = knn_graph(np.asarray(x)[kept], k=width, metric=metric)
            neighbors, lengths = np.full(shape, -1, np.int32), np.full(shape, np.inf, knn.distances.dtype)
            neighbors[kept, :width], lengths[kept, :width] = members[fresh.indices], fresh.distances
            graph = KNNGraph(jnp.asarray(neighbors), jnp.asarray(lengths))
        yield kept, graph


@partial(jax.jit, static_argnames="k")
def _left_over(knn: KNNGraph, kept: Bool[Array, " n"], k: int) -> tuple[KNNGraph, Bool[Array, ""]]:
    """Of each list the first k points that are kept, and whether some list holds too few of them."""
    rows = jnp.arange(len(knn.indices))[:, None]
    listed = kept[:, None] & kept[knn.indices] & (knn.indices >= 0)
    number = jnp.cumsum(listed, axis=1)
    column = jnp.where(listed, number - 1, k)  # k and beyond: dropped

    def cut(values: Array, absent: float) -> Array:
        return jnp.full((len(values), k), absent, values.dtype).at[rows, column].set(values, mode="drop")

    short = jnp.any(kept & (number[:, -1] < jnp.minimum(k, jnp.sum(kept) - 1)))
    return KNNGraph(cut(knn.indices, -1), cut(knn.distances, jnp.inf)), short


def _without(knn: KNNGraph, x: Float[Array, "n d"], kept: Bool[Array, " n"], k: int, metric: Metric) -> KNNGraph:
    """The graph of the points that are kept, under jit."""

    def searched(_: KNNGraph) -> KNNGraph:
        order, count = jnp.argsort(~kept, stable=True).astype(jnp.int32), jnp.sum(kept, dtype=jnp.int32)
        found = neighbors_of_first(x[order], count, k=k, metric=metric)
        there = (jnp.arange(k) < count - 1) & (jnp.arange(len(x)) < count)[:, None]
        indices, lengths = jnp.where(there, order[found.indices], -1), jnp.where(there, found.distances, jnp.inf)
        return KNNGraph(*(jnp.zeros_like(part).at[order].set(part) for part in (indices, lengths)))

    graph, short = _left_over(knn, kept, k)
    return cond(short, searched, lambda left: left, graph)


def macro_of_kept(
    score: ConvexityScore, singly: Float[Any, "g c"], joint: Float[Any, "h c"] | None
) -> tuple[Any, Any, Any, Any]:
    """Which classes have a score in every replicate, and the means over these: of the score and of the replicates.

    A mean that loses a class in some replicate would be another mean there. Where no class is kept, the first mean is
    that of all classes and the others are nan.

    >>> from jaxconvex.scores.graph import graph_convexity
    >>> score = graph_convexity(knn_graph(jnp.arange(6.0)[:, None], k=1), np.array([0, 0, 0, 0, 1, 1]), num_classes=2)
    >>> kept, macro, _, _ = macro_of_kept(score, np.array([[1.0, np.nan], [0.5, 1.0]]), None)
    >>> kept.tolist(), float(macro) == float(score.per_class[0])
    ([True, False], True)
    """
    replicates = [singly] if joint is None else [singly, joint]
    xp = np if is_concrete(score.per_class, *replicates) else jnp
    kept = score.num_pairs > 0
    for each in replicates if len(singly) else ():
        kept = kept & xp.isfinite(each).all(axis=0)
    count = xp.where(kept.any(), kept.sum(), xp.nan)
    means = [xp.where(kept, each, 0).sum(axis=-1) / count for each in (score.per_class, *replicates)]
    return kept, xp.where(kept.any(), means[0], score.macro), means[1], None if joint is None else means[2]


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
        groups: the group of each point, any integers, instead of key: for paired comparisons, or points that were
            sampled together; `jackknife_groups(units=...)` deals many such units into ten groups. Under jit 0 to
            num_groups - 1, each of them there; others make all errors nan.
        num_groups: see `jackknife_groups`.
        k, metric, mode, duplicates: as for `knn_graph` and `undirected`.
        confidence: of the intervals, which are those of `score_interval`.

    A class with fewer than two points left in some replicate has no error (nan). `macro` and its estimate are over the
    other classes; micro leaves the class out there.

    On concrete arrays statistics are NumPy's float64. Under jit all runs on the device, in the type of the points, and
    under vmap one set of points after the other.

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
    points = jax.lax.stop_gradient(as_points(x))
    n = len(points)
    classes = as_labels(labels, n, num_classes)
    positive_integer(k, "k", most=n - 1, why=f" for {n} points (a point is no neighbour of itself)")
    if groups is None:
        if key is None:
            raise ValueError("the jackknife draws its groups at random: pass key=jax.random.key(0), or groups.")
        groups = jackknife_groups(classes, key, num_groups=num_groups)
    options: Any = {"k": k, "metric": metric, "mode": mode, "duplicates": duplicates}
    if is_concrete(x, classes, groups):

        def score(kept: ArrayLike, edges: Graph) -> ConvexityScore:
            return graph_convexity(edges, jnp.where(kept, classes, -1), num_classes=num_classes)

        full, replicates, joint = replicates_of(score, x, np.asarray(groups), **options)
    else:
        if callable(metric):
            options["metric"] = frozen(metric, *2 * [jax.ShapeDtypeStruct(points.shape[1:], points.dtype)])
        form = _static_form(min(num_groups, n), num_classes=num_classes, **options)
        full, replicates, joint = form(points, classes, as_array(groups, "groups"))
    return jackknife_score(full, replicates, joint, confidence=confidence)


def jackknife_score(
    full: ConvexityScore, replicates: Replicates, joint: Replicates | None, *, confidence: float
) -> JackknifeScore:
    """The intervals of a score from its replicates, those without one group and those without two.

    >>> full = graph_convexity(knn_graph(jnp.arange(8.0)[:, None], k=1), jnp.arange(8) // 4, num_classes=2)
    >>> same = Replicates(np.ones((4, 2)), np.ones(4), np.ones(4))
    >>> float(jackknife_score(jax.tree.map(np.asarray, full), same, None, confidence=0.95).micro.estimate)
    1.0
    """
    _, *macro = macro_of_kept(full, replicates.per_class, None if joint is None else joint.per_class)
    replicates = replicates._replace(macro=macro[1])
    joint = None if joint is None else joint._replace(macro=macro[2])
    sizes = full.num_points
    scored = (sizes * (full.num_pairs > 0)).sum()

    def interval(name: str, estimate: Any, num_points: Any) -> Interval:
        pairs = None if joint is None else getattr(joint, name)
        return score_interval(estimate, getattr(replicates, name), num_points, joint=pairs, confidence=confidence)

    return JackknifeScore(
        interval("per_class", full.per_class, sizes),
        interval("micro", full.micro, scored),
        interval("macro", macro[0], scored),
        replicates,
        joint,
    )


def replicates_of(
    score: Callable[[ArrayLike, Graph], ConvexityScore],
    x: Any,
    groups: np.ndarray,
    *,
    k: int,
    metric: Metric,
    **edges: str,
) -> tuple[ConvexityScore, Replicates, Replicates | None]:
    """The score of all points, and without each group, and each pair of groups, in turn.

    Args:
        score: of the points that are kept (true for all) and the edges of their graph.
        x, groups, k, metric: as for `graph_jackknife`.
        edges: mode and duplicates, as for `undirected`.

    >>> edges = {"mode": "union", "duplicates": "link"}
    >>> score = lambda kept, graph: graph_convexity(graph, jnp.where(kept, jnp.arange(8) // 4, -1), num_classes=2)
    >>> found = replicates_of(score, jnp.arange(8.0)[:, None], np.arange(8) % 4, k=2, metric="euclidean", **edges)
    >>> found[1].per_class.shape, found[2].micro.shape
    ((4, 2), (2,))
    """
    group = np.unique(groups, return_inverse=True)[1]
    knn = knn_graph(x, k=spare_neighbors(k, len(x)), metric=metric)

    def without(groups: np.ndarray) -> Replicates:
        left = leave_group_out_graphs(knn, x, groups, k=k, metric=metric)
        scores = [score(kept, undirected(graph, **edges)) for kept, graph in left]
        return Replicates(*(np.array([getattr(s, name) for s in scores], np.float64) for name in Replicates._fields))

    full = score(True, undirected(KNNGraph(knn.indices[:, :k], knn.distances[:, :k]), **edges))
    singly = without(group)
    return full, singly, without(group // 2) if len(singly.micro) >= 4 else None


@cache
def _static_form(number: int, num_classes: int, k: int, metric: Metric, mode: str, duplicates: str) -> Any:
    """The same under jit, for groups 0 to number - 1; under vmap one set of points after the other."""

    @jax.jit
    @in_mesh
    @sequential_vmap
    def score_all(x: Array, labels: Array, groups: Array) -> tuple[ConvexityScore, Replicates, Replicates | None]:
        knn = knn_graph(x, k=spare_neighbors(k, len(x)), metric=metric)

        def one(_: None, kept: Array) -> tuple[None, ConvexityScore]:
            edges = undirected(_without(knn, x, kept, k, metric), mode=mode, duplicates=duplicates)
            return None, graph_convexity(edges, jnp.where(kept, labels, -1), num_classes=num_classes)

        def without(groups: Array, number: int) -> Array:
            return groups != jnp.arange(number)[:, None]

        pairs = (number + 1) // 2 if number >= 4 else 0
        kept = [jnp.ones((1, len(x)), bool), without(groups, number), without(groups // 2, pairs)]
        found = scan(one, None, jnp.concatenate(kept))[1]
        outside = jnp.any((groups < 0) | (groups >= number))
        scores = Replicates(found.per_class, found.micro, found.macro)
        scores = jax.tree.map(lambda part: jnp.where(outside, jnp.nan, part), scores)
        singly, joint = (
            jax.tree.map(lambda part, s=s: part[s], scores) for s in (slice(1, number + 1), slice(number + 1, None))
        )
        return jax.tree.map(lambda part: part[0], found), singly, joint if pairs else None

    return score_all
