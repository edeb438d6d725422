"""Every problem's residuals vanish on its solution, written here once more, and conditions that
are built into the network hold for any."""

import functools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fftpack

from jaxdl.nn.models.mlp import MLP
from jaxdl.pinn import objective, problems
from jaxdl.pinn.derivatives import forward_mode
from jaxdl.pinn.problem import Ansatz, Problem, Term, periodic, scaled
from jaxdl.pinn.problems import PROBLEMS
from jaxdl.pinn.residual import evaluate
from jaxdl.pinn.sampling import Points, draw

PI = np.pi


def draw_params(ansatz, seed):
    """Normal parameters of an ansatz, by NumPy: there is nothing to compile."""
    rng, shapes = np.random.default_rng(seed), jax.eval_shape(ansatz.init, jax.random.key(0))
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.5, leaf.shape)), shapes)


def heat(p, k=0.01):
    t, x = p[:, :1], p[:, 1:]
    width = 0.01 + 4 * k * t
    images = 0.1 / jnp.sqrt(width) * jnp.exp(-((x - 2 * np.arange(-5.0, 6)[None]) ** 2) / width)
    return images.sum(1, keepdims=True)


def burgers(p, nu=0.01 / PI):
    """Cole-Hopf by the trapezoidal rule, which for such integrands has no error to speak of."""
    t, x = p[:, :1], p[:, 1:]
    z = jnp.linspace(-9, 9, 2001)[None]
    y = x - jnp.sqrt(4 * nu * t) * z
    exponent = -jnp.cos(PI * y) / (2 * PI * nu) - z**2
    weight = jnp.exp(exponent - jax.lax.stop_gradient(exponent.max(1, keepdims=True)))
    return -(weight * jnp.sin(PI * y)).sum(1, keepdims=True) / weight.sum(1, keepdims=True)


def soliton(p):
    """Of u_t + u u_x + mu² u_xxx = 0: it runs at a third of its height."""
    t, x = p[:, :1], p[:, 1:]
    speed = 0.4
    return 3 * speed / jnp.cosh(jnp.sqrt(speed) / (2 * 0.022) * (x - speed * t)) ** 2


def front(p):
    """Of u_t = D u_xx + r (u - u³): from 1 to 0 at the speed 3 sqrt(r D / 2)."""
    t, x = p[:, :1], p[:, 1:]
    speed = 3 * np.sqrt(5 * 1e-4 / 2)
    return (1 - jnp.tanh((x - speed * t) / (2 * np.sqrt(2e-4 / 5)))) / 2


def kovasznay(p):
    x, y = p[:, :1], p[:, 1:]
    rate = 20 - np.sqrt(400 + 4 * PI**2)
    u = 1 - jnp.exp(rate * x) * jnp.cos(2 * PI * y)
    v = rate / (2 * PI) * jnp.exp(rate * x) * jnp.sin(2 * PI * y)
    return jnp.concatenate([u, v, (1 - jnp.exp(2 * rate * x)) / 2], axis=1)


def wave(p):
    t, x = p[:, :1], p[:, 1:]
    first = jnp.sin(PI * (x - 2 * t)) + jnp.sin(PI * (x + 2 * t))  # d'Alembert's form
    return first / 2 + (jnp.sin(4 * PI * (x - 2 * t)) + jnp.sin(4 * PI * (x + 2 * t))) / 4


def disc(p):
    x, y = p[:, :1], p[:, 1:]
    return (1 - x**2 - y**2) * jnp.exp(x) * jnp.sin(2 * y) + x * y


EXACT = {
    "heat": heat,
    "burgers": burgers,
    "korteweg_de_vries": soliton,  # of the equation: the problem's own has no closed form
    "allen_cahn": front,
    "wave": wave,
    "poisson": lambda p: jnp.sin(PI * p[:, :1]) * jnp.sin(PI * p[:, 1:]),
    "poisson_disc": disc,
    "helmholtz": lambda p: jnp.sin(PI * p[:, :1]) * jnp.sin(4 * PI * p[:, 1:]),
    "kovasznay": kovasznay,
    "inverse_heat": heat,
}


def test_every_problem_is_here():
    assert EXACT.keys() == PROBLEMS.keys()


