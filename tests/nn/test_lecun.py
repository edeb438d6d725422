"""LeCun's networks: counts as published, units against NumPy's one by one."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.nn.models import MODELS
from jaxdl.nn.models.lecun import Local, Maps, Subsampling, squash
from jaxdl.nn.models.stack import Stack, count_links
from jaxdl.supervised import apply_train
from jaxdl.transfer import cut
from jaxdl.trees import count
from tests.variables import draw_variables

DIGIT = (16, 16, 1)


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def shapes(model, shape):
    """Of the network's parameters by layer, and of what each layer puts out."""
    x = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    outputs = [
        jax.eval_shape(lambda v, x, n=n: model.apply(v, x, stop=n), variables, x)
        for n in range(1, model.depth + 1)
    ]
    return variables["params"], [y.shape[1:] for y in outputs]


@pytest.mark.parametrize(
    ("name", "links", "weights"),
    [
        ("net1", 2570, 2570),
        ("net2", 3214, 3214),  # the paper prints 3240
        ("net3", 1226, 1226),
        ("net4", 2266, 1132),
        ("net5", 5194, 1060),
        ("zip_code", 64660, 9760),
    ],
)
def test_links_and_weights_are_those_published(name, links, weights):
    model = MODELS[name](10, axis_name="data")
    params, _ = shapes(model, DIGIT)
    assert (sum(count_links(model, DIGIT)), count(params)) == (links, weights)


def test_the_papers_count_of_its_second_network_is_that_of_twelve_outputs():
    params, _ = shapes(MODELS["net2"](12), DIGIT)
    assert count(params) == 3240


def test_zip_code_has_the_units_of_the_paper():
    _, units = shapes(MODELS["zip_code"](10), DIGIT)
    assert units == [(8, 8, 12), (4, 4, 12), (30,), (10,)]
    assert 256 + sum(map(np.prod, units)) == 1256


@pytest.mark.parametrize("side", [28, 32])
def test_lenet5_has_the_layers_of_the_paper(side):
    params, units = shapes(MODELS["lenet5"](10), (side, side, 1))
    assert units == [(28, 28, 6), (14, 14, 6), (10, 10, 16), (5, 5, 16), (120,), (84,), (10,)]
    weights = [count(params[f"layers_{i}"]) for i in range(7)]
    assert weights == [156, 12, 1516, 32, 48120, 10164, 850]


def test_lenet5_has_the_papers_table():
    sources = MODELS["lenet5"](10).layers[2].sources
    rows = [[o for o, seen in enumerate(sources) if i in seen] for i in range(6)]
    assert rows == [
        [0, 4, 5, 6, 9, 10, 11, 12, 14, 15],
        [0, 1, 5, 6, 7, 10, 11, 12, 13, 15],
        [0, 1, 2, 6, 7, 8, 11, 13, 14, 15],
        [1, 2, 3, 6, 7, 8, 9, 12, 14, 15],
        [2, 3, 4, 7, 8, 9, 10, 12, 13, 15],
        [3, 4, 5, 8, 9, 10, 11, 13, 14, 15],
    ]


