"""Members in groups: how they are divided, and that each is trained once and handed on."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.data.batches import host_batch_ids
from jaxdl.nn.models.convnet import ConvNet
from jaxdl.optim import make_optimizer
from jaxdl.supervised import classification_loss
from jaxdl.train.feed import make_feed
from jaxdl.train.groups import (
    Member,
    Program,
    example_streams,
    first_examples,
    make_groups,
    make_program,
    make_program_without_data,
    train,
)
from jaxdl.train.interruption import StopFlag
from jaxdl.train.loop import Trainer
from jaxdl.train.parallel import MeshPlacement, make_placement
from jaxdl.train.population import member_key
from jaxdl.train.state import TrainState, create_state, make_step

IMAGES = np.random.default_rng(0).integers(0, 256, (20, 2, 2, 1)).astype(np.uint8)
LABELS = (np.arange(20) % 3).astype(np.int32)
MODEL, SEEDS = ConvNet((), (), 3), 3


class Name(NamedTuple):
    """A network's name."""

    seed: int


def program():
    return Program(None, None, 1, 1)


def members(program, seeds):
    return [Member([Name(seed)], program, None, None) for seed in seeds]


@pytest.mark.parametrize(
    ("count", "largest", "even", "sizes", "divided"),
    [
        (3, 5, False, [3], [[0, 1, 2]]),
        (5, 2, False, [2, 2, 2], [[0, 1], [2, 3], [4]]),
        (5, 4, False, [4, 4], [[0, 1, 2, 3], [4]]),
        (5, 4, True, [3, 3], [[0, 1, 2], [3, 4]]),
        (6, 4, True, [3, 3], [[0, 1, 2], [3, 4, 5]]),
        (0, 4, True, [], []),
    ],
)
@pytest.mark.usefixtures("types_unchecked")
def test_groups_of_one_program(count, largest, even, sizes, divided):
    groups = make_groups("g", members(program(), range(count)), largest, even=even)
    assert [group.size for group in groups] == sizes
    assert [[network.seed for network in group.networks] for group in groups] == divided
    assert [group.name for group in groups] == [f"g-{i}" for i in range(len(sizes))]


@pytest.mark.usefixtures("types_unchecked")
def test_members_of_a_program_come_together_in_the_order_of_the_programs():
    first, second = program(), program()
    order = (first, 0), (second, 1), (first, 2), (second, 3)
    mixed = [member for program, seed in order for member in members(program, [seed])]
    groups = make_groups("g", mixed, 9)
    assert [[n.seed for n in group.networks] for group in groups] == [[0, 2], [1, 3]]
    assert [group.program for group in groups] == [first, second]


def rule(hyper):
    return make_optimizer("momentum", hyper["rate"])


@pytest.fixture(scope="module")
def parts():
    """A feed on two devices, and three members of one program."""
    placement = make_placement(2, 1, devices=jax.devices()[:2])
    feed = make_feed("resident", {"train": {"image": IMAGES, "label": LABELS}}, placement)
    watched = []

    def prepare(stored, hyper, key):
        return {"image": stored["image"] / 255, "label": stored["label"]}

    def watch(members, states, hypers):
        watched.append(states.opt_state)
        return {"norm": np.ones(len(members))}

    made = make_program(
        feed,
        make_step(classification_loss(MODEL), rule, placement.axis_name),
        prepare,
        steps=4,
        batch=5,
        steps_per_dispatch=2,
        watch=watch,
    )

    init = jax.jit(MODEL.init)

    def member(seed):
        def hyper():
            streams = example_streams([np.arange(20)], 20)
            return {"key": member_key(seed), "rate": jnp.float32(0.1 * (seed + 1)), **streams}

        def start():
            params = init(jax.random.key(seed), np.zeros((1, 2, 2, 1)))["params"]
            return create_state({"params": params}, rule, hyper())

        return Member([Name(seed)], made, start, hyper)

    return feed, [member(seed) for seed in range(SEEDS)], prepare, watched


def trainer(folder):
    return Trainer(folder, StopFlag(), lambda *_: None, 1e9)


