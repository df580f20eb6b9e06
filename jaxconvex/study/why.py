"""Why classes are not convex in the layer where they are most so: what they lose, and the items to look at first."""

from __future__ import annotations

import math
import wave
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxconvex.evaluation.evaluation import evaluate
from jaxconvex.evaluation.report import Report, select
from jaxconvex.layers.activations import Activations
from jaxconvex.study.material import Material

__all__ = ["FOREMOST", "WHY", "foremost", "write_why"]

WHY = "why"  # the folder of a network's report on this, and of its items
FOREMOST = 8  # points of either kind that are shown
LETTERS, SECONDS, PIXELS = 400, 10, 160  # of an item, at most


def write_why(material: Material, report: Report, features: Activations, metric: Any, folder: Path) -> None:
    """Write to the folder what the classes of the data lose, as why.json, and the items behind the foremost points.

    Args:
        material: data of the study.
        report: the scores of the network.
        features: its pooled features of the test part.
        metric: of the neighbours.
        folder: there already.

    It is about the first labels of the data, in the layer of the highest mean; nothing is written where none is known.
    """
    main = next(iter(material.test.labelings))
    means = [row for row in select(report, kind="graph", labeling=main, level="macro") if not math.isnan(row.score)]
    if not means or material.shown is None:
        return
    best = max(means, key=lambda row: row.score)
    shown = material.shown.inputs
    asked = {name: report.settings[name] for name in ("graph", "duplicates")}
    told = evaluate(
        {best.layer: np.asarray(features[best.layer])},
        {main: material.test.labelings[main]},
        k=best.k,
        metric=metric,
        jackknife=False,
        why=True,
        names=[_clipped(item) for item in shown] if len(shown) and isinstance(shown[0], str) else None,
        progress=False,
        **asked,
    )
    told.to_json(folder / f"{WHY}.json")
    rate = int(material.shown.options.get("rate", 0))
    for row in (row for what in ("intruder", "outlier") for row in foremost(told, what)):
        write_item(shown[row.point], folder / str(row.point), rate)


def foremost(report: Report, what: str) -> Sequence[Any]:
    """The points of a kind that are shown."""
    return [row for row in report.points if row.what == what][:FOREMOST]


def write_item(item: Any, stem: Path, rate: int = 0) -> Path | None:
    """The path, after writing an item to it that one can look at or hear: text, a picture, or sound at a rate.

    None for what is neither, as movements are.

    >>> import tempfile
    >>> write_item("what is lost", Path(tempfile.mkdtemp()) / "0").read_text()
    'what is lost'
    """
    if isinstance(item, str):
        path = stem.with_suffix(".txt")
        path.write_text(_clipped(item), encoding="utf-8")
        return path
    array = np.asarray(item)
    if array.dtype == np.uint8 and array.ndim in (2, 3):
        from PIL import Image

        picture = Image.fromarray(array.squeeze())
        picture.thumbnail((PIXELS, PIXELS))
        picture.save(stem.with_suffix(".png"))
        return stem.with_suffix(".png")
    if array.ndim == 1 and rate:
        with wave.open(str(stem.with_suffix(".wav")), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(rate)
            loudest = max(float(np.abs(array).max(initial=0)), 1e-9)
            file.writeframes(np.rint(array[: SECONDS * rate] / loudest * 32767).astype("<i2").tobytes())
        return stem.with_suffix(".wav")
    return None


def _clipped(text: str) -> str:
    return text.replace("\0", "") if len(text) <= LETTERS else text[: LETTERS - 1].replace("\0", "") + "…"
