"""References against other methods: other formulas and integrators, published numbers, the laws."""

import functools
import itertools
import math

import numpy as np
import pytest
import scipy.fftpack
import scipy.integrate

from jaxdl.pinn import references as ref

# Central differences of eighth order, from values at 0, ±h, … ±4 h in the first axis.
FIRST = np.array([1 / 280, -4 / 105, 1 / 5, -4 / 5, 0, 4 / 5, -1 / 5, 4 / 105, -1 / 280])
SECOND = np.array([-1 / 560, 8 / 315, -1 / 5, 8 / 5, -205 / 72, 8 / 5, -1 / 5, 8 / 315, -1 / 560])
STENCIL = np.arange(-4.0, 5.0)

# NumPy's own would take a relative error of 1e-7 as well.
close = functools.partial(np.testing.assert_allclose, rtol=0)


def derivative(f, at, order, h):
    values = np.stack([f(at + j * h) for j in STENCIL])
    return np.tensordot({1: FIRST, 2: SECOND}[order], values, 1) / h**order


def grid(n):
    return 2 * np.arange(n) / n - 1


def random_points(*lows_and_highs):
    rng = np.random.default_rng(0)
    return [rng.uniform(*ends, 200) for ends in lows_and_highs]


# The heat equation.


def test_heat_is_what_the_fourier_series_of_the_bell_becomes():
    k, (x,) = 0.05, random_points((-3, 3))
    c = np.fft.rfft(np.exp(-((grid(256) / 0.1) ** 2)), norm="forward")
    c = c * (-1.0) ** np.arange(129)  # the grid starts at -1
    for t in (0.0, 0.003, 0.2, 1.0, 20.0, 1e4):
        spread = c * np.exp(-k * (np.pi * np.arange(129)) ** 2 * t)
        u = ref.heat_images(x, np.array(t), k)
        close(u, ref.fourier_sum(spread, x), atol=2e-15)


def test_heat_of_another_width_and_period():
    x, t, k = np.linspace(-1.5, 4.5, 25), np.array([[0.0], [0.1], [7.0]]), 0.3
    u = ref.heat_images(x, t, k, width=0.4, period=3.0)
    assert u.shape == (3, 25)
    close(u, ref.heat_images(x - 3, t, k, width=0.4, period=3.0), atol=1e-15)
    close(u[0, 4:9], np.exp(-((x[4:9] / 0.4) ** 2)), atol=1e-15)
    mean = 0.4 * math.sqrt(math.pi) / 3  # heat is conserved
    np.testing.assert_allclose(u[:, :-1].reshape(3, 2, 12).mean((1, 2)), mean, rtol=1e-10)
    np.testing.assert_allclose(u[2], mean, rtol=1e-3)
    alone = ref.heat_images(x, t, k, width=0.4, period=3.0, images=0)
    assert np.max(np.abs(alone - u)) > 0.1
    many = ref.heat_images(x, t, k, width=0.4, period=3.0, images=50)
    close(u, many, atol=1e-15)


# Burgers' equation.


def by_quadrature(x, t, nu):
    """Cole–Hopf once more, the integrals over y by Gauss and Legendre's rule."""
    nodes, weights = np.polynomial.legendre.leggauss(400)
    y = x[:, None] + (t + 7 * math.sqrt(4 * nu * t)) * nodes
    exponent = -((x[:, None] - y) ** 2) / (4 * nu * t) - np.cos(np.pi * y) / (2 * np.pi * nu)
    density = weights * np.exp(exponent - exponent.max(1, keepdims=True))
    return -np.sum(np.sin(np.pi * y) * density, 1) / density.sum(1)


@pytest.mark.parametrize(
    "nu, t", [(7e-4, 1.0), (0.01 / math.pi, 0.7), (0.01, 0.3), (0.05, 1e-3), (0.2, 1.0), (3.0, 0.2)]
)
def test_burgers_at_any_viscosity(nu, t):
    x = np.array([-0.8, -0.02, 0.001, 0.3])
    close(ref.burgers_cole_hopf(x, np.array(t), nu), by_quadrature(x, t, nu), atol=1e-13)


