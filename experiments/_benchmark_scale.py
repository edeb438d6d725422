"""``configs/benchmark.py:scale``: what more devices give, what checkpoints and the start cost.

- :func:`on_cores`: networks of the transferability study, on noise: as many on each device of one
  and of several, each a core; and how long their training waits for checkpoints;
- :func:`starting`: the study's command until its first step;
- :func:`growing`: more and more networks on an accelerator.
"""

from __future__ import annotations

import math
import operator
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from fnmatch import fnmatchcase
from functools import partial
from itertools import count
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from experiments import _interleave, _run
from experiments._benchmark_dann import spread
from experiments._benchmark_transferability import paragraph
from experiments._interleave import (
    MILLI,
    Contender,
    Row,
    Setup,
    Slice,
    Worker,
    format_ratio,
    series,
)
from experiments._transferability_contenders import Round, Run, going_on
from experiments._transferability_setup import check as check_study
from experiments._transferability_setup import make_rule
from jaxdl import transfer
from jaxdl.data.encoded import cores
from jaxdl.nn.models import MODELS
from jaxdl.report import figures
from jaxdl.report.tables import MISSING, markdown_table
from jaxdl.train.loop import Clock, StopFlag, Workplace
from jaxdl.train.parallel import make_mesh, replicate
from jaxdl.train.population import member_key, population_of, train_resident
from jaxdl.train.state import create_state, make_step
from jaxdl.types import Batch

CORES, START, FAST = "networks on cores", "start", "accelerator"
SAVED, UNSAVED, SAVE, LAST = "with saves", "without saves", "a save", "the save at the end"
COLD, WARM, BUSY, ABOUT = "cold", "warm", "cores at work", "about"
RUNS = 5  # kinds of rows in a round, beside slices
HOLDS = {"at least": operator.ge, "less than": operator.lt, "at most": operator.le}
SCALING, WAITING, SECONDS = 1.7, 2.0, 8.0  # goals; of waiting, in per cent
IMAGES, CLASSES = (512, 20, 20, 1), 24  # of the study's glyphs, and of a half of their classes
PEAKS = {
    "NVIDIA H200": (494.7e12, 989.4e12),
    "NVIDIA H100 80GB HBM3": (494.7e12, 989.4e12),
    "NVIDIA A100*": (156e12, 312e12),
}
"""FLOP/s in TF32 and in bf16, dense, by JAX's `device_kind`: NVIDIA's H100 white paper (SXM5; the
data sheet of the H200 SXM has the same) and A100 data sheet."""
COMMAND = (
    *(sys.executable, "-m", "experiments.transferability", "--config=configs/transferability.py"),
    # So that lines are written after the first steps: else 200 steps, and an evaluation, come
    # before. A scan of one step would be another program: XLA unrolls it.
    *("--config.steps_per_dispatch=2", "--config.dispatches_per_evaluation=400"),
)


def check(config: ConfigDict) -> None:
    """Raise ValueError where the benchmark cannot be made."""
    of = config.scale
    _run.check_counts(of, "devices", "members", "steps", "saves", "accelerator_steps")
    if not 2 <= of.devices <= cores():
        raise ValueError(f"config.scale.devices={of.devices}: each is a core, of {cores()} here")
    if of.seconds_between_saves <= 0 or min(of.accelerator_members, default=1) < 1:
        raise ValueError("config.scale: seconds_between_saves and members must be more than 0")
    check_study(of.study)


def setups(config: ConfigDict, scratch: Path) -> dict[str, Setup]:
    """The contenders by name; that of an accelerator where there is one."""
    devices = config.scale.devices
    found = {
        CORES: Setup(partial(on_cores, scratch), devices, questions=(BUSY,)),
        START: Setup(partial(starting, scratch), 1, questions=(COLD,)),
    }
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:  # this process is to hold no GPU
        if pool.submit(backend).result() != "cpu":
            found[FAST] = Setup(growing, 1, questions=(ABOUT,), platform=None)
    return found


def backend() -> str:
    """The platform that JAX chooses."""
    return jax.default_backend()


def one_round(workers: Mapping[str, Worker], number: int) -> Iterator[Row]:
    """Slices, training with saves and without, in turns, and a start; ``ms_per_network_step`` of a
    save and of a start are its milliseconds."""
    yield from _interleave.one_round(workers, number)
    for kind in (SAVED, UNSAVED) if number % 2 else (UNSAVED, SAVED):
        found = workers[CORES].ask(kind)
        waits = [(SAVE, wait) for wait in found.waits]
        if kind == UNSAVED:  # with saves it may have to wait for the one before
            waits.append((LAST, found.last))
        for what, seconds in [(kind, found.training / found.steps), *waits]:
            yield Row(CORES, what, found.networks, MILLI * seconds, number)
    yield Row(START, WARM, 1, MILLI * workers[START].ask(WARM), number)


