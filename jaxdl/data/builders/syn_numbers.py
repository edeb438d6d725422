"""SYN NUMBERS: coloured numbers drawn from fonts, a synthetic stand-in for SVHN.

After the source domain of that name in Ganin & Lempitsky, "Unsupervised Domain Adaptation by
Backpropagation", ICML 2015: some 500,000 images of numbers of one, two or three digits, with
position, orientation, colours and blur varied. As in SVHN's cropped format, an image is 32×32 in
colour and its label is the digit at the centre, which is whole; the number's other digits stand at
the sides. Theirs are drawn from the fonts of Windows, these from the 21 fonts with usable digits
that matplotlib ships, each at three weights: the data sets are alike, not equal.

Every digit is drawn once in each face at three sizes. An image looks its pixels up in the line of
digits under a random affine map, lays them over a ground of two colours, often with a shadow or an
outline between, then lights, blurs and adds noise. One core draws about 5,000 images a second, so
the paper's 500,000 take 100 seconds; to store them through TFDS takes five to ten minutes.
"""

import dataclasses
import functools
import operator
from pathlib import Path
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Float, Int32, Int64, UInt8
from PIL import Image, ImageDraw, ImageFont

from jaxdl.data.builders.drawn import DrawnBuilder, DrawnConfig, draw_examples

CLASS_NAMES: tuple[str, ...] = tuple("0123456789")
SIDE = 32  # pixels of an image
BLOCK = 100  # examples drawn together, from one random stream


@dataclasses.dataclass(frozen=True)
class Variation:
    """Ranges in which images differ. Pairs are the ends of uniform ranges, colours are 0 to 1."""

    digits: tuple[int, ...] = (1, 2, 3)  # lengths of the numbers, equally likely
    height: tuple[float, float] = (15.0, 27.0)  # of a digit, pixels, where that leaves it whole
    aspect: tuple[float, float] = (0.8, 1.1)  # its width, times that of the font
    rotation: float = 20.0  # ± degrees
    shear: float = 0.25  # ± x per y
    shift: float = 0.1  # ± of the labelled digit from the centre, each axis, times its height
    spacing: tuple[float, float] = (1.0, 1.3)  # from digit to digit, times that of the font
    contrast: tuple[float, float] = (0.3, 0.8)  # in luma, of digits to the first ground colour
    second: float = 0.25  # ± luma of the second ground colour from the first, times the contrast
    halo: float = 0.35  # part of the images with a shadow or an outline
    light: float = 0.25  # ± relative change of the light from the centre to an edge
    blur: tuple[float, float] = (0.015, 0.06)  # standard deviation, digit heights, either axis
    noise: tuple[float, float] = (0.0, 0.035)  # standard deviation


VARIATION = Variation()

