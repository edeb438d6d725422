"""Rounds: copies on the devices, and members that go on from others' states."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.optim import make_optimizer
from jaxdl.train.groups import Member, fit, make_groups, make_program_without_data
from jaxdl.train.interruption import Interrupted, StopFlag
from jaxdl.train.loop import Trainer
from jaxdl.train.parallel import make_placement
from jaxdl.train.population import member_key
from jaxdl.train.rounds import copies, last_values, train_round
from jaxdl.train.state import create_state, make_step


class Name(NamedTuple):
    """A network's name."""

    trial: int


@pytest.fixture(scope="module")
def placement():
    return make_placement(2, 1, devices=jax.devices()[:2])


def test_copies_are_rows_of_populations_end_to_end_divided_as_they_are(placement):
    first = placement.shard_members({"w": np.arange(8.0).reshape(4, 2), "n": np.arange(4)})
    other = placement.shard_members({"w": -np.arange(4.0).reshape(2, 2), "n": -np.arange(2)})
    origins = [(first, 3), (other, 1), (first, 3), (first, 0), (other, 0)]
    copied = copies(origins, placement, 5)  # filled up to a multiple of two devices
    np.testing.assert_array_equal(copied["n"], [3, -1, 3, 0, 0, 0])
    np.testing.assert_array_equal(copied["w"][1], [-2, -3])
    assert copied["w"].sharding == first["w"].sharding
    assert not first["w"].is_deleted()


def rule(hyper):
    return make_optimizer("momentum", hyper["rate"])


def loss(params, collections, batch, hyper, key):
    return jnp.sum((params["w"] - 1) ** 2), (collections, {})


@pytest.fixture(scope="module")
def programs(placement):
    """To six steps, and the first two or four of them."""
    step = make_step(loss, rule, placement.axis_name)
    whole = make_program_without_data(
        step,
        placement,
        steps=6,
        steps_per_dispatch=1,
        watch=lambda members, states, hypers: {"w": np.asarray(states.params["w"])},
    )
    return {steps: dataclasses.replace(whole, steps=steps) for steps in (2, 4, 6)}


def member(program, trial, rate):
    hyper = {"key": member_key("any"), "rate": jnp.float32(rate)}

    def start():
        return create_state({"params": {"w": jnp.zeros(())}}, rule, hyper)

    return Member([Name(trial)], program, start, lambda: hyper)


def trainer(folder, stop=None):
    return Trainer(folder, stop or StopFlag(), lambda *_: None, 1e9)


def by_hand(rates):
    """w after a step with each of these rates, by momentum .9."""
    w = velocity = 0.0
    for rate in rates:
        velocity = 0.9 * velocity + 2 * (w - 1)
        w -= rate * velocity
    return w


def run(folder, programs, stop=None):
    """Three trials for two steps; the last goes on from the first, with a rate of its own."""
    states, own = {}, trainer(folder, stop)
    rounds = [
        (2, {0: 0.1, 1: 0.2, 2: 0.3}, {}),
        (4, {0: 0.1, 1: 0.2, 2: 0.15}, {0: 0, 1: 1, 2: 0}),
        (6, {2: 0.15}, {2: 2}),
    ]
    for i, (steps, rates, parents) in enumerate(rounds):
        members = [member(programs[steps], *pair) for pair in rates.items()]
        named = {Name(trial): Name(parent) for trial, parent in parents.items()}
        arguments = f"round-{i}", members, named, states, own, 2
        groups, states = train_round(*arguments)
        yield groups, last_values(own, groups, "w", Name)


def test_members_go_on_from_whole_states_of_others(programs, tmp_path):
    rounds = list(run(tmp_path, programs))
    assert [[len(group.members) for group in groups] for groups, _ in rounds] == [
        [2, 1],
        [2, 1],
        [1],
    ]
    rates = [
        {0: [0.1] * 2, 1: [0.2] * 2, 2: [0.3] * 2},
        {0: [0.1] * 4, 1: [0.2] * 4, 2: [0.1, 0.1, 0.15, 0.15]},
        {2: [0.1, 0.1, 0.15, 0.15, 0.15, 0.15]},
    ]
    for (_, values), expected in zip(rounds, rates, strict=True):
        assert values == {
            Name(trial): pytest.approx(by_hand(own), rel=1e-5) for trial, own in expected.items()
        }


@pytest.mark.parametrize("dispatches", [2, 5, 9])
def test_rounds_that_were_stopped_anywhere_go_on_bit_for_bit(programs, tmp_path, dispatches):
    whole = [values for _, values in run(tmp_path / "whole", programs)]
    stop, left = StopFlag(), [dispatches]

    def count(name, steps):
        left[0] -= bool(steps)
        stop.received = 15 if not left[0] else stop.received

    stopped = tmp_path / "stopped"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(globals(), "trainer", lambda folder, s: Trainer(folder, s, count, 1e9))
        with pytest.raises(Interrupted):
            list(run(stopped, programs, stop))
    again = [values for _, values in run(stopped, programs)]
    assert again == whole
    name = "metrics.jsonl"
    assert (stopped / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_round_that_has_not_begun_begins_at_the_step_of_its_states(placement, programs, tmp_path):
    (group,) = make_groups("a", [member(programs[2], 0, 0.1)], 1)
    own = trainer(tmp_path)
    states = fit(group, own)
    (later,) = make_groups("b", [member(programs[6], 0, 0.1)], 1)
    fit(later, own, copies([(states, 0)], placement))
    steps = [record["step"] for record in own.curves.records]
    assert steps == [1, 2, 3, 4, 5, 6]
