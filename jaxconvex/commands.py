"""What the command `jaxconvex` can do: score, compare, demo; their options and their help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from jaxconvex import scoring
from jaxconvex.scoring import Options

__all__ = ["command"]

ABOUT = """Convexity of the regions of concepts in the latent spaces of deep networks, layer by layer.

A class is convex in a layer if, for every two of its points, all that lies between them belongs to it too.
The graph score asks that of the shortest path in the graph of nearest neighbours: the share of the points on it that
are of the class, averaged over pairs. 100 is convex; labels drawn at random give about 1 / number of classes (the null).

\b
  jaxconvex demo                          the whole study on real digits, in two minutes
  jaxconvex score embeddings.npz          your own representations: every array beside "labels" is a layer
  jaxconvex compare before.npz after.npz  two models on the same points, with paired intervals
"""

SCORE = """Scores of every layer in FILE, with intervals, the null and figures.

\b
FILE is one of
  .npz, .safetensors   every array (points, features) beside the labels is a layer
  .csv                 the numeric columns are one layer; columns NAME/0, NAME/1, ... are the layer NAME
  .parquet             likewise; a column of lists is a layer of its own
  .npy                 one layer; its labels are in another file: --labels labels.txt

\b
Examples
  jaxconvex score embeddings.npz
  jaxconvex score embeddings.npz --labels species --labels genus --predictions predicted --k 5 --k 10
  jaxconvex score hidden_states.safetensors --axis 1 --pool mean     (points, layers, tokens, features)
  jaxconvex score embeddings.npy --labels labels.csv --max-points 5000 --out results
  jaxconvex score embeddings.npz --protocol paper

\b
Labels are integers or text; without --labels they are the array called labels, label, targets, target or y.
Names alike but for their numbers come in natural order (layer 2 before layer 10), others as in the file.
An interrupted run goes on where it stopped when it is started again.
"""

COMPARE = """Paired differences, B minus A, of every layer and class, with intervals and a figure.

\b
A and B are two files as for `jaxconvex score`, with the same points in the same order and the same layers, or two
results of it (folders, or their scores.json). Files are scored first, with the same groups left out by the jackknife.

\b
Examples
  jaxconvex compare pretrained.npz finetuned.npz --labels species --predictions predicted
  jaxconvex compare pretrained-convexity finetuned-convexity --classes
"""

DEMO = """The whole study on real data: scikit-learn's 1,797 handwritten digits, in about two minutes on two cores.

A small transformer is pretrained without labels, then fine-tuned. All its layers are scored before and after, on
held-out digits; report.html shows the profiles, the classes and the correlation with recall.
"""

NOTES = (
    "Environment: JAXCONVEX_DEBUG=1 prints tracebacks. Compiled code is kept in ~/.cache/jaxconvex (or "
    "$XDG_CACHE_HOME/jaxconvex); JAX_COMPILATION_CACHE_DIR moves it, JAX_ENABLE_COMPILATION_CACHE=false keeps none."
)

app = typer.Typer(help=ABOUT, epilog=NOTES, no_args_is_help=True, add_completion=False, rich_markup_mode=None)

DATA, GRAPH, ERRORS, OUTPUT = "What is scored", "How it is scored", "Intervals and null", "What is written"


def _option(*names: str, panel: str, text: str, **more: Any) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=panel, **more)
