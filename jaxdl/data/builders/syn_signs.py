"""SYN SIGNS: traffic signs of GTSRB's 43 classes, drawn and put before made-up streets.

The source domain of SYN SIGNS → GTSRB in Ganin & Lempitsky, "Unsupervised Domain Adaptation by
Backpropagation" (2015); their 100,000 synthetic signs are Moiseev et al., "Evaluation of Traffic
Sign Recognition Methods Trained on Synthetically Generated Data" (2013). This is a set of the same
kind and not the same images: signs from `sign_drawings`, nothing downloaded.

An image is a drawing seen askew by a pinhole camera, its paint faded, dirty, shaded or partly
hidden, in front of sky, walls, foliage and blurred things; then exposure, haze and colour cast;
defocus and motion blur; the pixels of a coarser camera and its noise.

    import jaxdl.data.builders.syn_signs  # registers the name
    tfds.builder("syn_signs", data_dir=…, file_format="array_record").download_and_prepare()

One core draws 100,000 images in 130 to 160 s of its time (750 to 630 a second, measured over 860
and 8,600 images; the second on a busy machine).
`download_and_prepare` takes about 5 minutes and 350 MB by default (extrapolated from 2,000 images).
"""

import dataclasses
import functools
import math
import operator
from typing import ClassVar

import numpy as np
import scipy.fft
import tensorflow_datasets as tfds
from jaxtyping import Float32, Int32, Int64, UInt8
from scipy.ndimage import gaussian_filter

from jaxdl.data.builders.drawn import DrawnBuilder, DrawnConfig, draw_examples
from jaxdl.data.builders.gtsrb import CLASS_NAMES
from jaxdl.data.builders.sign_drawings import templates
from jaxdl.data.builders.streets import background, chance, clouds, ramp, step, uniform

__all__ = ["CLASS_NAMES", "Distortion", "SynSigns", "SynSignsConfig", "syn_signs", "templates"]

BLOCK = len(CLASS_NAMES)  # examples drawn together, from one random stream


@dataclasses.dataclass(frozen=True)
class Distortion:
    """Ranges in which images of one class differ. Pairs are the ends of uniform ranges."""

    diameter: tuple[float, float] = (0.74, 0.95)  # of a sign, sides of the image
    shift: float = 0.05  # ± sides, each axis
    roll: float = 9.0  # ± degrees in the image's plane
    yaw: float = 38.0  # ± degrees about the vertical
    pitch: float = 15.0  # ± degrees about the horizontal
    distance: tuple[float, float] = (4.0, 15.0)  # of the camera, half widths of the sign
    fade: float = 0.35  # at most this part of the colour is lost
    dirt: float = 0.35  # at most this part of the light is lost where dirt is thickest
    shadow: float = 0.3  # probability of a cast shadow on the sign
    highlight: float = 0.2  # probability of a reflection on the sign
    occluder: float = 0.15  # probability of a leaf or twig over the sign's border
    shade: float = 0.3  # ± change of light from the centre of the image to an edge
    exposure: tuple[float, float] = (0.4, 1.15)  # drawn as its logarithm
    backlight: float = 0.4  # ± natural logarithm of the sign's light to the background's
    haze: float = 0.25  # at most this part of the light is scattered into the path
    cast: float = 0.12  # ± part of each colour channel
    defocus: float = 0.02  # largest standard deviation, sides
    motion: float = 0.07  # longest path during an exposure, sides; half the images have none
    resolution: tuple[float, float] = (0.55, 1.0)  # of the camera, its pixels per pixel of ours
    noise: tuple[float, float] = (0.003, 0.022)  # standard deviation, of the range of grey levels


DISTORTION = Distortion()


