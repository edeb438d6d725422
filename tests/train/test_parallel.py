"""Each mode of dividing training over devices, against the plain step on one; meshes."""

import dataclasses
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxdl import trees
from jaxdl.data.augment import gaussian_noise
from jaxdl.nn.models.convnet import Conv, ConvNet
from jaxdl.optim import make_optimizer, make_schedule
from jaxdl.supervised import classification_loss
from jaxdl.train.parallel import MEMBERS, STREAM, MeshPlacement, make_placement
from jaxdl.train.population import order_keys, over_members, population_of, train_streamed
from jaxdl.train.state import LOSS, PREPARE, create_state, make_step, step_key

BATCH, STEPS, DISPATCHES = 16, 10, 2
HYPER = {"key": jax.random.key(0)}

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(DISPATCHES, STEPS, BATCH, 5, 5, 2)).astype(np.float32)
LABELS = RNG.integers(0, 3, (DISPATCHES, STEPS, BATCH)).astype(np.int32)


def rule(_):
    rate = make_schedule("constant", 0.1, steps=STEPS * DISPATCHES, warmup=5)
    return make_optimizer("momentum", rate, weight_decay=0.01, clip_norm=0.5, max_norm=1.0)


def network(axis_name=None, dropout=0.0):
    options = {"batch_norm": True, "dropout": dropout, "axis_name": axis_name}
    return ConvNet((Conv(8, stride=2),), (16,), 3, **options)


def dropping(axis_name=None):
    return network(axis_name, 0.5)


def state_of(model, rule=rule):
    shapes = jax.eval_shape(model.init, jax.random.key(0), IMAGES[0, 0])
    rng = np.random.default_rng(1)

    def draw(low, high, tree):
        return jax.tree.map(lambda s: rng.uniform(low, high, s.shape).astype(s.dtype), tree)

    ranges = {"params": (-0.5, 0.5), "batch_stats": (0.5, 1.5)}
    variables = {kind: draw(*ranges[kind], tree) for kind, tree in sorted(shapes.items())}
    return create_state(jax.tree.map(jnp.asarray, variables), rule, HYPER)


def as_stored(stored, hyper, key):
    del hyper, key
    return stored


def unchecked(step, placement):
    """`train_streamed` without the checks of shard_map's types."""

    def member(state, hyper, batches):
        return lax.scan(lambda state, batch: step(state, batch, hyper), state, batches)

    return over_members(member, placement, specs=(MEMBERS, MEMBERS, STREAM), check_vma=False)


def train(make, state, mode, devices, rule=rule, images=IMAGES, labels=LABELS):
    """The state and the metrics after all dispatches, the batch divided over so many devices."""
    mode, _, without = mode.partition(" ")
    placement = make_placement(1, devices, mode, jax.devices()[:devices])
    axis = placement.axis_name
    step = make_step(classification_loss(make(axis)), rule, axis)
    checked = train_streamed(step, as_stored, placement).run
    run = unchecked(step, placement) if without else checked
    states, hypers = population_of([state], placement), population_of([HYPER], placement)
    divided, dispatches = placement.sharding(STREAM), []
    for image, label in zip(images, labels, strict=True):
        batches = jax.device_put({"image": image[None], "label": label[None]}, divided)
        run = run if dispatches else run.lower(states, hypers, batches).compile()
        states, metrics = run(states, hypers, batches)
        dispatches.append(jax.device_get(metrics))
    for leaf in jax.tree.leaves(states) if mode != "fsdp" else ():  # every device has the same
        for shard in leaf.addressable_shards:
            np.testing.assert_array_equal(shard.data, leaf)
    metrics = jax.tree.map(lambda *m: np.concatenate(m, axis=1)[0], *dispatches)
    return trees.member(jax.device_get(states), 0), metrics


def train_plainly(make, state):
    """The same, by a loop of the jitted step on one device."""
    step, metrics_by_step = jax.jit(make_step(classification_loss(make()), rule)), []
    batches = (x.reshape(-1, *x.shape[2:]) for x in (IMAGES, LABELS))
    for image, label in zip(*batches, strict=True):
        state, metrics = step(state, {"image": image, "label": label}, HYPER)
        metrics_by_step.append(metrics)
    return jax.device_get((state, jax.tree.map(lambda *m: np.stack(m), *metrics_by_step)))


def assert_close(ours, theirs, tolerance=1e-5):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@pytest.fixture(scope="module")
def plain():
    """Without and with dropout."""
    return {make: train_plainly(make, state_of(make())) for make in (network, dropping)}


AGREEING = (
    ("jit", dropping),  # where each example has the same noise on any number of devices
    ("fsdp", dropping),
    ("shard_map", network),
    ("shard_map unchecked", network),
    ("pmap", network),
)


