"""Windows of time."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdl import optim, trees
from jaxdl.nn.models.mlp import MLP
from jaxdl.pinn import objective
from jaxdl.pinn.problem import Ansatz, Problem, Term, periodic
from jaxdl.pinn.sampling import Points
from jaxdl.pinn.windows import Windowed

DOMAIN = {"x": (-1.0, 1.0), "t": (0.5, 2.0)}
COUNT = 3
LENGTH = 0.5


def equation(u, at):
    return u.t + at.t * u * u.x + 0.1 * u.xx


PROBLEM = Problem(
    DOMAIN,
    {"equation": Term(equation, Points(24))},
    lambda p: np.cos(np.pi * p[:, :1]) * p[:, 1:],
    features=periodic(DOMAIN, "x"),
    constraint=lambda p: (jnp.cos(jnp.pi * p[:, :1]), p[:, 1:] - 0.5),
)
ANSATZ = Ansatz(PROBLEM, MLP((5,)))
WINDOWED = Windowed(ANSATZ, COUNT)


def solution(networks, point):
    """The module's formula at one point ``x, t``, of plain operations."""
    x, t = point
    total = jnp.cos(jnp.pi * x)
    for i in range(COUNT):
        passed = jnp.clip(t - (0.5 + i * LENGTH), 0, LENGTH)
        stretched = jnp.array([[x, 0.5 + COUNT * passed]])
        params = {"params": trees.member(networks, i)["network"]}
        value = ANSATZ.network.apply(params, ANSATZ.features(stretched))[0, 0]
        total += (stretched[0, 1] - 0.5) * value
    return total


@jax.jit
def solutions(networks, points):
    return jax.vmap(functools.partial(solution, networks))(points)


@jax.jit
def residuals(networks, points):
    """Of the equation, by nested reverse mode."""

    def of_one(point):
        u = functools.partial(solution, networks)
        slope, bend = jax.grad(u)(point), jax.hessian(u)(point)
        return slope[1] + point[1] * u(point) * slope[0] + 0.1 * bend[0, 0]

    return jax.vmap(of_one)(points)


def later(points, windows):
    return points + np.array([0, windows * LENGTH])


@pytest.fixture
def networks():
    return trees.stack([ANSATZ.init(jax.random.key(i)) for i in range(COUNT)])


@pytest.fixture
def first():
    """The points of training, in the first window."""
    points = np.array(objective.draw_sample(PROBLEM, "sobol", 0).points["equation"])
    points[:, 1] = 0.5 + (points[:, 1] - 0.5) / COUNT
    return points


def test_solution_and_residual_are_those_of_the_formula(networks, first):
    placed = jax.jit(WINDOWED.everywhere)(networks, jnp.asarray(first))
    window = jax.jit(WINDOWED.window.__call__)
    residual = jax.jit(functools.partial(WINDOWED.window.residual, term="equation"))
    for i, points in enumerate(placed):
        params, plain = trees.member(networks, i), later(first, i)
        np.testing.assert_allclose(points[:, :2], plain, rtol=1e-14)
        np.testing.assert_allclose(
            window(params, points)[:, 0], solutions(networks, plain), rtol=1e-12
        )
        np.testing.assert_allclose(
            residual(params, points=points)[:, 0], residuals(networks, plain), rtol=1e-9
        )


def test_windows_follow_each_other_and_are_judged_together(networks, first):
    heldout = WINDOWED.make_heldout(400)
    collections = WINDOWED.begin(objective.draw_sample(PROBLEM, "sobol", 0))
    judge, advance = jax.jit(WINDOWED.judge), jax.jit(WINDOWED.advance)
    exact = heldout.solution.reshape(COUNT, -1)
    for i in range(COUNT):
        if i:
            before = trees.member(networks, i - 1)
            collections = advance(before, collections, jax.random.key(0))
        now = collections["sample"].points["equation"]
        np.testing.assert_allclose(now[:, :2], later(first, i), rtol=1e-14)
        # Later networks are zero, as if there were none.
        until_now = jax.tree.map(lambda leaf: leaf.at[i + 1 :].set(0), networks)  # noqa: B023
        values = judge(trees.member(networks, i), collections, heldout)
        squares = [residuals(until_now, later(first, j)) ** 2 for j in range(i + 1)]
        np.testing.assert_allclose(values["train_loss"], np.mean(squares), rtol=1e-9)
        error = solutions(until_now, heldout.points).reshape(COUNT, -1) - exact
        relative = np.linalg.norm(error[: i + 1]) / np.linalg.norm(exact[: i + 1])
        np.testing.assert_allclose(values["rel_l2"], relative, rtol=1e-12)
    points = WINDOWED.points(collections)["equation"]
    np.testing.assert_allclose(points, np.concatenate([later(first, j) for j in range(COUNT)]))
    values = jax.jit(WINDOWED.solution)(trees.member(networks, -1), collections, heldout)
    np.testing.assert_allclose(values[:, 0], solutions(networks, heldout.points), rtol=1e-12)


