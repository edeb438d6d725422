"""Convolutions whose gradients stay fast inside loops on every platform.

XLA:CPU has a fast convolution for one layout only (NHWC inputs, HWIO kernels, stride 1), and it is
fast where there are many channels. What automatic differentiation writes for the two gradients has
other layouts, and inside `scan`, `while` and `lax.map` nothing moves them back: a training step
there is some ten times slower (https://github.com/jax-ml/jax/issues/12868). So on CPU large
convolutions of 2 to 5 taps are matrix products of tiles (:mod:`jaxdl.nn.winograd`); of others both
gradients, and images of few channels, are spelled here as convolutions of the fast kind. Values are
those of `lax.conv_general_dilated`, gradients those of autodiff, up to rounding.
"""

import math
from collections.abc import Sequence
from functools import partial, reduce

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxdl.nn.winograd import Tiles, choose_tiles, convolve_tiles, images_per_chunk
from jaxdl.types import AnyArray, Integer

Padding = str | Sequence[tuple[int, int]]

_LAYOUT = ("NHWC", "HWIO", "NHWC")
_NONE = (0, 0, 0)  # padding of an axis


def convolution(
    x: Float[AnyArray, "n h w c"],
    kernel: Float[AnyArray, "kh kw c_group o"],
    *,
    stride: int = 1,
    padding: Padding = "SAME",
    groups: int = 1,
) -> Float[Array, "n oh ow o"]:
    """2-D cross-correlation ``y[p, o] = sum_{d, c} x[stride * p + d, c] kernel[d, c, o]``.

    Differentiable in reverse mode only.

    Args:
      x: images.
      kernel: filters; with ``groups > 1`` each group of ``o / groups`` filters sees its own
        ``c_group = c / groups`` channels.
      stride: stride in both directions.
      padding: "SAME", "VALID" or ((top, bottom), (left, right)).

    Raises:
      ValueError: for what is no images, if the channels do not fit the kernel and the groups, or
        the image is smaller than the kernel.
    """
    x, kernel = jnp.asarray(x), jnp.asarray(kernel)
    if x.ndim != 4:
        raise ValueError(f"a convolution needs images [n, h, w, c], not an array {[*x.shape]}")
    if not isinstance(stride, int) or stride < 1:
        raise ValueError(f"stride={stride}: give one whole number from 1, for both directions")
    channels, filters = x.shape[-1], kernel.shape[-1]
    if channels != groups * kernel.shape[2] or filters % groups:
        raise ValueError(
            f"{channels} channels, {groups} groups and {filters} filters need a kernel of "
            f"{channels // groups} input channels, got {kernel.shape[2]}"
        )
    if groups > 1:
        parts = zip(jnp.split(x, groups, -1), jnp.split(kernel, groups, -1), strict=True)
        return jnp.concatenate(
            [convolution(a, k, stride=stride, padding=padding) for a, k in parts], -1
        )
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], (stride, stride), padding)
    padding = tuple((int(low), int(high)) for low, high in padding)
    padded = tuple(n + low + high for n, (low, high) in zip(x.shape[1:3], padding, strict=True))
    if any(n < k for n, k in zip(padded, kernel.shape[:2], strict=True)):
        raise ValueError(f"a kernel of {kernel.shape[:2]} does not fit a padded image of {padded}")
    if stride > 1:
        x, kernel = _stride_to_channels(x, kernel, stride, padding)
        padding = ((0, 0), (0, 0))
    # A custom gradient must have the type of its argument. Under shard_map, of a replicated kernel
    # and a divided batch, that would be a sum over the devices, which `_convolve` knows nothing
    # of. An empty sum of the one, which is 0, makes the other vary over the same mesh axes first;
    # JAX then takes the sum where it transposes that step.
    kernel = kernel + jnp.sum(x.reshape(-1)[:0])
    x = x + jnp.sum(kernel.reshape(-1)[:0])
    return _convolve(x, kernel, padding)


