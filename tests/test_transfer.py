"""Surgery bit for bit, and frozen training against the plain kinds of it."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import freeze

from jaxdl import transfer
from jaxdl.nn.layered import activations, layer_names
from jaxdl.nn.losses import cross_entropy
from jaxdl.nn.metrics import correct
from jaxdl.nn.models.convnet import Conv, ConvNet
from jaxdl.optim import make_optimizer
from jaxdl.supervised import classification_loss
from jaxdl.train.state import create_state, make_step

STEPS = 10


def assert_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y, strict=True)


def assert_close(a, b, tolerance=1e-5):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=tolerance)


class Setting(NamedTuple):
    model: ConvNet
    images: np.ndarray  # [steps, batch, h, w, c]
    labels: np.ndarray

    def variables(self, seed):
        """Of a network as if trained a while: no zero biases, no unit statistics."""
        shapes = jax.eval_shape(self.model.init, jax.random.key(0), self.images[0])
        rng = np.random.default_rng(seed)

        def draw(low, high, collection):
            return jax.tree.map(
                lambda s: jnp.asarray(rng.uniform(low, high, s.shape).astype(s.dtype)), collection
            )

        stats = shapes.get("batch_stats", {})
        return {
            "params": draw(-0.4, 0.5, shapes["params"]),
            "batch_stats": draw(0.3, 1.3, stats),
        }


def setting(batch_norm):
    if batch_norm:
        model = ConvNet((Conv(4, stride=2), Conv(5, pool=2)), (6,), 3, batch_norm=True)
    else:
        model = ConvNet((Conv(4, stride=2),), (7, 6), 3)
    rng = np.random.default_rng(0)
    images = rng.normal(size=(STEPS, 8, 6, 6, 1)).astype(np.float32)
    return Setting(model, images, rng.integers(0, 3, (STEPS, 8)).astype(np.int32))


@pytest.fixture(scope="module")
def plain():
    return setting(batch_norm=False)


@pytest.fixture(scope="module")
def normed():
    return setting(batch_norm=True)


def train(at, loss_fn, variables, rule, hyper=None, key=7, several=False):
    """All steps of a network's training, in one compiled loop."""
    step = make_step(loss_fn, rule)
    hyper = {"key": jax.random.key(key), **(hyper or {})}

    @jax.jit
    def run(variables, hyper):
        alive = transfer.alive(variables) if several else True

        def body(state, batch):
            return step(state, {"image": batch[0], "label": batch[1]}, hyper)

        state = create_state(variables, rule, alive=alive)
        state, metrics = jax.lax.scan(body, state, (at.images, at.labels))
        return state.variables, metrics

    return jax.device_get(run(variables, hyper))


def train_above(at, n, variables, like=None):
    """The same with all but the first n layers, which the mask names, of the kind of ``like``."""
    mask = transfer.trainable(like or variables, n)["params"]
    rule = make_optimizer("momentum", 0.1, weight_decay=0.1, max_norm=0.4, trainable=mask)
    return train(at, classification_loss(transfer.Frozen(at.model, n)), variables, rule)


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        (("conv1", "head"), "'head' has no depth"),
        # As Keras names them: the 2 is no depth.
        (("conv2d", "conv2d_1", "conv2d_3"), "'conv2d' has no depth"),
        (("conv1", "norm1"), "'conv1' and 'norm1' share a depth"),
        (("Conv_0", "Conv_1", "Dense_0"), "'Conv_0' and 'Dense_0' share a depth"),
        (("block1_conv2", "block2_conv1"), "'block2_conv1' and 'block1_conv2'.* no one order"),
    ],
)
def test_names_that_do_not_tell_the_depth_are_refused(names, complaint):
    variables = {"params": {name: {} for name in names}}
    with pytest.raises(ValueError, match=rf"{complaint}.*pass order=\(\.\.\.\)$"):
        layer_names(variables)
    assert transfer.cut(variables, 1, names)[0]["params"] == {names[0]: {}}


