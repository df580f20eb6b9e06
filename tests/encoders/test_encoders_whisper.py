"""The encoder of Whisper: parity with transformers, real weights on real speech, and what every encoder must do."""

from __future__ import annotations

import json

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from parity import assert_behaves, assert_close, assert_saves, assert_states_close, randomise, saved

from jaxconvex import encoders
from jaxconvex.encoders.whisper import FAMILIES, sinusoids

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


def torch_model(task="WhisperForAudioClassification", seed=0, **options):
    rng = np.random.default_rng(seed)
    heads = int(rng.integers(1, 4))
    config = transformers.WhisperConfig(
        **{
            "num_mel_bins": int(rng.integers(3, 9)),
            "d_model": heads * 8,
            "encoder_layers": 2,
            "encoder_attention_heads": heads,
            "encoder_ffn_dim": int(rng.integers(5, 20)),
            "decoder_layers": 1,
            "decoder_attention_heads": heads,
            "decoder_ffn_dim": 8,
            "vocab_size": 20,
            "pad_token_id": 0,
            "bos_token_id": 0,
            "eos_token_id": 0,
            "decoder_start_token_id": 0,
            "max_source_positions": 11 + seed,
            "num_labels": 5,
            "classifier_proj_size": 6,
            "activation_function": ["gelu", "relu"][seed],
            **options,
        }
    )
    return randomise(getattr(transformers, task)(config), seed)


def log_mels(config, frames=None, seed=0):
    frames = 2 * config.max_source_positions if frames is None else frames
    return np.random.default_rng(seed).normal(size=(3, frames, config.num_mel_bins)).astype(np.float32)


def run_torch(model, mels, **options):
    with torch.no_grad():
        return model(torch.tensor(mels.swapaxes(1, 2)), **options)


@nnx.jit
def states_and_output(encoder, inputs, mask=None):
    return encoder.hidden_states(inputs, mask), encoder(inputs, mask)


@pytest.mark.parametrize("seed", [0, 1])
def test_every_state_and_the_logits_are_those_of_torch(seed, tmp_path):
    model = torch_model(seed=seed)
    encoder, _ = encoders.load(saved(model, tmp_path / "theirs"))
    mels = log_mels(model.config)
    body = run_torch(model.encoder, mels, output_hidden_states=True)
    states, logits = states_and_output(encoder, mels)
    # torch's last state has been normalised; ours is the output of the last block.
    last = list(states)[-1]
    assert_states_close(states | {last: encoder.head.normalised(states[last])}, body.hidden_states)
    with torch.no_grad():
        assert_close(states[last], model.encoder.layers[-1](body.hidden_states[-2], None), last)
    assert_close(logits, run_torch(model, mels).logits, "logits")

    assert_saves(encoder, tmp_path / "ours", lambda encoder: states_and_output(encoder, mels)[1])
    again = type(model).from_pretrained(tmp_path / "ours").eval()
    assert_close(run_torch(again, mels).logits, run_torch(model, mels).logits, tolerance=1e-6)


@pytest.mark.parametrize("task", ["WhisperModel", "WhisperForConditionalGeneration"])
def test_the_encoder_of_a_whole_whisper(task, tmp_path):
    model = torch_model(task)
    encoder, _ = encoders.load(saved(model, tmp_path / "theirs"))
    mels = log_mels(model.config)
    theirs = run_torch(model.get_encoder(), mels).last_hidden_state
    assert_close(encoder(mels), theirs)
    encoders.save(encoder, tmp_path / "ours")
    again = transformers.WhisperModel.from_pretrained(tmp_path / "ours").get_encoder().eval()
    assert_close(run_torch(again, mels).last_hidden_state, theirs, tolerance=1e-6)


