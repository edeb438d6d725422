"""The report of the landscape study: which optimizers reach a minimum, after how many steps.

A rate is chosen at the surface's own start, which is seed 0, and judged at the other starts.
"""

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jaxdl.optim.surfaces import SURFACES
from jaxdl.report.comparisons import assemble, judged, minus, over_seeds, shows
from jaxdl.report.tables import (
    MISSING,
    Estimate,
    bullets,
    confidence_interval,
    format_mean,
    format_number,
    markdown_table,
    read_rows,
    write_rows,
)


class Result(NamedTuple):
    """One path, a row of `results.csv`."""

    surface: str
    optimizer: str
    rate: float
    seed: int
    value: float  # at the end; NaN where the path diverged
    distance: float  # at the end, to the nearest minimum; NaN where the path diverged
    steps: float  # until the value is within the tolerance for good; NaN where it never is
    reached: float  # 1 where it is, else 0


def measure(
    network: tuple[str, str, float, int],
    path: Float[np.ndarray, "n 3"],
    tolerance: float,
    diverged: bool,
) -> Result:
    """The result of a path of n - 1 steps.

    Args:
      network: the first four fields of a row.
      path: x, y and the value.
      tolerance: the greatest value that counts as the minimum's, which is 0.
      diverged: whether the step after the path's last was not finite.
    """
    if diverged:
        return Result(*network, math.nan, math.nan, math.nan, 0.0)
    minima, distant = np.array(SURFACES[network[0]].minima), np.flatnonzero(path[:, 2] > tolerance)
    distance = float(np.linalg.norm(path[-1, :2] - minima, axis=1).min())
    steps = int(distant[-1]) + 1 if distant.size else 0
    if steps == len(path):
        return Result(*network, float(path[-1, 2]), distance, math.nan, 0.0)
    return Result(*network, float(path[-1, 2]), distance, float(steps), 1.0)


def read_results(path: str | os.PathLike) -> list[Result]:
    """Read `results.csv`; DamagedFile names the row where it is damaged, OSError if unreadable."""
    limits = dict.fromkeys(("value", "distance", "steps"), math.inf)
    return read_rows(path, Result, key=4, limits={**limits, "reached": 1})


def write_results(path: str | os.PathLike, results: Iterable[Result]) -> None:
    """Write `results.csv` in one piece."""
    write_rows(path, Result, results, ".6g")


def best_rates(results: Iterable[Result]) -> dict[tuple[str, str], float]:
    """Best rates by surface and optimizer: the one that reaches the minimum in the fewest steps
    from the surface's own start; where none does, the one with the lowest value at the end."""
    best: dict[tuple[str, str], Result] = {}
    for r in results:
        if r.seed == 0:
            rival = best.setdefault((r.surface, r.optimizer), r)
            if _last_if_nan(r.steps, r.value) < _last_if_nan(rival.steps, rival.value):
                best[r.surface, r.optimizer] = r
    return {key: r.rate for key, r in best.items()}


def _last_if_nan(*numbers: float) -> tuple[float, ...]:
    """A sort key that puts NaN last."""
    return tuple(math.inf if math.isnan(x) else x for x in numbers)


def at_best_rate(results: Sequence[Result]) -> dict[str, dict[str, list[Result]]]:
    """The paths of each optimizer's best rate from the starts that did not choose it, by surface
    and optimizer. The optimizers of a surface are ordered: the most that reach the minimum, then
    the fewest steps, then the lowest values."""

    def order(paths: Sequence[Result]) -> tuple[float, ...]:
        steps = over_seeds(steps_by_seed(paths))
        return _last_if_nan(-steps.used, steps.mean, float(np.median([r.value for r in paths])))

    groups: dict[str, dict[str, list[Result]]] = {}
    for name, rate in best_rates(results).items():
        paths = [r for r in results if r[:3] == (*name, rate) and r.seed > 0]
        groups.setdefault(name[0], {})[name[1]] = paths
    return {
        surface: dict(sorted(by_optimizer.items(), key=lambda item: order(item[1])))
        for surface, by_optimizer in groups.items()
    }


def steps_by_seed(results: Iterable[Result]) -> dict[int, float]:
    """The steps of those that reach the minimum."""
    return {r.seed: r.steps for r in results if r.reached}


def _mean(x: Estimate) -> str:
    return format_mean(x.mean, x.se, 1)


def _interval(x: Estimate, signed: bool = False) -> str:
    if not judged(x):
        return MISSING
    return " to ".join(format_number(end, 1, 1, signed) for end in confidence_interval(x))


def _median(values: Iterable[float]) -> str:
    finite = [x for x in values if math.isfinite(x)]
    return f"{np.median(finite):.1e}" if finite else MISSING


def table(results: Sequence[Result]) -> str:
    """Markdown: a row for each surface and optimizer."""
    rows = []
    for surface, by_optimizer in at_best_rate(results).items():
        for i, (optimizer, paths) in enumerate(by_optimizer.items()):
            steps = over_seeds(steps_by_seed(paths))
            all_rates = [r.reached for r in results if r[:2] == (surface, optimizer)]
            row = (
                surface if i == 0 else "",
                optimizer,
                f"{paths[0].rate:g}",
                f"{steps.used} of {len(paths)}",
                _mean(steps),
                _interval(steps),
                _median(r.value for r in paths),
                _median(r.distance for r in paths),
                format_number(float(np.mean(all_rates)), 100, 0),
            )
            rows.append(row)
    header = ("surface", "optimizer", "rate", "reached", "steps", "95% interval")
    return markdown_table((*header, "final value", "distance", "any rate, %"), rows, left=2)


