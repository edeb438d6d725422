"""``configs/benchmark.py:transferability``: the grid of that study, and larger networks.

The references train the networks of one seed, direction and kind of halves, since the time of a
network and step depends on its kind (is anything frozen, and where) but not on these.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from experiments.benchmark.contenders import Task, plain_jax
from experiments.benchmark.populations import Noise, continued, train_on_noise
from experiments.benchmark.summaries import paragraph, series, spread
from experiments.benchmark.turns import MILLI, Benchmark, Contender, Measurements, Setup, Slice
from experiments.harness.study import make_study
from experiments.transferability import Network, Transferability, make_rate, make_rule
from jaxdl import transfer
from jaxdl.data.batches import batch_ids
from jaxdl.data.encoded import cores
from jaxdl.nn.models.convnet import Conv, ConvNet
from jaxdl.optim import make_optimizer
from jaxdl.report.tables import markdown_table
from jaxdl.train.groups import Member, make_groups
from jaxdl.train.parallel import make_placement
from jaxdl.train.population import member_key
from jaxdl.types import Variables

OURS, PLAIN, TORCH = "population", "plain JAX", "PyTorch"
ENGINE, FROZEN_A_CUT = "engine", "frozen, a program a cut"
LARGER = ConvNet(
    (Conv(32, 5, padding="VALID", pool=2), Conv(48, 5, padding="VALID", pool=2)), (100, 100), 10
)
"""The MNIST network of the DANN paper as a plain classifier (Ganin & Lempitsky 2015, Fig. 4)."""


def check(config: ConfigDict) -> None:
    """Raise ValueError where the benchmark cannot be made."""
    if config.study.data.feed == "streamed":
        raise ValueError("study.data.feed: the grid is timed on resident data")
    make_study(Transferability, config.study).build()
    rule = config.study.optimizer
    if rule.name not in ("momentum", "nesterov") or rule.max_norm:
        raise ValueError(
            "the references know study.optimizer.name='momentum' and 'nesterov', without max_norm"
        )


def setups(config: ConfigDict, scratch: Path) -> dict[str, Setup]:
    """The contenders by name; nothing is written to ``scratch``."""
    return {
        OURS: Setup(make_population, cores()),
        PLAIN: Setup(make_plain_jax, 1),
        TORCH: Setup(make_pytorch, 1, questions=("settings",)),
    }


def make_members(config: ConfigDict) -> tuple[Transferability, dict[str, list[Member]]]:
    """The study and everything that it trains, by kind, with untrained bases."""
    with config.study.unlocked():
        config.study.steps_per_dispatch = config.steps
    study = make_study(Transferability, config.study)
    study.build()
    for base in networks_of(study.plan["bases"]):
        study.variables[base] = study.fresh(base)
    return study, {kind: members for kind, members in study.plan.items() if members}


def networks_of(members: Sequence[Member]) -> list[Network]:
    """All networks of all members."""
    return [network for member in members for network in member.networks]


# --- ours --------------------------------------------------------------------------------------


def make_population(config: ConfigDict) -> Contender:
    """The study's programs on the whole grid, and the population of larger networks."""
    study, plan = make_members(config)
    slices = {}
    for kind, members in plan.items():
        groups = make_groups(kind, members, study.config.members_per_round)
        populations = [group.start() for group in groups]
        run = continued(members[0].program.training, populations, study.feed.data)
        slices[kind] = Slice(len(networks_of(members)), config.steps, run)
    return Contender(slices | {ENGINE: make_engine(config).slice()})


def make_engine(config: ConfigDict) -> Noise:
    """A population of larger networks."""
    engine = config.engine
    sizes = {"members": engine.members, "steps": engine.steps, "batch": engine.batch}
    rule = make_optimizer("momentum", engine.learning_rate)
    return train_on_noise(LARGER, rule, (28, 28, 1), make_placement(), **sizes)


# --- the references ----------------------------------------------------------------------------


class Reference(NamedTuple):
    """Network, task and initial values of the reference contenders."""

    model: ConvNet
    task: Task
    starts: dict[str, list[tuple[Variables, int]]]
    """Initial variables and numbers of frozen layers, by kind."""


def make_reference(config: ConfigDict) -> Reference:
    """A share of the networks of each kind, and the data of their task."""
    study, plan = make_members(config)
    starts = {}
    for kind, members in plan.items():
        networks = networks_of(members)
        starts[kind] = [
            (jax.device_get(study.init(member_key("init", *network))), frozen_layers(network))
            for network in networks
            if network[:3] == networks[0][:3]
        ]
    task, settings = study.task_of(networks[0]), config.study
    examples = task.examples["train"]
    hyper = {"label_of": jnp.asarray(task.label_of)}
    stored = jax.tree.map(lambda leaf: leaf[jnp.asarray(examples)], study.feed.data)
    batch = jax.device_get(jax.jit(study.prepare[study.full])(stored, hyper, None))
    rule, rate = settings.optimizer, make_rate(settings)
    rates = [float(rate(step)) for step in range(config.steps)]
    ids = draw_batches(config.steps, settings.batch, len(examples))
    task = Task(
        batch["image"],
        batch["label"],
        ids,
        rates,
        rule.weight_decay,
        nesterov=rule.name == "nesterov",
    )
    return Reference(study.model, task, starts)


