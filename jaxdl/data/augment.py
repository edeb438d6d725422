"""Augmentation on the device: random changes of a batch of images, as pure functions of a key.

``crop_and_flip(...)``, ``similarity(...)`` and the other makers give an ``Augment``, a function
``(key, images) -> images`` that works under jit, vmap (over members, say) and scan. With a mask,
``(key, images, mask) -> (images, mask)``, integers [batch, height, width], crops and warps move it
with its image, by the nearest pixel; what comes from outside is -1, or 255 in bytes: missing.
Other changes leave it as it is. ``compose`` chains them. ``mixup`` and ``cutmix`` change labels
too, so they are functions of their own.

Images are floats [batch, height, width, channels]. Crops, warps, noise, MixUp and CutMix take any
scale, so also images whose mean is subtracted; what changes grey levels or colours says so, takes
0..255 and gives 0..255. Crops take any dtype; the dtype stays.

Example i draws from ``fold_in(key, i)``: its draws depend on its place in the batch, not on the
batch's size. Inside ``shard_map`` every device counts from 0, so fold its index into the key first.

Strengths (angles, ranges, deviations, alpha) may be scalar arrays, so that members of a population
can differ in them. A traced one is not checked; sizes and smoothness must be numbers.

Where a warp reads outside the image, ``edge`` decides: "constant" reads ``fill``, "nearest" the
nearest pixel, "mirror" the image reflected about the centre of its border pixels.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax, random
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from jaxdl.types import Scalar

Augment = Callable[..., Any]
"""``augment(key, images) -> images``, ``augment(key, images, mask) -> (images, mask)``."""

Range = tuple[Scalar, Scalar]
"""The ends of a uniform range."""

_One = Callable[..., Float[Array, "oh ow c"]]
"""``one(key, image)`` and, of what moves pixels, ``one(key, image, fill)``."""

EDGES = {"constant": "constant", "nearest": "edge", "mirror": "reflect"}
"""SciPy's name of each rule for what lies outside an image -> NumPy's name."""


def compose(*augments: Augment) -> Augment:
    """One after the other, the first first, each with a key of its own; none is the identity."""

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


# Crops


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
    _check(size >= 1, f"a crop of {size} pixels; it must be 1 or more")
    _check_amplitudes(padding=padding)
    _check_edge(edge)
    around = ((padding, padding), (padding, padding), (0, 0))

    def one(key: PRNGKeyArray, image: Array, fill: float) -> Array:
        if padding:
            options = {"constant_values": fill} if edge == "constant" else {}
            image = jnp.pad(image, around, EDGES[edge], **options)
        spare = _spare(image.shape, size)
        down, right, mirror = random.split(key, 3)
        top, left = _below(down, spare[0] + 1), _below(right, spare[1] + 1)
        piece = lax.dynamic_slice(image, (top, left, 0), (size, size, image.shape[-1]))
        return jnp.where(random.bernoulli(mirror), piece[:, ::-1], piece) if flip else piece

    return _each(one, any_dtype=True, fill=fill)


def centre_crop(size: int) -> Augment:
    """The middle ``size x size`` pixels, for evaluation; an odd rest is larger below and right.

    Nothing is random: the key may be None.

    Raises:
      ValueError: for a size below 1; in use, for images smaller than the crop.
    """
    _check(size >= 1, f"a crop of {size} pixels; it must be 1 or more")

    def augment(key: PRNGKeyArray | None, images: Array, mask: Array | None = None) -> Any:
        _check_images(images, any_dtype=True)
        top, left = (rest // 2 for rest in _spare(images.shape[1:], size))
        window = (slice(None), slice(top, top + size), slice(left, left + size))
        if mask is None:
            return images[window]
        _check_mask(images, mask)
        return images[window], mask[window]

    return augment


def _spare(shape: Sequence[int], size: int) -> tuple[int, int]:
    height, width, _ = shape
    _check(min(height, width) >= size, f"no crop of {size} pixels in images of {height} x {width}")
    return height - size, width - size


# Warps


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
    _check_images(images)
    _check_edge(edge)
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
      rotation: at most so many degrees in either direction.
      scale: the range of the magnification; above 1 things grow.
      translation: at most such parts of (height, width) in either direction.

    Raises:
      ValueError: for negative amplitudes, a scale that is not 0 < low <= high, an unknown edge.
    """
    low, high = scale
    down, right = translation
    _check_amplitudes(rotation=rotation, translation_down=down, translation_right=right)
    _check_range(scale=scale)
    _check(low > 0, f"scale from {low}; it must be above 0")
    _check_edge(edge)

    def one(key: PRNGKeyArray, image: Array, fill: float) -> Array:
        height, width = image.shape[:2]
        turn, zoom, rows, columns = random.split(key, 4)
        angle = jnp.radians(_within(turn, rotation))
        size = random.uniform(zoom, minval=low, maxval=high)
        cos, sin = jnp.cos(angle) / size, jnp.sin(angle) / size
        shift = height * _within(rows, down), width * _within(columns, right)
        # Rows run downwards: this turns anticlockwise as the image is seen.
        return _affine(image, ((cos, sin), (-sin, cos)), shift, edge, fill)

    return _each(one, fill=fill)


