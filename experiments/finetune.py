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

import jax
import numpy as np
from ml_collections import ConfigDict

from configs.finetune import get_config
from experiments.harness import classification, recipe
from experiments.harness import settings as declared
from experiments.harness.donors import Donors
from experiments.harness.run import run
from experiments.harness.settings import Count, Each, OneOf, Settings, SomeOf
from experiments.harness.single_source import SingleSourceStudy
from experiments.harness.study import Headline, conduct
from jaxdl import transfer, trees
from jaxdl.data import sampling
from jaxdl.data.encoded import in_memory
from jaxdl.data.source import Split, length
from jaxdl.report import finetune as reporting
from jaxdl.report import finetune_figures as figures
from jaxdl.report import predictions
from jaxdl.report.finetune import DONOR
from jaxdl.report.predictions import Prediction
from jaxdl.train.features import FeatureFeeds
from jaxdl.train.feed import Feed, make_feed
from jaxdl.train.groups import Member, Program, example_streams, make_groups, train
from jaxdl.train.loop import Trainer
from jaxdl.train.population import member_key
from jaxdl.train.state import TrainState, create_state
from jaxdl.types import Batch, Hyper, Variables

CHANGES = ("changes", "strength", "flip", "padding")
"""Settings that say how images change from step to step."""
RECIPE = ("smoothing", "steps", "batch", "optimizer", "rate", "weight_decay", "schedule", "warmup")
METHOD = {
    "frozen": Count(-1),
    "statistics": OneOf(("updated", "frozen")),
    **{name: recipe.KINDS[name] for name in (*RECIPE, *CHANGES)},
    "changes": SomeOf(tuple(name for name in recipe.CHANGES if name not in recipe.MIXING)),
}
KINDS = {
    **classification.COMMON,
    "images": Each(Count(), "(10, 100), numbers of training images", least=1),
    "stages": Each(Count(0), "(1, 2, 3), numbers of frozen stages"),
    "stages_at": Count(),
}
SETTINGS = Settings(KINDS, ("options", "methods", "training"), ("data.workers",))


class Network(NamedTuple):
    """What names a row of ``results.csv``."""

    method: str
    images: int  # that it is trained on; 0 for a donor, which has all of its own
    frozen: int  # so many of the first stages
    seed: int


def check_methods(config: ConfigDict) -> dict[str, dict[str, Any]]:
    """The settings of all methods; ValueError where they cannot be had."""
    starts = OneOf(("donor", "fresh", *config.methods))
    checked = declared.methods(config, {**METHOD, "start": starts})
    methods = {name: method.settings for name, method in checked.items()}
    OneOf(tuple(methods)).check("config.baseline", config.baseline, config)
    OneOf(("", *methods)).check("config.every_stage", config.every_stage, config)
    if methods[config.baseline]["start"] != "fresh":
        raise ValueError(f"config.baseline={config.baseline} does not start fresh")
    if config.every_stage and config.stages_at not in config.images:
        raise ValueError(f"config.stages_at={config.stages_at} is not one of config.images")
    for name, settings in methods.items():
        place, start = f"config.methods.{name}", settings["start"]
        if name == DONOR:
            raise ValueError(f"{place}: this is what donors are called in the tables")
        if start == "fresh" and settings["frozen"]:
            raise ValueError(f"{place}: frozen={settings['frozen']} stages that nothing was taught")
        if start in methods and methods[start]["start"] in methods:
            raise ValueError(f"{place}.start={start}, which itself starts from a method")
    return methods


def changes(settings: Mapping[str, Any]) -> bool:
    """Whether images change from step to step."""
    return any(settings[name] for name in CHANGES if name != "strength")


