"""Figures of a supervised study: scores against a setting, and networks' outputs."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int, Num

from jaxdl.report import predictions
from jaxdl.report.comparisons import over_seeds
from jaxdl.report.figures import own_style, plain, save
from jaxdl.report.predictions import Predictions
from jaxdl.report.supervised import Point, Result, by_point, label, number, values_of

if TYPE_CHECKING:  # slow to import
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def panels(count: int, width: float, height: float) -> tuple["Figure", Sequence["Axes"]]:
    """A figure of ``count`` panels, up to five a row, of a size in inches each."""
    from matplotlib.figure import Figure

    columns = count if count < 6 else min(4, math.ceil(count / 2))
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for spare in axes[count:]:
        spare.set_axis_off()
    return figure, axes[:count]


@own_style()
def sweep(results: Sequence[Result], settings: Mapping[str, str], score: str, path: Path) -> None:
    """Scores against the value of the setting that methods are swept over: mean ± standard error
    over seeds, in training dashed; a cross below where networks diverged. A panel a setting.

    Args:
      settings: names of the swept settings, by method.
      score: the score's name.
    """
    kinds = list(dict.fromkeys(settings.values()))
    figure, all_axes = panels(len(kinds), 4.8, 3.6)
    scores, train = by_point(results), by_point(results, "train")
    for axes, kind in zip(all_axes, kinds, strict=True):
        methods = [method for method, setting in settings.items() if setting == kind]
        texts = list(dict.fromkeys(v for m in methods for v in values_of(results, m)))
        numbers = {value: number(value) for value in texts}
        if any(map(math.isnan, numbers.values())):
            numbers = {value: float(i) for i, value in enumerate(texts)}
            axes.set_xticks(range(len(texts)), list(map(plain, texts)), rotation=30)
        else:
            positive = [x for x in numbers.values() if x > 0]
            if len(positive) > 2 and max(positive) / min(positive) >= 30:
                axes.set_xscale("symlog", linthresh=min(positive))
                if len(positive) == len(numbers):
                    axes.set_xscale("log")
        lowest = min((x for seeds in scores.values() for x in seeds.values()), default=0.0)
        for i, method in enumerate(methods):
            values = values_of(results, method)
            for source, style in ((scores, "-"), (train, "--")):
                estimates = [over_seeds(source[method, value]) for value in values]
                indices = [j for j, x in enumerate(estimates) if x.used]
                axes.errorbar(
                    [numbers[values[j]] for j in indices],
                    [100 * estimates[j].mean for j in indices],
                    [0 if math.isnan(estimates[j].se) else 100 * estimates[j].se for j in indices],
                    color=f"C{i % 10}",
                    linestyle=style,
                    marker="o" if style == "-" else "",
                    markersize=3.5,
                    linewidth=1.6 if style == "-" else 0.9,
                    label=plain(method) if style == "-" else None,
                )
            count = max(len(seeds) for seeds in scores.values())
            diverged = [numbers[v] for v in values if len(scores[method, v]) < count]
            axes.plot(diverged, [100 * max(lowest, 0)] * len(diverged), "x", color=f"C{i % 10}")
        if score == "R²":
            axes.set_ylim(bottom=max(-20, 100 * lowest - 5))
        axes.set(xlabel=plain(kind), ylabel=f"{score}, %")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
        axes.plot([], [], "k--", linewidth=0.9, label="in training")
        if len(methods) > 4:
            axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
        else:
            axes.legend(frameon=False, fontsize=8)
    save(figure, path, dpi=150)


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
    path: Path,
) -> None:
    """Draw networks' outputs for the points of a :func:`grid`: numbers along a line as
    :func:`fits`, classes in the plane as :func:`regions`; nothing else is drawn.

    Args:
      data: features and answers.
      classes: empty where the answers are numbers.
      truth: the numbers without noise, of features [m].
    """
    features, answers = data
    outputs = {point: parts for point, parts in outputs.items() if parts}  # not all have diverged
    if not outputs:
        return
    if not classes and points.shape[1] == 1:
        lines = {point: [values[:, 0] for values in parts] for point, parts in outputs.items()}
        x = points[:, 0]
        fits(lines, x, (features[:, 0], answers), truth(x) if truth else None, path)
    elif classes and points.shape[1] == 2:
        regions(outputs, points, features, answers, classes, path)


@own_style()
def fits(
    outputs: Mapping[Point, Sequence[Float[np.ndarray, " m"]]],
    x: Float[np.ndarray, " m"],
    data: tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]],
    truth: Float[np.ndarray, " m"] | None,
    path: Path,
) -> None:
    """Predicted numbers against one feature: each network thin, their mean thick, with the training
    data and, where it is known, the truth. A panel a method."""
    figure, all_axes = panels(len(outputs), 3.0, 2.5)
    for axes, (point, lines) in zip(all_axes, outputs.items(), strict=True):
        axes.plot(*data, ".", color="0.75", markersize=2.5, zorder=0)
        if truth is not None:
            axes.plot(x, truth, "k--", linewidth=1, label="truth")
        for line in lines:
            axes.plot(x, line, color="C0", alpha=0.3, linewidth=0.8)
        axes.plot(x, np.mean(lines, 0), color="C0", linewidth=2, label="mean of the networks")
        low, high = data[1].min(), data[1].max()
        axes.set_ylim(low - 0.3 * (high - low), high + 0.3 * (high - low))
        axes.set_title(plain(label(point)), fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    handles, names = all_axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=2, frameon=False)
    save(figure, path, dpi=150)


@own_style()
def regions(
    logits: Mapping[Point, Sequence[Float[np.ndarray, "m k"]]],
    points: Float[np.ndarray, "m 2"],
    features: Float[np.ndarray, "n 2"],
    labels: Int[np.ndarray, " n"],
    classes: Sequence[str],
    path: Path,
) -> None:
    """The class that networks see at each point of the plane, paler where they are less sure: the
    mean of their probabilities. With the data. A panel a method."""
    figure, all_axes = panels(len(logits), 3.0, 3.0)
    side = round(math.sqrt(len(points)))
    extent = (*points[[0, -1], 0], *points[[0, -1], 1])
    colours = np.array([COLOURS[i % len(COLOURS)] for i in range(len(classes))])
    for axes, (point, parts) in zip(all_axes, logits.items(), strict=True):
        mean = predictions.probabilities(np.stack(parts)).mean(0)
        image = (mean @ colours).reshape(side, side, 3).swapaxes(0, 1)
        axes.imshow(0.55 * image + 0.45, origin="lower", extent=extent, aspect="auto")
        for i, name in enumerate(classes):
            members = features[labels == i][:300]
            axes.plot(*members.T, ".", color=colours[i], markersize=3, label=plain(name))
        axes.set_title(plain(label(point)), fontsize=10)
        axes.set(xticks=[], yticks=[])
    handles, names = all_axes[0].get_legend_handles_labels()
    figure.legend(handles, names, markerscale=3, loc="outside lower center", ncols=4, frameon=False)
    save(figure, path, dpi=150)


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
    """The confusion matrix over all networks, in percent of each class's examples."""
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
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    for row, column in np.argwhere(shares >= 0.05):
        value = shares[row, column]
        axes.text(
            column,
            row,
            f"{value:.0f}" if value >= 9.95 else f"{value:.1f}",
            ha="center",
            va="center",
            fontsize=8,
            color="white" if value > 60 else "black",
        )
    names = list(map(plain, classes))
    axes.set_xticks(range(len(names)), names, rotation=90 if max(map(len, names)) > 3 else 0)
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="predicted", ylabel="true", title=plain(title))
    save(figure, path, dpi=150)


