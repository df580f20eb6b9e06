"""The permutation null against re-scoring from scratch, and against its mean in closed form."""

from __future__ import annotations

import jax
import numpy as np
import oracles
import pytest

import jaxconvex as jc
from jaxconvex.scores.packed import packed_scores
from jaxconvex.statistics.permutation import permuted_labels


def scored(packed, labels, *, num_classes):
    return packed_scores(packed, [labels], [num_classes])[0]


KEY = jax.random.key(0)


def _cloud(seed: int, n: int = 60, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 3)).astype(np.float32), rng.integers(0, classes, n)


def _grid(side: int) -> np.ndarray:
    return np.stack(np.meshgrid(np.arange(side), np.arange(side)), axis=-1).reshape(-1, 2).astype(np.float32)


def _spiral(turns: float, n: int = 150) -> np.ndarray:
    """Chords are shorter than arcs by little, so that small differences add up along a path."""
    t = np.linspace(0.05, 1, n)
    return np.stack([np.exp(t * turns) * f(2 * np.pi * turns * t) for f in (np.cos, np.sin)], axis=-1)


def _cases() -> dict[str, tuple[np.ndarray, int]]:
    rng = np.random.default_rng(1)
    normal = rng.normal(size=(80, 3)).astype(np.float32)
    outlier = normal.copy()
    outlier[0] = 1e9  # lengths stay floating-point
    return {
        "cloud": (normal, 4),
        "components": (np.concatenate([normal[:30], normal[30:] + 99, normal[:2] - 99]), 3),
        "grid": (_grid(9), 4),  # equally short paths of as many hops
        "grid with diagonals": (_grid(9), 20),  # and of more hops
        "equal points": (np.concatenate([normal, normal[:30], normal[:9]]), 5),
        "integers": (rng.integers(0, 4, size=(100, 2)).astype(np.float32), 4),
        "outlier": (np.concatenate([outlier, outlier[:20]]), 5),
        "chain": (np.arange(150, dtype=np.float32)[:, None], 2),  # more hops than a byte holds
        "spiral": (_spiral(5).astype(np.float32), 2),
        "dense spiral": (_spiral(1, 200).astype(np.float32), 7),
        "wide spiral": (_spiral(1, 90).astype(np.float32), 6),  # few enough hops for sweeps
        "equal points of a chain": (np.repeat(np.arange(70, dtype=np.float32), 2)[:, None], 3),
        "chain with an outlier": (np.append(np.arange(100), 1e9).astype(np.float32)[:, None], 2),
    }


@pytest.mark.long
@pytest.mark.parametrize("case", _cases())
def test_null_is_that_of_scoring_permuted_labels(case):
    x, k = _cases()[case]
    lowest = -1 if case in ("components", "grid", "equal points") else 0  # background or none
    labels = np.random.default_rng(2).integers(lowest, 3, len(x))
    packed = jc.pack(jc.knn_graph(x, k=k))
    null = jc.permutation_null(packed, labels, num_classes=4, key=KEY, num_permutations=5)
    for i, permuted in enumerate(np.asarray(permuted_labels(labels, 5, KEY, 4)).T):
        assert sorted(permuted) == sorted(labels)
        score = scored(packed, permuted, num_classes=4)  # to the last bit
        # Small excesses add up otherwise from a pair's other end, and a score takes one of them.
        if case == "dense spiral":
            np.testing.assert_allclose(null.per_class.samples[:, i], score.per_class, rtol=0, atol=5e-3)
            continue
        np.testing.assert_array_equal(null.per_class.samples[:, i], score.per_class)
        assert null.micro.samples[i] == score.micro and null.macro.samples[i] == score.macro
    assert null.num_sources == np.sum(labels >= 0)


@pytest.mark.long
@pytest.mark.parametrize("case", ["grid with diagonals", "outlier", "spiral"])
def test_so_in_float64(case):
    x, k = _cases()[case]
    labels = np.random.default_rng(2).integers(0, 3, len(x))
    with jax.enable_x64(True):
        packed = jc.pack(jc.knn_graph(x.astype(np.float64), k=k))
        null = jc.permutation_null(packed, labels, num_classes=3, key=KEY, num_permutations=2)
        for i, permuted in enumerate(np.asarray(permuted_labels(labels, 2, KEY, 3)).T):
            score = scored(packed, permuted, num_classes=3)
            np.testing.assert_array_equal(null.per_class.samples[:, i], score.per_class)


