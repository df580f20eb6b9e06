"""Do intruders and outliers point at wrong labels? Some labels of five data sets are changed at random and looked for.

python flips.py --studies studies.toml --out results

The protocol was written before the first run. studies.toml names the data and the encoders, as for `jaxconvex study`: its
tables images, medical, text and speech are read, and the handwritten digits of scikit-learn join them as pixels. Points are
those of the test part, at most --points, in the encoder's last layer, pooled as in the study. Of their labels 2, 5 and 10
percent are changed, each to another class, all alike likely; --seeds times. Every method ranks all points, and is judged by
the area under its ROC curve and by the share of changed labels among as many of its foremost points as were changed:

- point score: the mean convexity of a point's paths to its class, the lowest first;
- taken: what other classes lose to a point, the most first;
- neighbours: the share of the ten nearest with another label;
- silhouette: the lowest first;
- probe: 1 - the probability of the label by a softmax probe fitted to four fifths that hold other points: the ranking of
  confident learning by "self-confidence" (Northcutt, Jiang and Chuang, 2021).

Ties count half in the area, and the foremost of them are drawn. Results go to flips.csv, a line for each
data set, share, seed and method. Then the labels as they are: the twenty points of the lowest score of each data set, with
what the other methods say of them, go to foremost.csv.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from scipy.stats import rankdata
from sklearn.datasets import load_digits
from tqdm import tqdm

from jaxconvex import PackedGraph, graph_intrusions, knn_graph, label_overlap, pack, silhouette
from jaxconvex.layers import extract
from jaxconvex.neighbors import KNNGraph
from jaxconvex.statistics.regression import softmax_regression
from jaxconvex.study.domains import read_domains
from jaxconvex.study.material import prepare

SHARES, FOLDS, PENALTY = (0.02, 0.05, 0.1), 5, 0.03  # the penalty of the study's probe
FOREMOST = 20


def data_sets(studies: Path, points: int) -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    """Yields a name, the features, the classes by number, and what the classes are called."""
    digits = load_digits()
    rows = np.sort(np.random.default_rng(0).permutation(len(digits.data))[:points])
    yield "digits", digits.data[rows].astype(np.float32), digits.target[rows], np.arange(10).astype(str)
    for domain in read_domains(studies):
        if domain.name in ("images", "medical", "text", "speech"):
            material = prepare(domain._replace(test=points), jax.random.key(0))
            part, pool = material.test, domain.pool
            mask = material.encoder.sequence_mask if len(part.inputs) > 1 else None
            states = extract(material.encoder.hidden_states, part.inputs, pool=pool, mask=mask, batch_size=50)
            *_, last = states
            yield domain.name, np.asarray(states[last]), np.asarray(part.classes), np.array(material.classes)


def changed(labels: np.ndarray, share: float, classes: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The labels with some changed, and which."""
    wrong = np.isin(np.arange(len(labels)), rng.choice(len(labels), round(share * len(labels)), replace=False))
    return np.where(wrong, (labels + rng.integers(1, classes, len(labels))) % classes, labels), wrong


def doubts(
    x: np.ndarray, knn: KNNGraph, packed: PackedGraph, labels: np.ndarray, classes: int
) -> dict[str, np.ndarray]:
    """How doubtful every point's label is, by each method; the highest is looked at first."""
    found = graph_intrusions(packed, labels, num_classes=classes)
    fold = np.random.default_rng(0).permutation(len(x)) % FOLDS
    own = np.zeros(len(x))
    for number in range(FOLDS):
        # Points of the other folds come first, as many in each: one compilation for all folds.
        train = np.flatnonzero(fold != number)[: len(x) - -(-len(x) // FOLDS)]
        head = softmax_regression(
            jnp.asarray(x[train]), jnp.asarray(labels[train]), num_classes=classes, penalty=PENALTY
        )
        rest = np.flatnonzero(fold == number)
        probabilities = jax.nn.softmax(x[rest] @ head.kernel + head.bias)
        own[rest] = np.asarray(probabilities)[np.arange(len(rest)), labels[rest]]
    return {
        "point score": 1 - np.nan_to_num(np.asarray(found.point_scores)),
        "taken": np.asarray(found.of_points),
        "neighbours": 1 - label_overlap(knn, labels),
        "silhouette": -np.asarray(silhouette(x, labels)),
        "probe": 1 - own,
    }


def area(doubt: np.ndarray, wrong: np.ndarray) -> float:
    """The share of pairs of a changed and another point in which the changed one is the more doubtful; ties are halves."""
    below = rankdata(doubt)[wrong].sum() - wrong.sum() * (wrong.sum() + 1) / 2
    return float(below / (wrong.sum() * (~wrong).sum()))


def precision(doubt: np.ndarray, wrong: np.ndarray, rng: np.random.Generator) -> float:
    """The share of changed labels among as many foremost points."""
    foremost = np.lexsort((rng.random(len(doubt)), -doubt))[: wrong.sum()]
    return float(wrong[foremost].mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("results"))
    parser.add_argument("--points", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=20)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    flips: list[dict[str, object]] = []
    foremost: list[dict[str, object]] = []
    for name, x, labels, classes in data_sets(options.studies, options.points):
        knn = knn_graph(x, k=10)
        packed, number = pack(knn), len(classes)
        for share in SHARES:
            for seed in tqdm(range(options.seeds), desc=f"{name}, {share:.0%}", leave=False):
                rng = np.random.default_rng(seed)
                given, wrong = changed(labels, share, number, rng)
                for method, doubt in doubts(x, knn, packed, given, number).items():
                    judged = {"area": area(doubt, wrong), "precision": precision(doubt, wrong, rng)}
                    about = {"data": name, "points": len(x), "classes": number, "share": share, "seed": seed}
                    flips.append({**about, "method": method, **judged})
        as_given = doubts(x, knn, packed, labels, number)
        ranks = {method: len(x) + 1 - rankdata(doubt, method="max") for method, doubt in as_given.items()}
        for row in np.argsort(-as_given["point score"], kind="stable")[:FOREMOST]:
            values = {method: int(rank[row]) for method, rank in ranks.items()}
            foremost.append({"data": name, "row": row, "label": classes[labels[row]], **values})
        pd.DataFrame(flips).round(5).to_csv(options.out / "flips.csv", index=False)
        pd.DataFrame(foremost).to_csv(options.out / "foremost.csv", index=False)


if __name__ == "__main__":
    main()
