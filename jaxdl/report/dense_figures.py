"""Figures of a study of dense answers: scores by value, and answers laid over their images."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Integer, Shaped

from jaxdl.report.comparisons import over_seeds
from jaxdl.report.dense import COLUMNS, Result
from jaxdl.report.figures import own_style, plain, save
from jaxdl.report.supervised import by_point, number, value_order, values_of

if TYPE_CHECKING:  # slow to import
    from matplotlib.axes import Axes

TRUE, ANSWER = "#2ca02c", "#00e5ff"
"""Colours of the truth, and of a network's answer."""
PIXEL_COLOURS = {"found": "#ffffff", "false alarm": "#e6194b", "missed": "#1f77ff"}
"""Colours of true positives, false positives and false negatives of a mask."""


@own_style()
def sweep(results: Sequence[Result], question: str, setting: str, path: Path) -> None:
    """Each measured number against the value of a setting, mean ± standard error over seeds; of a
    method without a value a horizontal line."""
    from matplotlib.figure import Figure

    fields = [
        c for c in COLUMNS[question] if any(not math.isnan(getattr(r, c[0])) for r in results)
    ]
    figure = Figure(figsize=(4.2 * len(fields), 3.4), layout="constrained")
    methods = list(dict.fromkeys(row.method for row in results))
    values = sorted({row.value for row in results if row.value}, key=value_order)
    places = {value: number(value) for value in values}
    if any(map(math.isnan, places.values())):
        places = {value: float(i) for i, value in enumerate(values)}
    grid = figure.subplots(1, len(fields), squeeze=False)[0]
    for axes, (field, title, scale, _) in zip(grid, fields, strict=True):
        for i, method in enumerate(methods):
            estimates = {
                value: estimate
                for value in values_of(results, method)
                if (estimate := over_seeds(by_point(results, field)[method, value])).used
            }
            if alone := estimates.pop("", None):
                axes.axhline(
                    scale * alone.mean, color=f"C{i % 10}", linestyle="--", label=plain(method)
                )
            if not estimates:
                continue
            # Methods side by side, so that bars do not hide each other.
            shift = 1 + 0.03 * (i - (len(methods) - 1) / 2)
            axes.errorbar(
                [places[value] * shift for value in estimates],
                [scale * x.mean for x in estimates.values()],
                [0 if math.isnan(x.se) else scale * x.se for x in estimates.values()],
                color=f"C{i % 10}",
                marker="o",
                markersize=3.5,
                label=plain(method),
            )
        axes.set_xscale("log" if min(places.values()) > 0 else "linear")
        axes.set_xticks(list(places.values()), list(map(plain, places)))
        axes.minorticks_off()
        axes.set(xlabel=plain(setting), ylabel=plain(title))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
    grid[0].legend(frameon=False, fontsize=8)
    save(figure, path, dpi=150)


Draw = Callable[["Axes", int], str]
"""``draw(axes, i)`` lays an answer over image i, and returns its title."""


