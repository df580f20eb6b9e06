"""DINOv3 beside torch's, every parameter drawn at random."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from parity import (
    assert_close,
    assert_near_in_bfloat16,
    assert_saves,
    assert_states_close,
    assert_trains,
    randomise,
    run,
    saved,
)

from jaxconvex import encoders

TINY = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 40,
    "image_size": 20,
    "patch_size": 4,
}
OTHERS = {"query_bias": False, "key_bias": True, "value_bias": False, "proj_bias": False, "mlp_bias": False}
CASES = {
    "registers": {"num_register_tokens": 2},
    "gated": {"use_gated_mlp": True, "hidden_act": "silu", "rope_theta": 30.0, **OTHERS},
}


def torch_model(case, seed=0):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("torch")
    return randomise(transformers.DINOv3ViTModel(transformers.DINOv3ViTConfig(**TINY | CASES[case])), seed)


def pictures(shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def run_torch(model, images):
    import torch

    with torch.no_grad():
        return model(torch.tensor(images.transpose(0, 3, 1, 2)), output_hidden_states=True)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.long(after=1)
def test_states_are_those_of_torch_and_saving_changes_nothing(case, tmp_path):
    model = torch_model(case)
    encoder, preprocess = encoders.load(saved(model, tmp_path / "first"))
    assert preprocess([np.zeros((9, 9, 3), np.uint8)]).inputs.shape == (1, 20, 20, 3)
    for size in ((20, 20), (17, 28)):  # its own size, and one that is no square and no multiple of the patches
        images = pictures((2, *size, 3))
        theirs = run_torch(model, images)
        states, last, pooled = run(encoder, images)
        assert_states_close(states, theirs.hidden_states)
        assert_close(last, theirs.last_hidden_state, "last hidden state")
        assert_close(pooled, theirs.pooler_output, "pooled")
    assert_saves(encoder, tmp_path / "second", lambda encoder: run(encoder, images)[1])
    encoders.save(encoder.truncate(1), tmp_path / "short")
    for folder, ours in (("second", encoder), ("short", encoder.truncate(1))):
        again = type(model).from_pretrained(tmp_path / folder).eval()
        assert_close(run(ours, images)[1], run_torch(again, images).last_hidden_state, folder)


def test_blocks_training_bfloat16(tmp_path):
    encoder, _ = encoders.load(saved(torch_model("registers"), tmp_path), num_classes=3)
    images = jnp.asarray(pictures((2, 12, 20, 3)))
    states, *_ = run(encoder, images)
    assert_close(encoder.block(1, states["blocks/0"], **encoder.side(images)), states["blocks/1"], tolerance=1e-5)
    with pytest.raises(ValueError, match="15 patches are no square"):
        encoder.block(1, states["blocks/0"])
    assert_trains(encoder, jnp.arange(2), images)
    narrow, _ = encoders.load(tmp_path, dtype=jnp.bfloat16)
    assert_near_in_bfloat16(narrow, states, images)


def test_other_numbers_are_refused():
    with pytest.raises(ValueError, match="a multiple of 4 coordinates; got width 24 and 4 heads"):
        encoders.initialise(TINY | {"model_type": "dinov3_vit", "num_attention_heads": 4}, rngs=nnx.Rngs(0))
