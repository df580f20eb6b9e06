"""Pretraining of a vision transformer without labels: it fills in masked patches."""

from __future__ import annotations

from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from jaxconvex.encoders.encoder import Encoder
from jaxconvex.study.training import Progress, Trained, evaluating, train

__all__ = ["cut", "masked_patches"]


def masked_patches(
    encoder: Encoder,
    images: Float[Array, "n h w c"],
    key: Array,
    *,
    mask_share: float = 0.6,
    position_deviation: float | None = 1.0,
    num_epochs: int = 5,
    batch_size: int = 32,
    learning_rate: float = 2e-3,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
) -> Trained:
    """The encoder after training without labels: images with masked patches are to be completed.

    The pixels of masked patches are 0, the mean of preprocessed images. One linear decoder predicts a masked patch from the
    normalised last state of its token; another predicts all pixels from that of the class token, so that what describes
    the whole image gathers there. The loss is the sum of both mean squared errors. The decoders are not kept.

    Args:
        encoder: of the family "vit", with patches that divide the images.
        images: preprocessed, of mean 0 and deviation 1 or so; no labels.
        key: draws positions, decoders and masks, and shuffles the images.
        mask_share: the share of the patches masked in each image, between 0 and 1; at least one is, and one is not.
        position_deviation: the positions and the class token are first drawn anew with this deviation, about as large as
            the embedded patches: from the usual 0.02, binding what to where takes most of a short training. None keeps them.
        num_epochs: the number of passes over the images.
        batch_size: the number of images a step.
        learning_rate: the peak of the schedule of `train`.
        checkpoint, progress: as for `train`.

    Raises:
        ValueError: if the encoder has no such embedding, or the share is out of range.

    Cost: of a step, that of a training step of the encoder on whole images.

    Source: after He et al. 2022, Masked autoencoders are scalable vision learners (arXiv 2111.06377), masked patches being
        replaced as in Xie et al. 2022, SimMIM (arXiv 2111.09886).
    """
    if not hasattr(encoder.embed, "patch") or encoder.embed.positions is None:
        raise ValueError(
            "masked patches pretrain a vision transformer with learnt positions (model_type 'vit'); this encoder has "
            f"a {type(encoder.embed).__name__} at its beginning."
        )
    if not 0 < mask_share < 1:
        raise ValueError(f"mask_share must lie between 0 and 1; got {mask_share}. Try 0.6.")
    start_key, position_key, key = jax.random.split(key, 3)
    started = nnx.clone(evaluating(encoder))
    if position_deviation is not None:
        for drawn_key, parameter in zip(
            jax.random.split(position_key), (started.embed.positions, started.embed.class_token), strict=True
        ):
            parameter[...] = position_deviation * jax.random.normal(drawn_key, parameter.shape, parameter.dtype)
    width, patches = encoder.embed.kernel.shape[3], jax.eval_shape(partial(cut, patch=encoder.embed.patch), images[:1])
    rngs = nnx.Rngs(start_key)
    decoders = (
        nnx.Linear(width, patches.shape[2], rngs=rngs),
        nnx.Linear(width, patches.shape[1] * patches.shape[2], rngs=rngs),
    )
    trained = train(
        (started, *decoders),
        _loss(mask_share),
        (images,),
        key,
        num_epochs=num_epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        checkpoint=checkpoint,
        progress=progress,
    )
    return trained._replace(model=trained.model[0])


def cut(images: Float[Array, "b h w c"], patch: int) -> Float[Array, "b p q"]:
    """The images cut in p square patches of q values, row by row; what a patch does not fill is left out.

    >>> cut(jnp.arange(8.0).reshape(1, 2, 4, 1), 2).tolist()
    [[[0.0, 1.0, 4.0, 5.0], [2.0, 3.0, 6.0, 7.0]]]
    """
    batch, height, width, channels = images.shape
    rows, columns = height // patch, width // patch
    whole = images[:, : rows * patch, : columns * patch]
    parts = whole.reshape(batch, rows, patch, columns, patch, channels).swapaxes(2, 3)
    return parts.reshape(batch, rows * columns, patch * patch * channels)


def _join(patches: Float[Array, "b p q"], shape: tuple[int, ...], patch: int) -> Float[Array, "b h w c"]:
    rows, columns = shape[1] // patch, shape[2] // patch
    parts = patches.reshape(-1, rows, columns, patch, patch, shape[3]).swapaxes(2, 3)
    return parts.reshape(-1, rows * patch, columns * patch, shape[3])


def _masks(key: Array, batch: int, patches: int, share: float) -> Bool[Array, "b p"]:
    """As many masked patches in every image."""
    count = min(max(round(share * patches), 1), patches - 1)
    return jax.random.uniform(key, (batch, patches)).argsort(axis=1) < count


@lru_cache
def _loss(mask_share: float) -> Any:
    # Cached, so that equal settings are one object and compile once.
    def masked_patch_loss(networks, images, key):
        encoder, of_patch, of_image = networks
        patches = cut(images, encoder.embed.patch)
        masked = _masks(key, patches.shape[0], patches.shape[1], mask_share)
        seen = _join(jnp.where(masked[..., None], 0, patches), images.shape, encoder.embed.patch)
        last = list(encoder.hidden_states(seen).values())[-1]
        tokens = encoder.head.normalised(last)
        errors = jnp.mean((of_patch(tokens[:, 1:]) - patches) ** 2, axis=-1)
        whole = of_image(tokens[:, 0]).reshape(patches.shape)
        return jnp.sum(errors * masked) / jnp.sum(masked) + jnp.mean((whole - patches) ** 2)

    return masked_patch_loss
