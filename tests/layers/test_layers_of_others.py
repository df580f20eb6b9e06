"""Layers of the models that people have: bridges, keywords, parts, objects, wrappers, programs of any library on JAX."""

from __future__ import annotations

import dataclasses
import functools
import warnings

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxconvex as jc

pytestmark = pytest.mark.usefixtures("unexplained")

X = jax.random.normal(jax.random.key(0), (30, 4))
LABELS = np.repeat([0, 1, 2], 10)
evaluate = functools.partial(jc.evaluate, k=5, jackknife=False, progress=False)


def kinds(report):
    return {row.kind for row in report.rows}


def initialised(module, **kwargs):
    return module.init(jax.random.key(0), X, **kwargs)


# Bridges, methods and wrappers ----------------------------------------------------------------------------------------


class Hidden(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3, name="out")(nn.relu(nn.Dense(8, name="hidden")(x)))


class LinenInside(nnx.Module):
    def __init__(self, rngs):
        self.net = nnx.bridge.ToNNX(Hidden(), rngs=rngs)
        self.post = nnx.Linear(3, 3, rngs=rngs)

    def __call__(self, x):
        return self.post(self.net(x))


class Two(nnx.Module):
    def __init__(self, rngs):
        self.a, self.b = nnx.Linear(4, 6, rngs=rngs), nnx.Linear(6, 4, rngs=rngs)

    def __call__(self, x):
        return self.b(nnx.relu(self.a(x)))


class NNXInside(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3, name="post")(nnx.bridge.ToLinen(Two, name="inner")(x))


