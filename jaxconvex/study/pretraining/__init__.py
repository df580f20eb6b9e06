"""Pretraining without labels: of images by patches to fill in, of movements by what was done to their time."""

from __future__ import annotations

from jaxconvex.study.pretraining.masked_patches import cut, masked_patches
from jaxconvex.study.pretraining.movements import change_time, movement_tasks

__all__ = ["change_time", "cut", "masked_patches", "movement_tasks"]
