"""Elements of SVG and HTML as strings: lines, words, strokes and colours, legends and scales of a figure."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Any

import numpy as np

from jaxconvex.reporting import figures
from jaxconvex.reporting.figures import COLOURS, FAINT, INK, MUTED

__all__ = ["legend", "line", "paint", "plain", "px", "scale", "steps", "stroke", "tag", "width", "words"]

PIXELS = 4 / 3  # a point, 1/72 inch, in the pixels of a page
NAMES = {colour.lower(): f"var(--colour-{place})" for place, colour in enumerate(COLOURS[:-1])}
NAMES |= {INK: "var(--ink)", MUTED: "var(--muted)", FAINT: "var(--line)", "#000000": "var(--ink)"}
NAMES |= {"#ffffff": "var(--ground)", "#b3261e": "var(--alarm)"}
DASHES = {"--": "5 3", "-.": "6 3 1.5 3", ":": "1.5 3"}


def tag(tag: str, *content: str, **attributes: Any) -> str:
    """One element with its content; an attribute of None is left out, and class_ is class."""
    shown = [
        f' {name.rstrip("_").replace("_", "-")}="{escape(f"{value:.4g}" if isinstance(value, float) else str(value))}"'
        for name, value in attributes.items()
        if value is not None
    ]
    return f"<{tag}{''.join(shown)}>{''.join(content)}</{tag}>"


def line(x1: float, y1: float, x2: float, y2: float, **attributes: Any) -> str:
    """A line between two spots, in percent."""
    ends = {name: f"{value:.4g}%" for name, value in (("x1", x1), ("y1", y1), ("x2", x2), ("y2", y2))}
    return tag("line", **ends, **attributes)


def words(spot: Any, text: str, *, shift: tuple[float, float], anchor: str = "middle", **attributes: Any) -> str:
    """Text at a spot in percent, shifted by pixels; in a box of its own, so that it can be turned about the spot."""
    words = tag("text", escape(text), text_anchor=anchor, **attributes)
    place = {"x": f"{spot[0]:.4g}%", "y": f"{spot[1]:.4g}%"}
    moved = tag("g", words, transform=f"translate({shift[0]:.4g} {shift[1]:.4g})")
    return tag("svg", moved, overflow="visible", width="1", height="1", **place)


def steps(runs: Iterable[np.ndarray], end: str = "") -> str:
    """The data of a path through runs of points."""
    return " ".join("M" + " L".join(f"{x:.4g} {y:.4g}" for x, y in run) + end for run in runs if len(run))


def stroke(line: Any) -> dict[str, Any]:
    """How a line of a figure is drawn."""
    colour, opacity = paint(line.get_color())
    if line.get_alpha() is not None:
        opacity = line.get_alpha()
    dashes = DASHES.get(line.get_linestyle())
    return {
        "stroke": colour,
        "stroke_opacity": opacity,
        "stroke_width": px(line.get_linewidth()),
        "stroke_dasharray": dashes,
    }


def paint(colour: Any) -> tuple[str, float]:
    """The colour for a page, ours by a name whose value follows the reader's setting, and its opacity."""
    opacity = round(figures.mpl.colors.to_rgba(colour)[3], 3)
    code = figures.mpl.colors.to_hex(colour)
    return NAMES.get(code, code), opacity


def px(points: float) -> float:
    """Points as pixels."""
    return round(PIXELS * points, 2)


def width(text: str) -> float:
    """The width of a text in pixels."""
    return px(figures.text_width(text))


def plain(text: str) -> str:
    """A text of a figure without what its own notation escapes."""
    return text.replace(r"\$", "$")


def legend(legend: Any) -> str:
    """The entries of a legend, which flow as text does."""
    entries = []
    for handle, text in zip(legend.legend_handles, legend.get_texts(), strict=True):
        drawn = []
        if hasattr(handle, "get_marker"):
            if handle.get_linestyle() not in ("None", "none", "", " "):
                drawn.append(tag("path", d="M 0 6 H 26", fill="none", **stroke(handle)))
            if handle.get_marker() not in ("None", "none", "", " ", None):
                drawn.append(tag("circle", cx="13", cy="6", r="4", fill=paint(handle.get_markerfacecolor())[0]))
        else:
            colour, opacity = paint(np.ravel(handle.get_facecolor())[:4])
            drawn.append(tag("rect", x="3", y="1", width="20", height="10", fill=colour, fill_opacity=opacity))
        swatch = tag("svg", *drawn, width="26", height="12", aria_hidden="true")
        entries.append(tag("span", swatch, " ", escape(plain(text.get_text()))))
    return tag("div", *entries, class_="legend")


def scale(mesh: Any) -> str:
    """What the colours of cells mean, where no numbers stand in them."""
    (low, high), unit = mesh.get_clim(), getattr(mesh, "unit", "%")
    shades = (figures.mpl.colors.to_hex(mesh.cmap(share), keep_alpha=True) for share in np.linspace(0, 1, 9))
    steps = ", ".join(shade.removesuffix("ff") if len(shade) == 9 else shade for shade in shades)
    bar = tag("span", class_="scale", style=f"background: linear-gradient(to right, {steps})")
    return tag("div", f"{100 * low:.3g}{unit}", bar, f"{100 * high:.3g}{unit}", class_="legend")
