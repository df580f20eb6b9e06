"""Text: BERT, RoBERTa, data2vec-text, LUKE without entities, DistilBERT and SqueezeBERT.

One encoder; they differ in names, in how positions are counted, and in the dense layers before the classifier.

Sources: Devlin et al. 2019 (arXiv 1810.04805); Liu et al. 2019 (arXiv 1907.11692); Baevski et al. 2022 (arXiv 2202.03555);
Yamada et al. 2020 (arXiv 2010.01057); Sanh et al. 2019 (arXiv 1910.01108); Iandola et al. 2020 (arXiv 2006.11316).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from jaxconvex.encoders.attention import Attention
from jaxconvex.encoders.encoder import Encoder, Head
from jaxconvex.encoders.modules import PRECISION, Block, FeedForward, activation, layer_norm, linear, looked_up
from jaxconvex.encoders.naming import Family, Shapes

__all__ = ["FAMILIES", "GroupedLinear", "TextEmbedding"]


class TextEmbedding(nnx.Module):
    """Words, positions and the type of the first sentence, added and normalised.

    Args:
        width, vocabulary, positions, types: sizes; without types none is added.
        padding: None if positions count from 0; or RoBERTa's token of padding, after which positions count, over the
            tokens that are not padding.
        epsilon: of the normalisation.
    """

    def __init__(
        self,
        width: int,
        *,
        vocabulary: int,
        positions: int,
        types: int,
        padding: int | None,
        epsilon: float,
        rngs: nnx.Rngs,
    ):
        self.padding = padding
        self.words = nnx.Embed(vocabulary, width, rngs=rngs)
        self.positions = nnx.Embed(positions, width, rngs=rngs)
        self.types = nnx.Embed(types, width, rngs=rngs) if types else None
        self.norm = layer_norm(width, epsilon, rngs=rngs)

    def __call__(self, ids: Int[Array, "b t"], mask: Bool[Array, "b t"] | None = None) -> Float[Array, "b t d"]:
        most = self.positions.num_embeddings - (0 if self.padding is None else self.padding + 1)
        words = looked_up(self.words, ids, most)
        if self.padding is None:
            positions = jnp.arange(ids.shape[1])[None]
        else:
            valid = (ids != self.padding).astype(jnp.int32)
            positions = jnp.cumsum(valid, axis=1) * valid + self.padding
        h = words + self.positions.embedding[...][positions]
        if self.types is not None:
            h = h + self.types.embedding[...][0]
        return self.norm(h)


class GroupedLinear(nnx.Module):
    """A dense layer in groups: a group of outputs sees one group of inputs. Its kernel is a convolution's, of size 1."""

    def __init__(self, width: int, out: int, *, groups: int, rngs: nnx.Rngs):
        if width % groups or out % groups:
            raise ValueError(f"the groups must divide the widths; got {groups} groups, widths {width} and {out}.")
        self.groups = groups
        normal = nnx.initializers.lecun_normal()
        self.kernel = nnx.Param(normal(rngs.params(), (1, width // groups, out)))
        self.bias = nnx.Param(jnp.zeros(out))

    def __call__(self, h: Float[Array, "b t d"]) -> Float[Array, "b t o"]:
        kernel = self.kernel[...][0]
        width, out = kernel.shape
        parts = h.reshape(*h.shape[:-1], self.groups, width)
        kernel = kernel.reshape(width, self.groups, out // self.groups)
        return jnp.einsum("btgi,igo->btgo", parts, kernel, precision=PRECISION).reshape(*h.shape[:-1], out) + self.bias[
            ...
        ].astype(h.dtype)


def _build(
    config: dict[str, Any],
    shapes: Shapes,
    num_classes: int | None,
    rngs: nnx.Rngs,
    *,
    counts_from_padding: bool = False,
    own_head: str | None = None,
    grouped: bool = False,
) -> Encoder:
    """An encoder of text. `own_head`: the dense layer before the classifier belongs to it, by this name, not to a pooler."""
    distil = "dim" in config
    width = config["dim"] if distil else config["hidden_size"]
    heads = config["n_heads"] if distil else config["num_attention_heads"]
    hidden = config["hidden_dim"] if distil else config["intermediate_size"]
    depth = config["n_layers"] if distil else config["num_hidden_layers"]
    act = activation(config.get("activation", "gelu") if distil else config.get("hidden_act", "gelu"))
    epsilon = 1e-12 if distil else config.get("layer_norm_eps", 1e-12)
    padding = config.get("pad_token_id", 1) if counts_from_padding else None
    if counts_from_padding and padding is None:
        raise ValueError("the configuration's pad_token_id must be a number: positions are counted from it; got null.")

    def dense(name: str) -> Any:
        return partial(GroupedLinear, groups=config.get(f"{name}_groups", 4 if name != "post_attention" else 1))

    def block() -> Block:
        attention = Attention(width, heads, rngs=rngs)
        feed_forward = FeedForward(width, hidden, act, rngs=rngs)
        if grouped:
            attention.query = dense("q")(width, width, rngs=rngs)
            attention.key = dense("k")(width, width, rngs=rngs)
            attention.value = dense("v")(width, width, rngs=rngs)
            attention.output = dense("post_attention")(width, width, rngs=rngs)
            feed_forward.inner = dense("intermediate")(width, hidden, rngs=rngs)
            feed_forward.outer = dense("output")(hidden, width, rngs=rngs)
        # SqueezeBERT's blocks do not have the epsilon of the configuration, which is that of its embedding.
        inner = 1e-12 if grouped else epsilon
        return Block(attention, feed_forward, width=width, epsilon=inner, before=False, rngs=rngs)

    embed = TextEmbedding(
        width,
        vocabulary=config["vocab_size"],
        positions=config["max_position_embeddings"],
        types=0 if distil else config.get("type_vocab_size", 2),
        padding=padding,
        epsilon=epsilon,
        rngs=rngs,
    )
    last = "classifier.out_proj.weight" if own_head == "classifier.dense" else "classifier.weight"
    classes = num_classes or (shapes[last][0] if last in shapes else None)
    has_dense = classes is not None or f"{own_head or 'pooler.dense'}.weight" in shapes
    head = Head(
        "first",
        dense=linear(width, width, rngs=rngs) if has_dense else None,
        activation=jax.nn.relu if distil else jnp.tanh,
        classifier=linear(width, classes, rngs=rngs) if classes else None,
    )
    encoder = DistilBert if distil else Encoder
    return encoder(embed, [block() for _ in range(depth)], head, config)


class DistilBert(Encoder):
    """An encoder whose configuration has DistilBERT's own words."""

    def depth_config(self, depth: int) -> dict[str, Any]:
        return {"n_layers": depth}


def _names(layers: str, parts: dict[str, str], dense: str, classifier: str) -> dict[str, str]:
    return {
        "embed.words": "embeddings.word_embeddings",
        "embed.positions": "embeddings.position_embeddings",
        "embed.types": "embeddings.token_type_embeddings",
        "embed.norm": "embeddings.LayerNorm",
        **{f"blocks.{{}}.{ours}": f"{layers}.{{}}.{theirs}" for ours, theirs in parts.items()},
        "head.dense": dense,
        "head.classifier": classifier,
    }


BERT = {
    "attention.query": "attention.self.query",
    "attention.key": "attention.self.key",
    "attention.value": "attention.self.value",
    "attention.output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "feed_forward.inner": "intermediate.dense",
    "feed_forward.outer": "output.dense",
    "output_norm": "output.LayerNorm",
}
DISTILBERT = {
    "attention.query": "attention.q_lin",
    "attention.key": "attention.k_lin",
    "attention.value": "attention.v_lin",
    "attention.output": "attention.out_lin",
    "attention_norm": "sa_layer_norm",
    "feed_forward.inner": "ffn.lin1",
    "feed_forward.outer": "ffn.lin2",
    "output_norm": "output_layer_norm",
}
SQUEEZEBERT = {
    "attention.query": "attention.query",
    "attention.key": "attention.key",
    "attention.value": "attention.value",
    "attention.output": "post_attention.conv1d",
    "attention_norm": "post_attention.layernorm",
    "feed_forward.inner": "intermediate.conv1d",
    "feed_forward.outer": "output.conv1d",
    "output_norm": "output.layernorm",
}
# The sizes of the base checkpoints.
BASE = {
    "vocab_size": 30522,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
}
ROBERTA_BASE = BASE | {
    "vocab_size": 50265,
    "max_position_embeddings": 514,
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-5,
    "pad_token_id": 1,
}
DISTILBERT_BASE = {
    "vocab_size": 30522,
    "max_position_embeddings": 512,
    "dim": 768,
    "n_layers": 6,
    "n_heads": 12,
    "hidden_dim": 3072,
    "pad_token_id": 0,
}
IGNORED = (r"^cls\.", r"position_ids$", r"^lm_head\.", r"^vocab_", r"^qa_outputs\.", r"embeddings\.token_type_ids$")

_bert_names = _names("encoder.layer", BERT, "pooler.dense", "classifier")
_roberta_names = _names("encoder.layer", BERT, "classifier.dense", "classifier.out_proj")
_counting = partial(_build, counts_from_padding=True)
_roberta = partial(_counting, own_head="classifier.dense")
_pooler = (r"^pooler\.",)

FAMILIES = {
    "bert": Family(_build, _bert_names, ("bert.",), ignored=IGNORED, config=BASE, model="Bert"),
    "roberta": Family(
        _roberta, _roberta_names, ("roberta.",), ignored=IGNORED + _pooler, config=ROBERTA_BASE, model="Roberta"
    ),
    "data2vec-text": Family(
        _roberta,
        _roberta_names,
        ("data2vec_text.",),
        ignored=IGNORED + _pooler,
        config=ROBERTA_BASE,
        model="Data2VecText",
    ),
    "luke": Family(
        _counting,
        _bert_names,
        ("luke.",),
        ignored=(*IGNORED, r"^entity_", r"\.(w2e|e2w|e2e)_query\."),
        config=ROBERTA_BASE | {"vocab_size": 50267},
        model="Luke",
    ),
    "distilbert": Family(
        partial(_build, own_head="pre_classifier"),
        _names("transformer.layer", DISTILBERT, "pre_classifier", "classifier"),
        ("distilbert.",),
        top=("classifier", "pre_classifier"),
        ignored=IGNORED,
        config=DISTILBERT_BASE,
        model="DistilBert",
    ),
    "squeezebert": Family(
        partial(_build, grouped=True),
        _names("encoder.layers", SQUEEZEBERT, "pooler.dense", "classifier"),
        ("transformer.", "squeezebert."),
        ignored=IGNORED,
        config=BASE,
        model="SqueezeBert",
    ),
}