@pytest.mark.parametrize(
    ("mode", "make", "devices"),
    [
        *((*pair, 8) for pair in AGREEING),
        # On one device: several draw each for its own part of the batch.
        ("shard_map", dropping, 1),
        ("pmap", dropping, 1),
        *(pytest.param(*pair, 1, marks=pytest.mark.slow) for pair in AGREEING),
    ],
)
def test_modes_agree_with_one_device(plain, mode, make, devices):
    ours = train(make, state_of(make()), mode, devices)
    assert_close(ours, plain[make])
    assert int(ours[0].step) == STEPS * DISPATCHES


@functools.cache
def augmented(mode, devices):
    """Losses of a linear network whose images are changed at random on their way."""
    linear, rule = ConvNet((), (), 3), make_optimizer("sgd", 0.1)

    def prepare(stored, hyper, key):
        return stored | {"image": gaussian_noise(0.5)(key, stored["image"])}

    placement = make_placement(1, devices, mode, jax.devices()[:devices])
    step = make_step(classification_loss(linear), rule, placement.axis_name)
    training = train_streamed(step, prepare, placement)
    states = population_of([state_of(linear, rule)], placement)
    batches = {"image": IMAGES[:1], "label": LABELS[:1]}
    batches = jax.device_put(batches, placement.sharding(STREAM))
    _, metrics = training(states, population_of([HYPER], placement), batches)
    return jax.device_get(metrics["loss"])


@pytest.mark.parametrize("mode", ["shard_map", "fsdp", "pmap"])
def test_modes_agree_in_random_changes_of_images(mode):
    np.testing.assert_allclose(augmented(mode, 1), augmented("jit", 1), rtol=1e-5)


def test_devices_that_share_a_batch_draw_as_one_or_each_for_itself():
    """Where the compiler divides the batch, as one; elsewhere two examples at the same place of
    their devices' parts must not have the same noise."""
    np.testing.assert_allclose(augmented("jit", 2), augmented("jit", 1), rtol=1e-5)
    differ = np.abs(augmented("shard_map", 2) - augmented("jit", 1))
    assert differ.max() > 1e-4
    np.testing.assert_allclose(augmented("shard_map", 2), augmented("pmap", 2), rtol=1e-5)


def test_no_two_purposes_have_the_same_key():
    """Orders of streams, losses and preparations, over many steps and two devices."""
    steps, devices = jnp.arange(300), jnp.arange(2)

    @jax.jit
    def words_of(key):
        keys = [order_keys({"key": key, "count": jnp.ones(300, int)})]
        for purpose in (LOSS, PREPARE):

            def at_steps(axis_name, purpose=purpose):
                return jax.vmap(lambda step: step_key(key, purpose, step, axis_name))(steps)

            on_device = jax.vmap(lambda _: at_steps("data"), axis_name="data")
            keys += [at_steps(None), on_device(devices).reshape(-1)]
        return [jax.random.key_data(key) for key in keys]

    words = np.concatenate(words_of(HYPER["key"]))
    assert len(np.unique(words, axis=0)) == len(words) == 300 * 7


def test_dropout_was_on(plain):
    without, dropped = (plain[make][1]["loss"] for make in (network, dropping))
    assert np.abs(without - dropped).max() > 0.01


@pytest.mark.parametrize("mode", ["jit", "fsdp", "shard_map", "pmap"])
def test_the_gradient_is_that_of_the_mean_and_not_n_times_it(mode):
    images, labels = IMAGES[:1, :1], LABELS[:1, :1]
    x, y = images.reshape(BATCH, -1), labels.reshape(BATCH)
    kernel = np.random.default_rng(2).normal(size=(x.shape[1], 3)).astype(np.float32)
    bias = np.zeros(3, np.float32)
    logits = x.astype(np.float64) @ kernel
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    error = (p - np.eye(3)[y]) / BATCH

    def sgd(_):
        return make_optimizer("sgd", 1.0)

    params = {"fc1": {"dense": {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias)}}}
    after, metrics = train(
        lambda _: ConvNet((), (), 3),
        create_state({"params": params}, sgd, HYPER),
        mode,
        8,
        rule=sgd,
        images=images,
        labels=labels,
    )
    dense = after.params["fc1"]["dense"]
    np.testing.assert_allclose(kernel - dense["kernel"], x.T @ error, atol=1e-6)
    np.testing.assert_allclose(bias - dense["bias"], error.sum(0), atol=1e-6)
    np.testing.assert_allclose(
        metrics["loss"][0], -np.log(p[np.arange(BATCH), y]).mean(), rtol=1e-5
    )
    np.testing.assert_allclose(metrics["accuracy"][0], (p.argmax(1) == y).mean(), rtol=1e-6)


@pytest.mark.parametrize(
    ("axes", "count", "shape"),
    [
        ({}, 8, (8, 1)),
        ({}, 1, (1, 1)),
        ({"data": 2}, 8, (4, 2)),
        ({"member": 2, "data": -1}, 8, (2, 4)),
        ({"member": 4, "data": 2}, 8, (4, 2)),
        ({"member": 3}, 3, (3, 1)),
    ],
)
def test_mesh_shapes(axes, count, shape):
    mesh = make_placement(**axes, devices=jax.devices()[:count]).mesh
    assert mesh.axis_names == ("member", "data") and mesh.devices.shape == shape
    assert list(mesh.devices.flat) == jax.devices()[:count]


