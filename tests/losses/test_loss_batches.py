"""Balanced batches, and the memory of past activations, against Python's own containers."""

from __future__ import annotations

from collections import deque

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from jaxconvex import graph_convexity_loss
from jaxconvex.losses import balanced_batch, memory, recall, remember

LABELS = np.array([0, 0, 0, 0, 0, 1, 1, 1, 2, 3, 3, 3, 3, -1, -1, -1, 5, 5, 5])  # class 2 has one point, class 4 none
SIZES = {0: 5, 1: 3, 2: 1, 3: 4, 5: 3}


def drawn(num, labels=LABELS, **options):
    options = {"num_classes": 6, "classes": 3, "points": 3, **options}
    keys = jax.random.split(jax.random.key(0), num)
    return np.asarray(jax.jit(jax.vmap(lambda key: balanced_batch(key, labels, **options)))(keys))


def test_a_batch_holds_so_many_points_of_so_many_classes():
    batches = drawn(3000)
    assert batches.shape == (3000, 9)
    chosen, seen = dict.fromkeys(SIZES, 0), np.zeros(len(LABELS), int)
    for batch in batches:
        classes = LABELS[batch].reshape(3, 3)
        assert np.all(classes == classes[:, :1]) and len(set(classes[:, 0].tolist())) == 3
        for indices, label in zip(batch.reshape(3, 3), classes[:, 0].tolist(), strict=True):
            assert len(set(indices.tolist())) == min(3, SIZES[label])
            chosen[label] += 1
        seen += np.bincount(np.unique(batch), minlength=len(LABELS))
    assert not seen[LABELS == -1].any()
    want = 3000 * 3 / 5
    assert all(abs(count - want) < 5 * np.sqrt(3000 * 0.6 * 0.4) for count in chosen.values())
    for label, size in SIZES.items():
        share = min(3, size) / size
        spread = 5 * np.sqrt(chosen[label] * share * (1 - share)) + 1e-9
        assert np.all(np.abs(seen[label == LABELS] - chosen[label] * share) <= spread)


@pytest.mark.long
def test_the_key_alone_decides():
    key = jax.random.key(1)
    options = {"num_classes": 6, "classes": 4, "points": 2}
    eager = balanced_batch(key, LABELS, **options)
    compiled = jax.jit(lambda key, labels: balanced_batch(key, labels, **options))(key, LABELS)
    np.testing.assert_array_equal(eager, compiled)
    assert eager.tolist() != balanced_batch(jax.random.key(2), LABELS, **options).tolist()


def test_too_few_classes_come_again():
    batches = drawn(20, classes=6, points=2)
    for batch in batches:
        counts = np.bincount(LABELS[batch], minlength=6)
        assert counts[4] == 0 and sorted(counts[[0, 1, 2, 3, 5]].tolist()) == [2, 2, 2, 2, 4]
    assert drawn(3, np.array([-1, 2, -1]), points=4).tolist() == [[1] * 12] * 3


def test_errors():
    key = jax.random.key(0)
    for message, labels, options in (
        ("classes must be between 1 and 6 for num_classes=6; got 7", LABELS, {"classes": 7}),
        ("points must be at least 1", LABELS, {"points": 0}),
        ("labels must lie in", LABELS + 1, {}),
        ("labels must be integers", LABELS.astype(float), {}),
    ):
        with pytest.raises(ValueError, match=message):
            balanced_batch(key, labels, **{"num_classes": 6, "classes": 2, "points": 2, **options})
    bank = memory(3, 2)
    for message, x, labels in (
        ("holds 3 points of 2 features; got activations of shape \\(4, 2\\)", np.zeros((4, 2)), np.zeros(4, int)),
        ("got activations of shape \\(2, 3\\)", np.zeros((2, 3)), np.zeros(2, int)),
        ("labels must have one entry a point, shape \\(2,\\); got shape \\(1,\\)", np.zeros((2, 2)), np.zeros(1, int)),
    ):
        with pytest.raises(ValueError, match=message):
            remember(bank, x, labels)
    for wrong in ((0, 2), (2, 0)):
        with pytest.raises(ValueError, match="must be at least 1"):
            memory(*wrong)


@settings(settings.get_profile("fewer"))
@given(st.lists(st.integers(1, 5), min_size=1, max_size=12))
def test_the_memory_is_a_queue(sizes):
    rng = np.random.default_rng(0)
    bank, queue = memory(5, 2), deque(maxlen=5)
    for size in sizes:
        x, labels = rng.normal(size=(size, 2)).astype(np.float32), rng.integers(-1, 9, size)
        bank = remember(bank, jnp.asarray(x), jnp.asarray(labels))
        queue.extend((*point, label) for point, label in zip(x.tolist(), labels.tolist(), strict=True))
        points, found, where = recall(bank, jnp.full((1, 2), 7.0), jnp.array([3]))
        assert found[0] == 3 and points[0].tolist() == [7, 7] and bool(where[0])
        kept = np.asarray(where)[1:]
        rows = np.c_[np.asarray(points)[1:], np.asarray(found)[1:]][kept]
        assert sorted(map(tuple, rows.tolist())) == sorted(queue)


def test_a_full_memory_never_overflows():
    bank = memory(3, 1)
    step = jax.jit(lambda bank, i: (remember(bank, i[None, None], i[None].astype(jnp.int32)), None))
    bank, _ = jax.lax.scan(step, bank, jnp.arange(1000.0))
    assert int(bank.filled) < 6
    assert sorted(bank.labels.tolist()) == [997, 998, 999] and sorted(bank.points[:, 0].tolist()) == [997, 998, 999]


@pytest.mark.long
def test_a_loss_of_what_is_recalled():
    """It is the loss of batch and memory together, empty places left out, and its gradient reaches the batch alone."""
    rng = np.random.default_rng(0)
    old, x = (jnp.asarray(rng.normal(size=(n, 3)), jnp.float32) for n in (6, 8))
    old_labels, labels = (jnp.asarray(rng.integers(0, 2, n)) for n in (6, 8))
    bank = remember(memory(9, 3), old, old_labels)

    def loss(x, old):
        points, classes, where = recall(bank._replace(points=bank.points.at[:6].set(old)), x, labels)
        return graph_convexity_loss(points, classes, k=3, temperature=0.5, where=where)

    value, (slope, none) = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(x, old)
    both, classes = jnp.concatenate([x, old]), jnp.concatenate([labels, old_labels])
    want, whole = jax.jit(jax.value_and_grad(lambda both: graph_convexity_loss(both, classes, k=3, temperature=0.5)))(
        both
    )
    np.testing.assert_allclose(value, want, rtol=1e-5)
    np.testing.assert_allclose(slope, whole[:8], rtol=0, atol=1e-6)
    assert np.abs(slope).max() > 1e-3 and np.all(none == 0)


def test_types_of_the_memory():
    bank = remember(memory(4, 2, dtype=jnp.bfloat16), jnp.full((1, 2), 1.5), jnp.array([1]))
    points, labels, _ = recall(bank, jnp.ones((2, 2), jnp.float16), jnp.array([0, 1], jnp.int16))
    assert bank.points.dtype == jnp.bfloat16 and points.dtype == jnp.float16 and labels.dtype == jnp.int32
    assert points[2].tolist() == [1.5, 1.5]
    through = jax.grad(lambda x: jnp.sum(remember(bank, x, jnp.array([0])).points.astype(jnp.float32)))(
        jnp.ones((1, 2))
    )
    assert np.all(through == 0)
