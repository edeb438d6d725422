"""The multilayer perceptron."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdl.types import Variables

ACTIVATIONS = {"tanh": jnp.tanh, "sin": jnp.sin, "swish": jax.nn.swish, "gelu": jax.nn.gelu}


class MLP(nn.Module):
    """Dense layers with an activation between them: ``h <- a(h W + b)``, the last without ``a``.

    Kernels are Glorot's normal ones, biases begin at zero. Parameters have the dtype that JAX
    computes in: float64 where ``jax_enable_x64`` is set.

    Attributes:
      hidden: the widths of the hidden layers.
      outputs: the width of the last.
      activation: acts on each number alone.
    """

    hidden: tuple[int, ...]
    outputs: int = 1
    activation: Callable[[Array], Array] = jnp.tanh

    @nn.compact
    def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b outputs"]:
        for i, width in enumerate((*self.hidden, self.outputs)):
            start = nn.initializers.glorot_normal()
            x = nn.Dense(width, kernel_init=start, param_dtype=x.dtype, name=f"layer_{i}")(x)
            x = self.activation(x) if i < len(self.hidden) else x
        return x


def dense_layers(variables: Variables) -> list[tuple[Float[Array, "m n"], Float[Array, " n"]]]:
    """Kernel and bias of each layer of an :class:`MLP`, from its variables."""
    params = variables["params"]
    layers = [params[f"layer_{i}"] for i in range(len(params))]
    return [(layer["kernel"], layer["bias"]) for layer in layers]
