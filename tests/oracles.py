"""Slow, obvious versions of what jaxconvex computes, written from the definitions alone.

NumPy in float64, python loops, scipy's, igraph's and networkx's graph routines, and Python integers where ties must be
exact. Nothing here knows of blocks, fixed-point lengths or JAX. A graph is a dense symmetric matrix, adjacency [n n],
of edge lengths, inf where there is no edge (so that an edge between duplicates may have length 0).
"""

from __future__ import annotations

import heapq
import itertools
import math
import warnings
from typing import NamedTuple

import numpy as np
from scipy.sparse.csgraph import csgraph_from_dense, dijkstra
from scipy.stats import t as student_t

METRICS = ("euclidean", "squared_euclidean", "cosine", "manhattan")
ROUNDING = 1e-6  # two float32 path lengths closer than this, relative to the length, are equal but for rounding
DIGITS = 10**60  # exact lengths are integers in units of 1e-60 ...
EXACT = 10**20  # ... and two of them are equal if they differ by less than 1e-40


# Distances and neighbours


def pairwise(x, y=None, metric="euclidean"):
    """[n m] distances between the rows of x [n d] and of y [m d], by differences."""
    x = np.asarray(x, np.float64)
    y = x if y is None else np.asarray(y, np.float64)
    if metric == "cosine":  # |x/|x| - y/|y||^2 = 2 - 2 cos, without the cancellation
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
        y = y / np.linalg.norm(y, axis=1, keepdims=True)
    difference = x[:, None, :] - y[None, :, :]
    if metric == "manhattan":
        return np.abs(difference).sum(-1)
    squared = (difference**2).sum(-1)
    return squared if metric == "squared_euclidean" else np.sqrt(squared)


def neighbors(x, k, metric="euclidean"):
    """(indices [n k], distances [n k]): a full sort by (distance, index), never the point itself."""
    distances = pairwise(x, metric=metric)
    n = len(distances)
    rows = [sorted((distances[i, j], j) for j in range(n) if j != i)[:k] for i in range(n)]
    return np.array([[j for _, j in row] for row in rows]), np.array([[d for d, _ in row] for row in rows])


def undirected(indices, distances, mode="union", duplicates="link"):
    """[n n] edge lengths of the symmetrised neighbour lists: an edge if either lists the other, or only if both do."""
    n = len(indices)
    directed = np.full((n, n), np.inf)
    for i in range(n):
        for j, length in zip(indices[i], distances[i], strict=True):
            if j >= 0 and not (duplicates == "drop" and length == 0):
                directed[i, j] = length
    return np.minimum(directed, directed.T) if mode == "union" else np.maximum(directed, directed.T)


def knn_adjacency(x, k, metric="euclidean", mode="union", duplicates="link"):
    """[n n] edge lengths of the k-nearest-neighbour graph of x [n d]."""
    return undirected(*neighbors(x, k, metric), mode=mode, duplicates=duplicates)


def epsilon_adjacency(x, radius, metric="euclidean"):
    """[n n] edge lengths of the graph that joins points at most `radius` apart."""
    distances = pairwise(x, metric=metric)
    np.fill_diagonal(distances, np.inf)
    return np.where(distances <= radius, distances, np.inf)


# Shortest paths: shortest, equal but for rounding; of those, fewest outside nodes; of those, fewest hops


class Paths(NamedTuple):
    """Interior nodes on the chosen path of every ordered pair, and how many of them are not of the source's class."""

    interior: np.ndarray  # [n n], -1 where there is no path, 0 on the diagonal
    outside: np.ndarray  # [n n]


def path_lengths(adjacency):
    """[n n] lengths of the shortest paths, by scipy's Dijkstra in float64."""
    return dijkstra(csgraph_from_dense(adjacency, null_value=np.inf), directed=True)


def _fewest(tight, outside, source):
    """Fewest (outside nodes, hops) from the source to every node along the edges u -> tight[u]."""
    best = {source: (0, 0)}
    queue = [(0, 0, source)]
    while queue:
        strays, hops, u = heapq.heappop(queue)
        if (strays, hops) > best[u]:
            continue
        for v in tight[u]:
            cost = (strays + int(outside[v]), hops + 1)
            if v not in best or cost < best[v]:
                best[v] = cost
                heapq.heappush(queue, (*cost, v))
    return best


