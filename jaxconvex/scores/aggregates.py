"""From scores of pairs to scores of classes: the sums, the means, the closed-form errors."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxconvex.paths.tie_rule import PathCounts

__all__ = [
    "FEW",
    "FINE_BITS",
    "SQUARE",
    "UNIT",
    "ConvexityScore",
    "EuclideanScore",
    "PairSums",
    "Score",
    "Whole",
    "carried",
    "deficit_of",
    "fields_of",
]
__all__ += [
    "by_class",
    "fraction_of",
    "macro_mean",
    "micro_mean",
    "or_nan",
    "of_drawn_sources",
    "parts_of",
    "parts_of_pairs",
    "summarise",
]

UNIT = 931_170_240  # a deficit of 1: below 2^30, and divisible by every number up to 22, so that few divisions round
SQUARE = 2**30  # a squared deficit of 1
FINE_BITS = 20
HALF = 16  # bits of a count
FEW = 64  # drawn points of a class, the least from which an error is estimated
ROUNDING = 1e-6  # a spread that rounding alone may make


class ConvexityScore(NamedTuple):
    """Graph convexity of each class, as fractions in [0, 1]; nan, with 0 pairs, for classes of fewer than two points.

    The closed-form errors answer different questions. `sem_paper` is std(pair scores, ddof=1) / sqrt(number of points), as
    the paper reports. `se_pairs` is for the graph (or network) held fixed: with a_i the mean score of point i with its
    partners, 2 sd(a_i) / sqrt(n) (n - 1) / (n - 2); nan below three points, where pairs or sources were drawn, and where
    all a_i are alike: no error can be told then, and the (1 - inside) num_pairs pairs that leave the class say more.
    Neither covers the sampling of the points, which changes the graph: see `statistics.graph_jackknife`. `se_sources`
    is for the score of all pairs, where only some points were drawn as sources.
    """

    per_class: Float[Any, " c"]
    num_pairs: Int[Any, " c"]  # unordered
    num_points: Int[Any, " c"]
    sem_paper: Float[Any, " c"]
    se_pairs: Float[Any, " c"]
    adjacent: Float[Any, " c"]  # share of pairs joined by an edge
    disconnected: Float[Any, " c"]  # share of pairs without a path
    inside: Float[Any, " c"]  # share of pairs whose path lies wholly inside the class
    nonadjacent: Float[Any, " c"]  # score over the pairs without an edge
    num_sources: Int[Any, " c"]  # points whose pairs with all others are scored: all of them, unless fewer were drawn
    se_sources: Float[Any, " c"]  # error of drawing those: 0 for all of them, nan where pairs were drawn

    @property
    def micro(self) -> Float[Any, " *batch"]:
        """Mean score over all pairs of all classes: what nnconvexity reports."""
        return micro_mean(self.per_class, self.num_pairs)

    @property
    def macro(self) -> Float[Any, " *batch"]:
        """Mean of the class scores, over classes with pairs: what the paper's code reports."""
        return macro_mean(self.per_class, self.num_pairs)


class EuclideanScore(NamedTuple):
    """Euclidean convexity of each class, as fractions in [0, 1]; nan, with 0 pairs, for classes of fewer than two points.

    The errors are those of `ConvexityScore`; se_pairs is for the network held fixed.
    """

    per_class: Float[Any, " c"]
    num_pairs: Int[Any, " c"]  # unordered
    num_points: Int[Any, " c"]
    sem_paper: Float[Any, " c"]
    se_pairs: Float[Any, " c"]
    inside: Float[Any, " c"]  # share of pairs whose segment lies wholly inside the class

    @property
    def micro(self) -> Float[Any, " *batch"]:
        """Mean score over all pairs of all classes."""
        return micro_mean(self.per_class, self.num_pairs)

    @property
    def macro(self) -> Float[Any, " *batch"]:
        """Mean of the class scores, over classes with pairs."""
        return macro_mean(self.per_class, self.num_pairs)


Score = ConvexityScore | EuclideanScore


def micro_mean(per_class: Float[Any, "*batch c"], num_pairs: Any) -> Float[Any, " *batch"]:
    """The mean over all pairs, from the means of the classes."""
    xp, dtype = _module_of(per_class)
    weighted = xp.where(num_pairs > 0, per_class, 0) * num_pairs.astype(dtype)
    return weighted.sum(-1) / or_nan(xp, num_pairs.sum(-1), dtype)