def test_burgers_to_the_last_digits():
    # theta as its Fourier series, of modified Bessel functions, with mpmath at 80 digits.
    exact = np.array(
        [
            (0.5, 0.001, -0.99996365059257272),
            (0.01, 0.1, -0.045479993270445651),
            (0.3, 0.3, -0.95583244557564837),
            (0.001, 0.5, -0.15063581540133581),
            (0.003, 0.5, -0.4255164773161263),
            (0.01, 0.5, -0.89804964225282787),
            (0.7, 0.75, -0.2790648888880337),
            (0.01, 1, -0.59425616758872771),
            (0.002, 1, -0.16499095991096964),
            (0.999, 1, -0.00075714134937832026),
        ]
    )
    x, t, u = exact.T
    close(ref.burgers_cole_hopf(x, t), u, atol=2e-14)


def test_burgers_has_the_published_slope():
    # Basdevant et al. 1986, table 1: 152.00516 at pi t = 1.6037, where it is the steepest.
    def slope(pi_t):
        t = np.array(pi_t / np.pi)
        return -derivative(lambda x: ref.burgers_cole_hopf(x, t), np.array(0.0), 1, 2e-4)

    assert slope(1.6037) == pytest.approx(152.00516, abs=1e-5)
    assert slope(1.6037) > max(slope(1.58), slope(1.63))


def test_burgers_at_its_start_and_its_ends():
    x, t = np.linspace(-1, 1, 41), np.linspace(0, 1, 150)[:, None]
    u = ref.burgers_cole_hopf(x, t)  # more points than go at once
    assert u.shape == (150, 41)
    close(u[0], -np.sin(np.pi * x), atol=1e-15)
    close(u[:, [0, 20, -1]], 0, atol=1e-14)
    close(u, -u[:, ::-1], atol=1e-14)
    close(ref.burgers_cole_hopf(x, np.array(1e-9)), u[0], atol=1e-8)
    close(ref.burgers_cole_hopf(x, t[77]), u[77], atol=1e-14)


def test_burgers_obeys_the_equation():
    nu, (x, t) = 0.01 / math.pi, random_points((-1, 1), (0.05, 1))
    x[:50] *= 0.02  # within the shock
    u = ref.burgers_cole_hopf(x, t)
    u_t = derivative(lambda t: ref.burgers_cole_hopf(x, t), t, 1, 1e-3)
    u_x, u_xx = (derivative(lambda x: ref.burgers_cole_hopf(x, t), x, i, 2e-4) for i in (1, 2))
    assert np.max(np.abs(u * u_x)) > 50
    close(u_t + u * u_x, nu * u_xx, atol=1e-7)


# Flows.


@pytest.mark.parametrize("reynolds", [1.0, 40.0, 1e6])
def test_kovasznay_obeys_the_equations(reynolds):
    x, y = random_points((-0.5, 1), (-0.5, 1.5))
    u, v, _ = ref.kovasznay(x, y, reynolds)
    (ux, vx, px), (uy, vy, py) = (
        derivative(lambda x: np.array(ref.kovasznay(x, y, reynolds)), x, 1, 4e-3),
        derivative(lambda y: np.array(ref.kovasznay(x, y, reynolds)), y, 1, 4e-3),
    )
    uxx, vxx, _ = derivative(lambda x: np.array(ref.kovasznay(x, y, reynolds)), x, 2, 4e-3)
    uyy, vyy, _ = derivative(lambda y: np.array(ref.kovasznay(x, y, reynolds)), y, 2, 4e-3)
    scale = np.max(np.abs(uxx + uyy)) / reynolds + 1
    close(u * ux + v * uy + px, (uxx + uyy) / reynolds, atol=1e-9 * scale)
    close(u * vx + v * vy + py, (vxx + vyy) / reynolds, atol=1e-9 * scale)
    close(ux + vy, 0, atol=1e-9 * scale)
    assert np.all(np.diff(ref.kovasznay(np.linspace(0, 1, 5), np.zeros(5), reynolds)[0]) > 0)


def test_kovasznay_by_hand():
    # Reynolds number 40: l = 20 - sqrt(400 + 4 pi^2).
    rate = 20 - math.sqrt(400 + 4 * math.pi**2)
    u, v, p = ref.kovasznay(np.array([0.0, 1.0]), np.array([[0.0], [0.25]]), 40)
    close(u, [[0, 1 - math.exp(rate)], [1, 1]], atol=1e-13)
    shed = rate / (2 * math.pi)
    close(v, [[0, 0], [shed, shed * math.exp(rate)]], atol=1e-13)
    close(p, [[0, (1 - math.exp(2 * rate)) / 2]] * 2, atol=1e-13)


