"""Tokens as points, and batches as the loaders, tokenizers and processors of others give them."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxconvex as jc

RNG = np.random.default_rng(0)
TABLE = RNG.normal(size=(9, 4)).astype(np.float32)
IDS = RNG.integers(0, 9, (11, 5))
CHOSEN = RNG.random((11, 5)) < 0.4
LABELS = IDS % 2

quiet = partial(jc.extract, progress=False, points="tokens")


def model(ids, chosen=None):
    """A layer of tokens, one of texts, and outputs of tokens."""
    h = jnp.asarray(TABLE)[ids]
    return h[..., :2], {"tokens": h, "mixed": h + h.mean(1, keepdims=True), "text": h.mean(1)}


def assert_tokens(found, ids=IDS, chosen=CHOSEN):
    """Against a loop over texts and their tokens."""
    places = [(text, place) for text in range(len(ids)) for place in range(ids.shape[1]) if chosen[text, place]]
    assert list(zip(found.groups.tolist(), found.positions.tolist(), strict=True)) == places
    assert list(found) == ["tokens", "mixed"] and found.shapes["mixed"] == (len(places), 4)
    for i, (text, place) in enumerate(places):
        h = TABLE[ids[text]]
        np.testing.assert_allclose(found["tokens"][i], h[place])
        np.testing.assert_allclose(found["mixed"][i], h[place] + h.mean(0), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found.outputs[i], h[place, :2])


@pytest.mark.filterwarnings("ignore:layers left out")
@pytest.mark.parametrize(
    ("inputs", "where"),
    [
        ({"ids": IDS, "chosen": CHOSEN}, "chosen"),
        ((IDS, CHOSEN), 1),
        (IDS, CHOSEN.astype(int)),
        (IDS, lambda ids: np.stack([CHOSEN[(row == IDS).all(1).argmax()] for row in np.asarray(ids)])),
    ],
)
@pytest.mark.parametrize("batch_size", [4, 20])
def test_a_point_a_chosen_token(inputs, where, batch_size):
    assert_tokens(quiet(model, inputs, batch_size=batch_size, where=where))


def test_texts_of_other_lengths_in_other_batches():
    ids = [IDS[:5], IDS[5:, :3]]
    with pytest.warns(UserWarning, match=r"'text' \(shape \(5, 4\), not \(5, 5, \.\.\.\)\)"):
        found = quiet(model, iter(ids), where=lambda ids: ids > 3)
    texts = [row[row > 3] for part in ids for row in part]
    np.testing.assert_allclose(found["tokens"], TABLE[np.concatenate(texts)])
    assert found.groups.tolist() == [i for i, row in enumerate(texts) for _ in row]


def test_a_folder_goes_on_and_knows_other_tokens(tmp_path):
    def broken():
        yield {"ids": IDS[:4], "chosen": CHOSEN[:4]}
        yield {"ids": IDS[4:8], "chosen": CHOSEN[4:8]}
        raise OSError("stopped")

    options = {"where": "chosen", "layers": ["tokens", "mixed"], "folder": tmp_path}
    with pytest.raises(OSError, match="stopped"):
        quiet(model, broken(), **options)
    whole = {"ids": IDS, "chosen": CHOSEN}
    assert_tokens(quiet(model, whole, batch_size=4, **options))
    assert_tokens(jc.read_activations(tmp_path))
    with pytest.raises(ValueError, match="first batch differs"):
        quiet(model, whole | {"chosen": ~CHOSEN}, batch_size=4, **options)
    with pytest.raises(ValueError, match="batch 0 is not the one that"):
        quiet(model, whole, batch_size=4, **options | {"where": ~CHOSEN})
    with pytest.raises(ValueError, match="layers was"):
        jc.extract(model, whole, batch_size=4, layers="text", folder=tmp_path, progress=False)


@pytest.mark.long
def test_groups_are_the_texts():
    found = quiet(model, IDS, batch_size=4, layers="tokens", where=np.ones_like(IDS))
    labels = LABELS[found.groups, found.positions]
    few = partial(jc.evaluate, k=3, jackknife=False, permutations=0, progress=False, predictions=None)
    report = few(found, labels)
    assert report.settings["groups"] == len(IDS)
    named = few(dict(found), labels, groups=found.groups)
    assert report.provenance["groups"] == named.provenance["groups"]
    assert few(dict(found), labels).settings["groups"] is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"where": None}, "where must be one of the batch's entries"),
        ({"where": "nouns"}, r"where must be one of the batch's entries \('chosen', 'ids'\), .*got 'nouns'"),
        ({"where": CHOSEN[:3]}, r"got \(3, 5\) for 11 inputs"),
        ({"where": "chosen", "pool": "mean"}, "leave one out"),
        ({"where": lambda ids, chosen: chosen[:, 0]}, r"where must choose tokens \(b, t\)"),
        ({"where": lambda ids, chosen: chosen[:, 1:], "layers": "tokens"}, r"\(4, 4, \.\.\.\)"),
        ({"where": lambda ids, chosen: 0 * ids}, "chooses no token"),
        ({"where": "chosen", "points": "inputs"}, "pass points='tokens'"),
        ({"where": "chosen", "points": "words"}, "'inputs', 'tokens'; got 'words'"),
        ({"where": "chosen", "layers": "text"}, "'text' must be an array"),
    ],
)
@pytest.mark.filterwarnings("ignore:layers left out")
def test_messages(change, message):
    given = {"batches": {"ids": IDS, "chosen": CHOSEN}, "batch_size": 4} | change
    with pytest.raises(ValueError, match=message):
        quiet(model, **given)


# Loaders and tokenizers -----------------------------------------------------------------------------------------------


def test_a_torch_loader():
    data = pytest.importorskip("torch.utils.data")
    import torch

    loader = data.DataLoader(data.TensorDataset(torch.from_numpy(IDS), torch.from_numpy(CHOSEN)), batch_size=4)
    found = jc.extract(model, loader, pool="mean", progress=False)
    np.testing.assert_allclose(found["tokens"], TABLE[IDS].mean(1), rtol=1e-5, atol=1e-6)


def test_a_loader_of_grain():
    grain = pytest.importorskip("grain", reason="grain is not installed")
    loader = grain.MapDataset.source([{"ids": row} for row in IDS]).batch(4).to_iter_dataset()
    found = jc.extract(model, loader, pool="mean", progress=False)
    np.testing.assert_allclose(found["tokens"], TABLE[IDS].mean(1), rtol=1e-5, atol=1e-6)


TEXTS = ["a b c", "b", "c c a b", "a a", "b c", "c"] * 4


def tokenizer():
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    words = tokenizers.models.WordLevel({"[PAD]": 0, "a": 1, "b": 2, "c": 3, "?": 4}, unk_token="?")
    core = tokenizers.Tokenizer(words)
    core.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=core, pad_token="[PAD]", unk_token="?")


def encoder(input_ids, attention_mask, token_type_ids=None):
    h = jnp.asarray(TABLE)[input_ids]
    valid = attention_mask[..., None]
    return ((h * valid).sum(1) / valid.sum(1))[:, :3], {"tokens": h}


def means():
    return np.stack([TABLE[["?abc".index(word) for word in text.split()]].mean(0) for text in TEXTS])


@pytest.mark.parametrize("kind", ["np", "pt", None])
def test_a_tokenizer_as_preprocess(kind):
    preprocess = partial(tokenizer(), padding=True, return_tensors=kind)
    batches = (preprocess(TEXTS[i : i + 5]) for i in range(0, len(TEXTS), 5))
    found = jc.extract(encoder, batches, pool="mean", mask="attention_mask", progress=False)
    np.testing.assert_allclose(found["tokens"], means(), rtol=1e-5, atol=1e-6)
    tokens = quiet(encoder, preprocess(TEXTS), batch_size=7, where="attention_mask")
    assert tokens.groups.tolist() == [i for i, text in enumerate(TEXTS) for _ in text.split()]
    source = jc.model_source(
        encoder, lambda rows: preprocess([TEXTS[i] for i in rows]), mask="attention_mask", rest=False
    )
    features = jc.layers.model_sources.pooled_features(source, np.arange(len(TEXTS)), progress=False)
    np.testing.assert_allclose(features["tokens"], means(), rtol=1e-5, atol=1e-6)


def test_a_tokenizer_that_does_not_fill_up():
    with pytest.raises(ValueError, match="padding=True, return_tensors='np'"):
        jc.extract(encoder, [tokenizer()(TEXTS[:3])], progress=False)


def test_a_mapping_that_jax_knows_stays_what_it_is():
    from jaxconvex.layers.batches import as_tree

    batch = {"ids": [1, 2]}
    assert as_tree(batch) is batch and jax.tree.leaves(batch) == [1, 2]
