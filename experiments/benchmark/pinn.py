"""``configs/benchmark.py:pinn``: the heat equation, solved by ours, DeepXDE and jinns.

A round is a seed: each contender solves the problem once, for so many seconds, and what it has
reached is looked at all along. Beside that, slices of Adam on a larger network are timed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float
from ml_collections import ConfigDict

from experiments.benchmark import solving, turns
from experiments.benchmark.contenders import deepxde, jinns
from experiments.benchmark.populations import Population, continued
from experiments.benchmark.solving import ADAM, Run
from experiments.benchmark.summaries import paragraph, spread, verdict
from experiments.benchmark.turns import MILLI, Contender, Measurements, Setup, Worker
from experiments.harness.settings import check_counts
from experiments.pinn import Physics
from jaxdl import trees
from jaxdl.report.tables import MISSING, bullets, markdown_table
from jaxdl.train.population import member_key, population_of
from jaxdl.train.state import TrainState

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
GOALS = {(DEEPXDE, False): 25.0, (DEEPXDE, True): 5.0, (BROYDEN, False): 4.0, (NATURAL, False): 1.5}
"""Least ratios of each contender's time to the target to ours, without and with compiling."""
LOWER, FASTER = 10.0, 3.0
"""Least ratios to ours of the best other held-out loss at the end, and of the time that an
iteration of Adam takes DeepXDE."""


class Row(NamedTuple):
    """A line of ``results.csv``: a look at a run, or a slice of Adam."""

    contender: str
    kind: str  # SOLVE or ADAM; of ADAM there is no loss
    iterations: int
    seconds: float  # without compiling
    compile_seconds: float
    heldout_loss: float
    rel_l2: float
    round: int


def check(config: ConfigDict) -> None:
    """Raise ValueError where the benchmark cannot be made."""
    numbers, study = config.pinn, config.pinn.study
    if not hasattr(os, "sched_setaffinity") or not Path("/proc/self/task").exists():
        raise ValueError("each contender is pinned to one hardware thread: that needs Linux")
    chunks = [name for name in numbers if name.endswith("chunk")]
    check_counts(numbers, *chunks, "adam_iterations", "adam_chunks")
    if min(numbers.seconds, numbers.target, numbers.adam_rate) <= 0:
        raise ValueError("config.pinn.seconds, target and adam_rate must be more than 0")
    if len(study.problems) != 1 or len(study.methods) != 1:
        raise ValueError("config.pinn.study: one problem and one method are compared")
    (problem,), (method,) = study.problems.values(), study.methods.values()
    settings = study.base.to_dict() | problem.to_dict() | method.to_dict()
    settings["problem"] = settings["problem"] or next(iter(study.problems))
    supported = {"activation": "tanh", "optimizer": "ssbroyden", "weighting": "fixed"}
    for name, value in (supported | {"candidates": 0, "problem": "heat"}).items():
        if settings[name] != value:
            raise ValueError(f"config.pinn.study: the others know {name} {value!r} alone")
    if set(settings["options"]) != {"k", "points"}:
        raise ValueError("config.pinn.study: the others must be told the options k and points")


def setups(config: ConfigDict, scratch: Path) -> dict[str, Setup]:
    """The contenders by name; nothing is written to ``scratch``."""
    return {
        OURS: Setup(make_jaxdl, 1),
        DEEPXDE: Setup(deepxde.make, 1),
        BROYDEN: Setup(partial(jinns.make, jinns.SSBROYDEN), 1),
        NATURAL: Setup(partial(jinns.make, jinns.NATURAL), 1),
    }


def make_jaxdl(config: ConfigDict) -> Contender:
    """The study's own programs."""
    solving.pin()
    study, solver = solving.make_physics(config)

    def begin(start: TrainState) -> Run:
        states, hypers = make_population(study, start)
        train, seconds = solving.compile_timed(
            solver.group.program.training.run, states, hypers, ()
        )

        def advance() -> int:
            nonlocal states
            states, _ = jax.block_until_ready(train(states, hypers, ()))
            return config.pinn.chunk

        return Run(seconds, advance, lambda: jax.device_get(trees.member(states, 0).params))

    def loss(start: TrainState) -> float:
        states = make_population(study, start)[0].replace(opt_state=())
        return float(solver.judge(states, solver.heldout)["train_loss"][0])

    changes = {"optimizer": "adam", "hidden": config.pinn.adam_hidden}
    study_of_adam, wide = solving.make_physics(config, **changes)
    population = make_population(study_of_adam, solving.make_start(wide, 0))
    # Compiled for good: each solve clears what JAX has compiled when called.
    train, _ = solving.compile_timed(wide.group.program.training.run, *population, ())
    adam = continued(train, [population], ())
    return solving.make_contender(config, solver, begin, loss, adam)


