"""How transferable are features in deep neural networks? (Yosinski et al., NIPS 2014)

python -m experiments.transferability --config configs/transferability.py[:variant]

Three populations are trained: the bases; the fine-tuned networks, which start from layers of a
base; and the frozen ones, which keep them. The frozen networks of one base are one member, since
they share its forward pass (:func:`jaxdl.transfer.shared_prefix_loss`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict
from tqdm import tqdm

from configs.transferability import get_config
from experiments import _run
from jaxdl import transfer, trees
from jaxdl.data import batches, sources, splits
from jaxdl.nn.models import MODELS
from jaxdl.optim import make_optimizer, make_schedule
from jaxdl.report import figures
from jaxdl.report import transferability as reporting
from jaxdl.report.published import YOSINSKI_2014
from jaxdl.report.tables import write_atomically
from jaxdl.report.transferability import Result
from jaxdl.train import logs
from jaxdl.train.evaluate import Accuracy, make_accuracy
from jaxdl.train.loop import StopFlag, Workplace
from jaxdl.train.parallel import make_mesh, replicate
from jaxdl.train.population import member_key, population_of, train_steps
from jaxdl.train.state import TrainState, create_state, make_step
from jaxdl.types import Hyper, LossFn, PyTree, Variables


class Network(NamedTuple):
    """What names a row of ``results.csv``."""

    split: str
    seed: int
    direction: str  # from the task of the base to that of the network: AB or BA
    treatment: str
    n: int


class Member(NamedTuple):
    """What is trained as one: a network, or all networks with frozen layers of one base."""

    networks: Sequence[Network]
    variables: Variables
    base: Variables | None = None


class Lab(NamedTuple):
    """All that is fixed before anything is trained."""

    config: ConfigDict
    source: sources.Source
    tasks: dict[tuple[str, int, str], splits.Task]  # by split, seed, and A or B
    mesh: Mesh
    model: transfer.Layered
    cuts: tuple[int, ...]
    data: PyTree  # images and labels of all splits, on every device
    gather: Callable  # a batch of it, as the network sees it
    init: Callable[[jax.Array], Variables]  # a fresh network
    start: Callable[[Variables], TrainState]  # the state before its first step

    def task_of(self, member: Member) -> splits.Task:
        """What a member is trained on: the task that its direction leads to."""
        of = member.networks[0]
        return self.tasks[of.split, of.seed, of.direction[1]]


class Program(NamedTuple):
    """How a kind of member is trained and evaluated, compiled."""

    train: Callable
    accuracy: Accuracy


def make_lab(config: ConfigDict) -> Lab:
    """Data, tasks, network and mesh.

    Raises:
      ValueError: for a setting that cannot be had.
    """
    check(config)
    source = sources.load(config.data.name, **config.data.options)
    if "dissimilar" in config.splits and not source.class_groups:
        raise ValueError(f"{source.name} has no groups of classes: set config.splits=('random',)")
    mesh = make_mesh(config.parallel.member, config.parallel.data)
    if config.batch % mesh.shape["data"]:
        raise ValueError(
            f"config.batch={config.batch} does not divide over {mesh.shape['data']} devices "
            "(config.parallel.data)"
        )

    parts = {split: source.splits[split] for split in ("train", "validation", "test")}
    images, labels = (np.concatenate(arrays) for arrays in zip(*parts.values(), strict=True))
    data = replicate((jnp.asarray(images), jnp.asarray(labels)), mesh)
    tasks = make_tasks(config, source, {split: of for split, (_, of) in parts.items()})

    mean, deviation = batches.channel_statistics(parts["train"][0])

    def gather(data: PyTree, hyper: Hyper, ids: jax.Array) -> dict[str, jax.Array]:
        images, labels = data
        return {
            "image": batches.normalize(images[ids], mean, deviation),
            "label": hyper["label_of"][labels[ids]],
        }

    classes = max(int(task.label_of.max()) + 1 for task in tasks.values())
    model = MODELS[config.model](classes, axis_name="data")
    one = jnp.zeros((1, *images.shape[1:]))
    init = jax.jit(lambda key: {"batch_stats": {}, **model.init(key, one)})
    try:
        layers = transfer.layers(jax.eval_shape(init, jax.random.key(0)))
    except ValueError as error:
        size = " x ".join(map(str, images.shape[1:]))
        raise ValueError(f"config.model={config.model} on images of {size}: {error}") from None
    cuts = tuple(range(1, len(layers)))
    rule = make_rule(config)
    start = jax.jit(lambda v: create_state(v["params"], v["batch_stats"], rule))
    return Lab(config, source, tasks, mesh, model, cuts, data, gather, init, start)


def check(config: ConfigDict) -> None:
    """Raise ValueError where a setting is not one of those known, or too small."""
    known = {
        "splits": ("random", "dissimilar"),
        "treatments": tuple(transfer.TREATMENTS),
        "fine_tuned_splits": ("random", "dissimilar"),
        "fine_tuned_directions": ("AB", "BA"),
        "report_on": ("validation", "test"),
        "model": tuple(MODELS),
    }
    for name, choices in known.items():
        given = (config[name],) if isinstance(config[name], str) else config[name]
        if len(set(given)) < len(given):
            raise ValueError(f"config.{name} names one thing twice: {given}")
        if name == "splits" and not given:
            raise ValueError(f"config.splits is empty: choose from {', '.join(choices)}")
        for value in given:
            if value not in choices:
                raise ValueError(f"config.{name}: {value!r} is not one of {', '.join(choices)}")
    counts = ("seeds", "steps", "batch", "members_per_round", "steps_per_dispatch")
    for name in (*counts, "evaluation_batch"):
        if not 1 <= config[name] < 2**31:
            raise ValueError(f"config.{name} must be at least 1 and below 2^31, got {config[name]}")
    if config.steps % config.steps_per_dispatch:
        raise ValueError(
            f"config.steps={config.steps} is not a multiple of "
            f"config.steps_per_dispatch={config.steps_per_dispatch}"
        )
    rate, decay = config.optimizer.learning_rate, config.optimizer.weight_decay
    if not 0 < rate < math.inf:
        raise ValueError(f"config.optimizer.learning_rate must be positive, got {rate}")
    if not 0 <= decay < math.inf:
        raise ValueError(f"config.optimizer.weight_decay must not be negative, got {decay}")
    for name, value in config.data.options.items():
        if isinstance(value, int) and value < 0:
            raise ValueError(f"config.data.options.{name} must not be negative, got {value}")
    make_rule(config)


def make_tasks(
    config: ConfigDict, source: sources.Source, labels: dict[str, np.ndarray]
) -> dict[tuple[str, int, str], splits.Task]:
    """The tasks A and B of every kind of halves and seed."""
    tasks = {}
    for split, seed in product(config.splits, range(config.seeds)):
        if split == "random":
            halves = splits.random_halves(len(source.class_names), seed)
        else:
            halves = splits.group_halves(source.class_groups)
        for side, half in zip("AB", halves, strict=True):
            tasks[split, seed, side] = splits.make_task(labels, half, len(source.class_names))
    # Members of a population have arrays of one shape, so every task trains on equally many.
    fewest = min(len(task.examples["train"]) for task in tasks.values())
    return {
        key: task._replace(examples=task.examples | {"train": task.examples["train"][:fewest]})
        for key, task in tasks.items()
    }


def make_rule(config: ConfigDict) -> optax.GradientTransformation:
    """The update rule of the configuration."""
    rule, schedule = config.optimizer, config.schedule
    rate = make_schedule(
        schedule.name, rule.learning_rate, steps=config.steps, warmup=schedule.warmup
    )
    return make_optimizer(
        rule.name, rate, weight_decay=rule.weight_decay, max_norm=rule.max_norm or None
    )


def make_program(lab: Lab, loss_fn: LossFn, logits: Callable) -> Program:
    """Compile the training with a loss and the evaluation with logits."""
    config = lab.config
    step = make_step(loss_fn, lambda _: make_rule(config), axis_name="data")
    train = train_steps(
        step,
        lambda data, hyper, ids: lab.gather(data, hyper, hyper["examples"][ids]),
        lab.mesh,
        steps=config.steps_per_dispatch,
        batch=config.batch,
        examples=len(next(iter(lab.tasks.values())).examples["train"]),
    )
    return Program(train, make_accuracy(logits, lab.gather, lab.mesh, config.evaluation_batch))


def full_program(lab: Lab) -> Program:
    """Networks of which every layer is trained: bases and fine-tuned ones."""

    def logits(state: TrainState, hyper: Hyper, x: jax.Array) -> jax.Array:
        del hyper
        return lab.model.apply(state.variables, x)

    return make_program(lab, transfer.classification_loss(lab.model), logits)


def frozen_program(lab: Lab) -> Program:
    """The networks with frozen layers of one base, at all cuts."""

    def logits(state: TrainState, hyper: Hyper, x: jax.Array) -> jax.Array:
        above, base = state.variables, hyper["base"]
        return transfer.shared_prefix_logits(lab.model, lab.cuts, base, above, x)

    return make_program(lab, transfer.shared_prefix_loss(lab.model, lab.cuts), logits)


def assemble(lab: Lab, members: Sequence[Member], size: int) -> tuple[TrainState, Hyper]:
    """The population before its first step, and what differs between its members."""
    hypers = []
    for member in members:
        task = lab.task_of(member)
        hyper = {
            "key": member_key("train", *member.networks[0]),
            "examples": task.examples["train"],
            "label_of": task.label_of,
        }
        hypers.append(hyper if member.base is None else hyper | {"base": member.base})
    states = [lab.start(member.variables) for member in members]
    return population_of(states, size, lab.mesh), population_of(hypers, size, lab.mesh)


class Run:
    """A run of the study: what is done so far, and how to do more."""

    def __init__(self, lab: Lab, workdir: Path, stop: StopFlag, bar: tqdm):
        def progress(name: str, steps: int) -> None:
            bar.set_description(name, refresh=False)
            bar.update(steps)

        self.lab, self.csv = lab, workdir / "results.csv"
        self.place = Workplace(workdir, stop, progress, lab.config.seconds_between_saves)
        rows = reporting.read_results(self.csv) if self.csv.exists() else []
        self.results = {Network(*row[:-1]): row.accuracy for row in rows}

    def train(self, name: str, program: Program, members: Sequence[Member]) -> list[Variables]:
        """Train members, so many at a time; their variables at the end."""
        devices = self.lab.mesh.shape["member"]
        size = -(-self.lab.config.members_per_round // devices) * devices
        size = max(1, min(size, len(members)))
        trained = []
        for i, at in enumerate(range(0, len(members), size)):
            trained += self._round(f"{name}-{i}", program, members[at : at + size], size)
        return trained

    def _round(
        self, name: str, program: Program, members: Sequence[Member], size: int
    ) -> list[Variables]:
        lab, config = self.lab, self.lab.config
        networks = [network for member in members for network in member.networks]
        tasks = [lab.task_of(member) for member in members]
        states, hypers = assemble(lab, members, size)

        def accuracy(states: TrainState, split: str) -> np.ndarray:
            examples = [task.examples[split] for task in tasks]
            return program.accuracy(states, hypers, examples, lab.data)

        states = self.place.fit(
            name,
            program.train,
            states,
            hypers,
            lab.data,
            networks=[network._asdict() for network in networks],
            steps=config.steps,
            steps_per_dispatch=config.steps_per_dispatch,
            watch=lambda states: {"validation_accuracy": accuracy(states, "validation")},
        )
        if not all(network in self.results for network in networks):
            self.record(networks, accuracy(states, config.report_on).reshape(-1))
        return trees.unstack(jax.device_get(states.variables))[: len(members)]

    def record(self, networks: Sequence[Network], accuracies: np.ndarray) -> None:
        """Add rows to ``results.csv``; a diverged network's accuracy is NaN."""
        lost = diverged(self.place.curves)
        for network, accuracy in zip(networks, accuracies.tolist(), strict=True):
            self.results[network] = math.nan if network in lost else accuracy
        rows = [Result(*network, accuracy) for network, accuracy in self.results.items()]
        reporting.write_results(self.csv, rows)


