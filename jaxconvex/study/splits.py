"""The three parts of a data set: to train on, to stop training by, and to measure on.

Nothing leaks: points of one group (a speaker, a volunteer, an image of origin) lie in one part, identical points do, and the
test part that the authors of the data fixed stays the test part.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Int

from jaxconvex._internal.checks import positive_integer
from jaxconvex.study.copies import copies_told, identical, without_copies_across
from jaxconvex.study.datasets.dataset import Dataset

__all__ = ["Parts", "split", "stratified_split"]

NAMES = ("train", "validation", "test")
TRIES = 1000  # random assignments of groups to parts, of which the best is kept


class Parts(NamedTuple):
    """The numbers of the points of each part, ascending, and the names of the classes that no part has."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    left_out: tuple[str, ...]
    notes: tuple[str, ...] = ()  # what was found of copies and groups, in sentences


def split(
    dataset: Dataset,
    key: Array,
    *,
    most: tuple[int | None, int | None, int | None] = (None, None, None),
    fractions: tuple[float, float, float] = (0.5, 0.15, 0.35),
    classes: int | Sequence[str] | None = None,
    balanced: bool = False,
    fewest: int = 20,
) -> Parts:
    """The points to train on, to validate on and to test on; each part has points of every class.

    Classes are those of the first labeling. Without groups, every class is divided as the fractions say. With groups, of
    1,000 random assignments of the groups to the parts that one is kept which leaves the most classes (see `classes`)
    and, among those, has the least deviation: the largest |share - fraction|, over all parts, of the points of a class
    or of all points.

    Identical points are kept in one part: without groups they are dealt together; where groups or authors put them into
    several parts, those of the last part (test before validation before train) are kept and the others left out.

    Args:
        dataset: the points. Where `dataset.parts` names a test part, it stays; validation is taken from the others.
        key: decides what is drawn. Equal keys give equal parts.
        most: the most points of each part, or None for no limit. A part that has more is thinned at random: large
            classes give points until all classes that have enough are equally large.
        fractions: the shares of the parts, 1 in all. Where the authors fixed a test part, only the proportion of the
            first two counts.
        classes: which classes to take: those named; or a number, the classes with the most points (of equal ones, the
            first by name); or None, all that have `fewest` points or more to train on and to test on, before thinning,
            and one to validate on.
        balanced: whether a part has equally many points of each class, that of its rarest.
        fewest: see `classes`.

    Raises:
        ValueError: fractions that are no shares; classes that are not there; fewer than three groups (two where the
            test part is fixed); a group in the train and the test part of the authors; a class absent from a part; fewer
            points allowed in a part than there are classes.

    Example:
        >>> labels = np.repeat(["cat", "dog"], 100)
        >>> dataset = Dataset(np.arange(200), {"class": labels}, np.tile(np.arange(20), 10), None, {}, "Numbers.")
        >>> parts = split(dataset, jax.random.key(0), most=(None, None, 50))
        >>> [len(part) for part in parts[:3]]
        [100, 30, 50]
        >>> set(dataset.groups[parts.train]) & set(dataset.groups[parts.test])
        set()
    """
    _check_fractions(fractions)
    labels = next(iter(dataset.labelings.values()))
    names, codes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    taken = np.ones(len(names), bool) if classes is None else _chosen(classes, names, counts)
    rows = np.flatnonzero(taken[codes])
    assign_key, thin_key = jax.random.split(key)
    least = (fewest, 1, fewest) if classes is None else (1, 1, 1)
    sets = identical(dataset.inputs)
    whole = _assign(dataset, codes, rows, sets[rows], assign_key, fractions, least)
    part = without_copies_across(whole, sets[rows])

    table = np.stack([np.bincount(codes[rows[part == i]], minlength=len(names)) for i in range(3)])
    if classes is None:
        taken = np.all(table >= np.array(least)[:, None], axis=0)
        if np.sum(taken) < 2:
            raise ValueError(
                f"fewer than two classes have {fewest} points to train on, {fewest} to test on and one to validate on; "
                f"the largest have {table.max(axis=1).tolist()} to train on, to validate on and to test on. "
                f"Give more data, or allow fewer (the field fewest, in a command --fewest).{_lost(whole, part)}"
            )
    elif absent := [f"{names[j]} from {NAMES[i]}" for i, j in np.argwhere((table == 0) & taken)]:
        raise ValueError(
            f"every part must have points of every class; absent are {', '.join(absent[:5])}"
            f"{', ...' if len(absent) > 5 else ''}. Leave these classes out, or give more points or groups of them."
            f"{_lost(whole, part)}"
        )
    generator = _generator(thin_key)
    train, validation, test = (
        _thin(rows[(part == i) & taken[codes[rows]]], codes, most[i], balanced, generator, NAMES[i]) for i in range(3)
    )
    named = dict(zip(NAMES, (train, validation, test), strict=True))
    notes = (copies_told(sets, labels, int(np.sum(part < 0)), named), _groups_told(dataset, named))
    return Parts(train, validation, test, tuple(names[~taken].tolist()), notes)