@own_style()
def operating_curves(networks: Predictions, split: str, path: Path) -> None:
    """ROC and precision-recall curves of two classes, of which the second is positive: each network
    thin, and a dot at probability .5 of the first network."""
    from matplotlib.figure import Figure
    from sklearn import metrics

    figure = Figure(figsize=(9, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    for i, (point, seeds) in enumerate(predictions.by_point(networks).items()):
        for j, parts in enumerate(seeds.values()):
            outputs, answers = parts[split]
            margins, first = outputs[:, 1] - outputs[:, 0], j == 0
            style: dict[str, Any] = (
                {"linewidth": 1.8, "zorder": 3} if first else {"linewidth": 0.7, "alpha": 0.4}
            )
            style |= {"color": f"C{i % 10}", "label": plain(label(point)) if first else None}
            false_rates, true_rates, _ = metrics.roc_curve(answers, margins)
            precision, recall, _ = metrics.precision_recall_curve(answers, margins)
            left.plot(false_rates, true_rates, **style)
            right.plot(recall, precision, **style)
            if first:
                positive = margins >= 0
                hits = np.sum(positive & (answers == 1))
                ratio = hits / max(1, positive.sum()), hits / max(1, np.sum(answers == 1))
                left.plot(np.mean(positive[answers == 0]), ratio[1], "o", color=f"C{i % 10}")
                right.plot(ratio[1], ratio[0], "o", color=f"C{i % 10}")
    left.set(xlabel="false positives, share", ylabel="true positives, share (recall)")
    right.set(xlabel="recall", ylabel="precision", ylim=(0, 1.02))
    left.plot([0, 1], [0, 1], ":", color="0.6", linewidth=1)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
    figure.legend(*left.get_legend_handles_labels(), loc="outside right upper", frameon=False)
    save(figure, path, dpi=150)
