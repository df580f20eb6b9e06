"""What messages share: names that there are, for a name that there is not."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

__all__ = ["listed"]


def listed(names: Iterable[Any], near: str | None = None, most: int = 12) -> str:
    """The names for a message, those nearest to `near` first, and how many there are beyond `most`.

    >>> listed(["embed", "blocks/0", "blocks/1"], "block/1")
    "'blocks/1', 'blocks/0', 'embed'"
    """
    names = list(names)
    nearest = difflib.get_close_matches(near, names, n=3) if near is not None else []
    shown = [*nearest, *(name for name in names if name not in nearest)]
    more = f" and {len(shown) - most} more" if len(shown) > most else ""
    return (", ".join(map(repr, shown[:most])) or "none") + more
