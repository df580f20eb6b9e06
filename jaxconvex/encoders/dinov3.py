"""Images: DINOv3's vision transformers, with rotary positions and registers.

Source: Siméoni et al. 2025 (arXiv 2508.10104).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from jaxconvex.encoders.attention import Attention, head_size
from jaxconvex.encoders.configurations import patch_grid
from jaxconvex.encoders.encoder import Head
from jaxconvex.encoders.modules import Block, FeedForward, GatedFeedForward, activation, layer_norm, linear
from jaxconvex.encoders.naming import Family, Shapes
from jaxconvex.encoders.patches import Grid, PatchEmbedding, grid_of
from jaxconvex.encoders.vit import BASE, VisionEncoder

__all__ = ["FAMILIES"]


class TurningEncoder(VisionEncoder):
    """An encoder of images whose attention knows places by angles, from -1 to 1 across the image, whatever its size.

    Where `grid` is not said, `block` takes the checkpoint's, or for another number of patches a square.
    """

    def __init__(self, embed: Any, blocks: Any, head: Head, config: dict[str, Any], *, base: float, size: int):
        super().__init__(embed, blocks, head, config, None)
        self.base, self.size = base, size

    def places(self, h: Float[Array, "b t d"], grid: Grid | None) -> dict[str, Any]:
        """The angles of each token."""
        prefix = self.embed.prefix
        grid = grid or grid_of(h.shape[1] - prefix, self.embed.grid)
        return {"angles": jnp.asarray(angles_of(grid, prefix, self.base, self.size))}


def angles_of(grid: Grid, prefix: int, base: float, size: int) -> Float[np.ndarray, "1 t half"]:
    """By how much each token's coordinates turn: a quarter of a head of `size` by the row, a quarter by the column.

    The first `prefix` tokens, which have no place, do not turn.

    >>> (angles_of((1, 2), 1, 100.0, 4)[0, :, 1] / np.pi).round(3).tolist()
    [0.0, -1.0, 1.0]
    """
    centres = [(2 * np.arange(count) + 1) / count - 1 for count in grid]
    places = np.stack(np.meshgrid(*centres, indexing="ij"), axis=-1).reshape(-1, 2, 1)
    angles = 2 * np.pi * places * base ** (-4 * np.arange(size // 4) / size)
    return np.concatenate([np.zeros((prefix, size // 2)), angles.reshape(len(places), -1)])[None].astype(np.float32)


def _build(config: dict[str, Any], shapes: Shapes, num_classes: int | None, rngs: nnx.Rngs) -> TurningEncoder:
    width, heads = config["hidden_size"], config["num_attention_heads"]
    patch, grid = patch_grid(config)
    epsilon, hidden = config.get("layer_norm_eps", 1e-5), config["intermediate_size"]
    act = activation(config.get("hidden_act", "gelu"))
    dense: Any = partial(linear, use_bias=config.get("mlp_bias", True))
    size = head_size(width, heads)
    if size % 4:
        raise ValueError(f"a head must have a multiple of 4 coordinates; got width {width} and {heads} heads.")

    def block() -> Block:
        attention = Attention(width, heads, biases=[config.get(*bias) for bias in BIASES.items()], rngs=rngs)
        gated: Any = partial(GatedFeedForward, fused=False) if config.get("use_gated_mlp", False) else FeedForward
        feed_forward = gated(width, hidden, act, dense=dense, rngs=rngs)
        return Block(attention, feed_forward, width=width, epsilon=epsilon, before=True, scale=True, rngs=rngs)

    embed = PatchEmbedding(
        width,
        patch=patch,
        channels=config.get("num_channels", 3),
        grid=grid,
        positions=False,
        registers=config.get("num_register_tokens", 0),
        rngs=rngs,
    )
    classes = num_classes or shapes.get("classifier.weight", (None,))[0]
    head = Head(
        "first",
        norm=layer_norm(width, epsilon, rngs=rngs),
        classifier=linear(width, classes, rngs=rngs) if classes else None,
    )
    blocks = [block() for _ in range(config["num_hidden_layers"])]
    base = float(config.get("rope_theta", 100.0))
    return TurningEncoder(embed, blocks, head, config, base=base, size=size)


BIASES = {"query_bias": True, "key_bias": False, "value_bias": True, "proj_bias": True}  # where nothing is said
NAMES = {
    "embed.class_token": "embeddings.cls_token",
    "embed.registers": "embeddings.register_tokens",
    "embed.kernel": "embeddings.patch_embeddings.weight",
    "embed.bias": "embeddings.patch_embeddings.bias",
    "blocks.{}.attention_norm": "layer.{}.norm1",
    "blocks.{}.attention.query": "layer.{}.attention.q_proj",
    "blocks.{}.attention.key": "layer.{}.attention.k_proj",
    "blocks.{}.attention.value": "layer.{}.attention.v_proj",
    "blocks.{}.attention.output": "layer.{}.attention.o_proj",
    "blocks.{}.attention_scale": "layer.{}.layer_scale1.lambda1",
    "blocks.{}.output_norm": "layer.{}.norm2",
    "blocks.{}.feed_forward.gate": "layer.{}.mlp.gate_proj",
    "blocks.{}.feed_forward.inner": "layer.{}.mlp.up_proj",
    "blocks.{}.feed_forward.outer": "layer.{}.mlp.down_proj",
    "blocks.{}.feed_forward.gated_outer": "layer.{}.mlp.down_proj",
    "blocks.{}.output_scale": "layer.{}.layer_scale2.lambda1",
    "head.norm": "norm",
    "head.classifier": "classifier",
}
SMALL = BASE | {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536, "layer_norm_eps": 1e-5}
SMALL |= {"rope_theta": 100.0, "num_register_tokens": 4}

FAMILIES = {
    "dinov3_vit": Family(
        _build,
        NAMES,
        (),
        ignored=(r"^embeddings\.mask_token$", r"^rope_embeddings\."),
        config=SMALL,
        model="DINOv3ViT",
        task="ImageClassification",
    )
}
