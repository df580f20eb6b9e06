"""From the parameters of an encoder to the tensors of a checkpoint, and back.

A family has a table: our path of a module -> the checkpoint's name of it, with {} for the number of a block:

    "blocks.{}.attention.query": "encoder.layer.{}.attention.self.query"

What the parameters of a module are called follows from their kind: `kernel`, `scale` and `embedding` are `weight` there,
a dense kernel is transposed, a convolution's has its axes the other way round.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array

from jaxconvex.encoders.checkpoints import Weights
from jaxconvex.encoders.encoder import Encoder

__all__ = ["Family", "Shapes", "Whole", "canonical_shapes", "fill", "tensors_of", "without_head"]

Shapes = Mapping[str, tuple[int, ...]]

LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight", "mean": "running_mean", "var": "running_var"}
INITIAL = {"kernel": nnx.initializers.normal(0.02), "scale": nnx.initializers.ones}
OLD = {  # spellings of old files
    ".gamma": ".weight",
    ".beta": ".bias",
    ".weight_g": ".parametrizations.weight.original0",
    ".weight_v": ".parametrizations.weight.original1",
}
LENGTH, DIRECTION = OLD[".weight_g"], OLD[".weight_v"]
FLOATS = ("F64", "F32", "F16", "BF16")


class Whole(NamedTuple):
    """A network of several parts, each an encoder of its own."""

    kind: str  # its model_type
    entry: str  # of its configuration, which holds the part's
    model: str  # what the names of torch's classes begin with


class Family(NamedTuple):
    """How a kind of checkpoint becomes an `Encoder`.

    build: (config, shapes, num_classes, rngs) -> Encoder; `shapes` holds the tensors of the file by canonical name, so
        that parts which checkpoints may lack are built only where they are. num_classes asks for a new classifier.
    names: the table of modules; values that begin with a name in `top` belong to the classifying head. A value may be a
        function of the numbers in the path, where {} does not do.
    prefixes: what may stand before the names of the base network; the first is written in files with a head.
    top: first parts of the names that stand beside the base network.
    ignored: patterns of tensors that are none of ours: heads for other tasks, buffers.
    config: the documented configuration, of the base size, for checkpoints without config.json.
    bare: what is written before the names of the base network in files without a head.
    model: what the names of torch's classes begin with: BertModel, BertForMaskedLM. Empty if there are none.
    task: the one with our head: BertForSequenceClassification.
    projection: the name of a matrix that stands beside the base network and stays, whatever classifier there is: of the
        next word's logits, or into a space that texts and images share.
    projects: torch's class with it: LlamaForCausalLM, CLIPVisionModelWithProjection.
    part_of: the network of which it is a part that is loaded alone, or None.
    """

    build: Callable[[dict[str, Any], Shapes, int | None, nnx.Rngs], Encoder]
    names: Mapping[str, str | Callable[..., str]]
    prefixes: tuple[str, ...]
    top: tuple[str, ...] = ("classifier",)
    ignored: tuple[str, ...] = ()
    config: Mapping[str, Any] = MappingProxyType({})
    bare: str = ""
    model: str = ""
    task: str = "SequenceClassification"
    projection: str = "-"  # of no tensor
    projects: str = ""
    part_of: Whole | None = None

    @property
    def beside(self) -> tuple[str, ...]:
        """How the names begin of what stands beside the base network."""
        return (*self.top, self.projection)


class Inside(NamedTuple):
    """The tensors of a file that are ours, by canonical name, and those that stand beside the base network.

    The values are names in the file: one, or two where a weight is kept as direction and length.
    """

    ours: Mapping[str, tuple[str, ...]]
    beside: tuple[str, ...]


def _inside(names: Iterable[str], family: Family) -> Inside:
    """The names without the prefix of a model with a head, in today's spelling.

    Where some names have the prefix, one without it is of a head, if only of one for another task.

    Raises:
        ValueError: two tensors with one name; which of them counts is not told.
    """
    names = tuple(names)
    prefix = next((p for p in family.prefixes if p and any(name.startswith(p) for name in names)), "")
    beside = tuple(name for name in names if not name.startswith((prefix, *family.beside)))
    ours: dict[str, tuple[str, ...]] = {}
    for name in names:
        if name not in beside:
            short = name.removeprefix(prefix)
            for old, new in OLD.items():
                short = short.removesuffix(old) + new if short.endswith(old) else short
            _put(ours, short, (name,))
    for direction in [name for name in ours if name.endswith(DIRECTION)]:
        stem = direction.removesuffix(DIRECTION)
        if stem + LENGTH in ours:
            _put(ours, stem + ".weight", ours.pop(direction) + ours.pop(stem + LENGTH))
    return Inside(ours, beside)


def _put(ours: dict[str, tuple[str, ...]], name: str, raw: tuple[str, ...]) -> None:
    if name in ours:
        raise ValueError(
            f"the file holds {ours[name][0]} and {raw[0]}, two spellings of one tensor. Remove one of them."
        )
    ours[name] = raw


def canonical_shapes(weights: Weights, family: Family) -> dict[str, tuple[int, ...]]:
    """The shapes by canonical name, weight normalisation counted as the weight it makes."""
    return {name: weights[raw[0]].shape for name, raw in _inside(weights, family).ours.items()}


def without_head(weights: Weights, family: Family) -> Weights:
    """The weights but for those of a head, which a new one is to replace, or which is for another task."""
    ours = _inside(weights, family).ours
    dropped = {part for name, raw in ours.items() if name.startswith(family.top) for part in raw}
    return {name: stored for name, stored in weights.items() if name not in dropped}


def fill(
    encoder: Encoder, weights: Weights, family: Family, dtype: Any, new_classifier: nnx.Rngs | None = None
) -> Encoder:
    """The encoder, built by nnx.eval_shape, with the weights of the checkpoint.

    With random streams in `new_classifier` what the file lacks of the head is drawn.

    Raises:
        ValueError: missing tensors, tensors of another shape or kept as integers, unexpected tensors, with their names.
    """
    graph, state = nnx.split(encoder)
    flat = dict(nnx.to_flat_state(state))
    paths = {theirs: path for path, theirs in _named(flat, family)}
    ours, beside = _inside(weights, family)
    values: dict[str, Any] = {}
    if new_classifier is not None:
        for name, path in sorted(paths.items()):
            if path[0] == "head" and name not in ours:
                draw = INITIAL.get(path[-1], nnx.initializers.zeros)
                values[name] = draw(new_classifier.params(), flat[path].shape, dtype)
    both = {name: raw for name, raw in ours.items() if name in paths}
    shapes = {name: _turned_back_shape(flat[paths[name]].shape, paths[name]) for name in both}
    ignored = [re.compile(pattern) for pattern in family.ignored]
    unknown = [*(name for name in ours if name not in paths), *beside]
    problems = {
        "missing": [name for name in paths if name not in ours and name not in values],
        "of another shape": [
            f"{name}: expected {shapes[name]}, got {weights[raw[0]].shape}"
            for name, raw in both.items()
            if weights[raw[0]].shape != shapes[name]
        ],
        "unexpected": [name for name in unknown if not any(pattern.search(name) for pattern in ignored)],
        "not stored as floats of 16 bits or more, perhaps quantized": [
            f"{name}: {weights[part].type}"
            for name, raw in both.items()
            for part in raw
            if weights[part].type not in FLOATS
        ],
    }
    lines = [f"{len(v)} {what}: {'; '.join(v[:8])}{'; ...' if len(v) > 8 else ''}" for what, v in problems.items() if v]
    if lines:
        kind = encoder.config.get("model_type", "?")
        raise ValueError(
            f"the weights are not those that the configuration (model_type {kind!r}) describes. Tensors "
            + ". Tensors ".join(lines)
            + ". Check config.json, or load with another family=."
        )
    for name, raw in both.items():
        values[name] = _filled(weights, raw, paths[name], flat[paths[name]].shape, dtype)
    for name, value in values.items():
        flat[paths[name]] = flat[paths[name]].replace(value)
    return nnx.merge(graph, nnx.from_flat_state(flat))


def _filled(weights: Weights, names: tuple[str, ...], path: Sequence[Any], shape: tuple[int, ...], dtype: Any) -> Array:
    """A tensor of a file as ours, cast piece by piece into the memory that JAX then takes over."""
    whole = _aligned(shape, jax.dtypes.canonicalize_dtype(dtype))
    as_stored = _turned_back(whole, path)  # a view
    pieces: Iterable[tuple[Any, np.ndarray]] = weights[names[0]].pieces()
    for place, piece in pieces if len(names) == 1 else [(..., _product(weights, *names))]:
        as_stored[place] = piece
    return jnp.asarray(whole)


def _aligned(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An array of no values yet, at an address from which JAX on a CPU needs no copy."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.empty(size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size].view(dtype).reshape(shape)


def _product(weights: Weights, *names: str) -> np.ndarray:
    """A tensor of weight normalisation (Salimans and Kingma 2016), the product of direction and length."""
    direction, length = (weights[name].read().astype(np.float32) for name in names)
    if length.ndim != direction.ndim or any(
        n not in (1, m) for n, m in zip(length.shape, direction.shape, strict=True)
    ):
        raise ValueError(f"{names[1]} has the shape {length.shape}, which is none of lengths for {direction.shape}.")
    return direction * (length / _lengths(direction, tuple(axis for axis, n in enumerate(length.shape) if n == 1)))


def tensors_of(encoder: Encoder, family: Family) -> dict[str, np.ndarray]:
    """The encoder's parameters as tensors of a checkpoint. With a head, the base network's names get its prefix."""
    flat = dict(nnx.to_flat_state(nnx.state(encoder)))
    named = list(_named(flat, family))
    has_head = any(name.startswith(family.beside) for _, name in named)
    prefix = family.prefixes[0] if family.prefixes and has_head else family.bare
    tensors = {}
    for path, name in named:
        tensor = np.asarray(_turned_back(jax.device_get(flat[path][...]), path))
        whole = name if name.startswith(family.beside) else prefix + name
        if "pos_conv_embed.conv" in name and name.endswith(".weight"):  # torch keeps it as direction and length
            stem = whole.removesuffix(".weight") + ".parametrizations.weight.original"
            tensors[stem + "0"] = _lengths(tensor, (0, 1))
            tensors[stem + "1"] = tensor
        else:
            tensors[whole] = tensor
    return tensors


def _named(flat: Mapping[tuple, Any], family: Family) -> Iterator[tuple[tuple, str]]:
    """Each path of our parameters with the checkpoint's name of it."""
    for path in flat:
        numbers = [part for part in path if isinstance(part, int)]
        generic = ["{}" if isinstance(part, int) else str(part) for part in path]
        if ".".join(generic) in family.names:  # a parameter of its own, not of a module
            yield path, _numbered(family.names[".".join(generic)], numbers)
        elif ".".join(generic[:-1]) in family.names:
            name = _numbered(family.names[".".join(generic[:-1])], numbers)
            yield path, f"{name}.{LEAVES.get(generic[-1], generic[-1])}"
        else:
            raise KeyError(f"the table of the family has no name for {'.'.join(generic)}")


def _numbered(name: str | Callable[..., str], numbers: Sequence[int]) -> str:
    return name(*numbers) if callable(name) else name.format(*numbers)


def _lengths(tensor: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """Euclidean lengths, summed in float64: the same to the last bit for any layout, so that saving loses nothing."""
    return np.sqrt(np.square(tensor.astype(np.float64)).sum(axis=axes, keepdims=True)).astype(np.float32)


def _turned_back(tensor: np.ndarray, path: Sequence[Any]) -> np.ndarray:
    """Ours as torch has it, as a view: our kernels have their axes as (..., in, out)."""
    if path[-1] != "kernel" or tensor.ndim < 2:
        return tensor
    last = tensor.ndim - 1
    return tensor.transpose(last, last - 1, *range(last - 1))


def _turned_back_shape(shape: Sequence[int], path: Sequence[Any]) -> tuple[int, ...]:
    return tuple(shape) if path[-1] != "kernel" or len(shape) < 2 else (shape[-1], shape[-2], *shape[:-2])
