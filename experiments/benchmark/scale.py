"""``configs/benchmark.py:scale``: what more devices give, what checkpoints and the start cost.

The networks are those of the transferability study, on noise; nothing is compared but ours.
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from experiments.benchmark import turns
from experiments.benchmark.populations import Noise, train_on_noise
from experiments.benchmark.summaries import paragraph, series, spread, verdict
from experiments.benchmark.turns import MILLI, Contender, Measurements, Row, Setup, Worker
from experiments.harness.settings import Between, Count, OneOf, TupleOf
from experiments.harness.settings import check as check_settings
from experiments.transferability import SETTINGS, make_rule
from jaxdl.data.encoded import cores
from jaxdl.nn.models import MODELS
from jaxdl.report import figures
from jaxdl.report.tables import MISSING, bullets, markdown_table
from jaxdl.supervised import classification_loss
from jaxdl.train.interruption import StopFlag
from jaxdl.train.loop import Clock, Trainer
from jaxdl.train.parallel import make_placement
from jaxdl.train.state import make_step

CORES, START, FAST = "networks on cores", "start", "accelerator"
SAVE, LAST = "a save", "the save at the end"
COLD, WARM, BUSY, ABOUT = "cold", "warm", "cores at work", "about"
SAVED, UNSAVED = "with saves", "without saves"
"""Questions to contenders."""
SCALING, WAITING, SECONDS = 1.7, 2.0, 4.0  # goals; of waiting, in per cent
IMAGE, CLASSES = (20, 20, 1), 24  # of the study's glyphs, and of a half of their classes
COMMAND = (
    *(sys.executable, "-m", "experiments.transferability", "--config=configs/transferability.py"),
    # So that lines are written after the first steps: else 50 come before. A scan of one step would
    # be another program: XLA unrolls it.
    *("--config.steps_per_dispatch=2", "--config.dispatches_per_evaluation=225"),
)
KINDS = {
    **dict.fromkeys(("scale.devices", "scale.members", "scale.steps", "scale.saves"), Count()),
    "scale.seconds_between_saves": Between(0, above=True),
    "scale.accelerator_members": TupleOf(Count(), "(1, 2, 4)"),
    "scale.accelerator_steps": Count(),
}
PEAKS = {
    "NVIDIA H200": (494.7e12, 989.4e12),
    "NVIDIA H100 80GB HBM3": (494.7e12, 989.4e12),
    "NVIDIA A100*": (156e12, 312e12),
}
"""FLOP/s in TF32 and in bf16, dense, by JAX's `device_kind`: NVIDIA's H100 white paper (SXM5; the
data sheet of the H200 SXM has the same) and A100 data sheet."""


def check(config: ConfigDict) -> None:
    """Raise ValueError where the benchmark cannot be made."""
    check_settings(config, KINDS)
    devices, study = config.scale.devices, config.scale.study
    if not 2 <= devices <= cores():
        raise ValueError(f"config.scale.devices={devices}: each is a core, of {cores()} here")
    check_settings(study, {**SETTINGS.kinds, "model": OneOf(tuple(MODELS))})
    make_rule(study)


def setups(config: ConfigDict, scratch: Path) -> dict[str, Setup]:
    """The contenders by name; that of an accelerator where there is one."""
    devices = config.scale.devices
    setups = {
        CORES: Setup(partial(make_cores, scratch), devices, questions=(BUSY,)),
        START: Setup(partial(make_start, scratch), 1, questions=(COLD,)),
    }
    if turns.in_new_process(jax.default_backend) != "cpu":
        setups[FAST] = Setup(make_accelerator, 1, questions=(ABOUT,), platform=None)
    return setups


# --- the contenders ----------------------------------------------------------------------------


def make_noise(study: ConfigDict, devices: int, members: int, steps: int) -> Noise:
    """A population of networks of the study, on noise, on the first devices."""
    placement = make_placement(devices=jax.devices()[:devices])
    model = MODELS[study.model](CLASSES, axis_name="data")
    sizes = {"members": members, "steps": steps, "batch": study.batch}
    return train_on_noise(model, make_rule(study), IMAGE, placement, **sizes)


def device_name(devices: int) -> str:
    """The name of the work on a number of devices."""
    return "1 device" if devices == 1 else f"{devices} devices"


class Fitted(NamedTuple):
    """Times of a training with checkpoints."""

    networks: int
    training: float  # seconds until the last step, with what it waited for saves
    steps: int  # of networks, in that time
    waits: list[float]  # seconds, for each save before the last step
    last: float  # and for the one after it, which is waited for until it is written


def make_cores(scratch: Path, config: ConfigDict) -> Contender:
    """The same number of networks a device on one device and on all, each a core; and the time that
    the training on all waits for checkpoints."""
    scale, study = config.scale, config.scale.study
    slices = {
        device_name(n): make_noise(study, n, n * scale.members, scale.steps).slice()
        for n in (1, scale.devices)
    }
    networks, steps, compiled = scale.devices * scale.members, study.steps_per_dispatch, {}
    noise = make_noise(study, scale.devices, networks, steps)

    def fit(dispatches: int, seconds_between_saves: float) -> Fitted:
        """Train from the start by the studies' loop, in a temporary folder."""
        clock, waited = Clock(), []

        def progress(*_) -> None:  # is called after each dispatch, before a save that may follow
            waited.append(clock.saving)

        with TemporaryDirectory(dir=scratch) as folder:
            options = {"clock": clock, "compiled": compiled}
            trainer = Trainer(Path(folder), StopFlag(), progress, seconds_between_saves, **options)
            trainer.fit(
                "networks",
                noise.training,
                *noise.start(),
                lambda _: (noise.data for _ in count()),
                networks=[{"network": i} for i in range(networks)],
                steps=dispatches * steps,
                steps_per_dispatch=steps,
                watch=lambda _: {},
            )
        waits, last = [wait for wait in np.diff(waited).tolist() if wait > 0], waited[-1]
        return Fitted(networks, clock.training + last, clock.steps, waits, clock.saving - last)

    in_interval = scale.seconds_between_saves / (fit(2, math.inf).training / 2)  # and it compiles
    dispatches = math.ceil(scale.saves * (in_interval + 1)) + 1
    answers = {
        BUSY: lambda: {kind: busy_cores(piece.run) for kind, piece in slices.items()},
        SAVED: partial(fit, dispatches, scale.seconds_between_saves),
        UNSAVED: partial(fit, dispatches, math.inf),
    }
    return Contender(slices, answers)


