"""The layers of a user's own Flax model: read them all in one call, and run on from any of them."""

from __future__ import annotations

import difflib
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import jaxpr_as_fun
from jax.interpreters import partial_eval
from jax.tree_util import Partial

from jaxconvex.marks import Site, evaluate, find_sites, is_array, name_sites

__all__ = ["LayeredModel", "from_linen", "from_nnx", "rest_of", "run_from"]

LISTED = 30  # names in a message


@partial(jax.tree_util.register_dataclass, data_fields=["weights"], meta_fields=["call", "layers"])
@dataclass(frozen=True)
class LayeredModel:
    """A model whose layers can be read: `read(*inputs, **kwargs)` gives its outputs and an OrderedDict name -> activation.

    Made by `from_nnx` and `from_linen`. It is a pytree whose leaves are the weights, so it can be an argument of functions
    under jit, grad and vmap; other weights of the same shapes compile nothing. The call is compiled once for each structure
    and shapes of the inputs: arrays are traced; numbers, strings and None of Python are fixed.
    """

    weights: Any
    call: Any  # call(weights, *inputs, **kwargs) marks the layers
    layers: tuple[str, ...] | None

    def __call__(self, *inputs: Any, **kwargs: Any) -> tuple[Any, OrderedDict[str, Any]]:
        return _read(self, *_parted(inputs, kwargs))


def from_nnx(
    model: Any,
    *,
    layers: str | Sequence[str] | None = None,
    method: str = "__call__",
    training: bool = False,
) -> LayeredModel:
    """The Flax NNX model as a function `read(*inputs, **kwargs)` -> its outputs and the activations of its layers, by name.

    A layer is a call of a module; its activation is what the call returns, and its name the path in the model:
    "blocks/3/attention". The second call of the same module is "shared@2". A pytree of several arrays is an activation as a
    whole; one with a single array, as (h,) or (h, None), is that array. A stack of modules in a scan has its steps as layers:
    "blocks/0", "blocks/0/mlp", "blocks/1"; under a vmap of the model's own the mapped axis of an activation comes first.

    Args:
        model: any nnx.Module. It is copied as it is now and never changed; read an updated model by calling from_nnx again,
            which costs next to nothing.
        layers: names, or patterns in which * stands for a part of a name and ** for anything, "/" included. By default the
            blocks: the direct submodules of the model, or their elements where these are lists, dictionaries, Sequentials
            or scanned stacks.
        method: what is called.
        training: allow dropout to draw and normalisation to use the statistics of the batch. What that changes in the
            model, as running statistics, is dropped: call model(x) beside it; under jit that is not computed twice.

    Raises:
        ValueError: when called: a model in training mode without training=True; names that match no layer; inputs missing.

    Works under jit, nnx.jit, vmap, grad and nnx.grad. Cost: the model once, compiled; activations not asked for are not kept.

    >>> from flax import nnx
    >>> model = nnx.Sequential(nnx.Linear(2, 5, rngs=nnx.Rngs(0)), nnx.relu, nnx.Linear(5, 3, rngs=nnx.Rngs(1)))
    >>> outputs, layers = from_nnx(model)(jnp.ones((4, 2)))
    >>> {name: h.shape for name, h in layers.items()}
    {'layers/0': (4, 5), 'layers/2': (4, 3)}
    """
    from flax import nnx

    from jaxconvex.flax_calls import NNXCall

    if not isinstance(model, nnx.Module):
        raise ValueError(f"from_nnx needs an nnx.Module; got {_kind(model)}. For Linen: from_linen(module, variables).")
    _check_method(model, method)
    graphdef, state = nnx.split(model)
    weights, tree = jax.tree.flatten(state)
    return LayeredModel(weights, NNXCall(graphdef, tree, method, training), _patterns(layers))


