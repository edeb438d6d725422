"""Networks in stretches against the whole, batch statistics and dropout against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxdl.nn.models import MODELS
from jaxdl.nn.models.convnet import Conv, ConvNet
from jaxdl.transfer import cut, layers


def small(**options):
    return ConvNet((Conv(4, stride=2), Conv(6, pool=2)), (8,), 3, **options)


@pytest.fixture(scope="module")
def images():
    return jnp.asarray(np.random.default_rng(0).normal(size=(5, 8, 8, 2)), jnp.float32)


@pytest.fixture(scope="module")
def variables(images):
    """Of the network with batch normalization; running statistics that differ from the start's."""
    shapes = jax.eval_shape(small(batch_norm=True).init, jax.random.key(0), images)
    rng = np.random.default_rng(1)
    return {
        "params": jax.tree.map(
            lambda s: jnp.asarray(rng.normal(0, 0.5, s.shape), s.dtype), shapes["params"]
        ),
        "batch_stats": jax.tree.map(
            lambda s: jnp.asarray(rng.uniform(0.2, 1.2, s.shape), s.dtype), shapes["batch_stats"]
        ),
    }


@pytest.mark.parametrize("train", [False, True])
def test_layers_in_stretches_are_the_whole(images, variables, train):
    model = small(batch_norm=True)

    @jax.jit
    def everything(variables, x):
        def apply(variables, x, **stretch):
            if not train:
                return model.apply(variables, x, **stretch), {}
            y, new = model.apply(variables, x, train=True, mutable=["batch_stats"], **stretch)
            return y, dict(new.get("batch_stats", {}))

        whole = apply(variables, x)
        parts = []
        for n in range(model.depth + 1):
            # A stretch needs the variables of its own layers and no other.
            below, above = cut(variables, n)
            h, first = apply(below, x, stop=n)
            logits, second = apply(above, h, start=n)
            parts.append((logits, first | second))
        return whole, parts

    (logits, stats), parts = everything(variables, images)
    assert logits.shape == (5, 3)
    for there, new in parts:
        np.testing.assert_allclose(there, logits, atol=1e-6)
        assert new.keys() == stats.keys()
        for a, b in zip(jax.tree.leaves(new), jax.tree.leaves(stats), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)


def test_layers_are_named_for_their_depth(images):
    model = small(batch_norm=True)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    assert layers(shapes) == ("conv1", "conv2", "fc3", "fc4")
    assert model.depth == 4
    params = jax.tree.map(lambda leaf: leaf.shape, shapes["params"])
    assert {k: v for k, v in params["conv1"].items() if k in ("kernel", "bias")} == {
        "kernel": (3, 3, 2, 4),
        "bias": (4,),
    }
    assert params["fc3"]["dense"]["kernel"] == (2 * 2 * 6, 8)
    assert set(shapes["batch_stats"]) == {"conv1", "conv2"}
    assert set(jax.eval_shape(small().init, jax.random.key(0), images)) == {"params"}


@pytest.mark.parametrize(
    ("name", "side"), [("glyph_net", 20), ("digit_net", 8)], ids=lambda value: str(value)
)
def test_networks_by_name_have_as_many_layers_as_they_say(name, side):
    model = MODELS[name](7)
    logits, shapes = jax.eval_shape(
        model.init_with_output, jax.random.key(0), jnp.zeros((2, side, side, 1))
    )
    assert logits.shape == (2, 7)
    assert len(layers(shapes)) == model.depth


def test_first_layer_in_training_is_normalized_by_the_batch(images, variables):
    model = small(batch_norm=True)
    layer = variables["params"]["conv1"]
    norm = next(value for key, value in layer.items() if "Norm" in key)
    before = next(iter(variables["batch_stats"]["conv1"].values()))
    z = lax.conv_general_dilated(
        images, layer["kernel"], (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    z = np.asarray(z, np.float64) + np.asarray(layer["bias"], np.float64)
    mean, variance = z.mean((0, 1, 2)), z.var((0, 1, 2))
    scale, bias = np.asarray(norm["scale"]), np.asarray(norm["bias"])

    def normalized(mean, variance):
        return np.maximum((z - mean) / np.sqrt(variance + 1e-5) * scale + bias, 0)

    first, _ = cut(variables, 1)
    y, new = model.apply(first, images, train=True, stop=1, mutable=["batch_stats"])
    np.testing.assert_allclose(y, normalized(mean, variance), atol=1e-5)
    after = next(iter(new["batch_stats"]["conv1"].values()))
    np.testing.assert_allclose(after["mean"], 0.99 * before["mean"] + 0.01 * mean, atol=1e-6)
    np.testing.assert_allclose(after["var"], 0.99 * before["var"] + 0.01 * variance, atol=1e-6)

    y = model.apply(first, images, stop=1)
    np.testing.assert_allclose(
        y, normalized(np.asarray(before["mean"]), np.asarray(before["var"])), atol=1e-5
    )


def test_dropout_drops_in_training_only_and_keeps_the_mean():
    width = 400
    model = ConvNet((), (width,), width, dropout=0.25)
    x = jnp.asarray(np.random.default_rng(0).uniform(0.5, 1, (3, width)), jnp.float32)
    # With unit matrices for weights the logits are what dropout lets through.
    unit = {"dense": {"kernel": jnp.eye(width), "bias": jnp.zeros(width)}}
    variables = {"params": {"fc1": unit, "fc2": unit}}

    def logits(seed):
        return np.asarray(
            model.apply(variables, x, train=True, rngs={"dropout": jax.random.key(seed)})
        )

    np.testing.assert_allclose(model.apply(variables, x), x, rtol=1e-6)
    y = logits(0)
    dropped = y == 0
    np.testing.assert_allclose(y[~dropped], np.asarray(x)[~dropped] / 0.75, rtol=1e-6)
    assert abs(dropped.mean() - 0.25) < 5 * np.sqrt(0.25 * 0.75 / dropped.size)
    np.testing.assert_array_equal(y, logits(0))
    assert (dropped != (logits(1) == 0)).any()
    # The first dense layer sees the whole of the images' features.
    first, _ = cut(variables, 1)
    np.testing.assert_allclose(model.apply(first, x, train=True, stop=1), x, rtol=1e-6)
