"""The 43 traffic signs of GTSRB, drawn from polygons, strokes and one font.

Shapes, colours and symbols follow the German road traffic regulations (StVO); the drawings are our
own. Every sign is drawn in units of its half width: x to the right, y down, both from -1 to 1.
"""

import functools
from collections.abc import Callable

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from jaxdl.data.builders.sign_canvas import (
    BLACK,
    EDGE,
    GREY,
    RED,
    WHITE,
    YELLOW,
    Canvas,
    Colour,
    arc,
    bars,
    command,
    corners,
    end_of_limit,
    prohibition,
    transform,
    triangle,
)
from jaxdl.data.builders.sign_symbols import (
    arrow,
    bicycle,
    bumps,
    car,
    caution,
    children,
    crossroads,
    curve,
    deer,
    digger,
    double_curve,
    lights,
    lorry_aside,
    lorry_behind,
    narrows_right,
    pedestrian,
    slippery,
    snowflake,
    warning,
)

_OVERSAMPLING = 4  # drawn pixels per pixel of a template; ImageDraw itself does not smooth edges


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


# --- Whole signs --------------------------------------------------------------------------------


def _number_box(word: str) -> tuple[float, float, float, float]:
    width, height = (0.57, 0.4) if len(word) == 2 else (0.67, 0.33)
    return -width, -height, width, height


def _limit(word: str) -> Callable[[Canvas], None]:
    def draw(c: Canvas) -> None:
        prohibition(c)
        c.text(word, _number_box(word), BLACK)

    return draw


def _end_of_80(c: Canvas) -> None:
    end_of_limit(c)
    c.text("80", _number_box("80"), GREY)
    bars(c)


def _end_of_all(c: Canvas) -> None:
    end_of_limit(c)
    bars(c)


def _two_cars(c: Canvas, left: Colour, right: Colour) -> None:
    car(c, 0.66, (-0.36, 0.0), left)
    car(c, 0.66, (0.36, 0.0), right)


def _lorry_and_car(c: Canvas, left: Colour, right: Colour) -> None:
    lorry_behind(c, 0.62, (-0.33, 0.06), left)
    car(c, 0.6, (0.36, 0.16), right)


def _no_passing(c: Canvas, vehicles=_two_cars) -> None:
    prohibition(c)
    vehicles(c, RED, BLACK)


def _end_of_no_passing(c: Canvas, vehicles=_two_cars) -> None:
    end_of_limit(c)
    vehicles(c, GREY, GREY)
    bars(c)


def _priority(c: Canvas) -> None:
    for radius, rounding, colour in ((0.99, 0.1, WHITE), (0.68, 0.05, YELLOW)):
        c.rounded(corners(radius, (0, 0), 4, -90), rounding, colour)


def _stop(c: Canvas) -> None:
    c.polygon(corners(EDGE / np.cos(np.pi / 8), (0, 0), 8, 22.5), WHITE)
    c.polygon(corners(0.91 / np.cos(np.pi / 8), (0, 0), 8, 22.5), RED)
    c.text("STOP", (-0.79, -0.32, 0.79, 0.32), WHITE)


def _no_lorries(c: Canvas) -> None:
    prohibition(c)
    lorry_aside(c)


def _no_entry(c: Canvas) -> None:
    prohibition(c, RED)
    c.box(-0.72, -0.17, 0.72, 0.17, WHITE)


def _ahead(c: Canvas) -> None:
    command(c)
    arrow(c, [(0, 0.74), (0, -0.76)], 0.25, 0.72, WHITE)


def _turn_left(c: Canvas) -> None:
    command(c)
    bend = [(0.3, 0.7), (0.3, 0.16), *arc((0.06, 0.16), 0.24, 0, -90)]
    arrow(c, [*bend, (-0.74, -0.08)], 0.25, 0.68, WHITE)


def _ahead_or_left(c: Canvas) -> None:
    command(c)
    arrow(c, [(0.2, 0.76), (0.2, -0.76)], 0.21, 0.56, WHITE)
    bend = [(0.2, 0.6), *arc((-0.02, 0.3), 0.22, 0, -90)]
    arrow(c, [*bend, (-0.72, 0.08)], 0.21, 0.56, WHITE)


def _keep_left(c: Canvas) -> None:
    command(c)
    arrow(c, transform([(0, -0.76), (0, 0.8)], 1, (0, 0), 45), 0.27, 0.8, WHITE)


def _roundabout(c: Canvas) -> None:
    command(c)
    for start in (75, 195, 315):
        body = arc((0, 0), 0.5, start, start - 66)
        tangent = body[-1] - body[-2]
        tip = body[-1] + 0.3 * tangent / np.linalg.norm(tangent)
        arrow(c, [*body, tip * 0.94], 0.22, 0.48, WHITE)


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
    "right-of-way at next intersection": warning(crossroads),
    "priority road": _priority,
    "yield": functools.partial(triangle, up=False),
    "stop": _stop,
    "no vehicles": prohibition,
    "no vehicles over 3.5 t": _no_lorries,
    "no entry": _no_entry,
    "general caution": warning(caution),
    "dangerous curve left": warning(curve),
    "dangerous curve right": _mirrored(warning(curve)),
    "double curve": warning(double_curve),
    "bumpy road": warning(bumps),
    "slippery road": warning(slippery),
    "road narrows on the right": warning(narrows_right),
    "road work": warning(digger),
    "traffic signals": warning(lights),
    "pedestrians": warning(pedestrian),
    "children crossing": warning(children),
    "bicycles crossing": warning(bicycle),
    "beware of ice or snow": warning(snowflake),
    "wild animals crossing": warning(deer),
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
