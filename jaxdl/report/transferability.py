"""The report of the transferability study (Yosinski et al. 2014): table, findings in words, figure.

A treatment is compared with the base trained on the same target task, of the same split, seed and
direction. These paired differences are averaged over the directions of a seed, and seeds are the
independent samples: the networks of one seed share their bases, and are not more samples.
"""

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from jaxdl.report.figures import own_style, save
from jaxdl.report.tables import (
    MISSING,
    Estimate,
    confidence_interval,
    format_mean,
    format_number,
    markdown_table,
    mean_and_standard_error,
    read_rows,
    write_rows,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SPLITS = {
    "random": "Random halves",
    "dissimilar": "Dissimilar halves",
    "whole1000": "All 1000 classes",  # the paper's split of the random-features control
}
TREATMENTS = {  # in the order of tables; treatment: colour, marker and legend in the figure
    "base": ("#222222", "o", "base"),
    "BnB": ("#17408b", "s", "BnB: own layers, frozen"),
    "BnB+": ("#5fa8dd", "^", "BnB+: own, fine-tuned"),
    "AnB": ("#a3151b", "D", "AnB: other's layers, frozen"),
    "AnB+": ("#f08a76", "v", "AnB+: other's, fine-tuned"),
    "random": ("#6f6f6f", "X", "random layers, frozen"),
}


class Result(NamedTuple):
    """One trained network, a row of `results.csv`."""

    split: str  # how the classes were halved: random, dissimilar
    seed: int
    direction: str  # the target task: AB is tested on B, BA on A, bases too
    treatment: str  # a key of TREATMENTS
    n: int  # the layers taken over; 0 for base
    accuracy: float  # fraction; NaN where training diverged


class Cell(NamedTuple):
    """What is told of one treatment at one cut: our rows and published ones alike."""

    split: str
    treatment: str
    n: int
    accuracy: Estimate  # over seeds, as fractions
    difference: Estimate  # to base, paired; empty for base itself and where there is none
    networks: int  # that were trained to the end
    diverged: int = 0


class Finding(NamedTuple):
    """One of the paper's four findings, judged by a rule that was fixed before the run."""

    name: str
    shows: bool | None  # None: it cannot be judged
    sentence: str


def read_results(path: str | os.PathLike) -> list[Result]:
    """Read `results.csv`; ValueError names the row where it is damaged, OSError if unreadable."""
    results = read_rows(path, Result)
    for row in results:
        known = row.treatment in TREATMENTS
        if not known or not (0 <= row.accuracy <= 1 or math.isnan(row.accuracy)):
            what = "accuracy out of [0, 1]" if known else "unknown treatment"
            raise ValueError(f"{os.fspath(path)}: damaged table: {what}: {row}")
    return results


def write_results(path: str | os.PathLike, results: Iterable[Result]) -> None:
    """Write `results.csv` in one piece, in an order independent of the order of training."""
    write_rows(path, Result, sorted(results, key=_order))


# Estimates. Accuracies of networks are looked up by (split, treatment, n), then by pair.

_Pair = tuple[int, str]  # seed and direction: what is equal here is compared
_Index = dict[tuple[str, str, int], dict[_Pair, float]]


def _order(row: Result | Cell) -> tuple:
    splits, treatments = list(SPLITS), list(TREATMENTS)
    split = splits.index(row.split) if row.split in splits else len(splits)
    rest = (row.seed, row.direction) if isinstance(row, Result) else ()
    return split, row.split, treatments.index(row.treatment), row.n, *rest


def _index(results: Iterable[Result]) -> _Index:
    index: _Index = {}
    for row in results:
        networks = index.setdefault((row.split, row.treatment, row.n), {})
        if (row.seed, row.direction) in networks:
            raise ValueError(f"two rows for one network: {row}")
        networks[row.seed, row.direction] = row.accuracy
    return index


def _cuts(index: _Index, split: str, *treatments: str) -> list[int]:
    """The cuts that all these treatments have."""
    cuts = [{n for s, t, n in index if (s, t) == (split, treatment)} for treatment in treatments]
    return sorted(set.intersection(*cuts))


def _profile(index: _Index, split: str, treatment: str, cuts: Sequence[int]) -> dict[_Pair, float]:
    """Mean over the cuts, for the pairs that have them all; NaN where one diverged."""
    columns = [index.get((split, treatment, n), {}) for n in cuts]
    if not columns:
        return {}
    pairs = sorted(set.intersection(*map(set, columns)))
    return {pair: float(np.mean([column[pair] for column in columns])) for pair in pairs}


def _minus(a: Mapping, b: Mapping) -> dict:
    return {key: value - b[key] for key, value in a.items() if key in b}


def _by_seed(values: Mapping[_Pair, float]) -> dict[int, float]:
    """Mean over the directions of each seed; a direction that diverged leaves the other."""
    seeds = sorted({seed for seed, _ in values})
    return {
        s: mean_and_standard_error([x for (t, _), x in values.items() if t == s]).mean
        for s in seeds
    }


def _over_seeds(values: Mapping[_Pair, float]) -> Estimate:
    return mean_and_standard_error(list(_by_seed(values).values()))


def summarize(results: Iterable[Result]) -> list[Cell]:
    """Accuracy and paired difference to base, mean ± s.e. over seeds, by split, treatment and cut.

    With x the accuracy of a network and b that of the base of the same split, seed and direction,
    the difference is the mean over seeds of mean over directions of x − b. Diverged networks are
    left out, and counted.

    Raises:
      ValueError: two rows describe the same network.
    """
    index = _index(results)
    cells = []
    for (split, treatment, n), networks in index.items():
        base = index.get((split, "base", 0), {}) if treatment != "base" else {}
        diverged = sum(map(math.isnan, networks.values()))
        cells.append(
            Cell(
                split,
                treatment,
                n,
                accuracy=_over_seeds(networks),
                difference=_over_seeds(_minus(networks, base)),
                networks=len(networks) - diverged,
                diverged=diverged,
            )
        )
    return sorted(cells, key=_order)


# Findings.


def _quote(x: Estimate) -> str:
    if not x.used:
        return "not measured"
    seeds = f"{x.used} seed{'s' * (x.used > 1)}"
    text = f"{format_mean(x.mean, x.se, signed=True)} points"
    if x.used == 1:
        return f"{text} ({seeds}, no standard error)"
    low, high = (format_number(bound, 100, signed=True) for bound in confidence_interval(x))
    return f"{text} (95% interval {low} to {high}, {seeds})"


def _judge(sign: int, *estimates: Estimate) -> bool | None:
    """Whether the 95% intervals of all lie beyond zero on this side; None if one has no width."""
    if any(x.used < 2 or not x.se > 0 for x in estimates):
        return None
    return all(min(sign * bound for bound in confidence_interval(x)) > 0 for x in estimates)


def _finding(name: str, shows: bool | None, claim: str, evidence: str) -> Finding:
    opening = {
        True: f"This run shows that {claim}.",
        False: f"This run does not show that {claim}.",
        None: f"It cannot be judged whether {claim}: "
        "that needs its treatments, at enough cuts, in 2 seeds.",
    }
    return Finding(name, shows, f"{opening[shows]} {evidence}")


def findings(results: Iterable[Result]) -> list[Finding]:
    """The four findings of the paper, each with the paired differences that decide it.

    A finding shows when the two-sided 95% t intervals over seeds of all its differences exclude
    zero on its side. The rules, on the random halves unless said otherwise:

    - specificity: AnB at the last cut is below base, and below AnB at the first cut;
    - co-adaptation: BnB averaged over the middle cuts (all but the first and last) is below base;
      the lowest cut is named, but it is chosen by its outcome and decides nothing;
    - generalization: AnB+ averaged over the cuts is above base, and above BnB+, which was
      retrained just as long without A's data;
    - distance: AnB at the last cut loses more to its base on the dissimilar halves than on the
      random ones.
    """
    index = _index(results)

    def profile(treatment: str, cuts: Sequence[int], split: str = "random") -> dict[_Pair, float]:
        return _profile(index, split, treatment, cuts)

    def drop(treatment: str, cuts: Sequence[int], split: str = "random") -> dict[_Pair, float]:
        return _minus(profile(treatment, cuts, split), profile("base", [0], split))

    cuts = _cuts(index, "random", "AnB")
    first, last = cuts[:1], cuts[-1:] if len(cuts) > 1 else []
    depth, slope = (
        _over_seeds(x)
        for x in (drop("AnB", cuts[-1:]), _minus(profile("AnB", last), profile("AnB", first)))
    )
    ends = [str(*n) if n else MISSING for n in (first, cuts[-1:])]
    specificity = _finding(
        "specificity",
        _judge(-1, depth, slope),
        "transferred features become specific to their task with depth",
        f"AnB at the last cut (n = {ends[1]}) minus base: {_quote(depth)}; "
        f"minus AnB at the first cut (n = {ends[0]}): {_quote(slope)}.",
    )

    own = _cuts(index, "random", "BnB")
    middle = own[1:-1]
    dip = _over_seeds(drop("BnB", middle))
    evidence = f"BnB over the middle cuts ({_span(middle)}) minus base: {_quote(dip)}."
    by_cut = {n: _over_seeds(drop("BnB", [n])) for n in own}
    measured = {n: x for n, x in by_cut.items() if x.used}
    if measured:
        deepest = min(measured, key=lambda n: measured[n].mean)
        evidence += (
            f" The lowest of all cuts, n = {deepest}, is at {_quote(by_cut[deepest])}; "
            f"it is picked afterwards, so it looks lower than it is. "
            f"The last cut, n = {own[-1]}, is at {_quote(by_cut[own[-1]])}."
        )
    adaptation = _finding(
        "co-adaptation",
        _judge(-1, dip),
        "a network loses by being cut in the middle and retrained above",
        evidence,
    )

    tuned = _cuts(index, "random", "AnB+", "BnB+") or _cuts(index, "random", "AnB+")
    transferred, retrained = drop("AnB+", tuned), drop("BnB+", tuned)
    gain, control, rest = (
        _over_seeds(x)
        for x in (transferred, retrained, _minus(profile("AnB+", tuned), profile("BnB+", tuned)))
    )
    generalization = _finding(
        "generalization",
        _judge(+1, gain, rest),
        "features of A, fine-tuned, help B beyond what retraining alone gives",
        f"AnB+ over the cuts {_span(tuned)} minus base: {_quote(gain)}. Retraining alone, "
        f"BnB+ minus base: {_quote(control)}. What is left for A, AnB+ minus BnB+: {_quote(rest)}.",
    )

    shared = [n for n in cuts if n in _cuts(index, "dissimilar", "AnB")][-1:]
    here, there = drop("AnB", shared), drop("AnB", shared, "dissimilar")
    farther = mean_and_standard_error(list(_minus(_by_seed(there), _by_seed(here)).values()))
    control_split = "dissimilar" if _cuts(index, "dissimilar", "random") else "random"
    floor = _over_seeds(drop("random", _cuts(index, control_split, "random")[-1:], control_split))
    distance = _finding(
        "distance",
        _judge(-1, farther),
        "features transfer less well between dissimilar tasks",
        f"AnB at n = {_span(shared)} minus base, dissimilar halves minus random halves: "
        f"{_quote(farther)}; apart they are {_quote(_over_seeds(there))} and "
        f"{_quote(_over_seeds(here))}. Random frozen features at their last cut, "
        f"{control_split} halves, minus base: {_quote(floor)}.",
    )
    return [specificity, adaptation, generalization, distance]


def _span(cuts: Sequence[int]) -> str:
    return ", ".join(map(str, cuts)) or MISSING


# Tables and text.


def _pick(cells: Iterable[Cell], split: str, treatment: str) -> list[Cell]:
    return [c for c in cells if (c.split, c.treatment) == (split, treatment) and c.accuracy.used]


def _mean(x: Estimate, signed: bool = False) -> str:
    return format_mean(x.mean, x.se, signed=signed)


def table(summary: Sequence[Cell], published: Sequence[Cell]) -> str:
    """Markdown: a table a split, a row a treatment and cut, the paper's values at that n beside.

    The differences are paired, and in points (hundredths of accuracy).
    """
    theirs = {(cell.split, cell.treatment, cell.n): cell for cell in published}
    sections = []
    for split in dict.fromkeys(cell.split for cell in summary):
        rows = []
        for cell in (cell for cell in summary if cell.split == split):
            paper = theirs.get((split, cell.treatment, cell.n))
            rows.append(
                (
                    cell.treatment,
                    cell.n or "",
                    _mean(cell.accuracy),
                    _mean(cell.difference, signed=True),
                    cell.accuracy.used,
                    f"{cell.networks}" + f" ({cell.diverged} diverged)" * (cell.diverged > 0),
                    _mean(paper.accuracy) if paper else MISSING,
                    _mean(paper.difference, signed=True) if paper else MISSING,
                )
            )
        header = ("treatment", "n", "accuracy, %", "minus base, points", "seeds", "networks")
        header += ("paper: accuracy, %", "paper: minus base")
        sections.append(f"### {SPLITS.get(split, split)}\n\n{markdown_table(header, rows)}")
    return "\n\n".join([*sections, _BESIDE])


def _by_cut(cells: Sequence[Cell]) -> str:
    """Markdown, a column a cut: difference to base, or accuracy where no base is known."""
    cuts = sorted({cell.n for cell in cells if cell.n})
    rows = []
    for split, treatment in dict.fromkeys((c.split, c.treatment) for c in cells if c.n):
        mine = {c.n: c for c in _pick(cells, split, treatment)}
        base = _pick(cells, split, "base")
        values = {
            n: _mean(c.difference, True) if base else _mean(c.accuracy) for n, c in mine.items()
        }
        rows.append(
            (
                f"{SPLITS.get(split, split)}, {treatment}",
                "minus base" if base else "accuracy",
                _mean(base[0].accuracy) if base else MISSING,
                *(values.get(n, MISSING) for n in cuts),
            )
        )
    header = ("the paper's", "points, %", "base, %", *(f"n = {n}" for n in cuts))
    return markdown_table(header, rows, left=2)


_BESIDE = """\
The paper's columns are another network on another data set (AlexNet, 8 layers, ImageNet), at the
same n, which is not the same depth: its last cut is n = 7."""

_METHOD = """\
- Every network is compared with the base of the same split, seed and direction, which was trained
  whole on the same target task. These paired differences are averaged over the directions of a
  seed; ± is the standard error over seeds (standard deviation with m − 1, over √m).
- Seeds are the samples. The directions of a seed share networks and are not counted as more.
- A finding "shows" when the two-sided 95% t interval over seeds excludes zero on its side, for each
  difference it names. With 3 seeds that is 4.3 standard errors, with 2 it is
  12.7. The rules were fixed before the
  run; nothing is corrected for there being four of them.
- Accuracies carry the luck of the seed and its halves, which the paired differences mostly do not.
  All seeds share the images. The random halves differ from seed to seed; the dissimilar ones are
  the same, so that there ± is the luck of initialization and order alone. Random and dissimilar
  halves are subtracted seed by seed, but nothing pairs them beyond the number.
- Frozen layers run with the batch statistics of the network they come from; untrained ones with
  mean 0 and variance 1.
- Networks that diverged are left out of every mean; a mean over cuts needs all the cuts.
- Training twice can raise accuracy by itself, where a base had not converged. AnB+ is therefore
  judged against BnB+, too: only what exceeds it is owed to the other task's data."""

_PAPER = """\
Yosinski et al. (2014), another network on another data set, computed from the authors' logs by the
rules below. Compare the shapes, not the values. Each of their fine-tuned rows is one or two
networks, and AnB+ was tested on other halves than BnB+: where the two lie apart in the figure it is
mostly these halves; paired with their own bases they gain alike. The random layers were trained on
all 1000 classes, and have no base in the logs."""


def report(
    results: Sequence[Result], published: Sequence[Cell], *, facts: Mapping[str, str] | None = None
) -> str:
    """The whole report in Markdown: findings in words, tables, the paper's values, the method.

    Args:
      results: all networks of the study, diverged ones too.
      published: the paper's summary, `published.YOSINSKI_2014`.
      facts: lines for the head, such as `{"Time": "94 s", "Device": "2 CPU cores"}`.
    """
    summary = summarize(results)
    lines = {"Networks": str(len(results)), **(facts or {})}
    judged = findings(results)
    parts = [
        "# Transferability of features",
        "\n".join(f"- {key}: {value}" for key, value in lines.items()),
        "## Findings",
        "\n".join(
            f"{i}. **{f.name.capitalize()}.** {f.sentence}" for i, f in enumerate(judged, start=1)
        ),
    ]
    lost = [
        f"- {r.split} halves, seed {r.seed}, direction {r.direction}: {r.treatment}, n = {r.n}"
        for r in sorted(results, key=_order)
        if math.isnan(r.accuracy)
    ]
    if lost:
        parts += ["## Diverged networks", "\n".join(lost)]
    parts += ["## Results", table(summary, published)]
    parts += ["## The paper's values", _PAPER, _by_cut(published)]
    parts += ["## How the numbers are computed", _METHOD]
    return "\n\n".join(parts) + "\n"


# Figure.


@own_style()
def figure(
    summary: Sequence[Cell],
    results: Sequence[Result],
    published: Sequence[Cell],
    path: str | os.PathLike,
) -> None:
    """Draw accuracy against the cut, in the form of the paper's Figure 2, as a PNG file.

    Above this run, below the published values; left the random halves, right the dissimilar ones
    with the random-features control. Lines are means with their standard errors over seeds, the
    base at n = 0 is a white circle; small marks are single networks. The dotted line on the right
    is how far AnB falls on the random halves, drawn from the base of the dissimilar ones.
    """
    from matplotlib.figure import Figure  # slow to import, and only needed here

    # At 900 pixels, the width of a README, 9 points come out as 12 pixels.
    fig = Figure((9.0, 7.8), dpi=150, layout="constrained")
    grid = fig.subplots(2, 2, height_ratios=(1.5, 1.0))
    legend: dict = {}
    rows = (("this run", summary, results), ("Yosinski et al. (2014), ImageNet", published, ()))
    for (who, cells, networks), (left, right) in zip(rows, grid, strict=True):
        halves = [c for c in cells if c.split == "random" and c.treatment != "random"]
        other = [c for c in cells if c.split == "dissimilar"]
        name = "Dissimilar halves" if other else "Random layers"
        control = [c for c in cells if c.treatment == "random"]
        if control and not other:
            other = [*_pick(cells, control[0].split, "base"), *control]
        elif not any(c in other for c in control):  # it was measured on another split
            other += control
        for axes, title, mine in ((left, "Random halves", halves), (right, name, other)):
            axes.set_title(f"{title}, {who}", loc="left", fontsize=10)
            legend |= _draw(axes, mine, networks)
        legend |= _draw_reference(right, cells)
        left.set_ylabel("accuracy, %")
    for axes in grid[1]:
        axes.set_xlabel("layer n at which the network is cut")
    labels = [*(TREATMENTS[t][2] for t in ("base", "random", *TREATMENTS)), *legend]
    labels = [label for label in dict.fromkeys(labels) if label in legend]
    fig.legend(
        [legend[x] for x in labels],
        labels,
        loc="outside upper center",
        ncols=4,
        fontsize=8.5,
        frameon=False,
    )
    note = "Means ± standard error over seeds (the paper: splits); small marks are single networks."
    fig.supxlabel(note, fontsize=8.5, color="0.35")
    save(fig, path)


def _draw(axes: "Axes", cells: Sequence[Cell], networks: Sequence[Result]) -> dict:
    """Draw the lines of these cells and their single networks; returns handles for the legend."""
    handles = {}
    depth = max((c.n for c in cells), default=0)
    axes.set_xticks(range(depth + 1), ["base", *map(str, range(1, depth + 1))])
    axes.set_xlim(-0.4, max(depth, 1) + 0.4)
    axes.grid(axis="y", color="0.92")
    axes.spines[["top", "right"]].set_visible(False)
    if not cells:
        axes.text(0.5, 0.5, "not in this run", ha="center", color="0.5", transform=axes.transAxes)
    for split, treatment in dict.fromkeys((c.split, c.treatment) for c in cells):
        colour, marker, label = TREATMENTS[treatment]
        is_base = treatment == "base"
        shift = 0.0 if is_base else 0.08 * (list(TREATMENTS).index(treatment) - 3)  # side by side
        line, base = _pick(cells, split, treatment), _pick(cells, split, "base")
        points = [
            (r.n + (-0.15 if is_base else shift), 100 * r.accuracy)
            for r in networks
            if (r.split, r.treatment) == (split, treatment) and not math.isnan(r.accuracy)
        ]
        if points:
            style = {"s": 15, "color": colour, "alpha": 0.3, "lw": 0, "marker": marker}
            axes.scatter(*zip(*points, strict=True), **style)
        if not line:
            continue
        x = [c.n + shift for c in line]
        y = [100 * c.accuracy.mean for c in line]
        if is_base:
            axes.axhline(y[0], color=colour, lw=0.9, ls=(0, (5, 4)), zorder=1)
        else:  # the line starts at base, where nothing is taken over
            start = [100 * c.accuracy.mean for c in base]
            axes.plot([0.0] * len(start) + x, start + y, color=colour, lw=1.4)
        if not base:  # it comes from a split whose base is not in this panel
            text, near = SPLITS.get(split, split).lower(), {"textcoords": "offset points"}
            axes.annotate(text, (x[0], y[0]), (7, 0), color=colour, fontsize=8.5, **near)
        handles[label] = axes.errorbar(
            x,
            y,
            [0.0 if math.isnan(c.accuracy.se) else 100 * c.accuracy.se for c in line],
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
    base = _pick(cells, "dissimilar", "base")
    fall = [c for c in _pick(cells, "random", "AnB") if c.difference.used]
    if not (base and fall):
        return {}
    level = base[0].accuracy.mean
    heights = [100 * (level + d) for d in (0.0, *(c.difference.mean for c in fall))]
    colour = TREATMENTS["AnB"][0]
    (line,) = axes.plot([0, *(c.n for c in fall)], heights, color=colour, lw=1.2, ls=":", zorder=2)
    return {"AnB's fall on random halves": line}