def shear(
    vertical: Scalar, horizontal: Scalar, *, edge: str = "constant", fill: float = 0.0
) -> Augment:
    """Random shear: a row moves by its distance from the centre, times up to ±``horizontal``.

    ``vertical`` does the same to columns.

    Raises:
      ValueError: for negative amplitudes and an unknown edge.
    """
    _check_amplitudes(vertical=vertical, horizontal=horizontal)
    _check_edge(edge)

    def one(key: PRNGKeyArray, image: Array, fill: float) -> Array:
        rows, columns = random.split(key)
        back = (1, _within(rows, vertical)), (_within(columns, horizontal), 1)
        return _affine(image, back, (0, 0), edge, fill)

    return _each(one, fill=fill)


def elastic(
    amplitude: Scalar, smoothness: float, *, edge: str = "constant", fill: float = 0.0
) -> Augment:
    """Elastic deformation (Simard, Steinkraus & Platt 2003): ``y[p] = x[p + amplitude G u[p]]``.

    ``u`` is uniform in [-1, 1] at every pixel for either direction, ``G`` smooths with a Gaussian
    (zero outside the image, cut off at 4 deviations). The paper's values for MNIST are amplitude
    34 and smoothness 4, which moves pixels by 1.4 in root mean square away from the border.

    Args:
      amplitude: of the displacement before smoothing, pixels.
      smoothness: standard deviation of the Gaussian, pixels.

    Raises:
      ValueError: for a negative amplitude, a smoothness that is not positive, an unknown edge.
    """
    _check_amplitudes(amplitude=amplitude, smoothness=smoothness)
    _check(smoothness > 0, "a smoothness of 0 pixels; it must be above 0")
    _check_edge(edge)

    def one(key: PRNGKeyArray, image: Array, fill: float) -> Array:
        height, width = image.shape[:2]
        field = _within(key, 1, (2, height, width))
        # Two products with band matrices: unlike convolutions these are fast in loops on the CPU.
        # At full precision, as a GPU's default would cost a thousandth of each displacement.
        down, along = _smoothing(height, smoothness), _smoothing(width, smoothness)
        field = jnp.einsum("ai,dij,bj->dab", down, field, along, precision="highest") * amplitude
        rows, columns = jnp.arange(height)[:, None], jnp.arange(width)[None]
        rows, columns = rows + field[0], columns + field[1]
        return _sample(image, rows, columns, edge, fill)

    return _each(one, fill=fill)


