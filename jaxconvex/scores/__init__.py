"""Convexity of classes: graph convexity along shortest paths, Euclidean convexity along segments.

path_sums -> aggregates -> packed -> graph        sums over the pairs of blocks, means and errors, whole graphs
                        -> euclidean              segments through the rest of a network
"""

from jaxconvex.scores.aggregates import ConvexityScore
from jaxconvex.scores.euclidean import euclidean_convexity
from jaxconvex.scores.graph import graph_convexity, graph_pair_scores

__all__ = [
    "ConvexityScore",
    "euclidean_convexity",
    "graph_convexity",
    "graph_pair_scores",
]
