"""encoders.load, save and initialise: from a checkpoint to an encoder with its preprocessing, and back."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
from flax import nnx

from jaxconvex.encoders.checkpoints import find_checkpoint, open_weights, read_config, write_checkpoint
from jaxconvex.encoders.configurations import check_config, check_labels, config_of_part, has_own_head
from jaxconvex.encoders.encoder import Encoder
from jaxconvex.encoders.naming import Family, Shapes, canonical_shapes, fill, tensors_of, without_head
from jaxconvex.encoders.preprocessing import preprocessor
from jaxconvex.encoders.preprocessing.byte_pairs import DECODERS
from jaxconvex.encoders.preprocessing.inputs import whole

__all__ = ["WHOLES", "families", "initialise", "load", "save"]

MODULES = {  # where each family stands
    "bert": ("bert", "roberta", "data2vec-text", "luke", "distilbert", "squeezebert"),
    "decoders": DECODERS,
    "vit": ("vit", "beit", "data2vec-vision", "dinov2"),
    "dinov3": ("dinov3_vit",),
    "modernbert": ("modernbert",),
    "towers": ("clip_vision_model", "clip_text_model", "siglip_vision_model", "siglip_text_model"),
    "wav2vec2": ("wav2vec2", "hubert", "data2vec-audio", "wavlm"),
    "whisper": ("whisper",),
    "efficientnet": ("efficientnet-lite0",),
    "resnet1d": ("resnet1d",),
}
WHOLES = {  # networks of several parts, each a family
    "clip": ("clip_vision_model", "clip_text_model"),
    "siglip": ("siglip_vision_model", "siglip_text_model"),
}
OF_WHOLES = ("architectures", "id2label", "label2id", "num_labels", "problem_type")  # what stands beside the parts
COMPANIONS = ("*.json", "*.txt")  # tokenizers and settings of preprocessing, which save() carries along


def families() -> tuple[str, ...]:
    """The names of the families that can be loaded: Hugging Face's model_type, or ours where there is none."""
    return tuple(kind for kinds in MODULES.values() for kind in kinds)


def load(
    path_or_id: str | Path,
    family: str | None = None,
    *,
    num_classes: int | None = None,
    dtype: Any = jnp.float32,
    revision: str | None = None,
    rngs: nnx.Rngs | None = None,
) -> tuple[Encoder, Callable[..., Any] | None]:
    """An encoder with a checkpoint's weights, and the function that prepares its inputs.

    Args:
        path_or_id: a folder with config.json and model.safetensors (or shards), or "owner/name" of a checkpoint on the
            Hugging Face hub, which huggingface_hub fetches once and keeps.
        family: one of `families()`, for a folder without config.json, with the family's documented configuration and
            preprocessing; else it is read from config.json. Of a network of images and texts (CLIP, SigLIP) it names the
            one to load: "clip_vision_model", say.
        num_classes: asks for a new classifier of so many classes, drawn with `rngs`; one in the checkpoint is left out.
            Needed to fine-tune a checkpoint that has none, or for other classes.
        dtype: of the weights, and so of the computation: jnp.float32 or jnp.bfloat16.
        revision: a branch, tag, pull request or commit on the hub.
        rngs: random streams of a new classifier; nnx.Rngs(0) by default.

    Returns:
        (encoder, preprocess): `encoder.hidden_states(*preprocess(items))`. preprocess is None where neither the folder has
        its files nor the family defaults; where its files ask for what is not known here, it says so when called.

    Raises:
        ValueError: no such folder, no way to the hub, an unknown family; weights that are missing, unexpected or of
            another shape, by name; weights that are only in a pickle, with the command that converts them.
        ModuleNotFoundError: what to install: pip install "jaxconvex[encoders]".

    Cost: the weights are read once, tensor by tensor.

    >>> import tempfile
    >>> tiny = {"model_type": "bert", "vocab_size": 20, "max_position_embeddings": 8, "hidden_size": 8,
    ...         "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(initialise(tiny, rngs=nnx.Rngs(0)), folder)
    ...     encoder, preprocess = load(folder, num_classes=3)
    >>> encoder(jnp.array([[2, 5, 7]])).shape
    (1, 3)
    """
    if num_classes is not None:
        whole(num_classes, "num_classes")
    if not jnp.issubdtype(dtype, jnp.floating) or jnp.dtype(dtype).itemsize < 2:
        raise ValueError(f"dtype must be a float of 16 bits or more, as jnp.float32 and jnp.bfloat16; got {dtype}.")
    folder = find_checkpoint(path_or_id, revision)
    config = read_config(folder)
    if config is None and family is None:
        raise ValueError(f"{folder} has no config.json, so name the family: one of {', '.join(families())}.")
    kind = _part(family or _model_type(config or {}, folder), folder)
    known = _family(kind)
    config = (dict(known.config) if config is None else config_of_part(config, known)) | {"model_type": kind}
    own = has_own_head(config, known, strict=family is None)
    weights = open_weights(folder)
    if num_classes is not None or not own:
        weights = without_head(weights, known)
    shapes = canonical_shapes(weights, known)
    check_config(config, known, shapes)
    abstract = _abstract(known, config, shapes, num_classes)
    if num_classes is None and abstract.head.classifier is not None:
        check_labels(config, int(abstract.head.classifier.out_features))
    new = None if num_classes is None else nnx.Rngs(0) if rngs is None else rngs
    encoder = fill(abstract, weights, known, dtype, new_classifier=new)
    try:
        return encoder, preprocessor(folder, kind, encoder.config)  # completed by what the weights tell
    except ValueError as error:  # the encoder is of use without it
        return encoder, partial(_refuse, str(error))


