"""The layers of a user's own model: read in one call, run on from, and kept over a data set.

selection -> marks -> flax_calls                                    each module's output is marked
          -> naming -> traces -> layered_model -> rest              the marks of a call are named, read, replaced
batches -> points -> layer_reading -> passes -> shards              over a data set: batch by batch, to memory or disk
        -> activations -> extraction -> model_sources               as `evaluate` asks for them
"""

from jaxconvex.layers.activations import Activations, read_activations
from jaxconvex.layers.extraction import extract
from jaxconvex.layers.layered_model import LayeredModel, from_function, from_linen, from_nnx, layer_names
from jaxconvex.layers.marks import mark
from jaxconvex.layers.model_sources import ModelSource, model_source
from jaxconvex.layers.rest import rest_of, run_from

__all__ = [
    "Activations",
    "LayeredModel",
    "ModelSource",
    "extract",
    "from_function",
    "from_linen",
    "from_nnx",
    "layer_names",
    "mark",
    "model_source",
    "read_activations",
    "rest_of",
    "run_from",
]
