"""Windows of time."""

import functools
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdl import optim, trees
from jaxdl.nn.models.mlp import MLP
from jaxdl.pinn import objective
from jaxdl.pinn.problem import Ansatz, Problem, Term, periodic
from jaxdl.pinn.problems import PROBLEMS
from jaxdl.pinn.sampling import Points
from jaxdl.pinn.windows import TimeWindows

DOMAIN = {"x": (-1.0, 1.0), "t": (0.5, 2.0)}
COUNT = 3
LENGTH = 0.5


def equation(u, at):
    return u.t + at.t * u * u.x + 0.1 * u.xx + 0.01 * u.xt


PROBLEM = Problem(
    DOMAIN,
    {
        "equation": Term(equation, Points(24), weight=2.0),
        "wall": Term(lambda u, at: u - at.t, Points(8, fixed={"x": 1.0})),
    },
    lambda p: np.cos(np.pi * p[:, :1]) * p[:, 1:],
    features=periodic(DOMAIN, "x", (1, 2)),
    constraint=lambda p: (jnp.cos(jnp.pi * p[:, :1]), p[:, 1:] - 0.5),
)
ANSATZ = Ansatz(PROBLEM, MLP((5,)))
WINDOWS = TimeWindows(ANSATZ, COUNT)

# Compiled, and once for all tests: operations on their own take much longer.
begin = jax.jit(WINDOWS.begin)
judge = jax.jit(functools.partial(WINDOWS.judge, block=64))
solution_of_windows = jax.jit(WINDOWS.solution)


def solution(networks, point):
    """The module's formula at one point ``x, t``, of plain operations."""
    x, t = point
    total = jnp.cos(jnp.pi * x)
    for i in range(COUNT):
        tau = 0.5 + COUNT * jnp.clip(t - (0.5 + i * LENGTH), 0, LENGTH)
        params = {"params": trees.member(networks, i)["network"]}
        value = ANSATZ.network.apply(params, ANSATZ.features(jnp.array([[x, tau]])))[0, 0]
        total += (tau - 0.5) * value
    return total


@jax.jit
def solutions(networks, points):
    return jax.vmap(functools.partial(solution, networks))(points)


@jax.jit
def residuals(networks, points):
    """Of the equation, by nested reverse mode, away from the windows' ends."""

    def of_one(point):
        u = functools.partial(solution, networks)
        slope, bend = jax.grad(u)(point), jax.hessian(u)(point)
        terms = slope[1], point[1] * u(point) * slope[0], 0.1 * bend[0, 0], 0.01 * bend[0, 1]
        return sum(terms)

    return jax.vmap(of_one)(points)


def later(points, windows):
    return points + np.array([0, windows * LENGTH])


@pytest.fixture
def networks():
    """Random parameters of all windows, by NumPy: there is nothing to compile."""
    rng, shapes = np.random.default_rng(0), jax.eval_shape(ANSATZ.init, jax.random.key(0))
    return jax.tree.map(lambda leaf: rng.normal(0, 0.5, (COUNT, *leaf.shape)), shapes)


@pytest.fixture
def sample():
    return objective.draw_sample(PROBLEM, "sobol", 0)


@pytest.fixture
def first(sample):
    """The points of training, in the first window."""

    def squeeze(points):
        return np.stack([points[:, 0], 0.5 + (points[:, 1] - 0.5) / COUNT], axis=-1)

    return {term: squeeze(points) for term, points in sample.points.items()}


