"""Figures of a fine-tuning study: accuracies, and test images with a network's predictions."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import UInt8

from jaxdl.report.comparisons import over_seeds
from jaxdl.report.figures import own_style, plain, samples, save
from jaxdl.report.finetune import Layout, Result, by_condition
from jaxdl.report.predictions import Prediction, probabilities

Line = tuple[Sequence[float], Sequence[Mapping[int, float]]]
"""The positions of points, and their values by seed."""


def draw(results: Sequence[Result], layout: Layout, folder: Path) -> None:
    """``images.png``, accuracies against training images; and ``stages.png``, against frozen
    stages, a line a number of images, beside the baseline's dashed lines."""
    accuracy, counts = by_condition(results), layout.counts(results)
    stages = layout.stages(results)
    lines = {
        method: (counts, [accuracy[method, count, n] for count in counts])
        for method, n in layout.frozen.items()
    }
    _errorbars(lines, "training images", folder / "images.png", logarithmic=True)
    if not stages:
        return
    lines = {
        f"{count:,} images": (stages, [accuracy[layout.every_stage, count, n] for n in stages])
        for count in reversed(counts)
    }
    levels = {
        f"{count:,} images": accuracy[layout.condition(layout.baseline, count)] for count in counts
    }
    label = f"first stages frozen, of {layout.depth}, by {plain(layout.every_stage)}"
    _errorbars(
        lines, label, folder / "stages.png", levels=levels, level_name=plain(layout.baseline)
    )


@own_style()
def _errorbars(
    lines: Mapping[str, Line],
    xlabel: str,
    path: Path,
    *,
    logarithmic: bool = False,
    levels: Mapping[str, Mapping[int, float]] = MappingProxyType({}),
    level_name: str = "",
) -> None:
    """Means ± standard errors over seeds, and each seed's value as a dot; dashed, with a band, the
    level that a line is to be compared with. The legend has the order of the lines' last means."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes, ends = figure.subplots(), []
    handles: list[Any] = []
    for i, (name, (places, values)) in enumerate(lines.items()):
        shift = 0.02 * (i - (len(lines) - 1) / 2)  # few pixels, so that no bar hides another
        positions = [x * 10 ** (0.4 * shift) if logarithmic else x + shift for x in places]
        estimates = [over_seeds(seeds) for seeds in values]
        ends.append(estimates[-1].mean)
        bars = axes.errorbar(
            positions,
            [100 * x.mean for x in estimates],
            [0 if math.isnan(x.se) else 100 * x.se for x in estimates],
            marker="o",
            markersize=4,
            linewidth=1.4,
            color=f"C{i % 10}",
            label=plain(name),
        )
        handles.append(bars)
        for x, seeds in zip(positions, values, strict=True):
            dots = [100 * value for value in seeds.values()]
            axes.plot([x] * len(dots), dots, ".", color=f"C{i % 10}", alpha=0.3, markersize=4)
        if name in levels:
            level = over_seeds(levels[name])
            axes.axhline(100 * level.mean, color=f"C{i % 10}", linewidth=1.2, linestyle="--")
            if not math.isnan(level.se):
                edges = 100 * (level.mean - level.se), 100 * (level.mean + level.se)
                axes.axhspan(*edges, color=f"C{i % 10}", alpha=0.12, linewidth=0)
    handles = [handles[i] for i in np.argsort(-np.nan_to_num(ends, nan=-1), kind="stable")]
    if levels:
        handles += axes.plot([], [], color="0.4", linewidth=1.2, linestyle="--", label=level_name)
    if logarithmic:
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
    ticks = list(dict.fromkeys(x for places, _ in lines.values() for x in places))
    axes.set_xticks(ticks, [f"{x:,}" for x in ticks])
    axes.set(xlabel=xlabel, ylabel="accuracy, %")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=9)
    save(figure, path, dpi=150)


ROWS, COLUMNS = 5, 8


def draw_page(
    images: UInt8[np.ndarray, "n h w c"],
    prediction: Prediction,
    class_names: Sequence[str],
    path: Path,
) -> None:
    """A page of images: two rows with the worst mistakes, by the probability of the wrong class,
    then images at random. Titles give the predicted class and its probability, and for mistakes the
    true class in red."""
    outputs, labels = prediction
    chances = probabilities(outputs)
    predicted, confidence = chances.argmax(-1), chances.max(-1)
    wrong = predicted != labels
    mistakes = np.argsort(np.where(wrong, -confidence, 1), kind="stable")[: wrong.sum()]
    mistakes = mistakes[: 2 * COLUMNS]
    others = np.random.default_rng(0).permutation(np.setdiff1d(np.arange(len(labels)), mistakes))
    ids = [*mistakes, *others[: ROWS * COLUMNS - len(mistakes)]]
    titles = []
    for i in ids:
        title = f"{class_names[predicted[i]]}: {100 * confidence[i]:.0f} %"
        titles.append(f"{title}\ntrue: {class_names[labels[i]]}" if wrong[i] else title)
    colours = ["firebrick" if wrong[i] else "black" for i in ids]
    samples(images[ids] / 255, titles, path, COLUMNS, side=1.2, colours=colours)
