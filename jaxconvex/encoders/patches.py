"""From images to patches that know their places: embeddings, relative positions, and both for images of other sizes."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxconvex.encoders.convolutions import check_unmasked
from jaxconvex.encoders.modules import PRECISION

__all__ = ["Grid", "PatchEmbedding", "RelativePositions", "grid_of", "interpolation"]

Grid = tuple[int, int]


def interpolation(old: int, new: int, kind: str) -> Float[np.ndarray, "new old"]:
    """The matrix that resamples `old` equally spaced values to `new`, "linear" or "cubic" (Keys' with a = -0.75).

    Cells, not their corners, are aligned, and nothing is smoothed when there are fewer: as checkpoints' own code does.

    >>> interpolation(2, 4, "linear").tolist()
    [[1.0, 0.0], [0.75, 0.25], [0.25, 0.75], [0.0, 1.0]]
    """
    centre = (np.arange(new) + 0.5) * old / new - 0.5
    if kind == "linear":
        centre = np.maximum(centre, 0)
    left = np.floor(centre).astype(int)
    matrix = np.zeros((new, old))
    for step in (0, 1) if kind == "linear" else (-1, 0, 1, 2):
        distance = np.abs(centre - left - step)
        weight = 1 - distance if kind == "linear" else _keys(distance, -0.75)
        np.add.at(matrix, (np.arange(new), np.clip(left + step, 0, old - 1)), weight)
    return matrix


def _keys(x: np.ndarray, a: float) -> np.ndarray:
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0))


def _resample(grid: Float[Array, "h w d"], size: Grid, kind: str) -> Float[Array, "hh ww d"]:
    rows, columns = (interpolation(old, new, kind) for old, new in zip(grid.shape[:2], size, strict=True))
    wide = grid.astype(jnp.promote_types(grid.dtype, jnp.float32))
    return jnp.einsum("ih,jw,hwd->ijd", rows, columns, wide, precision=PRECISION).astype(grid.dtype)


class PatchEmbedding(nnx.Module):
    """Square patches through a dense layer, a class token and registers before them, and positions where there are any.

    Args:
        width, patch, channels, grid: sizes; `grid` of the patches in the checkpoint's images.
        positions, class_token, bias: whether there are some.
        registers: how many; None where the file has no tensor of them. A tensor of none stands there as such.
        flat: whether class token and positions stand in the file as rows, without axes of length one before.
        norm: of the tokens, or None.

    Images of another size than the checkpoint's are taken too: the positions are then interpolated.
    """

    def __init__(
        self,
        width: int,
        *,
        patch: int,
        channels: int,
        grid: Grid,
        positions: bool,
        class_token: bool = True,
        registers: int | None = None,
        bias: bool = True,
        flat: bool = False,
        norm: nnx.Module | None = None,
        rngs: nnx.Rngs,
    ):
        self.patch, self.grid, self.prefix = patch, grid, class_token + (registers or 0)

        def drawn(*shape: int) -> nnx.Param:
            return nnx.Param(nnx.initializers.normal(0.02)(rngs.params(), shape))

        self.kernel = nnx.Param(nnx.initializers.lecun_normal()(rngs.params(), (patch, patch, channels, width)))
        self.bias = nnx.Param(jnp.zeros(width)) if bias else None
        self.class_token = drawn(*(() if flat else (1, 1)), width) if class_token else None
        self.registers = None if registers is None else drawn(1, registers, width)
        count = grid[0] * grid[1] + self.prefix
        self.positions = drawn(*(() if flat else (1,)), count, width) if positions else None
        self.norm = norm

    def __call__(self, images: Float[Array, "b h w c"], mask: None = None) -> Float[Array, "b t d"]:
        check_unmasked(mask)
        kernel = self.kernel[...]
        batch, height, width, channels = _image_shape(images, kernel.shape[2], self.patch)
        rows, columns = height // self.patch, width // self.patch
        images = images[:, : rows * self.patch, : columns * self.patch].astype(kernel.dtype)
        cut = images.reshape(batch, rows, self.patch, columns, self.patch, channels).swapaxes(2, 3)
        flat = cut.reshape(batch, rows * columns, -1)
        h = jnp.dot(flat, kernel.reshape(-1, kernel.shape[-1]), precision=PRECISION)
        if self.bias is not None:
            h = h + self.bias[...]
        first = [
            token[...].reshape(-1, h.shape[-1]) for token in (self.class_token, self.registers) if token is not None
        ]
        h = jnp.concatenate([*(jnp.broadcast_to(token, (batch, *token.shape)) for token in first), h], axis=1)
        if self.positions is not None:
            h = h + self._resized(self.positions[...].reshape(-1, h.shape[-1]), (rows, columns))
        return h if self.norm is None else self.norm(h)

    def _resized(self, positions: Float[Array, "s d"], grid: Grid) -> Float[Array, "t d"]:
        """The positions for a grid of patches."""
        if grid == self.grid:
            return positions
        patches = _resample(positions[self.prefix :].reshape(*self.grid, -1), grid, "cubic")
        return jnp.concatenate([positions[: self.prefix], patches.reshape(grid[0] * grid[1], -1)])


def grid_of(patches: int, usual: Grid) -> Grid:
    """The rows and columns of so many patches: the usual ones, or a square.

    >>> grid_of(9, (2, 4))
    (3, 3)
    """
    if patches == usual[0] * usual[1]:
        return usual
    side = round(patches**0.5)
    if side * side != patches:
        raise ValueError(
            f"{patches} patches are no square, so the grid is not known: pass grid=(rows, columns) to block, as "
            "encoder.side(images) gives it."
        )
    return side, side


def _image_shape(images: Array, channels: int, patch: int) -> tuple[int, int, int, int]:
    shape: Any = images.shape
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"the images must be floats, as `preprocess` makes them of pixels; got {images.dtype}.")
    if len(shape) == 4 and shape[3] == channels and min(shape[1:3]) >= patch:
        return shape
    advice = (
        " The axes are batch, height, width, channels: images.transpose(0, 2, 3, 1)."
        if (len(shape) == 4 and shape[1] == channels)
        else ""
    )
    raise ValueError(
        f"the images must have shape (b, height, width, {channels}), at least {patch} pixels each way; got {shape}.{advice}"
    )


class RelativePositions(nnx.Module):
    """A bias of the attention for each distance of two patches, and three for the class token.

    For another grid of patches the table is interpolated.
    """

    def __init__(self, grid: Grid, num_heads: int, *, rngs: nnx.Rngs):
        self.grid = grid
        rows = (2 * grid[0] - 1) * (2 * grid[1] - 1) + 3
        self.table = nnx.Param(nnx.initializers.normal(0.02)(rngs.params(), (rows, num_heads)))

    def __call__(self, grid: Grid) -> Float[Array, "1 heads t t"]:
        table = self.table[...]
        if grid != self.grid:
            old, new = ((2 * rows - 1, 2 * columns - 1) for rows, columns in (self.grid, grid))
            patches = _resample(table[:-3].reshape(*old, -1), new, "linear")
            table = jnp.concatenate([patches.reshape(-1, table.shape[1]), table[-3:]])
        return table[_distances(grid)].transpose(2, 0, 1)[None]


def _distances(grid: Grid) -> Int[np.ndarray, "t t"]:
    """The row of the table for each pair of tokens: patches by their offset, then the three of the class token."""
    height, width = grid
    cells = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"), -1).reshape(-1, 2)
    offset = cells[:, None] - cells[None] + np.array([height - 1, width - 1])
    last = (2 * height - 1) * (2 * width - 1) + 2
    rows = np.full((height * width + 1,) * 2, last)
    rows[1:, 1:] = offset[..., 0] * (2 * width - 1) + offset[..., 1]
    rows[0, 1:], rows[1:, 0] = last - 2, last - 1
    return rows
