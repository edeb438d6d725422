"""Studies whose networks learn from examples: data on the devices, programs, members."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any, ClassVar, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from experiments.harness.settings import Between, Count, OneOf, Options
from experiments.harness.study import Study
from experiments.harness.user_functions import blame, check_model, is_shipped
from jaxdl.data.source import Source, Split, end_to_end, ids_end_to_end, length
from jaxdl.train.evaluate import Accuracy, Logits, Outputs, make_accuracy, make_outputs
from jaxdl.train.feed import FEEDS, Feed, check_stream, make_feed
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
from jaxdl.train.parallel import make_placement
from jaxdl.train.population import Prepare, member_key
from jaxdl.train.state import (
    Optimizer,
    TrainState,
    add_average,
    create_state,
    make_averaging_step,
    make_step,
)
from jaxdl.types import Batch, Hyper, LossFn, PyTree, Variables

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

Method = TypeVar("Method", bound=Hashable)
Starter = Callable[[int, Callable[[], Hyper]], TrainState]
"""``start(seed, hyper)``: the state before the first step."""


def starting(
    init: Callable[[jax.Array], Variables], optimizer: Optimizer, *, average: bool = False
) -> Starter:
    """The starter of networks that begin with fresh variables, by their seed alone.

    Args:
      average: whether the state keeps a mean of the variables.
    """

    @jax.jit
    def create(variables: Variables, hyper: Hyper) -> TrainState:
        variables = add_average(variables) if average else variables
        return create_state(variables, optimizer, hyper)

    return lambda seed, hyper: create(init(member_key("init", seed)), hyper())


def most_members(config: ConfigDict) -> int:
    """The greatest number of networks trained at a time: all methods may share a program."""
    base = config.base.get("values", ())
    methods = (own if isinstance(own, ConfigDict) else {} for own in config.methods.values())
    values = sum(max(1, len(own.get("values", base))) for own in methods)
    return min(config.members_per_round, config.seeds * values)


class DataStudy(Study):
    """Networks that learn from the examples of data sets: programs, groups, accuracies.

    A study sets ``config``, ``sources``, ``identity``; its ``build`` calls :meth:`lay_out`, then
    :meth:`make_members`. Its ``hyper(method, seed)`` gives the hyper-parameters of a network:
    ``key``, ``example_streams``, and numbers.
    """

    inputs: str = "image"
    """The stored array that networks see."""
    numbered: bool = False
    """Whether each stored example has its index as ``number``, by which members can have different
    labels: ``hyper["labels"][number]``."""
    fields: ClassVar[Mapping[str, str]] = {"images": "validation_accuracy"}
    """By data set, a key of ``sources``, the field of ``metrics.jsonl`` that holds the accuracy on
    its validation images."""

    def lay_out(
        self, feed: str, workers: int, training_sources: Mapping[str, Source] | None = None
    ) -> None:
        """Bring the training and validation images of the ``training_sources``, by default all, to
        the devices, end to end."""
        self.placement = make_placement(**self.config.parallel)
        self.trained_groups: list[Trained] = []
        splits, self.ids = end_to_end(training_sources or self.sources)
        """By source and split, the indices of the examples: their numbers."""
        if self.numbered:
            splits = {part: {**arrays, "number": self.ids[part]} for part, arrays in splits.items()}
        self.feed, self.feed_kind = make_feed(feed, splits, self.placement, workers), feed
        self.accuracy: dict[Program, Accuracy] = {}
        self.outputs: dict[Program, Callable[..., list]] = {}
        self.prepare: dict[Program, Prepare] = {}
        self.batches: dict[Program, int] = {}
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
        outputs: Outputs | None = None,
        score: Callable[..., Accuracy] = make_accuracy,
        average: float = 0.0,
        feed: Feed | None = None,
    ) -> Program:
        """Training with a loss; evaluation with logits, on validation examples for the curves.

        Args:
          average: the decay of the variables' mean that the state keeps; 0 for none.
          outputs: the outputs for :meth:`predict`; by default the logits.
          score: :func:`jaxdl.train.evaluate.make_accuracy`, or a function of the same arguments.
          feed: the feed of training and validation examples; by default that of all sources.
        """
        config, feed = self.config, feed or self.feed
        size = {"steps": config.steps_per_dispatch, "batch": batch}
        check_stream(feed, members=config.members_per_round, **size)
        evaluation = prepare, self.placement, config.evaluation_batch
        accuracy = score(logits, *evaluation, inputs=self.inputs)

        def watch(members: Sequence[Member], states: TrainState, hypers: Hyper):
            values = {}
            for source, field in self.fields.items():
                if self.scored(source):
                    examples = [self.examples(member, source, {}) for member in members]
                    population = states, self.evaluated(hypers, source)
                    values[field] = accuracy(*population, examples, feed.fetch)
            return values

        step = make_step(loss, optimizer, self.placement.axis_name)
        program = make_program(
            feed,
            make_averaging_step(step, average) if average else step,
            prepare,
            steps=steps,
            batch=batch,
            steps_per_dispatch=config.steps_per_dispatch,
            dispatches_per_evaluation=config.dispatches_per_evaluation,
            watch=watch,
        )
        self.accuracy[program], self.prepare[program] = accuracy, prepare
        self.batches[program] = batch
        self.outputs[program] = make_outputs(outputs or logits, *evaluation, inputs=self.inputs)
        return program

    def initializer(
        self,
        model: nn.Module,
        shape: Sequence[int],
        title: str,
        outputs: tuple | None = None,
        *,
        layers: bool = False,
        **options: Any,
    ) -> tuple[Callable, Variables]:
        """``init(key)``, the variables of a fresh network, and their shapes.

        Args:
          shape: the shape of an example as the network sees it.
          title: the model's name in messages, such as ``config.model=mlp``.
          outputs: the shapes that its outputs must have for a batch of one; None for a model that
            is not to be trained, or was checked before.
          layers: whether its layers are applied one by one, too.
          options: further arguments of the model's ``init``.

        Raises:
          ValueError: for a network that does not fit the examples, or of the user's own with
            errors.
        """
        example = jnp.zeros((1, *shape))
        init = jax.jit(lambda key: {"batch_stats": {}, **model.init(key, example, **options)})
        kind = "images of" if len(shape) == 3 else "features (for mlp and linear),"
        title = f"{title} on {kind} {' x '.join(map(str, shape))}"
        with blame(title, type(model), shipped=is_shipped(type(model))):
            shapes = jax.eval_shape(init, jax.random.key(0))
            if outputs is not None:
                axis_name = self.placement.axis_name
                check_model(model, shapes, example, outputs, axis_name, layers=layers, **options)
            return init, shapes

    def image_shape(self, side: int = 0) -> tuple[int, ...]:
        """The shape of the images, resized to a side unless that is 0."""
        shape = next(iter(self.sources.values())).splits["train"]["image"].shape[1:]
        return (side, side, shape[-1]) if side else tuple(shape)

    def make_members(
        self,
        methods: Sequence[Method],
        program_key: Callable[[Method], Hashable],
        make: Callable[[Method], tuple[Program, Starter]],
        name: Callable[[Method, int], tuple],
    ) -> list[Member]:
        """A member for each seed and method.

        Args:
          program_key: methods of equal ``program_key(method)`` share a program.
          make: gives the program of a method, and :func:`starting` of its networks.
          name: names a network, by its method and seed.
        """
        members, programs = [], {}
        for seed, method in product(range(self.config.seeds), methods):
            key = program_key(method)
            if key not in programs:
                try:
                    programs[key] = make(method)
                except ValueError as error:
                    words = [method] if isinstance(method, str) else map(str, method)
                    raise ValueError(f"method {' '.join(words).strip()}: {error}") from None
            program, start = programs[key]
            hyper = partial(self.hyper, method, seed)
            network = [name(method, seed)]
            members.append(Member(network, program, partial(start, seed, hyper), hyper))
        return members

    def train(self, trainer: Trainer) -> None:
        """Train all members."""
        for _ in self.train_members(trainer, "networks", self.members):
            pass  # a group is trained when it is asked for

    def train_members(
        self, trainer: Trainer, name: str, members: Sequence[Member], *, even: bool = True
    ) -> Iterator[Trained]:
        """Train members, as many at a time as the configuration allows, group by group: a member
        may begin with networks of an earlier group. See :func:`jaxdl.train.groups.make_groups`."""
        for group in make_groups(name, members, self.config.members_per_round, even=even):
            self.trained_groups.append(train(group, trainer))
            yield self.trained_groups[-1]

    def examples(self, member: Member, source: str, tests: Mapping[str, Split]) -> np.ndarray:
        """The examples of a data set on which a member is evaluated, of the test split or, without
        tests, of the validation split: by default all."""
        return self.test_ids[source] if tests else self.ids[source, "validation"]

    def scored(self, source: str) -> bool:
        """Whether the examples of a data set have answers, by which networks can be judged."""
        return self.sources[source].labelled or "target" in self.sources[source].splits["train"]

    def evaluated(self, hypers: Hyper, source: str) -> Hyper:
        """The hyper-parameters with which networks are evaluated on a data set; by default those
        that they are trained with."""
        return hypers

    def describe_speed(self, trainer: Trainer) -> str:
        """The examples a second of training, each method's by its first group."""
        speeds: dict[str, float] = {}
        for group in (trained.group for trained in self.trained_groups):
            examples = group.program.steps * self.batches[group.program] * len(group.networks)
            seconds = trainer.clock.by_population[group.name]
            speeds = {network.method: examples / seconds for network in group.networks} | speeds
        return ", ".join(f"{name} {x:,.0f}" for name, x in speeds.items()) + " examples a second"

    def predict(
        self,
        trained: Trained,
        feed: Feed,
        examples: Callable[[Member], np.ndarray],
        source: str = "images",
    ) -> dict[tuple, PyTree]:
        """The outputs of each network of a group, whose members are one network each, for examples
        of a feed, which belong to the data set ``source``."""
        group, (states, hypers) = trained.group, trained.population()
        population = states, self.evaluated(hypers, source)
        outputs = self.outputs[group.program](
            *population, [examples(member) for member in group.members], feed.fetch
        )
        return dict(zip(group.networks, outputs, strict=True))

    def apart(self, split: Split) -> tuple[Feed, Callable[[Member], np.ndarray]]:
        """A feed of one split, and a function that gives all its examples to any member."""
        ids = np.arange(length(split), dtype=np.int32)
        return make_feed(self.feed_kind, {0: split}, self.placement), lambda member: ids

    def predict_parts(
        self, parts: Mapping[str, tuple[Any, ...]]
    ) -> Iterator[tuple[tuple, dict[str, PyTree]]]:
        """Network by network its outputs for several parts of the data; each part is arguments of
        :meth:`predict`: feed, examples, and data set if there are several."""
        for trained in self.trained_groups:
            by_part = {name: self.predict(trained, *part) for name, part in parts.items()}
            for network in trained.group.networks:
                yield network, {name: outputs[network] for name, outputs in by_part.items()}

    def first_examples(self, count: int) -> tuple[Batch, Batch]:
        """The first examples of the first member, as stored and as its network sees them."""
        member = self.members[0]
        prepare = self.prepare[member.program]
        return first_examples(self.feed, prepare, member.hyper(), count)

    def accuracies(
        self, trainer: Trainer, tests: Mapping[str, Split]
    ) -> dict[tuple, dict[str, float]]:
        """Every network's accuracy on the test images of each data set or, without tests, on the
        validation images; NaN where it has diverged or the images have no labels."""
        feed, self.tests = self.feed, tests
        if tests:
            feed = make_feed(self.feed_kind, tests, self.placement)
            self.test_ids = ids_end_to_end(tests)
        accuracies: dict[tuple, dict[str, float]] = {}
        for trained in self.trained_groups:
            group, (states, hypers) = trained.group, trained.population()
            for source in self.fields:
                values = np.full(len(group.networks), math.nan)
                if self.scored(source):
                    examples = [self.examples(member, source, tests) for member in group.members]
                    population = states, self.evaluated(hypers, source)
                    values = self.accuracy[group.program](*population, examples, feed.fetch)
                for network, value in zip(group.networks, values.reshape(-1), strict=True):
                    accuracies.setdefault(network, {})[source] = float(value)
        for network in trainer.curves.faults(self.network):
            accuracies[network] = dict.fromkeys(self.fields, math.nan)
        return accuracies
