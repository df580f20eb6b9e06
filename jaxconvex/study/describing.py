"""What a study says of itself: data and network, settings, what was made smaller or left out, versions and dates."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from jaxconvex.evaluation.report import Report, select
from jaxconvex.evaluation.settings import made_by
from jaxconvex.study.domains import Domain
from jaxconvex.study.material import Material

__all__ = ["described", "notes", "provenance", "settings", "sizes"]

SEGMENTS_OF_PAPER = 5000


def described(domain: Domain, material: Material, report: Report) -> dict[str, Any]:
    """The data and the network of a study: what its pages say, and its statements look up."""
    config = material.encoder.config
    what = domain.encoder or f"{config['model_type']}, pretrained here by {domain.pretraining}"
    return {
        "name": domain.name,
        "title": domain.title,
        "modality": domain.modality,
        "source": material.source,
        "encoder": f"{Path(what).name if domain.encoder else what} ({len(material.encoder.blocks)} blocks)",
        "layers": list(dict.fromkeys(row.layer for row in select(report))),
        "labelings": list(material.test.labelings),
        "classes": list(material.classes),
        "pool": domain.pool,
        "parts": {name: len(getattr(material, name).classes) for name in ("train", "validation", "test")},
    }


def settings(domain: Domain, material: Material, seed: int) -> dict[str, Any]:
    """The settings of a study: the domain's fields, but for those that `described` tells, its options and the seed."""
    left = ("name", "title", "modality", "data", "encoder", "classes", "configuration", "options")
    kept = {field: value for field, value in domain._asdict().items() if field not in left}
    return kept | {"options": material.options, "seed": seed}


def notes(domain: Domain, material: Material) -> tuple[str, ...]:
    """Sentences on what was made smaller or left out, those of the data first."""
    said = [*material.notes]
    for name in ("train", "validation", "test"):
        most, number = getattr(domain, name), len(getattr(material, name).classes)
        if most is not None and number > 0.95 * most:
            said.append(f"The {name} part was thinned to {number} points.")
    if material.left_out:
        shown = ", ".join(material.left_out[:6]) + (", ..." if len(material.left_out) > 6 else "")
        said.append(f"{len(material.left_out)} classes were left out ({shown}).")
    if domain.protocol is None:
        said.append(
            f"The Euclidean score took {domain.segments} pairs of each class and layer (the paper: {SEGMENTS_OF_PAPER:,})."
        )
    said.append(f"Fine-tuning took at most {domain.epochs} epochs.")
    return tuple(said)


def provenance(began: float, material: Material) -> dict[str, Any]:
    """Versions, device, identity of the inputs, date, and the seconds since `began` (of `time.perf_counter`)."""
    packages = ("jaxconvex", "jax", "jaxlib", "flax", "optax", "numpy", "scipy")
    return {**made_by(*packages), "inputs": material.identity, "seconds": time.perf_counter() - began}


def sizes(material: Material) -> str:
    """A sentence that counts the classes, and the points of each part."""
    parts = {name: len(getattr(material, name).classes) for name in ("train", "validation", "test")}
    numbers = ", ".join(f"{number} to {verb}" for number, verb in zip(parts.values(), VERBS, strict=True))
    return f"{len(material.classes)} classes; {numbers}."


VERBS = ("train on", "validate on", "test on")
