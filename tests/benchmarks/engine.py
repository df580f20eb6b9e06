"""What the benchmarks of paths and of whole scores share: data, clocks, our engine by parts, the baseline's steps.

Not a script: see paths.py, scores.py, growth.py, memory.py and accelerator.py. The baseline is scikit-learn's brute force,
scipy's Dijkstra with directed=True on the symmetric matrix (its fastest form) and a walk along its predecessors in NumPy.
Neither needs JAX, so the worker processes of the baseline never import it.
"""

from __future__ import annotations

import gzip
import os
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

TOGETHER = 64  # sources whose trees scipy returns at once


class Spent(NamedTuple):
    """Seconds by the clock and seconds of the processor, all threads of this process together."""

    wall: float
    cpu: float

    def __add__(self, other: tuple) -> Spent:
        return Spent(*(a + b for a, b in zip(self, other, strict=True)))

    def times(self, factor: float) -> Spent:
        return Spent(self.wall * factor, self.cpu * factor)


def spent(function: Callable[[], Any]) -> tuple[Spent, Any]:
    """What a call takes until its result is there, and the result."""
    import jax

    start, busy = time.perf_counter(), time.process_time()
    result = jax.block_until_ready(function())
    return Spent(time.perf_counter() - start, time.process_time() - busy), result


def median(times: Sequence[Spent]) -> Spent:
    return Spent(*map(float, np.median(times, axis=0)))


def use_threads(threads: int) -> None:
    """Give this process and its children so many cores; before JAX's and OpenMP's threads start."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(threads)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def machine() -> str:
    """The device, the processor's cores and the versions, in a line."""
    import jax
    import scipy
    import sklearn

    device = jax.devices()[0]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    name = processor() if device.platform == "cpu" else device.device_kind
    return (
        f"{device.platform}: {name}, {cores} of {os.cpu_count()} cores; jax {jax.__version__}, scipy {scipy.__version__}, "
        f"scikit-learn {sklearn.__version__}, NumPy {np.__version__}"
    )


