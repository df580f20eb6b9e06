"""How often nominal 95% intervals of graph convexity cover the expected score: a simulation with Gaussian classes.

    python tests/benchmarks/coverage.py --draws 400 --expected 2000
    python tests/benchmarks/coverage.py --cases --draws 200 --expected 400

The expected score of each setting is the mean over independent samples; coverage is the share of further samples whose
interval holds it. Prints a table in Markdown: `jackknife` is what `graph_jackknife` reports; `symmetric` the jackknife
without joint replicates and logit; `sem_paper` and `se_pairs` are score -+ 1.96 errors, for single classes.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxconvex.neighbors.knn import KNNGraph, knn_graph
from jaxconvex.paths.graph import undirected
from jaxconvex.scores.graph import ConvexityScore, graph_convexity
from jaxconvex.statistics.intervals import Interval, jackknife, score_interval
from jaxconvex.statistics.left_out import leave_group_out_graphs, spare_neighbors
from jaxconvex.statistics.resampling import jackknife_groups

TARGET = (0.92, 0.98)  # for classes of 20 points or more and expected scores in RANGE
RANGE = (0.3, 0.97)


class Setting(NamedTuple):
    """Gaussian classes of these sizes in d dimensions, their means `separation` standard deviations apart."""

    sizes: tuple[int, ...]
    d: int
    k: int
    separation: float

    @property
    def labels(self) -> np.ndarray:
        return np.repeat(np.arange(len(self.sizes)), self.sizes)

    @property
    def means(self) -> np.ndarray:
        """Corners of a simplex; where that takes too many dimensions, points of a circle, neighbours that far apart."""
        c = len(self.sizes)
        means = np.zeros((c, self.d))
        if self.d >= c:
            means[np.arange(c), np.arange(c)] = self.separation / np.sqrt(2)
        else:
            angle = 2 * np.pi * np.arange(c) / c
            means[:, :2] = np.stack([np.cos(angle), np.sin(angle)], 1) * self.separation / (2 * np.sin(np.pi / c))
        return means


SETTINGS = (
    Setting((20, 20), 2, 5, 1),
    Setting((20, 20), 2, 5, 2),
    Setting((20, 20), 2, 10, 3),
    Setting((20,) * 5, 5, 5, 1),
    Setting((20,) * 5, 5, 5, 3),
    Setting((20,) * 5, 5, 5, 4),
    Setting((20,) * 5, 20, 10, 1),
    Setting((20,) * 5, 20, 10, 4),
    Setting((30,) * 3, 5, 10, 1),
    Setting((30,) * 3, 10, 5, 3),
    Setting((50,) * 3, 5, 10, 0),
    Setting((50,) * 3, 5, 10, 2),
    Setting((50,) * 3, 5, 10, 3.7),
    Setting((50, 50), 2, 10, 3),
    Setting((25, 35, 45, 55), 10, 10, 2.5),
    Setting((20, 40, 80, 100), 4, 5, 2),
    Setting((40, 70, 100), 10, 10, 2),
    Setting((40, 70, 100), 10, 10, 4),
    Setting((100, 100), 20, 10, 3),
)


@partial(jax.jit, static_argnames=("num_classes",))
def scores_of(graphs: KNNGraph, labels: jax.Array, num_classes: int) -> tuple[ConvexityScore, jax.Array, jax.Array]:
    """Score, micro and macro of a stack of graphs."""
    score = jax.lax.map(lambda g: graph_convexity(undirected(g[0]), g[1], num_classes=num_classes), (graphs, labels))
    return score, score.micro, score.macro


@partial(jax.jit, static_argnames=("setting", "count"))
def expected_scores(setting: Setting, key: jax.Array, count: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Scores [count c], micro and macro [count] of independent samples."""
    means, labels = jnp.asarray(setting.means, jnp.float32)[setting.labels], jnp.asarray(setting.labels)

    def one(key: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        x = means + jax.random.normal(key, means.shape)
        score = graph_convexity(undirected(knn_graph(x, k=setting.k)), labels, num_classes=len(setting.sizes))
        return score.per_class, score.micro, score.macro

    return jax.lax.map(one, jax.random.split(key, count))


def one_draw(setting: Setting, key: jax.Array) -> dict[str, list[Interval]]:
    """The intervals of one sample, by level: jackknife, symmetric and, for classes, sem_paper and se_pairs."""
    point_key, group_key = jax.random.split(key)
    labels, k, c = setting.labels, setting.k, len(setting.sizes)
    n = len(labels)
    x = jnp.asarray(setting.means, jnp.float32)[labels] + jax.random.normal(point_key, (n, setting.d))
    groups = jackknife_groups(labels, group_key)
    knn = knn_graph(x, k=spare_neighbors(k, n))
    graphs = [(np.ones(n, bool), KNNGraph(knn.indices[:, :k], knn.distances[:, :k]))]
    for grouping in (groups, groups // 2):
        graphs += leave_group_out_graphs(knn, x, grouping, k=k)
    stack = jax.tree.map(lambda *parts: jnp.stack(parts), *(graph for _, graph in graphs))
    kept = np.stack([kept for kept, _ in graphs])
    score, micro, macro = jax.tree.map(np.asarray, scores_of(stack, jnp.where(kept, labels, -1), c))
    found = {}
    for level, values, points in (("class", score.per_class, setting.sizes), ("micro", micro, n), ("macro", macro, n)):
        full, single, joint = values[0], values[1:11], values[11:]
        found[level] = [score_interval(full, single, points, joint=joint), jackknife(full, single)]
    for error in (score.sem_paper[0], score.se_pairs[0]):
        full = score.per_class[0]
        found["class"].append(Interval(full, error, full - 1.96 * error, full + 1.96 * error))
    return found


def rows_of(setting: Setting, draws: int, expected: int, seed: int) -> Iterator[tuple[float, float, str]]:
    """(expected score, coverage, row of the table) for classes of each size, and for micro and macro."""
    expected_key, *keys = jax.random.split(jax.random.key(seed), draws + 1)
    truth = dict(zip(("class", "micro", "macro"), expected_scores(setting, expected_key, expected), strict=True))
    truth = {level: np.asarray(scores, np.float64) for level, scores in truth.items()}
    found = [one_draw(setting, key) for key in keys]
    name = f"{'+'.join(map(str, setting.sizes))} | {setting.d} | {setting.k} | {setting.separation}"
    sizes = np.array(setting.sizes)
    levels = [("class", f"class of {size}", sizes == size) for size in sorted(set(setting.sizes))]
    levels += [("micro", "micro", ...)] if len(set(setting.sizes)) > 1 else []  # else it is the same as macro
    for level, label, chosen in [*levels, ("macro", "macro", ...)]:
        target = truth[level].mean(axis=0)[chosen]
        methods = []
        for method in zip(*(draw[level] for draw in found), strict=True):
            parts = (np.stack([part[chosen] for part in column]) for column in zip(*method, strict=True))
            methods.append(Interval(*parts))
        inside = [(m.lower <= target) & (target <= m.upper) for m in methods]
        coverage = [float(np.mean(i)) for i in inside]
        of_draws = inside[0].reshape(draws, -1).mean(axis=1)
        error = of_draws.std(ddof=1) / np.sqrt(draws)
        spread = np.sqrt(np.mean(np.var(truth[level], axis=0)[chosen]))
        ratios = [np.sqrt(np.mean(np.square(m.se))) / spread for m in methods[:2]]
        width = np.mean(methods[0].upper - methods[0].lower)
        perfect = np.mean(methods[0].estimate == 1)
        cells = [f"{np.mean(target):.3f}", f"**{coverage[0]:.3f}** ± {error:.3f}", f"{width:.2f}", f"{ratios[0]:.2f}"]
        cells += [f"{coverage[1]:.3f}", f"{ratios[1]:.2f}"]
        cells += [f"{value:.3f}" for value in coverage[2:]] or ["", ""]
        yield float(np.mean(target)), coverage[0], f"| {name} | {label} | {' | '.join(cells)} | {perfect:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=400, help="samples whose intervals are checked")
    parser.add_argument("--expected", type=int, default=2000, help="samples that give the expected score")
    parser.add_argument("--settings", type=int, nargs="*", help="numbers of the settings, from 0; by default all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", action="store_true", help="the settings of coverage_cases.py instead")
    options = parser.parse_args()
    if options.cases:
        from coverage_cases import print_cases  # beside this file

        print_cases(options.draws, options.expected)
        return
    start = time.perf_counter()
    print(
        "| sizes | d | k | separation | level | expected score | jackknife | width | se/sd | symmetric | se/sd ", end=""
    )
    print("| sem_paper | se_pairs | score 1 |\n" + "|---" * 14 + "|")
    coverages = []
    for number in options.settings if options.settings is not None else range(len(SETTINGS)):
        for score, coverage, row in rows_of(SETTINGS[number], options.draws, options.expected, options.seed + number):
            print(row, flush=True)
            if RANGE[0] <= score <= RANGE[1]:
                coverages.append(coverage)
    good = sum(TARGET[0] <= coverage <= TARGET[1] for coverage in coverages)
    print(
        f"\n{options.draws} draws a setting, {time.perf_counter() - start:.0f} s. Expected scores from {RANGE[0]} to "
        f"{RANGE[1]}: {good} of {len(coverages)} rows covered in {TARGET[0]:.0%} to {TARGET[1]:.0%} of draws; "
        f"lowest {min(coverages, default=np.nan):.3f}, highest {max(coverages, default=np.nan):.3f}, "
        f"median {np.median(coverages) if coverages else np.nan:.3f}."
    )


if __name__ == "__main__":
    main()
