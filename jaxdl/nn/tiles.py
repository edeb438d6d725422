"""Prediction of large images piece by piece: overlapping tiles with blended borders.

Random patches for training are :func:`jaxdl.data.augment.crop_and_flip`, which moves a mask with
its image.
"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int, Shaped

from jaxdl.trees import map_batches
from jaxdl.types import AnyArray

Predict = Callable[[Shaped[np.ndarray, "b h w c"]], Float[AnyArray, "b h w k"]]
"""A function from images to numbers of each pixel, at the same resolution."""


def predict_tiled(
    predict: Predict,
    image: Shaped[np.ndarray, "h w c"],
    *,
    tile: int,
    margin: int,
    blend: int = 16,
    stride: int = 1,
    batch: int = 4,
) -> Float[np.ndarray, "h w k"]:
    """The outputs of a network for an image, computed from overlapping tiles.

    A tile's outer ``margin`` pixels are thrown away, but for those at the image's own border; over
    the next ``blend`` pixels two tiles are mixed, each with a weight that falls linearly. Where the
    margin covers half of the receptive field, the result is the prediction of the whole image.
    (Normalization by an image's own statistics, such as of groups, sees the whole image.)

    All tiles are of one shape: at most ``stride - 1`` pixels larger than ``tile``, and no larger
    than the image.

    Args:
      tile: the side of a tile in pixels, about.
      margin: pixels; for a U-Net of d levels ``4 · 2^d`` is enough.
      stride: tiles begin at its multiples: ``2^(d - 1)``, so that pooling meets the same pixels.
      batch: tiles at a time.

    Raises:
      ValueError: for tiles that have no middle.
    """
    axes = [_tiles(side, tile, margin, blend, stride) for side in image.shape[:2]]
    (rows, row_weights), (columns, column_weights) = axes
    tiles = [(r, c) for r in range(len(rows)) for c in range(len(columns))]

    def predict_tiles(places: Int[np.ndarray, "b 2"]) -> Float[AnyArray, "b h w k"]:
        return predict(np.stack([image[rows[r], columns[c]] for r, c in places]))

    outputs = map_batches(batch, predict_tiles, np.array(tiles))
    total = np.zeros((*image.shape[:2], outputs.shape[-1]), outputs.dtype)
    for (r, c), output in zip(tiles, outputs, strict=True):
        weight = row_weights[r][:, None, None] * column_weights[c][None, :, None]
        total[rows[r], columns[c]] += weight.astype(output.dtype) * output
    return total


def _tiles(
    side: int, tile: int, margin: int, blend: int, stride: int
) -> tuple[Sequence[slice], Sequence[Float[np.ndarray, " _"]]]:
    """Along an axis: the pixels of each tile, and their weights, which add up to 1 at each."""
    size = min(side, tile + (side - tile) % stride)
    step = (size - 2 * margin - blend) // stride * stride
    if size < side and step < stride:
        raise ValueError(
            f"tiles of {size} pixels have no middle beside margins of {margin} and {blend} pixels "
            f"of blending: make them {2 * margin + blend + stride} or larger"
        )
    last = side - size
    starts = [*range(0, last, step), last] if last else [0]
    rising = np.clip((np.arange(size) - margin + 1) / (blend + 1), 0, 1)
    total, weights = np.zeros(side), []
    for start in starts:
        weight = np.ones(size)
        if start > 0:
            weight = weight * rising
        if start < last:
            weight = weight * rising[::-1]
        weights.append(weight)
        total[start : start + size] += weight
    slices = [slice(start, start + size) for start in starts]
    return slices, [weight / total[slice_] for weight, slice_ in zip(weights, slices, strict=True)]
