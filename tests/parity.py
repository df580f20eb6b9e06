"""What the tests of the encoders share: torch models with random parameters, and the comparison with ours."""

from __future__ import annotations

import numpy as np
from flax import nnx

from jaxconvex import encoders

TOLERANCE = 2e-5  # of the larger of 1 and the largest value


def randomise(model, seed=0, scale=0.3):
    """Every parameter and running statistic drawn anew: zeros, as in a fresh model, would hide a missing part."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if not tensor.is_floating_point():
                continue
            drawn = torch.randn(tensor.shape, generator=generator) * scale
            if tensor.ndim >= 2:
                drawn = drawn * min(1.0, 3.0 / (scale * tensor[0].numel() ** 0.5))
            if name.endswith("running_var") or "original0" in name:
                drawn = drawn.abs() + 0.5
            elif tensor.ndim == 1 and name.endswith("weight"):
                drawn = drawn + 1.0  # of a normalisation
            tensor.copy_(drawn)
    return model.eval()


def saved(model, folder):
    """The folder to which torch wrote the model, as its own save_pretrained does."""
    model.save_pretrained(folder, safe_serialization=True)
    return folder


def assert_close(ours, theirs, what="", tolerance=TOLERANCE, where=None):
    ours = np.asarray(ours, np.float64)
    theirs = np.asarray(theirs.detach().numpy() if hasattr(theirs, "detach") else theirs, np.float64)
    assert ours.shape == theirs.shape, (what, ours.shape, theirs.shape)
    if where is not None:
        ours, theirs = ours[where], theirs[where]
    difference = np.abs(ours - theirs).max()
    allowed = tolerance * max(1.0, np.abs(theirs).max())
    assert difference <= allowed, f"{what}: differs by {difference:.2e}, allowed {allowed:.2e}"


def assert_states_close(states, theirs, where=None, tolerance=TOLERANCE):
    """All hidden states: ours, an ordered mapping, and torch's, a sequence."""
    assert len(states) == len(theirs), (list(states), len(theirs))
    for (name, ours), state in zip(states.items(), theirs, strict=True):
        assert_close(ours, state, name, tolerance, where)


def assert_saves(encoder, folder, call):
    """Saving and loading again changes nothing, bit for bit."""
    encoders.save(encoder, folder)
    again, _ = encoders.load(folder)
    for (path, mine), (other, theirs) in zip(
        nnx.to_flat_state(nnx.state(encoder)), nnx.to_flat_state(nnx.state(again)), strict=True
    ):
        assert path == other
        np.testing.assert_array_equal(mine[...], theirs[...], err_msg=str(path))
    np.testing.assert_array_equal(call(encoder), call(again))
    return again
