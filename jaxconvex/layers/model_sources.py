"""A model and its inputs as what `evaluate` scores: pooled features of all layers, whole activations of a few at a time."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Int

from jaxconvex._internal.checks import positive_integer
from jaxconvex._internal.functions import as_program, call_with, program_hash
from jaxconvex.layers.activations import Activations
from jaxconvex.layers.batches import as_tree, batch_hash, chosen_batches, take
from jaxconvex.layers.extraction import extract
from jaxconvex.layers.layer_reading import OUTPUTS, Pool, read_layers
from jaxconvex.layers.layered_model import LayeredModel, as_layered, of_arrays, read_module
from jaxconvex.layers.rest import rest_of
from jaxconvex.layers.selection import Logits
from jaxconvex.layers.traces import NoWayOn

__all__ = ["ModelSource", "model_source"]

NOT_WANTED = "rest=False leaves it out"
CHECKED = 8  # points whose logits by the rest of the network are compared with the model's


class ModelSource(NamedTuple):
    """A model, its inputs, and how to run on from its layers: see `model_source`."""

    model: Callable[..., Any]  # from a batch to (outputs, layers)
    inputs: Any
    layers: tuple[str, ...] | None
    pool: Pool
    mask: Any  # as for extract
    batch_size: int
    memory: float
    folder: Path | None
    rest: Callable[[str, Any], Callable[[Any], Array]] | None  # (layer, a batch of one) -> the rest of the network
    sides: Callable[[Any], tuple[Any, ...]]  # from a batch to what is interpolated beside an activation
    logits: Logits = None  # as for extract
    left_out: str = ""  # why there is no way to run on, where rest is None

    @property
    def asked(self) -> bool:
        """Whether the user left the Euclidean score out."""
        return self.left_out == NOT_WANTED


def model_source(
    model: Any,
    inputs: Any,
    *,
    layers: str | Sequence[str] | None = None,
    pool: Pool = "mean",
    mask: str | int | Callable[..., Array] | None = None,
    rest: Callable[[str], Callable[[Any], Array]] | bool = True,
    logits: Logits = None,
    batch_size: int = 32,
    memory: float = 2e9,
    folder: str | Path | None = None,
) -> ModelSource:
    """A source of layers for `evaluate`: it runs the model itself, and never holds all activations of all layers.

    The graph score takes pooled features of all layers, from one pass. The Euclidean score takes whole activations: a pass
    for as many layers as fit in memory, and the rest of the network from there.

    Args:
        model: an encoder of `jaxconvex.encoders`; what `from_nnx` or `from_linen` gives; an nnx.Module; or a function from
            a batch to a mapping layer -> activation, or to a pair of outputs and such a mapping (see `extract`). A module or
            a function is taken with the weights that it holds when `evaluate` is called, what `from_nnx` gave with its own,
            and with the keywords that it was given (`kwargs=`), as also functools.partial(read, train=False).
        inputs: whole inputs, an array or a tuple or dict of arrays, one entry a point (a memory-mapped one will do); or a
            function from row numbers to a batch of them, such as lambda rows: preprocess([files[i] for i in rows]), where
            preprocess is whatever gives arrays: that of an encoder, or a processor or tokenizer of transformers.
        layers: their names, in this order; by default all.
        pool: how a layer becomes one vector a point for the graph: see `extract`.
        mask: the valid tokens: see `extract`. Encoders need none: their second input is the mask. The name or index of an
            input makes that an input which the rest of the network gets for every point, too: between two points the tokens
            of either are valid.
        rest: for a function of one's own, rest(layer) is the rest of the network, (b, ...) -> (b, c) logits, or with a mask
            ((b, ...), (b, t)) -> (b, c); True finds it for all other models; False leaves the Euclidean score out.
        logits: which part of the model's outputs are the logits (n, c): see `extract`.
        batch_size: points run at once.
        memory: bytes of whole activations that are held at once: a pass through the model is made for as many layers as they
            hold beside the copy of one that the device works on. A batch of inputs, and a batch of points between two
            activations (on a CPU 16 MB), come beside, with what the network makes of them. Fewer points (max_points of
            evaluate) need less.
        folder: where pooled features and outputs are kept, so that a call goes on after a stop: see `extract`.

    Without logits (n, c), or a way to run on, there is the graph score only: a warning and the report say why.
    `evaluate(..., predictions="model")` takes predicted labels from the logits, `cache=` keeps the scores of finished
    layers.

    >>> x = np.random.default_rng(0).normal(size=(30, 4)) + np.repeat(np.eye(3, 4) * 9, 10, axis=0)
    >>> heads = {"input": lambda h: h[:, :3], "twice": lambda h: h[:, :3] / 2}
    >>> source = model_source(lambda x: (x[:, :3], {"input": x, "twice": 2 * x}), x, rest=heads.get)
    >>> from jaxconvex import evaluate
    >>> report = evaluate(source, np.repeat([0, 1, 2], 10), k=5, progress=False)
    >>> [(row.kind, row.layer, round(row.score, 2)) for row in report.rows if row.level == "macro"]
    [('graph', 'input', 1.0), ('euclidean', 'input', 1.0), ('graph', 'twice', 1.0), ('euclidean', 'twice', 1.0)]
    """
    positive_integer(batch_size, "batch_size")
    names = (layers,) if isinstance(layers, str) else None if layers is None else tuple(layers)
    common: dict[str, Any] = {
        "pool": pool,
        "batch_size": batch_size,
        "memory": memory,
        "folder": None if folder is None else Path(folder),
        "logits": logits,
    }
    model, inputs = of_arrays(model), as_tree(inputs)
    left_out = "" if rest else NOT_WANTED
    if all(hasattr(model, method) for method in ("hidden_states", "block", "head", "sequence_mask")):
        tokens = partial(_encoder_mask, model) if mask is None else mask
        onward = partial(_rest_of_encoder, model) if rest else None
        read = partial(_read_encoder, model)
        return ModelSource(
            read, inputs, names, mask=tokens, rest=onward, sides=partial(_tokens, tokens), left_out=left_out, **common
        )
    read = model
    if _is_module(model):
        read, names = partial(read_module, model, layers), None
    entry = mask if isinstance(mask, (str, int)) else None
    onward = None
    if callable(rest):
        onward = partial(_rest_by_name, rest)
    elif rest and (isinstance(model, LayeredModel) or read is not model):
        onward = partial(_rest_of_layered, model, entry, logits)
    elif rest:
        left_out = "a function of one's own needs rest=, a function from a layer's name to the rest of the network"
    sides = partial(_entry, entry)
    return ModelSource(read, inputs, names, mask=mask, rest=onward, sides=sides, left_out=left_out, **common)


# What a source gives --------------------------------------------------------------------------------------------------


def pooled_features(
    source: ModelSource, rows: Int[np.ndarray, " n"], *, mesh: Mesh | None = None, progress: bool = True
) -> Activations:
    """The pooled features of all layers for these points, and the model's outputs, from one pass.

    Raises:
        ValueError: one layer of whole activations does not fit the memory of the source.
    """
    _check_memory(source, len(rows))
    return extract(
        source.model,
        chosen_batches(source.inputs, rows, source.batch_size),
        layers=source.layers,
        pool=source.pool,
        mask=None if source.pool in (None, "cls") else source.mask,
        folder=source.folder,
        mesh=mesh,
        progress=progress,
        logits=source.logits,
    )


def heads_of(source: ModelSource, features: Activations) -> tuple[dict[str, Callable[[Any], Array]], dict[str, str]]:
    """The rest of the network from each layer, and why it is left out from the others.

    It is where it gives no logits (n, c) or there is no way to run on.
    """
    shape = features.output_shape
    if source.rest is None:
        return {}, dict.fromkeys(features, source.left_out)
    if shape is None or len(shape) != 2:
        got = "are no array of one entry a point" if shape is None else f"have shape {shape}"
        reason = f"the model's outputs {got}, and not that of logits (n, c); name their part with logits="
        return {}, dict.fromkeys(features, reason)
    example = _example(source)
    heads, left_out = {}, {}
    for name in features:
        try:
            heads[name] = source.rest(name, example)
        except NoWayOn as error:
            left_out[name] = str(error)
    return heads, left_out


def identities(
    source: ModelSource, rows: Int[np.ndarray, " n"], heads: Mapping[str, Callable[[Any], Array]]
) -> dict[str, str | None]:
    """For each layer a hash of all that its activations and the rest of the network depend on: inputs, weights, code.

    None where they call back into Python.
    """
    digests = [batch_hash(batch) for batch in chosen_batches(source.inputs, rows, source.batch_size).stream]
    example = _example(source)
    known: dict[int, tuple[Any, str]] = {}
    found: dict[str, str | None] = {}
    for name, head in heads.items():
        layer = as_program(partial(_interpolated, source, name), example)
        programs = layer, as_program(head, jax.eval_shape(layer, example))
        hashes = [program_hash(program, known) for program in programs]
        found[name] = None if None in hashes else "-".join([name, *filter(None, hashes), *digests])
    return found


def whole_layers(
    source: ModelSource,
    rows: Int[np.ndarray, " n"],
    heads: Mapping[str, Callable[[Any], Array]],
    outputs: np.ndarray,
    *,
    mesh: Mesh | None = None,
    progress: bool = True,
) -> Iterator[tuple[str, Any, Callable[[Any], Array]]]:
    """Layer after layer: its name, what is interpolated there, and the rest of the network; a pass for each group.

    A group is as many layers as source.memory bytes hold beside the largest, which the device may have a copy of.
    """
    if not heads:
        return
    batches = partial(chosen_batches, source.inputs, rows, source.batch_size)
    options: dict[str, Any] = {"mesh": mesh, "progress": progress}
    example = _example(source)
    sides = jax.eval_shape(source.sides, example)
    # The masks are small beside the activations, and take no pass through the network.
    beside = extract(partial(_named_sides, source.sides), batches(), **options) if sides else {}
    sizes = _bytes_of(jax.eval_shape(partial(_layers, source, tuple(heads)), example), len(rows))
    for group in grouped(sizes, source.memory - max(sizes.values())):
        layers = dict(extract(source.model, batches(), layers=group, outputs=False, **options))
        for name in group:
            points = _beside(layers.pop(name), tuple(beside.values()))
            _check_rest(name, heads[name], points, outputs)
            yield name, points, heads[name]
            del points  # before the next pass


def _bytes_of(layers: Mapping[str, Any], points: int) -> dict[str, int]:
    """What each layer takes for so many points, given its shape for one."""
    return {name: points * int(np.prod(one.shape[1:])) * one.dtype.itemsize for name, one in layers.items()}


def _check_memory(source: ModelSource, points: int) -> None:
    if source.rest is None:
        return
    read = partial(read_layers, (source.model, None), names=source.layers, logits=source.logits)
    layers = jax.eval_shape(read, _example(source))
    outputs = layers.pop(OUTPUTS, None)
    sizes = _bytes_of(layers, points)
    largest = max(sizes, key=lambda name: sizes[name])
    if outputs is not None and outputs.ndim == 2 and 2 * sizes[largest] > source.memory:
        raise ValueError(
            f"the Euclidean score takes whole layers, and {largest!r} with its copy on the device has "
            f"{2 * sizes[largest] / 1e9:.3g} GB for {points} points; memory={source.memory:g} allows "
            f"{source.memory / 1e9:.3g} GB. Allow that much, score fewer points (max_points= of evaluate), or leave this "
            "score out (rest=False)."
        )


def grouped(sizes: dict[str, int], most: float) -> list[list[str]]:
    """The names in order, in groups whose sizes add up to no more than `most`, or are one.

    >>> grouped({"a": 4, "b": 5, "c": 20, "d": 1}, 10)
    [['a', 'b'], ['c'], ['d']]
    """
    groups: list[list[str]] = []
    held = 0.0
    for name, size in sizes.items():
        if groups and held + size <= most:
            groups[-1].append(name)
            held += size
        else:
            groups.append([name])
            held = size
    return groups


def _example(source: ModelSource) -> Any:
    """A batch of the first point."""
    return jax.tree.map(jnp.asarray, chosen_batches(source.inputs, np.arange(1), 1).first)


def _check_rest(name: str, predict: Callable, points: Any, outputs: np.ndarray) -> None:
    """Raise ValueError if running on from the activations themselves does not give the model's own logits."""
    few = take(points, slice(0, CHECKED))
    wanted = outputs[:CHECKED].astype(np.float32)
    found = np.asarray(predict(jax.tree.map(jnp.asarray, few))).astype(np.float32)
    if found.shape != wanted.shape:
        raise ValueError(
            f"the rest of the network from layer {name!r} must give the model's logits, {wanted.shape} for "
            f"{len(wanted)} points; got {found.shape}."
        )
    apart = np.max(np.abs(found - wanted)) / max(1e-6, np.ptp(wanted))
    if apart > 0.05:
        raise ValueError(
            f"the rest of the network from layer {name!r} gives other logits than the model for the same points (they "
            f"differ by {apart:.0%} of their range). If it needs an input of each point, as a mask, name that as mask=; "
            "if rest= is a function of yours, see that it begins after this layer."
        )


