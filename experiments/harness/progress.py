"""Bars on standard error, of the first process alone."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from tqdm import tqdm

from experiments.harness.processes import first_process
from jaxdl.train.interruption import Interrupted, StopFlag
from jaxdl.trees import map_batches
from jaxdl.types import PyTree


@contextmanager
def progress_bar(total: int) -> Iterator[Callable[[str, int], None]]:
    """A bar that a trainer's progress moves; ``total`` are the steps of all networks."""
    style = {"unit": "step", "unit_scale": True, "mininterval": 0.5}
    with tqdm(total=total, disable=not (total and first_process()), **style) as bar:
        started = set()

        def progress(name: str, steps: int) -> None:
            begins = name not in started and steps == 0  # compiling shows no progress
            bar.set_description(f"{name}{': compiling, first steps' * begins}", refresh=begins)
            if name not in started and not bar.disable:
                started.add(name)
                bar.initial += steps  # steps of an earlier run do not count for the rate
            bar.update(steps)

        yield progress


def map_with_bar(
    stop: StopFlag, size: int, name: str, function: Callable[..., PyTree], *arrays: np.ndarray
) -> PyTree:
    """:func:`jaxdl.trees.map_batches` with a bar; raises Interrupted once the flag is set."""
    total = len(arrays[0])
    with tqdm(desc=name, total=total, unit=" images", disable=not first_process()) as bar:

        def progress(rows: int) -> None:
            bar.update(rows)
            if stop.received is not None:
                raise Interrupted(stop.received)

        return map_batches(size, function, *arrays, progress=progress)
