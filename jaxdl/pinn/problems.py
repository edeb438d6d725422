"""The problems of the study: each a few lines, with a solution that needs no download."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxdl.pinn import references
from jaxdl.pinn.problem import Problem, Term, periodic
from jaxdl.pinn.sampling import Domain, Points
from jaxdl.types import AnyArray, ArrayT

pi = np.pi


def heat(k: float = 0.01, points: int = 2048) -> Problem:
    """``u_t = k u_xx`` on [-1, 1], periodic; ``u(x, 0) = exp(-(x / .1)²)``, up to t = 1."""

    def equation(u, at):
        return u.t - k * u.xx

    def initial(u, at):
        return u - jnp.exp(-((at.x / 0.1) ** 2))

    def early(p):  # the time of one half; not of every second, which of Sobol's are half of a box
        xp, t = _numpy_of(p), p[:, 0]
        half = np.arange(len(p)) < len(p) // 2
        return xp.stack([xp.where(half, t**3, t), p[:, 1]], axis=-1)

    domain = {"t": (0, 1), "x": (-1, 1)}
    return Problem(
        domain,
        {
            "equation": Term(equation, Points(points, warp=early)),
            "initial": Term(initial, Points(129, fixed={"t": 0})),
        },
        lambda p: references.heat_images(p[:, 1], p[:, 0], k)[:, None],
        features=periodic(domain, "x"),
    )


def inverse_heat(k: float = 0.01, start: float = 0.05, noise: float = 0.01, seed: int = 0):
    """:func:`heat` with its diffusivity unknown, to be found from 500 noisy samples of u.

    The noise is normal; its deviation is so many times that of the samples.
    """
    forward = heat(k)
    rng = np.random.default_rng(seed)
    places = np.stack([rng.uniform(*forward.domain[c], 500) for c in "tx"], axis=-1)
    clean = forward.solution(places)[:, 0]  # type: ignore[misc]  # heat has one
    measured = clean + noise * clean.std() * rng.standard_normal(len(clean))

    def equation(u, at):
        return u.t - jnp.exp(at.log_k) * u.xx

    def data(u, at):
        return u - measured

    return forward._replace(
        terms={
            "equation": forward.terms["equation"]._replace(residual=equation),
            "data": Term(data, places),
        },
        physics={"log_k": float(np.log(start))},  # a diffusivity is positive
        parameters=lambda physics: {"k": jnp.exp(physics["log_k"])},
        truth={"k": k},
    )


def burgers(nu: float = 0.01 / pi, points: int = 8192) -> Problem:
    """``u_t + u u_x = nu u_xx`` on [-1, 1], ``u(x, 0) = -sin(pi x)``, zero at both ends.

    Up to t = 1. The start is odd about the middle and the ends, and so is all that follows: the
    network reads even functions of x and is multiplied by an odd one. A jump from 1 to -1 becomes
    ``-tanh(x / 2 nu)``, the shock; so the factor is a step of that width, and one of the features
    is the logarithm of the distance from it, which stretches its inside.
    """

    def equation(u, at):
        return u.t + u * u.x - nu * u.xx

    def distance(x):
        return jnp.sqrt(jnp.sin(pi / 2 * x) ** 2 + (pi * nu) ** 2)

    def features(p):
        t, x = p[:, 0], p[:, 1]
        return jnp.stack([2 * t - 1, jnp.cos(pi * x), 1 + jnp.log(distance(x)) / 2], axis=-1)

    def constraint(p):
        t, x = p[:, :1], p[:, 1:]
        return -jnp.sin(pi * x), t * jnp.sin(pi * x) / distance(x)

    return Problem(
        {"t": (0, 1), "x": (-1, 1)},
        {"equation": Term(equation, Points(points))},
        lambda p: references.burgers_cole_hopf(p[:, 1], p[:, 0], nu)[:, None],
        features=features,
        constraint=constraint,
    )


def allen_cahn(points: int = 8192) -> Problem:
    """``u_t = .0001 u_xx + 5 u - 5 u³`` on [-1, 1], periodic; ``u(x, 0) = x² cos(pi x)``.

    The start is even, and so is all that follows: the network reads even functions of x. It is
    built in, since errors near u = 0 grow as exp(5 t), by a factor of 150 until t = 1; and so that
    residuals count for what becomes of them, they are multiplied by exp(-5 t). At the ends the
    start has a kink, 2 |d| at the distance d, of which nothing is left at any later time: diffusion
    alone makes ``2 (s exp(-(d/s)²) / √pi + d erf(d/s))`` with ``s² = 4 · .0001 t`` of it. That is
    built in there, and the network reads it too, as what is made of it has its shape.
    """

    def equation(u, at):
        return jnp.exp(-5 * at.t) * (u.t - 1e-4 * u.xx - 5 * (u - u**3))

    def rounded(d, t):
        s = jnp.sqrt(4e-4 * t + 1e-12)
        return s * jnp.exp(-((d / s) ** 2)) / np.sqrt(pi) + d * jax.scipy.special.erf(d / s)

    def features(p):
        t, x = p[:, 0], p[:, 1]
        distance = jnp.cos(pi / 2 * x) * 2 / pi  # near the ends; smooth elsewhere
        waves = jnp.cos(pi * x), jnp.cos(2 * pi * x)
        return jnp.stack([2 * t - 1, *waves, rounded(distance, t)], axis=-1)

    def constraint(p):
        t, x = p[:, :1], p[:, 1:]
        d = 1 - jnp.abs(x)
        return x**2 * jnp.cos(pi * x) + 2 * (rounded(d, t) - d), t

    return Problem(
        {"t": (0, 1), "x": (-1, 1)},
        {"equation": Term(equation, Points(points))},
        lambda p: _on_grid(references.allen_cahn, p),
        features=features,
        constraint=constraint,
    )


def korteweg_de_vries(points: int = 2048) -> Problem:
    """``u_t + u u_x + .022² u_xxx = 0`` on [-1, 1], periodic; ``u(x, 0) = cos(pi x)``.

    The network reads shorter waves, too, since solitons are narrow.
    """

    def equation(u, at):
        return u.t + u * u.x + 0.022**2 * u.xxx

    domain = {"t": (0, 1), "x": (-1, 1)}
    return Problem(
        domain,
        {"equation": Term(equation, Points(points))},
        lambda p: _on_grid(references.korteweg_de_vries, p),
        features=periodic(domain, "x", (1, 2, 4)),
        constraint=lambda p: (jnp.cos(pi * p[:, 1:]), p[:, :1]),
    )


def wave(speed: float = 2.0, points: int = 4096) -> Problem:
    """``u_tt = c² u_xx`` on [0, 1] with fixed ends, from rest, up to t = 1:
    ``u = sin(pi x) cos(c pi t) + sin(4 pi x) cos(4 c pi t) / 2``.

    Whatever its start, a string with fixed ends repeats itself after a time of 2/c, and its motion
    goes on oddly, with period 2, beyond the ends (d'Alembert). The network reads functions with
    these periods, and is multiplied by what vanishes where and when u is known.
    """

    def exact(p):
        t, x = p[:, :1], p[:, 1:]
        return _sin(pi * x) * _cos(speed * pi * t) + _sin(4 * pi * x) * _cos(4 * speed * pi * t) / 2

    def equation(u, at):
        return u.tt - speed**2 * u.xx

    def features(p):
        angles = jnp.stack([speed * pi * p[:, 0], pi * p[:, 1]], axis=-1)
        return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)

    def constraint(p):  # u and u_t at t = 0 and a period later, u at both ends
        t, x = p[:, :1], p[:, 1:]
        start = jnp.sin(pi * x) + jnp.sin(4 * pi * x) / 2
        return start, jnp.sin(speed / 2 * pi * t) ** 2 * jnp.sin(pi * x)

    return Problem(
        {"t": (0, 1), "x": (0, 1)},
        {"equation": Term(equation, Points(points))},
        exact,
        features=features,
        constraint=constraint,
    )


def poisson(points: int = 2048) -> Problem:
    """``-(u_xx + u_yy) = 2 pi² sin(pi x) sin(pi y)`` on the unit square, zero at its edges."""

    def exact(p):
        return _sin(pi * p[:, :1]) * _sin(pi * p[:, 1:])

    def equation(u, at):
        return u.xx + u.yy + 2 * pi**2 * jnp.sin(pi * at.x) * jnp.sin(pi * at.y)

    return Problem(
        {"x": (0, 1), "y": (0, 1)},
        {"equation": Term(equation, Points(points))},
        exact,
        constraint=lambda p: (0.0, (p * (1 - p)).prod(1, keepdims=True)),
    )


def poisson_disc(points: int = 2048) -> Problem:
    """``u_xx + u_yy = f`` on the unit disc, ``u = x y`` on its edge, with the ``f`` of
    ``u = (1 - x² - y²) exp(x) sin(2 y) + x y``. The edge is a term of its own."""

    def exact(p):
        x, y = p[:, :1], p[:, 1:]
        xp = _numpy_of(p)
        return (1 - x**2 - y**2) * xp.exp(x) * xp.sin(2 * y) + x * y

    def equation(u, at):
        x, y = at.x, at.y
        radius = x**2 + y**2
        laplacian = (-3 * (1 - radius) - 4 - 4 * x) * jnp.sin(2 * y) - 8 * y * jnp.cos(2 * y)
        return u.xx + u.yy - jnp.exp(x) * laplacian

    def edge(u, at):
        return u - at.x * at.y

    def circle(p):  # the axis y = 0, once around
        return _numpy_of(p).stack([_cos(pi * p[:, 0]), _sin(pi * p[:, 0])], axis=-1)

    return Problem(
        {"x": (-1, 1), "y": (-1, 1)},
        {
            "equation": Term(equation, Points(points, inside=lambda p: (p**2).sum(1) <= 1)),
            "edge": Term(edge, Points(256, fixed={"y": 0}, warp=circle)),
        },
        exact,
    )


def helmholtz(points: int = 4096) -> Problem:
    """``u_xx + u_yy + u = q`` on [-1, 1]², zero at the edges; ``u = sin(pi x) sin(4 pi y)``."""

    def exact(p):
        return _sin(pi * p[:, :1]) * _sin(4 * pi * p[:, 1:])

    def equation(u, at):
        forcing = (1 - 17 * pi**2) * jnp.sin(pi * at.x) * jnp.sin(4 * pi * at.y)
        return u.xx + u.yy + u - forcing

    return Problem(
        {"x": (-1, 1), "y": (-1, 1)},
        {"equation": Term(equation, Points(points))},
        exact,
        constraint=lambda p: (0.0, (1 - p**2).prod(1, keepdims=True)),
    )


def kovasznay(reynolds: float = 40.0, points: int = 2048) -> Problem:
    """Steady Navier-Stokes behind a grid (Kovasznay 1948) on [-.5, 1] x [-.5, 1.5]::

        u u_x + v u_y + p_x = (u_xx + u_yy) / Re,    the same of v,    u_x + v_y = 0

    Velocities are given on the edges, the pressure at one point.
    """
    domain = {"x": (-0.5, 1.0), "y": (-0.5, 1.5)}
    rate = references.kovasznay_rate(reynolds)

    def exact(points):
        u, v, p = references.kovasznay(points[:, 0], points[:, 1], reynolds)
        return np.stack([u, v, p], axis=-1)

    def equations(u, v, p, at):
        return (
            u * u.x + v * u.y + p.x - (u.xx + u.yy) / reynolds,
            u * v.x + v * v.y + p.y - (v.xx + v.yy) / reynolds,
            u.x + v.y,
        )

    def velocities(u, v, p, at):
        decay, angle = jnp.exp(rate * at.x), 2 * pi * at.y
        return u - 1 + decay * jnp.cos(angle), v - rate / (2 * pi) * decay * jnp.sin(angle)

    def pressure(u, v, p, at):
        return p - (1 - jnp.exp(2 * rate * at.x)) / 2

    return Problem(
        domain,
        {
            "equations": Term(equations, Points(points)),
            "edges": Term(velocities, Points(404, fixed={"y": -0.5}, warp=_around(domain))),
            "pressure": Term(pressure, Points(1, fixed={"x": 1, "y": -0.5})),
        },
        exact,
        fields=("u", "v", "p"),
    )


PROBLEMS: dict[str, Callable[..., Problem]] = {
    "heat": heat,
    "burgers": burgers,
    "allen_cahn": allen_cahn,
    "korteweg_de_vries": korteweg_de_vries,
    "wave": wave,
    "poisson": poisson,
    "poisson_disc": poisson_disc,
    "helmholtz": helmholtz,
    "kovasznay": kovasznay,
    "inverse_heat": inverse_heat,
}


def _around(domain: Domain) -> Callable[[Float[ArrayT, "n 2"]], Float[ArrayT, "n 2"]]:
    """Wraps the lower edge of a rectangle around all four, as many points to each."""
    (left, right), (bottom, top) = domain.values()

    def warp(points: Float[ArrayT, "n 2"]) -> Float[ArrayT, "n 2"]:
        xp = _numpy_of(points)
        way = 4 * (points[:, 0] - left) / (right - left)  # of each edge 1

        def along(first: int) -> Float[AnyArray, " n"]:  # from 0 to 1 on an edge, and back opposite
            return xp.clip(way - first, 0, 1) - xp.clip(way - first - 2, 0, 1)

        x, y = left + (right - left) * along(0), bottom + (top - bottom) * along(1)
        return xp.stack([x, y], axis=-1)

    return warp


def _on_grid(
    solve: Callable[..., Float[np.ndarray, "nt nx"]], points: Float[np.ndarray, "n 2"]
) -> Float[np.ndarray, "n 1"]:
    """A solver's values at points of a grid of times and places."""
    t, row = np.unique(points[:, 0], return_inverse=True)
    x, column = np.unique(points[:, 1], return_inverse=True)
    return solve(x, t)[row, column][:, None]


def _numpy_of(array):
    return jnp if isinstance(array, jax.Array) else np


def _sin(x):
    return _numpy_of(x).sin(x)


def _cos(x):
    return _numpy_of(x).cos(x)
