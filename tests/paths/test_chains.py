"""Long chains: Dijkstra's algorithm on the host counts what the other engines count."""

from __future__ import annotations

import numpy as np
import oracles
import pytest
from scipy.sparse import coo_matrix, csgraph

import jaxconvex as jc
from jaxconvex.paths.chains import LONG, chain_path_counts, edge_matrix

CHAINS = {
    "curve": lambda rng: np.cumsum(rng.random(300))[:, None],
    "line": lambda rng: np.arange(300.0)[:, None],  # ties throughout
    "strip": lambda rng: np.stack(np.meshgrid(np.arange(80), np.arange(3)), -1).reshape(-1, 2).astype(float),
    "two curves": lambda rng: np.concatenate([np.cumsum(rng.random(150)), 1e4 + np.cumsum(rng.random(150))])[:, None],
}


@pytest.mark.long
@pytest.mark.parametrize("name", CHAINS)
def test_agrees_with_the_packed_engine(name):
    rng = np.random.default_rng(0)
    x = CHAINS[name](rng)
    labels = rng.integers(0, 2, len(x))
    packed = jc.pack(jc.knn_graph(x, k=4))
    assert int(packed.depth) > LONG
    by_dijkstra = jc.graph_convexity(packed, labels, num_classes=2)
    by_sweeps = jc.graph_convexity(packed._replace(depth=np.int32(0)), labels, num_classes=2)
    for ours, theirs in zip(by_dijkstra, by_sweeps, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.long
def test_excesses_do_not_add_up_on_long_paths():
    """Along a spiral a chord is shorter than its arc by little, at every step; the paths are those of exact lengths."""
    angle = np.sqrt(np.linspace(9, 900, 300))
    x = np.stack([angle * np.cos(angle), angle * np.sin(angle)], -1).astype(np.float32)
    labels = np.random.default_rng(0).integers(0, 2, len(x))
    packed = jc.pack(jc.knn_graph(x, k=4))
    assert int(packed.depth) > LONG
    exact = oracles.graph_convexity(oracles.knn_adjacency(x, 4), labels, 2, tolerance=1e-12)
    # Lengths in float32 decide no difference below 2^-22 of a whole path: near, though not equal.
    np.testing.assert_allclose(jc.graph_convexity(packed, labels, num_classes=2).per_class, exact.per_class, atol=0.005)
    by_sweeps = jc.graph_convexity(packed._replace(depth=np.int32(0)), labels, num_classes=2)
    np.testing.assert_allclose(by_sweeps.per_class, exact.per_class, atol=0.03)


def test_path_graph_by_hand():
    """On a line of points with k = 1 or 2, the path between two points holds exactly the points between them."""
    n = 200
    labels = np.zeros(n, int)
    labels[50:150] = 1
    packed = jc.pack(jc.knn_graph(np.cumsum(1 + 0.001 * np.arange(n))[:, None], k=2))
    assert int(packed.depth) > LONG
    score = jc.graph_convexity(packed, labels, num_classes=2)
    assert float(score.per_class[1]) == 1.0
    i, j = np.triu_indices(n, 1)
    same = (labels[i] == 0) & (labels[j] == 0) & (j - i > 1)
    inner = (j - i - 1)[same]
    outside = np.array([np.sum(labels[a + 1 : b]) for a, b in zip(i[same], j[same], strict=True)])
    # k = 2 also links points two apart where one is an end or gaps are uneven; so bound instead of equating.
    assert abs(float(score.nonadjacent[0]) - np.mean(1 - outside / inner)) < 0.02


def one_by_one(matrix, labels, source, tolerance):
    """Points inside and outside of the best path to each point: states (outside, hops, excess) in order of distance."""
    distance, parent = csgraph.dijkstra(matrix, directed=True, indices=source, return_predecessors=True)
    best, tree = {source: (0, 0, 0.0)}, {source: (0, 0, 0.0)}
    for v in np.argsort(distance, kind="stable")[1:]:
        near = range(matrix.indptr[v], matrix.indptr[v + 1])
        found = []
        for u, length in ((matrix.indices[place], matrix.data[place]) for place in near):
            if distance[u] < distance[v]:
                crossed, hops, excess = best[u]
                excess += distance[u] + length - distance[v]
                if excess <= tolerance * distance[v]:
                    found.append((crossed + int(labels[u] != labels[source]), hops + 1, excess))
        crossed, hops, _ = tree[parent[v]]
        tree[v] = crossed + int(labels[parent[v]] != labels[source]), hops + 1, 0.0
        best[v] = min(found, default=tree[v])
    states = np.array([best[v] for v in range(len(labels))])
    return np.maximum(states[:, 1] - 1, 0), states[:, 0]


@pytest.mark.long
@pytest.mark.parametrize("tolerance", [1e-12, 1e-4, 1e-3])
def test_small_excesses_are_allowed_within_the_rounding_of_a_path(tolerance):
    """On a dense spiral nearly every edge is short but for little, so that many paths are nearly as short as the best."""
    angle = np.sqrt(np.linspace(9, 900, 300))
    x = np.stack([angle * np.cos(angle), angle * np.sin(angle)], -1).astype(np.float32)
    labels = np.random.default_rng(0).integers(0, 2, len(x))
    packed, sources = jc.pack(jc.knn_graph(x, k=8)), np.arange(0, 300, 7)
    matrix, labels, targets = edge_matrix(packed)[:300, :300], labels[packed.order[:300]], np.arange(300)
    counts = chain_path_counts(matrix, labels, sources, targets, tolerance)
    for j, source in enumerate(sources):
        interior, outside = one_by_one(matrix, labels, source, tolerance)
        np.testing.assert_array_equal(counts.interior[:, j], interior)
        np.testing.assert_array_equal(counts.outside[:, j], outside)


@pytest.mark.long
@pytest.mark.parametrize("shuffled", [False, True])
def test_near_duplicates_lead_back_in_the_order_of_distance(shuffled):
    """Points as near as rounding, where the best way to one may lead over another that is a little farther away."""
    rng = np.random.default_rng(0)
    x = np.repeat(np.cumsum(1 + rng.random(60)), 4) + 1e-3 * rng.random(240)
    x = rng.permutation(x)[:, None] if shuffled else x[:, None]
    labels = rng.integers(0, 2, len(x))
    packed = jc.pack(jc.knn_graph(x, k=8))
    matrix, labels = edge_matrix(packed)[:240, :240], labels[packed.order[:240]]
    sources, targets, tolerance = np.arange(0, 240, 7), np.arange(240), 1e-4
    counts = chain_path_counts(matrix, labels, sources, targets, tolerance)
    for j, source in enumerate(sources):
        distance = csgraph.dijkstra(matrix, directed=True, indices=source)
        cost = until_nothing_changes(matrix, labels != labels[source], source, distance, tolerance)
        np.testing.assert_array_equal(counts.interior[:, j], np.maximum(cost[:, 1] - 1, 0))
        np.testing.assert_array_equal(counts.outside[:, j], cost[:, 0])


def test_the_best_way_may_lead_back_in_the_order_of_distance():
    """By hand: the way to point 3 over point 4, a little farther away, meets no point outside; that over 1 does."""
    edges = [(0, 1, 1.0), (1, 3, 1.0), (0, 2, 1.0), (2, 4, 1.0001), (3, 4, 1e-5), (3, 5, 1.0)]
    i, j, lengths = (np.array(part) for part in zip(*edges, strict=True))
    matrix = coo_matrix((np.tile(lengths, 2), (np.append(i, j), np.append(j, i)))).tocsr()
    labels, targets = np.array([0, 1, 0, 0, 0, 0]), np.arange(6)
    counts = chain_path_counts(matrix, labels, np.array([0]), targets, 1e-4)
    assert counts.outside[:, 0].tolist() == [0, 0, 0, 0, 0, 0]
    assert counts.interior[:, 0].tolist() == [0, 0, 0, 2, 1, 3]
    strict = chain_path_counts(matrix, labels, np.array([0]), targets, 1e-7)
    assert strict.outside[:, 0].tolist() == [0, 0, 0, 1, 1, 1]
    assert strict.interior[:, 0].tolist() == [0, 0, 0, 1, 2, 2]


def until_nothing_changes(matrix, foreign, source, distance, tolerance):
    """Points outside, hops and excess of every point by sweeps over all edges, as `paths.cheapest` says it."""
    ends, starts = np.repeat(np.arange(len(foreign)), np.diff(matrix.indptr)), matrix.indices
    state = np.full((len(foreign), 3), np.inf)
    state[source] = 0
    while True:
        offers = state[starts] + np.stack(
            [foreign[starts], np.ones(len(starts)), distance[starts] + matrix.data - distance[ends]], axis=1
        )
        offers[offers[:, 2] > tolerance * distance[ends]] = np.inf
        order = np.lexsort((*offers.T[::-1], ends))
        new = offers[order][np.searchsorted(ends, np.arange(len(foreign)))]
        new[source] = 0
        if np.array_equal(new, state):
            return new
        state = new