@pytest.mark.parametrize("frames", [1, 8, 13])
def test_fewer_frames_take_the_first_positions(frames, tmp_path):
    model = torch_model()
    encoder, _ = encoders.load(saved(model, tmp_path))
    mels = log_mels(model.config, frames)
    body = model.encoder
    with torch.no_grad():
        h = torch.nn.functional.gelu(body.conv1(torch.tensor(mels.swapaxes(1, 2))))
        h = torch.nn.functional.gelu(body.conv2(h)).swapaxes(1, 2)
        h = h + body.embed_positions.weight[: h.shape[1]]
    assert_close(encoder.embed(mels), h, "embed")
    if frames % 2 == 0:  # and torch itself, with the same weights in a model of so few positions
        shorter = torch_model(max_source_positions=frames // 2)
        weights = model.state_dict()
        weights["encoder.embed_positions.weight"] = weights["encoder.embed_positions.weight"][: frames // 2]
        shorter.load_state_dict(weights)
        assert_close(encoder(mels), run_torch(shorter, mels).logits)


def test_with_a_mask_only_valid_frames_are_attended_to(tmp_path):
    model = torch_model()
    encoder, _ = encoders.load(saved(model, tmp_path))
    mels = log_mels(model.config)
    lengths = np.array([mels.shape[1], 9, 0])
    mask = np.arange(mels.shape[1]) < lengths[:, None]
    tokens = np.asarray(encoder.sequence_mask(mels, mask))
    assert tokens.sum(axis=1).tolist() == [(mels.shape[1] + 1) // 2, 5, 1]
    states, logits = states_and_output(encoder, mels, mask)
    barred = torch.where(torch.tensor(tokens), 0.0, -torch.inf)[:, None, None]
    with torch.no_grad():
        h = run_torch(model.encoder, mels, output_hidden_states=True).hidden_states[0]
        for layer, state in zip(model.encoder.layers, list(states.values())[1:], strict=True):
            h = layer(h, barred.expand(-1, 1, h.shape[1], -1))
            assert_close(state, h, where=tokens)
        projected = model.projector(model.encoder.layer_norm(h)).numpy() * tokens[..., None]
        mean = torch.tensor(projected.sum(axis=1) / tokens.sum(axis=1, keepdims=True)).float()
        assert_close(logits, model.classifier(mean), "logits")


def test_it_does_what_every_encoder_must(tmp_path):
    model = torch_model()
    mels = jnp.asarray(log_mels(model.config, 15))
    mask = jnp.arange(15) < jnp.array([[15], [8], [3]])
    assert_behaves(saved(model, tmp_path), mels, mask)


def test_a_new_encoder_has_the_original_positions_and_documented_sizes():
    theirs = transformers.WhisperConfig().to_dict()
    ours = FAMILIES["whisper"].config
    assert {key: theirs[key] for key in ours} == ours
    config = transformers.WhisperConfig(
        max_source_positions=30, d_model=12, encoder_attention_heads=2, encoder_layers=0
    )
    positions = transformers.models.whisper.modeling_whisper.WhisperEncoder(config).embed_positions.weight
    np.testing.assert_allclose(sinusoids(30, 12), positions.detach().numpy(), atol=1e-5)


def test_a_classifier_of_all_states_is_refused_unless_a_new_one_is_asked_for(tmp_path):
    saved(torch_model(use_weighted_layer_sum=True), tmp_path)
    with pytest.raises(ValueError, match=r"weighted sum.*num_classes="):
        encoders.load(tmp_path)
    encoder, _ = encoders.load(tmp_path, num_classes=2)
    assert encoder.config["use_weighted_layer_sum"] is False


def test_a_truncated_encoder_says_its_depth_as_whisper_does(tmp_path):
    model = torch_model()
    encoder, _ = encoders.load(saved(model, tmp_path / "theirs"))
    encoders.save(encoder.truncate(1), tmp_path / "ours")
    assert json.loads((tmp_path / "ours" / "config.json").read_text())["encoder_layers"] == 1
    again = type(model).from_pretrained(tmp_path / "ours").eval()
    mels = log_mels(model.config)
    assert_close(encoder.truncate(1)(mels), run_torch(again, mels).logits)


@pytest.mark.parametrize("shape", [(2, 24, 7), (2, 7, 22), (22, 7)])
def test_inputs_that_are_no_log_mels_are_refused(shape, tmp_path):
    encoder, _ = encoders.load(saved(torch_model(num_mel_bins=7), tmp_path))
    with pytest.raises(ValueError, match=r"shape \(b, frames <= 22, 7\)") as raised:
        encoder.hidden_states(np.zeros(shape, np.float32))
    assert ("swapaxes" in str(raised.value)) == (shape == (2, 7, 22))


def test_whisper_tiny_on_real_speech(data):
    soundfile = pytest.importorskip("soundfile")
    folder = data / "models" / "whisper-tiny-encoder"
    if not folder.is_dir():
        pytest.skip("put the encoder of openai/whisper-tiny into models/whisper-tiny-encoder of JAXCONVEX_DATA")
    recordings = next((f for f in (data / "data/fsdd/recordings", data / "fsdd/recordings") if f.is_dir()), None)
    if recordings is None:
        pytest.skip("needs fsdd/recordings of the Free Spoken Digit Dataset in JAXCONVEX_DATA")
    paths = [recordings / f"{digit}_jackson_0.wav" for digit in (3, 8)]
    sounds = [soundfile.read(path, dtype="float32") for path in paths]
    slow = [np.interp(np.arange(0, len(wave), rate / 16000), np.arange(len(wave)), wave) for wave, rate in sounds]
    features = transformers.WhisperFeatureExtractor()(slow, sampling_rate=16000, return_tensors="np")["input_features"]

    encoder, _ = encoders.load(folder)
    states, output = states_and_output(encoder, features.swapaxes(1, 2))
    from safetensors.torch import load_file

    config = transformers.WhisperConfig(**json.loads((folder / "config.json").read_text()))
    model = transformers.models.whisper.modeling_whisper.WhisperEncoder(config).eval()
    weights = {
        name.split("encoder.", 1)[1]: tensor.float() for name, tensor in load_file(folder / "model.safetensors").items()
    }
    model.load_state_dict(weights)
    with torch.no_grad():
        theirs = model(torch.tensor(features), output_hidden_states=True)
    assert_states_close(dict(list(states.items())[:-1]), theirs.hidden_states[:-1], tolerance=1e-4)
    assert_close(output, theirs.last_hidden_state, "the normalised tokens", tolerance=1e-4)
