"""A small vision transformer whose layers can be read, and run on from."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float


class Block(nnx.Module):
    def __init__(self, width: int, *, num_heads: int, hidden_width: int, rngs: nnx.Rngs):
        self.num_heads = num_heads
        self.attention_norm = nnx.LayerNorm(width, use_fast_variance=False, rngs=rngs)
        self.query_key_value = nnx.Linear(width, 3 * width, rngs=rngs)
        self.attention_output = nnx.Linear(width, width, rngs=rngs)
        self.hidden_norm = nnx.LayerNorm(width, use_fast_variance=False, rngs=rngs)
        self.hidden = nnx.Linear(width, hidden_width, rngs=rngs)
        self.hidden_output = nnx.Linear(hidden_width, width, rngs=rngs)

    def attend(self, h):
        b, t, w = h.shape
        qkv = self.query_key_value(h).reshape(b, t, 3, self.num_heads, w // self.num_heads)
        mixed = jax.nn.dot_product_attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2])
        return self.attention_output(mixed.reshape(h.shape))

    def __call__(self, h):
        h = h + self.attend(self.attention_norm(h))
        return h + self.hidden_output(jax.nn.gelu(self.hidden(self.hidden_norm(h))))


class VisionTransformer(nnx.Module):
    def __init__(self, *, image_size=8, patch_size=2, width=64, depth=6, num_heads=4, hidden_width=128, num_classes=10, rngs):
        self.patch_size = patch_size
        n = (image_size // patch_size) ** 2
        init = nnx.initializers.normal(0.02)
        self.patch_embedding = nnx.Linear(patch_size**2, width, rngs=rngs)
        self.class_token = nnx.Param(init(rngs.params(), (1, width)))
        self.mask_token = nnx.Param(init(rngs.params(), (width,)))
        self.positions = nnx.Param(init(rngs.params(), (n, width)))
        self.blocks = nnx.List([Block(width, num_heads=num_heads, hidden_width=hidden_width, rngs=rngs) for _ in range(depth)])
        self.norm = nnx.LayerNorm(width, use_fast_variance=False, rngs=rngs)
        self.classifier = nnx.Linear(width, num_classes, rngs=rngs)

    def patches(self, images):
        b, s, _ = images.shape
        p = self.patch_size
        return images.reshape(b, s // p, p, s // p, p).transpose(0, 1, 3, 2, 4).reshape(b, (s // p) ** 2, p * p)

    def embed(self, images, masked=None):
        h = self.patch_embedding(self.patches(images))
        if masked is not None:
            h = jnp.where(masked[..., None], self.mask_token[...], h)
        h = h + self.positions[...]
        cls = jnp.broadcast_to(self.class_token[...], (h.shape[0], 1, h.shape[-1]))
        return jnp.concatenate([cls, h], axis=1)

    def block(self, i, h):
        return self.blocks[i](h)

    def head(self, h):
        return self.classifier(self.norm(h[:, 0]))

    def run_from(self, i, h):
        for block in self.blocks[i:]:
            h = block(h)
        return self.head(h)

    def __call__(self, images):
        return self.run_from(0, self.embed(images))
