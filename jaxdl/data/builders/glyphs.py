"""Glyphs: 96 characters, letters and symbols, drawn from the fonts that matplotlib ships.

A data set that needs no network. Each class is one character in 13 to 21 fonts (DejaVu, STIX and,
for ASCII letters and digits, Computer Modern). Every glyph is drawn once at twice the final
resolution; an image is that drawing under a random affine map, blur, contrast of either sign,
clutter at the border, a background ramp and noise. Half of the classes are letters and half are
not, so the set splits naturally, as ImageNet does into natural and man-made (Yosinski et al. 2014).

Characters that look alike under these distortions are one class, or left out. A stands for Latin A,
Greek Alpha and Cyrillic A; O for 0 and o; 1 for I, l and |; V, X, Z and others for their lower
case; 3 for Cyrillic Ze. Left out, among others: * (Ж), $ (S), Q (O), r (Γ), n (Π), the slanted
arrows (shear turns ↑ into ↗), slashes and brackets.
"""

import dataclasses
import functools
import hashlib
import operator
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int32, Int64, UInt8

from jaxdl.data.cache import cached

SPLITS = ("train", "validation", "test")

_LETTERS = (
    "ABCDEFGHKLMNOPRSTUVWXYZaeh"  # Latin
    "ΓΔΘΛΞΠΣΦΨΩλξ"  # Greek
    "БДЖИЧШЫЭЮЯ"  # Cyrillic
)
_SYMBOLS = (
    "123456789"  # digits
    "←→↑↓⇐⇒↺↩"  # arrows
    "+∞∫√∂∇±≠≤≥≈∀∃⊗⊥"  # mathematics
    "#%&@?!¶£€«♀♂♪♫♥♣"  # punctuation and marks
)
CLASS_NAMES: tuple[str, ...] = (*_LETTERS, *_SYMBOLS)
CLASS_GROUPS: tuple[str, ...] = ("letter",) * len(_LETTERS) + ("symbol",) * len(_SYMBOLS)


@dataclasses.dataclass(frozen=True)
class Distortion:
    """Ranges in which images of one class differ. Pairs are the ends of uniform ranges."""

    rotation: float = 15.0  # ± degrees
    scale: tuple[float, float] = (0.75, 1.15)
    shear: float = 0.25  # ± x per y
    shift: float = 0.08  # ± part of the image's side, each axis
    clutter: int = 2  # at most so many foreign glyphs at the border
    clutter_scale: tuple[float, float] = (0.55, 0.85)
    clutter_distance: tuple[float, float] = (0.5, 0.65)  # between centres, sides (max norm)
    blur: tuple[float, ...] = (0.45, 0.65, 0.9)  # standard deviations to choose from, pixels
    contrast: tuple[float, float] = (0.25, 0.9)  # of ink to ground, either sign
    ramp: float = 0.15  # ± change of the ground from the centre to an edge
    noise: tuple[float, float] = (0.01, 0.06)  # standard deviation


RECIPE = 1  # raise by one when the code below draws other images; the cache is keyed by it
DISTORTION = Distortion()
SIDE = 20  # pixels of an image
_GLYPH = 14  # pixels of a glyph's longer side, before scaling
_FINE = 2  # drawn pixels per image pixel
_CELL = _FINE * SIDE  # room for a glyph and its blur, zero at the edge

