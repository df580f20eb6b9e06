"""Images: ViT, BEiT, data2vec-vision and DINOv2.

One encoder: patches and a class token, blocks normalised before. They differ in where positions enter (added to the
embedding, or as a bias of the attention), in learnt scales, and in what the classifier sees.

Sources: Dosovitskiy et al. 2021 (arXiv 2010.11929); Bao et al. 2022 (arXiv 2106.08254); Baevski et al. 2022
(arXiv 2202.03555); Oquab et al. 2024 (arXiv 2304.07193).
"""

from __future__ import annotations

from typing import Any

from flax import nnx
from jaxtyping import Array, Bool, Float

from jaxconvex.encoders.attention import Attention
from jaxconvex.encoders.configurations import patch_grid
from jaxconvex.encoders.encoder import Encoder, Head
from jaxconvex.encoders.modules import Block, FeedForward, GatedFeedForward, activation, layer_norm, linear
from jaxconvex.encoders.naming import Family, Shapes
from jaxconvex.encoders.patches import Grid, PatchEmbedding, RelativePositions, grid_of

__all__ = ["BASE", "FAMILIES", "VisionBlock", "VisionEncoder"]


class VisionBlock(Block):
    """A transformer block whose attention has a bias of relative positions, of its own or one that all blocks share."""

    def __init__(self, *parts: nnx.Module, positions: RelativePositions | None, **options: Any):
        super().__init__(*parts, **options)
        self.positions = positions

    def __call__(
        self,
        h: Float[Array, "b t d"],
        mask: Bool[Array, "b t"] | None = None,
        *,
        bias: Float[Array, "#b heads t t"] | None = None,
        grid: Grid | None = None,
        **side: Any,
    ) -> Float[Array, "b t d"]:
        if self.positions is not None:
            own = self.positions(grid or grid_of(h.shape[1] - 1, self.positions.grid))
            bias = own if bias is None else own + bias
        return super().__call__(h, mask, bias=bias, **side)


