"""Networks in stretches against the whole, batch statistics and dropout against NumPy."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from scipy import stats

from jaxdl.nn.layered import layer_names
from jaxdl.nn.models import MODELS
from jaxdl.nn.models.convnet import Conv, ConvLayer, ConvNet, Dropout, Start
from jaxdl.transfer import cut
from jaxdl.trees import count


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
    assert layer_names(shapes) == ("conv1", "conv2", "fc3", "fc4")
    assert model.depth == 4
    params = jax.tree.map(lambda leaf: leaf.shape, shapes["params"])
    assert {k: v for k, v in params["conv1"].items() if k in ("kernel", "bias")} == {
        "kernel": (3, 3, 2, 4)  # a bias would be taken off again
    }
    plain = jax.eval_shape(small().init, jax.random.key(0), images)["params"]
    assert plain["conv1"]["bias"].shape == (4,)
    assert params["fc3"]["dense"]["kernel"] == (2 * 2 * 6, 8)
    assert set(shapes["batch_stats"]) == {"conv1", "conv2"}
    assert set(jax.eval_shape(small().init, jax.random.key(0), images)) == {"params"}


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("glyph_net", (20, 20, 1)),
        ("digit_net", (8, 8, 1)),
        ("cifar_net", (16, 16, 1)),
        ("cifar_net", (28, 28, 1)),
        ("cifar_net", (32, 32, 3)),
        ("cifar_net", (64, 64, 3)),
        ("pairs_net", (32, 32, 3)),
        ("caffenet", (227, 227, 3)),
    ],
    ids=str,
)
def test_networks_by_name_have_as_many_layers_as_they_say(name, size):
    model = MODELS[name](7)
    shapes = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, *size), np.float32))
    logits, _ = jax.eval_shape(
        lambda variables, x: model.apply(
            variables, x, train=True, mutable=["batch_stats"], rngs={"dropout": jax.random.key(0)}
        ),
        shapes,
        np.zeros((2, *size), np.float32),
    )
    assert logits.shape == (2, 7)
    assert len(layer_names(shapes)) == model.depth


def test_the_network_of_pairs_has_the_parameters_of_jordans():
    """1.97 million, of 10 classes, by its paper; ours has no whitening bias of 24."""
    x = np.zeros((1, 32, 32, 3), np.float32)
    params = jax.eval_shape(MODELS["pairs_net"](10).init, jax.random.key(0), x)["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == pytest.approx(1.97e6, abs=5e3)


@pytest.mark.parametrize(
    ("side", "sides"),
    # Kernel 6 with stride 2 and no padding, kernel 3 without padding and a pool, twice 3 x 3 within
    # the same size and a pool.
    [(16, (6, 2, 2, 1)), (28, (12, 5, 5, 2)), (32, (14, 6, 6, 3)), (64, (30, 14, 14, 7))],
)
def test_cifar_net_on_images_of_several_sizes(side, sides):
    model, x = MODELS["cifar_net"](10), np.zeros((1, side, side, 3), np.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)
    for n, (s, channels) in enumerate(zip(sides, (24, 32, 48, 48), strict=True), 1):
        h = jax.eval_shape(lambda v, x, n=n: model.apply(v, x, stop=n), shapes, x)
        assert h.shape == (1, s, s, channels)
    assert shapes["params"]["fc5"]["dense"]["kernel"].shape == (sides[-1] ** 2 * 48, 96)
    assert set(shapes["batch_stats"]) == {"conv1", "conv2", "conv3", "conv4"}


# CaffeNet, by the numbers of its authors.


@pytest.fixture(scope="module")
def caffenet():
    """The network for ImageNet's thousand classes, the shapes of its variables, a batch of one."""
    model, x = MODELS["caffenet"](1000), jax.ShapeDtypeStruct((1, 227, 227, 3), jnp.float32)
    return model, jax.eval_shape(model.init, jax.random.key(0), x), x


