"""GPT-2, GPT-NeoX, Llama, Qwen 2 and 3, Gemma 2 and 3 beside torch's, every parameter drawn at random."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from parity import assert_behaves, assert_close, assert_saves, assert_states_close, randomise, saved
from safetensors.numpy import load_file, save_file

from jaxconvex import encoders, evaluate, model_source
from jaxconvex.encoders.rotary import Rotary

TINY = {
    "vocab_size": 50,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 40,
    "max_position_embeddings": 32,
    "pad_token_id": 1,
    "bos_token_id": 2,
    "eos_token_id": 3,
    "num_labels": 5,
}
GPT2 = {"n_embd": 24, "n_layer": 3, "n_head": 4, "n_positions": 16, "n_inner": 40, "vocab_size": 50, "num_labels": 5}
GPT2 |= {"pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3}
NEOX = {key: value for key, value in TINY.items() if key != "num_key_value_heads"}
LLAMA3 = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 |= {"original_max_position_embeddings": 16, "rope_theta": 100.0}
LINEAR = {"rope_type": "linear", "factor": 3.0, "rope_theta": 5000.0}
GEMMA = TINY | {"head_dim": 8, "sliding_window": 3, "query_pre_attn_scalar": 20}
GEMMA3 = GEMMA | {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
BASES = {"full_attention": LINEAR, "sliding_attention": {"rope_type": "default", "rope_theta": 50.0}}
CASES = {
    "gpt2": ("GPT2", GPT2),
    "gpt2, scaled by depth": ("GPT2", GPT2 | {"scale_attn_by_inverse_layer_idx": True, "activation_function": "relu"}),
    "gpt_neox": ("GPTNeoX", NEOX | {"num_attention_heads": 2, "rotary_pct": 0.5}),
    "gpt_neox, one after the other": ("GPTNeoX", NEOX | {"use_parallel_residual": False, "rotary_pct": 1.0}),
    "llama": ("Llama", TINY),
    "llama, biases, scaled": ("Llama", TINY | {"attention_bias": True, "mlp_bias": True, "rope_parameters": LLAMA3}),
    "llama, tied, linear": ("Llama", TINY | {"tie_word_embeddings": True, "head_dim": 10, "rope_parameters": LINEAR}),
    "qwen2": ("Qwen2", TINY),
    "qwen2, window": ("Qwen2", TINY | {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1}),
    "qwen3": ("Qwen3", TINY | {"head_dim": 8, "tie_word_embeddings": True}),
    "gemma2": ("Gemma2", GEMMA | {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 1.5}),
    "gemma3": ("Gemma3Text", GEMMA3),
    "gemma3, bases": ("Gemma3Text", GEMMA3 | {"rope_parameters": BASES, "num_key_value_heads": 1}),
}
LANGUAGE = {"GPT2": "GPT2LMHeadModel", "Gemma3Text": "Gemma3ForCausalLM"}


def torch_model(case, kind="ForSequenceClassification", seed=0):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("torch")
    name, config = CASES[case]
    config = getattr(transformers, f"{name}Config")(**config)
    config._attn_implementation = "eager"
    names = LANGUAGE.get(name, f"{name}ForCausalLM") if kind == "ForCausalLM" else name + kind
    return randomise(getattr(transformers, names)(config), seed)


def sentences(length=11, left=False, seed=0):
    """Ids and a mask, of different lengths, padded with the token of padding on either side."""
    ids = np.random.default_rng(seed).integers(4, 50, (3, length))
    lengths = np.array([[length], [6], [2]])
    mask = np.arange(length) >= length - lengths if left else np.arange(length) < lengths
    return np.where(mask, ids, 1), mask


def run_torch(model, ids, mask):
    """Its states: the last is that of the last block, before the norm; positions are counted as ours."""
    import torch

    kept = []
    blocks = next(module for module in model.modules() if isinstance(module, torch.nn.ModuleList))
    hooks = [block.register_forward_hook(lambda _, __, out: kept.append(out)) for block in blocks]
    options = {}
    if mask is not None:
        places = np.maximum(np.cumsum(mask, axis=1) - 1, 0)
        options = {"attention_mask": torch.tensor(mask.astype(int)), "position_ids": torch.tensor(places)}
    with torch.no_grad():
        out = model(torch.tensor(ids), output_hidden_states=True, **options)
    for hook in hooks:
        hook.remove()
    states = [state[0] if isinstance(state, tuple) else state for state in kept]
    return out, [out.hidden_states[0], *states]


@pytest.mark.parametrize("left", [False, True], ids=["padded right", "padded left"])
@pytest.mark.parametrize("case", CASES)
def test_states_and_logits_are_those_of_torch(case, left, tmp_path):
    model = torch_model(case)
    encoder, _ = encoders.load(saved(model, tmp_path))
    ids, mask = sentences(left=left)
    out, states = run_torch(model, ids, mask)
    assert_states_close(encoder.hidden_states(ids, mask), states, where=mask)
    assert_close(encoder(ids, mask), out.logits, "logits")
    _, states = run_torch(model, ids[:1], None)
    assert_states_close(encoder.hidden_states(ids[:1]), states)


@pytest.mark.parametrize("case", CASES)
def test_next_words_are_those_of_torch(case, tmp_path):
    model = torch_model(case, "ForCausalLM", seed=1)
    encoder, _ = encoders.load(saved(model, tmp_path))
    ids, mask = sentences()
    out, states = run_torch(model, ids, mask)
    assert encoder.head.classifier is None
    assert_close(encoder(ids, mask), out.hidden_states[-1], "normalised", where=mask)
    words = [7, 3, 49]
    encoder.head = encoders.next_token_head(encoder, words)
    last = mask.sum(1) - 1
    assert_close(encoder(ids, mask), out.logits[np.arange(3), last][:, words], "words")
    assert_close(encoder.truncate(1).head(states[3].numpy(), mask), encoder(ids, mask))


@pytest.mark.parametrize("kind", ["ForSequenceClassification", "ForCausalLM"])
@pytest.mark.parametrize(
    "case", ["gpt2", "gpt_neox", "llama", "llama, tied, linear", "qwen2, window", "gemma2", "gemma3"]
)
def test_saving_changes_nothing_here_or_in_torch(case, kind, tmp_path):
    model = torch_model(case, kind)
    encoder, _ = encoders.load(saved(model, tmp_path / "first"))
    ids, mask = sentences()
    assert_saves(encoder, tmp_path / "second", lambda encoder: encoder(ids, mask))
    again = type(model).from_pretrained(tmp_path / "second", attn_implementation="eager").eval()
    theirs, before = (run_torch(network, ids, mask)[0].logits for network in (again, model))
    assert_close(theirs, before, tolerance=1e-6)
    shorter = encoder.truncate(1)
    encoders.save(shorter, tmp_path / "short")
    again = type(model).from_pretrained(tmp_path / "short", attn_implementation="eager").eval()
    assert_states_close(shorter.hidden_states(ids, mask), run_torch(again, ids, mask)[1], where=mask)


@pytest.mark.long(after=1)
@pytest.mark.parametrize("case", ["gpt2", "gpt_neox", "llama", "gemma2", "gemma3"])
def test_blocks_transforms_training_bfloat16(case, tmp_path):
    ids, mask = sentences()
    model = torch_model(case, "ForCausalLM" if case == "llama" else "Model", seed=3)
    still = ("head.words.embedding",)  # the words to predict are no part of a classifier
    assert_behaves(saved(model, tmp_path), jnp.asarray(ids), jnp.asarray(mask), without_gradient=still)


@pytest.fixture(scope="module")
def tiny():
    """One encoder of each kind of positions."""
    kinds = {"gpt2": "gpt2", "gpt_neox": "gpt_neox", "llama": "llama", "gemma3": "gemma3_text"}
    return [
        encoders.initialise(CASES[case][1] | {"model_type": kind}, num_classes=2, rngs=nnx.Rngs(0))
        for case, kind in kinds.items()
    ]


def test_no_state_of_a_token_knows_later_ones(tiny):
    ids, _ = sentences()
    other = ids.copy()
    other[:, 5:] = (other[:, 5:] + 7) % 50
    for encoder in tiny:
        changed = encoder.hidden_states(other)
        for name, state in encoder.hidden_states(ids).items():
            np.testing.assert_array_equal(state[:, :5], changed[name][:, :5], err_msg=name)
            assert np.abs(np.asarray(state - changed[name])[:, 5:]).max() > 1e-3


@pytest.mark.long
def test_padding_on_either_side_gives_the_same_states(tiny):
    alone = np.array([[5, 9, 7, 4]])
    right, left = np.array([[5, 9, 7, 4, 1, 1, 1]]), np.array([[1, 1, 1, 5, 9, 7, 4]])
    run = nnx.jit(lambda encoder, ids, mask: (encoder.hidden_states(ids, mask), encoder(ids, mask)))
    for encoder in tiny:
        states, logits = run(encoder, alone, None)
        for ids in (right, left):
            found, same = run(encoder, ids, ids != 1)
            np.testing.assert_allclose(same, logits, atol=2e-6)
            for name, state in states.items():
                np.testing.assert_allclose(found[name][ids != 1], state[0], atol=2e-6, err_msg=name)


def test_what_is_sliding_sees_no_further(tiny):
    """In a network whose blocks all have a window of 3, a token knows 2 earlier ones a block."""
    config = GEMMA | {"model_type": "gemma2", "layer_types": ["sliding_attention"] * 3}
    encoder = encoders.initialise(config, rngs=nnx.Rngs(0))
    ids, _ = sentences()
    other = ids.copy()
    other[:, 2] = (other[:, 2] + 7) % 50
    changed = encoder.hidden_states(other)
    for reach, (name, state) in zip((0, 2, 4, 6), encoder.hidden_states(ids).items(), strict=True):
        differs = np.abs(np.asarray(state - changed[name])).max(axis=(0, 2)) > 0
        assert list(np.flatnonzero(differs)) == list(range(2, 3 + reach)), name


@pytest.mark.parametrize(
    ("case", "changes", "message"),
    [
        ("llama", {"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "of type 'yarn', which are not supported"),
        ("llama", {"rope_scaling": {"type": "linear", "factor": 2.0, "mscale": 1.0}}, "have mscale=1.0, not known"),
        (
            "llama",
            {"rope_scaling": {"type": "linear"}},
            "factor of rotary positions must be a number above 0; got None",
        ),
        ("llama", {"num_key_value_heads": 3}, "heads of keys must divide that of queries; got 3 and 4"),
        ("llama", {"hidden_act": "mish"}, "activation 'mish'"),
        ("gpt_neox", {"rotary_pct": 0.3}, "an even number must turn; the configuration asks for 3"),
        ("qwen2", {"layer_types": ["chunked_attention"] * 3}, "layer_types must name full_attention or sliding"),
        ("qwen2", {"layer_types": ["sliding_attention"] * 3}, "sliding_attention, and use_sliding_window is false"),
        ("gemma2", {"layer_types": ["full_attention"]}, "for each of 3 blocks"),
        ("gemma2", {"use_bidirectional_attention": True}, "use_bidirectional_attention, attention to later tokens"),
        ("gemma3_text", {"attn_logit_softcapping": 5.0}, "attn_logit_softcapping=5.0, which Gemma 3 does not"),
        ("gemma3_text", {"sliding_window": None}, "layers of sliding_attention and no sliding_window"),
        ("gpt2", {"n_head": 5}, "the number of heads must divide the width"),
        ("gpt2", {"add_cross_attention": True}, "add_cross_attention=True"),
    ],
)
def test_configurations_of_other_networks_are_refused(case, changes, message):
    config = CASES["gemma3" if case == "gemma3_text" else case][1]
    with pytest.raises(ValueError, match=message):
        encoders.initialise(config | {"model_type": case} | changes, rngs=nnx.Rngs(0))


def test_what_predicts_no_words_says_so(tiny, tmp_path):
    encoders.save(encoders.initialise(TINY | {"model_type": "llama"}, rngs=nnx.Rngs(0)), tmp_path)
    encoder, _ = encoders.load(tmp_path)
    with pytest.raises(ValueError, match=r"words must be numbers of tokens, 0 to 49, in a list; got \[50\]"):
        encoders.next_token_head(encoder, [50])
    encoder.head = encoders.next_token_head(encoder, [4, 5])
    with pytest.raises(ValueError, match="must be a decoder with the head it was loaded with; got Decoder with a Next"):
        encoders.next_token_head(encoder, [4])
    tensors = load_file(tmp_path / "model.safetensors")
    assert tensors.pop("lm_head.weight").shape == (50, 24)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="has no matrix of words to predict"):
        encoders.next_token_head(encoders.load(tmp_path)[0], [4])
    with pytest.raises(ValueError, match="t at most 16"):
        tiny[0](np.ones((1, 17), int))
    with pytest.raises(ValueError, match="must be integers"):
        tiny[1](jnp.ones((1, 4)))


def test_old_files_have_buffers_and_the_matrix_of_words_again(tmp_path):
    """GPT-2's file on the hub has masks, old Llama's have frequencies; a tied matrix may stand in the file twice."""
    encoder = encoders.initialise(GPT2 | {"model_type": "gpt2"}, rngs=nnx.Rngs(0))
    encoders.save(encoder, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors |= {"h.0.attn.bias": np.ones((1, 1, 16, 16), np.float32), "lm_head.weight": tensors["wte.weight"]}
    save_file(tensors, tmp_path / "model.safetensors")
    again, _ = encoders.load(tmp_path)
    ids, mask = sentences()
    np.testing.assert_array_equal(again(ids, mask), encoder(ids, mask))


def test_slow_turns_are_slowed_and_fast_ones_are_not():
    """By hand: of three pairs that turn 16, 1.6 and 0.16 times in the length, the first stays and the last is a quarter."""
    rotary = Rotary(6, 1000.0, 4.0, (1.0, 2.2, 32 * np.pi))
    np.testing.assert_allclose(rotary.frequencies(), [1, 0.1 * (0.5 + 0.5 / 4), 0.01 / 4])
    assert Rotary(6, 1000.0).frequencies().round(6).tolist() == [1, 0.1, 0.01]


@pytest.mark.long
def test_euclidean_scores_run_on_through_the_words():
    """The rest of the network from each layer gives the logits of the words, for `evaluate`."""
    encoder = encoders.initialise(TINY | {"model_type": "llama", "num_hidden_layers": 1}, rngs=nnx.Rngs(0))
    encoder.head = encoders.next_token_head(encoder, [4, 9])
    ids, mask = (np.concatenate([part] * 4) for part in sentences(5))
    source = model_source(encoder, (ids, mask), pool="last")
    report = evaluate(source, np.arange(12) % 2, k=3, jackknife=False, permutations=0, progress=False)
    assert {row.layer for row in report.rows if row.kind == "euclidean"} == {"embed", "blocks/0"}
