"""Values with names inside a traced function: list them, read them, and put others in their place.

A mark is the identity on the output of a layer. It stands in the trace (the jaxpr) under its path, also inside jit, remat
and scan, where a Python list could not hold the value. Marks are listed, read and replaced in the trace alone: it does not
matter which library made the model, and no Python object is changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Literal, Primitive
from jax.interpreters import ad, batching, mlir

from jaxconvex.layers.selection import Select, closed, opened, selected

__all__ = ["Label", "Site", "evaluate", "find_sites", "labeled", "mark"]

Address = tuple[tuple[int, "int | None"], ...]  # the equation, and in a scan the step; then within it; and so on

CALLS = {"jit", "pjit", "closed_call", "core_call", "eval_jaxpr"}
REMATS = {"remat2", "remat", "checkpoint"}


class Label(NamedTuple):
    """What a mark says of the value that it stands on."""

    path: str
    method: str = ""  # that returned it, if it is not the module's call
    kind: str = ""  # the module's class
    container: bool = False  # of a module that only calls others one after the other
    part: str = ""  # which part of what was returned, if not all


class Site(NamedTuple):
    """A mark in a trace."""

    label: Label
    tree: Any  # of the marked pytree
    shapes: tuple[jax.ShapeDtypeStruct, ...]  # of its leaves
    address: Address
    enclosure: str | None = None  # what it stands in, if it cannot be reached there
    over_time: bool = False  # in a scan over anything else than weights


mark_p = Primitive("layer")
mark_p.multiple_results = True
mark_p.def_impl(lambda *leaves, **_: list(leaves))
mark_p.def_abstract_eval(lambda *leaves, **_: list(leaves))
mlir.register_lowering(mark_p, lambda _, *leaves, **__: list(leaves))


def _batched(leaves: Sequence[Any], axes: Sequence[Any], **parameters: Any) -> tuple[list[Any], list[Any]]:
    """Inside a vmap of the model's own the mapped axis comes first."""
    mapped = [axis is not None for axis in axes]
    leaves = [jnp.moveaxis(x, axis, 0) if m else x for x, axis, m in zip(leaves, axes, mapped, strict=True)]
    return mark_p.bind(*leaves, **parameters), [0 if m else None for m in mapped]


batching.primitive_batchers[mark_p] = _batched
ad.primitive_jvps[mark_p] = lambda values, tangents, **parameters: (mark_p.bind(*values, **parameters), list(tangents))


def mark(x: Any, name: str) -> Any:
    """x, known as a layer of that name to `from_function` and to all that reads layers; otherwise it is x, at no cost.

    Args:
        x: an array, or a pytree of arrays, in a function of any library on JAX.
        name: of the layer; "/" between the names of parts, as "encoder/3/attention", makes it a part of "encoder/3". The
            second value of a name is "name@2". In a scan over weights a step has its number behind its name.

    Works inside jit, remat, scan, vmap and grad. In a loop of unknown length or a branch it cannot be read.

    >>> double = mark(2 * jnp.ones(3), "double")
    >>> double.tolist()
    [2.0, 2.0, 2.0]
    """
    return labeled(x, Label(name))


def labeled(output: Any, label: Label, select: Select = None, inputs: Any = ()) -> Any:
    """The output, with a mark on the arrays of it that are the layer (see `selected`), if there are any."""
    tree = opened(output)
    leaves, structure = jax.tree.flatten(tree)
    chosen, part = selected(tree, select, inputs)
    if not chosen:
        return output
    kept = jax.tree.unflatten(structure, [leaf if i in chosen else None for i, leaf in enumerate(leaves)])
    label = label._replace(part=part)
    marked = mark_p.bind(*(leaves[i] for i in chosen), label=label, tree=jax.tree.structure(kept))
    for i, leaf in zip(chosen, marked, strict=True):
        leaves[i] = leaf
    return closed(jax.tree.unflatten(structure, leaves))


