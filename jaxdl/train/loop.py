"""The loop around the compiled step: dispatches, curves, checkpoints, stops without loss."""

import dataclasses
import functools
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Float

from jaxdl.train import logs
from jaxdl.train.checkpoint import Checkpoints
from jaxdl.train.interruption import Interrupted, StopFlag
from jaxdl.train.parallel import MeshPlacement, to_host
from jaxdl.train.population import Training
from jaxdl.train.state import TrainState, fault_names
from jaxdl.train.verification import WrongNumbers, compare, rounding
from jaxdl.types import DamagedFile, Hyper, PyTree


@dataclasses.dataclass
class Clock:
    """How many seconds each part of the work took."""

    compilation: float = 0.0
    training: float = 0.0
    """From the start of a dispatch until its metrics are on the host, including the reading of the
    next one's data meanwhile."""
    steps: int = 0
    """Steps times networks in that time."""
    evaluation: float = 0.0
    """On validation images while training, and all that is measured at the end, with what these
    compile."""
    saving: float = 0.0
    """Waiting for checkpoints."""
    by_population: dict[str, float] = dataclasses.field(default_factory=dict)
    """Training of each population, including the time before a restart."""
    verification: float = 0.0
    """Computing first losses a second time."""


@dataclasses.dataclass(frozen=True)
class Trainer:
    """Trains populations, one after the other: their folder, curves, checkpoints and progress."""

    folder: Path
    """For ``metrics.jsonl`` and ``checkpoints/``; where several processes train, the latter is the
    same for all."""
    stop: StopFlag
    progress: Callable[[str, int], None]
    """Called with the population's name and the steps of networks done since its last call."""
    seconds_between_saves: float
    checkpoints: int = 2
    """How many checkpoints of each population are kept, the latest."""
    events: bool = False
    """Whether the curves are also written for TensorBoard."""
    profiled: range = range(0)
    """Steps to be traced by the profiler."""
    debug: bool = False
    """Whether training ends with FloatingPointError when a network ceases to be finite: the
    dispatch is repeated, operation by operation, to raise it at the first that is not. On one
    device, under jit."""
    say: Callable[[str], None] = print
    """Called with a line of information for the user."""
    clock: Clock = dataclasses.field(default_factory=Clock)
    compiled: dict[Any, Callable] = dataclasses.field(default_factory=dict)
    discrepancies: dict[str, float] = dataclasses.field(default_factory=dict)
    """By population, the largest difference between its members' first losses by the program that
    trains and those by a plain one (:func:`jaxdl.train.verification.compare`), if compared."""

    @functools.cached_property
    def curves(self) -> logs.Curves:
        """``metrics.jsonl``, with a line for each network and dispatch."""
        return logs.Curves(self.folder / "metrics.jsonl")

    def fit(
        self,
        name: str,
        training: Training,
        states: TrainState,
        hypers: Hyper,
        dispatches: Callable[[int], Generator[PyTree]],
        *,
        networks: Sequence[Mapping[str, Any]],
        steps: int,
        steps_per_dispatch: int,
        watch: Callable[[TrainState], Mapping[str, Float[np.ndarray, "m ..."]]],
        dispatches_per_evaluation: int = 1,
    ) -> TrainState:
        """Train a population from the step of ``states``, which all members have in common, to step
        ``steps``; from its latest checkpoint if it has one.

        After every dispatch a line for each network goes to the curves: its name, the step, the
        metrics' means since the line before, and, for one that ceased to be finite, the number of
        finite steps before that, ``diverged_at``, and the first array that was not,
        ``diverged_in``, and from then on no number but NaN; after every so many dispatches and at
        the end also the numbers of ``watch``.

        Args:
          name: the population's: it names its checkpoints' folder, and marks its lines in the
            curves.
          training: the ``program`` of a :class:`jaxdl.train.feed.Feed`. The losses of its first
            step are compared with those of a plain program before anything is written.
          dispatches: ``dispatches(first)`` yields the ``data`` of each dispatch from step
            ``first`` on.
          networks: the name of each network in the curves, in the order of members (and, where a
            member is several networks, of those within it). Members that only fill up the
            population come last and have no names.
          watch: ``watch(states)`` gives numbers for the curves, by network.

        Raises:
          ValueError: if the dispatches do not divide the steps, or members are at several steps.
          DamagedFile: if a checkpoint has another program's arrays or other networks, or the curves
            do not reach up to it.
          OSError: if something cannot be written; all files written before are intact.
          Interrupted: after saving, when the stop flag was set.
          FloatingPointError: see ``debug``.
          WrongNumbers: if the first losses differ from those of a plain program.
        """
        if steps % steps_per_dispatch:
            raise ValueError(f"{steps} steps are not a multiple of {steps_per_dispatch} a dispatch")

        folder, arrays = self.folder / "checkpoints" / name, fault_names(states)
        start, *others = map(int, sorted({*to_host(states.step).tolist()}))
        if others:
            raise ValueError(f"the members of {name} are at steps {start} to {others[-1]}")
        with Checkpoints(folder, self.checkpoints, self.say) as checkpoints, ExitStack() as stack:
            states, first = self._resume(
                checkpoints, name, states, networks, start, steps_per_dispatch
            )
            self.progress(name, (first - start) * len(networks))
            stopped, _ = self._agreed(False)  # asked for while something else was computed
            if stopped:
                raise Interrupted(stopped)
            if first == steps:
                return states
            if first > start:
                self.say(f"{name}: goes on at step {first:,} of {steps:,}")
            events = None
            if self.events:
                events = logs.Events(self.folder / "tensorboard" / name, networks, first)
                stack.enter_context(closing(events))
            trace = stack.enter_context(ExitStack())
            first_steps = range(first, steps, steps_per_dispatch)
            traced = [
                first_step
                for first_step in first_steps
                if self.profiled.start - steps_per_dispatch < first_step < self.profiled.stop
            ]
            saved, items = time.monotonic(), stack.enter_context(closing(dispatches(first)))
            data = next(items)
            train = self._compile(training.run, states, hypers, data)
            expected = self._first_losses(training, states, hypers, data)
            for first_step in first_steps:
                step = first_step + steps_per_dispatch
                if first_step in traced[:1]:
                    trace.enter_context(jax.profiler.trace(self.folder / "profile" / name))
                began = time.monotonic()
                states_before = jax.tree.map(jnp.copy, states) if self.debug else None
                states, metrics = train(states, hypers, data)
                if self.debug and np.any(metrics["fault"] >= 0):
                    _look_for_fault(training.run, states_before, hypers, data)
                if step < steps:
                    data = next(items)  # read while the devices are at work
                metrics = dict(to_host(metrics))
                if first_step == first:
                    losses, placement = metrics["loss"][:, 0], training.placement
                    self._verify(name, expected, losses, networks, placement, first)
                seconds = time.monotonic() - began
                if first_step in traced[-1:]:
                    trace.close()
                self.clock.training += seconds
                self.clock.by_population[name] += seconds
                self.clock.steps += steps_per_dispatch * len(networks)

                evaluated = step // steps_per_dispatch % dispatches_per_evaluation == 0
                evaluated |= step == steps
                watched = {}
                if evaluated:
                    began = time.monotonic()
                    watched = {
                        key: logs.network_values(value, networks)
                        for key, value in watch(states).items()
                    }
                    self.clock.evaluation += time.monotonic() - began
                parts = metrics, watched, networks, arrays, first_step
                records = [
                    {"population": name, **record} for record in logs.dispatch_records(*parts)
                ]
                self.curves.append(records)
                if events:
                    events.write(records)
                self.progress(name, steps_per_dispatch * len(networks))

                due = time.monotonic() - saved > self.seconds_between_saves
                stopped, due = self._agreed(due)
                if step == steps or due or stopped:
                    began = time.monotonic()
                    logs.sync(self.curves.path)
                    checkpoints.save(
                        step,
                        states,
                        {
                            "seconds": self.clock.by_population[name],
                            "discrepancy": self.discrepancies.get(name),
                            "networks": list(map(dict, networks)),
                        },
                    )
                    saved = time.monotonic()
                    self.clock.saving += saved - began
                if stopped:
                    checkpoints.wait()
                    raise Interrupted(stopped)
            began = time.monotonic()
            checkpoints.wait()
            self.clock.saving += time.monotonic() - began
        return states

    def _resume(
        self,
        checkpoints: Checkpoints,
        name: str,
        states: TrainState,
        networks: Sequence[Mapping[str, Any]],
        start: int,
        steps_per_dispatch: int,
    ) -> tuple[TrainState, int]:
        """The states to go on with, and their step, ``start`` without a checkpoint; the curves end
        there, too."""
        folder = self.folder / "checkpoints" / name
        remedy = f"delete {folder} to train these networks again"
        states, first, notes = checkpoints.restore(states)
        if first and notes.get("networks") != list(map(dict, networks)):
            raise DamagedFile(f"the checkpoint in {folder} is of other networks: {remedy}")
        self.clock.by_population[name] = notes.get("seconds", 0.0)
        if notes.get("discrepancy") is not None:
            self.discrepancies[name] = notes["discrepancy"]
        # They may be ahead of the checkpoint, never behind it: they are written first.
        first = max(start, first)
        lines = self.curves.rewind(name, first)
        if lines != (first - start) // steps_per_dispatch * len(networks):
            problem = f"lacks lines of {name} before its checkpoint at step {first}"
            raise DamagedFile(f"{self.curves.path} {problem}: {remedy}")
        return states, first

    def _compile(self, run: jax.stages.Wrapped, *args: PyTree) -> Callable:
        """The program for arguments of these shapes, compiled once."""
        leaves, structure = jax.tree.flatten(args)
        key = run, structure, *((leaf.shape, leaf.dtype, leaf.sharding) for leaf in leaves)
        if key not in self.compiled:
            began = time.monotonic()
            self.compiled[key] = run.lower(*args).compile()
            self.clock.compilation += time.monotonic() - began
        return self.compiled[key]

    def _first_losses(self, training: Training, *args: PyTree) -> Mapping[int, np.ndarray]:
        """The first losses by a plain program; for states that are not yet consumed."""
        began = time.monotonic()
        losses = training.first_losses(*args)
        self.clock.verification += time.monotonic() - began
        return losses

    def _verify(
        self,
        name: str,
        expected: Mapping[int, np.ndarray],
        losses: np.ndarray,
        networks: Sequence[Mapping[str, Any]],
        placement: MeshPlacement,
        first: int,
    ) -> None:
        """Compare the first losses of a dispatch with those of a plain program, on all processes
        before one of them writes anything."""
        per_member, rows = losses[0].size, placement.mesh.devices

        def describe(member: int, index: int) -> str:
            network = networks[min(member * per_member + index, len(networks) - 1)]
            devices = ", ".join(map(str, rows[member * len(rows) // len(losses)]))
            label = "/".join(map(str, network.values()))
            return f"{label} at step {first} (member {member} of {name}, on {devices})"

        fault, difference = None, 0.0
        if expected:
            try:
                difference = compare(expected, losses, describe, rounding(placement.platform))
            except WrongNumbers as error:
                fault = error
        if jax.process_count() > 1:
            gathered = multihost_utils.process_allgather(np.array([fault is not None, difference]))
            difference = float(gathered[:, 1].max())
            if gathered[:, 0].any() and fault is None:
                fault = WrongNumbers("another process's first losses are wrong: it says which")
        if fault:
            raise fault
        if expected:
            self.discrepancies.setdefault(name, difference)  # a restart keeps that of the start

    def _agreed(self, due: bool) -> tuple[int | None, bool]:
        """The signal that any process received, and whether the first process would save."""
        if jax.process_count() == 1:
            return self.stop.received, due
        votes = multihost_utils.process_allgather(np.array([self.stop.received or 0, due]))
        return int(votes[:, 0].max()) or None, bool(votes[0, 1])


def _look_for_fault(run: Callable, *args: PyTree) -> None:
    """Raise FloatingPointError at the first operation whose result is NaN or, without one,
    infinite."""
    for watch in (jax.debug_nans, jax.debug_infs):
        with jax.disable_jit(), watch(True):
            run(*args)
    raise FloatingPointError(
        "a network is no longer finite (the curves say which), yet operation by operation it is: "
        "rounding decides"
    )
