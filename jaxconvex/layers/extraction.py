"""extract(): the layers of a model over a data set, batch by batch, to memory or to disk."""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array
from tqdm import tqdm

from jaxconvex._internal.checks import one_of, shared_length
from jaxconvex._internal.functions import as_program, compiled, digest
from jaxconvex._internal.kept import lock
from jaxconvex._internal.messages import listed
from jaxconvex.layers import shards
from jaxconvex.layers.batches import as_batches, batch_hash, checked_batch
from jaxconvex.layers.calls import weights_hash
from jaxconvex.layers.layer_reading import OUTPUTS, Kind, Pool, kinds_of, read_layers, reasons
from jaxconvex.layers.layered_model import of_arrays
from jaxconvex.layers.passes import Found, checked_results, results, unfinished
from jaxconvex.layers.selection import Logits

__all__ = ["Activations", "extract", "read_activations"]

SHARD_BYTES, SHARD_SECONDS = 64 * 2**20, 60.0  # a shard is written when it has so much, or after so long


class Activations(Mapping[str, np.ndarray]):
    """Layer -> array (n, ...), in order of depth. From a folder, an array is read when it is asked for, and not kept.

    `shapes` and `dtypes` tell of the layers without reading them; `outputs` is what the model returned, None if nothing.

    >>> found = extract(lambda x: {"first": x + 1, "second": 2 * x}, np.zeros((3, 2)), batch_size=2, progress=False)
    >>> list(found), found.shapes["second"], found["first"].sum().item()
    (['first', 'second'], (3, 2), 6.0)
    """

    def __init__(self, kinds: Mapping[str, Kind], points: int, read: Callable[[str], np.ndarray], where: str):
        self.shapes = {name: (points, *kind.shape) for name, kind in kinds.items() if name != OUTPUTS}
        self.dtypes = {name: np.dtype(kinds[name].dtype) for name in self.shapes}
        self.output_shape = (points, *kinds[OUTPUTS].shape) if OUTPUTS in kinds else None
        self._read, self._where = read, where

    @property
    def outputs(self) -> np.ndarray | None:
        """What the model returned beside its layers, such as logits, (n, ...)."""
        return None if self.output_shape is None else self._read(OUTPUTS)

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.shapes:
            raise KeyError(f"there is no layer {name!r}; the layers are {listed(self.shapes, name)}")
        return self._read(name)

    def __contains__(self, name: object) -> bool:
        return name in self.shapes

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)

    def __repr__(self) -> str:
        size = sum(int(np.prod(shape)) * self.dtypes[name].itemsize for name, shape in self.shapes.items())
        lines = [f"  {name!r}: {shape} {self.dtypes[name]}" for name, shape in self.shapes.items()]
        shown = lines if len(lines) <= 8 else [*lines[:4], "  ...", *lines[-3:]]
        head = f"Activations of {len(self)} layers, {size / 1e6:.1f} MB {self._where}; activations[name] reads one:"
        return "\n".join([head, *shown, *(["  and .outputs"] if self.output_shape is not None else [])])


