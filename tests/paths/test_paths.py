"""Shortest paths against exact arithmetic, enumeration, float64: ties, duplicates, chains, outliers, both engines."""

from __future__ import annotations

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from jaxconvex.neighbors import KNNGraph, epsilon_graph, knn_graph
from jaxconvex.paths.counts import shortest_path_counts, shortest_path_lengths
from jaxconvex.paths.graph import Graph, undirected
from jaxconvex.paths.layout import pack
from jaxconvex.scores.graph import graph_pair_scores

pytestmark = pytest.mark.check_shapes

counts_of_all = jax.jit(
    lambda graph, labels: shortest_path_counts(graph, labels, jnp.arange(len(labels)), jnp.arange(len(labels)))
)
counts_between = jax.jit(shortest_path_counts)
lengths_of_all = jax.jit(lambda graph: shortest_path_lengths(graph, jnp.arange(graph.degrees.shape[0])))


def assert_paths(graph, labels, want, adjacency, what=""):
    """The static engine's counts are the oracle's between all points, and the packed engine's scores in all classes."""
    got = counts_of_all(graph, jnp.asarray(labels))
    np.testing.assert_array_equal(got.interior, want.interior, err_msg=f"interior {what}")
    np.testing.assert_array_equal(got.outside, want.outside, err_msg=f"outside {what}")
    scores = oracles.pair_scores(adjacency, want)
    classes = int(max(labels)) + 1
    for c, (members, found) in enumerate(graph_pair_scores(graph, jnp.asarray(labels), num_classes=max(classes, 1))):
        np.testing.assert_array_equal(members, np.flatnonzero(np.asarray(labels) == c))
        np.testing.assert_allclose(found, scores[np.ix_(members, members)], atol=1e-6, err_msg=f"packed {what}")


def grid_case(seed, n, d, side, k):
    rng = np.random.default_rng(seed)
    x = rng.integers(0, side, (n, d))
    mode, duplicates = rng.choice(["union", "mutual"]), rng.choice(["link", "drop"])
    graph = undirected(knn_graph(jnp.asarray(x, jnp.float32), k=k), mode=mode, duplicates=duplicates)
    return x, rng.integers(-1, 3, n).astype(np.int32), graph, oracles.knn_adjacency(x, k, "euclidean", mode, duplicates)


def test_oracles_agree_with_one_another():
    """Float64 with a tolerance, 60 decimals, and the list of all simple paths."""
    for seed in range(60):
        rng = np.random.default_rng(seed)
        n = int(rng.integers(2, 8))
        x, labels = rng.integers(0, 3, (n, rng.integers(1, 3))), rng.integers(-1, 2, n)
        adjacency = oracles.knn_adjacency(
            x, int(rng.integers(1, min(4, n))), "euclidean", rng.choice(["union", "mutual"])
        )
        rounded = oracles.shortest_paths(adjacency, labels)
        chex.assert_trees_all_equal(rounded, oracles.exact_shortest_paths(adjacency, x, labels))
        chex.assert_trees_all_equal(rounded, oracles.enumerated_paths(adjacency, x, labels))


def test_oracle_tells_near_ties_from_ties():
    """sqrt 2 + sqrt 8 = sqrt 18, but 3 + sqrt 10 is not sqrt 38 (by 0.002), nor sqrt 2 + sqrt 3 sqrt 10 (by 0.016)."""
    length = oracles.exact_length
    assert abs(length(2) + length(8) - length(18)) < oracles.EXACT
    assert abs(length(9) + length(10) - length(38)) > oracles.EXACT
    assert abs(length(2) + length(3) - length(10)) > oracles.EXACT


@pytest.mark.long
@pytest.mark.parametrize("k", (2, 3))
def test_tiny_grids_by_listing_all_paths(k):
    for seed in range(60):
        x, labels, graph, adjacency = grid_case(seed, n=7, d=2, side=3, k=k)
        assert_paths(graph, labels, oracles.enumerated_paths(adjacency, x, labels), adjacency, f"seed {seed}")


