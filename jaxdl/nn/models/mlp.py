"""The multilayer perceptron."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdl.types import AnyArray, Variables

ACTIVATIONS = {"tanh": jnp.tanh, "sin": jnp.sin, "swish": jax.nn.swish, "gelu": jax.nn.gelu}


class MLP(nn.Module):
    """Dense layers with an activation between them: ``h <- a(h W + b)``, the last without ``a``.

    Kernels are Glorot's normal ones, biases begin at zero. Parameters have the dtype of the input.

    Attributes:
      hidden: the widths of the hidden layers.
      outputs: the width of the last.
      activation: acts on each number alone.
      steepness: of the first layer, at least 1: its kernel begins that many times as large, its
        biases evenly random up to ``steepness - 1``. Its units then turn at places all over the
        domain, as functions that oscillate need.
    """

    hidden: tuple[int, ...]
    outputs: int = 1
    activation: Callable[[Array], Array] = jnp.tanh
    steepness: float = 1.0

    @nn.compact
    def __call__(self, x: Float[AnyArray, "*b d"]) -> Float[AnyArray, "*b outputs"]:
        for i, width in enumerate((*self.hidden, self.outputs)):
            # The variance of a Glorot start is 1 / (mean of the numbers of inputs and outputs).
            steepness = self.steepness if i == 0 else 1.0
            kernel = nn.initializers.variance_scaling(steepness**2, "fan_avg", "truncated_normal")

            def bias(key, shape, dtype, limit=steepness - 1):
                return jax.random.uniform(key, shape, dtype, -limit, limit)

            name = f"layer_{i}"
            x = nn.Dense(width, kernel_init=kernel, bias_init=bias, param_dtype=x.dtype, name=name)(
                x
            )
            x = self.activation(x) if i < len(self.hidden) else x
        return x


def dense_layers(variables: Variables) -> list[tuple[Float[Array, "_ _"], Float[Array, " _"]]]:
    """Kernel and bias of each layer of an :class:`MLP`, from its variables."""
    params = variables["params"]
    layers = [params[f"layer_{i}"] for i in range(len(params))]
    return [(layer["kernel"], layer["bias"]) for layer in layers]
