"""Convexity of classes: graph convexity along shortest paths, Euclidean convexity along segments.

path_sums -> aggregates -> packed -> graph        sums over the pairs of blocks, means and errors, whole graphs
  with loads                      -> intrusions   what lies inside the paths and segments
                                  -> concepts     classes that overlap
                        -> euclidean              segments through the rest of a network
"""

from jaxconvex.scores.aggregates import ConvexityScore, EuclideanScore
from jaxconvex.scores.concepts import concept_convexity
from jaxconvex.scores.euclidean import euclidean_convexity
from jaxconvex.scores.graph import graph_convexity, graph_pair_scores
from jaxconvex.scores.intrusions import Intrusions, SegmentIntrusions, euclidean_intrusions, graph_intrusions

__all__ = [
    "ConvexityScore",
    "EuclideanScore",
    "Intrusions",
    "SegmentIntrusions",
    "concept_convexity",
    "euclidean_convexity",
    "euclidean_intrusions",
    "graph_convexity",
    "graph_intrusions",
    "graph_pair_scores",
]
