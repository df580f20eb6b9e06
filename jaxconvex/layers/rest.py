"""The rest of a network after one of its layers, at once or as a function of activations alone."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from jaxconvex._internal.functions import call_with
from jaxconvex.layers.layered_model import LayeredModel, as_layered
from jaxconvex.layers.selection import Fixed, Logits, closed, is_array, logits_of
from jaxconvex.layers.traces import run_on, with_batch

__all__ = ["rest_of", "run_from"]


def run_from(model: Any, layer: str, activation: Any, /, *inputs: Any, **kwargs: Any) -> Any:
    """The outputs of the model with `activation` in the place of what the layer returns: the rest of the network.

    What only the layers before need is not computed, so it costs what hand-written code for the rest costs. What the rest
    needs beside the activation (masks, position biases, skip connections) comes from the inputs.

    Args:
        model: from `from_nnx`, `from_linen` or `from_function`, or an nnx.Module itself.
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
    >>> from jaxconvex import from_nnx
    >>> model = nnx.Sequential(nnx.Linear(2, 5, rngs=nnx.Rngs(0)), nnx.relu, nnx.Linear(5, 3, rngs=nnx.Rngs(1)))
    >>> x = jnp.ones((4, 2))
    >>> outputs, layers = from_nnx(model)(x)
    >>> bool(jnp.all(run_from(model, "layers/0", layers["layers/0"], x) == outputs))
    True
    """
    model = as_layered(model)
    return closed(run_on(model, activation, *model.parted(inputs, kwargs), layer=layer))


def rest_of(
    model: Any,
    layer: str,
    /,
    *inputs: Any,
    example: Any = None,
    side: str | int | Sequence[str | int] = (),
    logits: Logits = None,
    **kwargs: Any,
) -> Partial:
    """The rest of the network after a layer as a function of activations alone, for any batch size.

    It is the predict_fn of `euclidean_convexity` and a head of `evaluate`: (b, ...) -> (b, c), if the model returns logits.
    A jax.tree_util.Partial over the weights: for other weights of the same shapes nothing is compiled.

    Args:
        model, layer: see `run_from`.
        example: a batch of the model's inputs, of any size: one array, a tuple or list of several, or a dict by keyword.
            One point is enough: values matter only where the rest of the network uses them; then the batch must be of one,
            which holds for every point, or use `side`.
        inputs, kwargs: the same as in the usual call, in the place of the example or beside it.
        side: inputs that every point has its own of, as a mask, by keyword or position. The function then takes a tuple
            `(activation, *side)`: the mask of each point goes where its activation goes. Booleans and integers may come as
            floats, true or 1 where above 0: `euclidean_convexity` interpolates all that it is given, and between two points
            a token is valid if it is valid for one of them.
        logits: which part of the model's outputs are the logits, a name, an index or a function; None for the outputs as
            they are, or their "logits", where they are an object or a dict that has some.

    Raises:
        ValueError: as `run_from`, at once.

    >>> from flax import nnx
    >>> model = nnx.Sequential(nnx.Linear(2, 5, rngs=nnx.Rngs(0)), nnx.relu, nnx.Linear(5, 3, rngs=nnx.Rngs(1)))
    >>> predict = rest_of(model, "layers/0", example=jnp.zeros((1, 2)))
    >>> predict(jnp.ones((7, 5))).shape
    (7, 3)
    """
    if example is not None:
        inputs, kwargs = call_with(lambda *more, **named: ((*inputs, *more), {**kwargs, **named}), example)
    model = as_layered(model)
    arrays, fixed = model.parted(inputs, kwargs)
    sides = (side,) if isinstance(side, (str, int)) else tuple(side)
    for one in sides:
        there = one in kwargs if isinstance(one, str) else isinstance(one, int) and 0 <= one < len(inputs)
        if not there:
            raise ValueError(
                f"side={one!r} must name a keyword or the position of an input in the example, which has {len(inputs)} "
                f"inputs and the keywords {list(kwargs)}."
            )
        if not is_array(kwargs[one] if isinstance(one, str) else inputs[one]):
            raise ValueError(f"the input side={one!r} must be an array in the example.")
    outputs = closed(jax.eval_shape(partial(run_on, layer=layer, fixed=fixed), model, None, arrays))
    logits_of(outputs, logits)
    return _Rest(_rest, Fixed((layer, fixed, sides, logits)), model, arrays)


@jax.tree_util.register_pytree_node_class
class _Rest(Partial):
    """The rest of a network, printed in a line."""

    def tree_flatten(self) -> tuple[tuple[Any, ...], Any]:
        return (self.args, self.keywords), self.func

    @classmethod
    def tree_unflatten(cls, func: Any, children: Any) -> _Rest:
        return cls(func, *children[0], **children[1])

    def __repr__(self) -> str:
        return f"the rest after {self.args[0].value[0]!r} of {self.args[1]!r}"


def _rest(settings: Fixed, model: LayeredModel, arrays: Any, points: Any) -> Any:
    layer, fixed, sides, logits = settings.value
    activation, *values = points if sides else (points,)
    (inputs, kwargs), repeated = with_batch(arrays, jax.tree.leaves(activation)[0].shape[0])
    inputs, kwargs = list(inputs), dict(kwargs)
    for one, value in zip(sides, values, strict=True):
        place: Any = kwargs if isinstance(one, str) else inputs
        kind = place[one].dtype
        share = jnp.issubdtype(value.dtype, jnp.inexact) and not jnp.issubdtype(kind, jnp.inexact)
        place[one] = (value > 0 if share else value).astype(kind)
    repeated = tuple(one for one in repeated if one not in sides)
    outputs = run_on(model, activation, (inputs, kwargs), fixed, layer=layer, repeated=repeated)
    return logits_of(closed(outputs), logits)
