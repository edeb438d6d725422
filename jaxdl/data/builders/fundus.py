"""Eye fundi: drawn photographs of the retina, with the macula and the vessels as truths.

A fundus is laid out in disc diameters (DD) from the optic disc, x towards the temple and y upwards,
as the textbooks have it: the macula 2.5 DD temporal and a little below; from the disc an artery and
a vein into each of four quadrants, the temporal ones arching around the macula; all of them
dividing and tapering, none entering the fovea nor crossing the raphe temporal to it. A camera then
takes a round field of it, of a left or a right eye: around the macula, or so that it is out of
frame; or something lies over the macula: a bright blur, a haemorrhage, an opacity that blurs.
Exposure, vignetting, the fundus's colour, texture and noise vary. Such occlusions also lie
elsewhere, so that to see one does not answer whether the macula is visible.
"""

import dataclasses
import math
import operator

import numpy as np
import PIL
from jaxtyping import Bool, Float, Float32
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter
from scipy.special import expit

from jaxdl.data.cache import cached

RECIPE = 1  # raise by one when the code below draws other images; the cache is keyed by it
CLASS_NAMES = ("hidden", "visible")
"""Of the macula."""
MACULA_RADIUS = 0.7  # DD; the mask
DISC = (0.46, 0.52)  # DD; the disc's half axes
_STEPS = 24  # points of a vessel
_CANVAS = 512  # pixels, at least, of the side that vessels are drawn on

# Colours of fundi at the middle of the field, RGB.
_GROUNDS = np.array(
    [
        (214, 110, 62),
        (186, 130, 76),
        (226, 96, 76),
        (142, 74, 50),
        (200, 132, 104),
        (222, 122, 48),
    ],
    np.float32,
)
# What they take of the light, by channel.
_VEIN, _ARTERY = np.array([(0.36, 0.62, 0.45), (0.20, 0.50, 0.36)], np.float32)
_PIGMENT = np.array([0.55, 1.0, 0.75], np.float32)
_OCCLUSIONS = ("flare", "haemorrhage", "opacity")


def make_fundus(
    count: int, seed: int | tuple[int, ...] = 0, size: int = 64
) -> dict[str, np.ndarray]:
    """Photographs of so many fundi and what is in them; image i does not depend on ``count``.

    They are kept in the cache (see :func:`jaxdl.data.cache.cached`).

    Returns:
      "image": uint8 [n, size, size, 3];
      "label": int32 [n], whether the macula is visible, 0 or 1, equally often;
      "point": float32 [n, 2], its centre, row and column in pixels; NaN where it is not visible;
      "mask": uint8 [n, size, size], 1 on the macula, within :data:`MACULA_RADIUS` of that centre;
      "vessels": uint8 [n, size, size], 1 where vessels cover a third of the pixel or more;
      "field": uint8 [n, size, size], 1 in the field of view.

    Raises:
      ValueError: ``count`` is below 1 or ``size`` below 16.
    """
    count, size = operator.index(count), operator.index(size)
    for argument, value, least in (("count", count, 1), ("size", size, 16)):
        if value < least:
            raise ValueError(f"fundus: {argument} is {value}; ask for {least} or more")

    def draw() -> dict[str, np.ndarray]:
        streams = (np.random.SeedSequence(seed, spawn_key=(i,)) for i in range(count))
        images = [_draw(np.random.default_rng(stream), size) for stream in streams]
        return {name: np.stack([image[name] for image in images]) for name in images[0]}

    recipe = (RECIPE, count, seed, size, np.__version__, PIL.__version__)
    return dict(cached(f"fundus-{count}-{size}", recipe, draw))


@dataclasses.dataclass(frozen=True)
class _Camera:
    """Where a field of view lies on the fundus, and how it comes to an image."""

    centre: Float[np.ndarray, "2"]  # DD
    radius: float  # DD
    turn: float  # radians
    mirror: int  # 1: the temple is at the right; -1: at the left
    middle: Float[np.ndarray, "2"]  # of the field in the image, parts of its side
    reach: float  # its radius, parts of the image's side

    @property
    def matrix(self) -> Float[np.ndarray, "2 2"]:
        """From DD to parts of the image's side, columns and rows."""
        cos, sin = math.cos(self.turn), math.sin(self.turn)
        turn = np.array([[cos, -sin], [sin, cos]])
        return (self.reach / self.radius) * np.array([[self.mirror], [-1]]) * turn

    def project(self, xy: Float[np.ndarray, "*n 2"], size: int) -> Float[np.ndarray, "*n 2"]:
        """From DD to (column, row) in pixels; 0 is the middle of the first one."""
        return size * ((xy - self.centre) @ self.matrix.T + self.middle) - 0.5

    def grid(self, size: int) -> Float32[np.ndarray, "2 h w"]:
        """x and y, in DD, of every pixel."""
        axis = (np.arange(size) + 0.5) / size
        at = np.stack(np.meshgrid(axis, axis), -1) - self.middle
        return np.moveaxis(at @ np.linalg.inv(self.matrix).T + self.centre, -1, 0).astype("f4")


