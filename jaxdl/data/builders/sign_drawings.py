"""The 43 traffic signs of GTSRB, drawn from polygons, strokes and one font.

Shapes, colours and symbols follow the German road traffic regulations (StVO); the drawings are our
own. Every sign is drawn in units of its half width: x to the right, y down, both from -1 to 1.
"""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont, ImageOps

RED, BLUE, YELLOW, GREEN = (193, 22, 30), (10, 82, 160), (247, 184, 0), (0, 150, 84)
WHITE, BLACK, GREY = (246, 246, 244), (18, 18, 20), (100, 104, 108)
_OVERSAMPLING = 4  # drawn pixels per pixel of a template; ImageDraw itself does not smooth edges
_EDGE = 0.97  # half width of a sign, which leaves a clear margin

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


@functools.cache
def templates(size: int = 128) -> UInt8[np.ndarray, "43 size size 4"]:
    """The 43 signs face on, RGBA with straight alpha, in the order of CLASS_NAMES; read-only.

    `size` is the side in pixels. A sign fills the square but for a margin of 1.5% on each side.

    Raises:
      ValueError: `size` is below 8.
      FileNotFoundError: matplotlib is installed without its fonts.
    """
    if size < 8:
        raise ValueError(f"syn_signs: templates of {size} pixels; ask for 8 or more")
    images = []
    for draw in _DRAWINGS.values():
        canvas = Canvas(_OVERSAMPLING * size)
        image = draw(canvas) or canvas.image  # a mirrored drawing returns an image of its own
        images.append(np.asarray(image.resize((size, size), Image.Resampling.BOX)))
    signs = np.stack(images)
    signs.flags.writeable = False
    return signs


def _font_file() -> str:
    from matplotlib import get_data_path

    file = Path(get_data_path(), "fonts", "ttf", "DejaVuSans-Bold.ttf")
    if not file.is_file():
        raise FileNotFoundError(f"syn_signs: no font {file}; reinstall matplotlib with its fonts")
    return str(file)


# --- Plates: the sign without its symbol -----------------------------------------------------


def _prohibition(c: Canvas, inside: Colour = WHITE) -> None:
    c.disc((0, 0), _EDGE, WHITE)
    c.disc((0, 0), 0.94, RED)
    c.disc((0, 0), 0.745, inside)


def _end_of_limit(c: Canvas) -> None:
    c.disc((0, 0), _EDGE, WHITE)
    c.disc((0, 0), 0.93, GREY)
    c.disc((0, 0), 0.89, WHITE)


def _bars(c: Canvas) -> None:
    """Five black stripes that end at the rim, rising to the right."""
    for offset in (-0.2, -0.1, 0, 0.1, 0.2):
        half = np.sqrt(0.89**2 - offset**2)
        c.stroke(
            transform([(-half, offset), (half, offset)], 1, (0, 0), -45), 0.047, BLACK, butt=True
        )


def _command(c: Canvas) -> None:
    c.disc((0, 0), _EDGE, WHITE)
    c.disc((0, 0), 0.93, BLUE)


def _corners(radius: float, centre: Point, count: int, first: float) -> Float[np.ndarray, "n 2"]:
    turns = np.radians(first + 360 / count * np.arange(count))
    return np.asarray(centre) + radius * np.stack([np.cos(turns), np.sin(turns)], 1)


def _triangle(c: Canvas, *, up: bool) -> None:
    """Equilateral; the inside has in-radius .42 about (0, ±.25)."""
    sign = 1 if up else -1
    for radius, rounding, colour in ((1.21, 0.12, WHITE), (1.17, 0.10, RED), (0.84, 0.03, WHITE)):
        c.rounded(_corners(radius, (0, 0.25 * sign), 3, -90 * sign), rounding, colour)


# --- Vehicles, people, animals ----------------------------------------------------------------


def _arrow(c: Canvas, path, width: float, head: float, colour: Colour = BLACK) -> None:
    """A stroke whose last point is the tip of a head `head` wide; the tail is cut square."""
    path = np.asarray(path, float)
    along = path[-1] - path[-2]
    along /= np.linalg.norm(along)
    across = np.array([-along[1], along[0]])
    base = path[-1] - 0.62 * head * along
    c.stroke([*path[:-1], base + 0.02 * along], width, colour, butt=True)
    c.polygon([path[-1], base + head / 2 * across, base - head / 2 * across], colour)


