"""Plain convolutional networks in the manner of AlexNet: convolutions, then dense layers.

Every layer is named for its depth (``conv1``, ``conv2``, …, ``fc5``, …) and any stretch of layers
can be applied alone: ``model.apply(variables, x, stop=3)`` gives the third layer's output, and
``model.apply(variables, h, start=3)`` continues from there.
"""

from functools import partial

import flax.linen as nn
from flax import struct
from jaxtyping import Array, Float

from jaxdl.nn import ops, pooling
from jaxdl.nn.layers import Dropout
from jaxdl.nn.models.staged import Stage, Staged
from jaxdl.types import AnyArray, Scalar

# He, Zhang, Ren & Sun 2015: variance 2 / fan-in keeps the scale of activations through ReLUs.
HE = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


@struct.dataclass
class Start:
    """Distribution of a layer's initial parameters."""

    deviation: float | None = None
    """Standard deviation of the kernel's normal distribution; None for He's, by fan-in."""
    level: float = 0.0
    """Initial value of the biases."""
    glorot: bool = False
    """Instead: uniform, by fan-in and fan-out (Glorot & Bengio 2010)."""

    @property
    def kernel(self) -> nn.initializers.Initializer:
        """Draws the weights."""
        if self.glorot:
            return nn.initializers.glorot_uniform()
        return HE if self.deviation is None else nn.initializers.normal(self.deviation)

    @property
    def bias(self) -> nn.initializers.Initializer:
        """Sets the biases."""
        return nn.initializers.constant(self.level)


STARTS = {"he": Start(), "glorot": Start(glorot=True), "small": Start(deviation=0.01)}


@struct.dataclass
class Conv:
    """One convolutional layer: ``respond(pool(relu(conv(x) + bias)))``, or, normalized,
    ``respond(pool(relu(norm(conv(x)))))``: normalization would take a bias off again."""

    features: int
    kernel: int = 3
    stride: int = 1
    padding: str = "SAME"
    pool: int = 1
    """The side of the pooling window; 1 is none."""
    pool_stride: int = 0
    """Between two windows; 0 for their side."""
    groups: int = 1
    response: bool = False
    """Local response normalization at the end."""


