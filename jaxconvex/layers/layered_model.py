"""A model whose layers can be read in one call: a Flax model, or a function of any library on JAX with marks in it."""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import jax
import numpy as np

from jaxconvex._internal.messages import listed
from jaxconvex.layers.naming import LayerList
from jaxconvex.layers.selection import STATE, Fixed, Select, closed, is_array, opened
from jaxconvex.layers.traces import listing, parted, read

__all__ = [
    "LayeredModel",
    "as_layered",
    "from_function",
    "from_linen",
    "from_nnx",
    "layer_names",
    "of_arrays",
    "read_module",
    "reads_module",
]


@partial(jax.tree_util.register_dataclass, data_fields=["weights", "kwargs"], meta_fields=["call", "layers"])
@dataclass(frozen=True, repr=False)
class LayeredModel:
    """A model whose layers can be read: `read(*inputs, **kwargs)` gives its outputs and an OrderedDict name -> activation.

    Made by `from_nnx`, `from_linen` and `from_function`. It is a pytree whose leaves are the weights, so it can be an
    argument of functions under jit, grad and vmap; other weights of the same shapes compile nothing. The call is compiled
    once for each structure and shapes of the inputs: arrays are traced; numbers, strings and None of Python are fixed.
    """

    weights: Any
    call: Any  # call(weights, *inputs, **kwargs) marks the layers
    layers: tuple[str, ...] | None
    kwargs: Any = field(default_factory=dict)  # of every call, opened

    def __call__(self, *inputs: Any, **kwargs: Any) -> tuple[Any, OrderedDict[str, Any]]:
        outputs, layers = read(self, *self.parted(inputs, kwargs))
        return closed(outputs), layers

    def parted(self, inputs: Any, kwargs: Any) -> tuple[Any, Fixed]:
        """What a call with these arguments traces, and what it is compiled for."""
        return parted(inputs, {**closed(self.kwargs), **kwargs})

    def __repr__(self) -> str:
        arrays = jax.tree.leaves(self.weights)
        numbers = sum(int(np.prod(array.shape)) for array in arrays if is_array(array))
        layers = "its default layers" if self.layers is None else f"layers {listed(self.layers)}"
        return f"LayeredModel of {self.call!r}: {layers}, {len(arrays)} arrays of {numbers:,} numbers"


def from_nnx(
    model: Any,
    *,
    layers: str | Sequence[str] | None = None,
    method: str = "__call__",
    kwargs: Mapping[str, Any] | None = None,
    rngs: Any = None,
    select: Select = None,
    training: bool = False,
) -> LayeredModel:
    """The Flax NNX model as a function `read(*inputs, **kwargs)` -> its outputs and an OrderedDict layer -> activation.

    A layer is a call of a module; its activation is what the call returns, and its name the path in the model:
    "blocks/3/attention"; for another method than the call "encoder.encode". The second call of the same module is
    "shared@2". A pytree of several arrays is one activation (see select); of one array, as (h,) or (h, None), the
    activation is the array. A stack of modules in a scan has its steps as layers: "blocks/0", "blocks/0/mlp", "blocks/1".
    Under a vmap of the model's own the mapped axis of an activation comes first. Linen modules within, by Flax's bridge,
    are layers too.

    Args:
        model: any nnx.Module. Its arrays are taken as they are now, and it is never changed; read an updated model by
            calling from_nnx again, which costs next to nothing. An object among its attributes that is no array and no
            module is part of what is compiled, by its identity: put another in its place, do not change it.
        layers: names, or patterns in which * stands for a part of a name and ** for anything, "/" included. By default the
            blocks: the direct submodules of the model, or their elements where these are lists, dictionaries, Sequentials
            or scanned stacks; those of a wrapper in its place, if it is the only one or holds the blocks that repeat.
            `layer_names` lists them.
        method: what is called.
        kwargs: keywords of every call, such as {"train": False}; those of a single call go before them. They hold wherever
            this model goes: in run_from, rest_of, extract, model_source and evaluate.
        rngs: the same for the keyword rngs.
        select: which part of what a block returns is the layer, where it returns several arrays: the name or the index of
            a part, or a function from what it returns to the part. A layer that has no such part is what it returns. By
            default a layer is all that its block returns; only `extract` and `model_source`, which need one array, then
            take the first floating array of the shape of the block's input.
        training: allow dropout to draw and normalisation to use the statistics of the batch. What a usual call changes in
            the model, running statistics and the counters of draws, stays as it is: without a usual call model(x) in every
            step the statistics do not move and all steps draw the same.

    Raises:
        ValueError: when called: a model in training mode without training=True; names that match no layer; inputs missing.

    Works under jit, nnx.jit, vmap, grad and nnx.grad. Cost: the model once, compiled; only what is read is kept.

    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> model = nnx.Sequential(nnx.Linear(2, 5, rngs=nnx.Rngs(0)), nnx.relu, nnx.Linear(5, 3, rngs=nnx.Rngs(1)))
    >>> outputs, layers = from_nnx(model)(jnp.ones((4, 2)))
    >>> {name: h.shape for name, h in layers.items()}
    {'layers/0': (4, 5), 'layers/2': (4, 3)}
    """
    from flax import nnx

    from jaxconvex.layers.flax_calls import NNXCall

    if not isinstance(model, nnx.Module):
        raise ValueError(f"from_nnx needs an nnx.Module; got {_kind(model)}. For Linen: from_linen(module, variables).")
    _check_method(model, method)
    graphdef, state = nnx.split(model)
    weights, tree = jax.tree.flatten(state)
    call = NNXCall(graphdef, tree, method, training, select)
    return LayeredModel(_copied(weights), call, _patterns(layers), _given(kwargs, rngs))