def _car(c: Canvas, scale: float, at: Point, colour: Colour, angle: float = 0.0) -> None:
    """A car from behind, `scale` wide."""

    def shape(points, fill):
        c.polygon(transform(points, scale, at, angle), fill)

    for side in (-1, 1):
        tyre = [(0.26, 0.2), (0.47, 0.2), (0.46, 0.48), (0.27, 0.48)]
        shape([(side * x, y) for x, y in tyre], colour)
    half = [(0.5, 0.33), (0.5, 0.0), (0.44, -0.1), (0.33, -0.43), (0.25, -0.48)]
    shape([*half, *((-x, y) for x, y in reversed(half))], colour)
    shape([(-0.22, -0.36), (0.22, -0.36), (0.31, -0.08), (-0.31, -0.08)], WHITE)
    for side in (-1, 1):
        shape(arc((0.35 * side, 0.11), 0.075, 0, 360), WHITE)


def _lorry_behind(c: Canvas, scale: float, at: Point, colour: Colour) -> None:
    """A lorry from behind, `scale` wide: a box body, the gap, the bumper and twin tyres."""

    def box(*corners):
        (left, top), (right, bottom) = transform(np.reshape(corners, (2, 2)), scale, at)
        c.box(left, top, right, bottom, colour)

    box(-0.45, -0.85, 0.5, 0.14)
    box(-0.12, 0.1, 0.12, 0.3)
    box(-0.5, 0.22, 0.5, 0.36)
    box(-0.47, 0.22, -0.2, 0.62)
    box(0.2, 0.22, 0.47, 0.62)


def _lorry_aside(c: Canvas) -> None:
    c.box(-0.2, -0.36, 0.62, 0.16, BLACK)
    c.polygon([(-0.62, 0.16), (-0.62, -0.04), (-0.52, -0.26), (-0.24, -0.26), (-0.24, 0.16)], BLACK)
    c.polygon([(-0.54, -0.05), (-0.47, -0.19), (-0.33, -0.19), (-0.33, -0.05)], WHITE)
    c.box(-0.62, 0.1, 0.62, 0.2, BLACK)
    for x in (-0.4, 0.14, 0.42):
        c.disc((x, 0.22), 0.165, WHITE)
        c.disc((x, 0.22), 0.125, BLACK)


def _person(c: Canvas, scale: float, at: Point, head: Point, *limbs) -> None:
    """A head, and limbs as (width at the start, width at the end, points…)."""
    c.disc(transform([head], scale, at)[0], 0.105 * scale, BLACK)
    for start, end, *points in limbs:
        widths = np.linspace(start, end, len(points)) * scale
        c.stroke(transform(points, scale, at), widths)


def _pedestrian(c: Canvas) -> None:
    _person(
        c,
        1.02,
        (0.02, 0.16),
        (-0.03, -0.38),
        (0.2, 0.17, (0.0, -0.2), (0.02, 0.08)),
        (0.12, 0.07, (0.0, 0.08), (-0.1, 0.24), (-0.2, 0.44), (-0.27, 0.43)),
        (0.12, 0.07, (0.04, 0.08), (0.11, 0.26), (0.26, 0.42), (0.22, 0.47)),
        (0.09, 0.06, (-0.02, -0.22), (-0.17, -0.08), (-0.26, 0.06)),
        (0.09, 0.06, (0.03, -0.22), (0.16, -0.06), (0.2, 0.1)),
    )


def _child(c: Canvas, scale: float, at: Point) -> None:
    _person(
        c,
        scale,
        at,
        (-0.1, -0.42),
        (0.17, 0.2, (-0.04, -0.22), (0.06, 0.06)),
        (0.12, 0.07, (0.04, 0.06), (-0.17, 0.16), (-0.13, 0.38), (-0.22, 0.4)),
        (0.12, 0.07, (0.08, 0.06), (0.16, 0.24), (0.36, 0.26), (0.39, 0.33)),
        (0.08, 0.06, (-0.06, -0.24), (-0.24, -0.14), (-0.36, -0.26)),
        (0.08, 0.06, (-0.02, -0.24), (0.17, -0.16), (0.3, -0.04)),
    )


