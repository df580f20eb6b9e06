"""Groups, leave-a-group-out graphs, jackknife and bootstrap against rebuilding from scratch and explicit loops."""

from __future__ import annotations

import warnings
from functools import partial

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import scipy.stats
from hypothesis import strategies
from hypothesis.extra import numpy as arrays

from jaxconvex.neighbors.knn import KNNGraph, knn_graph
from jaxconvex.scores.graph import graph_convexity, graph_pair_scores
from jaxconvex.statistics import left_out, resampling
from jaxconvex.statistics.bootstrapping import bootstrap
from jaxconvex.statistics.correlation import domain_correlation, pearson
from jaxconvex.statistics.intervals import jackknife, score_interval
from jaxconvex.statistics.left_out import leave_group_out_graphs, spare_neighbors
from jaxconvex.statistics.resampling import graph_jackknife, jackknife_groups

KEY = jax.random.key(7)


# Groups


@hypothesis.given(
    arrays.arrays(np.int32, strategies.sampled_from([1, 2, 7, 30, 60]), elements=strategies.integers(-1, 3)),
    strategies.integers(2, 12),
)
@pytest.mark.long
def test_groups_are_even_within_every_class_and_in_all(labels, num_groups):
    groups = jackknife_groups(labels, KEY, num_groups=num_groups)
    assert groups.shape == labels.shape
    used = min(num_groups, len(labels))
    assert set(groups.tolist()) == set(range(used))
    assert np.ptp(np.bincount(groups)) <= 1
    for label in np.unique(labels):
        assert np.ptp(np.bincount(groups[labels == label], minlength=used)) <= 1


def test_groups_are_random_and_repeatable():
    labels = np.repeat([0, 1], 50)
    first, again, other = (jackknife_groups(labels, jax.random.key(i)) for i in (0, 0, 1))
    assert (first == again).all() and (first != other).mean() > 0.8
    sizes = np.zeros(10)
    for i in range(40):  # no group has more of the remainders than its share
        sizes += np.bincount(jackknife_groups(np.arange(13) % 3, jax.random.key(i)), minlength=10)
    assert np.ptp(jackknife_groups(labels, KEY)[:10]) > 0 and np.ptp(sizes) <= 40


def test_groups_stratify_by_several_labelings_together():
    labelings = np.stack([np.repeat([0, 1], 40), np.tile([0, 1], 40)])
    groups = jackknife_groups(labelings, KEY)
    for combination in (0, 1, 2, 3):
        inside = 2 * labelings[0] + labelings[1] == combination
        assert (np.bincount(groups[inside], minlength=10) == 2).all()


def test_groups_say_what_is_wrong():
    for num_groups in (1, 0, 2.5):
        with pytest.raises(ValueError, match="num_groups"):
            jackknife_groups(np.zeros(5, int), KEY, num_groups=num_groups)


def test_units_stay_whole_and_are_dealt_evenly():
    rng = np.random.default_rng(0)
    units = rng.permutation(np.repeat(np.arange(40), 6))
    labels = units % 4
    groups = jackknife_groups(labels, KEY, units=units)
    assert all(len(set(groups[units == unit])) == 1 for unit in range(40))
    for label in range(4):  # ten units of each class
        assert (np.bincount(groups[labels == label], minlength=10) == 6).all()
    assert (groups == jackknife_groups(labels, KEY, units=units)).all()
    assert (groups != jackknife_groups(labels, jax.random.key(1), units=units)).any()


@hypothesis.given(strategies.lists(strategies.integers(0, 12), min_size=2, max_size=40), strategies.integers(2, 10))
def test_every_group_holds_a_unit_and_large_units_stand_alone(units, num_groups):
    units, number = np.array(units), len(set(units))
    labels = np.arange(len(units)) % 3
    if number < 2:
        with pytest.raises(ValueError, match=r"two units or more; got shape \(\d+,\) and 1"):
            jackknife_groups(labels, KEY, num_groups=num_groups, units=units)
        return
    groups = jackknife_groups(labels, KEY, num_groups=num_groups, units=units)
    assert set(groups.tolist()) == set(range(min(number, num_groups)))
    assert all(len(set(groups[units == unit])) == 1 for unit in set(units))


# Leave-a-group-out graphs


