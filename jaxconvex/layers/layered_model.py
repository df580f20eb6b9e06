"""The layers of a user's own Flax model: read them all in one call, and run on from any of them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from jaxconvex.layers.marks import is_array
from jaxconvex.layers.traces import Fixed, parted, read, run_on, with_batch

__all__ = ["LayeredModel", "from_linen", "from_nnx", "rest_of", "run_from"]


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
        return read(self, *parted(inputs, kwargs))


def from_nnx(
    model: Any,
    *,
    layers: str | Sequence[str] | None = None,
    method: str = "__call__",
    training: bool = False,
) -> LayeredModel:
    """The Flax NNX model as a function `read(*inputs, **kwargs)` -> its outputs and an OrderedDict layer -> activation.

    A layer is a call of a module; its activation is what the call returns, and its name the path in the model:
    "blocks/3/attention". The second call of the same module is "shared@2". A pytree of several arrays is one activation; of
    one array, as (h,) or (h, None), the activation is the array. A stack of modules in a scan has its steps as layers:
    "blocks/0", "blocks/0/mlp", "blocks/1". Under a vmap of the model's own the mapped axis of an activation comes first.

    Args:
        model: any nnx.Module. Its arrays are taken as they are now, and it is never changed; read an updated model by
            calling from_nnx again, which costs next to nothing. An object among its attributes that is no array and no
            module is part of what is compiled, by its identity: put another in its place, do not change it.
        layers: names, or patterns in which * stands for a part of a name and ** for anything, "/" included. By default the
            blocks: the direct submodules of the model, or their elements where these are lists, dictionaries, Sequentials
            or scanned stacks.
        method: what is called.
        training: allow dropout to draw and normalisation to use the statistics of the batch. What a usual call changes in
            the model, running statistics and the counters of draws, stays as it is: without a usual call model(x) in every
            step the statistics do not move and all steps draw the same.

    Raises:
        ValueError: when called: a model in training mode without training=True; names that match no layer; inputs missing.

    Works under jit, nnx.jit, vmap, grad and nnx.grad. Cost: the model once, compiled; only what is read is kept.

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
    return LayeredModel(_copied(weights), NNXCall(graphdef, tree, method, training), _patterns(layers))


def from_linen(
    module: Any,
    variables: Mapping[str, Any] | None = None,
    *,
    layers: str | Sequence[str] | None = None,
    method: str = "__call__",
    training: bool = False,
) -> LayeredModel:
    """The Flax Linen module as a function `read(*inputs, **kwargs)` -> its outputs and an OrderedDict layer -> activation.

    As `from_nnx`; names are Linen's paths, "blocks_3/attention". Keywords go to `module.apply`: options of the module, as
    train=False, and `rngs=` and `mutable=`.

    Args:
        module: any linen Module; a bound one needs no variables.
        variables: what `init` returned, {"params": ..., ...}, taken as they are now.
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
    return LayeredModel(_copied(variables), LinenCall(Fixed(module), method, training), _patterns(layers))


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
    return run_on(_layered(model), activation, *parted(inputs, kwargs), layer=layer)


def rest_of(
    model: Any, layer: str, /, *example: Any, side: str | int | Sequence[str | int] = (), **kwargs: Any
) -> Partial:
    """The rest of the network after a layer as a function of activations alone, for any batch size.

    It is the predict_fn of `euclidean_convexity` and a head of `evaluate`: (b, ...) -> (b, c), if the model returns logits.
    A jax.tree_util.Partial over the weights: for other weights of the same shapes nothing is compiled.

    Args:
        model, layer: see `run_from`.
        example, kwargs: inputs of the model, a batch of any size; one point is enough. Their values matter only where the
            rest of the network uses them; then the batch must be of one, which holds for every point, or use `side`.
        side: inputs that every point has its own of, as a mask, by keyword or position. The function then takes a tuple
            `(activation, *side)`: the mask of each point goes where its activation goes. Booleans and integers may come as
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
    arrays, fixed = parted(example, kwargs)
    sides = (side,) if isinstance(side, (str, int)) else tuple(side)
    for one in sides:
        there = one in kwargs if isinstance(one, str) else isinstance(one, int) and 0 <= one < len(example)
        if not there:
            raise ValueError(
                f"side={one!r} must name a keyword or the position of an input in the example, which has {len(example)} "
                f"inputs and the keywords {list(kwargs)}."
            )
        if not is_array(kwargs[one] if isinstance(one, str) else example[one]):
            raise ValueError(f"the input side={one!r} must be an array in the example.")
    jax.eval_shape(partial(run_on, layer=layer, fixed=fixed), model, None, arrays)
    return Partial(_rest, Fixed((layer, fixed, sides)), model, arrays)


def _rest(settings: Fixed, model: LayeredModel, arrays: Any, points: Any) -> Any:
    layer, fixed, sides = settings.value
    activation, *values = points if sides else (points,)
    (inputs, kwargs), repeated = with_batch(arrays, jax.tree.leaves(activation)[0].shape[0])
    inputs, kwargs = list(inputs), dict(kwargs)
    for one, value in zip(sides, values, strict=True):
        place: Any = kwargs if isinstance(one, str) else inputs
        kind = place[one].dtype
        share = jnp.issubdtype(value.dtype, jnp.inexact) and not jnp.issubdtype(kind, jnp.inexact)
        place[one] = (value > 0 if share else value).astype(kind)
    repeated = tuple(one for one in repeated if one not in sides)
    return run_on(model, activation, (inputs, kwargs), fixed, layer=layer, repeated=repeated)


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


def _layered(model: Any) -> LayeredModel:
    return model if isinstance(model, LayeredModel) else from_nnx(model)


def _kind(value: Any) -> str:
    return value.__name__ + " itself, the class" if isinstance(value, type) else type(value).__name__