def findings(results: Sequence[Result]) -> list[str]:
    """The findings of the run, in words."""
    sentences = []
    for surface, by_optimizer in at_best_rate(results).items():
        steps = {name: steps_by_seed(paths) for name, paths in by_optimizer.items()}
        arrivals = [
            _arrival(name, steps[name], by_optimizer[name]) for name in steps if steps[name]
        ]
        outcomes = [f"the minimum is reached by {', '.join(arrivals)}"] if arrivals else []
        outcomes += [
            f"{name} {_failure(surface, paths)}"
            for name, paths in by_optimizer.items()
            if not steps[name]
        ]
        sentences.append(f"**{surface}**: {'; '.join(outcomes)}.")
        successful = [name for name in steps if len(steps[name]) == len(by_optimizer[name])]
        if len(successful) > 1:
            first, second = successful[:2]
            lead = over_seeds(minus(steps[second], steps[first]))
            sentences.append(f"**{surface}**: {_compare(first, second, lead)}")
    rates = sorted({r.rate for r in results})
    edge = [
        f"{optimizer} on {surface} ({rate:g})"
        for (surface, optimizer), rate in best_rates(results).items()
        if rate in (rates[0], rates[-1]) and len(rates) > 1
    ]
    if edge:
        sentences.append(
            "The best rate is the smallest or the greatest of those that were tried, so that a "
            f"better one may lie beyond: {', '.join(edge)}."
        )
    return sentences


def _arrival(optimizer: str, steps: Mapping[int, float], paths: Sequence[Result]) -> str:
    """After how many steps an optimizer reaches the minimum."""
    starts = "" if len(steps) == len(paths) else f" (from {len(steps)} of {len(paths)} starts)"
    return f"{optimizer} after {_mean(over_seeds(steps))} steps{starts}"


def _failure(surface: str, paths: Sequence[Result]) -> str:
    """A sentence on an optimizer that reaches the minimum from no start."""
    values, trap = [r.value for r in paths if math.isfinite(r.value)], SURFACES[surface].trap
    if not values:
        return "diverges"
    value = float(np.median(values))
    if STUCK[0] < value / trap < STUCK[1]:
        return f"sticks to the {surface}, whose value is {trap:g} (median at the end {value:.2g})"
    return f"does not reach it (median value at the end {value:.1e})"


STUCK = (0.5, 1.5)
"""Between which multiples of the saddle's or plateau's value a path that sticks to it ends."""


def _compare(first: str, second: str, lead: Estimate) -> str:
    """A sentence that says whether the second optimizer needs more steps, on average ``lead``."""
    claim = f"{first} is faster than {second}"
    if not judged(lead):
        return f"that {claim}, by {lead.mean:g} steps from each start, has no interval."
    verb = "shows" if shows(+1, lead) else "does not show"
    return (
        f"that {claim} {verb}, by {_mean(lead)} steps from the same starts (95% interval "
        f"{_interval(lead, signed=True)}, {lead.used} starts)."
    )


def describe_diverged(results: Iterable[Result]) -> str:
    """The number of diverged paths, and the rate from which they diverge, in words."""
    least: dict[tuple[str, str], float] = {}
    diverged = [r for r in results if math.isnan(r.value)]
    for r in diverged:
        name = r.surface, r.optimizer
        least[name] = min(r.rate, least.get(name, r.rate))
    rates = (
        f"{optimizer} on {surface} from {rate:g}" for (surface, optimizer), rate in least.items()
    )
    count = f"{len(diverged)} paths, NaN in `results.csv`"
    return f"{count}, of rates that are too large: {', '.join(rates)}"


_METHOD = f"""\
- Each optimizer has its best rate on each surface: the one that reaches the minimum in the fewest
  steps from the surface's own start or, where none does, ends at the lowest value. These are the
  paths that are drawn. The numbers are from the other starts, which had no part in the choice.
- The minimum is reached at the step from which on the value stays within the tolerance. Steps are
  mean ± standard error over the starts that reach it. Gradients are exact: ± is the luck of the
  start alone. Values and distances are medians. The last column is the share of the paths of all
  rates and starts that reach it: of an optimizer for which most rates will do, it is large.
- Of those that reach it from all starts the two fastest, by these same starts, are compared.
  Differences are taken within a start, and show when the 95% t interval over starts excludes 0.
- A path sticks to a saddle or plateau if it ends at {STUCK[0]:g} to {STUCK[1]:g} times its
  value."""


def report(results: Sequence[Result], facts: Mapping[str, str]) -> str:
    """The whole report in Markdown."""
    sections = [
        ("Findings", bullets(findings(results))),
        ("Results", table(results)),
        ("How the numbers are computed", _METHOD),
    ]
    return assemble("Optimizers on surfaces", facts, sections)
