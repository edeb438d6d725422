"""How transferable are features in deep neural networks? (Yosinski et al., NIPS 2014)

python -m experiments.transferability --config configs/transferability.py[:variant]

Three populations are trained: the bases; the fine-tuned networks, which start from layers of a
base; and the frozen ones, which keep them. The frozen networks of one base are one member, since
they share its forward pass (:func:`jaxdl.transfer.shared_prefix_loss`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from configs.transferability import get_config
from experiments import _run
from experiments._transferability_setup import (
    Lab,
    Program,
    first_batch,
    frozen_program,
    full_program,
    make_lab,
)
from jaxdl import transfer, trees
from jaxdl.data import splits
from jaxdl.data.encoded import in_memory
from jaxdl.data.source import Split
from jaxdl.data.splits import Task
from jaxdl.report import figures
from jaxdl.report import transferability as reporting
from jaxdl.report.published import YOSINSKI_2014
from jaxdl.report.tables import write_atomically
from jaxdl.report.transferability import Result
from jaxdl.train import logs
from jaxdl.train.feed import Resident, make_feed
from jaxdl.train.loop import StopFlag, Workplace
from jaxdl.train.parallel import to_host
from jaxdl.train.population import member_key, population_of
from jaxdl.train.state import TrainState
from jaxdl.types import Hyper, Variables


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
    start: Callable[[], Variables]
    """Its variables before the first step, made when they are needed."""
    base: Variables | None = None


class Round(NamedTuple):
    """Members that are trained at a time, as one population."""

    name: str
    program: Program
    members: Sequence[Member]
    size: int
    """Of the population, which copies of the last member fill up."""

    @property
    def networks(self) -> list[Network]:
        """All networks of all members."""
        return [network for member in self.members for network in member.networks]


def task_of(lab: Lab, member: Member) -> Task:
    """What a member is trained on: the task that its direction leads to."""
    of = member.networks[0]
    return lab.tasks[of.split, of.seed, of.direction[1]]


def assemble(lab: Lab, members: Sequence[Member], size: int) -> tuple[TrainState, Hyper]:
    """The population before its first step, and what differs between its members."""
    longest = max(len(task.examples["train"]) for task in lab.tasks.values())
    hypers = []
    for member in members:
        task = task_of(lab, member)
        examples = task.examples["train"]
        hyper = {
            "key": member_key("train", *member.networks[0]),
            "examples": np.pad(examples, (0, longest - len(examples))),
            "count": np.int32(len(examples)),
            "label_of": task.label_of,
        }
        hypers.append(hyper if member.base is None else hyper | {"base": member.base})
    states = [lab.start(member.start(), member.base is not None) for member in members]
    states = population_of(states, size, lab.mesh, mode=lab.config.parallel.mode)
    return states, population_of(hypers, size, lab.mesh)


class Run:
    """A run of the study: what is done so far, and how to do more."""

    def __init__(self, lab: Lab, place: Workplace):
        self.lab, self.place, self.csv = lab, place, place.folder / "results.csv"
        self.rounds: list[Round] = []

    def train(self, name: str, program: Program, members: Sequence[Member]) -> None:
        """Train members, so many at a time; what is trained already is not trained again."""
        # Not of the number of devices, which a restart may have others of.
        size = max(1, min(self.lab.config.members_per_round, len(members)))
        for i, at in enumerate(range(0, len(members), size)):
            self.rounds.append(Round(f"{name}-{i}", program, members[at : at + size], size))
            self._fit(self.rounds[-1], self.place)

    def trained(self, name: str) -> list[Variables]:
        """The variables of the members that were trained under that name."""
        found = []
        for each in self.rounds:
            if each.name.rpartition("-")[0] == name:
                states, _ = self._fit(each, self.place.quiet)
                found += trees.unstack(to_host(states.variables))[: len(each.members)]
        return found

    def _fit(self, each: Round, place: Workplace) -> tuple[TrainState, Hyper]:
        lab, config = self.lab, self.lab.config
        tasks = [task_of(lab, member) for member in each.members]
        states, hypers = assemble(lab, each.members, each.size)

        def accuracy(states: TrainState) -> np.ndarray:
            examples = [task.examples["validation"] for task in tasks]
            return each.program.accuracy(states, hypers, examples, lab.feed.fetch)

        dispatches = partial(
            lab.feed.dispatches, hypers, steps=config.steps_per_dispatch, batch=config.batch
        )
        states = place.fit(
            each.name,
            each.program.train,
            states,
            hypers,
            lambda first: dispatches(range(first, config.steps)),
            networks=[network._asdict() for network in each.networks],
            steps=config.steps,
            steps_per_dispatch=config.steps_per_dispatch,
            dispatches_per_evaluation=config.dispatches_per_evaluation,
            watch=lambda states: {"validation_accuracy": accuracy(states)},
        )
        return states, hypers

    def measure(self, test: Split | None) -> None:
        """Write ``results.csv``: accuracies on the test images, or, with None, on those for
        validation; NaN for a network that diverged, or whose first layers are of one that did."""
        lab, rows, lost = self.lab, [], logs.faults(self.place.curves, Network)
        feed = lab.feed
        if test is not None:
            feed = make_feed(lab.config.data.feed, {"test": test}, lab.mesh)

        def examples(member: Member) -> np.ndarray:
            task = task_of(lab, member)
            if test is None:
                return task.examples["validation"]
            return np.flatnonzero(task.label_of[test["label"]] >= 0)

        for each in self.rounds:
            states, hypers = self._fit(each, self.place.quiet)
            places = list(map(examples, each.members))
            found = each.program.accuracy(states, hypers, places, feed.fetch).reshape(-1)
            for network, accuracy in zip(each.networks, found.tolist(), strict=True):
                of_no_use = network in lost or donor_of(network) in lost
                rows.append(Result(*network, math.nan if of_no_use else accuracy))
        reporting.write_results(self.csv, rows)


def donor_of(network: Network) -> Network | None:
    """The base that gives a network its first layers, if one does."""
    asked = transfer.TREATMENTS.get(network.treatment)
    if asked is None or asked.source == "random":
        return None
    direction = network.direction if asked.source == "self" else network.direction[::-1]
    return network._replace(direction=direction, treatment="base", n=0)


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
    run.train("bases", full, [Member([name], partial(fresh, name)) for name in names])
    trained = run.trained("bases")
    variables = dict(zip(names, trained, strict=True))

    def donor(network: Network) -> Variables:
        """What gives the first layers: a base, or a network as it began."""
        base = donor_of(network)
        return variables[base] if base else fresh(network._replace(treatment="untrained", n=0))

    def transplanted(network: Network) -> Variables:
        return transfer.transplant(donor(network), fresh(network), network.n)

    def above_cuts(networks: Sequence[Network]) -> Variables:
        return transfer.stack_cuts([fresh(network) for network in networks], lab.cuts)

    tuned, frozen = [], []
    for treatment in config.treatments:
        if treatments[treatment].frozen:
            for base in names:
                networks = [base._replace(treatment=treatment, n=n) for n in lab.cuts]
                start = partial(above_cuts, networks)
                frozen.append(Member(networks, start, donor(networks[0])))
        else:
            for base, n in product(names, lab.cuts):
                asked = base.split in config.fine_tuned_splits
                if asked and base.direction in config.fine_tuned_directions:
                    network = base._replace(treatment=treatment, n=n)
                    tuned.append(Member([network], partial(transplanted, network)))
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


def most_members(config: ConfigDict) -> int:
    """How many members are trained at a time, at most: of fine-tuned networks there may be many,
    of frozen ones a member for each base and treatment."""
    for treatment in config.treatments:
        if treatment in transfer.TREATMENTS and not transfer.TREATMENTS[treatment].frozen:
            return config.members_per_round
    count = 2 * len(config.splits) * config.seeds * max(1, len(config.treatments))
    return min(config.members_per_round, count)


def draw(lab: Lab, run: Run, workdir: Path) -> None:
    """The figures."""
    config, results = lab.config, reporting.read_results(run.csv)
    reporting.figure(
        reporting.summarize(results), results, YOSINSKI_2014, workdir / "transferability.png"
    )
    base = bases(config)[0]
    task = lab.tasks[base.split, base.seed, base.direction[1]]
    batch, names = first_batch(lab, task, member_key("train", *base), 60)
    figures.samples(np.asarray(batch["image"]), names, workdir / "samples.png")
    lines = logs.by_network(run.place.curves, Network)
    panels = {}
    for label, field in (("training loss", "loss"), ("validation accuracy", "validation_accuracy")):
        panels[label] = {}
        for split in config.splits:
            mine = [lines[base] for base in bases(config) if base.split == split]
            panels[label][f"bases, {split} halves"] = [logs.series(m, field) for m in mine]
    figures.curves(panels, workdir / "curves.png")


def study(config: ConfigDict, workdir: Path, stop: StopFlag) -> str:
    """Run the whole study; the report."""
    with _run.user_input():
        lab = make_lab(config)
        source = lab.source
        _run.claim(workdir, config, _run.describe_source(source))
        if omissions := _run.describe_omissions(source):
            _run.say(f"not read: {omissions}")
        finished = workdir / "report.md"
        if finished.exists():
            return finished.read_text(encoding="utf-8")
    with stop:  # there is something to save from here on
        total = count_networks(config, len(lab.cuts)) * config.steps
        with _run.progress_bar(total) as progress:
            run = Run(lab, _run.workplace(config, workdir, stop, progress))
            train_all(lab, run)
        # Everything is trained and chosen: here, and nowhere before, the test images are read.
        test = source.test.open() if config.report_on == "test" else None
        run.measure(test)
        draw(lab, run, workdir)
        told = facts(lab, run, test) | _run.describe_run(run.place)
        report = reporting.report(reporting.read_results(run.csv), YOSINSKI_2014, facts=told)
        write_atomically(finished, report)
        return report


def facts(lab: Lab, run: Run, test: Split | None) -> dict[str, str]:
    """What a reader of the report must know of the run."""
    config, source = lab.config, lab.source
    images = sorted({len(task.examples["train"]) for task in lab.tasks.values()})
    parameters = trees.count(jax.eval_shape(lab.init, jax.random.key(0))["params"])
    told = {
        "Data": f"{source.name} {source.version}".strip() + f", {len(source.class_names)} classes, "
        f"{' to '.join(map(str, images[:: max(1, len(images) - 1)]))} training images a task; "
        f"accuracy on the {config.report_on} split",
        "Network": f"{config.model}, {parameters:,} parameters, {config.steps} steps of "
        f"{config.batch} images",
    }
    if omissions := _run.describe_omissions(source):
        told["Not read"] = omissions
    others = {"validation": source.splits["validation"]}
    if test is not None:
        others["test"] = test
    if isinstance(lab.feed, Resident):  # a stream is not read for this alone
        known = in_memory(source.splits["train"]["image"])
        twins = []
        for split, arrays in others.items():
            pairs = splits.duplicates(in_memory(arrays["image"]), known)
            twins.append(f"{len(np.unique(pairs[:, 0]))} in {split}")
        told["Exact copies of training images"] = ", ".join(twins)
    if lost := logs.faults(run.place.curves, Network):
        networks = [network for each in run.rounds for network in each.networks]
        steps = [
            _run.describe_fault(network, fault)
            + ", and with it those that have its layers" * (network in map(donor_of, networks))
            for network, fault in lost.items()
        ]
        told["Diverged"] = "; ".join(steps)
    return told


if __name__ == "__main__":
    _run.run(study, "transferability", get_config(), most_members)