def diverged(curves: Path) -> dict[Network, int]:
    """The networks whose loss was NaN or infinite, with the first step at which it was."""
    steps: dict[Network, int] = {}
    for record in logs.read(curves):
        if "diverged_at" in record:
            network = Network(*(record[field] for field in Network._fields))
            steps.setdefault(network, record["diverged_at"])
    return steps


def bases(config: ConfigDict) -> list[Network]:
    """The networks trained on A and on B, for each kind of halves and seed."""
    every = product(config.splits, range(config.seeds), ("AB", "BA"))
    return [Network(*one, "base", 0) for one in every]


def train_all(lab: Lab, run: Run) -> None:
    """Bases, then what starts from their layers; rounds that are done are not done again."""
    config, treatments = lab.config, transfer.TREATMENTS
    full = full_program(lab)

    def fresh(network: Network) -> Variables:
        return jax.device_get(lab.init(member_key("init", *network)))

    names = bases(config)
    trained = run.train("bases", full, [Member([name], fresh(name)) for name in names])
    base_of = {(n.split, n.seed, n.direction): v for n, v in zip(names, trained, strict=True)}

    def donor(network: Network) -> Variables:
        """The network that gives the first layers."""
        of, (a, b) = network, network.direction
        match treatments[of.treatment].source:
            case "self":
                return base_of[of.split, of.seed, of.direction]
            case "other":
                return base_of[of.split, of.seed, b + a]
            case "random":
                return fresh(of._replace(treatment="untrained", n=0))

    tuned, frozen = [], []
    for treatment in config.treatments:
        if treatments[treatment].frozen:
            for base in names:
                networks = [base._replace(treatment=treatment, n=n) for n in lab.cuts]
                above = transfer.stack_cuts([fresh(network) for network in networks], lab.cuts)
                frozen.append(Member(networks, above, donor(networks[0])))
        else:
            for base, n in product(names, lab.cuts):
                asked = base.split in config.fine_tuned_splits
                if asked and base.direction in config.fine_tuned_directions:
                    network = base._replace(treatment=treatment, n=n)
                    start = transfer.transplant(donor(network), fresh(network), n)
                    tuned.append(Member([network], start))
    run.train("fine-tuned", full, tuned)
    if frozen:
        run.train("frozen", frozen_program(lab), frozen)


