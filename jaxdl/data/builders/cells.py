"""Blood smears: drawn micrographs of red cells, with their outlines, centres and number as truths.

Red cells lie on a bright ground, alone, touching and overlapping. Light passes through what lies
one over the other, so that overlaps are darker (the logarithm of the light falls with the dye, by
channel, less and less). A red cell is a disc, more or less round, with a pale middle. Beside them
there are a white cell with its purple nucleus now and then, and a few platelets, which are not to
be counted. Stain, light, focus and noise vary from image to image, and the number of cells by three
to one.
"""

import dataclasses
import functools
import math

import numpy as np
from jaxtyping import Float, Int32
from scipy.ndimage import gaussian_filter

from jaxdl.data.builders.pictures import cloud, draw_pictures

RECIPE = 2  # raise by one when the code below draws other images; the cache is keyed by it
RADIUS = 0.085  # of a red cell on average, parts of the image's side
LEAST_VISIBLE = 0.3  # of a red cell's area; with less in sight it is not drawn
_MARGIN = 0.1  # parts of the image's side, around it, where cells' centres may lie

# Optical density of one red cell, of cytoplasm, nucleus and platelet, RGB.
_RED = np.array([0.17, 0.44, 0.46])
_CYTOPLASM = np.array([0.20, 0.38, 0.10])
_NUCLEUS = np.array([0.62, 1.05, 0.14])
_PLATELET = np.array([0.45, 0.66, 0.12])


def make_cells(
    count: int, seed: int | tuple[int, ...] = 0, size: int = 64, crowding: float = 0.5
) -> dict[str, np.ndarray]:
    """``count`` micrographs and the red cells in them; image i does not depend on ``count``.

    They are kept in the cache (see :func:`jaxdl.data.cache.cached`).

    Args:
      crowding: the area of all red cells over that of the image, on average; cells in the margin
        and cells that others hide are left out of ``count``.

    Returns:
      "image": uint8 [n, size, size, 3];
      "instances": int32 [n, size, size], the number of the red cell that is uppermost, from 1; 0
        where there is none;
      "count": float32 [n], how many red cells there are;
      "points": float32 [n, most, 2], the mean row and column of each one's visible pixels, in the
        order of their numbers; NaN beyond ``count``. ``most`` depends on ``crowding`` alone.

    Raises:
      ValueError: ``count`` is below 1, ``size`` below 16, or ``crowding`` not in 0.1 … 3.
    """
    if not 0.1 <= crowding <= 3:
        raise ValueError(f"cells: crowding is {crowding}; ask for 0.1 to 3")
    draw = functools.partial(_draw, crowding=crowding)
    return draw_pictures("cells", draw, count, seed, size, (RECIPE, crowding))


@dataclasses.dataclass(frozen=True)
class _Cells:
    """Red cells in their patches, [n, p, p], and where those begin on the padded canvas."""

    corners: Int32[np.ndarray, "n 2"]
    coverage: Float[np.ndarray, "n p p"]
    density: Float[np.ndarray, "n p p"]


