"""What convexity says of a class's recall that a simpler measure does not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float
from scipy.special import ndtri

from jaxconvex.statistics.correlation import pearson
from jaxconvex.statistics.intervals import upper_level
from jaxconvex.study.results import MeasureRow

__all__ = ["Beside", "partial_correlation", "what_convexity_adds"]


class Beside(NamedTuple):
    """Over the classes: how convexity and a simpler measure go with the recall after fine-tuning, and with each other."""

    measure: str
    measure_with_recall: float  # Pearson's r
    convexity_with_recall: float
    convexity_with_measure: float
    partial: float  # r of convexity and recall given the measure
    lower: float  # its interval
    upper: float
    num_classes: int


def partial_correlation(x: Float[ArrayLike, " n"], y: Float[ArrayLike, " n"], given: Float[ArrayLike, " n"]) -> float:
    """Pearson's correlation of x and y given z: (r_xy - r_xz r_yz) / sqrt((1 - r_xz^2) (1 - r_yz^2)).

    It is the correlation of what straight lines in z leave of x and of y. Triples with a nan are left out. nan where x, y
    or z is constant, or x or y a straight line in z.

    >>> round(partial_correlation([1, 2, 3, 4, 5], [1, 2, 4, 3, 6], [2, 1, 4, 3, 5]), 4)
    0.7057

    Source: Fisher, The distribution of the partial correlation coefficient, Metron 3, 1924.
    """
    x, y, z = _complete(x, y, given)
    xy, xz, yz = (pearson(*pair).coefficient for pair in ((x, y), (x, z), (y, z)))
    left = (1 - xz**2) * (1 - yz**2)
    return float(np.clip((xy - xz * yz) / np.sqrt(left), -1, 1)) if left > 1e-12 else float("nan")


def what_convexity_adds(
    convexity: Mapping[int | str, float],
    recall: Mapping[int | str, float],
    measures: Sequence[MeasureRow],
    *,
    network: str = "pretrained",
    confidence: float = 0.95,
) -> list[Beside]:
    """For each measure that is told of classes: the correlations over classes, and that of convexity given the measure.

    Args:
        convexity: of each class, before fine-tuning, mean over layers.
        recall: of each class, after fine-tuning.
        measures: rows of `simple_measures`; for a class the mean over layers (and seeds) is taken.
        network: whose rows of the measures are taken.
        confidence: of the interval of the partial correlation, Fisher's for one variable held fixed:
            tanh(artanh r -+ z / sqrt(n - 4)), nan below five classes.

    Classes without one of the three are left out.

    >>> rows = [MeasureRow("silhouette", "pretrained", None, "1", 0, c, v) for c, v in enumerate([2, 1, 4, 3, 5])]
    >>> found, = what_convexity_adds(dict(enumerate([1, 2, 3, 4, 5])), dict(enumerate([1, 2, 4, 3, 6])), rows)
    >>> round(found.measure_with_recall, 4), round(found.partial, 4), found.num_classes
    (0.9042, 0.7057, 5)

    Source of the interval: Fisher, Metron 3, 1924.
    """
    z = ndtri(upper_level(confidence))
    values: dict[str, dict[int | str, list[float]]] = {}
    for row in measures:
        if row.network == network and row.label is not None:
            values.setdefault(row.measure, {}).setdefault(row.label, []).append(row.value)
    rows = []
    for measure, of_class in values.items():
        classes = [label for label in of_class if label in convexity and label in recall]
        triples = [[convexity[label], recall[label], np.mean(of_class[label])] for label in classes]
        convex, recalled, measured = _complete(*np.array(triples, np.float64).reshape(-1, 3).T)
        r, n = partial_correlation(convex, recalled, measured), len(convex)
        margin = z / np.sqrt(n - 4) if n > 4 else float("nan")
        with np.errstate(divide="ignore"):
            lower, upper = np.tanh(np.arctanh(r) + np.array([-margin, margin]))
        rows.append(
            Beside(
                measure,
                pearson(measured, recalled).coefficient,
                pearson(convex, recalled).coefficient,
                pearson(convex, measured).coefficient,
                r,
                float(lower),
                float(upper),
                n,
            )
        )
    return rows


def _complete(*series: ArrayLike) -> list[np.ndarray]:
    values = [np.asarray(array, np.float64) for array in series]
    if len({array.shape for array in values}) > 1 or values[0].ndim != 1:
        raise ValueError(f"the series must have one length; got shapes {[array.shape for array in values]}.")
    complete = ~np.any(np.isnan(values), axis=0)
    return [array[complete] for array in values]
