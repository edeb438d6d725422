"""Quasi-Newton against textbook formulas in NumPy, of H and of its inverse, and SciPy's BFGS."""

import contextlib
import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdl.optim import (
    restart,
    scale_by_ssbfgs,
    scale_by_ssbroyden,
    ssbfgs,
    ssbroyden,
    wolfe_searched,
)
from jaxdl.optim.quasi_newton import inverse_update, ssbfgs_scaling, ssbroyden_scaling

METHODS = {"ssbfgs": ssbfgs, "ssbroyden": ssbroyden}
SCALE_BY = {"ssbfgs": scale_by_ssbfgs(), "ssbroyden": scale_by_ssbroyden()}
SCALINGS = {"ssbfgs": ssbfgs_scaling, "ssbroyden": ssbroyden_scaling}
SEEDS = st.integers(0, 2**32 - 1)


@pytest.fixture(autouse=True, scope="module")
def x64():
    with jax.enable_x64(True):
        yield


# What is minimized.


def rosenbrock(x):
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def rosenbrock_start(n):
    return np.full(n, -0.5)  # from (-1.2, 1, …) BFGS comes to a local minimum in ten dimensions


def ill_conditioned(x):
    """Curvatures from 1e-4 to 1 in directions that no coordinate has."""
    n = x.size
    q, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(n, n)))
    return 0.5 * jnp.sum(jnp.logspace(-4, 0, n) * (q.T @ x) ** 2)


def minimized(tx, f, x, steps, state=None):
    """Parameters, values and rates of all steps, and the last state."""

    def step(carry, _):
        x, state = carry
        updates, state = tx.update(None, state, x, value_fn=f)
        x = optax.apply_updates(x, updates)
        return (x, state), (x, state.value, state.learning_rate)

    state = tx.init(x) if state is None else state
    (_, state), seen = jax.lax.scan(step, (x, state), length=1 + steps)
    return *jax.tree.map(lambda leaf: leaf[1:], seen), state  # the first update only looks


@functools.cache
def solved(method, f, n):
    """150 steps; one program for all tests of these."""
    run = jax.jit(lambda x: minimized(METHODS[method](), f, x, 150))
    return jax.device_get(run(jnp.asarray(rosenbrock_start(n))))


# The family in terms of B, the Hessian, where theta replaces phi and the curvature of H is solved.


def literal_scaling(method, b, h, n):
    """tau and theta as Urbán et al. write them."""
    if method == "ssbfgs":
        return min(1, 1 / b), 0.0
    a = b * h - 1
    c = np.sqrt(a / (a + 1))
    rho = min(1, h * (1 - c))
    theta = max((rho - 1) / a, min(1 / rho, (1 - b) / b))
    sigma, tau = 1 + theta * a, min(1, 1 / b)
    power = sigma ** (-1 / (n - 1))
    if theta > 0:
        return tau * min(power, 1 / theta), theta
    return min(tau * power, sigma), theta


def hessian_update(B, s, y, tau, theta):
    ys, Bs = y @ s, B @ s
    w = y / ys - Bs / (s @ Bs)
    rest = B - np.outer(Bs, Bs) / (s @ Bs) + theta * (s @ Bs) * np.outer(w, w)
    return tau * rest + np.outer(y, y) / ys


def by_hand(method, f, x, rates):
    """Steps of given lengths. No H, and no shortcut by way of the last direction."""
    gradient = jax.jit(jax.grad(f))
    g, seen = np.asarray(gradient(x)), []
    B = np.linalg.norm(g) * np.eye(x.size)
    for k, rate in enumerate(rates):
        s = -rate * np.linalg.solve(B, g)
        x = x + s
        y = np.asarray(gradient(x)) - g
        g = g + y
        ys, yHy = y @ s, y @ np.linalg.solve(B, y)
        if k == 0:
            B, yHy = B * yHy / ys, ys
        tau, theta = literal_scaling(method, s @ B @ s / ys, yHy / ys, x.size)
        B = hessian_update(B, s, y, tau, theta)
        seen.append(x)
    return np.stack(seen)