def find_sites(jaxpr: Any, from_weights: Sequence[bool]) -> list[Site]:
    """The marks of a trace in the order of execution.

    The step of a scan stands behind the outermost path inside it: blocks and blocks/mlp become blocks/0, blocks/0/mlp,
    blocks/1, and so on. from_weights tells which inputs of the trace are weights: a scan over weights is a stack of layers,
    while one over anything else, as over time, holds no blocks.
    """
    jaxpr, _ = _opened(jaxpr)
    weights = {variable for variable, yes in zip(jaxpr.invars, from_weights, strict=True) if yes}
    found: list[Site] = []
    for index, equation in enumerate(jaxpr.eqns):
        name, parameters = equation.primitive.name, equation.params
        variables = [v for v in equation.invars if not isinstance(v, Literal)]
        if equation.primitive is mark_p:
            shapes = tuple(jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in equation.outvars)
            found.append(Site(parameters["label"], parameters["tree"], shapes, ((index, None),)))
        elif (inner := _reachable(equation)) is not None:
            flags = [not isinstance(v, Literal) and v in weights for v in equation.invars]
            within = find_sites(inner, flags)
            if name == "scan":
                stacked = any(_parts(equation, flags)[2])
                within = _repeated(within, parameters["length"], parameters["reverse"], stacked)
                found += [s._replace(address=((index, s.address[0][1]), *s.address[1:])) for s in within]
            else:
                found += [s._replace(address=((index, None), *s.address)) for s in within]
        else:
            for inner in _jaxprs(parameters):
                within = find_sites(inner, [False] * len(_opened(inner)[0].invars))
                found += [s._replace(address=(), enclosure=s.enclosure or name) for s in within]
        if variables and weights.issuperset(variables):
            weights.update(equation.outvars)
    return found


def _repeated(sites: list[Site], length: int, reverse: bool, stacked: bool) -> list[Site]:
    """The marks of a scan's body at every step; the step is put before their addresses."""
    paths = {site.label.path for site in sites}
    steps = range(length)[::-1] if reverse else range(length)
    found = []
    for step in steps:
        for site in sites:
            names = site.label.path.split("/")
            outermost = next(i for i in range(1, len(names) + 1) if "/".join(names[:i]) in paths)
            label = site.label._replace(path="/".join([*names[:outermost], str(step), *names[outermost:]]))
            over_time = site.over_time or not stacked
            found.append(site._replace(label=label, over_time=over_time, address=((0, step), *site.address)))
    return found


def evaluate(
    jaxpr: Any,
    inputs: Sequence[Any],
    wanted: Sequence[Address] = (),
    place: Address | None = None,
    values: Sequence[Any] = (),
) -> tuple[list[Any], list[list[Any]]]:
    """The outputs of a trace and what stands at the wanted addresses; or the outputs with `values` put at `place`."""
    jaxpr, constants = _opened(jaxpr)
    known = dict(zip(jaxpr.constvars, constants, strict=True)) | dict(zip(jaxpr.invars, inputs, strict=True))

    def value(variable: Any) -> Any:
        return variable.val if isinstance(variable, Literal) else known[variable]

    found: list[Any] = [None] * len(wanted)
    for index, equation in enumerate(jaxpr.eqns):
        operands = [value(v) for v in equation.invars]
        mine = [i for i, address in enumerate(wanted) if address[0][0] == index]
        here = place is not None and place[0][0] == index
        if equation.primitive is mark_p:
            results = list(values) if here else operands
            read = [results for _ in mine]
        elif not mine and not here:
            results, read = _bound(equation, operands), []
        else:
            step = _scanned if equation.primitive.name == "scan" else _called
            results, read = step(equation, operands, [wanted[i] for i in mine], place if here else None, values)
        for i, one in zip(mine, read, strict=True):
            found[i] = one
        known.update(zip(equation.outvars, results, strict=True))
    return [value(v) for v in jaxpr.outvars], found


def _bound(equation: Any, operands: Sequence[Any]) -> list[Any]:
    """The equation as it is."""
    primitive = equation.primitive
    with equation.ctx.manager:
        results = primitive.bind(*operands, **primitive.get_bind_params(equation.params))
    return results if primitive.multiple_results else [results]


