"""Labels of any kind, as the integers or tables that the core takes and the names that the report shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax import random
from jaxtyping import Bool, Int, PRNGKeyArray

from jaxconvex._internal.messages import listed, names_apart
from jaxconvex.evaluation.label_values import is_background, is_overlapping, label_array, lists_of, plain, values_of

__all__ = [
    "AnyLabeling",
    "Labeling",
    "Memberships",
    "check_background",
    "encode",
    "encode_all",
    "encode_lists",
    "exclusive",
]
__all__ += ["members", "named_labels", "recall", "sizes", "strata", "stratified_sample", "taken"]


class Labeling(NamedTuple):
    """The class of each point, 0 to len(classes) - 1 or -1 for background, and the names of the classes in order."""

    codes: Int[np.ndarray, " n"]
    classes: tuple[int | str, ...]


class Memberships(NamedTuple):
    """The concepts of each point, of which it may be in several or in none, and the names of the concepts in order."""

    table: Bool[np.ndarray, "n m"]
    classes: tuple[int | str, ...]


AnyLabeling = Labeling | Memberships


def encode(
    labels: Any, *, name: str = "labels", background: Any = None, classes: Sequence[int | str] | None = None
) -> Labeling:
    """The labels as a `Labeling`, classes sorted: numbers by value, strings by alphabet.

    Args:
        labels: integers, booleans or strings, one a point; see `label_array`.
        name: what messages call them.
        background: the label that means no class: of the same type as the labels, or as text what is written like it.
            For integers -1 means that too.
        classes: the classes in an order of one's own; labels that are none of them are an error.

    Raises ValueError for labels that are missing, of mixed or other types, and for a background that matches none.

    >>> encode(np.array(["cat", "dog", "none", "cat"]), background="none")
    Labeling(codes=array([ 0,  1, -1,  0]), classes=('cat', 'dog'))
    """
    check_background({name: labels}, background)
    return _encode(labels, name, background, classes)


def _encode(labels: Any, name: str, background: Any, classes: Sequence[int | str] | None) -> Labeling:
    values, places = np.unique(label_array(labels, name), return_inverse=True)
    names, none = values.tolist(), [is_background(value, background) for value in values.tolist()]
    kept = [value for value, left_out in zip(names, none, strict=True) if not left_out]
    order = tuple(kept) if classes is None else tuple(map(plain, classes))
    names_apart(order, "classes")
    column = {(type(value), value): i for i, value in enumerate(order)}  # 1 and True are not the same
    strange = [value for value in kept if (type(value), value) not in column]
    if strange:
        raise ValueError(f"{name} holds {strange[0]!r}, which is not among the classes {list(order[:10])}.")
    codes = [-1 if left_out else column[type(v), v] for v, left_out in zip(names, none, strict=True)]
    return Labeling(np.array(codes, int)[places], order)


def encode_lists(labels: Any, *, name: str = "labels", background: Any = None) -> Memberships:
    """The labels as `Memberships`: concepts sorted, or in the order of the columns.

    Args:
        labels: for each point a list, tuple or set of integers, or of strings, empty where it has none; or a table (n, m) of
            true and false, or 1 and 0, whose columns have the names that a DataFrame gives them, or else are numbered.
        name: what messages call them.
        background: the label that means no concept.

    Raises ValueError for points that have no list, labels of mixed types, and other values in a table.

    >>> encode_lists([["sea", "sky"], [], ["sky"]])
    Memberships(table=array([[ True,  True],
           [False, False],
           [False,  True]]), classes=('sea', 'sky'))
    """
    if hasattr(labels, "shape") and np.ndim(labels) > 1:
        classes, given = values_of(labels, name), np.asarray(labels)
        if given.ndim != 2 or given.dtype.kind not in "biuf" or not np.isin(given, (0, 1)).all():
            raise ValueError(
                f"{name} must hold one label a point, shape (n,), or for each label a column of true and false, or 1 and 0; "
                f"got shape {given.shape} of type {given.dtype}, with other values or without."
            )
        if given.shape[1] == 1 and not hasattr(labels, "columns"):
            raise ValueError(
                f"{name} must hold one label a point, shape (n,), or a column for each of several labels; got one column, "
                f"shape {given.shape}. Take {name}[:, 0] for the classes 0 and 1."
            )
        table = given != 0
    else:
        lists = lists_of(labels, name)
        values, places = np.unique(label_array([label for own in lists for label in own], name), return_inverse=True)
        classes, table = values.tolist(), np.zeros((len(lists), len(values)), bool)
        table[np.repeat(np.arange(len(lists)), [len(own) for own in lists]), places] = True
    names_apart(classes, f"the labels of {name}")
    kept = np.array([not is_background(label, background) for label in classes], bool)
    return Memberships(table[:, kept], tuple(label for label, stays in zip(classes, kept, strict=True) if stays))


def check_background(labelings: Mapping[str, Any], background: Any) -> None:
    """Raise ValueError for a background that is a label of none of the labelings, listing the labels."""
    if background is None or str(background) == "-1":
        return
    labels = [label for name, values in labelings.items() for label in values_of(values, name)]
    if not any(is_background(label, background) for label in labels if type(label) is not int or label != -1):
        raise ValueError(f"background must be one of the labels, {listed(labels)}; got {background!r}, which is none.")


def named_labels(labels: Any) -> dict[str, Any]:
    """The labelings by name; a single one is called "labels"."""
    return dict(labels) if isinstance(labels, Mapping) else {"labels": labels}


def encode_all(
    labels: Any, predictions: Any, *, background: Any, classes: Sequence[int | str] | None
) -> dict[str, Any]:
    """Each `Labeling` or `Memberships` by name, the first of them the main one, and "predicted" where there are predictions.

    Raises ValueError for lengths that differ, and where no labeling has a class with two points.
    """
    named = named_labels(labels)
    if not named:
        raise ValueError("labels must hold at least one labeling; got an empty mapping.")
    names_apart(named, "labelings")
    main = next(iter(named))
    several = [name for name, values in named.items() if is_overlapping(values)]
    if main in several and (predictions is not None or classes is not None):
        raise ValueError(
            f"predictions, classes and heads are of points of one class each; in {main!r} a point may have several. Put "
            "labels of one class a point first, and predicted lists as labels of their own."
        )
    if predictions is not None:
        if "predicted" in named:
            raise ValueError("a labeling is named 'predicted' already: rename it, or leave predictions out.")
        if classes is None:
            both = [_encode(v, n, background, None) for v, n in ((named[main], main), (predictions, "predictions"))]
            kinds = {type(c).__name__ for labeling in both for c in labeling.classes}
            if len(kinds) > 1:
                raise ValueError(
                    f"predictions and {main!r} must name classes alike; got {' and '.join(sorted(kinds))}."
                )
            classes = sorted({c for labeling in both for c in labeling.classes})
        named["predicted"] = predictions
    ours = (main, "predicted")
    labelings: dict[str, AnyLabeling] = {
        name: encode_lists(values, name=name, background=background)
        if name in several
        else _encode(values, name, background, classes if name in ours else None)
        for name, values in named.items()
    }
    lengths = {name: len(labeling[0]) for name, labeling in labelings.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"labelings must be of the same points; got lengths {lengths}.")
    for name, labeling in labelings.items():
        if not np.any(sizes(labeling) > 1):
            raise ValueError(f"{name} has no class with two points, so there is no pair to score.")
    return labelings


def recall(truth: Labeling, predicted: Labeling) -> np.ndarray:
    """For each class the share of its points that are predicted to be in it; nan for a class without points.

    >>> recall(encode(np.array([0, 0, 1])), encode(np.array([0, 1, 1]))).tolist()
    [0.5, 1.0]
    """
    right = (truth.codes == predicted.codes) & (truth.codes >= 0)
    count = np.bincount(truth.codes + 1, minlength=len(truth.classes) + 1)[1:]
    hits = np.bincount(truth.codes[right], minlength=len(truth.classes))
    return hits / np.where(count > 0, count, np.nan)


def members(labeling: AnyLabeling, classes: Bool[np.ndarray, " c"]) -> Bool[np.ndarray, " n"]:
    """Which points are in any of these classes.

    >>> members(Labeling(np.array([0, 1, -1]), ("a", "b")), np.array([False, True])).tolist()
    [False, True, False]
    """
    if isinstance(labeling, Memberships):
        return labeling.table[:, classes].any(axis=1)
    return np.isin(labeling.codes, np.flatnonzero(classes))


def exclusive(labelings: Mapping[str, AnyLabeling]) -> dict[str, Labeling]:
    """Those of which each point has one class at most."""
    return {name: one for name, one in labelings.items() if isinstance(one, Labeling)}


def sizes(labeling: AnyLabeling) -> Int[np.ndarray, " c"]:
    """The number of points of each class."""
    if isinstance(labeling, Memberships):
        return labeling.table.sum(axis=0)
    return np.bincount(labeling.codes + 1, minlength=len(labeling.classes) + 1)[1:]


def taken(labeling: AnyLabeling, rows: Any) -> Any:
    """The labeling of some of the points."""
    of_points, classes = labeling
    return type(labeling)(of_points[rows], classes)


def strata(labeling: AnyLabeling) -> Int[np.ndarray, " n"]:
    """What samples are stratified by: the class of each point, or which concepts it is in together.

    >>> strata(Memberships(np.array([[True, True], [False, True], [True, True]]), ("a", "b"))).tolist()
    [1, 0, 1]
    """
    if isinstance(labeling, Memberships):
        return np.unique(np.packbits(labeling.table, axis=1), axis=0, return_inverse=True)[1].ravel()
    return labeling.codes


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
