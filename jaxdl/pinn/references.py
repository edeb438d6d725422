"""Reference solutions of differential equations: exact ones and accurate numerical ones.

All functions compute with NumPy in 64 bits, from arrays to arrays, and read no files. Heat, Burgers
and Kovasznay have formulas; the Korteweg–de Vries and Allen–Cahn equations are solved by a Fourier
series in space and exponential time differencing in time. Quantities are dimensionless, domains
those of the benchmarks.
"""

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Complex, Float, Inexact, Int

# Formulas. Points are given by their coordinates, arrays that broadcast.


def heat_images(
    x: Float[np.ndarray, "*#n"],
    t: Float[np.ndarray, "*#n"],
    k: float,
    width: float = 0.1,
    period: float = 2.0,
    images: int | None = None,
) -> Float[np.ndarray, "*n"]:
    """``u_t = k u_xx`` from a Gaussian bell on a circle, ``u(x, 0) = exp(-(x / width)^2)``.

    The bell and its images at all multiples of the period spread independently::

        u = sum_n width / sqrt(w) exp(-(x - n period)^2 / w),    w = width^2 + 4 k t

    so that at ``t = 0`` too it is the sum of the bells, ``2 exp(-100)`` at ``x = 1`` by default.

    Args:
      x, t: any position and time ``t >= 0``.
      images: how many bells to count on each side of the nearest; by default as many as matter in
        64 bits, 1 to 3 for ``k t < 0.2`` and the default width and period.

    Raises:
      ValueError: for negative ``t``, ``k`` or ``images``, and for a width or period not above 0.
    """
    x, t = np.asarray(x, float), np.asarray(t, float)
    _require(np.all(t >= 0), "t must not be negative")
    _require(k >= 0, f"k must not be negative, got {k}")
    _require(width > 0 and period > 0, f"width and period must be positive: {width}, {period}")
    w = width**2 + 4 * k * t
    if images is None:
        # Half a period from the nearest bell, where it counts least, those after the n-th are
        # smaller by exp(-period^2 n (n + 1) / w) or more.
        images = math.ceil(math.sqrt(37 * np.max(w, initial=0)) / period)
    _require(images >= 0, f"images must not be negative, got {images}")
    x = x - period * np.round(x / period)
    bells = (
        width / np.sqrt(w) * np.exp(-((x - n * period) ** 2) / w)
        for n in range(-images, images + 1)
    )
    return sum(bells, start=np.zeros(()))


def burgers_cole_hopf(
    x: float | Float[np.ndarray, "*#n"],
    t: float | Float[np.ndarray, "*#n"],
    nu: float = 0.01 / math.pi,
) -> Float[np.ndarray, "*n"]:
    """``u_t + u u_x = nu u_xx``, ``u(x, 0) = -sin(pi x)``, ``u(-1, t) = u(1, t) = 0``.

    ``u = -2 nu theta_x / theta`` turns it into the heat equation for ``theta`` (Hopf 1950, Cole
    1951), whose solution from ``exp(-cos(pi x) / (2 pi nu))`` is a convolution with a Gaussian::

        u = -∫ sin(pi y) f(y) exp(-z^2) dz / ∫ f(y) exp(-z^2) dz
        f(y) = exp(-cos(pi y) / (2 pi nu)),    y = x - sqrt(4 nu t) z

    A shock forms at ``x = 0`` from ``t = 1 / pi`` on, with a slope of -152 at its steepest by
    default (Basdevant et al., "Spectral and finite difference solutions of the Burgers equation",
    Computers & Fluids 14, 1986, who take the integrals by Gauss–Hermite quadrature). Here the
    trapezoidal rule does it, which for such integrals converges as fast and whose error has a bound
    (Trefethen & Weideman, "The exponentially convergent trapezoidal rule", SIAM Review 56, 2014):
    by default with 129 points, to 1e-14.

    Args:
      x: positions in -1 … 1 (elsewhere it is the odd periodic continuation).
      t: times, 0 or later.

    Raises:
      ValueError: for negative ``t``, or ``nu`` not above 0.
    """
    x, t = np.broadcast_arrays(np.asarray(x, float), np.asarray(t, float))
    _require(np.all(t >= 0), "t must not be negative")
    _require(nu > 0, f"nu must be positive, got {nu}")
    strength, latest = 1 / (2 * np.pi * nu), np.max(t, initial=0)
    # What counts has travelled from y with |x - y| < t, as |u| < 1; beyond, it falls as Gaussians
    # do, and more than 6.5 away is less than 1e-18 of it.
    reach = np.sqrt(latest / (4 * nu)) + 6.5
    # The error is below 2 growth exp(-2 pi shift / spacing) of the whole if the integrand is
    # analytic and grows by no more than that on lines shifted by ±i shift. Of all lines the best:
    shift = np.linspace(0.01, 8, 800)
    angle = np.pi * np.sqrt(4 * nu * latest) * shift
    with np.errstate(over="ignore"):
        log_growth = shift**2 + strength * (np.cosh(angle) - 1) + angle
    spacing = 2 * np.pi / np.min((37 + log_growth) / shift)
    z = spacing * np.arange(-np.ceil(reach / spacing), np.ceil(reach / spacing) + 1)
    u = np.empty(x.size)
    for start in range(0, x.size, 4096):  # of a few MB each, however many points
        part = slice(start, start + 4096)
        y = x.flat[part][:, None] - np.sqrt(4 * nu * t.flat[part])[:, None] * z
        exponent = -(z**2) - strength * np.cos(np.pi * y)
        # f goes from exp(-50) to exp(50) at the default viscosity, and leaves 64 bits at smaller.
        density = np.exp(exponent - exponent.max(1, keepdims=True))
        u[part] = -np.sum(np.sin(np.pi * y) * density, 1) / density.sum(1)
    return u.reshape(x.shape)


