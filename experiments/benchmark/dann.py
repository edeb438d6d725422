"""``configs/benchmark.py:dann``: one network of that study, and a population.

On noise of MNIST-M's size: the time does not depend on what the images show.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from experiments import dann
from experiments.benchmark import turns
from experiments.benchmark.contenders import Task
from experiments.benchmark.populations import continued
from experiments.benchmark.summaries import paragraph, series, spread, verdict
from experiments.benchmark.turns import Contender, Measurements, Row, Setup, Slice
from experiments.harness.devices import describe_devices
from experiments.harness.settings import Count
from experiments.harness.settings import check as check_settings
from experiments.harness.study import make_study
from jaxdl import adaptation, optim
from jaxdl.data import preparation
from jaxdl.data.batches import batch_ids
from jaxdl.data.encoded import cores
from jaxdl.nn.models.adversarial import AdversarialNet, dann_mnist
from jaxdl.report.tables import MISSING, bullets, markdown_table
from jaxdl.train.groups import Group
from jaxdl.train.population import order_keys
from jaxdl.types import Variables

SINGLE, MANY = "one network", "population"
SHARED, WHOLE = "jaxdl, the batch shared by devices", "jaxdl, one device that uses all cores"
SPREAD, TORCH = "jaxdl, members on a device a core", "PyTorch"
FAST, FAST_TORCH = "jaxdl, accelerator", "PyTorch, accelerator"
COMPARED = {TORCH: (SHARED, WHOLE, SPREAD), FAST_TORCH: (FAST,)}
"""Ours, by reference."""
GOALS = {(SINGLE, TORCH): 1.0, (MANY, TORCH): 1.2, (MANY, FAST_TORCH): 5.0}
"""Least ratios of our speed to the reference's."""
KINDS = dict.fromkeys(("dann.members", "dann.accelerator_members", "dann.steps"), Count())
KINDS["dann.images"] = Count(100)
ABOUT = "about"
"""The question on what, or how, a contender computes."""


def check(config: ConfigDict) -> None:
    """Raise ValueError where the benchmark cannot be made."""
    check_settings(config, KINDS)
    study, steps = config.dann.study.copy_and_resolve_references(), config.dann.steps
    if len(study.methods) != 1:
        raise ValueError("config.dann.study.methods: one is timed")
    settings, study.steps_per_dispatch = settings_of(config), steps
    if settings["steps"] % steps:
        raise ValueError(f"config.dann.steps={steps} does not divide {settings['steps']} steps")
    check_settings(study, dann.SETTINGS.kinds)
    dann.check(study)
    if study.model != "dann_mnist" or dann.terms_of(settings) != ("adversarial",):
        raise ValueError("config.dann.study: the reference knows dann_mnist and an adversary alone")
    for name in ("dropout", "max_norm", "size", "colours"):
        if settings[name]:
            raise ValueError(f"config.dann.study.base.{name}: the reference does not know it")


def settings_of(config: ConfigDict) -> dict[str, Any]:
    """The training settings of the method."""
    (method,) = config.dann.study.methods.values()
    return config.dann.study.base.to_dict() | method.to_dict()


def setups(config: ConfigDict, scratch: Path) -> dict[str, Setup]:
    """The contenders by name; those of an accelerator where there is one."""
    devices, noise, single = cores(), scratch / "noise.npz", {SINGLE: 1}
    write_noise(noise, config.dann.images)
    shards = max(n for n in range(1, devices + 1) if settings_of(config)["batch"] % n == 0)
    many = {MANY: config.dann.members}
    setups = {
        SHARED: Setup(partial(make_population, noise, single, shards), shards),
        WHOLE: Setup(partial(make_population, noise, single, 1), 1),
        SPREAD: Setup(partial(make_population, noise, many, 1), devices),
        TORCH: Setup(partial(make_pytorch, noise, single | many, "cpu"), 1, questions=(ABOUT,)),
    }
    if shards == 1:
        del setups[SHARED]  # it would be WHOLE
    backend, cuda = turns.in_new_process(accelerators)
    sizes = single | {MANY: config.dann.accelerator_members}
    if backend != "cpu":
        make = partial(make_population, noise, sizes, 1)
        setups[FAST] = Setup(make, 1, questions=(ABOUT,), platform=None)
    if backend != "cpu" and cuda:
        make = partial(make_pytorch, noise, sizes, "cuda")
        setups[FAST_TORCH] = Setup(make, 1, questions=(ABOUT,))
    return setups


