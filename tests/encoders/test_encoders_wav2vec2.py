"""wav2vec2, HuBERT, data2vec-audio and WavLM: parity with transformers, and what every encoder must do."""

from __future__ import annotations

import json

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from parity import assert_behaves, assert_close, assert_saves, assert_states_close, randomise, saved

from jaxconvex import encoders
from jaxconvex.encoders.wav2vec2 import FAMILIES, distance_buckets

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

LAYER_NORMS = {"do_stable_layer_norm": True, "feat_extract_norm": "layer", "conv_bias": True}
KINDS = {  # class of torch, options of the configuration
    "wav2vec2": ("Wav2Vec2", {}),
    "wav2vec2, stable": ("Wav2Vec2", LAYER_NORMS | {"hidden_act": "relu"}),
    "hubert": ("Hubert", {"feat_proj_layer_norm": False}),
    "hubert, stable": ("Hubert", LAYER_NORMS | {"feat_extract_activation": "gelu_new"}),
    "data2vec": ("Data2VecAudio", {"num_conv_pos_embeddings": 3, "conv_pos_kernel_size": 5}),
    "wavlm": ("WavLM", {"num_buckets": 12, "max_bucket_distance": 15}),
    "wavlm, stable": ("WavLM", LAYER_NORMS | {"num_buckets": 12, "max_bucket_distance": 15}),
}


def torch_model(kind, seed=0, task="ForSequenceClassification", **options):
    rng = np.random.default_rng(seed)
    name, own = KINDS[kind]
    heads = int(rng.integers(1, 4))
    config = getattr(transformers, f"{name}Config")(
        **{
            "conv_dim": [int(width) for width in rng.integers(3, 10, 3)],
            "conv_kernel": (10, 3, 2),
            "conv_stride": (5, 2, 2),
            "hidden_size": heads * 8,
            "num_hidden_layers": 2,
            "num_attention_heads": heads,
            "intermediate_size": int(rng.integers(5, 20)),
            "num_conv_pos_embedding_groups": 4,
            "num_conv_pos_embeddings": int(rng.integers(4, 8)),
            "num_labels": 5,
            "classifier_proj_size": 6,
            "vocab_size": 20,
            "layer_norm_eps": 1e-4,
            "attn_implementation": "eager",
            **own,
            **options,
        }
    )
    return randomise(getattr(transformers, f"{name}{task}")(config), seed)


def waves(seed=0, samples=611):
    """Three waveforms and the mask of their samples: a whole one, about half, and one that is far shorter."""
    rng = np.random.default_rng(seed)
    lengths = np.array([samples, rng.integers(200, 400), rng.integers(40, 60)])
    return rng.normal(size=(3, samples)).astype(np.float32), np.arange(samples) < lengths[:, None]


def run_torch(model, inputs, mask=None, **options):
    with torch.no_grad():
        mask = None if mask is None else torch.tensor(mask.astype(int))
        return model(torch.tensor(inputs), attention_mask=mask, **options)


@nnx.jit
def states_and_output(encoder, inputs, mask):
    return encoder.hidden_states(inputs, mask), encoder(inputs, mask)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:Support for mismatched")
def test_every_state_and_the_logits_are_those_of_torch(kind, seed, tmp_path):
    model = torch_model(kind, seed)
    encoder, _ = encoders.load(saved(model, tmp_path))
    inputs, mask = waves(seed, samples=611 + 6 * seed)
    for given in (None, mask) if seed == 0 else (mask,):
        theirs = run_torch(model, inputs, given, output_hidden_states=True)
        states, logits = states_and_output(encoder, inputs, given)
        frames = None if given is None else np.asarray(encoder.sequence_mask(inputs, given))
        assert_states_close(states, theirs.hidden_states, where=frames)
        assert_close(logits, theirs.logits, "logits")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:Support for mismatched")