def test_caffenet_has_the_parameters_of_caffes(caffenet):
    _, shapes, _ = caffenet
    assert count(shapes) == 60_965_224
    kernels = {
        "conv1": (11, 11, 3, 96),
        "conv2": (5, 5, 48, 256),
        "conv3": (3, 3, 256, 384),
        "conv4": (3, 3, 192, 384),
        "conv5": (3, 3, 192, 256),
        "fc6": (9216, 4096),
        "fc7": (4096, 4096),
        "fc8": (4096, 1000),
    }
    assert layer_names(shapes) == tuple(kernels)
    for name, shape in kernels.items():
        layer = shapes["params"][name]
        layer = layer.get("dense", layer)
        assert (layer["kernel"].shape, layer["bias"].shape) == (shape, shape[-1:])


def test_caffenet_has_the_activations_of_caffes(caffenet):
    model, shapes, x = caffenet
    # What convolutions put out, before they are pooled (3 x 3, every second pixel): of the layers'
    # own 11 x 11 with stride 4 and no padding, then 5 x 5 and 3 x 3 with padding.
    before, after = (55, 27, 13, 13, 13), (27, 13, 13, 13, 6)
    h = x
    for n in range(1, 9):
        unpooled = None
        if n <= 5:
            spec = model.convolutions[n - 1].replace(pool=1)
            specs = (*model.convolutions[: n - 1], spec, *model.convolutions[n:])
            alone = model.copy(convolutions=specs)
            unpooled = jax.eval_shape(lambda v, h, m=alone, n=n: _layer(m, v, h, n), shapes, h)
        h = jax.eval_shape(lambda v, h, n=n: _layer(model, v, h, n), shapes, h)
        if n <= 5:
            features = (96, 256, 384, 384, 256)[n - 1]
            assert unpooled.shape == (1, before[n - 1], before[n - 1], features)
            assert h.shape == (1, after[n - 1], after[n - 1], features)
        else:
            assert h.shape == (1, 1000 if n == 8 else 4096)


def _layer(model, variables, h, n):
    below, _ = cut(variables, n)
    _, this = cut(below, n - 1)
    return model.apply(this, h, start=n - 1, stop=n)


def test_caffenet_starts_as_caffes(caffenet):
    model, shapes, _ = caffenet
    # Of bvlc_reference_caffenet/train_val.prototxt, weight_filler's std and bias_filler's value.
    starts = {
        "conv1": (0.01, 0),
        "conv2": (0.01, 1),
        "conv3": (0.01, 0),
        "conv4": (0.01, 1),
        "conv5": (0.01, 1),
        "fc6": (0.005, 1),
        "fc7": (0.005, 1),
        "fc8": (0.01, 0),
    }
    found = [(start.deviation, start.level) for start in model.starts]
    assert dict(zip(layer_names(shapes), found, strict=True)) == starts


def test_stretches_of_grouped_pooled_and_normalized_layers_are_the_whole():
    """CaffeNet's kinds of layers, small: overlapping pools, groups, responses, dropout."""
    convolutions = (
        Conv(6, kernel=5, stride=2, padding="VALID", pool=3, pool_stride=2, response=True),
        Conv(8, kernel=3, pool=3, pool_stride=2, groups=2, response=True),
    )
    starts = (Start(0.5, 0.25), Start(0.2, 1.0), Start(0.05, -1.0), Start(None, 0.0))
    model = ConvNet(convolutions, (80,), 50, dropout=0.5, starts=starts)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 25, 27, 2)), jnp.float32)

    @jax.jit
    def everything(key, x):
        variables = model.init(key, x)
        parts, hidden = [], []
        for n in (1, 2, 3):
            below, above = cut(variables, n)
            hidden.append(model.apply(below, x, stop=n))
            parts.append(model.apply(above, hidden[-1], start=n))
        return variables, model.apply(variables, x), parts, hidden[:2]

    variables, whole, parts, hidden = everything(jax.random.key(0), x)
    for part in parts:
        np.testing.assert_allclose(part, whole, atol=1e-5)
    params = variables["params"]
    assert params["conv2"]["kernel"].shape == (3, 3, 3, 8)
    he = np.sqrt(2 / 80)
    for (name, layer), deviation, level in zip(
        params.items(), (0.5, 0.2, 0.05, he), (0.25, 1, -1, 0), strict=True
    ):
        layer = layer.get("dense", layer)
        np.testing.assert_array_equal(layer["bias"], level)
        kernel = np.asarray(layer["kernel"])
        assert abs(kernel.std() / deviation - 1) < 4 / np.sqrt(2 * kernel.size), name
        assert abs(kernel.mean()) < 4 * deviation / np.sqrt(kernel.size), name

    # The first two layers by XLA's own operations, and by NumPy's.
    def before_normalization(spec, h, layer):
        h = lax.conv_general_dilated(
            h,
            layer["kernel"],
            (spec.stride,) * 2,
            spec.padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=spec.groups,
        )
        h = jnp.maximum(h + layer["bias"][None, None, None], 0)
        return lax.reduce_window(h, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "VALID")

    h = x
    for spec, name, ours in zip(convolutions, ("conv1", "conv2"), hidden, strict=True):
        h = np.asarray(jax.jit(before_normalization, static_argnums=0)(spec, h, params[name]))
        squares = np.pad(h**2, ((0, 0), (0, 0), (0, 0), (2, 2)))
        total = np.stack([squares[..., c : c + 5].sum(-1) for c in range(h.shape[-1])], -1)
        h = h / (1 + 1e-4 / 5 * total) ** 0.75
        np.testing.assert_allclose(ours, h, atol=1e-4)


