"""Images: EfficientNet-lite0.

Inverted bottlenecks without squeeze-and-excitation, with ReLU6. Embedding: the first convolution, at half the size of the
image; 16 blocks, the last at a 32nd; the head: a convolution of size 1, the mean over the map, the classifier.

Sources: Tan and Le 2019, "EfficientNet: Rethinking model scaling for convolutional neural networks" (arXiv 1905.11946);
Liu 2020, "Higher accuracy on vision models with EfficientNet-Lite" (TensorFlow blog); Sandler et al. 2018 (arXiv
1801.04381).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxconvex.encoders.convolutions import (
    ConvolutionalEncoder,
    DepthwiseConvolution,
    MeanHead,
    PointwiseConvolution,
    batch_norm,
    check_unmasked,
    convolution,
)
from jaxconvex.encoders.modules import linear
from jaxconvex.encoders.naming import Family, Shapes

__all__ = ["FAMILIES", "InvertedBottleneck", "Stem"]

LITE0: dict[str, Any] = {
    "image_size": 224,
    "stem_width": 32,
    "stages": [  # blocks, size of the square, stride of the first block, growth inside, channels
        [1, 3, 1, 1, 16],
        [2, 3, 2, 6, 24],
        [2, 5, 2, 6, 40],
        [3, 3, 2, 6, 80],
        [3, 5, 1, 6, 112],
        [4, 5, 2, 6, 192],
        [1, 3, 1, 6, 320],
    ],
    "head_width": 1280,
    "batch_norm_eps": 1e-3,
    "batch_norm_momentum": 0.99,  # the share of the running statistics that stays
}


class Stem(nnx.Module):
    """The first convolution, every second pixel."""

    def __init__(self, width: int, *, norm: Any, rngs: nnx.Rngs):
        self.conv = convolution(3, width, (3, 3), strides=2, rngs=rngs)
        self.norm = norm(width)

    def __call__(self, images: Float[Array, "b h w 3"], mask: None = None) -> Float[Array, "b hh ww c"]:
        check_unmasked(mask)
        shape: Any = images.shape
        if not jnp.issubdtype(images.dtype, jnp.floating):
            raise ValueError(f"the images must be floats, as `preprocess` makes them of pixels; got {images.dtype}.")
        if len(shape) != 4 or shape[3] != 3 or min(shape[1:3]) < 1:
            advice = " Turn them: images.transpose(0, 2, 3, 1)." if len(shape) == 4 and shape[1] == 3 else ""
            raise ValueError(f"the images must have shape (b, height, width, 3); got {shape}.{advice}")
        return jax.nn.relu6(self.norm(self.conv(images.astype(self.conv.kernel[...].dtype))))


class InvertedBottleneck(nnx.Module):
    """More channels by a dense layer of each pixel, a convolution of each channel, fewer channels again.

    The input is added where it has the shape of the output. With growth 1 the first dense layer is left out.
    """

    def __init__(self, width: int, out: int, *, size: int, stride: int, growth: int, norm: Any, rngs: nnx.Rngs):
        hidden = width * growth
        self.adds = stride == 1 and width == out
        self.expand = PointwiseConvolution(width, hidden, rngs=rngs) if growth > 1 else None
        self.expand_norm: Any = norm(hidden) if growth > 1 else None
        self.depthwise = DepthwiseConvolution(hidden, size, stride, rngs=rngs)
        self.depthwise_norm = norm(hidden)
        self.project = PointwiseConvolution(hidden, out, rngs=rngs)
        self.project_norm = norm(out)

    def __call__(self, h: Float[Array, "b h w c"], mask: None = None) -> Float[Array, "b hh ww o"]:
        wide = h if self.expand is None else jax.nn.relu6(self.expand_norm(self.expand(h)))
        wide = jax.nn.relu6(self.depthwise_norm(self.depthwise(wide)))
        out = self.project_norm(self.project(wide))
        return h + out if self.adds else out


def _build(config: Mapping[str, Any], shapes: Shapes, num_classes: int | None, rngs: nnx.Rngs) -> ConvolutionalEncoder:
    config = LITE0 | dict(config)
    norm = partial(batch_norm, epsilon=config["batch_norm_eps"], momentum=config["batch_norm_momentum"], rngs=rngs)
    width, blocks = config["stem_width"], []
    every = [
        (size, stride if i == 0 else 1, growth, out)
        for count, size, stride, growth, out in config["stages"]
        for i in range(count)
    ]
    depth = config.get("num_hidden_layers", len(every))
    for size, stride, growth, out in every[:depth]:
        blocks.append(InvertedBottleneck(width, out, size=size, stride=stride, growth=growth, norm=norm, rngs=rngs))
        width = out
    classes = num_classes or shapes.get("_fc.weight", (None,))[0]
    whole = depth == len(every)
    last = config["head_width"] if whole else width
    head = MeanHead(
        conv=PointwiseConvolution(width, last, rngs=rngs) if whole else None,
        norm=norm(last) if whole else None,
        activation=jax.nn.relu6,
        classifier=linear(last, classes, rngs=rngs) if classes else None,
    )
    return ConvolutionalEncoder(Stem(config["stem_width"], norm=norm, rngs=rngs), blocks, head, config)


NAMES = {
    "embed.conv": "_conv_stem",
    "embed.norm": "_bn0",
    "blocks.{}.expand": "_blocks.{}._expand_conv",
    "blocks.{}.expand_norm": "_blocks.{}._bn0",
    "blocks.{}.depthwise": "_blocks.{}._depthwise_conv",
    "blocks.{}.depthwise_norm": "_blocks.{}._bn1",
    "blocks.{}.project": "_blocks.{}._project_conv",
    "blocks.{}.project_norm": "_blocks.{}._bn2",
    "head.conv": "_conv_head",
    "head.norm": "_bn1",
    "head.classifier": "_fc",
}

FAMILIES = {
    "efficientnet-lite0": Family(_build, NAMES, (), top=("_fc.",), ignored=(r"num_batches_tracked$",), config=LITE0)
}