def from_linen(
    module: Any,
    variables: Mapping[str, Any] | None = None,
    *,
    layers: str | Sequence[str] | None = None,
    method: str = "__call__",
    training: bool = False,
) -> LayeredModel:
    """The Flax Linen module as a function `read(*inputs, **kwargs)` -> its outputs and the activations of its layers, by name.

    As `from_nnx`; names are Linen's paths, "blocks_3/attention". Keywords go to `module.apply`: options of the module, as
    train=False, and `rngs=` and `mutable=`.

    Args:
        module: any linen Module; a bound one needs no variables.
        variables: what `init` returned, {"params": ..., ...}.
        layers, method, training: see `from_nnx`. By default the direct submodules of the module (a list of blocks in Linen
            are direct submodules blocks_0, blocks_1, ...), or their elements where these are Sequentials or scanned stacks.

    Raises:
        ValueError: variables missing or not those of `init`; and as `from_nnx`.

    >>> import flax.linen as nn
    >>> module = nn.Sequential([nn.Dense(5), nn.relu, nn.Dense(3)])
    >>> x = jnp.ones((4, 2))
    >>> outputs, layers = from_linen(module, module.init(jax.random.key(0), x))(x)
    >>> {name: h.shape for name, h in layers.items()}
    {'layers_0': (4, 5), 'layers_2': (4, 3)}
    """
    import flax.linen as nn

    from jaxconvex.flax_calls import LinenCall

    if not isinstance(module, nn.Module):
        raise ValueError(f"from_linen needs a flax.linen Module; got {_kind(module)}. For NNX: from_nnx(model).")
    if module.scope is not None:
        module, bound = module.unbind()
        variables = bound if variables is None else variables
    if not isinstance(variables, Mapping) or "params" not in variables:
        got = f"the keys {list(variables)}" if isinstance(variables, Mapping) else _kind(variables)
        raise ValueError(f"variables must be what module.init returns, {{'params': ..., ...}}; got {got}.")
    _check_method(module, method)
    return LayeredModel(variables, LinenCall(_Fixed(module), method, training), _patterns(layers))


def run_from(model: Any, layer: str, activation: Any, /, *inputs: Any, **kwargs: Any) -> Any:
    """The outputs of the model with `activation` in the place of what the layer returns: the rest of the network.

    What only the layers before need is not computed, so it costs what hand-written code for the rest costs. What the rest
    needs beside the activation (masks, position biases, skip connections) comes from the inputs.

    Args:
        model: from `from_nnx` or `from_linen`, or an nnx.Module itself.
        layer: its name, any that the model has, whether read or not.
        activation: of the shape that the layer has for these inputs, a pytree of the same structure if it has several
            arrays; it is cast to the layer's type. It may have another batch size (first axis) where the rest does not use
            the inputs, or where they are a batch of one, which is then repeated.
        inputs, kwargs: as in the usual call.

    Raises:
        ValueError: an unknown layer, with the nearest names; one that the outputs do not depend on; one inside a loop of
            unknown length or a branch; shapes that do not fit.

    Works under jit, vmap and grad, by the activation, the inputs and the weights. A step of a scanned stack is one step and
    the steps after it. Cost: the rest of the network; compiled once for a layer, a structure and shapes.

    >>> from flax import nnx
    >>> model = nnx.Sequential(nnx.Linear(2, 5, rngs=nnx.Rngs(0)), nnx.relu, nnx.Linear(5, 3, rngs=nnx.Rngs(1)))
    >>> x = jnp.ones((4, 2))
    >>> outputs, layers = from_nnx(model)(x)
    >>> bool(jnp.all(run_from(model, "layers/0", layers["layers/0"], x) == outputs))
    True
    """
    return _run(_layered(model), activation, *_parted(inputs, kwargs), layer=layer)


def rest_of(
    model: Any, layer: str, /, *example: Any, side: str | int | Sequence[str | int] = (), **kwargs: Any
) -> Partial:
    """The rest of the network after a layer as a function of activations alone, for any batch size.

    It is the predict_fn of `euclidean_convexity` and a head of `evaluate`: (b, ...) -> (b, c), if the model returns logits.
    A jax.tree_util.Partial over the weights: for other weights of the same shapes nothing is compiled.

    Args:
        model, layer: see `run_from`.
        example, kwargs: inputs of the model, a batch of any size; one point is enough. Their values matter only where the rest
            of the network uses them; then the batch must be of one, which holds for every point, or use `side`.
        side: inputs that every point has its own of, as a mask, by keyword or position. The function then takes a tuple
            (activation, *side): the mask of each point goes where its activation goes. Booleans and integers may come as
            floats, true or 1 where above 0: `euclidean_convexity` interpolates all that it is given, and between two points
            a token is valid if it is valid for one of them.

    Raises:
        ValueError: as `run_from`, at once.

    >>> from flax import nnx
    >>> model = nnx.Sequential(nnx.Linear(2, 5, rngs=nnx.Rngs(0)), nnx.relu, nnx.Linear(5, 3, rngs=nnx.Rngs(1)))
    >>> predict = rest_of(model, "layers/0", jnp.zeros((1, 2)))
    >>> predict(jnp.ones((7, 5))).shape
    (7, 3)
    """
    model = _layered(model)
    arrays, fixed = _parted(example, kwargs)
    sides = (side,) if isinstance(side, (str, int)) else tuple(side)
    for one in sides:
        there = one in kwargs if isinstance(one, str) else isinstance(one, int) and 0 <= one < len(example)
        if not there:
            raise ValueError(
                f"side={one!r} must name a keyword or the position of an input in the example, which has {len(example)} "
                f"inputs and the keywords {list(kwargs)}."
            )
    jax.eval_shape(partial(_run, layer=layer, fixed=fixed), model, None, arrays)
    return Partial(_rest, _Fixed((layer, fixed, sides)), model, arrays)


