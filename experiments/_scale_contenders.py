"""The contenders of ``configs/benchmark.py:scale``.

- :func:`on_cores`: networks of the transferability study, on noise: as many on each device of one
  and of several, each a core; and how long their training waits for checkpoints;
- :func:`starting`: the study's command until its first step;
- :func:`growing`: more and more networks on an accelerator.
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from experiments import _interleave
from experiments._interleave import Contender, Slice
from experiments._transferability_contenders import Round, Run, going_on
from experiments.transferability import make_rule
from jaxdl.nn.models import MODELS
from jaxdl.supervised import classification_loss
from jaxdl.train.loop import Clock, StopFlag, Trainer
from jaxdl.train.parallel import make_mesh, replicate
from jaxdl.train.population import member_key, population_of, train_resident
from jaxdl.train.state import create_state, make_step
from jaxdl.types import Batch

COLD, WARM, BUSY, ABOUT = "cold", "warm", "cores at work", "about"
SAVED, UNSAVED = "with saves", "without saves"
"""What contenders are asked."""
IMAGES, CLASSES = (512, 20, 20, 1), 24  # of the study's glyphs, and of a half of their classes
COMMAND = (
    *(sys.executable, "-m", "experiments.transferability", "--config=configs/transferability.py"),
    # So that lines are written after the first steps: else 200 steps, and an evaluation, come
    # before. A scan of one step would be another program: XLA unrolls it.
    *("--config.steps_per_dispatch=2", "--config.dispatches_per_evaluation=400"),
)


class Population(NamedTuple):
    """Networks, and what trains them."""

    run: Run
    start: Callable[[], Round]
    data: Batch


def network(of: ConfigDict, axis: str | None) -> tuple[Callable, Callable]:
    """A fresh state of the study's network, by its key, and its step."""
    model, rule = MODELS[of.model](CLASSES, axis_name=axis), make_rule(of)

    def init(key: jax.Array):
        variables = {"batch_stats": {}, **model.init(key, np.zeros((1, *IMAGES[1:]), np.float32))}
        return create_state(variables, rule)

    return jax.jit(init), make_step(classification_loss(model), rule, axis)


def make_population(of: ConfigDict, devices: int, members: int, steps: int) -> Population:
    """So many networks on the first devices. On noise: the time does not depend on images."""
    mesh, (init, step) = make_mesh(devices=jax.devices()[:devices]), network(of, "data")
    rng = np.random.default_rng(0)
    images, labels = rng.normal(size=IMAGES).astype(np.float32), np.arange(IMAGES[0]) % CLASSES
    every = {"examples": np.arange(IMAGES[0]), "count": np.int32(IMAGES[0])}
    keys = [member_key("scale", i) for i in range(members)]
    inits = [jax.device_get(init(key)) for key in keys]

    def start() -> Round:
        hypers = [{"key": key} | every for key in keys]
        return population_of(inits, members, mesh), population_of(hypers, members, mesh)

    run = train_resident(step, lambda stored, *_: stored, mesh, steps=steps, batch=of.batch)
    return Population(run, start, replicate({"image": images, "label": labels}, mesh))


def training(of: ConfigDict, devices: int, members: int, steps: int) -> Slice:
    """Of a population, further each time."""
    each = make_population(of, devices, members, steps)
    return Slice(members, steps, going_on(each.run, [each.start()], each.data))