@pytest.mark.long(after=1)
@pytest.mark.parametrize(("d", "side", "k"), [(1, 60, 3), (2, 8, 4), (2, 30, 6), (3, 4, 6)])
def test_grids_in_exact_arithmetic(d, side, k):
    """Ties on nearly every path, and duplicates with conflicting labels."""
    for seed in range(20):
        x, labels, graph, adjacency = grid_case(seed, n=40, d=d, side=side, k=k)
        assert_paths(graph, labels, oracles.exact_shortest_paths(adjacency, x, labels), adjacency, f"seed {seed}")


@pytest.mark.long
def test_whole_grid_in_exact_arithmetic():
    """9 x 9 points, 8 neighbours: long straight ties of sqrt 2 and of 1."""
    x = np.array(list(itertools.product(range(9), repeat=2)))
    adjacency = oracles.knn_adjacency(x, 8)
    for seed in range(4):
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, 3, 81).astype(np.int32)
        for scale in (1.0, 0.1, 1 / 3, 1e4):
            graph = knn_graph(jnp.asarray(x, jnp.float32), k=8)
            graph = undirected(KNNGraph(graph.indices, graph.distances * jnp.float32(scale)))
            assert_paths(graph, labels, oracles.exact_shortest_paths(adjacency, x, labels), adjacency, f"scale {scale}")


@pytest.mark.long(after=1)
@pytest.mark.parametrize("d", (1, 2, 8))
def test_random_points(d):
    """On a line of random points ties are exact however the coordinates are rounded; elsewhere there are hardly any."""
    skipped = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(40, d)).astype(np.float32)
        labels, k = rng.integers(-1, 3, 40).astype(np.int32), 3
        adjacency = oracles.knn_adjacency(x, k)
        if not oracles.clear(adjacency, labels):
            skipped += 1
            continue
        graph = undirected(knn_graph(jnp.asarray(x), k=k))
        assert_paths(graph, labels, oracles.shortest_paths(adjacency, labels), adjacency, f"seed {seed}")
    assert skipped <= 3


@pytest.mark.long
def test_duplicates_with_conflicting_labels():
    """Every point three times: the path goes through the copy that is inside."""
    for seed in range(30):
        rng = np.random.default_rng(seed)
        x = np.concatenate([rng.normal(size=(13, 3))] * 3 + [np.zeros((1, 3))]).astype(np.float32)[rng.permutation(40)]
        labels = rng.integers(-1, 3, 40).astype(np.int32)
        adjacency = oracles.knn_adjacency(x, 4)
        graph = undirected(knn_graph(jnp.asarray(x), k=4))
        assert_paths(
            graph, labels, oracles.shortest_paths(adjacency, labels, tolerance=1e-12), adjacency, f"seed {seed}"
        )


@pytest.mark.long
def test_all_points_equal():
    """40 points with 4 neighbours each: the fewest outside, then the fewest hops, over edges that all have length 0."""
    x = np.zeros((40, 3), np.float32)
    adjacency = oracles.knn_adjacency(x, 4)
    graph = undirected(knn_graph(jnp.asarray(x), k=4))
    for seed in range(5):
        labels = np.random.default_rng(seed).integers(-1, 3, 40).astype(np.int32)
        assert_paths(graph, labels, oracles.shortest_paths(adjacency, labels), adjacency, f"seed {seed}")


@pytest.mark.long
def test_near_duplicates_do_not_go_round_in_circles():
    for noise in (1e-3, 1e-5, 1e-7):
        rng = np.random.default_rng(0)
        x = (np.repeat(rng.normal(size=(10, 3)), 4, axis=0) + noise * rng.normal(size=(40, 3))).astype(np.float32)
        labels = rng.integers(-1, 3, 40).astype(np.int32)
        graph = undirected(knn_graph(jnp.asarray(x), k=5))
        got = counts_of_all(graph, jnp.asarray(labels))
        adjacency = oracles.knn_adjacency(x, 5)
        reachable = np.isfinite(oracles.path_lengths(adjacency))
        np.testing.assert_array_equal(np.asarray(got.interior) >= 0, reachable)
        same = labels[:, None] == labels[None]
        np.testing.assert_array_equal(np.asarray(got.interior)[same], np.asarray(got.interior).T[same])
        if noise == 1e-3:
            assert oracles.clear(adjacency, labels)
            assert_paths(graph, labels, oracles.shortest_paths(adjacency, labels), adjacency)


