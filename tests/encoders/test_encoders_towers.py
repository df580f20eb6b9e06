"""CLIP and SigLIP, images and texts, beside torch's, every parameter drawn at random."""

from __future__ import annotations

import json

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from parity import assert_behaves, assert_close, assert_saves, assert_states_close, randomise, run, saved
from safetensors.numpy import load_file, save_file

from jaxconvex import encoders

SIZES = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40}
IMAGES = SIZES | {"image_size": 20, "patch_size": 4}
TEXTS = SIZES | {
    "vocab_size": 50,
    "max_position_embeddings": 12,
    "pad_token_id": 1,
    "bos_token_id": 48,
    "eos_token_id": 49,
}
OTHERS = {"hidden_act": "gelu", "layer_norm_eps": 1e-3}
WHOLES = {
    "clip": ("CLIP", IMAGES, TEXTS, {"projection_dim": 10}),
    "siglip": ("Siglip", IMAGES, TEXTS, {}),
    "clip, other functions, an old end": (
        "CLIP",
        IMAGES | OTHERS,
        TEXTS | OTHERS | {"eos_token_id": 2},
        {"projection_dim": 9},
    ),
    "siglip, narrow": ("Siglip", IMAGES | OTHERS, TEXTS | OTHERS | {"projection_size": 7}, {}),
}


def torch_model(case, kind="Model", seed=0, **more):
    """The whole network, one of its parts, or a classifier."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("torch")
    name, images, texts, both = WHOLES[case]
    if kind.startswith(("Vision", "Text")):
        part = kind.split("Model")[0]
        own = {"Vision": images, "Text": texts}[part] | both | more
        config = getattr(transformers, f"{name}{part}Config")(**own)
    else:
        config = getattr(transformers, f"{name}Config")(vision_config=images, text_config=texts, **both, **more)
    config._attn_implementation = "eager"
    return randomise(getattr(transformers, name + kind)(config), seed)


def pictures(shape=(2, 20, 20, 3)):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def sentences(length=9):
    """Ids that end with the token of the end, and a mask, padded with that token."""
    ids = np.random.default_rng(0).integers(3, 48, (3, length))
    ends = np.array([[length], [6], [2]])
    ids = np.where(np.arange(length) < ends - 1, ids, 49)
    return ids, np.arange(length) < ends


def run_torch(model, inputs, mask=None, **options):
    import torch

    with torch.no_grad():
        if inputs.ndim == 4:
            return model(torch.tensor(inputs.transpose(0, 3, 1, 2)), output_hidden_states=True, **options)
        mask = None if mask is None else torch.tensor(mask.astype(int))
        return model(torch.tensor(inputs), attention_mask=mask, output_hidden_states=True, **options)


def family(case, what):
    return f"{case.split(',')[0]}_{what}_model"


@pytest.mark.parametrize("case", WHOLES)
@pytest.mark.long(after=2)
def test_both_parts_of_a_whole_are_those_of_torch(case, tmp_path):
    model = torch_model(case)
    folder = saved(model, tmp_path)
    with pytest.raises(
        ValueError, match=r"a network of images and one of texts.*family='(clip|siglip)_vision_model' or"
    ):
        encoders.load(folder)
    encoder, preprocess = encoders.load(folder, family(case, "vision"))
    assert preprocess([np.zeros((9, 9, 3), np.uint8)]).inputs.shape == (1, 20, 20, 3)
    for size in ((20, 20), (28, 17)):  # its own size, and one that is no square and no multiple of the patches
        images = pictures((2, *size, 3))
        theirs = run_torch(model.vision_model, images, interpolate_pos_encoding=size != (20, 20))
        states, last, pooled = run(encoder, images)
        assert_states_close(states, theirs.hidden_states)
        assert_close(last, theirs.last_hidden_state, "last hidden state")
        expected = theirs.pooler_output
        assert_close(pooled, model.visual_projection(expected) if case.startswith("clip") else expected, "pooled")
    encoder, preprocess = encoders.load(folder, family(case, "text"))
    assert preprocess is None  # there is no tokenizer
    ids, mask = sentences()
    for given in (mask, None):
        theirs = run_torch(model.text_model, ids, given)
        states, last, pooled = run(encoder, ids, given)
        valid = encoder.sequence_mask(ids, given)
        if case.startswith("clip"):  # a text stands until its end, whatever the mask says
            np.testing.assert_array_equal(valid, mask)
        where = slice(None) if valid is None else np.asarray(valid)
        assert_states_close(states, theirs.hidden_states, where=where)
        assert_close(last, theirs.last_hidden_state, "last hidden state", where=where)
        expected = theirs.pooler_output
        assert_close(pooled, model.text_projection(expected) if case.startswith("clip") else expected, "pooled")


PARTS = [
    ("clip", "TextModelWithProjection"),
    ("clip", "VisionModelWithProjection"),
    ("clip", "TextModel"),
    ("clip", "VisionModel"),
    ("siglip", "VisionModel"),
    ("siglip, narrow", "TextModel"),
]


@pytest.mark.parametrize(("case", "kind"), PARTS)
@pytest.mark.long(after=1)
def test_a_part_alone_loads_and_saves_in_both(case, kind, tmp_path):
    model = torch_model(case, kind)
    encoder, _ = encoders.load(saved(model, tmp_path / "first"))
    inputs = (pictures(),) if kind.startswith("Vision") else sentences()
    name = {"Vision": "image_embeds", "Text": "text_embeds"}[kind.split("Model")[0]]
    name = name if kind.endswith("Projection") else "pooler_output"

    def pooled(encoder):
        return run(encoder, *inputs)[2]

    assert_close(pooled(encoder), getattr(run_torch(model, *inputs), name), name)
    assert_saves(encoder, tmp_path / "second", pooled)
    encoders.save(encoder.truncate(1), tmp_path / "short")
    for folder, ours in (("second", encoder), ("short", encoder.truncate(1))):
        again, told = type(model).from_pretrained(
            tmp_path / folder, attn_implementation="eager", output_loading_info=True
        )
        assert not any(told[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), told
        assert_close(pooled(ours), getattr(run_torch(again.eval(), *inputs), name), folder)


@pytest.mark.parametrize("case", ["clip", "siglip"])
@pytest.mark.long(after=1)
def test_classifiers_of_images(case, tmp_path):
    """Torch's class reads the configuration of the whole; its file has the one network, which so needs no name."""
    model = torch_model(case, "ForImageClassification", num_labels=5)
    encoder, _ = encoders.load(saved(model, tmp_path / "first"))
    images = pictures()
    theirs = run_torch(model, images)
    states, logits, _ = run(encoder, images)
    assert_states_close(states, theirs.hidden_states)
    assert_close(logits, theirs.logits, "logits")
    assert_saves(encoder, tmp_path / "second", lambda encoder: run(encoder, images)[1])
    encoders.save(encoders.load(tmp_path / "first", num_classes=4)[0], tmp_path / "third")
    for folder in ("second", "third"):
        again = type(model).from_pretrained(tmp_path / folder).eval()
        assert_close(run(encoders.load(tmp_path / folder)[0], images)[1], run_torch(again, images).logits, folder)


