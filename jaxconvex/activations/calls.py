"""Functions with weights: as pytrees, so that the weights are arguments of what is compiled; and what tells them apart."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.tree_util import Partial

__all__ = ["array_hash", "as_call", "call_with", "program_hash", "weights_hash"]


def as_call(function: Any) -> Partial:
    """The function as a `jax.tree_util.Partial` whose leaves are its weights.

    They are found in a callable that is a pytree (a Partial, an nnx.Module, what `from_nnx` gives) and in a method of
    one. Those of other functions stay where they are, constants of the compiled code.

    >>> as_call(jax.tree_util.Partial(max, 2))(6)
    6
    """
    owner = getattr(function, "__self__", None)
    if owner is not None and hasattr(function, "__func__") and _is_pytree(owner):
        return Partial(function.__func__, owner)
    if isinstance(function, Partial):
        return function
    return Partial(_call, function) if _is_pytree(function) else Partial(function)


def _is_pytree(value: Any) -> bool:
    return not jax.tree_util.all_leaves([value])


def _call(function: Any, *arguments: Any, **more: Any) -> Any:
    return function(*arguments, **more)


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


def weights_hash(tree: Any, known: dict[int, str] | None = None) -> str:
    """SHA-256 of all arrays of a pytree and of their order. `known` keeps the hash of each, for the trees that share it."""
    known = {} if known is None else known
    leaves = jax.tree.leaves(tree)
    hashes = [known[id(leaf)] if id(leaf) in known else known.setdefault(id(leaf), array_hash(leaf)) for leaf in leaves]
    return hashlib.sha256("".join(hashes).encode()).hexdigest()


def program_hash(function: Any, *arguments: Any, **more: Any) -> str:
    """SHA-256 of what a function compiles to for arguments of these shapes: its code and the constants in it.

    A Partial's leaves count as arguments: see `weights_hash`. Another version of JAX may give another hash.
    """
    lowered = jax.jit(_call).lower(as_call(function), *arguments, **more)
    return hashlib.sha256(lowered.as_text().encode()).hexdigest()