def drawn(seed, n):
    """An inverse Hessian, a step and a change of the gradient with positive curvature."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(n, n))
    H = root @ root.T + 0.1 * np.eye(n)
    s, y = rng.normal(size=(2, n))
    return H, s, y if y @ s > 0 else -y


def updated(H, s, y, tau, phi):
    return np.asarray(jax.jit(inverse_update)(H, H @ y, s, y, tau, phi))


# One update.


@given(
    b=st.floats(-4, 4).map(lambda e: 10**e),
    a=st.floats(-3, 4).map(lambda e: 10**e),
    n=st.integers(2, 1000),
)
def test_scalings_are_the_papers_and_keep_what_is_positive(b, a, n):
    h = (1 + a) / b
    for method, scaling in SCALINGS.items():
        tau, phi = map(float, scaling(jnp.asarray(b), jnp.asarray(h), n))
        expected, theta = literal_scaling(method, b, h, n)
        np.testing.assert_allclose(tau, expected, rtol=1e-6)
        np.testing.assert_allclose(phi, (1 - theta) / (1 + a * theta), rtol=1e-6, atol=1e-9)
        assert 0 < tau <= 1
        assert 1 + a * phi > 0


@pytest.mark.parametrize("method", SCALINGS)
@pytest.mark.parametrize("b", [1e-6, 0.5, 1.0, 2.0, 1e6])
@pytest.mark.parametrize("excess", [-1e-15, 0.0, 1e-15, 1e-10, 1e12])
def test_scalings_are_finite_at_the_ends(method, b, excess):
    """bh is 1 where the step is along Hy, and rounding makes less than 1 of it."""
    tau, phi = SCALINGS[method](jnp.asarray(b), jnp.asarray((1 + excess) / b), 1)
    assert 0 < tau <= 1
    assert np.isfinite(phi)


@settings(max_examples=30)
@given(seed=SEEDS, n=st.sampled_from([2, 5, 12]), method=st.sampled_from(list(SCALINGS)))
def test_updates_keep_the_secant_equation_symmetry_and_definiteness(seed, n, method):
    H, s, y = drawn(seed, n)
    H = (H + H.T) / 2
    ys = y @ s
    b, h = s @ np.linalg.solve(H, s) / ys, y @ H @ y / ys
    tau, phi = map(float, SCALINGS[method](jnp.asarray(b), jnp.asarray(h), n))
    new = updated(H, s, y, tau, phi)
    scale = np.linalg.norm(new) * np.linalg.norm(y)
    np.testing.assert_allclose(new @ y, s, atol=1e-12 * scale)
    np.testing.assert_array_equal(new, new.T)
    assert np.linalg.eigvalsh(new).min() > 0


@settings(max_examples=20)
@given(seed=SEEDS)
def test_two_members_of_the_family_are_the_textbooks(seed):
    """Nocedal & Wright, Numerical Optimization, equations 6.17 (BFGS) and 6.15 (DFP)."""
    H, s, y = drawn(seed, 5)
    ys, Hy = y @ s, H @ y
    left = np.eye(5) - np.outer(s, y) / ys
    bfgs = left @ H @ left.T + np.outer(s, s) / ys
    dfp = H - np.outer(Hy, Hy) / (y @ Hy) + np.outer(s, s) / ys
    for phi, expected in ((1.0, bfgs), (0.0, dfp)):
        new = updated(H, s, y, 1.0, phi)
        np.testing.assert_allclose(new, expected, atol=1e-10 * np.abs(expected).max())


@settings(max_examples=20)
@given(seed=SEEDS, tau=st.floats(0.1, 1), theta=st.floats(-0.1, 3))
def test_the_update_is_the_inverse_of_the_hessians(seed, tau, theta):
    H, s, y = drawn(seed, 5)
    B = np.linalg.inv(H)
    a = (s @ B @ s) * (y @ H @ y) / (y @ s) ** 2 - 1
    if 1 + a * theta < 1e-2:
        theta = -theta
    new = updated(H, s, y, tau, (1 - theta) / (1 + a * theta))
    product = new @ hessian_update(B, s, y, tau, theta)
    np.testing.assert_allclose(product, np.eye(5), atol=1e-9 * np.linalg.cond(new))


# Whole runs.


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n", [2, 10])
def test_iterates_are_those_of_a_loop_over_the_hessian(method, n):
    xs, _, rates, _ = solved(method, rosenbrock, n)
    steps = 15  # rounding grows as the runs go on
    expected = by_hand(method, rosenbrock, rosenbrock_start(n), rates[:steps])
    np.testing.assert_allclose(xs[:steps], expected, rtol=1e-7, atol=1e-7)


def iterations(values, goal):
    """How many steps until a value is reached."""
    assert values.min() < goal, f"only {values.min():.1e} in {len(values)} steps"
    return int(np.argmax(values < goal)) + 1


def by_scipy(f, x, goal):
    """Iterations of SciPy's BFGS until the same value."""
    values, value_and_grad = [], jax.jit(jax.value_and_grad(f))
    scipy.optimize.minimize(
        lambda x: tuple(map(np.asarray, value_and_grad(x))),
        x,
        jac=True,
        method="BFGS",
        options={"gtol": 1e-9, "maxiter": 1000},
        callback=lambda intermediate_result: values.append(intermediate_result.fun),
    )
    return iterations(np.asarray(values), goal)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("f", "n"), [(rosenbrock, 2), (rosenbrock, 10), (ill_conditioned, 30)])