def assert_as_from_scratch(x, groups, k, metric="euclidean", wide=None):
    n = len(x)
    knn = knn_graph(x, k=spare_neighbors(k, n) if wide is None else wide, metric=metric)
    found = list(leave_group_out_graphs(knn, x, groups, k=k, metric=metric))
    assert len(found) == len(np.unique(groups))
    for group, (kept, graph) in zip(np.unique(groups), found, strict=True):
        assert (kept == (groups != group)).all()
        assert graph.indices.shape == graph.distances.shape == (n, k)
        members = np.flatnonzero(kept)
        width = min(k, len(members) - 1)
        absent = np.ones((n, k), bool)
        absent[kept, :width] = False
        assert (np.asarray(graph.indices)[absent] == -1).all()
        assert np.isposinf(np.asarray(graph.distances)[absent]).all()
        if width > 0:
            scratch = knn_graph(x[kept], k=width, metric=metric)
            np.testing.assert_array_equal(np.asarray(graph.indices)[kept, :width], members[np.asarray(scratch.indices)])
            np.testing.assert_array_equal(np.asarray(graph.distances)[kept, :width], np.asarray(scratch.distances))


@pytest.mark.long(after=1)
@pytest.mark.parametrize("metric", ["euclidean", "manhattan", lambda a, b: jnp.max(jnp.abs(a - b))])
@pytest.mark.parametrize("kind", ["grid", "duplicates", "normal"])
def test_graphs_without_a_group_are_those_built_from_scratch(kind, metric):
    rng = np.random.default_rng(0)
    x = {
        "grid": rng.integers(0, 4, (60, 2)),  # ties and duplicates throughout
        "duplicates": np.repeat(rng.normal(size=(6, 3)), 10, axis=0),
        "normal": rng.normal(size=(60, 3)),
    }[kind].astype(np.float32)
    groups = rng.permutation(np.arange(60) % 6)
    assert_as_from_scratch(x, groups, 4, metric)


@pytest.mark.long
def test_graphs_without_a_group_are_searched_afresh_where_too_few_neighbours_are_left():
    rng = np.random.default_rng(1)
    x = (rng.normal(size=(40, 2)) + 20 * np.repeat(np.eye(2), 20, axis=0)).astype(np.float32)
    clusters = np.repeat([0, 1, 2, 3], 10)
    assert_as_from_scratch(x, clusters, 8)  # a group of neighbours, and far neighbours in another cluster
    assert_as_from_scratch(x, clusters, 5, wide=5)  # no spare neighbours at all
    assert_as_from_scratch(x, np.repeat([3, -1], 20), 6)  # any integers


