"""jaxconvex against nnconvexity 0.1.1 on scikit-learn's digits, in one run: scores, and time warm and cold.

    pip install ".[report]" && python tests/benchmarks/against_nnconvexity.py --peer PYTHON

PYTHON is an interpreter that has nnconvexity (its dependencies conflict with nothing here, but torch is large); without
it only jaxconvex is timed. k = 10; jaxconvex scores all pairs, nnconvexity the ordered pairs that it draws by default.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time

import numpy as np
from sklearn.datasets import load_digits

import jaxconvex

PEER = """
import json, sys, time
import numpy as np
from nnconvexity.graph import compute_graph_convexity
data = np.load(sys.argv[1])
start = time.perf_counter()
micro, classes = compute_graph_convexity(data["x"], data["y"], n_neighbors=10, max_n_paths=int(sys.argv[2]))
seconds = time.perf_counter() - start
print(json.dumps({"seconds": seconds, "micro": micro, "classes": {int(c): v for c, v in classes.items()}}))
"""

OURS = """
import sys, time
start = time.perf_counter()
import numpy as np
import jaxconvex
data = np.load(sys.argv[1])
score = jaxconvex.graph_convexity(jaxconvex.knn_graph(data["x"], k=10), data["y"], num_classes=10)
score.per_class.block_until_ready()
print(time.perf_counter() - start)
"""


def run(python: str, program: str, *arguments: object) -> str:
    """The last line that a program prints."""
    command = [python, "-c", program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip().splitlines()[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", help="a Python interpreter with nnconvexity")
    parser.add_argument("--peer-paths", type=int, default=5000, help="paths a class there (its default: 5000)")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--data", default="digits.npz", help="where to keep the digits")
    options = parser.parse_args()

    x, y = load_digits(return_X_y=True)
    np.savez(options.data, x=x, y=y)

    def whole() -> jaxconvex.ConvexityScore:
        return jaxconvex.graph_convexity(jaxconvex.knn_graph(x, k=10), y, num_classes=10)

    score, times = whole(), []
    for _ in range(options.repeats):
        start = time.perf_counter()
        whole().per_class.block_until_ready()
        times.append(time.perf_counter() - start)
    warm = float(np.median(times))
    cold = float(run(sys.executable, OURS, options.data))
    ours = 100 * np.asarray(score.per_class, np.float64)
    print(
        f"jaxconvex    {warm:8.3f} s warm, {cold:.2f} s cold (imports, compilation), {int(score.num_pairs.sum())} pairs"
    )
    print(f"             micro {100 * float(score.micro):.2f} percent")
    if options.peer:
        peer = json.loads(run(options.peer, PEER, options.data, options.peer_paths))
        theirs = np.array([peer["classes"][str(c)] for c in range(10)])
        print(
            f"nnconvexity  {peer['seconds']:8.3f} s (without imports), {options.peer_paths} ordered pairs a class drawn"
        )
        print(
            f"             micro {peer['micro']:.2f} percent; at most {np.abs(ours - theirs).max():.2f} off in a class"
        )
        print(f"ratio        {peer['seconds'] / warm:.0f}x warm, {peer['seconds'] / cold:.1f}x cold")


if __name__ == "__main__":
    main()