def shortest_paths(adjacency, labels, sources=None, tolerance=ROUNDING):
    """Paths by Dijkstra, then the least (outside, hops) over the edges that lie on shortest paths.

    The edge u -> v does if d(u) + length <= d(v) (1 + tolerance). Counting a target of another class as outside only
    adds one to every way of reaching it, so it changes no choice; it is taken off again at the end.
    """
    adjacency, labels = np.asarray(adjacency, np.float64), np.asarray(labels)
    n = len(adjacency)
    interior, outside = np.full((n, n), -1), np.zeros((n, n), int)
    lengths = path_lengths(adjacency)
    for s in range(n) if sources is None else sources:
        reach = lengths[s]
        with np.errstate(invalid="ignore"):
            on_path = np.isfinite(adjacency) & (reach[:, None] + adjacency <= reach[None, :] * (1 + tolerance))
        on_path &= np.isfinite(reach)[:, None]
        strays = labels != labels[s]
        best = _fewest([np.flatnonzero(row).tolist() for row in on_path], strays, s)
        for t, (count, hops) in best.items():
            interior[s, t] = max(hops - 1, 0)
            outside[s, t] = count - int(strays[t])
    return Paths(interior, outside)


def exact_length(squared):
    """sqrt(squared) as an integer in units of 1e-60, for an integer `squared`."""
    return math.isqrt(int(squared) * DIGITS * DIGITS)


def exact_edges(adjacency, x):
    """node -> {node: exact length} for a graph on points with integer coordinates, Euclidean lengths."""
    x = np.asarray(x)
    assert np.issubdtype(x.dtype, np.integer)
    edges = {u: {} for u in range(len(x))}
    for u, v in np.argwhere(np.isfinite(adjacency)).tolist():
        edges[u][v] = exact_length(((x[u] - x[v]) ** 2).sum())
    return edges


def exact_shortest_paths(adjacency, x, labels):
    """Paths on integer coordinates: lengths are Python integers of 60 decimals, so that a tie is a tie."""
    edges, labels, n = exact_edges(adjacency, x), np.asarray(labels), len(labels)
    interior, outside = np.full((n, n), -1), np.zeros((n, n), int)
    for s in range(n):
        reach, queue = {s: 0}, [(0, s)]
        while queue:
            length, u = heapq.heappop(queue)
            if length > reach[u]:
                continue
            for v, edge in edges[u].items():
                if v not in reach or length + edge < reach[v]:
                    reach[v] = length + edge
                    heapq.heappush(queue, (length + edge, v))
        strays = labels != labels[s]
        tight = {u: [v for v, e in edges[u].items() if reach[u] + e < reach[v] + EXACT] for u in reach}
        best = _fewest(tight, strays, s)
        for t, (count, hops) in best.items():
            interior[s, t] = max(hops - 1, 0)
            outside[s, t] = count - int(strays[t])
    return Paths(interior, outside)


def enumerated_paths(adjacency, x, labels):
    """Paths on tiny graphs with integer coordinates, by listing every simple path and comparing exact lengths."""
    import networkx

    edges, labels, n = exact_edges(adjacency, x), np.asarray(labels), len(labels)
    graph = networkx.Graph()
    graph.add_nodes_from(range(n))
    graph.add_edges_from((u, v) for u in edges for v in edges[u])
    interior, outside = np.full((n, n), -1), np.zeros((n, n), int)
    np.fill_diagonal(interior, 0)
    for s, t in itertools.permutations(range(n), 2):
        listed = []
        for path in networkx.all_simple_paths(graph, s, t):
            strays = sum(labels[v] != labels[s] for v in path[1:-1])
            listed.append((sum(edges[u][v] for u, v in itertools.pairwise(path)), strays, len(path) - 2))
        if listed:
            least = min(listed)[0]
            outside[s, t], interior[s, t] = min(entry[1:] for entry in listed if entry[0] < least + EXACT)
    return Paths(interior, outside)


