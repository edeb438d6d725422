"""The loop around the compiled step: dispatches, curves, checkpoints, a stop that loses nothing."""

from __future__ import annotations

import dataclasses
import signal
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from types import FrameType
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from jaxdl.train import logs
from jaxdl.train.checkpoint import Checkpoints
from jaxdl.train.population import first_non_finite
from jaxdl.train.state import TrainState
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


@dataclasses.dataclass(frozen=True)
class Workplace:
    """Where populations are trained, one after the other."""

    folder: Path
    """Gets ``metrics.jsonl`` and ``checkpoints/``."""
    stop: StopFlag
    progress: Callable[[str, int], None]
    """Told the population's name and the steps of networks done since it was last called."""
    seconds_between_saves: float

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
        dispatches_per_evaluation: int = 1,
    ) -> TrainState:
        """Train a population to step ``steps``, from its latest checkpoint if it has one.

        After every dispatch a line for each network goes to the curves: its name, the step, the
        metrics' means since the line before, and ``diverged_at``, the step, if its loss was NaN or
        infinite; after every so many dispatches and at the end also what ``watch`` says.

        Args:
          name: of the population: its checkpoints' folder, and its mark in the curves.
          run: ``run(states, hypers, data) -> (states, metrics)``, which consumes ``states``; the
            ``program`` of a :class:`jaxdl.train.feed.Feed`.
          feed: from the step to begin with to the ``data`` of each dispatch, one after the other.
          networks: how each network is named in the curves, in the order of members (and,
            where a member is several networks, of those within it); the members that only
            fill up the population come after them and are not named.

        Raises:
          ValueError: if the dispatches do not divide the steps.
          DamagedFile: if a checkpoint cannot be read, or the curves do not reach up to it.
          Interrupted: after saving, when the stop flag was set.
        """
        if steps % steps_per_dispatch:
            raise ValueError(f"{steps} steps are not a multiple of {steps_per_dispatch} a dispatch")

        def by_network(values: Float[np.ndarray, "m ..."]) -> list[float]:
            return np.asarray(values).reshape(-1)[: len(networks)].tolist()

        with Checkpoints(self.folder / "checkpoints" / name) as checkpoints, ExitStack() as open_:
            states, first = checkpoints.restore(states)
            # The log may be ahead of the checkpoint, never behind it: it is written first.
            kept = logs.rewind(
                self.curves, lambda r: r.get("population") != name or r["step"] <= first
            )
            lines = sum(record.get("population") == name for record in kept)
            if lines != first // steps_per_dispatch * len(networks):
                raise DamagedFile(
                    f"{self.curves} lacks lines of {name} before its checkpoint at step {first}: "
                    f"delete {self.folder / 'checkpoints' / name} to train these networks again"
                )
            self.progress(name, first * len(networks))
            if self.stop.received is not None:  # while something else was computed
                raise Interrupted(self.stop.received)
            saved, items = time.monotonic(), open_.enter_context(closing(feed(first)))
            data = next(items) if first < steps else None
            for step in range(first + steps_per_dispatch, steps + 1, steps_per_dispatch):
                states, metrics = run(states, hypers, data)
                if step < steps:
                    data = next(items)  # read while the devices are at work
                metrics = jax.device_get(metrics)
                columns = {key: np.mean(value, axis=1) for key, value in metrics.items()}
                if step // steps_per_dispatch % dispatches_per_evaluation == 0 or step == steps:
                    columns |= watch(states)
                columns = {key: by_network(value) for key, value in columns.items()}
                diverged = by_network(first_non_finite(metrics, step - steps_per_dispatch))
                logs.append(
                    self.curves,
                    [
                        {"population": name, **network, "step": step}
                        | {key: values[i] for key, values in columns.items()}
                        | ({"diverged_at": diverged[i]} if diverged[i] >= 0 else {})
                        for i, network in enumerate(networks)
                    ],
                )
                self.progress(name, steps_per_dispatch * len(networks))
                due = time.monotonic() - saved > self.seconds_between_saves
                if step == steps or due or self.stop.received is not None:
                    checkpoints.save(step, states)
                    saved = time.monotonic()
                if self.stop.received is not None:
                    checkpoints.wait()
                    raise Interrupted(self.stop.received)
        return states
