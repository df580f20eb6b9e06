"""ViT, BEiT, data2vec-vision and DINOv2 beside torch's, every parameter drawn at random."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from parity import assert_close, assert_saves, assert_states_close, randomise, saved

from jaxconvex import encoders
from jaxconvex.encoders.patches import interpolation

TINY = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "image_size": 20,
    "patch_size": 4,
    "num_labels": 5,
}
RELATIVE = {"use_relative_position_bias": True, "layer_scale_init_value": 0.1}
SHARED = {"use_shared_relative_position_bias": True, "use_absolute_position_embeddings": True}
CASES = {
    "vit": ("ViT", {"qkv_bias": True}),
    "vit without biases, relu": ("ViT", {"qkv_bias": False, "hidden_act": "relu", "layer_norm_eps": 1e-3}),
    "beit": ("Beit", RELATIVE),
    "beit shared": ("Beit", {**SHARED, "layer_scale_init_value": 0.0}),
    "beit both, class token": ("Beit", {**RELATIVE, **SHARED, "use_mean_pooling": False}),
    "data2vec": ("Data2VecVision", {**RELATIVE, "use_mask_token": True}),
    "data2vec shared": ("Data2VecVision", {**SHARED, "layer_scale_init_value": 0.1}),
    "dinov2": ("Dinov2", {"layerscale_value": 1.0, "mlp_ratio": 2}),
    "dinov2 gated": ("Dinov2", {"use_swiglu_ffn": True, "mlp_ratio": 3, "qkv_bias": False}),
}


def torch_model(case, kind="ForImageClassification", seed=0):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("torch")
    name, extra = CASES[case]
    config = getattr(transformers, f"{name}Config")(**TINY | extra)
    return randomise(getattr(transformers, name + kind)(config), seed)


def pictures(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def run_torch(model, images, **options):
    import torch

    with torch.no_grad():
        return model(torch.tensor(images.transpose(0, 3, 1, 2)), output_hidden_states=True, **options)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("size", [(20, 20), (28, 16)], ids=["own size", "other size"])
def test_states_and_logits_are_those_of_torch(case, size, tmp_path):
    model = torch_model(case)
    encoder, _ = encoders.load(saved(model, tmp_path))
    images = pictures((2, *size, 3))
    options = {"interpolate_pos_encoding": True} if case.startswith("vit") and size != (20, 20) else {}
    theirs = run_torch(model, images, **options)
    assert_states_close(encoder.hidden_states(images), theirs.hidden_states)
    assert_close(encoder(images), theirs.logits, "logits")


@pytest.mark.parametrize("case", ["vit", "beit", "data2vec", "dinov2"])
def test_networks_without_a_classifier(case, tmp_path):
    model = torch_model(case, "Model", seed=1)
    encoder, _ = encoders.load(saved(model, tmp_path))
    images = pictures((2, 20, 20, 3))
    theirs = run_torch(model, images)
    states = encoder.hidden_states(images)
    assert_states_close(states, theirs.hidden_states)
    assert_close(encoder(images), theirs.last_hidden_state, "last hidden state")
    if case in ("vit", "beit"):  # data2vec's has no pooler; DINOv2's classifier sees more than its pooler gives
        assert_close(encoder.head.pooled(states["blocks/2"]), theirs.pooler_output, "pooled")


@pytest.mark.parametrize("case", CASES)
def test_saving_changes_nothing_here_or_in_torch(case, tmp_path):
    model = torch_model(case)
    encoder, _ = encoders.load(saved(model, tmp_path / "first"))
    images = pictures((1, 20, 20, 3))
    assert_saves(encoder, tmp_path / "second", lambda encoder: encoder(images))
    again = type(model).from_pretrained(tmp_path / "second").eval()
    assert_close(run_torch(again, images).logits, run_torch(model, images).logits, tolerance=1e-6)


def test_a_truncated_encoder_saves_and_loads(tmp_path):
    model = torch_model("data2vec")
    encoder, _ = encoders.load(saved(model, tmp_path / "whole"))
    images = pictures((2, 20, 20, 3))
    shorter = encoder.truncate(2)
    states = shorter.hidden_states(images)
    assert list(states) == ["embed", "blocks/0", "blocks/1"]
    np.testing.assert_array_equal(shorter(images), encoder.head(states["blocks/1"]))
    assert len(encoder.blocks) == 3
    assert_saves(shorter, tmp_path / "short", lambda encoder: encoder(images))
    again = type(model).from_pretrained(tmp_path / "short").eval()
    assert_close(shorter(images), run_torch(again, images).logits)


@pytest.mark.long
def test_blocks_know_the_grid_of_their_images():
    config = TINY | {"model_type": "beit", **RELATIVE, **SHARED}
    encoder = encoders.initialise(config, num_classes=2, rngs=nnx.Rngs(0))
    wide, square = pictures((1, 8, 32, 3)), pictures((1, 16, 16, 3))
    states = encoder.hidden_states(wide)
    assert encoder.side(wide) == {"grid": (2, 8)}
    np.testing.assert_array_equal(encoder.block(0, states["embed"], grid=(2, 8)), states["blocks/0"])
    assert np.abs(np.asarray(encoder.block(0, states["embed"]) - states["blocks/0"])).max() > 1e-4  # a square of 4 x 4
    states = encoder.hidden_states(square)
    np.testing.assert_array_equal(encoder.block(1, states["blocks/0"]), states["blocks/1"])
    with pytest.raises(ValueError, match="15 patches are no square"):
        encoder.block(0, jnp.ones((1, 16, 24)))


@pytest.mark.parametrize("kind", ["linear", "cubic"])
@pytest.mark.parametrize(("old", "new"), [(5, 5), (4, 9), (7, 3)])
def test_interpolation_keeps_constants_and_lines(kind, old, new):
    matrix = interpolation(old, new, kind)
    np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-12)
    middle = slice(new // 3, new - new // 3)
    centre = (np.arange(new) + 0.5) * old / new - 0.5
    inside = (centre >= 1) & (centre <= old - 2)
    np.testing.assert_allclose(
        (matrix @ np.arange(old))[inside], centre[inside], atol=0.1 if kind == "cubic" else 1e-12
    )
    if old == new:
        np.testing.assert_allclose(matrix[middle], np.eye(old)[middle], atol=1e-12)


def test_wrong_images_are_refused():
    encoder = encoders.initialise(TINY | {"model_type": "vit"}, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"transpose\(0, 2, 3, 1\)"):
        encoder(jnp.ones((1, 3, 20, 20)))
    with pytest.raises(ValueError, match="at least 4 pixels"):
        encoder(jnp.ones((1, 3, 20, 3)))


def test_eager_is_jit_is_vmap():
    encoder = encoders.initialise(TINY | {"model_type": "beit", **RELATIVE}, num_classes=3, rngs=nnx.Rngs(0))
    images = jnp.asarray(pictures((4, 20, 20, 3)))
    eager = encoder(images)
    np.testing.assert_allclose(nnx.jit(lambda e, x: e(x))(encoder, images), eager, atol=1e-6)
    mapped = jax.vmap(lambda x: encoder(x[None])[0])(images)
    np.testing.assert_allclose(mapped, eager, atol=1e-6)


@pytest.mark.parametrize("case", ["vit", "data2vec", "dinov2"])
def test_a_new_classifier_on_a_pretrained_network(case, tmp_path):
    model = torch_model(case, "Model", seed=1)
    encoder, _ = encoders.load(saved(model, tmp_path), num_classes=7, rngs=nnx.Rngs(3))
    images = pictures((2, 20, 20, 3))
    assert encoder(images).shape == (2, 7)
    assert_states_close(encoder.hidden_states(images), run_torch(model, images).hidden_states)
    other, _ = encoders.load(tmp_path, num_classes=7, rngs=nnx.Rngs(4))
    assert np.abs(np.asarray(encoder(images) - other(images))).max() > 1e-4