def syn_signs(
    split: str,
    count: int,
    *,
    seed: int = 0,
    size: int = 40,
    start: int = 0,
    distortion: Distortion = DISTORTION,
) -> tuple[UInt8[np.ndarray, "count size size 3"], Int32[np.ndarray, " count"]]:
    """Images `start`, …, `start + count - 1` of a split, RGB 0..255, and their labels 0..42.

    Labels run 0, 1, …, 42, 0, 1, … so any 43 images in a row hold every class once. Image i is a
    function of (split, seed, i, size, distortion): asking for more only appends. Another `size`
    (pixels, each side) shows the same scenes. The same arguments give the same bytes as long as
    Pillow, matplotlib's font and NumPy's arithmetic are the same.

    Raises:
      ValueError: `split` is not one of SPLITS, `count` is below 1, `size` below 16 or `start`
        below 0.
      FileNotFoundError: matplotlib is installed without its fonts.
    """
    count, seed, size, start = map(operator.index, (count, seed, size, start))
    if size < 16:
        raise ValueError(f"syn_signs: size is {size}; it must be 16 or more")
    draw = functools.partial(_one_of_each, size=size, d=distortion)
    return draw_examples(draw, BLOCK, "syn_signs", split, count, seed=seed, start=start)


def _one_of_each(
    rng: np.random.Generator, size: int, d: Distortion
) -> tuple[UInt8[np.ndarray, "43 size size 3"], Int32[np.ndarray, "43"]]:
    """A block: every class once. Random numbers that depend on `size` are drawn last."""
    n = BLOCK
    side = scipy.fft.next_fast_len(size + 2 * math.ceil(size / 10))  # blurs wrap around in here
    margin = (side - size) // 2
    axis = ((np.arange(side) - margin + 0.5) / size - 0.5).astype(np.float32)
    x, y = axis[:, None], axis[:, None, None]  # (w, 1) and (h, 1, 1), for (n, h, w, channel)

    shift = uniform(rng, n, -d.shift, d.shift, 2)
    u, v = _sign_plane(rng, n, axis, shift, d)
    sign = _sample(_atlas(2 * size), u, v)
    light = 1 + ramp(rng, n, x, y, d.shade)
    scene = background(rng, n, x, y, shift) * light
    colour, cover = _weathered(rng, sign, u, v, side, d)
    scene += cover * (colour * light - scene)
    scene = _exposed(rng, scene, cover, d)
    scene = _blurred(rng, scene, size, d)
    scene = _resampled(rng, scene[:, margin : margin + size, margin : margin + size], d)
    return np.rint(255 * np.clip(scene, 0, 1)).astype(np.uint8), np.arange(n, dtype=np.int32)


# --- The sign -------------------------------------------------------------------------------------


@functools.cache
def _atlas(side: int) -> Float32[np.ndarray, "43 side side 4"]:
    """The drawings 0..1, colours multiplied by alpha, smoothed against aliasing."""
    signs = templates(side).astype(np.float32) / 255
    signs[..., :3] *= signs[..., 3:]
    signs = gaussian_filter(signs, (0, 0.8, 0.8, 0))
    signs[:, [0, -1]] = signs[:, :, [0, -1]] = 0  # what lies outside a drawing is its edge
    return signs


def _sign_plane(
    rng: np.random.Generator,
    n: int,
    axis: Float32[np.ndarray, " side"],
    shift: Float32[np.ndarray, "n 1 1 2"],
    d: Distortion,
) -> tuple[Float32[np.ndarray, "n side side"], Float32[np.ndarray, "n side side"]]:
    """The point where each pixel's ray meets the sign, in half widths from its centre.

    A point p of the plane, turned by R and at distance D, is seen at D (R p)_xy / (D + (R p)_z):
    a homography, whose inverse is applied to the pixels.
    """

    def turn(degrees, first, second):
        angle = np.radians(rng.uniform(-degrees, degrees, n))
        matrix = np.tile(np.eye(3), (n, 1, 1))
        matrix[:, first, first] = matrix[:, second, second] = np.cos(angle)
        matrix[:, first, second], matrix[:, second, first] = -np.sin(angle), np.sin(angle)
        return matrix

    rotation = turn(d.roll, 0, 1) @ turn(d.pitch, 1, 2) @ turn(d.yaw, 0, 2)
    homography = rotation.copy()
    homography[:, :, 2] = [0, 0, 1]
    homography[:, 2, :2] /= rng.uniform(*d.distance, (n, 1))
    half = rng.uniform(*d.diameter, (n, 1, 1)) / 2
    back = np.linalg.inv(homography).astype(np.float32)[..., None, None]
    across = ((axis - shift[:, 0, :, 0]) / half[:, 0]).astype(np.float32)[:, None, :]
    down = ((axis - shift[:, 0, :, 1]) / half[:, 0]).astype(np.float32)[:, :, None]
    u, v, w = (back[:, i, 0] * across + back[:, i, 1] * down + back[:, i, 2] for i in range(3))
    return u / w, v / w


