"""Training of the demonstration's `VisionTransformer`: without labels, and a probe on it."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxconvex.study.training import Progress, features, softmax_regression, train
from jaxconvex.study.training.batches import as_classes, as_inputs
from jaxconvex.study.transformer import VisionTransformer

__all__ = ["Pretrained", "pretrain", "probe"]


class Pretrained(NamedTuple):
    """A model trained without labels, and the mean loss of each epoch."""

    model: VisionTransformer
    losses: np.ndarray


def pretrain(
    model: VisionTransformer,
    images: Float[Array, "n s s c"],
    key: Array,
    *,
    num_epochs: int = 20,
    batch_size: int = 32,
    learning_rate: float = 3e-3,
    progress: Progress | None = None,
) -> Pretrained:
    """The model after training without labels: images with half their patches masked are to be completed.

    The loss is the mean squared error of all pixels, predicted by a linear decoder from the normalised class token
    alone: what describes the whole image then gathers in the token that the head reads. The decoder is not kept.

    Args:
        model: the network to start from; the classifier of its head takes no part.
        images: pixel values, best of mean 0 and deviation 1 or so; no labels.
        key: initialises the decoder, draws the masks and shuffles the images.
        num_epochs: the number of passes over the images.
        batch_size: the number of images a step; an epoch leaves out the remainder of the shuffled images.
        learning_rate: the peak of a schedule that warms up for a tenth of the steps, then falls along a cosine to 0.
        progress: called after each epoch.

    Source: after He et al. 2022 (arXiv 2111.06377), masked patches being replaced as in Xie et al. 2022
        (arXiv 2111.09886).
    """
    decoder_key, key = jax.random.split(key)
    num_values = model.num_patches * model.patch_embedding.in_features
    decoder = nnx.Linear(model.norm.num_features, num_values, rngs=nnx.Rngs(decoder_key))
    trained = train(
        (model, decoder),
        _masked_patch_loss,
        (images,),
        key,
        num_epochs=num_epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        progress=progress,
    )
    return Pretrained(trained.networks[0], trained.losses)


def probe(
    model: VisionTransformer, images: Float[Array, "n s s c"], labels: Int[Array, " n"], *, penalty: float = 1e-3
) -> VisionTransformer:
    """The model with the classifier of its head fitted by `softmax_regression`, all else frozen.

    Args:
        model: the network whose normalised class token is the features.
        images: the training images.
        labels: the class of each image, from 0 to the number of the model's logits - 1.
        penalty: the weight of the squared norm, above 0.

    Raises:
        ValueError: if a label is no such integer, or their number is not that of the images.
    """
    num_classes = model.classifier.out_features
    labels = as_classes(labels, as_inputs(images), num_classes, "labels")
    pooled = jnp.asarray(features(_features, model, images, batch_size=512))
    kernel, bias = softmax_regression(pooled, labels, num_classes=num_classes, penalty=penalty)
    probed = nnx.clone(model)
    nnx.update(probed.classifier, {"kernel": kernel, "bias": bias})
    return probed


def _features(model, images):
    return model.pool(model.last_state(0, model.embed(images)))


def _masked_patch_loss(networks, images, key):
    model, decoder = networks
    patches = model.patches(images)
    masked = jax.random.uniform(key, patches.shape[:2]).argsort(axis=1) < patches.shape[1] // 2
    completed = decoder(model.pool(model.last_state(0, model.embed(images, masked))))
    return jnp.mean((completed.reshape(patches.shape) - patches) ** 2)
