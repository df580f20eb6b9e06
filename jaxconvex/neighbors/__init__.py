"""Exact nearest neighbors: distances, the search for k neighbors or all within a radius, and graphs of other libraries.

distances -> products -> search -> knn -> radius, lists        products finds candidates by matrix products
          -> narrowing                                          numbers of many digits
"""

from jaxconvex.neighbors.distances import pairwise
from jaxconvex.neighbors.knn import KNNGraph, knn_graph
from jaxconvex.neighbors.lists import neighbors_graph
from jaxconvex.neighbors.radius import epsilon_graph

__all__ = [
    "KNNGraph",
    "epsilon_graph",
    "knn_graph",
    "neighbors_graph",
    "pairwise",
]