@pytest.mark.parametrize("case", ["siglip", "clip"])
@pytest.mark.parametrize("what", ["vision", "text"])
@pytest.mark.long(after=1)
def test_blocks_transforms_training_bfloat16(case, what, tmp_path):
    model = torch_model(case, f"{what.capitalize()}Model")
    inputs = (jnp.asarray(pictures()),) if what == "vision" else tuple(map(jnp.asarray, sentences()))
    assert_behaves(saved(model, tmp_path), *inputs)


def test_old_files_of_wholes(tmp_path):
    """The second spelling of a part's configuration counts; buffers are no weights; a file may leave out what is usual."""
    model = torch_model("clip")
    saved(model, tmp_path)
    before, _ = encoders.load(tmp_path, "clip_text_model")
    ids, mask = sentences()
    config = json.loads((tmp_path / "config.json").read_text())
    own = {key: config["text_config"][key] for key in TEXTS}
    config |= {"text_config_dict": own, "text_config": {"hidden_size": 7, "hidden_act": "relu"}, "vision_config": None}
    (tmp_path / "config.json").write_text(json.dumps(config))
    tensors = load_file(tmp_path / "model.safetensors")
    save_file(tensors | {"text_model.embeddings.position_ids": np.arange(12)[None]}, tmp_path / "model.safetensors")
    after, _ = encoders.load(tmp_path, "clip_text_model")
    np.testing.assert_array_equal(run(after, ids, mask)[2], run(before, ids, mask)[2])
    with pytest.raises(ValueError, match=r"embed.*expected \(768, 3, 32, 32\), got \(24, 3, 4, 4\)"):
        encoders.load(tmp_path, "clip_vision_model")
    (tmp_path / "config.json").write_text(json.dumps(config | {"text_config": 3}))
    with pytest.raises(ValueError, match="text_config in the configuration must be an object; got 3"):
        encoders.load(tmp_path, "clip_text_model")


def test_what_is_refused():
    with pytest.raises(
        ValueError, match="'clip' is a network of images and one of texts; name one of clip_vision_model"
    ):
        encoders.initialise({"model_type": "clip"}, rngs=nnx.Rngs(0))
    for kind, changes, message in (
        ("siglip_vision_model", {"patch_size": [4, 5]}, "patch_size must be square"),
        ("clip_vision_model", {"hidden_act": "mish"}, "activation 'mish'"),
        ("clip_text_model", {"num_attention_heads": 5}, "the number of heads must divide the width"),
        ("clip_text_model", {"eos_token_id": [49, 2]}, "eos_token_id must be a whole number above 0"),
    ):
        sizes = IMAGES if "vision" in kind else TEXTS
        with pytest.raises(ValueError, match=message):
            encoders.initialise({"model_type": kind} | sizes | changes, rngs=nnx.Rngs(0))
