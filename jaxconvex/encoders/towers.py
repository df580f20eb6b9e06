"""Images and texts in one space: the two networks of CLIP and of SigLIP (SigLIP 2 of one size among them).

Each is an encoder of its own. Blocks are normalised before. CLIP's text is read from left to right; SigLIP's whole.

Sources: Radford et al. 2021 (arXiv 2103.00020); Zhai et al. 2023 (arXiv 2303.15343); Tschannen et al. 2025 (arXiv
2502.14786).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from jaxconvex.encoders.attention import Attention, attend, head_size
from jaxconvex.encoders.configurations import patch_grid
from jaxconvex.encoders.decoder_modules import DecoderEmbedding, blocks_of
from jaxconvex.encoders.decoder_plans import Plan, sizes_of
from jaxconvex.encoders.encoder import Encoder, Head
from jaxconvex.encoders.modules import FeedForward, activation, layer_norm, linear
from jaxconvex.encoders.naming import Family, Shapes, Whole
from jaxconvex.encoders.patches import PatchEmbedding
from jaxconvex.encoders.vit import VisionBlock, VisionEncoder

__all__ = ["FAMILIES"]


class Probe(nnx.Module):
    """One vector: what a learnt query gathers from all tokens, and a feed-forward part added."""

    def __init__(self, width: int, heads: int, norm: nnx.Module, feed_forward: nnx.Module, *, rngs: nnx.Rngs):
        self.size = head_size(width, heads)
        self.probe = nnx.Param(nnx.initializers.normal(0.02)(rngs.params(), (1, 1, width)))
        self.qkv = linear(width, 3 * width, rngs=rngs)
        self.output = linear(width, width, rngs=rngs)
        self.norm = norm
        self.feed_forward: Any = feed_forward

    def __call__(self, h: Float[Array, "b t d"], mask: None = None) -> Float[Array, "b d"]:
        made = self.qkv(jnp.concatenate([jnp.broadcast_to(self.probe[...], (len(h), 1, h.shape[-1])), h], axis=1))
        split = made.reshape(*made.shape[:2], 3, -1, self.size).transpose(2, 0, 3, 1, 4)
        gathered = attend(split[0, :, :, :1] * self.size**-0.5, split[1, :, :, 1:], split[2, :, :, 1:])
        vector = self.output(gathered.reshape(len(h), -1))
        return vector + self.feed_forward(self.norm(vector))


def _vision(config: dict[str, Any], shapes: Shapes, num_classes: int | None, rngs: nnx.Rngs) -> VisionEncoder:
    clip = config["model_type"].startswith("clip")
    config = (CLIP_VISION if clip else SIGLIP_VISION) | config  # as the original does with what config.json leaves out
    width, heads, epsilon = config["hidden_size"], config["num_attention_heads"], config["layer_norm_eps"]
    patch, grid = patch_grid(config)
    norm = partial(layer_norm, width, epsilon, rngs=rngs)
    feed_forward = partial(FeedForward, width, config["intermediate_size"], activation(config["hidden_act"]), rngs=rngs)
    options: dict[str, Any] = {"positions": None, "width": width, "epsilon": epsilon, "before": True, "rngs": rngs}
    embed = PatchEmbedding(
        width,
        patch=patch,
        channels=config["num_channels"],
        grid=grid,
        positions=True,
        class_token=clip,
        bias=not clip,
        flat=True,
        norm=norm() if clip else None,
        rngs=rngs,
    )
    blocks = [VisionBlock(Attention(width, heads, rngs=rngs), feed_forward(), **options) for _ in range(config[DEPTH])]
    classes = num_classes or shapes.get("classifier.weight", (None,))[0]
    classifier = linear(width, classes, rngs=rngs) if classes else None
    if clip:  # a classifier sees the mean of the patches as they are
        projected = not classes and (not shapes or "visual_projection.weight" in shapes)
        head = Head(
            "patches" if classes else "first",
            pooled_norm=None if classes else norm(),
            dense=_projection(config, rngs) if projected else None,
            activation=activation("linear"),
            classifier=classifier,
        )
    else:
        probed = config["vision_use_head"] and not classes
        take = Probe(width, heads, norm(), feed_forward(), rngs=rngs) if probed else "mean"
        head = Head(take, norm=norm(), classifier=classifier)
        config |= {"vision_use_head": probed}
    return VisionEncoder(embed, blocks, head, config, shared=None)


def _projection(config: dict[str, Any], rngs: nnx.Rngs) -> nnx.Module:
    return linear(config["hidden_size"], config["projection_dim"], use_bias=False, rngs=rngs)


class ClipText(Encoder):
    """An encoder of texts that stand until the token of their end, whether a mask says so or not."""

    def sequence_mask(self, inputs: Int[Array, "b t"], mask: Bool[Array, "b t"] | None = None) -> Bool[Array, "b t"]:
        """Which tokens are valid: those of the mask, as far as the first token that ends a text."""
        end = self.config["eos_token_id"]
        # Old files name a wrong one, 2: the right one has the highest number in the vocabulary, and so in a text.
        ends = inputs == (jnp.max(inputs, axis=1, keepdims=True) if end == 2 else end)
        before = jnp.cumsum(ends, axis=1) - ends == 0
        given = super().sequence_mask(inputs, mask)
        return before if given is None else given & before


def _text(config: dict[str, Any], shapes: Shapes, num_classes: int | None, rngs: nnx.Rngs) -> Encoder:
    clip = config["model_type"].startswith("clip")
    config = (CLIP_TEXT if clip else SIGLIP_TEXT) | config
    width, depth, epsilon = config["hidden_size"], config[DEPTH], config["layer_norm_eps"]
    plan = Plan(
        **sizes_of(config),
        epsilon=epsilon,
        activation=config["hidden_act"],
        windows=(None,) * depth,
        rotaries=(None,) * depth,
        causal=clip,
        positions=config["max_position_embeddings"],
    )
    projection: Any = None
    if not clip:
        projection = linear(width, config.get("projection_size") or width, rngs=rngs)
    elif not shapes or "text_projection.weight" in shapes:
        projection = _projection(config, rngs)
    classes = num_classes or shapes.get("classifier.weight", (None,))[0]
    seen = width if projection is None else projection.out_features
    head = Head(
        "last" if clip else "end",
        norm=layer_norm(width, epsilon, rngs=rngs),
        dense=projection,
        activation=activation("linear"),
        classifier=linear(seen, classes, rngs=rngs) if classes else None,
    )
    return (ClipText if clip else Encoder)(DecoderEmbedding(plan, rngs=rngs), blocks_of(plan, rngs), head, config)


DEPTH = "num_hidden_layers"
BLOCKS = {
    "blocks.{}.attention_norm": "encoder.layers.{}.layer_norm1",
    "blocks.{}.attention.query": "encoder.layers.{}.self_attn.q_proj",
    "blocks.{}.attention.key": "encoder.layers.{}.self_attn.k_proj",
    "blocks.{}.attention.value": "encoder.layers.{}.self_attn.v_proj",
    "blocks.{}.attention.output": "encoder.layers.{}.self_attn.out_proj",
    "blocks.{}.output_norm": "encoder.layers.{}.layer_norm2",
    "blocks.{}.feed_forward.inner": "encoder.layers.{}.mlp.fc1",
    "blocks.{}.feed_forward.outer": "encoder.layers.{}.mlp.fc2",
    "head.classifier": "classifier",
}
VISION = BLOCKS | {
    "embed.class_token": "embeddings.class_embedding",
    "embed.kernel": "embeddings.patch_embedding.weight",
    "embed.bias": "embeddings.patch_embedding.bias",
    "embed.positions": "embeddings.position_embedding.weight",
    "embed.norm": "pre_layrnorm",
    "head.pooled_norm": "post_layernorm",
    "head.dense": "visual_projection",
    "head.norm": "post_layernorm",
    "head.take.probe": "head.probe",
    "head.take.qkv.kernel": "head.attention.in_proj_weight",
    "head.take.qkv.bias": "head.attention.in_proj_bias",
    "head.take.output": "head.attention.out_proj",
    "head.take.norm": "head.layernorm",
    "head.take.feed_forward.inner": "head.mlp.fc1",
    "head.take.feed_forward.outer": "head.mlp.fc2",
}
TEXT = BLOCKS | {
    "embed.words": "embeddings.token_embedding",
    "embed.positions": "embeddings.position_embedding",
    "head.norm": "final_layer_norm",
}
# What the original has where config.json leaves something out: the sizes of the base checkpoints.
SIZES: dict[str, Any] = {"hidden_size": 768, "intermediate_size": 3072, DEPTH: 12, "num_attention_heads": 12}
CLIP = SIZES | {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "projection_dim": 512}
SIGLIP = SIZES | {"hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6}
IMAGES = {"num_channels": 3, "image_size": 224, "patch_size": 16}
CLIP_VISION = CLIP | IMAGES | {"patch_size": 32}
SIGLIP_VISION = SIGLIP | IMAGES | {"vision_use_head": True}
CLIP_TEXT = CLIP | {"hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8, "vocab_size": 49408}
CLIP_TEXT |= {"max_position_embeddings": 77, "pad_token_id": 1, "eos_token_id": 49407}
SIGLIP_TEXT = SIGLIP | {"vocab_size": 32000, "max_position_embeddings": 64, "pad_token_id": 1}

# Of the other network, of both together, and heads that a classifier does without.
IGNORED = (
    r"position_ids$",
    r"^logit_(scale|bias)$",
    r"^(text|vision)_model\.",
    r"^(text|visual)_projection\.",
    r"^(head|post_layernorm)\.",
)


def _family(kind: str, vision: bool, names: dict[str, str], config: dict[str, Any], projection: str = "") -> Family:
    what = "vision" if vision else "text"
    model = {"clip": "CLIP", "siglip": "Siglip"}[kind]
    own = f"{model}{what.capitalize()}"
    return Family(
        _vision if vision else _text,
        names,
        (f"{what}_model.",),
        ignored=IGNORED,
        config=config,
        bare=f"{what}_model.",
        model=own,
        task="ImageClassification" if vision else "SequenceClassification",
        projection=projection or "-",
        projects=f"{own}ModelWithProjection",
        part_of=Whole(kind, f"{what}_config", model),
    )


FAMILIES = {
    "clip_vision_model": _family("clip", True, VISION, CLIP_VISION, "visual_projection"),
    "clip_text_model": _family("clip", False, TEXT | {"head.dense": "text_projection"}, CLIP_TEXT, "text_projection"),
    "siglip_vision_model": _family("siglip", True, VISION, SIGLIP_VISION),
    "siglip_text_model": _family("siglip", False, TEXT | {"head.dense": "head"}, SIGLIP_TEXT),
}
