"""What pretraining returns."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jaxconvex.encoders.encoder import Encoder

__all__ = ["Pretrained"]


class Pretrained(NamedTuple):
    """An encoder trained without labels, in `eval` mode, and the mean loss of each epoch."""

    encoder: Encoder
    losses: np.ndarray
