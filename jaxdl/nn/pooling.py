"""Pooling whose gradients stay fast inside loops on every platform.

Values are those of `lax.reduce_window`, gradients those that autodiff gives it, but made of slices
and padding alone, which are fast inside `scan`, `while` and `lax.map` on CPU, too.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxdl.types import AnyArray


def max_pool(
    x: Float[AnyArray, "n h w c"], *, window: int = 2, stride: int | None = None
) -> Float[Array, "n oh ow c"]:
    """The maximum over ``window x window`` pixels every ``stride`` (default: the window).

    No padding: rows and columns that do not fill a window are left out. In a tie the gradient
    goes to the first maximum in row-major order, as in XLA's and PyTorch's own pooling.

    Raises:
      ValueError: if the image is smaller than the window.
    """
    if min(x.shape[1:3]) < window:
        raise ValueError(f"a pooling window of {window} does not fit an image of {x.shape[1:3]}")
    return _pool(jnp.asarray(x), window, stride or window)


def _views(x: Array, window: int, stride: int) -> list[tuple[tuple[int, int], Array]]:
    """The pixels at each offset of the window, in every window."""
    h, w = ((size - window) // stride + 1 for size in x.shape[1:3])
    return [
        ((i, j), x[:, i : i + (h - 1) * stride + 1 : stride, j : j + (w - 1) * stride + 1 : stride])
        for i in range(window)
        for j in range(window)
    ]


def patches(
    x: Float[AnyArray, "n h w c"], *, window: int, stride: int
) -> Float[Array, "n oh ow _ c"]:
    """The ``window x window`` pixels of every window, ``stride`` pixels apart, row by row.

    Raises:
      ValueError: if the image is smaller than the window.
    """
    if min(x.shape[1:3]) < window:
        raise ValueError(f"a window of {window} does not fit an image of {x.shape[1:3]}")
    return jnp.stack([view for _, view in _views(jnp.asarray(x), window, stride)], 3)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _pool(x: Array, window: int, stride: int) -> Array:
    (_, y), *shifted = _views(x, window, stride)
    for _, view in shifted:
        y = jnp.maximum(y, view)
    return y


def _pool_forward(x: Array, window: int, stride: int) -> tuple[Array, tuple[Array, Array]]:
    # Which pixel won is decided once and kept. To look for it again in the backward pass, where
    # ``x == y``, loses gradients: XLA may compute x anew there and round it otherwise.
    (_, y), *shifted = _views(x, window, stride)
    winner = jnp.zeros(y.shape, jnp.int32 if window > 11 else jnp.int8)
    for index, (_, view) in enumerate(shifted, 1):
        winner = jnp.where(view > y, jnp.asarray(index, winner.dtype), winner)
        y = jnp.maximum(y, view)
    return y, (winner, jnp.zeros((0, *x.shape[1:]), x.dtype))  # the shape, without the values


def _pool_backward(window: int, stride: int, saved: tuple[Array, Array], g: Array) -> tuple[Array]:
    winner, template = saved
    (h, w), (oh, ow) = template.shape[1:3], g.shape[1:3]
    dx = jnp.zeros((len(g), *template.shape[1:]), g.dtype)
    for index in range(window * window):
        i, j = divmod(index, window)
        # Put the gradient back where the view took its pixels from, zeros between.
        rest = [h - i - (oh - 1) * stride - 1, w - j - (ow - 1) * stride - 1]
        around = ((0, 0, 0), (i, rest[0], stride - 1), (j, rest[1], stride - 1), (0, 0, 0))
        dx += lax.pad(jnp.where(winner == index, g, 0), jnp.zeros((), g.dtype), around)
    return (dx,)


_pool.defvjp(_pool_forward, _pool_backward)
