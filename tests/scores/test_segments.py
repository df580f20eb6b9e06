"""Segments: the share of every pair, on one device and on a mesh; what is compiled; tests of scores stand in test_scores."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from processes import on_devices

import jaxconvex
from jaxconvex.scores.euclidean import _segment_shares, euclidean_segments


def apply(weights, h):
    return jnp.tanh(h @ weights[0]) @ weights[1]


def weights(seed: int, features: int = 5, classes: int = 4) -> list:
    draws = np.random.default_rng(seed)
    return [jnp.asarray(draws.normal(size=s), jnp.float32) for s in ((features, 16), (16, classes))]


def data(n: int = 60, features: int = 5) -> tuple:
    draws = np.random.default_rng(0)
    return jnp.asarray(draws.normal(size=(n, features)), jnp.float32), draws.integers(-1, 3, n)


def by_hand(predict, x, labels, segments, num_points: int = 10) -> np.ndarray:
    """The share of each segment, one point at a time."""
    x, labels = np.asarray(x), np.asarray(labels)
    shares = []
    for i, j in zip(segments.first[segments.keep].tolist(), segments.second[segments.keep].tolist(), strict=True):
        steps = [m / (num_points + 1) for m in range(1, num_points + 1)]
        logits = [np.asarray(predict(jnp.asarray(t * x[i] + (1 - t) * x[j])[None]))[0] for t in steps]
        shares.append(np.mean([np.argmax(one) == labels[i] for one in logits]))
    return np.array(shares)


@pytest.mark.parametrize("batch_size", [1, 70, None])
@pytest.mark.long(after=1)
def test_every_pair_once_and_its_share(batch_size):
    predict, (x, labels) = Partial(apply, weights(0)), data(30)
    segments = euclidean_segments(predict, x, labels, num_classes=3, batch_size=batch_size)
    ends = list(zip(segments.first[segments.keep].tolist(), segments.second[segments.keep].tolist(), strict=True))
    same = [(i, j) for i in range(30) for j in range(i) if labels[i] == labels[j] >= 0]
    assert sorted((max(pair), min(pair)) for pair in ends) == sorted(same)
    np.testing.assert_allclose(segments.shares[segments.keep], by_hand(predict, x, labels, segments), atol=1e-6)


def test_equal_logits_go_to_the_first_class():
    """As argmax does."""
    x, labels = jnp.arange(6.0)[:, None], np.array([0, 0, 1, 1, 2, 2])
    score = jaxconvex.euclidean_convexity(lambda h: jnp.zeros((len(h), 3)), x, labels, num_classes=3)
    assert score.per_class.tolist() == [1, 0, 0]
    score = jaxconvex.euclidean_convexity(lambda h: jnp.zeros((len(h), 3)).at[:, 0].set(-1), x, labels, num_classes=3)
    assert score.per_class.tolist() == [0, 1, 0]


@pytest.mark.parametrize("value", [jnp.nan, jnp.inf])
def test_a_point_that_is_not_finite_gives_no_number(value):
    x, labels = data(20)
    labels = np.arange(20) % 2
    score = jax.jit(
        lambda x: jaxconvex.euclidean_convexity(lambda h: jnp.nan_to_num(h), x, labels, num_classes=2).per_class
    )(x.at[4, 0].set(value))
    assert np.isnan(score).tolist() == [True, False]


def test_other_weights_and_other_sizes_compile_nothing():
    before = _segment_shares._cache_size()

    def shares(seed: int, n: int) -> np.ndarray:
        x, labels = data(64)
        labels[n:] = -1
        held = weights(seed)
        found = euclidean_segments(lambda h: apply(held, h), x, labels, num_classes=3, batch_size=110)
        return np.asarray(found.shares[found.keep])

    found = [shares(0, 64), shares(1, 64), shares(0, 63)]
    assert _segment_shares._cache_size() == before + 1
    assert not np.array_equal(found[0], found[1])
    assert len(found[2]) < len(found[0])


MESH = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType
import jaxconvex
from jaxconvex.scores.euclidean import euclidean_segments
draws = np.random.default_rng(0)
x, labels = jnp.asarray(draws.normal(size=(150, 5)), jnp.float32), draws.integers(-1, 4, 150)
hidden, head = (jnp.asarray(draws.normal(size=s), jnp.float32) for s in ((5, 16), (16, 4)))
hidden = jax.device_put(hidden, jax.devices()[0])  # weights that lie on one device
predict = lambda h: jnp.sum(jnp.sum(h[:, :, None] * hidden, 1)[:, :, None] * head, 1)
settings = dict(num_classes=4, batch_size=40)
one = euclidean_segments(predict, x, labels, **settings)
score = jaxconvex.euclidean_convexity(predict, x, labels, **settings)
meshes = [
    jax.make_mesh((8,), ("devices",)),
    jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2),
    jax.make_mesh((3,), ("some",), devices=jax.devices()[:3]),
]
for mesh in meshes:
    many = euclidean_segments(predict, x, labels, mesh=mesh, **settings)
    for field, other in zip(one[:4], many[:4]):
        assert np.array_equal(np.asarray(field)[one.keep], np.asarray(other)[many.keep]), mesh
    for a, b in zip(score, jaxconvex.euclidean_convexity(predict, x, labels, mesh=mesh, **settings)):
        assert np.array_equal(np.asarray(a), np.asarray(b), equal_nan=True), mesh
    with_jit = jax.jit(lambda x: jaxconvex.euclidean_convexity(
        lambda h: jnp.sum(h[:, :, None] * np.eye(5, 4, dtype="f"), 1), x, labels, num_classes=4, max_pairs=None, mesh=mesh
    ).per_class)(np.asarray(x))
    plain = jaxconvex.euclidean_convexity(
        lambda h: jnp.sum(h[:, :, None] * np.eye(5, 4, dtype="f"), 1), x, labels, num_classes=4, max_pairs=None
    ).per_class
    np.testing.assert_allclose(with_jit, plain, rtol=1e-6)
    masked = lambda s: jnp.sum(jnp.sum((s[0] * (s[1] > 0))[:, :, None] * hidden, 1)[:, :, None] * head, 1)
    state = (x, jnp.asarray(draws.integers(0, 2, (150, 5)), bool))
    one_of_two, many_of_two = (euclidean_segments(masked, state, labels, mesh=m, **settings) for m in (None, mesh))
    assert np.array_equal(one_of_two.shares[one_of_two.keep], many_of_two.shares[many_of_two.keep]), mesh
print("equal on", [mesh.size for mesh in meshes])
"""


