"""Arrays that lie on a mesh of devices, at the door: whole on every device, or taken out of the mesh."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar

import jax
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec
from jaxtyping import Array

__all__ = ["in_mesh", "in_shard_map", "outside_meshes", "split_as", "whole"]

P = ParamSpec("P")
R = TypeVar("R")


def whole(value: Any) -> Any:
    """The array with all of it on every device, if it is split along axes of a mesh whose type is Explicit.

    With such axes the type of an array says how it is split, and much that is computed here has no rule for that. All else
    stays as it is: how arrays are split along Auto axes is the compiler's business. Gradients come back as the array was.
    """
    sharding = _explicit(value)
    return value if sharding is None else jax.sharding.reshard(value, NamedSharding(sharding.mesh, PartitionSpec()))


def split_as(value: Array, given: Any) -> Array:
    """The array split along its first axis as `given` is, where `whole` would change that and the parts are of one size."""
    sharding = _explicit(given)
    if sharding is None or sharding.spec[0] is None:
        return value
    axes = sharding.spec[0] if isinstance(sharding.spec[0], tuple) else (sharding.spec[0],)
    if value.shape[0] % math.prod(sharding.mesh.shape[axis] for axis in axes):
        return value
    return jax.sharding.reshard(value, NamedSharding(sharding.mesh, PartitionSpec(axes)))


def in_mesh(function: Callable[P, R]) -> Callable[P, R]:
    """The function in the mesh of its arguments, so that arrays that it makes anew fit them, also where no mesh is set.

    It stands under jit, around what puts parts of one array into another.
    """

    @functools.wraps(function)
    def within(*arguments: P.args, **options: P.kwargs) -> R:
        if jax.sharding.get_abstract_mesh().empty:
            for leaf in jax.tree.leaves((arguments, options)):
                mesh = jax.typeof(leaf).sharding.mesh if isinstance(leaf, jax.Array) else None
                if mesh is not None and AxisType.Explicit in mesh.axis_types:
                    with jax.sharding.use_abstract_mesh(getattr(mesh, "abstract_mesh", mesh)):
                        return function(*arguments, **options)
        return function(*arguments, **options)

    return within


def in_shard_map() -> bool:
    """Whether this is traced for each device of a mesh."""
    return bool(jax.sharding.get_abstract_mesh().manual_axes)


def _explicit(value: Any) -> NamedSharding | None:
    """How the array is split along Explicit axes, if it is."""
    if not isinstance(value, jax.Array):
        return None
    sharding = jax.typeof(value).sharding if isinstance(value, jax.core.Tracer) else value.sharding
    if not isinstance(sharding, NamedSharding) or AxisType.Explicit not in sharding.mesh.axis_types:
        return None
    return None if all(axis is None for axis in sharding.spec) else sharding


@contextlib.contextmanager
def outside_meshes() -> Iterator[None]:
    """A context without a mesh: NumPy's arrays are computed with on one device, not on all of `jax.set_mesh`."""
    if jax.sharding.get_abstract_mesh().empty:
        yield
        return
    try:
        context: Any = jax.set_mesh(None)
    except ValueError:  # within a trace, where the devices stay as they are
        context = jax.sharding.use_abstract_mesh(AbstractMesh((), ()))
    with context:
        yield
