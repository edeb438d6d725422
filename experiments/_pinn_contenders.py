"""The contenders of ``configs/benchmark.py:pinn``: what they share, and ours.

All solve the study's own problem from the same parameters on the same points, those of one seed.
A contender trains a chunk of iterations at a time; between chunks its clock stands and its
parameters are noted, which the study's own judge looks at when the time is over. The others are in
:mod:`experiments._pinn_peers`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict
from threadpoolctl import threadpool_limits

from experiments._interleave import Contender, Slice
from experiments._transferability_contenders import going_on
from experiments.harness.study import make_study
from experiments.pinn import Physics, Solver
from jaxdl import trees
from jaxdl.nn.models.mlp import MLP
from jaxdl.pinn.problem import Ansatz
from jaxdl.train.population import member_key, population_of
from jaxdl.train.state import TrainState
from jaxdl.types import Params, PyTree

ADAM, LOSS = "adam", "loss"
"""The kind of slice, and the question for a contender's own loss at the start of seed 0."""


class Look(NamedTuple):
    """What is known at a moment of a run."""

    iterations: int
    seconds: float  # of training, without compiling
    compile_seconds: float
    heldout_loss: float
    rel_l2: float


class Run(NamedTuple):
    """One network in training."""

    compile_seconds: float
    """Spent on what is compiled before the first iteration."""
    advance: Callable[[], int]
    """Trains a chunk further and returns when it is done: with the number of its iterations, 0
    where the optimizer has come to its end."""
    params: Callable[[], Params]
    """What has been reached, as our network has it."""


def pin() -> None:
    """Compute in float64 and on one hardware thread, all of this process."""
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_enable_compilation_cache", False)  # what compiling takes is measured
    one = {max(os.sched_getaffinity(0))}
    for thread in Path("/proc/self/task").iterdir():  # those of BLAS have begun
        os.sched_setaffinity(int(thread.name), one)
    threadpool_limits(1)


def make_lab(config: ConfigDict, **changes: Any) -> Physics:
    """The study of as many seeds as there are rounds, its base changed."""
    study = config.pinn.study.copy_and_resolve_references()
    study.seeds, study.iterations_per_dispatch = config.rounds, config.pinn.chunk
    study.base.update(changes)
    lab = make_study(Physics, study)
    lab.build()
    return lab


def start_of(program: Solver, seed: int) -> TrainState:
    """Parameters and points of a seed, on the host."""
    return jax.device_get(program.group.members[seed].start())


def wide_start(config: ConfigDict, program: Solver) -> TrainState:
    """The same points, and parameters of the network of which iterations of Adam are timed."""
    network = MLP(tuple(config.pinn.adam_hidden))
    params = Ansatz(program.ansatz.problem, network).init(member_key("init", 0))
    return start_of(program, 0).replace(params=jax.device_get(params))


def judged(program: Solver, start: TrainState, params: Params) -> tuple[float, float]:
    """Held-out loss and relative L2."""
    state = start.replace(params=params, opt_state=())
    states = jax.tree.map(lambda leaf: np.asarray(leaf)[None], state)
    told = program.judge(states, program.heldout)
    return float(told["heldout_loss"][0]), float(told["rel_l2"][0])


def questions(
    config: ConfigDict,
    program: Solver,
    begin: Callable[[TrainState], Run],
    loss: Callable[[TrainState], float],
) -> dict[str, Callable[[], Any]]:
    """What a contender answers: its loss at the start, and the looks of a seed's run."""

    def solve(seed: int) -> list[Look]:
        # As in a new process: a program that has been compiled is compiled again.
        jax.clear_caches()
        start = start_of(program, seed)
        run = begin(start)
        noted, iterations, took = [(0, 0.0, run.params())], 0, 0.0
        while took < config.pinn.seconds:
            began = time.perf_counter()
            done = run.advance()
            took += time.perf_counter() - began
            iterations += done
            noted.append((iterations, took, run.params()))
            if not done:
                break
        return [
            Look(count, seconds, run.compile_seconds, *judged(program, start, params))
            for count, seconds, params in noted
        ]

    answers = {of_seed(n): partial(solve, n) for n in range(config.rounds)}
    return answers | {LOSS: lambda: loss(start_of(program, 0))}


def of_seed(seed: int) -> str:
    """The question for a run."""
    return f"seed {seed}"


def compiled(fn: Callable[..., PyTree], *arguments: PyTree) -> tuple[Callable[..., PyTree], float]:
    """What a jitted function is compiled to, and the seconds that took, tracing included."""
    began = time.perf_counter()
    return fn.lower(*arguments).compile(), time.perf_counter() - began


# --- ours --------------------------------------------------------------------------------------


def assembled(lab: Physics, start: TrainState) -> tuple[TrainState, PyTree, tuple]:
    """What the study's program takes, for one network."""
    hyper = {"key": member_key("refresh", 0)}
    return (
        population_of([start], 0, lab.placement.mesh),
        population_of([hyper], 0, lab.placement.mesh),
        (),
    )


def jaxdl(config: ConfigDict) -> Contender:
    """The study's own programs."""
    pin()
    lab = make_lab(config)
    (program,) = lab.solvers

    def begin(start: TrainState) -> Run:
        states, hypers, _ = assembled(lab, start)
        train, seconds = compiled(program.group.program.training.run, states, hypers, ())

        def advance() -> int:
            nonlocal states
            states, _ = jax.block_until_ready(train(states, hypers, ()))
            return config.pinn.chunk

        return Run(seconds, advance, lambda: jax.device_get(trees.member(states, 0).params))

    def loss(start: TrainState) -> float:
        states = assembled(lab, start)[0].replace(opt_state=())
        return float(program.judge(states, program.heldout)["train_loss"][0])

    wide = make_lab(config, optimizer="adam", hidden=config.pinn.adam_hidden)
    (other,) = wide.solvers
    arguments = assembled(wide, start_of(other, 0))
    train, _ = compiled(other.group.program.training.run, *arguments)
    run = going_on(train, [arguments[:2]], ())
    chunks = config.pinn.adam_chunks
    slices = {ADAM: Slice(1, chunks * config.pinn.chunk, times(run, chunks))}
    return Contender(slices, questions(config, program, begin, loss))


def times(run: Callable[[], object], count: int) -> Callable[[], None]:
    """So many calls, one after the other."""

    def runs() -> None:
        for _ in range(count):
            run()

    return runs