@pytest.mark.parametrize(
    ("member", "data"),
    [(3, 1), (-1, 3), (3, -1), (-1, -1), (0, -1), (-1, 0), (-2, -4), (16, 1), (-1, 16), (2, 2)],
)
def test_meshes_that_do_not_fit_are_refused(member, data):
    with pytest.raises(ValueError, match=r"member=.*data=.*8 device"):
        make_placement(member, data)


def test_placements():
    placement = make_placement(4, 2)
    tree = {"a": jnp.arange(8.0).reshape(8, 1), "b": jnp.arange(4)}
    whole, split = placement.replicate(tree), placement.shard_members(tree)
    for name, leaf in tree.items():
        assert whole[name].sharding.is_fully_replicated and len(whole[name].devices()) == 8
        shards = {(s.device, s.data.shape[0]) for s in split[name].addressable_shards}
        assert len(shards) == 8 and {n for _, n in shards} == {len(leaf) // 4}
        np.testing.assert_array_equal(split[name], leaf)


@dataclasses.dataclass(frozen=True)
class Device:
    """The fields by which devices differ."""

    id: int
    process_index: int


@pytest.mark.usefixtures("types_unchecked")
def test_devices_of_a_process_are_side_by_side(monkeypatch):
    # As on a TPU whose rows of chips go through the machines.
    wired = [Device(i, process) for i, process in enumerate([0, 0, 1, 1, 0, 0, 1, 1])]
    monkeypatch.setattr(jax, "devices", lambda: wired)
    mesh = make_placement(4, 2).mesh
    assert [device.id for device in mesh.devices.flat] == [0, 1, 4, 5, 2, 3, 6, 7]
    mesh = make_placement(4, 2, devices=wired).mesh
    assert list(mesh.devices.flat) == wired  # the caller's order is the caller's


def placement_by_process(processes):
    """A placement on a mesh, by the process of each of its devices."""
    devices = np.array([[Device(0, process) for process in row] for row in processes], object)
    shape = dict(zip(("member", "data"), devices.shape, strict=True))
    return MeshPlacement(types.SimpleNamespace(devices=devices, shape=shape))


@pytest.mark.parametrize(
    ("members", "size", "filled"),
    [("abc", 0, "abcc"), ("abcd", 0, "abcd"), ("abc", 5, "abcccc"), ("a", 2, "aa")],
)
def test_members_are_filled_up_with_the_last(members, size, filled):
    placement = make_placement(devices=jax.devices()[:2])
    assert placement.fill(members, size) == [*filled]


@pytest.mark.usefixtures("types_unchecked")
def test_members_of_a_process_are_those_whose_devices_all_are(monkeypatch):
    placement = placement_by_process([[0, 0], [0, 1], [1, 1]])
    for process, local in enumerate(([0, 1], [4, 5])):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        assert placement.local_members(6) == local


@pytest.mark.parametrize(
    ("processes", "parts"),
    [
        ([[0, 0], [0, 0]], [((0, 2), (0, 2))]),
        ([[0, 0], [1, 1]], [((0, 1), (0, 2)), ((1, 2), (0, 2))]),
        ([[0, 1], [0, 1]], [((0, 2), (0, 1)), ((0, 2), (1, 2))]),
        ([[0, 0, 1, 1, 2, 2]], [((0, 1), (0, 2)), ((0, 1), (2, 4)), ((0, 1), (4, 6))]),
        ([[0], [1], [1]], [((0, 1), (0, 1)), ((1, 3), (0, 1))]),
    ],
)
@pytest.mark.usefixtures("types_unchecked")
def test_part_of_a_process(monkeypatch, processes, parts):
    for process, part in enumerate(parts):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        assert placement_by_process(processes).part_of_process() == tuple(
            slice(*ends) for ends in part
        )


@pytest.mark.parametrize(
    "processes",
    [
        [[0, 1], [1, 0]],
        [[0, 1, 0, 1]],
        [[0], [1], [0]],
        [[0, 0], [0, 1], [1, 1]],  # data neither divides three devices nor is a multiple
        [[0, 0, 0, 0, 1, 1]],  # not the first of parts of four
        [[1, 0, 0, 1]],  # not the first and not the second of parts of two
    ],
)
@pytest.mark.usefixtures("types_unchecked")
def test_processes_without_a_part_of_their_own_are_refused(monkeypatch, processes):
    monkeypatch.setattr(jax, "process_index", lambda: 0)
    with pytest.raises(ValueError, match="of process 0 are no rectangle of the mesh, member="):
        placement_by_process(processes).part_of_process()


@pytest.mark.usefixtures("types_unchecked")
def test_a_process_without_devices_on_the_mesh_is_refused(monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 2)
    with pytest.raises(ValueError, match="no device of process 2 is on the mesh"):
        placement_by_process([[0, 1]]).part_of_process()
