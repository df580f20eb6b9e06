"""Training: of a whole network, and on top of a frozen one.

Pure functions: a model goes in, a new model comes out, and the one that went in is unchanged. Two runs with the same keys
give the same numbers. Inputs are an array, or a tuple of arrays or None such as `Inputs(inputs, mask)`; a model is called
`model(*inputs)`.
"""

from __future__ import annotations

from jaxconvex.statistics.regression import LinearHead, softmax_regression
from jaxconvex.study.training.batches import evaluating, features
from jaxconvex.study.training.epochs import Progress, Trained, train
from jaxconvex.study.training.fine_tuning import accuracy, cross_entropy, fine_tune, logits, predict
from jaxconvex.study.training.probes import pooled, probe, with_classifier
from jaxconvex.study.training.states import load_state, save_state

__all__ = [
    "LinearHead", "Progress", "Trained",
    "accuracy", "cross_entropy", "evaluating", "features", "fine_tune", "load_state", "logits", "pooled", "predict",
    "probe", "save_state", "softmax_regression", "train", "with_classifier",
]  # fmt: skip
