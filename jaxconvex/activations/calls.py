"""Functions with weights: as pytrees, so that the weights are arguments of what is compiled; and what tells them apart."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.tree_util import Partial

from jaxconvex.kept import array_hash

__all__ = ["Traced", "array_hash", "as_call", "call_with", "function_hash", "program_hash", "weights_hash"]


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


def weights_hash(tree: Any, known: dict[int, str] | None = None) -> str:
    """SHA-256 of all arrays of a pytree and of their order. `known` keeps the hash of each, for the trees that share it."""
    known = {} if known is None else known
    leaves = jax.tree.leaves(tree)
    hashes = [known[id(leaf)] if id(leaf) in known else known.setdefault(id(leaf), array_hash(leaf)) for leaf in leaves]
    return hashlib.sha256("".join(hashes).encode()).hexdigest()


# A call back into Python, which stands in the code without the function that it calls.
_CALLBACK = re.compile(r"custom_call @\S*callback|stablehlo\.send")


def program_hash(function: Any, *arguments: Any, **more: Any) -> str | None:
    """SHA-256 of what a function compiles to for arguments of these shapes: its code and the constants in it.

    It is traced anew, since what it reads from outside may have changed. None for a function that calls back into Python:
    its code does not tell what is computed there. A Partial's leaves count as arguments: see `weights_hash`. Another
    version of JAX may give another hash.
    """

    def traced(function: Any, *arguments: Any, **more: Any) -> Any:
        return function(*arguments, **more)

    text = jax.jit(traced).lower(as_call(function), *arguments, **more).as_text()
    return None if _CALLBACK.search(text) else hashlib.sha256(text.encode()).hexdigest()


def function_hash(function: Any, *arguments: Any) -> str | None:
    """What tells a function from others: its program on arguments of these shapes, and its weights. None as above."""
    call = as_call(function)
    program = program_hash(call, *arguments)
    return None if program is None else f"{program}-{weights_hash(call)}"


class Traced:
    """A function that equals those with the same `function_hash`, so that JAX compiles once for all of them.

    By itself a function equals itself only, also when what it reads from outside has changed.
    """

    def __init__(self, function: Callable[..., Any], *arguments: Any):
        self.function = function
        self.hash = function_hash(function, *arguments)

    def __call__(self, *arguments: Any) -> Any:
        return self.function(*arguments)

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Traced) and self.hash is not None and self.hash == other.hash)

    def __hash__(self) -> int:
        return hash(self.hash)
