"""Text, read from left to right: GPT-2, GPT-NeoX (Pythia), Llama, Qwen 2 and 3, Gemma 2 and 3.

One encoder; a `Plan` says in which they differ. A token never sees a later one.

Sources: Radford et al. 2019 (GPT-2); Black et al. 2022 (arXiv 2204.06745); Touvron et al. 2023 (arXiv 2302.13971); Qwen2
(arXiv 2407.10671); Qwen3 (arXiv 2505.09388); Gemma 2 (arXiv 2408.00118); Gemma 3 (arXiv 2503.19786).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float

from jaxconvex.encoders.decoder_modules import DecoderEmbedding, blocks_of, norm_of
from jaxconvex.encoders.decoder_plans import plan_of
from jaxconvex.encoders.encoder import Encoder, Head
from jaxconvex.encoders.modules import linear
from jaxconvex.encoders.naming import Family, Shapes

__all__ = ["FAMILIES", "Decoder", "DecoderHead", "next_token_head"]


class DecoderHead(Head):
    """The last normalisation, a classifier of the last valid token, and what the checkpoint has to predict the next word.

    Args:
        norm, classifier: as for Head.
        words: the matrix of the next word's logits where it is not that of the embedding, or None.
        cap: a soft limit c of the next word's logits x: c tanh(x / c).
    """

    def __init__(self, *, norm: nnx.Module, classifier: nnx.Module | None, words: nnx.Embed | None, cap: float | None):
        super().__init__("last", norm=norm, classifier=classifier)
        self.words, self.cap = words, cap


class NextTokenHead(Head):
    """Logits of some words as the next one: see `next_token_head`."""

    def __init__(self, norm: nnx.Module | None, classifier: nnx.Module, cap: float | None):
        super().__init__("last", norm=norm, classifier=classifier)
        self.cap = cap

    def __call__(self, h: Float[Array, "b t d"], mask: Bool[Array, "b t"] | None = None) -> Float[Array, "b words"]:
        logits = super().__call__(h, mask)
        return logits if self.cap is None else self.cap * jnp.tanh(logits / self.cap)


class Decoder(Encoder):
    """An encoder whose blocks let each token look at itself and earlier ones.

    Positions count the valid tokens of the mask, so that padding on either side gives the same states.
    """

    def depth_config(self, depth: int) -> dict[str, Any]:
        """The number of blocks, in the family's word."""
        return {"n_layer": depth} if "n_layer" in self.config else super().depth_config(depth)


def next_token_head(encoder: Encoder, words: Sequence[int]) -> Head:
    """A head that gives the logits of these words as the next one after the last valid token, (b, words).

    The whole vocabulary has up to 262,144 words; a question has a few answers. With this head in its place the encoder is a
    classifier whose classes are the answers: the Euclidean score runs on through it, `truncate` reads every depth by it.

    Args:
        encoder: a decoder, from `load` or `initialise`.
        words: their numbers, of one token each, in the order of the columns: preprocess([" yes", " no"]) has them.

    Saved with it, the encoder is one with a classifier of so many classes, without the soft cap that Gemma 2 puts on logits,
    which changes the order of none.

    Raises:
        ValueError: the encoder is no decoder, or its checkpoint has no matrix of words to predict; a number that is no
            token's.

    >>> from jaxconvex import encoders
    >>> tiny = {"model_type": "llama", "vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 2,
    ...         "num_attention_heads": 2, "intermediate_size": 16}
    >>> encoder = encoders.initialise(tiny, rngs=nnx.Rngs(0))
    >>> encoder.head = encoders.next_token_head(encoder, [7, 3])
    >>> encoder(jnp.array([[2, 5, 4]])).shape
    (1, 2)
    """
    head = encoder.head
    if not isinstance(encoder, Decoder) or not isinstance(head, DecoderHead):
        raise ValueError(
            f"the encoder must be a decoder with the head it was loaded with; got {type(encoder).__name__} with a "
            f"{type(head).__name__}."
        )
    table = head.words if head.words is not None else encoder.embed.words if _tied(encoder.config) else None
    if table is None:
        raise ValueError(
            "the checkpoint has no matrix of words to predict (tie_word_embeddings is false, and there is none in its "
            "file). Load one of the language model."
        )
    chosen = np.asarray(words)
    if chosen.ndim != 1 or chosen.dtype.kind not in "iu" or not ((chosen >= 0) & (chosen < table.num_embeddings)).all():
        raise ValueError(
            f"words must be numbers of tokens, 0 to {table.num_embeddings - 1}, in a list; got {words!r:.80}."
        )
    rows = table.embedding[...][chosen]
    width = rows.shape[1]
    classifier = nnx.eval_shape(lambda: linear(width, len(chosen), use_bias=False, rngs=nnx.Rngs(0)))
    classifier.kernel = nnx.Param(rows.T)
    return NextTokenHead(head.norm, classifier, head.cap)


