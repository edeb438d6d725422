"""The report of a supervised study: methods beside a baseline, over seeds.

The networks of one seed are compared with each other, so that a difference is a value a seed.
"""

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from jaxdl.report.comparisons import (
    assemble,
    compare,
    judged,
    list_seeds,
    minus,
    over_seeds,
    warn_of_several,
)
from jaxdl.report.tables import bullets, format_mean, markdown_table, read_rows, write_rows


class Result(NamedTuple):
    """One trained network, a row of `results.csv`."""

    method: str
    seed: int
    accuracy: float  # fraction; NaN where training diverged


def read_results(path: str | os.PathLike) -> list[Result]:
    """Read `results.csv`; DamagedFile names the row where it is damaged, OSError if unreadable."""
    return read_rows(path, Result, key=2, limits={"accuracy": 1})


def write_results(path: str | os.PathLike, results: Iterable[Result]) -> None:
    """Write `results.csv` in one piece, in an order independent of the order of training."""
    write_rows(path, Result, sorted(results))


def by_method(results: Iterable[Result]) -> dict[str, dict[int, float]]:
    """Accuracies by method and seed, without diverged networks."""
    accuracies: dict[str, dict[int, float]] = {}
    for r in sorted(results):
        seeds = accuracies.setdefault(r.method, {})
        if not math.isnan(r.accuracy):
            seeds[r.seed] = r.accuracy
    return accuracies


def table(results: Sequence[Result], baseline: str) -> str:
    """Markdown: a row a method, the best first; differences to the baseline are paired by seed."""
    accuracies, rows = by_method(results), []
    means = {method: over_seeds(seeds) for method, seeds in accuracies.items()}
    for method in sorted(means, key=lambda m: -means[m].mean if means[m].used else math.inf):
        gain = over_seeds(minus(accuracies[method], accuracies.get(baseline, {})))
        count = sum(r.method == method for r in results)
        rows.append(
            (
                method,
                format_mean(means[method].mean, means[method].se),
                format_mean(gain.mean, gain.se, signed=True) if method != baseline else "",
                f"{means[method].used} of {count}",
            )
        )
    return markdown_table(("method", "accuracy, %", f"minus {baseline}, points", "networks"), rows)


def findings(results: Iterable[Result], baseline: str) -> list[str]:
    """Each method against the baseline, in words."""
    accuracies = by_method(results)
    gains = {
        method: over_seeds(minus(seeds, accuracies.get(baseline, {})))
        for method, seeds in accuracies.items()
        if method != baseline
    }
    sentences = [compare(f"**{m}**", gain, f"{baseline}, by accuracy") for m, gain in gains.items()]
    return sentences + warn_of_several(sum(map(judged, gains.values())))


_METHOD = """\
- Accuracies are mean ± standard error over seeds (standard deviation with m − 1, over √m). Seeds
  share the images: ± is the luck of initialization, order, and whatever a seed draws.
- Differences are taken within a seed. A finding "shows" when the two-sided 95% t interval over
  seeds excludes zero: 4.3 standard errors with 3 seeds, 12.7 with 2.
- Networks that diverged are left out of every mean."""


def report(results: Sequence[Result], baseline: str, facts: Mapping[str, str]) -> str:
    """The whole report in Markdown."""
    accuracies = by_method(results)
    lost = {
        method: sorted({r.seed for r in results if r.method == method} - set(seeds))
        for method, seeds in accuracies.items()
    }
    sections = [
        ("Findings", bullets(findings(results, baseline))),
        ("Results", table(results, baseline)),
        ("Diverged networks", bullets(f"{m}, {list_seeds(s)}" for m, s in lost.items() if s)),
        ("How the numbers are computed", _METHOD),
    ]
    return assemble("Supervised learning", {"Networks": str(len(results)), **facts}, sections)