def _draw(rng: np.random.Generator, size: int) -> dict[str, np.ndarray]:
    """One fundus."""
    fovea = np.array([rng.uniform(2.3, 2.7), rng.uniform(-0.5, -0.1)])
    visible = rng.random() < 0.5
    in_frame = visible or rng.random() < 0.7
    camera = _aim(rng, fovea, in_frame)
    veins, arteries = _vessels(rng, fovea, camera, size)
    x, y = camera.grid(size)
    row, column = np.ogrid[:size, :size]
    middle = size * camera.middle - 0.5
    from_middle = np.hypot(column - middle[0], row - middle[1]) / size
    field = from_middle <= camera.reach
    to_fovea = np.hypot(x - fovea[0], y - fovea[1])

    covered = in_frame and not visible
    image = _tissue(rng, x, y, to_fovea, from_middle / camera.reach)
    over = []
    if covered:
        over.append((rng.choice(_OCCLUSIONS), fovea, rng.uniform(1.0, 1.4)))
    elif rng.random() < 0.4:
        spot = _elsewhere(rng, camera, fovea)
        over.append((rng.choice(_OCCLUSIONS), spot, rng.uniform(0.6, 1.0)))
    for channel in range(3):
        image[channel] *= 1 - np.maximum(_VEIN[channel] * veins, _ARTERY[channel] * arteries)
    for kind, spot, radius in over:
        image = _occlude(rng, image, kind, x - spot[0], y - spot[1], radius)
    image = _expose(rng, image, size)
    image *= field
    image += rng.normal(0, rng.uniform(1.0, 4.0), (3, size, size)) * (0.3 + 0.7 * field)
    pixels = np.moveaxis(np.clip(np.rint(image + 4), 0, 255).astype(np.uint8), 0, -1)
    at = camera.project(fovea, size)[::-1] if visible else np.full(2, np.nan)
    return {
        "image": pixels,
        "label": np.int32(visible),
        "point": at.astype(np.float32),
        "mask": ((to_fovea <= MACULA_RADIUS) & visible).astype(np.uint8),
        "vessels": ((np.maximum(veins, arteries) >= 0.33) & field).astype(np.uint8),
        "field": field.astype(np.uint8),
    }


def _aim(rng: np.random.Generator, fovea: Float[np.ndarray, "2"], in_frame: bool) -> _Camera:
    """A camera that has the whole macula in its field, or its centre outside, and the disc in."""
    radius = rng.uniform(3.0, 3.8)
    while True:
        if in_frame:
            centre = fovea * rng.uniform(0.35, 1.1) + rng.normal(0, 0.35, 2)
        else:
            angle = rng.uniform(0.6, 1.4) * math.pi
            away = radius + rng.uniform(0.3, 1.0)
            centre = fovea + away * np.array([math.cos(angle), math.sin(angle)])
        distance = math.dist(centre, fovea)
        fits = distance < radius - 1.1 * MACULA_RADIUS if in_frame else distance > radius + 0.25
        if fits and math.hypot(*centre) < radius + 0.2:
            break
    return _Camera(
        centre,
        radius,
        turn=rng.normal(0, 0.1),
        mirror=rng.choice([-1, 1]),
        middle=0.5 + rng.uniform(-0.01, 0.01, 2),
        reach=rng.uniform(0.455, 0.485),
    )


def _elsewhere(
    rng: np.random.Generator, camera: _Camera, fovea: Float[np.ndarray, "2"]
) -> Float[np.ndarray, "2"]:
    """A place in the field, well away from the macula."""
    while True:
        angle, distance = rng.uniform(0, 2 * math.pi), camera.radius * rng.random() ** 0.5
        spot = camera.centre + distance * np.array([math.cos(angle), math.sin(angle)])
        if math.dist(spot, fovea) > 2.4:
            return spot


# Vessels


