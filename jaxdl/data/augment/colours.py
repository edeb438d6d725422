"""Noise, grey levels and colours."""

import jax
import jax.numpy as jnp
from jax import random
from jaxtyping import Array, Float, PRNGKeyArray

from jaxdl.data.augment.per_image import (
    Augment,
    Range,
    check,
    check_amplitudes,
    check_range,
    per_image,
    symmetric,
)
from jaxdl.types import Scalar


def gaussian_noise(sd: Scalar) -> Augment:
    """Adds N(0, sd²) to every value, in the images' units; nothing is clipped.

    Raises:
      ValueError: for a negative deviation.
    """
    check_amplitudes(sd=sd)
    return per_image(lambda key, image: image + sd * random.normal(key, image.shape))


def grey_levels(brightness: Scalar, contrast: Scalar) -> Augment:
    """Random brightness ``x -> a x``, then contrast ``x -> g + b (x - g)``, on 0..255.

    ``a`` is uniform in 1 ± brightness and ``b`` in 1 ± contrast, not below 0; ``g`` is the image's
    mean grey level. A colour's grey level is its luma .299 R + .587 G + .114 B (ITU-R BT.601), and
    the channels' mean where they are not three. Each result is clipped to 0..255.

    Raises:
      ValueError: for negative amplitudes.
    """
    check_amplitudes(brightness=brightness, contrast=contrast)
    return per_image(lambda key, image: _tones(key, image, brightness, contrast))


def colour(brightness: Scalar, contrast: Scalar, saturation: Scalar, hue: Scalar) -> Augment:
    """``grey_levels``, then random saturation ``x -> g + s (x - g)``, then hue, on RGB 0..255.

    Here ``g`` is each pixel's own grey level, and ``s`` is uniform in 1 ± saturation, not below 0.
    The hue turns by up to ±``hue`` of the circle, value and chroma staying (HSV).

    Raises:
      ValueError: for negative amplitudes, a hue above 0.5; in use, for other than 3 channels.
    """
    check_amplitudes(brightness=brightness, contrast=contrast, saturation=saturation, hue=hue)
    check(hue <= 0.5, f"a hue of ±{hue} circles; it must be 0.5 or less")

    def change_image(key: PRNGKeyArray, image: Array) -> Array:
        check(image.shape[-1] == 3, f"colour needs 3 channels, got {image.shape[-1]}")
        tones, chroma, turn = random.split(key, 3)
        image = _tones(tones, image, brightness, contrast)
        image = _away_from(_grey(image), image, _factor(chroma, saturation))
        return _turn_hue(image, symmetric(turn, hue))

    return per_image(change_image)


def posterize(bits: tuple[int, int]) -> Augment:
    """Keeps the highest n bits of each value 0..255, n drawn from ``bits``, ends included.

    Raises:
      ValueError: unless 1 <= low <= high <= 8.
    """
    low, high = bits
    check(1 <= low <= high <= 8, f"posterizing to {low} to {high} bits; it must be within 1 to 8")

    def change_image(key: PRNGKeyArray, image: Array) -> Array:
        step = 2.0 ** (8 - random.randint(key, (), low, high + 1))
        return jnp.floor(image / step) * step

    return per_image(change_image)


def solarize(threshold: Range) -> Augment:
    """``x -> 255 - x`` from a threshold upwards that is drawn from this range, on 0..255.

    Raises:
      ValueError: for a range that does not rise.
    """
    low, high = threshold
    check_range(threshold=threshold)

    def change_image(key: PRNGKeyArray, image: Array) -> Array:
        return jnp.where(image < random.uniform(key, minval=low, maxval=high), image, 255 - image)

    return per_image(change_image)


def invert(probability: Scalar) -> Augment:
    """``x -> 255 - x``, on 0..255, with this probability.

    Raises:
      ValueError: for a probability below 0 or above 1.
    """
    check((probability >= 0) & (probability <= 1), f"probability is {probability}; 0 to 1")

    def change_image(key: PRNGKeyArray, image: Array) -> Array:
        return jnp.where(random.bernoulli(key, probability), 255 - image, image)

    return per_image(change_image)


