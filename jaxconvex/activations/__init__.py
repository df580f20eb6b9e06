"""The layers of a model over a data set: batch by batch to memory or disk (`extract`), or as `evaluate` asks for them."""

from jaxconvex.activations.extraction import Activations, extract, read_activations
from jaxconvex.activations.model_sources import ModelSource, model_source

__all__ = ["Activations", "ModelSource", "extract", "model_source", "read_activations"]