@pytest.mark.long
def test_a_mesh_finds_the_same_shares():
    root = Path(jaxconvex.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", MESH], capture_output=True, text=True, cwd=root, env=on_devices(), timeout=280
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == "equal on [8, 8, 3]"


# Pytrees of activations -----------------------------------------------------------------------------------------------


def sentences(n: int = 24, tokens: int = 6, features: int = 4) -> tuple:
    draws = np.random.default_rng(1)
    h = jnp.asarray(draws.normal(size=(n, tokens, features)), jnp.float32)
    valid = np.arange(tokens) < draws.integers(1, tokens + 1, n)[:, None]
    return h, valid, draws.integers(0, 3, n)


def over_valid(weights, state):
    h, mask = state["h"], state["mask"] > 0
    mean = jnp.sum(jnp.where(mask[..., None], h, 0), axis=1) / jnp.sum(mask, axis=1, keepdims=True)
    return apply(weights, mean)


def by_hand_masked(h, valid, labels, segments, num_points: int = 10) -> np.ndarray:
    """The share of each segment, where every point between has the tokens valid in either end."""
    found = []
    for i, j in zip(segments.first[segments.keep].tolist(), segments.second[segments.keep].tolist(), strict=True):
        either = valid[i] | valid[j]
        inside = 0
        for t in np.arange(1, num_points + 1) / (num_points + 1):
            mean = (t * h[i] + (1 - t) * h[j])[either].mean(axis=0)
            inside += int(np.argmax(apply(weights(0, 4), mean[None])[0]) == labels[i])
        found.append(inside / num_points)
    return np.array(found)


@pytest.mark.parametrize("kind", [bool, np.int32, np.float32])
@pytest.mark.long(after=1)
def test_every_array_of_a_pytree_is_interpolated(kind):
    h, valid, labels = sentences()
    state = {"h": h, "mask": jnp.asarray(valid.astype(kind))}
    segments = euclidean_segments(Partial(over_valid, weights(0, 4)), state, labels, num_classes=3, batch_size=70)
    expected = by_hand_masked(np.asarray(h), valid, labels, segments)
    np.testing.assert_allclose(segments.shares[segments.keep], expected, atol=1e-6)
    assert len(set(expected.tolist())) > 2
    whole = euclidean_segments(
        Partial(over_valid, weights(0, 4)), state | {"mask": np.ones_like(valid)}, labels, num_classes=3
    )
    assert not np.allclose(whole.shares[whole.keep], expected)  # so the mask matters here


@pytest.mark.long
def test_a_pytree_under_jit_and_vmap():
    h, valid, labels = sentences()
    mask = jnp.asarray(valid, jnp.float32)

    def score(h, scale):
        predict = Partial(over_valid, weights(0, 4))
        return jaxconvex.euclidean_convexity(predict, {"h": h * scale, "mask": mask}, labels, num_classes=3).per_class

    plain = [score(h, scale) for scale in (1.0, 2.0)]
    np.testing.assert_allclose(jax.jit(score)(h, 1.0), plain[0], atol=1e-6)
    np.testing.assert_allclose(jax.vmap(score, (None, 0))(h, jnp.array([1.0, 2.0])), plain, atol=1e-6)


@pytest.mark.parametrize(
    "x", [(), (jnp.zeros((4, 2)), jnp.zeros((5, 2))), {"h": jnp.zeros((4, 2)), "mask": 1.0}, [[0.0], [1.0]]]
)
def test_arrays_that_share_no_first_axis_are_refused(x):
    with pytest.raises(ValueError, match="share their first axis"):
        jaxconvex.euclidean_convexity(lambda x: x, x, np.zeros(4, int), num_classes=1)


def test_which_array_is_not_finite_is_said():
    x = {"h": jnp.zeros((4, 2)), "mask": jnp.full((4, 2), jnp.nan)}
    with pytest.raises(ValueError, match=r"x\['mask'\] must be finite"):
        jaxconvex.euclidean_convexity(lambda x: x["h"], x, np.zeros(4, int), num_classes=1)


def test_narrow_activations_stay_narrow():
    """The rest of the network gets the type it works in, and no copy in float32 is made of all points."""
    x, labels = data(40)
    seen = []

    def predict(h):
        seen.append(h.dtype)
        return apply(weights(0), h.astype(jnp.float32))

    narrow = jaxconvex.euclidean_convexity(predict, x.astype(jnp.bfloat16), labels, num_classes=3)
    wide = jaxconvex.euclidean_convexity(Partial(apply, weights(0)), x, labels, num_classes=3)
    assert seen == [jnp.bfloat16] and narrow.per_class.dtype == jnp.float32
    np.testing.assert_allclose(narrow.per_class, wide.per_class, atol=0.03)
