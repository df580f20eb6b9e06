"""Texts as token ids, by a checkpoint's own tokenizer files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxconvex.encoders.checkpoints import read_json
from jaxconvex.encoders.preprocessing.inputs import Inputs, as_items, missing, whole

__all__ = ["TextSettings", "preprocess_texts", "text_settings"]

COUNTED_FROM_PADDING = ("roberta", "data2vec-text", "luke")  # their position ids begin after the padding's id
WORD_PIECE = {"unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"}
BYTE_LEVEL = {
    "bos": "<s>",
    "eos": "</s>",
    "unk": "<unk>",
    "sep": "</s>",
    "pad": "<pad>",
    "cls": "<s>",
    "mask": "<mask>",
}
BUILDABLE = {
    "vocab.txt": ("Bert", "DistilBert", "SqueezeBert", "Electra", "MPNet"),
    "merges.txt": ("Roberta", "Luke", "Longformer"),
}


class TextSettings(NamedTuple):
    """A tokenizer (of the library tokenizers, without truncation and padding) and the limits of its model."""

    tokenizer: Any
    pad: int  # the id of padding
    most: int | None = None  # tokens that the model takes; None where no file tells
    vocabulary: int | None = None  # ids that the model knows


def preprocess_texts(
    items: Sequence[str], settings: TextSettings, *, max_length: int | None = None, length: int | None = None
) -> Inputs:
    """The texts as int32 token ids (b, t), and a bool mask (b, t) that is True on tokens and False on padding.

    Args:
        items: a list of strings. An empty one gives only the special tokens.
        settings: bound already in the function that `encoders.load` returns.
        max_length: most tokens of a text, the special ones among them; the end of a longer one is cut. By default, and at
            most, what the model takes: the smaller of tokenizer_config.json's model_max_length and the positions of the
            model (RoBERTa and its kin use max_position_embeddings - padding id - 1 of them).
        length: pads all to this many tokens (and cuts at it), so that a compiled function sees one shape. By default the
            longest text of the batch.

    Special tokens are added as the tokenizer says; padding is on the right. The ids are those of transformers' tokenizers,
    but for a tokenizer.json with truncation or padding baked in, which is ignored here.

    Raises:
        ValueError: an item is no string, or has a token that the model does not know; a length is too small for the special
            tokens or too large for the model.

    >>> from tokenizers import Tokenizer, models
    >>> settings = TextSettings(Tokenizer(models.WordLevel({"[PAD]": 0, "yes": 1, "?": 2}, unk_token="?")), pad=0)
    >>> ids, mask = preprocess_texts(["yes", ""], settings)
    >>> ids.tolist(), mask.tolist()
    ([[1], [0]], [[True], [False]])
    """
    tokenizer, pad, limit, vocabulary = settings
    special = tokenizer.num_special_tokens_to_add(False)
    most = limit
    for name, asked in (("max_length", max_length), ("length", length)):
        if asked is None:
            continue
        whole(asked, name, least=special + 1)
        if limit is not None and asked > limit:
            raise ValueError(f"{name} must be at most {limit}, the tokens that this model takes; got {asked}.")
        most = asked if most is None else min(most, asked)
    texts = as_items(items, "string")
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(f"item {i} must be a string; got {type(text).__name__} {text!r:.40}.")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"item {i} is no valid Unicode ({error.reason} at {error.start}). Read its file with the encoding it has."
            ) from error
    rows = []
    for encoding in tokenizer.encode_batch([str(text) for text in texts], add_special_tokens=False):
        if most is not None:
            encoding.truncate(most - special)
        rows.append(tokenizer.post_process(encoding).ids)
    width = max(map(len, rows)) if length is None else length
    ids = np.full((len(rows), width), pad, np.int32)
    mask = np.zeros(ids.shape, bool)
    for row, found in enumerate(rows):
        ids[row, : len(found)] = found
        mask[row, : len(found)] = True
    if vocabulary is not None and ids.max() >= vocabulary:
        row = int(ids.max(axis=1).argmax())
        token = tokenizer.id_to_token(int(ids.max()))
        raise ValueError(
            f"item {row} has the token {token!r} with id {ids.max()}, but the model knows ids up to {vocabulary - 1}. The "
            "tokenizer is of another checkpoint, or the token was added to it and not to the model: take it out of the text."
        )
    return Inputs(ids, mask)


def text_settings(folder: Path | None, model_type: str, config: dict[str, Any]) -> TextSettings | None:
    """The tokenizer in a folder and its limits, or None if the folder has no tokenizer.

    Read are tokenizer.json; else vocab.txt (WordPiece); else vocab.json and merges.txt (byte-level BPE). The choices in
    tokenizer_config.json (do_lower_case, strip_accents, tokenize_chinese_chars, add_prefix_space) hold for all of them.
    """
    if folder is None:
        return None
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    said = (read_json(folder / "special_tokens_map.json") or {}) | (read_json(folder / "tokenizer_config.json") or {})
    if "tokenizer.json" in names:
        tokenizer = _from_file(folder / "tokenizer.json", said)
    elif "vocab.txt" in names:
        tokenizer = _word_piece(folder, said)
    elif {"vocab.json", "merges.txt"} <= names:
        tokenizer = _byte_level(folder, said, model_type)
    elif any(name.endswith(".model") for name in names):
        raise ValueError(
            f"{folder} holds a SentencePiece model only, which is not read here. Write a tokenizer.json beside it with "
            "transformers: AutoTokenizer.from_pretrained(folder).save_pretrained(folder)."
        )
    else:
        return None
    byte_level = "[PAD]" not in tokenizer.get_vocab()
    names_of = BYTE_LEVEL if byte_level else WORD_PIECE
    if tokenizer.num_special_tokens_to_add(False) == 0:
        _frame(tokenizer, _content(said, "cls", names_of), _content(said, "sep", names_of), byte_level)
    pad = tokenizer.token_to_id(_content(said, "pad", names_of))
    pad = config.get("pad_token_id") if pad is None else pad
    if pad is None:
        raise ValueError(
            f"no file in {folder} tells the token of padding; name it in tokenizer_config.json as pad_token."
        )
    limits = [said.get("model_max_length"), config.get("max_position_embeddings")]
    if limits[1] is not None and model_type in COUNTED_FROM_PADDING:
        padding = config.get("pad_token_id")
        limits[1] -= (1 if padding is None else padding) + 1
    known = [int(limit) for limit in limits if limit is not None and limit < 10**9]  # 1e30 says that there is none
    return TextSettings(tokenizer, int(pad), min(known, default=None), config.get("vocab_size"))


def _from_file(path: Path, said: dict[str, Any]) -> Any:
    tokenizers = _library()
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise ValueError(
            f"{path} cannot be read ({error}). A newer release of tokenizers may; otherwise download the file again."
        ) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    normalizer, splitter = tokenizer.normalizer, tokenizer.pre_tokenizer
    if isinstance(normalizer, tokenizers.normalizers.BertNormalizer):
        for key, attribute in (
            ("do_lower_case", "lowercase"),
            ("strip_accents", "strip_accents"),
            ("tokenize_chinese_chars", "handle_chinese_chars"),
        ):
            if key in said:
                setattr(normalizer, attribute, said[key])
        tokenizer.normalizer = normalizer
    if isinstance(splitter, tokenizers.pre_tokenizers.ByteLevel) and "add_prefix_space" in said:
        splitter.add_prefix_space = said["add_prefix_space"]
        tokenizer.pre_tokenizer = splitter
    return tokenizer


def _word_piece(folder: Path, said: dict[str, Any]) -> Any:
    tokenizers = _library()
    _check_class(folder, said, "vocab.txt")
    if said.get("do_basic_tokenize") is False:
        raise ValueError(
            f"{folder} asks for do_basic_tokenize=false, which is not supported. Write a tokenizer.json instead."
        )
    with open(folder / "vocab.txt", encoding="utf-8") as lines:
        vocabulary = {line.rstrip("\n"): i for i, line in enumerate(lines)}
    unknown = _content(said, "unk", WORD_PIECE)
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocabulary, unk_token=unknown))
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(
        clean_text=True,
        lowercase=said.get("do_lower_case", True),
        strip_accents=said.get("strip_accents"),  # None: as lowercase
        handle_chinese_chars=said.get("tokenize_chinese_chars", True),
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    _add_special(tokenizer, folder, said, WORD_PIECE, ())
    _frame(tokenizer, _content(said, "cls", WORD_PIECE), _content(said, "sep", WORD_PIECE), byte_level=False)
    return tokenizer


def _byte_level(folder: Path, said: dict[str, Any], model_type: str) -> Any:
    tokenizers = _library()
    _check_class(folder, said, "merges.txt")
    model = tokenizers.models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=said.get("add_prefix_space", False))
    entities = ("<ent>", "<ent2>") if model_type == "luke" else ()
    _add_special(tokenizer, folder, said, BYTE_LEVEL, entities)
    _frame(tokenizer, _content(said, "cls", BYTE_LEVEL), _content(said, "sep", BYTE_LEVEL), byte_level=True)
    return tokenizer


def _library() -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise missing("tokenizers") from error
    return tokenizers


def _check_class(folder: Path, said: dict[str, Any], file: str) -> None:
    name = said.get("tokenizer_class")
    if name and name.removesuffix("Fast").removesuffix("Tokenizer") not in BUILDABLE[file]:
        raise ValueError(
            f"a {name} cannot be built from {file} here. Write a tokenizer.json into {folder} with transformers: "
            "AutoTokenizer.from_pretrained(folder).save_pretrained(folder)."
        )


def _token(said: dict[str, Any], part: str, defaults: dict[str, str]) -> dict[str, Any]:
    """A special token as an object with at least its content: files spell it as a string or as an object."""
    token = said.get(f"{part}_token") or defaults[part]
    if isinstance(token, dict):
        return token
    return {"content": token, "lstrip": token == "<mask>"}  # RoBERTa's mask takes in the space before it


def _content(said: dict[str, Any], part: str, defaults: dict[str, str]) -> str:
    return _token(said, part, defaults)["content"]


def _add_special(
    tokenizer: Any, folder: Path, said: dict[str, Any], defaults: dict[str, str], entities: Sequence[str]
) -> None:
    """Tells the tokenizer its special tokens, so that they are found whole in a text, with the ids that the files give."""
    named = [
        part for part in defaults if said.get(f"{part}_token") or tokenizer.token_to_id(defaults[part]) is not None
    ]
    special = [_token(said, part, defaults) for part in named]
    others: list[Any] = []
    for key in ("additional_special_tokens", "extra_special_tokens"):
        found = said.get(key) or ()
        others += found.values() if isinstance(found, dict) else found
    others += entities
    special += [token if isinstance(token, dict) else {"content": token} for token in others]
    declared = {int(i): token for i, token in said.get("added_tokens_decoder", {}).items()}
    if not declared:
        names = {token["content"] for token in special}
        for content, i in (read_json(folder / "added_tokens.json") or {}).items():
            declared[i] = {"content": content, "special": content in names}
    tokens = [declared[i] for i in sorted(declared)] + special
    seen = set()
    for token in tokens:
        if token["content"] in seen:
            continue
        seen.add(token["content"])
        settings = {key: token[key] for key in ("lstrip", "rstrip", "single_word", "normalized") if key in token}
        is_special = token.get("special", True)
        tokenizer.add_tokens([_library().AddedToken(token["content"], special=is_special, **settings)])
    for i, token in declared.items():
        if tokenizer.token_to_id(token["content"]) != i:
            raise ValueError(
                f"the files in {folder} contradict each other: {token['content']!r} should have id {i} and has "
                f"{tokenizer.token_to_id(token['content'])}. Write a tokenizer.json with transformers instead."
            )


def _frame(tokenizer: Any, first: str, last: str, byte_level: bool) -> None:
    """Sets what is added around a text: [CLS] text [SEP], or <s> text </s>."""
    ids = [tokenizer.token_to_id(token) for token in (first, last)]
    if None in ids:
        raise ValueError(f"the vocabulary must hold the special tokens {first!r} and {last!r}; one of them is missing.")
    processors = _library().processors
    if byte_level:
        tokenizer.post_processor = processors.RobertaProcessing((last, ids[1]), (first, ids[0]))
    else:
        special = list(zip((first, last), ids, strict=True))
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{first} $A {last}", special_tokens=special)
