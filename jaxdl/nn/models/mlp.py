"""The multilayer perceptron."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdl.nn.layers import ACTIVATIONS, Dropout, GaussianNoise
from jaxdl.types import AnyArray, Scalar, Variables


class PerceptronLayer(nn.Module):
    """``x W + b`` or, normalized, ``norm(x W)``: normalization would take a bias off again."""

    width: int
    kernel: nn.initializers.Initializer
    bias: nn.initializers.Initializer
    batch_norm: bool
    axis_name: str | None

    @nn.compact
    def __call__(self, x: Float[AnyArray, "b d"], train: bool) -> Float[AnyArray, "b width"]:
        x = x @ self.param("kernel", self.kernel, (x.shape[-1], self.width), x.dtype)
        if self.batch_norm:
            norm = nn.BatchNorm(
                use_running_average=not train, axis_name=self.axis_name, param_dtype=x.dtype
            )
            return norm(x)
        return x + self.param("bias", self.bias, (self.width,), x.dtype)[None]


class MLP(nn.Module):
    """Dense layers with an activation between them: ``h <- a(h W + b)``, the last without ``a``.

    Inputs [b, ...] are flattened. Kernels are normal, truncated at two deviations, with Glorot's
    variance or He's; biases begin at zero. Parameters have the dtype of the input. Layers are
    named ``layer_0``, ``layer_1``, …, and any stretch of them can be applied alone.
    """

    hidden: tuple[int, ...]
    """The widths of the hidden layers."""
    outputs: int = 1
    """The width of the output layer."""
    activation: Callable[[Array], Array] = jnp.tanh
    """An elementwise function."""
    steepness: float = 1.0
    """Factor of the first layer's initial kernel, at least 1; its biases are uniform up to
    ``steepness - 1``. Its units then turn at points all over the domain, as oscillating functions
    need."""
    he: bool = False
    """Whether kernels have He's variance ``2 / inputs``, for ReLU and its relatives (He, Zhang, Ren
    & Sun 2015); else Glorot's ``2 / (inputs + outputs)``, for tanh (Glorot & Bengio 2010)."""
    batch_norm: bool = False
    """Whether to normalize before each activation; there is no bias then."""
    dropout: Scalar = 0.0
    """Dropout rate of hidden units, in training; may be traced."""
    noise: Scalar = 0.0
    """Standard deviation of normal noise on the inputs, in training; may be traced."""
    axis_name: str | None = None
    """The mesh axis over which batch statistics are averaged, under pmap and shard_map."""

    @property
    def depth(self) -> int:
        """The number of layers; the last one gives the outputs."""
        return len(self.hidden) + 1

    @nn.compact
    def __call__(
        self,
        x: Float[AnyArray, "b ..."],
        train: bool = False,
        *,
        start: int = 0,
        stop: int | None = None,
    ) -> Float[AnyArray, "b _"]:
        """Apply layers ``start + 1 … stop`` (default: all) to inputs or to activations."""
        x = x.reshape(x.shape[0], -1)
        widths = (*self.hidden, self.outputs)
        for i in range(start, self.depth if stop is None else stop):
            if i == 0:
                x = GaussianNoise(self.noise, deterministic=not train, name="noise")(x)
            else:
                x = Dropout(self.dropout, deterministic=not train, name=f"dropout_{i}")(x)
            # The variance of a Glorot start is 1 / (mean of the numbers of inputs and outputs).
            steepness = self.steepness if i == 0 else 1.0
            kernel = nn.initializers.variance_scaling(
                (2.0 if self.he else 1.0) * steepness**2,
                "fan_in" if self.he else "fan_avg",
                "truncated_normal",
            )

            def bias(key, shape, dtype, limit=steepness - 1):
                return jax.random.uniform(key, shape, dtype, -limit, limit)

            last = i == len(self.hidden)
            norm = self.batch_norm and not last, self.axis_name
            x = PerceptronLayer(widths[i], kernel, bias, *norm, name=f"layer_{i}")(x, train)
            x = x if last else self.activation(jnp.asarray(x))
        return x


def dense_layers(variables: Variables) -> list[tuple[Any, Any]]:
    """Kernel [inputs, units] and bias [units] of each layer of an :class:`MLP`, from its variables,
    arrays of JAX or NumPy as these are."""
    params = variables["params"]
    layers = [params[f"layer_{i}"] for i in range(len(params))]
    return [(layer["kernel"], layer["bias"]) for layer in layers]


def mlp(
    outputs: int,
    *,
    axis_name: str | None = None,
    hidden: Sequence[int] = (256, 256),
    activation: str = "relu",
    normalization: str = "",
    dropout: Scalar = 0.0,
    noise: Scalar = 0.0,
    steepness: float = 1.0,
) -> MLP:
    """An :class:`MLP` by settings.

    Args:
      activation: a name in `ACTIVATIONS`. Kernels begin with He's variance for ReLU, leaky ReLU,
        ELU, GELU and Swish, with Glorot's for the others.
      normalization: "batch" before each activation, or "".

    Raises:
      ValueError: for an activation or a normalization of another name.
    """
    for name, value, choices in (
        ("activation", activation, tuple(ACTIVATIONS)),
        ("normalization", normalization, ("", "batch")),
    ):
        if value not in choices:
            options = ", ".join(map(repr, choices))
            raise ValueError(f"{name}={value!r} is none of the choices: take one of {options}")
    return MLP(
        tuple(hidden),
        outputs,
        ACTIVATIONS[activation],
        steepness,
        he=activation in ("relu", "leaky_relu", "elu", "gelu", "swish"),
        batch_norm=normalization == "batch",
        dropout=dropout,
        noise=noise,
        axis_name=axis_name,
    )
