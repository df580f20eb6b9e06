"""Scores without some of the points: groups, replicates, the jackknife of graph convexity.

The jackknife runs under jit too; on concrete arrays statistics are NumPy's float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from jaxconvex._internal.loops import scan
from jaxconvex.neighbors.distances import Metric
from jaxconvex.neighbors.knn import KNNGraph, knn_graph
from jaxconvex.paths.graph import Graph, undirected
from jaxconvex.scores.aggregates import ConvexityScore, Score, macro_mean
from jaxconvex.scores.graph import graph_convexity
from jaxconvex.statistics.intervals import Interval, score_interval, upper_level
from jaxconvex.statistics.left_out import graph_without, leave_group_out_graphs, spare_neighbors

__all__ = [
    "JackknifeScore",
    "Replicates",
    "graph_jackknife",
    "jackknife_groups",
    "jackknife_score",
    "jackknifed",
    "replicates_of",
    "stacked",
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


def jackknifed(
    score: Score,
    singly: Score,
    joint: Score | None,
    points_of: Callable[[Bool[Any, " c"]], Any],
    *,
    num_points: Int[Any, " c"],
    confidence: float = 0.95,
) -> tuple[Bool[Any, " c"], JackknifeScore]:
    """The intervals of a score, given those without some points; first which classes "macro" is over.

    Args:
        score: of all points.
        singly, joint: without each group, and without each two groups; the first axis tells the groups apart. Fewer than
            two replicates give no error (nan), fewer than four none that `joint` corrects.
        points_of: from a mask of classes to the number of points in these, for micro and macro; see `score_interval`.
        num_points: that of each class.
        confidence: of the intervals.

    A mean that loses a class in some replicate would be another mean there. So "macro" is over the classes that have a
    score in every replicate; where there are none, its estimate is that of all classes, without an error.

    >>> from jaxconvex.scores.graph import graph_convexity
    >>> score = graph_convexity(knn_graph(jnp.arange(6.0)[:, None], k=1), jnp.array([0, 0, 0, 0, 1, 1]), num_classes=2)
    >>> without = jax.tree.map(lambda part: np.stack([part, part]), score)
    >>> without = without._replace(per_class=np.array([[1.0, np.nan], [0.5, 1.0]]))
    >>> kept, found = jackknifed(score, without, None, np.sum, num_points=score.num_points)
    >>> kept.tolist(), found.replicates.macro.tolist(), float(found.macro.estimate) == float(score.per_class[0])
    ([True, False], [1.0, 0.5], True)
    """
    parts = [singly] if joint is None else [singly, joint]
    xp = np if is_concrete(score.per_class, *(part.per_class for part in parts)) else jnp
    scored = kept = xp.asarray(score.num_pairs) > 0
    for part in parts:
        kept = kept & xp.isfinite(part.per_class).all(axis=0)
    replicates = [Replicates(part.per_class, part.micro, macro_mean(part.per_class, kept)) for part in parts]

    def interval(name: str, estimate: Any, points: Any) -> Interval:
        of_groups, *of_pairs = (getattr(part, name) for part in replicates)
        if len(of_groups) < 2:
            nothing = xp.full(np.shape(estimate), xp.nan)
            return Interval(estimate, nothing, nothing, nothing)
        pairs = of_pairs[0] if of_pairs and len(of_groups) >= 4 else None
        return score_interval(estimate, of_groups, points, joint=pairs, confidence=confidence)

    macro = xp.where(kept.any(), macro_mean(xp.asarray(score.per_class), kept), score.macro)
    return kept, JackknifeScore(
        interval("per_class", score.per_class, num_points),
        interval("micro", score.micro, points_of(scored)),
        interval("macro", macro, points_of(kept)),
        replicates[0],
        None if joint is None else replicates[1],
    )


def stacked(scores: Sequence[Score], like: Score) -> Score:
    """Several scores as one, whose first axis tells them apart; also none, of as many classes as another.

    >>> from jaxconvex.scores.graph import graph_convexity
    >>> score = graph_convexity(knn_graph(jnp.arange(4.0)[:, None], k=1), jnp.array([0, 0, 1, 1]), num_classes=2)
    >>> stacked([score] * 3, score).per_class.shape, stacked([], score).micro.shape
    ((3, 2), (0,))
    """
    parts = zip(*scores, strict=True) if scores else [()] * len(like)
    return type(like)(
        *(np.array(part).reshape(len(part), *np.shape(one)) for part, one in zip(parts, like, strict=True))
    )


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
            return graph_convexity(edges, jnp.where(kept, np.asarray(classes), -1), num_classes=num_classes)

        found = replicates_of(score, x, np.asarray(groups), **options)
    else:
        if callable(metric):
            options["metric"] = frozen(metric, *2 * [jax.ShapeDtypeStruct(points.shape[1:], points.dtype)])
        form = _static_form(min(num_groups, n), num_classes=num_classes, **options)
        found = form(points, classes, as_array(groups, "groups"))
    return jackknife_score(*found, confidence=confidence)


def jackknife_score(full: Score, singly: Score, joint: Score | None, *, confidence: float) -> JackknifeScore:
    """The intervals of a score whose points were sampled one by one: see `jackknifed`.

    >>> full = graph_convexity(knn_graph(jnp.arange(6.0)[:, None], k=1), jnp.repeat(jnp.arange(2), 3), num_classes=2)
    >>> jackknife_score(full, stacked([full] * 3, full), None, confidence=0.95).per_class.se.tolist()
    [0.0, 0.0]
    """
    sizes = full.num_points
    found = jackknifed(
        full, singly, joint, lambda those: (sizes * those).sum(), num_points=sizes, confidence=confidence
    )
    return found[1]


def replicates_of(
    score: Callable[[ArrayLike, Graph], Score],
    x: Any,
    groups: Int[np.ndarray, " n"],
    *,
    k: int,
    metric: Metric,
    **edges: str,
) -> tuple[Score, Score, Score | None]:
    """The score of all points, and those without each group, and each pair of groups, in turn.

    Args:
        score: of the points that are kept (true for all) and the edges of their graph.
        x, groups, k, metric: as for `graph_jackknife`.
        edges: mode and duplicates, as for `undirected`.

    >>> labels = jnp.repeat(jnp.arange(2), 6)
    >>> score = lambda kept, edges: graph_convexity(edges, jnp.where(kept, labels, -1), num_classes=2)
    >>> points, groups = np.arange(12.0)[:, None], np.arange(12) % 3
    >>> full, singly, joint = replicates_of(score, points, groups, k=2, metric="euclidean")
    >>> singly.per_class.shape, joint is None
    ((3, 2), True)
    """
    group = np.unique(groups, return_inverse=True)[1]
    knn = knn_graph(x, k=spare_neighbors(k, len(x)), metric=metric)
    full = score(True, undirected(KNNGraph(knn.indices[:, :k], knn.distances[:, :k]), **edges))

    def without(groups: np.ndarray) -> Score:
        left = leave_group_out_graphs(knn, x, groups, k=k, metric=metric)
        scores = stacked([score(kept, undirected(graph, **edges)) for kept, graph in left], full)
        return scores._replace(per_class=scores.per_class.astype(np.float64))

    singly = without(group)
    return full, singly, without(group // 2) if len(singly.per_class) >= 4 else None


@cache
def _static_form(number: int, num_classes: int, k: int, metric: Metric, mode: str, duplicates: str) -> Any:
    """The same under jit, for groups 0 to number - 1; under vmap one set of points after the other."""

    @jax.jit
    @in_mesh
    @sequential_vmap
    def score_all(
        x: Array, labels: Array, groups: Array
    ) -> tuple[ConvexityScore, ConvexityScore, ConvexityScore | None]:
        knn = knn_graph(x, k=spare_neighbors(k, len(x)), metric=metric)

        def one(_: None, kept: Array) -> tuple[None, ConvexityScore]:
            edges = undirected(graph_without(knn, x, kept, k, metric), mode=mode, duplicates=duplicates)
            return None, graph_convexity(edges, jnp.where(kept, labels, -1), num_classes=num_classes)

        def without(groups: Array, number: int) -> Array:
            return groups != jnp.arange(number)[:, None]

        pairs = (number + 1) // 2 if number >= 4 else 0
        kept = [jnp.ones((1, len(x)), bool), without(groups, number), without(groups // 2, pairs)]
        found = scan(one, None, jnp.concatenate(kept))[1]
        outside = jnp.any((groups < 0) | (groups >= number))
        scores = found._replace(per_class=jnp.where(outside, jnp.nan, found.per_class))
        singly, joint = (
            jax.tree.map(lambda part, s=s: part[s], scores) for s in (slice(1, number + 1), slice(number + 1, None))
        )
        return jax.tree.map(lambda part: part[0], found), singly, joint if pairs else None

    return score_all
