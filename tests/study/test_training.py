"""Training of any model, and of encoders: inputs of several arrays, other state, probes, files to go on from."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxconvex import encoders
from jaxconvex.encoders.preprocessing.inputs import Inputs
from jaxconvex.scores.graph import euclidean_convexity
from jaxconvex.study import training
from jaxconvex.study.training import epochs

pytest.importorskip("safetensors")

VIT = {
    "model_type": "vit", "image_size": 8, "patch_size": 4, "hidden_size": 8, "num_hidden_layers": 2,
    "num_attention_heads": 2, "intermediate_size": 16,
}  # fmt: skip
BERT = {
    "model_type": "bert", "vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 16, "max_position_embeddings": 12, "type_vocab_size": 2,
}  # fmt: skip


class Normalised(nnx.Module):
    """A batch norm, dropout and a linear map."""

    def __init__(self, *, training=False):
        self.norm = nnx.BatchNorm(4, use_running_average=True, rngs=nnx.Rngs(0))
        self.dropout = nnx.Dropout(0.1, deterministic=True, rngs=nnx.Rngs(1))
        self.linear = nnx.Linear(4, 2, rngs=nnx.Rngs(0))
        if training:
            self.train()

    def __call__(self, x):
        return self.linear(self.dropout(self.norm(x)))


class Stop(Exception):
    pass


def stop_after(number):
    def progress(done, *_):
        if done == number:
            raise Stop

    return progress


def arrays(model):
    state = nnx.state(model)
    return [
        np.asarray(jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf)
        for leaf in jax.tree.leaves(state)
    ]


@pytest.fixture(scope="module")
def lite():
    return encoders.initialise({"model_type": "efficientnet-lite0"}, rngs=nnx.Rngs(0))


def same(model, other):
    return all(np.array_equal(a, b) for a, b in zip(arrays(model), arrays(other), strict=True))


@pytest.fixture(scope="module")
def points():
    x = np.random.default_rng(0).normal(size=(101, 4)).astype(np.float32) + 1
    return x, (x[:, 0] > 1).astype(np.int64)


@pytest.fixture(scope="module")
def sentences():
    """The class of a sentence is whether token 3 is in it; what stands behind the mask is misleading."""
    random = np.random.default_rng(0)
    ids, mask = random.integers(4, 20, (160, 8)), np.arange(8) < random.integers(3, 8, (160, 1))
    labels = random.integers(0, 2, 160)
    ids[:, 1] = np.where(labels, 3, ids[:, 1])
    ids[:, 7] = np.where(random.integers(0, 2, 160), 3, ids[:, 7])
    return Inputs(ids.astype(np.int32), mask), labels


def tune(model, points, **settings):
    settings = {"num_epochs": 4, "learning_rate": 0.05} | settings
    return training.fine_tune(model, *points, *points, jax.random.key(0), **settings)


# Inputs of several arrays


@pytest.mark.long
def test_an_array_is_a_tuple_of_one(points):
    x, y = points
    one, other = tune(Normalised(), points), training.fine_tune(
        Normalised(), (x,), y, (jnp.asarray(x),), y, jax.random.key(0), num_epochs=4, learning_rate=0.05
    )  # fmt: skip
    assert same(one.model, other.model)


@pytest.mark.long
def test_the_mask_reaches_the_model(sentences):
    inputs, labels = sentences
    encoder = encoders.initialise(BERT, rngs=nnx.Rngs(0))
    probed = training.probe(encoder, inputs, labels, num_classes=2, take="mean")
    behind = np.where(inputs.mask, inputs.inputs, 5)
    logits = training.logits(probed, inputs)
    np.testing.assert_array_equal(training.logits(probed, Inputs(behind, inputs.mask)), logits)
    assert not np.allclose(training.logits(probed, Inputs(behind, None)), logits, atol=1e-3)
    np.testing.assert_allclose(logits, probed(*map(jnp.asarray, inputs)), atol=1e-5)
    tuned = training.fine_tune(
        probed, inputs, labels, inputs, labels, jax.random.key(0), num_epochs=15, patience=15, learning_rate=1e-2
    )
    assert training.accuracy(tuned.model, inputs, labels) > 0.95
    np.testing.assert_array_equal(
        training.logits(tuned.model, Inputs(behind, inputs.mask)), training.logits(tuned.model, inputs)
    )


def test_data_that_stay_on_the_host_give_the_same(points, monkeypatch):
    whole = tune(Normalised(training=True), points)
    monkeypatch.setattr(epochs, "ON_DEVICE", 100)
    parted = tune(Normalised(training=True), points)
    assert same(whole.model, parted.model)


@pytest.mark.parametrize(
    "inputs, message",
    [((np.ones((3, 4)), np.ones(2)), r"got \[2, 3\]"), ((None, None), "no array"), (np.ones((0, 4)), "at least 1")],
)
def test_wrong_inputs_are_told(inputs, message):
    with pytest.raises(ValueError, match=message):
        training.predict(Normalised(), inputs)


# State that is no parameter


@pytest.mark.long
def test_statistics_follow_the_batches_in_train_mode_and_stay_in_eval_mode(points):
    still, moved = tune(Normalised(), points).model, tune(Normalised(training=True), points).model
    np.testing.assert_array_equal(still.norm.mean[...], 0)
    share = 1 - 0.99**12  # the momentum of flax's batch norm, 4 epochs of 3 batches
    np.testing.assert_allclose(moved.norm.mean[...], share * points[0].mean(axis=0), rtol=0.1)
    assert int(moved.dropout.rngs.count[...]) > int(still.dropout.rngs.count[...])


def test_predictions_are_of_eval_mode_and_change_nothing(points):
    model = Normalised(training=True)
    before = arrays(model)
    alone = np.concatenate([training.logits(model, points[0][i : i + 1]) for i in range(5)])
    np.testing.assert_allclose(training.logits(model, points[0])[:5], alone, atol=1e-6)
    assert all(np.array_equal(a, b) for a, b in zip(before, arrays(model), strict=True))
    assert not model.norm.use_running_average


# Files to go on from


@pytest.mark.long(after=1)
@pytest.mark.parametrize("mode", [False, True])
@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_stopped_run_goes_on_to_the_same_bits(points, tmp_path, mode, stop):
    whole = tune(Normalised(training=mode), points)
    file, seen = tmp_path / "folder" / "training", []
    with pytest.raises(Stop):
        tune(Normalised(training=mode), points, checkpoint=file, progress=stop_after(stop))
    again = tune(Normalised(training=mode), points, checkpoint=file, progress=lambda i, *_: seen.append(i))
    assert seen == list(range(stop + 1, 5)) and same(again.model, whole.model) and again.best_epoch == whole.best_epoch
    np.testing.assert_array_equal(again.losses, whole.losses)
    np.testing.assert_array_equal(again.validation_losses, whole.validation_losses)
    finished = tune(Normalised(training=mode), points, checkpoint=file, progress=stop_after(4))  # nothing left to do
    assert same(finished.model, whole.model) and finished.best_epoch == whole.best_epoch


@pytest.mark.long
def test_a_run_stopped_early_stays_stopped(points, tmp_path):
    x, y = points
    calls = []
    for _ in range(2):
        result = training.fine_tune(
            Normalised(), x, y, x, 1 - y, jax.random.key(0), learning_rate=0.1, num_epochs=20, patience=2,
            checkpoint=tmp_path / "training", progress=lambda *call: calls.append(call),
        )  # fmt: skip
    assert len(calls) == len(result.losses) == result.best_epoch + 3 < 20


@pytest.mark.long
def test_files_of_other_calls_and_broken_files_are_not_used(points, tmp_path):
    file = tmp_path / "training"
    whole = tune(Normalised(), points)
    others = [
        lambda: tune(Normalised(), points, checkpoint=file, learning_rate=0.01),
        lambda: tune(Normalised(training=True), points, checkpoint=file),
        lambda: tune(Normalised(), (points[0] + 1, points[1]), checkpoint=file),
        lambda: file.write_bytes(b"no such file"),
        lambda: (tune(Normalised(), points, checkpoint=file), file.write_bytes(file.read_bytes()[:-9])),
    ]
    for other in others:
        other()
        assert same(tune(Normalised(), points, checkpoint=file).model, whole.model)


@pytest.mark.long
def test_a_file_is_told_by_what_the_loss_and_the_validation_compute(points, tmp_path):
    x, y = points
    data = x, y.astype(np.int32)

    def loss(power):
        return lambda model, x, y, key: jnp.mean(jnp.abs(model(x) - jax.nn.one_hot(y, 2)) ** power)

    def trained(power, file=None):
        options = {"num_epochs": 2, "batch_size": 32, "learning_rate": 0.1, "checkpoint": file}
        return training.train(Normalised(), loss(power), data, jax.random.key(0), **options).networks

    file = tmp_path / "training"
    first = trained(1, file)
    assert same(trained(2, file), trained(2)) and not same(trained(2), first)
    for labels in (y, 1 - y):
        found, expected = (
            training.fine_tune(Normalised(), x, y, x, labels, jax.random.key(0), num_epochs=3, checkpoint=where)
            for where in (file, None)
        )
        np.testing.assert_array_equal(found.validation_losses, expected.validation_losses)


def test_the_state_of_a_model_in_a_file(tmp_path):
    model, other = tune_free(0), tune_free(1)
    assert same(training.load_state(other, training.save_state(model, tmp_path / "state")), model)
    assert not same(other, model)
    with pytest.raises(ValueError, match="does not hold the state"):
        training.load_state(nnx.Linear(2, 3, rngs=nnx.Rngs(0)), tmp_path / "state")
    with pytest.raises(ValueError, match="does not hold the state"):
        training.load_state(other, tmp_path / "nothing")


def tune_free(seed):
    """A model whose every array differs with the seed, bfloat16 among them."""
    model = Normalised()
    random = np.random.default_rng(seed)
    for leaf in (model.linear.kernel, model.linear.bias, model.norm.mean, model.norm.var):
        leaf[...] = jnp.asarray(random.normal(size=leaf.shape), leaf.dtype)
    model.half = nnx.Param(jnp.asarray(random.normal(size=3), jnp.bfloat16))
    model.rngs = nnx.Rngs(seed)
    return model


# Probes


@pytest.mark.long
def test_a_classifier_reads_the_normalised_tokens_alone():
    encoder = encoders.initialise(VIT, num_classes=7, rngs=nnx.Rngs(0))
    images = jax.random.normal(jax.random.key(0), (3, 8, 8, 3))
    last = encoder.head.norm(encoder.hidden_states(images)["blocks/1"])
    for take, expected in (("mean", last.mean(axis=1)), ("first", last[:, 0])):
        classified = training.with_classifier(encoder, 3, take=take)
        np.testing.assert_allclose(training.features(training.pooled, classified, images), expected, atol=1e-6)
        assert classified(images).shape == (3, 3) and not np.any(classified(images))
        assert classified.blocks[0].attention.query.kernel[...] is encoder.blocks[0].attention.query.kernel[...]
    assert encoder.head.classifier.out_features == 7  # unchanged


@pytest.mark.long
@pytest.mark.parametrize("depth", [0, 16])
def test_a_classifier_on_maps_of_features(lite, depth):
    encoder = lite.truncate(depth)
    images = jax.random.normal(jax.random.key(0), (2, 16, 16, 3))
    classified = training.with_classifier(encoder, 3, take="mean")
    assert classified(images).shape == (2, 3)
    np.testing.assert_allclose(training.features(training.pooled, classified, images), encoder(images), atol=1e-5)
    with pytest.raises(ValueError, match="no first token"):
        training.with_classifier(encoder, 3, take="first")


@pytest.mark.long
def test_the_probe_of_an_encoder_is_linear_on_pooled_features_and_changes_the_classifier_alone():
    images = jax.random.normal(jax.random.key(0), (150, 8, 8, 3))
    labels = np.asarray(images[..., 0].mean(axis=(1, 2)) > 0).astype(int)
    images = images.at[..., 0].add(labels[:, None, None] - 0.5)
    encoder = encoders.initialise(VIT, rngs=nnx.Rngs(0))
    probed = training.probe(encoder, images, labels, num_classes=2, take="mean")
    features = jnp.asarray(training.features(training.pooled, probed, images))
    predicted = training.predict(probed, images)
    np.testing.assert_array_equal(predicted, np.argmax(probed.head.classifier(features), axis=1))
    assert training.accuracy(probed, images, labels) > 0.8
    score = euclidean_convexity(probed.head.classifier, features, jnp.asarray(predicted), num_classes=2)
    np.testing.assert_array_equal(score.per_class, 1.0)
    probed.head.classifier = None
    assert same(probed, encoder)
