"""Long chains: paths on a curve, a swiss roll and a path graph beside scipy's Dijkstra, in one run; scores checked.

    pip install ".[report]" && python tests/benchmarks/chains.py

The baseline is bare: scipy.sparse.csgraph.dijkstra with predecessors on the same matrix in one thread, and for every
source one pass that counts hops and points outside along the tree; it has no rule for equally short paths. jaxconvex runs
in one thread too. Both from the same sources, in turn, medians. The scores of pairs are compared with those of another
program, which enumerates states (outside, hops) of every point in order of distance; pairs differ where several paths are
equally short but for rounding and small excesses add up.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from scipy.sparse import csgraph

import jaxconvex
from jaxconvex.paths.chains import chain_path_counts, edge_matrix


def data_sets(n: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Points in order along the chain, and labels of 10 stretches with one label in ten exchanged."""
    draws = np.random.default_rng(0)
    t = np.sort(draws.random(n))
    turns, rolled = 60 * t, 1.5 * np.pi * (1 + 2 * t)
    points = {
        "curve": np.stack([turns * np.cos(turns), turns * np.sin(turns), turns], axis=1),
        "swiss roll": np.stack([rolled * np.cos(rolled), 21 * draws.random(n), rolled * np.sin(rolled)], axis=1),
        "path graph": np.arange(n, dtype=float)[:, None],
    }
    labels = np.where(draws.random(n) < 0.1, draws.integers(0, 10, n), np.arange(n) * 10 // n)
    return {name: (x.astype(np.float32), labels) for name, x in points.items()}


def along_the_tree(parent: np.ndarray, foreign: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Hops and points outside on the way to every point, by doubling."""
    ancestor = np.where(parent >= 0, parent, np.arange(len(parent)))
    hops = (parent >= 0).astype(np.int64)
    outside = np.where(parent >= 0, foreign[ancestor], 0)
    while not np.array_equal(beyond := ancestor[ancestor], ancestor):
        hops, outside, ancestor = hops + hops[ancestor], outside + outside[ancestor], beyond
    return hops, outside


def by_states(matrix, labels: np.ndarray, source: int, tolerance: float) -> tuple[np.ndarray, np.ndarray]:
    """Points inside and outside on the best path from the source to each point, one point after another."""
    distance, parent = csgraph.dijkstra(matrix, directed=True, indices=source, return_predecessors=True)
    none = 10**9, 0, 0.0
    best: list[tuple[int, int, float]] = [none] * len(labels)
    best[source] = 0, 0, 0.0
    hops_of_tree, outside_of_tree = along_the_tree(parent, labels != labels[source])
    for v in np.argsort(distance, kind="stable")[1 : np.count_nonzero(np.isfinite(distance))]:
        for place in range(matrix.indptr[v], matrix.indptr[v + 1]):
            u, allowed = matrix.indices[place], tolerance * distance[v]
            gap = distance[u] + matrix.data[place] - distance[v]
            crossed, hops, excess = best[u]
            if distance[u] < distance[v] and gap <= allowed and excess + gap <= allowed:
                best[v] = min(best[v], (crossed + int(labels[u] != labels[source]), hops + 1, excess + gap))
        if best[v] == none:  # what leads here has used up what is allowed: the tree's path
            best[v] = int(outside_of_tree[v]), int(hops_of_tree[v]), 0.0
    found = [(crossed, hops - 1) if (crossed, hops, excess) != none else (0, -1) for crossed, hops, excess in best]
    return np.array([inside for _, inside in found]), np.array([crossed for crossed, _ in found])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=20_000)
    parser.add_argument("--sources", type=int, default=400)
    parser.add_argument("--block", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--checked", type=int, default=3, help="sources whose pairs are checked")
    options = parser.parse_args()
    tolerance = 2 * float(np.finfo(np.float32).eps) + 1e-12  # as the engine has it for float32

    for name, (x, labels) in data_sets(options.points).items():
        packed = jaxconvex.pack(jaxconvex.knn_graph(x, k=10))
        matrix = edge_matrix(packed)
        labels = labels[packed.order]
        members = np.flatnonzero(labels == 3)
        sources = np.random.default_rng(1).permutation(members)[: options.sources]
        blocks = [sources[i : i + options.block] for i in range(0, len(sources), options.block)]
        times = np.zeros((options.repeats, 2))
        for row in times:
            start = time.perf_counter()
            for block in blocks:
                _, parents = csgraph.dijkstra(matrix, directed=True, indices=block, return_predecessors=True)
                for parent in parents:
                    along_the_tree(parent, labels != 3)
            row[0] = time.perf_counter() - start
            start = time.perf_counter()
            found = [chain_path_counts(matrix, labels, block, members, tolerance) for block in blocks]
            row[1] = time.perf_counter() - start
        inner = np.concatenate([counts.interior for counts in found], axis=1)
        outer = np.concatenate([counts.outside for counts in found], axis=1)
        wrong = score = theirs = 0.0
        for j in range(options.checked):
            own, others = by_states(matrix, labels, sources[j], tolerance)
            partners = members != sources[j]
            wrong += np.mean((own[members] != inner[:, j])[partners] | (others[members] != outer[:, j])[partners])
            score += np.mean(1 - (outer[:, j] / np.maximum(inner[:, j], 1))[partners])
            theirs += np.mean(1 - (others[members] / np.maximum(own[members], 1))[partners])
        scores = np.array([score, theirs, wrong]) / max(options.checked, 1)
        ratio = np.median(times[:, 1] / times[:, 0])
        milliseconds = 1000 * np.median(times, axis=0) / len(sources)
        print(
            f"{name:11s} depth {int(packed.depth):5d}, {inner.mean():6.1f} points in a path: scipy {milliseconds[0]:6.2f} "
            f"ms a source, jaxconvex {milliseconds[1]:6.2f}, ratio {ratio:.2f}; score {scores[0]:.5f}, checked "
            f"{scores[1]:.5f}, {100 * scores[2]:.2f}% of pairs differ",
            flush=True,
        )


if __name__ == "__main__":
    main()
