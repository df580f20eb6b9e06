"""The permutation null beside scoring every permutation from scratch, in one run, in turn; the scores are compared.

    pip install ".[report]" && python tests/benchmarks/permutations.py --permutations 100 1000

The points are scikit-learn's 1,797 digits and Gaussian classes of the same number; scoring from scratch is timed on the
first --scored permutations, and extrapolated. Minima of --repeats, wall clock and processor time; compilation apart.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from sklearn.datasets import load_digits

import jaxconvex
from jaxconvex.statistics.permutation import permuted_labels


def data_sets() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    digits, draws = load_digits(), np.random.default_rng(0)
    labels = digits.target
    normal = draws.normal(size=(10, 64))[labels] + draws.normal(size=(len(labels), 64))
    return {
        "digits": (digits.data.astype(np.float32), labels),
        "Gaussian classes": (normal.astype(np.float32), labels),
        "one in ten twice": (
            np.concatenate([normal, normal[::10]]).astype(np.float32),
            np.append(labels, labels[::10]),
        ),
    }


def seconds(function: Callable[[], Any]) -> tuple[np.ndarray, Any]:
    """Wall clock and processor time of one call, and what it returns."""
    wall, processor = time.perf_counter(), time.process_time()
    found = function()
    return np.array([time.perf_counter() - wall, time.process_time() - processor]), found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--permutations", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--scored", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    key = jax.random.key(0)
    print(f"{jax.devices()[0]}, jax {jax.__version__}, k = 10")
    for name, (x, labels) in data_sets().items():
        graph = jaxconvex.pack(jaxconvex.knn_graph(x))

        def score(labels: np.ndarray, graph: Any = graph) -> float:
            return float(jaxconvex.graph_convexity(graph, labels, num_classes=10).micro)

        score(labels)
        for number in options.permutations:

            def null(number: int = number, graph: Any = graph, labels: np.ndarray = labels) -> Any:
                return jaxconvex.permutation_null(graph, labels, num_classes=10, key=key, num_permutations=number)

            permuted = np.asarray(permuted_labels(labels, number, key, 10)).T[: options.scored]
            first, found = seconds(null)
            ours, scratch = [], []
            for _ in range(options.repeats):
                ours.append(seconds(null)[0])
                took, scores = seconds(lambda permuted=permuted: [score(some) for some in permuted])
                scratch.append(took * number / len(permuted))
            (wall, processor), (again, again_processor) = np.min(ours, axis=0), np.min(scratch, axis=0)
            differs = np.abs(np.array(scores) - found.micro.samples[: len(scores)]).max()
            print(
                f"{name}, {len(x)} points, {number} permutations: {wall:.2f} s ({processor:.2f} s of processors; first "
                f"call {first[0]:.2f} s); each from scratch {again:.1f} s ({again_processor:.1f} s), {again / wall:.0f}x; "
                f"scores differ by {differs:.0e}"
            )


if __name__ == "__main__":
    main()
