"""Pretraining without labels: masked patches, changes of time."""

from __future__ import annotations

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxconvex import encoders
from jaxconvex.study import training
from jaxconvex.study.pretraining import change_time, cut, masked_patches, movement_tasks, movements

patches_module = importlib.import_module(
    "jaxconvex.study.pretraining.masked_patches"
)  # its name is the function's, too

VIT = {
    "model_type": "vit", "image_size": 12, "patch_size": 4, "hidden_size": 16, "num_hidden_layers": 2,
    "num_attention_heads": 2, "intermediate_size": 32,
}  # fmt: skip
SMALL = {"model_type": "resnet1d", "epoch_len": 5, "layers": [[8, 5, 1, 5, 2, 2], [16, 5, 0, 5, 3, 1]]}


@pytest.fixture(scope="module")
def vit():
    return encoders.initialise(VIT, rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def images():
    """Bars, upright or not, at four places: what is masked can be told from what is seen."""
    random = np.random.default_rng(0)
    place, turned = random.integers(0, 4, 256) * 3, random.integers(0, 2, 256)
    bars = np.stack([np.where((np.arange(12) - p) // 3 == 0, 2.0, -0.5)[None] * np.ones((12, 1)) for p in place])
    bars = np.where(turned[:, None, None], bars.transpose(0, 2, 1), bars)
    return np.repeat(bars[..., None], 3, axis=-1).astype(np.float32), turned


@pytest.fixture(scope="module")
def windows():
    """Saw teeth: they rise slowly and fall fast, so that time has a direction."""
    random = np.random.default_rng(0)
    time = np.arange(100) / random.uniform(15, 25, (128, 1)) + random.uniform(0, 1, (128, 1))
    return np.stack([time % 1, 0.5 * (time % 1), np.ones_like(time)], axis=-1).astype(np.float32)


def leaves(model):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(nnx.state(model))]


def same(model, other):
    return all(np.array_equal(a, b) for a, b in zip(leaves(model), leaves(other), strict=True))


class Stop(Exception):
    pass


def stop(done, *_):
    if done == 2:
        raise Stop


# Masked patches


def complete(vit, images, **settings):
    settings = {"num_epochs": 12, "batch_size": 16, "learning_rate": 5e-3} | settings
    return masked_patches(vit, images[0], jax.random.key(0), **settings)


@pytest.mark.long
def test_completing_images_is_learnt_and_the_encoder_unchanged(vit, images):
    before = leaves(vit)
    result = complete(vit, images)
    assert result.losses.shape == (12,) and result.losses[-1] < 0.5 * result.losses[0]
    assert all(np.array_equal(a, b) for a, b in zip(before, leaves(vit), strict=True))
    assert result.model(jnp.asarray(images[0][:2])).shape == (2, 10, 16)  # no decoder, no classifier
    kinds = training.probe(result.model, *images, num_classes=2, take="first")
    assert training.accuracy(kinds, *images) > 0.95


@pytest.mark.long
def test_masked_patches_are_not_seen(vit, images):
    """The class token's error aside, nothing the network is shown depends on the pixels of a masked patch."""
    rngs = nnx.Rngs(0)
    shown = []

    class Spy:
        embed, head = vit.embed, vit.head

        def hidden_states(self, seen):
            shown.append(seen)
            return vit.hidden_states(seen)

    batch = jnp.asarray(images[0][:8]) + 3  # no pixel is 0
    decoders = nnx.Linear(16, 48, rngs=rngs), nnx.Linear(16, 9 * 48, rngs=rngs)
    patches_module._loss(0.6)((Spy(), *decoders), batch, jax.random.key(0))
    seen, whole = cut(shown[0], 4), cut(batch, 4)
    masked = np.all(np.asarray(seen) == 0, axis=-1)
    assert (masked.sum(axis=1) == 5).all()
    np.testing.assert_array_equal(np.asarray(seen)[~masked], np.asarray(whole)[~masked])


def test_patches_are_in_the_order_of_the_tokens(vit):
    images = jax.random.normal(jax.random.key(0), (2, 12, 12, 3))
    kernel = vit.embed.kernel[...].reshape(-1, 16)
    expected = vit.embed(images)[:, 1:] - vit.embed.positions[...][:, 1:]
    np.testing.assert_allclose(cut(images, 4) @ kernel + vit.embed.bias[...], expected, atol=1e-5)
    np.testing.assert_array_equal(patches_module._join(cut(images, 4), images.shape, 4), images)


@pytest.mark.long
def test_positions_are_drawn_anew_or_kept(vit, images):
    for deviation, least, most in ((1.0, 0.7, 1.4), (None, 0.0, 0.1)):
        encoder = complete(vit, images, num_epochs=1, learning_rate=1e-9, position_deviation=deviation).model
        assert least < float(encoder.embed.positions[...].std()) < most


@pytest.mark.parametrize("share", [0, 1, -0.5])
def test_a_wrong_share_is_told(vit, images, share):
    with pytest.raises(ValueError, match="between 0 and 1"):
        complete(vit, images, mask_share=share)


def test_other_encoders_are_refused(images):
    with pytest.raises(ValueError, match="model_type 'vit'"):
        complete(encoders.initialise(SMALL, rngs=nnx.Rngs(0)), images)


# Changes of time


@pytest.mark.long
def test_each_change_is_made_to_half_of_the_windows_and_told():
    window = jnp.stack([jnp.arange(100.0)] * 3, axis=1)
    changed = jax.vmap(change_time, (None, 0))(window, jax.random.split(jax.random.key(0), 400))
    tasks = np.asarray(changed.tasks)
    np.testing.assert_allclose(tasks.mean(axis=0), 0.5, atol=0.08)
    steps = np.diff(np.asarray(changed.window)[..., 0], axis=1)
    for (is_reversed, is_permuted, is_warped), step in zip(tasks, steps, strict=True):
        inside = np.abs(step) < 4.5  # within a segment; the speed of a warp stays below
        assert (np.sign(np.median(step)) < 0) == is_reversed
        assert is_permuted or inside.all()
        assert is_warped or np.allclose(np.abs(step[np.abs(step) < 1.5]), 1)
        assert (np.std(np.abs(step[inside])) > 0.05) == is_warped or is_permuted


def test_a_permutation_moves_whole_segments():
    seen = set()
    for seed in range(30):
        order = np.asarray(movements._permutation(100, jax.random.key(seed)))
        assert sorted(order) == list(range(100))
        breaks = np.flatnonzero(np.diff(order) != 1)
        assert 1 <= len(breaks) <= 3 and np.diff(np.concatenate([[-1], breaks, [99]])).min() >= movements.SHORTEST
        seen.add(tuple(breaks))
    assert len(seen) == 30


def test_a_warp_grows_from_end_to_end():
    places = np.stack([movements._warp(100, jax.random.key(seed)) for seed in range(20)])
    assert (np.diff(places, axis=1) > 0).all()
    np.testing.assert_allclose(places[:, [0, -1]], [[0, 99]] * 20, atol=1e-4)
    assert np.abs(places - np.arange(100)).max(axis=1).min() > 1


def tell(windows, **settings):
    encoder = encoders.initialise(SMALL, rngs=nnx.Rngs(0))
    return encoder, movement_tasks(
        encoder, windows, jax.random.key(0), **({"num_epochs": 15, "batch_size": 16, "learning_rate": 3e-3} | settings)
    )


@pytest.mark.long
def test_the_changes_are_learnt_with_the_statistics(windows):
    encoder, result = tell(windows)
    assert result.losses[-1] < 0.62 < 0.65 < result.losses[0]
    norms = [
        [m for _, m in nnx.iter_modules(model) if isinstance(m, nnx.BatchNorm)] for model in (encoder, result.model)
    ]
    assert all(norm.use_running_average for norm in norms[0] + norms[1])
    assert all(not np.any(norm.mean[...]) for norm in norms[0]) and all(np.any(norm.mean[...]) for norm in norms[1])


def test_windows_too_short_are_told(windows):
    with pytest.raises(ValueError, match="at least 80 samples"):
        tell(windows[:, :79])


# Both


@pytest.mark.long
@pytest.mark.parametrize("kind", ["patches", "movements"])
def test_a_stopped_run_goes_on_to_the_same_bits(vit, images, windows, tmp_path, kind):
    def run(**settings):
        if kind == "patches":
            return complete(vit, (images[0][:64],), num_epochs=3, **settings)
        return tell(windows[:48], num_epochs=3, **settings)[1]

    whole = run()
    with pytest.raises(Stop):
        run(checkpoint=tmp_path / "file", progress=stop)
    again = run(checkpoint=tmp_path / "file")
    assert same(again.model, whole.model)
    np.testing.assert_array_equal(again.losses, whole.losses)
