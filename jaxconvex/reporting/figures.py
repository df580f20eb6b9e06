"""How our figures look: style, panels, axes, labels that keep out of each other's way, files."""

from __future__ import annotations

import contextlib
import io
import math
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxconvex._internal.formats import name_text, write_file

try:
    import matplotlib as mpl
    from matplotlib.axes import Axes
    from matplotlib.collections import LineCollection, PathCollection, PolyCollection, QuadMesh
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.text import Annotation
    from matplotlib.textpath import TextPath
    from matplotlib.ticker import FuncFormatter, MaxNLocator
except ModuleNotFoundError as error:
    needed = 'figures need matplotlib; run: pip install "jaxconvex[report]"'
    raise ModuleNotFoundError(needed, name=error.name) from error

__all__ = ["Axes", "Figure", "band", "colours", "figure_bytes", "finish_layers", "label_ends", "label_points", "marks"]
__all__ += ["name_classes", "name_places", "note_hollow"]
__all__ += ["panels", "percent_axis", "save_figure", "shorten", "tell", "text_width", "width_for", "width_of_ends"]
__all__ += ["Annotation", "LineCollection", "PathCollection", "PolyCollection", "QuadMesh"]

# Okabe and Ito's colours, which people with any common colour blindness tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
INK, MUTED, FAINT = "#222222", "#6b6b6b", "#e4e4e4"
STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#9a9a9a",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "text.color": INK,
    "xtick.color": "#9a9a9a",
    "ytick.color": "#9a9a9a",
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "figure.facecolor": "white",
    "svg.hashsalt": "jaxconvex",
}


def figure_bytes(figure: Figure, kind: str = "svg") -> bytes:
    """The figure as a file's content, "png" (150 dpi) or "svg"; the same figure gives the same bytes."""
    stream = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    with mpl.rc_context(STYLE):
        figure.savefig(stream, format=kind, dpi=150, bbox_inches="tight", pad_inches=0.08, metadata=metadata)
    return stream.getvalue()


def save_figure(figure: Figure, stem: str | os.PathLike[str]) -> tuple[Path, Path]:
    """The two paths, stem.png (150 dpi) and stem.svg, after writing the figure to them.

    Raises OSError for a path that cannot be written.
    """
    paths = (Path(f"{os.fspath(stem)}.png"), Path(f"{os.fspath(stem)}.svg"))
    layout = figure.get_layout_engine()
    with mpl.rc_context(STYLE):
        figure.draw_without_rendering()
    figure.set_layout_engine("none")  # once is enough: it takes most of the time
    for path in paths:
        write_file(path, figure_bytes(figure, path.suffix[1:]))
    figure.set_layout_engine(layout or "none")
    return paths


def colours(number: int) -> list[Any]:
    """So many colours: Okabe and Ito's seven, beyond them an even scale."""
    return (
        list(COLOURS[:number])
        if number <= len(COLOURS)
        else list(mpl.colormaps["viridis"](np.linspace(0, 0.92, number)))
    )


def width_for(num_layers: int) -> float:
    """The width in inches of a panel with so many layers across."""
    return float(np.clip(0.3 * num_layers + 1.8, 3.2, 8.5))


@contextlib.contextmanager
def panels(number: int, ax: Axes | None, *, width: float, height: float) -> Iterator[tuple[Figure, list[Axes]]]:
    """A new figure with so many panels, beside each other where that fits; or the axes given and their figure."""
    if number == 0:
        raise ValueError("there is nothing to draw: the report has no rows of this kind and level.")
    with mpl.rc_context(STYLE):
        if ax is not None:
            if number != 1:
                raise ValueError(
                    f"one ax holds one kind of score; got {number} kinds. Choose one with kind=, or leave ax out."
                )
            yield ax.figure.figure, [ax]
            return
        beside = number * width <= 10
        lines, columns = (1, number) if beside else (number, 1)
        layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08)
        figure = Figure(figsize=(columns * width, lines * height), layout=layout)
        yield figure, list(figure.subplots(lines, columns, squeeze=False).flat)


def _points(panel: Axes) -> tuple[float, float]:
    """Width and height of the panel in points (1/72 inch), laid out as it now stands."""
    figure = panel.figure.figure
    figure.draw_without_rendering()
    box = panel.get_window_extent()
    return 72 * box.width / figure.dpi, 72 * box.height / figure.dpi


def text_width(text: str, size: float = 9) -> float:
    """The width in points of a line of type."""
    return TextPath((0, 0), text.replace("$", "S") or " ", size=size).get_extents().width


