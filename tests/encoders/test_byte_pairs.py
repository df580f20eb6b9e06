"""Texts for decoders, CLIP and SigLIP 2: against the tokenizers of transformers, and files that contradict their class."""

from __future__ import annotations

import json

import numpy as np
import pytest
from test_text import CORPUS, TEXTS, expected, same

from jaxconvex.encoders.preprocessing import preprocessor

tokenizers = pytest.importorskip("tokenizers", reason="of the extra jaxconvex[encoders]")

SPOKEN = [text for text in TEXTS if text] + ["a\n\n b  c 12345 <|endoftext|> d", "<bos> e <s> f"]
CLASSES = {
    "gpt2": ("GPT2Tokenizer", {}),
    "gpt_neox": ("GPTNeoXTokenizer", {}),
    "qwen2": ("Qwen2Tokenizer", {}),
    "qwen3": ("Qwen2Tokenizer", {}),
    "llama": (
        "LlamaTokenizer",
        {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "add_bos_token": True},
    ),
    "gemma2": ("GemmaTokenizer", {"add_bos_token": True}),
    "gemma3_text": ("GemmaTokenizer", {"add_bos_token": True}),
    "clip_text_model": ("CLIPTokenizer", {}),
    "siglip_text_model": ("Siglip2Tokenizer", {"add_eos_token": True}),
}


@pytest.fixture(scope="module")
def pieces():
    """Vocabulary and merges of bytes (as GPT-2's), of characters with bytes for those that are unknown (as Gemma's), and of
    bytes with ends of words (as CLIP's)."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    made = {}
    for name in ("bytes", "characters", "words"):
        end = {"end_of_word_suffix": "</w>"} if name == "words" else {}
        tokenizer = Tokenizer(models.BPE(**end))
        special = ["<|endoftext|>", "<|startoftext|>" if name == "words" else "<|padding|>"]
        letters = pre_tokenizers.ByteLevel.alphabet()
        if name != "characters":
            tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        else:
            tokenizer.normalizer = normalizers.Replace(" ", "▁")
            special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<0x{i:02X}>" for i in range(256))]
            letters = []
        trainer = trainers.BpeTrainer(
            vocab_size=600, special_tokens=special, initial_alphabet=letters, show_progress=False, **end
        )
        tokenizer.train_from_iterator([text for text in CORPUS if text.isascii()], trainer)
        model = json.loads(tokenizer.to_str())["model"]
        made[name] = model["vocab"], [tuple(pair) for pair in model["merges"]]
    return made


def written(family, pieces, folder):
    transformers = pytest.importorskip("transformers")
    name, options = CLASSES[family]
    kinds = dict.fromkeys(("LlamaTokenizer", "GemmaTokenizer", "Siglip2Tokenizer"), "characters")
    vocabulary, merges = pieces[kinds.get(name, "words" if name == "CLIPTokenizer" else "bytes")]
    tokenizer = getattr(transformers, name)(vocab=vocabulary, merges=merges, model_max_length=50, **options)
    tokenizer.save_pretrained(folder)
    return transformers.AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("family", [family for family in CLASSES if family != "siglip_text_model"])
def test_ids_are_those_of_transformers(family, pieces, tmp_path):
    theirs = written(family, pieces, tmp_path)
    found = preprocessor(tmp_path, family, {})(SPOKEN)
    if theirs.pad_token is None:  # GPT-2's has none, and a mask needs none
        theirs.pad_token_id = 0
        assert (found.inputs[~found.mask] == 0).all()
        plain, _ = expected(theirs, SPOKEN[:1], 50)
        np.testing.assert_array_equal(found.inputs[:1, : plain.shape[1]], plain)
    for text in SPOKEN:
        ids, mask = preprocessor(tmp_path, family, {})([text])
        assert ids[mask].tolist() == theirs(text, truncation=True, max_length=50)["input_ids"], text
    if family != "gpt2":
        same(found, expected(theirs, SPOKEN, 50))


def test_texts_for_siglip_have_one_length_and_no_mask(pieces, tmp_path):
    theirs = expected(written("siglip_text_model", pieces, tmp_path), SPOKEN, 50, padding="max_length")
    run = preprocessor(tmp_path, "siglip_text_model", {})
    same(run(SPOKEN, mask=True), theirs)
    assert run(SPOKEN).mask is None
    np.testing.assert_array_equal(run(SPOKEN).inputs, theirs[0])
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "SiglipTokenizer"}))
    (tmp_path / "spiece.model").write_bytes(b"")
    with pytest.raises(ValueError, match=r"SentencePiece model only.* Make the ids with transformers"):
        preprocessor(tmp_path, "siglip_text_model", {})


@pytest.mark.parametrize(
    ("family", "change", "part"),
    [
        ("gpt2", {"normalizer": {"type": "Lowercase"}}, "normalizer"),
        ("gpt2", {"pre_tokenizer": {"type": "Digits", "individual_digits": True}}, "pre_tokenizer"),
        ("gemma2", {"normalizer": None}, "normalizer"),
    ],
)
def test_files_that_contradict_their_class_are_refused(family, change, part, pieces, tmp_path):
    written(family, pieces, tmp_path)
    file = json.loads((tmp_path / "tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps(file | change))
    with pytest.raises(ValueError, match=f"do not agree on the {part}, so that their ids may differ"):
        preprocessor(tmp_path, family, {})
    said = json.loads((tmp_path / "tokenizer_config.json").read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(said))
    assert preprocessor(tmp_path, family, {})(["A dog"]).mask.all()
