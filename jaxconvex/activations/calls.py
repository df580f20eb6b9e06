"""A call with a batch, and what tells batches and weights apart."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

__all__ = ["array_hash", "call_with", "weights_hash"]


def call_with(call: Any, batch: Any) -> Any:
    """call(*batch) for a tuple or list, call(**batch) for a mapping, otherwise call(batch)."""
    if isinstance(batch, Mapping):
        return call(**batch)
    return call(*batch) if isinstance(batch, (tuple, list)) else call(batch)


def array_hash(array: Any, *more: bytes) -> str:
    """SHA-256 of type, shape and content, and of further bytes."""
    if isinstance(array, jax.Array) and jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key):
        array = jax.random.key_data(array)
    array = np.asarray(array)
    digest = hashlib.sha256(f"{array.dtype} {array.shape}".encode())
    content: Any = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    for part in (content, *more):
        digest.update(part)
    return digest.hexdigest()


def weights_hash(tree: Any, known: dict[int, tuple[Any, str]] | None = None) -> str:
    """SHA-256 of all arrays of a pytree and of their order. `known` keeps each and its hash, for the trees that share it."""
    known = {} if known is None else known
    leaves = jax.tree.leaves(tree)
    for leaf in leaves:
        if id(leaf) not in known:
            known[id(leaf)] = leaf, array_hash(leaf)
    return hashlib.sha256("".join(known[id(leaf)][1] for leaf in leaves).encode()).hexdigest()