def test_cut_and_join_are_inverse(normed):
    variables = normed.variables(0)
    names = ["conv1", "conv2", "fc3", "fc4"]
    for n in range(5):
        below, above = transfer.cut(variables, n)
        assert sorted(below["params"]) == names[:n] and sorted(above["params"]) == names[n:]
        assert sorted(below["batch_stats"]) == names[: min(n, 2)]
        assert_equal(transfer.join(below, above), variables)
    for n in (-1, 5):
        with pytest.raises(ValueError, match="4 layers"):
            transfer.cut(variables, n)


def test_transplanted_layers_are_equal_bit_for_bit(normed):
    base, fresh = normed.variables(1), normed.variables(2)
    names = ("conv1", "conv2", "fc3", "fc4")
    for n in range(5):
        network = transfer.transplant(base, fresh, n)
        for kind in ("params", "batch_stats"):
            assert network[kind].keys() == fresh[kind].keys()
            for name, layer in network[kind].items():
                giver = base if name in names[:n] else fresh
                assert_equal(layer, giver[kind][name])
    assert_equal(base, normed.variables(1))
    assert_equal(fresh, normed.variables(2))


def test_transplant_works_where_the_layers_above_differ(plain):
    base = plain.variables(0)
    other = Setting(ConvNet((Conv(4, stride=2),), (7, 6), 5), plain.images, plain.labels)
    network = transfer.transplant(base, other.variables(1), 3)
    assert network["params"]["fc4"]["dense"]["kernel"].shape == (6, 5)
    with pytest.raises(ValueError, match=r"layer 'fc4'.*float32\[3\].*float32\[5\]") as raised:
        transfer.transplant(base, other.variables(1), 4)
    assert len(str(raised.value)) < 120


def test_the_first_layer_that_differs_is_named(normed):
    base, fresh = normed.variables(0), normed.variables(1)

    def refused(changed, n=4):
        with pytest.raises(ValueError, match="in the base") as raised:
            transfer.transplant(changed, fresh, n)
        return str(raised.value)

    def without(variables, kind, name):
        return {
            k: {m: layer for m, layer in c.items() if (k, m) != (kind, name)}
            for k, c in variables.items()
        }

    # bfloat16 would be copied as it is, and train as such.
    small = jax.tree.map(lambda a: a.astype(jnp.bfloat16), base)
    assert refused(small) == (
        "layer 'conv1': batch_stats/BatchNorm_0/mean is bfloat16[4] in the base, float32[4] in the "
        "fresh network: convert it with astype"
    )
    half = {"params": {**base["params"], "fc3": small["params"]["fc3"]}}
    half["batch_stats"] = base["batch_stats"]
    assert refused(half).startswith("layer 'fc3': params/dense/bias is bfloat16[6] in the base")
    transfer.transplant(half, fresh, 2)
    bare = without(base, "batch_stats", "conv2")
    assert refused(bare).startswith("layer 'conv2': batch_stats/BatchNorm_0/mean is absent in")
    assert "batch_stats/BatchNorm_0/mean is absent" in refused({"params": base["params"]})
    other = {**base["params"], "dense3": base["params"]["fc3"]}
    del other["fc3"]
    renamed = {"params": other, "batch_stats": base["batch_stats"]}
    assert refused(renamed) == "layer 3 is 'dense3' in the base, 'fc3' in the fresh network"


def test_frozen_dicts_and_dicts_can_be_mixed(normed):
    base, fresh = normed.variables(0), normed.variables(1)
    expected = transfer.transplant(base, fresh, 2)
    inside = {kind: freeze(collection) for kind, collection in base.items()}
    for ours in (freeze(base), inside):
        assert_equal(transfer.transplant(ours, fresh, 2), expected)
        assert_equal(transfer.transplant(fresh, ours, 2), transfer.transplant(fresh, base, 2))
        assert_equal(transfer.join(*transfer.cut(ours, 2)), base)
        assert_equal(transfer.trainable(ours, 2), transfer.trainable(base, 2))
        assert_equal(
            transfer.stack_cuts([ours, fresh], (1, 2)), transfer.stack_cuts([base, fresh], (1, 2))
        )
    assert_equal(train_above(normed, 2, base, like=freeze(base)), train_above(normed, 2, base))


