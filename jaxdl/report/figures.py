"""Figures that every study writes: the data as the network sees it, and the curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float


def samples(
    images: Float[np.ndarray, "n h w c"], titles: Sequence[str], path: Path, columns: int = 12
) -> None:
    """A sheet of images, each with its title; grey levels or colours span what occurs in them."""
    from matplotlib.figure import Figure

    rows = math.ceil(len(images) / columns)
    figure = Figure(figsize=(columns * 0.75, rows * 0.95), layout="constrained")
    low, high = float(images.min()), float(images.max())
    shown = (images - low) / max(high - low, 1e-12)
    grid = figure.subplots(rows, columns, squeeze=False)
    for place, axes in enumerate(grid.flat):
        axes.set_axis_off()
        if place < len(shown):
            image = shown[place]
            axes.imshow(
                image if image.shape[-1] == 3 else image[..., 0], cmap="gray", vmin=0, vmax=1
            )
            axes.set_title(titles[place], fontsize=8, pad=2)
    figure.savefig(path, dpi=150)


def curves(
    panels: Mapping[str, Mapping[str, Sequence[tuple[Float[np.ndarray, " t"], ...]]]],
    path: Path,
    xlabel: str = "step",
) -> None:
    """Curves of single networks (thin) and their mean (thick).

    Args:
      panels: the y axis's label -> legend entry -> one ``(steps, values)`` a network; the
        networks of an entry are logged at the same steps.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(panels), 3.2), layout="constrained")
    for axes, (label, groups) in zip(
        np.atleast_1d(figure.subplots(1, len(panels))), panels.items(), strict=True
    ):
        for number, (name, lines) in enumerate(groups.items()):
            colour = f"C{number}"
            for steps, values in lines:
                axes.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
            mean = np.mean([values for _, values in lines], axis=0)
            axes.plot(lines[0][0], mean, color=colour, linewidth=2, label=name)
        axes.set(xlabel=xlabel, ylabel=label)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)
