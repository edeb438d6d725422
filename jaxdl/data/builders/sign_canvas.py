"""A canvas to draw traffic signs on, and the plates without their symbols.

Every sign is drawn in units of its half width: x to the right, y down, both from -1 to 1.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont

RED, BLUE, YELLOW, GREEN = (193, 22, 30), (10, 82, 160), (247, 184, 0), (0, 150, 84)
WHITE, BLACK, GREY = (246, 246, 244), (18, 18, 20), (100, 104, 108)
EDGE = 0.97  # half width of a sign, which leaves a clear margin

Point = Sequence[float] | np.ndarray
Colour = tuple[int, int, int]


class Canvas:
    """A transparent square from (-1, -1) to (1, 1) to draw on in flat colours."""

    def __init__(self, side: int):
        self.image = Image.new("RGBA", (side, side), (255, 255, 255, 0))
        self._draw = ImageDraw.Draw(self.image)
        self._half = side / 2

    def polygon(self, points, colour: Colour) -> None:
        """The polygon with these corners, filled."""
        corners = (np.asarray(points, float) + 1) * self._half - 0.5
        self._draw.polygon([tuple(corner) for corner in corners], colour)

    def disc(self, centre: Point, radius: float, colour: Colour) -> None:
        """A filled circle."""
        self.polygon(arc(centre, radius, 0, 360), colour)

    def box(self, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
        """A filled rectangle with upright sides."""
        self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], colour)

    def stroke(self, points, width, colour: Colour = BLACK, *, butt: bool = False) -> None:
        """A line through the points with round joins; `width` may be one for each point.

        Its ends are round, or with `butt` cut off square.
        """
        points = np.asarray(points, float)
        radii = np.broadcast_to(np.asarray(width, float) / 2, len(points))
        for p, q, r, s in zip(points, points[1:], radii, radii[1:], strict=False):
            along = (q - p) / (np.linalg.norm(q - p) + 1e-9)
            across = np.array([-along[1], along[0]])
            self.polygon([p + r * across, q + s * across, q - s * across, p - r * across], colour)
        ends = slice(1, -1) if butt else slice(None)
        for point, radius in zip(points[ends], radii[ends], strict=True):
            self.disc(point, radius, colour)

    def rounded(self, corners, radius: float, colour: Colour) -> None:
        """A regular polygon whose corners are circles of that radius."""
        corners = np.asarray(corners, float)
        middle = corners.mean(0)
        inner = np.linalg.norm((corners[0] + corners[1]) / 2 - middle)  # of the inscribed circle
        corners = middle + (corners - middle) * (1 - radius / inner)
        self.polygon(corners, colour)
        self.stroke([*corners, corners[0]], 2 * radius, colour)

    def text(self, word: str, box: tuple[float, float, float, float], colour: Colour) -> None:
        """A word in bold type, its ink stretched to fill (left, top, right, bottom)."""
        font = ImageFont.truetype(_font_file(), round(1.5 * self._half))
        left, top, right, bottom = map(int, font.getbbox(word))
        ink = Image.new("L", (right - left, bottom - top))
        ImageDraw.Draw(ink).text((-left, -top), word, 255, font)
        pixels = [round((u + 1) * self._half) for u in box]
        ink = ink.resize((pixels[2] - pixels[0], pixels[3] - pixels[1]), Image.Resampling.BICUBIC)
        self.image.paste((*colour, 255), (pixels[0], pixels[1]), ink)


def arc(
    centre: Point, radius: float | Point, start: float, stop: float
) -> Float[np.ndarray, "n 2"]:
    """Points of an ellipse's arc. Angles in degrees: 0 right, 90 down, 180 left, 270 up."""
    t = np.radians(np.linspace(start, stop, max(3, round(abs(stop - start) / 3))))
    return np.asarray(centre) + np.asarray(radius) * np.stack([np.cos(t), np.sin(t)], 1)


def transform(points, scale: float, at: Point, angle: float = 0.0) -> Float[np.ndarray, "n 2"]:
    """The points turned clockwise by `angle` degrees about 0, scaled, then moved to `at`."""
    cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    return scale * np.asarray(points, float) @ np.array([[cos, sin], [-sin, cos]]) + np.asarray(at)


def _font_file() -> str:
    from matplotlib import get_data_path

    file = Path(get_data_path(), "fonts", "ttf", "DejaVuSans-Bold.ttf")
    if not file.is_file():
        raise FileNotFoundError(f"syn_signs: no font {file}; reinstall matplotlib with its fonts")
    return str(file)


# --- Plates: the sign without its symbol -----------------------------------------------------


def prohibition(c: Canvas, inside: Colour = WHITE) -> None:
    """A red ring on white; inside it, white or another colour."""
    c.disc((0, 0), EDGE, WHITE)
    c.disc((0, 0), 0.94, RED)
    c.disc((0, 0), 0.745, inside)


def end_of_limit(c: Canvas) -> None:
    """A white disc with a grey rim."""
    c.disc((0, 0), EDGE, WHITE)
    c.disc((0, 0), 0.93, GREY)
    c.disc((0, 0), 0.89, WHITE)


def bars(c: Canvas) -> None:
    """Five black stripes that end at the rim, rising to the right."""
    for offset in (-0.2, -0.1, 0, 0.1, 0.2):
        half = np.sqrt(0.89**2 - offset**2)
        c.stroke(
            transform([(-half, offset), (half, offset)], 1, (0, 0), -45), 0.047, BLACK, butt=True
        )


def command(c: Canvas) -> None:
    """A blue disc with a white rim."""
    c.disc((0, 0), EDGE, WHITE)
    c.disc((0, 0), 0.93, BLUE)


def corners(radius: float, centre: Point, count: int, first: float) -> Float[np.ndarray, "n 2"]:
    """The corners of a regular polygon, the first at an angle in degrees."""
    turns = np.radians(first + 360 / count * np.arange(count))
    return np.asarray(centre) + radius * np.stack([np.cos(turns), np.sin(turns)], 1)


def triangle(c: Canvas, *, up: bool) -> None:
    """Equilateral; the inside has in-radius .42 about (0, ±.25)."""
    sign = 1 if up else -1
    for radius, rounding, colour in ((1.21, 0.12, WHITE), (1.17, 0.10, RED), (0.84, 0.03, WHITE)):
        c.rounded(corners(radius, (0, 0.25 * sign), 3, -90 * sign), rounding, colour)
