"""Shortest paths beside scipy's Dijkstra, networkit and python-igraph, in one run.

    pip install ".[report]" networkit igraph
    python tests/benchmarks/paths.py --points 10000 --repeats 3
    python tests/benchmarks/paths.py --points 50000 --repeats 1 --sample-blocks 0.25 --without networkit igraph

Ours: all pairs of all classes of a packed graph, which finds the distances, the best of equally short paths and what lies
inside; a stream of blocks on each of --threads cores; compiled before, the median of --repeats. Each baseline: from
--sources random points (as many of them as it does in --limit seconds), extrapolated to all points and marked by *.
scipy's Dijkstra (directed=True, predecessors) has one thread, networkit's SPSP (distances only) --threads, igraph one:
`get_shortest_paths` to the points of the source's class, and `distances` to them. Following predecessors is not counted.
Ratios are by the clock, and by the seconds of the processor. The mean scores of the sources are compared with those along
scipy's predecessors.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import engine
import numpy as np


def baselines(matrix: Any, labels: np.ndarray, threads: int) -> Iterator[tuple[str, Callable[[np.ndarray], Any]]]:
    """What searches from some sources, by name, where it is installed."""
    yield "scipy", lambda sources: engine.trees(matrix, sources)
    n = len(labels)
    upper = matrix.tocoo()
    once = upper.row < upper.col
    row, column, weight = upper.row[once], upper.col[once], upper.data[once]
    with contextlib.suppress(ImportError):
        import networkit

        networkit.setNumberOfThreads(threads)
        graph = networkit.GraphFromCoo((weight, (row, column)), n, weighted=True, directed=False)
        yield "networkit", lambda sources: networkit.distance.SPSP(graph, sources.tolist()).run()
    with contextlib.suppress(ImportError):
        import igraph

        other = igraph.Graph(n, np.stack([row, column], axis=1).tolist())
        lengths = weight.tolist()
        members = [np.flatnonzero(labels == c).tolist() for c in range(labels.max() + 1)]

        def paths(sources: np.ndarray) -> None:
            for source in sources.tolist():
                other.get_shortest_paths(source, to=members[labels[source]], weights=lengths, output="vpath")

        def distances(sources: np.ndarray) -> None:
            for source in sources.tolist():
                other.distances(source, members[labels[source]], weights=lengths)

        yield "igraph paths", paths
        yield "igraph distances", distances


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, nargs="+", default=[2000])
    parser.add_argument("--features", type=int, default=64)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--sources", type=int, default=1000)
    parser.add_argument("--limit", type=float, default=30, help="seconds for a baseline")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sample-blocks", type=float, default=1, help="the share of our blocks to solve")
    parser.add_argument("--without", nargs="*", default=[], help="baselines to leave out: scipy networkit igraph")
    options = parser.parse_args()
    engine.use_threads(options.threads)

    import jaxconvex

    print(f"{engine.machine()}\n{options.threads} threads, {options.repeats} repeats; * extrapolated")
    for n in options.points:
        x, labels = engine.data(n, options.features, options.classes)
        packed = jaxconvex.pack(jaxconvex.knn_graph(x))
        matrix = engine.matrix_of(packed)
        runs = [
            engine.own_paths(packed, labels, options.classes, options.sample_blocks) for _ in range(options.repeats)
        ]
        own = engine.median([times for times, _ in runs])
        print(
            f"n = {n}, {options.features} features, {options.classes} classes, k = 10, {matrix.nnz // 2} edges\n"
            f"  {'jaxconvex':17} {own.wall:8.2f} s, {own.cpu:8.2f} s of the processor ({runs[0][1]})",
            flush=True,
        )
        shuffled = np.random.default_rng(1).permutation(n)[: options.sources]
        for name, work in baselines(matrix, labels, options.threads):
            if name.split()[0] in options.without:
                continue
            sources = engine.affordable(work, shuffled, options.limit)
            other = engine.spent(lambda work=work, sources=sources: work(sources))[0].times(n / len(sources))
            print(
                f"  {name:17} {other.wall:8.2f} s, {other.cpu:8.2f} s of the processor ({engine.marked(sources, n)}): "
                f"{other.wall / own.wall:.1f}x by the clock, {other.cpu / own.cpu:.1f}x by the processor",
                flush=True,
            )
        some = np.sort(shuffled[: 2 * engine.TOGETHER])
        gap = engine.own_row_means(packed, labels, some) - engine.row_means(matrix, labels, some)
        print(
            f"  mean scores of {len(some)} sources: at most {np.nanmax(np.abs(gap)):.1e} from those along scipy's "
            f"predecessors, their mean {abs(np.nanmean(gap)):.1e}"
        )


if __name__ == "__main__":
    main()