# Exponential time differencing.

RATES = np.array([-300, -5, -1e-6, 0, 0.5, 2j, -1 + 40j])


def bernoulli(t):
    """``u' = c u + 2 u^2``, ``u(0) = 0.3``: ``1 / u`` obeys a linear equation."""
    c = np.where(RATES == 0, 1.0, RATES)
    grown = np.where(RATES == 0, t, np.expm1(c * t) / c)
    return 0.3 * np.exp(RATES * t) / (1 - 0.6 * grown)


def test_etdrk4_is_of_fourth_order_for_linear_parts_of_any_size():
    times = np.array([0.5, 0.8, 1.5])
    errors = []
    for steps in (20, 40, 80):
        u = ref.etdrk4(RATES, lambda u: 2 * u**2, np.full(7, 0.3), times, steps)
        errors.append(np.abs(u - [bernoulli(t - 0.5) for t in times]).max(0))
    assert np.all(errors[2] < 2e-7)
    assert errors[0][0] < 1e-30  # nothing is left of this one, whatever the step
    for whole, half in itertools.pairwise(errors):
        close(np.log2(whole / half)[1:], 4, atol=0.15)


def test_etdrk4_solves_linear_equations_in_one_step():
    u = ref.etdrk4(RATES, lambda u: 0 * u, np.ones(7), np.array([0.0, 2.0, 2.5]), 1)
    np.testing.assert_allclose(u[1:], np.exp(np.outer([2.0, 2.5], RATES)), rtol=1e-12)
    assert np.array_equal(u[0], np.ones(7))


def test_etdrk4_without_a_linear_part_is_the_classical_method():
    def f(u):
        return 1j * u * u[::-1] - u**3

    u = u0 = np.array([0.3 + 0.2j, -0.8])
    h = 0.1
    for _ in range(5):
        a = f(u)
        b = f(u + h / 2 * a)
        c = f(u + h / 2 * b)
        u = u + h / 6 * (a + 2 * b + 2 * c + f(u + h * c))
    solution = ref.etdrk4(np.zeros(2), f, u0, np.array([0.0, 0.2, 0.5]), np.array([2, 3]))
    np.testing.assert_allclose(solution[-1], u, rtol=1e-13)


def test_etdrk4_finds_the_solution_of_cole_and_hopf():
    nu, k = 0.01 / math.pi, np.pi * np.arange(1024)

    def nonlinear(c):
        u = np.fft.irfft(c, 3072, norm="forward")
        return -0.5j * k * np.fft.rfft(u * u, norm="forward")[:1024]

    c = np.zeros(1024, complex)
    c[1] = 0.5j  # -sin(pi x)
    t = np.array([0.0, 0.3, 0.6])
    (x,) = random_points((-1, 1))
    x[:100] *= 0.02
    u = ref.fourier_sum(ref.etdrk4(-nu * k**2, nonlinear, c, t, 600), x)
    close(u, ref.burgers_cole_hopf(x, t[:, None]), atol=1e-8)


def test_etdrk4_transports_a_soliton():
    # u_t + u u_x + mu^2 u_xxx = 0: height 2 means speed 2/3; at t = 3 it is back.
    mu, k = 0.05, np.pi * np.arange(96)

    def nonlinear(c):
        u = np.fft.irfft(c, 288, norm="forward")
        return -0.5j * k * np.fft.rfft(u * u, norm="forward")[:96]

    def soliton(x):
        x = (x + 1) % 2 - 1
        return 2 / np.cosh(math.sqrt(2 / 12) / mu * x) ** 2

    c = np.fft.rfft(soliton(2 * np.arange(288) / 288), norm="forward")[:96]
    t, (x,) = np.array([0.0, 0.4, 3.0]), random_points((-1, 1))
    u = ref.fourier_sum(ref.etdrk4(1j * mu**2 * k**3, nonlinear, c, t, 2000), x)
    close(u, soliton(x - 2 / 3 * t[:, None]), atol=2e-6)


def test_fourier_sum_is_the_series_at_any_point():
    x, k = np.linspace(-2, 2, 9), np.pi
    c = np.array([[0.7, 0.5, 0, -0.25j], [0, 0, 0.5j, 0]])
    expected = [0.7 + np.cos(k * x) + 0.5 * np.sin(3 * k * x), -np.sin(2 * k * x)]
    close(ref.fourier_sum(c, x), expected, atol=1e-14)
    close(ref.fourier_sum(c[0], x), expected[0], atol=1e-14)


