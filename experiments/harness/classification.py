"""What studies of images share, and those whose networks classify the images of one data set."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from experiments.harness.settings import Between, Count, OneOf, Options
from experiments.harness.study import Study, curve_panels, describe_source
from jaxdl.data import sources, splits
from jaxdl.data.encoded import Images, in_memory
from jaxdl.data.source import Source, Split, end_to_end, ids_end_to_end
from jaxdl.report import figures
from jaxdl.train.evaluate import Accuracy, Logits, make_accuracy
from jaxdl.train.feed import FEEDS, Resident, check_stream, make_feed
from jaxdl.train.groups import (
    Member,
    Program,
    Trained,
    first_examples,
    make_groups,
    make_program,
    train,
)
from jaxdl.train.loop import Trainer
from jaxdl.train.parallel import MeshPlacement, make_mesh
from jaxdl.train.population import Prepare, member_key
from jaxdl.train.state import Optimizer, TrainState, create_state, make_step
from jaxdl.types import Hyper, LossFn, Variables

COUNTS = {
    "seeds": Count(),
    "members_per_round": Count(),
    "steps_per_dispatch": Count(),
    "dispatches_per_evaluation": Count(),
    "evaluation_batch": Count(),
}
COMMON = COUNTS | {
    "data.options": Options(),
    "data.feed": OneOf(FEEDS),
    "data.workers": Between(0, 2**15 - 1),
    "report_on": OneOf(("validation", "test")),
}
"""Settings that these studies have in common."""


Starter = Callable[[int, Callable[[], Hyper]], TrainState]
"""``start(seed, hyper)``: the state before the first step."""


def starting(init: Callable[[jax.Array], Variables], optimizer: Optimizer) -> Starter:
    """How networks start that depend on their seed alone."""

    @jax.jit
    def create(variables: Variables, hyper: Hyper) -> TrainState:
        return create_state(variables, optimizer, hyper)

    return lambda seed, hyper: create(init(member_key("init", seed)), hyper())


def most_members(config: ConfigDict) -> int:
    """How many networks are trained at a time, at most: all methods may share a program."""
    return min(config.members_per_round, config.seeds * len(config.methods))


def load_images(settings: ConfigDict, setting: str, **options: Any) -> Source:
    """A data set of images with labels; ``settings.options`` come before ``options``.

    Raises:
      ValueError: for one of other arrays, naming the setting.
    """
    source = sources.load(settings.name, **{**options, **settings.options})
    arrays = sorted(source.splits["train"])
    if not {"image", "label"} <= {*arrays}:
        raise ValueError(
            f"{setting}.name={settings.name} has {', '.join(arrays)}: this study needs image, label"
        )
    return source


class ImageStudy(Study):
    """Networks that classify images: data on the devices, programs, groups, accuracies."""

    numbered: bool = False
    """Whether each stored example has its index as ``number``, by which members can have labels of
    their own: ``hyper["labels"][number]``."""
    fields: ClassVar[Mapping[str, str]] = {"images": "validation_accuracy"}
    """By data set, a key of ``sources``, the field of ``metrics.jsonl`` that holds the accuracy on
    its validation images."""

    def lay_out(self, feed: str, workers: int) -> None:
        """Bring the training and validation images of all sources to the devices, end to end."""
        config = self.config
        mesh = make_mesh(config.parallel.member, config.parallel.data)
        self.placement = MeshPlacement(mesh, config.parallel.mode)
        splits, self.ids = end_to_end(self.sources)
        """By source and split, the places of the examples: their numbers."""
        if self.numbered:
            splits = {part: {**arrays, "number": self.ids[part]} for part, arrays in splits.items()}
        self.feed, self.feed_kind = make_feed(feed, splits, mesh, workers), feed
        self.accuracy: dict[Program, Accuracy] = {}
        self.prepare: dict[Program, Prepare] = {}
        for source in self.sources.values():
            source.test.verify()

    def program(
        self,
        loss: LossFn,
        logits: Logits,
        optimizer: Optimizer,
        prepare: Prepare,
        *,
        steps: int,
        batch: int,
    ) -> Program:
        """Training with a loss; evaluation with logits, on validation images for the curves."""
        config, placement = self.config, self.placement
        size = {"steps": config.steps_per_dispatch, "batch": batch}
        check_stream(self.feed, placement.mesh, members=config.members_per_round, **size)
        evaluation = placement.mesh, config.evaluation_batch, placement.mode
        accuracy = make_accuracy(logits, prepare, *evaluation)

        def watch(members: Sequence[Member], states: TrainState, hypers: Hyper):
            values = {}
            for source, field in self.fields.items():
                if self.sources[source].labelled:
                    examples = [self.examples(member, source, {}) for member in members]
                    population = states, self.evaluated(hypers, source)
                    values[field] = accuracy(*population, examples, self.feed.fetch)
            return values

        program = make_program(
            self.feed,
            make_step(loss, optimizer, placement.axis_name),
            prepare,
            steps=steps,
            batch=batch,
            steps_per_dispatch=config.steps_per_dispatch,
            mode=placement.mode,
            dispatches_per_evaluation=config.dispatches_per_evaluation,
            watch=watch,
        )
        self.accuracy[program], self.prepare[program] = accuracy, prepare
        return program

    def initializer(
        self, model: nn.Module, side: int, place: str, **options: Any
    ) -> tuple[Callable, Variables]:
        """``init(key)``, the variables of a fresh network, and their shapes.

        Args:
          side: of the images that it sees; 0 for that of the data.
          place: the setting that names the model, for messages.
          options: of the model's ``init``.

        Raises:
          ValueError: for a network that does not fit the images.
        """
        *shape, channels = next(iter(self.sources.values())).splits["train"]["image"].shape[1:]
        image = jnp.zeros((1, *([side, side] if side else shape), channels))
        init = jax.jit(lambda key: {"batch_stats": {}, **model.init(key, image, **options)})
        try:
            return init, jax.eval_shape(init, jax.random.key(0))
        except ValueError as error:
            size = " x ".join(map(str, image.shape[1:]))
            raise ValueError(f"{place} on images of {size}: {error}") from None

    def make_members(
        self,
        methods: Sequence[str],
        alike: Callable[[str], Hashable],
        make: Callable[[str], tuple[Program, Starter]],
        name: Callable[[str, int], tuple],
    ) -> list[Member]:
        """A member for each seed and method; ``hyper(method, seed)`` is what differs between them.

        Args:
          alike: ``alike(method)`` is a key; methods of equal keys share a program.
          make: the program of a method, and :func:`starting` of its networks.
          name: names a network, by its method and seed.
        """
        members, programs = [], {}
        for seed, method in product(range(self.config.seeds), methods):
            key = alike(method)
            if key not in programs:
                try:
                    programs[key] = make(method)
                except ValueError as error:
                    raise ValueError(f"method {method}: {error}") from None
            program, start = programs[key]
            hyper = partial(self.hyper, method, seed)
            network = [name(method, seed)]
            members.append(Member(network, program, partial(start, seed, hyper), hyper))
        return members

    def train(self, trainer: Trainer) -> None:
        """All members, as many at a time as the configuration allows."""
        groups = make_groups("networks", self.members, self.config.members_per_round, even=True)
        self.trained = [train(group, trainer, self.placement) for group in groups]

    def examples(self, member: Member, source: str, tests: Mapping[str, Split]) -> np.ndarray:
        """The examples of a data set that a member is evaluated on, of the test split or, without
        tests, for validation: by default all."""
        return self.test_ids[source] if tests else self.ids[source, "validation"]

    def evaluated(self, hypers: Hyper, source: str) -> Hyper:
        """The hyper-parameters with which networks are evaluated on a data set; by default those
        that they are trained with."""
        return hypers

    def accuracies(
        self, trainer: Trainer, tests: Mapping[str, Split]
    ) -> dict[tuple, dict[str, float]]:
        """Of every network, on the test images of each data set or, without them, on those for
        validation; NaN where it has diverged or the images have no labels."""
        feed, self.tests = self.feed, tests
        if tests:
            feed = make_feed(self.feed_kind, tests, self.placement.mesh)
            self.test_ids = ids_end_to_end(tests)
        accuracies: dict[tuple, dict[str, float]] = {}
        for trained in self.trained:
            group, (states, hypers) = trained.group, trained.population(self.placement)
            for source in self.fields:
                values = np.full(len(group.networks), math.nan)
                if self.sources[source].labelled:
                    examples = [self.examples(member, source, tests) for member in group.members]
                    population = states, self.evaluated(hypers, source)
                    values = self.accuracy[group.program](*population, examples, feed.fetch)
                for network, value in zip(group.networks, values.reshape(-1), strict=True):
                    accuracies.setdefault(network, {})[source] = float(value)
        for network in trainer.curves.faults(self.network):
            accuracies[network] = dict.fromkeys(self.fields, math.nan)
        return accuracies


class Classification(ImageStudy):
    """Networks that classify the images of one data set: accuracies, figures, facts."""

    def __init__(self, config: ConfigDict):
        self.config, self.trained = config, list[Trained]()
        self.source = load_images(config.data, "config.data")
        self.sources, self.identity = {"images": self.source}, describe_source(self.source)
        self.opens_test = config.report_on == "test"

    def build(self) -> None:
        """Lay the data out on the devices."""
        self.lay_out(self.config.data.feed, self.config.data.workers)

    @property
    def images(self) -> Images:
        """The training images; in memory where they are on the devices, too."""
        images = self.source.splits["train"]["image"]
        return in_memory(images) if isinstance(self.feed, Resident) else images

    def entry(self, network: tuple) -> str | None:
        """The network's entry in the legend of the curves; None where it is not drawn."""
        return network.method

    def draw(self, trainer: Trainer) -> None:
        """The first images that a member is trained on, as its network sees them; curves."""
        fields = {"loss": "training loss", "validation_accuracy": "validation accuracy"}
        panels = curve_panels(trainer, self.network, fields, self.entry)
        figures.curves(panels, trainer.folder / "curves.png")
        member = self.members[0]
        prepare = self.prepare[member.program]
        stored, batch = first_examples(self.feed, prepare, member.hyper(), 60, self.placement)
        labels = batch["label"] if self.numbered else stored["label"]
        names = [self.source.class_names[label] for label in labels]
        figures.samples(np.asarray(batch["image"]), names, trainer.folder / "samples.png")

    def describe_data(self, images: str) -> str:
        """The data set, and the split of the accuracies; ``images`` says how many are trained
        on."""
        source = self.source
        return (
            f"{source.name} {source.version}".strip() + f", {len(source.class_names)} classes, "
            f"{images}; accuracy on the {self.config.report_on} split"
        )

    def describe_copies(self) -> dict[str, str]:
        """How many images of the other splits are copies of training images."""
        if not isinstance(self.feed, Resident):  # a stream is not read for this alone
            return {}
        evaluated = {"validation": self.source.splits["validation"]}
        if self.tests:
            evaluated["test"] = self.tests["images"]
        copies = {
            split: splits.duplicates(in_memory(arrays["image"]), self.images)[:, 0]
            for split, arrays in evaluated.items()
        }
        counts = (f"{len(np.unique(ids))} in {split}" for split, ids in copies.items())
        return {"Exact copies of training images": ", ".join(counts)}
