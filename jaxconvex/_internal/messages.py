"""What messages share: where they are said, and names that there are, for a name that there is not."""

from __future__ import annotations

import difflib
import errno
import os
import sys
from collections.abc import Iterable
from typing import Any, TextIO

__all__ = ["in_red", "in_yellow", "is_terminal", "listed", "names_apart", "say"]


def say(text: str = "", *, stream: str = "stdout", end: str = "\n") -> None:
    """Print the text at once to "stdout" or "stderr".

    Where nobody reads any more (`| head -1`), this and what follows is dropped. Raises OSError where it cannot be written.
    """
    target: TextIO | None = getattr(sys, stream)
    if target is None:  # it was closed before
        return
    try:
        print(text, file=target, end=end, flush=True)
    except OSError as error:
        # At exit Python would try again to write what could not be written.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, target.fileno())
        os.close(nowhere)
        if error.errno not in (errno.EPIPE, errno.EINVAL):  # the second is what Windows says
            raise


def in_red(text: str, stream: TextIO | None) -> str:
    """The text, in red where a person watches the stream in a terminal that shows colours."""
    return _coloured(text, stream, 31)


def in_yellow(text: str, stream: TextIO | None) -> str:
    """The text, in yellow where a person watches the stream in a terminal that shows colours."""
    return _coloured(text, stream, 33)


def _coloured(text: str, stream: TextIO | None, code: int) -> str:
    plain = not is_terminal(stream) or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return text if plain or not text else f"\x1b[{code}m{text}\x1b[0m"


def is_terminal(stream: TextIO | None) -> bool:
    """Whether the stream is one that a person watches; it is None where it was closed."""
    return stream is not None and stream.isatty()


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


def names_apart(names: Iterable[Any], what: str) -> None:
    """Raise ValueError if two of the names are written alike, as 1 and "1" are: a report could not tell them apart."""
    known: dict[str, Any] = {}
    for name in names:
        if str(name) in known:
            raise ValueError(f"{what} must have names of their own; got {known[str(name)]!r} and {name!r}. Rename one.")
        known[str(name)] = name
