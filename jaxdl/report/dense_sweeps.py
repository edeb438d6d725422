"""Figure of the scores of dense predictions against the value of a setting, and scores of damaged
masks."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxdl.data.source import Split
from jaxdl.nn.metrics import confusion_matrix, dice
from jaxdl.report.comparisons import over_seeds
from jaxdl.report.dense import COLUMNS, Column, Result
from jaxdl.report.figures import own_style, plain, save
from jaxdl.report.supervised import Point, by_point, number, value_order, values_of

Settings = Mapping[Point, Mapping[str, Any]]
"""Settings by method and value."""
IMAGE_WORDS = {
    **{"drive": "photographs", "bccd": "micrographs"},
    **dict.fromkeys(("fundus", "cells"), "drawn images"),
}
"""Words for the images of a data set, by its name."""
UNITS = {"shifted": "pixels", "dilated": "pixels", "polygons": "corners", "missing": "share"}
"""Units of the amount of a damage, one of :data:`jaxdl.data.masks.DAMAGES`."""
Scores = Mapping[tuple[str, float], float]
"""F1 by damage and amount."""


def damage_scores(damages: Sequence[tuple[str, float]], split: Split) -> Scores:
    """The F1 of each damaged version of a split's masks against the first version, which has no
    damage; empty without further versions."""
    scores = {}
    for i, damage in enumerate(damages[1:], 1):
        masks = np.asarray(split["mask"])
        confusion = confusion_matrix(masks[:, i].ravel(), masks[:, 0].ravel(), 2)
        scores[damage] = float(dice(confusion)[1])  # unknown pixels are 255
    return scores


def describe_damage(scores: Scores) -> dict[str, str]:
    """The F1 of damaged masks as an entry of the report's facts; empty without damages."""
    rows = [f"{name} {amount:g} has F1 {100 * f1:.1f} %" for (name, amount), f1 in scores.items()]
    return {"Damaged masks": ", ".join(rows)} if rows else {}


def image_words(names: Sequence[str]) -> tuple[str, str]:
    """Words for the images of a data set and for those of a second, shifted one.

    Args:
      names: of the data sets. Images of a second one of the same name are "shifted images".
    """
    words, *shifted_words = (IMAGE_WORDS.get(name, "images") for name in names)
    shifted = shifted_words[0] if len({*names}) > 1 else "shifted images"
    return words.removeprefix("drawn "), shifted


def title(settings: Mapping[str, Any], images: str) -> str:
    """The setting of a method's sweep, in words; empty without a sweep.

    Args:
      images: the word for training images.
    """
    match settings["sweep"]:
        case "images":
            return f"training {images}"
        case "amount":
            return UNITS.get(settings["damage"], "amount")
        case swept:
            return str(swept)


def last_answers(
    settings: Settings,
    predictions: Mapping[tuple[str, str, int], Mapping[str, Any]],
    images: str,
) -> dict[str, Any]:
    """Answers of seed 0 for the first data set, "images", of each method at the last value of its
    sweep, by heading: the method, and that value in a second line.

    Args:
      images: the word for training images.
    """
    # In the order of the configuration: 3 corners are rougher than 12.
    last = {method: (method, value) for method, value in settings}
    answers = {}
    for point in sorted(last.values()):
        if (*point, 0) in predictions:
            method, value = point
            swept = f"\n{title(settings[point], images)}: {value}" if value else ""
            answers[method + swept] = predictions[*point, 0]["images"]
    return answers


