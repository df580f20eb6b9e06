"""What `evaluate` scores, whatever it was given: the features of each layer, and the points and heads of some."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Int

from jaxconvex._internal.checks import as_array, shared_length
from jaxconvex._internal.functions import as_program, program_hash
from jaxconvex._internal.kept import array_hash
from jaxconvex._internal.messages import names_apart
from jaxconvex.evaluation.table import left_out_words
from jaxconvex.layers import model_sources
from jaxconvex.layers.activations import Activations
from jaxconvex.layers.model_sources import ModelSource

__all__ = ["LayerSource", "check_columns", "check_source", "open_source", "predicted_labels"]

Whole = tuple[str, Any, Callable[[Any], Array]]  # a layer, what is interpolated there, the rest of the network


class LayerSource(NamedTuple):
    """The layers of the chosen points, each read when it is asked for."""

    names: tuple[str, ...]
    features: Callable[[str], np.ndarray]  # for the graph
    with_heads: tuple[str, ...]  # layers with a Euclidean score
    identities: Callable[
        [Sequence[str]], dict[str, str | None]
    ]  # of these, hashes of all that their Euclidean score depends on; None where nothing tells
    wholes: Callable[[Sequence[str]], Iterator[Whole]]
    outputs: np.ndarray | None  # the model's logits
    left_out: Mapping[str, str] = MappingProxyType({})  # why a layer of a model has no Euclidean score


def check_source(representations: Any, n: int, pool: Any, heads: Mapping[str, Any]) -> None:
    """Raise ValueError for what does not fit n labels or cannot be scored, before anything is read or run."""
    if isinstance(representations, ModelSource):
        if pool is not None or heads:
            raise ValueError(
                "a model source pools and runs on by itself: pass pool= and rest= to model_source, and neither pool= nor "
                "heads= here."
            )
        inputs = representations.inputs
        if not callable(inputs) and shared_length(inputs, "the inputs") != n:
            raise ValueError(
                f"the inputs must hold one point for each of {n} labels; got {shared_length(inputs, 'inputs')}."
            )
        return
    layers = _as_mapping(representations)
    if not layers:
        raise ValueError("representations must hold at least one layer; got an empty mapping.")
    names_apart(layers, "layers")
    unknown = [name for name in heads if name not in layers]
    if unknown:
        raise ValueError(f"heads names {unknown[0]!r}, which is no layer; the layers are {list(layers)}.")
    for name, shape in _shapes(layers):
        if len(shape) < 1 or shape[0] != n:
            raise ValueError(f"layer {name!r} must have one row for each of {n} labels; got shape {shape}.")
        if len(shape) != 2 and pool is None:
            raise ValueError(
                f"layer {name!r} must have shape (n, d); got {shape}. Name how to pool the tokens, pool='mean' or 'cls'."
            )


def open_source(
    representations: Any,
    rows: Int[np.ndarray, " n"],
    *,
    heads: Mapping[str, Callable[[Array], Array]],
    mesh: Mesh | None = None,
    progress: bool = True,
) -> LayerSource:
    """The layers of these points. A model runs here once, for the pooled features of all layers."""
    if isinstance(representations, ModelSource):
        return _of_model(representations, rows, mesh, progress)
    layers = _as_mapping(representations)

    def read(name: str) -> np.ndarray:
        array = np.asarray(as_array(layers[name], f"layer {name!r}"))
        return array if len(rows) == len(array) else array[rows]

    def identities(names: Sequence[str]) -> dict[str, str | None]:
        hashes: dict[str, str | None] = {}
        for name in names:
            array = read(name)
            head = program_hash(as_program(heads[name], array[:1]))
            hashes[name] = None if head is None else f"{array_hash(array)}-{head}"
        return hashes

    def wholes(names: Sequence[str]) -> Iterator[Whole]:
        for name in names:
            yield name, read(name), heads[name]

    outputs = layers.outputs if isinstance(layers, Activations) else None
    outputs = None if outputs is None else outputs[rows]
    return LayerSource(
        tuple(layers), read, tuple(name for name in layers if name in heads), identities, wholes, outputs
    )


def _of_model(source: ModelSource, rows: np.ndarray, mesh: Any, progress: bool) -> LayerSource:
    features = model_sources.pooled_features(source, rows, mesh=mesh, progress=progress)
    outputs, (heads, left_out) = features.outputs, model_sources.heads_of(source, features)
    if left_out and not source.asked:
        warnings.warn(left_out_words(left_out) + ".", stacklevel=5)  # of evaluate

    def of(names: Iterable[str]) -> dict[str, Any]:
        return {name: heads[name] for name in names}

    def wholes(names: Sequence[str]) -> Iterator[Whole]:
        return model_sources.whole_layers(source, rows, of(names), np.asarray(outputs), mesh=mesh, progress=progress)

    def identities(names: Sequence[str]) -> dict[str, str | None]:
        return model_sources.identities(source, rows, of(names))

    return LayerSource(tuple(features), features.__getitem__, tuple(heads), identities, wholes, outputs, left_out)


def _as_mapping(representations: Any) -> Mapping[str, Any]:
    return representations if isinstance(representations, Mapping) else {"representation": representations}


def _shapes(layers: Mapping[str, Any]) -> Iterable[tuple[str, tuple[int, ...]]]:
    """Of an open folder without reading it; other mappings are read one array at a time."""
    known = getattr(layers, "shapes", None)
    return (
        known.items()
        if isinstance(known, Mapping)
        else ((name, as_array(layers[name], f"layer {name!r}").shape) for name in layers)
    )


def check_columns(columns: Sequence[int], outputs: np.ndarray | None) -> None:
    """Raise ValueError for a class that is no column of the model's logits, where these are known."""
    if outputs is not None and outputs.ndim == 2 and max(columns) >= outputs.shape[1]:
        raise ValueError(
            f"the model has logits for {outputs.shape[1]} classes, and the labels need column {max(columns)}. Integer "
            "labels count columns from 0; for others pass classes=[...] in the order of the logits (or rest=False)."
        )


def predicted_labels(outputs: np.ndarray | None, classes: Sequence[int | str] | None) -> np.ndarray:
    """The class with the largest logit, by name or, without names, as a column."""
    if outputs is None or outputs.ndim != 2:
        got = "it returns none" if outputs is None else f"its outputs have shape {outputs.shape}"
        raise ValueError(
            f"predictions='model' takes the labels from a model's logits (n, c); {got}. Pass a model source or activations "
            "whose model returns (logits, layers)."
        )
    columns = outputs.argmax(axis=1)
    if classes is None:
        return columns
    if columns.max() >= len(classes):
        raise ValueError(
            f"classes must name all {outputs.shape[1]} columns of the logits, since column {columns.max()} is the largest "
            f"of a point; got {len(classes)}."
        )
    return np.array(list(classes))[columns]
