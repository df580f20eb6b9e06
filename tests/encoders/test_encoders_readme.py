"""The family that the README of the encoders adds as an example loads, and agrees with torch."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest
from documents import PACKAGE, block
from parity import assert_behaves, assert_close, assert_saves, assert_states_close, randomise, saved

from jaxconvex import encoders
from jaxconvex.encoders import loading

README = PACKAGE / "encoders" / "README.md"


@pytest.fixture
def electra(monkeypatch):
    module = types.ModuleType("jaxconvex.encoders.electra")
    exec(compile(block(README, holding="FAMILIES"), str(README), "exec"), module.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(loading.MODULES, "electra", ("electra",))


@pytest.mark.long(after=1)
@pytest.mark.parametrize("narrow", [6, 12])
def test_the_example_is_electra(narrow, electra, tmp_path):
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    config = transformers.ElectraConfig(
        vocab_size=30,
        embedding_size=narrow,
        hidden_size=12,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=20,
        max_position_embeddings=16,
        num_labels=4,
    )
    model = randomise(transformers.ElectraForSequenceClassification(config))
    encoder, preprocess = encoders.load(saved(model, tmp_path / "first"))
    assert preprocess is None  # nothing tells it
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 30, (3, 9)).astype(np.int32)
    mask = np.arange(9) < np.array([9, 5, 2])[:, None]
    with torch.no_grad():
        theirs = model(torch.tensor(ids).long(), torch.tensor(mask).long(), output_hidden_states=True)
    assert_states_close(encoder.hidden_states(ids, mask), theirs.hidden_states, where=mask)
    assert_close(encoder(ids, mask), theirs.logits, "logits")
    assert_saves(encoder, tmp_path / "second", lambda encoder: encoder(ids, mask))
    if narrow == 6:
        assert_behaves(tmp_path / "first", ids, mask)


def test_the_table_names_every_family():
    text = README.read_text()
    for family in encoders.families():
        assert f"`{family}`" in text, family