def test_null_agrees_with_the_oracle():
    x = np.random.default_rng(3).integers(0, 5, size=(50, 3)).astype(np.float32)
    labels = np.random.default_rng(4).integers(-1, 3, 50)
    null = jc.permutation_null(jc.knn_graph(x, k=4), labels, num_classes=3, key=KEY, num_permutations=4)
    permuted = np.asarray(permuted_labels(labels, 4, KEY, 3)).T
    want = [score.micro for score in oracles.permuted_scores(oracles.knn_adjacency(x, 4), permuted, 3)]
    np.testing.assert_allclose(null.micro.samples, want, rtol=0, atol=1e-6)


@pytest.mark.long
def test_many_permutations_go_on_from_fewer():
    x, labels = _cloud(9)
    packed = jc.pack(jc.knn_graph(x, k=4))
    few, many = (
        jc.permutation_null(packed, labels, num_classes=3, key=KEY, num_permutations=number) for number in (30, 300)
    )
    np.testing.assert_allclose(many.per_class.samples[:, :30], few.per_class.samples, rtol=0, atol=1e-6)
    score = jc.graph_convexity(packed, permuted_labels(labels, 300, KEY, 3)[:, 299], num_classes=3)
    np.testing.assert_allclose(many.micro.samples[299], score.micro, rtol=0, atol=1e-6)


def test_permutations_are_uniform():
    labels = np.array([0, 2, -1, 1, 0])
    drawn = np.asarray(permuted_labels(labels, 6000, KEY, 3))
    assert np.all(drawn[2] == -1)
    kinds, counts = np.unique(drawn, axis=1, return_counts=True)
    assert kinds.shape[1] == 12 and np.sum((counts - 500) ** 2) / 500 < 32  # chi square with 11 degrees of freedom


@pytest.mark.long
def test_one_permutation_is_exactly_a_score():
    """With all sources, each sample must be the score of some relabeling: check sums over pairs pair by pair."""
    x, labels = _cloud(3, n=40)
    packed = jc.pack(jc.knn_graph(x, k=3))
    # Two classes of which one has two points: a permutation is then told by the pair alone.
    labels = np.zeros(40, int)
    labels[[5, 17]] = 1
    null = jc.permutation_null(packed, labels, num_classes=2, key=KEY, num_permutations=300)
    possible = set()
    for i in range(40):
        for j in range(i):
            one = np.zeros(40, int)
            one[[i, j]] = 1
            counts = jc.shortest_path_counts(packed, one, np.array([i]), np.array([j]))
            inner, out = int(counts.interior[0, 0]), int(counts.outside[0, 0])
            possible.add(0.0 if inner < 0 else round(1 - out / max(inner, 1), 5))
    assert {round(float(v), 5) for v in null.per_class.samples[1]} <= possible


@pytest.mark.long
def test_closed_form_of_the_mean():
    x, labels = _cloud(4, n=120, classes=4)
    knn = jc.knn_graph(x, k=5)
    null = jc.permutation_null(knn, labels, num_classes=4, key=KEY, num_permutations=1000)
    expected = jc.random_label_score(knn, labels, num_classes=4)
    error = null.per_class.samples.std(axis=1) / np.sqrt(1000)
    assert np.all(np.abs(null.per_class.mean - expected) < 4 * error)


@pytest.mark.long
def test_p_values():
    x, _ = _cloud(5)
    separated = np.repeat([0, 1, 2], 20)
    x += 9 * np.eye(3, dtype=np.float32)[separated]
    knn = jc.knn_graph(x, k=5)
    clear = jc.permutation_null(knn, separated, num_classes=3, key=KEY, num_permutations=99)
    assert clear.micro.p_value == clear.macro.p_value == 0.01
    rng = np.random.default_rng(0)
    p_values = [
        float(
            jc.permutation_null(
                knn, rng.permutation(separated), num_classes=3, key=jax.random.key(i), num_permutations=99
            ).micro.p_value
        )
        for i in range(40)
    ]
    assert 0.3 < np.mean(p_values) < 0.7  # uniform where the labels are random


@pytest.mark.long
def test_sampled_sources_estimate_the_same_null():
    x, labels = _cloud(6, n=200)
    packed = jc.pack(jc.knn_graph(x, k=5))
    whole = jc.permutation_null(packed, labels, num_classes=3, key=KEY, num_permutations=300)
    some = jc.permutation_null(packed, labels, num_classes=3, key=KEY, num_permutations=300, max_sources=64)
    assert some.num_sources == 64
    assert abs(whole.micro.mean - some.micro.mean) < 0.02
    assert some.micro.samples.std() > whole.micro.samples.std()


