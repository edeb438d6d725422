"""Surfaces against finite differences and known values."""

import jax
import numpy as np
import pytest
from scipy import optimize

from jaxdl.optim.surfaces import SURFACES

RANDOM = np.random.default_rng(0).uniform(-1, 1, (5, 2))


def value(surface, points):
    return np.asarray(surface.function(*np.atleast_2d(points).T))


@pytest.mark.parametrize("name", SURFACES)
def test_minima_are_where_they_are_said_to_be(name):
    surface = SURFACES[name]
    (left, right), (low, high) = surface.window
    assert left < surface.start[0] < right and low < surface.start[1] < high
    minima = np.array(surface.minima, float)
    assert (value(surface, minima) == 0).all()
    for shift in 1e-2 * np.array([(1, 0), (0, 1), (1, 1), (1, -1)]):  # on all sides it is higher
        assert (value(surface, minima + shift) > 0).all()
        assert (value(surface, minima - shift) > 0).all()
    x, y = np.meshgrid(*(np.linspace(*side, 50) for side in surface.window))
    assert (np.asarray(surface.function(x, y)) >= 0).all()


@pytest.mark.parametrize("name", SURFACES)
def test_gradients_are_finite_differences(name):
    surface, h = SURFACES[name], 1e-3
    points = np.float32([*RANDOM, *surface.minima])
    gradient = jax.jit(jax.vmap(jax.grad(lambda p: surface.function(*p))))(points)
    assert (gradient[len(RANDOM) :] == 0).all()
    for axis, shift in enumerate(h * np.eye(2)):
        rise = value(surface, points + shift) - value(surface, points - shift)
        np.testing.assert_allclose(gradient[:, axis], rise / (2 * h), rtol=1e-2, atol=1e-2)


def test_what_makes_them_hard():
    saddle, valley, plateau, rosenbrock = (SURFACES[name] for name in SURFACES)

    def curvatures(surface, point, h=1e-2):
        """By finite differences, of the Hessian."""
        shifts = h * np.array([(0, 0), (1, 0), (0, 1), (1, 1)])
        ends = value(surface, point + np.concatenate([shifts, -shifts]))
        here, right, up, diagonal = (ends[:4] + ends[4:]) / 2 - ends[0]
        assert here == 0
        mixed = diagonal - right - up
        return np.linalg.eigvalsh(np.array([[2 * right, mixed], [mixed, 2 * up]]) / h**2)

    assert value(saddle, (0.0, 0.0)) == saddle.trap
    np.testing.assert_allclose(curvatures(saddle, (0, 0)), (-1, 200), rtol=1e-3)
    np.testing.assert_allclose(curvatures(valley, (1, 1)), (1, 100), rtol=1e-6)
    assert value(plateau, plateau.start) == pytest.approx(plateau.trap, rel=1e-3)
    slopes = optimize.approx_fprime(plateau.start, lambda p: value(plateau, p), 1e-2)
    assert np.linalg.norm(slopes) < 1e-3
    for point in RANDOM:
        assert value(rosenbrock, point) == pytest.approx(optimize.rosen(point))