def busy_cores(run: Callable[[], object]) -> float:
    """The mean number of cores that this process uses during a run."""
    start = time.process_time()
    duration = turns.seconds(run)
    return (time.process_time() - start) / duration


def make_start(scratch: Path, config: ConfigDict) -> Contender:
    """The study's command until its first step, with caches that are empty the first time."""
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
        curves, start = Path(folder, "workdir", "metrics.jsonl"), time.perf_counter()
        process = subprocess.Popen(
            [*command, f"--workdir={curves.parent}"],
            cwd=Path(__file__).parents[2],
            env=os.environ | environment,
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )
        while not (curves.exists() and curves.stat().st_size):
            if process.poll() is not None:
                errors.seek(0)
                reason = errors.read()[-2000:].decode(errors="replace")
                raise RuntimeError(f"no step was made: {reason}")
            time.sleep(0.005)
        duration = time.perf_counter() - start
        process.send_signal(signal.SIGINT)
        process.wait()
        return duration


def make_accelerator(config: ConfigDict) -> Contender:
    """Populations of several sizes on one device."""
    scale = config.scale
    slices = {
        str(members): make_noise(scale.study, 1, members, scale.accelerator_steps).slice()
        for members in scale.accelerator_members
    }
    answers = {ABOUT: lambda: (jax.devices()[0].device_kind, step_flops(scale.study))}
    return Contender(slices, answers)


def step_flops(study: ConfigDict) -> float:
    """Floating-point operations of a step of one network, as XLA counts them.

    Before it compiles the step, since a GPU's program calls a library for its convolutions, and
    without the scan, of which XLA counts one turn or all. On a CPU the compiled step has 2% more.
    """
    model, rule = MODELS[study.model](CLASSES), make_rule(study)
    (state,) = make_noise(study, 1, 1, 1).states
    images, labels = np.zeros((study.batch, *IMAGE), np.float32), np.zeros(study.batch, np.int32)
    step, hyper = make_step(classification_loss(model), rule), {"key": jax.random.key(0)}
    lowered = jax.jit(step).lower(state, {"image": images, "label": labels}, hyper)
    return lowered.cost_analysis()["flops"]


def measure(workers: Mapping[str, Worker], number: int) -> Iterator[Row]:
    """A round: slices, training with saves and without, in turns, and a start;
    ``ms_per_network_step`` of a save and of a start are its milliseconds."""
    yield from turns.time_slices(workers, number)
    for kind in (SAVED, UNSAVED) if number % 2 else (UNSAVED, SAVED):
        fitted = workers[CORES].ask(kind)
        waits = [(SAVE, wait) for wait in fitted.waits]
        if kind == UNSAVED:  # with saves it may have to wait for the one before
            waits.append((LAST, fitted.last))
        for event, duration in [(kind, fitted.training / fitted.steps), *waits]:
            yield Row(CORES, event, fitted.networks, MILLI * duration, number)
    yield Row(START, WARM, 1, MILLI * workers[START].ask(WARM), number)


# --- the report --------------------------------------------------------------------------------


