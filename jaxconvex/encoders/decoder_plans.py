"""What the configuration of a decoder, or of a network like it, says, in the same words for all families."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from jaxconvex.encoders.attention import head_size
from jaxconvex.encoders.rotary import Rotary, rotary_of

__all__ = ["FULL", "SLIDING", "Plan", "checked_kinds", "plan_of", "sizes_of"]

FULL, SLIDING = "full_attention", "sliding_attention"


class Plan(NamedTuple):
    """A decoder. What stands in tuples has one entry a block.

    vocabulary, width, hidden, heads, key_heads, size: sizes; `size` of a head, `key_heads` of keys and values.
    epsilon, activation: of the normalisations, and of the feed-forward part.
    scales: what the queries are multiplied by.
    windows: how many positions a token sees, itself among them; None for all.
    rotaries: how positions turn queries and keys; None where they are learnt.
    causal: whether tokens see earlier ones only.
    positions: how many learnt positions there are; 0 for none.
    embedding_scale: what the words are multiplied by.
    cap, final_cap: soft limits of the attention's scores and of the next word's logits.
    fused: whether queries, keys and values are one matrix, in three parts or in three parts a head; so are then a gate and
        its inner layer.
    bias, output_bias, feed_forward_bias: of the dense layers.
    kept_turned: whether dense layers stand in the file as (in, out).
    root_mean_square: the normalisation; else it is by mean and variance. norm_offset: what is added to the scale of the
        first. norm_bias: whether the second has a bias.
    key_norms: whether each head's queries and keys are normalised.
    gated, sandwich, parallel: of the blocks.
    """

    vocabulary: int
    width: int
    hidden: int
    heads: int
    key_heads: int
    size: int
    epsilon: float
    activation: str
    scales: tuple[float, ...]
    windows: tuple[int | None, ...]
    rotaries: tuple[Rotary | None, ...]
    causal: bool = True
    positions: int = 0
    embedding_scale: float | None = None
    cap: float | None = None
    final_cap: float | None = None
    fused: Literal["", "by part", "by head"] = ""
    bias: bool = True
    output_bias: bool = True
    feed_forward_bias: bool = True
    kept_turned: bool = False
    root_mean_square: bool = False
    norm_offset: float = 0.0
    norm_bias: bool = True
    key_norms: bool = False
    gated: bool = False
    sandwich: bool = False
    parallel: bool = False

    @property
    def depth(self) -> int:
        """How many blocks there are."""
        return len(self.scales)


def plan_of(config: dict[str, Any]) -> Plan:
    """The plan of a checked configuration.

    Raises:
        ValueError: heads that do not divide, attention of another kind, by its name.

    >>> sizes = {"vocab_size": 9, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2,
    ...          "num_attention_heads": 2}
    >>> plan_of({"model_type": "gemma2", "head_dim": 6, "sliding_window": 3} | sizes).windows
    (3, None)
    """
    kind = config["model_type"]
    plan = _gpt2(config) if kind == "gpt2" else _neox(config) if kind == "gpt_neox" else _llama(config, kind)
    if plan.heads % plan.key_heads:
        raise ValueError(
            f"the number of heads of keys must divide that of queries; got {plan.key_heads} and {plan.heads}."
        )
    return plan


def _gpt2(config: dict[str, Any]) -> Plan:
    width, heads, depth = config["n_embd"], config["n_head"], config["n_layer"]
    size = head_size(width, heads)
    scale = size**-0.5 if config.get("scale_attn_weights", True) else 1.0
    by_depth = config.get("scale_attn_by_inverse_layer_idx", False)
    return Plan(
        vocabulary=config["vocab_size"],
        width=width,
        hidden=config.get("n_inner") or 4 * width,
        heads=heads,
        key_heads=heads,
        size=size,
        epsilon=config.get("layer_norm_epsilon", 1e-5),
        activation=config.get("activation_function", "gelu_new"),
        scales=tuple(scale / (i + 1 if by_depth else 1) for i in range(depth)),
        windows=(None,) * depth,
        rotaries=(None,) * depth,
        positions=config["n_positions"],
        fused="by part",
        kept_turned=True,
    )


def sizes_of(config: dict[str, Any]) -> dict[str, Any]:
    """The sizes of a plan whose heads all have keys of their own, in the words that most configurations have.

    >>> sizes_of({"vocab_size": 9, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1,
    ...           "num_attention_heads": 2})["size"]
    4
    """
    width, heads = config["hidden_size"], config["num_attention_heads"]
    size = head_size(width, heads)
    return {
        "vocabulary": config["vocab_size"],
        "width": width,
        "hidden": config["intermediate_size"],
        "heads": heads,
        "key_heads": heads,
        "size": size,
        "scales": (size**-0.5,) * config["num_hidden_layers"],
    }


def _neox(config: dict[str, Any]) -> Plan:
    sizes, depth = sizes_of(config), config["num_hidden_layers"]
    bias = config.get("attention_bias", True)
    return Plan(
        **sizes,
        epsilon=config.get("layer_norm_eps", 1e-5),
        activation=config.get("hidden_act", "gelu"),
        windows=(None,) * depth,
        rotaries=(rotary_of(config, sizes["size"], base=10000.0, share=0.25),) * depth,
        fused="by head",
        bias=bias,
        output_bias=bias,
        parallel=config.get("use_parallel_residual", True),
    )


def _llama(config: dict[str, Any], kind: str) -> Plan:
    """Llama, and those that grew from it."""
    gemma = kind.startswith("gemma")
    width, heads = config["hidden_size"], config["num_attention_heads"]
    usual = {"qwen3": 128, "gemma2": 256, "gemma3_text": 256}
    size = config.get("head_dim", usual.get(kind)) or head_size(width, heads)
    if config.get("use_bidirectional_attention"):
        raise ValueError(
            "the configuration has use_bidirectional_attention, attention to later tokens, not supported here."
        )
    cap = config.get("attn_logit_softcapping", 50.0 if kind == "gemma2" else None) if gemma else None
    if cap is not None and kind == "gemma3_text":  # torch's transformers read it and do nothing with it
        raise ValueError(f"the configuration has attn_logit_softcapping={cap!r}, which Gemma 3 does not compute.")
    kinds = _layer_kinds(config, kind)
    window = config.get("sliding_window", 4096)
    if SLIDING in kinds and window is None:
        raise ValueError("the configuration names layers of sliding_attention and no sliding_window.")
    if kind == "gemma3_text":
        bases = {FULL: 1e6, SLIDING: 1e4}
        rotary = {layers: rotary_of(config, size, base=base, layers=layers) for layers, base in bases.items()}
    else:
        rotary = dict.fromkeys((FULL, SLIDING), rotary_of(config, size, base=10000.0))
    bias = kind == "qwen2" or config.get("attention_bias", False)
    scale = (config.get("query_pre_attn_scalar", 256) if gemma else size) ** -0.5
    return Plan(
        vocabulary=config["vocab_size"],
        width=width,
        hidden=config["intermediate_size"],
        heads=heads,
        key_heads=config.get("num_key_value_heads") or heads,
        size=size,
        epsilon=config.get("rms_norm_eps", 1e-6),
        activation=config.get("hidden_activation", "gelu_pytorch_tanh") if gemma else config.get("hidden_act", "silu"),
        scales=(scale,) * len(kinds),
        windows=tuple(window if layers == SLIDING else None for layers in kinds),
        rotaries=tuple(rotary[layers] for layers in kinds),
        embedding_scale=width**0.5 if gemma else None,
        cap=cap,
        final_cap=config.get("final_logit_softcapping", 30.0 if kind == "gemma2" else None) if gemma else None,
        bias=bias,
        output_bias=bias and kind != "qwen2",
        feed_forward_bias=kind == "llama" and config.get("mlp_bias", False),
        root_mean_square=True,
        norm_offset=1.0 if gemma else 0.0,
        key_norms=kind in ("qwen3", "gemma3_text"),
        gated=True,
        sandwich=gemma,
    )


def _layer_kinds(config: dict[str, Any], kind: str) -> list[str]:
    """For each block whether it has a window."""
    depth = config["num_hidden_layers"]
    if kind == "llama":
        return [FULL] * depth
    if kind.startswith("qwen"):
        first = config.get("max_window_layers", 28) if config.get("use_sliding_window", False) else depth
        usual = [SLIDING if i >= first and config.get("sliding_window", 4096) else FULL for i in range(depth)]
    else:
        named = config.get("sliding_window_pattern", config.get("_sliding_window_pattern", 6))
        pattern = 2 if kind == "gemma2" else named
        usual = [SLIDING if (i + 1) % pattern else FULL for i in range(depth)]
    kinds = checked_kinds(config.get("layer_types") or usual, depth)
    if kind.startswith("qwen") and SLIDING in kinds and not config.get("use_sliding_window", False):
        raise ValueError("the configuration's layer_types name sliding_attention, and use_sliding_window is false.")
    return kinds


def checked_kinds(kinds: Any, depth: int) -> list[str]:
    """The kinds of layers as they are. Raises ValueError if they are not one known kind for each block.

    >>> checked_kinds(["full_attention"], 1)
    ['full_attention']
    """
    if not isinstance(kinds, list) or len(kinds) != depth or not {*map(str, kinds)} <= {FULL, SLIDING}:
        raise ValueError(
            f"the configuration's layer_types must name {FULL} or {SLIDING} for each of {depth} blocks; got {kinds!r:.120}."
        )
    return kinds
