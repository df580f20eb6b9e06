"""The parts that transformer encoders share: dense layers, words, feed-forward parts, blocks normalised before or after."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Bool, Float, Int

__all__ = [
    "Block",
    "FeedForward",
    "GatedFeedForward",
    "activation",
    "as_mask",
    "layer_norm",
    "linear",
    "looked_up",
    "masked_mean",
]

PRECISION = lax.Precision.HIGHEST  # float32 products would else be rounded to TF32 on GPUs and to bfloat16 on TPUs

linear = partial(nnx.Linear, precision=PRECISION)

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_fast": partial(jax.nn.gelu, approximate=True),
    "gelu_new": partial(jax.nn.gelu, approximate=True),
    "gelu_pytorch_tanh": partial(jax.nn.gelu, approximate=True),
    "linear": lambda h: h,
    "quick_gelu": lambda h: h * jax.nn.sigmoid(1.702 * h),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "tanh": jnp.tanh,
}


def activation(name: str) -> Callable[[Array], Array]:
    """The activation function of a checkpoint's configuration. "gelu" is the exact one, by the error function."""
    if name not in ACTIVATIONS:
        raise ValueError(f"the configuration names the activation {name!r}; known are {', '.join(ACTIVATIONS)}.")
    return ACTIVATIONS[name]


def layer_norm(width: int, epsilon: float, *, rngs: nnx.Rngs, **options: Any) -> nnx.LayerNorm:
    """A layer normalisation whose variance is the mean square of differences: the fast form loses digits."""
    return nnx.LayerNorm(width, epsilon=epsilon, use_fast_variance=False, rngs=rngs, **options)


def as_mask(mask: Array, inputs: Array) -> Bool[Array, "b t"]:
    """A mask of the inputs as booleans. Raises ValueError for another shape, and for floats, which may be added scores."""
    mask = jnp.asarray(mask)
    if mask.shape != inputs.shape[:2] or jnp.issubdtype(mask.dtype, jnp.inexact):
        raise ValueError(
            f"the mask must be boolean of shape {inputs.shape[:2]}, True where an input is valid; got {mask.dtype} of shape "
            f"{mask.shape}."
        )
    return mask.astype(bool)


def masked_mean(h: Float[Array, "b t d"], mask: Bool[Array, "b t"] | None = None) -> Float[Array, "b d"]:
    """The mean of the tokens, or of those that the mask allows.

    >>> masked_mean(jnp.array([[[1.0], [3.0], [8.0]]]), jnp.array([[True, True, False]])).tolist()
    [[2.0]]
    """
    if mask is None:
        return h.mean(axis=1)
    weights = mask.astype(h.dtype)[..., None]
    return (h * weights).sum(axis=1) / jnp.maximum(weights.sum(axis=1), 1)


def looked_up(words: nnx.Embed, ids: Int[Array, "b t"], most: int | None = None) -> Float[Array, "b t d"]:
    """The rows of the table for these numbers. One outside the table gives nan, not the last row, nor what is left of it in
    32 bits.

    Raises ValueError for what are no integers of shape (b, t), and for more than `most` of them in a row.

    >>> looked_up(nnx.Embed(3, 2, rngs=nnx.Rngs(0)), jnp.array([[0, 3]]))[0, :, 0].tolist()[1]
    nan
    """
    if ids.ndim != 2 or (most is not None and ids.shape[1] > most) or not jnp.issubdtype(ids.dtype, jnp.integer):
        limit = "" if most is None else f" with t at most {most}"
        raise ValueError(
            f"the tokens must be integers of shape (b, t){limit}; got {ids.dtype} of shape {ids.shape}. "
            "Let the tokenizer cut them, or cut them with ids[:, :t]."
        )
    size = words.num_embeddings
    ids = np.clip(ids, -1, size) if isinstance(ids, np.ndarray) else ids
    return words.embedding[...].at[jnp.where(ids < 0, size, ids)].get(mode="fill", fill_value=jnp.nan)