def test_order_can_be_given():
    order = ("stem", "body", "head")
    base, fresh = (
        {"params": {name: {"w": jnp.full(2, value)} for name in reversed(order)}}
        for value in (1.0, 0.0)
    )
    network = transfer.transplant(base, fresh, 2, order)
    values = {name: float(layer["w"][0]) for name, layer in network["params"].items()}
    assert values == {"stem": 1, "body": 1, "head": 0}
    mask = transfer.trainable(fresh, 2, order)
    assert mask["params"] == {"stem": {"w": False}, "body": {"w": False}, "head": {"w": True}}
    below, above = transfer.cut(base, 1, order)
    assert set(below["params"]) == {"stem"} and set(above["params"]) == {"body", "head"}
    with pytest.raises(ValueError, match="order"):
        transfer.transplant(base, fresh, 2)


def test_an_order_with_an_unknown_layer_is_refused():
    base, fresh = ({"params": {"stem": {"w": jnp.full(2, v)}, "head": {}}} for v in (1.0, 0.0))
    with pytest.raises(ValueError, match="stam"):
        transfer.transplant(base, fresh, 1, ("stam", "head"))


def test_trainable_is_a_mask_of_what_lies_above(normed):
    variables = normed.variables(0)
    for n in range(5):
        mask = transfer.trainable(variables, n)
        assert jax.tree.structure(mask) == jax.tree.structure(variables)
        for kind in mask:
            for name, layer in mask[kind].items():
                assert set(jax.tree.leaves(layer)) == {int(name[-1]) > n}


def test_treatments_are_the_papers():
    assert {name: tuple(t) for name, t in transfer.TREATMENTS.items()} == {
        "BnB": ("self", True),
        "BnB+": ("self", False),
        "AnB": ("other", True),
        "AnB+": ("other", False),
        "random": ("random", True),
    }


@pytest.mark.parametrize("n", [1, 2])
def test_frozen_layers_keep_every_bit_in_training(normed, n):
    start = normed.variables(0)
    end, _ = train_above(normed, n, start)
    assert_equal(transfer.cut(end, n)[0], transfer.cut(start, n)[0])
    # What is above has moved: every array of parameters, and the statistics.
    above = [jax.tree.leaves(transfer.cut(network, n)[1]) for network in (start, end)]
    for before, after in zip(*above, strict=True):
        assert (np.asarray(before) != np.asarray(after)).any()


@pytest.mark.parametrize("batch_norm", [pytest.param(False, marks=pytest.mark.slow), True])
def test_sharing_a_prefix_trains_every_cut_as_if_alone(batch_norm, request):
    at = request.getfixturevalue("normed" if batch_norm else "plain")
    base, cuts = at.variables(0), (1, 3)
    fresh = [at.variables(10 + n) for n in cuts]
    rule = make_optimizer("momentum", 0.05, weight_decay=0.01, max_norm=2.0)
    together, metrics = train(
        at,
        transfer.shared_prefix_loss(at.model, cuts),
        transfer.stack_cuts(fresh, cuts),
        rule,
        {"base": base},
        several=True,
    )
    assert metrics["loss"].shape == metrics["accuracy"].shape == (STEPS, 2)
    logits = jax.jit(transfer.shared_prefix_logits, static_argnums=(0, 1))
    logits = np.asarray(logits(at.model, cuts, base, together, at.images[0]))
    apply = jax.jit(at.model.apply)
    for i, (n, network) in enumerate(zip(cuts, fresh, strict=True)):
        start = transfer.transplant(base, network, n)
        frozen = make_optimizer(
            "momentum",
            0.05,
            weight_decay=0.01,
            max_norm=2.0,
            trainable=transfer.trainable(start, n)["params"],
        )
        alone, of_one = train(at, classification_loss(transfer.Frozen(at.model, n)), start, frozen)
        above = {kind: together[kind][f"cut{n:02}"] for kind in together}
        assert_close(above, transfer.cut(alone, n)[1])
        np.testing.assert_allclose(metrics["loss"][:, i], of_one["loss"], atol=1e-5)
        np.testing.assert_allclose(metrics["accuracy"][:, i], of_one["accuracy"], atol=1e-6)
        np.testing.assert_allclose(logits[i], apply(alone, at.images[0]), atol=1e-4)
        if n == 1 and not batch_norm:
            # Everything differentiated, and the updates below the cut thrown away.
            masked, _ = train(at, classification_loss(at.model), start, frozen)
            assert_close(masked, alone)


