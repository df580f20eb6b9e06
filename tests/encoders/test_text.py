"""Texts for encoders: against the tokenizers of transformers, from every layout of files, and ids by hand."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest

from jaxconvex.encoders.preprocessing import preprocessor

tokenizers = pytest.importorskip("tokenizers", reason="of the extra jaxconvex[encoders]")

TEXTS = [
    "The quick brown fox jumps over the lazy dog.",
    "",
    "   spaces   and\ttabs\nand lines  ",
    "Café naïve Zürich ÀÉÎÕÜ ﬁne ß İstanbul",
    "emoji 🙂🚀👩‍👩‍👧 and flags 🇩🇰",
    "日本語のテキスト 中文 한국어 русский العربية हिन्दी",
    "don't won't, it's 3.14 $5 (a+b)=c; http://example.org/?q=1",
    "zero\u200bwidth \u00a0 non-breaking \x00\x07 control \ufffd",
    "supercalifragilisticexpialidocious" * 5,
    " ".join(f"word{i} is long" for i in range(400)),
    "[CLS] in a text [SEP] and <s> too </s> [MASK]",
    "<ent> Ada <ent2> Lovelace",
]
CORPUS = [
    *TEXTS[:7],
    "the dog and the fox are long in a line",
    "jumping jumps jumped",
    "a word is a word and words are lines",
]
ROBERTA = {"max_position_embeddings": 66, "pad_token_id": 1}


@pytest.fixture(scope="module")
def word_pieces(tmp_path_factory):
    """Two folders with the same vocabulary: vocab.txt, and tokenizer.json as transformers writes it."""
    trained = tokenizers.BertWordPieceTokenizer()
    trained.train_from_iterator(CORPUS, vocab_size=300, min_frequency=1, show_progress=False)
    old = tmp_path_factory.mktemp("vocab")
    trained.save_model(str(old))
    return old


@pytest.fixture(scope="module")
def byte_pairs(tmp_path_factory):
    trained = tokenizers.ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trained.train_from_iterator(CORPUS, vocab_size=400, min_frequency=1, special_tokens=special, show_progress=False)
    old = tmp_path_factory.mktemp("merges")
    trained.save_model(str(old))
    return old


def expected(tokenizer, texts, most: int, **options):
    found = tokenizer(
        texts, truncation=True, max_length=most, padding=options.pop("padding", True), return_tensors="np"
    )
    return found["input_ids"], found["attention_mask"].astype(bool)


def same(inputs, other) -> None:
    assert inputs.inputs.dtype == np.int32 and inputs.mask.dtype == bool
    np.testing.assert_array_equal(inputs.inputs, other[0])
    np.testing.assert_array_equal(inputs.mask, other[1])


def copied(folder, target, **settings):
    for file in folder.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    (target / "tokenizer_config.json").write_text(json.dumps(settings))
    return target


CASED = [
    {},
    {"do_lower_case": False},
    {"do_lower_case": False, "strip_accents": True},
    {"strip_accents": False, "tokenize_chinese_chars": False},
]


@pytest.mark.parametrize("settings", CASED)
def test_word_pieces_equal_transformers(settings, word_pieces, tmp_path):
    pytest.importorskip("transformers")
    from transformers import BertTokenizer
    from transformers.models.bert.tokenization_bert_legacy import BertTokenizerLegacy

    folder = copied(word_pieces, tmp_path, model_max_length=50, **settings)
    fast = BertTokenizer.from_pretrained(folder)
    slow = BertTokenizerLegacy(str(folder / "vocab.txt"), **settings)
    run = preprocessor(folder, "bert", {"max_position_embeddings": 64})
    for texts in (TEXTS, TEXTS[:1], TEXTS[1:2]):
        same(run(texts), expected(fast, texts, 50))
    by_words = [text for text in TEXTS if "\u200b" not in text]  # the slow one deletes other control characters
    same(run(by_words), expected(slow, by_words, 50))
    fast.save_pretrained(tmp_path / "new")
    assert (tmp_path / "new" / "tokenizer.json").exists()
    for family in ("bert", "distilbert", "squeezebert"):
        same(preprocessor(tmp_path / "new", family, {})(TEXTS), expected(fast, TEXTS, 50))


@pytest.mark.parametrize("prefix", [False, True])
def test_byte_pairs_equal_transformers(prefix, byte_pairs, tmp_path):
    pytest.importorskip("transformers")
    from transformers import RobertaTokenizer

    folder = copied(byte_pairs, tmp_path, add_prefix_space=prefix, tokenizer_class="RobertaTokenizer")
    original = RobertaTokenizer.from_pretrained(folder)
    run = preprocessor(folder, "roberta", ROBERTA)
    same(run(TEXTS), expected(original, TEXTS, 64))
    original.save_pretrained(tmp_path / "new")
    for family in ("roberta", "data2vec-text"):
        same(preprocessor(tmp_path / "new", family, ROBERTA)(TEXTS), expected(original, TEXTS, 64))


@pytest.mark.parametrize("added", [False, True])
def test_luke_equals_transformers(added, byte_pairs, tmp_path):
    pytest.importorskip("transformers")
    from transformers import LukeTokenizer

    folder = copied(byte_pairs, tmp_path, tokenizer_class="LukeTokenizer")
    size = len(json.loads((folder / "vocab.json").read_text()))
    entities = {"[MASK]": 0, "[UNK]": 1, "[PAD]": 2, "[MASK2]": 3}
    (folder / "entity_vocab.json").write_text(json.dumps(entities))
    if added:
        (folder / "added_tokens.json").write_text(json.dumps({"<ent>": size, "<ent2>": size + 1}))
        (folder / "special_tokens_map.json").write_text(json.dumps({"additional_special_tokens": ["<ent>", "<ent2>"]}))
    original = LukeTokenizer.from_pretrained(folder)
    config = ROBERTA | {"vocab_size": size + 2}
    run = preprocessor(folder, "luke", config)
    texts = [
        text.replace("[MASK]", "") for text in TEXTS
    ]  # there it is an entity's token, with an id above the model's
    same(run(texts), expected(original, texts, 64))
    assert set(run(["<ent> x <ent2>"]).inputs[0]) > {size, size + 1}
    original.save_pretrained(tmp_path / "new")
    run = preprocessor(tmp_path / "new", "luke", config)
    same(run(texts), expected(original, texts, 64))
    with pytest.raises(ValueError, match=r"item 1 has the token '\[MASK\]'"):
        run(["a text", "with [MASK]"])


def test_minilm_equals_transformers(data, tmp_path):
    folder = data / "models" / "all-minilm-l6-v2"
    if not folder.is_dir():
        pytest.skip(f"{folder} with the files of sentence-transformers/all-MiniLM-L6-v2")
    config = json.loads((folder / "config.json").read_text())
    run = preprocessor(folder, "bert", config)
    long = " ".join(TEXTS * 8)
    assert run([long]).inputs.shape == (1, 512)  # its tokenizer.json says 128, of truncation and of padding
    assert run(TEXTS[:1]).inputs.shape == (1, 12)
    file = next((f for f in (data / "data/banking77/test.csv", data / "banking77/test.csv") if f.is_file()), None)
    if file is None:
        pytest.skip("needs banking77/test.csv of PolyAI in JAXCONVEX_DATA")
    lines = file.read_text().splitlines()[1:400]
    pytest.importorskip("transformers")
    from transformers import AutoTokenizer
    from transformers.models.bert.tokenization_bert_legacy import BertTokenizerLegacy

    fast, slow = AutoTokenizer.from_pretrained(folder), BertTokenizerLegacy(str(folder / "vocab.txt"))
    for texts in ([*TEXTS, long], lines):
        same(run(texts), expected(fast, texts, 512))
        same(run(texts), expected(slow, texts, 512))
        same(run(texts, length=100), expected(fast, texts, 100, padding="max_length"))
    (tmp_path / "vocab.txt").write_bytes((folder / "vocab.txt").read_bytes())
    same(preprocessor(tmp_path, "bert", config)(lines), run(lines))


# By hand

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "dog", "##s", "##gy", "do"]


@pytest.fixture
def small(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    return preprocessor(tmp_path, "bert", {"max_position_embeddings": 6})


def test_ids_by_hand(small):
    ids, mask = small(["The DOGS", "doggy cat", ""])
    assert ids.tolist() == [[2, 5, 6, 7, 3], [2, 6, 8, 1, 3], [2, 3, 0, 0, 0]]
    assert mask.sum(axis=1).tolist() == [5, 5, 2]


def test_lengths(small):
    assert small(["the dog the dog the dog"]).inputs.tolist() == [[2, 5, 6, 5, 6, 3]]
    assert small(["the dog the dog the dog"], max_length=4).inputs.tolist() == [[2, 5, 6, 3]]
    assert small(["the"], length=5).inputs.tolist() == [[2, 5, 3, 0, 0]]
    assert small(["the dog the"], length=4, max_length=3).inputs.tolist() == [[2, 5, 3, 0]]
    assert small(["the dog"]).inputs.tolist() == [[2, 5, 6, 3]]  # nothing stays from the calls before
    assert small(np.array(["the"])).inputs.tolist() == [[2, 5, 3]]


def test_byte_pairs_by_hand(tmp_path):
    vocabulary = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "a", "b", "Ġ", "ab", "Ġab"]
    (tmp_path / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(vocabulary)}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\nĠ ab\n")
    run = preprocessor(tmp_path, "roberta", {"max_position_embeddings": 8, "pad_token_id": 1})
    ids, mask = run(["ab ab", "ba", "a <mask>"])
    assert ids.tolist() == [[0, 8, 9, 2, 1], [0, 6, 5, 2, 1], [0, 5, 7, 4, 2]]  # a space before <mask> is a token
    assert mask.sum(axis=1).tolist() == [4, 4, 5]
    assert run(["a" * 20]).inputs.shape == (1, 6)  # positions 2 to 7
    assert run(["", "a"]).inputs.tolist() == [[0, 2, 1], [0, 5, 2]]


def test_the_choices_of_a_config_hold_for_a_tokenizer_file(tmp_path):
    pieces = tokenizers.BertWordPieceTokenizer(
        {token: i for i, token in enumerate([*VOCABULARY, "The", "Dog", "é", "e"])}
    )
    pieces.save(str(tmp_path / "tokenizer.json"))
    config = tmp_path / "tokenizer_config.json"
    assert preprocessor(tmp_path, "bert", {})(["The Dog é"]).inputs.tolist() == [[2, 5, 6, 13, 3]]
    config.write_text(json.dumps({"do_lower_case": False}))
    assert preprocessor(tmp_path, "bert", {})(["The Dog é"]).inputs.tolist() == [[2, 10, 11, 12, 3]]
    config.write_text(json.dumps({"strip_accents": False}))
    assert preprocessor(tmp_path, "bert", {})(["The Dog é"]).inputs.tolist() == [[2, 5, 6, 12, 3]]

    vocabulary = {token: i for i, token in enumerate(["<s>", "<pad>", "</s>", "a", "Ġ", "Ġa"])}
    pairs = tokenizers.ByteLevelBPETokenizer(vocabulary, [("Ġ", "a")])
    pairs.save(str(tmp_path / "tokenizer.json"))
    for prefix, ids in [(False, [0, 3, 2]), (True, [0, 5, 2])]:
        config.write_text(json.dumps({"add_prefix_space": prefix}))
        assert preprocessor(tmp_path, "roberta", ROBERTA)(["a"]).inputs.tolist() == [ids]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda run: run("the dog"), "Put a single one in a list"),
        (lambda run: run([]), "at least one string"),
        (lambda run: run(["the", 3]), "item 1 must be a string; got int"),
        (lambda run: run([("the", "dog")]), "item 0 must be a string; got tuple"),
        (lambda run: run(["the"], max_length=2), "max_length must be a whole number of at least 3"),
        (lambda run: run(["the"], length=7), "length must be at most 6"),
        (lambda run: run(["a \ud800 b"]), "item 0 is no valid Unicode"),
    ],
)
def test_wrong_use_is_told(small, call, message):
    with pytest.raises(ValueError, match=message):
        call(small)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"sentencepiece.bpe.model": ""}, "SentencePiece model only"),
        ({"tokenizer.json": "{}"}, "cannot be read"),
        ({"vocab.txt": "[PAD]\n[UNK]\n"}, r"'\[CLS\]' and '\[SEP\]'"),
        (
            {"vocab.txt": "a\n", "tokenizer_config.json": '{"tokenizer_class": "BertJapaneseTokenizer"}'},
            "BertJapaneseTokenizer",
        ),
        ({"vocab.txt": "a\n", "tokenizer_config.json": "{"}, "not valid JSON"),
        ({"vocab.txt": "\n".join(VOCABULARY), "added_tokens.json": '{"new": 3}'}, "'new' should have id 3 and has 10"),
    ],
)
def test_files_that_cannot_be_used_are_told(files, message, tmp_path):
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        preprocessor(tmp_path, "bert", {})


def written(folder, **files):
    """A folder with files: names with _ for ., objects as JSON."""
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / name.replace("__", ".")).write_text(text, encoding="utf-8")
    return folder


def as_file(**changes):
    """A tokenizer.json of the vocabulary above, with nothing but the model, and what is added."""
    vocabulary = {token: i for i, token in enumerate(VOCABULARY)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    return json.loads(tokenizer.to_str()) | changes


WORDS = "\n".join(VOCABULARY) + "\n"
TOKEN = {
    "content": "<new>",
    "lstrip": True,
    "rstrip": False,
    "single_word": False,
    "normalized": False,
    "special": True,
}
LEFT = {"direction": "Left", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
FOLDERS = {
    "special tokens of the configuration only": {"tokenizer__json": as_file(), "tokenizer_config__json": {}},
    "no post-processor, and the file says all": {
        "tokenizer__json": as_file(),
        "tokenizer_config__json": {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]"},
    },
    "added by number": {"vocab__txt": WORDS, "tokenizer_config__json": {"added_tokens_decoder": {"10": TOKEN}}},
    "added by name": {
        "vocab__txt": WORDS,
        "tokenizer_config__json": {"extra_special_tokens": {"image_token": "<new>"}},
    },
    "additional": {
        "tokenizer__json": as_file(),
        "tokenizer_config__json": {"additional_special_tokens": ["<new>", "do"]},
    },
    "of a map": {
        "vocab__txt": WORDS,
        "tokenizer_config__json": {},
        "special_tokens_map__json": {
            "mask_token": TOKEN | {"content": "[MASK]"},
            "additional_special_tokens": ["<new>"],
        },
    },
    "of an old list": {"vocab__txt": WORDS, "tokenizer_config__json": {}, "added_tokens__json": {"<new>": 10}},
    "of the file": {"tokenizer__json": as_file(added_tokens=[TOKEN | {"id": 10}]), "tokenizer_config__json": {}},
    "a class token of its own": {"vocab__txt": WORDS, "tokenizer_config__json": {"cls_token": "<new>"}},
    "cut on the left": {
        "vocab__txt": WORDS,
        "tokenizer_config__json": {"truncation_side": "left", "model_max_length": 5},
    },
    "cut on the left by the file": {"tokenizer__json": as_file(truncation=LEFT), "tokenizer_config__json": {}},
    "padded on the left": {"vocab__txt": WORDS, "tokenizer_config__json": {"padding_side": "left"}},
    "special tokens split": {"vocab__txt": WORDS, "tokenizer_config__json": {"split_special_tokens": True}},
    "the class in config.json": {"vocab__txt": WORDS, "config__json": {"tokenizer_class": "DistilBertTokenizerFast"}},
}
SAID = ["the dogs", "The [MASK] dog", "a <new> do[SEP]", "the dog the dog the dogs doggy", "do <new>the  [CLS]"]
SAID += ["é\u200b\x00!"]


@pytest.mark.parametrize("case", FOLDERS)
def test_every_place_of_a_token_equals_transformers(case, tmp_path):
    transformers = pytest.importorskip("transformers")
    config = {"model_type": "bert", "vocab_size": 40, "max_position_embeddings": 8}
    files = {"tokenizer_config__json": {}, "config__json": {}} | FOLDERS[case]
    config |= files["config__json"]
    written(tmp_path, **(files | {"config__json": config}))
    original = transformers.AutoTokenizer.from_pretrained(tmp_path)
    most = min(8, original.model_max_length)
    run = preprocessor(tmp_path, "bert", config)
    same(run(SAID), expected(original, SAID, most))


def test_random_folders_equal_transformers(tmp_path):
    """Random choices of all that a folder may say, against the tokenizer that transformers makes of it."""
    transformers = pytest.importorskip("transformers")
    draw = random.Random(0)
    names = {
        "unk_token": "[UNK]",
        "sep_token": "[SEP]",
        "pad_token": "[PAD]",
        "cls_token": "[CLS]",
        "mask_token": "[MASK]",
    }
    pieces = [*VOCABULARY, "<new>", "<other>", "é", "É", " ", "\t", "今日", "🙂", ".", "\u200b", "x" * 101]

    def flags(content):
        return {"content": content} | {
            key: draw.random() < 0.4 for key in ("lstrip", "rstrip", "single_word", "normalized")
        }

    def token(content):
        return content if draw.random() < 0.5 else flags(content)

    for i in range(100):
        said = {key: draw.random() < 0.5 for key in ("do_lower_case", "strip_accents") if draw.random() < 0.3}
        said |= {
            key: draw.choice(["left", "right"]) for key in ("truncation_side", "padding_side") if draw.random() < 0.3
        }
        if draw.random() < 0.3:
            said |= {
                key: flags(value) | {"__type": "AddedToken"} for key, value in names.items() if draw.random() < 0.7
            }
        if draw.random() < 0.3:
            said[draw.choice(["additional_special_tokens", "extra_special_tokens"])] = ["<new>", "do"]
        files = {"vocab__txt": WORDS}
        if draw.random() < 0.5:
            said["tokenizer_class"] = draw.choice(["BertTokenizerFast", "PreTrainedTokenizerFast"])
            added = [flags(name) | {"id": n, "special": True} for n, name in enumerate(VOCABULARY[:5])]
            files = {"tokenizer__json": as_file(added_tokens=added)}
        if draw.random() < 0.3:
            said["added_tokens_decoder"] = {"10": flags("<new>") | {"special": draw.random() < 0.5}}
        elif draw.random() < 0.5:
            files["special_tokens_map__json"] = {
                key: token(value) for key, value in names.items() if draw.random() < 0.7
            }
        config = {"model_type": "bert", "vocab_size": 40, "max_position_embeddings": 12}
        folder = tmp_path / str(i)
        folder.mkdir()
        written(folder, tokenizer_config__json=said, config__json=config, **files)
        texts = ["the", *("".join(draw.choices(pieces, k=draw.randrange(12))) + "do" for _ in range(4))]
        original = transformers.AutoTokenizer.from_pretrained(folder)
        if original.pad_token is None:
            continue
        same(preprocessor(folder, "bert", config)(texts), expected(original, texts, 12))


def test_a_byte_order_mark_is_no_part_of_a_token(tmp_path):
    (tmp_path / "vocab.txt").write_bytes(b"\xef\xbb\xbf" + WORDS.encode())
    (tmp_path / "tokenizer_config.json").write_bytes(b"\xef\xbb\xbf{}")
    assert preprocessor(tmp_path, "bert", {})(["the dogs", "the"]).inputs.tolist() == [[2, 5, 6, 7, 3], [2, 5, 3, 0, 0]]


@pytest.mark.parametrize(
    ("files", "config", "message"),
    [
        (
            {"vocab__txt": WORDS},
            {"tokenizer_class": "BertJapaneseTokenizer"},
            "a BertJapaneseTokenizer cannot be built",
        ),
        ({"tokenizer__json": as_file(), "tokenizer_config__json": {"tokenizer_class": "MPNetTokenizer"}}, {}, "MPNet"),
        (
            {"vocab__txt": WORDS, "tokenizer_config__json": {"do_lower_case": "no"}},
            {},
            "must be true or false; got 'no'",
        ),
        ({"vocab__txt": WORDS, "tokenizer_config__json": {"padding_side": "top"}}, {}, "left or right; got 'top'"),
        ({"vocab__txt": WORDS, "tokenizer_config__json": {"never_split": ["do"]}}, {}, "never_split"),
        ({"vocab__txt": WORDS, "tokenizer_config__json": {"model_max_length": "9"}}, {}, "must be a number"),
        ({"vocab__txt": WORDS, "tokenizer_config__json": {"cls_token": None}}, {}, "must hold the special tokens None"),
        ({"vocab__txt": WORDS, "tokenizer_config__json": {"added_tokens_decoder": {"99": TOKEN}}}, {}, "contradict"),
        ({"vocab__json": {}, "merges__txt": ""}, {}, "a BertTokenizer cannot be built from merges.txt, vocab.json"),
        ({"tokenizer__json": as_file(model={"type": "BPE", "vocab": {}, "merges": []})}, {}, "holds a BPE"),
    ],
)
def test_what_cannot_be_reproduced_is_refused(files, config, message, tmp_path):
    written(tmp_path, **files)
    with pytest.raises(ValueError, match=message):
        preprocessor(tmp_path, "bert", config)


def test_a_text_without_tokens_is_refused(tmp_path):
    written(tmp_path, **FOLDERS["no post-processor, and the file says all"])
    run = preprocessor(tmp_path, "bert", {})
    assert run(["the dog"]).inputs.tolist() == [[5, 6]]
    with pytest.raises(ValueError, match="item 1 has no token"):
        run(["the", " "])


def test_no_files_no_tokenizer(tmp_path):
    assert preprocessor(tmp_path, "bert", {}) is None
    assert preprocessor(None, "roberta", {}) is None