def _smoothing(size: int, deviation: float) -> Float[np.ndarray, "size size"]:
    """The matrix that convolves ``size`` values with a Gaussian, zeros around them."""
    reach = int(4 * deviation + 0.5)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / deviation) ** 2)
    distance = np.abs(np.subtract.outer(np.arange(size), np.arange(size)))
    matrix = np.exp(-0.5 * (distance / deviation) ** 2) * (distance <= reach)
    return (matrix / weights.sum()).astype(np.float32)


def _affine(
    image: Float[Array, "h w c"],
    matrix: Sequence[Sequence[Scalar]] | Float[Array, "2 2"],
    shift: Sequence[Scalar] | Float[Array, " 2"],
    edge: str,
    fill: float,
) -> Float[Array, "h w c"]:
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
    image: Float[Array, "h w c"],
    rows: Float[Array, "oh ow"],
    columns: Float[Array, "oh ow"],
    edge: str,
    fill: float,
) -> Float[Array, "oh ow c"]:
    """The image at these places: bilinearly, or of integers the nearest pixel."""
    order = 1 if jnp.issubdtype(image.dtype, jnp.floating) else 0

    def plane(values: Float[Array, "h w"]) -> Float[Array, "oh ow"]:
        return map_coordinates(values, [rows, columns], order=order, mode=edge, cval=fill)

    return jax.vmap(plane, -1, -1)(image)


# Grey levels and colours


def gaussian_noise(sd: Scalar) -> Augment:
    """Adds N(0, sd²) to every value, in the images' units; nothing is clipped.

    Raises:
      ValueError: for a negative deviation.
    """
    _check_amplitudes(sd=sd)
    return _each(lambda key, image: image + sd * random.normal(key, image.shape))


def grey_levels(brightness: Scalar, contrast: Scalar) -> Augment:
    """Random brightness ``x -> a x``, then contrast ``x -> g + b (x - g)``, on 0..255.

    ``a`` is uniform in 1 ± brightness and ``b`` in 1 ± contrast, not below 0; ``g`` is the image's
    mean grey level. A colour's grey level is its luma .299 R + .587 G + .114 B (ITU-R BT.601), and
    the channels' mean where they are not three. Each result is clipped to 0..255.

    Raises:
      ValueError: for negative amplitudes.
    """
    _check_amplitudes(brightness=brightness, contrast=contrast)
    return _each(lambda key, image: _tones(key, image, brightness, contrast))


def colour(brightness: Scalar, contrast: Scalar, saturation: Scalar, hue: Scalar) -> Augment:
    """``grey_levels``, then random saturation ``x -> g + s (x - g)``, then hue, on RGB 0..255.

    Here ``g`` is each pixel's own grey level, and ``s`` is uniform in 1 ± saturation, not below 0.
    The hue turns by up to ±``hue`` of the circle, value and chroma staying (HSV).

    Raises:
      ValueError: for negative amplitudes, a hue above 0.5; in use, for other than 3 channels.
    """
    _check_amplitudes(brightness=brightness, contrast=contrast, saturation=saturation, hue=hue)
    _check(hue <= 0.5, f"a hue of ±{hue} circles; it must be 0.5 or less")

    def one(key: PRNGKeyArray, image: Array) -> Array:
        _check(image.shape[-1] == 3, f"colour needs 3 channels, got {image.shape[-1]}")
        tones, chroma, turn = random.split(key, 3)
        image = _tones(tones, image, brightness, contrast)
        image = _away_from(_grey(image), image, _factor(chroma, saturation))
        return _turn_hue(image, _within(turn, hue))

    return _each(one)


def posterize(bits: tuple[int, int]) -> Augment:
    """Keeps the highest n bits of each value 0..255, n drawn from ``bits``, ends included.

    Raises:
      ValueError: unless 1 <= low <= high <= 8.
    """
    low, high = bits
    _check(1 <= low <= high <= 8, f"posterizing to {low} to {high} bits; it must be within 1 to 8")

    def one(key: PRNGKeyArray, image: Array) -> Array:
        step = 2.0 ** (8 - random.randint(key, (), low, high + 1))
        return jnp.floor(image / step) * step

    return _each(one)


