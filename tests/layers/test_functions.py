"""Functions of users, wherever their weights stand: what is computed is what they hold at the call."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import jaxconvex as jc
from jaxconvex._internal.functions import as_program, compiled, digest

pytestmark = pytest.mark.usefixtures("unexplained")

nnx = pytest.importorskip("flax.nnx")
nn = pytest.importorskip("flax.linen")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 4)).astype(np.float32)
LABELS = np.arange(24) % 2
KERNELS = RNG.normal(size=(2, 4, 2)).astype(np.float32)


class Network(nnx.Module):
    def __init__(self):
        self.norm = nnx.BatchNorm(4, use_running_average=True, rngs=nnx.Rngs(0))
        self.head = nnx.Linear(4, 2, use_bias=False, kernel_init=lambda *_: jnp.asarray(KERNELS[0]), rngs=nnx.Rngs(0))

    def __call__(self, h):
        return self.logits(h)

    def logits(self, h, scale=1.0):
        return scale * self.head(self.norm(h))

    def learn(self):
        self.head.kernel[...] = jnp.asarray(KERNELS[1])


class Plain:
    def __init__(self):
        self.kernel = KERNELS[0].copy()

    def __call__(self, h):
        return h @ self.kernel

    def learn(self):
        self.kernel[...] = KERNELS[1]


def of_module(take):
    network = Network()
    return take(network), network.learn


def of_object():
    held = Plain()
    return held, held.learn


def of_dict():
    held = {"kernel": jnp.asarray(KERNELS[0])}
    return lambda h: h @ held["kernel"], lambda: held.update(kernel=jnp.asarray(KERNELS[1]))


GLOBAL = {}


def of_global():
    GLOBAL["kernel"] = KERNELS[0].tolist()
    return lambda h: h @ jnp.asarray(GLOBAL["kernel"]), lambda: GLOBAL.update(kernel=KERNELS[1].tolist())


def of_linen():
    held = {"params": {"kernel": jnp.asarray(KERNELS[0])}}
    return partial(nn.Dense(2, use_bias=False).apply, held), lambda: held["params"].update(
        kernel=jnp.asarray(KERNELS[1])
    )


def of_cell():
    kernel = KERNELS[0]

    def change():
        nonlocal kernel
        kernel = KERNELS[1]

    return jax.jit(lambda h: h @ kernel), change


HOLDERS = {
    "module": partial(of_module, lambda network: network),
    "method": partial(of_module, lambda network: network.logits),
    "special method": partial(of_module, lambda network: network.__call__),
    "partial of a method": partial(of_module, lambda network: partial(network.logits, scale=2.0)),
    "Partial of a method": partial(of_module, lambda network: Partial(network.logits, scale=2.0)),
    "closure over a module": partial(of_module, lambda network: lambda h: network(h)),
    "under jit": partial(of_module, lambda network: jax.jit(lambda h: network(h))),
    "a function under jit within": partial(
        of_module, lambda network: partial(lambda f, h: 2 * f(h), jax.jit(network.logits))
    ),
    "under nnx.jit": partial(of_module, lambda network: nnx.jit(lambda h: network(h))),
    "view": partial(of_module, lambda network: nnx.view(network, use_running_average=True)),
    "object": of_object,
    "dictionary": of_dict,
    "global": of_global,
    "linen": of_linen,
    "variable under jit": of_cell,
}


def score(function) -> np.ndarray:
    found = jc.euclidean_convexity(function, X, LABELS, num_classes=2, num_points=3, batch_size=60)
    return np.asarray(found.per_class)


@pytest.fixture(scope="module")
def right():
    before, after = (score(lambda h, kernel=kernel: h @ jnp.asarray(kernel)) for kernel in KERNELS)
    assert np.abs(before - after).min() > 0.01
    return before, after


@pytest.mark.long(after=2)
@pytest.mark.parametrize("holder", HOLDERS)
def test_the_score_is_that_of_the_weights_at_the_call(holder, right):
    function, change = HOLDERS[holder]()
    np.testing.assert_allclose(score(function), right[0], atol=1e-6)
    change()
    np.testing.assert_allclose(score(function), right[1], atol=1e-6)


def test_statistics_and_modes_are_those_at_the_call(right):
    network = Network()
    np.testing.assert_allclose(score(network), right[0], atol=1e-6)
    shift = 3 * jnp.ones(4)
    network.norm.mean[...] = shift
    there = score(lambda h: (h - shift) @ jnp.asarray(KERNELS[0]))
    np.testing.assert_allclose(score(network), there, atol=1e-6)
    network.norm.use_running_average = False
    with pytest.raises(ValueError, match=r"changes a module that it holds.*eval"):
        score(network)
    network.norm.use_running_average = True
    np.testing.assert_allclose(score(network), there, atol=1e-6)


def test_programs_that_compute_the_same_are_equal_and_others_are_not():
    first, second = (jnp.asarray(kernel) for kernel in KERNELS)
    like = [as_program(lambda h, kernel=kernel: h @ kernel, X) for kernel in (first, second)]
    within = [
        as_program(lambda h, f=jax.jit(lambda h, kernel=kernel: h @ kernel): f(h), X) for kernel in (first, second)
    ]
    numbers = [as_program(lambda h, number=number: h * number, X) for number in (1.0, np.nextafter(np.float32(1), 2))]
    names = [as_program(lambda h, name=name: {name: h}, X) for name in "ab"]
    assert like[0].func == like[1].func and digest(like[0]) == digest(like[1])
    assert all(one.func != other.func for one, other in (within, numbers, names))
    outer = jax.jit(lambda program, h: program(h))
    for program, kernel in zip((*like, *within), (*KERNELS, *KERNELS), strict=True):
        np.testing.assert_allclose(outer(program, X), X @ kernel, rtol=1e-5)


def test_what_calls_back_to_python_is_never_taken_for_another():
    def adding(number):
        return lambda h: jax.pure_callback(
            lambda h: np.asarray(h) + np.float32(number), jax.ShapeDtypeStruct(h.shape, h.dtype), h
        )

    for number in (1, 2):
        np.testing.assert_allclose(compiled(adding(number))(X), X + number)


@pytest.mark.long
def test_within_other_transformations(right):
    """Weights that are being traced: under jit, vmap and grad of a user's own."""
    network = Network()
    graph, state = nnx.split(network)
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), state)
    stacked["head"]["kernel"] = stacked["head"]["kernel"].replace(jnp.asarray(KERNELS))

    def of_state(state):
        return jc.euclidean_convexity(
            nnx.merge(graph, state), X, LABELS, num_classes=2, num_points=3, batch_size=60
        ).per_class

    np.testing.assert_allclose(jax.vmap(of_state)(stacked), right, atol=1e-6)
    np.testing.assert_allclose(nnx.jit(lambda model: of_state(nnx.state(model)))(network), right[0], atol=1e-6)
    assert not np.any(jax.tree.leaves(jax.grad(lambda state: of_state(state).sum(), allow_int=True)(state))[0])


