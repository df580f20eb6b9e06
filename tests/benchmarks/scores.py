"""Whole scores (neighbours, graph, paths of all pairs of all classes) beside scikit-learn and scipy, in one run.

    pip install ".[report]"
    python tests/benchmarks/scores.py --sizes 10000x768x10 10000x768x100 --repeats 3
    python tests/benchmarks/scores.py --sizes 50000x768x100 50000x768x1000 --repeats 1 --sample-blocks 0.25 --queries 10000
    python tests/benchmarks/scores.py --data FOLDER --repeats 1 --sample-blocks 0.25 --queries 10000

A size is points x features x classes; FOLDER holds the four idx files of Fashion-MNIST, of which all 70,000 images are
scored. The baseline: scikit-learn's brute force on --threads cores, then for each source scipy's Dijkstra with
predecessors and a walk in NumPy along them, in one process and in several (joblib), one thread each; from --sources random
sources (as many as take --limit seconds), extrapolated to all of them. --queries has scikit-learn search for so many random
rows only; the graph is then ours, and the rows are compared. --sample-blocks has our engine solve a share of its blocks.
What is extrapolated is marked by *. The mean score of each source with its class is compared with ours. Ours is
compiled before; medians of --repeats.
"""

from __future__ import annotations

import argparse

import engine
import numpy as np


def measure(name: str, x: np.ndarray, labels: np.ndarray, options: argparse.Namespace) -> None:
    """The rows of the table for one data set."""
    from joblib import Parallel, delayed

    n, classes = len(x), int(labels.max()) + 1
    search_neighbors = engine.compiled_search(x)
    runs = []
    for _ in range(options.repeats):
        searching, graph = engine.spent(lambda: search_neighbors(x))
        packing, packed = engine.packing(graph)
        paths, how = engine.own_paths(packed, labels, classes, options.sample_blocks)
        runs.append([searching.wall, packing.wall, paths.wall])
    own = float(np.median(np.sum(runs, axis=1)))
    neighbors, packing, paths = np.median(runs, axis=0)
    print(
        f"{name}: {n} x {x.shape[1]}, {classes} classes, k = 10\n  jaxconvex            {own:8.2f} s (neighbours "
        f"{neighbors:.2f}, packing {packing:.2f}, paths {paths:.2f} {how})",
        flush=True,
    )

    search, rows, indices, distances = engine.brute_force(x, 10, options.queries)
    whole = len(rows) == n
    equal = np.mean(np.all(np.sort(indices, axis=1) == np.sort(graph.indices, axis=1)[rows], axis=1))
    matrix = engine.union(indices, distances) if whole else engine.matrix_of(packed)
    print(
        f"  scikit-learn         {search:8.2f} s ({'all rows' if whole else f'*from {len(rows)} rows'}): "
        f"{search / neighbors:.1f}x of our neighbours, the same in {100 * equal:.3f} percent of the rows",
        flush=True,
    )
    shuffled = np.random.default_rng(1).permutation(np.flatnonzero(labels >= 0))
    total = len(shuffled)
    sources = engine.affordable(
        lambda some: engine.row_means(matrix, labels, some), shuffled[: options.sources], options.limit
    )
    sources = np.sort(sources)
    theirs = None
    for processes in options.processes:
        parts = [sources[i::processes] for i in range(processes)]
        with Parallel(n_jobs=processes, max_nbytes=None) as pool:
            jobs = [delayed(engine.row_means)(matrix, labels, part) for part in parts]
            pool(delayed(engine.row_means)(matrix, labels, part[:1]) for part in parts)  # imports
            took, found = engine.spent(lambda pool=pool, jobs=jobs: pool(jobs))
        if theirs is None:
            theirs = np.empty(len(sources))
            for i, values in enumerate(found):
                theirs[i::processes] = values
        baseline = search + took.wall * total / len(sources)
        print(
            f"  + scipy, processes: {processes} {baseline:8.2f} s ({engine.marked(sources, total)}): "
            f"{baseline / own:.1f}x",
            flush=True,
        )
    gap = engine.own_row_means(packed, labels, sources) - theirs
    number = np.bincount(labels[sources], minlength=classes)
    means = np.bincount(labels[sources], gap, minlength=classes) / np.where(number > 0, number, np.nan)
    print(
        f"  mean scores of the {len(sources)} sources: at most {np.nanmax(np.abs(gap)):.1e} apart, by class at most "
        f"{np.nanmax(np.abs(means)):.1e}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="*", help="points x features x classes; 2000x64x10 where there is no --data")
    parser.add_argument("--data", help="a folder with the idx files of Fashion-MNIST")
    parser.add_argument("--images", type=int, default=70_000, help="of Fashion-MNIST, the first so many")
    parser.add_argument("--sources", type=int, default=1000)
    parser.add_argument(
        "--limit", type=float, default=30, help="seconds for the sources of the baseline in one process"
    )
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--queries", type=int, default=0, help="rows scikit-learn searches for; 0 for all")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sample-blocks", type=float, default=1, help="the share of our blocks to solve")
    options = parser.parse_args()
    engine.use_threads(options.threads)

    print(
        f"{engine.machine()}\n{options.threads} threads for ours and for scikit-learn, {options.repeats} repeats; "
        "* extrapolated"
    )
    sizes = options.sizes if options.sizes is not None else [] if options.data else ["2000x64x10"]
    for size in sizes:
        measure("generated", *engine.data(*map(int, size.split("x"))), options)
    if options.data:
        x, labels = engine.fashion_mnist(options.data)
        measure("Fashion-MNIST", x[: options.images], labels[: options.images], options)


if __name__ == "__main__":
    main()
