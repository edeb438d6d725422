"""The figure of the transferability study: accuracy against the cut, in the form of the paper's
Figure 2 (Yosinski et al. 2014)."""

import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from jaxdl.report.figures import own_style, save
from jaxdl.report.transferred import SPLITS, TREATMENTS, Cell, Result, pick

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STYLES = {  # treatment: colour, marker and legend
    "base": ("#222222", "o", "base"),
    "BnB": ("#17408b", "s", "BnB: own layers, frozen"),
    "BnB+": ("#5fa8dd", "^", "BnB+: own, fine-tuned"),
    "AnB": ("#a3151b", "D", "AnB: other's layers, frozen"),
    "AnB+": ("#f08a76", "v", "AnB+: other's, fine-tuned"),
    "random": ("#6f6f6f", "X", "random layers, frozen"),
}


@own_style()
def draw(
    summary: Sequence[Cell],
    results: Sequence[Result],
    published: Sequence[Cell],
    path: str | os.PathLike,
) -> None:
    """Draw accuracy against the cut, in the form of the paper's Figure 2, as a PNG file.

    Above this run, below the published values; left the random halves, right the dissimilar ones
    with the random-features control. The base at n = 0 is a white circle; a treatment is drawn at
    the mean base plus its paired difference to base, with the standard error of that over seeds,
    since it may have been trained for some of the bases only. Small marks are single networks. The
    dotted line on the right is how far AnB falls on the random halves, drawn from the base of the
    dissimilar ones.
    """
    from matplotlib.figure import Figure  # slow to import, and only needed here

    # At 900 pixels, the width of a README, 9 points come out as 12 pixels.
    fig = Figure((9.0, 7.8), dpi=150, layout="constrained")
    grid = fig.subplots(2, 2, height_ratios=(1.5, 1.0))
    legend: dict = {}
    rows = (("this run", summary, results), ("Yosinski et al. (2014), ImageNet", published, ()))
    for (source, cells, networks), (left, right) in zip(rows, grid, strict=True):
        halves = [c for c in cells if c.split == "random" and c.treatment != "random"]
        right_cells = [c for c in cells if c.split == "dissimilar"]
        name = "Dissimilar halves" if right_cells else "Random layers"
        control = [c for c in cells if c.treatment == "random"]
        if control and not right_cells:
            right_cells = [*pick(cells, control[0].split, "base"), *control]
        elif not any(c in right_cells for c in control):  # it was measured on another split
            right_cells += control
        for axes, title, part in ((left, "Random halves", halves), (right, name, right_cells)):
            axes.set_title(f"{title}, {source}", loc="left", fontsize=10)
            legend |= _draw_cells(axes, part, networks)
        legend |= _draw_reference(right, cells)
        left.set_ylabel("accuracy, %")
    for axes in grid[1]:
        axes.set_xlabel("layer n at which the network is cut")
    labels = [*(STYLES[t][2] for t in ("base", "random", *TREATMENTS)), *legend]
    labels = [label for label in dict.fromkeys(labels) if label in legend]
    fig.legend(
        [legend[x] for x in labels],
        labels,
        loc="outside upper center",
        ncols=4,
        fontsize=8.5,
        frameon=False,
    )
    note = (
        "Base: mean ± standard error over seeds (the paper: splits). Treatments: that mean plus "
        "the paired\ndifference to base ± its standard error; without a base in the panel, means. "
        "Small marks are single networks."
    )
    fig.supxlabel(note, fontsize=8.5, color="0.35")
    save(fig, path)


def _draw_cells(axes: "Axes", cells: Sequence[Cell], networks: Sequence[Result]) -> dict:
    """Draw the lines of these cells and their single networks; returns handles for the legend."""
    handles = {}
    bases = {(r.split, r.seed, r.direction): r.accuracy for r in networks if r.treatment == "base"}
    depth = max((c.n for c in cells), default=0)
    axes.set_xticks(range(depth + 1), ["base", *map(str, range(1, depth + 1))])
    axes.set_xlim(-0.4, max(depth, 1) + 0.4)
    axes.grid(axis="y", color="0.92")
    axes.spines[["top", "right"]].set_visible(False)
    if not cells:
        axes.text(0.5, 0.5, "not in this run", ha="center", color="0.5", transform=axes.transAxes)
    for split, treatment in dict.fromkeys((c.split, c.treatment) for c in cells):
        colour, marker, label = STYLES[treatment]
        is_base = treatment == "base"
        shift = 0.0 if is_base else 0.08 * (TREATMENTS.index(treatment) - 3)  # side by side
        line, base = pick(cells, split, treatment), pick(cells, split, "base")
        is_paired = bool(base) and not is_base
        line = [c for c in line if c.difference.used or not is_paired]
        estimates = [c.difference if is_paired else c.accuracy for c in line]
        level = base[0].accuracy.mean if is_paired else 0.0
        points = [
            (r.n + (-0.15 if is_base else shift), 100 * (level + r.accuracy - own_base))
            for r in networks
            if (r.split, r.treatment) == (split, treatment)
            for own_base in [
                bases.get((r.split, r.seed, r.direction), math.nan) if is_paired else 0.0
            ]
            if not math.isnan(r.accuracy - own_base)
        ]
        if points:
            places, heights = zip(*points, strict=True)
            axes.scatter(places, heights, s=15, color=colour, alpha=0.3, lw=0, marker=marker)
        if not line:
            continue
        x = [c.n + shift for c in line]
        y = [100 * (level + estimate.mean) for estimate in estimates]
        if is_base:
            axes.axhline(y[0], color=colour, lw=0.9, ls=(0, (5, 4)), zorder=1)
        else:  # the line starts at base, where nothing is taken over
            start = [100 * c.accuracy.mean for c in base]
            axes.plot([0.0] * len(start) + x, start + y, color=colour, lw=1.4)
        if not base:  # it comes from a split whose base is not in this panel
            axes.annotate(
                SPLITS.get(split, split).lower(),
                (x[0], y[0]),
                (7, 0),
                textcoords="offset points",
                color=colour,
                fontsize=8.5,
            )
        handles[label] = axes.errorbar(
            x,
            y,
            [0.0 if math.isnan(estimate.se) else 100 * estimate.se for estimate in estimates],
            fmt=marker,
            color=colour,
            markerfacecolor="white" if is_base else colour,
            markersize=7.5 if is_base else 5,
            elinewidth=1.1,
            zorder=4 if is_base else 3,
        )
    return handles


def _draw_reference(axes: "Axes", cells: Sequence[Cell]) -> dict:
    """AnB's fall on the random halves, from the dissimilar halves' base; returns its handle."""
    base = pick(cells, "dissimilar", "base")
    fall = [c for c in pick(cells, "random", "AnB") if c.difference.used]
    if not (base and fall):
        return {}
    level = base[0].accuracy.mean
    heights = [100 * (level + d) for d in (0.0, *(c.difference.mean for c in fall))]
    colour = STYLES["AnB"][0]
    (line,) = axes.plot([0, *(c.n for c in fall)], heights, color=colour, lw=1.2, ls=":", zorder=2)
    return {"AnB's fall on random halves": line}
