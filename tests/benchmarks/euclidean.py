"""Euclidean convexity: the share of the network's raw throughput, and the time beside nnconvexity 0.1.1, in one run.

    pip install ".[report]" && python tests/benchmarks/euclidean.py --peer PYTHON

PYTHON is an interpreter that has nnconvexity; without it only throughput is measured. Raw throughput is that of the
network alone, jitted and called on batches of the same size; both in turn, compiled before, medians. nnconvexity runs the
first network with the same weights on the same activations, 10 points on each of up to 5,000 pairs of a class.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

import jaxconvex

PEER = """
import json, sys, time
import numpy as np, torch
from nnconvexity.euclidean import compute_euclidean_convexity
data = {name: torch.tensor(value) for name, value in np.load(sys.argv[1]).items()}
np.random.seed(0)
def predict(h, layer):
    return torch.argmax(torch.relu(h @ data["hidden"]) @ data["head"], dim=-1)
start = time.perf_counter()
with torch.no_grad():
    mean, classes = compute_euclidean_convexity(data["x"].numpy(), data["y"].numpy(), predict, 0)
seconds = time.perf_counter() - start
print(json.dumps({"seconds": seconds, "micro": float(mean), "classes": {int(c): float(v) for c, v in classes.items()}}))
"""


def perceptron(*widths: int) -> Callable:
    draws = np.random.default_rng(0)
    weights = [jnp.asarray(draws.normal(size=s) / np.sqrt(s[0]), jnp.float32) for s in itertools.pairwise(widths)]

    def predict(h: jax.Array) -> jax.Array:
        for matrix in weights[:-1]:
            h = jax.nn.relu(h @ matrix)
        return h @ weights[-1]

    predict.weights = weights
    return predict


def transformer(width: int = 64, heads: int = 4, blocks: int = 2, classes: int = 10) -> Callable:
    draws = np.random.default_rng(0)

    def matrix(*shape: int) -> jax.Array:
        return jnp.asarray(draws.normal(size=shape) / np.sqrt(shape[0]), jnp.float32)

    layers = [(matrix(width, 3 * width), matrix(width, 4 * width), matrix(4 * width, width)) for _ in range(blocks)]
    head = matrix(width, classes)

    def predict(h: jax.Array) -> jax.Array:
        batch, tokens, _ = h.shape
        for attention, up, down in layers:
            query, key, value = jnp.split((jax.nn.standardize(h) @ attention).reshape(batch, tokens, heads, -1), 3, -1)
            weight = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", query, key) * (width / heads) ** -0.5)
            h = h + jnp.einsum("bhqk,bkhd->bqhd", weight, value).reshape(h.shape)
            h = h + jax.nn.gelu(jax.nn.standardize(h) @ up) @ down
        return h.mean(axis=1) @ head

    return predict


def in_turn(*functions: Callable[[], object], repeats: int) -> np.ndarray:
    """Seconds of every call, [repeats functions]."""
    times = np.zeros((repeats, len(functions)))
    for function in functions:
        function()
    for row in times:
        for place, function in enumerate(functions):
            start = time.perf_counter()
            function()
            row[place] = time.perf_counter() - start
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", help="a Python interpreter with nnconvexity")
    parser.add_argument("--batches", type=int, nargs="+", default=[1000, 4000])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--data", default="euclidean.npz", help="where to keep the activations for nnconvexity")
    options = parser.parse_args()

    networks = {
        "perceptron 64-128-10": (perceptron(64, 128, 10), (64,), 5000),
        "perceptron 768-3072-768-10": (perceptron(768, 3072, 768, 10), (768,), 200),
        "transformer, 2 blocks, 16 x 64": (transformer(), (16, 64), 200),
    }
    device = jax.devices()[0].device_kind
    print(
        f"{device} ({jax.default_backend()}), jax {jax.__version__}; points a second, the network alone and the score"
    )
    draws = np.random.default_rng(1)
    y = np.arange(1000) % 10
    for name, (predict, shape, most) in networks.items():
        x = jnp.asarray(draws.normal(size=(len(y), *shape)), jnp.float32)
        num_points = 10 * 10 * min(most, 100 * 99 // 2)
        for size in options.batches:
            raw, batch = jax.jit(predict), jnp.concatenate([x] * -(-size // len(x)))[:size]
            calls = max(1, num_points // size)

            def alone(raw=raw, batch=batch, calls=calls) -> None:
                jax.block_until_ready([raw(batch) for _ in range(calls)])

            def score(predict=predict, x=x, most=most, size=size) -> jaxconvex.ConvexityScore:
                settings = {"max_pairs": most, "key": jax.random.key(0), "batch_size": size}
                return jax.block_until_ready(jaxconvex.euclidean_convexity(predict, x, y, num_classes=10, **settings))

            times = in_turn(alone, score, repeats=options.repeats)
            speeds = np.array([calls * size, num_points]) / times
            share = np.median(speeds[:, 1] / speeds[:, 0])
            medians = np.median(speeds, axis=0)
            print(f"{name:32s} batch {size:6d}: {medians[0]:11.0f} {medians[1]:11.0f}, share {share:.2f}", flush=True)

    if options.peer:
        predict, shape, most = networks["perceptron 64-128-10"]
        x = draws.normal(size=(len(y), *shape)).astype(np.float32) + 0.5 * np.eye(10, 64, dtype=np.float32)[y]
        labels = np.argmax(np.asarray(predict(jnp.asarray(x))), axis=1)  # as the network predicts them
        np.savez(options.data, x=x, y=labels, hidden=predict.weights[0], head=predict.weights[1])
        key = jax.random.key(0)
        times = in_turn(
            lambda: jax.block_until_ready(jaxconvex.euclidean_convexity(predict, x, labels, num_classes=10, key=key)),
            repeats=options.repeats,
        )
        found = jaxconvex.euclidean_convexity(predict, x, labels, num_classes=10, key=key)
        ours = 100 * np.asarray(found.per_class)
        command = [options.peer, "-c", PEER, options.data]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peer = json.loads(done.stdout.strip().splitlines()[-1])
        away = max(abs(ours[int(c)] - value) for c, value in peer["classes"].items())
        seconds = float(np.median(times))
        print(
            f"jaxconvex    {seconds:8.4f} s, {int(found.num_pairs.sum())} pairs, micro {100 * float(found.micro):.2f}"
        )
        print(f"nnconvexity  {peer['seconds']:8.3f} s, micro {peer['micro']:.2f}; at most {away:.2f} off in a class")
        print(f"ratio        {peer['seconds'] / seconds:.0f}x")


if __name__ == "__main__":
    main()
