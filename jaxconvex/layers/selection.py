"""Which part of what a block returns is the layer, and objects that JAX does not know as trees of arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxconvex._internal.messages import listed

__all__ = ["STATE", "Fixed", "Logits", "Select", "closed", "is_array", "logits_of", "opened", "selected"]

Select = str | int | Callable[[Any], Any] | None
Logits = Select
STATE = ""  # as `select`: the first floating array of the shape of the block's input


def is_array(value: Any) -> bool:
    """Whether JAX traces it: an array, unlike Python's own numbers and strings."""
    return isinstance(value, (jax.Array, np.ndarray, np.generic))


@jax.tree_util.register_static
class Fixed:
    """A Python value that JAX compiles for: told from others by its value or, if that has no hash, by its identity."""

    def __init__(self, value: Any):
        self.value = value

    def __hash__(self) -> int:
        try:
            return hash(self.value)
        except TypeError:
            return id(self.value)

    def __eq__(self, other: Any) -> bool:
        if not isinstance(other, Fixed):
            return NotImplemented
        return self.value is other.value or (hash(self) == hash(other) and bool(self.value == other.value))


@jax.tree_util.register_pytree_with_keys_class
class _Opened:
    """The attributes of an object of a class that JAX does not know, as a tree."""

    def __init__(self, kind: type, attributes: dict[str, Any]):
        self.kind, self.attributes = kind, attributes

    def tree_flatten_with_keys(self) -> tuple[tuple[Any, ...], tuple[type, tuple[str, ...]]]:
        keyed = tuple((jax.tree_util.GetAttrKey(name), value) for name, value in self.attributes.items())
        return keyed, (self.kind, tuple(self.attributes))

    @classmethod
    def tree_unflatten(cls, about: tuple[type, tuple[str, ...]], values: Any) -> _Opened:
        return cls(about[0], dict(zip(about[1], values, strict=True)))


def opened(tree: Any) -> Any:
    """The tree with all that JAX cannot trace made static, but for the arrays among the attributes of objects."""

    def leaf(value: Any) -> Any:
        if is_array(value):
            return value
        attributes = None if isinstance(value, type) else getattr(value, "__dict__", None)
        if attributes and any(map(is_array, jax.tree.leaves(dict(attributes)))):
            return _Opened(type(value), {name: opened(one) for name, one in attributes.items()})
        return Fixed(value)

    return jax.tree.map(leaf, tree)


def closed(tree: Any) -> Any:
    """What `opened` was given, with the arrays that the tree has now."""

    def leaf(value: Any) -> Any:
        if isinstance(value, Fixed):
            return value.value
        if not isinstance(value, _Opened):
            return value
        made: Any = object.__new__(value.kind)
        made.__dict__.update({name: closed(one) for name, one in value.attributes.items()})
        return made

    return jax.tree.map(leaf, tree, is_leaf=lambda value: isinstance(value, (Fixed, _Opened)))


def selected(output: Any, select: Select, inputs: Any = ()) -> tuple[list[int], str]:
    """Which leaves of a block's output are the layer, and what tells them from the others, "" if they are all of it.

    Args:
        output: a pytree, as `opened` gives it.
        select: the name or the index of a part, where the output has it; or a function from the output to the part; STATE
            for the first floating array of the shape of the first floating input; None for all arrays.
        inputs: of the block.

    Raises:
        ValueError: what the function returns is no part of the output.

    >>> h = jnp.ones((2, 3))
    >>> selected({"gate": jnp.ones(2), "h": h}, STATE, h), selected((h, jnp.ones(2)), 1), selected((h, None), None)
    (([1], "['h']"), ([1], '[1]'), ([0], ''))
    """
    paths, leaves = (
        zip(*jax.tree_util.tree_leaves_with_path(output), strict=True) if jax.tree.leaves(output) else ((), ())
    )
    arrays = [i for i, leaf in enumerate(leaves) if is_array(leaf)]
    part = None if select is None or select == STATE else _part(output, select)
    if part is not None:
        inside = jax.tree.leaves(part)
        chosen = [i for i in arrays if any(leaves[i] is leaf for leaf in inside)]
        if callable(select) and len(chosen) != len(inside):
            raise ValueError(
                "select= must give a part of what the block returns, as it is, such as lambda output: output[0]; got "
                f"{jax.tree.structure(part)} of {jax.tree.structure(output)}."
            )
    elif select is None or len(arrays) < 2:
        return arrays, ""
    else:
        shape = next((x.shape for x in jax.tree.leaves(inputs) if _floats(x)), None)
        floating = [i for i in arrays if _floats(leaves[i])]
        chosen = ([i for i in floating if leaves[i].shape == shape] or floating)[:1] or arrays
    if len(chosen) == len(arrays):
        return arrays, ""
    return chosen, ", ".join(jax.tree_util.keystr(paths[i]) for i in chosen)


def logits_of(outputs: Any, logits: Logits = None) -> Any:
    """That part of a model's outputs; by default their "logits", an entry or an attribute, or all where they have none.

    Raises:
        ValueError: the outputs have no such part.

    >>> logits_of({"logits": 1, "loss": 2}), logits_of((3, 4), 1), logits_of(5)
    (1, 4, 5)
    """
    part = _part(outputs, "logits" if logits is None else logits)
    if part is None and logits is not None:
        names = list(outputs) if isinstance(outputs, Mapping) else [n for n in dir(outputs) if not n.startswith("_")]
        raise ValueError(
            f"logits={logits!r} must name a part of what the model returns, or be a function to it; it returns "
            f"{type(outputs).__name__} with {listed(names, str(logits))}."
        )
    return outputs if part is None else part


def _floats(value: Any) -> bool:
    return is_array(value) and jnp.issubdtype(value.dtype, jnp.floating)


def _part(output: Any, select: Select) -> Any:
    """None where the output has no such part."""
    if callable(select):
        return select(closed(output))
    output = output.attributes if isinstance(output, _Opened) else output
    if isinstance(output, Mapping):
        return output.get(select)
    if isinstance(select, str):
        return getattr(output, select, None)
    fits = isinstance(output, (tuple, list)) and isinstance(select, int) and -len(output) <= select < len(output)
    return output[select] if fits else None
