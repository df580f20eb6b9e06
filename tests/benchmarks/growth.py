"""How the cost of neighbours and of paths grows with points, features, neighbours and classes: a table, a CSV, a figure.

    pip install ".[report]" && python tests/benchmarks/growth.py --most 200000 --csv growth.csv --figure growth.svg

One of the four varies at a time, around --base (points x features x neighbours x classes). Both are compiled before. Paths
are those of all pairs; above --exact points (20,000) they are measured from about --sources random sources, each with all
of its class, extrapolated to all and marked by *: too much, since a search of all pairs spares those from inner points to
outer ones. Packing the graph, a step on the host, is timed with the paths. Medians of --repeats up to --exact points, one
run above. The exponents are slopes of straight lines through the logarithms, for the points through those from 5,000 on.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import NamedTuple

import engine
import numpy as np

NAMES = ("points", "features", "neighbors", "classes")
POINTS = (1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000, 200_000)
OTHERS = {"features": (8, 16, 32, 64, 128, 256, 768), "neighbors": (5, 10, 20, 40), "classes": (1, 10, 100, 1000)}


class Size(NamedTuple):
    points: int
    features: int
    neighbors: int
    classes: int


class Cost(NamedTuple):
    neighbors_seconds: float
    packing_seconds: float
    paths_seconds: float
    sources: int  # that were measured; as many as points where none was extrapolated


def cost(size: Size, exact: int, sources: int, repeats: int) -> Cost:
    """The median seconds of each step."""
    import jax

    import jaxconvex

    x, labels = engine.data(size.points, size.features, size.classes)
    points = jax.device_put(x)
    search = engine.compiled_search(x, size.neighbors)
    number = repeats if size.points <= exact else 1
    searching = [engine.spent(lambda: search(points)) for _ in range(number)]
    graph = searching[0][1]
    packing, packed = engine.packing(graph)
    if size.points <= exact:
        runs = [engine.own_paths(packed, labels, size.classes)[0] for _ in range(number)]
        solved, factor = size.points, 1.0
    else:
        options = {"max_sources": max(1, sources // size.classes), "key": jax.random.key(0)}
        for _ in range(2):  # the first compiles
            taken, score = engine.spent(
                lambda: jaxconvex.graph_convexity(packed, labels, num_classes=size.classes, **options)
            )
        runs, solved = [taken], int(score.num_sources.sum())
        factor = size.points / solved
    wall = engine.median([taken for taken, _ in searching]).wall
    return Cost(wall, packing.wall, engine.median(runs).wall * factor, solved)


def draw(rows: list[tuple[str, Size, Cost]], title: str, path: Path) -> None:
    """A panel for each of the four, both axes logarithmic; hollow marks are extrapolated."""
    from matplotlib.figure import Figure

    from jaxconvex.reporting.figures import COLOURS, FAINT

    figure = Figure(figsize=(9, 6.4), layout="constrained", dpi=150)
    figure.suptitle(title, fontsize=9)
    for name, panel in zip(NAMES, figure.subplots(2, 2, sharey=True).flat, strict=True):
        own = [(size, cost) for varied, size, cost in rows if varied == name]
        at = [getattr(size, name) for size, _ in own]
        for step, colour in zip(("neighbors", "paths"), COLOURS, strict=False):
            seconds = [getattr(cost, f"{step}_seconds") for _, cost in own]
            whole = [step == "neighbors" or cost.sources == size.points for size, cost in own]
            panel.plot(at, seconds, color=colour, label={"neighbors": "neighbours", "paths": "paths, all pairs"}[step])
            faces = [colour if known else "white" for known in whole]
            panel.scatter(at, seconds, s=22, facecolors=faces, edgecolors=colour, zorder=3)
        panel.set(xscale="log", yscale="log", xlabel={"neighbors": "neighbours, k"}.get(name, name), ylabel="seconds")
        panel.set_xticks(at, [f"{value:,}" for value in at], rotation=30 * (len(at) > 5))
        panel.yaxis.set_major_formatter("{x:g}")
        panel.minorticks_off()
        panel.grid(color=FAINT)
        panel.legend(frameon=False, fontsize=8)
    figure.savefig(path)


def exponent(at: list[float], seconds: list[float]) -> float:
    return float(np.polyfit(np.log(at), np.log(seconds), 1)[0]) if len(at) > 1 else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most", type=int, default=2000, help="points")
    parser.add_argument("--base", default="10000x64x10x10", help="points x features x neighbours x classes")
    parser.add_argument("--vary", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--exact", type=int, default=20_000, help="points up to which all pairs are searched")
    parser.add_argument("--sources", type=int, default=640)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2, help="cores of the processor")
    parser.add_argument("--csv", type=Path, default=Path("growth.csv"))
    parser.add_argument("--figure", type=Path, default=Path("growth.png"))
    options = parser.parse_args()
    engine.use_threads(options.threads)

    base = Size(*map(int, options.base.split("x")))
    base = base._replace(points=min(base.points, options.most))
    values = {"points": [n for n in POINTS if n <= options.most], **OTHERS}
    title = engine.machine()
    print(f"{title}\n{options.threads} cores, {options.repeats} repeats; * extrapolated")
    print(f"{'points':>8} {'features':>8} {'k':>4} {'classes':>8} {'neighbours':>11} {'packing':>9} {'paths':>11}")
    known: dict[Size, Cost] = {}
    rows = []
    for name in options.vary:
        for value in values[name]:
            size = base._replace(**{name: value})
            if size not in known:
                known[size] = cost(size, options.exact, options.sources, options.repeats)
            found = known[size]
            rows.append((name, size, found))
            mark = " " if found.sources == size.points else f"* from {found.sources} sources"
            print(
                f"{size.points:8d} {size.features:8d} {size.neighbors:4d} {size.classes:8d} "
                f"{found.neighbors_seconds:9.3f} s {found.packing_seconds:7.3f} s {found.paths_seconds:9.3f} s{mark}",
                flush=True,
            )
        some = [row for row in rows if row[0] == name and (name != "points" or row[1].points >= min(5000, base.points))]
        at = [getattr(size, name) for _, size, _ in some]
        print(
            f"  exponents in {name}: neighbours {exponent(at, [c.neighbors_seconds for _, _, c in some]):.2f}, "
            f"paths {exponent(at, [c.paths_seconds for _, _, c in some]):.2f}",
            flush=True,
        )
    with options.csv.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["device", "varied", *Size._fields[:2], "k", "classes", *Cost._fields])
        writer.writerows([title.split(";")[0], name, *size, *found] for name, size, found in rows)
    draw(rows, title, options.figure)
    print(f"wrote {options.csv} and {options.figure}")


if __name__ == "__main__":
    main()