@pytest.mark.parametrize("name", EXACT)
def test_residuals_vanish_on_the_solution(name):
    problem = PROBLEMS[name](**({"noise": 0.0} if name == "inverse_heat" else {}))
    physics = {"log_k": jnp.log(0.01)} if name == "inverse_heat" else {}
    sample = objective.draw_sample(problem, "uniform", 0)
    derive = forward_mode(EXACT[name], problem.coordinates)
    for term, points in sample.points.items():
        points = points[:300]
        if term == "data":
            points = sample.points[term]
        if name == "burgers":
            points = points[points[:, 0] > 0.01]  # its integrand is too narrow just after the start
        of = problem.terms[term].residual
        if len(points) < len(sample.points[term]) and not isinstance(
            problem.terms[term].points, Points
        ):
            points = sample.points[term]
        orders = [{name: 1.0} for name in ("", *_orders(problem.coordinates))]

        def both(points, of=of, orders=orders):
            residual = evaluate(of, derive, points, problem.coordinates, problem.fields, physics)
            return residual, derive(points, orders)

        residual, parts = jax.device_get(jax.jit(both)(points))
        if name == "allen_cahn":
            residual = residual / np.exp(-5 * points[:, :1])  # its weight
        scale = max(np.abs(part).max() for part in parts)
        assert np.abs(residual).max() < 1e-9 * scale, (term, scale)


STENCIL = np.array([1 / 280, -4 / 105, 1 / 5, -4 / 5, 0, 4 / 5, -1 / 5, 4 / 105, -1 / 280])


@pytest.mark.parametrize("name, places", [("korteweg_de_vries", 768), ("allen_cahn", 2048)])
def test_residuals_vanish_on_the_reference(name, places):
    """Along x by Fourier series, along t by differences of eighth order."""
    problem, h = PROBLEMS[name](), 1e-3
    x = np.linspace(-1, 1, places, endpoint=False)
    grid = np.stack(np.meshgrid(0.4 + h * np.arange(-4, 5), x, indexing="ij"), axis=-1)
    u = problem.solution(grid.reshape(-1, 2)).reshape(9, places)
    jet = {"": u[4], "t": STENCIL @ u / h}
    for order in (1, 2, 3):
        jet["x" * order] = scipy.fftpack.diff(u[4], order, period=2)

    def derive(points, requests):
        return [sum(c * jet[n] for n, c in request.items())[:, None] for request in requests]

    equation = problem.terms["equation"].residual
    residual = np.asarray(jax.jit(lambda points: evaluate(equation, derive, points, "tx"))(grid[4]))
    if name == "allen_cahn":
        residual = residual / np.exp(-5 * 0.4)  # its weight there
    assert np.abs(jet["t"]).max() > 1
    assert np.abs(residual).max() < 1e-6 * np.abs(jet["t"]).max()


def test_what_is_built_in_of_allen_cahns_kink_spreads_as_heat():
    """With a network of zeros, near the ends, a moment after the start: 2 |d| after diffusion."""
    ansatz = Ansatz(PROBLEMS["allen_cahn"](), MLP((3,), 1))
    params = jax.tree.map(np.zeros_like, draw_params(ansatz, 0))
    t, x = 0.01, np.linspace(-1, -0.97, 30)
    # The mean of the start around each place, extended evenly, weighted as diffusion does.
    y = np.linspace(-0.05, 0.05, 20_001)
    kernel = np.exp(-(y**2) / (4e-4 * t))
    kernel /= kernel.sum()
    spread = np.array([(kernel * 2 * np.abs(d + y)).sum() - 2 * d for d in 1 - np.abs(x)])
    points = np.stack([np.full(30, t), x], -1)
    values = np.asarray(jax.jit(lambda *args: ansatz(*args))(params, points))
    found = values[:, 0] - x**2 * np.cos(PI * x)
    np.testing.assert_allclose(found, spread, rtol=0, atol=1e-7)


def _orders(coordinates):
    return [c * n for c in coordinates for n in (1, 2)]