def make_population(study: Physics, start: TrainState) -> Population:
    """One network for the study's program."""
    placement, hyper = study.placement, {"key": member_key("refresh", 0)}
    return population_of([start], placement), population_of([hyper], placement)


def measure(workers: Mapping[str, Worker], number: int) -> Iterator[Row]:
    """A round: slices of Adam, and a run by every contender, in turns."""
    for row in turns.time_slices(workers, number):
        _, steps = workers[row.contender].sizes[row.kind]
        seconds = row.ms_per_network_step * steps / MILLI
        yield Row(row.contender, row.kind, steps, seconds, np.nan, np.nan, np.nan, number)
    for name in turns.rotated(list(workers), number):
        for look in workers[name].ask(solving.seed_question(number)):
            yield Row(name, SOLVE, *look, number)


# --- the report --------------------------------------------------------------------------------


class Solved(NamedTuple):
    """A contender's runs."""

    reached: Float[np.ndarray, " rounds"]  # seconds to the target; infinite if it was not reached
    compiling: Float[np.ndarray, " rounds"]  # seconds
    heldout_loss: Float[np.ndarray, " rounds"]  # in the end
    rel_l2: Float[np.ndarray, " rounds"]
    iterations: Float[np.ndarray, " rounds"]
    ms: Float[np.ndarray, " rounds"]  # an iteration


def by_round(rows: Sequence[Row], contender: str, kind: str) -> list[list[Row]]:
    """The rows of each round."""
    rows = [row for row in rows if (row.contender, row.kind) == (contender, kind)]
    return [list(part) for _, part in groupby(rows, key=lambda row: row.round)]


def summarize(config: ConfigDict, rows: Sequence[Row]) -> dict[str, Solved]:
    """The runs, by contender."""

    def summary(looks: Sequence[Row]) -> tuple:
        last = looks[-1]
        seconds = (look.seconds for look in looks if look.heldout_loss <= config.pinn.target)
        end = (last.compile_seconds, last.heldout_loss, last.rel_l2, last.iterations)
        return next(seconds, np.inf), *end, MILLI * last.seconds / max(last.iterations, 1)

    runs = {name: map(summary, by_round(rows, name, SOLVE)) for name in OPTIMIZERS}
    return {name: Solved(*np.array(list(columns)).T) for name, columns in runs.items()}


def adam_ms(rows: Sequence[Row], contender: str) -> Float[np.ndarray, " rounds"]:
    """Milliseconds an iteration of Adam, by round."""
    slices = by_round(rows, contender, ADAM)
    return np.array([MILLI * row.seconds / row.iterations for (row,) in slices])


