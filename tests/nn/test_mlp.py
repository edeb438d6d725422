"""The perceptron by settings, linear networks, noise: against NumPy and SciPy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from jaxdl.nn.layered import layer_names
from jaxdl.nn.layers import ACTIVATIONS, GaussianNoise
from jaxdl.nn.models import MODELS
from jaxdl.supervised import apply_train
from jaxdl.transfer import cut
from tests.variables import draw_variables

mlp = MODELS["mlp"]
FORMULAS = {
    "tanh": np.tanh,
    "sin": np.sin,
    "swish": lambda x: x * special.expit(x),
    "gelu": lambda x: x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))) / 2,
    "relu": lambda x: np.maximum(x, 0),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "elu": lambda x: np.where(x > 0, x, np.expm1(x)),
    "sigmoid": special.expit,
    "identity": lambda x: x,
}


def on_host(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_perceptron_is_numpys_on_images_and_on_features(activation):
    model, images = mlp(3, hidden=[7, 5], activation=activation), numbers(4, 2, 3, 1)
    variables = draw_variables(model, images)
    h = images.astype(np.float64).reshape(4, 6)
    for name, layer in on_host(variables["params"]).items():
        h = h @ layer["kernel"] + layer["bias"]
        h = h if name == "layer_2" else FORMULAS[activation](h)
    both = jax.jit(lambda v, x: (model.apply(v, x), model.apply(v, x.reshape(4, 6))))
    for outputs in both(variables, images):
        np.testing.assert_allclose(outputs, h, atol=1e-5)


@pytest.mark.parametrize(
    ("activation", "variance"), [("relu", 2 / 300), ("gelu", 2 / 300), ("tanh", 2 / 500)]
)
def test_kernels_begin_as_suits_the_activation(activation, variance):
    model = mlp(200, hidden=(200,), activation=activation)
    x = np.zeros((1, 300), np.float32)
    first_layer = jax.jit(lambda key: model.init(key, x)["params"]["layer_0"])
    layer = jax.device_get(first_layer(jax.random.key(0)))
    assert abs(layer["kernel"].var() / variance - 1) < 0.03
    np.testing.assert_array_equal(layer["bias"], 0)


def test_what_has_another_name_is_refused():
    with pytest.raises(ValueError, match=r"^activation='rely' is none .* 'relu'.*$"):
        mlp(3, activation="rely")
    with pytest.raises(ValueError, match=r"^normalization='layer' is none .* '', 'batch'$"):
        mlp(3, normalization="layer")


def test_a_linear_network_begins_at_zero():
    model, images = MODELS["linear"](3, axis_name="data"), numbers(4, 2, 3, 1)
    outputs, variables = jax.jit(model.init_with_output)(jax.random.key(0), images)
    shapes = [leaf.shape for leaf in jax.tree.leaves(variables)]
    assert sorted(shapes) == [(3,), (6, 3)]
    np.testing.assert_array_equal(outputs, 0)
    variables = draw_variables(model, images)
    dense = on_host(variables["params"]["fc1"]["dense"])
    expected = images.reshape(4, 6) @ dense["kernel"] + dense["bias"]
    apply = jax.jit(partial(model.apply, train=True))
    for x in (images, images.reshape(4, 6)):
        np.testing.assert_allclose(apply(variables, x), expected, atol=1e-5)


def test_noise_and_dropout_are_of_training_only():
    model, x = mlp(3, hidden=(8,), noise=0.3, dropout=0.5), numbers(5, 4)
    variables = draw_variables(model, x)

    @jax.jit
    def train(key):
        return apply_train(model, variables, x, key)[0]

    @jax.jit
    def evaluate():
        return model.apply(variables, x), mlp(3, hidden=(8,)).apply(variables, x)

    evaluated, plain = evaluate()
    np.testing.assert_array_equal(evaluated, plain)
    noisy, again, other = (np.asarray(train(jax.random.key(seed))) for seed in (1, 1, 2))
    np.testing.assert_array_equal(noisy, again)
    assert np.all(np.any(noisy != other, 1)) and np.all(np.any(noisy != plain))


def test_noise_is_normal_with_its_deviation():
    x, rngs = np.full((400, 50), 2, np.float32), {"dropout": jax.random.key(0)}
    y = np.asarray(jax.jit(GaussianNoise(0.25, deterministic=False).apply)({}, x, rngs=rngs))
    assert abs(y.mean() - 2) < 5 * 0.25 / np.sqrt(y.size)
    assert abs(y.std() / 0.25 - 1) < 5 / np.sqrt(2 * y.size)
    assert abs(np.mean(np.abs(y - 2) < 0.25) - special.erf(1 / np.sqrt(2))) < 0.02


def test_members_may_differ_in_noise_and_dropout():
    """Rates that are traced, against constant ones, by the same random numbers; 0 too."""
    model, x = mlp(3, hidden=(8,)), numbers(6, 5)
    variables, key = draw_variables(model, x), jax.random.key(7)

    def outputs(noise, dropout):
        return apply_train(model.clone(noise=noise, dropout=dropout), variables, x, key)[0]

    noises, rates = (0.0, 0.1, 0.5), (0.5, 0.0, 0.2)
    traced = np.asarray(noises, np.float32), np.asarray(rates, np.float32)
    together = jax.jit(jax.vmap(outputs))(*traced)
    constant = jax.jit(lambda: jnp.stack([*map(outputs, noises, rates)]))()
    np.testing.assert_allclose(together, constant, atol=1e-6)


def test_batch_normalization_before_each_activation():
    model = mlp(3, hidden=(6, 5), activation="tanh", normalization="batch")
    x = 2 * numbers(32, 4) + 1
    variables = jax.jit(model.init)(jax.random.key(0), x)
    params, before = variables["params"], variables["batch_stats"]
    assert layer_names(variables) == ("layer_0", "layer_1", "layer_2")
    assert set(params["layer_0"]) == {"kernel", "BatchNorm_0"}  # a bias would be taken off again
    assert set(params["layer_2"]) == {"kernel", "bias"}
    outputs, new = jax.jit(partial(apply_train, model))(variables, x, jax.random.key(1))
    variables = {"params": params, **new}
    params, before, after = on_host((params, before, new["batch_stats"]))
    h = np.asarray(x, np.float64)
    for name in ("layer_0", "layer_1"):
        z = h @ params[name]["kernel"]
        moved, start = after[name]["BatchNorm_0"], before[name]["BatchNorm_0"]
        for kind, value in (("mean", z.mean(0)), ("var", z.var(0))):
            expected = 0.99 * start[kind] + 0.01 * value
            np.testing.assert_allclose(moved[kind], expected, atol=1e-5)
        h = np.tanh((z - z.mean(0)) / np.sqrt(z.var(0) + 1e-5))
    h = h @ params["layer_2"]["kernel"] + params["layer_2"]["bias"]
    np.testing.assert_allclose(outputs, h, atol=1e-4)
    # In stretches, with each layer's statistics; in evaluation, by what has been counted.

    @jax.jit
    def evaluate(variables):
        below, above = cut(variables, 1)
        hidden = model.apply(below, x, stop=1)
        return model.apply(variables, x), model.apply(above, hidden, start=1)

    whole, stretches = map(np.asarray, evaluate(variables))
    np.testing.assert_allclose(stretches, whole, atol=1e-6)
    assert np.max(np.abs(whole - outputs)) > 0.01