def _draw(rng: np.random.Generator, size: int, crowding: float) -> dict[str, np.ndarray]:
    """One micrograph."""
    most = round(1.5 * crowding * (1 + 2 * _MARGIN) ** 2 / (math.pi * RADIUS**2))
    scale = rng.uniform(0.9, 1.1)
    count = int(rng.integers(most // 3, most + 1))
    whites = _white_cells(rng)
    centres = _scatter(rng, count, scale, whites)
    focus = rng.uniform(0.004, 0.022) if rng.random() < 0.8 else rng.uniform(0.022, 0.04)
    cells = _red_cells(rng, centres, scale, size, focus)
    p = cells.coverage.shape[-1]
    axis = (np.arange(size) + 0.5) / size
    white, white_density = _paint_whites(rng, whites, axis)

    # From the uppermost down: what is hidden, or barely in the frame, is left out.
    inner = (slice(p, p + size),) * 2
    hidden = np.ones((size + 2 * p,) * 2, bool)
    hidden[inner] = white > 0.5
    density = np.zeros(hidden.shape, np.float32)
    instances = np.zeros(hidden.shape, np.int32)
    number = 0
    for corner, coverage, dye in zip(cells.corners, cells.coverage, cells.density, strict=True):
        patch = tuple(slice(start, start + p) for start in corner)
        shape = coverage > 0.5
        visible = shape & ~hidden[patch]
        if visible.sum() >= max(4, LEAST_VISIBLE * shape.sum()):
            number += 1
            instances[patch][visible] = number
            hidden[patch] |= shape
            density[patch] += dye
    instances, density = instances[inner], density[inner]

    red = _RED * rng.uniform(0.75, 1.3) * rng.uniform(0.88, 1.14, 3)
    dye = np.where(density < 1, density, 0.55 + 0.45 * density) * (1 - white)
    optical = dye[..., None] * red + white_density * rng.uniform(0.85, 1.15)
    optical += _platelets(rng, axis)[..., None] * _PLATELET
    image = _light(rng, size) * np.exp(-optical)
    image = _develop(rng, image, focus)
    rows, columns = (np.bincount(instances.ravel(), i.ravel()) for i in np.indices((size, size)))
    points = np.full((most, 2), np.nan, np.float32)
    points[:number] = (np.stack([rows, columns])[:, 1:] / np.bincount(instances.ravel())[1:]).T
    return {
        "image": image,
        "instances": instances,
        "count": np.array(number, np.float32),
        "points": points,
    }


def _scatter(
    rng: np.random.Generator,
    number: int,
    scale: float,
    whites: list[tuple[Float[np.ndarray, "2"], float]],
) -> Float[np.ndarray, "n 2"]:
    """Centres, row and column: beside others as often as not, and rarely right over them."""
    centres = np.empty((number, 2))
    reach = 2 * RADIUS * scale
    clustering = rng.uniform(0.2, 0.7)
    for i in range(number):
        candidates = rng.uniform(-_MARGIN, 1 + _MARGIN, (8, 2))
        if i and rng.random() < clustering:
            angle = rng.uniform(0, 2 * math.pi, 8)
            distance = reach * rng.uniform(0.6, 1.05, (8, 1))
            step = distance * np.stack([np.sin(angle), np.cos(angle)], -1)
            step += centres[rng.integers(i)]
            candidates = np.where(np.abs(step - 0.5) < 0.5 + _MARGIN, step, candidates)
        gap = np.full(8, reach)
        if i:
            gap = np.hypot(*(candidates[:, None] - centres[:i]).transpose(2, 0, 1)).min(1)
        for middle, radius in whites:
            clearance = np.hypot(*(candidates - middle).T) - radius
            gap = np.where(clearance < 0.6 * RADIUS, 0, gap)
        least = reach * rng.uniform(0.5, 1.0)
        good = np.flatnonzero(gap >= least)
        centres[i] = candidates[good[0] if len(good) else gap.argmax()]
    return centres


def _red_cells(
    rng: np.random.Generator,
    centres: Float[np.ndarray, "n 2"],
    scale: float,
    size: int,
    focus: float,
) -> _Cells:
    """Discs with a pale middle, on patches of the canvas that the image is padded to."""
    n = len(centres)
    radius = scale * RADIUS * np.clip(rng.normal(1, 0.08, n), 0.75, 1.25)
    p = math.ceil(2.8 * 1.25 * 1.1 * RADIUS * size) + 4
    middle = centres * size - 0.5
    corners = np.floor(middle - p / 2).astype(np.int32)
    local = middle - corners
    # Centres lie in the margin at the most, patches within the padding.
    axis = np.arange(p, dtype=np.float32)
    dy = axis[:, None] - local[:, 0, None, None]
    dx = axis[None, :] - local[:, 1, None, None]
    distance, angle = np.hypot(dy, dx) / size, np.arctan2(dy, dx)

    def uniform(low: float, high: float) -> Float[np.ndarray, "n 1 1"]:
        return rng.uniform(low, high, (n, 1, 1))

    outline = 1 + (0.05 + 0.2 * uniform(0, 1) ** 3) * np.cos(2 * (angle - uniform(0, math.pi)))
    for waves in (3, 4, 5):
        outline += uniform(0, 0.035) * np.cos(waves * angle + uniform(0, 2 * math.pi))
    rim = radius[:, None, None] * outline
    rho = distance / rim
    edge = rng.uniform(0.5, 0.8) / size + 0.15 * focus
    coverage = np.clip((rim - distance) / (2 * edge) + 0.5, 0, 1)

    offset = uniform(-0.12, 0.12) * radius[:, None, None] * size
    to_pale = np.hypot(dy - offset, dx + offset) / size / rim
    pallor = uniform(0.3, 1) * rng.uniform(0.5, 1)
    profile = 1 - pallor * np.exp(-((to_pale / uniform(0.36, 0.62)) ** 3))
    profile += uniform(0.05, 0.25) * np.exp(-(((rho - 0.88) / 0.1) ** 2))
    density = coverage * profile * uniform(0.75, 1.15)
    density -= rng.uniform(0, 0.12) * np.exp(-(((rho - 1.1) / 0.07) ** 2))  # refraction
    return _Cells(corners + p, coverage, density.astype(np.float32))


def _white_cells(rng: np.random.Generator) -> list[tuple[Float[np.ndarray, "2"], float]]:
    """Centres and radii."""
    count = rng.choice([0, 1, 2], p=[0.5, 0.42, 0.08])
    return [(rng.uniform(0, 1, 2), rng.uniform(0.13, 0.18)) for _ in range(count)]


def _paint_whites(
    rng: np.random.Generator,
    whites: list[tuple[Float[np.ndarray, "2"], float]],
    axis: Float[np.ndarray, " h"],
) -> tuple[Float[np.ndarray, "h w"], Float[np.ndarray, "h w 3"]]:
    """The coverage of white cells, 0 to 1, and their optical density: cytoplasm and a nucleus of
    lobes."""
    size = len(axis)
    covered = np.zeros((size, size), np.float32)
    density = np.zeros((size, size, 3), np.float32)
    for middle, radius in whites:
        dy, dx = axis[:, None] - middle[0], axis[None, :] - middle[1]
        angle = np.arctan2(dy, dx)
        wobble = 1 + sum(
            rng.uniform(0, 0.04) * np.cos(k * angle + rng.uniform(0, 2 * math.pi))
            for k in (2, 3, 4)
        )
        body = np.clip((radius * wobble - np.hypot(dy, dx)) * size / 1.5 + 0.5, 0, 1)
        lobes = rng.choice([1, 2, 3, 4, 5], p=[0.2, 0.15, 0.25, 0.25, 0.15])
        ring = 0.0 if lobes == 1 else 0.45 * radius
        reach = radius * (0.72 if lobes == 1 else rng.uniform(0.4, 0.5) - 0.035 * lobes)
        turns = rng.uniform(0, 2 * math.pi) + np.arange(lobes) * 5.0 / lobes
        potential = np.zeros_like(body)
        for turn in turns + rng.normal(0, 0.15, lobes):
            y, x = dy - ring * math.sin(turn), dx - ring * math.cos(turn)
            long, tilt = rng.uniform(1.0, 1.35), rng.uniform(0, math.pi)
            along = (math.cos(tilt) * x + math.sin(tilt) * y) / (reach * long)
            across = (math.cos(tilt) * y - math.sin(tilt) * x) / reach
            potential += np.exp(-2.2 * (along**2 + across**2))
        nucleus = np.clip((potential - math.exp(-2.2)) * size * reach / 0.6 + 0.5, 0, 1) * body
        mottle = 1 + 0.12 * cloud(rng, 24, size)[..., None]
        grains = 1 + 0.25 * cloud(rng, 40, size)[..., None]
        own = (1 - nucleus[..., None]) * _CYTOPLASM * grains * rng.uniform(0.6, 1.2)
        own = own + nucleus[..., None] * _NUCLEUS * mottle
        density += body[..., None] * (own - density)
        covered = np.maximum(covered, body.astype(np.float32))
    return covered, density


def _platelets(rng: np.random.Generator, axis: Float[np.ndarray, " h"]) -> Float[np.ndarray, "h w"]:
    density = np.zeros((len(axis),) * 2)
    for _ in range(rng.poisson(1.5)):
        middle, radius = rng.uniform(0, 1, 2), rng.uniform(0.018, 0.032)
        for y, x in middle + rng.normal(0, 0.35 * radius, (4, 2)):
            squared = (axis[:, None] - y) ** 2 + (axis[None, :] - x) ** 2
            density += rng.uniform(0.2, 0.5) * np.exp(-((squared / (0.8 * radius) ** 2) ** 2))
    return np.minimum(density, 1.3)


def _light(rng: np.random.Generator, size: int) -> Float[np.ndarray, "h w 3"]:
    """The empty ground under an uneven lamp, 0 … 255."""
    ground = np.array([213, 214, 207]) + rng.uniform(-9, 9, 3) + rng.uniform(-14, 14)
    lamp = 1 + 0.025 * cloud(rng, 3, size)
    return ground * lamp[..., None]


def _develop(
    rng: np.random.Generator, image: Float[np.ndarray, "h w 3"], focus: float
) -> np.ndarray:
    """Focus and noise."""
    blur = 0.35 * focus * image.shape[0]
    if blur > 0.2:
        image = gaussian_filter(image, (blur, blur, 0))
    image = image + rng.normal(0, rng.uniform(1, 4), image.shape)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)
