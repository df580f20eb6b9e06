"""Convexity in the layers of a decoder beside a sentence encoder's, on the same texts: the numbers of notebook 06.

python run.py --data banking77 --model gemma=FOLDER --model minilm=FOLDER --out results

`banking77` holds train.csv and test.csv as PolyAI publish them; a FOLDER holds config.json, the weights as safetensors, and
the tokenizer. Scores go to scores.csv, shares of the largest features to massive.csv, the probes' accuracy to probes.csv.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pandas as pd
from jaxtyping import Array

from jaxconvex import encoders, evaluate
from jaxconvex.evaluation.report import select
from jaxconvex.layers import extract
from jaxconvex.layers.layer_reading import pooled_layer
from jaxconvex.study.training.probes import softmax_regression

CLASSES, EACH, TRAINING = 20, 25, 30  # intents, test texts of each, training texts of each
POOLS = ("last", "mean")
PENALTY = 0.03  # of the probe; as in the study


def texts_of(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Returns texts of the largest intents: some to fit the probe, others to score."""
    train, test = (pd.read_csv(folder / f"{part}.csv") for part in ("train", "test"))
    largest = train.category.value_counts(sort=True).index[:CLASSES]

    def some(frame: pd.DataFrame, number: int) -> pd.DataFrame:
        rows = frame[frame.category.isin(largest)].drop_duplicates("text")
        return rows.groupby("category").sample(number, random_state=0).reset_index(drop=True)

    return some(train, TRAINING), some(test, EACH)


def both(h: Array, mask: Array) -> Array:
    """Returns the last valid token and the mean of the valid ones, (b, 2, d)."""
    return jnp.stack([pooled_layer(h, pool, mask) for pool in POOLS], axis=1)


def views_of(layers: Mapping[str, np.ndarray]) -> Iterator[tuple[str, str, dict[str, np.ndarray]]]:
    """Yields a name, a metric and the layers as they are compared: as they are, by angle, and each feature standardised."""
    yield "Euclidean", "euclidean", dict(layers)
    yield "cosine", "cosine", dict(layers)
    yield "standardised", "euclidean", {name: standardised(x) for name, x in layers.items()}


def standardised(x: np.ndarray) -> np.ndarray:
    """Returns the features with mean 0 and variance 1; one that never varies is 0."""
    return (x - x.mean(axis=0)) / np.maximum(x.std(axis=0), 1e-6)


def massive(layers: Mapping[str, np.ndarray]) -> Iterator[dict[str, object]]:
    """Yields for each layer what share of the squared distances its largest features make."""
    for layer, x in layers.items():
        variances = np.sort(x.astype(np.float64).var(axis=0))[::-1]
        shares = np.cumsum(variances) / variances.sum()
        largest = np.abs(x).max() / np.median(np.abs(x))
        yield {"layer": layer, "first": shares[0], "first five": shares[4], "largest over median": largest}


def scores(network: str, folder: Path, train: pd.DataFrame, test: pd.DataFrame) -> dict[str, list[dict[str, object]]]:
    """Returns the rows of the three tables for a network: every pooling, view, labeling and layer."""
    encoder, preprocess = encoders.load(folder)
    fitted = {"train": preprocess(train.text.tolist()), "test": preprocess(test.text.tolist())}
    names, codes = np.unique(train.category, return_inverse=True)
    tables: dict[str, list[dict[str, object]]] = {"scores": [], "massive": [], "probes": []}
    how = {"pool": both, "mask": 1, "batch_size": 25, "progress": False}
    states = {part: dict(extract(encoder.hidden_states, inputs, **how).items()) for part, inputs in fitted.items()}
    for number, pool in enumerate(POOLS):
        layers = {part: {name: np.asarray(x)[:, number] for name, x in states[part].items()} for part in states}
        last = list(layers["test"])[-1]
        head = softmax_regression(
            jnp.asarray(layers["train"][last]), jnp.asarray(codes), num_classes=CLASSES, penalty=PENALTY
        )
        predicted = names[np.argmax(layers["test"][last] @ np.asarray(head.kernel) + np.asarray(head.bias), axis=1)]
        accuracy = np.mean(predicted == test.category)
        tables["probes"].append({"network": network, "pool": pool, "accuracy": accuracy, "texts": len(test)})
        tables["massive"] += [{"network": network, "pool": pool, **row} for row in massive(layers["test"])]
        for view, metric, compared in views_of(layers["test"]):
            labels = {"intent": test.category.to_numpy(), "predicted": predicted}
            report = evaluate(compared, labels, metric=metric, permutations=199, jackknife=True, progress=False)
            for row in select(report, kind="graph", level="macro"):
                tables["scores"].append({"network": network, "pool": pool, "view": view} | chosen(row))
            print(f"{network}, {pool}, {view}: done", flush=True)
    return tables


def chosen(row) -> dict[str, object]:
    """Returns what of a row the notebook shows."""
    fields = (
        "labeling",
        "layer",
        "layer_index",
        "score",
        "lower",
        "upper",
        "null_mean",
        "p_value",
        "hubness",
        "hub",
        "disconnected",
    )
    return {field: getattr(row, field) for field in fields}


def main() -> None:
    """Read the options, score each network, write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train.csv and test.csv")
    parser.add_argument(
        "--model", action="append", required=True, metavar="NAME=FOLDER", help="a network; several in turn"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the tables")
    options = parser.parse_args()
    train, test = texts_of(options.data)
    tables: dict[str, list[dict[str, object]]] = {}
    for given in options.model:
        network, _, folder = given.partition("=")
        for name, rows in scores(network, Path(folder), train, test).items():
            tables.setdefault(name, []).extend(rows)
    options.out.mkdir(parents=True, exist_ok=True)
    for name, rows in tables.items():
        pd.DataFrame(rows).to_csv(options.out / f"{name}.csv", index=False, float_format="%.5g")


if __name__ == "__main__":
    main()
