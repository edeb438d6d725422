"""The vessels of a retina, in disc diameters (DD) from the optic disc, x towards the temple.

An artery and a vein lead into each of four quadrants, the temporal ones arching around the macula;
all divide and taper, and none enters the fovea nor crosses the raphe temporal to it.
"""

import dataclasses
import math

import numpy as np
from jaxtyping import Bool, Float

_STEPS = (44, 26)  # points of a trunk and of a branch


@dataclasses.dataclass(frozen=True)
class Branches:
    """Vessels as paths that taper."""

    points: Float[np.ndarray, "b s 2"]
    """Points, DD."""
    widths: Float[np.ndarray, "b s"]
    """Widths, DD."""
    arteries: Bool[np.ndarray, " b"]


def grow_vessels(rng: np.random.Generator, fovea: Float[np.ndarray, "2"]) -> list[Branches]:
    """The trunks and three generations of their branches.

    Args:
      fovea: DD, where none of them enters.
    """
    waviness = rng.uniform(0.6, 1.6)
    generations = [_trunks(rng, fovea, waviness)]
    for count in (7, 3, 2):
        generations.append(_divide(rng, generations[-1], count, fovea, waviness))
    return generations


def _trunks(rng: np.random.Generator, fovea: Float[np.ndarray, "2"], waviness: float) -> Branches:
    """An artery and a vein into every quadrant, and lesser ones between them."""
    uniform = rng.uniform
    # Root (DD), heading there and at the far end (degrees), bend and length (DD), width, artery.
    table = []
    for up in (1, -1):
        tall = 2.3 * uniform(0.85, 1.2)
        first = int(rng.integers(2))  # which of them is on the outer side
        for artery in (first, 1 - first):
            bend, end = tall * uniform(0.9, 1.1), -up * uniform(4, 18)
            heading = up * (uniform(92, 108) if artery == first else uniform(76, 90))
            table.append((-0.1, -0.04 * up, heading, end, bend, uniform(6.5, 7.5), 1.0, artery))
            root, heading = up * uniform(0.3, 0.55), up * uniform(108, 130)
            end, bend = up * uniform(125, 165), uniform(1.2, 2.5)
            table.append((-0.13, root, heading, end, bend, 4.5, uniform(0.55, 0.75), artery))
        for artery in (0, 1):  # to the macula
            heading, end = up * uniform(8, 50), -up * uniform(0, 25)
            table.append((0.25, 0.12 * up, heading, end, 0.9, uniform(1.3, 2.4), 0.3, artery))
    for i in range(rng.integers(2, 5)):  # to the nose
        heading = uniform(135, 225)
        end, length = heading + rng.normal(0, 18), uniform(1.2, 3.2)
        table.append((-0.3, 0, heading, end, 1.0, length, uniform(0.25, 0.42), i % 2))
    x, y, start, end, bend, length, width, artery = np.array(table, float).T
    arteries = artery > 0
    width = width * np.where(arteries, 0.078, 0.1) * uniform(0.85, 1.15, len(x))
    roots = np.stack([x, y], -1) + rng.normal(0, 0.03, (len(x), 2))
    return _grow(
        rng,
        roots,
        np.radians(start),
        np.radians(end),
        bend,
        length,
        width,
        arteries,
        _STEPS[0],
        fovea,
        waviness,
    )


