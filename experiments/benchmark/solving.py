"""Timed solving, shared by the contenders of ``configs/benchmark.py:pinn``.

All solve the study's own problem from the same parameters on the same points, those of one seed.
A contender trains a chunk of iterations at a time; between chunks its clock stands and its
parameters are kept, which the study's own judge looks at when the time is over.
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
from jaxtyping import Float
from ml_collections import ConfigDict
from threadpoolctl import threadpool_limits

from experiments.benchmark.turns import Contender, Slice
from experiments.harness.study import make_study
from experiments.pinn import Physics, Solver
from jaxdl.nn.models.mlp import dense_layers
from jaxdl.train.state import TrainState
from jaxdl.types import Params, PyTree

ADAM, LOSS = "adam", "loss"
"""The kind of slice, and the question for a contender's own loss at the start of seed 0."""

Layers = list[tuple[Float[np.ndarray, "m n"], Float[np.ndarray, " n"]]]
"""Kernel and bias of each layer."""


class Look(NamedTuple):
    """The state of a run at a moment."""

    iterations: int
    seconds: float  # of training, without compiling
    compile_seconds: float
    heldout_loss: float
    rel_l2: float


class Run(NamedTuple):
    """One network in training."""

    compile_seconds: float
    """Time of compiling, before the first iteration."""
    advance: Callable[[], int]
    """Trains a chunk and returns its iterations, 0 when the optimizer has ended."""
    params: Callable[[], Params]
    """Returns the current parameters, in our network's form."""


def pin() -> None:
    """Compute in float64 and on one hardware thread, all of this process."""
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_enable_compilation_cache", False)  # what compiling takes is measured
    last = {max(os.sched_getaffinity(0))}
    for thread in Path("/proc/self/task").iterdir():  # those of BLAS have begun
        os.sched_setaffinity(int(thread.name), last)
    threadpool_limits(1)


def make_physics(config: ConfigDict, **changes: Any) -> tuple[Physics, Solver]:
    """The study of as many seeds as there are rounds, its base changed, and its only problem."""
    settings = config.pinn.study.copy_and_resolve_references()
    settings.seeds, settings.iterations_per_dispatch = config.rounds, config.pinn.chunk
    settings.base.update(changes)
    study = make_study(Physics, settings)
    study.build()
    (solver,) = study.solvers
    return study, solver


def make_start(solver: Solver, seed: int) -> TrainState:
    """Parameters and points of a seed, on the host."""
    return jax.device_get(solver.group.members[seed].start())


def points(start: TrainState) -> dict[str, Float[np.ndarray, "n 2"]]:
    """The points of the terms "equation" and "initial"; coordinates are t and x."""
    return start.collections["sample"].points


def get_layers(start: TrainState) -> Layers:
    """The layers of our network."""
    return dense_layers({"params": start.params["network"]})


def make_params(layers: Layers) -> Params:
    """The parameters of our network."""
    named = [{"kernel": kernel, "bias": bias} for kernel, bias in layers]
    return {"network": {f"layer_{i}": layer for i, layer in enumerate(named)}, "physics": {}}


def judge(solver: Solver, start: TrainState, params: Params) -> tuple[float, float]:
    """Held-out loss and relative L2."""
    state = start.replace(params=params, opt_state=())
    states = jax.tree.map(lambda leaf: np.asarray(leaf)[None], state)
    values = solver.judge(states, solver.heldout)
    return float(values["heldout_loss"][0]), float(values["rel_l2"][0])


def make_contender(
    config: ConfigDict,
    solver: Solver,
    begin: Callable[[TrainState], Run],
    loss: Callable[[TrainState], float],
    adam: Callable[[], object] | None = None,
) -> Contender:
    """A contender that answers with the measurements of each seed's run, and with its loss at the
    start.

    Args:
      adam: a chunk of iterations of Adam with the network in which they are timed.
    """

    def solve(seed: int) -> list[Look]:
        # As in a new process: a program that has been compiled is compiled again.
        jax.clear_caches()
        start = make_start(solver, seed)
        run = begin(start)
        moments, iterations, seconds = [(0, 0.0, run.params())], 0, 0.0
        while seconds < config.pinn.seconds:
            chunk_start = time.perf_counter()
            chunk = run.advance()
            seconds += time.perf_counter() - chunk_start
            iterations += chunk
            moments.append((iterations, seconds, run.params()))
            if not chunk:
                break
        return [
            Look(*clock, run.compile_seconds, *judge(solver, start, params))
            for *clock, params in moments
        ]

    def repeat() -> None:
        for _ in range(config.pinn.adam_chunks):
            adam()

    slices = {ADAM: Slice(1, config.pinn.adam_chunks * config.pinn.chunk, repeat)} if adam else {}
    answers = {seed_question(seed): partial(solve, seed) for seed in range(config.rounds)}
    return Contender(slices, answers | {LOSS: lambda: loss(make_start(solver, 0))})


def seed_question(seed: int) -> str:
    """The question for a run."""
    return f"seed {seed}"


def compile_timed(
    function: Callable[..., PyTree], *arguments: PyTree
) -> tuple[Callable[..., PyTree], float]:
    """The compiled form of a jitted function, and the seconds of tracing and compiling."""
    start = time.perf_counter()
    return function.lower(*arguments).compile(), time.perf_counter() - start