@pytest.mark.long
def test_counts_are_symmetric_within_a_class():
    _, labels, graph, _ = grid_case(3, n=40, d=2, side=8, k=4)
    got = counts_of_all(graph, jnp.asarray(labels))
    same = labels[:, None] == labels[None]
    for counts in got:
        np.testing.assert_array_equal(np.asarray(counts)[same], np.asarray(counts).T[same])


@pytest.mark.long
def test_sources_and_targets_are_rows_and_columns():
    _, labels, graph, _ = grid_case(4, n=40, d=2, side=8, k=4)
    whole = counts_of_all(graph, jnp.asarray(labels))
    sources, targets = jnp.array([3, 17, 3]), jnp.array([5, 3, 39, 0, 11])
    for form in (graph, pack(graph)):
        some = shortest_path_counts(form, jnp.asarray(labels), sources, targets)
        chex.assert_shape(some, (3, 5))
        chex.assert_trees_all_equal(some, jax.tree.map(lambda a: a[sources][:, targets], whole))
    assert int(some.interior[0, 1]) == 0 and int(some.outside[0, 1]) == 0  # a point to itself


@pytest.mark.long
def test_row_order_does_not_matter():
    """Following whichever predecessor comes first gave scores from 0.58 to 0.68 here."""
    x, labels, _, _ = grid_case(5, n=40, d=2, side=4, k=4)
    epsilon = undirected(epsilon_graph(jnp.asarray(x, jnp.float32), radius=1.5, max_degree=39))
    whole = counts_of_all(epsilon, jnp.asarray(labels))
    for seed in range(4):
        order = np.random.default_rng(seed).permutation(40)
        moved = undirected(epsilon_graph(jnp.asarray(x[order], jnp.float32), radius=1.5, max_degree=39))
        got = counts_of_all(moved, jnp.asarray(labels[order]))
        chex.assert_trees_all_equal(got, jax.tree.map(lambda a: a[order][:, order], whole))  # noqa: B023


# Lengths


def test_lengths_are_dijkstras():
    for seed in range(25):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(40, 3)).astype(np.float32) * 10.0 ** rng.integers(-3, 4)
        graph = undirected(knn_graph(jnp.asarray(x), k=3))
        np.testing.assert_allclose(lengths_of_all(graph), oracles.path_lengths(oracles.knn_adjacency(x, 3)), rtol=1e-5)


@pytest.mark.long
def test_lengths_are_infinite_between_components_and_zero_to_oneself():
    x = jnp.asarray([[0.0], [1.0], [2.5], [100.0], [101.0], [103.0]])
    got = np.asarray(shortest_path_lengths(knn_graph(x, k=1), jnp.arange(6)))
    np.testing.assert_array_equal(np.diag(got), np.zeros(6))
    assert np.isposinf(got[:3, 3:]).all() and np.isposinf(got[3:, :3]).all()
    np.testing.assert_allclose(got[3], [np.inf, np.inf, np.inf, 0, 1, 3])


@pytest.mark.long
def test_a_chain_of_600_hops():
    """One neighbour ahead and one behind: the longest path that 601 points allow."""
    x = jnp.arange(601.0)[:, None]
    graph = undirected(epsilon_graph(x, radius=1.0, max_degree=2))
    labels = jnp.asarray(np.arange(601) % 3, jnp.int32)
    ends = jnp.array([0, 600])
    np.testing.assert_allclose(shortest_path_lengths(graph, ends)[:, [600, 0]], [[600, 0], [0, 600]], rtol=1e-5)
    got = shortest_path_counts(graph, labels, ends, ends)
    assert got.interior.tolist() == [[0, 599], [599, 0]]
    assert got.outside.tolist() == [[0, 400], [400, 0]]  # 199 of the 599 inside have the label of the ends