# Korteweg–de Vries.


@pytest.fixture(scope="module")
def kdv():
    """Times 0, 0.3 and a stencil around 0.7, and the benchmark then, on a grid."""
    t = np.array([0.0, 0.3, *(0.7 + 1e-3 * STENCIL)])
    return t, ref.korteweg_de_vries(grid(768), t, step=2e-4)


def test_kdv_obeys_the_equation(kdv):
    _, u = kdv
    close(u[0], np.cos(np.pi * grid(768)), atol=1e-14)
    u_t, u = np.tensordot(FIRST, u[2:], 1) / 1e-3, u[6]
    u_x, u_xxx = (scipy.fftpack.diff(u, order, period=2) for order in (1, 3))
    assert np.max(np.abs(u * u_x)) > 20
    close(u_t, -u * u_x - 0.022**2 * u_xxx, atol=1e-4)


def test_kdv_conserves_mass_momentum_and_energy(kdv):
    _, u = kdv
    u_x = np.array([scipy.fftpack.diff(row, period=2) for row in u])
    energy = np.mean(u**3 / 6 - 0.022**2 * u_x**2 / 2, -1)
    close(u.mean(-1), 0, atol=1e-14)
    np.testing.assert_allclose(np.mean(u**2, -1), 0.5, rtol=1e-8)
    close(energy, -(0.022**2) * np.pi**2 / 4, atol=1e-10)


def test_kdv_is_solved_to_the_accuracy_that_is_said(kdv):
    t, u = kdv
    # At 5 times the default step the error is 5^4 times as large.
    coarse = ref.korteweg_de_vries(grid(768), t[[0, 1, 6]], step=4e-4)
    fewer = ref.korteweg_de_vries(grid(768), t[[0, 1, 6]], step=4e-4, modes=160)
    difference = np.max(np.abs(coarse - u[[0, 1, 6]]))
    assert 1e-7 < difference < 2e-7
    assert np.max(np.abs(coarse - fewer)) < 1e-10


def test_kdv_against_another_integrator():
    # In physical space, the equation as written, without de-aliasing, by an explicit method.
    mu, x = 0.15, grid(64)

    def right_hand_side(t, u):
        u_x, u_xxx = (scipy.fftpack.diff(u, order, period=2) for order in (1, 3))
        return -0.7 * u * u_x - mu**2 * u_xxx

    t = np.array([0.1, 0.25])
    expected = scipy.integrate.solve_ivp(
        right_hand_side, (0, 0.25), np.cos(np.pi * x), "DOP853", t, rtol=1e-10, atol=1e-11
    ).y.T
    u = ref.korteweg_de_vries(x, t, eta=0.7, mu=mu, modes=32, step=1e-3)
    assert np.max(np.abs(u - np.cos(np.pi * x))) > 0.3
    close(u, expected, atol=1e-9)


# Allen–Cahn.


def test_allen_cahn_against_a_method_without_fourier_series():
    # Even about 0 and 1, it is a problem on 0 … 1 without flux: Chebyshev points, implicit steps.
    diffusion, n = 1e-2, 120
    x = (1 + np.cos(np.pi * np.arange(n + 1) / n)) / 2
    weight = np.where((np.arange(n + 1) % n) == 0, 2.0, 1.0) * (-1.0) ** np.arange(n + 1)
    d = np.outer(weight, 1 / weight) / (x[:, None] - x + np.eye(n + 1))
    d -= np.diag(d.sum(1))
    ends, inner = [0, n], slice(1, n)
    to_all = np.zeros((n + 1, n - 1))
    to_all[inner] = np.eye(n - 1)
    to_all[ends] = -np.linalg.solve(d[np.ix_(ends, ends)], d[ends, inner])
    second = (d @ d @ to_all)[inner]

    def right_hand_side(t, u):
        return diffusion * second @ u + 5 * u - 5 * u**3

    def jacobian(t, u):
        return diffusion * second + np.diag(5 - 15 * u**2)

    t, u0 = np.array([0.1, 0.4, 0.8]), x**2 * np.cos(np.pi * x)
    expected = scipy.integrate.solve_ivp(
        right_hand_side, (0, 0.8), u0[inner], "Radau", t, rtol=1e-8, atol=1e-10, jac=jacobian
    )
    u = ref.allen_cahn(x, t, diffusion=diffusion, modes=512)
    close(u, (to_all @ expected.y).T, atol=1e-8)