# Scores


class Score(NamedTuple):
    """What ConvexityScore holds, by the same names, in float64; fractions in [0, 1]."""

    per_class: np.ndarray
    num_pairs: np.ndarray
    num_points: np.ndarray
    sem_paper: np.ndarray
    se_pairs: np.ndarray
    adjacent: np.ndarray
    disconnected: np.ndarray
    inside: np.ndarray
    nonadjacent: np.ndarray
    micro: float
    macro: float


def pair_scores(adjacency, paths):
    """[n n] score of every ordered pair: adjacent 1, no path 0, else the share of its interior inside; diagonal nan."""
    n = len(adjacency)
    scores = np.full((n, n), np.nan)
    for s, t in itertools.permutations(range(n), 2):
        interior, outside = int(paths.interior[s, t]), int(paths.outside[s, t])
        if np.isfinite(adjacency[s, t]):
            scores[s, t] = 1.0
        elif interior < 0:
            scores[s, t] = 0.0
        else:
            scores[s, t] = (interior - outside) / interior
    return scores


def summary(scores, labels, num_classes, pairs_of=None, adjacency=None, paths=None):
    """Score from the [n n] matrix of pair scores: every field over the unordered pairs of each class."""
    labels = np.asarray(labels)
    fields = {name: np.full(num_classes, np.nan) for name in Score._fields[:-2]}
    fields["num_pairs"] = np.zeros(num_classes, int)
    fields["num_points"] = np.zeros(num_classes, int)
    everything = []
    for c in range(num_classes):
        members = np.flatnonzero(labels == c)
        pairs = list(itertools.combinations(members.tolist(), 2)) if pairs_of is None else pairs_of[c]
        size = len(members)
        fields["num_points"][c] = size
        fields["num_pairs"][c] = len(pairs)
        if not pairs:
            continue
        values = np.array([scores[i, j] for i, j in pairs])
        everything.extend(values)
        fields["per_class"][c] = values.mean()
        fields["inside"][c] = (values == 1).mean()
        if adjacency is not None:
            beside = np.array([np.isfinite(adjacency[i, j]) for i, j in pairs])
            fields["adjacent"][c] = beside.mean()
            fields["disconnected"][c] = np.mean([paths.interior[i, j] < 0 for i, j in pairs])
            fields["nonadjacent"][c] = values[~beside].mean() if (~beside).any() else np.nan
        if size > 2:
            partners = {i: [scores[i, j] for j in members if j != i] for i in members}
            means = np.array([np.mean(partners[i]) for i in members])
            fields["sem_paper"][c] = values.std(ddof=1) / np.sqrt(size)
            error = 2 * means.std(ddof=1) / np.sqrt(size) * (size - 1) / (size - 2)
            fields["se_pairs"][c] = error if np.ptp(means) > 1e-6 else np.nan  # all alike: no error can be told
    counted = fields["per_class"][fields["num_pairs"] > 0]
    micro = float(np.mean(everything)) if everything else np.nan
    macro = float(np.mean(counted)) if len(counted) else np.nan
    return Score(**fields, micro=micro, macro=macro)


def graph_convexity(adjacency, labels, num_classes, tolerance=ROUNDING, paths=None):
    """Score of a graph and labels (-1: background), from the matrix of all pairs."""
    labels = np.asarray(labels)
    if paths is None:
        paths = shortest_paths(adjacency, labels, np.flatnonzero(labels >= 0), tolerance)
    return summary(pair_scores(adjacency, paths), labels, num_classes, adjacency=adjacency, paths=paths)


def knn_convexity(
    x, labels, num_classes, k=10, metric="euclidean", mode="union", duplicates="link", tolerance=ROUNDING
):
    """Score of points [n d]: neighbours, graph, paths, pairs."""
    return graph_convexity(knn_adjacency(x, k, metric, mode, duplicates), labels, num_classes, tolerance)


def segment(x, y, num_points):
    """[m ...] the interior points t x + (1 - t) y, t = i/(m+1), from y towards x."""
    return np.stack([i / (num_points + 1) * x + (1 - i / (num_points + 1)) * y for i in range(1, num_points + 1)])


