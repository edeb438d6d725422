"""Metrics: numbers of single examples, statistics that add up, figures of merit.

An evaluation over many batches needs statistics whose sums over batches are those of the whole
data. :func:`correct` and :func:`correct_among` give one number an example. The sums are a
:func:`confusion_matrix` (accuracy, precision, recall, F-beta, IoU, Dice), the bins of a
calibration diagram (expected calibration error) and :class:`RegressionSums` (RMSE, MAE, R²). They
are merged by adding them leaf by leaf, over batches, devices or folds. Only the curves of binary
scores (ROC, precision and recall) need all scores at once. Values agree with scikit-learn's
functions; what is 0 / 0 is NaN, scikit-learn's ``zero_division=nan``, so that `jnp.nanmean` leaves
absent classes out.

All functions work under jit and vmap. ``weights`` are of the examples: a mask, or numbers.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer, Num

from jaxdl.types import AnyArray, Scalar

Weights = Float[AnyArray, " n"] | Bool[AnyArray, " n"] | None
"""The weight of each example; None for 1."""


# One number an example.


def correct(
    logits: Float[AnyArray, "... b k"], labels: Integer[AnyArray, " b"]
) -> Bool[Array, "... b"]:
    """True where the largest logit is the label's; False for a label out of 0 to k − 1."""
    guesses = jnp.argmax(logits, -1)
    return guesses == jnp.broadcast_to(labels, guesses.shape)


def correct_among(
    logits: Float[AnyArray, "... b k"], labels: Integer[AnyArray, " b"], top: int
) -> Bool[Array, "... b"]:
    """True where the label's logit is among the ``top`` largest: top-k accuracy is the mean.

    Of equal logits the class of the lower number comes first, so that ``top=1`` is
    :func:`correct`. Never for a label out of 0 to k − 1, nor where a logit is NaN.

    Raises:
      ValueError: unless ``1 <= top <= k``.
    """
    if not 1 <= top <= logits.shape[-1]:
        raise ValueError(f"top={top} of {logits.shape[-1]} classes: choose from 1 to all of them")
    class_ids = jnp.broadcast_to(jnp.arange(logits.shape[-1]), logits.shape)
    labels = jnp.broadcast_to(labels, logits.shape[:-1])
    label_logit = jnp.sum(jnp.where(class_ids == labels[..., None], logits, 0), -1, keepdims=True)
    ahead = (logits > label_logit) | ((logits == label_logit) & (class_ids < labels[..., None]))
    valid = (labels >= 0) & (labels < logits.shape[-1]) & ~jnp.any(jnp.isnan(logits), -1)
    return valid & (jnp.sum(ahead, -1) < top)


# Classification and segmentation, from counts.


def confusion_matrix(
    predictions: Integer[AnyArray, " n"],
    labels: Integer[AnyArray, " n"],
    classes: int,
    weights: Weights = None,
) -> Num[Array, "k k"]:
    """The number (sum of weights) of examples of each class, rows, for each prediction, columns.

    Predictions and labels out of 0 to k − 1, such as a missing label, −1, are not counted. Matrices
    of batches add up. For segmentation, pixels take the place of examples.
    """
    counts = jnp.ones(labels.shape, jnp.int32) if weights is None else weights
    counts = counts.astype(jnp.int32) if counts.dtype == bool else counts
    inside = (labels >= 0) & (labels < classes) & (predictions >= 0) & (predictions < classes)
    cells = jnp.where(inside, labels * classes + predictions, classes * classes)
    return jax.ops.segment_sum(counts, cells, classes * classes).reshape(classes, classes)


def accuracy(confusion: Num[AnyArray, "k k"]) -> Float[Array, ""]:
    """The share of examples on the diagonal."""
    return jnp.trace(confusion) / jnp.sum(confusion)


def precision(confusion: Num[AnyArray, "k k"]) -> Float[Array, " k"]:
    """Precision by class, ``TP / (TP + FP)``: the share of its predictions that are correct."""
    return jnp.diagonal(confusion) / jnp.sum(confusion, 0)


