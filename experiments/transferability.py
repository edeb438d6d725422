"""How transferable are features in deep neural networks? (Yosinski et al., NIPS 2014)

python -m experiments.transferability --config configs/transferability.py[:variant]

Base networks are trained on two halves of the classes, A and B. Then every treatment is trained at
every cut: its first layers come from a base, and are frozen or fine-tuned. The frozen networks of
one base are one member, since they share its forward pass
(:func:`jaxdl.transfer.shared_prefix_loss`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from typing import NamedTuple

import flax.linen as nn
import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from configs.transferability import get_config
from experiments.harness import classification, recipe
from experiments.harness.run import run
from experiments.harness.settings import Between, Count, Multiple, OneOf, Settings, SomeOf, TupleOf
from experiments.harness.single_source import SingleSourceStudy
from experiments.harness.study import Headline, conduct
from experiments.harness.user_functions import NamedFunction
from jaxdl import transfer, trees
from jaxdl.data import preparation, splits
from jaxdl.data.source import Split
from jaxdl.nn.layered import layer_order
from jaxdl.nn.models import MODELS
from jaxdl.optim import make_optimizer, make_schedule
from jaxdl.report import transfer_figure, transferred
from jaxdl.report import transferability as reporting
from jaxdl.report.published import YOSINSKI_2014
from jaxdl.supervised import classification_loss
from jaxdl.train.groups import Member, Program, example_streams
from jaxdl.train.loop import Trainer
from jaxdl.train.population import Prepare, member_key
from jaxdl.train.state import TrainState, create_state
from jaxdl.types import Batch, Hyper, LossFn, Variables

HALVES = ("random", "dissimilar")
SETTINGS = Settings(
    {
        **classification.COMMON,
        "splits": SomeOf(HALVES, least=1),
        "treatments": SomeOf(tuple(transfer.TREATMENTS)),
        "fine_tuned_splits": SomeOf(HALVES),
        "fine_tuned_directions": SomeOf(("AB", "BA")),
        "image.subtract": OneOf(("channels", "pixels")),
        **dict.fromkeys(("image.crop", "image.padding"), Between(0, 2**15 - 1)),
        "steps": (Count(), Multiple("steps_per_dispatch")),
        "batch": (Count(), Multiple("parallel.data")),
        "optimizer.learning_rate": Between(0, above=True),
        "optimizer.weight_decay": Between(0),
        "optimizer.bias_rate": Between(0, above=True),
        "schedule.warmup": Between(0, 1, below=True),
        "schedule.drops": TupleOf(Between(0, 1), "(1 / 3, 2 / 3), parts of the steps"),
    },
    free=("options",),
    computing=("data.workers",),
)


class Network(NamedTuple):
    """The name of a network: the first columns of ``results.csv``."""

    split: str
    seed: int
    direction: str  # from the task of the base to that of the network: AB or BA
    treatment: str
    n: int


def donor_of(network: Network) -> Network | None:
    """The base that gives a network its first layers, if one does."""
    treatment = transfer.TREATMENTS.get(network.treatment)
    if treatment is None or treatment.source == "random":
        return None
    direction = network.direction if treatment.source == "self" else network.direction[::-1]
    return network._replace(direction=direction, treatment="base", n=0)


def make_rate(config: ConfigDict) -> optax.Schedule:
    """The learning rate of each step."""
    schedule, steps = config.schedule, config.steps
    options = {"warmup": round(schedule.warmup * steps), "drops": tuple(schedule.drops)}
    return make_schedule(schedule.name, config.optimizer.learning_rate, steps=steps, **options)


def make_rule(config: ConfigDict) -> optax.GradientTransformation:
    """The update rule of the configuration."""
    rule = config.optimizer
    options = {"bias_rate": rule.bias_rate, "max_norm": rule.max_norm or None}
    return make_optimizer(rule.name, make_rate(config), weight_decay=rule.weight_decay, **options)


class Transferability(SingleSourceStudy):
    """Bases, then all that starts from their layers."""

    settings, network = SETTINGS, Network
    headline = Headline(
        transferred.Result, "accuracy", lambda n: n.treatment == "AnB", ("direction",)
    )

    def __init__(self, config: ConfigDict):
        self.rule = make_rule(config)
        self.make_model = NamedFunction("config.model", config.model, MODELS, nn.Module)
        super().__init__(config)
        if "dissimilar" in config.splits and not self.source.class_groups:
            problem = f"{self.source.name} has no groups of classes"
            raise ValueError(f"{problem}: set config.splits=('random',)")

    def build(self) -> None:
        """Tasks, network, programs, and the plan of all members."""
        super().build()
        config, self.tasks = self.config, self.make_tasks()
        classes = max(int(task.label_of.max()) + 1 for task in self.tasks.values())
        model = recipe.over_devices(self.make_model(classes), self.placement.axis_name)
        try:
            see = preparation.standardized(self.images, **config.image)
        except ValueError as error:
            raise ValueError(f"config.image.{error}") from None
        image, title = self.image_shape(config.image.crop), self.make_model.title
        self.init, self.shapes = self.initializer(model, image, title, (1, classes), layers=True)
        self.model, self.order = model, layer_order(model, self.shapes)
        self.cuts = tuple(range(1, len(self.order)))

        def prepare(stored: Batch, hyper: Hyper, key: jax.Array | None) -> Batch:
            labels = hyper["label_of"][stored["label"]]
            return {"image": see(stored["image"], key), "label": labels}

        def start(variables: Variables, is_shared: bool) -> TrainState:
            flags = transfer.alive(variables) if is_shared else True
            return create_state(variables, self.rule, alive=flags)

        self.start = jax.jit(start, static_argnums=1)
        self.full = self.make_kind(
            prepare,
            classification_loss(self.model),
            lambda state, hyper, x: self.model.apply(state.variables, x),
        )
        self.frozen = self.make_kind(
            prepare,
            transfer.shared_prefix_loss(self.model, self.cuts),
            lambda state, hyper, x: transfer.shared_prefix_logits(
                self.model, self.cuts, hyper["base"], state.variables, x
            ),
        )
        self.plan = self.make_plan()
        self.members = [member for members in self.plan.values() for member in members]
        self.variables: dict[Network, Variables] = {}
        """Variables of the bases, after their training."""

    def make_tasks(self) -> dict[tuple[str, int, str], splits.Task]:
        """Tasks by kind of halves, seed, and A or B."""
        config, source, tasks = self.config, self.source, {}
        labels = {split: arrays["label"] for split, arrays in source.splits.items()}
        for split, seed in product(config.splits, range(config.seeds)):
            if split == "random":
                halves = splits.random_halves(len(source.class_names), seed)
            else:
                halves = splits.group_halves(source.class_groups)
            for side, half in zip("AB", halves, strict=True):
                task = splits.make_task(labels, half, len(source.class_names))
                sizes = {part: len(examples) for part, examples in task.examples.items()}
                for part, size in (sizes | {"test": source.test.counts[half].sum()}).items():
                    if not size:
                        raise ValueError(f"no {part} images for task {side} of {split} halves")
                tasks[split, seed, side] = task
        return tasks

    def make_kind(self, prepare: Prepare, loss: LossFn, logits: Callable) -> Program:
        """Training with a loss, evaluation with logits."""
        size = {"steps": self.config.steps, "batch": self.config.batch}
        return self.program(loss, logits, lambda _: self.rule, prepare, **size)

    def make_plan(self) -> dict[str, list[Member]]:
        """All members, by kind, in the order of training."""
        config, tuned, frozen = self.config, [], []
        names = product(config.splits, range(config.seeds), ("AB", "BA"))
        bases = [Network(*name, "base", 0) for name in names]
        tuned_bases = set(product(config.fine_tuned_splits, config.fine_tuned_directions))
        for treatment, base in product(config.treatments, bases):
            networks = [base._replace(treatment=treatment, n=n) for n in self.cuts]
            if transfer.TREATMENTS[treatment].frozen:
                frozen.append(self.member(networks, partial(self.above_cuts, networks), True))
            elif (base.split, base.direction) in tuned_bases:
                tuned += [self.member([n], partial(self.transplanted, n)) for n in networks]
        bases = [self.member([base], partial(self.fresh, base)) for base in bases]
        return {"bases": bases, "fine-tuned": tuned, "frozen": frozen}

    def member(
        self, networks: list[Network], variables: Callable[[], Variables], frozen: bool = False
    ) -> Member:
        """Networks that are trained as one, and the variables that they start from."""
        task = self.task_of(networks[0])
        longest = max(len(task.examples["train"]) for task in self.tasks.values())

        def hyper() -> Hyper:
            donor = {"base": self.donor(networks[0])} if frozen else {}
            settings = {"key": member_key("train", *networks[0]), "label_of": task.label_of}
            return settings | example_streams([task.examples["train"]], longest) | donor

        program = self.frozen if frozen else self.full
        return Member(networks, program, lambda: self.start(variables(), frozen), hyper)

    def task_of(self, network: Network) -> splits.Task:
        """The task that a network is trained on: the one that its direction leads to."""
        return self.tasks[network.split, network.seed, network.direction[1]]

    def examples(self, member: Member, source: str, tests: Mapping[str, Split]) -> np.ndarray:
        """The ids of the examples of the member's task."""
        task = self.task_of(member.networks[0])
        if not tests:
            return task.examples["validation"]
        return np.flatnonzero(task.label_of[tests["images"]["label"]] >= 0)

    def fresh(self, network: Network) -> Variables:
        """A network before training."""
        return jax.device_get(self.init(member_key("init", *network)))

    def donor(self, network: Network) -> Variables:
        """The donor of first layers: a base, or a network never trained, the same for all cuts."""
        if base := donor_of(network):
            return self.variables[base]
        return self.fresh(network._replace(treatment="untrained", n=0))

    def transplanted(self, network: Network) -> Variables:
        """The first layers of the donor, the others fresh."""
        return transfer.transplant(self.donor(network), self.fresh(network), network.n, self.order)

    def above_cuts(self, networks: Sequence[Network]) -> Variables:
        """The layers above each cut, fresh."""
        return transfer.stack_cuts(list(map(self.fresh, networks)), self.cuts, self.order)

    def train(self, trainer: Trainer) -> None:
        """Bases first, then all that starts from their layers."""
        for kind, members in self.plan.items():
            for trained in self.train_members(trainer, kind, members, even=False):
                if kind == "bases":
                    variables = (state.variables for state in trained.states)
                    self.variables |= zip(trained.group.networks, variables, strict=True)

    def measure(self, trainer: Trainer, tests: Mapping[str, Split]) -> None:
        """Accuracies; NaN for a network that diverged, or has its first layers of one that did."""
        accuracies = {n: x["images"] for n, x in self.accuracies(trainer, tests).items()}
        rows = [
            # 0 times NaN is NaN: where the donor has diverged, its layers are of no use.
            transferred.Result(*network, accuracy + 0 * accuracies.get(donor_of(network), 0))
            for network, accuracy in accuracies.items()
        ]
        transferred.write_results(trainer.folder / "results.csv", rows)

    def entry(self, network: Network) -> str | None:
        """Curves are those of the bases."""
        return f"bases, {network.split} halves" if network.treatment == "base" else None

    def draw(self, trainer: Trainer) -> None:
        """Accuracy against the cut; images as the first base sees them; curves."""
        super().draw(trainer)
        results = transferred.read_results(trainer.folder / "results.csv")
        summary, path = transferred.summarize(results), trainer.folder / "transferability.png"
        transfer_figure.draw(summary, results, YOSINSKI_2014, path)

    def report(self, trainer: Trainer, facts: Mapping[str, str]) -> str:
        """The report in Markdown."""
        config = self.config
        images = sorted({len(task.examples["train"]) for task in self.tasks.values()})
        images = " to ".join(map(str, images[:: max(1, len(images) - 1)]))
        facts = {
            "Data": self.describe_data(f"{images} training images a task"),
            "Network": f"{config.model}, {trees.count(self.shapes['params']):,} parameters, "
            f"{config.steps} steps of {config.batch} images",
            **self.describe_copies(),
            **facts,
        }
        results = transferred.read_results(trainer.folder / "results.csv")
        return reporting.report(results, YOSINSKI_2014, facts=facts)


def most_members(config: ConfigDict) -> int:
    """The most members trained at a time; frozen networks are one for each base and treatment."""
    for treatment in config.treatments:
        if treatment in transfer.TREATMENTS and not transfer.TREATMENTS[treatment].frozen:
            return config.members_per_round
    count = 2 * len(config.splits) * config.seeds * max(1, len(config.treatments))
    return min(config.members_per_round, count)


study = partial(conduct, Transferability)

if __name__ == "__main__":
    run(study, "transferability", get_config(), members=most_members, free=SETTINGS.free)
