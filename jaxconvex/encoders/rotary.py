"""Positions that turn queries and keys, and which tokens may be looked at: from the mask and a configuration.

Sources: Su et al. 2021 (arXiv 2104.09864); scaling of long texts: Chen et al. 2023 (arXiv 2306.15595), Llama 3 (arXiv
2407.21783).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

__all__ = ["Rotary", "positions_of", "rotary_of", "turned", "visible"]

KEYS = {  # of the kinds of scaling, and what each needs
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}
SHARED_KEYS = ("rope_type", "type", "rope_theta", "partial_rotary_factor")


class Rotary(NamedTuple):
    """How fast the pairs of coordinates turn with the position.

    size: coordinates of a head that turn, the first ones; the others stay.
    base: the slowest pair turns about once in 2 pi `base` positions.
    factor: how many times slower they turn than that.
    bands: (low, high, length) of Llama 3: only pairs that turn less than `low` times in `length` positions are as slow,
        those that turn more than `high` times are not slowed, and those between them are blended.
    """

    size: int
    base: float
    factor: float = 1.0
    bands: tuple[float, float, float] | None = None

    def frequencies(self) -> Float[np.ndarray, " half"]:
        """Radians a position, for each pair.

        >>> Rotary(4, 100.0, factor=2.0).frequencies().round(3).tolist()
        [0.5, 0.05]
        """
        fast = self.base ** (-np.arange(0, self.size, 2) / self.size)
        if self.bands is None:
            return fast / self.factor
        low, high, length = self.bands
        share = np.clip((fast * length / (2 * np.pi) - low) / (high - low), 0, 1)
        return share * fast + (1 - share) * fast / self.factor


def rotary_of(
    config: Mapping[str, Any], size: int, *, base: float, share: float = 1.0, layers: str | None = None
) -> Rotary:
    """The rotary positions that a configuration asks for, in today's words (rope_parameters) or in older ones.

    Args:
        config: of the checkpoint.
        size: of a head.
        base, share: where the configuration says nothing: of Rotary, and the part of a head that turns.
        layers: the kind of layers, where each has its own positions: "full_attention" or "sliding_attention".

    Raises:
        ValueError: positions of another kind, by its name.

    >>> rotary_of({"rope_theta": 500.0, "rope_scaling": {"type": "linear", "factor": 4.0}}, 8, base=10000.0)
    Rotary(size=8, base=500.0, factor=4.0, bands=None)
    """
    said = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if not isinstance(said, Mapping):
        raise ValueError(f"the configuration's rope_parameters must be an object; got {said!r:.80}.")
    if layers is not None and layers in (config.get("rope_parameters") or {}):
        said = config["rope_parameters"][layers] or {}
    elif layers == "sliding_attention":  # older files scale the layers of full attention only
        said = {}
    kind = said.get("rope_type", said.get("type", "default"))
    if kind not in KEYS:
        raise ValueError(
            f"the configuration asks for rotary positions of type {kind!r}, which are not supported here; known are "
            f"{', '.join(KEYS)}."
        )
    unknown = sorted(said.keys() - {*SHARED_KEYS, *KEYS[kind]})
    if unknown:
        raise ValueError(
            f"the configuration's rotary positions have {unknown[0]}={said[unknown[0]]!r:.80}, not known here."
        )
    theta = config.get("rotary_emb_base", config.get("rope_theta", base))
    said = {
        "rope_theta": config.get("rope_local_base_freq", base) if layers == "sliding_attention" else theta,
        "partial_rotary_factor": config.get("rotary_pct", config.get("partial_rotary_factor", share)),
        "original_max_position_embeddings": config.get("max_position_embeddings"),
        **said,
    }
    for key in ("rope_theta", "partial_rotary_factor", *KEYS[kind]):
        value = said.get(key)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e12:
            raise ValueError(
                f"the configuration's {key} of rotary positions must be a number above 0; got {value!r:.80}."
            )
    turning = int(size * said["partial_rotary_factor"])
    if turning % 2 or not 0 < turning <= size:
        raise ValueError(
            f"of {size} coordinates of a head an even number must turn; the configuration asks for {turning}."
        )
    factor, low, high, length = (float(said.get(key) or 1.0) for key in KEYS["llama3"])
    if kind == "llama3" and not low < high:
        raise ValueError(f"low_freq_factor must be below high_freq_factor; the configuration has {low} and {high}.")
    bands = (low, high, length) if kind == "llama3" else None
    return Rotary(turning, float(said["rope_theta"]), factor, bands)


def positions_of(h: Array, mask: Bool[Array, "b t"] | None = None) -> Int[Array, "#b t"]:
    """The position of each token among the valid ones of its text, from 0, wherever padding stands.

    >>> positions_of(jnp.zeros((1, 4, 2)), jnp.array([[False, True, True, False]])).tolist()
    [[0, 0, 1, 1]]
    """
    if mask is None:
        return jnp.arange(h.shape[1])[None]
    return jnp.maximum(jnp.cumsum(mask, axis=1) - 1, 0)


def visible(
    positions: Int[Array, "#b t"],
    mask: Bool[Array, "b t"] | None = None,
    *,
    causal: bool = True,
    window: int | None = None,
) -> Bool[Array, "#b 1 #t t"] | None:
    """Which tokens (last axis) each token may look at; None where it is all.

    causal: no later ones.
    window: none that are so many positions away, or more.

    >>> visible(jnp.arange(3)[None], window=2)[0, 0].astype(int).tolist()
    [[1, 0, 0], [1, 1, 0], [0, 1, 1]]
    """
    seen = None if mask is None else mask[:, None, None, :]
    if causal:
        order = jnp.arange(positions.shape[1])
        earlier = order[:, None] >= order
        seen = earlier[None, None] if seen is None else seen & earlier
    if window is not None:
        near = (jnp.abs(positions[:, :, None] - positions[:, None, :]) < window)[:, None]
        seen = near if seen is None else seen & near
    return seen


def turned(h: Float[Array, "b t n d"], angles: Float[Array, "#b t half"]) -> Float[Array, "b t n d"]:
    """Each head with its coordinates i and i + half turned by the angle i of its token; those beyond stay.

    >>> turned(jnp.array([[[[1.0, 0.0, 5.0]]]]), jnp.full((1, 1, 1), jnp.pi / 2)).round(3).ravel().tolist()
    [-0.0, 1.0, 5.0]
    """
    half = angles.shape[-1]
    cosine, sine = (function(angles)[:, :, None].astype(h.dtype) for function in (jnp.cos, jnp.sin))
    first, second, rest = h[..., :half], h[..., half : 2 * half], h[..., 2 * half :]
    return jnp.concatenate([first * cosine - second * sine, second * cosine + first * sine, rest], axis=-1)