def on_cores(scratch: Path, config: ConfigDict) -> Contender:
    """Populations on one device and on all; training with and without saves on all."""
    of, networks = config.scale, config.scale.devices * config.scale.members
    slices = {name(k): training(of.study, k, k * of.members, of.steps) for k in (1, of.devices)}
    steps, compiled = of.study.steps_per_dispatch, {}
    each = make_population(of.study, of.devices, networks, steps)

    def fit(dispatches: int, seconds_between_saves: float) -> Fitted:
        """From the start, by the loop that the studies have, in a folder that is thrown away."""
        clock, waited = Clock(), []

        def progress(*_) -> None:  # is told of each dispatch, before the save that may follow it
            waited.append(clock.saving)

        with TemporaryDirectory(dir=scratch) as folder:
            at = Path(folder), StopFlag(), progress, seconds_between_saves
            Trainer(*at, clock=clock, compiled=compiled).fit(
                "networks",
                each.run,
                *each.start(),
                lambda _: (each.data for _ in count()),
                networks=[{"network": i} for i in range(networks)],
                steps=dispatches * steps,
                steps_per_dispatch=steps,
                watch=lambda _: {},
            )
        waits, before = [wait for wait in np.diff(waited).tolist() if wait > 0], waited[-1]
        return Fitted(networks, clock.training + before, clock.steps, waits, clock.saving - before)

    in_interval = of.seconds_between_saves / (fit(2, math.inf).training / 2)  # and it is compiled
    dispatches = math.ceil(of.saves * (in_interval + 1)) + 1
    return Contender(
        slices,
        {
            BUSY: lambda: {kind: busy(piece.run) for kind, piece in slices.items()},
            SAVED: partial(fit, dispatches, of.seconds_between_saves),
            UNSAVED: partial(fit, dispatches, math.inf),
        },
    )


def name(devices: int) -> str:
    """Of the work of so many devices."""
    return "1 device" if devices == 1 else f"{devices} devices"


def busy(run: Callable[[], object]) -> float:
    """How many cores this process keeps busy meanwhile."""
    began = time.process_time()
    seconds = _interleave.seconds(run)
    return (time.process_time() - began) / seconds


class Fitted(NamedTuple):
    """What a training with checkpoints took."""

    networks: int
    training: float  # seconds until the last step, with what it waited for saves
    steps: int  # of networks, in that time
    waits: list[float]  # seconds, for each save before the last step
    last: float  # and for the one after it, which is waited for until it is written


def starting(scratch: Path, config: ConfigDict) -> Contender:
    """The command with caches of its own, which it finds empty the first time."""
    caches = {"XDG_CACHE_HOME": "user", "JAX_COMPILATION_CACHE_DIR": "programs"}
    scratch = scratch.resolve()  # the command runs elsewhere
    environment = {variable: str(scratch / folder) for variable, folder in caches.items()}
    # On the CPU as the rest; and a contender of ours may hold the accelerator's memory.
    begin = partial(first_line, COMMAND, scratch, environment | {"JAX_PLATFORMS": "cpu"})
    return Contender({}, {COLD: begin, WARM: begin})


def first_line(command: Sequence[str], scratch: Path, environment: Mapping[str, str]) -> float:
    """Seconds until a study has written the first lines of its curves; then it is interrupted.

    Raises:
      RuntimeError: if it ends before.
    """
    with TemporaryDirectory(dir=scratch) as folder, open(Path(folder, "errors"), "w+b") as errors:
        curves, began = Path(folder, "workdir", "metrics.jsonl"), time.perf_counter()
        process = subprocess.Popen(
            [*command, f"--workdir={curves.parent}"],
            cwd=Path(__file__).parents[1],
            env=os.environ | environment,
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )
        while not (curves.exists() and curves.stat().st_size):
            if process.poll() is not None:
                errors.seek(0)
                raise RuntimeError(
                    f"no step was made: {errors.read()[-2000:].decode(errors='replace')}"
                )
            time.sleep(0.005)
        seconds = time.perf_counter() - began
        process.send_signal(signal.SIGINT)
        process.wait()
        return seconds


def growing(config: ConfigDict) -> Contender:
    """Populations of several sizes on one device."""
    of = config.scale
    slices = {
        str(members): training(of.study, 1, members, of.accelerator_steps)
        for members in of.accelerator_members
    }
    return Contender(slices, {ABOUT: lambda: (jax.devices()[0].device_kind, step_flops(of.study))})


def step_flops(of: ConfigDict) -> float:
    """Floating-point operations of a step of one network, as XLA counts them.

    Before it compiles the step, since a GPU's program calls a library for its convolutions, and
    without the scan, of which XLA counts one turn or all. On a CPU the compiled step has 2% more.
    """
    init, step = network(of, None)
    images = jax.ShapeDtypeStruct((of.batch, *IMAGES[1:]), np.float32)
    batch = {"image": images, "label": jax.ShapeDtypeStruct((of.batch,), np.int32)}
    key = jax.random.key(0)
    lowered = jax.jit(step).lower(jax.eval_shape(init, key), batch, {"key": key})
    return lowered.cost_analysis()["flops"]
