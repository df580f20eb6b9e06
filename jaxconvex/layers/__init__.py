"""The layers of a user's own Flax model: read in one call, run on from, and kept over a data set.

flax_calls -> marks -> traces -> layered_model                      of a model: each module's output is marked, then replaced
batches -> layer_reading -> passes -> shards -> extraction          over a data set: batch by batch, to memory or disk
        -> model_sources                                            as `evaluate` asks for them
"""

from jaxconvex.layers.extraction import Activations, extract, read_activations
from jaxconvex.layers.layered_model import LayeredModel, from_linen, from_nnx, rest_of, run_from
from jaxconvex.layers.model_sources import ModelSource, model_source

__all__ = [
    "Activations",
    "LayeredModel",
    "ModelSource",
    "extract",
    "from_linen",
    "from_nnx",
    "model_source",
    "read_activations",
    "rest_of",
    "run_from",
]