def kovasznay(
    x: Float[np.ndarray, "*#n"], y: Float[np.ndarray, "*#n"], reynolds: float
) -> tuple[Float[np.ndarray, "*n"], Float[np.ndarray, "*n"], Float[np.ndarray, "*n"]]:
    """Steady flow behind a grid: velocities ``u, v`` and pressure ``p``.

    Of ``u u_x + v u_y + p_x = (u_xx + u_yy) / reynolds``, the same for ``v`` with ``p_y``, and
    ``u_x + v_y = 0`` (Kovasznay, "Laminar flow behind a two-dimensional grid", 1948)::

        u = 1 - exp(l x) cos(2 pi y)              p = (1 - exp(2 l x)) / 2
        v = l / (2 pi) exp(l x) sin(2 pi y)       l = reynolds / 2 - sqrt(reynolds^2 / 4 + 4 pi^2)

    The benchmarks take ``reynolds`` 20 to 40 and ``x`` from -0.5 to 1 (``u`` grows to the left), of
    ``y`` a period or two. The pressure is 0 at ``x = 0``; only its differences mean anything.

    Raises:
      ValueError: for a Reynolds number not above 0.
    """
    _require(reynolds > 0, f"the Reynolds number must be positive, got {reynolds}")
    x, y = np.broadcast_arrays(np.asarray(x, float), np.asarray(y, float))
    rate = kovasznay_rate(reynolds)
    decay = np.exp(rate * x)
    u = 1 - decay * np.cos(2 * np.pi * y)
    v = rate / (2 * np.pi) * decay * np.sin(2 * np.pi * y)
    return u, v, (1 - decay**2) / 2


def kovasznay_rate(reynolds: float) -> float:
    """``l`` of :func:`kovasznay`, without its difference of nearly equal numbers."""
    return -4 * np.pi**2 / (reynolds / 2 + math.sqrt(reynolds**2 / 4 + 4 * np.pi**2))


