"""The layers of a user's own Flax model: read them all, and run on from any of them."""

from __future__ import annotations

from typing import Any

__all__ = ["LayeredModel", "from_linen", "from_nnx", "rest_of", "run_from"]


class LayeredModel:
    """A model whose layers can be read."""


def from_nnx(model: Any) -> LayeredModel:
    """The model, its layers readable."""
    raise NotImplementedError


def from_linen(module: Any, variables: Any) -> LayeredModel:
    """The model, its layers readable."""
    raise NotImplementedError


def run_from(model: Any, layer: str, activation: Any, *inputs: Any, **kwargs: Any) -> Any:
    """The outputs of the rest of the network."""
    raise NotImplementedError


def rest_of(model: Any, layer: str, *example: Any, **kwargs: Any) -> Any:
    """The rest of the network as a function."""
    raise NotImplementedError
