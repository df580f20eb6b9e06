"""jaxconvex against nnconvexity 0.1.1 on scikit-learn's digits, in one run: scores, and time warm and cold.

    pip install ".[report]" && python tests/benchmarks/against_nnconvexity.py --peer PYTHON

PYTHON is an interpreter that has nnconvexity (its dependencies conflict with nothing here, but torch is large); without
it only jaxconvex is timed. All pairs of every class on both sides, k = 10, two cores.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time

import numpy as np

PEER = """
import json, sys, time
import numpy as np
from nnconvexity.graph import compute_graph_convexity
data = np.load(sys.argv[1])
start = time.perf_counter()
micro, classes = compute_graph_convexity(data["x"], data["y"], n_neighbors=10, max_n_paths=10**9, n_parallel=2)
print(json.dumps({"seconds": time.perf_counter() - start, "micro": micro, "classes": {int(c): v for c, v in classes.items()}}))
"""

OURS = """
import sys, time
start = time.perf_counter()
import numpy as np
import jaxconvex
data = np.load(sys.argv[1])
score = jaxconvex.graph_convexity(jaxconvex.knn_graph(data["x"], k=10), data["y"], num_classes=10)
print(float(score.micro), time.perf_counter() - start)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", help="a Python interpreter with nnconvexity")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--data", default="/tmp/digits.npz")
    options = parser.parse_args()

    from sklearn.datasets import load_digits

    import jaxconvex

    x, y = load_digits(return_X_y=True)
    np.savez(options.data, x=x, y=y)

    def whole() -> jaxconvex.ConvexityScore:
        return jaxconvex.graph_convexity(jaxconvex.knn_graph(x, k=10), y, num_classes=10)

    score = whole()
    times = []
    for _ in range(options.repeats):
        start = time.perf_counter()
        whole().per_class.block_until_ready()
        times.append(time.perf_counter() - start)
    warm = float(np.median(times))
    cold = float(subprocess.run([sys.executable, "-c", OURS, options.data], capture_output=True, text=True, check=True).stdout.split()[1])
    print(f"jaxconvex    warm {warm:8.3f} s   cold, whole process with imports and compilation {cold:6.2f} s   micro {100 * score.micro:.2f}")
    if options.peer:
        told = subprocess.run([options.peer, "-c", PEER, options.data], capture_output=True, text=True, check=True).stdout
        peer = json.loads(told.strip().splitlines()[-1])
        print(f"nnconvexity       {peer['seconds']:8.3f} s   (without imports)   micro {peer['micro']:.2f}")
        print(f"ratio        warm {peer['seconds'] / warm:.0f}x, cold {peer['seconds'] / cold:.1f}x")
        difference = max(abs(100 * float(score.per_class[c]) - v) for c, v in ((int(c), v) for c, v in peer["classes"].items()))
        print(f"largest difference of a class score {difference:.3f} percent points")


if __name__ == "__main__":
    main()
