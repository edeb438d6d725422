"""The report of the physics study: losses on trained and on held-out points, and true errors."""

import math
import os
from collections.abc import Iterable, Mapping, Sequence, Sized
from typing import Any, NamedTuple

import numpy as np

from jaxdl.report.comparisons import assemble
from jaxdl.report.tables import MISSING, bullets, markdown_table, read_rows, write_rows

FALSE = 10  # times the training loss: a held-out loss above that says that the first is false


class Result(NamedTuple):
    """One solved problem, a row of `results.csv`; all losses are NaN where training diverged."""

    problem: str
    method: str
    seed: int
    train_loss: float  # mean squares of all residuals on the points of the end, weights 1
    heldout_loss: float  # the same on a dense grid; not finite where a residual is not
    rel_l2: float  # |u - u*| / |u*| on that grid
    iterations: int
    seconds: float  # of training this network on its device, without compilation


class Parameter(NamedTuple):
    """A physical parameter that was found, a row of `parameters.csv`."""

    problem: str
    method: str
    seed: int
    parameter: str
    value: float
    truth: float  # NaN where it is not known


class Published(NamedTuple):
    """A published relative L2 error."""

    problem: str
    source: str
    rel_l2: float


def read_results(path: str | os.PathLike) -> list[Result]:
    """Read `results.csv`; DamagedFile names the row where it is damaged, OSError if unreadable."""
    fields = ("train_loss", "heldout_loss", "rel_l2", "iterations", "seconds")
    return read_rows(path, Result, key=3, limits=dict.fromkeys(fields, math.inf))


def write_results(path: str | os.PathLike, results: Iterable[Result]) -> None:
    """Write `results.csv` in one piece."""
    write_rows(path, Result, results, ".6e")


def write_parameters(path: str | os.PathLike, parameters: Sequence[Parameter]) -> None:
    """Write `parameters.csv` in one piece, where there are any."""
    if parameters:
        write_rows(path, Parameter, parameters, ".9e")


def diverged(result: Result) -> bool:
    """Whether the network is not finite; False where only its residuals or solution are not."""
    return not math.isfinite(result.train_loss)


def false_loss(result: Result) -> bool:
    """Whether the equation holds at the training points only."""
    return math.isfinite(result.heldout_loss) and result.heldout_loss > FALSE * result.train_loss


def _groups(results: Iterable[Result]) -> dict[tuple[str, str], list[Result]]:
    groups: dict[tuple[str, str], list[Result]] = {}
    for r in results:
        groups.setdefault((r.problem, r.method), []).append(r)
    return groups


def _scientific(values: Sequence[float]) -> str:
    """The median of the finite values, and their range: errors of seeds differ by factors."""
    values = [x for x in values if math.isfinite(x)]
    if not values:
        return MISSING
    middle, low, high = np.median(values), min(values), max(values)
    return f"{middle:.1e}" + (f" ({low:.1e} to {high:.1e})" if len(values) > 1 else "")


def table(results: Sequence[Result], published: Sequence[Published]) -> str:
    """Markdown: a row a problem and method, and a row a published number beside them."""
    rows: list[tuple[str, ...]] = []
    last = None
    groups = _groups(results)
    for i, ((problem, method), rows_of_group) in enumerate(groups.items()):
        finite = [r for r in rows_of_group if not diverged(r)]
        columns = (
            _scientific([r.train_loss for r in finite]),
            _scientific([r.heldout_loss for r in finite]),
            _scientific([r.rel_l2 for r in finite]),
            f"{rows_of_group[0].iterations}",  # alike for all
            f"{np.median([r.seconds for r in rows_of_group]):.1f}",
            f"{len(finite)} of {len(rows_of_group)}",
        )
        rows.append((problem if problem != last else "", method, *columns))
        last = problem
        following = [p for p, _ in list(groups)[i + 1 :]]
        if problem not in following:
            for p in published:
                if p.problem == problem:
                    rows.append(
                        (
                            "",
                            p.source,
                            *[MISSING] * 2,
                            f"{p.rel_l2:.1e}",
                            *[MISSING] * 2,
                            "published",
                        )
                    )
    header = (
        "problem",
        "method",
        "training loss",
        "held-out loss",
        "relative L2",
        "iterations",
        "seconds",
        "seeds",
    )
    return markdown_table(header, rows, left=2)


