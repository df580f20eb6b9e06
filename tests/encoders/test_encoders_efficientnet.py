"""EfficientNet-lite0 beside a torch version written from its paper, and on pictures whose class is plain."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from parity import (
    assert_chains,
    assert_close,
    assert_near_in_bfloat16,
    assert_saves,
    assert_states_close,
    assert_trains,
    assert_transforms,
    randomise,
)

from jaxconvex import encoders
from jaxconvex.encoders.convolutions import _grouped, _shifted, depthwise

# Both sizes of squares, both strides, a block that adds, growth 1 and more.
TINY = {
    "model_type": "efficientnet-lite0",
    "stem_width": 6,
    "stages": [[1, 3, 1, 1, 4], [2, 3, 2, 3, 5], [2, 5, 2, 2, 7]],
    "head_width": 12,
}


def torch_folder(folder, seed=0, scale=0.3, **config):
    """A torch network with random parameters and statistics, and the folder of its tensors."""
    pytest.importorskip("torch")
    from safetensors.torch import save_file
    from torch_convolutions import EfficientNetLite

    sizes = (
        {"stem": config["stem_width"], "stages": config["stages"], "head": config["head_width"], "classes": 5}
        if config
        else {}
    )
    model = randomise(EfficientNetLite(**sizes), seed, scale)
    save_file(model.state_dict(), folder / "model.safetensors")
    if config:
        (folder / "config.json").write_text(json.dumps(config))
    return model


def run_torch(model, images):
    import torch

    with torch.no_grad():
        return model(torch.tensor(np.asarray(images).transpose(0, 3, 1, 2)))


def pictures(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=(*shape, 3)).astype(np.float32)


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (22, 17), (3, 1)], ids=str)
def test_states_and_logits_are_those_of_torch(size, tmp_path):
    model = torch_folder(tmp_path, **TINY)
    encoder, _ = encoders.load(tmp_path)
    images = pictures(2, *size)
    states, logits = run_torch(model, images)
    assert_states_close(encoder.hidden_states(images), states)
    assert_close(encoder(images), logits, "logits")


def test_the_whole_network_without_config(tmp_path):
    model = torch_folder(tmp_path, seed=1, scale=0.1)  # with larger ones rounding doubles a block, in torch too
    encoder, preprocess = encoders.load(tmp_path, family="efficientnet-lite0")
    assert len(encoder.blocks) == 16
    images = pictures(1, 45, 64)
    states, logits = run_torch(model, images)
    ours, ours_last = nnx.jit(lambda encoder, images: (encoder.hidden_states(images), encoder(images)))(encoder, images)
    assert_states_close(dict(sorted(ours.items(), key=lambda item: _depth(item[0]))), states)
    assert_close(ours_last, logits, "logits")
    assert preprocess([np.zeros((50, 70, 3), np.uint8)]).inputs.shape == (1, 224, 224, 3)


def _depth(name):
    return -1 if name == "embed" else int(name.removeprefix("blocks/"))


@pytest.mark.long(after=1)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize("pixels", [(8, 9), (1, 2), (15, 4)])
def test_the_two_forms_of_depthwise_convolution_agree(pixels, size, stride):
    h = jax.random.normal(jax.random.key(0), (2, *pixels, 3))
    kernel = jax.random.normal(jax.random.key(1), (size, size, 1, 3))
    wanted = _grouped(h, kernel, stride)
    assert_close(_shifted(h, kernel, stride), wanted)
    assert_close(depthwise(h, kernel, stride=stride), wanted)


@pytest.mark.long
def test_behaviour(tmp_path):
    torch_folder(tmp_path, **TINY)
    encoder, _ = encoders.load(tmp_path, num_classes=3)
    images = jnp.asarray(pictures(4, 24, 20))
    states = encoder.hidden_states(images)
    assert encoder.sequence_mask(images) is None
    assert_chains(encoder, states, images, same_head=False)
    assert_transforms(encoder, states, images)
    assert_trains(encoder, jnp.arange(4) % 3, images)
    assert_near_in_bfloat16(encoders.load(tmp_path, dtype=jnp.bfloat16)[0], states, images)
    assert_saves(encoder, tmp_path / "again", lambda encoder: encoder(images))


@pytest.mark.long
def test_truncated_networks_get_a_head_of_their_own(tmp_path):
    encoder = encoders.initialise(TINY, num_classes=5, rngs=nnx.Rngs(0))
    images = jnp.asarray(pictures(2, 24, 20))
    states = encoder.hidden_states(images)
    assert encoder.truncate(5).head.classifier is not None  # nothing was cut off
    shorter = assert_saves(encoder.truncate(2), tmp_path / "shorter", lambda encoder: encoder(images))
    assert len(shorter.blocks) == 2
    assert_close(shorter(images), states["blocks/1"].mean(axis=(1, 2)))
    tuned, _ = encoders.load(tmp_path / "shorter", num_classes=10)
    assert tuned(images).shape == (2, 10)
    assert_close(tuned(images), tuned.head.classifier(states["blocks/1"].mean(axis=(1, 2))))
    again = assert_saves(tuned, tmp_path / "tuned", lambda encoder: encoder(images))
    assert again(images).shape == (2, 10)
    assert again.truncate(0)(images).shape == (2, TINY["stem_width"])


@pytest.mark.long
def test_without_a_classifier_the_features_come_out(tmp_path):
    encoder = encoders.initialise(TINY, rngs=nnx.Rngs(0))
    images = jnp.asarray(pictures(2, 24, 20))
    assert encoder(images).shape == (2, 12)
    again = assert_saves(encoder, tmp_path, lambda encoder: encoder(images))
    last = again.hidden_states(images)["blocks/4"]
    np.testing.assert_array_equal(again.head.pooled(last), again(images))


def test_training_uses_and_updates_the_statistics_of_the_batch(tmp_path):
    model = torch_folder(tmp_path, **TINY)
    encoder, _ = encoders.load(tmp_path)
    images = jnp.asarray(pictures(4, 24, 20))
    fixed = encoder(images)
    view = nnx.view(encoder, use_running_average=False)
    logits = view(images)
    model.train()
    _, theirs = run_torch(model, images)
    assert_close(logits, theirs, "logits in training", tolerance=1e-4)
    for ours, running in ((encoder.embed.norm, model._bn0), (encoder.head.norm, model._bn1)):
        assert_close(ours.mean[...], running.running_mean, "running mean", tolerance=1e-4)
    assert jnp.abs(encoder(images) - fixed).max() > 1e-4  # evaluation still, with the new statistics


@pytest.mark.long
def test_errors(tmp_path):
    encoder = encoders.initialise(TINY, num_classes=2, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"\(b, height, width, 3\).*transpose"):
        encoder(jnp.zeros((1, 3, 24, 20)))
    with pytest.raises(ValueError, match=r"\(b, height, width, 3\); got \(1, 24, 20, 1\)"):
        encoder(jnp.zeros((1, 24, 20, 1)))
    with pytest.raises(ValueError, match="no mask"):
        encoder(jnp.zeros((1, 24, 20, 3)), jnp.ones((1, 24), bool))
    with pytest.raises(ValueError, match="0 to 4"):
        encoder.block(5, jnp.zeros((1, 3, 3, 7)))
    encoders.save(encoder, tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(ValueError, match=r"missing: _blocks.5.*_bn1.bias: expected \(32,\), got \(6,\)"):
        encoders.load(tmp_path, family="efficientnet-lite0")


# ImageNet's numbers of the classes that one may see in each picture.
PLAIN = {
    "skimage/data/chelsea.png": {281, 282, 285},  # tabby, tiger cat, Egyptian cat
    "skimage/data/coffee.png": {967},  # espresso
    "skimage/data/camera.png": {872},  # tripod
    "skimage/data/motorcycle_left.png": {665, 670},  # moped, motor scooter
    "skimage/data/rocket.jpg": {657, 744},  # missile, projectile
    "sklearn/datasets/images/china.jpg": {698},  # palace
    "sklearn/datasets/images/flower.jpg": {985},  # daisy
}


@pytest.fixture(scope="module")
def classify(data):
    folder = data / "models" / "efficientnet-lite0"
    if not folder.is_dir():
        pytest.skip("JAXCONVEX_DATA has no models/efficientnet-lite0 (model.safetensors)")
    encoder, preprocess = encoders.load(folder, family="efficientnet-lite0")
    run = nnx.jit(lambda encoder, images: encoder(images))
    return lambda picture: run(encoder, *preprocess([picture])[:1])


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.long
def test_real_weights_see_what_is_in_real_pictures(name, classify):
    package, _, inside = name.partition("/")
    picture = Path(pytest.importorskip(package).__file__).parent / inside
    if not picture.is_file():
        pytest.skip(f"this version of {package} does not bring {inside}")
    logits = classify(picture)
    assert logits.shape == (1, 1000)
    assert int(logits[0].argmax()) in PLAIN[name]
