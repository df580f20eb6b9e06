"""All hidden states of encoders at base size, beside torch's transformers with the same weights and threads.

    pip install ".[encoders]" torch transformers && python tests/benchmarks/encoders.py

Random weights go from torch's save_pretrained through encoders.load, so both sides compute the same, which is checked. Both
are timed in turn in one process, ours compiled before, torch in inference_mode with its scaled_dot_product_attention. Peak
memory is that of a process which has only one side, loads the weights and computes the states twice: the whole process, and
what came on top of the weights and the imports. Ratios are torch's number by ours, so more than 1 is faster, or less memory.
The load average of the last minute stands beside them, before and after. Where others use the cores too, the seconds of the
processor on all threads say more than those of the clock; torch's threads wait for each other busily, which counts.

--loading reads a file of the same weights in float16: the peak of a process of its own beyond the imports, on either side,
beside the size of the weights in float32.

--rate leaves torch out and compares with the device's own rate for a product of two large matrices, in either type: the
share of it that the encoder reaches by XLA's count of operations. For accelerators, with --batch as large as is sensible.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import engine
import numpy as np

SECONDS = 5  # of each waveform
BATCH = {"bert": 8, "llama": 8, "vit": 8, "wav2vec2": 2}
NAMES = {"bert": "Bert", "llama": "Llama", "vit": "ViT", "wav2vec2": "Wav2Vec2"}
SHAPES = {"bert": "tokens 128", "llama": "tokens 128", "vit": "image 224", "wav2vec2": f"{SECONDS} s at 16 kHz"}
TEXTS = ("bert", "llama")


def inputs_of(family: str, batch: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    if family in TEXTS:
        return rng.integers(1, 30000, (batch, 128)).astype(np.int32)
    shape = (batch, 224, 224, 3) if family == "vit" else (batch, SECONDS * 16000)
    return rng.normal(size=shape).astype(np.float32)


def write(family: str, folder: str, narrow: bool = False) -> None:
    """A model of torch at base size, its documented default, with random weights; for Llama one of 100M parameters."""
    import transformers

    config = getattr(transformers, f"{NAMES[family]}Config")(**LLAMA if family == "llama" else {})
    model = getattr(transformers, f"{NAMES[family]}Model")(config)
    (model.half() if narrow else model).save_pretrained(folder)


def in_torch(family: str, folder: str, inputs: np.ndarray, threads: int) -> Callable[[], Any]:
    import torch
    import transformers

    torch.set_num_threads(threads)
    model = getattr(transformers, f"{NAMES[family]}Model").from_pretrained(folder, attn_implementation="sdpa").eval()
    tensor = torch.tensor(inputs.transpose(0, 3, 1, 2) if family == "vit" else inputs)
    tensor = tensor.long() if family in TEXTS else tensor.contiguous()
    options = {"use_cache": False} if family == "llama" else {}

    def states() -> Any:
        with torch.inference_mode():
            return model(tensor, output_hidden_states=True, **options).hidden_states

    return states


def in_jax(folder: str, inputs: np.ndarray, dtype: Any = "float32") -> tuple[Callable[[], Any], float]:
    """A function that computes the states, compiled, and XLA's count of its operations."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from jaxconvex import encoders

    encoder, _ = encoders.load(folder, dtype=jnp.dtype(dtype))
    graph, state = nnx.split(encoder)
    placed = jnp.asarray(inputs)
    compiled = (
        jax.jit(lambda state, inputs: nnx.merge(graph, state).hidden_states(inputs)).lower(state, placed).compile()
    )
    return lambda: jax.block_until_ready(compiled(state, placed)), float(compiled.cost_analysis().get("flops", np.nan))


