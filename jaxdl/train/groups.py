"""Members, and groups of members that are trained together.

A :class:`Member` has a function that makes its first state, so that networks can be planned before
those are trained that they begin from. Members of one :class:`Program`, whose settings differ only
in numbers, are divided into groups (:func:`make_groups`), and each group is trained as one
population (:func:`train`).
"""

import dataclasses
import itertools
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec as P
from jaxtyping import Float, Int

from jaxdl import trees
from jaxdl.data.batches import host_batch_ids
from jaxdl.train.feed import Feed
from jaxdl.train.loop import Trainer
from jaxdl.train.parallel import MEMBERS, MeshPlacement, to_host
from jaxdl.train.population import Prepare, Training, order_keys, over_members, population_of
from jaxdl.train.state import PREPARE, Step, TrainState, step_key
from jaxdl.train.verification import make_first_losses
from jaxdl.types import Batch, Hyper, Metrics, PyTree

Watch = Callable[
    [Sequence["Member"], TrainState, Hyper], Mapping[str, Float[np.ndarray, " m *networks"]]
]
"""``watch(members, states, hypers)``: numbers for the curves, such as validation accuracies."""


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """How the members of a group are trained and evaluated."""

    training: Training
    dispatches: Callable[[Hyper, int], Generator[PyTree]]
    """``dispatches(hypers, first)`` yields the data of each dispatch from step ``first`` on."""
    steps: int
    steps_per_dispatch: int
    dispatches_per_evaluation: int = 1
    watch: Watch = lambda members, states, hypers: {}


def make_program(
    feed: Feed,
    step: Step,
    prepare: Prepare,
    *,
    steps: int,
    batch: int,
    steps_per_dispatch: int,
    **options: Any,
) -> Program:
    """The program that trains on the batches of a feed; ``options`` are those of
    :class:`Program`."""
    size = {"steps": steps_per_dispatch, "batch": batch}
    return Program(
        feed.program(step, prepare, **size),
        lambda hypers, first: feed.dispatches(hypers, range(first, steps), **size),
        steps,
        steps_per_dispatch,
        **options,
    )


def make_program_without_data(
    step: Step,
    placement: MeshPlacement,
    *,
    steps: int,
    steps_per_dispatch: int,
    refresh: Callable[[TrainState, Hyper], TrainState] = lambda state, hyper: state,
    watch: Watch = lambda members, states, hypers: {},
) -> Program:
    """The program that trains on data within the states, such as the points of a PINN.

    Args:
      refresh: changes a state at the beginning of every dispatch.
    """

    def dispatch(state: TrainState, hyper: Hyper, _: tuple) -> tuple[TrainState, Metrics]:
        return lax.scan(
            lambda state, _: step(state, {}, hyper),
            refresh(state, hyper),
            length=steps_per_dispatch,
        )

    def first_loss(state: TrainState, hyper: Hyper, _: tuple) -> jax.Array:
        return step(refresh(state, hyper), {}, hyper)[1]["loss"]

    training = Training(
        over_members(dispatch, placement, donate=True, check_vma=False),
        make_first_losses(lambda _: first_loss, placement, specs=(MEMBERS, MEMBERS, P())),
        placement,
    )
    return Program(
        training,
        lambda hypers, first: (() for _ in itertools.count()),
        steps,
        steps_per_dispatch,
        watch=watch,
    )


@dataclasses.dataclass(frozen=True)
class Member:
    """A network in training, or several that share a forward pass."""

    networks: Sequence[Any]
    """The name of each network, a NamedTuple."""
    program: Program
    start: Callable[[], TrainState]
    """The state before the first step."""
    hyper: Callable[[], Hyper]
    """The arrays in which the members of a program differ."""


@dataclasses.dataclass(frozen=True)
class Group:
    """Members that are trained as one population."""

    name: str
    """Names its checkpoints' folder and marks its lines in the curves."""
    members: Sequence[Member]
    size: int
    """The least number of members of the population, which copies of the last one fill up."""

    @property
    def program(self) -> Program:
        """The program that trains the members."""
        return self.members[0].program

    @property
    def placement(self) -> MeshPlacement:
        """Where they are trained."""
        return self.program.training.placement

    @property
    def networks(self) -> list[Any]:
        """The names of all networks of all members."""
        return [network for member in self.members for network in member.networks]

    def hypers(self) -> Hyper:
        """The members' hyper-parameters on the devices."""
        hypers = [member.hyper() for member in self.members]
        return population_of(hypers, self.placement, self.size)

    def population(self, states: Sequence[TrainState]) -> tuple[TrainState, Hyper]:
        """The members' states and hyper-parameters on the devices."""
        return population_of(states, self.placement, self.size), self.hypers()

    def start(self) -> tuple[TrainState, Hyper]:
        """The population before the first step."""
        return self.population([member.start() for member in self.members])