def shorten(name: Any, most: int = 26) -> str:
    """The name of a class or layer for a figure, its middle left out where it is long."""
    text = name_text(name)
    text = text if len(text) <= most else f"{text[: most // 2 - 1]}…{text[-(most - most // 2) :]}"
    return text.replace("$", r"\$")


def band(panel: Axes, x: np.ndarray, lower: np.ndarray, upper: np.ndarray, colour: str, *, alpha: float) -> None:
    """Draw an interval at every x: a band, or a bar at a point whose neighbours have none."""
    finite = np.isfinite(lower) & np.isfinite(upper)
    if not finite.any():
        return
    beside = np.concatenate([[False], finite, [False]])
    alone = finite & ~beside[:-2] & ~beside[2:]
    panel.fill_between(x, lower, upper, where=finite, color=colour, alpha=alpha, linewidth=0)
    panel.vlines(x[alone], lower[alone], upper[alone], color=colour, alpha=min(1, 3 * alpha), linewidth=2)


def finish_layers(
    panel: Axes, layers: Sequence[str], *, edge: float = 0.35, grid: bool = True, reserve: float = 0
) -> None:
    """Name the layers along the x axis, so that they never overlap.

    In full where they fit; else by what tells them apart, the rest below the axis; else slanted, and only every so
    many. `reserve` is the width in points that labels beside the panel will take.
    """
    name_places(panel, layers)
    panel.set_xlim(-edge, len(layers) - 1 + edge)
    if grid:
        panel.grid(axis="y", color=FAINT, linewidth=0.8)
    spacing = max(_points(panel)[0] - reserve, 36) / max(len(layers) - 1 + 2 * edge, 1)
    names, step, slant = [shorten(layer) for layer in layers], 1, False
    if _widest(names) > spacing:
        names, common = _apart(layers)
        panel.set_xlabel(common)
        step = math.ceil(_widest(names) / spacing)
        slant = step > (3 if all(name.isdigit() for name in names) else 1)
        step = math.ceil(13 / spacing) if slant else step
    places = range(0, len(layers), step)
    panel.set_xticks(list(places), [names[index] for index in places])
    for text in panel.get_xticklabels() if slant else ():
        text.set(rotation=40, ha="right", rotation_mode="anchor")


def name_places(panel: Any, names: Sequence[Any], axis: str = "x") -> None:
    """Have marks at 0, 1, ... of an axis say these names in full where they are pointed at, whatever the ticks show."""
    panel.named = axis
    setattr(panel, f"fmt_{axis}data", lambda place: name_text(names[round(place)]))


def _widest(names: Sequence[str]) -> float:
    return max(map(text_width, names), default=0) + 6


def _apart(layers: Sequence[str]) -> tuple[list[str], str]:
    """What tells the names apart, and what they share around it: block_0.out, block_1.out -> 0, 1 and "block_….out"."""
    before = _common_prefix(layers)
    rests = [layer[len(before) :] for layer in layers]
    if not all(rest[:1].isdigit() for rest in rests) or before[-1:].isdigit():
        before = before[: len(before) - len(re.split(r"[^A-Za-z0-9]", before)[-1])]
    rests = [layer[len(before) :] for layer in layers]
    after = _common_prefix([rest[::-1] for rest in rests])[::-1]
    after = re.sub(r"^[A-Za-z0-9]+", "", after)
    names = [rest[: len(rest) - len(after)] for rest in rests]
    if not (before or after) or len(layers) < 2 or not all(names):
        return [shorten(layer) for layer in layers], ""
    return [shorten(name) for name in names], shorten(f"{before}…{after}" if after else before.rstrip(" _-./:"), 60)


def _common_prefix(texts: Sequence[str]) -> str:
    first, last = min(texts), max(texts)
    return next((first[:length] for length, c in enumerate(first) if c != last[length : length + 1]), first)


def name_classes(panel: Axes, labels: Sequence[Any]) -> None:
    """Name the classes along the y axis, in smaller type or only every so many where they are dense."""
    name_places(panel, labels, "y")
    spacing = _points(panel)[1] / max(len(labels), 1)
    size = float(np.clip(0.9 * spacing, 5.5, 9))
    places = range(0, len(labels), math.ceil(1.05 * size / spacing))
    panel.set_yticks(list(places), [shorten(labels[index]) for index in places], fontsize=size)