def _children(c: Canvas) -> None:
    _child(c, 0.9, (-0.13, 0.25))
    _child(c, 0.7, (0.3, 0.35))


def _digger(c: Canvas) -> None:
    """A man who bends over his shovel, before a heap."""
    _person(
        c,
        1.04,
        (-0.05, 0.11),
        (0.06, -0.33),
        (0.2, 0.21, (-0.02, -0.17), (-0.16, 0.08)),
        (0.13, 0.08, (-0.14, 0.08), (0.0, 0.22), (-0.04, 0.45), (0.03, 0.45)),
        (0.13, 0.08, (-0.18, 0.08), (-0.24, 0.24), (-0.4, 0.45), (-0.33, 0.46)),
        (0.09, 0.07, (0.0, -0.18), (0.14, -0.02), (0.2, 0.12)),
        (0.09, 0.07, (-0.04, -0.12), (0.02, 0.06), (0.12, 0.08)),
        (0.06, 0.06, (-0.02, 0.0), (0.36, 0.28)),
    )
    c.polygon([(0.22, 0.36), (0.34, 0.3), (0.42, 0.46), (0.32, 0.5)], BLACK)
    c.polygon([(0.1, 0.61), *arc((0.34, 0.61), (0.22, 0.22), 180, 360)], BLACK)


def _bicycle(c: Canvas) -> None:
    rear, front, pedals = (0.29, 0.37), (-0.29, 0.37), (0.03, 0.37)
    saddle, steering = (0.12, 0.04), (-0.18, 0.02)
    for wheel in (rear, front):
        c.stroke(arc(wheel, 0.2, 0, 360), 0.062)
    for line in (
        (rear, pedals, steering, saddle, pedals),
        (rear, saddle),
        (front, steering, (-0.21, -0.09), (-0.28, -0.1)),
        (saddle, (0.14, -0.02)),
    ):
        c.stroke(line, 0.056)
    c.stroke([(0.07, -0.04), (0.22, -0.04)], 0.08)


def _deer(c: Canvas) -> None:
    """A stag in mid-leap."""
    for start, end, *points in (
        (0.22, 0.17, (-0.14, 0.2), (0.04, 0.24), (0.24, 0.3)),  # trunk
        (0.17, 0.09, (-0.14, 0.16), (-0.24, -0.02), (-0.27, -0.1)),  # neck
        (0.11, 0.05, (-0.26, -0.1), (-0.4, -0.03)),  # head
        (0.05, 0.03, (-0.24, -0.12), (-0.13, -0.14)),  # ear
        (0.04, 0.035, (-0.26, -0.14), (-0.2, -0.24), (-0.08, -0.31), (-0.02, -0.4)),  # antlers
        (0.035, 0.03, (-0.2, -0.24), (-0.17, -0.37)),
        (0.035, 0.03, (-0.12, -0.29), (0.03, -0.28)),
        (0.1, 0.04, (-0.16, 0.24), (-0.36, 0.28), (-0.3, 0.42)),  # fore legs
        (0.1, 0.04, (-0.1, 0.28), (-0.24, 0.38), (-0.14, 0.5)),
        (0.16, 0.04, (0.24, 0.32), (0.3, 0.42), (0.42, 0.46), (0.5, 0.58)),  # hind legs
        (0.16, 0.04, (0.2, 0.34), (0.22, 0.46), (0.34, 0.5), (0.4, 0.6)),
        (0.05, 0.03, (0.3, 0.24), (0.37, 0.2)),  # tail
    ):
        c.stroke(transform(points, 0.97, (0.01, 0.02)), 1.1 * np.linspace(start, end, len(points)))


# --- Symbols in triangles ----------------------------------------------------------------------


def _crossroads(c: Canvas) -> None:
    c.box(-0.38, 0.22, 0.38, 0.34, BLACK)
    _arrow(c, [(0, 0.62), (0, -0.42)], 0.21, 0.42)


def _caution(c: Canvas) -> None:
    c.stroke([(0, -0.27), (0, 0.26)], (0.23, 0.13))
    c.disc((0, 0.5), 0.115, BLACK)


