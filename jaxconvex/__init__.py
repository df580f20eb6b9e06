"""Convexity of the regions of concepts in the latent spaces of deep networks, in JAX."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jaxconvex._internal.lazy import on_demand

if TYPE_CHECKING:
    from jaxconvex.evaluation import Report, Row, evaluate, read_report
    from jaxconvex.layers import (
        Activations,
        LayeredModel,
        ModelSource,
        extract,
        from_function,
        from_linen,
        from_nnx,
        layer_names,
        mark,
        model_source,
        read_activations,
        rest_of,
        run_from,
    )
    from jaxconvex.losses import detour_loss, euclidean_convexity_loss, graph_convexity_loss
    from jaxconvex.neighbors import KNNGraph, epsilon_graph, knn_graph, neighbors_graph, pairwise
    from jaxconvex.paths import (
        Graph,
        PackedGraph,
        Pairs,
        PathCounts,
        pack,
        same_class_pairs,
        segment_points,
        shortest_path_counts,
        shortest_path_lengths,
        undirected,
    )
    from jaxconvex.scores import ConvexityScore, euclidean_convexity, graph_convexity, graph_pair_scores
    from jaxconvex.statistics import (
        Correlation,
        Interval,
        JackknifeScore,
        NullScore,
        Peak,
        bootstrap,
        domain_correlation,
        graph_jackknife,
        holm,
        hubness,
        jackknife,
        jackknife_groups,
        paired_difference,
        peak_layer,
        pearson,
        permutation_null,
        random_label_score,
        spearman,
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
    "from_function",
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
    "layer_names",
    "mark",
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

# On demand, so that `jaxconvex --help` and reading a report need no JAX.
__getattr__, __dir__ = on_demand(
    __name__,
    {
        "encoders": "",
        "evaluation": "Report Row evaluate read_report",
        "layers": "Activations LayeredModel ModelSource extract from_function from_linen from_nnx layer_names mark "
        "model_source read_activations rest_of run_from",
        "losses": "detour_loss euclidean_convexity_loss graph_convexity_loss",
        "neighbors": "KNNGraph epsilon_graph knn_graph neighbors_graph pairwise",
        "paths": "Graph PackedGraph Pairs PathCounts pack same_class_pairs segment_points shortest_path_counts "
        "shortest_path_lengths undirected",
        "scores": "ConvexityScore euclidean_convexity graph_convexity graph_pair_scores",
        "statistics": "Correlation Interval JackknifeScore NullScore Peak bootstrap domain_correlation graph_jackknife holm "
        "hubness jackknife jackknife_groups paired_difference peak_layer pearson permutation_null random_label_score "
        "spearman",
    },
)
