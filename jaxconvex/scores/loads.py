"""What other classes lose to a point: the sum, over pairs of other classes, of the point's share of the way between them.

A load is summed up along the paths of one block, then rounded to whole numbers, so that the sum over blocks is the same in
any order.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxconvex.paths.tie_rule import PathCounts
from jaxconvex.paths.walk import Some, Trail
from jaxconvex.scores.aggregates import FINE_BITS, Whole, carried, fraction_of

__all__ = ["Loads", "fraction_of_load", "load_of_paths", "loads_with", "no_loads"]

LOAD = 2.0**36  # a load of 1; half of its bits coarse, since a point can bear the load of many classes


class Loads(NamedTuple):
    """The load of each row and of each class by the class that bears it; the last is background. Whole or fractions."""

    of_rows: Any
    by_class: Any


def no_loads(total: int, num_classes: int) -> Loads:
    """Loads of nothing."""

    def zero(*shape: int) -> Whole:
        return Whole(jnp.zeros(shape, jnp.int32), jnp.zeros(shape, jnp.int32))

    return Loads(zero(total), zero(num_classes, num_classes + 1))


def load_of_paths(
    load: Float[Array, "rows s"],
    some: Some,
    counts: PathCounts,
    mirrored: Bool[Array, " t"],
    trail: Trail,
) -> Float[Array, "rows s"]:
    """The load with the paths of some pairs: 1 / (points inside) on each point outside the class; half of it where a pair
    is found from both ends."""
    share = jnp.where(mirrored, 1, 0.5)[:, None].astype(load.dtype)
    share = share / jnp.maximum(counts.interior[0], 1).astype(load.dtype)

    def visit(load: Array, rows: Array, outside: Array) -> Array:
        return load.at[rows, some.columns].add(jnp.where(outside, share, 0), mode="drop")

    return trail(visit, load)


def loads_with(
    loads: Loads, load: Float[Array, "rows s"], labels: Int[Array, " rows"], sources: Int[Array, " s"]
) -> Loads:
    """The loads with that of one block, in units of the pairs of each source's class."""
    num_classes = loads.by_class.coarse.shape[0]
    sizes = jnp.bincount(jnp.where(labels < 0, num_classes, labels), length=num_classes + 1).astype(load.dtype)
    own = jnp.where(labels[sources] < 0, num_classes, labels[sources])
    unit = 2 / jnp.maximum(sizes[own] * (sizes[own] - 1), 1)
    index = jnp.where(labels < 0, num_classes, labels)
    at_classes = jnp.zeros((num_classes + 1, len(sources)), load.dtype).at[index].add(load) * unit
    by_class = jnp.zeros(loads.by_class.coarse.shape, load.dtype).at[own].add(at_classes.T, mode="drop")
    of_rows = jnp.matmul(load, unit, precision=lax.Precision.HIGHEST)
    return Loads(_added(loads.of_rows, of_rows), _added(loads.by_class, by_class))


def _added(total: Whole, load: Array) -> Whole:
    units = load * (LOAD / 2**FINE_BITS)
    coarse = jnp.floor(units)
    fine = jnp.rint((units - coarse) * 2**FINE_BITS)
    return carried(total.coarse + coarse.astype(jnp.int32), total.fine + fine.astype(jnp.int32))


def fraction_of_load(load: Whole, dtype: Any = float) -> Any:
    """The load as a floating-point number."""
    return fraction_of(load, dtype, LOAD)