def test_it_saves_for_here_and_for_torch(kind, tmp_path):
    model = torch_model(kind)
    encoder, _ = encoders.load(saved(model, tmp_path / "theirs"))
    inputs, mask = waves()
    assert_saves(encoder, tmp_path / "ours", lambda encoder: states_and_output(encoder, inputs, mask)[1])
    again = type(model).from_pretrained(tmp_path / "ours").eval()
    assert_close(run_torch(again, inputs, mask).logits, run_torch(model, inputs, mask).logits, tolerance=1e-6)


@pytest.mark.long(after=1)
@pytest.mark.parametrize("kind", ["wav2vec2", "data2vec", "wavlm, stable"])
def test_it_does_what_every_encoder_must(kind, tmp_path):
    inputs, mask = waves(samples=411)
    assert_behaves(saved(torch_model(kind), tmp_path), jnp.asarray(inputs), jnp.asarray(mask))


@pytest.mark.parametrize("kind", ["wav2vec2", "wav2vec2, stable"])
def test_without_a_head_the_last_tokens_are_normalised(kind, tmp_path):
    model = torch_model(kind, task="Model")
    encoder, _ = encoders.load(saved(model, tmp_path / "theirs"))
    inputs, _ = waves()
    theirs = run_torch(model, inputs).last_hidden_state
    assert_close(encoder(inputs), theirs)
    encoders.save(encoder, tmp_path / "ours")
    again = type(model).from_pretrained(tmp_path / "ours").eval()
    assert_close(run_torch(again, inputs).last_hidden_state, theirs, tolerance=1e-6)


@pytest.mark.parametrize(
    "task", ["ForCTC", "ForPreTraining", "ForXVector", "ForAudioFrameClassification", "ForSequenceClassification"]
)
def test_heads_for_other_tasks_are_left_out(task, tmp_path):
    model = torch_model("wav2vec2", task=task)
    encoder, _ = encoders.load(saved(model, tmp_path))
    assert (encoder.head.classifier is None) == (task != "ForSequenceClassification")
    inputs, _ = waves()
    theirs = run_torch(model.wav2vec2, inputs).last_hidden_state
    assert_close(states_and_output(encoder, inputs, None)[0]["blocks/1"], theirs)
    new, _ = encoders.load(tmp_path, num_classes=4)
    assert new(inputs).shape == (3, 4)


def test_both_spellings_of_weight_normalisation(tmp_path):
    from safetensors.numpy import load_file, save_file

    encoder, _ = encoders.load(saved(torch_model("wav2vec2"), tmp_path))
    tensors = load_file(tmp_path / "model.safetensors")
    stem = "wav2vec2.encoder.pos_conv_embed.conv."
    for new, old in (
        ("parametrizations.weight.original0", "weight_g"),
        ("parametrizations.weight.original1", "weight_v"),
    ):
        tensors[stem + old] = tensors.pop(stem + new)
    save_file(tensors, tmp_path / "model.safetensors")
    old, _ = encoders.load(tmp_path)
    kernel = old.embed.positions[0].conv.kernel[...]
    np.testing.assert_array_equal(kernel, encoder.embed.positions[0].conv.kernel[...])


def test_the_mask_of_frames_is_that_of_torch(tmp_path):
    model = torch_model("wav2vec2")
    encoder, _ = encoders.load(saved(model, tmp_path))
    samples = 203
    lengths = np.arange(30, samples + 1)  # 30 samples make the first frame
    mask = np.arange(samples) < lengths[:, None]
    ours = np.asarray(encoder.sequence_mask(np.zeros(mask.shape), mask))
    theirs = model._get_feature_vector_attention_mask(ours.shape[1], torch.tensor(mask.astype(int)))
    np.testing.assert_array_equal(ours, theirs.numpy())
    assert encoder.embed(np.zeros((1, samples), np.float32)).shape[1] == ours.shape[1]
    shortest = np.asarray(encoder.sequence_mask(np.zeros((2, samples)), mask[:2] & False))
    np.testing.assert_array_equal(shortest.sum(axis=1), 1)