def test_converges_in_about_as_many_iterations_as_bfgs(method, f, n):
    _, values, _, state = solved(method, f, n)
    ours, theirs = iterations(values, 1e-14), by_scipy(f, rosenbrock_start(n), 1e-14)
    assert ours <= 1.5 * theirs
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.rule))
    assert np.linalg.eigvalsh(state.rule.inverse_hessian).min() > 0


# Evaluations, not iterations.


def quadratic(x, root):
    return 0.5 * jnp.sum((root @ x) ** 2)


def drawn_quadratic(seed, n, scale):
    """A start, and a root of a Hessian of eigenvalues ``scale`` times 1e-8 to 1."""
    rng = np.random.default_rng(seed)
    q, _ = np.linalg.qr(rng.normal(size=(n, n)))
    return rng.normal(size=n), np.sqrt(scale * np.logspace(-8, 0, n))[:, None] * q.T


@functools.partial(jax.jit, static_argnames=("tx", "f"))
def evaluations(tx, f, x, data, goal):
    """How many evaluations it takes to come to a value; 2000 if it is not reached."""

    def step(carry):
        x, state, count = carry
        updates, state = tx.update(None, state, x, value_fn=lambda x: f(x, data))
        return optax.apply_updates(x, updates), state, count + state.evaluations

    def goes_on(carry):
        return (carry[1].value > goal) & (carry[2] < 2000)

    start = x, tx.init(x), jnp.zeros((), jnp.int32)
    return jax.lax.while_loop(goes_on, step, start)[2]


def evaluations_by_scipy(root, x, goal):
    """The same by SciPy's BFGS, of :func:`quadratic`."""
    values = []

    def value_and_grad(x):
        values.append(0.5 * np.sum((root @ x) ** 2))
        if values[-1] <= goal:
            raise StopIteration
        return values[-1], root.T @ (root @ x)

    with contextlib.suppress(StopIteration):
        limits = {"gtol": 0, "maxiter": 3000}
        scipy.optimize.minimize(value_and_grad, x, jac=True, method="BFGS", options=limits)
    return len(values)


