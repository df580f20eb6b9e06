"""Representations: layers, labels and predictions of the same points, read from a user's files."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxconvex.messages import listed
from jaxconvex.sources import FORMATS, UNNAMED, FileError, Source, errors_of, is_numeric, open_source

__all__ = ["LABEL_NAMES", "Representations", "natural_order", "read_representations"]

LABEL_NAMES = ("labels", "label", "targets", "target", "y")  # what is looked for where no labels are named


class Representations(NamedTuple):
    """What a file holds: arrays by layer, in order; labels by labeling; predicted labels; names that were left out."""

    layers: dict[str, np.ndarray]  # each [n d], or [n tokens d] to be pooled
    labels: dict[str, np.ndarray]  # each [n], integers or text
    predictions: np.ndarray | None  # [n]
    left_out: tuple[str, ...]  # columns of a table that belong to no layer


def read_representations(
    path: str | os.PathLike[str],
    *,
    labels: Sequence[str | os.PathLike[str]] = (),
    predictions: str | os.PathLike[str] | None = None,
    layers: Sequence[str] = (),
    skip: Sequence[str] = (),
    axis: int | None = None,
    pool: str | None = None,
) -> Representations:
    """The layers, labels and predictions in a file: every array beside the labels is a layer.

    Args:
        path: an .npz, .safetensors, .parquet, .csv or .npy file, or a folder that `extract` wrote. In a table (parquet,
            csv) a column of lists is a layer, and the columns "NAME/0", "NAME/1", ... are the layer NAME; where there
            are none of either, all numeric columns together are one layer. Columns of text and those without a name are
            left out.
        labels: names of arrays (columns) in the file, or paths of other files: .npy; .txt with one label a line; .csv
            with a header; or any format of `path` with one array. None named takes the first there is of "labels",
            "label", "targets", "target", "y". Integers or text; true and false become text.
        predictions: the predicted labels, a name or a path as above.
        layers: take only these layers, in this order; names may have the wildcards * and ?.
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
    skipped = set(_matching(source.names, skip, source.path))
    names = [name for name in source.names if name not in skipped]
    wanted = [os.fspath(name) for name in labels] or [name for name in LABEL_NAMES if name in names][:1]
    if not wanted:
        raise ValueError(
            f"the labels of {path} must be named (--labels NAME, or --labels FILE), since no array in it is called "
            f"{', '.join(map(repr, LABEL_NAMES))}; it has {listed(names)}."
        )
    by_labeling = {_labeling(name, names): _labels(source, names, name) for name in wanted}
    if len(by_labeling) < len(wanted):
        raise ValueError(f"each labeling must be named once, and by a name of its own; got {listed(wanted)}.")
    predicted_name = None if predictions is None else os.fspath(predictions)
    predicted = None if predicted_name is None else _labels(source, names, predicted_name)
    rest = [name for name in names if name not in wanted and name != predicted_name]
    arrays, left_out = _columns(source, rest) if source.table else ({name: source.read(name) for name in rest}, ())
    arrays = _split(arrays, axis, source.path)
    kept = _matching(tuple(arrays), layers, source.path) if layers else natural_order(arrays)
    arrays = {name: _layer(arrays[name], name, source.path, pool) for name in kept}
    _check_lengths(arrays, by_labeling | ({} if predicted is None else {"predictions": predicted}), source.path)
    return Representations(arrays, by_labeling, predicted, left_out)


def natural_order(names: Iterable[str]) -> list[str]:
    """The names in their order, but those alike except for numbers ordered by these, in the places that they take.

    >>> natural_order(["embedding", "block 10", "head", "block 2"])
    ['embedding', 'block 2', 'head', 'block 10']
    """
    names = list(names)
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(re.sub(r"\d+", "0", name), []).append(name)
    ordered = {family: iter(sorted(members, key=_numbers)) for family, members in alike.items()}
    return [next(ordered[re.sub(r"\d+", "0", name)]) for name in names]


def _numbers(name: str) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", name)]


# Names ----------------------------------------------------------------------------------------------------------------


