"""The loss, and how points and weights follow the residuals."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import optimize, special

from jaxdl import optim
from jaxdl.nn.models.mlp import MLP
from jaxdl.pinn import objective, weighting
from jaxdl.pinn.objective import Refresh, Sample
from jaxdl.pinn.problem import Ansatz, Problem, Term
from jaxdl.pinn.sampling import Points

DOMAIN = {"t": (0.0, 1.0), "x": (-1.0, 1.0)}
PROBLEM = Problem(
    DOMAIN,
    {
        "equation": Term(lambda u, at: (u.t - at.x, u.xx), Points(64), weight=2.0),
        "initial": Term(lambda u, at: u, Points(9, fixed={"t": 0})),
    },
    lambda p: p[:, :1],
)
ANSATZ = Ansatz(PROBLEM, MLP((7,), 1))


# Compiled: a thousand operations on their own take much longer.
loss = jax.jit(functools.partial(objective.loss, ANSATZ))


def refresh(how, params, sample):
    refreshed = jax.jit(functools.partial(objective.refresh, ANSATZ, how))
    return refreshed(params, sample, jax.random.key(0))


def draw_params(ansatz):
    """Normal parameters of an ansatz, by NumPy: there is nothing to compile."""
    rng, shapes = np.random.default_rng(0), jax.eval_shape(ansatz.init, jax.random.key(0))
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.5, leaf.shape)), shapes)


def values(ansatz, params, points):
    return np.asarray(jax.jit(ansatz.__call__)(params, points))


@pytest.fixture
def params():
    return draw_params(ANSATZ)


@pytest.fixture
def sample():
    return objective.draw_sample(PROBLEM, "sobol", 0)


@jax.jit
def residuals(params, points):
    """By nested reverse mode, a point at a time."""

    def u(p):
        return ANSATZ(params, p[None])[0, 0]

    points = jnp.asarray(points)
    slope = jax.vmap(jax.grad(u))(points)
    bend = jax.vmap(jax.hessian(u))(points)
    return slope[:, 0] - points[:, 1], bend[:, 1, 1], jax.vmap(u)(points)


def test_loss_by_hand(params, sample):
    weights = {n: w * np.linspace(0.5, 1, len(w)) for n, w in sample.weights.items()}
    total, means = loss(params, sample._replace(weights=weights))
    first, second, _ = map(np.asarray, residuals(params, sample.points["equation"]))
    start = np.asarray(residuals(params, sample.points["initial"])[2])
    squares = first**2 + second**2
    expected = np.mean(2 * np.linspace(0.5, 1, 64) * squares)
    expected += np.mean(np.linspace(0.5, 1, 9) * start**2)
    np.testing.assert_allclose(total, expected, rtol=1e-10)
    np.testing.assert_allclose(means["equation"], squares.mean(), rtol=1e-10)
    np.testing.assert_allclose(means["initial"], np.mean(start**2), rtol=1e-10)


@pytest.mark.parametrize("block", [16, 10])  # 10: the last block is not full
def test_blocks_have_the_loss_of_all_points(params, sample, block):
    def value_and_grad(block):
        loss = objective.training_loss(ANSATZ, block)
        compiled = jax.jit(jax.value_and_grad(loss, has_aux=True))
        return compiled(params, {"sample": sample}, {}, {}, None)

    for value, expected in zip(
        *(jax.tree.leaves(value_and_grad(size)) for size in (block, None)), strict=True
    ):
        np.testing.assert_allclose(value, expected, rtol=1e-10, atol=1e-14)


def test_samples_differ_by_seed_and_lie_where_they_should(sample):
    other = objective.draw_sample(PROBLEM, "sobol", 1000)
    assert (sample.points["equation"] != other.points["equation"]).any()
    np.testing.assert_array_equal(sample.points["initial"][:, 1], np.linspace(-1, 1, 9))
    assert (sample.weights["equation"] == 2).all() and (sample.weights["initial"] == 1).all()


def test_nothing_changes_that_was_not_asked_to(params, sample):
    same = refresh(Refresh(), params, sample)
    jax.tree.map(np.testing.assert_array_equal, sample, Sample(*same))


def test_points_are_drawn_where_the_residual_is_large(params, sample):
    how = Refresh(candidates=2000, power=4.0, floor=0.0)
    new = refresh(how, params, sample)
    np.testing.assert_array_equal(new.points["initial"], sample.points["initial"])
    before, after = (
        np.sqrt(sum(np.asarray(r) ** 2 for r in residuals(params, s.points["equation"])[:2])).mean()
        for s in (sample, new)
    )
    assert after > 1.2 * before
    again = refresh(how, params, sample)
    np.testing.assert_array_equal(again.points["equation"], new.points["equation"])


def test_candidates_must_be_more_than_the_points(params, sample):
    with pytest.raises(ValueError, match=r"^candidates=64 must be more than the 64 points of 'equ"):
        objective.refresh(ANSATZ, Refresh(candidates=64), params, sample, jax.random.key(0))
    with pytest.raises(ValueError, match=r"^here\.weighting: attention .* here\.candidates=9"):
        Refresh(candidates=9, weighting="attention").check(PROBLEM, "here.{}".format)


def test_weights_follow(params, sample):
    def refreshed(kind, **options):
        how = Refresh(weighting=kind, **options)
        return refresh(how, params, sample).weights

    first, second, _ = residuals(params, sample.points["equation"])
    size = np.sqrt(np.asarray(first**2 + second**2))
    causal = functools.partial(weighting.causal_weights, first=0.0, last=1.0, tolerance=3.0)
    causal = np.asarray(jax.jit(causal)(size, sample.points["equation"][:, 0]))
    np.testing.assert_allclose(refreshed("causal", tolerance=3.0)["equation"], 2 * causal)
    attention = functools.partial(weighting.attention_weights, decay=0.9, rate=0.5)
    attention = np.asarray(jax.jit(attention)(np.ones(64), size)) ** 2
    np.testing.assert_allclose(
        refreshed("attention", decay=0.9, attention=0.5)["equation"], 2 * attention
    )

    def mean_square(params, name):
        residual = ANSATZ.residual(params, name, sample.points[name])
        return jnp.mean(jnp.sum(residual**2, axis=-1))

    @jax.jit
    def gradients(params):
        return {name: jax.grad(mean_square)(params, name) for name in sample.points}

    length = {
        name: np.sqrt(sum(np.sum(np.square(g)) for g in jax.tree.leaves(gradient)))
        for name, gradient in gradients(params).items()
    }
    weights = {name: np.asarray(w) for name, w in refreshed("gradient_norm").items()}
    ratio = weights["equation"][0] / 2 * length["equation"]
    assert ratio > 1e-3
    np.testing.assert_allclose(ratio, weights["initial"][0] * length["initial"], rtol=1e-9)


def test_what_cannot_be_is_refused(params, sample):
    with pytest.raises(ValueError, match="unknown weighting 'even'"):
        objective.refresh(ANSATZ, Refresh(weighting="even"), params, sample, jax.random.key(0))
    still = Problem({"x": (0.0, 1.0)}, {"a": Term(lambda u, at: u, Points(4))}, lambda p: p)
    ansatz = Ansatz(still, MLP((3,), 1))
    with pytest.raises(ValueError, match="a coordinate named t"):
        objective.refresh(
            ansatz,
            Refresh(weighting="causal"),
            draw_params(ansatz),
            objective.draw_sample(still, "grid", 0),
            jax.random.key(0),
        )


def trained(problem, hidden, iterations):
    """An ansatz and its parameters, trained as the study does."""
    ansatz, sample = Ansatz(problem, MLP(hidden)), objective.draw_sample(problem, "sobol", 0)
    optimizer = optim.ssbroyden()

    @jax.jit
    def train(key):
        params = ansatz.init(key)

        def step(carry, _):
            params, state = carry
            updates, state = optimizer.update(
                None, state, params, value_fn=lambda p: objective.loss(ansatz, p, sample)[0]
            )
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, optimizer.init(params)), length=iterations)[0][0]

    return ansatz, train(jax.random.key(0))


def test_a_decay_and_its_rate_are_learned():
    """``u = exp(-2.5 t)``, from ten of its values, as a list, and the form of its equation."""
    times = np.linspace(0, 1, 10)[:, None]
    problem = Problem(
        {"t": (0, 1)},
        {
            "equation": Term(lambda u, at: u.t + at.k * u, Points(32)),
            "data": Term(lambda u, at: u - np.exp(-2.5 * times[:, 0]), times.tolist()),
        },
        physics={"k": 1},
    )
    ansatz, params = trained(problem, (8,), 300)
    assert abs(params["physics"]["k"] / 2.5 - 1) < 1e-5
    between = np.linspace(0, 1, 101)[:, None]
    np.testing.assert_allclose(
        values(ansatz, params, between), np.exp(-2.5 * between), rtol=0, atol=1e-5
    )


def test_a_boundary_that_moves_is_found():
    """Stefan's problem: ice melts from x = 0 on, where ``u = 1``, up to ``s = 2 c √t``, where u = 0
    and ``s' = -u_x``. Neumann's solution has ``√π c exp(c²) erf(c) = 1``."""

    def front(u, at):
        melting = u.at(x=2 * at.c * jnp.sqrt(at.t))
        return melting, melting.x + at.c / jnp.sqrt(at.t)

    problem = Problem(
        {"t": (0.25, 1), "x": (0, 1.3)},
        {
            "equation": Term(lambda u, at: u.t - u.xx, Points(128)),
            "warm": Term(lambda u, at: u - 1, Points(16, fixed={"x": 0})),
            "front": Term(front, Points(16, fixed={"x": 0})),
        },
        physics={"c": 0.4},
    )
    c = optimize.brentq(lambda c: np.sqrt(np.pi) * c * np.exp(c**2) * special.erf(c) - 1, 0.1, 2)
    ansatz, params = trained(problem, (10,), 400)
    assert abs(params["physics"]["c"] / c - 1) < 5e-3  # from 0.35
    t, x = np.random.default_rng(0).uniform([0.25, 0], [1, 1], (50, 2)).T
    exact = 1 - special.erf(x / (2 * np.sqrt(t))) / special.erf(c)
    found = values(ansatz, params, np.stack([t, x], -1))[:, 0]
    np.testing.assert_allclose(found, exact, rtol=0, atol=1e-2)


def test_an_equation_with_a_delay_is_solved():
    """``u'(t) = -u(t - π/2)``, before t = 0 the cosine, and so after it."""
    lag = np.pi / 2
    problem = Problem(
        {"t": (-lag, 3)},
        {
            "equation": Term(
                lambda u, at: u.t + u.at(t=at.t - lag), Points(48, inside=lambda p: p[:, 0] >= 0)
            ),
            "history": Term(
                lambda u, at: u - jnp.cos(at.t),
                Points(24, warp=lambda p: (p - 3) * lag / (3 + lag)),
            ),
        },
    )
    ansatz, params = trained(problem, (10,), 250)
    t = np.linspace(-lag, 3, 60)[:, None]
    np.testing.assert_allclose(values(ansatz, params, t), np.cos(t), rtol=0, atol=1e-3)


