"""Figures and pages of reports.

figures -> plots, why_figures  what all figures share; the figures of reports, and of what classes lose to others
        -> inline -> page      a figure as inline SVG; text, figures and tables as one HTML file
plots, page -> result_pages    the page of a report or a comparison
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jaxconvex._internal.lazy import on_demand

if TYPE_CHECKING:
    from jaxconvex.reporting.inline import Inline, inline_figure
    from jaxconvex.reporting.page import Captioned, Section, facts, write_page
    from jaxconvex.reporting.plots import plot_classes, plot_differences, plot_profile, plot_recall, save_figure
    from jaxconvex.reporting.result_pages import draw_result, errors_and_settings, why_items, write_result_page
    from jaxconvex.reporting.why_figures import plot_intruders, plot_losses

__all__ = [
    "Captioned",
    "Inline",
    "Section",
    "draw_result",
    "errors_and_settings",
    "facts",
    "inline_figure",
    "plot_classes",
    "plot_differences",
    "plot_intruders",
    "plot_losses",
    "plot_profile",
    "plot_recall",
    "save_figure",
    "why_items",
    "write_page",
    "write_result_page",
]

# On demand, since figures and pages need packages that the rest does not.
__getattr__, __dir__ = on_demand(
    __name__,
    {
        "inline": "Inline inline_figure",
        "page": "Captioned Section facts write_page",
        "plots": "plot_classes plot_differences plot_profile plot_recall save_figure",
        "result_pages": "draw_result errors_and_settings why_items write_result_page",
        "why_figures": "plot_intruders plot_losses",
    },
)