def _curve(c: Canvas) -> None:
    """A curve to the left."""
    bend = [(0.19, 0.62), (0.19, 0.32), *arc((-0.13, 0.32), 0.32, 0, -52)]
    _arrow(c, [*bend, (-0.34, -0.19)], 0.18, 0.42)


def _double_curve(c: Canvas) -> None:
    """First to the left."""
    path = [(0.17, 0.62), (0.17, 0.5), (-0.13, 0.28), (0.15, 0.06), (0.04, -0.12), (-0.09, -0.38)]
    _arrow(c, path, 0.15, 0.36)


def _bumps(c: Canvas) -> None:
    c.box(-0.52, 0.47, 0.52, 0.56, BLACK)
    for x in (-0.23, 0.23):
        c.polygon(arc((x, 0.5), (0.2, 0.3), 180, 360), BLACK)


def _slippery(c: Canvas) -> None:
    _car(c, 0.58, (0.0, 0.0), BLACK, 14)
    t = np.linspace(0, 1, 25)
    for side in (-1, 1):
        sway = 0.1 * np.sin(2 * np.pi * t)
        c.stroke(np.stack([side * (0.2 + sway), 0.3 + 0.3 * t], 1), 0.085)


def _narrows_right(c: Canvas) -> None:
    c.stroke([(-0.2, 0.62), (-0.2, -0.14)], 0.14, butt=True)
    c.stroke([(0.34, 0.62), (0.34, 0.36), (0.13, 0.12), (0.13, -0.22)], 0.14, butt=True)


def _lights(c: Canvas) -> None:
    c.stroke([(0, -0.15), (0, 0.47)], 0.36)
    for y, colour in ((-0.15, RED), (0.16, YELLOW), (0.47, GREEN)):
        c.disc((0, y), 0.145, colour)


def _snowflake(c: Canvas) -> None:
    for angle in range(0, 360, 60):
        for line in ([(0, 0), (0, -0.4)], [(-0.12, -0.35), (0, -0.22), (0.12, -0.35)]):
            c.stroke(transform(line, 1, (0, 0.22), angle), 0.062)


def _warning(symbol: Callable[[Canvas], None]) -> Callable[[Canvas], None]:
    def draw(c: Canvas) -> None:
        _triangle(c, up=True)
        symbol(c)

    return draw


# --- Whole signs --------------------------------------------------------------------------------


def _number_box(word: str) -> tuple[float, float, float, float]:
    width, height = (0.57, 0.4) if len(word) == 2 else (0.67, 0.33)
    return -width, -height, width, height


def _limit(word: str) -> Callable[[Canvas], None]:
    def draw(c: Canvas) -> None:
        _prohibition(c)
        c.text(word, _number_box(word), BLACK)

    return draw


def _end_of_80(c: Canvas) -> None:
    _end_of_limit(c)
    c.text("80", _number_box("80"), GREY)
    _bars(c)


def _end_of_all(c: Canvas) -> None:
    _end_of_limit(c)
    _bars(c)


def _two_cars(c: Canvas, left: Colour, right: Colour) -> None:
    _car(c, 0.66, (-0.36, 0.0), left)
    _car(c, 0.66, (0.36, 0.0), right)


def _lorry_and_car(c: Canvas, left: Colour, right: Colour) -> None:
    _lorry_behind(c, 0.62, (-0.33, 0.06), left)
    _car(c, 0.6, (0.36, 0.16), right)


def _no_passing(c: Canvas, vehicles=_two_cars) -> None:
    _prohibition(c)
    vehicles(c, RED, BLACK)


def _end_of_no_passing(c: Canvas, vehicles=_two_cars) -> None:
    _end_of_limit(c)
    vehicles(c, GREY, GREY)
    _bars(c)


def _priority(c: Canvas) -> None:
    for radius, rounding, colour in ((0.99, 0.1, WHITE), (0.68, 0.05, YELLOW)):
        c.rounded(_corners(radius, (0, 0), 4, -90), rounding, colour)


def _stop(c: Canvas) -> None:
    c.polygon(_corners(_EDGE / np.cos(np.pi / 8), (0, 0), 8, 22.5), WHITE)
    c.polygon(_corners(0.91 / np.cos(np.pi / 8), (0, 0), 8, 22.5), RED)
    c.text("STOP", (-0.79, -0.32, 0.79, 0.32), WHITE)


