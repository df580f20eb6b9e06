"""A pass of a model over batches: what is done already left out, one batch computed while another is fetched."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array
from tqdm import tqdm

from jaxconvex._internal.checks import shared_length
from jaxconvex._internal.messages import listed
from jaxconvex.layers.batches import batch_hash, checked_batch, padded
from jaxconvex.layers.layer_reading import Kind
from jaxconvex.layers.points import Choice, Chosen, every_input
from jaxconvex.layers.shards import Before

__all__ = ["Found", "Todo", "checked_results", "results", "unfinished"]


class Found(NamedTuple):
    """What a batch gave: its number, how many points it has, the hash of its inputs, and the arrays."""

    number: int
    size: int
    digest: str
    arrays: dict[str, Any]


class Todo(NamedTuple):
    """A batch to be run."""

    number: int
    points: Chosen
    digest: str
    batch: Any


def unfinished(
    stream: Iterator[Any],
    first: Any,
    choice: Choice = every_input,
    folder: Path | None = None,
    before: Before | None = None,
) -> Iterator[Todo]:
    """The batches that no shard holds; those that are known must be the same as then."""
    done = set() if before is None else {number for shard in before.shards for number in shard.batches}
    known = {} if before is None else before.batches
    number, passed = -1, 0
    for number, given in enumerate(stream):
        batch = checked_batch(given, number, first)
        points, digest = choice(batch, passed), ""
        passed += shared_length(batch, "batch")
        if folder is not None:
            digest = batch_hash(batch if points.mask is None else (batch, points.mask))
        if known.get(number, (points.size, digest)) != (points.size, digest):
            raise ValueError(
                f"batch {number} is not the one that {folder} was made from: pass the same batches in the same order (do "
                "not shuffle), or give another folder."
            )
        if before is not None and before.finished and number not in known:
            raise ValueError(
                f"{folder} was made from {len(known)} batches, and there is a batch {number}. Pass the same, or give "
                "another folder."
            )
        if number not in done:
            yield Todo(number, points, digest, batch)
    if number < max(known, default=-1):
        raise ValueError(
            f"{folder} was made from at least {max(known) + 1} batches; got {number + 1}. Pass the same, or give another "
            "folder."
        )


def results(
    run: Callable[[Any], Mapping[str, Array]],
    todo: Iterable[Todo],
    size: int,
    mesh: Mesh | None,
) -> Iterator[Found]:
    """What each batch gives. While one is fetched and stored, the device works on the next."""
    share: Any = None
    if mesh is not None:  # one axis, whose type is Auto whatever the types of theirs
        share = NamedSharding(Mesh(mesh.devices.ravel(), ("batch",)), PartitionSpec("batch"))
    devices = 1 if mesh is None else mesh.size
    waiting: tuple[Todo, Mapping[str, Array]] | None = None
    for one in todo:
        inputs = shared_length(one.batch, "batch")
        batch = padded(one.batch, -(-max(inputs, size) // devices) * devices)
        found = run(batch if mesh is None else jax.device_put(batch, share))
        for array in found.values():
            array.copy_to_host_async()
        if waiting is not None:
            yield _fetched(*waiting)
        waiting = one._replace(batch=None), found
    if waiting is not None:
        yield _fetched(*waiting)


def _fetched(one: Todo, found: Mapping[str, Array]) -> Found:
    arrays = {name: one.points.taken(array, name) for name, array in found.items()}
    return Found(one.number, one.points.size, one.digest, {**arrays, **one.points.beside})


def checked_results(results: Iterable[Found], kinds: Mapping[str, Kind], bar: tqdm) -> Iterator[Found]:
    """The results, if their layers are those of the first batch."""
    for found in results:
        if set(found.arrays) != set(kinds):
            raise ValueError(
                f"all batches must have the layers of the first, {listed(kinds)}; one has {listed(found.arrays)}."
            )
        for name, array in found.arrays.items():
            if array.shape[1:] != kinds[name].shape:
                raise ValueError(
                    f"{name!r} of one point must have one shape in all batches; it has {array.shape[1:]} after "
                    f"{kinds[name].shape} in the first. Pad all inputs to one length, or pool (pool='mean' with a mask)."
                )
        yield found
        bar.update()
