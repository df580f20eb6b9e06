"""The layers of a user's own Flax model: read them all in one call, and run on from any of them.

`flax_calls` marks the output of every module, `marks` finds and replaces marks in a trace, `traces` does so for a model.
"""

from jaxconvex.layers.layered_model import LayeredModel, from_linen, from_nnx, rest_of, run_from

__all__ = ["LayeredModel", "from_linen", "from_nnx", "rest_of", "run_from"]
