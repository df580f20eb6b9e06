"""The state of a model, or of a training, in one file; every array by its path."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxconvex._internal.kept import found, read_arrays, write_arrays

__all__ = ["load_state", "read_tree", "save_state", "write_tree"]

Tree = TypeVar("Tree")
Model = TypeVar("Model", bound=nnx.Module)


def save_state(model: nnx.Module, path: str | os.PathLike[str]) -> Path:
    """The path of the file, safetensors, after all state of the model is written: parameters, statistics, counts.

    A reader sees the old file or the new one, never a part. What the model is made of is not written: make it again, then
    `load_state`.

    Example:
        >>> import tempfile
        >>> first, second = (nnx.Linear(2, 3, rngs=nnx.Rngs(seed)) for seed in (0, 1))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     loaded = load_state(second, save_state(first, Path(folder) / "linear.safetensors"))
        >>> bool((loaded.kernel[...] == first.kernel[...]).all())
        True
    """
    return write_tree(path, nnx.state(model))


def load_state(model: Model, path: str | os.PathLike[str]) -> Model:
    """A new model like this one with the state in the file; the one that went in is unchanged.

    Raises:
        ValueError: if the file is not whole, or its names, shapes or types are not those of the model.
    """
    graph, state = nnx.split(model)
    try:
        _, arrays = read_arrays(path, extra="encoders")
    except FileNotFoundError:
        raise ValueError(f"{path} does not hold the state of a model: there is no such file.") from None
    loaded = _restored(arrays, state)
    if loaded is None:
        raise ValueError(
            f"{path} does not hold the state of such a model: its arrays have other names, shapes or types. Make the model "
            "with the settings it had when it was saved."
        )
    return nnx.merge(graph, loaded)


def write_tree(path: str | os.PathLike[str], tree: Any, *, fingerprint: str = "") -> Path:
    """The path, after the arrays of the tree are written to it, whole or not at all; the fingerprint tells what they are."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    return write_arrays(path, {name: _plain(leaf) for name, leaf in _named(tree).items()}, fingerprint, "encoders")


def read_tree(path: str | os.PathLike[str], like: Tree, *, fingerprint: str = "") -> Tree | None:
    """The tree in the file; None if there is no file, it holds another tree or fingerprint, or it is not whole.

    The last is said in a line. Raises OSError if the file is there and cannot be read.
    """
    whole = found(Path(path), partial(read_arrays, extra="encoders"))
    return None if whole is None or whole[0] != fingerprint else _restored(whole[1], like)


def _restored(arrays: dict[str, np.ndarray], like: Tree) -> Tree | None:
    leaves = _named(like)
    if set(arrays) != set(leaves):
        return None
    restored = []
    for name, leaf in leaves.items():
        plain = jax.eval_shape(_key_data, leaf) if _is_key(leaf) else leaf
        if arrays[name].shape != np.shape(plain) or arrays[name].dtype != _stored(plain.dtype):
            return None
        restored.append(_like(arrays[name], leaf))
    return jax.tree.unflatten(jax.tree.structure(like), restored)


def _named(tree: Any) -> dict[str, Any]:
    pairs = jax.tree_util.tree_flatten_with_path(tree)[0]
    named = {jax.tree_util.keystr(path, simple=True, separator="/") or "leaf": leaf for path, leaf in pairs}
    if len(named) != len(pairs):
        raise ValueError("two arrays have one path; name the parts of the model without '/'.")
    return named


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _key_data(key: jax.Array) -> jax.Array:
    return jax.random.key_data(key)


def _stored(dtype: Any) -> np.dtype:
    """The type in the file: bfloat16, which NumPy lacks, is kept as its bits."""
    return np.dtype(np.uint16) if dtype == jnp.bfloat16 else np.dtype(dtype)


def _plain(leaf: Any) -> np.ndarray:
    array = np.asarray(_key_data(leaf) if _is_key(leaf) else leaf)
    return np.array(array.view(_stored(array.dtype)), order="C")


def _like(array: np.ndarray, leaf: Any) -> Any:
    if _is_key(leaf):
        return jax.random.wrap_key_data(jnp.asarray(array), impl=jax.random.key_impl(leaf))
    array = array.view(leaf.dtype)
    return jnp.asarray(array) if isinstance(leaf, jax.Array) else array