@pytest.mark.long
def test_long_chains_in_exact_arithmetic():
    """120 whole numbers below 200: up to 60 hops, ties on all of them, duplicates, gaps."""
    for seed in range(8):
        x, labels, graph, adjacency = grid_case(seed, n=120, d=1, side=200, k=3)
        assert_paths(graph, labels, oracles.exact_shortest_paths(adjacency, x, labels), adjacency, f"seed {seed}")


@pytest.mark.long
def test_long_curves():
    """Spirals of 120 noisy points; of 14,000 pairs some hang on differences that float32 cannot tell: they are left out."""
    for seed in range(6):
        rng = np.random.default_rng(seed)
        turn = np.sort(rng.uniform(2, 20, 120))
        x = np.stack([turn * np.cos(turn), turn * np.sin(turn)], 1) + 0.05 * rng.normal(size=(120, 2))
        x, labels = x.astype(np.float32), rng.integers(0, 3, 120).astype(np.int32)
        adjacency = oracles.knn_adjacency(x, 3)
        narrow, wide = (oracles.shortest_paths(adjacency, labels, tolerance=t) for t in (1e-12, 1e-5))
        clear = (narrow.interior == wide.interior) & (narrow.outside == wide.outside)
        assert clear.mean() > 0.9 and narrow.interior.max() > 20
        graph = undirected(knn_graph(jnp.asarray(x), k=3))
        got = counts_of_all(graph, jnp.asarray(labels))
        for counts, want in zip(got, narrow, strict=True):
            np.testing.assert_array_equal(np.asarray(counts)[clear], want[clear])
        scores = np.where(clear, oracles.pair_scores(adjacency, narrow), np.nan)
        for members, found in graph_pair_scores(graph, jnp.asarray(labels), num_classes=3):
            want = scores[np.ix_(members, members)]
            np.testing.assert_allclose(np.where(np.isnan(want), np.nan, found), want, atol=1e-6)


@pytest.mark.long
def test_a_chain_in_the_packed_engine():
    x = jnp.arange(301.0)[:, None]
    labels = np.where(np.arange(301) % 150 == 0, 0, -1).astype(np.int32)  # three points, 150 hops apart
    graph = undirected(epsilon_graph(x, radius=1.0, max_degree=2))
    members, scores = graph_pair_scores(graph, jnp.asarray(labels), num_classes=1)[0]
    assert members.tolist() == [0, 150, 300]
    np.testing.assert_allclose(scores, [[np.nan, 0, 1 / 299], [0, np.nan, 0], [1 / 299, 0, np.nan]], atol=1e-7)


@pytest.mark.long
@pytest.mark.parametrize("x64", (False, True))
@pytest.mark.parametrize(("inside", "outside"), [(20, 10), (40, 20), (101, 50)])
def test_ties_between_long_routes(inside, outside, x64):
    """A ring: one way round all inside in many short hops, the other outside in fewer, longer ones, as long in all."""
    with jax.enable_x64(x64):
        way = [0, *range(2, inside + 1), 1], [0, *range(inside + 1, inside + outside), 1]
        labels = np.where(np.arange(inside + outside) <= inside, 0, 1).astype(np.int32)
        for seed in range(10):
            unit = np.random.default_rng(seed).uniform(0.5, 1.5)
            edges = [
                (u, v, step * unit)
                for nodes, step in zip(way, (outside, inside), strict=True)
                for u, v in itertools.pairwise(nodes)
            ]
            senders, receivers, lengths = zip(*edges, *((v, u, length) for u, v, length in edges), strict=True)
            graph = Graph(
                jnp.array(senders, jnp.int32), jnp.array(receivers, jnp.int32),
                jnp.array(lengths, float), jnp.full(inside + outside, 2, jnp.int32),
            )  # fmt: skip
            got = counts_between(graph, jnp.asarray(labels), jnp.array([0]), jnp.array([1]))
            assert (got.interior.item(), got.outside.item()) == (inside - 1, 0), f"seed {seed}"
            assert graph_pair_scores(graph, jnp.asarray(labels), num_classes=2)[0][1][0, 1] == 1, f"seed {seed}"


