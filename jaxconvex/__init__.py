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
    from jaxconvex.scores import (
        ConvexityScore,
        EuclideanScore,
        Intrusions,
        SegmentIntrusions,
        concept_convexity,
        euclidean_convexity,
        euclidean_intrusions,
        graph_convexity,
        graph_intrusions,
        graph_pair_scores,
    )
    from jaxconvex.statistics import (
        Correlation,
        Interval,
        JackknifeScore,
        NullScore,
        Peak,
        bootstrap,
        cka,
        domain_correlation,
        graph_jackknife,
        holm,
        hubness,
        intrinsic_dimension,
        jackknife,
        jackknife_groups,
        knn_accuracy,
        label_overlap,
        linear_probe,
        mutual_knn,
        nearest_neighbour_vote,
        neural_collapse,
        paired_difference,
        peak_layer,
        pearson,
        permutation_null,
        random_label_score,
        silhouette,
        spearman,
    )

__version__ = "0.1.0"

__all__ = [
    "Activations",
    "ConvexityScore",
    "Correlation",
    "EuclideanScore",
    "Graph",
    "Interval",
    "Intrusions",
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
    "SegmentIntrusions",
    "bootstrap",
    "cka",
    "concept_convexity",
    "detour_loss",
    "domain_correlation",
    "epsilon_graph",
    "euclidean_convexity",
    "euclidean_convexity_loss",
    "euclidean_intrusions",
    "evaluate",
    "extract",
    "from_function",
    "from_linen",
    "from_nnx",
    "graph_convexity",
    "graph_convexity_loss",
    "graph_intrusions",
    "graph_jackknife",
    "graph_pair_scores",
    "holm",
    "hubness",
    "intrinsic_dimension",
    "jackknife",
    "jackknife_groups",
    "knn_accuracy",
    "knn_graph",
    "label_overlap",
    "layer_names",
    "linear_probe",
    "mark",
    "model_source",
    "mutual_knn",
    "nearest_neighbour_vote",
    "neighbors_graph",
    "neural_collapse",
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
    "silhouette",
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
        "scores": "ConvexityScore EuclideanScore Intrusions SegmentIntrusions concept_convexity euclidean_convexity "
        "euclidean_intrusions graph_convexity graph_intrusions graph_pair_scores",
        "statistics": "Correlation Interval JackknifeScore NullScore Peak bootstrap cka domain_correlation graph_jackknife "
        "holm hubness intrinsic_dimension jackknife jackknife_groups knn_accuracy label_overlap linear_probe mutual_knn "
        "nearest_neighbour_vote neural_collapse paired_difference peak_layer pearson permutation_null "
        "random_label_score silhouette spearman",
    },
)
