"""What the losses cost: by themselves, and on top of a training step of a network of ViT-base's size.

    pip install . && python tests/benchmarks/losses.py

The step is forward, backward and AdamW of a transformer with 12 blocks of width 768 on 197 tokens (86 million
weights), in bfloat16 on an accelerator and float32 on a CPU. The loss takes the class token after one block, for the
whole batch: value and gradient. On a CPU a step of 512 images does not fit: it is timed with --images images and
scaled to the batch, which is printed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxconvex.losses import detour_loss, euclidean_convexity_loss, graph_convexity_loss, with_unit_gradient

BLOCKS, WIDTH, HEADS, TOKENS, CLASSES = 12, 768, 12, 197, 1000
OPTIMIZER = optax.adamw(1e-3)


def best_of(function: Callable[..., Any], *arguments: Any, repeats: int = 5) -> float:
    """Seconds of the fastest of some calls, after one that compiles."""
    jax.block_until_ready(function(*arguments))
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def weights(key: Any, dtype: Any) -> dict[str, Any]:
    """Random weights of the transformer; those of the blocks are stacked."""
    shapes = {
        "query_key_value": (WIDTH, 3 * WIDTH),
        "out": (WIDTH, WIDTH),
        "up": (WIDTH, 4 * WIDTH),
        "down": (4 * WIDTH, WIDTH),
    }
    keys = jax.random.split(key, len(shapes) + 2)
    blocks = {
        name: 0.02 * jax.random.normal(k, (BLOCKS, *shape), dtype)
        for k, (name, shape) in zip(keys, shapes.items(), strict=False)
    }
    patch, head = (
        0.02 * jax.random.normal(k, s, dtype) for k, s in zip(keys[-2:], ((768, WIDTH), (WIDTH, CLASSES)), strict=True)
    )
    return {"patch": patch, "blocks": blocks, "head": head}


def normalised(h: jax.Array) -> jax.Array:
    wide = h.astype(jnp.float32)
    return ((wide - wide.mean(-1, keepdims=True)) * jax.lax.rsqrt(wide.var(-1, keepdims=True) + 1e-6)).astype(h.dtype)


def network(params: Any, patches: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The logits, and the class token after every block."""

    @jax.checkpoint
    def block(h: jax.Array, w: Any) -> tuple[jax.Array, jax.Array]:
        parts = (normalised(h) @ w["query_key_value"]).reshape(*h.shape[:2], 3, HEADS, -1)
        attended = jax.nn.dot_product_attention(parts[:, :, 0], parts[:, :, 1], parts[:, :, 2]).reshape(h.shape)
        h = h + attended @ w["out"]
        h = h + jax.nn.gelu(normalised(h) @ w["up"]) @ w["down"]
        return h, h[:, 0]

    h, tokens = jax.lax.scan(block, patches @ params["patch"], params["blocks"])
    return (normalised(h[:, 0]) @ params["head"]).astype(jnp.float32), tokens


@jax.jit
def step(params: Any, moments: Any, patches: jax.Array, labels: jax.Array) -> Any:
    def loss(params: Any) -> jax.Array:
        logits, _ = network(params, patches)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    gradient = jax.grad(loss)(params)
    updates, moments = OPTIMIZER.update(gradient, moments, params)
    return optax.apply_updates(params, updates), moments


def surrogates(labels: jax.Array, temperature: float) -> dict[str, Callable[[jax.Array], jax.Array]]:
    """The losses of a layer; the rest of the network of the Euclidean one is a linear head."""
    head = jax.random.normal(jax.random.key(2), (WIDTH, CLASSES)) / WIDTH**0.5
    probabilities = jax.nn.one_hot(labels, 10)

    def graph(h: jax.Array) -> jax.Array:
        return graph_convexity_loss(h, labels, temperature=temperature)

    return {
        f"graph_convexity_loss, temperature {temperature}": graph,
        "  with a unit gradient": with_unit_gradient(graph),
        "  of probabilities of 10 classes": lambda h: graph_convexity_loss(h, probabilities, temperature=temperature),
        "  at temperature 0.03": lambda h: graph_convexity_loss(h, labels, temperature=0.03),
        "detour_loss": lambda h: detour_loss(h, labels),
        "euclidean_convexity_loss, linear head": lambda h: euclidean_convexity_loss(
            lambda h: h @ head, h, labels, key=jax.random.key(3)
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=512, help="points of a batch (default: %(default)s)")
    parser.add_argument("--images", type=int, help="images of the timed step (default: the batch; 4 on a CPU)")
    parser.add_argument("--temperature", type=float, default=0.1, help="of the graph loss (default: %(default)s)")
    parser.add_argument(
        "--repeats", type=int, default=5, help="calls of which the fastest counts (default: %(default)s)"
    )
    options = parser.parse_args()
    cpu = jax.default_backend() == "cpu"
    images = options.images or (4 if cpu else options.batch)
    dtype = jnp.float32 if cpu else jnp.bfloat16
    params = weights(jax.random.key(0), dtype)
    patches = jax.random.normal(jax.random.key(1), (images, TOKENS, 768), dtype)
    moments = OPTIMIZER.init(params)
    seconds = best_of(step, params, moments, patches, jnp.arange(images) % 10, repeats=options.repeats)
    print(
        f"{jax.devices()[0].device_kind}, jax {jax.__version__}, batch {options.batch}, width {WIDTH}, {dtype.__name__}"
    )
    print(f"step with {images} images: {1e3 * seconds:.1f} ms")
    if images != options.batch:
        seconds *= options.batch / images
        print(f"  scaled to {options.batch} images (not run): {1e3 * seconds:.0f} ms")
    labels = jnp.arange(options.batch) % 10
    x = (
        jax.random.normal(jax.random.key(4), (options.batch, WIDTH))
        + 2 * jax.random.normal(jax.random.key(5), (10, WIDTH))[labels]
    )
    x = (
        x[:, :64] @ jax.random.normal(jax.random.key(6), (64, WIDTH)) / 8 + 0.1 * x
    )  # of few dimensions, as activations are
    for name, loss in surrogates(labels, options.temperature).items():
        took = best_of(jax.jit(jax.value_and_grad(loss)), x, repeats=options.repeats)
        print(f"{name:45s} {1e3 * took:8.2f} ms  {100 * took / seconds:7.3f} percent of a step")


if __name__ == "__main__":
    main()