def euclidean_pair_scores(predict, x, labels, num_points=10):
    """[n n] score of every ordered pair of a class, one at a time; predict: (b, ...) -> (b, c) logits."""
    x, labels = np.asarray(x, np.float64), np.asarray(labels)
    scores = np.full((len(x), len(x)), np.nan)
    for i, j in itertools.permutations(range(len(x)), 2):
        if labels[i] == labels[j] >= 0:
            logits = np.asarray(predict(segment(x[i], x[j], num_points)))
            scores[i, j] = np.mean(logits.argmax(-1) == labels[i])
    return scores


def euclidean_convexity(predict, x, labels, num_classes, num_points=10):
    """Score over all pairs."""
    return summary(euclidean_pair_scores(predict, x, labels, num_points), labels, num_classes)


def concept_convexity(adjacency, memberships, tolerance=ROUNDING):
    """Score of concepts that may overlap, one after the other: the points of each against all others."""
    memberships = np.asarray(memberships, bool)
    scores = [graph_convexity(adjacency, np.where(column, 0, -1), 1, tolerance) for column in memberships.T]
    fields = {name: np.array([getattr(one, name)[0] for one in scores]) for name in Score._fields[:-2]}
    counted = fields["num_pairs"] > 0
    micro = np.average(fields["per_class"][counted], weights=fields["num_pairs"][counted])
    return Score(**fields, micro=micro, macro=np.mean(fields["per_class"][counted]))


# Why a score is not 1


class Intrusions(NamedTuple):
    """What jaxconvex's Intrusions holds, by the same names."""

    by_class: np.ndarray
    of_points: np.ndarray
    point_scores: np.ndarray
    disconnected: np.ndarray
    num_pieces: np.ndarray
    piece_of: np.ndarray
    piece_sizes: np.ndarray


def chosen_paths(adjacency, labels, tolerance=ROUNDING):
    """(s, t) -> the points inside the path that counts: shortest, fewest outside, fewest hops, least lowness.

    The lowness of a path is the sum of (row + 1)^(3/4) over the points inside.
    """
    adjacency, labels = np.asarray(adjacency, np.float64), np.asarray(labels)
    lengths, found = path_lengths(adjacency), {}
    for s in np.flatnonzero(labels >= 0).tolist():
        reach = lengths[s]
        with np.errstate(invalid="ignore"):
            on_path = np.isfinite(adjacency) & (reach[:, None] + adjacency <= reach[None, :] * (1 + tolerance))
        on_path &= np.isfinite(reach)[:, None]
        settled, queue = {}, [((0, 0, 0.0), (s,))]
        while queue:
            (strays, hops, low), path = heapq.heappop(queue)
            u = path[-1]
            if u in settled:
                continue
            settled[u] = path
            inside = (u + 1) ** 0.75 if u != s else 0
            for v in np.flatnonzero(on_path[u]).tolist():
                if v not in settled:
                    cost = strays + int(labels[v] != labels[s]), hops + 1, low + inside
                    heapq.heappush(queue, (cost, (*path, v)))
        found |= {(s, t): path[1:-1] for t, path in settled.items() if t != s}
    return found


def pieces(adjacency, labels, num_classes):
    """The number of connected parts of each class on its own, and of each point the number and size of its part."""
    labels = np.asarray(labels)
    number, part, size = np.zeros(num_classes, int), np.full(len(labels), -1), np.zeros(len(labels), int)
    for c in range(num_classes):
        members = np.flatnonzero(labels == c).tolist()
        left, parts = set(members), []
        while left:
            reached, queue = set(), [min(left)]
            while queue:
                u = queue.pop()
                if u not in reached:
                    reached.add(u)
                    queue += [v for v in left if np.isfinite(adjacency[u, v])]
            parts.append(sorted(reached))
            left -= reached
        number[c] = len(parts)
        for place, members in enumerate(sorted(parts, key=lambda one: (-len(one), one[0]))):
            part[members], size[members] = place, len(members)
    return number, part, size


