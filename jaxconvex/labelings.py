"""Labels of any kind, as the integers that the core takes and the names that the report shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax import random
from jaxtyping import Int, PRNGKeyArray

__all__ = ["Labeling", "encode", "encode_all", "named_labels", "recall", "stratified_sample"]


class Labeling(NamedTuple):
    """The class of each point, 0 to len(classes) - 1 or -1 for background, and the names of the classes in order."""

    codes: Int[np.ndarray, " n"]
    classes: tuple[int | str, ...]


def encode(
    labels: Any, *, name: str = "labels", background: Any = None, classes: Sequence[int | str] | None = None
) -> Labeling:
    """The labels as a `Labeling`, classes sorted: numbers by value, strings by alphabet.

    Args:
        labels: integers, booleans or strings, one a point.
        name: what messages call them.
        background: the label that means no class; for integers -1 means that too.
        classes: the classes in an order of one's own; labels that are none of them are an error.

    >>> encode(np.array(["cat", "dog", "none", "cat"]), background="none")
    Labeling(codes=array([ 0,  1, -1,  0]), classes=('cat', 'dog'))
    """
    values = np.asarray(labels)
    if values.ndim != 1:
        raise ValueError(f"{name} must hold one label a point, shape (n,); got shape {values.shape}.")
    if values.dtype.kind == "O" and all(isinstance(v, (str, np.str_)) for v in values):
        values = values.astype(str)
    if values.dtype.kind == "S":
        values = np.char.decode(values, "utf-8")
    if values.dtype.kind not in "biuUT":
        kind = "mixed or missing values" if values.dtype.kind == "O" else f"type {values.dtype}"
        raise ValueError(
            f"{name} must be integers or strings; got {kind}. Convert them, for example with labels.astype(int)."
        )
    values = values.astype(int) if values.dtype.kind in "biu" else values.astype(str)
    none = np.zeros(len(values), bool)
    if values.dtype.kind == "i":
        none |= values == -1
    if background is not None:
        none |= values.astype(str) == str(background)  # one background may serve labelings of both kinds
    found = [v.item() for v in np.unique(values[~none])]
    order = tuple(found) if classes is None else tuple(classes)
    strange = [v for v in found if v not in set(order)]
    if strange:
        raise ValueError(f"{name} holds {strange[0]!r}, which is not among the classes {list(order[:10])}.")
    code = {value: i for i, value in enumerate(order)}
    return Labeling(np.array([-1 if n else code[v.item()] for v, n in zip(values, none, strict=True)], int), order)


def named_labels(labels: Any) -> dict[str, Any]:
    """The labelings by name; a single one is called "labels"."""
    return dict(labels) if isinstance(labels, Mapping) else {"labels": labels}


def encode_all(
    labels: Any, predictions: Any, *, background: Any, classes: Sequence[int | str] | None
) -> dict[str, Labeling]:
    """The labelings by name, the first of them the main one, and "predicted" where there are predictions of it.

    Raises ValueError for lengths that differ, and where no labeling has a class with two points.
    """
    named = named_labels(labels)
    if not named:
        raise ValueError("labels must hold at least one labeling; got an empty mapping.")
    main = next(iter(named))
    if predictions is not None:
        if "predicted" in named:
            raise ValueError("a labeling is named 'predicted' already: rename it, or leave predictions out.")
        if classes is None:
            both = [
                encode(v, name=n, background=background) for v, n in ((named[main], main), (predictions, "predictions"))
            ]
            if len({type(c) for labeling in both for c in labeling.classes}) > 1:
                raise ValueError(
                    f"predictions and {main!r} must name classes alike; got strings in one, numbers in the other."
                )
            classes = sorted({c for labeling in both for c in labeling.classes})
        named["predicted"] = predictions
    ours = (main, "predicted")
    found = {
        name: encode(values, name=name, background=background, classes=classes if name in ours else None)
        for name, values in named.items()
    }
    lengths = {name: len(labeling.codes) for name, labeling in found.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"labelings must be of the same points; got lengths {lengths}.")
    for name, labeling in found.items():
        if not np.any(np.bincount(labeling.codes + 1, minlength=2)[1:] > 1):
            raise ValueError(f"{name} has no class with two points, so there is no pair to score.")
    return found


def recall(truth: Labeling, predicted: Labeling) -> np.ndarray:
    """For each class the share of its points that are predicted to be in it; nan for a class without points.

    >>> recall(encode(np.array([0, 0, 1])), encode(np.array([0, 1, 1]))).tolist()
    [0.5, 1.0]
    """
    right = (truth.codes == predicted.codes) & (truth.codes >= 0)
    count = np.bincount(truth.codes + 1, minlength=len(truth.classes) + 1)[1:]
    hits = np.bincount(truth.codes[right], minlength=len(truth.classes))
    return hits / np.where(count > 0, count, np.nan)


def stratified_sample(codes: Int[np.ndarray, " n"], size: int, key: PRNGKeyArray) -> Int[np.ndarray, " m"]:
    """Indices of `size` points, in order, drawn so that every class keeps its share up to rounding.

    >>> stratified_sample(np.array([0, 0, 0, 0, 1, 1]), 3, random.key(0)).size
    3
    """
    n = len(codes)
    if size >= n:
        return np.arange(n)
    order = np.lexsort((np.asarray(random.permutation(key, n)), codes))
    # Evenly spaced in the points sorted by class: a class gets its share, give or take one.
    return np.sort(order[np.floor((np.arange(size) + 0.5) * n / size).astype(int)])
