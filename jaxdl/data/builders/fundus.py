"""Eye fundi: drawn photographs of the retina, with the macula and the vessels as truths.

A fundus is laid out in disc diameters (DD) from the optic disc, x towards the temple and y upwards,
as the textbooks have it: the macula 2.5 DD temporal and a little below; from the disc an artery and
a vein into each of four quadrants, the temporal ones arching around the macula; all of them
dividing and tapering, none entering the fovea nor crossing the raphe temporal to it. A camera then
takes a round field of it, of a left or a right eye: around the macula, or so that it is out of
frame; or something lies over the macula: a bright blur, a haemorrhage, an opacity that blurs.
Exposure, vignetting, the fundus's colour, texture and noise vary. Such occlusions also lie
elsewhere, though smaller: that there is one does not say whether the macula is visible, but its
size may.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter
from scipy.special import expit

from jaxdl.data.builders.pictures import cloud, draw_pictures
from jaxdl.data.builders.vessels import grow_vessels

RECIPE = 3  # raise by one when the code below draws other images; the cache is keyed by it
CLASS_NAMES = ("hidden", "visible")
"""Class names of images without and with a visible macula."""
MACULA_RADIUS = 0.7  # DD; the mask
DISC = (0.48, 0.53)  # DD; the disc's half axes
_CANVAS = 320  # pixels, at least, of the side that vessels are drawn on

# Colours of fundi at the middle of the field, RGB.
_GROUNDS = np.array(
    [
        (214, 110, 62),
        (186, 130, 76),
        (226, 96, 76),
        (142, 74, 50),
        (200, 132, 104),
        (222, 122, 48),
        (240, 100, 50),
    ],
)
# What they take of the light, by channel.
_VEIN = np.array([0.30, 0.56, 0.42])[:, None, None]
_ARTERY = np.array([0.16, 0.46, 0.36])[:, None, None]
_PIGMENT = np.array([0.72, 1.0, 0.8])[:, None, None]


def make_fundus(
    count: int, seed: int | tuple[int, ...] = 0, size: int = 64
) -> dict[str, np.ndarray]:
    """Photographs of ``count`` fundi and their labels; image i does not depend on ``count``.

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
    return draw_pictures("fundus", _draw, count, seed, size, (RECIPE,))


@dataclasses.dataclass(frozen=True)
class _Camera:
    """A field of view on the fundus and its projection to an image."""

    centre: Float[np.ndarray, "2"]
    """Centre of the field, DD."""
    radius: float
    """Radius of the field, DD."""
    turn: float
    """Rotation, radians."""
    mirror: int
    """1: the temple is at the right; -1: at the left."""
    middle: Float[np.ndarray, "2"]
    """Middle of the field in the image, parts of its side."""
    reach: float
    """Radius of the field in the image, parts of its side."""

    @property
    def matrix(self) -> Float[np.ndarray, "2 2"]:
        """The matrix from DD to parts of the image's side, columns and rows."""
        cos, sin = math.cos(self.turn), math.sin(self.turn)
        turn = np.array([[cos, -sin], [sin, cos]])
        return (self.reach / self.radius) * np.array([[self.mirror], [-1]]) * turn

    def project(self, xy: Float[np.ndarray, "*n 2"], size: int) -> Float[np.ndarray, "*n 2"]:
        """Points in DD as (column, row) in pixels; 0 is the middle of the first one."""
        return size * ((xy - self.centre) @ self.matrix.T + self.middle) - 0.5

    def grid(self, size: int) -> Float[np.ndarray, "2 h w"]:
        """x and y, in DD, of every pixel."""
        axis = (np.arange(size) + 0.5) / size
        offsets = np.stack(np.meshgrid(axis, axis), -1) - self.middle
        return np.moveaxis(offsets @ np.linalg.inv(self.matrix).T + self.centre, -1, 0)