def initialise(
    config: Mapping[str, Any], *, num_classes: int | None = None, dtype: Any = jnp.float32, rngs: nnx.Rngs
) -> Encoder:
    """An encoder with random weights, from a configuration as in config.json, `model_type` among it.

    >>> initialise({"model_type": "resnet1d"}, num_classes=4, rngs=nnx.Rngs(0))(jnp.ones((1, 300, 3))).shape
    (1, 4)
    """
    kind = _model_type(dict(config), "the configuration")
    known = _family(kind)
    check_config(config, known, {})
    encoder = known.build(dict(known.config) | dict(config), {}, num_classes, rngs)
    graph, state = nnx.split(encoder)
    return nnx.merge(graph, _cast(state, dtype))


def save(encoder: Encoder, folder: str | Path, source: str | Path | None = None) -> None:
    """Write the encoder in the layout that it was loaded from: config.json and model.safetensors.

    It loads again with `load`, and in torch's transformers where the family is one of theirs.

    Args:
        encoder: as `load` or `initialise` gave it, trained on or truncated.
        folder: made if it is not there; files of these names are written over.
        source: the folder it was loaded from, whose files of tokenizer and preprocessing are then copied too. It may be
            `folder` itself.

    Raises:
        ValueError: source is no folder; folder is a file. Nothing is written then.
    """
    companions: list[Path] = []
    if source is not None:
        if not Path(source).is_dir():
            raise ValueError(f"source must be the folder of a checkpoint; there is no folder {source}.")
        paths = (path for pattern in COMPANIONS for path in sorted(Path(source).glob(pattern)))
        companions = [
            path
            for path in paths
            if path.is_file() and path.name != "config.json" and not path.name.endswith(".index.json")
        ]
    config = encoder.config
    known = _family(config["model_type"])
    tensors = tensors_of(encoder, known)
    classifier, network = encoder.head.classifier, known.part_of
    if known.model:
        headless = known.projects if f"{known.projection}.weight" in tensors else f"{known.model}Model"
        config["architectures"] = [headless if classifier is None else f"{(network or known).model}For{known.task}"]
    if classifier is not None:
        number = int(classifier.out_features)
        if len(config.get("id2label") or {}) != number:  # names of other classes would be wrong
            config = {key: value for key, value in config.items() if key not in ("id2label", "label2id")}
            config["num_labels"] = number
            config["id2label"] = {str(i): f"LABEL_{i}" for i in range(number)}
        if network is not None:  # torch's classes with a classifier read the configuration of the whole
            config = {key: config[key] for key in OF_WHOLES if key in config} | {
                "model_type": network.kind,
                network.entry: config,
            }
    write_checkpoint(Path(folder), tensors, config, companions)


def _part(kind: str, folder: Path) -> str:
    """The family itself; of a network of several parts the only one whose tensors the file has."""
    parts = WHOLES.get(kind, (kind,))
    if len(parts) == 1:
        return kind
    names = open_weights(folder)
    held = [part for part in parts if any(name.startswith(_family(part).prefixes[0]) for name in names)]
    if len(held) != 1:
        raise ValueError(
            f"{folder} holds a network of images and one of texts; name the one to load: family={parts[0]!r} or "
            f"family={parts[1]!r}."
        )
    return held[0]


def _abstract(family: Family, config: dict[str, Any], shapes: Shapes, num_classes: int | None) -> Encoder:
    """The encoder without its weights."""
    try:
        return nnx.eval_shape(lambda: family.build(config, shapes, num_classes, nnx.Rngs(0)))
    except KeyError as error:
        raise ValueError(f"the configuration (model_type {config['model_type']!r}) lacks {error}.") from error
    except (ArithmeticError, AttributeError, LookupError, TypeError) as error:  # what a check left through
        raise ValueError(
            f"the configuration (model_type {config['model_type']!r}) describes no network: {error}. Check config.json."
        ) from error


def _refuse(message: str, items: Any, **options: Any) -> NoReturn:
    raise ValueError(message)


def _family(kind: str) -> Family:
    for module, kinds in MODULES.items():
        if kind in kinds:
            return importlib.import_module(f"jaxconvex.encoders.{module}").FAMILIES[kind]
    if kind in WHOLES:
        raise ValueError(f"{kind!r} is a network of images and one of texts; name one of {', '.join(WHOLES[kind])}.")
    near = get_close_matches(kind, families(), n=1, cutoff=0.5)
    raise ValueError(
        f"no family {kind!r} is known{f' (did you mean {near[0]!r}?)' if near else ''}; known are {', '.join(families())}. "
        "How to add one stands in jaxconvex/encoders/README.md."
    )


def _model_type(config: Mapping[str, Any], where: Any) -> str:
    if "model_type" not in config:
        raise ValueError(f"{where} names no model_type; name the family: one of {', '.join(families())}.")
    return str(config["model_type"])


def _cast(state: Any, dtype: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, state)
