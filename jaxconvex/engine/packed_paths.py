"""The fast engine for shortest paths: from a block of sources, what lies inside the paths to their targets.

Distances first; then each row's parent; then a walk from every target to its source. It counts the same as
`paths.edge_path_counts`, pair by pair.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Int

from jaxconvex.engine.frontier import (
    ONE,
    SEVERAL,
    Rows,
    chosen_rows,
    distances_from,
    fold_rows,
    parents_of,
    put_rows,
    rows_of,
)
from jaxconvex.engine.ties import resolve_ties
from jaxconvex.graphs import PackedGraph
from jaxconvex.paths import PathCounts, infinity, rounding_slack

__all__ = ["packed_path_counts"]

WALKED = 128  # targets walked together


def packed_path_counts(
    packed: PackedGraph,
    labels: Int[Array, "l rows"],
    sources: Int[Array, " s"],
    targets: Int[Array, " t"],
    wanted: Bool[Array, "l t s"],
    number: Int[Array, ""],
) -> tuple[PathCounts, Bool[Array, ""]]:
    """`PathCounts` [l t s] from a block of sources to the wanted targets, and whether the sweeps came to an end.

    Args:
        packed: the graph.
        labels: one or more labelings of the rows: they share the paths, but not what lies outside.
        sources, targets: rows. Sources near each other, and far from no target, cost least.
        wanted: the pairs to count under each labeling, whose ends have one label; the others get interior -1.
        number: targets that are not padding.

    Sweeps are bounded by the farthest wanted target. Only sources with a tie on a walked path take the lexicographic
    pass.
    """
    far = infinity(packed.lengths.dtype)
    asked = jnp.any(wanted, axis=0)
    within = asked & (rows_of(packed.component, targets)[:, None] == rows_of(packed.component, sources))

    def limit(distance: Array) -> Array:
        farthest = jnp.max(jnp.where(within, rows_of(distance, targets), 0), axis=0)
        slack = rounding_slack(farthest, packed.edges.lengths.dtype, 2 * packed.depth) + 1
        return jnp.where(farthest < far, farthest + slack, far)

    distance, settled = distances_from(packed, sources, limit)
    bound = limit(distance)
    near = chosen_rows(jnp.any(distance <= bound, axis=1) & (packed.count > 0))
    reached = wanted & within & (rows_of(distance, targets) < far)
    if jnp.issubdtype(distance.dtype, jnp.integer):
        links = _links(packed, labels, sources, near, distance)
        interior, outside, tied = _walk(links, sources, targets, reached, number)
    else:  # edges may have length 0, along which parents would go in circles
        interior, tied = jnp.zeros(within.shape, jnp.int32), jnp.any(reached, axis=0)
        outside = jnp.zeros(wanted.shape, jnp.int32)
    counts = PathCounts(jnp.where(reached, interior, -1), jnp.where(reached, outside, 0))
    resolved = [
        resolve_ties(
            packed,
            own,
            sources,
            targets,
            distance,
            tied & reached[i],
            PathCounts(counts.interior[i], counts.outside[i]),
        )
        for i, own in enumerate(labels)
    ]
    return jax.tree.map(lambda *parts: jnp.stack(parts), *resolved), settled


def _links(packed: PackedGraph, labels: Array, sources: Array, near: Rows, distance: Array) -> Int[Array, "rows s"]:
    """Each row's predecessor on its shortest path, or a bit that tells that another path is as short; and a bit for each
    labeling that tells whether the row lies outside the class of the source: (row, outside..., tie).
    """
    labelings = len(labels)
    own = rows_of(labels.T, sources)

    def some(rows: Array, live: Array, links: Array) -> Array:
        mine = rows_of(distance, rows)
        slack = rounding_slack(mine, packed.edges.lengths.dtype, 2 * packed.depth)  # paths may have twice a root's hops
        reach = jnp.where(mine < infinity(mine.dtype), mine + slack, -1)
        found = parents_of(packed, rows, live, distance, reach)
        tied = found == SEVERAL
        link = (jnp.where(tied, 0, found - ONE) << (labelings + 1)) | tied.astype(jnp.int32)
        for i in range(labelings):
            foreign = rows_of(labels[i], rows)[:, None] != own[:, i]
            link |= foreign.astype(jnp.int32) << (i + 1)
        return put_rows(links, rows, live, link)

    return fold_rows(near, some, jnp.zeros(distance.shape, jnp.int32))


def _walk(
    links: Array, sources: Array, targets: Array, wanted: Bool[Array, "l t s"], number: Array
) -> tuple[Int[Array, "t s"], Int[Array, "l t s"], Bool[Array, "t s"]]:
    """Walk from every target to its source: the points inside, those outside the class, and whether a tie lay there."""
    labelings, t, s = wanted.shape
    column = jnp.arange(s)
    flat = links.reshape(-1)
    chunk = min(WALKED, t)

    def some(index: Array, found: Any) -> Any:
        start = jnp.minimum(index * chunk, t - chunk)
        nought = jnp.zeros_like(start)
        ends = lax.dynamic_slice(targets, (start,), (chunk,))[:, None]
        asked = jnp.any(lax.dynamic_slice(wanted, (nought, start, nought), (labelings, chunk, s)), axis=0)

        def step(state: Any) -> Any:
            at, hops, outside, tied, _ = state
            active = at != sources
            link = jnp.where(active, rows_of(flat, at * s + column), 0)
            at = jnp.where(active & ((link & 1) == 0), link >> (labelings + 1), sources)  # a tie ends the walk
            outside = tuple(o + ((link >> (i + 1)) & 1) for i, o in enumerate(outside))
            return at, hops + active, outside, tied | (link & 1), jnp.any(at != sources)

        at = jnp.where(asked, ends, sources)
        zero = jnp.zeros(at.shape, jnp.int32)
        begin = at, zero, (zero,) * labelings, zero, jnp.any(at != sources)
        _, hops, outside, tied, _ = lax.while_loop(lambda state: state[-1], step, begin)
        new = jnp.maximum(hops - 1, 0), jnp.stack(outside), tied > 0
        places = (start, nought), (nought, start, nought), (start, nought)
        return tuple(lax.dynamic_update_slice(*each) for each in zip(found, new, places, strict=True))

    empty = jnp.zeros((t, s), jnp.int32), jnp.zeros(wanted.shape, jnp.int32), jnp.zeros((t, s), bool)
    return lax.fori_loop(0, -(-number // chunk), some, empty)
