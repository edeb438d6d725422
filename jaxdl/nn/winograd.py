"""Convolutions with a fraction of the products, as matrix products of tiles.

The sums of a filter of r taps at m neighbouring places are coefficients of a product of
polynomials, which its values at n = m + r - 1 points determine: ``y = A [(G k) * (B x)]``, with
constant matrices, takes n products where the sums take m r. In two dimensions with m = 4 and r = 5
that is 64 for 400, and over channels each of the 64 is a matrix product of all tiles.

Toom 1963 and Cook 1966 have the points; Winograd, "Arithmetic Complexity of Computations", 1980,
the least number of products; Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks",
CVPR 2016, the matrix products.
"""

import dataclasses
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from jaxdl.types import AnyArray

_POINTS = np.array([0, 1, -1, 0.5, -0.5, 2, -2])  # and infinity: with more, rounding grows


class Transforms(NamedTuple):
    """The matrices for m places of a filter of r taps, with n = m + r - 1."""

    image: Float[np.ndarray, "n n"]
    """B."""
    kernel: Float[np.ndarray, "n r"]
    """G."""
    sums: Float[np.ndarray, "m n"]
    """A."""


@cache
def transforms(places: int, taps: int) -> Transforms:
    """The matrices of a tile, in double precision."""
    n = places + taps - 1

    def values(coefficients: int) -> np.ndarray:
        """A polynomial's values; at infinity, its last coefficient."""
        powers = _POINTS[: n - 1, None] ** np.arange(coefficients)
        return np.concatenate([powers, np.eye(coefficients)[-1:]])

    # Values of the product of polynomials are products of their values, and its coefficients come
    # from the inverse of `values(n)`. A correlation is the transposed of that product.
    image, kernel = np.linalg.inv(values(n)).T, values(taps)
    scale = np.abs(image).max(1, keepdims=True)  # rows of one size keep rounding small
    return Transforms(image / scale, kernel * scale, values(places).T)


@dataclasses.dataclass(frozen=True)
class Tiles:
    """How one axis of the outputs is divided."""

    places: int
    """Outputs of a tile."""
    count: int
    """Tiles; the last may be filled in part."""
    taps: int
    """Width of the filters."""

    @property
    def points(self) -> int:
        """Products of a tile."""
        return self.places + self.taps - 1


def divide(outputs: int, taps: int) -> Tiles:
    """The tiles with the fewest products. Each reads into its neighbour only, so that filters of
    more than 5 taps have tiles of 1, which save nothing."""
    sides = range(max(1, taps - 1), len(_POINTS) + 3 - taps)
    tiles = (Tiles(side, -(-outputs // side), taps) for side in sides)
    return min(tiles, key=lambda t: t.count * t.points, default=Tiles(1, outputs, taps))


def convolve_tiles(
    x: Float[AnyArray, "n h w c"],
    kernel: Float[AnyArray, "kh kw c o"],
    padding: Sequence[tuple[int, int]],
    tiles: Sequence[Tiles],
) -> Float[Array, "n oh ow o"]:
    """:func:`jaxdl.nn.ops.convolution` of stride 1, with the ``tiles`` of both axes."""
    (n, *size, c), filters = x.shape, kernel.shape[-1]
    rows, columns = tiles
    edges = [
        (low, (axis.count + 1) * axis.places - pixels - low, 0)
        for pixels, axis, (low, _) in zip(size, tiles, padding, strict=True)
    ]
    x = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *edges, (0, 0, 0)))
    # [pixel of a tile, down, across; tile, down, across; image; channel]: the pixels are those of
    # the tile's own place and the first ones of its neighbour's.
    x = x.reshape(n, rows.count + 1, rows.places, columns.count + 1, columns.places, c)
    x = x.transpose(2, 4, 1, 3, 0, 5)
    x = jnp.concatenate([x[:, :, :-1], x[: rows.taps - 1, :, 1:]], 0)
    x = jnp.concatenate([x[:, :, :, :-1], x[:, : columns.taps - 1, :, 1:]], 1)
    down, across = (transforms(axis.places, axis.taps) for axis in tiles)
    values = _transform(down.image, across.image, x)
    kernels = _transform(down.kernel, across.kernel, kernel)
    points = rows.points * columns.points
    products = values.reshape(points, -1, c) @ kernels.reshape(points, c, filters)
    products = products.reshape(*values.shape[:-1], filters)
    y = _sums(down.sums, _sums(across.sums, products, 1), 0)
    y = y.transpose(4, 2, 0, 3, 1, 5)
    y = y.reshape(n, rows.count * rows.places, columns.count * columns.places, filters)
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


def _sums(rows: np.ndarray, x: Array, axis: int) -> Array:
    """``rows x`` along an axis, term by term: of few and short rows that is faster than a product,
    of many it takes longer to compile."""
    parts = jnp.split(x, x.shape[axis], axis)
    sums = [
        sum(float(weight) * part for weight, part in zip(row, parts, strict=True) if weight)
        for row in rows
    ]
    return jnp.concatenate(sums, axis)
