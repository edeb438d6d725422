"""Random fields of batches of images, and the made-up streets behind drawn signs.

Arrays are [n, h, w, channel]; ``x`` [w, 1] and ``y`` [h, 1, 1] run from -½ to ½ over the image.
"""

import numpy as np
from jaxtyping import Float32


def uniform(
    rng: np.random.Generator, n: int, low: float, high: float, channels: int = 1
) -> Float32[np.ndarray, "n 1 1 channels"]:
    """Numbers for each image and channel."""
    return rng.uniform(low, high, (n, 1, 1, channels)).astype(np.float32)


def chance(rng: np.random.Generator, n: int, probability: float) -> np.ndarray:
    """1 for images that an event happens to, else 0."""
    return (rng.random((n, 1, 1, 1)) < probability).astype(np.float32)


def step(distance: np.ndarray, softness: float | np.ndarray) -> np.ndarray:
    """0 below -softness, 1 above softness, linear between."""
    return np.clip(distance / (2 * softness) + 0.5, 0, 1)


def clouds(
    rng: np.random.Generator, n: int, cells: int, side: int, channels: int = 1
) -> Float32[np.ndarray, "n side side channels"]:
    """Smooth noise of variance near 1, `cells` × `cells` independent values over the image."""
    grid = rng.standard_normal((n, channels, cells, cells), np.float32)
    at = np.linspace(0, cells - 1, side, dtype=np.float32)
    near = np.clip(1 - np.abs(at[:, None] - np.arange(cells, dtype=np.float32)), 0, 1)
    weight = near * near * (3 - 2 * near)
    weight /= np.sqrt((weight**2).sum(1, keepdims=True))
    return (weight @ grid @ weight.T).transpose(0, 2, 3, 1)


def ramp(rng: np.random.Generator, n: int, x, y, height: float) -> np.ndarray:
    """A slope over the image, at most ± height along each axis."""
    tilt = uniform(rng, n, -2 * height, 2 * height, 2)
    return tilt[..., :1] * x + tilt[..., 1:] * y


_SKIES = np.array([[0.38, 0.58, 0.86], [0.86, 0.9, 0.95], [0.6, 0.63, 0.67]], np.float32)
_LEAVES = np.array([[0.2, 0.3, 0.1], [0.34, 0.4, 0.16], [0.3, 0.27, 0.16]], np.float32)
_WALLS = np.array(
    [
        [0.62, 0.58, 0.52],
        [0.45, 0.27, 0.22],
        [0.5, 0.5, 0.52],
        [0.8, 0.78, 0.72],
        [0.25, 0.25, 0.27],
    ],
    np.float32,
)


def colours(rng: np.random.Generator, n: int, palette: np.ndarray) -> np.ndarray:
    """A colour of the palette for each image, more or less light."""
    return palette[rng.integers(len(palette), size=(n, 1, 1))] * uniform(rng, n, 0.7, 1.15)


def background(
    rng: np.random.Generator, n: int, x, y, shift: Float32[np.ndarray, "n 1 1 2"]
) -> Float32[np.ndarray, "n side side 3"]:
    """Layers from far to near: sky, walls, foliage, things out of focus, the sign's post."""
    side = len(x)
    top, bottom = colours(rng, n, _SKIES), colours(rng, n, _SKIES)
    scene = top + (bottom - top) * np.clip(y + 0.5, 0, 1)
    scene = scene * (1 + 0.08 * clouds(rng, n, 4, side))

    for _ in range(3):  # walls, most with rows of windows
        wall = colours(rng, n, _WALLS)
        floors, bays = uniform(rng, n, 2, 9), uniform(rng, n, 2, 9)
        window = ((x * bays % 1) < 0.45) & ((y * floors % 1) < 0.55)
        wall = wall * (1 - window * uniform(rng, n, -0.1, 0.6))
        wall = wall * (1 + 0.06 * clouds(rng, n, 16, side))
        left, width, roof = (
            uniform(rng, n, *ends) for ends in ((-0.9, 0.4), (0.3, 1), (-0.7, 0.4))
        )
        soft = uniform(rng, n, 0.01, 0.06)
        inside = step(x - left, soft) * step(left + width - x, soft) * step(y - roof, soft)
        scene += chance(rng, n, 0.35) * inside * (wall - scene)

    # Foliage: light and dark leaves, dense below a ragged line and thinning out above it.
    texture = 0.5 * clouds(rng, n, 7, side) + 0.6 * clouds(rng, n, 19, side)
    leaves = colours(rng, n, _LEAVES) * (1 + 0.6 * texture) + 0.03 * clouds(rng, n, 9, side, 3)
    line = ramp(rng, n, x, y, 0.4) + y - uniform(rng, n, -0.9, 0.5)
    ragged = line + 0.25 * clouds(rng, n, 5, side) + 0.2 * texture
    scene += chance(rng, n, 0.6) * step(ragged, uniform(rng, n, 0.03, 0.2)) * (leaves - scene)

    for _ in range(2):  # cars, boards, people: blurred shapes of any colour
        colour = rng.uniform(0.05, 0.9, (n, 1, 1, 3)).astype(np.float32)
        colour = 0.3 * colour + 0.7 * colour.mean(-1, keepdims=True)
        across = (x - uniform(rng, n, -0.6, 0.6)) / uniform(rng, n, 0.08, 0.4)
        down = (y - uniform(rng, n, -0.6, 0.6)) / uniform(rng, n, 0.08, 0.4)
        round_or_square = np.where(
            rng.random((n, 1, 1, 1)) < 0.5,
            np.hypot(across, down),
            np.maximum(abs(across), abs(down)),
        )
        mask = step(1 - round_or_square, uniform(rng, n, 0.08, 0.6))
        scene += chance(rng, n, 0.4) * mask * (colour - scene)

    half = uniform(rng, n, 0.02, 0.05)
    offset = (x - shift[..., :1] - uniform(rng, n, -0.02, 0.02)) / half
    post = uniform(rng, n, 0.35, 0.75) * (1 - 0.35 * offset * np.sign(uniform(rng, n, -1, 1)))
    inside = step(1 - abs(offset), 0.3) * step(y - shift[..., 1:], 0.01)
    scene += chance(rng, n, 0.5) * inside * (post - scene)
    return np.clip(scene, 0.02, 1).astype(np.float32)
