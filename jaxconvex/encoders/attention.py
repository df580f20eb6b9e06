"""Attention: what each token gathers from the tokens that it may look at."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float

from jaxconvex.encoders.modules import PRECISION, linear
from jaxconvex.encoders.rotary import turned

__all__ = ["Attention", "attend", "head_size"]


def attend(
    query: Float[Array, "b h t d"],
    key: Float[Array, "b k s d"],
    value: Float[Array, "b k s d"],
    *,
    allowed: Bool[Array, "#b #h #t s"] | None = None,
    bias: Float[Array, "#b h t s"] | None = None,
    cap: float | None = None,
) -> Float[Array, "b h t d"]:
    """What each query gathers from the values, by the softmax of its products with the keys.

    Args:
        query: scaled already.
        key, value: of as many heads, or of fewer, each of which serves a group of heads that follow one another.
        allowed: which keys a query may look at; one that may look at none gathers their mean.
        bias: added before the softmax.
        cap: a soft limit c of the products x: c tanh(x / c).

    >>> attend(jnp.ones((1, 2, 1, 1)), jnp.ones((1, 1, 2, 1)), jnp.array([[[[1.0], [3.0]]]])).ravel().tolist()
    [2.0, 2.0]
    """
    batch, heads, tokens, size = query.shape
    groups = (batch, key.shape[1], heads // key.shape[1] * tokens)
    wide = jnp.promote_types(query.dtype, jnp.float32)  # the softmax of bfloat16 would lose small weights
    grouped = query.reshape(*groups, size)
    scores = jnp.einsum("bhqd,bhkd->bhqk", grouped, key, precision=PRECISION, preferred_element_type=wide)
    scores = scores.reshape(batch, heads, tokens, -1)
    if cap is not None:
        scores = cap * jnp.tanh(scores / cap)
    if bias is not None:
        scores = scores + bias.astype(wide)
    if allowed is not None:
        scores = jnp.where(allowed, scores, jnp.finfo(wide).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(query.dtype).reshape(*groups, -1)
    return jnp.einsum("bhqk,bhkd->bhqd", weights, value, precision=PRECISION).reshape(query.shape)


def head_size(width: int, heads: int) -> int:
    """The coordinates of a head. Raises ValueError if the heads do not divide the width.

    >>> head_size(12, 3)
    4
    """
    if width % heads:
        raise ValueError(f"the number of heads must divide the width; got {heads} heads and width {width}.")
    return width // heads


class Attention(nnx.Module):
    """Self-attention of several heads.

    Args:
        width: the size of a token, in and out.
        num_heads: divides `width`.
        biases: whether queries, keys, values and the output have one. That of the keys changes no attention without angles,
            but checkpoints have it or not.
    """

    cap: float | None = None

    def __init__(
        self, width: int, num_heads: int, *, biases: Sequence[bool] = (True, True, True, True), rngs: nnx.Rngs
    ):
        self.size = head_size(width, num_heads)
        self.scale = self.size**-0.5
        self.query, self.key, self.value, self.output = (
            linear(width, width, use_bias=bias, rngs=rngs) for bias in biases
        )

    def parts(self, h: Float[Array, "b t d"]) -> tuple[Array, Array, Array]:
        """Queries, keys and values, (b, t, heads, size)."""
        made = self.query(h), self.key(h), self.value(h)
        query, key, value = (part.reshape(*h.shape[:2], -1, self.size) for part in made)
        return query, key, value

    def seen(
        self, h: Float[Array, "b t d"], mask: Bool[Array, "b t"] | None
    ) -> tuple[Bool[Array, "#b 1 #t t"] | None, Float[Array, "#b t half"] | None]:
        """Which tokens each may look at, and by what angles queries and keys turn; None for all, and for none."""
        return None if mask is None else mask[:, None, None, :], None

    def biased(
        self, h: Float[Array, "b t d"], bias: Float[Array, "#b heads t t"] | None
    ) -> Float[Array, "#b heads t t"] | None:
        """What is added before the softmax, of the bias that all tokens are given."""
        return bias

    def __call__(
        self,
        h: Float[Array, "b t d"],
        mask: Bool[Array, "b t"] | None = None,
        *,
        bias: Float[Array, "#b heads t t"] | None = None,
        angles: Float[Array, "#b t half"] | None = None,
    ) -> Float[Array, "b t d"]:
        """What each token gathers from the tokens that it may look at.

        mask: tells which tokens are valid. bias: added before the softmax. angles: by which queries and keys turn.
        """
        query, key, value = self.parts(h)
        allowed, own = self.seen(h, mask)
        angles = own if angles is None else angles
        if angles is not None:
            query, key = turned(query, angles), turned(key, angles)
        query = query * np.float32(self.scale).astype(h.dtype)
        # A head's tokens one after another in memory: XLA's products for CPU are then up to a quarter faster.
        query, key, value = (part.swapaxes(1, 2) for part in (query, key, value))
        gathered = attend(query, key, value, allowed=allowed, bias=self.biased(h, bias), cap=self.cap)
        return self.output(gathered.swapaxes(1, 2).reshape(*h.shape[:2], -1))