def compare(family: str, batch: int, threads: int, repeats: int) -> None:
    import jax.numpy as jnp

    inputs = inputs_of(family, batch)
    load = [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory() as folder:
        write(family, folder)
        start = time.perf_counter()
        ours, flops = in_jax(folder, inputs)
        compiled = time.perf_counter() - start
        theirs = in_torch(family, folder, inputs, threads)
        narrow, _ = in_jax(folder, inputs, "bfloat16")
        differences = [
            float(jnp.abs(jnp.asarray(a.numpy()) - b).max()) / max(1.0, float(jnp.abs(b).max()))
            for a, b in zip(theirs(), ours().values(), strict=True)
        ][:-1]  # the last one is normalised in some of torch's models
        times: dict[str, list[float]] = {"torch": [], "ours": [], "bfloat16": []}
        seconds: dict[str, list[float]] = {name: [] for name in times}  # of the processor, on all threads
        narrow()
        for _ in range(repeats):
            for name, function in (("torch", theirs), ("ours", ours), ("bfloat16", narrow)):
                start, begun = time.perf_counter(), time.process_time()
                function()
                times[name].append(time.perf_counter() - start)
                seconds[name].append(time.process_time() - begun)
        middle = {name: float(np.median(values)) for name, values in times.items()}
        pairs = np.divide(times["torch"], times["ours"])
        used = np.divide(seconds["torch"], seconds["ours"])
        load.append(os.getloadavg()[0])
        torch_memory, own_memory = (alone(side, family, batch, threads, folder) for side in ("torch", "jax"))
    print(
        f"| {family}, {batch} x {SHAPES[family]} | {middle['torch']:.3f} | {middle['ours']:.3f} | "
        f"{np.median(pairs):.2f} ({pairs.min():.2f} to {pairs.max():.2f}) | "
        f"{np.median(used):.2f} ({used.min():.2f} to {used.max():.2f}) | {flops / middle['ours'] / 1e9:.0f} | "
        f"{middle['bfloat16']:.3f} | {torch_memory[0]:.0f}, {torch_memory[1]:.0f} | "
        f"{own_memory[0]:.0f}, {own_memory[1]:.0f} | "
        f"{torch_memory[0] / own_memory[0]:.2f} | {max(differences):.0e} | {compiled:.0f} | {load[0]:.1f}, {load[1]:.1f} |",
        flush=True,
    )


def alone(side: str, family: str, batch: int, threads: int, folder: str) -> tuple[float, float]:
    """Peak memory in MB of a process with one side only: all of it, and beyond what stood there before the states."""
    command = [sys.executable, __file__, "--one", side, family, "--folder", folder]
    command += ["--batch", str(batch), "--threads", str(threads)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    whole, beyond = map(float, done.stdout.split()[-2:])
    return whole, beyond


def memory(kind: str) -> float:
    """The resident set in MB: "VmRSS", now, or "VmHWM", the largest so far of this program.

    The largest that getrusage tells may be that of the program which started this one, so it is for other systems only.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    return next(int(line.split()[1]) for line in lines if line.startswith(kind)) / 2**10


def loading(family: str, threads: int) -> None:
    """Print what either side takes to load weights that are stored in half their size, in float32."""
    with tempfile.TemporaryDirectory() as folder:
        write(family, folder, narrow=True)
        size = 2 * (Path(folder) / "model.safetensors").stat().st_size / 2**20  # in float32
        for side in ("torch", "jax"):
            _, beyond = alone(side, family, 0, threads, folder)
            print(
                f"{family} in float16, loaded by {side}: {beyond:.0f} MB, {beyond / size:.2f} of {size:.0f} MB",
                flush=True,
            )


def measure_loading(side: str, family: str, folder: str) -> None:
    if side == "torch":
        import torch
        import transformers

        load = getattr(transformers, f"{NAMES[family]}Model").from_pretrained
        before = memory("VmRSS")
        model = load(folder, dtype=torch.float32)
    else:
        import jax

        from jaxconvex import encoders

        jax.block_until_ready(jax.numpy.ones(3) + 1)
        before = memory("VmRSS")
        model, _ = encoders.load(folder)
    assert model is not None
    print(memory("VmHWM"), memory("VmHWM") - before)


def measure_one(side: str, family: str, batch: int, threads: int, folder: str) -> None:
    if not batch:
        measure_loading(side, family, folder)
        return
    inputs = inputs_of(family, batch)
    states = in_torch(family, folder, inputs, threads) if side == "torch" else in_jax(folder, inputs)[0]
    before = memory("VmRSS")
    for _ in range(2):
        found = states()
    assert found is not None
    print(memory("VmHWM"), memory("VmHWM") - before)


def rate(family: str, batch: int, repeats: int, size: int) -> None:
    import jax
    import jax.numpy as jnp

    def best(function: Callable[[], Any]) -> float:
        function()
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            function()
            times.append(time.perf_counter() - start)
        return float(np.median(times))

    with tempfile.TemporaryDirectory() as folder:
        from jaxconvex import encoders
        from jaxconvex.encoders import loading

        config = {"bert": BERT, "llama": LLAMA, "vit": VIT, "wav2vec2": {}}[family] | {"model_type": family}
        from flax import nnx

        loading.save(encoders.initialise(config, rngs=nnx.Rngs(0)), folder)
        for dtype in ("float32", "bfloat16"):
            square = jnp.ones((size, size), dtype)
            times = jax.jit(lambda a: jnp.dot(a, a, precision=jax.lax.Precision.HIGHEST))
            product = 2 * size**3 / best(lambda: jax.block_until_ready(times(square)))  # noqa: B023
            states, flops = in_jax(folder, inputs_of(family, batch), dtype)
            seconds = best(states)
            print(
                f"{family}, {batch} x {SHAPES[family]}, {dtype}: {1000 * seconds:.1f} ms, {batch / seconds:.0f} a second, "
                f"{flops / seconds / 1e12:.2f} of {product / 1e12:.2f} TFLOP/s: {100 * flops / seconds / product:.0f} %",
                flush=True,
            )


BERT = {
    "vocab_size": 30522,
    "max_position_embeddings": 512,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
}
LLAMA = {  # 100M parameters, a quarter of them words
    "vocab_size": 32000,
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
    "max_position_embeddings": 2048,
}
VIT = {key: BERT[key] for key in BERT if key not in ("vocab_size", "max_position_embeddings")} | {
    "image_size": 224,
    "patch_size": 16,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="+", default=list(NAMES), choices=list(NAMES))
    parser.add_argument("--batch", type=int, help="points at once; by default 8, and 2 waveforms")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--rate", action="store_true", help="beside the device's own products, without torch")
    parser.add_argument("--loading", action="store_true", help="the memory that loading takes, and nothing else")
    parser.add_argument("--size", type=int, default=2048, help="of the matrices for --rate; 8192 on an accelerator")
    parser.add_argument("--one", nargs=2, metavar=("SIDE", "FAMILY"), help="the memory of one side: torch or jax")
    parser.add_argument("--folder", help="the weights for --one")
    options = parser.parse_args()
    engine.use_threads(options.threads)
    if options.one:
        side, family = options.one
        measure_one(side, family, options.batch, options.threads, options.folder)
        return
    if not options.rate and not options.loading:
        print(
            "| all states of | torch s | ours s | torch by ours, median (range) of pairs | by the processor | "
            "ours GFLOP/s | ours bfloat16 s | "
            "torch MB: all, states | ours MB: all, states | torch by ours, all | difference | load and compile s | load |\n"
            "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
            flush=True,
        )
    for family in options.families:
        batch = options.batch or BATCH[family]
        if options.loading:
            loading(family, options.threads)
        elif options.rate:
            rate(family, batch, options.repeats, options.size)
        else:
            compare(family, batch, options.threads, options.repeats)
    print(engine.machine())


if __name__ == "__main__":
    main()