def channel_levels(contrast: Scalar, brightness: Scalar) -> Augment:
    """``x -> 127.5 + a (x - 127.5) + b`` with an ``a`` and a ``b`` for each channel, on 0..255.

    ``a`` is uniform in 1 ± contrast, not below 0, ``b`` in ± brightness, in grey levels; so the
    tint changes, too. The result is clipped to 0..255.

    Raises:
      ValueError: for negative amplitudes.
    """
    check_amplitudes(contrast=contrast, brightness=brightness)

    def change_image(key: PRNGKeyArray, image: Array) -> Array:
        slope, level = random.split(key)
        channels = 1, 1, image.shape[-1]
        a = jnp.maximum(1 + symmetric(slope, contrast, channels), 0)
        b = symmetric(level, brightness, channels)
        return jnp.clip(127.5 + a * (image - 127.5) + b, 0, 255)

    return per_image(change_image)


def autocontrast() -> Augment:
    """Stretches each channel to 0..255; one of a single value stays. Nothing is random."""

    def change_image(key: PRNGKeyArray, image: Array) -> Array:
        low, high = image.min((0, 1), keepdims=True), image.max((0, 1), keepdims=True)
        return jnp.where(
            high > low, 255 * (image - low) / jnp.where(high > low, high - low, 1), image
        )

    return per_image(change_image)


def equalize() -> Augment:
    """Makes each channel's histogram as level as can be, on 0..255. Nothing is random.

    With ``before(v)`` pixels below level v and ``step`` = (pixels - those of the highest level) //
    255, v becomes (step // 2 + before(v)) // step, as in Pillow; values are rounded first.
    """

    def plane(values: Float[Array, "h w"]) -> Float[Array, "h w"]:
        level = jnp.clip(jnp.round(values), 0, 255).astype(jnp.int32)
        counts = jnp.zeros(256, jnp.int32).at[level].add(1)
        step = (level.size - counts[level.max()]) // 255
        upto = jnp.cumsum(counts)
        table = (step // 2 + upto - counts) // jnp.maximum(step, 1)
        return jnp.where(step > 0, jnp.clip(table, 0, 255)[level], values)

    return per_image(lambda key, image: jax.vmap(plane, -1, -1)(image))


def _tones(key: PRNGKeyArray, image: Array, brightness: Scalar, contrast: Scalar) -> Array:
    gain, stretch = random.split(key)
    image = jnp.clip(_factor(gain, brightness) * image, 0, 255)
    return _away_from(_grey(image).mean(), image, _factor(stretch, contrast))


def _grey(image: Float[Array, "h w c"]) -> Float[Array, "h w 1"]:
    if image.shape[-1] != 3:
        return image.mean(-1, keepdims=True)
    red, green, blue = jnp.split(image, 3, -1)
    return 0.299 * red + 0.587 * green + 0.114 * blue


def _away_from(grey: Array, image: Array, factor: Array) -> Array:
    return jnp.clip(grey + factor * (image - grey), 0, 255)


def _factor(key: PRNGKeyArray, amplitude: Scalar) -> Array:
    return jnp.maximum(1 + symmetric(key, amplitude), 0)


def _turn_hue(image: Float[Array, "h w 3"], turn: Float[Array, ""]) -> Float[Array, "h w 3"]:
    """Red, green and blue are ramps of the hue, each a third of the circle after the last."""
    red, green, blue = jnp.moveaxis(image, -1, 0)
    value, chroma = image.max(-1), image.max(-1) - image.min(-1)
    positive = jnp.where(chroma > 0, chroma, 1)
    # Which one is largest, and not which one equals the largest: a compiler may compute an image
    # once for each use, and round it differently.
    sixths = jnp.where(
        (red >= green) & (red >= blue),
        (green - blue) / positive,
        jnp.where(green >= blue, 2 + (blue - red) / positive, 4 + (red - green) / positive),
    )
    phase = jnp.mod(sixths[..., None] + 6 * turn + 5 - 2 * jnp.arange(3)[None, None], 6)
    ramp = jnp.clip(jnp.minimum(phase, 4 - phase), 0, 1)
    return value[..., None] - chroma[..., None] * ramp