def recall(confusion: Num[AnyArray, "k k"]) -> Float[Array, " k"]:
    """Recall by class, ``TP / (TP + FN)``: the share of its examples that are predicted as such."""
    return jnp.diagonal(confusion) / jnp.sum(confusion, 1)


def f_beta(confusion: Num[AnyArray, "k k"], beta: float = 1.0) -> Float[Array, " k"]:
    """F-beta by class, ``(1 + β²) P R / (β² P + R)``, with precision P and recall R.

    Computed as ``(1 + β²) TP / (β² (TP + FN) + TP + FP)``, which is defined where one of the two
    is not.
    """
    hits, square = jnp.diagonal(confusion), beta**2
    return (1 + square) * hits / (square * jnp.sum(confusion, 1) + jnp.sum(confusion, 0))


def iou(confusion: Num[AnyArray, "k k"]) -> Float[Array, " k"]:
    """Intersection over union (Jaccard) by class, ``TP / (TP + FP + FN)``."""
    hits = jnp.diagonal(confusion)
    return hits / (jnp.sum(confusion, 0) + jnp.sum(confusion, 1) - hits)


def dice(confusion: Num[AnyArray, "k k"]) -> Float[Array, " k"]:
    """Dice coefficient by class, ``2 TP / (2 TP + FP + FN)``: :func:`f_beta` with β = 1."""
    return f_beta(confusion)


# Binary scores.


def roc_curve(
    scores: Float[AnyArray, " n"], positive: Bool[AnyArray, " n"], weights: Weights = None
) -> tuple[Float[Array, " n+1"], Float[Array, " n+1"], Float[Array, " n+1"]]:
    """False-positive rates, true-positive rates, and the thresholds "score >= t" that give them.

    From (0, 0), with the threshold infinity, one point an example by falling score. Equal scores
    give equal points. Rates of a class without examples are NaN.
    """
    false_counts, true_counts, thresholds = _counts_above(scores, positive, weights)
    return false_counts / false_counts[-1], true_counts / true_counts[-1], thresholds


def roc_auc(
    scores: Float[AnyArray, " n"], positive: Bool[AnyArray, " n"], weights: Weights = None
) -> Float[Array, ""]:
    """The area under :func:`roc_curve`: the probability that a positive example has a higher score
    than a negative one, ties counted half. NaN without examples of both, and for NaN scores."""
    false_rates, true_rates, _ = roc_curve(scores, positive, weights)
    area = jnp.sum(jnp.diff(false_rates) * (true_rates[1:] + true_rates[:-1]) / 2)
    return jnp.where(jnp.any(jnp.isnan(scores)), jnp.nan, area)


def _counts_above(
    scores: Float[AnyArray, " n"], positive: Bool[AnyArray, " n"], weights: Weights
) -> tuple[Float[Array, " n+1"], Float[Array, " n+1"], Float[Array, " n+1"]]:
    """The numbers of negative and of positive examples with a score of at least each threshold, and
    the thresholds: infinity, then the scores, falling."""
    w = jnp.ones(scores.shape) if weights is None else weights.astype(float)
    order = jnp.argsort(-scores)
    thresholds, positive, w = scores[order], positive[order], w[order]
    # Of equal scores each has the sums up to the last of them.
    last = jnp.searchsorted(-thresholds, -thresholds, side="right") - 1

    def counts(w: Float[AnyArray, " n"]) -> Float[Array, " n+1"]:
        return jnp.concatenate([jnp.zeros(1), jnp.cumsum(w)[last]])

    false_counts, true_counts = counts(jnp.where(positive, 0, w)), counts(jnp.where(positive, w, 0))
    return false_counts, true_counts, jnp.concatenate([jnp.full(1, jnp.inf), thresholds])


def domain_accuracy(
    source: Float[AnyArray, " n"], target: Float[AnyArray, " m"]
) -> Float[Array, ""]:
    """The share of examples whose domain is recognized, averaged over domains; 1/2 is chance.

    Args:
      source, target: logits of "this is a source image", by the examples' true domain.
    """
    return (jnp.mean(source > 0) + jnp.mean(target <= 0)) / 2


