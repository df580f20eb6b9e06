"""A small vision transformer in Flax NNX whose layers can be read, and run on from."""

from __future__ import annotations

from collections import OrderedDict

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float


def _layer_norm(width: int, rngs: nnx.Rngs) -> nnx.LayerNorm:
    return nnx.LayerNorm(width, use_fast_variance=False, rngs=rngs)


class Block(nnx.Module):
    """One pre-normalised transformer block: self-attention, then two dense layers, each added to its input.

    Args:
        width: the size of a token.
        num_heads: the number of attention heads; it divides `width`.
        hidden_width: the size of the hidden layer between the two dense layers.
        rngs: the random streams of the initial parameters.

    Source: Vaswani et al. 2017 (arXiv 1706.03762), normalised as in Xiong et al. 2020 (arXiv 2002.04745).
    """

    def __init__(self, width: int, *, num_heads: int, hidden_width: int, rngs: nnx.Rngs):
        self.num_heads = num_heads
        self.attention_norm = _layer_norm(width, rngs)
        self.query_key_value = nnx.Linear(width, 3 * width, rngs=rngs)
        self.attention_output = nnx.Linear(width, width, rngs=rngs)
        self.hidden_norm = _layer_norm(width, rngs)
        self.hidden = nnx.Linear(width, hidden_width, rngs=rngs)
        self.hidden_output = nnx.Linear(hidden_width, width, rngs=rngs)

    def attend(self, h: Float[Array, "b t w"]) -> Float[Array, "b t w"]:
        """What each token gathers from all tokens of its input."""
        batch, tokens, width = h.shape
        heads = self.query_key_value(h).reshape(batch, tokens, 3, self.num_heads, width // self.num_heads)
        gathered = jax.nn.dot_product_attention(heads[:, :, 0], heads[:, :, 1], heads[:, :, 2])
        return self.attention_output(gathered.reshape(h.shape))

    def __call__(self, h: Float[Array, "b t w"]) -> Float[Array, "b t w"]:
        """The tokens after the block."""
        h = h + self.attend(self.attention_norm(h))
        return h + self.hidden_output(jax.nn.gelu(self.hidden(self.hidden_norm(h))))


class VisionTransformer(nnx.Module):
    """A vision transformer: square patches and a class token in, logits from the class token out.

    State 0 is the embedding, state i the output of block i; the final normalisation belongs to the head, so every
    state is a point of the same residual stream. The defaults fit 8 x 8 digits: 16 patches and a class token.

    Args:
        image_size: height and width of an image in pixels.
        patch_size: height and width of a patch in pixels; it divides `image_size`.
        channels: the number of values a pixel.
        width: the size of a token.
        depth: the number of blocks.
        num_heads: the number of attention heads of a block; it divides `width`.
        hidden_width: the size of a block's hidden layer; twice `width` if None.
        num_classes: the number of logits.
        rngs: the random streams of the initial parameters.

    Raises:
        ValueError: if `patch_size` does not divide `image_size`, or `num_heads` does not divide `width`.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> model = VisionTransformer(width=16, depth=2, num_heads=2, rngs=nnx.Rngs(0))
        >>> images = jnp.ones((3, 8, 8, 1))
        >>> {name: state.shape for name, state in model.hidden_states(images).items()}
        {'embedding': (3, 17, 16), 'block 1': (3, 17, 16), 'block 2': (3, 17, 16)}
        >>> model(images).shape
        (3, 10)

    Source: Dosovitskiy et al. 2021 (arXiv 2010.11929).
    """

    def __init__(
        self,
        *,
        image_size: int = 8,
        patch_size: int = 2,
        channels: int = 1,
        width: int = 48,
        depth: int = 6,
        num_heads: int = 4,
        hidden_width: int | None = None,
        num_classes: int = 10,
        rngs: nnx.Rngs,
    ):
        if image_size % patch_size:
            raise ValueError(f"patch_size must divide image_size={image_size}, got {patch_size}; try a divisor.")
        if width % num_heads:
            raise ValueError(f"num_heads must divide width={width}, got {num_heads}; try a divisor.")
        self.image_shape = (image_size, image_size, channels)
        self.patch_size = patch_size
        self.num_patches = (image_size // patch_size) ** 2
        self.depth = depth
        # Positions as large as the patches' embeddings: from the usual 0.02, binding what to where takes most of a
        # short training.
        normal = nnx.initializers.normal(1.0)
        self.patch_embedding = nnx.Linear(patch_size**2 * channels, width, rngs=rngs)
        self.positions = nnx.Param(normal(rngs.params(), (self.num_patches, width)))
        self.class_token = nnx.Param(normal(rngs.params(), (width,)))
        self.blocks = nnx.List(
            Block(width, num_heads=num_heads, hidden_width=hidden_width or 2 * width, rngs=rngs) for _ in range(depth)
        )
        self.norm = _layer_norm(width, rngs)
        self.classifier = nnx.Linear(width, num_classes, rngs=rngs)

    def patches(self, images: Float[Array, "b s s c"]) -> Float[Array, "b p q"]:
        """The images cut in p patches of q values, row by row.

        Raises:
            ValueError: if the images are not of the shape that the model was made for.
        """
        if images.shape[1:] != self.image_shape:
            raise ValueError(
                f"images must have shape (b, {', '.join(map(str, self.image_shape))}), got {images.shape}; "
                "add the axis of channels, or make a model of the images' size."
            )
        size, _, channels = self.image_shape
        rows = size // self.patch_size
        cut = images.reshape(-1, rows, self.patch_size, rows, self.patch_size, channels)
        return cut.swapaxes(2, 3).reshape(-1, self.num_patches, self.patch_size**2 * channels)

    def embed(self, images: Float[Array, "b s s c"], masked: Bool[Array, "b p"] | None = None) -> Float[Array, "b t w"]:
        """State 0: the class token, then one token a patch.

        A masked patch becomes a token of its position alone. That is as general as a learnt mask token, which the
        positions absorb.
        """
        h = self.patch_embedding(self.patches(images))
        if masked is not None:
            h = jnp.where(masked[..., None], 0, h)
        class_tokens = jnp.broadcast_to(self.class_token[...], (h.shape[0], 1, h.shape[-1]))
        return jnp.concatenate([class_tokens, h + self.positions[...]], axis=1)

    def block(self, i: int, h: Float[Array, "b t w"]) -> Float[Array, "b t w"]:
        """State i + 1 from state i, for i from 0 to depth - 1."""
        return self.blocks[i](h)

    def pool(self, h: Float[Array, "b t w"]) -> Float[Array, "b w"]:
        """What the classifier reads of the last state: the class token, normalised."""
        return self.norm(h[:, 0])

    def head(self, h: Float[Array, "b t w"]) -> Float[Array, "b c"]:
        """The logits from the last state: the class token, normalised, through a linear map."""
        return self.classifier(self.pool(h))

    def hidden_states(self, images: Float[Array, "b s s c"]) -> OrderedDict[str, Float[Array, "b t w"]]:
        """Every state by name, in order: "embedding", "block 1", ...; the order survives `jax.jit`."""
        h = self.embed(images)
        states = OrderedDict(embedding=h)
        for i in range(self.depth):
            h = self.block(i, h)
            states[f"block {i + 1}"] = h
        return states

    def last_state(self, i: int, h: Float[Array, "b t w"]) -> Float[Array, "b t w"]:
        """The last state from state i, for i from 0 to depth.

        Raises:
            ValueError: if there is no state i.
        """
        if not 0 <= i <= self.depth:
            raise ValueError(f"i must be a state from 0 to depth={self.depth}, got {i}; count the embedding as 0.")
        for j in range(i, self.depth):
            h = self.block(j, h)
        return h

    def run_from(self, i: int, h: Float[Array, "b t w"]) -> Float[Array, "b c"]:
        """The logits from state i, for i from 0 to depth: the rest of the network, at last the head alone."""
        return self.head(self.last_state(i, h))

    def __call__(self, images: Float[Array, "b s s c"]) -> Float[Array, "b c"]:
        """The logits of images."""
        return self.run_from(0, self.embed(images))
