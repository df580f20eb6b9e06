"""The 1-D ResNet of ssl-wearables beside a torch version written from its paper."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
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

import jaxconvex
from jaxconvex import encoders
from jaxconvex.encoders.resnet1d import FAMILIES, Downsample

LAYERS = [[6, 5, 1, 3, 2, 2], [8, 3, 2, 5, 3, 1], [10, 5, 0, 5, 4, 0]]  # every order, 24 samples to one
TINY = {"model_type": "resnet1d", "layers": LAYERS}


def torch_folder(folder, layers=LAYERS, seed=0, config=TINY, scale=0.3):
    """A torch network with random parameters and statistics, and the folder of its tensors."""
    pytest.importorskip("torch")
    from safetensors.torch import save_file
    from torch_convolutions import HarNet

    model = HarNet(layers)
    filters = {name: tensor.clone() for name, tensor in model.named_buffers() if name.endswith("kernel")}
    randomise(model, seed, scale).load_state_dict(filters, strict=False)
    folder.mkdir(exist_ok=True)
    save_file(model.state_dict(), folder / "model.safetensors")
    if config:
        (folder / "config.json").write_text(json.dumps(config))
    return model


def run_torch(model, signals):
    import torch

    with torch.no_grad():
        return model(torch.tensor(np.asarray(signals).transpose(0, 2, 1)))


def windows(count, samples, seed=0):
    return np.random.default_rng(seed).normal(size=(count, samples, 3)).astype(np.float32)


@pytest.mark.parametrize("samples", [24, 25, 59])
def test_states_and_logits_are_those_of_torch(samples, tmp_path):
    model = torch_folder(tmp_path)
    encoder, _ = encoders.load(tmp_path)
    signals = windows(2, samples)
    states, logits = run_torch(model, signals)
    assert_states_close(encoder.hidden_states(signals), states)
    assert_close(encoder(signals), logits, "logits")


@pytest.mark.long(after=1)
@pytest.mark.parametrize("seconds", [5, 10, 30])
def test_the_published_networks_without_config(seconds, tmp_path):
    pytest.importorskip("torch")
    from torch_convolutions import HARNET

    model = torch_folder(tmp_path, HARNET[seconds], config=None, scale=0.06)
    encoder, preprocess = encoders.load(tmp_path, family="resnet1d")
    assert encoder.config["epoch_len"] == seconds  # told by the filters of the checkpoint
    signals = windows(1, 30 * seconds)
    prepared, mask = preprocess(signals)
    assert mask is None
    np.testing.assert_array_equal(prepared, signals)
    states, logits = run_torch(model, signals)
    assert_states_close(encoder.hidden_states(signals), states)
    assert_close(encoder(signals), logits, "logits")
    assert all(state.std() > 0.05 for state in states)
    assert states[-1].shape == (1, 1, HARNET[seconds][-1][0])


def test_what_is_saved_is_a_whole_state_of_torch(tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file

    model = torch_folder(tmp_path)
    encoder, _ = encoders.load(tmp_path)
    encoders.save(encoder, tmp_path / "saved")
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.zero_()
    model.load_state_dict(load_file(tmp_path / "saved" / "model.safetensors"), strict=False)
    signals = windows(2, 24)
    assert_close(encoder(signals), run_torch(model, signals)[1])
    lacking = set(model.state_dict()) - set(load_file(tmp_path / "saved" / "model.safetensors"))
    assert all(name.endswith("num_batches_tracked") for name in lacking)


def test_checkpoints_of_pretraining(tmp_path):
    """As published: names of torch's data parallelism, and the heads of the self-supervised tasks."""
    from safetensors.numpy import load_file, save_file

    model = torch_folder(tmp_path)
    tensors = {
        f"module.{name}": tensor
        for name, tensor in load_file(tmp_path / "model.safetensors").items()
        if not name.startswith("classifier.")
    }
    for task in ("aot_h", "scale_h", "permute_h", "time_w_h"):
        tensors[f"module.{task}.linear1.weight"] = np.ones((2, 10), np.float32)
        tensors[f"module.{task}.linear1.bias"] = np.ones(2, np.float32)
    save_file(tensors, tmp_path / "model.safetensors")
    signals = windows(2, 24)
    states, _ = run_torch(model, signals)
    encoder, _ = encoders.load(tmp_path)
    assert_close(encoder(signals), states[-1].mean(1))
    tuned, _ = encoders.load(tmp_path, num_classes=7)
    assert tuned(signals).shape == (2, 7)
    assert tuned.head.dense.kernel.shape == (10, 512)
    assert_saves(tuned, tmp_path / "tuned", lambda encoder: encoder(signals))


