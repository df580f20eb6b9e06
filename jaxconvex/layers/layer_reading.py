"""The layers of one batch on the device: chosen, pooled over valid tokens, cast."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxconvex._internal.functions import call_with
from jaxconvex._internal.messages import listed, names_apart
from jaxconvex.layers.layered_model import reads_module
from jaxconvex.layers.points import BESIDE, GROUPS, POSITIONS
from jaxconvex.layers.selection import Logits, logits_of

__all__ = [
    "OUTPUTS",
    "POOLS",
    "RESERVED",
    "Kind",
    "Pool",
    "kinds_of",
    "last_valid",
    "pooled_layer",
    "read_layers",
    "reasons",
]

SHOWN = 5  # layers that a message names

POOLS = ("cls", "last", "mean")
OUTPUTS = "outputs"  # what the model's own outputs are called beside the layers
RESERVED = {OUTPUTS: "what the model returns", GROUPS: "the text of a token", POSITIONS: "the place of a token"}

Pool = str | Callable[..., Array] | None


class Kind(NamedTuple):
    """The shape of a layer of one point, and its type."""

    shape: tuple[int, ...]
    dtype: str


def read_layers(
    calls: tuple[Callable[..., Any], Callable[..., Array] | None],
    batch: Any,
    *,
    names: tuple[str, ...] | None = None,
    pool: Pool = None,
    mask_entry: str | int | None = None,
    dtype: str | None = None,
    outputs: bool = True,
    logits: Logits = None,
    tokens: int | None = None,
    told: Callable[[dict[str, str]], None] | None = None,
) -> OrderedDict[str, Array]:
    """The layers of a batch in order, and, last, the model's outputs if they are one array. Arguments as for `extract`.

    `calls` are the model and, where it is a function, the mask. `tokens`: of a text, where these are the points. `told` is
    called with those of the layers that cannot be read, where none are named, and the reason of each.
    """
    model, mask_of = calls
    size = (jax.tree.leaves(batch)[0].shape[0], *([] if tokens is None else [tokens]))
    found, returned = _parted(call_with(model, batch))
    for name in names or ():
        if name not in found:
            raise ValueError(f"there is no layer {name!r}; the layers are {listed(found, name)}.")
    for name in set(found) & set(RESERVED):
        raise ValueError(f"a layer cannot be called {name!r}, which stands for {RESERVED[name]}: rename it.")
    mask = call_with(mask_of, batch) if mask_of is not None else None if mask_entry is None else batch[mask_entry]
    if names is None:
        unfit = {name: reason for name, one in found.items() if (reason := _unfit(one, size, model))}
        if len(unfit) == len(found):
            for name, one in found.items():
                _checked(one, name, size)
            raise ValueError(f"no layer can be read: {reasons(unfit)}. Name some with layers= when the model is read.")
        if unfit and told is not None:
            told(unfit)
        names = tuple(name for name in found if name not in unfit)
    kept: OrderedDict[str, Array] = OrderedDict()
    for name in names:
        kept[name] = _cast(pooled_layer(_checked(found[name], name, size), pool, mask, name), dtype)
        _checked(kept[name], f"{name} after pooling", size)
    returned = logits_of(returned, logits) if outputs else None
    if getattr(returned, "shape", ())[: len(size)] == size:
        kept[OUTPUTS] = jnp.asarray(returned)
    return kept


def _parted(result: Any) -> tuple[dict[str, Any], Any]:
    """Layers and outputs."""
    outputs = None
    if isinstance(result, tuple) and len(result) == 2:
        outputs, result = result
    if not isinstance(result, Mapping) or not result:
        got = "an empty one" if isinstance(result, Mapping) else type(result).__name__
        raise ValueError(
            "model_fn must return a mapping layer -> activation (b, ...), or a pair of outputs and such a mapping; got "
            f"{got}. from_nnx and from_linen make such a function of a Flax model."
        )
    names_apart(result, "layers")
    return {str(name): activation for name, activation in result.items()}, outputs


def _unfit(activation: Any, size: tuple[int, ...], model: Any) -> str:
    """Why a layer cannot be read; "" where it can. Integers are layers in a mapping that somebody wrote by hand."""
    shape = getattr(activation, "shape", None)
    if shape is None:
        return f"{type(activation).__name__}, no array"
    if shape[: len(size)] != size:
        return f"shape {tuple(shape)}, not {_shape_text(size)}"
    if reads_module(model) and not jnp.issubdtype(activation.dtype, jnp.floating):
        return f"type {activation.dtype}, not floating"
    return ""


def reasons(unfit: Mapping[str, str]) -> str:
    """Each name with its reason, for a message.

    >>> reasons({"mask": "type bool, not floating"})
    "'mask' (type bool, not floating)"
    """
    shown = [f"{name!r} ({reason})" for name, reason in list(unfit.items())[:SHOWN]]
    return ", ".join(shown) + (f" and {len(unfit) - SHOWN} more" if len(unfit) > SHOWN else "")


def _shape_text(size: tuple[int, ...]) -> str:
    return f"({', '.join(map(str, size))}, ...)"


def _checked(activation: Any, name: str, size: tuple[int, ...]) -> Array:
    if getattr(activation, "shape", ())[: len(size)] != size:
        got = getattr(activation, "shape", None)
        raise ValueError(
            f"layer {name!r} must be an array with one entry a point, {_shape_text(size)}, for a batch of {size[0]}; got "
            f"{type(activation).__name__ if got is None else f'shape {got}'}. Name the others with layers= to leave it out."
        )
    return jnp.asarray(activation)


def _cast(h: Array, dtype: str | None) -> Array:
    return h.astype(dtype) if dtype is not None and jnp.issubdtype(h.dtype, jnp.floating) else h


def pooled_layer(h: Float[Array, "b ..."], pool: Pool, mask: Bool[Array, "b t"] | None = None, name: str = "") -> Array:
    """One vector a point: see `extract`. What has one already, (b, d), stays.

    >>> h = jnp.array([[[1.0], [2.0], [6.0]]])
    >>> pooled_layer(h, "mean").item(), pooled_layer(h, "mean", jnp.array([[1, 1, 0]])).item()
    (3.0, 1.5)
    """
    if callable(pool):
        return pool(h) if mask is None else pool(h, mask)
    if pool is None or h.ndim <= 2:
        return h
    if pool != "mean" and h.ndim != 3:
        which = "first" if pool == "cls" else "last"
        raise ValueError(f"pool={pool!r} takes the {which} of tokens (b, t, d); layer {name!r} has shape {h.shape}.")
    if pool == "cls":
        return h[:, 0]
    if mask is not None and mask.shape != h.shape[:-1]:
        raise ValueError(
            f"the mask must have one entry a token of layer {name!r}, {h.shape[:-1]}; got {mask.shape}. Where a layer has "
            "other tokens than the input, pass a function of the batch that gives their mask (mask=encoder.sequence_mask)."
        )
    if pool == "last":
        return last_valid(h, mask)
    h = h.astype(jnp.promote_types(h.dtype, jnp.float32))
    between = tuple(range(1, h.ndim - 1))
    if mask is None:
        return h.mean(axis=between)
    valid = (mask > 0)[..., None]
    return jnp.where(valid, h, 0).sum(axis=between) / valid.sum(axis=between)


def last_valid(h: Float[Array, "b t d"], mask: Bool[Array, "b t"] | None = None) -> Float[Array, "b d"]:
    """The last token of each point that the mask allows, wherever padding stands; nan where it allows none.

    >>> h = jnp.array([[[1.0], [2.0], [6.0]]])
    >>> [last_valid(h, mask).item() for mask in (None, jnp.array([[0, 1, 0]]), jnp.zeros((1, 3)))]
    [6.0, 2.0, nan]
    """
    if mask is None:
        return h[:, -1]
    valid = mask > 0
    last = valid.shape[1] - 1 - jnp.argmax(valid[:, ::-1], axis=1)
    taken = jnp.take_along_axis(h, last[:, None, None], axis=1)[:, 0]
    return jnp.where(valid.any(axis=1, keepdims=True), taken, jnp.nan)


def kinds_of(found: Mapping[str, Any], *, tokens: bool = False) -> dict[str, Kind]:
    """Shape of a point and type of each array; with tokens as points also those of what is kept beside the layers."""
    start = 2 if tokens else 1
    kinds = {name: Kind(tuple(array.shape[start:]), str(array.dtype)) for name, array in found.items()}
    return kinds | {name: Kind((), "int32") for name in (BESIDE if tokens else ())}