def count_networks(config: ConfigDict, cuts: int) -> int:
    """How many networks the configuration asks for."""
    frozen = sum(transfer.TREATMENTS[t].frozen for t in config.treatments)
    tuned = len(config.treatments) - frozen
    tuned *= len(set(config.fine_tuned_splits) & set(config.splits))
    tuned *= len(config.fine_tuned_directions)
    return config.seeds * (2 * len(config.splits) * (1 + frozen * cuts) + tuned * cuts)


def draw(lab: Lab, run: Run, workdir: Path) -> None:
    """The figures."""
    config, results = lab.config, read(run)
    reporting.figure(
        reporting.summarize(results), results, YOSINSKI_2014, workdir / "transferability.png"
    )
    base = bases(config)[0]
    task = lab.tasks[base.split, base.seed, base.direction[1]]
    seen = batches.epoch_order(member_key("train", *base), 0, len(task.examples["train"]))
    ids = jnp.asarray(task.examples["train"])[seen[:60]]
    batch = lab.gather(lab.data, {"label_of": jnp.asarray(task.label_of)}, ids)
    names = [lab.source.class_names[i] for i in np.asarray(lab.data[1])[np.asarray(ids)]]
    figures.samples(np.asarray(batch["image"]), names, workdir / "samples.png")
    lines = [record for record in logs.read(run.place.curves) if record["treatment"] == "base"]
    panels = {}
    for label, field in (("training loss", "loss"), ("validation accuracy", "validation_accuracy")):
        panels[label] = {}
        for split in config.splits:
            mine = [
                [r for r in lines if Network(*(r[f] for f in Network._fields)) == base]
                for base in bases(config)
                if base.split == split
            ]
            panels[label][f"bases, {split} halves"] = [
                (np.array([r["step"] for r in m]), np.array([float(r[field]) for r in m]))
                for m in mine
            ]
    figures.curves(panels, workdir / "curves.png")


