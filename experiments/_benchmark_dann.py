"""``configs/benchmark.py:dann``: who is compared, and what is said of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from experiments import dann
from experiments._benchmark_transferability import paragraph
from experiments._dann_contenders import ABOUT, population, pytorch, write_noise
from experiments._interleave import Row, Setup, format_ratio, series
from experiments.harness.settings import check as check_settings
from jaxdl.data.encoded import cores
from jaxdl.report.tables import markdown_table

ONE, MANY = "one network", "population"
SHARED, WHOLE = "jaxdl, the batch shared by devices", "jaxdl, one device that uses all cores"
SPREAD, TORCH = "jaxdl, members on a device a core", "PyTorch"
FAST, FAST_TORCH = "jaxdl, accelerator", "PyTorch, accelerator"
COMPARED = {TORCH: (SHARED, WHOLE, SPREAD), FAST_TORCH: (FAST,)}
"""Ours, by reference."""
GOALS = {(ONE, TORCH): 1.0, (MANY, TORCH): 1.5, (MANY, FAST_TORCH): 5.0}
"""How many times the reference's speed."""


def check(config: ConfigDict) -> None:
    """Raise ValueError where the benchmark cannot be made."""
    of, study = config.dann, config.dann.study.copy_and_resolve_references()
    for name, least in {"members": 1, "accelerator_members": 1, "steps": 1, "images": 100}.items():
        if of[name] < least:
            raise ValueError(f"config.dann.{name} must be at least {least}, got {of[name]}")
    if len(study.methods) != 1:
        raise ValueError("config.dann.study.methods: one is timed")
    settings, study.steps_per_dispatch = settings_of(config), of.steps
    if settings["steps"] % of.steps:
        raise ValueError(f"config.dann.steps={of.steps} does not divide {settings['steps']} steps")
    check_settings(study, dann.SETTINGS.kinds)
    dann.check(study)
    if study.model != "dann_mnist" or dann.terms_of(settings) != ("adversarial",):
        raise ValueError("config.dann.study: the reference knows dann_mnist and an adversary alone")
    for name in ("dropout", "max_norm", "size", "colours"):
        if settings[name]:
            raise ValueError(f"config.dann.study.base.{name}: the reference does not know it")


def settings_of(config: ConfigDict) -> dict[str, Any]:
    """How the method is trained."""
    (own,) = config.dann.study.methods.values()
    return config.dann.study.base.to_dict() | own.to_dict()


def setups(config: ConfigDict, scratch: Path) -> dict[str, Setup]:
    """The contenders by name; those of an accelerator where there is one."""
    of, here, noise = config.dann, cores(), scratch / "noise.npz"
    write_noise(noise, of.images)
    shares = max(n for n in range(1, here + 1) if settings_of(config)["batch"] % n == 0)
    one, both = {ONE: 1}, {ONE: 1, MANY: of.members}
    found = {
        SHARED: Setup(partial(population, noise, one, shares), shares),
        WHOLE: Setup(partial(population, noise, one, 1), 1),
        SPREAD: Setup(partial(population, noise, {MANY: of.members}, 1), here),
        TORCH: Setup(partial(pytorch, noise, both, "cpu"), 1, questions=(ABOUT,)),
    }
    if shares == 1:
        del found[SHARED]  # it would be WHOLE
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:  # this process is to hold no GPU
        backend, cuda = pool.submit(accelerators).result()
    both = {ONE: 1, MANY: of.accelerator_members}
    if backend != "cpu":
        make = partial(population, noise, both, 1)
        found[FAST] = Setup(make, 1, questions=(ABOUT,), platform=None)
    if backend != "cpu" and cuda:
        found[FAST_TORCH] = Setup(partial(pytorch, noise, both, "cuda"), 1, questions=(ABOUT,))
    return found


def accelerators() -> tuple[str, bool]:
    """The platform that JAX chooses, and whether PyTorch has a GPU."""
    import torch  # an extra

    return jax.default_backend(), torch.cuda.is_available()