def solarize(threshold: Range) -> Augment:
    """``x -> 255 - x`` from a threshold upwards that is drawn from this range, on 0..255.

    Raises:
      ValueError: for a range that does not rise.
    """
    low, high = threshold
    _check_range(threshold=threshold)

    def one(key: PRNGKeyArray, image: Array) -> Array:
        return jnp.where(image < random.uniform(key, minval=low, maxval=high), image, 255 - image)

    return _each(one)


def invert(probability: Scalar) -> Augment:
    """``x -> 255 - x``, on 0..255, for so many of the images.

    Raises:
      ValueError: for a probability below 0 or above 1.
    """
    _check((probability >= 0) & (probability <= 1), f"probability is {probability}; 0 to 1")

    def one(key: PRNGKeyArray, image: Array) -> Array:
        return jnp.where(random.bernoulli(key, probability), 255 - image, image)

    return _each(one)


def channel_levels(contrast: Scalar, brightness: Scalar) -> Augment:
    """``x -> 127.5 + a (x - 127.5) + b`` with an ``a`` and a ``b`` for each channel, on 0..255.

    ``a`` is uniform in 1 ± contrast, not below 0, ``b`` in ± brightness, in grey levels; so the
    tint changes, too. The result is clipped to 0..255.

    Raises:
      ValueError: for negative amplitudes.
    """
    _check_amplitudes(contrast=contrast, brightness=brightness)

    def one(key: PRNGKeyArray, image: Array) -> Array:
        slope, level = random.split(key)
        channels = 1, 1, image.shape[-1]
        a = jnp.maximum(1 + _within(slope, contrast, channels), 0)
        b = _within(level, brightness, channels)
        return jnp.clip(127.5 + a * (image - 127.5) + b, 0, 255)

    return _each(one)


def autocontrast() -> Augment:
    """Stretches each channel to 0..255; one of a single value stays. Nothing is random."""

    def one(key: PRNGKeyArray, image: Array) -> Array:
        low, high = image.min((0, 1), keepdims=True), image.max((0, 1), keepdims=True)
        return jnp.where(
            high > low, 255 * (image - low) / jnp.where(high > low, high - low, 1), image
        )

    return _each(one)


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

    return _each(lambda key, image: jax.vmap(plane, -1, -1)(image))


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
    return jnp.maximum(1 + _within(key, amplitude), 0)


def _turn_hue(image: Float[Array, "h w 3"], turn: Float[Array, ""]) -> Float[Array, "h w 3"]:
    """Red, green and blue are ramps of the hue, each a third of the circle after the last."""
    red, green, blue = jnp.moveaxis(image, -1, 0)
    value, chroma = image.max(-1), image.max(-1) - image.min(-1)
    positive = jnp.where(chroma > 0, chroma, 1)
    sixths = jnp.where(
        value == red,
        (green - blue) / positive,
        jnp.where(value == green, 2 + (blue - red) / positive, 4 + (red - green) / positive),
    )
    place = jnp.mod(sixths[..., None] + 6 * turn + 5 - 2 * jnp.arange(3)[None, None], 6)
    ramp = jnp.clip(jnp.minimum(place, 4 - place), 0, 1)
    return value[..., None] - chroma[..., None] * ramp


# Erasing and mixing


