"""The parts of a score beside scikit-learn and scipy, in one run: neighbours, shortest paths, the permutation null.

    pip install ".[report]" && python tests/benchmarks/engine.py --points 2000 10000 --features 64

The data are Gaussian classes in 24 dimensions, mapped to the features with noise and an offset. scipy's Dijkstra runs on
one thread, the form with directed=True on the symmetric matrix (its fastest), from --sources sources, extrapolated to all
points; following its predecessors is not counted. Medians of --repeats; compilation apart.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from scipy.sparse import coo_matrix, csgraph
from sklearn.neighbors import NearestNeighbors

import jaxconvex


def data(n: int, features: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, n)
    spread = 1 / np.sqrt(1 + np.arange(24))
    latent = (rng.normal(size=(classes, 24))[labels] + rng.normal(size=(n, 24))) * spread
    x = latent @ rng.normal(size=(24, features)) + 0.15 * rng.normal(size=(n, features)) + 3 * rng.normal(size=features)
    return x.astype(np.float32), labels


def seconds(function: Callable[[], Any], repeats: int) -> tuple[float, float]:
    """The first call, which compiles, and the median of the others."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        jax.block_until_ready(function())
        times.append(time.perf_counter() - start)
    return times[0], float(np.median(times[1:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, nargs="+", default=[2000, 10000])
    parser.add_argument("--features", type=int, default=64)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--sources", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--permutations", type=int, default=1000)
    options = parser.parse_args()
    print(f"{jax.devices()[0]}, jax {jax.__version__}, {options.features} features, {options.classes} classes, k = 10")
    for n in options.points:
        x, labels = data(n, options.features, options.classes)
        first, neighbors = seconds(lambda x=x: jaxconvex.knn_graph(x), options.repeats)
        _, brute = seconds(
            lambda x=x: NearestNeighbors(n_neighbors=11, algorithm="brute").fit(x).kneighbors(x), options.repeats
        )
        print(
            f"n = {n}: neighbours {neighbors:.2f} s ({first:.1f} first), sklearn {brute:.2f} s, {brute / neighbors:.1f}x."
        )
        packed = jaxconvex.pack(jaxconvex.knn_graph(x))
        edges = packed.edges
        there = np.isfinite(np.asarray(edges.lengths))
        ends = np.asarray(edges.receivers)[there], np.asarray(edges.senders)[there]
        matrix = coo_matrix((np.asarray(edges.lengths)[there].astype(float), ends), shape=(n, n)).tocsr()
        first, paths = seconds(
            lambda p=packed, y=labels: jaxconvex.graph_convexity(p, y, num_classes=options.classes).per_class,
            options.repeats,
        )
        sources = np.arange(0, n, max(1, n // options.sources))[: options.sources]
        start = time.perf_counter()
        csgraph.dijkstra(matrix, directed=True, indices=sources, return_predecessors=True)
        dijkstra = (time.perf_counter() - start) * n / len(sources)
        print(
            f"n = {n}: all pairs of all classes {paths:.2f} s ({first:.1f} first), scipy's Dijkstra {dijkstra:.2f} s "
            f"(from {len(sources)} sources), {dijkstra / paths:.1f}x"
        )
        start = time.perf_counter()
        null = jaxconvex.permutation_null(
            packed,
            labels,
            num_classes=options.classes,
            key=jax.random.key(0),
            num_permutations=options.permutations,
        )
        took = time.perf_counter() - start
        again = paths * options.permutations
        print(
            f"n = {n}: {options.permutations} permutations {took:.1f} s with compilation, {null.num_sources} sources; "
            f"scoring each from scratch would take {again:.0f} s, {again / took:.0f}x"
        )


if __name__ == "__main__":
    main()
