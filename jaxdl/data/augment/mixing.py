"""Parts that are erased, and images and labels that are mixed."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax, random
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from jaxdl.data.augment.colours import autocontrast, equalize, posterize, solarize
from jaxdl.data.augment.geometry import shear, similarity
from jaxdl.data.augment.per_image import (
    Augment,
    check,
    check_alpha,
    check_amplitudes,
    check_labelled,
    example_keys,
    integer_below,
    per_image,
)
from jaxdl.types import Scalar


def cutout(size: int, *, fill: float = 0.0) -> Augment:
    """Sets a square to ``fill`` (DeVries & Taylor 2017); its centre is any pixel, all alike.

    So the square may reach over the border. The paper fills with 0 after the mean is subtracted.

    Raises:
      ValueError: for a negative size.
    """
    check_amplitudes(size=size)

    def change_image(key: PRNGKeyArray, image: Array) -> Array:
        hole = _box(key, image.shape[:2], (size, size))
        return jnp.where(hole[..., None], fill, image)

    return per_image(change_image)


def mixup(
    key: PRNGKeyArray,
    images: Float[Array, "b h w c"],
    labels: Float[Array, "b k"],
    alpha: Scalar,
) -> tuple[Float[Array, "b h w c"], Float[Array, "b k"]]:
    """MixUp (Zhang et al. 2018): ``l x_i + (1 - l) x_j`` for images and for labels.

    Each example i has its own l ~ Beta(alpha, alpha); its partner j comes from one permutation of
    the batch, so it does depend on the batch's size. One-hot labels become rows that sum to 1
    exactly.

    Raises:
      ValueError: for an alpha that is not positive, and shapes other than those above.
    """
    check_labelled(images, labels, alpha)
    partner, draws = _pairs(key, len(images))
    keep = jax.vmap(lambda draw_key: random.beta(draw_key, alpha, alpha))(draws)
    mixed = _mix(keep[:, None, None, None], images, images[partner])
    return mixed.astype(images.dtype), _mix(keep[:, None], labels, labels[partner])


def cutmix(
    key: PRNGKeyArray,
    images: Float[Array, "b h w c"],
    labels: Float[Array, "b k"],
    alpha: Scalar,
) -> tuple[Float[Array, "b h w c"], Float[Array, "b k"]]:
    """CutMix (Yun et al. 2019): a box of each image, and that share of its label, is its partner's.

    The box has sides floor(sqrt(1 - l) (h, w)) with l ~ Beta(alpha, alpha), and any pixel as its
    centre; what reaches over the border is cut off, and the share is that of the pixels left.
    Partners as for ``mixup``. One-hot labels become rows that sum to 1 exactly.

    Raises:
      ValueError: for an alpha that is not positive, and shapes other than those above.
    """
    check_labelled(images, labels, alpha)
    partner, draws = _pairs(key, len(images))
    height, width = images.shape[1:3]

    def box(draw_key: PRNGKeyArray) -> Bool[Array, "h w"]:
        area_key, position_key = random.split(draw_key)
        part = jnp.sqrt(1 - random.beta(area_key, alpha, alpha))
        sides = [jnp.floor(part * n).astype(jnp.int32) for n in (height, width)]
        return _box(position_key, (height, width), sides)

    boxes = jax.vmap(box)(draws)
    share = boxes.sum((1, 2)) / (height * width)
    mixed = jnp.where(boxes[..., None], images[partner], images)
    return mixed, _mix(1 - share[:, None], labels, labels[partner])


def augmix(
    operations: Sequence[Augment], *, width: int = 3, depth: int = 3, alpha: Scalar = 1.0
) -> Augment:
    """AugMix (Hendrycks et al. 2020): ``m x + (1 - m) sum_i w_i chain_i(x)``.

    Each of ``width`` chains is 1 to ``depth`` operations, their number and each of them drawn
    evenly; w ~ Dirichlet(alpha, …), m ~ Beta(alpha, alpha). The paper's operations are
    ``augmix_operations``, on 0..255; its loss (Jensen-Shannon between views) is not here.

    Args:
      operations: augmentations to draw from; they must keep the images' shape.

    Raises:
      ValueError: without operations, and unless width, depth and alpha are positive.
    """
    check(len(operations) > 0, "augmix needs operations")
    check(width >= 1 and depth >= 1, f"augmix of {width} x {depth} operations; ask for 1 or more")
    check_alpha(alpha)
    identity = len(operations)
    branches = [
        *(lambda key, image, change=change: change(key, image[None])[0] for change in operations),
        lambda key, image: image,
    ]

    def change_image(key: PRNGKeyArray, image: Array) -> Array:
        image = image.astype(jnp.promote_types(image.dtype, jnp.float32))
        shares, mix, chains = random.split(key, 3)
        keep = random.beta(mix, alpha, alpha, dtype=image.dtype)
        weights = random.dirichlet(shares, jnp.full(width, alpha, image.dtype), dtype=image.dtype)

        def chain(total: Array, inputs: tuple[Array, Array]) -> tuple[Array, None]:
            chain_key, weight = inputs
            count, steps = random.split(chain_key)
            length = 1 + integer_below(count, depth)

            def step(changed: Array, inputs: tuple[Array, Array]) -> tuple[Array, None]:
                index, chain_key = inputs
                choice_key, operation = random.split(chain_key)
                choice = jnp.where(index < length, integer_below(choice_key, identity), identity)
                return lax.switch(choice, branches, operation, changed), None

            changed, _ = lax.scan(step, image, (jnp.arange(depth), random.split(steps, depth)))
            return total + weight * changed, None

        parts = random.split(chains, width), (1 - keep) * weights
        return lax.scan(chain, keep * image, parts)[0]

    return per_image(change_image, branches=True, masks=False)


def augmix_operations(severity: float) -> tuple[Augment, ...]:
    """The nine operations of AugMix, on 0..255; a severity of 0.3 is the paper's, 1 the most.

    Autocontrast, equalization, posterizing to at least 4 - 4 s bits, solarizing from 256 (1 - s),
    rotation by up to ±30 s degrees, shear by ±0.3 s and shift by ±s / 3 of the side, the last two
    each in either direction. Outside the image it is black.

    Raises:
      ValueError: for a severity outside 0..1.
    """
    check(0 <= severity <= 1, f"a severity of {severity}; it must be within 0 to 1")
    return (
        autocontrast(),
        equalize(),
        posterize((max(1, 4 - int(4 * severity)), 4)),
        solarize((256 * (1 - severity), 256)),
        similarity(30 * severity, (1, 1), (0, 0)),
        shear(0.3 * severity, 0),
        shear(0, 0.3 * severity),
        similarity(0, (1, 1), (severity / 3, 0)),
        similarity(0, (1, 1), (0, severity / 3)),
    )


def _pairs(key: PRNGKeyArray, batch: int) -> tuple[Array, Array]:
    """A partner for each example, and each example's key."""
    order, draws = random.split(key)
    return random.permutation(order, batch), example_keys(draws, batch)


def _mix(keep: Array, first: Array, second: Array) -> Array:
    return keep * first + (1 - keep) * second


def _box(
    key: PRNGKeyArray, size: Sequence[int], sides: Sequence[int | Array]
) -> Bool[Array, "h w"]:
    """A mask of the pixels in a box of these sides around a uniformly drawn pixel."""

    def side_mask(key: PRNGKeyArray, pixels: int, side: int | Array) -> Bool[Array, " pixels"]:
        first = integer_below(key, pixels) - side // 2
        return (first <= jnp.arange(pixels)) & (jnp.arange(pixels) < first + side)

    rows, columns = map(side_mask, random.split(key), size, sides)
    return rows[:, None] & columns[None]
