"""The report of the transferability study (Yosinski et al. 2014): table and findings in words."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from jaxdl.report.comparisons import assemble, minus, over_seeds, quote, reach, shows
from jaxdl.report.tables import MISSING, Estimate, bullets, format_mean, markdown_table
from jaxdl.report.transferred import (
    SPLITS,
    Cell,
    Pair,
    Result,
    by_seed,
    cuts_of,
    estimate,
    index_of,
    order,
    pick,
    profile_of,
    summarize,
)


class Finding(NamedTuple):
    """One of the paper's four findings, judged by a rule that was fixed before the run."""

    name: str
    shows: bool | None  # None: it cannot be judged
    sentence: str


def _finding(name: str, shows: bool | None, claim: str, numbers: Mapping[str, Estimate]) -> Finding:
    opening = {
        True: f"This run shows that {claim}.",
        False: f"This run does not show that {claim}.",
        None: f"It cannot be judged whether {claim}: "
        "that needs its treatments and halves, at enough cuts, in 2 seeds or more.",
    }
    sentences = [f"{label}: {quote(number)}." for label, number in numbers.items() if number.used]
    return Finding(name, shows, " ".join([opening[shows], *sentences]))


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
    index = index_of(results)

    def profile(treatment: str, cuts: Sequence[int], split: str = "random") -> dict[Pair, float]:
        return profile_of(index, split, treatment, cuts)

    def span(cuts: Sequence[int]) -> str:
        return ", ".join(map(str, cuts))

    def drop(treatment: str, cuts: Sequence[int], split: str = "random") -> dict[Pair, float]:
        return minus(profile(treatment, cuts, split), profile("base", [0], split))

    cuts = cuts_of(index, "random", "AnB")
    first, last = cuts[:1], cuts[-1:] if len(cuts) > 1 else []
    depth = estimate(drop("AnB", cuts[-1:]))
    slope = estimate(minus(profile("AnB", last), profile("AnB", first)))
    specificity = _finding(
        "specificity",
        shows(-1, depth, slope),
        "transferred features become specific to their task with depth",
        {
            f"AnB at the last cut (n = {span(cuts[-1:])}) minus base": depth,
            f"AnB at the last cut minus AnB at the first (n = {span(first)})": slope,
        },
    )

    bnb_cuts = cuts_of(index, "random", "BnB")
    middle = bnb_cuts[1:-1]
    dip = estimate(drop("BnB", middle))
    evidence = {f"BnB over the middle cuts ({span(middle)}) minus base": dip}
    drops = {n: estimate(drop("BnB", [n])) for n in bnb_cuts}
    if means := {n: x.mean for n, x in drops.items() if x.used}:
        lowest, last_cut = min(means, key=means.__getitem__), bnb_cuts[-1]
        note = "picked after the fact, so it looks lower than it is"
        evidence[f"BnB at the last cut, n = {last_cut}, minus base"] = drops[last_cut]
        if lowest != last_cut:
            evidence[f"BnB at its lowest cut, n = {lowest}, minus base ({note})"] = drops[lowest]
    adaptation = _finding(
        "co-adaptation",
        shows(-1, dip),
        "a network loses by being cut in the middle and retrained above",
        evidence,
    )

    tuned = cuts_of(index, "random", "AnB+", "BnB+") or cuts_of(index, "random", "AnB+")
    gain, control = estimate(drop("AnB+", tuned)), estimate(drop("BnB+", tuned))
    rest = estimate(minus(profile("AnB+", tuned), profile("BnB+", tuned)))
    generalization = _finding(
        "generalization",
        shows(+1, gain, rest),
        "features of A, fine-tuned, help B beyond what retraining alone gives",
        {
            f"AnB+ over the cuts {span(tuned)} minus base": gain,
            "Retraining alone, BnB+ minus base": control,
            "What is left for A, AnB+ minus BnB+": rest,
        },
    )

    common_cuts = [n for n in cuts if n in cuts_of(index, "dissimilar", "AnB")][-1:]
    near, distant = drop("AnB", common_cuts), drop("AnB", common_cuts, "dissimilar")
    difference = over_seeds(minus(by_seed(distant), by_seed(near)))
    control_split = "dissimilar" if cuts_of(index, "dissimilar", "random") else "random"
    floor = estimate(drop("random", cuts_of(index, control_split, "random")[-1:], control_split))
    transferred = f"AnB at n = {span(common_cuts)} minus base"
    distance = _finding(
        "distance",
        shows(-1, difference),
        "features transfer less well between dissimilar tasks",
        {
            f"{transferred}, dissimilar minus random halves": difference,
            f"{transferred}, dissimilar halves": estimate(distant),
            f"{transferred}, random halves": estimate(near),
            f"Random frozen features at their last cut, {control_split} halves, minus base": floor,
        },
    )
    return [specificity, adaptation, generalization, distance]