def _sample(
    atlas: Float32[np.ndarray, "43 cell cell 4"],
    u: Float32[np.ndarray, "43 side side"],
    v: Float32[np.ndarray, "43 side side"],
) -> Float32[np.ndarray, "43 side side 4"]:
    """Each drawing at its points (u, v), bilinear; 0 outside."""
    cell = atlas.shape[1]

    def split(a):
        a = np.clip((a + 1) * (cell / 2) - 0.5, 0, cell - 1.001)
        integers = a.astype(np.int64)
        return integers, (a - integers).astype(np.float32)[..., None]

    (column, u), (row, v) = split(u), split(v)
    at: Int64[np.ndarray, "43 side side"] = row * cell + column
    at += (np.arange(len(atlas)) * cell * cell)[:, None, None]
    flat = atlas.reshape(-1, 4)
    upper = flat[at] * (1 - u) + flat[at + 1] * u
    lower = flat[at + cell] * (1 - u) + flat[at + cell + 1] * u
    return upper * (1 - v) + lower * v


def _weathered(
    rng: np.random.Generator,
    sign: Float32[np.ndarray, "n side side 4"],
    u: Float32[np.ndarray, "n side side"],
    v: Float32[np.ndarray, "n side side"],
    side: int,
    d: Distortion,
) -> tuple[Float32[np.ndarray, "n side side 3"], Float32[np.ndarray, "n side side 1"]]:
    """The sign's colour and coverage after fading, dirt, shadow, reflection and occlusion."""
    n, u, v = len(sign), u[..., None], v[..., None]
    cover = sign[..., 3:]
    colour = sign[..., :3] / np.maximum(cover, 1e-3)
    grey = colour.mean(-1, keepdims=True)
    bleached = 0.75 * grey + 0.15  # faded paint is pale, and black no longer black
    colour = colour + uniform(rng, n, 0, 1) ** 2 * d.fade * (bleached - colour)

    grime = np.clip(0.5 * clouds(rng, n, 5, side) + 0.5 * clouds(rng, n, 14, side), 0, 1)
    grime = grime * uniform(rng, n, 0, 1) ** 2 * d.dirt
    colour = colour * (1 - grime * np.array([0.8, 0.9, 1.0], np.float32))

    # A shadow's edge is a line across the sign, straight or frayed as under a tree.
    turn = uniform(rng, n, 0, 2 * np.pi)
    edge = u * np.cos(turn) + v * np.sin(turn) - uniform(rng, n, -0.7, 0.7)
    edge = edge + chance(rng, n, 0.5) * 0.4 * clouds(rng, n, 6, side)
    depth = chance(rng, n, d.shadow) * uniform(rng, n, 0.25, 0.65)
    colour = colour * (1 - depth * step(edge, 0.12))

    gleam = chance(rng, n, d.highlight) * uniform(rng, n, 0.15, 0.5)
    away = (u - uniform(rng, n, -0.8, 0.8)) ** 2 + (v - uniform(rng, n, -0.8, 0.8)) ** 2
    colour = colour + gleam * np.exp(-away / uniform(rng, n, 0.1, 0.6))

    # A leaf or twig: an ellipse, long or round, that comes in over the rim.
    turn, long = uniform(rng, n, 0, 2 * np.pi), uniform(rng, n, 0.15, 0.5)
    along = (u - 0.9 * np.cos(turn)) * np.cos(turn + 1) + (v - 0.9 * np.sin(turn)) * np.sin(
        turn + 1
    )
    beside = (v - 0.9 * np.sin(turn)) * np.cos(turn + 1) - (u - 0.9 * np.cos(turn)) * np.sin(
        turn + 1
    )
    reach = np.sqrt((along / long) ** 2 + (beside / 0.16) ** 2) + 0.15 * clouds(rng, n, 8, side)
    leaf = chance(rng, n, d.occluder) * step(1 - reach, 0.15)
    green = np.array([0.22, 0.28, 0.12], np.float32) * uniform(rng, n, 0.4, 1.6)
    return colour + leaf * (green - colour), np.maximum(cover, leaf)


# --- The camera -----------------------------------------------------------------------------------