def _divide(
    rng: np.random.Generator,
    parents: Branches,
    count: int,
    fovea: Float[np.ndarray, "2"],
    waviness: float,
) -> Branches:
    """Up to ``count`` branches off every one: towards the fovea, or away from their parent."""
    b, s, _ = parents.points.shape
    rows, slots = np.arange(b)[:, None], np.arange(count)
    shares = (slots + rng.uniform(0.1, 0.9, (b, count))) / count
    index = 1 + (0.95 * (s - 2) * shares).astype(int)
    side = np.where((slots + rng.integers(2, size=(b, 1))) % 2, 1, -1)
    points, width = parents.points[rows, index], parents.widths[rows, index]
    step = parents.points[rows, index + 1] - parents.points[rows, index - 1]
    stride = np.hypot(step[..., 0], step[..., 1])
    spacing = stride / 2 * s / count
    keep = (width > 0.016) & (stride > 0) & (np.hypot(points[..., 0], points[..., 1]) > 0.6)
    keep &= rng.random((b, count)) < spacing / 0.45
    heading = np.arctan2(step[..., 1], step[..., 0])[keep]
    remaining = (spacing * count * (1 - index / s))[keep]
    points, width, side = points[keep], width[keep], side[keep]
    n = len(points)

    direction = fovea - points
    distance = np.hypot(direction[:, 0], direction[:, 1])
    bearing = np.arctan2(direction[:, 1], direction[:, 0]) - heading
    bearing -= 2 * math.pi * np.round(bearing / (2 * math.pi))
    inner = (bearing * side > 0) & (np.abs(bearing) < 2.2) & (distance < 3.4)
    turn = side * rng.uniform(0.5, 1.0, n)
    outwards = turn * rng.uniform(0.3, 1.3, n)
    end = heading + np.where(inner, bearing * rng.uniform(0.6, 1.0, n), outwards)
    length = np.where(
        inner, distance * rng.uniform(0.5, 0.9, n), remaining * rng.uniform(0.4, 0.9, n)
    )
    return _grow(
        rng,
        points,
        heading + turn,
        end,
        rng.uniform(0.3, 1.0, n),
        np.clip(length, 0.4, 3.0),
        width * np.where(inner, rng.uniform(0.4, 0.7, n), rng.uniform(0.5, 0.8, n)),
        np.broadcast_to(parents.arteries[:, None], keep.shape)[keep],
        _STEPS[1],
        fovea,
        waviness,
    )


def _grow(
    rng: np.random.Generator,
    roots: Float[np.ndarray, "b 2"],
    start: Float[np.ndarray, " b"],
    end: Float[np.ndarray, " b"],
    bend: Float[np.ndarray, " b"],
    length: Float[np.ndarray, " b"],
    width: Float[np.ndarray, " b"],
    arteries: Bool[np.ndarray, " b"],
    count: int,
    fovea: Float[np.ndarray, "2"],
    waviness: float,
) -> Branches:
    """Vessels of ``count`` points whose heading goes from ``start`` to ``end`` (radians) over the
    length ``bend``, waving; they stop where the fovea is near, and at the raphe."""
    b = len(roots)
    index = np.arange(count)
    arc = length[:, None] * (index / (count - 1))
    stray = np.cumsum(rng.normal(0, 1, (b, count)), 1) * np.sqrt(length / count)[:, None]
    period = rng.uniform(0.35, 0.7, b) + np.minimum(8 * width, 0.6)  # the thin ones wind the most
    wave = np.sin(2 * math.pi * (arc / period[:, None] + rng.random((b, 1))))
    wave *= (rng.uniform(0.05, 0.3, b) / (0.5 + 12 * width))[:, None]
    heading = end[:, None] + (start - end)[:, None] * np.exp(-arc / bend[:, None])
    heading += waviness * (0.15 * stray + wave)
    steps = np.stack([np.cos(heading), np.sin(heading)], -1)[:, :-1]
    steps *= (length / (count - 1))[:, None, None]
    points = np.concatenate([roots[:, None], roots[:, None] + np.cumsum(steps, 1)], 1)

    x, y = points[..., 0], points[..., 1] - fovea[1] * np.clip(points[..., 0] / fovea[0], 0, 1)
    close = np.hypot(*np.moveaxis(points - fovea, -1, 0)) < 0.4 + 7 * width[:, None]
    side = np.where(y[:, 2:3] > 0, 1, -1)
    stops = close | ((x > 0.8) & (y * side < 0.04))
    last = np.where(stops.any(1), stops.argmax(1), count)[:, None]
    widths = width[:, None] * (1 - 0.6 * index / count) * np.clip((last - index) / 5, 0, 1)
    points = np.take_along_axis(points, np.clip(index, 0, np.maximum(last - 1, 0))[..., None], 1)
    return Branches(points, widths, arteries)