class FineTuning(SingleSourceStudy):
    """Donors, then what begins with their stages, then what begins with one of those."""

    settings, network = SETTINGS, Network
    headline = Headline(
        reporting.Result, "accuracy", lambda n: n.method != DONOR, ("images", "frozen")
    )

    def __init__(self, config: ConfigDict):
        super().__init__(config)
        if max(config.images) > (count := length(self.source.splits["train"])):
            raise ValueError(f"config.images={config.images}: there are {count} training images")
        self.methods, self.donors = check_methods(config), Donors(config, METHOD)
        self.identity = {**self.identity, **self.donors.identity}
        if self.donors.source:
            self.sources = {**self.sources, DONOR: self.donors.source}

    def build(self) -> None:
        """Networks, programs, and the plan of all members."""
        super().build()
        config, shape = self.config, self.image_shape()
        place = f"config.model={config.model}"
        classes = len(self.source.class_names)
        self.model = self.donors.make_network(classes, self.placement.axis_name)
        self.init, self.shapes = self.initializer(self.model, shape, place)
        try:
            self.stages = self.donors.fit(self.model, self.shapes)
        except ValueError as error:
            size = " x ".join(map(str, shape))
            raise ValueError(f"{place} with config.weights on images of {size}: {error}") from None
        if odd := [n for n in config.stages if n >= len(self.stages)]:
            raise ValueError(f"config.stages: {place} has {len(self.stages)} stages, not {odd[0]}")
        splits = chain.from_iterable(source.splits.values() for source in self.sources.values())
        self.labels = np.concatenate([np.asarray(split["label"]) for split in splits])
        self.count = sum(map(length, self.source.splits.values()))
        """Of training and validation images of the target, the first in the feed."""
        see = self.donors.make_see(self.images)
        self.feature_feeds = FeatureFeeds(
            lambda n: lambda below, x: self.model.apply(below, see(x, None), stop=n),
            lambda n: [self.donors.below(i, n) for i in range(self.donors.count)],
            self.placement.mesh,
            config.evaluation_batch,
        )
        own = {name: self.own_stages(name) for name in self.methods}
        at = config.every_stage, config.stages_at
        self.layout = reporting.Layout(own, config.baseline, *at, len(self.stages))
        self.programs: dict[tuple, Program] = {}
        self.states: dict[Network, TrainState] = {}
        self.plan: dict[str, list[Member]] = {"donors": [], "networks": [], "continued": []}
        if self.donors.source:
            self.plan["donors"] = [self.donor(seed) for seed in range(config.seeds)]
        for network in self.list_networks():
            continues = self.methods[network.method]["start"] in self.methods
            self.plan["continued" if continues else "networks"].append(self.member(network))

        # The first is drawn: a baseline network, which sees images.
        self.members = [m for kind in ("networks", "continued", "donors") for m in self.plan[kind]]

    def list_networks(self) -> Iterator[Network]:
        """All but the donors."""
        config = self.config
        names = sorted(self.methods, key=lambda name: name != config.baseline)
        for method, images, seed in product(names, config.images, range(config.seeds)):
            stages = {self.own_stages(method)}
            if (method, images) == (config.every_stage, config.stages_at):
                stages |= {*config.stages}
            yield from (Network(method, images, n, seed) for n in sorted(stages))

    def own_stages(self, method: str) -> int:
        """How many stages a method freezes."""
        return self.methods[method]["frozen"] % len(self.stages)

    def donor(self, seed: int) -> Member:
        """A network that is trained on data of its own."""
        settings, ids = self.donors.training, self.ids[DONOR, "train"]
        classes = len(self.sources[DONOR].class_names)
        model = self.donors.make_network(classes, self.placement.axis_name)
        init, _ = self.initializer(model, self.image_shape(), "config.model")
        key = {"key": member_key(DONOR, seed)}
        hyper = key | example_streams([ids], len(ids)) | recipe.numbers(settings)
        start = classification.starting(init, recipe.update_rule(settings))
        network, program = Network(DONOR, 0, 0, seed), self.make(settings, 0, model)
        return Member([network], program, partial(start, seed, lambda: hyper), lambda: hyper)

    def member(self, network: Network) -> Member:
        """A network on some images of the target."""
        settings = self.methods[network.method]

        def start() -> TrainState:
            _, above = transfer.cut(self.beginning(network), network.frozen, self.stages)
            return create_state(above, recipe.update_rule(settings), self.hyper(network))

        program = self.make(settings, network.frozen, self.model)
        return Member([network], program, start, partial(self.hyper, network))

    def make(self, settings: Mapping[str, Any], n: int, model: Any) -> Program:
        """The program of networks whose first n stages are frozen."""
        same = {k: v if k not in recipe.OFF else v != recipe.OFF[k] for k, v in settings.items()}
        key = n, model is self.model, *(v for k, v in sorted(same.items()) if k != "start")
        if key in self.programs:
            return self.programs[key]
        see = self.donors.make_see(self.images, **{k: settings[k] for k in CHANGES})
        cached = n > 0 and not changes(settings)

        def prepare(stored: Batch, hyper: Hyper, key: jax.Array | None) -> Batch:
            if cached:
                return {"image": stored["features"], "label": stored["label"]}
            x = see(stored["image"], key)
            x = model.apply(hyper["below"], x, stop=n) if n else x
            return {"image": x, "label": stored["label"]}

        updates = settings["statistics"] == "updated"
        program = self.programs[key] = self.program(
            recipe.make_loss(transfer.Above(model, n, updates=updates), settings, "image"),
            lambda state, hyper, x: model.apply(state.variables, x, start=n),
            recipe.update_rule(settings),
            prepare,
            **{name: settings[name] for name in ("steps", "batch")},
            feed=self.feature_feeds.feed(n, "train", self.source.splits) if cached else None,
        )
        return program

    def is_cached(self, network: Network) -> bool:
        """Whether it is trained on features that are computed once."""
        return network.frozen > 0 and not changes(self.methods[network.method])

    def offset(self, network: Network, count: int) -> np.int32:
        """Where a network's examples begin in its feed: each donor has features of ``count``."""
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
        """All that are for validation."""
        (network,) = member.networks
        if network.method == DONOR:
            return self.ids[DONOR, "validation"]
        return self.ids["images", "validation"] + self.offset(network, self.count)

    def hyper(self, network: Network) -> Hyper:
        """The numbers of a member, and its examples."""
        hyper = recipe.numbers(self.methods[network.method])
        hyper |= {"key": member_key("train", network.seed)}
        hyper |= example_streams([self.draw_examples(network)], max(self.config.images))
        if network.frozen and not self.is_cached(network):
            hyper["below"] = self.donors.below(network.seed, network.frozen)
        return hyper

    def beginning(self, network: Network) -> Variables:
        """All stages as they are before the first step."""
        start = self.methods[network.method]["start"]
        if start in self.methods:
            before = network._replace(method=start, frozen=self.own_stages(start))
            below = self.donors.below(network.seed, before.frozen)
            return transfer.join(below, self.states[before].variables)
        fresh = self.init(member_key("init", network.seed))
        return fresh if start == "fresh" else self.donors.transplanted(network.seed, fresh)

    def train(self, trainer: Trainer) -> None:
        """Donors first; then what begins with them; then what begins with one of those."""
        for kind, members in self.plan.items():
            for group in make_groups(kind, members, self.config.members_per_round, even=True):
                trained = train(group, trainer, self.placement)
                self.trained.append(trained)
                self.states |= zip(group.networks, trained.states, strict=True)
            if kind == "donors" and members:
                states = (self.states[member.networks[0]] for member in members)
                self.donors.networks = [state.variables for state in states]

    def parts(
        self, first: Network, tests: Mapping[str, Split]
    ) -> dict[str, tuple[Feed, Callable[[Member], np.ndarray], np.ndarray]]:
        """By split, for networks like the first one: the feed, each member's examples there, and
        labels; example i has label i modulo their number."""
        name, n = DONOR if first.method == DONOR else "images", first.frozen * self.is_cached(first)
        feed, labels = self.feed, self.labels
        if n:
            feed = self.feature_feeds.feed(n, "train", self.source.splits)
            labels = labels[: self.count]
        parts = {
            "train": (feed, lambda member: self.draw_examples(*member.networks), labels),
            "validation": (feed, lambda member: self.examples(member, name, {}), labels),
        }
        if tests:
            split, count = {"test": tests[name]}, length(tests[name])
            feed = make_feed("auto", split, self.placement.mesh)
            if n:
                feed = self.feature_feeds.feed(n, "test", split)
            ids, labels = np.arange(count, dtype=np.int32), np.asarray(tests[name]["label"])
            parts["test"] = feed, lambda m: ids + self.offset(*m.networks, count), labels
        return parts

    def measure(self, trainer: Trainer, tests: Mapping[str, Split]) -> None:
        """What all networks put out, and their accuracies."""
        self.tests, faults = tests, trainer.curves.faults(Network)
        self.predictions: dict[Network, dict[str, Prediction]] = {}
        for trained in self.trained:
            parts = self.parts(trained.group.networks[0], tests)
            for split, (feed, examples, labels) in parts.items():
                outputs = self.predict(trained, feed, examples)
                for member, network in zip(trained.group.members, outputs, strict=True):
                    values = np.where(network in faults, np.nan, outputs[network])
                    answers = labels[examples(member) % len(labels)]
                    self.predictions.setdefault(network, {})[split] = Prediction(values, answers)
        self.results = [
            reporting.Result(*network, *predictions.scores(parts, self.config.report_on))
            for network, parts in sorted(self.predictions.items())
        ]
        reporting.write_results(trainer.folder / "results.csv", self.results)

    def entry(self, network: Network) -> str | None:
        """Curves are those of the donors, and of methods on most images."""
        own = network.method == DONOR or network.frozen == self.own_stages(network.method)
        return network.method if own and network.images in (0, max(self.config.images)) else None

    def draw(self, trainer: Trainer) -> None:
        """Accuracies against images and frozen stages, and what the best method makes of images."""
        super().draw(trainer)
        figures.draw(self.results, self.layout, trainer.folder)
        split = self.tests.get("images", self.source.splits["validation"])
        best = Network(*reporting.best(self.results, self.layout))
        prediction = self.predictions[best][self.config.report_on]
        path, names = trainer.folder / "predictions.png", self.source.class_names
        figures.draw_page(in_memory(split["image"]), prediction, names, path)

    def report(self, trainer: Trainer, facts: Mapping[str, str]) -> str:
        """The report in Markdown."""
        config, base = self.config, self.config.base.to_dict()
        speeds: dict[str, float] = {}
        for group in (trained.group for trained in self.trained):
            settings = self.methods.get(group.networks[0].method) or self.donors.training
            seen = group.program.steps * settings["batch"] * len(group.networks)
            speed = seen / trainer.clock.by_population[group.name]
            speeds |= {n.method: speed for n in group.networks if n.method not in speeds}
        changed = {name: declared.describe(own, base) for name, own in self.methods.items()}
        about = {
            "Data": self.describe_data(f"{length(self.source.splits['train']):,} training images"),
            "Donors": self.donors.description,
            "Network": f"{config.model}, {trees.count(self.shapes['params']):,} parameters in "
            f"{len(self.stages)} stages",
            "Base": declared.describe(base, {}),
            **{f"Settings of {n}": text or "those of the base" for n, text in changed.items()},
            "Settings come from": config.settings_from,
            **self.describe_copies(),
            "Speed of training": ", ".join(f"{n} {x:,.0f}" for n, x in speeds.items())
            + " images a second",
            "Speed of features": self.feature_feeds.describe(),
        }
        return reporting.report(self.results, self.layout, about | facts)


study = partial(conduct, FineTuning)


def most_members(config: ConfigDict) -> int:
    """How many networks are trained at a time, at most."""
    return min(config.members_per_round, config.seeds * max(1, len(config.methods)))


if __name__ == "__main__":
    run(study, "finetune", get_config(), members=most_members, free=SETTINGS.free)
