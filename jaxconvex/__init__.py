"""Convexity of the regions of concepts in the latent spaces of deep networks, in JAX."""

from jaxconvex.distances import pairwise
from jaxconvex.evaluation import evaluate
from jaxconvex.graphs import Graph, PackedGraph, pack, undirected
from jaxconvex.neighbors import KNNGraph, epsilon_graph, knn_graph
from jaxconvex.pairs import Pairs, same_class_pairs, segment_points
from jaxconvex.paths import PathCounts, shortest_path_counts, shortest_path_lengths
from jaxconvex.scores import ConvexityScore, euclidean_convexity, graph_convexity, graph_pair_scores

__version__ = "0.1.0"
