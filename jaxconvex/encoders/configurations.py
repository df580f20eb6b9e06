"""What a config.json may say: settings that change what is computed, numbers that fit, and whose head the file has."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from jaxconvex.encoders.naming import Family, Shapes

__all__ = ["check_config", "check_count", "check_labels", "config_of_part", "has_own_head", "patch_grid"]

# Settings whose other values make another network: the value that is computed here, and what another one means.
PLAIN: dict[str, tuple[Any, str]] = {
    "is_decoder": (False, "attention to earlier tokens only"),
    "add_cross_attention": (False, "attention to the states of another network"),
    "position_embedding_type": ("absolute", "positions that enter the attention"),
    "pruned_heads": ({}, "attention with heads taken out"),
    "quantization_config": (None, "weights in few bits, to be scaled"),
    "add_adapter": (False, "convolutions after the last block"),
    "adapter_attn_dim": (None, "adapters in the blocks"),
    "conv_pos_batch_norm": (False, "a batch normalisation before the position convolution"),
}
KINDS = {bool: "true or false", str: "text", int: "a whole number above 0", float: "a number above 0"}
KINDS |= dict.fromkeys((list, tuple), "a list of whole numbers above 0")
DEPTHS = ("num_hidden_layers", "n_layers", "n_layer", "encoder_layers")
ACTIVATIONS = (
    "hidden_act",
    "hidden_activation",
    "activation",
    "activation_function",
    "pooler_act",
    "classifier_activation",
)
BIASES = (
    "attention_bias",
    "mlp_bias",
    "norm_bias",
    "classifier_bias",
    "query_bias",
    "key_bias",
    "value_bias",
    "proj_bias",
)
OPTIONAL: dict[str, Any] = {  # settings that some families read, and others do not have
    **dict.fromkeys(ACTIVATIONS, "gelu"),
    **dict.fromkeys(("qkv_bias", "use_swiglu_ffn", "use_mean_pooling", "use_absolute_position_embeddings"), True),
    **dict.fromkeys(("use_relative_position_bias", "use_shared_relative_position_bias"), True),
    **dict.fromkeys((*BIASES, "use_parallel_residual", "tie_word_embeddings", "vision_use_head"), True),
    **dict.fromkeys(("use_sliding_window", "scale_attn_weights", "scale_attn_by_inverse_layer_idx"), False),
    **dict.fromkeys(("head_dim", "num_key_value_heads", "sliding_window", "max_window_layers", "n_inner"), 4),
    **dict.fromkeys(("rope_theta", "rope_local_base_freq", "rotary_emb_base"), 10000.0),
    **dict.fromkeys(("global_rope_theta", "local_rope_theta"), 10000.0),
    **dict.fromkeys(("local_attention", "global_attn_every_n_layers", "num_register_tokens"), 4),
    **dict.fromkeys(("projection_dim", "projection_size"), 512),
    "use_gated_mlp": False,
    **dict.fromkeys(("attn_logit_softcapping", "final_logit_softcapping", "query_pre_attn_scalar"), 50.0),
    **dict.fromkeys(("sliding_window_pattern", "_sliding_window_pattern"), 6),
    **dict.fromkeys(("rotary_pct", "partial_rotary_factor"), 0.25),
    "layer_scale_init_value": 0.1,
    "num_channels": 3,
}
PAIRS = ("image_size", "patch_size")
ROWS = {"stages": 0, "layers": 2}  # of convolutional networks, and where in a row the number of its blocks stands
MAY_BE_ZERO: tuple[str, ...] = (
    *DEPTHS,
    *ROWS,
    "type_vocab_size",
    "pad_token_id",
    "layer_scale_init_value",
    "max_window_layers",
    "num_register_tokens",
)
MAY_BE_NONE: tuple[str, ...] = ("pad_token_id", "head_dim", "num_key_value_heads", "sliding_window", "n_inner")
MAY_BE_NONE += ("attn_logit_softcapping", "final_logit_softcapping", "projection_dim", "projection_size")
BASES = r"Model|Encoder|Backbone|LMHeadModel|PreTrainedModel|For[A-Z]\w*"  # what follows a family in a class's name


def check_config(config: Mapping[str, Any], family: Family, shapes: Shapes) -> None:
    """Raise ValueError for a setting that would change the result, and for a number that cannot be one.

    `shapes`: of the file's tensors; empty for random weights.
    """
    for key, (plain, meaning) in PLAIN.items():
        value = config.get(key)
        if value is not None and value != plain:
            raise ValueError(
                f"the configuration has {key}={value!r}, {meaning}, which is not supported here. Load the checkpoint that "
                "it was made from, or read the states of the original in torch."
            )
    for key, usual in (dict.fromkeys(DEPTHS, 1) | OPTIONAL | dict(family.config)).items():
        value = config.get(key, usual)
        if not _fits(key, value, usual):
            raise ValueError(
                f"the configuration's {key} must be {KINDS[type(usual)]}, as {usual!r}; got {value!r:.80}."
            )
    for key in DEPTHS:
        check_count(config.get(key, 0), shapes, f"{key}=")
    for key, column in ROWS.items():
        rows = config.get(key) or []
        if not isinstance(rows, (list, tuple)) or not all(_fits(key, row, (1,)) and len(row) > column for row in rows):
            raise ValueError(f"the configuration's {key} must be rows of whole numbers; got {rows!r:.80}.")
        check_count(sum(row[column] for row in rows), shapes, f"{key} of ")


def _fits(key: str, value: Any, usual: Any) -> bool:
    if isinstance(usual, (bool, str)):
        return type(value) is type(usual)
    if isinstance(usual, (tuple, list)):
        return isinstance(value, (tuple, list)) and len(value) > 0 and all(_fits(key, v, usual[0]) for v in value)
    if key in MAY_BE_NONE and value is None:
        return True
    if isinstance(value, (tuple, list)):
        return key in PAIRS and len(value) == 2 and all(_fits(key, v, usual) for v in value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    if isinstance(usual, float):
        return 0 <= value < 1e9 and (value > 0 or key in MAY_BE_ZERO)
    return isinstance(value, int) and (value > 0 or (value == 0 and key in MAY_BE_ZERO))


def check_count(count: int, shapes: Shapes, what: str) -> None:
    """Raise ValueError if a configuration asks for more parts than the file has tensors, before they are built."""
    if shapes and count > len(shapes):
        raise ValueError(
            f"the configuration asks for {what}{count} parts, and the file has {len(shapes)} tensors. Check config.json."
        )


def patch_grid(config: Mapping[str, Any], usual: int = 16) -> tuple[int, tuple[int, int]]:
    """The side of a patch, and how many rows and columns of patches the checkpoint's images have.

    usual: the side where the configuration says none.

    >>> patch_grid({"image_size": [32, 20], "patch_size": 8})
    (8, (4, 2))
    """
    (patch, other), size = (
        value if isinstance(value, (list, tuple)) else (value, value)
        for value in (config.get("patch_size", usual), config.get("image_size", 224))
    )
    if patch != other:
        raise ValueError(f"patch_size must be square; {config['patch_size']!r} is not supported here.")
    return patch, (size[0] // patch, size[1] // patch)


def config_of_part(config: Mapping[str, Any], family: Family) -> dict[str, Any]:
    """The configuration of a part, from that of the whole; what the whole says counts. Another configuration as it is."""
    entry = "-" if family.part_of is None else family.part_of.entry
    if entry not in config:
        return dict(config)
    own, older = config[entry] or {}, config.get(f"{entry}_dict")
    if not isinstance(own, dict) or not isinstance(older or {}, dict):
        raise ValueError(f"{entry} in the configuration must be an object; got {own!r:.80}.")
    if older:  # a second spelling in files of 2022, which counts
        own = own | dict(family.config) | older
    return own | {key: value for key, value in config.items() if not key.endswith(("_config", "_config_dict"))}


def has_own_head(config: Mapping[str, Any], family: Family, *, strict: bool) -> bool:
    """Whether a classifier in the file is of a kind that our head computes, as far as `architectures` tells.

    `strict`: raises ValueError for classes that are not the family's: they may compute what they like.
    """
    named = config.get("architectures") or []
    if not isinstance(named, list) or not all(isinstance(name, str) for name in named):
        raise ValueError(f"architectures in the configuration must be a list of names; got {named!r:.80}.")
    models = family.model if family.part_of is None else f"({family.model}|{family.part_of.model})"
    known = rf"(TF|Flax)?({models}({BASES})|{family.projects or '-'})"
    strange = [name for name in named if not re.fullmatch(known, name)]
    if strict and family.model and strange:
        kind = config["model_type"]
        raise ValueError(
            f"the configuration says model_type {kind!r} and architectures {strange[0]!r}, which is none of its networks, "
            f"so that it may compute something else. If it is the same network, load with family={kind!r}."
        )
    tasks = {match[1] for name in named if (match := re.search(r"For([A-Z]\w*)$", name))}
    return not tasks or family.task in tasks


def check_labels(config: Mapping[str, Any], classes: int) -> None:
    """Raise ValueError if the configuration names another number of classes than the file's classifier has."""
    labels = config.get("id2label")
    named = len(labels) if isinstance(labels, dict) else config.get("num_labels")
    if named is not None and named != classes:
        raise ValueError(
            f"the configuration names {named} classes and the file's classifier has {classes}. Correct id2label and "
            "num_labels in config.json, or load with num_classes= for a new classifier."
        )