# The kinds of models --------------------------------------------------------------------------------------------------


def _layers(source: ModelSource, names: tuple[str, ...], batch: Any) -> OrderedDict[str, Array]:
    """The whole layers of these names."""
    return read_layers((source.model, None), batch, names=names, outputs=False)


def _interpolated(source: ModelSource, name: str, batch: Any) -> Any:
    """What is interpolated at a layer."""
    return _beside(_layers(source, (name,), batch)[name], source.sides(batch))


def _beside(activation: Any, sides: tuple[Any, ...]) -> Any:
    return (activation, *sides) if sides else activation


def _named_sides(sides: Callable[..., Any], *batch: Any, **more: Any) -> dict[str, Array]:
    return {str(i): side for i, side in enumerate(sides(more or batch))}


def _entry(entry: str | int | None, batch: Any) -> tuple[Any, ...]:
    return () if entry is None else (batch[entry],)


def _tokens(mask: Any, batch: Any) -> tuple[Any, ...]:
    found = call_with(mask, batch) if callable(mask) else batch[mask]
    return () if found is None else (found,)


def _is_module(model: Any) -> bool:
    """Whether it is an nnx.Module; flax is not imported to find out."""
    return any(kind.__module__.startswith("flax.nnx") and kind.__name__ == "Module" for kind in type(model).__mro__)


