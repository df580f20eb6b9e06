"""Numbers beside a score: what random labels would give, and the hubs of the graph."""

from __future__ import annotations

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, Int

from jaxconvex._internal.checks import as_labels
from jaxconvex.neighbors.knn import KNNGraph
from jaxconvex.neighbors.lists import checked_neighbors
from jaxconvex.paths.graph import Graph, PackedGraph, as_graph
from jaxconvex.scores.graph import graph_convexity

__all__ = ["hubness", "occurrences", "random_label_score"]


def random_label_score(
    graph: KNNGraph | Graph | PackedGraph, labels: Int[ArrayLike, " n"], *, num_classes: int
) -> Float[np.ndarray, " c"]:
    """Expected graph convexity of each class under random labels: p + (s - p) (n_c - 2) / (m - 2).

    The labels of the m labelled points are permuted; background points (-1) stay where they are, as in `permutation_null`.
    Over all pairs of labelled points, p is the share that is adjacent, and s their score as one class. A labelled
    point inside a path is of the class with probability (n_c - 2) / (m - 2), its ends being two of the class; a background
    point never is.

    Args:
        graph: as for `graph_convexity`.
        labels, num_classes: only the sizes of the classes count, and where the background is.

    Exact where no two paths between the same points are equally long (with such ties the score is higher: the path with
    the fewest points outside counts). nan for classes of fewer than two points.

    Cost: connected components of the graph; with background, the paths of one class. For the spread, not only the mean,
    see `permutation_null`.

    >>> import jax.numpy as jnp
    >>> from jaxconvex import knn_graph
    >>> chain = knn_graph(jnp.array([[0.], [1.], [2.1], [3.3]]), k=1)
    >>> random_label_score(chain, jnp.array([0, 0, 0, 1]), num_classes=2)
    array([0.75,  nan])
    """
    edges = as_graph(graph)
    n = len(edges.degrees)
    codes = np.asarray(as_labels(labels, n, num_classes))
    sizes = np.bincount(codes + 1, minlength=num_classes + 1)[1:]
    if (codes < 0).any():
        one = graph_convexity(graph, np.minimum(codes, 0), num_classes=1)
        adjacent, together = (float(np.nan_to_num(part[0])) for part in (one.adjacent, one.per_class))
    else:
        adjacent, together = _shares_of_pairs(edges)
    inside = (sizes - 2) / max(int(sizes.sum()) - 2, 1)
    return np.where(sizes >= 2, adjacent + (together - adjacent) * inside, np.nan)


def _shares_of_pairs(edges: Graph) -> tuple[float, float]:
    """The shares of all pairs of points that are adjacent, and that have a path."""
    from scipy.sparse import coo_matrix, csgraph  # here, since its import takes long

    n = len(edges.degrees)
    there = ~np.isposinf(np.asarray(edges.lengths))
    ends = np.asarray(edges.senders)[there], np.asarray(edges.receivers)[there]
    links = coo_matrix((np.ones(there.sum()), ends), shape=(n, n)).tocsr()
    together = np.bincount(csgraph.connected_components(links, directed=False)[1])
    pairs = max(n * (n - 1.0), 1.0)
    return links.nnz / pairs, float(np.sum(together * (together - 1.0)) / pairs)


def hubness(knn: KNNGraph) -> float:
    """Skewness of the k-occurrence, how often each point is among another's neighbours: m_3 / m_2^(3/2) of the counts.

    Near 0 without hubs; in spaces of many dimensions a few points are neighbours of very many and it is well above 1.
    nan if all points occur equally often.

    >>> float(round(hubness(KNNGraph(np.array([[1], [0], [0], [0]]), np.ones((4, 1)))), 4))
    0.8165

    Source: Radovanović, Nanopoulos and Ivanović, Journal of Machine Learning Research 11:2487, 2010.
    """
    counts = occurrences(knn)
    deviation = counts - counts.mean()
    spread = np.mean(deviation**2)
    return float(np.mean(deviation**3) / spread**1.5) if np.ptp(counts) else float("nan")


def occurrences(knn: KNNGraph) -> Int[np.ndarray, " n"]:
    """How many points have each point among their neighbours.

    >>> occurrences(KNNGraph(np.array([[1], [0], [0], [0]]), np.ones((4, 1)))).tolist()
    [3, 1, 0, 0]
    """
    indices = np.asarray(checked_neighbors(knn).indices)
    return np.bincount(indices[indices >= 0], minlength=len(indices))
