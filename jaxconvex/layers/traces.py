"""What a layered model does when it is called: trace it, find the layers in the trace, and read or replace them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import jaxpr_as_fun
from jax.interpreters import partial_eval

from jaxconvex._internal import loops
from jaxconvex._internal.devices import in_mesh
from jaxconvex.layers.marks import Site, evaluate, find_sites
from jaxconvex.layers.naming import LayerList, chosen_layers, found_layer, layer_list, name_sites
from jaxconvex.layers.selection import Fixed, is_array, opened

__all__ = ["NoWayOn", "listing", "parted", "read", "run_on", "with_batch"]


class NoWayOn(ValueError):
    """A layer that nothing runs on from."""


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
        return opened(model.call(weights, *inputs, **kwargs))

    jaxpr, shapes = jax.make_jaxpr(call, return_shape=True)(model.weights, arrays)
    weights, inputs = len(jax.tree.leaves(model.weights)), len(jax.tree.leaves(arrays))
    sites = find_sites(jaxpr, [True] * weights + [False] * inputs)
    return Trace(jaxpr, jax.tree.structure(shapes), name_sites(sites))


def listing(model: Any, arrays: Any, fixed: Fixed) -> LayerList:
    """All layers that a call has."""
    return layer_list(_traced(model, arrays, fixed).layers)


@partial(jax.jit, static_argnames=("fixed",))
@in_mesh
def read(model: Any, arrays: Any, fixed: Fixed) -> tuple[Any, OrderedDict[str, Any]]:
    """The outputs, opened, and the activations of the layers that the model is to read, in the order of execution."""
    trace = _traced(model, arrays, fixed)
    names = chosen_layers(trace.layers, model.layers)
    sites = [trace.layers[name] for name in names]
    outputs, values = evaluate(trace.jaxpr, jax.tree.leaves((model.weights, arrays)), [site.address for site in sites])
    activations = [_unflattened(site, leaves) for site, leaves in zip(sites, values, strict=True)]
    return jax.tree.unflatten(trace.tree, outputs), OrderedDict(zip(names, activations, strict=True))


@partial(jax.jit, static_argnames=("fixed", "layer", "repeated"))
@in_mesh
def run_on(
    model: Any,
    activation: Any,
    arrays: Any,
    fixed: Fixed,
    *,
    layer: str,
    repeated: tuple[str | int, ...] = (),
) -> Any:
    """`run_from`, its outputs opened; repeated are the arguments that were repeated to the activation's batch size.

    An activation of None: zeros.
    """
    model, activation, arrays = loops.alike((model, activation, arrays))  # a trace holds for what varies as it did
    trace = _traced(model, arrays, fixed)
    _, site = found_layer(trace.layers, layer)
    if activation is None:
        activation = _unflattened(site, [jnp.zeros(leaf.shape, leaf.dtype) for leaf in site.shapes])
    values = _leaves(site, layer, activation)
    if not _fits(site, values) and _fits(site, values, but_batch=True):
        arrays, repeated = with_batch(arrays, values[0].shape[0])
        trace = _traced(model, arrays, fixed)
        _, site = found_layer(trace.layers, layer)
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
        raise NoWayOn(
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
