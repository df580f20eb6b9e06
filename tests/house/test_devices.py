"""Many devices, processes and platforms: the same numbers to the last bit, and functions that lower everywhere."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import pytest
from processes import on_devices

import jaxconvex

EIGHT_DEVICES = """
import jax, numpy as np
from jaxconvex import graph_convexity, knn_graph, pack

rng = np.random.default_rng(0)
assert jax.device_count() == 8
mesh = jax.make_mesh((4, 2), ("data", "model"))
x = rng.normal(size=(700, 3)).astype(np.float32)
x[-40:] = x[:40]
labels = rng.integers(-1, 4, 700)
graph = pack(knn_graph(x, k=6))
for options in ({}, {"max_sources": 30, "key": jax.random.key(1)}, {"max_pairs": 500, "key": jax.random.key(1)}):
    alone = graph_convexity(graph, labels, num_classes=4, **options)
    for devices in (mesh, jax.sharding.Mesh(np.array(jax.devices()[2:5]), ("data",))):
        spread = graph_convexity(graph, labels, num_classes=4, mesh=devices, **options)
        for got, want in zip(spread, alone, strict=True):
            np.testing.assert_array_equal(got, want)
"""

TWO_PROCESSES = """
import sys, jax, numpy as np
jax.distributed.initialize(f"127.0.0.1:{sys.argv[1]}", 2, int(sys.argv[2]))
from jax.sharding import NamedSharding, PartitionSpec
from jaxconvex import graph_convexity, knn_graph

rng = np.random.default_rng(0)
x = rng.normal(size=(600, 3)).astype(np.float32)
labels = rng.integers(0, 3, 600)
mesh = jax.make_mesh((2,), ("data",))
whole = jax.make_array_from_callback(x.shape, NamedSharding(mesh, PartitionSpec("data")), lambda index: x[index])
alone = graph_convexity(knn_graph(x), labels, num_classes=3)
spread = graph_convexity(knn_graph(whole, mesh=mesh), labels, num_classes=3, mesh=mesh)
for got, want in zip(spread, alone, strict=True):
    np.testing.assert_array_equal(got, want)
"""


def start(program: str, *arguments: str, **environment: str) -> subprocess.Popen:
    """A program of its own, since the number of devices is fixed once JAX has begun."""
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        env={**os.environ, "JAX_PLATFORMS": "cpu", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.long
def test_eight_devices_give_what_one_gives():
    process = start(EIGHT_DEVICES, **on_devices())
    output = process.communicate(timeout=280)[0]
    assert process.returncode == 0, output


@pytest.mark.long
def test_two_processes_give_what_one_gives():
    """The points are an array that neither process can address whole."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    processes = [start(TWO_PROCESSES, port, str(i)) for i in range(2)]
    outputs = [process.communicate(timeout=280)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(outputs)


POINTS = jax.ShapeDtypeStruct((60, 4), jnp.float32)
LABELS = jax.ShapeDtypeStruct((60,), jnp.int32)
KNN = jaxconvex.KNNGraph(jax.ShapeDtypeStruct((60, 5), jnp.int32), jax.ShapeDtypeStruct((60, 5), jnp.float32))
SOME = jax.ShapeDtypeStruct((7,), jnp.int32)
KEY = jax.eval_shape(lambda: jax.random.key(0))


def head(h):
    return h[:, :3] * 2


LOWERED = {
    "pairwise": (jaxconvex.pairwise, (POINTS, POINTS)),
    "knn_graph": (partial(jaxconvex.knn_graph, k=5), (POINTS,)),
    "epsilon_graph": (partial(jaxconvex.epsilon_graph, radius=1.0, max_degree=9), (POINTS,)),
    "undirected": (jaxconvex.undirected, (KNN,)),
    "same_class_pairs": (
        lambda labels, key: jaxconvex.same_class_pairs(labels, num_classes=3, max_pairs=20, key=key),
        (LABELS, KEY),
    ),
    "segment_points": (jaxconvex.segment_points, (SOME, SOME)),
    "shortest_path_counts": (jaxconvex.shortest_path_counts, (KNN, LABELS, SOME, SOME)),
    "shortest_path_lengths": (jaxconvex.shortest_path_lengths, (KNN, SOME)),
    "graph_convexity": (partial(jaxconvex.graph_convexity, num_classes=3), (KNN, LABELS)),
    "graph_convexity of drawn sources": (
        lambda graph, labels, key: jaxconvex.graph_convexity(graph, labels, num_classes=3, max_sources=5, key=key),
        (KNN, LABELS, KEY),
    ),
    "euclidean_convexity": (
        lambda x, labels, key: jaxconvex.euclidean_convexity(head, x, labels, num_classes=3, max_pairs=50, key=key),
        (POINTS, LABELS, KEY),
    ),
}


@pytest.mark.parametrize("name", LOWERED)
@pytest.mark.long(after=3)
def test_lowers_for_every_platform(name):
    function, arguments = LOWERED[name]
    platforms = ("cpu", "cuda", "rocm", "tpu")
    assert jax.export.export(jax.jit(function), platforms=platforms)(*arguments).platforms == platforms


def test_mesh_and_tolerance_need_concrete_arrays():
    mesh = jax.make_mesh((1,), ("data",))
    for option in ({"mesh": mesh}, {"tolerance": 0.01, "key": jax.random.key(0)}):
        with pytest.raises(ValueError, match="concrete"):
            jax.jit(lambda g, y, o=option: jaxconvex.graph_convexity(g, y, num_classes=3, **o)).trace(KNN, LABELS)
