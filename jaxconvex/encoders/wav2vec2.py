"""Speech: wav2vec2 (both layouts), HuBERT, data2vec-audio and WavLM.

One encoder. Waveforms go through strided convolutions, which make a frame of every 20 ms at 16 kHz, then through a
projection and transformer blocks. The families differ in norms, in how positions enter, and WavLM in its attention.

Sources: Baevski et al. 2020 (arXiv 2006.11477); Hsu et al. 2021 (arXiv 2106.07447); Baevski et al. 2022 (arXiv 2202.03555);
Chen et al. 2022 (arXiv 2110.13900).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float

from jaxconvex.encoders.attention import Attention
from jaxconvex.encoders.configurations import check_count
from jaxconvex.encoders.encoder import Encoder, Head
from jaxconvex.encoders.modules import Block, FeedForward, activation, layer_norm, linear
from jaxconvex.encoders.naming import Family, Shapes
from jaxconvex.encoders.speech import (
    Convolution,
    NormalisedConvolution,
    SpeechEmbedding,
    SpeechEncoder,
    refuse_weighted_sum,
)

__all__ = ["FAMILIES", "GatedAttention", "WavLM"]


class GatedAttention(Attention):
    """Attention whose bias, by the distance of two frames, is scaled by a gate that each frame computes for each head."""

    def __init__(self, width: int, num_heads: int, *, rngs: nnx.Rngs):
        super().__init__(width, num_heads, rngs=rngs)
        self.gate = linear(self.size, 8, rngs=rngs)
        self.gate_scale = nnx.Param(jnp.ones((1, num_heads, 1, 1)))

    def biased(
        self, h: Float[Array, "b t d"], bias: Float[Array, "#b heads t t"] | None
    ) -> Float[Array, "b heads t t"]:
        if bias is None:
            raise ValueError("WavLM's blocks need the bias of distances; call encoder.block(i, h, mask) instead.")
        heads = h.reshape(*h.shape[:2], -1, self.size)
        gates = self.gate(heads).reshape(*heads.shape[:3], 2, 4)
        first, second = jnp.split(jax.nn.sigmoid(gates.sum(axis=-1)).swapaxes(1, 2), 2, axis=-1)
        return (first * (second * self.gate_scale[...] - 1) + 2) * bias


class WavLM(SpeechEncoder):
    """A speech encoder with one table of biases by distance, which all blocks share."""

    def __init__(
        self,
        embed: nnx.Module,
        blocks: Sequence[nnx.Module],
        head: nnx.Module,
        config: dict[str, Any],
        *,
        rngs: nnx.Rngs,
    ):
        super().__init__(embed, blocks, head, config)
        self.buckets = config["num_buckets"]
        self.farthest = config["max_bucket_distance"]
        shape = (self.buckets, config["num_attention_heads"])
        self.distances = nnx.Param(nnx.initializers.normal(0.02)(rngs.params(), shape))

    def side(self, inputs: Array, mask: Bool[Array, "b s"] | None = None) -> dict[str, Any]:
        """What every block takes beside its state: the mask of the frames and the bias of their distances."""
        return super().side(inputs, mask) | {"bias": self.bias(self.embed.frames(inputs.shape[1]))}

    def block(
        self, i: int, h: Float[Array, "b t d"], mask: Bool[Array, "b t"] | None = None, **side: Any
    ) -> Float[Array, "b t d"]:
        """State i + 1 from state i. The bias is computed from the number of frames where `side` is not passed."""
        return super().block(i, h, mask, **(side or {"bias": self.bias(h.shape[1])}))

    def bias(self, frames: int) -> Float[Array, "1 heads t t"]:
        """What is added to the score of a frame (third axis) for another one (last axis), before the gate."""
        # The values of the distances 0, 1, ..., t-1, 1-t, ..., -1, over and over: a row that is one shorter than them
        # starts one distance earlier each time.
        distances = np.concatenate([np.arange(frames), np.arange(1 - frames, 0)])
        values = self.distances[...][distance_buckets(distances, self.buckets, self.farthest)].T
        heads, length = values.shape
        rows = jnp.broadcast_to(values[:, None], (heads, frames, length)).reshape(heads, -1)
        if length > 1:
            rows = rows[:, : frames * (length - 1)].reshape(heads, frames, length - 1)
        return rows.reshape(heads, frames, -1)[None, :, :, :frames]


def distance_buckets(distances: np.ndarray, buckets: int, farthest: int) -> np.ndarray:
    """The row of the table for each distance: one for each of the nearest, then wider and wider to the farthest.

    Half of the rows are for later frames, half for the frame itself and earlier ones.
    """
    side = buckets // 2
    near = side // 2
    size = np.abs(distances)
    with np.errstate(divide="ignore"):
        ratio = np.log(size.astype(np.float32) / np.float32(near)) / np.float32(math.log(farthest / near))
    far = near + np.where(size < near, 0, ratio * (side - near)).astype(np.int64)
    return np.where(distances > 0, side, 0) + np.where(size < near, size, np.minimum(far, side - 1))


BASE: dict[str, Any] = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
    "feat_extract_norm": "group",
    "feat_extract_activation": "gelu",
    "conv_dim": (512, 512, 512, 512, 512, 512, 512),
    "conv_stride": (5, 2, 2, 2, 2, 2, 2),
    "conv_kernel": (10, 3, 3, 3, 3, 2, 2),
    "conv_bias": False,
    "num_conv_pos_embeddings": 128,
    "num_conv_pos_embedding_groups": 16,
    "do_stable_layer_norm": False,
    "classifier_proj_size": 256,
}
HUBERT = BASE | {"feat_proj_layer_norm": True}
WAVLM = BASE | {"num_buckets": 320, "max_bucket_distance": 800}
DATA2VEC = {
    **{key: value for key, value in BASE.items() if key not in ("feat_extract_norm", "do_stable_layer_norm")},
    "num_conv_pos_embeddings": 5,
    "conv_pos_kernel_size": 19,
}


def _build(
    config: dict[str, Any], shapes: Shapes, num_classes: int | None, rngs: nnx.Rngs, *, base: dict[str, Any]
) -> Encoder:
    """An encoder of speech. Dropout and the masking of spectra are for training from scratch; there is none here."""
    config = base | config  # as the original does with what config.json leaves out
    _check(config, shapes, num_classes)
    config = config | {"use_weighted_layer_sum": False}
    width, heads, epsilon = config["hidden_size"], config["num_attention_heads"], config["layer_norm_eps"]
    stable = config.get("do_stable_layer_norm", False)
    gated = "num_buckets" in config
    channels = config["conv_dim"]

    # The weights are drawn in the order of these lines.
    convolutions = [_convolution(config, i, rngs) for i in range(len(channels))]
    positions = _positions(config, shapes, rngs)
    final = layer_norm(width, epsilon, rngs=rngs)
    embed = SpeechEmbedding(
        convolutions,
        layer_norm(channels[-1], epsilon, rngs=rngs) if config.get("feat_proj_layer_norm", True) else None,
        linear(channels[-1], width, rngs=rngs),
        positions,
        None if stable else final,
        kernels=config["conv_kernel"],
        strides=config["conv_stride"],
    )
    blocks = [
        Block(
            (GatedAttention if gated else Attention)(width, heads, rngs=rngs),
            FeedForward(width, config["intermediate_size"], activation(config["hidden_act"]), rngs=rngs),
            width=width,
            epsilon=epsilon,
            before=stable,
            rngs=rngs,
        )
        for _ in range(config["num_hidden_layers"])
    ]
    classes = num_classes or (shapes["classifier.weight"][0] if _classifies(shapes) else None)
    head = Head(
        "mean",
        norm=final if stable else None,
        project=linear(width, config["classifier_proj_size"], rngs=rngs) if classes else None,
        classifier=linear(config["classifier_proj_size"], classes, rngs=rngs) if classes else None,
    )
    kind = partial(WavLM, rngs=rngs) if gated else SpeechEncoder
    return kind(embed, blocks, head, config)


def _check(config: dict[str, Any], shapes: Shapes, num_classes: int | None) -> None:
    """Raise ValueError for a configuration that describes no encoder, or one of a kind that is not read."""
    if config.get("feat_extract_norm", "layer") not in ("group", "layer"):
        raise ValueError(f"feat_extract_norm must be 'group' or 'layer'; got {config['feat_extract_norm']!r}.")
    refuse_weighted_sum(shapes, _classifies(shapes) and num_classes is None)
    sizes = [len(config[f"conv_{what}"]) for what in ("dim", "kernel", "stride")]
    if len(set(sizes)) > 1:
        raise ValueError(f"conv_dim, conv_kernel and conv_stride must have one entry a convolution; they have {sizes}.")


def _convolution(config: dict[str, Any], i: int, rngs: nnx.Rngs) -> Convolution | NormalisedConvolution:
    """Convolution i of the waveform: normalised over time in the first only ("group"), or over channels in all."""
    channels = config["conv_dim"]
    layered = config.get("feat_extract_norm", "layer") == "layer"
    options: dict[str, Any] = {"kernel": config["conv_kernel"][i], "stride": config["conv_stride"][i], "rngs": rngs}
    options |= {"bias": config["conv_bias"], "activation": activation(config["feat_extract_activation"])}
    if i == 0 and not layered:
        return NormalisedConvolution(channels[0], **options)
    norm = layer_norm(channels[i], 1e-5, rngs=rngs) if layered else None
    return Convolution(channels[i - 1] if i else 1, channels[i], norm=norm, **options)


def _positions(config: dict[str, Any], shapes: Shapes, rngs: nnx.Rngs) -> list[Convolution]:
    """The convolutions that tell positions: a large one or, where there is a size for them (data2vec), several small."""
    several = "conv_pos_kernel_size" in config
    check_count(config["num_conv_pos_embeddings"] if several else 1, shapes, "num_conv_pos_embeddings=")
    width = config["hidden_size"]
    return [
        Convolution(
            width,
            width,
            kernel=config["conv_pos_kernel_size" if several else "num_conv_pos_embeddings"],
            groups=config["num_conv_pos_embedding_groups"],
            same=True,
            norm=layer_norm(width, 1e-5, use_scale=False, use_bias=False, rngs=rngs) if several else None,
            activation=activation(config["feat_extract_activation"]),
            rngs=rngs,
        )
        for _ in range(config["num_conv_pos_embeddings"] if several else 1)
    ]


def _classifies(shapes: Shapes) -> bool:
    """Whether the file has a classifier of whole utterances; those of frames and of speakers look much like it."""
    return {"projector.weight", "classifier.weight"} <= set(shapes) and not any(n.startswith("tdnn.") for n in shapes)


NAMES = {
    "embed.convolutions.{}.conv": "feature_extractor.conv_layers.{}.conv",
    "embed.convolutions.{}.norm": "feature_extractor.conv_layers.{}.layer_norm",
    "embed.projection_norm": "feature_projection.layer_norm",
    "embed.projection": "feature_projection.projection",
    "embed.positions.{}.conv": "encoder.pos_conv_embed.conv",
    "embed.norm": "encoder.layer_norm",
    "blocks.{}.attention.query": "encoder.layers.{}.attention.q_proj",
    "blocks.{}.attention.key": "encoder.layers.{}.attention.k_proj",
    "blocks.{}.attention.value": "encoder.layers.{}.attention.v_proj",
    "blocks.{}.attention.output": "encoder.layers.{}.attention.out_proj",
    "blocks.{}.attention.gate": "encoder.layers.{}.attention.gru_rel_pos_linear",
    "blocks.{}.attention.gate_scale": "encoder.layers.{}.attention.gru_rel_pos_const",
    "blocks.{}.attention_norm": "encoder.layers.{}.layer_norm",
    "blocks.{}.feed_forward.inner": "encoder.layers.{}.feed_forward.intermediate_dense",
    "blocks.{}.feed_forward.outer": "encoder.layers.{}.feed_forward.output_dense",
    "blocks.{}.output_norm": "encoder.layers.{}.final_layer_norm",
    "distances": "encoder.layers.0.attention.rel_attn_embed.weight",
    "head.norm": "encoder.layer_norm",
    "head.project": "projector",
    "head.classifier": "classifier",
}
IGNORED = (  # pretraining, transcription, classifiers of frames and of speakers
    r"^(masked_spec_embed|mask_time_emb_vector)$",  # the second in files of 2021
    r"^(quantizer|project_q|project_hid)\.",
    r"^(lm_head|tdnn|objective|classifier|projector)\.",
    r"^feature_extractor\.(weight|bias)$",
    r"^layer_weights$",
)


def _family(model: str, prefix: str, base: dict[str, Any], **names: str) -> Family:
    top = ("projector", "classifier", "tdnn.", "layer_weights")
    build = partial(_build, base=base)
    return Family(build, NAMES | names, (prefix,), top=top, ignored=IGNORED, config=base, model=model)


FAMILIES = {
    "wav2vec2": _family("Wav2Vec2", "wav2vec2.", BASE),
    "hubert": _family("Hubert", "hubert.", HUBERT),
    "wavlm": _family("WavLM", "wavlm.", WAVLM),
    "data2vec-audio": _family(
        "Data2VecAudio",
        "data2vec_audio.",
        DATA2VEC,
        **{"embed.positions.{}.conv": "encoder.pos_conv_embed.layers.{}.conv"},
    ),
}