def _lost(whole: np.ndarray, part: np.ndarray) -> str:
    number = int(np.sum((part < 0) & (whole >= 0)))
    return f" {number} points were left out, since other parts have copies of them." if number else ""


def _groups_told(dataset: Dataset, parts: dict[str, np.ndarray]) -> str:
    if dataset.groups is None:
        return "The data name no groups, so points are dealt one by one."
    held = ", ".join(f"{len(np.unique(dataset.groups[rows])):,} in {name}" for name, rows in parts.items())
    return f"Groups: {held}; none is in two parts."


def stratified_split(
    labels: Int[Array, " n"], key: Array, *, fractions: tuple[float, ...] = (0.6, 0.1, 0.3)
) -> tuple[np.ndarray, ...]:
    """The indices of the points of each part, ascending; every part has its share of every class.

    Args:
        labels: the class of each point, integers or strings.
        key: decides which points of a class go to which part.
        fractions: the shares of the parts, none negative, 1 in all. A class of few points may leave a part without.

    Raises:
        ValueError: if a share is negative or the shares do not add up to 1.

    Example:
        >>> [len(part) for part in stratified_split(np.repeat([0, 1], 50), jax.random.key(0))]
        [60, 10, 30]
    """
    _check_fractions(fractions)
    classes = np.asarray(labels)
    order = np.asarray(jax.random.permutation(key, len(classes)))
    order = order[np.argsort(classes[order], kind="stable")]
    _, starts, counts = np.unique(classes[order], return_index=True, return_counts=True)
    rank_in_class = (np.arange(len(order)) - np.repeat(starts, counts) + 0.5) / np.repeat(counts, counts)
    part = np.searchsorted(np.cumsum(fractions)[:-1], rank_in_class)
    return tuple(np.sort(order[part == i]) for i in range(len(fractions)))


def _check_fractions(fractions: tuple[float, ...]) -> None:
    if min(fractions) < 0 or not np.isclose(sum(fractions), 1):
        raise ValueError(f"fractions must be shares that add up to 1; got {fractions}. Try (0.6, 0.1, 0.3).")


def _generator(key: Array) -> np.random.Generator:
    return np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel().tolist())


