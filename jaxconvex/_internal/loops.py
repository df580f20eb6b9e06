"""The loops and branches of `jax.lax`, which also run where what is computed differs between the devices of a shard_map.

A shard_map that checks what varies (its default) wants the start of a loop declared to vary along the axes along which
anything varies that the loop puts in its place. The start is often a constant, which varies along none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax
from jax import lax

from jaxconvex._internal.devices import in_shard_map

__all__ = ["alike", "cond", "fori_loop", "scan", "varying", "while_loop"]

T = TypeVar("T")


def while_loop(condition: Callable[[T], Any], body: Callable[[T], T], start: T) -> T:
    """`lax.while_loop`.

    >>> int(while_loop(lambda i: i < 5, lambda i: i + 2, 0))
    6
    """
    axes = _axes_of_result(body, start)
    declared = (lambda state: varying(body(state), axes)) if axes else body
    return lax.while_loop(condition, declared, varying(start, axes))


def fori_loop(lower: Any, upper: Any, body: Callable[[Any, T], T], start: T) -> T:
    """`lax.fori_loop`.

    >>> int(fori_loop(0, 4, lambda i, total: total + i, 0))
    6
    """
    axes = _axes_of_result(lambda state: body(lower, state), start)
    if not axes:
        return lax.fori_loop(lower, upper, body, start)
    return lax.fori_loop(lower, upper, lambda i, state: varying(body(i, state), axes), varying(start, axes))


def scan(body: Callable[[Any, Any], tuple[Any, Any]], start: Any, values: Any, length: int | None = None) -> Any:
    """`lax.scan`.

    >>> int(scan(lambda total, _: (total + 2, None), 0, None, length=3)[0])
    6
    """
    first = jax.tree.map(lambda leaf: leaf[0], values)
    axes = _axes_of_result(lambda state: body(state, first)[0], start)
    if not axes:
        return lax.scan(body, start, values, length=length)

    def declared(state: Any, value: Any) -> tuple[Any, Any]:
        state, out = body(state, value)
        return varying(state, axes), out

    return lax.scan(declared, varying(start, axes), values, length=length)


def cond(condition: Any, yes: Callable[..., T], no: Callable[..., T], *operands: Any) -> T:
    """`lax.cond`, which under vmap wants operands that vary alike.

    >>> int(cond(True, lambda i: i + 1, lambda i: i - 1, 5))
    6
    """
    return lax.cond(condition, yes, no, *alike(operands, condition))


def varying(values: T, axes: frozenset[str]) -> T:
    """The values, declared to vary along these axes of a shard_map."""

    def declared(leaf: Any) -> Any:
        missing = tuple(sorted(axes - _axes_of(leaf)))
        return lax.pcast(leaf, missing, to="varying") if missing else leaf

    return jax.tree.map(declared, values) if axes else values


def alike(values: T, *others: Any) -> T:
    """The values, declared to vary along all axes of a shard_map along which any of them does, or of the others."""
    leaves = jax.tree.leaves((values, others)) if in_shard_map() else []
    return varying(values, frozenset().union(*map(_axes_of, leaves)))


def _axes_of_result(body: Callable[[T], T], start: T) -> frozenset[str]:
    """All axes along which anything varies in a loop: what one turn gives tells, since it holds all that the loop reads."""
    if not in_shard_map():
        return frozenset()
    found = jax.tree.leaves((start, jax.eval_shape(body, start)))
    return frozenset().union(*(_axes_of(leaf) for leaf in found))


def _axes_of(leaf: Any) -> frozenset[str]:
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return getattr(leaf.manual_axis_type, "varying", frozenset())
    return jax.typeof(leaf).manual_axis_type.varying
