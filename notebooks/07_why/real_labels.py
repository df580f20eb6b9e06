"""The labels that their authors gave: what takes them apart in banking77 and Fashion-MNIST; intents below topics.

python real_labels.py --text banking77 --minilm all-minilm-l6-v2 --images fashion_mnist --efficientnet efficientnet-lite0

All texts of banking77's test part in the last layer of MiniLM, and the first --images-scored test images of
Fashion-MNIST in the last layer of EfficientNet-lite0. Of each the twenty points of the lowest score and the twenty
that other classes lose most to go to texts.csv and pictures.csv (the pictures themselves to pictures.npz); what every
class loses to which others goes to text_losses.csv and picture_losses.csv. topics.csv puts each of the 77 intents
below one of nine topics, by hand, from the intents' names alone and before the first run; `concept_convexity` scores
both levels from one search, with intervals by `concept_jackknife`: hierarchy.csv.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import jax
import numpy as np
import pandas as pd

from jaxconvex import (
    concept_convexity,
    encoders,
    graph_convexity,
    graph_intrusions,
    knn_graph,
    pack,
    random_label_score,
)
from jaxconvex.layers import extract
from jaxconvex.statistics import concept_jackknife
from jaxconvex.study.datasets import read_dataset

LARGEST, FOREMOST = 3, 20


def last_layer(folder: Path, family: str | None, given: object, options: dict[str, object]) -> np.ndarray:
    """The mean of the tokens, or of the places, in the last layer."""
    encoder, preprocess = encoders.load(folder, family)
    inputs = tuple(part for part in preprocess(given, **options) if part is not None)
    mask = encoder.sequence_mask if len(inputs) > 1 else None
    states = extract(encoder.hidden_states, inputs, pool="mean", mask=mask, batch_size=50)
    return np.asarray(states[list(states)[-1]])


def losses(found: object, score: np.ndarray, names: np.ndarray) -> pd.DataFrame:
    """A line a class: its score and the three classes that it loses most to, in percentage points."""
    lines = []
    for a in np.argsort(score):
        order = np.argsort(-np.asarray(found.by_class)[a, : len(names)])[:LARGEST]
        lost = [(names[b], round(100 * float(found.by_class[a, b]), 1)) for b in order if found.by_class[a, b] > 0]
        pieces = {"pieces": int(found.num_pieces[a]), "no path": round(100 * float(found.disconnected[a]), 1)}
        words = ", ".join(f"{points} to {name}" for name, points in lost)
        lines.append({"class": names[a], "score": round(100 * float(score[a]), 1), "points lost": words, **pieces})
    return pd.DataFrame(lines)


def foremost(found: object, codes: np.ndarray, names: np.ndarray) -> pd.DataFrame:
    """The points of the lowest score, and those that other classes lose most to."""
    tables = []
    for what, values in (("outlier", found.point_scores), ("intruder", -found.of_points)):
        rows = np.argsort(np.asarray(values), kind="stable")[:FOREMOST]
        value = np.abs(np.asarray(values))[rows]
        tables.append(pd.DataFrame({"what": what, "row": rows, "label": names[codes[rows]], "value": value}))
    return pd.concat(tables)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("text", "minilm", "images", "efficientnet"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--images-scored", type=int, default=2000)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    texts = pd.read_csv(options.text / "test.csv").drop_duplicates("text")
    names, codes = np.unique(texts.category, return_inverse=True)
    x = last_layer(options.minilm, None, texts.text.tolist(), {})
    graph = pack(knn_graph(x, k=10))
    found = graph_intrusions(graph, codes, num_classes=len(names))
    score = np.asarray(graph_convexity(graph, codes, num_classes=len(names)).per_class)
    losses(found, score, names).to_csv(options.out / "text_losses.csv", index=False)
    table = foremost(found, codes, names)
    table.assign(text=texts.text.to_numpy()[table["row"]]).round(4).to_csv(options.out / "texts.csv", index=False)

    topic = pd.read_csv(Path(__file__).parent / "topics.csv").set_index("category").topic[names].to_numpy()
    topics, above = np.unique(topic, return_inverse=True)
    both = [codes == c for c in range(len(names))] + [above[codes] == t for t in range(len(topics))]
    levels = concept_convexity(graph, np.stack(both, axis=1))
    error = concept_jackknife(x, np.stack(both, axis=1), key=jax.random.key(0)).per_class
    chance = [np.asarray(random_label_score(graph, each, num_classes=each.max() + 1)) for each in (codes, above[codes])]
    hierarchy = pd.DataFrame(
        {
            "level": ["intent"] * len(names) + ["topic"] * len(topics),
            "concept": [*names, *topics],
            "topic": [*topic, *topics],
            "points": np.asarray(levels.num_points),
            "score": 100 * np.asarray(levels.per_class),
            "lower": 100 * np.asarray(error.lower),
            "upper": 100 * np.asarray(error.upper),
            "by random labels": 100 * np.concatenate(chance),
        }
    )
    hierarchy.round(2).to_csv(options.out / "hierarchy.csv", index=False)

    data = read_dataset("images", options.images)
    rows = np.flatnonzero(data.parts == "test")[: options.images_scored]
    names, codes = np.unique(next(iter(data.labelings.values()))[rows], return_inverse=True)
    pictures = np.asarray(data.inputs)[rows]
    graph = pack(knn_graph(last_layer(options.efficientnet, "efficientnet-lite0", pictures, {"size": 64}), k=10))
    found = graph_intrusions(graph, codes, num_classes=len(names))
    score = np.asarray(graph_convexity(graph, codes, num_classes=len(names)).per_class)
    losses(found, score, names).to_csv(options.out / "picture_losses.csv", index=False)
    table = foremost(found, codes, names)
    table.round(4).to_csv(options.out / "pictures.csv", index=False)
    np.savez_compressed(options.out / "pictures.npz", pictures=pictures[table["row"]])


if __name__ == "__main__":
    main()
