"""Penalties against their gradients in closed form, and against weight decay."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdl.optim import make_optimizer, penalized, penalty
from jaxdl.optim.projections import named

RNG = np.random.default_rng(0)
PARAMS = {
    "dense": {
        "kernel": RNG.normal(size=(4, 3)).astype(np.float32),
        "bias": RNG.normal(size=3).astype(np.float32),
    },
    "table": {"embedding": RNG.normal(size=(5, 2)).astype(np.float32)},
}
PARAMS["dense"]["kernel"][1, 2] = 0.0
KEY = jax.random.key(0)


@pytest.mark.parametrize(("l1", "l2"), [(0.3, 0.0), (0.0, 0.7), (0.3, 0.7)])
def test_value_and_gradient(l1, l2):
    value, grads = jax.value_and_grad(penalty)(PARAMS, l1, l2)
    weights = [np.float64(PARAMS["dense"]["kernel"]), np.float64(PARAMS["table"]["embedding"])]
    expected = sum(l1 * np.abs(w).sum() + l2 * (w**2).sum() / 2 for w in weights)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    found = [grads["dense"]["kernel"], grads["table"]["embedding"]]
    for grad, w in zip(found, weights, strict=True):
        np.testing.assert_allclose(grad, l1 * np.sign(w) + l2 * w, rtol=1e-6)
    np.testing.assert_array_equal(grads["dense"]["bias"], 0)


def test_arrays_are_chosen_by_name():
    biases = penalty(PARAMS, 1.0, select=lambda params: named(params, ["bias"]))
    np.testing.assert_allclose(biases, np.abs(PARAMS["dense"]["bias"]).sum(), rtol=1e-6)
    assert penalty(PARAMS, 1.0, select=lambda params: named(params, [])) == 0


def loss_fn(params, collections, batch, hyper, key):
    loss = jnp.sum((batch["x"] @ params["dense"]["kernel"] + params["dense"]["bias"][None]) ** 2)
    return loss, (collections, {"size": loss})


def test_members_may_differ_in_a_penalized_loss():
    """A step of SGD; L2 is what weight decay adds to the gradient."""
    batch = {"x": jnp.ones((2, 4))}
    hypers = {"l1": jnp.asarray([0.0, 0.2, 0.2]), "l2": jnp.asarray([0.5, 0.0, 0.5])}

    @jax.jit
    @jax.vmap
    def step(hyper):
        total = jax.value_and_grad(penalized(loss_fn), has_aux=True)
        (loss, (_, metrics)), grads = total(PARAMS, {}, batch, hyper, KEY)
        return jax.tree.map(lambda w, g: w - 0.1 * g, PARAMS, grads), loss, metrics

    after, losses, metrics = step(hypers)
    plain, (_, _) = loss_fn(PARAMS, {}, batch, {}, KEY)
    np.testing.assert_allclose(metrics["size"], [plain] * 3, rtol=1e-6)
    np.testing.assert_allclose(losses - metrics["penalty"], [plain] * 3, rtol=1e-5)

    rule = make_optimizer("sgd", 0.1, weight_decay=0.5)
    grads = jax.grad(lambda params: loss_fn(params, {}, batch, {}, KEY)[0])(PARAMS)
    decayed = optax.apply_updates(PARAMS, rule.update(grads, rule.init(PARAMS), PARAMS)[0])
    free = jax.tree.map(lambda w, g: w - 0.1 * g, PARAMS, grads)
    for layer, kind in (("dense", "kernel"), ("dense", "bias"), ("table", "embedding")):
        w, found = PARAMS[layer][kind], after[layer][kind]
        shrunk = 0.02 * np.sign(w) * (kind != "bias")
        np.testing.assert_allclose(found[0], decayed[layer][kind], rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(found[1], free[layer][kind] - shrunk, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(found[2], decayed[layer][kind] - shrunk, rtol=1e-6, atol=1e-6)