class Ratios(NamedTuple):
    """Ratios of another contender's numbers to ours, by round."""

    values: Float[np.ndarray, " rounds"]
    bounds: Bool[np.ndarray, " rounds"] | bool = False
    """Whether the other had not reached the target in its time: the ratio is a lower bound."""

    @property
    def median(self) -> float:
        """The median over the rounds."""
        return float(np.median(self.values))

    def __str__(self) -> str:
        """The median, and in brackets every round."""
        bounds = np.broadcast_to(self.bounds, self.values.shape)
        rounds = [
            f"{'> ' * bool(bound)}{x:.3g}" if x else MISSING
            for x, bound in zip(self.values, bounds, strict=True)
        ]
        # What lies above the middle may lie higher yet, and the median stays.
        middle = np.sort(self.values)[len(self.values) // 2]
        bound = bool((bounds & (self.values <= middle)).any())
        median = f"{'more than ' * bound}{self.median:.3g}" if self.median else MISSING
        return f"{median} ({', '.join(rounds)})"


def time_ratios(limit: float, solved: Solved, peer: Solved, compiled: bool) -> Ratios:
    """Ratios of the times to the target; 0 in rounds where ours did not reach it."""
    seconds = np.where(np.isinf(peer.reached), limit, peer.reached) + compiled * peer.compiling
    bounds = np.isinf(peer.reached) & np.isfinite(solved.reached)
    return Ratios(seconds / (solved.reached + compiled * solved.compiling), bounds)


def sections(measurements: Measurements) -> list[str]:
    """The report, below its head."""
    config, rows, *_ = measurements
    numbers, solved = config.pinn, summarize(config, rows)
    target, ms = f"{numbers.target:.0e}", {name: adam_ms(rows, name) for name in (OURS, DEEPXDE)}
    table = [
        [
            name,
            OPTIMIZERS[name],
            spread_times(runs.reached),
            spread_times(runs.reached + runs.compiling),
            spread(runs.heldout_loss, ".1e"),
            spread(runs.rel_l2, ".1e"),
            spread(runs.iterations, ".0f"),
            spread(runs.ms),
        ]
        for name, runs in solved.items()
    ]
    header = ["", "optimizer", f"s to {target}", "with compiling", "held-out loss", "rel. L2"]
    adam = [[name, spread(t), Ratios(t / ms[OURS])] for name, t in ms.items()]
    base = numbers.study.base
    hidden, wide = ("-".join(map(str, widths)) for widths in (base.hidden, numbers.adam_hidden))
    return [
        "## Solves",
        markdown_table([*header, "iterations", "ms an iteration"], table, left=2),
        paragraph(f"""The heat equation, k = {base.options.k:g}: {base.options.points:,} Sobol
            points, half of them early, 129 on the initial line, features cos pi x, sin pi x and
            2 t - 1, a network of {hidden} tanh, unit weights, full batches, float64. Each round is
            a seed: all begin with the same parameters (Glorot normal) and train on the same points,
            in turns, {numbers.seconds:g} s each, on one hardware thread. Between chunks of
            iterations the clock stands and the parameters are noted; our code judges all, on the
            study's held-out grid. Medians over {config.rounds} rounds (least–most); loss and error
            are those at the end. Each round compiles anew, with tracing; PyTorch does not."""),
        paragraph(f"""DeepXDE as in its examples: {numbers.adam_iterations} iterations of Adam, rate
            {numbers.adam_rate:g}, then L-BFGS (its defaults), by the steps that `Model.train`
            makes, without its own tests of the loss; our points as anchors and a PointSetBC. L-BFGS
            goes on from {numbers.lbfgs_chunk} to {numbers.lbfgs_chunk} iterations and evaluates the
            loss once more each time. jinns by `jinns.solve`, both optimizers with their defaults,
            its equation written as its own BurgersEquation is."""),
        f"## An iteration of Adam, {wide}",
        markdown_table(["", "ms", "times ours"], adam),
        "## Goals",
        bullets(goals(config, rows)),
        paragraph(f"""Theirs divided by ours: the median (every round). One that had not reached the
            target when its time was over counts with that time, and its ratio is a lower bound:
            more than that; {MISSING} where ours had not."""),
    ]


def spread_times(seconds: Float[np.ndarray, " rounds"]) -> str:
    """The median, and from least to most; infinite is what was not reached."""
    missing, rounds = int(np.isinf(seconds).sum()), len(seconds)
    if missing == rounds:
        return f"not reached ({missing} of {rounds})"
    text = spread(seconds).replace("inf", "not reached")
    return f"{text}, not in {missing} of {rounds}" if missing else text


def goals(config: ConfigDict, rows: Sequence[Row]) -> list[str]:
    """Verdicts on the goals, by the median of the ratios."""
    solved, limit, lines = summarize(config, rows), config.pinn.seconds, []

    def add(goal: str, least: float, ratios: Ratios) -> None:
        lines.append(verdict(goal, ratios.median >= least, ratios))

    for (name, compiled), least in GOALS.items():
        ratios = time_ratios(limit, solved[OURS], solved[name], compiled)
        goal = f"{name}: at least {least:g} times less time to {config.pinn.target:.0e}"
        add(f"{goal}, {'with' if compiled else 'without'} compiling", least, ratios)
    goal = f"held-out loss after {limit:g} s: at least {LOWER:g} times lower than any other's"
    lowest = np.fmin.reduce([solved[name].heldout_loss for name in PEERS])
    add(goal, LOWER, Ratios(lowest / solved[OURS].heldout_loss))
    goal = f"an iteration of Adam: at least {FASTER:g} times less time than DeepXDE's"
    add(goal, FASTER, Ratios(adam_ms(rows, DEEPXDE) / adam_ms(rows, OURS)))
    return lines


BENCHMARK = turns.Benchmark(
    check,
    setups,
    sections,
    peers={"torch": "PyTorch", "deepxde": "DeepXDE", "jinns": "jinns"},
    row=Row,
    measure=measure,
)
