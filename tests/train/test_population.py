"""Populations against each network trained alone by a plain step, on meshes of every shape."""

import hashlib
import os
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdl import trees
from jaxdl.data.batches import host_batch_ids
from jaxdl.nn.models.convnet import Conv, ConvNet
from jaxdl.optim import make_optimizer, make_schedule
from jaxdl.supervised import classification_loss
from jaxdl.train.parallel import make_placement
from jaxdl.train.population import (
    member_key,
    population_of,
    train_resident,
)
from jaxdl.train.state import create_state, fault_names, make_step
from jaxdl.transfer import Frozen, alive, shared_prefix_loss, stack_cuts

EXAMPLES, BATCH, STEPS, DISPATCHES = 20, 8, 10, 2
RATES = (0.05, 0.1, 0.2, 0.02, 0.3)
COUNTS = (
    20,
    13,
    5,
    20,
    9,
)  # of the examples that a member is trained on; one has less than a batch

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(EXAMPLES, 5, 5, 1)).astype(np.float32)
LABELS = RNG.integers(0, 3, EXAMPLES).astype(np.int32)
PLACES = [RNG.permutation(EXAMPLES)[:count].astype(np.int32) for count in COUNTS]


def network(batch_norm, axis_name=None):
    if batch_norm:
        return ConvNet((Conv(8, stride=2),), (), 3, batch_norm=True, axis_name=axis_name)
    return ConvNet((), (6,), 3)


def variables(batch_norm, seed, model=None):
    model = model or network(batch_norm)
    shapes = jax.eval_shape(model.init, jax.random.key(0), IMAGES[:1])
    rng = np.random.default_rng(seed)

    def draw(low, high, tree):
        return jax.tree.map(lambda s: rng.uniform(low, high, s.shape).astype(s.dtype), tree)

    stats = shapes.get("batch_stats", {})
    return {"params": draw(-0.5, 0.5, shapes["params"]), "batch_stats": draw(0.5, 1.5, stats)}


def rule(hyper):
    rate = make_schedule("constant", hyper["rate"], steps=STEPS * DISPATCHES, warmup=3)
    options = {"weight_decay": hyper["decay"], "clip_norm": 0.5, "max_norm": 1.0}
    return make_optimizer("momentum", rate, **options)


def hyper_of(i, rate=None):
    return {
        "key": member_key("test", i),
        "rate": jnp.float32(RATES[i] if rate is None else rate),
        "decay": jnp.float32(0.01 * i),
        "examples": np.pad(PLACES[i], (0, EXAMPLES - COUNTS[i])),
        "count": np.int32(COUNTS[i]),
    }


def state_of(i, batch_norm=False):
    return create_state(jax.tree.map(jnp.asarray, variables(batch_norm, i)), rule, hyper_of(i))


def as_stored(stored, hyper, key):
    del hyper, key
    return stored


def rows(i, steps):
    """The examples of a member's batches, [steps, BATCH]."""
    words = np.asarray(jax.random.key_data(member_key("test", i)))
    order = partial(host_batch_ids, words, batch=BATCH, examples=COUNTS[i])
    return PLACES[i][np.stack([order(step) for step in range(steps)])]


def program(placement, batch_norm=False, prepare=as_stored, **options):
    axis = placement.axis_name
    step = make_step(classification_loss(network(batch_norm, axis)), rule, axis_name=axis)
    return train_resident(step, prepare, placement, steps=STEPS, batch=BATCH, **options).run


def placement_of(member, data=1, mode="shard_map"):
    return make_placement(member, data, mode, jax.devices()[: member * data])


def populations(placement, members, *, size=0, batch_norm=False, rates=None):
    """The arguments of a program."""
    rates = rates or {}
    states = population_of([state_of(i, batch_norm) for i in members], placement, size)
    hypers = population_of([hyper_of(i, rates.get(i)) for i in members], placement, size)
    return states, hypers, placement.replicate({"image": IMAGES, "label": LABELS})


def dispatch(run, states, hypers, data):
    """The population after all dispatches; states and metrics of its members, in their order."""
    seen = []
    for _ in range(DISPATCHES):
        before = states
        states, metrics = run(states, hypers, data)
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before))  # their memory is reused
        seen.append(jax.device_get(metrics))
    metrics = jax.tree.map(lambda *m: np.concatenate(m, axis=1), *seen)
    return states, trees.unstack(jax.device_get(states)), trees.unstack(metrics)


def train(run, placement, members, **options):
    """States and metrics of the members, in their order, after all dispatches."""
    return dispatch(run, *populations(placement, members, **options))[1:]