# --- contenders --------------------------------------------------------------------------------


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
        return create_state(variables["params"], variables["batch_stats"], rule)

    return jax.jit(init), make_step(transfer.classification_loss(model), lambda _: rule, axis)


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
            Workplace(*at, clock=clock, compiled=compiled).fit(
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
                raise RuntimeError(f"no step was made: {errors.read()[-2000:].decode()}")
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


# --- the report --------------------------------------------------------------------------------


def sections(
    config: ConfigDict,
    rows: Sequence[Row],
    answers: Mapping[str, Mapping[str, Any]],
    first_seconds: Mapping[str, Mapping[str, float]],
) -> str:
    """What the report says; see :func:`experiments._benchmark_transferability.sections`."""
    of, kinds = config.scale, (name(1), name(config.scale.devices))
    ms = {kind: series(rows, CORES, {kind: 1.0}) for kind in (*kinds, SAVED, UNSAVED)}
    at_work = {kind: f"{number:.2f}" for kind, number in answers[CORES][BUSY].items()}
    one = ms[kinds[0]]
    scaling = [[k, spread(MILLI / ms[k]), format_ratio(one, ms[k]), at_work[k]] for k in kinds]
    trained = [[k, spread(ms[k]), format_ratio(ms[k], ms[UNSAVED])] for k in (UNSAVED, SAVED)]
    waits = [[kind, spread(values(rows, kind)), MISSING] for kind in (SAVE, LAST)]
    text = [
        "## Goals",
        markdown_table(["", "goal", "figure", ""], goals(config, rows)),
        "## Networks on cores",
        markdown_table(["", "steps/s", "times one device's", BUSY], scaling),
        paragraph(f"""Steps of networks a second, {of.steps} a round and network, {of.members}
            networks on each device: one process has {of.devices} devices, and trains on a mesh of
            one of them and on one of all. {of.study.model} on noise, batch {of.study.batch}, the
            study's rule. {BUSY.capitalize()}: processor time over time, in one call; where one
            device keeps more than one busy, it has a part of what others would add. Medians of
            {config.rounds} rounds (least–most), also below."""),
        "## Checkpoints",
        markdown_table(["", "ms", "times without"], trained + waits),
        paragraph(f"""A step of a network in training {of.devices * of.members} on {kinds[1]}, by
            the studies' loop, {of.study.steps_per_dispatch} steps a dispatch; and what training
            waits for each of {len(values(rows, SAVE))} asynchronous saves, at least
            {of.seconds_between_saves:g} s apart, and for a population's last, which is waited for
            until it is written and is in neither training. The goal's share is a save's of the
            study's interval, {of.study.seconds_between_saves:g} s."""),
        "## Start",
        paragraph(f"""From the start of `python {" ".join(COMMAND[1:])}` until `metrics.jsonl` has
            lines, which is after the first two steps of the first population, all that comes before
            included: {answers[START][COLD]:.1f} s with empty caches, once, and
            {spread(values(rows, WARM) / MILLI)} s with what that run left in them. These are the
            default study's networks and data; it would write its first lines after 200 steps. On
            the CPU."""),
        "## Accelerator",
        *(accelerator(config, rows, *answers[FAST][ABOUT]) if FAST in answers else (NONE,)),
    ]
    return "\n\n".join(text)


NONE = "JAX found no accelerator here: populations of growing size were not measured on one."


def values(rows: Sequence[Row], kind: str) -> np.ndarray:
    """Milliseconds of every row of a kind, of which a round may have several."""
    return np.array([row.ms_per_network_step for row in rows if row.kind == kind])


def goals(config: ConfigDict, rows: Sequence[Row]) -> list[list[str]]:
    """Whether they are met, by the median."""
    of = config.scale
    one, several = (series(rows, CORES, {name(k): 1.0}) for k in (1, of.devices))
    share = 100 * values(rows, SAVE) / MILLI / of.study.seconds_between_saves
    table = [
        (f"throughput of {name(of.devices)}, times one's", "at least", SCALING, one / several),
        ("% of training that waits for saves", "less than", WAITING, share),
        ("s to the first step, programs cached", "at most", SECONDS, values(rows, WARM) / MILLI),
    ]
    lines = []
    for what, how, limit, found in table:
        middle = np.median(found) if len(found) else np.nan  # no save, on a much slower machine
        met = HOLDS[how](middle, limit)
        figure = spread(found) if len(found) else MISSING
        lines.append([what, f"{how} {limit:g}", figure, "met" if met else "NOT met"])
    return lines


def accelerator(config: ConfigDict, rows: Sequence[Row], kind: str, flops: float) -> list[str]:
    """Throughput by the number of networks."""
    peaks = next((peak for name, peak in PEAKS.items() if fnmatchcase(kind, name)), ())
    sizes, table = config.scale.accelerator_members, []
    fewest = series(rows, FAST, {str(min(sizes)): 1.0})
    for members in sizes:
        ms = series(rows, FAST, {str(members): 1.0})
        speed = MILLI / np.median(ms)
        shares = [f"{speed * flops / peak:.2%}" for peak in peaks] or [MISSING] * 2
        table.append([members, f"{speed:,.0f}", format_ratio(fewest, ms), *shares])
    header = ["networks", "steps/s", f"times {min(sizes)}'s", "of the TF32 peak", "of bf16's"]
    return [
        markdown_table(header, table, left=0),
        paragraph(f"""Steps of networks a second on one {kind}, {config.scale.accelerator_steps} a
            round and network, as in `{FIGURE}`. A step is {flops / 1e6:.1f} million operations, as
            XLA counts them before it compiles. It multiplies float32 in TF32 on a GPU, so that
            peak is the one to compare with; {MISSING} where it is not known here."""),
    ]


FIGURE = "scale.png"


def draw(config: ConfigDict, rows: Sequence[Row], workdir: Path) -> None:
    """The figure of what was measured on an accelerator, if it was."""
    sizes = config.scale.accelerator_members
    if any(row.what == FAST for row in rows):
        speeds = [MILLI / series(rows, FAST, {str(members): 1.0}) for members in sizes]
        lines = [(np.log2(sizes), speed) for speed in np.transpose(speeds)]
        panels = {"steps of networks a second": {"a round; median": lines}}
        label = "binary logarithm of the number of networks"
        figures.curves(panels, workdir / FIGURE, label, logarithmic=True)