@pytest.mark.parametrize("kind", ["wav2vec2", "wav2vec2, stable"])
def test_what_stands_in_the_padding_matters_only_to_the_group_norm(kind, tmp_path):
    encoder, _ = encoders.load(saved(torch_model(kind), tmp_path))
    inputs, mask = waves()
    valid = np.asarray(encoder.sequence_mask(inputs, mask))
    states, logits = states_and_output(encoder, inputs, mask)
    others, other_logits = states_and_output(encoder, np.where(mask, inputs, 7 * inputs), mask)
    same = all(np.array_equal(np.asarray(states[name])[valid], np.asarray(others[name])[valid]) for name in states)
    assert same == ("stable" in kind)
    assert np.array_equal(logits, other_logits) == same


@pytest.mark.parametrize(("buckets", "farthest"), [(320, 800), (12, 15)])
def test_the_buckets_of_distances_are_those_of_torch(buckets, farthest):
    model = torch_model("wavlm", num_buckets=buckets, max_bucket_distance=farthest)
    attention = model.wavlm.encoder.layers[0].attention
    distances = np.arange(-3000, 3001)
    theirs = attention._relative_positions_bucket(torch.tensor(distances))
    np.testing.assert_array_equal(distance_buckets(distances, buckets, farthest), theirs.numpy())


@pytest.mark.parametrize("frames", [1, 2, 9])
def test_the_bias_is_the_table_at_each_distance(frames, tmp_path):
    encoder, _ = encoders.load(saved(torch_model("wavlm"), tmp_path))
    place = np.arange(frames)
    rows = distance_buckets(place[None] - place[:, None], 12, 15)
    expected = np.asarray(encoder.distances[...])[rows].transpose(2, 0, 1)[None]
    np.testing.assert_array_equal(encoder.bias(frames), expected)


def test_documented_sizes_are_those_of_transformers():
    names = {"wav2vec2": "Wav2Vec2", "hubert": "Hubert", "wavlm": "WavLM", "data2vec-audio": "Data2VecAudio"}
    for kind, name in names.items():
        theirs = json.loads(getattr(transformers, f"{name}Config")().to_json_string(use_diff=False))
        ours = json.loads(json.dumps(FAMILIES[kind].config))
        assert {key: theirs[key] for key in ours} == ours


@pytest.mark.parametrize(
    ("option", "value"), [("add_adapter", True), ("adapter_attn_dim", 4), ("conv_pos_batch_norm", True)]
)
def test_parts_that_are_not_here_are_refused(option, value, tmp_path):
    saved(torch_model("wav2vec2", task="Model"), tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {option: value}))
    with pytest.raises(ValueError, match=f"{option}={value}.*not supported"):
        encoders.load(tmp_path)


def test_a_classifier_of_all_states_is_refused_unless_a_new_one_is_asked_for(tmp_path):
    model = torch_model("wav2vec2", use_weighted_layer_sum=True)
    saved(model, tmp_path)
    with pytest.raises(ValueError, match=r"weighted sum.*num_classes="):
        encoders.load(tmp_path)
    encoder, _ = encoders.load(tmp_path, num_classes=2)
    assert encoder.config["use_weighted_layer_sum"] is False
    inputs, _ = waves()
    theirs = run_torch(model, inputs, output_hidden_states=True)
    assert_states_close(states_and_output(encoder, inputs, None)[0], theirs.hidden_states)


@pytest.mark.parametrize(
    "inputs", [np.zeros(400, np.float32), np.zeros((2, 400), np.int16), np.zeros((2, 29), np.float32)]
)
def test_inputs_that_are_no_waveforms_are_refused(inputs, tmp_path):
    encoder, _ = encoders.load(saved(torch_model("wav2vec2"), tmp_path))
    with pytest.raises(ValueError, match=r"floats of shape \(b, samples\), with at least 30 samples"):
        encoder.hidden_states(inputs)