def assert_close(ours, theirs, tolerance=1e-6):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def assert_equal(ours, theirs):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def alone():
    """Members trained by a plain jitted step, one batch after the other: (state, metrics) by
    number, without and with batch normalization."""

    def one_by_one(batch_norm, members):
        step = jax.jit(make_step(classification_loss(network(batch_norm)), rule))
        trained = {}
        for i in members:
            state, hyper, seen = state_of(i, batch_norm), hyper_of(i), []
            for row in rows(i, STEPS * DISPATCHES):
                state, metrics = step(state, {"image": IMAGES[row], "label": LABELS[row]}, hyper)
                seen.append(metrics)
            metrics = jax.tree.map(lambda *m: np.stack(m), *seen)
            trained[i] = jax.device_get(state), metrics
        return trained

    return {False: one_by_one(False, range(len(RATES))), True: one_by_one(True, (0, 1, 2))}


@pytest.fixture(scope="module")
def two():
    """A placement on two devices and its program."""
    placement = placement_of(2)
    return placement, program(placement)


def test_members_are_trained_as_if_alone_and_the_program_compiled_once(two, alone):
    placement, run = two
    states, metrics = train(run, placement, range(4))
    for i in range(4):
        assert_close(states[i], alone[False][i][0])
        assert_close(metrics[i], alone[False][i][1])
        assert int(states[i].step) == STEPS * DISPATCHES
    # Two dispatches, the first on states that came from outside.
    assert run._cache_size() == 1


def test_members_do_not_depend_on_neighbours_or_order(two):
    placement, run = two
    states, metrics = train(run, placement, (0, 1, 2, 3))
    for members in ((3, 1, 0, 2), (4, 1, 2, 4)):
        others, their_metrics = train(run, placement, members)
        for place, i in enumerate(members):
            if i < 4:
                assert_equal(others[place], states[i])
                assert_equal(their_metrics[place], metrics[i])
    assert run._cache_size() == 1


def test_padding_repeats_the_last_member_and_changes_no_other(two, alone):
    placement, run = two
    states, metrics = train(run, placement, (0, 1, 2), size=3)
    assert len(states) == 4
    for i in range(3):
        assert_close(states[i], alone[False][i][0])
        assert_close(metrics[i], alone[False][i][1])
    assert_equal(states[3], states[2])
    assert run._cache_size() == 1


def test_a_diverging_member_is_named_and_takes_no_other_down(two):
    placement, run = two
    states, metrics = train(run, placement, range(4))
    others, their_metrics = train(run, placement, range(4), rates={1: 3e38})
    for i in (0, 2, 3):
        assert_equal(others[i], states[i])
        assert_equal(their_metrics[i], metrics[i])
    faults = np.asarray(their_metrics[1]["fault"])
    at = int(np.argmax(faults >= 0))
    assert not others[1].alive and 0 < at < len(faults) - 1
    # Its updates are clipped, so that nothing overflows before what is computed with it.
    assert fault_names(others[1])[0][faults[at]] == "loss"
    np.testing.assert_array_equal(faults[:at], -1)
    np.testing.assert_array_equal(faults[at + 1 :], -2)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(others[1].params))


@pytest.mark.parametrize("several", [False, True])
def test_a_network_that_is_not_finite_stays_as_it_was(several):
    """Descent on log w, whose loss alone is not finite below 0, and on sqrt w, whose gradient is
    not finite there either; beside one that comes to no harm. Against NumPy."""
    functions = {"log": jnp.log, "root": jnp.sqrt, "square": jnp.square}
    slopes = {"log": lambda w: 1 / w, "root": lambda w: 0.5 / np.sqrt(w), "square": lambda w: 2 * w}

    def make(names):
        def loss_fn(params, collections, batch, hyper, key):
            if several:
                loss = {name: functions[name](params[name]["w"]) for name in names}
            else:
                loss = functions[names[0]](params["w"])
            return loss, (collections, {})

        return jax.jit(make_step(loss_fn, optax.sgd(0.25)))

    def by_hand(name):
        w, at = np.float32(1), []
        for step in range(12):
            with np.errstate(invalid="ignore"):
                new = w - np.float32(0.25) * np.float32(slopes[name](w))
                if w <= 0 or not np.isfinite(new):
                    at.append(step)
                    break
            w = new
        return w, at[0] if at else None

    for names in [sorted(functions)] if several else [(name,) for name in functions]:
        params = {name: {"w": jnp.float32(1)} for name in names}
        start = {"params": params if several else params[names[0]]}
        state = create_state(start, optax.sgd(0.25), alive=alive(start) if several else True)
        step, seen = make(names), []
        for _ in range(12):
            state, metrics = step(state, {}, {"key": jax.random.key(0)})
            seen.append(jax.tree.map(lambda m: np.asarray(m).reshape(-1), metrics))
        for i, name in enumerate(names):
            w, at = by_hand(name)
            assert (at is None) == (name == "square")
            ours = state.params[name] if several else state.params
            np.testing.assert_allclose(ours["w"], w, rtol=1e-6)
            faults = [int(m["fault"][i]) for m in seen]
            told = {t: fault_names(state)[i][f] for t, f in enumerate(faults) if f >= 0}
            array = f"params/{name}/w" if several else "params/w"
            assert told == ({} if at is None else {at: {"log": "loss", "root": array}[name]})
            gone = [f == -2 for f in faults]
            assert gone == [at is not None and t > at for t in range(12)]