@pytest.mark.parametrize("n", [2, 3, 5])
@pytest.mark.long(after=1)
def test_graphs_of_few_points_are_padded(n):
    x = np.arange(n, dtype=np.float32)[:, None] ** 2
    assert_as_from_scratch(x, np.arange(n), n - 1)
    assert_as_from_scratch(x, np.arange(n) // 2 if n > 2 else np.arange(n), 1)


def test_padded_neighbours_are_never_listed():
    knn = KNNGraph(jnp.array([[1, -1], [0, 2], [1, -1]]), jnp.array([[1.0, jnp.inf], [1.0, 1.0], [1.0, jnp.inf]]))
    x = np.array([[0.0], [1.0], [2.0]], np.float32)
    (_, graph), *_ = leave_group_out_graphs(knn, x, np.array([0, 1, 1]), k=1)
    assert graph.indices.ravel().tolist() == [-1, 2, 1]


def test_leave_group_out_graphs_says_what_is_wrong():
    x = np.random.default_rng(0).normal(size=(6, 2)).astype(np.float32)
    knn = knn_graph(x, k=4)
    with pytest.raises(ValueError, match="two groups or more"):
        next(leave_group_out_graphs(knn, x, np.zeros(6, int), k=2))
    with pytest.raises(ValueError, match="each of 6 points"):
        next(leave_group_out_graphs(knn, x, np.arange(5), k=2))
    with pytest.raises(ValueError, match="k must be at least 1"):
        next(leave_group_out_graphs(knn, x, np.arange(6), k=0))


# The jackknife of graph convexity


@pytest.mark.long(after=1)
@pytest.mark.parametrize(
    "options", [{}, {"mode": "mutual"}, {"metric": "manhattan"}, {"duplicates": "drop"}], ids=lambda o: str(o)
)
def test_graph_jackknife_is_rebuilding_from_scratch(options):
    rng = np.random.default_rng(0)
    x, labels = oracles.exact_points(rng, 48, 3, spread=16), rng.integers(-1, 3, 48).astype(np.int32)
    x[43:] = x[:5]
    groups = jackknife_groups(labels, KEY, num_groups=6)
    found = graph_jackknife(x, labels, num_classes=3, key=KEY, num_groups=6, k=4, **options)
    given = graph_jackknife(x, labels, num_classes=3, groups=groups, k=4, **options)
    jax.tree.map(np.testing.assert_array_equal, found, given)

    full = oracles.knn_convexity(x, labels, 3, k=4, **options)
    single = oracles.jackknife_scores(x, labels, groups, 3, k=4, **options)
    joint = oracles.jackknife_scores(x, labels, groups // 2, 3, k=4, **options)
    points = full.num_points
    for name, num_points in (("per_class", points), ("micro", points.sum()), ("macro", points.sum())):
        replicates = np.array([getattr(score, name) for score in single])
        pairs = np.array([getattr(score, name) for score in joint])
        np.testing.assert_allclose(getattr(found.replicates, name), replicates, atol=1e-6)
        np.testing.assert_allclose(getattr(found.joint, name), pairs, atol=1e-6)
        want = score_interval(getattr(full, name), replicates, num_points, joint=pairs)
        for actual, expected in zip(getattr(found, name), want, strict=True):
            np.testing.assert_allclose(actual, expected, atol=1e-4)


def test_graph_jackknife_estimates_what_graph_convexity_gives():
    x = np.random.default_rng(0).normal(size=(48, 3)).astype(np.float32)
    labels = (x[:, 0] > 0).astype(int)
    found = graph_jackknife(x, labels, num_classes=2, key=KEY, k=4)
    score = graph_convexity(knn_graph(x, k=4), labels, num_classes=2)
    np.testing.assert_array_equal(found.per_class.estimate, score.per_class)
    assert found.micro.estimate == score.micro and found.macro.estimate == score.macro


def test_classes_too_small_have_no_error_and_the_aggregates_do():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(48, 3)).astype(np.float32)
    labels = np.array([0] * 20 + [1] * 20 + [2] * 2 + [3] + [-1] * 5, np.int32)
    found = graph_jackknife(x, labels, num_classes=5, key=KEY, k=4)
    assert np.isnan(found.per_class.estimate).tolist() == [False, False, False, True, True]
    for part in (found.per_class.se, found.per_class.lower, found.per_class.upper):
        assert np.isnan(part).tolist() == [False, False, True, True, True]
    assert np.isnan(found.replicates.per_class[:, 2]).sum() == 2
    kept = [0, 1]  # macro is over the classes that all replicates have
    assert found.macro.estimate == pytest.approx(np.mean(found.per_class.estimate[kept]))
    np.testing.assert_allclose(found.replicates.macro, found.replicates.per_class[:, kept].mean(axis=1))
    np.testing.assert_allclose(found.joint.macro, found.joint.per_class[:, kept].mean(axis=1))
    assert np.isfinite(np.array([found.micro, found.macro])).all()


def test_the_jackknife_of_separate_classes_is_a_perfect_score_with_wilsons_end():
    x = np.concatenate([np.random.default_rng(i).normal(size=(24, 3)) + 100 * i for i in range(2)]).astype(np.float32)
    found = graph_jackknife(x, np.repeat([0, 1], 24), num_classes=2, key=KEY, k=4)
    assert found.per_class.estimate.tolist() == [1, 1] and found.per_class.se.tolist() == [0, 0]
    assert found.per_class.upper.tolist() == [1, 1] and 0.8 < found.per_class.lower[0] < 0.85
    assert found.per_class.lower[0] < found.micro.lower < 1


@pytest.mark.long(after=1)
@pytest.mark.parametrize("n", [2, 3, 5])
def test_the_jackknife_of_few_points_is_nan_or_finite_and_never_hangs(n):
    x = np.arange(n, dtype=np.float32)[:, None]
    found = graph_jackknife(x, np.zeros(n, int), num_classes=1, key=KEY, k=n - 1)
    assert found.per_class.estimate.tolist() == [1]
    assert np.isfinite(found.micro.lower) == (n > 2)


@pytest.mark.long
def test_graph_jackknife_says_what_is_wrong():
    x, labels = np.eye(6, dtype=np.float32), np.array([0, 0, 0, 1, 1, 1])
    with pytest.raises(ValueError, match="pass key"):
        graph_jackknife(x, labels, num_classes=2, k=2)
    with pytest.raises(ValueError, match="k must be between 1 and 5"):
        graph_jackknife(x, labels, num_classes=2, key=KEY)
    with pytest.raises(ValueError, match="confidence"):
        graph_jackknife(x, labels, num_classes=2, key=KEY, k=2, confidence=95)
    with pytest.raises(ValueError, match="two groups or more"):
        graph_jackknife(x, labels, num_classes=2, groups=np.zeros(6, int), k=2)
    with pytest.raises(ValueError, match="num_classes"):
        graph_jackknife(x, labels, num_classes=1, key=KEY, k=2)


# The bootstrap


def pair_scores_of(sizes, seed=0):
    rng = np.random.default_rng(seed)
    found = []
    for m in sizes:
        scores = rng.uniform(size=(m, m))
        scores = (scores + scores.T) / 2
        np.fill_diagonal(scores, np.nan)
        found.append((np.arange(m), scores))
    return found


def loop_over_samples(pair_scores, key, num_samples):
    """[num_samples, classes + 2]: every sample by a loop over its pairs of different points."""
    samples = []
    for b in range(num_samples):
        sums, pairs = np.zeros(len(pair_scores)), np.zeros(len(pair_scores))
        for c, (members, scores) in enumerate(pair_scores):
            m = len(members)
            if m < 2:
                continue
            draws = np.asarray(jax.random.randint(jax.random.fold_in(key, c), (num_samples, m), 0, m))[b]
            for i in draws:
                for j in draws:
                    if i != j:
                        sums[c] += scores[i, j]
                        pairs[c] += 1
        per_class = [s / p if p else np.nan for s, p in zip(sums, pairs, strict=True)]
        macro = np.mean([value for value in per_class if value == value])
        samples.append([*per_class, sums.sum() / pairs.sum(), macro])
    return np.array(samples)


def test_bootstrap_is_an_explicit_loop_over_samples():
    pair_scores = pair_scores_of([5, 8, 3])
    got = bootstrap(pair_scores, KEY, num_samples=40, confidence=0.8)
    samples = loop_over_samples(pair_scores, KEY, 40)
    for column, interval in ((slice(0, 3), got.per_class), (3, got.micro), (4, got.macro)):
        np.testing.assert_allclose(interval.se, np.nanstd(samples[:, column], axis=0))
        ends = np.nanquantile(samples[:, column], [0.1, 0.9], axis=0)
        np.testing.assert_allclose([interval.lower, interval.upper], ends)
    means = [np.nanmean(scores) for _, scores in pair_scores]
    np.testing.assert_allclose(got.per_class.estimate, means)
    np.testing.assert_allclose(got.macro.estimate, np.mean(means))
    np.testing.assert_allclose(got.micro.estimate, np.average(means, weights=[20, 56, 6]))


@pytest.mark.long
def test_bootstrap_error_is_near_the_closed_form_for_a_fixed_graph():
    x = np.random.default_rng(0).normal(size=(120, 3)).astype(np.float32)
    labels = (x[:, 0] > 0).astype(int)
    knn = knn_graph(x, k=4)
    got = bootstrap(graph_pair_scores(knn, labels, num_classes=2), KEY)
    score = graph_convexity(knn, labels, num_classes=2)
    np.testing.assert_allclose(got.per_class.estimate, score.per_class, atol=1e-6)
    np.testing.assert_allclose(got.micro.estimate, score.micro, atol=1e-6)
    np.testing.assert_allclose(got.per_class.se, score.se_pairs, rtol=0.25)


def test_bootstrap_of_small_classes_is_nan_without_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = bootstrap(pair_scores_of([0, 1, 2, 6]), KEY, num_samples=100)
        none = bootstrap(pair_scores_of([2, 1]), KEY, num_samples=100)
    assert np.isnan(got.per_class.estimate).tolist() == [True, True, False, False]
    assert np.isnan(got.per_class.se).tolist() == [True, True, True, False]
    assert np.isfinite(np.array([got.micro, got.macro])).all()
    assert np.isfinite(none.micro.estimate) and np.isnan(np.array(none.micro)[1:]).all()


def test_bootstrap_of_pairs_that_all_score_alike_has_no_error_and_counts_the_failing():
    perfect, half = (np.where(np.eye(5, dtype=bool), np.nan, value) for value in (1.0, 0.5))
    got = bootstrap([(np.arange(5), perfect), (np.arange(5), half)], KEY, num_samples=50)
    assert got.per_class.estimate.tolist() == [1, 0.5] and got.failing.tolist() == [0, 10]
    for part in (got.per_class.se, got.per_class.lower, got.per_class.upper):
        assert np.isnan(part).all()


def test_correlation_over_domains_is_of_all_classes_or_within():
    rng = np.random.default_rng(0)
    domains = [
        (x, x + rng.normal(size=8) - 5 * d) for d, x in enumerate(rng.normal(size=(3, 8)) + 2 * np.arange(3)[:, None])
    ]
    together = [np.concatenate(part) for part in zip(*domains, strict=True)]
    centred = [np.concatenate([v - v.mean() for v in part]) for part in zip(*domains, strict=True)]
    for ranks, plain in ((False, scipy.stats.pearsonr), (True, scipy.stats.spearmanr)):
        for within, values in ((False, together), (True, centred)):
            got = domain_correlation(domains, KEY, ranks=ranks, within=within, num_samples=200)
            assert got.coefficient == pytest.approx(plain(*values).statistic) and got.num_points == 24
            assert -1 <= got.lower < got.coefficient < got.upper <= 1
    assert domain_correlation(domains, KEY).upper < 0 < domain_correlation(domains, KEY, within=True).lower
    assert domain_correlation(domains[:1], KEY) == pearson(*domains[0])  # one domain: Fisher's
    few = domain_correlation([(x[:2], y[:2]) for x, y in domains], KEY)
    assert few.num_points == 6 and np.isnan(few.lower) and np.isfinite(few.coefficient)
    assert domain_correlation([], KEY).num_points == 0


def test_bootstrap_says_what_is_wrong():
    with pytest.raises(ValueError, match="num_samples"):
        bootstrap(pair_scores_of([4]), KEY, num_samples=0)
    with pytest.raises(ValueError, match="confidence"):
        bootstrap(pair_scores_of([4]), KEY, confidence=0)


@pytest.mark.long
def test_the_jackknife_error_exceeds_that_of_a_fixed_graph():
    x = np.random.default_rng(3).normal(size=(120, 3)).astype(np.float32)
    labels = np.repeat([0, 1, 2], 40)
    x[:, 0] += 1.5 * labels
    found = graph_jackknife(x, labels, num_classes=3, key=KEY, k=4)
    score = graph_convexity(knn_graph(x, k=4), labels, num_classes=3)
    assert found.per_class.se.mean() > np.asarray(score.se_pairs).mean()
    plain = jackknife(found.micro.estimate, found.replicates.micro)
    assert plain.se >= found.micro.se > 0.7 * plain.se


def test_every_public_function_has_an_example():
    for module in (resampling, left_out):
        for name in module.__all__:
            value = getattr(module, name)
            if not isinstance(value, type):
                assert ">>>" in value.__doc__, name


@pytest.mark.long
def test_the_jackknife_covers_the_expected_score():
    from benchmarks.coverage import Setting, rows_of

    rows = list(rows_of(Setting((30, 30, 30), 5, 10, 2), draws=150, expected=600, seed=0))
    assert len(rows) == 2
    for _, coverage, _ in rows:
        assert 0.9 <= coverage <= 0.99


# Under jit


@pytest.mark.long
@pytest.mark.parametrize("n, k, num_groups", [(60, 5, 10), (20, 8, 10), (9, 3, 10), (12, 11, 3)])
def test_graph_jackknife_is_the_same_under_jit(n, k, num_groups):
    """Lists run short with few points, and where many neighbours are asked for."""
    rng = np.random.default_rng(n)
    x, labels = rng.normal(size=(n, 3)).astype(np.float32), rng.integers(-1, 3, n)

    def score(x, labels, key):
        return graph_jackknife(x, labels, num_classes=3, key=key, k=k, num_groups=num_groups)

    eager, jitted = score(x, labels, KEY), jax.jit(score)(x, labels, KEY)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=2e-6), eager, jitted)
    with jax.enable_x64(True):
        wide, jitted = score(x, labels, KEY), jax.jit(score)(x.astype(np.float64), labels, KEY)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6), wide, jitted)


@pytest.mark.long
def test_graph_jackknife_under_vmap_and_for_given_groups():
    rng = np.random.default_rng(0)
    x, labels, groups = rng.normal(size=(2, 60, 3)).astype(np.float32), rng.integers(0, 3, 60), rng.permutation(60) % 10

    def score(x):
        return graph_jackknife(x, labels, num_classes=3, groups=groups, k=5)

    batch = jax.jit(jax.vmap(score))(x)
    for i in range(2):
        each = jax.tree.map(lambda part, i=i: part[i], batch)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=2e-6), each, score(x[i]))
    few = jax.jit(partial(graph_jackknife, num_classes=3, num_groups=5, k=5))(x[0], labels, groups=groups)
    assert np.isnan(few.micro.se) and np.isfinite(few.micro.estimate)  # groups beyond num_groups - 1
