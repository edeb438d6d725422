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


LAG = np.linspace(0.1, 0.6, 6)
SINE = np.sin(0.3)


@pytest.mark.parametrize(
    "residual, expected",
    [
        (lambda u, v, at: u.at(x=at.x - 0.1), T**2 * np.sin(X - 0.1)),
        (lambda u, v, at: u - u.at(x=-at.x), 2 * U),
        (lambda u, v, at: u.at(t=at.x, x=at.t), X**2 * np.sin(T)),
        (lambda u, v, at: u.at(x=at.s), T**2 * SINE),
        (lambda u, v, at: u.at(x=at.s * at.t), T**2 * np.sin(0.3 * T)),
        (lambda u, v, at: u.at(x=at.s).at(t=2), 4 * SINE + 0 * T),
        (lambda u, v, at: u.at(x=at.s).at(x=1), T**2 * np.sin(1)),
        (lambda u, v, at: u.at(t=at.t - LAG), (T - LAG) ** 2 * np.sin(X)),
        (lambda u, v, at: u.at(t=list(LAG)), LAG**2 * np.sin(X)),
        (lambda u, v, at: u.at(x=np.array(1.0)) - u.at(x=np.int64(-1)), 2 * T**2 * np.sin(1)),
        (lambda u, v, at: u.at(x=jnp.ones((), int)), T**2 * np.sin(1)),
        (lambda u, v, at: u.at(t=jnp.arange(6)), np.arange(6) ** 2 * np.sin(X)),
        # Derivatives are those at the place, not of the function of a moving place.
        (lambda u, v, at: u.at(x=at.s * at.t).t, 2 * T * np.sin(0.3 * T)),
        (lambda u, v, at: u.at(x=-at.x).x, T**2 * np.cos(X)),
        (
            lambda u, v, at: u.at(x=-at.x).xx - u.at(x=at.x - 0.1).t,
            T * (T * np.sin(X) - 2 * np.sin(X - 0.1)),
        ),
        # Where another field is, or this one: only the last call knows.
        (lambda u, v, at: u.at(x=v), T**2 * np.sin(V)),
        (lambda u, v, at: u.at(x=v.at(x=0) + 1), T**2 * np.sin(T + 1)),
        (lambda u, v, at: u.at(t=at.t - u * u).x, (T - U**2) ** 2 * np.cos(X)),
        (lambda u, v, at: u.at(x=jnp.tanh(v.x.value)), T**2 * np.sin(np.tanh(3 * X**2))),
        (lambda u, v, at: u.at(x=u.at(x=v)), T**2 * np.sin(T**2 * np.sin(V))),
        (lambda u, v, at: u.at(x=u) - u.at(x=v), T**2 * (np.sin(U) - np.sin(V))),
    ],
)
def test_places_may_be_computed(residual, expected):
    found = value(residual, s=jnp.asarray(0.3))[:, 0]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    compiled = jax.jit(lambda s: evaluate(residual, DERIVE, POINTS, "tx", ("u", "v"), {"s": s}))
    np.testing.assert_allclose(compiled(0.3)[:, 0], expected, rtol=0, atol=1e-12)


def test_gradients_pass_through_places():
    def total(s, residual):
        return evaluate(residual, DERIVE, POINTS, "tx", ("u", "v"), {"s": s}).sum()

    slope = jax.jit(jax.grad(total), static_argnums=1)
    for residual, expected in (
        (lambda u, v, at: u.at(x=at.s), T**2 * np.cos(0.3)),
        (lambda u, v, at: u.at(x=at.s * at.t).x, -(T**3) * np.sin(0.3 * T)),
        (lambda u, v, at: u.at(t=at.t - at.s).t * at.s, 2 * (T - 2 * 0.3) * np.sin(X)),
        # u(t, v(t - s, x)): through the place of the place.
        (lambda u, v, at: u.at(x=v.at(t=at.t - at.s)), -(T**2) * np.cos(V - 0.3)),
    ):
        np.testing.assert_allclose(slope(0.3, residual), expected.sum(), rtol=1e-12)


