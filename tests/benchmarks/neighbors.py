"""Nearest neighbours beside scikit-learn's brute force, faiss and a plain matrix product, in one run.

    pip install ".[report]" faiss-cpu
    python tests/benchmarks/neighbors.py --sizes 1797x64 10000x64 50000x64 20000x768 50000x768 --repeats 3

All sides get --threads threads, one after the other in every round; least and median times in milliseconds, and the
ratio of the processor's seconds, which other work disturbs less. The product is that of blocks of 512 rows with all, its
minima kept: what the search cannot beat. Sets of neighbours are compared with scikit-learn's. Every size runs in a process
of its own, whose peak memory beyond the data is measured before the others run.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np


def seconds(function: Callable[[], Any]) -> tuple[float, float]:
    """By the clock, and of the processor."""
    start = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - start[0], time.process_time() - start[1]


def measure(n: int, d: int, k: int, repeats: int, threads: int, left_out: list[str]) -> None:
    os.environ["OMP_NUM_THREADS"] = str(threads)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    import jax
    import jax.numpy as jnp
    from jax import lax

    import jaxconvex

    def peak() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    x = np.random.default_rng(0).normal(size=(n, d)).astype(np.float32)
    points = jax.block_until_ready(jnp.asarray(x))
    jax.block_until_ready(jaxconvex.knn_graph(points[:200], k=k))  # what JAX itself needs
    before = peak()
    first, _ = seconds(lambda: jax.block_until_ready(jaxconvex.knn_graph(points, k=k)))
    beyond = peak() - before
    rows = min(n, 512)

    @jax.jit
    def product(x: Any) -> Any:
        def block(i: Any) -> Any:
            part = lax.dynamic_slice_in_dim(x, i * rows, rows)
            return jnp.dot(part, x.T, precision=lax.Precision.HIGHEST).min(axis=1)

        return lax.map(block, jnp.arange(-(-n // rows)))

    graph = jaxconvex.knn_graph(points, k=k)
    sides: dict[str, Callable[[], Any]] = {
        "jaxconvex": lambda: jax.block_until_ready(jaxconvex.knn_graph(points, k=k)),
        "product": lambda: jax.block_until_ready(product(points)),
    }
    product(points)
    try:
        import faiss

        faiss.omp_set_num_threads(threads)

        def flat() -> Any:
            index = faiss.IndexFlatL2(d)
            index.add(x)
            return index.search(x, k + 1)

        sides["faiss"] = flat
    except ImportError:
        pass
    from sklearn.neighbors import NearestNeighbors

    sides["scikit-learn"] = lambda: NearestNeighbors(n_neighbors=k, algorithm="brute").fit(x).kneighbors()
    sides = {name: side for name, side in sides.items() if name not in left_out}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, side in sides.items():
            times[name].append(seconds(side))
    own = np.median(times["jaxconvex"], axis=0), min(times["jaxconvex"])
    print(
        f"{n} x {d}, k = {k}: first call {first:.2f} s, {beyond / 2**20:.0f} MB beyond the data ({x.nbytes / 2**20:.0f})"
    )
    for name, values in times.items():
        (median, busy), (least, _) = np.median(values, axis=0), min(values)
        ratio = f"{median / own[0][0]:.2f}x, {least / own[1][0]:.2f}x, processor {busy / own[0][1]:.2f}x of jaxconvex's"
        print(f"  {name:13} median {1e3 * median:9.1f} ms, least {1e3 * least:9.1f} ms: {ratio}")
    if "scikit-learn" in sides and n <= 20_000:
        theirs = np.sort(sides["scikit-learn"]()[1], axis=1)
        print(f"  rows of equal sets: {(theirs == np.sort(graph.indices, axis=1)).all(axis=1).mean():.5f}")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["1797x64", "2000x64", "10000x64"], help="points x features")
    parser.add_argument("--neighbors", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--without", nargs="*", default=[], help="sides to leave out")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        n, d = map(int, options.sizes[0].split("x"))
        measure(n, d, options.neighbors, options.repeats, options.threads, options.without)
        return
    for size in options.sizes:
        arguments = ["--neighbors", str(options.neighbors), "--repeats", str(options.repeats)]
        arguments += ["--threads", str(options.threads), "--without", *options.without]
        subprocess.run([sys.executable, __file__, "--alone", "--sizes", size, *arguments], check=True)


if __name__ == "__main__":
    main()
