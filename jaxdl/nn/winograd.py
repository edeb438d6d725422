"""Convolutions as matrix products of tiles, with a fraction of the products.

F(m, r): m outputs of a filter of r taps, ``y[i] = sum_j x[i + j] k[j]``, take n = m + r - 1
products in place of m r: ``y = A [(G k) * (B x)]``, with x [n], k [r] and constant A [m, n],
G [n, r], B [n, n]. It is the transpose of multiplying two polynomials by their values at n points.
In two dimensions, ``Y = A [(G K G^T) * (B X B^T)] A^T``, m = 4 and r = 5 take 64 products for 400;
summed over channels, each of the n^2 is a matrix product over all tiles. Rounding errors are about
ten times those of direct sums.

Toom 1963 and Cook 1966 have the points; Winograd, "Arithmetic Complexity of Computations", 1980,
the least number of products; Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks",
CVPR 2016, the matrix products. (Their A^T and B^T are A and B here.)
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from jaxdl.types import AnyArray

_POINTS = np.array([0, 1, -1, 0.5, -0.5, 2, -2])  # and infinity: with more, rounding grows


class Transforms(NamedTuple):
    """The matrices of F(m, r), in double precision."""

    image: Float[np.ndarray, "n n"]
    """B."""
    kernel: Float[np.ndarray, "n r"]
    """G."""
    output: Float[np.ndarray, "m n"]
    """A."""


@cache
def transforms(outputs: int, taps: int) -> Transforms:
    """The matrices for so many outputs of a filter of so many taps.

    Raises:
      ValueError: for more than 8 products.
    """
    n = outputs + taps - 1
    if n > len(_POINTS) + 1:
        raise ValueError(f"{outputs} outputs of {taps} taps: at most {len(_POINTS) + 1} products")

    def values(coefficients: int) -> np.ndarray:
        """A polynomial's values; at infinity, its last coefficient."""
        powers = _POINTS[: n - 1, None] ** np.arange(coefficients)
        return np.concatenate([powers, np.eye(coefficients)[-1:]])

    # Values of a product of polynomials are the products of their values, and its coefficients come
    # from the inverse of `values(n)`.
    image, kernel = np.linalg.inv(values(n)).T, values(taps)
    scale = np.abs(image).max(1, keepdims=True)  # rows of one size keep rounding small
    matrices = Transforms(image / scale, kernel * scale, values(outputs).T)
    for matrix in matrices:
        matrix.setflags(write=False)
    return matrices


@dataclasses.dataclass(frozen=True)
class Tiles:
    """How the outputs of one axis are divided."""

    outputs: int
    """Outputs of a tile."""
    count: int
    """Number of tiles; the last may be filled in part."""
    taps: int
    """Width of the filter."""

    @property
    def products(self) -> int:
        """Products of a tile, and pixels that it reads."""
        return self.outputs + self.taps - 1


