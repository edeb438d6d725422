"""Solutions of differential equations, their errors, and the points that were trained on."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxdl.report.figures import own_style, plain, save


@own_style()
def surfaces(
    panels: Mapping[
        str,
        tuple[
            Sequence[str],
            Float[np.ndarray, "_ _"],
            Float[np.ndarray, " _"],
            Float[np.ndarray, " _"],
        ],
    ],
    path: Path,
    title: str,
) -> None:
    """Functions found, the reference (exact or numerical), and the error on a logarithmic scale: of
    two coordinates as colours, of one as lines, of more on the slice where the first ones are
    largest.

    Args:
      panels: title -> names of the coordinates, points (of a grid, or of a part of one), the
        function found there, and the reference.
      title: title of the figure, the network's name.
    """
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    figure = Figure((12, 3.2 * len(panels) + 0.4), dpi=150, layout="constrained")
    figure.suptitle(plain(title))
    rows = figure.subfigures(len(panels), 1, squeeze=False)[:, 0]
    for row, (name, (names, points, solution, reference)) in zip(rows, panels.items(), strict=True):
        with np.errstate(invalid="ignore"):
            error = np.abs(solution - reference)
        # Infinite values have no colour, as NaN has none; nor do they stretch the others' scale.
        solution, reference, error = (
            np.where(np.isfinite(v), v, np.nan) for v in (solution, reference, error)
        )
        if points.shape[1] == 1:
            values, errors = row.subplots(1, 2)
            values.plot(points[:, 0], reference, color="0.7", linewidth=4, label="reference")
            values.plot(points[:, 0], solution, color="C0", linewidth=1.2, label="found")
            values.set(xlabel=plain(names[0]), title=plain(name))
            values.legend(frameon=False)
            errors.plot(points[:, 0], error, color="C3")
            errors.set(xlabel=plain(names[0]), title="|error|", yscale="log")
            continue
        outer, plane = points[:, :-2], points[:, -2:]
        last = (outer == outer.max(axis=0)).all(axis=1)
        slice_ = ", ".join(
            f"{c} = {x:g}" for c, x in zip(names[:-2], outer.max(axis=0), strict=True)
        )
        slice_note = f" at {slice_}" if slice_ else ""
        axis = [np.unique(column) for column in plane[last].T]
        index = tuple(np.searchsorted(a, c) for a, c in zip(axis, plane[last].T, strict=True))
        top = max(float(np.nanmax(error[last], initial=0.0)), 1e-30)  # of a slice that is exact
        colours = {"cmap": "viridis"}
        if (finite := reference[last][np.isfinite(reference[last])]).size:
            colours |= {"vmin": finite.min(), "vmax": finite.max()}
        parts: tuple[tuple[str, np.ndarray, dict[str, Any]], ...] = (
            (f"{name}{slice_note}", solution, colours),
            (f"reference{slice_note}", reference, colours),
            (f"|error|{slice_note}", error, {"norm": LogNorm(top / 1e4, top), "cmap": "magma"}),
        )
        for axes, (label, values, style) in zip(row.subplots(1, 3), parts, strict=True):
            image = np.full([len(a) for a in axis], np.nan)
            image[index] = np.maximum(values[last], top / 1e4) if "norm" in style else values[last]
            drawing = axes.pcolormesh(*axis, image.T, shading="nearest", rasterized=True, **style)
            row.colorbar(drawing, ax=axes)
            axes.set(xlabel=plain(names[-2]), ylabel=plain(names[-1]), title=plain(label))
    save(figure, path, full_colour=True)


@own_style()
def scattered(
    panels: Mapping[str, tuple[Sequence[str], Mapping[str, Float[np.ndarray, "_ _"]]]],
    path: Path,
    title: str,
) -> None:
    """Points, by their first two coordinates; those of one coordinate in a line for each name.

    Args:
      panels: title -> the coordinates' names, points by name.
      title: title of the figure, the network's name.
    """
    from matplotlib.figure import Figure

    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = Figure((5.2 * columns, 4 * rows), dpi=150, layout="constrained")
    figure.suptitle(plain(title))
    grid = figure.subplots(rows, columns, squeeze=False).flat
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    for axes, (name, (names, groups)) in zip(grid, panels.items(), strict=False):
        for height, (group, points) in enumerate(groups.items()):
            x, y = points.T[:2] if len(names) > 1 else (points[:, 0], [height] * len(points))
            axes.scatter(x, y, s=3, lw=0, label=plain(f"{group}: {len(points):,}"))
        axes_note = f", seen along {', '.join(names[2:])}" if len(names) > 2 else ""
        axes.set(xlabel=plain(names[0]), title=plain(f"{name}{axes_note}"))
        if len(names) > 1:
            axes.set_ylabel(plain(names[1]))
        else:
            axes.set_yticks(range(len(groups)), map(plain, groups))
            axes.set_ylim(-0.5, len(groups) - 0.5)
        axes.legend(
            loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2, frameon=False, markerscale=4
        )
    save(figure, path)