def graph_intrusions(adjacency, labels, num_classes, tolerance=ROUNDING):
    """Intrusions, pair by pair."""
    labels = np.asarray(labels)
    paths = chosen_paths(adjacency, labels, tolerance)
    by_class, of_points = np.full((num_classes, num_classes + 1), np.nan), np.zeros(len(labels))
    point_scores, disconnected = np.full(len(labels), np.nan), np.full(num_classes, np.nan)
    for c in range(num_classes):
        members = np.flatnonzero(labels == c).tolist()
        pairs = list(itertools.combinations(members, 2))
        if not pairs:
            continue
        by_class[c], disconnected[c] = 0, np.mean([pair not in paths for pair in pairs])
        for s, t in pairs:
            inside = paths.get((s, t), ())
            for v in inside:
                if labels[v] != c:
                    share = 1 / len(inside) / len(pairs)
                    by_class[c, labels[v]] += share  # -1, the background, is the last column
                    of_points[v] += share
        for s in members:
            scores = []
            for t in members:
                inside = paths.get((s, t))
                if t != s:
                    own = [labels[v] == c for v in inside or ()]
                    scores.append(0 if inside is None else np.mean(own) if own else 1)
            point_scores[s] = np.mean(scores)
    return Intrusions(by_class, of_points, point_scores, disconnected, *pieces(adjacency, labels, num_classes))


# Statistics


class Interval(NamedTuple):
    estimate: np.ndarray
    se: np.ndarray
    lower: np.ndarray
    upper: np.ndarray


def jackknife_interval(estimate, replicates, confidence=0.95):
    """Delete-a-group jackknife: se^2 = (g-1)/g sum (r - mean r)^2, t with g-1 degrees of freedom."""
    replicates = np.asarray(replicates, np.float64)
    g = len(replicates)
    se = np.sqrt((g - 1) / g * ((replicates - replicates.mean(0)) ** 2).sum(0))
    half = student_t.ppf((1 + confidence) / 2, g - 1) * se
    return Interval(np.asarray(estimate), se, np.asarray(estimate) - half, np.asarray(estimate) + half)


def jackknife_scores(x, labels, groups, num_classes, k=10, **options):
    """The Score of every leave-a-group-out sample, each rebuilt from its points alone."""
    x, labels, groups = np.asarray(x), np.asarray(labels), np.asarray(groups)
    kept = [groups != g for g in sorted(set(groups.tolist()))]
    return [knn_convexity(x[keep], labels[keep], num_classes, k=k, **options) for keep in kept]


def drawn_correlation(domains, num_samples, seed, within=False):
    """The ends of the interval of Pearson's r for other classes of the same domains, one sample after the other."""
    rng, samples = np.random.default_rng(seed), []
    centred = lambda both: np.asarray(both) - np.mean(both, axis=0) if within else np.asarray(both)  # noqa: E731
    for _ in range(num_samples):
        drawn = [both[rng.integers(0, len(both), len(both) - 1)] for both in map(np.asarray, domains)]
        samples.append(np.arctanh(np.corrcoef(*np.concatenate([centred(both) for both in drawn]).T)[0, 1]))
    r = np.corrcoef(*np.concatenate([centred(both) for both in domains]).T)[0, 1]
    room = sum(map(len, domains)) - len(domains) - 1
    margin = student_t.ppf(0.975, room) * np.std(samples)
    return np.tanh(np.arctanh(r) - margin), np.tanh(np.arctanh(r) + margin)


def permuted_scores(adjacency, permutations, num_classes, tolerance=ROUNDING):
    """The Score of the same graph under every row of permutations [p n], each scored from scratch."""
    return [graph_convexity(adjacency, labels, num_classes, tolerance) for labels in permutations]


