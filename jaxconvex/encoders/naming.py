"""From the parameters of an encoder to the tensors of a checkpoint, and back.

A family has a table: our path of a module -> the checkpoint's name of it, with {} for the number of a block:

    "blocks.{}.attention.query": "encoder.layer.{}.attention.self.query"

What the parameters of a module are called follows from their kind: `kernel`, `scale` and `embedding` are `weight` there,
a dense kernel is transposed, a convolution's has its axes the other way round.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxconvex.encoders.checkpoints import Weights
from jaxconvex.encoders.encoder import Encoder

__all__ = ["Family", "Shapes", "canonical_shapes", "fill", "tensors_of"]

Shapes = Mapping[str, tuple[int, ...]]

LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight", "mean": "running_mean", "var": "running_var"}
INITIAL = {"kernel": nnx.initializers.normal(0.02), "scale": nnx.initializers.ones}
NORMALISED = re.compile(r"(.*)\.(weight_[gv]|parametrizations\.weight\.original[01])")


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
    """

    build: Callable[[dict[str, Any], Shapes, int | None, nnx.Rngs], Encoder]
    names: Mapping[str, str | Callable[..., str]]
    prefixes: tuple[str, ...]
    top: tuple[str, ...] = ("classifier",)
    ignored: tuple[str, ...] = ()
    config: Mapping[str, Any] = MappingProxyType({})
    bare: str = ""


def canonical(name: str, family: Family) -> str:
    """The name without the prefix of a model with a head, and with today's word for weights of old normalisations."""
    for prefix in family.prefixes:
        if prefix and name.startswith(prefix):
            name = name.removeprefix(prefix)
            break
    if name.endswith((".gamma", ".beta")):
        name = (
            name.removesuffix(".gamma") + ".weight" if name.endswith("gamma") else name.removesuffix(".beta") + ".bias"
        )
    return name


def canonical_shapes(shapes: Shapes, family: Family) -> dict[str, tuple[int, ...]]:
    """The tensors of a file by canonical name, weight normalisation counted as the weight it makes."""
    found = {}
    for name, shape in shapes.items():
        name = canonical(name, family)
        parted = NORMALISED.fullmatch(name)
        if parted is None:
            found[name] = shape
        elif parted[2].endswith(("_v", "1")):
            found[f"{parted[1]}.weight"] = shape
    return found


def fill(
    encoder: Encoder, weights: Weights, family: Family, dtype: Any, new_classifier: nnx.Rngs | None = None
) -> Encoder:
    """The encoder, built by nnx.eval_shape, with the weights of the checkpoint.

    With random streams in `new_classifier` the classifier is drawn anew, whatever the file holds of one, and so is what
    the file lacks of the head before it.

    Raises:
        ValueError: missing tensors, tensors of another shape, unexpected tensors, with their names.
    """
    graph, state = nnx.split(encoder)
    flat = dict(nnx.to_flat_state(state))
    wanted = {theirs: path for path, theirs in _named(flat, family)}
    ignored = [re.compile(pattern) for pattern in family.ignored]
    found: dict[str, Any] = {}
    if new_classifier is not None:
        inside = canonical_shapes(weights.shapes, family)
        for name, path in sorted(wanted.items()):
            if path[0] == "head" and (name.startswith(family.top) or name not in inside):
                draw = INITIAL.get(path[-1], nnx.initializers.zeros)
                found[name] = draw(new_classifier.params(), flat[path].shape, dtype)
    unexpected: list[str] = []
    wrong: list[str] = []
    for name, tensor in _normalised(weights, family):
        if new_classifier is not None and name.startswith(family.top):
            continue
        if name not in wanted:
            if not any(pattern.search(name) for pattern in ignored):
                unexpected.append(name)
            continue
        variable = flat[wanted[name]]
        turned = _turned(tensor, wanted[name])
        if turned.shape != variable.shape:
            wrong.append(f"{name}: expected {_turned_back_shape(variable.shape, wanted[name])}, got {tensor.shape}")
            continue
        found[name] = jnp.asarray(turned, dtype)
    missing = [name for name in wanted if name not in found and not any(w.startswith(f"{name}:") for w in wrong)]
    problems = [
        f"{len(names)} {what}: {'; '.join(names[:8])}{'; ...' if len(names) > 8 else ''}"
        for what, names in (("missing", missing), ("of another shape", wrong), ("unexpected", unexpected))
        if names
    ]
    if problems:
        kind = encoder.config.get("model_type", "?")
        raise ValueError(
            f"the weights are not those that the configuration (model_type {kind!r}) describes. Tensors "
            + ". Tensors ".join(problems)
            + ". Check config.json, or load with another family=."
        )
    for name, value in found.items():
        flat[wanted[name]] = flat[wanted[name]].replace(value)
    return nnx.merge(graph, nnx.from_flat_state(flat))


def tensors_of(encoder: Encoder, family: Family) -> dict[str, np.ndarray]:
    """The encoder's parameters as tensors of a checkpoint. With a classifier, the base network's names get its prefix."""
    flat = dict(nnx.to_flat_state(nnx.state(encoder)))
    prefix = family.prefixes[0] if family.prefixes and encoder.head.classifier is not None else family.bare
    tensors = {}
    for path, name in _named(flat, family):
        tensor = np.asarray(_turned_back(jax.device_get(flat[path][...]), path))
        whole = name if name.startswith(family.top) else prefix + name
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


def _normalised(weights: Weights, family: Family) -> Iterator[tuple[str, np.ndarray]]:
    """The tensors by canonical name; of weight normalisation (Salimans and Kingma 2016) the product."""
    halves: dict[str, dict[str, np.ndarray]] = {}
    for raw, tensor in weights.read():
        name = canonical(raw, family)
        parted = NORMALISED.fullmatch(name)
        if parted is None:
            yield name, tensor
            continue
        pair = halves.setdefault(parted[1], {})
        pair["direction" if parted[2].endswith(("_v", "1")) else "length"] = tensor.astype(np.float32)
        if len(pair) == 2:
            direction, length = pair["direction"], pair["length"]
            axes = tuple(axis for axis in range(direction.ndim) if length.shape[axis] == 1)
            yield f"{parted[1]}.weight", direction * (length / _lengths(direction, axes))


def _lengths(tensor: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """Euclidean lengths, summed in float64: the same to the last bit for any layout, so that saving loses nothing."""
    return np.sqrt(np.square(tensor.astype(np.float64)).sum(axis=axes, keepdims=True)).astype(np.float32)


def _turned(tensor: np.ndarray, path: Sequence[Any]) -> np.ndarray:
    """A torch tensor as ours: kernels have their axes as (..., in, out)."""
    if path[-1] != "kernel" or tensor.ndim < 2:
        return tensor
    return tensor.transpose(*range(2, tensor.ndim), 1, 0)


def _turned_back(tensor: np.ndarray, path: Sequence[Any]) -> np.ndarray:
    if path[-1] != "kernel" or tensor.ndim < 2:
        return tensor
    last = tensor.ndim - 1
    return tensor.transpose(last, last - 1, *range(last - 1))


def _turned_back_shape(shape: Sequence[int], path: Sequence[Any]) -> tuple[int, ...]:
    return tuple(shape) if path[-1] != "kernel" or len(shape) < 2 else (shape[-1], shape[-2], *shape[:-2])