def test_a_metric_is_that_of_the_call():
    held = np.ones(4, np.float32)
    points = jnp.asarray(X)

    def metric(a, b):
        return jnp.sum(jnp.abs(a - b) * held)

    for weights in (np.ones(4), np.array([9.0, 0, 0, 1])):
        held[...] = weights
        distances = np.sort((np.abs(X[:, None] - X) * held).sum(-1), axis=1)[:, 1:4]
        np.testing.assert_allclose(jc.knn_graph(points, k=3, metric=metric).distances, distances, rtol=1e-5)
        np.testing.assert_allclose(
            jax.jit(lambda x: jc.knn_graph(x, k=3, metric=metric).distances)(points), distances, rtol=1e-5
        )


# Every function that takes a function --------------------------------------------------------------------------------


def layers_of(network, h):
    hidden = network.norm(h)
    return network.head(hidden), {"hidden": hidden}


EVALUATED = {"k": 3, "progress": False, "max_segments": 50, "num_points": 3, "jackknife": False}


def test_extract_takes_model_pool_and_mask_of_the_call():
    network, held = Network(), {"pool": 1.0, "mask": 1.0}
    tokens = np.repeat(X[:, None], 2, axis=1)

    def found():
        return jc.extract(
            lambda h: {"head": network.head(h)},
            tokens,
            batch_size=10,
            pool=lambda h, mask: held["pool"] * jnp.sum(h * mask[..., None], axis=1),
            mask=lambda h: jnp.stack([jnp.ones(len(h)), jnp.zeros(len(h))], axis=1) * held["mask"],
            progress=False,
        )["head"]

    np.testing.assert_allclose(found(), X @ KERNELS[0], rtol=1e-4, atol=1e-5)
    network.learn()
    np.testing.assert_allclose(found(), X @ KERNELS[1], rtol=1e-4, atol=1e-5)
    held |= {"pool": 2.0, "mask": 3.0}
    np.testing.assert_allclose(found(), 6 * X @ KERNELS[1], rtol=1e-4, atol=1e-5)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["module", "function", "heads"])
def test_evaluate_takes_the_weights_of_the_call(kind):
    def rows(network):
        if kind == "heads":
            report = jc.evaluate({"hidden": X}, LABELS, heads={"hidden": network.logits}, **EVALUATED)
        else:
            function = partial(layers_of, network)
            model, options = (
                (network, {"layers": "norm"}) if kind == "module" else (function, {"rest": lambda _: network.head})
            )
            source = sources.setdefault(id(network), jc.model_source(model, X, batch_size=24, **options))
            report = jc.evaluate(source, LABELS, **EVALUATED)
        return [row.score for row in report.rows if row.kind == "euclidean"]

    sources, network, trained = {}, Network(), Network()
    trained.learn()
    trained.norm.scale[...] = network.norm.scale[...] = jnp.arange(1.0, 5)
    before, wanted = rows(network), rows(trained)
    network.learn()
    assert rows(network) == wanted != before


def test_layers_of_a_module_are_those_of_the_call_and_of_a_reader_those_of_its_making():
    network = Network()
    read = jc.from_nnx(network, layers="*")
    run = partial(jc.run_from, network, "norm", X, X)
    before = run(), read(X)[0]
    network.learn()
    np.testing.assert_allclose(run(), X @ KERNELS[1], rtol=1e-5)
    np.testing.assert_array_equal(read(X)[0], before[1])
    np.testing.assert_allclose(jc.from_nnx(network, layers="*")(X)[0], network(X), rtol=1e-5)
    variables = {"params": {"kernel": KERNELS[0].copy()}}
    read = jc.from_linen(nn.Sequential([nn.Dense(2, use_bias=False)]), {"params": {"layers_0": variables["params"]}})
    variables["params"]["kernel"][...] = KERNELS[1]
    np.testing.assert_allclose(read(X)[0], X @ KERNELS[0], rtol=1e-5)
