"""Functions of the plane to watch optimizers on: what makes descent hard, one difficulty each."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Float

from jaxdl.types import AnyArray


class Surface(NamedTuple):
    """A function of the plane whose least value is 0."""

    function: Callable[[AnyArray, AnyArray], AnyArray]
    """``function(x, y)``, element by element."""
    minima: tuple[tuple[float, float], ...]
    """The points where the function is 0."""
    start: tuple[float, float]
    window: tuple[tuple[float, float], tuple[float, float]]
    """The part of the plane to be drawn: least and greatest x, least and greatest y."""
    trap: float = float("nan")
    """The value on which descent may stay: that of the saddle, or of the plateau."""


def saddle(x: Float[AnyArray, "*n"], y: Float[AnyArray, "*n"]) -> Float[AnyArray, "*n"]:
    """``100 x^2 + (y^2 - 4)^2 / 16``: the saddle (0, 0), of value 1, has the curvatures 200 and
    -1. The first allows gradient descent rates below 0.01 only, which leave it slowly along y."""
    return 100 * x**2 + (y**2 - 4) ** 2 / 16


def valley(x: Float[AnyArray, "*n"], y: Float[AnyArray, "*n"]) -> Float[AnyArray, "*n"]:
    """``(u^2 + 100 v^2) / 2`` with ``u = (2x + y) / √5`` and ``v = (2y - x) / √5``: a narrow
    valley along u, which no rate a coordinate makes round."""
    return ((2 * x + y) ** 2 + 100 * (2 * y - x) ** 2) / 10


def plateau(x: Float[AnyArray, "*n"], y: Float[AnyArray, "*n"]) -> Float[AnyArray, "*n"]:
    """``1 - exp(-x^2 / 8 - y^2 / 2)``: a basin in a plane that is flat but for an exponentially
    small slope."""
    return 1 - jnp.exp(-(x**2) / 8 - y**2 / 2)


def rosenbrock(x: Float[AnyArray, "*n"], y: Float[AnyArray, "*n"]) -> Float[AnyArray, "*n"]:
    """``(1 - x)^2 + 100 (y - x^2)^2``: a valley that bends (Rosenbrock 1960)."""
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2


SURFACES = {
    "saddle": Surface(saddle, ((0, 2), (0, -2)), (-0.3, 0.02), ((-0.5, 0.5), (-1.2, 3.2)), 1.0),
    "valley": Surface(valley, ((0, 0),), (-2.0, -0.4), ((-2.6, 1.6), (-1.4, 1.0))),
    "plateau": Surface(plateau, ((0, 0),), (-8.0, 2.0), ((-9.5, 4.0), (-3.5, 4.0)), 1.0),
    "rosenbrock": Surface(rosenbrock, ((1, 1),), (-1.2, 1.0), ((-1.8, 1.8), (-0.8, 2.2))),
}
"""The start of Rosenbrock's function is his own."""
