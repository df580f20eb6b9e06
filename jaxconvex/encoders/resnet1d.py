"""Human activity: the 1-D residual network of Oxford's ssl-wearables, on windows of acceleration.

Five layers: a convolution, residual blocks normalised before (He et al. 2016), normalisation, a smoothed downsampling (Zhang
2019). The convolutions wrap around the ends of the window.

A window is 5, 10 or 30 s of three axes at 30 samples a second, in g: (b, 150, 3), (b, 300, 3), (b, 900, 3); the config's
`epoch_len` says which. State 0 is that signal itself, so that the five blocks are the five layers of the paper. Longer
windows are taken too: the head takes the mean over what is left of time, which is one step for the window's own length.

Training from random weights needs the statistics of the batch: see `convolutions`.

Sources: Yuan et al. 2024, "Self-supervised learning for human activity recognition using 700,000 person-days of wearable
data" (npj Digital Medicine 7); Zhang 2019, "Making convolutional networks shift-invariant again" (arXiv 1904.11486); He et
al. 2016, "Identity mappings in deep residual networks" (arXiv 1603.05027).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from jaxconvex.encoders.convolutions import (
    ConvolutionalEncoder,
    MeanHead,
    batch_norm,
    check_unmasked,
    he_normal,
)
from jaxconvex.encoders.modules import PRECISION, linear
from jaxconvex.encoders.naming import Family, Shapes

__all__ = ["FAMILIES", "Downsample", "Layer", "Residual", "Window", "WrappedConvolution"]

# Channels, size of the convolution, residual blocks, size of theirs, factor and order of the downsampling.
LAYERS = {
    5: ((64, 5, 2, 5, 2, 2), (128, 5, 2, 5, 2, 2), (256, 5, 2, 5, 3, 1), (256, 5, 2, 5, 3, 1), (512, 5, 0, 5, 3, 1)),
    10: ((64, 5, 2, 5, 2, 2), (128, 5, 2, 5, 2, 2), (256, 5, 2, 5, 5, 1), (512, 5, 2, 5, 5, 1), (1024, 5, 0, 5, 3, 1)),
    30: ((64, 5, 2, 5, 3, 1), (128, 5, 2, 5, 3, 1), (256, 5, 2, 5, 5, 1), (512, 5, 2, 5, 5, 1), (1024, 5, 0, 5, 4, 0)),
}
HIDDEN = 512  # of the classifier

norm = partial(batch_norm, epsilon=1e-5, momentum=0.9)  # the share of the running statistics that stays


class Window(nnx.Module):
    """The signal as it is, with its shape checked."""

    def __init__(self, channels: int, shortest: int):
        self.channels, self.shortest = channels, shortest

    def __call__(self, signals: Float[Array, "b t c"], mask: None = None) -> Float[Array, "b t c"]:
        check_unmasked(mask)
        shape: Any = signals.shape
        if len(shape) != 3 or shape[2] != self.channels:
            turned = len(shape) == 3 and shape[1] == self.channels
            advice = " Turn them: signals.transpose(0, 2, 1)." if turned else ""
            raise ValueError(f"the signals must have shape (b, time, {self.channels}); got {shape}.{advice}")
        if shape[1] < self.shortest:
            raise ValueError(
                f"the signals must have at least {self.shortest} samples, so that the last layer has one left; got "
                f"{shape[1]}. Take longer windows, or a checkpoint for shorter ones (epoch_len)."
            )
        return jnp.asarray(signals)


class WrappedConvolution(nnx.Module):
    """A convolution over time that goes on at the other end."""

    def __init__(self, width: int, out: int, size: int, *, rngs: nnx.Rngs):
        self.kernel = nnx.Param(he_normal(rngs.params(), (size, width, out)))

    def __call__(self, h: Float[Array, "b t c"]) -> Float[Array, "b t o"]:
        kernel, time = self.kernel[...], h.shape[1]
        size = len(kernel)
        padded = jnp.pad(h, ((0, 0), ((size - 1) // 2, size // 2), (0, 0)), mode="wrap")
        if time < size:  # one product of matrices: XLA on CPU takes 100 times as long for the convolution's gradient
            beside = jnp.concatenate([padded[:, i : i + time] for i in range(size)], axis=-1)
            return jnp.dot(beside, kernel.reshape(-1, kernel.shape[2]), precision=PRECISION)
        axes = ("NHC", "HIO", "NHC")
        return lax.conv_general_dilated(padded, kernel, (1,), "VALID", dimension_numbers=axes, precision=PRECISION)


class Residual(nnx.Module):
    """Normalisation, ReLU and convolution, twice, added to the input."""

    def __init__(self, width: int, size: int, *, rngs: nnx.Rngs):
        self.norm1, self.norm2 = norm(width, rngs=rngs), norm(width, rngs=rngs)
        self.conv1 = WrappedConvolution(width, width, size, rngs=rngs)
        self.conv2 = WrappedConvolution(width, width, size, rngs=rngs)

    def __call__(self, h: Float[Array, "b t c"]) -> Float[Array, "b t c"]:
        inner = self.conv1(jax.nn.relu(self.norm1(h)))
        return h + self.conv2(jax.nn.relu(self.norm2(inner)))


class Filter(nnx.Variable):
    """What the checkpoint holds and no training changes."""


class Downsample(nnx.Module):
    """Every `factor`-th sample of the signal smoothed by a box of that length, `order` times more by the same box."""

    def __init__(self, width: int, factor: int, order: int):
        if order * (factor - 1) % 2:
            raise ValueError(f"order * (factor - 1) must be even; got factor {factor} and order {order}.")
        self.factor, self.padding = factor, order * (factor - 1) // 2
        box = np.ones(1)
        for _ in range(order + 1):
            box = np.convolve(box, np.full(factor, 1 / factor))
        self.filter = Filter(jnp.broadcast_to(jnp.asarray(box, jnp.float32), (width, 1, len(box))))

    def __call__(self, h: Float[Array, "b t c"]) -> Float[Array, "b s c"]:
        weights = self.filter[...].astype(h.dtype)
        count = h.shape[1] // self.factor
        padded = jnp.pad(h, ((0, 0), (self.padding, self.padding), (0, 0)))
        ends = (count - 1) * self.factor + 1
        parts = (padded[:, i : i + ends : self.factor] * weights[:, 0, i] for i in range(weights.shape[2]))
        return sum(parts, start=jnp.zeros((), h.dtype))


class Layer(nnx.Module):
    """One block: its parts in the order and with the numbers of the checkpoint."""

    def __init__(
        self, width: int, out: int, size: int, blocks: int, inner: int, factor: int, order: int, *, rngs: nnx.Rngs
    ):
        parts: list[Any] = [
            WrappedConvolution(width, out, size, rngs=rngs),
            *(Residual(out, inner, rngs=rngs) for _ in range(blocks)),
        ]
        self.parts: Any = nnx.List([*parts, norm(out, rngs=rngs), jax.nn.relu, Downsample(out, factor, order)])

    def __call__(self, h: Float[Array, "b t c"], mask: None = None) -> Float[Array, "b s o"]:
        h = h.astype(self.parts[0].kernel[...].dtype)
        for part in self.parts:
            h = part(h)
        return h


def _build(config: Mapping[str, Any], shapes: Shapes, num_classes: int | None, rngs: nnx.Rngs) -> ConvolutionalEncoder:
    config = {"epoch_len": _epoch_len(shapes), "channels": 3} | dict(config)
    if "layers" not in config and config["epoch_len"] not in LAYERS:
        raise ValueError(
            f"there are networks for windows of {', '.join(map(str, LAYERS))} s (epoch_len); got {config['epoch_len']!r}. "
            "For another, say its `layers` in the configuration."
        )
    every = config.get("layers") or LAYERS[config["epoch_len"]]
    if any(len(row) != 6 or max(row) >= 2**16 for row in every):
        raise ValueError(f"each of the configuration's layers must have six numbers below 65,536; got {every!r:.80}.")
    rows = every[: config.get("num_hidden_layers", len(every))]
    width, blocks = config["channels"], []
    for row in rows:
        blocks.append(Layer(width, *row, rngs=rngs))
        width = row[0]
    classes = num_classes or shapes.get("classifier.linear2.weight", (None,))[0]
    dense = partial(linear, kernel_init=he_normal, rngs=rngs)
    # A truncated network has one dense layer after the mean.
    two = classes and ("classifier.linear1.weight" in shapes or len(rows) == len(every))
    head = MeanHead(
        dense=dense(width, HIDDEN) if two else None,
        classifier=dense(HIDDEN if two else width, classes) if classes else None,
    )
    return ConvolutionalEncoder(Window(config["channels"], prod(row[4] for row in rows)), blocks, head, config)


def _epoch_len(shapes: Shapes) -> int:
    """The seconds of a window, told by the checkpoint's filters; 10 where there are none."""
    for seconds, rows in LAYERS.items():
        names = [f"feature_extractor.layer{i + 1}.{row[2] + 3}.kernel" for i, row in enumerate(rows)]
        if all(
            shapes.get(name) == (row[0], 1, (row[5] + 1) * (row[4] - 1) + 1)
            for name, row in zip(names, rows, strict=True)
        ):
            return seconds
    return 10


def _layer(rest: str = "") -> Any:
    return lambda i, j: f"feature_extractor.layer{i + 1}.{j}{rest}"


NAMES = {
    "blocks.{}.parts.{}": _layer(),
    "blocks.{}.parts.{}.norm1": _layer(".bn1"),
    "blocks.{}.parts.{}.norm2": _layer(".bn2"),
    "blocks.{}.parts.{}.conv1": _layer(".conv1"),
    "blocks.{}.parts.{}.conv2": _layer(".conv2"),
    "blocks.{}.parts.{}.filter": _layer(".kernel"),
    "head.dense": "classifier.linear1",
    "head.classifier": "classifier.linear2",
}

FAMILIES = {
    "resnet1d": Family(
        _build,
        NAMES,
        ("", "module."),  # as torch's data parallelism names them
        top=("classifier.",),
        ignored=(r"num_batches_tracked$", r"^(aot|scale|permute|time_w)_h\."),
        config={},
    )
}