@dataclasses.dataclass(frozen=True)
class Trained:
    """A group after its last step."""

    group: Group
    states: Sequence[TrainState]
    """Each member's, on the host and without the optimizer's state."""

    def population(self) -> tuple[TrainState, Hyper]:
        """The group on the devices again, to be evaluated."""
        return self.group.population(self.states)


def make_groups(
    name: str, members: Sequence[Member], largest: int, *, even: bool = False
) -> list[Group]:
    """Groups of members of the same program, in the order of the programs, called ``name-0``,
    ``name-1``, …

    Args:
      largest: the greatest size of a group.
      even: make the groups of a program of nearly equal size. Otherwise all but the last have the
        greatest size, and copies fill up the last one.
    """
    by_program: dict[Program, list[Member]] = {}
    for member in members:
        by_program.setdefault(member.program, []).append(member)
    groups: list[Group] = []
    for program_members in by_program.values():
        count = len(program_members)
        size = -(-count // -(-count // largest)) if even else min(largest, count)
        for start in range(0, count, size):
            part = program_members[start : start + size]
            groups.append(Group(f"{name}-{len(groups)}", part, size))
    return groups


def train(group: Group, trainer: Trainer) -> Trained:
    """Train a group to its last step, from its latest checkpoint if it has one; raises as
    :meth:`jaxdl.train.loop.Trainer.fit` does."""
    return to_trained(group, fit(group, trainer))


def fit(group: Group, trainer: Trainer, states: TrainState | None = None) -> TrainState:
    """As :func:`train`; the result stays on the devices and has the optimizer's state.

    Args:
      states: the population that training begins with, all members at one step; it is consumed.
        Default: the members' own starts.
    """
    program = group.program
    if states is None:
        states, hypers = group.start()
    else:
        hypers = group.hypers()
    return trainer.fit(
        group.name,
        program.training,
        states,
        hypers,
        lambda first: program.dispatches(hypers, first),
        networks=[network._asdict() for network in group.networks],
        steps=program.steps,
        steps_per_dispatch=program.steps_per_dispatch,
        dispatches_per_evaluation=program.dispatches_per_evaluation,
        watch=lambda states: program.watch(group.members, _without_optimizer(states), hypers),
    )


def to_trained(group: Group, states: TrainState) -> Trained:
    """A group whose states are brought to the host."""
    members = trees.unstack(to_host(_without_optimizer(states)))
    return Trained(group, members[: len(group.members)])


def _without_optimizer(states: TrainState) -> TrainState:
    """The states that are evaluated, in training and after it: by the same compiled program."""
    return dataclasses.replace(states, opt_state=())


def example_streams(
    streams: Sequence[Int[np.ndarray, " _"]], longest: int
) -> dict[str, Int[np.ndarray, " ..."] | np.int32]:
    """``examples`` and ``count`` of a member's hyper-parameters: see
    :func:`jaxdl.train.population.train_resident`.

    Args:
      streams: the examples of each stream of batches that come side by side. If there are several,
        the arrays have a first axis for streams.
      longest: the greatest number of examples of any member, to which all are padded.
    """
    padded = [np.pad(ids, (0, longest - len(ids))).astype(np.int32) for ids in streams]
    counts = [np.int32(len(ids)) for ids in streams]
    if len(streams) == 1:
        return {"examples": padded[0], "count": counts[0]}
    return {"examples": np.stack(padded), "count": np.stack(counts)}


def first_examples(feed: Feed, prepare: Prepare, hyper: Hyper, count: int) -> tuple[Batch, Batch]:
    """The first examples that a member is trained on: as they are stored, and prepared for its
    network as in training."""
    words, counts = jax.random.key_data(order_keys(hyper)), np.asarray(hyper["count"])
    orders = [
        examples[host_batch_ids(key, 0, batch=count, examples=int(n))]
        for key, examples, n in zip(
            np.asarray(words).reshape(counts.size, -1),
            np.reshape(hyper["examples"], (counts.size, -1)),
            counts.reshape(-1),
            strict=True,
        )
    ]
    ids = np.stack(orders, -1).reshape(count, *counts.shape)
    fetched = feed.fetch(np.tile(ids.reshape(-1), (feed.placement.member_devices, 1)))
    stored = {
        name: leaf[0].reshape(*ids.shape, *leaf.shape[2:])
        for name, leaf in to_host(fetched).items()
    }
    return stored, jax.jit(prepare)(
        stored, hyper, step_key(hyper["key"], PREPARE, jnp.int32(0), None)
    )