def etdrk4(
    linear: Inexact[np.ndarray, " m"],
    nonlinear: Callable[[Complex[np.ndarray, " m"]], Complex[np.ndarray, " m"]],
    u0: Inexact[np.ndarray, " m"],
    times: Float[np.ndarray, " nt"],
    steps: int | Int[np.ndarray, " nt-1"],
) -> Complex[np.ndarray, "nt m"]:
    """``du/dt = linear u + nonlinear(u)``, ``u(times[0]) = u0``, at all times; of fourth order.

    The linear part, diagonal, is solved exactly however stiff it is, the rest by a Runge–Kutta
    method (Cox & Matthews, "Exponential time differencing for stiff systems", J. Comput. Phys. 176,
    2002, eqs. 26–29). Its coefficients, differences of nearly equal numbers for small ``linear``
    times step, are means over circles in the complex plane (Kassam & Trefethen, "Fourth-order
    time-stepping for stiff PDEs", SIAM J. Sci. Comput. 26, 2005).

    Args:
      linear: the diagonal, real or complex.
      nonlinear: any function of ``u`` alone.
      times: increasing; the first is that of ``u0``.
      steps: how many equal steps from each time to the next, one number or one for each.

    Raises:
      ValueError: if times do not increase, or for fewer than 1 step.
      FloatingPointError: if the solution does not stay finite: the steps are too long.
    """
    times = np.asarray(times, float)
    _require(times.ndim == 1 and times.size > 0, f"times must be a list, got {times.shape}")
    _require(np.all(np.diff(times) > 0), "times must increase")
    steps = np.broadcast_to(steps, times.size - 1)
    _require(np.all(steps >= 1), "there must be 1 step or more from each time to the next")
    u = np.asarray(u0, complex)
    solution = [u]
    step = 0.0
    for length, count, end in zip(np.diff(times) / steps, steps, times[1:], strict=True):
        if not math.isclose(length, step, rel_tol=1e-12):  # as those of linspace are not equal
            step = length
            full, half, q, first, middle, last = _coefficients(linear, step)
        with np.errstate(over="ignore", invalid="ignore"):
            for _ in range(count):
                at_u = nonlinear(u)
                halfway = half * u
                a = halfway + q * at_u
                at_a = nonlinear(a)
                at_b = nonlinear(halfway + q * at_a)
                at_c = nonlinear(half * a + q * (2 * at_b - at_u))
                u = full * u + first * at_u + middle * (at_a + at_b) + last * at_c
        if not np.all(np.isfinite(u)):
            raise FloatingPointError(f"no finite solution at t = {end:g}: take shorter steps")
        solution.append(u)
    return np.stack(solution)


def _coefficients(linear: Inexact[np.ndarray, " m"], step: float) -> list[np.ndarray]:
    # At 32 points of a circle of radius 1 around each linear * step. None is at angle 0, or
    # linear * step = -1 would divide by 0.
    circle = np.exp(2j * np.pi * (np.arange(32) + 0.5) / 32)
    linear = step * np.asarray(linear)
    z = linear[:, None] + circle
    e = np.exp(z)
    means = [
        (np.exp(z / 2) - 1) / z,
        (-4 - z + e * (4 - 3 * z + z**2)) / z**3,
        2 * (2 + z + e * (z - 2)) / z**3,
        (-4 - 3 * z - z**2 + e * (4 - z)) / z**3,
    ]
    return [np.exp(linear), np.exp(linear / 2)] + [step * np.mean(mean, 1) for mean in means]


def fourier_sum(
    coefficients: Complex[np.ndarray, "*n m"], x: Float[np.ndarray, " nx"]
) -> Float[np.ndarray, "*n nx"]:
    """``c_0 + 2 Re sum_k c_k exp(i pi k x)``: real functions of period 2 at any points."""
    waves = np.exp(1j * np.pi * np.outer(np.arange(np.shape(coefficients)[-1]), x))
    return 2 * (coefficients @ waves).real - coefficients[..., :1].real


def korteweg_de_vries(
    x: Float[np.ndarray, " nx"],
    t: Float[np.ndarray, " nt"],
    eta: float = 1.0,
    mu: float = 0.022,
    modes: int = 192,
    step: float = 8e-5,
) -> Float[np.ndarray, "nt nx"]:
    """``u_t + eta u u_x + mu^2 u_xxx = 0``, ``u(x, 0) = cos(pi x)``, of period 2 in ``x``.

    The wave steepens and breaks into a train of solitons (Zabusky & Kruskal, Phys. Rev. Lett. 15,
    1965; a benchmark of Wang, Li, Chen & Perdikaris, "PirateNets", JMLR 25, 2024, with ``x`` in
    -1 … 1 and ``t`` in 0 … 1). Solved by :func:`etdrk4`, products without aliasing. At the default
    settings the largest error up to ``t = 1`` is 4e-10, of the time step (the modes' is below
    1e-14), in some 2 seconds of one core; steps of 2e-4 are faster and good to 2e-8. For other
    ``eta`` and ``mu`` see what half the step and twice the modes change.

    Args:
      x: any points; the series is evaluated there.
      t: increasing times, 0 or later.
      modes: of the Fourier series.
      step: the longest time step.

    Raises:
      ValueError: if times are negative or do not increase, or the modes do not suffice.
      FloatingPointError: if the step is too long.
    """
    k = np.pi * np.arange(modes)

    def nonlinear(c):
        return -0.5j * eta * k * _power(c, 2)

    c = np.zeros(modes, complex)
    c[1] = 0.5
    return fourier_sum(_solve(1j * mu**2 * k**3, nonlinear, c, t, step), x)


