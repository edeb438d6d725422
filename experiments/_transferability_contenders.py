"""The contenders of ``configs/benchmark.py:transferability``.

- :func:`population`: the study's own programs on the study's own members, one device a core;
- :func:`plain_jax`: one network after the other, a Python loop over a jitted step
  (:mod:`experiments._plain_reference`), on one device whose operations use all cores;
- :func:`pytorch`: one network after the other (:mod:`experiments._torch_reference`).

The references train the networks of one seed, direction and kind of halves, since the time of a
network and step depends on its kind (is anything frozen, and where) but not on these.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from ml_collections import ConfigDict

from experiments import _plain_reference
from experiments._interleave import Contender, Slice
from experiments._plain_reference import Task
from experiments.harness.study import make_study
from experiments.transferability import Network, Transferability, make_rule
from jaxdl import transfer
from jaxdl.data.batches import batch_ids
from jaxdl.data.encoded import cores
from jaxdl.nn.models.convnet import Conv, ConvNet
from jaxdl.optim import make_optimizer, make_schedule
from jaxdl.supervised import classification_loss
from jaxdl.train.groups import Group, Member, make_groups
from jaxdl.train.parallel import make_mesh, replicate
from jaxdl.train.population import member_key, population_of, train_resident
from jaxdl.train.state import TrainState, create_state, make_step
from jaxdl.types import Batch, Hyper, PyTree, Variables

Run = Callable[[TrainState, Hyper, PyTree], tuple[TrainState, PyTree]]
Round = tuple[TrainState, Hyper]


FROZEN_A_CUT = "frozen, a program a cut"


def rehearse(config: ConfigDict) -> tuple[Transferability, dict[str, list[Member]]]:
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


def going_on(run: Run, rounds: Sequence[Round], data: PyTree) -> Callable[[], None]:
    """Train every round in one dispatch, and further each time it is called."""
    rounds = list(rounds)

    def train() -> None:
        for i, (states, hypers) in enumerate(rounds):
            states, _ = run(states, hypers, data)
            rounds[i] = (states, hypers)
        jax.block_until_ready(rounds)

    return train


def population(config: ConfigDict) -> Contender:
    """The study's programs on the whole grid, and the round of the engine."""
    study, parts = rehearse(config)
    slices = {}
    for kind, members in parts.items():
        groups = make_groups(kind, members, study.config.members_per_round)
        rounds = [group.start(study.placement) for group in groups]
        run = going_on(members[0].program.training, rounds, study.feed.data)
        slices[kind] = Slice(len(networks_of(members)), config.steps, run)
    engine = make_engine(config)
    run = going_on(engine.run, [engine.start], engine.data)
    slices["engine"] = Slice(config.engine.members, config.engine.steps, run)

    return Contender(slices, {"memory": partial(memory, study, parts["bases"])})


def memory(study: Transferability, bases: Sequence[Member]) -> list[dict[str, int]]:
    """Bytes a device of the compiled training, for two and for four members a device."""
    devices = study.placement.member_devices
    states, hypers = Group("bases", bases[:1], 1).start(study.placement)
    found = []
    for each in (2, 4):

        def stretched(leaf: Array, size: int = each * devices) -> jax.ShapeDtypeStruct:
            shape = (size, *leaf.shape[1:])
            return jax.ShapeDtypeStruct(shape, leaf.dtype, sharding=leaf.sharding)

        shapes = jax.tree.map(stretched, (states, hypers))
        run = bases[0].program.training.run
        stats = run.lower(*shapes, study.feed.data).compile().memory_analysis()
        found.append(
            {
                "members": each * devices,
                "data": sum(leaf.nbytes for leaf in jax.tree.leaves(study.feed.data)),
                "states": each * sum(leaf.nbytes for leaf in jax.tree.leaves(states)) // devices,
                "arguments": stats.argument_size_in_bytes,
                "temporary": stats.temp_size_in_bytes,
            }
        )
    return found


class Engine(NamedTuple):
    """Networks of DANN's size as one population."""

    model: ConvNet
    inits: list[Variables]
    data: Batch
    run: Run
    start: Round


