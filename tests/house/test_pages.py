"""The documents: their examples run, every public name has its place, and the drawing of imports shows what there is."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
import sys
from functools import partial, reduce
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from documents import ROOT, blocks, run

import jaxconvex

DOCS = ROOT / "docs"
if not DOCS.exists():
    pytest.skip("the pages are not beside the tests", allow_module_level=True)

PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
LIBRARIES = DOCS / "libraries.md"


def users_model():
    """What README's reader has: a model, its inputs and their classes; the model is that of the page on models."""
    names = {}
    exec(blocks(DOCS / "model.md")[0], names)
    return {"model": names["model"], "x": jax.random.normal(jax.random.key(0), (300, 5, 8)), "y": np.arange(300) % 3}


def other_libraries():
    """Neighbours as pynndescent and faiss give them, by scikit-learn."""
    from sklearn.neighbors import NearestNeighbors

    def search(x, count, power=1):
        distances, indices = NearestNeighbors(n_neighbors=count).fit(x).kneighbors(x)
        return distances**power, indices

    def descent(x, n_neighbors):
        return SimpleNamespace(neighbor_graph=search(x, n_neighbors)[::-1])

    return {
        "pynndescent": SimpleNamespace(NNDescent=descent),
        "index": SimpleNamespace(search=partial(search, power=2)),
    }


READERS = {"README.md": users_model, "embeddings.md": other_libraries}


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: page.name)
def test_the_examples_call_what_there_is(page):
    tree = ast.parse("\n".join(blocks(page)))
    known = {"jaxconvex": jaxconvex}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("jaxconvex"):
            module = importlib.import_module(node.module)
            known |= {alias.asname or alias.name: getattr(module, alias.name) for alias in node.names}
    calls = 0
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[0] in known:
            first, *rest = ast.unparse(node.func).split(".")
            signature = inspect.signature(reduce(getattr, rest, known[first]))
            signature.bind(*node.args, **{keyword.arg: None for keyword in node.keywords})
            calls += 1
    assert calls


@pytest.mark.long
def test_models_of_other_libraries(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    for library in ("equinox", "keras"):
        pytest.importorskip(library, reason=f"{library} is not installed")
    run(LIBRARIES, {})


@pytest.mark.long
@pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks(page) and page != LIBRARIES], ids=lambda page: page.name
)
def test_the_examples_run(page, tmp_path, monkeypatch):
    pytest.importorskip("sklearn")
    pytest.importorskip("safetensors")
    monkeypatch.chdir(tmp_path)
    few = partial(jaxconvex.evaluate, progress=False)
    # Intervals and the null have tests of their own, and take most of the time.
    monkeypatch.setattr(
        jaxconvex, "evaluate", lambda *data, **more: few(*data, **more | {"jackknife": False, "permutations": 0})
    )
    run(page, READERS.get(page.name, dict)())


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"])
def test_links_lead_somewhere(name):
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", (ROOT / name).read_text(encoding="utf-8"))
    assert [link for link in links if not (ROOT / link).exists()] == []


def public_names():
    """Return the names that the package and its folders declare, without those of a folder that the package has too."""
    names = {f"jaxconvex.{name}": getattr(jaxconvex, name) for name in jaxconvex.__all__}
    flat = set(map(id, names.values()))
    for folder in pkgutil.iter_modules(jaxconvex.__path__):
        if folder.ispkg and not folder.name.startswith("_"):
            module = importlib.import_module(f"jaxconvex.{folder.name}")
            declared = {f"{module.__name__}.{name}": getattr(module, name) for name in getattr(module, "__all__", ())}
            names |= {name: value for name, value in declared.items() if id(value) not in flat}
    return {name for name, value in names.items() if callable(value)}


def test_every_public_name_is_on_a_page_of_the_api():
    text = "\n".join(page.read_text(encoding="utf-8") for page in (DOCS / "api").glob("*.md"))
    listed = re.findall(r"^\.\. auto(class|function):: ([\w.]+)$", text, re.MULTILINE)
    named = [name for _, name in listed]
    assert len(set(named)) == len(named)
    missing = sorted(public_names() - set(named))
    assert not missing, f"name these on the page of their folder in docs/api/: {missing}"
    for kind, name in listed:
        module, _, last = name.rpartition(".")
        value = getattr(importlib.import_module(module), last)
        assert inspect.isclass(value) == (kind == "class") and inspect.getdoc(value), name


@pytest.fixture
def import_graph(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS))
    yield importlib.import_module("import_graph")
    sys.modules.pop("import_graph")


def test_the_drawing_of_imports(import_graph, tmp_path):
    files = {
        "__init__.py": "from house.roof import tiles",
        "ground/__init__.py": "",
        "ground/stone.py": "from __future__ import annotations\nimport numpy",
        "walls.py": "from house.ground.stone import stones",
        "roof/__init__.py": "import house.walls\nfrom house.ground import stone\n",
        "roof/tiles.py": "from house.roof import ridge\ndef late():\n    from house import garden",
        "garden/__init__.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from house.roof import tiles",
    }
    package = tmp_path / "house"
    for name, text in files.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text)
    graph = import_graph.imports(package)
    assert graph == {"ground": set(), "walls": {"ground"}, "roof": {"walls", "ground", "garden"}, "garden": set()}
    rows = import_graph.ranks(graph)
    assert rows == {"ground": 0, "garden": 0, "walls": 1, "roof": 2}
    down, back = import_graph.arrows(graph, rows)
    assert sorted(down) == [("garden", "roof"), ("ground", "walls"), ("walls", "roof")] and not back
    picture = import_graph.drawing(package)
    assert picture.count("marker-end") == 3 and ">stone<" in picture and "#c22" not in picture

    (package / "ground" / "stone.py").write_text("from house.roof import tiles")
    graph = import_graph.imports(package)
    down, back = import_graph.arrows(graph, import_graph.ranks(graph))
    assert back and import_graph.drawing(package).count("#c22") == len(back)  # a circle is seen, wherever it is cut


def test_the_drawing_shows_every_folder(import_graph):
    import xml.etree.ElementTree as tree

    package = ROOT / "jaxconvex"
    texts = [element.text for element in tree.fromstring(import_graph.drawing(package)).iter() if element.text]
    folders = {f"{path.parent.name}/" for path in package.glob("*/__init__.py")}
    assert folders and folders <= set(texts)