def allen_cahn(
    x: Float[np.ndarray, " nx"],
    t: Float[np.ndarray, " nt"],
    diffusion: float = 1e-4,
    rate: float = 5.0,
    modes: int = 2048,
    step: float = 1e-3,
) -> Float[np.ndarray, "nt nx"]:
    """``u_t = diffusion u_xx + rate (u - u^3)``, ``u(x, 0) = x^2 cos(pi x)``, of period 2 in ``x``.

    A benchmark of physics-informed networks since Raissi, Perdikaris & Karniadakis (J. Comput.
    Phys. 378, 2019), with ``x`` in -1 … 1 and ``t`` in 0 … 1. Solved by :func:`etdrk4`, products
    without aliasing.

    Its slope at the start jumps from -2 to 2 where the period closes, at ``x = ±1``, and so the
    Fourier coefficients (here in closed form, not of samples) fall only as ``2 / (pi k)^2``. Until
    diffusion has rounded the kink the missing modes cost up to ``0.4 / modes exp(-diffusion
    (pi modes)^2 t)`` there. At the default settings this is 2e-4 just after the start, and all
    missing modes cost 7e-12 from ``t = 0.005``, the first time of the usual grid of 201. What is
    left is of the time step, 2e-10 at that time and 2e-11 later; a second of one core in all. At
    ``t = 0`` the formula itself is returned.

    Args:
      x: any points; the series is evaluated there, in memory for ``modes`` times ``nx`` numbers.
      t: increasing times, 0 or later.
      modes: of the Fourier series.
      step: the longest time step.

    Raises:
      ValueError: if times are negative or do not increase, or the modes do not suffice at the last.
      FloatingPointError: if the step is too long.
    """
    k = np.pi * np.arange(modes)

    def nonlinear(c):
        return -rate * _power(c, 3)

    # cos(pi x) moves the coefficients of x^2, (1/3, then 2 (-1)^k / (pi k)^2), by one both ways.
    n = np.arange(1, modes + 1)
    square = np.concatenate([[1 / 3], 2 * (-1.0) ** n / (np.pi * n) ** 2])
    c = 0.5 * (square[np.abs(np.arange(modes) - 1)] + square[1:])
    u = fourier_sum(_solve(rate - diffusion * k**2, nonlinear, c, t, step), x)
    x = np.asarray(x) - 2 * np.round(np.asarray(x) / 2)
    u[np.asarray(t) == 0] = x**2 * np.cos(np.pi * x)
    return u


def _power(c: Complex[np.ndarray, " m"], degree: int) -> Complex[np.ndarray, " m"]:
    """The coefficients of ``u^degree``, on a grid fine enough that none falls on another."""
    u = np.fft.irfft(c, (degree + 1) * len(c), norm="forward")
    power = math.prod([u] * degree)  # many times faster than u**3
    return np.fft.rfft(power, norm="forward")[: len(c)]


def _solve(linear, nonlinear, u0, t, step):
    """:func:`etdrk4` from time 0 to times ``t`` in steps no longer than ``step``."""
    t = np.asarray(t, float)
    _require(t.ndim == 1 and t.size > 0, f"t must be a list of times, got {t.shape}")
    _require(np.all((t >= 0) & np.isfinite(t)), "t must be finite, 0 or later")
    _require(step > 0, f"the step must be positive, got {step}")
    times = t if t[0] == 0 else np.concatenate([[0.0], t])
    steps = np.ceil(np.diff(times) / step - 1e-6).astype(int)  # 0.01 / 1e-4 is 100, not a bit more
    steps = np.maximum(steps, 1)
    solution = etdrk4(linear, nonlinear, u0, times, steps)
    # Steeper than the series can follow: what is found then is smooth, finite and wrong.
    unresolved = len(times) > 1 and np.max(np.abs(solution[-1, -4:])) > 1e-10
    _require(not unresolved, f"{len(linear)} modes do not resolve the solution: take more")
    return solution[-len(t) :]


def _require(condition: bool | np.bool_, message: str) -> None:
    if not condition:
        raise ValueError(message)