def fewest_products(outputs: int, taps: int) -> Tiles | None:
    """The tiles of an axis with the fewest products; None for filters of more than 5 taps. Each of
    several tiles has at least ``taps - 1`` outputs, since it reads into one neighbour only."""
    sizes = range(1, len(_POINTS) + 3 - taps) if taps <= 5 else ()
    tiles = (Tiles(size, -(-outputs // size), taps) for size in sizes)
    possible = (tile for tile in tiles if tile.count == 1 or tile.outputs >= taps - 1)
    return min(possible, key=lambda tile: tile.count * tile.products, default=None)


_direct = ContextVar("direct convolutions", default=False)


@contextmanager
def direct_convolutions() -> Iterator[None]:
    """A context in which no convolution is traced as one of tiles, whose zeros are sums that cancel
    up to rounding: for what asks where a derivative is 0."""
    token = _direct.set(True)
    try:
        yield
    finally:
        _direct.reset(token)


def choose_tiles(
    x: Float[AnyArray, "n h w c"],
    kernel: Float[AnyArray, "kh kw c o"],
    padding: Sequence[tuple[int, int]],
) -> tuple[Tiles, ...]:
    """The tiles of both axes on CPUs; none where a direct convolution is better: where tiles would
    take more than half of its products, for fewer than 4 channels, for at most 16 million products
    (3.6 million where one tile is enough, which compiles faster than several), and in half
    precision (they round some ten times as coarsely)."""
    if _direct.get():
        return ()
    axes = [*zip(x.shape[1:3], kernel.shape[:2], padding, strict=True)]
    outputs = [pixels + sum(pads) - taps + 1 for pixels, taps, pads in axes]
    axis_tiles = (fewest_products(n, taps) for n, (_, taps, _) in zip(outputs, axes, strict=True))
    tiles = tuple(tile for tile in axis_tiles if tile)
    precise = jnp.issubdtype(x.dtype, jnp.floating) and x.dtype.itemsize >= 4
    if len(tiles) < 2 or x.shape[-1] < 4 or not precise:
        return ()
    direct = math.prod(outputs) * math.prod(kernel.shape[:2])
    fewer = 2 * math.prod(tile.count * tile.products for tile in tiles) <= direct
    one_tile = all(tile.count == 1 for tile in tiles)
    large = direct * len(x) * math.prod(kernel.shape[2:]) > (3.6e6 if one_tile else 16e6)
    return tiles if fewer and large else ()


def images_per_chunk(kernel: Float[AnyArray, "kh kw c o"], tiles: Sequence[Tiles]) -> int:
    """As many images as have 2 MiB of values in tiles, of inputs or of outputs, whichever are more:
    so many stay in a core's cache. But the kernel is transformed for each chunk, which has at least
    as many values as that."""
    count = math.prod(tile.count for tile in tiles)
    products = math.prod(tile.products for tile in tiles)
    c, o = kernel.shape[2:]
    cached = 2**21 // (count * products * max(c, o) * kernel.dtype.itemsize)
    return max(1, cached, min(c, o) // count)


def convolve_tiles(
    x: Float[AnyArray, "n h w c"],
    kernel: Float[AnyArray, "kh kw c o"],
    padding: Sequence[tuple[int, int]],
    tiles: Sequence[Tiles],
) -> Float[Array, "n oh ow o"]:
    """:func:`jaxdl.nn.ops.convolution` of stride 1, with the ``tiles`` of both axes, as
    :func:`fewest_products` gives them; not for half precision."""
    (n, *size, c), filters = x.shape, kernel.shape[-1]
    rows, columns = tiles
    # One tile reads all; of several each reads its own outputs' pixels and the first ones of its
    # neighbour's, so that there is one more to be read.
    widths = [axis.products if axis.count == 1 else axis.outputs for axis in tiles]
    counts = [axis.count + (axis.count > 1) for axis in tiles]
    edges = [
        (low, width * count - pixels - low, 0)
        for pixels, width, count, (low, _) in zip(size, widths, counts, padding, strict=True)
    ]
    x = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *edges, (0, 0, 0)))
    # [pixel of a tile, down, across; tile, down, across; image; channel]
    x = x.reshape(n, counts[0], widths[0], counts[1], widths[1], c)
    x = x.transpose(2, 4, 1, 3, 0, 5)
    if rows.count > 1:
        x = jnp.concatenate([x[:, :, :-1], x[: rows.taps - 1, :, 1:]], 0)
    if columns.count > 1:
        x = jnp.concatenate([x[:, :, :, :-1], x[:, : columns.taps - 1, :, 1:]], 1)
    down, across = (transforms(axis.outputs, axis.taps) for axis in tiles)
    values = _transform(down.image, across.image, x)
    kernels = _transform(down.kernel, across.kernel, kernel)
    points = rows.products * columns.products
    products = values.reshape(points, -1, c) @ kernels.reshape(points, c, filters)
    products = products.reshape(*values.shape[:-1], filters)
    y = _combine(down.output, _combine(across.output, products, 1), 0)
    y = y.transpose(4, 2, 0, 3, 1, 5)
    y = y.reshape(n, rows.count * rows.outputs, columns.count * columns.outputs, filters)
    oh, ow = (
        pixels + sum(pads) - axis.taps + 1
        for pixels, axis, pads in zip(size, tiles, padding, strict=True)
    )
    return y[:, :oh, :ow]


def _transform(
    down: np.ndarray, across: np.ndarray, x: Float[AnyArray, "h w ..."]
) -> Float[Array, "oh ow ..."]:
    """``down x across^T`` of the first two axes."""
    h, w, *rest = x.shape
    y = (jnp.asarray(down, x.dtype) @ x.reshape(h, -1)).reshape(len(down), w, -1)
    y = jnp.broadcast_to(jnp.asarray(across, x.dtype), (len(down), *across.shape)) @ y
    return y.reshape(len(down), len(across), *rest)


def _combine(rows: np.ndarray, x: Array, axis: int) -> Array:
    """``rows x`` along an axis, term by term: of few and short rows that is faster than a product,
    of many it takes longer to compile."""
    parts = jnp.split(x, x.shape[axis], axis)
    sums = [
        sum(float(weight) * part for weight, part in zip(row, parts, strict=True) if weight)
        for row in rows
    ]
    return jnp.concatenate(sums, axis)
