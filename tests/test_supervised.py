"""Losses against scikit-learn's and their formulas in NumPy; any Flax module; parts of a batch and
bfloat16 against whole batches in float32."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P
from sklearn.metrics import log_loss

from jaxdl.nn.losses import binary_cross_entropy, cross_entropy, squared_error
from jaxdl.nn.models.convnet import Conv, ConvNet
from jaxdl.supervised import binary_loss, classification_loss, make_loss, regression_loss
from jaxdl.train.parallel import make_placement
from jaxdl.train.state import create_state, make_step

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(7, 4)).astype(np.float32)
LABELS = RNG.integers(0, 4, 7)
WEIGHTS = RNG.uniform(0.5, 2, 4).astype(np.float32)
IMAGES = RNG.normal(size=(8, 6, 6, 1)).astype(np.float32)
KEY = jax.random.key(0)
HYPER = {"key": KEY}


def log_softmax(logits):
    logits = np.asarray(logits, np.float64)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def test_cross_entropy_is_scikit_learns():
    p = np.exp(log_softmax(LOGITS))
    ours = jax.jit(cross_entropy)(LOGITS, LABELS)
    assert np.mean(ours) == pytest.approx(log_loss(LABELS, p, labels=range(4)), rel=1e-5)
    soft = np.eye(4, dtype=np.float32)[LABELS]
    np.testing.assert_allclose(jax.jit(cross_entropy)(LOGITS, soft), ours, rtol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["alike", "weighted"])
@pytest.mark.parametrize("kind", ["labels", "mixed"])
def test_smoothing_and_class_weights_follow_their_formula(smoothing, weights, kind):
    q = np.eye(4)[LABELS]
    if kind == "mixed":
        q = 0.3 * q + 0.7 * np.roll(q, 1, axis=0)
    expected = (1 - smoothing) * q + smoothing / 4
    expected = -(expected * log_softmax(LOGITS) * (1 if weights is None else weights)).sum(-1)
    targets = LABELS if kind == "labels" else q.astype(np.float32)

    @jax.jit
    def losses(logits, targets, traced):
        ours = [
            cross_entropy(logits, targets, smoothing=value, class_weights=weights)
            for value in (smoothing, traced)
        ]
        if kind == "mixed" and weights is None:
            ours.append(optax.softmax_cross_entropy(logits, optax.smooth_labels(targets, traced)))
        return ours

    for values in losses(LOGITS, targets, smoothing):
        np.testing.assert_allclose(values, expected, rtol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("label", [-1, 4])
def test_a_label_out_of_range_is_an_error_or_nan(label, smoothing):
    labels = jnp.asarray([0, label, *LABELS[2:]])
    with pytest.raises(ValueError, match=f"label {label} of example 1 is out of range"):
        cross_entropy(jnp.asarray(LOGITS), labels)
    losses = jax.jit(partial(cross_entropy, smoothing=smoothing))(jnp.asarray(LOGITS), labels)
    np.testing.assert_array_equal(np.isnan(losses), np.arange(7) == 1)


@pytest.mark.usefixtures("types_unchecked")
def test_binary_cross_entropy_and_squared_error_are_those_of_numpy():
    logits, labels = LOGITS[:, 0], LABELS % 2
    p = 1 / (1 + np.exp(-np.asarray(logits, np.float64)))
    expected = log_loss(labels, p, labels=(0, 1))
    losses = jax.jit(binary_cross_entropy)(logits, labels)
    assert np.mean(losses) == pytest.approx(expected, rel=1e-5)
    targets = RNG.normal(size=(7, 4)).astype(np.float32)
    errors = jax.jit(squared_error)(LOGITS, targets)
    np.testing.assert_allclose(errors, ((LOGITS - targets) ** 2).sum(-1), rtol=1e-5)
    with pytest.raises(ValueError, match=r"predictions are \[7, 1\], targets \[7\]"):
        squared_error(np.zeros((7, 1), np.float32), np.zeros(7, np.float32))


class Table(nn.Module):
    """A dense layer that counts how often it was trained, and the mean of what it saw."""

    outputs: int

    @nn.compact
    def __call__(self, x, train=False):
        count = self.variable("memory", "count", lambda: jnp.int32(0))
        mean = self.variable("memory", "mean", lambda: jnp.zeros(x.shape[-1]))
        if train:
            count.value = count.value + 1
            mean.value = x.mean(0).astype(mean.value.dtype)
        return nn.Dense(self.outputs)(x)


def initial(model, x):
    """Initial variables, compiled as one function."""
    return jax.jit(model.init)(KEY, x)


def test_every_collection_of_any_module_is_carried_and_the_loss_is_a_metric():
    x, model = jnp.asarray(LOGITS), Table(3)
    state = create_state(initial(model, x), optax.sgd(0.1))
    batch = {"features": x, "label": jnp.asarray(LABELS % 3)}
    loss_fn = classification_loss(model, inputs="features")
    before = jax.jit(loss_fn)(state.params, state.collections, batch, HYPER, KEY)[0]
    step = jax.jit(make_step(loss_fn, optax.sgd(0.1)))
    for steps in (1, 2):
        state, metrics = step(state, batch, HYPER)
        assert int(state.collections["memory"]["count"]) == steps
        if steps == 1:
            np.testing.assert_allclose(metrics["loss"], before, rtol=1e-6)
    np.testing.assert_allclose(state.collections["memory"]["mean"], LOGITS.mean(0), rtol=1e-5)
    assert sorted(metrics) == ["accuracy", "fault", "loss"]


def test_an_optimizer_may_be_made_of_a_members_numbers():
    x, model = jnp.asarray(LOGITS), Table(3)
    variables, batch = initial(model, x), {"features": x, "target": np.zeros((7, 3), np.float32)}
    loss_fn, after = regression_loss(model), []
    expected = np.sum(np.asarray(jax.jit(model.apply)(variables, x)) ** 2, -1).mean()
    for optimizer, hyper in (
        (optax.adam(0.1), HYPER),
        (lambda hyper: optax.adam(hyper["rate"]), {**HYPER, "rate": jnp.float32(0.1)}),
    ):
        state = create_state(variables, optimizer, hyper)
        state, metrics = jax.jit(make_step(loss_fn, optimizer))(state, batch, hyper)
        after.append(state.params)
        np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5)
    for a, b in zip(*map(jax.tree.leaves, after), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.parametrize("jitted", [False, True])
def test_examples_of_weight_0_do_not_count_whatever_their_label(jitted):
    x, model = LOGITS, Table(4)
    variables, labels = initial(model, x), jnp.asarray(np.where(np.arange(7) < 4, LABELS, -1))
    arguments = variables["params"], {"memory": variables["memory"]}
    loss_fn = classification_loss(model, inputs="features")
    loss_fn = jax.jit(loss_fn) if jitted else loss_fn
    batch = {"features": x, "label": labels, "weight": labels >= 0}
    loss, (_, metrics) = loss_fn(*arguments, batch, {}, KEY)
    batch = {"features": x[:4], "label": labels[:4]}
    expected, (_, of_four) = loss_fn(*arguments, batch, {}, KEY)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    np.testing.assert_allclose(metrics["accuracy"], of_four["accuracy"], rtol=1e-6)


@pytest.mark.parametrize("make", [regression_loss, binary_loss])
def test_missing_targets_may_be_nan(make):
    x, model = LOGITS.copy(), Table(1)
    variables = initial(model, x)
    collections = {"memory": variables["memory"]}
    target = np.linspace(0, 1, 7, dtype=np.float32)
    target[4:] = x[5] = np.nan
    loss_fn = make(model, inputs="features", targets="target")
    gradient = jax.jit(jax.grad(loss_fn, has_aux=True))
    kept = {"features": x[:4], "target": target[:4]}
    whole = {"features": x, "target": target, "weight": target >= 0}
    for ours, theirs in zip(
        jax.tree.leaves(gradient(variables["params"], collections, whole, {}, KEY)[0]),
        jax.tree.leaves(gradient(variables["params"], collections, kept, {}, KEY)[0]),
        strict=True,
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_an_optimizer_may_look_at_the_loss():
    """Optax's Polyak step is ``(loss - f_min) / |gradient|²`` at most."""
    x, model = jnp.asarray(LOGITS), Table(1)
    variables, batch = initial(model, x), {"features": x, "target": jnp.arange(7.0)}
    loss_fn, optimizer = regression_loss(model), optax.polyak_sgd(max_learning_rate=1e6)
    state = create_state(variables, optimizer)
    after, metrics = jax.jit(make_step(loss_fn, optimizer))(state, batch, HYPER)
    gradient = jax.jit(jax.grad(loss_fn, has_aux=True))
    gradient = gradient(state.params, state.collections, batch, {}, KEY)[0]
    rate = metrics["loss"] / sum(np.sum(np.square(g)) for g in jax.tree.leaves(gradient))
    expected = jax.tree.map(lambda p, g: np.asarray(p) - rate * g, state.params, gradient)
    for a, b in zip(*map(jax.tree.leaves, (after.params, expected)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4)


def test_binary_targets_may_be_masks_of_images():
    model = nn.Conv(1, (3, 3))
    x, masks = IMAGES, (IMAGES[..., 0] > 0.3).astype(np.uint8)
    variables = initial(model, x)
    loss_fn = jax.jit(binary_loss(model, targets="mask"))
    loss, (_, metrics) = loss_fn(variables["params"], {}, {"image": x, "mask": masks}, {}, KEY)
    logits = np.asarray(jax.jit(model.apply)(variables, x))[..., 0].astype(np.float64)
    expected = log_loss(masks.ravel(), (1 / (1 + np.exp(-logits))).ravel())
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(metrics["accuracy"], np.mean((logits > 0) == masks), rtol=1e-6)


LINEAR, NORMED = ConvNet((), (), 3), ConvNet((Conv(4),), (), 3, batch_norm=True)
BATCH = {"image": IMAGES, "label": RNG.integers(0, 3, 8)}


def stepped(model, accumulate, devices=0, key=KEY, **options):
    """State and metrics after one step; with devices, under shard_map of a divided batch."""
    variables = initial(model, BATCH["image"])
    state = create_state(variables, optax.sgd(0.1))
    axis = "data" if devices else None
    loss_fn = classification_loss(model, **options)
    step = make_step(loss_fn, optax.sgd(0.1), axis, accumulate=accumulate)
    if devices:
        mesh = make_placement(1, devices, devices=jax.devices()[:devices]).mesh
        step = jax.shard_map(step, mesh=mesh, in_specs=(P(), P("data"), P()), out_specs=P())
    return jax.jit(step)(state, BATCH, {"key": key})


@pytest.mark.parametrize("devices", [0, 2])
@pytest.mark.parametrize("parts", [2, 4])
def test_a_batch_in_parts_has_the_whole_batchs_gradient(parts, devices):
    whole, metrics = stepped(LINEAR, 1)
    in_parts, of_parts = stepped(LINEAR, parts, devices)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(in_parts), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    for name, value in metrics.items():
        np.testing.assert_allclose(of_parts[name], value, rtol=1e-5, err_msg=name)


def test_statistics_pass_from_part_to_part():
    state, _ = stepped(NORMED, 2)
    variables = initial(NORMED, BATCH["image"])
    forward = jax.jit(partial(NORMED.apply, train=True, mutable=["batch_stats"]))
    for half in (slice(0, 4), slice(4, 8)):
        _, new = forward(variables, BATCH["image"][half])
        variables = {**variables, **new}
    for a, b in zip(
        jax.tree.leaves(state.collections["batch_stats"]),
        jax.tree.leaves(variables["batch_stats"]),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_parts_must_divide_the_batch():
    with pytest.raises(ValueError, match="a batch of 8 is not accumulate=3 equal parts"):
        stepped(LINEAR, 3)


def test_computing_in_bfloat16_leaves_everything_kept_in_float32():
    exact, of_exact = stepped(NORMED, 1)
    state, metrics = stepped(NORMED, 1, dtype=jnp.bfloat16)
    for a, b in zip(jax.tree.leaves(exact), jax.tree.leaves(state), strict=True):
        assert a.dtype == b.dtype
        if jnp.issubdtype(a.dtype, jnp.floating):
            np.testing.assert_allclose(a, b, atol=0.05)
    assert metrics["loss"].dtype == jnp.float32
    np.testing.assert_allclose(metrics["loss"], of_exact["loss"], rtol=0.05)
    seen = []

    def per_example(logits, batch):
        assert logits.dtype == jnp.float32
        return cross_entropy(logits, batch["label"]), {}

    class Watching(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Dense(3)(x.reshape(len(x), -1))
            seen.append(x.dtype)
            return x

    variables = initial(Watching(), BATCH["image"])
    loss_fn = make_loss(Watching(), per_example, dtype=jnp.bfloat16)
    gradient = jax.jit(jax.grad(loss_fn, has_aux=True))
    grads = gradient(variables["params"], {}, BATCH, {}, KEY)[0]
    assert seen[-1] == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(grads)} == {jnp.dtype(jnp.float32)}
