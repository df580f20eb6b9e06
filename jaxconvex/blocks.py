"""The schedule of the fast engine: which sources are solved together, and on how many streams."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxconvex.paths import sources_per_block

__all__ = ["Block", "blocks_of_pairs", "class_partners", "in_streams", "pair_partners"]


class Block(NamedTuple):
    """Some sources, each with its own targets, padded: a source that is its own target is no pair."""

    sources: np.ndarray  # [s] points; the padding repeats the first
    targets: np.ndarray  # [t s] points
    num_sources: int  # those that are not padding


def class_partners(labels: np.ndarray, num_classes: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each class its points, and for each of them all points of the class, [m m]: large classes first."""
    members = [np.flatnonzero(labels == c) for c in range(num_classes)]
    members = sorted((m for m in members if len(m) > 1), key=len, reverse=True)
    return [(m, np.broadcast_to(m, (len(m), len(m)))) for m in members]


def pair_partners(first: np.ndarray, second: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """The given pairs, gathered by their first point: the points, and for each its partners, padded with itself."""
    order = np.argsort(first, kind="stable")
    sources, starts, counts = np.unique(first[order], return_index=True, return_counts=True)
    by_count = np.argsort(-counts, kind="stable")  # so that a block pads little
    sources, starts, counts = sources[by_count], starts[by_count], counts[by_count]
    width = int(counts.max(initial=0))
    entry = np.arange(width)
    padded = np.minimum(starts[:, None] + entry, len(first) - 1)
    return [(sources, np.where(entry < counts[:, None], second[order][padded], sources[:, None]))] if width else []


def blocks_of_pairs(partners: list[tuple[np.ndarray, np.ndarray]], num_points: int) -> Iterator[Block]:
    """Blocks of the sources in their order, the targets of each padded to a power of two to share compilations."""
    size = sources_per_block(num_points)
    waiting: list[tuple[np.ndarray, np.ndarray]] = []
    total = 0
    for sources, targets in partners:
        while len(sources):
            take = min(size - total, len(sources))
            waiting.append((sources[:take], targets[:take]))
            sources, targets, total = sources[take:], targets[take:], total + take
            if total == size:
                yield _block(waiting, size)
                waiting, total = [], 0
    if waiting:
        yield _block(waiting, size)


def _block(parts: list[tuple[np.ndarray, np.ndarray]], size: int) -> Block:
    sources = np.concatenate([s for s, _ in parts])
    count = len(sources)
    sources = np.concatenate([sources, np.full(size - count, sources[0])]).astype(np.int32)
    longest = max(t.shape[1] for _, t in parts)
    targets = np.repeat(sources[None, :], max(32, 1 << (longest - 1).bit_length()), axis=0)
    column = 0
    for own, partners in parts:
        targets[: partners.shape[1], column : column + len(own)] = partners.T
        column += len(own)
    return Block(sources, targets, count)


def in_streams(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
    """function(item) for each item, in order. On CPU a few run at once, a stream a core; elsewhere the device queues them.

    The first runs alone, so that what must be compiled is compiled once. An interrupt drops what has not begun.
    """
    items = iter(items)
    for item in items:
        yield function(item)
        break
    if jax.default_backend() != "cpu":
        yield from map(function, items)
        return
    wide = jax.dtypes.canonicalize_dtype(float) == np.float64  # x64 may be on in this thread alone: tell the others

    def work(item: Any) -> Any:
        with jax.enable_x64(wide):
            return function(item)

    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        futures = [pool.submit(work, item) for item in items]
        try:
            for future in futures:
                yield future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
