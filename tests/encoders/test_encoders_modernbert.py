"""ModernBERT beside torch's, every parameter drawn at random."""

from __future__ import annotations

import json

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from parity import (
    assert_close,
    assert_near_in_bfloat16,
    assert_saves,
    assert_states_close,
    assert_trains,
    randomise,
    run,
    saved,
)

from jaxconvex import encoders

TINY = {
    "vocab_size": 50,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 40,
    "max_position_embeddings": 20,
    "local_attention": 4,
    "pad_token_id": 1,
    "bos_token_id": 2,
    "eos_token_id": 3,
    "cls_token_id": 2,
    "sep_token_id": 3,
    "num_labels": 5,
}
BIASES = dict.fromkeys(["attention_bias", "mlp_bias", "norm_bias", "classifier_bias"], True)
SLOW = {"rope_type": "linear", "factor": 3.0, "rope_theta": 500.0}
CASES = {
    "plain": {},
    "biases, mean": {**BIASES, "classifier_pooling": "mean", "hidden_activation": "silu"},
    "odd window, kinds": {
        "local_attention": 5,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "rope_parameters": {"full_attention": SLOW, "sliding_attention": {"rope_type": "default", "rope_theta": 50.0}},
        "norm_eps": 1e-3,
        "classifier_activation": "relu",
    },
}


def torch_model(case, kind):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("torch")
    config = transformers.ModernBertConfig(**TINY | CASES[case])
    config._attn_implementation = "eager"
    return randomise(getattr(transformers, f"ModernBert{kind}")(config))


def sentences(length=11):
    ids = np.random.default_rng(0).integers(4, 50, (3, length))
    mask = np.arange(length) < np.array([[length], [6], [2]])
    return np.where(mask, ids, 1), mask


def run_torch(model, ids, mask):
    """Its logits or last state, and its states, the last before the norm."""
    import torch

    kept = []
    blocks = next(module for module in model.modules() if isinstance(module, torch.nn.ModuleList))
    hook = blocks[-1].register_forward_hook(lambda _, __, out: kept.append(out))
    with torch.no_grad():
        out = model(torch.tensor(ids), attention_mask=torch.tensor(mask.astype(int)), output_hidden_states=True)
    hook.remove()
    last = kept[0][0] if isinstance(kept[0], tuple) else kept[0]
    return out[0], [*out.hidden_states[:-1], last]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.long(after=1)
def test_states_and_logits_are_those_of_torch(case, tmp_path):
    ids, mask = sentences()
    model = torch_model(case, "ForSequenceClassification")
    encoder, _ = encoders.load(saved(model, tmp_path / "first"))
    logits, states = run_torch(model, ids, mask)
    ours, ours_logits, _ = run(encoder, ids, mask)
    assert_states_close(ours, states, where=mask)
    assert_close(ours_logits, logits, "logits")
    assert_saves(encoder, tmp_path / "second", lambda encoder: run(encoder, ids, mask)[1])
    encoders.save(encoder.truncate(2), tmp_path / "short")
    for folder, ours in (("second", encoder), ("short", encoder.truncate(2))):
        again = type(model).from_pretrained(tmp_path / folder, attn_implementation="eager").eval()
        assert_close(run(ours, ids, mask)[1], run_torch(again, ids, mask)[0], folder)


def test_networks_without_a_classifier_training_bfloat16(tmp_path):
    ids, mask = sentences()
    model = torch_model("plain", "ForMaskedLM")
    encoder, _ = encoders.load(saved(model, tmp_path))
    assert encoder.head.classifier is None
    _, states = run_torch(model, ids, mask)
    ours, *_ = run(encoder, ids, mask)
    assert_states_close(ours, states, where=mask)
    new, _ = encoders.load(tmp_path, num_classes=3)
    assert_trains(new, jnp.arange(3), ids, mask)
    narrow, _ = encoders.load(tmp_path, dtype=jnp.bfloat16)
    assert_near_in_bfloat16(narrow, ours, ids, mask)


def test_files_of_the_hub_have_older_words(tmp_path):
    """Bases and kinds of layers by other names; a base that is not said for one kind is not that of the other."""
    ids, mask = sentences()
    saved(torch_model("plain", "Model"), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    kept = {key: config[key] for key in config if key not in ("layer_types", "rope_parameters")}
    kinds = {kind: {"rope_type": "default"} for kind in ("full_attention", "sliding_attention")}
    for changes in (
        {"global_attn_every_n_layers": 2, "global_rope_theta": 70.0, "local_rope_theta": 9.0},
        {"rope_parameters": kinds, "rope_theta": 30.0},
    ):
        (tmp_path / "config.json").write_text(json.dumps(kept | changes))
        model = transformers_model(tmp_path)
        states, *_ = run(encoders.load(tmp_path)[0], ids, mask)
        assert_states_close(states, run_torch(model, ids, mask)[1], where=mask)


def transformers_model(folder):
    transformers = pytest.importorskip("transformers")
    return transformers.ModernBertModel.from_pretrained(folder, attn_implementation="eager").eval()


def test_other_settings_are_refused():
    for changes, message in (
        ({"classifier_pooling": "max"}, "classifier_pooling must be cls or mean; got 'max'"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling="),
        ({"layer_types": ["full_attention"]}, "for each of 3 blocks"),
    ):
        with pytest.raises(ValueError, match=message):
            encoders.initialise(TINY | {"model_type": "modernbert"} | changes, rngs=nnx.Rngs(0))
