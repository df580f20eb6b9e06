"""A checkpoint's files as a tokenizer of the library tokenizers, by the rules of transformers 5.

What a class of tokenizer does to a text is its own, whatever tokenizer.json says beside: of that file its vocabulary and its
added tokens are taken. Only for a PreTrainedTokenizerFast does the file itself say everything. Which tokens are found whole
in a text is said in up to five places: see `_tokens`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jaxconvex.encoders.checkpoints import read_json
from jaxconvex.encoders.preprocessing.byte_pairs import BYTE_PAIRS, PIECES, check_way
from jaxconvex.encoders.preprocessing.inputs import missing

__all__ = ["read_tokenizer"]

WORD_PIECE = ("BertTokenizer", "DistilBertTokenizer", "SqueezeBertTokenizer", "ElectraTokenizer")
BYTE_LEVEL = ("RobertaTokenizer", "LongformerTokenizer", "LukeTokenizer", "CLIPTokenizer")
WHOLE = ("PreTrainedTokenizer", "TokenizersBackend")  # the first without its ending "Fast"
UNASKED = (
    "qwen2",
    "modernbert",
)  # families whose class transformers does not ask, as their files often name a wrong one
USUAL = {  # the class of a family whose files name none
    "bert": "BertTokenizer",
    "distilbert": "DistilBertTokenizer",
    "squeezebert": "SqueezeBertTokenizer",
    "roberta": "RobertaTokenizer",
    "data2vec-text": "RobertaTokenizer",
    "luke": "LukeTokenizer",
    "modernbert": "TokenizersBackend",
    "clip_text_model": "CLIPTokenizer",
    "siglip_text_model": "SiglipTokenizer",
    "gpt2": "GPT2Tokenizer",
    "gpt_neox": "GPTNeoXTokenizer",
    "llama": "TokenizersBackend",
    "qwen2": "TokenizersBackend",
    "qwen3": "Qwen2Tokenizer",
    "gemma2": "GemmaTokenizer",
    "gemma3_text": "GemmaTokenizer",
}
NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
BRACKETS = dict(zip(NAMED[2:], ("[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]"), strict=True))
ANGLES = dict(zip(NAMED, ("<s>", "</s>", "<unk>", "</s>", "<pad>", "<s>", "<mask>"), strict=True))
CLIP = {"bos_token": "<|startoftext|>", **dict.fromkeys(("eos_token", "unk_token", "pad_token"), "<|endoftext|>")}
# The tokens that a class names where no file does.
UNNAMED = dict.fromkeys(WORD_PIECE, BRACKETS) | dict.fromkeys(BYTE_LEVEL, ANGLES) | BYTE_PAIRS | {"CLIPTokenizer": CLIP}
# CLIP's words: its own two tokens, contractions, letters, single digits, signs.
CLIP_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
ENTITIES = {  # LUKE's; those of its other sequence become tokens of the text all the same
    "entity_1_token": "<ent>",
    "entity_2_token": "<ent2>",
    "entity_unk_token": "[UNK]",
    "entity_pad_token": "[PAD]",
    "entity_mask_token": "[MASK]",
    "entity_mask2_token": "[MASK2]",
}
MAY_BE_NULL = ("strip_accents", "add_prefix_space")
ADVICE = (
    "Write a tokenizer.json with transformers: AutoTokenizer.from_pretrained(folder).save_pretrained(folder). If that file "
    'says all that the tokenizer does, set "tokenizer_class": "PreTrainedTokenizerFast" in tokenizer_config.json.'
)

OWN_IDS = (
    "Make the ids with transformers, as the encoder takes them all the same: "
    'AutoTokenizer.from_pretrained(folder)(texts, padding="max_length", return_tensors="np")["input_ids"].'
)


class Tokens(NamedTuple):
    """What the files say of tokens that are found whole in a text."""

    declared: dict[int, Any]  # by number
    named: dict[str, Any]  # by their part: cls_token, ...
    others: list[Any]
    usual: frozenset[str]  # the parts that no file names


def read_tokenizer(folder: Path, model_type: str, config: Mapping[str, Any]) -> tuple[Any, dict[str, Any]] | None:
    """The tokenizer in a folder, and what its files say beside: lengths, sides, the token of padding; None without files.

    Raises:
        ValueError: the files ask for a tokenizer that is not known here, contradict each other, or are broken.
        ImportError: the library tokenizers is missing.
    """
    said = read_json(folder / "tokenizer_config.json") or {}
    name = str(said.pop("tokenizer_class", None) or config.get("tokenizer_class") or USUAL[model_type])
    kind = WHOLE[1] if model_type in UNASKED else name.removesuffix("Fast")
    needed = ("vocab.txt",) if kind in WORD_PIECE else ("vocab.json", "merges.txt") if kind in BYTE_LEVEL else ()
    file = read_json(folder / "tokenizer.json")
    if file is None and not (needed and all((folder / part).is_file() for part in needed)):
        names = [path.name for path in sorted(folder.iterdir())] if folder.is_dir() else []
        if any(part.endswith(".model") for part in names):
            advice = OWN_IDS if kind == "SiglipTokenizer" else ADVICE  # no tokenizer.json has what it does to a text
            raise ValueError(f"{folder} holds a SentencePiece model only, which is not read here. {advice}")
        if pieces := [part for part in names if part in ("vocab.txt", "vocab.json", "merges.txt")]:
            raise ValueError(f"a {name} cannot be built from {', '.join(pieces)} here. {ADVICE}")
        return None
    if kind not in (*WORD_PIECE, *BYTE_LEVEL, *BYTE_PAIRS, *WHOLE):
        raise ValueError(f"a {name} cannot be built here. {ADVICE}")
    _check(folder, said)
    try:
        return _built(folder, kind, said, file)
    except Exception as error:  # the library raises nothing narrower
        if isinstance(error, (ImportError, ValueError)) and not isinstance(error, UnicodeDecodeError):
            raise
        raise ValueError(f"the tokenizer in {folder} cannot be read ({error}). Download its files again.") from error


def _check(folder: Path, said: dict[str, Any]) -> None:
    for key in ("do_lower_case", "tokenize_chinese_chars", "add_prefix_space", "split_special_tokens", "strip_accents"):
        if not isinstance(said.get(key, False), bool) and not (key in MAY_BE_NULL and said[key] is None):
            raise ValueError(f"{key} in {folder / 'tokenizer_config.json'} must be true or false; got {said[key]!r}.")
    for key in ("padding_side", "truncation_side"):
        if said.get(key, "right") not in ("left", "right"):
            raise ValueError(f"{key} in {folder / 'tokenizer_config.json'} must be left or right; got {said[key]!r}.")
    if said.get("do_basic_tokenize") is False or said.get("never_split"):
        key = "never_split" if said.get("never_split") else "do_basic_tokenize"
        raise ValueError(f"{folder} asks for {key}={said[key]!r}, which is not supported. {ADVICE}")


def _built(folder: Path, kind: str, said: dict[str, Any], file: dict[str, Any] | None) -> tuple[Any, dict[str, Any]]:
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise missing("tokenizers") from error
    tokens = _tokens(folder, kind, said, file or {})
    if kind in WORD_PIECE:
        tokenizer = _word_piece(folder, said, file, tokens.named.get("unk_token"))
    elif kind in BYTE_LEVEL:
        tokenizer = _byte_level(folder, kind, said, file, tokens.named.get("unk_token"))
    else:
        if kind in BYTE_PAIRS:
            check_way(folder, kind, said, file or {}, ADVICE)
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    frame = _frame(tokenizer, tokens, kind) if kind in (*WORD_PIECE, *BYTE_LEVEL) else None
    _add(tokenizer, tokens, folder)
    if frame is not None:
        _surround(tokenizer, *frame, kind, bool(said.get("add_prefix_space")))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = said.get("split_special_tokens", False)
    parts = {what: (file or {}).get(what) or {} for what in ("truncation", "padding")}
    baked = {f"{what}_side": part["direction"].lower() for what, part in parts.items() if "direction" in part}
    pad = tokens.named["pad_token"].content if "pad_token" in tokens.named else None
    usual = {"padding_side": "left"} if kind in PIECES else {}
    return tokenizer, usual | baked | said | {"pad_token": pad}


def _word_piece(folder: Path, said: dict[str, Any], file: dict[str, Any] | None, unknown: Any) -> Any:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    if file is None:
        with open(folder / "vocab.txt", encoding="utf-8-sig") as lines:
            vocabulary = {line.rstrip("\n"): i for i, line in enumerate(lines)}
    else:
        vocabulary = _model(folder, file, "WordPiece")["vocab"]
    if unknown is None or unknown.content not in vocabulary:
        raise ValueError(f"the vocabulary in {folder} must hold the token of unknown words, unk_token; it does not.")
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=unknown.content))
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        lowercase=said.get("do_lower_case", True),
        strip_accents=said.get("strip_accents"),  # None: as lowercase
        handle_chinese_chars=said.get("tokenize_chinese_chars", True),
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def _byte_level(folder: Path, kind: str, said: dict[str, Any], file: dict[str, Any] | None, unknown: Any) -> Any:
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    if file is None:
        vocabulary = read_json(folder / "vocab.json") or {}
        _, merges = models.BPE.read_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
    else:
        model = _model(folder, file, "BPE")
        vocabulary = model["vocab"]
        merges = [(*(pair.split(" ") if isinstance(pair, str) else pair),) for pair in model["merges"]]
    if kind == "CLIPTokenizer":
        unk = None if unknown is None else unknown.content
        tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token=unk, end_of_word_suffix="</w>"))
        spaces = normalizers.Replace(Regex(r"\s+"), " ")
        tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), spaces, normalizers.Lowercase()])
        words = pre_tokenizers.Split(Regex(CLIP_WORDS), "removed", invert=True)
        letters = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, letters])
        return tokenizer
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=bool(said.get("add_prefix_space")))
    return tokenizer


def _model(folder: Path, file: dict[str, Any], kind: str) -> dict[str, Any]:
    model = file["model"]
    if model.get("type", kind) not in (kind, "WordLevel" if kind == "WordPiece" else kind):  # words without pieces
        raise ValueError(
            f"{folder / 'tokenizer.json'} holds a {model['type']}, and its class is one of {kind}. {ADVICE}"
        )
    return model


def _frame(tokenizer: Any, tokens: Tokens, kind: str) -> tuple[str, str]:
    """The tokens around a text. The vocabulary has them, or some file names them, and they are added to it."""
    known = tokenizer.get_vocab().keys() | {token.content for token in tokens.declared.values()}
    parts = ("bos_token", "eos_token") if kind == "CLIPTokenizer" else ("cls_token", "sep_token")
    first, last = (tokens.named[part].content if part in tokens.named else None for part in parts)
    named = {token.content for part, token in tokens.named.items() if part not in tokens.usual}
    if first is None or last is None or not {first, last} <= known | named:
        raise ValueError(f"the vocabulary must hold the special tokens {first!r} and {last!r}; one of them is missing.")
    return first, last


def _surround(tokenizer: Any, first: str, last: str, kind: str, prefix: bool) -> None:
    """Set what is added around a text: [CLS] text [SEP], or <s> text </s>."""
    from tokenizers import processors

    ids = [tokenizer.token_to_id(token) for token in (first, last)]
    if kind in BYTE_LEVEL:
        tokenizer.post_processor = processors.RobertaProcessing((last, ids[1]), (first, ids[0]), True, prefix)
    else:
        special = list(zip((first, last), ids, strict=True))
        tokenizer.post_processor = processors.TemplateProcessing(single=[first, "$A", last], special_tokens=special)


def _tokens(folder: Path, kind: str, said: dict[str, Any], file: dict[str, Any]) -> Tokens:
    """The tokens of tokenizer_config.json; without `added_tokens_decoder` there, those of the other three files too."""
    said = dict(said)
    if not said.get("extra_special_tokens") and "additional_special_tokens" in said:
        said["extra_special_tokens"] = said.pop("additional_special_tokens")
    numbered = said.get("added_tokens_decoder") or {}
    if not isinstance(numbered, dict) or not all(i.isdecimal() for i in numbered):
        raise ValueError(f"added_tokens_decoder must map numbers to tokens; got {numbered!r:.80}.")
    declared = {int(i): _token(token) for i, token in numbered.items()}
    if "added_tokens_decoder" not in said:
        for key, value in (read_json(folder / "special_tokens_map.json") or {}).items():
            if key == "extra_special_tokens" and isinstance(value, list):
                value = [*(said.get(key) or ()), *value]
            said[key] = _token(value | {"special": True}) if isinstance(value, dict) and "content" in value else value
        special = {_content(said[name]) for name in NAMED if said.get(name)}
        special |= {_content(token) for token in said.get("extra_special_tokens") or ()}
        for content, i in (read_json(folder / "added_tokens.json") or {}).items():
            own = content in special
            declared[i] = _token({"content": content, "special": own, "normalized": not own})
        declared |= {token["id"]: _token(token) for token in file.get("added_tokens", ())}
    named: dict[str, Any] = dict.fromkeys(NAMED) | UNNAMED.get(kind, {})
    if kind == "LukeTokenizer":
        said |= {f"entity_{i}_token": said.pop(f"entity_token_{i}") for i in (1, 2) if f"entity_token_{i}" in said}
        named |= ENTITIES
    named |= {part: said[part] for part in said if part in NAMED or _is_part(part, said[part])}
    others: list[Any] = []
    if isinstance(said.get("extra_special_tokens"), dict):
        named |= said.pop("extra_special_tokens")
    elif said.get("extra_special_tokens") is not None:
        others += said["extra_special_tokens"]
    if "additional_special_tokens" in said and ("extra_special_tokens" not in said or kind == "LukeTokenizer"):
        others += said["additional_special_tokens"] or ()
    if kind in WHOLE and file.get("padding") and "pad_token" not in said:
        named["pad_token"] = file["padding"]["pad_token"]
    by_part = {part: _token(token) for part, token in named.items() if token is not None}
    by_content = {token.content: token for token in declared.values()}
    whole = {part: by_content.get(token.content, token) for part, token in by_part.items()}
    return Tokens(declared, whole, [_token(token) for token in others], frozenset(whole) - frozenset(said))


def _is_part(key: str, value: Any) -> bool:
    """Whether an entry of a file is a token by a name of its own, as image_token."""
    return key.endswith("_token") and (isinstance(value, (str, dict)) or type(value).__name__ == "AddedToken")


def _token(value: Any) -> Any:
    """A token in the words of the library; a string is one that is special."""
    from tokenizers import AddedToken

    if isinstance(value, str):
        return AddedToken(value, special=True)
    if isinstance(value, dict):
        if not isinstance(value.get("content"), str):
            raise ValueError(f"a token of a tokenizer must have its content as a string; got {value!r:.80}.")
        keys = ("single_word", "lstrip", "rstrip", "normalized", "special")
        return AddedToken(value["content"], **{key: value[key] for key in keys if key in value})
    if not isinstance(value, AddedToken):
        raise ValueError(f"a token of a tokenizer must be a string or an object; got {value!r:.80}.")
    return value


def _content(value: Any) -> str:
    return value if isinstance(value, str) else _token(value).content


def _add(tokenizer: Any, tokens: Tokens, folder: Path) -> None:
    """Tell the tokenizer which tokens are found whole in a text; those that its vocabulary lacks get the next numbers."""
    there = tokenizer.get_added_tokens_decoder().values()
    unchanged = {repr(token) for token in there}
    adding = [token for _, token in sorted(tokens.declared.items()) if repr(token) not in unchanged]
    seen = {token.content for token in (*there, *adding)}
    adding += [token for token in (*tokens.named.values(), *tokens.others) if token.content not in seen]
    names = {token.content for token in tokens.named.values()}
    for token in adding:
        token.special = token.special or token.content in names
    tokenizer.add_tokens(adding)
    for i, token in tokens.declared.items():
        if tokenizer.token_to_id(token.content) != i:
            raise ValueError(
                f"the files in {folder} contradict each other: {token.content!r} should have id {i} and has "
                f"{tokenizer.token_to_id(token.content)}. {ADVICE}"
            )