# Fonts whose code points are Unicode. Left out: LastResort (claims every code point with a box),
# STIXNonUni and STIXSiz* (other shapes at the code points), the Display faces (few glyphs).
_UNICODE_FONTS = (
    *(f"DejaVuSans{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSansMono{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"STIXGeneral{style}" for style in ("", "Bol", "Italic", "BolIta")),
)
# Computer Modern agrees with Unicode in ASCII letters and digits only (cmmi10 in letters only).
_ASCII_FONTS = ("cmr10", "cmb10", "cmss10", "cmtt10", "cmti10")


def glyphs(
    split: str, per_class: int, *, seed: int = 0
) -> tuple[UInt8[np.ndarray, "n 20 20 1"], Int32[np.ndarray, " n"]]:
    """`per_class` grey images (0..255) of each of the 96 classes, and their labels 0..95.

    Labels run 0, 1, …, 95, 0, 1, … so any 96 images in a row hold every class once. Each split has
    its own random stream, and so has each image of a class: asking for more only appends.

    The same arguments give the same bytes. They are kept in `$XDG_CACHE_HOME/jaxdl` (by default
    `~/.cache/jaxdl`) if that can be written.

    Raises:
      ValueError: `split` is not one of SPLITS, or `per_class` is below 1.
      FileNotFoundError: matplotlib is installed without its fonts.
    """
    per_class, seed = operator.index(per_class), operator.index(seed)
    if split not in SPLITS:
        raise ValueError(f"glyphs: unknown split {split!r}; choose one of {', '.join(SPLITS)}")
    if per_class < 1:
        raise ValueError(f"glyphs: per_class is {per_class} in split {split!r}; ask for 1 or more")
    labels = np.tile(np.arange(len(CLASS_NAMES), dtype=np.int32), per_class)
    make = functools.partial(_draw, split, per_class, seed)
    images = cached(f"glyphs-{split}-{per_class}", _recipe(split, per_class, seed), make)["images"]
    return images, labels


def _draw(split: str, per_class: int, seed: int) -> dict[str, UInt8[np.ndarray, "n 20 20 1"]]:
    atlas, starts, counts = _atlas()
    # Python's hash is salted; this one is the same everywhere. One child for each image of a class.
    entropy = hashlib.sha256(f"jaxdl glyphs {split} {seed}".encode()).digest()
    streams = np.random.SeedSequence(int.from_bytes(entropy)).spawn(per_class)
    rounds = [_one_of_each(atlas, starts, counts, np.random.default_rng(s)) for s in streams]
    return {"images": np.concatenate(rounds)[..., None]}


def _one_of_each(
    atlas: Float[np.ndarray, "blurs glyphs cell cell"],
    starts: Int32[np.ndarray, " classes"],
    counts: Int32[np.ndarray, " classes"],
    rng: np.random.Generator,
) -> UInt8[np.ndarray, "classes 20 20"]:
    """One image of each class: glyph and clutter sampled from the atlas, then inked on a ground."""
    d, n, layers = DISTORTION, len(starts), 1 + DISTORTION.clutter

    def uniform(low, high, *shape):
        return rng.uniform(low, high, (n, *shape)).astype(np.float32)

    # Layer 0 is the glyph; the others are clutter, of any class, smaller and around the border.
    glyph = rng.integers(atlas.shape[1], size=(n, layers))
    glyph[:, 0] = starts + rng.integers(counts)
    present = np.arange(layers) <= rng.integers(layers, size=(n, 1))
    blur = rng.integers(len(d.blur), size=(n, 1))
    angle = np.radians(uniform(-d.rotation, d.rotation, layers))
    shear = uniform(-d.shear, d.shear, layers)
    scale = uniform(*d.clutter_scale, layers)
    scale[:, 0] = uniform(*d.scale)
    direction = uniform(-1, 1, layers, 2)
    direction /= np.abs(direction).max(-1, keepdims=True)
    centre = SIDE * direction * uniform(*d.clutter_distance, layers, 1)
    centre[:, 0] = SIDE * uniform(-d.shift, d.shift, 2)

    # Where each pixel lies on its glyph: back through shift, rotation, shear and scale.
    axis = np.arange(SIDE, dtype=np.float32) - (SIDE - 1) / 2
    dy = axis[:, None] - centre[..., 0, None, None]
    dx = axis[None, :] - centre[..., 1, None, None]
    cos, sin, shear, zoom = (
        a[..., None, None] for a in (np.cos(angle), np.sin(angle), shear, _FINE / scale)
    )
    y = cos * dy - sin * dx
    x = sin * dy + cos * dx - shear * y
    cell = (blur * atlas.shape[1] + glyph)[present]
    ink = np.zeros((n, layers, SIDE, SIDE), np.float32)
    ink[present] = _bilinear(atlas, cell, (zoom * y)[present], (zoom * x)[present])
    ink = ink.max(1)

    contrast = uniform(*d.contrast, 1, 1)
    margin = np.minimum(d.ramp, (1 - contrast) / 2)  # so that the ramp does not drown the ink
    darker = margin + uniform(0, 1, 1, 1) * (1 - contrast - 2 * margin)
    sign = np.where(rng.random((n, 1, 1)) < 0.5, -1, 1).astype(np.float32)
    ground = np.where(sign > 0, darker, darker + contrast)
    tilt = uniform(-d.ramp, d.ramp, 2, 1, 1) * 2 / SIDE
    ramp = tilt[:, 0] * axis[:, None] + tilt[:, 1] * axis
    noise = uniform(*d.noise, 1, 1) * rng.standard_normal((n, SIDE, SIDE), dtype=np.float32)
    image = ground + ramp + sign * contrast * ink + noise
    return np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8)


