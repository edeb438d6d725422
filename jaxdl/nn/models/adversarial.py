"""Networks with one encoder and two heads, for the class of an image and for its domain.

The networks of Ganin & Lempitsky (ICML 2015; JMLR 2016, figure 4). The paper does not say how its
convolutions are padded: see ``padding``.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
from jaxtyping import Float

from jaxdl.nn.models.convnet import Conv, ConvLayer, DenseLayer, Start
from jaxdl.types import AnyArray, Scalar


class AdversarialNet(nn.Module):
    """Convolutions whose flattened output, the features, both heads read."""

    convolutions: tuple[Conv, ...]
    """Convolutions of the encoder."""
    hidden: tuple[int, ...]
    """Widths of the dense layers of the label head, before its logits."""
    domain_hidden: tuple[int, ...]
    """Widths of the domain head's hidden layers, before its one logit."""
    classes: int
    """Number of the label head's logits."""
    dropout: Scalar = 0.0
    """Dropout rate before each dense layer of the label head, in training; may be traced."""
    start: Start = Start()
    """Distribution of initial kernels and biases."""
    batch_norm: bool = False
    """Whether to normalize after each convolution; ``encode`` then needs ``train``."""
    axis_name: str | None = None
    """The mesh axis over which batch statistics are averaged, under pmap and shard_map."""

    def setup(self):
        """The layers, as Flax wants them where there are several methods."""
        norm = self.batch_norm, self.axis_name
        self.encoder = [ConvLayer(spec, self.start, *norm) for spec in self.convolutions]
        self.label_head = self._head((*self.hidden, self.classes), self.dropout)
        self.domain_head = self._head((*self.domain_hidden, 1), 0.0)

    def _head(self, widths: tuple[int, ...], dropout: Scalar) -> list[DenseLayer]:
        last = len(widths) - 1
        return [DenseLayer(width, self.start, i == last, dropout) for i, width in enumerate(widths)]

    def __call__(
        self,
        x: Float[AnyArray, "b h w c"],
        join: Callable[..., Any] = lambda features, logits: features,
    ) -> tuple[Float[AnyArray, "b k"], Float[AnyArray, " b"]]:
        """The logits of both heads, without dropout; ``join`` computes the domain head's input from
        features and logits."""
        features = self.encode(x)
        logits = self.classify(features)
        return logits, self.discriminate(join(features, logits))

    def encode(self, x: Float[AnyArray, "b h w c"], train: bool = False) -> Float[AnyArray, "b d"]:
        """The features of images; in training normalized by the batch's own statistics."""
        for layer in self.encoder:
            x = layer(x, train)
        return x.reshape(x.shape[0], -1)

    def classify(
        self, features: Float[AnyArray, "b d"], train: bool = False
    ) -> Float[AnyArray, "b k"]:
        """The logits of the classes; with dropout in training."""
        for layer in self.label_head:
            features = layer(features, train)
        return features

    def discriminate(self, features: Float[AnyArray, "b d"]) -> Float[AnyArray, " b"]:
        """The logit of "this is a source image"."""
        for layer in self.domain_head:
            features = layer(features, train=False)
        return features[:, 0]


def _padded(padding: str, *convolutions: Conv) -> tuple[Conv, ...]:
    return tuple(dataclasses.replace(convolution, padding=padding) for convolution in convolutions)


def dann_digits(classes: int, *, padding: str = "VALID", **options) -> AdversarialNet:
    """A small :func:`dann_mnist` for 16 pixels: c5-16 pool2 c3-32 pool2 | 64-k | 64-1."""
    convolutions = _padded(padding, Conv(16, kernel=5, pool=2), Conv(32, kernel=3, pool=2))
    return AdversarialNet(convolutions, (64,), (64,), classes, **options)


def dann_mnist(classes: int, *, padding: str = "VALID", **options) -> AdversarialNet:
    """DANN's network for digits of 28 or 32 pixels: c5-32 pool2 c5-48 pool2 | 100-100-k | 100-1.

    Without padding by default: no worse in our one comparison, at half the time a step.
    """
    convolutions = _padded(padding, Conv(32, kernel=5, pool=2), Conv(48, kernel=5, pool=2))
    return AdversarialNet(convolutions, (100, 100), (100,), classes, **options)


def dann_svhn(classes: int, *, padding: str = "SAME", **options) -> AdversarialNet:
    """DANN's network for house numbers of 32 pixels: c5-64 pool3/2 c5-64 pool3/2 c5-128 |
    3072-2048-k | 1024-1024-1, with dropout of .5.

    Padded: without it an image of 32 pixels ends before the third convolution.
    """
    pooled = Conv(64, kernel=5, pool=3, pool_stride=2)
    convolutions = _padded(padding, pooled, pooled, Conv(128, kernel=5))
    options = {"dropout": 0.5} | options
    return AdversarialNet(convolutions, (3072, 2048), (1024, 1024), classes, **options)


def dann_gtsrb(classes: int, *, padding: str = "VALID", **options) -> AdversarialNet:
    """DANN's network for traffic signs of 40 pixels: c5-96 pool2 c3-144 pool2 c5-256 pool2 | 512-k
    | 1024-1024-1."""
    convolutions = _padded(
        padding,
        Conv(96, kernel=5, pool=2),
        Conv(144, kernel=3, pool=2),
        Conv(256, kernel=5, pool=2),
    )
    return AdversarialNet(convolutions, (512,), (1024, 1024), classes, **options)
