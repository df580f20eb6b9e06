"""What the tests of the encoders share: torch models with random parameters, and the comparison with ours."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from flax import nnx

from jaxconvex import encoders

TOLERANCE = 2e-5  # of the larger of 1 and the largest value


def randomise(model, seed=0, scale=0.3):
    """Every parameter and running statistic drawn anew: zeros, as in a fresh model, would hide a missing part."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    kept = model.state_dict().keys()  # what is in no file is computed from the configuration: frequencies, say
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if not tensor.is_floating_point() or name not in kept or not tensor.numel():
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


@nnx.jit
def run(encoder, inputs, mask=None):
    """All hidden states, the output, and the vector of the head: compiled at once, which is cheaper than one by one."""
    states = encoder.hidden_states(inputs, mask)
    valid = encoder.sequence_mask(inputs, mask)
    return states, encoder(inputs, mask), encoder.head.pooled(list(states.values())[-1], valid)


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


def assert_behaves(folder, inputs, mask=None, *, without_gradient=("key.bias",)):
    """What every encoder must do, whatever its family: blocks, truncation, jit, vmap, gradients, a step, bfloat16.

    Args:
        folder: a checkpoint with random parameters; it is loaded with a new classifier of three classes.
        inputs, mask: at least two points.
        without_gradient: endings of parameters whose gradient is zero. A bias of the keys adds the same to all scores.
    """
    import jax.numpy as jnp

    encoder, _ = encoders.load(folder, num_classes=3)
    assert encoder(inputs, mask).shape == (len(inputs), 3)
    states = encoder.hidden_states(inputs, mask)
    assert_chains(encoder, states, inputs, mask)
    assert_transforms(encoder, states, inputs, mask)
    assert_trains(encoder, jnp.arange(len(inputs)) % 3, inputs, mask, without_gradient=without_gradient)
    narrow, _ = encoders.load(folder, num_classes=3, dtype=jnp.bfloat16)
    assert_near_in_bfloat16(narrow, states, inputs, mask)


def assert_chains(encoder, states, inputs, mask=None, *, same_head=True):
    """Each block alone makes the next state from the last, and the head the logits; a truncated encoder's are the first.

    same_head: whether a truncated encoder keeps the head.
    """
    tokens = encoder.sequence_mask(inputs, mask)
    names = list(states)
    assert names == ["embed", *(f"blocks/{i}" for i in range(len(encoder.blocks)))]
    for i, (before, after) in enumerate(pairwise(names)):
        np.testing.assert_array_equal(encoder.block(i, states[before], tokens), states[after], err_msg=after)
    np.testing.assert_array_equal(encoder.head(states[names[-1]], tokens), encoder(inputs, mask))
    depth = len(encoder.blocks) - 1
    shorter = encoder.truncate(depth)
    kept = shorter.hidden_states(inputs, mask)
    assert list(kept) == names[:-1]
    for name, state in kept.items():
        np.testing.assert_array_equal(state, states[name], err_msg=name)
    head = encoder.head if same_head else shorter.head
    np.testing.assert_array_equal(shorter(inputs, mask), head(states[names[-2]], tokens))
    assert len(encoder.blocks) == depth + 1


def assert_transforms(encoder, states, inputs, mask=None):
    """Compiled, and mapped over a leading axis, the states are the same."""
    import jax
    import jax.numpy as jnp

    run = nnx.jit(lambda encoder, inputs, mask: encoder.hidden_states(inputs, mask))
    for name, state in run(encoder, inputs, mask).items():
        assert_close(state, states[name], f"jit, {name}", tolerance=1e-5)
    twice = jnp.stack([inputs, inputs[::-1]])
    masks = None if mask is None else jnp.stack([mask, mask[::-1]])
    mapped = jax.jit(jax.vmap(encoder.hidden_states, in_axes=(0, None if mask is None else 0)))(twice, masks)
    for name, state in mapped.items():
        assert_close(state[0], states[name], f"vmap, {name}", tolerance=1e-5)
        assert_close(state[1], states[name][::-1], f"vmap, {name}", tolerance=1e-5)


def assert_trains(encoder, labels, inputs, mask=None, *, without_gradient=()):
    """The gradient by every parameter is finite and not all zeros, and a small step against it lowers the loss."""
    import jax
    import jax.numpy as jnp
    import optax

    graph, state = nnx.split(encoder)
    step_size = 1e-3

    @jax.jit
    def step(state):
        def loss(state):
            logits = nnx.merge(graph, state)(inputs, mask)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        value, gradient = jax.value_and_grad(loss)(state)
        length = jnp.sqrt(sum(jnp.square(leaf).sum() for leaf in jax.tree.leaves(gradient)))
        updates, _ = optax.sgd(step_size / length).update(gradient, optax.sgd(step_size).init(state))
        return value, gradient, length, optax.apply_updates(state, updates)

    loss, gradient, length, state = step(state)
    for path, leaf in nnx.to_flat_state(gradient):
        name = ".".join(map(str, path))
        assert np.isfinite(np.asarray(leaf[...])).all(), name
        if not name.endswith(tuple(without_gradient)):
            assert np.abs(np.asarray(leaf[...])).max() > 0, name
    fall = float(loss - step(state)[0])
    assert fall > 0.2 * step_size * length, (fall, float(length))  # to first order it is the whole product


def assert_near_in_bfloat16(encoder, states, inputs, mask=None, tolerance=0.1):
    """The states of an encoder in bfloat16 are bfloat16, finite, and near those in float32 on average."""
    import jax.numpy as jnp

    tokens = encoder.sequence_mask(inputs, mask)
    run = nnx.jit(lambda encoder, inputs, mask: encoder.hidden_states(inputs, mask))
    for name, state in run(encoder, inputs, mask).items():
        assert state.dtype == jnp.bfloat16, (name, state.dtype)
        difference = np.asarray(state, np.float64) - np.asarray(states[name], np.float64)
        if tokens is not None and tokens.shape == state.shape[:2]:
            difference = difference[np.asarray(tokens)]
        assert np.isfinite(difference).all(), name
        ratio = np.sqrt(np.square(difference).mean()) / np.asarray(states[name], np.float64).std()
        assert ratio < tolerance, (name, ratio)
