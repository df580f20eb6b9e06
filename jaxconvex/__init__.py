"""Convexity of the regions of concepts in the latent spaces of deep networks, in JAX."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxconvex.activations import Activations, ModelSource, extract, model_source, read_activations
    from jaxconvex.bootstrapping import bootstrap
    from jaxconvex.correlations import Correlation, domain_correlation, pearson, spearman
    from jaxconvex.distances import pairwise
    from jaxconvex.evaluation import evaluate
    from jaxconvex.layers import LayeredModel, from_linen, from_nnx, rest_of, run_from
    from jaxconvex.losses import detour_loss, euclidean_convexity_loss, graph_convexity_loss
    from jaxconvex.neighbor_lists import neighbors_graph
    from jaxconvex.neighbors import KNNGraph, epsilon_graph, knn_graph
    from jaxconvex.pairs import Pairs, same_class_pairs, segment_points
    from jaxconvex.paths.counts import PathCounts, shortest_path_counts, shortest_path_lengths
    from jaxconvex.paths.graph import Graph, PackedGraph, undirected
    from jaxconvex.paths.layout import pack
    from jaxconvex.permutation import NullScore, permutation_null
    from jaxconvex.report import Report, Row, read_report
    from jaxconvex.resampling import JackknifeScore, graph_jackknife, jackknife_groups
    from jaxconvex.scores import ConvexityScore, euclidean_convexity, graph_convexity, graph_pair_scores
    from jaxconvex.statistics import (
        Interval,
        Peak,
        holm,
        hubness,
        jackknife,
        paired_difference,
        peak_layer,
        random_label_score,
    )

__version__ = "0.1.0"

__all__ = [
    "Activations",
    "ConvexityScore",
    "Correlation",
    "Graph",
    "Interval",
    "JackknifeScore",
    "KNNGraph",
    "LayeredModel",
    "ModelSource",
    "NullScore",
    "PackedGraph",
    "Pairs",
    "PathCounts",
    "Peak",
    "Report",
    "Row",
    "bootstrap",
    "detour_loss",
    "domain_correlation",
    "epsilon_graph",
    "euclidean_convexity",
    "euclidean_convexity_loss",
    "evaluate",
    "extract",
    "from_linen",
    "from_nnx",
    "graph_convexity",
    "graph_convexity_loss",
    "graph_jackknife",
    "graph_pair_scores",
    "holm",
    "hubness",
    "jackknife",
    "jackknife_groups",
    "knn_graph",
    "model_source",
    "neighbors_graph",
    "pack",
    "paired_difference",
    "pairwise",
    "peak_layer",
    "pearson",
    "permutation_null",
    "random_label_score",
    "read_activations",
    "read_report",
    "rest_of",
    "run_from",
    "same_class_pairs",
    "segment_points",
    "shortest_path_counts",
    "shortest_path_lengths",
    "spearman",
    "undirected",
]

# Where each name stands: a module is imported when the first of its names is asked for, so that `jaxconvex --help` and
# reading a report need no JAX.
_MODULES = {
    "activations": "Activations ModelSource extract model_source read_activations",
    "distances": "pairwise",
    "encoders": "",
    "evaluation": "evaluate",
    "layers": "LayeredModel from_linen from_nnx rest_of run_from",
    "losses": "detour_loss euclidean_convexity_loss graph_convexity_loss",
    "neighbor_lists": "neighbors_graph",
    "neighbors": "KNNGraph epsilon_graph knn_graph",
    "pairs": "Pairs same_class_pairs segment_points",
    "paths": "",
    "paths.counts": "PathCounts shortest_path_counts shortest_path_lengths",
    "paths.graph": "Graph PackedGraph undirected",
    "paths.layout": "pack",
    "permutation": "NullScore permutation_null",
    "report": "Report Row read_report",
    "bootstrapping": "bootstrap",
    "correlations": "Correlation domain_correlation pearson spearman",
    "resampling": "JackknifeScore graph_jackknife jackknife_groups",
    "scores": "ConvexityScore euclidean_convexity graph_convexity graph_pair_scores",
    "statistics": "Interval Peak holm hubness jackknife paired_difference peak_layer random_label_score",
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    """The public name, or the module of the package, after importing it."""
    if name in _MODULES:
        return importlib.import_module(f"jaxconvex.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'jaxconvex' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"jaxconvex.{_HOMES[name]}"), name)
    globals()[name] = value  # the next time it is found without asking here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
