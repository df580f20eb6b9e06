"""A figure as inline SVG: as wide as its place, in the reader's light or dark, with the value under the pointer.

Positions are percentages of the panel, sizes of text and marks are pixels: so a figure fills a telephone and a large screen
without its text growing or shrinking, and needs no script for it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np

from jaxconvex._internal.formats import Table
from jaxconvex.reporting import figures, svg
from jaxconvex.reporting.figures import FAINT, INK, Axes, Figure

__all__ = ["Inline", "inline_figure"]

ANCHORS = {"left": "start", "center": "middle", "right": "end"}
BASELINES = {"center": "central", "center_baseline": "central", "top": "hanging"}


class Inline(NamedTuple):
    """The figure as HTML, and its points as a table: what its marks say when the pointer is on them."""

    html: str
    numbers: Table


class Mark(NamedTuple):
    """What one mark says: its series, where it is, and its value."""

    series: str
    at: str
    value: str

    def __str__(self) -> str:
        return ": ".join(part for part in self if part)


def inline_figure(figure: Figure, name: str) -> Inline:
    """The figure's panels, legends and notes as HTML with inline SVG; what marks say when pointed at, as a table.

    Drawn are the lines, bands, bars, marks, cells, texts, ticks and legends of our own figures, not all that matplotlib can.
    Panels with titles flow to fewer columns where the page is narrow; those without one scroll in a box of their own.

    Args:
        figure: of matplotlib.
        name: begins the ids in it, so that they differ from those of other figures on the page.

    >>> from matplotlib.figure import Figure
    >>> figure = Figure()
    >>> line = figure.subplots().plot([0, 1], [0.5, 0.75], "o-", label="score")
    >>> drawn = inline_figure(figure, "first")
    >>> drawn.html.count("<circle class=\\"mark") , drawn.numbers.rows
    (2, (('score', '0', '0.5'), ('score', '1', '0.75')))
    """
    with figures.mpl.rc_context(figures.STYLE):
        figure.draw_without_rendering()
    panels = [panel for panel in figure.axes if panel.get_label() != "<colorbar>"]
    columns = len({round(panel.get_position().x0, 2) for panel in panels})
    columns = len(panels) if columns == 1 else columns  # below each other for want of space only, which a page may have
    flowing = all(panel.get_title(loc="left") for panel in panels)
    shown = [_Panel(panel, panels[0], f"{name}-{place}") for place, panel in enumerate(panels)]
    width = max((panel.width for panel in shown), default=300)
    least = f"{0.75 * width:.0f}px"
    track = f"max({least}, calc((100% - {columns - 1} * 1.5rem) / {columns}))" if flowing else least
    tracks = (
        f"repeat(auto-fit, minmax(min(100%, {track}), 1fr))" if flowing else f"repeat({columns}, minmax({least}, 1fr))"
    )
    parts = [svg.legend(legend) for legend in figure.legends]
    parts += [svg.legend(legend) for panel in panels if (legend := panel.get_legend())]
    parts.append(
        svg.tag("div", *(panel.html() for panel in shown), class_="panels", style=f"grid-template-columns: {tracks}")
    )
    parts += [svg.scale(mesh) for panel in shown[:1] for mesh in panel.meshes if not panel.panel.texts]
    if figure.get_supxlabel():
        parts.append(svg.tag("div", escape(figure.get_supxlabel()), class_="below"))
    return Inline(svg.tag("div", *parts, class_="chart"), _numbers(shown))


def _numbers(panels: Sequence[_Panel]) -> Table:
    rows = [(panel.title, *mark) for panel in panels for mark in panel.marks]
    columns = ["panel", "series", "at", "value"]
    kept = [i for i in range(4) if i == 3 or (any(row[i] for row in rows) and (i or len(panels) > 1))]
    body = tuple(dict.fromkeys(tuple(row[i] for i in kept) for row in rows))
    return Table("", tuple(columns[i] for i in kept), body, (), len(kept) - 1)


class _Panel:
    """One panel of a figure as SVG, and what its marks say."""

    def __init__(self, panel: Axes, first: Axes, name: str) -> None:
        self.panel, self.first, self.name = panel, first, name
        box, scale = panel.get_window_extent(), 96 / panel.figure.figure.dpi
        self.width, self.height = box.width * scale + 60, box.height * scale
        self.title = svg.plain(panel.get_title(loc="left") or panel.get_title())
        self.marks: list[Mark] = []
        beside = (panel, *panel.get_shared_y_axes().get_siblings(panel))
        self.order = "yx" if any(getattr(each, "named", "") == "y" for each in beside) else "xy"  # the name, the value
        self.meshes = [each for each in panel.collections if isinstance(each, figures.QuadMesh)]
        reach = [text.get_window_extent().x1 - box.x1 for text in panel.texts if text.get_text()]
        self.right = max(8.0, max(reach, default=0) * scale + 4)

    def html(self) -> str:
        """The title and the drawing, in a box."""
        across, down = _ticks(self.panel.xaxis), _ticks(self.panel.yaxis)
        if not down and self.panel.get_ylim() == self.first.get_ylim() and self.meshes:
            down = _ticks(self.first.yaxis)
        label = svg.plain(self.panel.get_xlabel())
        left = max((svg.width(text) + 12 for _, text in down), default=8)
        below = (24 if across else 6) + 18 * bool(label)
        drawing = [*self._behind(across, down), *self._drawn(), *self._names(across, down, label)]
        drawing.append(svg.tag("style", "\n".join(self._rules(across, left, below))))
        parts = (self.title, svg.plain(self.panel.get_ylabel().replace("\n", " ")))
        head = [
            svg.tag("div", escape(part), class_=name)
            for part, name in zip(parts, ("head", "axis"), strict=True)
            if part
        ]
        drawn = svg.tag("svg", *drawing, id=self.name, role="img", aria_label=self._told())
        least = left + self.right + 23 * len(across) if self.meshes and self.panel.texts else 0
        return svg.tag("div", *head, drawn, class_="panel", style=f"min-width: {least:.0f}px" if least else None)

    def _told(self) -> str:
        """The panel in words: its title, and the first and the last value of each series."""
        said = []
        for series, those in groupby(self.marks, key=lambda mark: mark.series):
            ends = list(dict.fromkeys(f"{mark.at} {mark.value}".strip() for mark in those))
            said.append(
                f"{series or 'values'} from {ends[0]} to {ends[-1]}" if len(ends) > 1 else f"{series} {ends[0]}"
            )
        more = f"; and {len(said) - 6} more" if len(said) > 6 else ""
        return f"{self.title or 'Figure'}. {'; '.join(said[:6])}{more}".replace("\n", " ")

    def _spots(self, artist: Any, points: Any, *, own: bool = True) -> np.ndarray:
        """Points in percent of the panel, from its left and its top."""
        start = artist.get_transform() if own else artist.get_offset_transform()
        filled: np.ndarray = np.ma.filled(np.ma.asarray(points, dtype=float), np.nan).reshape(-1, 2)
        spots = (start - self.panel.transAxes).transform(filled)
        return 100 * np.stack([spots[:, 0], 1 - spots[:, 1]], axis=-1)

    # What is drawn, from the back to the front --------------------------------------------------------------------

    def _behind(self, across: Sequence[tuple[float, str]], down: Sequence[tuple[float, str]]) -> Iterator[str]:
        """The grid and the axes."""
        for axis, ticks, upright in ((self.panel.xaxis, across, True), (self.panel.yaxis, down, False)):
            grid = axis.get_gridlines()
            for place, _ in ticks if grid and grid[0].get_visible() else ():
                yield svg.line(*self._across(place, upright), stroke=svg.NAMES[FAINT])
        sides = self.panel.spines
        for side, line in (("left", (0, 0, 0, 100)), ("bottom", (0, 100, 100, 100))):
            if sides[side].get_visible():
                yield svg.line(*line, stroke="var(--muted)", stroke_opacity=0.6)

    def _across(self, place: float, upright: bool) -> tuple[float, float, float, float]:
        """The line through the whole panel at a place of its x axis, or of its y axis."""
        limits = self.panel.get_xlim() if upright else self.panel.get_ylim()
        share = 100 * (place - limits[0]) / (limits[1] - limits[0])
        return (share, 0, share, 100) if upright else (0, 100 - share, 100, 100 - share)

    def _drawn(self) -> Iterator[str]:
        """Cells, areas and lines, bars, marks, texts."""
        for mesh in self.meshes:
            yield from self._cells(mesh)
        stretched = [*self._areas(), *self._lines()]
        size = {"viewBox": "0 0 100 100", "preserveAspectRatio": "none", "width": "100%", "height": "100%"}
        yield svg.tag("svg", *stretched, **size)
        for bars in self.panel.collections:
            if isinstance(bars, figures.LineCollection):
                yield from self._bars(bars)
        for line in self.panel.lines:
            if line.get_marker() not in ("None", "none", "", " ", None):
                yield from self._marks(line, line.get_xydata(), self._spots(line, line.get_xydata()))
        for points in self.panel.collections:
            if isinstance(points, figures.PathCollection):
                data = points.get_offsets()
                yield from self._marks(points, data, self._spots(points, data, own=False))
        for text in self.panel.texts:
            yield self._text(text)

    def _cells(self, mesh: Any) -> Iterator[str]:
        values = np.ma.asarray(mesh.get_array())
        corners = mesh.get_coordinates()
        lines, columns = len(corners) - 1, corners.shape[1] - 1
        spots = self._spots(mesh, corners).reshape(corners.shape)
        paints = mesh.get_facecolor().reshape(lines, columns, 4)
        values, said = values.reshape(lines, columns), getattr(mesh, "said", None)
        for (y, x), value in np.ndenumerate(np.ma.filled(values, np.nan)):
            (left, top), (right, bottom) = spots[y, x], spots[y + 1, x + 1]
            where = f"{self._said('y', y)}, {self._said('x', x)}"
            mark = Mark("", where, "no pairs" if math.isnan(value) else f"{100 * value:.1f}%")
            mark = Mark(mesh.series, *said[y * columns + x].rsplit(": ", 1)) if said else mark
            self.marks.append(mark)
            fill, opacity = ("var(--line)", 1.0) if math.isnan(value) else svg.paint(paints[y, x])
            sides = {"width": f"{right - left:.4g}%", "height": f"{abs(bottom - top):.4g}%"}
            place = {"x": f"{left:.4g}%", "y": f"{min(top, bottom):.4g}%"}
            title = svg.tag("title", escape(str(mark)))
            style: dict[str, Any] = {"fill": fill, "class_": "mark cell"}
            style |= {"fill_opacity": opacity} if opacity < 1 else {}
            yield svg.tag("rect", title, **style, **place, **sides)

    def _areas(self) -> Iterator[str]:
        """Bands, and rectangles such as those of axvspan."""
        for band in self.panel.collections:
            if isinstance(band, figures.PolyCollection):
                rings = [self._spots(band, ring) for path in band.get_paths() for ring in path.to_polygons()]
                if rings:
                    colour, opacity = svg.paint(band.get_facecolor()[0])
                    yield svg.tag("path", d=svg.steps(rings, "Z"), fill=colour, fill_opacity=opacity)
        for patch in self.panel.patches:
            rings = [self._spots(patch, ring) for ring in patch.get_path().to_polygons()]
            colour, opacity = svg.paint(patch.get_facecolor())
            yield svg.tag("path", d=svg.steps(rings, "Z"), fill=colour, fill_opacity=opacity)

    def _lines(self) -> Iterator[str]:
        for line in self.panel.lines:
            if line.get_linestyle() in ("None", "none", "", " ") or not np.size(line.get_xydata()):
                continue
            spots = self._spots(line, line.get_xydata())
            known = np.isfinite(spots).all(axis=-1)
            runs = [spots[list(those)] for own, those in groupby(range(len(spots)), key=known.__getitem__) if own]
            yield svg.tag("path", d=svg.steps(runs), fill="none", class_="line", **svg.stroke(line))

    def _bars(self, bars: Any) -> Iterator[str]:
        """Intervals as bars; what they say stands at their marks."""
        paints = bars.get_colors()
        for number, segment in enumerate(bars.get_segments()):
            spots = self._spots(bars, segment)
            if len(spots) == 2 and np.isfinite(spots).all():
                colour, opacity = svg.paint(paints[number % len(paints)])
                yield svg.line(
                    *spots.ravel(), stroke=colour, stroke_opacity=opacity, stroke_width=svg.px(bars.get_linewidths()[0])
                )

    def _marks(self, artist: Any, data: Any, spots: np.ndarray) -> Iterator[str]:
        line = hasattr(artist, "get_marker")
        label = str(artist.get_label())
        series, said = getattr(artist, "series", "" if label.startswith("_") else label), getattr(artist, "said", None)
        radius = svg.px(artist.get_markersize() if line else math.sqrt(artist.get_sizes()[0])) / 2
        paints = [artist.get_markerfacecolor()] if line else artist.get_facecolor()
        edge = artist.get_markeredgecolor() if line else "none"
        for number, (x, y) in enumerate(spots):
            if not (math.isfinite(x) and math.isfinite(y)):
                continue
            if said:
                mark = Mark(series, *said[number].rsplit(": ", 1))
            else:
                mark = Mark(series, *(self._said(axis, data[number]["xy".index(axis)]) for axis in self.order))
            self.marks.append(mark)
            colour, opacity = svg.paint(paints[number % len(paints)])
            if line and artist.get_alpha() is not None:
                opacity = artist.get_alpha()
            place, title = {"cx": f"{x:.4g}%", "cy": f"{y:.4g}%"}, svg.tag("title", escape(str(mark)))
            if line and artist.get_marker() == "_":
                dash = svg.tag(
                    "path", title, d=f"M {-radius:.2g} 0 H {radius:.2g}", class_="mark", stroke=svg.paint(edge)[0]
                )
                yield svg.tag("svg", dash, x=place["cx"], y=place["cy"], overflow="visible", width="1", height="1")
                continue
            stroke = {} if edge == "none" else {"stroke": svg.paint(edge)[0]}
            yield svg.tag(
                "circle", title, class_="mark", r=f"{radius:.3g}", fill=colour, fill_opacity=opacity, **place, **stroke
            )

    def _text(self, text: Any) -> str:
        place, shift = text.get_position(), (0.0, 0.0)
        if isinstance(text, figures.Annotation):
            place, shift = text.xy, text.xyann
            spot = 100 * (self.panel.transData - self.panel.transAxes).transform(place)
            spot[1] = 100 - spot[1]
        else:
            spot = self._spots(text, [place])[0]
        ink = "#222222" if self.meshes and text.get_color() == INK else svg.paint(text.get_color())[0]
        ink = "#ffffff" if self.meshes and text.get_color() == "white" else ink
        bold = "bold" if text.get_fontweight() == "bold" else None
        up = -svg.px(shift[1]) if text.get_va() != "bottom" else -svg.px(shift[1]) - 2
        style = {"fill": ink, "font_size": svg.px(text.get_fontsize()), "font_weight": bold}
        style["dominant_baseline"] = BASELINES.get(text.get_va())
        words = svg.plain(text.get_text())
        return svg.words(spot, words, shift=(svg.px(shift[0]), up), anchor=ANCHORS[text.get_ha()], **style)

    def _said(self, which: str, value: Any) -> str:
        """A value of an axis in words: the name of a layer or class, or a number as the axis shows it."""
        together = self.panel.get_shared_x_axes() if which == "x" else self.panel.get_shared_y_axes()
        for panel in (self.panel, *together.get_siblings(self.panel), self.first):
            told = getattr(panel, f"fmt_{which}data")
            if told is not None:
                return str(told(value))
        return f"{float(value):.3g}"

    # Names along the axes ----------------------------------------------------------------------------------------

    def _names(self, across: Sequence, down: Sequence, label: str) -> Iterator[str]:
        small = self.panel.get_yticklabels()
        size = svg.px(float(small[0].get_fontsize())) if small else 12.0
        for place, text in down:
            spot = self._across(place, False)[:2]
            yield svg.words(
                spot, text, shift=(-8, 0), anchor="end", dominant_baseline="central", font_size=min(size, 12)
            )
        for number, (place, text) in enumerate(across):
            yield svg.words(self._across(place, True)[2:], text, shift=(0, 17), class_=f"across rank-{_rank(number)}")
        if label:
            yield svg.words((50, 100), label, shift=(0, 36 if across else 18), class_="axis")

    def _rules(self, across: Sequence, left: float, below: float) -> Iterator[str]:
        """Size and margins; where the panel is too narrow for all names along its x axis they are slanted, or some left out.

        Numbers are short: every other one is left out as often as need be. Other names are slanted first.
        """
        yield (
            f"#{self.name} {{ height: {self.height:.0f}px; margin: 10px {self.right:.0f}px {below:.0f}px {left:.0f}px; "
            f"width: calc(100% - {left + self.right:.0f}px) }}"
        )
        widest, space = max((svg.width(text) for _, text in across), default=0), left + self.right
        each = widest + 10
        if not all(text.replace(".", "").rstrip("%").lstrip("+−").isdigit() for _, text in across):
            deep, first = 0.64 * widest, max(left, 0.77 * svg.width(across[0][1]))
            yield (
                f"@container (max-width: {each * len(across) + space:.0f}px) {{ "
                f"#{self.name} {{ margin-bottom: {below + deep:.0f}px; margin-left: {first:.0f}px; "
                f"width: calc(100% - {first + self.right:.0f}px) }} #{self.name} .across {{ transform: rotate(-40deg); "
                f"text-anchor: end }} #{self.name} > svg .axis {{ transform: translateY({deep:.0f}px) }} }}"
            )
            each = 15
        for rank in range(max(1, len(across)).bit_length() - 1):
            yield (
                f"@container (max-width: {each * len(across) / 2**rank + space:.0f}px) "
                f"{{ #{self.name} .rank-{rank} {{ display: none }} }}"
            )


def _rank(number: int) -> int:
    """How often the number can be halved: names of rank 0 go first; the very first name stays."""
    return (number & -number).bit_length() - 1 if number else 99


def _ticks(axis: Any) -> list[tuple[float, str]]:
    low, high = sorted(axis.get_view_interval())
    places = axis.get_majorticklocs()
    texts = axis.get_major_formatter().format_ticks(places)
    near = 1e-9 * (high - low)
    return [
        (float(place), svg.plain(text))
        for place, text in zip(places, texts, strict=True)
        if text and low - near <= place <= high + near
    ]
