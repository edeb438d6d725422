"""Residuals written as on paper, against the same written out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.pinn.derivatives import forward_mode
from jaxdl.pinn.residual import evaluate

POINTS = np.random.default_rng(1).uniform(-1, 1, (6, 2))
T, X = POINTS.T


def solution(points):
    """u = t² sin x, v = t + x³."""
    t, x = points.T
    return jnp.stack([t**2 * jnp.sin(x), t + x**3], axis=-1)


DERIVE = forward_mode(solution, "tx")
U, V = T**2 * np.sin(X), T + X**3


def value(residual, fields="uv", **physics):
    return np.asarray(evaluate(residual, DERIVE, POINTS, "tx", tuple(fields), physics))


@pytest.mark.parametrize(
    "residual, expected",
    [
        (lambda u, v, at: u, U),
        (lambda u, v, at: u.t, 2 * T * np.sin(X)),
        (lambda u, v, at: u.xx, -U),
        (lambda u, v, at: u.tx - u.xt, 0 * T),
        (lambda u, v, at: u.ttx, 2 * np.cos(X)),
        (lambda u, v, at: u.t - 0.1 * u.xx, 2 * T * np.sin(X) + 0.1 * U),
        (lambda u, v, at: u * u.x - v / 2 + 3, U * T**2 * np.cos(X) - V / 2 + 3),
        (lambda u, v, at: 1 - u, 1 - U),
        (lambda u, v, at: np.float64(2) * u + np.sin(X) - v, 2 * U + np.sin(X) - V),
        (lambda u, v, at: np.sin(X) * u, np.sin(X) * U),
        (lambda u, v, at: u * np.sin(X), np.sin(X) * U),
        (lambda u, v, at: 1 / v, 1 / V),
        (lambda u, v, at: u**2 / v, U**2 / V),
        (lambda u, v, at: jnp.exp(u.value), np.exp(U)),
        (lambda u, v, at: at.x * u.x + at.t, X * T**2 * np.cos(X) + T),
        (lambda u, v, at: u.at(x=1.0) - u.at(x=-1.0), 2 * T**2 * np.sin(1)),
        (lambda u, v, at: u.at(t=0.5).x - v.at(t=0.5, x=2.0), 0.25 * np.cos(X) - 8.5),
        (lambda u, v, at: -(u.x + v.x), -(T**2 * np.cos(X) + 3 * X**2)),
    ],
)
def test_values(residual, expected):
    found = value(residual)
    assert found.shape == (len(POINTS), 1)
    np.testing.assert_allclose(found[:, 0], expected, rtol=0, atol=1e-12)


def test_several_residuals_and_physical_parameters():
    found = value(lambda u, v, at: (u.t - at.k * u.xx, v.x), k=jnp.asarray(0.3))
    np.testing.assert_allclose(
        found, np.stack([2 * T * np.sin(X) + 0.3 * U, 3 * X**2], axis=-1), rtol=0, atol=1e-12
    )
    slope = jax.grad(
        lambda k: evaluate(
            lambda u, v, at: u - u.xx * at.k, DERIVE, POINTS, "tx", ("u", "v"), {"k": k}
        ).sum()
    )(0.3)
    np.testing.assert_allclose(slope, U.sum(), rtol=1e-12)


def test_what_is_needed_is_asked_for_once_and_whole():
    asked = []

    def derive(points, requests):
        asked.append(list(requests))
        return DERIVE(points, requests)

    def burgers(u, v, at):
        return u.t + u * u.x - 0.1 * u.xx + u.at(x=0.0)

    evaluate(burgers, derive, POINTS, "tx", ("u", "v"))
    assert asked == [[{"": 1.0}, {"x": 1.0}, {"t": 1.0, "xx": -0.1}], [{"": 1.0}]]


@pytest.mark.parametrize(
    "residual, words",
    [
        (lambda u, v, at: u.q, ("unknown derivative 'q' of u", "t, x")),
        (lambda u, v, at: u.xq, ("unknown derivative 'xq' of u", "'q'")),
        (lambda u, v, at: u.at(y=1.0), ("u.at(y=", "t, x")),
        (lambda u, v, at: 1.0, ("shape []", "[6]")),
        (lambda u, v, at: jnp.zeros((6, 1)), ("shape [6, 1]", "one number a point")),
        (lambda u, at: u, ("called with (u, v, at)",)),
        (lambda u, v, at: jnp.sin(u), ("u.value",)),
    ],
)
def test_what_cannot_be_is_said_in_a_line(residual, words):
    with pytest.raises(ValueError) as error:
        value(residual)
    assert len(str(error.value).splitlines()) == 1
    for word in words:
        assert word in str(error.value)


def test_a_residual_that_changes_its_mind_is_refused():
    calls = []

    def fickle(u, v, at):
        calls.append(len(calls))
        return u.x if len(calls) % 2 else u.t

    with pytest.raises(ValueError, match="'fickle' does not ask for the same derivatives"):
        value(fickle)