def draw_batches(steps: int, batch: int, examples: int) -> np.ndarray:
    """The batches of the references, [steps, batch]."""
    return np.asarray(batch_ids(jax.random.key(0), 0, steps=steps, batch=batch, examples=examples))


def frozen_layers(network: Network) -> int:
    """The number of a network's frozen layers."""
    return network.n if network.n and transfer.TREATMENTS[network.treatment].frozen else 0


def make_plain_jax(config: ConfigDict) -> Contender:
    """The Python loop over a jitted step; frozen networks also with a program for each cut."""
    model, task, starts = make_reference(config)
    rule = make_rule(config.study)

    def train(kind: str, static: bool) -> Slice:
        run = plain_jax.one_after_the_other(model, starts[kind], task, rule, static=static)
        return Slice(len(starts[kind]), config.steps, run)

    slices = {kind: train(kind, static=False) for kind in starts}
    if "frozen" in slices:
        slices[FROZEN_A_CUT] = train("frozen", static=True)
    return Contender(slices)


def make_pytorch(config: ConfigDict) -> Contender:
    """Eager PyTorch in the setting that is fastest here."""
    from experiments.benchmark.contenders import pytorch  # an extra

    engine, sizes = make_engine(config), config.engine
    images, labels = (np.asarray(engine.data[name]) for name in ("image", "label"))
    ids = draw_batches(sizes.steps, sizes.batch, len(labels))
    rates = [sizes.learning_rate] * sizes.steps
    noise = Task(images, labels, ids, rates, weight_decay=0.0)
    starts = {ENGINE: [(state.variables, 0) for state in engine.states]}
    larger, setting_of_larger = pytorch.make_slices(LARGER, noise, starts)
    slices, setting = pytorch.make_slices(*make_reference(config))
    settings = str(setting), str(setting_of_larger)
    return Contender(slices | larger, {"settings": lambda: settings})


# --- the report --------------------------------------------------------------------------------


def sections(measurements: Measurements) -> list[str]:
    """The report, below its head."""
    setting, setting_of_larger = measurements.answers[TORCH]["settings"]
    grid = describe_grid(measurements, setting)
    return grid + describe_engine(measurements, setting_of_larger)


def describe_grid(measurements: Measurements, setting: str) -> list[str]:
    """Ours and the references on the networks of the study."""
    config, rows, _, first_seconds = measurements
    counts = {r.kind: r.networks for r in rows if r.contender == OURS and r.kind != ENGINE}
    trained = {r.kind: r.networks for r in rows if r.contender == TORCH}
    share = ", ".join(f"{trained[kind]} of {n} {kind}" for kind, n in counts.items())
    a_cut = {FROZEN_A_CUT if kind == "frozen" else kind: n for kind, n in counts.items()}
    lines = {
        OURS: (OURS, counts),
        f"{PLAIN}, one program": (PLAIN, counts),
        f"{PLAIN}, a program a cut": (PLAIN, a_cut),
        TORCH: (TORCH, counts),
    }
    grid_of_ours, table = series(rows, OURS, counts), []
    for title, (name, weights) in lines.items():
        ms = [f"{np.median(series(rows, name, kind)):.2f}" for kind in weights]
        grid = series(rows, name, weights)
        seconds = np.median(grid) * config.study.steps / MILLI
        first = sum(first_seconds[name][kind] for kind in weights)
        table.append([title, *ms, f"{seconds:.0f}", spread(grid / grid_of_ours), f"{first:.0f}"])
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


def describe_engine(measurements: Measurements, setting: str) -> list[str]:
    """A population of larger networks."""
    engine = measurements.config.engine
    weights = {ENGINE: engine.members}
    ms = {name: series(measurements.rows, name, weights) for name in (OURS, TORCH)}
    table = [[name, f"{np.median(t):.0f}", spread(t / ms[OURS])] for name, t in ms.items()]
    return [
        f"## The engine: {engine.members} networks of DANN's size",
        paragraph(f"""Milliseconds for a step of all of them (28 x 28 x 1, c5-32 pool2, c5-48 pool2,
            100-100-10, batch {engine.batch}); PyTorch with {setting}."""),
        markdown_table(["", "ms", "times ours"], table),
    ]


BENCHMARK = Benchmark(check, setups, sections, peers={"torch": "PyTorch"})
