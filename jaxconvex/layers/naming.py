"""The layers of a trace by name: those read when none are named, those asked for, and a list of all."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from jaxconvex._internal.messages import listed
from jaxconvex.layers.marks import Site

__all__ = ["LayerList", "LayerName", "chosen_layers", "found_layer", "layer_list", "name_sites"]

SHOWN = 12  # layers that a message lists


class LayerName(NamedTuple):
    """A layer of a model, as `layer_names` tells it."""

    name: str
    type: str  # of the module
    shapes: tuple[tuple[int, ...], ...]  # of its arrays, most often one
    dtypes: tuple[str, ...]
    default: bool  # read when no layers are named
    part: str  # of what the module returns, "" for all
    inside: str  # what it stands in, if it cannot be read there


class LayerList(tuple[LayerName, ...]):
    """Layers in the order of execution; printed as a table."""

    def __repr__(self) -> str:
        lines = [
            (
                layer.name,
                layer.type,
                ", ".join(map(str, layer.shapes)),
                ", ".join(dict.fromkeys(layer.dtypes)),
                _said(layer),
            )
            for layer in self
        ]
        widths = [max((len(line[i]) for line in lines), default=0) for i in range(4)]
        rows = ["  ".join([*map(str.ljust, line, widths), line[4]]).rstrip() for line in lines]
        return "\n".join(rows)


def _said(layer: LayerName) -> str:
    parts = ["default"] * layer.default + [f"part {layer.part}"] * bool(layer.part)
    return ", ".join([*parts, *[f"inside {layer.inside}, not read"] * bool(layer.inside)])


def name_sites(sites: list[Site]) -> dict[str, Site]:
    """Name -> mark: its path, with the method that is not the module's call; for the second value path@2, and so on."""
    calls: Counter[str] = Counter()
    named = {}
    for site in sites:
        name = ".".join(filter(None, [site.label.path, site.label.method]))
        calls[name] += 1
        named[name if calls[name] == 1 else f"{name}@{calls[name]}"] = site
    return named


def layer_list(sites: dict[str, Site]) -> LayerList:
    """All layers, with their types and shapes."""
    default = set(_default(sites))

    def told(name: str, site: Site) -> LayerName:
        shapes = tuple(tuple(leaf.shape) for leaf in site.shapes)
        dtypes = tuple(str(leaf.dtype) for leaf in site.shapes)
        return LayerName(name, site.label.kind, shapes, dtypes, name in default, site.label.part, site.enclosure or "")

    return LayerList(told(name, site) for name, site in sites.items())


def chosen_layers(sites: dict[str, Site], patterns: tuple[str, ...] | None) -> list[str]:
    """The layers to read, in the order of execution."""
    readable = [name for name, site in sites.items() if site.enclosure is None]
    if patterns is None:
        blocks = _default(sites)
        if not blocks:
            raise ValueError(
                f"the model has no blocks among its direct submodules; name layers= of {listed(readable)}."
            )
        return blocks
    chosen = set()
    for pattern in patterns:
        expression = re.escape(pattern).replace(r"\*\*", ".*").replace(r"\*", "[^/]*")
        matches = [name for name in readable if re.fullmatch(expression, name)]
        chosen.update(matches or [found_layer(sites, pattern)[0]])
    return [name for name in readable if name in chosen]


def found_layer(sites: dict[str, Site], layer: str) -> tuple[str, Site]:
    """The layer of this name, or of a module's method where it is the only one, "encoder" for "encoder.encode"."""
    methods = [name for name, site in sites.items() if site.label.method and site.label.path == layer]
    name = methods[0] if layer not in sites and len(methods) == 1 else layer
    site = sites.get(name)
    if site is None:
        nearest = listed(sites, layer)
        names = re.findall("'([^']*)'", nearest)
        table = LayerList(one for one in layer_list(sites) if one.name in names[:SHOWN])
        raise ValueError(
            f"the model has no layer {layer!r}; it has, the nearest first, {nearest}. layer_names(model, *inputs) lists "
            f"all; of these:\n{table}"
        )
    if site.enclosure is not None:
        raise ValueError(
            f"layer {layer!r} stands inside {site.enclosure!r}, where it cannot be read or replaced: what a loop of unknown "
            "length, a branch or a function with its own gradient computes is not seen outside. Take a layer around it; or "
            "write the loop in Python or as a scan, whose steps are layers."
        )
    return name, site


# What is read when no layers are named --------------------------------------------------------------------------------


def _default(sites: dict[str, Site]) -> list[str]:
    """The outermost layers; those in a wrapper in the place of the wrapper, down to where blocks repeat.

    A wrapper is the only layer of its level, or one below which blocks repeat while at its own level none do. Blocks repeat
    where two layers of one level, with layers of their own, have names that differ by a number.
    """
    usable = {name: site for name, site in sites.items() if site.enclosure is None and not site.over_time}
    called = {one for site in sites.values() if not site.label.method for one in _modules(site)}
    blocks = {
        name: site.label.path
        for name, site in usable.items()
        if not site.label.container and (not site.label.method or site.label.path not in called)
    }
    calls = Counter(blocks.values())
    chosen = set(_descended(_below(list(calls)), calls))
    return [name for name, path in blocks.items() if path in chosen]


def _modules(site: Site) -> set[str]:
    """Where the module of a site may stand, which a scan may have given the number of a step."""
    return {site.label.path, re.sub(r"/\d+(?=/|$)", "", site.label.path)}


Levels = dict[str, "Levels"]


def _below(paths: Sequence[str]) -> Levels:
    """The paths as a tree: each outermost one with those inside it."""
    all_paths = set(paths)
    inside: dict[str, list[str]] = {}
    for path in paths:
        names = path.split("/")
        outer = [outer for i in range(1, len(names)) if (outer := "/".join(names[:i])) in all_paths]
        inside.setdefault(outer[0] if outer else path, []).extend([path] if outer else [])
    return {path: _below(within) for path, within in inside.items() if path in all_paths}


def _descended(level: Levels, calls: Counter[str]) -> list[str]:
    if _repeats(level):
        return list(level)
    found: list[str] = []
    for path, inside in level.items():
        wrapper = bool(inside) and (len(level) == calls[path] == 1 or _holds_repeated(inside))
        found += _descended(inside, calls) if wrapper else [path]
    return found


def _repeats(level: Levels) -> bool:
    families = Counter(re.sub(r"\d+", "#", path) for path, inside in level.items() if inside)
    return any(count > 1 for count in families.values())


def _holds_repeated(level: Levels) -> bool:
    return _repeats(level) or any(_holds_repeated(inside) for inside in level.values())
