"""The figure of the landscape study: paths of optimizers on surfaces, as an image and growing."""

import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float

from jaxdl.optim.surfaces import SURFACES
from jaxdl.report.figures import own_style, plain, save
from jaxdl.report.tables import write_atomically

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.text import Text

Paths = Mapping[str, Mapping[str, Float[np.ndarray, "_ 3"]]]
"""Paths by surface and optimizer: x, y and the value, at the start and after each step."""
FRAMES = 90
"""The greatest number of frames in an animation."""


@own_style()
def draw(paths: Paths, file: Path, tolerance: float) -> None:
    """Write the whole paths, each surface above the highest values that are still to come, as
    a PNG file: where a curve crosses the tolerance, the value stays below it."""
    scene = make_scene(paths, tolerance)
    for artist in scene.show(scene.steps):
        artist.set_animated(False)
    scene.title.remove()  # an animation's step
    save(scene.figure, file)


@own_style()
def animate(paths: Paths, file: Path, tolerance: float) -> None:
    """Write the same figure as a GIF file, whose paths grow at an increasing speed."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    scene = make_scene(paths, tolerance)
    scene.figure.set_dpi(80)
    canvas = FigureCanvasAgg(scene.figure)
    canvas.draw()  # once, what does not move
    background, images = canvas.copy_from_bbox(scene.figure.bbox), []
    for step in frame_steps(scene.steps):
        canvas.restore_region(background)
        for artist in scene.show(step):
            scene.figure.draw_artist(artist)
        images.append(Image.fromarray(np.array(canvas.buffer_rgba())).convert("RGB"))
    ends = np.vstack([np.asarray(images[0]), np.asarray(images[-1])])  # which have all colours
    palette = Image.fromarray(ends).quantize(256)
    frames = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    milliseconds = [80] * (len(frames) - 1) + [3000]
    content = io.BytesIO()
    options = {"save_all": True, "append_images": frames[1:], "duration": milliseconds, "loop": 0}
    frames[0].save(content, "GIF", **options)
    write_atomically(file, content.getvalue())


def frame_steps(steps: int) -> list[int]:
    """The steps that an animation shows, from 0 to the last: all at first, then ever fewer."""
    return sorted({round(steps * (frame / (FRAMES - 1)) ** 2) for frame in range(FRAMES)})


class Scene(NamedTuple):
    """A figure, and what moves in it."""

    figure: "Figure"
    title: "Text"
    lines: list[tuple["Line2D", "Line2D", Float[np.ndarray, "_ 2"]]]
    """A line, the dot at its end, and all points of the line, one a step."""
    steps: int
    """Steps of the longest path."""

    def show(self, step: int) -> Iterable["Artist"]:
        """Let the paths end at this step; all that moves."""
        self.title.set_text(f"step {step:,}")
        yield self.title
        for line, dot, points in self.lines:
            line.set_data(*points[: step + 1].T)
            dot.set_data(*points[: step + 1][-1:].T)
            yield line
        for _, dot, _ in self.lines:
            yield dot


def make_scene(paths: Paths, tolerance: float) -> Scene:
    """The figure before any path is shown."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(name for by_name in paths.values() for name in by_name))
    steps = max(len(path) for by_name in paths.values() for path in by_name.values()) - 1
    figure = Figure((4 * len(paths), 6.8), dpi=120, layout="constrained")
    title, lines = figure.suptitle("step", animated=True), []
    for plane, curve, (surface, by_name) in zip(
        *figure.subplots(2, len(paths), squeeze=False, height_ratios=(1.3, 1)),
        paths.items(),
        strict=True,
    ):
        _draw_surface(plane, surface)
        highest = max(float(path[:, 2].max()) for path in by_name.values())
        curve.set_xscale("log", nonpositive="mask")  # there is no step 0
        curve.set(yscale="log", xlim=(1, max(steps, 2)), ylim=(tolerance / 100, 2 * highest))
        curve.set(xlabel="step", ylabel="highest value from here on")
        curve.axhline(tolerance, color="0.4", linewidth=1, linestyle=":")
        curve.spines[["top", "right"]].set_visible(False)
        # The first optimizers are the plainest, whose paths hide the least of the others'.
        for name, path in reversed(by_name.items()):
            style = {"color": f"C{names.index(name) % 10}", "animated": True}
            highest_ahead = np.maximum.accumulate(path[::-1, 2])[::-1]
            values = np.column_stack([np.arange(len(path)), highest_ahead])
            for axes, points in ((plane, path[:, :2]), (curve, values)):
                (line,) = axes.plot([], [], linewidth=1.3, alpha=0.85, **style)
                (dot,) = axes.plot([], [], "o", markeredgecolor="white", markersize=5, **style)
                lines.append((line, dot, points))
    handles = [curve.plot([], [], color=f"C{i % 10}", linewidth=3)[0] for i in range(len(names))]
    figure.legend(
        handles, list(map(plain, names)), loc="outside lower center", ncols=8, frameon=False
    )
    return Scene(figure, title, lines, steps)


def _draw_surface(axes, surface: str) -> None:
    """Contours, on a logarithmic scale, start (circle) and minima (stars)."""
    from matplotlib.colors import LogNorm

    function, minima, start, window, _ = SURFACES[surface]
    x, y = np.meshgrid(*(np.linspace(*side, 300) for side in window))
    values = np.asarray(function(x, y))
    levels = np.geomspace(1e-3, 1, 13) * values.max()
    style = {"levels": levels, "norm": LogNorm(levels[0], 1e5 * levels[-1])}  # light greys
    axes.contourf(x, y, values, cmap="Greys", extend="min", **style)
    axes.contour(x, y, values, colors="0.55", linewidths=0.4, levels=levels)
    axes.plot(*np.transpose(minima), "*", color="black", markersize=14)
    axes.plot(*start, "o", color="white", markeredgecolor="black", markersize=8)
    axes.set(title=surface, xlim=window[0], ylim=window[1], xlabel="x", ylabel="y")