def read(run: Run) -> list[Result]:
    """The results as they are on disk, so that a resumed run reports the same digits."""
    return reporting.read_results(run.csv)


def study(config: ConfigDict, workdir: Path, stop: StopFlag) -> str:
    """Run the whole study; the report."""
    began = time.monotonic()
    with _run.user_input():
        lab = make_lab(config)
        about = {
            "name": lab.source.name,
            "classes": lab.source.class_names,
            "sizes": {split: len(labels) for split, (_, labels) in lab.source.splits.items()},
            "fingerprint": sources.fingerprint(lab.source),
            "mesh": dict(lab.mesh.shape),  # checkpoints are those of so many devices
        }
        _run.claim(workdir, config, about)
        finished = workdir / "report.md"
        if finished.exists():
            return finished.read_text()
        resumed = (workdir / "checkpoints").exists()
    total = count_networks(config, len(lab.cuts)) * config.steps
    with tqdm(total=total, unit="step", unit_scale=True, mininterval=0.5) as bar:
        run = Run(lab, workdir, stop, bar)
        train_all(lab, run)
    draw(lab, run, workdir)
    elapsed = f"{time.monotonic() - began:.0f} s" + (" since it was resumed" if resumed else "")
    report = reporting.report(read(run), YOSINSKI_2014, facts={"Time": elapsed} | facts(lab, run))
    write_atomically(finished, report)
    return report


def facts(lab: Lab, run: Run) -> dict[str, str]:
    """What a reader of the report must know of the run."""
    config = lab.config
    images = len(next(iter(lab.tasks.values())).examples["train"])
    parameters = trees.count(jax.eval_shape(lab.init, jax.random.key(0))["params"])
    told = {
        "Data": f"{lab.source.name}, {len(lab.source.class_names)} classes, {images} training "
        f"images a task; accuracy on the {config.report_on} split",
        "Network": f"{config.model}, {parameters:,} parameters, {config.steps} steps of "
        f"{config.batch} images",
        "Device": _run.describe_devices(),
    }
    if lost := diverged(run.place.curves):
        steps = [f"{'/'.join(map(str, network))} at step {at}" for network, at in lost.items()]
        told["Diverged"] = "; ".join(steps)
    return told


if __name__ == "__main__":
    _run.run(study, "transferability", get_config())
