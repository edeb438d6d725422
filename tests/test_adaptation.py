"""Adaptation's losses against NumPy in float64, SciPy, scikit-learn and finite differences."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss

from jaxdl import adaptation as ad
from jaxdl.nn import losses
from jaxdl.optim import annealed

SEEDS = st.integers(0, 2**32 - 1)

# Each compiled as one: most of these tests' time is compilation, of an operation as of a function.
domain_loss = jax.jit(ad.domain_adversarial_loss)
discrepancy = jax.jit(losses.maximum_mean_discrepancy)
entropy, kl_divergence = jax.jit(losses.entropy), jax.jit(losses.kl_divergence)
confident, alignment = jax.jit(ad.confident), jax.jit(losses.correlation_alignment)


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def simplex(seed, *shape):
    return scipy.special.softmax(normal(seed, *shape), -1)


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


# Schedules.


@pytest.mark.parametrize("p", [0.0, 0.5, 1.0])
def test_schedules_are_the_papers(p):
    assert float(ad.reversal_schedule(jnp.float32(p))) == pytest.approx(
        2 / (1 + math.exp(-10 * p)) - 1, abs=1e-6
    )
    assert float(ad.reversal_schedule(p, gamma=3.0)) == pytest.approx(math.tanh(1.5 * p), abs=1e-6)
    assert float(annealed(jnp.float32(p))) == pytest.approx(
        0.01 / math.pow(1 + 10 * p, 0.75), rel=1e-5
    )
    assert float(annealed(p, 0.1, alpha=3.0, beta=0.5)) == pytest.approx(
        0.1 / math.sqrt(1 + 3 * p), rel=1e-5
    )


def test_schedules_are_monotonic():
    p = jnp.linspace(0, 1, 50)
    assert np.all(np.diff(ad.reversal_schedule(p)) > 0)
    assert np.all(np.diff(annealed(p)) < 0)
    assert ad.reversal_schedule(0.0) == 0


# Gradient reversal.


def objective(x, scale):
    return jnp.sum(jnp.sin(ad.reverse_gradient(x, scale)) * jnp.arange(1.0, 4))


@pytest.mark.parametrize("scale", [0.0, 0.3, 1.0, 2.0])
def test_reversed_gradient_is_the_finite_difference_times_minus_scale(x64, scale):
    x, h, value = normal(0, 3), 1e-6, jax.jit(objective)
    np.testing.assert_array_equal(ad.reverse_gradient(jnp.asarray(x), scale), x)
    slope = [
        float(value(x + step, scale) - value(x - step, scale)) / (2 * h) for step in h * np.eye(3)
    ]
    gradient = jax.jit(jax.grad(objective))(x, scale)
    np.testing.assert_allclose(gradient, -scale * np.array(slope), atol=1e-8)


def test_scale_one_is_exactly_minus_and_scale_zero_nothing():
    x = jnp.asarray(normal(1, 3), jnp.float32)
    plain = jax.grad(lambda x: jnp.sum(jnp.sin(x) * jnp.arange(1.0, 4)))(x)
    for one in (1, 1.0, jnp.float32(1)):
        np.testing.assert_array_equal(jax.grad(objective)(x, one), -plain)
    np.testing.assert_array_equal(jax.grad(objective)(x, 0.0), np.zeros(3))


def test_scale_gets_no_gradient_and_types_stay():
    x = jnp.ones(3, jnp.bfloat16)
    dx, dscale = jax.jit(jax.grad(objective, (0, 1)))(x, jnp.float32(0.3))
    assert dx.dtype == jnp.bfloat16
    assert dscale == 0


def test_scale_may_be_traced_under_jit_vmap_and_scan():
    x = normal(2, 3).astype(np.float32)
    scales = np.asarray([0.0, 0.5, 1.0, 3.0], np.float32)
    expected = -scales[:, None] * np.cos(x) * np.arange(1.0, 4)
    gradient = jax.grad(objective)
    mapped = jax.jit(jax.vmap(gradient, (None, 0)))(x, scales)
    np.testing.assert_allclose(mapped, expected, rtol=1e-6)
    each = np.stack([x + i for i in range(4)])
    both = jax.jit(jax.vmap(gradient))(each, scales)
    expected = -scales[:, None] * np.cos(each) * np.arange(1.0, 4)
    np.testing.assert_allclose(both, expected, rtol=1e-5)

    @jax.jit
    def run(x, scales):
        return jax.lax.scan(lambda x, scale: (x - 0.1 * gradient(x, scale), x), x, scales)[0]

    there = x.astype(np.float64)
    for scale in scales.astype(np.float64):
        there = there + 0.1 * scale * np.cos(there) * np.arange(1.0, 4)
    np.testing.assert_allclose(run(x, scales), there, rtol=1e-5)


def test_the_head_descends_what_the_encoder_ascends():
    source, target = normal(3, 20, 2) + 1, normal(4, 30, 2) - 1

    @jax.jit
    def loss(params, scale):
        def logits(x):
            return ad.reverse_gradient(x @ params["encoder"], scale) @ params["head"]

        return ad.domain_adversarial_loss(logits(source), logits(target))

    params = {"encoder": normal(5, 2, 3), "head": np.array([0.3, -0.2, 0.1])}
    slope = jax.jit(jax.grad(loss))
    gradient = slope(params, 1.0)
    step = {name: params[name] - 0.01 * np.asarray(gradient[name]) for name in params}
    here = loss(params, 1.0)
    assert loss(params | {"head": step["head"]}, 1.0) < here
    assert loss(params | {"encoder": step["encoder"]}, 1.0) > here
    stopped = slope(params, 0.0)
    np.testing.assert_array_equal(stopped["encoder"], np.zeros((2, 3)))
    np.testing.assert_array_equal(stopped["head"], gradient["head"])


# The domain classifier's loss.


@settings(max_examples=20)
@given(seed=SEEDS, weighted=st.booleans())
def test_domain_loss_is_the_balanced_cross_entropy(seed, weighted):
    n, m = 5, 8
    rng = np.random.default_rng(seed)
    source, target = rng.normal(0, 3, n), rng.normal(0, 3, m)
    a, b = (rng.uniform(0.1, 2, k) if weighted else np.ones(k) for k in (n, m))
    loss = domain_loss(source, target, *((a, b) if weighted else ()))
    numpy = (a / a.sum()) @ np.logaddexp(0, -source) / 2 + (b / b.sum()) @ np.logaddexp(
        0, target
    ) / 2
    sklearn = log_loss(
        np.repeat([1, 0], [n, m]),
        scipy.special.expit(np.concatenate([source, target])),
        sample_weight=np.concatenate([a / a.sum(), b / b.sum()]),
    )
    assert sklearn == pytest.approx(numpy, rel=1e-10)
    assert float(loss) == pytest.approx(numpy, rel=1e-5)


def test_domain_loss_at_its_ends():
    assert float(domain_loss(np.zeros(3), np.zeros(4))) == pytest.approx(math.log(2))
    source, target = np.full(3, 1e4), np.full(4, -1e4)
    assert domain_loss(source, target) == 0
    assert float(domain_loss(-source, -target)) == pytest.approx(1e4)
    gradient = jax.jit(jax.grad(ad.domain_adversarial_loss))(-source, target)
    np.testing.assert_allclose(gradient, np.full(3, -1 / 6), rtol=1e-6)


def test_domain_accuracy_counts_the_domains_alike():
    source, target = np.asarray([1.0, 2.0, -1.0, 3.0]), np.asarray([-1.0, 4.0])
    accuracy = jax.jit(ad.domain_accuracy)
    assert accuracy(source, target) == (3 / 4 + 1 / 2) / 2
    assert accuracy(np.zeros(4), np.zeros(2)) == 0.5


# Conditioning on the predictions.


def test_condition_is_the_outer_product():
    features, p = normal(0, 4, 3), simplex(1, 4, 5)
    out = np.asarray(jax.jit(ad.condition)(features, p))
    assert out.shape == (4, 15)
    np.testing.assert_allclose(out, np.einsum("bd,bk->bdk", features, p).reshape(4, 15), rtol=1e-6)
    for row, f, q in zip(out, features, p, strict=True):
        np.testing.assert_allclose(row, np.outer(f, q).ravel(), rtol=1e-6)
    for j in range(5):
        np.testing.assert_allclose(out[:, j::5], features * p[:, j : j + 1], rtol=1e-6)


def test_certainty_weights_are_one_plus_exp_of_minus_entropy():
    p = np.concatenate([simplex(2, 6, 4), np.eye(4), np.full((1, 4), 0.25)])
    weights = np.asarray(jax.jit(ad.certainty_weights)(p))
    np.testing.assert_allclose(weights, 1 + np.exp(-scipy.stats.entropy(p, axis=-1)), rtol=1e-6)
    np.testing.assert_array_equal(weights[6:10], 2.0)
    assert float(weights[-1]) == pytest.approx(1.25)
    gradient = jax.jit(jax.grad(lambda p: jnp.sum(ad.certainty_weights(p))))(p)
    np.testing.assert_array_equal(gradient, np.zeros_like(p))


# Discrepancies.


def mean_square(x, y):
    both = np.concatenate([x, y])
    pairs = [np.sum((a - b) ** 2) for i, a in enumerate(both) for j, b in enumerate(both) if i != j]
    return np.mean(pairs)


def mmd(x, y, widths, scale):
    """The formula, pair by pair."""

    def mean_kernel(u, v):
        kernels = [
            math.exp(-float(np.sum((a - b) ** 2)) / (w * scale))
            for a in u
            for b in v
            for w in widths
        ]
        return sum(kernels) / len(kernels)

    return mean_kernel(x, x) + mean_kernel(y, y) - 2 * mean_kernel(x, y)


def test_squared_distances(x64):
    x, y = normal(0, 4, 3), normal(1, 6, 3)
    expected = [[np.sum((a - b) ** 2) for b in y] for a in x]
    distances = jax.jit(losses.squared_distances)
    np.testing.assert_allclose(distances(x, y), expected, rtol=1e-12)
    alike = distances(x.astype(np.float32), x.astype(np.float32))
    assert np.all(np.asarray(alike) >= 0)


@pytest.mark.parametrize("widths", [None, (1.0,), (0.1, 3.0)])
def test_mmd_and_its_gradient_are_the_formulas(x64, widths):
    x, y = normal(0, 4, 3), normal(1, 5, 3) * 1.5 + 0.3
    options = {} if widths is None else {"widths": widths}
    widths = widths or (0.25, 0.5, 1.0, 2.0, 4.0)
    scale, h = mean_square(x, y), 1e-6
    formula = partial(ad.maximum_mean_discrepancy, **options)
    value, gradient = jax.jit(jax.value_and_grad(formula))(x, y)
    assert float(value) == pytest.approx(mmd(x, y, widths, scale), rel=1e-10)
    # The width of the kernels is taken as given.
    for i, j in ((0, 0), (2, 1), (3, 2)):
        up, down = x.copy(), x.copy()
        up[i, j] += h
        down[i, j] -= h
        slope = (mmd(up, y, widths, scale) - mmd(down, y, widths, scale)) / (2 * h)
        assert float(gradient[i, j]) == pytest.approx(slope, abs=1e-8)


@settings(max_examples=10)
@given(seed=SEEDS, factor=st.floats(0.01, 100), shift=st.floats(-1000, 1000))
def test_mmd_is_a_squared_distance_without_units(seed, factor, shift):
    x, y = (normal(seed + i, n, 3).astype(np.float32) for i, n in enumerate((6, 9)))
    y += 0.5
    value = discrepancy(x, y)
    assert value > 0
    np.testing.assert_allclose(discrepancy(y, x), value, atol=1e-6)
    np.testing.assert_allclose(discrepancy(x, x[::-1]), 0, atol=1e-6)
    np.testing.assert_allclose(discrepancy(factor * x, factor * y), value, atol=1e-5)
    # A shift leaves what the rounding of shifted numbers leaves: 1000 is known to 6e-5.
    np.testing.assert_allclose(discrepancy(x + shift, y + shift), value, atol=1e-4)


def test_mmd_grows_with_the_shift():
    x, y = normal(0, 100, 4), normal(1, 80, 4)
    values = [discrepancy(x, y + shift) for shift in (0.0, 0.5, 1.0, 2.0, 4.0)]
    assert np.all(np.diff(values) > 0)
    assert values[0] < 0.05


@pytest.mark.parametrize("size", [1, 64, 768])
@pytest.mark.parametrize("discrepancy", [ad.maximum_mean_discrepancy, ad.correlation_alignment])
def test_discrepancies_of_points_that_coincide_are_zero_with_zero_gradient(discrepancy, size):
    both = jax.jit(jax.value_and_grad(discrepancy, (0, 1)))
    for point in normal(0, 5, size).astype(np.float32):
        value, gradients = both(np.tile(point, (8, 1)), np.tile(point, (5, 1)))
        assert float(value) == pytest.approx(0, abs=1e-6)
        for gradient in gradients:
            np.testing.assert_allclose(gradient, np.zeros_like(gradient), atol=1e-6)


def test_correlation_alignment_is_the_formula(x64):
    x, y = normal(0, 7, 3), normal(1, 5, 3) @ normal(2, 3, 3)
    total = 0.0
    for i in range(3):
        for j in range(3):
            a = sum((row[i] - x[:, i].mean()) * (row[j] - x[:, j].mean()) for row in x) / 6
            b = sum((row[i] - y[:, i].mean()) * (row[j] - y[:, j].mean()) for row in y) / 4
            total += (a - b) ** 2
    value = float(alignment(x, y))
    assert value == pytest.approx(total / 36, rel=1e-10)
    assert value == pytest.approx(np.sum((np.cov(x.T) - np.cov(y.T)) ** 2) / 36, rel=1e-10)


def test_correlation_alignment_sees_shapes_not_places():
    x, y = normal(0, 30, 4), normal(1, 20, 4)
    value = alignment(x, y)
    np.testing.assert_allclose(alignment(y, x), value, rtol=1e-6)
    np.testing.assert_allclose(alignment(x + 3, y - 2), value, rtol=1e-4)
    assert alignment(x, x + 5) < 1e-8
    scaled = [alignment(x, factor * x) for factor in (1.0, 1.5, 2.0, 3.0)]
    assert np.all(np.diff(scaled) > 0)
    assert np.isnan(alignment(x, y[:1]))


# The cluster assumption.


@settings(max_examples=10)
@given(seed=SEEDS, spread=st.floats(0, 20))
def test_entropy_and_divergence_are_scipys(seed, spread):
    a, b = spread * normal(seed, 5, 4), spread * normal(seed + 1, 5, 4)
    p, q = scipy.special.softmax(a, -1), scipy.special.softmax(b, -1)
    np.testing.assert_allclose(entropy(a), scipy.stats.entropy(p, axis=-1), rtol=1e-4, atol=1e-5)
    divergence = scipy.stats.entropy(p, q, axis=-1)
    np.testing.assert_allclose(kl_divergence(a, b), divergence, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(kl_divergence(a, a), np.zeros(5))


def test_entropy_and_divergence_at_their_ends():
    sure = jnp.asarray([[1e4, 0.0, -1e4]])
    assert entropy(sure) == 0
    np.testing.assert_allclose(entropy(np.zeros((2, 3))), math.log(3), rtol=1e-6)
    np.testing.assert_allclose(kl_divergence(sure, -sure), 2e4, rtol=1e-6)

    def both(x):
        return jnp.sum(ad.entropy(x)), jnp.sum(losses.kl_divergence(x, -x))

    for slope in jax.jit(jax.jacrev(both))(sure):
        assert np.all(np.isfinite(slope))


# Virtual adversarial training.


def test_perturbation_is_the_dominant_eigenvector(x64):
    weights, bias = normal(0, 5, 3), normal(1, 3)
    x = normal(2, 4, 5)

    def predict(x):
        return jnp.asarray(x) @ weights + bias[None]

    @jax.jit
    def perturb(x):
        return losses.virtual_adversarial_perturbation(
            predict, x, jax.random.key(0), radius=1.0, probe=1e-5, iterations=30
        )

    @jax.jit
    def hessian_at(example):
        def divergence(r):
            return losses.kl_divergence(predict(example[None]), predict((example + r)[None]))[0]

        return jax.hessian(divergence)(jnp.zeros(5))

    for r, example in zip(np.asarray(perturb(x)), x, strict=True):
        hessian = np.asarray(hessian_at(example))
        # Of a model linear in x it is known: the Fisher information of the logits, W F W^T.
        p = scipy.special.softmax(example @ weights + bias)
        np.testing.assert_allclose(
            hessian, weights @ (np.diag(p) - np.outer(p, p)) @ weights.T, atol=1e-12
        )
        values, vectors = np.linalg.eigh(hessian)
        assert values[-2] < 0.7 * values[-1], "too close for 30 iterations"
        assert abs(vectors[:, -1] @ r) == pytest.approx(1, abs=1e-6)


def test_one_iteration_finds_the_only_direction_that_matters():
    weights = normal(0, 12, 2).astype(np.float32)
    x = normal(1, 6, 2, 3, 2).astype(np.float32)

    @jax.jit
    def perturb(x):
        return losses.virtual_adversarial_perturbation(
            lambda x: x.reshape(len(x), -1) @ weights, x, jax.random.key(1), radius=2.0
        )

    r = perturb(x)
    assert r.shape == x.shape
    direction = weights[:, 1] - weights[:, 0]
    cosine = np.reshape(r, (6, -1)) @ direction / (2 * np.linalg.norm(direction))
    np.testing.assert_allclose(np.abs(cosine), 1, atol=1e-4)


@partial(jax.jit, static_argnames="iterations")
def perturbation(weights, x, seed, radius, iterations):
    return losses.virtual_adversarial_perturbation(
        lambda x: jnp.tanh(x.reshape(4, 6)) @ weights,
        x,
        jax.random.key(seed),
        radius=radius,
        iterations=iterations,
    )


@settings(max_examples=10)
@given(seed=SEEDS, radius=st.floats(1e-3, 1e3), iterations=st.integers(0, 2))
def test_perturbation_has_the_radius(seed, radius, iterations):
    weights = normal(seed, 6, 3).astype(np.float32)
    x = normal(seed + 1, 4, 2, 3).astype(np.float32)
    r = perturbation(weights, x, seed % 1000, radius, iterations)
    np.testing.assert_allclose(np.linalg.norm(np.reshape(r, (4, 6)), axis=-1), radius, rtol=1e-5)


@pytest.mark.parametrize("size", [0.0, 1e-12, 1e-25])
def test_perturbation_is_finite_where_predictions_do_not_depend_on_x(size):
    x = normal(0, 3, 4).astype(np.float32)
    weights = np.float32(size) * normal(1, 4, 2).astype(np.float32)

    def loss(weights, x):
        return jnp.sum(
            losses.virtual_adversarial_loss(lambda x: x @ weights, x, jax.random.key(0), radius=1.5)
        )

    @jax.jit
    def perturb(weights, x):
        return losses.virtual_adversarial_perturbation(
            lambda x: x @ weights, x, jax.random.key(0), radius=1.5
        )

    norms = np.linalg.norm(perturb(weights, x), axis=-1)
    assert np.all(np.isclose(norms, 0) | np.isclose(norms, 1.5))
    for gradient in jax.jit(jax.grad(loss, (0, 1)))(weights, x):
        assert np.all(np.isfinite(gradient))


def test_virtual_adversarial_loss_takes_direction_and_predictions_as_given(x64):
    weights, x, key = normal(0, 5, 3), normal(1, 4, 5), jax.random.key(0)

    @jax.jit
    @jax.value_and_grad
    def value_and_gradient(weights, x):
        return jnp.sum(
            losses.virtual_adversarial_loss(lambda x: x @ weights, x, key, radius=0.7, iterations=2)
        )

    @jax.jit
    def perturb(x):
        return losses.virtual_adversarial_perturbation(
            lambda x: x @ weights, x, key, radius=0.7, iterations=2
        )

    r = np.asarray(perturb(x))
    p, q = (scipy.special.softmax(at @ weights, -1) for at in (x, x + r))
    value, gradient = value_and_gradient(weights, x)
    assert float(value) == pytest.approx(np.sum(scipy.stats.entropy(p, q, axis=-1)), rel=1e-9)
    np.testing.assert_allclose(gradient, (x + r).T @ (q - p), atol=1e-10)


def test_adversarial_directions_change_predictions_more_than_random_ones():
    weights = normal(0, 50, 4).astype(np.float32)
    x = (0.1 * normal(1, 8, 50)).astype(np.float32)

    @partial(jax.jit, static_argnums=0)
    def changed(iterations, x):
        return losses.virtual_adversarial_loss(
            lambda x: x @ weights, x, jax.random.key(3), radius=0.1, iterations=iterations
        )

    none, one, several = (np.asarray(changed(n, x)) for n in (0, 1, 5))
    assert np.all(one > none)
    assert np.mean(several) > np.mean(one)


def test_confident():
    logits = np.log([[0.9, 0.05, 0.05], [0.2, 0.5, 0.3], [0.1, 0.1, 0.8]]).astype(np.float32)
    labels, sure = confident(logits, 0.7)
    np.testing.assert_array_equal(labels, [0, 1, 2])
    np.testing.assert_array_equal(sure, [True, False, True])
    assert not np.any(confident(logits, 1.0)[1])
    # Above, not at, the threshold.
    assert not confident(np.zeros((1, 2)), 0.5)[1]