def _chosen(classes: int | Sequence[str], names: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Which of the classes are asked for, a bool each."""
    if isinstance(classes, (int, np.integer)):
        number = positive_integer(classes, "classes", most=len(names), why=", the number there is")
        chosen = np.argsort(-counts, kind="stable")[:number]  # names are sorted, so equal counts keep their order
        return np.isin(np.arange(len(names)), chosen)
    asked = [classes] if isinstance(classes, str) else list(classes)
    if missing := [name for name in asked if name not in set(names.tolist())]:
        raise ValueError(
            f"classes must be among those of the data; got {', '.join(map(str, missing))}. "
            f"There are {', '.join(map(str, names.tolist()))}."
        )
    return np.isin(names, asked)


def _assign(dataset, codes, rows, sets, key, fractions, least) -> np.ndarray:
    """The number of the part (0, 1, 2) of each of the rows."""
    part = np.full(len(rows), 2)
    groups = None if dataset.groups is None else np.asarray(dataset.groups)[rows]
    free = np.ones(len(rows), bool) if dataset.parts is None else dataset.parts[rows] != "test"
    shares = np.array(fractions)
    if not free.all():
        if groups is not None and (both := set(groups[free].tolist()) & set(groups[~free].tolist())):
            raise ValueError(
                f"a group must lie in one part, but the authors' train and test part share {sorted(both)[0]!r}. "
                "Pass the data without parts, or without groups."
            )
        shares, least = shares[:2] / max(sum(shares[:2]), 1e-12), least[:2]
    inner = codes[rows[free]]
    if groups is None:
        _, first, of_set = np.unique(sets[free], return_index=True, return_inverse=True)
        numbers = np.empty(len(first), int)
        for i, members in enumerate(stratified_split(inner[first], key, fractions=tuple(shares))):
            numbers[members] = i
        numbers = numbers[of_set]
    else:
        numbers = _assign_groups(groups[free], inner, _generator(key), shares, np.array(least))
    part[free] = numbers
    return part


def _assign_groups(groups, codes, generator, shares, least) -> np.ndarray:
    """The part of each point, that of its group, in the best of random assignments."""
    names, group = np.unique(groups, return_inverse=True)
    if len(names) < len(shares):
        raise ValueError(
            f"{len(shares)} parts need {len(shares)} groups or more, as a group stays in one part; got {len(names)}: "
            f"{', '.join(map(str, names.tolist()))}. Pass the data without groups to divide them."
        )
    present, codes = np.unique(codes, return_inverse=True)
    table = np.zeros((len(names), len(present)))
    np.add.at(table, (group, codes), 1)
    sizes, total = table.sum(axis=1), table.sum(axis=0)
    best, assignment = (np.inf, np.inf), np.zeros(len(names), int)
    for _ in range(TRIES):
        order = generator.permutation(len(names))
        middle = (np.cumsum(sizes[order]) - sizes[order] / 2) / sizes.sum()
        tried = np.empty(len(names), int)
        tried[order] = np.searchsorted(np.cumsum(shares)[:-1], middle)
        counts = np.stack([table[tried == i].sum(axis=0) for i in range(len(shares))])
        kept = np.all(counts >= least[:, None], axis=0)
        deviation = np.abs(counts / total - shares[:, None])[:, kept].max(initial=0)
        overall = np.abs(counts.sum(axis=1) / sizes.sum() - shares).max()
        score = (float(np.sum(~kept)), float(max(deviation, overall)))
        if score < best:
            best, assignment = score, tried
    return assignment[group]


def _thin(rows, codes, most, balanced, generator, name) -> np.ndarray:
    """At most so many of the rows, ascending; the larger classes give first."""
    present, inner, counts = np.unique(codes[rows], return_inverse=True, return_counts=True)
    most = len(rows) if most is None else positive_integer(most, f"the most points of the {name} part")
    if most < len(present):
        raise ValueError(f"the {name} part must be allowed a point of each of {len(present)} classes; got {most}.")
    even = min(counts.min(), most // len(present))
    quota = np.full(len(present), even) if balanced else _level(counts, most)
    order = generator.permutation(len(rows))
    order = order[np.argsort(inner[order], kind="stable")]
    starts = np.cumsum(counts) - counts
    rank = np.arange(len(rows)) - np.repeat(starts, counts)
    return np.sort(rows[order[rank < np.repeat(quota, counts)]])


def _level(counts: np.ndarray, most: int) -> np.ndarray:
    """The counts, those above a common level cut down to it, so that they are at most so many in all.

    >>> _level(np.array([2, 9, 7]), 11).tolist()
    [2, 5, 4]
    """
    quota, left = np.zeros_like(counts), most
    for done, i in enumerate(np.argsort(counts, kind="stable")):
        quota[i] = min(counts[i], left // (len(counts) - done))
        left -= quota[i]
    return quota
