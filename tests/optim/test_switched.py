"""An optimizer that is a number, against each optimizer itself."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdl.optim.switched import switched

RULES = [optax.sgd(0.1), optax.sgd(0.1, 0.9), optax.adamw(0.1, weight_decay=0.5)]
PARAMS = {"w": jnp.array([1.0, -2.0])}
GRADIENTS = [{"w": jnp.array([0.5, 1.0]) * k} for k in (1.0, -2.0, 3.0)]


def trained(rule):
    params, state = PARAMS, rule.init(PARAMS)
    for gradient in GRADIENTS:
        updates, state = rule.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return params["w"], state


def test_a_population_has_the_updates_of_each_rule():
    run = jax.jit(jax.vmap(lambda index: trained(switched(index, RULES))))
    together, states = run(jnp.arange(3))
    for index, rule in enumerate(RULES):
        params, state = jax.jit(partial(trained, rule))()
        np.testing.assert_allclose(together[index], params, rtol=1e-6)
        own, other = (jax.tree.map(lambda x, i=i: x[i], states[index]) for i in (index, index - 1))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), own, state)
        jax.tree.map(np.testing.assert_array_equal, other, rule.init(PARAMS))
