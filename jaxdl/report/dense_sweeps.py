"""The figure of a study of dense answers whose methods are trained at several values of a setting,
and how good damaged masks are themselves."""

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
"""Those of each method at each of its values."""
PICTURES = {
    **{"drive": "photographs", "bccd": "micrographs"},
    **dict.fromkeys(("fundus", "cells"), "drawn images"),
}
"""What those of a data set are, by its name."""
UNITS = {"shifted": "pixels", "dilated": "pixels", "polygons": "corners", "missing": "share"}
"""Of the amount of a damage, one of :data:`jaxdl.data.masks.DAMAGES`."""
Scores = Mapping[tuple[str, float], float]
"""F1 by damage and amount."""


def damage_scores(damages: Sequence[tuple[str, float]], split: Split) -> Scores:
    """The F1 of the damaged masks of a split beside whole ones, the first version; of none where
    there are no damages but the first, which is none."""
    scores = {}
    for i, damage in enumerate(damages[1:], 1):
        masks = np.asarray(split["mask"])
        confusion = confusion_matrix(masks[:, i].ravel(), masks[:, 0].ravel(), 2)
        scores[damage] = float(dice(confusion)[1])  # unknown pixels are 255
    return scores


def describe_damage(scores: Scores) -> dict[str, str]:
    """A fact for the report; none without damages."""
    rows = [f"{name} {amount:g} has F1 {100 * f1:.1f} %" for (name, amount), f1 in scores.items()]
    return {"Damaged masks": ", ".join(rows)} if rows else {}


def pictures(names: Sequence[str]) -> tuple[str, str]:
    """What the images of a data set are called, and those of a second one, by the names of both; a
    second one of the same name has "shifted images"."""
    own, *shifted = (PICTURES.get(name, "images") for name in names)
    others = len({*names}) > 1
    return own.removeprefix("drawn "), shifted[0] if others else "shifted images"


def title(settings: Mapping[str, Any], pictures: str) -> str:
    """What a method's sweep is over; empty where it has none."""
    match settings["sweep"]:
        case "images":
            return f"training {pictures}"
        case "amount":
            return UNITS.get(settings["damage"], "amount")
        case swept:
            return str(swept)


def at_last_values(
    settings: Settings,
    predictions: Mapping[tuple[str, str, int], Mapping[str, Any]],
    pictures: str,
) -> dict[str, Any]:
    """Answers of seed 0 for the first data set, "images", of each method at the last value of its
    sweep, by a heading: the method, and that value in a second line."""
    # In the order of the configuration: 3 corners are rougher than 12.
    last = {method: (method, value) for method, value in settings}
    answers = {}
    for point in sorted(last.values()):
        if (*point, 0) in predictions:
            method, value = point
            swept = f"\n{title(settings[point], pictures)}: {value}" if value else ""
            answers[method + swept] = predictions[*point, 0]["images"]
    return answers


@own_style()
def sweep(
    results: Sequence[Result],
    question: str,
    settings: Settings,
    path: Path,
    pictures: tuple[str, str],
    labels: Scores,
) -> None:
    """Each measured number against the value of a setting, mean ± standard error over seeds; of a
    method without a value a horizontal line. Every damage has panels of its own, from little to
    much, where F1 has that of the damaged labels beside it.

    Nothing is drawn where no method has a sweep.

    Args:
      pictures: as :func:`pictures` has them.
      labels: as :func:`damage_scores` has them.
    """
    groups: dict[tuple[str, str], list[str]] = {}
    for (method, value), own in settings.items():
        if value:
            group = groups.setdefault((own["damage"], title(own, pictures[0])), [])
            group += [method] * (method not in group)
    if not groups:
        return
    from matplotlib.figure import Figure

    fields = [
        c for c in COLUMNS[question] if any(not math.isnan(getattr(r, c[0])) for r in results)
    ]
    names = sorted(dict.fromkeys(method for method, _ in settings))
    fixed = [method for method, value in settings if not value]
    several = len(groups) > 1
    shape, side = ((len(fields), len(groups)), 2.9) if several else ((1, len(fields)), 3.9)
    figure = Figure(figsize=(side * shape[1], 0.85 * side * shape[0] + 0.3), layout="constrained")
    grid = figure.subplots(*shape, squeeze=False, sharey="row" if several else "none")
    entries: dict[str, Any] = {}
    for (damage, unit), column in zip(groups, grid.T if several else grid, strict=True):
        group = groups[damage, unit]
        drawn = [(name, f"C{names.index(name) % 10}") for name in (*fixed, *group)]
        damaged = sorted((amount, f1) for (name, amount), f1 in labels.items() if name == damage)
        for axes, field in zip(column, fields, strict=True):
            _panel(axes, results, field, drawn)
            if field[0] == "score" and damaged:
                own_line = np.array(damaged).T * [[1], [100]]
                axes.plot(*own_line, "ks:", markersize=3.5, label="the labels themselves")
            if damage == "polygons":  # those of fewer corners are rougher
                axes.invert_xaxis()
            axes.set_xlabel(plain(unit))
            if axes in grid[:, 0] or not several:
                axes.set_ylabel(plain(field[1].replace("shifted images", pictures[1])))
            handles, texts = axes.get_legend_handles_labels()
            entries |= dict(zip(texts, handles, strict=True))
        if several:
            column[0].set_title(plain(", ".join(group)), fontsize=10)
    order = sorted(entries)
    handles = [entries[text] for text in order]
    figure.legend(handles, order, loc="outside upper center", ncols=6, frameon=False)
    save(figure, path, dpi=150)


def _panel(
    axes: Any, results: Sequence[Result], column: Column, methods: Sequence[tuple[str, str]]
) -> None:
    """A field of some methods, in their colours."""
    field, _, scale, _ = column
    by_seed = by_point(results, field)
    own = {row.value for row in results if row.value and row.method in dict(methods)}
    values = sorted(own, key=value_order)
    places = {value: number(value) for value in values}
    if any(map(math.isnan, places.values())):
        places = {value: float(i) for i, value in enumerate(values)}
    wide = min(places.values()) > 0 and max(places.values()) > 3 * min(places.values())
    reach = max(places.values()) - min(places.values())
    swept = [method for method, _ in methods if any(values_of(results, method))]
    for method, colour in methods:
        estimates = {
            value: estimate
            for value in values_of(results, method)
            if (estimate := over_seeds(by_seed[method, value])).used
        }
        if alone := estimates.pop("", None):
            mean, error = scale * alone.mean, scale * (0 if math.isnan(alone.se) else alone.se)
            axes.axhline(mean, color=colour, linestyle="--", label=plain(method))
            axes.axhspan(mean - error, mean + error, color=colour, alpha=0.15, linewidth=0)
        if not estimates:
            continue
        # Methods side by side, so that bars do not hide each other.
        aside = swept.index(method) - (len(swept) - 1) / 2
        shifts = [
            places[v] * (1 + 0.03 * aside) if wide else places[v] + 0.01 * reach * aside
            for v in estimates
        ]
        axes.errorbar(
            shifts,
            [scale * x.mean for x in estimates.values()],
            [0 if math.isnan(x.se) else scale * x.se for x in estimates.values()],
            color=colour,
            marker="o",
            markersize=3.5,
            label=plain(method),
        )
    axes.set_xscale("log" if wide else "linear")
    axes.set_xticks(list(places.values()), list(map(plain, places)))
    axes.minorticks_off()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
