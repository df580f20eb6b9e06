"""Work on several devices, and on several cores of one: in order, and with the same result."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import Any

import jax
import numpy as np

__all__ = ["at_once", "in_background", "on_devices", "streams"]


def streams() -> int:
    """How many blocks are solved at once on one device."""
    return (os.cpu_count() or 1) if jax.default_backend() == "cpu" else 2


def _with_types(function: Callable) -> Callable:
    """The function for another thread, where x64 is on if it is on in this one."""
    wide = jax.dtypes.canonicalize_dtype(float) == np.float64

    def work(*arguments: Any) -> Any:
        with jax.enable_x64(wide):
            return function(*arguments)

    return work


def at_once(function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    """function(item) for each item, all at the same time."""
    with ThreadPoolExecutor(max_workers=max(len(items), 1)) as pool:
        return list(pool.map(_with_types(function), items))


@contextmanager
def in_background(function: Callable, *arguments: Any) -> Iterator[None]:
    """Call the function in another thread meanwhile, and wait for its end."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        call = pool.submit(_with_types(function), *arguments)
        yield
        call.result()


def on_devices(
    function: Callable[[Any, Any], Any], items: Iterable[Any], devices: Sequence[Any] | None = None
) -> Iterator[Any]:
    """function(item, device) for each item, in order; item i goes to device i modulo their number.

    Those of other processes are left to them. Some run at once, on CPU a stream a core. The first runs alone, so that
    what must be compiled is compiled once. An interrupt drops what has not begun.
    """
    places = list(devices) if devices is not None else [None]
    mine = [place is None or place.process_index == jax.process_index() for place in places]
    jobs = ((item, places[i % len(places)]) for i, item in enumerate(items) if mine[i % len(places)])
    work = _with_types(function)
    workers = max(streams(), len(places))
    with ThreadPoolExecutor(max_workers=workers) as pool:
        waiting: list[Any] = []
        try:
            for job in islice(jobs, 1):
                yield pool.submit(work, *job).result()
            for job in jobs:
                waiting.append(pool.submit(work, *job))
                if len(waiting) > 2 * workers:  # so that blocks are not all made before the first is solved
                    yield waiting.pop(0).result()
            while waiting:
                yield waiting.pop(0).result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