def test_loss_and_accuracy_are_those_of_numpy(plain):
    variables = plain.variables(0)
    x, labels = plain.images[0], plain.labels[0]
    loss, (stats, metrics) = jax.jit(classification_loss(plain.model))(
        variables["params"], {}, {"image": x, "label": labels}, {}, jax.random.key(0)
    )
    logits = np.asarray(jax.jit(plain.model.apply)(variables, x), np.float64)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    expected = -log_p[np.arange(8), labels]
    np.testing.assert_allclose(jax.jit(cross_entropy)(logits, labels), expected, atol=1e-5)
    np.testing.assert_allclose(loss, expected.mean(), atol=1e-5)
    assert float(metrics["accuracy"]) == (logits.argmax(1) == np.asarray(labels)).mean()
    assert stats == {}


def test_labels_out_of_range_are_refused_where_they_can_be_seen():
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), jnp.float32)
    for bad in (3, -1, 255):
        labels = jnp.asarray([0, 2, bad, bad], jnp.int32)
        for given in (labels, np.asarray(labels)):
            with pytest.raises(ValueError, match=rf"label {bad} of example 2 .* labels 0 to 2 \(2"):
                cross_entropy(logits, given)
        with pytest.raises(ValueError, match=f"label {bad} of example 2"):
            jax.jit(lambda x, fixed=labels: cross_entropy(x, fixed))(logits)
        np.testing.assert_array_equal(np.asarray(jax.jit(correct)(logits, labels))[2:], False)
    # Traced, they are what the docstring says.
    found = jax.jit(cross_entropy)(logits, jnp.asarray([-1, 2, 3, -3], jnp.int32))
    expected = jax.jit(cross_entropy)(logits, jnp.asarray([2, 2, 0, 0], jnp.int32))
    found, expected = np.asarray(found), np.asarray(expected)
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-6)
    assert np.isnan(found[[0, 2, 3]]).all()


class Training(nn.Module):
    """A network whose layers cannot be applied alone."""

    @nn.compact
    def layers(self, x, training):
        x = nn.Dense(6, name="hidden")(x.reshape(len(x), -1))
        x = nn.BatchNorm(use_running_average=not training, name="norm")(x)
        x = nn.Dropout(0.5, deterministic=not training)(nn.relu(x))
        return nn.Dense(3, name="logits")(x)


class WithTrain(Training):
    def __call__(self, x, train=False):
        return self.layers(x, train)


class WithTraining(Training):
    def __call__(self, x, *, training=False):
        return self.layers(x, training)


class WithDeterministic(Training):
    def __call__(self, x, deterministic=True):
        return self.layers(x, not deterministic)


@pytest.mark.parametrize("model", [WithTrain(), WithTraining(), WithDeterministic()])
def test_with_nothing_frozen_any_flax_module_is_trained(model, plain):
    x, labels, key = plain.images[0], plain.labels[0], jax.random.key(3)

    @jax.jit
    def everything(x, labels):
        variables = model.init(jax.random.key(0), x)
        collections = {"batch_stats": variables["batch_stats"]}
        loss, (changed, _) = classification_loss(model)(
            variables["params"], collections, {"image": x, "label": labels}, {}, key
        )
        logits, new = model.apply(
            variables, x, True, method="layers", mutable=["batch_stats"], rngs={"dropout": key}
        )
        return loss, cross_entropy(logits, labels).mean(), changed, new

    loss, expected, changed, new = everything(x, labels)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    assert_close(changed, new)
    assert (np.asarray(new["batch_stats"]["norm"]["mean"]) != 0).all()