def test_the_held_out_grid_covers_each_window_to_its_ends():
    heldout = WINDOWED.make_heldout(400)
    for i, window in enumerate(heldout.points.reshape(COUNT, -1, 2)):
        times = 0.5 + i * LENGTH + LENGTH * np.linspace(0, 1, 7)  # of a grid of 20 times
        np.testing.assert_allclose(np.unique(window[:, 1].round(12)), times)
        assert len(np.unique(window[:, 0])) == 20
    np.testing.assert_array_equal(heldout.solution, PROBLEM.solution(heldout.points))
    inside = heldout.sample.points["equation"]
    np.testing.assert_allclose([inside[:, 1].min(), inside[:, 1].max()], [0.5, 1.0])


def test_trained_one_after_the_other_they_solve_an_equation():
    """``u_t = -2 u x²`` of two fields, ``u = exp(-2 x² t)`` and ``v = cos(t) + x``."""
    domain = {"t": (0.0, 1.0), "x": (-1.0, 1.0)}

    def equations(u, v, at):
        return u.t + 2 * at.x**2 * u, v.t + jnp.sin(at.t)

    def exact(p):
        t, x = p.T
        return np.stack([np.exp(-2 * x**2 * t), np.cos(t) + x], axis=-1)

    problem = Problem(
        domain,
        {"equations": Term(equations, Points(128))},
        exact,
        fields=("u", "v"),
        constraint=lambda p: (jnp.stack([jnp.ones(len(p)), 1 + p[:, 1]], -1), p[:, :1]),
    )
    ansatz, windows = Ansatz(problem, MLP((8,), 2)), 2
    windowed, optimizer = Windowed(ansatz, windows), optim.ssbroyden()

    @jax.jit
    def train(params, sample):
        def step(carry, _):
            params, state = carry
            updates, state = optimizer.update(
                None,
                state,
                params,
                value_fn=lambda p: objective.loss(windowed.window, p, sample)[0],
            )
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, optimizer.init(params)), length=150)[0][0]

    judge, advance = jax.jit(windowed.judge), jax.jit(windowed.advance)
    params = ansatz.init(jax.random.key(0))
    collections = windowed.begin(objective.draw_sample(problem, "sobol", 0))
    heldout = windowed.make_heldout(400)
    for i in range(windows):
        if i:
            collections = advance(params, collections, jax.random.key(0))
        params = train(params, collections["sample"])
        assert judge(params, collections, heldout)["rel_l2"] < 2e-3
    values = windowed.solution(params, collections, heldout)
    expected = exact(heldout.points)
    assert np.linalg.norm(values - expected) < 2e-3 * np.linalg.norm(expected)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"domain": {"x": (-1.0, 1.0), "s": (0.5, 2.0)}}, "coordinate named t"),
        ({"physics": {"k": 1.0}}, "physical parameters"),
        ({"constraint": None}, "need a constraint"),
        ({"constraint": lambda p: (p[:, 1:], p[:, 1:] - 0.5)}, "same at all times"),
        ({"constraint": lambda p: (p[:, :1], p[:, 1:])}, "0 at that time"),
        ({"constraint": lambda p: (p[:, :1], (p[:, 1:] - 0.5) ** 2)}, "slope"),
        ({"terms": {"wave": Term(lambda u, at: u.tt - u.xx, Points(9))}}, r"not u\.tt"),
        ({"terms": {"end": Term(lambda u, at: u.t + u.at(x=1.0), Points(9))}}, r"u\.at"),
        ({"terms": {"start": Term(lambda u, at: u, Points(9, fixed={"t": 0.5}))}}, "'start'"),
        ({"terms": {"data": Term(lambda u, at: u, np.ones((3, 2)))}}, "'data'"),
    ],
)
def test_what_cannot_be_divided_is_refused(changes, named):
    with pytest.raises(ValueError, match=named):
        Windowed(Ansatz(PROBLEM._replace(**changes), MLP((5,))), 2)