@pytest.mark.long
def test_background_stays_and_shapes_the_graph():
    x, labels = _cloud(7)
    labels[::3] = -1
    null = jc.permutation_null(jc.knn_graph(x, k=4), labels, num_classes=3, key=KEY, num_permutations=200)
    assert null.num_sources == 40
    packed = jc.pack(jc.knn_graph(x, k=4))
    rng, scores = np.random.default_rng(0), []
    for _ in range(200):
        shuffled = labels.copy()
        shuffled[labels >= 0] = rng.permutation(labels[labels >= 0])
        scores.append(float(jc.graph_convexity(packed, shuffled, num_classes=3).micro))
    assert abs(null.micro.mean - np.mean(scores)) < 4 * np.sqrt(2 / 200) * np.std(scores)


@pytest.mark.long
def test_broken_lengths_give_nan():
    x, labels = _cloud(10)
    packed = jc.pack(jc.knn_graph(x, k=4))
    poisoned = packed._replace(quantum=np.float32(np.nan))
    null = jc.permutation_null(poisoned, labels, num_classes=3, key=KEY, num_permutations=5)
    assert np.isnan(null.micro.samples).all() and np.isnan(null.per_class.mean).all()


@pytest.mark.long
def test_degenerate_classes_and_bad_arguments():
    x, labels = _cloud(8)
    null = jc.permutation_null(jc.knn_graph(x, k=4), labels, num_classes=5, key=KEY, num_permutations=20)
    assert np.isnan(null.per_class.mean[3:]).all() and np.isnan(null.per_class.p_value[3:]).all()
    assert np.isfinite(null.macro.mean)
    with pytest.raises(ValueError, match="num_permutations"):
        jc.permutation_null(jc.knn_graph(x, k=4), labels, num_classes=3, key=KEY, num_permutations=0)
    again = jc.permutation_null(jc.knn_graph(x, k=4), labels, num_classes=5, key=KEY, num_permutations=20)
    np.testing.assert_array_equal(null.micro.samples, again.micro.samples)


TRACED = {
    "ties": lambda rng: _grid(6),
    "duplicates": lambda rng: np.repeat(rng.normal(size=(18, 3)), 2, axis=0).astype(np.float32),
    "disconnected": lambda rng: (rng.normal(size=(36, 3)) + 99 * (np.arange(36) % 2)[:, None]).astype(np.float32),
}


def _assert_same(ours, theirs):
    for mine, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(mine, other, rtol=0, atol=2e-6)


@pytest.mark.long
def test_jit_and_vmap_give_what_concrete_arrays_give():
    rng = np.random.default_rng(0)
    labels = rng.integers(-1, 3, 36)
    packed = [jc.pack(jc.knn_graph(make(rng), k=4)) for make in TRACED.values()]

    def null(packed, labels, key):
        return jc.permutation_null(packed, labels, num_classes=4, key=key, num_permutations=7)

    compiled = jax.jit(null)
    concrete = [null(one, labels, KEY) for one in packed]
    assert isinstance(concrete[0].micro.samples, np.ndarray) and concrete[0].num_sources == np.sum(labels >= 0)
    for one, want in zip(packed, concrete, strict=True):
        _assert_same(compiled(one, labels, KEY), want)
    together = jax.tree.map(lambda *parts: jax.numpy.stack(parts), *packed)
    batch = jax.jit(jax.vmap(null, in_axes=(0, None, None)))(together, labels, KEY)
    for i, want in enumerate(concrete):
        _assert_same(jax.tree.map(lambda part, i=i: part[i], batch), want)


@pytest.mark.long
def test_sampled_sources_are_the_same_under_jit():
    x, labels = _cloud(6, n=60)
    packed = jc.pack(jc.knn_graph(x, k=5))
    labels[::4] = -1
    solve = lambda labels: jc.permutation_null(  # noqa: E731
        packed, labels, num_classes=3, key=KEY, num_permutations=7, max_sources=20
    )
    compiled, concrete = jax.jit(solve)(labels), solve(labels)
    assert concrete.num_sources == compiled.num_sources == 20
    _assert_same(compiled, concrete)
    broken = jax.jit(solve)(np.where(labels == 2, 7, labels))  # no labels of three classes
    assert np.isnan(broken.micro.samples).all()