def random_label_score(adjacency, labels, num_classes):
    """[c] expected score of a class if the labels that are not background are dealt out at random; no ties.

    p_adj + (1 - p_adj - p_disc) (n_c - 2)/(n - 2), the shares taken over the pairs of points that are dealt a label.
    Only for graphs in which every point is dealt one, so that interior nodes are too.
    """
    labels = np.asarray(labels)
    assert (labels >= 0).all()
    n = len(labels)
    upper = np.triu_indices(n, 1)
    p_adjacent = np.isfinite(adjacency)[upper].mean()
    p_disconnected = np.isinf(path_lengths(adjacency))[upper].mean()
    sizes = np.bincount(labels, minlength=num_classes)
    return p_adjacent + (1 - p_adjacent - p_disconnected) * (sizes - 2) / (n - 2)


def nnconvexity(x, labels, k=10):
    """(micro, {label: score}) in percent, as nnconvexity 0.1.1 reports them for labels 0..C-1 and all pairs.

    Its graph: of the k+1 nearest (the point itself among them, ties to the lowest index) those at a positive distance,
    joined either way. Its path: whichever shortest one igraph returns. Means over ordered pairs, rounded to 2 decimals.
    """
    import igraph

    labels = np.asarray(labels)
    distances = pairwise(x)
    n = len(distances)
    lengths = np.zeros((n, n))
    for i in range(n):
        for j in np.argsort(distances[i], kind="stable")[: k + 1]:
            if distances[i, j] > 0:
                lengths[i, j] = lengths[j, i] = distances[i, j]
    edges = np.argwhere(np.triu(lengths) > 0)
    graph = igraph.Graph(n=n, edges=edges.tolist())
    weights = [lengths[u, v] for u, v in edges]
    everything, per_class = [], {}
    for c in sorted(set(labels.tolist())):
        members = np.flatnonzero(labels == c)
        scores = []
        for s in members.tolist():
            targets = [t for t in members.tolist() if t != s]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # that some targets cannot be reached
                found = graph.get_shortest_paths(s, to=targets, weights=weights, output="vpath")
            for path in found:
                inner = path[1:-1]
                scores.append(0.0 if not path else np.mean(labels[inner] == c) if inner else 1.0)
        everything.extend(scores)
        per_class[c] = round(float(np.mean(scores)) * 100, 2)
    return round(float(np.mean(everything)) * 100, 2), per_class


# Losses


def batch_adjacency(x, k, where=None):
    """(indices of the points that count, their k-nearest-neighbour graph): with too few points for k, all are linked."""
    kept = np.arange(len(x)) if where is None else np.flatnonzero(where)
    if len(kept) < 2:
        return kept, np.full((len(kept), len(kept)), np.inf)
    return kept, knn_adjacency(np.asarray(x, np.float64)[kept], min(k, len(kept) - 1))


def walk_costs(adjacency, temperature):
    """[n n] -log of the weight of each step u -> v: length / (temperature * mean edge) + 1 + log degree(u)."""
    edge = np.isfinite(adjacency)
    scale = temperature * adjacency[edge].mean() if edge.any() else 0
    with np.errstate(divide="ignore", invalid="ignore"):
        return (adjacency / scale if scale > 0 else np.where(edge, 0.0, np.inf)) + 1 + np.log(edge.sum(1))[:, None]


def walk_visits(costs):
    """[n n n] expected visits [s, t, v] strictly between s and t of walks that end on reaching t; nan if none does.

    With t absorbing, the visits of walks from s are a row of (I - Q)^-1, and how much reaches t solves (I - Q) h = r.
    Weighing every walk by its end, visits to v are (I - Q)^-1[s, v] h[v] / h[s]. Steps are first multiplied by
    exp(least cost from u to t - least cost from v to t), which changes none of this and keeps all numbers near 1.
    """
    n = len(costs)
    visits = np.full((n, n, n), np.nan)
    for t in range(n):
        least = dijkstra(csgraph_from_dense(costs.T, null_value=np.inf), directed=True, indices=t)
        inner = [u for u in range(n) if u != t and np.isfinite(least[u])]
        if not inner:
            continue
        steps = np.exp(least[:, None][inner] - costs[inner] - np.where(np.isfinite(least), least, 0))
        through = np.linalg.inv(np.eye(len(inner)) - steps[:, inner])
        reach = through @ steps[:, t]
        for row, s in enumerate(inner):
            visits[s, t] = 0
            visits[s, t, inner] = through[row] * reach / reach[row]
            visits[s, t, s] = 0
    return visits


