"""The loss, and how points and weights follow the residuals."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdl import optim
from jaxdl.nn.models.mlp import MLP
from jaxdl.pinn import objective, weighting
from jaxdl.pinn.objective import Refresh, Sample
from jaxdl.pinn.problem import Ansatz, Problem, Term
from jaxdl.pinn.sampling import Points

DOMAIN = {"t": (0.0, 1.0), "x": (-1.0, 1.0)}
PROBLEM = Problem(
    DOMAIN,
    {
        "equation": Term(lambda u, at: (u.t - at.x, u.xx), Points(64), weight=2.0),
        "initial": Term(lambda u, at: u, Points(9, fixed={"t": 0})),
    },
    lambda p: p[:, :1],
)
ANSATZ = Ansatz(PROBLEM, MLP((7,), 1))


# Compiled: a thousand operations on their own take much longer.
loss = jax.jit(functools.partial(objective.loss, ANSATZ))


def refresh(how, params, sample):
    refreshed = jax.jit(functools.partial(objective.refresh, ANSATZ, how))
    return refreshed(params, sample, jax.random.key(0))


@pytest.fixture
def params():
    return ANSATZ.init(jax.random.key(0))


@pytest.fixture
def sample():
    return objective.draw_sample(PROBLEM, "sobol", 0)


@jax.jit
def residuals(params, points):
    """By nested reverse mode, a point at a time."""

    def u(p):
        return ANSATZ(params, p[None])[0, 0]

    points = jnp.asarray(points)
    slope = jax.vmap(jax.grad(u))(points)
    bend = jax.vmap(jax.hessian(u))(points)
    return slope[:, 0] - points[:, 1], bend[:, 1, 1], jax.vmap(u)(points)


def test_loss_by_hand(params, sample):
    weights = {n: w * np.linspace(0.5, 1, len(w)) for n, w in sample.weights.items()}
    total, means = loss(params, sample._replace(weights=weights))
    first, second, _ = residuals(params, sample.points["equation"])
    start = residuals(params, sample.points["initial"])[2]
    squares = np.asarray(first**2 + second**2)
    expected = np.mean(2 * np.linspace(0.5, 1, 64) * squares)
    expected += np.mean(np.linspace(0.5, 1, 9) * np.asarray(start) ** 2)
    np.testing.assert_allclose(total, expected, rtol=1e-10)
    np.testing.assert_allclose(means["equation"], squares.mean(), rtol=1e-10)
    np.testing.assert_allclose(means["initial"], np.mean(start**2), rtol=1e-10)


def test_samples_differ_by_seed_and_lie_where_they_should(sample):
    other = objective.draw_sample(PROBLEM, "sobol", 1000)
    assert (sample.points["equation"] != other.points["equation"]).any()
    np.testing.assert_array_equal(sample.points["initial"][:, 1], np.linspace(-1, 1, 9))
    assert (sample.weights["equation"] == 2).all() and (sample.weights["initial"] == 1).all()


def test_nothing_changes_that_was_not_asked_to(params, sample):
    same = refresh(Refresh(), params, sample)
    jax.tree.map(np.testing.assert_array_equal, sample, Sample(*same))


def test_points_are_drawn_where_the_residual_is_large(params, sample):
    how = Refresh(candidates=2000, power=4.0, floor=0.0)
    new = refresh(how, params, sample)
    np.testing.assert_array_equal(new.points["initial"], sample.points["initial"])
    before, after = (
        np.sqrt(sum(np.asarray(r) ** 2 for r in residuals(params, s.points["equation"])[:2])).mean()
        for s in (sample, new)
    )
    assert after > 1.2 * before
    again = refresh(how, params, sample)
    np.testing.assert_array_equal(again.points["equation"], new.points["equation"])


def test_weights_follow(params, sample):
    def refreshed(kind, **options):
        how = Refresh(weighting=kind, **options)
        return refresh(how, params, sample).weights

    first, second, _ = residuals(params, sample.points["equation"])
    size = np.sqrt(np.asarray(first**2 + second**2))
    causal = weighting.causal_weights(
        size, sample.points["equation"][:, 0], first=0.0, last=1.0, tolerance=3.0
    )
    np.testing.assert_allclose(refreshed("causal", tolerance=3.0)["equation"], 2 * causal)
    attention = weighting.attention_weights(np.ones(64), size, decay=0.9, rate=0.5) ** 2
    np.testing.assert_allclose(
        refreshed("attention", decay=0.9, rate=0.5)["equation"], 2 * attention
    )

    def length(name):
        def mean_square(params):
            residual = ANSATZ.residual(params, name, sample.points[name])
            return jnp.mean(jnp.sum(residual**2, axis=-1))

        gradient = jax.jit(jax.grad(mean_square))(params)
        return np.sqrt(sum(np.sum(np.square(g)) for g in jax.tree.leaves(gradient)))

    weights = refreshed("gradient_norm")
    ratio = weights["equation"][0] / 2 * length("equation")
    assert ratio > 1e-3
    np.testing.assert_allclose(ratio, weights["initial"][0] * length("initial"), rtol=1e-9)


def test_what_cannot_be_is_refused(params, sample):
    with pytest.raises(ValueError, match="unknown weighting 'even'"):
        objective.refresh(ANSATZ, Refresh(weighting="even"), params, sample, jax.random.key(0))
    still = Problem({"x": (0.0, 1.0)}, {"a": Term(lambda u, at: u, Points(4))}, lambda p: p)
    ansatz = Ansatz(still, MLP((3,), 1))
    with pytest.raises(ValueError, match="a coordinate named t"):
        objective.refresh(
            ansatz,
            Refresh(weighting="causal"),
            ansatz.init(jax.random.key(0)),
            objective.draw_sample(still, "grid", 0),
            jax.random.key(0),
        )


def test_a_decay_and_its_rate_are_learned():
    """``u = exp(-2.5 t)``, from ten of its values and the form of its equation."""
    times = np.linspace(0, 1, 10)[:, None]
    problem = Problem(
        {"t": (0.0, 1.0)},
        {
            "equation": Term(lambda u, at: u.t + at.k * u, Points(32)),
            "data": Term(lambda u, at: u - np.exp(-2.5 * times[:, 0]), times),
        },
        physics={"k": 1.0},
    )
    ansatz, sample = Ansatz(problem, MLP((8,))), objective.draw_sample(problem, "sobol", 0)
    optimizer = optim.ssbroyden()

    @jax.jit
    def train(params):
        def step(carry, _):
            params, state = carry
            updates, state = optimizer.update(
                None, state, params, value_fn=lambda p: objective.loss(ansatz, p, sample)[0]
            )
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, optimizer.init(params)), length=300)[0][0]

    params = train(ansatz.init(jax.random.key(0)))
    assert abs(params["physics"]["k"] / 2.5 - 1) < 1e-5
    between = np.linspace(0, 1, 101)[:, None]
    np.testing.assert_allclose(ansatz(params, between), np.exp(-2.5 * between), rtol=0, atol=1e-5)
