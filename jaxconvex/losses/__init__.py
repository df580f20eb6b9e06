"""Differentiable surrogates of the scores, to be added to a loss; and what a batch needs for them."""

from jaxconvex.losses.arguments import LossAux
from jaxconvex.losses.batches import Memory, balanced_batch, memory, recall, remember
from jaxconvex.losses.detour import detour_loss
from jaxconvex.losses.graph_loss import graph_convexity_loss
from jaxconvex.losses.memberships import path_memberships
from jaxconvex.losses.scaling import with_unit_gradient
from jaxconvex.losses.segment_loss import SegmentLossAux, euclidean_convexity_loss

__all__ = [
    "LossAux",
    "Memory",
    "SegmentLossAux",
    "balanced_batch",
    "detour_loss",
    "euclidean_convexity_loss",
    "graph_convexity_loss",
    "memory",
    "path_memberships",
    "recall",
    "remember",
    "with_unit_gradient",
]
