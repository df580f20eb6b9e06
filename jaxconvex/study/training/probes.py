"""Linear probes: a softmax regression on frozen features, and an encoder with such a classifier as its head."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxconvex._internal.checks import one_of
from jaxconvex.encoders.convolutions import MeanHead
from jaxconvex.encoders.encoder import Encoder, Head
from jaxconvex.encoders.modules import linear
from jaxconvex.study.training.batches import as_classes, as_inputs, features
from jaxconvex.study.training.fine_tuning import cross_entropy

__all__ = ["LinearHead", "pooled", "probe", "softmax_regression", "with_classifier"]

Take = Literal["mean", "first"]


class LinearHead(NamedTuple):
    """The linear map of d features to c logits, `features @ kernel + bias`."""

    kernel: Float[Array, "d c"]
    bias: Float[Array, " c"]


def with_classifier(encoder: Encoder, num_classes: int, *, take: Take) -> Encoder:
    """The encoder with one linear layer after its final normalisation and the pooling, all weights of it zero.

    What the checkpoint may have beside that (a projection, a dense layer with its activation, a classifier) is left out,
    so that from the pooled features on the network is linear. The other weights are shared with the encoder, not copied.

    Args:
        encoder: its head's normalisation stays; of a `MeanHead` also the convolution and the activation after it.
        num_classes: the number of logits.
        take: "mean" of the valid tokens, or the "first" token; a map of features has no first token.

    Raises:
        ValueError: for "first" where the states are maps of features.

    Example:
        >>> from jaxconvex import encoders
        >>> tiny = {"model_type": "vit", "image_size": 8, "patch_size": 4, "hidden_size": 8, "num_hidden_layers": 2,
        ...         "num_attention_heads": 2, "intermediate_size": 16}
        >>> encoder = encoders.initialise(tiny, rngs=nnx.Rngs(0))
        >>> with_classifier(encoder, 3, take="mean")(jnp.ones((1, 8, 8, 3))).tolist()
        [[0.0, 0.0, 0.0]]
    """
    one_of(take, ("mean", "first"), "take")
    classified = nnx.merge(*nnx.split(encoder))
    old = classified.head
    classifier = linear(_width(classified), num_classes, kernel_init=nnx.initializers.zeros, rngs=nnx.Rngs(0))
    if isinstance(old, MeanHead):
        if take == "first":
            raise ValueError("the states of this encoder are maps of features, which have no first token; take='mean'.")
        classified.head = MeanHead(conv=old.conv, norm=old.norm, activation=old.activation, classifier=classifier)
    else:
        classified.head = Head(take, norm=old.norm, classifier=classifier)
    return classified


def probe(
    encoder: Encoder,
    inputs: Any,
    labels: Int[Array, " n"],
    *,
    num_classes: int,
    take: Take,
    penalty: float = 1e-3,
    batch_size: int = 256,
) -> Encoder:
    """The encoder with a linear classifier fitted by `softmax_regression` on pooled features, all else frozen.

    Args:
        encoder: in `eval` mode its features are computed, whatever mode it is in.
        inputs: of the training points: an array, or a tuple such as `Inputs(inputs, mask)`.
        labels: the class of each, from 0 to num_classes - 1.
        num_classes, take: as for `with_classifier`.
        penalty: the weight of the squared norm, above 0.
        batch_size: of the forward passes; the fit takes all points at once.

    Raises:
        ValueError: if a label is no such integer, or their number is not that of the inputs.

    Example:
        >>> from jaxconvex import encoders
        >>> encoder = encoders.initialise({"model_type": "resnet1d", "epoch_len": 5}, rngs=nnx.Rngs(0))
        >>> windows = jnp.stack([jnp.ones((150, 3)), jnp.eye(150, 3)])
        >>> probe(encoder, windows, jnp.array([0, 1]), num_classes=2, take="mean")(windows).argmax(axis=1).tolist()
        [0, 1]
    """
    inputs = as_inputs(inputs)
    labels = as_classes(labels, inputs, num_classes, "labels")
    probed = with_classifier(encoder, num_classes, take=take)
    vectors = features(pooled, probed, inputs, batch_size=batch_size)
    head = softmax_regression(jnp.asarray(vectors), labels, num_classes=num_classes, penalty=penalty)
    nnx.update(probed.head.classifier, {"kernel": head.kernel, "bias": head.bias})
    return probed


def pooled(encoder: Encoder, inputs: Array, mask: Array | None = None) -> Float[Array, "b p"]:
    """What the encoder's classifier sees of the last state: one vector a point."""
    h = list(encoder.hidden_states(inputs, mask).values())[-1]
    return encoder.head.pooled(h, encoder.sequence_mask(inputs, mask))


@partial(jax.jit, static_argnames="num_classes")
def softmax_regression(
    features: Float[Array, "n d"], labels: Int[Array, " n"], *, num_classes: int, penalty: float = 1e-3
) -> LinearHead:
    """The linear map W, b that minimises mean cross-entropy + penalty/2 |W|^2 over standardised features.

    The objective is convex and minimised by L-BFGS from zero, so no seed enters; the map returned takes the features
    as they came. A feature that never varies gets the weight 0.

    Args:
        features: one row a point.
        labels: the class of each point, from 0 to num_classes - 1; a class without points gets a very small bias.
        num_classes: the number of logits, static.
        penalty: the weight of the squared norm, above 0.

    Example:
        >>> head = softmax_regression(jnp.array([[0.0], [1.0], [2.0], [3.0]]), jnp.array([0, 0, 1, 1]), num_classes=2)
        >>> jnp.argmax(jnp.array([[-1.0], [4.0]]) @ head.kernel + head.bias, axis=1).tolist()
        [0, 1]
    """
    mean, scale = features.mean(axis=0), jnp.maximum(features.std(axis=0), 1e-6)
    standardised = (features - mean) / scale

    def objective(head: LinearHead) -> Float[Array, ""]:
        logits = standardised @ head.kernel + head.bias
        return cross_entropy(logits, labels) + penalty / 2 * jnp.sum(head.kernel**2)

    optimizer = optax.lbfgs()
    value_and_gradient = optax.value_and_grad_from_state(objective)

    def step(carry):
        head, state, i = carry
        value, gradient = value_and_gradient(head, state=state)
        updates, state = optimizer.update(gradient, state, head, value=value, grad=gradient, value_fn=objective)
        return optax.apply_updates(head, updates), state, i + 1

    def unfinished(carry):
        _, state, i = carry
        return (i == 0) | ((i < 500) & (optax.tree.norm(optax.tree.get(state, "grad")) > 1e-4))

    zero = LinearHead(jnp.zeros((features.shape[1], num_classes)), jnp.zeros(num_classes))
    head, _, _ = jax.lax.while_loop(unfinished, step, (zero, optimizer.init(zero), 0))
    kernel = head.kernel / scale[:, None]
    return LinearHead(kernel, head.bias - mean @ kernel)


def _width(encoder: Encoder) -> int:
    """The size of what the classifier sees: that of the last normalisation before it."""
    if encoder.head.norm is not None:
        return encoder.head.norm.num_features
    last: Any = list(encoder.blocks)[-1] if len(encoder.blocks) else encoder.embed
    norms = [module for _, module in nnx.iter_modules(last) if hasattr(module, "num_features")]
    if hasattr(last, "project_norm"):  # of a bottleneck, whose inner normalisations are wider
        return last.project_norm.num_features
    if not norms:
        raise ValueError("the encoder has no normalisation that tells the size of its last state.")
    return norms[-1].num_features
