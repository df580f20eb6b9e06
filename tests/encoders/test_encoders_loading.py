"""Loading and saving: folders, shards, the hub's cache, old spellings, and what is refused with which words."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from jaxconvex import encoders
from jaxconvex.encoders import bert, modernbert, towers, vit

TINY = {
    "model_type": "bert",
    "vocab_size": 30,
    "max_position_embeddings": 9,
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 20,
}
IDS = np.array([[3, 8, 9, 20], [4, 4, 7, 1]])


@pytest.fixture
def folder(tmp_path):
    """A checkpoint with random parameters, none of them zero."""
    encoder = encoders.initialise(TINY, num_classes=3, rngs=nnx.Rngs(0))
    graph, state = nnx.split(encoder)
    leaves, tree = jax.tree.flatten(state)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    drawn = [jax.random.normal(key, leaf.shape) * 0.3 for key, leaf in zip(keys, leaves, strict=True)]
    encoders.save(nnx.merge(graph, jax.tree.unflatten(tree, drawn)), tmp_path)
    return tmp_path


def rewritten(folder, change):
    tensors = load_file(folder / "model.safetensors")
    save_file(change(dict(tensors)), folder / "model.safetensors")


def logits(folder, **options):
    return np.asarray(encoders.load(folder, **options)[0](IDS))


@pytest.mark.long
def test_shards(folder):
    expected = logits(folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    where = {name: f"model-{i % 3 + 1:05}-of-00003.safetensors" for i, name in enumerate(names)}
    for shard in set(where.values()):
        save_file({name: tensors[name] for name in names if where[name] == shard}, folder / shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    np.testing.assert_array_equal(logits(folder), expected)
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(ValueError, match=r"names 3 shards; model-00002-of-00003\.safetensors is missing"):
        encoders.load(folder)


@pytest.mark.long
def test_old_spellings_and_other_heads(folder):
    expected = logits(folder)

    def change(tensors):
        old = {
            name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
            for name, tensor in tensors.items()
        }
        assert set(old) != set(tensors)
        ids = np.arange(9)[None]
        return old | {"cls.predictions.bias": np.ones(3, np.float32), "bert.embeddings.position_ids": ids}

    rewritten(folder, change)
    np.testing.assert_array_equal(logits(folder), expected)


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16])
@pytest.mark.long
def test_narrow_weights_are_widened(folder, dtype):
    rewritten(folder, lambda tensors: {name: tensor.astype(dtype) for name, tensor in tensors.items()})
    encoder, _ = encoders.load(folder)
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(encoder))} == {np.dtype("float32")}
    narrow, _ = encoders.load(folder, dtype=jnp.bfloat16)
    assert narrow(IDS).dtype == jnp.bfloat16
    np.testing.assert_allclose(narrow(IDS).astype(np.float32), encoder(IDS), atol=0.1)


def test_large_tensors_are_read_a_few_rows_at_a_time(folder, monkeypatch):
    """Turned kernels, vectors and narrow types too; weights that JAX need not copy."""
    expected = logits(folder)
    monkeypatch.setattr("jaxconvex.encoders.checkpoints.PIECE", 50)  # 2 to 4 rows
    np.testing.assert_array_equal(logits(folder), expected)
    rewritten(folder, lambda tensors: {name: tensor.astype(jnp.bfloat16) for name, tensor in tensors.items()})
    pieces = logits(folder)
    monkeypatch.undo()
    np.testing.assert_array_equal(pieces, logits(folder))


def test_missing_unexpected_and_wrong_tensors_are_named(folder):
    def change(tensors):
        tensors["bert.pooler.dense.kernel"] = tensors.pop("bert.pooler.dense.weight")
        tensors["bert.encoder.layer.1.output.dense.weight"] = np.ones((12, 21), np.float32)
        return tensors

    rewritten(folder, change)
    with pytest.raises(ValueError) as caught:
        encoders.load(folder)
    message = str(caught.value)
    assert "of another shape: encoder.layer.1.output.dense.weight: expected (12, 20), got (12, 21)" in message
    assert "1 missing: pooler.dense.weight" in message
    assert "1 unexpected: pooler.dense.kernel" in message
    rewritten(folder, lambda tensors: {n: t for n, t in tensors.items() if "layer.0.attention.self.key" not in n})
    with pytest.raises(ValueError, match=r"3 missing: encoder\.layer\.0\.attention\.self\.key"):
        encoders.load(folder)


def test_a_new_classifier_replaces_the_old(folder):
    one, two = (encoders.load(folder, num_classes=3, rngs=nnx.Rngs(seed))[0] for seed in (1, 2))
    old, _ = encoders.load(folder)
    assert np.abs(np.asarray(one(IDS) - two(IDS))).max() > 1e-4
    assert np.abs(np.asarray(one(IDS) - old(IDS))).max() > 1e-4
    for name, state in one.hidden_states(IDS).items():
        np.testing.assert_array_equal(state, old.hidden_states(IDS)[name])


def test_a_pickle_is_refused_with_the_command_that_converts_it(folder):
    pytest.importorskip("torch")
    expected = logits(folder)
    script = (
        "import torch, sys; from safetensors.numpy import load_file; import os; f = sys.argv[1]; "
        "w = {k: torch.tensor(v) for k, v in load_file(f + '/model.safetensors').items()}; "
        "torch.save(w, f + '/pytorch_model.bin'); "
        "os.remove(f + '/model.safetensors')"
    )
    subprocess.run([sys.executable, "-c", script, str(folder)], check=True)
    with pytest.raises(ValueError, match=r"only in pytorch_model\.bin.* never read") as caught:
        encoders.load(folder)
    command = str(caught.value).split("\n")[1].strip()
    assert command.startswith("python -c ")
    subprocess.run(command.replace("python", sys.executable, 1), shell=True, check=True)
    np.testing.assert_array_equal(logits(folder), expected)


def test_other_mistakes_get_messages(folder, tmp_path_factory):
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(ValueError, match=r"has no config\.json, so name the family"):
        encoders.load(empty)
    with pytest.raises(ValueError, match="holds no weights"):
        encoders.load(empty, family="efficientnet-lite0")
    with pytest.raises(ValueError, match=r"no family 'data2vec-visoin' is known \(did you mean 'data2vec-vision'\?\)"):
        encoders.load(folder, family="data2vec-visoin")
    with pytest.raises(ValueError, match="is a file; name the folder"):
        encoders.load(folder / "config.json")
    with pytest.raises(ValueError, match="no name of a checkpoint"):
        encoders.load(folder / "absent")
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        encoders.load(folder)
    (folder / "config.json").write_text(json.dumps({k: v for k, v in TINY.items() if k != "hidden_size"}))
    with pytest.raises(ValueError, match="lacks 'hidden_size'"):
        encoders.load(folder)
    (folder / "config.json").write_text(json.dumps(TINY | {"hidden_act": "mish"}))
    with pytest.raises(ValueError, match="activation 'mish'; known are gelu"):
        encoders.load(folder)
    (folder / "config.json").write_text(json.dumps(TINY))
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="no whole safetensors file"):
        encoders.load(folder)


HUB = """
import sys
from jaxconvex import encoders
from jaxconvex.encoders import bert, vit
try:
    encoder, _ = encoders.load(sys.argv[1])
    print("loaded", len(encoder.blocks))