def _rest(settings: _Fixed, model: LayeredModel, arrays: Any, points: Any) -> Any:
    layer, fixed, sides = settings.value
    activation, *values = points if sides else (points,)
    (inputs, kwargs), repeated = _with_batch(arrays, jax.tree.leaves(activation)[0].shape[0])
    inputs, kwargs = list(inputs), dict(kwargs)
    for one, value in zip(sides, values, strict=True):
        place: Any = kwargs if isinstance(one, str) else inputs
        kind = place[one].dtype
        place[one] = (value if jnp.issubdtype(kind, jnp.inexact) else value > 0).astype(kind)
    repeated = tuple(one for one in repeated if one not in sides)
    return _run(model, activation, (inputs, kwargs), fixed, layer=layer, repeated=repeated)


@jax.tree_util.register_static
class _Fixed:
    """A Python value that JAX compiles for: told from others by its value or, if that has no hash, by its identity."""

    def __init__(self, value: Any):
        self.value = value

    def __hash__(self) -> int:
        try:
            return hash(self.value)
        except TypeError:
            return id(self.value)

    def __eq__(self, other: Any) -> bool:
        if not isinstance(other, _Fixed):
            return NotImplemented
        return self.value is other.value or (hash(self) == hash(other) and bool(self.value == other.value))


class _Trace(NamedTuple):
    jaxpr: Any
    tree: Any  # of the outputs
    layers: dict[str, Site]


def _parted(inputs: Any, kwargs: Any) -> tuple[Any, _Fixed]:
    """The arguments with None for all that is not an array, and the rest: what is traced, and what is compiled for."""
    leaves, tree = jax.tree.flatten((inputs, kwargs), is_leaf=_is_none)
    arrays = jax.tree.unflatten(tree, [leaf if is_array(leaf) else None for leaf in leaves])
    return arrays, _Fixed((tree, tuple(None if is_array(leaf) else (type(leaf), leaf) for leaf in leaves)))


def _joined(arrays: Any, fixed: _Fixed) -> Any:
    tree, others = fixed.value
    leaves = jax.tree.leaves(arrays, is_leaf=_is_none)
    return jax.tree.unflatten(tree, [a if o is None else o[1] for a, o in zip(leaves, others, strict=True)])


def _is_none(value: Any) -> bool:
    return value is None


def _traced(model: LayeredModel, arrays: Any, fixed: _Fixed) -> _Trace:
    def call(weights: Any, arrays: Any) -> Any:
        inputs, kwargs = _joined(arrays, fixed)
        return model.call(weights, *inputs, **kwargs)

    jaxpr, shapes = jax.make_jaxpr(call, return_shape=True)(model.weights, arrays)
    weights, inputs = len(jax.tree.leaves(model.weights)), len(jax.tree.leaves(arrays))
    sites = find_sites(jaxpr, [True] * weights + [False] * inputs)
    return _Trace(jaxpr, jax.tree.structure(shapes), name_sites(sites))


@partial(jax.jit, static_argnames=("fixed",))
def _read(model: LayeredModel, arrays: Any, fixed: _Fixed) -> tuple[Any, OrderedDict[str, Any]]:
    trace = _traced(model, arrays, fixed)
    names = _chosen(trace.layers, model.layers)
    sites = [trace.layers[name] for name in names]
    outputs, values = evaluate(trace.jaxpr, jax.tree.leaves((model.weights, arrays)), [site.address for site in sites])
    activations = [_unflattened(site, leaves) for site, leaves in zip(sites, values, strict=True)]
    return jax.tree.unflatten(trace.tree, outputs), OrderedDict(zip(names, activations, strict=True))


