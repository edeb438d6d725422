"""LeCun's networks for handwritten digits: what is known of images goes into the links.

- net1 … net5: LeCun 1989, "Generalization and network design strategies", CRG-TR-89-4;
- zip_code: LeCun et al. 1989, "Backpropagation applied to handwritten zip code recognition";
- lenet5: LeCun, Bottou, Bengio & Haffner 1998, "Gradient-based learning applied to document
  recognition".

The output of hidden units is ``squash(z)``. The networks give the ``z`` of their output units, for
a softmax; the loss of 1989 is the squared error of ``squash(z)`` against targets of ±1.
"""

import itertools
import math
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from jaxdl.nn import ops, pooling
from jaxdl.nn.models.stack import Stack
from jaxdl.types import AnyArray, Scalar


def squash(z: Float[AnyArray, "..."]) -> Float[Array, "..."]:
    """``1.7159 tanh(2/3 z)``, which is ±1 at ±1."""
    return 1.7159 * jnp.tanh(2 / 3 * z)


def start(key: Array, shape: tuple[int, ...], dtype=jnp.float32) -> Array:
    """Weights evenly random up to ±2.4 / (number of inputs of a unit)."""
    limit = 2.4 / math.prod(shape[:-1])
    return jax.random.uniform(key, shape, dtype, -limit, limit)


def surround(x: Float[AnyArray, "b h w c"], side: int, stride: int) -> Float[Array, "b ph pw c"]:
    """The papers' background of -1 around the maps, into which the fields at their borders reach:
    there are then as many fields as pixels over the stride, rounded up."""
    pads = lax.padtype_to_pads(x.shape[1:3], (side, side), (stride, stride), "SAME")
    return jnp.pad(x, ((0, 0), *pads, (0, 0)), constant_values=-1.0)


class Local(nn.Module):
    """Locally connected maps: a unit sees a field of ``side x side`` pixels of all maps before,
    with weights of its own, on a background of -1. The kernel is [inputs of a unit, units]."""

    maps: int
    side: int
    stride: int = 2

    @nn.compact
    def __call__(self, x: Float[AnyArray, "b h w c"]) -> Float[Array, "b oh ow maps"]:
        surrounded = surround(x, self.side, self.stride)
        fields = pooling.patches(surrounded, window=self.side, stride=self.stride)
        b, h, w, *field = fields.shape
        inputs, units = math.prod(field), (h, w, self.maps)
        kernel = self.param("kernel", start, (inputs, math.prod(units)))
        bias = self.param("bias", nn.initializers.zeros, units)
        fields, kernel = fields.reshape(b, h, w, inputs), kernel.reshape(inputs, *units)
        return jnp.einsum("bhwi,ihwm->bhwm", fields, kernel) + bias[None]


class Wires(nn.Module):
    """The weights of maps that see as many maps before them, with zeros for those not seen."""

    sources: tuple[tuple[int, ...], ...]
    side: int

    @nn.compact
    def __call__(self, channels: int) -> Float[Array, "side side channels maps"]:
        maps, inputs = len(self.sources), np.array(self.sources).T
        weights = self.param("kernel", start, (self.side, self.side, *inputs.shape))
        kernel = jnp.zeros((self.side, self.side, channels, maps), weights.dtype)
        return kernel.at[:, :, inputs, np.arange(maps)[None]].set(weights)


