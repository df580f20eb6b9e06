"""Text: ModernBERT, whose blocks look at near tokens or at all. Source: Warner et al. 2024 (arXiv 2412.13663)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from flax import nnx
from jaxtyping import Array, Float

from jaxconvex.encoders.decoder_modules import DecoderEmbedding, blocks_of, norm_of
from jaxconvex.encoders.decoder_plans import FULL, SLIDING, Plan, checked_kinds, sizes_of
from jaxconvex.encoders.encoder import Encoder, Head
from jaxconvex.encoders.modules import activation, linear
from jaxconvex.encoders.naming import Family, Shapes
from jaxconvex.encoders.rotary import rotary_of

__all__ = ["FAMILIES"]


class ActivationAndNorm(nnx.Module):
    """What follows the dense layer of the classifier's head."""

    def __init__(self, function: Callable[[Array], Array], norm: nnx.Module):
        self.function, self.norm = function, norm

    def __call__(self, h: Float[Array, "b d"]) -> Float[Array, "b d"]:
        return self.norm(self.function(h))


def _plan(config: dict[str, Any]) -> Plan:
    sizes, depth = sizes_of(config), config["num_hidden_layers"]
    if config.get("rope_scaling"):
        raise ValueError(f"the configuration has rope_scaling={config['rope_scaling']!r:.80}, not supported here.")
    every = config.get("global_attn_every_n_layers", 3)
    kinds = checked_kinds(config.get("layer_types") or [SLIDING if i % every else FULL for i in range(depth)], depth)
    older = {"rope_theta": config.get("global_rope_theta", 160000.0)}
    older |= {"rope_local_base_freq": config.get("local_rope_theta", 10000.0)}
    rotary = {
        layers: rotary_of(config | older, sizes["size"], base=10000.0, layers=layers) for layers in (FULL, SLIDING)
    }
    window = config.get("local_attention", 128) // 2 + 1
    bias = config.get("attention_bias", False)
    return Plan(
        **sizes,
        epsilon=config.get("norm_eps", 1e-5),
        activation=config.get("hidden_activation", "gelu"),
        windows=tuple(window if layers == SLIDING else None for layers in kinds),
        rotaries=tuple(rotary[layers] for layers in kinds),
        causal=False,
        fused="by part",
        bias=bias,
        output_bias=bias,
        feed_forward_bias=config.get("mlp_bias", False),
        norm_bias=config.get("norm_bias", False),
        gated=True,
    )


def _build(config: dict[str, Any], shapes: Shapes, num_classes: int | None, rngs: nnx.Rngs) -> Encoder:
    plan = _plan(config)
    norm = partial(norm_of(plan), plan.width, plan.epsilon, rngs=rngs)
    takes = {"cls": "first", "mean": "mean"}
    pooling = config.get("classifier_pooling", "cls")
    if pooling not in takes:
        raise ValueError(f"the configuration's classifier_pooling must be cls or mean; got {pooling!r:.80}.")
    classes = num_classes or shapes.get("classifier.weight", (None,))[0]
    act = activation(config.get("classifier_activation", "gelu"))
    narrow: Any = partial(linear, plan.width, plan.width, use_bias=config.get("classifier_bias", False), rngs=rngs)
    head = Head(
        takes[pooling],
        norm=norm(),
        dense=narrow() if classes else None,
        activation=ActivationAndNorm(act, norm()) if classes else act,
        classifier=linear(plan.width, classes, rngs=rngs) if classes else None,
    )
    blocks = blocks_of(plan, rngs)
    for first in blocks[:1]:
        first.attention_norm = None  # the embedding is normalised already
    return Encoder(DecoderEmbedding(plan, norm=norm(), rngs=rngs), blocks, head, config)


NAMES = {
    "embed.words": "embeddings.tok_embeddings",
    "embed.norm": "embeddings.norm",
    "blocks.{}.attention_norm": "layers.{}.attn_norm",
    "blocks.{}.attention.qkv": "layers.{}.attn.Wqkv",
    "blocks.{}.attention.output": "layers.{}.attn.Wo",
    "blocks.{}.output_norm": "layers.{}.mlp_norm",
    "blocks.{}.feed_forward.gated_inner": "layers.{}.mlp.Wi",
    "blocks.{}.feed_forward.gated_outer": "layers.{}.mlp.Wo",
    "head.norm": "final_norm",
    "head.dense": "head.dense",
    "head.activation.norm": "head.norm",
    "head.classifier": "classifier",
}
BASE = {
    "vocab_size": 50368,
    "hidden_size": 768,
    "intermediate_size": 1152,
    "num_hidden_layers": 22,
    "num_attention_heads": 12,
    "max_position_embeddings": 8192,
    "norm_eps": 1e-5,
    "local_attention": 128,
    "pad_token_id": 50283,
}

FAMILIES = {
    "modernbert": Family(
        _build,
        NAMES,
        ("model.",),
        top=("classifier", "head"),
        ignored=(r"^decoder\.", r"^head\."),
        config=BASE,
        model="ModernBert",
    )
}