@pytest.mark.parametrize("n", [2, 10, 50])
def test_ill_conditioned_quadratics_take_about_as_many_evaluations_as_by_scipy(n):
    """The condition is 1e8. SciPy's BFGS begins with H = I, which fits a least eigenvalue of 1 and
    no other; ours does not depend on the scale. So the bound is SciPy's geometric mean over two
    scales. A search that doubles short steps and begins at 1 takes 1.4 to 17 times as many."""
    ours, theirs = [], []
    tx = ssbroyden()
    for scale in (1.0, 1e8):
        for seed in range(3):
            x, root = drawn_quadratic(seed, n, scale)
            goal = 1e-18 * float(quadratic(x, root))
            ours.append(int(evaluations(tx, quadratic, jnp.asarray(x), root, goal)))
            theirs.append(evaluations_by_scipy(root, x, goal))
    mean = np.exp(np.mean(np.log(theirs)))
    assert np.mean(ours) <= 1.25 * mean + 20, (ours, theirs)


@pytest.mark.parametrize("method", [*METHODS, "lbfgs"])
def test_a_tiny_loss_is_minimized_as_its_multiple_is(method):
    """Also one whose gradient is smaller than the rounding of the parameters. (L-BFGS begins with
    the gradient; the search lengthens that, but not by 60 orders of magnitude.)"""
    tx = METHODS[method]() if method in METHODS else wolfe_searched(optax.scale_by_lbfgs(10))
    x = jnp.asarray(rosenbrock_start(2))

    def f(x, scale):
        return scale * rosenbrock(x)

    def count(scale):
        return int(evaluations(tx, f, x, scale, 1e-18 * scale * float(rosenbrock(x))))

    usual = count(1.0)
    assert usual < 120
    for scale in (1e-10, 1e-25, 1e25, *([1e-60] if method in METHODS else [])):
        assert count(scale) <= 1.5 * usual + 20


@pytest.mark.parametrize("method", METHODS)
def test_an_update_at_the_limit_of_precision_takes_about_one_evaluation(method):
    """Residuals of least squares that come to some 1e-16, and no further."""
    rng = np.random.default_rng(0)
    matrix = jnp.asarray(rng.normal(size=(10, 10)) * np.logspace(-2, 0, 10)[:, None])
    target = matrix @ rng.normal(size=10)
    tx = METHODS[method]()

    def step(carry, _):
        x, state = carry
        residuals = lambda x: 0.5 * jnp.sum((matrix @ x - target) ** 2)  # noqa: E731
        updates, state = tx.update(None, state, x, value_fn=residuals)
        return (optax.apply_updates(x, updates), state), (state.value, state.evaluations)

    x = jnp.asarray(rng.normal(size=10))
    run = jax.jit(lambda x: jax.lax.scan(step, (x, tx.init(x)), length=400))
    (x, state), (values, counts) = run(x)
    assert values[200] < 1e-26
    assert values[-1] <= values[200]
    assert np.mean(counts[200:]) <= 2
    assert np.isfinite(x).all() and np.isfinite(state.rule.inverse_hessian).all()


def regression(params, x, y):
    hidden = jnp.tanh(x @ params["dense1"]["kernel"] + params["dense1"]["bias"][None])
    return jnp.mean((hidden @ params["dense2"]["kernel"] - y) ** 2)


POINTS = np.linspace(-1, 1, 20)[:, None]


def draw_params(members):
    rng = np.random.default_rng(0)
    return {
        "dense1": {"kernel": 3 * rng.normal(size=(members, 1, 4)), "bias": np.zeros((members, 4))},
        "dense2": {"kernel": rng.normal(size=(members, 4, 1))},
    }


def train(params, frequency):
    """A small network fits a sine, then a cosine from where it came to."""
    tx = ssbroyden()

    def fit(carry, phase):
        params, state = carry
        target = jnp.sin(frequency * POINTS + phase)
        found = minimized(tx, lambda p: regression(p, POINTS, target), params, 20, restart(state))
        return (jax.tree.map(lambda leaf: leaf[-1], found[0]), found[3]), found[1]

    phases = jnp.asarray([0.0, jnp.pi / 2])
    (params, state), losses = jax.lax.scan(fit, (params, tx.init(params)), phases)
    return params, losses.ravel(), state


