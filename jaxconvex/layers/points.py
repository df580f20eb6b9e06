"""Which points a batch has: its inputs, or the tokens that were chosen in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxconvex._internal.checks import shared_length
from jaxconvex._internal.functions import call_with
from jaxconvex._internal.messages import listed

__all__ = ["BESIDE", "GROUPS", "POSITIONS", "Choice", "Chosen", "check_entry", "chosen_tokens", "every_input"]

GROUPS, POSITIONS = "token groups", "token positions"
BESIDE = (GROUPS, POSITIONS)  # arrays that are kept beside the layers where tokens are points


class Chosen(NamedTuple):
    """The points of a batch: how many, where they stand in an array of a layer, and what is kept beside the layers."""

    size: int
    index: Any
    beside: Mapping[str, np.ndarray]
    mask: np.ndarray | None = None  # the chosen tokens (b, t), if these are the points

    def taken(self, array: Any, name: str) -> np.ndarray:
        """The points of an array over the whole batch, which may be filled up."""
        if self.mask is not None and array.shape[1:2] != self.mask.shape[1:]:
            raise ValueError(
                f"where= chooses among {self.mask.shape[1]} tokens a text, and layer {name!r} has shape {array.shape}. Give "
                "a where= for the tokens that the layers have, as a function of the batch, or name other layers."
            )
        return np.asarray(array)[self.index]


Choice = Callable[[Any, int], Chosen]  # from a batch and the number of inputs before it


def every_input(batch: Any, before: int) -> Chosen:
    """A point an input.

    >>> every_input(np.zeros((3, 2)), 0).size
    3
    """
    size = shared_length(batch, "batch")
    return Chosen(size, slice(size), {})


def chosen_tokens(where: Any, batch: Any, before: int) -> Chosen:
    """A point a token that `where` chooses (see `extract`), in the order of the texts and in each from its first on.

    Raises ValueError for a where that gives no (b, t).

    >>> chosen = chosen_tokens("nouns", {"nouns": np.array([[0, 1, 1], [1, 0, 0]])}, before=10)
    >>> chosen.beside[GROUPS].tolist(), chosen.beside[POSITIONS].tolist()
    ([10, 10, 11], [1, 2, 0])
    """
    size = shared_length(batch, "batch")
    if callable(where):
        mask = np.asarray(call_with(where, batch))
    else:
        mask = np.asarray(batch[where] if isinstance(where, (str, int)) else where[before : before + size])
    if mask.ndim != 2 or len(mask) != size:
        raise ValueError(f"where must choose tokens (b, t), {size} texts here; it has shape {mask.shape}.")
    texts, positions = np.nonzero(mask > 0)
    beside = {GROUPS: (before + texts).astype(np.int32), POSITIONS: positions.astype(np.int32)}
    return Chosen(len(texts), (texts, positions), beside, mask > 0)


def check_entry(entry: Any, name: str, batch: Any, more: str = "") -> None:
    """Raise ValueError unless it names an entry of the batch."""
    keys: list[Any] = []
    if isinstance(batch, Mapping | tuple | list):
        keys = list(batch) if isinstance(batch, Mapping) else list(range(len(batch)))
    if not isinstance(entry, (str, int)) or entry not in keys:
        what = f"one of the batch's entries ({listed(keys)})" if keys else "a function, as the batch is one array"
        raise ValueError(f"{name} must be {what}, or a function of the batch{more}; got {entry!r}.")