class Maps(nn.Module):
    """Feature maps: the units of one share their weights, and see a field of ``side x side``
    pixels each."""

    maps: int
    """Number of maps."""
    side: int
    sources: tuple[tuple[int, ...], ...] | None = None
    """For each map, the maps before that it sees; None for all of them."""
    early: bool = True
    """Whether the layer is that of 1989, with fields two pixels apart, on a background of -1, and a
    bias for each unit; else that of 1998, with fields one pixel apart, without background, and a
    bias for each map."""

    @nn.compact
    def __call__(self, x: Float[AnyArray, "b h w c"]) -> Float[Array, "b oh ow maps"]:
        channels, stride = x.shape[-1], 2 if self.early else 1
        if self.sources is None:
            kernel = self.param("kernel", start, (self.side, self.side, channels, self.maps))
        else:
            groups = [tuple(group) for _, group in itertools.groupby(self.sources, len)]
            kernel = jnp.concatenate([Wires(g, self.side)(channels) for g in groups], -1)
        x = surround(x, self.side, stride) if self.early else x
        x = ops.convolution(x, kernel, stride=stride, padding="VALID")
        units = x.shape[1:] if self.early else (self.maps,)
        return x + jnp.broadcast_to(self.param("bias", nn.initializers.zeros, units), x.shape)


class Subsampling(nn.Module):
    """The mean of each 2 x 2 pixels of a map, times the map's scale, plus its bias."""

    @nn.compact
    def __call__(self, x: Float[AnyArray, "b h w c"]) -> Float[Array, "b oh ow c"]:
        scale = self.param("scale", start, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        mean = jnp.mean(pooling.patches(x, window=2, stride=2), 3)
        return mean * scale[None, None, None] + bias[None, None, None]


_dense = partial(nn.Dense, kernel_init=start)
_network = partial(Stack, activation=squash)


def net1(outputs: int, *, axis_name: str | None = None) -> Stack:
    """No hidden layer."""
    return _network((_dense(outputs),))


def net2(outputs: int, *, axis_name: str | None = None) -> Stack:
    """12 hidden units.

    For 16 pixels 12 · 257 + 10 · 13 = 3214 links. The paper's table prints 3240, which 12 outputs
    would have; no number of hidden units gives that with its 10.
    """
    return _network((_dense(12), _dense(outputs)))


def net3(outputs: int, *, axis_name: str | None = None) -> Stack:
    """Two locally connected layers: for 16 pixels, of 8 x 8 and of 4 x 4 units."""
    return _network((Local(1, 3), Local(1, 5), _dense(outputs)))


def net4(outputs: int, *, axis_name: str | None = None) -> Stack:
    """Shared weights in the first layer, of two maps; the second one locally connected."""
    return _network((Maps(2, 3), Local(1, 5), _dense(outputs)))


def net5(outputs: int, *, axis_name: str | None = None) -> Stack:
    """Shared weights in two layers, of two and of four maps."""
    return _network((Maps(2, 3), Maps(4, 5), _dense(outputs)))


def zip_code(outputs: int, *, axis_name: str | None = None, dropout: Scalar = 0.0) -> Stack:
    """The network for zip codes of 16 pixels: 12 maps, 12 maps that see 8 of them each, 30 units.

    The paper does not say which 8: here map i sees i … i + 7, counted around, so that each is seen
    as often as any other.
    """
    sources = tuple(tuple((i + k) % 12 for k in range(8)) for i in range(12))
    return _network(
        (Maps(12, 5), Maps(12, 5, sources), _dense(30), _dense(outputs)), dropout=dropout
    )


def lenet5(outputs: int, *, axis_name: str | None = None, dropout: Scalar = 0.0) -> Stack:
    """LeNet-5 for 28 or 32 pixels, with the layers of the paper up to its 84 units: means with
    trained scales for pooling, tanh, the paper's table of which map sees which. Then dense outputs
    in the place of distances to drawn digits."""
    threes = tuple(tuple(sorted((i + k) % 6 for k in range(3))) for i in range(6))
    fours = tuple(tuple(sorted((i + k) % 6 for k in range(4))) for i in range(6))
    sources = (*threes, *fours, (0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5), tuple(range(6)))
    maps = Maps(6, 5, None, False), Subsampling(), Maps(16, 5, sources, False), Subsampling()
    return _network((*maps, _dense(120), _dense(84), _dense(outputs)), dropout=dropout, side=32)
