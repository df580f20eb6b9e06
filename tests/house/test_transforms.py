"""JAX's transformations over all public functions of arrays: meshes and shard_map, debug flags, compilations, export."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from processes import on_devices
from transform_cases import ALL, LOSSES, D, K, N, points_and_labels

import jaxconvex

pytestmark = pytest.mark.usefixtures("unexplained")

ON_DEVICES = """
import sys
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from transform_cases import ALL, CLASSES, K, data, head
import jaxconvex

mesh = jax.make_mesh((8,), ("data",))
assert mesh.axis_types == (jax.sharding.AxisType.Explicit,)
x, y = data()
split = NamedSharding(mesh, P("data"))
x_split, y_split = jax.device_put((x, y), split)
stacked = jax.device_put(np.stack([x * (1 + i) for i in range(8)]), split)


def same(got, want, what):
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5, err_msg=what)


def first(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf)[0], tree)


for name, function in ALL.items():
    if "," in name or name in ("epsilon_graph", "with_unit_gradient"):  # made of others that are here
        continue
    want = jax.tree.map(np.asarray, function(x, y))
    same(jax.jit(function)(x_split, y_split), want, f"{name}, split along an Explicit axis")
    each = jax.shard_map(lambda x: jax.tree.map(lambda leaf: leaf[None], function(x[0], y)),
                         mesh=mesh, in_specs=P("data"), out_specs=P("data"))
    same(first(jax.jit(each)(stacked)), want, f"{name}, in a shard_map")
    if name in ("pairwise", "knn_graph by a function", "graph_convexity", "euclidean_convexity", "detour_loss"):
        with jax.set_mesh(mesh):
            same(function(x_split, y_split), want, f"{name}, under jax.set_mesh")

gradient = jax.grad(lambda x, y: ALL["graph_convexity_loss"](x, y))
want = jax.jit(gradient)(x, y)
got = jax.jit(gradient)(x_split, y_split)
same(got, want, "the gradient")
assert got.sharding.spec[0] == "data", got.sharding  # as the activations were

with jax.set_mesh(mesh):
    weights = jax.device_put(np.ones((5, 8), np.float32), NamedSharding(mesh, P(None, "data")))
    jaxconvex.euclidean_convexity(lambda h: h @ weights, x, y, num_classes=CLASSES)
    options = {"k": K, "heads": {"layer": head}, "progress": False}
    inside = jaxconvex.evaluate({"layer": x_split}, y, **options)
outside = jaxconvex.evaluate({"layer": x}, y, **options)
assert [row.score for row in inside.rows] == [row.score for row in outside.rows]
"""


@pytest.mark.long
def test_meshes_of_eight_devices():
    paths = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = on_devices() | {"PYTHONPATH": paths}
    done = subprocess.run(
        [sys.executable, "-c", ON_DEVICES], env=environment, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture
def debug_flags():
    with jax.debug_nans(True), jax.debug_key_reuse(True):
        yield


@pytest.mark.long(after=2)
@pytest.mark.parametrize("name", ALL)
def test_debug_flags_find_nothing_on_clean_data(name, debug_flags):
    x, y = points_and_labels()
    jax.block_until_ready(ALL[name](x, y))
    if name in LOSSES and "," not in name:
        jax.block_until_ready(jax.grad(ALL[name])(x, y))


@pytest.mark.long
def test_the_nan_of_an_empty_class_is_none_to_be_found(debug_flags):
    x, y = points_and_labels()
    graph = jaxconvex.knn_graph(x, k=4)
    score = jaxconvex.graph_convexity(graph, y, num_classes=9)
    assert np.isnan(np.asarray(score.per_class)[-1]) and np.isfinite([score.micro, score.macro]).all()
    jaxconvex.graph_jackknife(x, y, num_classes=9, k=4, key=jax.random.key(0))
    jaxconvex.permutation_null(graph, y, num_classes=9, key=jax.random.key(0), num_permutations=3)


@pytest.fixture
def compilations():
    """A function that tells how many there have been."""
    count = 0

    def listen(event, *_, **__):
        nonlocal count
        count += event == "/jax/core/compile/backend_compile_duration"

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield lambda: count
    jax.monitoring.unregister_event_duration_listener(listen)


def over_a_batch(function, x, y):
    return jax.vmap(lambda x: function(x, y))(jnp.stack([x, x]))


def beside_a_loss(function, x, y):
    return jax.value_and_grad(lambda x: (jnp.sum(x), function(x, y)), has_aux=True)(x)


def as_a_loss(function, x, y):
    return jax.value_and_grad(lambda x: function(x, y))(x)


@pytest.mark.long(after=2)
@pytest.mark.parametrize("name", ALL)
def test_transformed_outside_jit_compiles_once(name, compilations):
    x, y = points_and_labels()
    moved = x + 1
    for transformed in (over_a_batch, as_a_loss if name in LOSSES else beside_a_loss):
        transformed(ALL[name], x, y)
        before = compilations()
        transformed(ALL[name], moved, y)
        assert compilations() == before, transformed.__name__


SYMBOLIC = {
    "pairwise": (lambda x, y: jaxconvex.pairwise(x), ()),
    "euclidean_convexity_loss": (lambda x, y: LOSSES["euclidean_convexity_loss"](x, y), ()),
    "graph_convexity_loss": (lambda x, y: LOSSES["graph_convexity_loss"](x, y), (f"n >= {K + 1}",)),
    "recall": (lambda x, y: ALL["recall"](x, y), ("n <= 50",)),
    "from_nnx": (lambda x, y: ALL["from_nnx"](x, y), ()),
    "run_from": (lambda x, y: ALL["run_from"](x, y), ()),
}


@pytest.mark.long(after=1)
@pytest.mark.parametrize("name", SYMBOLIC)
def test_exports_with_a_symbolic_batch(name):
    function, constraints = SYMBOLIC[name]
    (n,) = jax.export.symbolic_shape("n", constraints=constraints)
    shapes = jax.ShapeDtypeStruct((n, D), jnp.float32), jax.ShapeDtypeStruct((n,), jnp.int32)
    exported = jax.export.export(jax.jit(function))(*shapes)
    x, y = points_and_labels()
    for size in (N, 10):
        got, want = exported.call(x[:size], y[:size]), function(x[:size], y[:size])
        for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_a_symbolic_batch_that_may_be_too_small_is_told_what_to_promise():
    (n,) = jax.export.symbolic_shape("n")
    shapes = jax.ShapeDtypeStruct((n, D), jnp.float32), jax.ShapeDtypeStruct((n,), jnp.int32)
    with pytest.raises(ValueError, match=r"constraints"):
        jax.export.export(jax.jit(LOSSES["graph_convexity_loss"]))(*shapes)
