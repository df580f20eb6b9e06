"""Pruning: the pretrained network cut after its most convex layer and fine-tuned, beside the whole.

Source: Dorszewski, Tětková and Hansen, "Convexity-based pruning of speech representation models", 2024 (arXiv 2408.11858).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from jaxconvex.encoders.encoder import Encoder
from jaxconvex.evaluation.report import Report, only
from jaxconvex.study.domains import Domain
from jaxconvex.study.failures import reasons
from jaxconvex.study.material import Material
from jaxconvex.study.networks import Network, fine_tuned, probed
from jaxconvex.study.results import NetworkRow, PruningRow
from jaxconvex.study.steps import kept_rows
from jaxconvex.study.training import logits

__all__ = ["most_convex", "pruned"]

REPEATS = 5  # of which the fastest counts


def most_convex(report: Report, labeling: str, *, before: int) -> tuple[str, int]:
    """Name and number of the layer with the largest graph convexity among those numbered 1 to `before` - 1.

    Layer 0, the embedding, is left out: a network without blocks learns nothing. Of equal layers the first.
    """
    rows = only(report, kind="graph", labeling=labeling, level="macro")
    candidates = [row for row in rows if 0 < _number(row.layer) < before]
    if not candidates:
        raise ValueError("there is no layer to cut after: the network has fewer than two blocks.")
    best = max(candidates, key=lambda row: row.score)
    return best.layer, _number(best.layer)


def pruned(
    domain: Domain,
    material: Material,
    networks: Sequence[Network],
    report: Report,
    work: Path,
    progress: Callable[..., object],
) -> list[PruningRow]:
    """Accuracy and time of the whole network and of the network cut after its most convex layer, a row a seed.

    Which layer is the most convex is said by the graph score of the pretrained network with the labels of the data, of all
    layers; if that is the last, so that nothing would be cut, the most convex of the others is taken, and the rule says so.
    Both networks are fine-tuned in the same way. Of seconds the fastest epoch, and the fastest of some passes, count.

    Args:
        networks: the pretrained one, with its probe, then the fine-tuned.
        report: of the pretrained network.
    """
    depth = len(networks[0].encoder.blocks)
    main = next(iter(material.test.labelings))
    if depth < 2:
        return []
    layer, number = most_convex(report, main, before=depth + 1)
    rule = "most convex"
    if number == depth:
        rule, (layer, number) = "most convex but the last", most_convex(report, main, before=depth)
    last = f"blocks/{depth - 1}"
    begun = networks[0].row
    rows = [_row("whole", last, depth, network, begun, material, work) for network in networks[1:]]
    start = probed(domain, material, networks[0].encoder.truncate(number), work, name="probe-cut")
    for network in networks[1:]:
        if network.row.seed is None:
            raise ValueError(f"networks[1:] must be fine-tuned ones, which have a seed; got {network.row.network!r}.")
        cut = fine_tuned(domain, material, start, network.row.seed, work, progress, name="fine-tuning-cut")
        rows.append(_row(rule, layer, number, cut, start.row, material, work))
    return rows


def _row(
    rule: str, layer: str, blocks: int, network: Network, start: NetworkRow, material: Material, work: Path
) -> PruningRow:
    facts = network.row

    def make() -> list[PruningRow]:
        return [
            PruningRow(
                rule=rule,
                layer=layer,
                layer_index=blocks,
                blocks=blocks,
                seed=facts.seed or 0,
                accuracy=facts.accuracy,
                training_seconds=network.epoch_seconds,
                inference_seconds=_seconds(network.encoder, material),
                parameters=_parameters(network.encoder),
                failed=", ".join(reasons(facts, start, len(material.classes))),
            )
        ]

    return kept_rows(
        work, f"pruning-{blocks}-{facts.seed}", [rule, network.identity, material.identity], PruningRow, make
    )[0]


def _seconds(encoder: Encoder, material: Material) -> float:
    """For 1,000 points of the test part: the fastest of some runs, after one that compiles."""
    times = []
    for _ in range(1 + REPEATS):
        began = time.perf_counter()
        logits(encoder, material.test.inputs)
        times.append(time.perf_counter() - began)
    return min(times[1:]) * 1000 / len(material.test.classes)


def _parameters(encoder: Encoder) -> int:
    state: Any = nnx.state(encoder, nnx.Param)
    return int(sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(state)))


def _number(layer: str) -> int:
    """How many blocks a network has that ends with this layer."""
    return 0 if layer == "embed" else int(layer.rsplit("/", 1)[-1]) + 1
