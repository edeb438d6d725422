"""Changes of one image, made changes of a batch: keys, masks, and checks of arguments."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax, random
from jaxtyping import Array, Float, PRNGKeyArray

from jaxdl.types import Scalar

Augment = Callable[..., Any]
"""``augment(key, images) -> images``, ``augment(key, images, mask) -> (images, mask)``."""

Range = tuple[Scalar, Scalar]
"""The ends of a uniform range."""

_Change = Callable[..., Float[Array, "oh ow c"]]
"""``change(key, image)``; ``change(key, image, fill)`` where pixels move."""


def compose(*augments: Augment) -> Augment:
    """Augmentations applied one after the other, in this order, each with its own key; the identity
    for none."""

    def augment(key: PRNGKeyArray, images: Array, mask: Array | None = None) -> Any:
        for part_key, change in zip(
            random.split(key, max(1, len(augments))), augments, strict=False
        ):
            if mask is None:
                images = change(part_key, images)
            else:
                images, mask = change(part_key, images, mask)
        return images if mask is None else (images, mask)

    return augment


def example_keys(key: PRNGKeyArray, batch: int) -> Array:
    """A key for each example of a batch."""
    return jax.vmap(lambda i: random.fold_in(key, i))(jnp.arange(batch))


def per_image(
    change: _Change,
    *,
    any_dtype: bool = False,
    branches: bool = False,
    fill: float | None = None,
    masks: bool = True,
) -> Augment:
    """An augmentation of batches from a change of one image.

    Args:
      branches: whether ``change`` branches by `lax.switch`.
      fill: where pixels move, the value of pixels outside an image.
      masks: whether the change applies to masks, too.
    """
    outside = () if fill is None else (fill,)

    def augment(key: PRNGKeyArray, images: Array, mask: Array | None = None) -> Any:
        check_images(images, any_dtype)
        keys = example_keys(key, len(images))
        if branches:
            # Under vmap every branch of a switch is taken: the way of a GPU, but slow on a CPU.
            changed = lax.platform_dependent(
                keys,
                images,
                cpu=lambda *batch: lax.map(lambda example: change(*example), batch),
                default=lambda *batch: jax.vmap(change)(*batch),
            )
        else:
            changed = jax.vmap(lambda key, image: change(key, image, *outside))(keys, images)
        changed = changed.astype(images.dtype)
        if mask is None:
            return changed
        check(masks, "images are mixed, and no mask can follow")
        check_mask(images, mask)
        if fill is not None:
            unsigned = jnp.issubdtype(mask.dtype, jnp.unsignedinteger)
            missing = jnp.iinfo(mask.dtype).max if unsigned else -1
            moved = jax.vmap(lambda key, m: change(key, m[..., None], missing)[..., 0])(keys, mask)
            mask = moved.astype(mask.dtype)
        return changed, mask

    return augment


def symmetric(key: PRNGKeyArray, amplitude: Scalar, shape: tuple[int, ...] = ()) -> Array:
    """Numbers drawn evenly from ``-amplitude`` to ``amplitude``."""
    return random.uniform(key, shape, minval=-1, maxval=1) * amplitude


def integer_below(key: PRNGKeyArray, end: int) -> Array:
    """An integer drawn evenly from 0 to ``end - 1``."""
    return random.randint(key, (), 0, end)


def check(fine: Any, problem: str) -> None:
    """Raise ValueError unless ``fine``, which is not looked at where it is traced."""
    if not isinstance(fine, jax.core.Tracer) and not fine:
        raise ValueError(f"augmentation: {problem}")


def check_amplitudes(**amplitudes: Scalar) -> None:
    """Raise ValueError for one that is negative or not finite."""
    for name, value in amplitudes.items():
        fine = (value >= 0) & (value < math.inf)  # neither holds of NaN
        check(fine, f"{name} is {value}; it must be 0 or more, and finite")


def check_range(**ranges: Range) -> None:
    """Raise ValueError for ends that are not finite or in the wrong order."""
    for name, (low, high) in ranges.items():
        fine = (-math.inf < low) & (low <= high) & (high < math.inf)
        check(fine, f"{name} from {low} to {high} is no range")


def check_alpha(alpha: Scalar) -> None:
    """Raise ValueError for a wrong parameter of a Beta distribution."""
    check((alpha > 0) & (alpha < math.inf), f"alpha is {alpha}; it must be above 0, and finite")


def check_images(images: Array, any_dtype: bool = False) -> None:
    """Raise ValueError for arrays other than batches of images."""
    fine = images.ndim == 4 and (any_dtype or jnp.issubdtype(images.dtype, jnp.floating))
    description = f"{images.dtype}{list(images.shape)}"
    check(fine, f"images are {description}; expected floats [batch, height, width, channels]")


def check_mask(images: Array, mask: Array) -> None:
    """Raise ValueError for a mask that does not fit the images."""
    fine = jnp.issubdtype(mask.dtype, jnp.integer) and mask.shape == images.shape[:-1]
    description = f"{mask.dtype}{list(mask.shape)}"
    check(fine, f"the mask is {description}; expected integers {list(images.shape[:-1])}")


def check_labelled(images: Array, labels: Array, alpha: Scalar) -> None:
    """Raise ValueError for images or labels that cannot be mixed."""
    check_alpha(alpha)
    check_images(images)
    fine = labels.ndim == 2 and jnp.issubdtype(labels.dtype, jnp.floating)
    description = f"{labels.dtype}{list(labels.shape)}"
    check(
        fine and len(labels) == len(images),
        f"labels are {description}; expected float distributions [{len(images)}, classes], as "
        "one-hot is",
    )