def test_windows_follow_each_other_and_are_judged_together(networks, sample, first):
    heldout = WINDOWS.make_heldout(400)
    collections, advance = begin(sample), jax.jit(WINDOWS.advance)
    ansatz = WINDOWS.window_ansatz

    @jax.jit
    def residual_and_loss(params, sample):
        residual = ansatz.residual(params, "equation", sample.points["equation"])
        return residual[:, 0], objective.loss(ansatz, params, sample)[0]

    for i in range(COUNT):
        params = trees.member(networks, i)
        if i:
            collections = advance(trees.member(networks, i - 1), collections)
        # Later networks are zero, as if there were none.
        trained = jax.tree.map(
            lambda leaf, i=i: np.concatenate([leaf[: i + 1], 0 * leaf[i + 1 :]]), networks
        )
        now = {term: later(points, i) for term, points in first.items()}
        points = collections["sample"].points
        for term in now:
            np.testing.assert_allclose(np.asarray(points[term])[:, :2], now[term], rtol=1e-14)
        expected = np.asarray(residuals(trained, now["equation"]))
        found, loss = residual_and_loss(params, collections["sample"])
        np.testing.assert_allclose(found, expected, rtol=1e-8)
        at_wall = np.asarray(solutions(trained, now["wall"])) - now["wall"][:, 1]
        value = 2 * np.mean(expected**2) + np.mean(at_wall**2)
        np.testing.assert_allclose(loss, value, rtol=1e-9)

        values = judge(params, collections, heldout)
        windows = [{t: later(p, j) for t, p in first.items()} for j in range(i + 1)]
        equations = [np.square(residuals(trained, window["equation"])) for window in windows]
        walls = [np.square(solutions(trained, w["wall"]) - w["wall"][:, 1]) for w in windows]
        np.testing.assert_allclose(
            values["train_loss"], np.mean(equations) + np.mean(walls), rtol=1e-9
        )
        np.testing.assert_allclose(
            values["heldout_loss"], values["heldout_equation"] + values["heldout_wall"], rtol=1e-12
        )
        until_end = heldout.points[:, 1] <= 0.5 + (i + 1) * LENGTH + 1e-9
        error = np.asarray(solutions(trained, heldout.points)) - heldout.solution[:, 0]
        relative = np.linalg.norm(error[until_end]) / np.linalg.norm(heldout.solution[until_end])
        np.testing.assert_allclose(values["rel_l2"], relative, rtol=1e-12)
    everywhere = WINDOWS.points(collections)["wall"]
    np.testing.assert_allclose(
        everywhere, np.concatenate([later(first["wall"], j) for j in range(COUNT)])
    )
    found = np.asarray(solution_of_windows(params, collections, heldout.points))[:, 0]
    np.testing.assert_allclose(found, solutions(networks, heldout.points), rtol=1e-12)


def test_held_out_points_of_the_terms_are_as_many_in_all_windows_as_a_grid_has(networks, sample):
    heldout = WINDOWS.make_heldout(400)
    grid, wall = heldout.sample.points["equation"], heldout.sample.points["wall"]
    assert len(np.unique(grid[:, 0])) == 20 and len(np.unique(grid[:, 1])) == 7  # of 20 times
    assert (grid[:, 1].min(), grid[:, 1].max()) == (0.5, 2.0)
    assert set(wall[:, 0]) == {1.0} and (wall[0, 1], wall[-1, 1]) == (0.5, 2.0)
    collections = WINDOWS.at_last(begin(sample))
    params = trees.member(networks, -1)
    collections["windows"] = collections["windows"]._replace(networks=networks)
    values = judge(params, collections, heldout)
    windows = [
        np.stack([wall[:, 0], 0.5 + (wall[:, 1] - 0.5) / COUNT + j * LENGTH], axis=-1)
        for j in range(COUNT)
    ]
    squares = [np.square(solutions(networks, p) - p[:, 1]) for p in windows]
    np.testing.assert_allclose(values["heldout_wall"], np.mean(squares), rtol=1e-9)
    with pytest.raises(ValueError, match="4 held-out points have only 2 times"):
        WINDOWS.make_heldout(4)


def test_the_solution_goes_on_where_a_window_ends(networks, sample):
    x = np.linspace(-1, 1, 5)
    collections = begin(sample)
    collections["windows"] = collections["windows"]._replace(networks=networks)
    at_last = WINDOWS.at_last(collections), trees.member(networks, -1)
    for end in (1.0, 1.5):
        times = end + np.array([-1e-9, 0, 1e-9])
        points = [np.stack([x, np.full(5, t)], axis=-1) for t in times]
        values = [solution_of_windows(at_last[1], at_last[0], p) for p in points]
        for before, after in pairwise(values):
            np.testing.assert_allclose(before, after, atol=1e-7)