def test_a_module_without_a_training_mode_is_trained(plain):
    model = nn.Sequential([lambda x: x.reshape(len(x), -1), nn.Dense(3)])
    x, labels = plain.images[0], plain.labels[0]

    @jax.jit
    def everything(batch):
        variables = model.init(jax.random.key(0), x)
        loss_fn = classification_loss(model)
        loss, (stats, _) = loss_fn(variables["params"], {}, batch, {}, jax.random.key(0))
        return loss, cross_entropy(model.apply(variables, x), labels).mean(), stats

    loss, expected, stats = everything({"image": x, "label": labels})
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    assert stats == {}


def test_frozen_layers_need_a_model_that_can_be_applied_in_parts():
    complaint = r"^WithTrain takes \(x, train\): frozen layers need .* start= and stop="
    with pytest.raises(ValueError, match=complaint):
        classification_loss(transfer.Frozen(WithTrain(), 1))
    with pytest.raises(ValueError, match=complaint):
        transfer.shared_prefix_loss(WithTrain(), (1,))


def test_activations_are_those_of_the_layers_one_by_one(normed):
    base, x = normed.variables(0), normed.images[0]
    stops, apply = (1, 3, 4), normed.model.apply
    hidden = jax.jit(lambda base, x: activations(normed.model, base, x, stops))(base, x)
    expected = jax.jit(lambda base, x: [apply(base, x, stop=n) for n in stops])(base, x)
    assert_close(hidden, expected, 1e-6)


class Watched:
    """Layers ``tanh(x W)`` that note when anyone differentiates them."""

    def __init__(self, depth):
        self.depth = depth
        self.differentiated = set()

    def apply(self, variables, x, *, train, start=0, stop=None, mutable=None, rngs=None):
        del train, rngs
        for n in range(start + 1, (self.depth if stop is None else stop) + 1):
            x = self._layer(n, variables["params"][f"layer{n}"]["w"], x)
        return (x, {}) if mutable else x

    def _layer(self, n, w, x):
        @jax.custom_vjp
        def layer(w, x):
            return jnp.tanh(x @ w)

        def backward(saved, g):
            self.differentiated.add(n)
            return jax.vjp(lambda w, x: jnp.tanh(x @ w), *saved)[1](g)

        layer.defvjp(lambda w, x: (layer(w, x), (w, x)), backward)
        return layer(w, x)


@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_nothing_is_differentiated_below_the_cut(n):
    rng = np.random.default_rng(0)
    params = {
        f"layer{i}": {"w": jnp.asarray(rng.normal(size=(4, 4)), jnp.float32)} for i in (1, 2, 3, 4)
    }
    batch = {
        "image": jnp.asarray(rng.normal(size=(5, 4)), jnp.float32),
        "label": jnp.zeros(5, jnp.int32),
    }
    key = jax.random.key(0)

    model = Watched(4)
    loss_fn = classification_loss(transfer.Frozen(model, n) if n else model)
    grads = jax.jit(jax.grad(loss_fn, has_aux=True))(params, {}, batch, {}, key)[0]
    assert model.differentiated == set(range(n + 1, 5))
    for i in (1, 2, 3, 4):
        assert np.any(np.asarray(grads[f"layer{i}"]["w"]) != 0) == (i > n)

    if n:
        model = Watched(4)
        above = {f"cut{n:02}": {k: v for k, v in params.items() if int(k[-1]) > n}}

        stats = {"batch_stats": {f"cut{n:02}": {}}}

        def loss(above, base):
            hyper = {"base": base}
            losses, aux = transfer.shared_prefix_loss(model, (n,))(above, stats, batch, hyper, key)
            return losses[f"cut{n:02}"], aux

        gradient = jax.jit(jax.grad(loss, (0, 1), has_aux=True))
        own, of_base = gradient(above, {"params": params})[0]
        assert model.differentiated == set(range(n + 1, 5))
        assert not any(np.any(leaf) for leaf in jax.tree.leaves(of_base))
        assert_close(own[f"cut{n:02}"], {k: grads[k] for k in own[f"cut{n:02}"]}, 1e-6)