def _matching(names: Sequence[str], patterns: Iterable[str], path: Path) -> list[str]:
    """The names that fit a pattern, pattern by pattern. Raises ValueError for one that fits none."""
    found: dict[str, None] = {}
    for pattern in patterns:
        fitting = [pattern] if pattern in names else [name for name in names if fnmatchcase(name, pattern)]
        if not fitting:
            raise ValueError(f"{path} has no {pattern!r}; it has {listed(names, pattern)}.")
        found.update(dict.fromkeys(natural_order(fitting)))
    return list(found)


# Labels ---------------------------------------------------------------------------------------------------------------


def _labeling(name: str, names: Sequence[str]) -> str:
    return name if name in names else Path(name).stem


def _labels(source: Source, names: Sequence[str], name: str) -> np.ndarray:
    """The labels behind a name in the source or in a file of their own, as integers or text."""
    if name in names:
        array, where = source.read(name), f"labels {name!r} in {source.path}"
    elif Path(name).is_file() or (Path(name).suffix.lower() in (*FORMATS, ".txt") and os.sep in name):
        array, where = _read_labels(Path(name)), f"labels in {name}"
    else:
        raise ValueError(
            f"{source.path} has no {name!r}, and there is no such file of labels; it has {listed(names, name)}."
        )
    kind = array.dtype.kind
    missing = [row for row, value in enumerate(array.flat) if value is None or value != value] if kind in "Of" else []
    if missing:
        rows = ", ".join(map(str, missing[:5])) + (", ..." if len(missing) > 5 else "")
        raise ValueError(
            f"{where} must be there for every point; {len(missing)} of {array.size} are missing (rows {rows}). "
            "Fill them in, or remove these rows."
        )
    if array.ndim != 1:
        raise ValueError(f"{where} must be one for each point, shape (n,); got shape {array.shape}.")
    if kind not in "iuUb":
        hint = ": for whole numbers save labels.astype(int), for measured values bins of them" if kind == "f" else ""
        raise ValueError(f"{where} must be integers or text; got an array of type {array.dtype}{hint}.")
    return array.astype(str) if kind == "b" else array


def _read_labels(path: Path) -> np.ndarray:
    if path.suffix.lower() == ".txt":
        with errors_of(path):
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        array = np.array([line.strip() or None for line in lines], dtype=object)
        if not lines:
            raise FileError(f"{path} is empty. It must hold one label a line.")
        if None in array:
            return array
        return array.astype(int if all(re.fullmatch(r"[+-]?\d+", line) for line in array) else str)
    source = open_source(path)
    names = [name for name in LABEL_NAMES if name in source.names][:1] or source.names
    if len(names) != 1:
        raise ValueError(
            f"{path} must hold one array or column of labels, or one called {listed(LABEL_NAMES)}; "
            f"it has {listed(source.names)}."
        )
    return source.read(names[0])


# Layers ---------------------------------------------------------------------------------------------------------------


def _columns(source: Source, names: Sequence[str]) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """The layers of a table, and the columns that belong to none."""
    columns = {name: source.read(name) for name in names}
    numeric = {name: column for name, column in columns.items() if is_numeric(column)}
    groups: dict[str, list[tuple[int, str]]] = {}
    for name, column in numeric.items():
        numbered = re.fullmatch(r"(.+)/(\d+)", name)
        if column.ndim > 1:
            groups[name] = [(0, name)]
        elif numbered:
            groups.setdefault(numbered[1], []).append((int(numbered[2]), name))
    members = {layer: [name for _, name in sorted(numbered)] for layer, numbered in groups.items()}
    if not members and numeric:
        members = {UNNAMED: list(numeric)}
    used = {name for group in members.values() for name in group}
    stacked = {
        layer: numeric[group[0]] if numeric[group[0]].ndim > 1 else np.stack([numeric[name] for name in group], axis=1)
        for layer, group in members.items()
    }
    return stacked, tuple(name for name in names if name not in used)


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
        split |= {f"{name} {index}": layer for index, layer in enumerate(np.moveaxis(array, axis, 0))}
    return split


def _layer(array: np.ndarray, name: str, path: Path, pool: str | None) -> np.ndarray:
    """The array, if it can be a layer. Raises ValueError that tells how it could be."""
    where = f"{name!r} in {path}"
    if not is_numeric(array):
        raise ValueError(
            f"{where} must hold real numbers to be a layer; got type {array.dtype}. If it holds labels, say "
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
