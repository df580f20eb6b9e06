"""Whether convexity carries the gain in novel accuracy: mediation, by the product of coefficients.

For each method the gain over "nothing" in novel accuracy (total effect) is divided in what goes with the gain in convexity
(indirect) and the rest (direct). Read what `mediation` assumes before taking the indirect effect for a cause.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from tables import BASELINE

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["Effects", "mediation", "mediation_table"]

DRAWS = 2000  # of the bootstrap
LAYERS = ("0", "1", "2", "mean")
MODELS = (("base",), ("novel",), ("base", "novel"))  # whose convexity is the mediator


class Effects(NamedTuple):
    """Of k mediators and the methods; `...` may be draws of the bootstrap."""

    total: Float[np.ndarray, "... methods"]
    direct: Float[np.ndarray, "... methods"]
    indirect: Float[np.ndarray, "... k methods"]
    gain: Float[np.ndarray, "... k methods"]  # of the mediator
    slope: Float[np.ndarray, "... k"]


def mediation(
    outcome: Float[np.ndarray, "... methods seeds"],
    mediators: Float[np.ndarray, "... k methods seeds"],
    *,
    seed_effects: bool = False,
) -> Effects:
    """The effects of methods on an outcome, divided by the product of coefficients.

    With y_ms and x_kms the gains of method m over the baseline of the same seed s, in the outcome and in mediator k:
    y_ms = direct_m + sum over k of slope_k x_kms + noise, by least squares with slopes common to all methods;
    gain_km is the mean of x_kms over seeds, indirect_km = gain_km slope_k, and total_m = direct_m + sum_k indirect_km, which
    is the mean of y_ms. A mediator that does not vary has slope 0.

    Args:
        seed_effects: adds a term u_s to the regression (the seed draws the classes, and a draw with more room may let
            both gain; this takes that out). The slope then comes from what is peculiar to a method on a seed.

    It is a cause only as far as this holds: given method and seed, nothing else moves both the mediator and the outcome; the
    outcome does not move the mediator; the slope is linear and the same for all methods; the mediator is measured without
    much noise (noise draws the indirect effect to zero). Nobody set the mediators: that part is correlation.

    Source: Baron and Kenny, The moderator-mediator variable distinction, 1986; of differences within subjects: Judd, Kenny
    and McClelland, Estimating and testing mediation and moderation in within-subject designs, 2001.
    """
    y, x = (_centred(values, seed_effects) for values in (outcome, mediators))
    gram = np.einsum("...kms,...lms->...kl", x, x)
    slope = np.einsum("...kl,...lms,...ms->...k", np.linalg.pinv(gram, rcond=1e-10, hermitian=True), x, y)
    gain, total = mediators.mean(axis=-1), outcome.mean(axis=-1)
    indirect = gain * slope[..., None]
    return Effects(total, total - indirect.sum(axis=-2), indirect, gain, slope)


def mediation_table(rows: Iterable[Mapping[str, Any]], *, draws: int = DRAWS) -> list[dict[str, Any]]:
    """The effects on novel accuracy, a line for each data set, layer, model, method and mediator.

    The mediators are the convexity of base classes, of novel classes, or ("base+novel", the main model) both in one
    regression. Intervals of 95% are percentiles of a bootstrap that draws whole seeds, all methods of one together.
    """
    by_set: dict[str, dict[tuple[str, int], Mapping[str, Any]]] = {}
    for row in rows:
        by_set.setdefault(row["data_set"], {})[row["method"], row["seed"]] = row
    table = []
    for (name, of_set), layer in product(by_set.items(), LAYERS):
        gains, methods = _gains(of_set, [f"novel/{layer}", f"graph/base/{layer}", f"graph/novel/{layer}"])
        seeds = gains.shape[-1]
        if not methods or seeds < 3:
            continue
        drawn = np.random.default_rng(0).integers(seeds, size=(draws, seeds))
        samples = np.moveaxis(gains[..., drawn], 2, 0)  # [draws, 3, methods, seeds]
        for model, seed_effects in product(MODELS, (False, True)):
            mediators = [1 + ("base", "novel").index(kind) for kind in model]
            found = mediation(gains[0], gains[mediators], seed_effects=seed_effects)
            again = mediation(samples[:, 0], samples[:, mediators], seed_effects=seed_effects)
            ends = np.percentile(_flat(again), (2.5, 97.5), axis=0)
            of_method = {"": _flat(found), "_lower": ends[0], "_upper": ends[1]}
            table += [
                {"data_set": name, "layer": layer, "model": "+".join(model), "seed_effects": seed_effects}
                | {"method": method, "mediator": kind, "seeds": seeds}
                | {
                    f"{field}{end}": float(v[i, k, m])
                    for i, field in enumerate(Effects._fields)
                    for end, v in of_method.items()
                }
                for m, method in enumerate(methods)
                for k, kind in enumerate(model)
            ]
    return table


def _gains(
    rows: Mapping[tuple[str, int], Mapping[str, Any]], metrics: Sequence[str]
) -> tuple[Float[np.ndarray, "metrics methods seeds"], list[str]]:
    """What each method has more than the baseline of the same seed, on the seeds where all are there and finite."""
    methods = list(dict.fromkeys(method for method, _ in rows if method != BASELINE))
    values = np.full((len(metrics), 1 + len(methods), 1 + max(seed for _, seed in rows)), np.nan)
    for (method, seed), row in rows.items():
        values[:, [BASELINE, *methods].index(method), seed] = [row[metric] for metric in metrics]
    gains = values[:, 1:] - values[:, :1]
    return gains[..., np.isfinite(gains).all(axis=(0, 1))], methods


def _flat(effects: Effects) -> Float[np.ndarray, "... fields k methods"]:
    """The fields in one array, each of the shape of `indirect`."""
    total, direct, indirect, gain, slope = effects
    fields = total[..., None, :], direct[..., None, :], indirect, gain, slope[..., None]
    return np.stack(np.broadcast_arrays(*fields), axis=-3)


def _centred(values: np.ndarray, seed_effects: bool) -> np.ndarray:
    """What is left without the means of methods, and of seeds if asked."""
    values = values - values.mean(axis=-1, keepdims=True)
    return values - values.mean(axis=-2, keepdims=True) if seed_effects else values
