"""Distillation against NumPy, and against what its paper says of its gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.nn.losses import distillation

STUDENT, TEACHER = np.random.default_rng(0).normal(size=(2, 6, 5)).astype(np.float32)


def softmax(logits):
    powers = np.exp(np.asarray(logits, np.float64))
    return powers / powers.sum(-1, keepdims=True)


def test_distillation_follows_its_formula_also_where_the_temperature_is_traced():
    temperatures = np.array([1, 2.5, 8], np.float32)
    logits = STUDENT, TEACHER
    losses = jax.jit(jax.vmap(distillation, (None, None, 0)))(*logits, temperatures)
    constant = jax.jit(lambda *a: [distillation(*a, float(t)) for t in temperatures])(*logits)
    for t, ours in zip(temperatures, zip(losses, constant, strict=True), strict=True):
        expected = -np.sum(softmax(TEACHER / t) * np.log(softmax(STUDENT / t)), -1) * t**2
        for loss in ours:
            np.testing.assert_allclose(loss, expected, rtol=1e-5)
    half = jax.jit(distillation)(*(a.astype(jnp.bfloat16) for a in logits), 2.5)
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, losses[1], rtol=0.05)


@jax.jit
def gradients(temperature):
    """By the logits of the student and of the teacher."""

    def total(student, teacher):
        return jnp.sum(distillation(student, teacher, temperature))

    return jax.grad(total, argnums=(0, 1))(jnp.asarray(STUDENT), jnp.asarray(TEACHER))


def test_the_gradient_is_that_of_the_paper_and_at_high_temperature_matches_logits():
    """Equation 2, (q - p) / T, times T²; equation 4, (z - v) / k of centred logits, whose size does
    not depend on the temperature."""
    for t in (1.0, 3.0):
        student, teacher = gradients(t)
        expected = t * (softmax(STUDENT / t) - softmax(TEACHER / t))
        np.testing.assert_allclose(student, expected, rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(teacher, 0)
    difference = STUDENT - TEACHER
    matching = (difference - difference.mean(-1, keepdims=True)) / 5
    error = {t: np.abs(gradients(t)[0] - matching).max() for t in (10.0, 100.0)}
    assert error[100.0] < 0.15 * error[10.0] < 0.01  # falls as 1 / T
    size = [np.linalg.norm(gradients(t)[0]) for t in (20.0, 100.0)]
    assert size[0] == pytest.approx(size[1], rel=0.05)