def macro_mean(per_class: Float[Any, "*batch c"], counted: Any) -> Float[Any, " *batch"]:
    """The mean of the classes that count: those with pairs, if `counted` is their number."""
    xp, dtype = _module_of(per_class)
    classes = counted > 0
    return xp.where(classes, per_class, 0).sum(-1) / or_nan(xp, classes.sum(-1), dtype)


def _module_of(per_class: Any) -> tuple[Any, Any]:
    """The module of arrays that computes with the scores, and its type: NumPy's float64, or that of JAX's array."""
    return (np, np.dtype(float)) if isinstance(per_class, np.ndarray) else (jnp, per_class.dtype)


class Whole(NamedTuple):
    """A sum of deficits in whole units of 1 / UNIT, so that it is the same in any order: coarse 2^FINE_BITS + fine."""

    coarse: Any
    fine: Any


class PairSums(NamedTuple):
    """Sums over the partners of each point; a deficit is 1 - score."""

    deficit: Any  # a Whole, or to `summarise` a number
    squared_deficit: Any
    adjacent: Any
    disconnected: Any
    inside: Any
    partners: Any


def deficit_of(counts: PathCounts, dtype: Any = jnp.float32) -> Array:
    """1 - score of each pair: the share of the points inside its path that are outside the class; 1 without a path."""
    share = counts.outside.astype(dtype) / jnp.maximum(counts.interior, 1).astype(dtype)
    return jnp.where(counts.interior < 0, 1, share)


