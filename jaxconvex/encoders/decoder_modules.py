"""The parts of what a `Plan` describes: words, attention to earlier tokens or all, normalisation by mean squares, blocks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from jaxconvex.encoders.attention import Attention
from jaxconvex.encoders.decoder_plans import Plan
from jaxconvex.encoders.modules import (
    PRECISION,
    Block,
    FeedForward,
    GatedFeedForward,
    activation,
    layer_norm,
    linear,
    looked_up,
)
from jaxconvex.encoders.rotary import positions_of, visible

__all__ = ["Conv1D", "DecoderAttention", "DecoderEmbedding", "RootMeanSquare", "blocks_of", "norm_of"]


class RootMeanSquare(nnx.Module):
    """A token over the root of its mean square, times a learnt scale, to which `offset` is added."""

    def __init__(self, width: int, epsilon: float, *, offset: float = 0.0, rngs: nnx.Rngs):
        self.epsilon, self.offset = epsilon, offset
        self.scale = nnx.Param(jnp.full(width, 1.0 - offset))

    def __call__(self, h: Float[Array, "... d"]) -> Float[Array, "... d"]:
        wide = h.astype(jnp.promote_types(h.dtype, jnp.float32))
        wide = wide / jnp.sqrt(jnp.square(wide).mean(axis=-1, keepdims=True) + self.epsilon)
        return (wide * (self.offset + self.scale[...].astype(wide.dtype))).astype(h.dtype)


class Conv1D(nnx.Module):
    """A dense layer whose weight is (in, out) in the file too, as GPT-2's are."""

    def __init__(self, width: int, out: int, *, rngs: nnx.Rngs):
        self.weight = nnx.Param(nnx.initializers.lecun_normal()(rngs.params(), (width, out)))
        self.bias = nnx.Param(jnp.zeros(out))

    def __call__(self, h: Float[Array, "b t i"]) -> Float[Array, "b t o"]:
        return jnp.dot(h, self.weight[...], precision=PRECISION) + self.bias[...]


class DecoderEmbedding(nnx.Module):
    """Words, scaled or normalised in some families, and in some learnt positions.

    They count valid tokens; but where tokens see later ones, and so padding without a mask, they count all.
    """

    def __init__(self, plan: Plan, *, norm: nnx.Module | None = None, rngs: nnx.Rngs):
        self.factor, self.norm, self.causal = plan.embedding_scale, norm, plan.causal
        self.words = nnx.Embed(plan.vocabulary, plan.width, rngs=rngs)
        self.positions = nnx.Embed(plan.positions, plan.width, rngs=rngs) if plan.positions else None

    def __call__(self, ids: Int[Array, "b t"], mask: Bool[Array, "b t"] | None = None) -> Float[Array, "b t d"]:
        most = None if self.positions is None else self.positions.num_embeddings
        h = looked_up(self.words, ids, most)
        if self.factor is not None:
            h = h * jnp.asarray(self.factor, h.dtype)
        if self.positions is not None:
            h = h + self.positions.embedding[...][positions_of(h, mask if self.causal else None)]
        return h if self.norm is None else self.norm(h)


class DecoderAttention(Attention):
    """Attention with what the plan says of block i: causal or not, groups, rotary positions, a window, a cap."""

    def __init__(self, plan: Plan, i: int, *, rngs: nnx.Rngs):
        self.size, self.fused, self.cap, self.scale = plan.size, plan.fused, plan.cap, plan.scales[i]
        self.causal, self.window, self.rotary = plan.causal, plan.windows[i], plan.rotaries[i]
        wide, narrow = plan.heads * plan.size, plan.key_heads * plan.size
        dense: Any = Conv1D if plan.kept_turned else partial(linear, use_bias=plan.bias)
        self.qkv: Any = dense(plan.width, wide + 2 * narrow, rngs=rngs) if plan.fused else None
        self.query: Any = None if plan.fused else dense(plan.width, wide, rngs=rngs)
        self.key: Any = None if plan.fused else dense(plan.width, narrow, rngs=rngs)
        self.value: Any = None if plan.fused else dense(plan.width, narrow, rngs=rngs)
        out: Any = Conv1D if plan.kept_turned else partial(linear, use_bias=plan.output_bias)
        self.output = out(wide, plan.width, rngs=rngs)
        norm = partial(RootMeanSquare, plan.size, plan.epsilon, offset=plan.norm_offset, rngs=rngs)
        self.query_norm: Any = norm() if plan.key_norms else None
        self.key_norm: Any = norm() if plan.key_norms else None

    def parts(self, h: Float[Array, "b t d"]) -> tuple[Array, Array, Array]:
        """Queries, keys and values, (b, t, heads, size)."""
        if self.qkv is None:
            query, key, value = super().parts(h)
        elif self.fused == "by head":
            query, key, value = jnp.split(self.qkv(h).reshape(*h.shape[:2], -1, 3 * self.size), 3, axis=-1)
        else:
            query, key, value = jnp.split(self.qkv(h).reshape(*h.shape[:2], -1, self.size), 3, axis=2)
        return (query, key, value) if self.query_norm is None else (self.query_norm(query), self.key_norm(key), value)

    def seen(
        self, h: Float[Array, "b t d"], mask: Bool[Array, "b t"] | None
    ) -> tuple[Bool[Array, "#b 1 #t t"] | None, Float[Array, "#b t half"] | None]:
        """Which tokens each may look at, and by what angles queries and keys turn."""
        positions = positions_of(h, mask)
        allowed = visible(positions, mask, causal=self.causal, window=self.window)
        if self.rotary is None:
            return allowed, None
        return allowed, positions[..., None] * self.rotary.frequencies().astype(np.float32)


def norm_of(plan: Plan) -> Callable[..., nnx.Module]:
    """Makes a normalisation of a width and an epsilon."""
    if plan.root_mean_square:
        return partial(RootMeanSquare, offset=plan.norm_offset)
    return partial(layer_norm, use_bias=plan.norm_bias)


def blocks_of(plan: Plan, rngs: nnx.Rngs) -> list[Block]:
    """The blocks of a plan, normalised before their parts."""
    dense: Any = Conv1D if plan.kept_turned else partial(linear, use_bias=plan.feed_forward_bias)
    inner: Any = partial(GatedFeedForward, fused=bool(plan.fused)) if plan.gated else FeedForward
    return [
        Block(
            DecoderAttention(plan, i, rngs=rngs),
            inner(plan.width, plan.hidden, activation(plan.activation), dense=dense, rngs=rngs),
            width=plan.width,
            epsilon=plan.epsilon,
            before=True,
            norm=norm_of(plan),
            sandwich=plan.sandwich,
            parallel=plan.parallel,
            rngs=rngs,
        )
        for i in range(plan.depth)
    ]