class VisionEncoder(Encoder):
    """An encoder of images.

    Relative positions depend on the grid of patches, (rows, columns), which a state does not tell: without `grid`, `block`
    takes the checkpoint's, or for another number of tokens a square.
    """

    def __init__(self, embed: Any, blocks: Any, head: Head, config: dict[str, Any], shared: RelativePositions | None):
        super().__init__(embed, blocks, head, config)
        self.shared_positions = shared

    def sequence_mask(self, inputs: Array, mask: Any = None) -> None:
        return None  # an image has no padding

    def depth_config(self, depth: int) -> dict[str, Any]:
        """The number of blocks. Which of them a torch backbone gives follows from it, unless it is said."""
        return super().depth_config(depth) | dict.fromkeys(("out_features", "out_indices", "stage_names"))

    def side(self, inputs: Array, mask: Any = None) -> dict[str, Any]:
        patch = self.embed.patch
        return {"grid": (inputs.shape[1] // patch, inputs.shape[2] // patch)}

    def block(
        self,
        i: int,
        h: Float[Array, "b t d"],
        mask: Bool[Array, "b t"] | None = None,
        grid: Grid | None = None,
        **_: Any,
    ) -> Float[Array, "b t d"]:
        return super().block(i, h, mask, **self.places(h, grid))

    def places(self, h: Float[Array, "b t d"], grid: Grid | None) -> dict[str, Any]:
        """What a block takes beside its state, of the places of the patches."""
        bias = None
        if self.shared_positions is not None:
            bias = self.shared_positions(grid or grid_of(h.shape[1] - 1, self.shared_positions.grid))
        return {"bias": bias, "grid": grid}


def _build(config: dict[str, Any], shapes: Shapes, num_classes: int | None, rngs: nnx.Rngs) -> VisionEncoder:
    kind = config["model_type"]
    beit, dino = kind in ("beit", "data2vec-vision"), kind == "dinov2"
    width, heads = config["hidden_size"], config["num_attention_heads"]
    patch, grid = patch_grid(config, 14 if dino else 16)
    hidden = int(width * config.get("mlp_ratio", 4)) if dino else config["intermediate_size"]
    epsilon = config.get("layer_norm_eps", 1e-6 if dino else 1e-12)
    act = activation(config.get("hidden_act", "gelu"))
    scale = dino or (beit and config.get("layer_scale_init_value", 0.1) > 0)
    qkv_bias = beit or config.get("qkv_bias", True)

    def positions(option: str) -> RelativePositions | None:
        table = POSITIONS[option] in shapes  # where the configuration says nothing
        return RelativePositions(grid, heads, rngs=rngs) if beit and config.get(option, table) else None

    def block() -> VisionBlock:
        feed_forward: nnx.Module
        if config.get("use_swiglu_ffn", False):
            feed_forward = GatedFeedForward(width, (int(hidden * 2 / 3) + 7) // 8 * 8, rngs=rngs)
        else:
            feed_forward = FeedForward(width, hidden, act, rngs=rngs)
        attention = Attention(width, heads, biases=(qkv_bias, qkv_bias and not beit, qkv_bias, True), rngs=rngs)
        return VisionBlock(
            attention,
            feed_forward,
            positions=positions("use_relative_position_bias"),
            width=width,
            epsilon=epsilon,
            before=True,
            scale=scale,
            rngs=rngs,
        )

    tabled = POSITIONS["use_absolute_position_embeddings"] in shapes
    absolute = not beit or config.get("use_absolute_position_embeddings", tabled)
    channels = config.get("num_channels", 3)
    embed = PatchEmbedding(width, patch=patch, channels=channels, grid=grid, positions=absolute, rngs=rngs)
    classes = num_classes or (shapes["classifier.weight"][0] if "classifier.weight" in shapes else None)
    averages = beit and config.get("use_mean_pooling", True)
    # Checkpoints of pretraining alone have no normalisation of the average.
    has_pooled_norm = averages and (not shapes or bool(num_classes) or "pooler.layernorm.weight" in shapes)
    has_pooler = not classes and "pooler.dense.weight" in shapes
    seen = 2 * width if dino else width
    head = Head(
        "patches" if averages else "first and patches" if dino else "first",
        norm=None if averages else layer_norm(width, epsilon, rngs=rngs),
        pooled_norm=layer_norm(width, epsilon, rngs=rngs) if has_pooled_norm else None,
        dense=linear(width, width, rngs=rngs) if has_pooler else None,
        activation=activation(config.get("pooler_act", "tanh")),
        classifier=linear(seen, classes, rngs=rngs) if classes else None,
    )
    shared = positions("use_shared_relative_position_bias")
    return VisionEncoder(embed, [block() for _ in range(config["num_hidden_layers"])], head, config, shared)


COMMON = {
    "embed.class_token": "embeddings.cls_token",
    "embed.positions": "embeddings.position_embeddings",
    "embed.kernel": "embeddings.patch_embeddings.projection.weight",
    "embed.bias": "embeddings.patch_embeddings.projection.bias",
    "blocks.{}.attention.query": "encoder.layer.{}.attention.attention.query",
    "blocks.{}.attention.key": "encoder.layer.{}.attention.attention.key",
    "blocks.{}.attention.value": "encoder.layer.{}.attention.attention.value",
    "blocks.{}.attention.output": "encoder.layer.{}.attention.output.dense",
    "head.norm": "layernorm",
    "head.dense": "pooler.dense",
    "head.classifier": "classifier",
}
VIT = COMMON | {
    "blocks.{}.attention_norm": "encoder.layer.{}.layernorm_before",
    "blocks.{}.output_norm": "encoder.layer.{}.layernorm_after",
    "blocks.{}.feed_forward.inner": "encoder.layer.{}.intermediate.dense",
    "blocks.{}.feed_forward.outer": "encoder.layer.{}.output.dense",
}
TABLE = "relative_position_bias.relative_position_bias_table"
BEIT = VIT | {
    "blocks.{}.attention_scale": "encoder.layer.{}.lambda_1",
    "blocks.{}.output_scale": "encoder.layer.{}.lambda_2",
    "blocks.{}.positions.table": "encoder.layer.{}.attention.attention." + TABLE,
    "shared_positions.table": "encoder." + TABLE,
    "head.pooled_norm": "pooler.layernorm",
}
DINOV2 = COMMON | {
    "blocks.{}.attention_norm": "encoder.layer.{}.norm1",
    "blocks.{}.output_norm": "encoder.layer.{}.norm2",
    "blocks.{}.attention_scale": "encoder.layer.{}.layer_scale1.lambda1",
    "blocks.{}.output_scale": "encoder.layer.{}.layer_scale2.lambda1",
    "blocks.{}.feed_forward.inner": "encoder.layer.{}.mlp.fc1",
    "blocks.{}.feed_forward.outer": "encoder.layer.{}.mlp.fc2",
    "blocks.{}.feed_forward.gated_inner": "encoder.layer.{}.mlp.weights_in",
    "blocks.{}.feed_forward.gated_outer": "encoder.layer.{}.mlp.weights_out",
}
IGNORED = (
    r"^embeddings\.mask_token$",
    r"relative_position_index$",
    r"^pooler\.",
    r"^(layernorm|lm_head|decoder|decode_head|auxiliary_head|fpn\d)\.",
)

POSITIONS = {
    "use_relative_position_bias": "encoder.layer.0.attention.attention." + TABLE,
    "use_shared_relative_position_bias": "encoder." + TABLE,
    "use_absolute_position_embeddings": "embeddings.position_embeddings",
}
# The sizes of the base checkpoints.
BASE = {
    "image_size": 224,
    "patch_size": 16,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-12,
}
DINOV2_BASE = BASE | {"image_size": 518, "patch_size": 14, "mlp_ratio": 4.0, "layer_norm_eps": 1e-6}


def _family(model: str, prefix: str, names: dict[str, str], config: dict[str, Any] = BASE) -> Family:
    return Family(_build, names, (prefix,), ignored=IGNORED, config=config, model=model, task="ImageClassification")


FAMILIES = {
    "vit": _family("ViT", "vit.", VIT),
    "beit": _family("Beit", "beit.", BEIT),
    "data2vec-vision": _family("Data2VecVision", "data2vec_vision.", BEIT),
    "dinov2": _family("Dinov2", "dinov2.", DINOV2, DINOV2_BASE),
}