def parts_of(interior: Any) -> Any:
    """1 / (points inside a path), in units of 1 / UNIT."""
    points = interior.clip(1)
    return (UNIT + points // 2) // points


def carried(coarse: Any, fine: Any) -> Whole:
    """The same sum, its fine part less than one coarse unit."""
    return Whole(coarse + (fine >> FINE_BITS).astype(coarse.dtype), fine & (2**FINE_BITS - 1))


def fraction_of(sums: Whole, dtype: Any, unit: int | float = UNIT) -> Any:
    """The sum as a floating-point number."""
    return sums.coarse.astype(dtype) * (2**FINE_BITS / unit) + sums.fine.astype(dtype) / unit


def parts_of_pairs(counts: PathCounts, pairs: Bool[Array, "*l t s"]) -> Int[Array, "parts *l t s"]:
    """What each of the pairs adds to the sums of both its points, as whole numbers: coarse and fine deficit, coarse and fine
    square of it, and four counts, of which each number holds two."""
    deficit = deficit_of(counts)
    whole = jnp.where(counts.interior < 0, UNIT, counts.outside * parts_of(counts.interior))
    square = jnp.rint(deficit * deficit * SQUARE).astype(jnp.int32)
    inside = (counts.interior >= 0) & (counts.outside == 0)
    adjacent, apart, inside = (part.astype(jnp.int32) for part in (counts.interior == 0, counts.interior < 0, inside))
    numbers = *_split(whole), *_split(square), adjacent + (apart << HALF), inside + (1 << HALF)
    return jnp.where(pairs, jnp.stack(numbers), 0)


def fields_of(parts: Int[Any, "parts ..."]) -> list[Any]:
    """The fields of `PairSums`, those of a Whole one by one, from sums of `parts_of_pairs` over less than 2^10 pairs."""
    coarse, fine, coarse_square, fine_square, *counts = parts
    deficit, square = carried(coarse, fine), carried(coarse_square, fine_square)
    return [*deficit, *square, *(half for both in counts for half in (both & (2**HALF - 1), both >> HALF))]


def _split(whole: Int[Array, ...]) -> tuple[Int[Array, ...], Int[Array, ...]]:
    return whole >> FINE_BITS, whole & (2**FINE_BITS - 1)


def summarise(
    sums: PairSums, labels: Any, num_classes: int, *, ordered: bool, complete: Any, xp: Any, unit: int | float = 1
) -> ConvexityScore:
    """From sums over the partners of each point to scores of classes.

    `ordered` tells that every pair stands in the sums of both its points; `complete`, which classes have all their pairs;
    `unit`, what a deficit of 1 adds to the sums.
    """
    index = xp.where(labels < 0, num_classes, labels)

    def total(values: Any) -> Any:
        return by_class(xp, values, labels, num_classes)

    points = total(xp.ones_like(labels))
    times = 2 if ordered else 1
    dtype = sums.deficit.dtype
    deficit, squared, adjacent, disconnected, inside, _ = (total(s).astype(dtype) / times for s in sums)
    deficit = deficit / unit
    pairs = total(sums.partners) // times
    real = deficit.dtype
    some = or_nan(xp, pairs, real)
    mean = deficit / some
    variance = xp.maximum(squared - deficit * mean, 0) / or_nan(xp, pairs - 1, real)
    # The mean deficit of each point, and its spread over the points of the class.
    own = sums.deficit / unit / xp.maximum(sums.partners, 1).astype(real)
    centre = total(own) / or_nan(xp, points, real)
    away = xp.where(labels < 0, 0, own - centre[xp.minimum(index, num_classes - 1)])
    spread = xp.sqrt(total(away**2) / or_nan(xp, points - 1, real))
    factor = 2 * (points - 1).astype(real) / or_nan(xp, points - 2, real)
    se_pairs = spread * factor / xp.sqrt(or_nan(xp, points, real))
    return ConvexityScore(
        per_class=1 - mean,
        num_pairs=xp.rint(pairs).astype(xp.int64 if xp is np else xp.int32),
        num_points=xp.rint(points).astype(xp.int64 if xp is np else xp.int32),
        sem_paper=xp.sqrt(variance / or_nan(xp, points, real)),
        se_pairs=xp.where(complete & (spread > ROUNDING), se_pairs, xp.nan),
        adjacent=adjacent / some,
        disconnected=disconnected / some,
        inside=inside / some,
        nonadjacent=1 - deficit / or_nan(xp, pairs.astype(real) - adjacent, real),
        num_sources=xp.rint(xp.where(complete, points, 0)).astype(xp.int64 if xp is np else xp.int32),
        se_sources=xp.where(complete & (pairs > 0), 0.0, xp.nan).astype(mean.dtype),
    )


def of_drawn_sources(
    sums: PairSums, labels: Any, drawn: Int[Any, " c"], num_classes: int, *, xp: Any, unit: int | float = 1
) -> ConvexityScore:
    """The scores of classes from the sums of some points with all their partners, so many drawn in each class.

    Pairs are those that the score stands for: all of the class. With a_i the mean score of a drawn point,
    se_sources^2 = (sd(a_i)^2 / s + m^2) (1 - s / n). m, at most 1 / 64, is what one more point would change whose pairs
    all score 0, or 1, whichever is further: points that are alike may well have missed a few that differ.
    """
    points = by_class(xp, xp.ones_like(labels), labels, num_classes).astype(sums.deficit.dtype)
    drawn = drawn.astype(points.dtype)
    score = summarise(sums, labels, num_classes, ordered=False, complete=drawn >= points, xp=xp, unit=unit)
    real = score.per_class.dtype
    own = xp.where(sums.partners > 0, sums.deficit / unit / xp.maximum(sums.partners, 1).astype(real), 0)
    away = xp.where((labels >= 0) & (sums.partners > 0), own - (1 - score.per_class)[xp.maximum(labels, 0)], 0)
    squares = by_class(xp, away**2, labels, num_classes)
    spread = xp.sqrt(squares / or_nan(xp, drawn - 1, real))
    least = xp.maximum(score.per_class, 1 - score.per_class) / xp.maximum(drawn, FEW)
    error = xp.sqrt(spread**2 / xp.maximum(drawn, 1) + least**2)
    error = error * xp.sqrt(xp.maximum(1 - drawn / xp.maximum(points, 1), 0))
    whole = xp.int64 if xp is np else xp.int32
    pairs = (points * (points - 1) / 2).astype(whole)
    return score._replace(
        num_pairs=xp.where(drawn > 0, pairs, 0).astype(whole),
        num_sources=xp.minimum(drawn, points).astype(whole),
        se_sources=xp.where(pairs > 0, xp.where(drawn >= points, 0, error), xp.nan).astype(real),
    )


def or_nan(xp: Any, count: Any, dtype: Any) -> Any:
    """The count as a number to divide by: nan where it is none."""
    return xp.where(count > 0, count.astype(dtype), xp.nan)


def by_class(xp: Any, values: Any, labels: Any, num_classes: int) -> Any:
    """The sum of the values of each class's points."""
    index = xp.where(labels < 0, num_classes, labels)
    if xp is np:
        return np.bincount(index, weights=values, minlength=num_classes + 1)[:num_classes]
    return jnp.zeros(num_classes + 1, values.dtype).at[index].add(values)[:num_classes]
