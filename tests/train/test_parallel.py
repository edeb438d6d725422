"""One step through jit, shard_map and pmap, against the plain step on one device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.nn.models.convnet import Conv, ConvNet
from jaxdl.optim import make_optimizer, make_schedule
from jaxdl.train.parallel import (
    jit_step,
    make_mesh,
    pmap_step,
    replicate,
    shard_map_step,
    shard_members,
)
from jaxdl.train.state import create_state, make_step
from jaxdl.transfer import classification_loss

BATCH, STEPS = 16, 20
HYPER = {"key": jax.random.key(0)}

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(STEPS, BATCH, 5, 5, 2)).astype(np.float32)
LABELS = RNG.integers(0, 3, (STEPS, BATCH)).astype(np.int32)


def rule(_):
    rate = make_schedule("constant", 0.1, steps=STEPS, warmup=5)
    return make_optimizer("momentum", rate, weight_decay=0.01, clip_norm=0.5, max_norm=1.0)


def step_of(axis_name=None):
    model = ConvNet((Conv(3, stride=2),), (), 3, batch_norm=True, axis_name=axis_name)
    return make_step(classification_loss(model), rule, axis_name)


@pytest.fixture(scope="module")
def start():
    model = ConvNet((Conv(3, stride=2),), (), 3, batch_norm=True)
    shapes = jax.eval_shape(model.init, jax.random.key(0), IMAGES[0])
    rng = np.random.default_rng(1)

    def draw(low, high, tree):
        return jax.tree.map(lambda s: jnp.asarray(rng.uniform(low, high, s.shape), s.dtype), tree)

    params = draw(-0.5, 0.5, shapes["params"])
    return create_state(params, draw(0.5, 1.5, shapes["batch_stats"]), rule(HYPER))


def train(step, state, shape=lambda batch: batch):
    seen = []
    for image, label in zip(IMAGES, LABELS, strict=True):
        state, metrics = step(state, shape({"image": image, "label": label}), HYPER)
        seen.append(metrics)
    return jax.device_get((state, jax.tree.map(lambda *m: np.stack(m), *seen)))


@pytest.fixture(scope="module")
def expected(start):
    return train(jax.jit(step_of()), start)


def assert_close(ours, theirs, tolerance=1e-5):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def by_device(devices):
    """Leading device axes for pmap: batches are divided, states repeated."""

    def divide(batch):
        return jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), batch)

    def repeat(state):
        return jax.tree.map(lambda x: jnp.stack([x] * devices), state)

    return divide, repeat


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("wrapper", ["jit", "shard_map", "shard_map unchecked", "pmap"])
def test_wrappers_agree_with_one_device(start, expected, wrapper, devices):
    mesh = make_mesh(1, devices, jax.devices()[:devices])
    if wrapper == "jit":
        ours = train(jit_step(step_of(), mesh), replicate(start, mesh))
    elif wrapper.startswith("shard_map"):
        step = shard_map_step(step_of("data"), mesh, check_vma=wrapper == "shard_map")
        ours = train(step, replicate(start, mesh))
    else:
        divide, repeat = by_device(devices)
        step = pmap_step(step_of("data"), jax.devices()[:devices])
        state, metrics = train(step, repeat(start), divide)
        for leaf in jax.tree.leaves(state):  # every device holds the same
            np.testing.assert_array_equal(leaf, np.broadcast_to(leaf[:1], leaf.shape))
        ours = jax.tree.map(lambda x: x[0], state), jax.tree.map(lambda x: x[:, 0], metrics)
    assert_close(ours, expected)
    assert int(ours[0].step) == STEPS


def test_dropout_is_the_same_under_jit_on_any_number_of_devices():
    model = ConvNet((), (32,), 3, dropout=0.5)
    shapes = jax.eval_shape(model.init, jax.random.key(0), IMAGES[0])["params"]
    rng = np.random.default_rng(3)
    params = jax.tree.map(lambda s: jnp.asarray(rng.normal(size=s.shape), s.dtype), shapes)
    step = make_step(classification_loss(model), rule)
    state = create_state(params, {}, rule(HYPER))
    alone = train(jax.jit(step), state)
    mesh = make_mesh(1, 8)
    assert_close(train(jit_step(step, mesh), replicate(state, mesh)), alone)
    without = make_step(classification_loss(ConvNet((), (32,), 3)), rule)
    gap = train(jax.jit(without), state)[1]["loss"] - alone[1]["loss"]
    assert np.abs(gap).max() > 0.01  # it was on


@pytest.mark.parametrize("wrapper", ["jit", "shard_map", "pmap"])
def test_the_gradient_is_that_of_the_mean_and_not_n_times_it(wrapper):
    model = ConvNet((), (), 3)
    x, labels = IMAGES[0].reshape(BATCH, -1), LABELS[0]
    kernel = np.random.default_rng(2).normal(size=(x.shape[1], 3)).astype(np.float32)
    bias = np.zeros(3, np.float32)
    logits = x.astype(np.float64) @ kernel
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    error = (p - np.eye(3)[labels]) / BATCH

    def sgd(_):
        return make_optimizer("sgd", 1.0)

    params = {"fc1": {"dense": {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias)}}}
    state = create_state(params, {}, sgd(HYPER))
    batch = {"image": x, "label": labels}
    axis_name = None if wrapper == "jit" else "data"
    step = make_step(classification_loss(model), sgd, axis_name)
    if wrapper == "pmap":
        divide, repeat = by_device(8)
        after, metrics = pmap_step(step)(repeat(state), divide(batch), HYPER)
        after, metrics = jax.tree.map(lambda leaf: leaf[0], (after, metrics))
    else:
        wrap = jit_step if wrapper == "jit" else shard_map_step
        after, metrics = wrap(step, make_mesh(1, 8))(state, batch, HYPER)
    dense = after.params["fc1"]["dense"]
    np.testing.assert_allclose(kernel - dense["kernel"], x.T @ error, atol=1e-6)
    np.testing.assert_allclose(bias - dense["bias"], error.sum(0), atol=1e-6)
    np.testing.assert_allclose(
        metrics["loss"], -np.log(p[np.arange(BATCH), labels]).mean(), rtol=1e-5
    )
    np.testing.assert_allclose(metrics["accuracy"], (p.argmax(1) == labels).mean(), rtol=1e-6)


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
    mesh = make_mesh(**axes, devices=jax.devices()[:count])
    assert mesh.axis_names == ("member", "data") and mesh.devices.shape == shape
    assert list(mesh.devices.flat) == jax.devices()[:count]


@pytest.mark.parametrize(
    ("member", "data"),
    [(3, 1), (-1, 3), (3, -1), (-1, -1), (0, -1), (-1, 0), (-2, -4), (16, 1), (-1, 16), (2, 2)],
)
def test_meshes_that_do_not_fit_are_refused(member, data):
    with pytest.raises(ValueError, match=r"member=.*data=.*8 device"):
        make_mesh(member, data)


def test_placements():
    mesh = make_mesh(4, 2)
    tree = {"a": jnp.arange(8.0).reshape(8, 1), "b": jnp.arange(4)}
    whole, split = replicate(tree, mesh), shard_members(tree, mesh)
    for name, leaf in tree.items():
        assert whole[name].sharding.is_fully_replicated and len(whole[name].devices()) == 8
        shards = {(s.device, s.data.shape[0]) for s in split[name].addressable_shards}
        assert len(shards) == 8 and {n for _, n in shards} == {len(leaf) // 4}
        np.testing.assert_array_equal(split[name], leaf)
