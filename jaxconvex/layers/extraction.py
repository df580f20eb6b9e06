"""extract(): the layers of a model over a data set, batch by batch, to memory or to disk."""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.tree_util import Partial
from jaxtyping import Array
from tqdm import tqdm

from jaxconvex._internal.checks import one_of, shared_length
from jaxconvex._internal.functions import as_program, compiled, digest, weights_hash
from jaxconvex._internal.kept import lock
from jaxconvex.layers import shards
from jaxconvex.layers.activations import Activations, read_activations
from jaxconvex.layers.batches import Batches, as_batches, batch_hash, checked_batch
from jaxconvex.layers.layer_reading import OUTPUTS, POOLS, RESERVED, Kind, Pool, kinds_of, read_layers, reasons
from jaxconvex.layers.layered_model import of_arrays
from jaxconvex.layers.passes import Found, checked_results, results, unfinished
from jaxconvex.layers.points import Choice, check_entry, chosen_tokens, every_input
from jaxconvex.layers.selection import Logits

__all__ = ["extract"]

SHARD_BYTES, SHARD_SECONDS = 64 * 2**20, 60.0  # a shard is written when it has so much, or after so long


def extract(
    model_fn: Callable[..., Any],
    batches: Any,
    *,
    layers: str | Sequence[str] | None = None,
    pool: Pool = None,
    mask: str | int | Callable[..., Array] | None = None,
    points: str = "inputs",
    where: str | int | Callable[..., Any] | np.ndarray | None = None,
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
        batches: an iterable of batches: arrays, or tuples or dicts of arrays that share their first axis, or what a
            processor or tokenizer of transformers gives. A generator will do, or a loader of grain, torch or tf.data
            (as_numpy_iterator()); what it gives must be arrays or what np.asarray takes. Or, with batch_size, whole inputs
            of that kind, from which batches are cut.
        layers: names of the layers to take, in this order; by default all, but for those that are no array of one entry a
            point, or in a Flax model of no floating type, which a warning names. What only other layers need is not
            computed. Of several arrays that a block returns, one is taken: see select of `from_nnx`.
        pool: what becomes of an activation, on the device: "cls" takes the first token; "last" the last valid one, which in
            a decoder has seen all others; "mean" the mean over all axes but the first and the last: tokens, or the places
            of a feature map (b, h, w, c); a function f(h), or f(h, mask) where there is a mask, makes of it what it will;
            None leaves it whole.
        mask: the valid tokens (b, t), True or 1, to which "mean" and "last" keep: the name or index of an entry of the
            batch, or a function of the batch like model_fn, such as an encoder's `sequence_mask`. nan where no token is
            valid.
        points: "inputs", or "tokens": every token that `where` chooses is a point, in the order of the texts; layers and
            outputs are then (b, t, ...), and others are left out. What is returned has the text of each as `groups`, for
            evaluate(..., groups=), and its place there as `positions`.
        where: the tokens (b, t) that are points, True or 1: the name or index of an entry of the batch; a function of the
            batch, which runs as it is; or with batch_size an array (n, t) for all inputs.
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
    choice = _choice(points, where, pool, first, batches, given)
    chosen = choice(first, 0).mask
    unfit: dict[str, str] = {}
    read = partial(
        read_layers,
        (model_fn, mask if callable(mask) else None),
        names=(layers,) if isinstance(layers, str) else None if layers is None else tuple(layers),
        pool=pool,
        mask_entry=None if callable(mask) else mask,
        outputs=outputs,
        logits=logits,
        tokens=None if chosen is None else chosen.shape[1],
        told=unfit.update,
        dtype=str(jnp.dtype(dtype)) if dtype is not None else "float32" if pool is not None else None,
    )
    program = as_program(read, first)
    if unfit:
        warnings.warn(
            f"layers left out: {reasons(unfit)}. Name others with layers= where these are not wanted.", stacklevel=2
        )
    kinds = kinds_of(jax.eval_shape(program, first), tokens=chosen is not None)
    number_of_points = given.points
    if chosen is not None:  # of other batches the texts may have other lengths
        names = tuple(name for name in kinds if name not in RESERVED)
        read = partial(read, names=names, outputs=OUTPUTS in kinds, tokens=None)
        number_of_points = None
    with contextlib.ExitStack() as stack:
        before: shards.Before | None = None
        store: Callable[[Iterable[Found]], Activations] = partial(_to_memory, kinds, number_of_points)
        if folder is not None:
            settings = {"layers": list(kinds), "pool": _named(pool), "mask": _named(mask)}
            settings |= _identity(kinds, first, given, program)
            folder = _folder(folder, kinds)
            stack.enter_context(lock(folder))
            before = shards.begin(folder, settings)
            store = partial(_to_folder, folder, settings, before)
        done = 0 if before is None else sum(len(shard.sizes) for shard in before.shards)
        bar = tqdm(total=given.number, initial=done, desc="batches", unit="batch", disable=not progress, leave=False)
        stack.enter_context(bar)
        todo = unfinished(given.stream, first, choice, folder, before)
        found = results(compiled(read, mesh), todo, shared_length(first, "batch 0"), mesh)
        kept = store(checked_results(found, kinds, bar))
    if chosen is not None and not next(iter(kept.shapes.values()))[0]:
        raise ValueError(
            "where= chooses no token in any batch: it must be True, or above 0, for those that are points."
        )
    return kept


# The work on the host -------------------------------------------------------------------------------------------------


def _check_options(pool: Pool, mask: Any, batch: Any, mesh: Mesh | None) -> None:
    if isinstance(pool, str):
        one_of(pool, POOLS, "pool")
    elif pool is not None and not callable(pool):
        raise ValueError(f"pool must be 'cls', 'last', 'mean', a function of an activation, or None; got {pool!r}.")
    if mask is not None and not callable(mask):
        if pool is None or pool == "cls":
            raise ValueError(f"a mask has no part in pool={pool!r}: leave it out, or take pool='mean' or 'last'.")
        check_entry(mask, "mask", batch)
    if mesh is not None and any(device.process_index != jax.process_index() for device in mesh.devices.flat):
        raise ValueError("mesh must hold devices of this process only: give each process its own part of the batches.")


def _choice(points: str, where: Any, pool: Pool, first: Any, batches: Any, given: Batches) -> Choice:
    """What tells the points of a batch. Raises ValueError for options that do not go together."""
    if one_of(points, ("inputs", "tokens"), "points") == "inputs":
        if where is not None:
            raise ValueError(
                "where chooses tokens, and the points are whole inputs: pass points='tokens', or leave it out."
            )
        return every_input
    if pool is not None:
        raise ValueError(
            f"pool={pool!r} makes one point of a text, and points='tokens' has one a token: leave one out."
        )
    if hasattr(where, "shape"):
        if given.points is None or np.shape(where)[:1] != (given.points,):
            raise ValueError(
                f"where as an array is (n, t) for all inputs, which are then cut by batch_size=; got {np.shape(where)} for "
                f"{'an iterable of batches' if given.points is None else f'{given.points} inputs'}. Put it in the batches, "
                "and name its entry."
            )
    elif not callable(where):
        check_entry(where, "where", first, ", or with batch_size= an array (n, t)")
    return partial(chosen_tokens, where)


def _identity(kinds: Mapping[str, Kind], first: Any, given: Batches, program: Partial) -> dict[str, Any]:
    """What tells this run from others, beside its settings."""
    return {
        "kinds": {name: [list(kind.shape), kind.dtype] for name, kind in kinds.items()},
        "batch size": shared_length(first, "batch 0"),
        "points": given.points,
        "batches": given.number,
        "first batch": batch_hash(first),
        "weights": weights_hash(program),
        "program": digest(program),
    }


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