def extract(
    model_fn: Callable[..., Any],
    batches: Any,
    *,
    layers: str | Sequence[str] | None = None,
    pool: Pool = None,
    mask: str | int | Callable[..., Array] | None = None,
    dtype: Any = None,
    outputs: bool = True,
    logits: Logits = None,
    batch_size: int | None = None,
    folder: str | Path | None = None,
    mesh: Mesh | None = None,
    progress: bool = True,
) -> Activations:
    """The layers of a model over a data set, as a mapping layer -> array that reads lazily: `Activations`.

    Args:
        model_fn: from a batch to a mapping layer -> activation (b, ...), in order of depth, or to a pair of outputs and
            such a mapping, as `from_nnx` and `from_linen` give it. A batch that is a tuple (or list) is passed as
            `model_fn(*batch)`, a dict as `model_fn(**batch)`. It is compiled, with the weights that it holds at this call:
            any function, an nnx.Module or a method of one. It must not change them, as a module in training mode does.
        batches: an iterable of batches: arrays, or tuples or dicts of arrays that share their first axis. A generator
            will do, or a loader of grain, torch or tf.data (as_numpy_iterator()); what it gives must be arrays or what
            np.asarray takes. Or, with batch_size, whole inputs of that kind, from which batches are cut.
        layers: names of the layers to take, in this order; by default all, but for those that are no array of one entry a
            point, or in a Flax model of no floating type, which a warning names. What only other layers need is not
            computed. Of several arrays that a block returns, one is taken: see select of `from_nnx`.
        pool: what becomes of an activation, on the device: "cls" takes the first token; "mean" the mean over all axes but
            the first and the last: tokens, or the places of a feature map (b, h, w, c); a function f(h), or f(h, mask)
            where there is a mask, makes of it what it will; None leaves it whole.
        mask: the valid tokens (b, t), True or 1, to which "mean" keeps: the name or index of an entry of the batch, or a
            function of the batch like model_fn, such as an encoder's `sequence_mask`. nan where no token is valid.
        dtype: floats are turned to it; by default float32 if pooled, else they stay as they are.
        outputs: whether to keep the outputs, if they are one array (b, ...), such as logits: as `.outputs`.
        logits: which part of the outputs is kept, a name, an index or a function; by default their "logits", an entry or an
            attribute, or all where they have none.
        batch_size: points a batch, to cut whole inputs.
        folder: where to write, as safetensors, while it goes. The same call goes on after a stop of any kind, and does
            not run the model for what is finished. It reads all batches, which must be the same in the same order, and
            all that is written: a file that is not as it was is made again, after a line on stderr that says so. Meanwhile
            the folder is locked. Without it all is in memory.
        mesh: devices of this process that share every batch, all axes of the mesh together; weights are copied to each.
        progress: a bar on stderr.

    The last batch may be smaller: it is filled up with copies of its last point, so that nothing is compiled again, and
    these are cut off. Points keep the order of the batches: so do the labels to score them with.

    Raises:
        ValueError: batches or layers that differ from the first batch's; a folder of another run, with what differs, or
            the batch that does; names that are unknown. OSError: a folder that cannot be written or read, or where another
            process works; it stays fit to go on from.

    Cost: a hash of every batch (about a second a gigabyte) and of what the folder holds; while a batch is fetched and
    written the device works on the next. Memory: two batches, and with a folder 64 MB
    (a shard is written after so much, or after a minute); without one, everything that is returned.

    >>> def model(x):
    ...     hidden = jnp.tanh(x)
    ...     return hidden.sum(axis=(1, 2)), {"input": x, "hidden": hidden}
    >>> x = np.arange(30.0).reshape(5, 3, 2)
    >>> found = extract(model, x, batch_size=2, pool="mean", progress=False)
    >>> found["input"].shape, found.outputs.shape
    ((5, 2), (5,))
    """
    model_fn = of_arrays(model_fn)
    given = as_batches(batches, batch_size)
    first = checked_batch(given.first, 0, given.first)
    _check_options(pool, mask, first, mesh)
    unfit: dict[str, str] = {}
    read = partial(
        read_layers,
        (model_fn, mask if callable(mask) else None),
        names=(layers,) if isinstance(layers, str) else None if layers is None else tuple(layers),
        pool=pool,
        mask_entry=None if callable(mask) else mask,
        outputs=outputs,
        logits=logits,
        told=unfit.update,
        dtype=str(jnp.dtype(dtype)) if dtype is not None else "float32" if pool is not None else None,
    )
    program = as_program(read, first)
    if unfit:
        warnings.warn(
            f"layers left out: {reasons(unfit)}. Name others with layers= where these are not wanted.", stacklevel=2
        )
    kinds = kinds_of(jax.eval_shape(program, first))
    with contextlib.ExitStack() as stack:
        before: shards.Before | None = None
        store: Callable[[Iterable[Found]], Activations] = partial(_to_memory, kinds, given.points)
        if folder is not None:
            settings = {
                "layers": list(kinds),
                "pool": _named(pool),
                "mask": _named(mask),
                "kinds": {name: [list(kind.shape), kind.dtype] for name, kind in kinds.items()},
                "batch size": shared_length(first, "batch 0"),
                "points": given.points,
                "batches": given.number,
                "first batch": batch_hash(first),
                "weights": weights_hash(program),
                "program": digest(program),
            }
            folder = _folder(folder, kinds)
            stack.enter_context(lock(folder))
            before = shards.begin(folder, settings)
            store = partial(_to_folder, folder, settings, before)
        done = 0 if before is None else sum(len(shard.sizes) for shard in before.shards)
        bar = tqdm(total=given.number, initial=done, desc="batches", unit="batch", disable=not progress, leave=False)
        stack.enter_context(bar)
        todo = unfinished(given.stream, first, folder, before)
        found = results(compiled(read, mesh), todo, shared_length(first, "batch 0"), mesh)
        return store(checked_results(found, kinds, bar))


