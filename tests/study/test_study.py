"""The network of the demonstration, and its training."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxconvex.encoders import initialise
from jaxconvex.study import training
from jaxconvex.study.demo import NETWORK
from jaxconvex.study.pretraining import masked_patches
from jaxconvex.study.splits import stratified_split

SMALL = NETWORK | {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64}


@pytest.fixture(scope="module")
def digits():
    data = pytest.importorskip("sklearn.datasets").load_digits()
    return ((data.images - data.images.mean()) / data.images.std()).astype(np.float32)[..., None], data.target


@pytest.fixture(scope="module")
def parts(digits):
    images, labels = (array[::2] for array in digits)
    return [(images[part], labels[part]) for part in stratified_split(labels, jax.random.key(0))]


@pytest.fixture(scope="module")
def model():
    return initialise(SMALL, num_classes=10, rngs=nnx.Rngs(0))


def complete(model, images):
    return masked_patches(
        model, images, jax.random.key(1), mask_share=0.4, num_epochs=8, batch_size=8, learning_rate=1e-2
    )


def probe(model, images, labels):
    return training.probe(model, images, labels, num_classes=10, take="first")


@pytest.fixture(scope="module")
def pretrained(model, parts):
    return complete(model, parts[0][0])


@pytest.fixture(scope="module")
def probed(pretrained, parts):
    return probe(pretrained.model, *parts[0])


@pytest.fixture(scope="module")
def fine_tuned(probed, parts):
    return training.fine_tune(probed, *parts[0], *parts[1], jax.random.key(2), num_epochs=5)


def parameters(model):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(nnx.state(model))]


def same(model, other):
    return all(np.array_equal(a, b) for a, b in zip(parameters(model), parameters(other), strict=True))


# The network


@pytest.mark.long
def test_running_on_from_any_state_gives_the_logits(model, digits):
    images = jnp.asarray(digits[0][:5])
    logits = model(images)
    assert logits.shape == (5, 10)
    for i, state in enumerate(model.hidden_states(images).values()):
        assert state.shape == (5, 17, 32)
        h = state
        for j in range(i, len(model.blocks)):
            h = model.block(j, h)
        np.testing.assert_array_equal(model.head(h), logits)


def test_jit_keeps_the_order_of_the_layers():
    def hidden_states(images):
        return initialise(SMALL | {"num_hidden_layers": 11}, rngs=nnx.Rngs(0)).hidden_states(images)

    states = jax.eval_shape(hidden_states, jnp.zeros((1, 8, 8, 1)))  # flattens and rebuilds as jit does
    assert list(states) == ["embed", *(f"blocks/{i}" for i in range(11))]


@pytest.mark.long
def test_gradients_reach_every_parameter(model, digits):
    graph, state = nnx.split(model)

    def loss(state):
        return training.cross_entropy(nnx.merge(graph, state)(jnp.asarray(digits[0][:8])), jnp.asarray(digits[1][:8]))

    for path, gradient in nnx.to_flat_state(jax.jit(jax.grad(loss))(state)):
        assert np.isfinite(gradient[...]).all() and np.any(gradient[...] != 0), path


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: stratified_split(np.arange(3), jax.random.key(0), fractions=(0.5, 0.2)), "add up to 1"),
        (
            lambda m: masked_patches(m, np.zeros((2, 8, 8, 1)), jax.random.key(0), num_epochs=0),
            "num_epochs",
        ),
        (
            lambda m: probe(m, np.zeros((2, 8, 8, 1)), np.array([1])),
            "labels must have one entry a point",
        ),
        (lambda m: probe(m, np.zeros((2, 8, 8, 1)), np.array([1, 10])), "must lie in 0..9"),
        (lambda m: probe(m, np.zeros((2, 8, 8, 1)), np.array([1, -1])), "Leave those points out"),
        (lambda m: training.predict(m, np.zeros((0, 8, 8, 1))), "the number of inputs must be at least 1"),
    ],
)
def test_wrong_use_is_told(model, call, message):
    with pytest.raises(ValueError, match=message):
        call(model)


# Training


def test_a_split_is_a_partition_and_each_part_has_its_share_of_each_class():
    labels = np.random.default_rng(0).permutation(np.repeat(["a", "b", "c"], [100, 50, 10]))
    parts = stratified_split(labels, jax.random.key(0))
    assert sorted(np.concatenate(parts)) == list(range(160))
    for label, size in zip("abc", (100, 50, 10), strict=True):
        assert [np.sum(labels[part] == label) for part in parts] == [0.6 * size, 0.1 * size, 0.3 * size]
    again, other = (stratified_split(labels, jax.random.key(seed)) for seed in (0, 1))
    assert np.array_equal(parts[2], again[2]) and not np.array_equal(parts[2], other[2])


@pytest.mark.long
def test_pretraining_learns_to_complete_images(pretrained, parts):
    assert pretrained.losses.shape == (8,) and (np.diff(pretrained.losses) < 0).all()
    loss_of_the_mean_image = 2 * parts[0][0].var(axis=0).mean()  # of the masked patches, and of all
    assert pretrained.losses[-1] < 0.65 * loss_of_the_mean_image < loss_of_the_mean_image < pretrained.losses[0]


@pytest.mark.long
def test_fine_tuning_improves_on_the_probe(probed, fine_tuned, parts):
    assert training.accuracy(fine_tuned.model, *parts[2]) > training.accuracy(probed, *parts[2])
    assert fine_tuned.losses[-1] < fine_tuned.losses[0] / 2  # an epoch may rise a little, as rounding has it


@pytest.mark.long
def test_the_model_of_the_best_epoch_is_returned(fine_tuned, parts):
    images, labels = parts[1]
    loss = float(training.cross_entropy(fine_tuned.model(jnp.asarray(images)), jnp.asarray(labels)))
    assert fine_tuned.best_epoch == fine_tuned.validation_losses.argmin()
    assert loss == pytest.approx(fine_tuned.validation_losses.min(), rel=1e-4)


@pytest.mark.long
def test_the_probe_changes_the_classifier_alone_and_returns_a_minimum(pretrained, probed, parts):
    changed = [not np.array_equal(a, b) for a, b in zip(parameters(pretrained.model), parameters(probed), strict=True)]
    assert sum(changed) == 2
    images, labels = (jnp.asarray(array) for array in parts[0])
    features = jnp.asarray(training.features(training.pooled, probed, images))

    scale = features.std(axis=0)

    def objective(head):
        kernel, bias = head
        loss = training.cross_entropy(features @ kernel + bias, labels)
        return loss + 1e-3 / 2 * jnp.sum((scale[:, None] * kernel) ** 2)

    gradient = jax.jit(jax.grad(objective))((probed.head.classifier.kernel[...], probed.head.classifier.bias[...]))
    assert max(float(jnp.abs(part).max()) for part in gradient) < 5e-4


@pytest.mark.long
def test_softmax_regression_knows_no_units_and_takes_constant_features_and_empty_classes():
    x = jax.random.normal(jax.random.key(0), (200, 5)).at[:, 4].set(0)
    y = jnp.argmax(x[:, :3] + jax.random.normal(jax.random.key(1), (200, 3)), axis=1)
    units, offset = jnp.array([1.0, 1e-3, 50.0, 3.0, 0.2]), jnp.arange(5.0)
    logits = []
    for features in (x, x * units + offset):
        kernel, bias = training.softmax_regression(features, y, num_classes=4)
        logits.append((features @ kernel + bias)[:, :3])
        assert np.allclose(kernel[4], 0) and 3 not in (features @ kernel + bias).argmax(axis=1)
    np.testing.assert_allclose(*(z - z.mean(axis=1, keepdims=True) for z in logits), atol=5e-3)


@pytest.mark.long
def test_same_keys_same_numbers_and_the_model_that_went_in_is_unchanged(model, pretrained, probed, fine_tuned, parts):
    again = complete(model, parts[0][0]).model
    assert same(again, pretrained.model)
    assert same(probe(again, *parts[0]), probed)
    tuned, other = (
        training.fine_tune(probed, *parts[0], *parts[1], jax.random.key(seed), num_epochs=5).model for seed in (2, 3)
    )
    assert same(tuned, fine_tuned.model) and not same(other, fine_tuned.model)
    assert same(model, initialise(SMALL, num_classes=10, rngs=nnx.Rngs(0)))


class Normalised(nnx.Module):
    def __init__(self):
        self.normalisation = nnx.BatchNorm(4, use_running_average=True, rngs=nnx.Rngs(0))
        self.linear = nnx.Linear(4, 2, rngs=nnx.Rngs(0))

    def __call__(self, x):
        return self.linear(self.normalisation(x))


@pytest.fixture(scope="module")
def points():
    x = np.random.default_rng(0).normal(size=(101, 4)).astype(np.float32)
    return x, (x[:, 0] > 0).astype(np.int64)


@pytest.mark.long
def test_any_model_is_fine_tuned_and_only_its_parameters(points):
    model = Normalised()
    model.normalisation.mean[...] = jnp.full(4, 0.5)
    result = training.fine_tune(model, *points, *points, jax.random.key(0), num_epochs=20, learning_rate=0.1)
    assert training.accuracy(result.model, *points) > 0.95
    np.testing.assert_array_equal(result.model.normalisation.mean[...], 0.5)


@pytest.mark.long
def test_training_stops_early(points):
    calls = []
    x, y = points
    result = training.fine_tune(
        Normalised(), x, y, x, 1 - y, jax.random.key(0), learning_rate=0.1, num_epochs=20, patience=2,
        progress=lambda *call: calls.append(call),
    )  # fmt: skip
    assert len(result.losses) == result.best_epoch + 3 < 20
    assert calls == [(i + 1, 20, loss) for i, loss in enumerate(result.validation_losses)]


def test_predictions_in_batches_are_those_of_all_at_once(points):
    model = Normalised()
    whole = np.asarray(model(jnp.asarray(points[0])).argmax(axis=1))
    for size in (1, 10, 101, 500):
        np.testing.assert_array_equal(training.predict(model, points[0], batch_size=size), whole)


@pytest.mark.long
def test_the_defaults_train_a_good_network(digits):
    images, labels = digits
    train, validation, test = stratified_split(labels, jax.random.key(3))
    start = initialise(NETWORK, rngs=nnx.Rngs(3))
    pretrained = masked_patches(start, images[train], jax.random.key(4), num_epochs=20, learning_rate=3e-3).model
    untrained, probed = (probe(model, images[train], labels[train]) for model in (start, pretrained))
    tuned = training.fine_tune(
        probed, images[train], labels[train], images[validation], labels[validation], jax.random.key(5)
    ).model
    recalls = [training.accuracy(model, images[test], labels[test]) for model in (untrained, probed, tuned)]
    assert recalls[0] + 0.01 < recalls[1] and recalls[1] > 0.93 and recalls[2] > 0.955, recalls
