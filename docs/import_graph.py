"""Draw the imports between the folders of the package, from the code: `python docs/import_graph.py > imports.svg`.

A box is a folder, or a module beside the folders. Boxes stand below all that they import, and an arrow goes from a box to
one that imports it, on the right. An arrow is left out where a longer way says the same. One that runs back is red, on the
left.
"""

from __future__ import annotations

import ast
import html
import textwrap
from pathlib import Path

LEFT, WIDTH, GAP, LINE = 60, 420, 12, 14  # pixels: the left edge of boxes, their width, between them, a line of text
LETTERS = 68  # in a line
ENTRANCES = {"__init__", "__main__"}  # they hand over to the others


def imports(package: Path) -> dict[str, set[str]]:
    """Return for each folder (or module) of the package which others it imports, anywhere but for type checkers alone."""
    found: dict[str, set[str]] = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        if parts[0] in ENTRANCES:
            continue
        here = found.setdefault(parts[0], set())
        for name in _imported(ast.parse(path.read_text(encoding="utf-8")), package.name):
            if (package / name).is_dir() or (package / f"{name}.py").exists():
                here.add(name)
    return {name: others - {name} - ENTRANCES for name, others in found.items()}


def _imported(tree: ast.AST, package: str) -> set[str]:
    """Return the second parts of `package.name...` in the import statements below a node."""
    names: set[str] = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            start = [node.module] if node.module != package else []
            whole = start or [f"{package}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            whole = [alias.name for alias in node.names]
        else:
            names |= _imported(node, package)
            continue
        names |= {name.split(".")[1] for name in whole if name.startswith(f"{package}.")}
    return names


def ranks(graph: dict[str, set[str]]) -> dict[str, int]:
    """Return the row of each box: 0 where it imports nothing, else one below the lowest of what it imports.

    Where boxes import each other in a circle, the import that closes it, in the order of the walk, is passed over.
    """
    found: dict[str, int] = {}

    def visit(name: str, above: tuple[str, ...]) -> int:
        if name not in found:
            others = [other for other in sorted(graph[name]) if other not in (*above, name)]
            found[name] = 1 + max((visit(other, (*above, name)) for other in others), default=-1)
        return found[name]

    for name in sorted(graph):
        visit(name, ())
    return found


def arrows(graph: dict[str, set[str]], rows: dict[str, int]) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Return the arrows down, without those that a longer way implies, and the arrows that run back."""
    down = {name: {other for other in others if rows[other] < rows[name]} for name, others in graph.items()}
    back = [(other, name) for name in graph for other in sorted(graph[name] - down[name])]
    reach: dict[str, set[str]] = {}
    for name in sorted(graph, key=rows.__getitem__):
        reach[name] = down[name].union(*(reach[other] for other in down[name]))
    kept = [
        (other, name)
        for name in graph
        for other in sorted(down[name])
        if not any(other in reach[between] for between in down[name] - {other})
    ]
    return kept, back


def _modules(folder: Path) -> list[str]:
    """Return what lies in a folder, as lines of a box; nothing for a module."""
    paths = [*folder.glob("*.py"), *(path.parent for path in folder.glob("*/__init__.py"))]
    names = sorted(path.stem + "/" * path.is_dir() for path in paths if path.stem != "__init__")
    return textwrap.wrap(", ".join(names), LETTERS, break_long_words=False)


def _box(name: str, top: float, lines: list[str], folder: bool) -> str:
    fill = "#eaf1fb" if folder else "#f5f5f5"
    texts = [
        f'<text x="{LEFT + 10}" y="{top + 36 + LINE * i}" font-size="11" fill="#445">{html.escape(line)}</text>'
        for i, line in enumerate(lines)
    ]
    return (
        f'<rect x="{LEFT}" y="{top}" width="{WIDTH}" height="{_height(lines)}" rx="5" fill="{fill}" stroke="#778"/>'
        f'<text x="{LEFT + 10}" y="{top + 19}" font-size="14" font-weight="bold" fill="#223">'
        f"{html.escape(name)}{'/' * folder}</text>{''.join(texts)}"
    )


def _height(lines: list[str]) -> int:
    return 28 + LINE * len(lines) + 6 * bool(lines)


def _arrow(start: float, end: float, steps: int, colour: str) -> str:
    """Return an arc from a box to another, steps below it: on the right, or on the left where it runs back."""
    edge, side = (LEFT + WIDTH, 1) if steps > 0 else (LEFT, -1)
    bend = edge + side * (18 + 16 * abs(steps))
    return (
        f'<path d="M{edge} {start:.0f}C{bend} {start:.0f} {bend} {end:.0f} {edge} {end:.0f}" fill="none" '
        f'stroke="{colour}" stroke-width="1.4" marker-end="url(#head)"/>'
    )


def drawing(package: Path) -> str:
    """Return the drawing as SVG."""
    graph = imports(package)
    rows = ranks(graph)
    order = sorted(graph, key=lambda name: (rows[name], name))
    lines = {name: _modules(package / name) for name in order}
    tops, height = {}, 10
    for name in order:
        tops[name] = height
        height += _height(lines[name]) + GAP
    width = LEFT + WIDTH + 24 + 13 * len(order)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif">',
        '<defs><marker id="head" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="6" markerHeight="6" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="#667"/></marker></defs>',
        '<rect width="100%" height="100%" fill="#fff"/>',
    ]
    down, back = arrows(graph, rows)
    for colour, pairs in (("#88a", down), ("#c22", back)):
        for first, second in pairs:
            start = tops[first] + 0.7 * _height(lines[first])
            end = tops[second] + 0.3 * _height(lines[second])
            out.append(_arrow(start, end, order.index(second) - order.index(first), colour))
    out += [_box(name, tops[name], lines[name], (package / name).is_dir()) for name in order]
    return "\n".join([*out, "</svg>\n"])


if __name__ == "__main__":
    print(drawing(Path(__file__).parents[1] / "jaxconvex"))