def _exposed(
    rng: np.random.Generator,
    scene: Float32[np.ndarray, "n side side 3"],
    cover: Float32[np.ndarray, "n side side 1"],
    d: Distortion,
) -> Float32[np.ndarray, "n side side 3"]:
    """Haze, light on the sign against light on the scene, colour cast, exposure."""
    n = len(scene)
    log = np.log(d.exposure)
    on_sign = np.exp(uniform(rng, n, *log)) * (1 + uniform(rng, n, -d.cast, d.cast, 3))
    behind = on_sign * np.exp(uniform(rng, n, -d.backlight, d.backlight))
    haze = uniform(rng, n, 0, d.haze)
    return (scene + haze * (0.6 - scene)) * (behind + cover * (on_sign - behind))


def _blurred(
    rng: np.random.Generator, scene: Float32[np.ndarray, "n side side 3"], size: int, d: Distortion
) -> Float32[np.ndarray, "n side side 3"]:
    """Defocus exp(−2π²σ²|f|²) and motion sinc(f · path), applied to the spectrum."""
    n, side = scene.shape[:2]
    sigma = size * uniform(rng, n, 0, d.defocus)
    length = size * chance(rng, n, 0.5) * uniform(rng, n, 0, d.motion)
    turn = uniform(rng, n, 0, np.pi)
    fx = scipy.fft.rfftfreq(side).astype(np.float32)[:, None]
    fy = scipy.fft.fftfreq(side).astype(np.float32)[:, None, None]
    transfer = np.exp(-2 * (np.pi * sigma) ** 2 * (fx**2 + fy**2))
    transfer = transfer * np.sinc(length * (fx * np.cos(turn) + fy * np.sin(turn)))
    spectrum = scipy.fft.rfft2(scene, axes=(1, 2)) * transfer
    return scipy.fft.irfft2(spectrum, (side, side), axes=(1, 2))


def _resampled(
    rng: np.random.Generator, scene: Float32[np.ndarray, "n size size 3"], d: Distortion
) -> Float32[np.ndarray, "n size size 3"]:
    """Seen by a camera of s × s pixels with noise, then enlarged: up (down X down' + ε) up'.

    Images with fewer pixels than the largest keep zero rows and columns, so one product does for
    all. `down` averages over each coarse pixel's area, `up` interpolates linearly.
    """
    n, size = scene.shape[:2]
    pixels = np.rint(size * rng.uniform(*d.resolution, (n, 1, 1))).astype(np.float32)
    fine, coarse = np.arange(size, dtype=np.float32), np.arange(size, dtype=np.float32)[:, None]
    ratio = size / pixels
    overlap = np.minimum((coarse + 1) * ratio, fine + 1) - np.maximum(coarse * ratio, fine)
    down = np.clip(overlap, 0, None) / ratio * (coarse < pixels)
    at = np.clip((fine[:, None] + 0.5) / ratio - 0.5, 0, pixels - 1)
    up = np.clip(1 - np.abs(at - fine), 0, None)
    level = uniform(rng, n, *d.noise).transpose(0, 3, 1, 2)
    planes = scene.transpose(0, 3, 1, 2)
    planes = down[:, None] @ planes @ down[:, None].swapaxes(2, 3)
    noise = rng.standard_normal(planes.shape, np.float32)
    planes = planes + level * (0.5 + np.sqrt(np.clip(planes, 0, 1))) * noise
    return (up[:, None] @ planes @ up[:, None].swapaxes(2, 3)).transpose(0, 2, 3, 1)


# --- The data set ---------------------------------------------------------------------------------


@dataclasses.dataclass(eq=False, kw_only=True)
class SynSignsConfig(DrawnConfig):
    """See :class:`DrawnConfig`; by default as many images as the paper's."""

    dataset = "syn_signs"
    least: ClassVar = {"train": 1, "test": 1, "seed": -math.inf, "size": 16}
    size: int = 40
    """An image's side, 16 pixels or more."""


class SynSigns(DrawnBuilder):
    """The TFDS data set "syn_signs": "image" and "label", splits "train" and "test"."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar = {"1.0.0": "First drawings."}
    BUILDER_CONFIGS: ClassVar = [SynSignsConfig()]
    examples, block, class_names = staticmethod(syn_signs), BLOCK, CLASS_NAMES
    description = "Drawn traffic signs of GTSRB's 43 classes before made-up streets."