def _bilinear(
    atlas: Float[np.ndarray, "blurs glyphs cell cell"],
    cell: Int64[np.ndarray, " n"],
    y: Float[np.ndarray, "n h w"],
    x: Float[np.ndarray, "n h w"],
) -> Float[np.ndarray, "n h w"]:
    """Values of cells (counted through all blurs) at (y, x) from their centres; 0 outside them."""
    middle, last = (_CELL - 1) / 2, _CELL - 1.001
    y, x = np.clip(y + middle, 0, last), np.clip(x + middle, 0, last)  # the cell's edge is zero
    row, column = y.astype(np.int32), x.astype(np.int32)
    y, x = y - row, x - column
    at = (cell[:, None, None] * _CELL + row) * _CELL + column
    flat = atlas.reshape(-1)
    upper = (1 - x) * flat[at] + x * flat[at + 1]
    lower = (1 - x) * flat[at + _CELL] + x * flat[at + _CELL + 1]
    return (1 - y) * upper + y * lower


@functools.cache  # 0.6 s and 32 MB, which the splits of a process share
def _atlas() -> tuple[
    Float[np.ndarray, "blurs glyphs cell cell"],
    Int32[np.ndarray, " classes"],
    Int32[np.ndarray, " classes"],
]:
    """Every glyph at every blur, and where each class's glyphs start and how many they are."""
    import matplotlib
    from matplotlib.ft2font import FT2Font
    from scipy.ndimage import gaussian_filter

    folder = Path(matplotlib.get_data_path(), "fonts", "ttf")
    fonts = {}
    for name in (*_UNICODE_FONTS, *_ASCII_FONTS):
        file = folder / f"{name}.ttf"
        if not file.is_file():
            raise FileNotFoundError(f"glyphs: no font {file}; reinstall matplotlib with its fonts")
        fonts[name] = FT2Font(file)
    charmaps = {name: font.get_charmap() for name, font in fonts.items()}

    cells, counts = [], []
    for character in CLASS_NAMES:
        ascii_too = character.isascii() and character.isalnum()
        names = _UNICODE_FONTS + (_ASCII_FONTS if ascii_too else ())
        drawn = [_cell(fonts[f], character) for f in names if ord(character) in charmaps[f]]
        cells += drawn
        counts.append(len(drawn))
    sharp = np.stack(cells)
    atlas = np.empty((len(DISTORTION.blur), *sharp.shape), np.float32)
    for blurred, deviation in zip(atlas, DISTORTION.blur, strict=True):
        gaussian_filter(sharp, (0, _FINE * deviation, _FINE * deviation), output=blurred)
    atlas[..., [0, -1], :] = atlas[..., [0, -1]] = 0  # what lies outside a cell is the cell's edge
    return atlas, (np.cumsum(counts) - counts).astype(np.int32), np.asarray(counts, np.int32)


def _cell(font, character: str) -> Float[np.ndarray, "cell cell"]:
    """The glyph's coverage, 0..1, its longer side _FINE * _GLYPH pixels, centred."""
    from matplotlib.ft2font import LoadFlags

    font.set_size(64, 72)
    outline = font.load_char(ord(character), flags=LoadFlags.NO_HINTING)
    side = max(outline.width, outline.height) / 64  # FreeType counts 64ths of a pixel
    font.set_size(64 * _FINE * _GLYPH / side, 72)
    font.set_text(character, flags=LoadFlags.NO_HINTING)
    font.draw_glyphs_to_bitmap()
    bitmap = font.get_image()
    (rows,), (columns,) = np.nonzero(bitmap.any(1)), np.nonzero(bitmap.any(0))
    ink = bitmap[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    top, left = (_CELL - ink.shape[0]) // 2, (_CELL - ink.shape[1]) // 2
    cell = np.zeros((_CELL, _CELL), np.float32)
    cell[top : top + ink.shape[0], left : left + ink.shape[1]] = ink / np.float32(255)
    return cell


def _recipe(split: str, per_class: int, seed: int) -> tuple:
    """The settings that the images depend on."""
    from matplotlib import __version__ as fonts
    from matplotlib.ft2font import __freetype_version__ as rasterizer

    ingredients = (RECIPE, DISTORTION, CLASS_NAMES, fonts, rasterizer, np.__version__)
    return split, per_class, seed, ingredients