def test_members_of_a_population_are_what_they_are_alone():
    params, frequencies = draw_params(2), np.asarray([2.0, 3.0])
    batched = jax.jit(jax.vmap(train))(params, frequencies)
    mapped = jax.jit(lambda *both: jax.lax.map(lambda one: train(*one), both))(params, frequencies)
    batched, mapped, alone = *jax.device_get((batched, mapped)), jax.jit(train)
    for i in range(2):
        member = jax.tree.map(lambda leaf, i=i: leaf[i], (params, frequencies))
        expected = alone(*member)
        for together in (batched, mapped):
            member = jax.tree.map(lambda leaf, i=i: leaf[i], together)
            np.testing.assert_allclose(member[1][:6], expected[1][:6], rtol=1e-6)
            assert jax.tree.structure(member) == jax.tree.structure(expected)
        losses = expected[1]
        assert losses[19] < losses[0] and losses[39] < losses[20]


# One step at a time.


@functools.cache
def updating(tx):
    """The update, compiled once for each transformation."""
    return jax.jit(tx.update)


def stepped(tx, points, grads, state=None):
    """States after updates at given points with given gradients, and the last direction."""
    state, states = tx.init(jnp.asarray(points[0])) if state is None else state, []
    update = updating(tx)
    for x, g in zip(points, grads, strict=True):
        direction, state = update(jnp.asarray(g), state, jnp.asarray(x))
        states.append(state)
    return states, np.asarray(direction)


def shapes(tree):
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)


A = np.diag([1.0, 3.0, 10.0])
WALK = np.array([[1.0, 1.0, 1.0], [0.5, -0.4, 0.1], [0.1, -0.3, -0.2]])


@pytest.mark.parametrize("method", SCALE_BY)
def test_the_first_direction_is_the_gradient_of_length_one(method):
    for length in (5.0, 0.5, 5e-120):
        g = length * np.array([0.6, 0.0, 0.8])
        (state,), direction = stepped(SCALE_BY[method], [np.zeros(3)], [g])
        np.testing.assert_allclose(direction, [0.6, 0.0, 0.8], rtol=1e-14)
        assert not state.fresh and state.pairs == 0


@pytest.mark.parametrize("method", SCALE_BY)
def test_a_tree_is_its_vector(method):
    tx = SCALE_BY[method]
    states, expected = stepped(tx, WALK, WALK @ A)

    def tree(v):
        return {"b": jnp.asarray(v[:1]), "w": jnp.asarray(v[1:])[:, None]}

    state = tx.init(tree(WALK[0]))
    for x in WALK:
        direction, state = updating(tx)(tree(A @ x), state, tree(x))
    np.testing.assert_array_equal(direction["b"], expected[:1])
    np.testing.assert_array_equal(direction["w"], expected[1:, None])
    np.testing.assert_array_equal(state.inverse_hessian, states[-1].inverse_hessian)


def test_single_precision_stays_single():
    tx = SCALE_BY["ssbroyden"]
    states, direction = stepped(tx, WALK.astype(np.float32), (WALK @ A).astype(np.float32))
    assert shapes(states[-1]) == shapes(tx.init(jnp.zeros(3, jnp.float32)))
    assert direction.dtype == np.float32
    assert states[-1].pairs == 2