def percent_axis(axis: Any, *, signed: bool = False, unit: str = "%") -> None:
    """Format an axis of fractions in percent, or in percentage points: with their sign, or without a unit."""

    def text(share: float, _: Any) -> str:
        low, high = axis.get_view_interval()  # as many digits as neighbouring ticks need to differ
        digits = max(0, math.ceil(-math.log10(20 * abs(high - low)))) if high != low else 1
        percent = f"{100 * share:.{digits}f}"
        if not signed:
            return f"{percent}{unit}"
        return "0" if not float(percent) else f"{float(percent):+.{digits}f}".replace("-", "−")

    said = "" if signed else unit
    setattr(axis.axes, f"fmt_{axis.axis_name}data", lambda share: f"{100 * share:{'+' if signed else ''}.1f}{said}")
    axis.set_major_formatter(FuncFormatter(text))
    axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))


def width_of_ends(names: Sequence[str]) -> float:
    """The width in points that `label_ends` takes beside the panel."""
    return max((1.15 * text_width(shorten(name)) + 12 for name in names if name), default=0)


def label_ends(panel: Axes, ends: Sequence[tuple[float, float, str, Any]]) -> None:
    """Write each (x, y, name, colour) beside the end of its line, apart by a line of type where the ends are close."""
    named = sorted((end for end in ends if end[2] and math.isfinite(end[1])), key=lambda end: end[1])
    if not named:
        return
    low, high = panel.get_ylim()
    scale = _points(panel)[1] / (high - low)
    wished = np.array([(end[1] - low) * scale for end in named])
    placed = wished.copy()
    for _ in range(200):
        close = np.flatnonzero(np.diff(placed) < 11.5)
        if not close.size:
            break
        for index in close:
            push = (11.6 - (placed[index + 1] - placed[index])) / 2
            placed[index] -= push
            placed[index + 1] += push
    for (x, y, name, colour), shift in zip(named, placed - wished, strict=True):
        panel.annotate(
            shorten(name), (x, y), (9, shift), textcoords="offset points", color=colour, va="center", fontweight="bold"
        )


def tell(line: Any, series: str, said: Sequence[str]) -> None:
    """Say "where: what" of each point of a line, or each cell of a mesh, where a page shows the figure."""
    line.series, line.said = series, list(said)


def marks(
    panel: Axes,
    x: np.ndarray,
    y: np.ndarray,
    hollow: np.ndarray,
    *,
    colour: Any,
    size: float,
    label: str,
    series: str,
    said: Sequence[str],
) -> None:
    """Draw the points as filled marks, those that are `hollow` (bool) as hollow ones; with what `tell` says of them."""
    faces = ((~hollow, colour, label), (hollow, "white", f"{label}, hollow"))
    for chosen, face, name in faces[: 1 + hollow.any()]:
        style = {"color": colour, "markersize": size, "markerfacecolor": face, "label": name}
        (drawn,) = panel.plot(x[chosen], y[chosen], "o", **style)
        tell(drawn, series, [text for text, own in zip(said, chosen, strict=True) if own])


def note_hollow(figure: Figure, meaning: str) -> None:
    """Write below the panels what the hollow marks mean, if there are any."""
    if any(str(line.get_label()).endswith(", hollow") for panel in figure.axes for line in panel.lines):
        figure.supxlabel(f"○ {meaning}", x=0.98, ha="right", fontsize=7.5, color=MUTED)


def label_points(panel: Axes, x: np.ndarray, y: np.ndarray, names: Sequence[str], *, size: float = 8) -> None:
    """Write a name beside each point, where there is room; the points farthest from the middle choose first."""
    width, height = _points(panel)
    (left, right), (low, high) = panel.get_xlim(), panel.get_ylim()
    spots = np.stack([(x - left) / (right - left) * width, (y - low) / (high - low) * height], axis=-1)
    taken = [(px - 3.5, py - 3.5, px + 3.5, py + 3.5) for px, py in spots]
    middle = spots.mean(axis=0) if len(spots) else 0
    for index in np.argsort(-np.square(spots - middle).sum(axis=-1), kind="stable"):
        text = shorten(names[index], 20)
        if not text:
            continue
        wide, tall, (px, py) = text_width(text, size) + 2, size, spots[index]
        sides = ((5, -tall / 2), (-5 - wide, -tall / 2), (-wide / 2, 5), (-wide / 2, -5 - tall))
        corners = ((4, 3), (4, -3 - tall), (-4 - wide, 3), (-4 - wide, -3 - tall))
        for dx, dy in (*sides, *corners) if len(spots) <= 30 else sides[:2]:
            box = (px + dx, py + dy, px + dx + wide, py + dy + tall)
            inside = box[0] >= 0 and box[1] >= 0 and box[2] <= width and box[3] <= height
            if inside and not any(_overlap(box, other) for other in taken):
                spot = (x[index], y[index])
                panel.annotate(text, spot, (dx, dy + 1), textcoords="offset points", fontsize=size, color=MUTED)
                taken.append(box)
                break


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
