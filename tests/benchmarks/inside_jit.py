"""The score inside jax.jit beside the score of concrete arrays, and a vmap over layers beside a loop; time and memory.

    python tests/benchmarks/inside_jit.py --points 1000 2000 5000 10000 --repeats 5

Points of 64 features in 10 classes, far apart and overlapping (centres scaled by 0.35); graphs of 10 neighbours are given,
and each side packs, searches and sums. Inside jit there is one stream; concrete arrays use all cores. Sides take turns; a
median of ratios below 1 means that jit is the faster one. --layers NxL: a vmap over L layers of N points beside a loop of
concrete calls, and XLA's count of the temporary bytes of the vmap beside those of one layer.
"""

from __future__ import annotations

import argparse

import engine
import numpy as np

CLASSES = 10


def layer(n: int, scale: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Points and labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % CLASSES
    centres = rng.normal(size=(CLASSES, 64)) * 2 * scale
    return (centres[labels] + rng.normal(size=(n, 64))).astype(np.float32), labels


def in_turn(sides: dict, repeats: int) -> dict[str, list[float]]:
    """Seconds of each side, after a first call of each."""
    for side in sides.values():
        side()
    return {name: list(taken) for name, taken in zip(sides, zip(*_rounds(sides, repeats), strict=True), strict=True)}


def _rounds(sides: dict, repeats: int) -> list[list[float]]:
    return [[engine.spent(side)[0].wall for side in sides.values()] for _ in range(repeats)]


def told(seconds: dict[str, list[float]]) -> str:
    first, second = seconds.values()
    ratio = np.median(np.array(second) / np.array(first))
    return (
        ", ".join(f"{name} {np.median(s):.3f} s (least {min(s):.3f})" for name, s in seconds.items())
        + f": {ratio:.2f} times"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, nargs="*", default=[1000, 2000, 5000])
    parser.add_argument("--layers", nargs="*", default=["1000x12"])
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()

    import jax
    import jax.numpy as jnp

    import jaxconvex

    def score(graph, labels):
        return jaxconvex.graph_convexity(graph, labels, num_classes=CLASSES).per_class

    inside = jax.jit(score)
    print(engine.machine())
    for n in options.points:
        for scale, name in ((1.0, "far apart"), (0.35, "overlapping")):
            x, labels = layer(n, scale)
            graph, codes = jaxconvex.knn_graph(x), jnp.asarray(labels)
            sides = {
                "concrete": lambda graph=graph, labels=labels: np.asarray(score(graph, labels)),
                "inside jit": lambda graph=graph, codes=codes: np.asarray(inside(graph, codes)),
            }
            gap = np.abs(sides["concrete"]() - sides["inside jit"]()).max()
            print(
                f"{n} points, {name}: {told(in_turn(sides, options.repeats))}; scores differ by {gap:.1e}", flush=True
            )
    for size in options.layers:
        n, number = map(int, size.split("x"))
        data = [layer(n, 1.0, seed) for seed in range(number)]
        graphs = [jaxconvex.knn_graph(x) for x, _ in data]
        stacked = jax.tree.map(lambda *parts: jnp.stack(parts), *graphs)
        codes = jnp.asarray(data[0][1])
        mapped = jax.jit(jax.vmap(score, in_axes=(0, None)))
        sides = {
            "loop": lambda graphs=graphs, codes=codes: [np.asarray(score(graph, codes)) for graph in graphs],
            "vmap": lambda stacked=stacked, codes=codes, mapped=mapped: np.asarray(mapped(stacked, codes)),
        }
        print(f"{number} layers of {n}: {told(in_turn(sides, options.repeats))}")
        whole = mapped.lower(stacked, codes).compile().memory_analysis().temp_size_in_bytes
        one = inside.lower(graphs[0], codes).compile().memory_analysis().temp_size_in_bytes
        print(
            f"  temporary memory {whole / 1e6:.1f} MB, of one layer {one / 1e6:.1f} MB: {whole / one:.2f} times",
            flush=True,
        )


if __name__ == "__main__":
    main()
