"""``configs/benchmark.py:transferability``: who is compared, and what is said of it."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from experiments._interleave import Row, Setup, format_ratio, series
from experiments._transferability_contenders import (
    FROZEN_A_CUT,
    plain_jax,
    population,
    pytorch,
)
from experiments.harness.study import make_study
from experiments.transferability import Transferability
from jaxdl.data.encoded import cores
from jaxdl.report.tables import markdown_table

OURS, PLAIN, TORCH = "population", "plain JAX", "PyTorch"
BYTES = ("data", "states", "arguments", "temporary")


def check(config: ConfigDict) -> None:
    """Raise ValueError where the benchmark cannot be made."""
    if config.study.data.feed == "streamed":
        raise ValueError("study.data.feed: the grid is timed on resident data")
    make_study(Transferability, config.study).build()
    rule = config.study.optimizer
    if rule.name != "momentum" or rule.max_norm:
        raise ValueError("the references know study.optimizer.name='momentum' without max_norm")


def setups(config: ConfigDict, scratch: Path) -> dict[str, Setup]:
    """The contenders by name; nothing is written to ``scratch``."""
    devices = cores()
    return {
        OURS: Setup(population, devices, questions=("memory",)),
        PLAIN: Setup(plain_jax, 1),
        TORCH: Setup(pytorch, 1, questions=("settings",)),
    }


def sections(
    config: ConfigDict,
    rows: Sequence[Row],
    answers: Mapping[str, Mapping[str, Any]],
    first_seconds: Mapping[str, Mapping[str, float]],
) -> str:
    """What the report says.

    Args:
      answers: of each contender, to the questions of its setup.
      first_seconds: of each contender, what the first call of each slice took.
    """
    return "\n\n".join(
        [
            *the_grid(config, rows, answers[TORCH]["settings"]["bases"], first_seconds),
            *the_engine(config, rows, answers[TORCH]["settings"]["engine"]),
            *the_memory(answers[OURS]["memory"]),
        ]
    )


def the_grid(config: ConfigDict, rows, setting: str, first_seconds) -> list[str]:
    """Ours and the references on the networks of the study."""
    counts = {r.kind: r.networks for r in rows if r.what == OURS and r.kind != "engine"}
    trained = {r.kind: r.networks for r in rows if r.what == TORCH}
    share = ", ".join(f"{trained[kind]} of {n} {kind}" for kind, n in counts.items())
    a_cut = {FROZEN_A_CUT if kind == "frozen" else kind: n for kind, n in counts.items()}
    lines = {
        OURS: (OURS, counts),
        f"{PLAIN}, one program": (PLAIN, counts),
        f"{PLAIN}, a program a cut": (PLAIN, a_cut),
        TORCH: (TORCH, counts),
    }
    ours, table = series(rows, OURS, counts), []
    for name, (what, weights) in lines.items():
        each = [f"{np.median(series(rows, what, {kind: 1.0})):.2f}" for kind in weights]
        whole = series(rows, what, weights)
        seconds = np.median(whole) * config.study.steps / 1e3
        first = sum(first_seconds[what][kind] for kind in weights)
        table.append([name, *each, f"{seconds:.0f}", format_ratio(whole, ours), f"{first:.0f}"])
    return [
        f"## The grid: {sum(counts.values())} networks of {config.study.steps:,} steps",
        paragraph(f"""Milliseconds for a step of a network, medians of {config.rounds} rounds; what
            the training of the whole grid takes at that speed; its ratio to ours, round by round:
            the median (least–most). First calls are the first {config.steps} steps of each network,
            compilation included, and are in no other column."""),
        markdown_table(["", *counts, "grid, s", "times ours", "first calls, s"], table),
        paragraph(f"""Ours trains all networks, {config.study.members_per_round} members a round.
            The references train {share} (one seed, direction and kind of halves: the time depends
            on none of these) and are scaled up kind by kind. Plain JAX is a jitted step in a Python
            loop, gradients left to autodiff, on one device that uses all cores: as one program, to
            which what is frozen is an argument, so that all gradients are computed, then masked;
            and as a program for each cut, where XLA leaves out the gradients that nobody uses.
            PyTorch is eager, frozen layers have requires_grad_(False), in the setting that was
            fastest at the start: {setting}. Data are resident; nothing is validated or logged."""),
    ]


def the_engine(config: ConfigDict, rows, setting: str) -> list[str]:
    """A population of larger networks."""
    of = config.engine
    ms = {what: series(rows, what, {"engine": of.members}) for what in (OURS, TORCH)}
    return [
        f"## The engine: {of.members} networks of DANN's size",
        paragraph(f"""Milliseconds for a step of all of them (28 x 28 x 1, c5-32 pool2, c5-48 pool2,
            100-100-10, batch {of.batch}); PyTorch with {setting}."""),
        markdown_table(
            ["", "ms", "times ours"],
            [[what, f"{np.median(t):.0f}", format_ratio(t, ms[OURS])] for what, t in ms.items()],
        ),
    ]


def the_memory(sizes: Sequence[Mapping[str, int]]) -> list[str]:
    """What grows with members."""
    kib = [[m["members"], *(f"{m[name] / 1024:,.0f}" for name in BYTES)] for m in sizes]
    return [
        "## Memory",
        paragraph("""KiB a device of the compiled training of bases: data and states are the most
            of its arguments. The data are there once, whatever the number of members."""),
        markdown_table(["members", *BYTES], kib, left=0),
    ]


def paragraph(text: str) -> str:
    """Its lines filled anew."""
    return textwrap.fill(" ".join(text.split()), width=100)
