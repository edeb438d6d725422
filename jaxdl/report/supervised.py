"""The report of a supervised study: methods beside a baseline, over seeds.

A method may have been trained at several values of one setting. They are either candidates, of
which the one with the best validation score stands for the method, or conditions, at each of which
methods are compared. The networks of one seed are compared with each other, so that a difference
is a value a seed.
"""

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import compress
from typing import Any, NamedTuple

from jaxdl.report.comparisons import (
    Key,
    assemble,
    compare_all,
    judged,
    list_seeds,
    minus,
    over_seeds,
    reach,
    shows,
    warn_of_several,
)
from jaxdl.report.tables import (
    Estimate,
    bullets,
    format_mean,
    markdown_table,
    read_rows,
    write_rows,
)

Point = tuple[str, str]
"""A method and the value of the setting that it is swept over, empty without one."""


class Result(NamedTuple):
    """One trained network, a row of `results.csv`; NaN where training diverged."""

    method: str
    value: str
    seed: int
    score: float  # of the split that the run reports on: accuracy, a fraction, or R²
    validation: float  # the same of the examples for validation
    train: float  # and of those that it was trained on
    loss: float  # where the score is from: cross-entropy in nats, or squared error


def read_results(path: str | os.PathLike) -> list[Result]:
    """Read `results.csv`; DamagedFile names the row where it is damaged, OSError if unreadable."""
    return read_rows(path, Result, key=3, limits={"loss": math.inf})


def write_results(path: str | os.PathLike, results: Iterable[Result]) -> None:
    """Write `results.csv` in one piece, in an order independent of the order of training."""
    write_rows(path, Result, sorted(results))


def by_point(results: Iterable[Any], field: str = "score") -> dict[Point, dict[int, float]]:
    """Scores by method and value, and by seed, without diverged networks; in the table's order.

    Rows are :class:`Result`, or others of a method, a value, a seed and a score."""
    scores: dict[Point, dict[int, float]] = {}
    for row in results:
        seeds = scores.setdefault((row.method, row.value), {})
        if not math.isnan(row.score):
            seeds[row.seed] = getattr(row, field)
    return scores