def test_allen_cahn_obeys_the_equation():
    h = 2e-3
    t = 0.9 + h * STENCIL
    (x,) = random_points((-1, 1))
    x[:100] = 0.5 + 0.05 * x[:100]  # where it changes sign
    points = np.concatenate([x + j * 5e-4 for j in STENCIL])
    u = ref.allen_cahn(points, t, modes=1024).reshape(9, 9, -1)
    u_t, u_xx = np.tensordot(FIRST, u[:, 4], 1) / h, np.tensordot(SECOND, u[4], 1) / 5e-4**2
    u = u[4, 4]
    assert np.max(np.abs(1e-4 * u_xx)) > 0.2
    close(u_t, 1e-4 * u_xx + 5 * u - 5 * u**3, atol=1e-8)


def test_allen_cahn_is_solved_to_the_accuracy_that_is_said():
    x, t = np.linspace(-1, 1, 101), np.array([0.0, 0.005, 0.02, 0.1])
    u = ref.allen_cahn(x, t)
    np.testing.assert_array_equal(u[0], x**2 * np.cos(np.pi * x))
    close(u, u[:, ::-1], atol=1e-13)
    close(ref.allen_cahn(x + 2, t), u, atol=1e-12)
    close(ref.allen_cahn(x, t, step=5e-4), u, atol=2e-10)
    close(ref.allen_cahn(x, t, modes=3072), u, atol=1e-11)
    # The kink where the period closes is what costs modes.
    few = np.abs(ref.allen_cahn(x, t, modes=512) - u)
    assert few[1].max() == pytest.approx(few[1, 0], rel=1e-6)
    assert 2e-5 < few[1, 0] < 2e-4
    assert few[3].max() < 1e-8
    sides = ref.allen_cahn(1 + 1e-3 * STENCIL, t[3:])
    assert np.max(np.abs(FIRST @ sides[0])) < 1e-9


# Wrong input.


@pytest.mark.parametrize(
    "match, call",
    [
        ("t must not be negative", lambda x: ref.heat_images(x, -x, 1.0)),
        ("t must not be negative", lambda x: ref.heat_images(x, np.nan * x, 1.0)),
        ("k must not be negative, got -1", lambda x: ref.heat_images(x, x, -1.0)),
        ("width and period must be positive", lambda x: ref.heat_images(x, x, 1.0, width=0.0)),
        ("images must not be negative", lambda x: ref.heat_images(x, x, 1.0, images=-1)),
        ("t must not be negative", lambda x: ref.burgers_cole_hopf(x, -x)),
        ("nu must be positive, got 0", lambda x: ref.burgers_cole_hopf(x, x, 0)),
        ("Reynolds number must be positive", lambda x: ref.kovasznay(x, x, -20)),
        ("0 or later", lambda x: ref.korteweg_de_vries(x, x - 1)),
        ("list of times", lambda x: ref.korteweg_de_vries(x, np.array(1.0))),
        ("list of times", lambda x: ref.allen_cahn(x, x[:0])),
        ("must be finite", lambda x: ref.allen_cahn(x, np.array([0, np.nan]))),
        ("times must increase", lambda x: ref.allen_cahn(x, x[::-1])),
        ("step must be positive", lambda x: ref.allen_cahn(x, x, step=0)),
        ("40 modes do not resolve", lambda x: ref.korteweg_de_vries(x, x, modes=40, step=1e-3)),
        ("99 modes do not resolve", lambda x: ref.allen_cahn(x, x, modes=99, step=0.01)),
        ("times must increase", lambda x: ref.etdrk4(x, np.square, x, [0, 1, 1], 1)),
        ("times must be a list", lambda x: ref.etdrk4(x, np.square, x, [], 1)),
        ("1 step or more", lambda x: ref.etdrk4(x, np.square, x, [0, 1], 0)),
    ],
)
@pytest.mark.usefixtures("types_unchecked")
def test_wrong_input(match, call):
    with pytest.raises(ValueError, match=match):
        call(np.array([0.1, 0.5]))


def test_steps_too_long_are_told():
    with pytest.raises(FloatingPointError, match=r"at t = 60: take shorter steps"):
        ref.etdrk4(np.zeros(1), lambda u: -(u**3), np.ones(1), np.array([0.0, 60.0]), 6)
