"""Derivatives carried through a network, against nested automatic differentiation and by hand."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.nn.models.mlp import ACTIVATIONS, MLP, dense_layers
from jaxdl.pinn.derivatives import (
    combine,
    derivatives_of,
    forward_mode,
    partitions,
    plan,
    product,
    propagate,
)

POINTS = np.random.default_rng(0).uniform(-1, 1, (7, 2))

SMOOTH = ("tanh", "sin", "swish", "gelu")  # the activations of the study


def features(points):
    t, x = points.T
    return jnp.stack([jnp.cos(jnp.pi * x), jnp.sin(jnp.pi * x), 2 * t - 1, t * x**2], axis=-1)


def network(activation, hidden=(8, 9), outputs=2):
    """A network and random parameters, biases among them, by NumPy: nothing is compiled."""
    mlp, rng = MLP(hidden, outputs, activation), np.random.default_rng(0)
    shapes = jax.eval_shape(mlp.init, jax.random.key(0), np.zeros((1, 4)))
    return mlp, jax.tree.map(lambda p: jnp.asarray(rng.normal(0, 0.5, p.shape)), shapes)


def nested(u, name):
    """The derivative of a function of one point, by reverse mode in reverse mode."""

    def along(u, i):
        return lambda point: jax.jacrev(u)(point)[..., i]

    for letter in name:
        u = along(u, "tx".index(letter))
    return jax.vmap(u)


# Gelu's derivatives are computed as swish's are; and layers follow each other alike for all.
@pytest.mark.parametrize(
    ("activation", "hidden"), [("tanh", (8, 9)), ("sin", (8,)), ("swish", (8,))]
)
def test_both_ways_are_nested_reverse_mode(activation, hidden):
    activation = ACTIVATIONS[activation]
    mlp, variables = network(activation, hidden)
    names = ["", "t", "x", "tt", "tx", "xx", "xxx"]
    operators = [{"t": 1.0, "xx": -0.01}, {"tt": 1.0, "xx": -4.0, "tx": 0.5, "x": 2.0}]
    requests = [{name: 1.0} for name in names] + operators

    def one(point):
        return mlp.apply(variables, features(point[None]))[0]

    # Compiled, as all that follows: a thousand operations on their own take much longer.
    jet = jax.jit(lambda points: {name: nested(one, name)(points) for name in names})(POINTS)
    expected = [combine(jet, request) for request in requests]
    ways = {
        "forward": forward_mode(lambda p: mlp.apply(variables, features(p)), "tx"),
        "propagate": propagate(dense_layers(variables), activation, features, "tx"),
    }
    for way, derive in ways.items():
        derived = jax.jit(lambda points, derive=derive: derive(points, requests))(POINTS)
        for request, found, wanted in zip(requests, derived, expected, strict=True):
            scale = np.abs(wanted).max()
            np.testing.assert_allclose(
                found, wanted, rtol=0, atol=1e-12 * scale, err_msg=f"{way} {request}"
            )


def test_operators_alone_are_carried_whole():
    mlp, variables = network(jnp.tanh)
    heat = {"t": 1.0, "xx": -0.01}
    assert plan([heat]) == (["", "x"], [heat])
    assert plan([heat, {"": 1.0}, {"x": 1.0}]) == (["", "x"], [heat])
    assert plan([heat, {"t": 1.0}, {"xx": 1.0}]) == (["", "t", "x", "xx"], [])
    third = {"t": 1.0, "xxx": 0.5}
    assert plan([third]) == (["", "x", "xx"], [third])
    assert plan([{"t": 1.0, "x": 2.0}]) == ([""], [{"t": 1.0, "x": 2.0}])
    forward = forward_mode(lambda p: mlp.apply(variables, features(p)), "tx")
    carried = propagate(dense_layers(variables), jnp.tanh, features, "tx")
    requests = (heat, third, {"tx": 2.0, "xxtt": 0.1, "x": 1.0})
    each_alone = jax.jit(
        lambda points: [[way(points, [one])[0] for way in (carried, forward)] for one in requests]
    )
    for alone, expected in each_alone(POINTS):
        np.testing.assert_allclose(alone, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


def test_coefficients_may_be_traced_and_gradients_pass():
    mlp, variables = network(jnp.tanh)

    def loss(variables, k, way):
        if way == "propagate":
            derive = propagate(dense_layers(variables), jnp.tanh, features, "tx")
        else:
            derive = forward_mode(lambda p: mlp.apply(variables, features(p)), "tx")
        (residual,) = derive(POINTS, [{"t": 1.0, "xx": -k}])
        return jnp.sum(residual**2)

    gradients = [
        jax.jit(jax.grad(loss, (0, 1)), static_argnums=2)(variables, 0.3, way)
        for way in ("propagate", "forward")
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), *gradients)


def bell(n):
    """The number of partitions of n things (Bell's triangle)."""
    row = [1]
    for _ in range(n - 1):
        row = list(itertools.accumulate([row[-1], *row]))
    return row[-1]


@pytest.mark.parametrize("name", ["x", "xx", "tx", "xxx", "ttx", "xxxx", "ttxx", "xxxxx"])
def test_partitions_are_all_of_them(name):
    assert sum(count for count, _ in partitions(name)) == bell(len(name))
    for _, blocks in partitions(name):
        assert sorted("".join(blocks)) == sorted(name)


def test_partitions_by_hand():
    assert dict((blocks, count) for count, blocks in partitions("xxx")) == {
        ("xxx",): 1,
        ("x", "xx"): 3,
        ("x", "x", "x"): 1,
    }


@pytest.mark.parametrize("activation", [ACTIVATIONS[name] for name in SMOOTH], ids=SMOOTH)
def test_derivatives_of_activations_are_difference_quotients(activation):
    z, h = np.linspace(-2.5, 2.5, 41), 1e-5
    derive = jax.jit(lambda z: derivatives_of(activation, z, 4))
    here, up, down = (list(map(np.asarray, derive(at))) for at in (z, z + h, z - h))
    for n in range(4):
        np.testing.assert_allclose(here[n + 1], (up[n] - down[n]) / (2 * h), rtol=0, atol=1e-8)


@partial(jax.jit, static_argnums=1)
def derived_products(points, name):
    """A derivative of a product from those of its factors, and the product's own."""

    def a(points):
        return jnp.sin(points[:, :1] + 2 * points[:, 1:])

    def b(points):
        return jnp.exp(points[:, :1] * points[:, 1:])

    names = {
        "".join(part)
        for size in range(len(name) + 1)
        for part in itertools.combinations(name, size)
    }
    each = [{n: 1.0} for n in names]
    jets = [dict(zip(names, forward_mode(f, "tx")(points, each), strict=True)) for f in (a, b)]
    expected = forward_mode(lambda p: a(p) * b(p), "tx")(points, [{name: 1.0}])[0]
    return product(*jets, [name])[name], expected


@pytest.mark.parametrize("order", range(5))
def test_products_by_leibniz_are_products(order):
    for letters in itertools.combinations_with_replacement("tx", order):
        ours, expected = derived_products(POINTS, "".join(letters))
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-10, err_msg=str(letters))