def from_linen(
    module: Any,
    variables: Mapping[str, Any] | None = None,
    *,
    layers: str | Sequence[str] | None = None,
    method: str = "__call__",
    kwargs: Mapping[str, Any] | None = None,
    rngs: Any = None,
    select: Select = None,
    training: bool = False,
) -> LayeredModel:
    """The Flax Linen module as a function `read(*inputs, **kwargs)` -> its outputs and an OrderedDict layer -> activation.

    As `from_nnx`; names are Linen's paths, "blocks_3/attention". Keywords, of a call or all calls (kwargs), go to
    `module.apply`: options of the module, as train=False, and `rngs=` and `mutable=`.

    Args:
        module: any linen Module; a bound one needs no variables.
        variables: what `init` returned, {"params": ..., ...}, taken as they are now.
        layers, method, kwargs, rngs, select, training: see `from_nnx`. By default the direct submodules of the module (a
            list of blocks in Linen are direct submodules blocks_0, blocks_1, ...), or their elements where these are
            Sequentials, scanned stacks or wrappers.

    Raises:
        ValueError: variables missing or not those of `init`; and as `from_nnx`.

    >>> import flax.linen as nn
    >>> import jax.numpy as jnp
    >>> module = nn.Sequential([nn.Dense(5), nn.relu, nn.Dense(3)])
    >>> x = jnp.ones((4, 2))
    >>> outputs, layers = from_linen(module, module.init(jax.random.key(0), x))(x)
    >>> {name: h.shape for name, h in layers.items()}
    {'layers_0': (4, 5), 'layers_2': (4, 3)}
    """
    import flax.linen as nn

    from jaxconvex.layers.flax_calls import LinenCall

    if not isinstance(module, nn.Module):
        raise ValueError(f"from_linen needs a flax.linen Module; got {_kind(module)}. For NNX: from_nnx(model).")
    if module.scope is not None:
        module, bound = module.unbind()
        variables = bound if variables is None else variables
    if not isinstance(variables, Mapping) or "params" not in variables:
        got = f"the keys {list(variables)}" if isinstance(variables, Mapping) else _kind(variables)
        raise ValueError(f"variables must be what module.init returns, {{'params': ..., ...}}; got {got}.")
    _check_method(module, method)
    call = LinenCall(Fixed(module), method, training, select)
    return LayeredModel(_copied(variables), call, _patterns(layers), _given(kwargs, rngs))