def pool(results: Iterable[Result], draw: int) -> list[Result]:
    """A row for each ``draw`` seeds that share their examples, with the means of those that did not
    diverge: the draws, not the seeds, are independent. Its seed is the number of the draw."""
    rows: dict[tuple, list[Result]] = {}
    for row in results:
        rows.setdefault((row.method, row.value, row.seed // draw), []).append(row)

    def mean(values: Iterable[float]) -> float:
        finite = [value for value in values if not math.isnan(value)]
        return sum(finite) / len(finite) if finite else math.nan

    fields = Result._fields[3:]
    return [
        Result(*name, *(mean(getattr(row, field) for row in group) for field in fields))
        for name, group in rows.items()
    ]


def number(value: str) -> float:
    """A setting's value as a number, of several numbers the first; NaN for words."""
    try:
        return float(value.split()[0])
    except (ValueError, IndexError):
        return math.nan


def values_of(results: Iterable[Any], method: str) -> list[str]:
    """The values that a method was trained at: numbers in their order, then words."""
    values = dict.fromkeys(row.value for row in results if row.method == method)
    return sorted(values, key=lambda value: (math.isnan(number(value)), number(value)))


def best_values(results: Sequence[Result]) -> dict[str, str]:
    """Best values by method: the best mean validation score among those at which the fewest
    networks diverged."""
    best: dict[str, str] = {}
    validation = by_point(results, "validation")
    for method in dict.fromkeys(row.method for row in results):
        values = values_of(results, method)

        def quality(value: str, method: str = method) -> tuple[int, float]:
            seeds = validation[method, value]
            return len(seeds), over_seeds(seeds).mean if seeds else -math.inf

        best[method] = max(values, key=quality)
    return best


def points(results: Sequence[Result], *, choose: bool) -> list[Point]:
    """The rows of the table: methods at their best values, or all values in their order."""
    if choose:
        return list(best_values(results).items())
    return sorted(by_point(results), key=lambda point: value_order(point[1]))


def value_order(value: str) -> tuple[float, str]:
    """The sort key of a sweep's values: none, then numbers, then words."""
    if not value:
        return -math.inf, ""
    return (math.inf if math.isnan(number(value)) else number(value)), value


def references(results: Sequence[Result], baseline: str, *, choose: bool) -> dict[Point, Point]:
    """The reference of each point but the baseline's own: the baseline at its best value, or, with
    ``choose`` False, at the same value where it has that."""
    scores, best = by_point(results), best_values(results)[baseline]
    pairs = {}
    for point in points(results, choose=choose):
        twin = baseline, point[1]
        pairs[point] = twin if not choose and twin in scores else (baseline, best)
    return {point: other for point, other in pairs.items() if point != other}


def gains(results: Sequence[Result], baseline: str, *, choose: bool) -> dict[Point, dict]:
    """The differences to the baseline (:func:`references`), by method and value, and seed."""
    scores = by_point(results)
    pairs = references(results, baseline, choose=choose)
    return {point: minus(scores[point], scores[other]) for point, other in pairs.items()}


def label(point: Point) -> str:
    """The name of a point in a sentence or a legend."""
    return " ".join(point).strip()


class Standing(NamedTuple):
    """Where a method is: its score, and the difference to the baseline, paired by seed; None for
    the baseline, and what has none."""

    score: Estimate
    gain: Estimate | None


def standings(results: Sequence[Result], baseline: str, *, choose: bool) -> dict[Point, Standing]:
    """Methods at their best values, the best first; or all values in their order."""
    scores, differences = by_point(results), gains(results, baseline, choose=choose)
    every = {
        p: Standing(over_seeds(scores[p]), over_seeds(differences[p]) if p in differences else None)
        for p in points(results, choose=choose)
    }
    return ranked(every) if choose else every


def ranked(standings: Mapping[Key, Standing]) -> dict[Key, Standing]:
    """The best first."""

    def place(item: tuple[Key, Standing]) -> float:
        return -item[1].score.mean if item[1].score.used else math.inf

    return dict(sorted(standings.items(), key=place))


def table(
    results: Sequence[Result],
    baseline: str,
    score: str,
    *,
    choose: bool = True,
    unit: str = "networks",
) -> str:
    """Markdown: a row a method, the best first, or a row a condition and method; differences to the
    baseline are paired by seed.

    Args:
      score: the score's name.
      unit: the name of a result row's unit, in the plural.
    """
    train, losses = (by_point(results, field) for field in ("train", "loss"))
    rows, means = [], standings(results, baseline, choose=choose)
    for point, (mean, gain) in means.items():
        on_train = over_seeds(train[point])
        error = over_seeds({seed: math.sqrt(x) for seed, x in losses[point].items()})
        count = sum((row.method, row.value) == point for row in results)
        rows.append(
            (
                *point,
                format_mean(mean.mean, mean.se),
                format_mean(gain.mean, gain.se, signed=True) if gain else "",
                format_mean(on_train.mean, on_train.se),
                format_mean(error.mean, error.se, 1, 3),
                f"{mean.used} of {count}",
            )
        )
    titles = ("method", "value", f"{score}, %", f"minus {baseline}, points", "in training, %")
    swept, squared = any(value for _, value in means), score == "R²"
    columns = [True, swept, True, True, True, squared, True]
    cells = [list(compress(row, columns)) for row in ((*titles, "root mean square", unit), *rows)]
    return markdown_table(cells[0], cells[1:], left=1 + swept)


def findings(
    results: Sequence[Result],
    baseline: str,
    score: str,
    sweeps: Mapping[str, str] | None = None,
    *,
    choose: bool = True,
) -> list[str]:
    """Comparisons of each method with the baseline, and the best values of sweeps, in words.

    Args:
      score: the score's name.
      sweeps: the setting that each method is swept over.
    """
    comparisons = [
        (f"**{label(point)}**", over_seeds(gain), f"{baseline}, by {score}")
        for point, gain in gains(results, baseline, choose=choose).items()
    ]
    sentences = compare_all(comparisons)
    sentences += warn_of_several(sum(judged(gain) for _, gain, _ in comparisons))
    if choose:
        sentences += [edges(results, m, setting) for m, setting in (sweeps or {}).items()]
    return sentences


def edges(results: Sequence[Result], method: str, setting: str) -> str:
    """A sentence on the values of a sweep that are not shown to be worse than its best."""
    scores, best = by_point(results), best_values(results)[method]
    values = values_of(results, method)
    worse, diverged = [], []
    for value in values:
        seeds = scores[method, value]
        rows = sum((row.method, row.value) == (method, value) for row in results)
        if len(seeds) < rows:
            diverged.append(value)
        elif shows(-1, over_seeds(minus(seeds, scores[method, best]))):
            worse.append(value)
    k = values.index(best)
    ties = [v for v in values if v not in {*worse, *diverged}]
    low = next((values[i + 1] for i in range(k - 1, -1, -1) if values[i] not in ties), values[0])
    high = next((values[i - 1] for i in range(k + 1, len(values)) if values[i] not in ties), "")
    sentence = (
        f"**{method}**: the best of {len(values)} values of `{setting}` by validation is {best}; "
        f"from {low} to {high or values[-1]} none is shown to be worse"
    )
    sentence += f"; networks diverged at {', '.join(diverged)}." if diverged else "."
    end = {0: "smallest", len(values) - 1: "greatest"}.get(k)
    if len(values) > 1 and end and number(best) > 0:  # 0 is a bound, and words have no order
        sentence += f" {best} is the {end} of those that were tried, so that a better one may lie "
        sentence += "beyond."
    return sentence


METHOD = """\
- Means ± standard errors of {score} are over seeds (standard deviation with m − 1, over
  √m). Seeds share the data set: ± is the luck of initialization, order, and whatever a seed draws.
- Differences are taken within a seed.{draws} A finding "shows" when the two-sided 95% t interval
  over seeds excludes zero: {reach}.{values}
- "In training" is on the examples, and the labels, that a network was given.
- Networks that diverged, or learnt from one that did, are left out of every mean."""
CHOSEN = (
    "Where a method was trained at several values, the one with the best mean validation score "
    "among those at which the fewest networks diverged stands for it; test examples choose "
    "nothing. (Reported on the validation split, the best of several is biased.)"
)
CONDITIONS = "At each value methods are compared with the baseline at the same value."


def report(
    results: Sequence[Result],
    baseline: str,
    facts: Mapping[str, str],
    sections: Iterable[tuple[str, str]] = (),
    *,
    remarks: Iterable[str] = (),
    score: str = "accuracy",
    sweeps: Mapping[str, str] | None = None,
    choose: bool = True,
    draw: int = 1,
) -> str:
    """The whole report in Markdown.

    Args:
      draw: number of seeds that share their examples, see :func:`pool`.
      remarks: findings that come before the comparisons.
      sections: further headings and texts, after the results.
      score, sweeps: see :func:`findings`.
    """
    diverged = {
        point: sorted({r.seed for r in results if (r.method, r.value) == point} - set(seeds))
        for point, seeds in by_point(results).items()
    }
    values = ("\n- " + (CHOSEN if choose else CONDITIONS)) if sweeps else ""
    draws = f" {draw} seeds share their examples: their mean counts as one." if draw > 1 else ""
    full_table = ""
    if sweeps and choose and len(diverged) <= 60:
        full_table = table(pool(results, draw), baseline, score, choose=False)
    rows, unit = pool(results, draw), "draws" if draw > 1 else "networks"
    values_of_one = len({row.seed for row in rows}), "draw" if draw > 1 else "seed"
    method = METHOD.format(score=score, values=values, draws=draws, reach=reach(*values_of_one))
    text = bullets([*remarks, *findings(rows, baseline, score, sweeps, choose=choose)])
    parts = [
        ("Findings", text if draw == 1 else text.replace(" seeds)", " draws)")),
        ("Results", table(rows, baseline, score, choose=choose, unit=unit)),
        *sections,
        ("All values", full_table),
        (
            "Diverged networks",
            bullets(f"{label(p)}, {list_seeds(s)}" for p, s in diverged.items() if s),
        ),
        ("How the numbers are computed", method),
    ]
    return assemble("Supervised learning", {"Networks": str(len(results)), **facts}, parts)
