"""Points that are there more than once: found, counted, and kept in one part of the data."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

__all__ = ["copies_told", "identical", "without_copies_across"]


def identical(inputs: Sequence[Any] | np.ndarray) -> Int[np.ndarray, " n"]:
    """The number of the set of identical points that each is in: that of the first of them.

    Arrays are identical that are equal to the last bit; texts that differ in case and white space only.

    >>> identical(["A card", "my card", "a  card"]).tolist()
    [0, 1, 0]
    """
    first: dict[bytes, int] = {}
    return np.array([first.setdefault(_digest(item), number) for number, item in enumerate(inputs)], int)


def _digest(item: Any) -> bytes:
    if isinstance(item, str):
        return hashlib.sha256(" ".join(item.casefold().split()).encode(errors="surrogatepass")).digest()
    array = np.ascontiguousarray(item)
    return hashlib.sha256(repr((array.dtype.str, array.shape)).encode() + array.tobytes()).digest()


def without_copies_across(part: Int[np.ndarray, " n"], sets: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """The part of each point, -1 for those that are left out: identical points of a later part are there.

    >>> without_copies_across(np.array([0, 2, 0, 1]), np.array([0, 0, 2, 3])).tolist()
    [-1, 2, 0, 1]
    """
    last = np.full(sets.max(initial=0) + 1, -1)
    np.maximum.at(last, sets, part)
    return np.where(part < last[sets], -1, part)


def copies_told(sets: np.ndarray, labels: np.ndarray, left_out: int, parts: dict[str, np.ndarray]) -> str:
    """What was found, in sentences: copies in all, with another label, left out, and within the parts."""
    names, counts = np.unique(sets, return_counts=True)
    if len(names) == len(sets):
        return "No two points are identical."
    of_label = len(np.unique(np.stack([sets, np.unique(labels, return_inverse=True)[1]]), axis=1).T)
    said = f"{len(sets) - len(names):,} of {len(sets):,} points are copies of {np.sum(counts > 1):,} others"
    said += f", {of_label - len(names):,} with another label" if of_label > len(names) else ""
    said += "; all copies stay in one part"
    said += (
        f", so {left_out:,} {'was' if left_out == 1 else 'were'} left out of the training and validation parts"
        if left_out
        else ""
    )
    within = ", ".join(f"{len(rows) - len(np.unique(sets[rows])):,} in {name}" for name, rows in parts.items())
    return f"{said}. Copies within the parts: {within}."
