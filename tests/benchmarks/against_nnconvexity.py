"""jaxconvex against nnconvexity 0.1.1 in one run: scores, and time warm and cold.

    pip install ".[report]" && python tests/benchmarks/against_nnconvexity.py --peer PYTHON
    python tests/benchmarks/against_nnconvexity.py --peer PYTHON --points 5000 --features 256 --classes 50 --pairs 100

scikit-learn's digits, or with --points generated classes. PYTHON is an interpreter that has nnconvexity (its dependencies
conflict with nothing here, but torch is large); without it only jaxconvex is timed. k = 10; jaxconvex scores all pairs,
nnconvexity the ordered pairs of a class that it draws, 5,000 by default. With --pairs it draws fewer: its time with a single
pair, and with so many, is extrapolated to its default and marked by *.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import engine
import numpy as np
from sklearn.datasets import load_digits

import jaxconvex

DEFAULT = 5000  # ordered pairs of a class that nnconvexity draws

PEER = """
import json, sys, time
import numpy as np
from nnconvexity.graph import compute_graph_convexity
data = np.load(sys.argv[1])
np.random.seed(0)
seconds = []
for pairs in map(int, sys.argv[2:]):
    start = time.perf_counter()
    micro, classes = compute_graph_convexity(data["x"], data["y"], n_neighbors=10, max_n_paths=pairs)
    seconds.append(time.perf_counter() - start)
print(json.dumps({"seconds": seconds, "micro": micro, "classes": {int(c): v for c, v in classes.items()}}))
"""

OURS = """
import sys, time
start = time.perf_counter()
import numpy as np
import jaxconvex
data = np.load(sys.argv[1])
score = jaxconvex.graph_convexity(jaxconvex.knn_graph(data["x"], k=10), data["y"], num_classes=int(sys.argv[2]))
score.per_class.block_until_ready()
print(time.perf_counter() - start)
"""


def run(python: str, program: str, *arguments: object) -> str:
    """The last line that a program prints."""
    command = [python, "-c", program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip().splitlines()[-1]


def theirs(python: str, path: Path, sizes: np.ndarray, pairs: int | None) -> tuple[float, str, dict]:
    """nnconvexity's seconds, how they are known, and what it found."""
    ordered = sizes * (sizes - 1)
    if pairs is None or pairs >= DEFAULT:
        found = json.loads(run(python, PEER, path, DEFAULT))
        return found["seconds"][0], f"{np.minimum(ordered, DEFAULT).sum()} ordered pairs", found
    found = json.loads(run(python, PEER, path, 1, pairs))
    one, some = found["seconds"]
    number = [np.minimum(ordered, most).sum() for most in (1, pairs, DEFAULT)]
    seconds = one + (some - one) * (number[2] - number[0]) / (number[1] - number[0])
    return seconds, f"*from {number[1]} of {number[2]} ordered pairs: {one:.1f} s with {number[0]}, {some:.1f} s", found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", help="a Python interpreter with nnconvexity")
    parser.add_argument("--points", type=int, help="generated points instead of the digits")
    parser.add_argument("--features", type=int, default=256)
    parser.add_argument("--classes", type=int, default=50)
    parser.add_argument("--pairs", type=int, help=f"ordered pairs of a class there (its default: {DEFAULT})")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()

    if options.points:
        x, y = engine.data(options.points, options.features, options.classes)
    else:
        x, y = load_digits(return_X_y=True)
    classes = int(y.max()) + 1

    def whole() -> jaxconvex.ConvexityScore:
        return jaxconvex.graph_convexity(jaxconvex.knn_graph(x, k=10), y, num_classes=classes)

    score, times = whole(), []
    for _ in range(options.repeats):
        start = time.perf_counter()
        whole().per_class.block_until_ready()
        times.append(time.perf_counter() - start)
    warm = float(np.median(times))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.npz"
        np.savez(path, x=x, y=y)
        cold = float(run(sys.executable, OURS, path, classes))
        print(f"{engine.machine()}\n{len(x)} x {x.shape[1]}, {classes} classes, k = 10, {options.repeats} repeats")
        print(
            f"jaxconvex    {warm:8.3f} s warm, {cold:.2f} s cold (imports, compilation), "
            f"{int(score.num_pairs.sum())} pairs, micro {100 * float(score.micro):.2f} percent",
            flush=True,
        )
        if not options.peer:
            return
        seconds, how, peer = theirs(options.peer, path, np.bincount(y), options.pairs)
    away = [abs(100 * float(score.per_class[int(c)]) - value) for c, value in peer["classes"].items()]
    print(f"nnconvexity  {seconds:8.3f} s without imports ({how}), micro {peer['micro']:.2f} percent")
    print(f"             classes at most {max(away):.2f} apart, {np.mean(away):.2f} on average")
    print(f"ratio        {seconds / warm:.0f}x warm, {seconds / cold:.1f}x cold")


if __name__ == "__main__":
    main()