def test_a_group_is_trained_once_and_handed_on(parts, tmp_path):
    _, alike, _, watched = parts
    (group,) = make_groups("g", alike, 9)
    trained = train(group, trainer(tmp_path))
    assert len(trained.states) == SEEDS and all(state.step == 4 for state in trained.states)
    assert watched and set(watched) == {()}  # evaluation is given no optimizer's state
    # By the loop itself, the whole population.
    states, hypers = group.start()
    for _ in range(2):
        states, _ = group.program.training(
            states, hypers, next(group.program.dispatches(hypers, 0))
        )
    for i, state in enumerate(trained.states):
        params = jax.tree.map(lambda leaf, i=i: np.asarray(leaf)[i], states.params)
        jax.tree.map(np.testing.assert_array_equal, params, state.params)
    # Again, from the checkpoint; and on the devices, filled up to a multiple of them.
    restored = train(group, trainer(tmp_path))
    for pair in zip(trained.states, restored.states, strict=True):
        jax.tree.map(np.testing.assert_array_equal, *pair)
    population, hypers = restored.population()
    assert population.step.shape == (4,) and hypers["rate"].shape == (4,)
    np.testing.assert_allclose(hypers["rate"], [0.1, 0.2, 0.3, 0.3], rtol=1e-6)


def test_the_first_examples_are_those_of_the_first_batch(parts):
    feed, alike, prepare, _ = parts
    hyper = alike[0].hyper()
    stored, prepared = first_examples(feed, prepare, hyper, 6)
    words = np.asarray(jax.random.key_data(hyper["key"]))
    ids = host_batch_ids(words, 0, batch=6, examples=20)
    np.testing.assert_array_equal(stored["image"], IMAGES[ids])
    np.testing.assert_array_equal(stored["label"], LABELS[ids])
    np.testing.assert_allclose(prepared["image"], IMAGES[ids] / 255, rtol=1e-6)
    two = hyper | example_streams([np.arange(10), np.arange(10, 20)], 12)
    assert two["examples"].shape == (2, 12) and list(two["count"]) == [10, 10]
    stored, _ = first_examples(feed, prepare, two, 6)
    assert stored["image"].shape == (6, 2, 2, 2, 1)
    first, second = (set(map(bytes, stored["image"][:, i])) for i in range(2))
    assert first <= set(map(bytes, IMAGES[:10])) and second <= set(map(bytes, IMAGES[10:]))


def test_what_states_hold_themselves_is_trained_on(parts, tmp_path):
    """w follows points that are changed at the beginning of every dispatch but the first."""
    placement = parts[0].placement

    def loss(params, collections, batch, hyper, key):
        value = jnp.sum((params["w"] - collections["points"]["x"]) ** 2)
        return value, (collections, {})

    def refresh(state, hyper):
        moved = jnp.where(state.step > 0, hyper["to"], state.collections["points"]["x"])
        return state.replace(collections={"points": {"x": moved}})

    made = make_program_without_data(
        make_step(loss, lambda hyper: make_optimizer("sgd", 0.5)),
        placement,
        steps=4,
        steps_per_dispatch=2,
        refresh=refresh,
    )

    def start() -> TrainState:
        params, points = {"w": jnp.zeros(())}, {"x": jnp.ones(())}
        return create_state({"params": params, "points": points}, make_optimizer("sgd", 0.5))

    def member(seed):
        hyper = {"key": member_key(seed), "to": jnp.float32(seed + 2)}
        return Member([Name(seed)], made, start, lambda: hyper)

    (group,) = make_groups("g", [member(seed) for seed in range(2)], 2)
    keeper = trainer(tmp_path)
    states = train(group, keeper).states
    # A step of this rate goes all the way.
    assert [float(state.params["w"]) for state in states] == [2.0, 3.0]
    losses = [record["loss"] for record in keeper.curves.by_network(Name)[Name(1)]]
    np.testing.assert_allclose(losses, [0.5, 2.0])  # means of 1, 0 and of 4, 0


@pytest.mark.parametrize("mode", ["shard_map", "jit", "fsdp", "pmap"])
def test_a_placement_knows_its_mesh(mode):
    placement = make_placement(2, 1, mode, jax.devices()[:2])
    assert (placement.member_devices, placement.data_devices) == (2, 1)
    assert placement.axis_name == ("data" if mode == "shard_map" else None)
    with pytest.raises(ValueError, match="unknown mode 'xmap'"):
        MeshPlacement(placement.mesh, "xmap")
    if mode == "pmap":
        with pytest.raises(ValueError, match="members or batches, not both"):
            make_placement(2, 2, mode, jax.devices()[:4])