# Calibration.


def calibration_bins(
    confidence: Float[AnyArray, " n"],
    correct: Bool[AnyArray, " n"],
    bins: int = 15,
    weights: Weights = None,
) -> Float[Array, "bins 3"]:
    """The number of examples, the sum of their confidences, and the number of correct ones, by
    confidence in equal bins of 0 … 1 that contain their upper end.

    Bins of batches add up. ``confidence`` is the probability of the predicted class, and
    ``correct`` whether it is right; or, of a binary classifier, the probability of the positive
    class and whether the example is of it.
    """
    w = jnp.ones(confidence.shape) if weights is None else weights.astype(float)
    edges = jnp.linspace(0, 1, bins + 1)[1:-1]
    bin_index = jnp.searchsorted(edges, confidence)
    return jax.ops.segment_sum(
        w[:, None] * jnp.stack([jnp.ones_like(w), confidence, correct], -1), bin_index, bins
    )


def calibration_error(bins: Float[AnyArray, "bins 3"]) -> Float[Array, ""]:
    """Expected calibration error ``sum_bins n / N |mean correct - mean confidence|``.

    Naeini, Cooper & Hauskrecht, AAAI 2015; Guo, Pleiss, Sun & Weinberger, ICML 2017.
    """
    count, confidence, correct = bins.T
    return jnp.sum(jnp.abs(correct - confidence)) / jnp.sum(count)


# Regression.


class RegressionSums(NamedTuple):
    """Sums over examples, and over outputs where there are several."""

    count: Float[Array, ""]  # type: ignore[assignment]  # in the place of the tuple's method
    absolute: Float[Array, ""]
    """``sum |y - t|``"""
    squared: Float[Array, ""]
    """``sum (y - t)²``"""
    target: Float[Array, ""]
    """``sum (t - origin)``"""
    target_squared: Float[Array, ""]
    """``sum (t - origin)²``"""


def regression_sums(
    predictions: Float[AnyArray, " n"],
    targets: Float[AnyArray, " n"],
    weights: Weights = None,
    *,
    origin: Scalar = 0.0,
) -> RegressionSums:
    """The sums from which RMSE, MAE and R² are computed; those of batches add up.

    Args:
      origin: R² does not depend on it but for rounding, which is least for a number near the mean
        of the targets; the same for all batches. 0 will do for standardized targets.

    Raises:
      ValueError: for predictions and targets of two shapes.
    """
    if predictions.shape != targets.shape:
        raise ValueError(
            f"predictions are {list(predictions.shape)}, targets {list(targets.shape)}: give both "
            "the same shape"
        )
    w = jnp.ones(targets.shape, targets.dtype) if weights is None else weights.astype(targets.dtype)
    errors, offsets = predictions - targets, targets - origin
    terms = jnp.ones_like(w), jnp.abs(errors), errors**2, offsets, offsets**2
    # A masked example may be anything, also NaN.
    return RegressionSums(*(jnp.sum(jnp.where(w != 0, w * term, 0)) for term in terms))


def rmse(sums: RegressionSums) -> Float[Array, ""]:
    """Root of the mean squared error."""
    return jnp.sqrt(sums.squared / sums.count)


def mae(sums: RegressionSums) -> Float[Array, ""]:
    """Mean absolute error."""
    return sums.absolute / sums.count


def r2(sums: RegressionSums) -> Float[Array, ""]:
    """``1 - sum (y - t)² / sum (t - mean t)²``, the coefficient of determination.

    As scikit-learn has it, 1 where constant targets are met exactly and 0 where they are not.
    Targets count as constant where their variance is that of rounding: see ``origin`` of
    :func:`regression_sums`.
    """
    spread = sums.target_squared - sums.target**2 / sums.count
    rounding = 16 * jnp.finfo(spread.dtype).eps * sums.target_squared
    constant = spread <= rounding
    ratio = sums.squared / jnp.where(constant, 1.0, spread)
    return jnp.where(constant, jnp.where(sums.squared == 0, 1.0, 0.0), 1 - ratio)
