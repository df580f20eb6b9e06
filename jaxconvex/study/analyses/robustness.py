"""Does a conclusion depend on how the features are written down? Graph convexity of layers re-parametrized."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray
from scipy.linalg import eigh

from jaxconvex.evaluation.labelings import encode_all
from jaxconvex.neighbors.knn import knn_graph
from jaxconvex.study.analyses.variants import Points, Progress, macro_scores, variant_rows
from jaxconvex.study.results import VariantRow

__all__ = ["REPARAMETRIZATIONS", "reparametrizations"]

LARGEST_HALF = float(np.finfo(np.float16).max)


def _same(x: Points, key: PRNGKeyArray) -> Points:
    return x


def _isometry(x: Points, key: PRNGKeyArray) -> Points:
    random = _generator(key)
    return _float32(_centred(x) @ _rotation(random, x.shape[1]) + x.std() * random.normal(size=x.shape[1]))


def _scaled(x: Points, key: PRNGKeyArray, *, factor: float) -> Points:
    return _float32(factor * x.astype(np.float64))


def _standardised(x: Points, key: PRNGKeyArray) -> Points:
    # Constancy is asked of the values themselves: their mean is rounded, so their deviation need not be 0.
    deviation = np.where(np.ptp(x, axis=0) > 0, x.std(axis=0, dtype=np.float64), np.inf)
    return _float32(_centred(x) / deviation)


def _affine(x: Points, key: PRNGKeyArray, *, condition: float) -> Points:
    # A rotation of the result would change no distance, so U diag(s) stands for U diag(s) V.
    stretch = condition ** np.linspace(0, 1, x.shape[1])
    return _float32(_centred(x) @ _rotation(_generator(key), x.shape[1]) * stretch)


def _principal(x: Points, key: PRNGKeyArray, *, components: int) -> Points:
    centred = _centred(x)
    n, d = centred.shape
    kept = min(components, d, n - 1)
    small = centred.T @ centred if d <= n else centred @ centred.T
    values, vectors = eigh(small, subset_by_index=[len(small) - kept, len(small) - 1])
    return _float32(centred @ vectors if d <= n else vectors * np.sqrt(np.maximum(values, 0)))


def _half_precision(x: Points, key: PRNGKeyArray) -> Points:
    # A power of two changes no digit.
    beyond = np.ceil(np.log2(max(float(np.abs(x).max()) / LARGEST_HALF, 1)))
    return (x / 2.0**beyond).astype(np.float16).astype(np.float32)


REPARAMETRIZATIONS: Mapping[str, Callable[[Points, PRNGKeyArray], Points]] = MappingProxyType(
    {
        "none": _same,
        "isometry": _isometry,  # a random rotation or reflection, and a shift of about one standard deviation
        "scaling": partial(_scaled, factor=7.3),
        "standardization": _standardised,  # each feature mean 0 and deviation 1; constant features 0
        "affine": partial(_affine, condition=10),  # stretches of 1 to 10, evenly spaced logarithms, random directions
        "affine 100": partial(_affine, condition=100),
        "pca 50": partial(_principal, components=50),  # or as many as there are
        "float16": _half_precision,  # and back; divided by a power of two first, should it overflow
    }
)


def reparametrizations(
    layers: Mapping[str, Float[np.ndarray, "n d"]],
    labelings: Mapping[str, Any],
    *,
    network: str,
    seed: int | None,
    key: PRNGKeyArray,
    k: int = 10,
    metric: str = "euclidean",
    progress: Progress | None = None,
) -> list[VariantRow]:
    """The macro graph convexity of every layer, written down in each of the ways of `REPARAMETRIZATIONS`.

    Args:
        layers: features by name, one row a point, in order of depth; read one layer at a time.
        labelings: labels by name ("predicted", and the data's own), integers or strings.
        network, seed: what the rows say.
        key: of the random maps; every layer and variant has its own. The same key gives the same rows.
        k: neighbours of the graph, 1 to n - 1.
        metric: of the graph.
        progress: called after each layer.

    Isometries and scaling keep the graph and its paths (but for near ties, which rounding may turn); other maps
    need not. Maps are computed in float64, and their values are float32.

    Raises:
        ValueError: k not below the number of points; labels that do not fit; no finite features.

    Cost: eight searches for neighbours and paths a layer, and a QR decomposition for each random map, d^3.

    >>> x = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    >>> about = {"network": "pretrained", "seed": None, "key": jax.random.key(0), "k": 5}
    >>> rows = reparametrizations({"layer 1": x}, {"digit": np.arange(30) % 2}, **about)
    >>> [row.variant for row in rows][:3], rows[0].score == rows[2].score
    (['none', 'isometry', 'scaling'], True)
    """
    encoded = encode_all(labelings, None, background=None, classes=None)

    def measured(x: Points, index: int) -> Iterator[tuple[str, dict[str, float], int]]:
        for number, (variant, change) in enumerate(REPARAMETRIZATIONS.items()):
            changed = change(x, jax.random.fold_in(jax.random.fold_in(key, index), number))
            yield variant, macro_scores(knn_graph(jnp.asarray(changed), k=k, metric=metric), encoded, key), len(x)

    about: dict[str, Any] = {"network": network, "seed": seed, "k": k, "progress": progress}
    return variant_rows("reparametrization", layers, encoded, measured, **about)


def _generator(key: PRNGKeyArray | Array) -> np.random.Generator:
    return np.random.default_rng(np.asarray(jax.random.key_data(key)))


def _rotation(random: np.random.Generator, d: int) -> Float[np.ndarray, "d d"]:
    """Uniform over rotations and reflections: the signs of R's diagonal make QR's answer unique (Mezzadri 2007)."""
    q, r = np.linalg.qr(random.normal(size=(d, d)))
    return q * np.sign(np.diag(r))


def _centred(x: Points) -> Points:
    return x - x.mean(axis=0, dtype=np.float64)


def _float32(x: Points) -> Points:
    return x.astype(np.float32)