@own_style()
def sweep(
    results: Sequence[Result],
    question: str,
    settings: Settings,
    path: Path,
    words: tuple[str, str],
    labels: Scores,
) -> None:
    """Each score against the value of a setting, mean ± standard error over seeds; a horizontal
    line for a method without a sweep. Each damage has its own panels, whose amounts increase to the
    right; panels of F1 also have the F1 of the damaged labels.

    Nothing is drawn where no method has a sweep.

    Args:
      words: :func:`image_words` of the data sets.
      labels: :func:`damage_scores` of the training masks.
    """
    groups: dict[tuple[str, str], list[str]] = {}
    for (method, value), row in settings.items():
        if value:
            group = groups.setdefault((row["damage"], title(row, words[0])), [])
            group += [method] * (method not in group)
    if not groups:
        return
    from matplotlib.figure import Figure

    fields = [
        c for c in COLUMNS[question] if any(not math.isnan(getattr(r, c[0])) for r in results)
    ]
    names = sorted(dict.fromkeys(method for method, _ in settings))
    fixed = [method for method, value in settings if not value]
    columns = len(groups) > 1  # one for each group
    if columns:
        shape, side = (len(fields), len(groups)), 2.9
    else:
        rows = 2 if len(fields) > 3 else 1
        shape, side = (rows, math.ceil(len(fields) / rows)), 3.9
    figure = Figure(figsize=(side * shape[1], 0.85 * side * shape[0] + 0.3), layout="constrained")
    grid = figure.subplots(*shape, squeeze=False, sharey="row" if columns else "none")
    entries: dict[str, Any] = {}
    panels = grid.T if columns else [grid.ravel()[: len(fields)]]
    for axes in grid.ravel()[len(fields) * len(groups) :]:
        axes.set_axis_off()
    for (damage, unit), column in zip(groups, panels, strict=True):
        group = groups[damage, unit]
        drawn = [(name, f"C{names.index(name) % 10}") for name in (*fixed, *group)]
        damaged = sorted((amount, f1) for (name, amount), f1 in labels.items() if name == damage)
        for axes, field in zip(column, fields, strict=True):
            _panel(axes, results, field, drawn)
            if field[0] == "score" and damaged:
                line = np.array(damaged).T * [[1], [100]]
                axes.plot(*line, "ks:", markersize=3.5, label="the labels themselves")
            if damage == "polygons":  # those of fewer corners are rougher
                axes.invert_xaxis()
            axes.set_xlabel(plain(unit))
            if axes in grid[:, 0] or not columns:
                axes.set_ylabel(plain(field[1].replace("shifted images", words[1])))
            handles, texts = axes.get_legend_handles_labels()
            entries |= dict(zip(texts, handles, strict=True))
        if columns:
            column[0].set_title(plain(", ".join(group)), fontsize=10)
    order = sorted(entries)
    handles = [entries[text] for text in order]
    figure.legend(handles, order, loc="outside upper center", ncols=6, frameon=False)
    save(figure, path, dpi=150)


def _panel(
    axes: Any, results: Sequence[Result], column: Column, methods: Sequence[tuple[str, str]]
) -> None:
    """Draw a field of some methods, by their colours."""
    field, _, scale, _ = column
    by_seed = by_point(results, field)
    texts = {row.value for row in results if row.value and row.method in dict(methods)}
    values = sorted(texts, key=value_order)
    positions = {value: number(value) for value in values}
    if any(map(math.isnan, positions.values())):
        positions = {value: float(i) for i, value in enumerate(values)}
    low, high = min(positions.values()), max(positions.values())
    logarithmic = low > 0 and high > 3 * low
    swept = [method for method, _ in methods if any(values_of(results, method))]
    for method, colour in methods:
        estimates = {
            value: estimate
            for value in values_of(results, method)
            if (estimate := over_seeds(by_seed[method, value])).used
        }
        if constant := estimates.pop("", None):
            mean = scale * constant.mean
            error = scale * (0 if math.isnan(constant.se) else constant.se)
            axes.axhline(mean, color=colour, linestyle="--", label=plain(method))
            axes.axhspan(mean - error, mean + error, color=colour, alpha=0.15, linewidth=0)
        if not estimates:
            continue
        # Methods side by side, so that bars do not hide each other.
        rank = swept.index(method) - (len(swept) - 1) / 2
        factor, shift = (1 + 0.03 * rank, 0) if logarithmic else (1, 0.01 * (high - low) * rank)
        axes.errorbar(
            [positions[v] * factor + shift for v in estimates],
            [scale * x.mean for x in estimates.values()],
            [0 if math.isnan(x.se) else scale * x.se for x in estimates.values()],
            color=colour,
            marker="o",
            markersize=3.5,
            label=plain(method),
        )
    axes.set_xscale("log" if logarithmic else "linear")
    axes.set_xticks(list(positions.values()), list(map(plain, positions)))
    axes.minorticks_off()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