def sections(
    config: ConfigDict,
    rows: Sequence[Row],
    answers: Mapping[str, Mapping[str, Any]],
    first_seconds: Mapping[str, Mapping[str, float]],
) -> str:
    """What the report says; see :func:`experiments._benchmark_transferability.sections`."""
    of, settings = config.dann, settings_of(config)
    text = [*tables(rows, first_seconds, TORCH)]
    if FAST in answers:
        text += tables(rows, first_seconds, FAST_TORCH)
    batch, padding = settings["batch"], settings["padding"]
    text += [
        paragraph(f"""Milliseconds for one step of all networks, and PyTorch's time to that, round
            by round: medians of {config.rounds} rounds (least–most) of {of.steps} steps. First
            calls compile and are in no other column. The network is {of.study.model} on images of
            28 x 28 x 3, padding {padding}, {batch} of each domain a step: losses of labels and
            domains, gradient reversal, SGD with momentum .9, both schedules. Ours are the study's
            own programs, which gather bytes from {of.images:,} resident images of each domain,
            normalize them, and note losses and accuracies. PyTorch is eager, one network after the
            other; it gathers images that are normalized beforehand and passes both domains through
            the encoder as one batch, in the setting that was fastest at the start:
            {answers[TORCH][ABOUT]}."""),
        paragraph(accelerator(answers)),
        "## Goals",
        "\n".join(goals(rows)),
    ]
    return "\n\n".join(text)


def accelerator(answers: Mapping[str, Mapping[str, Any]]) -> str:
    """What was there, and what was not."""
    if FAST not in answers:
        return "JAX found no accelerator here: nothing was measured on one."
    there = f"The accelerator: {answers[FAST][ABOUT]}."
    if FAST_TORCH not in answers:
        return f"{there} This PyTorch cannot use it: ours alone was measured there."
    return f"{there} PyTorch's setting there: {answers[FAST_TORCH][ABOUT]}; both multiply in TF32."


def times(rows: Sequence[Row], kind: str, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Milliseconds a step of all networks of that kind, by round, of those that trained some."""
    counts = {row.what: row.networks for row in rows if row.kind == kind and row.what in names}
    return {w: series(rows, w, {kind: counts[w]}) for w in names if w in counts}


def tables(rows: Sequence[Row], first_seconds, reference: str) -> list[str]:
    """One for each kind: ours and, where it was measured, the reference."""
    ours, text = COMPARED[reference], []
    for kind in (ONE, MANY):
        ms = times(rows, kind, (*ours, reference))
        (networks,) = {row.networks for row in rows if row.kind == kind and row.what in ms}
        where = ", accelerator" if reference == FAST_TORCH else ""
        table = [
            [
                what,
                spread(t),
                format_ratio(ms[reference], t) if reference in ms else "–",
                f"{first_seconds[what][kind]:.0f}",
            ]
            for what, t in ms.items()
        ]
        text += [
            f"## {'One network' if kind == ONE else f'A population of {networks}'}{where}",
            markdown_table(["", "ms a step", "times PyTorch's speed", "first call, s"], table),
        ]
    return text


def spread(t: np.ndarray) -> str:
    """The median, and from least to most."""
    return f"{np.median(t):.2f} ({t.min():.2f}–{t.max():.2f})"


def goals(rows: Sequence[Row]) -> list[str]:
    """Whether they are met, by the median of the ratios, by the fastest of ours."""
    lines = []
    for (kind, reference), least in GOALS.items():
        ours, theirs = (times(rows, kind, n) for n in (COMPARED[reference], (reference,)))
        where = f"- {kind}, {reference}: at least {least:g} times its speed"
        if not ours or not theirs:
            lines.append(f"{where}: not measured.")
            continue
        best = min(ours, key=lambda what: np.median(ours[what]))
        ratio = theirs[reference] / ours[best]
        met = "met" if np.median(ratio) >= least else "NOT met"
        lines.append(f"{where}: {met}, {spread(ratio)}, by {best}.")
    return lines
