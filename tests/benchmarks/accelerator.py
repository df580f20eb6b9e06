"""What an accelerator makes of a score: shares of its limits, precision, `top_k`, and the time of a large layer.

    pip install ".[report]" && python tests/benchmarks/accelerator.py
    python tests/benchmarks/growth.py --most 200000

On an accelerator (install the JAX for it first): 50,000 x 768 in 1,000 classes, all pairs. Where there is none the script
says so and runs a small layer on the processor. --bandwidth (GB/s) and --arithmetic (TFLOP/s of float32 products) are the
makers' limits, looked up by the device's name where it is known; TPUs make a float32 product of six in bfloat16, so theirs
is a sixth of that rate.

Neighbours are compared with the arithmetic of one product of all points with all; paths with the memory traffic of one
sweep over all edges for all sources, which is less than they need: so many sweeps would fit in the time at full bandwidth.
"""

from __future__ import annotations

import argparse
import re

import engine
import numpy as np

# Bandwidth in GB/s and float32 products in TFLOP/s, outside tensor cores on GPUs, as the makers state them.
LIMITS = {
    "H200": (4800, 67),
    "H100 PCIe": (2000, 51),
    "H100": (3350, 67),
    "A100-SXM4-80GB": (2039, 19.5),
    "A100-PCIE-80GB": (1935, 19.5),
    "A100": (1555, 19.5),
    "L40S": (864, 91.6),
    "L4": (300, 30.3),
    "A10": (600, 31.2),
    "V100": (900, 15.7),
    "T4": (320, 8.1),
    "RTX 4090": (1008, 82.6),
    "RTX 3090": (936, 35.6),
    "MI300X": (5300, 163.4),
    "MI250X": (3277, 47.9),
    "TPU v6": (1640, 918 / 6),
    "TPU v5 lite": (819, 197 / 6),
    "TPU v5e": (819, 197 / 6),
    "TPU v5": (2765, 459 / 6),
    "TPU v4": (1228, 275 / 6),
    "TPU v3": (900, 123 / 6),
}


def limits_of(kind: str) -> tuple[float | None, float | None]:
    """Bandwidth and arithmetic rate of the first known device whose name stands in this one."""
    return next((limits for name, limits in LIMITS.items() if name.lower() in kind.lower()), (None, None))


def share(value: float, limit: float | None) -> str:
    return f"{100 * value / limit:.0f} percent of the limit" if limit else "limit unknown"


def precision() -> str:
    """How far products of float32 are from those of float64, relative to the lengths of the vectors."""
    import jax
    import jax.numpy as jnp
    from jax import lax

    x = np.random.default_rng(0).normal(size=(512, 768)).astype(np.float32)
    lengths = np.linalg.norm(x.astype(np.float64), axis=1)
    exact = x.astype(np.float64) @ x.astype(np.float64).T

    def error(wanted: lax.Precision) -> float:
        found = np.asarray(jax.jit(lambda x: jnp.dot(x, x.T, precision=wanted))(x), np.float64)
        return float((np.abs(found - exact) / np.outer(lengths, lengths)).max())

    highest, default = error(lax.Precision.HIGHEST), error(lax.Precision.DEFAULT)
    verdict = "honoured" if highest < 2e-6 else "NOT honoured"
    return f"precision: products at HIGHEST are off by {highest:.1e} ({verdict}), by default {default:.1e}"


def lowered_top_k() -> str:
    """What the compiled program calls for `top_k`, at the sizes that the neighbours have."""
    import jax
    import jax.numpy as jnp
    from jax import lax

    program = jax.jit(lambda values: lax.top_k(values, 16)).lower(jnp.zeros((4096, 8192))).compile().as_text()
    calls = sorted(set(re.findall(r'custom_call_target="([^"]+)"', program)))
    plain = sorted(set(re.findall(r"= [^=]*?\b(sort|topk)\(", program)))
    return "top_k: " + (", ".join([*(f"custom call {name}" for name in calls), *plain]) or "no call and no sort")


def plain_rates(entries: int, size: int, repeats: int) -> tuple[float, float]:
    """Bytes a second of a copy, and operations a second of a float32 product at HIGHEST."""
    import jax
    import jax.numpy as jnp
    from jax import lax

    copy = jax.jit(lambda x: x + 1)
    product = jax.jit(lambda x: jnp.dot(x, x, precision=lax.Precision.HIGHEST))

    def seconds(function, x) -> float:
        jax.block_until_ready(function(x))
        return engine.median([engine.spent(lambda: function(x))[0] for _ in range(repeats)]).wall

    return 8 * entries / seconds(copy, jnp.zeros(entries)), 2 * size**3 / seconds(product, jnp.ones((size, size)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", help="points x features x classes; 50000x768x1000 on an accelerator, else 2000x64x20")
    parser.add_argument("--bandwidth", type=float, help="GB/s")
    parser.add_argument("--arithmetic", "--flops", type=float, help="TFLOP/s of float32 products")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()

    import jax

    device = jax.devices()[0]
    there = device.platform != "cpu"
    print(engine.machine())
    if not there:
        print("no accelerator here: a small run on the processor, whose numbers tell nothing of one")
    known = limits_of(device.device_kind)
    bandwidth = options.bandwidth or known[0]
    arithmetic = options.arithmetic or known[1]
    print(f"limits: {bandwidth or 'unknown'} GB/s, {arithmetic or 'unknown'} TFLOP/s; {options.repeats} repeats")
    print(precision())
    print(lowered_top_k())
    copied, multiplied = plain_rates(*((2**28, 8192) if there else (2**24, 1024)), options.repeats)
    print(f"copy: {copied / 1e9:.0f} GB/s, {share(copied / 1e9, bandwidth)}")
    print(f"product at HIGHEST: {multiplied / 1e12:.2f} TFLOP/s, {share(multiplied / 1e12, arithmetic)}")

    n, features, classes = map(int, (options.size or ("50000x768x1000" if there else "2000x64x20")).split("x"))
    x, labels = engine.data(n, features, classes)
    points = jax.device_put(x)
    search = engine.compiled_search(x)
    runs = []
    for _ in range(options.repeats):
        searching, graph = engine.spent(lambda: search(points))
        packing, packed = engine.packing(graph)
        runs.append([searching.wall, packing.wall, engine.own_paths(packed, labels, classes)[0].wall])
    neighbors, packing, paths = np.median(runs, axis=0)
    print(
        f"{n} x {features}, {classes} classes, k = 10, all pairs: {np.median(np.sum(runs, axis=1)):.2f} s a layer "
        f"(neighbours {neighbors:.3f}, packing {packing:.3f}, paths {paths:.3f}); compiled before"
    )
    rate = 2 * n * n * features / neighbors
    print(
        f"neighbours: {rate / 1e12:.2f} TFLOP/s, {share(rate / 1e12, arithmetic)}, "
        f"{100 * rate / multiplied:.0f} percent of the plain product's rate"
    )
    edges = int(np.isfinite(np.asarray(packed.lengths)).sum())
    sweep = 4 * n * (edges + 2 * n)  # a distance read for every edge from either end, one read and written a point
    print(
        f"paths: {1e6 * paths / n:.1f} microseconds a source; at the copy's rate {paths * copied / sweep:.1f} sweeps over "
        f"all edges would fit; up to {int(packed.depth)} hops from a root"
    )
    statistics = device.memory_stats() or {}
    if "peak_bytes_in_use" in statistics:
        print(
            f"memory: at most {statistics['peak_bytes_in_use'] / 2**20:.0f} MB on the device, data {x.nbytes / 2**20:.0f}"
        )


if __name__ == "__main__":
    main()
