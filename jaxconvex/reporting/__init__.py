"""Figures and pages of reports: `figures` has what all share, `plots` draws reports, `page` writes them as HTML."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jaxconvex._internal.lazy import on_demand

if TYPE_CHECKING:
    from jaxconvex.reporting.page import Captioned, Section, write_page
    from jaxconvex.reporting.plots import plot_classes, plot_differences, plot_profile, plot_recall, save_figure

__all__ = [
    "Captioned",
    "Section",
    "plot_classes",
    "plot_differences",
    "plot_profile",
    "plot_recall",
    "save_figure",
    "write_page",
]

# On demand, since figures and pages need packages that the rest does not.
__getattr__, __dir__ = on_demand(
    __name__,
    {
        "page": "Captioned Section write_page",
        "plots": "plot_classes plot_differences plot_profile plot_recall save_figure",
    },
)
