"""Crops and warps, which move a mask with its image."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax, random
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, Float, Num, PRNGKeyArray

from jaxdl.data.augment.per_image import (
    Augment,
    Range,
    check,
    check_amplitudes,
    check_images,
    check_mask,
    check_range,
    integer_below,
    per_image,
    symmetric,
)
from jaxdl.types import Scalar

EDGES = {"constant": "constant", "nearest": "edge", "mirror": "reflect"}
"""SciPy's name of each rule for what lies outside an image -> NumPy's name."""


def check_edge(edge: str) -> None:
    """Raise ValueError for an unknown rule."""
    check(edge in EDGES, f"unknown edge {edge!r}; choose one of {', '.join(EDGES)}")


def crop_and_flip(
    size: int,
    *,
    padding: int = 0,
    flip: bool = True,
    edge: str = "constant",
    fill: float = 0.0,
) -> Augment:
    """A random ``size x size`` piece, mirrored left to right in half of the cases.

    With larger images it is what Caffe trains on (Krizhevsky et al. 2012: 224 of 256 pixels); with
    ``padding`` pixels on every side first, what He et al. 2016 train CIFAR on (32, padding 4).
    All places are equally likely.

    Raises:
      ValueError: for a size below 1, negative padding or an unknown edge; in use, for images that
        are smaller than the crop even with the padding.
    """
    check(size >= 1, f"a crop of {size} pixels; it must be 1 or more")
    check_amplitudes(padding=padding)
    check_edge(edge)
    widths = ((padding, padding), (padding, padding), (0, 0))

    def change_image(key: PRNGKeyArray, image: Array, fill: float) -> Array:
        if padding:
            options = {"constant_values": fill} if edge == "constant" else {}
            image = jnp.pad(image, widths, EDGES[edge], **options)
        spare = _spare(image.shape, size)
        down, right, mirror = random.split(key, 3)
        top, left = integer_below(down, spare[0] + 1), integer_below(right, spare[1] + 1)
        piece = lax.dynamic_slice(image, (top, left, 0), (size, size, image.shape[-1]))
        return jnp.where(random.bernoulli(mirror), piece[:, ::-1], piece) if flip else piece

    return per_image(change_image, any_dtype=True, fill=fill)


def centre_crop(size: int) -> Augment:
    """The middle ``size x size`` pixels, for evaluation; an odd rest is larger below and right.

    Nothing is random: the key may be None.

    Raises:
      ValueError: for a size below 1; in use, for images smaller than the crop.
    """
    check(size >= 1, f"a crop of {size} pixels; it must be 1 or more")

    def augment(key: PRNGKeyArray | None, images: Array, mask: Array | None = None) -> Any:
        check_images(images, any_dtype=True)
        top, left = (rest // 2 for rest in _spare(images.shape[1:], size))
        window = (slice(None), slice(top, top + size), slice(left, left + size))
        if mask is None:
            return images[window]
        check_mask(images, mask)
        return images[window], mask[window]

    return augment


def _spare(shape: Sequence[int], size: int) -> tuple[int, int]:
    height, width, _ = shape
    check(min(height, width) >= size, f"no crop of {size} pixels in images of {height} x {width}")
    return height - size, width - size


def affine(
    images: Float[Array, "b h w c"],
    matrix: Float[Array, "b 2 2"],
    shift: Float[Array, "b 2"],
    *,
    edge: str = "constant",
    fill: float = 0.0,
) -> Float[Array, "b h w c"]:
    """Images under given affine maps: ``y[p] = x[m + matrix (p - m - shift)]``, interpolated.

    ``p`` is (row, column), ``m`` the image's centre, interpolation bilinear. So ``matrix`` leads
    back from the result to the image, and ``shift`` moves the result down and right, in pixels.

    Raises:
      ValueError: for images that are not floats [b, h, w, c] and for an unknown edge.
    """
    check_images(images)
    check_edge(edge)
    return jax.vmap(lambda x, m, s: _affine(x, m, s, edge, fill))(images, matrix, shift)


def similarity(
    rotation: Scalar,
    scale: Range,
    translation: tuple[Scalar, Scalar],
    *,
    edge: str = "constant",
    fill: float = 0.0,
) -> Augment:
    """Random rotation and scaling about the centre, then a shift.

    Args:
      rotation: greatest angle in either direction, degrees.
      scale: the range of the magnification; above 1 things grow.
      translation: greatest shift in either direction, parts of (height, width).

    Raises:
      ValueError: for negative amplitudes, a scale that is not 0 < low <= high, an unknown edge.
    """
    low, high = scale
    down, right = translation
    check_amplitudes(rotation=rotation, translation_down=down, translation_right=right)
    check_range(scale=scale)
    check(low > 0, f"scale from {low}; it must be above 0")
    check_edge(edge)

    def change_image(key: PRNGKeyArray, image: Array, fill: float) -> Array:
        height, width = image.shape[:2]
        turn, zoom, rows, columns = random.split(key, 4)
        angle = jnp.radians(symmetric(turn, rotation))
        size = random.uniform(zoom, minval=low, maxval=high)
        cos, sin = jnp.cos(angle) / size, jnp.sin(angle) / size
        shift = height * symmetric(rows, down), width * symmetric(columns, right)
        # Rows run downwards: this turns anticlockwise as the image is seen.
        return _affine(image, ((cos, sin), (-sin, cos)), shift, edge, fill)

    return per_image(change_image, fill=fill)


def shear(
    vertical: Scalar, horizontal: Scalar, *, edge: str = "constant", fill: float = 0.0
) -> Augment:
    """Random shear: a row moves by its distance from the centre, times up to ±``horizontal``.

    ``vertical`` does the same to columns.

    Raises:
      ValueError: for negative amplitudes and an unknown edge.
    """
    check_amplitudes(vertical=vertical, horizontal=horizontal)
    check_edge(edge)

    def change_image(key: PRNGKeyArray, image: Array, fill: float) -> Array:
        rows, columns = random.split(key)
        inverse = (1, symmetric(rows, vertical)), (symmetric(columns, horizontal), 1)
        return _affine(image, inverse, (0, 0), edge, fill)

    return per_image(change_image, fill=fill)


def elastic(
    amplitude: Scalar, smoothness: float, *, edge: str = "constant", fill: float = 0.0
) -> Augment:
    """Elastic deformation (Simard, Steinkraus & Platt 2003): ``y[p] = x[p + amplitude G u[p]]``.

    ``u`` is uniform in [-1, 1] at every pixel for either direction, ``G`` smooths with a Gaussian
    (zero outside the image, cut off at 4 deviations). The paper's values for MNIST are amplitude
    34 and smoothness 4, which moves pixels by 1.4 in root mean square away from the border.

    Args:
      amplitude: amplitude of the displacement before smoothing, pixels.
      smoothness: standard deviation of the Gaussian, pixels.

    Raises:
      ValueError: for a negative amplitude, a smoothness that is not positive, an unknown edge.
    """
    check_amplitudes(amplitude=amplitude, smoothness=smoothness)
    check(smoothness > 0, "a smoothness of 0 pixels; it must be above 0")
    check_edge(edge)

    def change_image(key: PRNGKeyArray, image: Array, fill: float) -> Array:
        height, width = image.shape[:2]
        field = symmetric(key, 1, (2, height, width))
        # Two products with band matrices: unlike convolutions these are fast in loops on the CPU.
        # At full precision, as a GPU's default would cost a thousandth of each displacement.
        down, along = _smoothing(height, smoothness), _smoothing(width, smoothness)
        field = jnp.einsum("ai,dij,bj->dab", down, field, along, precision="highest") * amplitude
        rows, columns = jnp.arange(height)[:, None], jnp.arange(width)[None]
        rows, columns = rows + field[0], columns + field[1]
        return _sample(image, rows, columns, edge, fill)

    return per_image(change_image, fill=fill)


def _smoothing(size: int, deviation: float) -> Float[np.ndarray, "size size"]:
    """The matrix that convolves ``size`` values with a Gaussian, zeros around them."""
    reach = int(4 * deviation + 0.5)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / deviation) ** 2)
    distance = np.abs(np.subtract.outer(np.arange(size), np.arange(size)))
    matrix = np.exp(-0.5 * (distance / deviation) ** 2) * (distance <= reach)
    return (matrix / weights.sum()).astype(np.float32)


def _affine(
    image: Num[Array, "h w c"],
    matrix: Sequence[Sequence[Scalar]] | Float[Array, "2 2"],
    shift: Sequence[Scalar] | Float[Array, " 2"],
    edge: str,
    fill: float,
) -> Num[Array, "h w c"]:
    # Number by number: a GPU's matrix product has not the precision that places need, and an array
    # made here would be a constant, which vmap of a switch inside shard_map trips over (`augmix`).
    height, width = image.shape[:2]
    down, right = (height - 1) / 2, (width - 1) / 2
    y, x = jnp.arange(height)[:, None], jnp.arange(width)[None]
    y, x = y - down - shift[0], x - right - shift[1]
    rows = down + y * matrix[0][0] + x * matrix[0][1]
    columns = right + y * matrix[1][0] + x * matrix[1][1]
    return _sample(image, rows, columns, edge, fill)


def _sample(
    image: Num[Array, "h w c"],
    rows: Float[Array, "oh ow"],
    columns: Float[Array, "oh ow"],
    edge: str,
    fill: float,
) -> Num[Array, "oh ow c"]:
    """The image at these places: bilinearly, or of integers the nearest pixel."""
    order = 1 if jnp.issubdtype(image.dtype, jnp.floating) else 0

    def plane(values: Num[Array, "h w"]) -> Num[Array, "oh ow"]:
        return map_coordinates(values, [rows, columns], order=order, mode=edge, cval=fill)

    return jax.vmap(plane, -1, -1)(image)
