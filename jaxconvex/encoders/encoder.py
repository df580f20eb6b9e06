"""The one contract of all encoders: embed, blocks, head, and the hidden states between them."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from jaxconvex.encoders.modules import as_mask, masked_mean
from jaxconvex.layers.layer_reading import last_valid

__all__ = ["Encoder", "Head"]

TAKES: dict[str, Callable[[Array, Array | None], Array]] = {
    "first": lambda h, mask: h[:, 0],
    "last": last_valid,
    "end": lambda h, mask: h[:, -1],
    "mean": masked_mean,
    "patches": lambda h, mask: h[:, 1:].mean(axis=1),  # all but the class token
    "first and patches": lambda h, mask: jnp.concatenate([h[:, 0], h[:, 1:].mean(axis=1)], axis=-1),
}


class Head(nnx.Module):
    """What follows the last block: normalisation, one vector a point, and a classifier, as far as the checkpoint has them.

    Args:
        take: how the tokens become one vector: "first", "last" (of those that are valid), "end" (the last, valid or not),
            "mean" (of those that are valid), "patches", "first and patches", or a module, (h, mask) -> vectors.
        norm: a normalisation of every token, or None.
        project: a dense layer of every token before they are taken, or None.
        pooled_norm: a normalisation of the vector taken, or None.
        dense, activation: a dense layer of that vector and what follows it, or None.
        classifier: the last dense layer, or None.
    """

    def __init__(
        self,
        take: str | nnx.Module,
        *,
        norm: nnx.Module | None = None,
        project: nnx.Module | None = None,
        pooled_norm: nnx.Module | None = None,
        dense: nnx.Module | None = None,
        activation: Callable[[Array], Array] = jnp.tanh,
        classifier: nnx.Module | None = None,
    ):
        self.take: Any = take
        self.activation = activation
        self.norm = norm
        self.project = project
        self.pooled_norm = pooled_norm
        self.dense = dense
        self.classifier = classifier

    def normalised(self, h: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
        """The tokens after the final normalisation: what torch's models call the last hidden state."""
        return h if self.norm is None else self.norm(h)

    def pooled(self, h: Float[Array, "b t d"], mask: Bool[Array, "b t"] | None = None) -> Float[Array, "b p"]:
        """One vector a point, as the classifier sees it."""
        h = self.normalised(h)
        if self.project is not None:
            h = self.project(h)
        vector = (TAKES[self.take] if isinstance(self.take, str) else self.take)(h, mask)
        if self.pooled_norm is not None:
            vector = self.pooled_norm(vector)
        return vector if self.dense is None else self.activation(self.dense(vector))

    def __call__(self, h: Float[Array, "b t d"], mask: Bool[Array, "b t"] | None = None) -> Float[Array, "b ..."]:
        """The logits (b, classes); without a classifier the normalised tokens (b, t, d)."""
        return self.normalised(h) if self.classifier is None else self.classifier(self.pooled(h, mask))


class Encoder(nnx.Module):
    """A network in three parts: `embed`, `blocks` and `head`. State 0 is the embedding, state i + 1 the output of block i.

    Args:
        embed: a module, (inputs, mask) -> tokens (b, t, d).
        blocks: modules, (h, mask) -> h of the next state.
        head: a module, (h, mask) -> logits; the final normalisation belongs to it, so that every state is a point of the
            same stream.
        config: the checkpoint's configuration, its config.json.

    Everywhere a mask is boolean, (b, t), True where a token is valid. The names of the states are the paths of the
    modules, so that `from_nnx` and `run_from` know them too.

    >>> from jaxconvex import encoders
    >>> tiny = {"model_type": "vit", "image_size": 8, "patch_size": 4, "hidden_size": 8, "num_hidden_layers": 2,
    ...         "num_attention_heads": 2, "intermediate_size": 16}
    >>> encoder = encoders.initialise(tiny, num_classes=3, rngs=nnx.Rngs(0))
    >>> {name: h.shape for name, h in encoder.hidden_states(jnp.ones((1, 8, 8, 3))).items()}
    {'embed': (1, 5, 8), 'blocks/0': (1, 5, 8), 'blocks/1': (1, 5, 8)}
    """

    def __init__(self, embed: nnx.Module, blocks: Sequence[nnx.Module], head: nnx.Module, config: dict[str, Any]):
        self.embed: Any = embed
        self.blocks = nnx.List(blocks)
        self.head: Any = head
        self.config_json = json.dumps(config, sort_keys=True)  # a string, since jit must hash what is static

    @property
    def config(self) -> dict[str, Any]:
        """The checkpoint's configuration."""
        return json.loads(self.config_json)

    def sequence_mask(self, inputs: Array, mask: Bool[Array, "b s"] | None = None) -> Bool[Array, "b t"] | None:
        """Which tokens of the hidden states are valid, from the mask of the inputs; None where all are."""
        return None if mask is None else as_mask(mask, inputs)

    def side(self, inputs: Array, mask: Bool[Array, "b s"] | None = None) -> dict[str, Any]:
        """What every block takes beside its state, by name: the mask of the tokens, and what a family adds."""
        return {"mask": self.sequence_mask(inputs, mask)}

    def block(
        self, i: int, h: Float[Array, "b t d"], mask: Bool[Array, "b t"] | None = None, **side: Any
    ) -> Float[Array, "b t d"]:
        """State i + 1 from state i. `mask` is of the tokens: see `sequence_mask`; what else there is, see `side`."""
        if not 0 <= i < len(self.blocks):
            raise ValueError(f"the blocks are 0 to {len(self.blocks) - 1}; got {i}.")
        return self.blocks[i](h, mask, **side)

    def hidden_states(self, inputs: Array, mask: Bool[Array, "b s"] | None = None) -> OrderedDict[str, Array]:
        """All states in order of depth: "embed", "blocks/0", "blocks/1", ..."""
        h = self.embed(inputs, mask)
        side = self.side(inputs, mask)
        states = OrderedDict(embed=h)
        for i in range(len(self.blocks)):
            h = states[f"blocks/{i}"] = self.block(i, h, **side)
        return states

    def __call__(self, inputs: Array, mask: Bool[Array, "b s"] | None = None) -> Array:
        """What the head makes of the last state: logits, or normalised tokens where there is no classifier."""
        h = self.embed(inputs, mask)
        side = self.side(inputs, mask)
        for i in range(len(self.blocks)):
            h = self.block(i, h, **side)
        return self.head(h, side.get("mask"))

    def truncate(self, depth: int) -> Encoder:
        """A copy with the first `depth` blocks and the same head. The weights are shared with this one, not copied."""
        if not 0 <= depth <= len(self.blocks):
            raise ValueError(f"the encoder has {len(self.blocks)} blocks to keep; got {depth}.")
        shorter = nnx.merge(*nnx.split(self))
        shorter.blocks = nnx.List(list(shorter.blocks)[:depth])
        config = {key: value for key, value in (self.config | self.depth_config(depth)).items() if value is not None}
        shorter.config_json = json.dumps(config, sort_keys=True)
        return shorter

    def depth_config(self, depth: int) -> dict[str, Any]:
        """The entries of the configuration that say how many blocks there are; with None, those that are left out."""
        kinds = self.config.get("layer_types")
        return {"num_hidden_layers": depth} | ({} if kinds is None else {"layer_types": kinds[:depth]})
