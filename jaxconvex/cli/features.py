"""Which columns of a table are features, and of which layer; and why the others are left out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

import numpy as np

from jaxconvex._internal.messages import listed
from jaxconvex.cli.sources import UNNAMED, is_numeric

__all__ = ["is_id", "layers_of_columns", "matching", "natural_order", "reasons"]

FAR = 1e4  # times the spread of the other columns
FEW = 6  # values that are easily sorted by chance

PLAIN = re.compile(r" *[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)? *")
NUMBER = re.compile(r"[-+]?[0-9.,'_ ]*[0-9][0-9.,'_ ]*([eE][-+]?[0-9]+)? *%?")  # in any country's writing


def layers_of_columns(
    columns: Mapping[str, np.ndarray], chosen: Sequence[str], where: str
) -> tuple[dict[str, list[str]], dict[str, str], bool]:
    """The columns of each layer, the columns of none with the reason, and whether the columns themselves say so.

    A column of lists is a layer, and so are the columns "NAME/0", "NAME/1", ... together. Where there are none of either,
    the numeric columns are one layer: those `chosen` by their names (wildcards allowed), or all but those that are
    probably no features: constant, an id (whole numbers, each once), sorted with each value once, whole numbers among
    decimals, or spread 10,000 times as far as the others, or as little.

    Raises ValueError for text of which half looks like numbers, and where no column is surely a feature.
    """
    grouped = _groups(columns)
    numeric = [name for name, column in columns.items() if is_numeric(column)]
    left_out = {name: _kind(column) for name, column in columns.items() if name not in numeric}
    if grouped:
        features = [name for group in grouped.values() for name in group]
        left_out |= {name: "in no layer" for name in numeric if name not in features}
    elif chosen and (tuple(chosen) != (UNNAMED,) or UNNAMED in columns):
        features = matching(tuple(columns), chosen, where)
        left_out |= {name: "not asked for" for name in numeric if name not in features}
        for name in set(chosen) & set(left_out):
            raise ValueError(f"{name!r} in {where} must hold numbers to be a feature; it is {left_out[name]}.")
    else:
        features = list(columns)
        with np.errstate(over="ignore"):
            doubts = _doubts({name: columns[name] for name in numeric})
        left_out |= doubts
        if doubts and len(doubts) == len(numeric):
            raise ValueError(
                f"{where} must hold columns that are surely features; left out are {reasons(doubts)}. Name the features "
                "with --layer NAME, again for more; --layer '*' takes all."
            )
    _check_written({name: columns[name] for name in features if name not in numeric}, where)
    groups = grouped or {UNNAMED: features}
    members = {layer: [name for name in group if name not in left_out] for layer, group in groups.items()}
    return {layer: group for layer, group in members.items() if group}, left_out, bool(grouped)


def _groups(columns: Mapping[str, np.ndarray]) -> dict[str, list[str]]:
    """The columns of lists, each a layer, and of "NAME/0", "NAME/1", ... those of which some are numbers."""
    groups: dict[str, list[tuple[int, str]]] = {}
    for name, column in columns.items():
        numbered = re.fullmatch(r"(.+)/(\d+)", name)
        if column.ndim > 1:
            groups[name] = [(0, name)]
        elif numbered and columns.get(numbered[1], column).ndim == 1:
            groups.setdefault(numbered[1], []).append((int(numbered[2]), name))
    members = {layer: [name for _, name in sorted(pairs)] for layer, pairs in groups.items()}
    return {layer: names for layer, names in members.items() if any(is_numeric(columns[name]) for name in names)}


def _kind(column: np.ndarray) -> str:
    values = {type(value) for value in column.flat if value is not None} if column.dtype.kind == "O" else set()
    return "text" if column.dtype.kind in "US" or values == {str} else f"type {column.dtype}"


def _check_written(columns: Mapping[str, np.ndarray], where: str) -> None:
    """Raise ValueError for text of which half is numbers: slips, or numbers as another country writes them."""
    for name, column in columns.items():
        cells = [value for value in column.flat if isinstance(value, str)]
        if 2 * sum(NUMBER.fullmatch(cell) is not None for cell in cells) >= max(len(cells), 1):
            strange = [str(cell) for cell in cells if not PLAIN.fullmatch(cell)]
            what = (
                f"numbers, and {strange[0]!r}, which is none"
                if strange
                else f"numbers as text, such as {cells[0]!s:.40}"
            )
            raise ValueError(
                f"{name!r} in {where} holds {what}. Save numbers as such, written like 1234.5, or leave the column out "
                f"(--skip {name})."
            )


# Doubts ---------------------------------------------------------------------------------------------------------------


def _doubts(columns: Mapping[str, np.ndarray]) -> dict[str, str]:
    """The numeric columns that are probably no features, and why."""
    decimal = [name for name, column in columns.items() if not _is_whole(column)]
    doubts: dict[str, str] = {}
    for name, column in columns.items():
        if np.all(np.isnan(column)):
            doubts[name] = "empty"
        elif not np.all(np.isfinite(column)):
            continue  # it is refused later on, with its rows
        elif np.all(column == column[0]):
            doubts[name] = "constant"
        elif is_id(column) and (decimal or _is_sorted(column) or np.ptp(column.astype(float)) == len(column) - 1):
            doubts[name] = "whole numbers, each once: an id?"
        elif len(column) >= FEW and _is_sorted(column):
            doubts[name] = "sorted, each value once: a time or a place?"
        elif column.dtype.kind in "biu" and 2 * len(decimal) >= len(columns):
            doubts[name] = "whole numbers among decimals"
    rest = {name: column for name, column in columns.items() if name not in doubts and np.all(np.isfinite(column))}
    return doubts | _far(rest)


def is_id(column: np.ndarray) -> bool:
    """Whether these are whole numbers, each once."""
    return _is_whole(column) and len(np.unique(column)) == column.size


def _is_whole(column: np.ndarray) -> bool:
    return column.dtype.kind in "biu" or bool(np.all(column == np.round(column)))


def _is_sorted(column: np.ndarray) -> bool:
    return bool(np.all(column[1:] > column[:-1]) or np.all(column[1:] < column[:-1]))


def _far(columns: Mapping[str, np.ndarray]) -> dict[str, str]:
    """The columns whose values are far further apart, or closer, than those of the others in the middle."""
    if len(columns) < 2:
        return {}
    spreads = [float(np.ptp(column.astype(float))) for column in columns.values()]
    order = sorted(range(len(spreads)), key=spreads.__getitem__)
    far = {}
    for index in order:
        others = [spreads[other] for other in order if other != index]
        middle = others[(len(others) - 1) // 2], others[len(others) // 2]
        if all(spreads[index] > FAR * other or spreads[index] * FAR < other for other in middle):
            name = list(columns)[index]
            far[name] = f"values spread over {spreads[index]:.2g}, and those of the others over {middle[0]:.2g}"
    return far


# Names ----------------------------------------------------------------------------------------------------------------


def matching(names: Sequence[str], patterns: Sequence[str], where: str) -> list[str]:
    """The names that fit a pattern, pattern by pattern. Raises ValueError for one that fits none."""
    matched: dict[str, None] = {}
    for pattern in patterns:
        fitting = [pattern] if pattern in names else [name for name in names if fnmatchcase(name, pattern)]
        if not fitting:
            raise ValueError(f"{where} has no {pattern!r}; it has {listed(names, pattern)}.")
        matched.update(dict.fromkeys(natural_order(fitting)))
    return list(matched)


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


def reasons(left_out: Mapping[str, str]) -> str:
    """What is left out, and why.

    >>> reasons({"id": "an id", "note": "text", "row": "an id"})
    "'id', 'row' (an id); 'note' (text)"
    """
    names: dict[str, list[str]] = {}
    for name, reason in left_out.items():
        names.setdefault(reason, []).append(name)
    return "; ".join(f"{listed(members)} ({reason})" for reason, members in names.items())