def _tied(config: dict[str, Any]) -> bool:
    kind = config["model_type"]
    return config.get("tie_word_embeddings", kind == "gpt2" or kind.startswith("gemma"))


def _build(config: dict[str, Any], shapes: Shapes, num_classes: int | None, rngs: nnx.Rngs) -> Decoder:
    plan = plan_of(config)
    classes = num_classes or shapes.get("score.weight", (None,))[0]
    own = not _tied(config) and (not shapes or f"{FAMILIES[config['model_type']].projection}.weight" in shapes)
    head = DecoderHead(
        norm=norm_of(plan)(plan.width, plan.epsilon, rngs=rngs),
        classifier=linear(plan.width, classes, use_bias=False, rngs=rngs) if classes else None,
        words=nnx.Embed(plan.vocabulary, plan.width, rngs=rngs) if own else None,
        cap=plan.final_cap,
    )
    return Decoder(DecoderEmbedding(plan, rngs=rngs), blocks_of(plan, rngs), head, config)


GPT2 = {
    "embed.words": "wte",
    "embed.positions": "wpe",
    "blocks.{}.attention_norm": "h.{}.ln_1",
    "blocks.{}.attention.qkv": "h.{}.attn.c_attn",
    "blocks.{}.attention.output": "h.{}.attn.c_proj",
    "blocks.{}.output_norm": "h.{}.ln_2",
    "blocks.{}.feed_forward.inner": "h.{}.mlp.c_fc",
    "blocks.{}.feed_forward.outer": "h.{}.mlp.c_proj",
    "head.norm": "ln_f",
    "head.words": "lm_head",
    "head.classifier": "score",
}
NEOX = {
    "embed.words": "embed_in",
    "blocks.{}.attention_norm": "layers.{}.input_layernorm",
    "blocks.{}.attention.qkv": "layers.{}.attention.query_key_value",
    "blocks.{}.attention.output": "layers.{}.attention.dense",
    "blocks.{}.output_norm": "layers.{}.post_attention_layernorm",
    "blocks.{}.feed_forward.inner": "layers.{}.mlp.dense_h_to_4h",
    "blocks.{}.feed_forward.outer": "layers.{}.mlp.dense_4h_to_h",
    "head.norm": "final_layer_norm",
    "head.words": "embed_out",
    "head.classifier": "score",
}
LLAMA = {
    "embed.words": "embed_tokens",
    "blocks.{}.attention_norm": "layers.{}.input_layernorm",
    "blocks.{}.attention.query": "layers.{}.self_attn.q_proj",
    "blocks.{}.attention.key": "layers.{}.self_attn.k_proj",
    "blocks.{}.attention.value": "layers.{}.self_attn.v_proj",
    "blocks.{}.attention.output": "layers.{}.self_attn.o_proj",
    "blocks.{}.attention.query_norm": "layers.{}.self_attn.q_norm",
    "blocks.{}.attention.key_norm": "layers.{}.self_attn.k_norm",
    "blocks.{}.output_norm": "layers.{}.post_attention_layernorm",
    "blocks.{}.feed_forward.gate": "layers.{}.mlp.gate_proj",
    "blocks.{}.feed_forward.inner": "layers.{}.mlp.up_proj",
    "blocks.{}.feed_forward.gated_outer": "layers.{}.mlp.down_proj",
    "head.norm": "norm",
    "head.words": "lm_head",
    "head.classifier": "score",
}
GEMMA_NAMES = LLAMA | {
    "blocks.{}.after_attention": "layers.{}.post_attention_layernorm",
    "blocks.{}.output_norm": "layers.{}.pre_feedforward_layernorm",
    "blocks.{}.after_output": "layers.{}.post_feedforward_layernorm",
}
# Buffers of old files, and a matrix of words that is the embedding's again.
IGNORED = (r"\.(attn|attention)\.(bias|masked_bias)$", r"rotary_emb\.inv_freq$", r"^(lm_head|embed_out)\.weight$")