def from_function(
    function: Callable[..., Any],
    layers: str | Sequence[str] | None = None,
    *,
    kwargs: Mapping[str, Any] | None = None,
) -> LayeredModel:
    """A function of any library on JAX, with `mark` in it, as a function to its outputs and its layers, like `from_nnx`.

    Args:
        function: calls `mark(x, name)` on what is to be a layer. Its arrays are the weights if it is a pytree, such as a
            module of Equinox or a jax.tree_util.Partial over them; those of a closure are part of what is compiled, as they
            are at the first call: make another function for others.
        layers, kwargs: see `from_nnx`. By default the outermost marks.

    Raises:
        ValueError: no function; and as `from_nnx`.

    >>> import jax.numpy as jnp
    >>> from jaxconvex import mark
    >>> def network(x):
    ...     h = mark(jnp.tanh(x), "hidden")
    ...     return h.sum(axis=1)
    >>> outputs, layers = from_function(network)(jnp.ones((4, 2)))
    >>> {name: h.shape for name, h in layers.items()}
    {'hidden': (4, 2)}
    """
    if not callable(function):
        raise ValueError(f"from_function needs a function of JAX arrays; got {_kind(function)}.")
    leaves, tree = jax.tree.flatten(function)
    weights = [leaf if is_array(leaf) else None for leaf in leaves]
    others = tuple(None if is_array(leaf) else leaf for leaf in leaves)
    call = _FunctionCall(_called(function), Fixed((tree, others)))
    return LayeredModel(_copied(weights), call, _patterns(layers), _given(kwargs))


@dataclass(frozen=True)
class _FunctionCall:
    """A function without its weights, which are its first argument."""

    name: str
    function: Fixed

    def __call__(self, weights: Any, *inputs: Any, **kwargs: Any) -> Any:
        tree, others = self.function.value
        leaves = [one if other is None else other for one, other in zip(weights, others, strict=True)]
        return jax.tree.unflatten(tree, leaves)(*inputs, **kwargs)

    def __repr__(self) -> str:
        return self.name


def _called(function: Any) -> str:
    """The name of the function, or of the class of the module, that is called, whatever it is wrapped in."""
    function = inspect.unwrap(function)
    if isinstance(function, partial):
        return _called(function.func)
    name = getattr(function, "__name__", None)
    return name if isinstance(name, str) else type(function).__name__


def layer_names(model: Any, /, *inputs: Any, **kwargs: Any) -> LayerList:
    """All layers of a model, in the order of execution: name, type, shapes, and whether it is read by default.

    Args:
        model: as for `run_from`.
        inputs, kwargs: as in the usual call. A batch of one is enough; nothing is computed.

    Printed it is a table. Where a block returns several arrays, the part that `extract` and `model_source` take is named.

    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> model = nnx.Sequential(nnx.Linear(2, 5, rngs=nnx.Rngs(0)), nnx.relu, nnx.Linear(5, 3, rngs=nnx.Rngs(1)))
    >>> layer_names(model, jnp.ones((1, 2)))
    layers/0  Linear  (1, 5)  float32  default
    layers/2  Linear  (1, 3)  float32  default
    """
    model = of_arrays(as_layered(model))
    return listing(model, *model.parted(inputs, kwargs))


def of_arrays(model: Any) -> Any:
    """The model with one array as the layer where a block returns several and none is selected.

    functools.partial(read, **kwargs) is the model with these keywords; other functions stay as they are.
    """
    if isinstance(model, partial) and isinstance(model.func, LayeredModel) and not model.args:
        model = replace(model.func, kwargs={**model.func.kwargs, **_given(model.keywords)})
    if not isinstance(model, LayeredModel) or getattr(model.call, "select", STATE) is not None:
        return model
    return replace(model, call=replace(model.call, select=STATE))


def read_module(model: Any, layers: Any, /, *inputs: Any, **kwargs: Any) -> tuple[Any, OrderedDict[str, Any]]:
    """The outputs and layers, as arrays, of an nnx.Module with the weights that it has now."""
    return of_arrays(from_nnx(model, layers=layers))(*inputs, **kwargs)


def reads_module(function: Any) -> bool:
    """Whether the function reads the layers of a model itself, so that nobody has chosen them by hand."""
    return isinstance(function, LayeredModel) or getattr(function, "func", None) is read_module


def _given(kwargs: Mapping[str, Any] | None, rngs: Any = None) -> dict[str, Any]:
    """The keywords of every call, as a tree of arrays."""
    given = dict(kwargs or {}) | ({} if rngs is None else {"rngs": rngs})
    return opened(given)


def _copied(weights: Any) -> Any:
    """The weights as they are now: NumPy's arrays and dictionaries could be changed in place."""
    return jax.tree.map(lambda leaf: leaf.copy() if isinstance(leaf, np.ndarray) else leaf, weights)


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


def as_layered(model: Any) -> LayeredModel:
    """The model, or what `from_nnx` makes of a module."""
    return model if isinstance(model, LayeredModel) else from_nnx(model)


def _kind(value: Any) -> str:
    return value.__name__ + " itself, the class" if isinstance(value, type) else type(value).__name__