def _stride_to_channels(
    x: Float[Array, "n h w c"],
    kernel: Float[Array, "kh kw c o"],
    stride: int,
    padding: tuple[tuple[int, int], ...],
) -> tuple[Float[Array, "n hs ws css"], Float[Array, "khs kws css o"]]:
    """Rewrite a strided convolution as a dense one over blocks of ``stride x stride`` pixels.

    Both kernel and image are cut into blocks whose pixels become channels; the kernel is filled
    with zeros to whole blocks. The products are the same, and stride 1 is the fast case.
    """
    pads, fills = [], []
    for size, width, (low, high) in zip(x.shape[1:3], kernel.shape[:2], padding, strict=True):
        outputs = (size + low + high - width) // stride + 1
        blocks = -(-width // stride)
        pads.append((low, (outputs + blocks - 1) * stride - size - low, 0))
        fills.append((0, blocks * stride - width, 0))
    x = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *pads, (0, 0, 0)))
    kernel = lax.pad(kernel, jnp.zeros((), kernel.dtype), (*fills, (0, 0, 0), (0, 0, 0)))
    n, h, w, c = x.shape
    x = x.reshape(n, h // stride, stride, w // stride, stride, c)
    x = x.transpose(0, 1, 3, 2, 4, 5).reshape(n, h // stride, w // stride, -1)
    kh, kw, _, o = kernel.shape
    kernel = kernel.reshape(kh // stride, stride, kw // stride, stride, c, o)
    kernel = kernel.transpose(0, 2, 1, 3, 4, 5).reshape(kh // stride, kw // stride, -1, o)
    return x, kernel


def _dense(x: Array, kernel: Array, padding: tuple[tuple[int, int], ...]) -> Array:
    return lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=_LAYOUT)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolve(x: Array, kernel: Array, padding: tuple[tuple[int, int], ...]) -> Array:
    dense = partial(_dense, padding=padding)
    if tiles := choose_tiles(x, kernel, padding):
        on_cpu = partial(_tiled, padding=padding, tiles=tiles)
    elif x.shape[-1] <= 4 and kernel.shape[-1] <= 32:
        on_cpu = partial(_dense_by_blocks, padding=padding)
    else:
        return dense(x, kernel)
    return lax.platform_dependent(x, kernel, cpu=on_cpu, default=dense)


def _tiled(
    x: Array, kernel: Array, padding: tuple[tuple[int, int], ...], tiles: tuple[Tiles, ...]
) -> Array:
    """:func:`convolve_tiles` in chunks."""
    (chunks,) = _chunks(images_per_chunk(kernel, tiles), x)
    y = lax.map(lambda x: convolve_tiles(x, kernel, padding, tiles), chunks)
    return y.reshape(-1, *y.shape[2:])


def _dense_by_blocks(x: Array, kernel: Array, padding: tuple[tuple[int, int], ...]) -> Array:
    """:func:`_dense` of few channels, where the time goes into reading images: the kernel at its
    four shifts by a pixel gives 2 x 2 pixels of the output at once, as four times the filters, and
    reads blocks of 2 x 2 pixels, as four times the channels."""
    oh, ow = (
        size + sum(pads) - width + 1
        for size, width, pads in zip(x.shape[1:3], kernel.shape[:2], padding, strict=True)
    )
    shifts = [(i, j) for i in range(2) for j in range(2)]
    shifted = [jnp.pad(kernel, ((i, 1 - i), (j, 1 - j), (0, 0), (0, 0))) for i, j in shifts]
    # A row or column of zeros more where the output has an odd number of them.
    padding = tuple(
        (low, high + size % 2) for size, (low, high) in zip((oh, ow), padding, strict=True)
    )
    x, kernel = _stride_to_channels(x, jnp.concatenate(shifted, -1), 2, padding)
    padding = ((0, 0), (0, 0))
    tiles = choose_tiles(x, kernel, padding)
    y = _tiled(x, kernel, padding, tiles) if tiles else _dense(x, kernel, padding)
    n, bh, bw, filters = y.shape
    y = y.reshape(n, bh, bw, 2, 2, filters // 4).transpose(0, 1, 3, 2, 4, 5)
    return y.reshape(n, 2 * bh, 2 * bw, filters // 4)[:, :oh, :ow]


def _convolve_forward(x: Array, kernel: Array, padding: tuple) -> tuple[Array, tuple]:
    return _convolve(x, kernel, padding), (x, kernel)


def _convolve_backward(padding: tuple, saved: tuple[Array, Array], g: Array) -> tuple:
    tiles = choose_tiles(*saved, padding)

    def tiled(x: Array, kernel: Array, g: Array) -> tuple[Array, Array]:
        def gradients(total: Array, chunk: tuple[Array, ...]) -> tuple[Array, Array]:
            x, g = chunk
            _, back = jax.vjp(lambda x, k: convolve_tiles(x, k, padding, tiles), x, kernel)
            dx, dkernel = back(g)
            return total + dkernel, dx

        # An empty sum lets the zeros vary over the devices that the kernel does.
        zeros = jnp.zeros_like(kernel) + jnp.sum(kernel.reshape(-1)[:0])
        dkernel, dx = lax.scan(gradients, zeros, _chunks(images_per_chunk(kernel, tiles), x, g))
        return dx.reshape(x.shape), dkernel

    def canonical(x: Array, kernel: Array, g: Array) -> tuple[Array, Array]:
        # As many as stay in a core's cache while a convolution moves their axes; but 8 may be in a
        # chunk, and as many as have 1,024 pixels: each makes a whole kernel's gradient.
        pixels = max(1, math.prod(g.shape[1:3]))
        limit = max(8, 1024 // pixels, 3 * 2**18 // max(1, x[0].nbytes + g[0].nbytes))
        chunks = _chunks(limit, x, g)
        dx = lax.map(lambda g: _image_gradient(kernel, g, padding, x.shape[1]), chunks[1])
        dkernel = lax.map(lambda chunk: _kernel_gradient(chunk[0], chunk[1], padding), chunks)
        return dx.reshape(x.shape), jnp.sum(dkernel, 0)

    def autodiff(x: Array, kernel: Array, g: Array) -> tuple[Array, Array]:
        return jax.vjp(lambda x, kernel: _dense(x, kernel, padding), x, kernel)[1](g)

    return lax.platform_dependent(*saved, g, cpu=tiled if tiles else canonical, default=autodiff)


def _chunks(limit: int, *arrays: Array) -> tuple[Array, ...]:
    """Arrays [n, ...] in equal chunks [chunks, size, ...] of at most ``limit`` examples, of the
    greatest divisor of n; in one where that is below a quarter of the limit."""
    n = len(arrays[0])
    limit = max(1, min(n, limit))
    size = max(d for d in range(1, limit + 1) if n % d == 0)
    size = n if 4 * size < limit else size
    return tuple(array.reshape(-1, size, *array.shape[1:]) for array in arrays)


def _image_gradient(kernel: Array, g: Array, padding: tuple, rows: int) -> Array:
    """``dL/dx[p] = sum_d g[p - d] kernel[d]``: a convolution with the kernel turned by 180 degrees.

    Where ``g`` has fewer rows than the images, the kernel's rows come as filters of their own, of
    convolutions along the width, whose outputs are shifted and added: no products with padding.
    """
    kh, kw, c, o = kernel.shape
    turned = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
    (top, bottom), across = (
        (width - 1 - low, width - 1 - high)
        for width, (low, high) in zip((kh, kw), padding, strict=True)
    )
    if g.shape[1] >= rows:
        return _dense(g, turned, ((top, bottom), across))
    filters = turned.transpose(1, 2, 0, 3).reshape(1, kw, o, kh * c)
    by_row = jnp.split(_dense(g, filters, ((0, 0), across)), kh, -1)
    return reduce(
        jnp.add,
        (
            lax.pad(
                y, jnp.zeros((), y.dtype), (_NONE, (top - i, bottom - kh + 1 + i, 0), _NONE, _NONE)
            )
            for i, y in enumerate(by_row)
        ),
    )


def _kernel_gradient(x: Array, g: Array, padding: tuple) -> Array:
    """``dL/dkernel[d] = sum_{n, p} x[n, p + d] g[n, p]``: examples play the part of channels."""
    dkernel = _dense(x.transpose(3, 1, 2, 0), g.transpose(1, 2, 0, 3), padding)
    return dkernel.transpose(1, 2, 0, 3)


_convolve.defvjp(_convolve_forward, _convolve_backward)


def depthwise_convolution(
    x: Float[AnyArray, "n h w c"],
    kernel: Float[AnyArray, "k k 1 c"],
    *,
    stride: int = 1,
    padding: Padding = "SAME",
) -> Float[Array, "n oh ow c"]:
    """:func:`convolution` of each channel by itself, ``y[p, c] = sum_d x[stride p + d, c]
    kernel[d, 0, c]``, with as many groups as channels.

    XLA:CPU has no fast one: in the backward pass it is a hundred times slower than the sum over d
    that is taken here, image by image so that an image stays in the core's cache.

    Differentiable in reverse mode only.
    """
    x, kernel = jnp.asarray(x), jnp.asarray(kernel)
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], (stride, stride), padding)
    x = jnp.pad(x, ((0, 0), *((int(low), int(high)) for low, high in padding), (0, 0)))
    kernel = kernel + jnp.sum(x.reshape(-1)[:0])  # as in `convolution`
    x = x + jnp.sum(kernel.reshape(-1)[:0])

    def native(x: Array, kernel: Array) -> Array:
        groups, strides = x.shape[-1], (stride, stride)
        return lax.conv_general_dilated(
            x,
            kernel,
            strides,
            "VALID",
            dimension_numbers=_LAYOUT,
            feature_group_count=groups,
        )

    by_taps = partial(_depthwise, stride=stride)
    return lax.platform_dependent(x, kernel, cpu=by_taps, default=native)


def _tap(image: Array, t: Integer, width: int, stride: int, shape: Sequence[int]) -> Array:
    """The pixel at offset t, in row-major order, of every window of an image."""
    rows, columns = ((size - 1) * stride + 1 for size in shape)
    corner = (t // width, t % width, 0)
    window = lax.dynamic_slice(image, corner, (rows, columns, image.shape[-1]))
    return window[::stride, ::stride]


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _depthwise(x: Array, kernel: Array, stride: int) -> Array:
    width, weights = kernel.shape[0], kernel.reshape(-1, 1, 1, kernel.shape[-1])
    shape = [(size - width) // stride + 1 for size in x.shape[1:3]]

    def convolve(image: Array) -> Array:
        def add(t: Array, y: Array) -> Array:
            return y + _tap(image, t, width, stride, shape) * weights[t]

        # The first one begins the sum, so that it varies over the devices that images do.
        return lax.fori_loop(
            1, width * width, add, _tap(image, 0, width, stride, shape) * weights[0]
        )

    return lax.map(convolve, x)


def _depthwise_forward(x: Array, kernel: Array, stride: int) -> tuple[Array, tuple[Array, Array]]:
    return _depthwise(x, kernel, stride), (x, kernel)


def _depthwise_backward(stride: int, saved: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    x, kernel = saved
    width, shape = kernel.shape[0], g.shape[1:3]
    # As many pixels between those of g as strides left out, and a border of the kernel's reach.
    rest = [n - (size - 1) * stride - 1 for n, size in zip(x.shape[1:3], shape, strict=True)]
    around = [(width - 1, more, stride - 1) for more in rest]
    spread = lax.pad(g, jnp.zeros((), g.dtype), (_NONE, *around, _NONE))
    dx = _depthwise(spread, jnp.flip(kernel, (0, 1)), 1)

    def gradients(pair: tuple[Array, Array]) -> Array:
        image, gradient = pair

        def tap(t: Array) -> Array:
            return jnp.sum(_tap(image, t, width, stride, shape) * gradient, (0, 1))

        return lax.map(tap, jnp.arange(width * width))

    return dx, jnp.sum(lax.map(gradients, (x, g)), 0).reshape(kernel.shape)


_depthwise.defvjp(_depthwise_forward, _depthwise_backward)


def local_response_normalization(
    x: Float[AnyArray, "n h w c"], *, size: int = 5, alpha: float = 1e-4, beta: float = 0.75
) -> Float[Array, "n h w c"]:
    """``x_c / (1 + alpha / size * sum_d x_d^2)^beta`` over the ``size`` channels d around c.

    Krizhevsky, Sutskever & Hinton 2012, with the ``alpha / size`` of Caffe; channels beyond the
    first and last are 0.

    Raises:
      ValueError: for an even size, which has no middle.
    """
    if size % 2 == 0:
        raise ValueError(f"a window of {size} channels has no middle: choose an odd size")
    x, reach, channels = jnp.asarray(x), size // 2, x.shape[-1]
    squares = jnp.pad(x * x, ((0, 0), (0, 0), (0, 0), (reach, reach)))
    total = sum(squares[..., i : i + channels] for i in range(size))
    return x * (1 + alpha / size * total) ** -beta