@own_style()
def overlays(
    question: str,
    split: Mapping[str, Any],
    answers: Mapping[str, Any],
    path: Path,
    *,
    tolerance: float,
) -> None:
    """A row an example, a column for the truth and for each method; where that hides the image, one
    for the image, too.

    Of two labels there are as many examples of one as of the other.

    Args:
      answers: by method.
      tolerance: pixels by which a place may be wrong.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    images = np.asarray(split["image"])
    examples = np.arange(min(5, len(images)))
    if "label" in split:
        labels = np.asarray(split["label"])
        examples = np.concatenate([np.flatnonzero(labels == x)[:3] for x in (1, 0)])
    columns: dict[str, Draw] = {"image": lambda axes, i: ""} if question == "segment" else {}
    columns |= {"truth": drawing(question, split, tolerance)}
    columns |= {name: drawing(question, split, tolerance, own) for name, own in answers.items()}
    height, width = images.shape[1:3]
    side = float(np.clip(width / 150, 1.75, 3.5))  # inches of a panel; thin vessels need more
    size = (side * len(columns), (side * height / width + 0.22) * len(examples) + 0.5)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(examples), len(columns), squeeze=False)
    for row, (all_axes, i) in enumerate(zip(grid, examples.tolist(), strict=True)):
        for axes, (name, draw) in zip(all_axes, columns.items(), strict=True):
            axes.imshow(images[i] if images.shape[-1] == 3 else images[i][..., 0], cmap="gray")
            title = draw(axes, i)
            heading = f"{plain(name)}\n{plain(title)}" if row == 0 else plain(title)
            axes.set_title(heading, fontsize=8)
            axes.set_axis_off()
            axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    if question == "segment":
        kinds = [
            Patch(facecolor=c, edgecolor="gray", label=kind) for kind, c in PIXEL_COLOURS.items()
        ]
        figure.legend(handles=kinds, loc="outside lower right", ncols=3, frameon=False, fontsize=8)
    save(figure, path, dpi=110)


def drawing(question: str, split: Mapping[str, Any], tolerance: float, answers: Any = None) -> Draw:
    """How an answer is drawn, or, without one, the truth."""
    if question == "count":
        return draw_counts(split["count"], split.get("instances"), answers)
    if question == "segment":
        return draw_pixels(split["mask"][:, 0], answers)
    masks = split["mask"][:, 0] if "mask" in split else None
    return draw_sightings(split["point"], masks, tolerance, answers)


def outline(axes: "Axes", mask: Shaped[np.ndarray, "h w"], colour: str) -> None:
    """The border of a mask, or of each of its instances."""
    for value in np.unique(mask)[1:] if mask.any() else []:
        axes.contour(mask == value, [0.5], colors=[colour], linewidths=0.9)


def draw_sightings(
    points: Float[np.ndarray, "n 2"], truth_masks: Any, tolerance: float, answers: Any = None
) -> Draw:
    """Where it is (a circle, the border of its mask), and where a network takes it to be (a cross,
    the border of a mask); right as :func:`jaxdl.dense.judge_sightings` has it."""

    def draw(axes: "Axes", i: int) -> str:
        visible = bool(np.isfinite(points[i]).all())
        if truth_masks is not None:
            outline(axes, truth_masks[i] == 1, TRUE)
        axes.plot(*points[i][::-1], "o", color=TRUE, markerfacecolor="none", markersize=9)
        if answers is None:
            return "visible" if visible else "not visible"
        says = answers.scores[i] >= answers.limit
        if answers.masks is not None:
            outline(axes, answers.masks[i], ANSWER)
        if says:
            axes.plot(*answers.points[i][::-1], "x", color=ANSWER, markersize=8, markeredgewidth=2)
        near = not visible or np.hypot(*(answers.points[i] - points[i])) <= tolerance
        verdict = "right" if says == visible and near else "wrong"
        return f"{'visible' if says else 'not visible'} ({verdict})"

    return draw


def draw_counts(counts: Float[np.ndarray, " n"], truth: Any, answers: Any = None) -> Draw:
    """How many there are, and the instances or the density that a count is from."""

    def draw(axes: "Axes", i: int) -> str:
        if answers is None:
            if truth is not None:
                outline(axes, truth[i], TRUE)
            return f"{counts[i]:.0f}"
        if answers.maps is not None:
            axes.imshow(np.maximum(answers.maps[i], 0), cmap="magma", vmin=0)
        if len(answers.labels):
            outline(axes, answers.labels[i], ANSWER)
        return f"{answers.counts[i]:.1f}"

    return draw


def draw_pixels(mask: Integer[np.ndarray, "n h w"], answers: Any = None) -> Draw:
    """Pixels in :data:`PIXEL_COLOURS`, but for those that are missing."""

    def draw(axes: "Axes", i: int) -> str:
        valid, truth = mask[i] <= 1, mask[i] == 1
        if answers is None:
            axes.imshow(np.where(valid, truth, 0), cmap="gray", vmin=0, vmax=1)
            return ""
        predicted = (answers.scores[i] >= answers.limit) & valid
        axes.imshow(_colours(predicted, truth))
        total = predicted.sum() + truth.sum()
        return f"F1 {100 * 2 * (predicted & truth).sum() / max(total, 1):.1f} %"

    return draw


def _colours(
    predicted: Bool[np.ndarray, "h w"], truth: Bool[np.ndarray, "h w"]
) -> Float[np.ndarray, "h w 3"]:
    from matplotlib.colors import to_rgb

    regions = {
        "found": predicted & truth,
        "false alarm": predicted & ~truth,
        "missed": ~predicted & truth,
    }
    return sum(
        np.multiply.outer(region, to_rgb(PIXEL_COLOURS[kind])) for kind, region in regions.items()
    )
