"""``configs/benchmark.py:pinn``: who is compared, and what is said of it.

A round is a seed: each contender solves the problem once, for so many seconds, and what it has
reached is looked at all along. Beside that, slices of Adam on a larger network are timed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from experiments import _interleave, _pinn_peers
from experiments._benchmark_transferability import paragraph
from experiments._interleave import MILLI, Setup, Worker
from experiments._pinn_contenders import ADAM, jaxdl, of_seed
from experiments.harness.settings import check_counts
from jaxdl.report.tables import MISSING, bullets, markdown_table

SOLVE = "solve"
OURS, DEEPXDE = "jaxdl", "DeepXDE"
BROYDEN, NATURAL = "jinns, SSBroyden", "jinns, natural gradient"
OPTIMIZERS = {
    OURS: "SSBroyden",
    DEEPXDE: "Adam, then L-BFGS",
    BROYDEN: "SSBroyden, zoom line search",
    NATURAL: "natural gradient, backtracking",
}
PEERS = tuple(OPTIMIZERS)[1:]
GOALS = {(DEEPXDE, False): 20.0, (DEEPXDE, True): 5.0, (BROYDEN, False): 4.0, (NATURAL, False): 1.4}
"""How many times less time to the target than each, without and with compiling."""
RUNS = len(OPTIMIZERS)
"""In a round, beside slices."""
LOWER, FASTER = 10.0, 3.0
"""How many times lower in the end than the best of the others; how many times less an iteration of
Adam takes than DeepXDE's."""


class Row(NamedTuple):
    """What a line of ``results.csv`` says: a look at a run, or a slice of Adam."""

    what: str  # the contender
    kind: str  # SOLVE or ADAM; of ADAM there is no loss
    iterations: int
    seconds: float  # without compiling
    compile_seconds: float
    heldout_loss: float
    rel_l2: float
    round: int


def check(config: ConfigDict) -> None:
    """Raise ValueError where the benchmark cannot be made."""
    of, study = config.pinn, config.pinn.study
    if not hasattr(os, "sched_setaffinity") or not Path("/proc/self/task").exists():
        raise ValueError("each contender is pinned to one hardware thread: that needs Linux")
    chunks = [name for name in of if name.endswith("chunk")]
    check_counts(of, *chunks, "adam_iterations", "adam_chunks")
    if min(of.seconds, of.target, of.adam_rate) <= 0:
        raise ValueError("config.pinn.seconds, target and adam_rate must be more than 0")
    if len(study.problems) != 1 or len(study.methods) != 1:
        raise ValueError("config.pinn.study: one problem and one method are compared")
    (problem,), (method,) = study.problems.values(), study.methods.values()
    settings = study.base.to_dict() | problem.to_dict() | method.to_dict()
    known = {"activation": "tanh", "optimizer": "ssbroyden", "weighting": "fixed", "candidates": 0}
    known |= {"problem": "heat"}
    settings["problem"] = settings["problem"] or next(iter(study.problems))
    for name, value in known.items():
        if settings[name] != value:
            raise ValueError(f"config.pinn.study: the others know {name} {value!r} alone")
    if set(settings["options"]) != {"k", "points"}:
        raise ValueError("config.pinn.study: the others must be told the options k and points")


def setups(config: ConfigDict, scratch: Path) -> dict[str, Setup]:
    """The contenders by name; nothing is written to ``scratch``."""
    return {
        OURS: Setup(jaxdl, 1),
        DEEPXDE: Setup(_pinn_peers.deepxde, 1),
        BROYDEN: Setup(partial(_pinn_peers.jinns, "ssbroyden"), 1),
        NATURAL: Setup(partial(_pinn_peers.jinns, "natural gradient"), 1),
    }


def one_round(workers: Mapping[str, Worker], number: int) -> Iterator[Row]:
    """Slices of Adam and a run by every contender, taking turns."""
    for row in _interleave.one_round(workers, number):
        _, steps = workers[row.what].sizes[row.kind]
        seconds = row.ms_per_network_step * steps / MILLI
        yield Row(row.what, row.kind, steps, seconds, np.nan, np.nan, np.nan, number)
    names = list(workers)
    first = number % len(names)
    for what in names[first:] + names[:first]:
        for look in workers[what].ask(of_seed(number)):
            yield Row(what, SOLVE, *look, number)