def read_activations(folder: str | Path) -> Activations:
    """The activations that `extract` wrote to a folder, each checked when it is read.

    Raises ValueError if the folder was not finished, or is none, and where a file is not as it was written.
    """
    folder = Path(folder)
    index = shards.open_index(folder)
    if index is None:
        raise ValueError(f"{folder} holds no activations (no {shards.INDEX}). Make them with extract(..., folder=...).")
    if not index.get("finished"):
        raise ValueError(
            f"{folder} is not finished. The same call of extract that began it goes on from where it stopped."
        )
    kinds = {name: Kind(tuple(shape), dtype) for name, (shape, dtype) in index["settings"]["kinds"].items()}
    files = [(shards.shard_path(folder, first), sum(sizes)) for first, sizes, _ in index["shards"]]
    n = sum(points for _, points in files)

    def read(name: str) -> np.ndarray:
        return shards.read_array(files, name, (n, *kinds[name].shape), jnp.dtype(kinds[name].dtype))

    return Activations(kinds, n, read, f"in {folder}")


# The work on the host -------------------------------------------------------------------------------------------------


def _check_options(pool: Pool, mask: Any, batch: Any, mesh: Mesh | None) -> None:
    if isinstance(pool, str):
        one_of(pool, ("cls", "mean"), "pool")
    elif pool is not None and not callable(pool):
        raise ValueError(f"pool must be 'cls', 'mean', a function of an activation, or None; got {pool!r}.")
    if mask is not None and not callable(mask):
        if pool is None or pool == "cls":
            raise ValueError(f"a mask has no part in pool={pool!r}: leave it out, or take pool='mean'.")
        keys: list[Any] = []
        if isinstance(batch, Mapping | tuple | list):
            keys = list(batch) if isinstance(batch, Mapping) else list(range(len(batch)))
        if mask not in keys:
            what = f"one of the batch's entries ({listed(keys)})" if keys else "a function, as the batch is one array"
            raise ValueError(f"mask must be {what}, or a function of the batch; got {mask!r}.")
    if mesh is not None and any(device.process_index != jax.process_index() for device in mesh.devices.flat):
        raise ValueError("mesh must hold devices of this process only: give each process its own part of the batches.")


def _named(value: Any) -> Any:
    """A setting as JSON holds it; what a function does is part of the program's hash."""
    return "a function" if callable(value) else value


def _folder(folder: str | Path, kinds: Mapping[str, Kind]) -> Path:
    """The folder, which is made. Raises ValueError for a layer whose name or type no file can hold."""
    for name, kind in kinds.items():
        if name == "__metadata__" or name != name.encode(errors="replace").decode():
            raise ValueError(f"safetensors has no place for a layer that is called {name!r}: rename it.")
        if jnp.dtype(kind.dtype).kind not in "biuf" and kind.dtype not in ("bfloat16", "complex64"):
            raise ValueError(
                f"layer {name!r} is of type {kind.dtype}, which safetensors does not give back: pass dtype='float32', or "
                "have the model cast it."
            )
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise type(error)(f"cannot make the folder {folder}: {error.strerror}. Give another.") from error
    return Path(folder)


def _to_memory(kinds: Mapping[str, Kind], points: int | None, results: Iterable[Found]) -> Activations:
    arrays: dict[str, np.ndarray]
    if points is not None:
        arrays = {name: np.empty((points, *kind.shape), jnp.dtype(kind.dtype)) for name, kind in kinds.items()}
        start = 0
        for found in results:
            for name in kinds:
                arrays[name][start : start + found.size] = found.arrays[name]
            start += found.size
    else:
        parts: dict[str, list[np.ndarray]] = {name: [] for name in kinds}
        for found in results:
            for name in kinds:
                parts[name].append(found.arrays[name])
        arrays = {name: np.concatenate(parts.pop(name)) for name in kinds}  # so that no two layers are held twice
    return Activations(kinds, len(next(iter(arrays.values()))), arrays.__getitem__, "in memory")


def _to_folder(
    folder: Path, settings: Mapping[str, Any], before: shards.Before, results: Iterable[Found]
) -> Activations:
    """Write shards of batches in a row, then the note in the index that all are there."""
    written: list[shards.Shard] = []
    waiting: list[Found] = []
    since = time.monotonic()

    def write() -> None:
        if waiting:
            arrays = {name: np.concatenate([found.arrays[name] for found in waiting]) for name in waiting[0].arrays}
            batches = [(found.size, found.digest) for found in waiting]
            written.append(shards.write_shard(folder, before.run, waiting[0].number, arrays, batches))
            waiting.clear()

    for found in results:
        if waiting and found.number != waiting[-1].number + 1:  # a shard stands between them
            write()
        waiting.append(found)
        held = sum(array.nbytes for one in waiting for array in one.arrays.values())
        if held >= SHARD_BYTES or time.monotonic() - since > SHARD_SECONDS:
            write()
            since = time.monotonic()
    write()
    shards.finish(folder, before, settings, written)
    return read_activations(folder)
