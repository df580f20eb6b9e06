"""The choice of the path engine for a graph, and the sums of its blocks over one device or many."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Bool, Int

from jaxconvex.aggregates import FINE_BITS, PairSums, sum_pairs
from jaxconvex.engine.blocks import Block
from jaxconvex.engine.chains import chain_path_counts, chain_tolerance, edge_matrix, is_long
from jaxconvex.engine.packed_paths import packed_path_counts
from jaxconvex.graphs import PackedGraph, layout_of
from jaxconvex.paths import PathCounts
from jaxconvex.streams import on_devices

__all__ = ["columns_of_blocks", "sum_blocks"]

SQUARES = 2.0**40  # sums of squares become whole multiples of 1 / SQUARES, so that they are the same in any order

Counter = Callable[[Block, Any], PathCounts]


def _path_counter(packed: PackedGraph, labelings: Sequence[Int[np.ndarray, " n"]]) -> Counter:
    """The engine for this graph: a function from a block and a device to its `PathCounts` [l t s]."""
    matrix: list[Any] = []

    def chains(block: Block) -> PathCounts:
        if not matrix:
            matrix.append(edge_matrix(packed))
        tolerance = chain_tolerance(packed)
        goals = np.broadcast_to(block.targets[:, None], block.wanted.shape[1:])
        found = [chain_path_counts(matrix[0], labels, block.sources, goals, tolerance) for labels in labelings]
        return jax.tree.map(lambda *parts: np.stack(parts), *found)

    if is_long(packed):
        return lambda block, device: chains(block)
    rows = np.stack([labels.astype(np.int32)[np.asarray(packed.order)] for labels in labelings])
    position = np.asarray(packed.position)
    place = cache(lambda device: jax.device_put((layout_of(packed), rows), device))

    def count(block: Block, device: Any) -> PathCounts:
        layout, rows = place(device)
        ends = position[block.sources], position[block.targets]
        counts, settled = _kernel()(layout, rows, *ends, block.wanted, np.int32(block.num_targets))
        return counts if bool(settled) else chains(block)

    return count


@cache
def _kernel() -> Callable:
    if jax.default_backend() != "cpu":
        return jax.jit(packed_path_counts)
    wide = jax.jit(packed_path_counts, compiler_options={"xla_cpu_prefer_vector_width": 512})
    plain = jax.jit(packed_path_counts)
    refused = False

    def kernel(*arguments: Any) -> Any:
        nonlocal refused
        if not refused:
            try:
                return wide(*arguments)
            except jax.errors.JaxRuntimeError:  # an XLA that does not know the option
                refused = True
        return plain(*arguments)

    return kernel


def sum_blocks(
    packed: PackedGraph,
    labelings: Sequence[Int[np.ndarray, " n"]],
    blocks: Iterable[Block],
    devices: Sequence[Any] | None = None,
) -> list[PairSums]:
    """For each labeling the sums over the partners of each point, in float64, the same on any number of devices.

    Deficits are in units of 1 / UNIT.
    """
    n = len(packed.position)
    count = _path_counter(packed, labelings)
    dtype = packed.edges.lengths.dtype
    totals = np.zeros((len(PairSums._fields), len(labelings), n), np.int64)

    def solve(block: Block, device: Any) -> tuple[Block, np.ndarray, np.ndarray]:
        counts = count(block, device)
        at_sources, at_targets = _sums_of_block(counts, block.wanted, block.mirrored, dtype)
        return block, _whole(at_sources), _whole(at_targets)

    for block, at_sources, at_targets in on_devices(solve, blocks, devices):
        totals[:, :, block.sources[: block.num_sources]] += at_sources[:, :, : block.num_sources]
        totals[:, :, block.targets[: block.num_targets]] += at_targets[:, :, : block.num_targets]
    if devices is not None and jax.process_count() > 1:
        totals = _over_processes(totals)
    values = totals.astype(np.float64)
    values[1] /= SQUARES
    return [PairSums(*values[:, i]) for i in range(len(labelings))]


@partial(jax.jit, static_argnames=("dtype",))
def _sums_of_block(
    counts: PathCounts, wanted: Bool[Array, "l t s"], mirrored: Bool[Array, " t"], dtype: Any
) -> tuple[PairSums, PairSums]:
    turned = PathCounts(*(c.swapaxes(1, 2) for c in counts))
    return sum_pairs(counts, wanted, dtype), sum_pairs(turned, (wanted & mirrored[:, None]).swapaxes(1, 2), dtype)


def _whole(sums: PairSums) -> Int[np.ndarray, "f l p"]:
    (coarse, fine), squares, *counts = jax.tree.map(np.asarray, sums)
    deficit = (coarse.astype(np.int64) << FINE_BITS) + fine
    squares = np.rint(squares.astype(np.float64) * SQUARES).astype(np.int64)
    return np.stack([deficit, squares, *(part.astype(np.int64) for part in counts)])


def _over_processes(totals: np.ndarray) -> np.ndarray:
    """The sum over all processes; in halves of 32 bits, since JAX has no wider integers by default."""
    from jax.experimental import multihost_utils

    gathered = np.asarray(multihost_utils.process_allgather(np.ascontiguousarray(totals).view(np.uint32)))
    return np.ascontiguousarray(gathered).view(np.int64).sum(axis=0)


def columns_of_blocks(
    packed: PackedGraph, labels: Int[np.ndarray, " n"], blocks: Iterable[Block]
) -> Iterator[tuple[Block, PathCounts]]:
    """The counts of every block, on the host, in NumPy: for those who want the pairs and not their sums."""
    count = _path_counter(packed, [labels])

    def solve(block: Block, device: Any) -> tuple[Block, PathCounts]:
        return block, PathCounts(*(np.asarray(part)[0] for part in count(block, device)))

    yield from on_devices(solve, blocks)
