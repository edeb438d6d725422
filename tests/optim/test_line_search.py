"""The line search, against the Wolfe conditions themselves and SciPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.optimize import rosen, rosen_der

from jaxdl.optim import restart, wolfe_searched

DECREASE, CURVATURE = 1e-4, 0.9


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def rosenbrock(x):
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


FUNCTIONS = {
    "rosenbrock": (rosenbrock, np.array([-1.2, 1.0, 0.7])),
    "quartic": (lambda x: jnp.sum(x**4 - 3 * x**2 + x), np.array([2.0, -1.9])),
    "flat far away": (lambda x: jnp.sum(1 - 1 / (1 + x**2)), np.array([30.0, -45.0])),
    "not finite beyond": (lambda x: jnp.sum(x - jnp.log(x)), np.array([40.0, 0.02])),
}


def lbfgs(_):
    return optax.scale_by_lbfgs(5)


RULES = {  # and the scale of each
    "steepest": (optax.scale, 1.0),
    "much too short": (optax.scale, 1e-6),
    "much too long": (optax.scale, 1e4),
    "L-BFGS": (lbfgs, 1.0),
}


@functools.cache
def make_step(f, rule, **options):
    """``(x, state, scale) -> (x, state)``, one program for all scales of a rule."""

    @jax.jit
    def step(x, state, scale):
        search = wolfe_searched(rule(scale), **options)
        updates, state = search.update(None, state, x, value_fn=f)
        return optax.apply_updates(x, updates), state

    return step


def steps(f, x, rule, count, scale=1.0, **options):
    """Points and states of so many steps, after the first, which only looks."""
    state, step = wolfe_searched(rule(scale)).init(x), make_step(f, rule, **options)
    found = []
    for _ in range(count + 1):
        before = x, state
        x, state = step(x, state, scale)
        found.append((before, (x, state)))
    return found


@functools.cache
def make_evaluate(f):
    return jax.jit(jax.value_and_grad(f))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_steps_meet_the_wolfe_conditions(name, rule):
    (f, x), (rule, scale) = FUNCTIONS[name], RULES[rule]
    evaluate = make_evaluate(f)
    found = steps(f, jnp.asarray(x), rule, 12, scale, max_evaluations=60)
    (start, _), (looked, state) = found[0]
    np.testing.assert_array_equal(start, looked)
    np.testing.assert_allclose(state.value, evaluate(x)[0])
    moved = 0
    for (x0, _), (x1, state) in found[1:]:
        (f0, g0), (f1, g1) = (map(np.asarray, evaluate(point)) for point in (x0, x1))
        np.testing.assert_allclose(state.value, f1, rtol=1e-12)
        np.testing.assert_allclose(state.grad, g1, rtol=1e-9, atol=1e-12)
        s = np.asarray(x1) - np.asarray(x0)
        if np.linalg.norm(g0) < 1e-6:  # at the minimum rounding decides
            continue
        moved += 1
        assert s @ g0 < 0
        assert f1 <= f0 + DECREASE * s @ g0 + 1e-6 * abs(f0)
        assert abs(s @ g1) <= CURVATURE * abs(s @ g0) * (1 + 1e-9)
    assert moved >= 3


def test_a_good_first_step_takes_one_evaluation():
    f = lambda x: 0.5 * jnp.sum(x**2)  # noqa: E731
    found = steps(f, jnp.array([3.0, -4.0]), optax.scale, 1)
    (x, state) = found[1][1]
    assert state.evaluations == 1
    np.testing.assert_allclose(x, 0, atol=1e-12)


def test_nothing_lower_and_nothing_finite_stay_where_they_are():
    uphill = steps(rosenbrock, jnp.array([-1.2, 1.0]), optax.scale, 2, -1.0)
    for (x0, _), (x1, state) in uphill:
        np.testing.assert_array_equal(x0, x1)
        np.testing.assert_allclose(state.value, rosenbrock(x0))
    lonely = lambda x: jnp.where(x[0] == 2.0, x[0], jnp.nan)  # noqa: E731
    (_, _), (x, state) = steps(lonely, jnp.array([2.0]), optax.scale, 3)[-1]
    np.testing.assert_array_equal(x, [2.0])


def test_lbfgs_with_it_solves_rosenbrock_as_scipy_does():
    start = np.tile([-1.2, 1.0], 5)
    last = steps(rosenbrock, jnp.asarray(start), lambda _: optax.scale_by_lbfgs(10), 120)[-1][1]
    assert rosen(np.asarray(last[0])) < 1e-10
    assert np.abs(rosen_der(np.asarray(last[0]))).max() < 1e-3


def test_it_compiles_the_function_once():
    """Where Optax's zoom, with the value and gradient of the state, has it three times."""
    calls = []

    def f(x):
        calls.append(None)
        return rosenbrock(x)

    search = wolfe_searched(optax.scale_by_lbfgs(3))
    state = search.init(jnp.zeros(2))
    jax.jit(lambda x, s: search.update(None, s, x, value_fn=f)).lower(jnp.zeros(2), state)
    assert len(calls) == 1


def test_restart_looks_again_and_leaves_other_states_alone():
    # Towards the other minimum, the pair of both objectives' gradients has negative curvature: kept
    # in L-BFGS's memory, as long as this one's is, it would point uphill.
    scale = np.array([1.0, 30.0])
    search = wolfe_searched(optax.scale_by_lbfgs(50))

    @jax.jit
    def step(x, state, minimum):
        value_fn = lambda x: jnp.sum(scale * (x - minimum) ** 2)  # noqa: E731
        updates, state = search.update(None, state, x, value_fn=value_fn)
        return optax.apply_updates(x, updates), state

    x = jnp.array([1.0, 2.0])
    state = search.init(x)
    for _ in range(3):
        x, state = step(x, state, 0.0)
    looked, state = step(x, jax.jit(restart)(state), -3.0)
    np.testing.assert_array_equal(looked, x)
    np.testing.assert_allclose(state.value, np.sum(scale * (np.asarray(x) + 3) ** 2))
    for _ in range(10):
        x, state = step(x, state, -3.0)
    np.testing.assert_allclose(x, -3, atol=1e-4)
    adam = optax.adam(0.1).init(x)
    jax.tree.map(np.testing.assert_array_equal, restart(adam), adam)


def test_members_search_alone():
    """Batched (vmap) and mapped, each member's search is what it is alone."""
    search = wolfe_searched(optax.scale_by_lbfgs(3), max_evaluations=30)
    starts = jnp.array([[-1.2, 1.0], [3.0, -2.0], [0.1, 0.0]])

    def run(x):
        def step(carry, _):
            x, state = carry
            updates, state = search.update(None, state, x, value_fn=rosenbrock)
            return (optax.apply_updates(x, updates), state), state.evaluations

        (x, _), evaluations = jax.lax.scan(step, (x, search.init(x)), length=8)
        return x, evaluations

    batched, counts = jax.jit(jax.vmap(run))(starts)
    mapped, same = jax.jit(lambda x: jax.lax.map(run, x))(starts)
    np.testing.assert_array_equal(counts, same)
    np.testing.assert_allclose(batched, mapped, rtol=1e-8)
    assert len({tuple(c) for c in np.asarray(counts)}) > 1
