"""The losses beside what users have: many devices, a layer of their model, schedules, a memory carried along."""

from __future__ import annotations

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx
from processes import on_devices

from jaxconvex import detour_loss, euclidean_convexity_loss, from_linen, from_nnx, graph_convexity_loss, run_from
from jaxconvex.losses import memory, recall, remember

EIGHT_DEVICES = """
import jax, jax.numpy as jnp, numpy as np
from jax import lax
from jax.sharding import AxisType, PartitionSpec as P
from jaxconvex import detour_loss, euclidean_convexity_loss, graph_convexity_loss

assert jax.device_count() == 8
rng = np.random.default_rng(0)
x = jnp.asarray(rng.normal(size=(32, 4)), jnp.float32)
labels = jnp.asarray(rng.integers(-1, 3, 32), jnp.int32)
twos = jnp.asarray(rng.permutation(np.r_[np.repeat(np.arange(13), 2), -np.ones(6)]), jnp.int32)  # a partner is certain
weights = jnp.asarray(rng.normal(size=(4, 13)), jnp.float32)
counted = jnp.asarray(rng.random(32) < 0.8)
mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))

def euclidean(h, y, **options):
    return euclidean_convexity_loss(
        jnp.tanh, h, y, key=jax.random.key(0), points="equal", num_points=3, return_num_pairs=True, **options
    )

def graph(h, y, **options):
    return graph_convexity_loss(h, y, k=4, temperature=0.3, return_num_pairs=True, **options)

def detour(h, y, **options):
    return detour_loss(h, y, k=4, return_num_pairs=True, **options)

for loss, y in ((graph, labels), (detour, labels), (euclidean, twos)):
    def both(weights, x, y, where):
        return jax.value_and_grad(lambda w: loss(x @ w, y, where=where), has_aux=True)(weights)

    def mean_of_gradients(weights, x, y, where):
        step = jax.value_and_grad(lambda w: loss(x @ w, y, where=where, axis_name="data"), has_aux=True)
        return lax.pmean(step(weights), "data")

    def gradient_of_mean(weights, x, y, where):
        return jax.value_and_grad(
            lambda w: lax.pmean(loss(x @ w, y, where=where, axis_name="data"), "data"), has_aux=True
        )(weights)

    (want, pairs), slope = jax.jit(both)(weights, x, y, counted)
    assert want > 0.01 and pairs > 3 and jnp.abs(slope).max() > 1e-3
    for function, check in ((mean_of_gradients, False), (gradient_of_mean, True)):
        specs = {"in_specs": (P(), P("data"), P("data"), P("data")), "out_specs": P(), "check_vma": check}
        (got, count), spread = jax.jit(jax.shard_map(function, mesh=mesh, **specs))(weights, x, y, counted)
        np.testing.assert_allclose(got, want, rtol=1e-5, err_msg=loss.__name__)
        np.testing.assert_allclose(count, pairs)
        np.testing.assert_allclose(spread, slope, rtol=0, atol=1e-6, err_msg=loss.__name__)
"""


@pytest.mark.long
def test_eight_devices_give_what_one_gives():
    """In both manners of data parallel training: the mean of the gradients, and the gradient of the mean."""
    process = subprocess.run(
        [sys.executable, "-c", EIGHT_DEVICES], env=on_devices(), capture_output=True, text=True, timeout=280
    )
    assert process.returncode == 0, process.stdout + process.stderr


class Network(nnx.Module):
    def __init__(self, rngs, inputs=2):
        self.first, self.second = nnx.Linear(inputs, 8, rngs=rngs), nnx.Linear(8, 8, rngs=rngs)
        self.head = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x):
        return self.head(nnx.relu(self.second(jnp.tanh(self.first(x)))))


def data(n=24):
    rng = np.random.default_rng(0)
    labels = jnp.asarray(rng.integers(0, 3, n), jnp.int32)
    return jnp.asarray(rng.normal(size=(n, 2)) + 0.5 * labels[:, None], jnp.float32), labels


