"""Figures of merit of masks, places and instances, on the host.

What adds up over pixels is in :mod:`jaxdl.nn.metrics`: IoU and Dice of a confusion matrix, and
areas under ROC curves, whose ``weights`` may be a field of view.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Bool, Float, Integer
from scipy import ndimage
from scipy.spatial import distance


def hausdorff(a: Bool[np.ndarray, "h w"], b: Bool[np.ndarray, "h w"]) -> float:
    """The greatest distance, in pixels, of a pixel of one mask from the other mask; infinite if one
    of the two is empty, 0 if both are."""
    if not a.any() or not b.any():
        return 0.0 if a.any() == b.any() else np.inf
    first, second = np.argwhere(a), np.argwhere(b)
    forward = distance.directed_hausdorff(first, second)[0]
    return max(forward, distance.directed_hausdorff(second, first)[0])


def point_errors(
    predictions: Float[np.ndarray, "n 2"], points: Float[np.ndarray, "n 2"]
) -> Float[np.ndarray, " n"]:
    """Euclidean distances in pixels; NaN where there is no point."""
    return np.sqrt(((predictions - points) ** 2).sum(-1))


def centroid(scores: Float[np.ndarray, "h w"], share: float = 0.5) -> tuple[float, float]:
    """Row and column of the mean place, weighted by scores from 0, of the connected pixels around
    the greatest one that have at least a share of it; the middle where there is nothing."""
    peak = np.unravel_index(np.argmax(scores), scores.shape)
    if not scores[peak] > 0:
        return (scores.shape[0] - 1) / 2, (scores.shape[1] - 1) / 2
    labels, _ = ndimage.label(scores >= share * scores[peak])
    row, column = ndimage.center_of_mass(scores, labels, labels[peak])
    return float(row), float(column)


def instances(
    foreground: Bool[np.ndarray, "h w"],
    depth: Float[np.ndarray, "h w"],
    *,
    least: float = 0.4,
    reach: int = 2,
) -> Integer[np.ndarray, "h w"]:
    """A mask divided into things that touch: 0 for the background, 1, 2, … for instances.

    A watershed of ``-depth``: each pixel of the foreground climbs to the deepest one within
    ``reach`` pixels in each direction, and on from there; those that arrive at one peak are an
    instance. Peaks below ``least`` are none, and what climbs to them is background.

    Args:
      depth: high in the middle of things, such as the distance to their borders.
    """
    height, width = depth.shape
    padded = np.pad(np.where(foreground, depth, -np.inf), reach, constant_values=-np.inf)
    side = 2 * reach + 1
    windows = np.lib.stride_tricks.sliding_window_view(padded, (side, side))
    best = windows.reshape(height * width, side * side).argmax(-1)
    rows, columns = np.divmod(np.arange(height * width), width)
    climb = (rows + best // side - reach) * width + columns + best % side - reach
    climb = np.where(foreground.ravel(), climb, np.arange(height * width))
    while (further := climb[climb] != climb).any():
        climb = np.where(further, climb[climb], climb)
    peaks = np.unique(climb[foreground.ravel() & (depth.ravel()[climb] >= least)])
    numbers = np.zeros(height * width, np.int32)
    numbers[peaks] = np.arange(1, len(peaks) + 1)
    return np.where(foreground, numbers[climb].reshape(height, width), 0).astype(np.int32)


def overlaps(
    predicted: Integer[np.ndarray, "h w"], truth: Integer[np.ndarray, "h w"]
) -> Float[np.ndarray, "p t"]:
    """IoU of every predicted instance, 1 … p, with every true one, 1 … t; 0 where one is absent."""
    shape = int(predicted.max()) + 1, int(truth.max()) + 1
    overlap = np.bincount(
        predicted.ravel() * shape[1] + truth.ravel(), minlength=shape[0] * shape[1]
    )
    overlap = overlap.reshape(shape)
    union = overlap.sum(1, keepdims=True) + overlap.sum(0, keepdims=True) - overlap
    return (overlap / np.maximum(union, 1))[1:, 1:]


def instance_average_precision(
    images: Iterable[
        tuple[Integer[np.ndarray, "h w"], Sequence[float], Integer[np.ndarray, "h w"]]
    ],
    threshold: float = 0.5,
) -> float:
    """``sum_i (R_i - R_(i-1)) P_i`` over all predicted instances of all images by falling score.

    A prediction is a hit if its IoU with a true instance that no prediction of a higher score has
    taken is at least the threshold. NaN without any true instance.

    Args:
      images: by image, the predicted instances, their scores, and the true instances.
    """
    scores: list[float] = []
    hits: list[bool] = []
    total = 0
    for predicted, confidence, truth in images:
        overlap = overlaps(predicted, truth)
        total += int(np.count_nonzero(np.bincount(truth.ravel())[1:]))
        for i in np.argsort(-np.asarray(confidence), kind="stable"):
            best = int(np.argmax(overlap[i])) if overlap.shape[1] else -1
            hit = best >= 0 and bool(overlap[i, best] >= threshold)
            if hit:
                overlap[:, best] = 0  # it is taken
            hits.append(hit)
            scores.append(float(confidence[i]))
    if not total:
        return np.nan
    order = np.argsort(-np.asarray(scores), kind="stable")
    right = np.cumsum(np.asarray(hits, float)[order])
    precision = right / np.arange(1, len(right) + 1)
    return float(np.sum(precision * np.asarray(hits, float)[order]) / total)