@pytest.mark.parametrize("level", [-0.5, 0.0, 0.5])
@pytest.mark.parametrize("spec", [Conv(4, pool=2), Conv(4, kernel=2, pool=3, pool_stride=2)])
def test_pooling_before_bias_and_relu_changes_neither_values_nor_gradients(spec, level):
    layer = ConvLayer(spec, Start(level=level))
    rng = np.random.default_rng(0)
    x, kernel = (rng.normal(size=s) for s in ((3, 9, 9, 2), (spec.kernel, spec.kernel, 2, 4)))
    variables = {"params": {"kernel": kernel / 4, "bias": np.full(4, level)}}
    variables, x = jax.tree.map(np.float32, (variables, x))

    def plain(variables, x):
        p, window = variables["params"], (1, spec.pool, spec.pool, 1)
        strides = (1, *[spec.pool_stride or spec.pool] * 2, 1)
        dims = ("NHWC", "HWIO", "NHWC")
        h = lax.conv_general_dilated(x, p["kernel"], (1, 1), "SAME", dimension_numbers=dims)
        h = jnp.maximum(h + p["bias"][None, None, None], 0)
        return lax.reduce_window(h, -jnp.inf, lax.max, window, strides, "VALID")

    def everything(fn, variables, x):
        y, back = jax.vjp(fn, variables, x)
        return y, back(jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape))

    ways = (lambda v, x: layer.apply(v, x, False)), plain
    both = jax.jit(lambda *a: [everything(way, *a) for way in ways])(variables, x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), *both)


def test_glorot_is_uniform_by_fan_in_and_fan_out():
    model = ConvNet((Conv(30, kernel=5),), (40,), 50, starts=(Start(glorot=True, level=0.1),) * 3)
    images = jax.ShapeDtypeStruct((1, 4, 4, 3), jnp.float32)
    init = jax.jit(lambda key: model.init(key, jnp.zeros(images.shape)))
    params = init(jax.random.key(0))["params"]
    fans = {"conv1": 25 * (3 + 30), "fc2": 480 + 40, "fc3": 40 + 50}
    for name, fan in fans.items():
        layer = params[name].get("dense", params[name])
        np.testing.assert_array_equal(layer["bias"], np.float32(0.1))
        bound = np.sqrt(6 / fan)
        draws = np.asarray(layer["kernel"]).ravel()
        assert np.abs(draws).max() <= bound * (1 + 1e-6)
        assert stats.kstest(draws, stats.uniform(-bound, 2 * bound).cdf).pvalue > 1e-3, name