@pytest.mark.parametrize(
    ("member", "data", "batched"),
    [(1, 1, False), (1, 1, True), (8, 1, False), (4, 2, False)],
)
def test_meshes_of_every_shape_agree(alone, member, data, batched):
    placement = placement_of(member, data)
    states, metrics = train(program(placement, batched=batched), placement, range(4))
    assert len(states) == max(4, member)
    for i in range(4):
        assert_close(states[i], alone[False][i][0], 2e-6)
        assert_close(metrics[i], alone[False][i][1], 2e-6)


@pytest.mark.parametrize(
    ("mode", "member", "data", "batched"),
    [
        ("shard_map", 4, 2, False),
        ("shard_map", 1, 8, True),
        ("jit", 4, 2, False),
        pytest.param("jit", 1, 8, True, marks=pytest.mark.slow),
        ("jit", 1, 1, False),
        pytest.param("fsdp", 2, 4, False, marks=pytest.mark.slow),
        ("pmap", 1, 8, False),
        ("pmap", 4, 1, True),
    ],
)
def test_meshes_and_modes_agree_with_batch_normalization(alone, mode, member, data, batched):
    placement, traced = placement_of(member, data, mode), []

    def prepare(stored, hyper, key):
        traced.append(stored)
        return stored

    run = program(placement, batch_norm=True, prepare=prepare, batched=batched)
    states, metrics = train(run, placement, (0, 1, 2), batch_norm=True)
    assert len(traced) == 1
    assert mode == "fsdp" or run._cache_size() == 1
    for i in range(3):
        assert_close(states[i], alone[True][i][0], 1e-5)
        assert_close(metrics[i], alone[True][i][1], 1e-5)


def test_frozen_statistics_keep_every_bit_over_the_data_axis():
    # The mean of seven equal numbers, in floating point, need not be that number.
    placement = placement_of(1, 7)
    loss_fn = classification_loss(Frozen(network(True, "data"), 1))
    step = make_step(loss_fn, rule, axis_name="data")
    run = train_resident(step, as_stored, placement, steps=STEPS, batch=7)
    start = state_of(0, batch_norm=True)
    states, _ = train(run, placement, (0,), batch_norm=True)
    assert_equal(states[0].collections, start.collections)


def shares_of(states, devices):
    """Sees that every array that can be divided is; how many are."""
    divided = 0
    for path, leaf in jax.tree.leaves_with_path(states):
        divides = any(size and size % devices == 0 for size in leaf.shape[1:])
        sizes = [shard.data.size for shard in leaf.addressable_shards]
        assert sizes == [leaf.size // devices if divides else leaf.size] * devices, path
        divided += divides
    return divided


def test_fsdp_keeps_a_share_of_every_array_on_each_device(alone, monkeypatch):
    placement = placement_of(1, 8, "fsdp")
    puts = []
    put = jax.device_put
    monkeypatch.setattr(jax, "device_put", lambda *args: puts.append(args) or put(*args))
    states, *others = populations(placement, (0, 1, 2), batch_norm=True)
    # Straight from the host, and not from a device that had them whole.
    arrays = jax.tree.leaves(states)
    assert all(isinstance(leaf, np.ndarray) for leaf, _ in puts[: len(arrays)])
    assert [leaf.shape for leaf, _ in puts[: len(arrays)]] == [leaf.shape for leaf in arrays]
    assert shares_of(states, 8) >= 10
    run = program(placement, batch_norm=True, batched=True)
    run = run.lower(states, *others).compile()  # they come back as they went in
    population, states, metrics = dispatch(run, states, *others)
    assert shares_of(population, 8) >= 10
    for i in range(3):
        assert_close(states[i], alone[True][i][0], 1e-5)
        assert_close(metrics[i], alone[True][i][1], 1e-5)


def test_modes_that_cannot_be_had_are_refused(monkeypatch):
    with pytest.raises(ValueError, match="unknown mode 'xmap': choose one of shard_map, jit, fsdp"):
        placement_of(2, 1, "xmap")
    with pytest.raises(ValueError, match="pmap divides members or batches, not both"):
        placement_of(2, 2, "pmap")
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ValueError, match=r"^pmap is for one process: choose shard_map or jit$"):
        placement_of(2, 1, "pmap")


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="batch of 8 does not divide over 3"):
        program(placement_of(1, 3))