@dataclasses.dataclass(frozen=True)
class _Branches:
    points: Float[np.ndarray, "b s 2"]  # DD
    widths: Float[np.ndarray, "b s"]  # DD
    arteries: Bool[np.ndarray, "b"]


def _vessels(
    rng: np.random.Generator, fovea: Float[np.ndarray, "2"], camera: _Camera, size: int
) -> tuple[Float32[np.ndarray, "h w"], Float32[np.ndarray, "h w"]]:
    """The parts of every pixel that veins and arteries cover."""
    trunks = _trunks(rng, fovea)
    generations = [trunks]
    for several in (5, 2, 1):
        generations.append(_divide(rng, generations[-1], several, fovea))
    factor = -(-_CANVAS // size)
    canvases = [Image.new("L", (factor * size,) * 2) for _ in range(2)]
    pens = [ImageDraw.Draw(canvas) for canvas in canvases]
    pixels_per_dd = factor * size * camera.reach / camera.radius
    for branches in generations:
        points = camera.project(branches.points, factor * size)
        along = np.gradient(points, axis=1)
        along /= np.maximum(np.hypot(*np.moveaxis(along, -1, 0)), 1e-6)[..., None]
        across = np.stack([-along[..., 1], along[..., 0]], -1)
        across *= (pixels_per_dd / 2 * branches.widths)[..., None]
        outlines = np.concatenate([points + across, (points - across)[:, ::-1]], 1)
        inside = ((outlines > 0) & (outlines < factor * size)).all(-1).any(-1)
        for outline, artery in zip(outlines[inside], branches.arteries[inside], strict=True):
            pens[int(artery)].polygon(outline.ravel().tolist(), fill=255)
    veins, arteries = (np.asarray(canvas.reduce(factor), np.float32) / 255 for canvas in canvases)
    return veins, arteries


def _trunks(rng: np.random.Generator, fovea: Float[np.ndarray, "2"]) -> _Branches:
    """An artery and a vein into every quadrant, and lesser ones between them."""
    # Heading at the disc, at the far end (degrees), length it bends over, length, width.
    height = rng.uniform(0.85, 1.2, 2)  # of the upper and the lower arch
    quadrants = []
    for up, tall in zip((1, -1), height, strict=True):
        tilt = up * rng.normal(0, 4)
        quadrants += [
            (up * 90 + tilt, -up * 12, 2.3 * tall, 7.5, 1.0, 0),
            (up * 84 + tilt, -up * 10, 2.3 * tall, 7.5, 1.0, 1),
            (up * 112, up * 140, 2.0, 5.0, 0.75, 0),
            (up * 120, up * 146, 2.0, 5.0, 0.75, 1),
        ]
    lesser = rng.integers(4, 8)
    for i in range(lesser):
        angle = rng.uniform(100, 260)
        quadrants.append((angle, angle + rng.normal(0, 15), 1.0, rng.uniform(1.2, 3), 0.38, i % 2))
    for up in (1, -1):  # to the macula
        angle = up * rng.uniform(15, 45)
        quadrants.append((angle, -up * 12, 0.7, rng.uniform(1.2, 2.2), 0.3, rng.integers(2)))
    start, end, bend, length, width, artery = np.array(quadrants, float).T
    b = len(start)
    start, end = (np.radians(angle + rng.normal(0, 5, b)) for angle in (start, end))
    arteries = artery > 0
    width = width * np.where(arteries, 0.082, 0.11) * rng.uniform(0.85, 1.15, b)
    roots = np.array([-0.1, 0.0]) + rng.normal(0, 0.04, (b, 2))
    length = length * rng.uniform(0.85, 1.1, b)
    return _grow(rng, roots, start, end, bend, length, width, arteries, fovea)


def _divide(
    rng: np.random.Generator, parents: _Branches, several: int, fovea: Float[np.ndarray, "2"]
) -> _Branches:
    """So many branches off every one."""
    b, s, _ = parents.points.shape
    slots = (np.arange(several) + rng.uniform(0.1, 0.9, (b, several))) / several
    at = (slots * (0.9 * s)).astype(int) + 1
    side = np.where((np.arange(several) + rng.integers(2, size=(b, 1))) % 2, 1, -1)
    rows = np.arange(b)[:, None]
    points, width = parents.points[rows, at], parents.widths[rows, at]
    step = parents.points[rows, np.minimum(at + 1, s - 1)] - parents.points[rows, at - 1]
    heading = np.arctan2(step[..., 1], step[..., 0])
    steps = np.hypot(*np.moveaxis(np.diff(parents.points, axis=1), -1, 0)).sum(1)
    keep = (width > 0.02) & (np.hypot(step[..., 0], step[..., 1]) > 0)
    keep &= np.hypot(points[..., 0], points[..., 1]) > 0.45
    n = keep.sum()
    heading, side, points = heading[keep], side[keep], points[keep]
    left = (steps[:, None] * (1 - at / s))[keep]
    turn = rng.uniform(0.35, 0.8, n)
    end = heading + side * turn * rng.uniform(0.3, 1.3, n)
    length = np.clip(rng.uniform(0.4, 0.9, n) * left, 0.5, 2.8)
    return _grow(
        rng,
        points,
        heading + side * turn,
        end,
        rng.uniform(0.4, 1.0, n),
        length,
        width[keep] * rng.uniform(0.5, 0.8, n),
        np.broadcast_to(parents.arteries[:, None], keep.shape)[keep],
        fovea,
    )


def _grow(
    rng: np.random.Generator,
    roots: Float[np.ndarray, "b 2"],
    start: Float[np.ndarray, "b"],
    end: Float[np.ndarray, "b"],
    bend: Float[np.ndarray, "b"],
    length: Float[np.ndarray, "b"],
    width: Float[np.ndarray, "b"],
    arteries: Bool[np.ndarray, "b"],
    fovea: Float[np.ndarray, "2"],
) -> _Branches:
    """Vessels whose heading goes from ``start`` to ``end`` (radians) over the length ``bend``, with
    a waviness of their own; they stop where the fovea is near, and at the raphe."""
    b = len(roots)
    arc = length[:, None] * np.linspace(0, 1, _STEPS)
    stray = np.cumsum(rng.normal(0, 1, (b, _STEPS)), 1) * np.sqrt(length / _STEPS)[:, None]
    wave = np.sin(2 * math.pi * (arc / rng.uniform(0.5, 1.1, (b, 1)) + rng.random((b, 1))))
    heading = end[:, None] + (start - end)[:, None] * np.exp(-arc / bend[:, None])
    heading += 0.13 * stray + rng.uniform(0.02, 0.16, (b, 1)) * wave
    steps = np.stack([np.cos(heading), np.sin(heading)], -1)[:, :-1]
    steps *= (length / (_STEPS - 1))[:, None, None]
    points = np.concatenate([roots[:, None], roots[:, None] + np.cumsum(steps, 1)], 1)

    x, y = points[..., 0], points[..., 1] - fovea[1] * np.clip(points[..., 0] / fovea[0], 0, 1)
    near = np.hypot(x - fovea[0], points[..., 1] - fovea[1]) < 0.45 + 6 * width[:, None]
    crosses = (x > 0.7) & (y * np.sign(y[:, -1:] * 0 + _side(y)) < 0.05)
    stops = near | crosses
    last = np.where(stops.any(1), stops.argmax(1), _STEPS)[:, None]
    index = np.arange(_STEPS)
    widths = width[:, None] * (1 - 0.6 * index / _STEPS) * np.clip((last - index) / 4, 0, 1)
    points = np.take_along_axis(points, np.minimum(index, np.maximum(last - 1, 0))[..., None], 1)
    return _Branches(points, widths, arteries)


def _side(y: Float[np.ndarray, "b s"]) -> Float[np.ndarray, "b 1"]:
    """Whether a vessel lies above or below the raphe: where it is after its first steps."""
    return np.where(y[:, 3:4] > 0, 1.0, -1.0)


# What is between and over them


def _tissue(
    rng: np.random.Generator,
    x: Float32[np.ndarray, "h w"],
    y: Float32[np.ndarray, "h w"],
    to_fovea: Float32[np.ndarray, "h w"],
    eccentricity: Float[np.ndarray, "h w"],
) -> Float32[np.ndarray, "3 h w"]:
    """Ground, disc and macula under an uneven light, 0 … 255."""
    size = len(x)
    mixture = rng.dirichlet(np.full(len(_GROUNDS), 0.4)).astype(np.float32)
    ground = mixture @ _GROUNDS * rng.uniform(0.94, 1.06, 3).astype(np.float32)
    texture = sum(_cloud(rng, cells, size) for cells in (4, 8, 16, 32)) * rng.uniform(0.015, 0.05)
    image = ground[:, None, None] * (1 + texture * np.array([0.6, 1.2, 1.4], "f4")[:, None, None])

    pigment = rng.uniform(0.25, 0.42) * np.exp(-((to_fovea / rng.uniform(0.5, 0.65)) ** 2))
    pigment += rng.uniform(0.08, 0.2) * np.exp(-((to_fovea / 1.3) ** 2))
    image *= 1 - _PIGMENT[:, None, None] * pigment

    turn = rng.normal(0, 0.15)
    u, v = x * math.cos(turn) - y * math.sin(turn), x * math.sin(turn) + y * math.cos(turn)
    to_rim = np.hypot(u / DISC[0], v / DISC[1])
    halo = np.exp(-(((to_rim - 1) / rng.uniform(0.2, 0.5)) ** 2)) * rng.uniform(0, 0.25)
    image *= 1 + halo
    rim = np.array([1.0, 0.72, 0.42], "f4") * rng.uniform(215, 250)
    cup = np.array([1.0, 0.9, 0.66], "f4") * rng.uniform(240, 255)
    disc = expit((1 - to_rim) / 0.05)
    image += disc * 0.9 * (rim[:, None, None] - image)
    ratio = rng.uniform(0.3, 0.6)
    to_cup = np.hypot((u - 0.06) / DISC[0], v / DISC[1])
    pit = expit((ratio - to_cup) / 0.08)
    image += pit * 0.85 * (cup[:, None, None] - image)

    light = np.exp(-rng.uniform(0.1, 0.7) * eccentricity**2)
    angle, tilt = rng.uniform(0, 2 * math.pi), rng.uniform(0, 0.08)
    light = light * (1 + tilt * (math.cos(angle) * x + math.sin(angle) * y))
    if rng.random() < 0.25:  # a shadow, in which the macula may lie
        at = rng.uniform(-0.5, 3, 2) * [1, 0.5]
        shadow = np.exp(-(((x - at[0]) ** 2 + (y - at[1]) ** 2) / rng.uniform(1.5, 3) ** 2))
        light = light * (1 - rng.uniform(0.3, 0.6) * shadow)
    return (image * np.clip(light, 0.15, 1.4)).astype(np.float32)


def _cloud(rng: np.random.Generator, cells: int, size: int) -> Float32[np.ndarray, "h w"]:
    """Smooth noise, about N(0, 1), of so many cells a side."""
    grid = Image.fromarray(rng.normal(size=(cells, cells)).astype(np.float32))
    return np.asarray(grid.resize((size, size), Image.Resampling.BICUBIC))


def _occlude(
    rng: np.random.Generator,
    image: Float32[np.ndarray, "3 h w"],
    kind: str,
    x: Float32[np.ndarray, "h w"],
    y: Float32[np.ndarray, "h w"],
    radius: float,
) -> Float32[np.ndarray, "3 h w"]:
    """Something of that radius (DD) over a place from which x and y count."""
    size = len(x)
    angle, distance = np.arctan2(y, x), np.hypot(x, y)
    if kind == "flare":
        cover = np.clip(1.4 * np.exp(-((distance / radius) ** 4) / 1.5), 0, 1) * 0.95
        colour = np.array([255, 225, 190], "f4") * rng.uniform(0.9, 1.0)
    elif kind == "haemorrhage":
        lobes = sum(
            rng.uniform(0, 0.16) * np.cos(k * angle + rng.uniform(0, 2 * math.pi))
            for k in (1, 2, 3, 5)
        )
        cover = 0.94 * expit((1 - distance / (radius * (1.05 + lobes))) / 0.05)
        colour = np.array([112, 22, 18], "f4") * rng.uniform(0.7, 1.1)
    else:
        cover = np.clip(1.6 * np.exp(-((distance / (1.3 * radius)) ** 4)), 0, 1)
        planes = [Image.fromarray(plane) for plane in image]
        vague = [p.resize((6, 6), Image.Resampling.BOX).resize((size, size), 2) for p in planes]
        haze = np.stack(vague)
        return image + cover * (0.8 * haze + 0.2 * haze.mean((1, 2), keepdims=True) - image)
    mottle = 1 + 0.05 * _cloud(rng, 12, size)
    return image + (cover * (colour[:, None, None] * mottle - image)).astype(np.float32)


def _expose(
    rng: np.random.Generator, image: Float32[np.ndarray, "3 h w"], size: int
) -> Float32[np.ndarray, "3 h w"]:
    """Brightness, contrast and focus of the camera."""
    image = image * rng.uniform(0.75, 1.1)
    blur = rng.uniform(0, 0.006) * size
    return gaussian_filter(image, (0, blur, blur)) if blur > 0.2 else image
