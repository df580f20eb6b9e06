"""Shortest paths in graphs of nearest neighbors, from many points at once.

graph -> search -> tie_rule -> walk        one search, one rule for equally short paths, one walk along the paths
      -> layout, pairs, order              how it is packed, which pairs are asked for, in which order it is searched
      -> counts, chains                    counts of any pairs; graphs of very long paths, on the host
"""

from jaxconvex.paths.counts import PathCounts, shortest_path_counts, shortest_path_lengths
from jaxconvex.paths.graph import Graph, PackedGraph, undirected
from jaxconvex.paths.layout import pack
from jaxconvex.paths.pairs import Pairs, same_class_pairs, segment_points

__all__ = [
    "Graph",
    "PackedGraph",
    "Pairs",
    "PathCounts",
    "pack",
    "same_class_pairs",
    "segment_points",
    "shortest_path_counts",
    "shortest_path_lengths",
    "undirected",
]
