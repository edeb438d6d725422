"""Losses of answers that are pictures: masks, heat maps and densities; one number an example.

A mask has the class of each pixel, 0 to k − 1. Pixels of any other value, such as −1 or 255 where a
warp reads from outside an image, are missing and count for nothing. Losses are means over the
pixels that are there (0 where there are none), so that they do not depend on the image's size; a
sum of losses is a sum: ``cross_entropy(logits, mask) + dice(logits, mask)``.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from jaxdl.types import AnyArray, Scalar

Logits = Float[AnyArray, "b h w k"]
Mask = Integer[AnyArray, "b h w"]
Weights = Float[AnyArray, "b h w"] | None
"""The weight of each pixel; None for 1."""


def one_hot(mask: Mask, classes: int) -> Float[Array, "b h w k"]:
    """1 at a pixel's class; where it is missing nothing."""
    return jax.nn.one_hot(jnp.asarray(mask).astype(jnp.int32), classes)


def cross_entropy(
    logits: Logits,
    mask: Mask,
    weights: Weights = None,
    *,
    class_weights: Float[AnyArray, " k"] | None = None,
) -> Float[Array, " b"]:
    """``sum_p w_p c_y log(1 / softmax(logits)_y) / sum_p w_p c_y`` over the pixels p of class y.

    Args:
      class_weights: ``c``, by default 1: a rare class counts as much as a frequent one where they
        are the inverses of the shares of pixels.
    """
    return focal(logits, mask, weights, class_weights=class_weights, gamma=0.0)


def focal(
    logits: Logits,
    mask: Mask,
    weights: Weights = None,
    *,
    class_weights: Float[AnyArray, " k"] | None = None,
    gamma: Scalar = 2.0,
) -> Float[Array, " b"]:
    """:func:`cross_entropy` whose terms are multiplied by ``(1 - softmax(logits)_y)^gamma``: pixels
    that are right already count for little (Lin, Goyal, Girshick, He & Dollár 2017)."""
    targets, logs = one_hot(mask, logits.shape[-1]), jax.nn.log_softmax(jnp.asarray(logits))
    if class_weights is not None:
        targets = targets * jnp.asarray(class_weights)[None, None, None]
    if weights is not None:
        targets = targets * jnp.asarray(weights)[..., None]
    log = jnp.sum(jnp.where(targets != 0, targets * logs, 0), -1)  # 0 · log 0 has no gradient
    if isinstance(gamma, jax.Array) or gamma:
        right = jnp.sum(jnp.where(targets != 0, jnp.exp(logs), 0), -1)
        # The power's gradient at 0 is infinite for gamma below 1.
        log = log * jnp.maximum(1 - right, 1e-6) ** gamma
    return -_per_image(log) / jnp.maximum(_per_image(jnp.sum(targets, -1)), 1e-6)


def tversky(
    logits: Logits,
    mask: Mask,
    weights: Weights = None,
    *,
    alpha: Scalar = 0.5,
    beta: Scalar = 0.5,
    smoothing: float = 1.0,
) -> Float[Array, " b"]:
    """``1 - mean_k (TP + s) / (TP + alpha FP + beta FN + s)`` over the classes but the first, the
    background, with soft counts: ``TP = sum_p p t``, probabilities p and targets t of an image.

    ``beta`` above ``alpha`` makes a miss cost more than a false alarm (Salehi, Erdogmus &
    Gholipour 2017).

    Args:
      smoothing: ``s``, in pixels; an empty mask that is predicted to be empty then costs nothing.
    """
    targets = one_hot(mask, logits.shape[-1])
    mass = jnp.sum(targets, -1, keepdims=True)
    mass = mass if weights is None else mass * jnp.asarray(weights)[..., None]
    probabilities = jax.nn.softmax(jnp.asarray(logits))
    hits, false, missed = (
        jnp.sum(mass * counts, (1, 2))[:, 1:]
        for counts in (
            probabilities * targets,
            probabilities * (1 - targets),
            (1 - probabilities) * targets,
        )
    )
    index = (hits + smoothing) / (hits + alpha * false + beta * missed + smoothing)
    return 1 - jnp.mean(index, -1)


def dice(
    logits: Logits, mask: Mask, weights: Weights = None, *, smoothing: float = 1.0
) -> Float[Array, " b"]:
    """``1 - mean_k (2 TP + 2 s) / (2 TP + FP + FN + 2 s)``: :func:`tversky` with ``alpha = beta =
    1/2`` (Milletari, Navab & Ahmadi 2016, without their squares)."""
    return tversky(logits, mask, weights, smoothing=smoothing)


def map_error(
    predictions: Float[AnyArray, "b h w"],
    targets: Float[AnyArray, "b h w"],
    weights: Weights = None,
) -> Float[Array, " b"]:
    """``sum_p w_p (y_p - t_p)² / sum_p w_p``: squared error of heat maps and densities."""
    errors = (jnp.asarray(predictions) - targets) ** 2
    if weights is None:
        return jnp.mean(errors, (1, 2))
    return _per_image(weights * errors) / jnp.maximum(_per_image(jnp.asarray(weights)), 1e-6)


def heat_map(
    points: Float[AnyArray, "b n 2"], shape: tuple[int, int], deviation: Scalar
) -> Float[Array, "b h w"]:
    """``max_i exp(-|p - x_i|² / (2 deviation²))`` over the points; 0 without any.

    Args:
      points: (row, column) in pixels; NaN for none.
      shape: height and width.
      deviation: pixels.
    """
    return jnp.max(_gaussians(points, shape, deviation), 1)


def density_map(
    points: Float[AnyArray, "b n 2"], shape: tuple[int, int], deviation: Scalar
) -> Float[Array, "b h w"]:
    """A Gaussian at each point, whose sum over the image's pixels is 1, also at a border: the sum
    of the map is the number of points within the image (Lempitsky & Zisserman 2010).

    Arguments as those of :func:`heat_map`.
    """
    single = _gaussians(points, shape, deviation)
    total = jnp.sum(single, (2, 3), keepdims=True)
    return jnp.sum(single / jnp.where(total > 0, total, 1), 1)


def _gaussians(
    points: Float[AnyArray, "b n 2"], shape: tuple[int, int], deviation: Scalar
) -> Float[Array, "b n h w"]:
    points = jnp.asarray(points)
    present = jnp.all(jnp.isfinite(points), -1)
    rows, columns = (
        jnp.exp(
            -0.5
            * (jnp.arange(size)[None, None] - jnp.where(present, coordinate, 0)[..., None]) ** 2
            / deviation**2
        )
        for size, coordinate in zip(shape, jnp.moveaxis(points, -1, 0), strict=True)
    )
    return rows[..., :, None] * columns[..., None, :] * present[..., None, None]


def _per_image(values: Float[AnyArray, "b h w"]) -> Float[Array, " b"]:
    return jnp.sum(values, (1, 2))
