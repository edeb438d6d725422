"""Networks as a row of stages, any stretch of which can be applied alone, and stages they share.

The stages of a network are the top-level entries of its parameters, named by their depth as
:func:`jaxdl.nn.layered.layer_names` reads it: ``conv1, block2, …, fc11``. Parameters are float32; a
network computes in its ``dtype`` (bfloat16, say) and gives logits as float32.
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdl.nn import ops, pooling
from jaxdl.types import AnyArray

Stage = tuple[str, Callable[..., nn.Module]]
"""The word before a stage's depth in its name, and its module but for the name."""


class Staged(nn.Module):
    """A network that applies its :meth:`stages` one after another."""

    def stages(self) -> Sequence[Stage]:
        """The stages from the image to the logits."""
        raise NotImplementedError

    @property
    def depth(self) -> int:
        """The number of stages; the last one gives the logits."""
        return len(self.stages())

    def names(self) -> list[str]:
        """The stages' names, from the first to the last."""
        return [f"{word}{depth}" for depth, (word, _) in enumerate(self.stages(), 1)]

    @nn.compact
    def __call__(
        self,
        x: Float[AnyArray, "b ..."],
        *,
        train: bool = False,
        start: int = 0,
        stop: int | None = None,
    ) -> Float[AnyArray, "b ..."]:
        """Apply stages ``start + 1 … stop`` (default: all) to images or to activations.

        Args:
          x: images [b, h, w, c] for ``start = 0``, else the output of stage ``start``.
          train: batch statistics and dropout as in training.
        """
        for (_, stage), name in list(zip(self.stages(), self.names(), strict=True))[start:stop]:
            x = stage(name=name)(x, train)
        return x


def symmetric(kernel: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """PyTorch's padding for an odd kernel: the same on both sides, whatever the stride."""
    return ((kernel // 2, kernel // 2),) * 2


class Conv(nn.Module):
    """A convolution, with a bias or without; ``padding`` is by default :func:`symmetric`.

    With as many groups as channels it is depthwise.
    """

    features: int
    kernel: int = 3
    stride: int = 1
    padding: ops.Padding | None = None
    depthwise: bool = False
    bias: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[AnyArray, "b h w c"]) -> Float[Array, "b oh ow o"]:
        shape = (self.kernel, self.kernel, 1 if self.depthwise else x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.he_normal(), shape).astype(self.dtype)
        padding = symmetric(self.kernel) if self.padding is None else self.padding
        x, stride = jnp.asarray(x, self.dtype), self.stride
        if self.depthwise:
            x = ops.depthwise_convolution(x, kernel, stride=stride, padding=padding)
        elif self.kernel == 1:  # the pixels between the strides are not read
            x = ops.convolution(x[:, ::stride, ::stride], kernel)
        else:
            x = ops.convolution(x, kernel, stride=stride, padding=padding)
        if self.bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,))
            x = x + bias.astype(self.dtype)[None, None, None]
        return x


class ConvStage(nn.Module):
    """``max_pool(relu(conv(x) + bias))``; no pooling for ``pool = 1``."""

    features: int
    kernel: int = 3
    stride: int = 1
    padding: ops.Padding | None = None
    pool: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[AnyArray, "b h w c"], train: bool) -> Float[Array, "b oh ow o"]:
        conv = Conv(
            self.features,
            self.kernel,
            self.stride,
            self.padding,
            bias=True,
            dtype=self.dtype,
            name="conv",
        )
        x = nn.relu(conv(x))
        return pooling.max_pool(x, window=self.pool, stride=2) if self.pool > 1 else x


class DenseStage(nn.Module):
    """``relu(dropout(x) W + b)``; images are averaged to ``grid x grid`` pixels (0: stay as they
    are) and flattened first. The last stage gives logits: no ReLU, float32."""

    features: int
    grid: int = 0
    dropout: float = 0.0
    last: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[AnyArray, "b ..."], train: bool) -> Float[Array, "b o"]:
        if self.grid:
            x = adaptive_mean(x, self.grid)
        x = nn.Dropout(self.dropout, deterministic=not train)(x.reshape(x.shape[0], -1))
        x = nn.Dense(self.features, dtype=self.dtype, name="dense")(x)
        return x.astype(jnp.float32) if self.last else nn.relu(x)


def adaptive_mean(x: Float[AnyArray, "b h w c"], grid: int) -> Float[Array, "b grid grid c"]:
    """Means over ``grid x grid`` windows that cover an image of any size, as PyTorch's adaptive
    pooling does: window i reaches from ``floor(i h / grid)`` to ``ceil((i + 1) h / grid)``."""

    def windows(size: int) -> Float[Array, "grid size"]:
        i, pixel = jnp.arange(grid)[:, None], jnp.arange(size)[None]
        cell = (pixel >= i * size // grid) & (pixel < -(-(i + 1) * size // grid))
        return (cell / cell.sum(1, keepdims=True)).astype(x.dtype)

    if x.shape[1:3] == (grid, grid):
        return jnp.asarray(x)
    precision = jax.lax.Precision.HIGHEST
    rows, columns = windows(x.shape[1]), windows(x.shape[2])
    return jnp.einsum("ih,jw,bhwc->bijc", rows, columns, x, precision=precision)