class ConvLayer(nn.Module):
    """A :class:`Conv` with its parameters."""

    spec: Conv
    start: Start
    batch_norm: bool = False
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Float[AnyArray, "b h w c"], train: bool) -> Float[Array, "b oh ow o"]:
        s = self.spec
        shape = (s.kernel, s.kernel, x.shape[-1] // s.groups, s.features)
        kernel = self.param("kernel", self.start.kernel, shape)
        x = ops.convolution(x, kernel, stride=s.stride, padding=s.padding, groups=s.groups)
        if self.batch_norm:
            norm = nn.BatchNorm(use_running_average=not train, axis_name=self.axis_name)
            x = nn.relu(norm(x))
        if s.pool > 1:
            x = pooling.max_pool(x, window=s.pool, stride=s.pool_stride or s.pool)
        if not self.batch_norm:  # bias and ReLU keep the order of numbers: there are fewer now
            bias = self.param("bias", self.start.bias, (s.features,))
            x = nn.relu(x + bias[None, None, None])
        return ops.local_response_normalization(x) if s.response else x


class DenseLayer(nn.Module):
    """``relu(x W + b)`` with dropout before it; the images are flattened where they arrive."""

    features: int
    start: Start
    last: bool = False
    dropout: Scalar = 0.0

    @nn.compact
    def __call__(self, x: Float[AnyArray, "b ..."], train: bool) -> Float[Array, "b o"]:
        x = x.reshape(x.shape[0], -1)
        x = Dropout(self.dropout, deterministic=not train)(x)
        kernel, bias = self.start.kernel, self.start.bias
        x = nn.Dense(self.features, kernel_init=kernel, bias_init=bias, name="dense")(x)
        return x if self.last else nn.relu(x)


class ConvNet(Staged):
    """Convolutions, then hidden dense layers, then the logits."""

    convolutions: tuple[Conv, ...]
    """The first layers."""
    hidden: tuple[int, ...]
    """Widths of the dense layers between them and the logits."""
    classes: int
    """Number of logits."""
    batch_norm: bool = False
    """Whether to normalize after each convolution, before its ReLU."""
    dropout: Scalar = 0.0
    """Dropout rate before each dense layer but the first, in training; may be traced."""
    starts: tuple[Start, ...] = ()
    """Distribution of each layer's initial parameters; empty for He's weights and no biases."""
    axis_name: str | None = None
    """The mesh axis over which batch statistics are averaged, under pmap and shard_map."""

    def stages(self) -> list[Stage]:
        """The layers, with their parameters."""
        starts = iter(self.starts or [Start()] * (len(self.convolutions) + len(self.hidden) + 1))
        norm = self.batch_norm, self.axis_name
        layers: list[Stage] = [
            ("conv", partial(ConvLayer, conv, next(starts), *norm)) for conv in self.convolutions
        ]
        for i, width in enumerate((*self.hidden, self.classes)):
            last, dropout = i == len(self.hidden), self.dropout if i else 0.0
            layers.append(("fc", partial(DenseLayer, width, next(starts), last, dropout)))
        return layers


def glyph_net(classes: int, **options) -> ConvNet:
    """Seven layers for 20 x 20 images: AlexNet's plan (a wide strided convolution, three of
    3 x 3, two dense layers, the logits) at a size that one core trains in two seconds, with
    batch normalization in the place of AlexNet's local response normalization."""
    convolutions = (
        Conv(16, kernel=6, stride=2, padding="VALID"),
        Conv(24, padding="VALID", pool=2),
        Conv(32),
        Conv(32),
    )
    return ConvNet(convolutions, (96, 96), classes, batch_norm=True, **options)


def digit_net(classes: int, **options) -> ConvNet:
    """Five layers for the 8 x 8 images of scikit-learn's digits."""
    return ConvNet((Conv(16), Conv(24, pool=2), Conv(32, pool=2)), (64,), classes, **options)


def linear(outputs: int, *, axis_name: str | None = None) -> ConvNet:
    """``x W + b`` of the flattened inputs, which begins at 0: linear regression with the squared
    error, logistic regression with the cross entropy, the perceptron with a loss that is 0 where
    the sign is right (Rosenblatt 1958)."""
    return ConvNet((), (), outputs, starts=(Start(deviation=0.0),), axis_name=axis_name)


def small_net(classes: int, **options) -> ConvNet:
    """The simple network of a first course, for images of 32 pixels: three convolutions of 3 x 3,
    each with batch normalization and pooling, and a dense layer."""
    convolutions = (Conv(32, pool=2), Conv(64, pool=2), Conv(128, pool=2))
    return ConvNet(convolutions, (128,), classes, batch_norm=True, **options)


def pairs_net(classes: int, **options) -> ConvNet:
    """Eight layers for images of 32 pixels, of high accuracy for what they cost: a convolution of
    2 x 2; three pairs of 3 x 3, with pooling after the first of each and, over 3 x 3, after the
    last; the logits. 1.97 million parameters.

    After Jordan, "94 % on CIFAR-10 in 3.29 seconds on a single GPU" (2024), with ReLU in the place
    of GELU, and a first layer that is trained in the place of one that whitens.
    """
    convolutions = (
        Conv(24, kernel=2, padding="VALID"),
        *(Conv(64, pool=2), Conv(64)),
        *(Conv(256, pool=2), Conv(256)),
        *(Conv(256, pool=2), Conv(256, pool=3)),
    )
    return ConvNet(convolutions, (), classes, batch_norm=True, **options)


def cifar_net(classes: int, **options) -> ConvNet:
    """Seven layers for images of 16 to 64 pixels: the plan of :func:`glyph_net`, wider."""
    convolutions = (
        Conv(24, kernel=6, stride=2, padding="VALID"),
        Conv(32, padding="VALID", pool=2),
        Conv(48),
        Conv(48, pool=2),
    )
    return ConvNet(convolutions, (96, 96), classes, batch_norm=True, **options)


def caffenet(classes: int, **options) -> ConvNet:
    """CaffeNet for 227 x 227 colour images (Jia et al. 2014), the network of Yosinski et al. 2014.

    AlexNet (Krizhevsky, Sutskever & Hinton 2012) in one column, with pooling before the response
    normalization; kernels and biases begin as in Caffe's own definition of it.
    """
    convolutions = (
        Conv(96, kernel=11, stride=4, padding="VALID", pool=3, pool_stride=2, response=True),
        Conv(256, kernel=5, pool=3, pool_stride=2, groups=2, response=True),
        Conv(384),
        Conv(384, groups=2),
        Conv(256, pool=3, pool_stride=2, groups=2),
    )
    levels = (0.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 0.0)
    deviations = (0.01, 0.01, 0.01, 0.01, 0.01, 0.005, 0.005, 0.01)
    starts = tuple(map(Start, deviations, levels))
    return ConvNet(convolutions, (4096, 4096), classes, dropout=0.5, starts=starts, **options)
