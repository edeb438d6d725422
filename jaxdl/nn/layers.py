"""Layers without parameters that Flax does not have in this form, and activations by name."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxdl.types import AnyArray, Scalar

ACTIVATIONS = {
    "tanh": jnp.tanh,
    "sin": jnp.sin,
    "swish": jax.nn.swish,
    "gelu": jax.nn.gelu,
    "relu": jax.nn.relu,
    "leaky_relu": jax.nn.leaky_relu,
    "elu": jax.nn.elu,
    "sigmoid": jax.nn.sigmoid,
    "identity": jax.nn.identity,
}


class Dropout(nn.Module):
    """Flax's `Dropout`, with the same random numbers, whose rate may be traced, 0 and 1 included:
    so members of a population can differ in it (``model.clone(dropout=hyper["dropout"])``)."""

    rate: Scalar
    deterministic: bool

    @nn.compact
    def __call__(self, x: Float[AnyArray, "b ..."]) -> Float[AnyArray, "b ..."]:
        if self.deterministic or (isinstance(self.rate, int | float) and self.rate == 0):
            return x
        keep = 1.0 - self.rate
        mask = jax.random.bernoulli(self.make_rng("dropout"), keep, x.shape)
        # Where nothing is kept there is nothing to be divided by 0, nor in the gradient.
        return jnp.where(mask, x / jnp.where(keep > 0, keep, 1.0), 0.0).astype(x.dtype)


class GaussianNoise(nn.Module):
    """``x + deviation * n`` with standard normal ``n``, drawn from the key of `Dropout`; the
    deviation may be traced."""

    deviation: Scalar
    deterministic: bool

    @nn.compact
    def __call__(self, x: Float[AnyArray, "b ..."]) -> Float[AnyArray, "b ..."]:
        if self.deterministic or (isinstance(self.deviation, int | float) and self.deviation == 0):
            return x
        noise = jax.random.normal(self.make_rng("dropout"), x.shape, x.dtype)
        return (x + self.deviation * noise).astype(x.dtype)