def _called(
    equation: Any, operands: list[Any], wanted: list[Address], place: Address | None, values: Sequence[Any]
) -> tuple[list[Any], list[Any]]:
    """`evaluate` of a function that is called, or called with its values to be recomputed for the gradient."""
    inner, within = _reachable(equation), [address[1:] for address in wanted]

    def body(*operands: Any) -> tuple[list[Any], list[Any]]:
        return evaluate(inner, operands, within, place and place[1:], values)

    if equation.primitive.name in REMATS:
        parameters = equation.params
        return jax.checkpoint(body, prevent_cse=parameters["prevent_cse"], policy=parameters["policy"])(*operands)
    return body(*operands)


def _scanned(
    equation: Any, operands: list[Any], wanted: list[Address], place: Address | None, values: Sequence[Any]
) -> tuple[list[Any], list[Any]]:
    """`evaluate` of a scan; with values put in at a step: the steps before, dead then, that step, and the steps after."""
    constants, carry, xs = _parts(equation, operands)
    inner, parameters = _reachable(equation), equation.params
    reverse, unroll, length = parameters["reverse"], parameters["unroll"], parameters["length"]
    within = list(dict.fromkeys(address[1:] for address in wanted))

    def body(carry: Any, x: Any, place: Address | None = None) -> tuple[Any, Any]:
        results, read = evaluate(inner, [*constants, *carry, *x], within, place, values)
        return results[: len(carry)], (results[len(carry) :], read)

    def scan(carry: Any, xs: Any, length: int) -> tuple[Any, Any]:
        return lax.scan(body, carry, xs, length, reverse=reverse, unroll=unroll)

    if place is None:
        carry, (ys, read) = scan(carry, xs, length)
        return [*carry, *ys], [[leaf[a[0][1]] for leaf in read[within.index(a[1:])]] for a in wanted]
    step: Any = place[0][1]
    first, last = [x[:step] for x in xs], [x[step + 1 :] for x in xs]
    before, after = (last, first) if reverse else (first, last)
    sizes = (length - step - 1, step) if reverse else (step, length - step - 1)
    carry, (ys_before, _) = scan(carry, before, sizes[0])
    carry, (y, _) = body(carry, [x[step] for x in xs], place[1:])
    carry, (ys_after, _) = scan(carry, after, sizes[1])
    low, high = (ys_after, ys_before) if reverse else (ys_before, ys_after)
    return [*carry, *(jnp.concatenate([a, b[None], c]) for a, b, c in zip(low, y, high, strict=True))], []


# What differs between versions of JAX.


def _opened(jaxpr: Any) -> tuple[Any, Sequence[Any]]:
    """The jaxpr and its constants: one object or two."""
    return getattr(jaxpr, "jaxpr", jaxpr), getattr(jaxpr, "consts", ())


def _parts(equation: Any, operands: Sequence[Any]) -> tuple[list[Any], list[Any], list[Any]]:
    """The operands of a scan: constants, carry, and what is scanned over."""
    if "ft_in" in equation.params:
        constants, carry, _ = map(len, equation.params["ft_in"].unpack())
    else:
        constants, carry = equation.params["num_consts"], equation.params["num_carry"]
    return (
        list(operands[:constants]),
        list(operands[constants : constants + carry]),
        list(operands[constants + carry :]),
    )


def _reachable(equation: Any) -> Any:
    """The function that the equation calls, if marks in it can be read."""
    if equation.primitive.name not in {"scan", *CALLS, *REMATS}:
        return None
    return equation.params.get("jaxpr", equation.params.get("call_jaxpr"))


def _jaxprs(parameters: dict[str, Any]) -> list[Any]:
    """All traces among the parameters of an equation."""
    values = [v for value in parameters.values() for v in (value if isinstance(value, (tuple, list)) else [value])]
    return [value for value in values if hasattr(_opened(value)[0], "eqns")]
