"""Recomputes one saved layer of each study by the oracles: python tests/benchmarks/study_by_oracle.py studies/*

The graph score of the pretrained network's last layer, by every labeling, from the features that the study kept in `work`.
The oracles are slow, obvious versions written from the definitions (networkx and NumPy); 1,000 points take minutes.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

import oracles

from jaxconvex.evaluation.report import only, read_report
from jaxconvex.layers import read_activations


def check(folder: Path) -> None:
    """Prints the largest difference over classes, by labeling."""
    report = read_report(folder / "pretrained" / "scores.json")
    # Features of another run may lie beside: those of this report have its numbers.
    place = max(folder.glob("work/scores-pretrained-*[!t]"), key=lambda path: path.stat().st_mtime)
    features = read_activations(place / "features")
    layer = list(features)[-1]
    x = np.asarray(features[layer], np.float64)
    k = report.settings["k"][0]
    labels = np.load(folder / "pretrained" / "labels.npz", allow_pickle=False)
    for labeling in labels.files:
        began = time.perf_counter()
        rows = [row for row in only(report, kind="graph", labeling=labeling, level="class") if row.layer == layer]
        names, codes = np.unique(labels[labeling], return_inverse=True)
        expected = oracles.knn_convexity(x, codes, len(names), k=k).per_class
        wanted = dict(zip(names.tolist(), expected, strict=True))
        apart = [abs(row.score - wanted.get(row.label, np.nan)) for row in rows if not np.isnan(row.score)]
        print(
            f"{folder.name}, {layer}, {labeling!r}: {len(x)} points, {len(apart)} classes, largest difference "
            f"{max(apart):.1e} ({time.perf_counter() - began:.0f} s)",
            flush=True,
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+", metavar="DIR", help="results of jaxconvex study")
    for folder in parser.parse_args().folders:
        if (folder / "study.json").exists():
            check(folder)
