"""The settings where intervals went wrong, and what reports do there: `coverage.py --cases`.

Each case gives rows (case, what, expected value, coverage, its Monte Carlo error, mean width, what reports do). Coverage
is the share of samples whose nominal 95% interval holds the expected value, over those that have one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxconvex.neighbors.knn import KNNGraph, knn_graph
from jaxconvex.paths.graph import undirected
from jaxconvex.paths.layout import pack
from jaxconvex.scores.graph import ConvexityScore, graph_convexity
from jaxconvex.statistics.comparison import paired_difference
from jaxconvex.statistics.correlation import domain_correlation, pearson, spearman
from jaxconvex.statistics.intervals import score_interval
from jaxconvex.statistics.left_out import leave_group_out_graphs, spare_neighbors
from jaxconvex.statistics.resampling import jackknife_groups

FEWEST = 6  # units of a class that has an interval in a report


class Case(NamedTuple):
    """How points are drawn: layers of the same points from a key, their labels, their units, k."""

    layers: Callable[[jax.Array], list[jax.Array]]
    labels: np.ndarray
    units: np.ndarray | None
    k: int


class Found(NamedTuple):
    """Of every sample and layer: the score, then those without each part, then without two."""

    per_class: np.ndarray  # [draws layers 16 c]
    micro: np.ndarray  # [draws layers 16]
    cut_off: np.ndarray  # [draws layers c]
    parts: int


def gaussian(
    sizes: tuple[int, ...], d: int, separations: tuple[float, ...], *, k: int = 10, unit: int = 0, shared: float = 0.7
) -> Case:
    """Gaussian classes on the corners of a simplex; layers share a part of the noise, units of `unit` points another."""
    labels, c = np.repeat(np.arange(len(sizes)), sizes), len(sizes)
    corners = np.zeros((c, d), np.float32)
    corners[np.arange(c), np.arange(c)] = 1 / np.sqrt(2)
    units = np.arange(len(labels)) // unit if unit else None

    def layers(key: jax.Array) -> list[jax.Array]:
        common, *own = jax.random.split(key, 1 + len(separations))
        noise = jax.random.normal(common, (len(labels), d))
        if units is not None:
            own_part = jax.random.normal(own[0], (len(labels), d))
            return [separations[0] * corners[labels] + 0.8 * noise[units] + 0.6 * own_part]
        parts = [noise if i == 0 else shared * noise + np.sqrt(1 - shared**2) * jax.random.normal(one, noise.shape)
                 for i, one in enumerate(own)]  # fmt: skip
        return [s * corners[labels] + part for s, part in zip(separations, parts, strict=True)]

    return Case(layers, labels, units, k)


def two_pieces() -> Case:
    """A class in two clouds that are joined in some samples alone, beside another class."""
    labels = np.repeat([0, 1], 60)
    means = np.repeat([[0.0, 0], [5.4, 0], [2.7, 12]], [30, 30, 60], axis=0)
    return Case(lambda key: [means + jax.random.normal(key, means.shape)], labels, None, 5)


@partial(jax.jit, static_argnums=2)
def scores_of(graphs: KNNGraph, labels: jax.Array, num_classes: int) -> ConvexityScore:
    return jax.lax.map(lambda g: graph_convexity(undirected(g[0]), g[1], num_classes=num_classes), (graphs, labels))


def expected(case: Case, key: jax.Array, count: int) -> np.ndarray:
    """Scores of classes in further samples [count layers c]."""
    c = int(case.labels.max()) + 1

    @jax.jit
    def one(key: jax.Array) -> jax.Array:
        graphs = [undirected(knn_graph(x, k=case.k)) for x in case.layers(key)]
        return jnp.stack([graph_convexity(g, jnp.asarray(case.labels), num_classes=c).per_class for g in graphs])

    return np.array([np.asarray(one(each), np.float64) for each in jax.random.split(key, count)])


def samples(case: Case, key: jax.Array, draws: int, *, whole: bool = True) -> Found:
    """The scores and replicates of samples; with `whole`, units are left out whole."""
    labels, n, c = case.labels, len(case.labels), int(case.labels.max()) + 1
    found: list[list[Any]] = []
    for each in jax.random.split(key, draws):
        point_key, group_key = jax.random.split(each)
        parts = jackknife_groups(labels, group_key, units=case.units if whole else None)
        of_layers = []
        for x in case.layers(point_key):
            knn = knn_graph(x, k=spare_neighbors(case.k, n))
            graphs = [(np.ones(n, bool), KNNGraph(knn.indices[:, : case.k], knn.distances[:, : case.k]))]
            for grouping in (parts, parts // 2):
                graphs += leave_group_out_graphs(knn, x, grouping, k=case.k)
            stack = jax.tree.map(lambda *part: jnp.stack(part), *(graph for _, graph in graphs))
            score = scores_of(stack, jnp.where(np.stack([kept for kept, _ in graphs]), labels, -1), c)
            cut = np.nanmax(np.asarray(score.disconnected), axis=0)
            of_layers.append((np.asarray(score.per_class, np.float64), np.asarray(score.micro, np.float64), cut))
        found.append(of_layers)
    return Found(*(np.array([[one[i] for one in layers] for layers in found]) for i in range(3)), parts.max() + 1)


def covered(name: str, what: str, truth: Any, lower: Any, upper: Any, verdict: str) -> tuple[Any, ...]:
    """A row; the first axis of the ends is the sample."""
    inside = np.where(np.isnan(lower), np.nan, (lower <= truth) & (truth <= upper)).reshape(len(lower), -1)
    of_draws = np.nanmean(inside, axis=1)
    error = np.nanstd(of_draws, ddof=1) / np.sqrt(np.sum(~np.isnan(of_draws)))
    return name, what, float(np.mean(truth)), np.nanmean(inside), error, np.nanmean(upper - lower), verdict


def of_scores(name: str, case: Case, draws: int, count: int, verdict: str = "", **options: Any) -> Iterator[tuple]:
    """Coverage of classes and macro, as reports have them."""
    truth = expected(case, jax.random.key(1), count)[:, 0].mean(axis=0)
    found = samples(case, jax.random.key(0), draws, **options)
    g = found.parts
    full, singly, joint = (found.per_class[:, 0, part] for part in (0, slice(1, 1 + g), slice(1 + g, None)))
    singly, joint = np.moveaxis(singly, 1, 0), np.moveaxis(joint, 1, 0)
    units = np.arange(len(case.labels)) if case.units is None or not options.get("whole", True) else case.units
    sizes = np.array([len(np.unique(units[case.labels == c])) for c in range(full.shape[1])])
    interval = score_interval(full, singly, sizes, joint=joint)
    enough = sizes >= FEWEST
    yield covered(name, "class", truth[enough], interval.lower[:, enough], interval.upper[:, enough], verdict)
    kept = np.isfinite(singly).all(axis=(0, 1)) & np.isfinite(joint).all(axis=(0, 1))
    macro = [values[..., kept].mean(axis=-1) for values in (full, singly, joint)]
    whole = len(np.unique(units[kept[case.labels]]))
    interval = score_interval(macro[0], macro[1], whole, joint=macro[2])
    yield covered(
        name, f"macro of {kept.sum()} of {len(kept)}", truth[kept].mean(), interval.lower, interval.upper, verdict
    )
    cut = found.cut_off[:, 0].max(axis=-1) > 0
    if verdict.startswith("marked"):
        yield (
            name,
            "samples marked with ?",
            np.nan,
            cut.mean(),
            np.sqrt(cut.mean() * (1 - cut.mean()) / draws),
            np.nan,
            "",
        )


def of_pairs(name: str, case: Case, draws: int, count: int) -> Iterator[tuple]:
    """Coverage of paired differences of two layers."""
    truth = expected(case, jax.random.key(1), count)
    found = samples(case, jax.random.key(0), draws)
    g, sizes = found.parts, np.bincount(case.labels)
    for what, values, target, points in (
        ("class", found.per_class, truth, sizes),
        ("macro", found.per_class.mean(axis=-1), truth.mean(axis=-1), sizes.sum()),
    ):
        target = (target[:, 1] - target[:, 0]).mean(axis=0)
        (a, b), singly, joint = (
            [np.moveaxis(values[:, i, part], 1, 0) for i in (0, 1)]
            for part in (slice(0, 1), slice(1, 1 + g), slice(1 + g, None))
        )
        plain = paired_difference(a[0], b[0], *singly)
        ours = paired_difference(a[0], b[0], *singly, joint=tuple(joint), num_points=(points, points))
        yield covered(name, what, target, ours.lower, ours.upper, "")
        yield covered(name, f"{what}, before", target, plain.lower, plain.upper, "as it was")


def of_correlations(draws: int) -> Iterator[tuple]:
    """Coverage of r over classes, recall having ties and a ceiling; classes are drawn, domains are fixed."""
    effects = np.array([[-1.0, -1], [-0.5, 0.5], [0, 0], [0.5, -0.5], [1, 1]])

    def classes(rng: np.random.Generator, size: int, effect: Any) -> tuple[np.ndarray, np.ndarray]:
        x, noise = rng.normal(size=(2, size))
        y = 0.6 * x + 0.8 * noise
        return x + effect[0], np.minimum(np.round(8 * (y + effect[1])) / 8, 1.5)

    for name, sizes, within in (("7", (7,), False), ("12", (12,), False), ("8 x 5", (8,) * 5, False),
                                ("8 x 5, within", (8,) * 5, True)):  # fmt: skip
        for ranks in (False, True):
            rng = np.random.default_rng(0)
            plain = spearman if ranks else pearson
            many = [
                classes(rng, 40_000 * size // min(sizes), effect) for size, effect in zip(sizes, effects, strict=False)
            ]
            if within:
                many = [(x - x.mean(), y - y.mean()) for x, y in many]
            truth = plain(*(np.concatenate(part) for part in zip(*many, strict=True))).coefficient
            ends = []
            for i in range(draws):
                domains = [classes(rng, size, effect) for size, effect in zip(sizes, effects, strict=False)]
                ends.append(
                    domain_correlation(domains, jax.random.key(i), ranks=ranks, within=within, num_samples=500)[1:3]
                )
            lower, upper = np.array(ends).T
            yield covered(f"correlation, {name} classes", "Spearman" if ranks else "Pearson", truth, lower, upper, "")
    yield "correlation, 4 classes", "both", np.nan, np.nan, np.nan, np.nan, "refused: fewer than 7 classes"


def of_sources(draws: int) -> Iterator[tuple]:
    """Coverage of the score of all pairs by those of drawn sources; 3% of a class lie among another."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 1500)
    x = rng.normal(size=(3000, 4)) + 8 * np.eye(4)[np.where((labels == 0) & (np.arange(3000) < 45), 1, labels)]
    packed = pack(knn_graph(x.astype(np.float32), k=10))
    truth = np.asarray(graph_convexity(packed, labels, num_classes=2).per_class)
    for tolerance in (0.01, 0.02):
        scores = [
            graph_convexity(packed, labels, num_classes=2, tolerance=tolerance, key=jax.random.key(i))
            for i in range(draws)
        ]
        value, error = (
            np.array([np.asarray(getattr(s, name)) for s in scores]) for name in ("per_class", "se_sources")
        )
        what = f"tolerance {tolerance}"
        value, error = value[:, 0], 1.96 * error[:, 0]
        yield covered("sources, rare group", what, truth[0], value - error, value + error, "")


