"""The rule for equally short paths: one specification, and every way through the engine beside it.

Between two points the shortest path with the fewest points outside the class counts, then the one with the fewest hops;
equal means equal but for rounding. The oracle is exact: whole numbers, or listed paths.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from jaxconvex import graph_convexity, graph_pair_scores, knn_graph, pack, permutation_null, shortest_path_counts
from jaxconvex.paths.graph import undirected
from jaxconvex.statistics.permutation import permuted_labels

N, CLASSES, K = 48, 3, 4


def lattice(rng):
    return rng.integers(0, 6, (N, 2)).astype(float)


def integers_on_a_line(rng):
    return rng.integers(0, 60, (N, 1)).astype(float)


def fractions_on_a_line(rng):
    """Thirds: none of them is a number of float32, and all ties hang on rounding."""
    return rng.integers(0, 90, (N, 1)) / 3


def duplicates(rng):
    return np.repeat(rng.integers(0, 9, (N // 4, 2)), 4, axis=0).astype(float)


def outlier(rng):
    x = rng.integers(0, 6, (N, 2)).astype(float)
    x[0] = 1e5, 0
    return x


def chain(rng):
    x = np.arange(N, dtype=float)[:, None]
    return np.concatenate([x, np.zeros_like(x)], axis=1)


KINDS = [lattice, integers_on_a_line, fractions_on_a_line, duplicates, outlier, chain]


def case(kind, seed):
    """Neighbours, labels, the oracle's paths and pair scores: of the first draw whose ties no rounding decides."""
    for draw in range(20):
        rng = np.random.default_rng([seed, draw])
        x = kind(rng).astype(np.float32)
        labels = rng.integers(-1, CLASSES, N).astype(np.int32)
        knn = knn_graph(jnp.asarray(x), k=K)
        adjacency = oracles.undirected(np.asarray(knn.indices), np.asarray(knn.distances, np.float64))
        paths, wide = (oracles.shortest_paths(adjacency, labels, tolerance=t) for t in (2e-7, 2e-6))
        if all(np.array_equal(a, b) for a, b in zip(paths, wide, strict=True)):
            return knn, labels, paths, oracles.pair_scores(adjacency, paths)
    raise AssertionError("no draw without doubt")


def per_class(scores, labels):
    found = []
    for c in range(CLASSES):
        members = np.flatnonzero(labels == c)
        pairs = scores[np.ix_(members, members)][np.triu_indices(len(members), 1)]
        found.append(pairs.mean() if len(pairs) else np.nan)
    return np.array(found)


def eager(knn, labels):
    return graph_convexity(knn, labels, num_classes=CLASSES).per_class


def under_jit(knn, labels):
    return jax.jit(lambda g, y: graph_convexity(g, y, num_classes=CLASSES).per_class)(knn, jnp.asarray(labels))


def under_vmap(knn, labels):
    graphs = jax.tree.map(lambda part: jnp.stack([part, part]), knn)
    return jax.vmap(lambda g: graph_convexity(g, jnp.asarray(labels), num_classes=CLASSES).per_class)(graphs)[1]


def from_sources(knn, labels):
    key = jax.random.key(0)
    return graph_convexity(knn, labels, num_classes=CLASSES, max_sources=N, key=key).per_class


def by_dijkstra(knn, labels):
    packed = pack(knn)
    return graph_convexity(packed._replace(depth=jnp.int32(10_000)), labels, num_classes=CLASSES).per_class


def by_sweeps(knn, labels):
    return graph_convexity(pack(knn)._replace(depth=jnp.int32(20)), labels, num_classes=CLASSES).per_class


def in_floats(knn, labels):
    return graph_convexity(pack(knn)._replace(quantum=jnp.float32(0)), labels, num_classes=CLASSES).per_class


def by_pairs(knn, labels):
    return [
        np.nanmean(scores) if len(scores) > 1 else np.nan
        for _, scores in graph_pair_scores(knn, labels, num_classes=CLASSES)
    ]


WAYS = [eager, under_jit, under_vmap, from_sources, by_dijkstra, by_sweeps, in_floats, by_pairs]


@pytest.mark.long(after=1)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_way_follows_the_rule(kind, way):
    for seed in range(3):
        knn, labels, _, scores = case(kind, seed)
        np.testing.assert_allclose(way(knn, labels), per_class(scores, labels), atol=2e-6, err_msg=f"seed {seed}")


@pytest.mark.long(after=1)
@pytest.mark.parametrize("kind", KINDS)
def test_counts_of_all_pairs_are_the_oracles(kind):
    everyone = jnp.arange(N)
    for seed in range(3):
        knn, labels, paths, _ = case(kind, seed)
        for graph in (knn, pack(knn)):
            got = shortest_path_counts(graph, jnp.asarray(labels), everyone, everyone)
            np.testing.assert_array_equal(got.interior, paths.interior)
            np.testing.assert_array_equal(got.outside, paths.outside)


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_the_null_follows_the_rule(kind):
    knn, labels, _, _ = case(kind, 0)
    key = jax.random.key(1)
    null = permutation_null(knn, labels, num_classes=CLASSES, key=key, num_permutations=5)
    permuted = np.asarray(permuted_labels(jnp.asarray(labels), 5, key, CLASSES))
    adjacency = oracles.dense(*map(np.asarray, undirected(knn)[:3]), N)
    for p in range(5):
        paths = oracles.shortest_paths(adjacency, permuted[:, p], tolerance=5e-7)
        want = per_class(oracles.pair_scores(adjacency, paths), permuted[:, p])
        np.testing.assert_allclose(null.per_class.samples[:, p], want, atol=2e-6)