class FeedForward(nnx.Module):
    """Two dense layers, applied to each token alone, with an activation between them."""

    def __init__(
        self,
        width: int,
        hidden: int,
        activation: Callable[[Array], Array],
        *,
        dense: Callable[..., nnx.Module] = linear,
        rngs: nnx.Rngs,
    ):
        self.activation = activation
        self.inner = dense(width, hidden, rngs=rngs)
        self.outer = dense(hidden, width, rngs=rngs)

    def __call__(self, h: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
        return self.outer(self.activation(self.inner(h)))


class GatedFeedForward(nnx.Module):
    """Dense layers with a gate: an activation of one half times the other (Shazeer 2020, arXiv 2002.05202).

    fused: whether gate and inner layer are one, the gate first.
    """

    def __init__(
        self,
        width: int,
        hidden: int,
        activation: Callable[[Array], Array] = jax.nn.silu,
        *,
        fused: bool = True,
        dense: Callable[..., nnx.Module] = linear,
        rngs: nnx.Rngs,
    ):
        self.activation = activation
        self.gated_inner: Any = dense(width, 2 * hidden, rngs=rngs) if fused else None
        self.gate: Any = None if fused else dense(width, hidden, rngs=rngs)
        self.inner: Any = None if fused else dense(width, hidden, rngs=rngs)
        self.gated_outer = dense(hidden, width, rngs=rngs)

    def __call__(self, h: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
        if self.gated_inner is None:
            gate, inner = self.gate(h), self.inner(h)
        else:
            gate, inner = jnp.split(self.gated_inner(h), 2, axis=-1)
        return self.gated_outer(self.activation(gate) * inner)


class Block(nnx.Module):
    """One transformer block: attention, then a feed-forward part, each added to its input.

    Args:
        attention, feed_forward: the two parts.
        width, epsilon: of the two layer normalisations.
        before: whether they stand before the parts (the residual stream is never normalised) or after the additions.
        scale: whether each part is multiplied by a learnt vector before it is added.
        norm: makes a normalisation of a width and an epsilon.
        sandwich: whether what a part gives is normalised too, before it is added.
        parallel: whether both parts see the block's input.
    """

    def __init__(
        self,
        attention: nnx.Module,
        feed_forward: nnx.Module,
        *,
        width: int,
        epsilon: float,
        before: bool,
        scale: bool = False,
        norm: Callable[..., nnx.Module] = layer_norm,
        sandwich: bool = False,
        parallel: bool = False,
        rngs: nnx.Rngs,
    ):
        self.before, self.parallel = before, parallel
        self.attention = attention
        self.attention_norm: Any = norm(width, epsilon, rngs=rngs)
        self.after_attention = norm(width, epsilon, rngs=rngs) if sandwich else None
        self.feed_forward = feed_forward
        self.output_norm = norm(width, epsilon, rngs=rngs)
        self.after_output = norm(width, epsilon, rngs=rngs) if sandwich else None
        self.attention_scale = nnx.Param(jnp.ones(width)) if scale else None
        self.output_scale = nnx.Param(jnp.ones(width)) if scale else None

    def __call__(
        self, h: Float[Array, "b t d"], mask: Bool[Array, "b t"] | None = None, **side: Any
    ) -> Float[Array, "b t d"]:
        """The tokens after the block. `mask` tells which tokens are valid; `side`: what the attention takes beside."""
        if self.before:
            normal = h if self.attention_norm is None else self.attention_norm(h)
            gathered = self.attention(normal, mask, **side)
            if self.after_attention is not None:
                gathered = self.after_attention(gathered)
            seen = h
            h = h + _scaled(gathered, self.attention_scale)
            made = self.feed_forward(self.output_norm(seen if self.parallel else h))
            if self.after_output is not None:
                made = self.after_output(made)
            return h + _scaled(made, self.output_scale)
        h = self.attention_norm(h + self.attention(h, mask, **side))
        return self.output_norm(h + self.feed_forward(h))


def _scaled(h: Array, scale: nnx.Param | None) -> Array:
    return h if scale is None else h * scale[...]
