"""Layers of Flax models: read and run on from, against the same computation written by hand."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxconvex
from jaxconvex import from_linen, from_nnx, rest_of, run_from

WIDTH, TOKENS, FEATURES, CLASSES, DEPTH = 4, 5, 3, 2, 4


def random_like(tree, seed: int = 0):
    """Every array drawn anew: no zero hides a missing part."""
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    drawn = [
        0.7 * jax.random.normal(key, leaf.shape, leaf.dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf
        for key, leaf in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, drawn)


def randomised(model: nnx.Module, seed: int = 0):
    graph, state = nnx.split(model)
    return evaluated(nnx.merge(graph, random_like(state, seed)))


def evaluated(model: nnx.Module):
    return nnx.view(model, deterministic=True, raise_if_not_found=False)


def inputs(batch: int = 3) -> jax.Array:
    return jax.random.normal(jax.random.key(9), (batch, TOKENS, FEATURES))


def flops(function, *arguments) -> float:
    return jax.jit(function).lower(*arguments).compile().cost_analysis()["flops"]


def attend(h, query, mask):
    weights = query @ h.swapaxes(-1, -2)
    return weights if mask is None else jnp.where(mask[:, None, :], weights, -1e9)


# Transformers in NNX and Linen: nested modules, lists, dropout, a mask, a head that the outputs do not depend on.


class Attention(nnx.Module):
    def __init__(self, rngs):
        self.query = nnx.Linear(WIDTH, WIDTH, rngs=rngs)

    def __call__(self, h, mask=None):
        return jax.nn.softmax(attend(h, self.query(h), mask)) @ h


class Base(nnx.Module):
    def __call__(self, h, mask=None):  # inherited by the blocks
        return self.forward(h, mask)


class Block(Base):
    def __init__(self, rngs):
        self.attention = Attention(rngs)
        self.mlp = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def forward(self, h, mask=None):
        h = jnp.tanh(h + self.attention(h, mask))
        return h + self.dropout(nnx.relu(self.mlp(h)))


class RematBlock(Block):
    @nnx.remat
    def __call__(self, h, mask=None):
        return self.forward(h, mask)


class CheckpointedBlock(Block):
    def __call__(self, h, mask=None):
        return jax.checkpoint(self.forward)(h, mask)


class JitBlock(Block):
    @nnx.jit
    def __call__(self, h, mask=None):
        return self.forward(h, mask)


class Network(nnx.Module):
    def __init__(self, block=Block, seed=0):
        rngs = nnx.Rngs(seed)
        self.embed = nnx.Linear(FEATURES, WIDTH, rngs=rngs)
        self.blocks = nnx.List([block(rngs) for _ in range(DEPTH)])
        self.head = nnx.Linear(WIDTH, CLASSES, rngs=rngs)
        self.auxiliary = nnx.Linear(WIDTH, 1, rngs=rngs)

    def __call__(self, x, mask=None):
        h = self.embed(x)
        for block in self.blocks:
            h = block(h, mask)
        self.auxiliary(h)
        return self.head(h.mean(1))

    def states(self, x, mask=None):
        found = [self.embed(x)]
        for block in self.blocks:
            found.append(block.forward(found[-1], mask))
        return found

    def rest(self, h, after, mask=None):
        for block in self.blocks[after + 1 :]:
            h = block.forward(h, mask)
        return self.head(h.mean(1))


class LinenAttention(nn.Module):
    @nn.compact
    def __call__(self, h, mask=None):
        return jax.nn.softmax(attend(h, nn.Dense(WIDTH, name="query")(h), mask)) @ h


class LinenBlock(nn.Module):
    def setup(self):
        self.attention, self.mlp, self.dropout = LinenAttention(), nn.Dense(WIDTH), nn.Dropout(0.5)

    def __call__(self, h, mask=None, train=False):
        h = jnp.tanh(h + self.attention(h, mask))
        return h + self.dropout(nn.relu(self.mlp(h)), deterministic=not train)


class LinenNetwork(nn.Module):
    block: type = LinenBlock

    def setup(self):
        self.embed, self.head, self.auxiliary = nn.Dense(WIDTH), nn.Dense(CLASSES), nn.Dense(1)
        self.blocks = [self.block() for _ in range(DEPTH)]

    def __call__(self, x, mask=None, train=False):
        h = self.embed(x)
        for block in self.blocks:
            h = block(h, mask, train) if self.block is LinenBlock else block(h, mask)
        self.auxiliary(h)
        return self.head(h.mean(1))

    def states(self, x, mask=None):
        found = [self.embed(x)]
        for block in self.blocks:
            found.append(block(found[-1], mask))
        return found

    def rest(self, h, after, mask=None):
        for block in self.blocks[after + 1 :]:
            h = block(h, mask)
        return self.head(h.mean(1))


def nnx_case(block):
    model = randomised(Network(block))
    graph, state = nnx.split(model)

    def method(name):
        return lambda weights, *arguments: getattr(nnx.merge(graph, weights), name)(*arguments)

    return from_nnx(model), state, method, "blocks/{}"


def linen_case(block):
    module = LinenNetwork(block)
    variables = random_like(module.init(jax.random.key(0), inputs()))
    return from_linen(module, variables), variables, lambda name: partial(module.apply, method=name), "blocks_{}"


CASES = {
    "nnx": lambda: nnx_case(Block),
    "nnx.remat": lambda: nnx_case(RematBlock),
    "jax.checkpoint": lambda: nnx_case(CheckpointedBlock),
    "nnx.jit": lambda: nnx_case(JitBlock),
    "linen": lambda: linen_case(LinenBlock),
    "nn.remat": lambda: linen_case(nn.remat(LinenBlock)),
    "nn.jit": lambda: linen_case(nn.jit(LinenBlock)),
}


@pytest.fixture(scope="module", params=CASES)
def case(request):
    return CASES[request.param]()


@pytest.mark.long(after=1)
def test_all_blocks_in_order_with_their_outputs(case):
    read, weights, method, name = case
    x, mask = inputs(), jnp.arange(TOKENS) < jnp.array([[2], [5], [3]])
    outputs, layers = read(x, mask=mask)
    assert type(layers) is OrderedDict
    assert list(layers) == ["embed", *(name.format(i) for i in range(DEPTH)), "auxiliary", "head"]
    for h, expected in zip(layers.values(), method("states")(weights, x, mask), strict=False):
        np.testing.assert_allclose(h, expected, rtol=2e-4, atol=1e-5)
    np.testing.assert_allclose(outputs, method("__call__")(weights, x, mask), rtol=2e-4, atol=1e-5)
    assert list(jax.jit(lambda read: read(x, mask)[1])(read)) == list(layers)


@pytest.mark.long(after=2)
def test_running_on_is_the_rest_written_by_hand(case):
    read, weights, method, name = case
    x, mask = inputs(), jnp.arange(TOKENS) < jnp.array([[2], [5], [3]])
    h = jax.random.normal(jax.random.key(1), (3, TOKENS, WIDTH))
    for i in (0, DEPTH - 1):
        for side in (None, mask):
            expected = method("rest")(weights, h, i, side)
            np.testing.assert_allclose(run_from(read, name.format(i), h, x, side), expected, rtol=2e-4, atol=1e-5)
    outputs, layers = from_layers(read, "**")(x, mask)
    for layer in (name.format(2) + "/attention/query", "head"):
        np.testing.assert_allclose(run_from(read, layer, layers[layer], x, mask), outputs, rtol=2e-4, atol=1e-5)
        assert np.abs(run_from(read, layer, 1 - layers[layer], x, mask) - outputs).max() > 1e-4


def from_layers(read, *patterns):
    return jaxconvex.LayeredModel(read.weights, read.call, patterns)


@pytest.mark.long(after=2)
def test_running_on_costs_what_the_rest_written_by_hand_costs(case):
    read, weights, method, name = case
    x, h = inputs(), jnp.ones((3, TOKENS, WIDTH))
    whole = flops(method("__call__"), weights, x)
    for i in (1, DEPTH - 1):
        by_hand = flops(lambda weights, h, i=i: method("rest")(weights, h, i), weights, h)
        assert flops(lambda read, h, x, i=i: run_from(read, name.format(i), h, x), read, h, x) == by_hand < whole


@pytest.mark.long
def test_vmap_and_gradients(case):
    read, weights, method, name = case
    x, layer = inputs(), name.format(1)
    h = read(x)[1][layer]
    one_by_one = jax.vmap(lambda x: read(x[None])[1][layer][0])(x)
    np.testing.assert_allclose(one_by_one, h, rtol=2e-4, atol=1e-5)
    ends = jnp.stack([h, 2 * h, 3 * h])
    many = jax.vmap(lambda h: run_from(read, layer, h, x))(ends)
    expected = jnp.stack([method("rest")(weights, h, 1) for h in ends])
    np.testing.assert_allclose(many, expected, rtol=2e-4, atol=1e-5)

    def loss(read):
        return jnp.sum(read(x)[1][layer] ** 2) + jnp.sum(run_from(read, layer, h, x) ** 2)

    def by_hand(weights):
        return jnp.sum(method("states")(weights, x)[2] ** 2) + jnp.sum(method("rest")(weights, h, 1) ** 2)

    found = jax.jit(jax.grad(loss, allow_int=True))(read)
    expected = jax.grad(by_hand, allow_int=True)(weights)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        if jnp.issubdtype(b.dtype, jnp.floating):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
    found = jax.grad(lambda h: jnp.sum(run_from(read, layer, h, x) ** 2))(h)
    np.testing.assert_allclose(
        found, jax.grad(lambda h: jnp.sum(method("rest")(weights, h, 1) ** 2))(h), rtol=1e-3, atol=1e-3
    )


@pytest.mark.long(after=1)
def test_the_rest_as_a_function_of_activations_alone(case):
    read, weights, method, name = case
    h = jax.random.normal(jax.random.key(2), (7, TOKENS, WIDTH))
    for example in (inputs(1), inputs(4)):
        predict = rest_of(read, name.format(2), example)
        np.testing.assert_allclose(predict(h), method("rest")(weights, h, 2), rtol=2e-4, atol=1e-5)
    mask = jnp.arange(TOKENS) < jnp.array([[2], [5], [3], [1], [4], [5], [2]])
    predict = rest_of(read, name.format(2), inputs(2), mask=mask[:2], side="mask")
    expected = method("rest")(weights, h, 2, mask)
    np.testing.assert_allclose(predict((h, mask)), expected, rtol=2e-4, atol=1e-5)
    np.testing.assert_allclose(predict((h, 0.1 * mask.astype(float))), expected, rtol=2e-4, atol=1e-5)
    predict = rest_of(read, name.format(2), inputs(2), mask[:2], side=[1])
    np.testing.assert_allclose(predict((h, mask)), expected, rtol=2e-4, atol=1e-5)
    predict = rest_of(read, name.format(2), inputs(1), mask[:1])  # one mask for all
    np.testing.assert_allclose(
        predict(h), method("rest")(weights, h, 2, jnp.repeat(mask[:1], 7, 0)), rtol=2e-4, atol=1e-5
    )


# Structures: the names of all layers, and running on from each with its own activation changes nothing.


class Shared(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(FEATURES, FEATURES, rngs=rngs)
        self.second = self.first
        self.parts = nnx.Dict(b=nnx.Linear(FEATURES, WIDTH, rngs=rngs), a=nnx.Linear(WIDTH, WIDTH, rngs=rngs))
        self.tail = nnx.Sequential(nnx.Linear(WIDTH, WIDTH, rngs=rngs), nnx.tanh, nnx.Linear(WIDTH, CLASSES, rngs=rngs))

    def __call__(self, x):
        return self.tail(self.parts["a"](self.parts["b"](self.second(self.first(x)))))


class Pair(nnx.Module):
    def __init__(self, rngs):
        self.layer = nnx.Linear(FEATURES, FEATURES, rngs=rngs)

    def __call__(self, x):
        h = self.layer(x)
        return {"h": h, "gate": jax.nn.sigmoid(h)}


class Single(Pair):
    def __call__(self, x):
        return (super().__call__(x)["h"], None)


class Gated(nnx.Module):
    def __init__(self, rngs):
        self.pair, self.single = Pair(rngs), Single(rngs)
        self.name = "no array"

    def __call__(self, x):
        both = self.pair(self.single(x)[0])
        return both["h"] * both["gate"]


def stack(rngs):
    return nnx.vmap(Block)(rngs.split(DEPTH))


class Scanned(nnx.Module):
    reverse = False

    def __init__(self, rngs):
        self.embed, self.head = nnx.Linear(FEATURES, WIDTH, rngs=rngs), nnx.Linear(WIDTH, CLASSES, rngs=rngs)
        self.blocks = stack(rngs)

    def __call__(self, x):
        @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=(nnx.Carry, 0), reverse=self.reverse)
        @nnx.remat
        def run(h, block):
            h = block(h)
            return h, h.mean((1, 2))

        h, means = run(self.embed(x), self.blocks)
        return self.head(h.mean(1)), means

    def rest(self, h, after):
        graph, state = nnx.split(self.blocks)
        steps = range(DEPTH)[::-1] if self.reverse else range(DEPTH)
        for i in list(steps)[after + 1 :]:
            h = nnx.merge(graph, jax.tree.map(lambda leaf, i=i: leaf[i], state))(h)
        return self.head(h.mean(1))


class Reversed(Scanned):
    reverse = True


class Ensemble(nnx.Module):
    def __init__(self, rngs):
        self.members = nnx.vmap(lambda rngs: nnx.Linear(FEATURES, WIDTH, rngs=rngs))(rngs.split(3))

    def __call__(self, x):
        return nnx.vmap(lambda member, x: member(x), in_axes=(0, None), out_axes=1)(self.members, x).mean(1)


class Recurrent(nnx.Module):
    def __init__(self, rngs):
        self.rnn = nnx.RNN(nnx.LSTMCell(FEATURES, WIDTH, rngs=rngs), rngs=rngs)

    def __call__(self, x):
        return self.rnn(x)[:, -1]


class Conditional(nnx.Module):
    def __init__(self, rngs):
        self.inside, self.outside = nnx.Linear(FEATURES, FEATURES, rngs=rngs), nnx.Linear(FEATURES, 2, rngs=rngs)

    def __call__(self, x):
        return self.outside(jax.lax.cond(x.sum() > 0, self.inside, lambda x: x, x))


class LinenScanBlock(nn.Module):
    @nn.compact
    def __call__(self, h, _):
        return LinenBlock(name="inner")(h), h.mean((1, 2))


class LinenScanned(nn.Module):
    block: type = LinenScanBlock

    @nn.compact
    def __call__(self, x):
        h = nn.Dense(WIDTH, name="embed")(x)
        stacked = nn.scan(self.block, variable_axes={"params": 0}, split_rngs={"params": True}, length=DEPTH)
        h, means = stacked(name="blocks")(h, None)
        return nn.Dense(CLASSES, name="head")(h.mean(1)), means


class LinenRecurrent(nn.Module):
    @nn.compact
    def __call__(self, x):
        cell = nn.scan(nn.LSTMCell, variable_broadcast="params", split_rngs={"params": False}, in_axes=1, out_axes=1)
        cell = cell(WIDTH, name="cell")
        return nn.Dense(CLASSES)(cell(cell.initialize_carry(jax.random.key(0), x[:, 0].shape), x)[1])


class LinenShared(nn.Module):
    def setup(self):
        self.shared = nn.Dense(FEATURES)
        self.tail = nn.Sequential([nn.Dense(WIDTH), nn.tanh, nn.Dense(CLASSES)])

    def __call__(self, x):
        return self.tail(self.shared(self.shared(x)))


BLOCKS = [f"blocks/{i}" for i in range(DEPTH)]
NNX_STRUCTURES = {
    Shared: ["first", "first@2", "parts/b", "parts/a", "tail/layers/0", "tail/layers/2"],
    Gated: ["single", "pair"],
    Scanned: ["embed", *BLOCKS, "head"],
    Reversed: ["embed", *BLOCKS[::-1], "head"],
    Ensemble: ["members"],
    Recurrent: ["rnn"],
}
LINEN_STRUCTURES = {
    LinenScanned(): ["embed", *BLOCKS, "head"],
    LinenScanned(nn.remat(LinenScanBlock)): ["embed", *BLOCKS, "head"],
    LinenRecurrent(): ["Dense_0"],
    LinenShared(): ["shared", "shared@2", "tail/layers_0", "tail/layers_2"],
}


def structure(kind):
    if isinstance(kind, type):
        return from_nnx(randomised(kind(nnx.Rngs(0)))), NNX_STRUCTURES[kind]
    return from_linen(kind, random_like(kind.init(jax.random.key(0), inputs()))), LINEN_STRUCTURES[kind]


@pytest.mark.long(after=2)
@pytest.mark.parametrize("kind", [*NNX_STRUCTURES, *LINEN_STRUCTURES], ids=lambda kind: str(kind)[:60])
def test_structures(kind):
    read, names = structure(kind)
    outputs, blocks = read(inputs())
    assert list(blocks) == names
    same, every = from_layers(read, "**")(inputs())
    assert set(names) < set(every) or len(every) == len(names)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), outputs, same)
    for name in list(every)[:: max(1, len(every) // 5)]:
        again = run_from(read, name, every[name], inputs())
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), outputs, again)
    for name in names[1:3]:
        changed = jax.tree.map(lambda h: 2 * h + 1, every[name])
        again = run_from(read, name, changed, inputs())
        assert max(np.abs(a - b).max() for a, b in zip(*map(jax.tree.leaves, (outputs, again)), strict=True)) > 1e-4


@pytest.mark.long
@pytest.mark.parametrize("kind", [Scanned, Reversed])
def test_a_stack_runs_on_from_each_step_and_skips_the_steps_before(kind):
    model = randomised(kind(nnx.Rngs(0)))
    x, h = inputs(), jax.random.normal(jax.random.key(4), (3, TOKENS, WIDTH))
    for after in (0, 2, DEPTH - 1):
        layer = BLOCKS[::-1][after] if model.reverse else BLOCKS[after]
        found, means = run_from(model, layer, h, x)
        np.testing.assert_allclose(found, model.rest(h, after), rtol=2e-4, atol=1e-5)
        place = DEPTH - 1 - after if model.reverse else after
        np.testing.assert_allclose(means[place], h.mean((1, 2)), rtol=1e-5)
    read = from_nnx(model)
    last = list(read(x)[1])[-2]
    rest = flops(lambda read, h, x: run_from(read, last, h, x)[0], read, h, x)
    assert rest < flops(lambda read, x: read(x)[0][0], read, x) / 3


def test_shapes_under_a_vmap_of_the_model_and_over_time():
    read = from_nnx(Ensemble(nnx.Rngs(0)))
    assert read(inputs())[1]["members"].shape == (3, 3, TOKENS, WIDTH)
    read = from_nnx(Recurrent(nnx.Rngs(0)), layers=["rnn/cell/*"])
    assert list(read(inputs())[1]) == [f"rnn/cell/{i}" for i in range(TOKENS)]


def test_activations_of_several_arrays_and_of_one_in_a_tuple():
    model = randomised(Gated(nnx.Rngs(0)))
    outputs, layers = from_nnx(model)(inputs())
    assert set(layers["pair"]) == {"h", "gate"}
    assert layers["single"].shape == (3, TOKENS, FEATURES)
    np.testing.assert_allclose(run_from(model, "pair", {"gate": 1.0 + 0 * outputs, "h": outputs}, inputs()), outputs)
    with pytest.raises(ValueError, match="'pair' returns 2 arrays"):
        run_from(model, "pair", layers["pair"]["h"], inputs())


# Modes, types, copies.


class Normalised(nnx.Module):
    def __init__(self):
        self.norm = nnx.BatchNorm(FEATURES, rngs=nnx.Rngs(0))
        self.dropout = nnx.Dropout(0.5, rngs=nnx.Rngs(1))
        self.head = nnx.Linear(FEATURES, 2, rngs=nnx.Rngs(2))

    def __call__(self, x):
        return self.head(self.dropout(self.norm(x)))


class LinenNormalised(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.BatchNorm(use_running_average=not train)(x)
        return nn.Dense(2)(nn.Dropout(0.5, deterministic=not train)(x))


def test_training_mode_must_be_asked_for_and_changes_nothing_in_the_model():
    model = Normalised()
    before = np.asarray(model.norm.mean[...])
    with pytest.raises(ValueError, match=r"'norm' \(BatchNorm\) has use_running_average=False.*nnx.view"):
        from_nnx(model)(inputs())
    outputs, _ = from_nnx(model, training=True)(inputs())
    np.testing.assert_array_equal(before, model.norm.mean[...])
    np.testing.assert_allclose(outputs, model(inputs()), rtol=1e-5, atol=1e-6)  # the same draw
    assert not np.array_equal(before, model.norm.mean[...])
    view = nnx.view(model, deterministic=True, use_running_average=True)
    np.testing.assert_allclose(from_nnx(view)(inputs())[0], view(inputs()), rtol=1e-5)
    model.dropout.rate = 0.0
    model.norm.use_running_average = True
    from_nnx(model)(inputs())  # harmless


def test_linen_in_training_mode():
    module = LinenNormalised()
    variables = module.init(jax.random.key(0), inputs(), False)
    read = from_linen(module, variables)
    np.testing.assert_array_equal(read(inputs(), train=False)[0], module.apply(variables, inputs(), train=False))
    with pytest.raises(ValueError, match=r"'BatchNorm_0' \(BatchNorm\) has use_running_average=False.*train=False"):
        read(inputs(), train=True)
    read = from_linen(module, variables, training=True)
    settings = {"train": True, "rngs": {"dropout": jax.random.key(3)}, "mutable": ["batch_stats"]}
    (outputs, updates), layers = read(inputs(), **settings)
    expected, expected_updates = module.apply(variables, inputs(), **settings)
    np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-6)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), updates, expected_updates)
    again, _ = run_from(read, "Dropout_0", layers["Dropout_0"], inputs(), **settings)
    np.testing.assert_allclose(again, outputs, rtol=1e-5, atol=1e-6)


def test_a_loss_in_a_training_step_of_nnx():
    model = Network(seed=3)

    @nnx.jit
    def step(model):
        def loss(model):
            read = from_nnx(model, training=True)
            _, layers = read(inputs())
            return jnp.sum(run_from(read, "blocks/2", layers["blocks/2"], inputs()) ** 2)

        return nnx.value_and_grad(loss)(model)

    value, gradient = step(model)
    leaves = jax.tree.leaves(nnx.state(gradient)) if isinstance(gradient, nnx.Module) else jax.tree.leaves(gradient)
    assert value > 0
    assert all(np.isfinite(leaf).all() for leaf in leaves) and max(np.abs(leaf).max() for leaf in leaves) > 0


def test_bfloat16_and_activations_of_another_type():
    model = nnx.Sequential(
        *(nnx.Linear(3, 3, param_dtype=jnp.bfloat16, dtype=jnp.bfloat16, rngs=nnx.Rngs(i)) for i in (0, 1))
    )
    x = inputs().astype(jnp.bfloat16)
    outputs, layers = from_nnx(model)(x)
    assert layers["layers/0"].dtype == outputs.dtype == jnp.bfloat16
    found = run_from(model, "layers/0", layers["layers/0"].astype(jnp.float32), x)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found.astype(np.float32), outputs.astype(np.float32))


class Failing(Network):
    def __call__(self, x):
        super().__call__(x)
        raise RuntimeError("after the blocks")


@pytest.mark.parametrize("kind", [Network, Failing])
def test_the_model_is_untouched_after_success_and_failure(kind):
    model = evaluated(kind())
    graph, state = nnx.split(model)
    classes = [type(module) for _, module in nnx.iter_modules(model)]
    if kind is Failing:
        with pytest.raises(RuntimeError, match="after the blocks"):
            from_nnx(model)(inputs())
    else:
        from_nnx(model)(inputs())
    again, state_again = nnx.split(model)
    assert again == graph
    assert classes == [type(module) for _, module in nnx.iter_modules(model)]
    assert not any("capture" in name or "mark" in name for _, m in nnx.iter_modules(model) for name in vars(m))
    jax.tree.map(
        lambda a, b: (
            np.testing.assert_array_equal(*map(jax.random.key_data, (a, b)))
            if jnp.issubdtype(a.dtype, jax.dtypes.prng_key)
            else np.testing.assert_array_equal(a, b)
        ),
        state,
        state_again,
    )


@pytest.mark.long
def test_nothing_is_traced_again():
    calls = []

    class Counted(Network):
        def __call__(self, x, mask=None, scale=1.0):
            calls.append(1)
            return scale * super().__call__(x, mask)

    models = [evaluated(Counted(seed=seed)) for seed in range(3)]
    for model in models:
        from_nnx(model)(inputs())
    assert len(calls) == 1
    from_nnx(models[0])(inputs(), scale=2)
    from_nnx(models[0])(inputs(), scale=2.0)
    assert len(calls) == 3  # a number is compiled for, 2 is not 2.0
    calls.clear()
    labels = np.arange(12) % 2
    h = from_nnx(models[0])(inputs(12))[1]["blocks/1"]
    calls.clear()
    logits = []
    for model in models:
        predict = rest_of(model, "blocks/1", inputs(1))
        assert np.isfinite(jaxconvex.euclidean_convexity(predict, h, labels, num_classes=2).micro)
        logits.append(predict(h))
    assert len(calls) == 5  # the check in rest_of, the logits; the scores, which take the weights of their call
    assert not np.array_equal(logits[0], logits[1])


def test_the_eleventh_layer_comes_after_the_tenth():
    model = nnx.Sequential(*(nnx.Linear(3, 3, rngs=nnx.Rngs(i)) for i in range(12)))
    assert list(jax.jit(lambda read, x: read(x)[1])(from_nnx(model), inputs())) == [f"layers/{i}" for i in range(12)]


@pytest.mark.long
def test_other_methods_and_choices():
    model = randomised(Network())
    read = from_nnx(model, method="states", layers=["b*s/*/ml*", "embed"])
    assert list(read(inputs())[1]) == ["embed", *(f"blocks/{i}/mlp" for i in range(DEPTH))]
    assert list(from_nnx(model, layers="blocks/*")(inputs())[1]) == [f"blocks/{i}" for i in range(DEPTH)]
    assert len(from_nnx(model, layers="**")(inputs())[1]) == 4 * DEPTH + 3 + DEPTH
    bound = LinenShared().bind(LinenShared().init(jax.random.key(0), inputs()))
    np.testing.assert_array_equal(from_linen(bound)(inputs())[0], bound(inputs()))


# Mistakes.


@pytest.fixture(scope="module")
def network():
    return randomised(Network())


def mistakes(model):
    x, h = inputs(), jnp.ones((3, TOKENS, WIDTH))
    mask = jnp.ones((3, TOKENS), bool)
    linen = LinenShared()
    variables = linen.init(jax.random.key(0), x)
    return {
        "no layer 'block/3'; it has, the nearest first, 'blocks/3', ": lambda: run_from(model, "block/3", h, x),
        "no layer 'blokcs/.'; it has": lambda: from_nnx(model, layers=["blokcs/*"])(x),
        "do not depend on layer 'auxiliary'": lambda: run_from(model, "auxiliary", jnp.ones((3, TOKENS, 1)), x),
        "do not depend on layer 'embed'": lambda: rest_of(from_nnx(First(nnx.Rngs(0))), "embed", x),
        r"must have shape \(3, 5, 4\) for these inputs; got \(3, 4\)": lambda: run_from(model, "embed", h[:, 0], x),
        r"shape \(3, 5, 4\) for these inputs; got \(2, 5, 1\)": lambda: run_from(model, "embed", h[:2, :, :1], x),
        "must be one array": lambda: run_from(model, "embed", (h, h), x),
        "missing a required argument: 'x'": lambda: run_from(model, "embed", h),
        "unexpected keyword argument 'masks'": lambda: from_nnx(model)(x, masks=None),
        "uses the input 'mask', whose batch size": lambda: run_from(model, "embed", h[:2], x, mask=mask),
        "uses the input 1, whose batch size": lambda: rest_of(model, "embed", x, mask)(h[:2]),
        "side='masks' must name a keyword": lambda: rest_of(model, "embed", x, mask=mask, side="masks"),
        "side=2 must name": lambda: rest_of(model, "embed", x, side=2),
        "must be an array in the example": lambda: rest_of(model, "embed", x, mask=None, side="mask"),
        "'inside' stands inside 'cond'": lambda: run_from(Conditional(nnx.Rngs(0)), "inside", x, x),
        "from_linen needs a flax.linen Module; got Network. For NNX": lambda: from_linen(model, variables),
        "from_nnx needs an nnx.Module; got LinenShared. For Linen": lambda: run_from(linen, "shared", x, x),
        "got Network itself, the class": lambda: from_nnx(Network),
        "variables must be what module.init returns.*got NoneType": lambda: from_linen(linen),
        r"variables must be .*the keys \['shared', 'tail": lambda: from_linen(linen, variables["params"]),
        "has no method 'forwards'": lambda: from_nnx(model, method="forwards"),
        "layers must be names or patterns": lambda: from_nnx(model, layers=[]),
        "no blocks among its direct submodules": lambda: from_nnx(Empty())(x),
    }


class First(nnx.Module):
    def __init__(self, rngs):
        self.embed = nnx.Linear(FEATURES, 2, rngs=rngs)

    def __call__(self, x):
        self.embed(x)
        return x


class Empty(nnx.Module):
    def __call__(self, x):
        return x


def test_mistakes_get_messages(network):
    for message, mistake in mistakes(network).items():
        with pytest.raises(ValueError, match=message):
            mistake()


@pytest.mark.long
def test_a_model_from_another_library(monkeypatch):
    """AbLang2's encoder for antibodies, as the package ablanx gives it in Linen: each block returns (h, attention)."""
    model = pytest.importorskip("ablang_jax.model")
    monkeypatch.setattr(model, "N_BLOCK", 3)
    module, tokens = model.Ablanx(), jax.random.randint(jax.random.key(0), (2, 6), 0, model.VOCAB)
    mask = (jnp.arange(6) < jnp.array([[6], [4]])).astype(jnp.float32)
    variables = random_like(module.init(jax.random.key(0), tokens, mask))
    read = from_linen(module, variables)
    (expected, attention), (outputs, _) = module.apply(variables, tokens, mask), read(tokens, mask)[0]
    np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-4)
    layers = read(tokens, mask)[1]
    blocks = [f"encoder_blocks_{i}" for i in range(3)]
    assert list(layers) == ["aa_embed_layer", *blocks, "layer_norm_after_encoder_blocks"]
    np.testing.assert_allclose(layers[blocks[1]][1], attention[1], rtol=1e-4, atol=1e-5)
    plain = read(tokens, mask, return_attn=False)[1][blocks[0]]
    np.testing.assert_allclose(plain, layers[blocks[0]][0], rtol=1e-4, atol=1e-4)
    predict = rest_of(read, blocks[0], tokens[:1], mask[:1], return_attn=False, side=1)
    np.testing.assert_allclose(predict((plain, mask))[0], expected, rtol=1e-3, atol=1e-3)
    wrong = predict((plain, jnp.ones_like(mask)))[0]
    assert np.abs(wrong - expected)[1].max() > 1e-2