@pytest.mark.parametrize("method", SCALE_BY)
@pytest.mark.parametrize(
    "y",
    [
        np.zeros(3),
        np.array([0.6, 0.4, 0.3]),  # less slope after a step downhill: negative curvature
        np.array([np.nan, 0.0, 0.0]),
        np.array([np.inf, 0.0, 0.0]),
    ],
    ids=["none", "negative", "nan", "inf"],
)
def test_curvature_that_is_not_positive_is_left_out(method, y):
    tx = SCALE_BY[method]
    states, direction = stepped(tx, WALK[:2], WALK[:2] @ A)
    before = states[-1]
    assert before.pairs == 1
    x = WALK[1] - 0.1 * direction
    g = A @ WALK[1] + y * np.sign(direction)
    (after,), _ = stepped(tx, [x], [g], before)
    np.testing.assert_array_equal(after.inverse_hessian, before.inverse_hessian)
    assert after.pairs == 1
    # What follows is learned from again, once a gradient that was not finite is left behind.
    states, pairs = [after], []
    for _ in range(3):
        x = x - 0.1 * np.nan_to_num(np.asarray(states[-1].last_direction), posinf=0, neginf=0)
        states, direction = stepped(tx, [x], [A @ x], states[-1])
        pairs.append(int(states[-1].pairs))
    assert pairs[-1] > 1 and np.all(np.diff(pairs) >= 0)
    assert np.isfinite(direction).all()
    assert np.linalg.eigvalsh(states[-1].inverse_hessian).min() > 0


@pytest.mark.parametrize("method", METHODS)
def test_nothing_happens_at_a_minimum(method):
    def f(x):
        return 0.5 * jnp.sum(jnp.asarray([1.0, 30.0]) * x**2)

    run = jax.jit(lambda x: minimized(METHODS[method](), f, x, 30))
    xs, values, _, state = run(jnp.zeros(2))
    np.testing.assert_array_equal(xs, 0)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.rule))
    xs, values, _, state = run(jnp.asarray([1.0, 1.0]))  # reached exactly, or nearly
    assert values[-1] < 1e-25
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((xs, state[0])))


def test_a_direction_uphill_makes_it_start_anew():
    tx = SCALE_BY["ssbroyden"]
    states, _ = stepped(tx, WALK, WALK @ A)
    broken = states[-1]._replace(inverse_hessian=-states[-1].inverse_hessian, fresh=True)
    x = WALK[-1] / 2
    (after,), direction = stepped(tx, [x], [A @ x], broken)
    np.testing.assert_allclose(direction, A @ x / np.linalg.norm(A @ x))
    assert after.fresh and after.pairs == 0
    # From there on it is as if it began there.
    points = np.stack([x / 2, x / 3 + 0.01, x / 5])
    again, direction = stepped(tx, points, points @ A, after)
    anew, expected = stepped(tx, points, points @ A)
    np.testing.assert_array_equal(direction, expected)
    np.testing.assert_array_equal(again[-1].inverse_hessian, anew[-1].inverse_hessian)


@pytest.mark.parametrize("method", SCALE_BY)
def test_a_search_that_found_nothing_makes_it_start_anew(method):
    tx = SCALE_BY[method]
    points = WALK[[0, 1, 2, 2]]
    states, direction = stepped(tx, points, points @ A)
    assert [int(state.pairs) for state in states] == [0, 1, 2, 0]
    g, H = A @ WALK[2], states[-2].inverse_hessian
    short = 0.01 * (g @ H @ g) / (g @ g)
    np.testing.assert_allclose(direction, short * g, rtol=1e-12)
    np.testing.assert_allclose(states[-1].inverse_hessian, short * np.eye(len(g)), rtol=1e-12)
    # Again, and it is shorter still.
    (again,), shorter = stepped(tx, points[-1:], points[-1:] @ A, states[-1])
    np.testing.assert_allclose(shorter, 0.01 * direction, rtol=1e-12)
    assert int(again.pairs) == 0
    # Its pair with the next point is the first.
    (after,), _ = stepped(tx, [WALK[2] - 0.1 * direction], [A @ WALK[2] / 2], states[-1])
    (_, anew), _ = stepped(tx, [WALK[2], WALK[2] - 0.1 * direction], [g, g / 2])
    np.testing.assert_allclose(after.inverse_hessian, anew.inverse_hessian, atol=1e-15)


