"""Figures of what networks see: tables of pictures."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Num

from jaxdl.report.figures import Line, own_style, plain, save
from jaxdl.report.figures import curves as draw_curves
from jaxdl.report.predictions import probabilities

RGB = Float[np.ndarray, "h w 3"]


class Picture(NamedTuple):
    """A picture in a table, and the lines of text above it."""

    pixels: RGB
    caption: str = ""


Row = tuple[str, Sequence[Picture]]
"""A row: its title, in lines, and its pictures."""

CELL, LINE = 0.95, 0.14  # inches: a picture's side with its border, a line of text


@own_style()
def pictures(rows: Sequence[Row], path: Path) -> None:
    """A table of pictures, each scaled to its cell."""
    from matplotlib.figure import Figure

    margin = 0.1 + 0.075 * max((len(line) for label, _ in rows for line in label.split("\n")))
    lines = [max(p.caption.count("\n") + bool(p.caption) for p in row) for _, row in rows]
    width = margin + CELL * max(len(row) for _, row in rows)
    height = sum(CELL + LINE * n for n in lines) + 0.05
    figure = Figure(figsize=(width, height))
    axes, top = figure.add_axes((0, 0, 1, 1)), height
    for (label, row), count in zip(rows, lines, strict=True):
        top -= LINE * count + CELL
        axes.text(0.05, top + CELL / 2, plain(label), fontsize=8, va="center")
        for i, (pixels, caption) in enumerate(row):
            side = (CELL - 0.08) / max(pixels.shape[:2])
            middle, base = margin + CELL * (i + 0.5), top + CELL / 2
            half = [side * n / 2 for n in pixels.shape[:2]]
            extent = (middle - half[1], middle + half[1], base - half[0], base + half[0])
            axes.imshow(pixels, extent=extent, interpolation="nearest")
            axes.text(
                middle, top + CELL + 0.01, plain(caption), fontsize=7, ha="center", linespacing=1.1
            )
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.set_axis_off()
    save(figure, path, full_colour=True, dpi=130)


def to_rgb(inputs: Float[np.ndarray, "n h w c"]) -> Float[np.ndarray, "n h w 3"]:
    """Network inputs as pictures: grey levels or colours span what occurs in them."""
    low, high = float(inputs.min()), float(inputs.max())
    images = (inputs - low) / max(high - low, 1e-12)
    return images if images.shape[-1] == 3 else images.mean(-1, keepdims=True).repeat(3, -1)


def signed(
    values: Float[np.ndarray, "h w"], background: RGB | None = None, share: float = 0.3
) -> RGB:
    """Red above 0, blue below, white at 0; the hundredth of the values that are largest are in full
    colour.

    Args:
      background: a picture of the same size that shines through, in grey.
      share: weight of the background.
    """
    from matplotlib import colormaps

    limit = max(float(np.quantile(np.abs(values), 0.99)), 1e-12)
    colours = colormaps["RdBu_r"](0.5 + values / (2 * limit))[..., :3]
    if background is None:
        return colours
    return (1 - share) * colours + share * background.mean(-1, keepdims=True)


def positive(values: Num[np.ndarray, "h w"]) -> RGB:
    """Dark at 0, light at the greatest value."""
    from matplotlib import colormaps

    return colormaps["viridis"](values / max(float(values.max()), 1e-12))[..., :3]


def filters(kernel: Float[np.ndarray, "kh kw c o"], path: Path, columns: int = 12) -> None:
    """The first layer's filters: grey is 0, and all have one scale; of three channels in colour, of
    others their mean."""
    weights = kernel if kernel.shape[2] == 3 else kernel.mean(2, keepdims=True).repeat(3, 2)
    limit = max(float(np.abs(weights).max()), 1e-12)
    images = [Picture(0.5 + weights[..., i] / (2 * limit)) for i in range(weights.shape[3])]
    pictures(
        [
            (f"{start} … {min(start + columns, len(images)) - 1}", images[start : start + columns])
            for start in range(0, len(images), columns)
        ],
        path,
    )


def feature_maps(
    image: Float[np.ndarray, "h w c"],
    stages: Iterable[tuple[str, Float[np.ndarray, "..."]]],
    path: Path,
    columns: int = 12,
) -> None:
    """An image, and by stage the channels with the greatest activations in it, each with its own
    scale; without stages that put out no maps [oh, ow, d]."""
    rows: list[Row] = [("image", [Picture(to_rgb(image[None])[0])])]
    for name, maps in stages:
        if maps.ndim != 3:
            continue
        order = np.argsort(-maps.max((0, 1)), kind="stable")[:columns]
        rows.append((name, [Picture(positive(maps[..., i]), str(i)) for i in np.sort(order)]))
    pictures(rows, path)


Pixels = Float[np.ndarray, "_ _ 3"]  # of several sizes
Patches = tuple[Sequence[Pixels], Sequence[Pixels]]
"""What drives a unit most, strongest first, and the images it comes from, with a frame."""


def units(patches: Mapping[str, Patches], path: Path) -> None:
    """A row a unit: its patches, and beside them their images in the same order; nothing without
    units."""
    rows: list[Row] = []
    for name, parts in patches.items():
        row = [
            Picture(pixels, f"{part} {i}" * (not rows))
            for part, images in zip(("patch", "in image"), parts, strict=True)
            for i, pixels in enumerate(images, 1)
        ]
        rows.append((name, row))
    if rows:
        pictures(rows, path)


def attributions(
    images: Float[np.ndarray, "n h w 3"],
    maps: Mapping[str, Float[np.ndarray, "n h w"]],
    labels: Sequence[str],
    path: Path,
) -> None:
    """Images, and the attribution maps of each prediction; see :func:`signed`."""
    rows: list[Row] = []
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        row = [Picture(image, "image" * (not i))]
        row += [Picture(signed(x[i], image), name * (not i)) for name, x in maps.items()]
        rows.append((label, row))
    pictures(rows, path)


def perturbation(curves: Mapping[str, Sequence[Float[np.ndarray, "2 points"]]], path: Path) -> None:
    """Draw the mean probability during deletion and insertion of pixels, by attribution and
    network; the legend has the order of the lines of insertion."""
    ranking = sorted(curves, key=lambda name: -np.mean([pair[1] for pair in curves[name]]))
    panels: dict[str, dict[str, list[Line]]] = {}
    for row, action in enumerate(("deleted", "inserted")):
        panels[f"probability, pixels {action}"] = {
            name: [(np.linspace(0, 100, len(pair[row])), pair[row]) for pair in curves[name]]
            for name in ranking
        }
    draw_curves(panels, path, "share of the pixels, %")


def captions(
    logits: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " n"], class_names: Sequence[str]
) -> list[str]:
    """Captions of images, in lines: the true class where it is known (labels of 0 and more), the
    predicted class and its probability."""
    lines = []
    for label, shares in zip(labels, probabilities(logits), strict=True):
        truth = f"is {class_names[label]}\n" if label >= 0 else ""
        guess = class_names[shares.argmax()]
        lines.append(f"{truth}seen as {guess}\n{100 * shares.max():.0f} %")
    return lines


def spread(items: Sequence | Int[np.ndarray, " n"], count: int) -> list:
    """At most ``count`` of the items, evenly spaced."""
    places = np.linspace(0, len(items) - 1, min(count, len(items)))
    return [items[i] for i in places.round().astype(int)]


def sheet(
    images: Float[np.ndarray, "n h w 3"], captions: Sequence[str], path: Path, columns: int = 8
) -> None:
    """Images with captions."""
    shown = [Picture(image, text) for image, text in zip(images, captions, strict=True)]
    pictures([("", shown[i : i + columns]) for i in range(0, len(shown), columns)], path)


def framed(
    image: RGB, corner: tuple[int, int], size: tuple[int, int]
) -> Float[np.ndarray, "oh ow 3"]:
    """An image, enlarged to 120 pixels at least, with a yellow frame, edged in black, around a part
    of it, or around a twelfth of its side where that is more."""
    scale, margin = -(-120 // min(image.shape[:2])), max(image.shape[:2]) / 12
    large = image.repeat(scale, 0).repeat(scale, 1)
    (top, bottom), (left, right) = (
        (
            max(0, round(scale * (first + n / 2 - max(n, margin) / 2))),
            max(0, round(scale * (first + n / 2 + max(n, margin) / 2))),
        )
        for first, n in zip(corner, size, strict=True)
    )
    width = max(3, len(large) // 40)
    for colour, edge in (((0.0, 0.0, 0.0), 0), ((1.0, 0.85, 0.0), max(1, width // 3))):
        frame = np.zeros(large.shape[:2], bool)
        frame[top + edge : bottom - edge, left + edge : right - edge] = True
        inner = width - edge
        frame[top + inner : bottom - inner, left + inner : right - inner] = False
        large[frame] = colour
    return large
