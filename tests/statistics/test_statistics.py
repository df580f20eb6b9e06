"""Intervals, paired differences, peaks, correlations, baselines and hubness against scipy.stats and the definitions."""

from __future__ import annotations

import itertools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import scipy.stats
from hypothesis import strategies
from hypothesis.extra import numpy as arrays

from jaxconvex.neighbors import KNNGraph, epsilon_graph, knn_graph
from jaxconvex.paths.graph import undirected
from jaxconvex.paths.layout import pack
from jaxconvex.scores.graph import graph_convexity
from jaxconvex.statistics import intervals as statistics
from jaxconvex.statistics.comparison import holm, paired_difference, peak_layer
from jaxconvex.statistics.correlation import pearson, spearman
from jaxconvex.statistics.intervals import jackknife, score_interval
from jaxconvex.statistics.measures import hubness, random_label_score
from jaxconvex.statistics.permutation import permutation_null

SHORT_SERIES = arrays.arrays(np.float64, (2, 7), elements=strategies.integers(-3, 3).map(float))
SHARES = strategies.integers(0, 64).map(lambda i: i / 64)
CONFIDENCES = (0, 1, -0.5, 1.5, 95, float("nan"))


def means_without(values, groups):
    """Means of the rows of values [n ...] without each group."""
    return np.array([values[groups != g].mean(axis=0) for g in range(groups.max() + 1)])


# The jackknife


@pytest.mark.parametrize("shape", [(), (3,), (2, 4)])
@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95])
def test_jackknife_is_its_definition(shape, confidence):
    rng = np.random.default_rng(0)
    estimate, replicates = rng.normal(size=shape), rng.normal(size=(7, *shape))
    got = jackknife(estimate, jnp.asarray(replicates, jnp.float32), confidence=confidence)
    want = oracles.jackknife_interval(estimate, replicates.astype(np.float32), confidence)
    for actual, expected in zip(got, want, strict=True):
        assert np.shape(actual) == shape
        np.testing.assert_allclose(actual, expected, rtol=1e-6)


def test_jackknife_of_a_mean_is_the_standard_error_of_group_means():
    rng = np.random.default_rng(1)
    values, groups = rng.normal(size=60), np.repeat(np.arange(10), 6)
    interval = jackknife(values.mean(), means_without(values, groups))
    group_means = values.reshape(10, 6).mean(axis=1)
    np.testing.assert_allclose(interval.se, group_means.std(ddof=1) / np.sqrt(10))


def test_nan_replicates_make_the_error_nan_and_leave_the_rest_alone():
    replicates = np.array([[0.5, 0.4], [0.6, np.nan], [0.7, 0.5]])
    for interval in (
        jackknife([0.6, 0.45], replicates),
        score_interval([0.6, 0.45], replicates, [20, 2]),
        score_interval([0.6, 1.0], replicates, [20, 2]),
    ):
        assert np.isfinite(np.array(interval)[:, 0]).all()
        assert np.isfinite(interval.estimate[1])
        assert np.isnan(np.array(interval)[1:, 1]).all()
    assert np.isnan(np.array(jackknife(np.nan, np.full(5, np.nan)))).all()


