"""Layers one after the other, and their links counted."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdl.nn.layers import Dropout
from jaxdl.types import AnyArray, Scalar


class Stack(nn.Module):
    """Layers with an activation after each but the last; dense ones flatten their inputs."""

    layers: tuple[nn.Module, ...]
    """Layers, named ``layers_0``, ``layers_1``, …; any range of them can be applied alone."""
    activation: Callable[[Array], Array]
    """An elementwise function."""
    dropout: Scalar = 0.0
    """Dropout rate of the inputs of dense layers, in training; may be traced."""
    side: int = 0
    """The side to which smaller images are padded by repeating their borders."""

    @property
    def depth(self) -> int:
        """The number of layers; the last one gives the outputs."""
        return len(self.layers)

    @nn.compact
    def __call__(
        self,
        x: Float[AnyArray, "b ..."],
        train: bool = False,
        *,
        start: int = 0,
        stop: int | None = None,
    ) -> Float[AnyArray, "b ..."]:
        """Apply layers ``start + 1 … stop`` (default: all) to inputs or to activations.

        Raises:
          ValueError: for anything but images [b, h, w, c] where the first layer is not dense.
        """
        if start == 0 and not isinstance(self.layers[0], nn.Dense):
            if x.ndim != 4:
                raise ValueError(f"this network needs images [b, h, w, c], got {list(x.shape)}")
            missing = [max(0, self.side - size) for size in x.shape[1:3]]
            border = [(size // 2, size - size // 2) for size in missing]
            x = jnp.pad(x, ((0, 0), *border, (0, 0)), mode="edge")
        for i in range(start, self.depth if stop is None else stop):
            if isinstance(self.layers[i], nn.Dense):
                x = x.reshape(x.shape[0], -1)
                rate = self.dropout if i else 0.0
                x = Dropout(rate, deterministic=not train, name=f"dropout_{i}")(x)
            x = self.layers[i](x)
            x = x if i == self.depth - 1 else self.activation(jnp.asarray(x))
        return x


def count_links(model: Stack, shape: tuple[int, ...]) -> list[int]:
    """The number of links into each layer, for inputs of this shape, [h, w, c] say: pairs of a unit
    and a parameter by which its state has a derivative. Biases are links.

    It is measured at one random input, by an activation of the identity.
    """
    model = model.clone(activation=jax.nn.identity)
    x = jax.random.normal(jax.random.key(0), (1, *shape))
    params, links = jax.jit(model.init)(jax.random.key(1), x)["params"], []
    for i in range(model.depth):
        name = f"layers_{i}"

        def layer(params, x, i=i, name=name):
            return model.apply({"params": {name: params}}, x, start=i, stop=i + 1)

        def count(params, x, layer=layer):
            derivatives = jax.tree.leaves(jax.jacrev(layer)(params, x))
            return sum(map(jnp.count_nonzero, derivatives)), layer(params, x)

        number, x = jax.jit(count)(params[name], x)
        links.append(int(number))
    return links
