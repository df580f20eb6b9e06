"""Representations: layers, labels and predictions of the same points, read from a user's files."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxconvex._internal.messages import listed
from jaxconvex._internal.reading import Source
from jaxconvex.cli.features import is_id, layers_of_columns, matching, natural_order, reasons
from jaxconvex.cli.labels import LABEL_NAMES, columns_of, labeling_of, lists_of_labels, read_labels, words_of
from jaxconvex.cli.sources import UNNAMED, is_numeric, open_source
from jaxconvex.evaluation.label_values import is_overlapping

__all__ = ["LABEL_NAMES", "Representations", "natural_order", "read_representations"]


class Representations(NamedTuple):
    """What a file holds: arrays by layer, in order; labels by labeling; predicted labels; names that were left out."""

    layers: dict[str, np.ndarray]  # each [n d], or [n tokens d] to be pooled
    labels: dict[str, np.ndarray]  # each [n], integers or text, or tuples of them; or [n m], true and false
    predictions: np.ndarray | None  # [n]
    left_out: tuple[str, ...]  # arrays and columns that belong to no layer
    notes: tuple[str, ...] = ()  # what was decided about columns and labels, a line each
    groups: np.ndarray | None = None  # [n], the same for points that were sampled together
    names: np.ndarray | None = None  # [n], what points are called
    parents: tuple[str, ...] = ()  # labelings that are levels above the first


def read_representations(
    path: str | os.PathLike[str],
    *,
    labels: Sequence[str | os.PathLike[str]] = (),
    separator: str | None = None,
    parents: Sequence[str | os.PathLike[str]] = (),
    predictions: str | os.PathLike[str] | None = None,
    groups: str | os.PathLike[str] | None = None,
    names: str | os.PathLike[str] | None = None,
    layers: Sequence[str] = (),
    skip: Sequence[str] = (),
    axis: int | None = None,
    pool: str | None = None,
) -> Representations:
    """The layers, labels and predictions in a file: every array beside the labels is a layer.

    Args:
        path: an .npz, .safetensors, .parquet, .csv or .npy file, or a folder that `extract` wrote. In a table (parquet,
            csv) a column of lists is a layer, and the columns "NAME/0", "NAME/1", ... are the layer NAME; where there
            are none of either, the numeric columns together are one layer, but those that are probably no features (ids,
            row numbers, constants: see `layers_of_columns`). Text, columns without a name and single values are left
            out. `notes` says what was taken and what not.
        labels: names of arrays (columns) in the file, or paths of other files: .npy; .txt with one label a line; .csv
            with a header; or any format of `path` with one array. None named takes the first there is of "labels",
            "label", "targets", "target", "y". Integers or text; booleans become text. In csv and txt, labels are the text
            that stands there ("NA" too), and integers only where all are written like integers (not "007"). A point may
            have several labels in a column of lists, in an array (n, m) of 1 and 0, and in columns of 1 and 0 that a name
            with wildcards stands for ("genre_*").
        separator: text between two labels of a point that has several.
        parents: labelings that are levels above the first, from fine to coarse; names or paths as above.
        predictions: the predicted labels, a name or a path as above.
        groups: what says which points were sampled together (speaker, text, video), a name or a path as above.
        names: what the points are called (ids, texts, names of files), a name or a path as above.
        layers: take only these layers, in this order; names may have the wildcards * and ?. Of a table of one layer:
            these columns.
        skip: leave out these arrays or columns; wildcards as above.
        axis: the axis that counts layers in arrays such as (n, layers, d), which become the layers "NAME 0",
            "NAME 1", ...; arrays with two axes stay whole.
        pool: leave arrays (n, tokens, d) as they are, since `evaluate` will pool them; None refuses them.

    Layers come in the order of the file, but names that differ only in numbers in natural order (layer 2 before layer
    10). The arrays keep their type: integers, float16 and bfloat16 are computed in float32 later on.

    Raises ValueError, naming file and array, for a file that is empty, cut short or of an unknown kind, a missing name,
    Python objects, arrays of a wrong rank, lengths that differ, labels that are floats or missing; OSError for a file
    that cannot be read; ModuleNotFoundError for a format whose reader is not installed.

    >>> import tempfile
    >>> path = f"{tempfile.mkdtemp()}/points.npz"
    >>> np.savez(path, layer_10=np.zeros((4, 2)), layer_2=np.ones((4, 3)), label=np.array(["a", "a", "b", "b"]))
    >>> data = read_representations(path)
    >>> list(data.layers), list(data.labels)
    (['layer_2', 'layer_10'], ['label'])
    """
    source = open_source(path)
    skipped = set(matching(source.names, skip, str(path)))
    there = [name for name in source.names if name not in skipped]
    label_names = [os.fspath(name) for name in labels] or [name for name in LABEL_NAMES if name in there][:1]
    if not label_names:
        raise ValueError(
            f"the labels of {path} must be named (--labels NAME, or --labels FILE), since no array in it is called "
            f"{', '.join(map(repr, LABEL_NAMES))}; it has {listed(there)}."
        )
    above = [os.fspath(name) for name in parents]
    label_names += [name for name in above if name not in label_names]
    by_labeling = {labeling_of(name, there): lists_of_labels(source, there, name, separator) for name in label_names}
    if len(by_labeling) < len(label_names):
        raise ValueError(f"each labeling must be named once, and by a name of its own; got {listed(label_names)}.")
    others = {
        key: os.fspath(name)
        for key, name in (("predictions", predictions), ("groups", groups), ("names", names))
        if name is not None
    }
    if separator is not None and not any(map(is_overlapping, by_labeling.values())):
        raise ValueError(f"no labels of {path} hold the separator {separator!r}; leave --separator out.")
    beside = {key: read_labels(source, there, name) for key, name in others.items()}
    told = {*label_names, *others.values(), *(column for name in label_names for column in columns_of(name, there))}
    rest = [name for name in there if name not in told]
    arrays, left_out, features = _layers(source, rest, layers)
    arrays = _split(arrays, axis, source.path)
    by_name = layers and not features
    kept = matching(tuple(arrays), layers, str(source.path)) if by_name else natural_order(arrays)
    arrays = {name: _layer(arrays[name], name, source.path, pool) for name in kept}
    named = by_labeling | {key: beside[key] for key in ("predictions",) if key in beside}
    _check_lengths(arrays, named | beside, source.path)
    notes = [*source.notes, *words_of(named)]
    if left_out:
        notes.insert(0, f"left out are {reasons(left_out)}")
    if features:
        notes.insert(0, f"features are {listed(features)}; --layer NAME takes a column, --skip NAME leaves it out")
    predicted, together, called = (beside.get(key) for key in ("predictions", "groups", "names"))
    return Representations(arrays, by_labeling, predicted, tuple(left_out), tuple(notes), together, called,
                           tuple(labeling_of(name, there) for name in above))  # fmt: skip


# Layers ---------------------------------------------------------------------------------------------------------------


def _layers(
    source: Source, names: Sequence[str], layers: Sequence[str]
) -> tuple[dict[str, np.ndarray], dict[str, str], list[str]]:
    """The arrays that may be layers, what is left out and why, and which columns are features where that was decided."""
    arrays = {name: source.read(name) for name in _asked(names, layers)}
    if source.table:
        members, left_out, grouped = layers_of_columns(arrays, layers, str(source.path))
        features = [] if grouped else members.get(UNNAMED, [])
        return (
            {layer: _stacked([arrays[name] for name in group]) for layer, group in members.items()},
            left_out,
            features,
        )
    left_out = {name: "a single value" for name, array in arrays.items() if array.ndim == 0 and name not in layers}
    for name, array in arrays.items():
        if not layers and array.ndim == 2 and array.shape[1] == 1 and is_numeric(array) and is_id(array):
            left_out[name] = "whole numbers, each once: an id?"
    return {name: array for name, array in arrays.items() if name not in left_out}, left_out, []


def _asked(names: Sequence[str], layers: Sequence[str]) -> Sequence[str]:
    """The names of which the layers may be made; all where that is not clear. What is not asked for is not read."""
    matched: dict[str, None] = {}
    for layer in layers:
        # "h 3" may be a part of the array "h", and "h" may be made of the columns "h/0", "h/1", ...
        patterns = (layer, f"{layer}/*", re.sub(r" [\d?*]+$", "", layer))
        asked = [name for name in names if name == layer or any(fnmatchcase(name, pattern) for pattern in patterns)]
        if not asked:
            return names
        matched.update(dict.fromkeys(asked))
    return [name for name in names if name in matched] if layers else names


def _stacked(columns: Sequence[np.ndarray]) -> np.ndarray:
    return columns[0] if columns[0].ndim > 1 else np.stack(columns, axis=1)


def _split(arrays: dict[str, np.ndarray], axis: int | None, path: Path) -> dict[str, np.ndarray]:
    """The arrays, those of three and more axes split along the axis that counts layers."""
    if axis is None:
        return arrays
    if not any(array.ndim > 2 for array in arrays.values()):
        shapes = ", ".join(f"{name!r} {array.shape}" for name, array in arrays.items())
        raise ValueError(f"--axis splits arrays such as (n, layers, d); {path} has none, but {shapes or 'no layer'}.")
    split: dict[str, np.ndarray] = {}
    for name, array in arrays.items():
        if array.ndim <= 2:
            split[name] = array
            continue
        if not -array.ndim <= axis < array.ndim:
            raise ValueError(f"--axis must be an axis of {name!r} in {path}, of shape {array.shape}; got {axis}.")
        parts = {f"{name} {index}": layer for index, layer in enumerate(np.moveaxis(array, axis, 0))}
        twice = [part for part in parts if part in arrays]
        if twice:
            raise ValueError(
                f"{path} has {twice[0]!r}, as a part of {name!r} would be called. Rename one, or --skip one."
            )
        split |= parts
    return split


def _layer(array: np.ndarray, name: str, path: Path, pool: str | None) -> np.ndarray:
    """The array, if it can be a layer. Raises ValueError that tells how it could be."""
    where = f"{name!r} in {path}"
    if not is_numeric(array):
        wide = " Save it as float64, which JAX knows." if array.dtype.kind == "f" else ""
        raise ValueError(
            f"{where} must hold real numbers to be a layer; got type {array.dtype}.{wide} If it holds labels, say "
            f"--labels {name} (or --predictions {name}); otherwise --skip {name}."
        )
    if array.ndim < 2 or array.ndim > (3 if pool else 2):
        rank = "(n, d)" + (" or (n, tokens, d)" if pool else "")
        ways = {
            1: f"If it holds labels, say --labels {name} (or --predictions {name}); otherwise --skip {name}.",
            3: "If its second axis counts layers, say --axis 1; if it counts tokens, say --pool mean or --pool cls.",
            4: "If its axes are (n, layers, tokens, d), say --axis 1 and --pool mean (or cls).",
        }
        way = ways.get(array.ndim, "Reshape it to one row a point.")
        raise ValueError(f"{where} must have the shape {rank} to be a layer; got {array.shape}. {way}")
    if 0 in array.shape:
        raise ValueError(f"{where} must hold at least one point and one feature; got shape {array.shape}.")
    return array


def _check_lengths(layers: dict[str, np.ndarray], labels: dict[str, np.ndarray], path: Path) -> None:
    if not layers:
        raise ValueError(f"{path} must hold a layer beside the labels: an array (n, d) of numbers; it has none.")
    lengths = {name: len(array) for name, array in (layers | labels).items()}
    first = next(iter(layers))
    for name, length in lengths.items():
        if length != lengths[first]:
            what = "layer" if name in layers else "labels"
            hint = " (a .csv file begins with a header; without one call it .txt)" if what == "labels" else ""
            raise ValueError(
                f"layers and labels must have one entry a point; in {path} layer {first!r} has {lengths[first]} and "
                f"{what} {name!r} {length}{hint}."
            )