# The sizes of the checkpoints that stand for a family: GPT-2, Pythia 160M, Llama 2 7B, Qwen2 0.5B, Qwen3 0.6B, Gemma 2 2B
# and Gemma 3 270M.
GPT2_BASE = {
    "vocab_size": 50257,
    "n_positions": 1024,
    "n_embd": 768,
    "n_layer": 12,
    "n_head": 12,
    "layer_norm_epsilon": 1e-5,
}


LLAMA_BASE = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
}


NEOX_BASE = LLAMA_BASE | {"vocab_size": 50304, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12}
NEOX_BASE |= {"num_attention_heads": 12, "max_position_embeddings": 2048}
NEOX_BASE["layer_norm_eps"] = NEOX_BASE.pop("rms_norm_eps")


def _sizes(
    vocabulary: int, width: int, hidden: int, depth: int, heads: int, key_heads: int, **more: Any
) -> dict[str, Any]:
    sizes = (vocabulary, width, hidden, depth, heads, 32768, 1e-6)  # in the order of LLAMA_BASE
    return dict(zip(LLAMA_BASE, sizes, strict=True)) | {"num_key_value_heads": key_heads} | more


QWEN = {"rope_theta": 1e6, "tie_word_embeddings": True}
QWEN2_BASE = _sizes(151936, 896, 4864, 24, 14, 2, **QWEN)
QWEN3_BASE = _sizes(151936, 1024, 3072, 28, 16, 8, head_dim=128, **QWEN)
GEMMA = {"head_dim": 256, "query_pre_attn_scalar": 256.0}
CAPS = {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
GEMMA2_BASE = _sizes(256000, 2304, 9216, 26, 8, 4, sliding_window=4096, **GEMMA, **CAPS) | {
    "max_position_embeddings": 8192
}
GEMMA3_BASE = _sizes(262144, 640, 2048, 18, 4, 1, sliding_window=512, **GEMMA)


def _family(model: str, prefix: str, names: dict[str, str], config: dict[str, Any], projects: str = "") -> Family:
    return Family(
        _build,
        names,
        (prefix,),
        top=("score",),
        ignored=IGNORED,
        config=config,
        model=model,
        projection=names["head.words"],
        projects=projects or f"{model}ForCausalLM",
    )


FAMILIES = {
    "gpt2": _family("GPT2", "transformer.", GPT2, GPT2_BASE, "GPT2LMHeadModel"),
    "gpt_neox": _family("GPTNeoX", "gpt_neox.", NEOX, NEOX_BASE),
    "llama": _family("Llama", "model.", LLAMA, LLAMA_BASE),
    "qwen2": _family("Qwen2", "model.", LLAMA, QWEN2_BASE),
    "qwen3": _family("Qwen3", "model.", LLAMA, QWEN3_BASE),
    "gemma2": _family("Gemma2", "model.", GEMMA_NAMES, GEMMA2_BASE),
    "gemma3_text": _family("Gemma3Text", "model.", GEMMA_NAMES, GEMMA3_BASE, "Gemma3ForCausalLM"),
}