def second_difference_of_joint_effects(order, g=10, size=2000):
    """(counted, seen) of effects of j points: variances by simulation of products of group sums, not by the formula.

    For one observation a group, the symmetric statistic T = (sum over j-subsets of products) / C(n, j).
    """
    rng = np.random.default_rng(order)
    x = rng.normal(size=(size, g))

    def statistic(columns):
        subsets = list(itertools.combinations(columns, order))
        return sum(np.prod(x[:, list(s)], axis=1) for s in subsets) / len(subsets)

    full = statistic(range(g))
    single = np.stack([statistic([c for c in range(g) if c != i]) for i in range(g)])
    joint = np.stack([statistic([c for c in range(g) if c not in (2 * i, 2 * i + 1)]) for i in range(g // 2)])
    return full, single, joint


def test_the_correction_takes_nothing_from_a_mean():
    full, single, joint = second_difference_of_joint_effects(1)
    plain, corrected = jackknife(full, single), jackknife(full, single, joint=joint)
    np.testing.assert_allclose(corrected.se, plain.se, rtol=1e-6)


@pytest.mark.parametrize("order", [2, 3])
def test_the_correction_takes_off_some_of_what_is_counted_too_often_and_not_more(order):
    full, single, joint = second_difference_of_joint_effects(order)
    truth = full.var()
    plain = np.mean(jackknife(full, single).se ** 2)
    corrected = np.mean(jackknife(full, single, joint=joint).se ** 2)
    assert plain > 1.8 * truth
    assert 0.98 * truth < corrected < 0.99 * plain


def test_the_correction_is_its_formula_and_bounded_by_half():
    rng = np.random.default_rng(2)
    g = 10
    estimate, single, joint = rng.normal(size=50), rng.normal(size=(g, 50)), rng.normal(size=(g // 2, 50))
    single, joint = 0.1 * single, 0.04 * joint + 0.1 * rng.normal(size=50)
    plain = (g - 1) / g * ((single - single.mean(0)) ** 2).sum(0)
    q = np.array([estimate - 0.9 * (single[2 * i] + single[2 * i + 1]) + 0.8 * joint[i] for i in range(g // 2)])

    def covariance(a, b, j=10):
        return (len(a & b) / len(a) / len(b) * g) ** j

    everything = frozenset(range(g))
    sets = (everything, everything - {0}, everything - {1}, everything - {0, 1})
    parts = list(zip((1, -0.9, -0.9, 0.8), sets, strict=True))
    seen = sum(v * w * covariance(a, b) for v, a in parts for w, b in parts)
    counted = (g - 1) ** 2 / g * (covariance(sets[1], sets[1]) - covariance(sets[1], sets[2]))
    want = np.maximum(plain - (counted - 1) / seen * (q**2).mean(0), plain / 2)
    np.testing.assert_allclose(jackknife(estimate, single, joint=joint).se ** 2, want)
    assert (want == plain / 2).any()


def test_joint_replicates_that_are_nan_leave_the_error_uncorrected_and_a_last_group_alone_is_not_used():
    rng = np.random.default_rng(3)
    estimate, single, joint = 0.5, 0.5 + 0.01 * rng.normal(size=9), 0.5 + 0.01 * rng.normal(size=5)
    plain = jackknife(estimate, single)
    assert jackknife(estimate, single, joint=np.where(np.arange(5) == 1, np.nan, joint)).se == plain.se
    assert jackknife(estimate, single, joint=joint).se == jackknife(estimate, single, joint=joint[:4]).se < plain.se


@pytest.mark.parametrize(
    ("estimate", "replicates", "options", "message"),
    [
        (0.5, [0.4], {}, "at least two"),
        (0.5, 0.4, {}, "at least two"),
        ([0.5, 0.5], [0.4, 0.6], {}, "estimate of shape"),
        (0.5, [0.4, 0.5, 0.6, 0.5], {"joint": [0.5]}, "each of 2 pairs of groups"),
        (0.5, [0.4, 0.5, 0.6, 0.5], {"joint": [[0.5], [0.5]]}, "estimate's shape"),
        *((0.5, [0.4, 0.6], {"confidence": c}, "confidence must lie between 0 and 1") for c in CONFIDENCES),
    ],
)
def test_jackknife_says_what_is_wrong(estimate, replicates, options, message):
    with pytest.raises(ValueError, match=message):
        jackknife(estimate, replicates, **options)


# Intervals of scores


@hypothesis.given(SHARES, arrays.arrays(np.float64, 6, elements=SHARES), strategies.integers(2, 500))
def test_intervals_of_scores_stay_in_0_to_1_around_the_score(score, replicates, num_points):
    interval = score_interval(score, replicates, num_points)
    assert 0 <= interval.lower <= score + 1e-12 and score - 1e-12 <= interval.upper <= 1
    mirrored = score_interval(1 - score, 1 - replicates, num_points)
    np.testing.assert_allclose([1 - mirrored.upper, 1 - mirrored.lower], [interval.lower, interval.upper], atol=1e-6)


def test_interval_of_a_score_is_the_usual_one_where_the_error_is_small():
    replicates = 0.6 + 1e-4 * np.random.default_rng(0).normal(size=10)
    got, usual = score_interval(0.6, replicates, 100), jackknife(0.6, replicates)
    assert got.se == usual.se
    np.testing.assert_allclose([got.lower, got.upper], [usual.lower, usual.upper], atol=1e-6)


def test_interval_of_a_perfect_score_is_wilsons():
    interval = score_interval([1.0, 0.0], np.tile([1.0, 0.0], (10, 1)), [50, 50])
    t = scipy.stats.t.ppf(0.975, 9)
    np.testing.assert_allclose(interval.lower, [50 / (50 + t**2), 0])
    np.testing.assert_allclose(interval.upper, [1, t**2 / (50 + t**2)])


def test_interval_near_one_is_the_union_where_the_logit_explodes():
    replicates = np.array([0.99] * 9 + [0.90])
    got, usual, n = score_interval(0.985, replicates, 50), jackknife(0.985, replicates), 50
    t, s = scipy.stats.t.ppf(0.975, 9), 0.985
    assert t * got.se / (s * (1 - s)) > 2.5
    centre, half = (s + t**2 / 2 / n) / (1 + t**2 / n), t / (1 + t**2 / n) * np.sqrt(s * (1 - s) / n + t**2 / 4 / n**2)
    assert got.lower == pytest.approx(min(usual.lower, centre - half)) and got.upper == pytest.approx(1)
    assert got.upper - got.lower < 0.25  # the logit's reaches down to 0.3
    mirrored = score_interval(0.015, 1 - replicates, 50)
    np.testing.assert_allclose([1 - mirrored.upper, 1 - mirrored.lower], [got.lower, got.upper])


# Paired differences and peaks


def correlated_layers(rng, num_samples, means, shared, own, n=60, g=10):
    """Estimates [s l] and replicates [s g l] of the means of layers whose points share a difficulty."""
    difficulty = shared * rng.normal(size=(num_samples, n, 1))
    values = np.asarray(means) + difficulty + own * rng.normal(size=(num_samples, n, len(means)))
    groups = np.arange(n) % g
    replicates = np.stack([values[:, groups != i].mean(axis=1) for i in range(g)], axis=1)
    return values.mean(axis=1), replicates


def test_paired_differences_are_narrower_than_unpaired_ones_on_correlated_layers_and_cover():
    estimates, replicates = correlated_layers(np.random.default_rng(0), 1000, [0.5, 0.6], shared=0.3, own=0.1)
    a, b = jackknife(estimates[:, 0], replicates[:, :, 0].T), jackknife(estimates[:, 1], replicates[:, :, 1].T)
    difference = paired_difference(estimates[:, 0], estimates[:, 1], replicates[:, :, 0].T, replicates[:, :, 1].T)
    np.testing.assert_allclose(difference.estimate, estimates[:, 1] - estimates[:, 0])
    assert difference.se.mean() < 0.5 * np.hypot(a.se, b.se).mean()
    assert 0.93 < np.mean((difference.lower <= 0.1) & (difference.upper >= 0.1)) < 0.97


def test_paired_difference_of_equal_layers_is_exactly_zero():
    replicates = np.random.default_rng(0).uniform(size=(10, 3))
    difference = paired_difference([0.1, 0.2, 0.3], [0.1, 0.2, 0.3], replicates, replicates)
    for part in difference:
        assert (part == 0).all()


def test_paired_difference_near_one_combines_the_intervals_of_both():
    rng = np.random.default_rng(0)
    a, b = 0.98 + 0.004 * rng.normal(size=(2, 10))
    found = paired_difference(0.98, 0.985, a, b, num_points=(50, 40))
    of_a, of_b = score_interval(0.98, a, 50), score_interval(0.985, b, 40)
    r = np.corrcoef(a, b)[0, 1]
    x, y = 0.985 - of_b.lower, of_a.upper - 0.98
    if jackknife(0.98, a).upper < 1 and jackknife(0.985, b).upper < 1:
        pytest.fail("the case must leave [0, 1]")
    assert found.lower == pytest.approx(0.005 - np.sqrt(x**2 - 2 * r * x * y + y**2))
    back = paired_difference(0.985, 0.98, b, a, num_points=(40, 50))
    np.testing.assert_allclose([back.lower, back.upper], [-found.upper, -found.lower])
    middle = paired_difference(0.5, 0.6, a - 0.48, b - 0.385, num_points=(50, 40))
    assert middle == paired_difference(0.5, 0.6, a - 0.48, b - 0.385)
    perfect = paired_difference(1.0, 1.0, np.ones(10), np.ones(10), num_points=(50, 50))
    assert perfect.lower < 0 < perfect.upper  # not that both always are
    same = paired_difference(0.97, 0.97, a, a, num_points=(50, 50))
    assert same.lower == same.upper == 0


def test_paired_difference_is_corrected_by_joint_replicates():
    rng = np.random.default_rng(1)
    a, b = 0.5 + 0.02 * rng.normal(size=(2, 10))
    joint = 0.5 + 0.01 * rng.normal(size=(2, 5))
    found = paired_difference(0.5, 0.52, a, b, joint=tuple(joint))
    assert found.se == jackknife(0.02, b - a, joint=joint[1] - joint[0]).se < paired_difference(0.5, 0.52, a, b).se


@pytest.mark.parametrize("p", [[0.01, 0.04, 0.03, 0.005], [0.5, np.nan, 0.2], [0.9], []])
def test_holm_is_a_loop_over_the_smallest(p):
    p = np.array(p)
    want, largest, left = np.full(len(p), np.nan), 0.0, int(np.sum(~np.isnan(p)))
    for i in np.argsort(p)[:left]:
        largest = max(largest, left * p[i])
        want[i] = min(1, largest)
        left -= 1
    np.testing.assert_allclose(holm(p), want)


def test_paired_difference_refuses_other_shapes():
    with pytest.raises(ValueError, match="same groups"):
        paired_difference(0.5, 0.6, np.ones(10), np.ones(9))
    with pytest.raises(ValueError, match="one shape"):
        paired_difference(0.5, [0.6], np.ones(10), np.ones((10, 1)))


@pytest.mark.parametrize("means", [[0.5, 0.5, 0.5, 0.5], [0.3, 0.52, 0.55, 0.5], [0.9, 0.1, 0.2]])
def test_the_best_layer_is_a_candidate_at_the_nominal_rate(means):
    estimates, replicates = correlated_layers(np.random.default_rng(0), 1000, means, shared=0.3, own=0.2)
    best = int(np.argmax(means))
    peaks = [peak_layer(e, r) for e, r in zip(estimates, replicates, strict=True)]
    covered = np.mean([peak.lower <= best <= peak.upper and peak.candidates[best] for peak in peaks])
    assert covered >= 0.94
    if means[0] == 0.9:
        assert np.mean([peak.candidates.sum() for peak in peaks]) < 1.01


def test_peak_is_its_definition():
    rng = np.random.default_rng(0)
    for _ in range(50):
        estimates, replicates = correlated_layers(rng, 1, [0.5, 0.55, 0.6, 0.58, 0.3], shared=0.3, own=0.1)
        estimates, replicates = estimates[0], replicates[0]
        peak = peak_layer(estimates, replicates, confidence=0.9)
        best = int(np.argmax(estimates))
        want = []
        for layer in range(5):
            paired = replicates[:, layer] - replicates[:, best]
            pair = oracles.jackknife_interval(estimates[layer] - estimates[best], paired)
            quantile = scipy.stats.t.ppf(1 - 0.1 / 4, len(replicates) - 1)
            want.append(layer == best or pair.estimate + quantile * pair.se >= 0)
        assert peak.layer == best
        assert peak.candidates.tolist() == want
        assert (peak.lower, peak.upper) == (min(np.flatnonzero(want)), max(np.flatnonzero(want)))


def test_peaks_of_one_layer_of_ties_and_of_nan():
    assert peak_layer([0.3], np.full((10, 1), 0.3))[:3] == (0, 0, 0)
    tied = peak_layer([0.2, 0.8, 0.8], np.tile([0.2, 0.8, 0.8], (10, 1)))
    assert tied[:3] == (1, 1, 2)
    replicates = np.tile([0.2, 0.8, np.nan, 0.9], (10, 1))
    replicates[0, 3] = np.nan
    unknown = peak_layer([0.2, 0.8, np.nan, 0.7], replicates)
    assert unknown[:3] == (1, 1, 3) and unknown.candidates.tolist() == [False, True, False, True]
    assert peak_layer([np.nan, np.nan], np.full((10, 2), np.nan))[:3] == (-1, -1, -1)


def test_peak_says_what_is_wrong():
    with pytest.raises(ValueError, match="one score a layer"):
        peak_layer(0.5, np.ones(10))
    with pytest.raises(ValueError, match="one score a layer"):
        peak_layer([], np.ones((10, 0)))
    with pytest.raises(ValueError, match="one row a group"):
        peak_layer([0.5, 0.6], np.ones((10, 3)))
    with pytest.raises(ValueError, match="confidence"):
        peak_layer([0.5, 0.6], np.ones((10, 2)), confidence=1)


# Correlations


@hypothesis.given(SHORT_SERIES)
def test_correlations_are_scipys(series):
    x, y = series
    for ours, theirs, variance in ((pearson, scipy.stats.pearsonr, 1), (spearman, scipy.stats.spearmanr, 1.06)):
        got = ours(x, y)
        assert got.num_points == 7
        if np.ptp(x) == 0 or np.ptp(y) == 0:
            assert np.isnan(got[:3]).all()
            continue
        want = theirs(x, y).statistic
        assert abs(got.coefficient - want) < 1e-12
        if abs(want) < 1 - 1e-9:
            margin = scipy.stats.norm.ppf(0.975) * np.sqrt(variance / (7 - 3))
            ends = np.tanh([np.arctanh(want) - margin, np.arctanh(want) + margin])
            np.testing.assert_allclose(got[1:3], ends, atol=1e-9)


def test_pearsons_interval_is_scipys():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 30))
    want = scipy.stats.pearsonr(x, y).confidence_interval(0.9)
    np.testing.assert_allclose(pearson(x, y, confidence=0.9)[1:3], want)


def test_pearsons_interval_covers():
    rng = np.random.default_rng(0)
    truth, covered = 0.6, []
    for _ in range(1500):
        x = rng.normal(size=15)
        y = truth * x + np.sqrt(1 - truth**2) * rng.normal(size=15)
        _, lower, upper, _ = pearson(x, y)
        covered.append(lower <= truth <= upper)
    assert 0.935 < np.mean(covered) < 0.965


@pytest.mark.parametrize("correlation", [pearson, spearman])
def test_correlations_at_the_ends(correlation):
    x = np.array([0.1, 0.2, 0.4, 0.7, 1.3, 2.1, 2.2])
    one_exchanged = 1 - 6 * 2 / (7 * 48)  # ranks that are not as they are throughout differ by as much
    least = np.tanh(np.arctanh(one_exchanged) - 1.959964 * np.sqrt(1.06 / 4)) if correlation is spearman else 1
    assert correlation(x, 3 * x) == (1, pytest.approx(least), 1, 7)
    assert correlation(x, -x) == (-1, -1, pytest.approx(-least), 7)
    assert np.isnan(correlation(x, np.full(7, 0.1))[:3]).all()
    six = correlation(x[:6], 3 * x[:6])
    assert six.coefficient == 1 and np.isnan(six[1:3]).all()
    assert np.isnan(correlation([1.0], [2.0])[:3]).all()
    assert np.isnan(correlation([], [])[:3]).all()
    three = correlation([1, 2, 3], [1, 3, 2])
    assert three.num_points == 3 and abs(three.coefficient - 0.5) < 1e-12 and np.isnan(three[1:3]).all()
    large, usual = correlation(1e200 * x, 1e-200 * np.square(x)), correlation(x, np.square(x))
    assert abs(large.coefficient - usual.coefficient) < 1e-9
    for confidence in (0.5, 0.95, 0.99999):
        _, lower, upper, _ = correlation(x, np.square(x), confidence=confidence)
        assert -1 <= lower <= upper <= 1


@pytest.mark.parametrize("correlation", [pearson, spearman])
def test_pairs_with_nan_are_left_out(correlation):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 12))
    holed_x, holed_y = x.copy(), y.copy()
    holed_x[2], holed_y[[5, 7]] = np.nan, np.nan
    kept = np.delete(np.arange(12), [2, 5, 7])
    assert correlation(jnp.asarray(holed_x), jnp.asarray(holed_y)) == correlation(
        jnp.asarray(x[kept]), jnp.asarray(y[kept])
    )


@pytest.mark.parametrize("correlation", [pearson, spearman])
def test_correlations_say_what_is_wrong(correlation):
    with pytest.raises(ValueError, match="one length"):
        correlation([1, 2, 3], [1, 2])
    with pytest.raises(ValueError, match="one length"):
        correlation(np.ones((2, 2)), np.ones((2, 2)))
    for confidence in CONFIDENCES:
        with pytest.raises(ValueError, match="confidence"):
            correlation([1, 2, 3, 4, 5], [1, 3, 2, 4, 5], confidence=confidence)


# Random labels and hubness


@pytest.mark.long
def test_the_expected_score_of_random_labels_is_the_mean_over_all_labelings():
    x = np.random.default_rng(5).normal(size=(7, 2)).astype(np.float32)
    x[4:] += 100  # a part of its own, so that some pairs have no path
    graph = undirected(knn_graph(x, k=2))
    labels = np.array([0, 0, 0, 1, 1, 2, -1])
    expected = random_label_score(graph, labels, num_classes=4)
    labelings = sorted(set(itertools.permutations(labels.tolist()[:6])))
    packed = pack(graph)
    scores = [graph_convexity(packed, np.array([*some, -1]), num_classes=4).per_class for some in labelings]
    np.testing.assert_allclose(expected, np.mean(scores, axis=0, dtype=np.float64), atol=1e-6)
    assert np.isnan(expected[2:]).all() and np.isfinite(expected[:2]).all()


@pytest.mark.long(after=1)
@pytest.mark.parametrize("k", [1, 3, 10])
def test_the_expected_score_of_random_labels_is_the_oracles(k):
    rng = np.random.default_rng(k)
    x, labels = rng.normal(size=(40, 3)).astype(np.float32), rng.integers(0, 3, 40)
    knn = knn_graph(x, k=k)
    want = oracles.random_label_score(oracles.knn_adjacency(x, k), labels, 3)
    for graph in (knn, undirected(knn), pack(knn)):
        np.testing.assert_allclose(random_label_score(graph, labels, num_classes=3), want, atol=1e-12)


@pytest.mark.long
def test_the_expected_score_of_random_labels_holds_background_fixed_as_the_permutation_null_does():
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(60, 3)).astype(np.float32), np.repeat([0, 1, -1], [12, 20, 28])
    graph = knn_graph(x, k=3)
    null = permutation_null(graph, jnp.asarray(labels), num_classes=2, key=jax.random.key(0), num_permutations=1500)
    error = null.per_class.samples.std(axis=-1) / np.sqrt(1500)
    assert (np.abs(random_label_score(graph, labels, num_classes=2) - null.per_class.mean) < 4 * error).all()
    assert (error < 0.003).all()  # permuting the background would be off by 0.1


def test_the_expected_score_of_random_labels_of_two_points():
    assert random_label_score(knn_graph(np.eye(2), k=1), np.array([0, 0]), num_classes=1) == 1
    apart = epsilon_graph(np.array([[0.0], [5.0]]), radius=1)
    assert random_label_score(apart, np.array([0, 0]), num_classes=1) == 0


@pytest.mark.long
def test_hubness_is_the_skewness_of_the_occurrences():
    rng = np.random.default_rng(0)
    for d, k in ((2, 5), (100, 10)):
        knn = knn_graph(rng.normal(size=(300, d)), k=k)
        counts = [int((np.asarray(knn.indices) == i).sum()) for i in range(300)]
        assert abs(hubness(knn) - scipy.stats.skew(counts)) < 1e-9
    assert hubness(knn) > 1  # many dimensions, many hubs


def test_hubness_where_all_occur_alike_and_with_padding():
    ring = np.stack([(np.arange(6) + 1) % 6, (np.arange(6) - 1) % 6], axis=1)
    assert np.isnan(hubness(KNNGraph(ring, np.ones((6, 2)))))
    padded = KNNGraph(np.where(np.arange(6)[:, None] < 2, -1, ring), np.ones((6, 2)))
    assert abs(hubness(padded) - scipy.stats.skew([1, 1, 1, 2, 2, 1])) < 1e-9


def test_every_public_name_has_an_example():
    for name in statistics.__all__:
        value = getattr(statistics, name)
        if not isinstance(value, type):
            assert ">>>" in value.__doc__, name
