"""The house: data flow through the folders in one order, no import runs back, and what is private stays in its folder."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import jaxconvex

ROOT = Path(jaxconvex.__file__).parent
ORDER = ["_internal", "neighbors", "paths", "scores", "statistics", "losses", "layers", "encoders", "evaluation"]
ORDER += ["reporting", "study", "cli"]
MODULES = {".".join(("jaxconvex", *path.relative_to(ROOT).with_suffix("").parts)): path for path in ROOT.rglob("*.py")}


def imports(path):
    """The (module, name) pairs that a file imports from the package, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "jaxconvex":
            yield from ((node.module, alias.name) for alias in node.names)
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names if alias.name.split(".")[0] == "jaxconvex")


def folder_of(module, name=""):
    parts = [*module.split("."), name]
    return parts[1] if parts[1] in ORDER else ""


def arrows():
    for module, path in MODULES.items():
        own = folder_of(module)
        for imported, name in imports(path):
            other = folder_of(imported, name)
            if own and other and own != other:
                yield module, own, imported, other, name


def test_every_folder_has_its_place():
    folders = {path.name for path in ROOT.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == set(ORDER)
    assert {path.name for path in ROOT.glob("*.py")} == {"__init__.py", "__main__.py"}


def test_no_import_runs_back():
    back = [(module, imported) for module, own, imported, other, _ in arrows() if ORDER.index(other) > ORDER.index(own)]
    assert back == []
    assert len(set(arrows())) > 200  # the arrows are there to be judged


def test_nothing_private_is_imported_from_another_folder():
    private = [(module, imported, name) for module, _, imported, _, name in arrows() if name.startswith("_")]
    assert private == []


def test_no_modules_import_each_other_in_a_circle():
    edges = {}
    for module, path in MODULES.items():
        tops = [node for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.ImportFrom)]
        named = [(f"{node.module}.{alias.name}", node.module) for node in tops for alias in node.names]
        edges[module] = {full if full in MODULES else home for full, home in named if {full, home} & set(MODULES)}
    left = dict(edges)
    while ends := [module for module, found in left.items() if not found & set(left)]:
        for module in ends:
            del left[module]
    assert left == {}


@pytest.mark.parametrize("folder", ORDER[:6])
def test_the_core_knows_no_models_and_no_figures(folder):
    for path in (ROOT / folder).rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not {name.split(".")[0] for name in names} & {"flax", "matplotlib", "pandas"}, path


@pytest.mark.parametrize("folder", ORDER)
def test_every_public_function_and_class_says_what_it_is(folder):
    silent, judged = [], 0
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node.name[0] != "_":
                judged += 1
                if not ast.get_docstring(node):
                    silent.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}")
    assert silent == []
    assert judged > 5
