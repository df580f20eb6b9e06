"""Speech: the encoder of Whisper.

Log-mel frames go through two convolutions, the second of which halves their number, then positions are added, then blocks
normalised before. The decoder is not read.

Source: Radford et al. 2022, Robust Speech Recognition via Large-Scale Weak Supervision (arXiv 2212.04356).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float

from jaxconvex.encoders.attention import Attention
from jaxconvex.encoders.encoder import Encoder, Head
from jaxconvex.encoders.modules import PRECISION, Block, FeedForward, activation, as_mask, layer_norm, linear
from jaxconvex.encoders.naming import Family, Shapes
from jaxconvex.encoders.speech import first_tokens, refuse_weighted_sum

__all__ = ["FAMILIES", "MelEmbedding", "Whisper"]

EPSILON = 1e-5


class MelEmbedding(nnx.Module):
    """Two convolutions over log-mel frames, and fixed positions added.

    At most 2 * `positions` frames are taken, and fewer too: the first positions are then added. (The original demands
    30 seconds of frames, padded with silence.)
    """

    def __init__(self, mels: int, width: int, positions: int, *, rngs: nnx.Rngs):
        convolution = partial(nnx.Conv, kernel_size=(3,), padding=((1, 1),), precision=PRECISION, rngs=rngs)
        self.first = convolution(mels, width)
        self.second = convolution(width, width, strides=(2,))
        self.positions = nnx.Param(jnp.asarray(sinusoids(positions, width)))

    def __call__(self, mels: Float[Array, "b f m"], mask: Bool[Array, "b f"] | None = None) -> Float[Array, "b t d"]:
        channels, positions = self.first.in_features, self.positions[...]
        most = 2 * len(positions)
        if mels.ndim != 3 or mels.shape[2] != channels or not 1 <= mels.shape[1] <= most:
            advice = (
                " The axes are batch, frames, mels: mels.swapaxes(1, 2)." if mels.shape[1:-1] == (channels,) else ""
            )
            raise ValueError(f"log-mels must have shape (b, frames <= {most}, {channels}); got {mels.shape}.{advice}")
        h = jax.nn.gelu(self.first(mels.astype(positions.dtype)), approximate=False)
        h = jax.nn.gelu(self.second(h), approximate=False)
        return h + positions[: h.shape[1]]


def sinusoids(positions: int, width: int) -> Float[np.ndarray, "positions width"]:
    """Sines, then cosines, of the position at width / 2 wavelengths from 2 pi to 10000 times as long.

    >>> sinusoids(2, 4).astype(float).round(4).tolist()
    [[0.0, 0.0, 1.0, 1.0], [0.8415, 0.0001, 0.5403, 1.0]]
    """
    frequencies = 10000.0 ** -np.linspace(0, 1, width // 2)
    angles = np.arange(positions)[:, None] * frequencies
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)


class Whisper(Encoder):
    """An encoder of log-mels, (b, frames, mels), the mels last.

    Without a mask every frame counts, those of padding too, as in the original, which knows no masks. With one, the
    blocks attend to the valid frames only, and so does the mean before a classifier; this is not how Whisper was
    trained. The valid frames stand first. The convolutions see the two frames after the last valid one.
    """

    def sequence_mask(self, inputs: Array, mask: Bool[Array, "b f"] | None = None) -> Bool[Array, "b t"] | None:
        """Which tokens are valid: one of two frames, and at least one; None where all are."""
        if mask is None:
            return None
        valid = as_mask(mask, inputs).sum(axis=1)
        return first_tokens((valid + 1) // 2, (mask.shape[1] + 1) // 2)

    def depth_config(self, depth: int) -> dict[str, Any]:
        return {"encoder_layers": depth}


TINY: dict[str, Any] = {
    "num_mel_bins": 80,
    "d_model": 384,
    "encoder_layers": 4,
    "encoder_attention_heads": 6,
    "encoder_ffn_dim": 1536,
    "max_source_positions": 1500,
    "activation_function": "gelu",
    "classifier_proj_size": 256,
}


def _build(config: dict[str, Any], shapes: Shapes, num_classes: int | None, rngs: nnx.Rngs) -> Encoder:
    """Whisper's encoder. Dropout is for training from scratch; there is none here."""
    config = TINY | config  # as the original does with what config.json leaves out
    has_classifier = {"projector.weight", "classifier.weight"} <= set(shapes)
    refuse_weighted_sum(shapes, has_classifier and num_classes is None)
    config = config | {"use_weighted_layer_sum": False}
    positions = config["max_source_positions"]
    held = shapes.get("embed_positions.weight", (positions,))[0]
    if held != positions:
        raise ValueError(f"the configuration says max_source_positions={positions}, and the file holds {held}.")
    width, hidden, projected = config["d_model"], config["encoder_ffn_dim"], config["classifier_proj_size"]
    embed = MelEmbedding(config["num_mel_bins"], width, positions, rngs=rngs)
    blocks = [
        Block(
            Attention(width, config["encoder_attention_heads"], biases=(True, False, True, True), rngs=rngs),
            FeedForward(width, hidden, activation(config["activation_function"]), rngs=rngs),
            width=width,
            epsilon=EPSILON,
            before=True,
            rngs=rngs,
        )
        for _ in range(config["encoder_layers"])
    ]
    classes = num_classes or (shapes["classifier.weight"][0] if has_classifier else None)
    head = Head(
        "mean",
        norm=layer_norm(width, EPSILON, rngs=rngs),
        project=linear(width, projected, rngs=rngs) if classes else None,
        classifier=linear(projected, classes, rngs=rngs) if classes else None,
    )
    return Whisper(embed, blocks, head, config)


FAMILIES = {
    "whisper": Family(
        _build,
        {
            "embed.first": "conv1",
            "embed.second": "conv2",
            "embed.positions": "embed_positions.weight",
            "blocks.{}.attention.query": "layers.{}.self_attn.q_proj",
            "blocks.{}.attention.key": "layers.{}.self_attn.k_proj",
            "blocks.{}.attention.value": "layers.{}.self_attn.v_proj",
            "blocks.{}.attention.output": "layers.{}.self_attn.out_proj",
            "blocks.{}.attention_norm": "layers.{}.self_attn_layer_norm",
            "blocks.{}.feed_forward.inner": "layers.{}.fc1",
            "blocks.{}.feed_forward.outer": "layers.{}.fc2",
            "blocks.{}.output_norm": "layers.{}.final_layer_norm",
            "head.norm": "layer_norm",
            "head.project": "projector",
            "head.classifier": "classifier",
        },
        ("encoder.", "model.encoder."),
        top=("projector", "classifier", "layer_weights"),
        ignored=(r"^(model\.)?decoder\.", r"^proj_out\.", r"^layer_weights$", r"^(projector|classifier)\."),
        config=TINY,
        bare="encoder.",  # as in a whole Whisper, whose decoder is then missing
        model="Whisper",
        task="AudioClassification",
    )
}