# The shipped fonts whose code points 0-9 hold digits. Left out: LastResort (boxes), cmmi10 and
# cmsy10 (old-style figures, where 0 is an o and 1 a small I; arrows and relations), cmex10 and the
# other STIX faces (no digits, or none that stand upright on a line).
_FONTS = (
    *(f"DejaVuSans{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSansMono{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"STIXGeneral{style}" for style in ("", "Bol", "Italic", "BolIta")),
    *("cmr10", "cmb10", "cmss10", "cmtt10", "cmti10"),
)
_STROKES = (0.0, 0.02, 0.04)  # added around the outline, digit heights
_HEIGHTS = (27, 21, 16)  # of a digit in the atlas, pixels: a map then never shrinks it by much
_FINE = 4  # drawn pixels per pixel of the largest height
_CELL = 40  # room for a digit, zero at the edge
_GAP = 0.05  # least half distance between neighbours' ink, digit heights
_MARGIN = 1.5  # pixels between the labelled digit and the image's edge
_BLACK = 0.06  # least luma of digit and ground
_LUMA = np.asarray([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
_AXIS = np.arange(SIDE, dtype=np.float32) - (SIDE - 1) / 2  # pixel centres from the image's


def syn_numbers(
    split: str, count: int, *, seed: int = 0, start: int = 0, variation: Variation = VARIATION
) -> tuple[UInt8[np.ndarray, "count 32 32 3"], Int32[np.ndarray, " count"]]:
    """Examples `start` … `start + count - 1` of a split: colour images (0..255) and labels 0..9.

    Example i depends on (seed, split, i) and `variation` only, so asking for more appends. It is
    drawn with the others of its block i // BLOCK: a call draws whole blocks and returns a part.
    Ten examples in a row hold every digit once, counted from a multiple of ten.

    The same arguments give the same bytes, given the same NumPy, Pillow and fonts; another kind of
    processor may round a pixel to the next grey level.

    Raises:
      ValueError: `split` is not one of SPLITS, `count` is below 1 or `start` below 0.
      FileNotFoundError: matplotlib is installed without its fonts.
    """
    count, seed, start = map(operator.index, (count, seed, start))
    draw = functools.partial(_draw, variation=variation)
    return draw_examples(draw, BLOCK, "syn_numbers", split, count, seed=seed, start=start)


@dataclasses.dataclass(eq=False, kw_only=True)
class SynNumbersConfig(DrawnConfig):
    """See :class:`DrawnConfig`. The paper has about 500,000 images in all."""

    dataset, size = "syn_numbers", SIDE  # the latter is no field: it cannot be set


class SynNumbers(DrawnBuilder):
    """The TFDS data set "syn_numbers": `syn_numbers`' examples, in its order. Needs no files."""

    VERSION = tfds.core.Version("1.0.0")  # to be raised when the code below draws other images
    BUILDER_CONFIGS: ClassVar = [SynNumbersConfig()]
    examples, block, class_names = staticmethod(syn_numbers), BLOCK, CLASS_NAMES
    description = "Digits at the centre of coloured numbers drawn from matplotlib's fonts."
    ordered = True  # the order is random, and keeps the digits balanced


def _draw(
    rng: np.random.Generator, variation: Variation
) -> tuple[UInt8[np.ndarray, "n 32 32 3"], Int32[np.ndarray, " n"]]:
    """A block of images and their labels."""
    v, n = variation, BLOCK
    uniform = functools.partial(_uniform, rng, n)
    labels = rng.permuted(np.tile(np.arange(10, dtype=np.int32), (n // 10, 1)), axis=1).reshape(-1)
    height = uniform(*v.height)
    ink = _line(labels, height, rng, v)

    contrast = uniform(*v.contrast)
    sign = np.where(rng.random(n) < 0.5, -1, 1).astype(np.float32)
    digit = _BLACK + uniform(0, 1) * (1 - _BLACK - contrast)
    digit = np.where(sign > 0, digit + contrast, digit)
    first = digit - sign * contrast
    second = first + uniform(-v.second, v.second) * contrast
    under = first + sign * uniform(-1, 0.35) * contrast  # of the halo, never near the digit's
    digit, first, second, under = (
        _colours(np.clip(luma, 0, 1), rng) for luma in (digit, first, second, under)
    )
    # Arrays of colour are [n, y, colour, x]: then either half of a blur is one matrix product.
    image = first + (second - first) * _texture(rng, n)[:, :, None]
    # A shadow is the ink blurred and moved, an outline the ink blurred and swollen.
    has_halo = rng.random(n) < v.halo
    angle, swell, spread = uniform(0, 2 * np.pi), uniform(0, 1), uniform(0.5, 1.1)
    if has_halo.any():
        moves = 2.5 * (1 - swell) * (np.sin(angle), np.cos(angle))  # pixels: down, across
        halo = _blur(ink[has_halo, :, None], *(a[has_halo] for a in (spread, spread, *moves)))
        halo = np.minimum(1, halo * (1 + 2 * swell[has_halo, None, None, None]))
        image[has_halo] += (under[has_halo] - image[has_halo]) * halo
    image += (digit - image) * ink[:, :, None]

    tilt = uniform(-v.light, v.light, 2, 1, 1) * 2 / SIDE
    image *= (1 + tilt[:, 0] * _AXIS[:, None] + tilt[:, 1] * _AXIS)[:, :, None]
    image = _blur(image, height * uniform(*v.blur), height * uniform(*v.blur))
    image += uniform(*v.noise, 1, 1, 1) * rng.standard_normal(image.shape, dtype=np.float32)
    return np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8).swapaxes(2, 3), labels


def _uniform(rng: np.random.Generator, n: int, low: float, high: float, *shape: int) -> np.ndarray:
    return rng.uniform(low, high, (n, *shape)).astype(np.float32)


def _line(
    labels: Int32[np.ndarray, " n"],
    height: Float[np.ndarray, " n"],
    rng: np.random.Generator,
    variation: Variation,
) -> Float[np.ndarray, "n 32 32"]:
    """Coverage of each pixel by the number, 0..1; the labelled digit is whole, near the centre.

    A line is five places: the labelled digit's is the middle one, and as many on either side are
    filled as the number is long. Lengths along the line are in digit heights.
    """
    v, n = variation, len(labels)
    uniform = functools.partial(_uniform, rng, n)
    atlas, box, advance = _atlas()
    face = rng.integers(len(advance), size=n)
    digits = rng.integers(10, size=(n, 5))
    digits[:, 2] = labels
    length = np.asarray(v.digits)[rng.integers(len(v.digits), size=n)]
    before = np.floor(rng.random(n) * length).astype(int)  # digits of the number left of the label
    offsets = np.arange(5) - 2
    present = (offsets >= -before[:, None]) & (offsets < (length - before)[:, None])
    glyph = face[:, None] * 10 + digits

    # Half the room of each place: as the font has it, but never so little that digits touch.
    half = np.maximum(box[glyph, 0] + _GAP, (advance[face] * uniform(*v.spacing))[:, None] / 2)
    end = np.cumsum(2 * half, axis=1)
    end -= (end[:, 2] - half[:, 2])[:, None]
    middle = end - half

    angle, shear = np.radians(uniform(-v.rotation, v.rotation)), uniform(-v.shear, v.shear)
    aspect, cos, sin = uniform(*v.aspect), np.cos(angle), np.sin(angle)
    # Half the sides of the upright box around the labelled digit, per digit height.
    (wide, tall), limit = box[glyph[:, 2]].T, SIDE / 2 - _MARGIN
    extent = np.stack(
        [
            np.abs(sin) * aspect * wide + np.abs(cos + sin * shear) * tall,
            np.abs(cos) * aspect * wide + np.abs(cos * shear - sin) * tall,
        ]
    )
    height = np.minimum(height, limit / extent.max(0))
    shift = np.minimum(v.shift * height, limit - height * extent) * uniform(-1, 1, 2).T

    # Where each pixel lies on the line: back through shift, rotation, shear and scale.
    dy = _AXIS[:, None] - shift[0, :, None, None]
    dx = _AXIS - shift[1, :, None, None]
    cos, sin, shear, aspect = (a[:, None, None] for a in (cos, sin, shear, aspect))
    zoom = 1 / height[:, None, None]
    down = cos * dy - sin * dx
    along = (cos * dx + sin * dy - shear * down) * (zoom / aspect)
    down *= zoom
    digit = np.zeros(along.shape, np.intp)
    for boundary in range(4):
        digit += along > end[:, boundary, None, None]
    digit += 5 * np.arange(n)[:, None, None]

    size = np.maximum(0, np.searchsorted(-np.asarray(_HEIGHTS), -height, side="right") - 1)
    blank = len(atlas) - 1
    cell = np.where(present, size[:, None] * len(box) + glyph, blank)
    scale = np.asarray(_HEIGHTS, np.float32)[size][:, None, None]
    return _bilinear(
        atlas, cell.reshape(-1)[digit], scale * down, scale * (along - middle.reshape(-1)[digit])
    )


def _bilinear(
    atlas: Float[np.ndarray, "cells cell cell"],
    cell: Int64[np.ndarray, "n h w"],
    y: Float[np.ndarray, "n h w"],
    x: Float[np.ndarray, "n h w"],
) -> Float[np.ndarray, "n h w"]:
    """Values of the cells at (y, x) from their centres; 0 outside them."""
    middle, last = (_CELL - 1) / 2, _CELL - 1.001
    y, x = np.clip(y + middle, 0, last), np.clip(x + middle, 0, last)  # the cell's edge is zero
    row, column = y.astype(np.int32), x.astype(np.int32)
    y, x = y - row, x - column
    index = (cell * _CELL + row) * _CELL + column
    flat = atlas.reshape(-1)
    upper, lower = flat[index], flat[index + _CELL]
    upper += x * (flat[index + 1] - upper)
    lower += x * (flat[index + _CELL + 1] - lower)
    return upper + y * (lower - upper)


def _blur(
    image: Float[np.ndarray, "n 32 c 32"],
    down: Float[np.ndarray, " n"],
    across: Float[np.ndarray, " n"],
    move_down: Float[np.ndarray, " n"] | float = 0.0,
    move_across: Float[np.ndarray, " n"] | float = 0.0,
) -> Float[np.ndarray, "n 32 c 32"]:
    """Gaussian blur of these standard deviations, and a move, in pixels: K_down image K_acrossᵀ.

    K[p, q] ∝ exp(-(p - q - move)² / 2σ²), every row of sum 1, so that edges do not darken.
    """

    def kernel(deviation, move):
        apart = (_AXIS[:, None] - _AXIS) - np.reshape(move, (-1, 1, 1))
        # Not below e⁻²⁰: products of subnormal numbers take a hundred times as long.
        weight = np.exp(np.maximum(-20, -(apart**2) / (2 * deviation[:, None, None] ** 2)))
        return weight / weight.sum(-1, keepdims=True)

    image, shape = kernel(down, move_down) @ image.reshape(len(image), SIDE, -1), image.shape
    image = image.reshape(len(image), -1, SIDE) @ kernel(across, move_across).swapaxes(1, 2)
    return image.reshape(shape)


def _colours(
    luma: Float[np.ndarray, " n"], rng: np.random.Generator
) -> Float[np.ndarray, "n 1 3 1"]:
    """Colours of the given luma: any colour, paled at random, then mixed with black or white."""
    colour = rng.random((len(luma), 3), dtype=np.float32)
    paleness = rng.random((len(luma), 1), dtype=np.float32)
    colour += paleness * ((colour @ _LUMA)[:, None] - colour)
    colour_luma, luma = (colour @ _LUMA)[:, None], luma[:, None]
    darker = colour * luma / colour_luma
    lighter = 1 - (1 - colour) * (1 - luma) / (1 - colour_luma)
    return np.where(luma < colour_luma, darker, lighter).astype(np.float32)[:, None, :, None]


def _texture(rng: np.random.Generator, n: int) -> Float[np.ndarray, "n 32 32"]:
    """Two-coloured grounds, 0..1: ramps, edges, stripes and blotches, all as one formula.

    ½ + ½ tanh(s (sin(2π d·p / period + phase) + a noise)), with smooth noise, direction d, and a
    period from a few pixels (stripes) to many times the image (a ramp or an edge).
    """

    uniform = functools.partial(_uniform, rng, n)
    angle, phase = uniform(0, 2 * np.pi, 1, 1), uniform(0, 2 * np.pi, 1, 1)
    frequency = 2 * np.pi / np.exp(uniform(np.log(5), np.log(200), 1, 1))
    wave = np.sin(
        frequency * np.sin(angle) * _AXIS[:, None] + frequency * np.cos(angle) * _AXIS + phase
    )
    grid = rng.standard_normal((n, 10, 10), dtype=np.float32)
    knots = np.linspace(-SIDE / 2, SIDE / 2, 10, dtype=np.float32)
    spread = np.exp(-(((_AXIS[:, None] - knots) / 3) ** 2))
    spread /= np.sqrt((spread**2).sum(-1, keepdims=True))  # noise of unit variance everywhere
    noise = spread @ grid @ spread.T
    steepness = np.exp(uniform(np.log(0.4), np.log(8), 1, 1))
    return 0.5 + 0.5 * np.tanh(steepness * (wave + uniform(0, 1, 1, 1) * noise))


@functools.cache  # a third of a second and 12 MB, which the splits of a process share
def _atlas() -> tuple[
    Float[np.ndarray, "cells cell cell"],
    Float[np.ndarray, "glyphs 2"],
    Float[np.ndarray, " faces"],
]:
    """The cells, the digits' half widths and heights, the faces' distance from digit to digit.

    A face is a font at one weight. Cells hold every digit of every face at the first height, the
    same at the second and the third, and a blank. Lengths are in digit heights.
    """
    import matplotlib

    folder = Path(matplotlib.get_data_path(), "fonts", "ttf")
    tall = _FINE * _HEIGHTS[0]
    room = _CELL * tall // _HEIGHTS[-1] + 2  # so that the largest region below lies inside
    cells, boxes, advances = [], [], []
    for name in _FONTS:
        file = folder / f"{name}.ttf"
        if not file.is_file():
            raise FileNotFoundError(
                f"syn_numbers: no font {file}; reinstall matplotlib with its fonts"
            )
        basic = ImageFont.Layout.BASIC  # whether or not Pillow comes with raqm
        _, top, _, bottom = ImageFont.truetype(file, 1000, layout_engine=basic).getbbox("0")
        font = ImageFont.truetype(file, 1000 * tall / (bottom - top), layout_engine=basic)
        for stroke in _STROKES:
            advances.append(font.getlength("0") / tall + 2 * stroke)
            for digit in CLASS_NAMES:
                if digit == "0" and "Mono" in name:
                    digit = "O"  # its zero has a dot, which blur makes an 8
                canvas = Image.new("L", (room, room))
                ImageDraw.Draw(canvas).text(
                    (room // 4, room // 4), digit, 255, font, stroke_width=round(stroke * tall)
                )
                left, top, right, bottom = canvas.getbbox()  # type: ignore[misc]  # inked
                boxes.append(((right - left) / tall / 2, (bottom - top) / tall / 2))
                ink = Image.new("L", (room, room))
                ink.paste(
                    canvas.crop((left, top, right, bottom)),
                    ((room - right + left) // 2, (room - bottom + top) // 2),
                )
                for height in _HEIGHTS:
                    reach = _CELL * tall / height / 2
                    region = (room / 2 - reach,) * 2 + (room / 2 + reach,) * 2
                    cells.append(ink.resize((_CELL, _CELL), Image.Resampling.BOX, region))
    atlas = np.zeros((len(cells) + 1, _CELL, _CELL), np.float32)
    by_height = np.reshape([np.asarray(cell) for cell in cells], (-1, len(_HEIGHTS), _CELL, _CELL))
    atlas[:-1] = by_height.swapaxes(0, 1).reshape(-1, _CELL, _CELL) / np.float32(255)
    atlas[:, [0, -1]] = atlas[..., [0, -1]] = 0  # what lies outside a cell is the cell's edge
    return atlas, np.asarray(boxes, np.float32), np.asarray(advances, np.float32)
