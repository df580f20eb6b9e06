"""The parts of decoders: what goes before attention, attention to earlier tokens, and normalisation by mean squares."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from jaxconvex.encoders.decoder_plans import Plan
from jaxconvex.encoders.modules import PRECISION, attend, linear, looked_up
from jaxconvex.encoders.rotary import positions_of, turned, visible

__all__ = ["Conv1D", "DecoderAttention", "DecoderEmbedding", "RootMeanSquare"]


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
    """Words, scaled in some families, and in GPT-2 learnt positions."""

    def __init__(self, plan: Plan, *, rngs: nnx.Rngs):
        self.factor = plan.embedding_scale
        self.words = nnx.Embed(plan.vocabulary, plan.width, rngs=rngs)
        self.positions = nnx.Embed(plan.positions, plan.width, rngs=rngs) if plan.positions else None

    def __call__(self, ids: Int[Array, "b t"], mask: Bool[Array, "b t"] | None = None) -> Float[Array, "b t d"]:
        most = None if self.positions is None else self.positions.num_embeddings
        h = looked_up(self.words, ids, most)
        if self.factor is not None:
            h = h * jnp.asarray(self.factor, h.dtype)
        return h if self.positions is None else h + self.positions.embedding[...][positions_of(h, mask)]


class DecoderAttention(nnx.Module):
    """Attention with what the plan says of block i: causal or not, groups, rotary positions, a window, a cap."""

    def __init__(self, plan: Plan, i: int, *, rngs: nnx.Rngs):
        self.heads, self.key_heads, self.size = plan.heads, plan.key_heads, plan.size
        self.fused, self.cap, self.scale = plan.fused, plan.cap, plan.scales[i]
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

    def _parts(self, h: Float[Array, "b t d"]) -> tuple[Array, Array, Array]:
        """Queries, keys and values, (b, t, heads, size)."""
        batch, tokens, _ = h.shape
        if self.qkv is None:
            parts = self.query(h), self.key(h), self.value(h)
            query, key, value = (part.reshape(batch, tokens, -1, self.size) for part in parts)
            return query, key, value
        made = self.qkv(h)
        if self.fused == "by head":
            query, key, value = jnp.split(made.reshape(batch, tokens, self.heads, 3 * self.size), 3, axis=-1)
        else:
            query, key, value = jnp.split(made.reshape(batch, tokens, 3 * self.heads, self.size), 3, axis=2)
        return query, key, value

    def __call__(
        self,
        h: Float[Array, "b t d"],
        mask: Bool[Array, "b t"] | None = None,
        bias: Float[Array, "#b heads t t"] | None = None,
    ) -> Float[Array, "b t d"]:
        query, key, value = self._parts(h)
        if self.query_norm is not None:
            query, key = self.query_norm(query), self.key_norm(key)
        positions = positions_of(h, mask)
        if self.rotary is not None:
            angles = positions[..., None] * self.rotary.frequencies().astype(np.float32)
            query, key = turned(query, angles), turned(key, angles)
        query, key, value = (
            part.swapaxes(1, 2) for part in (query * np.float32(self.scale).astype(h.dtype), key, value)
        )
        allowed = visible(positions, mask, causal=self.causal, window=self.window)
        gathered = attend(query, key, value, allowed=allowed, bias=bias, cap=self.cap)
        return self.output(gathered.swapaxes(1, 2).reshape(*h.shape[:2], -1))
