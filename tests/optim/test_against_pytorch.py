"""Optimizers beside PyTorch's, where it is installed."""

import jax
import numpy as np
import optax
import pytest

from jaxdl.optim import make_optimizer

RNG = np.random.default_rng(0)
KERNEL = RNG.normal(size=(5, 3)).astype(np.float32)
GRADS = RNG.normal(size=(6, 5, 3)).astype(np.float32)
RATE, DECAY = 0.05, 0.1

TINY = {"eps": 1e-20}  # PyTorch adds it to the root, the paper and Optax to what is under it
RULES = {  # ours, and the name and the options of PyTorch's
    "sgd": ({}, "SGD", {}),
    "momentum": ({}, "SGD", {"momentum": 0.9}),
    "nesterov": ({}, "SGD", {"momentum": 0.9, "nesterov": True}),
    "adagrad": (TINY, "Adagrad", TINY),
    "adadelta": ({}, "Adadelta", {"rho": 0.95, "eps": 1e-6}),
    "rmsprop": (TINY, "RMSprop", {"alpha": 0.9, **TINY}),
    "adam": ({}, "Adam", {}),
    "adamw": ({}, "AdamW", {}),
}


def ours(name, grads, **options):
    """The kernel after the steps."""
    rule = make_optimizer(name, RATE, weight_decay=DECAY, **options)
    params = {"kernel": KERNEL}
    state, update = rule.init(params), jax.jit(rule.update)
    for g in grads:
        updates, state = update({"kernel": g}, state, params)
        params = optax.apply_updates(params, updates)
    return params["kernel"]


def theirs(name, grads, **options):
    import torch

    kernel = torch.nn.Parameter(torch.tensor(KERNEL))
    rule = getattr(torch.optim, name)([kernel], lr=RATE, weight_decay=DECAY, **options)
    for g in grads:
        kernel.grad = torch.tensor(g)
        rule.step()
    return kernel.detach().numpy()


@pytest.mark.slow
@pytest.mark.parametrize("name", RULES)
def test_steps_are_pytorch_s(name):
    pytest.importorskip("torch")
    options, other, other_options = RULES[name]
    np.testing.assert_allclose(
        ours(name, GRADS, **options), theirs(other, GRADS, **other_options), rtol=1e-5, atol=1e-5
    )


@pytest.mark.slow
def test_a_first_step_of_muon_is_pytorch_s():
    """Which is in bfloat16; later ones mix momentum and gradient in other parts, as Optax divides
    both by the sums of their weights."""
    pytest.importorskip("torch")
    other = theirs("Muon", GRADS[:1], adjust_lr_fn="match_rms_adamw")
    ours_moved, moved = ours("muon", GRADS[:1]) - KERNEL, other - KERNEL
    np.testing.assert_allclose(ours_moved, moved, atol=0.02 * np.abs(moved).max())
