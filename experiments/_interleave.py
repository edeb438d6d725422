"""Contenders timed in turns: each in its own process, one at work at a time, on the same cores.

What XLA is told and how many devices it makes of the cores is fixed when a process starts, and two
frameworks in one process would disturb each other's threads; so each contender is a worker that
waits until it is asked. A round asks every contender for the same kind of work, one right after the
other, so that what slows the machine down slows all of them; a ratio is taken within a round.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import jax
import numpy as np

MILLI = 1e3


class Slice(NamedTuple):
    """A piece of work that can be done again and again: training that goes on where it was, or
    the fetching of its batches."""

    networks: int
    steps: int
    run: Callable[[], object]
    """Takes every network so many steps further and returns when it is done."""
    before: Callable[[], object] = lambda: None
    """Is called before each run, and not timed."""


class Contender(NamedTuple):
    """What a worker can do."""

    slices: Mapping[str, Slice]
    """By kind of network."""
    answers: Mapping[str, Callable[[], Any]] = {}
    """Other things that can be asked of it, by name."""
    close: Callable[[], object] = lambda: None
    """Ends what it started."""


class Setup(NamedTuple):
    """How a contender is started."""

    make: Callable[..., Contender]
    """Called in the worker with the configuration; a module's function, to be found there."""
    devices: int
    """Devices that JAX makes of the cores: one for each, or one whose operations use all."""
    questions: Sequence[str] = ()
    """What is asked of it once, before the rounds."""
    platform: str | None = "cpu"
    """That JAX computes on; None for the one it chooses, an accelerator where there is one."""


class Row(NamedTuple):
    """What a line of ``results.csv`` says."""

    what: str  # the contender
    kind: str  # of networks
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
        """Its answer to a question."""
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
    """How long a call takes."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def one_round(workers: Mapping[str, Worker], number: int) -> Iterator[Row]:
    """Every kind of work by every contender that knows it, the contenders taking turns."""
    kinds = list(dict.fromkeys(kind for worker in workers.values() for kind in worker.sizes))
    names = list(workers)
    names = names[number % len(names) :] + names[: number % len(names)]  # no one is always first
    for kind in kinds:
        for what in names:
            if kind in workers[what].sizes:
                ms = workers[what].time(kind)
                yield Row(what, kind, workers[what].sizes[kind][0], ms, number)


def series(rows: Iterable[Row], what: str, weights: Mapping[str, float]) -> np.ndarray:
    """For each round the sum over kinds of weight times milliseconds for a network and step."""
    rounds: dict[int, float] = {}
    for row in rows:
        if row.what == what and row.kind in weights:
            rounds.setdefault(row.round, 0.0)
            rounds[row.round] += weights[row.kind] * row.ms_per_network_step
    return np.array([rounds[number] for number in sorted(rounds)])


def format_ratio(times: np.ndarray, reference: np.ndarray) -> str:
    """The median, and from least to most, of ``times / reference`` round by round."""
    ratios = times / reference
    return f"{np.median(ratios):.2f} ({ratios.min():.2f}–{ratios.max():.2f})"
