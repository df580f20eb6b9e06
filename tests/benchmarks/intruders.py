"""What lies between the points of a class, and concepts that overlap, beside the score of one labeling; in one run.

    pip install ".[report]" && python tests/benchmarks/intruders.py --points 5000 --concepts 1000 --members 500

Same points, same graph: `graph_convexity` of one labeling, `graph_intrusions` of the same labels, and `concept_convexity` of
concepts whose members lie near each other, each a random point's nearest points and as many others at random as --stray
says. Compiled before; medians of --repeats, one after the other in turn.
"""

from __future__ import annotations

import argparse

import engine
import numpy as np
from memory import gaussian, peak


def concepts_near_each_other(x: np.ndarray, number: int, members: int, stray: float) -> list[np.ndarray]:
    """The members of each concept."""
    rng = np.random.default_rng(1)
    lists = []
    for centre in rng.integers(0, len(x), number):
        near = np.argsort(((x - x[centre]) ** 2).sum(axis=1))[: round(members * (1 - stray))]
        others = rng.choice(np.setdiff1d(np.arange(len(x)), near), members - len(near), replace=False)
        lists.append(np.concatenate([near, others]))
    return lists


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=5000)
    parser.add_argument("--features", type=int, default=64)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--concepts", type=int, default=1000)
    parser.add_argument("--members", type=int, default=500)
    parser.add_argument("--stray", type=float, default=0.2)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    import jaxconvex

    x, labels = gaussian(options.points, options.features, options.classes)
    concepts = concepts_near_each_other(x, options.concepts, options.members, options.stray)
    packed = jaxconvex.pack(jaxconvex.knn_graph(x, k=10))
    functions = {
        "graph_convexity": lambda: jaxconvex.graph_convexity(packed, labels, num_classes=options.classes),
        "graph_intrusions": lambda: jaxconvex.graph_intrusions(packed, labels, num_classes=options.classes),
        "concept_convexity": lambda: jaxconvex.concept_convexity(packed, concepts),
    }
    times: dict[str, list[engine.Spent]] = {name: [] for name in functions}
    peaks = {}
    for repeat in range(options.repeats + 1):
        for name, function in functions.items():
            taken, _ = engine.spent(function)
            peaks.setdefault(name, peak())
            times[name] += [taken] if repeat else []
    score = engine.median(times["graph_convexity"])
    print(
        f"{options.points} points, {options.classes} classes; {options.concepts} concepts of {options.members}, "
        f"{options.stray:.0%} of them anywhere"
    )
    for name, each in times.items():
        seconds = engine.median(each)
        print(
            f"  {name:18s} {seconds.wall:8.2f} s, {seconds.cpu:8.2f} s of the processor: {seconds.wall / score.wall:.2f}x, "
            f"{seconds.cpu / score.cpu:.2f}x; peak so far {peaks[name]:.0f} MB"
        )
    print(f"  {engine.machine()}; {options.repeats} repeats")


if __name__ == "__main__":
    main()
