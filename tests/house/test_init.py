"""The public names: each stands where the package says, and nothing is imported before it is needed."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import jaxconvex


def test_every_name_stands_where_type_checkers_find_it():
    tree = ast.parse(inspect.getsource(jaxconvex))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    others = {"__future__", "typing", "jaxconvex._internal.lazy"}
    homes = {name.name: node.module for node in imports if node.module not in others for name in node.names}
    assert sorted(homes) == sorted(jaxconvex.__all__)
    for name, module in homes.items():
        assert getattr(jaxconvex, name) is getattr(importlib.import_module(module), name)


def test_names_are_listed_and_unknown_ones_refused():
    assert set(jaxconvex.__all__) <= set(dir(jaxconvex))
    assert jaxconvex.neighbors.pairwise is jaxconvex.pairwise
    with pytest.raises(AttributeError, match="no attribute 'knn_grahp'"):
        _ = jaxconvex.knn_grahp
    with pytest.raises(ImportError, match="knn_grahp"):
        from jaxconvex import knn_grahp  # noqa: F401


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import jaxconvex", {"jax", "scipy", "numpy"}),
        ("from jaxconvex.cli.main import main; main(['--help'])", {"jax", "scipy", "numpy", "matplotlib"}),
        ("from jaxconvex.cli.main import main; main(['score', '--help'])", {"jax", "scipy", "matplotlib"}),
        (
            "from jaxconvex import knn_graph, graph_convexity, evaluate",
            {"scipy.sparse", "matplotlib", "pandas", "flax"},
        ),
    ],
)
def test_nothing_is_imported_before_it_is_needed(statement, absent):
    code = f"import sys; {statement}; print('imported:', sorted({absent!r} & set(sys.modules)))"
    root = Path(jaxconvex.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, timeout=120)
    assert done.stdout.splitlines()[-1] == "imported: []", done.stdout + done.stderr
