"""Texts as token ids, by a checkpoint's own tokenizer files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxconvex.encoders.preprocessing.byte_pairs import DECODERS
from jaxconvex.encoders.preprocessing.inputs import Inputs, as_items, whole
from jaxconvex.encoders.preprocessing.tokenizer_files import read_tokenizer

__all__ = ["TextSettings", "preprocess_texts", "text_settings"]

FULL = ("siglip_text_model",)  # trained on texts of one length, padding and all
COUNTED_FROM_PADDING = ("roberta", "data2vec-text", "luke")  # their position ids begin after the padding's id


class TextSettings(NamedTuple):
    """A tokenizer (of the library tokenizers, without truncation and padding) and the limits of its model."""

    tokenizer: Any
    pad: int  # the id of padding
    most: int | None = None  # tokens that the model takes; None where no file tells
    vocabulary: int | None = None  # ids that the model knows
    cut: str = "right"  # the side of a text that is too long
    padded: str = "right"  # the side of padding
    full: bool = False  # whether every text has the most tokens, and padding counts as text


def preprocess_texts(
    items: Sequence[str],
    settings: TextSettings,
    *,
    max_length: int | None = None,
    length: int | None = None,
    mask: bool | None = None,
) -> Inputs:
    """The texts as int32 token ids (b, t), and a bool mask (b, t) that is True on tokens and False on padding.

    Args:
        items: a list of strings. An empty one gives only the special tokens.
        settings: bound already in the function that `encoders.load` returns.
        max_length: most tokens of a text, the special ones among them; a longer one is cut at its end, or where the
            checkpoint says truncation_side "left" at its begin. By default, and at most, what the model takes: the
            smaller of tokenizer_config.json's model_max_length and the positions of the model (RoBERTa and its kin use
            max_position_embeddings - padding id - 1 of them).
        length: pads all to this many tokens (and cuts at it), so that a compiled function sees one shape. By default the
            longest text of the batch; for SigLIP what the model takes, as in training.
        mask: whether to return a mask. By default for all but SigLIP, which was trained to read the padding too.

    Special tokens are added as the tokenizer says; padding is on the right, or as the checkpoint's padding_side says. The
    ids are those of transformers 5, but for the lengths in a tokenizer.json with truncation or padding baked in, which are
    ignored here, and for a byte-order mark before a vocabulary, which is no part of its first token.

    Raises:
        ValueError: an item is no string, has no token, or one that the model does not know; a length is too small for the
            special tokens or too large for the model.

    >>> from tokenizers import Tokenizer, models
    >>> settings = TextSettings(Tokenizer(models.WordLevel({"[PAD]": 0, "yes": 1, "?": 2}, unk_token="?")), pad=0)
    >>> ids, mask = preprocess_texts(["yes", "perhaps"], settings, length=2)
    >>> ids.tolist(), mask.tolist()
    ([[1, 0], [2, 0]], [[True, False], [True, False]])
    """
    tokenizer, pad, limit, vocabulary, cut, padded, full = settings
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
            encoding.truncate(most - special, direction=cut)
        rows.append(tokenizer.post_process(encoding).ids)
        if not rows[-1]:
            raise ValueError(f"item {len(rows) - 1} has no token: {texts[len(rows) - 1]!r:.40}. Leave it out.")
    width = length or (limit if full else None) or max(map(len, rows))
    counts = np.array([len(row) for row in rows])[:, None]
    valid = np.arange(width) < counts if padded == "right" else np.arange(width) >= width - counts
    ids = np.full(valid.shape, pad, np.int32)
    ids[valid] = np.concatenate(rows)
    if vocabulary is not None and ids.max() >= vocabulary:
        row = int(ids.max(axis=1).argmax())
        token = tokenizer.id_to_token(int(ids.max()))
        raise ValueError(
            f"item {row} has the token {token!r} with id {ids.max()}, but the model knows ids up to {vocabulary - 1}. The "
            "tokenizer is of another checkpoint, or the token was added to it and not to the model: take it out of the text."
        )
    return Inputs(ids, valid if (not full if mask is None else mask) else None)


def text_settings(folder: Path | None, model_type: str, config: dict[str, Any]) -> TextSettings | None:
    """The tokenizer in a folder and its limits, or None if the folder has no tokenizer.

    Read are tokenizer.json; else vocab.txt (WordPiece); else vocab.json and merges.txt (byte-level BPE). The choices in
    tokenizer_config.json (do_lower_case, strip_accents, tokenize_chinese_chars, add_prefix_space, the sides of truncation
    and padding) hold for all of them.
    """
    contents = None if folder is None else read_tokenizer(folder, model_type, config)
    if contents is None:
        return None
    tokenizer, said = contents
    pad = None if said["pad_token"] is None else tokenizer.token_to_id(said["pad_token"])
    pad = config.get("pad_token_id") if pad is None else pad
    if pad is None and model_type in DECODERS:
        pad = 0  # the mask leaves it out, and no token sees it
    if pad is None:
        raise ValueError(
            f"no file in {folder} tells the token of padding; name it in tokenizer_config.json as pad_token."
        )
    limits = [
        said.get("model_max_length") or said.get("max_len"),
        config.get("max_position_embeddings", config.get("n_positions")),
    ]
    if limits[1] is not None and model_type in COUNTED_FROM_PADDING:
        padding = config.get("pad_token_id")
        limits[1] -= (1 if padding is None else padding) + 1
    known = []
    for limit in limits:
        if limit is not None and (
            isinstance(limit, (bool, str)) or not limit > tokenizer.num_special_tokens_to_add(False)
        ):
            raise ValueError(f"the tokens that a text may have must be a number above its special ones; got {limit!r}.")
        if limit is not None and limit < 10**9:  # 1e30 says that there is none
            known.append(int(limit))
    return TextSettings(
        tokenizer,
        int(pad),
        min(known, default=None),
        config.get("vocab_size"),
        said.get("truncation_side", "right"),
        said.get("padding_side", "right"),
        model_type in FULL,
    )