# --- the report --------------------------------------------------------------------------------


class Solved(NamedTuple):
    """A contender's runs; arrays over rounds."""

    reached: np.ndarray  # seconds until the target; infinite where it was not reached
    compiling: np.ndarray  # seconds
    heldout_loss: np.ndarray  # in the end
    rel_l2: np.ndarray
    iterations: np.ndarray
    ms: np.ndarray  # an iteration


def solved(config: ConfigDict, rows: Sequence[Row], what: str) -> Solved:
    """What its looks say."""
    runs: dict[int, list[Row]] = {}
    for row in rows:
        if (row.what, row.kind) == (what, SOLVE):
            runs.setdefault(row.round, []).append(row)
    columns = []
    for _, looks in sorted(runs.items()):
        last = looks[-1]
        reached = (x.seconds for x in looks if x.heldout_loss <= config.pinn.target)
        ms = MILLI * last.seconds / max(last.iterations, 1)
        end = (last.compile_seconds, last.heldout_loss, last.rel_l2, last.iterations, ms)
        columns.append((next(reached, np.inf), *end))
    return Solved(*np.array(columns).T)


def adam(rows: Sequence[Row], what: str) -> np.ndarray:
    """Milliseconds an iteration, by round."""
    found = [row for row in rows if (row.what, row.kind) == (what, ADAM)]
    found.sort(key=lambda row: row.round)
    return np.array([MILLI * row.seconds / row.iterations for row in found])