def findings(
    results: Sequence[Result], parameters: Sequence[Parameter], published: Sequence[Published]
) -> list[str]:
    """The findings of the run, in words."""
    sentences = []
    for (problem, method), rows in _groups(results).items():
        finite = [r for r in rows if not diverged(r)]
        entry = f"**{problem}** by {method}"
        for r in rows:
            if diverged(r):
                sentences.append(f"{entry}, seed {r.seed}: diverged; it is in no median.")
            elif not math.isfinite(r.heldout_loss + r.rel_l2):
                sentences.append(
                    f"{entry}, seed {r.seed}: the network is finite, but a residual or the "
                    "solution is not at all held-out points: held-out loss "
                    f"{r.heldout_loss:.1e}, relative L2 {r.rel_l2:.1e}, in no median if not "
                    "finite. Look for a root, a logarithm or a quotient in the equation that does "
                    "not bear the network there."
                )
            elif false_loss(r):
                sentences.append(
                    f"{entry}, seed {r.seed}: the training loss is false. It is {r.train_loss:.1e} "
                    f"on the points that were trained on and {r.heldout_loss:.1e} beside them, "
                    f"more than {FALSE} times as much. Take more points, train for less long or, "
                    "where there are no windows of time, draw them anew now and then."
                )
        if finite:
            sentences.append(
                f"{entry}: relative L2 error {_scientific([r.rel_l2 for r in finite])}."
            )
            for p in published:
                if p.problem == problem:
                    below = sum(r.rel_l2 < p.rel_l2 for r in finite)
                    sentences.append(
                        f"{entry}: {below} of {len(finite)} seeds are below {p.source}'s "
                        f"{p.rel_l2:.1e}."
                    )
    by_name: dict[tuple[str, str, str], list[Parameter]] = {}
    for parameter in parameters:
        key = parameter.problem, parameter.method, parameter.parameter
        by_name.setdefault(key, []).append(parameter)
    for (problem, method, name), parameters in by_name.items():
        values = [p.value for p in parameters]
        sentence = (
            f"**{problem}** by {method}: {name} is found as {np.median(values):.6g} "
            f"({min(values):.6g} to {max(values):.6g})"
        )
        if math.isfinite(truth := parameters[0].truth):
            errors = _scientific([abs(p.value - truth) / (abs(truth) or 1.0) for p in parameters])
            sentence += f" for {truth:.6g}; relative error {errors}"
        sentences.append(f"{sentence}.")
    return sentences


_METHOD = f"""\
- Losses are sums over the terms of a problem of mean squared residuals, with all weights 1. The
  training loss is on the points that the network was trained on at the end, the held-out loss on a
  dense grid that is never trained on; data, such as the samples of an inverse problem, are judged
  where they are.
- Relative L2 is |u - u*| / |u*| over that grid, of all fields together; u* is the exact solution or
  a reference computed to more digits than are compared.
- In windows of time the losses are means over the windows. Curves show them and the relative L2
  until the end of the window in training, so that both jump where the next window begins.
- Numbers are medians over seeds, with the least and the largest. A seed sets the network's start
  and the points.
- A training loss is called false where the held-out loss is more than {FALSE} times as large.
- Seconds are those of training one network on its device, without compilation."""
_PUBLISHED = """
- Published errors are of larger networks, with less of the solution built in: those for Burgers
  and Allen–Cahn here have its symmetry, and its shock or kink (`jaxdl/pinn/problems.py`)."""


def describe(settings: Mapping[str, Any], parameters: int, points: Mapping[str, Sized]) -> str:
    """A network by its settings, and its points by term, in words."""
    widths, windows = " ".join(map(str, settings["hidden"])), settings["windows"]
    return (
        f"{widths} {settings['activation']}, {parameters:,} parameters"
        f"{f' in each of {windows} windows of time' * (windows > 1)}; "
        f"points: {', '.join(f'{len(x):,} of {term}' for term, x in points.items())}"
    )


def report(
    results: Sequence[Result],
    parameters: Sequence[Parameter],
    published: Sequence[Published],
    facts: Mapping[str, str],
) -> str:
    """The whole report in Markdown."""
    compared = bool({p.problem for p in published} & {r.problem for r in results})
    sections = [
        ("Findings", bullets(findings(results, parameters, published))),
        ("Results", table(results, published)),
        ("How the numbers are computed", _METHOD + _PUBLISHED * compared),
    ]
    return assemble("Physics in the loss", facts, sections)