def processor() -> str:
    """The processor's name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def data(n: int, features: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian classes in 24 dimensions, mapped to the features with noise and an offset."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, n)
    spread = 1 / np.sqrt(1 + np.arange(24))
    latent = (rng.normal(size=(classes, 24))[labels] + rng.normal(size=(n, 24))) * spread
    x = latent @ rng.normal(size=(24, features)) + 0.15 * rng.normal(size=(n, features)) + 3 * rng.normal(size=features)
    return x.astype(np.float32), labels


def fashion_mnist(folder: str) -> tuple[np.ndarray, np.ndarray]:
    """All 70,000 images and labels from the four idx files of Fashion-MNIST, packed by gzip or not."""

    def read(name: str, offset: int) -> np.ndarray:
        path = Path(folder) / name
        if path.exists():
            content = path.read_bytes()
        else:
            with gzip.open(path.with_name(name + ".gz")) as stream:
                content = stream.read()
        return np.frombuffer(content, np.uint8, offset=offset)

    parts = ("train", "t10k")
    images = np.concatenate([read(f"{part}-images-idx3-ubyte", 16) for part in parts]).reshape(-1, 784)
    labels = np.concatenate([read(f"{part}-labels-idx1-ubyte", 8) for part in parts])
    return images.astype(np.float32) / 255, labels.astype(np.int64)


def compiled_search(x: np.ndarray, k: int = 10) -> Callable[[Any], Any]:
    """`knn_graph` for arrays like this one, compiled, so that nothing must be searched twice to leave compilation out."""
    import jax

    import jaxconvex

    return jax.jit(lambda x: jaxconvex.knn_graph(x, k=k)).lower(x).compile()


def packing(graph: Any) -> tuple[Spent, Any]:
    """What packing takes, compiled before, and the packed graph."""
    import jaxconvex

    jaxconvex.pack(graph)
    return spent(lambda: jaxconvex.pack(graph))


def own_paths(packed: Any, labels: np.ndarray, classes: int, share: float = 1) -> tuple[Spent, str]:
    """What all pairs of all classes take on a packed graph, and how that is known; one block first, which compiles.

    With a share below 1 only every so many of the blocks are solved, evenly spread over the order, and their time is
    extrapolated.
    """
    import jaxconvex
    from jaxconvex._internal.streams import on_devices

    solve, blocks = _searches(packed, labels, classes)
    solve(0)
    if share >= 1:
        jaxconvex.graph_convexity(packed, labels, num_classes=classes)
        score = spent(lambda: jaxconvex.graph_convexity(packed, labels, num_classes=classes).per_class)[0]
        return score, f"all {blocks} blocks"
    every = min(blocks, max(1, round(1 / share)))
    chosen = list(range(every // 2, blocks, every))
    ordering = spent(lambda: _searches(packed, labels, classes))[0]
    solved = spent(lambda: list(on_devices(lambda index, device: solve(index), chosen)))[0]
    return ordering + solved.times(blocks / len(chosen)), f"*from {len(chosen)} of {blocks} blocks"


def _searches(packed: Any, labels: np.ndarray, classes: int) -> tuple[Callable[[int], Any], int]:
    """The search of one block of sources, and their number."""
    import jax

    from jaxconvex.paths.order import most_lanes, plan
    from jaxconvex.scores.path_sums import compiled, sum_blocks

    lanes = most_lanes(len(labels))
    order, asked = plan(packed, np.asarray(labels, np.int32)[None], num_classes=classes, lanes=lanes)
    kernel = compiled(sum_blocks, "lanes", "num_classes", "whole")
    options = {"lanes": lanes, "num_classes": classes, "whole": bool(packed.quantum > 0)}

    def solve(index: int) -> Any:
        return jax.block_until_ready(kernel(packed, order, asked, np.int32(index), np.int32(index + 1), **options))

    return solve, -(-int(order.number) // lanes)


def own_row_means(packed: Any, labels: np.ndarray, sources: np.ndarray) -> np.ndarray:
    """The mean score of each source with all others of its class, by our engine."""
    from jaxconvex.paths.order import most_lanes, plan
    from jaxconvex.scores.aggregates import UNIT
    from jaxconvex.scores.path_sums import sums_over_blocks

    options: Any = {"num_classes": int(labels.max()) + 1, "lanes": most_lanes(len(labels), drawn=True)}
    chosen = np.isin(np.arange(len(labels)), sources)[None]
    order, asked = plan(packed, np.asarray(labels, np.int32)[None], chosen, **options)
    sums = sums_over_blocks(packed, order, asked, **options)[0]
    partners = sums.partners[sources]
    return 1 - sums.deficit[sources] / UNIT / np.where(partners > 0, partners, np.nan)


def matrix_of(packed: Any) -> Any:
    """The edges of a packed graph as a symmetric sparse matrix in float64."""
    from scipy.sparse import coo_matrix

    from jaxconvex.paths.graph import as_graph

    senders, receivers, lengths, degrees = (np.asarray(part) for part in as_graph(packed))
    there = np.isfinite(lengths)
    weights = np.maximum(lengths[there].astype(np.float64), np.finfo(np.float64).tiny)  # scipy drops zeros
    return coo_matrix((weights, (senders[there], receivers[there])), shape=(len(degrees),) * 2).tocsr()


def brute_force(x: np.ndarray, k: int, queries: int) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:
    """scikit-learn's neighbours of all points, or of some drawn rows with the seconds extrapolated to all.

    Seconds, the rows, their neighbours and distances.
    """
    from sklearn.neighbors import NearestNeighbors

    n = len(x)
    rows = np.arange(n) if not 0 < queries < n else np.sort(np.random.default_rng(2).choice(n, queries, replace=False))
    NearestNeighbors(n_neighbors=k + 1, algorithm="brute").fit(x[:256]).kneighbors()  # its first call is slower
    start = time.perf_counter()
    search = NearestNeighbors(n_neighbors=k + 1, algorithm="brute").fit(x)
    distances, indices = search.kneighbors(x[rows])
    seconds = (time.perf_counter() - start) * n / len(rows)
    others = indices != rows[:, None]
    others[others.all(axis=1), -1] = False  # where equal points crowd the row itself out
    return seconds, rows, indices[others].reshape(-1, k), distances[others].reshape(-1, k)


def union(indices: np.ndarray, distances: np.ndarray) -> Any:
    """The symmetric matrix of a nearest-neighbour graph."""
    from scipy.sparse import csr_matrix

    n, k = indices.shape
    weights = np.maximum(distances.astype(np.float64), np.finfo(np.float64).tiny)
    matrix = csr_matrix((weights.ravel(), indices.ravel(), np.arange(n + 1) * k), shape=(n, n))
    return matrix.maximum(matrix.T).tocsr()


def trees(matrix: Any, sources: np.ndarray) -> None:
    """scipy's Dijkstra with predecessors from each source."""
    from scipy.sparse import csgraph

    for start in range(0, len(sources), TOGETHER):
        some = sources[start : start + TOGETHER]
        csgraph.dijkstra(matrix, directed=True, indices=some, return_predecessors=True)


def row_means(matrix: Any, labels: np.ndarray, sources: np.ndarray) -> np.ndarray:
    """The mean score of each source with all others of its class: Dijkstra, then a walk from every target at once."""
    from scipy.sparse import csgraph

    means = []
    points = np.arange(len(labels))
    for start in range(0, len(sources), TOGETHER):
        some = sources[start : start + TOGETHER]
        parents = csgraph.dijkstra(matrix, directed=True, indices=some, return_predecessors=True)[1]
        row, target = np.nonzero((labels == labels[some, None]) & (points != some[:, None]))
        at = parents[row, target]
        reached = at >= 0
        interior, outside = np.zeros((2, len(at)), np.int64)
        walking = np.flatnonzero(reached & (at != some[row]))
        while walking.size:
            where, here = row[walking], at[walking]
            interior[walking] += 1
            outside[walking] += labels[here] != labels[some[where]]
            at[walking] = parents[where, here]
            walking = walking[at[walking] != some[where]]
        scores = np.where(reached, 1 - outside / np.maximum(interior, 1), 0)
        number = np.bincount(row, minlength=len(some))
        means.append(np.bincount(row, scores, minlength=len(some)) / np.where(number > 0, number, np.nan))
    return np.concatenate(means)


def affordable(work: Callable[[np.ndarray], Any], sources: np.ndarray, limit: float) -> np.ndarray:
    """As many of the sources as the work can do in so many seconds, told by a few of them; these warm it up, too."""
    few = sources[:16]
    work(few)
    start = time.perf_counter()
    work(few)
    each = (time.perf_counter() - start) / len(few)
    return sources[: max(len(few), int(limit / each))]


def marked(sources: np.ndarray, n: int) -> str:
    """How a baseline's time is known."""
    return "all sources" if len(sources) == n else f"*from {len(sources)} sources"
