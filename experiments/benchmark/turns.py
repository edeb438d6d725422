"""Contenders timed in turns: each in its own process, one at work at a time, on the same cores.

What XLA is told and how many devices it makes of the cores is fixed when a process starts, and two
frameworks in one process would disturb each other's threads; so each contender is a worker that
waits until it is asked. A round asks every contender for the same kind of work, one right after the
other, so that what slows the machine down slows all of them; a ratio is taken within a round.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing, suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

MILLI = 1e3


class Slice(NamedTuple):
    """A piece of work that can be done again and again: training that continues where it was, or
    the fetching of its batches."""

    networks: int
    steps: int
    """Steps of each network in a call of ``run``."""
    run: Callable[[], object]
    """Returns when the work is done."""
    before: Callable[[], object] = lambda: None
    """Called before each run, and not timed."""


class Contender(NamedTuple):
    """The work and the answers of a worker process."""

    slices: Mapping[str, Slice]
    """Slices by kind of work."""
    answers: Mapping[str, Callable[[], Any]] = {}
    """Answers to other questions, by name."""
    close: Callable[[], object] = lambda: None
    """Ends the processes and threads of the contender."""


class Setup(NamedTuple):
    """The start of a contender: function, devices, platform, questions."""

    make: Callable[[ConfigDict], Contender]
    """A function of a module, called in the worker."""
    devices: int
    """Devices that JAX makes of the cores: one for each, or one whose operations use all."""
    questions: Sequence[str] = ()
    """Questions asked once, before the rounds."""
    platform: str | None = "cpu"
    """JAX's platform; None for its choice, an accelerator if there is one."""


class Row(NamedTuple):
    """A line of ``results.csv``."""

    contender: str
    kind: str  # of work
    networks: int  # that were trained, or fed, for this line
    ms_per_network_step: float  # for a network that is fed: for a batch
    round: int


class Worker:
    """A contender in its own process. Close it, or use it as a context manager."""

    def __init__(self, setup: Setup, config: Any):
        context = get_context("spawn")  # a fork would inherit JAX's threads, dead
        self._pipe, other_end = context.Pipe()
        # Not a daemon: those may have no workers of their own. It ends when the pipe is closed.
        self._process = context.Process(target=_serve, args=(other_end, setup, config))
        self._process.start()
        other_end.close()
        try:
            self.sizes, self.first_seconds = self._receive()
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.close()
        self._process.join()

    def time(self, kind: str) -> float:
        """Have one slice done; milliseconds for a network and step."""
        self._pipe.send(("slice", kind))
        networks, steps = self.sizes[kind]
        return MILLI * self._receive() / networks / steps

    def ask(self, question: str) -> Any:
        """The worker's answer to a question."""
        self._pipe.send(("answer", question))
        return self._receive()

    def _receive(self) -> Any:
        try:
            received = self._pipe.recv()
        except EOFError:
            raise RuntimeError("a worker of the benchmark failed; its error is above") from None
        if isinstance(received, ValueError):
            raise received
        return received


def _serve(pipe: Connection, setup: Setup, config: Any) -> None:
    """The worker's life: prepare, do every slice once so that all is compiled, then obey."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    # So is this, but processes that are started here must not inherit that they ignore it.
    signal.signal(signal.SIGTERM, lambda *_: None)
    if setup.platform is not None:
        jax.config.update("jax_platforms", setup.platform)
    jax.config.update("jax_num_cpu_devices", setup.devices)
    with suppress(EOFError, BrokenPipeError):  # the parent is done, or dead
        try:
            contender = setup.make(config)
        except ValueError as error:  # for the user, not for a traceback
            pipe.send(error)
            return
        with closing(contender):
            first = {kind: seconds(piece.run) for kind, piece in contender.slices.items()}
            pipe.send(({kind: piece[:2] for kind, piece in contender.slices.items()}, first))
            while True:
                request, name = pipe.recv()
                if request == "slice":
                    contender.slices[name].before()
                    pipe.send(seconds(contender.slices[name].run))
                else:
                    pipe.send(contender.answers[name]())


def seconds(run: Callable[[], object]) -> float:
    """The seconds that a call takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def in_new_process(function: Callable[[], Any]) -> Any:
    """The result of a module's function in a new process: this one must not hold a GPU."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(function).result()


def rotated(names: Sequence[str], number: int) -> list[str]:
    """The order of a round, so that no contender is always first."""
    first = number % len(names)
    return [*names[first:], *names[:first]]


def time_slices(workers: Mapping[str, Worker], number: int) -> Iterator[Row]:
    """A round: every kind of work by every contender that does it, the contenders in turns."""
    for kind in dict.fromkeys(kind for worker in workers.values() for kind in worker.sizes):
        for name in rotated(list(workers), number):
            if kind in workers[name].sizes:
                ms = workers[name].time(kind)
                yield Row(name, kind, workers[name].sizes[kind][0], ms, number)


class Measurements(NamedTuple):
    """Configuration, rows and answers, from which a report is made."""

    config: ConfigDict
    rows: Sequence[tuple]
    answers: Mapping[str, Mapping[str, Any]] = {}
    """Answers of each contender to its setup's questions."""
    first_seconds: Mapping[str, Mapping[str, float]] = {}
    """Times of the first calls of each contender's slices."""


class Benchmark(NamedTuple):
    """A benchmark, a variant of the configuration: its contenders, measurement and report."""

    check: Callable[[ConfigDict], None]
    """Raises ValueError where the benchmark cannot be run."""
    setups: Callable[[ConfigDict, Path], Mapping[str, Setup]]
    """Returns setups by name; may write to the folder."""
    sections: Callable[[Measurements], Sequence[str]]
    """Returns sections of the report, below its head."""
    peers: Mapping[str, str] = {}
    """Packages that it compares with, and their names."""
    row: type[tuple] = Row
    """The type of rows, with at least the fields ``contender``, ``kind`` and ``round``."""
    measure: Callable[[Mapping[str, Worker], int], Iterator[tuple]] = time_slices
    """Measures a round."""
    draw: Callable[[Measurements, Path], None] | None = None
    """Draws figures into the work folder."""