@pytest.mark.parametrize("name", sorted(EXACT.keys() - {"korteweg_de_vries", "allen_cahn"}))
def test_solutions_are_the_same_by_another_formula(name):
    problem = PROBLEMS[name]()
    points = np.random.default_rng(0).uniform(0.05, 0.95, (50, 2))
    exact = jax.jit(EXACT[name])(points)
    np.testing.assert_allclose(problem.solution(points), exact, rtol=0, atol=1e-9)


CONDITIONS = {  # points where the network can be whatever it likes, and the solution's values
    "burgers": [({"t": 0}, lambda p: -np.sin(PI * p[:, 1])), ({"x": -1}, 0), ({"x": 1}, 0)],
    "allen_cahn": [({"t": 0}, lambda p: p[:, 1] ** 2 * np.cos(PI * p[:, 1]))],
    "korteweg_de_vries": [({"t": 0}, lambda p: np.cos(PI * p[:, 1]))],
    "wave": [
        ({"t": 0}, lambda p: np.sin(PI * p[:, 1]) + np.sin(4 * PI * p[:, 1]) / 2),
        ({"x": 0}, 0),
        ({"x": 1}, 0),
    ],
    "poisson": [({"x": 0}, 0), ({"x": 1}, 0), ({"y": 0}, 0), ({"y": 1}, 0)],
    "helmholtz": [({"x": -1}, 0), ({"x": 1}, 0), ({"y": -1}, 0), ({"y": 1}, 0)],
}


@pytest.mark.parametrize("name", CONDITIONS)
def test_conditions_built_in_hold_for_any_network(name):
    problem = PROBLEMS[name]()
    ansatz = Ansatz(problem, MLP((5,), 1))
    params, solution = draw_params(ansatz, 3), jax.jit(lambda *args: ansatz(*args))
    rng = np.random.default_rng(0)
    for fixed, expected in CONDITIONS[name]:
        points = np.stack([rng.uniform(*interval, 9) for interval in problem.domain.values()], -1)
        for coordinate, value in fixed.items():
            points[:, problem.coordinates.index(coordinate)] = value
        wanted = expected(points) if callable(expected) else np.zeros(9)
        values = np.asarray(solution(params, points))[:, 0]
        np.testing.assert_allclose(values, wanted, rtol=0, atol=1e-12)
        inside = points * 0.5 + 0.25
        assert np.abs(solution(params, inside)).max() > 1e-3  # but it has its say
    if name == "wave":
        points = np.stack([np.zeros(9), rng.uniform(0, 1, 9)], -1)
        (speed,) = jax.jit(lambda points: ansatz.derive(params)(points, [{"t": 1.0}]))(points)
        np.testing.assert_allclose(speed, 0, rtol=0, atol=1e-12)


@functools.cache
def derivatives_along_x(name):
    """The function of points that computes a random ansatz and two derivatives, compiled."""
    ansatz, orders = Ansatz(PROBLEMS[name](), MLP((5,), 1)), [{"": 1.0}, {"x": 1.0}, {"xx": 1.0}]
    return jax.jit(partial(ansatz.derive(draw_params(ansatz, 0)), requests=orders))


@pytest.mark.parametrize("name, sign, vanishing", [("allen_cahn", 1, "x"), ("burgers", -1, "xx")])
def test_even_and_odd_solutions_are_so_without_a_kink(name, sign, vanishing):
    """For any network; where they are mirrored, in the middle and at the ends, from one side."""
    derive = derivatives_along_x(name)
    t, x = np.linspace(0.1, 1, 7), np.linspace(0.01, 1, 7)
    right, left = (derive(np.stack([t, side], -1))[0] for side in (x, -x))
    np.testing.assert_allclose(left, sign * np.asarray(right), rtol=0, atol=1e-12)
    for side in (1e-12, 1 - 1e-12):
        derivative = derive(np.stack([t, np.full(7, side)], -1))[len(vanishing)]
        assert np.abs(derivative).max() < 1e-5


@pytest.mark.parametrize("name", ["heat", "burgers", "allen_cahn", "korteweg_de_vries"])
def test_periodic_solutions_are_periodic_with_all_derivatives(name):
    derive, left = derivatives_along_x(name), np.stack([np.linspace(0, 1, 7), -np.ones(7)], -1)
    for a, b in zip(derive(left), derive(left * [1, -1]), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-10)


