"""Peak memory of neighbours and sampled scores beyond what the data take, each size in a process of its own.

    pip install ".[report]" && python tests/benchmarks/memory.py --sizes 20000x64 20000x768

Final sizes: 200000x768 (within 4 GB beyond the data on two cores) and 1000000x64 (within 12 GB). Classes are Gaussian,
made in float32 in place, so that making them needs no more than they take. Peak is that of the resident set; beyond the
data means less what the process took with JAX, its first small score and the data.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time

import numpy as np


def peak() -> float:
    """The largest resident set so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def gaussian(n: int, features: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian classes on 24 axes, faint noise on the others, in the memory of the result."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, n)
    x = rng.standard_normal((n, features), dtype=np.float32)
    x *= np.where(np.arange(features) < 24, 1, 0.15).astype(np.float32)
    centres = rng.standard_normal((classes, min(24, features)), dtype=np.float32)
    for start in range(0, n, 4096):
        x[start : start + 4096, :24] += centres[labels[start : start + 4096]]
    return x, labels


def measure(n: int, features: int, classes: int, sources: int, k: int) -> None:
    import engine
    import jax

    import jaxconvex

    def score(x: np.ndarray, labels: np.ndarray, graph: jaxconvex.KNNGraph) -> jaxconvex.ConvexityScore:
        options = {"num_classes": classes, "max_sources": sources, "key": jax.random.key(0)}
        return jax.block_until_ready(jaxconvex.graph_convexity(graph, labels, **options))

    small = gaussian(1000, features, classes)
    score(*small, jaxconvex.knn_graph(small[0], k=k))
    x, labels = gaussian(n, features, classes)
    before = peak()
    start = time.perf_counter()
    graph = jax.block_until_ready(jaxconvex.knn_graph(x, k=k))
    searched, of_search = time.perf_counter() - start, peak()
    start = time.perf_counter()
    found = score(x, labels, graph)
    scored, of_both = time.perf_counter() - start, peak()
    print(
        f"{n} x {features}, {classes} classes, k = {k}, {sources} sources a class: data {x.nbytes / 2**20:.0f} MB, with JAX "
        f"{before:.0f} MB; beyond that {of_search - before:.0f} MB after the neighbours ({searched:.1f} s), "
        f"{of_both - before:.0f} MB after the score ({scored:.1f} s)\n  macro {float(found.macro):.4f}; "
        f"{engine.machine()}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["3000x64"], help="points x features")
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--max-sources", type=int, default=64)
    parser.add_argument("--neighbors", type=int, default=10)
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        n, features = map(int, options.sizes[0].split("x"))
        measure(n, features, options.classes, options.max_sources, options.neighbors)
        return
    for size in options.sizes:
        arguments = ["--classes", str(options.classes), "--max-sources", str(options.max_sources)]
        arguments += ["--neighbors", str(options.neighbors)]
        subprocess.run([sys.executable, __file__, "--alone", "--sizes", size, *arguments], check=True)


if __name__ == "__main__":
    main()