def cases(draws: int, count: int) -> Iterator[tuple]:
    """All rows."""
    grouped = gaussian((80, 80, 80), 5, (3.0,), unit=4)
    yield from of_scores("groups of 4, left out by point", grouped, draws, count, "as it was", whole=False)
    yield from of_scores("groups of 4, left out whole", grouped, draws, count)
    yield from of_scores("groups of 8, six a class", gaussian((48, 48, 48), 5, (3.0,), unit=8), draws, count)
    yield from of_scores("hubs, 300 dimensions", gaussian((40,) * 5, 300, (9.0,)), draws, count)
    yield from of_scores("two-point class", gaussian((40, 40, 2), 5, (2.0,)), draws, count)
    yield from of_scores("near 1", gaussian((50,) * 3, 10, (5.0,)), draws, count)
    yield from of_pairs("paired, middle", gaussian((40,) * 3, 5, (1.5, 2.0)), draws, count)
    yield from of_pairs("paired, near 1", gaussian((50,) * 3, 10, (5.0, 5.5)), draws, count)
    yield from of_pairs("paired, one near 1", gaussian((40, 70, 100), 10, (4.0, 4.5)), draws, count)
    yield from of_scores("class in two pieces", two_pieces(), draws, count, "marked with ?")
    yield from of_correlations(max(draws, 400))
    yield from of_sources(max(draws, 200))


def print_cases(draws: int, count: int) -> None:
    """The table in Markdown, row by row."""
    print("| case | of | expected | coverage | width | reports |\n" + "|---" * 6 + "|")
    for name, what, truth, share, error, width, verdict in cases(draws, count):
        numbers = ["" if np.isnan(value) else f"{value:.3f}" for value in (truth, share, error, width)]
        between = f"**{numbers[1]}** ± {numbers[2]}" if numbers[1] else ""
        print(f"| {name} | {what} | {numbers[0]} | {between} | {numbers[3]} | {verdict} |", flush=True)