def test_keys_depend_on_names_alone():
    number = int(hashlib.sha256(b"train/random/0").hexdigest()[:8], 16) // 2
    assert member_key("train", "random", 0) == jax.random.key(number)
    keys = {tuple(jax.random.key_data(member_key("a", i)).tolist()) for i in range(200)}
    assert len(keys) == 200


# What the number of devices changes. The compiler's usual optimizations are on in these programs,
# since the difference comes of them.

CUTS, FEW = (1, 2), 3  # steps
SHARED = {"whole": False, "shared": True}


def wide(axis_name=None):
    convolutions = (Conv(4, stride=2), Conv(4))
    return ConvNet(convolutions, (), 3, batch_norm=True, axis_name=axis_name)


def loss_of(kind, axis_name=None):
    model = wide(axis_name)
    return shared_prefix_loss(model, CUTS) if SHARED[kind] else classification_loss(model)


def start_of(kind, i):
    """State and hyper-parameters of a member, as arrays of the host."""

    def draw(seed):
        return variables(True, seed, wide())

    start, hyper = draw(i), hyper_of(i)
    if SHARED[kind]:
        start = stack_cuts([draw(10 * i + n) for n in CUTS], CUTS)
        hyper["base"] = draw(100 + i)
    return start, hyper


def begin(kind, start, hyper):
    return create_state(start, rule, hyper, alive=alive(start) if SHARED[kind] else True)


def divided(kind, devices, batched):
    """Losses [members, FEW, ...] and parameters of four members, of a well compiled program."""
    placement = placement_of(devices)
    step = make_step(loss_of(kind, "data"), rule, axis_name="data")
    run = train_resident(step, as_stored, placement, steps=FEW, batch=BATCH, batched=batched).run
    states, hypers = [], []
    for start, hyper in (start_of(kind, i) for i in range(4)):
        start = jax.tree.map(jnp.asarray, start)
        states.append(begin(kind, start, hyper))
        hypers.append(hyper)
    data = placement.replicate({"image": jnp.asarray(IMAGES), "label": jnp.asarray(LABELS)})
    populations = [population_of(part, placement) for part in (states, hypers)]
    jax.config.update("jax_disable_most_optimizations", False)
    try:
        flag = "xla_cpu_use_fusion_emitters"  # where conftest.py turns it off
        options = {flag: True} if flag in os.environ.get("XLA_FLAGS", "") else {}
        well = run.lower(*populations, data).compile(options)
    finally:
        jax.config.update("jax_disable_most_optimizations", True)
    states, metrics = well(*populations, data)
    return jax.device_get((metrics["loss"], states.params))


def in_float64(kind):
    """The same losses, one network and one step after the other."""
    losses, step = [], jax.jit(make_step(loss_of(kind), rule))
    for i in range(4):
        start, hyper = start_of(kind, i)
        with jax.enable_x64(True):
            to_exact = partial(jax.tree.map, lambda x: jnp.asarray(x, jnp.float64))
            state = begin(kind, to_exact(start), hyper)
            hyper["base"] = to_exact(hyper.get("base", {}))
            for row in rows(i, FEW):
                batch = {"image": IMAGES[row].astype(np.float64), "label": LABELS[row]}
                state, metrics = step(state, batch, hyper)
                assert metrics["loss"].dtype == np.float64
                losses.append(np.asarray(metrics["loss"]))
    return np.reshape(losses, (4, FEW, *losses[0].shape))


@pytest.mark.parametrize(
    ("batched", "counts"), [(False, (1, 2)), pytest.param(True, (1, 2, 4), marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("kind", SHARED)
def test_the_number_of_devices_changes_rounding_at_most(kind, batched, counts):
    exact, by_devices = in_float64(kind), {}
    for devices in counts:
        losses, params = by_devices[devices] = divided(kind, devices, batched)
        np.testing.assert_allclose(losses, exact, rtol=2e-6, err_msg=f"{devices} devices")
        assert_close(params, by_devices[1][1], 2e-6)
        if kind == "whole" and not batched:  # of others bits differ
            assert_equal(by_devices[devices], by_devices[1])