def accelerators() -> tuple[str, bool]:
    """The platform that JAX chooses, and whether PyTorch has a GPU."""
    import torch  # an extra

    return jax.default_backend(), torch.cuda.is_available()


# --- the contenders ----------------------------------------------------------------------------


def write_noise(path: Path, count: int) -> None:
    """Images and labels, for both domains."""
    rng = np.random.default_rng(0)
    images = rng.integers(256, size=(count, 28, 28, 3), dtype=np.uint8)
    np.savez(path, images=images, labels=np.arange(count) % 10)


def make_group(
    noise: Path, config: ConfigDict, members: int, shards: int
) -> tuple[dann.Adaptation, Group]:
    """A study with ``members`` networks on ``shards`` devices a batch, and their group."""
    settings = config.dann.study.copy_and_resolve_references()
    options = {"path": str(noise), "validation": 10, "test": 10}
    settings.source = settings.target = ConfigDict({"name": "npz", "options": options})
    settings.seeds = settings.members_per_round = members
    settings.steps_per_dispatch, settings.feed = config.dann.steps, "resident"
    settings.parallel.member, settings.parallel.data = -1, shards
    study = make_study(dann.Adaptation, settings)
    study.build()
    return study, Group("networks-0", study.members, members)


def make_population(
    noise: Path, sizes: Mapping[str, int], shards: int, config: ConfigDict
) -> Contender:
    """The study's program on populations of each size, by kind."""
    slices = {}
    for kind, members in sizes.items():
        study, group = make_group(noise, config, members, shards)
        populations = [group.start()]
        run = continued(group.program.training, populations, study.feed.data)
        slices[kind] = Slice(members, config.dann.steps, run)
    return Contender(slices, {ABOUT: describe_devices})


def make_pytorch(
    noise: Path, sizes: Mapping[str, int], device: str, config: ConfigDict
) -> Contender:
    """PyTorch, one network after the other, in the setting that is fastest here."""
    import torch

    from experiments.benchmark.contenders import pytorch

    if device != "cpu":
        torch.set_float32_matmul_precision("high")  # TF32, as JAX has it there
    model, task, starts = make_reference(*make_group(noise, config, max(sizes.values()), 1))
    by_kind = {kind: starts[:members] for kind, members in sizes.items()}
    slices, setting = pytorch.make_slices(model, task, by_kind, device)
    return Contender(slices, {ABOUT: lambda: str(setting)})


def make_reference(
    study: dann.Adaptation, group: Group
) -> tuple[AdversarialNet, Task, list[tuple[Variables, int]]]:
    """The network, what the first member is trained on in its first dispatch, and the variables of
    all at the start, no layer frozen."""
    settings = study.methods[group.networks[0].method]
    steps = study.config.steps_per_dispatch
    hyper = group.members[0].hyper()
    order = partial(batch_ids, first_step=jnp.int32(0), steps=steps, batch=settings["batch"])
    streams = zip(order_keys(hyper), hyper["examples"], hyper["count"], strict=True)
    ids = [examples[order(key, examples=count)] for key, examples, count in streams]
    stored = np.asarray(study.feed.data["image"], np.float32)
    images = np.zeros_like(stored)
    see = preparation.centred(settings["subtract"], settings["size"])
    for domain, examples in enumerate(hyper["examples"]):
        images[examples] = see(stored[examples], hyper, domain)
    progress = np.arange(steps) / settings["steps"]
    rates = np.full(steps, settings["rate"])
    if settings["schedule"] == "annealed":
        rates = optim.annealed(progress, settings["rate"])
    scales = settings["reversal"] * adaptation.reversal_schedule(progress)
    task = Task(
        images,
        np.asarray(study.feed.data["label"]),
        np.concatenate(ids, axis=1),
        [float(rate) for rate in rates],
        settings["weight_decay"],
        [float(scale) for scale in scales],
        settings["adversarial"],
    )
    model = dann_mnist(len(study.sources["source"].class_names), padding=settings["padding"])
    starts = [(jax.device_get(member.start().variables), 0) for member in group.members]
    return model, task, starts


