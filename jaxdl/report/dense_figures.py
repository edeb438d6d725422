"""Figure of dense predictions, drawn over their images."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Integer, Shaped

from jaxdl.report.figures import own_style, plain, save

if TYPE_CHECKING:  # slow to import
    from matplotlib.axes import Axes

TRUE, ANSWER = "#2ca02c", "#00e5ff"
"""Colours of the truth, and of a network's answer."""
PIXEL_COLOURS = {"found": "#ffffff", "false alarm": "#e6194b", "missed": "#1f77ff"}
"""Colours of true positives, false positives and false negatives of a mask."""


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
    """Rows are examples; columns are the image, where answers hide it, the truth and each method.

    There are equal numbers of examples with labels 0 and 1, where there are labels.

    Args:
      answers: by the headings of their columns.
      tolerance: greatest error of a correct position, pixels.
    """
    from matplotlib.figure import Figure

    images = np.asarray(split["image"])
    examples = np.arange(min(5, len(images)))
    if "label" in split:
        labels = np.asarray(split["label"])
        examples = np.concatenate([np.flatnonzero(labels == x)[:3] for x in (1, 0)])
    columns: dict[str, Draw] = {"image": lambda axes, i: ""} if question == "segment" else {}
    columns |= {"truth": drawing(question, split, tolerance)}
    columns |= {name: drawing(question, split, tolerance, x) for name, x in answers.items()}
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
    entries = legend(question, split, list(answers.values()), tolerance)
    figure.legend(handles=entries, loc="outside lower right", ncols=4, frameon=False, fontsize=8)
    save(figure, path, full_colour=True, dpi=110)


def legend(
    question: str, split: Mapping[str, Any], answers: Sequence[Any], tolerance: float
) -> list[Any]:
    """Entries of the legend, by what is drawn."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    if question == "segment":
        return [Patch(facecolor=c, edgecolor="gray", label=x) for x, c in PIXEL_COLOURS.items()]
    if question == "count":
        things = "instances"
        true, drawn = "instances" in split, any(len(answer.labels) for answer in answers)
        entries = []
    else:
        things = "mask"
        true, drawn = "mask" in split, any(x.masks is not None for x in answers)
        styles = {"where it is": ring(), f"answer, right within {tolerance:g} pixels": cross()}
        entries = [Line2D([], [], linestyle="", label=x, **style) for x, style in styles.items()]
    if true:
        entries.append(Line2D([], [], color=TRUE, linewidth=0.9, label=f"true {things}"))
    if drawn:
        entries.append(Line2D([], [], color=ANSWER, linewidth=0.9, label=f"{things} as answer"))
    return entries


def ring() -> dict[str, Any]:
    """Style of a true position."""
    return {"marker": "o", "color": TRUE, "markerfacecolor": "none", "markersize": 9}


def cross() -> dict[str, Any]:
    """Style of a network's position."""
    return {"marker": "x", "color": ANSWER, "markersize": 8, "markeredgewidth": 2}


def drawing(question: str, split: Mapping[str, Any], tolerance: float, answers: Any = None) -> Draw:
    """The function that draws an answer or, without one, the truth."""
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
    """The function that draws a true position (a circle, the border of its mask) and a network's
    answer (a cross, the border of its mask); right or wrong by the rule of
    :func:`jaxdl.dense.judge_sightings`."""

    def draw(axes: "Axes", i: int) -> str:
        visible = bool(np.isfinite(points[i]).all())
        if truth_masks is not None:
            outline(axes, truth_masks[i] == 1, TRUE)
        axes.plot(*points[i][::-1], **ring())
        if answers is None:
            return "visible" if visible else "not visible"
        positive = answers.scores[i] >= answers.limit
        if answers.masks is not None:
            outline(axes, answers.masks[i], ANSWER)
        if positive:
            axes.plot(*answers.points[i][::-1], **cross())
        text, right = "visible" if positive else "not visible", positive == visible
        if positive and visible:
            distance = np.hypot(*(answers.points[i] - points[i]))
            text, right = f"visible, {distance:.1f} px off", distance <= tolerance
        return f"{text} ({'right' if right else 'wrong'})"

    return draw


def draw_counts(counts: Float[np.ndarray, " n"], truth: Any, answers: Any = None) -> Draw:
    """The function that draws the instances or the density of which a count is the number or the
    sum, with the rounded count as title; black is density 0, white its maximum in the image."""

    def draw(axes: "Axes", i: int) -> str:
        if answers is None:
            if truth is not None:
                outline(axes, truth[i], TRUE)
            return f"{counts[i]:.0f}"
        if len(answers.labels):
            outline(axes, answers.labels[i], ANSWER)
        if answers.maps is None:
            return f"{answers.counts[i]:.0f}"
        density = np.maximum(answers.maps[i], 0)
        axes.imshow(density, cmap="magma", vmin=0)
        return f"{answers.counts[i]:.0f}, up to {density.max():.2g} a pixel"

    return draw


def draw_pixels(mask: Integer[np.ndarray, "n h w"], answers: Any = None) -> Draw:
    """The function that draws pixels in :data:`PIXEL_COLOURS`, without unknown pixels."""

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