def _rest_by_name(rest: Callable[[str], Callable], name: str, example: Any) -> Callable[[Any], Array]:
    return rest(name)


def _rest_of_layered(
    model: Any, entry: str | int | None, logits: Logits, name: str, example: Any
) -> Callable[[Any], Array]:
    side = () if entry is None else (entry,)
    return rest_of(of_arrays(as_layered(model)), name, example=example, side=side, logits=logits)


def _read_encoder(encoder: Any, *inputs: Any, **more: Any) -> tuple[Array | None, OrderedDict[str, Array]]:
    states = encoder.hidden_states(*inputs, **more)
    logits = encoder.head(next(reversed(states.values())), encoder.sequence_mask(*inputs, **more))
    # Without a classifier the head gives tokens, (b, t, d), or in convolutional encoders pooled features, (b, p).
    headless = logits.ndim != 2 or getattr(encoder.head, "classifier", True) is None
    return (None if headless else logits), states


def _encoder_mask(encoder: Any, *inputs: Any, **more: Any) -> Array | None:
    return encoder.sequence_mask(*inputs, **more)


def _rest_of_encoder(encoder: Any, name: str, example: Any) -> Callable[[Any], Array]:
    names = list(jax.eval_shape(partial(call_with, partial(_read_encoder, encoder)), example)[1])
    masked = jax.eval_shape(partial(call_with, partial(_encoder_mask, encoder)), example) is not None
    start = names.index(name)

    def rest(points: Any) -> Array:
        h, mask = points if masked else (points, None)
        side = {**call_with(encoder.side, example), "mask": None if mask is None else mask > 0}
        for i in range(start, len(encoder.blocks)):
            h = encoder.block(i, h, **side)
        return encoder.head(h, side["mask"])

    return rest
