"""Figures of the outputs of a supervised study's networks."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int, Num

from jaxdl.report import predictions
from jaxdl.report.comparisons import over_seeds
from jaxdl.report.figures import own_style, panels, plain, save
from jaxdl.report.predictions import Predictions
from jaxdl.report.supervised import Point, label

if TYPE_CHECKING:  # slow to import
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def grid(features: Float[np.ndarray, "n d"], points: int = 120) -> Float[np.ndarray, "m d"]:
    """Points all over the range of one or two features, and a tenth beyond."""
    low, high = features.min(0), features.max(0)
    margin = 0.1 * (high - low)
    axes = [np.linspace(a, b, points) for a, b in zip(low - margin, high + margin, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(axes)).astype(np.float32)


def plane(
    outputs: Mapping[Point, Sequence[Float[np.ndarray, "m k"]]],
    points: Float[np.ndarray, "m d"],
    data: tuple[Float[np.ndarray, "n d"], Num[np.ndarray, " n"]],
    classes: Sequence[str],
    truth: Callable[[np.ndarray], np.ndarray] | None,
    titles: Mapping[Point, str],
    path: Path,
) -> None:
    """Draw networks' outputs for the points of a :func:`grid`: numbers along a line as
    :func:`fits`, classes in the plane as :func:`regions`; nothing else is drawn.

    Args:
      data: features and answers.
      classes: empty where the answers are numbers.
      truth: the numbers without noise, of features [m].
      titles: of the panels.
    """
    features, answers = data
    outputs = {point: parts for point, parts in outputs.items() if parts}  # not all have diverged
    if not outputs:
        return
    if not classes and points.shape[1] == 1:
        lines = {titles[p]: [values[:, 0] for values in parts] for p, parts in outputs.items()}
        x = points[:, 0]
        fits(lines, x, (features[:, 0], answers), truth(x) if truth else None, path)
    elif classes and points.shape[1] == 2:
        named = {titles[point]: parts for point, parts in outputs.items()}
        regions(named, points, features, answers, classes, path)


@own_style()
def fits(
    outputs: Mapping[str, Sequence[Float[np.ndarray, " m"]]],
    x: Float[np.ndarray, " m"],
    data: tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]],
    truth: Float[np.ndarray, " m"] | None,
    path: Path,
) -> None:
    """Predicted numbers against one feature: each network thin, their mean thick, with the training
    data and, where it is known, the truth. A panel a title."""
    figure, all_axes, spare = panels(len(outputs), 3.0, 2.5)
    for axes, (title, lines) in zip(all_axes, outputs.items(), strict=True):
        axes.plot(*data, "o", color="0.6", markersize=2.5, label="training data", zorder=0)
        if truth is not None:
            axes.plot(x, truth, "k--", linewidth=1.2, label="truth", zorder=4)
        for line in lines:
            axes.plot(x, line, color="C0", alpha=0.4, linewidth=0.8)
        axes.plot([], [], color="C0", alpha=0.6, linewidth=0.8, label="a network each")
        axes.plot(x, np.mean(lines, 0), color="C0", linewidth=2, label="mean of the networks")
        low, high = data[1].min(), data[1].max()
        axes.set_ylim(low - 0.3 * (high - low), high + 0.3 * (high - low))
        axes.set_title(plain(title), fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
    figure.supxlabel("feature", fontsize=10)
    figure.supylabel("target", fontsize=10)
    place_legend(figure, all_axes[0], spare, columns=4)
    save(figure, path, dpi=110)


def place_legend(
    figure: "Figure", axes: "Axes", spare: Sequence["Axes"], *, columns: int, scale: float = 1
) -> None:
    """The legend of one panel for all, in a cell without a panel, or else above."""
    handles, names = axes.get_legend_handles_labels()
    if spare:
        spare[0].legend(handles, names, markerscale=scale, loc="center", frameon=False)
    else:
        options: dict[str, Any] = {"ncols": columns, "frameon": False, "markerscale": scale}
        figure.legend(handles, names, loc="outside upper center", **options)


@own_style()
def regions(
    logits: Mapping[str, Sequence[Float[np.ndarray, "m k"]]],
    points: Float[np.ndarray, "m 2"],
    features: Float[np.ndarray, "n 2"],
    labels: Int[np.ndarray, " n"],
    classes: Sequence[str],
    path: Path,
) -> None:
    """The class that networks see at each point of the plane, paler where they are less sure: the
    mean of their probabilities. With the data. A panel a title."""
    figure, all_axes, spare = panels(len(logits), 3.0, 2.8)
    side = round(math.sqrt(len(points)))
    extent = (*points[[0, -1], 0], *points[[0, -1], 1])
    colours = np.array([COLOURS[i % len(COLOURS)] for i in range(len(classes))])
    for axes, (title, parts) in zip(all_axes, logits.items(), strict=True):
        mean = predictions.probabilities(np.stack(parts)).mean(0)
        image = (mean @ colours).reshape(side, side, 3).swapaxes(0, 1)
        axes.imshow(0.55 * image + 0.45, origin="lower", extent=extent, aspect="auto")
        for i, name in enumerate(classes):
            members = features[labels == i][:300]
            axes.plot(*members.T, ".", color=colours[i], markersize=3, label=plain(name))
        axes.set_title(plain(title), fontsize=9)
    figure.supxlabel("first feature", fontsize=10)
    figure.supylabel("second feature", fontsize=10)
    place_legend(figure, all_axes[0], spare, columns=4, scale=3)
    save(figure, path, dpi=110)


COLOURS = (
    (0.12, 0.35, 0.75),
    (0.85, 0.33, 0.10),
    (0.20, 0.60, 0.25),
    (0.55, 0.25, 0.65),
    (0.75, 0.65, 0.10),
)
"""Red, green, blue of classes in the plane."""


@own_style()
def confusion(
    networks: Predictions, split: str, classes: Sequence[str], title: str, path: Path
) -> None:
    """The confusion matrix over all networks, in percent of each class's examples; the colour scale
    makes small shares visible beside large ones."""
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure

    counts = np.zeros((len(classes), len(classes)))
    for parts in networks.values():
        outputs, answers = parts[split]
        labelled = answers >= 0
        np.add.at(counts, (answers[labelled], outputs.argmax(-1)[labelled]), 1)
    shares = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = 2.0 + 0.42 * len(classes)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, 0, 100))
    for row, column in np.argwhere(shares >= 0.05):
        value = shares[row, column]
        axes.text(
            column,
            row,
            f"{value:.0f}" if value >= 9.95 else f"{value:.1f}",
            ha="center",
            va="center",
            fontsize=8,
            color="white" if value > 35 else "black",
        )
    names = list(map(plain, classes))
    axes.set_xticks(range(len(names)), names, rotation=90 if max(map(len, names)) > 3 else 0)
    axes.set_yticks(range(len(names)), names)
    xlabel = "predicted, % of the true class"
    axes.set(xlabel=xlabel, ylabel="true", title=plain(title))
    save(figure, path, dpi=110)


@own_style()
def operating_curves(networks: Predictions, split: str, path: Path) -> None:
    """Of two classes, the second looked for: true against false positives, and precision against
    recall, as the threshold goes, each network thin and the first one thick; and F1 over all
    networks, mean ± standard error. A circle is at probability .5, a diamond at the threshold that
    is best by F1 on validation."""
    from matplotlib.figure import Figure
    from sklearn import metrics

    figure = Figure(figsize=(11, 3.8), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=(4, 4, 3))
    methods = {p: seeds for p, seeds in predictions.by_point(networks).items() if seeds}
    for i, seeds in enumerate(methods.values()):
        colour, answers = f"C{i % 10}", next(iter(seeds.values()))[split].answers
        for j, parts in enumerate(seeds.values()):
            outputs, _ = parts[split]
            style: dict[str, Any] = (
                {"linewidth": 1.8, "zorder": 3} if j == 0 else {"linewidth": 0.7, "alpha": 0.4}
            )
            margins = outputs[:, 1] - outputs[:, 0]
            false, true, _ = metrics.roc_curve(answers, margins)
            precision, recall, _ = metrics.precision_recall_curve(answers, margins)
            left.plot(false, true, color=colour, **style)
            middle.plot(recall, precision, color=colour, **style)
        operating = {s: predictions.operating_point(parts, split) for s, parts in seeds.items()}
        first = next(iter(operating.values()))
        for kind, (suffix, marker) in enumerate((("", "o"), (" at threshold", "D"))):
            precision, recall = first[f"precision{suffix}"], first[f"recall{suffix}"]
            hits = recall * np.sum(answers == 1)
            false = hits * (1 / precision - 1) / np.sum(answers == 0) if precision else 0.0
            mark = {"color": colour, "marker": marker, "markeredgecolor": "k", "zorder": 5}
            left.plot(false, recall, markersize=7, **mark)
            middle.plot(recall, precision, markersize=7, **mark)
            f1 = over_seeds({s: row[f"F1{suffix}"] for s, row in operating.items()})
            error = 0 if math.isnan(f1.se) else f1.se
            right.errorbar(f1.mean, i + 0.2 * kind - 0.1, xerr=error, markersize=7, **mark)
    right.set_yticks(range(len(methods)), [plain(label(p).replace("_", " ")) for p in methods])
    right.set_ylim(len(methods) - 0.5, -0.5)
    for tick, i in zip(right.get_yticklabels(), range(len(methods)), strict=True):
        tick.set_color(f"C{i % 10}")
    left.set(xlabel="false positives, share", ylabel="true positives, share (recall)")
    middle.set(xlabel="recall", ylabel="precision", ylim=(0, 1.02))
    right.set(xlabel="F1: mean ± standard error", xlim=(0, None))
    left.plot([0, 1], [0, 1], ":", color="0.6", linewidth=1)
    for marker, name in (("o", "at probability one half"), ("D", "at validation's threshold")):
        right.plot([], [], marker, color="w", markeredgecolor="k", markersize=7, label=name)
    for axes in (left, middle, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
    figure.legend(
        *right.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False
    )
    save(figure, path, dpi=110)