def test_integers_are_floats():
    """``u'' + u = 0`` from (1, 0) on, all its numbers integers."""
    problem = Problem(
        {"t": (0, 3)},
        {
            "equation": Term(lambda u, at: u.tt + u, Points(8), weight=2),
            "start": Term(lambda u, at: (u - 1, u.t, u.at(t=1).t), Points(1, fixed={"t": 0})),
        },
        constraint=lambda p: (1, p),
    )
    ansatz, sample = Ansatz(problem, MLP((4,))), objective.draw_sample(problem, "sobol", 0)
    assert all(points.dtype == np.float64 for points in sample.points.values())
    params = draw_params(ansatz)
    whole, beside = (np.array([[0], [1]]) + h for h in (0, 1e-6))
    slope, later = (values(ansatz, params, beside) - values(ansatz, params, whole))[:, 0] / 1e-6
    start = jax.jit(ansatz.residual, static_argnums=1)(params, "start", sample.points["start"])
    np.testing.assert_allclose(start[0], [0, slope, later], atol=1e-5)
    assert np.isfinite(jax.jit(functools.partial(objective.loss, ansatz))(params, sample)[0])


def refused(words, term, **changes):
    problem = Problem({"t": (0.0, 1.0)}, {"data": term}, lambda p: p)._replace(**changes)
    with pytest.raises(ValueError) as error:
        objective.draw_sample(Ansatz(problem, MLP((3,))).problem, "sobol", 0)
    assert len(str(error.value).splitlines()) == 1
    for word in words:
        assert word in str(error.value)