def _no_lorries(c: Canvas) -> None:
    _prohibition(c)
    _lorry_aside(c)


def _no_entry(c: Canvas) -> None:
    _prohibition(c, RED)
    c.box(-0.72, -0.17, 0.72, 0.17, WHITE)


def _ahead(c: Canvas) -> None:
    _command(c)
    _arrow(c, [(0, 0.74), (0, -0.76)], 0.25, 0.72, WHITE)


def _turn_left(c: Canvas) -> None:
    _command(c)
    bend = [(0.3, 0.7), (0.3, 0.16), *arc((0.06, 0.16), 0.24, 0, -90)]
    _arrow(c, [*bend, (-0.74, -0.08)], 0.25, 0.68, WHITE)


def _ahead_or_left(c: Canvas) -> None:
    _command(c)
    _arrow(c, [(0.2, 0.76), (0.2, -0.76)], 0.21, 0.56, WHITE)
    bend = [(0.2, 0.6), *arc((-0.02, 0.3), 0.22, 0, -90)]
    _arrow(c, [*bend, (-0.72, 0.08)], 0.21, 0.56, WHITE)


def _keep_left(c: Canvas) -> None:
    _command(c)
    _arrow(c, transform([(0, -0.76), (0, 0.8)], 1, (0, 0), 45), 0.27, 0.8, WHITE)


def _roundabout(c: Canvas) -> None:
    _command(c)
    for start in (75, 195, 315):
        body = arc((0, 0), 0.5, start, start - 66)
        tangent = body[-1] - body[-2]
        tip = body[-1] + 0.3 * tangent / np.linalg.norm(tangent)
        _arrow(c, [*body, tip * 0.94], 0.22, 0.48, WHITE)


def _mirrored(draw: Callable[[Canvas], None]) -> Callable[[Canvas], Image.Image]:
    def mirrored(c: Canvas) -> Image.Image:
        draw(c)
        return ImageOps.mirror(c.image)

    return mirrored


_DRAWINGS: dict[str, Callable] = {
    "speed limit 20 km/h": _limit("20"),
    "speed limit 30 km/h": _limit("30"),
    "speed limit 50 km/h": _limit("50"),
    "speed limit 60 km/h": _limit("60"),
    "speed limit 70 km/h": _limit("70"),
    "speed limit 80 km/h": _limit("80"),
    "end of speed limit 80 km/h": _end_of_80,
    "speed limit 100 km/h": _limit("100"),
    "speed limit 120 km/h": _limit("120"),
    "no passing": _no_passing,
    "no passing for vehicles over 3.5 t": functools.partial(_no_passing, vehicles=_lorry_and_car),
    "right-of-way at next intersection": _warning(_crossroads),
    "priority road": _priority,
    "yield": functools.partial(_triangle, up=False),
    "stop": _stop,
    "no vehicles": _prohibition,
    "no vehicles over 3.5 t": _no_lorries,
    "no entry": _no_entry,
    "general caution": _warning(_caution),
    "dangerous curve left": _warning(_curve),
    "dangerous curve right": _mirrored(_warning(_curve)),
    "double curve": _warning(_double_curve),
    "bumpy road": _warning(_bumps),
    "slippery road": _warning(_slippery),
    "road narrows on the right": _warning(_narrows_right),
    "road work": _warning(_digger),
    "traffic signals": _warning(_lights),
    "pedestrians": _warning(_pedestrian),
    "children crossing": _warning(_children),
    "bicycles crossing": _warning(_bicycle),
    "beware of ice or snow": _warning(_snowflake),
    "wild animals crossing": _warning(_deer),
    "end of all speed and passing limits": _end_of_all,
    "turn right ahead": _mirrored(_turn_left),
    "turn left ahead": _turn_left,
    "ahead only": _ahead,
    "go straight or right": _mirrored(_ahead_or_left),
    "go straight or left": _ahead_or_left,
    "keep right": _mirrored(_keep_left),
    "keep left": _keep_left,
    "roundabout mandatory": _roundabout,
    "end of no passing": _end_of_no_passing,
    "end of no passing for vehicles over 3.5 t": functools.partial(
        _end_of_no_passing, vehicles=_lorry_and_car
    ),
}  # in the order of GTSRB's ClassId