def test_equal_places_share_an_evaluation():
    asked = []

    def derive(points, requests):
        asked.append(len(requests))
        return DERIVE(points, requests)

    def residual(u, v, at):
        earlier = at.t - 0.1
        once = u.at(x=1).x + u.at(x=1.0).t + v.at(x=np.float64(1)) * u.at(x=np.array(1))
        moved = u.at(x=at.s) * u.at(x=at.s).t * v.at(t=earlier, x=at.s) * u.at(x=at.s, t=earlier).x
        return once + moved

    evaluate(residual, derive, POINTS, "tx", ("u", "v"), {"s": jnp.asarray(0.3)})
    assert asked == [2, 2, 2]  # x and t at x = 1 are one operator


def test_integers_are_floats():
    points = np.array([[1, 2], [0, -1]])
    whole = evaluate(lambda u, v, at: u.at(x=0.5) + v.x, DERIVE, points, "tx", ("u", "v"), {})
    np.testing.assert_allclose(whole[:, 0], [np.sin(0.5) + 12, 3], rtol=1e-12)
    (constant, slope) = forward_mode(lambda p: jnp.ones((len(p), 1), int), "tx")(
        points, [{"": 1.0}, {"x": 1.0}]
    )
    assert constant.dtype == slope.dtype == np.float64
    single = forward_mode(lambda p: p, "tx")(jnp.asarray(points, "float32"), [{"x": 1.0}])
    assert single[0].dtype == np.float32


def test_a_number_made_of_the_solution_is_no_coefficient():
    """Coefficients of an operator are known before the solution is."""
    k = jnp.asarray(0.3)
    for residual in (
        lambda u, v, at: jnp.mean(u.value) * u.xx,
        lambda u, v, at: u.t - u.xx / jnp.max(jnp.abs(v.x.value)),
        lambda u, v, at: u.t * (at.k + u.at(x=at.k).value[0]),
    ):
        with pytest.raises(ValueError, match=r"one number that is made of values.*u\.x\.value"):
            value(residual, k=k)
    found = value(lambda u, v, at: jnp.exp(at.k) * u.xx + jnp.mean(v.value) * u.x.value, k=k)
    expected = -np.exp(0.3) * U + V.mean() * T**2 * np.cos(X)
    np.testing.assert_allclose(found[:, 0], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "residual, words",
    [
        (lambda u, v, at: u.q, ("unknown derivative 'q' of u", "t, x")),
        (lambda u, v, at: u.xq, ("unknown derivative 'xq' of u", "'q'")),
        (lambda u, v, at: u.at(y=1.0), ("u.at(y=", "t, x")),
        (lambda u, v, at: u.at(x="1"), ("u.at(x=…)", "not str")),
        (lambda u, v, at: v.at(x=None), ("v.at(x=…)", "not NoneType")),
        (lambda u, v, at: u.at(x=np.inf), ("u.at(x=…)", "finite")),
        (lambda u, v, at: u.at(x=[0, np.nan, 0, 0, 0, 0]), ("u.at(x=…)", "finite")),
        (lambda u, v, at: u.at(x=np.zeros(5)), ("u.at(x=…)", "shape [5]", "[6]")),
        (lambda u, v, at: u.at(t=at.x[:, None]), ("u.at(t=…)", "shape [6, 1]", "[6]")),
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


def test_a_place_that_changes_is_refused():
    numbers = iter([1.0, 2.0])
    with pytest.raises(ValueError, match="does not ask for the same"):
        value(lambda u, v, at: u.at(x=next(numbers)))
    same = jnp.zeros(6)
    arrays = iter([same, same, same, jnp.ones(6)])  # one place in the first call, two in the second
    with pytest.raises(ValueError, match="does not ask for the same"):
        value(lambda u, v, at: u.at(x=next(arrays)) + u.at(x=next(arrays)).x)


def test_a_residual_that_changes_its_mind_is_refused():
    calls = []

    def fickle(u, v, at):
        calls.append(len(calls))
        return u.x if len(calls) % 2 else u.t

    with pytest.raises(ValueError, match="'fickle' does not ask for the same derivatives"):
        value(fickle)