def residual(u, at):
    return u


@pytest.mark.parametrize(
    "term, words",
    [
        (Term(residual, [0.1, 0.2]), ("'data'", "shape [2], not [n, 1]")),
        (Term(residual, [[0.1], [0.2, 0.3]]), ("'data'", "type list", "[n, 1]")),
        (Term(residual, "grid"), ("'data'", "type str", "Points")),
        (Term(residual, 100), ("'data'", "shape []")),
        (Term(residual, None), ("'data'", "shape []")),
        (Term(residual, Points(4), weight=np.ones(4)), ("'data'", "weight", "shape [4]", "root")),
        (Term(residual, Points(4), weight=-1.0), ("'data'", "weight", "not -1.0")),
        (Term(residual, Points(4), weight=float("nan")), ("'data'", "weight", "not nan")),
        (Term(residual, Points(4), weight="1"), ("'data'", "weight", "not '1'")),
        (Term(residual, Points(4), weight=None), ("'data'", "weight", "not None")),
        (Term(residual, Points(100.0)), ("Points(100.0)", "whole number", "Points(100)")),
        (Term(residual, Points("9")), ("Points('9')", "whole number")),
        (Term(residual, Points(np.zeros((9, 1)))), ("Points(array(", "without Points")),
        (Term(residual, Points(4, fixed={"ϕ": 0})), ("fixed", "'ϕ' (U+03D5)", "'φ' (U+03C6)")),
    ],
)
def test_terms_that_cannot_be_are_refused(term, words):
    refused(words, term)


def test_names_that_a_residual_cannot_write_are_refused():
    """Python's source is normalized: ``u.ϕ`` is ``u.φ``, and ``at.µ``, the micro sign, ``at.μ``."""
    term = Term(residual, Points(4))
    refused(("domain", "'ϕ' (U+03D5)", "'φ' (U+03C6)", r"'\u03c6'"), term, domain={"ϕ": (0, 1)})
    refused(("physics", "(U+00B5)", "(U+03BC)"), term, physics={"µ": 1.0})
    refused(("physics", "'t'", "at.t", "rename"), term, physics={"t": 1.0})
    greek = Problem(
        {"φ": (0, 1)}, {"a": Term(lambda u, at: u.φ + at.ϕ * at.μ, Points(4))}, physics={"μ": 2}
    )
    ansatz = Ansatz(greek, MLP((3,)))
    residuals = jax.jit(ansatz.residual, static_argnums=1)(
        draw_params(ansatz), "a", np.ones((4, 1))
    )
    assert np.isfinite(residuals).all()
