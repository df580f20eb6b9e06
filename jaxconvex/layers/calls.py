"""A call with a batch, and what tells arrays, weights and programs apart."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import jax
from jax.tree_util import Partial

from jaxconvex._internal.functions import digest
from jaxconvex._internal.kept import array_hash

__all__ = ["array_hash", "call_with", "program_hash", "weights_hash"]


def call_with(call: Any, batch: Any) -> Any:
    """call(*batch) for a tuple or list, call(**batch) for a mapping, otherwise call(batch)."""
    if isinstance(batch, Mapping):
        return call(**batch)
    return call(*batch) if isinstance(batch, (tuple, list)) else call(batch)


def weights_hash(tree: Any, known: dict[int, tuple[Any, str]] | None = None) -> str:
    """SHA-256 of all arrays of a pytree and of their order. `known` keeps each and its hash, for the trees that share it."""
    known = {} if known is None else known
    leaves = jax.tree.leaves(tree)
    for leaf in leaves:
        if id(leaf) not in known:
            known[id(leaf)] = leaf, array_hash(leaf)
    return hashlib.sha256("".join(known[id(leaf)][1] for leaf in leaves).encode()).hexdigest()


def program_hash(program: Partial, known: dict[int, tuple[Any, str]] | None = None) -> str | None:
    """A hash of all that a program of `as_program` computes: its code and its arrays. None where nothing tells the code."""
    code = digest(program)
    return None if code is None else f"{code}-{weights_hash(program, known)}"
