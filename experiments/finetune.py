"""What does a trained network save you? Its features frozen, fine-tuned, or none, on few images.

python -m experiments.finetune --config configs/finetune.py[:variant]

Donors are trained on one data set in this run, or one comes with its weights in a file. Methods
begin with a donor's stages and train what is above those that they freeze, on 10 images, or 100.
Frozen features of images that do not change are computed once, for all networks and steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import chain, product
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from configs.finetune import get_config
from experiments.harness import classification, donors, recipe
from experiments.harness import settings as declared
from experiments.harness.run import run
from experiments.harness.settings import Count, Settings, TupleOf
from experiments.harness.single_source import Part, SingleSourceStudy
from experiments.harness.study import Headline, conduct
from jaxdl import transfer, trees
from jaxdl.data import sampling
from jaxdl.data.encoded import in_memory
from jaxdl.data.source import Split, length
from jaxdl.report import finetune as reporting
from jaxdl.report import finetune_figures as figures
from jaxdl.report import predictions
from jaxdl.report.finetune import DONOR
from jaxdl.train.groups import Member, Program, Trained, example_streams
from jaxdl.train.loop import Trainer
from jaxdl.train.population import member_key
from jaxdl.train.state import TrainState, create_state
from jaxdl.types import Hyper, Variables

KINDS = {
    **classification.COMMON,
    "images": TupleOf(Count(0), "(10, 100), numbers of training images", least=1),
    "stages": TupleOf(Count(0), "(1, 2, 3), numbers of frozen stages"),
}
SETTINGS = Settings(KINDS, ("options", "methods", "training"), ("data.workers",))


class Network(NamedTuple):
    """The name of a network: the first columns of ``results.csv``."""

    method: str
    images: int  # that it is trained on; 0 for a donor, which has all of its own
    frozen: int  # so many of the first stages
    seed: int


class FineTuning(SingleSourceStudy):
    """Donors, then networks that start from their stages, then networks that start from those."""

    settings, network = SETTINGS, Network
    headline = Headline(
        reporting.Result, "accuracy", lambda n: n.method != DONOR, ("images", "frozen")
    )

    def __init__(self, config: ConfigDict):
        super().__init__(config)
        count = length(self.source.splits["train"])
        if max(config.images) > count:
            raise ValueError(f"config.images={config.images}: there are {count} training images")
        self.numbers = sorted({n or count for n in config.images})
        self.methods = donors.check_methods(config)
        self.donors = donors.Donors(config, donors.METHOD)
        self.identity = {**self.identity, **self.donors.identity}
        if self.donors.source:
            self.sources = {**self.sources, DONOR: self.donors.source}

    def build(self) -> None:
        """Networks, programs, and the plan of all members."""
        super().build()
        config, shape = self.config, self.image_shape()
        classes, title = len(self.source.class_names), self.donors.make_model.title
        model = self.donors.make_network(classes, self.placement.axis_name)
        self.init, self.shapes = self.initializer(model, shape, title, (1, classes), layers=True)
        self.model, self.stages = model, self.donors.fit(model, self.shapes, shape)
        splits = chain.from_iterable(source.splits.values() for source in self.sources.values())
        self.labels = np.concatenate([np.asarray(split["label"]) for split in splits])
        self.count = sum(map(length, self.source.splits.values()))
        """Training and validation images of the target, with which the feed begins."""
        self.feature_feeds = self.donors.feature_feeds(
            self.model, self.images, self.placement, config.evaluation_batch
        )
        frozen = {name: self.count_frozen(name) for name in self.methods}
        every_stage = config.every_stage, len(self.stages)
        images = self.identity["sizes"][config.report_on]
        self.layout = reporting.Layout(frozen, config.baseline, *every_stage, images)
        self.programs: dict[tuple, Program] = {}
        self.states: dict[Network, TrainState] = {}
        self.plan: dict[str, list[Member]] = {"donors": [], "networks": [], "continued": []}
        if self.donors.source:
            self.plan["donors"] = [self.donor(seed) for seed in range(config.seeds)]
        for network in self.list_networks():
            (method, _, n, _), start = network, self.methods[network.method]["start"]
            if frozen.get(start, n) < n:  # the start has trained stages that this one would freeze
                raise ValueError(
                    f"config.methods.{method}: frozen={n}, but only {frozen[start]} stages of "
                    f"{start} are still the donor's"
                )
            self.plan["continued" if start in frozen else "networks"].append(self.member(network))
        # The first is drawn: one that sees images, if any does.
        self.members = [member for members in self.plan.values() for member in members]
        self.members.sort(key=lambda m: (m.networks[0].frozen, m.networks[0].method == DONOR))

    def count_frozen(self, method: str) -> int:
        """The number of stages that a method freezes; ValueError where none is left to train."""
        n, depth = self.methods[method]["frozen"], len(self.stages)
        if n >= depth:
            problem = f"config.methods.{method}: frozen={n}, but config.model={self.config.model}"
            raise ValueError(f"{problem} has {depth} stages, of which one must be trained")
        return n if n >= 0 else depth - 1

    def list_networks(self) -> Iterator[Network]:
        """All networks but the donors."""
        for method, images, seed in product(self.methods, self.numbers, range(self.config.seeds)):
            stages = {self.layout.frozen[method]}
            if method == self.layout.every_stage:
                stages |= {*self.config.stages}
            yield from (Network(method, images, n, seed) for n in sorted(stages))

    def donor(self, seed: int) -> Member:
        """A donor, trained on its own data from the initial values of its seed."""
        settings, ids = self.donors.training, self.ids[DONOR, "train"]
        classes = len(self.sources[DONOR].class_names)
        model = self.donors.make_network(classes, self.placement.axis_name)
        init, _ = self.initializer(model, self.image_shape(), self.donors.make_model.title)
        key = {"key": member_key(DONOR, seed)}
        hyper = key | example_streams([ids], len(ids)) | recipe.numbers(settings)
        start = classification.starting(init, recipe.update_rule(settings))
        network, program = Network(DONOR, 0, 0, seed), self.make(settings, 0, model)
        return Member([network], program, partial(start, seed, lambda: hyper), lambda: hyper)

    def member(self, network: Network) -> Member:
        """A network on some images of the target."""
        settings = self.methods[network.method]

        def start() -> TrainState:
            _, upper = transfer.cut(self.beginning(network), network.frozen, self.stages)
            return create_state(upper, recipe.update_rule(settings), self.hyper(network))

        program = self.make(settings, network.frozen, self.model)
        return Member([network], program, start, partial(self.hyper, network))

    def make(self, settings: Mapping[str, Any], n: int, model: Any) -> Program:
        """The program of networks whose first n stages are frozen."""
        key = n, model is self.model, recipe.program_key(settings, ("start",))
        if key in self.programs:
            return self.programs[key]
        see = self.donors.make_see(self.images, **{k: settings[k] for k in donors.CHANGES})
        cached = n > 0 and not donors.changes(settings)
        updates = settings["statistics"] == "updated"
        rule = recipe.update_rule(settings)
        rule(recipe.numbers(settings))  # for its errors
        self.programs[key] = self.program(
            recipe.make_loss(transfer.Above(model, n, updates=updates), settings, "image"),
            lambda state, hyper, x: model.apply(state.variables, x, start=n),
            rule,
            donors.make_prepare(model, see, n, cached),
            **{name: settings[name] for name in ("steps", "batch")},
            feed=self.feature_feeds.feed(n, "train", self.source.splits) if cached else None,
        )
        return self.programs[key]

    def is_cached(self, network: Network) -> bool:
        """Whether a network is trained on precomputed features."""
        return network.frozen > 0 and not donors.changes(self.methods[network.method])

    def offset(self, network: Network, count: int) -> np.int32:
        """First index of a network's examples in its feed, which has ``count`` a donor."""
        return np.int32(self.is_cached(network) and count * self.donors.number(network.seed))

    def draw_examples(self, network: Network) -> np.ndarray:
        """The images that a network is trained on, in its feed: among the first 100 of a seed are
        the first 10, and of all classes there are equally many as far as that goes."""
        if network.method == DONOR:
            return self.ids[DONOR, "train"]
        ids = self.ids["images", "train"]
        order = sampling.in_turn(self.labels[ids], np.random.default_rng(network.seed))
        return ids[order[: network.images]] + self.offset(network, self.count)

    def examples(self, member: Member, source: str, tests: Mapping[str, Split]) -> np.ndarray:
        """The ids of all validation examples."""
        (network,) = member.networks
        name = DONOR if network.method == DONOR else "images"
        return self.ids[name, "validation"] + self.offset(network, self.count)

    def hyper(self, network: Network) -> Hyper:
        """The numbers of a member, and its examples."""
        hyper = recipe.numbers(self.methods[network.method])
        hyper |= {"key": member_key("train", network.seed)}
        hyper |= example_streams([self.draw_examples(network)], self.numbers[-1])
        if network.frozen and not self.is_cached(network):
            hyper["below"] = self.donors.below(network.seed, network.frozen)
        return hyper

    def beginning(self, network: Network) -> Variables:
        """The variables of all stages before the first step."""
        start = self.methods[network.method]["start"]
        if start in self.methods:
            origin = self.origin(network)
            below = self.donors.below(network.seed, origin.frozen)
            return transfer.join(below, self.states[origin].variables)
        fresh = self.init(member_key("init", network.seed))
        return fresh if start == "fresh" else self.donors.transplanted(network.seed, fresh)

    def origin(self, network: Network) -> Network | None:
        """The network that it starts from: the seed's donor, or another method's; None if fresh."""
        start = "fresh" if network.method == DONOR else self.methods[network.method]["start"]
        images = network.images if start in self.methods else 0
        origin = Network(start, images, self.layout.frozen.get(start, 0), network.seed)
        return None if start == "fresh" else origin

    def train(self, trainer: Trainer) -> None:
        """Train donors, then networks that start from them, then those that start from one of
        these."""
        for kind, members in self.plan.items():
            for trained in self.train_members(trainer, kind, members):
                self.states |= zip(trained.group.networks, trained.states, strict=True)
            if kind == "donors" and members:
                self.donors.networks = [self.states[m.networks[0]].variables for m in members]

    def parts(self, tests: Mapping[str, Split], trained: Trained) -> dict[str, Part]:
        """The examples of a group's networks, which are of one kind, by split."""
        first = trained.group.networks[0]
        name, n = DONOR if first.method == DONOR else "images", first.frozen * self.is_cached(first)
        feed = self.feature_feeds.feed(n, "train", self.source.splits) if n else self.feed
        labels = self.labels[: self.count] if n else self.labels

        def answers(labels: np.ndarray) -> Callable[[tuple, np.ndarray], np.ndarray]:
            return lambda network, ids: labels[ids % len(labels)]  # of each donor the same again

        parts: dict[str, Part] = {
            "train": (feed, lambda member: self.draw_examples(*member.networks), answers(labels)),
            "validation": (feed, lambda m: self.examples(m, name, {}), answers(labels)),
        }
        if tests:
            split, count = {"test": tests[name]}, length(tests[name])
            feed = self.feature_feeds.feed(n, f"test {name}", split)
            ids, labels = np.arange(count, dtype=np.int32), np.asarray(tests[name]["label"])
            parts["test"] = feed, lambda m: ids + self.offset(*m.networks, count), answers(labels)
        return parts

    def measure(self, trainer: Trainer, tests: Mapping[str, Split]) -> None:
        """Compute all networks' outputs and accuracies."""
        self.tests, faults = tests, trainer.curves.faults(Network)
        self.predictions = self.judge(partial(self.parts, tests), faults)
        self.results = [
            reporting.Result(*network, *predictions.scores(parts, self.config.report_on))
            for network, parts in sorted(self.predictions.items())
        ]
        reporting.write_results(trainer.folder / "results.csv", self.results)

    def entry(self, network: Network) -> str | None:
        """Curves are those of the donors, and of methods on most images."""
        is_shown = network.method == DONOR or network.frozen == self.layout.frozen[network.method]
        return network.method if is_shown and network.images in (0, self.numbers[-1]) else None

    def draw(self, trainer: Trainer) -> None:
        """Draw accuracies against images and frozen stages, and the best method's predictions."""
        if self.members[0].networks[0].frozen:
            self.inputs = "features"  # of which there is nothing to be seen
        super().draw(trainer)
        figures.draw(self.results, self.layout, trainer.folder)
        split = self.tests.get("images", self.source.splits["validation"])
        if best := reporting.best(self.results, self.layout):
            prediction = self.predictions[Network(*best)][self.config.report_on]
            path, names = trainer.folder / "predictions.png", self.source.class_names
            figures.draw_page(in_memory(split["image"]), prediction, names, path)

    def report(self, trainer: Trainer, facts: Mapping[str, str]) -> str:
        """The report in Markdown."""
        config = self.config
        lines = {
            "Data": self.describe_data(f"{length(self.source.splits['train']):,} training images"),
            "Donors": self.donors.description,
            "Network": f"{config.model}, {trees.count(self.shapes['params']):,} parameters in "
            f"{len(self.stages)} stages",
            **declared.describe_methods(config, get_config().base),
            "Settings come from": config.settings_from,
            **self.describe_copies(),
            "Speed of training": self.describe_speed(trainer),
            "Speed of features": self.feature_feeds.describe(),
        }
        return reporting.report(self.results, self.layout, lines | facts)


study = partial(conduct, FineTuning)

if __name__ == "__main__":
    run(study, "finetune", get_config(), members=classification.most_members, free=SETTINGS.free)