@pytest.mark.long(after=1)
@pytest.mark.parametrize("far", (1e3, 1e5, 1e7))
def test_one_point_far_away(far):
    """It stretches the longest path, and with it the unit of fixed-point lengths."""
    for seed in range(5):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(40, 3)).astype(np.float32)
        x[seed] = far * x[seed] / np.linalg.norm(x[seed])
        labels = rng.integers(-1, 3, 40).astype(np.int32)
        # The far point's own neighbours are chosen among lengths that float32 cannot tell apart: take them as given.
        knn = knn_graph(jnp.asarray(x), k=3)
        adjacency = oracles.undirected(np.asarray(knn.indices), np.asarray(knn.distances, np.float64))
        if oracles.clear(adjacency, labels):
            assert_paths(undirected(knn), labels, oracles.shortest_paths(adjacency, labels), adjacency, f"seed {seed}")
        np.testing.assert_allclose(
            lengths_of_all(undirected(knn)), oracles.path_lengths(adjacency), rtol=2e-6, atol=1e-5
        )


@pytest.mark.long
def test_float64_lengths_decide_what_float32_cannot():
    """Around a square, one way longer than the other by 2e-7 of its length: rounding in float32, not in float64."""
    senders, receivers = jnp.array([0, 1, 0, 2, 1, 3, 2, 3]), jnp.array([1, 0, 2, 0, 3, 1, 3, 2])
    labels, ends = jnp.array([0, 0, 1, 0], jnp.int32), (jnp.array([0]), jnp.array([3]))
    outside = {}
    for x64, gap in itertools.product((False, True), (4e-7, -4e-7)):
        with jax.enable_x64(x64):
            lengths = 0.95 + jnp.array([0, 0, 0, 0, gap, gap, 0, 0])
            graph = Graph(senders.astype(jnp.int32), receivers.astype(jnp.int32), lengths, jnp.full(4, 2, jnp.int32))
            got = counts_between(graph, labels, *ends)
            assert got.interior.tolist() == [[1]]
            outside[x64, gap > 0] = got.outside.item()
    assert outside == {(True, True): 1, (True, False): 0, (False, True): 0, (False, False): 0}


@pytest.mark.long
def test_nan_lengths_give_no_number():
    graph = undirected(knn_graph(jnp.arange(6.0)[:, None], k=2))
    broken = graph._replace(lengths=graph.lengths.at[0].set(jnp.nan))
    assert np.isnan(shortest_path_lengths(broken, jnp.array([0]))).all()
    got = shortest_path_counts(broken, jnp.zeros(6, jnp.int32), jnp.arange(6), jnp.arange(6))
    assert (np.asarray(got.interior) == -1).all()


@pytest.mark.long
def test_vmap_over_labelings_and_over_graphs():
    cases = [grid_case(seed, n=40, d=2, side=8, k=4) for seed in range(3)]
    labelings = jnp.stack([jnp.asarray(labels) for _, labels, _, _ in cases])
    graphs = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[graph for _, _, graph, _ in cases])
    nodes = jnp.arange(40)
    over_graphs = jax.vmap(lambda graph, labels: shortest_path_counts(graph, labels, nodes, nodes))(graphs, labelings)
    over_labels = jax.vmap(lambda labels: shortest_path_counts(cases[0][2], labels, nodes, nodes))(labelings)
    for i in range(3):
        chex.assert_trees_all_equal(jax.tree.map(lambda a: a[i], over_graphs), counts_of_all(cases[i][2], labelings[i]))  # noqa: B023
        chex.assert_trees_all_equal(jax.tree.map(lambda a: a[i], over_labels), counts_of_all(cases[0][2], labelings[i]))  # noqa: B023


@pytest.mark.check_shapes(False)
@pytest.mark.long
def test_bad_input_is_named():
    knn = knn_graph(np.arange(5.0)[:, None], k=2)
    with pytest.raises(ValueError, match=r"labels.*\(5,\).*\(4,\)"):
        shortest_path_counts(knn, np.zeros(4, int), np.arange(2), np.arange(2))
    with pytest.raises(ValueError, match=r"labels.*integers.*float"):
        shortest_path_counts(knn, np.zeros(5), np.arange(2), np.arange(2))
    with pytest.raises(ValueError, match="KNNGraph"):
        shortest_path_lengths(np.zeros((5, 5)), np.arange(2))