def enumerated_walk_visits(costs, least=1e-9):
    """As walk_visits, by listing walks until they are too improbable; for tiny graphs."""
    n = len(costs)
    visits, weights = np.zeros((n, n, n)), np.zeros((n, n))

    def walk(path, weight, t):
        for v in np.flatnonzero(np.isfinite(costs[path[-1]])).tolist():
            onward = weight * math.exp(-costs[path[-1], v])
            if v == t:
                weights[path[0], t] += onward
                for stop in path[1:]:
                    visits[path[0], t, stop] += onward * (stop != path[0])
            elif onward > least:
                walk([*path, v], onward, t)

    for s, t in itertools.permutations(range(n), 2):
        walk([s], 1.0, t)
    with np.errstate(invalid="ignore"):
        return visits / weights[:, :, None]


def graph_loss(x, labels, k, temperature, where=None, visits_of=walk_visits):
    """(1 - soft graph convexity, number of unordered pairs), for labels [n] or probabilities [n c]."""
    kept, adjacency = batch_adjacency(x, k, where)
    labels = np.asarray(labels)[kept]
    labels = labels.astype(np.float64) if labels.ndim == 2 else labels
    if labels.ndim == 1:
        labels = (labels[:, None] == np.arange(max(labels.max(initial=-1) + 1, 1))).astype(np.float64)
    visits = visits_of(walk_costs(adjacency, temperature))
    loss, pairs = 0.0, 0.0
    for s, t in itertools.permutations(range(len(kept)), 2):
        for c in range(labels.shape[1]):
            weight = labels[s, c] * labels[t, c]
            score = 0.0
            if not np.isnan(visits[s, t, 0]):
                score = 1 - (visits[s, t] * (1 - labels[:, c])).sum() / max(visits[s, t].sum(), 1)
            loss += weight * (1 - score)
            pairs += weight
    return (loss / pairs if pairs else 0.0), pairs / 2


def detour(x, labels, k, where=None):
    """(mean over same-class pairs of 1 - shortest path / shortest path inside the class, number of pairs)."""
    import networkx

    kept, adjacency = batch_adjacency(x, k, where)
    labels = np.asarray(labels)[kept]
    graph = networkx.Graph()
    graph.add_nodes_from(range(len(kept)))
    graph.add_weighted_edges_from((u, v, adjacency[u, v]) for u, v in np.argwhere(np.isfinite(adjacency)).tolist())
    losses = []
    for c in sorted(set(labels[labels >= 0].tolist())):
        members = np.flatnonzero(labels == c).tolist()
        anywhere = {s: networkx.single_source_dijkstra_path_length(graph, s) for s in members}
        inside = {s: networkx.single_source_dijkstra_path_length(graph.subgraph(members), s) for s in members}
        for s, t in itertools.combinations(members, 2):
            if t not in inside[s]:
                losses.append(1.0)
            else:
                losses.append(1 - anywhere[s][t] / inside[s][t] if inside[s][t] > 0 else 0.0)
    return (float(np.mean(losses)) if losses else 0.0), len(losses)


def segment_losses(predict, x, labels, num_points, kind, temperature):
    """[n n] mean loss at the equally spaced points of every ordered pair of a class, one pair at a time."""
    x, labels = np.asarray(x, np.float64), np.asarray(labels)
    losses = np.full((len(x), len(x)), np.nan)
    for i, j in itertools.permutations(range(len(x)), 2):
        if labels[i] == labels[j] >= 0:
            found = []
            for point in segment(x[i], x[j], num_points):
                logits = np.asarray(predict(point[None]))[0] / temperature
                rest = np.delete(logits, labels[i]) - logits[labels[i]]
                cross_entropy = np.logaddexp.reduce([0.0, *rest])
                found.append(cross_entropy if kind == "cross_entropy" else -np.expm1(-cross_entropy))
            losses[i, j] = np.mean(found)
    return losses


# Cases and comparison


