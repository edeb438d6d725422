"""Figures of the scores of a supervised study: by method, and against the value of a setting."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxdl.report.comparisons import judged, over_seeds, shows
from jaxdl.report.figures import own_style, panels, plain, save, styles
from jaxdl.report.predictions import FitDiagnosis
from jaxdl.report.supervised import (
    Point,
    Result,
    Standing,
    best_values,
    by_point,
    label,
    number,
    ranked,
    values_of,
)
from jaxdl.report.tables import confidence_interval, format_mean

if TYPE_CHECKING:  # slow to import
    from matplotlib.axes import Axes

WORDS = {
    "rate": "learning rate",
    "wrong_labels": "share of wrong labels",
    "hidden": "width",
    "l1": "L1 penalty",
    "l2": "L2 penalty",
    "max_norm": "greatest norm of a unit's weights",
    "dropout": "share of units dropped",
    "noise": "deviation of noise on the inputs",
    "stop": "share of the steps, then stopped",
    "share": "training examples",
}
"""Words for settings on an axis; other settings have their names."""
SPREAD = 0.1
"""Range of candidates' mean scores above which a second panel shows those near the best."""
CLOSE = 4
"""Distance of that panel's lower end from the best mean score, in points."""


def words(name: str) -> str:
    """A name of the configuration for a figure."""
    return plain(name.replace("_", " "))


def setting_words(name: str) -> str:
    """A setting's name for an axis."""
    return WORDS.get(name, words(name))


def titles(
    results: Sequence[Result],
    settings: Mapping[str, str],
    score: str,
    diagnosed: Mapping[Point, FitDiagnosis],
) -> dict[Point, str]:
    """Titles of the panels of networks: the method, or only the value where there is one method;
    then the diagnosis or, without one, the score (root mean square error for regression).

    Args:
      settings: the setting of each method's sweep.
      score: the score's name.
    """
    names, methods = {}, {row.method for row in results}
    values, losses = by_point(results), by_point(results, "loss")
    for point, seeds in values.items():
        method, value = point
        name = words(method) if len(methods) > 1 or not value else ""
        if value:
            same = len(set(value.split())) == 1  # as of layers of one width
            name += f" {setting_words(settings[method])} {value.split()[0] if same else value}"
        if point in diagnosed:
            text = diagnosed[point].word
        elif score == "R²":
            error = over_seeds({seed: math.sqrt(x) for seed, x in losses[point].items()})
            text = f"error {format_mean(error.mean, error.se, 1, 3)}"
        else:
            mean = over_seeds(seeds)
            text = f"{format_mean(mean.mean, mean.se)} %"
        names[point] = f"{name.strip()}: {text}"
    return names


@own_style()
def scores(
    methods: Mapping[Point, Standing],
    extra_rows: Mapping[str, Standing],
    baseline: Point,
    score: str,
    path: Path,
) -> None:
    """Methods, the best on top: mean ± standard error of the score, and the 95 % interval of the
    paired difference to the baseline, a full dot where it excludes zero.

    Args:
      extra_rows: further rows, such as ensembles or other models, black.
      baseline: the method and value of which the differences are taken.
      score: the score's name.
    """
    from matplotlib.figure import Figure

    name, named = label(baseline), {label(point): x for point, x in methods.items()}
    rows = {row: x for row, x in ranked({**named, **extra_rows}).items() if x.score.used}
    if len(rows) < 2:
        return
    compared = name in rows and any(gain for _, gain in rows.values())
    by_name = styles(map(label, sorted(methods)))  # as in curves
    colours = {row: by_name[row]["color"] if row in by_name else "black" for row in [*rows, name]}
    size = 8.4 if compared else 5.4, 1.1 + 0.3 * len(rows)
    figure = Figure(figsize=size, layout="constrained")
    left, *right = figure.subplots(1, 1 + compared, sharey=True, squeeze=False)[0]
    for y, (row, (mean, gain)) in enumerate(rows.items()):
        colour = colours[row]
        error = 0 if math.isnan(mean.se) else 100 * mean.se
        left.errorbar(100 * mean.mean, y, xerr=error, fmt="o", color=colour, markersize=5)
        if gain and gain.used:
            shown = shows(+1, gain) or shows(-1, gain)
            face = colour if shown else "white"
            marker = {"markersize": 5, "markerfacecolor": face, "zorder": 3}
            right[0].plot(100 * gain.mean, y, "o", color=colour, **marker)
            if judged(gain):
                ends = [100 * end for end in confidence_interval(gain)]
                right[0].plot(ends, [y, y], color=colour)
    if name in rows:
        line = {"color": colours[name], "linestyle": ":", "linewidth": 1}
        left.axvline(100 * rows[name].score.mean, **line)
    left.set_yticks(range(len(rows)), list(map(words, rows)))
    left.set_ylim(len(rows) - 0.5, -0.5)
    left.set_xlabel(f"{score}, %: mean ± standard error")
    for axes in right:
        axes.axvline(0, **line)
        interval = "95 % interval\n(an open dot where it includes 0)"
        axes.set_xlabel(f"minus {words(name)}, points: {interval}")
    for axes in (left, *right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3, axis="x")
    save(figure, path, dpi=110)


