"""The networks that the confirmation trains whole: how each is made, and the sizes of its training."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
from data import PICTURE, SECONDS, TOKENS, grey
from flax import nnx
from training import Recipe

from jaxconvex import encoders
from jaxconvex.encoders import Encoder
from jaxconvex.encoders.convolutions import ConvolutionalEncoder, MeanHead
from jaxconvex.study.datasets import Dataset
from jaxconvex.study.training import with_classifier

if TYPE_CHECKING:
    from jaxtyping import Array, Float

__all__ = ["SETTINGS", "Setting"]


class Setting(NamedTuple):
    """How the network of a data set is made and trained."""

    make: Callable[..., tuple[Encoder, Any]]  # from a data set, the folder of models, classes, seed: network and inputs
    layers: tuple[str, ...]  # that the loss and the score see
    recipe: Recipe  # points a class to train on, classes a batch, points of each
    steps: int
    learning_rate: float  # the peak
    probed: bool = False  # whether the classifier is fitted to the frozen network before all is trained
    every: int = 1  # of the classes, only the first of so many is taken


class Convolutions(nnx.Module):
    """A convolution of 3 by 3 pixels, normalised in eight groups of channels, with ReLU."""

    def __init__(self, width: int, out: int, *, stride: int, rngs: nnx.Rngs):
        self.conv = nnx.Conv(width, out, (3, 3), strides=stride, rngs=rngs)
        self.norm = nnx.GroupNorm(out, num_groups=8, rngs=rngs)

    def __call__(self, h: Float[Array, "b h w c"], mask: None = None) -> Float[Array, "b hh ww o"]:
        return jax.nn.relu(self.norm(self.conv(h)))


def _small(
    dataset: Dataset,
    models: Path,
    *,
    num_classes: int,
    seed: int,
    side: int,
    largest: float,
    strides: tuple[int, int, int],
) -> tuple[Encoder, Any]:
    """Three convolutions and a linear classifier of the mean over positions."""
    rngs = nnx.Rngs(seed)
    widths = (1, 32, 64, 128)
    first, *others = (
        Convolutions(*pair, stride=stride, rngs=rngs) for pair, stride in zip(pairwise(widths), strides, strict=True)
    )
    head = MeanHead(classifier=nnx.Linear(widths[-1], num_classes, rngs=rngs))
    images = np.asarray(dataset.inputs, np.float32).reshape(-1, side, side, 1) / largest
    return ConvolutionalEncoder(first, others, head, {}), (images, None)


def _pretrained(
    dataset: Dataset,
    models: Path,
    *,
    num_classes: int,
    seed: int,
    model: str,
    family: str | None = None,
    stain: bool = True,
    **options: Any,
) -> tuple[Encoder, Any]:
    """A pretrained encoder under a linear classifier of the mean, all zero."""
    encoder, preprocess = _encoder(models / model, family)
    items = dataset.inputs if stain else [grey(picture) for picture in dataset.inputs]
    inputs, mask = preprocess(items, **dataset.options, **options)
    return with_classifier(encoder, num_classes, take="mean"), (inputs, mask)


@cache
def _encoder(folder: Path, family: str | None) -> tuple[Encoder, Callable[..., Any]]:
    return encoders.load(folder, family)


SMALL = ("embed", "blocks/0", "blocks/1")
SETTINGS = {
    "fashion": Setting(partial(_small, side=28, largest=255, strides=(2, 2, 1)), SMALL, Recipe(100, 10, 10), 600, 3e-3),
    "speech": Setting(
        partial(_pretrained, model="whisper-tiny-encoder", frames=round(100 * SECONDS), mask=True),
        ("blocks/0", "blocks/1", "blocks/2", "blocks/3"),
        Recipe(60, 10, 10),
        20,
        3e-4,
        probed=True,
    ),
    "digits": Setting(partial(_small, side=8, largest=16, strides=(1, 2, 1)), SMALL, Recipe(None, 10, 10), 300, 3e-3),
    "text": Setting(
        partial(_pretrained, model="all-minilm-l6-v2", length=TOKENS, max_length=TOKENS),
        ("blocks/1", "blocks/3", "blocks/5"),
        Recipe(20, 16, 6),
        16,
        3e-4,
        probed=True,
        every=4,
    ),
    "blood": Setting(
        partial(_pretrained, model="efficientnet-lite0", family="efficientnet-lite0", stain=False, size=PICTURE),
        ("blocks/0", "blocks/4", "blocks/10", "blocks/15"),
        Recipe(100, 3, 33),
        24,
        1e-3,
    ),
}
