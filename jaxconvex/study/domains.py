"""A domain: the data, the network and the sizes of one study. Those of the paper's kind, and those of a user's file."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["DOMAINS", "Domain", "domain", "read_domains"]


class Domain(NamedTuple):
    """What is studied, and at what size. The sizes suit 15 minutes on two cores.

    Args:
        name: of the domain, and of the folder with its results.
        title: for people.
        modality: "images", "medical", "speech", "text" or "activity": how the data are read. See `study.datasets`.
        data: the folder or file of the data.
        encoder: a checkpoint: a folder, or "owner/name" on the hub. None where the network is pretrained here.
        family: of a checkpoint that has no config.json, or the part of CLIP or SigLIP to read, as clip_vision_model.
        configuration: of the encoder that is pretrained here, as in config.json.
        pretraining: "masked patches" or "movement tasks", without labels, on the training part; None with a checkpoint.
        pretraining_epochs, pretraining_rate, unlabelled: its epochs, its learning rate, and the most points it takes.
        options: for the checkpoint's preprocessing: {"size": 64} for images, {"max_length": 32} for texts; and
            {"seconds": 1} for recordings, which are cut or filled up to that. Without them the length comes from the data,
            see `study.lengths`.
        pool: "mean" of the valid tokens, or "cls", the first: for the graph, and for the linear classifier.
        classes: how many, those with most points; or their names; None for all with `fewest` points in the test part.
        fewest: points that a class must have in the test part.
        balanced: as many points of every class.
        fractions: of the training, validation and test part.
        train, validation, test: the most points of each part.
        seeds: how many fine-tunings.
        epochs, patience, batch_size, learning_rate: of the fine-tuning, which stops early.
        segments: pairs of a class and layer for the Euclidean score; each is ten passes through the rest of the network.
        permutations: random labelings for the null.
        k: neighbours in the graph.
        metric: "euclidean", "cosine" or "manhattan": the distance of the graph.
        protocol: "paper" fixes k, pairs and segments as in the paper.
        pruning: whether to cut the network after its most convex layer and fine-tune what is left.
        variants: whether to measure in other ways too: re-parametrized features, other settings.

    A domain is used by its name and changed field by field: `domain("speech", data=..., encoder=..., seeds=1)`.
    """

    name: str
    title: str
    modality: str
    data: str | None = None
    encoder: str | None = None
    family: str | None = None
    configuration: Mapping[str, Any] | None = None
    pretraining: str | None = None
    pretraining_epochs: int = 10
    pretraining_rate: float = 3e-3
    unlabelled: int = 10_000
    options: Mapping[str, Any] = {}
    pool: str = "mean"
    classes: int | tuple[str, ...] | None = None
    fewest: int = 20
    balanced: bool = False
    fractions: tuple[float, float, float] = (0.5, 0.15, 0.35)
    train: int | None = 1000
    validation: int | None = 300
    test: int | None = 1000
    seeds: int = 3
    epochs: int = 6
    patience: int = 2
    batch_size: int = 32
    learning_rate: float = 1e-4
    segments: int = 20
    permutations: int = 499  # so that 17 layers can be told from chance together
    k: int = 10
    metric: str = "euclidean"
    protocol: str | None = None
    pruning: bool = True
    variants: bool = True


METRICS = ("euclidean", "cosine", "manhattan")

VIT = {
    "model_type": "vit",
    "image_size": 28,
    "patch_size": 4,
    "hidden_size": 64,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "intermediate_size": 128,
}

RESNET = {  # half the channels of the original
    "model_type": "resnet1d",
    "epoch_len": 5,
    "layers": [
        [32, 5, 2, 5, 2, 2],
        [64, 5, 2, 5, 2, 2],
        [128, 5, 2, 5, 3, 1],
        [128, 5, 2, 5, 3, 1],
        [256, 5, 0, 5, 3, 1],
    ],
}
DOMAINS: dict[str, Domain] = {
    preset.name: preset
    for preset in (
        Domain(
            "images", "Images", "images", family="efficientnet-lite0", options={"size": 64}, learning_rate=1e-4,
            epochs=3, patience=3, train=1500, segments=10,
        ),
        Domain(
            "images-vit", "Images, small transformer", "images", configuration=VIT, pretraining="masked patches",
            options={"size": 28}, pool="cls", pretraining_epochs=5, pretraining_rate=2e-3, learning_rate=5e-4, train=1500,
        ),
        Domain(
            "speech", "Speech", "speech", fractions=(0.5, 1 / 6, 1 / 3), epochs=4, learning_rate=2e-5,
        ),
        Domain(
            "text", "Text", "text", classes=20, train=600, test=800, epochs=4, learning_rate=3e-5,
            segments=5,
        ),
        Domain(
            "text-77", "Text, 77 classes", "text", train=1540, validation=385, test=1540, epochs=4, learning_rate=3e-5,
            segments=2, pruning=False,
        ),
        Domain(
            "activity", "Human activity", "activity", configuration=RESNET,
            pretraining="movement tasks", pretraining_epochs=20, pretraining_rate=1e-3, epochs=10, patience=4,
            learning_rate=1e-3, segments=10, fewest=15,
        ),
        Domain(
            "medical", "Medical images", "medical", family="efficientnet-lite0", options={"size": 64}, balanced=True,
            learning_rate=1e-5, segments=30,
        ),
    )
}  # fmt: skip


def domain(name: str, **changes: Any) -> Domain:
    """The domain of this name with some of its fields changed; a change to None is none.

    Raises ValueError for a name or field that there is not, with the nearest.

    >>> domain("speech", seeds=1).seeds
    1
    """
    if name not in DOMAINS:
        raise ValueError(f"there is no domain {name!r}{_nearest(name, DOMAINS)}; there are {', '.join(DOMAINS)}.")
    return _changed(DOMAINS[name], {field: value for field, value in changes.items() if value is not None})


def read_domains(path: str | Path) -> list[Domain]:
    """The domains of a TOML file: a table each, with `like` naming the domain it starts from, and fields to change.

    A table whose own name is a domain's needs no `like`. Paths are relative to the file.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "studies.toml"
    >>> _ = file.write_text('[birds]\\nlike = "speech"\\ndata = "songs"\\nencoder = "openai/whisper-tiny"\\n')
    >>> [(domain.name, domain.modality, domain.encoder) for domain in read_domains(file)]
    [('birds', 'speech', 'openai/whisper-tiny')]
    """
    file = Path(path)
    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is no TOML file: {error}.") from error
    if not tables or not all(isinstance(table, dict) for table in tables.values()):
        raise ValueError(f'{file} must hold a table for each domain, such as [speech] with data = "..." below it.')
    domains: list[Domain] = []
    for name, table in tables.items():
        fields = dict(table)
        like = fields.pop("like", name)
        taken = {"report", *(other.name.casefold() for other in domains)}  # also where upper case is lower case
        if not re.fullmatch(r"\w[\w .+-]*", name) or name.casefold() in taken:
            raise ValueError(
                f"{file}: a domain has a name of its own, which its folder may have too: letters, digits, hyphens, dots, "
                f"underscores, and not 'report'; got {name!r}."
            )
        if like not in DOMAINS:
            raise ValueError(
                f'{file}, [{name}]: name the domain it starts from, like = "..." with one of {", ".join(DOMAINS)}.'
            )
        for field in ("data", "encoder"):
            if isinstance(fields.get(field), str) and (file.parent / fields[field]).exists():
                fields[field] = str(file.parent / fields[field])
        start = DOMAINS[like]._replace(name=name, title=DOMAINS[like].title if like == name else name)
        try:
            domains.append(_changed(start, fields))
        except ValueError as error:
            raise ValueError(f"{file}, [{name}]: {error}") from error
    return domains


def _changed(start: Domain, fields: Mapping[str, Any]) -> Domain:
    for field in fields:
        if field not in Domain._fields:
            raise ValueError(f"a domain has no field {field!r}{_nearest(field, Domain._fields)}.")
    tuples = {field: tuple(value) for field, value in fields.items() if isinstance(value, list)}
    changed = start._replace(**{**fields, **tuples})
    if changed.encoder is not None and changed.pretraining is not None and "pretraining" not in fields:
        changed = changed._replace(pretraining=None, configuration=None)  # a checkpoint needs no pretraining
    if changed.metric not in METRICS:
        raise ValueError(f"metric must be one of {', '.join(METRICS)}; got {changed.metric!r}.")
    for field in ("seeds", "epochs", "patience", "batch_size", "segments", "k"):
        value = getattr(changed, field)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{field} must be a whole number of at least 1; got {value!r}.")
    return changed


def _nearest(name: str, names: Any) -> str:
    matches = get_close_matches(name, names, n=1)
    return f" (do you mean {matches[0]!r}?)" if matches else ""
