"""The symbols on traffic signs: vehicles, people, animals, and what triangles warn of."""

from collections.abc import Callable

import numpy as np

from jaxdl.data.builders.sign_canvas import (
    BLACK,
    GREEN,
    RED,
    WHITE,
    YELLOW,
    Canvas,
    Colour,
    Point,
    arc,
    transform,
    triangle,
)

# --- Vehicles, people, animals ----------------------------------------------------------------


def arrow(c: Canvas, path, width: float, head: float, colour: Colour = BLACK) -> None:
    """A stroke whose last point is the tip of a head `head` wide; the tail is cut square."""
    path = np.asarray(path, float)
    along = path[-1] - path[-2]
    along /= np.linalg.norm(along)
    across = np.array([-along[1], along[0]])
    base = path[-1] - 0.62 * head * along
    c.stroke([*path[:-1], base + 0.02 * along], width, colour, butt=True)
    c.polygon([path[-1], base + head / 2 * across, base - head / 2 * across], colour)


def car(c: Canvas, scale: float, at: Point, colour: Colour, angle: float = 0.0) -> None:
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


def lorry_behind(c: Canvas, scale: float, at: Point, colour: Colour) -> None:
    """A lorry from behind, `scale` wide: a box body, the gap, the bumper and twin tyres."""

    def box(*corners):
        (left, top), (right, bottom) = transform(np.reshape(corners, (2, 2)), scale, at)
        c.box(left, top, right, bottom, colour)

    box(-0.45, -0.85, 0.5, 0.14)
    box(-0.12, 0.1, 0.12, 0.3)
    box(-0.5, 0.22, 0.5, 0.36)
    box(-0.47, 0.22, -0.2, 0.62)
    box(0.2, 0.22, 0.47, 0.62)


def lorry_aside(c: Canvas) -> None:
    """A lorry from the side."""
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


def pedestrian(c: Canvas) -> None:
    """A person walking on stripes."""
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


def children(c: Canvas) -> None:
    """Two children running."""
    _child(c, 0.9, (-0.13, 0.25))
    _child(c, 0.7, (0.3, 0.35))


def digger(c: Canvas) -> None:
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


def bicycle(c: Canvas) -> None:
    """A bicycle from the side."""
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


def deer(c: Canvas) -> None:
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


def crossroads(c: Canvas) -> None:
    """A straight cross."""
    c.box(-0.38, 0.22, 0.38, 0.34, BLACK)
    arrow(c, [(0, 0.62), (0, -0.42)], 0.21, 0.42)


def caution(c: Canvas) -> None:
    """An exclamation mark."""
    c.stroke([(0, -0.27), (0, 0.26)], (0.23, 0.13))
    c.disc((0, 0.5), 0.115, BLACK)


def curve(c: Canvas) -> None:
    """A curve to the left."""
    bend = [(0.19, 0.62), (0.19, 0.32), *arc((-0.13, 0.32), 0.32, 0, -52)]
    arrow(c, [*bend, (-0.34, -0.19)], 0.18, 0.42)


def double_curve(c: Canvas) -> None:
    """First to the left."""
    path = [(0.17, 0.62), (0.17, 0.5), (-0.13, 0.28), (0.15, 0.06), (0.04, -0.12), (-0.09, -0.38)]
    arrow(c, path, 0.15, 0.36)


def bumps(c: Canvas) -> None:
    """Two bumps in a road."""
    c.box(-0.52, 0.47, 0.52, 0.56, BLACK)
    for x in (-0.23, 0.23):
        c.polygon(arc((x, 0.5), (0.2, 0.3), 180, 360), BLACK)


def slippery(c: Canvas) -> None:
    """A car above its skid marks."""
    car(c, 0.58, (0.0, 0.0), BLACK, 14)
    t = np.linspace(0, 1, 25)
    for side in (-1, 1):
        sway = 0.1 * np.sin(2 * np.pi * t)
        c.stroke(np.stack([side * (0.2 + sway), 0.3 + 0.3 * t], 1), 0.085)


def narrows_right(c: Canvas) -> None:
    """Two lanes of which the right one narrows."""
    c.stroke([(-0.2, 0.62), (-0.2, -0.14)], 0.14, butt=True)
    c.stroke([(0.34, 0.62), (0.34, 0.36), (0.13, 0.12), (0.13, -0.22)], 0.14, butt=True)


def lights(c: Canvas) -> None:
    """A traffic light."""
    c.stroke([(0, -0.15), (0, 0.47)], 0.36)
    for y, colour in ((-0.15, RED), (0.16, YELLOW), (0.47, GREEN)):
        c.disc((0, y), 0.145, colour)


def snowflake(c: Canvas) -> None:
    """A snowflake."""
    for angle in range(0, 360, 60):
        for line in ([(0, 0), (0, -0.4)], [(-0.12, -0.35), (0, -0.22), (0.12, -0.35)]):
            c.stroke(transform(line, 1, (0, 0.22), angle), 0.062)


def warning(symbol: Callable[[Canvas], None]) -> Callable[[Canvas], None]:
    """The drawing of a symbol within a red triangle."""

    def draw(c: Canvas) -> None:
        triangle(c, up=True)
        symbol(c)

    return draw
