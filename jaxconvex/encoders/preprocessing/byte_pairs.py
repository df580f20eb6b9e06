"""The tokenizers of decoders, and of SigLIP 2: byte pairs, each class with a way of its own to prepare and cut a text.

In transformers 5 a class builds that way anew, and takes from tokenizer.json vocabulary, merges and what is added around a
text. Where the file describes the same way, there is nothing to choose between them; where not, it is refused.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["BYTE_PAIRS", "DECODERS", "PIECES", "check_way"]

DECODERS = ("gpt2", "gpt_neox", "llama", "qwen2", "qwen3", "gemma2", "gemma3_text")
PIECES = ("LlamaTokenizer", "GemmaTokenizer", "Siglip2Tokenizer")  # of SentencePiece once; they put padding on the left
END = "<|endoftext|>"
GEMMA = {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<pad>", "mask_token": "<mask>"}
BYTE_PAIRS: dict[str, dict[str, str]] = {  # the tokens that a class names where no file does
    "GPT2Tokenizer": {"bos_token": END, "eos_token": END, "unk_token": END},
    "GPTNeoXTokenizer": {"bos_token": END, "eos_token": END, "unk_token": END, "pad_token": "<|padding|>"},
    "Qwen2Tokenizer": {"eos_token": END, "unk_token": END, "pad_token": END},
    "LlamaTokenizer": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
    "GemmaTokenizer": GEMMA,
    "Siglip2Tokenizer": GEMMA,
}
# Qwen's words: contractions, letters with one sign before them, single digits, signs, line ends, spaces.
QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def check_way(folder: Path, kind: str, said: dict[str, Any], file: dict[str, Any], advice: str) -> None:
    """Raise ValueError if tokenizer.json describes another way to prepare and cut a text than its class has."""
    from tokenizers import Tokenizer

    # Without its vocabulary, which has no part in this and may have 256,000 words.
    empty = file | {"model": dict(file["model"]), "added_tokens": [], "post_processor": None}
    empty["model"] |= {"vocab": {}, "merges": [], "unk_token": None}
    theirs, ours = (_way(tokenizer) for tokenizer in (Tokenizer.from_str(json.dumps(empty)), _built(kind, said)))
    apart = [part for part, value in ours.items() if value != theirs[part]]
    if apart:
        raise ValueError(
            f"{folder / 'tokenizer.json'} and its class {kind} do not agree on the {apart[0]}, so that their ids may "
            f"differ. {advice}"
        )


def _built(kind: str, said: dict[str, Any]) -> Any:
    """A tokenizer of the class, without vocabulary."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    tokenizer = Tokenizer(models.BPE(fuse_unk=kind in PIECES, byte_fallback=kind in PIECES))
    prefix = said.get("add_prefix_space")
    if kind in ("GPTNeoXTokenizer", "Qwen2Tokenizer"):
        tokenizer.normalizer = normalizers.NFC()
    if kind in ("GemmaTokenizer", "Siglip2Tokenizer"):
        spaces = normalizers.Replace(" ", "▁")
        lower = kind == "Siglip2Tokenizer"
        tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), spaces]) if lower else spaces
        tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    elif kind == "LlamaTokenizer":
        scheme = "never" if prefix is False else "always" if said.get("legacy", False) else "first"
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", scheme, split=False)
    elif kind == "Qwen2Tokenizer":
        cut = pre_tokenizers.Split(Regex(QWEN), "isolated")
        letters = pre_tokenizers.ByteLevel(add_prefix_space=bool(prefix), use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([cut, letters])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=bool(prefix))
    return tokenizer


def _way(tokenizer: Any) -> dict[str, Any]:
    """What decides ids beside the vocabulary."""
    whole = json.loads(tokenizer.to_str(), object_hook=_without_offsets)
    model = {key: whole["model"].get(key) for key in ("dropout", "fuse_unk", "byte_fallback", "ignore_merges")}
    return {"normalizer": whole["normalizer"], "pre_tokenizer": whole["pre_tokenizer"], "model": model}


def _without_offsets(part: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in part.items() if key != "trim_offsets"}  # of places in the text, not of ids