def make_engine(config: ConfigDict) -> Engine:
    """The MNIST network of the DANN paper as a plain classifier (Ganin & Lempitsky 2015, Fig. 4).

    On noise: the time does not depend on what the images show.
    """
    of = config.engine
    model = ConvNet(
        (Conv(32, 5, padding="VALID", pool=2), Conv(48, 5, padding="VALID", pool=2)),
        (100, 100),
        classes=10,
    )
    rng = np.random.default_rng(0)
    images = rng.normal(size=(512, 28, 28, 1)).astype(np.float32)
    labels = rng.integers(10, size=len(images)).astype(np.int32)
    init = jax.jit(lambda key: {"batch_stats": {}, **model.init(key, images[:1])})
    inits = [jax.device_get(init(member_key("engine", i))) for i in range(of.members)]
    mesh, rule = make_mesh(), make_optimizer("momentum", of.learning_rate)
    data = replicate({"image": images, "label": labels}, mesh)
    step = make_step(classification_loss(model), rule, axis_name="data")
    run = train_resident(
        step, lambda stored, hyper, key: stored, mesh, steps=of.steps, batch=of.batch
    )

    states = [create_state(v, rule) for v in inits]
    every = {"examples": np.arange(len(labels)), "count": np.int32(len(labels))}
    hypers = [{"key": member_key("engine data", i)} | every for i in range(of.members)]
    start = (
        population_of(states, of.members, mesh),
        population_of(hypers, of.members, mesh),
    )
    return Engine(model, inits, data, run, start)


# --- the references ----------------------------------------------------------------------------


class Reference(NamedTuple):
    """What the references are given."""

    model: ConvNet
    task: Task
    starts: dict[str, list[tuple[Variables, int]]]
    """By kind, the networks' variables and how many of their layers are frozen."""


def make_reference(config: ConfigDict) -> Reference:
    """A share of the networks of each kind, and the data of their task."""
    study, parts = rehearse(config)
    starts = {}
    for kind, members in parts.items():
        networks = networks_of(members)
        first = networks[0]
        starts[kind] = [
            (jax.device_get(study.init(member_key("init", *network))), frozen_layers(network))
            for network in networks
            if network[:3] == first[:3]
        ]
    task = study.tasks[first.split, first.seed, first.direction[1]]
    examples = task.examples["train"]
    hyper = {"label_of": jnp.asarray(task.label_of)}
    stored = jax.tree.map(lambda leaf: leaf[jnp.asarray(examples)], study.feed.data)
    batch = jax.device_get(jax.jit(study.prepare[study.full])(stored, hyper, None))
    ids = order(config.steps, study.config.batch, len(examples))
    return Reference(study.model, Task(batch["image"], batch["label"], ids), starts)


def order(steps: int, batch: int, examples: int) -> np.ndarray:
    """The batches of the references."""
    return np.asarray(batch_ids(jax.random.key(0), 0, steps=steps, batch=batch, examples=examples))


def frozen_layers(network: Network) -> int:
    """How many layers of it are frozen."""
    return network.n if network.n and transfer.TREATMENTS[network.treatment].frozen else 0


def plain_jax(config: ConfigDict) -> Contender:
    """The Python loop over a jitted step; frozen networks also with a program for each cut."""
    reference, rule = make_reference(config), make_rule(config.study)

    def work(kind: str, static: bool) -> Slice:
        starts = reference.starts[kind]
        run = _plain_reference.one_after_the_other(
            reference.model, starts, reference.task, rule, static=static
        )
        return Slice(len(starts), config.steps, run)

    slices = {kind: work(kind, static=False) for kind in reference.starts}
    if "frozen" in slices:
        slices[FROZEN_A_CUT] = work("frozen", static=True)
    return Contender(slices)


def pytorch(config: ConfigDict) -> Contender:
    """Eager PyTorch in the setting that is fastest here."""
    from experiments import _torch_reference as torch_reference  # torch is an extra

    slices, settings = {}, {}

    def add(model: ConvNet, starts_of: dict, task: Task, rule: torch_reference.Rule) -> None:
        variables, _ = next(iter(starts_of.values()))[0]
        setting = torch_reference.fastest(model, variables, task, rule, cores())
        for kind, starts in starts_of.items():
            run = torch_reference.one_after_the_other(model, starts, task, rule, setting)
            slices[kind], settings[kind] = Slice(len(starts), len(task.ids), run), str(setting)

    reference, of = make_reference(config), config.study
    schedule = make_schedule(
        of.schedule.name, of.optimizer.learning_rate, steps=of.steps, warmup=of.schedule.warmup
    )
    rates = [float(schedule(step)) for step in range(config.steps)]
    rule = torch_reference.Rule(rates, of.optimizer.weight_decay)
    add(reference.model, reference.starts, reference.task, rule)

    engine, of = make_engine(config), config.engine
    images, labels = np.asarray(engine.data["image"]), np.asarray(engine.data["label"])
    task = Task(images, labels, order(of.steps, of.batch, len(labels)))
    rule = torch_reference.Rule([of.learning_rate] * of.steps, weight_decay=0.0)
    add(engine.model, {"engine": [(variables, 0) for variables in engine.inits]}, task, rule)
    return Contender(slices, {"settings": lambda: settings})