def fields(x, side, stride, background):
    """A list of (row, column, field) of one example's maps."""
    if background:
        outputs = [-(-n // stride) for n in x.shape[:2]]
        total = [(o - 1) * stride + side - n for o, n in zip(outputs, x.shape, strict=False)]
        pads = [(t // 2, t - t // 2) for t in total]
        x = np.pad(x, (*pads, (0, 0)), constant_values=-1)
    places = [range((n - side) // stride + 1) for n in x.shape[:2]]
    return [
        (r, c, x[r * stride : r * stride + side, c * stride : c * stride + side])
        for r in places[0]
        for c in places[1]
    ]


def unit_by_unit(layer, params, x):
    """A layer's outputs, each unit computed alone."""
    bias = params["bias"]
    if isinstance(layer, nn.Dense):
        return x.reshape(-1) @ params["kernel"] + bias
    if isinstance(layer, Local):
        windows, units = fields(x, layer.side, layer.stride, True), bias.shape
        kernel = params["kernel"].reshape(-1, *units)
        y = np.zeros(units)
        for r, c, field in windows:
            for m in range(layer.maps):
                y[r, c, m] = field.reshape(-1) @ kernel[:, r, c, m] + bias[r, c, m]
        return y
    if isinstance(layer, Subsampling):
        windows = fields(x, 2, 2, False)
        y = np.zeros((windows[-1][0] + 1, windows[-1][1] + 1, x.shape[-1]))
        for r, c, field in windows:
            y[r, c] = field.mean((0, 1)) * params["scale"] + bias
        return y
    windows = fields(x, layer.side, 2 if layer.early else 1, layer.early)
    sources = layer.sources or [range(x.shape[-1])] * layer.maps
    kernels = [params[n]["kernel"] for n in sorted(params) if n.startswith("Wires")]
    kernels = [k[..., m] for k in kernels or [params["kernel"]] for m in range(k.shape[-1])]
    y = np.zeros((windows[-1][0] + 1, windows[-1][1] + 1, layer.maps))
    bias = np.broadcast_to(bias, y.shape)
    for r, c, field in windows:
        for m, (kernel, seen) in enumerate(zip(kernels, sources, strict=True)):
            y[r, c, m] = np.sum(field[..., list(seen)] * kernel) + bias[r, c, m]
    return y


@pytest.mark.parametrize(
    ("name", "shape"), [("net4", (16, 16, 1)), ("zip_code", (7, 9, 2)), ("lenet5", (28, 30, 1))]
)
def test_networks_are_numpys_unit_by_unit(name, shape):
    model = MODELS[name](3)
    images = numbers(2, *shape)
    variables = draw_variables(model, images)
    outputs = np.asarray(jax.jit(model.apply)(variables, images))
    params = jax.tree.map(lambda leaf: leaf.astype(np.float64), variables["params"])
    for x, output in zip(images.astype(np.float64), outputs, strict=True):
        if name == "lenet5":
            x = np.pad(x, ((2, 2), (1, 1), (0, 0)), mode="edge")
        for i, layer in enumerate(model.layers):
            x = unit_by_unit(layer, params[f"layers_{i}"], x)
            x = x if i == model.depth - 1 else 1.7159 * np.tanh(2 / 3 * x)
        np.testing.assert_allclose(output, x, atol=2e-3)


def test_gradients_of_a_locally_connected_layer_are_those_of_a_dense_matrix():
    with jax.enable_x64(True):
        rng, layer = np.random.default_rng(0), Local(2, 3)
        x, kernel = rng.normal(size=(4, 5, 6, 2)), rng.normal(size=(18, 18))
        bias, weight = rng.normal(size=(3, 3, 2)), rng.normal(size=(4, 3, 3, 2))
        # Every number of the images on its background, and the matrix from these to the units.
        place = np.arange(1, 61).reshape(5, 6, 2)
        matrix, constant = np.zeros((18, 60)), np.zeros(18)
        inputs = np.zeros((18, 18), int)
        # 5 rows need one of background above and one below, 6 columns one on the right.
        padded = np.pad(place, ((1, 1), (0, 1), (0, 0)))
        for unit in range(18):
            r, c, _ = np.unravel_index(unit, (3, 3, 2))
            inputs[unit] = padded[2 * r : 2 * r + 3, 2 * c : 2 * c + 3].reshape(-1)
            for k, number in enumerate(inputs[unit]):
                if number:
                    matrix[unit, number - 1] += kernel[k, unit]
                else:
                    constant[unit] -= kernel[k, unit]
        expected = x.reshape(4, 60) @ matrix.T + constant + bias.reshape(-1)

        def loss(params, x):
            y = layer.apply({"params": params}, x)
            return jnp.sum(y * weight), y

        params = {"kernel": kernel, "bias": bias}
        gradient = jax.jit(jax.grad(loss, (0, 1), has_aux=True))
        (by_params, by_x), y = jax.device_get(gradient(params, x))
        np.testing.assert_allclose(y.reshape(4, 18), expected, atol=1e-12)
        slopes = weight.reshape(4, 18)
        np.testing.assert_allclose(by_x.reshape(4, 60), slopes @ matrix, atol=1e-12)
        np.testing.assert_allclose(by_params["bias"], weight.sum(0), atol=1e-12)
        seen = np.concatenate([np.full((4, 1), -1.0), x.reshape(4, 60)], 1)[:, inputs]
        by_kernel = np.einsum("bu,bui->iu", slopes, seen)
        np.testing.assert_allclose(by_params["kernel"], by_kernel, atol=1e-12)


def test_maps_shift_with_their_images_and_locally_connected_ones_do_not():
    images = numbers(2, 16, 16, 2)
    shifted = np.roll(images, (2, 4), (1, 2))  # one and two units
    for layer, equal in ((Maps(2, 5, ((0,), (1,))), True), (Local(2, 5), False)):
        variables, apply = draw_variables(layer, images), jax.jit(layer.apply)
        variables["params"]["bias"][:] = 0  # of each unit its own
        y, moved = (np.asarray(apply(variables, x)) for x in (images, shifted))
        difference = np.abs(moved[:, 2:-1, 3:-1] - y[:, 1:-2, 1:-3])
        assert (difference.max() < 1e-5) == equal


def test_weights_begin_within_2_4_by_the_number_of_inputs():
    model = MODELS["zip_code"](10)
    params = jax.jit(model.init)(jax.random.key(0), np.zeros((1, *DIGIT), np.float32))["params"]
    wires = params["layers_1"]["Wires_0"]
    kernels = [params["layers_0"], wires, params["layers_2"], params["layers_3"]]
    for kernel, inputs in zip((k["kernel"] for k in kernels), (25, 200, 192, 30), strict=True):
        largest = np.abs(kernel).max() * inputs / 2.4
        assert 0.95 < largest <= 1 + 1e-6
    np.testing.assert_array_equal(params["layers_0"]["bias"], 0)


def test_stretches_are_the_whole():
    model, x = MODELS["net3"](10), numbers(2, *DIGIT)

    @jax.jit
    def everything(variables, x):
        parts = []
        for n in range(4):
            below, above = cut(variables, n)
            parts.append(model.apply(above, model.apply(below, x, stop=n), start=n))
        return model.apply(variables, x), parts

    whole, parts = everything(draw_variables(model, x), x)
    for part in parts:
        np.testing.assert_allclose(part, whole, atol=1e-6)


def test_members_may_differ_in_dropout_which_is_of_training_only():
    """As of lenet5 and zip_code, of two dense layers."""
    model = Stack((nn.Dense(8), nn.Dense(3)), activation=squash)
    x, key = numbers(3, 5), jax.random.key(1)
    variables = draw_variables(model, x)

    def everything(rate):
        network = model.clone(dropout=rate)
        trained = apply_train(network, variables, x, key)[0]
        return trained, network.apply(variables, x), apply_train(model, variables, x, key)[0]

    together = jax.device_get(jax.jit(jax.vmap(everything))(np.array([0.0, 0.5], np.float32)))
    (none, half), evaluated, plain = together
    np.testing.assert_allclose(evaluated, plain, atol=1e-6)
    np.testing.assert_allclose(none, plain[0], atol=1e-6)
    constant = jax.jit(lambda x: apply_train(model.clone(dropout=0.5), variables, x, key)[0])
    np.testing.assert_allclose(half, constant(x), atol=1e-6)
    assert np.max(np.abs(half - plain[0])) > 1e-3
    for name in ("zip_code", "lenet5"):
        assert MODELS[name](10, dropout=0.25).dropout == 0.25


def test_what_is_no_image_is_refused_in_a_line():
    with pytest.raises(ValueError, match=r"^this network needs images .*, got \[4, 30\]\s"):
        jax.eval_shape(MODELS["net3"](10).init, jax.random.key(0), np.zeros((4, 30), np.float32))


def test_squash_is_one_at_one():
    np.testing.assert_allclose(jax.jit(squash)(np.arange(-1.0, 2)), [-1, 0, 1], atol=1e-4)


def test_a_stack_of_dense_layers_takes_features_and_images():
    model, images = MODELS["net2"](3), numbers(2, 4, 4, 1)
    assert isinstance(model, Stack)
    variables, apply = draw_variables(model, images), jax.jit(model.apply)
    outputs = apply(variables, images)
    assert outputs.shape == (2, 3)
    np.testing.assert_array_equal(apply(variables, np.reshape(images, (2, 16))), outputs)