def test_first_layer_in_training_is_normalized_by_the_batch(images, variables):
    model = small(batch_norm=True)
    layer = variables["params"]["conv1"]
    norm = next(value for key, value in layer.items() if "Norm" in key)
    before = next(iter(variables["batch_stats"]["conv1"].values()))
    dims = ("NHWC", "HWIO", "NHWC")
    conv = jax.jit(lambda *a: lax.conv_general_dilated(*a, (2, 2), "SAME", dimension_numbers=dims))
    z = np.asarray(conv(images, layer["kernel"]), np.float64)
    mean, variance = z.mean((0, 1, 2)), z.var((0, 1, 2))
    scale, bias = np.asarray(norm["scale"]), np.asarray(norm["bias"])

    def normalized(mean, variance):
        return np.maximum((z - mean) / np.sqrt(variance + 1e-5) * scale + bias, 0)

    first, _ = cut(variables, 1)
    apply = partial(model.apply, stop=1)
    y, new = jax.jit(partial(apply, train=True, mutable=["batch_stats"]))(first, images)
    before, new = jax.device_get((before, new))
    np.testing.assert_allclose(y, normalized(mean, variance), atol=1e-5)
    after = next(iter(new["batch_stats"]["conv1"].values()))
    np.testing.assert_allclose(after["mean"], 0.99 * before["mean"] + 0.01 * mean, atol=1e-6)
    np.testing.assert_allclose(after["var"], 0.99 * before["var"] + 0.01 * variance, atol=1e-6)

    y = jax.jit(apply)(first, images)
    np.testing.assert_allclose(y, normalized(before["mean"], before["var"]), atol=1e-5)


def test_dropout_drops_in_training_only_and_keeps_the_mean():
    width = 400
    model = ConvNet((), (width,), width, dropout=0.25)
    x = jnp.asarray(np.random.default_rng(0).uniform(0.5, 1, (3, width)), jnp.float32)
    # With unit matrices for weights the logits are what dropout lets through.
    unit = {"kernel": np.eye(width, dtype=np.float32), "bias": np.zeros(width, np.float32)}
    unit = {"dense": unit}
    variables = {"params": {"fc1": unit, "fc2": unit}}

    @jax.jit
    def training(seed):
        return model.apply(variables, x, train=True, rngs={"dropout": jax.random.key(seed)})

    def logits(seed):
        return np.asarray(training(seed))

    np.testing.assert_allclose(jax.jit(model.apply)(variables, x), x, rtol=1e-6)
    y = logits(0)
    dropped = y == 0
    np.testing.assert_allclose(y[~dropped], np.asarray(x)[~dropped] / 0.75, rtol=1e-6)
    assert abs(dropped.mean() - 0.25) < 5 * np.sqrt(0.25 * 0.75 / dropped.size)
    np.testing.assert_array_equal(y, logits(0))
    assert (dropped != (logits(1) == 0)).any()
    # The first dense layer sees the whole of the images' features.
    first, _ = cut(variables, 1)
    hidden = jax.jit(partial(model.apply, train=True, stop=1))(first, x)
    np.testing.assert_allclose(hidden, x, rtol=1e-6)


def test_members_may_differ_in_their_dropout():
    """Rates that are traced, against constant ones, by the same random numbers; 0 and 1 too."""
    rates = (0.0, 0.25, 0.5, 1.0)
    model = ConvNet((), (8, 8), 3)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(6, 5)), jnp.float32)
    shapes, key = jax.eval_shape(model.init, jax.random.key(0), x), jax.random.key(7)
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda s: np.float32(rng.normal(0, 0.3, s.shape)), shapes["params"])

    def value(rate, params):
        network = model.clone(dropout=rate)
        logits = network.apply({"params": params}, x, train=True, rngs={"dropout": key})
        return jnp.sum(logits**2)

    gradients = jax.value_and_grad(value, argnums=1)

    @jax.jit
    def everything(traced, params):
        together = jax.vmap(gradients, in_axes=(0, None))(traced, params)
        return together, [gradients(rate, params) for rate in rates]

    together, constant = jax.device_get(everything(jnp.asarray(rates), params))
    for i, alone in enumerate(constant):
        for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
            assert np.isfinite(a[i]).all()
            np.testing.assert_allclose(a[i], b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
def test_dropout_is_flaxs(rate):
    x, rngs = np.ones((50, 8), np.float32), {"dropout": jax.random.key(3)}
    ours, theirs = (
        jax.jit(kind(rate, deterministic=False).apply)({}, x, rngs=rngs)
        for kind in (Dropout, nn.Dropout)
    )
    np.testing.assert_array_equal(ours, theirs)
    assert Dropout(rate, deterministic=True).apply({}, x) is x
