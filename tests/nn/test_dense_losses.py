"""Losses of masks and maps against formulas in NumPy, Optax and SciPy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

from jaxdl.nn import dense_losses as losses

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(2, 4, 5, 3)).astype(np.float32)
MASK = RNG.integers(0, 3, (2, 4, 5)).astype(np.int32)
WEIGHTS = RNG.uniform(size=(2, 4, 5)).astype(np.float32)
CLASSES = np.array([0.2, 1, 3], np.float32)


def probabilities():
    powers = np.exp(LOGITS.astype(np.float64))
    return powers / powers.sum(-1, keepdims=True)


def test_cross_entropy_is_optax_s_mean_over_pixels():
    pixels = optax.softmax_cross_entropy_with_integer_labels
    both = jax.jit(lambda *a: (losses.cross_entropy(*a), pixels(*a).mean((1, 2))))
    np.testing.assert_allclose(*both(LOGITS, MASK), rtol=1e-5)


def test_weights_of_pixels_and_classes():
    own = np.take_along_axis(probabilities(), MASK[..., None], -1)[..., 0]
    w = WEIGHTS * CLASSES[MASK]
    for gamma, loss in ((0, losses.cross_entropy), (2, losses.focal)):
        expected = (w * (1 - own) ** gamma * -np.log(own)).sum((1, 2)) / w.sum((1, 2))
        value = jax.jit(loss)(LOGITS, MASK, WEIGHTS, class_weights=CLASSES)
        np.testing.assert_allclose(value, expected, rtol=1e-5)


tversky = jax.jit(losses.tversky)


@pytest.mark.parametrize(("alpha", "beta"), [(0.5, 0.5), (0.3, 0.7)])
def test_tversky_is_the_formula(alpha, beta):
    p, t = probabilities(), np.eye(3)[MASK]
    w = WEIGHTS[..., None]
    hits, false, missed = ((w * x).sum((1, 2))[:, 1:] for x in (p * t, p * (1 - t), (1 - p) * t))
    expected = 1 - ((hits + 1) / (hits + alpha * false + beta * missed + 1)).mean(-1)
    value = tversky(LOGITS, MASK, WEIGHTS, alpha=alpha, beta=beta)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    if alpha == beta:
        dice = jax.jit(losses.dice)(LOGITS, MASK, WEIGHTS)
        np.testing.assert_allclose(dice, expected, rtol=1e-5)


def test_dice_of_certain_predictions_is_the_metric_s():
    from sklearn.metrics import f1_score

    guesses = RNG.integers(0, 2, MASK.shape)
    logits = 1e3 * np.eye(2, dtype=np.float32)[guesses]
    value = jax.jit(partial(losses.dice, smoothing=0.0))(logits, MASK % 2)
    expected = [1 - f1_score(m.ravel() % 2, g.ravel()) for m, g in zip(MASK, guesses, strict=True)]
    np.testing.assert_allclose(value, expected, rtol=1e-5)


@pytest.mark.parametrize("loss", [losses.cross_entropy, losses.focal, losses.dice])
def test_missing_pixels_count_for_nothing(loss):
    there = np.ones((2, 4, 5), bool)
    there[:, 1:3] = False
    spoilt = np.where(there[..., None], LOGITS, 50.0).astype(np.float32)
    empty, missing = np.full_like(MASK, -1), np.where(there, MASK, -1)

    @jax.jit
    def all_of_them(spoilt, missing, weights):
        return (
            loss(spoilt, missing),
            loss(LOGITS, MASK, weights),
            loss(spoilt, jnp.where(missing < 0, 255, missing).astype(jnp.uint8)),
            jax.grad(lambda x: loss(x, empty).sum())(spoilt),
        )

    value, weighted, unsigned, gradient = all_of_them(spoilt, missing, there.astype(np.float32))
    np.testing.assert_allclose(value, weighted, rtol=1e-5)
    np.testing.assert_allclose(unsigned, value)
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("loss", [losses.cross_entropy, losses.focal, losses.dice])
def test_gradients_are_finite_where_all_is_right(loss):
    logits = 1e3 * np.eye(3, dtype=np.float32)[MASK]
    value, gradient = jax.jit(jax.value_and_grad(lambda x: loss(x, MASK).sum()))(logits)
    assert value == pytest.approx(0, abs=1e-5) and np.isfinite(gradient).all()


POINTS = np.array([[[3.0, 4.5], [0.0, 0.0], [np.nan] * 2], [[np.nan] * 2] * 3], np.float32)


def test_a_heat_map_is_1_at_its_points():
    heat = np.asarray(jax.jit(losses.heat_map, static_argnums=1)(POINTS, (8, 9), 1.5))
    grid = np.stack(np.meshgrid(np.arange(8), np.arange(9), indexing="ij"), -1)
    one, other = (np.exp(-((grid - p) ** 2).sum(-1) / (2 * 1.5**2)) for p in POINTS[0, :2])
    np.testing.assert_allclose(heat[0], np.maximum(one, other), rtol=1e-5)
    assert (heat[1] == 0).all()


def test_a_density_adds_up_to_the_count():
    density_map = jax.jit(losses.density_map, static_argnums=1)
    density = np.asarray(density_map(POINTS, (8, 9), 1.5))
    np.testing.assert_allclose(density.sum((1, 2)), [2, 0], rtol=1e-5)
    far = np.array([[[20.0, 20.0]]], np.float32)  # no border is near
    gauss = stats.multivariate_normal([20, 20], 1.5**2).pdf(np.argwhere(np.ones((41, 41))))
    density = np.asarray(density_map(far, (41, 41), 1.5))[0]
    np.testing.assert_allclose(density.ravel(), gauss, atol=1e-6)


def test_map_error_is_a_weighted_mean():
    a, b = RNG.normal(size=(2, 3, 4, 5)).astype(np.float32)
    w = RNG.uniform(size=(3, 4, 5)).astype(np.float32)
    plain, weighted = jax.jit(lambda *a: (losses.map_error(*a[:2]), losses.map_error(*a)))(a, b, w)
    np.testing.assert_allclose(plain, ((a - b) ** 2).mean((1, 2)), rtol=1e-5)
    expected = [np.average(d**2, weights=v) for d, v in zip(a - b, w, strict=True)]
    np.testing.assert_allclose(weighted, expected, rtol=1e-5)