def cutout(size: int, *, fill: float = 0.0) -> Augment:
    """Sets a square to ``fill`` (DeVries & Taylor 2017); its centre is any pixel, all alike.

    So the square may reach over the border. The paper fills with 0 after the mean is subtracted.

    Raises:
      ValueError: for a negative size.
    """
    _check_amplitudes(size=size)

    def one(key: PRNGKeyArray, image: Array) -> Array:
        hole = _box(key, image.shape[:2], (size, size))
        return jnp.where(hole[..., None], fill, image)

    return _each(one)


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
    _check_labelled(images, labels, alpha)
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
    _check_labelled(images, labels, alpha)
    partner, draws = _pairs(key, len(images))
    height, width = images.shape[1:3]

    def box(draw_key: PRNGKeyArray) -> Bool[Array, "h w"]:
        area, place = random.split(draw_key)
        part = jnp.sqrt(1 - random.beta(area, alpha, alpha))
        sides = [jnp.floor(part * n).astype(jnp.int32) for n in (height, width)]
        return _box(place, (height, width), sides)

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
      operations: to choose from; they must keep the images' shape.

    Raises:
      ValueError: without operations, and unless width, depth and alpha are positive.
    """
    _check(len(operations) > 0, "augmix needs operations")
    _check(width >= 1 and depth >= 1, f"augmix of {width} x {depth} operations; ask for 1 or more")
    _check_alpha(alpha)
    nothing = len(operations)
    branches = [
        *(lambda key, image, change=change: change(key, image[None])[0] for change in operations),
        lambda key, image: image,
    ]

    def one(key: PRNGKeyArray, image: Array) -> Array:
        image = image.astype(jnp.promote_types(image.dtype, jnp.float32))
        shares, mix, chains = random.split(key, 3)
        keep = random.beta(mix, alpha, alpha, dtype=image.dtype)
        weights = random.dirichlet(shares, jnp.full(width, alpha, image.dtype), dtype=image.dtype)

        def chain(total: Array, at: tuple[Array, Array]) -> tuple[Array, None]:
            chain_key, weight = at
            count, steps = random.split(chain_key)
            length = 1 + _below(count, depth)

            def step(changed: Array, at: tuple[Array, Array]) -> tuple[Array, None]:
                place, chain_key = at
                choice_key, operation = random.split(chain_key)
                choice = jnp.where(place < length, _below(choice_key, nothing), nothing)
                return lax.switch(choice, branches, operation, changed), None

            changed, _ = lax.scan(step, image, (jnp.arange(depth), random.split(steps, depth)))
            return total + weight * changed, None

        parts = random.split(chains, width), (1 - keep) * weights
        return lax.scan(chain, keep * image, parts)[0]

    return _each(one, branches=True, masks=False)


def augmix_operations(severity: float) -> tuple[Augment, ...]:
    """The nine operations of AugMix, on 0..255; a severity of 0.3 is the paper's, 1 the most.

    Autocontrast, equalization, posterizing to at least 4 - 4 s bits, solarizing from 256 (1 - s),
    rotation by up to ±30 s degrees, shear by ±0.3 s and shift by ±s / 3 of the side, the last two
    each in either direction. Outside the image it is black.

    Raises:
      ValueError: for a severity outside 0..1.
    """
    _check(0 <= severity <= 1, f"a severity of {severity}; it must be within 0 to 1")
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
    return random.permutation(order, batch), _keys(draws, batch)


def _mix(keep: Array, first: Array, second: Array) -> Array:
    return keep * first + (1 - keep) * second


def _box(
    key: PRNGKeyArray, size: Sequence[int], sides: Sequence[int | Array]
) -> Bool[Array, "h w"]:
    """Whether each pixel is in a box of these sides around a pixel that is drawn evenly."""

    def along(key: PRNGKeyArray, pixels: int, side: int | Array) -> Bool[Array, " pixels"]:
        first = _below(key, pixels) - side // 2
        return (first <= jnp.arange(pixels)) & (jnp.arange(pixels) < first + side)

    rows, columns = map(along, random.split(key), size, sides)
    return rows[:, None] & columns


# What all share


def _keys(key: PRNGKeyArray, batch: int) -> Array:
    return jax.vmap(lambda i: random.fold_in(key, i))(jnp.arange(batch))


def _each(
    one: _One,
    *,
    any_dtype: bool = False,
    branches: bool = False,
    fill: float | None = None,
    masks: bool = True,
) -> Augment:
    """A change of one image, made one of batches.

    Args:
      branches: whether it chooses by `switch`.
      fill: of what moves pixels, what comes from outside an image.
      masks: whether it is known what becomes of a mask.
    """
    outside = () if fill is None else (fill,)

    def augment(key: PRNGKeyArray, images: Array, mask: Array | None = None) -> Any:
        _check_images(images, any_dtype)
        keys = _keys(key, len(images))
        if branches:
            # Under vmap every branch of a switch is taken: the way of a GPU, but slow on a CPU.
            changed = lax.platform_dependent(
                keys,
                images,
                cpu=lambda *batch: lax.map(lambda example: one(*example), batch),
                default=lambda *batch: jax.vmap(one)(*batch),
            )
        else:
            changed = jax.vmap(lambda key, image: one(key, image, *outside))(keys, images)
        changed = changed.astype(images.dtype)
        if mask is None:
            return changed
        _check(masks, "images are mixed, and no mask can follow")
        _check_mask(images, mask)
        if fill is not None:
            unsigned = jnp.issubdtype(mask.dtype, jnp.unsignedinteger)
            missing = jnp.iinfo(mask.dtype).max if unsigned else -1
            moved = jax.vmap(lambda key, m: one(key, m[..., None], missing)[..., 0])(keys, mask)
            mask = moved.astype(mask.dtype)
        return changed, mask

    return augment


def _within(key: PRNGKeyArray, amplitude: Scalar, shape: tuple[int, ...] = ()) -> Array:
    return random.uniform(key, shape, minval=-1, maxval=1) * amplitude


def _below(key: PRNGKeyArray, end: int) -> Array:
    return random.randint(key, (), 0, end)


def _check(fine: Any, problem: str) -> None:
    if not isinstance(fine, jax.core.Tracer) and not fine:
        raise ValueError(f"augmentation: {problem}")


def _check_amplitudes(**amplitudes: Scalar) -> None:
    for name, value in amplitudes.items():
        fine = (value >= 0) & (value < math.inf)  # neither holds of NaN
        _check(fine, f"{name} is {value}; it must be 0 or more, and finite")


def _check_range(**ranges: Range) -> None:
    for name, (low, high) in ranges.items():
        fine = (-math.inf < low) & (low <= high) & (high < math.inf)
        _check(fine, f"{name} from {low} to {high} is no range")


def _check_alpha(alpha: Scalar) -> None:
    _check((alpha > 0) & (alpha < math.inf), f"alpha is {alpha}; it must be above 0, and finite")


def _check_edge(edge: str) -> None:
    _check(edge in EDGES, f"unknown edge {edge!r}; choose one of {', '.join(EDGES)}")


def _check_images(images: Array, any_dtype: bool = False) -> None:
    fine = images.ndim == 4 and (any_dtype or jnp.issubdtype(images.dtype, jnp.floating))
    description = f"{images.dtype}{list(images.shape)}"
    _check(fine, f"images are {description}; expected floats [batch, height, width, channels]")


def _check_mask(images: Array, mask: Array) -> None:
    fine = jnp.issubdtype(mask.dtype, jnp.integer) and mask.shape == images.shape[:-1]
    description = f"{mask.dtype}{list(mask.shape)}"
    _check(fine, f"the mask is {description}; expected integers {list(images.shape[:-1])}")


def _check_labelled(images: Array, labels: Array, alpha: Scalar) -> None:
    _check_alpha(alpha)
    _check_images(images)
    fine = labels.ndim == 2 and jnp.issubdtype(labels.dtype, jnp.floating)
    description = f"{labels.dtype}{list(labels.shape)}"
    _check(
        fine and len(labels) == len(images),
        f"labels are {description}; expected float distributions [{len(images)}, classes], as "
        "one-hot is",
    )
