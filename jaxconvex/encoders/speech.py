"""What encoders of speech share: convolutions over time, the way from waveforms to frames, and masks of frames."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxconvex.encoders.encoder import Encoder
from jaxconvex.encoders.modules import PRECISION, as_mask
from jaxconvex.encoders.naming import Shapes

__all__ = [
    "Convolution",
    "NormalisedConvolution",
    "SpeechEmbedding",
    "SpeechEncoder",
    "first_tokens",
    "refuse_weighted_sum",
]


class Convolution(nnx.Module):
    """A convolution over time, a normalisation or none, an activation. With `same`, as many frames come out as went in."""

    def __init__(
        self,
        channels: int,
        out: int,
        *,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
        same: bool = False,
        bias: bool = True,
        norm: nnx.Module | None = None,
        activation: Callable[[Array], Array],
        rngs: nnx.Rngs,
    ):
        self.conv = nnx.Conv(
            channels,
            out,
            (kernel,),
            strides=(stride,),
            # Half a kernel on both sides makes one frame too many of an even kernel; the original cuts the last.
            padding=((kernel // 2, (kernel - 1) // 2),) if same else "VALID",
            feature_group_count=groups,
            use_bias=bias,
            precision=PRECISION,
            rngs=rngs,
        )
        self.norm = norm
        self.activation = activation

    def __call__(self, h: Float[Array, "b t c"]) -> Float[Array, "b f o"]:
        h = self.conv(h)
        return self.activation(h if self.norm is None else self.norm(h))


class NormalisedConvolution(nnx.Module):
    """A convolution of samples whose every channel is normalised over time (padding too), and an activation.

    It is a group normalisation with a group for each channel. Mean and variance of a convolution follow from those of
    its windows, which are few numbers beside its frames: frames are computed normalised, and never read again. A bias of
    the convolution would cancel.
    """

    def __init__(
        self,
        out: int,
        *,
        stride: int,
        activation: Callable[[Array], Array],
        epsilon: float = 1e-5,
        **options: Any,
    ):
        self.stride = stride
        self.epsilon = epsilon
        self.activation = activation
        self.conv = Convolution(1, out, stride=stride, activation=activation, **options).conv
        self.norm = TimeNorm(out)

    def __call__(self, h: Float[Array, "b t 1"]) -> Float[Array, "b f o"]:
        kernel = self.conv.kernel[...][:, 0]
        last = (h.shape[1] - len(kernel)) // self.stride * self.stride
        windows = jnp.stack([h[:, i : i + last + 1 : self.stride, 0] for i in range(len(kernel))], axis=-1)
        windows = windows.astype(jnp.promote_types(h.dtype, jnp.float32))
        windows = windows - windows.mean(axis=1, keepdims=True)
        product = partial(jnp.einsum, precision=PRECISION)
        covariance = product("bfi,bfj->bij", windows, windows) / windows.shape[1]
        variance = product("io,bij,jo->bo", kernel, covariance, kernel)
        scale = lax.rsqrt(variance + self.epsilon) * self.norm.scale[...]
        frames = product("bfi,bio->bfo", windows, kernel * scale[:, None]) + self.norm.bias[...]
        return self.activation(frames.astype(h.dtype))


class TimeNorm(nnx.Module):
    """The scale and the bias of a normalisation over time."""

    def __init__(self, channels: int):
        self.scale = nnx.Param(jnp.ones(channels))
        self.bias = nnx.Param(jnp.zeros(channels))


class SpeechEmbedding(nnx.Module):
    """From waveforms to the frames that enter block 0.

    Args:
        convolutions: from the samples to frames of features.
        projection_norm, projection: to the width of the blocks; the norm may be None.
        positions: convolutions whose result is added, so that a frame knows its neighbours.
        norm: of the sum, or None where it belongs to the head.
        kernels, strides: of `convolutions`.
    """

    def __init__(
        self,
        convolutions: Sequence[Convolution | NormalisedConvolution],
        projection_norm: nnx.Module | None,
        projection: nnx.Module,
        positions: Sequence[Convolution],
        norm: nnx.Module | None,
        *,
        kernels: Sequence[int],
        strides: Sequence[int],
    ):
        self.convolutions = nnx.List(convolutions)
        self.projection_norm = projection_norm
        self.projection = projection
        self.positions = nnx.List(positions)
        self.norm = norm
        self.kernels = tuple(kernels)
        self.strides = tuple(strides)

    def frames(self, samples: Any) -> Any:
        """How many frames come of so many samples: a number, or an array of numbers."""
        for kernel, stride in zip(self.kernels, self.strides, strict=True):
            samples = (samples - kernel) // stride + 1
        return samples

    def frame_mask(self, mask: Bool[Array, "b s"]) -> Bool[Array, "b f"]:
        """Which frames are valid. The valid samples of a waveform are taken to stand first, as padding leaves them."""
        return first_tokens(self.frames(mask.sum(axis=-1)), self.frames(mask.shape[-1]))

    def __call__(self, waves: Float[Array, "b s"], mask: Bool[Array, "b s"] | None = None) -> Float[Array, "b f d"]:
        least = 1
        for kernel, stride in zip(reversed(self.kernels), reversed(self.strides), strict=True):
            least = (least - 1) * stride + kernel
        if waves.ndim != 2 or not jnp.issubdtype(waves.dtype, jnp.floating) or waves.shape[1] < least:
            raise ValueError(
                f"waveforms must be floats of shape (b, samples), with at least {least} samples, those of one frame; got "
                f"{waves.dtype} of shape {waves.shape}. `preprocess` makes them of audio; pad short ones and pass a mask."
            )
        h = waves[..., None].astype(self.convolutions[0].conv.kernel.dtype)
        for convolution in self.convolutions:
            h = convolution(h)
        h = self.projection(h if self.projection_norm is None else self.projection_norm(h))
        if mask is not None:  # as in training: padding must not reach its neighbours through the positions
            h = jnp.where(self.frame_mask(as_mask(mask, waves))[..., None], h, 0)
        position = h
        for convolution in self.positions:
            position = convolution(position)
        h = h + position
        return h if self.norm is None else self.norm(h)


def first_tokens(number: Int[Array, " b"], total: int) -> Bool[Array, "b t"]:
    """The mask of the first tokens of each point, at least one, so that a mean over them is never one of nothing.

    >>> first_tokens(jnp.array([2, -1]), 3).tolist()
    [[True, True, False], [True, False, False]]
    """
    return jnp.arange(total) < jnp.maximum(number, 1)[:, None]


class SpeechEncoder(Encoder):
    """An encoder whose tokens are frames of the samples that the mask of its inputs tells of."""

    def sequence_mask(self, inputs: Array, mask: Bool[Array, "b s"] | None = None) -> Bool[Array, "b f"] | None:
        """Which frames are valid; None where all are."""
        return None if mask is None else self.embed.frame_mask(as_mask(mask, inputs))


def refuse_weighted_sum(shapes: Shapes, classifies: bool) -> None:
    """Raise ValueError for a checkpoint whose classifier, if it is to be used, reads a sum of all states."""
    if "layer_weights" in shapes and classifies:
        raise ValueError(
            "the classifier reads a weighted sum of all states (use_weighted_layer_sum), not the last one, which is not "
            "supported here. The states are the same: load with num_classes= for a new classifier of the last one."
        )