# --- the report --------------------------------------------------------------------------------


def sections(measurements: Measurements) -> list[str]:
    """The report, below its head."""
    config, rows, answers, _ = measurements
    sizes, settings = config.dann, settings_of(config)
    batch, padding = settings["batch"], settings["padding"]
    return [
        *tables(measurements, TORCH),
        *(tables(measurements, FAST_TORCH) if FAST in answers else []),
        paragraph(f"""Milliseconds for one step of all networks, and PyTorch's time to that, round
            by round: medians of {config.rounds} rounds (least–most) of {sizes.steps} steps. First
            calls compile and are in no other column. The network is {sizes.study.model} on images
            of 28 x 28 x 3, padding {padding}, {batch} of each domain a step: losses of labels and
            domains, gradient reversal, SGD with momentum .9, both schedules. Ours are the study's
            own programs, which gather bytes from {sizes.images:,} resident images of each domain,
            normalize them, and note losses and accuracies. PyTorch is eager, one network after the
            other; it gathers images that are normalized beforehand and passes both domains through
            the encoder as one batch, in the setting that was fastest at the start:
            {answers[TORCH][ABOUT]}."""),
        paragraph(describe_accelerator(answers)),
        "## Goals",
        bullets(goals(rows)),
    ]


def describe_accelerator(answers: Mapping[str, Mapping[str, Any]]) -> str:
    """A description of the accelerator, or of its absence."""
    if FAST not in answers:
        return "JAX found no accelerator here: nothing was measured on one."
    hardware = f"The accelerator: {answers[FAST][ABOUT]}."
    if FAST_TORCH not in answers:
        return f"{hardware} This PyTorch cannot use it: ours alone was measured there."
    return (
        f"{hardware} PyTorch's setting there: {answers[FAST_TORCH][ABOUT]}; both multiply in TF32."
    )


def times(rows: Sequence[Row], kind: str, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Milliseconds a step of all networks of that kind, by round, of those that trained some."""
    counts = {r.contender: r.networks for r in rows if r.kind == kind and r.contender in names}
    return {name: series(rows, name, {kind: counts[name]}) for name in names if name in counts}


def tables(measurements: Measurements, reference: str) -> list[str]:
    """A table a kind: ours and, where it was measured, the reference."""
    _, rows, _, first_seconds = measurements
    text, device = [], ", accelerator" if reference == FAST_TORCH else ""
    for kind in (SINGLE, MANY):
        ms, table = times(rows, kind, (*COMPARED[reference], reference)), []
        (networks,) = {r.networks for r in rows if r.kind == kind and r.contender in ms}
        for name, t in ms.items():
            ratio = spread(ms[reference] / t) if reference in ms else MISSING
            table.append([name, spread(t), ratio, f"{first_seconds[name][kind]:.0f}"])
        text += [
            f"## {'One network' if kind == SINGLE else f'A population of {networks}'}{device}",
            markdown_table(["", "ms a step", "times PyTorch's speed", "first call, s"], table),
        ]
    return text


def goals(rows: Sequence[Row]) -> list[str]:
    """Verdicts on the goals, by the median of the ratios of our fastest contender."""
    lines = []
    for (kind, reference), least in GOALS.items():
        candidates, references = (times(rows, kind, n) for n in (COMPARED[reference], (reference,)))
        goal = f"{kind}, {reference}: at least {least:g} times its speed"
        if not candidates or not references:
            lines.append(f"{goal}: not measured.")
            continue
        best = min(candidates, key=lambda name: np.median(candidates[name]))
        ratio = references[reference] / candidates[best]
        lines.append(verdict(goal, np.median(ratio) >= least, f"{spread(ratio)}, by {best}"))
    return lines


BENCHMARK = turns.Benchmark(check, setups, sections, peers={"torch": "PyTorch"})