def test_pickles_are_refused_with_the_command(tmp_path):
    torch = pytest.importorskip("torch")
    import subprocess
    import sys

    model = torch_folder(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save({f"module.{name}": tensor for name, tensor in model.state_dict().items()}, tmp_path / "mtl_best.mdl")
    with pytest.raises(ValueError, match=r"mtl_best\.mdl") as error:
        encoders.load(tmp_path)
    command = str(error.value).split("python -c ")[1].strip().strip('"')
    subprocess.run([sys.executable, "-c", command], check=True)
    encoder, _ = encoders.load(tmp_path)
    signals = windows(2, 24)
    assert_close(encoder(signals), run_torch(model, signals)[1])


@pytest.mark.long
def test_behaviour(tmp_path):
    torch_folder(tmp_path)
    encoder, _ = encoders.load(tmp_path, num_classes=3)
    signals = jnp.asarray(windows(4, 48))
    states = encoder.hidden_states(signals)
    assert encoder.sequence_mask(signals) is None
    assert_chains(encoder, states, signals, same_head=False)
    assert_transforms(encoder, states, signals)
    assert_trains(encoder, jnp.arange(4) % 3, signals)
    narrow, _ = encoders.load(tmp_path, num_classes=3, dtype=jnp.bfloat16)
    assert narrow(signals).dtype == jnp.bfloat16  # whatever the signal's type
    assert_near_in_bfloat16(narrow, states, signals.astype(jnp.bfloat16))


@pytest.mark.long
def test_truncated_networks_get_a_head_of_their_own(tmp_path):
    encoder = encoders.initialise(TINY, num_classes=5, rngs=nnx.Rngs(0))
    signals = jnp.asarray(windows(2, 48))
    states = encoder.hidden_states(signals)
    shorter = assert_saves(encoder.truncate(2), tmp_path / "shorter", lambda encoder: encoder(signals))
    assert_close(shorter(signals), states["blocks/1"].mean(axis=1))
    tuned, _ = encoders.load(tmp_path / "shorter", num_classes=10)
    assert_close(tuned(signals), tuned.head.classifier(states["blocks/1"].mean(axis=1)))
    again = assert_saves(tuned, tmp_path / "tuned", lambda encoder: encoder(signals))
    assert again(signals).shape == (2, 10)
    assert_close(encoder.truncate(0)(signals), signals.mean(axis=1))


@pytest.mark.long
def test_training_from_random_weights():
    """Four kinds of movement, told apart after some steps; the statistics of the batches are what evaluation then uses."""
    encoder = encoders.initialise(TINY, num_classes=4, rngs=nnx.Rngs(0))
    time = np.arange(48)[:, None] + 8 * np.random.default_rng(0).random((64, 1, 3))
    labels = np.arange(64) % 4
    signals = jnp.asarray(np.sin(time * (0.2 + 0.4 * labels[:, None, None])), jnp.float32)
    before = encoder.blocks[0].parts[1].norm1.mean[...]
    encoder.train()
    optimiser = nnx.Optimizer(encoder, optax.adam(3e-3), wrt=nnx.Param)

    @nnx.jit
    def step(encoder, optimiser):
        def loss(encoder):
            return optax.softmax_cross_entropy_with_integer_labels(encoder(signals), labels).mean()

        value, gradient = nnx.value_and_grad(loss)(encoder)
        optimiser.update(encoder, gradient)
        return value

    losses = [float(step(encoder, optimiser)) for _ in range(40)]
    encoder.eval()
    assert losses[-1] < 0.2 * losses[0], losses
    assert jnp.abs(encoder.blocks[0].parts[1].norm1.mean[...] - before).max() > 1e-3
    assert (encoder(signals).argmax(axis=1) == labels).mean() > 0.9
    assert_close(encoder(signals[:1]), encoder(signals)[:1])  # a point no longer sees its batch


@pytest.mark.long
def test_random_weights_keep_the_scale_of_the_signal():
    encoder = encoders.initialise({"model_type": "resnet1d"}, num_classes=4, rngs=nnx.Rngs(0))
    states = nnx.jit(lambda encoder, signals: encoder.hidden_states(signals))(encoder, windows(2, 300))
    assert {name: state.shape[1:] for name, state in states.items()} == {
        "embed": (300, 3),
        "blocks/0": (150, 64),
        "blocks/1": (75, 128),
        "blocks/2": (15, 256),
        "blocks/3": (3, 512),
        "blocks/4": (1, 1024),
    }
    assert all(0.05 < float(state.std()) < 5 for state in states.values())


def test_training_mode_is_that_of_torch(tmp_path):
    model = torch_folder(tmp_path)
    encoder, _ = encoders.load(tmp_path)
    signals = jnp.asarray(windows(6, 48))
    view = nnx.view(encoder, use_running_average=False)
    logits = view(signals)
    model.train()
    assert_close(logits, run_torch(model, signals)[1], "logits in training", tolerance=1e-4)
    running = model.feature_extractor.layer1[1].bn1.running_mean
    assert_close(encoder.blocks[0].parts[1].norm1.mean[...], running, "running mean", tolerance=1e-4)


@pytest.mark.long
def test_downsampling_keeps_what_does_not_change():
    """The filter sums to one; beside zeros at the ends, the mean of `factor` samples."""
    constant = jnp.ones((1, 30, 2))
    for factor, order in [(2, 2), (3, 1), (5, 1), (4, 0)]:
        down = Downsample(2, factor, order)(constant)
        assert down.shape == (1, 30 // factor, 2)
        np.testing.assert_allclose(down[:, 1:-1], 1, rtol=1e-6)
    np.testing.assert_allclose(Downsample(1, 3, 0)(jnp.arange(6.0)[None, :, None])[0, :, 0], [1, 4], rtol=1e-6)
    with pytest.raises(ValueError, match="even"):
        Downsample(2, 2, 1)


def test_errors(tmp_path):
    encoder = encoders.initialise(TINY, num_classes=2, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"\(b, time, 3\).*transpose"):
        encoder(jnp.zeros((1, 3, 48)))
    with pytest.raises(ValueError, match=r"\(b, time, 3\); got \(1, 48, 6\)"):
        encoder(jnp.zeros((1, 48, 6)))
    with pytest.raises(ValueError, match="at least 24 samples"):
        encoder(jnp.zeros((1, 23, 3)))
    with pytest.raises(ValueError, match="no mask"):
        encoder(jnp.zeros((1, 48, 3)), jnp.ones((1, 48), bool))
    with pytest.raises(ValueError, match=r"5, 10, 30 s \(epoch_len\); got 7"):
        encoders.initialise({"model_type": "resnet1d", "epoch_len": 7}, rngs=nnx.Rngs(0))
    shapes = {"feature_extractor.layer1.5.kernel": (64, 1, 5)}
    assert FAMILIES["resnet1d"].build({}, shapes, None, nnx.Rngs(0)).config["epoch_len"] == 10  # not all filters there
    torch_folder(tmp_path, [[*row[:4], 3, 1] for row in LAYERS])
    with pytest.raises(ValueError, match=r"layer1\.4\.kernel: expected \(6, 1, 4\), got \(6, 1, 5\)"):
        encoders.load(tmp_path)


@pytest.mark.long
def test_the_layers_that_are_read_are_the_five_of_the_paper():
    encoder = encoders.initialise(TINY, num_classes=2, rngs=nnx.Rngs(0))
    signals = jnp.asarray(windows(2, 24))
    _, layers = jaxconvex.from_nnx(encoder)(signals)
    states = encoder.hidden_states(signals)
    assert list(layers) == [*states, "head"]
    for name, state in states.items():
        assert_close(layers[name], state, name)


def test_gradients_reach_the_signal():
    encoder = encoders.initialise(TINY, num_classes=2, rngs=nnx.Rngs(0))
    gradient = jax.jit(jax.grad(lambda signals: encoder(signals).sum()))(jnp.asarray(windows(1, 24)))
    assert jnp.isfinite(gradient).all()
    assert (jnp.abs(gradient).max(axis=(0, 2)) > 0).all()  # of every sample
