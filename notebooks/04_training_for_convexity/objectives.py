"""The objectives that are compared: a function a method, all of one signature.

Each returns mean cross entropy + weight * the method's term, where the term is a mean over the three hidden layers if it
reads them. For label smoothing and Manifold Mixup the weight is the method's own parameter.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import networks
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jaxconvex.losses import detour_loss, euclidean_convexity_loss, graph_convexity_loss, with_unit_gradient

__all__ = [
    "GRIDS",
    "OBJECTIVES",
    "Context",
    "Objective",
    "cross_entropy",
    "label_smoothing",
    "manifold_mixup",
    "mixed_cross_entropy",
    "mixed_logits",
    "mean_over_layers",
    "nothing",
    "scatter_ratio",
    "supervised_contrastive",
    "supervised_contrastive_term",
    "within_class_variance",
]

Params = tuple[tuple[Array, Array], ...]


class Context(NamedTuple):
    """What an objective may know beside the batch; `num_classes` is a Python int, the others are traced."""

    num_classes: int
    progress: Float[Array, ""] | float = 0.0  # share of the training steps already made, for annealing
    unlabelled: Float[Array, "m d"] | None = None  # a batch of points without labels, where training was given some


Objective = Callable[[Params, Array, Array, PRNGKeyArray, Array, Context], Float[Array, ""]]


# ---------------------------------------------------------------------------------------------------------------- rivals


def nothing(params: Params, x: Array, y: Array, key: PRNGKeyArray, weight: Array, context: Context) -> Array:
    """Mean cross entropy."""
    return cross_entropy(networks.logits(params, x), y)


def label_smoothing(params: Params, x: Array, y: Array, key: PRNGKeyArray, weight: Array, context: Context) -> Array:
    """Cross entropy with targets that give `weight` of the probability to all classes alike.

    Source: Szegedy et al., Rethinking the Inception architecture for computer vision, 2016.
    """
    log_p = jax.nn.log_softmax(networks.logits(params, x))
    own = -jnp.mean(_picked(log_p, y))
    return own + weight * (-jnp.mean(log_p) - own)


def manifold_mixup(params: Params, x: Array, y: Array, key: PRNGKeyArray, weight: Array, context: Context) -> Array:
    """Cross entropy of points mixed at a random layer, the shares drawn from Beta(weight, weight).

    Source: Verma et al., Manifold Mixup: better representations by interpolating hidden states, 2019.
    """
    return mixed_cross_entropy(params, x, y, key, weight)


def supervised_contrastive(
    params: Params, x: Array, y: Array, key: PRNGKeyArray, weight: Array, context: Context
) -> Array:
    """Cross entropy + weight * the mean over hidden layers of the supervised contrastive loss.

    Source: Khosla et al., Supervised contrastive learning, 2020 (there on a projection of the last layer only).
    """
    return _with_term(params, x, y, weight, lambda h: supervised_contrastive_term(h, y))


def within_class_variance(
    params: Params, x: Array, y: Array, key: PRNGKeyArray, weight: Array, context: Context
) -> Array:
    """Cross entropy + weight * the mean over hidden layers of the within-class share of the variance."""
    return _with_term(params, x, y, weight, lambda h: scatter_ratio(h, y, context.num_classes))


# ------------------------------------------------------------------------------------------------------------------ ours
# The mean over the hidden layers of a surrogate, its gradient brought to a standard length; the defaults of the package.


def graph_convexity(params: Params, x: Array, y: Array, key: PRNGKeyArray, weight: Array, context: Context) -> Array:
    """Cross entropy + weight * the mean over hidden layers of the graph convexity loss."""
    return _with_term(params, x, y, weight, lambda h: graph_term(h, y))


def graph_convexity_raw(
    params: Params, x: Array, y: Array, key: PRNGKeyArray, weight: Array, context: Context
) -> Array:
    """The same, with the gradient as it is."""
    return _with_term(params, x, y, weight, lambda h: graph_convexity_loss(h, y))


def detour(params: Params, x: Array, y: Array, key: PRNGKeyArray, weight: Array, context: Context) -> Array:
    """Cross entropy + weight * the mean over hidden layers of the detour loss."""
    return _with_term(params, x, y, weight, lambda h: with_unit_gradient(lambda h: detour_loss(h, y), h))


def euclidean_convexity(
    params: Params, x: Array, y: Array, key: PRNGKeyArray, weight: Array, context: Context
) -> Array:
    """Cross entropy + weight * the mean over hidden layers of the cross entropy at points between pairs of a class."""
    return cross_entropy(networks.logits(params, x), y) + weight * euclidean_term(params, x, y, key)


def graph_and_euclidean(
    params: Params, x: Array, y: Array, key: PRNGKeyArray, weight: Array, context: Context
) -> Array:
    """Both surrogates, each by the weight."""
    return graph_convexity(params, x, y, key, weight, context) + weight * euclidean_term(params, x, y, key)


def graph_and_mixup(params: Params, x: Array, y: Array, key: PRNGKeyArray, weight: Array, context: Context) -> Array:
    """Manifold Mixup with shares from Beta(1, 1), and the graph convexity loss by the weight."""
    _, term = mean_over_layers(params, x, lambda h: graph_term(h, y))
    return mixed_cross_entropy(params, x, y, key, jnp.ones(())) + weight * term


def graph_and_contrastive(
    params: Params, x: Array, y: Array, key: PRNGKeyArray, weight: Array, context: Context
) -> Array:
    """The supervised contrastive loss by the weight, and the graph convexity loss by its default weight of 1."""
    return _with_term(params, x, y, weight, lambda h: supervised_contrastive_term(h, y) + graph_term(h, y) / weight)


def graph_term(h: Float[Array, "n d"], y: Int[Array, " n"]) -> Float[Array, ""]:
    """The graph convexity loss of a layer, with a gradient of standard length."""
    return with_unit_gradient(lambda h: graph_convexity_loss(h, y), h)


def euclidean_term(params: Params, x: Array, y: Array, key: PRNGKeyArray) -> Float[Array, ""]:
    """The mean over hidden layers of the Euclidean convexity loss."""
    return jnp.mean(
        jnp.stack(
            [
                euclidean_convexity_loss(partial(networks.rest, params, i), h, y, key=jax.random.fold_in(key, i))
                for i, h in enumerate(networks.hidden(params, x))
            ]
        )
    )


# ----------------------------------------------------------------------------------------------------------------- terms


def cross_entropy(logits: Float[Array, "n c"], y: Int[Array, " n"]) -> Float[Array, ""]:
    """Mean negative log probability of the labels."""
    return -jnp.mean(_picked(jax.nn.log_softmax(logits), y))


def mean_over_layers(params: Params, x: Array, term: Callable[[Array], Array]) -> tuple[Array, Array]:
    """The logits, and the mean of term(h) over the activations h of the hidden layers, in one pass."""
    hidden = networks.hidden(params, x)
    return networks.rest(params, len(hidden) - 1, hidden[-1]), jnp.mean(jnp.stack([term(h) for h in hidden]))


def mixed_cross_entropy(
    params: Params, x: Float[Array, "n d"], y: Int[Array, " n"], key: PRNGKeyArray, alpha: Array
) -> Float[Array, ""]:
    """s CE(f(s h + (1 - s) h'), y) + (1 - s) CE(.., y'), as `mixed_logits` mixes."""
    logits, share, order = mixed_logits(params, x, key, alpha)
    return share * cross_entropy(logits, y) + (1 - share) * cross_entropy(logits, y[order])


def mixed_logits(
    params: Params, x: Float[Array, "n d"], key: PRNGKeyArray, alpha: Array
) -> tuple[Float[Array, "n c"], Float[Array, ""], Int[Array, " n"]]:
    """f(s h + (1 - s) h') with h' a permutation of the batch and s ~ Beta(alpha, alpha); s; and the permutation.

    The layer of h is drawn evenly among the input and the hidden layers, s and the permutation once a batch.
    """
    layer, share, order = mixing(key, len(x), len(params), alpha)

    def mixed_at(layer: int) -> Array:
        h = (x, *networks.hidden(params, x))[layer]
        return networks.rest(params, layer - 1, share * h + (1 - share) * h[order])

    return lax.switch(layer, [partial(mixed_at, i) for i in range(len(params))]), share, order


def mixing(key: PRNGKeyArray, n: int, num_layers: int, alpha: Array) -> tuple[Array, Array, Array]:
    """The layer (0 is the input), the share and the permutation of `mixed_logits`."""
    of_layer, of_share, of_order = jax.random.split(key, 3)
    return (
        jax.random.randint(of_layer, (), 0, num_layers),
        jax.random.beta(of_share, alpha, alpha),
        jax.random.permutation(of_order, n),
    )


def supervised_contrastive_term(
    h: Float[Array, "n d"], y: Int[Array, " n"], temperature: float = 0.1
) -> Float[Array, ""]:
    """Mean over points i of -1/|P_i| sum over p in P_i of log(exp(z_i z_p / t) / sum over a != i of exp(z_i z_a / t)).

    z is h divided by its norm, P_i are the other points of i's class; points without any do not count.
    """
    z = h * lax.rsqrt(jnp.maximum(jnp.sum(h**2, axis=1, keepdims=True), 1e-12))  # a dead layer has norm 0
    itself = jnp.eye(len(y), dtype=bool)
    similarity = z @ z.T / temperature
    log_share = similarity - jax.nn.logsumexp(similarity, axis=1, keepdims=True, where=~itself)
    positive = (y[:, None] == y[None, :]) & ~itself
    count = jnp.sum(positive, axis=1)
    of_point = -jnp.sum(jnp.where(positive, log_share, 0), axis=1) / jnp.maximum(count, 1)
    return jnp.sum(of_point) / jnp.maximum(jnp.sum(count > 0), 1)


def scatter_ratio(h: Float[Array, "n d"], y: Int[Array, " n"], num_classes: int) -> Float[Array, ""]:
    """Sum of squared distances to the mean of one's class, over that to the mean of all: 0 collapsed, 1 unrelated."""
    member = jax.nn.one_hot(y, num_classes, dtype=h.dtype)
    means = member.T @ h / jnp.maximum(jnp.sum(member, axis=0), 1)[:, None]
    within, total = jnp.sum((h - means[y]) ** 2), jnp.sum((h - jnp.mean(h, axis=0)) ** 2)
    return within / jnp.maximum(total, 1e-12)


def _with_term(params: Params, x: Array, y: Array, weight: Array, term: Callable[[Array], Array]) -> Array:
    logits, value = mean_over_layers(params, x, term)
    return cross_entropy(logits, y) + weight * value


def _picked(log_p: Array, y: Array) -> Array:
    return jnp.take_along_axis(log_p, y[:, None], axis=1)[:, 0]


OBJECTIVES: dict[str, Objective] = {
    "nothing": nothing,
    "label_smoothing": label_smoothing,
    "manifold_mixup": manifold_mixup,
    "supervised_contrastive": supervised_contrastive,
    "within_class_variance": within_class_variance,
    "graph_convexity": graph_convexity,
    "graph_convexity_default": graph_convexity,
    "detour": detour,
    "euclidean_convexity": euclidean_convexity,
    "graph_and_euclidean": graph_and_euclidean,
    "graph_and_mixup": graph_and_mixup,
    "graph_and_contrastive": graph_and_contrastive,
}

# Four weights a method, the same budget for all; "nothing" has none to choose.
GRIDS: dict[str, tuple[float, ...]] = {
    "nothing": (0.0,),
    "label_smoothing": (0.02, 0.05, 0.1, 0.2),
    "manifold_mixup": (0.5, 1.0, 2.0, 4.0),
    "supervised_contrastive": (0.03, 0.1, 0.3, 1.0),
    "within_class_variance": (0.03, 0.1, 0.3, 1.0),
    "graph_convexity": (0.3, 1.0, 3.0, 10.0),
    "graph_convexity_default": (1.0,),  # what one gets without choosing
    "detour": (0.3, 1.0, 3.0, 10.0),
    "euclidean_convexity": (0.1, 0.3, 1.0, 3.0),
    "graph_and_euclidean": (0.1, 0.3, 1.0, 3.0),
    "graph_and_mixup": (0.3, 1.0, 3.0, 10.0),
    "graph_and_contrastive": (0.03, 0.1, 0.3, 1.0),
}
