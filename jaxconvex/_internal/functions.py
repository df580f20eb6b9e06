"""What a user's function computes now, as a program and the arrays that it holds.

JAX keeps what it compiled by the identity of a function, and would go on answering with the weights of the first call. So a
function is traced at every call, wherever its arrays stand (in a module, a method's owner, a closure, a global); they become
arguments, and programs that compute the same share what is compiled.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import jaxpr_as_fun
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.tree_util import Partial

from jaxconvex._internal.checks import is_concrete
from jaxconvex._internal.devices import in_shard_map
from jaxconvex._internal.kept import array_hash

__all__ = ["Program", "as_program", "call_with", "compiled", "digest", "frozen", "program_hash", "weights_hash"]

UNTOLD = "untold"

# A part of the key of JAX's caches of traces: a new number makes it trace functions under a user's own jit anew, too.
_at_call = jax.make_user_context(0)
_numbers = itertools.count(1)


class Program:
    """A traced function without the arrays it holds, which are its first arguments; equal to those that compute the same."""

    def __init__(self, jaxpr: Any, tree: Any, code: str, held: Sequence[Any] = ()):
        self.jaxpr, self.tree, self.code, self.held = jaxpr, tree, code, held

    def __call__(self, *arguments: Any) -> Any:
        return jax.tree.unflatten(self.tree, jaxpr_as_fun(self.jaxpr)(*self.held, *jax.tree.leaves(arguments)))

    def __hash__(self) -> int:
        return hash(self.code)

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, Program) and (self.code, self.tree) == (other.code, other.tree)


def as_program(function: Callable[..., Any], *arguments: Any) -> Partial:
    """The function as it is now, for arguments of these shapes: `Partial(program, *arrays)`, with what it holds as leaves.

    Args:
        function: any function of JAX arrays; it must not change what it holds.
        arguments: pytrees of arrays or of jax.ShapeDtypeStruct; their values do not matter.

    As an argument of what is under jit it compiles nothing where an equal program was compiled. What calls back to Python,
    or is traced within another trace, equals no other.

    Raises:
        ValueError: the function changes an nnx.Module that it holds.

    Cost: one trace and one lowering.

    >>> weights = np.ones(2, np.float32)
    >>> double = lambda x: x * weights
    >>> first = as_program(double, np.ones(2, np.float32))(np.ones(2, np.float32)).tolist()
    >>> weights *= 5
    >>> first, as_program(double, np.ones(2, np.float32))(np.ones(2, np.float32)).tolist()
    ([1.0, 1.0], [5.0, 5.0])
    """
    if in_shard_map():  # where what varies between devices is part of the types, and nothing is kept for another call
        return Partial(lambda *given: function(*given))
    shapes = jax.eval_shape(_same, arguments)
    try:
        with _at_call(next(_numbers)):
            traced, out = jax.make_jaxpr(lambda *given: function(*given), return_shape=True)(*shapes)
    except Exception as error:
        if type(error).__name__ != "TraceContextError":  # of Flax, which is not imported here
            raise
        raise ValueError(
            "the function changes a module that it holds, by drawing for dropout, moving statistics or keeping values, so "
            "that it gives other results at every call. Call model.eval(), or take nnx.view(model, deterministic=True, "
            f"use_running_average=True), a copy. Flax says: {error}"
        ) from error
    held = [leaf if isinstance(leaf, jax.Array) else np.asarray(leaf) for leaf in traced.consts]

    def of_arrays(held: Any, given: Any) -> Any:
        return jax.core.eval_jaxpr(traced.jaxpr, held, *jax.tree.leaves(given))

    again = jax.jit(of_arrays).trace(jax.eval_shape(_same, held), shapes)
    text = again.lower().as_text() if is_concrete(held, arguments) else "callback"
    code = f"{UNTOLD} {next(_numbers)}" if "callback" in text else hashlib.sha256(text.encode()).hexdigest()
    return Partial(Program(again.jaxpr, jax.tree.structure(out), code), *held)


def digest(program: Partial) -> str | None:
    """A hash of the code of a program, the same in every process; the arrays that it holds have no part in it.

    None where it calls back to Python, and nothing tells what is computed there.
    """
    of: Any = program.func
    return None if of.code.startswith(UNTOLD) else of.code


def frozen(function: Callable[..., Any], *arguments: Any) -> Callable[..., Any]:
    """The function as it is now, for arguments of these shapes, as a static argument: equal to those that compute the same.

    What it holds is part of it: other values compile anew. A function of what is being traced stays as it is.
    """
    program = as_program(function, *arguments)
    if not isinstance(program.func, Program):
        return program.func
    if not is_concrete(program):
        return function
    of: Any = program.func
    held = [np.array(leaf) for leaf in program.args]  # copies, whose types and shapes are part of the code
    values = hashlib.sha256(b"".join(leaf.tobytes() for leaf in held)).hexdigest()
    return Program(of.jaxpr, of.tree, of.code + values, held)


def compiled(function: Callable[..., Any], mesh: Mesh | None = None) -> Callable[..., Any]:
    """The function, compiled; what it holds is taken at the first call with arguments of new shapes, and kept.

    So make it anew for every pass over some data. With a mesh, what it holds is copied to all devices.
    """
    everywhere = None if mesh is None else NamedSharding(Mesh(mesh.devices.ravel(), ("all",)), PartitionSpec())
    programs: dict[Any, Partial] = {}

    def call(*arguments: Any) -> Any:
        leaves, tree = jax.tree.flatten(jax.eval_shape(_same, arguments))
        shapes = (tree, *((leaf.shape, leaf.dtype) for leaf in leaves))
        if shapes not in programs:
            programs[shapes] = jax.device_put(as_program(function, *arguments), everywhere)
        return _run(programs[shapes], *arguments)

    return call


@jax.jit
def _run(program: Partial, *arguments: Any) -> Any:
    return program(*arguments)


def _same(value: Any) -> Any:
    return value


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