def test_linen_inside_nnx():
    model = nnx.bridge.lazy_init(LinenInside(nnx.Rngs(0)), X)
    read = jc.from_nnx(model, layers="**")
    outputs, layers = read(X)
    assert list(layers) == ["net/hidden", "net/out", "net", "post"]
    np.testing.assert_allclose(layers["net/hidden"], X @ model.net.hidden["kernel"][...], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(outputs, model(X), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(jc.run_from(read, "net/hidden", layers["net/hidden"], X), outputs, rtol=1e-4, atol=1e-5)
    assert not any("mark" in name for _, module in nnx.iter_modules(model) for name in vars(module))


def test_nnx_inside_linen():
    module = NNXInside()
    variables = initialised(module)
    outputs, layers = jc.from_linen(module, variables, layers="**")(X)
    assert list(layers) == ["inner/a", "inner/b", "inner", "post"]
    np.testing.assert_allclose(outputs, module.apply(variables, X), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(layers["inner/a"], X @ variables["params"]["inner"]["a"]["kernel"], rtol=1e-4, atol=1e-5)


class Coder(nnx.Module):
    def __init__(self, rngs):
        self.a, self.b = nnx.Linear(4, 6, rngs=rngs), nnx.Linear(6, 4, rngs=rngs)

    def encode(self, x):
        return nnx.relu(self.a(x))

    def decode(self, h):
        return self.b(h)


class Auto(nnx.Module):
    def __init__(self, rngs):
        self.coder = Coder(rngs)

    def __call__(self, x):
        return self.coder.decode(self.coder.encode(x))


def test_methods_are_layers():
    model = Auto(nnx.Rngs(0))
    outputs, layers = jc.from_nnx(model)(X)
    assert list(layers) == ["coder.encode", "coder.decode"]
    np.testing.assert_allclose(layers["coder.encode"], model.coder.encode(X), rtol=1e-5)
    np.testing.assert_allclose(jc.run_from(model, "coder.encode", layers["coder.encode"], X), outputs, rtol=1e-5)
    read = jc.from_nnx(model.coder, method="encode")
    assert list(read(X)[1]) == ["a"]


class LinenBlock(nn.Module):
    @nn.compact
    def __call__(self, h):
        return h + nn.Dense(h.shape[-1])(h)


class Stack(nn.Module):
    @nn.compact
    def __call__(self, h):
        for i in range(2):
            h = LinenBlock(name=f"block_{i}")(h)
        return nn.LayerNorm(name="norm")(h)


class Wrapped(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3, name="head")(Stack(name="encoder")(nn.Dense(4, name="embed")(x)))


class Lone(nn.Module):
    @nn.compact
    def __call__(self, x):
        return Wrapped(name="model")(x)


@pytest.mark.parametrize(("module", "above"), [(Wrapped(), ""), (Lone(), "model/")])
def test_default_layers_are_those_that_repeat_within_a_wrapper(module, above):
    names = ["embed", "encoder/block_0", "encoder/block_1", "encoder/norm", "head"]
    read = jc.from_linen(module, initialised(module))
    assert list(read(X)[1]) == [above + name for name in names]
    listing = jc.layer_names(read, X)
    assert [layer.name for layer in listing if layer.default] == [above + name for name in names]
    block = next(layer for layer in listing if layer.name.endswith("block_0"))
    assert (block.type, block.shapes, block.dtypes) == ("LinenBlock", ((30, 4),), ("float32",))
    with pytest.raises(ValueError, match=r"no layer 'block_0'(.|\n)*encoder/block_0 +LinenBlock +\(30, 4\)"):
        jc.run_from(read, "block_0", X, X)


# Keywords -------------------------------------------------------------------------------------------------------------


class Trained(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        h = nn.Dropout(0.5)(nn.relu(nn.Dense(8, name="a")(x)), deterministic=not train)
        return nn.Dense(3, name="b")(h)


@pytest.mark.long
def test_keywords_of_every_call_go_wherever_the_model_goes():
    module = Trained()
    variables = initialised(module, train=False)
    read = jc.from_linen(module, variables, kwargs={"train": False}, layers=["a", "b"])
    outputs, layers = jax.jit(lambda read: read(X))(read)
    np.testing.assert_allclose(outputs, module.apply(variables, X, train=False), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(jc.run_from(read, "a", layers["a"], X), outputs, rtol=1e-5, atol=1e-6)
    predict = jc.rest_of(read, "a", example=X[:1])
    np.testing.assert_allclose(predict(layers["a"]), outputs, rtol=1e-5, atol=1e-6)
    assert repr(predict) == "the rest after 'a' of LayeredModel of Trained: layers 'a', 'b', 4 arrays of 67 numbers"
    assert kinds(evaluate(jc.model_source(read, X), LABELS)) == {"graph", "euclidean"}
    plain = jc.from_linen(module, variables)
    assert kinds(evaluate(jc.model_source(functools.partial(plain, train=False), X), LABELS)) == {"graph", "euclidean"}
    with pytest.raises(ValueError, match=r"kwargs=\{'train': False\}"):
        plain(X)
    drawing = jc.from_linen(
        module, variables, kwargs={"train": True}, rngs={"dropout": jax.random.key(3)}, training=True
    )
    expected = module.apply(variables, X, train=True, rngs={"dropout": jax.random.key(3)})
    np.testing.assert_allclose(drawing(X)[0], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.long
def test_a_score_that_is_left_out_is_said_with_the_reason():
    source = jc.model_source(lambda x: (x[:, :3], {"input": x}), X)
    with pytest.warns(UserWarning, match="no Euclidean score of 'input': a function of one's own needs rest="):
        report = evaluate(source, LABELS)
    assert "no Euclidean score of 'input'" in " ".join(report.table().split())
    with pytest.warns(UserWarning, match=r"outputs have shape \(30, 4, 1\)"):
        evaluate(jc.model_source(lambda x: (x[..., None], {"input": x}), X, rest=lambda name: lambda h: h), LABELS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = evaluate(jc.model_source(lambda x: {"input": x}, X, rest=False), LABELS)
    assert "rest=False leaves it out" in " ".join(report.table().split())


# Outputs of blocks and of models --------------------------------------------------------------------------------------


@dataclasses.dataclass
class Result:  # that JAX does not know
    logits: jax.Array
    name: str


class Parts(nnx.Module):
    def __init__(self, rngs):
        self.linear = nnx.Linear(4, 4, rngs=rngs)

    def __call__(self, x):
        h = jnp.tanh(self.linear(x))
        return {"attention": jax.nn.softmax(h @ h.T), "h": h, "steps": 3}


class Rich(nnx.Module):
    returned: object = Result

    def __init__(self, rngs):
        self.first, self.tokens, self.head = Parts(rngs), Tokens(), nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x):
        h = self.first(x)["h"]
        h = h + self.tokens(h)
        logits = self.head(h)
        return Result(logits, "rich") if self.returned is Result else {"logits": logits, "h": h}


class Tokens(nnx.Module):
    def __call__(self, x):
        return (x[:, :1] > 0).astype(jnp.int32)


class RichDict(Rich):
    returned = dict


@pytest.mark.parametrize("kind", [Rich, RichDict])
@pytest.mark.long
def test_parts_and_objects(kind):
    model = kind(nnx.Rngs(0))
    outputs, layers = jc.from_nnx(model)(X)
    expected = model(X)
    if kind is Rich:
        assert type(outputs) is Result and outputs.name == "rich"
        outputs, expected = outputs.logits, expected.logits
    else:
        outputs, expected = outputs["logits"], expected["logits"]
    np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-6)
    assert set(layers["first"]) == {"attention", "h", "steps"}  # all of it, where nothing is selected
    read = jc.from_nnx(model, select="h")
    h = read(X)[1]["first"]
    np.testing.assert_allclose(h, model.first(X)["h"], rtol=1e-5)
    np.testing.assert_allclose(jc.rest_of(read, "first", example=X)(h), expected, rtol=1e-5, atol=1e-6)
    by_function = jc.from_nnx(model, select=lambda output: output["h"] if isinstance(output, dict) else output)
    np.testing.assert_allclose(by_function(X)[1]["first"], h)
    assert next(layer.part for layer in jc.layer_names(model, X) if layer.name == "first") == "['h']"
    with pytest.warns(UserWarning, match=r"'tokens' \(type int32, not floating\)") as found:
        report = evaluate(jc.model_source(model, X), LABELS)
    assert len(found) == 1
    assert kinds(report) == {"graph", "euclidean"} and {row.layer for row in report.rows} == {"first", "head"}
    with pytest.raises(ValueError, match="logits='logit' must name a part"):
        jc.rest_of(read, "first", example=X, logits="logit")


# Any program on JAX ---------------------------------------------------------------------------------------------------


def stacked(weights):
    """As libraries of pure functions do: parameters apart, blocks in a scan."""

    def network(x):
        x = jc.mark(x @ weights["embed"], "embed")

        def block(h, w):
            h = jc.mark(h + jnp.tanh(jc.mark(h @ w, "blocks/linear")), "blocks")
            return h, None

        x, _ = jax.lax.scan(block, x, weights["blocks"])
        return jc.mark(x @ weights["head"], "head")

    return network


@pytest.mark.long
def test_a_plain_function_with_marks():
    keys = jax.random.split(jax.random.key(1), 3)
    shapes = {"embed": (4, 5), "blocks": (3, 5, 5), "head": (5, 3)}
    weights = {name: jax.random.normal(key, shape) for key, (name, shape) in zip(keys, shapes.items(), strict=True)}
    program = jax.tree_util.Partial(lambda weights, x: stacked(weights)(x), weights)
    read = jc.from_function(program)
    outputs, layers = read(X)
    assert list(layers) == ["embed", "blocks/0", "blocks/1", "blocks/2", "head"]
    np.testing.assert_allclose(outputs, stacked(weights)(X), rtol=1e-4, atol=1e-5)
    h = layers["embed"]
    for i in range(3):
        h = h + jnp.tanh(h @ weights["blocks"][i])
        np.testing.assert_allclose(layers[f"blocks/{i}"], h, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(jc.run_from(read, "blocks/1", layers["blocks/1"], X), outputs, rtol=1e-4, atol=1e-5)
    assert list(jc.from_function(program, "blocks/*/linear")(X)[1]) == [f"blocks/{i}/linear" for i in range(3)]
    gradient = jax.grad(lambda read: jnp.sum(read(X)[1]["blocks/0"] ** 2))(read)
    assert float(jnp.abs(jax.tree.leaves(gradient)[0]).max()) > 0
    assert kinds(evaluate(jc.model_source(read, X), LABELS)) == {"graph", "euclidean"}
    with pytest.raises(ValueError, match="from_function needs a function of JAX arrays; got dict"):
        jc.from_function(weights)


def test_a_closure_over_weights_and_any_iterable_of_batches():
    w = np.asarray(jax.random.normal(jax.random.key(1), (4, 3)))
    read = jc.from_function(lambda x, scale=1.0: jc.mark(scale * x, "scaled") @ w, kwargs={"scale": 2.0})

    def loader():
        for start in range(0, 30, 8):
            yield {"x": np.asarray(X[start : start + 8])}

    found = jc.extract(read, loader(), progress=False)
    np.testing.assert_allclose(found["scaled"], 2 * X, rtol=1e-6)
    np.testing.assert_allclose(found.outputs, 2 * X @ w, rtol=1e-5, atol=1e-6)
