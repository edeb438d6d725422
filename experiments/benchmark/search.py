"""``configs/benchmark.py:search``: the trials of a random search, as a population and one by one.

The others train a share of the trials, since the time of a network and step does not depend on
rates. All begin from the same networks, and none validates.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from experiments.benchmark.contenders import Task
from experiments.benchmark.populations import continued
from experiments.benchmark.summaries import paragraph, series, spread, verdict
from experiments.benchmark.turns import Benchmark, Contender, Measurements, Setup, Slice
from experiments.harness import recipe
from experiments.harness.study import make_study
from experiments.search import Network, Search
from jaxdl.data.batches import batch_ids
from jaxdl.data.encoded import cores
from jaxdl.optim import make_schedule
from jaxdl.report.tables import markdown_table
from jaxdl.train.groups import Member, make_groups
from jaxdl.types import Variables

OURS, TORCH, OPTUNA = "population", "PyTorch", "Optuna"
GOALS = {"mlp": 8, "digit_net": 4}
"""Least ratios of a population's speed to PyTorch's, by network."""


def check(config: ConfigDict) -> None:
    """Raise ValueError where the benchmark cannot be made."""
    settings = config.search.study
    if config.search.share > settings.budget:
        raise ValueError(f"search.share: there are {settings.budget} trials")
    if settings.base.optimizer != "momentum" or set(settings.space) - {"rate", "weight_decay"}:
        raise ValueError("search.study: the others know momentum, its rate and its weight_decay")
    for kind in GOALS:
        make_trials(config, kind)


def setups(config: ConfigDict, scratch: Path) -> dict[str, Setup]:
    """The contenders by name; nothing is written to ``scratch``."""
    return {
        OURS: Setup(make_population, cores()),
        TORCH: Setup(make_pytorch, 1, questions=("settings",)),
        OPTUNA: Setup(make_optuna, 1),
    }


def make_trials(config: ConfigDict, model: str) -> tuple[Search, list[Member]]:
    """The study of a model, and the trials of its random search."""
    settings = config.search.study.copy_and_resolve_references()
    settings.base.model = model
    study = make_study(Search, settings)
    study.build()
    (stretches,) = study.plan("random", 0)
    return study, [study.member(Network("random", s.trial, 0), s.steps) for s in stretches]


def make_population(config: ConfigDict) -> Contender:
    """All trials of a model as one population."""
    slices = {}
    for kind in GOALS:
        study, members = make_trials(config, kind)
        groups = make_groups(kind, members, study.config.members_per_round, even=True)
        populations = [group.start() for group in groups]
        run = continued(members[0].program.training, populations, study.feed.data)
        slices[kind] = Slice(len(members), study.config.base.steps, run)
    return Contender(slices)


class Reference(NamedTuple):
    """Network, initial values and tasks of the other contenders."""

    model: Any
    starts: list[Variables]
    """Initial variables of each trial."""
    tasks: list[Task]
    """Tasks with the trials' rates and weight decay."""


def make_reference(config: ConfigDict, kind: str) -> Reference:
    """A share of the trials of a model."""
    study, members = make_trials(config, kind)
    members = members[: config.search.share]
    network, program = members[0].networks[0], members[0].program
    examples, _ = study.draw_examples(network)
    stored = jax.tree.map(lambda leaf: leaf[jnp.asarray(examples)], study.feed.data)
    prepare = study.prepare[program]
    batch = jax.device_get(jax.jit(prepare)(stored, members[0].hyper(), None))
    base = study.config.base
    size = {"steps": base.steps, "batch": base.batch, "examples": len(examples)}
    ids = np.asarray(batch_ids(jax.random.key(0), 0, **size))
    tasks = []
    for member in members:
        settings = study.trials[member.networks[0][:2]].settings
        rate = make_schedule(settings["schedule"], settings["rate"], steps=base.steps)
        rates = [float(rate(step)) for step in range(base.steps)]
        decay = settings["weight_decay"]
        tasks.append(Task(batch["image"], batch["label"], ids, rates, decay))
    model = recipe.make_model(base.to_dict() | {"model": kind}, study.width, None, "model")
    starts = [jax.device_get(member.start().variables) for member in members]
    return Reference(model, starts, tasks)


def make_pytorch(config: ConfigDict) -> Contender:
    """PyTorch, one trial after the other, eager, in the setting that is fastest here."""
    from experiments.benchmark.contenders import pytorch  # an extra

    slices, settings = {}, {}
    for kind in GOALS:
        model, starts, tasks = make_reference(config, kind)
        setting = pytorch.fastest(model, starts[0], tasks[0], cores())
        runs = [
            pytorch.one_after_the_other(model, [(start, 0)], task, setting)[1]
            for start, task in zip(starts, tasks, strict=True)
        ]
        slices[kind] = Slice(len(runs), len(tasks[0].rates), lambda runs=runs: [r() for r in runs])
        settings[kind] = str(setting)
    return Contender(slices, {"settings": lambda: settings})


def make_optuna(config: ConfigDict) -> Contender:
    """PyTorch by Optuna's random search over the same space: an objective makes a network and
    trains it."""
    import optuna  # an extra

    from experiments.benchmark.contenders import pytorch

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    slices = {}
    for kind in GOALS:
        reference = make_reference(config, kind)
        model, starts, tasks = reference
        setting = pytorch.fastest(model, starts[0], tasks[0], cores())

        def train(trial: Any, reference=reference, setting=setting) -> float:
            model, starts, (task, *_) = reference
            rate, decay = (
                trial.suggest_float(name, *config.search.study.space[name][1:], log=True)
                for name in ("rate", "weight_decay")
            )
            rates = (rate * np.array(task.rates) / task.rates[0]).tolist()
            search_task = task._replace(rates=rates, weight_decay=decay)
            start = starts[trial.number % len(starts)], 0
            (loss,) = pytorch.one_after_the_other(model, [start], search_task, setting)[1]()
            return min(loss, 1e9)  # also of one that has diverged

        def run(train=train, count=config.search.share) -> None:
            sampler = optuna.samplers.RandomSampler(seed=0)
            study = optuna.create_study(direction="minimize", sampler=sampler)
            study.optimize(train, n_trials=count)

        slices[kind] = Slice(len(starts), len(tasks[0].rates), run)
    return Contender(slices)


def sections(measurements: Measurements) -> list[str]:
    """The report, below its head."""
    config, rows, answers, _ = measurements
    table, verdicts = [], []
    for kind, goal in GOALS.items():
        ms = {name: series(rows, name, kind) for name in (OURS, TORCH, OPTUNA)}
        table += [
            [kind, name, f"{np.median(t):.3f}", spread(t / ms[OURS])] for name, t in ms.items()
        ]
        ratio = ms[TORCH] / ms[OURS]
        is_met = bool(np.median(ratio) >= goal)
        verdicts.append(verdict(f"{kind} at least {goal} times as fast", is_met, spread(ratio)))
    study, settings = config.search.study, answers[TORCH]["settings"]
    return [
        paragraph(f"""Milliseconds for a step of a network, medians of {config.rounds} rounds, and
            the ratio to ours, round by round: the median (least–most). Ours trains all
            {study.budget} trials, the others {config.search.share} of them, one after the other,
            for {study.base.steps} steps of {study.base.batch} images each; PyTorch with
            {", ".join(f"{setting} ({kind})" for kind, setting in settings.items())}."""),
        markdown_table(["network", "", "ms", "times ours"], table, left=2),
        " ".join(verdicts),
    ]


PEERS = {"torch": "PyTorch", "optuna": "Optuna"}
BENCHMARK = Benchmark(check, setups, sections, peers=PEERS)
