"""Every public function of arrays as a function of points and labels alone: what holds for all is tested on this table."""

from __future__ import annotations

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np

import jaxconvex
from jaxconvex import losses

N, D, CLASSES, K = 32, 5, 4, 4
WEIGHTS = np.asarray(jax.random.normal(jax.random.key(1), (D, CLASSES)))


def data():
    labels = np.arange(N) % CLASSES
    return np.random.default_rng(0).normal(size=(N, D)).astype(np.float32) + np.eye(CLASSES, D)[labels], labels


def points_and_labels():
    x, labels = data()
    return jnp.asarray(x, jnp.float32), jnp.asarray(labels, jnp.int32)


def head(h):
    return h @ WEIGHTS


def taxicab(a, b):
    return jnp.sum(jnp.where(a == b, 0, jnp.abs(a - b)))


@cache
def model():
    from flax import nnx

    with jax.ensure_compile_time_eval():  # it may be asked for inside jit
        return nnx.Sequential(nnx.Linear(D, 7, rngs=nnx.Rngs(0)), nnx.relu, nnx.Linear(7, CLASSES, rngs=nnx.Rngs(1)))


def read(x, y):
    return jaxconvex.from_nnx(model())(x)[1]["layers/0"]


def run_from(x, y):
    return jaxconvex.run_from(model(), "layers/0", x @ np.ones((D, 7), np.float32), x)


def stack(weights, x):
    def block(h, w):
        return jaxconvex.mark(jnp.tanh(h @ w), "block"), None

    return jax.lax.scan(block, x, weights)[0]


@cache
def marked():
    return jaxconvex.from_function(jax.tree_util.Partial(stack, np.ones((3, D, D), np.float32)))


def rest_of(x, y):
    return jaxconvex.rest_of(marked(), "block/0", example=np.ones((1, D), np.float32))(x)


def some_unlabelled(y):
    return jnp.where(jnp.arange(N) % 8 < 4, y, -1)


ARRAYS = {
    "pairwise": lambda x, y: jaxconvex.pairwise(x),
    "pairwise by a function": lambda x, y: jaxconvex.pairwise(x, metric=taxicab),
    "knn_graph": lambda x, y: jaxconvex.knn_graph(x, k=K),
    "knn_graph, cosine": lambda x, y: jaxconvex.knn_graph(x, k=K, metric="cosine"),
    "knn_graph by a function": lambda x, y: jaxconvex.knn_graph(x, k=K, metric=taxicab),
    "epsilon_graph": lambda x, y: jaxconvex.epsilon_graph(x, radius=2.0, max_degree=N - 1),
    "neighbors_graph": lambda x, y: jaxconvex.neighbors_graph(*jaxconvex.knn_graph(x, k=K)),
    "undirected": lambda x, y: jaxconvex.undirected(jaxconvex.knn_graph(x, k=K)),
    "graph_convexity": lambda x, y: (
        jaxconvex.graph_convexity(jaxconvex.knn_graph(x, k=K), y, num_classes=CLASSES).per_class
    ),
    "graph_intrusions": lambda x, y: jaxconvex.graph_intrusions(jaxconvex.knn_graph(x, k=K), y, num_classes=CLASSES),
    "concept_convexity": lambda x, y: (
        jaxconvex.concept_convexity(jaxconvex.knn_graph(x, k=K), jnp.stack([x[:, 0] > 0, y == 1], axis=1)).per_class
    ),
    "shortest_path_lengths, packed": lambda x, y: jaxconvex.shortest_path_lengths(
        jaxconvex.pack(jaxconvex.knn_graph(x, k=K)), jnp.arange(3)
    ),
    "same_class_pairs": lambda x, y: jaxconvex.same_class_pairs(
        y, num_classes=CLASSES, max_pairs=9, key=jax.random.key(3)
    ),
    "segment_points": lambda x, y: jaxconvex.segment_points(x[:, 0], x[:, 1], num_points=3),
    "euclidean_convexity": lambda x, y: jaxconvex.euclidean_convexity(
        head, x, y, num_classes=CLASSES, max_pairs=9, key=jax.random.key(3)
    ),
    "path_memberships": lambda x, y: losses.path_memberships(x, some_unlabelled(y), num_classes=CLASSES, k=K),
    "balanced_batch": lambda x, y: losses.balanced_batch(
        jax.random.key(3), y, num_classes=CLASSES, classes=2, points=3
    ),
    "recall": lambda x, y: losses.recall(losses.remember(losses.memory(50, D), x, y), x, y),
    "from_nnx": read,
    "run_from": run_from,
    "from_function": lambda x, y: marked()(x)[1]["block/1"],
    "rest_of": rest_of,
}

LOSSES = {
    "graph_convexity_loss": lambda x, y: losses.graph_convexity_loss(x, y, k=K),
    "graph_convexity_loss, cold": lambda x, y: losses.graph_convexity_loss(x, y, k=K, temperature=0.01),
    "graph_convexity_loss, soft": lambda x, y: losses.graph_convexity_loss(x, jax.nn.one_hot(y, CLASSES), k=K),
    "detour_loss": lambda x, y: losses.detour_loss(x, y, k=K),
    "euclidean_convexity_loss": lambda x, y: losses.euclidean_convexity_loss(head, x, y, key=jax.random.key(3)),
    "with_unit_gradient": lambda x, y: losses.with_unit_gradient(losses.detour_loss)(x, y, k=K),
}

ALL = ARRAYS | LOSSES