def test_derivatives_of_the_ansatz_are_those_of_the_function():
    """With features, a constraint and a network, against nested forward mode of the whole."""
    for name in ("burgers", "heat", "helmholtz"):
        ansatz = Ansatz(PROBLEMS[name](), MLP((6,), 1))
        params = draw_params(ansatz, 1)
        problem = ansatz.problem
        points = np.random.default_rng(0).uniform(0.1, 0.9, (5, 2))

        def whole(p, ansatz=ansatz, problem=problem, params=params):
            inner = ansatz.network.apply({"params": params["network"]}, ansatz.features(p))
            offset, factor = problem.constraint(p) if problem.constraint else (0.0, 1.0)
            return offset + factor * inner

        one, other = problem.coordinates
        requests = [{"": 1.0}, {one: 1.0, other * 2: -2.0}, {one + other: 1.0}]
        ways = ansatz.derive(params), forward_mode(whole, problem.coordinates)
        both = jax.jit(lambda p, ways=ways, requests=requests: [way(p, requests) for way in ways])
        for found, expected in zip(*both(points), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10)


def test_noise_of_the_inverse_problem_is_as_much_as_was_asked_for():
    problem = problems.inverse_heat(noise=0.02, seed=5)
    sample = objective.draw_sample(problem, "sobol", 0)
    points, data = sample.points["data"], problem.terms["data"].residual

    def both(points):
        return evaluate(data, forward_mode(heat, "tx"), points, "tx", ("u",), {}), heat(points)

    error, clean = map(np.asarray, jax.jit(both)(points))
    assert 0.017 < error.std() / clean.std() < 0.023
    np.testing.assert_allclose(problem.parameters({"log_k": jnp.log(0.02)})["k"], 0.02)


def test_early_points_are_everywhere():
    points = objective.draw_sample(problems.heat(), "sobol", 0).points["equation"]
    assert 0.6 < np.mean(points[:, 0] < 0.5) < 0.7  # (1/2 + the cube root of 1/2) / 2 is .65
    for early in (points[:, 0] < 0.02, points[:, 0] >= 0.02):
        assert abs(np.mean(points[early, 1] > 0) - 0.5) < 0.02


def toy(**changes):
    problem = Problem(
        {"x": (0.0, 1.0)},
        {"equation": Term(lambda u, at: u.x - 1, Points(16))},
        lambda p: p,
    )
    return problem._replace(**changes)


def test_edges_of_a_rectangle_are_all_walked_along():
    edges = PROBLEMS["kovasznay"]().terms["edges"].points
    points = draw(edges, {"x": (-0.5, 1.0), "y": (-0.5, 1.5)}, "grid", 0)
    left, right, bottom, top = (
        np.isclose(points[:, i], at) for i, at in ((0, -0.5), (0, 1), (1, -0.5), (1, 1.5))
    )
    assert (left | right | bottom | top).all()
    assert all(100 <= side.sum() <= 103 for side in (left, right, bottom, top))
    for side, i in ((left, 1), (right, 1), (bottom, 0), (top, 0)):
        assert np.diff(np.sort(points[side, i])).max() < 0.03  # no gaps


def test_features():
    points = np.array([[0.0, -1.0], [1.0, 0.5]])
    domain = {"t": (0, 1), "x": (-1, 1)}
    np.testing.assert_allclose(scaled(domain)(points), [[-1, -1], [1, 0.5]])
    found = periodic(domain, "x")(points)
    # From the left end: u = (x + 1) / 2 of a period.
    turn = 2 * PI * np.array([0, 0.75])
    expected = [[-1, 1], np.cos(turn), np.sin(turn)]
    np.testing.assert_allclose(found, np.transpose(expected), rtol=0, atol=1e-12)


def test_points_outside_of_the_domain_are_refused():
    outside = Term(lambda u, at: u, np.array([[0.5], [1.5]]))
    with pytest.raises(ValueError, match=r"term 'data': point 1 has x=1.5, outside \[0, 1\]"):
        objective.draw_sample(toy(terms={"data": outside}), "sobol", 0)
