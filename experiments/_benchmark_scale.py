"""``configs/benchmark.py:scale``: what more devices give, what checkpoints and the start cost."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from fnmatch import fnmatchcase
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from experiments import _interleave
from experiments._benchmark_dann import spread
from experiments._benchmark_transferability import paragraph
from experiments._interleave import MILLI, Row, Setup, Worker, format_ratio, series
from experiments._scale_contenders import (
    ABOUT,
    BUSY,
    COLD,
    COMMAND,
    SAVED,
    UNSAVED,
    WARM,
    growing,
    name,
    on_cores,
    starting,
)
from experiments.harness.settings import check as check_settings
from experiments.harness.settings import check_counts
from experiments.transferability import SETTINGS, make_rule
from jaxdl.data.encoded import cores
from jaxdl.report import figures
from jaxdl.report.tables import MISSING, markdown_table

CORES, START, FAST = "networks on cores", "start", "accelerator"
SAVE, LAST = "a save", "the save at the end"
RUNS = 5  # kinds of rows in a round, beside slices
HOLDS = {"at least": operator.ge, "less than": operator.lt, "at most": operator.le}
SCALING, WAITING, SECONDS = 1.7, 2.0, 8.0  # goals; of waiting, in per cent
PEAKS = {
    "NVIDIA H200": (494.7e12, 989.4e12),
    "NVIDIA H100 80GB HBM3": (494.7e12, 989.4e12),
    "NVIDIA A100*": (156e12, 312e12),
}
"""FLOP/s in TF32 and in bf16, dense, by JAX's `device_kind`: NVIDIA's H100 white paper (SXM5; the
data sheet of the H200 SXM has the same) and A100 data sheet."""


def check(config: ConfigDict) -> None:
    """Raise ValueError where the benchmark cannot be made."""
    of = config.scale
    check_counts(of, "devices", "members", "steps", "saves", "accelerator_steps")
    if not 2 <= of.devices <= cores():
        raise ValueError(f"config.scale.devices={of.devices}: each is a core, of {cores()} here")
    if of.seconds_between_saves <= 0 or min(of.accelerator_members, default=1) < 1:
        raise ValueError("config.scale: seconds_between_saves and members must be more than 0")
    check_settings(of.study, SETTINGS.kinds)
    make_rule(of.study)


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
            study's interval, {of.study.seconds_between_saves:g} s. What writing takes from the
            training beside it is in the time of a step with saves, too."""),
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
