"""Re-parametrizations and other settings: each is what its name says, and theory tells which of them keep the score."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxconvex import euclidean_convexity, evaluate
from jaxconvex.evaluation.labelings import stratified_sample
from jaxconvex.study.analyses.robustness import REPARAMETRIZATIONS, reparametrizations
from jaxconvex.study.analyses.sensitivity import left_out, sensitivity
from jaxconvex.study.analyses.variants import summary
from jaxconvex.study.results import VariantRow

ABOUT = {"network": "pretrained", "seed": None, "key": jax.random.key(5), "k": 5}


def points(seed, n=64, d=9, classes=4):
    random = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    x = random.normal(size=(classes, d))[labels] + random.normal(size=(n, d)) * np.geomspace(0.2, 3, d)
    return x.astype(np.float32) + 2, labels


@pytest.fixture(scope="module")
def layers():
    return {"first": points(0)[0], "second": points(1)[0]}


@pytest.fixture(scope="module")
def labelings():
    _, labels = points(0)
    predicted = np.where(np.arange(64) % 5 == 0, 3, labels)
    return {"predicted": predicted, "digit": labels, "speaker": np.array(["ann", "bob"])[np.arange(64) // 3 % 2]}


@pytest.fixture(scope="module")
def told():
    """What each function says of its progress, as the fixtures below hear it."""
    return {reparametrizations: [], sensitivity: []}


@pytest.fixture(scope="module")
def rewritten(layers, labelings, told):
    return reparametrizations(layers, labelings, progress=lambda *now: told[reparametrizations].append(now), **ABOUT)


@pytest.fixture(scope="module")
def otherwise(layers, labelings, told):
    return sensitivity(layers, labelings, progress=lambda *now: told[sensitivity].append(now), **ABOUT)


def scores(rows):
    return {(row.variant, row.labeling, row.layer): row.score for row in rows}


def evaluated(x, labelings, **settings):
    report = evaluate({"layer": x}, labelings, jackknife=False, progress=False, **{"k": 5, **settings})
    return {row.labeling: row.score for row in report.rows if row.level == "macro"}


# The maps


def distances(x):
    x = x.astype(float)
    return np.linalg.norm(x[:, None] - x, axis=-1)


def linear_map(x, y):
    """The matrix of an affine map, and the largest deviation from it."""
    x, y = (values.astype(float) - values.mean(axis=0, dtype=float) for values in (x, y))
    matrix, *_ = np.linalg.lstsq(x, y, rcond=None)
    return matrix, np.abs(x @ matrix - y).max()


def test_maps_give_float32_of_as_many_points(layers):
    x = layers["first"]
    for name, change in REPARAMETRIZATIONS.items():
        y = change(x, jax.random.key(0))
        assert (y.shape, y.dtype) == (x.shape, np.float32), name
        np.testing.assert_array_equal(y, change(x, jax.random.key(0)))
        drawn = not np.array_equal(y, change(x, jax.random.key(1)))
        assert drawn == (name in ("isometry", "affine", "affine 100")), name


def test_an_isometry_keeps_distances_and_little_else(layers):
    x = layers["first"]
    y = REPARAMETRIZATIONS["isometry"](x, jax.random.key(0))
    np.testing.assert_allclose(distances(y), distances(x), atol=1e-5)
    assert np.abs(linear_map(x, y)[0] - np.eye(9)).max() > 0.5
    assert np.linalg.norm(y.mean(axis=0)) > 0.5


@pytest.mark.parametrize(("name", "condition"), [("affine", 10), ("affine 100", 100)])
def test_an_affine_map_has_its_condition_number(layers, name, condition):
    x = layers["first"]
    matrix, error = linear_map(x, REPARAMETRIZATIONS[name](x, jax.random.key(0)))
    assert error < 1e-3
    assert np.linalg.cond(matrix) == pytest.approx(condition, rel=1e-3)


def test_standardization_leaves_constant_features_0(layers):
    x = layers["first"].copy()
    x[:, 3] = 0.1
    y = REPARAMETRIZATIONS["standardization"](x, jax.random.key(0))
    assert (y[:, 3] == 0).all()
    np.testing.assert_allclose(y.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(np.delete(y.std(axis=0), 3), 1, atol=1e-5)


@pytest.mark.parametrize("shape", [(90, 70), (64, 120), (30, 80), (64, 9)])
def test_principal_components_are_those_of_the_decomposition(shape):
    x = np.random.default_rng(1).normal(size=shape).astype(np.float32) * np.geomspace(1, 9, shape[1], dtype=np.float32)
    y = REPARAMETRIZATIONS["pca 50"](x, jax.random.key(0))
    kept = min(50, shape[1], shape[0] - 1)
    u, s, _ = np.linalg.svd(x.astype(float) - x.mean(axis=0, dtype=float), full_matrices=False)
    assert y.shape == (shape[0], kept)
    np.testing.assert_allclose(distances(y), distances(u[:, :kept] * s[:kept]), atol=1e-4)


def test_half_precision_is_scaled_only_where_it_would_overflow(layers):
    change, x = REPARAMETRIZATIONS["float16"], layers["first"]
    np.testing.assert_array_equal(change(x, jax.random.key(0)), x.astype(np.float16).astype(np.float32))
    large = x * np.float32(2.0**20)
    found = change(large, jax.random.key(0))
    assert np.isfinite(found).all() and 65504 / 2 < np.abs(found).max() <= 65504
    ratio = found / large
    np.testing.assert_allclose(ratio, ratio.max(), rtol=2e-3)


# Theory


@pytest.mark.long
def test_isometries_and_scaling_keep_the_graph_score(rewritten, labelings, layers):
    found = scores(rewritten)
    for labeling in labelings:
        for layer in layers:
            usual = found["none", labeling, layer]
            assert 0.2 < usual < 0.95
            for variant in ("isometry", "scaling", "pca 50"):  # of nine features all components are kept
                assert found[variant, labeling, layer] == pytest.approx(usual, abs=1e-6)


@pytest.mark.long
def test_affine_maps_change_the_graph_score(rewritten, labelings, layers):
    found = scores(rewritten)
    for variant in ("standardization", "affine", "affine 100"):
        for layer in layers:
            assert abs(found[variant, "digit", layer] - found["none", "digit", layer]) > 1e-3


@pytest.mark.long
def test_affine_maps_keep_euclidean_convexity_if_the_head_follows(layers):
    x = layers["first"]
    y = REPARAMETRIZATIONS["affine"](x, jax.random.key(2))
    matrix, _ = linear_map(x, y)
    back = jnp.asarray(np.linalg.inv(matrix), jnp.float32)
    centre = x.mean(axis=0), y.mean(axis=0)
    random = np.random.default_rng(3)
    weights = [jnp.asarray(random.normal(size=shape), jnp.float32) for shape in ((9, 16), (16, 4))]

    def head(points):
        return jnp.sin(2 * (points - 2) @ weights[0]) @ weights[1]

    labels = jnp.argmax(head(x), axis=1)

    def score(head, points):
        return np.asarray(euclidean_convexity(head, jnp.asarray(points), labels, num_classes=4).per_class)

    before = score(head, x)
    after = score(lambda points: head((points - centre[1]) @ back + centre[0]), y)
    assert (before < 0.9).all()
    np.testing.assert_allclose(after, before, atol=2e-3)  # a point of a segment may lie on a border
    assert np.abs(score(head, y) - before).max() > 0.02


# The rows


@pytest.mark.long
def test_rows_are_those_of_evaluate_on_the_changed_features(rewritten, layers, labelings):
    found = scores(rewritten)
    assert list(dict.fromkeys(row.variant for row in rewritten)) == list(REPARAMETRIZATIONS)
    assert len(found) == len(rewritten) == 2 * 3 * len(REPARAMETRIZATIONS)
    assert {row[:1] + row[2:4] + row[8:] for row in rewritten} == {("reparametrization", "pretrained", None, 64)}
    for variant in ("none", "standardization", "float16"):
        for layer, x in layers.items():
            changed = REPARAMETRIZATIONS[variant](x, jax.random.key(0))
            for labeling, score in evaluated(changed, labelings).items():
                assert found[variant, labeling, layer] == score


@pytest.mark.long
def test_settings_are_those_of_evaluate(otherwise, layers, labelings):
    found = scores(otherwise)
    settings = {"none": {}, "cosine": {"metric": "cosine"}, "mutual": {"graph": "mutual"}}
    settings |= {f"k = {k}": {"k": k} for k in (5, 10, 20, 40)}
    for variant in ("none", "k = 20", "cosine", "mutual"):
        for labeling, score in evaluated(layers["second"], labelings, **settings[variant]).items():
            assert found[variant, labeling, "second"] == score, variant
    assert len({found[variant, "digit", "second"] for variant in settings}) == len(settings) - 1  # "none" is "k = 5"
    variants = [*settings, "half the points", "a quarter of the points"]
    assert {row.variant for row in otherwise} == set(variants)
    assert len(found) == len(otherwise) == 2 * 3 * len(variants)


@pytest.mark.long
def test_samples_are_stratified_by_the_true_classes(otherwise, layers, labelings):
    found = scores(otherwise)
    for variant, size in (("half the points", 32), ("a quarter of the points", 16)):
        chosen = stratified_sample(labelings["digit"], size, ABOUT["key"])
        of_chosen = {name: labels[chosen] for name, labels in labelings.items()}
        for labeling, score in evaluated(layers["first"][chosen], of_chosen).items():
            assert found[variant, labeling, "first"] == score
    sizes = {row.variant: row.num_points for row in otherwise}
    assert (sizes.pop("half the points"), sizes.pop("a quarter of the points")) == (32, 16)
    assert set(sizes.values()) == {64}


@pytest.mark.long
def test_the_key_decides_all(layers, labelings, rewritten, otherwise):
    assert reparametrizations(layers, labelings, **ABOUT) == rewritten
    assert sensitivity(layers, labelings, **ABOUT) == otherwise
    about = {**ABOUT, "key": jax.random.key(6)}
    for again, rows, drawn in (
        (reparametrizations(layers, labelings, **about), rewritten, {"affine", "affine 100"}),
        (sensitivity(layers, labelings, **about), otherwise, {"half the points", "a quarter of the points"}),
    ):
        moved = {row.variant for row, other in zip(again, rows, strict=True) if abs(row.score - other.score) > 1e-6}
        assert moved == drawn


@pytest.mark.long
def test_progress_is_told_after_each_layer(rewritten, otherwise, told):
    assert told == {reparametrizations: [(1, 2), (2, 2)], sensitivity: [(1, 2), (2, 2)]}


@pytest.mark.long
def test_what_few_points_cannot_show_is_left_out():
    x, labels = points(2, n=30)
    rows = sensitivity({"layer": x}, {"digit": labels}, **{**ABOUT, "k": 8})
    variants = {row.variant for row in rows}
    assert left_out(30, k=8) == ["k = 40", "a quarter of the points"]
    assert variants == {"none", "k = 5", "k = 10", "k = 20", "cosine", "mutual", "half the points"}
    assert left_out(41) == ["a quarter of the points"] and left_out(40) == ["k = 40", "a quarter of the points"]
    assert left_out(44) == []


@pytest.mark.long
def test_points_without_direction_have_no_cosine_score(layers, labelings):
    x = layers["first"].copy()
    x[3] = 0
    found = scores(sensitivity({"layer": x}, labelings, **ABOUT))
    assert all(np.isnan(score) == (variant == "cosine") for (variant, *_), score in found.items())


# The summary


def profile(variant, network, seed, values, question="sensitivity"):
    return [
        VariantRow(question, variant, network, seed, "digit", f"layer {i}", i, value, 50)
        for i, value in enumerate(values)
    ]


def test_summary_by_hand():
    rows = [
        *profile("none", "pretrained", None, [0.2, 0.4, 0.6, 0.5]),
        *profile("k = 5", "pretrained", None, [0.3, 0.2, 0.6, np.nan]),
        *profile("none", "fine-tuned", 0, [0.3, 0.5, 0.8, 0.9]),
        *profile("k = 5", "fine-tuned", 0, [0.3, 0.4, 0.7, 0.8]),
        *profile("none", "fine-tuned", 1, [0.1, 0.5, 0.6, 0.9]),
        *profile("k = 5", "fine-tuned", 1, [0.2, 0.6, 0.4, 0.9]),
        *profile("scaling", "fine-tuned", 1, [0.2, 0.6, 0.4, 0.9], question="reparametrization"),
    ]
    none, other, tuned, tuned_other, alone = summary(rows)
    assert none[:5] == ("sensitivity", "none", "digit", "pretrained", 4)
    assert none[5:9] == (0, 0, 1, None) and np.isnan(none.mean_change)
    assert other[:5] == ("sensitivity", "k = 5", "digit", "pretrained", 3)
    assert (other.mean_difference, other.largest_difference) == pytest.approx((0.1, 0.2))
    assert other.rank_correlation == pytest.approx(0.5)  # ranks 2, 1, 3 beside 1, 2, 3
    assert tuned[:5] == ("sensitivity", "none", "digit", "fine-tuned", 4)
    assert (tuned.raised, tuned.mean_change) == (3, pytest.approx((0 + 0.1 + 0.1 + 0.4) / 4))
    assert tuned_other.mean_difference == pytest.approx((0 + 0.1 + 0.1 + 0.1 + 0.1 + 0.1 + 0.2 + 0) / 8)
    assert tuned_other.rank_correlation == pytest.approx((1 + 0.8) / 2)
    assert tuned_other.raised == 1  # changes -0.05, 0.3, -0.05; the last layer has no pretrained score
    assert tuned_other.mean_change == pytest.approx(0.2 / 3)
    assert alone.question == "reparametrization" and alone.num_layers == 0 and alone.raised is None
    assert np.isnan(alone[5:8]).all()


@pytest.mark.long
def test_summary_of_real_rows(rewritten, otherwise):
    found = summary([*rewritten, *otherwise])
    assert len(found) == 3 * (len(REPARAMETRIZATIONS) + 9)
    isometry = next(one for one in found if one.variant == "isometry")
    assert isometry.largest_difference < 1e-6 and isometry.rank_correlation == pytest.approx(1)
    assert all(one.largest_difference >= one.mean_difference >= 0 for one in found)


@pytest.mark.parametrize("function", [reparametrizations, sensitivity])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 64}, "k must be between 1 and 63"),
        ({"layers": {"short": np.ones((3, 2))}}, "layer 'short' must have a row for each of 64 labels; got 3"),
        ({"layers": {"deep": np.ones((64, 2, 2))}}, "layer 'deep' must have one row a point"),
        ({"labelings": {}}, "at least one labeling"),
    ],
)
def test_messages(function, change, message, layers, labelings):
    given = {"layers": layers, "labelings": labelings, **ABOUT, **change}
    with pytest.raises(ValueError, match=message):
        function(given.pop("layers"), given.pop("labelings"), **given)
