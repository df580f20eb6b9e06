"""BERT, RoBERTa, data2vec-text, LUKE, DistilBERT and SqueezeBERT beside torch's, every parameter drawn at random."""

from __future__ import annotations

import csv

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from parity import assert_behaves, assert_close, assert_saves, assert_states_close, randomise, saved

from jaxconvex import encoders

TINY = {
    "vocab_size": 50,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "max_position_embeddings": 20,
    "type_vocab_size": 2,
    "pad_token_id": 1,
    "num_labels": 5,
}
DISTILBERT = {"dim": 24, "n_layers": 3, "n_heads": 3, "hidden_dim": 40}
GROUPS = {"q_groups": 2, "k_groups": 3, "v_groups": 4, "post_attention_groups": 1, "intermediate_groups": 2}
CASES = {
    "bert": ("Bert", {}),
    "bert, other functions": ("Bert", {"hidden_act": "gelu_new", "layer_norm_eps": 1e-3, "type_vocab_size": 1}),
    "roberta": ("Roberta", {}),
    "data2vec": ("Data2VecText", {"pad_token_id": 3}),
    "luke": ("Luke", {"entity_vocab_size": 9, "entity_emb_size": 6}),
    "distilbert": ("DistilBert", DISTILBERT),
    "squeezebert": ("SqueezeBert", {"embedding_size": 24, "output_groups": 4, **GROUPS}),
}


def torch_model(case, kind="ForSequenceClassification", seed=0):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("torch")
    name, extra = CASES[case]
    config = getattr(transformers, f"{name}Config")(**TINY | extra)
    return randomise(getattr(transformers, name + kind)(config), seed)


def sentences(case, length=11, seed=0):
    """Ids and a mask, of different lengths, padded with the token of padding."""
    padding = (TINY | CASES[case][1])["pad_token_id"]
    random = np.random.default_rng(seed)
    ids = random.integers(4, TINY["vocab_size"], (3, length))
    mask = np.arange(length) < np.array([[length], [5], [2]])
    return np.where(mask, ids, padding), mask


def run_torch(model, ids, mask):
    import torch

    with torch.no_grad():
        mask = None if mask is None else torch.tensor(mask.astype(int))
        return model(torch.tensor(ids), attention_mask=mask, output_hidden_states=True)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("case", CASES)
def test_states_and_logits_are_those_of_torch(case, seed, tmp_path):
    model = torch_model(case, seed=seed)
    encoder, _ = encoders.load(saved(model, tmp_path))
    ids, mask = sentences(case, seed=seed)
    theirs = run_torch(model, ids, mask)
    assert_states_close(encoder.hidden_states(ids, mask), theirs.hidden_states, where=mask)
    assert_close(encoder(ids, mask), theirs.logits, "logits")
    ids = ids[:1]
    assert_states_close(encoder.hidden_states(ids), run_torch(model, ids, None).hidden_states)


@pytest.mark.parametrize("case", CASES)
def test_networks_without_a_classifier(case, tmp_path):
    model = torch_model(case, "Model", seed=2)
    encoder, preprocess = encoders.load(saved(model, tmp_path))
    assert preprocess is None  # there is no tokenizer
    ids, mask = sentences(case)
    theirs = run_torch(model, ids, mask)
    states = encoder.hidden_states(ids, mask)
    assert_states_close(states, theirs.hidden_states, where=mask)
    assert_close(encoder(ids, mask), theirs.last_hidden_state, where=mask)
    if encoder.head.dense is not None:
        assert_close(encoder.head.pooled(states["blocks/2"], mask), theirs.pooler_output, "pooled")


@pytest.mark.parametrize("case", CASES)
def test_saving_changes_nothing_here_or_in_torch(case, tmp_path):
    model = torch_model(case)
    encoder, _ = encoders.load(saved(model, tmp_path / "first"))
    ids, mask = sentences(case)
    assert_saves(encoder, tmp_path / "second", lambda encoder: encoder(ids, mask))
    again = type(model).from_pretrained(tmp_path / "second").eval()
    assert_close(run_torch(again, ids, mask).logits, run_torch(model, ids, mask).logits, tolerance=1e-6)
    shorter = encoder.truncate(1)
    encoders.save(shorter, tmp_path / "short")
    again = type(model).from_pretrained(tmp_path / "short").eval()
    assert_close(shorter(ids, mask), run_torch(again, ids, mask).logits)


@pytest.mark.long(after=1)
@pytest.mark.parametrize("case", ["bert", "roberta", "luke", "distilbert", "squeezebert"])
def test_blocks_transforms_training_bfloat16(case, tmp_path):
    ids, mask = sentences(case)
    model = torch_model(case, "Model", seed=3)
    assert_behaves(saved(model, tmp_path), jnp.asarray(ids), jnp.asarray(mask), without_gradient=("key.bias",))


@pytest.mark.long
def test_without_torch_every_family_runs(tmp_path):
    ids = np.array([[5, 6, 7, 1]])
    for case, (_, extra) in CASES.items():
        kind = case.split(",")[0].replace("data2vec", "data2vec-text")
        encoder = encoders.initialise(TINY | extra | {"model_type": kind}, num_classes=4, rngs=nnx.Rngs(0))
        assert encoder(ids, ids != 1).shape == (1, 4)
        assert_saves(encoder, tmp_path / kind, lambda encoder: encoder(ids, ids != 1))


@pytest.mark.long
def test_padding_changes_nothing_before_it():
    encoder = encoders.initialise(TINY | {"model_type": "roberta"}, rngs=nnx.Rngs(0))
    ids = np.array([[5, 9, 7, 4]])
    longer = np.array([[5, 9, 7, 4, 1, 1, 1]])
    alone = encoder.hidden_states(ids)["blocks/2"]
    padded = encoder.hidden_states(longer, longer != 1)["blocks/2"][:, :4]
    np.testing.assert_allclose(alone, padded, atol=1e-6)


def test_too_long_sentences_are_refused():
    encoder = encoders.initialise(TINY | {"model_type": "roberta"}, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="t at most 18; got int32 of shape \\(1, 19\\)"):
        encoder(jnp.ones((1, 19), jnp.int32))
    with pytest.raises(ValueError, match="must be integers"):
        encoder(jnp.ones((1, 4)))
    assert jnp.isnan(encoder(jnp.array([[4, 50]]))).any()  # there are 50 words, 0 to 49


def test_minilm_on_real_questions(data):
    """The real weights on real text, tokenizer and all."""
    transformers = pytest.importorskip("transformers")
    folder = data / "models" / "all-minilm-l6-v2"
    if not folder.is_dir():
        pytest.skip("needs sentence-transformers/all-MiniLM-L6-v2 in JAXCONVEX_DATA/models/all-minilm-l6-v2")
    files = sorted((data / "data" / "banking77").glob("*.csv")) or sorted((data / "banking77").glob("*.csv"))
    with files[0].open(encoding="utf-8") as stream:
        texts = [row["text"] for _, row in zip(range(8), csv.DictReader(stream), strict=False)]
    encoder, preprocess = encoders.load(folder)
    ids, mask = preprocess(texts)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    expected = tokenizer(texts, padding=True, return_tensors="np")
    np.testing.assert_array_equal(ids, expected["input_ids"])
    np.testing.assert_array_equal(mask, expected["attention_mask"])
    model = transformers.BertModel.from_pretrained(folder).float().eval()
    theirs = run_torch(model, np.asarray(ids, np.int64), mask)
    assert_states_close(encoder.hidden_states(ids, mask), theirs.hidden_states, where=mask)