@own_style()
def sweep(
    results: Sequence[Result],
    settings: Mapping[str, str],
    score: str,
    path: Path,
    *,
    choose: bool,
) -> None:
    """Scores against the value of a setting: mean ± standard error over seeds; dashed for training
    examples; a cross where networks diverged. There is a panel for each setting, and a second one
    for the scores near the best, where candidates of several methods differ by more than
    :data:`SPREAD`.

    Args:
      settings: the setting of each method's sweep.
      score: the score's name.
      choose: whether values are candidates; a star then marks the best one on validation, in the
        second panel where there is one.
    """
    if not settings:
        return
    drawn: list[tuple[str, int | None]] = []
    for kind in dict.fromkeys(settings.values()):
        scores = by_point(row for row in results if settings.get(row.method) == kind)
        means = [over_seeds(seeds).mean for seeds in scores.values() if seeds]
        drawn.append((kind, None))
        count = sum(setting == kind for setting in settings.values())
        if choose and count > 1 and means and max(means) - min(means) > SPREAD:
            drawn.append((kind, math.floor(100 * max(means)) - CLOSE))
    shared = len(settings) > 4 and len(set(settings.values())) == 1
    all_styles = styles(row.method for row in results)  # as beside methods without a sweep
    figure, all_axes, _ = panels(len(drawn), 4.4, 3.6, beside=2 * shared)
    closer = {kind for kind, low in drawn if low is not None}
    for axes, (kind, low) in zip(all_axes, drawn, strict=True):
        methods = [method for method in settings if settings[method] == kind]
        colours = {method: all_styles[method]["color"] for method in methods}
        has_stars = choose and not (low is None and kind in closer)  # where they can be told apart
        draw_sweep(axes, results, colours, choose=has_stars, train=low is None)
        if low is not None:
            axes.set_ylim(low, min(100.2, low + CLOSE + 2))
            axes.set_title(f"the same, from {low} % on", fontsize=10)
        elif score == "R²":
            axes.set_ylim(bottom=max(-20.0, axes.get_ylim()[0]))
        axes.set(xlabel=setting_words(kind), ylabel=f"{score}, %")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
        suffix = ", on the labels as given" * (kind == "wrong_labels")
        axes.plot([], [], "k--", linewidth=0.9, label=f"in training{suffix}")
        if has_stars:
            star = axes.plot([], [], "k*", markersize=10, label="best on validation")
            if low is not None and not shared:
                axes.legend(handles=star, frameon=False, fontsize=8)
        if any(math.isnan(row.score) for row in results if row.method in methods):
            axes.plot([], [], "kx", label="some diverged")
        if low is None and not shared:
            axes.legend(frameon=False, fontsize=8)
    if shared:
        by_label: dict[str, Any] = {}
        for axes in all_axes:
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
                by_label.setdefault(label, handle)
        entries = list(by_label.values()), list(by_label)
        figure.legend(*entries, loc="outside right upper", frameon=False, fontsize=9)
    save(figure, path, dpi=110)