def test_trained_one_after_the_other_they_solve_equations_of_two_fields():
    """``u_t = -2 u x²`` and ``v_t = -sin(t)`` with ``v_x = 0``; offset and factor are numbers."""

    def equations(u, v, at):
        return u.t + 2 * at.x**2 * u, v.t + jnp.sin(at.t), v.x

    def exact(p):
        t, x = p.T
        return np.stack([np.exp(-2 * x**2 * t), np.cos(t)], axis=-1)

    problem = Problem(
        {"t": (0.0, 1.0), "x": (-1.0, 1.0)},
        {"equations": Term(equations, Points(128))},
        exact,
        fields=("u", "v"),
        constraint=lambda p: (1.0, p[:, :1]),
    )
    ansatz, count = Ansatz(problem, MLP((8,), 2)), 2
    windows, optimizer = TimeWindows(ansatz, count), optim.ssbroyden()

    @jax.jit
    def train(params, sample):
        def step(carry, _):
            params, state = carry
            updates, state = optimizer.update(
                None,
                state,
                params,
                value_fn=lambda p: objective.loss(windows.window_ansatz, p, sample)[0],
            )
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, optimizer.init(params)), length=150)[0][0]

    @jax.jit
    def judge_twice(params, collections, heldout):
        twice = trees.stack([params, params]), trees.stack([collections, collections])
        return jax.vmap(windows.judge, (0, 0, None))(*twice, heldout)

    advance = jax.jit(windows.advance)
    params = jax.jit(ansatz.init)(jax.random.key(0))
    collections = jax.jit(windows.begin)(objective.draw_sample(problem, "sobol", 0))
    heldout = windows.make_heldout(400)
    for i in range(count):
        if i:
            collections = advance(params, collections)
        params = train(params, collections["sample"])
        errors = np.asarray(judge_twice(params, collections, heldout)["rel_l2"])
        assert errors[0] == errors[1] < 5e-3
    values = np.asarray(jax.jit(windows.solution)(params, collections, heldout.points))
    expected = exact(heldout.points)
    assert np.linalg.norm(values - expected) < 5e-3 * np.linalg.norm(expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"domain": {"x": (-1.0, 1.0), "s": (0.5, 2.0)}}, "coordinate named t"),
        ({"physics": {"k": 1.0}}, "physical parameters"),
        ({"constraint": None}, "need a constraint"),
        ({"constraint": lambda p: 1.0}, "must return offset and factor"),
        ({"constraint": lambda p: (1.0, p[:, 0])}, r"its factor has shape \[64\]; .* \[64, 1\]"),
        ({"constraint": lambda p: (p, p[:, :1])}, r"its offset has shape \[64, 2\]"),
        ({"constraint": lambda p: (p[:, 1:] * p[:, :1], p[:, 1:] - 0.5)}, "not depend on t"),
        ({"constraint": lambda p: (p[:, :1], p[:, 1:])}, "0 at the first time"),
        ({"constraint": lambda p: (p[:, :1], (p[:, 1:] - 0.5) ** 2)}, "grow from the first"),
        ({"constraint": lambda p: (0.0, jnp.sin(jnp.pi * (p[:, 1:] - 0.5) / 1.5))}, "at the last"),
        ({"terms": {"wave": Term(lambda u, at: u.tt - u.xx, Points(9))}}, r"not u\.tt"),
        ({"terms": {"end": Term(lambda u, at: u.t + u.at(x=at.x + 1e-6), Points(9))}}, r"u\.at"),
        ({"terms": {"start": Term(lambda u, at: u, Points(9, fixed={"t": 0.5}))}}, "'start'"),
        ({"terms": {"data": Term(lambda u, at: u, np.ones((3, 2)))}}, "'data'"),
    ],
)
def test_what_cannot_be_divided_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        TimeWindows(Ansatz(PROBLEM._replace(**changes), MLP((5,))), 2)


@pytest.mark.parametrize("count", [0, -1, 2.5])
def test_the_number_of_windows_is_whole(count, types_unchecked):
    with pytest.raises(ValueError, match=f"{count} is not a number of windows"):
        TimeWindows(ANSATZ, count)


@pytest.mark.parametrize(
    "problem",
    [
        PROBLEMS["burgers"](),
        PROBLEM._replace(constraint=lambda p: (0.0, p[:, :1] * (p[:, 1:] - 0.5))),
    ],
)
def test_a_factor_may_be_0_at_some_places(problem):
    assert TimeWindows(Ansatz(problem, MLP((5,))), 2).start_derivatives == ["", "x", "xx"]
