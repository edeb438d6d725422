"""The loop around the compiled step: dispatches, curves, checkpoints, a stop that loses nothing."""

from __future__ import annotations

import dataclasses
import math
import signal
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Float

from jaxdl.train import logs
from jaxdl.train.checkpoint import Checkpoints
from jaxdl.train.parallel import to_host
from jaxdl.train.state import TrainState, fault_names
from jaxdl.types import DamagedFile, Hyper, Metrics, PyTree


class Interrupted(Exception):
    """Training was asked to stop and has saved its state; ``signal`` is who asked."""

    def __init__(self, signal: int):
        super().__init__(f"stopped by signal {signal}")
        self.signal = signal


class StopFlag:
    """Turns the first SIGINT or SIGTERM into a flag that the loop reads between dispatches.

    A second signal ends the process as if there were no handler.
    """

    def __init__(self):
        self.received: int | None = None

    def install(self) -> StopFlag:
        """Take over the two signals."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._handle)
        return self

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_DFL)


@dataclasses.dataclass
class Clock:
    """What became of the time, in seconds."""

    compilation: float = 0.0
    training: float = 0.0
    """Of the compiled steps alone."""
    steps: int = 0
    """Of networks, in that time."""
    evaluation: float = 0.0
    saving: float = 0.0
    """That training waited for checkpoints."""
    of: dict[str, float] = dataclasses.field(default_factory=dict)
    """Training by population, with what was done before a restart."""


@dataclasses.dataclass(frozen=True)
class Workplace:
    """Where populations are trained, one after the other."""

    folder: Path
    """Gets ``metrics.jsonl`` and ``checkpoints/``; where several processes train, the latter is
    the same for all."""
    stop: StopFlag
    progress: Callable[[str, int], None]
    """Told the population's name and the steps of networks done since it was last called."""
    seconds_between_saves: float
    checkpoints: int = 2
    """So many of the latest are kept of each population, beside the best."""
    events: bool = False
    """Whether the curves are also written for TensorBoard."""
    profiled: range = range(0)
    """Steps to be traced by the profiler."""
    debug: bool = False
    """Whether a dispatch in which a network ceased to be finite is repeated, operation by
    operation, to raise FloatingPointError where that began; on one device, under jit."""
    say: Callable[[str], None] = print
    """Told, in a line, what the user should know."""
    clock: Clock = dataclasses.field(default_factory=Clock)
    compiled: dict[Any, Callable] = dataclasses.field(default_factory=dict)

    @property
    def curves(self) -> Path:
        """The file with a line for each network and dispatch."""
        return self.folder / "metrics.jsonl"

    @property
    def quiet(self) -> Workplace:
        """The same place, without a word of progress."""
        return dataclasses.replace(self, progress=lambda *_: None)

    def fit(
        self,
        name: str,
        run: Callable[[TrainState, Hyper, PyTree], tuple[TrainState, Metrics]],
        states: TrainState,
        hypers: Hyper,
        feed: Callable[[int], Generator[PyTree]],
        *,
        networks: Sequence[Mapping[str, Any]],
        steps: int,
        steps_per_dispatch: int,
        watch: Callable[[TrainState], Mapping[str, Float[np.ndarray, "m ..."]]],
        score: str | None = None,
        dispatches_per_evaluation: int = 1,
    ) -> TrainState:
        """Train a population to step ``steps``, from its latest checkpoint if it has one.

        After every dispatch a line for each network goes to the curves: its name, the step, the
        metrics' means since the line before, and, for one that ceased to be finite, the step,
        ``diverged_at``, and the first array that was not, ``diverged_in``, and from then on a loss
        that is NaN; after every so many dispatches and at the end also what ``watch`` says.

        Args:
          name: of the population: its checkpoints' folder, and its mark in the curves.
          run: ``run(states, hypers, data) -> (states, metrics)``, jitted, which consumes
            ``states``; the ``program`` of a :class:`jaxdl.train.feed.Feed`.
          feed: from the step to begin with to the ``data`` of each dispatch, one after the other.
          networks: how each network is named in the curves, in the order of members (and,
            where a member is several networks, of those within it); the members that only
            fill up the population come after them and are not named.
          score: what of ``watch`` says how good a network is, the higher the better: the
            checkpoint with the highest mean is kept.

        Raises:
          ValueError: if the dispatches do not divide the steps.
          DamagedFile: if a checkpoint is another program's, or the curves do not reach up to it.
          OSError: if something cannot be written; what was written before is intact.
          Interrupted: after saving, when the stop flag was set.
          FloatingPointError: see ``debug``.
          FloatingPointError: see ``debug``.
        """
        if steps % steps_per_dispatch:
            raise ValueError(f"{steps} steps are not a multiple of {steps_per_dispatch} a dispatch")

        def by_network(values: Float[np.ndarray, "m ..."]) -> list[float]:
            return np.asarray(values).reshape(-1)[: len(networks)].tolist()

        arrays = fault_names(states)
        folder = self.folder / "checkpoints" / name
        with Checkpoints(folder, self.checkpoints, self.say) as checkpoints, ExitStack() as open_:
            states, first, notes = checkpoints.restore(states)
            self.clock.of[name] = notes.get("seconds", 0.0)
            # The log may be ahead of the checkpoint, never behind it: it is written first.
            kept = logs.rewind(
                self.curves, lambda r: r.get("population") != name or r["step"] <= first
            )
            lines = sum(record.get("population") == name for record in kept)
            if lines != first // steps_per_dispatch * len(networks):
                raise DamagedFile(
                    f"{self.curves} lacks lines of {name} before its checkpoint at step {first}: "
                    f"delete {folder} to train these networks again"
                )
            self.progress(name, first * len(networks))
            stopped, _ = self._agreed(False)  # asked for while something else was computed
            if stopped:
                raise Interrupted(stopped)
            if first == steps:
                return states
            if self.events:
                kept_events = logs.Events(self.folder / "tensorboard" / name, networks, first)
                open_.enter_context(closing(kept_events))
            saved, items = time.monotonic(), open_.enter_context(closing(feed(first)))
            data = next(items)
            train = self._compile(run, states, hypers, data)
            for step in range(first + steps_per_dispatch, steps + 1, steps_per_dispatch):
                with self._traced(range(step - steps_per_dispatch, step)):
                    began = time.monotonic()
                    before = jax.tree.map(jnp.copy, states) if self.debug else None
                    states, metrics = train(states, hypers, data)
                    if self.debug and np.any(metrics["fault"] >= 0):
                        _look_for_fault(run, before, hypers, data)
                    if step < steps:
                        data = next(items)  # read while the devices are at work
                    metrics = dict(to_host(metrics))
                    took = time.monotonic() - began
                self.clock.training += took
                self.clock.of[name] += took
                self.clock.steps += steps_per_dispatch * len(networks)
                faults = metrics.pop("fault")
                metrics["loss"] = np.where(faults == -1, metrics["loss"], np.nan)
                columns = {key: np.mean(value, axis=1) for key, value in metrics.items()}
                if step // steps_per_dispatch % dispatches_per_evaluation == 0 or step == steps:
                    began = time.monotonic()
                    columns |= watch(states)
                    self.clock.evaluation += time.monotonic() - began
                columns = {key: by_network(value) for key, value in columns.items()}
                records = [
                    {"population": name, **network, "step": step}
                    | {key: values[i] for key, values in columns.items()}
                    for i, network in enumerate(networks)
                ]
                at, which = np.argmax(faults >= 0, axis=1), np.max(faults, axis=1)
                each = zip(records, by_network(at), by_network(which), strict=True)
                for i, (record, at, which) in enumerate(each):
                    if which >= 0:
                        record["diverged_at"] = step - steps_per_dispatch + at
                        record["diverged_in"] = arrays[i % len(arrays)][which]
                logs.append(self.curves, records)
                if self.events:
                    kept_events.write(records)
                self.progress(name, steps_per_dispatch * len(networks))
                due = time.monotonic() - saved > self.seconds_between_saves
                stopped, due = self._agreed(due)
                if step == steps or due or stopped:
                    began = time.monotonic()
                    mean = np.mean(columns[score]) if score in columns else math.nan
                    checkpoints.save(
                        step,
                        states,
                        {"seconds": self.clock.of[name]},
                        float(mean) if np.isfinite(mean) else None,
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

    def _compile(self, run: Callable, *args: PyTree) -> Callable:
        """The program for arguments of these shapes, compiled once."""
        if not hasattr(run, "lower"):  # pmap compiles when it is called
            return run
        leaves, structure = jax.tree.flatten(args)
        key = run, structure, *((leaf.shape, leaf.dtype) for leaf in leaves)
        if key not in self.compiled:
            began = time.monotonic()
            self.compiled[key] = run.lower(*args).compile()
            self.clock.compilation += time.monotonic() - began
        return self.compiled[key]

    def _agreed(self, due: bool) -> tuple[int | None, bool]:
        """The signal that any process received, and whether the first one would save."""
        if jax.process_count() == 1:
            return self.stop.received, due
        told = multihost_utils.process_allgather(np.array([self.stop.received or 0, due]))
        return int(told[:, 0].max()) or None, bool(told[0, 1])

    def _traced(self, steps: range) -> AbstractContextManager:
        """A context that is traced where some of these steps are to be."""
        if range(max(steps.start, self.profiled.start), min(steps.stop, self.profiled.stop)):
            return jax.profiler.trace(self.folder / "profile")
        return nullcontext()


def _look_for_fault(run: Callable, *args: PyTree) -> None:
    """Raise FloatingPointError at the first operation whose result is NaN or, if there is none,
    infinite."""
    for watch in (jax.debug_nans, jax.debug_infs):
        with jax.disable_jit(), watch(True):
            run(*args)