def draw_sweep(
    axes: "Axes",
    results: Sequence[Result],
    colours: Mapping[str, str],
    *,
    choose: bool,
    train: bool,
) -> None:
    """Draw the lines of methods, in their colours and with offsets, so that none hides another."""
    scores, on_train, best = by_point(results), by_point(results, "train"), best_values(results)
    texts = list(dict.fromkeys(v for m in colours for v in values_of(results, m)))
    positions = {value: number(value) for value in texts}
    positive = [x for x in positions.values() if x > 0]
    logarithmic = len(positive) > 2 and max(positive) / min(positive) >= 30
    if any(map(math.isnan, positions.values())):
        positions, logarithmic = {value: float(i) for i, value in enumerate(texts)}, False
        axes.set_xticks(range(len(texts)), list(map(plain, texts)), rotation=30)
    elif logarithmic and len(positive) == len(positions):
        axes.set_xscale("log")
    elif logarithmic:
        axes.set_xscale("symlog", linthresh=min(positive))
    count = max((len(seeds) for seeds in scores.values()), default=0)
    for i, (method, colour) in enumerate(colours.items()):
        rank = i - (len(colours) - 1) / 2
        span = max(positions.values()) - min(positions.values())
        factor, shift = (1.05**rank, 0) if logarithmic else (1, 0.006 * rank * span)
        x = {value: position * factor + shift for value, position in positions.items()}
        values = values_of(results, method)
        for source, line in ((scores, "-"), (on_train, "--"))[: 1 + train]:
            estimates = {v: over_seeds(source[method, v]) for v in values}
            estimates = {v: estimate for v, estimate in estimates.items() if estimate.used}
            axes.errorbar(
                [x[v] for v in estimates],
                [100 * e.mean for e in estimates.values()],
                [0 if math.isnan(e.se) else 100 * e.se for e in estimates.values()],
                color=colour,
                linestyle=line,
                marker="o" if line == "-" else "",
                markersize=3.5,
                linewidth=1.6 if line == "-" else 0.9,
                label=words(method) if line == "-" else None,
            )
        chosen = over_seeds(scores[method, best[method]])
        if choose and chosen.used:
            star: dict[str, Any] = {"markersize": 13, "markeredgecolor": "k", "zorder": 5}
            axes.plot(x[best[method]], 100 * chosen.mean, "*", color=colour, **star)
        faults = [x[v] for v in values if len(scores[method, v]) < count]
        bottom = [0.02] * len(faults)
        axes.plot(faults, bottom, "x", color=colour, transform=axes.get_xaxis_transform())


@own_style()
def decomposition(
    points: Mapping[Point, FitDiagnosis], settings: Mapping[str, str], path: Path
) -> None:
    """Squared errors against the value of a setting: of training examples; of the reported split,
    with standard errors; bias and variance, its two parts. Colours and words are diagnoses.

    Args:
      points: diagnoses of one method; those whose value is a number are drawn.
      settings: the setting of each method's sweep.
    """
    from matplotlib.figure import Figure

    numbers = {point: number(point[1]) for point in points}
    by_value = {x: points[point] for point, x in numbers.items() if not math.isnan(x)}
    by_value = dict(sorted(by_value.items()))
    if len(by_value) < 2 or len({method for method, _ in points}) > 1:
        return
    (setting,) = {settings[method] for method, _ in points}
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes, values = figure.subplots(), list(by_value)
    x = np.log(values) if values[0] > 0 else np.array(values)
    errors = [diagnosis.error for diagnosis in by_value.values()]
    bars = [e.mean for e in errors], [e.se for e in errors]
    axes.errorbar(x, *bars, fmt="ko-", linewidth=2, capsize=3, label="error on new examples")
    parts = np.array([diagnosis.parts for diagnosis in by_value.values()])
    for column, name, colour in (
        (0, "error in training", "0.6"),
        (2, "bias² + noise", "C0"),
        (3, "variance", "C1"),
    ):
        axes.plot(x, parts[:, column], "o-", color=colour, markersize=4, label=name)
    axes.set_xticks(x, [f"{value:g}" for value in values])
    margin = 0.03 * np.ptp(x)
    edges = [x[0] - margin, *(x[1:] + x[:-1]) / 2, x[-1] + margin]
    groups: list[tuple[str, float, float]] = []  # neighbours of one diagnosis
    for diagnosis, low, high in zip(by_value.values(), edges[:-1], edges[1:], strict=True):
        if groups and groups[-1][0] == diagnosis.word:
            groups[-1] = diagnosis.word, groups[-1][1], high
        else:
            groups.append((diagnosis.word, low, high))
    for word, low, high in groups:
        axes.axvspan(low, high, color=GROUNDS[word], alpha=0.12, linewidth=0)
        axes.text((low + high) / 2, 1.01, word, transform=axes.get_xaxis_transform(), ha="center")
    axes.set(xlabel=setting_words(setting), ylabel="mean squared error", xlim=(edges[0], edges[-1]))
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    save(figure, path, dpi=110)


GROUNDS = {"under-fits": "C0", "fits": "C2", "over-fits": "C3"}
