"""Figures of a search for settings: trials, progress, importance, schedules."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from jaxdl.report.figures import own_style, plain, save
from jaxdl.report.search import SearchRound, mean_course

Ticks = Sequence[tuple[float, str]]
"""Positions 0 … 1 on an axis, and their labels."""


@own_style()
def parallel_coordinates(
    trials: Mapping[str, tuple[Float[np.ndarray, "n d"], Float[np.ndarray, " n"]]],
    axes: Mapping[str, Ticks],
    score: str,
    path: Path,
) -> None:
    """A line a trial across an axis a setting, coloured by the rank of its score; the winner is
    thick.

    Args:
      trials: positions of the settings, and scores, by search; the winner's first.
      axes: axes by setting.
      score: the score's name.
    """
    import matplotlib
    from matplotlib.figure import Figure

    width = 2 + 1.5 * len(axes)
    figure = Figure(figsize=(width, 3.2 * len(trials)), layout="constrained")
    grid = figure.subplots(len(trials), 1, squeeze=False)[:, 0]
    for panel, (name, (positions, scores)) in zip(grid, trials.items(), strict=True):
        finite = np.flatnonzero(~np.isnan(scores))
        order = finite[np.argsort(scores[finite])]
        # Not by the scores themselves: a few bad ones would leave one colour to all others.
        for i, rank in zip(order, np.linspace(0, 1, len(order)), strict=True):
            style = {"linewidth": 1, "alpha": 0.6} if i else {"linewidth": 3, "zorder": 3}
            panel.plot(positions[i], color=matplotlib.colormaps["viridis"](rank), **style)
        for x, ticks in enumerate(axes.values()):
            panel.axvline(x, color="black", linewidth=0.8)
            for y, label in ticks:
                panel.text(x + 0.03, y, plain(label), fontsize=7, va="center")
        panel.set_xticks(range(len(axes)), list(map(plain, axes)))
        panel.set(yticks=(), xlim=(-0.1, len(axes) - 0.6), ylim=(-0.05, 1.05))
        panel.spines[:].set_visible(False)
        ends = "none"
        if len(finite):
            low, high = 100 * scores[finite].min(), 100 * scores[finite].max()
            ends = f"coloured by rank, from {low:.1f} % (dark) to {high:.1f} % (light)"
        panel.set_title(plain(f"{name}: {score}, {ends}"), fontsize=9)
    save(figure, path, dpi=150)


@own_style()
def best_so_far(
    searches: Mapping[str, Sequence[Float[np.ndarray, "3 _"]]], score: str, path: Path
) -> None:
    """The best score so far against steps of networks, and against seconds: its mean over the
    repetitions, and where there are several a thin line for each.

    Args:
      searches: by search, the result of :func:`jaxdl.report.search.progress` for each repetition.
      score: the score's name.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 3.2), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for panel, row, label in zip(
        panels, (0, 1), ("steps of networks", "seconds of training"), strict=True
    ):
        for i, (name, repetitions) in enumerate(searches.items()):
            style = {"where": "post", "color": f"C{i % 10}"}
            for values in repetitions if len(repetitions) > 1 else ():
                panel.step(values[row], 100 * values[2], linewidth=0.8, alpha=0.4, **style)
            courses = [values[[row, 2]] for values in repetitions if values.size]
            steps, best = mean_course(courses)
            panel.step(steps, 100 * best, label=plain(name), **style)
        panel.set(xlabel=label)
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(alpha=0.3)
    panels[0].set_ylabel(plain(f"best {score} so far, %"))
    longest = max(map(len, searches.values()))
    title = f"means of {longest} repetitions" if longest > 1 else None
    panels[0].legend(title=title, frameon=False, fontsize=8, title_fontsize=8)
    save(figure, path, dpi=150)


@own_style()
def importances(shares: Mapping[str, Mapping[str, float]], path: Path) -> None:
    """Bars: of each setting the share in the variance of the scores, by search."""
    from matplotlib.figure import Figure

    settings = list(dict.fromkeys(name for values in shares.values() for name in values))
    height = 0.8 / len(shares)
    figure = Figure(figsize=(6, 1 + 0.45 * len(settings)), layout="constrained")
    axes = figure.subplots()
    for i, (search, values) in enumerate(shares.items()):
        middles = np.arange(len(settings)) + (i - (len(shares) - 1) / 2) * height
        axes.barh(middles, [100 * values[name] for name in settings], height, label=plain(search))
    axes.set_yticks(range(len(settings)), list(map(plain, settings)))
    axes.invert_yaxis()
    axes.set(xlabel="share of the variance, %")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    save(figure, path, dpi=150)


@own_style()
def schedules(
    rounds: Sequence[SearchRound],
    winner: Sequence[SearchRound],
    logarithmic: Sequence[str],
    path: Path,
) -> None:
    """The settings of a population over its training: all trials grey, the winner's line in colour,
    with a dot where it was copied.

    Args:
      rounds: all rounds of one search.
      winner: the rounds that led to the winner, in their order.
      logarithmic: settings on a logarithmic axis.
    """
    from matplotlib.figure import Figure

    names = list(json.loads(winner[0].settings))
    figure = Figure(figsize=(4.2 * len(names), 3.2), layout="constrained")
    panels = figure.subplots(1, len(names), squeeze=False)[0]
    trials: dict[int, list[SearchRound]] = {}
    for row in rounds:
        trials.setdefault(row.trial, []).append(row)
    for panel, name in zip(panels, names, strict=True):
        for line in trials.values():
            panel.stairs(*stairs(line, name), baseline=None, color="0.6", alpha=0.5, linewidth=0.8)
        values, edges = stairs(winner, name)
        panel.stairs(values, edges, baseline=None, color="C0", linewidth=2)
        copied = [i for i, row in enumerate(winner) if row.parent not in (row.trial, -1)]
        panel.plot([edges[i] for i in copied], [values[i] for i in copied], "o", color="C0")
        panel.set(xlabel="step", title=plain(name))
        panel.set_yscale("log" if name in logarithmic else "linear")
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(alpha=0.3)
    save(figure, path, dpi=150)


def stairs(line: Sequence[SearchRound], name: str) -> tuple[list[float], list[int]]:
    """The values of a setting, and the steps at which they changed."""
    return [json.loads(row.settings)[name] for row in line], [0, *(row.steps for row in line)]
