"""The parts that convolutional encoders share: convolutions of each kind, batch normalisation, a head over means.

A state is a map of features, (b, height, width, c) or (b, time, c), and no mask is taken. Batch normalisation uses its
running statistics; `encoder.train()`, or `nnx.view(encoder, use_running_average=False)`, makes it use those of the batch and
update the running ones, and `encoder.eval()` turns back.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from jaxconvex.encoders.encoder import Encoder
from jaxconvex.encoders.modules import PRECISION

__all__ = [
    "ConvolutionalEncoder",
    "DepthwiseConvolution",
    "MeanHead",
    "PointwiseConvolution",
    "batch_norm",
    "check_unmasked",
    "convolution",
    "depthwise",
]

he_normal = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")

convolution = partial(nnx.Conv, use_bias=False, precision=PRECISION, kernel_init=he_normal)

# The variance is the mean square of differences, since the fast form loses digits.
batch_norm = partial(nnx.BatchNorm, use_running_average=True, use_fast_variance=False)


class PointwiseConvolution(nnx.Module):
    """A convolution of size 1: one dense layer at every pixel, as a product of matrices, which is faster on CPU."""

    def __init__(self, width: int, out: int, *, rngs: nnx.Rngs):
        self.kernel = nnx.Param(he_normal(rngs.params(), (1, 1, width, out)))

    def __call__(self, h: Float[Array, "b h w c"]) -> Float[Array, "b h w o"]:
        return jnp.einsum("bhwc,co->bhwo", h, self.kernel[...][0, 0], precision=PRECISION)


class DepthwiseConvolution(nnx.Module):
    """Each channel convolved alone, by a square of `size` pixels."""

    def __init__(self, width: int, size: int, stride: int, *, rngs: nnx.Rngs):
        self.stride = stride
        normal = nnx.initializers.normal((2 / size**2) ** 0.5)  # a channel's outputs come from size ** 2 values
        self.kernel = nnx.Param(normal(rngs.params(), (size, size, 1, width)))

    def __call__(self, h: Float[Array, "b h w c"]) -> Float[Array, "b hh ww c"]:
        return depthwise(h, self.kernel[...], stride=self.stride)


@partial(jax.jit, static_argnames="stride")
def depthwise(
    h: Float[Array, "b h w c"], kernel: Float[Array, "k k 1 c"], *, stride: int = 1
) -> Float[Array, "b hh ww c"]:
    """Each channel convolved alone, zeros around, ceil(size / stride) pixels each way ("SAME": one zero more at the end).

    On CPU it is a sum of shifted maps, which XLA fuses with what follows: 17 to 28 times as fast there as its grouped
    convolution, which the other devices take.

    >>> depthwise(jnp.ones((1, 3, 3, 1)), jnp.ones((3, 3, 1, 1)))[0, :, :, 0].tolist()
    [[4.0, 6.0, 4.0], [6.0, 9.0, 6.0], [4.0, 6.0, 4.0]]
    """
    return lax.platform_dependent(
        h, kernel, cpu=partial(_shifted, stride=stride), default=partial(_grouped, stride=stride)
    )


def _shifted(h: Array, kernel: Array, stride: int) -> Array:
    size = kernel.shape[0]
    pads = lax.padtype_to_pads(h.shape[1:3], (size, size), (stride, stride), "SAME")
    padded = jnp.pad(h, ((0, 0), *pads, (0, 0)))
    rows, columns = (-(-pixels // stride) for pixels in h.shape[1:3])
    total = jnp.zeros((), h.dtype)
    for i in range(size):
        for j in range(size):
            ends = (h.shape[0], i + (rows - 1) * stride + 1, j + (columns - 1) * stride + 1, h.shape[3])
            total += lax.slice(padded, (0, i, j, 0), ends, (1, stride, stride, 1)) * kernel[i, j, 0]
    return total


def _grouped(h: Array, kernel: Array, stride: int) -> Array:
    return lax.conv_general_dilated(
        h,
        kernel,
        (stride, stride),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=h.shape[3],
        precision=PRECISION,
    )


class MeanHead(nnx.Module):
    """What follows the last block: a last convolution, the mean over the map, and a classifier, as far as there are any.

    Args:
        conv, norm: a convolution of size 1 and its batch normalisation, both or neither.
        activation: what follows them, and `dense`.
        dense: a dense layer of the mean, or None.
        classifier: the last dense layer, or None.
    """

    def __init__(
        self,
        *,
        conv: nnx.Module | None = None,
        norm: nnx.Module | None = None,
        activation: Callable[[Array], Array] = jax.nn.relu,
        dense: nnx.Module | None = None,
        classifier: nnx.Module | None = None,
    ):
        self.conv = conv
        self.norm: Any = norm
        self.activation = activation
        self.dense = dense
        self.classifier = classifier

    def pooled(self, h: Float[Array, "b ... c"], mask: None = None) -> Float[Array, "b p"]:
        """One vector a point, as the classifier sees it."""
        if self.conv is not None:
            h = self.activation(self.norm(self.conv(h)))
        vector = h.mean(axis=tuple(range(1, h.ndim - 1)))
        return vector if self.dense is None else self.activation(self.dense(vector))

    def __call__(self, h: Float[Array, "b ... c"], mask: None = None) -> Float[Array, "b p"]:
        """The logits (b, classes); without a classifier the pooled features (b, p)."""
        vector = self.pooled(h)
        return vector if self.classifier is None else self.classifier(vector)


class ConvolutionalEncoder(Encoder):
    """An encoder whose states are maps of features. It takes no mask.

    The head fits the last block's channels, so a truncated encoder has another: the mean over the map alone. For a
    classifier on it, save it and load it with num_classes:

    >>> import tempfile
    >>> from jaxconvex import encoders
    >>> encoder = encoders.initialise({"model_type": "resnet1d", "epoch_len": 5}, num_classes=4, rngs=nnx.Rngs(0))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     encoders.save(encoder.truncate(2), folder)
    ...     shorter, _ = encoders.load(folder, num_classes=10)
    >>> encoder.truncate(2)(jnp.ones((1, 150, 3))).shape, shorter(jnp.ones((1, 150, 3))).shape
    ((1, 128), (1, 10))
    """

    def sequence_mask(self, inputs: Array, mask: Array | None = None) -> None:
        """None: every pixel, every sample counts."""
        return None

    def truncate(self, depth: int) -> Encoder:
        """A copy with the first `depth` blocks, sharing their weights; with fewer than all, the head is the mean alone."""
        shorter = super().truncate(depth)
        if depth < len(self.blocks):
            shorter.head = MeanHead()
        return shorter


def check_unmasked(mask: Any) -> None:
    """Raise ValueError if there is a mask."""
    if mask is not None:
        raise ValueError(
            "this encoder takes no mask: every pixel or sample of a point counts. Crop the inputs instead."
        )