@partial(jax.jit, static_argnames=("fixed", "layer", "repeated"))
def _run(
    model: LayeredModel,
    activation: Any,
    arrays: Any,
    fixed: _Fixed,
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
        arrays, repeated = _with_batch(arrays, values[0].shape[0])
        trace = _traced(model, arrays, fixed)
        site = _found(trace.layers, layer)
    if not _fits(site, values):
        raise ValueError(
            f"the activation of layer {layer!r} must have shape {_shapes(site.shapes)} for these inputs; got {_shapes(values)}. "
            "Give inputs of the same batch size (the first axis), or use rest_of."
        )

    def rest(values: Any, weights: Any, arrays: Any) -> list[Any]:
        values = [value.astype(leaf.dtype) for value, leaf in zip(values, site.shapes, strict=True)]
        return evaluate(trace.jaxpr, jax.tree.leaves((weights, arrays)), place=site.address, values=values)[0]

    jaxpr = jax.make_jaxpr(rest)(values, model.weights, arrays)
    _, used = partial_eval.dce_jaxpr(jaxpr.jaxpr, [True] * len(jaxpr.jaxpr.outvars))
    if not any(used[: len(values)]):
        raise ValueError(
            f"the outputs do not depend on layer {layer!r}, so there is nothing to run from it. Choose a layer on the way to "
            "the outputs, or a method= whose outputs come from it."
        )
    places = [path[1] for path, _ in jax.tree_util.tree_leaves_with_path(arrays)]
    places = [getattr(key, "idx", getattr(key, "key", None)) for key in places]
    needed = [place for place, yes in zip(places, used[len(used) - len(places) :], strict=True) if yes]
    if mixed := [place for place in needed if place in repeated]:
        raise ValueError(
            f"the rest of the network after {layer!r} uses the input {mixed[0]!r}, whose batch size is not that of the "
            "activation. Give one row of it for each row of the activation, or a single row for all; in rest_of name it in "
            "side=, if every point has its own."
        )
    outputs = jaxpr_as_fun(jaxpr)(*jax.tree.leaves((values, model.weights, arrays)))
    return jax.tree.unflatten(trace.tree, outputs)


def _with_batch(arrays: Any, size: int) -> tuple[Any, tuple[str | int, ...]]:
    """The arguments with the batch repeated to that size, and the places of those whose batch was not of one."""
    leaves = jax.tree_util.tree_leaves_with_path(arrays)
    batch = next((leaf.shape[0] for _, leaf in leaves if jnp.ndim(leaf)), size)
    if batch == size:
        return arrays, ()
    alike = [path[1] for path, leaf in leaves if jnp.ndim(leaf) and leaf.shape[0] == batch and batch != 1]
    rows = jnp.arange(size) % batch
    arrays = jax.tree.map(lambda x: jnp.asarray(x)[rows] if jnp.ndim(x) and x.shape[0] == batch else x, arrays)
    return arrays, tuple({getattr(key, "idx", getattr(key, "key", None)): None for key in alike})


def _unflattened(site: Site, leaves: Sequence[Any]) -> Any:
    return leaves[0] if len(leaves) == 1 else jax.tree.unflatten(site.tree, leaves)


def _leaves(site: Site, layer: str, activation: Any) -> list[Any]:
    leaves, tree = jax.tree.flatten(activation)
    if len(site.shapes) > 1 and tree != site.tree:
        raise ValueError(
            f"layer {layer!r} returns {len(site.shapes)} arrays, and an activation to run from must have all of them, in the "
            f"structure {site.tree}; got {tree}."
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
                f"the model has no blocks among its direct submodules; name layers= of {_listed(readable)}."
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
        raise ValueError(f"the model has no layer {layer!r}; it has, the nearest first, {_listed(list(sites), layer)}.")
    if site.enclosure is not None:
        raise ValueError(
            f"layer {layer!r} stands inside {site.enclosure!r}, where it cannot be read or replaced: a loop of unknown length "
            "or a branch has no activations of its own outside. Read a layer around it; or write the loop in Python or as a "
            "scan, whose steps are layers."
        )
    return site


def _listed(names: list[str], near: str | None = None) -> str:
    if near is not None:
        names = sorted(names, key=lambda name: -difflib.SequenceMatcher(None, near, name).ratio())
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(map(repr, names[:LISTED])) + more


def _patterns(layers: str | Sequence[str] | None) -> tuple[str, ...] | None:
    if layers is None:
        return None
    patterns = (layers,) if isinstance(layers, str) else tuple(layers)
    if not patterns or not all(isinstance(pattern, str) for pattern in patterns):
        raise ValueError(f"layers must be names or patterns, as ['blocks/*'], or None for all blocks; got {layers!r}.")
    return patterns


def _check_method(module: Any, method: str) -> None:
    if not callable(getattr(type(module), method, None)):
        raise ValueError(f"{type(module).__name__} has no method {method!r}; name one as method=.")


def _layered(model: Any) -> LayeredModel:
    return model if isinstance(model, LayeredModel) else from_nnx(model)


def _kind(value: Any) -> str:
    return value.__name__ + " itself, the class" if isinstance(value, type) else type(value).__name__