def sections(measurements: Measurements) -> list[str]:
    """The report, below its head."""
    config, rows, answers, _ = measurements
    scale, study, kinds = config.scale, config.scale.study, answers[CORES][BUSY]
    ms = {kind: series(rows, CORES, kind) for kind in (*kinds, SAVED, UNSAVED)}
    single = ms[device_name(1)]
    scaling = [
        [kind, spread(MILLI / ms[kind]), spread(single / ms[kind]), f"{at_work:.2f}"]
        for kind, at_work in kinds.items()
    ]
    trained = [[k, spread(ms[k]), spread(ms[k] / ms[UNSAVED])] for k in (UNSAVED, SAVED)]
    waits = [[kind, spread(values(rows, kind)), MISSING] for kind in (SAVE, LAST)]
    return [
        "## Goals",
        bullets(goals(config, rows)),
        "## Networks on cores",
        markdown_table(["", "steps/s", "times one device's", BUSY], scaling),
        paragraph(f"""Steps of networks a second, {scale.steps} a round and network, {scale.members}
            networks on each device of a mesh in one process. {study.model} on noise, batch
            {study.batch}, the study's rule. {BUSY.capitalize()}: processor time over time, in one
            call; where one device keeps more than one busy, it has a part of what others would add.
            Medians of {config.rounds} rounds (least–most), also below."""),
        "## Checkpoints",
        markdown_table(["", "ms", "times without"], trained + waits),
        paragraph(f"""A step of a network in training {scale.devices * scale.members} on
            {device_name(scale.devices)}, by the studies' loop, {study.steps_per_dispatch} steps a
            dispatch; and what training waits for each of {len(values(rows, SAVE))} asynchronous
            saves, at least {scale.seconds_between_saves:g} s apart, and for a population's last,
            which is in neither training, until it is written. The goal is on a save's share of the
            study's interval, {study.seconds_between_saves:g} s."""),
        "## Start",
        paragraph(f"""On the CPU, from the start of `python {" ".join(COMMAND[1:])}` until
            `metrics.jsonl` has lines, after two steps of the first population (after
            {study.steps_per_dispatch} in the default study): {answers[START][COLD]:.1f} s with
            empty caches, once, and {spread(values(rows, WARM) / MILLI)} s with what that left."""),
        "## Accelerator",
        *(describe_accelerator(config, rows, *answers[FAST][ABOUT]) if FAST in answers else [NONE]),
    ]


NONE = "JAX found no accelerator here: populations of growing size were not measured on one."


def values(rows: Sequence[Row], kind: str) -> np.ndarray:
    """Milliseconds of every row of a kind, of which a round may have several."""
    return np.array([row.ms_per_network_step for row in rows if row.kind == kind])


def goals(config: ConfigDict, rows: Sequence[Row]) -> list[str]:
    """Verdicts on the goals, by the median."""
    name, waits = device_name(config.scale.devices), values(rows, SAVE)
    speedup = series(rows, CORES, device_name(1)) / series(rows, CORES, name)
    share = 100 * waits / MILLI / config.scale.study.seconds_between_saves
    start = values(rows, WARM) / MILLI
    scales, starts = np.median(speedup) >= SCALING, np.median(start) <= SECONDS
    saves = len(share) and np.median(share) < WAITING  # on a much slower machine there is none
    return [
        verdict(f"throughput of {name}: at least {SCALING:g} times one's", scales, spread(speedup)),
        verdict(f"% of training that waits for saves: below {WAITING:g}", saves, spread(share)),
        verdict(
            f"s to the first step, programs cached: at most {SECONDS:g}", starts, spread(start)
        ),
    ]


def describe_accelerator(
    config: ConfigDict, rows: Sequence[Row], kind: str, flops: float
) -> list[str]:
    """Throughput by the number of networks."""
    peaks = next((peak for name, peak in PEAKS.items() if fnmatchcase(kind, name)), ())
    sizes, table = config.scale.accelerator_members, []
    fewest = series(rows, FAST, str(min(sizes)))
    for members in sizes:
        ms = series(rows, FAST, str(members))
        speed = MILLI / np.median(ms)
        shares = [f"{speed * flops / peak:.2%}" for peak in peaks] or [MISSING] * 2
        table.append([members, f"{speed:,.0f}", spread(fewest / ms), *shares])
    header = ["networks", "steps/s", f"times {min(sizes)}'s", "of the TF32 peak", "of bf16's"]
    return [
        markdown_table(header, table, left=0),
        paragraph(f"""Steps of networks a second on one {kind}, {config.scale.accelerator_steps} a
            round and network, as in `{FIGURE}`. A step is {flops / 1e6:.1f} million operations, as
            XLA counts them before it compiles. It multiplies float32 in TF32 on a GPU, so that
            peak is the one to compare with; {MISSING} where it is not known here."""),
    ]


FIGURE = "scale.png"


def draw(measurements: Measurements, workdir: Path) -> None:
    """The figure of what was measured on an accelerator, if it was."""
    sizes, rows = measurements.config.scale.accelerator_members, measurements.rows
    if any(row.contender == FAST for row in rows):
        speeds = [MILLI / series(rows, FAST, str(members)) for members in sizes]
        lines = [(np.log2(sizes), speed) for speed in np.transpose(speeds)]
        panels = {"steps of networks a second": {"a round; median": lines}}
        label = "binary logarithm of the number of networks"
        figures.curves(panels, workdir / FIGURE, label, logarithmic=True)


BENCHMARK = turns.Benchmark(check, setups, sections, measure=measure, draw=draw)