class Ratios(NamedTuple):
    """How many times ours the others' is, by round."""

    values: np.ndarray
    bounds: np.ndarray
    """Where the other had not reached the target when its time was over: it is more than that."""

    @property
    def median(self) -> float:
        """Over the rounds."""
        return float(np.median(self.values))

    def __str__(self) -> str:
        """The median, and in brackets every round."""
        each = [
            f"{'> ' * bool(bound)}{x:.3g}" if x else MISSING
            for x, bound in zip(self.values, self.bounds, strict=True)
        ]
        # What lies above the middle may lie higher yet, and the median stays.
        middle = np.sort(self.values)[len(self.values) // 2]
        bound = bool((self.bounds & (self.values <= middle)).any())
        median = f"{'more than ' * bound}{self.median:.3g}" if self.median else MISSING
        return f"{median} ({', '.join(each)})"


def ratios(limit: float, ours: Solved, theirs: Solved, compiling: bool) -> Ratios:
    """Of the times to the target; 0 in rounds where ours did not reach it."""
    time = np.where(np.isinf(theirs.reached), limit, theirs.reached) + compiling * theirs.compiling
    bounds = np.isinf(theirs.reached) & np.isfinite(ours.reached)
    return Ratios(time / (ours.reached + compiling * ours.compiling), bounds)


def lower(ours: Solved, others: Sequence[Solved]) -> Ratios:
    """The lowest of the others' losses in the end, in multiples of ours."""
    best = np.fmin.reduce([other.heldout_loss for other in others])
    return Ratios(best / ours.heldout_loss, np.zeros(len(best), bool))


def sections(
    config: ConfigDict,
    rows: Sequence[Row],
    answers: Mapping[str, Mapping[str, Any]],
    first_seconds: Mapping[str, Mapping[str, float]],
) -> str:
    """What the report says; see :func:`experiments._benchmark_transferability.sections`."""
    of, found = config.pinn, {what: solved(config, rows, what) for what in OPTIMIZERS}
    target, ms = f"{of.target:.0e}", {what: adam(rows, what) for what in (OURS, DEEPXDE)}
    table = [
        [
            what,
            optimizer,
            spread(found[what].reached),
            spread(found[what].reached + found[what].compiling),
            spread(found[what].heldout_loss, ".1e"),
            spread(found[what].rel_l2, ".1e"),
            spread(found[what].iterations, ".0f"),
            spread(found[what].ms),
        ]
        for what, optimizer in OPTIMIZERS.items()
    ]
    header = ["", "optimizer", f"s to {target}", "with compiling", "held-out loss", "rel. L2"]
    multiples = [
        [
            what,
            ratios(of.seconds, found[OURS], found[what], False),
            ratios(of.seconds, found[OURS], found[what], True),
            lower(found[OURS], [found[what]]),
        ]
        for what in PEERS
    ]
    hidden, wide = ("-".join(map(str, w)) for w in (of.study.base.hidden, of.adam_hidden))
    options = of.study.base.options
    text = [
        "## Solves",
        markdown_table([*header, "iterations", "ms an iteration"], table, left=2),
        paragraph(f"""The heat equation, k = {options.k:g}: {options.points:,} Sobol points, half of
            them early, 129 on the initial line, features cos pi x, sin pi x and 2 t - 1, a network
            of {hidden} tanh, unit weights, full batches, float64. Each round is a seed: all begin
            with the same parameters (Glorot normal) and train on the same points, one after the
            other, {of.seconds:g} s of training each, on the same one hardware thread. Between
            chunks of iterations the clock stands and the parameters are noted; all are judged by
            our code, on the study's held-out grid. Medians over {config.rounds} rounds
            (least–most); loss and error are those at the end. Compiling, tracing included, is done
            anew in each round; PyTorch does not compile."""),
        paragraph(f"""DeepXDE as in its examples: {of.adam_iterations} iterations of Adam, rate
            {of.adam_rate:g}, then L-BFGS (its defaults), by the steps that `Model.train` makes,
            without its own tests of the loss; our points as anchors and a PointSetBC. L-BFGS goes
            on from {of.lbfgs_chunk} to {of.lbfgs_chunk} iterations and evaluates the loss once more
            each time. jinns by `jinns.solve`, both optimizers with their defaults, its equation
            written as its own BurgersEquation is."""),
        "## Ratios",
        markdown_table(
            ["", f"time to {target}", "with compiling", "held-out loss in the end"], multiples
        ),
        paragraph(f"""Theirs divided by ours: the median (every round). One that had not reached the
            target when its time was over counts with that time, and its ratio is a lower bound:
            more than that; {MISSING} where ours had not."""),
        f"## An iteration of Adam, {wide}",
        markdown_table(
            ["", "ms", "times ours"],
            [[what, spread(ms[what]), Ratios(*against(ms[what], ms[OURS]))] for what in ms],
        ),
        "## Goals",
        bullets(goals(config, rows)),
    ]
    return "\n\n".join(text)


def against(theirs: np.ndarray, ours: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ratios without bounds."""
    return theirs / ours, np.zeros(len(ours), bool)


def spread(values: np.ndarray, form: str = ".2f") -> str:
    """The median, and from least to most; infinite is what was not reached."""

    def told(x: float) -> str:
        return "not reached" if np.isinf(x) else f"{x:{form}}"

    missing = int(np.isinf(values).sum())
    if missing == len(values):
        return f"not reached ({missing} of {missing})"
    text = f"{told(np.median(values))} ({told(values.min())}–{told(values.max())})"
    return f"{text}, not in {missing} of {len(values)}" if missing else text


def goals(config: ConfigDict, rows: Sequence[Row]) -> list[str]:
    """Whether they are met, by the median of the ratios."""
    of, found = config.pinn, {what: solved(config, rows, what) for what in OPTIMIZERS}

    def line(goal: str, least: float, ratio: Ratios) -> str:
        return f"{goal}: {'met' if ratio.median >= least else 'NOT met'}, {ratio}."

    lines = []
    for (what, compiling), least in GOALS.items():
        how = "with" if compiling else "without"
        goal = f"{what}: at least {least:g} times less time to {of.target:.0e}, {how} compiling"
        lines.append(line(goal, least, ratios(of.seconds, found[OURS], found[what], compiling)))
    best = lower(found[OURS], [found[what] for what in PEERS])
    goal = f"held-out loss after {of.seconds:g} s: at least {LOWER:g} times lower than any other's"
    lines.append(line(goal, LOWER, best))
    ratio = Ratios(*against(adam(rows, DEEPXDE), adam(rows, OURS)))
    goal = f"an iteration of Adam: at least {FASTER:g} times less time than DeepXDE's"
    return [*lines, line(goal, FASTER, ratio)]