def exact_points(rng, n, d, spread=128):
    """[n d] float32 multiples of 1/64 whose distances float32 holds apart: the order by (distance, index) has no doubt.

    Differences are multiples below 2 spread: squares and their sums stay below 2^20 for d <= 16, and do not round.
    """
    return (rng.integers(-spread, spread, (n, d)) / 64).astype(np.float32)


def awkward_labels(rng, n, num_classes):
    """[n] labels with background points (-1), of which class 0 has one point, class 1 two, and the last none."""
    labels = rng.integers(-1, num_classes - 1, n)
    labels[labels <= 1] = -1
    labels[rng.permutation(n)[:3]] = [0, 1, 1]
    return labels.astype(np.int32)


def awkward_batches(n=14, d=3):
    """name -> (x [n d], labels [n], where [n]): what a batch may come to, at worst."""
    rng = np.random.default_rng(0)
    x, labels, all_ = rng.normal(size=(n, d)), rng.integers(0, 3, n), np.ones(n, bool)
    near, outlier = np.arange(n) < n // 2, np.where(np.arange(n) == 0, 1e6, 1)[:, None]
    few = np.arange(n) < 3
    batches = {
        "duplicates": (np.where(near[:, None], x, np.roll(x, n - n // 2, axis=0)), labels, all_),
        "all points equal": (np.ones((n, d)), labels, all_),
        "a class in one point": (np.where((labels == 1)[:, None], 1.0, x), labels, all_),
        "two far components": (x + 1000 * (np.arange(n) % 2)[:, None], np.arange(n) % 4 // 2, all_),
        "a class of one": (x, np.where(np.arange(n) == 0, 1, 0), all_),
        "classes of one": (x, np.arange(n), all_),
        "all background": (x, np.full(n, -1), all_),
        "an outlier": (x * outlier, labels, all_),
        "an enormous outlier": (x * outlier**5, labels, all_),
        "tiny": (x * 1e-15, labels, all_),
        "huge": (x * 1e15, labels, all_),
        "none counts": (x, labels, ~all_),
        "one counts": (x, labels, np.arange(n) == 1),
        "fewer count than neighbours": (x, np.zeros(n, int), few),
    }
    return {name: (a.astype(np.float32), b.astype(np.int32), c) for name, (a, b, c) in batches.items()}


def slope(function, x, direction, step=1e-6):
    """The derivative of a function of an array along a direction, by central differences in float64."""
    x, direction = np.asarray(x, np.float64), np.asarray(direction, np.float64)
    return (function(x + step * direction) - function(x - step * direction)) / (2 * step)


def dense(senders, receivers, lengths, n):
    """[n n] edge lengths of a list of edges, which must name every edge once from either end, all at one length."""
    senders, receivers, lengths = (np.asarray(a) for a in (senders, receivers, lengths))
    there = lengths < np.inf
    edges = list(zip(senders[there].tolist(), receivers[there].tolist(), strict=True))
    assert len(edges) == len(set(edges)), "an edge is listed twice"
    adjacency = np.full((n, n), np.inf)
    adjacency[senders[there], receivers[there]] = lengths[there]
    assert np.array_equal(adjacency, adjacency.T), "an edge is not listed from both ends"
    return adjacency


def clear(adjacency, labels):
    """Whether each choice of a path is either a tie (but for float64's rounding) or a difference that float32 can tell."""
    narrow, wide = (shortest_paths(adjacency, labels, tolerance=tolerance) for tolerance in (1e-12, 10 * ROUNDING))
    return all(np.array_equal(a, b) for a, b in zip(narrow, wide, strict=True))


def assert_score(got, want, atol=1e-6):
    """Every field of a ConvexityScore or EuclideanScore (or what has its names) is the oracle's."""
    for name in Score._fields:
        if name in ("adjacent", "disconnected", "nonadjacent") and not hasattr(got, name):
            continue  # a segment has no edges
        actual, expected = np.asarray(getattr(got, name)), np.asarray(getattr(want, name))
        if name.startswith("num_"):
            np.testing.assert_array_equal(actual, expected, err_msg=name)
        else:
            np.testing.assert_allclose(actual, expected, rtol=0, atol=atol, err_msg=name)
