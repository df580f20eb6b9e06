"""What the shortest paths from some points lose under many labelings at once.

A row of bytes, one a labeling, holds how many points outside the class lie on the way to each point, as `label_ways` has
ordered them. Sums are of the same whole numbers as those of the score.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Int

from jaxconvex.aggregates import FINE_BITS, Whole, carried, parts_of
from jaxconvex.engine.label_ways import BYTE, Layout, Ways, layout_for_labels, ways_from
from jaxconvex.paths.layout import bucket
from jaxconvex.paths.search import infinity, rows_of
from jaxconvex.paths.tie_rule import A_HOP, OUTSIDE

__all__ = ["NOBODY", "layout_for_labels", "path_losses"]

NOBODY = -2  # a label that no point has
GROUP = 16  # points of one source and level, whose counts are added up together
GROUPS = 32  # groups in one step


class Excess(NamedTuple):
    """By how much the way over each parent exceeds the distance, and by how much a whole path may."""

    slack: Any  # [places]
    first: Any  # [places] over the first parent
    further: Any  # [f places] over the others


class Steps(NamedTuple):
    """The items in the order in which they are counted: so many at a time, in groups of one source and level."""

    rows: Int[Any, " places"]
    parents: Int[Any, " places"]  # the place of each parent, from 1 on: at 0 is the source
    owners: Int[Any, " groups"]
    inside: Int[Any, " groups"]  # points inside the paths of a group, where a source is even
    further: Int[Any, "f places"]  # the parents of the items of each step that are reached by several
    first: Int[Any, " steps"]  # where those of each step begin
    width: Int[Any, " steps"]  # how many an item of the step has at most
    number: Int[Any, ""]
    excess: Excess  # read where a source is uneven


def path_losses(
    layout: Layout, sources: Int[np.ndarray, " s"], labels: Sequence[Int[Array, "n p"]]
) -> Int[np.ndarray, "s q"]:
    """Sum of 1 - score over all points of the source's label that it reaches, for each source and labeling, in units.

    Args:
        layout: the graph.
        sources: rows.
        labels: labelings of the rows, some at a time; NOBODY in a last row beyond them.

    Of equally short paths the one with the fewest points outside counts, then the one with fewest hops: by the rule of
    `paths.cheapest`.
    Cost: sources x rows x labelings bytes, read and written some times; memory the same for one chunk of labelings.

    >>> import jaxconvex
    >>> from jaxconvex.aggregates import UNIT
    >>> chain = jaxconvex.pack(jaxconvex.knn_graph(jnp.array([[0.], [1.], [2.1], [3.3]]), k=1))
    >>> labels = np.full((len(chain.order) + 1, 1), NOBODY)
    >>> labels[np.asarray(chain.position), 0] = [0, 1, 0, 0]
    >>> path_losses(layout_for_labels(chain), np.asarray(chain.position)[:1], [jnp.asarray(labels)]) / UNIT
    array([[1.5]])
    """
    ways = ways_from(layout, sources)
    found = np.zeros((len(sources), len(labels), labels[0].shape[1]), np.int64)
    wide = layout.matrix is not None or jax.dtypes.canonicalize_dtype(float) == np.float64
    with jax.enable_x64(wide):  # for the lengths of chains
        for even in (True, False):
            if np.any(some := ways.even == even):
                steps = _steps(ways, some, int(layout.packed.depth))
                for i, chunk in enumerate(labels):
                    lost = (_outside_by_level if even else _losses)(chunk, sources, steps)
                    found[some, i] += _units(lost, even)[some]
    return found.reshape(len(sources), -1)


def _units(lost: Any, even: bool) -> Int[np.ndarray, "s p"]:
    """The losses in units, on the host, where there are wide integers."""
    if not even:
        coarse, fine = (np.asarray(part).astype(np.int64) for part in lost)
        return (coarse << FINE_BITS) + fine
    return np.einsum("slp,l->sp", np.asarray(lost), parts_of(np.arange(BYTE + 1)), dtype=np.int64)


def _steps(ways: Ways, some: Bool[np.ndarray, " s"], depth: int) -> Steps:
    """The steps for some of the sources."""
    s, rows, together = len(some), len(ways.parent) // len(some), GROUP * GROUPS
    items = np.flatnonzero((ways.parent >= 0) & np.repeat(some, rows))
    items = items[np.argsort(ways.level[items].astype(np.min_scalar_type(len(ways.level))), kind="stable")]
    level, source = ways.level[items], items // rows
    levels = int(level.max(initial=0)) + 1
    key = level * s + source
    size = np.bincount(key, minlength=levels * s)
    groups = np.zeros((levels, s + 1), np.int64)
    groups[:, :s] = -(-size.reshape(levels, s) // GROUP)
    groups[:, s] = -groups.sum(axis=1) % GROUPS  # a level begins with a step of its own
    first = (np.cumsum(groups) - groups.ravel()).reshape(groups.shape)
    total = int(groups.sum()) * GROUP
    place = first[:, :s].ravel()[key] * GROUP + np.arange(len(items)) - (np.cumsum(size) - size)[key]

    gaps = np.zeros(len(ways.parent), ways.gap.dtype)  # of the way over the first parent
    gaps[ways.tied] = np.max(np.where(ways.parents == ways.parent[ways.tied][:, None], ways.gap, 0), axis=1, initial=0)
    wide = s if 4 * np.count_nonzero(some) > s else -(-s // 4)
    usual = wide * rows + min(depth, BYTE) * (wide + GROUPS) * GROUP  # mostly enough: blocks share a compilation
    places = -(-bucket(max(total, usual)) // together) * together
    at = np.zeros(s * rows, np.int32)  # 0: a source
    at[items] = place + 1
    listed, parents = np.full(places, rows, np.int32), np.zeros(places, np.int32)
    listed[place], parents[place] = items % rows, at[ways.parent[items]]
    owners, inside = np.zeros((2, places // GROUP), np.int32)
    owners[place // GROUP], inside[place // GROUP] = source, level - 1
    slack, first_gap = np.zeros((2, places), ways.gap.dtype)
    slack[place], first_gap[place] = ways.slack[items], gaps[items]

    chosen = some[ways.tied // rows]
    place = at[ways.tied[chosen]] - 1
    step = place // together
    width = np.zeros(places // together, np.int32)
    by_number = np.argsort(-ways.parents[chosen], axis=1, kind="stable")  # those that there are come first
    several, gap = (np.take_along_axis(values[chosen], by_number, axis=1) for values in (ways.parents, ways.gap))
    np.maximum.at(width, step, np.count_nonzero(several >= 0, axis=1))
    begin = np.cumsum(width) - width
    further = np.zeros((1 << max(5, int(width.sum() - 1).bit_length()), together), np.int32)
    gaps = np.zeros(further.shape, gap.dtype)
    for i in np.flatnonzero(width):
        further[begin[i] : begin[i] + width[i]] = parents[i * together : (i + 1) * together]
        gaps[begin[i] : begin[i] + width[i]] = first_gap[i * together : (i + 1) * together]
    item, slot = np.nonzero(several >= 0)
    spot = (begin[step])[item] + slot, place[item] % together
    further[spot], gaps[spot] = at[several[item, slot]], gap[item, slot]
    number = np.int32(total // together)
    excess = Excess(slack, first_gap, gaps)
    return Steps(listed, parents, owners, inside, further, begin.astype(np.int32), width, number, excess)


@jax.jit
def _outside_by_level(labels: Int[Array, "n p"], sources: Int[Array, " s"], steps: Steps) -> Int[Array, "s levels p"]:
    """Points outside the class on the best ways to all places, added up for each number of points inside the paths.

    All ways to a place have the same number of hops, and none exceeds what rounding allows.
    """
    places, together = len(steps.rows), GROUP * GROUPS
    p = labels.shape[1]

    def step(i: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        cost, outside = state

        def another(j: Array, best: Array) -> Array:
            return jnp.minimum(best, rows_of(cost, rows_of(steps.further, steps.first[i] + j)))

        foreign = _foreign(labels, sources, steps, i)
        best = lax.fori_loop(0, steps.width[i], another, rows_of(cost, _places(i, steps.parents)))
        best = best.reshape(foreign.shape)
        more = _sum(jnp.where(foreign, 0, best).astype(jnp.int16)).astype(jnp.int32)
        cost = lax.dynamic_update_slice(
            cost, (best + foreign).reshape(together, -1), (1 + i * together, jnp.zeros_like(i))
        )
        return cost, outside.at[_groups(i, steps.owners), _groups(i, steps.inside)].add(more)

    start = jnp.zeros((places + 1, p), jnp.int8), jnp.zeros((len(sources), BYTE + 1, p), jnp.int32)
    return lax.fori_loop(0, steps.number, step, start)[1]


@jax.jit
def _losses(labels: Int[Array, "n p"], sources: Int[Array, " s"], steps: Steps) -> Whole:
    """The losses [s p] in the general case, by the rule of `paths.cheapest`.

    The places are gone through until nothing changes any more.
    """
    places, p, together = len(steps.rows), labels.shape[1], GROUP * GROUPS
    far = infinity(jnp.int32)
    slack, first, further = steps.excess
    a_hop = A_HOP if jnp.issubdtype(slack.dtype, jnp.integer) else 0
    parts = parts_of(jnp.arange(len(labels), dtype=jnp.int32))

    def step(i: Array, state: tuple[Array, Array, Whole]) -> tuple[Array, Array, Whole]:
        cost, excess, losses = state
        allowed = _places(i, slack)[:, None]

        def consider(parents: Array, gap: Array, best: tuple[Array, Array]) -> tuple[Array, Array]:
            offer, longer = rows_of(cost, parents) + 1, rows_of(excess, parents) + gap[:, None]
            within = (offer <= far) & (longer <= allowed + a_hop * (offer % OUTSIDE))
            better = within & ((offer < best[0]) | ((offer == best[0]) & (longer < best[1])))
            return jnp.where(better, offer, best[0]), jnp.where(better, longer, best[1])

        def another(j: Array, best: tuple[Array, Array]) -> tuple[Array, Array]:
            return consider(rows_of(steps.further, steps.first[i] + j), rows_of(further, steps.first[i] + j), best)

        nothing = jnp.full((together, p), far), jnp.zeros((together, p), slack.dtype)
        known = consider(_places(i, steps.parents), _places(i, first), nothing)
        best, longer = lax.fori_loop(0, steps.width[i], another, known)
        foreign = _foreign(labels, sources, steps, i)
        outside, inside = best // OUTSIDE, parts.at[best % OUTSIDE - 1].get(mode="clip")
        lost = jnp.where(foreign, 0, (outside * inside).reshape(foreign.shape))
        kept = jnp.where(best < far, best + OUTSIDE * foreign.reshape(best.shape), far)
        cost = lax.dynamic_update_slice(cost, kept, (1 + i * together, jnp.zeros_like(i)))
        excess = lax.dynamic_update_slice(excess, longer, (1 + i * together, jnp.zeros_like(i)))
        coarse, fine = _sum(lost >> FINE_BITS).astype(jnp.uint32), _sum(_fine(lost))
        return cost, excess, _added(losses, _groups(i, steps.owners), carried(coarse, fine))

    def again(state: tuple[Array, Array, Whole, Array]) -> tuple[Array, Array, Whole, Array]:
        old = *state[:2], _nothing(len(sources), p)
        new = lax.fori_loop(0, steps.number, step, old)
        return *new, jnp.any(new[0] != old[0]) | jnp.any(new[1] != old[1])

    cost = jnp.full((places + 1, p), far, jnp.int32).at[0].set(0)
    start = cost, jnp.zeros(cost.shape, slack.dtype), _nothing(len(sources), p), jnp.array(True)
    return lax.while_loop(lambda state: state[3], again, start)[2]


def _places(i: Array, values: Array) -> Array:
    """The values of the places of a step."""
    return lax.dynamic_slice(values, (i * GROUPS * GROUP,), (GROUPS * GROUP,))


def _groups(i: Array, values: Array) -> Array:
    """The values of the groups of a step."""
    return lax.dynamic_slice(values, (i * GROUPS,), (GROUPS,))


def _foreign(labels: Array, sources: Array, steps: Steps, i: Array) -> Bool[Array, "groups group p"]:
    """Which places of a step lie outside the class of their source."""
    own = rows_of(labels, sources)
    shape = (GROUPS, GROUP, labels.shape[1])
    return rows_of(labels, _places(i, steps.rows)).reshape(shape) != rows_of(own, _groups(i, steps.owners))[:, None]


def _nothing(s: int, p: int) -> Whole:
    return Whole(*jnp.zeros((2, s, p), jnp.uint32))


def _added(losses: Whole, owner: Array, more: Whole) -> Whole:
    return carried(*(old.at[owner].add(new) for old, new in zip(losses, more, strict=True)))


def _fine(units: Array) -> Array:
    return (units & (2**FINE_BITS - 1)).astype(jnp.uint32)


def _sum(values: Array) -> Array:
    """The sum over the points of each group; by halves, since these are vectorised."""
    while values.shape[1] > 1:
        half = values.shape[1] // 2
        values = values[:, :half] + values[:, half:]
    return values[:, 0]