@pytest.mark.long
def test_at_a_layer_of_an_nnx_model():
    """run_from inside nnx.value_and_grad: the gradient is that of the rest of the network written by hand."""
    model, (x, labels), key = Network(nnx.Rngs(0)), data(), jax.random.key(0)

    def loss(model):
        _, layers = from_nnx(model)(x)
        h = layers["first"]
        rest = lambda h: run_from(model, "first", h, x[:1])  # noqa: E731
        return (
            euclidean_convexity_loss(rest, h, labels, key=key)
            + graph_convexity_loss(h, labels, k=4)
            + detour_loss(h, labels, k=4)
        )

    def by_hand(model):
        h = model.first(x)
        rest = lambda h: model.head(nnx.relu(model.second(jnp.tanh(h))))  # noqa: E731
        return (
            euclidean_convexity_loss(rest, h, labels, key=key)
            + graph_convexity_loss(h, labels, k=4)
            + detour_loss(h, labels, k=4)
        )

    got, want = (nnx.jit(nnx.value_and_grad(function))(model) for function in (loss, by_hand))
    np.testing.assert_allclose(got[0], want[0], rtol=1e-5)
    slopes, wanted = (jax.tree.leaves(nnx.to_pure_dict(value[1])) for value in (got, want))
    assert len(slopes) == len(wanted) == 6
    for a, b in zip(slopes, wanted, strict=True):
        assert np.abs(b).max() > 0
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.long
def test_at_a_layer_of_a_linen_model():
    (x, labels), key = data(), jax.random.key(0)
    module = linen.Sequential([linen.Dense(8), jnp.tanh, linen.Dense(3)])
    variables = module.init(key, x)

    def loss(variables):
        model = from_linen(module, variables)
        h = model(x)[1]["layers_0"]
        return euclidean_convexity_loss(lambda h: run_from(model, "layers_0", h, x[:1]), h, labels, key=key)

    def by_hand(variables):
        first, second = (variables["params"][name] for name in ("layers_0", "layers_2"))
        rest = lambda h: jnp.tanh(h) @ second["kernel"] + second["bias"]  # noqa: E731
        return euclidean_convexity_loss(rest, x @ first["kernel"] + first["bias"], labels, key=key)

    got, want = (jax.jit(jax.value_and_grad(function))(variables) for function in (loss, by_hand))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.long
def test_a_training_loop_with_schedules_and_a_memory():
    """One scan: weight and temperature follow optax schedules, the memory is carried; at weight 0 nothing is changed."""
    x, labels = data(40)
    noise = jax.random.normal(jax.random.key(2), (40, 10))  # for the first layer to leave out
    x = jnp.concatenate([noise, jax.nn.one_hot(labels, 3)], axis=1)
    graph, start = nnx.split(Network(nnx.Rngs(0), inputs=13))
    optimiser = optax.adam(2e-2)
    temperature = optax.exponential_decay(0.5, 20, 0.5)

    def train(weight):
        def step(carry, indices):
            state, moments, bank, count = carry
            batch, classes = x[indices], labels[indices]

            def loss(state):
                model = nnx.merge(graph, state)
                h = jnp.tanh(model.first(batch))
                convexity, pairs = graph_convexity_loss(
                    *recall(bank, h, classes)[:2],
                    k=3,
                    temperature=temperature(count),
                    where=recall(bank, h, classes)[2],
                    return_num_pairs=True,
                )
                return weight(count) * convexity, (convexity, pairs, h)

            slope, (convexity, pairs, h) = jax.grad(loss, has_aux=True)(state)
            updates, moments = optimiser.update(slope, moments)
            carry = optax.apply_updates(state, updates), moments, remember(bank, h, classes), count + 1
            return carry, (convexity, pairs)

        order = jax.random.randint(jax.random.key(1), (200, 8), 0, 40)
        return jax.lax.scan(step, (start, optimiser.init(start), memory(24, 8), 0), order)

    outcomes, after = {}, {}
    for name, weight in (
        ("without", optax.constant_schedule(0.0)),
        ("late", optax.join_schedules([optax.constant_schedule(0.0), optax.constant_schedule(1.0)], [30])),
    ):
        (state, _, bank, count), (losses, pairs) = jax.jit(lambda weight=weight: train(weight))()
        assert count == 200 and bank.filled >= 24 and np.isfinite(losses).all()
        assert pairs[0] < pairs[10] and pairs[-1] > 50
        outcomes[name] = np.asarray(losses)
        h = jnp.tanh(nnx.merge(graph, state).first(x))
        after[name] = float(graph_convexity_loss(h, labels, k=3, temperature=0.1))
    np.testing.assert_allclose(outcomes["late"][:30], outcomes["without"][:30], rtol=1e-5)
    assert after["late"] < after["without"] - 0.05, after