except ValueError as error:
    print("refused", error)
"""


@pytest.mark.long
def test_the_hub_without_a_connection(folder, tmp_path_factory):
    """From the cache if it was fetched before; otherwise a message, and no traceback of a connection."""
    pytest.importorskip("huggingface_hub")
    cache = tmp_path_factory.mktemp("hub")
    snapshot = cache / "models--someone--tiny-bert" / "snapshots" / "0123456789abcdef0123456789abcdef01234567"
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text(snapshot.name)
    for name in ("config.json", "model.safetensors"):
        (snapshot / name).write_bytes((folder / name).read_bytes())

    def run(name):
        environment = os.environ | {"HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
        done = subprocess.run([sys.executable, "-c", HUB, name], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert run("someone/tiny-bert") == "loaded 2\n"
    (snapshot / "model.safetensors").unlink()
    assert "revision='refs/pr/1'" in run("someone/tiny-bert")
    refused = run("someone/another-bert")
    assert refused.startswith("refused there is no folder someone/another-bert, and the hub cannot be reached")


def test_save_carries_the_files_of_preprocessing(folder, tmp_path_factory):
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b"]))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    encoder, preprocess = encoders.load(folder)
    target = tmp_path_factory.mktemp("target")
    encoders.save(encoder, target, source=folder)
    again, same = encoders.load(target)
    inputs = preprocess(["a b", "b"])
    np.testing.assert_array_equal(inputs.inputs, same(["a b", "b"]).inputs)
    np.testing.assert_array_equal(encoder(*inputs), again(*inputs))


def test_the_configuration_of_a_new_classifier_is_written(folder, tmp_path_factory):
    encoder, _ = encoders.load(folder, num_classes=5)
    target = tmp_path_factory.mktemp("target")
    encoders.save(encoder, target)
    config = json.loads((target / "config.json").read_text())
    assert config["num_labels"] == 5 and len(config["id2label"]) == 5
    np.testing.assert_array_equal(logits(target), encoder(IDS))


def test_a_folder_without_configuration_has_that_of_its_family(folder, monkeypatch):
    expected = logits(folder)
    (folder / "config.json").unlink()
    with pytest.raises(
        ValueError, match=r"of another shape: embeddings\.LayerNorm\.bias: expected \(768,\), got \(12,\)"
    ):
        encoders.load(folder, family="bert")
    monkeypatch.setitem(bert.FAMILIES, "bert", bert.FAMILIES["bert"]._replace(config=TINY))
    np.testing.assert_array_equal(logits(folder, family="bert"), expected)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("bert", "Bert"),
        ("distilbert", "DistilBert"),
        ("squeezebert", "SqueezeBert"),
        ("vit", "ViT"),
        ("beit", "Beit"),
        ("modernbert", "ModernBert"),
        ("clip_vision_model", "CLIPVision"),
        ("clip_text_model", "CLIPText"),
        ("siglip_vision_model", "SiglipVision"),
        ("siglip_text_model", "SiglipText"),
    ],
)
def test_documented_sizes_are_those_of_transformers(kind, name):
    transformers = pytest.importorskip("transformers")
    theirs = getattr(transformers, f"{name}Config")().to_dict()
    ours = (bert.FAMILIES | vit.FAMILIES | modernbert.FAMILIES | towers.FAMILIES)[kind].config
    assert {key: theirs.get(key, ours[key]) for key in ours} == ours


SMALL = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 20}
IMAGES = SMALL | {"image_size": 8, "patch_size": 4}
SOUNDS = SMALL | {"conv_dim": [6, 8], "conv_kernel": [5, 3], "conv_stride": [3, 2], "num_conv_pos_embedding_groups": 2}
SOUNDS |= {"num_conv_pos_embeddings": 3, "classifier_proj_size": 6}
SIZES = {
    "vit": IMAGES,
    "beit": IMAGES | {"use_relative_position_bias": True},
    "data2vec-vision": IMAGES | {"use_shared_relative_position_bias": True},
    "dinov2": IMAGES | {"use_swiglu_ffn": True},
    "dinov3_vit": IMAGES | {"hidden_size": 16, "num_register_tokens": 2},
    "clip_vision_model": IMAGES,
    "siglip_vision_model": IMAGES,
    "wav2vec2": SOUNDS | {"do_stable_layer_norm": True, "feat_extract_norm": "layer"},
    "hubert": SOUNDS,
    "data2vec-audio": SOUNDS,
    "wavlm": SOUNDS | {"num_buckets": 8, "max_bucket_distance": 12},
    "whisper": {
        "num_mel_bins": 4,
        "d_model": 12,
        "encoder_layers": 1,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 20,
        "max_source_positions": 20,
        "classifier_proj_size": 6,
    },
    "resnet1d": {"epoch_len": 5},
}
SHAPES = {"whisper": (2, 40, 4), "resnet1d": (2, 150, 3)} | dict.fromkeys(["vit", "beit"], (2, 8, 8, 3))
SHAPES |= dict.fromkeys(["data2vec-vision", "dinov2", "dinov3_vit"], (2, 8, 8, 3))
SHAPES |= dict.fromkeys(["clip_vision_model", "siglip_vision_model"], (2, 8, 8, 3))


@pytest.mark.long(after=2)
@pytest.mark.parametrize("kind", SIZES)
def test_every_family_without_torch(kind, tmp_path):
    """A block makes the next state, compiled or not, and what is saved is what is loaded."""
    encoder = encoders.initialise(SIZES[kind] | {"model_type": kind}, num_classes=3, rngs=nnx.Rngs(0))
    shape = SHAPES.get(kind, (2, 90))
    inputs = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)
    states = encoder.hidden_states(inputs)
    assert list(states)[:2] == ["embed", "blocks/0"]
    side = encoder.side(inputs)
    np.testing.assert_allclose(encoder.block(0, states["embed"], **side), states["blocks/0"], atol=1e-6)
    logits = encoder(inputs)
    assert logits.shape == (2, 3) and jnp.isfinite(logits).all()
    np.testing.assert_allclose(nnx.jit(lambda encoder, x: encoder(x))(encoder, inputs), logits, atol=1e-5)
    encoders.save(encoder, tmp_path)
    again, preprocess = encoders.load(tmp_path)
    np.testing.assert_array_equal(again(inputs), logits)
    assert preprocess is not None