def _mean(x: Estimate, signed: bool = False) -> str:
    return format_mean(x.mean, x.se, signed=signed)


def table(summary: Sequence[Cell], published: Sequence[Cell]) -> str:
    """Markdown: a table a split, a row a treatment and cut, the paper's values at that n beside.

    The differences are paired, and in points (hundredths of accuracy).
    """
    published_cells = {(cell.split, cell.treatment, cell.n): cell for cell in published}
    sections = []
    for split in dict.fromkeys(cell.split for cell in summary):
        rows = []
        for cell in (cell for cell in summary if cell.split == split):
            paper = published_cells.get((split, cell.treatment, cell.n))
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
        titles = ("treatment", "n", "accuracy, %", "minus base, points", "seeds", "networks")
        header = (*titles, "paper: accuracy, %", "paper: minus base")
        sections.append(f"### {SPLITS.get(split, split)}\n\n{markdown_table(header, rows)}")
    return "\n\n".join([*sections, _BESIDE])


def _by_cut(cells: Sequence[Cell]) -> str:
    """Markdown, a column a cut: difference to base, or accuracy where no base is known."""
    cuts = sorted({cell.n for cell in cells if cell.n})
    rows = []
    for split, treatment in dict.fromkeys((c.split, c.treatment) for c in cells if c.n):
        row = {c.n: c for c in pick(cells, split, treatment)}
        base = pick(cells, split, "base")
        values = {
            n: _mean(c.difference, True) if base else _mean(c.accuracy) for n, c in row.items()
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
  difference it names: {reach}.
  The rules were fixed before the run; nothing is corrected for there being four of them.
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


def report(results: Sequence[Result], published: Sequence[Cell], facts: Mapping[str, str]) -> str:
    """The whole report in Markdown: findings in words, tables, the paper's values, the method.

    Args:
      results: all networks of the study, diverged ones too.
      published: the paper's summary, `published.YOSINSKI_2014`.
      facts: lines for the head, such as `{"Time": "94 s", "Device": "2 CPU cores"}`.
    """
    judged = findings(results)
    diverged = [
        f"{r.split} halves, seed {r.seed}, direction {r.direction}: {r.treatment}, n = {r.n}"
        for r in sorted(results, key=order)
        if math.isnan(r.accuracy)
    ]
    sentences = [
        f"{i}. **{f.name.capitalize()}.** {f.sentence}" for i, f in enumerate(judged, start=1)
    ]
    sections = [
        ("Findings", "\n".join(sentences)),
        ("Diverged networks", bullets(diverged)),
        ("Results", table(summarize(results), published)),
        ("The paper's values", _PAPER),
        ("", _by_cut(published)),
        (
            "How the numbers are computed",
            _METHOD.format(reach=reach(len({r.seed for r in results}))),
        ),
    ]
    return assemble(
        "Transferability of features", {"Networks": str(len(results)), **facts}, sections
    )
