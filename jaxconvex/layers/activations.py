"""The layers of a model over a data set, in memory or in a folder, each read when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from jaxconvex._internal.messages import listed
from jaxconvex.layers import shards
from jaxconvex.layers.layer_reading import OUTPUTS, RESERVED, Kind
from jaxconvex.layers.points import GROUPS, POSITIONS

__all__ = ["Activations", "read_activations"]


class Activations(Mapping[str, np.ndarray]):
    """Layer -> array (n, ...), in order of depth. From a folder, an array is read when it is asked for, and not kept.

    `shapes` and `dtypes` tell of the layers without reading them; `outputs` is what the model returned, None if nothing.
    Where tokens are the points, `groups` and `positions` tell of each its text and its place there; else they are None.

    >>> from jaxconvex import extract
    >>> found = extract(lambda x: {"first": x + 1, "second": 2 * x}, np.zeros((3, 2)), batch_size=2, progress=False)
    >>> list(found), found.shapes["second"], found["first"].sum().item()
    (['first', 'second'], (3, 2), 6.0)
    """

    def __init__(self, kinds: Mapping[str, Kind], points: int, read: Callable[[str], np.ndarray], where: str):
        self.shapes = {name: (points, *kind.shape) for name, kind in kinds.items() if name not in RESERVED}
        self.dtypes = {name: np.dtype(kinds[name].dtype) for name in self.shapes}
        self.output_shape = (points, *kinds[OUTPUTS].shape) if OUTPUTS in kinds else None
        self._read, self._where, self._tokens = read, where, GROUPS in kinds

    @property
    def outputs(self) -> np.ndarray | None:
        """What the model returned beside its layers, such as logits, (n, ...)."""
        return None if self.output_shape is None else self._read(OUTPUTS)

    @property
    def groups(self) -> np.ndarray | None:
        """The text of each token, (n,), by its number among the inputs: the groups of `evaluate`."""
        return self._read(GROUPS) if self._tokens else None

    @property
    def positions(self) -> np.ndarray | None:
        """The place of each token in its text, (n,): labels (texts, tokens) of all are labels[groups, positions]."""
        return self._read(POSITIONS) if self._tokens else None

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
