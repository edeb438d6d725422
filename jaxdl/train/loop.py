"""The loop around the compiled step: dispatches, curves, checkpoints, a stop that loses nothing."""

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
from jaxdl.train.parallel import to_host
from jaxdl.train.population import Training
from jaxdl.train.state import TrainState, fault_names
from jaxdl.train.verification import WrongNumbers, compare, rounding
from jaxdl.types import DamagedFile, Hyper, PyTree


@dataclasses.dataclass
class Clock:
    """What became of the time, in seconds."""

    compilation: float = 0.0
    training: float = 0.0
    """From the start of a dispatch until its metrics are on the host; reading the data of the next
    one, which happens meanwhile, is included."""
    steps: int = 0
    """Steps times networks in that time."""
    evaluation: float = 0.0
    saving: float = 0.0
    """That training waited for checkpoints."""
    by_population: dict[str, float] = dataclasses.field(default_factory=dict)
    """Training, with what was done before a restart."""
    verification: float = 0.0
    """Computing first losses a second time."""


@dataclasses.dataclass(frozen=True)
class Trainer:
    """Trains populations, one after the other: their folder, curves, checkpoints and progress."""

    folder: Path
    """Gets ``metrics.jsonl`` and ``checkpoints/``; where several processes train, the latter is
    the same for all."""
    stop: StopFlag
    progress: Callable[[str, int], None]
    """Told the population's name and the steps of networks done since it was last called."""
    seconds_between_saves: float
    checkpoints: int = 2
    """So many of the latest are kept of each population."""
    events: bool = False
    """Whether the curves are also written for TensorBoard."""
    profiled: range = range(0)
    """Steps to be traced by the profiler."""
    debug: bool = False
    """Whether a network that ceases to be finite ends it all with FloatingPointError: the dispatch
    is repeated, operation by operation, to raise it where that began. On one device, under jit."""
    say: Callable[[str], None] = print
    """Told, in a line, what the user should know."""
    clock: Clock = dataclasses.field(default_factory=Clock)
    compiled: dict[Any, Callable] = dataclasses.field(default_factory=dict)
    discrepancies: dict[str, float] = dataclasses.field(default_factory=dict)
    """By population, how far its members' first losses by the program that trains are from those
    by a plain one (:func:`jaxdl.train.verification.compare`); of those that were compared."""

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
        the end also what ``watch`` says.

        Args:
          name: of the population: its checkpoints' folder, and its mark in the curves.
          training: the ``program`` of a :class:`jaxdl.train.feed.Feed`. The losses of its first
            step are compared with those of a plain program before anything is written.
          dispatches: ``dispatches(first)`` yields the ``data`` of each dispatch from step
            ``first`` on.
          networks: how each network is named in the curves, in the order of members (and,
            where a member is several networks, of those within it); the members that only
            fill up the population come after them and are not named.

        Raises:
          ValueError: if the dispatches do not divide the steps, or members are at several steps.
          DamagedFile: if a checkpoint is another program's or of other networks, or the curves do
            not reach up to it.
          OSError: if something cannot be written; what was written before is intact.
          Interrupted: after saving, when the stop flag was set.
          FloatingPointError: see ``debug``.
          WrongNumbers: if the first losses are not those of a plain program.
        """
        if steps % steps_per_dispatch:
            raise ValueError(f"{steps} steps are not a multiple of {steps_per_dispatch} a dispatch")

        folder, arrays = self.folder / "checkpoints" / name, fault_names(states)
        begin, *others = map(int, sorted({*to_host(states.step).tolist()}))
        if others:
            raise ValueError(f"the members of {name} are at steps {begin} to {others[-1]}")
        with Checkpoints(folder, self.checkpoints, self.say) as checkpoints, ExitStack() as stack:
            states, first = self._resume(
                checkpoints, name, states, networks, begin, steps_per_dispatch
            )
            self.progress(name, (first - begin) * len(networks))
            stopped, _ = self._agreed(False)  # asked for while something else was computed
            if stopped:
                raise Interrupted(stopped)
            if first == steps:
                return states
            events = None
            if self.events:
                events = logs.Events(self.folder / "tensorboard" / name, networks, first)
                stack.enter_context(closing(events))
            trace = stack.enter_context(ExitStack())
            traced = [
                before
                for before in range(first, steps, steps_per_dispatch)
                if self.profiled.start - steps_per_dispatch < before < self.profiled.stop
            ]
            saved, items = time.monotonic(), stack.enter_context(closing(dispatches(first)))
            data = next(items)
            train = self._compile(training.run, states, hypers, data)
            expected = self._first_losses(training, states, hypers, data)
            for before in range(first, steps, steps_per_dispatch):
                step = before + steps_per_dispatch
                if before in traced[:1]:
                    trace.enter_context(jax.profiler.trace(self.folder / "profile" / name))
                began = time.monotonic()
                states_before = jax.tree.map(jnp.copy, states) if self.debug else None
                states, metrics = train(states, hypers, data)
                if self.debug and np.any(metrics["fault"] >= 0):
                    _look_for_fault(training.run, states_before, hypers, data)
                if step < steps:
                    data = next(items)  # read while the devices are at work
                metrics = dict(to_host(metrics))
                if before == first:
                    self._verify(name, expected, metrics["loss"][:, 0], networks, states, first)
                took = time.monotonic() - began
                if before in traced[-1:]:
                    trace.close()
                self.clock.training += took
                self.clock.by_population[name] += took
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
                records = [
                    {"population": name, **record}
                    for record in logs.dispatch_records(metrics, watched, networks, arrays, before)
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
        begin: int,
        steps_per_dispatch: int,
    ) -> tuple[TrainState, int]:
        """States to go on with, and their step, ``begin`` without a checkpoint; the curves end
        there, too."""
        folder = self.folder / "checkpoints" / name
        again = f"delete {folder} to train these networks again"
        states, first, notes = checkpoints.restore(states)
        if first and notes.get("networks") != list(map(dict, networks)):
            raise DamagedFile(f"the checkpoint in {folder} is of other networks: {again}")
        self.clock.by_population[name] = notes.get("seconds", 0.0)
        if notes.get("discrepancy") is not None:
            self.discrepancies[name] = notes["discrepancy"]
        # They may be ahead of the checkpoint, never behind it: they are written first.
        first = max(begin, first)
        lines = self.curves.rewind(name, first)
        if lines != (first - begin) // steps_per_dispatch * len(networks):
            problem = f"lacks lines of {name} before its checkpoint at step {first}"
            raise DamagedFile(f"{self.curves.path} {problem}: {again}")
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
        """The first losses by a plain program: to be asked for before the states are consumed."""
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
        states: TrainState,
        first: int,
    ) -> None:
        """Compare the first losses of a dispatch with those of a plain program, on all processes
        before one of them writes anything."""
        per_member = losses[0].size
        sharding: Any = states.step.sharding
        mesh = sharding.mesh

        def describe(index: int, place: int) -> str:
            rows = mesh.devices
            network = networks[min(index * per_member + place, len(networks) - 1)]
            devices = ", ".join(map(str, rows[index * len(rows) // len(losses)]))
            label = "/".join(map(str, network.values()))
            return f"{label} at step {first} (member {index} of {name}, on {devices})"

        fault, difference = None, 0.0
        if expected:
            try:
                difference = compare(expected, losses, describe, rounding(mesh))
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
            self.discrepancies.setdefault(name, difference)  # a restart has that of the beginning

    def _agreed(self, due: bool) -> tuple[int | None, bool]:
        """The signal that any process received, and whether the first one would save."""
        if jax.process_count() == 1:
            return self.stop.received, due
        votes = multihost_utils.process_allgather(np.array([self.stop.received or 0, due]))
        return int(votes[:, 0].max()) or None, bool(votes[0, 1])


def _look_for_fault(run: Callable, *args: PyTree) -> None:
    """Raise FloatingPointError at the first operation whose result is NaN or, if there is none,
    infinite."""
    for watch in (jax.debug_nans, jax.debug_infs):
        with jax.disable_jit(), watch(True):
            run(*args)
    raise FloatingPointError(
        "a network is no longer finite (the curves say which), yet operation by operation it is: "
        "rounding decides"
    )