def test_it_goes_into_a_chain_with_a_line_search_of_optax():
    search = optax.scale_by_zoom_linesearch(20, initial_guess_strategy="one")
    tx = optax.chain(scale_by_ssbroyden(), optax.scale(-1.0), search)

    @jax.jit
    def step(x, state, centre):
        def f(x):
            return rosenbrock(x - centre)

        value, grad = optax.value_and_grad_from_state(f)(x, state=state)
        updates, state = tx.update(grad, state, x, value=value, grad=grad, value_fn=f)
        return optax.apply_updates(x, updates), state

    x = jnp.asarray(rosenbrock_start(2))
    state = jax.device_get(tx.init(x))  # no leaf is weakly typed: steps are one program
    for centre in (0.0, 1.0):
        for _ in range(60):
            x, state = step(x, state, centre)
        np.testing.assert_allclose(x, 1 + centre, atol=1e-7)
        state = restart(state)


# A new objective.


@pytest.mark.parametrize("method", SCALE_BY)
def test_after_a_restart_the_inverse_hessian_is_kept_and_no_pair_is_made(method):
    tx = SCALE_BY[method]
    states, _ = stepped(tx, WALK, WALK @ A)
    renewed = restart(states[-1])
    assert renewed.fresh
    g = np.array([5.0, -2.0, 1.0])
    (after,), direction = stepped(tx, [WALK[-1] / 2], [g], renewed)
    np.testing.assert_array_equal(after.inverse_hessian, states[-1].inverse_hessian)
    np.testing.assert_allclose(direction, states[-1].inverse_hessian @ g, rtol=1e-14)
    assert not after.fresh and after.pairs == 2
    x = WALK[-1] / 2 - 0.5 * direction
    (learned,), _ = stepped(tx, [x], [g + A @ (x - WALK[-1] / 2)], after)
    assert learned.pairs == 3


def test_restart_is_of_line_searches_and_quasi_newton_alone():
    params = {"value": jnp.ones(2), "fresh": jnp.ones(1)}  # names that an attention layer has
    adam = optax.adam(0.1).init(params)
    for new, old in zip(jax.tree.leaves(restart(adam)), jax.tree.leaves(adam), strict=True):
        assert new is old
    state = optax.chain(optax.trace(0.9), ssbroyden()).init(params)
    state = jax.tree.map(lambda leaf: jnp.asarray(np.full(leaf.shape, 3.0)), state)
    renewed = restart(state)
    changed = jax.tree.map(lambda new, old: not np.array_equal(new, old), renewed, state)
    paths, _ = jax.tree.flatten_with_path(changed)
    names = [path[-1].name for path, differs in paths if differs]
    assert names == ["fresh", "value"]
    back = optax.scale_by_backtracking_linesearch(5).init(params)._replace(value=jnp.ones(()))
    assert np.isinf(restart(back).value)


def test_restart_jits_and_maps():
    state = jax.eval_shape(jax.vmap(ssbroyden().init), jnp.ones((4, 2)))
    state = jax.tree.map(lambda leaf: jnp.asarray(np.zeros(leaf.shape, leaf.dtype)), state)
    for mapped in (jax.jit(restart), jax.vmap(restart), lambda s: jax.lax.map(restart, s), restart):
        renewed = mapped(state)
        np.testing.assert_array_equal(renewed.rule.fresh, [True] * 4)
        np.testing.assert_array_equal(renewed.value, [np.inf] * 4)
        assert shapes(renewed) == shapes(state)


def test_the_state_may_be_donated():
    tx, x, g = SCALE_BY["ssbroyden"], jnp.ones(3), jnp.arange(3.0)
    expected, _ = updating(tx)(g, tx.init(x), x)
    donating = jax.jit(lambda state: tx.update(g, state, x)[0], donate_argnums=0)
    state = tx.init(x)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Some donated buffers were not usable")
        np.testing.assert_allclose(donating(state), expected, rtol=1e-14)


def test_parameters_are_needed():
    tx = SCALE_BY["ssbroyden"]
    with pytest.raises(ValueError, match="needs the parameters"):
        tx.update(jnp.ones(2), tx.init(jnp.ones(2)))
