"""What a layered model does when it is called: trace it, find the layers in the trace, and read or replace them."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import jaxpr_as_fun
from jax.interpreters import partial_eval

from jaxconvex._internal.messages import listed
from jaxconvex.layers.marks import Site, evaluate, find_sites, is_array, name_sites

__all__ = ["Fixed", "parted", "read", "run_on", "with_batch"]


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


class Trace(NamedTuple):
    """A call of a model as a jaxpr, with its layers by name."""

    jaxpr: Any
    tree: Any  # of the outputs
    layers: dict[str, Site]


def parted(inputs: Any, kwargs: Any) -> tuple[Any, Fixed]:
    """The arguments with None for all that is not an array, and the rest: what is traced, and what is compiled for."""
    leaves, tree = jax.tree.flatten((inputs, kwargs), is_leaf=_is_none)
    arrays = jax.tree.unflatten(tree, [leaf if is_array(leaf) else None for leaf in leaves])
    return arrays, Fixed((tree, tuple(None if is_array(leaf) else (type(leaf), leaf) for leaf in leaves)))


def _joined(arrays: Any, fixed: Fixed) -> Any:
    tree, others = fixed.value
    leaves = jax.tree.leaves(arrays, is_leaf=_is_none)
    return jax.tree.unflatten(tree, [a if o is None else o[1] for a, o in zip(leaves, others, strict=True)])


def _is_none(value: Any) -> bool:
    return value is None


def _traced(model: Any, arrays: Any, fixed: Fixed) -> Trace:
    def call(weights: Any, arrays: Any) -> Any:
        inputs, kwargs = _joined(arrays, fixed)
        return model.call(weights, *inputs, **kwargs)

    jaxpr, shapes = jax.make_jaxpr(call, return_shape=True)(model.weights, arrays)
    weights, inputs = len(jax.tree.leaves(model.weights)), len(jax.tree.leaves(arrays))
    sites = find_sites(jaxpr, [True] * weights + [False] * inputs)
    return Trace(jaxpr, jax.tree.structure(shapes), name_sites(sites))


@partial(jax.jit, static_argnames=("fixed",))
def read(model: Any, arrays: Any, fixed: Fixed) -> tuple[Any, OrderedDict[str, Any]]:
    """The outputs and the activations of the layers that the model is to read, in the order of execution."""
    trace = _traced(model, arrays, fixed)
    names = _chosen(trace.layers, model.layers)
    sites = [trace.layers[name] for name in names]
    outputs, values = evaluate(trace.jaxpr, jax.tree.leaves((model.weights, arrays)), [site.address for site in sites])
    activations = [_unflattened(site, leaves) for site, leaves in zip(sites, values, strict=True)]
    return jax.tree.unflatten(trace.tree, outputs), OrderedDict(zip(names, activations, strict=True))


@partial(jax.jit, static_argnames=("fixed", "layer", "repeated"))
def run_on(
    model: Any,
    activation: Any,
    arrays: Any,
    fixed: Fixed,
    *,
    layer: str,
    repeated: tuple[str | int, ...] = (),
) -> Any:
    """`run_from`; repeated are the arguments that were repeated to the batch size of the activation. None: zeros."""
    trace = _traced(model, arrays, fixed)
    site = _found(trace.layers, layer)
    if activation is None:
        activation = _unflattened(site, [jnp.zeros(leaf.shape, leaf.dtype) for leaf in site.shapes])
    values = _leaves(site, layer, activation)
    if not _fits(site, values) and _fits(site, values, but_batch=True):
        arrays, repeated = with_batch(arrays, values[0].shape[0])
        trace = _traced(model, arrays, fixed)
        site = _found(trace.layers, layer)
    if not _fits(site, values):
        raise ValueError(
            f"the activation of layer {layer!r} must have shape {_shapes(site.shapes)} for these inputs; got "
            f"{_shapes(values)}. Give inputs of the same batch size (the first axis), or use rest_of."
        )

    def rest(values: Any, weights: Any, arrays: Any) -> list[Any]:
        values = [value.astype(leaf.dtype) for value, leaf in zip(values, site.shapes, strict=True)]
        return evaluate(trace.jaxpr, jax.tree.leaves((weights, arrays)), place=site.address, values=values)[0]

    jaxpr = jax.make_jaxpr(rest)(values, model.weights, arrays)
    _, used = partial_eval.dce_jaxpr(jaxpr.jaxpr, [True] * len(jaxpr.jaxpr.outvars))
    if not any(used[: len(values)]):
        raise ValueError(
            f"the outputs do not depend on layer {layer!r}, so there is nothing to run from it. Choose a layer on the way "
            "to the outputs, or a method= whose outputs come from it."
        )
    places = [_place(path) for path, _ in jax.tree_util.tree_leaves_with_path(arrays)]
    needed = [place for place, yes in zip(places, used[len(used) - len(places) :], strict=True) if yes]
    if mixed := [place for place in needed if place in repeated]:
        raise ValueError(
            f"the rest of the network after {layer!r} uses the input {mixed[0]!r}, whose batch size is not that of the "
            "activation. Give one row of it for each row of the activation, or a single row for all; in rest_of name it in "
            "side=, if every point has its own."
        )
    outputs = jaxpr_as_fun(jaxpr)(*jax.tree.leaves((values, model.weights, arrays)))
    return jax.tree.unflatten(trace.tree, outputs)


def with_batch(arrays: Any, size: int) -> tuple[Any, tuple[str | int, ...]]:
    """The arguments with the batch repeated to that size, and the places of those whose batch was not of one."""
    leaves = jax.tree_util.tree_leaves_with_path(arrays)
    batch = next((leaf.shape[0] for _, leaf in leaves if jnp.ndim(leaf)), size)
    if batch == size:
        return arrays, ()
    alike = [_place(path) for path, leaf in leaves if jnp.ndim(leaf) and leaf.shape[0] == batch and batch != 1]
    rows = jnp.arange(size) % batch
    arrays = jax.tree.map(lambda x: jnp.asarray(x)[rows] if jnp.ndim(x) and x.shape[0] == batch else x, arrays)
    return arrays, tuple(alike)


def _place(path: tuple[Any, ...]) -> str | int:
    """The keyword or the position of the argument that a leaf of (inputs, kwargs) belongs to."""
    return path[1].key if isinstance(path[1], jax.tree_util.DictKey) else path[1].idx


def _unflattened(site: Site, leaves: Sequence[Any]) -> Any:
    return leaves[0] if len(leaves) == 1 else jax.tree.unflatten(site.tree, leaves)


def _leaves(site: Site, layer: str, activation: Any) -> list[Any]:
    leaves, tree = jax.tree.flatten(activation)
    if len(site.shapes) > 1 and tree != site.tree:
        raise ValueError(
            f"layer {layer!r} returns {len(site.shapes)} arrays, and an activation to run from must have all of them, in "
            f"the structure {site.tree}; got {tree}."
        )
    if len(leaves) != len(site.shapes):
        raise ValueError(f"the activation of layer {layer!r} must be one array; got {tree}.")
    return [jnp.asarray(leaf) for leaf in leaves]


def _fits(site: Site, values: Sequence[Any], but_batch: bool = False) -> bool:
    start = 1 if but_batch else 0
    pairs = [(value.shape, leaf.shape) for value, leaf in zip(values, site.shapes, strict=True)]
    return all(len(a) == len(b) and a[start:] == b[start:] for a, b in pairs) and (
        not but_batch or all(a for a, _ in pairs)
    )


def _shapes(values: Sequence[Any]) -> str:
    return ", ".join(str(tuple(value.shape)) for value in values)


def _chosen(sites: dict[str, Site], patterns: tuple[str, ...] | None) -> list[str]:
    """The layers to read, in the order of execution."""
    readable = [name for name, site in sites.items() if site.enclosure is None]
    if patterns is None:
        blocks = [name for name in readable if sites[name].block]
        if not blocks:
            raise ValueError(
                f"the model has no blocks among its direct submodules; name layers= of {listed(readable)}."
            )
        return blocks
    chosen = set()
    for pattern in patterns:
        expression = re.escape(pattern).replace(r"\*\*", ".*").replace(r"\*", "[^/]*")
        matches = [name for name in readable if re.fullmatch(expression, name)]
        chosen.update(matches or [_found(sites, pattern) and pattern])
    return [name for name in readable if name in chosen]


def _found(sites: dict[str, Site], layer: str) -> Site:
    site = sites.get(layer)
    if site is None:
        raise ValueError(f"the model has no layer {layer!r}; it has, the nearest first, {listed(sites, layer)}.")
    if site.enclosure is not None:
        raise ValueError(
            f"layer {layer!r} stands inside {site.enclosure!r}, where it cannot be read or replaced: what a loop of unknown "
            "length, a branch or a function with its own gradient computes is not seen outside. Take a layer around it; or "
            "write the loop in Python or as a scan, whose steps are layers."
        )
    return site