def _draw(rng: np.random.Generator, size: int) -> dict[str, np.ndarray]:
    """One fundus."""
    fovea = np.array([rng.uniform(2.3, 2.7), rng.uniform(-0.5, -0.1)])
    visible = rng.random() < 0.5
    in_frame = visible or rng.random() < 0.65
    camera = _aim(rng, fovea, in_frame)
    veins, arteries, reflexes = _vessels(rng, fovea, camera, size)
    x, y = camera.grid(size)
    from_middle = np.hypot(x - camera.centre[0], y - camera.centre[1]) / camera.radius
    field = from_middle <= 1
    to_fovea = np.hypot(x - fovea[0], y - fovea[1])

    image = _tissue(rng, x, y, to_fovea)
    image *= 1 - np.maximum(_VEIN * veins, _ARTERY * (arteries - 0.5 * reflexes))
    light = _light(rng, x, y, from_middle)
    image *= light
    clear = np.ones((size, size), np.float32)
    if visible or not in_frame:  # perhaps one that hides something else
        covers = [(_elsewhere(rng, camera, fovea), rng.uniform(0.5, 0.9))]
        covers = covers if rng.random() < 0.4 else []
    else:
        covers = [(fovea + rng.normal(0, 0.1, 2), rng.uniform(1.0, 1.3))]
    for spot, radius in covers:
        image, cover = _occlude(rng, image, light, x - spot[0], y - spot[1], radius)
        clear -= cover
    image = _develop(rng, image, field, from_middle)
    point = camera.project(fovea, size)[::-1] if visible else np.full(2, np.nan)
    return {
        "image": image,
        "label": np.array(visible, np.int32),
        "point": point.astype(np.float32),
        "mask": ((to_fovea <= MACULA_RADIUS) & visible).astype(np.uint8),
        "vessels": ((np.maximum(veins, arteries) * clear >= 0.33) & field).astype(np.uint8),
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
            distance = radius + rng.uniform(0.3, 1.0)
            centre = fovea + distance * np.array([math.cos(angle), math.sin(angle)])
        distance = math.dist(centre, fovea)
        fits = distance < radius - 1.1 * MACULA_RADIUS if in_frame else distance > radius + 0.25
        if fits and math.hypot(*centre) < radius + 0.2:
            break
    return _Camera(
        centre,
        radius,
        turn=rng.normal(0, 0.1),
        mirror=int(rng.choice([-1, 1])),
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


def _vessels(
    rng: np.random.Generator, fovea: Float[np.ndarray, "2"], camera: _Camera, size: int
) -> tuple[Float[np.ndarray, "h w"], Float[np.ndarray, "h w"], Float[np.ndarray, "h w"]]:
    """The parts of every pixel that veins, arteries and the light's reflexes on these cover."""
    factor = max(2, -(-_CANVAS // size))
    canvases = [Image.new("L", (factor * size,) * 2) for _ in range(3)]
    vein_pen, artery_pen, reflex_pen = map(ImageDraw.Draw, canvases)
    pixels_per_dd = factor * size * camera.reach / camera.radius
    for branches in reversed(grow_vessels(rng, fovea)):  # thin ones, which are paler, below
        points = camera.project(branches.points, factor * size)
        tangents = np.gradient(points, axis=1)
        tangents /= np.maximum(np.hypot(tangents[..., 0], tangents[..., 1]), 1e-6)[..., None]
        normals = np.stack([-tangents[..., 1], tangents[..., 0]], -1)
        normals *= (pixels_per_dd / 2 * branches.widths)[..., None]
        in_frame = ((points > 0) & (points < factor * size)).all(-1).any(-1)
        pixels = pixels_per_dd / factor * branches.widths[:, 0]
        in_frame &= pixels > 0.12  # others would not be seen
        ink = (255 * np.clip(0.45 + 10 * branches.widths[:, 0], 0, 1)).astype(int)
        for i in np.flatnonzero(in_frame):
            path, half, artery = points[i], normals[i], branches.arteries[i]
            (artery_pen if artery else vein_pen).polygon(_outline(path, half), fill=int(ink[i]))
            if artery and pixels[i] > 1.2:
                reflex_pen.polygon(_outline(path, 0.3 * half), fill=255)
    veins, arteries, reflexes = (
        np.asarray(canvas.reduce(factor), np.float32) / 255 for canvas in canvases
    )
    return veins, arteries, reflexes


def _outline(path: Float[np.ndarray, "s 2"], half: Float[np.ndarray, "s 2"]) -> list[float]:
    """A polygon around a path, so far to its two sides."""
    return np.concatenate([path + half, (path - half)[::-1]]).ravel().tolist()


# What is between and over them


def _tissue(
    rng: np.random.Generator,
    x: Float[np.ndarray, "h w"],
    y: Float[np.ndarray, "h w"],
    to_fovea: Float[np.ndarray, "h w"],
) -> Float[np.ndarray, "3 h w"]:
    """Ground, disc and macula under an even light, 0 … 255."""
    size = len(x)
    mixture = rng.dirichlet(np.full(len(_GROUNDS), 0.3))
    ground = _colour(mixture @ _GROUNDS * rng.uniform(0.94, 1.06, 3))
    texture = sum(cloud(rng, cells, size) for cells in (5, 11, 23, 47)) * rng.uniform(0.012, 0.04)
    if rng.random() < 0.3:  # vessels of the choroid, seen through a retina of little pigment
        for cells in (7, 10):
            stripes = np.exp(-((cloud(rng, cells, size) / 0.35) ** 2))
            texture += rng.uniform(0.04, 0.12) * (stripes - 0.3) * (1 - np.exp(-(to_fovea**2)))
    image = ground * (1 + texture * _colour([0.6, 1.2, 1.4]))

    pigment = rng.uniform(0.25, 0.42) * np.exp(-((to_fovea / rng.uniform(0.4, 0.65)) ** 2))
    pigment += rng.uniform(0.1, 0.22) * np.exp(-((to_fovea / 1.2) ** 2))
    image *= 1 - _PIGMENT * pigment

    turn = rng.normal(0, 0.15)
    u, v = x * math.cos(turn) - y * math.sin(turn), x * math.sin(turn) + y * math.cos(turn)
    to_rim = np.hypot(u / DISC[0], v / DISC[1])
    halo = rng.uniform(0, 0.2) * np.exp(-(((to_rim - 1) / rng.uniform(0.2, 0.5)) ** 2))
    image *= 1 + halo
    rim = _colour([1.0, rng.uniform(0.66, 0.8), rng.uniform(0.36, 0.5)]) * rng.uniform(240, 275)
    image += 0.85 * expit((1 - to_rim) / 0.045) * (rim - image)
    cup = _colour([1.0, 0.95, rng.uniform(0.6, 0.8)]) * rng.uniform(250, 280)
    to_cup = np.hypot((u - rng.uniform(0, 0.08)) / DISC[0], v / DISC[1])
    image += 0.85 * expit((rng.uniform(0.35, 0.65) - to_cup) / 0.07) * (cup - image)
    return image


def _colour(rgb: Sequence[float] | Float[np.ndarray, "3"]) -> Float[np.ndarray, "3 1 1"]:
    return np.asarray(rgb, float)[:, None, None]


def _occlude(
    rng: np.random.Generator,
    image: Float[np.ndarray, "3 h w"],
    light: Float[np.ndarray, "h w"],
    x: Float[np.ndarray, "h w"],
    y: Float[np.ndarray, "h w"],
    radius: float,
) -> tuple[Float[np.ndarray, "3 h w"], Float[np.ndarray, "h w"]]:
    """A bright blur, a haemorrhage or an opacity of that radius (DD) over a spot from which ``x``
    and ``y`` count: the image with it, and how much of every pixel is hidden."""
    size = len(x)
    ragged = np.hypot(x, y) / radius
    kind = rng.integers(3)
    if kind == 0:
        ragged = ragged * (1 + 0.18 * cloud(rng, 5, size))
        cover = np.minimum(1.5 * np.exp(-1.1 * np.abs(ragged) ** 1.6), 0.95)
        colour = _colour([255, rng.uniform(205, 240), rng.uniform(140, 220)])
    elif kind == 1:
        ragged = ragged * (1 + 0.08 * cloud(rng, 11, size) + 0.04 * cloud(rng, 30, size))
        if rng.random() < 0.4:  # before the retina, where blood settles: level above
            ragged = np.maximum(ragged, 1 + (y / radius - rng.uniform(0.5, 0.75)))
        cover = 0.96 * expit((1.05 - ragged) / rng.uniform(0.02, 0.1))
        colour = _colour([122, rng.uniform(18, 36), rng.uniform(14, 26)]) * light
        colour = colour * rng.uniform(0.65, 1.15) * (1 + 0.08 * cloud(rng, 16, size))
    else:
        cover = np.minimum(1.6 * np.exp(-((ragged / 1.35) ** 4)), 1)
        planes = [Image.fromarray(p).resize((6, 6), Image.Resampling.BOX) for p in image]
        vague = [np.asarray(p.resize((size, size), Image.Resampling.BILINEAR)) for p in planes]
        mean = image.mean((1, 2), keepdims=True) * light / light.mean()
        colour = 0.25 * np.stack(vague) + 0.75 * mean  # in which the macula leaves no shade
    return image + cover * (colour - image), cover


def _light(
    rng: np.random.Generator,
    x: Float[np.ndarray, "h w"],
    y: Float[np.ndarray, "h w"],
    from_middle: Float[np.ndarray, "h w"],
) -> Float[np.ndarray, "h w"]:
    """The illumination of each pixel: less at the border, more to one side, shadows."""
    angle, tilt = rng.uniform(0, 2 * math.pi), rng.uniform(0, 0.07)
    light = 1 + tilt * (math.cos(angle) * x + math.sin(angle) * y)
    light *= np.exp(-rng.uniform(0.1, 0.6) * from_middle**2)
    if rng.random() < 0.25:  # in which the macula may lie
        spot, radius = rng.uniform([-0.5, -1.5], [3.5, 1.5]), rng.uniform(1.5, 3)
        light *= 1 - rng.uniform(0.3, 0.6) * np.exp(
            -((x - spot[0]) ** 2 + (y - spot[1]) ** 2) / radius**2
        )
    return rng.uniform(0.8, 1.1) * np.clip(light, 0.15, 1.35)


def _develop(
    rng: np.random.Generator,
    image: Float[np.ndarray, "3 h w"],
    field: Bool[np.ndarray, "h w"],
    from_middle: Float[np.ndarray, "h w"],
) -> UInt8[np.ndarray, "h w 3"]:
    """The camera's effects on an image: focus, the field's border, noise."""
    size = len(field)
    blur = rng.uniform(0, 0.004) * size
    if blur > 0.2:
        image = gaussian_filter(image, (0, blur, blur))
    glare = np.exp((from_middle - 1) / 0.03) * rng.uniform(0, 60)
    image = (image + glare) * field + 5
    noise = rng.standard_normal(image.shape, np.float32) * (0.3 + 0.7 * field)
    image = image + rng.uniform(1.0, 4.0) * noise
    return np.moveaxis(np.clip(np.rint(image), 0, 255).astype(np.uint8), 0, -1)
