"""The sums of the pairs of each point, over the blocks of a search: one program, run whole or shared out.

Under jit it runs over all blocks. On concrete arrays threads, devices and processes each take some of them, and what they
find is added up in whole numbers, so that it does not depend on who found it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from jaxconvex._internal.loops import fori_loop
from jaxconvex._internal.streams import on_devices, streams
from jaxconvex.paths.chains import chain_path_counts, chain_tolerance, edge_matrix, is_long
from jaxconvex.paths.graph import PackedGraph, without_places
from jaxconvex.paths.order import Asked, Order, block_of, mirrored, room_for
from jaxconvex.paths.search import in_lengths
from jaxconvex.paths.tie_rule import PathCounts
from jaxconvex.paths.walk import Some, Trail, fold_pairs
from jaxconvex.scores.aggregates import (
    FINE_BITS,
    SQUARE,
    PairSums,
    Whole,
    carried,
    fields_of,
    fraction_of,
    parts_of_pairs,
)
from jaxconvex.scores.loads import Loads, fraction_of_load, load_of_paths, loads_with, no_loads

__all__ = ["FIELDS", "carried_fields", "compiled", "counts_of_blocks", "fractions_of_sums", "loads_over_blocks"]
__all__ += ["pair_sums", "sum_blocks", "sums_of_whole", "sums_over_blocks", "whole_fields"]

FIELDS = 8
STATIC = "lanes", "num_classes", "whole", "intruders"
SHARES = 8  # portions of the blocks for each stream: later blocks cost less


def sum_blocks(
    packed: PackedGraph,
    order: Order,
    asked: Asked,
    begin: Array | int,
    end: Array | int,
    *,
    lanes: int,
    num_classes: int,
    whole: bool | None = None,
    intruders: bool = False,
) -> tuple[PairSums, Loads | None]:
    """Sums over the partners of each row [l rows], deficits and their squares in two parts, from some of the blocks; and if
    asked for, of a single labeling, what other classes lose to each row and to each class."""
    width, total = FIELDS * len(asked.labels), len(order.rows)

    def search(packed: PackedGraph) -> tuple[Array, Loads | None]:
        def block_sums(index: Array, state: tuple[Array, Loads | None]) -> tuple[Array, Loads | None]:
            totals, loads = state
            block, pairs = block_of(order, asked, index, lanes, num_classes)

            def add(state: Any, some: Some, counts: PathCounts, pairs: Array, *trail: Trail) -> Any:
                totals, own, load = state
                parts = parts_of_pairs(counts, pairs)
                beyond = mirrored(order, asked, index, lanes, some.targets)
                if trail:
                    load = load_of_paths(load, some, counts, beyond, *trail)
                if asked.sources is None:
                    at_targets = jnp.where(beyond[:, None], _side_by_side(_sum_of_last(parts)), 0)
                    totals = totals.at[some.targets].add(at_targets)
                at_sources = _side_by_side(jnp.sum(parts, axis=2, dtype=jnp.int32))
                return totals, own.at[some.columns].add(at_sources, mode="drop"), load

            load = jnp.zeros((total, lanes), packed.quantum.dtype) if intruders else None
            start = totals, jnp.zeros((lanes, width), jnp.int32), load
            totals, own, load = fold_pairs(packed, asked.labels, block, pairs, add, start, trails=intruders)
            if loads is not None:
                loads = loads_with(loads, load, asked.labels[0], block.sources)
            return carried_fields(totals.at[block.sources].add(own)), loads

        start = jnp.zeros((total, width), jnp.int32), no_loads(total, num_classes) if intruders else None
        return fori_loop(begin, end, block_sums, start)

    totals, loads = in_lengths(packed, search, whole)
    fields = jnp.moveaxis(totals.reshape(total, -1, FIELDS), 0, 2)
    return pair_sums([fields[:, i] for i in range(FIELDS)]), loads


def _side_by_side(parts: Int[Array, "parts l p"]) -> Int[Array, "p fields"]:
    fields = jnp.stack(fields_of(parts), axis=-1)
    return fields.swapaxes(0, 1).reshape(fields.shape[1], -1)


def _sum_of_last(values: Array) -> Array:
    # By halves, since XLA's reduction of the minor axis is not vectorised on CPU.
    while values.shape[-1] % 2 == 0 and values.shape[-1] > 4:
        half = values.shape[-1] // 2
        values = values[..., :half] + values[..., half:]
    return jnp.sum(values, axis=-1, dtype=jnp.int32)


def carried_fields(totals: Int[Array, "rows fields"]) -> Int[Array, "rows fields"]:
    """The totals, the fine parts of deficits and squares less than one coarse unit."""
    fields = totals.reshape(len(totals), -1, FIELDS)
    parts = [*carried(fields[..., 0], fields[..., 1]), *carried(fields[..., 2], fields[..., 3])]
    return jnp.concatenate([jnp.stack(parts, axis=-1), fields[..., 4:]], axis=-1).reshape(totals.shape)


def pair_sums(fields: Any) -> PairSums:
    """The sums from the fields of `fields_of`, one after the other."""
    return PairSums(Whole(*fields[:2]), Whole(*fields[2:4]), *fields[4:])


def fractions_of_sums(sums: PairSums, dtype: Any) -> PairSums:
    """The sums with deficits and squares as floating-point numbers."""
    squares = fraction_of(sums.squared_deficit, dtype, SQUARE)
    return sums._replace(deficit=fraction_of(sums.deficit, dtype), squared_deficit=squares)


# On the host -----------------------------------------------------------------------------------------------------------


@cache
def compiled(function: Callable, *static: str) -> Callable:
    """The function, compiled; on CPU with wide vectors, where XLA knows the option."""
    plain = jax.jit(function, static_argnames=static)
    if jax.default_backend() != "cpu":
        return plain
    wide = jax.jit(function, static_argnames=static, compiler_options={"xla_cpu_prefer_vector_width": 512})
    refused = False

    def kernel(*arguments: Any, **options: Any) -> Any:
        nonlocal refused
        if not refused:
            try:
                return wide(*arguments, **options)
            except jax.errors.JaxRuntimeError:  # an XLA that does not know the option
                refused = True
        return plain(*arguments, **options)

    return kernel


def sums_over_blocks(
    packed: PackedGraph,
    order: Order,
    asked: Asked,
    *,
    lanes: int,
    num_classes: int,
    devices: Sequence[Any] | None = None,
    ahead: bool = False,
) -> list[PairSums]:
    """For each labeling the sums over the partners of each point, in float64, the same on any number of devices.

    Deficits are in units of 1 / UNIT. `ahead`: no block is searched, so that the search is only compiled.
    """
    blocks = -(-int(order.number) // lanes)
    totals: np.ndarray = np.zeros((FIELDS - 2, len(asked.labels), len(order.rows)), np.int64)
    if is_long(packed):
        for sums in _chain_sums(packed, order, asked, lanes, blocks, devices):
            totals += sums
    else:
        options = {"lanes": lanes, "num_classes": room_for(num_classes), "whole": bool(packed.quantum > 0)}
        if ahead:
            kernel = compiled(sum_blocks, *STATIC)
            kernel(without_places(packed), order, asked, np.int32(0), np.int32(0), **options)
        for sums, _ in _shares(packed, order, asked, blocks, devices, options):
            totals += _whole_numbers(sums)
    if devices is not None and jax.process_count() > 1:
        totals = _over_processes(totals)
    own = totals[:, :, np.asarray(packed.position)]
    return [sums_of_whole(own[:, i]) for i in range(len(asked.labels))]


def loads_over_blocks(
    packed: PackedGraph, order: Order, asked: Asked, *, lanes: int, num_classes: int
) -> tuple[PairSums, Loads]:
    """The same for a single labeling, and what other classes lose to each point and to each class, in float64.

    Graphs of very long paths are searched like all others here.
    """
    blocks = -(-int(order.number) // lanes)
    options = {"lanes": lanes, "num_classes": num_classes, "whole": bool(packed.quantum > 0), "intruders": True}
    totals: Any = 0
    loads: Any = Loads(0, 0)
    for sums, more in _shares(packed, order, asked, blocks, None, options):
        totals = totals + _whole_numbers(sums)
        loads = Loads(*(total + fraction_of_load(part) for total, part in zip(loads, more, strict=True)))
    if blocks == 0:
        totals = np.zeros((FIELDS - 2, 1, len(order.rows)), np.int64)
        loads = Loads(np.zeros(len(order.rows)), np.zeros((num_classes, num_classes + 1)))
    own = sums_of_whole(totals[:, 0, np.asarray(packed.position)])
    return own, loads._replace(of_rows=loads.of_rows[np.asarray(packed.position)])


def _shares(
    packed: PackedGraph, order: Order, asked: Asked, blocks: int, devices: Sequence[Any] | None, options: dict[str, Any]
) -> Iterator[Any]:
    """What `sum_blocks` finds in each share of the blocks."""
    kernel = compiled(sum_blocks, *STATIC)
    bare = without_places(packed)
    places = cache(lambda device: jax.device_put((bare, order, asked), device))
    share = max(1, blocks // (SHARES * max(streams(), len(devices or ()))))

    def solve(begin: int, device: Any) -> Any:
        found = kernel(*places(device), np.int32(begin), np.int32(min(begin + share, blocks)), **options)
        return jax.tree.map(np.asarray, found)

    yield from on_devices(solve, range(0, blocks, share), devices)


def sums_of_whole(totals: Int[np.ndarray, "f n"]) -> PairSums:
    """The sums from whole numbers, in float64; deficits stay in units of 1 / UNIT."""
    values = totals.astype(np.float64)
    values[1] /= SQUARE
    return PairSums(*values)


def whole_fields(fields: Sequence[Int[np.ndarray, ...]]) -> Int[np.ndarray, "f ..."]:
    """The fields of `fields_of` with deficits and squares as single whole numbers."""
    return _whole_numbers(pair_sums(fields))


def _whole_numbers(sums: PairSums) -> Int[np.ndarray, "f ..."]:
    def number(whole: Whole) -> np.ndarray:
        return (whole.coarse.astype(np.int64) << FINE_BITS) + whole.fine

    return np.stack([number(sums[0]), number(sums[1]), *sums[2:]])


def _over_processes(totals: np.ndarray) -> np.ndarray:
    """The sum over all processes; in halves of 32 bits, since JAX has no wider integers by default."""
    from jax.experimental import multihost_utils

    gathered = np.asarray(multihost_utils.process_allgather(np.ascontiguousarray(totals).view(np.uint32)))
    return np.ascontiguousarray(gathered).view(np.int64).sum(axis=0)


def counts_of_blocks(
    packed: PackedGraph, order: Order, asked: Asked, *, lanes: int, num_classes: int
) -> Iterator[tuple[np.ndarray, PathCounts, np.ndarray]]:
    """For each block the rows of its sources, and the counts [rows s] of the first labeling; and which are asked for."""
    blocks = -(-int(order.number) // lanes)
    if is_long(packed):
        for _, (sources, counts, pairs) in _chain_counts(packed, order, asked, lanes, blocks, None):
            yield sources, PathCounts(*(count[0] for count in counts)), pairs[0]
        return
    kernel = compiled(_counts_of_block, "lanes", "num_classes", "whole")
    options = {"lanes": lanes, "num_classes": room_for(num_classes), "whole": bool(packed.quantum > 0)}
    bare = without_places(packed)

    def solve(index: int, device: Any) -> Any:
        return jax.tree.map(np.asarray, kernel(bare, order, asked, np.int32(index), **options))

    yield from on_devices(solve, range(blocks))


def _counts_of_block(
    packed: PackedGraph, order: Order, asked: Asked, index: Array, *, lanes: int, num_classes: int, whole: bool
) -> tuple[Array, PathCounts, Array]:
    block, asked_for = block_of(order, asked, index, lanes, num_classes)

    def put(state: tuple[Array, Array], some: Some, counts: PathCounts, pairs: Array) -> tuple[Array, ...]:
        place = some.targets[:, None], some.columns
        return tuple(
            old.at[place].max(jnp.where(pairs[0], count[0], -2), mode="drop")
            for old, count in zip(state, counts, strict=True)
        )

    start = tuple(jnp.full((2, len(order.rows), lanes), -2, jnp.int32))  # -2: not asked for

    def search(packed: PackedGraph) -> tuple[Array, ...]:
        return fold_pairs(packed, asked.labels, block, asked_for, put, start)

    interior, outside = in_lengths(packed, search, whole)
    return block.sources, PathCounts(interior, jnp.maximum(outside, 0)), interior > -2


def _chain_sums(
    packed: PackedGraph, order: Order, asked: Asked, lanes: int, blocks: int, devices: Sequence[Any] | None
) -> Iterator[Int[np.ndarray, "f l rows"]]:
    parts_of_source = compiled(parts_of_pairs)
    for index, (sources, counts, pairs) in _chain_counts(packed, order, asked, lanes, blocks, devices):
        beyond = np.asarray(mirrored(order, asked, jnp.int32(index), lanes, jnp.arange(len(order.rows))))
        fields = np.zeros((FIELDS, len(asked.labels), len(order.rows)), np.int64)
        for lane, source in enumerate(sources):
            parts = parts_of_source(PathCounts(*(count[..., lane] for count in counts)), pairs[..., lane])
            each = np.array(
                fields_of(np.asarray(parts))
            )  # before the sums: a source has more partners than half a number
            fields += each * beyond
            fields[:, :, source] += np.sum(each, axis=2, dtype=np.int64)
        yield whole_fields(list(fields))


def _chain_counts(
    packed: PackedGraph, order: Order, asked: Asked, lanes: int, blocks: int, devices: Sequence[Any] | None
) -> Iterator[tuple[int, tuple[np.ndarray, PathCounts, Bool[np.ndarray, "l rows s"]]]]:
    """Number, sources, counts and pairs [l rows s] of each block, for graphs of long paths: by Dijkstra's algorithm.

    Only sources that ask for a path are there.
    """
    matrix, tolerance = edge_matrix(packed), chain_tolerance(packed)
    pairs_of = compiled(_asked_of_block, "lanes", "num_classes")
    num_classes = int(jnp.max(asked.labels, initial=0)) + 1

    def solve(index: int, device: Any) -> Any:
        sources, pairs = map(np.asarray, pairs_of(order, asked, np.int32(index), lanes=lanes, num_classes=num_classes))
        used = np.flatnonzero(pairs.any(axis=(0, 1)))
        sources, pairs = sources[used], pairs[..., used]
        targets = np.flatnonzero(pairs.any(axis=(0, 2)))
        found = np.zeros((2, *pairs.shape), np.int32)
        for i, labels in enumerate(np.asarray(asked.labels) if len(used) else ()):
            counts = chain_path_counts(matrix, labels, sources, targets, tolerance)
            for part, count in zip(found[:, i], counts, strict=True):
                part[targets] = count
        return index, (sources, PathCounts(*found), pairs)

    yield from on_devices(solve, range(blocks), devices)


def _asked_of_block(order: Order, asked: Asked, index: Array, *, lanes: int, num_classes: int) -> tuple[Array, Array]:
    block, asked_for = block_of(order, asked, index, lanes, num_classes)
    every = Some(jnp.int32(0), block.targets, jnp.arange(lanes, dtype=jnp.int32))
    pairs = asked_for(every)
    there = jnp.arange(len(block.targets)) < block.number
    rows = jnp.where(there, block.targets, len(order.rows))
    empty = jnp.zeros((len(pairs), len(order.rows), lanes), bool)
    return block.sources, empty.at[:, rows].set(pairs, mode="drop")
